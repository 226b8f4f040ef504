//! How far apart the machine's CPUs are, as cache lines travel.
//!
//! Virtual CPUs may run on one complex of cores now, and on two a minute later: then a line takes several times as long from one
//! to the other, and so does everything that two CPUs do together. What was measured in between is of another machine, as it were.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::side::median;

/// Round trips that are timed together, and how often: the quickest counts, for anything may come between.
const TRIPS: u32 = 1_000;
const TRIES: u32 = 5;
/// Looks for the other's answer, some nanoseconds each, before it is given up.
const PATIENCE: u32 = 100_000_000;

/// The time a cache line takes from the first CPU to the last and back; `None` where there is one CPU only, or no answer.
pub fn round_trip() -> Option<Duration> {
    let last = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
    if last == 0 {
        return None;
    }
    // Odd where it is the other's turn.
    let line = CachePadded::new(AtomicU32::new(0));
    let answer = |turn: u32| {
        let there = (0..PATIENCE).any(|_| {
            std::hint::spin_loop();
            line.load(Ordering::Acquire) == turn
        });
        line.store(turn + 1, Ordering::Release);
        there
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(last);
            (0..TRIPS * TRIES).all(|trip| answer(2 * trip + 1))
        });
        let timed = scope.spawn(|| {
            pin(0);
            let tries = (0..TRIES).map(|n| {
                let start = Instant::now();
                let there = (n * TRIPS..(n + 1) * TRIPS).all(|trip| answer(2 * trip));
                there.then(|| start.elapsed() / TRIPS)
            });
            tries.collect::<Option<Vec<_>>>()?.into_iter().min()
        });
        timed.join().ok().flatten()
    })
}

/// What several measurements, each before `what`, come to, in a sentence for a page; nothing where there are none.
pub fn sentence(trips: &[Duration], what: &str) -> String {
    let ns: Vec<f64> = trips.iter().map(|trip| trip.as_nanos() as f64).collect();
    let (Some(low), Some(high)) = (ns.iter().copied().reduce(f64::min), ns.iter().copied().reduce(f64::max)) else {
        return String::new();
    };
    let middle = median(ns);
    format!(
        " Before each {what} a cache line took {low:.0} to {high:.0} ns (median {middle:.0}) from its first CPU to its last and back."
    )
}

/// Keeps this thread on `cpu`, if there is one.
pub(crate) fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // Where there is no such CPU the figures say so.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_take_time() {
        match round_trip() {
            Some(trip) => assert!(trip > Duration::from_nanos(5), "{trip:?}"),
            None => assert_eq!(thread::available_parallelism().unwrap().get(), 1),
        }
    }

    #[test]
    fn several_are_told_by_their_range() {
        let ns = |all: &[u64]| sentence(&all.iter().map(|ns| Duration::from_nanos(*ns)).collect::<Vec<_>>(), "round");
        assert_eq!(ns(&[]), "");
        let told =
            " Before each round a cache line took 90 to 400 ns (median 100) from its first CPU to its last and back.";
        assert_eq!(ns(&[100, 400, 90]), told);
    }
}
