//! Virtqueues in shared memory, with their places looked up once.
//!
//! Layout: virtio 1.2, sections 2.7 (split) and 2.8 (packed). All fields are little-endian.
//!
//! ```text
//!  split   descriptors  addr:64 len:32 flags:16 next:16          driver writes
//!          driver area  flags:16 idx:16 ring:16[n] used_event:16   driver writes
//!          device area  flags:16 idx:16 {id:32 len:32}[n] avail_event:16   device writes
//!  packed  descriptors  addr:64 len:32 id:16 flags:16            both write
//!          event areas  offset and wrap:16 flags:16              driver's and device's
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::prefetch::{at_read, at_write};
use crate::{Ahead, Region};

/// Most descriptors of a ring (virtio 1.2, 2.7 and 2.8.10.1).
pub const MAX_VIRTQ: u16 = 32_768;

/// A descriptor as it was read, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtqDesc {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`; in a packed ring with the avail and used bits.
    pub flags: u16,
    /// The next descriptor of a split ring's chain; a packed ring's buffer identifier.
    pub next: u16,
}

impl VirtqDesc {
    /// From the 16 bytes of an indirect table's entry; in a packed ring the order of the last two fields differs.
    #[inline]
    pub fn from_bytes(bytes: [u8; 16], packed: bool) -> VirtqDesc {
        let whole = u128::from_le_bytes(bytes);
        VirtqDesc::from_words(whole as u64, (whole >> 64) as u64, packed)
    }

    #[inline]
    fn from_words(addr: u64, rest: u64, packed: bool) -> VirtqDesc {
        let (third, fourth) = ((rest >> 32) as u16, (rest >> 48) as u16);
        let (flags, next) = if packed { (fourth, third) } else { (third, fourth) };
        VirtqDesc { addr, len: rest as u32, flags, next }
    }
}

/// A place in a mapping.
pub type VirtqPlace<'a> = (&'a Arc<Region>, usize);

/// An area of a ring: checked once, kept by its region.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    base: *mut u8,
    pub(crate) region: Arc<Region>,
}

impl Area {
    /// `len` bytes at `place`; `None` when they do not fit, are not aligned, or may not be written.
    pub(crate) fn new((region, offset): VirtqPlace<'_>, len: usize, align: usize) -> Option<Area> {
        if offset.checked_add(len)? > region.len() || !region.writable() {
            return None;
        }
        // SAFETY: the offset lies in the mapping.
        let base = unsafe { region.base().add(offset) };
        (base as usize).is_multiple_of(align).then(|| Area { base, region: region.clone() })
    }

    /// # Safety
    /// `offset + 2` must lie in the area, and `offset` be even; likewise in the two functions below, for 4 and 8 bytes.
    #[inline(always)]
    pub(crate) unsafe fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: the caller's promise; the region is held by self; shared memory is accessed atomically only.
        unsafe { AtomicU16::from_ptr(self.base.add(offset).cast()) }
    }

    /// # Safety
    /// See [`Area::u16`].
    #[inline(always)]
    pub(crate) unsafe fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    /// # Safety
    /// See [`Area::u16`].
    #[inline(always)]
    pub(crate) unsafe fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    /// Reads the descriptor at `index`, the half with the flags first.
    ///
    /// # Safety
    /// `16 * (index + 1)` bytes must lie in the area, which is 16-byte aligned.
    #[inline(always)]
    pub(crate) unsafe fn desc(&self, index: usize, packed: bool) -> VirtqDesc {
        // SAFETY: the caller's promise.
        let (rest, addr) = unsafe { (self.u64(index * 16 + 8), self.u64(index * 16)) };
        let rest = u64::from_le(rest.load(Ordering::Acquire));
        VirtqDesc::from_words(u64::from_le(addr.load(Ordering::Relaxed)), rest, packed)
    }

    /// Where `offset` lies, be it within the area or not: for asking only.
    #[inline(always)]
    pub(crate) fn line(&self, offset: usize) -> *const u8 {
        self.base.wrapping_add(offset)
    }

    /// Asks the processor to bring what lies at `offset` near.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize) {
        at_read(self.line(offset));
    }

    /// The same for what will be written.
    #[inline(always)]
    pub(crate) fn prefetch_write(&self, offset: usize) {
        at_write(self.line(offset));
    }
}

/// A split virtqueue, from the device's side. Indices run freely and are cut to the ring's size here, so none can be
/// out of range.
#[derive(Clone, Debug)]
pub struct SplitRing {
    desc: Area,
    avail: Area,
    used: Area,
    mask: u16,
}

// SAFETY: the Arcs keep the mappings; access is by atomics only.
unsafe impl Send for SplitRing {}
// SAFETY: as above.
unsafe impl Sync for SplitRing {}

impl SplitRing {
    /// A ring of `size` descriptors; `None` when `size` is no power of two up to [`MAX_VIRTQ`], or an area does not
    /// fit its region or is not aligned as virtio 1.2, 2.7 demands.
    pub fn new(size: u16, desc: VirtqPlace<'_>, avail: VirtqPlace<'_>, used: VirtqPlace<'_>) -> Option<SplitRing> {
        if !size.is_power_of_two() || size > MAX_VIRTQ {
            return None;
        }
        let n = usize::from(size);
        Some(SplitRing {
            desc: Area::new(desc, 16 * n, 16)?,
            avail: Area::new(avail, 6 + 2 * n, 2)?,
            used: Area::new(used, 6 + 8 * n, 4)?,
            mask: size - 1,
        })
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.mask + 1
    }

    /// True when the peer shrank the memory under the ring (see [`crate::fault`]).
    #[inline]
    pub fn faulted(&self) -> bool {
        self.desc.region.faulted() || self.avail.region.faulted() || self.used.region.faulted()
    }

    /// The driver's index: what it stored before is seen after it.
    #[inline]
    pub fn avail_idx(&self) -> u16 {
        // SAFETY: the area holds 6 bytes and more; offset 2 is even.
        u16::from_le(unsafe { self.avail.u16(2) }.load(Ordering::Acquire))
    }

    /// True when the driver asks for no notification (without event index).
    #[inline]
    pub fn no_interrupt(&self) -> bool {
        // SAFETY: as above.
        u16::from_le(unsafe { self.avail.u16(0) }.load(Ordering::Relaxed)) & 1 == 1
    }

    /// The head the driver made available at `index`.
    #[inline(always)]
    pub fn avail(&self, index: u16) -> u16 {
        let at = usize::from(index & self.mask);
        // SAFETY: at is below the size, and the area holds 6 + 2 * size bytes.
        u16::from_le(unsafe { self.avail.u16(4 + 2 * at) }.load(Ordering::Relaxed))
    }

    /// Asks the processor to bring the available entry at `index` near.
    #[inline(always)]
    pub fn prefetch_avail(&self, index: u16) {
        self.avail.prefetch(4 + 2 * usize::from(index & self.mask));
    }

    /// Where the driver wants to be notified (event index).
    #[inline]
    pub fn used_event(&self) -> u16 {
        // SAFETY: the last two bytes of the area.
        u16::from_le(unsafe { self.avail.u16(4 + 2 * usize::from(self.size())) }.load(Ordering::Relaxed))
    }

    /// Descriptor `index`; `None` when the ring has no such.
    #[inline(always)]
    pub fn desc(&self, index: u16) -> Option<VirtqDesc> {
        if index > self.mask {
            return None;
        }
        // SAFETY: index is below the size, and the area holds 16 * size bytes and is 16-byte aligned.
        Some(unsafe { self.desc.desc(usize::from(index), false) })
    }

    /// Address and length of descriptor `index` when its flags are `flags` and no others. What it reads of it, it reads
    /// once; `next`, which these flags do not use, not at all.
    #[inline(always)]
    pub fn buffer(&self, index: u16, flags: u16) -> Option<(u64, u32)> {
        if index > self.mask {
            return None;
        }
        let at = usize::from(index) * 16;
        // SAFETY: index is below the size, and the area holds 16 * size bytes and is 16-byte aligned.
        let (addr, len, own) = unsafe { (self.desc.u64(at), self.desc.u32(at + 8), self.desc.u16(at + 12)) };
        if u16::from_le(own.load(Ordering::Relaxed)) != flags {
            return None;
        }
        Some((u64::from_le(addr.load(Ordering::Relaxed)), u32::from_le(len.load(Ordering::Relaxed))))
    }

    /// Where descriptor `index` lies.
    ///
    /// # Safety
    /// The ring must have such.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn desc_at(&self, index: u16) -> *const std::arch::x86_64::__m128i {
        // SAFETY: index is below the size, the caller's promise, and the area holds 16 * size bytes.
        unsafe { self.desc.base.cast::<std::arch::x86_64::__m128i>().add(usize::from(index)) }
    }

    /// Asks the processor to bring descriptor `index` near.
    #[inline(always)]
    pub fn prefetch(&self, index: u16) {
        self.desc.prefetch(usize::from(index) * 16);
    }

    /// Where the available entries lie, as many as the ring has.
    #[inline(always)]
    pub(crate) fn avail_entries(&self) -> *const u16 {
        // SAFETY: the area holds 6 + 2 * size bytes.
        unsafe { self.avail.base.add(4).cast() }
    }

    /// Where the used element at `index` lies; behind it those up to the ring's end.
    #[inline(always)]
    pub(crate) fn used_at(&self, index: u16) -> *mut u64 {
        // SAFETY: the index is cut to the ring's size, and the area holds 6 + 8 * size bytes.
        unsafe { self.used.base.add(4 + 8 * usize::from(index & self.mask)).cast() }
    }

    /// Writes the used element at `index`; seen by the driver after the next [`SplitRing::set_used_idx`].
    #[inline(always)]
    pub fn set_used(&self, index: u16, id: u16, len: u32) {
        let element = u64::from(id) | u64::from(len) << 32;
        // SAFETY: an element of the ring; the driver reads it after the next `set_used_idx`.
        unsafe { self.used_at(index).write_unaligned(element.to_le()) };
    }

    /// Asks the processor for the right to write the used elements from `start` on, `count` of them.
    #[inline]
    pub fn prefetch_used(&self, start: u16, count: u16) {
        let mut n = 0;
        while n < count {
            at_write(self.used_at(start.wrapping_add(n)).cast());
            n += 8;
        }
        at_write(self.used_at(start.wrapping_add(count)).cast());
    }

    /// Asks the processor for the right to write the index of used elements.
    #[inline(always)]
    pub fn prefetch_used_idx(&self) {
        at_write(self.used.base);
    }

    /// What a chain used at `index` needs: the used element and the index of these, and the descriptor made available there.
    #[inline]
    pub fn ahead(&self, index: u16) -> Ahead {
        let desc = self.desc.line(16 * usize::from(self.avail(index) & self.mask));
        Ahead::new(desc, [self.used.base, self.used_at(index).cast()])
    }

    /// The device's index, as it stands in memory.
    #[inline]
    pub fn used_idx(&self) -> u16 {
        // SAFETY: the area holds 6 bytes and more.
        u16::from_le(unsafe { self.used.u16(2) }.load(Ordering::Relaxed))
    }

    /// Publishes the used elements before `index`.
    #[inline]
    pub fn set_used_idx(&self, index: u16) {
        // SAFETY: as above.
        unsafe { self.used.u16(2) }.store(index.to_le(), Ordering::Release);
    }

    /// Asks the driver to notify or not (without event index).
    #[inline]
    pub fn set_no_notify(&self, quiet: bool) {
        // SAFETY: as above.
        unsafe { self.used.u16(0) }.store(u16::from(quiet).to_le(), Ordering::Relaxed);
    }

    /// Asks the driver to notify when it makes `index` available (event index).
    #[inline]
    pub fn set_avail_event(&self, index: u16) {
        // SAFETY: the last two bytes of the area.
        unsafe { self.used.u16(4 + 8 * usize::from(self.size())) }.store(index.to_le(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::{PackedEvent, PackedRing};

    fn region(len: usize) -> Arc<Region> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        Region::map(file.as_fd(), 0, len, true).unwrap()
    }

    #[test]
    fn what_a_position_needs_is_known_ahead() {
        let region = region(4096);
        let window = region.slice(0, 4096).unwrap();
        let at = |offset: usize| window.as_ptr().cast_const().wrapping_add(offset);
        let ring = SplitRing::new(4, (&region, 0), (&region, 1024), (&region, 2048)).unwrap();
        window.store_u16(1028 + 2 * 3, 2);
        // The entry at 7 is the fourth: descriptor 2 is available there, and the fourth used element is to be written.
        assert_eq!(ring.ahead(7), Ahead::new(at(32), [at(2048), at(2052 + 24)]));
        // No such descriptor: the address is cut to the ring.
        window.store_u16(1028 + 2 * 3, 0xffff);
        assert_eq!(ring.ahead(3), Ahead::new(at(48), [at(2048), at(2052 + 24)]));
        ring.ahead(3).ask();
    }

    #[test]
    fn split_fields_lie_where_the_standard_says() {
        let region = region(4096);
        let ring = SplitRing::new(4, (&region, 0), (&region, 1024), (&region, 2048)).unwrap();
        let window = region.slice(0, 4096).unwrap();
        window.store_u64(16, 0x1122_3344_5566_7788);
        window.store_u32(24, 99);
        window.store_u16(28, 3);
        window.store_u16(30, 2);
        assert_eq!(ring.desc(1), Some(VirtqDesc { addr: 0x1122_3344_5566_7788, len: 99, flags: 3, next: 2 }));
        assert_eq!(ring.desc(4), None);
        window.store_u16(1024, 1);
        window.store_u16(1026, 7);
        window.store_u16(1028 + 2 * 3, 2);
        window.store_u16(1028 + 8, 5);
        assert!(ring.no_interrupt());
        assert_eq!((ring.avail_idx(), ring.avail(7), ring.used_event()), (7, 2, 5));
        ring.set_used(6, 3, 77);
        ring.set_used_idx(7);
        ring.set_no_notify(true);
        ring.set_avail_event(9);
        assert_eq!((window.load_u32(2052 + 16), window.load_u32(2056 + 16)), (Some(3), Some(77)));
        assert_eq!(
            (window.load_u16(2048), window.load_u16(2050), window.load_u16(2052 + 32)),
            (Some(1), Some(7), Some(9))
        );
        assert_eq!(ring.used_idx(), 7);
    }

    #[test]
    fn packed_fields_lie_where_the_standard_says() {
        let region = region(4096);
        let ring = PackedRing::new(3, (&region, 16), (&region, 1024), (&region, 2048)).unwrap();
        let window = region.slice(0, 4096).unwrap();
        window.store_u64(32, 0xabcd);
        window.store_u32(40, 60);
        window.store_u16(44, 5);
        window.store_u16(46, 0x80);
        assert_eq!(ring.desc(1), Some(VirtqDesc { addr: 0xabcd, len: 60, flags: 0x80, next: 5 }));
        assert_eq!(ring.desc(3), None);
        ring.set_used(2, 5, 61, 0x8080);
        ring.set_used(3, 5, 61, 0x8080);
        assert_eq!((window.load_u32(56), window.load_u16(60), window.load_u16(62)), (Some(61), Some(5), Some(0x8080)));
        assert_eq!(window.load_u64(72), Some(0));
        window.store_u32(1024, 2 << 16 | 0x8003);
        assert_eq!(ring.driver_event(), PackedEvent::At(3, true));
        window.store_u32(1024, 1 << 16);
        assert_eq!(ring.driver_event(), PackedEvent::Disable);
        ring.set_device_event(PackedEvent::At(2, false));
        assert_eq!(window.load_u32(2048), Some(2 << 16 | 2));
    }

    #[test]
    fn rings_that_do_not_fit_are_refused() {
        let region = region(4096);
        let split = |size, d, a, u| SplitRing::new(size, (&region, d), (&region, a), (&region, u)).is_some();
        assert!(split(8, 0, 2, 4) && split(1, 4080, 4088, 4080));
        assert!(!split(0, 0, 0, 0) && !split(3, 0, 0, 0) && !split(512, 0, 0, 0));
        assert!(!split(8, 8, 0, 0) && !split(8, 0, 1, 0) && !split(8, 0, 0, 2));
        assert!(!split(8, 3984, 0, 0) && !split(8, 0, 4076, 0) && !split(8, 0, 0, 4028));
        assert!(!split(8, usize::MAX & !15, 0, 0));
        let packed = |size, d, a, u| PackedRing::new(size, (&region, d), (&region, a), (&region, u)).is_some();
        assert!(packed(7, 0, 4092, 4092));
        assert!(!packed(0, 0, 0, 0) && !packed(257, 0, 0, 0) && !packed(7, 0, 4096, 0) && !packed(7, 0, 2, 0));
    }
}
