//! `vswitch lab` as a user meets it: built, cut, healed, crashed, taken down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use testbed::soft::{SoftGuest, SoftVmxnet3, Vmxnet3Options};
use testbed::switch::SwitchProcess;
use testbed::topology::Topology;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vswitch");

/// A lab's file in a directory of its own; the lab is down when this goes, whatever the test did.
struct LabFile {
    name: String,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl LabFile {
    fn new(name: &str, tables: &str) -> LabFile {
        let name = format!("{name}-{}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lab.toml");
        fs::write(&file, format!("name = \"{name}\"\n{tables}")).unwrap();
        LabFile { name, file, _dir: dir }
    }

    fn up(&self) -> Output {
        vswitch(&["up", "-c", self.file.to_str().unwrap()])
    }

    /// A command on this lab, its name put in.
    fn run(&self, verb: &str, words: &[&str]) -> Output {
        vswitch(&[&[verb, &self.name], words].concat())
    }

    /// As [`LabFile::run`], for one that succeeds; what it prints.
    fn ok(&self, verb: &str, words: &[&str]) -> String {
        let output = self.run(verb, words);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{verb} {words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn pings(&self, host: &str, address: &str) -> bool {
        // More than one: the first after a change may be lost to a switch that has yet to learn.
        let ping = ["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", address];
        self.run("exec", &[&[host, "--"], &ping[..]].concat()).status.success()
    }

    fn read(&self, host: &str, path: &str) -> String {
        self.ok("exec", &[host, "--", "cat", path]).trim().to_owned()
    }

    fn received(&self, host: &str) -> u64 {
        self.read(host, "/sys/class/net/eth0/statistics/rx_packets").parse().unwrap()
    }

    /// What carries the lab's name in this machine.
    fn traces(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in ["/run/netns", "/run/vswitch-lab"] {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(&self.name)));
        }
        found
    }

    fn namespaces(&self) -> usize {
        self.traces().iter().filter(|path| path.starts_with("/run/netns")).count()
    }
}

impl Drop for LabFile {
    fn drop(&mut self) {
        self.run("down", &[]);
    }
}

fn vswitch(args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("lab").args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn assert_refused(output: &Output, text: &str) {
    assert_eq!((output.status.code(), stderr(output)), (Some(2), format!("{text}\n")));
    assert!(output.stdout.is_empty());
}

const TWO_RACKS: &str = r#"
[[host]]
name = "client"
address = ["10.0.0.1/24"]
vlan = 10
[[host]]
name = "server"
address = ["10.0.0.100/24"]
vlan = 10
[[host]]
name = "near"
address = ["10.1.0.1/24"]
[[host]]
name = "far"
address = ["10.1.0.2/24"]
[[switch]]
name = "tor1"
[[switch]]
name = "tor2"
[[cable]]
name = "c1"
ends = ["client:eth0", "tor1"]
[[cable]]
name = "c2"
ends = ["server:eth0", "tor2"]
[[cable]]
name = "isl"
ends = ["tor1", "tor2"]
[[cable]]
name = "direct"
ends = ["near:eth0", "far:eth0"]
"#;

#[test]
fn a_lab_is_built_played_with_and_taken_down() {
    let lab = LabFile::new("whole", TWO_RACKS);
    let up = lab.up();
    assert_eq!(stderr(&up), "");
    let printed = String::from_utf8(up.stdout).unwrap();
    assert_eq!(printed, format!("lab {} is up: 4 hosts, 2 switches, 4 cables\n", lab.name));
    assert!(lab.pings("client", "10.0.0.100") && lab.pings("near", "10.1.0.2"));
    let listed = String::from_utf8(vswitch(&["list"]).stdout).unwrap();
    let line = listed.lines().find(|line| line.starts_with(&lab.name)).unwrap();
    assert!(line.contains("  up  ") && line.ends_with("4 hosts, 2 switches, 4 cables"), "{line}");
    let shown = lab.ok("show", &[]);
    assert!(shown.contains("client  eth0        10     10.0.0.1/24"), "{shown}");
    assert!(shown.contains("isl     tor1         tor2      whole"), "{shown}");
    let again = lab.up();
    let name = &lab.name;
    let file = lab.file.display();
    assert_refused(
        &again,
        &format!(
            "vswitch: lab {name} is up already; take it down by `vswitch lab down {name}`, or change the name in {file}"
        ),
    );
    assert_eq!(lab.ok("down", &[]), format!("lab {name} is gone\n"));
    assert_eq!(lab.traces(), Vec::<PathBuf>::new());
    assert_eq!(lab.ok("down", &[]), format!("there is no lab {name}, and nothing left of one\n"));
}

#[test]
fn cables_are_cut_and_healed() {
    let lab = LabFile::new("cut", TWO_RACKS);
    assert!(lab.up().status.success());
    let link = |host: &str| lab.read(host, "/sys/class/net/eth0/carrier") == "1";
    // (cable, from, address, the host that loses its link)
    for (cable, host, address, dark) in [
        ("c1", "client", "10.0.0.100", Some("client")),
        ("isl", "client", "10.0.0.100", None),
        ("direct", "near", "10.1.0.2", Some("far")),
    ] {
        assert!(lab.pings(host, address));
        assert_eq!(lab.ok("cut", &[cable]), format!("cable {cable}: cut\n"));
        assert!(!lab.pings(host, address), "{cable} is cut");
        for seen in ["client", "server", "near", "far"] {
            let expected = dark != Some(seen) && !(cable == "direct" && seen == "near");
            assert_eq!(link(seen), expected, "link of {seen} with {cable} cut");
        }
        assert_eq!(lab.ok("heal", &[cable]), format!("cable {cable}: whole\n"));
        assert!(lab.pings(host, address), "{cable} is healed");
    }
}

#[test]
fn one_way_loses_what_one_end_sends() {
    let lab = LabFile::new("oneway", TWO_RACKS);
    assert!(lab.up().status.success());
    assert!(lab.pings("client", "10.0.0.100"));
    // Addresses that do not age, so that pings go out without being answered.
    for (host, other, address) in [("client", "server", "10.0.0.100"), ("server", "client", "10.0.0.1")] {
        let mac = lab.read(other, "/sys/class/net/eth0/address");
        let words = ["ip", "neigh", "replace", address, "lladdr", &mac, "nud", "permanent", "dev", "eth0"];
        lab.ok("exec", &[&[host, "--"], &words[..]].concat());
    }
    for (cable, end, client_hears, server_hears, told) in [
        ("c1", "client", true, false, "client:eth0"),
        ("c1", "tor1", false, true, "tor1"),
        ("isl", "A", true, false, "tor1"),
        ("isl", "tor2", false, true, "tor2"),
    ] {
        let state = lab.ok("cut", &[cable, "--one-way", end]);
        assert_eq!(state, format!("cable {cable}: one-way: what {told} sends is lost\n"));
        let before = [lab.received("client"), lab.received("server")];
        assert!(!lab.pings("client", "10.0.0.100") && !lab.pings("server", "10.0.0.1"));
        let after = [lab.received("client"), lab.received("server")];
        // Three pings from each side.
        let heard = [after[0] - before[0] >= 3, after[1] - before[1] >= 3];
        assert_eq!(heard, [client_hears, server_hears], "{cable}, {end}: {before:?} {after:?}");
        assert_eq!(lab.read("client", "/sys/class/net/eth0/carrier"), "1", "the link stays up");
        assert_eq!(lab.ok("heal", &[cable]), format!("cable {cable}: whole\n"));
        assert!(lab.pings("client", "10.0.0.100"));
    }
}

#[test]
fn unplugged_ports_keep_their_link() {
    let lab = LabFile::new("unplug", TWO_RACKS);
    assert!(lab.up().status.success());
    for (cable, switch) in [("c1", None), ("isl", Some("tor2"))] {
        let words = [&[cable][..], &switch.map_or(vec![], |s| vec!["--at", s])].concat();
        let at = switch.unwrap_or("tor1");
        assert_eq!(lab.ok("unplug", &words), format!("cable {cable}: unplugged at {at}\n"));
        assert!(!lab.pings("client", "10.0.0.100"));
        assert_eq!(lab.read("client", "/sys/class/net/eth0/carrier"), "1");
        assert_eq!(lab.read(at, &format!("/sys/class/net/{cable}/carrier")), "1");
        assert_eq!(lab.ok("heal", &[cable]), format!("cable {cable}: unplugged at {at}\n"), "heal is for cables");
        assert_eq!(lab.ok("plug", &words), format!("cable {cable}: whole\n"));
        assert!(lab.pings("client", "10.0.0.100"));
    }
}

#[test]
fn commands_run_in_hosts_with_their_own_exit_code() {
    let lab = LabFile::new("exec", TWO_RACKS);
    assert!(lab.up().status.success());
    assert_eq!(lab.run("exec", &["client", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let addresses = lab.ok("exec", &["client", "--", "ip", "-br", "addr", "show", "dev", "eth0"]);
    assert!(addresses.contains("10.0.0.1/24"), "{addresses}");
    assert!(lab.ok("exec", &["tor1", "--", "ip", "-br", "link"]).contains("isl@"), "a switch is a place too");
    // What still runs in a host ends with the lab.
    let words = ["lab", "exec", &lab.name, "server", "--", "sleep", "1000"];
    let mut sleeper = Command::new(PROGRAM).args(words).spawn().unwrap();
    let pids = || lab.run("exec", &["server", "--", "ip", "netns", "pids", &format!("vlab.{}.server", lab.name)]);
    wait(|| String::from_utf8(pids().stdout).unwrap().contains(&sleeper.id().to_string()));
    lab.ok("down", &[]);
    wait(|| sleeper.try_wait().unwrap().is_some());
    assert_eq!(lab.traces(), Vec::<PathBuf>::new());
}

fn wait(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_up_is_cleaned_up() {
    let hosts: String = (0..30)
        .map(|n| format!("[[host]]\nname = \"h{n}\"\n[[cable]]\nname = \"c{n}\"\nends = [\"h{n}:eth0\", \"s\"]\n"))
        .collect();
    let lab = LabFile::new("crash", &format!("[[switch]]\nname = \"s\"\n{hosts}"));
    for reached in [0, 1, 7, 31] {
        let mut child = Command::new(PROGRAM).args(["lab", "up", "-c", lab.file.to_str().unwrap()]).spawn().unwrap();
        wait(|| !lab.traces().is_empty() && lab.namespaces() >= reached);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(!ended.success(), "killed in the middle with {} namespaces", lab.namespaces());
        let name = &lab.name;
        let listed = String::from_utf8(vswitch(&["list"]).stdout).unwrap();
        assert!(listed.contains(&format!("clean up by `vswitch lab down {name}`")), "{listed}");
        let mend = format!("clean up by `vswitch lab down {name}`");
        assert_refused(&lab.up(), &format!("vswitch: lab {name} was left half built; {mend}"));
        assert_refused(&lab.run("show", &[]), &format!("vswitch: lab {name} is half built; {mend}"));
        assert_eq!(lab.ok("down", &[]), format!("lab {name} is gone\n"));
        assert_eq!(lab.traces(), Vec::<PathBuf>::new());
    }
    assert!(lab.up().status.success(), "and can be built after that");
    lab.ok("down", &[]);
    assert_eq!(lab.traces(), Vec::<PathBuf>::new());
}

#[test]
fn a_lab_that_cannot_be_built_leaves_nothing() {
    // Two addresses of which the kernel refuses the second.
    let tables = TWO_RACKS.replace("\"10.1.0.2/24\"", "\"10.1.0.2/24\", \"10.1.0.2/24\"");
    let lab = LabFile::new("broken", &tables);
    let up = lab.up();
    assert_eq!(up.status.code(), Some(1));
    let told = stderr(&up);
    let head = format!("vswitch: lab: lab {} is not built, and what was begun is gone again: ", lab.name);
    assert!(told.starts_with(&head) && told.lines().count() == 1, "{told}");
    assert_eq!(lab.traces(), Vec::<PathBuf>::new());
}

#[test]
fn a_damaged_lab_says_so() {
    let lab = LabFile::new("damaged", TWO_RACKS);
    assert!(lab.up().status.success());
    let gone = format!("vlab.{}.tor1", lab.name);
    assert!(Command::new("ip").args(["netns", "del", &gone]).status().unwrap().success());
    let output = lab.run("cut", &["c1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with(&format!("vswitch: lab: lab {} is damaged (", lab.name)),
        "{}",
        stderr(&output)
    );
    assert_eq!(lab.ok("down", &[]), format!("lab {} is gone\n", lab.name));
    assert_eq!(lab.traces(), Vec::<PathBuf>::new());
}

#[test]
fn refusals_are_one_sentence() {
    let lab = LabFile::new("refused", &TWO_RACKS.replace("vlan = 10", "vlan = 10\nvlna = 3"));
    let file = lab.file.display();
    let sentence = |line, host| {
        format!("{file}:{line}:1: unknown key \"vlna\" in host \"{host}\"; known here: name, address, vlan")
    };
    assert_refused(&lab.up(), &format!("{}\n{}", sentence(7, "client"), sentence(12, "server")));
    let missing = Path::new("/no/such/lab.toml");
    assert_refused(
        &vswitch(&["up", "-c", missing.to_str().unwrap()]),
        "/no/such/lab.toml: it cannot be read (No such file or directory (os error 2)); give the path of a lab's file by -c FILE",
    );
    let none = "; `vswitch lab list` tells which there are";
    for words in [&["show", "nowhere-1"][..], &["cut", "nowhere-1", "c1"], &["exec", "nowhere-1", "a", "--", "true"]] {
        assert_refused(&vswitch(words), &format!("vswitch: there is no lab \"nowhere-1\"{none}"));
    }
    assert_refused(&vswitch(&["show", "../etc"]), &format!("vswitch: there is no lab \"../etc\"{none}"));
    assert_refused(&vswitch(&["down", "a.b"]), &format!("vswitch: \"a.b\" can be no lab's name{none}"));
    let good = LabFile::new("asked", TWO_RACKS);
    assert!(good.up().status.success());
    let name = &good.name;
    for (verb, words, want) in [
        ("cut", &["c7"][..], format!("lab {name} has no cable \"c7\"; its cables are c1, c2, isl, direct")),
        (
            "exec",
            &["x", "--", "true"],
            format!("lab {name} has no host \"x\"; its hosts and switches are client, server, near, far, tor1, tor2"),
        ),
        ("unplug", &["isl"], "cable isl ends at the switches tor1 and tor2; say which, as in --at tor1".to_owned()),
        (
            "plug",
            &["direct"],
            "cable direct runs between two hosts, so no switch has a port of it to plug; cut or heal the cable"
                .to_owned(),
        ),
        (
            "cut",
            &["c1", "--one-way", "far"],
            "\"far\" is no end of cable c1; its ends are A, client:eth0, and B, tor1".to_owned(),
        ),
    ] {
        assert_refused(&good.run(verb, words), &format!("vswitch: {want}"));
    }
}

const UPLINKS: &str = r#"
[[host]]
name = "esx1"
[[host]]
name = "server"
address = ["10.0.0.100/24"]
vlan = 10
[[switch]]
name = "tor1"
[[switch]]
name = "tor2"
[[cable]]
name = "c1"
ends = ["esx1:eth1", "tor1"]
[[cable]]
name = "c2"
ends = ["esx1:eth2", "tor2"]
[[cable]]
name = "c3"
ends = ["server:eth0", "tor2"]
[[cable]]
name = "isl"
ends = ["tor1", "tor2"]
"#;

/// The switch itself in a host, a guest on it that asks for the server's address: tags cross the cables, and a
/// one-way cut is before whatever the switch's uplinks receive by and behind whatever they send by.
#[test]
fn a_switch_runs_in_a_host() -> anyhow::Result<()> {
    let topology = Topology::from_toml(&format!("name = \"uplinks\"\n{UPLINKS}"))?;
    let lab = topology.build()?;
    let dir = tempfile::tempdir()?;
    let config = format!(
        "[switch]\nsocket_dir = \"{}\"\n[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\n[[uplink]]\nname = \"vmnic1\"\n\
         device = \"eth2\"\n[team]\nfailure_detection = \"link\"\nload_balancing = \"explicit\"\nactive = [\"vmnic0\"]\n\
         standby = [\"vmnic1\"]\n[[portgroup]]\nname = \"Ten\"\nvlan = 10\n[[vnic]]\nname = \"web1\"\nportgroup = \"Ten\"\n\
         adapter = \"vmxnet3\"\nmac = \"00:50:56:00:00:01\"\n",
        dir.path().display()
    );
    let namespace = lab.host("esx1")?.namespace().to_owned();
    let mut switch = SwitchProcess::start(Path::new(PROGRAM), Some(&namespace), dir.path(), &config)?;
    let mut guest = SoftVmxnet3::connect(&switch.socket("web1"), Vmxnet3Options::default())?;
    let server = lab.host("server")?;
    let requests = || -> anyhow::Result<u64> {
        let text = server.exec("cat /sys/class/net/eth0/statistics/rx_packets")?.success()?;
        Ok(text.trim().parse()?)
    };
    // Whether the guest's request is answered, and whether the server has heard it.
    let mut asks = || -> anyhow::Result<(bool, bool)> {
        let before = requests()?;
        for _ in 0..3 {
            guest.send(&arp_request())?;
            let deadline = Instant::now() + Duration::from_millis(300);
            while Instant::now() < deadline {
                let Some(got) = guest.recv(Duration::from_millis(50))? else { continue };
                if got.bytes.get(12..14) == Some(&[8, 6]) && got.bytes.get(20..22) == Some(&[0, 2]) {
                    return Ok((true, true));
                }
            }
        }
        Ok((false, requests()? >= before + 3))
    };
    wait(|| asks().unwrap() == (true, true));
    lab.cut_one_way("c1", "tor1")?;
    assert_eq!(asks()?, (false, true), "the switch's frames arrive, the answers do not");
    lab.heal("c1")?;
    lab.cut_one_way("c1", "esx1")?;
    assert_eq!(asks()?, (false, false), "the switch's frames are lost");
    lab.heal("c1")?;
    lab.cut_vlan("c1", 10)?;
    assert_eq!(asks()?, (false, false), "the trunk does not carry VLAN 10");
    lab.heal("c1")?;
    lab.unplug("c1", None)?;
    assert_eq!(asks()?, (false, false), "nothing tells the switch that its path is dead");
    lab.plug("c1", None)?;
    wait(|| asks().unwrap() == (true, true));
    lab.cut("c1")?;
    wait(|| asks().unwrap() == (true, true));
    assert!(switch.stop()?.success());
    Ok(())
}

/// Who has 10.0.0.100, asks 10.0.0.1.
fn arp_request() -> Vec<u8> {
    let mac = [0x00, 0x50, 0x56, 0, 0, 1];
    let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    let mut frame = [&head[..], &mac, &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 100]].concat();
    frame.resize(60, 0);
    frame
}
