//! A split virtqueue from the driver's side, for soft guests and generators.

use std::sync::atomic::Ordering;

use crate::virtq::{Area, MAX_VIRTQ, VirtqPlace};

/// The driver's end of a split ring. Indices run freely and are cut to the ring's size here.
#[derive(Clone, Debug)]
pub struct DriverRing {
    desc: Area,
    avail: Area,
    used: Area,
    mask: u16,
}

// SAFETY: the Arcs in the areas keep the mappings; access is by atomics only.
unsafe impl Send for DriverRing {}

impl DriverRing {
    /// Bytes of a ring of `size` descriptors laid out one area after the other, each on a cache line of its own.
    pub fn bytes(size: u16) -> usize {
        let n = usize::from(size);
        16 * n + (6 + 2 * n).next_multiple_of(64) + (6 + 8 * n).next_multiple_of(64)
    }

    /// A ring of `size` descriptors at `place`, laid out as [`DriverRing::bytes`] counts; and the offsets from there of
    /// the driver area and the device area. `None` when it does not fit or `size` is no power of two.
    pub fn new(size: u16, place: VirtqPlace<'_>) -> Option<(DriverRing, usize, usize)> {
        if !size.is_power_of_two() || size > MAX_VIRTQ {
            return None;
        }
        let n = usize::from(size);
        let (region, start) = place;
        let avail = 16 * n;
        let used = avail + (6 + 2 * n).next_multiple_of(64);
        let ring = DriverRing {
            desc: Area::new((region, start), 16 * n, 16)?,
            avail: Area::new((region, start.checked_add(avail)?), 6 + 2 * n, 2)?,
            used: Area::new((region, start.checked_add(used)?), 6 + 8 * n, 4)?,
            mask: size - 1,
        };
        Some((ring, avail, used))
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.mask + 1
    }

    /// Writes descriptor `index`: `len` bytes at guest address `addr`, with `VIRTQ_DESC_F_*` and what follows it.
    #[inline(always)]
    pub fn write_desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = usize::from(index & self.mask) * 16;
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        // SAFETY: at + 16 lies in the area, which is 16-byte aligned.
        let (low, high) = unsafe { (self.desc.u64(at), self.desc.u64(at + 8)) };
        low.store(addr.to_le(), Ordering::Relaxed);
        high.store(rest.to_le(), Ordering::Relaxed);
    }

    /// Descriptor `index` and its neighbours in the same cache line will be written soon.
    #[inline(always)]
    pub fn prefetch_desc_write(&self, index: u16) {
        self.desc.prefetch_write(usize::from(index & self.mask) * 16);
    }

    /// Used entry `index` and its neighbours in the same cache line will be read soon.
    #[inline(always)]
    pub fn prefetch_used(&self, index: u16) {
        self.used.prefetch(4 + usize::from(index & self.mask) * 8);
    }

    /// Makes the chain at `head` the available entry `index`.
    #[inline(always)]
    pub fn set_avail(&self, index: u16, head: u16) {
        let at = usize::from(index & self.mask);
        // SAFETY: at is below the size, and the area holds 6 + 2 * size bytes.
        unsafe { self.avail.u16(4 + 2 * at) }.store(head.to_le(), Ordering::Relaxed);
    }

    /// Publishes the available entries before `index`.
    #[inline]
    pub fn publish(&self, index: u16) {
        // SAFETY: the area holds 6 bytes and more.
        unsafe { self.avail.u16(2) }.store(index.to_le(), Ordering::Release);
    }

    /// Says whether the device is to notify.
    #[inline]
    pub fn set_no_interrupt(&self, quiet: bool) {
        // SAFETY: as above.
        unsafe { self.avail.u16(0) }.store(u16::from(quiet).to_le(), Ordering::Relaxed);
    }

    /// The device's index: what it stored before is seen after it.
    #[inline]
    pub fn used_idx(&self) -> u16 {
        // SAFETY: the area holds 6 bytes and more.
        u16::from_le(unsafe { self.used.u16(2) }.load(Ordering::Acquire))
    }

    /// The used entry `index`: head of the chain, and bytes written.
    #[inline(always)]
    pub fn used(&self, index: u16) -> (u16, u32) {
        let at = usize::from(index & self.mask) * 8;
        // SAFETY: at + 12 lies in the area, which is 4-byte aligned.
        let (id, len) = unsafe { (self.used.u32(4 + at), self.used.u32(8 + at)) };
        (u32::from_le(id.load(Ordering::Relaxed)) as u16, u32::from_le(len.load(Ordering::Relaxed)))
    }

    /// True when the device asks to be notified (without event index).
    #[inline]
    pub fn wants_kick(&self) -> bool {
        // SAFETY: as above.
        u16::from_le(unsafe { self.used.u16(0) }.load(Ordering::Relaxed)) & 1 == 0
    }
}
