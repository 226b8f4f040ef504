//! The text of a configuration file.

use std::collections::HashSet;

use control::config::{Config, Host, MAX_UPLINKS, MAX_VNICS, parse};

/// Longest text looked at; the shortest one that shows something is far shorter.
const LONGEST: usize = 64 << 10;

/// Runs one input.
///
/// # Panics
/// When a configuration is accepted that does not keep its promises, or refused without a sentence.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(&data[..data.len().min(LONGEST)]);
    let host = Host { online: vec![0, 1, 2, 5], default_worker: 1 };
    let outcome = parse("fuzz.toml", &text, &host);
    assert_eq!(outcome, parse("fuzz.toml", &text, &host), "the same text means the same");
    match outcome {
        Ok(config) => check(&config, &host),
        Err(problems) => {
            let told = problems.to_string();
            assert!(!told.trim().is_empty(), "a refusal says why");
            for line in told.lines() {
                assert!(line.starts_with("fuzz.toml"), "each sentence is one line with its place: {line:?}");
            }
        }
    }
}

/// What the rest of the switch need not doubt.
fn check(config: &Config, host: &Host) {
    assert!((1280..=9190).contains(&config.switch.mtu));
    assert!(config.switch.socket_dir.is_absolute());
    assert!(!config.switch.workers.is_empty() && config.switch.workers.iter().all(|cpu| host.online.contains(cpu)));
    assert!((1..=MAX_VNICS).contains(&config.vnics.len()) && config.uplinks.len() <= MAX_UPLINKS);
    let unique = |names: Vec<&str>| names.iter().collect::<HashSet<_>>().len() == names.len();
    assert!(unique(config.uplinks.iter().map(|u| u.name.as_str()).collect()));
    assert!(unique(config.portgroups.iter().map(|g| g.name.as_str()).collect()));
    assert!(unique(config.vnics.iter().map(|v| v.name.as_str()).collect()));
    let macs: HashSet<_> = config.vnics.iter().map(|v| *v.mac).collect();
    assert_eq!(macs.len(), config.vnics.len(), "an address serves one vNIC");
    for vnic in &config.vnics {
        assert!(config.portgroup_index(&vnic.portgroup).is_some(), "its port group exists");
        assert!(!vnic.mac.is_group(), "its address is unicast");
        let socket = config.vnic_socket(&vnic.name);
        assert!(socket.as_os_str().len() <= vnic::vfio_user::MAX_PATH, "its socket has an address");
        assert_eq!(socket.parent(), Some(config.switch.socket_dir.as_path()), "and lies in the directory");
    }
    for team in config.portgroups.iter().map(|g| &g.team).chain([&config.team]) {
        let names: Vec<&str> = team.active.iter().chain(&team.standby).map(String::as_str).collect();
        assert!(names.iter().all(|name| config.uplink_index(name).is_some()), "its uplinks exist");
        assert!(unique(names), "an uplink has one place in a team");
    }
}
