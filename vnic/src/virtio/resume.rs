//! Where a packed ring goes on: what a VMM is told, and what the ring itself tells.

use sharedmem::{PackedRing, VirtqDesc};

use super::chain::NEXT;
use super::ring::{AVAIL, USED, place};

/// The position that a VMM's "base" of a packed ring means: index in 15 bits, wrap counter in the 16th (vhost-user
/// protocol, "Vring state").
pub fn position(size: u16, base: u16) -> u16 {
    let index = base & 0x7fff & size.wrapping_sub(1);
    if base & 0x8000 != 0 { index } else { index.wrapping_add(size) }
}

/// The base that `position` of a packed ring is.
pub fn base(size: u16, position: u16) -> u16 {
    let index = position & size.wrapping_sub(1);
    if position & size == 0 { index | 0x8000 } else { index }
}

/// Where a packed ring goes on whose device ended without a word, `told` being where the VMM believes it does: behind the
/// last used descriptor. There is no index in it, but each descriptor tells its round and whether it was used.
///
/// A chain that was used keeps its other descriptors as the driver wrote them. Only `told` says that those behind the last
/// used one are such; without that they are the next chain, for a driver with tables makes chains of one descriptor.
pub fn resume(ring: &PackedRing, told: u16) -> u16 {
    let size = PackedRing::size(ring);
    let rounds = size.wrapping_mul(2).wrapping_sub(1);
    let at = |position: u16| ring.desc(place(ring, position).0);
    let round = |index: u16| ring.desc(index).is_some_and(|d| d.flags & AVAIL != 0);
    // The driver writes next where the round changes.
    let first = round(0);
    let change = (1..size).find(|index| round(*index) != first);
    let (index, wrap) = change.map_or((0, !first), |index| (index, first));
    let end = if wrap { index } else { index.wrapping_add(size) };
    let used = |desc: VirtqDesc| (desc.flags & AVAIL != 0) == (desc.flags & USED != 0);
    let last_used = (1..=size).find(|back| at(end.wrapping_sub(*back)).is_some_and(used));
    let waiting = last_used.map_or(size, |back| back - 1);
    let start = end.wrapping_sub(waiting);
    let rest = told.wrapping_sub(start) & rounds;
    if (1..=waiting).contains(&rest) {
        let goes_on = |n: u16| at(start.wrapping_add(n)).is_some_and(|d| d.flags & NEXT != 0);
        let id = |position: u16| at(position).map(|d| d.next);
        let whole = (0..rest).all(|n| goes_on(n) == (n + 1 < rest));
        // Where the driver has since written over the one that was used, nothing tells; 0 is what a VMM says that knows
        // nothing.
        let same =
            if waiting < size { id(told.wrapping_sub(1)) == id(start.wrapping_sub(1)) } else { told & rounds != 0 };
        if whole && same {
            return told;
        }
    }
    start & rounds
}
