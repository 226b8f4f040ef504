//! A packed ring as the data path needs it: virtio 1.2, 2.8.
//!
//! Its size is a power of two here, as that of a split ring must be; then a position's wrap counter is a bit of it.

use std::sync::atomic::{Ordering, fence};

use sharedmem::{Ahead, InflightNote, Lookup, MemTable, PackedEvent, PackedRing, VirtqDesc};

use super::chain::{self, NEXT, Pieces, direction};
use super::ring::{Broken, Found, Virtq};

/// Where the driver's half says that a descriptor is available, and the device's that it is used.
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

/// A position in a packed ring: index and wrap counter.
#[inline(always)]
pub(super) fn place(ring: &PackedRing, at: u16) -> (u16, bool) {
    (at & (ring.size() - 1), at & ring.size() == 0)
}

/// The flags by which a descriptor is used in the round of `wrap`.
#[inline(always)]
pub(super) fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

/// The descriptor at `at`, with its flags as they are, when the driver made it available in this round.
#[inline(always)]
fn available(ring: &PackedRing, at: u16) -> Option<VirtqDesc> {
    let (index, wrap) = place(ring, at);
    let desc = ring.desc(index)?;
    let expected = if wrap { AVAIL } else { USED };
    (desc.flags & (AVAIL | USED) == expected).then_some(bare(desc))
}

/// The descriptor without the bits that tell whose it is.
#[inline(always)]
fn bare(desc: VirtqDesc) -> VirtqDesc {
    VirtqDesc { flags: desc.flags & !(AVAIL | USED), ..desc }
}

/// The descriptor at `at`, whosever it is.
#[inline(always)]
pub(super) fn first(ring: &PackedRing, at: u16) -> Option<VirtqDesc> {
    ring.desc(place(ring, at).0).map(bare)
}

impl Virtq for PackedRing {
    const INDEXED: bool = false;

    #[inline(always)]
    fn ahead(&self, at: u16) -> Ahead {
        self.ahead(place(self, at).0)
    }

    #[inline]
    fn faulted(&self) -> bool {
        PackedRing::faulted(self)
    }

    #[inline(always)]
    fn available(&self, _at: u16, _known: &mut u16, _wanted: usize) -> Result<usize, Broken> {
        Ok(0)
    }

    #[inline]
    fn singles(&self, at: u16, _known: &mut u16, ids: &mut [u16]) -> Result<usize, Broken> {
        for (n, id) in ids.iter_mut().enumerate() {
            match available(self, at.wrapping_add(n as u16)) {
                Some(desc) if desc.flags & NEXT == 0 => *id = desc.next,
                _ => return Ok(n),
            }
        }
        Ok(ids.len())
    }

    #[inline(always)]
    fn buffer(&self, at: u16, _id: u16, writable: bool) -> Option<(u64, u32)> {
        let desc = first(self, at)?;
        (desc.flags == direction(writable)).then_some((desc.addr, desc.len))
    }

    fn chain<'m, P: Pieces<'m>>(
        &self,
        at: u16,
        _known: &mut u16,
        memory: &mut Lookup<'m, '_, MemTable>,
        writable: bool,
        pieces: &mut P,
    ) -> Result<Option<Found>, Broken> {
        let Some(mut desc) = available(self, at) else { return Ok(None) };
        let (mut slots, mut good) = (1, true);
        loop {
            good = good && chain::link(memory, &desc, writable, true, pieces).is_ok();
            if desc.flags & NEXT == 0 {
                return Ok(Some(Found { id: desc.next, slots, good }));
            }
            // The first descriptor is made available last: all are there (2.8.21).
            if slots == self.size() {
                return Err(Broken);
            }
            desc = first(self, at.wrapping_add(slots)).ok_or(Broken)?;
            slots += 1;
        }
    }

    #[inline(always)]
    fn put_used(&self, at: u16, id: u16, len: u32) {
        let (index, wrap) = place(self, at);
        self.set_used(index, id, len, used_flags(wrap));
    }

    /// A used descriptor is seen as soon as it is written. What is to be stored, once for a burst, is where the next switch
    /// goes on if this one ends now.
    #[inline]
    fn publish(&self, at: u16) {
        if let Some(inflight) = self.inflight() {
            let (index, wrap) = place(self, at);
            inflight.settle(index, wrap);
        }
    }

    #[inline(always)]
    fn notes(&self) -> bool {
        self.inflight().is_some()
    }

    fn note(&self, at: u16, slots: u16, id: u16, len: u32, first: u16) {
        if let Some(inflight) = self.inflight() {
            let (index, wrap) = place(self, at);
            inflight.note(index, InflightNote { id, len, slots, flags: used_flags(wrap), counter: first.into() });
        }
    }

    fn forget(&self, from: u16, to: u16) {
        if let Some(inflight) = self.inflight() {
            for n in 0..to.wrapping_sub(from).min(self.size()) {
                let (index, wrap) = place(self, from.wrapping_add(n));
                // Another worker may have noted the next round's chain there already.
                if inflight.noted(index).is_some_and(|note| note.flags == used_flags(wrap)) {
                    inflight.clear(index);
                }
            }
        }
    }

    /// Virtio 1.2, 2.8.10. Positions are compared within two rounds, which is all that a wrap counter tells.
    #[inline]
    fn wants_interrupt(&self, event_idx: bool, before: u16, after: u16) -> bool {
        if before == after {
            return false;
        }
        // The entries are visible before the driver's wish is read: it writes its wish, then looks at the entries.
        fence(Ordering::SeqCst);
        match self.driver_event() {
            PackedEvent::Disable => false,
            PackedEvent::At(offset, wrap) if event_idx => {
                let size = self.size();
                let event = offset.wrapping_add(if wrap { 0 } else { size });
                let rounds = size.wrapping_mul(2).wrapping_sub(1);
                (after.wrapping_sub(event).wrapping_sub(1) & rounds) < (after.wrapping_sub(before) & rounds)
            }
            PackedEvent::Enable | PackedEvent::At(..) => true,
        }
    }

    fn ask_for_kick(&self, event_idx: bool, at: u16) {
        let (index, wrap) = place(self, at);
        self.set_device_event(if event_idx { PackedEvent::At(index, wrap) } else { PackedEvent::Enable });
    }

    fn ask_for_quiet(&self) {
        self.set_device_event(PackedEvent::Disable);
    }

    #[inline]
    fn is_empty(&self, at: u16) -> bool {
        available(self, at).is_none()
    }
}
