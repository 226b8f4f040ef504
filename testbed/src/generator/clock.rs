//! When frames are due, and how long marked ones were under way.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::PROBES;

/// Frames posted at a time.
pub(super) const BATCH: usize = 32;
/// Between two marked frames of one direction: more would be a load of their own.
const PROBE_EVERY: Duration = Duration::from_micros(50);

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// Frames per second, in each direction.
    Pps(f64),
}

/// Says how many frames of one direction are due.
pub(super) struct Pacer {
    rate: Rate,
    sent: u64,
}

impl Pacer {
    pub(super) fn new(rate: Rate) -> Pacer {
        Pacer { rate, sent: 0 }
    }

    #[inline]
    pub(super) fn due(&self, start: Instant) -> usize {
        match self.rate {
            Rate::Max => BATCH,
            Rate::Pps(pps) => {
                let wanted = (start.elapsed().as_secs_f64() * pps) as u64;
                (wanted.saturating_sub(self.sent) as usize).min(BATCH)
            }
        }
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.sent += count as u64;
    }
}

/// Room for times from a nanosecond to a minute, to three digits. Its bounds are given, for `saturating_record` cuts
/// off at what a histogram that grows has grown to so far.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Times the marked frames of one direction.
pub(super) struct Timer {
    sent: Vec<(u32, Instant)>,
    next: u32,
    last: Option<Instant>,
    histogram: Histogram<u64>,
}

impl Timer {
    pub(super) fn new() -> Result<Timer> {
        let sent = vec![(0, Instant::now()); PROBES];
        Ok(Timer { sent, next: 1, last: None, histogram: histogram()? })
    }

    /// The mark of the frame to send now, if one is due.
    pub(super) fn due(&self, now: Instant) -> Option<u32> {
        self.last.is_none_or(|last| now.duration_since(last) >= PROBE_EVERY).then_some(self.next)
    }

    /// The frame of the last mark that was due went out at `now`.
    pub(super) fn posted(&mut self, now: Instant) {
        if let Some(place) = self.sent.get_mut(self.next as usize % PROBES) {
            *place = (self.next, now);
        }
        self.last = Some(now);
        // A mark has 24 bits, and 0 is none.
        self.next = self.next % 0xff_ffff + 1;
    }

    /// Mark `mark` came at `now`.
    pub(super) fn came(&mut self, mark: u32, now: Instant) {
        if let Some((sent, at)) = self.sent.get(mark as usize % PROBES)
            && *sent == mark
        {
            self.histogram.saturating_record(now.duration_since(*at).as_nanos() as u64);
        }
    }

    /// Times in nanoseconds.
    pub(super) fn into_histogram(self) -> Histogram<u64> {
        self.histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_timed_against_its_own_start() {
        let mut timer = Timer::new().unwrap();
        let start = Instant::now();
        assert_eq!(timer.due(start), Some(1));
        timer.posted(start);
        assert_eq!(timer.due(start + PROBE_EVERY / 2), None, "not yet");
        assert_eq!(timer.due(start + PROBE_EVERY), Some(2));
        timer.posted(start + PROBE_EVERY);
        // The first is lost; one that nobody sent does not count.
        timer.came(2, start + PROBE_EVERY + Duration::from_micros(30));
        timer.came(2 + PROBES as u32, start + Duration::from_secs(1));
        let times = timer.into_histogram();
        assert_eq!((times.len(), times.max() / 1000), (1, 30));
    }

    #[test]
    fn frames_are_due_by_the_clock() {
        let mut pacer = Pacer::new(Rate::Pps(1e6));
        let start = Instant::now() - Duration::from_micros(10);
        assert!(pacer.due(start) >= 10);
        pacer.sent(1_000_000);
        assert_eq!(pacer.due(start), 0);
        assert_eq!(Pacer::new(Rate::Max).due(start), BATCH);
    }
}
