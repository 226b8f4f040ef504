//! Grace periods: how the control thread knows that every worker has let go of something.
//!
//! Each worker counts its turns. Whatever it borrowed during a turn it has given back when the
//! count moves, so "every count has moved since I took the thing away" means nobody uses it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

#[derive(Debug, Default)]
struct Tick {
    running: AtomicBool,
    count: AtomicU64,
}

/// A turn that lasts longer than this is held up by something.
const STALL: Duration = Duration::from_millis(200);

struct Shared {
    ticks: Box<[CachePadded<Tick>]>,
    rescue: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Shared by the control thread and all workers; cheap to clone.
#[derive(Clone)]
pub struct Grace(Arc<Shared>);

impl fmt::Debug for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grace").field(&self.0.ticks).finish()
    }
}

/// A worker's end: it ticks once per turn, holding nothing.
#[derive(Debug)]
pub struct Ticker {
    grace: Grace,
    index: usize,
}

impl Grace {
    /// For `workers` workers, none of them running yet.
    pub fn new(workers: usize) -> Grace {
        let ticks = (0..workers).map(|_| CachePadded::default()).collect();
        Grace(Arc::new(Shared { ticks, rescue: OnceLock::new() }))
    }

    /// Names what [`Grace::wait`] calls, again and again, while a turn it waits for does not end: the one
    /// who waits is the one who could otherwise help. Only the first call counts.
    pub fn on_stall(&self, rescue: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.rescue.set(Box::new(rescue));
    }

    /// The ticker of worker `index`, which counts as running until it is dropped; `None` when there
    /// is no such worker.
    pub fn ticker(&self, index: usize) -> Option<Ticker> {
        self.0.ticks.get(index)?.running.store(true, Ordering::SeqCst);
        Some(Ticker { grace: self.clone(), index })
    }

    /// Waits until every running worker has ended the turn it was in. Call it after the change that
    /// takes something away is visible. Takes about one turn: microseconds under load, at most a
    /// nap (100 us) when idle. Never call it from a worker.
    pub fn wait(&self) {
        fence(Ordering::SeqCst);
        let before: Vec<u64> = self.0.ticks.iter().map(|t| t.count.load(Ordering::SeqCst)).collect();
        let mut since = Instant::now();
        for (tick, before) in self.0.ticks.iter().zip(before) {
            while tick.running.load(Ordering::SeqCst) && tick.count.load(Ordering::SeqCst) == before {
                std::thread::sleep(Duration::from_micros(20));
                if since.elapsed() > STALL {
                    since = Instant::now();
                    if let Some(rescue) = self.0.rescue.get() {
                        rescue();
                    }
                }
            }
        }
        fence(Ordering::SeqCst);
    }
}

impl Ticker {
    /// Ends a turn: everything borrowed during it has been given back.
    #[inline]
    pub fn tick(&self) {
        let count = &self.grace.0.ticks[self.index].count;
        // Release: what the turn read and wrote comes before; the fence orders the next turn's loads after.
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.grace.0.ticks[self.index].running.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_turn_in_flight_and_not_for_the_dead() {
        let grace = Grace::new(2);
        grace.wait();
        let ticker = grace.ticker(0).unwrap();
        let in_use = Arc::new(AtomicBool::new(true));
        let seen = in_use.clone();
        let worker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            seen.store(false, Ordering::SeqCst);
            ticker.tick();
            std::thread::sleep(Duration::from_millis(5));
        });
        grace.wait();
        assert!(!in_use.load(Ordering::SeqCst));
        worker.join().unwrap();
        grace.wait();
        assert!(grace.ticker(2).is_none());
    }

    #[test]
    fn a_turn_that_does_not_end_is_helped() {
        let grace = Grace::new(1);
        let ticker = grace.ticker(0).unwrap();
        let help = Arc::new(AtomicBool::new(false));
        let called = help.clone();
        grace.on_stall(move || called.store(true, Ordering::SeqCst));
        let worker = std::thread::spawn(move || {
            while !help.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            ticker.tick();
            ticker
        });
        grace.wait();
        worker.join().unwrap();
    }
}
