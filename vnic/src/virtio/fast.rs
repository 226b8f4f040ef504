//! The fast lane into a receive queue: frames that go out as they came in, each into a buffer of one descriptor.
//!
//! ```text
//!  split   claim as many positions as there are frames (the index tells that they are there)   one compare-and-swap
//!          entry -> descriptor -> window, asked for; used entry                                 nobody else's
//!          header and frame into the window, publish
//!  packed  the descriptors tell what is there, so they are looked at first; the claim holds if nobody else's came between
//! ```
//! A claimed position that turns out to hold no such buffer goes back, with those behind it. Where others have claimed
//! behind them meanwhile, they are filled one by one ([`Path::deliver_within`]).

use std::borrow::Borrow;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, DropReason, Frame, Tally, VNET_LEN};
use sharedmem::{Slice, SpanHint};

use super::claims::Claim;
use super::ring::Virtq;
use super::rx::{HEADER, Path};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Frames before the end at which the lines are asked for by which claims are finished; short frames, and long ones.
const NEAR_SHORT: usize = 24;
const NEAR_LONG: usize = 4;

/// This is for the other lane.
struct NotPlain;

/// The whole buffer of each, header and all: the first `count`.
struct Rooms<'m> {
    places: [Slice<'m>; BURST],
    count: usize,
}

impl<'m> Rooms<'m> {
    fn new() -> Rooms<'m> {
        Rooms { places: [Slice::NOTHING; BURST], count: 0 }
    }

    fn all(&self) -> &[Slice<'m>] {
        self.places.get(..self.count).unwrap_or(&self.places)
    }
}

/// The identifier of each buffer's chain.
type Ids = [u16; BURST];

/// The header, `P` bytes long, of a frame nothing is said of: all zeros but the count of buffers in the longer one.
const fn plain_header<const P: usize>() -> [u8; P] {
    let mut header = [0; P];
    if P > VNET_LEN {
        header[VNET_LEN] = 1;
    }
    header
}

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
        let mut claim = match self.claim::<P, F>(frames, &mut rooms, &mut ids) {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                frames.iter().for_each(|_| tally.dropped(DropReason::RingFull));
                return (frames.len(), false);
            }
            Err(NotPlain) => return (0, false),
        };
        let mut done = rooms.count;
        let bytes = self.fill_plain::<P, F>(burst, &claim, frames, rooms.all(), &ids);
        tally.delivered_all(done, bytes);
        let end = claim.start().wrapping_add(done as u16);
        if end != claim.end() && !self.state.claims.shorten(&mut claim, end) {
            done += self.deliver_within(burst, list.get(done..).unwrap_or(&[]), (end, claim.end()), tally);
        }
        (done, self.finish(claim))
    }

    /// Claims positions for `frames` as long as there are buffers, and looks them up; `None` when there is none.
    #[inline(always)]
    fn claim<const P: usize, F: Borrow<Frame>>(
        &self,
        frames: &[F],
        rooms: &mut Rooms<'a>,
        ids: &mut Ids,
    ) -> Result<Option<Claim>, NotPlain> {
        while !frames.is_empty() {
            let Some(seen) = self.state.claims.look() else { return Ok(None) };
            let mut known = seen.avail();
            if R::INDEXED {
                // A ring that makes no sense is the other lane's to find.
                let there = self.ring.available(seen.next(), &mut known, frames.len()).map_err(|_| NotPlain)?;
                if there == 0 {
                    return Ok(None);
                }
                if let Some(claim) = self.state.claims.take(seen, known, there as u16) {
                    self.ring.will_use(claim.start(), there as u16);
                    let usual = self.rooms::<P, F>(claim.start(), known, &frames[..there], rooms, ids);
                    self.note(usual);
                    return Ok(Some(claim));
                }
            } else {
                let usual = self.rooms::<P, F>(seen.next(), known, frames, rooms, ids);
                // Where others claimed meanwhile, what was read may be what they wrote.
                if rooms.count == 0 && self.state.claims.stands(seen) {
                    self.note(usual);
                    return Err(NotPlain);
                }
                if rooms.count == 0 {
                    continue;
                }
                if let Some(claim) = self.state.claims.take(seen, known, rooms.count as u16) {
                    self.note(usual);
                    return Ok(Some(claim));
                }
            }
        }
        Err(NotPlain)
    }

    /// The buffers from position `at` on, up to `known`, as long as each holds its frame in one piece. Their used entries
    /// are written where nobody sees them yet. Where one does not, what it holds is returned; 0 for another kind.
    #[inline(never)]
    fn rooms<const P: usize, F: Borrow<Frame>>(
        &self,
        at: u16,
        mut known: u16,
        frames: &[F],
        rooms: &mut Rooms<'a>,
        ids: &mut Ids,
    ) -> Option<u32> {
        let ids = &mut ids[..frames.len().min(BURST)];
        let there = self.ring.singles(at, &mut known, ids).unwrap_or(0);
        let mut hint = SpanHint::default();
        let mut lookup = self.active.table.lookup(&mut hint);
        let (mut count, mut found) = (0, None);
        for ((frame, id), place) in frames.iter().zip(&ids[..there]).zip(&mut rooms.places) {
            let position = at.wrapping_add(count);
            let Some(room) = self.ring.buffer(position, *id, true).and_then(|(addr, len)| lookup.whole(addr, len))
            else {
                break;
            };
            let used = P + frame.borrow().len();
            if room.len() < used {
                found = Some(room);
                break;
            }
            // Of a short frame that is all.
            room.prefetch_write();
            room.prefetch_write_at(used);
            if R::INDEXED {
                self.ring.put_used(position, *id, used as u32);
            }
            *place = room;
            count += 1;
        }
        rooms.count = usize::from(count);
        (rooms.count < there).then(|| found.map_or(0, |room: Slice<'_>| room.len() as u32))
    }

    /// Notes what a buffer held that was not as expected.
    #[inline(always)]
    fn note(&self, usual: Option<u32>) {
        if let Some(usual) = usual {
            self.state.usual.store(usual, Ordering::Relaxed);
        }
    }

    /// Writes headers and frames, and used entries that are seen at once; returns the bytes of the frames.
    #[inline(always)]
    fn fill_plain<const P: usize, F: Borrow<Frame>>(
        &self,
        burst: &Burst<'_>,
        claim: &Claim,
        frames: &[F],
        rooms: &[Slice<'_>],
        ids: &Ids,
    ) -> usize {
        // The lines that all workers write are asked for shortly before the end, lest another takes them again.
        let near =
            if frames.first().is_some_and(|frame| frame.borrow().len() > 2 * LINE) { NEAR_LONG } else { NEAR_SHORT };
        let (first, last) = rooms.split_at(rooms.len().saturating_sub(near));
        let mut bytes = fill::<P, F>(burst, frames, first);
        self.state.claims.will_finish(claim);
        self.ring.will_publish();
        bytes += fill::<P, F>(burst, &frames[first.len()..], last);
        if !R::INDEXED {
            for (n, (frame, id)) in frames.iter().zip(ids).take(rooms.len()).enumerate() {
                self.ring.put_used(claim.start().wrapping_add(n as u16), *id, (P + frame.borrow().len()) as u32);
            }
        }
        bytes
    }
}

/// Writes header and frame into each room; returns the bytes of the frames.
#[inline(never)]
fn fill<const P: usize, F: Borrow<Frame>>(burst: &Burst<'_>, frames: &[F], rooms: &[Slice<'_>]) -> usize {
    let (header, mut bytes) = (const { plain_header::<P>() }, 0);
    for (frame, room) in frames.iter().zip(rooms) {
        let frame = frame.borrow();
        // Cannot fail: the room was measured when it was looked up.
        let _ = burst.write_plain(frame, &header, room, false);
        bytes += frame.len();
    }
    bytes
}
