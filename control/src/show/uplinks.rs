//! `vswitch show uplinks`: interfaces, what became of them, and their beacons.

use super::table::Align::{Left, Right};
use super::table::{Table, thousands};
use super::{NOTHING, all_drops, or_nothing};
use crate::api::{PortStatus, Role, Status};

pub(super) fn render(status: &Status) -> String {
    let uplinks: Vec<&PortStatus> = status.ports.iter().filter(|p| p.role == Role::Uplink).collect();
    if uplinks.is_empty() {
        return "no uplinks\n".to_owned();
    }
    let mut table = Table::new(&[
        ("UPLINK", Left),
        ("DEVICE", Left),
        ("DRIVER", Left),
        ("LINK", Left),
        ("STATE", Left),
        ("BEACON", Left),
        ("IN FRAMES", Right),
        ("IN BYTES", Right),
        ("OUT FRAMES", Right),
        ("OUT BYTES", Right),
        ("DROPS", Right),
        ("KERNEL DROPS", Right),
        // Last, as it tells the reason too and may be long.
        ("RUNG", Left),
    ]);
    for port in &uplinks {
        let member = status.team.uplinks.iter().find(|u| u.name == port.name);
        table.row(vec![
            port.name.clone(),
            or_nothing(port.device.as_deref()),
            or_nothing(port.driver.as_deref()),
            port.link.to_string(),
            member.map_or(NOTHING.to_owned(), |m| m.state.to_string()),
            member.map_or(NOTHING.to_owned(), |m| m.beacon.to_string()),
            thousands(port.input.frames),
            thousands(port.input.bytes),
            thousands(port.output.frames),
            thousands(port.output.bytes),
            thousands(all_drops(port)),
            port.kernel_drops.map_or(NOTHING.to_owned(), thousands),
            or_nothing(port.rung.as_deref()),
        ]);
    }
    match beacons(&uplinks) {
        Some(beacons) => format!("{table}\n{beacons}"),
        None => table.to_string(),
    }
}

/// What each uplink sent and received of beacons, if any does.
fn beacons(uplinks: &[&PortStatus]) -> Option<String> {
    let mut table = Table::new(&[
        ("UPLINK", Left),
        ("BEACONS SENT", Right),
        ("HEARD", Right),
        ("FOREIGN", Right),
        ("FORGED", Right),
        ("REPLAYED", Right),
        ("BAD", Right),
    ]);
    let mut any = false;
    for port in uplinks {
        let Some(counts) = &port.beacons else { continue };
        any = true;
        let numbers = [counts.sent, counts.heard, counts.foreign, counts.forged, counts.replayed, counts.bad];
        table.row(std::iter::once(port.name.clone()).chain(numbers.map(thousands)).collect());
    }
    any.then(|| table.to_string())
}
