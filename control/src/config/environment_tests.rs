use std::fs;

use super::*;
use crate::config::{Host, parse};

fn config(socket_dir: &Path, device: &str) -> Config {
    let text = format!(
        "[switch]\nsocket_dir = \"{}\"\n[[uplink]]\nname = \"vmnic0\"\ndevice = \"{device}\"\n\
         [[portgroup]]\nname = \"P\"\n[[vnic]]\nname = \"a\"\nportgroup = \"P\"\nadapter = \"vmxnet3\"\n\
         mac = \"00:50:56:00:00:01\"\n",
        socket_dir.display()
    );
    parse("net.toml", &text, &Host::here()).unwrap()
}

#[test]
fn an_interface_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let told = check(&config(dir.path(), "no-such-eth")).unwrap_err().to_string();
    let first = told.lines().next().unwrap();
    assert_eq!(
        first,
        "net.toml:5:10: interface \"no-such-eth\" of uplink \"vmnic0\" does not exist; \
         `ip link` lists those that do, in this network namespace"
    );
}

#[test]
fn a_tap_needs_no_interface_but_what_makes_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[switch]\nsocket_dir = \"DIR\"\n[[portgroup]]\nname = \"P\"\n[[vnic]]\nname = \"a\"\n\
                portgroup = \"P\"\nadapter = \"tap\"\ndevice = \"no-such-tap\"\nmac = \"00:50:56:00:00:01\"\n";
    let text = text.replace("DIR", &dir.path().display().to_string());
    let config = parse("net.toml", &text, &Host::here()).unwrap();
    assert_eq!(check(&config).map_err(|e| e.to_string()), Ok(()), "this machine has /dev/net/tun");
    let device = config.vnics[0].device.as_ref().unwrap();
    let told = |path: &Path| check_tun(path, device, "vnic \"a\"").map(|problem| problem.sentence);
    assert_eq!(
        told(&dir.path().join("tun")).unwrap(),
        format!(
            "interface \"no-such-tap\" of vnic \"a\" cannot be made because there is no {0}/tun; load the module tun, \
             and give {0}/tun to the container if the switch runs in one",
            dir.path().display()
        )
    );
    assert_eq!(told(Path::new("/dev/null")), None);
}

#[test]
fn a_directory_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for below in [file.clone(), file.join("x/y")] {
        let problem = check_socket_dir(&config(&below, "lo").switch.socket_dir).unwrap();
        let want = format!(
            "socket_dir {} cannot be used because {} is not a directory; choose another",
            below.display(),
            file.display()
        );
        assert_eq!(problem.sentence, want);
        assert_eq!(problem.at.map(|at| (at.line, at.column)), Some((2, 14)));
    }
    let fresh = dir.path().join("not/yet/there");
    assert_eq!(check_socket_dir(&config(&fresh, "lo").switch.socket_dir), None);
    assert!(!fresh.exists(), "a check makes nothing");
}
