//! Whatever a guest writes: no panic, and every frame accounted for.

use dataplane::{Csum, Delivery, DropReason, Gso, Offload, Tally};
use proptest::prelude::*;
use wire::Tag;

use super::driver::{AREA, BASE, Guest, MAC, MEMORY, Options, PEER, QUEUES, Source, ether, fill, map_of, tcp};
use crate::device::DeviceModel;
use crate::vmxnet3::registers;

#[derive(Clone, Debug)]
enum Op {
    /// A word anywhere in the first 3 MiB, where everything but buffers lies.
    Poke(u32, u32),
    /// A word in the shared area or the queue descriptors.
    Configure(u32, u32),
    Read(u8, u32, usize),
    Write(u8, u32, u64, usize),
    Command(u32),
    Activate,
    Poll(usize),
    Deliver(u8, bool),
    Link(bool),
    Map(bool),
    Reset,
}

fn command() -> impl Strategy<Value = u32> {
    prop_oneof![0xcafe_0000u32..0xcafe_0014, 0xf00d_0000u32..0xf00d_0010, any::<u32>()]
}

fn op() -> impl Strategy<Value = Op> {
    let value = || prop_oneof![any::<u32>(), 0u32..300, Just(0x10_0000u32), Just(0x8000_0000u32), Just(0x7040u32)];
    prop_oneof![
        8 => (0u32..0x1d_0000, value()).prop_map(|(a, v)| Op::Poke(a & !3, v)),
        8 => (0u32..0x2000, value()).prop_map(|(a, v)| Op::Configure(a & !3, v)),
        2 => (0u8..4, 0u32..4100, 1usize..9).prop_map(|(b, o, l)| Op::Read(b, o, l)),
        2 => (0u8..4, 0u32..4100, any::<u64>(), 1usize..9).prop_map(|(b, o, v, l)| Op::Write(b, o, v, l)),
        3 => command().prop_map(Op::Command),
        3 => Just(Op::Activate),
        6 => (0usize..8).prop_map(Op::Poll),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(n, t)| Op::Deliver(n, t)),
        1 => any::<bool>().prop_map(Op::Link),
        1 => any::<bool>().prop_map(Op::Map),
        1 => Just(Op::Reset),
    ]
}

fn frames(n: u8) -> Source {
    let gso = Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(536, 54)) };
    Source::new(&[
        (ether(MAC, PEER, 60, n), Offload::default()),
        (tcp(false, 8000), gso),
        (tcp(true, 1000), fill(true)),
        (ether(MAC, PEER, 9014, n), Offload::default()),
    ])
}

/// What one delivery told must be what was listed, segments included.
fn deliver(guest: &Guest, source: &Source, tag: Option<Tag>) {
    let burst = source.burst();
    let list: Vec<Delivery> = (0..4).map(|frame| Delivery::new(frame, tag)).collect();
    let mut tally = Tally::new();
    guest.egress.deliver(&burst, &list, &mut tally);
    let dropped: u64 = DropReason::ALL.iter().map(|r| tally.drops(*r)).sum();
    let told = tally.frames() + dropped;
    // 8000 bytes in segments of 536 are 15.
    assert!(told == 4 || told == 18, "{tally:?}");
    assert_eq!(told == 18, format!("{tally:?}").contains("segments: 14"));
}

fn run(guest: &mut Guest, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Poke(at, value) => guest.put32(BASE + u64::from(at), value),
            Op::Configure(at, value) => guest.put32(AREA + u64::from(at), value),
            Op::Read(bar, offset, len) => {
                let _ = guest.model.read(bar, offset, &mut vec![0; len]);
            }
            Op::Write(bar, offset, value, len) => {
                let _ = guest.model.write(bar, offset, &value.to_le_bytes()[..len]);
            }
            Op::Command(command) => guest.set_reg(registers::CMD, command),
            Op::Activate => {
                guest.activate();
            }
            Op::Poll(q) => {
                let caught = guest.poll(q);
                assert_eq!(caught.taken, caught.frames.len() + caught.rejected.len());
                assert!(caught.bursts.iter().sum::<usize>() == caught.taken && caught.bursts.len() <= 1);
            }
            Op::Deliver(n, tagged) => deliver(guest, &frames(n), tagged.then_some(Tag(n.into()))),
            Op::Link(up) => {
                guest.state.set_link_up(up);
                guest.model.link_changed();
            }
            Op::Map(there) => {
                let map = if there { map_of(&guest.region) } else { Default::default() };
                guest.model.set_map(map);
            }
            Op::Reset => guest.model.reset(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// A card started by a decent driver whose guest then writes anything anywhere.
    #[test]
    fn anything_anywhere(ops in proptest::collection::vec(op(), 1..80), later in any::<bool>()) {
        let old = Options { mtu: 9000, tx_queues: 4, rx_queues: 2, ..Options::default() };
        let new = Options {
            revision: 7,
            features: 15,
            data_size: 128,
            max_pieces: 18,
            rss: Some((15, vec![0, 1])),
            ..old.clone()
        };
        let mut guest = Guest::started(if later { new } else { old });
        run(&mut guest, ops);
    }

    /// Rings of random descriptors that look valid.
    #[test]
    fn random_descriptors(
        words in proptest::collection::vec((0u64..MEMORY as u64 + 4096, any::<u32>(), any::<u32>()), 64),
        near in any::<bool>(),
    ) {
        let mut guest = Guest::started(Options { mtu: 9000, ..Options::default() });
        let tx = guest.get64(QUEUES + 16);
        let rx = guest.get64(QUEUES + 256 + 16);
        let rx2 = guest.get64(QUEUES + 256 + 24);
        for (i, (address, w2, w3)) in words.iter().enumerate() {
            let at = i as u64 * 16;
            guest.put64(tx + at, BASE + address);
            // Half the runs have short frames and many ends.
            let (w2, w3) = if near { (w2 & !0x13f00 | 1 << 14, w3 | 1 << 12) } else { (w2 | 1 << 14, *w3) };
            guest.put32(tx + at + 12, w3);
            guest.put32(tx + at + 8, w2);
            guest.put64(rx + at, BASE + address);
            guest.put32(rx + at + 8, w2 | 1 << 31);
            if i < 32 {
                guest.put64(rx2 + at, BASE + address);
                guest.put32(rx2 + at + 8, w3 | 1 << 31);
            }
        }
        for n in 0..4 {
            deliver(&guest, &frames(n), None);
            let caught = guest.poll(0);
            prop_assert_eq!(caught.taken, caught.frames.len() + caught.rejected.len());
        }
    }
}
