//! The switch dies between any two stores that the driver or its successor can see, again and again: every chain comes
//! back once and in order, no frame is lost, mangled or received twice, and nothing stalls.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{Burst, Caps, Delivery, Offload, Plan, PortState, Sink, Tally};
use proptest::prelude::*;
use sharedmem::{Inflight, Lookup, MemTable, PackedRing, Region, Span, SpanHint, SplitRing, inflight_bytes};

use super::chain::Pieces;
use super::features::{MRG_RXBUF, RING_PACKED, VERSION_1};
use super::ring::{Broken, Found, Virtq};
use super::rx::Path;
use super::test_driver::{AREAS, BASE, Guest, MEMORY, RINGS, RX, TX, frame, number};
use super::tx::Serving;
use super::{Active, Card, RxState, TxState, recover};
use crate::irq::Interrupts;

const RX_SIZE: u16 = 64;

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
    const INDEXED: bool = R::INDEXED;

    fn available(&self, at: u16, known: &mut u16, wanted: usize) -> Result<usize, Broken> {
        self.0.available(at, known, wanted)
    }

    fn faulted(&self) -> bool {
        self.0.faulted()
    }

    fn singles(&self, at: u16, known: &mut u16, ids: &mut [u16]) -> Result<usize, Broken> {
        self.0.singles(at, known, ids)
    }

    fn buffer(&self, at: u16, id: u16, writable: bool) -> Option<(u64, u32)> {
        self.0.buffer(at, id, writable)
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

/// What the switch forwarded.
#[derive(Default)]
struct Numbers(Vec<u32>);

impl Sink for Numbers {
    fn forward(&mut self, burst: &Burst<'_>) {
        assert!(burst.rejected().is_empty());
        for index in 0..burst.frames().len() {
            let delivery = Delivery::new(index as u8, None);
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
    kept: Arc<Region>,
    guest: Guest,
    /// The driver has something to send.
    sending: bool,
    /// The number of the next frame for the driver.
    next: u32,
    forwarded: Vec<u32>,
    /// Deliveries that came to their end.
    delivered: Vec<u32>,
}

impl World {
    fn new(packed: bool, tx_size: u16, seed: u64) -> World {
        let kept = region(2 * inflight_bytes(RX_SIZE, true).next_multiple_of(4096));
        let features = VERSION_1 | MRG_RXBUF | if packed { RING_PACKED } else { 0 };
        let guest = Guest::new(region(MEMORY), [tx_size, RX_SIZE], packed, seed);
        let world = World { features, kept, guest, sending: true, next: 0, forwarded: vec![], delivered: vec![] };
        (0..2).for_each(|which| world.inflight(which).prepare());
        for which in 0..2 {
            world.inflight(which).settle(0, true);
        }
        world
    }

    fn inflight(&self, which: usize) -> Inflight {
        let place = (&self.kept, which * inflight_bytes(RX_SIZE, true));
        Inflight::new(place, self.guest.drivers[which].size, true).expect("it fits")
    }

    fn split(&self, which: usize) -> SplitRing {
        let [desc, avail, used] = [0, AREAS[0], AREAS[1]].map(|area| (&self.guest.memory, RINGS[which] + area));
        SplitRing::new(self.guest.drivers[which].size, desc, avail, used).expect("a ring")
    }

    fn packed(&self, which: usize) -> PackedRing {
        let [desc, driver, device] = [0, AREAS[0], AREAS[1]].map(|area| (&self.guest.memory, RINGS[which] + area));
        let ring = PackedRing::new(self.guest.drivers[which].size, desc, driver, device).expect("a ring");
        ring.with_inflight(Some(self.inflight(which)))
    }

    /// The life of a switch, which ends when the fuse has burnt, or after a while.
    fn life(&mut self, fuse: u32) {
        // The driver goes on while there is no switch.
        if self.sending && self.guest.dice.below(2) == 0 {
            self.guest.reap();
            (0..self.guest.dice.below(64)).for_each(|_| self.guest.send());
            self.guest.receive();
        }
        // The second fuse is another worker's.
        let fuses = [Fuse::new(fuse), Fuse::new(self.guest.dice.below(40))];
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
        let span = Span { guest: BASE, len: MEMORY as u64, user: BASE, region: self.guest.memory.clone(), offset: 0 };
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
            let ended = match self.guest.dice.below(4) {
                0 if self.sending => {
                    (0..self.guest.dice.below(24)).for_each(|_| self.guest.send());
                    Ok(())
                }
                0 | 1 => {
                    self.guest.reap();
                    self.guest.receive();
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
        self.guest.receive();
        let counts = [1 + self.guest.dice.below(3), self.guest.dice.below(3)];
        let first = self.next;
        self.next += counts[0] + counts[1];
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
        self.guest.reap();
        self.guest.receive();
        assert!(self.guest.drivers[TX].given.is_empty(), "every chain came back");
        let mut forwarded = self.forwarded.clone();
        forwarded.sort_unstable();
        forwarded.dedup();
        let lost = (0..self.guest.next).find(|number| forwarded.binary_search(number).is_err());
        assert_eq!(lost, None, "each frame sent was forwarded");
        let twice = self.forwarded.len() - forwarded.len();
        assert!(twice <= 32 * lives as usize, "{twice} frames twice in {lives} crashes");
        assert!(self.guest.next > 20 && self.delivered.len() > 20, "something was done");
        let mut received = self.guest.received.clone();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), self.guest.received.len(), "none is received twice");
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
    let list: Vec<Delivery> = (0..frames.len()).map(|i| Delivery::new(i as u8, None)).collect();
    Path::new(active, ring, state, 0).deliver_all(&burst, &list, &mut Tally::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_is_lost_wherever_the_switch_dies(seed: u64, packed: bool, size in 0u32..7) {
        let mut world = World::new(packed, 1 << size, seed);
        let lives = 60;
        for _ in 0..lives {
            let fuse = world.guest.dice.below(90);
            world.life(fuse);
        }
        world.settle(lives);
    }
}
