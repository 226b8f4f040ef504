//! What the control half and the worker halves of a card share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::PortState;
use sharedmem::MemTable;

use super::ring::{Virtq, Virtqueue};
use crate::irq::{Interrupts, IrqKind};

/// Most queue pairs of a card; each has one vector per queue.
pub const MAX_PAIRS: usize = 8;
/// Workers that may deliver to one queue at the same time.
const DELIVERERS: usize = 64;

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

/// How far a transmit queue has come; one worker at a time moves it.
#[derive(Debug)]
pub struct TxState {
    /// The next available position, which is also the next used one: frames are used in order.
    pub next: AtomicU16,
    /// False while the driver need not signal.
    pub armed: AtomicBool,
}

/// How far a receive queue has come.
#[derive(Debug)]
pub struct RxState {
    /// Held to reserve chains and to publish used entries; never over a copy or a system call.
    pub positions: Mutex<RxPositions>,
}

/// Under the lock of a receive queue.
#[derive(Debug)]
pub struct RxPositions {
    /// The driver's index when it was last read.
    pub avail: u16,
    /// The next chain to take; its used entry has the same index.
    pub next: u16,
    /// Used entries before this one are published.
    pub published: u16,
    /// Reservations whose copies are done while an earlier one's are not.
    done: ArrayVec<(u16, u16), DELIVERERS>,
    /// Chains may be noted of the positions that are reserved.
    pub noted: bool,
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
        TxState { next: AtomicU16::new(base), armed: AtomicBool::new(true) }
    }
}

impl RxState {
    /// A queue that starts at `base`.
    pub fn new(base: u16) -> RxState {
        let positions = RxPositions { avail: base, next: base, published: base, done: ArrayVec::new(), noted: false };
        RxState { positions: Mutex::new(positions) }
    }
}

impl RxPositions {
    /// The copies into used entries `start..end` are done: publishes them once everything before them is. Returns the
    /// published index before and after.
    pub fn finish(&mut self, ring: &impl Virtq, start: u16, end: u16) -> (u16, u16) {
        let before = self.published;
        if start == self.published {
            self.published = end;
            while let Some(at) = self.done.iter().position(|(s, _)| *s == self.published) {
                self.published = self.done.swap_remove(at).1;
            }
            ring.publish(self.published);
            if self.noted {
                ring.forget(before, self.published);
                self.noted = self.published != self.next;
            }
        } else {
            // There are never more deliverers than places: each has one reservation at a time.
            let _ = self.done.try_push((start, end));
        }
        (before, self.published)
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
