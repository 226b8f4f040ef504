//! When what is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::Timing;

/// The prober's own time. It runs with the caller's, but never further than half the jitter past the next tick:
/// while nobody calls, nothing is sent or received, and an age that grew meanwhile would prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// What the caller's clock is ahead.
    skew: Duration,
    /// Start of the current interval.
    round: Duration,
    /// Next tick in it.
    tick: u32,
}

impl Clock {
    pub(crate) fn new(now: Duration) -> Clock {
        Clock { skew: Duration::ZERO, round: now, tick: 0 }
    }

    /// Intervals start anew.
    pub(crate) fn restart(&mut self, t: Duration) {
        (self.round, self.tick) = (t, 0);
    }

    fn tick_at(&self, timing: &Timing) -> Duration {
        self.round + timing.interval * self.tick / timing.slots
    }

    /// The prober's time when the caller's is `now`.
    pub(crate) fn read(&self, now: Duration, timing: &Timing) -> Duration {
        now.saturating_sub(self.skew).min(self.tick_at(timing) + timing.jitter / 2)
    }

    /// The same, and makes up for lateness.
    pub(crate) fn settle(&mut self, now: Duration, timing: &Timing) -> Duration {
        let t = self.read(now, timing);
        self.skew = self.skew.max(now.saturating_sub(t));
        t
    }

    /// The tick that is due at `t`.
    pub(crate) fn due(&self, t: Duration, timing: &Timing) -> Option<usize> {
        (self.tick_at(timing) <= t).then_some(self.tick as usize)
    }

    pub(crate) fn advance(&mut self, timing: &Timing) {
        self.tick += 1;
        if self.tick >= timing.slots {
            (self.round, self.tick) = (self.round + timing.interval, 0);
        }
    }

    /// When the next tick is due, by the caller's clock.
    pub(crate) fn next(&self, timing: &Timing) -> Duration {
        self.tick_at(timing) + self.skew
    }
}

/// One beacon per interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) vlan: u16,
    /// The uplink's id.
    pub(crate) uplink: u16,
}

/// Which beacons leave at which tick of an interval. A pair keeps its tick for as long as it is probed, so a
/// change of others makes no gap in its beacons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    slots: Vec<Vec<Pair>>,
    /// Pairs of the current tick that are dealt with.
    pub(crate) cursor: usize,
}

impl Schedule {
    /// Drops what is not in `wanted` and gives each new pair the tick with the fewest beacons.
    pub(crate) fn arrange(&mut self, mut wanted: BTreeSet<Pair>, timing: &Timing) {
        let slots = timing.slots as usize;
        if self.slots.len() != slots {
            *self = Schedule { slots: vec![Vec::new(); slots], cursor: 0 };
        }
        for slot in &mut self.slots {
            slot.retain(|pair| wanted.remove(pair));
        }
        let order = spread(slots);
        for pair in wanted {
            if let Some(slot) = order.iter().copied().min_by_key(|slot| self.slots[*slot].len()) {
                self.slots[slot].push(pair);
            }
        }
    }

    /// The next pair of `tick`.
    pub(crate) fn next(&mut self, tick: usize) -> Option<Pair> {
        let pair = self.slots.get(tick)?.get(self.cursor).copied()?;
        self.cursor += 1;
        Some(pair)
    }

    #[cfg(test)]
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.slots.iter().map(Vec::len).collect()
    }
}

/// The numbers below `slots` (32 at most), each as far as can be from those before it: 0, 16, 8, 24, ...
fn spread(slots: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(slots);
    for n in 0..32u32 {
        let at = (n.reverse_bits() >> 27) as usize * slots / 32;
        if !order.contains(&at) {
            order.push(at);
        }
    }
    order
}
