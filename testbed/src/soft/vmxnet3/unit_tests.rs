use std::os::fd::AsFd;

use super::layout::{Place, bar0, queue, room};
use super::*;

/// A transmit and a receive queue without a card: the tests below play the card.
fn parts(mtu: u16) -> (Ram, Arc<Region>, TxQueue, RxQueue) {
    let mut ram = Ram::new(1 << 32, 32 << 20).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let page = Region::map(file.as_fd(), 0, 4096, true).unwrap();
    let area = Area::new(&mut ram, 1).unwrap();
    let mut tx = TxQueue::new(&mut ram, 0, area.tx(0), 64).unwrap();
    let mut rx = RxQueue::new(&mut ram, (0, 1), area.rx(0), [32, 32], mtu, 0).unwrap();
    tx.init(&ram, 0).unwrap();
    rx.init(&ram, 0).unwrap();
    (ram, page, tx, rx)
}

fn word64(ram: &Ram, at: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.read(at, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn words(ram: &Ram, at: u64) -> [u32; 4] {
    let (a, b) = (word64(ram, at), word64(ram, at + 8));
    [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
}

fn store(ram: &Ram, at: u64, words: [u32; 4]) {
    ram.write(at, &words.map(u32::to_le_bytes).concat()).unwrap();
}

#[test]
fn rings_and_places() {
    assert_eq!((room(0, 0, 32), room(31, 0, 32), room(5, 4, 32), room(3, 9, 32)), (31, 0, 30, 5));
    let mut place = Place { at: 30, generation: 1 };
    place.advance(32);
    place.advance(32);
    assert_eq!(place, Place { at: 0, generation: 0 });
    assert_eq!((place.ahead(31, 32), place.ahead(32, 32)), (Place { at: 31, ..place }, Place { at: 0, generation: 1 }));
}

#[test]
fn a_segmentation_request_as_descriptors() {
    let (ram, page, mut tx, _) = parts(1500);
    let descriptor = ram.base() + 768; // after the shared area, aligned to 128
    let ring = word64(&ram, descriptor + queue::RING);
    let (head, body) = ([1u8; 54], vec![2u8; 40_000]);
    let frame = TxFrame {
        pieces: &[&head, &body],
        offload: Offload::Tso { header: 54, mss: 1460 },
        tag: Some(wire::Tag(0x600a)),
        copy_header: true,
    };
    assert!(tx.push(&ram, &page, &frame).unwrap());
    let first = words(&ram, ring);
    assert_eq!(first[2], 54 | 1 << 14 | 1460 << 18);
    assert_eq!(first[3], 54 | 3 << 10 | 1 << 15 | 0x600a << 16);
    let lens: Vec<u32> = (1..4).map(|i| words(&ram, ring + 16 * i)[2]).collect();
    assert_eq!(lens, [1 << 14, 1 << 14, (40_000 - 2 * 16_384) | 1 << 14]);
    let last = words(&ram, ring + 48);
    assert_eq!(last[3], 3 << 12);
    let mut bytes = [0; 3];
    ram.read(u64::from(last[0]) | u64::from(last[1]) << 32, &mut bytes).unwrap();
    assert_eq!((bytes, words(&ram, ring + 64)), ([2; 3], [0; 4]));
    assert_eq!(page.slice(bar0::TXPROD, 4).unwrap().load_u32(0), Some(4));
}

#[test]
fn completions_must_come_in_order() {
    let (ram, page, mut tx, _) = parts(1500);
    let completions = word64(&ram, ram.base() + 768 + queue::RING + 16);
    for _ in 0..2 {
        assert!(tx.push(&ram, &page, &TxFrame::plain(&[&[0; 200]])).unwrap());
    }
    assert_eq!(tx.push_burst(&ram, &page, &[7; 60], 100).unwrap(), 59, "63 places, four of them taken");
    store(&ram, completions, [1, 0, 0, 1 << 31]);
    tx.reap().unwrap();
    assert_eq!(tx.in_flight(), 60);
    assert_eq!(tx.push_burst(&ram, &page, &[8; 60], 1).unwrap(), 0, "the old template is in use");
    store(&ram, completions + 16, [5, 0, 0, 1 << 31]);
    assert!(tx.reap().is_err(), "descriptor 3 ends the second frame");
}

#[test]
fn frames_over_several_buffers() {
    let (ram, page, _, mut rx) = parts(9000);
    let descriptor = ram.base() + 768 + queue::LEN;
    let (ring, completions) = (word64(&ram, descriptor + queue::RING), word64(&ram, descriptor + queue::RING + 16));
    // 9022 bytes: a head of 3072, a page, and a page for the rest.
    let shape: Vec<u32> = (0..4).map(|i| words(&ram, ring + 16 * i)[2]).collect();
    let body = 1 << 14;
    assert_eq!(shape, [3072 | 1 << 31, 4096 | body | 1 << 31, 4096 | body | 1 << 31, 3072 | 1 << 31]);
    let fill = |i: u64, byte: u8| {
        let d = words(&ram, ring + 16 * i);
        ram.write(u64::from(d[0]) | u64::from(d[1]) << 32, &[byte; 3000]).unwrap();
    };
    (0..3).for_each(|i| fill(i, i as u8));
    store(&ram, completions, [1 << 15, 0, 3000, 3 << 24 | 1 << 31]);
    store(&ram, completions + 16, [1, 0, 3000, 3 << 24 | 1 << 31]);
    assert_eq!(rx.pop(&ram, &page).unwrap(), None);
    let flags = 3 << 24 | 1 << 31 | 1 << 21 | 1 << 19 | 1 << 18 | 1 << 16;
    store(&ram, completions + 32, [2 | 1 << 14, 0, 10 | 1 << 15 | 0x2064 << 16, flags]);
    let frame = rx.pop(&ram, &page).unwrap().unwrap();
    assert_eq!((frame.bytes.len(), frame.tag, frame.csum_ok), (6010, Some(wire::Tag(0x2064)), true));
    assert_eq!((frame.bytes[0], frame.bytes[3000], frame.bytes[6009]), (0, 1, 2));
    // Descriptor 3 is a head; the card must not go on in it.
    store(&ram, completions + 48, [4 | 1 << 15 | 1 << 14, 0, 64, 3 << 24 | 1 << 31]);
    assert!(rx.pop(&ram, &page).is_err());
    assert_eq!(rx.skipped(), 0);
}

#[test]
fn a_card_that_overruns_a_buffer_is_caught() {
    let (ram, page, _, mut rx) = parts(1500);
    let completions = word64(&ram, ram.base() + 768 + queue::LEN + queue::RING + 16);
    for (words, what) in [
        ([3 << 14, 0, 1523, 3 << 24 | 1 << 31], "overrun"),
        ([3 << 14 | 500, 0, 60, 3 << 24 | 1 << 31], "index"),
        ([3 << 14 | 2 << 16, 0, 60, 3 << 24 | 1 << 31], "a data ring there is not"),
        ([3 << 14 | 3 << 16, 0, 60, 3 << 24 | 1 << 31], "queue"),
        ([3 << 14, 0, 60, 4 << 24 | 1 << 31], "a large segment of no segments"),
        ([1 << 14, 0, 60, 3 << 24 | 1 << 31], "no start"),
        ([3 << 14, 0, 0, 3 << 24 | 1 << 31], "empty"),
        ([3 << 14, 0, 60, 1 << 31], "type"),
    ] {
        store(&ram, completions, words);
        assert!(rx.drain(&page, &ram).is_err(), "{what}");
    }
    store(&ram, completions, [3 << 14, 0, 60, 3 << 24 | 1 << 31]);
    assert_eq!(rx.drain(&page, &ram).unwrap(), Drained { frames: 1, bytes: 60 });
}

#[test]
fn bursts_go_round_the_ring_and_are_completed_one_by_one() {
    let (ram, page, mut tx, _) = parts(1500);
    let descriptor = ram.base() + 768;
    let (ring, told) = (word64(&ram, descriptor + queue::RING), word64(&ram, descriptor + queue::RING + 16));
    let mut done = 0u64;
    let complete = |upto: u64, done: &mut u64| {
        for n in *done..upto {
            let generation = 1 - (n / 64 % 2) as u32;
            assert_eq!(words(&ram, ring + n % 64 * 16)[2], 60 | generation << 14, "descriptor {n}");
            store(&ram, told + n % 64 * 16, [(n % 64) as u32, 0, 0, generation << 31]);
        }
        *done = upto;
    };
    for round in 1..20 {
        assert_eq!(tx.push_burst(&ram, &page, &[7; 60], 40).unwrap(), 40);
        complete(round * 40 - 15, &mut done);
        tx.reap().unwrap();
        assert_eq!(tx.in_flight(), 15);
        assert_eq!(tx.push_burst(&ram, &page, &[8; 60], 1).unwrap(), 0, "some still read the old template");
        complete(round * 40, &mut done);
        tx.reap().unwrap();
        assert_eq!(tx.in_flight(), 0);
    }
}

#[test]
fn what_is_not_plain_is_taken_in_its_place() {
    let (ram, page, _, mut rx) = parts(1500);
    let descriptor = ram.base() + 768 + queue::LEN;
    let (ring, completions) = (word64(&ram, descriptor + queue::RING), word64(&ram, descriptor + queue::RING + 16));
    let whole = |n: u32, len: u32| [3 << 14 | n, 0, len, 3 << 24 | 1 << 31];
    let frames = [
        whole(0, 60),
        whole(1, 61),
        // A head, and the rest in ring 2, which is called 1 of 1 queue.
        [1 << 15 | 2, 0, 1000, 3 << 24 | 1 << 31],
        [1 << 14 | 1 << 16, 0, 500, 3 << 24 | 1 << 31],
        whole(3, 62),
        // Buffer 4 is passed over.
        whole(5, 63),
        whole(6, 64),
    ];
    for (at, words) in (0..).zip(frames) {
        store(&ram, completions + 16 * at, words);
    }
    let mut seen = Vec::new();
    rx.drain_with(&page, &ram, &mut |_: Option<Tag>, first: &Slice<'_>, len: usize| seen.push((first.len(), len)))
        .unwrap();
    assert_eq!(seen, [(60, 60), (61, 61), (1000, 1500), (62, 62), (63, 63), (64, 64)]);
    assert_eq!(rx.skipped(), 1);
    // The card has 31 of 32, as before: descriptors 31 and 0 to 4 are given anew, the latter with the next generation.
    let given: Vec<u32> = (0..8).map(|n| words(&ram, ring + 16 * n)[2] >> 31).collect();
    assert_eq!(given, [0, 0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(rx.drain(&page, &ram).unwrap(), Drained::default());
}
