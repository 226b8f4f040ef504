//! The fast lane into a receive queue: frames that go out as they came in, each into a buffer of one descriptor.
//!
//! ```text
//!  split   claim as many positions as there are frames (the index tells that they are there)   one compare-and-swap
//!          entries -> descriptors -> windows, asked for                                         nobody else's
//!          header and frame into each window that holds them; used entries, publish
//!  packed  the descriptors tell what is there, so they are looked at first; the claim holds if nobody else's came between
//! ```
//! A claimed position that turns out to hold no such buffer goes back, with those behind it. Where others have claimed
//! behind them meanwhile, they are filled one by one ([`Path::deliver_within`]).

use std::borrow::Borrow;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, DropReason, Frame, Tally, VNET_LEN};
use sharedmem::{Aim, Slice, SpanHint};

use super::claims::Claim;
use super::fill::{LINE, TIMED, fill, fill_long};
use super::ring::Virtq;
use super::rx::{HEADER, Path};

/// Long frames before the end at which the lines are asked for by which claims are finished.
const NEAR: usize = 4;

/// This is for the other lane.
struct NotPlain;

/// The whole buffer of each, header and all.
type Rooms<'m> = ArrayVec<Slice<'m>, BURST>;

/// The identifier of each buffer's chain.
type Ids = [u16; BURST];

impl<'a, R: Virtq> Path<'a, R> {
    /// The fast lane: plain frames from the start of `list`, each into a buffer of one descriptor that holds it. Returns
    /// how many it was, and true when the driver is to be told. Stops at the first frame or buffer of another kind, and
    /// when the ring is empty.
    #[inline]
    pub(super) fn deliver_plain(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> (usize, bool) {
        if self.header == HEADER {
            self.deliver_each::<HEADER>(burst, list, tally)
        } else {
            self.deliver_each::<VNET_LEN>(burst, list, tally)
        }
    }

    /// The frame of `delivery` when it may take the fast lane.
    #[inline(always)]
    pub(super) fn plain<'b>(&self, burst: &'b Burst<'_>, delivery: &Delivery, usual: u32) -> Option<&'b Frame> {
        burst.plain(delivery).filter(|frame| frame.len() + self.header <= usual as usize)
    }

    /// `P` is the length of the header.
    #[inline]
    fn deliver_each<const P: usize>(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> (usize, bool) {
        self.state.claims.will_take();
        let usual = self.state.usual.load(Ordering::Relaxed);
        let part = list.get(..BURST).unwrap_or(list);
        match burst.plain_run(part, (usual as usize).saturating_sub(P)) {
            Some(run) => self.deliver_frames::<P, Frame>(burst, run, list, tally),
            None => {
                let mut frames: ArrayVec<&Frame, BURST> = ArrayVec::new();
                // Cannot overflow: the part is cut to a burst.
                frames.extend(part.iter().map_while(|delivery| self.plain(burst, delivery, usual)));
                self.deliver_frames::<P, &Frame>(burst, &frames, list, tally)
            }
        }
    }

    /// Delivers `frames`, the first of `list`, a burst at most.
    #[inline(always)]
    fn deliver_frames<const P: usize, F: Borrow<Frame>>(
        &self,
        burst: &Burst<'_>,
        frames: &[F],
        list: &[Delivery],
        tally: &mut Tally,
    ) -> (usize, bool) {
        let (mut rooms, mut ids) = (Rooms::new(), [0; BURST]);
        let mut claim = match self.claim(frames.len(), &mut rooms, &mut ids) {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                frames.iter().for_each(|_| tally.dropped(DropReason::RingFull));
                return (frames.len(), false);
            }
            Err(NotPlain) => return (0, false),
        };
        let (mut done, bytes) = self.fill_plain::<P, F>(burst, &claim, frames, &rooms, &ids);
        tally.delivered_all(done, bytes);
        let end = claim.start().wrapping_add(done as u16);
        if end != claim.end() && !self.state.claims.shorten(&mut claim, end) {
            done += self.deliver_within(burst, list.get(done..).unwrap_or(&[]), (end, claim.end()), tally);
        }
        (done, self.finish(claim, tally))
    }

    /// Claims positions for `count` frames as long as there are buffers, and looks them up; `None` when there is none.
    #[inline(always)]
    fn claim(&self, count: usize, rooms: &mut Rooms<'a>, ids: &mut Ids) -> Result<Option<Claim>, NotPlain> {
        if count == 0 {
            return Err(NotPlain);
        }
        loop {
            let Some(seen) = self.state.claims.look() else { return Ok(None) };
            let mut known = seen.avail();
            if R::INDEXED {
                // A ring that makes no sense is the other lane's to find.
                let there = self.ring.available(seen.next(), &mut known, count).map_err(|_| NotPlain)?;
                if there == 0 {
                    return Ok(None);
                }
                if let Some(claim) = self.state.claims.take(seen, known, there as u16) {
                    self.ring.will_use(claim.start(), there as u16);
                    self.rooms(claim.start(), known, there, rooms, ids);
                    return Ok(Some(claim));
                }
            } else {
                rooms.clear();
                self.rooms(seen.next(), known, count, rooms, ids);
                // Where others claimed meanwhile, what was read may be what they wrote.
                if rooms.is_empty() && self.state.claims.stands(seen) {
                    return Err(NotPlain);
                }
                if !rooms.is_empty()
                    && let Some(claim) = self.state.claims.take(seen, known, rooms.len() as u16)
                {
                    return Ok(Some(claim));
                }
            }
        }
    }

    /// The buffers from position `at` on, `count` at most and up to `known`, as long as each is one piece of memory.
    #[inline(never)]
    fn rooms(&self, at: u16, mut known: u16, count: usize, rooms: &mut Rooms<'a>, ids: &mut Ids) {
        let ids = &mut ids[..count.min(BURST)];
        let there = self.ring.singles(at, &mut known, ids).unwrap_or(0);
        let mut hint = SpanHint::default();
        self.ring.windows(at, &ids[..there], Aim::Write, &mut self.active.table.lookup(&mut hint), rooms);
        if rooms.len() < there {
            self.note(0);
        }
    }

    /// Notes what a buffer held that was not as expected; 0 when it is of another kind.
    #[cold]
    fn note(&self, usual: usize) {
        self.state.usual.store(usual as u32, Ordering::Relaxed);
    }

    /// Writes headers and frames as long as they fit, and used entries; returns how many there are, and their bytes.
    #[inline(always)]
    fn fill_plain<const P: usize, F: Borrow<Frame>>(
        &self,
        burst: &Burst<'_>,
        claim: &Claim,
        frames: &[F],
        rooms: &[Slice<'_>],
        ids: &Ids,
    ) -> (usize, usize) {
        // The lines that all workers write are asked for shortly before the end, lest another takes them again. Short frames
        // do not take long.
        let long = frames.first().is_some_and(|frame| frame.borrow().len() > 2 * LINE);
        let first = if long { rooms.len().saturating_sub(NEAR) } else { 0 };
        let mut lens = [0; BURST];
        let cold = &self.state.cold;
        let mut done = if long {
            fill_long::<P, F>(cold, claim.is_nth(TIMED), burst, frames, rooms, &mut lens[..first])
        } else {
            0
        };
        self.state.claims.will_finish(claim);
        self.ring.will_publish();
        if done == first {
            done += fill::<P, F>(burst, &frames[done..], &rooms[done..], &mut lens[done..]);
        }
        if let Some(room) = rooms.get(done) {
            self.note(room.len());
        }
        let bytes = self.ring.put_used_each(claim.start(), &ids[..done], &lens[..done]);
        (done, bytes as usize - P * done)
    }
}
