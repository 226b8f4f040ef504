//! Teams case by case: order, health, policies, shotgun, events.

use std::collections::BTreeMap;
use std::time::Duration;

use teaming::{
    BUCKETS, Balancing, Beacon, Cause, Choice, EventKind, HashKind, Loads, Order, Settings, Team, UplinkLoad,
    UplinkState, Why, hash_mac,
};
use wire::Mac;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn mac(last: u8) -> Mac {
    Mac([0, 0x50, 0x56, 0, 0, last])
}

fn settings(active: &[u16], standby: &[u16]) -> Settings {
    let order = Order { active: active.to_vec(), standby: standby.to_vec(), failback: true };
    Settings { beacons: true, ..Settings::new(order) }
}

/// A team with link everywhere, and its events read.
fn up(settings: Settings) -> Team {
    let mut team = Team::with(settings);
    let all: Vec<u16> = team.settings().order.active.iter().chain(&team.settings().order.standby).copied().collect();
    team.set_links(all.into_iter().map(|u| (u, true)), ms(0));
    assert!(team.events().is_empty(), "a team that starts whole has nothing to tell");
    team
}

fn balanced(active: &[u16], balancing: Balancing) -> Team {
    up(Settings { balancing, beacons: balancing != Balancing::IpHash, ..settings(active, &[]) })
}

fn ids(team: &mut Team) -> Vec<&'static str> {
    team.events().iter().map(|e| e.kind.id()).collect()
}

fn places(team: &mut Team, ports: u16) -> Vec<Option<u16>> {
    (0..ports).map(|p| team.uplink_for(p)).collect()
}

fn table(team: &mut Team) -> [u16; BUCKETS] {
    match team.place(0, mac(0)).send {
        Choice::Hash { table, .. } => *table,
        other => panic!("a hash policy gives a table, not {other:?}"),
    }
}

#[test]
fn ports_spread_and_only_the_failed_uplinks_ports_move() {
    let mut team = balanced(&[0, 1, 2], Balancing::PortId);
    let before = places(&mut team, 9);
    assert_eq!(before, [0, 1, 2, 0, 1, 2, 0, 1, 2].map(Some));
    assert!(team.set_links([(1, false)], ms(10)));
    let after = places(&mut team, 9);
    assert_eq!(after, [0, 0, 2, 0, 2, 2, 0, 0, 2].map(Some), "the displaced fill up the emptiest");
    assert!(!team.tick(ms(20)));
    team.set_links([(1, true)], ms(20));
    assert_eq!(places(&mut team, 9), after, "the up-delay runs");
    assert!(team.tick(ms(120)));
    assert_eq!(places(&mut team, 9), before, "and home");
}

#[test]
fn one_port_teams_do_not_all_fail_over_to_one_uplink() {
    let mut teams: Vec<Team> = (0..8).map(|_| balanced(&[0, 1, 2], Balancing::PortId)).collect();
    let mut on: BTreeMap<Option<u16>, u32> = BTreeMap::new();
    for (index, team) in teams.iter_mut().enumerate() {
        let port = index as u16 * 3;
        assert_eq!(team.uplink_for(port), Some(0));
        team.set_links([(0, false)], ms(1));
        *on.entry(team.uplink_for(port)).or_default() += 1;
    }
    assert_eq!(on, BTreeMap::from([(Some(1), 4), (Some(2), 4)]));
}

#[test]
fn standby_is_promoted_in_order_and_demoted() {
    let mut team = up(settings(&[0], &[1, 2]));
    assert_eq!((team.uplink_for(5), team.state(1)), (Some(0), UplinkState::Standby));
    team.set_links([(0, false)], ms(1));
    assert_eq!(team.uplink_for(5), Some(1));
    assert_eq!((team.status(0).why, team.status(1).why), (Why::NoLink, Why::Promoted));
    team.set_links([(1, false)], ms(2));
    assert_eq!(team.uplink_for(5), Some(2));
    team.set_links([(0, true)], ms(3));
    assert_eq!(team.status(0).why, Why::UpDelay(ms(103)));
    assert_eq!((team.next_due(), team.tick(ms(102)), team.tick(ms(103))), (Some(ms(103)), false, true));
    assert_eq!(
        (team.uplink_for(5), team.state(2), team.state(1)),
        (Some(0), UplinkState::Standby, UplinkState::Failed)
    );
    assert_eq!(team.next_due(), None);
}

#[test]
fn one_standby_for_each_missing_active() {
    let mut team = up(settings(&[0, 1], &[2, 3, 4]));
    team.set_links([(1, false), (2, false)], ms(1));
    assert_eq!(team.in_use(), [0, 3]);
    team.set_links([(0, false)], ms(2));
    assert_eq!(team.in_use(), [3, 4]);
}

#[test]
fn a_standby_takes_the_place_of_the_one_it_stands_in_for() {
    for failback in [true, false] {
        let mut order = settings(&[0, 1, 2], &[3, 4]);
        order.order.failback = failback;
        let mut team = up(order);
        places(&mut team, 6);
        team.set_links([(0, false), (2, false)], ms(1));
        assert_eq!(places(&mut team, 9), [3, 1, 4, 3, 1, 4, 3, 1, 4].map(Some), "failback {failback}");
        team.set_links([(4, false)], ms(2));
        let now = places(&mut team, 9);
        let even = |uplink| now.iter().filter(|u| **u == Some(uplink)).count();
        assert!(even(3) + even(1) == 9 && even(3).abs_diff(even(1)) == 1, "with no stand-in left, evenly: {now:?}");
        assert_eq!((now[0], now[1], now[3], now[4]), (Some(3), Some(1), Some(3), Some(1)), "the others stay");
    }
}

#[test]
fn the_up_delay_never_leaves_a_port_dark() {
    let mut team = up(Settings { up_delay: Duration::from_secs(600), ..settings(&[0, 1], &[]) });
    team.set_links([(0, false), (1, false)], ms(1));
    assert_eq!(team.place(0, mac(0)).send, Choice::None);
    assert!(team.set_links([(1, true)], ms(2)), "with none in use there is no waiting");
    assert_eq!(team.uplink_for(0), Some(1));
    team.set_links([(0, true)], ms(3));
    assert_eq!((team.uplink_for(0), team.state(0)), (Some(1), UplinkState::Failed));
    team.set_links([(1, false)], ms(4));
    assert_eq!(team.uplink_for(0), Some(0), "the wait ends when it is the last");
}

#[test]
fn the_up_delay_starts_anew_and_may_be_off() {
    let mut team = up(settings(&[0, 1], &[]));
    for at in [10, 60] {
        team.set_links([(0, false)], ms(at));
        team.set_links([(0, true)], ms(at + 10));
    }
    assert_eq!(team.next_due(), Some(ms(170)));
    let mut team = up(Settings { up_delay: Duration::ZERO, ..settings(&[0, 1], &[]) });
    team.set_links([(0, false)], ms(1));
    team.set_links([(0, true)], ms(1));
    assert_eq!((team.uplink_for(0), team.next_due()), (Some(0), None));
}

#[test]
fn without_failback_the_returned_uplink_queues_up() {
    let mut order = settings(&[0], &[1]);
    order.order.failback = false;
    let mut team = up(order);
    assert_eq!(team.uplink_for(0), Some(0));
    team.set_links([(0, false)], ms(1));
    team.set_links([(0, true)], ms(2));
    team.tick(ms(200));
    assert_eq!((team.uplink_for(0), team.state(0)), (Some(1), UplinkState::Standby));
    team.set_links([(1, false)], ms(300));
    assert_eq!(team.uplink_for(0), Some(0));
}

#[test]
fn without_failback_ports_and_buckets_stay() {
    for balancing in [Balancing::PortId, Balancing::MacHash, Balancing::Explicit] {
        let mut order = Settings { balancing, ..settings(&[0, 1], &[]) };
        order.order.failback = false;
        let mut team = up(order);
        team.place(0, mac(0));
        team.set_links([(0, false)], ms(1));
        let moved = team.place(0, mac(0)).send;
        team.set_links([(0, true)], ms(2));
        team.tick(ms(200));
        assert_eq!(team.place(0, mac(0)).send, moved, "{balancing:?}");
        team.set_links([(1, false)], ms(300));
        assert_eq!(team.place(0, mac(0)).designated(), Some(0), "{balancing:?}");
    }
}

#[test]
fn an_uplink_that_never_worked_has_not_failed() {
    // Standby has link first: the active one still gets its place, failback or not.
    for failback in [true, false] {
        let mut order = settings(&[1], &[0]);
        order.order.failback = failback;
        let mut team = Team::with(order);
        team.set_links([(0, true)], ms(1));
        assert_eq!(team.uplink_for(0), Some(0));
        team.set_links([(1, true)], ms(2));
        assert_eq!((team.uplink_for(0), team.state(0)), (Some(1), UplinkState::Standby), "failback {failback}");
    }
    // And buckets do not all stay where the first link was.
    let mut order = Settings { balancing: Balancing::MacHash, ..settings(&[0, 1], &[]) };
    order.order.failback = false;
    let mut team = Team::with(order);
    assert!(team.set_link(0, true) && team.set_link(1, true));
    assert_eq!(team.status(1).places, BUCKETS / 2);
}

#[test]
fn what_is_in_no_list_is_unused() {
    let mut team = up(settings(&[0], &[]));
    assert!(!team.set_links([(7, true)], ms(1)) && !team.set_beacon(7, Beacon::Failed, ms(1)));
    assert_eq!((team.state(7), team.status(7).why), (UplinkState::Unused, Why::NotInOrder));
    assert!(team.has_uplinks() && team.events().is_empty());
    let mut none = Team::with(settings(&[], &[]));
    assert!(!none.has_uplinks() && !none.set_links([(0, true)], ms(1)));
    assert_eq!((none.place(0, mac(0)).send, none.events().len()), (Choice::None, 0));
}

#[test]
fn a_team_of_settings_that_are_refused_still_works() {
    let mut team = up(settings(&[], &[3, 3, 4]));
    assert_eq!((team.uplink_for(0), team.in_use()), (Some(3), &[3][..]));
    let mut twice = up(settings(&[0, 0, 1], &[1, 2]));
    assert_eq!(
        (places(&mut twice, 4), twice.state(2)),
        (vec![Some(0), Some(1), Some(0), Some(1)], UplinkState::Standby)
    );
    let mut hash = up(Settings { balancing: Balancing::IpHash, ..settings(&[0, 1], &[]) });
    assert!(!hash.set_shotgun(&[vec![0], vec![1]], ms(1)));
    hash.set_beacon(0, Beacon::Failed, ms(1));
    assert_eq!(hash.in_use(), [0, 1], "beacons do not count with ip-hash");
}

#[test]
fn explicit_sends_all_by_the_first_that_works() {
    let mut team = up(Settings { balancing: Balancing::Explicit, ..settings(&[2, 0], &[1]) });
    assert_eq!((places(&mut team, 3), team.state(0)), (vec![Some(2); 3], UplinkState::Standby));
    team.set_links([(2, false)], ms(1));
    assert_eq!(places(&mut team, 3), [Some(0); 3]);
    assert!(matches!(team.events()[0].kind, EventKind::Failover { from: 2, promoted: Some(0), moved: 3, .. }));
    team.set_beacon(0, Beacon::Failed, ms(2));
    assert_eq!(places(&mut team, 3), [Some(1); 3]);
    team.set_links([(2, true)], ms(3));
    team.tick(ms(103));
    assert_eq!(places(&mut team, 3), [Some(2); 3]);
}

#[test]
fn mac_hash_spreads_buckets_and_moves_only_the_failed_ones() {
    let mut team = balanced(&[4, 5, 6], Balancing::MacHash);
    let before = table(&mut team);
    assert_eq!(before[..6], [4, 5, 6, 4, 5, 6], "as ESX: the last byte modulo the uplinks");
    let placement = team.place(1, mac(5));
    assert_eq!(placement.designated(), Some(6));
    assert_eq!((placement.receive.group.to_vec(), placement.receive.unicast.to_vec()), (vec![6], vec![4, 5, 6]));
    assert_eq!(placement.send.announce_by(mac(5)), [6]);
    assert!(matches!(placement.send, Choice::Hash { kind: HashKind::Mac, .. }));

    team.set_links([(5, false)], ms(1));
    let after = table(&mut team);
    for bucket in 0..BUCKETS {
        assert!(after[bucket] != 5 && (before[bucket] == 5 || after[bucket] == before[bucket]));
    }
    assert_eq!((team.status(4).places, team.status(6).places), (128, 128));
    assert!(matches!(team.events()[0].kind, EventKind::Failover { from: 5, moved: 85, cause: Cause::Link, .. }));
    team.set_links([(5, true)], ms(2));
    team.tick(ms(102));
    assert_eq!(table(&mut team), before);
}

#[test]
fn ip_hash_takes_group_frames_from_any_and_announces_nothing() {
    let mut team = balanced(&[0, 1], Balancing::IpHash);
    let placement = team.place(3, mac(1));
    assert!(matches!(placement.send, Choice::Hash { kind: HashKind::Ip, .. }));
    assert_eq!(placement.receive.group.to_vec(), [0, 1]);
    assert!(placement.send.announce_by(mac(1)).is_empty());
    let mut frame = [0u8; 60];
    (frame[12], frame[29], frame[33]) = (8, 6, 3);
    assert_eq!(placement.send.pick(&frame), Some(1));
    team.set_links([(1, false)], ms(1));
    assert_eq!(team.place(3, mac(1)).send.pick(&frame), Some(0));
    team.set_links([(0, false)], ms(1));
    assert_eq!((team.place(3, mac(1)).send, team.place(3, mac(1)).designated()), (Choice::None, None));
}

#[test]
fn what_a_frame_is_picked_by_is_what_its_address_is_announced_by() {
    let mut team = balanced(&[0, 1, 2], Balancing::MacHash);
    for last in 0..=255 {
        let send = team.place(0, mac(last)).send;
        let mut frame = [0u8; 60];
        frame[6..12].copy_from_slice(&mac(last).0);
        assert_eq!(send.pick(&frame).map(|u| vec![u]), Some(send.announce_by(mac(last))));
        assert_eq!(HashKind::Mac.bucket(&frame), hash_mac(mac(last)));
        assert_eq!(HashKind::Mac.bucket(&frame[..11]), 0);
    }
}

#[test]
fn a_beacon_verdict_fails_over_and_back() {
    let mut team = up(settings(&[0, 1], &[2]));
    assert_eq!(team.uplink_for(0), Some(0));
    assert!(team.set_beacon(0, Beacon::Failed, ms(5)));
    assert_eq!((team.uplink_for(0), team.status(0).why), (Some(2), Why::BeaconFailed));
    let events = team.events();
    assert!(events.iter().all(|e| e.at == ms(5)));
    assert_eq!(
        events.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [
            EventKind::BeaconFailed { uplink: 0 },
            EventKind::Failover { from: 0, cause: Cause::Beacon, moved: 1, promoted: Some(2) },
            EventKind::RedundancyDegraded { working: 2, of: 3 },
        ]
    );
    assert!(team.set_beacon(0, Beacon::Ok, ms(6)) || team.state(0) == UplinkState::Failed);
    team.tick(ms(106));
    assert_eq!(team.uplink_for(0), Some(0));
    assert_eq!(ids(&mut team), ["team.beacon.restored", "team.failback", "team.redundancy.restored"]);
}

#[test]
fn with_link_detection_beacon_verdicts_are_only_shown() {
    let mut team = up(Settings { beacons: false, ..settings(&[0, 1], &[]) });
    assert!(!team.set_beacon(0, Beacon::Failed, ms(1)) && !team.set_shotgun(&[vec![0], vec![1]], ms(1)));
    assert_eq!((team.uplink_for(0), team.status(0).beacon), (Some(0), Beacon::Failed));
    assert!(team.events().is_empty());
}

#[test]
fn beacons_that_fail_everywhere_are_ignored() {
    let mut team = up(settings(&[0, 1, 2], &[]));
    let before = places(&mut team, 3);
    team.set_beacons([(0, Beacon::Failed), (1, Beacon::Failed), (2, Beacon::Failed)], ms(1));
    assert_eq!(places(&mut team, 3), before);
    assert_eq!((team.state(1), team.status(1).why), (UplinkState::Active, Why::BeaconsIgnored));
    assert!(ids(&mut team).contains(&"team.beacon.ignored"));
    // One good one is enough to believe the others' verdicts.
    team.set_beacon(2, Beacon::Ok, ms(2));
    assert_eq!(places(&mut team, 3), [Some(2); 3]);
    assert!(ids(&mut team).contains(&"team.beacon.trusted"));
    // And when that one goes, link states count again, at once.
    team.set_links([(2, false)], ms(3));
    assert!(places(&mut team, 3).iter().all(|u| matches!(u, Some(0 | 1))));
    // Verdicts that come together are one change: nobody waits who carries traffic.
    team.set_beacons([(0, Beacon::Ok), (1, Beacon::Ok)], ms(4));
    assert_eq!(team.in_use(), [0, 1]);
}

#[test]
fn shotgun_sends_by_all_and_receives_by_one_of_each_part() {
    let mut team = up(settings(&[0, 1, 2], &[3]));
    assert!(team.set_shotgun(&[vec![0, 1], vec![2, 3]], ms(1)));
    assert!(!team.set_shotgun(&[vec![0, 1], vec![2, 3]], ms(2)));
    let placement = team.place(1, mac(1));
    assert_eq!(placement.send, Choice::All([0, 1, 2, 3].into()));
    assert_eq!(placement.receive.group.to_vec(), [1, 2]);
    assert_eq!(placement.receive.unicast.to_vec(), [0, 1, 2, 3]);
    assert_eq!(placement.send.announce_by(mac(1)), [0, 1, 2, 3]);
    assert_eq!(
        (team.state(3), team.status(3).why, placement.send.pick(&[0; 60])),
        (UplinkState::Active, Why::Shotgun, None)
    );
    // Other parts with the same uplinks change what is received.
    assert!(team.set_shotgun(&[vec![0, 2], vec![1, 3]], ms(3)));
    assert_eq!(team.place(1, mac(1)).receive.group.to_vec(), [1, 0]);
    team.set_links([(2, false)], ms(4));
    assert_eq!(team.place(2, mac(1)).send, Choice::All([0, 1, 3].into()));
    assert!(team.set_shotgun(&[], ms(5)) && !team.shotgun());
    assert_eq!(team.place(1, mac(1)).send, Choice::One(1));
    let said = ids(&mut team);
    assert!(said.contains(&"team.shotgun.on") && said.contains(&"team.shotgun.off"), "{said:?}");
}

#[test]
fn shotgun_includes_the_standby_one_and_ends_where_it_began() {
    let mut team = up(settings(&[0], &[1]));
    assert_eq!(team.place(9, mac(9)).send, Choice::One(0));
    team.set_shotgun(&[vec![0], vec![1]], ms(1));
    assert_eq!(team.place(9, mac(9)).receive.group.to_vec(), [0, 1]);
    team.set_links([(0, false)], ms(2));
    assert_eq!(team.place(9, mac(9)).send, Choice::One(1), "one left is no shotgun");
    team.set_links([(0, true)], ms(3));
    team.tick(ms(103));
    team.set_shotgun(&[], ms(104));
    assert_eq!(team.place(9, mac(9)).send, Choice::One(0));
}

#[test]
fn redundancy_and_connectivity_are_told() {
    let mut team = up(settings(&[0, 1, 2], &[]));
    team.uplink_for(0);
    for (change, said) in [
        (vec![(0, false)], vec!["team.failover", "team.redundancy.degraded"]),
        (vec![(1, false)], vec!["team.failover", "team.redundancy.lost"]),
        (vec![(2, false)], vec!["team.connectivity.lost"]),
        (vec![(1, true)], vec!["team.connectivity.restored", "team.redundancy.lost"]),
        (vec![(1, false)], vec!["team.connectivity.lost"]),
        (vec![(0, true), (1, true), (2, true)], vec!["team.connectivity.restored", "team.redundancy.restored"]),
    ] {
        team.set_links(change.clone(), ms(1));
        assert_eq!(ids(&mut team), said, "{change:?}");
    }
}

#[test]
fn a_team_that_starts_short_says_so() {
    let mut team = Team::with(settings(&[0, 1], &[]));
    team.set_links([(0, true), (1, false)], ms(0));
    assert_eq!(ids(&mut team), ["team.redundancy.lost"]);
    let mut dark = Team::with(settings(&[0], &[]));
    dark.set_links([(0, false)], ms(0));
    assert_eq!(ids(&mut dark), ["team.connectivity.lost"]);
}

#[test]
fn events_have_names_and_sentences_and_do_not_pile_up() {
    let mut team = up(Settings { up_delay: Duration::ZERO, ..settings(&[0, 1], &[]) });
    for round in 0..1000u64 {
        team.set_links([(0, round % 2 == 1)], ms(round));
    }
    let events = team.events();
    assert_eq!(events.len(), 256);
    let text = events[0].kind.sentence(|u| format!("vmnic{u}"), |p| format!("port{p}"));
    assert!(text.contains("vmnic"), "{text}");
}

fn loads(uplinks: &[(u16, u64)], ports: &[(u16, u64)]) -> Loads {
    let uplinks =
        uplinks.iter().map(|(uplink, used)| UplinkLoad { uplink: *uplink, used: *used, capacity: 100 }).collect();
    Loads { uplinks, ports: ports.iter().copied().collect() }
}

#[test]
fn load_moves_the_busiest_port_after_the_interval() {
    let mut team = balanced(&[0, 1, 2], Balancing::Load);
    assert_eq!(places(&mut team, 6), [0, 1, 2, 0, 1, 2].map(Some), "starts as port-id");
    let mut busy = loads(&[(0, 80), (1, 30), (2, 10)], &[(0, 30), (3, 50), (1, 30), (2, 10)]);
    assert_eq!(team.next_due(), Some(Duration::from_secs(30)));
    assert!(!team.balance(&mut busy, ms(29_999)));
    assert!(team.wants_loads(ms(30_000)) && team.balance(&mut busy, ms(30_000)));
    assert_eq!(places(&mut team, 6), [0, 1, 2, 2, 1, 2].map(Some));
    assert_eq!(team.events()[0].kind, EventKind::LoadMoved { port: 3, from: 0, to: 2 });
    assert_eq!((busy.uplinks[0].used, busy.uplinks[2].used), (30, 60), "the next team sees it");
    assert!(!team.balance(&mut busy, ms(30_001)) && !team.balance(&mut busy, ms(60_000)));
    // The new place is home.
    team.set_links([(2, false)], ms(60_001));
    assert_ne!(team.uplink_for(3), Some(2));
    team.set_links([(2, true)], ms(60_002));
    team.tick(ms(61_000));
    assert_eq!(team.uplink_for(3), Some(2));
}

#[test]
fn load_moves_nothing_that_helps_nobody() {
    for (why, uplinks, ports) in [
        ("75 per cent is not above it", vec![(0, 75), (1, 0)], vec![(0, 75)]),
        ("one port that fills any uplink stays", vec![(0, 90), (1, 0)], vec![(0, 90)]),
        ("all are busy", vec![(0, 90), (1, 90)], vec![(0, 50), (2, 40)]),
        ("what others sent is not ours to move", vec![(0, 90), (1, 0)], vec![]),
    ] {
        let mut team = balanced(&[0, 1], Balancing::Load);
        places(&mut team, 4);
        assert!(!team.balance(&mut loads(&uplinks, &ports), ms(30_000)), "{why}");
    }
    let mut team = balanced(&[0, 1], Balancing::Load);
    places(&mut team, 4);
    let mut unknown = loads(&[(0, 90), (1, 0)], &[(0, 50), (2, 40)]);
    unknown.uplinks[1].capacity = 0;
    assert!(!team.balance(&mut unknown, ms(30_000)), "no capacity known, no place to go");
    let mut elephant = loads(&[(0, 95), (1, 0)], &[(0, 95 - 5), (2, 5)]);
    assert!(team.balance(&mut elephant, ms(60_000)));
    assert_eq!(team.uplink_for(0), Some(1), "with a mouse beside it, the elephant gains by moving");
}

#[test]
fn load_rule_is_settable_and_other_policies_do_not_look() {
    let mut rule = Settings { balancing: Balancing::Load, ..settings(&[0, 1], &[]) };
    (rule.load.percent, rule.load.interval) = (10, Duration::from_secs(1));
    let mut team = up(rule);
    places(&mut team, 4);
    assert!(team.balance(&mut loads(&[(0, 11), (1, 0)], &[(0, 6), (2, 5)]), ms(1000)));
    let mut other = balanced(&[0, 1], Balancing::PortId);
    assert!(!other.wants_loads(ms(1_000_000)) && !other.balance(&mut Loads::default(), ms(1_000_000)));
}

#[test]
fn a_forgotten_port_counts_no_longer() {
    let mut team = balanced(&[0, 1], Balancing::PortId);
    places(&mut team, 4);
    assert_eq!(team.status(0).places, 2);
    team.forget(0);
    assert_eq!(team.status(0).places, 1);
}

#[test]
fn a_team_without_a_clock_acts_at_once() {
    let mut team = Team::new(Order { active: vec![0, 1], standby: vec![], failback: true });
    assert!(team.set_link(0, true) && team.set_link(1, true) && !team.set_link(1, true));
    assert_eq!(places(&mut team, 2), [Some(0), Some(1)]);
    assert!(team.set_link(0, false));
    assert_eq!(places(&mut team, 2), [Some(1), Some(1)]);
    assert!(team.set_link(0, true));
    assert_eq!(places(&mut team, 2), [Some(0), Some(1)]);
}
