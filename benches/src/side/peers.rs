//! The switches: ours, and those from Debian's packages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use testbed::switch::SwitchProcess;

use super::generator::{MACS, program};
use super::process::{Process, run};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project, with these ports.
    Own(&'static str),
    /// `dpdk-testpmd`, forwarding between two ports as they are: a wire.
    Testpmd,
    /// Open vSwitch with DPDK, `NORMAL` action.
    Ovs,
}

/// OVS as Debian's openvswitch-switch-dpdk installs it.
const OVS: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// How long a peer may take to start.
const START: Duration = Duration::from_secs(30);
/// Huge pages of 2 MiB for OVS and testpmd.
pub const HUGE_PAGES: u64 = 640;

impl Peer {
    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Own("vmxnet3") => "vswitch vmxnet3",
            Peer::Own(_) => "vswitch",
            Peer::Testpmd => "testpmd",
            Peer::Ovs => "OVS-DPDK",
        }
    }

    /// Its version, asked of the program.
    pub fn version(self) -> String {
        let asked = match self {
            Peer::Own(_) => program().and_then(|p| run(&p.display().to_string(), &["--version"], &[])),
            Peer::Testpmd => run("dpkg-query", &["-W", "-f", "DPDK ${Version}", "dpdk-dev"], &[]),
            Peer::Ovs => run("dpkg-query", &["-W", "-f", "Open vSwitch ${Version}", "openvswitch-switch-dpdk"], &[]),
        };
        asked.unwrap_or_else(|_| "not installed".to_owned())
    }
}

/// A running peer with two vhost-user sockets (ours: or vfio-user ones).
pub struct Running {
    /// The generator's names of the two ports.
    pub stations: [String; 2],
    /// Our control socket.
    pub control: Option<PathBuf>,
    /// The process whose CPU time counts.
    pub pid: u32,
    // Dropped in this order.
    _switch: Option<SwitchProcess>,
    _processes: Vec<Process>,
    _dir: tempfile::TempDir,
}

impl Running {
    /// Starts `peer` with two ports for the generator; `learning` for many addresses behind each.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(peer: Peer, learning: bool) -> Result<Running> {
        let dir = tempfile::tempdir()?;
        match peer {
            Peer::Own(adapter) => own(dir, adapter, learning),
            Peer::Testpmd => testpmd(dir),
            Peer::Ovs => ovs(dir),
        }
    }
}

/// Our configuration: four port groups, a VLAN each, eight ports; the generator has the first two.
pub fn own_config(dir: &Path, adapter: &str, learning: bool) -> String {
    let mut text = format!("[switch]\nname = \"bench\"\nsocket_dir = \"{}\"\n", dir.display());
    for group in 0..4 {
        let _ = writeln!(text, "[[portgroup]]\nname = \"group{group}\"\nvlan = {}", 10 * (group + 1));
        if learning && group == 0 {
            text += "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n";
        }
    }
    for port in 0..8 {
        let mac = MACS.get(port).map_or(format!("00:50:56:00:01:{port:02x}"), |m| (*m).to_owned());
        let _ = writeln!(
            text,
            "[[vnic]]\nname = \"port{port}\"\nportgroup = \"group{}\"\nadapter = \"{adapter}\"\nmac = \"{mac}\"",
            port / 2
        );
    }
    text
}

fn station(kind: &str, socket: &Path, side: usize) -> String {
    format!("{kind}:{},mac={}", socket.display(), MACS[side])
}

fn own(dir: tempfile::TempDir, adapter: &str, learning: bool) -> Result<Running> {
    let switch = SwitchProcess::start(&program()?, None, dir.path(), &own_config(dir.path(), adapter, learning))?;
    let stations = [0, 1].map(|n| station(adapter, &switch.socket(&format!("port{n}")), n));
    let (control, pid) = (Some(switch.control_socket()), switch.pid());
    Ok(Running { stations, control, pid, _switch: Some(switch), _processes: Vec::new(), _dir: dir })
}

fn testpmd(dir: tempfile::TempDir) -> Result<Running> {
    let sockets = [0, 1].map(|n| dir.path().join(format!("vhost{n}")));
    let devices = [0, 1].map(|n| format!("net_vhost{n},iface={},queues=1", sockets[n].display()));
    // One core for its console, which sleeps, and the last for forwarding.
    let last = (super::Machine::this().cpus - 1).to_string();
    let cores = format!("0,{last}");
    let args = ["-l", &cores, "--main-lcore", "0", "--no-pci", "--in-memory", "-m", "512", "--vdev", &devices[0]];
    let rest = ["--vdev", &devices[1], "--", "--forward-mode=io", "--auto-start", "--nb-cores=1"];
    let all: Vec<&str> = args.into_iter().chain(rest).collect();
    let mut process = Process::start("dpdk-testpmd", &all, dir.path(), &[])?;
    process.wait_until(START, || sockets.iter().all(|s| s.exists()))?;
    let stations = [0, 1].map(|n| station("virtio", &sockets[n], n));
    let pid = process.pid();
    Ok(Running { stations, control: None, pid, _switch: None, _processes: vec![process], _dir: dir })
}

/// Starts OVS with one PMD core (the last CPU): database and switch, to be ended in reverse.
fn start_ovs(dir: &Path) -> Result<Vec<Process>> {
    let envs = [("OVS_RUNDIR", dir), ("OVS_LOGDIR", dir), ("OVS_DBDIR", dir)];
    let at = |name: &str| dir.join(name).display().to_string();
    run("ovsdb-tool", &["create", &at("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"], &envs)?;
    let remote = format!("--remote=punix:{}", at("db.sock"));
    let mut db = Process::start("ovsdb-server", &["--no-chdir", "--pidfile", &remote, &at("conf.db")], dir, &envs)?;
    db.wait_until(START, || dir.join("db.sock").exists())?;
    vsctl(dir, &["--no-wait", "init"])?;
    let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << (super::Machine::this().cpus - 1));
    let mut set = vec!["--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", &mask];
    set.extend(["other_config:vhost-sock-dir=.", "other_config:dpdk-lcore-mask=0x1"]);
    set.push("other_config:dpdk-extra=--no-pci -m 1024");
    vsctl(dir, &set)?;
    let remote = format!("unix:{}", at("db.sock"));
    let mut switch = Process::start(OVS, &["--pidfile", &remote], dir, &envs)?;
    switch.wait_until(START, || dir.join("ovs-vswitchd-dpdk.pid").exists() || dir.join("ovs-vswitchd.pid").exists())?;
    Ok(vec![switch, db])
}

/// One `ovs-vsctl` command on the database in `dir`.
fn vsctl(dir: &Path, args: &[&str]) -> Result<String> {
    let db = format!("--db=unix:{}", dir.join("db.sock").display());
    let all: Vec<&str> = ["--timeout=30", &db].into_iter().chain(args.iter().copied()).collect();
    run("ovs-vsctl", &all, &[("OVS_RUNDIR", dir), ("OVS_LOGDIR", dir)])
}

fn ovs(dir: tempfile::TempDir) -> Result<Running> {
    let processes = start_ovs(dir.path())?;
    vsctl(dir.path(), &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
    for port in ["vhost0", "vhost1"] {
        let kind = "type=dpdkvhostuser";
        vsctl(dir.path(), &["add-port", "br0", port, "--", "set", "Interface", port, kind])?;
    }
    let sockets = [0, 1].map(|n| dir.path().join(format!("vhost{n}")));
    if !sockets.iter().all(|s| s.exists()) {
        bail!("OVS made no vhost-user sockets: {}", vsctl(dir.path(), &["show"])?);
    }
    let stations = [0, 1].map(|n| station("virtio", &sockets[n], n));
    let pid = processes.first().map_or(0, Process::pid);
    Ok(Running { stations, control: None, pid, _switch: None, _processes: processes, _dir: dir })
}
