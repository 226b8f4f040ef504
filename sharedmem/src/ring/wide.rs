//! Descriptors of 16 bytes, moved as two halves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Ring;

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

    #[inline]
    fn half(&self, index: u32, upper: bool) -> &AtomicU64 {
        assert!(index < self.0.count);
        // SAFETY: the descriptor lies within the array checked when the ring was made, at a multiple of 8 bytes by
        // `wide`; the region is held by self; the memory is only accessed atomically.
        unsafe { AtomicU64::from_ptr(self.0.base.cast::<u64>().add(index as usize * 2 + usize::from(upper))) }
    }

    /// The upper half of descriptor `index`, with acquire ordering: what the peer stored before it is seen after it.
    ///
    /// # Panics
    /// When `index` is out of range; it is ours, never a guest's.
    #[inline]
    pub fn upper(&self, index: u32) -> u64 {
        u64::from_le(self.half(index, true).load(Ordering::Acquire))
    }

    /// The lower half of descriptor `index`, after [`WideRing::upper`] has said that it is there.
    ///
    /// # Panics
    /// As [`WideRing::upper`].
    #[inline]
    pub fn lower(&self, index: u32) -> u64 {
        u64::from_le(self.half(index, false).load(Ordering::Relaxed))
    }

    /// Stores descriptor `index`, the upper half last and with release ordering: a peer that sees it sees the lower
    /// half, and what was stored before.
    ///
    /// # Panics
    /// As [`WideRing::upper`].
    #[inline]
    pub fn store(&self, index: u32, lower: u64, upper: u64) {
        self.half(index, false).store(lower.to_le(), Ordering::Relaxed);
        self.half(index, true).store(upper.to_le(), Ordering::Release);
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
    #[should_panic(expected = "index < self.0.count")]
    fn an_index_beyond_the_end_is_our_mistake() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        Ring::<4>::new(&region, 0, 4).unwrap().wide().unwrap().upper(4);
    }
}
