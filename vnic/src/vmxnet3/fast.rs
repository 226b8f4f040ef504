//! The fast lanes: frames in one descriptor that ask for nothing, a burst at a time.
//!
//! Both ways the descriptors of a burst are looked at first and their memory is asked for, then the frames are moved;
//! so the lines come together and not one after the other. What is of any other kind stops the lane, in its place
//! in the order, and is the other lane's.

use std::borrow::Borrow;
use std::sync::PoisonError;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, Frame, MAX_FRAME, Tally};
use sharedmem::{DmaMap, Hint, Lookup, Slice, Slot, WideRing, windows_of};
use wire::MIN_FRAME;

use super::active::Cursor;
use super::completion::{plain, publish};
use super::rss::Mark;
use super::rx::Path;
use super::rx_ring::{Taker, head};
use super::shared_area::DataRing;
use super::stats::{Counts, Sums};
use super::tx::{PLAIN_LEN, plain_desc, plain_kind, wants_completion};

/// Descriptors that are looked at one by one where one of four is another kind than most.
const FEW: usize = 4;

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
    let mut lookup = map.lookup(hint);
    let taken = burst.push_from(|pieces, room| {
        for (mut at, mut slots) in next.runs(ring, room as u32) {
            while !slots.is_empty() {
                let many = windows_of::<_, PLAIN_LEN, _>(slots, plain_kind(at), &lookup, pieces);
                ends.extend(at.index..at.index + many as u32);
                let (few, rest) = slots[many..].split_at(FEW.min(slots.len() - many));
                at.index += many as u32;
                for slot in few {
                    let upper = slot.upper();
                    let Some(len) = plain_desc(upper, at) else { return };
                    let Some(piece) = lookup.to_read(slot.lower(), len) else { return };
                    piece.prefetch();
                    // Neither can be full: there are no more than there is room for.
                    let _ = pieces.try_push(piece);
                    if wants_completion(upper) {
                        let _ = ends.try_push(at.index);
                    }
                    at.index += 1;
                }
                slots = rest;
            }
        }
    });
    *next = next.ahead(taken as u32, ring.count());
    taken
}

/// A plain frame, the buffer reserved for it, and what its completion will say.
struct Pair<'m, 'b> {
    frame: &'b Frame,
    room: Slice<'m>,
    /// Word 0: descriptor and ring.
    tell: u32,
    /// Bytes, padding included.
    len: u32,
}

type Pairs<'m, 'b> = ArrayVec<Pair<'m, 'b>, BURST>;

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
        let part = list.get(..BURST).unwrap_or(list);
        let some: ArrayVec<&Frame, BURST>;
        let mut pairs = Pairs::new();
        let reserved = match burst.plain_run(part, MAX_FRAME) {
            Some(run) => {
                let done = if burst.is_all_heads() { self.deliver_short(burst, run, marks, tally, counts) } else { 0 };
                if done > 0 {
                    return done;
                }
                self.reserve_plain(run, &mut pairs)
            }
            None => {
                // Cannot overflow: the part is cut to a burst.
                some = part.iter().map_while(|delivery| burst.plain(delivery)).collect();
                self.reserve_plain(&some, &mut pairs)
            }
        };
        let Some(at) = reserved else { return 0 };
        let mut sums = Sums::default();
        for pair in &pairs {
            // Cannot fail: the room was measured when it was reserved.
            let _ = burst.write_plain(pair.frame, &[], &pair.room, true);
            sums.good(pair.frame.dst(), pair.len as usize, counts);
        }
        let bytes = sums.add_to(counts);
        let completions = &self.rings.completions;
        if marks.is_empty() {
            publish(completions, at, &pairs, |_, pair, gen_bit| plain(pair.tell, Mark::default(), pair.len, gen_bit));
        } else {
            let mark = |n| marks.get(n).copied().unwrap_or_default();
            publish(completions, at, &pairs, |n, pair, gen_bit| plain(pair.tell, mark(n), pair.len, gen_bit));
        }
        tally.delivered_all(pairs.len(), bytes);
        pairs.len()
    }

    /// Reserves a buffer for each plain frame, as long as the buffers are plain too; gives the place of the first one's completion.
    fn reserve_plain<'p, 'b, F: Borrow<Frame>>(&'p self, frames: &'b [F], pairs: &mut Pairs<'p, 'b>) -> Option<Cursor> {
        let lock = self.active.run.rx.get(self.queue as usize)?;
        let taker = self.taker();
        if !taker.has_plenty() {
            return None;
        }
        let (mut left, ring) = (frames, &self.rings.rings.0);
        let mut hint = Hint::default();
        let mut lookup = self.active.map.lookup(&mut hint);
        let mut positions = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, completion) = (positions.rings[0], positions.completion);
        for (at, slots) in start.runs(ring, left.len() as u32) {
            let (mine, rest) = left.split_at_checked(slots.len())?;
            left = rest;
            if !self.reserve_run(&taker, (at, slots), mine, &mut lookup, pairs) {
                break;
            }
        }
        let n = pairs.len() as u32;
        positions.rings[0] = start.ahead(n, ring.count());
        positions.completion = completion.ahead(n, self.rings.completions.count());
        Some(completion)
    }

    /// Reserves the descriptors of a run for `frames`, of which there are as many; true when it could do so for
    /// all. Frames alike are done in a loop of their kind.
    fn reserve_run<'p, 'b, F: Borrow<Frame>>(
        &'p self,
        taker: &Taker<'_>,
        (at, slots): (Cursor, &[Slot]),
        frames: &'b [F],
        lookup: &mut Lookup<'p, '_, DmaMap>,
        pairs: &mut Pairs<'p, 'b>,
    ) -> bool {
        let heads = Heads { gen_bit: at.gen_bit, longest: self.longest };
        // What the data ring holds goes there.
        let shortest = self.rings.data.map_or(0, |data| data.size + 1);
        let mut done = 0;
        while let (Some(slots @ [_, ..]), Some(frames)) = (slots.get(done..), frames.get(done..)) {
            let (index, before) = (at.index + done as u32, pairs.len());
            if let Some(data) = self.rings.data {
                heads.short((data, taker.tell(2, index)), index, slots, frames, lookup, pairs);
            }
            if pairs.len() == before {
                heads.long((shortest, taker.tell(0, index)), slots, frames, lookup, pairs);
            }
            if pairs.len() == before {
                return false;
            }
            done += pairs.len() - before;
        }
        true
    }
}

/// Descriptors of one generation, for frames no longer than so many bytes.
struct Heads {
    gen_bit: bool,
    longest: usize,
}

impl Heads {
    /// Entries of the data ring for frames that they hold; `tell` is what the completion of the first will say.
    #[inline(never)]
    fn short<'p, 'b, F: Borrow<Frame>>(
        &self,
        (data, mut tell): (DataRing, u32),
        index: u32,
        slots: &[Slot],
        frames: &'b [F],
        lookup: &mut Lookup<'p, '_, DmaMap>,
        pairs: &mut Pairs<'p, 'b>,
    ) {
        let longest = self.longest.min(data.size as usize);
        // All of it was there when the driver started the card.
        let place = data.iova.wrapping_add(u64::from(index) * u64::from(data.size));
        let Some(mut entries) = lookup.whole(place, data.size.saturating_mul(slots.len() as u32)) else { return };
        if !entries.writable() {
            return;
        }
        for (slot, frame) in slots.iter().zip(frames) {
            let Some((frame, len)) = fitting(frame.borrow(), longest) else { break };
            if head(slot.upper(), self.gen_bit).is_none() {
                break;
            }
            entries.prefetch_write();
            if pairs.try_push(Pair { frame, room: entries, tell, len }).is_err() {
                break;
            }
            let Some(rest) = entries.after(data.size as usize) else { break };
            entries = rest;
            tell += 1;
        }
    }

    /// Buffers for frames no shorter than `shortest`; `tell` as above.
    #[inline(never)]
    fn long<'p, 'b, F: Borrow<Frame>>(
        &self,
        (shortest, mut tell): (u32, u32),
        slots: &[Slot],
        frames: &'b [F],
        lookup: &mut Lookup<'p, '_, DmaMap>,
        pairs: &mut Pairs<'p, 'b>,
    ) {
        for (slot, frame) in slots.iter().zip(frames) {
            let Some((frame, len)) = fitting(frame.borrow(), self.longest) else { break };
            let Some(size) = head(slot.upper(), self.gen_bit).filter(|size| (shortest..=*size).contains(&len)) else {
                break;
            };
            let Some(room) = lookup.whole(slot.lower(), size).filter(Slice::writable) else { break };
            room.prefetch_write();
            if pairs.try_push(Pair { frame, room, tell, len }).is_err() {
                break;
            }
            tell += 1;
        }
    }
}

/// A frame and its length with padding, if it is no longer than `longest`.
#[inline(always)]
fn fitting(frame: &Frame, longest: usize) -> Option<(&Frame, u32)> {
    let len = frame.len().max(MIN_FRAME);
    (len <= longest).then_some((frame, len as u32))
}
