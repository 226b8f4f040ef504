//! The `[[uplink]]` sections.

use super::keys;
use super::names::{check_device, check_name, check_unique};
use super::problem::Report;
use super::section::Section;
use super::{Driver, MAX_UPLINKS, Uplink};

pub(super) const DRIVERS: &[(&str, Driver)] =
    &[("auto", Driver::Auto), ("af_xdp", Driver::AfXdp), ("af_packet", Driver::AfPacket)];

pub(super) fn read(report: &mut Report<'_>, root: &Section<'_>) -> Vec<Uplink> {
    let sections = root.tables(report, "uplink", "uplink", keys::UPLINK);
    if let Some(extra) = sections.get(MAX_UPLINKS) {
        let sentence =
            format!("{} uplinks are more than the {MAX_UPLINKS} a switch has; take some out", sections.len());
        report.add(extra.at, sentence);
    }
    let uplinks: Vec<Uplink> = sections.iter().map(|section| read_one(report, section)).collect();
    check_unique(
        report,
        &uplinks,
        |u| &u.name,
        |this, first| {
            format!(
                "uplink \"{}\" is already on line {}; give each uplink a name of its own",
                this.name, first.name.at.line
            )
        },
    );
    uplinks
}

fn read_one(report: &mut Report<'_>, section: &Section<'_>) -> Uplink {
    let name = section.required(report, "name").unwrap_or_default();
    if name.at.line != 0 {
        check_name(report, &name, &section.what);
    }
    let device = section.required(report, "device").unwrap_or_default();
    if device.at.line != 0 {
        check_device(report, &device, &section.what);
    }
    let driver = section.choice(report, "driver", DRIVERS).unwrap_or_default();
    Uplink { name, device, driver }
}
