//! What can be set, and the times that follow from it.

use std::time::Duration;

/// Uplinks that one switch probes.
pub const MAX_UPLINKS: usize = 32;
/// Shortest time between two beacons of an uplink on a VLAN.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time between two beacons of an uplink on a VLAN.
pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Largest threshold.
pub const MAX_THRESHOLD: u32 = 100;

/// How to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Time between two beacons of an uplink on a VLAN.
    pub interval: Duration,
    /// Beacons missed in a row that make a path dead.
    pub threshold: u32,
    /// Whether a tie asks for frames to leave by all uplinks. Without it the order stays as it is.
    pub shotgun: bool,
    /// Beacons heard in a row that end a failure. At most `threshold + 1` count, for more would keep a healthy
    /// uplink out of use beyond `interval x (threshold + 2)`.
    pub hysteresis: u32,
    /// VLANs probed at most (ESX: `MaxBeaconVlans`, 100).
    pub max_vlans: usize,
    /// Beacons sent at most by one call of [`crate::Prober::poll`] (ESX: `MaxBeaconsAtOnce`, 100).
    pub max_per_poll: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            interval: Duration::from_secs(1),
            threshold: 3,
            shotgun: true,
            hysteresis: 3,
            max_vlans: 100,
            max_per_poll: 100,
        }
    }
}

/// What cannot be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The interval is outside the bounds.
    #[error("beacon interval {0:?} is outside 10ms to 60s")]
    Interval(Duration),
    /// The threshold is outside the bounds.
    #[error("beacon threshold {0} is outside 1 to 100")]
    Threshold(u32),
    /// A number that must be at least one is zero.
    #[error("beacon {0} is 0 and must be at least 1")]
    Zero(&'static str),
    /// Too many uplinks.
    #[error("{0} uplinks are to be probed and at most 32 can be")]
    Uplinks(usize),
    /// One number for two uplinks.
    #[error("uplink number {0} is given twice")]
    Twice(u16),
}

impl Config {
    /// Says what is out of bounds.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&self.interval) {
            return Err(ConfigError::Interval(self.interval));
        }
        if !(1..=MAX_THRESHOLD).contains(&self.threshold) {
            return Err(ConfigError::Threshold(self.threshold));
        }
        let numbers = [
            ("hysteresis", self.hysteresis as usize),
            ("max_vlans", self.max_vlans),
            ("max_per_poll", self.max_per_poll),
        ];
        numbers.into_iter().find(|(_, n)| *n == 0).map_or(Ok(()), |(name, _)| Err(ConfigError::Zero(name)))
    }

    pub(crate) fn timing(&self) -> Timing {
        let interval = self.interval;
        // At least what a timer of one millisecond and a scheduler cost twice over, even at 10 ms.
        let jitter = (interval / 8).max((interval / 4).min(Duration::from_micros(2500)));
        let window = interval * self.threshold + jitter;
        Timing {
            interval,
            slots: (interval.as_millis() as u32).clamp(1, 32),
            jitter,
            window,
            stale: window - interval,
            gap: interval + 2 * jitter,
            hold: interval + jitter,
            patience: interval * (self.threshold + 1),
            rounds: self.hysteresis.min(self.threshold + 1),
        }
    }

    /// How long an uplink or VLAN is probed before anything is said about it, and how long a path is taken to
    /// live after the last beacon: `interval x threshold` and the tolerance for jitter.
    pub fn window(&self) -> Duration {
        self.timing().window
    }
}

/// Times derived from the configuration; see the crate's page for what each is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) interval: Duration,
    /// Parts of an interval: beacons leave and verdicts are formed at their starts.
    pub(crate) slots: u32,
    /// Lateness of sending, travel and reception that is taken for nothing: half for our own thread, half for
    /// the network.
    pub(crate) jitter: Duration,
    /// Age of the last beacon at which an edge dies.
    pub(crate) window: Duration,
    /// Age at which an edge may be dying of the cut that killed another one first: beacons of one round leave
    /// within one interval. With a threshold of 1 that is nearly every edge, so every change waits for `hold`.
    pub(crate) stale: Duration,
    /// Longest time between two beacons of which none was lost in between.
    pub(crate) gap: Duration,
    /// How long a change for the worse waits at most while edges are still coming or going.
    pub(crate) hold: Duration,
    /// How long leaving a tie or a filtered state waits at most for proven edges.
    pub(crate) patience: Duration,
    /// Beacons in a row that prove an edge.
    pub(crate) rounds: u32,
}
