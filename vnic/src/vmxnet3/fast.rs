//! The fast lanes: frames in one descriptor that ask for nothing, a burst at a time.
//!
//! Both ways the descriptors of a burst are looked at first and their memory is asked for, then the frames are moved;
//! so the lines come together and not one after the other. What is of any other kind stops the lane, in its place
//! in the order, and is the other lane's.

use std::sync::PoisonError;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, Frame, Tally};
use sharedmem::{DmaMap, Hint, Slice, WideRing};
use wire::MIN_FRAME;

use super::active::Cursor;
use super::completion::plain;
use super::rss::Mark;
use super::rx::Path;
use super::rx_ring::Taker;
use super::stats::Counts;
use super::tx::plain_desc;

/// Takes plain frames from `next` on into the burst, at most as many as it has room for; the places of their
/// descriptors go to `ends`. Returns how many there were.
#[inline(never)]
pub fn harvest_plain<'m>(
    map: &'m DmaMap,
    hint: &mut Hint,
    ring: &WideRing,
    next: &mut Cursor,
    burst: &mut Burst<'m>,
    ends: &mut ArrayVec<u32, BURST>,
) -> usize {
    let mut pieces: ArrayVec<Slice<'m>, BURST> = ArrayVec::new();
    let mut lookup = map.lookup(hint);
    let mut at = *next;
    let room = BURST - burst.harvested();
    while pieces.len() < room {
        let Some(len) = plain_desc(ring.upper(at.index), at) else { break };
        let Some(piece) = lookup.whole(ring.lower(at.index), len) else { break };
        piece.prefetch();
        if pieces.try_push(piece).is_err() || ends.try_push(at.index).is_err() {
            break;
        }
        at.advance(ring.count());
    }
    for piece in &pieces {
        burst.push_plain(*piece);
    }
    *next = at;
    pieces.len()
}

/// A plain frame, the buffer reserved for it, and the completion that will tell of it.
struct Pair<'m, 'b> {
    frame: &'b Frame,
    room: Slice<'m>,
    /// Word 0 of the completion: descriptor and ring.
    tell: u32,
    slot: Cursor,
}

impl Path<'_> {
    /// Delivers plain frames from the start of `list`, each into one buffer that holds it; returns how many it was.
    /// `marks` are the frames' hashes, as far as there are any.
    pub(super) fn deliver_plain(
        &self,
        burst: &Burst<'_>,
        list: &[Delivery],
        marks: &[Mark],
        tally: &mut Tally,
        counts: &mut Counts,
    ) -> usize {
        let mut pairs: ArrayVec<Pair<'_, '_>, BURST> = ArrayVec::new();
        self.reserve_plain(burst, list, &mut pairs);
        let completions = &self.rings.completions;
        let mut bytes = 0;
        for pair in &pairs {
            let len = pair.frame.len().max(MIN_FRAME);
            // Cannot fail: the room was measured when it was reserved.
            let _ = burst.write_plain(pair.frame, &[], &pair.room, true);
            counts.good(pair.frame.dst(), len);
            bytes += len;
        }
        // The first one last: a driver that polls finds the burst as a whole, and does not take the lines away one by one
        // that are being written.
        for (n, pair) in pairs.iter().enumerate().rev() {
            let len = pair.frame.len().max(MIN_FRAME);
            let (lower, upper) = plain(pair.tell, marks.get(n).copied().unwrap_or_default(), len, pair.slot);
            completions.store(pair.slot.index, lower, upper);
        }
        tally.delivered_all(pairs.len(), bytes);
        pairs.len()
    }

    /// Reserves a buffer for each frame, as long as all is plain.
    #[inline(never)]
    fn reserve_plain<'p, 'b>(
        &'p self,
        burst: &'b Burst<'_>,
        list: &[Delivery],
        pairs: &mut ArrayVec<Pair<'p, 'b>, BURST>,
    ) {
        let Some(lock) = self.active.run.rx.get(self.queue as usize) else { return };
        let taker = Taker { rings: self.rings, queue: self.queue, queues: self.active.rx.len() as u32 };
        let mut hint = Hint::default();
        let mut lookup = self.active.map.lookup(&mut hint);
        let mut positions = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !taker.has_plenty() {
            return;
        }
        for delivery in list.iter().take(BURST) {
            let Some(frame) = burst.plain(delivery) else { break };
            let len = frame.len().max(MIN_FRAME);
            if len > self.longest {
                break;
            }
            let Some((iova, size, tell)) = taker.head(&positions, len) else { break };
            let Some(room) = lookup.whole(iova, size).filter(|room| room.len() >= len && room.writable()) else {
                break;
            };
            room.prefetch_write();
            if pairs.try_push(Pair { frame, room, tell, slot: positions.completion }).is_err() {
                break;
            }
            positions.rings[0].advance(self.rings.rings.0.count());
            positions.completion.advance(self.rings.completions.count());
        }
    }
}
