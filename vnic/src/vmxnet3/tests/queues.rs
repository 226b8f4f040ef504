//! Several queues: revisions, spreading by hash, the receive data ring, interrupt moderation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{DropReason, Offload};
use proptest::prelude::*;
use wire::{Mac, Tag};

use super::driver::*;
use crate::vmxnet3::commands::*;
use crate::vmxnet3::registers::{CAPABILITIES, DCR, PTCR, VRRS};
use crate::vmxnet3::shared_area::{at, feature, queue};

/// Addresses and TCP ports of both IP versions are hashed.
const TYPES: u16 = 15;
const CSUM_AND_TAGS: u64 = feature::RX_CSUM | feature::RX_VLAN;

/// `rx` receive queues with a table that gives each its turn.
fn spreading(rx: usize) -> Options {
    let table = (0..128).map(|i| (i % rx) as u8).collect();
    Options {
        tx_queues: 8,
        rx_queues: rx,
        features: CSUM_AND_TAGS | feature::RSS,
        revision: 7,
        rss: Some((TYPES, table)),
        ..Options::default()
    }
}

/// A TCP frame of flow `n`.
fn flow(n: u16) -> Vec<u8> {
    let mut frame = tcp(false, 40);
    frame[34..36].copy_from_slice(&(1000 + n).to_be_bytes());
    frame
}

#[test]
fn the_driver_chooses_a_revision() {
    let mut guest = Guest::new(Options::default());
    let known = |guest: &mut Guest| {
        let answers = [GET_COALESCE, GET_RSS_FIELDS, GET_MAX_QUEUES_CONF, GET_DCR0_REG, SET_RING_BUFFER_SIZE];
        answers.map(|command| guest.command(command))
    };
    const NO: u32 = FAILURE;
    for (choice, answers) in [
        (1, [NO; 5]),
        (1 << 1, [NO; 5]),
        (1 << 6, [NO, 3, 0x1008, 0, 0]),
        // Not offered: the choice before stands.
        (1 << 5, [NO, 3, 0x1008, 0, 0]),
        (0, [NO, 3, 0x1008, 0, 0]),
    ] {
        guest.set_reg(VRRS, choice);
        assert_eq!(known(&mut guest), answers, "after {choice:#x}");
    }
    assert_eq!((guest.reg(DCR), guest.reg(PTCR)), (CAPABILITIES, CAPABILITIES));
    guest.set_reg(DCR, u32::MAX);
    assert_eq!(guest.command(GET_DCR0_REG), CAPABILITIES, "what was asked for and there is");
    guest.set_reg(DCR, 1);
    assert_eq!(guest.command(GET_DCR0_REG), 1);
    crate::device::DeviceModel::reset(&mut guest.model);
    assert_eq!(guest.command(GET_DCR0_REG), FAILURE, "a reset card is of revision 1");
}

#[test]
fn flows_spread_over_sixteen_queues_and_keep_to_theirs() {
    let mut guest = Guest::started(spreading(16));
    let mut homes: BTreeMap<u16, (usize, (u32, u32))> = BTreeMap::new();
    for round in 0..3 {
        for first in (0..200).step_by(25) {
            let frames: Vec<Vec<u8>> = (first..first + 25).map(flow).collect();
            assert_eq!(guest.deliver(&Source::plain(&frames), None).frames(), 25);
            let mut found = 0;
            for q in 0..16 {
                let got = guest.receive_on(q);
                assert_eq!(guest.interrupts(8 + q), u64::from(!got.is_empty()), "one interrupt per queue with frames");
                guest.store((8 + q) * 8, 0);
                let mut last = 0;
                for frame in got {
                    let n = u16::from_be_bytes([frame.data[34], frame.data[35]]) - 1000;
                    assert!(frame.data == flow(n) && n >= last, "whole, and in order");
                    last = n;
                    assert_eq!(frame.hash.0, 2, "hashed by addresses and ports");
                    assert_eq!(q, frame.hash.1 as usize % 128 % 16, "the table's queue");
                    let home = *homes.entry(n).or_insert((q, frame.hash));
                    assert_eq!(home, (q, frame.hash), "round {round}");
                    found += 1;
                }
            }
            assert_eq!(found, 25);
        }
    }
    let used: std::collections::BTreeSet<usize> = homes.values().map(|(q, _)| *q).collect();
    assert_eq!(used.len(), 16);
    guest.command(GET_STATS);
    let desc = |q: u64| QUEUES + (8 + q) * 256 + u64::from(queue::STATS) + 16;
    let counted: Vec<u64> = (0..16).map(|q| guest.get64(desc(q))).collect();
    let expected: Vec<u64> =
        (0..16).map(|q| 3 * homes.values().filter(|(home, _)| *home == q).count() as u64).collect();
    assert_eq!(counted, expected, "each queue counts its frames");
}

#[test]
fn what_is_not_hashed_goes_to_the_first_queue() {
    let mut guest = Guest::started(spreading(4));
    assert_eq!(guest.deliver(&Source::plain(&[ether(MAC, PEER, 100, 1)]), Some(Tag(0x6064))).frames(), 1);
    let got = guest.receive();
    assert_eq!((got.len(), got[0].hash, got[0].tag), (1, (0, 0), Some(Tag(0x6064))));
    // ethtool -N eth0 rx-flow-hash udp4 sdfn
    let mut udp = flow(1);
    udp[23] = 17;
    let kind = |guest: &mut Guest| {
        guest.deliver(&Source::plain(&[udp.clone()]), None);
        (0..4).flat_map(|q| guest.receive_on(q)).map(|f| f.hash.0).collect::<Vec<_>>()
    };
    assert_eq!(kind(&mut guest), [1]);
    guest.put32(AREA + u64::from(at::COMMAND), 0xff07);
    assert_eq!((guest.command(SET_RSS_FIELDS), guest.command(GET_RSS_FIELDS)), (0, 7), "what there is of it");
    assert_eq!(kind(&mut guest), [5]);
}

#[test]
fn table_and_feature_change_while_the_card_runs() {
    let mut guest = Guest::started(spreading(4));
    let source = Source::plain(&(0..20).map(flow).collect::<Vec<_>>());
    let spread = |guest: &mut Guest| {
        assert_eq!(guest.deliver(&source, None).frames(), 20);
        std::array::from_fn::<usize, 4, _>(|q| guest.receive_on(q).len())
    };
    assert!(spread(&mut guest).iter().all(|n| *n > 0));
    // ethtool -X eth0 weight 0 0 0 1
    guest.write_rss(TYPES, &[3; 128]);
    assert!(spread(&mut guest).iter().all(|n| *n > 0), "read with the command only");
    assert_eq!(guest.command(UPDATE_RSSIDT), 0);
    assert_eq!(spread(&mut guest), [0, 0, 0, 20]);
    guest.write_rss(TYPES, &[0, 1, 2, 4]);
    assert_eq!(guest.command(UPDATE_RSSIDT), FAILURE);
    assert_eq!(spread(&mut guest), [0, 0, 0, 20], "a table that names no queue changes nothing");
    guest.put64(AREA + u64::from(at::FEATURES), CSUM_AND_TAGS);
    assert_eq!(guest.command(UPDATE_FEATURE), 0);
    assert_eq!(spread(&mut guest), [20, 0, 0, 0], "ethtool -K eth0 rxhash off");
    guest.write_rss(TYPES, &[1]);
    guest.put64(AREA + u64::from(at::FEATURES), CSUM_AND_TAGS | feature::RSS);
    assert_eq!(guest.command(UPDATE_FEATURE), 0);
    assert_eq!(spread(&mut guest), [0, 20, 0, 0]);
    // The VMM changes its map under way.
    let map = map_of(&guest.region);
    crate::device::DeviceModel::set_map(&mut guest.model, map);
    assert_eq!(spread(&mut guest), [0, 20, 0, 0]);
}

#[test]
fn a_configuration_of_spreading_that_makes_no_sense_starts_nothing() {
    let start = |change: &dyn Fn(&Guest)| {
        let mut guest = Guest::new(spreading(2));
        guest.lay_out();
        change(&guest);
        guest.activate()
    };
    assert_eq!(start(&|_| {}), 0);
    let word = |n: u64, value: u16| move |guest: &Guest| guest.put(RSS + n * 2, &value.to_le_bytes());
    assert_eq!(start(&word(1, 2)), 1, "another function");
    assert_eq!((start(&word(2, 0)), start(&word(2, 41))), (1, 1), "keys too short and too long");
    assert_eq!((start(&word(3, 0)), start(&word(3, 129))), (1, 1), "tables too short and too long");
    assert_eq!(start(&|guest| guest.put(RSS + 48, &[2])), 1, "a queue there is not");
    assert_eq!(start(&|guest| guest.put32(AREA + u64::from(at::RSS) + 4, 100)), 1, "shorter than its table");
    assert_eq!(start(&|guest| guest.put64(AREA + u64::from(at::RSS) + 8, u64::MAX - 3)), 1, "nowhere");
}

#[test]
fn all_eight_transmit_queues_send_and_tell_by_their_vectors() {
    let mut guest = Guest::started(spreading(8));
    for q in 0..8 {
        guest.send(q, &[&ether(PEER, MAC, 100, q as u8)], Ask::default());
    }
    for q in 0..8 {
        let caught = guest.poll(q);
        assert_eq!((caught.taken, &caught.frames[0].data), (1, &ether(PEER, MAC, 100, q as u8)));
        assert_eq!((guest.completed(q), guest.interrupts(q)), (vec![0], 1));
    }
}

fn with_data_ring(revision: u8) -> Guest {
    Guest::started(Options { revision, data_size: 128, ..Options::default() })
}

#[test]
fn short_frames_go_into_the_data_ring() {
    let mut guest = with_data_ring(3);
    let lengths = [20, 128, 129, 60, 1514, 127];
    let frames: Vec<Vec<u8>> = lengths.iter().map(|len| ether(MAC, PEER, *len, *len as u8)).collect();
    for _ in 0..40 {
        let tally = guest.deliver(&Source::plain(&frames), None);
        assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (6, 0));
        let got = guest.receive();
        let short: Vec<bool> = got.iter().map(|frame| frame.in_data_ring).collect();
        assert_eq!(short, [true, true, false, true, false, true]);
        for (frame, sent) in got.iter().zip(&frames) {
            assert_eq!(frame.data[..sent.len()], sent[..]);
        }
    }
    let mut old = with_data_ring(2);
    old.deliver(&Source::plain(&frames), None);
    assert!(old.receive().iter().all(|frame| !frame.in_data_ring), "revision 2 knows of no data ring");
}

/// Addresses frames go to: the card's, another's, a group's, everybody's.
fn any_dst() -> impl Strategy<Value = Mac> {
    let group = Mac([0x01, 0x00, 0x5e, 0, 0, 1]);
    prop_oneof![4 => Just(MAC), 1 => Just(PEER), 1 => Just(group), 1 => Just(Mac([0xff; 6]))]
}

/// Bursts of frames of which each is no longer than a head.
fn short_bursts() -> impl Strategy<Value = Vec<Vec<(Mac, usize)>>> {
    let alike = (any_dst(), proptest::collection::vec(14usize..=64, 1..=32))
        .prop_map(|(dst, lens)| lens.into_iter().map(|len| (dst, len)).collect());
    let mixed = proptest::collection::vec((any_dst(), 14usize..=64), 1..=32);
    proptest::collection::vec(prop_oneof![alike, mixed], 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// What lies wholly in heads comes as it was, padded, in order, hashed as any frame is, and is counted; what no buffer is
    /// there for is dropped.
    #[test]
    fn bursts_of_short_frames_go_into_the_data_ring(bursts in short_bursts(), hashed: bool, lazy in 0u8..4) {
        let features = if hashed { CSUM_AND_TAGS | feature::RSS } else { CSUM_AND_TAGS };
        let rss = hashed.then(|| (TYPES, vec![0]));
        let mut guest = Guest::started(Options { revision: 7, data_size: 128, features, rss, ..Options::default() });
        let (mut waiting, mut sums) = (vec![], [[0u64; 2]; 3]);
        // The driver keeps one descriptor, and after it has taken frames another.
        let most = guest.options.rx_sizes[0] as usize - 1;
        for (n, burst) in bursts.iter().enumerate() {
            let frames: Vec<_> = burst.iter().map(|&(dst, len)| ether(dst, PEER, len, n as u8)).collect();
            let tally = guest.deliver(&Source::plain(&frames), None);
            let fit = tally.frames() as usize;
            prop_assert_eq!(fit + tally.drops(DropReason::RingFull) as usize, frames.len());
            let room = most - waiting.len();
            prop_assert!(fit == frames.len().min(room) || fit == frames.len().min(room - 1), "{fit} frames for {room} descriptors");
            for (frame, (dst, len)) in frames.into_iter().zip(burst).take(fit) {
                let sum = &mut sums[usize::from(dst.is_group()) + usize::from(dst.is_broadcast())];
                *sum = [sum[0] + 1, sum[1] + (*len).max(60) as u64];
                waiting.push(frame);
            }
            if n as u8 % 4 < lazy {
                continue;
            }
            let got = guest.receive();
            prop_assert_eq!(got.len(), waiting.len());
            for (got, mut sent) in got.into_iter().zip(waiting.drain(..)) {
                sent.resize(sent.len().max(60), 0);
                prop_assert!(got.in_data_ring && got.tag.is_none() && !got.error);
                prop_assert_eq!(got.data, sent);
            }
        }
        guest.command(GET_STATS);
        let stats = QUEUES + 256 + u64::from(queue::STATS) + 16;
        let told: Vec<_> = (0..6).map(|n| guest.get64(stats + 8 * n)).collect();
        prop_assert_eq!(told, sums.concat());
    }
}

/// Drivers have them at multiples of 512; nothing a driver can say brings the switch down.
#[test]
fn rings_that_lie_at_odd_places_work_or_start_nothing() {
    for off in [0, 4, 8, 12, 16, 24] {
        let mut guest = Guest::new(Options { revision: 3, data_size: 128, off, ..Options::default() });
        guest.lay_out();
        let started = guest.activate() == 0;
        assert_eq!(started, off % 8 == 0, "{off} bytes off");
        for round in 0..if started { 5 } else { 0 } {
            let frames: Vec<_> = (0..32).map(|n| ether(PEER, MAC, 60, n)).collect();
            frames.iter().for_each(|frame| guest.send(0, &[frame], Ask::default()));
            let caught = guest.poll(0);
            assert_eq!((caught.taken, guest.completed(0).len()), (32, 32), "round {round}, {off} bytes off");
            assert!(caught.frames.iter().zip(&frames).all(|(got, sent)| got.data == *sent));
            assert_eq!(guest.deliver(&Source::plain(&frames), None).frames(), 32);
            assert!(guest.receive().iter().zip(&frames).all(|(got, sent)| got.data == *sent && got.in_data_ring));
        }
    }
}

#[test]
fn data_rings_are_checked() {
    for (size, iova) in [(100, None), (2112, None), (128, Some(BASE + MEMORY as u64 - 64)), (128, Some(BASE + 2))] {
        let mut guest = Guest::new(Options { revision: 3, data_size: 128, ..Options::default() });
        guest.lay_out();
        let desc = QUEUES + 256;
        guest.put(desc + u64::from(queue::VECTOR) + 2, &u16::to_le_bytes(size));
        iova.into_iter().for_each(|iova| guest.put64(desc + u64::from(queue::DATA), iova));
        assert_eq!(guest.activate(), 1, "entries of {size} bytes");
    }
}

/// As `ethtool -C` does: the scheme in memory, and the command.
fn moderate(guest: &mut Guest, words: [u32; 4]) -> u32 {
    for (i, word) in words.into_iter().enumerate() {
        guest.put32(SCHEME + i as u64 * 4, word);
    }
    let command = AREA + u64::from(at::COMMAND);
    guest.put32(command, 1);
    guest.put32(command + 4, 16);
    guest.put64(command + 8, SCHEME);
    guest.command(SET_COALESCE)
}

#[test]
fn interrupts_are_moderated_as_asked() {
    let mut guest = Guest::started(Options { revision: 3, auto_mask: false, ..Options::default() });
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    assert_eq!(moderate(&mut guest, [2, 64, 3, 5]), 0);
    let deliver = |guest: &mut Guest| {
        guest.deliver(&source, None);
        guest.interrupts(1)
    };
    let raised: u64 = (0..4).map(|_| deliver(&mut guest)).sum();
    assert_eq!((raised, deliver(&mut guest)), (0, 1), "every fifth frame");
    deliver(&mut guest);
    let start = Instant::now();
    while guest.interrupts(1) == 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "what waits is told in the end");
        guest.poll(0);
    }
    guest.receive();
    for n in 0..3 {
        guest.send(0, &[&ether(PEER, MAC, 100, 1)], Ask::default());
        guest.poll(0);
        assert_eq!(guest.interrupts(0), u64::from(n == 2), "every third frame sent");
    }
    assert_eq!(moderate(&mut guest, [3, 200, 0, 0]), 0);
    let start = Instant::now();
    let mut raised = 0;
    for _ in 0..400 {
        raised += deliver(&mut guest);
        guest.receive();
        guest.poll(0);
        raised += guest.interrupts(1);
        std::thread::sleep(Duration::from_micros(50));
    }
    let most = start.elapsed().as_millis() as u64 / 5 + 2;
    assert!((1..=most).contains(&raised), "{raised} in {:?}", start.elapsed());

    assert_eq!(moderate(&mut guest, [9, 0, 0, 0]), FAILURE);
    assert_eq!((guest.command(GET_COALESCE), guest.get32(SCHEME), guest.get32(SCHEME + 4)), (0, 3, 200));
    guest.put32(AREA + u64::from(at::COMMAND) + 4, 12);
    assert_eq!((guest.command(GET_COALESCE), guest.command(SET_COALESCE)), (FAILURE, FAILURE), "too short");
    assert_eq!(moderate(&mut guest, [0; 4]), 0);
    assert_eq!(guest.deliver(&Source::new(&[(flow(1), Offload::default())]), None).frames(), 1);
    while guest.interrupts(1) > 0 {}
    assert_eq!(deliver(&mut guest), 1, "each at once");
    assert_eq!(moderate(&mut guest, [2, 1, 1, 64]), 0);
    let map = map_of(&guest.region);
    crate::device::DeviceModel::set_map(&mut guest.model, Arc::default());
    crate::device::DeviceModel::set_map(&mut guest.model, map);
    assert_eq!(
        (guest.command(GET_COALESCE), guest.get32(SCHEME)),
        (0, 2),
        "the VMM's changes of memory change nothing"
    );
    assert_eq!((guest.command(QUIESCE_DEV), guest.activate()), (0, 0));
    assert_eq!((guest.command(GET_COALESCE), guest.get32(SCHEME)), (0, 1), "a new start is adaptive");
}
