//! The way of beacons to the control thread: bounded, counted, and nobody waits for a call that does not come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use dataplane::{DropReason, Heard, Idle, Inbox};
use wire::Mac;

use crate::frames::{Kind, Shape};
use crate::spec::{Peer, SwitchSpec, UplinkSpec};
use crate::switch::{Running, Switch};
use crate::traffic::{gated, plain};

const BEACON: u16 = 0x88b5;
/// More than an inbox holds.
const MANY: u64 = 5_000;

/// A switch that is only uplinks, with an inbox that calls `wake`.
fn uplinks(count: usize, workers: usize, wake: impl Fn() + Send + Sync + 'static) -> Switch {
    let uplink = |index| UplinkSpec { name: format!("vmnic{index}"), used: true, peer: Peer::default() };
    let uplinks = (0..count).map(uplink).collect();
    let mut switch = Switch::new(&SwitchSpec { mtu: 1500, beacon: None, vnics: Vec::new(), uplinks }, workers);
    switch.inbox = Some(Arc::new(Inbox::new(BEACON, wake)));
    switch
}

fn counted(count: usize, workers: usize) -> (Switch, Arc<AtomicU64>) {
    let wakes = Arc::new(AtomicU64::new(0));
    let calls = wakes.clone();
    (uplinks(count, workers, move || _ = calls.fetch_add(1, Ordering::SeqCst)), wakes)
}

fn beacon(_: u64) -> Shape {
    Shape { kind: Kind::Plain(BEACON), ..plain(200, Mac::BROADCAST) }
}

/// Which frame of which queue it was.
fn id(heard: &Heard) -> (u16, u16) {
    let word = |at: usize| u16::from_be_bytes([heard.bytes[at], heard.bytes[at + 1]]);
    (word(14), word(16))
}

fn inbox(switch: &Switch) -> &Arc<Inbox> {
    switch.inbox.as_ref().expect("it has one")
}

/// A switch with one uplink whose beacons come as they are allowed.
struct OneByOne {
    switch: Switch,
    wakes: Arc<AtomicU64>,
    allowance: Arc<AtomicU64>,
    running: Running,
}

impl OneByOne {
    fn start() -> OneByOne {
        let (mut switch, wakes) = counted(1, 1);
        let allowance = Arc::new(AtomicU64::new(0));
        switch.send(0, 0, gated(0, &allowance, beacon));
        let running = Running::start(switch.snapshot(), 1, Idle::Adaptive);
        OneByOne { switch, wakes, allowance, running }
    }

    fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::SeqCst)
    }

    /// Lets `n` beacons in and waits until they are through.
    fn let_in(&self, n: u64) {
        let all = self.allowance.fetch_add(n, Ordering::SeqCst) + n;
        self.running.until("the beacons came in", || self.switch.totals(0).in_frames == all);
    }
}

/// What does not find room is counted, the oldest are kept, and the control thread is called once; with the first
/// beacon after it has looked, again.
#[test]
fn a_full_inbox_counts_what_it_loses() {
    let one = OneByOne::start();
    assert_eq!(one.wakes(), 0);
    let before = Instant::now();
    one.let_in(MANY);
    let after = Instant::now();
    assert_eq!((one.wakes(), inbox(&one.switch).lost() > 0), (1, true));
    let heard = one.switch.heard();
    let kept = heard.len() as u64;
    assert_eq!(kept + inbox(&one.switch).lost(), MANY, "each handed over or counted as lost");
    assert!(heard.iter().map(id).eq((0..kept).map(|n| (0, n as u16))), "the oldest, in order");
    assert!(heard.iter().map(|h| h.at).is_sorted() && heard.iter().all(|h| before <= h.at && h.at <= after));
    assert_eq!(one.switch.totals(0).in_drops[DropReason::Beacon as usize], MANY, "lost or not");

    assert!(one.switch.heard().is_empty());
    assert_eq!(one.wakes(), 1, "looking calls nobody");
    one.let_in(1);
    assert_eq!(one.wakes(), 2);
    one.let_in(2);
    assert_eq!(one.wakes(), 2, "they wait together");
    assert!(one.switch.heard().iter().map(id).eq((0..3).map(|n| (0, (MANY + n) as u16))));
    assert_eq!(inbox(&one.switch).lost(), MANY - kept, "there was room again");
    one.running.end();
    one.switch.check_sums().unwrap();
}

/// A beacon that comes while the control thread reads the last of a full inbox is announced anew: the reader, who
/// stops after as many as fit, may have stopped looking.
#[test]
fn what_comes_during_the_last_look_is_announced() {
    let one = OneByOne::start();
    one.let_in(MANY);
    let room = one.switch.heard().len() as u64;
    one.let_in(room);
    assert_eq!(one.wakes(), 2);
    let mut read = 0;
    inbox(&one.switch).drain(|_| {
        read += 1;
        if read == room {
            one.let_in(1);
        }
    });
    assert!(read >= room);
    assert_eq!(one.wakes(), 3);
    assert_eq!(read + one.switch.heard().len() as u64, room + 1, "and it is there");
    one.running.end();
}

/// As long as beacons come while one reads, reading ends: what one call hands over is bounded.
#[test]
fn reading_ends_while_beacons_keep_coming() {
    let one = OneByOne::start();
    one.let_in(MANY);
    let room = one.switch.heard().len() as u64;
    one.let_in(1);
    let mut read = 0;
    inbox(&one.switch).drain(|_| {
        read += 1;
        // One more for each that is read, until the bound must have stopped it.
        if read <= room {
            one.let_in(1);
        }
    });
    assert_eq!(read, room);
    assert_eq!(one.switch.heard().len(), 1);
    one.running.end();
}

/// Who looks at once when called finds the beacon there.
#[test]
fn the_call_comes_after_the_beacon() {
    const FRAMES: u64 = 500;
    let (weak, found) = (Arc::new(OnceLock::<Weak<Inbox>>::new()), Arc::new(AtomicU64::new(0)));
    let (to_look_at, count) = (weak.clone(), found.clone());
    let mut switch = uplinks(1, 1, move || {
        let inbox = to_look_at.get().and_then(Weak::upgrade).expect("it is still there");
        inbox.drain(|_| _ = count.fetch_add(1, Ordering::SeqCst));
    });
    weak.set(Arc::downgrade(inbox(&switch))).expect("set once");
    let allowance = Arc::new(AtomicU64::new(FRAMES));
    let done = switch.send(0, 0, gated(0, &allowance, beacon));
    switch.run(&[done]);
    assert_eq!(found.load(Ordering::SeqCst), FRAMES);
    assert!(switch.heard().is_empty());
}

/// A bell that can ring while nobody waits.
#[derive(Default)]
struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.heard.notify_one();
    }

    /// Waits until it has rung more than `before` times, and says how often it has. The limit is there to end a
    /// hang with a message, not to measure.
    fn wait(&self, before: u64) -> u64 {
        let mut rung = self.rung.lock().unwrap();
        while *rung == before {
            let (guard, timeout) = self.heard.wait_timeout(rung, Duration::from_secs(60)).unwrap();
            rung = guard;
            assert!(*rung > before || !timeout.timed_out(), "beacons wait and nobody was called");
        }
        *rung
    }
}

/// Four queues on two workers send a few beacons at a time; the reader sleeps until it is called, and only when all
/// of a round are read does the next begin. So a call that is lost stops everything. And there is at most one call
/// for each time the reader looked.
#[test]
fn no_call_is_lost_and_none_is_repeated() {
    const ROUNDS: u64 = 3_000;
    const QUEUES: usize = 4;
    let bell = Arc::new(Bell::default());
    let rope = bell.clone();
    let mut switch = uplinks(2, 2, move || rope.ring());
    let allowance = Arc::new(AtomicU64::new(0));
    for queue in 0..QUEUES {
        switch.send(queue / 2, queue % 2, gated(queue, &allowance, beacon));
    }
    let running = Running::start(switch.snapshot(), 2, Idle::Adaptive);
    let (mut rung, mut looks) = (0, 0);
    let mut next = [0u64; QUEUES];
    for round in 1..=ROUNDS {
        // One beacon a queue, or some.
        let all = allowance.fetch_add(1 + round % 3 * (round % 2), Ordering::SeqCst) + 1 + round % 3 * (round % 2);
        while next.iter().sum::<u64>() < QUEUES as u64 * all {
            rung = bell.wait(rung);
            looks += 1;
            inbox(&switch).drain(|heard| {
                let (queue, number) = id(&heard);
                assert_eq!(u64::from(number), next[usize::from(queue)], "queue {queue}, in order");
                assert_eq!(heard.uplink, switch.ports[usize::from(queue) / 2].id);
                next[usize::from(queue)] += 1;
            });
        }
    }
    running.end();
    let rung = *bell.rung.lock().unwrap();
    assert!(rung <= looks + 1, "called {rung} times, looked {looks} times");
    assert_eq!(inbox(&switch).lost(), 0);
    switch.check_sums().unwrap();
}
