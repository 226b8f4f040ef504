//! Several workers while the configuration changes under them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dataplane::{Caps, DropReason, Idle, PortTotals, Workers};
use wire::Mac;

use crate::frames::{Ends, Kind, Shape};
use crate::spec::Peer;
use crate::switch::{Running, Switch, cpus};
use crate::traffic::{MEMORY, STRANGER, gated, mac, numbers, plain, spec, wait_for};

/// Choices that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Eight queues of four guests change hands among three workers, and sometimes rest with nobody, three
/// hundred times while they send: every frame arrives, each queue's in order.
#[test]
fn queues_that_change_hands_lose_nothing() {
    const MOVES: u64 = 300;
    const PER_MOVE: u64 = 64;
    const WORKERS: usize = 3;
    let mut switch = Switch::with_memory(&spec(5, true), WORKERS, MEMORY);
    let allowance = Arc::new(AtomicU64::new(0));
    for queue in 0..8 {
        let from = queue / 2;
        switch.send(
            from,
            queue % WORKERS,
            gated(queue, &allowance, move |n| plain(from, if n % 3 == 0 { STRANGER } else { mac(4) })),
        );
    }
    let running = Running::start(switch.snapshot(), WORKERS, Idle::Adaptive);
    let mut dice = Dice(7);
    for step in 1..=MOVES {
        allowance.store(step * PER_MOVE, Ordering::Release);
        for port in &mut switch.ports {
            // Worker number WORKERS does not exist: the queue rests.
            port.queues.iter_mut().for_each(|(_, worker)| *worker = dice.roll(WORKERS + 1));
        }
        running.workers.publish(switch.snapshot());
        if dice.roll(2) == 0 {
            running.workers.grace().wait();
        }
    }
    for port in &mut switch.ports {
        port.queues.iter_mut().for_each(|(_, worker)| *worker %= WORKERS);
    }
    running.workers.publish(switch.snapshot());
    let sent = MOVES * PER_MOVE;
    wait_for(&running, &switch, 4, 8 * sent);
    let loads: Vec<_> = (0..WORKERS).map(|w| running.workers.load(w).0).collect();
    running.end();

    switch.check_sums().unwrap();
    assert!(loads.iter().all(|busy| !busy.is_zero()), "each worker had its turn: {loads:?}");
    assert_eq!(switch.drops(), []);
    let (inside, outside) = (switch.received(4), switch.received(5));
    for queue in 0..8 {
        let (out, stay): (Vec<u64>, Vec<u64>) = (0..sent).partition(|n| n % 3 == 0);
        assert!(numbers(&inside, queue) == stay && numbers(&outside, queue) == out, "queue {queue}");
    }
    for (slot, _) in switch.ports.iter().flat_map(|p| &p.queues) {
        assert!(slot.take().is_some(), "each queue is back in its slot");
    }
}

/// A queue is given to another worker while its owner is in the middle of a turn: the other looks for it until it is
/// put back, without being told again.
#[test]
fn a_queue_in_use_is_taken_over_when_it_comes_back() {
    const LAST: usize = 200;
    let mut switch = Switch::new(&spec(2, false), 2);
    let (inside, release) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let pollers = Arc::new(Mutex::new(Vec::new()));
    let (entered, released, seen) = (inside.clone(), release.clone(), pollers.clone());
    let frames = (0..=LAST).map(move |number| {
        seen.lock().unwrap().push(std::thread::current().name().unwrap().to_owned());
        entered.store(true, Ordering::SeqCst);
        // The turn lasts until the other worker has looked for the queue; and one turn takes a burst, not all.
        while !released.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Shape { id: (0, number as u16), ..plain(0, mac(1)) }.sent(Vec::new())
    });
    switch.send(0, 0, frames);
    let running = Running::start(switch.snapshot(), 2, Idle::Adaptive);
    running.until("the first worker is in its turn", || inside.load(Ordering::SeqCst));
    switch.ports[0].queues[0].1 = 1;
    running.workers.publish(switch.snapshot());
    let turns = running.workers.load(1).1;
    running.until("the other has looked for the queue", || running.workers.load(1).1 > turns + 3);
    release.store(true, Ordering::SeqCst);
    wait_for(&running, &switch, 1, LAST as u64 + 1);
    running.end();
    let pollers = pollers.lock().unwrap();
    assert_eq!((&*pollers[0], &*pollers[LAST]), ("worker0", "worker1"));
}

/// A port is taken out of use and put back two hundred times under traffic. Once the grace period is over
/// nobody delivers to it; what is sent to the other port all arrives.
#[test]
fn after_grace_nobody_delivers_to_a_port_taken_out_of_use() {
    const ROUNDS: u64 = 200;
    const QUARTER: u64 = 64;
    const WORKERS: usize = 2;
    let mut switch = Switch::with_memory(&spec(4, false), WORKERS, MEMORY);
    let allowance = Arc::new(AtomicU64::new(0));
    for from in 0..2 {
        switch.send(from, from, gated(from, &allowance, move |n| plain(from, mac(if n % 2 == 0 { 2 } else { 3 }))));
    }
    let running = Running::start(switch.snapshot(), WORKERS, Idle::Spin);
    let (going, egress) = (2, switch.ports[2].egress.clone());
    let mut allowed = 0;
    let mut allow = |n: u64| {
        allowed += n;
        allowance.store(allowed, Ordering::Release);
        allowed
    };
    for round in 1..=ROUNDS {
        running.workers.publish(switch.snapshot());
        running.workers.grace().wait();
        wait_for(&running, &switch, 2, 2 * allow(QUARTER));
        // These are under way when the port goes: some get there, some do not.
        allow(2 * QUARTER);
        running.workers.publish(switch.snapshot_where(|index| index != going));
        running.workers.grace().wait();
        egress.retire(true);
        wait_for(&running, &switch, 2, 2 * allow(QUARTER));
        assert_eq!(egress.late(), 0, "round {round}");
        egress.retire(false);
    }
    running.end();

    switch.check_sums().unwrap();
    let sent = ROUNDS * 4 * QUARTER;
    let staying = switch.received(3);
    for from in 0..2 {
        let odd: Vec<u64> = (0..sent).filter(|n| !n.is_multiple_of(2)).collect();
        assert!(numbers(&staying, from) == odd, "from {from}: traffic not touched by the change loses nothing");
    }
    let missed: u64 = (0..2).map(|from| switch.totals(from).drops(DropReason::NoMatch)).sum();
    let arrived = switch.totals(going).out_frames;
    assert_eq!(arrived + missed, sent, "half of both sources' frames, each delivered or named");
    let quarter = sent / 4;
    assert!(missed >= quarter && arrived >= quarter, "all while it was there, none while it was away: {missed}");
}

/// Two workers deliver to one port at once, whole frames and frames that are cut up for it: each source's
/// frames keep their order, and the books balance when the ring fills up on the way.
#[test]
fn two_workers_into_one_port_keep_each_sources_order() {
    const FRAMES: u64 = 10_000;
    for ring in [u64::MAX, 17_001] {
        let mut spec = spec(3, true);
        spec.vnics[2].peer = Peer { can: Some(Caps { pad: true, ..Caps::default() }), ring, ..Peer::default() };
        let mut switch = Switch::with_memory(&spec, 2, MEMORY);
        let allowance = Arc::new(AtomicU64::new(FRAMES));
        for from in 0..2 {
            let shape = move |n: u64| match n % 5 {
                4 => Shape {
                    payload: 1200,
                    kind: Kind::Tcp { ends: Ends::any(n.is_multiple_of(2)), mss: Some(500) },
                    ..plain(from, mac(2))
                },
                _ => plain(from, mac(2)),
            };
            switch.send(from, from, gated(from, &allowance, shape));
        }
        let running = Running::start(switch.snapshot(), 2, Idle::Spin);
        wait_for(&running, &switch, 2, 2 * FRAMES);
        running.end();

        switch.check_sums().unwrap();
        let t: PortTotals = switch.totals(2);
        // Every fifth frame becomes three.
        assert_eq!((t.out_segments, t.out_offered), (2 * FRAMES / 5 * 2, 2 * FRAMES + 2 * FRAMES / 5 * 2));
        assert_eq!(t.out_frames, t.out_offered.min(ring));
        assert_eq!(t.drops(DropReason::RingFull), t.out_offered - t.out_frames);
        let received = switch.received(2);
        for from in 0..2 {
            let got = numbers(&received, from);
            assert!(got.is_sorted(), "source {from} in order");
            if ring == u64::MAX {
                let all = (0..FRAMES).flat_map(|n| std::iter::repeat_n(n, if n % 5 == 4 { 3 } else { 1 }));
                assert!(got.into_iter().eq(all), "source {from} complete");
            }
        }
    }
}

/// Broadcasts of two guests on two workers, each the other's destination: no list is mixed up.
#[test]
fn two_workers_exchange_broadcasts() {
    const FRAMES: u64 = 5_000;
    let mut switch = Switch::with_memory(&spec(2, true), 2, MEMORY);
    let allowance = Arc::new(AtomicU64::new(FRAMES));
    for from in 0..2 {
        switch.send(from, from, gated(from, &allowance, move |_| plain(from, Mac::BROADCAST)));
    }
    let running = Running::start(switch.snapshot(), 2, Idle::Adaptive);
    wait_for(&running, &switch, 2, 2 * FRAMES);
    running.end();
    switch.check_sums().unwrap();
    let all: Vec<u64> = (0..FRAMES).collect();
    let outside = switch.received(2);
    for port in 0..2 {
        let got = switch.received(port);
        assert!(numbers(&got, 1 - port) == all && numbers(&got, port).is_empty(), "port {port}");
        assert!(numbers(&outside, port) == all, "port {port} to the uplink");
        assert_eq!(switch.totals(port).in_copies, 2 * FRAMES);
    }
}

/// A worker that cannot start says so, and neither it nor one that ended holds up a grace period.
#[test]
fn a_worker_that_is_not_there_holds_nobody_up() {
    let switch = Switch::new(&spec(1, false), 1);
    let workers = Workers::new(1, switch.snapshot());
    let cpu = cpus()[0];
    workers.grace().wait();
    assert!(workers.spawn(0, usize::MAX, Idle::Adaptive).is_err(), "no such CPU");
    assert!(workers.spawn(0, rustix::thread::CpuSet::MAX_CPU - 1, Idle::Adaptive).is_err(), "nor this one");
    assert!(workers.spawn(1, cpu, Idle::Adaptive).is_err(), "no such worker");
    workers.grace().wait();
    let thread = workers.spawn(0, cpu, Idle::Adaptive).unwrap();
    workers.grace().wait();
    workers.stop();
    thread.join().unwrap();
    workers.grace().wait();
    workers.publish(switch.snapshot());
    assert_eq!(workers.snapshot().ports().count(), 1);
}

/// A worker whose peers give no signal naps between its turns, and looks at every queue in each of them: a frame waits for
/// one nap, however many queues there are.
#[test]
fn a_napping_worker_looks_at_every_queue_after_each_nap() {
    const QUEUES: usize = 64;
    const TURNS: u64 = 200;
    let mut switch = Switch::with_memory(&spec(1, false), 1, MEMORY);
    let looks: Arc<Vec<AtomicU64>> = Arc::new((0..QUEUES).map(|_| AtomicU64::new(0)).collect());
    for queue in 0..QUEUES {
        let looks = looks.clone();
        let nothing = move || {
            looks[queue].fetch_add(1, Ordering::SeqCst);
            None
        };
        switch.send(0, 0, std::iter::from_fn(nothing));
    }
    let running = Running::start(switch.snapshot(), 1, Idle::Adaptive);
    // Long after the time for which it polls without a rest.
    std::thread::sleep(50 * dataplane::SPIN);
    let counts = || looks.iter().map(|count| count.load(Ordering::SeqCst));
    // Looks before turns here and turns before looks below: no look is missed for being counted between.
    let before: Vec<u64> = counts().collect();
    let turns = || running.workers.load(0).1;
    let start = turns();
    running.until("it has taken some turns", || turns() >= start + TURNS);
    let taken = turns() - start;
    assert!(counts().zip(&before).all(|(count, before)| count - before >= taken), "{taken} turns: {looks:?}");
    running.end();
}
