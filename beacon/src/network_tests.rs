//! Random networks, broken at random: what the rules say of the network as it is must be what the prober says after
//! the bound, and nothing worse in between.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use crate::lab::{Dice, Lab};
use crate::{Config, Health, Outcome, Verdict};

/// What is right of the network as it is, worked out by sets instead of bits.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    outcome: Outcome,
    failed: BTreeSet<u16>,
    healthy: BTreeSet<u16>,
}

fn truth(lab: &Lab, vlan: Option<u16>) -> Truth {
    let up: Vec<u16> = lab.ports.iter().filter(|(_, port)| port.up).map(|(id, _)| *id).collect();
    let vlans: Vec<u16> = vlan.map_or_else(|| lab.prober.vlans().collect(), |vlan| vec![vlan]);
    let hears = |a: u16, b: u16| vlans.iter().any(|vlan| lab.passes(a, b, *vlan));
    let mut components: Vec<BTreeSet<u16>> = Vec::new();
    for id in &up {
        let near = |component: &BTreeSet<u16>| component.iter().any(|other| hears(*id, *other) && hears(*other, *id));
        let (joined, apart): (Vec<_>, Vec<_>) = components.into_iter().partition(near);
        components = apart;
        components.push(joined.into_iter().flatten().chain([*id]).collect());
    }
    let largest = components.iter().map(BTreeSet::len).max().unwrap_or(0);
    let largest: Vec<&BTreeSet<u16>> = components.iter().filter(|component| component.len() == largest).collect();
    let all: BTreeSet<u16> = up.iter().copied().collect();
    let silent = up.iter().all(|a| up.iter().all(|b| !hears(*a, *b)));
    let nothing = |outcome| Truth { outcome, failed: BTreeSet::new(), healthy: BTreeSet::new() };
    match largest[..] {
        _ if up.len() < 2 => nothing(Outcome::Unjudged),
        [one] if *one == all => Truth { outcome: Outcome::Whole, failed: BTreeSet::new(), healthy: all },
        _ if silent && up.len() > 2 => nothing(Outcome::Filtered),
        [one] => Truth { outcome: Outcome::Split, failed: &all - one, healthy: one.clone() },
        _ => nothing(Outcome::Tie),
    }
}

fn failed(verdict: &Verdict) -> BTreeSet<u16> {
    verdict.health.iter().filter(|(_, health)| matches!(health, Health::Failed { .. })).map(|(id, _)| *id).collect()
}

fn scopes(lab: &Lab) -> Vec<Option<u16>> {
    lab.prober.vlans().map(Some).chain([None]).collect()
}

/// Breaks or mends something.
fn strike(lab: &mut Lab, dice: &mut Dice) {
    let ids: Vec<u16> = lab.ports.keys().copied().collect();
    let id = ids[dice.roll(ids.len() as u64) as usize];
    let vlans: Vec<u16> = lab.prober.vlans().collect();
    match dice.roll(9) {
        0 => lab.ports.get_mut(&id).unwrap().tx ^= true,
        1 => lab.ports.get_mut(&id).unwrap().rx ^= true,
        2 => lab.filtered ^= true,
        3 | 4 => {
            let at = dice.roll(lab.island.len() as u64) as usize;
            lab.island[at] = dice.roll(3) as usize;
        }
        5 => lab.island.fill(0),
        6 => lab.set_link(id, !lab.ports[&id].up),
        7 => {
            let vlan = vlans[dice.roll(vlans.len() as u64) as usize];
            let missing = &mut lab.ports.get_mut(&id).unwrap().missing;
            if !missing.remove(&vlan) {
                missing.insert(vlan);
            }
        }
        _ => {
            (lab.filtered, lab.island) = (false, vec![0; lab.island.len()]);
            for port in lab.ports.values_mut() {
                (port.tx, port.rx) = (true, true);
                port.missing.clear();
            }
        }
    }
}

fn lab(dice: &mut Dice) -> Lab {
    let interval = Duration::from_millis([10, 25, 100, 1000][dice.roll(4) as usize]);
    let (threshold, hysteresis) = (1 + dice.roll(4) as u32, 1 + dice.roll(4) as u32);
    let config = Config { interval, threshold, hysteresis, ..Config::default() };
    let vlans = [&[0][..], &[10, 20], &[0, 7, 4094]][dice.roll(3) as usize];
    let mut lab = Lab::settled(config, 2 + dice.roll(5) as u16, vlans);
    lab.dice = Dice(dice.roll(u64::MAX));
    lab
}

/// True at least one uplink that has link may be used, everywhere.
fn some_usable(lab: &Lab) {
    let up = lab.ports.iter().filter(|(_, port)| port.up).map(|(id, _)| *id).collect::<BTreeSet<u16>>();
    for scope in scopes(lab) {
        assert!(up.is_empty() || !up.is_subset(&failed(&lab.verdict(scope))), "all failed on {scope:?}");
    }
}

/// One run without loss, but with delay and a late caller.
fn settles(seed: u64) {
    let mut dice = Dice(seed);
    let mut lab = lab(&mut dice);
    let timing = lab.prober.config().timing();
    if dice.chance(50) {
        lab.delay = timing.jitter / 4;
    }
    for _ in 0..6 {
        let before: Vec<Truth> = scopes(&lab).into_iter().map(|scope| truth(&lab, scope)).collect();
        strike(&mut lab, &mut dice);
        let several = dice.chance(30);
        if several {
            // Before the first one is dealt with.
            let pause = Duration::from_nanos(dice.roll(lab.bound().as_nanos() as u64));
            lab.run_checked(pause, some_usable);
            strike(&mut lab, &mut dice);
        }
        let after: Vec<Truth> = scopes(&lab).into_iter().map(|scope| truth(&lab, scope)).collect();
        // Where a VLAN tells nothing all together tell.
        let overall: BTreeSet<u16> =
            before.last().into_iter().chain(after.last()).flat_map(|truth| truth.failed.clone()).collect();
        let wait = lab.bound() + 2 * lab.delay;
        lab.run_checked(wait, |lab| {
            some_usable(lab);
            for ((scope, before), after) in scopes(lab).into_iter().zip(&before).zip(&after) {
                let ever = &(&before.failed | &after.failed) | &overall;
                let failed = failed(&lab.verdict(scope));
                assert!(several || failed.is_subset(&ever), "{failed:?} failed on {scope:?}, rightly only {ever:?}");
            }
        });
        for (scope, truth) in scopes(&lab).into_iter().zip(&after) {
            let verdict = lab.verdict(scope);
            assert_eq!(verdict.outcome, truth.outcome, "on {scope:?}");
            assert_eq!(
                verdict.shotgun,
                truth.outcome == Outcome::Tie || truth.outcome == Outcome::Filtered && lab.outcome() == Outcome::Tie
            );
            if matches!(truth.outcome, Outcome::Whole | Outcome::Split) {
                assert_eq!(failed(&verdict), truth.failed, "on {scope:?}");
                assert!(truth.healthy.iter().all(|id| verdict.of(*id) == Health::Ok));
            }
        }
        // Strikes come at any phase.
        let pause = Duration::from_nanos(dice.roll(lab.interval().as_nanos() as u64));
        lab.run(pause);
    }
}

/// One run with loss: what is healthy and not failed stays so.
fn endures(seed: u64) {
    let mut dice = Dice(seed);
    let mut lab = lab(&mut dice);
    lab.delay = lab.prober.config().timing().jitter / 4;
    lab.loss = dice.roll(70);
    for _ in 0..3 {
        strike(&mut lab, &mut dice);
        lab.run_checked(lab.bound() * 2, some_usable);
        let healthy: Vec<_> = scopes(&lab).into_iter().map(|scope| truth(&lab, scope).healthy).collect();
        let mut good: Vec<_> =
            scopes(&lab).into_iter().zip(healthy).map(|(s, h)| &h - &failed(&lab.verdict(s))).collect();
        lab.run_checked(lab.interval() * 20, |lab| {
            some_usable(lab);
            for (scope, good) in scopes(lab).into_iter().zip(&mut good) {
                let failed = failed(&lab.verdict(scope));
                assert!(good.is_disjoint(&failed), "{failed:?} failed on {scope:?} by loss, good were {good:?}");
            }
        });
    }
}

// More seeds: `PROPTEST_CASES=20000 cargo test --release -p vswitch-beacon network`.
proptest! {
    #[test]
    fn verdicts_settle_on_the_truth_within_the_bound(seed: u64) {
        settles(seed);
    }

    #[test]
    fn losses_below_the_threshold_fail_no_one(seed: u64) {
        endures(seed);
    }
}
