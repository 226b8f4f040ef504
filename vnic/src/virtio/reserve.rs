//! Finding chains for output frames: as many as each needs, one look at the ring after the other.

use arrayvec::ArrayVec;
use dataplane::{BURST, DropReason, Plan, Tally};
use sharedmem::{Lookup, MemTable, Slice, SpanHint};

use super::ring::{Found, Virtq};
use super::rx::Path;

/// Chains reserved at a time; one frame takes no more.
const CHAINS: usize = 128;
/// Pieces of memory reserved at a time.
pub(super) const PIECES: usize = 512;
/// Most pieces of one chain.
pub(super) const CHAIN_PIECES: usize = 64;

/// A reserved chain.
pub(super) struct Chain {
    pub(super) id: u16,
    /// Its position.
    pub(super) at: u16,
    /// Bytes it holds.
    pub(super) room: u32,
    /// Bytes written to it, for the driver.
    pub(super) used: u32,
}

/// One output frame with its chains reserved.
pub(super) struct Job {
    pub(super) plan: u8,
    pub(super) segment: u32,
    pub(super) chains: u16,
    pub(super) first_piece: u16,
    pub(super) pieces: u16,
}

/// What one look at the ring reserved.
pub(super) struct Batch<'m> {
    pub(super) jobs: ArrayVec<Job, BURST>,
    pub(super) chains: ArrayVec<Chain, CHAINS>,
    pub(super) pieces: ArrayVec<Slice<'m>, PIECES>,
    /// What a chain of one descriptor held at least; 0 with chains of another kind.
    pub(super) usual: u32,
}

impl<'m> Batch<'m> {
    pub(super) fn new() -> Batch<'m> {
        Batch { jobs: ArrayVec::new(), chains: ArrayVec::new(), pieces: ArrayVec::new(), usual: u32::MAX }
    }
}

/// Where chains are taken from: a ring that is held, or a claim.
pub(super) struct Cursor {
    pub(super) next: u16,
    /// The driver's index when it was last read; a claim's end.
    pub(super) avail: u16,
    /// True for a claim: nothing is taken beyond its end.
    pub(super) claimed: bool,
}

impl<'a, R: Virtq> Path<'a, R> {
    /// Reserves chains for output frames from `at` (plan, segment) on, until a batch is full or a claim is used up.
    pub(super) fn reserve_each(
        &self,
        plans: &[Plan<'_, '_>],
        at: &mut (usize, u32),
        batch: &mut Batch<'a>,
        cursor: &mut Cursor,
        tally: &mut Tally,
    ) {
        let mut hint = SpanHint::default();
        let memory = &mut self.active.table.lookup(&mut hint);
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
            match self.take(cursor, plan.len(segment) + self.header, memory, batch) {
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
                Err(DropReason::RingFull) if cursor.claimed => {
                    batch.pieces.truncate(first_piece);
                    *at = (index, segment);
                    return;
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
        cursor: &mut Cursor,
        bytes: usize,
        memory: &mut Lookup<'a, '_, MemTable>,
        batch: &mut Batch<'a>,
    ) -> Result<(), DropReason> {
        let first = batch.chains.len();
        let start = cursor.next;
        let mut left = bytes;
        while left > 0 {
            if batch.chains.len() - first == CHAINS / 2 || batch.pieces.remaining_capacity() < CHAIN_PIECES {
                return self.give_up(cursor, start, first, batch, DropReason::Oversize);
            }
            let (at, before) = (cursor.next, batch.pieces.len());
            let mut pieces: ArrayVec<Slice<'a>, CHAIN_PIECES> = ArrayVec::new();
            if cursor.claimed && at == cursor.avail {
                return self.give_up(cursor, start, first, batch, DropReason::RingFull);
            }
            let found = self.ring.chain(at, &mut cursor.avail, memory, true, &mut pieces);
            let Ok(found) = found else {
                self.active.fail(self.number);
                return self.give_up(cursor, start, first, batch, DropReason::RingFull);
            };
            let Some(Found { id, slots, good }) = found else {
                return self.give_up(cursor, start, first, batch, DropReason::RingFull);
            };
            cursor.next = at.wrapping_add(slots);
            let whole = self.ring.buffer(at, id, true).and_then(|(addr, len)| memory.whole(addr, len));
            batch.usual = batch.usual.min(whole.map_or(0, |whole| whole.len() as u32));
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
                return self.give_up(cursor, start, first, batch, DropReason::Oversize);
            }
        }
        Ok(())
    }

    /// Leaves the chains to the next frame. (They were read, not used: reading them again is no harm.)
    fn give_up(
        &self,
        cursor: &mut Cursor,
        start: u16,
        first: usize,
        batch: &mut Batch<'a>,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        cursor.next = start;
        batch.chains.truncate(first);
        Err(reason)
    }
}
