//! Namespaces plugged into the switch like VMs: `tap` ports, interfaces that the switch makes and their users move away.

mod common;

use anyhow::{Context, Result, ensure};
use common::{BOOT, Net, SHORT, TRANSFER, address, alone, digest, ping, port, portgroup, report, tool, vnic};
use control::api::{LinkStatus, PortStatus};
use testbed::netns::{Host, Lab, VethOptions, wait_until};
use testbed::qemu::{Guest, GuestSpec, Nic};
use testbed::soft::{SoftVirtio, VirtioOptions};
use wire::Mac;

/// Bytes of a transfer.
const BULK: &str = "50000000";
/// The longest frame on the wire of a switch with the usual MTU.
const LONGEST: u64 = 1514;

/// Hosts on tap ports of one switch: `a` and `b` in VLAN 10, `c` in VLAN 20.
struct Site {
    net: Net,
    hosts: Vec<Host>,
    machine: Host,
    _lab: Lab,
}

impl Site {
    /// `more` tables are given the machine to set up what they name.
    fn build(name: &str, keys: &str, queues: usize, more: impl FnOnce(&Lab, &Host) -> Result<String>) -> Result<Site> {
        let lab = Lab::new(name)?;
        let machine = lab.host("sw")?;
        let hosts = ["a", "b", "c"].into_iter().map(|n| lab.host(n)).collect::<Result<Vec<_>>>()?;
        let mut tables = portgroup("Red", "10") + &portgroup("Blue", "20");
        for n in 0..hosts.len() {
            let group = if n < 2 { "Red" } else { "Blue" };
            tables += &vnic(&format!("port{n}"), group, "tap", n as u8 + 1);
            tables += &format!("device = \"tap{n}\"\nqueues = {queues}\n");
        }
        tables += &more(&lab, &machine)?;
        let net = Net::start(Some(machine.namespace()), keys, &tables)?;
        let site = Site { net, hosts, machine, _lab: lab };
        for n in 0..site.hosts.len() {
            ensure!(site.port(n)?.connected && site.port(n)?.link == LinkStatus::Down, "{:?}", site.port(n)?);
            site.plug(n)?;
        }
        Ok(site)
    }

    /// Moves the interface of port `n` to its host, as whoever starts a container does, and sets it up there.
    fn plug(&self, n: usize) -> Result<()> {
        let (host, last) = (&self.hosts[n], n + 1);
        self.machine.ip(&format!("link set dev tap{n} netns {} name eth0", host.namespace()))?;
        host.address("eth0", &format!("10.0.0.{last}/24"))?;
        host.address("eth0", &format!("fd00::{last}/64"))?;
        host.ip("link set dev eth0 up")?;
        let up = || self.port(n).is_ok_and(|p| p.connected && p.link == LinkStatus::Up);
        wait_until("the port sees its interface up", SHORT, up)
    }

    fn port(&self, n: usize) -> Result<PortStatus> {
        self.net.port(&format!("port{n}"))
    }
}

/// A transfer between two hosts; the digests must be equal.
fn transfer(from: &Host, to: &Host, address: &str, port: &str) -> Result<()> {
    let receiver = tool(to, &["recv", port, BULK])?;
    let sent = report(tool(from, &["send", address, port, BULK, "7"])?)?;
    let received = report(receiver)?;
    ensure!(digest(&sent)? == digest(&received)?, "sent {sent} received {received}");
    Ok(())
}

/// Bytes of a frame on average.
fn average(bytes: u64, frames: u64) -> u64 {
    bytes / frames.max(1)
}

#[test]
fn namespaces_on_taps() -> Result<()> {
    let site = Site::build("tap", "", 1, |_, _| Ok(String::new()))?;
    let [a, b, _] = &site.hosts[..] else { unreachable!("three hosts") };
    ensure!(a.pings("10.0.0.2")? && a.pings("fd00::2")?, "hosts of one VLAN reach each other");
    ensure!(!a.exec("ping -c 1 -W 1 10.0.0.3")?.ok(), "and none of another");
    ensure!(a.mac("eth0")? == Mac([0x00, 0x50, 0x56, 0, 0, 1]), "the interface has the port's address");
    transfer(a, b, "10.0.0.2", "5200")?;
    transfer(a, b, "fd00::2", "5201")?;
    let status = site.net.sums()?;
    let (sender, receiver) = (port(&status, "port0")?, port(&status, "port1")?);
    ensure!(sender.adapter.as_deref() == Some("tap"), "{sender:?}");
    // The segments go through whole, both into the switch and out of it.
    ensure!(average(sender.input.bytes, sender.input.frames) > 3 * LONGEST, "{sender:?}");
    ensure!(average(receiver.output.bytes, receiver.output.frames) > 3 * LONGEST, "{receiver:?}");
    site.net.finish()
}

/// Several queues, several workers: conversations in both directions at once.
#[test]
fn taps_with_two_queues() -> Result<()> {
    let site = Site::build("tapq", "workers = [0, 1]\n", 2, |_, _| Ok(String::new()))?;
    let [a, b, _] = &site.hosts[..] else { unreachable!("three hosts") };
    ensure!(
        a.exec("ip -d link show dev eth0")?.success()?.contains("multi_queue numqueues 2"),
        "it has several queues"
    );
    std::thread::scope(|scope| {
        let one = |n: u32| {
            let port = format!("53{n:02}");
            if n.is_multiple_of(2) { transfer(a, b, "10.0.0.2", &port) } else { transfer(b, a, "10.0.0.1", &port) }
        };
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    site.net.finish()
}

/// Neighbours that take no large segments and no unfinished checksums get neither: a veth by AF_XDP.
#[test]
fn taps_with_a_port_that_finishes_nothing() -> Result<()> {
    let mut other = None;
    let site = Site::build("tapx", "", 1, |lab, machine| {
        let host = lab.host("d")?;
        lab.veth((machine, "vethd"), (&host, "eth0"), &VethOptions { offload: false, ..VethOptions::default() })?;
        host.ip("link set dev eth0 address 00:50:56:00:00:04")?;
        host.address("eth0", "10.0.0.4/24")?;
        other = Some(host);
        Ok(vnic("port3", "Red", "netdev", 4) + "device = \"vethd\"\ndriver = \"af_xdp\"\n")
    })?;
    let other = other.context("the fourth host")?;
    ensure!(site.hosts[0].pings("10.0.0.4")?);
    transfer(&site.hosts[0], &other, "10.0.0.4", "5400")?;
    transfer(&other, &site.hosts[1], "10.0.0.2", "5401")?;
    let status = site.net.sums()?;
    let (whole, cut) = (port(&status, "port0")?, port(&status, "port3")?);
    ensure!(
        average(whole.input.bytes, whole.input.frames) > 2 * average(cut.output.bytes, cut.output.frames),
        "{whole:?} {cut:?}"
    );
    site.net.finish()
}

/// A virtio guest and a namespace: segments stay whole both ways.
#[test]
fn taps_with_a_virtual_machine() -> Result<()> {
    let _alone = alone();
    let site = Site::build("tapv", "", 1, |_, _| Ok(vnic("vm", "Red", "virtio", 9)))?;
    let socket = site.net.switch.socket("vm");
    let nic = Nic::VhostUser { socket, mac: "00:50:56:00:00:09".to_owned(), listens: false, queues: 1 };
    let mut guest = Guest::boot(GuestSpec::new("vm").nic(nic))?;
    guest.wait_ready(BOOT)?;
    address(&mut guest, "eth0", 9)?;
    ping(&mut guest, "10.0.0.1")?;
    let host = &site.hosts[0];
    let receiver = tool(host, &["recv", "5500", BULK])?;
    let sent = guest.sh_ok(&format!("guest-tool send 10.0.0.1 5500 {BULK} 3"), TRANSFER)?;
    let received = report(receiver)?;
    ensure!(digest(&sent)? == digest(&received)?, "to the namespace: {sent} {received}");
    let receiver = guest.start(&format!("guest-tool recv 5501 {BULK}"))?;
    let sent = report(tool(host, &["send", "fd00::9", "5501", BULK, "4"])?)?;
    let received = guest.wait(receiver, TRANSFER)?;
    ensure!(received.status == 0 && digest(&sent)? == digest(&received.text)?, "{sent} {}", received.text);
    let status = site.net.sums()?;
    let vm = port(&status, "vm")?;
    ensure!(vm.input.bytes.min(vm.output.bytes) > 50_000_000, "{vm:?}");
    ensure!(
        average(vm.input.bytes, vm.input.frames) > 2000 && average(vm.output.bytes, vm.output.frames) > 2000,
        "in large segments: {vm:?}"
    );
    drop(guest);
    site.net.finish()
}

/// An interface that goes costs its own port only, and there is another one in time.
#[test]
fn interfaces_that_are_deleted_are_made_anew() -> Result<()> {
    let more = |_: &Lab, _: &Host| Ok(vnic("soft", "Red", "virtio", 9));
    let site = Site::build("tapg", "", 1, more)?;
    let [a, b, c] = &site.hosts[..] else { unreachable!("three hosts") };
    let soft = Mac([0x00, 0x50, 0x56, 0, 0, 9]);
    let mut guest = SoftVirtio::connect(&site.net.switch.socket("soft"), VirtioOptions::new(soft))?;

    // Set down and up by its user.
    b.cut("eth0")?;
    wait_until("the port hears of it", SHORT, || {
        site.port(1).is_ok_and(|p| p.connected && p.link == LinkStatus::Down)
    })?;
    b.heal("eth0")?;
    wait_until("and of the end of it", SHORT, || site.port(1).is_ok_and(|p| p.link == LinkStatus::Up))?;
    ensure!(a.pings("10.0.0.2")?);

    // Deleted, with something else in its place.
    site.machine.ip("link add dev tap1 type bridge")?;
    b.ip("link del eth0")?;
    wait_until("it is gone", SHORT, || site.port(1).is_ok_and(|p| !p.connected))?;
    // A frame to it is counted by name.
    let mut frame = [&[0x00, 0x50, 0x56, 0, 0, 2][..], &soft.0, &[0x88, 0xb6]].concat();
    frame.resize(60, 0);
    guest.send(&frame)?;
    guest.flush()?;
    let drops = || site.port(1).map(|p| p.drops.get("not-connected").copied().unwrap_or(0));
    wait_until("the frame is counted", SHORT, || drops().is_ok_and(|n| n > 0))?;
    wait_until("the trouble is told", SHORT, || site.net.switch.log().contains("\"tap1\" exists and is no tap"))?;
    site.machine.ip("link del dev tap1")?;
    wait_until("there is another", SHORT, || site.port(1).is_ok_and(|p| p.connected))?;
    site.plug(1)?;
    wait_until("and carries frames", SHORT, || a.pings("10.0.0.2").unwrap_or(false))?;

    // Gone with its namespace, which another one follows.
    let short = Lab::new("tapz")?;
    c.ip(&format!("link set dev eth0 netns {}", short.host("z")?.namespace()))?;
    drop(short);
    let logged = |what: &str| site.net.switch.log().contains(what);
    wait_until("it is gone", SHORT, || logged("tap interface tap2 is gone"))?;
    wait_until("there is another", SHORT, || logged("tap interface tap2 was made anew"))?;
    site.plug(2)?;
    drop(guest);
    site.net.finish()
}
