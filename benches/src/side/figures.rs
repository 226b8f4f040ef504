//! What was measured, and its medians.

use std::collections::BTreeMap;
use std::fmt;

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
    values: BTreeMap<(String, String), Vec<Measured>>,
    accounted: BTreeMap<(String, String), usize>,
    gaps: BTreeMap<(String, String), String>,
}

impl Figures {
    /// Adds a measurement of `work` by `peer`.
    pub fn add(&mut self, work: &str, peer: &str, outcome: Outcome) {
        let key = (work.to_owned(), peer.to_owned());
        *self.accounted.entry(key.clone()).or_default() += usize::from(outcome.accounted);
        self.values.entry(key).or_default().push(outcome.measured);
    }

    /// Runs of `work` by `peer` that gave a figure, and after how many of them every frame was accounted for.
    pub fn runs(&self, work: &str, peer: &str) -> (usize, usize) {
        let key = (work.to_owned(), peer.to_owned());
        (self.values.get(&key).map_or(0, Vec::len), self.accounted.get(&key).copied().unwrap_or(0))
    }

    /// Notes why there is none.
    pub fn gap(&mut self, work: &str, peer: &str, why: &str) {
        self.gaps.insert((work.to_owned(), peer.to_owned()), why.to_owned());
    }

    /// The medians of each figure of `work` by `peer`, with units; empty when it was never measured.
    pub fn medians(&self, work: &str, peer: &str) -> Vec<(&'static str, f64)> {
        let Some(all) = self.values.get(&(work.to_owned(), peer.to_owned())) else { return Vec::new() };
        let Some(first) = all.first() else { return Vec::new() };
        let part = |at: usize| all.iter().filter_map(|m| m.parts().get(at).map(|p| p.1)).collect::<Vec<_>>();
        first.parts().iter().enumerate().map(|(at, (unit, _))| (*unit, median(part(at)))).collect()
    }

    /// Lowest and highest of the first figure.
    pub fn range(&self, work: &str, peer: &str) -> Option<(f64, f64)> {
        let all = self.values.get(&(work.to_owned(), peer.to_owned()))?;
        let firsts: Vec<f64> = all.iter().filter_map(|m| m.parts().first().map(|p| p.1)).collect();
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
        for v in [1.0, 9.0, 2.0] {
            figures.add("w", "p", Outcome { measured: Measured::Latency(v, v * 2.0), accounted: v > 1.0 });
        }
        assert_eq!(figures.runs("w", "p"), (3, 2));
        assert_eq!(figures.runs("w", "q"), (0, 0));
        assert_eq!(figures.medians("w", "p"), [("us p50", 2.0), ("us p99", 4.0)]);
        assert_eq!(figures.range("w", "p"), Some((1.0, 9.0)));
        assert!(figures.medians("w", "q").is_empty());
    }
}
