//! What a run tells.

use std::fmt;

use super::{Rule, Time};

/// How often something was seen, over one run or many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Runs.
    pub runs: u64,
    /// Beacons that our uplinks sent, and those that came in by them.
    pub beacons: (u64, u64),
    /// Faults, and mends.
    pub changes: u64,
    /// Times that a team was found settled, by rule: links, whole, split, tie, filtered.
    pub settled: [u64; 5],
    /// Of these, with shotgun.
    pub shotgun: u64,
    /// Times that an uplink was failed by its beacons, as it had to be.
    pub failed: u64,
    /// Uplinks failed for a while, within the time to settle, that the rules never failed.
    pub hasty: u64,
    /// Times that nothing was promised, because beacons got lost without end.
    pub grave: u64,
    /// Pairs of a guest and a host that were found to reach each other exactly once.
    pub delivered: u64,
    /// Frames that guests and hosts got in all.
    pub frames: u64,
    /// Moves of a guest from one uplink to another.
    pub moves: u64,
    /// Second copies for guests of frames that the physical network sent everywhere, not knowing where the guest is.
    pub flooded: u64,
    /// Second copies for guests in shotgun whose VLAN had just been whole again.
    pub healing: u64,
    /// Strangers', forged, damaged and replayed beacons sent.
    pub hostile: u64,
    /// Longest time to the last move after a change, in thousandths of `interval x (threshold + 2)`.
    pub slowest: u64,
}

impl Seen {
    /// Both together.
    pub fn add(&mut self, other: &Seen) {
        self.runs += other.runs;
        self.beacons.0 += other.beacons.0;
        self.beacons.1 += other.beacons.1;
        self.changes += other.changes;
        self.settled.iter_mut().zip(other.settled).for_each(|(sum, n)| *sum += n);
        self.shotgun += other.shotgun;
        self.failed += other.failed;
        self.hasty += other.hasty;
        self.grave += other.grave;
        self.delivered += other.delivered;
        self.frames += other.frames;
        self.moves += other.moves;
        self.flooded += other.flooded;
        self.healing += other.healing;
        self.hostile += other.hostile;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// Times that a team was found settled by `rule`.
    pub fn by(&self, rule: Rule) -> u64 {
        self.settled[rule as usize]
    }
}

/// A run in which everything held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// One number for all its events in order.
    pub trace: u64,
    /// How many these were.
    pub events: u64,
    /// How long it was.
    pub time: Time,
    /// What was seen.
    pub seen: Seen,
}

/// What went wrong first in a run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When.
    pub at: Time,
    /// What.
    pub what: String,
    /// The configuration and network, and the events before it, in words.
    pub lines: Vec<String>,
}

/// Events told with a failure.
const TOLD: usize = 80;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.lines.len().saturating_sub(TOLD);
        self.lines[told..].iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "seed {}: at {:.3} ms: {}", self.seed, self.at as f64 / 1e6, self.what)?;
        write!(
            f,
            "replay it: SIM_SEED={} cargo test --release -p vswitch-testbed --test sim one_seed -- --nocapture",
            self.seed
        )
    }
}

impl std::error::Error for Failure {}
