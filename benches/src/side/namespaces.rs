//! Works between network namespaces: TCP from one to the other, frames from veth to veth.
//!
//! ```text
//!   TCP      [host a: iperf3 -c] eth0 == port0 [machine: the switch] port1 == eth0 [host b: iperf3 -s]
//!   frames   [hosts: the generator] eth0, eth1 == port0, port1 [machine: the switch]
//! ```
//!
//! `==` is a veth pair, or a tap that the switch made on the machine and that was then moved into its host. Nothing
//! here touches an interface outside these namespaces, and they go away with the value that holds them; what a killed
//! bench has left goes when the next one starts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testbed::netns::{Host, Lab, VethOptions, wait_until};
use testbed::switch::SwitchProcess;

use super::figures::Outcome;
use super::generator::{self, MACS, number, program};
use super::ovs::Ovs;
use super::peers::{Peer, Ports, own_groups};
use super::process::{Place, Process, run};
use super::{Measured, iperf};

const NETWORK: &str = "10.99.0.0/24";
const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const LIMIT: Duration = Duration::from_secs(20);

/// What makes one network of the two ports.
enum Switch {
    /// The kernel, or nothing.
    Kernel,
    Own(SwitchProcess),
    Ovs(#[expect(dead_code, reason = "held while it runs")] Ovs),
    Vde(#[expect(dead_code, reason = "held while it runs")] Process),
}

/// A machine, and on it the switch.
struct Site {
    // Dropped in this order: what runs, its files, its namespaces.
    switch: Switch,
    dir: tempfile::TempDir,
    machine: Host,
    lab: Lab,
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new("bench")?;
        let machine = lab.host("sw")?;
        Ok(Site { switch: Switch::Kernel, dir: tempfile::tempdir()?, machine, lab })
    }

    /// A veth pair: `device` in `host`, silent but for what the work sends; `portN` on the machine.
    fn cable(&self, host: &Host, device: &str, n: usize, offload: bool) -> Result<()> {
        let options = VethOptions { offload, ..VethOptions::default() };
        let port = format!("port{n}");
        self.lab.veth((&self.machine, &port), (host, device), &options)?;
        self.machine.sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        host.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")
    }

    /// The switch, its ports' interfaces being there.
    fn start(&mut self, peer: Peer) -> Result<()> {
        let (dir, namespace) = (self.dir.path(), self.machine.namespace());
        self.switch = match peer {
            Peer::Own(ports) => {
                Switch::Own(SwitchProcess::start(&program()?, Some(namespace), dir, &own_config(dir, ports))?)
            }
            Peer::Ovs(ports) => Switch::Ovs(start_ovs(dir, namespace, ports)?),
            Peer::Vde => Switch::Vde(start_vde(dir, namespace)?),
            Peer::Bridge => {
                self.lab.bridge(&self.machine, "br0", &["port0", "port1"], false)?;
                Switch::Kernel
            }
            Peer::Wire | Peer::Testpmd => bail!("{} is no switch between namespaces", peer.name()),
        };
        Ok(())
    }

    /// Hands tap `portN` of the switch to `host`, as its `eth0`.
    fn give_tap(&self, host: &Host, n: usize) -> Result<()> {
        let device = format!("port{n}");
        let there = || self.machine.exec(&format!("ip link show {device}")).is_ok_and(|o| o.ok());
        wait_until("the switch made its taps", LIMIT, there)?;
        self.machine.ip(&format!("link set dev {device} netns {} name eth0", host.namespace()))?;
        host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")
    }

    /// True when ours was asked and every frame was accounted for, false when it was not ours.
    ///
    /// # Errors
    /// When frames are missing or too many.
    fn accounted(&self) -> Result<bool> {
        match &self.switch {
            Switch::Own(switch) => generator::accounted(&switch.control_socket()).map(|()| true),
            _ => Ok(false),
        }
    }
}

fn own_config(dir: &Path, ports: Ports) -> String {
    let mut text = own_groups(dir, false);
    let driver = match ports {
        Ports::AfXdp => "driver = \"af_xdp\"\n",
        Ports::AfPacket => "driver = \"af_packet\"\n",
        _ => "",
    };
    for (n, mac) in MACS.iter().enumerate() {
        text += &format!(
            "[[vnic]]\nname = \"port{n}\"\nportgroup = \"group0\"\nadapter = \"{}\"\nmac = \"{mac}\"\n\
             device = \"port{n}\"\n{driver}",
            ports.adapter()
        );
    }
    text
}

fn start_ovs(dir: &Path, namespace: &str, ports: Ports) -> Result<Ovs> {
    let (settings, kind) = match ports {
        Ports::Tap => (vec!["other_config:userspace-tso-enable=true"], vec!["type=tap"]),
        Ports::AfXdp => (Vec::new(), vec!["type=afxdp"]),
        _ => (Vec::new(), Vec::new()),
    };
    let ovs = Ovs::start(dir, namespace, &settings)?;
    for port in ["port0", "port1"] {
        ovs.port(port, &kind)?;
    }
    Ok(ovs)
}

fn start_vde(dir: &Path, namespace: &str) -> Result<Process> {
    let control = dir.join("vde.ctl");
    let args = ["-sock", &control.display().to_string(), "-tap", "port0", "-tap", "port1"];
    let mut process = Process::start("vde_switch", &args, Place { dir, namespace: Some(namespace), envs: &[] })?;
    process.wait_until(LIMIT, || control.exists())?;
    Ok(process)
}

/// TCP from one namespace to the other, by iperf3, under the congestion control `control` (`cubic`, `bbr`).
///
/// # Errors
/// When the peer cannot do it.
pub fn tcp(peer: Peer, control: &str, seconds: f64) -> Result<Outcome> {
    // Named before anything waits for it.
    run("iperf3", &["--version"], &[])?;
    let mut site = Site::new()?;
    let hosts = [site.lab.host("a")?, site.lab.host("b")?];
    if matches!(peer, Peer::Own(Ports::Tap) | Peer::Ovs(Ports::Tap) | Peer::Vde) {
        site.start(peer)?;
        for (n, host) in hosts.iter().enumerate() {
            site.give_tap(host, n)?;
        }
    } else {
        // What AF_XDP hands over lacks checksums that the other end of a veth pair left to its hardware.
        let offload = !matches!(peer, Peer::Own(Ports::AfXdp) | Peer::Ovs(_));
        for (n, host) in hosts.iter().enumerate() {
            site.cable(host, "eth0", n, offload)?;
        }
        site.start(peer)?;
    }
    for ((host, mac), address) in hosts.iter().zip(MACS).zip(ADDRESSES) {
        host.ip(&format!("link set dev eth0 address {mac}"))?;
        host.ip("link set dev eth0 up")?;
        host.address("eth0", &format!("{address}/24"))?;
        // By the route, and so from the first packet on: a connection that began with the machine's own and was told of
        // another later keeps what the first had set up, a timer for each segment where that was bbr. A namespace may
        // not choose its default.
        host.ip(&format!("route change {NETWORK} dev eth0 congctl {control}"))?;
    }
    wait_until("the hosts reach each other", LIMIT, || hosts[0].pings(ADDRESSES[1]).unwrap_or(false))?;
    let gbits = iperf::between([&hosts[0], &hosts[1]], ADDRESSES[1], seconds)?;
    for host in &hosts {
        // The kernel's own words (ARP) end with the link, and traffic rests.
        host.ip("link set dev eth0 down")?;
    }
    Ok(Outcome { measured: Measured::Gbits(gbits), accounted: site.accounted()? })
}

/// 64-byte frames from veth to veth, by the generator.
///
/// # Errors
/// When the peer cannot do it.
pub fn frames(peer: Peer, seconds: f64) -> Result<Outcome> {
    let mut site = Site::new()?;
    let hosts = site.lab.host("gen")?;
    if peer == Peer::Wire {
        let options = VethOptions { offload: false, ..VethOptions::default() };
        site.lab.veth((&hosts, "eth0"), (&hosts, "eth1"), &options)?;
        for device in ["eth0", "eth1"] {
            hosts.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
        }
    } else {
        for n in 0..2 {
            site.cable(&hosts, &format!("eth{n}"), n, false)?;
        }
        site.start(peer)?;
    }
    let stations = [0, 1].map(|n| format!("if:eth{n},driver=af-packet,mac={}", MACS[n]));
    let options = ["--size", "64"].map(str::to_owned);
    let place = Some(hosts.namespace());
    let document = generator::frames_in(place, [&stations[0], &stations[1]], &options, seconds, None)?;
    let measured = Measured::Mpps(number(&document, "/received_mpps")?);
    Ok(Outcome { measured, accounted: site.accounted()? })
}

/// Removes what benches that were killed have left.
pub fn sweep() -> Result<()> {
    Lab::sweep().map(drop).context("removing namespaces of a bench that was killed")
}
