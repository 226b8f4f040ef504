//! Interfaces that are not there, go away, come back, lose their link.

mod lab;

use std::sync::Arc;

use dataplane::{DropReason, Egress, Grace, PortState, Tally};
use lab::{Collect, Netns, PLAIN, Tap, all, frame, ip, poll_for, poll_nothing, wait, with_burst};
use uplink::netlink::LinkMonitor;
use uplink::{Driver, OpenError, Uplink};

/// Runs `body` once for each driver, in a namespace of its own.
fn with_each_driver(body: impl Fn(Driver) + Sync) {
    for driver in [Driver::AfPacket, Driver::AfXdp] {
        println!("{driver:?}");
        Netns::new().run(|| body(driver));
    }
}

fn open(device: &str, driver: Driver) -> Result<(Uplink, Arc<PortState>), OpenError> {
    let state = Arc::new(PortState::new());
    Uplink::open_with("vmnic0", device, driver, state.clone(), Grace::new(0), 1500).map(|uplink| (uplink, state))
}

fn refusal(device: &str, driver: Driver) -> OpenError {
    match open(device, driver) {
        Ok(_) => panic!("{device} was opened"),
        Err(error) => error,
    }
}

fn send_one(out: &dyn Egress, bytes: &[u8]) -> Tally {
    let mut tally = Tally::new();
    with_burst(&[(bytes, None, PLAIN)], |burst| out.deliver(burst, &all(burst, None), &mut tally));
    tally
}

/// Feeds events to the uplink until its state is as wanted.
fn follow(monitor: &mut LinkMonitor, uplink: &mut Uplink, state: &PortState, connected: bool, up: bool) {
    wait(&format!("connected {connected}, link {up}"), || {
        monitor.events().iter().for_each(|event| uplink.handle(event));
        (state.connected(), state.link_up()) == (connected, up)
    });
}

#[test]
fn refusals_are_one_clear_sentence() {
    with_each_driver(|driver| {
        let error = refusal("eth77", driver);
        assert!(matches!(&error, OpenError::NoInterface { device } if device == "eth77"), "{error}");
        assert!(error.to_string().contains("no network interface \"eth77\""));
        let error = refusal("lo", driver);
        assert!(matches!(error, OpenError::NotEthernet { .. }), "{error}");
        let error = refusal("a-name-longer-than-any-interface", driver);
        assert!(!error.to_string().contains('\n'), "{error}");
        let _tap = Tap::new("tap0");
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        let error = std::thread::scope(|scope| {
            let unprivileged = scope.spawn(|| {
                rustix::thread::set_capabilities(None, sets).expect("to give capabilities up");
                refusal("tap0", driver)
            });
            unprivileged.join().unwrap()
        });
        assert!(matches!(error, OpenError::Permission { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_RAW"));
    });
}

#[test]
fn an_interface_that_is_down_is_set_up() {
    with_each_driver(|driver| {
        let _tap = Tap::new("tap0");
        ip("link set tap0 down");
        let mut monitor = LinkMonitor::open().unwrap();
        let (mut uplink, state) = open("tap0", driver).unwrap();
        assert!(uplink::netlink::query("tap0").unwrap().admin_up);
        follow(&mut monitor, &mut uplink, &state, true, true);
    });
}

#[test]
fn link_follows_the_cable() {
    with_each_driver(|driver| {
        let tap = Tap::new("tap0");
        let mut monitor = LinkMonitor::open().unwrap();
        let (mut uplink, state) = open("tap0", driver).unwrap();
        let out = uplink.egress();
        let mut queue = uplink.ingress().pop().unwrap();
        follow(&mut monitor, &mut uplink, &state, true, true);
        for round in 0..3 {
            tap.carrier(false);
            follow(&mut monitor, &mut uplink, &state, true, false);
            assert_eq!(send_one(&*out, &frame(60, 1)).drops(DropReason::PortBlocked), 1);
            tap.carrier(true);
            follow(&mut monitor, &mut uplink, &state, true, true);
            assert_eq!(send_one(&*out, &frame(60, round)).frames(), 1);
            assert_eq!(tap.recv(), frame(60, round));
            tap.send(&frame(60, round));
            poll_for(&mut *queue, &mut Collect::default(), 1);
        }
        ip("link set tap0 down");
        follow(&mut monitor, &mut uplink, &state, true, false);
        ip("link set tap0 up");
        follow(&mut monitor, &mut uplink, &state, true, true);
        tap.send(&frame(60, 9));
        poll_for(&mut *queue, &mut Collect::default(), 1);
        assert_eq!(uplink.stats().opened, 1, "the same rings all along");
    });
}

#[test]
fn an_interface_that_vanishes_and_returns_is_picked_up_again() {
    with_each_driver(|driver| {
        let tap = Tap::new("tap0");
        let mut monitor = LinkMonitor::open().unwrap();
        let (mut uplink, state) = open("tap0", driver).unwrap();
        let out = uplink.egress();
        let mut queue = uplink.ingress().pop().unwrap();
        let mut old = Some(tap);
        for round in 0..3u8 {
            follow(&mut monitor, &mut uplink, &state, true, true);
            // Positions that a new ring does not share.
            for n in 0..=round {
                old.as_ref().unwrap().send(&frame(60, n));
            }
            poll_for(&mut *queue, &mut Collect::default(), usize::from(round) + 1);
            drop(old.take());
            wait("the kernel to delete it", || uplink::netlink::query("tap0").is_err());
            // Deleted, and nobody has told the uplink yet: frames are accepted by a ring that leads nowhere.
            let tally = send_one(&*out, &frame(60, 1));
            assert_eq!(tally.frames() + tally.drops(DropReason::RingFull), 1);
            follow(&mut monitor, &mut uplink, &state, false, false);
            assert_eq!(send_one(&*out, &frame(60, 1)).drops(DropReason::NotConnected), 1);
            poll_nothing(&mut *queue);
            let tap = Tap::new("tap0");
            follow(&mut monitor, &mut uplink, &state, true, true);
            assert_eq!(send_one(&*out, &frame(70, round)).frames(), 1);
            assert_eq!(tap.recv(), frame(70, round));
            old = Some(tap);
        }
        let stats = uplink.stats();
        assert_eq!((stats.opened, stats.rx_frames, stats.rx_kernel_drops), (4, 6, 0));
        assert_eq!(stats.tx_stale, 3, "and those frames are accounted for");
    });
}

#[test]
fn deleted_and_recreated_between_two_looks() {
    with_each_driver(|driver| {
        let tap = Tap::new("tap0");
        let mut monitor = LinkMonitor::open().unwrap();
        let (mut uplink, state) = open("tap0", driver).unwrap();
        let mut queue = uplink.ingress().pop().unwrap();
        follow(&mut monitor, &mut uplink, &state, true, true);
        drop(tap);
        let tap = Tap::new("tap0");
        wait("the new one", || {
            monitor.events().iter().for_each(|event| uplink.handle(event));
            uplink.stats().opened == 2 && state.link_up()
        });
        tap.send(&frame(60, 1));
        poll_for(&mut *queue, &mut Collect::default(), 1);
        // Old news of either does not disturb it.
        let mut stale = uplink::netlink::query("tap0").unwrap();
        stale.index -= 1;
        uplink.handle(&stale);
        stale.exists = false;
        uplink.handle(&stale);
        assert_eq!(uplink.stats().opened, 2);
        assert!(state.connected());
    });
}

#[test]
fn a_renamed_interface_is_not_ours_any_more() {
    with_each_driver(|driver| {
        let _tap = Tap::new("tap0");
        let mut monitor = LinkMonitor::open().unwrap();
        let (mut uplink, state) = open("tap0", driver).unwrap();
        follow(&mut monitor, &mut uplink, &state, true, true);
        ip("link set tap0 down");
        ip("link set tap0 name other");
        follow(&mut monitor, &mut uplink, &state, false, false);
        ip("link set other name tap0");
        follow(&mut monitor, &mut uplink, &state, true, true);
    });
}

/// A worker polls while the control thread swaps rings under it: nothing is used after it is gone.
#[test]
fn rings_are_swapped_under_a_running_worker() {
    with_each_driver(|driver| {
        let mut tap = Some(Tap::new("tap0"));
        let mut monitor = LinkMonitor::open().unwrap();
        let state = Arc::new(PortState::new());
        let grace = Grace::new(1);
        let mut uplink = Uplink::open_with("vmnic0", "tap0", driver, state.clone(), grace.clone(), 1500).unwrap();
        let mut queue = uplink.ingress().pop().unwrap();
        let out = uplink.egress();
        let ticker = grace.ticker(0).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let ticker = ticker;
                let mut sink = Collect { echo: Some(&*out), ..Collect::default() };
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    queue.poll(&mut sink);
                    ticker.tick();
                    std::thread::yield_now();
                }
                sink.frames.len()
            });
            for _ in 0..10 {
                follow(&mut monitor, &mut uplink, &state, true, true);
                for n in 0..100 {
                    tap.as_ref().unwrap().send(&frame(60, n));
                }
                drop(tap.take());
                follow(&mut monitor, &mut uplink, &state, false, false);
                tap = Some(Tap::new("tap0"));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let seen = worker.join().unwrap() as u64;
            let stats = uplink.stats();
            assert!(seen <= stats.rx_frames && stats.rx_frames <= 1000, "{seen} of {stats:?}");
        });
    });
}
