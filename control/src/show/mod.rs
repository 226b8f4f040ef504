//! The status document laid out for people: what `vswitch show` prints.

mod table;
mod team;
mod uplinks;

use std::fmt::Write as _;

use crate::api::{PortStatus, Role, Status};
use table::Align::{Left, Right};
use table::{Table, thousands};

/// A part of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The switch and its workers.
    Switch,
    /// vNICs and uplinks with their traffic.
    Ports,
    /// Uplinks with their interfaces and beacons.
    Uplinks,
    /// Port groups.
    Portgroups,
    /// Every team's view of its uplinks, who hears whom, and what happened last.
    Team,
    /// Drops by port and reason.
    Drops,
}

/// The part `what` of `status` as text that ends with a newline; the switch, its ports and its team
/// when nothing is asked for in particular.
pub fn render(what: Option<What>, status: &Status) -> String {
    match what {
        None => [switch(status), ports(status), team::short(status)].join("\n"),
        Some(What::Switch) => switch(status),
        Some(What::Ports) => ports(status),
        Some(What::Uplinks) => uplinks::render(status),
        Some(What::Portgroups) => portgroups(status),
        Some(What::Team) => team::render(status),
        Some(What::Drops) => drops(status),
    }
}

/// What stands where there is nothing.
const NOTHING: &str = "-";

fn or_nothing(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or(NOTHING).to_owned()
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn switch(status: &Status) -> String {
    let switch = &status.switch;
    let mut text = format!("{}: MTU {}, up {}", switch.name, switch.mtu, duration(switch.uptime_seconds));
    if !switch.version.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, ", vswitch {}", switch.version);
    }
    text.push('\n');
    for worker in &switch.workers {
        let _ = writeln!(text, "worker on CPU {}: {:.1} % busy", worker.cpu, worker.busy_percent);
    }
    text
}

/// Seconds in the two units that matter.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn all_drops(port: &PortStatus) -> u64 {
    port.drops.values().fold(0, |sum, n| sum.saturating_add(*n))
}

fn ports(status: &Status) -> String {
    let mut table = Table::new(&[
        ("PORT", Left),
        ("ROLE", Left),
        ("ADAPTER", Left),
        ("PORT GROUP", Left),
        ("VLAN", Left),
        ("MAC", Left),
        ("CONNECTED", Left),
        ("LINK", Left),
        ("UPLINK", Left),
        ("IN FRAMES", Right),
        ("IN BYTES", Right),
        ("OUT FRAMES", Right),
        ("OUT BYTES", Right),
        ("DROPS", Right),
    ]);
    for port in &status.ports {
        table.row(vec![
            port.name.clone(),
            match port.role {
                Role::Vnic => "vnic".to_owned(),
                Role::Uplink => "uplink".to_owned(),
            },
            or_nothing(port.adapter.as_deref()),
            or_nothing(port.portgroup.as_deref()),
            port.vlan.as_ref().map_or(NOTHING.to_owned(), ToString::to_string),
            or_nothing(port.mac.as_deref()),
            yes_no(port.connected),
            port.link.to_string(),
            or_nothing(port.uplink.as_deref()),
            thousands(port.input.frames),
            thousands(port.input.bytes),
            thousands(port.output.frames),
            thousands(port.output.bytes),
            thousands(all_drops(port)),
        ]);
    }
    table.to_string()
}

fn portgroups(status: &Status) -> String {
    let mut table = Table::new(&[
        ("PORT GROUP", Left),
        ("VLAN", Left),
        ("VNICS", Right),
        ("ACTIVE", Left),
        ("STANDBY", Left),
        ("GUESTS MAY", Left),
    ]);
    for group in &status.portgroups {
        let allowed: Vec<&str> = [
            (group.promiscuous, "promiscuous"),
            (group.mac_changes, "mac_changes"),
            (group.forged_transmits, "forged_transmits"),
        ]
        .into_iter()
        .filter_map(|(allowed, name)| allowed.then_some(name))
        .collect();
        table.row(vec![
            group.name.clone(),
            group.vlan.to_string(),
            group.ports.to_string(),
            or_nothing(Some(&group.active.join(","))),
            or_nothing(Some(&group.standby.join(","))),
            or_nothing(Some(&allowed.join(","))),
        ]);
    }
    if status.portgroups.is_empty() { "no port groups\n".to_owned() } else { table.to_string() }
}

fn drops(status: &Status) -> String {
    let mut table = Table::new(&[("PORT", Left), ("REASON", Left), ("FRAMES", Right)]);
    let mut any = false;
    for port in &status.ports {
        let mut reasons: Vec<_> = port.drops.iter().filter(|(_, n)| **n > 0).collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1));
        for (reason, frames) in reasons {
            any = true;
            table.row(vec![port.name.clone(), reason.clone(), thousands(*frames)]);
        }
    }
    if any { table.to_string() } else { "no frame was dropped\n".to_owned() }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
