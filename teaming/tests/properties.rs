//! What holds of any team, whatever happens to it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use teaming::{BUCKETS, Balancing, Beacon, Choice, Loads, Order, Settings, Team, UplinkLoad, UplinkState};
use wire::Mac;

const PORTS: u16 = 10;
const UPLINKS: u16 = 6;

fn mac(port: u16) -> Mac {
    Mac([0, 0x50, 0x56, 0, 0, port as u8])
}

#[derive(Clone, Debug)]
enum Step {
    Links(Vec<(u16, bool)>),
    Beacons(Vec<(u16, Beacon)>),
    Shotgun(Vec<Vec<u16>>),
    Wait(u64),
    Load(Vec<u64>),
}

fn beacon() -> impl Strategy<Value = Beacon> {
    prop_oneof![Just(Beacon::Ok), Just(Beacon::Failed), Just(Beacon::Unknown)]
}

fn step() -> impl Strategy<Value = Step> {
    let uplink = 0..UPLINKS;
    prop_oneof![
        4 => proptest::collection::vec((uplink.clone(), any::<bool>()), 1..3).prop_map(Step::Links),
        3 => proptest::collection::vec((uplink.clone(), beacon()), 1..3).prop_map(Step::Beacons),
        1 => proptest::collection::vec(proptest::collection::vec(uplink, 1..3), 0..3).prop_map(Step::Shotgun),
        3 => (1u64..200).prop_map(Step::Wait),
        1 => proptest::collection::vec(0u64..60, usize::from(PORTS)).prop_map(Step::Load),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let balancing = prop_oneof![
        Just(Balancing::PortId),
        Just(Balancing::MacHash),
        Just(Balancing::IpHash),
        Just(Balancing::Load),
        Just(Balancing::Explicit)
    ];
    let order = (Just((0..UPLINKS).collect::<Vec<_>>()).prop_shuffle(), 1usize..4, 0usize..3);
    (balancing, order, any::<bool>(), any::<bool>(), 0u64..150).prop_map(
        |(balancing, (uplinks, active, standby), failback, beacons, delay)| {
            let hash = balancing == Balancing::IpHash;
            let standby = if hash { 0 } else { standby };
            let order = Order {
                active: uplinks[..active].to_vec(),
                standby: uplinks[active..active + standby].to_vec(),
                failback,
            };
            let up_delay = Duration::from_millis(delay);
            Settings { balancing, beacons: beacons && !hash, up_delay, ..Settings::new(order) }
        },
    )
}

/// A team and what it was told.
struct Run {
    team: Team,
    now: Duration,
    link: BTreeMap<u16, bool>,
    beacon: BTreeMap<u16, Beacon>,
}

impl Run {
    fn new(settings: Settings) -> Run {
        assert!(settings.validate(|u| u.to_string()).is_empty());
        let mut team = Team::with(settings);
        (0..PORTS).for_each(|p| _ = team.place(p, mac(p)));
        Run { team, now: Duration::ZERO, link: BTreeMap::new(), beacon: BTreeMap::new() }
    }

    fn order(&self) -> Vec<u16> {
        let order = &self.team.settings().order;
        order.active.iter().chain(&order.standby).copied().collect()
    }

    fn has_link(&self, uplink: u16) -> bool {
        self.link.get(&uplink).copied().unwrap_or(false)
    }

    /// Link, and no verdict against it that counts.
    fn good(&self, uplink: u16) -> bool {
        let failed = self.team.settings().beacons && self.beacon.get(&uplink) == Some(&Beacon::Failed);
        self.has_link(uplink) && !failed
    }

    fn apply(&mut self, step: &Step) -> bool {
        match step {
            Step::Links(links) => {
                self.link.extend(links.iter().copied());
                self.team.set_links(links.iter().copied(), self.now)
            }
            Step::Beacons(verdicts) => {
                self.beacon.extend(verdicts.iter().copied());
                self.team.set_beacons(verdicts.iter().copied(), self.now)
            }
            Step::Shotgun(parts) => self.team.set_shotgun(parts, self.now),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(*ms);
                self.team.tick(self.now)
            }
            Step::Load(ports) => {
                self.now += Duration::from_secs(30);
                let ticked = self.team.tick(self.now);
                let uplinks = (0..UPLINKS).map(|uplink| UplinkLoad { uplink, used: 90, capacity: 100 }).collect();
                let mut loads = Loads { uplinks, ports: (0..PORTS).zip(ports.iter().copied()).collect() };
                loads.uplinks[0].used = 0;
                ticked | self.team.balance(&mut loads, self.now)
            }
        }
    }

    /// Where each port (or bucket) is.
    fn places(&mut self) -> Vec<Option<u16>> {
        if matches!(self.team.settings().balancing, Balancing::MacHash | Balancing::IpHash) {
            return match self.team.place(0, mac(0)).send {
                Choice::Hash { table, .. } => table.iter().map(|u| Some(*u)).collect(),
                Choice::None => vec![None; BUCKETS],
                // In shotgun the table is not shown.
                _ => Vec::new(),
            };
        }
        (0..PORTS).map(|p| self.team.uplink_for(p)).collect()
    }

    fn sends(&mut self, port: u16) -> Vec<u16> {
        match self.team.place(port, mac(port)).send {
            Choice::None => Vec::new(),
            Choice::One(uplink) => vec![uplink],
            Choice::Hash { table, .. } => table.to_vec(),
            Choice::All(uplinks) => uplinks.to_vec(),
        }
    }
}

fn check(run: &mut Run) -> Result<(), TestCaseError> {
    let order = run.order();
    let any_link = order.iter().any(|u| run.has_link(*u));
    let any_good = order.iter().any(|u| run.good(*u));
    for port in 0..PORTS {
        let sends = run.sends(port);
        prop_assert_eq!(sends.is_empty(), !any_link, "dark only when no uplink has link");
        for uplink in sends {
            prop_assert!(order.contains(&uplink), "never an unused uplink");
            prop_assert!(run.has_link(uplink), "never one without link");
            prop_assert!(run.good(uplink) || !any_good, "never a failed one while a good one is there");
        }
        let receive = run.team.place(port, mac(port)).receive;
        prop_assert_eq!(&*receive.unicast, run.team.in_use());
        prop_assert_eq!(receive.group.is_empty(), !any_link);
        prop_assert!(receive.group.iter().all(|u| receive.unicast.contains(u)));
        let lag = run.team.settings().balancing == Balancing::IpHash;
        prop_assert!(lag || run.team.shotgun() || receive.group.len() <= 1, "one designated uplink");
    }
    for uplink in 0..UPLINKS {
        let carries = run.team.in_use().contains(&uplink);
        let state = run.team.state(uplink);
        prop_assert_eq!(state == UplinkState::Active, carries);
        prop_assert_eq!(state == UplinkState::Unused, !order.contains(&uplink));
    }
    check_order(run)
}

/// Who is in use is right by the order: nobody stands by who comes before a standby in use.
fn check_order(run: &Run) -> Result<(), TestCaseError> {
    let settings = run.team.settings();
    if run.team.shotgun() || !settings.order.failback {
        return Ok(());
    }
    let order = run.order();
    let width = if settings.balancing == Balancing::Explicit { 1 } else { settings.order.active.len() };
    let works: Vec<u16> = order.iter().copied().filter(|u| run.team.state(*u) != UplinkState::Failed).collect();
    let (active, standby) = order.split_at(width);
    let mut expected: Vec<u16> = works.iter().copied().filter(|u| active.contains(u)).collect();
    let missing = width - expected.len();
    expected.extend(works.iter().copied().filter(|u| standby.contains(u)).take(missing));
    prop_assert_eq!(run.team.in_use(), &expected[..]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_dark_never_failed_never_unused(settings in settings(), steps in proptest::collection::vec(step(), 1..40)) {
        let mut run = Run::new(settings);
        for step in &steps {
            run.apply(step);
            check(&mut run)?;
        }
    }

    /// A change moves no port and no bucket whose uplink still carries traffic, but home when the team
    /// fails back, or for load.
    #[test]
    fn places_are_sticky(settings in settings(), steps in proptest::collection::vec(step(), 1..40)) {
        let (balancing, failback) = (settings.balancing, settings.order.failback);
        let (active, beacons) = (settings.order.active.clone(), settings.beacons);
        let mut run = Run::new(settings);
        // All work once, so that every later return is one.
        let all: Vec<_> = (0..UPLINKS).map(|u| (u, true)).collect();
        run.apply(&Step::Links(all));
        let home = run.places();
        if balancing != Balancing::Explicit {
            for (key, at) in home.iter().enumerate() {
                prop_assert_eq!(*at, Some(active[key % active.len()]), "modulo the active uplinks");
            }
        }
        let mut before = home.clone();
        for step in &steps {
            let load = matches!(step, Step::Load(_)) && balancing == Balancing::Load;
            let was: Vec<u16> = run.team.in_use().to_vec();
            let changed = run.apply(step);
            let after = run.places();
            if load {
                return Ok(());
            }
            let shot = beacons && (after.is_empty() || before.is_empty() || run.team.shotgun());
            for (key, (from, to)) in before.iter().zip(&after).enumerate().filter(|_| !shot) {
                if from == to {
                    continue;
                }
                prop_assert!(changed, "a move is told");
                let carries = from.is_some_and(|u| run.team.in_use().contains(&u));
                prop_assert!(!carries || (failback && *to == home[key] && was.iter().all(|u| Some(*u) != home[key])),
                    "{key} moved from {from:?} to {to:?}");
            }
            before = after;
        }
    }

    /// From everything working, any set of failures leaves places even: no two uplinks in use differ by more than one.
    #[test]
    fn failures_leave_places_even(
        count in 1u16..6,
        standby in 0u16..3,
        down in proptest::collection::btree_set(0u16..8, 0..6),
        ports in 1u16..50,
        hash: bool,
    ) {
        let order = Order { active: (0..count).collect(), standby: (count..count + standby).collect(), failback: true };
        let balancing = if hash { Balancing::MacHash } else { Balancing::PortId };
        let mut team = Team::with(Settings { balancing, ..Settings::new(order) });
        team.set_links((0..8).map(|u| (u, true)), Duration::ZERO);
        (0..ports).for_each(|p| _ = team.place(p, mac(p)));
        let spread = |team: &Team| team.in_use().iter().map(|u| team.status(*u).places).collect::<Vec<_>>();
        let even = |n: &[usize]| n.iter().max().unwrap_or(&0) - n.iter().min().unwrap_or(&0) <= 1;
        prop_assert!(even(&spread(&team)));
        let before = spread(&team);
        team.set_links(down.iter().map(|u| (*u, false)), Duration::from_secs(1));
        prop_assert!(even(&spread(&team)), "{:?}", spread(&team));
        team.set_links(down.iter().map(|u| (*u, true)), Duration::from_secs(2));
        team.tick(Duration::from_secs(3));
        prop_assert_eq!(spread(&team), before);
    }

    /// Whatever happened, once all works and the up-delay is over, a team that fails back is as it began.
    #[test]
    fn everything_returns(settings in settings(), steps in proptest::collection::vec(step(), 0..30)) {
        let mut settings = settings;
        settings.order.failback = true;
        if settings.balancing == Balancing::Load {
            // Load moves homes.
            settings.balancing = Balancing::PortId;
        }
        let mut run = Run::new(settings);
        let all: Vec<_> = (0..UPLINKS).map(|u| (u, true)).collect();
        run.apply(&Step::Links(all.clone()));
        let home = run.places();
        for step in &steps {
            run.apply(step);
        }
        run.apply(&Step::Links(all));
        run.apply(&Step::Beacons((0..UPLINKS).map(|u| (u, Beacon::Ok)).collect()));
        run.apply(&Step::Shotgun(Vec::new()));
        run.apply(&Step::Wait(1000));
        prop_assert_eq!(run.places(), home);
        prop_assert!(run.order().iter().all(|u| run.team.state(*u) != UplinkState::Failed));
        let due = run.team.next_due();
        prop_assert!(due.is_none(), "nothing is left to do: {:?}", due);
    }
}
