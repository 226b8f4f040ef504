//! A driver in shared memory against the card: frames and buffers in every shape, and rings that make no sense.

#[path = "hostile/split.rs"]
mod hostile;
mod rig;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{Arm, Csum, DropReason, Gso, Ingress, MAX_FRAME, MAX_FRAME_SLICES, Offload, Tally};
use proptest::prelude::*;
use rig::{BASE, MAC, SIZE, Wire, card, counted, deliver, frame, no_rings, region};
use sharedmem::{Region, SplitRing};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vnic::virtio::features::{
    EVENT_IDX, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6, HOST_USO, MRG_RXBUF, VERSION_1,
    caps, header_len, offered,
};
use vnic::virtio::{Active, Card, RxPath, RxQueue, RxState, TxQueue, TxQueueRings, TxState};

/// Where things lie in memory.
const TX_RING: usize = 0;
const RX_RING: usize = 0x8000;
const TABLES: usize = 0x1_0000;
const TX_BUFFERS: usize = 0x4_0000;
const RX_BUFFERS: usize = 0x20_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One descriptor: address, length, flags, next.
type Desc = (u64, u32, u16, u16);

/// A ring as its driver has it.
struct Ring {
    at: usize,
    size: u16,
    /// Next available entry, next used one to look at, and next descriptor to write.
    avail: u16,
    seen: u16,
    free: u16,
}

impl Ring {
    fn new(at: usize, size: u16) -> Ring {
        Ring { at, size, avail: 0, seen: 0, free: 0 }
    }

    fn areas(&self) -> [usize; 3] {
        [self.at, self.at + 0x4000, self.at + 0x5000]
    }

    fn open(&self, memory: &Arc<Region>) -> SplitRing {
        let [desc, avail, used] = self.areas();
        SplitRing::new(self.size, (memory, desc), (memory, avail), (memory, used)).unwrap()
    }
}

/// A card and its driver.
struct Rig {
    memory: Arc<Region>,
    card: Arc<Card>,
    active: Arc<Active>,
    queue: TxQueue,
    path: RxPath,
    tx: Ring,
    rx: Ring,
    calls: [OwnedFd; 2],
    header: usize,
}

const PLAIN: u64 = VERSION_1;
const MERGE: u64 = VERSION_1 | MRG_RXBUF;

impl Rig {
    /// With rings of 64; memory in spans that meet at `cuts`.
    fn new(features: u64, cuts: &[usize]) -> Rig {
        let memory = region(SIZE);
        let (tx, rx) = (Ring::new(TX_RING, 64), Ring::new(RX_RING, 64));
        let mut active = no_rings(&memory, features, cuts);
        active.tx[0] = Some(TxQueueRings { ring: tx.open(&memory).into(), state: Arc::new(TxState::new(0)) });
        active.rx[0] = Some(RxQueue { ring: rx.open(&memory).into(), state: Arc::new(RxState::new(0)) });
        active.receivers.push(0);
        let active = Arc::new(active);
        let (card, calls) = card(&active);
        let (queue, path) = (TxQueue::new(card.clone(), 0), RxPath::new(card.clone()));
        let header = header_len(features);
        Rig { memory, card, active, queue, path, tx, rx, calls, header }
    }

    fn poke(&self, at: usize, bytes: &[u8]) {
        assert!(self.memory.slice(at, bytes.len()).unwrap().write_at(0, bytes));
    }

    fn peek(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.slice(at, len).unwrap().read_at(0, &mut bytes));
        bytes
    }

    /// Reads a word at once, however the card writes it meanwhile.
    fn word(&self, at: usize) -> u16 {
        self.memory.slice(at, 2).unwrap().load_u16(0).unwrap()
    }

    fn desc(&self, at: usize, (addr, len, flags, next): Desc) {
        let (addr, len) = (addr.to_le_bytes(), len.to_le_bytes());
        self.poke(at, &[&addr[..], &len, &flags.to_le_bytes(), &next.to_le_bytes()].concat());
    }

    /// Makes the chain at `head` available.
    fn publish(&mut self, tx: bool, head: u16) {
        let ring = if tx { &self.tx } else { &self.rx };
        let ([_, avail, _], index, size) = (ring.areas(), ring.avail, ring.size);
        self.poke(avail + 4 + 2 * usize::from(index % size), &head.to_le_bytes());
        assert!(self.memory.slice(avail + 2, 2).unwrap().store_u16(0, index.wrapping_add(1)));
        let ring = if tx { &mut self.tx } else { &mut self.rx };
        ring.avail = index.wrapping_add(1);
    }

    /// Writes descriptors one after the other, linked, without `NEXT` in the last; returns the first.
    fn link(&mut self, tx: bool, pieces: &[(u64, u32, u16)]) -> u16 {
        let ring = if tx { &mut self.tx } else { &mut self.rx };
        let (at, first, size) = (ring.at, ring.free, ring.size);
        ring.free = (first + pieces.len() as u16) % size;
        for (n, (addr, len, flags)) in pieces.iter().enumerate() {
            let index = (first + n as u16) % size;
            let more = if n + 1 < pieces.len() { NEXT } else { 0 };
            self.desc(at + 16 * usize::from(index), (*addr, *len, *flags | more, (index + 1) % size));
        }
        first
    }

    /// Writes an indirect table number `which`, linked as in [`Rig::link`]; returns the descriptor that names it.
    fn table(&self, which: usize, pieces: &[(u64, u32, u16)]) -> (u64, u32, u16) {
        let at = TABLES + which * 0x1000;
        for (n, (addr, len, flags)) in pieces.iter().enumerate() {
            let more = if n + 1 < pieces.len() { NEXT } else { 0 };
            self.desc(at + 16 * n, (*addr, *len, *flags | more, n as u16 + 1));
        }
        (BASE + at as u64, 16 * pieces.len() as u32, INDIRECT)
    }

    fn send(&mut self, pieces: &[(u64, u32, u16)]) {
        let head = self.link(true, pieces);
        self.publish(true, head);
    }

    /// A header that asks for nothing and `frame`, cut at `cuts` (which count the header).
    fn lay(&self, slot: usize, head: &[u8], frame: &[u8], cuts: &[usize]) -> Vec<(u64, u32, u16)> {
        let at = TX_BUFFERS + slot * 0x1_0000;
        let all = [head, frame].concat();
        self.poke(at, &all);
        let ends: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).chain([all.len()]).collect();
        ends.windows(2).map(|w| (BASE + (at + w[0]) as u64, (w[1] - w[0]) as u32, 0)).collect()
    }

    fn plain(&self, slot: usize, frame: &[u8]) -> Vec<(u64, u32, u16)> {
        self.lay(slot, &vec![0; self.header], frame, &[])
    }

    /// What the card has given back since the last look: heads and lengths.
    fn used(&mut self, tx: bool) -> Vec<(u16, u32)> {
        let ring = if tx { &mut self.tx } else { &mut self.rx };
        let ([_, _, used], size, mut seen) = (ring.areas(), ring.size, ring.seen);
        let index = self.word(used + 2);
        let mut all = vec![];
        while seen != index {
            let entry = self.peek(used + 4 + 8 * usize::from(seen % size), 8);
            let field = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            all.push((u16::try_from(field(0)).unwrap(), field(4)));
            seen = seen.wrapping_add(1);
        }
        let ring = if tx { &mut self.tx } else { &mut self.rx };
        ring.seen = seen;
        assert!(all.len() <= usize::from(size), "more came back than was given");
        all
    }

    fn poll(&mut self) -> Wire {
        let mut wire = Wire::default();
        while self.queue.poll(&mut wire) > 0 {}
        wire
    }

    /// Gives a receive buffer of `len` bytes at `slot` (2 KiB each).
    fn arm(&mut self, slot: usize, len: u32) {
        let head = self.link(false, &[(BASE + (RX_BUFFERS + slot * 2048) as u64, len, WRITE)]);
        self.publish(false, head);
    }

    fn deliver(&self, frames: &[Vec<u8>]) -> Tally {
        deliver(&self.path, frames, Offload::default())
    }

    /// How often a queue's eventfd was written since the last look.
    fn calls(&self, index: usize) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&self.calls[index], &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn set_used_event(&self, tx: bool, index: u16) {
        let ring = if tx { &self.tx } else { &self.rx };
        self.poke(ring.areas()[1] + 4 + 2 * usize::from(ring.size), &index.to_le_bytes());
    }
}

#[test]
fn frames_in_any_shape_arrive_whole() {
    // One span's border lies in the middle of the third frame.
    let mut rig = Rig::new(MERGE, &[TX_BUFFERS + 2 * 0x1_0000 + 100]);
    let sent: Vec<Vec<u8>> = (0..8u8).map(|n| frame(600 + usize::from(n), n)).collect();
    let head = [0; 12];
    let mut heads = vec![];
    let cuts: [&[usize]; 6] = [&[], &[12], &[], &[5], &[1, 2, 3, 10, 11, 12, 13, 26, 100], &[12, 12, 40]];
    for (n, cuts) in cuts.iter().enumerate() {
        let pieces = rig.lay(n, &head, &sent[n], cuts);
        heads.push(rig.tx.free);
        rig.send(&pieces);
    }
    // A table alone, and a table behind a descriptor with half of the header.
    let pieces = rig.lay(6, &head, &sent[6], &[12, 50, 300]);
    let table = rig.table(0, &pieces);
    heads.push(rig.tx.free);
    rig.send(&[table]);
    let pieces = rig.lay(7, &head, &sent[7], &[6, 70]);
    let table = rig.table(1, &pieces[1..]);
    heads.push(rig.tx.free);
    rig.send(&[pieces[0], table]);
    let wire = rig.poll();
    assert_eq!(wire.rejected, []);
    assert_eq!(wire.frames, sent);
    assert_eq!(rig.used(true), heads.into_iter().map(|h| (h, 0)).collect::<Vec<_>>());
}

/// What is wrong with a chain, and how it is published.
type BadChain = (&'static str, fn(&mut Rig));

/// Chains that make no sense, each by what the driver does to publish it.
fn bad_chains() -> Vec<BadChain> {
    fn direct(rig: &mut Rig, descs: &[Desc]) {
        for (n, desc) in descs.iter().enumerate() {
            rig.desc(TX_RING + 16 * (60 + n), *desc);
        }
        rig.publish(true, 60);
    }
    fn in_table(rig: &mut Rig, descs: &[Desc], len: u32, flags: u16) {
        for (n, desc) in descs.iter().enumerate() {
            rig.desc(TABLES + 0x8000 + 16 * n, *desc);
        }
        direct(rig, &[(BASE + TABLES as u64 + 0x8000, len, INDIRECT | flags, 0)]);
    }
    const DATA: u64 = BASE + TX_BUFFERS as u64;
    vec![
        ("a loop", |r| direct(r, &[(DATA, 8, NEXT, 60)])),
        ("a loop of two", |r| direct(r, &[(DATA, 8, NEXT, 61), (DATA, 8, NEXT, 60)])),
        ("a head out of range", |r| r.publish(true, 64)),
        ("the last head there could be", |r| r.publish(true, u16::MAX)),
        ("a next one out of range", |r| direct(r, &[(DATA, 100, NEXT, 64)])),
        ("for the device to write", |r| direct(r, &[(DATA, 100, WRITE, 0)])),
        ("half of it to write", |r| direct(r, &[(DATA, 100, NEXT, 61), (DATA, 100, WRITE, 0)])),
        ("no bytes", |r| direct(r, &[(DATA, 0, 0, 0)])),
        ("two times no bytes", |r| direct(r, &[(DATA, 0, NEXT, 61), (DATA, 0, 0, 0)])),
        ("half a header", |r| direct(r, &[(DATA, 6, 0, 0)])),
        ("a header alone", |r| direct(r, &[(DATA, 12, 0, 0)])),
        ("a header and half an Ethernet header", |r| direct(r, &[(DATA, 19, 0, 0)])),
        ("past memory", |r| direct(r, &[(BASE + SIZE as u64 - 50, 100, 0, 0)])),
        ("before memory", |r| direct(r, &[(BASE - 50, 100, 0, 0)])),
        ("the end of all addresses", |r| direct(r, &[(u64::MAX - 50, 100, 0, 0)])),
        ("4 GiB", |r| direct(r, &[(DATA, u32::MAX, 0, 0)])),
        ("its second part past memory", |r| direct(r, &[(DATA, 60, NEXT, 61), (1, 60, 0, 0)])),
        ("a table in a table", |r| in_table(r, &[(DATA, 16, INDIRECT, 0)], 16, 0)),
        ("a table that goes on", |r| in_table(r, &[(DATA, 100, 0, 0)], 16, NEXT)),
        ("a table of no length", |r| in_table(r, &[(DATA, 100, 0, 0)], 0, 0)),
        ("a table and a half", |r| in_table(r, &[(DATA, 100, 0, 0)], 24, 0)),
        ("a table with a next one behind it", |r| in_table(r, &[(DATA, 100, NEXT, 1)], 16, 0)),
        ("a table with a loop", |r| in_table(r, &[(DATA, 1, NEXT, 0)], 16, 0)),
        ("a table to write", |r| in_table(r, &[(DATA, 100, WRITE, 0)], 16, 0)),
        ("a table past memory", |r| direct(r, &[(BASE + SIZE as u64 - 16, 32, INDIRECT, 0)])),
        ("a table that has no place", |r| direct(r, &[(7, 32, INDIRECT, 0)])),
    ]
}

#[test]
fn bad_chains_cost_a_frame_each() {
    for (what, publish) in bad_chains() {
        let mut rig = Rig::new(MERGE, &[]);
        let good = frame(100, 7);
        publish(&mut rig);
        assert_eq!((rig.poll().rejected.len(), rig.used(true).len()), (1, 1), "{what}, alone");
        for round in 0..3 {
            publish(&mut rig);
            let pieces = rig.plain(8, &good);
            rig.send(&pieces);
            let wire = rig.poll();
            assert_eq!(wire.rejected.len(), 1, "{what}: one frame is lost in round {round}: {:?}", wire.rejected);
            assert_eq!(wire.frames, std::slice::from_ref(&good), "{what}: the ring goes on");
            assert_eq!(rig.used(true).len(), 2, "{what}: both came back");
        }
        assert!((0..2).all(|queue| !rig.active.failed(queue)), "{what}");
    }
}

/// Whether a frame is alone or one of several, it lies in its buffer as it was, with nothing written that the driver is not told
/// of where there is no room for more, and is counted with its bytes.
#[test]
fn a_lone_frame_is_delivered_and_counted_as_one_of_many() {
    for features in [0, PLAIN, MERGE] {
        for (len, room) in [(60, 2048), (60, 76), (60, 72), (64, 76), (65, 77), (1514, 2048), (1514, 1526)] {
            let mut rig = Rig::new(features, &[]);
            let header = if features == 0 { vec![0; 10] } else { [&[0; 10][..], &[1, 0]].concat() };
            for count in [1, 2, 1, 5, 1] {
                rig.poke(RX_BUFFERS, &[0xaa; 5 * 2048]);
                (0..count).for_each(|slot| rig.arm(slot, room));
                let sent: Vec<_> = (0..count).map(|n| frame(len, n as u8)).collect();
                let totals = counted(&rig.deliver(&sent));
                assert_eq!((totals.out_frames, totals.out_bytes), (count as u64, (count * len) as u64));
                let used: Vec<_> = rig.used(false).iter().map(|(_, len)| *len).collect();
                assert_eq!(used, vec![(header.len() + len) as u32; count], "{len} in {room}");
                for (n, sent) in sent.iter().enumerate() {
                    let at = RX_BUFFERS + n * 2048;
                    assert_eq!(rig.peek(at, header.len() + len), [&header[..], sent].concat());
                    let behind = rig.peek(at + room as usize, 2048 - room as usize);
                    assert!(behind.iter().all(|byte| *byte == 0xaa), "{len} in {room}: more was written");
                }
            }
            assert_eq!(counted(&rig.deliver(&[frame(len, 9)])).drops(DropReason::RingFull), 1, "nothing is left");
            assert_eq!(rig.used(false), []);
        }
    }
}

#[test]
fn an_index_out_of_range_stops_its_queue_and_nothing_else() {
    for tx in [true, false] {
        let mut rig = Rig::new(MERGE, &[]);
        let ring = if tx { &rig.tx } else { &rig.rx };
        rig.poke(ring.areas()[1] + 2, &65u16.to_le_bytes());
        let wire = rig.poll();
        let totals = counted(&rig.deliver(&[frame(60, 1), frame(60, 2)]));
        assert!(rig.active.failed(usize::from(tx)) && !rig.active.failed(usize::from(!tx)));
        assert_eq!((wire.frames.len(), totals.out_frames), (0, 0));
        assert!(totals.balanced() && totals.out_offered == 2, "{totals:?}");
        assert_eq!((rig.used(true), rig.used(false)), (vec![], vec![]));
    }
}

#[test]
fn the_header_says_what_is_left_to_do() {
    let mut rig = Rig::new(MERGE, &[]);
    let header = |flags: u8, gso: u8, mss: u16, start: u16, offset: u16| {
        let mut bytes = vec![flags, gso, 0, 0];
        [mss, start, offset, 0].iter().for_each(|w| bytes.extend(w.to_le_bytes()));
        bytes
    };
    let tcp = tcp(3000);
    let sum = rig.lay(0, &header(1, 0, 0, 34, 16), &tcp[..1000], &[]);
    rig.send(&sum);
    let cut = rig.lay(1, &header(1, 1, 1000, 34, 16), &tcp, &[12, 200]);
    rig.send(&cut);
    let valid = rig.lay(2, &header(2, 0, 0, 0, 0), &frame(80, 1), &[]);
    rig.send(&valid);
    for (n, bad) in
        [header(1, 9, 1000, 34, 16), header(1, 0, 0, 0xfff0, 0xfff0), header(1, 1, 0, 34, 16)].iter().enumerate()
    {
        let pieces = rig.lay(3 + n, bad, &tcp, &[]);
        rig.send(&pieces);
    }
    let wire = rig.poll();
    assert_eq!(wire.offloads[0].csum, Csum::Fill { start: 34, at: 50 });
    assert_eq!(wire.offloads[1].gso.map(|g| (g.mss, g.header)), Some((1000, 54)));
    assert_eq!(wire.offloads[2].csum, Csum::Good);
    assert_eq!(wire.offloads.len(), 3);
    assert_eq!(wire.frames.len(), 5, "three segments of the second");
    assert_eq!(wire.rejected.len(), 3, "{:?}", wire.rejected);
    assert_eq!(rig.used(true).len(), 6);
}

/// UDP over IPv4 with `payload` bytes under one header.
fn udp(payload: usize) -> Vec<u8> {
    let mut frame = tcp(payload + 12);
    frame[23] = 17;
    let length = (payload as u16 + 8).to_be_bytes();
    let [high, low] = (payload as u16 + 28).to_be_bytes();
    frame[16..18].copy_from_slice(&[high, low]);
    frame.truncate(42 + payload);
    frame[34..42].copy_from_slice(&[0, 80, 1, 2, length[0], length[1], 0, 0]);
    frame
}

#[test]
fn datagrams_under_one_header_come_in_whole() {
    let mut rig = Rig::new(MERGE, &[]);
    let udp = udp(3000);
    let header = |flags: u8, words: [u16; 3]| {
        let mut bytes = vec![flags, 5, 0, 0];
        words.iter().chain(&[0]).for_each(|w| bytes.extend(w.to_le_bytes()));
        bytes
    };
    let whole = rig.lay(0, &header(1, [1400, 34, 6]), &udp, &[12, 200]);
    rig.send(&whole);
    // No size, TCP, and a UDP length that says more than there is.
    let bad = [(0, &udp[..]), (1400, &tcp(3000)), (1400, &udp[..2999])];
    for (n, (mss, bytes)) in bad.into_iter().enumerate() {
        let pieces = rig.lay(3 + n, &header(1, [mss, 34, 6]), bytes, &[]);
        rig.send(&pieces);
    }
    let wire = rig.poll();
    assert_eq!(wire.offloads.iter().map(|o| o.gso).collect::<Vec<_>>(), [Some(Gso::udp(1400, 42))]);
    assert_eq!(wire.offloads[0].csum, Csum::Fill { start: 34, at: 40 });
    assert_eq!(wire.rejected, [DropReason::BadOffload; 3]);
    // The rig's wire takes no such frames.
    assert_eq!(wire.frames.iter().map(Vec::len).collect::<Vec<_>>(), [1442, 1442, 242]);
    assert_eq!(wire.frames.iter().flat_map(|frame| &frame[42..]).copied().collect::<Vec<_>>(), udp[42..]);
    assert_eq!(rig.used(true).len(), 4);
}

#[test]
fn datagrams_under_one_header_go_whole_to_a_driver_that_takes_them() {
    let takes = GUEST_CSUM | GUEST_USO4 | GUEST_USO6;
    assert_eq!(offered(1) & (takes | HOST_USO), takes | HOST_USO);
    let (tcp_too, none) = (GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN, 0);
    for more in [none, tcp_too] {
        assert_eq!((caps(takes | more).uso, caps(takes | more).tso), (true, more != none));
        for missing in [GUEST_CSUM, GUEST_USO4, GUEST_USO6] {
            assert!(!caps(takes & !missing | more).uso, "{missing:#x}");
        }
    }
    let udp = udp(60_000);
    let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::udp(1400, 42)) };
    for (features, frames) in [(MERGE | takes, 1), (MERGE | takes & !GUEST_USO6 | tcp_too, 43)] {
        let mut rig = Rig::new(features, &[]);
        (0..64).for_each(|slot| rig.arm(slot, 2048));
        let totals = counted(&deliver(&rig.path, std::slice::from_ref(&udp), offload));
        assert_eq!(totals.out_frames, frames);
        let used = rig.used(false);
        let part = |n: usize| rig.peek(RX_BUFFERS + n * 2048, used[n].1 as usize);
        // Needs a checksum, UDP_L4, headers of 42 bytes, 1400 in each, summed from 34, to 6 behind it.
        let header = [1, 5, 42, 0, 0x78, 5, 34, 0, 6, 0, 30, 0];
        let first = part(0);
        if frames == 1 {
            assert_eq!(first[..12], header);
        } else {
            assert_eq!((first[1], &first[4..6], &first[10..12]), (0, &[0, 0][..], &[1, 0][..]), "one frame by itself");
        }
        let payload: Vec<u8> = if frames == 1 {
            (0..used.len()).flat_map(part).skip(12 + 42).collect()
        } else {
            (0..used.len()).flat_map(|n| part(n).split_off(12 + 42)).collect()
        };
        assert!(payload == udp[42..]);
    }
}

/// A TCP segment over IPv4 with `payload` bytes.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = MAC.0.to_vec();
    frame.extend([0, 0x50, 0x56, 0, 0, 9, 8, 0, 0x45, 0]);
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 80, 1, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|i| (i % 251) as u8));
    frame
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    let mut rig = Rig::new(MERGE, &[]);
    let good = frame(100, 1);
    let sent = |rig: &mut Rig, n: usize| {
        for _ in 0..n {
            let pieces = rig.plain(0, &good);
            rig.send(&pieces);
        }
        assert_eq!(rig.poll().frames.len(), n);
        rig.calls(1)
    };
    assert_eq!(sent(&mut rig, 3), 1, "one for the burst");
    let flags = rig.tx.areas()[1];
    rig.poke(flags, &1u16.to_le_bytes());
    assert_eq!(sent(&mut rig, 3), 0, "not wanted");

    let mut rig = Rig::new(MERGE | EVENT_IDX, &[]);
    let flags = rig.tx.areas()[1];
    rig.poke(flags, &1u16.to_le_bytes());
    rig.set_used_event(true, 4);
    assert_eq!(sent(&mut rig, 4), 0, "the fifth is waited for");
    assert_eq!(sent(&mut rig, 1), 1, "whatever the flag says");
    assert_eq!(sent(&mut rig, 20), 0, "that was long ago");
    rig.set_used_event(true, 30);
    assert_eq!(sent(&mut rig, 20), 1, "in the middle of a burst");

    for slot in 0..10 {
        rig.arm(slot, 2048);
    }
    rig.set_used_event(false, 2);
    rig.deliver(&[frame(60, 1), frame(60, 2)]);
    assert_eq!(rig.calls(0), 0);
    rig.deliver(&[frame(60, 1)]);
    assert_eq!(rig.calls(0), 1);
}

#[test]
fn a_sleeping_worker_is_woken() {
    for features in [MERGE, MERGE | EVENT_IDX] {
        let mut rig = Rig::new(features, &[]);
        let good = frame(100, 1);
        for _ in 0..3 {
            let pieces = rig.plain(0, &good);
            rig.send(&pieces);
        }
        assert!(matches!(rig.queue.arm(), Arm::Busy), "there is work");
        rig.poll();
        assert!(matches!(rig.queue.arm(), Arm::Kick(_)));
        let used = rig.tx.areas()[2];
        assert_eq!(rig.word(used) & 1, 0, "the driver is asked to notify");
        assert_eq!(rig.word(used + 4 + 8 * 64), 3, "of the fourth");
        rig.queue.disarm();
        assert_eq!(rig.word(used) & 1, 1);
    }
}

#[test]
fn large_frames_fill_many_buffers() {
    let mut rig = Rig::new(MERGE, &[RX_BUFFERS + 3 * 2048 + 700]);
    (0..20).for_each(|slot| rig.arm(slot, 1000));
    let (large, small) = (frame(9014, 3), frame(60, 4));
    let totals = counted(&rig.deliver(&[large.clone(), small.clone()]));
    assert_eq!((totals.out_frames, totals.out_bytes), (2, 9074));
    let used = rig.used(false);
    assert_eq!(used.len(), 11);
    assert_eq!(rig.peek(RX_BUFFERS, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0], "ten buffers");
    let parts = used[..10].iter().enumerate().map(|(n, (_, len))| rig.peek(RX_BUFFERS + n * 2048, *len as usize));
    assert_eq!(parts.collect::<Vec<_>>().concat()[12..], large);
    assert_eq!(rig.peek(RX_BUFFERS + 10 * 2048, 72)[10..], [&[1, 0], &small[..]].concat());
    assert_eq!(used[10].1, 72);

    // Nine are left, too few: none of them is lost.
    let totals = counted(&rig.deliver(&[large.clone(), small.clone()]));
    assert_eq!((totals.out_frames, totals.drops(DropReason::RingFull)), (1, 1));
    assert_eq!(rig.used(false).len(), 1);
}

#[test]
fn without_merging_a_frame_takes_one_chain() {
    let mut rig = Rig::new(PLAIN, &[]);
    let buffer = BASE + RX_BUFFERS as u64;
    // Header and frame apart, then a table of three.
    let head = rig.link(false, &[(buffer, 12, WRITE), (buffer + 12, 500, WRITE)]);
    rig.publish(false, head);
    let table = rig.table(2, &[(buffer + 2048, 5, WRITE), (buffer + 2053, 50, WRITE), (buffer + 2103, 1000, WRITE)]);
    let second = rig.link(false, &[table]);
    rig.publish(false, second);
    let totals = counted(&rig.deliver(&[frame(700, 1), frame(500, 2), frame(1000, 3)]));
    assert_eq!((totals.out_frames, totals.drops(DropReason::Oversize)), (2, 1), "the first buffer is too small for it");
    assert_eq!(rig.used(false), [(head, 512), (second, 1012)]);
    assert_eq!(rig.peek(RX_BUFFERS, 512)[12..], frame(500, 2));
    assert_eq!(rig.peek(RX_BUFFERS + 2048, 1012)[12..], frame(1000, 3));
    let totals = counted(&rig.deliver(&[frame(60, 1)]));
    assert_eq!(totals.drops(DropReason::RingFull), 1, "nothing is left");
}

#[test]
fn bad_receive_chains_cost_a_frame_each() {
    for features in [PLAIN, MERGE] {
        let buffer = BASE + RX_BUFFERS as u64;
        for (addr, len, flags) in
            [(buffer, 2048, 0), (buffer, 0, WRITE), (BASE + SIZE as u64 - 10, 2048, WRITE), (7, 32, INDIRECT)]
        {
            let mut rig = Rig::new(features, &[]);
            let bad = rig.link(false, &[(addr, len, flags)]);
            rig.publish(false, bad);
            rig.publish(false, 64);
            rig.arm(1, 2048);
            let totals = counted(&rig.deliver(&[frame(60, 1), frame(60, 2), frame(60, 3)]));
            assert_eq!((totals.out_frames, totals.drops(DropReason::BadDescriptor)), (1, 2), "{addr:#x} {len} {flags}");
            let used = rig.used(false);
            assert_eq!(used.iter().map(|(_, len)| *len).collect::<Vec<_>>(), [0, 0, 72], "given back empty");
            assert!((0..2).all(|queue| !rig.active.failed(queue)));
        }
    }
}

/// Two workers deliver to one queue while the driver gives buffers back: each frame arrives once, each worker's in its
/// order, and the used ring tells of each buffer in the order of its index.
#[test]
fn two_workers_deliver_to_one_queue() {
    const FRAMES: u32 = 20_000;
    let mut rig = Rig::new(MERGE, &[]);
    (0..64).for_each(|slot| rig.arm(slot, 400));
    let path = Arc::new(RxPath::new(rig.card.clone()));
    let workers = [0u8, 1].map(|worker| {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut number = 0u32;
            while number < FRAMES {
                // One is delivered at a time, so a refusal can be told from the count; every third takes two buffers.
                let mut bytes = frame(if number.is_multiple_of(3) { 600 } else { 60 }, worker);
                bytes[14] = worker;
                bytes[15..19].copy_from_slice(&number.to_le_bytes());
                let totals = counted(&deliver(&*path, &[bytes], Offload::default()));
                if totals.out_frames == 1 {
                    number += 1;
                } else {
                    assert_eq!(totals.drops(DropReason::RingFull), 1, "{totals:?}");
                    std::thread::yield_now();
                }
            }
        })
    });
    let mut next = [0u32; 2];
    let mut rest = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    while next != [FRAMES; 2] {
        assert!(Instant::now() < deadline, "{next:?} arrived");
        for (head, len) in rig.used(false) {
            let bytes = rig.peek(RX_BUFFERS + usize::from(head) * 2048, len as usize);
            if rest > 0 {
                rest -= 1;
            } else {
                rest = u16::from_le_bytes([bytes[10], bytes[11]]) - 1;
                let (worker, number) = (usize::from(bytes[26]), u32::from_le_bytes(bytes[27..31].try_into().unwrap()));
                assert_eq!(number, next[worker], "frames of worker {worker} in their order");
                assert_eq!(rest, u16::from(number.is_multiple_of(3)));
                next[worker] += 1;
            }
            let at = rig.rx.avail % 64;
            assert_eq!(at, head, "buffers come back in the order they were given");
            rig.publish(false, head);
        }
        std::thread::yield_now();
    }
    workers.into_iter().for_each(|w| w.join().unwrap());
}

/// Three workers deliver bursts to one queue whose buffers are of several sizes and kinds: what one of them claims and cannot
/// use must not be lost, and nobody waits for ever.
#[test]
fn workers_share_a_queue_of_odd_buffers() {
    const FRAMES: u32 = 5_000;
    for kind in 0..4 {
        let mut rig = Rig::new(MERGE, &[]);
        for slot in 0..32 {
            let at = BASE + (RX_BUFFERS + slot * 2048) as u64;
            let pieces = match (kind, slot % 5) {
                (0, _) => [(at, 2048, WRITE), (at, 0, WRITE)],
                (1, 3) => [(at, 100, WRITE), (at + 100, 0, WRITE)],
                (1, _) => [(at, 400, WRITE), (at + 400, 0, WRITE)],
                (2, 0) => [(at, 12, WRITE), (at + 12, 1000, WRITE)],
                (2, _) => [(at, 400, WRITE), (at + 400, 400, WRITE)],
                _ => [(at, 500 + slot as u32 * 40, WRITE), (at, 0, WRITE)],
            };
            // A second piece of no bytes would be a chain of two: most are of one.
            let pieces = if kind == 2 && slot % 3 > 0 || pieces[1].1 == 0 { &pieces[..1] } else { &pieces[..] };
            let head = rig.link(false, pieces);
            rig.rx.free = 2 * (slot as u16 + 1) % 64;
            assert_eq!(head, 2 * slot as u16);
            rig.publish(false, head);
        }
        let path = Arc::new(RxPath::new(rig.card.clone()));
        let workers = [0u8, 1, 2].map(|worker| {
            let path = path.clone();
            std::thread::spawn(move || rig::bursts(&*path, worker, FRAMES))
        });
        let mut reader = rig::Reader::default();
        let mut given = 0u16;
        loop {
            let ended = workers.iter().all(std::thread::JoinHandle::is_finished);
            for (head, len) in rig.used(false) {
                assert_eq!(head, given % 32 * 2, "buffers come back in the order they were given");
                given = given.wrapping_add(1);
                // The pieces of a chain lie one behind the other.
                reader.take(&rig.peek(RX_BUFFERS + usize::from(head / 2) * 2048, len as usize));
                rig.publish(false, head);
            }
            if ended {
                break;
            }
            std::thread::yield_now();
        }
        let taken: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(reader.frames.to_vec(), taken, "kind {kind}: what was delivered arrived");
        assert!(kind != 0 || reader.empty == 0, "none of these needs to go back empty");
        assert!(!rig.active.failed(0));
    }
}

/// `virtio-queue`'s view of a ring.
fn other_queue(ring: &Ring) -> Queue {
    let mut queue = Queue::new(64).unwrap();
    queue.set_size(64);
    for (place, set) in ring.areas().into_iter().zip([
        Queue::set_desc_table_address,
        Queue::set_avail_ring_address,
        Queue::set_used_ring_address,
    ]) {
        set(&mut queue, Some((BASE + place as u64) as u32), Some(0));
    }
    queue.set_ready(true);
    queue
}

/// What `virtio-queue` makes of the chain that is published next: `None` when the card must refuse it, else the bytes, header
/// included.
fn model(queue: &mut Queue, memory: &GuestMemoryMmap) -> Option<Vec<u8>> {
    let mut chain = queue.pop_descriptor_chain(memory).unwrap();
    let (mut bytes, mut pieces, mut count, mut ended) = (vec![], 0, 0, false);
    for desc in chain.by_ref() {
        count += 1;
        pieces += usize::from(desc.len() > 0);
        ended = !desc.has_next();
        let at = bytes.len();
        if desc.is_write_only() || bytes.len() + desc.len() as usize > SIZE {
            return None;
        }
        bytes.resize(at + desc.len() as usize, 0);
        memory.read_slice(&mut bytes[at..], desc.addr()).ok()?;
    }
    // The crate ends its iteration without a word where a chain is broken.
    // It knows no longest frame, and the switch does.
    let whole = ended && count <= 64 && pieces <= MAX_FRAME_SLICES && (12 + 14..=12 + MAX_FRAME).contains(&bytes.len());
    whole.then_some(bytes)
}

fn any_desc() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        6 => (0u64..64).prop_map(|n| BASE + TX_BUFFERS as u64 + n * 64),
        2 => (0u64..4).prop_map(|n| BASE + TABLES as u64 + n * 0x40),
        1 => Just(BASE + SIZE as u64 - 32),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => (1u32..10).prop_map(|n| n * 16), 2 => 0u32..200, 1 => any::<u32>()];
    let flags = prop_oneof![6 => Just(0u16), 6 => Just(NEXT), 3 => Just(INDIRECT), 1 => Just(WRITE), 1 => 0u16..8];
    (addr, len, flags, prop_oneof![9 => 0u16..16, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same bytes in the ring are the same frames to the card and to an implementation of others.
    #[test]
    fn chains_are_what_virtio_queue_makes_of_them(
        ring in prop::collection::vec(any_desc(), 16),
        tables in prop::collection::vec(any_desc(), 32),
        heads in prop::collection::vec(0u16..18, 1..20),
    ) {
        let mut rig = Rig::new(MERGE, &[]);
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(BASE), SIZE)]).unwrap();
        // Zeros where headers begin, so that none asks for anything, and marks behind.
        let data: Vec<u8> = (0..0x2000usize).map(|n| if n % 16 < 12 { 0 } else { (n / 16) as u8 }).collect();
        rig.poke(TX_BUFFERS, &data);
        for (n, desc) in ring.iter().enumerate() {
            rig.desc(TX_RING + 16 * n, *desc);
        }
        for (n, desc) in tables.iter().enumerate() {
            rig.desc(TABLES + 16 * n, *desc);
        }
        let mut queue = other_queue(&rig.tx);
        for head in heads {
            rig.publish(true, head);
            for (at, len) in [(TX_RING, 0x6000), (TABLES, 0x1000), (TX_BUFFERS, 0x2000)] {
                memory.write_slice(&rig.peek(at, len), GuestAddress(BASE + at as u64)).unwrap();
            }
            let offending = head < 16 && leads_to_a_bad_table(&ring, head);
            let expected = model(&mut queue, &memory);
            let wire = rig.poll();
            prop_assert_eq!(wire.frames.len() + wire.rejected.len(), 1);
            prop_assert_eq!(rig.used(true), vec![(head, 0)]);
            match expected {
                // The crate looks at as much of such a table as there is; the standard forbids them to drivers.
                Some(_) if offending => {}
                // A header that asks for something is another test's.
                Some(bytes) if bytes[0] != 0 || bytes[1] != 0 => {}
                Some(bytes) => prop_assert_eq!(wire.frames, vec![bytes[12..].to_vec()], "{:?}", wire.rejected),
                None => prop_assert_eq!(wire.frames.len(), 0),
            }
        }
        prop_assert!((0..2).all(|queue| !rig.active.failed(queue)));
    }
}

/// True when a direct descriptor of the chain names a table and goes on, or a table that does not all lie in memory.
fn leads_to_a_bad_table(ring: &[Desc], head: u16) -> bool {
    let mut at = head;
    for _ in 0..64 {
        match ring.get(usize::from(at)) {
            Some((addr, len, flags, _)) if flags & INDIRECT != 0 => {
                let inside = addr.checked_add(u64::from(*len)).is_some_and(|end| end <= BASE + SIZE as u64);
                return flags & NEXT != 0 || !inside;
            }
            Some((_, _, flags, next)) if flags & NEXT != 0 => at = *next,
            _ => return false,
        }
    }
    false
}
