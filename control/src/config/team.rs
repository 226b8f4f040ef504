//! The `[team]` section and its overrides in `[portgroup.team]`.

use super::keys;
use super::nearest::nearest;
use super::problem::{Located, Report};
use super::section::{Section, list};
use super::{FailureDetection, LoadBalancing, TeamPolicy, Uplink};

const LOAD_BALANCING: &[(&str, LoadBalancing)] = &[
    ("port-id", LoadBalancing::PortId),
    ("mac-hash", LoadBalancing::MacHash),
    ("ip-hash", LoadBalancing::IpHash),
    ("load", LoadBalancing::Load),
    ("explicit", LoadBalancing::Explicit),
];

const FAILURE_DETECTION: &[(&str, FailureDetection)] =
    &[("link", FailureDetection::Link), ("beacon", FailureDetection::Beacon)];

/// The defaults: what `[team]` says, over all uplinks active in file order.
pub(super) fn read_defaults(report: &mut Report<'_>, root: &Section<'_>, uplinks: &[Uplink]) -> TeamPolicy {
    let all = TeamPolicy {
        load_balancing: LoadBalancing::default(),
        failure_detection: FailureDetection::default(),
        active: uplinks.iter().map(|u| u.name.value.clone()).collect(),
        standby: Vec::new(),
        failback: true,
        notify_switches: true,
    };
    match root.table(report, "team", keys::TEAM, "[team]".to_owned()) {
        Some(section) => read(report, &section, uplinks, &all),
        None => all,
    }
}

/// `base` with what `section` says put over it.
pub(super) fn read(
    report: &mut Report<'_>,
    section: &Section<'_>,
    uplinks: &[Uplink],
    base: &TeamPolicy,
) -> TeamPolicy {
    let active = read_list(report, section, "active", uplinks);
    let standby = read_list(report, section, "standby", uplinks);
    if let (Some(active), Some(standby)) = (&active, &standby) {
        for both in standby {
            if let Some(first) = active.iter().find(|a| a.value == both.value) {
                let sentence = format!(
                    "uplink \"{both}\" in standby of {} is in active too, on line {}; keep it in one of them",
                    section.what, first.at.line
                );
                report.add(both.at, sentence);
            }
        }
    }
    let (active, standby) = merge(base, active.map(values), standby.map(values));
    TeamPolicy {
        load_balancing: section.choice(report, "load_balancing", LOAD_BALANCING).unwrap_or(base.load_balancing),
        failure_detection: section
            .choice(report, "failure_detection", FAILURE_DETECTION)
            .unwrap_or(base.failure_detection),
        active,
        standby,
        failback: section.boolean(report, "failback").unwrap_or(base.failback),
        notify_switches: section.boolean(report, "notify_switches").unwrap_or(base.notify_switches),
    }
}

fn values(names: Vec<Located<String>>) -> Vec<String> {
    names.into_iter().map(|n| n.value).collect()
}

/// A list that is given stands as it is, and takes its uplinks out of the one that is inherited.
fn merge(base: &TeamPolicy, active: Option<Vec<String>>, standby: Option<Vec<String>>) -> (Vec<String>, Vec<String>) {
    let without = |inherited: &[String], taken: &[String]| {
        inherited.iter().filter(|n| !taken.contains(n)).cloned().collect::<Vec<_>>()
    };
    match (active, standby) {
        (Some(active), Some(standby)) => (active, standby),
        (Some(active), None) => {
            let standby = without(&base.standby, &active);
            (active, standby)
        }
        (None, Some(standby)) => (without(&base.active, &standby), standby),
        (None, None) => (base.active.clone(), base.standby.clone()),
    }
}

/// A list of uplinks, each known and named once.
fn read_list(
    report: &mut Report<'_>,
    section: &Section<'_>,
    key: &'static str,
    uplinks: &[Uplink],
) -> Option<Vec<Located<String>>> {
    let mut names: Vec<Located<String>> = Vec::new();
    for name in section.strings(report, key)?.value {
        let known = || uplinks.iter().map(|u| u.name.as_str());
        let (what, shown) = (&section.what, name.escape_debug().to_string());
        if !known().any(|k| k == *name) {
            let mend = match nearest(&name, known()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if uplinks.is_empty() => format!("add an [[uplink]] with name = \"{shown}\""),
                None => format!("the uplinks are {}", list(known())),
            };
            report.add(name.at, format!("uplink \"{shown}\" in {key} of {what} does not exist; {mend}"));
        } else if names.iter().any(|n| n.value == name.value) {
            report.add(name.at, format!("uplink \"{shown}\" is twice in {key} of {what}; keep one"));
        } else {
            names.push(name);
        }
    }
    Some(names)
}
