//! A bounded window onto shared bytes.

use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::prefetch::{LINE, at_read, at_write, at_write_behind, claim_lines, fetch_lines};
use crate::sum;

/// Bytes of a head, as [`Slice::front`], [`Slice::read_head_behind`] and [`Slice::write_prefixed`] have it: a cache line.
pub const HEAD: usize = 64;

/// Bytes of the header before a frame in a buffer of a virtio network card (VIRTIO 1.2, 5.1.6).
const PREFIX: usize = 12;

/// `len` bytes of memory that somebody else may write at any moment. Copy it freely; it borrows
/// from the region or map it was cut from.
///
/// The pointer first, then the shape: [`crate::windows`] writes them so.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slice<'m> {
    ptr: NonNull<u8>,
    /// Length in bytes, and [`WRITABLE`] or [`ROOMY`]: with the pointer two words, which travel in registers.
    pub(crate) shape: u64,
    owner: PhantomData<&'m ()>,
}

/// Set beside the length when stores and copies into the window are allowed.
pub(crate) const WRITABLE: u64 = 1 << 32;

/// Set beside the length when [`HEAD`] bytes behind the end are mapped as the window is. Such a window is for reading.
pub(crate) const ROOMY: u64 = 1 << 63;

// SAFETY: a Slice is an address range kept mapped by the borrow 'm; access is by raw copies and
// atomics only.
unsafe impl Send for Slice<'_> {}
// SAFETY: as above.
unsafe impl Sync for Slice<'_> {}

macro_rules! word {
    ($load:ident, $store:ident, $atomic:ty, $int:ty, $bytes:literal) => {
        #[doc = concat!("Loads the ", stringify!($int), " (native little-endian order) at `offset` with acquire ordering; `None` when it is out of bounds or misaligned.")]
        #[inline]
        pub fn $load(&self, offset: usize) -> Option<$int> {
            let p = self.word_at(offset, $bytes)?;
            // SAFETY: word_at checked bounds and alignment; the mapping lives for 'm; shared
            // memory is accessed atomically only.
            Some(unsafe { <$atomic>::from_ptr(p.cast()) }.load(Ordering::Acquire))
        }

        #[doc = concat!("Stores a ", stringify!($int), " at `offset` with release ordering; false when it is out of bounds, misaligned or read-only.")]
        #[inline]
        pub fn $store(&self, offset: usize, value: $int) -> bool {
            let Some(p) = self.word_at(offset, $bytes) else { return false };
            if !self.writable() {
                return false;
            }
            // SAFETY: as for the load, and the mapping is writable.
            unsafe { <$atomic>::from_ptr(p.cast()) }.store(value, Ordering::Release);
            true
        }
    };
}

impl<'m> Slice<'m> {
    /// A window onto nothing.
    pub const NOTHING: Slice<'m> = Slice { ptr: NonNull::dangling(), shape: 0, owner: PhantomData };

    /// # Safety
    /// `ptr..ptr + len` must stay mapped readable (and writable when `writable`) for `'m`; nothing is mapped at address 0.
    #[inline]
    pub(crate) unsafe fn from_raw(ptr: *mut u8, len: usize, writable: bool) -> Slice<'m> {
        debug_assert!(u32::try_from(len).is_ok());
        let shape = u64::from(len as u32) | if writable { WRITABLE } else { 0 };
        // SAFETY: the caller's promise.
        unsafe { Slice::from_shape(ptr, shape) }
    }

    /// The same with the length and [`WRITABLE`] or [`ROOMY`] put together.
    ///
    /// # Safety
    /// As above, and `ptr` is not null. With [`ROOMY`], so many bytes more must stay mapped readable.
    #[inline(always)]
    pub(crate) unsafe fn from_shape(ptr: *mut u8, shape: u64) -> Slice<'m> {
        // SAFETY: the caller's promise.
        Slice { ptr: unsafe { NonNull::new_unchecked(ptr) }, shape, owner: PhantomData }
    }

    /// Where the window begins, for a system call that reads or writes it: the kernel finds a page that is gone by
    /// itself and says so. Never to be made a reference.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.shape as u32 as usize
    }

    /// True when there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when stores and copies into it are allowed.
    #[inline]
    pub fn writable(&self) -> bool {
        self.shape & WRITABLE != 0
    }

    /// True when `n` bytes fit and may be written: one comparison, for the flag stands above the length, and what is roomy is
    /// less than nothing.
    #[inline(always)]
    fn takes(&self, n: usize) -> bool {
        self.shape as i64 >= (WRITABLE + n as u64) as i64
    }

    /// The part from `offset`, `len` bytes long; `None` when it does not fit.
    #[inline(always)]
    pub fn sub(&self, offset: usize, len: usize) -> Option<Slice<'m>> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        // SAFETY: a part of a window that is valid for 'm.
        let ptr = unsafe { self.ptr.add(offset) };
        Some(Slice { ptr, shape: self.shape & WRITABLE | len as u64, owner: PhantomData })
    }

    /// All from `offset` on; `None` when it is not that long.
    #[inline(always)]
    pub fn after(&self, offset: usize) -> Option<Slice<'m>> {
        self.sub(offset, self.len().checked_sub(offset)?)
    }

    /// Copies `out.len()` bytes from `offset` out of the window; false (and nothing copied) when
    /// they do not all lie in it.
    #[inline]
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(part) = self.sub(offset, out.len()) else { return false };
        // SAFETY: part is mapped for out.len() bytes; out is our own memory and cannot overlap a
        // mapping that is only reachable through raw pointers.
        unsafe { ptr::copy_nonoverlapping(part.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    /// Copies `data` to `offset`; false (and nothing copied) when it does not fit or the window
    /// is read-only.
    #[inline]
    pub fn write_at(&self, offset: usize, data: &[u8]) -> bool {
        let Some(part) = self.sub(offset, data.len()) else { return false };
        if !self.writable() {
            return false;
        }
        // SAFETY: as for read_at, and the mapping is writable.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), part.as_ptr(), data.len()) };
        true
    }

    /// Copies the first bytes behind `P` others, at most [`HEAD`], to `out`, and returns how many. As [`Slice::read_at`],
    /// without the cost of a copy of any length.
    #[inline(always)]
    pub fn read_head_behind<const P: usize>(&self, out: &mut [u8; HEAD]) -> usize {
        let n = self.len().saturating_sub(P).min(HEAD);
        // SAFETY: the window is mapped for P + n bytes where n is not 0, and `out` holds HEAD and is our own memory.
        unsafe { copy_short(self.as_ptr().wrapping_add(P), out.as_mut_ptr(), n) };
        n
    }

    /// Writes `prefix` and then the first `n` bytes of `head` to the start of the window; false (and nothing written) when
    /// they do not fit, `n` is more than [`HEAD`], or the window is read-only. A prefix that ends with its cache line and
    /// stands there already is left alone: both sides keep that line, which a store would take from the other.
    #[inline(always)]
    pub fn write_prefixed<const P: usize>(&self, prefix: &[u8; P], head: &[u8; HEAD], n: usize) -> bool {
        if n > HEAD || !self.takes(P + n) {
            return false;
        }
        // SAFETY: the window is writable for P + n bytes, n at most HEAD; both sources are our own memory.
        unsafe {
            if !self.has_apart(prefix) {
                ptr::copy_nonoverlapping(prefix.as_ptr(), self.as_ptr(), P);
            }
            copy_short(head.as_ptr(), self.as_ptr().add(P), n);
        }
        true
    }

    /// True when `prefix` stands at the start of the window, and what comes behind it in another cache line.
    ///
    /// # Safety
    /// The window must be mapped for `P` bytes.
    #[inline(always)]
    unsafe fn has_apart<const P: usize>(&self, prefix: &[u8; P]) -> bool {
        let at = self.as_ptr();
        // SAFETY: the caller's promise; arrays of bytes have alignment 1.
        P > 0 && (at.addr() + P).is_multiple_of(LINE) && unsafe { at.cast::<[u8; P]>().read() } == *prefix
    }

    /// Writes `prefix` and a whole head to the start of each of `to`, as [`Slice::write_prefixed`] does; false, and nothing written,
    /// when one of them has no room. Where the first prefix would end its cache line it is asked once whether all are there already.
    #[inline(always)]
    pub fn write_heads<const P: usize, const N: usize>(
        to: &[Slice<'m>; N],
        prefix: &[u8; P],
        heads: [&[u8; HEAD]; N],
    ) -> bool {
        if !to.iter().all(|window| window.takes(P + HEAD)) {
            return false;
        }
        // SAFETY: all windows are writable for P + HEAD bytes; the sources are our own memory.
        unsafe {
            if !Slice::have_apart(to, prefix) {
                to.iter().for_each(|window| ptr::copy_nonoverlapping(prefix.as_ptr(), window.as_ptr(), P));
            }
            for (window, head) in to.iter().zip(heads) {
                copy_short(head.as_ptr(), window.as_ptr().add(P), HEAD);
            }
        }
        true
    }

    /// As [`Slice::has_apart`] of each of several, where the first is.
    ///
    /// # Safety
    /// The windows must be mapped for `P` bytes.
    #[inline(always)]
    unsafe fn have_apart<const P: usize, const N: usize>(of: &[Slice<'m>; N], prefix: &[u8; P]) -> bool {
        const WORD: usize = size_of::<u64>();
        const { assert!(P <= 2 * WORD, "the first and the last word are all of it") };
        let (Some(first), Some(start), Some(end)) = (of.first(), prefix.first_chunk(), prefix.last_chunk()) else {
            return false;
        };
        if !(first.as_ptr().addr() + P).is_multiple_of(LINE) {
            return false;
        }
        let (start, end) = (u64::from_ne_bytes(*start), u64::from_ne_bytes(*end));
        let differ = of.iter().fold(0, |differ, window| {
            let at = window.as_ptr();
            // SAFETY: P bytes are mapped, which is no less than a word.
            let there = unsafe { [at.cast::<u64>().read_unaligned(), at.add(P - WORD).cast::<u64>().read_unaligned()] };
            differ | (there[0] ^ start) | (there[1] ^ end)
        });
        differ == 0
    }

    /// Copies as many bytes as both windows hold from `self` to `to`, and returns how many.
    /// The windows may overlap (two VMs may share memory). Nothing is copied when `to` is
    /// read-only.
    #[inline]
    pub fn copy_to(&self, to: &Slice<'_>) -> usize {
        if !to.writable() {
            return 0;
        }
        let n = self.len().min(to.len());
        claim_lines(to.as_ptr(), n);
        // SAFETY: both are mapped for n bytes; ptr::copy allows overlap.
        unsafe { ptr::copy(self.as_ptr(), to.as_ptr(), n) };
        n
    }

    /// As [`Slice::copy_to`], and forms the big-endian 16-bit ones' complement sum of the bytes
    /// copied on the way (each byte is read once). Returns the count and the folded sum.
    pub fn copy_to_sum(&self, to: &Slice<'_>) -> (usize, u16) {
        if !to.writable() {
            return (0, 0);
        }
        let n = self.len().min(to.len());
        // SAFETY: both are mapped for n bytes, `to` writable; they may overlap.
        (n, unsafe { sum::copy(self.as_ptr(), to.as_ptr(), n) })
    }

    /// Asks the processor to bring the first cache line near.
    #[inline]
    pub fn prefetch(&self) {
        at_read(self.as_ptr());
    }

    /// Asks for the first `n` bytes of it, no nearer than the second-level cache: they are not needed at once, and the first has
    /// no room. More than an Ethernet frame are left alone.
    #[inline]
    pub fn prefetch_far(&self, n: usize) {
        fetch_lines(self.as_ptr(), n.min(self.len()));
    }

    /// The same for the line of what comes behind a header, too.
    #[inline(always)]
    pub fn prefetch_behind(&self) {
        at_read(self.as_ptr());
        at_read(self.as_ptr().wrapping_add(PREFIX));
    }

    /// As [`Slice::prefetch`], for memory that will be written: the line comes with the right to write it, which would
    /// cost another round between the processors' caches later.
    #[inline]
    pub fn prefetch_write(&self) {
        at_write(self.as_ptr());
    }

    /// The same for all lines of a header and a head. The header's own is to be read, where it has one: what is written there stands
    /// there mostly ([`Slice::write_prefixed`]).
    #[inline(always)]
    pub fn prefetch_write_head(&self) {
        at_write_behind::<PREFIX>(self.as_ptr());
        at_write_behind::<{ PREFIX + HEAD - 1 }>(self.as_ptr());
        at_read(self.as_ptr());
    }

    #[inline]
    fn word_at(&self, offset: usize, bytes: usize) -> Option<*mut u8> {
        if offset.checked_add(bytes)? > self.len() {
            return None;
        }
        // SAFETY: within the window.
        let p = unsafe { self.as_ptr().add(offset) };
        (p as usize).is_multiple_of(bytes).then_some(p)
    }

    word!(load_u8, store_u8, AtomicU8, u8, 1);
    word!(load_u16, store_u16, AtomicU16, u16, 2);
    word!(load_u32, store_u32, AtomicU32, u32, 4);
    word!(load_u64, store_u64, AtomicU64, u64, 8);
}

/// Copies `n` bytes, at most [`HEAD`], by a few moves of fixed size that may overlap: no call, no loop. A byte that
/// two moves cover is read twice and ends up with the second value; each byte of the copy has one value in the end.
///
/// # Safety
/// `from` must be readable and `to` writable for `n` bytes, and they must not overlap.
#[inline(always)]
unsafe fn copy_short(from: *const u8, to: *mut u8, n: usize) {
    type Half = [u8; 32];
    type Quarter = [u8; 16];
    // SAFETY: every move lies within 0..n, by the branch it is in; all types have alignment 1.
    unsafe {
        if n == HEAD {
            ptr::copy_nonoverlapping(from.cast::<[u8; HEAD]>(), to.cast(), 1);
        } else if n >= 32 {
            ptr::copy_nonoverlapping(from.cast::<Half>(), to.cast(), 1);
            ptr::copy_nonoverlapping(from.add(n - 32).cast::<Half>(), to.add(n - 32).cast(), 1);
        } else if n >= 16 {
            ptr::copy_nonoverlapping(from.cast::<Quarter>(), to.cast(), 1);
            ptr::copy_nonoverlapping(from.add(n - 16).cast::<Quarter>(), to.add(n - 16).cast(), 1);
        } else {
            ptr::copy_nonoverlapping(from, to, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use crate::Region;
    use crate::sum::tests::sum_be;

    proptest! {
        #[test]
        fn copies_and_sums_agree(data in proptest::collection::vec(any::<u8>(), 0..300), from in 0usize..9, to in 0usize..9) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(4096).unwrap();
            let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
            let src = region.slice(from, data.len()).unwrap();
            let dst = region.slice(2048 + to, data.len()).unwrap();
            prop_assert!(src.write_at(0, &data));
            let (n, sum) = src.copy_to_sum(&dst);
            let mut out = vec![0; data.len()];
            prop_assert!(dst.read_at(0, &mut out));
            prop_assert_eq!((n, sum), (data.len(), sum_be(&data)));
            prop_assert_eq!(&out, &data);
            let mut head = [0xaa; super::HEAD];
            let n = src.read_head_behind::<0>(&mut head);
            prop_assert_eq!(n, data.len().min(super::HEAD));
            prop_assert_eq!(&head[..n], &data[..n]);
            prop_assert!(head[n..].iter().all(|b| *b == 0xaa));
            let back = region.slice(3000 + to, n).unwrap();
            prop_assert!(!back.write_prefixed(&[], &head, n + 1));
            prop_assert!(back.write_prefixed(&[], &head, n));
            prop_assert!(back.read_at(0, &mut out[..n]));
            prop_assert_eq!(&out[..n], &data[..n]);
            let mut beyond = [1];
            prop_assert!(region.slice(3000 + to + n, 1).unwrap().read_at(0, &mut beyond) && beyond == [0]);
        }
    }

    /// Wherever a header lies and whatever is there before.
    #[test]
    fn what_is_prefixed_reads_as_it_was_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        let head: [u8; super::HEAD] = std::array::from_fn(|at| at as u8 + 1);
        let prefix = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        let mut others = vec![prefix, [0xee; 12]];
        others.extend((0..12).map(|at| {
            let mut other = prefix;
            other[at] ^= 0x80;
            other
        }));
        for (at, before) in (0..130).flat_map(|at| others.iter().map(move |other| (at, other))) {
            for n in [0, 14, 31, 60, super::HEAD] {
                let all = region.slice(0, 1024).unwrap();
                assert!(all.write_at(0, &[0xee; 1024]) && all.write_at(at, before));
                assert!(all.after(at).unwrap().write_prefixed(&prefix, &head, n));
                let mut got = vec![0; 1024];
                let mut expected = vec![0xee; 1024];
                expected[at..at + 12].copy_from_slice(&prefix);
                expected[at + 12..at + 12 + n].copy_from_slice(&head[..n]);
                assert!(all.read_at(0, &mut got) && got == expected, "{n} bytes at {at} over {before:?}");
            }
        }
        let unwritable = Region::map(file.as_fd(), 0, 4096, false).unwrap();
        assert!(!unwritable.slice(52, 100).unwrap().write_prefixed(&prefix, &head, 60));
    }

    /// Several at once are as one by one: at equal places and at different ones, whichever of them had another prefix before.
    #[test]
    fn heads_written_together_are_as_one_by_one() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        let heads: [[u8; super::HEAD]; 4] = std::array::from_fn(|n| [n as u8 + 1; super::HEAD]);
        let prefix = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        for (at, step) in [(52, 256), (52, 257), (51, 256), (0, 256), (116, 320), (40, 204)] {
            let windows: [_; 4] = std::array::from_fn(|n| region.slice(at + n * step, 12 + super::HEAD).unwrap());
            for (other, byte) in (0..4).flat_map(|other| (0..12).map(move |byte| (other, byte))).chain([(4, 0)]) {
                for (n, window) in windows.iter().enumerate() {
                    let mut before = prefix;
                    before[byte] ^= u8::from(n == other);
                    assert!(window.write_at(0, &before));
                }
                assert!(crate::Slice::write_heads(&windows, &prefix, heads.each_ref()));
                for (window, head) in windows.iter().zip(&heads) {
                    let mut got = [0; 12 + super::HEAD];
                    assert!(window.read_at(0, &mut got));
                    assert_eq!((&got[..12], &got[12..]), (&prefix[..], &head[..]), "byte {byte} of {other} at {at}");
                }
            }
            let mut short = windows;
            short[3] = windows[3].sub(0, 11 + super::HEAD).unwrap();
            assert!(!crate::Slice::write_heads(&short, &[0xff; 12], [&[0xff; super::HEAD]; 4]));
            let mut first = [0];
            assert!(windows[0].read_at(0, &mut first) && first == [0], "nothing is written where one has no room");
        }
    }

    #[test]
    fn copies_of_any_length_and_place_write_their_bytes_and_no_others() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        let region = Region::map(file.as_fd(), 0, 16384, true).unwrap();
        let bytes: Vec<u8> = (0..6144u32).map(|at| (at * 7 % 251) as u8).collect();
        let around = crate::prefetch::CLAIM - 3..crate::prefetch::CLAIM + 3;
        for len in (0..=300).chain([1514]).chain(around) {
            for (from, to) in [(0, 0), (0, 12), (1, 63), (76, 64), (33, 31), (len, 65)] {
                let (src, dst) = (region.slice(0, 6144).unwrap(), region.slice(8192, 6144).unwrap());
                assert!(src.write_at(0, &bytes) && dst.write_at(0, &[0xee; 6144]));
                assert_eq!(src.sub(from, len).unwrap().copy_to(&dst.after(to).unwrap()), len);
                let (mut expected, mut got) = (vec![0xee; 6144], vec![0; 6144]);
                expected[to..to + len].copy_from_slice(&bytes[from..from + len]);
                assert!(dst.read_at(0, &mut got) && got == expected, "{len} bytes from {from} to {to}");
                // Within one memory, one window over the other.
                assert_eq!(src.sub(from, len).unwrap().copy_to(&src.after(to).unwrap()), len);
                let mut expected = bytes.clone();
                expected.copy_within(from..from + len, to);
                assert!(src.read_at(0, &mut got) && got == expected, "{len} bytes from {from} over {to}");
            }
        }
    }

    #[test]
    fn bounds_alignment_and_read_only() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let region = Region::map(file.as_fd(), 0, 4096, false).unwrap();
        let slice = region.slice(8, 8).unwrap();
        assert_eq!(slice.load_u32(4), Some(0));
        assert_eq!(slice.load_u32(5), None);
        assert_eq!(slice.load_u64(1), None);
        assert_eq!(slice.load_u32(usize::MAX), None);
        assert!(!slice.store_u8(0, 1) && !slice.write_at(0, &[1]));
        assert!(slice.sub(4, 5).is_none() && region.slice(4096, 1).is_none());
        assert_eq!(slice.copy_to(&slice), 0);
    }
}
