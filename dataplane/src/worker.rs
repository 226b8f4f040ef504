//! A worker: one thread, pinned to one CPU, that polls the queues it owns and forwards to completion.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use crossbeam_utils::CachePadded;

use crate::forward::Forwarder;
use crate::grace::Ticker;
use crate::lists::Lists;
use crate::snapshot::Snapshot;
use crate::{Grace, Ingress, IngressSlot, PortId};

/// What a worker with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spins a while, then naps, longer and longer up to [`LONGEST_NAP`].
    Adaptive,
    /// Polls without pause.
    Spin,
}

/// How long a worker that had work keeps polling before it naps.
pub const SPIN: Duration = Duration::from_micros(50);
/// The longest nap: what the first frame after silence may wait.
pub const LONGEST_NAP: Duration = Duration::from_micros(100);
const FIRST_NAP: Duration = Duration::from_micros(20);

#[derive(Debug, Default)]
struct Load {
    busy_ns: AtomicU64,
    turns: AtomicU64,
}

/// What all workers and the control thread share.
pub struct Workers {
    snapshot: ArcSwap<Snapshot>,
    grace: Grace,
    stop: AtomicBool,
    loads: Box<[CachePadded<Load>]>,
}

impl Workers {
    /// For `count` workers, with a first snapshot; none runs yet.
    pub fn new(count: usize, snapshot: Snapshot) -> Arc<Workers> {
        Arc::new(Workers {
            snapshot: ArcSwap::from_pointee(snapshot),
            grace: Grace::new(count),
            stop: AtomicBool::new(false),
            loads: (0..count).map(|_| CachePadded::default()).collect(),
        })
    }

    /// How to wait until every worker has let go of something.
    pub fn grace(&self) -> &Grace {
        &self.grace
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts a new snapshot in force. Each worker takes it up at its next turn; call
    /// [`Grace::wait`] before tearing down what only the old one used.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Time worker `index` spent on turns with work, so far; and the number of its turns.
    pub fn load(&self, index: usize) -> (Duration, u64) {
        self.loads.get(index).map_or((Duration::ZERO, 0), |l| {
            (Duration::from_nanos(l.busy_ns.load(Ordering::Relaxed)), l.turns.load(Ordering::Relaxed))
        })
    }

    /// Starts worker `index` on `cpu`.
    ///
    /// # Errors
    /// When the thread cannot be started or pinned.
    pub fn spawn(self: &Arc<Self>, index: usize, cpu: usize, idle: Idle) -> io::Result<JoinHandle<()>> {
        let shared = self.clone();
        let ticker = self.grace.ticker(index).ok_or(io::ErrorKind::InvalidInput)?;
        let (started, result) = std::sync::mpsc::channel();
        let handle = std::thread::Builder::new().name(format!("worker{index}")).spawn(move || {
            let pinned = pin(cpu);
            let ok = pinned.is_ok();
            let _ = started.send(pinned);
            if ok {
                Worker {
                    shared: &shared,
                    index,
                    ticker,
                    idle,
                    owned: Vec::new(),
                    missing: false,
                    lists: Lists::default(),
                }
                .run();
            }
        })?;
        match result.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Asks all workers to end after the turn they are in.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)?;
    // The kernel may otherwise add 50 us to each nap.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000));
    Ok(())
}

struct Owned {
    port: PortId,
    slot: Arc<IngressSlot>,
    queue: Box<dyn Ingress>,
}

struct Worker<'s> {
    shared: &'s Workers,
    index: usize,
    ticker: Ticker,
    idle: Idle,
    owned: Vec<Owned>,
    /// True while a queue that is ours is still in another worker's hands.
    missing: bool,
    lists: Lists,
}

impl Worker<'_> {
    fn run(mut self) {
        let mut cache = Cache::new(&self.shared.snapshot);
        let mut current: Option<Arc<Snapshot>> = None;
        let mut pause = Pause::new(self.idle);
        while !self.shared.stop.load(Ordering::Acquire) {
            let snapshot = cache.load();
            if self.missing || !current.as_ref().is_some_and(|c| Arc::ptr_eq(c, snapshot)) {
                self.take_queues(snapshot);
                current = Some(snapshot.clone());
            }
            let frames = self.turn(snapshot);
            self.ticker.tick();
            pause.after(frames, &self.shared.loads[self.index]);
        }
        for owned in self.owned.drain(..) {
            owned.slot.put_back(owned.queue);
        }
    }

    /// Polls every queue once; returns the frames taken.
    #[inline]
    fn turn(&mut self, snapshot: &Snapshot) -> usize {
        let mut frames = 0;
        for owned in &mut self.owned {
            let Some(from) = snapshot.port(owned.port) else { continue };
            let mut sink = Forwarder { snapshot, from, worker: self.index, lists: &mut self.lists };
            frames += owned.queue.poll(&mut sink);
        }
        frames
    }

    /// Gives back the queues that are no longer ours and takes those that now are.
    fn take_queues(&mut self, snapshot: &Snapshot) {
        self.lists.resize(snapshot.port_limit());
        let mine: Vec<(PortId, &Arc<IngressSlot>)> = snapshot
            .ports()
            .flat_map(|p| p.queues.iter().filter(|(_, w)| *w == self.index).map(move |(slot, _)| (p.id, slot)))
            .collect();
        for owned in std::mem::take(&mut self.owned) {
            if mine.iter().any(|(port, slot)| *port == owned.port && Arc::ptr_eq(slot, &owned.slot)) {
                self.owned.push(owned);
            } else {
                owned.slot.put_back(owned.queue);
            }
        }
        self.missing = false;
        for (port, slot) in mine {
            if self.owned.iter().any(|o| Arc::ptr_eq(&o.slot, slot)) {
                continue;
            }
            match slot.take() {
                Some(queue) => self.owned.push(Owned { port, slot: slot.clone(), queue }),
                None => self.missing = true,
            }
        }
    }
}

/// Decides after each turn whether to go on at once or to nap, and measures the busy time.
struct Pause {
    idle: Idle,
    last: Instant,
    last_work: Instant,
    nap: Duration,
}

impl Pause {
    fn new(idle: Idle) -> Pause {
        let now = Instant::now();
        Pause { idle, last: now, last_work: now, nap: FIRST_NAP }
    }

    #[inline]
    fn after(&mut self, frames: usize, load: &Load) {
        let now = Instant::now();
        load.turns.store(load.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if frames > 0 {
            let busy = load.busy_ns.load(Ordering::Relaxed) + (now - self.last).as_nanos() as u64;
            load.busy_ns.store(busy, Ordering::Relaxed);
            self.last_work = now;
            self.nap = FIRST_NAP;
        } else if self.idle == Idle::Adaptive && now - self.last_work > SPIN {
            std::thread::sleep(self.nap);
            self.nap = (self.nap * 2).min(LONGEST_NAP);
        } else {
            std::hint::spin_loop();
        }
        self.last = if frames > 0 { now } else { Instant::now() };
    }
}
