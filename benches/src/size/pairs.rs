//! Two workers on two cores, against one.
//!
//! ```text
//!  cpu 0:  offer 16 bursts | wait | 16 turns of worker 0 | wait | ...        what is timed is the turns of each worker
//!  cpu 1:  offer 16 bursts | wait | 16 turns of worker 1 | wait | ...        by themselves, and the span of both at work
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

/// How fast the workers were.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Million frames per second of the time in the workers: of what each forwarded in its own time, the sum.
    pub rate: f64,
    /// The part of a batch, from the first's begin to the last's end, in which all were at work: one that waits at the
    /// gate forwards nothing, and one that works while the other waits has the machine to itself.
    pub together: f64,
    /// True when every frame was accounted for.
    pub accounted: bool,
}

/// What `workers` workers carry of `work`, frames of `frame` bytes without the CRC.
pub fn measure(work: Work, workers: usize, frame: usize, seconds: f64) -> Pace {
    let sites: Vec<Site> = match work {
        Work::Apart => (0..workers).map(|_| Site::new(Work::Disjoint, 1, frame)).collect(),
        _ => vec![Site::new(work, workers, frame)],
    };
    let gate = Gate { waiting: AtomicUsize::new(0), count: workers, stop: AtomicBool::new(false) };
    let spans: Vec<Vec<Batch>> = thread::scope(|scope| {
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
    let of = |what: fn(&[Batch]) -> f64| {
        median((batches / 2..batches).map(|n| what(&spans.iter().map(|s| s[n]).collect::<Vec<_>>())).collect())
    };
    Pace { rate: of(rate), together: of(together), accounted: sites.into_iter().all(Site::accounted) }
}

/// One worker's turns between two gates.
#[derive(Clone, Copy, Debug)]
struct Batch {
    begin: Instant,
    end: Instant,
    frames: usize,
}

/// Million frames per second: the sum of what each worker forwarded in its own time.
fn rate(batches: &[Batch]) -> f64 {
    batches.iter().map(|b| b.frames as f64 / (b.end - b.begin).as_nanos() as f64 * 1000.0).sum()
}

/// The part of the time from the first's begin to the last's end in which all were at work.
fn together(batches: &[Batch]) -> f64 {
    let begins = || batches.iter().map(|b| b.begin);
    let ends = || batches.iter().map(|b| b.end);
    let span = |from: Option<Instant>, to: Option<Instant>| {
        from.zip(to).map_or(f64::NAN, |(from, to)| to.saturating_duration_since(from).as_nanos() as f64)
    };
    span(begins().max(), ends().min()) / span(begins().min(), ends().max())
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

    /// Plays worker `local` and its guests on `cpu`, with the others behind the gate.
    fn run(&self, local: usize, cpu: usize, gate: &Gate, seconds: f64) -> Vec<Batch> {
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
            batches.push(Batch { begin, end: Instant::now(), frames });
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
            let pace = measure(work, workers, 60, 0.05);
            assert!(pace.rate > 0.0 && pace.accounted, "{work:?} with {workers}: {pace:?}");
        }
    }

    #[test]
    fn each_worker_counts_in_its_own_time() {
        let zero = Instant::now();
        let at = |us: u64| zero + Duration::from_micros(us);
        let batch = |begin, end, frames| Batch { begin: at(begin), end: at(end), frames };
        // One works for 10 us, the other for 8, of which 7 are the first's, too.
        let both = [batch(0, 10, 100), batch(3, 11, 160)];
        assert!((rate(&both) - 30.0).abs() < 1e-9, "{}", rate(&both));
        assert!((together(&both) - 7.0 / 11.0).abs() < 1e-9, "{}", together(&both));
        // Not at work together at all.
        assert!(together(&[batch(0, 4, 1), batch(5, 9, 1)]).abs() < 1e-9);
        assert!((together(&both[..1]) - 1.0).abs() < 1e-9);
    }
}
