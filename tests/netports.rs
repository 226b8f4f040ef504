//! Namespaces plugged into the switch like VMs: `netdev` ports, the switch's ends of veth pairs.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, portgroup, report, tool, vnic};
use control::api::LinkStatus;
use testbed::netns::{Host, Lab, VethOptions, wait_until};
use testbed::soft::{SoftVirtio, VirtioOptions};
use wire::Mac;

/// Bytes of a transfer.
const BULK: &str = "50000000";

/// Three hosts on netdev ports of one switch: two in VLAN 10, one in VLAN 20.
struct Site {
    net: Net,
    hosts: Vec<Host>,
    machine: Host,
    _lab: Lab,
}

impl Site {
    /// `finished`: the hosts fill in checksums and cut segments before they send, as AF_XDP needs it.
    fn build(name: &str, driver: &str, finished: bool) -> Result<Site> {
        let lab = Lab::new(name)?;
        let machine = lab.host("sw")?;
        let hosts = ["a", "b", "c"].into_iter().map(|n| lab.host(n)).collect::<Result<Vec<_>>>()?;
        let mut tables = portgroup("Red", "10") + &portgroup("Blue", "20");
        for (n, host) in hosts.iter().enumerate() {
            let options = VethOptions { offload: !finished, ..VethOptions::default() };
            lab.veth((&machine, &format!("veth{n}")), (host, "eth0"), &options)?;
            let last = n as u8 + 1;
            host.ip(&format!("link set dev eth0 address 00:50:56:00:00:{last:02x}"))?;
            host.address("eth0", &format!("10.0.0.{last}/24"))?;
            let group = if n < 2 { "Red" } else { "Blue" };
            tables += &vnic(&format!("port{n}"), group, "netdev", last);
            tables += &format!("device = \"veth{n}\"\ndriver = \"{driver}\"\n");
        }
        tables += &vnic("soft", "Red", "virtio", 9);
        let net = Net::start(Some(machine.namespace()), "", &tables)?;
        Ok(Site { net, hosts, machine, _lab: lab })
    }

    /// A transfer from the first to the second host; the digests must be equal.
    fn transfer(&self, port: &str) -> Result<()> {
        let receiver = tool(&self.hosts[1], &["recv", port, BULK])?;
        let sent = report(tool(&self.hosts[0], &["send", "10.0.0.2", port, BULK, "7"])?)?;
        let received = report(receiver)?;
        let digest =
            |text: &str| text.split("digest ").nth(1).and_then(|d| d.split_whitespace().next().map(str::to_owned));
        ensure!(digest(&sent).is_some() && digest(&sent) == digest(&received), "sent {sent} received {received}");
        Ok(())
    }
}

fn hosts_talk(name: &str, driver: &str, finished: bool) -> Result<()> {
    let site = Site::build(name, driver, finished)?;
    ensure!(site.hosts[0].pings("10.0.0.2")?, "hosts of one VLAN reach each other");
    ensure!(!site.hosts[0].exec("ping -c 1 -W 1 10.0.0.3")?.ok(), "and none of another");
    site.transfer("5100")?;
    let status = site.net.sums()?;
    let port = status.ports.iter().find(|p| p.name == "port0").context("port0")?;
    ensure!(port.connected && port.link == LinkStatus::Up && port.adapter.as_deref() == Some("netdev"), "{port:?}");
    site.net.finish()
}

#[test]
fn namespaces_on_af_packet() -> Result<()> {
    hosts_talk("ndp", "af_packet", false)
}

#[test]
fn namespaces_on_af_xdp() -> Result<()> {
    hosts_talk("ndx", "af_xdp", true)
}

/// An interface that goes and comes back, and one whose peer is down, cost their own port only.
#[test]
fn interfaces_come_and_go() -> Result<()> {
    let site = Site::build("ndg", "af_packet", false)?;
    let soft = Mac([0x00, 0x50, 0x56, 0, 0, 9]);
    let mut guest = SoftVirtio::connect(&site.net.switch.socket("soft"), VirtioOptions::new(soft))?;
    site.hosts[1].cut("eth0")?;
    let link = |state: LinkStatus| move |net: &Net| net.port("port1").is_ok_and(|p| p.link == state);
    wait_until("the cut is noticed", SHORT, || link(LinkStatus::Down)(&site.net))?;
    site.hosts[1].heal("eth0")?;
    wait_until("and the healing", SHORT, || link(LinkStatus::Up)(&site.net))?;
    site.transfer("5101")?;

    site.machine.ip("link del veth1")?;
    wait_until("the interface is gone", SHORT, || site.net.port("port1").is_ok_and(|p| !p.connected))?;
    // A frame to it is counted by name, and the sender's neighbour hears nothing of it.
    let mut frame = [&[0x00, 0x50, 0x56, 0, 0, 2][..], &soft.0, &[0x88, 0xb6]].concat();
    frame.resize(60, 0);
    guest.send(&frame)?;
    guest.flush()?;
    let drops = || site.net.port("port1").map(|p| p.drops.get("not-connected").copied().unwrap_or(0));
    wait_until("the frame is counted", SHORT, || drops().is_ok_and(|n| n > 0))?;

    site._lab.veth((&site.machine, "veth1"), (&site.hosts[1], "eth0"), &VethOptions::default())?;
    site.hosts[1].ip("link set dev eth0 address 00:50:56:00:00:02")?;
    site.hosts[1].address("eth0", "10.0.0.2/24")?;
    wait_until("it is back", SHORT, || site.net.port("port1").is_ok_and(|p| p.connected && p.link == LinkStatus::Up))?;
    wait_until("and carries frames", Duration::from_secs(20), || site.hosts[0].pings("10.0.0.2").unwrap_or(false))?;
    drop(guest);
    site.net.finish()
}
