//! What a lab's file must keep to.

use std::collections::HashMap;

use super::CableSpec;
use super::reader::{Report, Word};

/// Longest name of a lab, host, switch or cable in bytes.
const MAX_NAME: usize = 32;
/// Longest name of a Linux interface in bytes (IFNAMSIZ less the final zero).
const MAX_DEVICE: usize = 15;
/// The bridge of each switch.
pub(super) const BRIDGE: &str = "br0";

/// True for a name that a lab, host, switch or cable may have.
pub(super) fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(fine)
}

/// Reports a name that no namespace and no command line could bear.
pub(super) fn name(report: &mut Report<'_>, name: &Word, what: &str) {
    if !is_name(&name.text) {
        let sentence = format!(
            "the name \"{}\" of {what} is not 1 to {MAX_NAME} letters, digits and dashes; choose one that is",
            name.text.escape_debug()
        );
        report.add(name.at, sentence);
    }
}

/// Reports names that are taken twice: commands go by name, so hosts, switches and cables share them.
pub(super) fn unique<'w>(report: &mut Report<'_>, names: impl Iterator<Item = &'w Word>) {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name.text.as_str()) {
            let shown = name.text.escape_debug();
            report.add(
                name.at,
                format!("the name \"{shown}\" is taken by another host, switch or cable; choose another"),
            );
        }
        seen.push(&name.text);
    }
}

/// Reports what cannot be an interface of a cable; true when it can.
pub(super) fn device(report: &mut Report<'_>, device: &str, at: usize, what: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let shown = device.escape_debug();
    let why = if device.is_empty() || !device.bytes().all(plain) || device.starts_with(['-', '.']) {
        format!("interface \"{shown}\" of {what} is not letters, digits, '-', '_' and '.'; write \"host:eth1\"")
    } else if device.len() > MAX_DEVICE {
        let room = format!("{MAX_DEVICE} bytes Linux allows an interface");
        format!("\"{shown}\" of {what} is longer than the {room}; choose a shorter name, or name the port: \"tor1:p1\"")
    } else if matches!(device, "lo" | BRIDGE) {
        format!("interface \"{shown}\" of {what} is there already; choose another name")
    } else {
        return true;
    };
    report.add(at, why);
    false
}

/// Reports interfaces that have two cables.
pub(super) fn devices(report: &mut Report<'_>, cables: &[(CableSpec, usize)]) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (cable, at) in cables {
        for end in &cable.ends {
            let place = (end.node.as_str(), end.device.as_str());
            if seen.contains(&place) {
                let sentence = format!(
                    "cable \"{}\" ends at {}:{}, which has a cable already; choose another interface",
                    cable.name, end.node, end.device
                );
                report.add(*at, sentence);
            }
            seen.push(place);
        }
    }
}

/// Reports cables that close a loop of switches: the bridges run no spanning tree, so one broadcast would go
/// round for ever and take the machine's cores.
pub(super) fn loops(report: &mut Report<'_>, cables: &[(CableSpec, usize)]) {
    let mut parents: HashMap<&str, &str> = HashMap::new();
    fn root<'n>(parents: &HashMap<&'n str, &'n str>, mut node: &'n str) -> &'n str {
        while let Some(parent) = parents.get(node) {
            node = parent;
        }
        node
    }
    for (cable, at) in cables.iter().filter(|(cable, _)| cable.ends.iter().all(|end| end.on_switch)) {
        let [a, b] = cable.ends.each_ref().map(|end| root(&parents, &end.node));
        if a == b {
            let sentence = format!(
                "cable \"{}\" closes a loop of switches, which run no spanning tree here; take it out",
                cable.name
            );
            report.add(*at, sentence);
        } else {
            parents.insert(a, b);
        }
    }
}
