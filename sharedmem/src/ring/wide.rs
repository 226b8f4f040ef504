//! Descriptors of 16 bytes, moved as two halves.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ring;
use crate::prefetch::at_write;

/// A ring of 16-byte descriptors that the device may write, accessed in 64-bit halves: half the accesses, and half
/// the checks, of a [`Ring`] of words. The peer may use words of any size on its side: each half is one of ours, and
/// on every machine this builds for a store of 8 aligned bytes is seen whole.
#[derive(Clone, Debug)]
pub struct WideRing(Ring<4>);

impl Ring<4> {
    /// The same ring in halves; `None` when it does not lie at a multiple of 8 bytes or may not be written.
    pub fn wide(self) -> Option<WideRing> {
        (self.writable && (self.base as usize).is_multiple_of(8)).then_some(WideRing(self))
    }
}

/// One descriptor of a [`WideRing`].
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    lower: AtomicU64,
    upper: AtomicU64,
}

impl Slot {
    /// The upper half, with acquire ordering: what the peer stored before it is seen after it.
    #[inline(always)]
    pub fn upper(&self) -> u64 {
        u64::from_le(self.upper.load(Ordering::Acquire))
    }

    /// The lower half, after [`Slot::upper`] has said that it is there.
    #[inline(always)]
    pub fn lower(&self) -> u64 {
        u64::from_le(self.lower.load(Ordering::Relaxed))
    }

    /// Stores both, the upper half last and with release ordering: a peer that sees it sees the lower half, and what was
    /// stored before.
    #[inline(always)]
    pub fn store(&self, lower: u64, upper: u64) {
        self.lower.store(lower.to_le(), Ordering::Relaxed);
        self.upper.store(upper.to_le(), Ordering::Release);
    }
}

impl WideRing {
    /// Number of descriptors.
    #[inline]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// True when the peer shrank the memory under the ring (see [`crate::fault`]).
    #[inline]
    pub fn faulted(&self) -> bool {
        self.0.faulted()
    }

    /// The descriptors from `index` on, at most `count`, and none beyond the end of the ring: a run is checked once.
    #[inline(always)]
    pub fn slots(&self, index: u32, count: u32) -> &[Slot] {
        let Some(left) = self.0.count.checked_sub(index) else { return &[] };
        // SAFETY: the descriptors lie within the array checked when the ring was made, at a multiple of 8 bytes by `wide`;
        // the region is held by self, which the slice borrows; the memory is only accessed atomically.
        unsafe { slice::from_raw_parts(self.0.base.cast::<Slot>().add(index as usize), count.min(left) as usize) }
    }

    /// Descriptor `index`.
    ///
    /// # Panics
    /// When `index` is out of range; it is ours, never a guest's.
    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        let [slot] = self.slots(index, 1) else { panic!("descriptor {index} of {}", self.0.count) };
        slot
    }

    /// `count` descriptors from `index` on, and round again, will be written: their cache lines are asked for together. Stores
    /// alone bring one after the other.
    #[inline]
    pub fn prefetch_write(&self, index: u32, count: u32) {
        for at in (index..index.saturating_add(count)).step_by(4) {
            let at = if at < self.0.count { at } else { at - self.0.count };
            at_write(self.0.base.cast::<Slot>().wrapping_add(at as usize).cast());
        }
    }

    /// [`Slot::upper`] of descriptor `index`.
    ///
    /// # Panics
    /// When `index` is out of range; it is ours, never a guest's.
    #[inline]
    pub fn upper(&self, index: u32) -> u64 {
        self.slot(index).upper()
    }

    /// [`Slot::lower`] of descriptor `index`.
    ///
    /// # Panics
    /// As [`WideRing::upper`].
    #[inline]
    pub fn lower(&self, index: u32) -> u64 {
        self.slot(index).lower()
    }

    /// [`Slot::store`] to descriptor `index`.
    ///
    /// # Panics
    /// As [`WideRing::upper`].
    #[inline]
    pub fn store(&self, index: u32, lower: u64, upper: u64) {
        self.slot(index).store(lower, upper);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use crate::{Region, Ring};

    #[test]
    fn halves_and_words_are_the_same_memory() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        let words = Ring::<4>::new(&region, 16, 255).unwrap();
        let wide = words.clone().wide().unwrap();
        assert_eq!(wide.count(), 255);
        wide.store(254, 0x1111_2222_3333_4444, 0x5555_6666_7777_8888);
        assert_eq!(words.read(254, 2), [0x3333_4444, 0x1111_2222, 0x7777_8888, 0x5555_6666]);
        words.store(0, 2, 7);
        words.store(0, 1, 9);
        assert_eq!((wide.upper(0), wide.lower(0)), (7, 9 << 32));
        assert!(!wide.faulted());
        let run = |index, count| wide.slots(index, count).iter().map(|slot| slot.upper()).collect::<Vec<_>>();
        assert_eq!(run(0, 1), [7]);
        assert_eq!(run(253, 9), [0, 0x5555_6666_7777_8888], "a run ends where the ring does");
        assert!(run(255, 1).is_empty() && run(u32::MAX, u32::MAX).is_empty());
    }

    #[test]
    fn what_is_misaligned_or_read_only_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        assert!(Ring::<4>::new(&region, 12, 1).unwrap().wide().is_none());
        assert!(Ring::<4>::new(&region, 8, 1).unwrap().wide().is_some());
        let fixed = Region::map(file.as_fd(), 0, 4096, false).unwrap();
        assert!(Ring::<4>::new(&fixed, 0, 1).unwrap().wide().is_none());
    }

    #[test]
    #[should_panic(expected = "descriptor 4 of 4")]
    fn an_index_beyond_the_end_is_our_mistake() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        Ring::<4>::new(&region, 0, 4).unwrap().wide().unwrap().upper(4);
    }
}
