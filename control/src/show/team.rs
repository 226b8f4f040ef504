//! `vswitch show team`: each team's view of its uplinks, alarms, who hears whom, and what happened last.

use std::fmt::Write as _;

use super::NOTHING;
use super::table::Align::{Left, Right};
use super::table::Table;
use crate::api::{EventStatus, HearsStatus, PortGroupStatus, Status, TeamStatus, UplinkStatus};

/// Events shown; the document holds more.
const SHOWN_EVENTS: usize = 16;

/// One team's view, whether of the switch or of a port group.
#[derive(PartialEq)]
struct View<'s> {
    load_balancing: &'s str,
    failure_detection: &'s str,
    shotgun: bool,
    filtered: bool,
    uplinks: &'s [UplinkStatus],
}

impl<'s> View<'s> {
    fn of_switch(team: &'s TeamStatus) -> View<'s> {
        View {
            load_balancing: &team.load_balancing,
            failure_detection: &team.failure_detection,
            shotgun: team.shotgun,
            filtered: team.filtered,
            uplinks: &team.uplinks,
        }
    }

    fn of_group(group: &'s PortGroupStatus) -> View<'s> {
        View {
            load_balancing: &group.load_balancing,
            failure_detection: &group.failure_detection,
            shotgun: group.shotgun,
            filtered: group.filtered,
            uplinks: &group.uplinks,
        }
    }

    fn render(&self, whose: &str) -> String {
        let mut text =
            format!("{whose}load balancing {}, failure detection {}\n", self.load_balancing, self.failure_detection);
        if self.filtered {
            text += "ALARM: no uplink hears another, so beacons are filtered upstream; link state decides\n";
        }
        if self.shotgun {
            text += "ALARM: shotgun, it is not known which uplinks are cut off; frames leave by all of them\n";
        }
        if self.uplinks.is_empty() {
            text += "no uplinks\n";
            return text;
        }
        let mut table =
            Table::new(&[("UPLINK", Left), ("LINK", Left), ("BEACON", Left), ("STATE", Left), ("WHY", Left)]);
        for uplink in self.uplinks {
            table.row(vec![
                uplink.name.clone(),
                uplink.link.to_string(),
                uplink.beacon.to_string(),
                uplink.state.to_string(),
                super::or_nothing(Some(&uplink.why)),
            ]);
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{table}");
        text
    }
}

/// The default team alone, for the overview.
pub(super) fn short(status: &Status) -> String {
    View::of_switch(&status.team).render("")
}

/// All there is to tell.
pub(super) fn render(status: &Status) -> String {
    let mut parts = views(status);
    parts.extend(matrix(&status.team.hears));
    parts.extend(events(&status.events));
    parts.join("\n")
}

/// One table per view: port groups that see the same share one.
fn views(status: &Status) -> Vec<String> {
    let mut views: Vec<(View<'_>, Vec<&str>)> = vec![(View::of_switch(&status.team), Vec::new())];
    // A document of an older switch says nothing of port groups' teams.
    for group in status.portgroups.iter().filter(|g| !g.load_balancing.is_empty()) {
        let view = View::of_group(group);
        match views.iter_mut().find(|(known, _)| *known == view) {
            Some((_, groups)) => groups.push(&group.name),
            None => views.push((view, vec![&group.name])),
        }
    }
    let whose = |(at, (view, groups)): (usize, &(View<'_>, Vec<&str>))| {
        let plural = if groups.len() == 1 { "" } else { "s" };
        let names = format!("port group{plural} {}: ", groups.join(", "));
        let whose = match (at, groups.is_empty()) {
            (0, true) => String::new(),
            (0, false) => format!("default team, {names}"),
            _ => names,
        };
        view.render(&whose)
    };
    views.iter().enumerate().map(whose).collect()
}

/// Who hears whom: a row for each listener, a column for each sender.
fn matrix(hears: &[HearsStatus]) -> Option<String> {
    let mut uplinks: Vec<&str> = Vec::new();
    for name in hears.iter().flat_map(|pair| [pair.from.as_str(), pair.to.as_str()]) {
        if !uplinks.contains(&name) {
            uplinks.push(name);
        }
    }
    if uplinks.is_empty() {
        return None;
    }
    let mut table = Table::new(&[("LISTENER", Left)]);
    uplinks.iter().for_each(|sender| table.column(format!("HEARS {sender}"), Left));
    for listener in &uplinks {
        let cell = |sender: &&str| {
            let pair = hears.iter().find(|pair| pair.from == **sender && pair.to == **listener);
            pair.map_or(String::new(), cell)
        };
        table.row(std::iter::once((*listener).to_owned()).chain(uplinks.iter().map(cell)).collect());
    }
    Some(format!("beacons: time since the last one, and the VLANs on which none comes\n{table}"))
}

fn cell(pair: &HearsStatus) -> String {
    let age = pair.age_ms.map_or(NOTHING.to_owned(), |ms| format!("{ms} ms"));
    match (pair.hears.is_empty(), pair.silent.is_empty()) {
        (_, true) => age,
        // Never heard at all says it.
        (true, false) if pair.age_ms.is_none() => age,
        (true, false) => format!("{age}, not any"),
        (false, false) => format!("{age}, not {}", ranges(&pair.silent)),
    }
}

/// Rising VLANs such as `untagged,10,20-29`.
fn ranges(vlans: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for vlan in vlans {
        match runs.last_mut() {
            // Untagged is no neighbour of VLAN 1.
            Some((first, last)) if *first > 0 && last.checked_add(1) == Some(*vlan) => *last = *vlan,
            _ => runs.push((*vlan, *vlan)),
        }
    }
    let words = runs.into_iter().map(|run| match run {
        (0, _) => "untagged".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// What happened last, oldest first.
fn events(events: &[EventStatus]) -> Option<String> {
    let last = &events[events.len().saturating_sub(SHOWN_EVENTS)..];
    if last.is_empty() {
        return None;
    }
    let mut table = Table::new(&[("AT (S)", Right), ("EVENT", Left), ("WHAT HAPPENED", Left)]);
    for event in last {
        table.row(vec![format!("{:.3}", event.at_seconds), event.id.clone(), event.text.clone()]);
    }
    Some(format!("last events, by seconds since the switch started\n{table}"))
}

#[cfg(test)]
#[path = "team_tests.rs"]
mod tests;
