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
    /// Round trips of a cache line between the CPUs, before each round of each work.
    pub trips: Vec<Duration>,
}

impl Figures {
    /// Adds what round `round` gave of `work` by `peer`.
    pub fn add(&mut self, work: &str, peer: &str, round: usize, outcome: Outcome) {
        let key = (work.to_owned(), peer.to_owned());
        *self.accounted.entry(key.clone()).or_default() += usize::from(outcome.accounted);
        self.values.entry(key).or_default().insert(round, outcome.measured);
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
    /// different from one round to the next (the machine's other users, mostly) is the same to both. Empty when there is no such
    /// round.
    pub fn ratios(&self, work: &str, peer: &str, other: &str) -> Vec<f64> {
        let others: BTreeMap<_, _> = self.rounds(work, other).collect();
        let rounds = self.rounds(work, peer).filter_map(|(round, mine)| Some((mine, others.get(&round)?)));
        let rounds: Vec<Vec<f64>> = rounds
            .map(|(mine, theirs)| mine.parts().iter().zip(theirs.parts()).map(|(a, b)| a.1 / b.1).collect())
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
    }
}
