//! What was measured, and its medians.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measured {
    /// Million frames per second that arrived.
    Mpps(f64),
    /// Gigabits per second of TCP payload.
    Gbits(f64),
    /// Microseconds: the median and the 99th percentile of one frame at a time.
    Latency(f64, f64),
    /// Percent of one CPU.
    Cpu(f64),
}

impl Measured {
    /// The figures it consists of, with their units.
    pub fn parts(self) -> Vec<(&'static str, f64)> {
        match self {
            Measured::Mpps(v) => vec![("Mpps", v)],
            Measured::Gbits(v) => vec![("Gbit/s", v)],
            Measured::Latency(p50, p99) => vec![("us p50", p50), ("us p99", p99)],
            Measured::Cpu(v) => vec![("% CPU", v)],
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().iter().map(|(unit, value)| format!("{value:.2} {unit}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// What came of one run of a work.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The figure.
    pub measured: Measured,
    /// True when the switch was asked afterwards and accounted for every frame; only ours can be asked.
    pub accounted: bool,
}

/// Everything measured in one run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// By work and peer, what each round gave.
    values: BTreeMap<(String, String), BTreeMap<usize, Measured>>,
    accounted: BTreeMap<(String, String), usize>,
    gaps: BTreeMap<(String, String), String>,
    /// By work and peer, the round trips of a cache line between the CPUs before and after its turn in each round.
    trips: BTreeMap<(String, String), BTreeMap<usize, Vec<Duration>>>,
}

/// How many times as far apart the CPUs may be for one as for another, for their figures to be of the same machine.
const ALIKE: u32 = 2;

impl Figures {
    /// Adds what round `round` gave of `work` by `peer`.
    pub fn add(&mut self, work: &str, peer: &str, round: usize, outcome: Outcome) {
        let key = (work.to_owned(), peer.to_owned());
        *self.accounted.entry(key.clone()).or_default() += usize::from(outcome.accounted);
        self.values.entry(key).or_default().insert(round, outcome.measured);
    }

    /// Adds how far apart the CPUs were before and after what round `round` gave of `work` by `peer`.
    pub fn apart(&mut self, work: &str, peer: &str, round: usize, trips: impl IntoIterator<Item = Duration>) {
        let key = (work.to_owned(), peer.to_owned());
        self.trips.entry(key).or_default().entry(round).or_default().extend(trips);
    }

    /// All round trips, in no order.
    pub fn trips(&self) -> Vec<Duration> {
        self.trips.values().flat_map(BTreeMap::values).flatten().copied().collect()
    }

    /// The shortest and the longest round trip of `work` by `peer`, in all rounds.
    pub fn trips_of(&self, work: &str, peer: &str) -> Option<(Duration, Duration)> {
        let trips =
            || self.trips.get(&(work.to_owned(), peer.to_owned())).into_iter().flat_map(BTreeMap::values).flatten();
        Some((*trips().min()?, *trips().max()?))
    }

    /// True when the CPUs were about as far apart, in `round` of `work`, for both; and as long as nobody looked.
    fn alike(&self, work: &str, round: usize, both: [&str; 2]) -> bool {
        let trips = || {
            let of = |peer: &str| self.trips.get(&(work.to_owned(), peer.to_owned()))?.get(&round);
            both.into_iter().filter_map(of).flatten()
        };
        trips().min().zip(trips().max()).is_none_or(|(low, high)| *high <= *low * ALIKE)
    }

    /// Rounds of `work` from which the ratio of `peer` to `other` comes, and how many gave figures of both.
    pub fn rounds_alike(&self, work: &str, peer: &str, other: &str) -> (usize, usize) {
        let both = self.both(work, peer, other);
        (both.iter().filter(|(round, _, _)| self.alike(work, *round, [peer, other])).count(), both.len())
    }

    /// The rounds of `work` that gave figures of both.
    fn both(&self, work: &str, peer: &str, other: &str) -> Vec<(usize, Measured, Measured)> {
        let others: BTreeMap<_, _> = self.rounds(work, other).collect();
        self.rounds(work, peer).filter_map(|(round, mine)| Some((round, mine, *others.get(&round)?))).collect()
    }

    /// Runs of `work` by `peer` that gave a figure, and after how many of them every frame was accounted for.
    pub fn runs(&self, work: &str, peer: &str) -> (usize, usize) {
        let key = (work.to_owned(), peer.to_owned());
        (self.values.get(&key).map_or(0, BTreeMap::len), self.accounted.get(&key).copied().unwrap_or(0))
    }

    /// Notes why there is none.
    pub fn gap(&mut self, work: &str, peer: &str, why: &str) {
        self.gaps.insert((work.to_owned(), peer.to_owned()), why.to_owned());
    }

    /// The medians of each figure of `work` by `peer`, with units; empty when it was never measured.
    pub fn medians(&self, work: &str, peer: &str) -> Vec<(&'static str, f64)> {
        let rounds: Vec<_> = self.rounds(work, peer).map(|(_, measured)| measured.parts()).collect();
        let Some(first) = rounds.first() else { return Vec::new() };
        let part = |at: usize| rounds.iter().filter_map(|parts| parts.get(at).map(|p| p.1)).collect::<Vec<_>>();
        first.iter().enumerate().map(|(at, (unit, _))| (*unit, median(part(at)))).collect()
    }

    /// The medians of the ratios of `peer` to `other` in each figure of `work`, over the rounds that both gave one in: what is
    /// different from one round to the next (the machine's other users, mostly) is the same to both. Rounds in which the CPUs
    /// were farther apart for one than for the other are left out, unless all were so. Empty when there is no round.
    pub fn ratios(&self, work: &str, peer: &str, other: &str) -> Vec<f64> {
        let both = self.both(work, peer, other);
        let none_alike = self.rounds_alike(work, peer, other).0 == 0;
        let rounds: Vec<Vec<f64>> = both
            .iter()
            .filter(|(round, _, _)| none_alike || self.alike(work, *round, [peer, other]))
            .map(|(_, mine, theirs)| mine.parts().iter().zip(theirs.parts()).map(|(a, b)| a.1 / b.1).collect())
            .collect();
        let figures = rounds.first().map_or(0, Vec::len);
        (0..figures).map(|at| median(rounds.iter().filter_map(|ratios| ratios.get(at).copied()).collect())).collect()
    }

    fn rounds(&self, work: &str, peer: &str) -> impl Iterator<Item = (usize, Measured)> {
        let rounds = self.values.get(&(work.to_owned(), peer.to_owned()));
        rounds.into_iter().flatten().map(|(round, measured)| (*round, *measured))
    }

    /// Lowest and highest of the first figure.
    pub fn range(&self, work: &str, peer: &str) -> Option<(f64, f64)> {
        let parts = self.rounds(work, peer).map(|(_, measured)| measured.parts());
        let firsts: Vec<f64> = parts.filter_map(|parts| parts.first().map(|p| p.1)).collect();
        Some((firsts.iter().copied().reduce(f64::min)?, firsts.iter().copied().reduce(f64::max)?))
    }

    /// Why `peer` could not do `work`, if it could not.
    pub fn gap_of(&self, work: &str, peer: &str) -> Option<&str> {
        self.gaps.get(&(work.to_owned(), peer.to_owned())).map(String::as_str)
    }
}

/// The middle value; of an even number, the mean of the two in the middle; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match (values.get(n / 2), values.get(n.wrapping_sub(1) / 2)) {
        (Some(high), Some(low)) => (high + low) / 2.0,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
        let mut figures = Figures::default();
        for (round, v) in [1.0, 9.0, 2.0].into_iter().enumerate() {
            figures.add("w", "p", round, Outcome { measured: Measured::Latency(v, v * 2.0), accounted: v > 1.0 });
        }
        assert_eq!(figures.runs("w", "p"), (3, 2));
        assert_eq!(figures.runs("w", "q"), (0, 0));
        assert_eq!(figures.medians("w", "p"), [("us p50", 2.0), ("us p99", 4.0)]);
        assert_eq!(figures.range("w", "p"), Some((1.0, 9.0)));
        assert!(figures.medians("w", "q").is_empty());
        assert!(figures.ratios("w", "p", "q").is_empty());
        // Round 1 is missing, and round 3 is only here.
        for (round, v) in [(0, 4.0), (2, 1.0), (3, 50.0)] {
            figures.add("w", "q", round, Outcome { measured: Measured::Latency(v, 1.0), accounted: false });
        }
        assert_eq!(figures.ratios("w", "p", "q"), [(0.25 + 2.0) / 2.0, (2.0 + 4.0) / 2.0]);
        assert_eq!(figures.ratios("w", "p", "p"), [1.0, 1.0]);
        assert_eq!(figures.rounds_alike("w", "p", "q"), (2, 2));
    }

    #[test]
    fn rounds_in_which_the_cpus_were_not_as_far_apart_for_both_give_no_ratio() {
        let ns = |all: [u64; 2]| all.map(Duration::from_nanos);
        let mut figures = Figures::default();
        let outcome = |v| Outcome { measured: Measured::Mpps(v), accounted: true };
        // Near for both; far for one; far for both; it changed while one was measured.
        let rounds = [([60, 61], [61, 90]), ([60, 60], [60, 315]), ([310, 300], [300, 420]), ([60, 300], [300, 310])];
        for (round, (mine, theirs)) in rounds.into_iter().enumerate() {
            for (who, trips, v) in [("p", mine, [8.0, 100.0, 4.0, 100.0][round]), ("q", theirs, 2.0)] {
                figures.add("w", who, round, outcome(v));
                figures.apart("w", who, round, ns(trips));
            }
        }
        assert_eq!(figures.rounds_alike("w", "p", "q"), (2, 4));
        assert_eq!(figures.ratios("w", "p", "q"), [3.0]);
        assert_eq!(figures.trips_of("w", "p"), Some((Duration::from_nanos(60), Duration::from_nanos(310))));
        assert_eq!(figures.trips_of("w", "r"), None);
        assert_eq!(figures.trips().len(), 16);
        // Where it was never the same, all there are.
        let mut never = Figures::default();
        for (who, trips, v) in [("p", [60, 60], 6.0), ("q", [300, 300], 2.0)] {
            never.add("w", who, 1, outcome(v));
            never.apart("w", who, 1, ns(trips));
        }
        assert_eq!((never.rounds_alike("w", "p", "q"), never.ratios("w", "p", "q")), ((0, 1), vec![3.0]));
    }
}
