//! Two workers on two cores, against one.
//!
//! ```text
//!  cpu 0:  offer 16 bursts | wait | 16 turns of worker 0 | wait | ...        what is timed is the span from the first
//!  cpu 1:  offer 16 bursts | wait | 16 turns of worker 1 | wait | ...        turn's begin to the last turn's end
//! ```
//!
//! There is no core left for a generator. So each worker's thread plays its guests itself, between batches of turns: both
//! workers forward at the same time, and nobody generates meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::{BURST, Snapshot, Worker, Workers};
use portgroups::VlanMode;

use crate::guests::{Guest, Spec, accounted, port};
use crate::lines::pin;
use crate::side::median;

/// Turns, and bursts, of a batch.
const TURNS: usize = 16;
/// Descriptors of a ring: two workers' batches find room in one.
const RING: u16 = 1024;
/// What a thread that runs into a stop would wait for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Each worker has a pair of ports of its own.
    Disjoint,
    /// The senders of both send to one port.
    Common,
    /// Each worker is of a switch of its own: what the machine itself allows.
    Apart,
}

/// Million frames per second of the time in the workers, and whether every frame was accounted for.
pub fn measure(work: Work, workers: usize, frame: usize, seconds: f64) -> (f64, bool) {
    let sites: Vec<Site> = match work {
        Work::Apart => (0..workers).map(|_| Site::new(Work::Disjoint, 1, frame)).collect(),
        _ => vec![Site::new(work, workers, frame)],
    };
    let gate = Gate { waiting: AtomicUsize::new(0), count: workers, stop: AtomicBool::new(false) };
    let spans: Vec<Vec<(Instant, Instant, usize)>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|index| {
                let (site, local) = if work == Work::Apart { (&sites[index], 0) } else { (&sites[0], index) };
                let gate = &gate;
                scope.spawn(move || site.run(local, index, gate, seconds))
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a worker's thread")).collect()
    });
    let batches = spans.iter().map(Vec::len).min().unwrap_or(0);
    // The first half warms up.
    let rates = (batches / 2..batches).map(|n| {
        let parts = || spans.iter().map(|s| s[n]);
        let (Some(start), Some(end)) = (parts().map(|p| p.0).min(), parts().map(|p| p.1).max()) else {
            return f64::NAN;
        };
        parts().map(|p| p.2).sum::<usize>() as f64 / (end - start).as_nanos() as f64 * 1000.0
    });
    (median(rates.collect()), sites.into_iter().all(Site::accounted))
}

/// A switch, its guests and its workers.
struct Site {
    work: Work,
    workers: Vec<Mutex<Option<Worker>>>,
    /// By number; a worker's sender is twice its own.
    guests: Vec<Mutex<Guest>>,
}

impl Site {
    fn new(work: Work, count: usize, frame: usize) -> Site {
        let workers = Workers::new(count, Snapshot::new(Vec::new(), 1500));
        // With one worker the same ports are there, and those of the other are silent.
        let (entries, guests): (Vec<_>, Vec<_>) = (0..4u16)
            .map(|index| {
                port(&Spec {
                    index,
                    peer: if work == Work::Common { 1 } else { index ^ 1 },
                    // Where there is one destination there is one port group; else each pair has its own.
                    vlan: VlanMode::Vst(if work == Work::Common { 10 } else { 10 + index / 2 }),
                    learning: false,
                    worker: usize::from(index / 2) % count,
                    workers: count,
                    ring: RING,
                    frame,
                    stations: 1,
                })
            })
            .unzip();
        workers.publish(Snapshot::new(entries, 1500));
        let workers = (0..count).map(|n| Mutex::new(workers.worker(n))).collect();
        Site { work, workers, guests: guests.into_iter().map(Mutex::new).collect() }
    }

    /// Plays worker `local` and its guests on `cpu`, with the others behind the gate. Returns begin, end and frames of
    /// each batch.
    fn run(&self, local: usize, cpu: usize, gate: &Gate, seconds: f64) -> Vec<(Instant, Instant, usize)> {
        pin(cpu);
        let (started, mut batches) = (Instant::now(), Vec::new());
        // On this thread's stack, where the switch has its workers, too.
        let mut worker = self.workers[local].lock().expect("nobody panicked").take().expect("nobody else's");
        let sender = 2 * local;
        let receiver = if self.work == Work::Common { 1 } else { sender + 1 };
        loop {
            if local == 0 || self.work != Work::Common {
                self.guests[receiver].lock().expect("nobody panicked").receive();
            }
            self.guests[sender].lock().expect("nobody panicked").send((TURNS * BURST) as u16, None);
            if cpu == 0 && started.elapsed().as_secs_f64() > seconds {
                gate.stop.store(true, Ordering::Relaxed);
            }
            gate.pass();
            let begin = Instant::now();
            let frames = (0..TURNS).map(|_| worker.turn()).sum();
            batches.push((begin, Instant::now(), frames));
            // Looked at between the gates, where nobody sets it: all leave after the same batch.
            let last = gate.stop.load(Ordering::Relaxed);
            gate.pass();
            if last {
                return batches;
            }
        }
    }

    fn accounted(self) -> bool {
        let mut guests: Vec<Guest> =
            self.guests.into_iter().map(|g| g.into_inner().expect("nobody panicked")).collect();
        guests.iter_mut().for_each(Guest::receive);
        let [sent, received] = [|g: &Guest| g.sent, |g: &Guest| g.received].map(|f| guests.iter().map(f).sum::<u64>());
        sent == received && accounted(&guests)
    }
}

/// Nobody passes before all are there.
struct Gate {
    waiting: AtomicUsize,
    count: usize,
    stop: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        let round = self.waiting.fetch_add(1, Ordering::AcqRel) / self.count;
        let since = Instant::now();
        while self.waiting.load(Ordering::Acquire) < (round + 1) * self.count {
            std::hint::spin_loop();
            assert!(since.elapsed() < PATIENCE, "the other worker's thread is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_work_loses_a_frame() {
        for (work, workers) in [(Work::Disjoint, 1), (Work::Disjoint, 2), (Work::Common, 2), (Work::Apart, 2)] {
            let (rate, whole) = measure(work, workers, 60, 0.05);
            assert!(rate > 0.0 && whole, "{work:?} with {workers}: {rate}");
        }
    }
}
