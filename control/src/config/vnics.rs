//! The `[[vnic]]` sections.

use wire::Mac;

use super::keys;
use super::names::{check_device, check_name, check_unique};
use super::nearest::nearest;
use super::problem::{At, Located, Report};
use super::section::{Section, list};
use super::switch::MAX_SOCKET_PATH;
use super::uplinks::DRIVERS;
use super::{Adapter, MAX_VNICS, PortGroup, Switch, Uplink, Vnic};

const ADAPTERS: &[(&str, Adapter)] = &[
    ("vmxnet3", Adapter::Vmxnet3),
    ("vlance", Adapter::Vlance),
    ("virtio", Adapter::Virtio),
    ("tap", Adapter::Tap),
    ("netdev", Adapter::Netdev),
];

/// Who makes the socket of a virtio port: true for the VMM.
const VHOST_MODES: &[(&str, bool)] = &[("server", false), ("client", true)];

/// Queue pairs of a virtio card.
const QUEUES: (u32, u32) = (1, 8);

pub(super) fn read(
    report: &mut Report<'_>,
    root: &Section<'_>,
    switch: &Switch,
    uplinks: &[Uplink],
    groups: &[PortGroup],
) -> Vec<Vnic> {
    let told = report.len();
    let sections = root.tables(report, "vnic", "vnic", keys::VNIC);
    if sections.is_empty() && report.len() == told {
        let sentence = "the file has no vnic, so the switch would serve nobody; add a [[vnic]] for each card";
        report.add(At { line: 1, column: 1 }, sentence.to_owned());
    }
    if let Some(extra) = sections.get(MAX_VNICS) {
        let sentence = format!("{} vnics are more than the {MAX_VNICS} a switch has; take some out", sections.len());
        report.add(extra.at, sentence);
    }
    let vnics: Vec<Vnic> = sections.iter().map(|section| read_one(report, section, switch, groups)).collect();
    check_names(report, uplinks, &vnics);
    check_macs(report, &vnics);
    check_devices(report, uplinks, &vnics);
    vnics
}

fn read_one(report: &mut Report<'_>, section: &Section<'_>, switch: &Switch, groups: &[PortGroup]) -> Vnic {
    let name = section.required(report, "name").unwrap_or_default();
    if name.at.line != 0 {
        check_name(report, &name, &section.what);
        check_socket(report, &name, switch);
    }
    let portgroup = section.required(report, "portgroup").unwrap_or_default();
    if portgroup.at.line != 0 {
        check_portgroup(report, &portgroup, &section.what, groups);
    }
    if !section.has("adapter") {
        section.missing(report, "adapter");
    }
    let adapter = section.choice(report, "adapter", ADAPTERS);
    let mac = read_mac(report, section).unwrap_or_default();
    let device = section.string(report, "device");
    match (&device, adapter) {
        (None, Some(Adapter::Netdev | Adapter::Tap)) => section.missing(report, "device"),
        (Some(device), Some(Adapter::Netdev)) => check_device(report, device, &section.what),
        (Some(device), Some(Adapter::Tap)) => check_tap(report, device, &section.what),
        _ => {}
    }
    only_for(report, section, "device", adapter, &[Adapter::Netdev, Adapter::Tap]);
    only_for(report, section, "driver", adapter, &[Adapter::Netdev]);
    only_for(report, section, "queues", adapter, &[Adapter::Virtio, Adapter::Tap]);
    only_for(report, section, "vhost_mode", adapter, &[Adapter::Virtio]);
    let driver = section.choice(report, "driver", DRIVERS).unwrap_or_default();
    let mend = "give the card as many queue pairs as its guest has processors, up to 8";
    let queues = section.integer_in(report, "queues", QUEUES, mend).map_or(1, |n| n as usize);
    let vhost_client = section.choice(report, "vhost_mode", VHOST_MODES).unwrap_or(false);
    let adapter = adapter.unwrap_or_default();
    Vnic { name, portgroup, adapter, mac, device, driver, queues, vhost_client }
}

/// Refuses a key that only vNICs of other kinds have.
fn only_for(report: &mut Report<'_>, section: &Section<'_>, key: &str, adapter: Option<Adapter>, owners: &[Adapter]) {
    if let (Some(adapter), Some(at)) = (adapter, section.place(report, key))
        && !owners.contains(&adapter)
    {
        let owners: Vec<String> = owners.iter().map(|owner| format!("adapter = \"{}\"", owner.name())).collect();
        let sentence = format!("{key} of {} goes with {} only; take it out", section.what, owners.join(" or "));
        report.add(at, sentence);
    }
}

/// As [`check_device`], for an interface that the switch makes.
fn check_tap(report: &mut Report<'_>, device: &Located<String>, what: &str) {
    if device.contains('%') {
        let sentence = format!(
            "device \"{}\" of {what} holds a %, by which Linux would choose a name; write the name out",
            device.escape_debug()
        );
        return report.add(device.at, sentence);
    }
    check_device(report, device, what);
}

fn check_socket(report: &mut Report<'_>, name: &Located<String>, switch: &Switch) {
    if *name.value == *"control" {
        let sentence = "vnic \"control\" would take the control socket's file control.sock; choose another name";
        report.add(name.at, sentence.to_owned());
    }
    let directory = switch.socket_dir.as_os_str().len();
    let length = switch.socket_dir.join(format!("{name}.sock")).as_os_str().len();
    // A directory that leaves no room for the control socket is told where it stands.
    let hopeless = directory + "/control.sock".len() > MAX_SOCKET_PATH;
    if length > MAX_SOCKET_PATH && !hopeless {
        let sentence = format!(
            "socket path {} of vnic \"{}\" is {length} bytes long, but Linux allows {MAX_SOCKET_PATH}; \
             choose a shorter socket_dir or name",
            switch.socket_dir.join(format!("{name}.sock")).display(),
            name.escape_debug()
        );
        report.add(name.at, sentence);
    }
}

fn check_portgroup(report: &mut Report<'_>, label: &Located<String>, what: &str, groups: &[PortGroup]) {
    let known = || groups.iter().map(|g| g.name.as_str()).filter(|n| !n.is_empty());
    if known().any(|k| k == label.value) {
        return;
    }
    let shown = label.escape_debug();
    let mend = match nearest(label, known()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known().next().is_none() => format!("add a [[portgroup]] with name = \"{shown}\""),
        None => format!("the port groups are {}", list(known())),
    };
    report.add(label.at, format!("port group \"{shown}\" of {what} does not exist; {mend}"));
}

fn read_mac(report: &mut Report<'_>, section: &Section<'_>) -> Option<Located<Mac>> {
    let text = section.required(report, "mac")?;
    let (what, shown) = (&section.what, text.escape_debug());
    let example = "give it an address of its own such as 00:50:56:00:00:01";
    let sentence = match text.parse::<Mac>() {
        Err(_) => format!(
            "MAC \"{shown}\" of {what} is not six two-digit hexadecimal numbers; write one as in 00:50:56:00:00:01"
        ),
        Ok(mac) if mac.is_zero() => format!("MAC {mac} of {what} is no station's; {example}"),
        Ok(mac) if mac.is_group() => {
            format!("MAC {mac} of {what} is a group address (its first byte is odd); {example}")
        }
        Ok(value) => return Some(Located { value, at: text.at }),
    };
    report.add(text.at, sentence);
    None
}

/// Ports are known by name to `vswitch show`, so a vNIC and an uplink may not share one either.
fn check_names(report: &mut Report<'_>, uplinks: &[Uplink], vnics: &[Vnic]) {
    let own = |this: &Vnic, first: &Vnic| {
        let (name, line) = (this.name.escape_debug(), first.name.at.line);
        format!("vnic \"{name}\" is already on line {line}; give each vnic a name of its own")
    };
    check_unique(report, vnics, |v| &v.name, own);
    for vnic in vnics.iter().filter(|v| v.name.at.line != 0) {
        if let Some(uplink) = uplinks.iter().find(|u| u.name == vnic.name) {
            let (name, line) = (vnic.name.escape_debug(), uplink.name.at.line);
            let sentence = format!("vnic \"{name}\" is named like the uplink on line {line}; choose another name");
            report.add(vnic.name.at, sentence);
        }
    }
}

fn check_macs(report: &mut Report<'_>, vnics: &[Vnic]) {
    let own = |this: &Vnic, first: &Vnic| {
        format!(
            "MAC {} of vnic \"{}\" is already that of vnic \"{}\" on line {}; give each vnic its own",
            this.mac.value,
            this.name.escape_debug(),
            first.name.escape_debug(),
            first.mac.at.line
        )
    };
    check_unique(report, vnics, |v| &v.mac, own);
}

/// An interface has one user.
fn check_devices(report: &mut Report<'_>, uplinks: &[Uplink], vnics: &[Vnic]) {
    let of_uplinks = uplinks.iter().map(|u| ("uplink", &u.name, &u.device));
    let of_vnics = vnics.iter().filter_map(|v| v.device.as_ref().map(|d| ("vnic", &v.name, d)));
    let users: Vec<_> = of_uplinks.chain(of_vnics).collect();
    check_unique(
        report,
        &users,
        |u| u.2,
        |this, first| {
            format!(
                "device \"{}\" of {} \"{}\" is already that of {} \"{}\" on line {}; give each its own",
                this.2.escape_debug(),
                this.0,
                this.1.escape_debug(),
                first.0,
                first.1.escape_debug(),
                first.2.at.line
            )
        },
    );
}
