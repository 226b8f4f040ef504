//! The memory that a VMM keeps for us beyond our own end: how far a virtqueue had come (vhost-user protocol, "Inflight
//! I/O tracking").
//!
//! ```text
//!  queue 0 | queue 1 | ...      each: header, then an entry for each descriptor; all in the machine's own byte order
//!  split   features:64 version:16 desc_num:16 last_batch_head:16 used_idx:16                          entries of 16
//!  packed  features:64 version:16 desc_num:16 free_head:16 old_free_head:16
//!          used_idx:16 old_used_idx:16 used_wrap:8 old_used_wrap:8 padding                            entries of 32
//!  entry of a packed queue  inflight:8 padding:8 next:16 last:16 num:16 counter:64 id:16 flags:16 len:32 addr:64
//! ```
//! A queue's part begins on a cache line of its own: one worker's stores do not disturb another's.

use std::sync::atomic::Ordering;

use crate::virtq::Area;
use crate::{MAX_VIRTQ, VirtqPlace};

/// Each queue's part is a multiple of this long, as with the other back ends (which have the number from the cache line).
const ALIGNMENT: usize = 64;
/// Bytes before the entries, and of an entry.
const SPLIT: [usize; 2] = [16, 16];
const PACKED: [usize; 2] = [32, 32];
/// The only version there is; 0 is memory that nobody wrote yet.
const VERSION: u16 = 1;

/// Bytes of the part of one queue with `size` descriptors.
pub fn inflight_bytes(size: u16, packed: bool) -> usize {
    let [head, entry] = if packed { PACKED } else { SPLIT };
    (head + entry * usize::from(size)).next_multiple_of(ALIGNMENT)
}

/// The part of one queue. Nothing in it is to be believed: the VMM may write it at any moment.
#[derive(Clone, Debug)]
pub struct Inflight {
    area: Area,
    size: u16,
    packed: bool,
}

// SAFETY: the Arc in the area keeps the mapping; access is by atomics only.
unsafe impl Send for Inflight {}
// SAFETY: as above.
unsafe impl Sync for Inflight {}

/// A chain of a packed queue that is about to be given back: what the driver will read of it, and what the ring will not
/// tell any more when it has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflightNote {
    /// Its identifier.
    pub id: u16,
    /// Bytes written to it.
    pub len: u32,
    /// Descriptors that it takes.
    pub slots: u16,
    /// The flags by which its descriptor is marked used: they tell the round.
    pub flags: u16,
    /// A number of the caller's.
    pub counter: u64,
}

impl Inflight {
    /// Of a queue with `size` descriptors, at `place`; `None` when it does not fit there or is not aligned.
    pub fn new(place: VirtqPlace<'_>, size: u16, packed: bool) -> Option<Inflight> {
        if size == 0 || size > MAX_VIRTQ {
            return None;
        }
        Some(Inflight { area: Area::new(place, inflight_bytes(size, packed), 8)?, size, packed })
    }

    /// True when it has an entry for each of `size` descriptors of a packed queue.
    pub(crate) fn holds(&self, size: u16) -> bool {
        self.packed && self.size >= size
    }

    /// True when it was prepared for a queue of this size, and not given up since.
    pub fn ready(&self) -> bool {
        // SAFETY: the area holds 32 bytes and more; the offsets are even. Likewise in the next functions.
        let (version, size) = unsafe { (self.area.u16(8), self.area.u16(10)) };
        version.load(Ordering::Acquire) == VERSION && size.load(Ordering::Relaxed) == self.size
    }

    /// Prepares it: nothing is in flight, all entries are free.
    pub fn prepare(&self) {
        self.give_up();
        let [head, entry] = if self.packed { PACKED } else { SPLIT };
        for word in 0..head / 8 {
            // SAFETY: the header lies in the area, which is 8-byte aligned.
            unsafe { self.area.u64(word * 8) }.store(0, Ordering::Relaxed);
        }
        for index in 0..self.size {
            for word in 0..entry / 8 {
                // SAFETY: `size` entries lie behind the header.
                unsafe { self.area.u64(head + usize::from(index) * entry + word * 8) }.store(0, Ordering::Relaxed);
            }
            if self.packed {
                self.clear(index);
            }
        }
        // SAFETY: as in `ready`.
        let (version, size) = unsafe { (self.area.u16(8), self.area.u16(10)) };
        size.store(self.size, Ordering::Relaxed);
        version.store(VERSION, Ordering::Release);
    }

    /// Says that it tells nothing any more: the queue was stopped in order.
    pub fn give_up(&self) {
        // SAFETY: as in `ready`.
        unsafe { self.area.u16(8) }.store(0, Ordering::Release);
    }

    /// Says where a split queue's used ring is. Its own index is what counts; this is for whoever looks.
    pub fn set_split(&self, used: u16) {
        // SAFETY: as in `ready`.
        unsafe { self.area.u16(14) }.store(used, Ordering::Release);
    }

    /// Everything before this index and wrap counter of a packed queue has been given back, and nothing behind it is
    /// noted any more. One store, for it may be cut off anywhere.
    #[inline]
    pub fn settle(&self, index: u16, wrap: bool) {
        let index = u64::from_ne_bytes({
            let [low, high] = index.to_ne_bytes();
            [low, high, low, high, wrap.into(), wrap.into(), 0, 0]
        });
        // SAFETY: the header of a packed queue is 32 bytes, that of a split one and its first entry likewise.
        unsafe { self.area.u64(16) }.store(index, Ordering::Release);
    }

    /// What [`Inflight::settle`] said last.
    pub fn settled(&self) -> (u16, bool) {
        // SAFETY: as above.
        let [_, _, low, high, _, wrap, _, _] = unsafe { self.area.u64(16) }.load(Ordering::Acquire).to_ne_bytes();
        (u16::from_ne_bytes([low, high]), wrap & 1 != 0)
    }

    /// Where entry `index` of a packed queue begins; an index that there is none of is cut.
    fn entry(&self, index: u16) -> usize {
        PACKED[0] + PACKED[1] * usize::from(index.min(self.size - 1))
    }

    /// Notes the chain at `index` of a packed queue.
    pub fn note(&self, index: u16, note: InflightNote) {
        if !self.packed {
            return;
        }
        let at = self.entry(index);
        let [id, flags] = [note.id, note.flags].map(u16::to_ne_bytes);
        let [a, b, c, d] = note.len.to_ne_bytes();
        let told = u64::from_ne_bytes([id[0], id[1], flags[0], flags[1], a, b, c, d]);
        // SAFETY: entry and area as in `prepare`.
        unsafe {
            self.area.u64(at + 8).store(note.counter, Ordering::Relaxed);
            self.area.u64(at + 16).store(told, Ordering::Relaxed);
        }
        let last = index.wrapping_add(note.slots).wrapping_sub(1);
        self.mark(index, 1, last, note.slots);
    }

    /// The note of the chain at `index` of a packed queue, if there is one.
    pub fn noted(&self, index: u16) -> Option<InflightNote> {
        if !self.packed || index >= self.size {
            return None;
        }
        let at = self.entry(index);
        // SAFETY: as above.
        let words = unsafe { [self.area.u64(at), self.area.u64(at + 8), self.area.u64(at + 16)] };
        let [inflight, _, _, _, _, _, low, high] = words[0].load(Ordering::Acquire).to_ne_bytes();
        let counter = words[1].load(Ordering::Relaxed);
        let [i, j, f, g, a, b, c, d] = words[2].load(Ordering::Relaxed).to_ne_bytes();
        (inflight == 1).then(|| InflightNote {
            id: u16::from_ne_bytes([i, j]),
            len: u32::from_ne_bytes([a, b, c, d]),
            slots: u16::from_ne_bytes([low, high]),
            flags: u16::from_ne_bytes([f, g]),
            counter,
        })
    }

    /// Takes the note at `index` of a packed queue back.
    pub fn clear(&self, index: u16) {
        if self.packed {
            self.mark(index, 0, 0, 0);
        }
    }

    /// The first word of an entry. Its link to the next free one stays what it was: our entries are never in that list's
    /// use, for each has the index of its descriptor.
    fn mark(&self, index: u16, inflight: u8, last: u16, num: u16) {
        let [next, last, num] = [index.wrapping_add(1), last, num].map(u16::to_ne_bytes);
        let word = u64::from_ne_bytes([inflight, 0, next[0], next[1], last[0], last[1], num[0], num[1]]);
        // SAFETY: as above.
        unsafe { self.area.u64(self.entry(index)) }.store(word, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::*;
    use crate::Region;

    fn region(len: usize) -> Arc<Region> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        Region::map(file.as_fd(), 0, len, true).unwrap()
    }

    #[test]
    fn fields_lie_where_the_protocol_says() {
        let region = region(8192);
        let window = region.slice(0, 8192).unwrap();
        let field = |at: usize| window.load_u16(at).unwrap();
        assert_eq!((inflight_bytes(4, false), inflight_bytes(4, true), inflight_bytes(1, false)), (128, 192, 64));
        let split = Inflight::new((&region, 128), 4, false).unwrap();
        assert!(!split.ready());
        split.prepare();
        split.set_split(0x1234);
        assert_eq!([8, 10, 12, 14].map(|at| field(128 + at)), [1, 4, 0, 0x1234]);
        assert!(split.ready() && !Inflight::new((&region, 128), 2, false).unwrap().ready());
        let packed = Inflight::new((&region, 1024), 4, true).unwrap();
        packed.prepare();
        packed.settle(3, true);
        assert_eq!([8, 10, 12, 14, 16, 18, 20, 22].map(|at| field(1024 + at)), [1, 4, 0, 0, 3, 3, 0x0101, 0]);
        assert_eq!(packed.settled(), (3, true));
        // Each free entry names the next.
        assert_eq!([0, 1, 2].map(|n| field(1024 + 32 + 32 * n + 2)), [1, 2, 3]);
        let note = InflightNote { id: 7, len: 0x1_0203, slots: 3, flags: 0x8080, counter: 5 };
        packed.note(2, note);
        let entry = 1024 + 32 + 2 * 32;
        assert_eq!([0, 2, 4, 6, 8, 16, 18, 20, 22].map(|at| field(entry + at)), [1, 3, 4, 3, 5, 7, 0x8080, 0x203, 1]);
        assert_eq!((packed.noted(2), packed.noted(1), packed.noted(4)), (Some(note), None, None));
        packed.clear(2);
        assert_eq!(packed.noted(2), None);
        packed.give_up();
        assert!(!packed.ready() && packed.settled() == (3, true));
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let region = region(4096);
        assert!(Inflight::new((&region, 0), 126, true).is_some());
        for (at, size) in [(64, 126), (0, 128), (4, 8), (0, 0), (0, MAX_VIRTQ + 1), (usize::MAX - 63, 1)] {
            assert!(Inflight::new((&region, at), size, true).is_none(), "{at} {size}");
        }
        // An index beyond the queue, as a broken caller would have it, stays in the memory.
        let one = Inflight::new((&region, 4096 - 64), 1, true).unwrap();
        one.note(u16::MAX, InflightNote { id: 1, len: 1, slots: 1, flags: 0, counter: 0 });
        assert!(one.noted(0).is_some() && one.noted(1).is_none());
    }
}
