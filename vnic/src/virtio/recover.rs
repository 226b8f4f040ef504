//! Where a ring goes on whose device ended without a word: the switch was killed, and the next one is handed the rings.
//!
//! A frame passes the switch within one look at a transmit queue, and chains are given back in the order in which they
//! were made available. So a crash leaves this much undone:
//!
//! ```text
//!  transmit   used ... used | a burst that was being forwarded: given back in part or not at all | available
//!  receive    used ... used | reservations of workers whose copies were going on, each given back in part | available
//! ```
//! A **split** ring tells the driver of used entries by its index alone: the next switch goes on there, takes the burst
//! again (a frame may so come twice, none is lost), and writes other frames into the reserved chains. No state is needed.
//!
//! In a **packed** ring each used descriptor is seen as it is written, over the description of its chain. Alone it tells
//! neither how many descriptors that chain had ([`resume`] has to guess) nor what was reserved before it by another worker.
//! The VMM's inflight memory ([`sharedmem::Inflight`]) tells both, at the price of one store for a burst:
//!
//! * `used_idx` and its companions: everything before was given back.
//! * Behind that, a used descriptor without a note is a chain of one descriptor, as nearly all are.
//! * Chains of several, and batches that are given back from behind so that a driver who sees the first buffer of a frame
//!   finds the others, are noted in the entries of their heads before, and forgotten once `used_idx` has passed them.
//!
//! The protocol would have each chain marked "inflight" when it is taken, and taken up again from its entry. With chains
//! used in order all that is in flight lies in the ring behind `used_idx`, so no mark is needed for it ("we can easily
//! achieve that by getting the inflight descriptors from descriptor table or descriptor ring", says the protocol): a
//! split queue's entries stay empty.

use sharedmem::{Inflight, PackedRing, VirtqDesc};

use super::chain::NEXT;
use super::packed::{AVAIL, USED, place, used_flags};
use super::ring::Virtq;

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

/// The descriptor at `at`, whatever its round.
fn desc(ring: &PackedRing, at: u16) -> Option<VirtqDesc> {
    ring.desc(place(ring, at).0)
}

/// True for a descriptor that was given back.
fn used(desc: VirtqDesc) -> bool {
    (desc.flags & AVAIL != 0) == (desc.flags & USED != 0)
}

/// Where the driver writes next: where the round changes.
fn end(ring: &PackedRing) -> u16 {
    let size = PackedRing::size(ring);
    let round = |index: u16| ring.desc(index).is_some_and(|d| d.flags & AVAIL != 0);
    let first = round(0);
    let change = (1..size).find(|index| round(*index) != first);
    let (index, wrap) = change.map_or((0, !first), |index| (index, first));
    if wrap { index } else { index.wrapping_add(size) }
}

/// A chain to be given back: place, identifier, bytes.
type Owed = (u16, u16, u32);

/// Finishes what the switch before us had begun with a packed ring, by the VMM's inflight memory: chains that were being
/// given back are, and those whose copies were cut off are given back empty if later ones were already (their frames are
/// still with who sent them). Returns where the ring goes on; `None` when there is no such memory or it tells nothing.
pub fn recover(ring: &PackedRing) -> Option<u16> {
    let inflight = ring.inflight().filter(|inflight| inflight.ready())?;
    let size = PackedRing::size(ring);
    let (index, wrap) = inflight.settled();
    let settled = if wrap { index } else { index.wrapping_add(size) };
    if index >= size {
        return None;
    }
    let (mut owed, reach) = undone(ring, inflight, settled);
    // From behind: the driver sees nothing of it before the first.
    while let Some((at, id, len)) = owed.pop() {
        ring.put_used(at, id, len);
    }
    let start = settled.wrapping_add(reach) & size.wrapping_mul(2).wrapping_sub(1);
    ring.publish(start);
    (0..size).for_each(|index| inflight.clear(index));
    Some(start)
}

/// What is owed to the driver behind `settled`, and how far behind it new chains begin.
fn undone(ring: &PackedRing, inflight: &Inflight, settled: u16) -> (Vec<Owed>, u16) {
    let size = u32::from(PackedRing::size(ring));
    let mut there = u32::from(end(ring).wrapping_sub(settled)) & (2 * size - 1);
    let all_available = || (0..PackedRing::size(ring)).all(|index| ring.desc(index).is_some_and(|d| !used(d)));
    if there == 0 && all_available() {
        // Not nothing, but a whole round that was given back, and another that the driver has given since.
        there = 2 * size;
    }
    let (mut n, mut reach, mut owed, mut kept) = (0, 0, Vec::new(), 0);
    while n < there {
        let at = settled.wrapping_add(n as u16);
        let Some(found) = desc(ring, at) else { break };
        // The driver has written over it since: it was given back.
        let gone = there - n > size;
        match noted(ring, inflight, at).filter(|(_, _, slots)| u32::from(*slots) <= there - n) {
            Some((id, len, slots)) => {
                if !gone && !used(found) {
                    owed.push((at, id, len));
                }
                n += u32::from(slots);
            }
            None if gone || used(found) => n += 1,
            None => {
                let Some((id, slots)) = chain(ring, at, there - n) else { break };
                owed.push((at, id, 0));
                n += slots;
                continue;
            }
        }
        (reach, kept) = (n, owed.len());
    }
    owed.truncate(kept);
    (owed, reach as u16)
}

/// Identifier, bytes and descriptors of the chain at `at`, when it was noted in this round and its whole batch was.
fn noted(ring: &PackedRing, inflight: &Inflight, at: u16) -> Option<(u16, u32, u16)> {
    let note = |at: u16| {
        let (index, wrap) = place(ring, at);
        inflight.noted(index).filter(|note| note.flags == used_flags(wrap) && note.slots > 0)
    };
    let this = note(at)?;
    let first = this.counter as u16;
    (note(first)?.counter == this.counter).then_some((this.id, this.len, this.slots))
}

/// Identifier and descriptors of a chain that lies in the ring as the driver wrote it; `None` when it has no end within
/// `most`.
fn chain(ring: &PackedRing, at: u16, most: u32) -> Option<(u16, u32)> {
    (1..=most).find_map(|slots| {
        let last = desc(ring, at.wrapping_add(slots as u16 - 1))?;
        (last.flags & NEXT == 0).then_some((last.next, slots))
    })
}

/// Where a packed ring goes on whose device ended without a word, `told` being where the VMM believes it does: behind the
/// last used descriptor. There is no index in it, but each descriptor tells its round and whether it was used.
///
/// A chain that was used keeps its other descriptors as the driver wrote them. Only `told` says that those behind the last
/// used one are such; without that they are the next chain, for a driver with tables makes chains of one descriptor.
///
/// A VMM may take chains itself while nobody serves the ring, and from where it believes the ring to be: QEMU drops what
/// a guest sends meanwhile (`virtio_net_drop_tx_queue_data`, seen with QEMU 11.1), and then tells the place behind
/// them. Chains before those, which it passed over, are given back here, for the driver waits for them first; true when
/// there were any.
pub fn resume(ring: &PackedRing, told: u16) -> (u16, bool) {
    let start = behind_last_used(ring, told);
    let rounds = PackedRing::size(ring).wrapping_mul(2).wrapping_sub(1);
    let over = if told & rounds == start { passed_over(ring, start) } else { 0..0 };
    let gap = !over.is_empty();
    // From behind: the driver sees nothing of it before the first.
    for back in over {
        let at = start.wrapping_sub(back);
        if let Some(found) = desc(ring, at) {
            ring.put_used(at, found.next, 0);
        }
    }
    (start, gap)
}

/// The chains of one descriptor between used ones and those used last before `start`, by their distance from there.
fn passed_over(ring: &PackedRing, start: u16) -> std::ops::Range<u16> {
    let size = PackedRing::size(ring);
    let behind = size - end(ring).wrapping_sub(start).min(size);
    let at = |back: u16| desc(ring, start.wrapping_sub(back));
    let single = |back: &u16| at(*back).is_some_and(|d| !used(d) && d.flags & NEXT == 0);
    let Some(near) = (1..=behind).find(|back| at(*back).is_some_and(|d| !used(d))) else { return 0..0 };
    let count = (near..=behind).take_while(single).count() as u16;
    let before = at(near + count).filter(|_| near + count <= behind);
    // The rest of a chain that was used looks as the driver wrote it, and ends with that chain's identifier.
    let rest = before.is_none_or(|d| !used(d) || at(near).is_some_and(|last| last.next == d.next));
    if rest { 0..0 } else { near..near + count }
}

/// The place behind the last used descriptor, or `told` where that is behind the rest of that chain.
fn behind_last_used(ring: &PackedRing, told: u16) -> u16 {
    let size = PackedRing::size(ring);
    let rounds = size.wrapping_mul(2).wrapping_sub(1);
    let at = |position: u16| desc(ring, position);
    let end = end(ring);
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
