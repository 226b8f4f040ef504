//! Interrupt moderation: how much has to be told before a vector is raised, or how long it waits.
//!
//! A driver of revision 3 chooses a scheme (`Vmxnet3_CoalesceScheme` in Linux's `vmxnet3_defs.h`, set by
//! `ethtool -C`): none, adaptive (what a card does that is told nothing), so many completions per interrupt, or
//! so many interrupts per second. Adaptive leaves it to the drivers' own masks: a guest that is behind keeps its vector
//! masked while it polls, so interrupts become rare by themselves.
//!
//! What is held back is remembered, and given out when its time has come by the worker that polls transmit queue 0.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::shared_area::MAX_VECTORS;

/// Bytes of a scheme in memory: mode and three parameters.
pub const SCHEME_LEN: u32 = 16;
/// Most completions per interrupt (`VMXNET3_COAL_STATIC_MAX_DEPTH`).
const MAX_DEPTH: u32 = 128;
/// Interrupts per second (`VMXNET3_COAL_RBC_MIN_RATE`, `VMXNET3_COAL_RBC_MAX_RATE`).
const RATES: std::ops::RangeInclusive<u32> = 100..=100_000;
/// Longest wait for a count to be reached, in nanoseconds.
const LONGEST_WAIT: u64 = 1_000_000;

/// How interrupts are moderated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// An interrupt for each burst.
    Disabled,
    /// As the card sees fit.
    #[default]
    Adaptive,
    /// An interrupt for so many completions, or after a millisecond.
    Static {
        /// Frames before the card sends; it never waits, and only tells the number back.
        tx_depth: u32,
        /// Frames sent.
        tx: u32,
        /// Frames received.
        rx: u32,
    },
    /// At most so many interrupts per second and vector.
    Rate(u32),
}

impl Scheme {
    /// From the driver's words: mode, then parameters. `None` for an unknown mode, or parameters out of range.
    pub fn from_words(words: [u32; 4]) -> Option<Scheme> {
        match words {
            [0, ..] => Some(Scheme::Disabled),
            [1, ..] => Some(Scheme::Adaptive),
            [2, tx_depth, tx, rx] if tx.max(rx) <= MAX_DEPTH => Some(Scheme::Static { tx_depth, tx, rx }),
            [3, rate, ..] if RATES.contains(&rate) => Some(Scheme::Rate(rate)),
            _ => None,
        }
    }

    /// As the driver reads it.
    pub fn words(self) -> [u32; 4] {
        match self {
            Scheme::Disabled => [0; 4],
            Scheme::Adaptive => [1, 0, 0, 0],
            Scheme::Static { tx_depth, tx, rx } => [2, tx_depth, tx, rx],
            Scheme::Rate(rate) => [3, rate, 0, 0],
        }
    }
}

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many frames were sent.
    Sent(u32),
    /// So many frames came in.
    Received(u32),
}

#[derive(Debug, Default)]
struct Vector {
    /// Completions since the last interrupt.
    waiting: AtomicU32,
    /// When it is to be raised, or may be again, in nanoseconds.
    due: AtomicU64,
}

impl Vector {
    fn clear(&self) {
        self.waiting.store(0, Ordering::Relaxed);
        self.due.store(0, Ordering::Relaxed);
    }
}

/// The scheme in force and what it holds back; used by all threads.
#[derive(Debug)]
pub struct Moderation {
    scheme: Mutex<Scheme>,
    /// True while anything may be held back: all that the default costs is this look.
    on: AtomicBool,
    /// Completions per interrupt, sent and received; 0 without a count.
    depths: [AtomicU32; 2],
    /// Nanoseconds between two interrupts.
    interval: AtomicU64,
    /// Vectors held back, a bit each.
    held: AtomicU32,
    vectors: [Vector; MAX_VECTORS],
    start: Instant,
}

impl Moderation {
    /// The default scheme, nothing held back.
    pub fn new() -> Moderation {
        Moderation {
            scheme: Mutex::default(),
            on: AtomicBool::new(false),
            depths: Default::default(),
            interval: AtomicU64::new(0),
            held: AtomicU32::new(0),
            vectors: Default::default(),
            start: Instant::now(),
        }
    }

    /// The scheme in force.
    pub fn scheme(&self) -> Scheme {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `scheme` in force. What the old one holds back comes at once.
    pub fn set(&self, scheme: Scheme) {
        let (depths, interval) = match scheme {
            Scheme::Static { tx, rx, .. } => ([tx, rx], LONGEST_WAIT),
            Scheme::Rate(rate) => ([0, 0], 1_000_000_000 / u64::from(rate.max(1))),
            Scheme::Disabled | Scheme::Adaptive => ([0, 0], 0),
        };
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = scheme;
        for (depth, value) in self.depths.iter().zip(depths) {
            depth.store(value, Ordering::Relaxed);
        }
        self.interval.store(interval, Ordering::Relaxed);
        self.vectors.iter().for_each(Vector::clear);
        self.on.store(interval != 0, Ordering::Release);
    }

    /// Forgets what is held back; the scheme stays. No worker may be in the card.
    pub fn forget(&self) {
        self.held.store(0, Ordering::SeqCst);
        self.vectors.iter().for_each(Vector::clear);
    }

    /// True when `vector` is not to be raised yet; then [`Moderation::take_due`] gives it out later.
    #[inline]
    pub fn holds(&self, vector: u8, work: Work) -> bool {
        self.on.load(Ordering::Acquire) && self.decide(vector, work)
    }

    /// True when any vector is held back.
    #[inline]
    pub fn holding(&self) -> bool {
        self.held.load(Ordering::Relaxed) != 0
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn decide(&self, number: u8, work: Work) -> bool {
        let Some(vector) = self.vectors.get(usize::from(number)) else { return false };
        let (n, depth) = match work {
            Work::Sent(n) => (n, &self.depths[0]),
            Work::Received(n) => (n, &self.depths[1]),
        };
        let (depth, bit) = (depth.load(Ordering::Relaxed), 1 << number);
        let (now, interval) = (self.now(), self.interval.load(Ordering::Relaxed));
        if depth == 0 {
            // By rate; with a count for one direction only, the other has none.
            if matches!(self.depths.each_ref().map(|d| d.load(Ordering::Relaxed)), [0, 0])
                && now < vector.due.load(Ordering::Relaxed)
            {
                self.held.fetch_or(bit, Ordering::SeqCst);
                return true;
            }
            vector.due.store(now + interval, Ordering::Relaxed);
            self.held.fetch_and(!bit, Ordering::SeqCst);
            return false;
        }
        if vector.waiting.fetch_add(n, Ordering::Relaxed) + n < depth {
            if self.held.load(Ordering::Relaxed) & bit == 0 {
                vector.due.store(now + interval, Ordering::Relaxed);
                self.held.fetch_or(bit, Ordering::SeqCst);
            }
            return true;
        }
        vector.waiting.store(0, Ordering::Relaxed);
        self.held.fetch_and(!bit, Ordering::SeqCst);
        false
    }

    /// The vectors held back whose time has come, a bit each; they are not held back any longer.
    pub fn take_due(&self) -> u32 {
        let (held, now) = (self.held.load(Ordering::SeqCst), self.now());
        let interval = self.interval.load(Ordering::Relaxed);
        let mut due = 0;
        for (number, vector) in self.vectors.iter().enumerate().filter(|(n, _)| held >> n & 1 == 1) {
            if now < vector.due.load(Ordering::Relaxed) {
                continue;
            }
            vector.waiting.store(0, Ordering::Relaxed);
            vector.due.store(now + interval, Ordering::Relaxed);
            if self.held.fetch_and(!(1 << number), Ordering::SeqCst) >> number & 1 == 1 {
                due |= 1 << number;
            }
        }
        due
    }
}

#[cfg(test)]
#[path = "tests/moderation.rs"]
mod tests;
