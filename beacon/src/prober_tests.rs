use super::*;
use crate::codec::{BEACON_LEN, DEFAULT_ETHERTYPE, SwitchId, decode, encode};
use crate::lab::{Captured, Lab, key, uplinks};
use crate::{Health, Outcome, Side};

const MS: Duration = Duration::from_millis(1);

fn config(ms: u32, threshold: u32) -> Config {
    Config { interval: MS * ms, threshold, ..Config::default() }
}

fn failed(side: Side) -> Health {
    Health::Failed { side }
}

/// Intervals and thresholds from end to end.
fn settings() -> impl Iterator<Item = Config> {
    let all = [10, 15, 20, 33, 100, 1000, 60_000].into_iter().flat_map(|ms| [1, 2, 3, 5, 10].map(|t| config(ms, t)));
    all.chain([config(1000, 100)])
}

#[test]
fn bounds_of_the_configuration() {
    let new = |config: Config| Prober::new(config, key(), 1, Duration::ZERO).map(|_| ());
    assert_eq!(new(config(9, 3)), Err(ConfigError::Interval(MS * 9)));
    assert_eq!(new(config(60_001, 3)), Err(ConfigError::Interval(MS * 60_001)));
    assert_eq!(new(config(1000, 0)), Err(ConfigError::Threshold(0)));
    assert_eq!(new(config(1000, 101)), Err(ConfigError::Threshold(101)));
    assert_eq!(new(Config { max_vlans: 0, ..Config::default() }), Err(ConfigError::Zero("max_vlans")));
    assert_eq!(new(Config { hysteresis: 0, ..Config::default() }), Err(ConfigError::Zero("hysteresis")));
    let mut prober = Prober::new(Config::default(), key(), 1, Duration::ZERO).unwrap();
    assert_eq!(prober.set_uplinks(&uplinks(0..33), Duration::ZERO), Err(ConfigError::Uplinks(33)));
    assert_eq!(prober.set_uplinks(&uplinks([1, 2, 1]), Duration::ZERO), Err(ConfigError::Twice(1)));
    assert_eq!(prober.set_uplinks(&uplinks((0..32).map(|n| n * 2000)), Duration::ZERO), Ok(()));
    assert_eq!(prober.next_due(), None, "no link, nothing to do");
}

#[test]
fn times_fit_the_promise() {
    for config in settings() {
        let t = config.timing();
        let tick = t.interval / t.slots;
        let bound = t.interval * (config.threshold + 2);
        assert!(t.window + t.hold + 2 * tick <= bound, "{config:?}");
        assert!(t.interval * t.rounds + t.jitter + 2 * tick <= bound, "{config:?}");
        assert!(t.patience + 2 * tick <= bound, "{config:?}");
        assert!(t.gap < 2 * t.interval && tick >= MS, "{config:?}");
    }
}

#[test]
fn unknown_first_then_healthy() {
    for uplinks in 2..=4 {
        let mut lab = Lab::new(config(1000, 3), uplinks, &[10]);
        lab.run_checked(MS * 3124, |lab| {
            assert!(lab.verdict(None).health.iter().all(|(_, health)| *health == Health::Unknown));
        });
        lab.run(MS * 40);
        for vlan in [None, Some(10), Some(11)] {
            let verdict = lab.verdict(vlan);
            assert!(verdict.health.iter().all(|(_, health)| *health == Health::Ok), "{verdict:?}");
            assert_eq!((verdict.outcome, verdict.shotgun, verdict.filtered), (Outcome::Whole, false, false));
        }
        assert!(lab.told().is_empty());
    }
}

#[test]
fn a_cut_path_is_failed_and_returns_within_the_bound() {
    for config in settings() {
        for uplinks in 3..=5 {
            let mut lab = Lab::settled(config.clone(), uplinks, &[10, 20]);
            lab.island[1] = 1;
            let took = lab.until(|lab| lab.verdict(None).of(1) == failed(Side::Both));
            assert!(took <= lab.bound(), "failed after {took:?} of {config:?}");
            assert!([0, 2].iter().all(|id| lab.verdict(Some(10)).of(*id) == Health::Ok));
            assert_eq!(lab.verdict(Some(20)).of(1), failed(Side::Both));
            assert_eq!(lab.told(), [("beacon.uplink.failed", Some(1), None)], "and not one for each VLAN");
            lab.island[1] = 0;
            let took = lab.until(|lab| lab.verdict(None).of(1) == Health::Ok);
            assert!(took <= lab.bound(), "back after {took:?} of {config:?}");
            assert!(took > config.interval * (config.timing().rounds - 1), "but not at the first beacon");
            assert_eq!(lab.told(), [("beacon.uplink.restored", Some(1), None)]);
        }
    }
}

#[test]
fn two_uplinks_tie() {
    for config in settings() {
        let mut lab = Lab::settled(config.clone(), 2, &[0]);
        lab.ports.get_mut(&0).unwrap().tx = false;
        let took = lab.until(|lab| lab.verdict(Some(0)).shotgun);
        assert!(took <= lab.bound(), "{took:?} of {config:?}");
        let verdict = lab.verdict(None);
        assert_eq!(verdict.health, [(0, Health::Unknown), (1, Health::Unknown)]);
        assert!(verdict.outcome == Outcome::Tie && !verdict.keeps_order());
        assert_eq!(lab.told(), [("beacon.shotgun.on", None, None)]);
        lab.ports.get_mut(&0).unwrap().tx = true;
        let took = lab.until(|lab| !lab.verdict(None).shotgun);
        assert!(took <= lab.bound(), "{took:?} of {config:?}");
        assert_eq!(lab.told(), [("beacon.shotgun.off", None, None)]);
    }
}

#[test]
fn a_tie_without_shotgun_keeps_the_order() {
    let mut lab = Lab::settled(Config { shotgun: false, ..config(100, 3) }, 2, &[0]);
    lab.island[1] = 1;
    lab.run(lab.bound());
    let verdict = lab.verdict(Some(0));
    assert!(verdict.keeps_order() && !verdict.shotgun && !verdict.filtered);
    assert_eq!(verdict.health, [(0, Health::Unknown), (1, Health::Unknown)]);
    assert_eq!(lab.told(), [("beacon.tie.on", None, None)]);
    // The setting changes while the tie lasts.
    lab.prober.set_config(Config { shotgun: true, ..config(100, 3) }, lab.now).unwrap();
    assert!(lab.verdict(None).shotgun);
    lab.run(MS);
    let told: Vec<_> = lab.prober.events().map(|event| event.id()).chain(lab.events.iter().map(Event::id)).collect();
    assert_eq!(told, ["beacon.tie.off", "beacon.shotgun.on"]);
}

#[test]
fn halves_and_filters_fail_no_one_whatever_the_phase() {
    for config in settings().filter(|config| config.interval <= MS * 100) {
        let mut lab = Lab::settled(config.clone(), 4, &[0, 7]);
        let usable = |lab: &Lab| {
            let all = [None, Some(0), Some(7)].map(|vlan| lab.verdict(vlan).health);
            assert!(all.iter().flatten().all(|(_, health)| !matches!(health, Health::Failed { .. })), "{config:?}");
        };
        let steps: [(&[usize], bool, Outcome); 6] = [
            (&[0, 0, 1, 1], false, Outcome::Tie),
            (&[0, 0, 0, 0], true, Outcome::Filtered),
            (&[0, 0, 0, 0], false, Outcome::Whole),
            (&[0, 1, 0, 1], false, Outcome::Tie),
            (&[0, 0, 0, 0], false, Outcome::Whole),
            (&[0, 1, 2, 3], false, Outcome::Filtered),
        ];
        for (islands, filtered, outcome) in steps {
            (lab.island, lab.filtered) = (islands.to_vec(), filtered);
            lab.run_checked(lab.bound(), usable);
            assert_eq!(lab.outcome(), outcome, "{config:?}");
            assert_eq!(
                (lab.verdict(Some(7)).filtered, lab.verdict(None).shotgun),
                (outcome == Outcome::Filtered, outcome == Outcome::Tie)
            );
            // Another phase next time.
            lab.run_checked(lab.interval() * 3 / 7, usable);
        }
        let told: Vec<_> = lab.told().into_iter().map(|(id, ..)| id).collect();
        let (on, off) = ("beacon.shotgun.on", "beacon.shotgun.off");
        let filter = ["beacon.filtered", "beacon.filtered.cleared"];
        assert_eq!(told, [on, off, filter[0], filter[1], on, off, filter[0]], "{config:?}");
    }
}

#[test]
fn a_vlan_missing_on_one_trunk_is_failed_there_only() {
    for uplinks in [3, 4] {
        let mut lab = Lab::settled(config(100, 3), uplinks, &[10, 20, 30]);
        lab.ports.get_mut(&2).unwrap().missing.insert(20);
        lab.run(lab.bound());
        assert_eq!(lab.verdict(Some(20)).of(2), failed(Side::Both));
        assert_eq!(lab.verdict(Some(20)).of(0), Health::Ok);
        for vlan in [None, Some(10), Some(30)] {
            assert!(lab.verdict(vlan).health.iter().all(|(_, health)| *health == Health::Ok));
        }
        lab.run(lab.bound());
        assert_eq!(lab.told(), [("beacon.vlan.failed", Some(2), Some(20))]);
        lab.ports.get_mut(&2).unwrap().missing.clear();
        lab.run(lab.bound());
        assert_eq!(lab.verdict(Some(20)).of(2), Health::Ok);
        lab.run(lab.bound());
        assert_eq!(lab.told(), [("beacon.vlan.restored", Some(2), Some(20))]);
        // Nowhere: an alarm for that VLAN, the uplinks are as they are.
        lab.ports.values_mut().for_each(|port| _ = port.missing.insert(20));
        lab.run(lab.bound() * 2);
        let verdict = lab.verdict(Some(20));
        assert!(verdict.filtered && !lab.verdict(None).filtered && !verdict.shotgun);
        assert_eq!(lab.told(), [("beacon.filtered", None, Some(20))]);
    }
}

#[test]
fn where_a_vlan_tells_nothing_all_vlans_together_tell() {
    let mut lab = Lab::settled(config(100, 3), 3, &[10, 20]);
    lab.ports.values_mut().for_each(|port| _ = port.missing.insert(20));
    lab.island[0] = 1;
    lab.run(lab.bound());
    let verdict = lab.verdict(Some(20));
    assert_eq!(verdict.health, [(0, failed(Side::Both)), (1, Health::Unknown), (2, Health::Unknown)]);
    assert!(verdict.filtered);
}

#[test]
fn the_dead_direction_is_told() {
    let mut lab = Lab::settled(config(100, 3), 3, &[0]);
    lab.ports.get_mut(&1).unwrap().tx = false;
    lab.run(lab.bound());
    assert_eq!(lab.verdict(None).of(1), failed(Side::Transmit));
    (lab.ports.get_mut(&1).unwrap().tx, lab.ports.get_mut(&1).unwrap().rx) = (true, false);
    lab.run(lab.bound());
    assert_eq!(lab.verdict(None).of(1), failed(Side::Receive));
    let event = |event: &Event| match event.kind {
        EventKind::Failed { uplink, side } => (uplink, side),
        other => panic!("{other:?}"),
    };
    assert_eq!(lab.events.iter().map(event).collect::<Vec<_>>(), [(1, Side::Transmit)]);
}

#[test]
fn up_to_threshold_less_one_losses_fail_no_one() {
    for config in settings() {
        for seed in 0..10 {
            let mut lab = Lab::new(config.clone(), 3, &[0]);
            lab.dice.0 = seed;
            (lab.loss, lab.delay) = (60, config.timing().jitter / 2);
            lab.run(lab.bound());
            lab.run_checked(config.interval * 20, |lab| {
                let verdict = lab.verdict(None);
                assert!(verdict.health.iter().all(|(_, health)| *health == Health::Ok), "{config:?} {verdict:?}");
            });
            assert!(lab.told().is_empty());
        }
    }
}

#[test]
fn a_path_that_lets_some_beacons_pass_proves_nothing() {
    for (uplinks, pass, block) in [(3, 100, 200), (3, 200, 200), (2, 100, 200), (2, 200, 200)] {
        let mut lab = Lab::settled(config(100, 3), uplinks, &[0]);
        lab.island[1] = 1;
        lab.run(lab.bound());
        for _ in 0..20 {
            lab.island[1] = 0;
            lab.run(MS * pass);
            lab.island[1] = 1;
            lab.run(MS * block);
            match uplinks {
                2 => assert!(lab.verdict(None).shotgun || lab.now > Duration::from_secs(101), "at least at first"),
                _ => assert!(matches!(lab.verdict(None).of(1), Health::Failed { .. }), "{pass} of {block}"),
            }
        }
    }
}

#[test]
fn failed_ones_that_are_most_return_at_once() {
    let mut lab = Lab::settled(config(100, 3), 5, &[0]);
    lab.island = vec![1, 1, 0, 0, 0];
    lab.run(lab.bound());
    assert_eq!(lab.verdict(None).of(1), failed(Side::Both));
    lab.set_link(2, false);
    assert!(!matches!(lab.verdict(None).of(1), Health::Failed { .. }), "a tie");
    lab.set_link(2, true);
    lab.run(lab.bound());
    assert_eq!(lab.verdict(None).of(1), failed(Side::Both));
    // Two are lost at once, before a verdict on the first.
    lab.ports.get_mut(&2).unwrap().tx = false;
    lab.ports.get_mut(&3).unwrap().tx = false;
    lab.run(lab.bound());
    let verdict = lab.verdict(None);
    assert_eq!((verdict.of(0), verdict.of(1), verdict.of(4)), (Health::Ok, Health::Ok, failed(Side::Both)));
}

#[test]
fn link_decides_at_once_and_the_last_one_is_never_failed() {
    let mut lab = Lab::settled(config(1000, 3), 3, &[0]);
    lab.island[0] = 1;
    lab.run(lab.bound());
    assert!(matches!(lab.verdict(None).of(0), Health::Failed { .. }));
    lab.set_link(1, false);
    let verdict = lab.verdict(None);
    assert_eq!(verdict.health, [(0, Health::Unknown), (1, Health::Unknown), (2, Health::Unknown)], "two are a tie");
    assert!(verdict.shotgun);
    lab.set_link(2, false);
    assert_eq!(lab.verdict(None).of(0), Health::Unknown);
    assert!(!lab.verdict(None).shotgun);
    let told = lab.told();
    let expected = [
        ("beacon.uplink.failed", Some(0), None),
        ("beacon.uplink.cleared", Some(0), None),
        ("beacon.shotgun.on", None, None),
        ("beacon.shotgun.off", None, None),
    ];
    assert_eq!(told, expected);
    // Back, dead from the start: unknown for the window, then failed.
    lab.island[0] = 0;
    lab.set_link(1, true);
    lab.run(lab.bound());
    lab.island[2] = 1;
    lab.set_link(2, true);
    lab.run(MS * 3100);
    assert_eq!(lab.verdict(None).of(2), Health::Unknown);
    lab.run(MS * 100);
    assert_eq!(lab.verdict(None).of(2), failed(Side::Both));
    lab.set_link(0, false);
    lab.set_link(1, false);
    lab.set_link(2, false);
    assert_eq!(lab.prober.next_due(), None);
}

#[test]
fn another_teams_uplink_is_a_witness() {
    let mut lab = Lab::new(config(100, 3), 3, &[0]);
    lab.prober.set_teams(&[vec![0, 1], vec![1, 0], vec![2]], lab.now);
    lab.island[1] = 1;
    lab.run(lab.bound());
    assert_eq!(lab.prober.verdict(&[1, 0], None).health, [(1, failed(Side::Both)), (0, Health::Ok)]);
    assert_eq!(lab.prober.verdict(&[2], None).health, [(2, Health::Unknown)]);
    assert_eq!(lab.told(), [("beacon.uplink.failed", Some(1), None)], "teams of the same uplinks are one");
    // Members that are no team: the same rules.
    let verdict = lab.prober.verdict(&[0, 1, 2, 9], Some(0));
    assert_eq!(verdict.outcome, Outcome::Split);
    assert_eq!((verdict.of(1), verdict.of(2), verdict.of(9)), (failed(Side::Both), Health::Ok, Health::Unknown));
}

#[test]
fn sending_is_spread_and_bounded() {
    for (ms, uplinks, vlans) in [(1000, 4, 100), (10, 4, 100), (1000, 32, 100), (100, 4, 1), (60_000, 2, 3)] {
        let vlans: Vec<u16> = (1..=vlans).map(|vlan| vlan * 32).collect();
        let mut lab = Lab::new(config(ms, 3), uplinks, &vlans);
        let loads = lab.prober.state.schedule.loads();
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(most - least <= 1, "{loads:?}");
        let mut sent = std::collections::BTreeMap::new();
        let mut now = lab.now;
        let mut frames = 0;
        while now < lab.now + MS * ms * 5 {
            let mut at_once = 0;
            lab.prober.poll(now, &mut |send| {
                at_once += 1;
                let beacon = decode(send.frame, &key()).unwrap();
                assert_eq!((beacon.uplink, beacon.vlan), (send.uplink, send.vlan));
                let before = sent.insert((send.uplink, send.vlan), now);
                assert!(before.is_none_or(|before| now - before == MS * ms), "one per interval");
            });
            assert!(at_once <= 100);
            frames += at_once;
            now = lab.prober.next_due().unwrap();
        }
        assert_eq!((frames, sent.len()), (5 * usize::from(uplinks) * vlans.len(), usize::from(uplinks) * vlans.len()));
    }
}

#[test]
fn a_change_of_vlans_makes_no_gap_for_those_that_stay() {
    let mut lab = Lab::settled(config(100, 1), 3, &[10]);
    lab.captured = Some(Vec::new());
    for round in 0..20u16 {
        let vlans: Vec<u16> = (0..round % 7).map(|n| 100 + n * 3 + round).chain([10]).collect();
        assert!(lab.prober.set_vlans(&vlans, lab.now).is_empty());
        lab.run_checked(MS * 70, |lab| assert_eq!(lab.outcome(), Outcome::Whole));
    }
    let on_ten = |frame: &&Captured| (frame.0, frame.1) == (1, 10);
    let times: Vec<Duration> = lab.captured.iter().flatten().filter(on_ten).map(|frame| frame.2).collect();
    assert!(times.len() >= 13 && times.windows(2).all(|pair| pair[1] - pair[0] == MS * 100), "{times:?}");
    // All others at once: what was heard lasts until the new ones are heard.
    for vlans in [[20, 21], [30, 31]] {
        lab.prober.set_vlans(&vlans, lab.now);
        lab.run_checked(lab.bound(), |lab| assert_eq!(lab.outcome(), Outcome::Whole));
    }
    assert!(lab.told().is_empty());
}

#[test]
fn the_first_vlans_are_probed_and_the_rest_follows_all_together() {
    let mut lab = Lab::new(Config { max_vlans: 2, ..config(100, 3) }, 3, &[]);
    assert_eq!(lab.prober.vlans().collect::<Vec<_>>(), [0], "nothing given: untagged");
    assert_eq!(lab.prober.set_vlans(&[30, 4095, 10, 30, 20], lab.now), [4095, 20]);
    assert_eq!(lab.prober.vlans().collect::<Vec<_>>(), [10, 30]);
    lab.island[1] = 1;
    lab.run(lab.bound());
    assert_eq!(lab.verdict(Some(20)).of(1), failed(Side::Both));
    assert_eq!(lab.told()[0], ("beacon.vlans.limited", None, None));
    lab.prober.set_config(Config { max_vlans: 1, ..config(100, 3) }, lab.now).unwrap();
    assert_eq!(lab.prober.vlans().collect::<Vec<_>>(), [30], "by the order given");
}

#[test]
fn uplinks_come_and_go_and_those_that_stay_keep_their_state() {
    let mut lab = Lab::settled(config(100, 3), 4, &[0]);
    lab.island[2] = 1;
    lab.run(lab.bound());
    lab.prober.set_uplinks(&uplinks([1, 2, 3, 9]), lab.now).unwrap();
    lab.ports.remove(&0);
    lab.prober.set_teams(&[vec![1, 2, 3]], lab.now);
    let verdict = lab.prober.verdict(&[1, 2, 3, 9], Some(0));
    assert_eq!((verdict.of(1), verdict.of(2), verdict.of(9)), (Health::Ok, failed(Side::Both), Health::Unknown));
    lab.run_checked(lab.bound(), |lab| assert_eq!(lab.prober.verdict(&[1, 2, 3], None).of(2), failed(Side::Both)));
    assert!(lab.prober.counters(0).is_none() && lab.prober.counters(1).unwrap().counted > 0);
}

#[test]
fn what_does_not_count_changes_counters_only() {
    let mut lab = Lab::settled(config(1000, 3), 3, &[10, 20]);
    lab.captured = Some(Vec::new());
    lab.run(MS * 3010);
    let sent = lab.captured.take().unwrap();
    // The last one of uplink 0 on VLAN 10.
    let frame = sent.iter().rev().find(|frame| (frame.0, frame.1) == (0, 10)).unwrap().3.clone();
    let beacon = decode(&frame, &key()).unwrap();
    let now = lab.now;
    let old = sent.iter().find(|frame| (frame.0, frame.1) == (0, 10)).unwrap().3.clone();
    let other = |switch: u8, secret: u8| Key::new(SwitchId([switch; 16]), &[secret; 32], DEFAULT_ETHERTYPE);
    let forged = |change: Beacon| encode(&change, &key()).to_vec();
    let next = beacon.sequence + 1;
    let cases: Vec<(&str, u16, u16, Vec<u8>, Received)> = vec![
        ("again", 1, 10, frame.clone(), Received::Replayed),
        ("an old one", 1, 10, old, Received::Replayed),
        ("from the future", 1, 10, forged(Beacon { sequence: u64::MAX, ..beacon }), Received::Replayed),
        ("another nonce", 1, 10, forged(Beacon { sequence: next, nonce: 6, ..beacon }), Received::Replayed),
        ("on another VLAN", 1, 20, frame.clone(), Received::Bad),
        ("on its own uplink", 0, 10, frame.clone(), Received::Reflected),
        ("by no uplink", 7, 10, frame.clone(), Received::Unprobed),
        ("from no uplink", 1, 10, forged(Beacon { uplink: 7, sequence: next, ..beacon }), Received::Unprobed),
        ("on no VLAN", 1, 11, forged(Beacon { vlan: 11, sequence: next, ..beacon }), Received::Unprobed),
        ("cut", 1, 10, frame[..BEACON_LEN - 1].to_vec(), Received::Bad),
        ("empty", 1, 10, vec![], Received::Bad),
        ("another switch's", 1, 10, encode(&beacon, &other(8, 9)).to_vec(), Received::Foreign),
        ("another key's", 1, 10, encode(&beacon, &other(7, 8)).to_vec(), Received::Forged),
    ];
    let before = lab.prober.state.clone();
    for (name, uplink, vlan, bytes, received) in cases {
        let counted = lab.prober.counters(uplink);
        assert_eq!(lab.prober.receive(uplink, vlan, &bytes, now), received, "{name}");
        assert!(before == lab.prober.state, "{name}");
        assert_eq!(lab.prober.counters(uplink) == counted, uplink == 7, "{name}");
    }
    assert!(lab.prober.counters(1).unwrap().last_foreign.is_some());
    assert_eq!(lab.prober.receive(1, 10, &forged(Beacon { sequence: next, ..beacon }), now), Received::Counted);
}

#[test]
fn a_beacon_caught_elsewhere_does_not_revive_a_dead_path() {
    let mut lab = Lab::settled(config(100, 3), 3, &[0]);
    lab.island[1] = 1;
    lab.captured = Some(Vec::new());
    lab.run(lab.bound() * 2);
    let sent = lab.captured.take().unwrap();
    let (now, window) = (lab.now, lab.prober.config().window());
    // Not from before a link was lost, though it be newer than what was heard.
    let mut flapped = lab.prober.clone();
    flapped.set_link(1, false, now);
    flapped.set_link(1, true, now);
    for (uplink, vlan, at, frame) in &sent {
        for to in (0..3).filter(|to| to != uplink) {
            let elsewhere = (*uplink == 1) != (to == 1);
            let received = lab.prober.receive(to, *vlan, frame, now);
            assert!(received == Received::Replayed || now - *at <= window && elsewhere, "{received:?}");
            let received = flapped.receive(to, *vlan, frame, now);
            assert!(received == Received::Replayed || *at == now, "{received:?}");
        }
    }
}

#[test]
fn a_caller_that_sleeps_fails_no_one() {
    for uplinks in [2, 3] {
        let mut lab = Lab::settled(config(10, 3), uplinks, &[0]);
        for sleep in [5, 50, 500, 5000, 3, 50_000] {
            lab.now += MS * sleep;
            lab.run_checked(MS * 60, |lab| assert_eq!(lab.outcome(), Outcome::Whole, "after {sleep} ms"));
        }
        // A timer that is a millisecond late each time.
        lab.delay = Duration::from_micros(1200);
        lab.run_checked(MS * 1000, |lab| assert_eq!(lab.outcome(), Outcome::Whole));
        lab.island[1] = 1;
        lab.run(lab.bound() * 2);
        assert_ne!(lab.outcome(), Outcome::Whole);
    }
}

#[test]
fn another_interval_begins_anew() {
    let mut lab = Lab::settled(config(1000, 3), 3, &[0]);
    lab.prober.set_config(config(50, 2), lab.now).unwrap();
    assert_eq!(lab.verdict(None).of(0), Health::Unknown);
    lab.run_checked(lab.bound(), |lab| assert!(matches!(lab.outcome(), Outcome::Unjudged | Outcome::Whole)));
    assert_eq!(lab.verdict(None).of(0), Health::Ok);
    assert_eq!(lab.prober.set_config(config(5, 2), lab.now), Err(ConfigError::Interval(MS * 5)));
    assert_eq!(lab.prober.config().interval, MS * 50);
}

#[test]
fn who_hears_whom_is_shown_and_sent() {
    let mut lab = Lab::settled(config(100, 3), 3, &[10, 20]);
    lab.ports.get_mut(&2).unwrap().missing.insert(20);
    lab.ports.get_mut(&1).unwrap().rx = false;
    lab.captured = Some(Vec::new());
    lab.run(lab.bound());
    let matrix = lab.prober.matrix(lab.now);
    let of = |from, to| matrix.iter().find(|heard| (heard.from, heard.to) == (from, to)).unwrap();
    assert_eq!(matrix.len(), 6);
    assert_eq!((of(0, 2).hears.clone(), of(0, 2).silent.clone()), (vec![10], vec![20]));
    assert_eq!((of(1, 0).hears.clone(), of(1, 0).silent.clone()), (vec![10, 20], vec![]));
    assert_eq!(of(0, 1).hears, Vec::<u16>::new());
    assert!(of(1, 0).age.unwrap() <= MS * 100 && of(0, 1).age.unwrap() > MS * 300);
    let last = |vlan| lab.captured.iter().flatten().rev().find(|frame| (frame.0, frame.1) == (0, vlan)).unwrap();
    let hears = |vlan| decode(&last(vlan).3, &key()).unwrap().hears;
    assert_eq!((hears(10), hears(20)), (0b110, 0b010));
}

#[test]
fn events_nobody_fetches_are_bounded() {
    let mut lab = Lab::settled(config(10, 1), 2, &[0]);
    for _ in 0..3000 {
        lab.prober.push_event(lab.now, EventKind::ShotgunOn, vec![], None);
    }
    assert_eq!(lab.prober.events().count(), EVENTS_MAX);
}
