//! Grace periods: how the control thread knows that every worker has let go of something.
//!
//! Each worker counts its turns. Whatever it borrowed during a turn it has given back when the
//! count moves, so "every count has moved since I took the thing away" means nobody uses it. A worker that sleeps
//! holds nothing either; [`Grace::wake`] gets it up to look at what has changed.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

/// Working: takes things up and gives them back.
const AWAKE: u8 = 0;
/// About to sleep: looks around once more, and wants to be woken for what it may not have seen.
const DROWSY: u8 = 1;
/// Holds nothing until woken.
const ASLEEP: u8 = 2;

#[derive(Debug)]
struct Tick {
    running: AtomicBool,
    count: AtomicU64,
    bed: AtomicU8,
    /// Wakes a sleeper; `None` where the system gave none, and then the worker does not sleep.
    bell: Option<OwnedFd>,
}

impl Tick {
    fn new() -> Tick {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        Tick { running: AtomicBool::new(false), count: AtomicU64::new(0), bed: AtomicU8::new(AWAKE), bell }
    }
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
        let ticks = (0..workers).map(|_| CachePadded::new(Tick::new())).collect();
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

    /// Gets sleeping workers up, to look at something that has changed: a new snapshot, a card that its driver
    /// started, a descriptor that was replaced. Call it after the change is visible. Costs nothing while they are awake.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        for tick in &self.0.ticks {
            if tick.bed.load(Ordering::SeqCst) != AWAKE
                && let Some(bell) = &tick.bell
            {
                // Fails only when the counter is full, and then it is readable as well.
                let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
            }
        }
    }

    /// Waits until every running worker has ended the turn it was in, or sleeps. Call it after the change that
    /// takes something away is visible. Takes about one turn: microseconds under load, at most a
    /// nap (100 us) when idle. Never call it from a worker.
    pub fn wait(&self) {
        fence(Ordering::SeqCst);
        let before: Vec<u64> = self.0.ticks.iter().map(|t| t.count.load(Ordering::SeqCst)).collect();
        let mut since = Instant::now();
        for (tick, before) in self.0.ticks.iter().zip(before) {
            let in_turn = || {
                tick.running.load(Ordering::SeqCst)
                    && tick.bed.load(Ordering::SeqCst) != ASLEEP
                    && tick.count.load(Ordering::SeqCst) == before
            };
            while in_turn() {
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
        let count = &self.mine().count;
        // Release: what the turn read and wrote comes before; the fence orders the next turn's loads after.
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// From now on [`Grace::wake`] rings. What the worker looks at after this call and finds unchanged will wake it
    /// when it changes. Returns what rings, or `None` when there is no way to be woken.
    pub(crate) fn lie_down(&self) -> Option<BorrowedFd<'_>> {
        let bell = self.mine().bell.as_ref()?;
        self.mine().bed.store(DROWSY, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Some(bell.as_fd())
    }

    /// The worker holds nothing and will not look at anything before [`Ticker::get_up`].
    pub(crate) fn close_eyes(&self) {
        self.mine().bed.store(ASLEEP, Ordering::SeqCst);
    }

    /// Awake again, whether it slept or not.
    pub(crate) fn get_up(&self) {
        self.mine().bed.store(AWAKE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(bell) = &self.mine().bell {
            let _ = rustix::io::read(bell, &mut [0u8; 8]);
        }
    }

    fn mine(&self) -> &Tick {
        &self.grace.0.ticks[self.index]
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
    fn a_sleeper_is_not_waited_for_and_is_woken() {
        let grace = Grace::new(1);
        let ticker = grace.ticker(0).unwrap();
        let bell = ticker.lie_down().unwrap();
        let rings = |patience: i64| {
            let limit = rustix::event::Timespec { tv_sec: patience, tv_nsec: 0 };
            let mut fds = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&limit)).unwrap() == 1
        };
        ticker.close_eyes();
        grace.wait();
        assert!(!rings(0));
        grace.wake();
        assert!(rings(5));
        ticker.get_up();
        assert!(!rings(0), "a bell that rang is silent after getting up");
        grace.wake();
        assert!(!rings(0), "who is awake needs no bell");
        grace.wait_would_block_for_tests(&ticker);
    }

    impl Grace {
        /// An awake worker is waited for: shown by a thread that only returns after the tick.
        fn wait_would_block_for_tests(&self, ticker: &Ticker) {
            let (grace, done) = (self.clone(), Arc::new(AtomicBool::new(false)));
            let told = done.clone();
            let waiter = std::thread::spawn(move || {
                grace.wait();
                told.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(10));
            assert!(!done.load(Ordering::SeqCst));
            while !done.load(Ordering::SeqCst) {
                ticker.tick();
            }
            waiter.join().unwrap();
        }
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
