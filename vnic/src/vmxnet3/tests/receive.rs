//! From the switch into the rings.

use dataplane::{Csum, DropReason, Gso, Offload, Tally};
use wire::{Mac, Tag};

use super::driver::*;
use crate::vmxnet3::commands;
use crate::vmxnet3::shared_area::queue;

const NO_CSUM: u32 = 1 << 30;
const L4_GOOD: u32 = 1 << 16;
const TCP: u32 = 1 << 18;
const IP_GOOD: u32 = 1 << 19;
const V6: u32 = 1 << 20;
const V4: u32 = 1 << 21;

fn flags(word3: u32) -> u32 {
    word3 & (0x7f << 16)
}

#[test]
fn a_frame_arrives_padded_with_one_interrupt() {
    let mut guest = Guest::started(Options::default());
    let frames =
        [ether(MAC, PEER, 20, 1), ether(Mac::BROADCAST, PEER, 1514, 2), ether(Mac([1, 0, 0x5e, 0, 0, 1]), PEER, 60, 3)];
    let tally = guest.deliver(&Source::plain(&frames), None);
    assert_eq!(tally.frames(), 3);
    let got = guest.receive();
    assert_eq!(got.len(), 3);
    assert_eq!((got[0].data.len(), &got[0].data[..20]), (60, &frames[0][..]));
    assert_eq!((&got[1].data, got[1].tag), (&frames[1], None));
    assert_eq!(got[1].word0 & NO_CSUM, NO_CSUM);
    assert_eq!(flags(got[1].word3), 0);
    assert_eq!((guest.interrupts(1), guest.mask(1)), (1, 1));
    guest.command(commands::GET_STATS);
    let stat = |i: u64| guest.get64(QUEUES + 256 + u64::from(queue::STATS) + i * 8);
    let all: Vec<u64> = (2..10).map(stat).collect();
    assert_eq!(all, [1, 60, 1, 60, 1, 1514, 0, 0]);
}

#[test]
fn rings_wrap_and_generations_flip() {
    let mut guest = Guest::started(Options { rx_sizes: [32, 32], rx_completions: 64, ..Options::default() });
    let mut seen = 0u32;
    for round in 0..60u8 {
        let frames: Vec<Vec<u8>> = (0..11).map(|i| ether(MAC, PEER, 60 + i, round)).collect();
        assert_eq!(guest.deliver(&Source::plain(&frames), None).frames(), 11);
        for (got, frame) in guest.receive().iter().zip(&frames) {
            assert_eq!(&got.data, frame);
            assert_eq!(got.buffers, [(0, seen % 32)]);
            seen += 1;
        }
    }
    assert_eq!(seen, 660);
}

#[test]
fn a_full_ring_drops_and_recovers() {
    let mut guest = Guest::started(Options { rx_sizes: [32, 0], rx_completions: 32, ..Options::default() });
    let frames: Vec<Vec<u8>> = (0..32).map(|i| ether(MAC, PEER, 100, i)).collect();
    let tally = guest.deliver(&Source::plain(&frames), None);
    assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (31, 1), "one descriptor is kept back");
    let tally = guest.deliver(&Source::plain(&frames), None);
    assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (0, 32));
    assert_eq!(guest.receive().len(), 31);
    assert_eq!(guest.deliver(&Source::plain(&frames[..9]), None).frames(), 9);
    assert_eq!(guest.receive()[8].data, frames[8]);
    guest.command(commands::GET_STATS);
    assert_eq!(guest.get64(QUEUES + 256 + u64::from(queue::STATS) + 64), 33, "no buffer");
}

#[test]
fn completions_are_not_overrun() {
    let options = Options { rx_sizes: [64, 32], rx_completions: 32, mtu: 9000, ..Options::default() };
    let mut guest = Guest::started(options);
    let frames: Vec<Vec<u8>> = (0..32).map(|i| ether(MAC, PEER, 100, i)).collect();
    let mut seen = 0;
    for round in 0..20 {
        let tally = guest.deliver(&Source::plain(&frames), None);
        // One descriptor per ring is never given, and one only with the next: neither can be told from a completion
        // that is still to be read.
        assert_eq!(tally.frames(), if round == 0 { 30 } else { 28 });
        assert_eq!(guest.deliver(&Source::plain(&frames[..1]), None).drops(DropReason::RingFull), 1);
        seen += guest.receive().len();
        let long = Source::plain(&(0..10).map(|i| ether(MAC, PEER, 9014, i)).collect::<Vec<_>>());
        assert_eq!(guest.deliver(&long, None).frames(), 9, "three completions each");
        assert_eq!(guest.receive().len(), 9);
    }
    assert_eq!(seen, 30 + 19 * 28);
}

#[test]
fn a_driver_that_looks_all_the_time_sees_whole_frames_only() {
    let mut guest = Guest::started(jumbo());
    let egress = guest.egress.clone();
    let worker = std::thread::spawn(move || {
        let source = Source::plain(&[ether(MAC, PEER, 9014, 1)]);
        (0..20_000).map(|_| deliver(&*egress, &source, None).frames()).sum::<u64>()
    });
    let mut seen = 0;
    while !worker.is_finished() {
        seen += guest.receive().len() as u64;
    }
    seen += guest.receive().len() as u64;
    assert_eq!(seen, worker.join().unwrap());
    assert!(seen > 30);
}

fn jumbo() -> Options {
    // As Linux lays its rings out for MTU 9000.
    Options { rx_sizes: [96, 96], rx_completions: 192, mtu: 9000, head_len: 3072, per_frame: 3, ..Options::default() }
}

#[test]
fn jumbo_frames_use_the_bodies_of_ring_1_and_short_ones_skip_them() {
    let mut guest = Guest::started(jumbo());
    for round in 0..40u8 {
        let frames = [ether(MAC, PEER, 9014, round), ether(MAC, PEER, 60, round), ether(MAC, PEER, 5000, round)];
        assert_eq!(guest.deliver(&Source::plain(&frames), None).frames(), 3);
        let got = guest.receive();
        assert_eq!(got.iter().map(|g| g.data.clone()).collect::<Vec<_>>(), frames);
        assert_eq!(got.iter().map(|g| g.buffers.len()).collect::<Vec<_>>(), [3, 1, 2]);
        assert!(got.iter().all(|g| g.buffers[0].1 % 3 == 0 && g.buffers.iter().all(|b| b.0 == 0)));
    }
}

#[test]
fn long_frames_go_on_in_ring_2() {
    let mut guest = Guest::started(Options { mtu: 9000, ..Options::default() });
    let frames = [ether(MAC, PEER, 9014, 1), ether(MAC, PEER, 1514, 2)];
    assert_eq!(guest.deliver(&Source::plain(&frames), None).frames(), 2);
    let got = guest.receive();
    assert_eq!(got.iter().map(|g| g.data.clone()).collect::<Vec<_>>(), frames);
    assert_eq!(got[0].buffers, [(0, 0), (1, 0), (1, 1)]);
    let many: Vec<Vec<u8>> = (0..32).map(|i| ether(MAC, PEER, 9014, i)).collect();
    let tally = guest.deliver(&Source::plain(&many), None);
    assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (15, 17), "two of 31 bodies each");
    let got = guest.receive();
    assert_eq!(got.len(), 15);
    assert_eq!(got[14].data, many[14]);
}

#[test]
fn what_does_not_fit_is_oversize() {
    let guest = Guest::started(Options::default());
    let tally = guest.deliver(&Source::plain(&[ether(MAC, PEER, 1523, 1), ether(MAC, PEER, 1522, 1)]), None);
    assert_eq!((tally.frames(), tally.drops(DropReason::Oversize)), (1, 1), "the payload size");
    let guest = Guest::started(Options { mtu: 9000, rx_sizes: [64, 0], rx_completions: 64, ..Options::default() });
    let tally = guest.deliver(&Source::plain(&[ether(MAC, PEER, 1600, 1)]), None);
    assert_eq!(tally.drops(DropReason::Oversize), 1, "no ring 2");
    let guest = Guest::started(Options { mtu: 600, ..Options::default() });
    assert_eq!(guest.deliver(&Source::plain(&[ether(MAC, PEER, 1514, 1)]), None).frames(), 1);
}

#[test]
fn tags_are_stripped_or_inline() {
    let mut guest = Guest::started(Options::default());
    let frame = ether(MAC, PEER, 100, 1);
    guest.deliver(&Source::plain(std::slice::from_ref(&frame)), Some(Tag(0x6064)));
    let got = guest.receive();
    assert_eq!((got[0].tag, &got[0].data), (Some(Tag(0x6064)), &frame));
    // ethtool -K rxvlan off
    guest.put64(AREA + 24, 1);
    guest.command(commands::UPDATE_FEATURE);
    guest.deliver(&Source::new(&[(tcp(false, 100), fill(false))]), Some(Tag(0x6064)));
    let got = guest.receive();
    assert_eq!((got[0].tag, &got[0].data[12..16]), (None, &[0x81, 0, 0x60, 0x64][..]));
    assert_eq!((got[0].word0 & NO_CSUM, flags(got[0].word3)), (NO_CSUM, 0));
}

#[test]
fn checksums_are_claimed_only_where_known() {
    let mut guest = Guest::started(Options::default());
    let good = Offload { csum: Csum::Good, gso: None };
    let elsewhere = Offload { csum: Csum::Fill { start: 36, at: 52 }, gso: None };
    let mut broken_ip = tcp(false, 100);
    broken_ip[24] ^= 1;
    let mut fragment = tcp(false, 100);
    fragment[20] |= 0x20;
    let source = Source::new(&[
        (tcp(false, 100), fill(false)),
        (tcp(true, 100), fill(true)),
        (tcp(false, 100), good),
        (tcp(false, 100), Offload::default()),
        (broken_ip, fill(false)),
        (tcp(false, 100), elsewhere),
        (fragment, good),
        (ether(MAC, PEER, 100, 1), good),
    ]);
    assert_eq!(guest.deliver(&source, None).frames(), 8);
    let got = guest.receive();
    assert!(tcp_sum_good(&got[0].data, false) && tcp_sum_good(&got[1].data, true));
    let claims: Vec<(bool, u32)> = got.iter().map(|g| (g.word0 & NO_CSUM != 0, flags(g.word3))).collect();
    let v4 = (false, V4 | TCP | L4_GOOD | IP_GOOD);
    let none = (true, 0);
    let expected = [v4, (false, V6 | TCP | L4_GOOD), v4, none, (false, V4 | TCP | L4_GOOD), none, none, none];
    assert_eq!(claims, expected);
    // ethtool -K rx off
    guest.put64(AREA + 24, 4);
    guest.command(commands::UPDATE_FEATURE);
    guest.deliver(&Source::new(&[(tcp(false, 100), fill(false))]), None);
    let got = guest.receive();
    assert_eq!((got[0].word0 & NO_CSUM, flags(got[0].word3)), (NO_CSUM, 0));
}

#[test]
fn segments_are_cut_summed_and_counted() {
    for v6 in [false, true] {
        let mut guest = Guest::started(Options::default());
        let header: usize = if v6 { 74 } else { 54 };
        let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(1400, header as u16)) };
        let source = Source::new(&[(tcp(v6, 60_000), offload), (tcp(v6, 10), fill(v6))]);
        let tally = guest.deliver(&source, None);
        assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (44, 0));
        let mut expected = Tally::new();
        expected.segmented(43);
        (0..42).for_each(|_| expected.delivered(header + 1400));
        expected.delivered(header + 60_000 - 42 * 1400);
        expected.delivered((header + 10).max(60));
        assert_eq!(tally, expected);
        let got = guest.receive();
        assert_eq!(got.len(), 44);
        let mut payload: Vec<u8> = Vec::new();
        for g in &got[..43] {
            assert!(tcp_sum_good(&g.data, v6));
            assert_eq!(flags(g.word3) & L4_GOOD, L4_GOOD);
            payload.extend(&g.data[header..]);
        }
        assert!(payload == tcp(v6, 60_000)[header..]);
    }
}

#[test]
fn a_buffer_nowhere_is_returned_with_an_error() {
    let mut guest = Guest::started(Options::default());
    // The first descriptor's address goes astray.
    let ring = guest.get64(QUEUES + 256 + u64::from(queue::RING));
    let right = guest.get64(ring);
    guest.put64(ring, 0x10);
    let source = Source::plain(&[ether(MAC, PEER, 100, 1), ether(MAC, PEER, 100, 2)]);
    let tally = guest.deliver(&source, None);
    assert_eq!((tally.frames(), tally.drops(DropReason::BadDescriptor)), (1, 1));
    guest.put64(ring, right);
    let got = guest.receive();
    assert_eq!((got[0].error, got[1].error), (true, false));
    assert_eq!(got[1].data, ether(MAC, PEER, 100, 2));
}

#[test]
fn a_card_not_started_or_without_link_takes_nothing() {
    let mut guest = Guest::new(Options::default());
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
    guest.lay_out();
    guest.activate();
    guest.state.set_link_up(false);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::PortBlocked), 1);
    guest.state.set_link_up(true);
    assert_eq!(guest.deliver(&source, None).frames(), 1);
}

#[test]
fn several_workers_deliver_at_once() {
    let mut guest = Guest::started(Options { rx_sizes: [256, 32], rx_completions: 288, ..Options::default() });
    for round in 0..20u8 {
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                let egress = guest.egress.clone();
                scope.spawn(move || {
                    let frames: Vec<Vec<u8>> =
                        (0..30).map(|i| ether(MAC, PEER, 60 + usize::from(worker) * 50 + i, round)).collect();
                    assert_eq!(deliver(&*egress, &Source::plain(&frames), None).frames(), 30);
                });
            }
        });
        let mut lens: Vec<usize> = guest
            .receive()
            .iter()
            .map(|g| {
                assert_eq!(g.data, ether(MAC, PEER, g.data.len(), round));
                g.data.len()
            })
            .collect();
        lens.sort_unstable();
        let expected: Vec<usize> = (0..4).flat_map(|w| (0..30).map(move |i| 60 + w * 50 + i)).collect();
        assert_eq!(lens, expected);
    }
}
