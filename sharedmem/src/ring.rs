//! An array of descriptors in shared memory, with its place looked up once.

mod wide;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Region;

pub use wide::{Slot, WideRing};

/// `count` descriptors of `WORDS` 32-bit little-endian words each. The address is checked and
/// cached when the ring is made; it holds its region, so it stays valid while it lives.
#[derive(Clone, Debug)]
pub struct Ring<const WORDS: usize> {
    base: *mut u32,
    count: u32,
    writable: bool,
    region: Arc<Region>,
}

// SAFETY: the Arc keeps the mapping; access is by atomics only.
unsafe impl<const WORDS: usize> Send for Ring<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for Ring<WORDS> {}

impl<const WORDS: usize> Ring<WORDS> {
    /// A ring of `count` descriptors at `offset` of `region`; `None` when `count` is zero, the ring
    /// does not fit, or it is not 4-byte aligned.
    pub fn new(region: &Arc<Region>, offset: usize, count: u32) -> Option<Ring<WORDS>> {
        let bytes = (count as usize).checked_mul(WORDS * 4)?;
        if count == 0 || offset.checked_add(bytes)? > region.len() {
            return None;
        }
        // SAFETY: offset lies in the mapping.
        let base = unsafe { region.base().add(offset) };
        if !(base as usize).is_multiple_of(4) {
            return None;
        }
        Some(Ring { base: base.cast(), count, writable: region.writable(), region: region.clone() })
    }

    /// Number of descriptors.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True when the peer shrank the memory under the ring (see [`crate::fault`]).
    pub fn faulted(&self) -> bool {
        self.region.faulted()
    }

    #[inline]
    fn word(&self, index: u32, word: usize) -> &AtomicU32 {
        assert!(index < self.count && word < WORDS);
        // SAFETY: index and word are within the array checked in `new`; the region is held by self;
        // the memory is only accessed atomically.
        unsafe { AtomicU32::from_ptr(self.base.add(index as usize * WORDS + word)) }
    }

    /// Loads one word with acquire ordering: what the peer stored before it is seen after it.
    ///
    /// # Panics
    /// When `index` or `word` is out of range; both are ours, never a guest's.
    #[inline]
    pub fn load(&self, index: u32, word: usize) -> u32 {
        u32::from_le(self.word(index, word).load(Ordering::Acquire))
    }

    /// Stores one word with release ordering: the peer that sees it sees what was stored before.
    /// Ignored when the mapping is read-only.
    ///
    /// # Panics
    /// As [`Ring::load`].
    #[inline]
    pub fn store(&self, index: u32, word: usize, value: u32) {
        if self.writable {
            self.word(index, word).store(value.to_le(), Ordering::Release);
        }
    }

    /// Reads a whole descriptor, the word `first` before the others (the one that says the peer is
    /// done writing).
    ///
    /// # Panics
    /// As [`Ring::load`].
    #[inline]
    pub fn read(&self, index: u32, first: usize) -> [u32; WORDS] {
        let mut out = [0; WORDS];
        out[first] = self.load(index, first);
        for (w, value) in out.iter_mut().enumerate() {
            if w != first {
                *value = u32::from_le(self.word(index, w).load(Ordering::Relaxed));
            }
        }
        out
    }
}
