//! The switch dies between any two stores that the driver or its successor can see, again and again: every chain comes
//! back once and in order, no frame is lost, mangled or received twice, and nothing stalls.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{Burst, Caps, Delivery, Offload, Plan, PortState, Sink, Tally};
use proptest::prelude::*;
use sharedmem::{
    Inflight, Lookup, MemTable, PackedRing, Region, Slice, Span, SpanHint, SplitRing, VirtqDesc, inflight_bytes,
};

use super::chain::Pieces;
use super::features::{MRG_RXBUF, RING_PACKED, VERSION_1};
use super::ring::{AVAIL, Broken, Found, USED, Virtq};
use super::rx::Path;
use super::tx::Serving;
use super::{Active, Card, RxState, TxState, recover};
use crate::irq::Interrupts;

const BASE: u64 = 0x4000_0000;
const MEMORY: usize = 1 << 20;
/// The transmit and the receive queue: ring, buffers, indirect tables; and within a ring the areas behind descriptors.
const RINGS: [usize; 2] = [0, 0x4000];
const AREAS: [usize; 2] = [0x2000, 0x3000];
const TABLES: [usize; 2] = [0x8000, 0xc000];
const BUFFERS: [usize; 2] = [0x1_0000, 0x4_0000];
const SLOT: usize = 1024;
const SLOTS: usize = 128;
const TX: usize = 0;
const RX: usize = 1;
const RX_SIZE: u16 = 64;
const HEADER: usize = 12;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What the switch dies of.
struct Crash;

/// Something to do between two stores.
type Interlude<'a> = Option<Box<dyn FnOnce() + 'a>>;

/// Counts stores; the switch dies before the one it ends at.
struct Fuse<'a> {
    left: Cell<u32>,
    /// What another worker does when the first one has come to here.
    other: RefCell<Interlude<'a>>,
}

impl<'a> Fuse<'a> {
    fn new(left: u32) -> Fuse<'a> {
        Fuse { left: Cell::new(left), other: RefCell::default() }
    }

    fn burn(&self) {
        let other = self.other.borrow_mut().take();
        if let Some(other) = other {
            other();
        }
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => resume_unwind(Box::new(Crash)),
        }
    }
}

/// A ring whose stores burn the fuse.
struct Fused<'r, 'f, 'o, R>(&'r R, &'f Fuse<'o>);

impl<R: Virtq> Virtq for Fused<'_, '_, '_, R> {
    fn faulted(&self) -> bool {
        self.0.faulted()
    }

    fn singles(&self, at: u16, known: &mut u16, ids: &mut [u16]) -> Result<usize, Broken> {
        self.0.singles(at, known, ids)
    }

    fn first(&self, at: u16, id: u16) -> Option<VirtqDesc> {
        self.0.first(at, id)
    }

    fn chain<'m, P: Pieces<'m>>(
        &self,
        at: u16,
        known: &mut u16,
        memory: &mut Lookup<'m, '_, MemTable>,
        writable: bool,
        pieces: &mut P,
    ) -> Result<Option<Found>, Broken> {
        self.0.chain(at, known, memory, writable, pieces)
    }

    fn put_used(&self, at: u16, id: u16, len: u32) {
        self.1.burn();
        self.0.put_used(at, id, len);
    }

    fn publish(&self, at: u16) {
        self.1.burn();
        self.0.publish(at);
    }

    fn notes(&self) -> bool {
        self.0.notes()
    }

    fn note(&self, at: u16, slots: u16, id: u16, len: u32, first: u16) {
        self.1.burn();
        self.0.note(at, slots, id, len, first);
    }

    fn forget(&self, from: u16, to: u16) {
        for n in 0..to.wrapping_sub(from) {
            self.1.burn();
            self.0.forget(from.wrapping_add(n), from.wrapping_add(n + 1));
        }
    }

    fn wants_interrupt(&self, event_idx: bool, before: u16, after: u16) -> bool {
        self.1.burn();
        self.0.wants_interrupt(event_idx, before, after)
    }

    fn ask_for_kick(&self, event_idx: bool, at: u16) {
        self.0.ask_for_kick(event_idx, at);
    }

    fn ask_for_quiet(&self) {
        self.0.ask_for_quiet();
    }

    fn is_empty(&self, at: u16) -> bool {
        self.0.is_empty(at)
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % n
    }
}

/// A chain that the driver gave: its descriptors, or its identifier; positions; pieces (offset in memory, length).
struct Given {
    ids: Vec<u16>,
    slots: u16,
    pieces: Vec<(usize, usize)>,
}

/// The driver of one queue.
struct Driver {
    memory: Arc<Region>,
    which: usize,
    size: u16,
    packed: bool,
    /// Where the next chain goes, and where the next used one is looked for.
    next: u16,
    seen: u16,
    /// Descriptors that are free.
    room: u16,
    given: VecDeque<Given>,
    slot: usize,
}

impl Driver {
    fn new(memory: &Arc<Region>, which: usize, size: u16, packed: bool) -> Driver {
        let memory = memory.clone();
        Driver { memory, which, size, packed, next: 0, seen: 0, room: size, given: VecDeque::new(), slot: 0 }
    }

    /// Where descriptor `index` lies.
    fn place(&self, index: u16) -> usize {
        RINGS[self.which] + 16 * usize::from(index & (self.size - 1))
    }

    fn window(&self) -> Slice<'_> {
        self.memory.slice(0, MEMORY).expect("all of it")
    }

    fn word(&self, at: usize) -> u16 {
        self.window().load_u16(at).expect("in memory")
    }

    fn set_word(&self, at: usize, value: u16) {
        assert!(self.window().store_u16(at, value));
    }

    /// Writes a descriptor, or an entry of a table: fields in the order of the kind of ring, the flags last.
    fn describe(&self, at: usize, (offset, len): (usize, usize), flags: u16, other: u16) {
        let [f, o] = if self.packed { [14, 12] } else { [12, 14] };
        assert!(self.window().write_at(at, &(BASE + offset as u64).to_le_bytes()));
        assert!(self.window().write_at(at + 8, &(len as u32).to_le_bytes()));
        self.set_word(at + o, other);
        self.set_word(at + f, flags);
    }

    /// Makes a chain of `pieces` available, with a table if asked; false when there is no room.
    fn give(&mut self, pieces: &[(usize, usize)], table: bool) -> bool {
        let direction = if self.which == RX { WRITE } else { 0 };
        let (mut parts, mut flags) = (pieces.to_vec(), direction);
        if table {
            let at = TABLES[self.which] + self.slot * 64;
            for (n, piece) in pieces.iter().enumerate() {
                let more = if n + 1 < pieces.len() { NEXT } else { 0 };
                self.describe(at + n * 16, *piece, more | direction, n as u16 + 1);
            }
            (parts, flags) = (vec![(at, 16 * pieces.len())], INDIRECT);
        }
        let slots = parts.len() as u16;
        if slots > self.room {
            return false;
        }
        let outstanding = |id: &u16| self.given.iter().any(|given| given.ids.contains(id));
        let mut ids: Vec<u16> = (0..self.size).rev().filter(|id| !outstanding(id)).take(parts.len()).collect();
        for (n, piece) in parts.iter().enumerate().rev() {
            let more = if n + 1 < parts.len() { NEXT } else { 0 };
            if self.packed {
                let at = self.next.wrapping_add(n as u16);
                let mark = if at & self.size == 0 { AVAIL } else { USED };
                // Only the last need tell the identifier.
                let id = if more == 0 { ids[0] } else { 0xdead };
                self.describe(self.place(at), *piece, more | flags | mark, id);
            } else {
                self.describe(self.place(ids[n]), *piece, more | flags, ids.get(n + 1).copied().unwrap_or(0));
            }
        }
        if self.packed {
            ids.truncate(1);
            self.next = self.next.wrapping_add(slots);
        } else {
            self.set_word(RINGS[self.which] + AREAS[0] + 4 + 2 * usize::from(self.next & (self.size - 1)), ids[0]);
            self.next = self.next.wrapping_add(1);
            self.set_word(RINGS[self.which] + AREAS[0] + 2, self.next);
        }
        self.room -= slots;
        self.given.push_back(Given { ids, slots, pieces: pieces.to_vec() });
        self.slot = (self.slot + 1) % SLOTS;
        true
    }

    /// The next chain that was given back, and the bytes in it.
    fn take(&mut self) -> Option<(Given, usize)> {
        let (id, len) = if self.packed {
            let (at, wrap) = (self.place(self.seen), self.seen & self.size == 0);
            if self.word(at + 14) & (AVAIL | USED) != if wrap { AVAIL | USED } else { 0 } {
                return None;
            }
            (self.word(at + 12), self.word(at + 8))
        } else {
            let used = RINGS[self.which] + AREAS[1];
            if self.word(used + 2) == self.seen {
                return None;
            }
            let at = used + 4 + 8 * usize::from(self.seen & (self.size - 1));
            (self.word(at), self.word(at + 4))
        };
        let given = self.given.pop_front().expect("a chain that was given");
        assert_eq!(id, given.ids[0], "chains come back once, and in their order");
        self.seen = self.seen.wrapping_add(if self.packed { given.slots } else { 1 });
        self.room += given.slots;
        Some((given, usize::from(len)))
    }
}

/// A frame that tells its number in every byte behind its addresses.
fn frame(number: u32) -> Vec<u8> {
    let len = 60 + (number as usize * 37) % 340;
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb6];
    bytes.extend(number.to_le_bytes());
    bytes.extend((bytes.len()..len).map(|i| (i as u32).wrapping_mul(7).wrapping_add(number * 13) as u8));
    bytes
}

/// The number of a frame that is whole.
fn number(bytes: &[u8]) -> u32 {
    let number = u32::from_le_bytes(bytes[14..18].try_into().expect("four bytes"));
    assert_eq!(bytes, frame(number), "a frame is whole");
    number
}

/// What the switch forwarded.
#[derive(Default)]
struct Numbers(Vec<u32>);

impl Sink for Numbers {
    fn forward(&mut self, burst: &Burst<'_>) {
        assert!(burst.rejected().is_empty());
        for index in 0..burst.frames().len() {
            let delivery = Delivery { frame: index as u8, tag: None };
            let plan = Plan::new(burst, &delivery, Caps::default()).expect("a frame");
            let scratch = region(2048);
            let room = scratch.slice(0, plan.len(0)).expect("room");
            let mut bytes = vec![0; plan.len(0)];
            assert!(plan.write(0, &[room]) && room.read_at(0, &mut bytes));
            self.0.push(number(&bytes));
        }
    }
}

fn region(len: usize) -> Arc<Region> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(len as u64).expect("room");
    Region::map(file.as_fd(), 0, len, true).expect("a mapping")
}

/// What outlives the switch.
struct World {
    features: u64,
    memory: Arc<Region>,
    kept: Arc<Region>,
    drivers: [Driver; 2],
    dice: Dice,
    /// The driver has something to send.
    sending: bool,
    /// Next number of a frame that the driver sends, and that is delivered to it.
    next: [u32; 2],
    forwarded: Vec<u32>,
    /// Deliveries that came to their end, and what the driver received.
    delivered: Vec<u32>,
    received: Vec<u32>,
    /// A frame of which the driver has the first buffers: how many are to come, and its bytes.
    partial: (u16, Vec<u8>),
}

impl World {
    fn new(packed: bool, tx_size: u16, seed: u64) -> World {
        let memory = region(MEMORY);
        let kept = region(2 * inflight_bytes(RX_SIZE, true).next_multiple_of(4096));
        let features = VERSION_1 | MRG_RXBUF | if packed { RING_PACKED } else { 0 };
        let drivers = [(TX, tx_size), (RX, RX_SIZE)].map(|(which, size)| Driver::new(&memory, which, size, packed));
        let world = World {
            features,
            memory,
            kept,
            drivers,
            dice: Dice(seed),
            sending: true,
            next: [0; 2],
            forwarded: vec![],
            delivered: vec![],
            received: vec![],
            partial: (0, vec![]),
        };
        (0..2).for_each(|which| world.inflight(which).prepare());
        for which in 0..2 {
            world.inflight(which).settle(0, true);
        }
        world
    }

    fn inflight(&self, which: usize) -> Inflight {
        let place = (&self.kept, which * inflight_bytes(RX_SIZE, true));
        Inflight::new(place, self.drivers[which].size, true).expect("it fits")
    }

    fn split(&self, which: usize) -> SplitRing {
        let [desc, avail, used] = [0, AREAS[0], AREAS[1]].map(|area| (&self.memory, RINGS[which] + area));
        SplitRing::new(self.drivers[which].size, desc, avail, used).expect("a ring")
    }

    fn packed(&self, which: usize) -> PackedRing {
        let [desc, driver, device] = [0, AREAS[0], AREAS[1]].map(|area| (&self.memory, RINGS[which] + area));
        let ring = PackedRing::new(self.drivers[which].size, desc, driver, device).expect("a ring");
        ring.with_inflight(Some(self.inflight(which)))
    }

    /// Sends a frame in some shape, if there is room.
    fn send(&mut self) {
        let dice = self.dice.below(8);
        let driver = &mut self.drivers[TX];
        let at = BUFFERS[TX] + driver.slot * SLOT;
        let bytes = [vec![0; HEADER], frame(self.next[TX])].concat();
        assert!(driver.window().write_at(at, &bytes));
        let cut = |cuts: &[usize]| {
            let ends: Vec<usize> = [0].iter().chain(cuts).chain(&[bytes.len()]).copied().collect();
            ends.windows(2).map(|w| (at + w[0], w[1] - w[0])).collect::<Vec<_>>()
        };
        let (pieces, table) = match dice {
            0..3 => (cut(&[]), false),
            3 => (cut(&[HEADER]), false),
            4 => (cut(&[5, 40]), false),
            5 => (cut(&[]), true),
            _ => (cut(&[HEADER, 50]), true),
        };
        if driver.give(&pieces, table) {
            self.next[TX] += 1;
        }
    }

    /// Takes what was received, and gives buffers while there is room.
    fn receive(&mut self) {
        while let Some((given, len)) = self.drivers[RX].take() {
            let mut bytes = vec![];
            for (at, room) in &given.pieces {
                let mut part = vec![0; (len - bytes.len()).min(*room)];
                assert!(self.drivers[RX].window().read_at(*at, &mut part));
                bytes.extend(part);
            }
            assert_eq!(bytes.len(), len);
            if self.partial.0 == 0 {
                // Drivers drop what is no frame (Linux: "short packet").
                if len == 0 {
                    continue;
                }
                self.partial = (u16::from_le_bytes([bytes[10], bytes[11]]), bytes[HEADER..].to_vec());
            } else {
                assert!(len > 0, "no buffer of a frame is empty");
                self.partial.1.extend(bytes);
            }
            self.partial.0 -= 1;
            if self.partial.0 == 0 {
                self.received.push(number(&self.partial.1));
            }
        }
        assert_eq!(self.partial.0, 0, "who sees the first buffer of a frame sees all");
        loop {
            let (dice, len) = (self.dice.below(5), 128 + self.dice.below(700) as usize);
            let driver = &mut self.drivers[RX];
            let at = BUFFERS[RX] + driver.slot * SLOT;
            // What is in it is no frame.
            assert!(driver.window().write_at(at, &[0xee; SLOT]));
            let (pieces, table) = match dice {
                0..2 => (vec![(at, len)], false),
                2 => (vec![(at, 20), (at + 20, len)], false),
                3 => (vec![(at, 10), (at + 10, 64), (at + 74, len)], false),
                _ => (vec![(at, 100), (at + 100, len)], true),
            };
            if !driver.give(&pieces, table) {
                return;
            }
        }
    }

    /// The life of a switch, which ends when the fuse has burnt, or after a while.
    fn life(&mut self, fuse: u32) {
        // The driver goes on while there is no switch.
        if self.sending && self.dice.below(2) == 0 {
            while self.drivers[TX].take().is_some() {}
            (0..self.dice.below(64)).for_each(|_| self.send());
            self.receive();
        }
        // The second fuse is another worker's.
        let fuses = [Fuse::new(fuse), Fuse::new(self.dice.below(40))];
        if self.features & RING_PACKED != 0 {
            let rings = [TX, RX].map(|which| self.packed(which));
            let starts = [0, 1].map(|which: usize| recover(&rings[which]).expect("it was kept"));
            self.serve(&rings, starts, &fuses);
        } else {
            let rings = [TX, RX].map(|which| self.split(which));
            let starts = [0, 1].map(|which: usize| rings[which].used_idx());
            self.serve(&rings, starts, &fuses);
        }
    }

    fn serve<R: Virtq>(&mut self, rings: &[R; 2], starts: [u16; 2], fuses: &[Fuse<'_>; 2]) {
        let span = Span { guest: BASE, len: MEMORY as u64, user: BASE, region: self.memory.clone(), offset: 0 };
        let active = Active {
            table: Arc::new(MemTable::new().with(span).expect("a table")),
            features: self.features,
            tx: Default::default(),
            rx: Default::default(),
            receivers: ArrayVec::new(),
            failed: AtomicU16::new(0),
        };
        let card = Card {
            active: ArcSwapOption::empty(),
            state: Arc::new(PortState::new()),
            interrupts: Interrupts::new(),
            kicks: Default::default(),
            errors: Default::default(),
        };
        let (tx, rx) = (TxState::new(starts[TX]), RxState::new(starts[RX]));
        for _ in 0..40 {
            let ended = match self.dice.below(4) {
                0 if self.sending => {
                    (0..self.dice.below(24)).for_each(|_| self.send());
                    Ok(())
                }
                0 | 1 => {
                    while self.drivers[TX].take().is_some() {}
                    self.receive();
                    Ok(())
                }
                2 => {
                    let mut sink = Numbers::default();
                    let ring = &Fused(&rings[TX], &fuses[0]);
                    let serving = Serving { card: &card, active: &active, ring, state: &tx, pair: 0 };
                    let poll = || serving.poll(&mut SpanHint::default(), &mut sink);
                    let ended = catch_unwind(AssertUnwindSafe(poll)).map(drop);
                    self.forwarded.extend(sink.0);
                    ended
                }
                _ => self.deliver(&active, &rings[RX], &rx, fuses),
            };
            if let Err(cause) = ended {
                return assert!(cause.is::<Crash>(), "{:?}", cause.downcast_ref::<String>());
            }
            assert_eq!(active.failed.load(std::sync::atomic::Ordering::Relaxed), 0, "the rings make sense");
        }
    }

    /// Delivers a few frames, in the middle of which another worker may deliver some.
    fn deliver<R: Virtq>(
        &mut self,
        active: &Active,
        ring: &R,
        state: &RxState,
        fuses: &[Fuse<'_>; 2],
    ) -> std::thread::Result<()> {
        self.receive();
        let counts = [1 + self.dice.below(3), self.dice.below(3)];
        let first = self.next[RX];
        self.next[RX] += counts[0] + counts[1];
        let done = [Cell::new(false), Cell::new(false)];
        let run = |which: usize, fuse: &Fuse<'_>| {
            let from = first + if which == 0 { 0 } else { counts[0] };
            deliver_some(active, &Fused(ring, fuse), state, from..from + counts[which]);
            done[which].set(true);
        };
        let fuse = Fuse::new(fuses[0].left.get());
        if counts[1] > 0 {
            // Both die when one does.
            *fuse.other.borrow_mut() = Some(Box::new(|| run(1, &fuses[1])));
        }
        let ended = catch_unwind(AssertUnwindSafe(|| run(0, &fuse)));
        fuses[0].left.set(fuse.left.get());
        for (which, done) in done.iter().enumerate() {
            let from = first + if which == 0 { 0 } else { counts[0] };
            // In a split ring what lies behind a reservation that was cut off goes with it.
            let seen = done.get() && (self.features & RING_PACKED != 0 || ended.is_ok());
            if seen && (which == 0 || counts[1] > 0) {
                self.delivered.extend(from..from + counts[which]);
            }
        }
        drop(fuse);
        ended
    }

    /// Lives until everything is done; what must hold after all.
    fn settle(mut self, lives: u32) {
        for busy in [true, false] {
            self.sending = busy;
            for _ in 0..10 {
                self.life(u32::MAX);
            }
        }
        while self.drivers[TX].take().is_some() {}
        self.receive();
        assert!(self.drivers[TX].given.is_empty(), "every chain came back");
        let mut forwarded = self.forwarded.clone();
        forwarded.sort_unstable();
        forwarded.dedup();
        let lost = (0..self.next[TX]).find(|number| forwarded.binary_search(number).is_err());
        assert_eq!(lost, None, "each frame sent was forwarded");
        let twice = self.forwarded.len() - forwarded.len();
        assert!(twice <= 32 * lives as usize, "{twice} frames twice in {lives} crashes");
        assert!(self.next[TX] > 20 && self.delivered.len() > 20, "something was done");
        let mut received = self.received.clone();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), self.received.len(), "none is received twice");
        for number in &self.delivered {
            assert!(received.binary_search(number).is_ok(), "frame {number} was delivered and is not there");
        }
    }
}

/// Delivers frames of these numbers in one burst.
fn deliver_some(active: &Active, ring: &impl Virtq, state: &RxState, numbers: std::ops::Range<u32>) {
    let frames: Vec<Vec<u8>> = numbers.map(frame).collect();
    let memory = region(4096);
    let (mut burst, mut at) = (Burst::new(), 0);
    for bytes in &frames {
        let slice = memory.slice(at, bytes.len()).expect("room");
        assert!(slice.write_at(0, bytes));
        burst.push(&[slice], None, Offload::default());
        at += bytes.len();
    }
    let list: Vec<Delivery> = (0..frames.len()).map(|i| Delivery { frame: i as u8, tag: None }).collect();
    Path::new(active, ring, state, 0).deliver_all(&burst, &list, &mut Tally::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_is_lost_wherever_the_switch_dies(seed: u64, packed: bool, size in 0u32..7) {
        let mut world = World::new(packed, 1 << size, seed);
        let lives = 60;
        for _ in 0..lives {
            let fuse = world.dice.below(90);
            world.life(fuse);
        }
        world.settle(lives);
    }
}
