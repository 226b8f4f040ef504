//! UDP datagrams under one header, against a reference that builds each of them by itself with etherparse.

use etherparse::{IpHeaders, Ipv4Header, Ipv4Options, Ipv6Header, PacketBuilder};
use proptest::prelude::*;
use wire::Tag;
use wire::ip::{TCP, UDP};

use super::tests::{Memory, read};
use super::*;
use crate::DropReason;
use crate::frame::Offload;

/// What stands above the datagrams.
#[derive(Clone, Copy, Debug)]
enum Ip {
    V4 { id: u16, options: u8 },
    V6,
}

impl Ip {
    fn len(self) -> usize {
        match self {
            Ip::V4 { options, .. } => 20 + usize::from(options) * 4,
            Ip::V6 => 40,
        }
    }
}

/// One datagram, complete; it is the `nth` of its sender.
fn datagram(ip: Ip, nth: u16, payload: &[u8]) -> Vec<u8> {
    let headers = match ip {
        Ip::V4 { id, options } => {
            let mut header = Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            header.identification = id.wrapping_add(nth);
            // Nothing but "no operation".
            header.options = Ipv4Options::try_from(&vec![1; usize::from(options) * 4][..]).unwrap();
            IpHeaders::Ipv4(header, Default::default())
        }
        Ip::V6 => {
            let header = Ipv6Header { source: [1; 16], destination: [2; 16], hop_limit: 64, ..Default::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
    };
    let mut out = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    ethernet.ip(headers).udp(7000, 7001).write(&mut out, payload).unwrap();
    out
}

/// The plain reference: every part of the payload under headers of its own.
fn cut(ip: Ip, payload: &[u8], mss: u16) -> Vec<Vec<u8>> {
    payload.chunks(mss.into()).enumerate().map(|(i, part)| datagram(ip, i as u16, part)).collect()
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(MIN_FRAME), 0);
    frame
}

fn ip() -> impl Strategy<Value = Ip> {
    prop_oneof![(any::<u16>(), 0u8..=10).prop_map(|(id, options)| Ip::V4 { id, options }), Just(Ip::V6)]
}

/// What is asked of `bytes`.
fn asked(mss: u16, header: usize) -> Offload {
    Offload { csum: Csum::AsIs, gso: Some(Gso::udp(mss, header as u16)) }
}

/// What becomes of a request: the reason when it is refused.
fn verdict(bytes: &[u8], offload: Offload) -> Result<(), DropReason> {
    let memory = Memory::new();
    let mut burst = Burst::new();
    burst.push(&memory.scatter(bytes, &[20]), None, offload);
    match burst.rejected() {
        [] => Ok(()),
        [(reason, _)] => Err(*reason),
        more => panic!("{more:?}"),
    }
}

proptest! {
    #[test]
    fn cutting_makes_the_datagrams_that_the_reference_makes(ip in ip(), len in 0usize..30_000, mss in 32u16..9000, cuts in proptest::collection::vec(0usize..30_000, 0..6), first in 0usize..9000, tagged: bool, in_band: bool) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut bytes = datagram(ip, 0, &payload);
        let mut header = bytes.len() - len;
        if in_band {
            bytes.splice(12..12, Tag::new(9, 2).bytes());
            header += TAG_LEN;
        }
        let memory = Memory::new();
        let pieces = memory.scatter(&bytes, &cuts);
        let mut burst = Burst::new();
        burst.push(&pieces, None, asked(mss, header));
        prop_assert_eq!(burst.rejected(), &[]);
        let delivery = Delivery::new(0, tagged.then(|| Tag::new(10, 3)));
        // A peer that takes TCP segments is not one that takes datagrams.
        let plan = Plan::new(&burst, &delivery, Caps { pad: true, tso: true, ..Caps::default() }).unwrap();
        prop_assert_eq!((plan.gso(), plan.csum()), (None, Csum::Good));
        let want = if len == 0 { vec![datagram(ip, 0, &[])] } else { cut(ip, &payload, mss) };
        prop_assert_eq!(plan.count() as usize, want.len());
        for (i, want) in want.into_iter().enumerate() {
            let room = memory.room(plan.len(i as u32), first);
            prop_assert!(plan.write(i as u32, &room));
            let mut frame = read(&room);
            if tagged {
                prop_assert_eq!(frame.drain(12..16).collect::<Vec<_>>(), Tag::new(10, 3).bytes());
                frame.resize(frame.len().max(MIN_FRAME), 0);
            }
            prop_assert!(frame == padded(want), "datagram {}", i);
        }
    }

    /// Whatever UDP headers say, the frame is taken or named, and writing stays in bounds.
    #[test]
    fn hostile_requests_are_named(ip in ip(), len in 0usize..600, mss: u16, header in prop_oneof![0u16..300, any::<u16>()], right: bool, flips in proptest::collection::vec((12usize..100, any::<u8>()), 0..4), cuts in proptest::collection::vec(0usize..600, 0..4)) {
        let mut bytes = datagram(ip, 0, &vec![5; len]);
        let header = if right { (bytes.len() - len) as u16 } else { header };
        for (at, byte) in flips {
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
        }
        let memory = Memory::new();
        let mut burst = Burst::new();
        burst.push(&memory.scatter(&bytes, &cuts), None, asked(mss, header.into()));
        prop_assert_eq!(burst.harvested(), 1);
        prop_assert!(burst.rejected().iter().all(|(reason, _)| *reason == DropReason::BadOffload));
        for uso in [false, true] {
            let caps = Caps { pad: true, uso, ..Caps::default() };
            let Some(plan) = Plan::new(&burst, &Delivery::new(0, Some(Tag::new(1, 0))), caps) else { break };
            for i in 0..plan.count() {
                prop_assert!(plan.write(i, &memory.room(plan.len(i), 100)));
                prop_assert!(!plan.write(i, &memory.room(plan.len(i) - 1, 100)));
            }
        }
    }
}

#[test]
fn a_peer_that_takes_datagrams_gets_them_whole() {
    for ip in [Ip::V4 { id: 7, options: 0 }, Ip::V4 { id: 7, options: 3 }, Ip::V6] {
        for (tag, side) in [(None, true), (Some(Tag::new(9, 2)), true), (Some(Tag::new(9, 2)), false)] {
            let bytes = datagram(ip, 0, &[6; 60_000]);
            let l4 = (ETH + ip.len()) as u16;
            let memory = Memory::new();
            let mut burst = Burst::new();
            burst.push(&memory.scatter(&bytes, &[50, 900]), None, asked(1472, usize::from(l4) + 8));
            let caps = Caps { csum: true, uso: true, tag: side, ..Caps::default() };
            let plan = Plan::new(&burst, &Delivery::new(0, tag), caps).unwrap();
            let shift = if tag.is_some() && !side { TAG_LEN as u16 } else { 0 };
            assert_eq!((plan.count(), plan.len(0)), (1, bytes.len() + usize::from(shift)));
            assert_eq!(plan.gso(), Some(Gso::udp(1472, l4 + 8 + shift)));
            assert_eq!(plan.csum(), Csum::Fill { start: l4 + shift, at: l4 + 6 + shift });
            let header = crate::VnetHeader::for_plan(&plan);
            assert_eq!((header.gso_type, header.gso_size, header.csum_offset), (crate::vnet::GSO_UDP_L4, 1472, 6));
            let room = memory.room(plan.len(0), 70);
            assert!(plan.write(0, &room));
            let mut got = read(&room);
            got.drain(12..12 + usize::from(shift));
            // All but the checksum, which is that of the pseudo header.
            let at = usize::from(l4) + 6;
            let t = Transport::parse(&bytes).unwrap();
            let pseudo = pseudo_header(t.addresses(&bytes), UDP, (bytes.len() - t.l4) as u32).folded();
            assert_eq!(got[at..at + 2], pseudo.to_be_bytes());
            assert!(got[..at] == bytes[..at] && got[at + 2..] == bytes[at + 2..], "{ip:?}");
        }
    }
}

const ETH: usize = wire::ETH_HEADER;

#[test]
fn requests_that_cannot_be_met_are_bad_offloads() {
    let bad = Err(DropReason::BadOffload);
    let v4 = datagram(Ip::V4 { id: 1, options: 0 }, 0, &[1; 3000]);
    let v6 = datagram(Ip::V6, 0, &[1; 3000]);
    assert_eq!((verdict(&v4, asked(1000, 42)), verdict(&v6, asked(1000, 62))), (Ok(()), Ok(())));
    assert_eq!(verdict(&v4, asked(0, 42)), bad, "no bytes per datagram");
    assert_eq!(verdict(&v4, asked(1, 42)), bad, "too many of them");
    for header in [0, 34, 41, 43, 54, 193, 3043, 65_535] {
        assert_eq!(verdict(&v4, asked(1000, header)), bad, "headers of {header} bytes");
    }
    assert_eq!(verdict(&v4[..42], asked(1000, 42)), bad, "a length that is not there");
    assert_eq!(verdict(&v4[..41], asked(1000, 42)), bad, "no header there");
    assert_eq!(verdict(&[v4.clone(), vec![0; 4]].concat(), asked(1000, 42)), bad, "more than the length says");
    assert_eq!(verdict(&v4, Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(1000, 42)) }), bad, "not TCP");
    let with = |bytes: &[u8], at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        bytes
    };
    for (at, byte, what) in [
        (38, 0, "UDP length too short"),
        (38, 0xff, "UDP length too long"),
        (23, TCP, "TCP"),
        (20, 0x20, "more fragments follow"),
        (21, 1, "a later fragment"),
        (14, 0x44, "an IPv4 header too short"),
        (14, 0x46, "options that the request leaves out"),
        (12, 0x86, "another protocol"),
    ] {
        assert_eq!(verdict(&with(&v4, at, byte), asked(1000, 42)), bad, "{what}");
    }
}

#[test]
fn datagrams_behind_extension_headers_are_bad_offloads() {
    let plain = datagram(Ip::V6, 0, &[1; 3000]);
    // Hop-by-hop options, routing, fragment, destination options: each 8 bytes long here.
    for kind in [0u8, 43, 44, 60] {
        let mut bytes = plain.clone();
        bytes[20] = kind;
        bytes.splice(54..54, [UDP, 0, 1, 4, 0, 0, 0, 0]);
        let length = (bytes.len() as u16 - 54).to_be_bytes();
        bytes[18..20].copy_from_slice(&length);
        assert_eq!(verdict(&bytes, asked(1000, 70)), Err(DropReason::BadOffload), "kind {kind}");
        assert_eq!(verdict(&bytes, Offload::default()), Ok(()), "as they are, they pass");
    }
}
