//! Announcements: schedule, replacement, pacing and cap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use teaming::{Announcement, Notifier, PER_INTERVAL};
use wire::Mac;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([0, 0x50, 0x56, 0, a, b])
}

/// Polls whenever something is due, up to `until`: what went out when.
fn run(notifier: &mut Notifier, until: Duration) -> Vec<(Duration, Announcement)> {
    let mut out = Vec::new();
    while let Some(now) = notifier.next_due().filter(|at| *at <= until) {
        let sent = notifier.poll(now);
        assert!(!sent.is_empty(), "something is due at {now:?}");
        out.extend(sent.into_iter().map(|a| (now, a)));
    }
    out
}

#[test]
fn six_frames_and_then_silence() {
    let mut notifier = Notifier::default();
    notifier.announce(7, mac(1), &[10], &[2], ms(500));
    let sent = run(&mut notifier, ms(100_000));
    let at: Vec<u128> = sent.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(at, [500, 1500, 2500, 4500, 7500, 12_500]);
    assert!(sent.iter().all(|(_, a)| *a == Announcement { port: 7, mac: mac(1), vlan: 10, uplink: 2 }));
    assert_eq!(notifier.next_due(), None);
}

#[test]
fn a_newer_announcement_replaces_the_older() {
    let mut notifier = Notifier::default();
    notifier.announce(1, mac(1), &[10], &[0], ms(0));
    run(&mut notifier, ms(1500));
    // Failover.
    notifier.announce(1, mac(1), &[10], &[1], ms(1600));
    let sent = run(&mut notifier, ms(60_000));
    assert_eq!((sent.len(), sent[0].0), (6, ms(1600)));
    assert!(sent.iter().all(|(_, a)| a.uplink == 1));
    // A guest that changes its address: the port's older one goes. A VM that moves: the address's older one goes.
    notifier.announce(1, mac(1), &[10], &[1], ms(70_000));
    notifier.announce(1, mac(2), &[10], &[1], ms(70_000));
    notifier.announce(5, mac(2), &[10], &[0], ms(70_000));
    let sent = run(&mut notifier, ms(160_000));
    assert_eq!(sent.len(), 6);
    assert!(sent.iter().all(|(_, a)| (a.port, a.mac, a.uplink) == (5, mac(2), 0)));
    // The same address in another VLAN is another station.
    notifier.announce(1, mac(1), &[10], &[0], ms(200_000));
    notifier.announce(2, mac(1), &[20], &[0], ms(200_000));
    assert_eq!(notifier.poll(ms(200_000)).len(), 2);
    // No uplinks (ip-hash, or none works), or a port that is gone: nothing more.
    notifier.announce(1, mac(1), &[10], &[], ms(200_001));
    notifier.forget(2);
    assert_eq!(notifier.next_due(), None);
}

#[test]
fn every_vlan_and_every_uplink_is_told_and_odd_addresses_are_not() {
    let mut notifier = Notifier::default();
    notifier.announce(1, mac(1), &[0, 10, 20], &[0, 1], ms(0));
    let told: BTreeSet<(u16, u16)> = notifier.poll(ms(0)).iter().map(|a| (a.vlan, a.uplink)).collect();
    assert_eq!(told.len(), 6);
    notifier.announce(1, Mac::BROADCAST, &[0], &[0], ms(0));
    notifier.announce(2, Mac::default(), &[0], &[0], ms(0));
    assert_eq!(notifier.next_due(), None);
}

#[test]
fn the_cap_delays_and_first_announcements_go_first() {
    let mut notifier = Notifier::default();
    for port in 0..300 {
        notifier.announce(port, mac(port), &[10], &[0], ms(0));
    }
    let first = notifier.poll(ms(0));
    assert_eq!(first.len(), PER_INTERVAL);
    assert_eq!(notifier.next_due(), Some(ms(1000)));
    assert!(notifier.poll(ms(999)).is_empty());
    // At 1 s the second frames of the first 128 are due as well: the first frames of others go before.
    let second = notifier.poll(ms(1000));
    assert_eq!(second.iter().map(|a| a.port).collect::<Vec<_>>(), (128..256).collect::<Vec<_>>());
    let rest = run(&mut notifier, ms(600_000));
    let mut per_port: BTreeMap<u16, usize> = BTreeMap::new();
    first
        .iter()
        .chain(&second)
        .chain(rest.iter().map(|(_, a)| a))
        .for_each(|a| *per_port.entry(a.port).or_default() += 1);
    assert!(per_port.len() == 300 && per_port.values().all(|n| *n == 6), "all are sent in the end");
}

#[test]
fn a_guest_that_changes_its_address_all_the_time_holds_up_nobody() {
    let mut notifier = Notifier::default();
    let mut now = ms(0);
    for change in 0..1000u16 {
        now = ms(u64::from(change));
        notifier.announce(1, mac(change), &[0], &[0], now);
        notifier.poll(now);
    }
    notifier.announce(2, mac(5000), &[0], &[0], now);
    notifier.announce(3, mac(5001), &[0], &[0], now);
    let due = notifier.next_due().expect("something waits");
    assert!(due <= ms(1000));
    let sent = notifier.poll(due);
    assert_eq!(sent.iter().take(1).map(|a| a.port).collect::<Vec<_>>(), [2], "others go before the storm");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_the_cap_in_any_second_and_never_a_replaced_one(
        limit in 1usize..20,
        steps in proptest::collection::vec((0u16..12, 0u16..12, 0u16..3, 0u16..3, 0u64..700), 1..120),
    ) {
        let mut notifier = Notifier::new(limit);
        let mut now = Duration::ZERO;
        let mut sent: Vec<(Duration, Announcement)> = Vec::new();
        let mut current: BTreeMap<u16, (Mac, u16, u16)> = BTreeMap::new();
        for (port, address, vlan, uplink, wait) in steps {
            notifier.announce(port, mac(address), &[vlan], &[uplink], now);
            current.retain(|_, (m, v, _)| (*m, *v) != (mac(address), vlan));
            current.insert(port, (mac(address), vlan, uplink));
            let until = now + ms(wait);
            for (at, a) in run(&mut notifier, until) {
                prop_assert_eq!(current.get(&a.port), Some(&(a.mac, a.vlan, a.uplink)));
                prop_assert!(at >= now);
                sent.push((at, a));
            }
            now = until;
        }
        let tail = run(&mut notifier, now + Duration::from_secs(3600));
        sent.extend(tail);
        prop_assert_eq!(notifier.next_due(), None);
        for (index, (at, _)) in sent.iter().enumerate() {
            if let Some((later, _)) = sent.get(index + limit) {
                prop_assert!(*later >= *at + Duration::from_secs(1), "more than {} within a second", limit);
            }
        }
        for (port, (m, v, u)) in current {
            prop_assert!(sent.iter().any(|(_, a)| (a.port, a.mac, a.vlan, a.uplink) == (port, m, v, u)));
        }
    }

    #[test]
    fn gaps_never_shrink_below_the_back_off(ports in 1u16..60, limit in 1usize..200) {
        let mut notifier = Notifier::new(limit);
        for port in 0..ports {
            notifier.announce(port, mac(port), &[10], &[0], ms(0));
        }
        let mut times: BTreeMap<u16, Vec<Duration>> = BTreeMap::new();
        for (at, a) in run(&mut notifier, Duration::from_secs(36_000)) {
            times.entry(a.port).or_default().push(at);
        }
        for at in times.values() {
            prop_assert_eq!(at.len(), 6);
            for (gap, least) in at.windows(2).zip(teaming::BACK_OFF) {
                prop_assert!(gap[1] - gap[0] >= Duration::from_secs(least));
            }
        }
    }
}
