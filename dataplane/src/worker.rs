//! A worker: one thread, pinned to one CPU, that polls the queues it owns and forwards to completion.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use crossbeam_utils::CachePadded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::forward::Forwarder;
use crate::grace::Ticker;
use crate::lists::Lists;
use crate::pause::{Idle, Load, Pause, Rest};
use crate::rota::Rota;
use crate::snapshot::Snapshot;
use crate::{Arm, Grace, Ingress, IngressSlot, PortId, Seconds};

/// What all workers and the control thread share.
pub struct Workers {
    snapshot: ArcSwap<Snapshot>,
    grace: Grace,
    stop: AtomicBool,
    loads: Box<[CachePadded<Load>]>,
    /// Seconds since the start, as learning counts them.
    clock: AtomicU32,
}

impl Workers {
    /// For `count` workers, with a first snapshot; none runs yet.
    pub fn new(count: usize, snapshot: Snapshot) -> Arc<Workers> {
        Arc::new(Workers {
            snapshot: ArcSwap::from_pointee(snapshot),
            grace: Grace::new(count),
            stop: AtomicBool::new(false),
            loads: (0..count).map(|_| CachePadded::default()).collect(),
            clock: AtomicU32::new(0),
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
        self.grace.wake();
    }

    /// Tells the workers the time since the start; about once a second is enough.
    pub fn set_clock(&self, now: Seconds) {
        self.clock.store(now.0, Ordering::Relaxed);
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
                Worker::new(shared, index, ticker, idle).run();
            }
        })?;
        match result.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Worker `index` without a thread: the caller takes its turns. `None` when there is no such worker.
    pub fn worker(self: &Arc<Self>, index: usize) -> Option<Worker> {
        Some(Worker::new(self.clone(), index, self.grace.ticker(index)?, Idle::Spin))
    }

    /// Asks all workers to end after the turn they are in.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.grace.wake();
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
    /// The port its last burst went to, where the next one is likely to go, too.
    last: PortId,
}

/// How long a worker sleeps at most: a signal that a peer failed to give costs this much, never a frame.
const LONGEST_SLEEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// One worker's own state. [`Workers::spawn`] gives it a thread; whoever wants its turns one by one takes it from
/// [`Workers::worker`].
pub struct Worker {
    shared: Arc<Workers>,
    /// The snapshot of the last turn, and the place to see cheaply whether it is still the one in force.
    cache: Cache<Current, Arc<Snapshot>>,
    current: Option<Arc<Snapshot>>,
    index: usize,
    ticker: Ticker,
    idle: Idle,
    /// The queues that are ours.
    owned: Rota<Owned>,
    /// True while a queue that is ours is still in another worker's hands.
    missing: bool,
    lists: Lists,
    /// What can wake us, kept for its room.
    kicks: Vec<Arc<OwnedFd>>,
    /// The queue that could not, when last asked.
    mute: usize,
    /// True after a rest: any queue may hold something.
    rested: bool,
}

/// Where the snapshot in force is found.
struct Current(Arc<Workers>);

impl Deref for Current {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &ArcSwap<Snapshot> {
        &self.0.snapshot
    }
}

impl Worker {
    fn new(shared: Arc<Workers>, index: usize, ticker: Ticker, idle: Idle) -> Worker {
        Worker {
            cache: Cache::new(Current(shared.clone())),
            shared,
            current: None,
            index,
            ticker,
            idle,
            owned: Rota::default(),
            missing: false,
            lists: Lists::default(),
            kicks: Vec::new(),
            mute: 0,
            rested: false,
        }
    }

    fn run(mut self) {
        let mut pause = Pause::new(self.idle, Instant::now());
        while !self.shared.stop.load(Ordering::Acquire) {
            let frames = self.turn();
            match pause.after(frames, Instant::now, &self.shared.loads[self.index]) {
                Rest::None => {}
                Rest::Yield => {
                    std::thread::yield_now();
                    pause.yielded(Instant::now());
                }
                Rest::Nap(nap) => {
                    self.rest(nap);
                    pause.rested(Instant::now());
                }
            }
        }
    }

    /// One turn: looks at the queues once and forwards what they hold to completion. Returns the frames taken.
    #[inline]
    pub fn turn(&mut self) -> usize {
        let snapshot = self.cache.load();
        let known = self.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, snapshot));
        if self.missing || !known {
            let snapshot = snapshot.clone();
            self.take_queues(&snapshot);
            self.current = Some(snapshot);
        }
        // Taken out for the time of the turn: its parts are changed while it is read.
        let Some(snapshot) = self.current.take() else { return 0 };
        let frames = self.poll_queues(&snapshot);
        self.current = Some(snapshot);
        self.ticker.tick();
        frames
    }

    /// Polls the queues whose turn it is. Returns the frames taken.
    #[inline]
    fn poll_queues(&mut self, snapshot: &Snapshot) -> usize {
        let (worker, lists) = (self.index, &mut self.lists);
        let now = Seconds(self.shared.clock.load(Ordering::Relaxed));
        let look = |owned: &mut Owned| {
            let Some(from) = snapshot.port(owned.port) else { return 0 };
            owned.queue.poll(&mut Forwarder { snapshot, from, worker, now, lists, last: &mut owned.last })
        };
        if std::mem::take(&mut self.rested) { self.owned.sweep(look) } else { self.owned.turn(look) }
    }

    /// Sleeps until a peer signals or the control thread wakes us; naps where some peer gives no signal.
    fn rest(&mut self, nap: Duration) {
        self.rested = true;
        let Some(bell) = self.ticker.lie_down() else { return std::thread::sleep(nap) };
        let mut kicks = std::mem::take(&mut self.kicks);
        let (armed, arm) = arm_all(&mut self.owned, &mut self.mute, &mut kicks);
        let news = self.missing
            || self.shared.stop.load(Ordering::SeqCst)
            || !self.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &self.shared.snapshot.load()));
        match arm {
            _ if news => {}
            Arm::Busy => {}
            Arm::Cannot => {
                self.ticker.close_eyes();
                std::thread::sleep(nap);
            }
            Arm::Quiet | Arm::Kick(_) => {
                let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(kicks.len() + 1);
                fds.push(PollFd::new(&bell, PollFlags::IN));
                fds.extend(kicks.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
                self.ticker.close_eyes();
                // An interruption is as good a reason to look as any.
                let _ = poll(&mut fds, Some(&LONGEST_SLEEP));
            }
        }
        self.ticker.get_up();
        self.owned.iter_mut().take(armed).for_each(|o| o.queue.disarm());
        kicks.clear();
        self.kicks = kicks;
    }

    /// Gives back the queues that are no longer ours and takes those that now are.
    fn take_queues(&mut self, snapshot: &Snapshot) {
        self.lists.resize(snapshot.port_limit());
        let mine: Vec<(PortId, &Arc<IngressSlot>)> = snapshot
            .ports()
            .flat_map(|p| p.queues.iter().filter(|(_, w)| *w == self.index).map(move |(slot, _)| (p.id, slot)))
            .collect();
        for owned in self.owned.take() {
            if mine.iter().any(|(port, slot)| *port == owned.port && Arc::ptr_eq(slot, &owned.slot)) {
                self.owned.add(owned);
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
                Some(queue) => self.owned.add(Owned { port, slot: slot.clone(), queue, last: port }),
                None => self.missing = true,
            }
        }
        self.mute = 0;
    }
}

impl Drop for Worker {
    /// The queues are another worker's to take.
    fn drop(&mut self) {
        for owned in self.owned.take() {
            owned.slot.put_back(owned.queue);
        }
    }
}

/// Arms every queue, the one that could not signal last time first, and stops at one that cannot or has work. Returns
/// how many of the first were asked, and the answer that decides.
fn arm_all(owned: &mut Rota<Owned>, mute: &mut usize, kicks: &mut Vec<Arc<OwnedFd>>) -> (usize, Arm) {
    if let Some(last) = owned.get_mut(*mute)
        && matches!(last.queue.arm(), Arm::Cannot)
    {
        last.queue.disarm();
        return (0, Arm::Cannot);
    }
    for (at, owned) in owned.iter_mut().enumerate() {
        match owned.queue.arm() {
            Arm::Kick(fd) => kicks.push(fd),
            Arm::Quiet => {}
            end => {
                *mute = at;
                return (at + 1, end);
            }
        }
    }
    (owned.len(), Arm::Quiet)
}
