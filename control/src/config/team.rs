//! The `[team]` section and its overrides in `[portgroup.team]`.

use std::time::Duration;

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

/// Longest `up_delay_ms`, as in ESX.
const MAX_UP_DELAY_MS: u32 = teaming::UP_DELAY_MAX.as_millis() as u32;
/// Longest `load_interval_s`: a day. Beyond that nobody waits for a port to move.
const MAX_LOAD_INTERVAL_S: u32 = 86_400;
/// Highest `flap_limit`: link-downs in a minute beyond which no interface gets.
const MAX_FLAP_LIMIT: u32 = 10_000;

/// What port groups start from.
pub(super) struct BaseTeam {
    pub(super) policy: TeamPolicy,
    pub(super) flap_limit: u32,
    /// Where the file says so; what it does not say depends on the policy of each port group.
    failure_detection: Option<Located<FailureDetection>>,
}

/// The defaults: what `[team]` says, over all uplinks active in file order.
pub(super) fn read_defaults(report: &mut Report<'_>, root: &Section<'_>, uplinks: &[Uplink]) -> BaseTeam {
    let all = BaseTeam {
        policy: TeamPolicy::of(uplinks.iter().map(|u| u.name.value.clone()).collect()),
        flap_limit: teaming::FLAP_LIMIT,
        failure_detection: None,
    };
    let Some(section) = root.table(report, "team", keys::TEAM, "[team]".to_owned()) else { return all };
    let (policy, failure_detection) = read(report, &section, uplinks, &all);
    let mend = "60 is usual, and 0 turns the guard off";
    let flap_limit = section.integer_in(report, keys::FLAP_LIMIT, (0, MAX_FLAP_LIMIT), mend).unwrap_or(all.flap_limit);
    BaseTeam { policy, flap_limit, failure_detection }
}

/// The team of a port group: `base` with what `section` says put over it.
pub(super) fn read_override(
    report: &mut Report<'_>,
    section: &Section<'_>,
    uplinks: &[Uplink],
    base: &BaseTeam,
) -> TeamPolicy {
    if let Some(at) = section.place(report, keys::FLAP_LIMIT) {
        let sentence = format!("flap_limit in {} counts for the whole switch; write it in [team]", section.what);
        report.add(at, sentence);
    }
    read(report, section, uplinks, base).0
}

/// `base` with what `section` says put over it, and where `failure_detection` stands, here or there.
fn read(
    report: &mut Report<'_>,
    section: &Section<'_>,
    uplinks: &[Uplink],
    base: &BaseTeam,
) -> (TeamPolicy, Option<Located<FailureDetection>>) {
    let told = report.len();
    let (active, standby) = read_order(report, section, uplinks, &base.policy);
    let lists_are_right = report.len() == told;
    let inherited = &base.policy;
    let load_balancing = section.choice(report, "load_balancing", LOAD_BALANCING).unwrap_or(inherited.load_balancing);
    let failure_detection = read_failure_detection(report, section).or_else(|| base.failure_detection.clone());
    let policy = TeamPolicy {
        load_balancing,
        failure_detection: failure_detection.as_ref().map_or(default_detection(load_balancing), |f| f.value),
        active,
        standby,
        failback: section.boolean(report, "failback").unwrap_or(inherited.failback),
        notify_switches: section.boolean(report, "notify_switches").unwrap_or(inherited.notify_switches),
        up_delay: section
            .integer_in(report, "up_delay_ms", (0, MAX_UP_DELAY_MS), "100 is usual")
            .map_or(inherited.up_delay, |ms| Duration::from_millis(u64::from(ms))),
        load_percent: section
            .integer_in(report, "load_percent", (1, 100), "75 is usual")
            .and_then(|percent| u8::try_from(percent).ok())
            .unwrap_or(inherited.load_percent),
        load_interval: section
            .integer_in(report, "load_interval_s", (1, MAX_LOAD_INTERVAL_S), "30 is usual")
            .map_or(inherited.load_interval, |s| Duration::from_secs(u64::from(s))),
    };
    if lists_are_right {
        check_order(report, section, &policy);
    }
    check_ip_hash(report, section, &policy, failure_detection.as_ref());
    (policy, failure_detection)
}

/// Beacons, but for the one policy that has none.
fn default_detection(load_balancing: LoadBalancing) -> FailureDetection {
    match load_balancing {
        LoadBalancing::IpHash => FailureDetection::Link,
        _ => FailureDetection::default(),
    }
}

fn read_failure_detection(report: &mut Report<'_>, section: &Section<'_>) -> Option<Located<FailureDetection>> {
    let at = section.place(report, "failure_detection")?;
    let value = section.choice(report, "failure_detection", FAILURE_DETECTION)?;
    Some(Located { value, at })
}

/// Standby uplinks stand in for active ones, so there is an active one.
fn check_order(report: &mut Report<'_>, section: &Section<'_>, policy: &TeamPolicy) {
    // Where both lists are inherited, the section they come from was told already.
    let Some(at) = section.place(report, "active").or_else(|| section.place(report, "standby")) else { return };
    if policy.active.is_empty() && !policy.standby.is_empty() {
        let (what, standby) = (&section.what, names(&policy.standby));
        let sentence = format!("{what} has standby uplinks but no active one; move {standby} to active");
        report.add(at, sentence);
    }
}

/// What `ip-hash` does not go together with, told at the key of this section that brings it about.
fn check_ip_hash(
    report: &mut Report<'_>,
    section: &Section<'_>,
    policy: &TeamPolicy,
    failure_detection: Option<&Located<FailureDetection>>,
) {
    if policy.load_balancing != LoadBalancing::IpHash {
        return;
    }
    let what = &section.what;
    let chosen = section.place(report, "load_balancing");
    // Where both keys are inherited, the section they come from was told already.
    if let Some(at) = section.place(report, "standby").or(chosen).filter(|_| !policy.standby.is_empty()) {
        let sentence = format!(
            "standby of {what} goes with no load_balancing = \"ip-hash\", because the physical switch has all uplinks \
             in one link aggregation group and sends by any; move {} to active, set standby = [], or choose another \
             load_balancing",
            names(&policy.standby)
        );
        report.add(at, sentence);
    }
    let Some(Located { value: FailureDetection::Beacon, at: written }) = failure_detection else { return };
    let here = section.place(report, "failure_detection");
    if let Some(at) = here.or(chosen) {
        let inherited = if here.is_some() { String::new() } else { format!(" of line {}", written.line) };
        let sentence = format!(
            "failure_detection = \"beacon\"{inherited} in {what} goes with no load_balancing = \"ip-hash\", because a \
             link aggregation group returns no beacons to the uplinks that sent them; set failure_detection = \"link\" \
             or choose another load_balancing"
        );
        report.add(at, sentence);
    }
}

fn names(uplinks: &[String]) -> String {
    list(uplinks.iter().map(String::as_str))
}

/// The active and standby uplinks of `section` over those of `base`.
fn read_order(
    report: &mut Report<'_>,
    section: &Section<'_>,
    uplinks: &[Uplink],
    base: &TeamPolicy,
) -> (Vec<String>, Vec<String>) {
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
    merge(base, active.map(values), standby.map(values))
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
