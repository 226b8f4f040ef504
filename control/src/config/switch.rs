//! The `[switch]` and `[beacon]` sections.

use std::path::{Path, PathBuf};

use super::host::cpu_list_text;
use super::keys;
use super::names::check_label;
use super::problem::{Located, Report};
use super::section::Section;
use super::{Beacon, Host, Idle, Switch};

const DEFAULT_SOCKET_DIR: &str = "/run/vswitch";
/// Bytes of a Unix socket's path: `sun_path` of unix(7) less its final zero.
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Smallest EtherType; below it the field is a length (IEEE 802.3 clause 3.2.6).
const MIN_ETHERTYPE: u32 = 0x0600;
/// EtherTypes that something else on a network uses (IEEE registration authority).
const TAKEN_ETHERTYPES: &[(u16, &str)] = &[
    (0x0800, "IPv4"),
    (0x0806, "ARP"),
    (0x8035, "RARP"),
    (0x8100, "802.1Q tags"),
    (0x86dd, "IPv6"),
    (0x8809, "LACP"),
    (0x8847, "MPLS"),
    (0x8848, "MPLS"),
    (0x8863, "PPPoE"),
    (0x8864, "PPPoE"),
    (0x888e, "802.1X"),
    (0x88a8, "802.1ad tags"),
    (0x88cc, "LLDP"),
    (0x88e5, "MACsec"),
    (0x88f7, "PTP"),
    (0x8902, "802.1ag"),
    (0x8906, "FCoE"),
    (0x8914, "FCoE"),
    (0x9000, "loopback tests"),
    (0x9100, "stacked tags"),
];

pub(super) fn read(report: &mut Report<'_>, root: &Section<'_>, host: &Host) -> Switch {
    let mut switch = Switch {
        name: "vSwitch0".to_owned(),
        mtu: 1500,
        socket_dir: Located { value: PathBuf::from(DEFAULT_SOCKET_DIR), at: root.at },
        workers: vec![host.default_worker],
        idle: Idle::default(),
    };
    let Some(section) = root.table(report, "switch", keys::SWITCH, "[switch]".to_owned()) else { return switch };
    switch.socket_dir.at = section.at;
    if let Some(name) = section.string(report, "name") {
        check_label(report, &name, "the switch");
        switch.name = name.value;
    }
    if let Some(mtu) = section.integer_in(report, "mtu", (1280, 9190), "1500 is usual, 9000 for jumbo frames") {
        switch.mtu = u16::try_from(mtu).unwrap_or(switch.mtu);
    }
    if let Some(dir) = section.string(report, "socket_dir") {
        check_socket_dir(report, &dir);
        switch.socket_dir = Located { value: PathBuf::from(dir.value), at: dir.at };
    }
    if let Some(workers) = read_workers(report, &section, host) {
        switch.workers = workers;
    }
    if let Some(idle) = section.choice(report, "idle", &[("adaptive", Idle::Adaptive), ("spin", Idle::Spin)]) {
        switch.idle = idle;
    }
    switch
}

fn check_socket_dir(report: &mut Report<'_>, dir: &Located<String>) {
    let shown = dir.escape_debug();
    if dir.chars().any(char::is_control) {
        report.add(dir.at, format!("socket_dir \"{shown}\" holds a control character; take it out"));
    } else if !Path::new(&dir.value).is_absolute() {
        report.add(dir.at, format!("socket_dir \"{shown}\" is not an absolute path; write one as in /run/vswitch"));
    } else {
        let control = Path::new(&dir.value).join("control.sock");
        let length = control.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let sentence = format!(
                "socket path {} is {length} bytes long, but Linux allows {MAX_SOCKET_PATH}; choose a shorter socket_dir",
                control.display()
            );
            report.add(dir.at, sentence);
        }
    }
}

fn read_workers(report: &mut Report<'_>, section: &Section<'_>, host: &Host) -> Option<Vec<usize>> {
    let listed = section.integers(report, "workers")?;
    let online = cpu_list_text(&host.online);
    if listed.is_empty() {
        let sentence = "workers in [switch] names no CPU; name at least one, or leave the key out for the last CPU";
        report.add(listed.at, sentence.to_owned());
    }
    let mut workers = Vec::new();
    for cpu in &listed.value {
        match usize::try_from(cpu.value) {
            Ok(number) if workers.contains(&number) => {
                report.add(cpu.at, format!("worker CPU {number} is named twice; a CPU runs one worker, so keep one"));
            }
            Ok(number) if host.online.contains(&number) => workers.push(number),
            _ => report.add(cpu.at, format!("worker CPU {cpu} is not online; the CPUs online are {online}")),
        }
    }
    Some(workers)
}

pub(super) fn read_beacon(report: &mut Report<'_>, root: &Section<'_>) -> Beacon {
    let mut beacon = Beacon::default();
    let Some(section) = root.table(report, "beacon", keys::BEACON, "[beacon]".to_owned()) else { return beacon };
    if let Some(interval) = section.integer_in(report, "interval_ms", (10, 60_000), "1000 is usual") {
        beacon.interval_ms = interval;
    }
    if let Some(threshold) = section.integer_in(report, "threshold", (1, 100), "3 is usual") {
        beacon.threshold = threshold;
    }
    if let Some(shotgun) = section.boolean(report, "shotgun") {
        beacon.shotgun = shotgun;
    }
    if let Some(ethertype) = section.integer(report, "ethertype") {
        match check_ethertype(ethertype.value) {
            Ok(value) => beacon.ethertype = value,
            Err(why) => report.add(ethertype.at, format!("{why}; 0x88B5 and 0x88B6 are free for local use")),
        }
    }
    beacon
}

fn check_ethertype(value: i128) -> Result<u16, String> {
    match u16::try_from(value) {
        Ok(ethertype) if u32::from(ethertype) >= MIN_ETHERTYPE => {
            match TAKEN_ETHERTYPES.iter().find(|(taken, _)| *taken == ethertype) {
                Some((_, user)) => Err(format!("ethertype 0x{ethertype:04X} in [beacon] is that of {user}")),
                None => Ok(ethertype),
            }
        }
        Ok(low) => Err(format!("ethertype 0x{low:04X} in [beacon] is below 0x0600, where lengths are")),
        Err(_) => Err(format!("ethertype {value} in [beacon] is outside 0x0600 to 0xFFFF")),
    }
}
