//! What the spectator sees: a line per step, with the time since the start.

use std::time::{Duration, Instant};

use anyhow::Result;

/// The demo's clock and voice.
pub(super) struct Stage {
    start: Instant,
}

impl Stage {
    pub(super) fn open() -> Stage {
        Stage { start: Instant::now() }
    }

    /// Says what is being done.
    pub(super) fn step(&self, text: &str) {
        println!("[{:5.1}s] {text}", self.start.elapsed().as_secs_f64());
    }

    /// Says what has been shown.
    pub(super) fn shown(&self, text: &str) {
        println!("[{:5.1}s]   ok: {text}", self.start.elapsed().as_secs_f64());
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Tries `check` until it gives a value, at most `limit`.
    pub(super) fn until<T>(&self, limit: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = check()? {
                return Ok(Some(value));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
