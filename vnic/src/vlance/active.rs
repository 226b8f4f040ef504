//! What the control thread and the workers share.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{DropReason, PortState};
use sharedmem::DmaMap;
use wire::Mac;

use super::cause::{Cause, csr0, csr4};
use super::ring::{Desc, DescRing};

/// Most descriptors one frame may be spread over, either way. A receive buffer of 64 bytes, the least any driver
/// uses, makes 24 of a full frame.
pub(super) const MAX_CHAIN: usize = 64;

/// State that lives as long as the card.
pub(super) struct Shared {
    pub name: String,
    pub state: Arc<PortState>,
    pub cause: Cause,
    /// The rings while the driver has the chip started and not suspended. Taking it away and
    /// waiting for the grace period is how the control thread stops all use of guest memory.
    pub active: ArcSwapOption<Active>,
    /// Next transmit descriptor: the transmit queue's while active, else the control thread's.
    pub tx_next: AtomicU32,
    /// CSR112, missed frames (16 bits count).
    pub missed: AtomicU32,
}

impl Shared {
    /// `n` frames found no receive descriptor.
    pub(super) fn miss(&self, n: u32) {
        let before = self.missed.fetch_add(n, Ordering::Relaxed) & 0xffff;
        let overflow = before + n > 0xffff;
        self.cause.raise(csr0::MISS, if overflow { csr4::MFCO } else { 0 });
    }
}

/// A started chip: immutable, replaced when anything in it changes.
pub(super) struct Active {
    pub map: Arc<DmaMap>,
    /// `None` with the transmitter off.
    pub tx: Option<DescRing>,
    /// `None` with the receiver off.
    pub rx: Option<DescRing>,
    pub rx_cursor: Arc<RxCursor>,
    /// Internal loopback: what is sent is received, and nothing else is.
    pub loopback: bool,
    /// CSR15.
    pub mode: u16,
    /// CSR12..=14.
    pub mac: Mac,
}

/// A receive descriptor that a worker is filling.
pub(super) type Reserved = ArrayVec<(u32, Desc), MAX_CHAIN>;

/// The place in the receive ring. Workers reserve in turn and complete in any order, so a descriptor
/// that still says "owned by the chip" may be one that another worker is about to complete: the busy
/// bits tell. Kept across changes of the DMA map.
pub(super) struct RxCursor {
    next: Mutex<u32>,
    busy: Box<[AtomicU64]>,
    count: u32,
}

impl RxCursor {
    /// For a ring of `count` descriptors, beginning at `next`.
    pub(super) fn new(count: u32, next: u32) -> Arc<RxCursor> {
        let words = count.div_ceil(64);
        Arc::new(RxCursor {
            next: Mutex::new(if next < count { next } else { 0 }),
            busy: (0..words).map(|_| AtomicU64::new(0)).collect(),
            count,
        })
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The descriptor that is looked at next.
    pub(super) fn next(&self) -> u32 {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bit(&self, index: u32) -> Option<(&AtomicU64, u64)> {
        Some((self.busy.get(index as usize / 64)?, 1 << (index % 64)))
    }

    /// Takes the next descriptors that hold `need` bytes together; on failure none.
    ///
    /// # Errors
    /// `RingFull` when the chip does not own enough, `Oversize` when no number of them would do.
    pub(super) fn reserve(&self, ring: &DescRing, need: usize, out: &mut Reserved) -> Result<(), DropReason> {
        out.clear();
        if ring.count() != self.count {
            return Err(DropReason::RingFull);
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = *next;
        let mut room = 0;
        while room < need {
            if out.is_full() || out.len() >= self.count as usize {
                return Err(DropReason::Oversize);
            }
            // The busy bit before the ownership bit: when it is clear, the last use has been published.
            let busy = self.bit(at).is_none_or(|(word, bit)| word.load(Ordering::Acquire) & bit != 0);
            let desc = if busy { None } else { ring.get(at) };
            let Some(desc) = desc else { return Err(DropReason::RingFull) };
            room += desc.len();
            out.push((at, desc));
            at = ring.after(at);
        }
        for (index, _) in out.iter() {
            if let Some((word, bit)) = self.bit(*index) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        *next = at;
        Ok(())
    }

    /// Descriptor `index` has been given back to the driver.
    pub(super) fn release(&self, index: u32) {
        if let Some((word, bit)) = self.bit(index) {
            word.fetch_and(!bit, Ordering::Release);
        }
    }
}
