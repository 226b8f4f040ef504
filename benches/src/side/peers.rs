//! The switches: ours, and those from Debian's packages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use testbed::netns::Lab;
use testbed::switch::SwitchProcess;

use super::HugePages;
use super::generator::{MACS, program};
use super::ovs::Ovs;
use super::process::{Place, Process, run};
use super::relay::Relay;

/// What is plugged into a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// vhost-user sockets.
    Virtio,
    /// vfio-user sockets with a vmxnet3 card.
    Vmxnet3,
    /// Taps the switch makes.
    Tap,
    /// Ends of veth pairs, by AF_XDP.
    AfXdp,
    /// Ends of veth pairs, by AF_PACKET.
    AfPacket,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project.
    Own(Ports),
    /// `dpdk-testpmd`, forwarding between two ports as they are: a wire.
    Testpmd,
    /// Open vSwitch with its userspace datapath, `NORMAL` action; DPDK for vhost-user sockets.
    Ovs(Ports),
    /// The bridge of the Linux kernel, with veth pairs.
    Bridge,
    /// A veth pair with nothing between its ends.
    Wire,
    /// `vde_switch` with taps.
    Vde,
}

/// How long a peer may take to start.
const START: Duration = Duration::from_secs(30);
/// Huge pages of 2 MiB for OVS and testpmd, which take turns.
const HUGE_PAGES: u64 = 640;
/// `VIRTIO_NET_F_CTRL_*`, `_GUEST_ANNOUNCE` and `_MQ`: DPDK offers the control queue and leaves it to the VMM. User-mode
/// Linux hands it to the switch, and its driver waits forever for an answer to its first command.
const NO_CONTROL_QUEUE: u64 = 0b111_1111 << 17;
/// `VIRTIO_F_RING_PACKED`: user-mode Linux starts packed rings with wrap counters of 0, which DPDK takes at its word. QEMU
/// does not offer them either unless asked to.
const SPLIT_RINGS: u64 = 1 << 34;

/// The huge pages that any of `peers` needs.
pub fn huge_pages(peers: impl IntoIterator<Item = Peer>) -> Option<HugePages> {
    peers.into_iter().any(Peer::dpdk).then(|| HugePages::reserve(HUGE_PAGES))
}

impl Ports {
    /// Its word in our configuration.
    pub fn adapter(self) -> &'static str {
        match self {
            Ports::Virtio => "virtio",
            Ports::Vmxnet3 => "vmxnet3",
            Ports::Tap => "tap",
            Ports::AfXdp | Ports::AfPacket => "netdev",
        }
    }
}

impl Peer {
    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Own(Ports::Virtio) => "vswitch",
            Peer::Own(Ports::Vmxnet3) => "vswitch vmxnet3",
            Peer::Own(Ports::Tap) => "vswitch tap",
            Peer::Own(Ports::AfXdp) => "vswitch AF_XDP",
            Peer::Own(Ports::AfPacket) => "vswitch AF_PACKET",
            Peer::Testpmd => "testpmd",
            Peer::Ovs(Ports::Virtio | Ports::Vmxnet3) => "OVS-DPDK",
            Peer::Ovs(Ports::Tap) => "OVS tap",
            Peer::Ovs(Ports::AfXdp) => "OVS AF_XDP",
            Peer::Ovs(Ports::AfPacket) => "OVS AF_PACKET",
            Peer::Bridge => "Linux bridge",
            Peer::Wire => "veth as a bare wire",
            Peer::Vde => "VDE",
        }
    }

    /// True when its memory is huge pages.
    fn dpdk(self) -> bool {
        matches!(self, Peer::Testpmd | Peer::Ovs(Ports::Virtio))
    }

    /// What its version is of, and how it is asked.
    pub fn version(self) -> (&'static str, String) {
        let package = |what, name| (what, run("dpkg-query", &["-W", "-f", "${Version}", name], &[]));
        let (what, asked) = match self {
            Peer::Own(_) => ("vswitch", program().and_then(|p| run(&p.display().to_string(), &["--version"], &[]))),
            Peer::Testpmd => package("DPDK", "dpdk-dev"),
            Peer::Ovs(_) => package("Open vSwitch", "openvswitch-switch-dpdk"),
            Peer::Vde => package("VDE", "vde-switch"),
            Peer::Bridge | Peer::Wire => ("Linux bridge and veth", Ok(super::Machine::this().kernel)),
        };
        (what, asked.unwrap_or_else(|_| "not installed".to_owned()))
    }
}

/// A running peer with two vhost-user sockets (ours: or vfio-user ones).
pub struct Running {
    /// The sockets of the two ports.
    pub sockets: [PathBuf; 2],
    kind: &'static str,
    /// Our control socket.
    pub control: Option<PathBuf>,
    /// The process whose CPU time counts.
    pub pid: u32,
    // Dropped in this order.
    _switch: Runs,
    _relays: Vec<Relay>,
    _dir: tempfile::TempDir,
    _lab: Option<Lab>,
}

/// What ends with it.
#[expect(dead_code, reason = "held while it runs")]
enum Runs {
    Own(SwitchProcess),
    Ovs(Ovs),
    Other(Process),
}

/// What a vhost-user peer is to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Many addresses are behind each port.
    pub learning: bool,
    /// OVS passes TCP segments through whole (ours always does).
    pub tso: bool,
}

impl Running {
    /// Starts `peer` with two ports for the generator or for guests.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start(peer: Peer, wishes: Wishes) -> Result<Running> {
        let dir = tempfile::tempdir()?;
        match peer {
            Peer::Own(ports) => own(dir, ports, wishes.learning),
            Peer::Testpmd => testpmd(dir),
            Peer::Ovs(_) => ovs(dir, wishes.tso),
            Peer::Bridge | Peer::Wire | Peer::Vde => bail!("{} has no vhost-user sockets", peer.name()),
        }
    }

    /// The generator's names of the two ports.
    pub fn stations(&self) -> [String; 2] {
        [0, 1].map(|n| format!("{}:{},mac={}", self.kind, self.sockets[n].display(), MACS[n]))
    }
}

/// The head of our configuration: four port groups, a VLAN each; the first learns addresses if asked to.
pub fn own_groups(dir: &Path, learning: bool) -> String {
    let mut text = format!("[switch]\nname = \"bench\"\nsocket_dir = \"{}\"\n", dir.display());
    for group in 0..4 {
        let _ = writeln!(text, "[[portgroup]]\nname = \"group{group}\"\nvlan = {}", 10 * (group + 1));
        if learning && group == 0 {
            text += "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n";
        }
    }
    text
}

/// Our configuration for ports with sockets: eight, of which the generator has the first two.
pub fn own_config(dir: &Path, ports: Ports, learning: bool) -> String {
    let mut text = own_groups(dir, learning);
    for port in 0..8 {
        let mac = MACS.get(port).map_or(format!("00:50:56:00:01:{port:02x}"), |m| (*m).to_owned());
        let _ = writeln!(
            text,
            "[[vnic]]\nname = \"port{port}\"\nportgroup = \"group{}\"\nadapter = \"{}\"\nmac = \"{mac}\"",
            port / 2,
            ports.adapter()
        );
    }
    text
}

fn own(dir: tempfile::TempDir, ports: Ports, learning: bool) -> Result<Running> {
    let switch = SwitchProcess::start(&program()?, None, dir.path(), &own_config(dir.path(), ports, learning))?;
    let sockets = [0, 1].map(|n| switch.socket(&format!("port{n}")));
    let (control, pid) = (Some(switch.control_socket()), switch.pid());
    let kind = ports.adapter();
    Ok(Running { sockets, kind, control, pid, _switch: Runs::Own(switch), _relays: vec![], _dir: dir, _lab: None })
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
    let place = Place { dir: dir.path(), namespace: None, envs: &[] };
    let mut process = Process::start("dpdk-testpmd", &all, place)?;
    process.wait_until(START, || sockets.iter().all(|s| s.exists()))?;
    let pid = process.pid();
    let runs = Runs::Other(process);
    Ok(Running { sockets, kind: "virtio", control: None, pid, _switch: runs, _relays: vec![], _dir: dir, _lab: None })
}

fn ovs(dir: tempfile::TempDir, tso: bool) -> Result<Running> {
    let mut settings = vec!["other_config:dpdk-init=true", "other_config:vhost-sock-dir=."];
    settings.extend(["other_config:dpdk-lcore-mask=0x1", "other_config:dpdk-extra=--no-pci -m 1024"]);
    if tso {
        settings.push("other_config:userspace-tso-enable=true");
    }
    // Its bridge is an interface that outlives it; it goes with a namespace. Sockets are reached all the same.
    let lab = Lab::new("bench")?;
    let ovs = Ovs::start(dir.path(), lab.host("ovs")?.namespace(), &settings)?;
    let sockets = [0, 1].map(|n| dir.path().join(format!("vhost{n}")));
    let mut relays = Vec::new();
    for (socket, port) in sockets.iter().zip(["vhost0", "vhost1"]) {
        if tso {
            // Only the ports that connect pass segments on: OVS turns the offload off for those that listen.
            let server = socket.with_extension("switch");
            relays.push(Relay::start(socket, &server, NO_CONTROL_QUEUE | SPLIT_RINGS)?);
            ovs.port(port, &["type=dpdkvhostuserclient", &format!("options:vhost-server-path={}", server.display())])?;
        } else {
            ovs.port(port, &["type=dpdkvhostuser"])?;
        }
    }
    if !sockets.iter().all(|s| s.exists()) {
        bail!("OVS made no vhost-user sockets");
    }
    let pid = ovs.pid();
    let runs = Runs::Ovs(ovs);
    Ok(Running {
        sockets,
        kind: "virtio",
        control: None,
        pid,
        _switch: runs,
        _relays: relays,
        _dir: dir,
        _lab: Some(lab),
    })
}
