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
