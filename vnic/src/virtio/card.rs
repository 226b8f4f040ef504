//! What the control half and the worker halves of a card share.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::PortState;
use sharedmem::MemTable;

use super::claims::Claims;
use super::ring::Virtqueue;
use crate::irq::{Interrupts, IrqKind};

/// Most queue pairs of a card; each has one vector per queue.
pub const MAX_PAIRS: usize = 8;

/// One card.
pub struct Card {
    /// The rings in use; `None` while the driver has none going.
    pub active: ArcSwapOption<Active>,
    /// The port's shared state.
    pub state: Arc<PortState>,
    /// The queues' eventfds, as vectors by queue number.
    pub interrupts: Arc<Interrupts>,
    /// The eventfds by which the driver signals transmit queues, by pair.
    pub kicks: [ArcSwapOption<OwnedFd>; MAX_PAIRS],
    /// The eventfds by which the VMM hears that we gave up on a queue, as vectors by queue number.
    pub errors: Interrupts,
}

/// Rings resolved in one memory table.
pub struct Active {
    /// Guest memory.
    pub table: Arc<MemTable>,
    /// The features the driver accepted.
    pub features: u64,
    /// Transmit queues by pair.
    pub tx: [Option<TxQueueRings>; MAX_PAIRS],
    /// Receive queues by pair.
    pub rx: [Option<RxQueue>; MAX_PAIRS],
    /// The pairs whose receive queue is there.
    pub receivers: ArrayVec<u8, MAX_PAIRS>,
    /// A bit for each queue whose ring a worker found broken or its memory gone; nobody touches that after.
    pub failed: AtomicU16,
}

/// A transmit queue.
pub struct TxQueueRings {
    /// Its rings.
    pub ring: Virtqueue,
    /// How far it has come.
    pub state: Arc<TxState>,
}

/// A receive queue.
pub struct RxQueue {
    /// Its rings.
    pub ring: Virtqueue,
    /// How far it has come.
    pub state: Arc<RxState>,
}

/// How far a transmit queue has come; one worker at a time moves it, for each burst: no other's shares its cache lines (two,
/// since processors fetch pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct TxState {
    /// The next available position, which is also the next used one: frames are used in order.
    pub next: AtomicU16,
    /// The identifier of the chain served last.
    pub last: AtomicU16,
    /// False while the driver need not signal.
    pub armed: AtomicBool,
}

/// How far a receive queue has come.
#[derive(Debug)]
pub struct RxState {
    /// Which positions are whose.
    pub(super) claims: Claims,
    /// Bytes that a buffer of one descriptor lately held at least, 0 where chains were of another kind: what is longer
    /// does not take the fast lane. A hint; written when it changes.
    pub(super) usual: AtomicU32,
    /// True while long frames lately came from memory, or went there. A hint; written when it changes.
    pub(super) cold: AtomicBool,
}

impl Card {
    /// Tells the VMM that queue `queue` has stopped.
    #[cold]
    pub fn tell_error(&self, queue: usize) {
        self.errors.trigger(IrqKind::Msix, queue);
    }
}

impl TxState {
    /// A queue that starts at `base`.
    pub fn new(base: u16) -> TxState {
        TxState { next: AtomicU16::new(base), last: AtomicU16::new(0), armed: AtomicBool::new(true) }
    }
}

impl RxState {
    /// A queue that starts at `base`.
    pub fn new(base: u16) -> RxState {
        RxState { claims: Claims::new(base), usual: AtomicU32::new(u32::MAX), cold: AtomicBool::new(false) }
    }

    /// The next position to be used.
    pub fn next(&self) -> u16 {
        self.claims.next()
    }
}

impl Active {
    /// True when the ring of queue `queue` must not be used any more.
    #[inline]
    pub fn failed(&self, queue: usize) -> bool {
        self.failed.load(Ordering::Acquire) >> queue & 1 != 0
    }

    /// Stops queue `queue`: its memory is gone or its ring makes no sense. The caller tells the VMM
    /// ([`Card::tell_error`]) once it holds no lock.
    #[cold]
    pub fn fail(&self, queue: usize) {
        self.failed.fetch_or(1 << queue, Ordering::AcqRel);
    }
}
