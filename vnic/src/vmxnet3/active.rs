//! What the control half and the worker halves of a card share.
//!
//! ```text
//!  Vmxnet3 (control thread) --+
//!  TxQueue x 8 (workers) -----+--> Card --ArcSwap--> Active: rings resolved in one DMA map
//!  RxPath (workers) ----------+      |                 |
//!                                    |                 +--Arc--> Run: positions, outlive a change of map
//!                                    +-- BAR0 page, interrupt lines, events, statistics
//! ```

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use crossbeam_utils::CachePadded;
use dataplane::PortState;
use sharedmem::{DmaError, DmaMap, SharedPage, Slot, WideRing};

use super::interrupts::Lines;
use super::rss::Rss;
use super::shared_area::{Conf, DataRing, MAX_RX_QUEUES, MAX_TX_QUEUES, Part, Place, StartError, Words, at};
use super::stats::{RxStats, TxStats};

/// A place in a ring and the generation its descriptors have there: it starts at 1 and flips each
/// time the ring is used up (`VMXNET3_INIT_GEN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the next descriptor, below the ring's count.
    pub index: u32,
    /// Its generation bit.
    pub gen_bit: bool,
}

impl Cursor {
    /// Where a ring starts.
    pub fn start() -> Cursor {
        Cursor { index: 0, gen_bit: true }
    }

    /// The place `n` (at most `count`) further on in a ring of `count`.
    #[inline]
    pub fn ahead(self, n: u32, count: u32) -> Cursor {
        let index = self.index + n;
        if index < count { Cursor { index, ..self } } else { Cursor { index: index - count, gen_bit: !self.gen_bit } }
    }

    /// The `n` descriptors from here on, as two runs of one generation each: up to the end of `ring`, and from its start.
    #[inline(always)]
    pub fn runs(self, ring: &WideRing, n: u32) -> [(Cursor, &[Slot]); 2] {
        let first = ring.slots(self.index, n);
        let rest = ring.slots(0, n.saturating_sub(first.len() as u32));
        [(self, first), (Cursor { index: 0, gen_bit: !self.gen_bit }, rest)]
    }

    /// Goes on by one in a ring of `count`.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        *self = self.ahead(1, count);
    }
}

/// A cursor that one thread at a time moves.
#[derive(Debug)]
pub struct Position(AtomicU32);

impl Position {
    fn start() -> Position {
        Position(AtomicU32::new(1))
    }

    /// Where it is.
    #[inline]
    pub fn get(&self) -> Cursor {
        let raw = self.0.load(Ordering::Acquire);
        Cursor { index: raw >> 1, gen_bit: raw & 1 == 1 }
    }

    /// Moves it.
    #[inline]
    pub fn set(&self, to: Cursor) {
        self.0.store(to.index << 1 | u32::from(to.gen_bit), Ordering::Release);
    }
}

/// How far a transmit queue has come. One worker at a time uses it.
#[derive(Debug)]
pub struct TxState {
    /// Next descriptor.
    pub next: Position,
    /// Next completion.
    pub completion: Position,
    /// Why the queue stopped (`VMXNET3_ERR_*`), 0 while it runs.
    pub error: AtomicU32,
}

/// How far a receive queue has come.
#[derive(Clone, Copy, Debug)]
pub struct RxPositions {
    /// Next descriptor of ring 1 and ring 2.
    pub rings: [Cursor; 2],
    /// Next completion.
    pub completion: Cursor,
    /// Descriptors from `rings` on that are known to be the device's; counted only for a completion ring that
    /// could be overrun.
    pub armed: [u32; 2],
}

/// What goes on while the VMM changes its DMA map: where each ring stands.
#[derive(Debug)]
pub struct Run {
    /// What the driver configured.
    pub conf: Conf,
    /// UPT features in force; the driver may change them while the card runs.
    pub features: AtomicU64,
    /// Transmit queues, each worker's on cache lines of its own.
    pub tx: ArrayVec<CachePadded<TxState>, MAX_TX_QUEUES>,
    /// Receive queues. The lock is held to reserve descriptors only.
    pub rx: ArrayVec<CachePadded<Mutex<RxPositions>>, MAX_RX_QUEUES>,
    /// Set by a worker that found memory of a ring gone; nobody touches the rings after that.
    failed: AtomicBool,
}

impl Run {
    /// All rings at their start.
    pub fn new(conf: Conf) -> Run {
        let tx = |_| {
            CachePadded::new(TxState {
                next: Position::start(),
                completion: Position::start(),
                error: AtomicU32::new(0),
            })
        };
        let rx = |_| {
            let start = RxPositions { rings: [Cursor::start(); 2], completion: Cursor::start(), armed: [0; 2] };
            CachePadded::new(Mutex::new(start))
        };
        Run {
            features: AtomicU64::new(conf.features),
            tx: conf.tx.iter().map(tx).collect(),
            rx: conf.rx.iter().map(rx).collect(),
            failed: AtomicBool::new(false),
            conf,
        }
    }

    /// True when the rings must not be used any more.
    #[inline]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Says that a ring's memory is gone.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// True when the driver wants `feature`.
    #[inline]
    pub fn wants(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }
}

/// The rings of a transmit queue.
#[derive(Clone, Debug)]
pub struct TxRings {
    /// Descriptors.
    pub ring: WideRing,
    /// Completions.
    pub completions: WideRing,
}

/// The rings of a receive queue.
#[derive(Clone, Debug)]
pub struct RxRings {
    /// Ring 1 and, where the driver has one, ring 2.
    pub rings: (WideRing, Option<WideRing>),
    /// Completions.
    pub completions: WideRing,
    /// Where short frames go.
    pub data: Option<DataRing>,
}

/// A card that runs: its rings in one DMA map. Replaced as a whole when the map changes.
#[derive(Debug)]
pub struct Active {
    /// The map frames are looked up in.
    pub map: Arc<DmaMap>,
    /// The driver-shared area.
    pub area: Words,
    /// The queue descriptors, transmit first.
    pub queues: Words,
    /// Transmit queues.
    pub tx: ArrayVec<TxRings, MAX_TX_QUEUES>,
    /// Receive queues.
    pub rx: ArrayVec<RxRings, MAX_RX_QUEUES>,
    /// How frames are spread over the receive queues; without it all go to the first.
    pub rss: Option<Arc<Rss>>,
    /// What outlives a change of map.
    pub run: Arc<Run>,
}

fn resolve(map: &DmaMap, place: Place, part: Part) -> Result<WideRing, StartError> {
    let ring = map.ring::<4>(place.iova, place.count).map_err(|e| StartError::Memory(part, e))?;
    ring.wide().ok_or(StartError::Memory(part, DmaError::Shape))
}

/// Checks that the whole of a data ring of `count` entries is there.
fn check_data(map: &DmaMap, data: DataRing, count: u32, part: Part) -> Result<(), StartError> {
    // Neither is more than a few thousand: see where they are read.
    let words = data.size / 4 * count;
    map.ring::<1>(data.iova, words).map(|_| ()).map_err(|e| StartError::Memory(part, e))
}

impl Active {
    /// Looks the rings of `run` up in `map`.
    pub fn bind(run: Arc<Run>, map: Arc<DmaMap>, rss: Option<Arc<Rss>>) -> Result<Active, StartError> {
        let (area, queues) = run.conf.memory(&map)?;
        let mut active = Active { area, queues, tx: ArrayVec::new(), rx: ArrayVec::new(), rss, run, map };
        for (q, conf) in active.run.conf.tx.iter().enumerate() {
            let ring = resolve(&active.map, conf.ring, Part::Tx(q))?;
            let completions = resolve(&active.map, conf.completions, Part::TxCompletions(q))?;
            active.tx.push(TxRings { ring, completions });
        }
        for (q, conf) in active.run.conf.rx.iter().enumerate() {
            let first = resolve(&active.map, conf.ring, Part::Rx(q, 0))?;
            let second = conf.ring2.map(|place| resolve(&active.map, place, Part::Rx(q, 1))).transpose()?;
            let completions = resolve(&active.map, conf.completions, Part::RxCompletions(q))?;
            if let Some(data) = conf.data {
                check_data(&active.map, data, conf.ring.count, Part::RxData(q))?;
            }
            active.rx.push(RxRings { rings: (first, second), completions, data: conf.data });
        }
        Ok(active)
    }

    /// Makes the completion rings look unused. Only when a driver starts the card.
    pub fn clear_completions(&self) {
        let rings = self.tx.iter().map(|q| &q.completions).chain(self.rx.iter().map(|q| &q.completions));
        for ring in rings {
            for index in 0..ring.count() {
                ring.store(index, 0, 0);
            }
        }
    }
}

/// What all halves of one card hold.
pub struct Card {
    /// Port name, for log lines.
    pub name: String,
    /// The port's state in the data path.
    pub state: Arc<PortState>,
    /// BAR0: interrupt masks and doorbells, mapped into the guest.
    pub page: SharedPage,
    /// Interrupt state.
    pub lines: Lines,
    /// The rings, while the driver has the card started.
    pub active: ArcSwapOption<Active>,
    /// How many transmit queues run; the cheap look of an idle queue's poll.
    pub tx_queues: AtomicUsize,
    /// Transmit statistics, a set per queue; they outlive a restart of the driver.
    pub tx_stats: [CachePadded<TxStats>; MAX_TX_QUEUES],
    /// Receive statistics likewise.
    pub rx_stats: [CachePadded<RxStats>; MAX_RX_QUEUES],
    events: Mutex<u32>,
}

impl Card {
    /// A card nobody has started.
    pub fn new(name: String, state: Arc<PortState>, page: SharedPage, lines: Lines) -> Card {
        Card {
            name,
            state,
            page,
            lines,
            active: ArcSwapOption::empty(),
            tx_queues: AtomicUsize::new(0),
            tx_stats: Default::default(),
            rx_stats: Default::default(),
            events: Mutex::new(0),
        }
    }

    fn events(&self) -> MutexGuard<'_, u32> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the events in `bits` to the driver, with the event interrupt. Rare; any thread.
    pub fn report(&self, active: &Active, bits: u32) {
        {
            let mut events = self.events();
            *events |= bits;
            active.area.store(at::EVENTS, *events);
        }
        self.notify(active, active.run.conf.event_vector);
    }

    /// The driver has seen the events in `bits`.
    pub fn acknowledge(&self, bits: u32) {
        let mut events = self.events();
        *events &= !bits;
        if let Some(active) = self.active.load().as_ref().filter(|a| !a.run.failed()) {
            active.area.store(at::EVENTS, *events);
        }
    }

    /// Events not acknowledged.
    pub fn pending_events(&self) -> u32 {
        *self.events()
    }

    /// Forgets all events.
    pub fn clear_events(&self) {
        *self.events() = 0;
    }
}
