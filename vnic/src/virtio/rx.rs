//! From the switch into the guest's receive queues.
//!
//! Positions are claimed ([`super::claims`]); copies are made and used entries written by whoever claimed them; they are
//! published in the order of the claims, for the driver sees one index. With `MRG_RXBUF` a frame takes as many chains as
//! it needs, and the header of the first tells how many. Frames that need not be walked for take the fast lane
//! ([`super::fast`]), a lone one its own ([`super::lone`]); for the others here the queue is held while their chains are found.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::vnet::DATA_VALID;
use dataplane::{
    BURST, Burst, Caps, Csum, Delivery, DropReason, Egress, Plan, Tally, VNET_LEN, VnetHeader, conversation,
};
use sharedmem::{Slice, SpanHint};

use super::card::{Active, Card, RxState};
use super::claims::Claim;
use super::features::{self, caps, header_len};
use super::reserve::{Batch, CHAIN_PIECES, Cursor, Job, PIECES};
use super::ring::{Virtq, Virtqueue};

/// Bytes of the longest header.
pub(super) const HEADER: usize = VNET_LEN + 2;

/// The receive path of a card.
pub struct RxPath {
    card: Arc<Card>,
}

impl RxPath {
    /// Of `card`.
    pub fn new(card: Arc<Card>) -> RxPath {
        RxPath { card }
    }
}

impl Egress for RxPath {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let guard = self.card.active.load();
        let refusal = match guard.as_ref() {
            None => DropReason::NotConnected,
            Some(_) if !self.card.state.link_up() => DropReason::PortBlocked,
            Some(active) => match active.receivers.as_slice() {
                [] => DropReason::NotConnected,
                [pair] => return self.deliver_to(active, *pair, burst, list, tally),
                pairs => return self.spread(active, pairs, burst, list, tally),
            },
        };
        list.iter().for_each(|_| tally.dropped(refusal));
    }
}

impl RxPath {
    #[inline]
    fn deliver_to(&self, active: &Active, pair: u8, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let number = usize::from(pair) * 2;
        let usable = active.rx.get(usize::from(pair)).and_then(Option::as_ref).filter(|_| !active.failed(number));
        let Some(queue) = usable.filter(|q| !q.ring.faulted()) else {
            self.give_up_on(active, number);
            return list.iter().for_each(|_| tally.dropped(DropReason::NotConnected));
        };
        let told = match &queue.ring {
            Virtqueue::Split(ring) => Path::new(active, ring, &queue.state, number).deliver_all(burst, list, tally),
            Virtqueue::Packed(ring) => Path::new(active, ring, &queue.state, number).deliver_all(burst, list, tally),
        };
        if told {
            self.card.interrupts.raise(number);
        }
        if active.failed(number) {
            self.card.tell_error(number);
        }
    }

    /// Queue `number` is of no use; the VMM is told once.
    #[cold]
    fn give_up_on(&self, active: &Active, number: usize) {
        if !active.failed(number) {
            active.fail(number);
            self.card.tell_error(number);
        }
    }

    /// Each conversation keeps to one of several queues.
    fn spread(&self, active: &Active, pairs: &[u8], burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let number = |delivery: &Delivery| {
            burst.frames().get(delivery.index()).map_or(0, |frame| conversation(frame.head()) as usize)
        };
        for part in list.chunks(BURST) {
            let numbers: ArrayVec<usize, BURST> = part.iter().map(number).collect();
            for (n, pair) in pairs.iter().enumerate() {
                let mine = part.iter().zip(&numbers).filter(|(_, number)| *number % pairs.len() == n);
                let mine: ArrayVec<Delivery, BURST> = mine.map(|(delivery, _)| *delivery).collect();
                if !mine.is_empty() {
                    self.deliver_to(active, *pair, burst, &mine, tally);
                }
            }
        }
    }
}

/// What is fixed for one call.
pub(super) struct Path<'a, R> {
    pub(super) active: &'a Active,
    pub(super) ring: &'a R,
    pub(super) state: &'a RxState,
    /// The queue's number.
    pub(super) number: usize,
    /// Bytes of the header before each frame.
    pub(super) header: usize,
    pub(super) mergeable: bool,
    caps: Caps,
}

impl<'a, R: Virtq> Path<'a, R> {
    #[inline]
    pub(super) fn new(active: &'a Active, ring: &'a R, state: &'a RxState, number: usize) -> Path<'a, R> {
        let header = header_len(active.features);
        let mergeable = active.features & features::MRG_RXBUF != 0;
        Path { active, ring, state, number, header, mergeable, caps: caps(active.features) }
    }

    /// Delivers `list`; true when the driver is to be told.
    #[inline]
    pub(super) fn deliver_all(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> bool {
        let alone = if let [one] = list { self.deliver_lone(burst, one, tally) } else { None };
        alone.unwrap_or_else(|| self.deliver_many(burst, list, tally))
    }

    /// The same by the lanes for many. Apart, for they take much room on the stack.
    #[inline(never)]
    fn deliver_many(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> bool {
        let mut told = false;
        let mut rest = list;
        while !rest.is_empty() {
            // What the fast lane does not take stays in its place in the order.
            let (done, tell) = self.deliver_plain(burst, rest, tally);
            told |= tell;
            rest = rest.get(done..).unwrap_or(&[]);
            let stuck = rest.len().min(if done == 0 { BURST } else { 0 });
            if stuck > 0 {
                let usual = self.state.usual.load(Ordering::Relaxed);
                let plain = |d| self.plain(burst, d, usual).is_some();
                let upto = rest.iter().take(stuck).position(plain).map_or(stuck, |n| n.max(1));
                told |= self.deliver(burst, &rest[..upto], tally);
                rest = &rest[upto..];
            }
        }
        told
    }

    /// Publishes what was claimed, in its order. True when the driver is to be told.
    #[inline]
    pub(super) fn finish(&self, claim: Claim, tally: &mut Tally) -> bool {
        let next = claim.end();
        let published = self.state.claims.finish(claim, self.ring);
        let told = published.is_some_and(|(before, after)| {
            self.ring.wants_interrupt(self.active.features & features::EVENT_IDX != 0, before, after)
        });
        // The frames are on their way. What comes next is likely to go here, too.
        tally.then(self.state.claims.ahead(self.ring.ahead(next)));
        told
    }

    /// Delivers at most a burst; true when the driver is to be told.
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> bool {
        let plans = self.plans(burst, list, tally);
        let (mut at, mut told) = ((0, 0), false);
        while at.0 < plans.len() {
            let mut batch = Batch::new();
            let Some(held) = self.state.claims.hold() else {
                self.refuse(&plans, at, tally);
                return told;
            };
            let mut cursor = Cursor { next: held.next(), avail: held.avail(), claimed: false };
            self.reserve_each(&plans, &mut at, &mut batch, &mut cursor, tally);
            let claim = held.release(cursor.next, cursor.avail);
            self.fill_batch(&plans, &batch, cursor.next, tally);
            told |= claim.is_some_and(|claim| self.finish(claim, tally));
        }
        told
    }

    /// Delivers frames from the start of `list` into positions `next` to `end` of a claim: as many as find room, and at most
    /// a burst. Returns how many it was. What is left of the positions goes back empty, for they cannot go back unused.
    #[cold]
    pub(super) fn deliver_within(
        &self,
        burst: &Burst<'_>,
        list: &[Delivery],
        (next, end): (u16, u16),
        tally: &mut Tally,
    ) -> usize {
        let list = &list[..list.len().min(BURST)];
        let plain = list.iter().position(|d| burst.plain(d).is_none()).unwrap_or(list.len());
        // Each makes one frame.
        let plans = self.plans(burst, &list[..plain], tally);
        let (mut at, mut cursor) = ((0, 0), Cursor { next, avail: end, claimed: true });
        while at.0 < plans.len() {
            let (before, mut batch) = (at, Batch::new());
            self.reserve_each(&plans, &mut at, &mut batch, &mut cursor, tally);
            self.fill_batch(&plans, &batch, cursor.next, tally);
            if at == before {
                break;
            }
        }
        let mut hint = SpanHint::default();
        let mut memory = self.active.table.lookup(&mut hint);
        while cursor.next != end {
            let mut pieces: ArrayVec<Slice<'a>, CHAIN_PIECES> = ArrayVec::new();
            let found = self.ring.chain(cursor.next, &mut cursor.avail, &mut memory, true, &mut pieces);
            let Ok(Some(found)) = found else { break };
            self.ring.put_used(cursor.next, found.id, 0);
            cursor.next = cursor.next.wrapping_add(1);
        }
        at.0
    }

    /// How each frame of `list` is to be sent; those that cannot be are told to `tally`.
    fn plans<'p, 'b>(
        &self,
        burst: &'p Burst<'b>,
        list: &[Delivery],
        tally: &mut Tally,
    ) -> ArrayVec<Plan<'p, 'b>, BURST> {
        let mut plans = ArrayVec::new();
        for delivery in list {
            match Plan::new(burst, delivery, self.caps) {
                Some(plan) => {
                    if plan.count() > 1 {
                        tally.segmented(plan.count());
                    }
                    // Cannot fail: the list is no longer than a burst.
                    let _ = plans.try_push(plan);
                }
                None => tally.dropped(DropReason::BadDescriptor),
            }
        }
        plans
    }

    /// Drops all output frames from `at` on: there is no room.
    #[cold]
    fn refuse(&self, plans: &[Plan<'_, '_>], (index, segment): (usize, u32), tally: &mut Tally) {
        let left: u32 = plans.iter().skip(index).map(Plan::count).sum();
        (segment..left).for_each(|_| tally.dropped(DropReason::RingFull));
    }

    /// Copies what has room, and writes the used entries of the batch, whose positions go up to `end`.
    #[inline]
    fn fill_batch(&self, plans: &[Plan<'_, '_>], batch: &Batch<'_>, end: u16, tally: &mut Tally) {
        for job in &batch.jobs {
            let Some(plan) = plans.get(usize::from(job.plan)) else { continue };
            let first = usize::from(job.first_piece);
            let pieces = batch.pieces.get(first..first + usize::from(job.pieces)).unwrap_or(&[]);
            if self.fill(plan, job, pieces) {
                tally.delivered(plan.len(job.segment));
            } else {
                tally.dropped(DropReason::BadDescriptor);
            }
        }
        if self.ring.notes()
            && let Some(first) = batch.chains.first()
        {
            self.state.claims.will_forget();
            let chains = batch.chains.iter().map(|chain| (chain.at, chain.id, chain.used.min(chain.room)));
            self.ring.note_batch(chains, first.at, end);
        }
        // The first last: a packed ring's used descriptors are seen as they are written, and a driver that sees the first
        // buffer of a frame takes the others to be there.
        for chain in batch.chains.iter().rev() {
            self.ring.put_used(chain.at, chain.id, chain.used.min(chain.room));
        }
        if !batch.chains.is_empty() && self.state.usual.load(Ordering::Relaxed) != batch.usual {
            self.state.usual.store(batch.usual, Ordering::Relaxed);
        }
    }

    /// Writes header and frame into the pieces.
    #[inline]
    fn fill(&self, plan: &Plan<'_, '_>, job: &Job, pieces: &[Slice<'_>]) -> bool {
        let header = self.header_of(plan, job.chains);
        match pieces {
            [one] => {
                let frame = one.sub(self.header, one.len().saturating_sub(self.header));
                let told =
                    if self.header == HEADER { one.write_at(0, &header) } else { one.write_at(0, &header[..VNET_LEN]) };
                told && frame.is_some_and(|room| plan.write(job.segment, &[room]))
            }
            many => self.fill_many(plan, job.segment, &header[..self.header], many),
        }
    }

    #[inline(never)]
    fn fill_many(&self, plan: &Plan<'_, '_>, segment: u32, mut header: &[u8], pieces: &[Slice<'_>]) -> bool {
        let mut room: ArrayVec<Slice<'_>, PIECES> = ArrayVec::new();
        for piece in pieces {
            let n = header.len().min(piece.len());
            if !piece.write_at(0, &header[..n]) {
                return false;
            }
            header = &header[n..];
            match piece.sub(n, piece.len() - n) {
                Some(rest) if !rest.is_empty() && room.try_push(rest).is_err() => return false,
                _ => {}
            }
        }
        header.is_empty() && plan.write(segment, &room)
    }

    /// The header before a frame that lies in `chains` chains.
    #[inline]
    fn header_of(&self, plan: &Plan<'_, '_>, chains: u16) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        if plan.csum() != Csum::AsIs || !plan.frame().is_plain() {
            let mut header = VnetHeader::for_plan(plan);
            if plan.csum() == Csum::Good && self.caps.csum {
                header.flags |= DATA_VALID;
            }
            bytes[..VNET_LEN].copy_from_slice(&header.bytes());
        }
        bytes[VNET_LEN..].copy_from_slice(&chains.to_le_bytes());
        bytes
    }
}
