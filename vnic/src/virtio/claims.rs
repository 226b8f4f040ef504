//! Which positions of a receive queue are whose, without a lock: workers claim ranges, fill them in any order, and publish
//! them in the order in which they were claimed.
//!
//! ```text
//!  taken   | held:1 | ticket:15 | next:32 (the low half is the position) | avail:16 |   one word, changed by compare-and-swap
//!  turns   [ticket % 256]   lap:7 | TURN | DONE | end:16                                who has both flags publishes
//!                 TURN: everything before is published      DONE: the copies are made, up to `end`
//! ```
//! A claim costs one change of `taken`, and a finished claim one or two of `turns`, however many positions it has. A worker
//! that is last to set one of the two flags of a claim publishes it and hands on the turn; so nobody waits for anybody.
//! Only where chains must be walked before it is known how many positions a frame takes does a worker hold `taken`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use crossbeam_utils::CachePadded;
use sharedmem::{Ahead, prefetch_write};

use super::ring::Virtq;

/// Claims that may be open at a time; those beyond find no room, as in a full ring. A power of two.
const TURNS: u16 = 256;
/// It is looked at once in so many claims whether there is room for as many more.
const HALF: u16 = TURNS / 2;
/// Tickets run freely in 15 bits.
const TICKETS: u16 = 0x7fff;
/// The word is held.
const HELD: u64 = 1 << 63;
/// All copies of this claim are made.
const DONE: u32 = 1 << 16;
/// All claims before this one are published.
const TURN: u32 = 1 << 17;
/// Where a turn's lap begins.
const LAP: u32 = 18;
/// Looks at a held word before the processor is left to others.
const SPINS: u32 = 64;

/// How far a receive queue has come.
#[derive(Debug)]
pub struct Claims {
    taken: CachePadded<AtomicU64>,
    turns: CachePadded<[AtomicU32; TURNS as usize]>,
    /// True once chains were noted: notes are taken back as positions are published. Seldom written.
    noted: AtomicBool,
}

/// How things stood: claims are made on the ground of it, and hold if it is so still.
#[derive(Clone, Copy, Debug)]
pub struct Seen(u64);

/// Positions that are one worker's, to be finished by it.
#[derive(Debug)]
#[must_use = "what is claimed after it is published after it"]
pub struct Claim {
    ticket: u16,
    start: u32,
    end: u32,
}

/// Nobody else claims anything while it lives.
#[derive(Debug)]
pub struct Held<'a> {
    claims: &'a Claims,
    word: u64,
}

impl Seen {
    /// The next position to claim.
    #[inline(always)]
    pub fn next(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The position up to which the driver is known to have made buffers available.
    #[inline(always)]
    pub fn avail(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn count(self) -> u32 {
        (self.0 >> 16) as u32
    }

    #[inline(always)]
    fn ticket(self) -> u16 {
        (self.0 >> 48) as u16 & TICKETS
    }

    /// With `count` more positions claimed.
    #[inline(always)]
    fn claimed(self, avail: u16, count: u16) -> (Seen, Claim) {
        let claim =
            Claim { ticket: self.ticket(), start: self.count(), end: self.count().wrapping_add(u32::from(count)) };
        let ticket = claim.ticket.wrapping_add(1) & TICKETS;
        (Seen(u64::from(ticket) << 48 | u64::from(claim.end) << 16 | u64::from(avail)), claim)
    }
}

impl Claim {
    /// The first position.
    #[inline(always)]
    pub fn start(&self) -> u16 {
        self.start as u16
    }

    /// True of one in `n` claims.
    #[inline(always)]
    pub fn is_nth(&self, n: u16) -> bool {
        self.ticket.is_multiple_of(n)
    }

    /// The position behind the last.
    #[inline(always)]
    pub fn end(&self) -> u16 {
        self.end as u16
    }
}

/// The lap of a ticket as it stands in its turn.
#[inline(always)]
fn lap(ticket: u16) -> u32 {
    u32::from((ticket & TICKETS) / TURNS) << LAP
}

impl Claims {
    /// Of a queue that starts at `base`.
    pub fn new(base: u16) -> Claims {
        let turns = std::array::from_fn(|n| AtomicU32::new(if n == 0 { TURN } else { 0 }));
        let taken = u64::from(base) << 16 | u64::from(base);
        Claims {
            taken: CachePadded::new(AtomicU64::new(taken)),
            turns: CachePadded::new(turns),
            noted: AtomicBool::new(false),
        }
    }

    /// The position that will be claimed next.
    pub fn next(&self) -> u16 {
        Seen(self.taken.load(Ordering::Acquire)).next()
    }

    #[inline(always)]
    fn turn(&self, ticket: u16) -> &AtomicU32 {
        &self.turns[usize::from(ticket % TURNS)]
    }

    /// How things stand, once nobody holds them; `None` when no claim can be made, for too many are open behind one of a
    /// worker that does not get on.
    #[inline(always)]
    pub fn look(&self) -> Option<Seen> {
        let mut seen = self.taken.load(Ordering::Acquire);
        if seen & HELD != 0 {
            seen = self.wait();
        }
        let seen = Seen(seen);
        if seen.ticket().is_multiple_of(HALF) && !self.has_turns(seen.ticket()) { None } else { Some(seen) }
    }

    /// True when the turns of `ticket` and the half lap behind it are not in use any more.
    #[cold]
    fn has_turns(&self, ticket: u16) -> bool {
        let last = ticket.wrapping_add(HALF - 1) & TICKETS;
        self.turn(last).load(Ordering::Acquire) >> LAP == lap(last) >> LAP
    }

    /// Waits until nobody holds the word. That is short, but for a worker that lost its processor meanwhile.
    #[cold]
    fn wait(&self) -> u64 {
        let mut looks = 0;
        loop {
            let word = self.taken.load(Ordering::Acquire);
            if word & HELD == 0 {
                return word;
            }
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }

    /// Claims `count` positions from `seen.next()` on, and notes that buffers are available up to `avail`; `None` when
    /// things are not as seen any more.
    #[inline(always)]
    pub fn take(&self, seen: Seen, avail: u16, count: u16) -> Option<Claim> {
        let (after, claim) = seen.claimed(avail, count);
        self.change(seen.0, after.0).then_some(claim)
    }

    /// True when things are as seen.
    pub fn stands(&self, seen: Seen) -> bool {
        self.taken.load(Ordering::Acquire) == seen.0
    }

    #[inline(always)]
    fn change(&self, from: u64, to: u64) -> bool {
        self.taken.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// `claim` will be finished soon.
    #[inline(always)]
    pub fn will_finish(&self, claim: &Claim) {
        prefetch_write(self.turn(claim.ticket));
    }

    /// A note is about to be made of a claimed position ([`Virtq::note`]).
    pub fn will_forget(&self) {
        if !self.noted.load(Ordering::Relaxed) {
            // Whoever publishes sees it: it has seen that the claim is done.
            self.noted.store(true, Ordering::Relaxed);
        }
    }

    /// What the next claim needs, besides what `ring` does.
    #[inline(always)]
    pub fn ahead(&self, ahead: Ahead) -> Ahead {
        ahead.and(&self.taken)
    }

    /// A claim will be made soon.
    #[inline(always)]
    pub fn will_take(&self) {
        prefetch_write(&self.taken);
    }

    /// Holds off all other claims; `None` as in [`Claims::look`].
    pub fn hold(&self) -> Option<Held<'_>> {
        loop {
            let seen = self.look()?;
            if self.change(seen.0, seen.0 | HELD) {
                return Some(Held { claims: self, word: seen.0 });
            }
        }
    }

    /// Gives back the positions of `claim` from `end` on, for anybody to claim; false, and nothing done, when there is a
    /// later claim.
    #[cold]
    pub fn shorten(&self, claim: &mut Claim, end: u16) -> bool {
        let count = claim.end.wrapping_sub(u32::from(claim.end().wrapping_sub(end)));
        let mut word = self.taken.load(Ordering::Acquire);
        // A later claim of no positions would still publish its own.
        while word & HELD == 0 && Seen(word).ticket() == claim.ticket.wrapping_add(1) & TICKETS {
            if self.change(word, word & !(0xffff_ffff << 16) | u64::from(count) << 16) {
                claim.end = count;
                return true;
            }
            word = self.taken.load(Ordering::Acquire);
        }
        false
    }

    /// The copies of `claim` are made and its used entries written: publishes them, and those of later claims that are
    /// done, once all before are. Returns the published position before and after; `None` when another worker will.
    #[inline]
    pub fn finish(&self, claim: Claim, ring: &impl Virtq) -> Option<(u16, u16)> {
        let (mut ticket, mut start, mut end) = (claim.ticket, claim.start(), claim.end());
        let mut turn = self.turn(ticket);
        let mine = turn.load(Ordering::Acquire) & TURN != 0;
        if !mine && turn.fetch_or(DONE | u32::from(end), Ordering::AcqRel) & TURN == 0 {
            return None;
        }
        loop {
            // Whoever publishes next does so after the turn was handed on.
            ring.publish(end);
            if ring.notes() && self.noted.load(Ordering::Relaxed) {
                ring.forget(start, end);
            }
            turn.store(lap(ticket.wrapping_add(TURNS)), Ordering::Release);
            ticket = ticket.wrapping_add(1) & TICKETS;
            turn = self.turn(ticket);
            let state = turn.fetch_or(TURN, Ordering::AcqRel);
            if state & DONE == 0 {
                return Some((claim.start(), end));
            }
            (start, end) = (end, state as u16);
        }
    }
}

impl Held<'_> {
    /// The next position to claim.
    pub fn next(&self) -> u16 {
        Seen(self.word).next()
    }

    /// The position up to which buffers are known to be available.
    pub fn avail(&self) -> u16 {
        Seen(self.word).avail()
    }

    /// Claims the positions up to `next`; `None` when these are none.
    pub fn release(mut self, next: u16, avail: u16) -> Option<Claim> {
        let seen = Seen(self.word);
        let count = next.wrapping_sub(seen.next());
        let (after, claim) = seen.claimed(avail, count);
        if count == 0 {
            self.word = self.word & !0xffff | u64::from(avail);
            return None;
        }
        self.word = after.0;
        Some(claim)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.claims.taken.store(self.word, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
