//! What a worker does after a turn: go on, or rest, and how long.
//!
//! ```text
//!   frames --> spin --> spin and yield (as long as work is seldom farther apart) --> nap 20, 40, 80, 100 us ...
//!                                                                            \--> or sleep, when every peer can wake it
//! ```
//!
//! On a CPU of its own a worker that yields is one that spins. Where it shares the CPU with those it works for, guests
//! mostly, they go on while it would have looked at empty rings. But who yields to somebody who computes waits for the
//! end of his time slice, milliseconds, while who sleeps and is woken goes first: where a yield took long, the worker
//! rests at once for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a worker with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spins a while, offering the CPU to others, then sleeps until a peer signals; where some peer cannot, naps, longer
    /// and longer up to [`LONGEST_NAP`].
    Adaptive,
    /// Polls without pause.
    Spin,
}

/// How long a worker that seldom has work keeps polling after some before it rests.
pub const SPIN: Duration = Duration::from_micros(200);
/// How long after work it polls without offering the CPU: the next burst of a stream, and the answer to a lone frame
/// between two rings, come sooner.
const KEEP: Duration = Duration::from_micros(3);
/// Who keeps the CPU longer than this when it is offered computes, and does not wait for us.
const LONG_YIELD: Duration = Duration::from_micros(100);
/// How long a worker that met such a one rests instead of offering.
const WARY: Duration = Duration::from_millis(20);
/// How long it keeps polling at most, when work kept coming at such distances: a request and its response.
pub const LONGEST_SPIN: Duration = Duration::from_millis(1);
/// The longest nap: what the first frame after silence may wait.
pub const LONGEST_NAP: Duration = Duration::from_micros(100);
const FIRST_NAP: Duration = Duration::from_micros(20);

/// What the control thread is told of a worker.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) busy_ns: AtomicU64,
    pub(crate) turns: AtomicU64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The next turn at once.
    None,
    /// The next turn after others who want the CPU.
    Yield,
    /// Rest: sleep if every peer can wake the worker, else nap this long.
    Nap(Duration),
}

/// Turns from one look at the clock to the next while the worker polls: the clock takes as long as a look at empty rings.
const UNTIMED: u32 = 4;

/// Decides after each turn, and measures the busy time: that of turns that found frames.
pub(crate) struct Pause {
    idle: Idle,
    last: Instant,
    last_work: Instant,
    nap: Duration,
    /// Smoothed distance of turns that had work.
    gap: Duration,
    /// Until when the CPU is not offered.
    wary: Instant,
    /// Turns since the last look at the clock, and those of them that found frames.
    turns: u32,
    fruitful: u32,
    /// How many turns may pass until the next one.
    untimed: u32,
    /// What a turn takes that finds nothing, as last seen.
    barren: Duration,
}

impl Pause {
    pub(crate) fn new(idle: Idle, now: Instant) -> Pause {
        Pause {
            idle,
            last: now,
            last_work: now,
            nap: FIRST_NAP,
            gap: Duration::ZERO,
            wary: now,
            turns: 0,
            fruitful: 0,
            untimed: 1,
            barren: Duration::ZERO,
        }
    }

    /// After a turn that took `frames` frames; `clock` tells the time, and is asked where it matters.
    #[inline]
    pub(crate) fn after(&mut self, frames: usize, clock: impl FnOnce() -> Instant, load: &Load) -> Rest {
        self.turns += 1;
        self.fruitful += u32::from(frames > 0);
        let rest = if self.turns < self.untimed { Rest::None } else { self.look_at(clock(), load) };
        if frames == 0 && rest == Rest::None {
            std::hint::spin_loop();
        }
        rest
    }

    /// At `now`, after some turns.
    fn look_at(&mut self, now: Instant, load: &Load) -> Rest {
        load.turns.store(load.turns.load(Ordering::Relaxed).wrapping_add(u64::from(self.turns)), Ordering::Relaxed);
        let (since, fruitful) = (now.saturating_duration_since(self.last_work), self.fruitful > 0);
        let busy = self.busy(now.saturating_duration_since(self.last));
        (self.last, self.turns, self.fruitful, self.untimed) = (now, 0, 0, UNTIMED);
        if fruitful {
            load.busy_ns.store(load.busy_ns.load(Ordering::Relaxed) + busy.as_nanos() as u64, Ordering::Relaxed);
            // A quarter of each new distance; long silences are not distances of a conversation.
            self.gap = (self.gap * 3 + since.min(LONGEST_SPIN * 2)) / 4;
            (self.last_work, self.nap) = (now, FIRST_NAP);
            return Rest::None;
        }
        if self.idle == Idle::Spin || since <= KEEP {
            return Rest::None;
        }
        // What offers the CPU or rests is asked again after each turn.
        self.untimed = 1;
        if since <= self.patience() && now >= self.wary {
            return Rest::Yield;
        }
        let nap = self.nap;
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        Rest::Nap(nap)
    }

    /// The part of `spent`, which the turns since the last look at the clock took, that fell to those with frames: all but what
    /// the others take when they are by themselves.
    fn busy(&mut self, spent: Duration) -> Duration {
        match self.turns - self.fruitful {
            barren if self.fruitful > 0 => spent.saturating_sub(self.barren * barren),
            barren => {
                // Once in a while one takes long, for the CPU was somebody else's meanwhile.
                let one = spent / barren.max(1);
                self.barren = if self.barren.is_zero() { one } else { one.min(self.barren * 2) };
                Duration::ZERO
            }
        }
    }

    /// Twice the usual distance, so that the ordinary late one still meets a polling worker. Where work comes
    /// farther apart than [`LONGEST_SPIN`], spinning in between would be all the worker does.
    fn patience(&self) -> Duration {
        if self.gap > LONGEST_SPIN { SPIN } else { (self.gap * 2).clamp(SPIN, LONGEST_SPIN) }
    }

    /// The CPU was offered, and is the worker's again at `now`: that was not a turn.
    #[inline]
    pub(crate) fn yielded(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last) > LONG_YIELD {
            self.wary = now + WARY;
        }
        self.last = now;
    }

    /// The worker has rested until `now`: that was not a turn.
    pub(crate) fn rested(&mut self, now: Instant) {
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// A turn after which the clock is looked at.
    fn timed(pause: &mut Pause, frames: usize, now: Instant, load: &Load) -> Rest {
        pause.untimed = 1;
        pause.after(frames, || now, load)
    }

    #[test]
    fn naps_grow_and_end_with_work() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Adaptive, start);
        assert_eq!(timed(&mut pause, 0, start + KEEP, &load), Rest::None);
        assert_eq!(timed(&mut pause, 0, start + SPIN, &load), Rest::Yield);
        let naps: Vec<_> = (1..6).map(|n| timed(&mut pause, 0, start + SPIN + US * n, &load)).collect();
        assert_eq!(naps, [20, 40, 80, 100, 100].map(|n| Rest::Nap(US * n)));
        assert_eq!(timed(&mut pause, 1, start + US * 2000, &load), Rest::None);
        // The gap of 2000 us counts a quarter.
        assert_eq!(timed(&mut pause, 0, start + US * 3000, &load), Rest::Yield);
        assert_eq!(timed(&mut pause, 0, start + US * 3001, &load), Rest::Nap(FIRST_NAP));
        assert_eq!(load.turns.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_conversation_keeps_the_worker_spinning_and_rare_work_does_not() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Adaptive, start);
        let mut now = start;
        for _ in 0..40 {
            now += US * 300;
            timed(&mut pause, 1, now, &load);
        }
        assert_eq!(timed(&mut pause, 0, now + US * 590, &load), Rest::Yield);
        assert_eq!(timed(&mut pause, 0, now + US * 605, &load), Rest::Nap(FIRST_NAP));
        for _ in 0..40 {
            now += Duration::from_millis(20);
            timed(&mut pause, 1, now, &load);
        }
        assert_eq!(timed(&mut pause, 0, now + US * 201, &load), Rest::Nap(FIRST_NAP));
    }

    #[test]
    fn who_computes_is_not_offered_the_cpu_again_soon() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Adaptive, start);
        let mut silence = |from: Duration, yield_took: Duration| {
            let work = start + from;
            timed(&mut pause, 1, work, &load);
            assert_eq!(timed(&mut pause, 0, work + KEEP, &load), Rest::None);
            let rest = timed(&mut pause, 0, work + US * 4, &load);
            if rest == Rest::Yield {
                pause.yielded(work + US * 4 + yield_took);
            }
            rest
        };
        assert_eq!(silence(Duration::ZERO, LONG_YIELD), Rest::Yield);
        assert_eq!(silence(US * 1000, LONG_YIELD + US), Rest::Yield, "that was not long");
        let end = US * 1004 + LONG_YIELD + US + WARY;
        assert_eq!(silence(US * 1200, US), Rest::Nap(FIRST_NAP));
        assert_eq!(silence(end - US * 5, US), Rest::Nap(FIRST_NAP));
        assert_eq!(silence(end, US), Rest::Yield);
    }

    #[test]
    fn busy_time_is_that_of_turns_with_frames() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Spin, start);
        timed(&mut pause, 0, start + US * 100, &load);
        timed(&mut pause, 3, start + US * 107, &load);
        assert_eq!(timed(&mut pause, 0, start + US * 10_000, &load), Rest::None);
        pause.rested(start + US * 20_000);
        timed(&mut pause, 1, start + US * 20_002, &load);
        assert_eq!(load.busy_ns.load(Ordering::Relaxed), 9_000);
    }

    #[test]
    fn the_clock_is_looked_at_once_in_four_turns_of_polling_and_after_each_that_rests() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Adaptive, start);
        let mut looks = |frames: usize, us: u32| {
            let mut looked = false;
            let rest = pause.after(
                frames,
                || {
                    looked = true;
                    start + US * us
                },
                &load,
            );
            (looked, rest)
        };
        assert_eq!(looks(1, 0), (true, Rest::None));
        for us in [1, 2] {
            let four = [looks(0, us), looks(1, us), looks(0, us), looks(0, us)];
            assert_eq!(four, [(false, Rest::None), (false, Rest::None), (false, Rest::None), (true, Rest::None)]);
        }
        // Frames count from when the clock was looked at after them: that was at 2 us.
        assert_eq!([(); 4].map(|()| looks(0, 5)).last(), Some(&(true, Rest::None)));
        assert_eq!([(); 4].map(|()| looks(0, 6)).last(), Some(&(true, Rest::Yield)));
        assert_eq!(
            [looks(0, 7), looks(0, 8), looks(0, 400)],
            [(true, Rest::Yield), (true, Rest::Yield), (true, Rest::Nap(FIRST_NAP))]
        );
        assert_eq!([looks(2, 401), looks(0, 402)], [(true, Rest::None), (false, Rest::None)]);
        assert_eq!(load.turns.load(Ordering::Relaxed), 21);
    }

    #[test]
    fn of_mixed_turns_those_without_frames_are_taken_off_as_they_are_by_themselves() {
        let (start, load) = (Instant::now(), Load::default());
        let mut pause = Pause::new(Idle::Spin, start);
        // The first look at the clock is after one turn.
        assert_eq!(pause.after(0, || start, &load), Rest::None);
        let mut now = start;
        let mut four = |frames: [usize; 4], us: u32| {
            now += US * us;
            frames.iter().for_each(|frames| _ = pause.after(*frames, || now, &load));
            load.busy_ns.load(Ordering::Relaxed) / 1000
        };
        assert_eq!([four([0, 0, 0, 0], 8), four([0, 0, 0, 0], 8)], [0, 0]);
        // Two microseconds each: what is left of 20 are 14, all of 12 are 12.
        assert_eq!([four([0, 0, 5, 0], 20), four([1, 1, 1, 1], 12)], [14, 26]);
        // One that took long says little; more than all cannot be taken off.
        assert_eq!([four([0, 0, 0, 0], 4000), four([0, 1, 0, 0], 20), four([0, 1, 0, 0], 3)], [26, 34, 34]);
    }
}
