//! Plans against etherparse: what comes out is a valid packet with the payload in order.

use std::os::fd::AsFd;
use std::sync::Arc;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use sharedmem::{Region, Slice};
use wire::Tag;
use wire::ip::TCP;

use super::*;
use crate::frame::Offload;
use crate::{BURST, DropReason};

pub(super) struct Memory(Arc<Region>);

impl Memory {
    pub(super) fn new() -> Memory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        Memory(Region::map(file.as_fd(), 0, 1 << 20, true).unwrap())
    }

    /// `frame` cut at `cuts` into pieces that lie apart in memory.
    pub(super) fn scatter(&self, frame: &[u8], cuts: &[usize]) -> Vec<Slice<'_>> {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (frame.len() + 1)).collect();
        cuts.extend([0, frame.len()]);
        cuts.sort_unstable();
        let mut at = 0;
        cuts.windows(2)
            .map(|w| {
                let part = &frame[w[0]..w[1]];
                let slice = self.0.slice(at, part.len()).unwrap();
                assert!(slice.write_at(0, part));
                at += part.len() + 13;
                slice
            })
            .collect()
    }

    pub(super) fn room(&self, len: usize, first: usize) -> Vec<Slice<'_>> {
        let first = first.min(len);
        vec![self.0.slice(1 << 19, first).unwrap(), self.0.slice((1 << 19) + 70_001, len - first).unwrap()]
    }
}

pub(super) fn read(room: &[Slice<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in room {
        let mut part = vec![0; piece.len()];
        assert!(piece.read_at(0, &mut part));
        out.extend(part);
    }
    out
}

fn tcp(v6: bool, payload: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut out = Vec::new();
    match v6 {
        false => eth
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 0xffff_fff0, 9000)
            .psh()
            .fin()
            .ack(7)
            .write(&mut out, payload)
            .unwrap(),
        true => eth
            .ipv6([1; 16], [2; 16], 64)
            .tcp(1, 2, 0xffff_fff0, 9000)
            .psh()
            .fin()
            .ack(7)
            .write(&mut out, payload)
            .unwrap(),
    }
    out
}

/// A checksum as a sum that is never written as zero has it: the two zeros of ones' complement are equal.
fn never_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// The TCP checksum is right, by etherparse's own sum.
fn assert_tcp_valid(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(slice)) = packet.transport else { panic!("not TCP") };
    let header = slice.to_header();
    let want = match packet.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            header.calc_checksum_ipv4(&ip.header().to_header(), slice.payload()).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), slice.payload()).unwrap(),
        _ => panic!("not IP"),
    };
    assert_eq!(never_zero(slice.checksum()), never_zero(want));
    slice.payload().to_vec()
}

proptest! {
    #[test]
    fn segmentation_makes_valid_packets(v6: bool, len in 1usize..20_000, mss in 64u16..9000, cuts in proptest::collection::vec(0usize..20_000, 0..6), first in 0usize..9000, tagged: bool, in_band: bool) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut bytes = tcp(v6, &payload);
        let header = bytes.len() - len;
        let extra = if in_band { 4 } else { 0 };
        if in_band {
            bytes.splice(12..12, Tag::new(9, 2).bytes());
        }
        let memory = Memory::new();
        let pieces = memory.scatter(&bytes, &cuts);
        let mut burst = Burst::new();
        burst.push(&pieces, None, Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, (header + extra) as u16)) });
        prop_assert_eq!(burst.frames().len(), 1);
        prop_assert_eq!(burst.frames()[0].tag(), in_band.then(|| Tag::new(9, 2)));
        let delivery = Delivery::new(0, tagged.then(|| Tag::new(10, 3)));
        let plan = Plan::new(&burst, &delivery, Caps { pad: true, ..Caps::default() }).unwrap();
        prop_assert_eq!(plan.count() as usize, len.div_ceil(usize::from(mss)));
        let mut got = Vec::new();
        for i in 0..plan.count() {
            let room = memory.room(plan.len(i), first);
            prop_assert!(plan.write(i, &room));
            let mut frame = read(&room);
            if tagged {
                prop_assert_eq!(&frame[12..16], &Tag::new(10, 3).bytes()[..]);
                frame.drain(12..16);
            }
            let part = assert_tcp_valid(&frame);
            let flags = frame[if v6 { 54 } else { 34 } + 13];
            prop_assert_eq!(flags & 9 == 9, i + 1 == plan.count());
            let seq = u32::from_be_bytes(frame[if v6 { 58 } else { 38 }..][..4].try_into().unwrap());
            prop_assert_eq!(seq, 0xffff_fff0u32.wrapping_add(got.len() as u32));
            got.extend(part);
        }
        prop_assert_eq!(got, payload);
    }

    #[test]
    fn checksums_are_filled_in_the_copy(v6: bool, len in 0usize..3000, cuts in proptest::collection::vec(0usize..3000, 0..6), first in 0usize..200) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
        let mut whole = tcp(v6, &payload);
        let l4 = if v6 { 54 } else { 34 };
        let sum = never_zero(u16::from_be_bytes([whole[l4 + 16], whole[l4 + 17]]));
        whole[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = whole.clone();
        let t = Transport::parse(&bytes).unwrap();
        let pseudo = pseudo_header(t.addresses(&bytes), TCP, (bytes.len() - l4) as u32).folded();
        bytes[l4 + 16..l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
        let memory = Memory::new();
        let mut burst = Burst::new();
        burst.push(&memory.scatter(&bytes, &cuts), None, Offload { csum: Csum::Fill { start: l4 as u16, at: (l4 + 16) as u16 }, gso: None });
        let plan = Plan::new(&burst, &Delivery::new(0, None), Caps::default()).unwrap();
        let room = memory.room(plan.len(0), first);
        prop_assert!(plan.write(0, &room));
        prop_assert_eq!(read(&room), whole);
        prop_assert_eq!(plan.csum(), Csum::Good);
    }

    /// Whatever a guest asks for, the frame is taken or named, and writing stays in bounds.
    #[test]
    fn hostile_requests_are_named(bytes in proptest::collection::vec(any::<u8>(), 0..400), start: u16, at: u16, mss: u16, header: u16, gso: bool, cuts in proptest::collection::vec(0usize..400, 0..4)) {
        let memory = Memory::new();
        let mut burst = Burst::new();
        burst.push(&memory.scatter(&bytes, &cuts), None, Offload { csum: Csum::Fill { start, at }, gso: gso.then_some(Gso::tcp(mss, header)) });
        prop_assert_eq!(burst.harvested(), 1);
        if let Some(plan) = Plan::new(&burst, &Delivery::new(0, Some(Tag::new(1, 0))), Caps { pad: true, ..Caps::default() }) {
            for i in 0..plan.count() {
                prop_assert!(plan.write(i, &memory.room(plan.len(i), 100)));
                prop_assert!(!plan.write(i, &memory.room(plan.len(i) - 1, 100)));
            }
        }
    }
}

#[test]
fn short_frames_are_padded_and_runts_named() {
    let memory = Memory::new();
    let mut burst = Burst::new();
    burst.push(&memory.scatter(&[2; 20], &[]), None, Offload::default());
    burst.push(&memory.scatter(&[2; 13], &[]), None, Offload::default());
    assert_eq!(burst.rejected(), &[(DropReason::Runt, 13)]);
    let plan = Plan::new(&burst, &Delivery::new(0, None), Caps { pad: true, ..Caps::default() }).unwrap();
    let room = memory.room(60, 30);
    assert!(plan.write(0, &room));
    assert_eq!(read(&room), [&[2; 20][..], &[0; 40][..]].concat());
}

#[test]
fn what_the_peer_can_do_is_left_to_it() {
    let memory = Memory::new();
    let bytes = tcp(false, &[1; 5000]);
    let mut burst = Burst::new();
    burst.push(&memory.scatter(&bytes, &[]), None, Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(1448, 54)) });
    let delivery = Delivery::new(0, Some(Tag::new(10, 0)));
    let plan = Plan::new(&burst, &delivery, Caps { csum: true, tso: true, uso: true, tag: false, pad: true }).unwrap();
    assert_eq!((plan.count(), plan.len(0)), (1, bytes.len() + 4));
    assert_eq!(plan.gso(), Some(Gso::tcp(1448, 58)));
    assert_eq!(plan.csum(), Csum::Fill { start: 38, at: 54 });
    let room = memory.room(plan.len(0), 100);
    assert!(plan.write(0, &room));
    let got = read(&room);
    assert!(got[16..54] == bytes[12..50] && got[56..] == bytes[52..], "all but the checksum field as sent");
    let pseudo = pseudo_header(&bytes[26..34], TCP, (bytes.len() - 34) as u32).folded();
    assert_eq!(got[54..56], pseudo.to_be_bytes(), "which holds the pseudo header's sum, with the length");
}

#[test]
fn a_full_burst_says_so() {
    let memory = Memory::new();
    let mut burst = Burst::new();
    let pieces = memory.scatter(&[2; 64], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    let mut n = 0;
    while burst.has_room() {
        burst.push(&pieces, None, Offload::default());
        n += 1;
    }
    assert!(n < BURST && burst.frames().len() == n);
}

/// Every peer, with and without a request to cut, with and without a tag: what is left to it, and the bytes.
#[test]
fn each_peer_is_left_what_it_can_do() {
    let memory = Memory::new();
    for (bits, v6, cut, tagged) in (0..16).flat_map(|b| (0..8).map(move |k| (b, k & 1 > 0, k & 2 > 0, k & 4 > 0))) {
        let [csum, tso, tag, pad] = [0, 1, 2, 3].map(|bit| bits >> bit & 1 == 1);
        let caps = Caps { csum, tso, uso: !tso, tag, pad };
        let l4: u16 = if v6 { 54 } else { 34 };
        let mut bytes = tcp(v6, &[1; 1500]);
        let whole = bytes.clone();
        let t = Transport::parse(&bytes).unwrap();
        let pseudo = pseudo_header(t.addresses(&bytes), TCP, (bytes.len() - t.l4) as u32).folded().to_be_bytes();
        bytes[t.l4 + 16..t.l4 + 18].copy_from_slice(&pseudo);
        let asked = Csum::Fill { start: l4, at: l4 + 16 };
        let gso = cut.then_some(Gso::tcp(700, l4 + 20));
        let mut burst = Burst::new();
        burst.push(&memory.scatter(&bytes, &[100]), None, Offload { csum: asked, gso });
        let delivery = Delivery::new(0, tagged.then(|| Tag::new(7, 1)));
        let plan = Plan::new(&burst, &delivery, caps).unwrap();
        let shift = if tagged && !tag { 4 } else { 0 };
        let case = format!("{caps:?}, v6 {v6}, cut {cut}, tagged {tagged}");

        let left = if cut { tso } else { csum };
        assert_eq!(plan.count(), if cut && !tso { 3 } else { 1 }, "{case}");
        assert_eq!(plan.gso(), gso.filter(|_| tso).map(|g| Gso { header: g.header + shift, ..g }), "{case}");
        let fill = Csum::Fill { start: l4 + shift, at: l4 + 16 + shift };
        assert_eq!(plan.csum(), if left { fill } else { Csum::Good }, "{case}");
        assert_eq!(plan.side_tag(), delivery.tag().filter(|_| tag), "{case}");
        let mut payload = Vec::new();
        for i in 0..plan.count() {
            let room = memory.room(plan.len(i), 30);
            assert!(plan.write(i, &room));
            let mut frame = read(&room);
            if shift > 0 {
                assert_eq!(frame.drain(12..16).collect::<Vec<_>>(), Tag::new(7, 1).bytes(), "{case}");
            }
            match left {
                true => assert!(frame == bytes, "as the sender has it: {case}"),
                false if !cut => assert!(frame == whole, "complete: {case}"),
                false => payload.extend(assert_tcp_valid(&frame)),
            }
        }
        assert!(!cut || left || payload == [1; 1500], "{case}");
    }
}

/// Offsets in a frame as it came from outside, tag and all, are those of the frame without it; and again with it
/// where it goes in again.
#[test]
fn a_request_keeps_its_place_when_the_tag_goes_and_comes() {
    let memory = Memory::new();
    let mut bytes = tcp(false, &[3; 3000]);
    bytes.splice(12..12, Tag::new(9, 2).bytes());
    let mut burst = Burst::new();
    let offload = Offload { csum: Csum::Fill { start: 38, at: 54 }, gso: Some(Gso::tcp(1000, 58)) };
    burst.push(&memory.scatter(&bytes, &[13, 15, 40]), None, offload);
    for (tag, caps, shift) in [
        (None, Caps { csum: true, tso: true, uso: true, tag: true, pad: false }, 0),
        (Some(Tag::new(9, 2)), Caps { csum: true, tso: true, uso: true, tag: true, pad: false }, 0),
        (Some(Tag::new(9, 2)), Caps { csum: true, tso: true, uso: true, tag: false, pad: true }, 4),
    ] {
        let plan = Plan::new(&burst, &Delivery::new(0, tag), caps).unwrap();
        assert_eq!(plan.csum(), Csum::Fill { start: 34 + shift, at: 50 + shift });
        assert_eq!(plan.gso(), Some(Gso::tcp(1000, 54 + shift)));
        let room = memory.room(plan.len(0), 20);
        assert!(plan.write(0, &room));
        let got = read(&room);
        let at = usize::from(shift);
        assert_eq!(got.len(), 3054 + at);
        assert!(got[..12] == bytes[..12] && got[12 + at..50 + at] == bytes[16..54] && got[52 + at..] == bytes[56..]);
    }
}
