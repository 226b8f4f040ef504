//! A driver with packed rings in shared memory against the card: frames and buffers in every shape, rings that wrap,
//! notifications, and rings that make no sense. Facts: virtio 1.2, section 2.8.

#[path = "hostile/packed.rs"]
mod hostile;
mod rig;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::{Arm, Burst, DropReason, Ingress, Offload, Sink, Tally};
use proptest::prelude::*;
use rig::{BASE, SIZE, Wire, card, counted, deliver, frame, no_rings, region};
use sharedmem::{PackedRing, Region};
use vnic::virtio::features::{EVENT_IDX, MRG_RXBUF, RING_PACKED, VERSION_1, header_len};
use vnic::virtio::{Active, Card, RxPath, RxQueue, RxState, TxQueue, TxQueueRings, TxState, base, position, resume};

/// Where things lie in memory.
const TX_RING: usize = 0;
const RX_RING: usize = 0x8000;
const TABLES: usize = 0x1_0000;
const TX_BUFFERS: usize = 0x4_0000;
const RX_BUFFERS: usize = 0x20_0000;
/// Event areas of a ring, behind its descriptors.
const DRIVER: usize = 0x4000;
const DEVICE: usize = 0x4004;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// What an event area says.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT: u16 = 2;

/// Address, length and flags of a piece of a chain.
type Piece = (u64, u32, u16);

/// A packed ring as its driver has it: a port of none of the implementations, from the standard's text.
struct Ring {
    at: usize,
    size: u16,
    /// Where the next chain goes, and the wrap counter there.
    next: (u16, bool),
    /// Where the next used descriptor is looked for.
    seen: (u16, bool),
    /// Identifiers that are free, taken in an order of their own: they are no positions.
    ids: VecDeque<u16>,
    /// Descriptors of the chains given, by identifier; 0 when free.
    slots: Vec<u16>,
    free: u16,
}

impl Ring {
    /// Starts at `start`, in the round of wrap counter 1 or 0.
    fn new(at: usize, size: u16, start: (u16, bool)) -> Ring {
        let ids = (0..size).rev().collect();
        Ring { at, size, next: start, seen: start, ids, slots: vec![0; usize::from(size)], free: size }
    }

    fn open(&self, memory: &Arc<Region>) -> PackedRing {
        PackedRing::new(self.size, (memory, self.at), (memory, self.at + DRIVER), (memory, self.at + DEVICE)).unwrap()
    }

    fn desc(&self, index: u16) -> usize {
        self.at + 16 * usize::from(index)
    }

    fn after(&self, (index, wrap): (u16, bool), slots: u16) -> (u16, bool) {
        let sum = u32::from(index) + u32::from(slots);
        let size = u32::from(self.size);
        ((sum % size) as u16, wrap ^ (sum / size % 2 == 1))
    }
}

/// The flags by which a descriptor is made available in the round of `wrap`.
fn available(wrap: bool) -> u16 {
    if wrap { AVAIL } else { USED }
}

/// A card and its driver.
struct Rig {
    memory: Arc<Region>,
    card: Arc<Card>,
    active: Arc<Active>,
    queue: TxQueue,
    path: RxPath,
    /// Receive and transmit ring.
    rings: [Ring; 2],
    calls: [OwnedFd; 2],
    header: usize,
}

const RX: usize = 0;
const TX: usize = 1;
const PLAIN: u64 = VERSION_1 | RING_PACKED;
const MERGE: u64 = PLAIN | MRG_RXBUF;

impl Rig {
    fn new(features: u64) -> Rig {
        Rig::sized(features, [64, 64], (0, true), &[])
    }

    /// With rings of these sizes (receive, transmit) that begin at `start`; memory in spans that meet at `cuts`.
    fn sized(features: u64, sizes: [u16; 2], start: (u16, bool), cuts: &[usize]) -> Rig {
        let memory = region(SIZE);
        let rings = [Ring::new(RX_RING, sizes[RX], start), Ring::new(TX_RING, sizes[TX], start)];
        let mut active = no_rings(&memory, features, cuts);
        // As a VMM tells it: index and wrap counter.
        let base = start.0 | if start.1 { 0x8000 } else { 0 };
        let [rx_at, tx_at] = sizes.map(|size| position(size, base));
        active.tx[0] =
            Some(TxQueueRings { ring: rings[TX].open(&memory).into(), state: Arc::new(TxState::new(tx_at)) });
        active.rx[0] = Some(RxQueue { ring: rings[RX].open(&memory).into(), state: Arc::new(RxState::new(rx_at)) });
        active.receivers.push(0);
        let active = Arc::new(active);
        let (card, calls) = card(&active);
        let (queue, path) = (TxQueue::new(card.clone(), 0), RxPath::new(card.clone()));
        let rig = Rig { memory, card, active, queue, path, rings, calls, header: header_len(features) };
        // A ring that begins in the second round was left behind by one in which all was used.
        for ring in &rig.rings {
            for index in 0..ring.size {
                let earlier = if index < start.0 { start.1 } else { !start.1 };
                rig.half(ring.desc(index), 0, 0, if earlier { AVAIL | USED } else { 0 });
            }
        }
        rig
    }

    fn failed(&self, which: usize) -> bool {
        self.active.failed(which)
    }

    fn poke(&self, at: usize, bytes: &[u8]) {
        assert!(self.memory.slice(at, bytes.len()).unwrap().write_at(0, bytes));
    }

    fn peek(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.slice(at, len).unwrap().read_at(0, &mut bytes));
        bytes
    }

    fn word(&self, at: usize) -> u16 {
        self.memory.slice(at, 2).unwrap().load_u16(0).unwrap()
    }

    /// Length, identifier and flags of a descriptor, the flags last.
    fn half(&self, at: usize, len: u32, id: u16, flags: u16) {
        self.poke(at + 8, &[&len.to_le_bytes()[..], &id.to_le_bytes()].concat());
        assert!(self.memory.slice(at + 14, 2).unwrap().store_u16(0, flags));
    }

    fn desc(&self, at: usize, (addr, len, flags): Piece, id: u16) {
        self.poke(at, &addr.to_le_bytes());
        self.half(at, len, id, flags);
    }

    /// Makes a chain available, its first descriptor last; returns its identifier, or `None` when there is no room. Only
    /// the last descriptor has the identifier.
    fn give(&mut self, which: usize, pieces: &[Piece]) -> Option<u16> {
        let ring = &mut self.rings[which];
        let count = pieces.len() as u16;
        if ring.free < count {
            return None;
        }
        let id = ring.ids.pop_front()?;
        (ring.free, ring.slots[usize::from(id)]) = (ring.free - count, count);
        let first = ring.next;
        ring.next = ring.after(first, count);
        let ring = &self.rings[which];
        for (n, (addr, len, flags)) in pieces.iter().enumerate().rev() {
            let (index, wrap) = ring.after(first, n as u16);
            let (more, id) = if n + 1 < pieces.len() { (NEXT, 0xdead) } else { (0, id) };
            self.desc(ring.desc(index), (*addr, *len, *flags | more | available(wrap)), id);
        }
        Some(id)
    }

    /// Writes an indirect table number `which`; returns the descriptor that names it. What its entries say beside address,
    /// length and direction is to be ignored.
    fn table(&self, which: usize, pieces: &[Piece]) -> Piece {
        let at = TABLES + which * 0x1000;
        for (n, (addr, len, flags)) in pieces.iter().enumerate() {
            let noise = if n % 2 == 0 { NEXT | AVAIL } else { USED };
            self.desc(at + 16 * n, (*addr, *len, *flags | noise), 0xbeef);
        }
        (BASE + at as u64, 16 * pieces.len() as u32, INDIRECT)
    }

    /// `head` and `frame` in a transmit buffer, cut at `cuts` (which count the header).
    fn lay(&self, slot: usize, head: &[u8], frame: &[u8], cuts: &[usize]) -> Vec<Piece> {
        let at = TX_BUFFERS + slot * 0x4000;
        let all = [head, frame].concat();
        self.poke(at, &all);
        let ends: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).chain([all.len()]).collect();
        ends.windows(2).map(|w| (BASE + (at + w[0]) as u64, (w[1] - w[0]) as u32, 0)).collect()
    }

    fn send(&mut self, slot: usize, frame: &[u8], cuts: &[usize]) -> u16 {
        let pieces = self.lay(slot, &vec![0; self.header], frame, cuts);
        self.give(TX, &pieces).unwrap()
    }

    /// Gives a receive buffer of `len` bytes at `slot` (2 KiB each).
    fn arm(&mut self, slot: usize, len: u32) -> u16 {
        self.give(RX, &[buffer(slot, len)]).unwrap()
    }

    /// What the card has given back since the last look: identifiers and lengths.
    fn used(&mut self, which: usize) -> Vec<(u16, u32)> {
        let mut all = vec![];
        while let Some(one) = self.used_one(which) {
            all.push(one);
        }
        all
    }

    fn used_one(&mut self, which: usize) -> Option<(u16, u32)> {
        let ring = &self.rings[which];
        let (index, wrap) = ring.seen;
        let at = ring.desc(index);
        if self.word(at + 14) & (AVAIL | USED) != if wrap { AVAIL | USED } else { 0 } {
            return None;
        }
        let entry = self.peek(at + 8, 6);
        let len = u32::from_le_bytes(entry[..4].try_into().unwrap());
        let id = u16::from_le_bytes(entry[4..].try_into().unwrap());
        let ring = &mut self.rings[which];
        let slots = std::mem::take(&mut ring.slots[usize::from(id)]);
        assert!(slots > 0, "identifier {id} was given");
        ring.seen = ring.after(ring.seen, slots);
        ring.free += slots;
        ring.ids.push_back(id);
        Some((id, len))
    }

    fn is_used(&self, which: usize) -> bool {
        let (index, wrap) = self.rings[which].seen;
        let flags = self.word(self.rings[which].desc(index) + 14);
        flags & (AVAIL | USED) == if wrap { AVAIL | USED } else { 0 }
    }

    /// True when the device asked to be told of what lies between `before` and the next place.
    fn wants_kick(&self, features: u64, before: (u16, bool)) -> bool {
        let ring = &self.rings[TX];
        let word = u32::from_le_bytes(self.peek(ring.at + DEVICE, 4).try_into().unwrap());
        let (how, at) = ((word >> 16) as u16, (word as u16 & 0x7fff, word & 0x8000 != 0));
        let mut place = before;
        let mut passed = false;
        while place != ring.next {
            passed |= place == at;
            place = ring.after(place, 1);
        }
        match how {
            AT => features & EVENT_IDX == 0 || passed,
            how => how == ENABLE,
        }
    }

    fn poll(&mut self) -> Wire {
        let mut wire = Wire::default();
        while self.queue.poll(&mut wire) > 0 {}
        wire
    }

    fn deliver(&self, frames: &[Vec<u8>]) -> Tally {
        deliver(&self.path, frames, Offload::default())
    }

    /// How often a queue's eventfd was written since the last look.
    fn calls(&self, which: usize) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&self.calls[which], &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// What the driver says in its event area: how, and for [`AT`] where.
    fn wish(&self, which: usize, how: u16, (index, wrap): (u16, bool)) {
        let at = index | if wrap { 0x8000 } else { 0 };
        self.poke(self.rings[which].at + DRIVER, &[at.to_le_bytes(), how.to_le_bytes()].concat());
    }

    /// What the device says in its event area.
    fn device_wish(&self, which: usize) -> (u16, u16) {
        let at = self.rings[which].at + DEVICE;
        (self.word(at + 2), self.word(at))
    }
}

fn buffer(slot: usize, len: u32) -> Piece {
    (BASE + (RX_BUFFERS + slot * 2048) as u64, len, WRITE)
}

#[test]
fn frames_in_any_shape_arrive_whole() {
    // One span's border lies in the middle of the third frame.
    let mut rig = Rig::sized(MERGE, [64, 64], (0, true), &[TX_BUFFERS + 2 * 0x4000 + 100]);
    let sent: Vec<Vec<u8>> = (0..8u8).map(|n| frame(600 + usize::from(n), n)).collect();
    let cuts: [&[usize]; 6] = [&[], &[12], &[], &[5], &[1, 2, 3, 10, 11, 12, 13, 26, 100], &[12, 12, 40]];
    let mut ids: Vec<u16> = cuts.iter().enumerate().map(|(n, cuts)| rig.send(n, &sent[n], cuts)).collect();
    // A table, and one with a single entry.
    for (n, cuts) in [(6, &[12, 50, 300][..]), (7, &[])] {
        let pieces = rig.lay(n, &[0; 12], &sent[n], cuts);
        let table = rig.table(n, &pieces);
        ids.push(rig.give(TX, &[table]).unwrap());
    }
    let wire = rig.poll();
    assert_eq!(wire.rejected, []);
    assert_eq!(wire.frames, sent);
    assert_eq!(rig.used(TX), ids.into_iter().map(|id| (id, 0)).collect::<Vec<_>>());
    assert_eq!(rig.rings[TX].free, 64);
}

#[test]
fn rings_wrap_and_chains_cross_their_end() {
    for (size, start) in [(4, (0, true)), (8, (7, true)), (8, (3, false)), (64, (63, false)), (1, (0, true))] {
        let mut rig = Rig::sized(MERGE, [size, size], start, &[]);
        let mut number = 0u8;
        for round in 0..300usize {
            let mut sent = vec![];
            // As much as there is room for, in one to three descriptors each.
            while sent.len() < 40 {
                let cuts = [&[][..], &[12], &[12, 40]][(round + sent.len()) % 3];
                if rig.rings[TX].free <= cuts.len() as u16 {
                    break;
                }
                let bytes = frame(100, number);
                rig.send(sent.len(), &bytes, cuts);
                sent.push(bytes);
                number = number.wrapping_add(1);
            }
            let wire = rig.poll();
            assert_eq!((wire.frames, wire.rejected), (sent.clone(), vec![]), "size {size} round {round}");
            assert_eq!(rig.used(TX).len(), sent.len());
            assert_eq!(rig.rings[TX].free, size);

            let buffers = usize::from(size).min(1 + round % 5);
            for slot in 0..buffers {
                rig.arm(slot, 2048);
            }
            let frames: Vec<Vec<u8>> = (0..buffers).map(|n| frame(60 + round, n as u8)).collect();
            assert_eq!(counted(&rig.deliver(&frames)).out_frames, buffers as u64);
            let used = rig.used(RX);
            assert!(used.iter().all(|(_, len)| *len == 72 + round as u32) && used.len() == buffers, "{used:?}");
            for (slot, bytes) in frames.iter().enumerate() {
                assert_eq!(rig.peek(RX_BUFFERS + slot * 2048 + 12, bytes.len()), *bytes);
            }
        }
        assert!(!rig.failed(RX) && !rig.failed(TX));
    }
}

#[test]
fn positions_are_bases_with_wrap_counters() {
    for size in [1u16, 2, 256, 32_768] {
        for at in [0, 1, size - 1, size, size.wrapping_add(1), size.wrapping_mul(2).wrapping_sub(1), u16::MAX] {
            let told = base(size, at);
            let rounds = size.wrapping_mul(2).wrapping_sub(1);
            assert_eq!(position(size, told), at & rounds, "size {size} at {at}");
            assert_eq!((told & 0x7fff, told & 0x8000 != 0), (at & (size - 1), at & size == 0));
        }
        assert_eq!(position(size, 0x8000), 0, "where every ring begins");
    }
}

#[test]
fn a_full_ring_takes_no_more_and_loses_none() {
    let mut rig = Rig::sized(MERGE, [8, 8], (0, true), &[]);
    let sent: Vec<Vec<u8>> = (0..8).map(|n| frame(80, n)).collect();
    for (slot, bytes) in sent.iter().enumerate() {
        rig.send(slot, bytes, &[]);
    }
    assert_eq!(rig.give(TX, &[(BASE, 10, 0)]), None, "the driver has none left");
    assert_eq!(rig.poll().frames, sent, "each once, though all descriptors are available");
    assert_eq!(rig.poll().frames.len(), 0);

    for slot in 0..8 {
        rig.arm(slot, 2048);
    }
    let totals = counted(&rig.deliver(&(0..12).map(|n| frame(80, n)).collect::<Vec<_>>()));
    assert_eq!((totals.out_frames, totals.drops(DropReason::RingFull)), (8, 4));
    assert_eq!(rig.used(RX).len(), 8);
    rig.arm(0, 2048);
    assert_eq!(counted(&rig.deliver(&[frame(60, 1), frame(60, 2)])).out_frames, 1, "it goes on");
    assert_eq!(rig.used(RX).len(), 1);
}

#[test]
fn large_frames_fill_many_buffers() {
    // The buffers cross the ring's end, and memory's border lies in one of them.
    let mut rig = Rig::sized(MERGE, [32, 32], (25, true), &[RX_BUFFERS + 3 * 2048 + 700]);
    let mut ids: Vec<u16> = (0..20).map(|slot| rig.arm(slot, 1000)).collect();
    let (large, small) = (frame(9014, 3), frame(60, 4));
    let totals = counted(&rig.deliver(&[large.clone(), small.clone()]));
    assert_eq!((totals.out_frames, totals.out_bytes), (2, 9074));
    let used = rig.used(RX);
    assert_eq!(used.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids.drain(..11).collect::<Vec<_>>());
    assert_eq!(rig.peek(RX_BUFFERS, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0], "ten buffers");
    let parts = used[..10].iter().enumerate().map(|(n, (_, len))| rig.peek(RX_BUFFERS + n * 2048, *len as usize));
    assert_eq!(parts.collect::<Vec<_>>().concat()[12..], large);
    assert_eq!(rig.peek(RX_BUFFERS + 10 * 2048, 72)[10..], [&[1, 0], &small[..]].concat());
    assert_eq!(used[10].1, 72);

    // Nine are left, too few: none of them is lost.
    let totals = counted(&rig.deliver(&[large, small]));
    assert_eq!((totals.out_frames, totals.drops(DropReason::RingFull)), (1, 1));
    assert_eq!(rig.used(RX).len(), 1);
}

#[test]
fn buffers_of_several_descriptors() {
    for features in [PLAIN, MERGE] {
        let mut rig = Rig::sized(features, [8, 8], (6, false), &[]);
        let at = BASE + RX_BUFFERS as u64;
        // Header and frame apart, three across the ring's end, then a table.
        let ids = [
            rig.give(RX, &[(at, 12, WRITE), (at + 12, 500, WRITE)]).unwrap(),
            rig.give(RX, &[(at + 2048, 5, WRITE), (at + 2053, 50, WRITE), (at + 2103, 1000, WRITE)]).unwrap(),
        ];
        let table = rig.table(2, &[(at + 4096, 20, WRITE), (at + 4116, 1000, WRITE)]);
        let third = rig.give(RX, &[table]).unwrap();
        let totals = counted(&rig.deliver(&[frame(500, 2), frame(1000, 3), frame(800, 4)]));
        assert_eq!(totals.out_frames, 3);
        assert_eq!(rig.used(RX), [(ids[0], 512), (ids[1], 1012), (third, 812)]);
        for (slot, bytes) in [frame(500, 2), frame(1000, 3), frame(800, 4)].iter().enumerate() {
            assert_eq!(rig.peek(RX_BUFFERS + slot * 2048 + 12, bytes.len()), *bytes);
        }
        assert_eq!(counted(&rig.deliver(&[frame(60, 1)])).drops(DropReason::RingFull), 1, "nothing is left");
    }
}

#[test]
fn without_merging_a_frame_takes_one_chain() {
    let mut rig = Rig::new(PLAIN);
    rig.arm(0, 512);
    let totals = counted(&rig.deliver(&[frame(700, 1), frame(500, 2)]));
    assert_eq!((totals.out_frames, totals.drops(DropReason::Oversize)), (1, 1));
    assert_eq!(rig.used(RX).len(), 1);
    assert_eq!(rig.peek(RX_BUFFERS, 512)[12..], frame(500, 2));
}

#[test]
fn bad_chains_cost_a_frame_each() {
    const DATA: u64 = BASE + TX_BUFFERS as u64;
    const TABLE: u64 = BASE + TABLES as u64;
    let chains: [(&str, &[Piece]); 15] = [
        ("for the device to write", &[(DATA, 100, WRITE)]),
        ("half of it to write", &[(DATA, 100, 0), (DATA, 100, WRITE)]),
        ("no bytes", &[(DATA, 0, 0)]),
        ("two times no bytes", &[(DATA, 0, 0), (DATA, 0, 0)]),
        ("half a header", &[(DATA, 6, 0)]),
        ("a header alone", &[(DATA, 12, 0)]),
        ("past memory", &[(BASE + SIZE as u64 - 50, 100, 0)]),
        ("the end of all addresses", &[(u64::MAX - 50, 100, 0)]),
        ("4 GiB", &[(DATA, u32::MAX, 0)]),
        ("its second part past memory", &[(DATA, 60, 0), (1, 60, 0), (DATA, 60, 0)]),
        ("a table of no length", &[(TABLE, 0, INDIRECT)]),
        ("a table and a half", &[(TABLE, 24, INDIRECT)]),
        ("a table that goes on", &[(TABLE, 16, INDIRECT), (DATA, 60, 0)]),
        ("a table past memory", &[(BASE + SIZE as u64 - 16, 32, INDIRECT)]),
        ("more pieces than a frame has", &[(DATA, 1, 0); 66]),
    ];
    for (what, chain) in chains {
        let mut rig = Rig::sized(MERGE, [64, 128], (0, true), &[]);
        rig.table(0, &[(DATA, 100, 0), (DATA, 100, 0)]);
        let good = frame(100, 7);
        for round in 0..5 {
            let mut ids = vec![rig.give(TX, chain).unwrap()];
            ids.push(rig.send(8, &good, &[]));
            let wire = rig.poll();
            assert_eq!(wire.rejected.len(), 1, "{what}: one frame is lost in round {round}: {:?}", wire.rejected);
            assert_eq!(wire.frames, std::slice::from_ref(&good), "{what}: the ring goes on");
            assert_eq!(rig.used(TX), [(ids[0], 0), (ids[1], 0)], "{what}: both came back");
        }
        assert!(!rig.failed(RX) && !rig.failed(TX), "{what}");
    }
}

#[test]
fn bad_receive_chains_cost_a_frame_each() {
    for features in [PLAIN, MERGE] {
        let (at, end) = (BASE + RX_BUFFERS as u64, BASE + SIZE as u64);
        let chains: [&[Piece]; 5] = [
            &[(at, 2048, 0)],
            &[(at, 0, WRITE)],
            &[(end - 10, 2048, WRITE)],
            &[(at, 2048, WRITE), (at, 2048, 0), (at, 2048, WRITE)],
            &[(7, 32, INDIRECT)],
        ];
        for chain in chains {
            let mut rig = Rig::new(features);
            for _ in 0..30 {
                let bad = rig.give(RX, chain).unwrap();
                let good = rig.arm(1, 2048);
                let totals = counted(&rig.deliver(&[frame(60, 1), frame(60, 2)]));
                assert_eq!((totals.out_frames, totals.drops(DropReason::BadDescriptor)), (1, 1), "{chain:?}");
                assert_eq!(rig.used(RX), [(bad, 0), (good, 72)], "given back empty");
            }
            assert!(!rig.failed(RX) && !rig.failed(TX));
        }
    }
}

#[test]
fn a_chain_without_an_end_stops_the_card_and_nothing_else() {
    for which in [RX, TX] {
        let mut rig = Rig::new(MERGE);
        let flags = NEXT | AVAIL | if which == RX { WRITE } else { 0 };
        for index in 0..64 {
            let at = rig.rings[which].desc(index);
            rig.desc(at, (BASE + TX_BUFFERS as u64, 1, flags), index);
        }
        let wire = rig.poll();
        let totals = counted(&rig.deliver(&[frame(60, 1), frame(60, 2)]));
        assert!(rig.failed(which) && !rig.failed(1 - which));
        assert_eq!((wire.frames.len(), totals.out_frames), (0, 0));
        assert_eq!(totals.out_offered, 2);
        assert_eq!((rig.used(TX), rig.used(RX)), (vec![], vec![]));
        assert_eq!(rig.poll().frames.len(), 0, "it is not looked at any more");
    }
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    let sent = |rig: &mut Rig, n: usize| {
        for slot in 0..n {
            rig.send(slot, &frame(100, 1), &[]);
        }
        assert_eq!(rig.poll().frames.len(), n);
        assert_eq!(rig.used(TX).len(), n);
        rig.calls(TX)
    };
    let mut rig = Rig::new(MERGE);
    assert_eq!(sent(&mut rig, 3), 1, "one for the burst");
    rig.wish(TX, DISABLE, (0, false));
    assert_eq!(sent(&mut rig, 3), 0, "not wanted");
    rig.wish(TX, ENABLE, (0, false));
    assert_eq!(sent(&mut rig, 1), 1);

    let mut rig = Rig::new(MERGE | EVENT_IDX);
    rig.wish(TX, AT, (4, true));
    assert_eq!(sent(&mut rig, 4), 0, "the fifth is waited for");
    assert_eq!(sent(&mut rig, 1), 1);
    assert_eq!(sent(&mut rig, 20), 0, "that was long ago");
    rig.wish(TX, AT, (30, true));
    assert_eq!(sent(&mut rig, 20), 1, "in the middle of a burst");
    // At 45 now.
    rig.wish(TX, AT, (1, false));
    assert_eq!(sent(&mut rig, 20), 0, "up to the first of the next round");
    assert_eq!(sent(&mut rig, 1), 1, "its second");
    rig.wish(TX, AT, (3, true));
    assert_eq!(sent(&mut rig, 20), 0, "the same index of the round after");
    assert_eq!(sent(&mut rig, 30), 0);
    rig.wish(TX, ENABLE, (0, false));
    assert_eq!(sent(&mut rig, 1), 1, "whatever was agreed on");
    rig.wish(TX, DISABLE, (0, false));
    assert_eq!(sent(&mut rig, 30), 0);

    for slot in 0..10 {
        rig.arm(slot, 2048);
    }
    rig.wish(RX, AT, (2, true));
    rig.deliver(&[frame(60, 1), frame(60, 2)]);
    assert_eq!(rig.calls(RX), 0);
    rig.deliver(&[frame(60, 1)]);
    assert_eq!(rig.calls(RX), 1);
}

#[test]
fn an_event_inside_a_chain_is_that_chains() {
    let mut rig = Rig::sized(MERGE | EVENT_IDX, [8, 8], (6, true), &[]);
    // The third of four descriptors, beyond the ring's end.
    rig.wish(TX, AT, (0, false));
    rig.send(0, &frame(100, 1), &[12, 30, 50]);
    rig.poll();
    assert_eq!(rig.calls(TX), 1);
    rig.send(0, &frame(100, 1), &[12, 30, 50]);
    rig.poll();
    assert_eq!(rig.calls(TX), 0);
}

#[test]
fn a_sleeping_worker_is_woken() {
    for (features, start) in [(MERGE, (0, true)), (MERGE | EVENT_IDX, (0, true)), (MERGE | EVENT_IDX, (61, false))] {
        let mut rig = Rig::sized(features, [64, 64], start, &[]);
        for slot in 0..3 {
            rig.send(slot, &frame(100, 1), &[]);
        }
        assert!(matches!(rig.queue.arm(), Arm::Busy), "there is work");
        rig.poll();
        assert!(matches!(rig.queue.arm(), Arm::Kick(_)));
        let (index, wrap) = rig.rings[TX].next;
        let wanted = if features & EVENT_IDX != 0 { (AT, index | if wrap { 0x8000 } else { 0 }) } else { (ENABLE, 0) };
        assert_eq!(rig.device_wish(TX), wanted, "of the fourth");
        rig.queue.disarm();
        assert_eq!(rig.device_wish(TX).0, DISABLE);
    }
}

/// A driver that sees the first buffer of a frame used finds the others used, at that very moment.
#[test]
fn buffers_of_a_frame_are_used_at_once() {
    const BUFFERS: u16 = 48;
    let mut rig = Rig::sized(MERGE, [64, 64], (0, true), &[]);
    let seen = Arc::new(AtomicU16::new(0));
    let watcher = {
        let (seen, memory) = (seen.clone(), rig.memory.clone());
        thread::spawn(move || {
            let ring = memory.slice(RX_RING, 64 * 16).unwrap();
            for round in 0..5000u16 {
                let flags = |at: u32| ring.load_u16(at as usize % 64 * 16 + 14).unwrap() & (AVAIL | USED);
                let used = |at: u32| flags(at) == if (at / 64).is_multiple_of(2) { AVAIL | USED } else { 0 };
                let first = u32::from(round) * u32::from(BUFFERS);
                while !used(first) {
                    std::hint::spin_loop();
                }
                let all = used(first + u32::from(BUFFERS) - 1);
                assert!(all, "the last buffer of frame {round} is not there with its first");
                seen.store(round + 1, Ordering::Release);
            }
        })
    };
    for round in 0..5000u16 {
        for slot in 0..BUFFERS {
            rig.arm(slot.into(), 30);
        }
        assert_eq!(counted(&rig.deliver(&[frame(30 * usize::from(BUFFERS) - 12, 1)])).out_frames, 1);
        while seen.load(Ordering::Acquire) <= round && !watcher.is_finished() {
            std::hint::spin_loop();
        }
        if watcher.is_finished() {
            break;
        }
        assert_eq!(rig.used(RX).len(), usize::from(BUFFERS));
    }
    watcher.join().unwrap();
}

/// Two workers deliver to one queue while the driver gives buffers back: each frame arrives once, each worker's in its
/// order, and whoever sees the first buffer of a frame sees the others.
#[test]
fn two_workers_deliver_to_one_queue() {
    const FRAMES: u32 = 20_000;
    let mut rig = Rig::new(MERGE);
    let mut slots = [0; 64];
    (0..64).for_each(|slot| slots[usize::from(rig.arm(slot, 400))] = slot);
    let path = Arc::new(RxPath::new(rig.card.clone()));
    let workers = [0u8, 1].map(|worker| {
        let path = path.clone();
        thread::spawn(move || {
            let mut number = 0u32;
            while number < FRAMES {
                // One is delivered at a time, so a refusal can be told from the count; every third takes four buffers.
                let mut bytes = frame(if number.is_multiple_of(3) { 1400 } else { 60 }, worker);
                bytes[14] = worker;
                bytes[15..19].copy_from_slice(&number.to_le_bytes());
                let totals = counted(&deliver(&*path, &[bytes], Offload::default()));
                if totals.out_frames == 1 {
                    number += 1;
                } else {
                    assert_eq!(totals.drops(DropReason::RingFull), 1, "{totals:?}");
                    thread::yield_now();
                }
            }
        })
    });
    let mut next = [0u32; 2];
    let deadline = Instant::now() + Duration::from_secs(120);
    while next != [FRAMES; 2] {
        assert!(Instant::now() < deadline, "{next:?} arrived");
        let Some((id, len)) = rig.used_one(RX) else {
            thread::yield_now();
            continue;
        };
        let mut slot = slots[usize::from(id)];
        let bytes = rig.peek(RX_BUFFERS + slot * 2048, len as usize);
        let count = u16::from_le_bytes([bytes[10], bytes[11]]);
        let (worker, number) = (usize::from(bytes[26]), u32::from_le_bytes(bytes[27..31].try_into().unwrap()));
        assert_eq!(number, next[worker], "frames of worker {worker} in their order");
        assert_eq!(count, if number.is_multiple_of(3) { 4 } else { 1 });
        next[worker] += 1;
        for more in 0..count {
            if more > 0 {
                let (id, _) = rig.used_one(RX).expect("the other buffers are there with the first");
                slot = slots[usize::from(id)];
            }
            let id = rig.arm(slot, 400);
            slots[usize::from(id)] = slot;
        }
    }
    workers.into_iter().for_each(|w| w.join().unwrap());
}

/// The same with three workers, in bursts, and buffers of several sizes and kinds.
#[test]
fn workers_share_a_queue_of_odd_buffers() {
    const FRAMES: u32 = 5_000;
    for kind in 0..3 {
        let mut rig = Rig::new(MERGE);
        let pieces = |slot: usize| match (kind, slot % 5) {
            (0, _) => vec![buffer(slot, 2048)],
            (1, 3) => vec![buffer(slot, 100)],
            (1, _) | (_, 1) => vec![buffer(slot, 400)],
            _ => {
                let (at, _, flags) = buffer(slot, 0);
                vec![(at, 12, flags), (at + 12, 500, flags)]
            }
        };
        let mut slots = [0; 64];
        let give = |rig: &mut Rig, slots: &mut [usize; 64], slot: usize| {
            slots[usize::from(rig.give(RX, &pieces(slot)).unwrap())] = slot;
        };
        (0..32).for_each(|slot| give(&mut rig, &mut slots, slot));
        let path = Arc::new(RxPath::new(rig.card.clone()));
        let workers = [0u8, 1, 2].map(|worker| {
            let path = path.clone();
            thread::spawn(move || rig::bursts(&*path, worker, FRAMES))
        });
        let mut reader = rig::Reader::default();
        loop {
            let ended = workers.iter().all(thread::JoinHandle::is_finished);
            while let Some((id, len)) = rig.used_one(RX) {
                let slot = slots[usize::from(id)];
                reader.take(&rig.peek(RX_BUFFERS + slot * 2048, len as usize));
                give(&mut rig, &mut slots, slot);
            }
            if ended {
                break;
            }
            thread::yield_now();
        }
        let taken: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(reader.frames.to_vec(), taken, "kind {kind}: what was delivered arrived");
        assert_eq!(reader.empty, 0, "what is claimed here is used");
        assert!(!rig.failed(RX));
    }
}

/// The position of the transmit ring is found again from its descriptors when the VMM tells the one of long ago; with chains
/// of several descriptors when it is told right.
#[test]
fn a_ring_goes_on_where_a_crash_left_it() {
    for (size, start) in [(1, (0, true)), (2, (1, false)), (8, (0, true)), (64, (60, true))] {
        for several in [false, true] {
            let mut rig = Rig::sized(MERGE, [size, size], start, &[]);
            let ring = rig.rings[TX].open(&rig.memory);
            for round in 0..300usize {
                // None to all of them are waiting, used and taken back, used and not, by turns.
                let polled = round % 3 != 0;
                let next = rig.active.tx[0].as_ref().unwrap().state.next.load(Ordering::Relaxed);
                let mask = 2 * size - 1;
                for told in [0, next & mask] {
                    // With chains of several, 0 may be taken for one of long ago.
                    if !several || told != 0 {
                        assert_eq!(resume(&ring, told), (next & mask, false), "size {size} round {round} told {told}");
                    }
                }
                for n in 0..round % (usize::from(size) + 2) {
                    let cuts: &[usize] = if several { [&[][..], &[12], &[12, 40]][(round + n) % 3] } else { &[] };
                    if rig.rings[TX].free > cuts.len() as u16 {
                        rig.send(n % 16, &frame(100, 1), cuts);
                    }
                }
                if polled {
                    rig.poll();
                }
                if round % 4 != 0 {
                    rig.used(TX);
                }
            }
        }
    }
}

/// A VMM that takes chains itself while nobody serves the ring, from a place of long ago, leaves a gap before them: it is
/// given back, and the ring goes on behind.
#[test]
fn chains_that_a_vmm_passed_over_come_back() {
    for (begin, gap, taken) in [(0, 1, 1), (0, 7, 3), (50, 17, 1), (63, 1, 9), (120, 20, 9)] {
        let mut rig = Rig::sized(MERGE, [64, 64], (0, true), &[]);
        for n in 0..begin {
            rig.send(n % 16, &frame(100, 1), &[]);
            rig.poll();
            rig.used(TX);
        }
        let sent: Vec<u16> = (0..30).map(|n| rig.send(n % 16, &frame(100, 1), &[])).collect();
        let ring = rig.rings[TX].open(&rig.memory);
        let first = begin as u16 + gap;
        for at in first..first + taken {
            let desc = ring.desc(at % 64).unwrap();
            ring.set_used(at % 64, desc.next, 0, if at & 64 == 0 { AVAIL | USED } else { 0 });
        }
        let behind = (first + taken) & 127;
        assert_eq!(resume(&ring, behind), (behind, true), "begin {begin}");
        let back: Vec<u16> = rig.used(TX).into_iter().map(|(id, _)| id).collect();
        assert_eq!(back, sent[..usize::from(gap + taken)], "begin {begin}: in their order, each once");
        assert_eq!(resume(&ring, behind), (behind, false), "once");
    }
}

/// User-mode Linux says base 0 of a new ring, which leaves out the wrap counter.
#[test]
fn a_new_ring_begins_in_the_first_round() {
    for given in 0..=64 {
        let mut rig = Rig::new(MERGE);
        (0..given).for_each(|slot| assert!(usize::from(rig.arm(slot, 100)) < 64));
        let ring = rig.rings[RX].open(&rig.memory);
        for told in [0, 0x8000] {
            assert_eq!(base(64, resume(&ring, position(64, told)).0), 0x8000, "{given} buffers, told {told:#x}");
        }
    }
}

/// Waits until an eventfd was written.
fn sleep_on(fd: &OwnedFd, what: &str) {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "{what} was not woken");
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

/// A worker that sleeps when there is nothing to do and a driver that sleeps when its ring is full: each is woken by the
/// other, by index, or nothing would go on.
#[test]
fn no_notification_is_lost() {
    const FRAMES: usize = 30_000;
    for features in [MERGE | EVENT_IDX, MERGE] {
        let mut rig = Rig::sized(features, [8, 8], (0, true), &[]);
        let mut queue = TxQueue::new(rig.card.clone(), 0);
        let worker = thread::spawn(move || {
            let mut count = Count(0);
            while count.0 < FRAMES {
                if queue.poll(&mut count) > 0 {
                    continue;
                }
                match queue.arm() {
                    Arm::Kick(kick) => sleep_on(&kick, "the worker"),
                    Arm::Busy => {}
                    _ => panic!("the queue runs"),
                }
                queue.disarm();
            }
            count.0
        });
        let kick = rig.card.kicks[0].load_full().unwrap();
        let (mut sent, mut back) = (0, 0);
        while back < FRAMES {
            let cuts = [&[][..], &[12], &[12, 40]][sent % 3];
            while sent < FRAMES && rig.rings[TX].free > cuts.len() as u16 {
                let before = rig.rings[TX].next;
                rig.send(sent % 8, &frame(100, 1), cuts);
                sent += 1;
                fence(Ordering::SeqCst);
                if rig.wants_kick(features, before) {
                    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
                }
                if !sent.is_multiple_of(3) {
                    break;
                }
            }
            let came = rig.used(TX).len();
            back += came;
            let full = sent == FRAMES || rig.rings[TX].free < 3;
            if came > 0 || !full || back == FRAMES {
                continue;
            }
            rig.wish(TX, if features & EVENT_IDX != 0 { AT } else { ENABLE }, rig.rings[TX].seen);
            fence(Ordering::SeqCst);
            if !rig.is_used(TX) {
                sleep_on(&rig.calls[TX], "the driver");
            }
            rig.wish(TX, DISABLE, (0, false));
        }
        assert_eq!(worker.join().unwrap(), FRAMES);
    }
}

/// Counts what passes.
struct Count(usize);

impl Sink for Count {
    fn forward(&mut self, burst: &Burst<'_>) {
        assert!(burst.rejected().is_empty());
        self.0 += burst.frames().len();
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A frame of so many bytes, cut there, in a table or not.
    Send(usize, Vec<usize>, bool),
    /// A transmit chain that is none.
    SendBad,
    /// A look by the worker.
    Poll,
    /// Receive buffers of these sizes in one chain, in a table or not.
    Arm(Vec<u32>, bool),
    /// Frames of these sizes.
    Deliver(Vec<usize>),
    /// The driver takes back what was used.
    Take,
}

fn any_step() -> impl Strategy<Value = Step> {
    let cuts = prop::collection::vec(1usize..60, 0..5);
    prop_oneof![
        4 => (14usize..1600, cuts, any::<bool>()).prop_map(|(len, cuts, table)| Step::Send(len, cuts, table)),
        1 => Just(Step::SendBad),
        3 => Just(Step::Poll),
        6 => (prop::collection::vec(1u32..900, 1..4), any::<bool>()).prop_map(|(sizes, table)| Step::Arm(sizes, table)),
        3 => prop::collection::vec(14usize..1600, 1..6).prop_map(Step::Deliver),
        3 => Just(Step::Take),
    ]
}

/// What must come out, kept beside the rig.
struct Expected {
    /// Frames sent and not yet seen by the switch (`None`: a bad chain), and identifiers not yet back.
    sent: VecDeque<Option<Vec<u8>>>,
    sent_ids: VecDeque<u16>,
    /// Receive chains given and not yet filled: identifier, pieces, room.
    armed: VecDeque<(u16, Vec<Piece>)>,
    /// What the driver must find used: identifier, pieces, and the bytes in them.
    filled: VecDeque<(u16, Vec<Piece>, Vec<u8>)>,
}

impl Expected {
    /// What delivering `frame` does to the receive ring; true when it fits.
    fn receive(&mut self, frame: &[u8], mergeable: bool) -> bool {
        let room = |pieces: &[Piece]| pieces.iter().map(|p| p.1 as usize).sum::<usize>();
        let whole = 12 + frame.len();
        let (mut count, mut sum) = (0, 0);
        for (_, pieces) in self.armed.iter().take(if mergeable { usize::MAX } else { 1 }) {
            (count, sum) = (count + 1, sum + room(pieces));
            if sum >= whole {
                break;
            }
        }
        if sum < whole {
            return false;
        }
        let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count as u8, 0];
        let bytes = [&header[..], frame].concat();
        let mut rest = &bytes[..];
        for (id, pieces) in self.armed.drain(..count) {
            let (now, later) = rest.split_at(rest.len().min(room(&pieces)));
            self.filled.push_back((id, pieces, now.to_vec()));
            rest = later;
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever chains, sizes and interleavings: what comes out is what went in, in its order, and each chain comes back
    /// at its place.
    #[test]
    fn what_goes_in_comes_out(
        steps in prop::collection::vec(any_step(), 1..200),
        sizes in prop::array::uniform2(0u32..6),
        index in any::<u16>(),
        wrap in any::<bool>(),
        mergeable in any::<bool>(),
    ) {
        let sizes = sizes.map(|n| 1u16 << n);
        let start = (index % sizes[0].min(sizes[1]), wrap);
        let mut rig = Rig::sized(if mergeable { MERGE } else { PLAIN }, sizes, start, &[TX_BUFFERS + 3000]);
        let mut expected = Expected {
            sent: VecDeque::new(), sent_ids: VecDeque::new(), armed: VecDeque::new(), filled: VecDeque::new(),
        };
        let mut slots = (0..16).cycle();
        let mut places = (0..128).cycle();
        for (seed, step) in steps.into_iter().chain([Step::Poll, Step::Take]).enumerate() {
            match step {
                Step::Send(len, cuts, in_table) => {
                    let bytes = frame(len, seed as u8);
                    let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < len + 12).collect();
                    ends.sort_unstable();
                    // No buffer or table is written again while a chain with it waits.
                    let needed = if in_table { 1 } else { ends.len() as u16 + 1 };
                    if rig.rings[TX].free < needed || expected.sent.len() >= 15 {
                        continue;
                    }
                    let slot = slots.next().unwrap();
                    let mut pieces = rig.lay(slot, &[0; 12], &bytes, &ends);
                    if in_table {
                        pieces = vec![rig.table(slot, &pieces)];
                    }
                    let id = rig.give(TX, &pieces).unwrap();
                    expected.sent.push_back(Some(bytes));
                    expected.sent_ids.push_back(id);
                }
                Step::SendBad => {
                    let pieces = [(BASE + TX_BUFFERS as u64, 10, 0), (7, 10, 0)];
                    if let Some(id) = rig.give(TX, &pieces) {
                        expected.sent.push_back(None);
                        expected.sent_ids.push_back(id);
                    }
                }
                Step::Poll => {
                    let wire = rig.poll();
                    let bad = expected.sent.iter().filter(|f| f.is_none()).count();
                    prop_assert_eq!(wire.rejected.len(), bad);
                    let good: Vec<Vec<u8>> = expected.sent.drain(..).flatten().collect();
                    prop_assert_eq!(wire.frames, good);
                }
                Step::Arm(lens, in_table) => {
                    let needed = if in_table { 1 } else { lens.len() as u16 };
                    if rig.rings[RX].free < needed {
                        continue;
                    }
                    let slot = places.next().unwrap();
                    let mut at = BASE + (RX_BUFFERS + slot * 4096) as u64;
                    let mut pieces = vec![];
                    for len in lens {
                        pieces.push((at, len, WRITE));
                        at += u64::from(len) + 7;
                    }
                    let given = if in_table { vec![rig.table(16 + slot % 32, &pieces)] } else { pieces.clone() };
                    let id = rig.give(RX, &given).unwrap();
                    expected.armed.push_back((id, pieces));
                }
                Step::Deliver(lens) => {
                    let frames: Vec<Vec<u8>> = lens.iter().map(|len| frame(*len, seed as u8)).collect();
                    let fits = frames.iter().filter(|f| expected.receive(f, mergeable)).count();
                    let totals = counted(&rig.deliver(&frames));
                    prop_assert_eq!(totals.out_frames, fits as u64, "{:?}", totals);
                }
                Step::Take => {
                    let done = expected.sent_ids.len() - expected.sent.len();
                    let back: Vec<u16> = expected.sent_ids.drain(..done).collect();
                    prop_assert_eq!(rig.used(TX), back.into_iter().map(|id| (id, 0)).collect::<Vec<_>>());
                    for (id, len) in rig.used(RX) {
                        let (expected_id, pieces, bytes) = expected.filled.pop_front().unwrap();
                        prop_assert_eq!((id, len as usize), (expected_id, bytes.len()));
                        let parts = pieces.iter().map(|(at, len, _)| rig.peek((at - BASE) as usize, *len as usize));
                        prop_assert_eq!(&parts.collect::<Vec<_>>().concat()[..bytes.len()], &bytes[..]);
                    }
                    prop_assert_eq!(expected.filled.len(), 0);
                }
            }
        }
        prop_assert!(!rig.failed(RX) && !rig.failed(TX));
    }
}
