//! Which of its queues a worker looks at in a turn: those that gave frames lately every time, the others in rounds.
//!
//! ```text
//!  | hot: every turn | warm: all within ROUND turns | cold: all within LONG_ROUND turns |
//!         <--- frames ---        <--- frames ---
//!          -- BARREN looks -->    -- COOLED turns -->
//! ```
//! A look at a silent queue costs what the cache must bring of it; with many of them that is more than the frames of the
//! busy ones do. A queue that gives a frame now and then stays warm, and waits little; one that was silent for long waits
//! longer for its first frame, while others keep the worker busy. A worker that has rested looks at all of them: what came
//! meanwhile has waited long enough.

/// Looks in a row that find nothing, after which a queue is no longer looked at in every turn.
const BARREN: u32 = 64;
/// Turns without a frame after which a queue is cold: about a tenth of a second of a busy worker's time.
const COOLED: u32 = 1 << 16;
/// Every warm queue is looked at once in so many turns, however many there are.
const ROUND: usize = 96;
/// The same of cold ones.
const LONG_ROUND: usize = 512;
/// While others are hot, warm ones are looked at once in so many turns, as many more at once: a turn that finds nothing is
/// what the next frame of a hot queue waits for.
const WARM_TOGETHER: usize = 2;
/// The same of cold ones: what has to be brought for each comes together.
const COLD_TOGETHER: usize = 4;

struct Entry<T> {
    queue: T,
    /// Looks in a row that found nothing.
    barren: u32,
    /// The turn that found something last.
    fruitful: u32,
}

/// Queues in their order: the hot ones, then the warm ones, then the cold ones.
pub(crate) struct Rota<T> {
    entries: Vec<Entry<T>>,
    hot: usize,
    /// Where the cold ones begin.
    cold: usize,
    /// Which warm one, and which cold one, was looked at last.
    warm_at: usize,
    cold_at: usize,
    turn: u32,
}

impl<T> Default for Rota<T> {
    fn default() -> Self {
        Rota { entries: Vec::new(), hot: 0, cold: 0, warm_at: 0, cold_at: 0, turn: 0 }
    }
}

impl<T> Rota<T> {
    /// The queues, in the order of now.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.queue)
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.queue)
    }

    /// Queue `at` in the order of now.
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.entries.get_mut(at).map(|entry| &mut entry.queue)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes all out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(self).entries.into_iter().map(|entry| entry.queue)
    }

    /// Adds one. All count as used lately until shown otherwise.
    pub(crate) fn add(&mut self, queue: T) {
        self.entries.push(Entry { queue, barren: 0, fruitful: self.turn });
        (self.hot, self.cold) = (self.entries.len(), self.entries.len());
    }

    /// One turn: looks at those whose turn it is by `look`, which tells how many frames it found. Returns their sum.
    #[inline]
    pub(crate) fn turn(&mut self, mut look: impl FnMut(&mut T) -> usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        let (mut frames, mut at) = (0, 0);
        while at < self.hot {
            let n = self.look(at, &mut look);
            frames += n;
            if n == 0 && self.entries[at].barren >= BARREN {
                self.hot -= 1;
                self.entries.swap(at, self.hot);
            } else {
                at += 1;
            }
        }
        let turn = self.turn as usize;
        let together = if self.hot == 0 { 1 } else { WARM_TOGETHER };
        if self.hot < self.cold && turn.is_multiple_of(together) {
            frames += self.warm_round(together, &mut look);
        }
        // In other turns than the warm ones, as long as these have turns of their own.
        if self.cold < self.entries.len() && turn % COLD_TOGETHER == 1 {
            frames += self.cold_round(&mut look);
        }
        frames
    }

    /// A turn after a rest: looks at every queue.
    pub(crate) fn sweep(&mut self, mut look: impl FnMut(&mut T) -> usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        let mut frames = 0;
        for at in 0..self.entries.len() {
            let n = self.look(at, &mut look);
            frames += n;
            // What comes to stand here instead was looked at before.
            match at {
                _ if n == 0 || at < self.hot => {}
                _ if at < self.cold => self.heat(at),
                _ => self.thaw(at),
            }
        }
        frames
    }

    /// The part of a turn that looks at some warm ones.
    #[inline(never)]
    fn warm_round(&mut self, together: usize, look: &mut impl FnMut(&mut T) -> usize) -> usize {
        let mut frames = 0;
        for _ in 0..((self.cold - self.hot) * together).div_ceil(ROUND) {
            // Queues change places as they warm up and cool; one that is missed so is met a round later.
            self.warm_at = next(self.warm_at, self.hot, self.cold);
            let n = self.look(self.warm_at, look);
            frames += n;
            if n > 0 {
                self.heat(self.warm_at);
            } else if self.turn.wrapping_sub(self.entries[self.warm_at].fruitful) > COOLED {
                self.cold -= 1;
                self.entries.swap(self.warm_at, self.cold);
            }
            if self.hot == self.cold {
                break;
            }
        }
        frames
    }

    /// The part of a turn that looks at some cold ones.
    #[inline(never)]
    fn cold_round(&mut self, look: &mut impl FnMut(&mut T) -> usize) -> usize {
        let mut frames = 0;
        for _ in 0..((self.entries.len() - self.cold) * COLD_TOGETHER).div_ceil(LONG_ROUND) {
            self.cold_at = next(self.cold_at, self.cold, self.entries.len());
            let n = self.look(self.cold_at, look);
            frames += n;
            if n > 0 {
                self.thaw(self.cold_at);
            }
            if self.cold == self.entries.len() {
                break;
            }
        }
        frames
    }

    /// Makes the cold queue `at` hot.
    fn thaw(&mut self, at: usize) {
        self.entries.swap(at, self.cold);
        self.cold += 1;
        self.heat(self.cold - 1);
    }

    /// Makes the warm queue `at` hot.
    fn heat(&mut self, at: usize) {
        self.entries.swap(at, self.hot);
        self.hot += 1;
    }

    #[inline(always)]
    fn look(&mut self, at: usize, look: &mut impl FnMut(&mut T) -> usize) -> usize {
        let entry = &mut self.entries[at];
        let frames = look(&mut entry.queue);
        if frames > 0 {
            (entry.barren, entry.fruitful) = (0, self.turn);
        } else {
            entry.barren = entry.barren.saturating_add(1);
        }
        frames
    }
}

/// The place after `at` in `first..end`, which is not empty.
fn next(at: usize, first: usize, end: usize) -> usize {
    if at + 1 < end { (at + 1).max(first) } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue: what it holds, and how often it was looked at.
    #[derive(Clone, Copy, Default)]
    struct Queue {
        number: usize,
        frames: usize,
        looks: usize,
    }

    fn rota(count: usize) -> Rota<Queue> {
        let mut rota = Rota::default();
        (0..count).for_each(|number| rota.add(Queue { number, ..Queue::default() }));
        rota
    }

    /// A turn in which the queues `busy` have a frame.
    fn turn(rota: &mut Rota<Queue>, busy: &[usize]) -> usize {
        rota.turn(|queue| {
            queue.looks += 1;
            std::mem::take(&mut queue.frames) + usize::from(busy.contains(&queue.number))
        })
    }

    /// Turns until queue `number` gives the frame that is put there now, while queue 0 is busy.
    fn wait(rota: &mut Rota<Queue>, number: usize) -> usize {
        rota.iter_mut().filter(|queue| queue.number == number).for_each(|queue| queue.frames = 1);
        (1..10_000).find(|_| turn(rota, &[0]) == 2).unwrap()
    }

    /// Nobody is forgotten, however the queues change their places; how long a frame waits has a bound, and a shorter one
    /// where there was another not long before.
    #[test]
    fn frames_wait_as_long_as_was_said() {
        for count in [2, 3, 60, 200, 1024] {
            let mut rota = rota(count);
            assert_eq!(wait(&mut rota, count - 1), 1, "all are hot at first");
            (0..1000).for_each(|_| _ = turn(&mut rota, &[0]));
            let some = || (1..count).step_by(count.div_ceil(40));
            let warm: Vec<usize> = some().map(|number| wait(&mut rota, number)).collect();
            // A queue that changes its place may be missed for a round.
            assert!(warm.iter().all(|turns| *turns <= 2 * ROUND), "{count}: {:?}", warm.iter().max());
            (0..2 * COOLED).for_each(|_| _ = turn(&mut rota, &[0]));
            let cold: Vec<usize> = some().map(|number| wait(&mut rota, number)).collect();
            assert!(cold.iter().all(|turns| *turns <= 2 * LONG_ROUND), "{count}: {:?}", cold.iter().max());
        }
    }

    /// Whatever class they are in, all queues are looked at once, and those that gave something are hot afterwards.
    #[test]
    fn after_a_rest_every_queue_is_looked_at() {
        let mut rota = rota(300);
        for (round, speakers) in [vec![299], vec![0, 7, 150, 299], (0..300).collect()].iter().enumerate() {
            (0..(round as u32 + 1) * COOLED).for_each(|_| _ = turn(&mut rota, &[0, 1]));
            rota.iter_mut().for_each(|queue| queue.looks = 0);
            let found = rota.sweep(|queue| {
                queue.looks += 1;
                usize::from(speakers.contains(&queue.number))
            });
            assert_eq!(found, speakers.len());
            assert!(rota.iter().all(|queue| queue.looks == 1));
            assert_eq!(turn(&mut rota, speakers), speakers.len(), "each was looked at in the next turn");
        }
    }

    #[test]
    fn silent_queues_cost_few_looks() {
        let mut rota = rota(1024);
        (0..2 * COOLED).for_each(|_| _ = turn(&mut rota, &[0]));
        let looks = |rota: &Rota<Queue>| rota.iter().map(|queue| queue.looks).sum::<usize>();
        let before = looks(&rota);
        (0..1000).for_each(|_| assert_eq!(turn(&mut rota, &[0]), 1));
        assert_eq!(looks(&rota) - before, 1000 * (1 + 2));
    }

    #[test]
    fn one_that_speaks_now_and_then_stays_warm() {
        let mut rota = rota(300);
        (0..2 * COOLED).for_each(|_| _ = turn(&mut rota, &[0]));
        wait(&mut rota, 7);
        for _ in 0..10 {
            (0..COOLED / 4).for_each(|_| _ = turn(&mut rota, &[0]));
            assert!(wait(&mut rota, 7) <= ROUND);
        }
    }
}
