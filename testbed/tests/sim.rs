//! Simulated networks by seed: see `testbed::sim` for what is checked.
//!
//! * `SIM_RUNS=n` plays n seeds instead of the usual number, `SIM_FIRST=n` begins with another than seed 0.
//! * `SIM_SEED=n` replays one, in words with `-- --nocapture one_seed`.

#[path = "sim/real.rs"]
mod real;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use real::Real;
use testbed::sim::{Failure, Report, Rule, Seen, narrate, run, run_with};

/// Runs unless told otherwise.
const RUNS: u64 = 100_000;
/// Runs with the real data path.
const REAL: u64 = 150;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What became of many seeds.
#[derive(Default)]
struct Outcome {
    seen: Seen,
    /// Failures, the lowest seeds first, so many at most.
    failures: Vec<Failure>,
    failed: u64,
}

/// Failures kept.
const KEPT: usize = 20;

impl Outcome {
    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        let place = self.failures.partition_point(|f| f.seed < failure.seed);
        self.failures.insert(place, failure);
        self.failures.truncate(KEPT);
    }

    /// One line for each failure, and all of the first one.
    fn sentence(&self) -> String {
        let lines = self.failures.iter().map(|f| format!("seed {}: {}\n", f.seed, f.what)).collect::<String>();
        let first = self.failures.first().map_or(String::new(), |f| f.to_string());
        format!("{first}\n\n{} seeds failed, among them\n{lines}", self.failed)
    }
}

/// Plays a seed; a panic is a failure of that seed too.
fn caught(seed: u64) -> Result<Report, Box<Failure>> {
    std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let what = format!("panics: {}", words.unwrap_or_default());
        Err(Box::new(Failure { seed, at: 0, what, lines: Vec::new() }))
    })
}

/// Plays so many seeds from `first` on, on all CPUs.
fn play(first: u64, runs: u64) -> Outcome {
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Outcome::default());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs {
                break;
            }
            match caught(seed) {
                Ok(report) => seen.add(&report.seen),
                Err(failure) => sum.lock().unwrap().fail(*failure),
            }
        }
        sum.lock().unwrap().seen.add(&seen);
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    sum.into_inner().unwrap()
}

#[test]
fn many_seeds() {
    let runs = number("SIM_RUNS").unwrap_or(RUNS);
    let outcome = play(number("SIM_FIRST").unwrap_or(0), runs);
    assert_eq!(outcome.failed, 0, "{}", outcome.sentence());
    let seen = outcome.seen;
    println!("{seen:#?}");
    assert_eq!(seen.runs, runs);
    // What was to be checked did occur.
    for rule in [Rule::Links, Rule::Whole, Rule::Split, Rule::Tie, Rule::Filtered] {
        assert!(seen.by(rule) * 50 > runs, "{rule:?} in {} of {runs} runs", seen.by(rule));
    }
    for (what, count) in [
        ("shotgun", seen.shotgun),
        ("failed uplinks", seen.failed),
        ("deliveries", seen.delivered),
        ("moves", seen.moves),
        ("hostile frames", seen.hostile),
    ] {
        assert!(count * 20 > runs, "{what}: {count} in {runs} runs");
    }
    // Of several cuts at once beacons tell one after the other; who waits for all is seldom wrong in between.
    assert!(seen.hasty * 20 < runs, "{} healthy uplinks failed for a while in {runs} runs", seen.hasty);
}

#[test]
fn a_seed_gives_the_same_events_again() {
    for seed in 0..20 {
        let (first, told) = narrate(seed).unwrap_or_else(|failure| panic!("{failure}"));
        let (again, told_again) = narrate(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(told, told_again, "seed {seed}");
        assert_eq!(first, again);
        assert_eq!(run(seed).unwrap_or_else(|failure| panic!("{failure}")), first, "without words too");
    }
}

/// The real admission, resolution and workers in the place of the model: every event is the same.
#[test]
fn the_data_path_does_what_its_model_says() {
    for seed in 0..number("SIM_REAL").unwrap_or(REAL) {
        let model = run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        let real = run_with(seed, Real::new).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(real, model, "seed {seed}");
    }
}

#[test]
fn one_seed() {
    let Some(seed) = number("SIM_SEED") else { return };
    match narrate(seed) {
        Ok((report, told)) => println!("{}\n{report:#?}", told.join("\n")),
        Err(failure) => panic!("{}\n{failure}", failure.lines.join("\n")),
    }
}
