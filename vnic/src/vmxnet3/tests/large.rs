//! Large segments that go whole to a driver that takes them.

use dataplane::{Csum, DropReason, Gso, Offload};
use wire::Tag;

use super::driver::*;
use crate::vmxnet3::commands::{GET_STATS, UPDATE_FEATURE};
use crate::vmxnet3::shared_area::{at, feature, queue};

const SUMS_GOOD: u32 = 1 << 16 | 1 << 18 | 1 << 19 | 1 << 21;
const ALL: u64 = feature::RX_CSUM | feature::RX_VLAN | feature::LRO;

fn options() -> Options {
    Options { revision: 2, features: ALL, max_pieces: 18, ..Options::default() }
}

/// A request to cut `payload` bytes into segments of `mss`.
fn request(v6: bool, payload: usize, mss: u16) -> (Vec<u8>, Offload) {
    let header = if v6 { 74 } else { 54 };
    (tcp(v6, payload), Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, header)) })
}

#[test]
fn a_segment_arrives_whole_with_its_parts_told() {
    let mut guest = Guest::started(options());
    let source = Source::new(&[request(false, 60_000, 1400), request(true, 3000, 1380), request(false, 2000, 1000)]);
    let tally = guest.deliver(&source, Some(Tag(0x6064)));
    assert_eq!(tally.frames(), 3);
    let got = guest.receive();
    let told: Vec<_> = got.iter().map(|frame| frame.large).collect();
    assert_eq!(told, [Some((43, 1400)), Some((3, 1380)), Some((2, 1000))]);
    for (frame, (v6, payload)) in got.iter().zip([(false, 60_000), (true, 3000), (false, 2000)]) {
        let header = if v6 { 74 } else { 54 };
        assert_eq!((frame.tag, frame.data.len()), (Some(Tag(0x6064)), header + payload));
        assert_eq!(frame.data[header..], tcp(v6, payload)[header..]);
        assert_eq!(frame.word0 >> 30 & 1, 0, "something is told of the sums");
    }
    assert_eq!(got[0].word3 & 0x7f << 16, SUMS_GOOD);
    let total = u16::from_be_bytes([got[0].data[16], got[0].data[17]]);
    assert_eq!((total, wire::checksum::sum_be(&got[0].data[14..34])), (60_040, 0xffff), "the IP header is right");
    guest.command(GET_STATS);
    let stat = |i: u64| guest.get64(QUEUES + 256 + u64::from(queue::STATS) + i * 8);
    assert_eq!((stat(0), stat(1)), (3, 60_054 + 3074 + 2054));
}

#[test]
fn what_cannot_be_told_is_cut() {
    let frames = |guest: &mut Guest, request: (Vec<u8>, Offload), tag| {
        guest.deliver(&Source::new(&[request]), tag);
        let got = guest.receive();
        assert!(got.iter().all(|frame| frame.large.is_none()));
        got.len()
    };
    let mut guest = Guest::started(Options { rx_sizes: [512, 32], rx_completions: 544, ..options() });
    assert_eq!(frames(&mut guest, request(false, 25_600, 100), None), 256, "more than a byte can say");
    let mut old = Guest::started(Options { revision: 1, ..options() });
    assert_eq!(frames(&mut old, request(false, 2000, 1000), None), 2, "revision 1 hears of no segments");
    for features in [ALL & !feature::LRO, ALL & !feature::RX_CSUM] {
        let mut guest = Guest::started(options());
        guest.put64(AREA + u64::from(at::FEATURES), features);
        guest.command(UPDATE_FEATURE);
        assert_eq!(frames(&mut guest, request(false, 2000, 1000), None), 2);
    }
    let mut inline = Guest::started(Options { features: ALL & !feature::RX_VLAN, ..options() });
    assert_eq!(frames(&mut inline, request(false, 2000, 1000), Some(Tag(100))), 2, "its headers are behind a tag");
}

/// A driver of vmxnet3 can be told of TCP segments only.
#[test]
fn datagrams_under_one_header_are_cut() {
    let mut bytes = tcp(false, 3000);
    bytes[23] = 17;
    bytes.drain(42..54);
    bytes[38..40].copy_from_slice(&3008u16.to_be_bytes());
    let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::udp(1400, 42)) };
    let mut guest = Guest::started(options());
    assert_eq!(guest.deliver(&Source::new(&[(bytes.clone(), offload)]), None).frames(), 3);
    let got = guest.receive();
    assert!(got.iter().all(|frame| frame.large.is_none()));
    assert_eq!(got.iter().map(|frame| frame.data.len()).collect::<Vec<_>>(), [1442, 1442, 242]);
    assert_eq!(got.iter().flat_map(|frame| &frame.data[42..]).copied().collect::<Vec<_>>(), bytes[42..]);
    for frame in got {
        let mut sum = wire::checksum::pseudo_header(&frame.data[26..34], 17, (frame.data.len() - 34) as u32);
        sum.add(&frame.data[34..]);
        assert_eq!((sum.folded(), wire::checksum::sum_be(&frame.data[14..34])), (0xffff, 0xffff));
    }
}

#[test]
fn it_takes_no_more_buffers_than_the_driver_says() {
    // 14 buffers: a HEAD of 1522 bytes and 13 BODYs of 4094.
    let fits = 1522 + 13 * 4094 - 54;
    let mut guest = Guest::started(Options { max_pieces: 14, ..options() });
    let tally = guest.deliver(&Source::new(&[request(false, fits, 1400), request(false, fits + 1, 1400)]), None);
    assert_eq!((tally.frames(), tally.drops(DropReason::Oversize)), (1, 1));
    assert_eq!(guest.receive()[0].buffers.len(), 14);
    // A driver that did not say, because LRO was turned on later: 18.
    let mut late = Guest::started(Options { max_pieces: 1, ..options() });
    assert_eq!(late.deliver(&Source::new(&[request(false, fits + 1, 1400)]), None).frames(), 1);
    assert_eq!(late.receive()[0].buffers.len(), 15);
}

#[test]
fn hashes_of_large_segments_are_told_at_their_end() {
    let rss = Some((15, vec![0, 1]));
    let mut guest =
        Guest::started(Options { rx_queues: 2, features: ALL | feature::RSS, rss, revision: 7, ..options() });
    guest.deliver(&Source::new(&[request(false, 20_000, 1400), request(false, 1400, 700)]), None);
    let got: Vec<Received> = (0..2).flat_map(|q| guest.receive_on(q)).collect();
    assert_eq!(got.iter().map(|f| f.large).collect::<Vec<_>>(), [Some((15, 1400)), Some((2, 700))]);
    assert_eq!((got[0].hash.0, got[1].hash), (2, (0, 2)), "in one buffer the number of segments has its place");
}
