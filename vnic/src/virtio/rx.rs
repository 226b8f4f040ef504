//! From the switch into the guest's receive queues.
//!
//! Chains and their used entries are reserved under the queue's lock; the copy is made without it; used entries are
//! published in the order of the reservations, for the driver sees one index. With `MRG_RXBUF` a frame takes as many
//! chains as it needs, and the header of the first tells how many.

use std::sync::{Arc, PoisonError};

use arrayvec::ArrayVec;
use dataplane::vnet::DATA_VALID;
use dataplane::{
    BURST, Burst, Caps, Csum, Delivery, DropReason, Egress, Plan, Tally, VNET_LEN, VnetHeader, conversation,
};
use sharedmem::{Lookup, MemTable, Slice, SpanHint};

use super::card::{Active, Card, RxPositions, RxState};
use super::features::{self, caps, header_len};
use super::ring::{Found, Virtq, Virtqueue};

/// Chains reserved at a time; one frame takes no more.
const CHAINS: usize = 128;
/// Pieces of memory reserved at a time.
const PIECES: usize = 512;
/// Most pieces of one chain.
const CHAIN_PIECES: usize = 64;
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
            burst.frames().get(usize::from(delivery.frame)).map_or(0, |frame| conversation(frame.head()) as usize)
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

/// A reserved chain.
struct Chain {
    id: u16,
    /// Its position.
    at: u16,
    /// Bytes it holds.
    room: u32,
    /// Bytes written to it, for the driver.
    used: u32,
}

/// One output frame with its chains reserved.
struct Job {
    plan: u8,
    segment: u32,
    chains: u16,
    first_piece: u16,
    pieces: u16,
}

/// What one look at the ring reserved: positions from `start` up to `end`.
struct Batch<'m> {
    start: u16,
    end: u16,
    jobs: ArrayVec<Job, BURST>,
    chains: ArrayVec<Chain, CHAINS>,
    pieces: ArrayVec<Slice<'m>, PIECES>,
}

/// What is fixed for one call.
pub(super) struct Path<'a, R> {
    pub(super) active: &'a Active,
    pub(super) ring: &'a R,
    pub(super) state: &'a RxState,
    /// The queue's number.
    number: usize,
    /// Bytes of the header before each frame.
    pub(super) header: usize,
    mergeable: bool,
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
        let mut told = false;
        let mut rest = list;
        while !rest.is_empty() {
            // What the fast lane does not take stays in its place in the order.
            let (done, tell) = self.deliver_plain(burst, rest, tally);
            told |= tell;
            rest = rest.get(done..).unwrap_or(&[]);
            let stuck = rest.len().min(if done == 0 { BURST } else { 0 });
            if stuck > 0 {
                let upto = rest.iter().take(stuck).position(|d| burst.plain(d).is_some()).map_or(stuck, |n| n.max(1));
                told |= self.deliver(burst, &rest[..upto], tally);
                rest = &rest[upto..];
            }
        }
        told
    }

    /// Publishes used entries `start` to `end`, in their order. True when the driver is to be told.
    #[inline]
    pub(super) fn finish(&self, start: u16, end: u16) -> bool {
        let mut positions = self.state.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = positions.finish(self.ring, start, end);
        drop(positions);
        self.ring.wants_interrupt(self.active.features & features::EVENT_IDX != 0, before, after)
    }

    /// Delivers at most a burst; true when the driver is to be told.
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> bool {
        let mut plans: ArrayVec<Plan<'_, '_>, BURST> = ArrayVec::new();
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
        let (mut at, mut told) = ((0, 0), false);
        while at.0 < plans.len() {
            let mut batch =
                Batch { start: 0, end: 0, jobs: ArrayVec::new(), chains: ArrayVec::new(), pieces: ArrayVec::new() };
            self.reserve(&plans, &mut at, &mut batch, tally);
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
            told |= self.publish(&batch);
        }
        told
    }

    /// Reserves chains for output frames from `at` (plan, segment) on, until a batch is full.
    #[inline]
    fn reserve(&self, plans: &[Plan<'_, '_>], at: &mut (usize, u32), batch: &mut Batch<'a>, tally: &mut Tally) {
        let mut positions = self.state.positions.lock().unwrap_or_else(PoisonError::into_inner);
        batch.start = positions.next;
        let mut hint = SpanHint::default();
        let mut memory = self.active.table.lookup(&mut hint);
        self.reserve_each(plans, at, batch, &mut positions, &mut memory, tally);
        batch.end = positions.next;
        positions.noted |= self.ring.notes();
    }

    fn reserve_each(
        &self,
        plans: &[Plan<'_, '_>],
        at: &mut (usize, u32),
        batch: &mut Batch<'a>,
        positions: &mut RxPositions,
        memory: &mut Lookup<'a, '_, MemTable>,
        tally: &mut Tally,
    ) {
        while let Some(plan) = plans.get(at.0) {
            if batch.jobs.is_full() || batch.chains.len() + CHAINS / 2 > CHAINS {
                return;
            }
            if batch.pieces.remaining_capacity() < 2 * CHAIN_PIECES {
                return;
            }
            let (index, segment) = *at;
            *at = if segment + 1 < plan.count() { (index, segment + 1) } else { (index + 1, 0) };
            let (first_chain, first_piece) = (batch.chains.len(), batch.pieces.len());
            match self.take(positions, plan.len(segment) + self.header, memory, batch) {
                Ok(()) => {
                    let job = Job {
                        plan: index as u8,
                        segment,
                        chains: (batch.chains.len() - first_chain) as u16,
                        first_piece: first_piece as u16,
                        pieces: (batch.pieces.len() - first_piece) as u16,
                    };
                    let _ = batch.jobs.try_push(job);
                }
                Err(reason) => {
                    batch.pieces.truncate(first_piece);
                    tally.dropped(reason);
                }
            }
        }
    }

    /// Takes chains for `bytes` bytes. Those that cannot be used at all are given back empty; when there are not
    /// enough, none is taken.
    #[inline]
    fn take(
        &self,
        positions: &mut RxPositions,
        bytes: usize,
        memory: &mut Lookup<'a, '_, MemTable>,
        batch: &mut Batch<'a>,
    ) -> Result<(), DropReason> {
        let first = batch.chains.len();
        let start = positions.next;
        let mut left = bytes;
        while left > 0 {
            if batch.chains.len() - first == CHAINS / 2 || batch.pieces.remaining_capacity() < CHAIN_PIECES {
                return self.give_up(positions, start, first, batch, DropReason::Oversize);
            }
            let (at, before) = (positions.next, batch.pieces.len());
            let mut pieces: ArrayVec<Slice<'a>, CHAIN_PIECES> = ArrayVec::new();
            let found = self.ring.chain(at, &mut positions.avail, memory, true, &mut pieces);
            let Ok(found) = found else {
                self.active.fail(self.number);
                return self.give_up(positions, start, first, batch, DropReason::RingFull);
            };
            let Some(Found { id, slots, good }) = found else {
                return self.give_up(positions, start, first, batch, DropReason::RingFull);
            };
            positions.next = at.wrapping_add(slots);
            let room: usize = pieces.iter().map(Slice::len).sum();
            let room = u32::try_from(room).ok().filter(|room| good && *room > 0);
            // There is room: it was measured above.
            let _ = batch.pieces.try_extend_from_slice(&pieces);
            let Some(room) = room else {
                // Given back with nothing in it, with what was taken for the frame so far.
                batch.pieces.truncate(before);
                let _ = batch.chains.try_push(Chain { id, at, room: 0, used: 0 });
                batch.chains.iter_mut().skip(first).for_each(|c| c.used = 0);
                return Err(DropReason::BadDescriptor);
            };
            let used = left.min(room as usize);
            left -= used;
            let _ = batch.chains.try_push(Chain { id, at, room, used: used as u32 });
            if left > 0 && !self.mergeable {
                return self.give_up(positions, start, first, batch, DropReason::Oversize);
            }
        }
        Ok(())
    }

    /// Leaves the chains to the next frame. (They were read, not used: reading them again is no harm.)
    fn give_up(
        &self,
        positions: &mut RxPositions,
        start: u16,
        first: usize,
        batch: &mut Batch<'a>,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        positions.next = start;
        batch.chains.truncate(first);
        Err(reason)
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

    /// Writes the used entries and publishes them in order. True when the driver is to be told.
    #[inline]
    fn publish(&self, batch: &Batch<'_>) -> bool {
        if batch.chains.is_empty() {
            return false;
        }
        if self.ring.notes() {
            let chains = batch.chains.iter().map(|chain| (chain.at, chain.id, chain.used.min(chain.room)));
            self.ring.note_batch(chains, batch.start, batch.end);
        }
        // The first last: a packed ring's used descriptors are seen as they are written, and a driver that sees the first
        // buffer of a frame takes the others to be there.
        for chain in batch.chains.iter().rev() {
            self.ring.put_used(chain.at, chain.id, chain.used.min(chain.room));
        }
        self.finish(batch.start, batch.end)
    }
}
