//! The `[[portgroup]]` sections.

use ::portgroups::{Security, VlanMode, VlanSetError};

use super::keys;
use super::names::{check_label, check_unique};
use super::problem::Report;
use super::section::Section;
use super::team::{self, BaseTeam};
use super::{PortGroup, Uplink};

/// The VLAN number that stands for guest tagging with all VLANs, as in ESX.
const GUEST_TAGGING: u16 = 4095;

pub(super) fn read(
    report: &mut Report<'_>,
    root: &Section<'_>,
    uplinks: &[Uplink],
    base_team: &BaseTeam,
    base_security: Security,
) -> Vec<PortGroup> {
    let sections = root.tables(report, "portgroup", "port group", keys::PORTGROUP);
    let mut groups = Vec::new();
    for section in &sections {
        let name = section.required(report, "name").unwrap_or_default();
        if name.at.line != 0 {
            check_label(report, &name, &section.what);
        }
        let below = |key: &str| format!("[portgroup.{key}] of {}", section.what);
        let team = section
            .table(report, "team", keys::TEAM, below("team"))
            .map_or_else(|| base_team.policy.clone(), |s| team::read_override(report, &s, uplinks, base_team));
        let security = section
            .table(report, "security", keys::SECURITY, below("security"))
            .map_or(base_security, |s| read_override(report, &s, base_security));
        let security = read_learning(report, section, security);
        groups.push(PortGroup { name, vlan: read_vlan(report, section), team, security });
    }
    check_unique(
        report,
        &groups,
        |g| &g.name,
        |this, first| {
            format!(
                "port group \"{}\" is already on line {}; a label is unique on its host, so choose another",
                this.name.escape_debug(),
                first.name.at.line
            )
        },
    );
    groups
}

pub(super) fn read_security(report: &mut Report<'_>, section: &Section<'_>, base: Security) -> Security {
    Security {
        promiscuous: section.boolean(report, "promiscuous").unwrap_or(base.promiscuous),
        mac_changes: section.boolean(report, "mac_changes").unwrap_or(base.mac_changes),
        forged_transmits: section.boolean(report, "forged_transmits").unwrap_or(base.forged_transmits),
        learning: section.boolean(report, keys::MAC_LEARNING).unwrap_or(base.learning),
    }
}

/// The address rules of a port group: `base` with what `section` says put over it.
fn read_override(report: &mut Report<'_>, section: &Section<'_>, base: Security) -> Security {
    if let Some(at) = section.place(report, keys::MAC_LEARNING) {
        let sentence =
            format!("mac_learning in {} is a key of the port group itself; write it in [[portgroup]]", section.what);
        report.add(at, sentence);
    }
    Security { learning: base.learning, ..read_security(report, section, base) }
}

/// Whether the port group learns addresses, put over `security`: only where its guests may send from them.
fn read_learning(report: &mut Report<'_>, section: &Section<'_>, security: Security) -> Security {
    let learning = section.boolean(report, keys::MAC_LEARNING).unwrap_or(security.learning);
    if learning && !security.forged_transmits {
        let what = &section.what;
        let (at, mend) = match section.place(report, keys::MAC_LEARNING) {
            Some(at) => (at, "add forged_transmits = true to its [portgroup.security]"),
            None => {
                (section.at, "add forged_transmits = true to its [portgroup.security], or mac_learning = false to it")
            }
        };
        let sentence = format!(
            "mac_learning in {what} is true, but its guests may send from no address but their own, \
             so there is nothing to learn; {mend}"
        );
        report.add(at, sentence);
    }
    Security { learning, ..security }
}

fn read_vlan(report: &mut Report<'_>, section: &Section<'_>) -> VlanMode {
    if section.holds_string("vlan") {
        return read_ranges(report, section);
    }
    let Some(vlan) = section.integer(report, "vlan") else { return VlanMode::Est };
    match u16::try_from(vlan.value) {
        Ok(0) => VlanMode::Est,
        Ok(GUEST_TAGGING) => VlanMode::Vgt(::portgroups::VlanSet::all()),
        Ok(vid) if vid < GUEST_TAGGING => VlanMode::Vst(vid),
        _ => {
            let sentence = format!(
                "VLAN {vlan} of {} is outside 0 to 4095; use 0 for untagged, 1 to 4094, or 4095 for guest tagging",
                section.what
            );
            report.add(vlan.at, sentence);
            VlanMode::Est
        }
    }
}

/// The VLANs a guest may tag with, such as `"10,20-29"`.
fn read_ranges(report: &mut Report<'_>, section: &Section<'_>) -> VlanMode {
    let Some(text) = section.string(report, "vlan") else { return VlanMode::Est };
    let what = &section.what;
    let sentence = match text.parse() {
        Ok(set) => return VlanMode::Vgt(set),
        Err(VlanSetError::OutOfRange(number)) => {
            format!(
                "VLAN {number} in vlan \"{}\" of {what} is outside 0 to 4094; \
                 write the VLANs a guest may use as in \"10,20-29\"",
                text.escape_debug()
            )
        }
        Err(VlanSetError::Syntax(part)) => {
            format!(
                "\"{}\" in vlan of {what} is not a VLAN or a range from low to high; \
                 write the VLANs a guest may use as in \"10,20-29\"",
                part.escape_debug()
            )
        }
    };
    report.add(text.at, sentence);
    VlanMode::Est
}
