//! Real guests against real kernels: a physical network of namespaces behind the uplinks.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use common::{BOOT, Net, SHORT, TRANSFER, address, alone, digest, no_ping, ping, portgroup, report, tool, vnic};
use testbed::netns::{Host, Lab, VethOptions, VlanShim, wait_until};
use testbed::qemu::Guest;

/// The switch's machine with two cables to a physical switch, and an outside host on VLAN 10 and
/// untagged.
struct Site {
    lab: Lab,
    machine: Host,
    physical: Host,
    tagged: Host,
    untagged: Host,
    _shim: VlanShim,
}

impl Site {
    fn build(name: &str, mtu: u16) -> Result<Site> {
        let lab = Lab::new(name)?;
        let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
        let [tagged, untagged] = [lab.host("ten")?, lab.host("plain")?];
        let options = VethOptions { mtu: Some(mtu), ..VethOptions::default() };
        lab.veth((&machine, "eth1"), (&physical, "p1"), &options)?;
        lab.veth((&machine, "eth2"), (&physical, "p2"), &options)?;
        lab.veth((&untagged, "eth0"), (&physical, "p3"), &options)?;
        lab.bridge(&physical, "br0", &["p1", "p2", "p3"], false)?;
        let shim = lab.vlan_shim((&tagged, "eth0"), (&physical, "br0"), 10, mtu)?;
        for host in [&tagged, &untagged] {
            host.address("eth0", "10.0.0.100/24")?;
            host.address("eth0", "fd00::100/64")?;
        }
        Ok(Site { lab, machine, physical, tagged, untagged, _shim: shim })
    }

    fn net(&self, keys: &str, tables: &str) -> Result<Net> {
        let uplinks =
            "[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\n[[uplink]]\nname = \"vmnic1\"\ndevice = \"eth2\"\n";
        Net::start(Some(self.machine.namespace()), keys, &(uplinks.to_owned() + tables))
    }
}

/// `bytes` by TCP from the guest to the host and back; digests equal.
fn both_ways(guest: &mut Guest, host: &Host, to_host: &str, to_guest: &str, bytes: u64, seed: u64) -> Result<()> {
    let (bytes, seed) = (bytes.to_string(), seed.to_string());
    let receiver = tool(host, &["recv", "6000", &bytes])?;
    let sent = guest.sh_ok(&format!("guest-tool send {to_host} 6000 {bytes} {seed}"), TRANSFER)?;
    let got = report(receiver)?;
    ensure!(digest(&sent)? == digest(&got)?, "guest to host: {sent} {got}");

    let receiver = guest.start(&format!("guest-tool recv 6001 {bytes}"))?;
    let sent = report(tool(host, &["send", to_guest, "6001", &bytes, &seed])?)?;
    let got = guest.wait(receiver, TRANSFER)?;
    ensure!(got.status == 0 && digest(&sent)? == digest(&got.text)?, "host to guest: {sent} {}", got.text);
    Ok(())
}

/// Both cards against a namespace host: tagged by the switch (VST) and untagged (EST), IPv4 and IPv6; the
/// kernel's large segments and unfinished checksums included. Another VLAN sees nothing of it.
#[test]
fn guests_and_namespace_hosts() -> Result<()> {
    let _alone = alone();
    let site = Site::build("hosts", 1500)?;
    let tables = portgroup("Ten", "10")
        + &portgroup("Plain", "0")
        + &portgroup("Twenty", "20")
        + &vnic("web1", "Ten", "vmxnet3", 1)
        + &vnic("old1", "Plain", "vlance", 2)
        + &vnic("lab1", "Twenty", "vmxnet3", 3);
    let net = site.net("", &tables)?;
    let mut guests = net.boot(&["web1", "old1", "lab1"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        address(guest, "eth0", number)?;
    }
    let [web1, old1, lab1] = &mut guests[..] else { unreachable!("three were booted") };
    for guest in [&mut *web1, &mut *old1] {
        ping(guest, "10.0.0.100")?;
        ping(guest, "fd00::100")?;
    }
    both_ways(web1, &site.tagged, "10.0.0.100", "10.0.0.1", 20_000_000, 1)?;
    both_ways(web1, &site.tagged, "fd00::100", "fd00::1", 5_000_000, 2)?;
    both_ways(old1, &site.untagged, "10.0.0.100", "10.0.0.2", 20_000_000, 3)?;
    both_ways(old1, &site.untagged, "fd00::100", "fd00::2", 5_000_000, 4)?;
    for to in ["10.0.0.1", "10.0.0.2", "10.0.0.100"] {
        no_ping(lab1, to)?;
    }
    net.finish()
}

/// A flood for addresses no VM has is dropped as `no-match`, to the frame. It comes in parts that fit the
/// kernel's ring, each counted before the next: what the kernel drops, the switch cannot count.
#[test]
fn a_flood_from_outside_is_no_match() -> Result<()> {
    const PART: u64 = 200;
    let _alone = alone();
    let site = Site::build("flood", 1500)?;
    let tables = portgroup("Ten", "10") + &vnic("web1", "Ten", "vmxnet3", 1);
    let net = site.net("", &tables)?;
    let counted = |uplink: &str| -> Result<u64> { Ok(net.port(uplink)?.drops["no-match"]) };
    let before = [counted("vmnic0")?, counted("vmnic1")?];
    let tap = site.lab.tap_on(&site.physical, "br0", 1500)?;
    for n in 0..5000u16 {
        let [a, b] = n.to_be_bytes();
        let mut frame = vec![0x02, 0, 0, 1, a, b, 0x02, 0, 0, 0, 0, 9, 0x81, 0, 0, 10, 0x88, 0xb6];
        frame.resize(60, 0);
        tap.send(&frame)?;
        let sent = u64::from(n) + 1;
        if sent.is_multiple_of(PART) {
            // A bridge floods an unknown address out of every port: each uplink sees each frame once.
            wait_until("every frame is counted on both uplinks", SHORT, || {
                let there = |(uplink, before): (&str, u64)| counted(uplink).is_ok_and(|n| n >= before + sent);
                ["vmnic0", "vmnic1"].into_iter().zip(before).all(there)
            })?;
        }
    }
    for uplink in ["vmnic0", "vmnic1"] {
        ensure!(net.port(uplink)?.kernel_drops == Some(0), "the kernel lost none");
    }
    net.finish()
}

/// Jumbo frames over an uplink.
#[test]
fn mtu_9000_over_an_uplink() -> Result<()> {
    let _alone = alone();
    let site = Site::build("jumbo", 9000)?;
    let tables = portgroup("Plain", "0") + &vnic("web1", "Plain", "vmxnet3", 1);
    let net = site.net("mtu = 9000", &tables)?;
    let mut guests = net.boot(&["web1"])?;
    guests[0].sh_ok("ip link set eth0 mtu 9000", SHORT)?;
    address(&mut guests[0], "eth0", 1)?;
    ping(&mut guests[0], "10.0.0.100")?;
    let text = guests[0].sh_ok("ping -s 8972 -c 3 -i 0.2 -w 10 10.0.0.100", SHORT)?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    both_ways(&mut guests[0], &site.untagged, "10.0.0.100", "10.0.0.1", 50_000_000, 1)?;
    net.finish()
}

/// The active uplink's cable is pulled while a guest sends: the transfer goes on by the other and comes
/// back; then the interface itself vanishes and returns.
#[test]
fn a_cable_is_pulled_and_an_interface_vanishes() -> Result<()> {
    let _alone = alone();
    let site = Site::build("cable", 1500)?;
    let tables = portgroup("Plain", "0") + &vnic("web1", "Plain", "vmxnet3", 1);
    let net = site.net("", &tables)?;
    let mut guest = net.boot(&["web1"])?.remove(0);
    address(&mut guest, "eth0", 1)?;
    ping(&mut guest, "10.0.0.100")?;
    ensure!(net.port("web1")?.uplink.as_deref() == Some("vmnic0"), "it starts on the first");

    let bytes = "300000000";
    let receiver = tool(&site.untagged, &["recv", "6000", bytes])?;
    let sender = guest.start(&format!("guest-tool send 10.0.0.100 6000 {bytes} 1"))?;
    std::thread::sleep(Duration::from_millis(500));
    site.physical.cut("p1")?;
    wait_until("failover", SHORT, || net.port("web1").is_ok_and(|p| p.uplink.as_deref() == Some("vmnic1")))?;
    std::thread::sleep(Duration::from_millis(500));
    site.physical.heal("p1")?;
    wait_until("failback", SHORT, || net.port("web1").is_ok_and(|p| p.uplink.as_deref() == Some("vmnic0")))?;
    let sent = guest.wait(sender, TRANSFER)?;
    let got = report(receiver)?;
    ensure!(sent.status == 0 && digest(&sent.text)? == digest(&got)?, "{} {got}", sent.text);

    site.machine.ip("link del eth1")?;
    wait_until("it is gone", SHORT, || net.port("vmnic0").is_ok_and(|p| !p.connected))?;
    ping(&mut guest, "10.0.0.100")?;
    site.lab.veth((&site.machine, "eth1"), (&site.physical, "p1"), &VethOptions::default())?;
    site.physical.plug("br0", "p1")?;
    wait_until("it is back", BOOT, || net.port("web1").is_ok_and(|p| p.uplink.as_deref() == Some("vmnic0")))?;
    ping(&mut guest, "10.0.0.100")?;
    let log = net.switch.log();
    for words in
        ["uplink vmnic0 (eth1) lost its link", "uplink vmnic0 (eth1) is gone", "moves from uplink vmnic0 to vmnic1"]
    {
        ensure!(log.contains(words), "the log says {words:?}: {log}");
    }
    net.finish()
}

/// A transfer goes on while the path behind the uplink in use is cut, its link up, and healed again: found by
/// beacons, with two uplinks that hear each other no more (shotgun).
#[test]
fn a_transfer_survives_an_upstream_cut() -> Result<()> {
    let _alone = alone();
    let site = Site::build("upstream", 1500)?;
    let tables =
        "[beacon]\ninterval_ms = 100\n".to_owned() + &portgroup("Ten", "10") + &vnic("web1", "Ten", "vmxnet3", 1);
    let net = site.net("", &tables)?;
    let mut guest = net.boot(&["web1"])?.remove(0);
    address(&mut guest, "eth0", 1)?;
    ping(&mut guest, "10.0.0.100")?;
    let bytes = "200000000";
    let receiver = tool(&site.tagged, &["recv", "6000", bytes])?;
    let sender = guest.start(&format!("guest-tool send 10.0.0.100 6000 {bytes} 1"))?;
    std::thread::sleep(Duration::from_millis(500));
    site.physical.unplug("p1")?;
    net.switch.wait_log("beacon.shotgun.on", SHORT)?;
    std::thread::sleep(Duration::from_secs(1));
    site.physical.plug("br0", "p1")?;
    net.switch.wait_log("beacon.shotgun.off", SHORT)?;
    let sent = guest.wait(sender, TRANSFER)?;
    let got = report(receiver)?;
    ensure!(sent.status == 0 && digest(&sent.text)? == digest(&got)?, "{} {got}", sent.text);
    ping(&mut guest, "10.0.0.100")?;
    let links = net.switch.log();
    ensure!(!links.contains("lost its link"), "every link stayed up: {links}");
    net.finish()
}
