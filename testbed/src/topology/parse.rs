//! From a lab's file to a [`Topology`].

use std::net::IpAddr;

use toml::de::DeTable;

use super::check;
use super::reader::{Problems, Report, Section, Word};
use super::{CableSpec, End, HostSpec, Topology};

const ENDS: &str = "ends = [\"esx1:eth1\", \"tor1\"]";
const ADDRESS: &str = "address = [\"10.0.0.1/24\"]";

/// A host as the file gives it: which interface an address is for is known when the cables are.
struct RawHost {
    name: Word,
    addresses: Vec<Word>,
    vlan: Option<(u16, usize)>,
}

pub(super) fn parse(file: &str, text: &str) -> Result<Topology, Problems> {
    let mut report = Report::new(file, text);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let message = error.message().replace('\n', "; ");
            report.add(error.span().map_or(0, |s| s.start), format!("this is not TOML: {message}; mend the syntax"));
            return Err(report.finish());
        }
    };
    let keys = ["name", "mtu", "host", "switch", "cable"];
    let root = Section::new(&mut report, table.get_ref(), &keys, 0, "the file".to_owned());
    let topology = read(&mut report, &root);
    if report.is_empty() { Ok(topology) } else { Err(report.finish()) }
}

fn read(report: &mut Report<'_>, root: &Section<'_>) -> Topology {
    let name = root.required(report, "name", "name = \"two-racks\"").unwrap_or_default();
    if !name.text.is_empty() || name.at > 0 {
        check::name(report, &name, "the lab");
    }
    let mtu = root.number(report, "mtu", (1280, 9190), "mtu = 1500").map_or(1500, |(mtu, _)| mtu);
    let raw: Vec<RawHost> = root
        .tables(report, "host", &["name", "address", "vlan"])
        .iter()
        .filter_map(|section| read_host(report, section))
        .collect();
    let switches: Vec<Word> =
        root.tables(report, "switch", &["name"]).iter().filter_map(|section| read_name(report, section)).collect();
    let sections = root.tables(report, "cable", &["name", "ends"]);
    let names: Vec<(Word, [Word; 2])> = sections.iter().filter_map(|section| read_cable(report, section)).collect();
    if raw.is_empty() && report.is_empty() {
        report.add(0, "the lab has no host, so nothing could run in it; add a [[host]]".to_owned());
    }
    let nodes = || raw.iter().map(|h| &h.name).chain(&switches);
    check::unique(report, nodes().chain(names.iter().map(|(name, _)| name)));
    let mut cables = Vec::new();
    for (name, ends) in &names {
        let [a, b] = ends.each_ref().map(|end| read_end(report, end, name, (&raw, &switches)));
        if let (Some(a), Some(b)) = (a, b) {
            cables.push((CableSpec { name: name.text.clone(), ends: [a, b] }, name.at));
        }
    }
    check::devices(report, &cables);
    check::loops(report, &cables);
    // What an address is for is only known when every cable is: one mistake is not to be told twice.
    let complete = cables.len() == sections.len();
    let hosts = raw.iter().filter(|_| complete).map(|host| finish_host(report, host, &cables)).collect();
    Topology {
        name: name.text,
        mtu,
        hosts,
        switches: switches.into_iter().map(|s| s.text).collect(),
        cables: cables.into_iter().map(|(cable, _)| cable).collect(),
    }
}

fn read_name(report: &mut Report<'_>, section: &Section<'_>) -> Option<Word> {
    let name = section.required(report, "name", "name = \"tor1\"")?;
    check::name(report, &name, &section.what);
    Some(name)
}

fn read_host(report: &mut Report<'_>, section: &Section<'_>) -> Option<RawHost> {
    let name = read_name(report, section);
    let vlan = section.number(report, "vlan", (1, 4094), "vlan = 10");
    let (addresses, _) = section.strings(report, "address", ADDRESS).unwrap_or_default();
    Some(RawHost { name: name?, addresses, vlan })
}

fn read_cable(report: &mut Report<'_>, section: &Section<'_>) -> Option<(Word, [Word; 2])> {
    let name = read_name(report, section);
    let Some((ends, at)) = section.strings(report, "ends", ENDS) else {
        // A list of something else has been told already.
        if !section.has("ends") {
            report.add(section.at, format!("{} has no ends; add them as in {ENDS}", section.what));
        }
        return None;
    };
    let number = ends.len();
    let Ok(ends) = <[Word; 2]>::try_from(ends) else {
        report.add(at, format!("{} has {number} ends, but a cable has two; write {ENDS}", section.what));
        return None;
    };
    Some((name?, ends))
}

/// `host:interface`, `switch` or `switch:port`; a switch's port is called as the cable is when not named.
fn read_end(
    report: &mut Report<'_>,
    end: &Word,
    cable: &Word,
    (hosts, switches): (&[RawHost], &[Word]),
) -> Option<End> {
    let (node, device) = match end.text.split_once(':') {
        Some((node, device)) => (node, Some(device)),
        None => (end.text.as_str(), None),
    };
    let what = format!("cable \"{}\"", cable.text.escape_debug());
    let on_switch = switches.iter().any(|s| s.text == node);
    if !on_switch && !hosts.iter().any(|h| h.name.text == node) {
        let known = hosts.iter().map(|h| &h.name).chain(switches).map(|w| w.text.as_str()).collect::<Vec<_>>();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        let shown = node.escape_debug();
        let sentence = format!("end \"{shown}\" of {what} is no host and no switch; the lab's are {known}");
        report.add(end.at, sentence);
        return None;
    }
    let device = match device {
        Some(device) => device,
        None if on_switch => cable.text.as_str(),
        None => {
            let sentence = format!("end \"{node}\" of {what} names no interface of that host; write \"{node}:eth1\"");
            report.add(end.at, sentence);
            return None;
        }
    };
    check::device(report, device, end.at, &what).then(|| End {
        node: node.to_owned(),
        device: device.to_owned(),
        on_switch,
    })
}

/// Finds the interface each address is for.
fn finish_host(report: &mut Report<'_>, raw: &RawHost, cables: &[(CableSpec, usize)]) -> HostSpec {
    let name = &raw.name.text;
    let ends = cables.iter().flat_map(|(cable, _)| &cable.ends).filter(|end| end.node == *name);
    let devices: Vec<&str> = ends.map(|end| end.device.as_str()).collect();
    if let (Some((_, at)), true) = (raw.vlan, devices.is_empty()) {
        report.add(
            at,
            format!("host \"{name}\" has a vlan but no cable to a switch; add a [[cable]] with {name}:eth0 as an end"),
        );
    }
    let mut addresses = Vec::new();
    for word in &raw.addresses {
        let (device, address) = match word.text.split_once(' ') {
            Some((device, address)) => (Some(device), address.trim()),
            None => (None, word.text.as_str()),
        };
        let shown = word.text.escape_debug();
        if !is_address(address) {
            report.add(word.at, format!("address \"{shown}\" of host \"{name}\" is none; write one as in {ADDRESS}"));
            continue;
        }
        match (device, devices.as_slice()) {
            (Some(device), known) if known.contains(&device) => addresses.push((device.to_owned(), address.to_owned())),
            (None, [only]) => addresses.push(((*only).to_owned(), address.to_owned())),
            (_, []) => report.add(
                word.at,
                format!("host \"{name}\" has an address but no cable; add a [[cable]] with {name}:eth0 as an end"),
            ),
            (_, [first, ..]) => report.add(
                word.at,
                format!(
                    "address \"{shown}\" of host \"{name}\" is for none of its interfaces {}; name one as in \"{first} {address}\"",
                    devices.join(", ")
                ),
            ),
        }
    }
    HostSpec { name: name.clone(), addresses, vlan: raw.vlan.map(|(vlan, _)| vlan) }
}

fn is_address(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let bits = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|n| n <= bits)
}
