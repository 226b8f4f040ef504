//! A packed virtqueue in shared memory: its layout is in `virtq.rs`.

use std::sync::atomic::Ordering;

use crate::virtq::{Area, MAX_VIRTQ, VirtqDesc, VirtqPlace};
use crate::{Ahead, Inflight};

/// An event suppression area of a packed ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedEvent {
    /// Always notify.
    Enable,
    /// Never notify.
    Disable,
    /// Notify when the descriptor at this offset, in the round of this wrap counter, is used or made available.
    At(u16, bool),
}

/// A packed virtqueue, from the device's side.
#[derive(Clone, Debug)]
pub struct PackedRing {
    desc: Area,
    driver: Area,
    device: Area,
    size: u16,
    inflight: Option<Inflight>,
}

// SAFETY: the Arcs keep the mappings; access is by atomics only.
unsafe impl Send for PackedRing {}
// SAFETY: as above.
unsafe impl Sync for PackedRing {}

impl PackedRing {
    /// A ring of `size` descriptors; `None` when `size` is 0 or above [`MAX_VIRTQ`], or an area does not fit its region
    /// or is not aligned as virtio 1.2, 2.8.10.1 demands.
    pub fn new(size: u16, desc: VirtqPlace<'_>, driver: VirtqPlace<'_>, device: VirtqPlace<'_>) -> Option<PackedRing> {
        if size == 0 || size > MAX_VIRTQ {
            return None;
        }
        Some(PackedRing {
            desc: Area::new(desc, 16 * usize::from(size), 16)?,
            driver: Area::new(driver, 4, 4)?,
            device: Area::new(device, 4, 4)?,
            size,
            inflight: None,
        })
    }

    /// The ring with the memory that the VMM keeps of it, if that is for as many descriptors at least.
    pub fn with_inflight(self, inflight: Option<Inflight>) -> PackedRing {
        PackedRing { inflight: inflight.filter(|i| i.holds(self.size)), ..self }
    }

    /// The memory that the VMM keeps of it.
    #[inline]
    pub fn inflight(&self) -> Option<&Inflight> {
        self.inflight.as_ref()
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// True when the peer shrank the memory under the ring (see [`crate::fault`]).
    #[inline]
    pub fn faulted(&self) -> bool {
        self.desc.region.faulted() || self.driver.region.faulted() || self.device.region.faulted()
    }

    /// Descriptor `index` with its flags, what the driver stored before them is seen after; `None` when the ring has
    /// no such.
    #[inline(always)]
    pub fn desc(&self, index: u16) -> Option<VirtqDesc> {
        if index >= self.size {
            return None;
        }
        // SAFETY: index is below the size, and the area holds 16 * size bytes and is 16-byte aligned.
        Some(unsafe { self.desc.desc(usize::from(index), true) })
    }

    /// What a chain used at `index` needs: its descriptor, in whose place the used one goes.
    #[inline]
    pub fn ahead(&self, index: u16) -> Ahead {
        let desc = self.desc.line(16 * usize::from(index));
        Ahead::new(desc, [desc; 2])
    }

    /// Asks the processor to bring descriptor `index` near.
    #[inline(always)]
    pub fn prefetch(&self, index: u16) {
        self.desc.prefetch(usize::from(index) * 16);
    }

    /// Writes a used descriptor: seen by the driver at once, after all that was stored before. Ignored when the ring
    /// has no such place.
    #[inline(always)]
    pub fn set_used(&self, index: u16, id: u16, len: u32, flags: u16) {
        if index >= self.size {
            return;
        }
        let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
        // SAFETY: as in `desc`.
        unsafe { self.desc.u64(usize::from(index) * 16 + 8) }.store(word.to_le(), Ordering::Release);
    }

    /// When the driver wants to be notified.
    #[inline]
    pub fn driver_event(&self) -> PackedEvent {
        // SAFETY: the area is 4 bytes, 4-byte aligned.
        let word = u32::from_le(unsafe { self.driver.u32(0) }.load(Ordering::Relaxed));
        match word >> 16 & 3 {
            0 => PackedEvent::Enable,
            1 => PackedEvent::Disable,
            _ => PackedEvent::At(word as u16 & 0x7fff, word & 0x8000 != 0),
        }
    }

    /// Says when the device wants to be notified.
    #[inline]
    pub fn set_device_event(&self, event: PackedEvent) {
        let word = match event {
            PackedEvent::Enable => 0,
            PackedEvent::Disable => 1 << 16,
            PackedEvent::At(offset, wrap) => u32::from(offset) | u32::from(wrap) << 15 | 2 << 16,
        };
        // SAFETY: as above.
        unsafe { self.device.u32(0) }.store(word.to_le(), Ordering::Release);
    }
}
