//! What happened, as one number, and in words where somebody wants to read it.

use super::Time;

/// All events of a run in order.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Nothing yet. With `words` every event is kept in words too.
    pub fn new(words: bool) -> Trace {
        // FNV-1a's offset basis (Fowler, Noll, Vo), over 64-bit words.
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: words.then(Vec::new) }
    }

    /// Adds an event: what it is, to whom, and how it reads.
    pub fn add(&mut self, at: Time, kind: u8, whom: u64, words: impl FnOnce() -> String) {
        for word in [at, u64::from(kind), whom] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            let words = words();
            if !words.is_empty() {
                lines.push(format!("{:>12.3} ms  {words}", at as f64 / 1e6));
            }
        }
    }

    /// One number for all of them: another order, time or event gives another one.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// In words, if asked for.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
