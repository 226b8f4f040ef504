//! Unmodified Linux drivers in unmodified QEMU, guest to guest.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use common::{Net, SHORT, address, alone, no_ping, ping, port, portgroup, transfer, vnic};

fn two_vmxnet3_and_a_vlance() -> String {
    portgroup("Production", "10")
        + &vnic("web1", "Production", "vmxnet3", 1)
        + &vnic("web2", "Production", "vmxnet3", 2)
        + &vnic("old1", "Production", "vlance", 3)
}

/// vmxnet3 with vmxnet3 and with vlance: echo over IPv4 and IPv6, 200 MB by TCP both ways between the
/// vmxnet3 guests and 20 MB with the vlance one, digests equal, and not one message on a vmxnet3 socket
/// while all that flows.
#[test]
fn vmxnet3_and_vlance_carry_bulk_data() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut guests = net.boot(&["web1", "web2", "old1"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        address(guest, "eth0", number)?;
    }
    let [web1, web2, old1] = &mut guests[..] else { unreachable!("three were booted") };
    let link = old1.sh_ok("ethtool eth0; ethtool -i eth0", SHORT)?;
    for fact in ["Speed: 10Mb/s", "Duplex: Half", "Link detected: yes", "driver: pcnet32"] {
        ensure!(link.contains(fact), "{fact} is missing from {link}");
    }
    ensure!(web1.sh_ok("ethtool -i eth0", SHORT)?.contains("driver: vmxnet3"), "the stock driver drives it");
    for to in ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"] {
        ping(web1, to)?;
    }

    let before = (net.port("web1")?.messages, net.port("web2")?.messages);
    transfer(web1, web2, "10.0.0.2", 200_000_000, 1)?;
    transfer(web2, web1, "fd00::1", 200_000_000, 2)?;
    transfer(web1, old1, "10.0.0.3", 20_000_000, 3)?;
    transfer(old1, web2, "fd00::2", 20_000_000, 4)?;
    let after = (net.port("web1")?.messages, net.port("web2")?.messages);
    ensure!(before == after, "messages crossed a vmxnet3 socket while traffic flowed: {before:?} then {after:?}");

    let status = net.sums()?;
    ensure!(port(&status, "web1")?.input.bytes > 220_000_000, "what web1 sent was counted");
    ensure!(port(&status, "old1")?.output.segments > 0, "large segments were cut for the receiver that takes none");
    let text = web1.sh_ok("ethtool -S eth0", SHORT)?;
    ensure!(counter(&text, "ucast bytes tx")? > 200_000_000, "the driver reads its statistics: {text}");
    net.finish()
}

/// The first counter called `name` in the output of `ethtool -S`.
fn counter(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|v| v.parse().ok()).ok_or_else(|| anyhow::anyhow!("no {name} in {text}"))
}

/// MSI and INTx: the driver falls back when the kernel refuses MSI-X or all messages.
#[test]
fn vmxnet3_works_with_intx() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut a = net.spawn_with("web1", &["web1"], "pci=nomsi")?;
    let mut b = net.spawn("web2", &["web2"])?;
    for (guest, number) in [(&mut a, 1), (&mut b, 2)] {
        guest.wait_ready(common::BOOT)?;
        address(guest, "eth0", number)?;
    }
    let lines = a.sh_ok("grep eth0 /proc/interrupts", SHORT)?;
    ensure!(lines.contains("IO-APIC") && !lines.contains("MSI"), "INTx is in use: {lines}");
    ping(&mut a, "10.0.0.2")?;
    transfer(&mut a, &mut b, "10.0.0.2", 20_000_000, 1)?;
    transfer(&mut b, &mut a, "10.0.0.1", 20_000_000, 2)?;
    net.finish()
}

/// Jumbo frames from end to end, and the MTU in force for both sizes of card.
#[test]
fn mtu_9000() -> Result<()> {
    let _alone = alone();
    let tables = portgroup("Storage", "0") + &vnic("a", "Storage", "vmxnet3", 1) + &vnic("b", "Storage", "vmxnet3", 2);
    let net = Net::start(None, "mtu = 9000", &tables)?;
    let mut guests = net.boot(&["a", "b"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        guest.sh_ok("ip link set eth0 mtu 9000", SHORT)?;
        address(guest, "eth0", number)?;
    }
    let [a, b] = &mut guests[..] else { unreachable!("two were booted") };
    ping(a, "10.0.0.2")?;
    // 8972 bytes of echo, 8 of ICMP and 20 of IPv4 are one frame of 9000.
    let text = a.sh_ok("ping -s 8972 -c 3 -i 0.2 -w 10 10.0.0.2", SHORT)?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    transfer(a, b, "10.0.0.2", 50_000_000, 1)?;
    let status = net.sums()?;
    let out = port(&status, "b")?.output;
    ensure!(out.bytes / out.frames > 6000, "the transfer went in large frames: {out:?}");
    net.finish()
}

/// A guest that tags by itself reaches a port of each VLAN it may use, and none it may not.
#[test]
fn vgt_guest_with_subinterfaces() -> Result<()> {
    let _alone = alone();
    let tables = portgroup("Trunk", "\"10,20\"")
        + &portgroup("Ten", "10")
        + &portgroup("Thirty", "30")
        + &vnic("router", "Trunk", "vmxnet3", 1)
        + &vnic("ten", "Ten", "vmxnet3", 2)
        + &vnic("thirty", "Thirty", "vlance", 3);
    let net = Net::start(None, "", &tables)?;
    let mut guests = net.boot(&["router", "ten", "thirty"])?;
    let [router, ten, thirty] = &mut guests[..] else { unreachable!("three were booted") };
    router.sh_ok("ip link set eth0 up; ip link add link eth0 name eth0.10 type vlan id 10; ip link add link eth0 name eth0.30 type vlan id 30", SHORT)?;
    address(router, "eth0.10", 1)?;
    router.sh_ok("ip addr add 10.0.30.1/24 dev eth0.30; ip link set eth0.30 up", SHORT)?;
    address(ten, "eth0", 2)?;
    thirty.sh_ok("ip addr add 10.0.30.3/24 dev eth0; ip link set eth0 up", SHORT)?;
    ping(router, "10.0.0.2")?;
    ping(ten, "fd00::1")?;
    transfer(router, ten, "10.0.0.2", 50_000_000, 1)?;
    transfer(ten, router, "fd00::1", 50_000_000, 2)?;
    no_ping(router, "10.0.30.3")?;
    let status = net.sums()?;
    let mismatches = port(&status, "router")?.drops.get("vlan-mismatch").copied().unwrap_or(0);
    ensure!(mismatches > 0, "frames of VLAN 30 are outside the port group's set, and counted");
    net.finish()
}

/// A guest reboots and comes back on the same socket, its VMM still the same.
#[test]
fn a_guest_reboots() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut guests = net.boot(&["web1", "old1"])?;
    for round in 0..2 {
        for (guest, number) in guests.iter_mut().zip(1..) {
            address(guest, "eth0", number)?;
        }
        let [web1, old1] = &mut guests[..] else { unreachable!("two were booted") };
        ping(web1, "10.0.0.2")?;
        transfer(web1, old1, "10.0.0.2", 5_000_000, 1 + round)?;
        if round == 0 {
            web1.reboot(common::BOOT)?;
            old1.reboot(common::BOOT)?;
        }
    }
    net.finish()
}

/// A VMM is killed under load and another takes its place; a second one beside it is turned away.
#[test]
fn a_vmm_is_killed_and_replaced() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut guests = net.boot(&["web1", "web2"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        address(guest, "eth0", number)?;
    }
    let [web1, web2] = &mut guests[..] else { unreachable!("two were booted") };
    ping(web1, "10.0.0.2")?;
    let flood = web1.start("guest-tool udpflood 10.0.0.2 9 200000 1000")?;
    std::thread::sleep(Duration::from_millis(300));
    web2.kill()?;
    net.switch.wait_log("vNIC web2: the VMM has gone", SHORT)?;
    web1.wait(flood, SHORT)?;
    ensure!(!net.port("web2")?.connected, "the port is free again");

    let mut second = net.spawn("web2-again", &["web2"])?;
    second.wait_ready(common::BOOT)?;
    address(&mut second, "eth0", 2)?;
    ping(web1, "10.0.0.2")?;
    transfer(web1, &mut second, "10.0.0.2", 20_000_000, 1)?;

    let mut third = net.spawn("web2-third", &["web2"])?;
    net.switch.wait_log("vNIC web2: a second VMM", SHORT)?;
    ping(web1, "10.0.0.2")?;
    third.kill()?;
    let status = net.sums()?;
    let drops = &port(&status, "web2")?.drops;
    ensure!(drops.contains_key("not-connected"), "frames for the dead VMM have a name: {drops:?}");
    net.finish()
}

/// A VMM whose memory is not shared: a clear sentence, and the others do not notice.
#[test]
fn memory_that_is_not_shared() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut guests = net.boot(&["web1", "old1"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        address(guest, "eth0", number)?;
    }
    let mut private = net.spawn_private("web2", &["web2"])?;
    net.switch.wait_log("vNIC web2: the VMM does not share its memory", common::BOOT)?;
    ensure!(net.switch.log().contains("share=on"), "the sentence names the mend");
    let [web1, old1] = &mut guests[..] else { unreachable!("two were booted") };
    transfer(web1, old1, "10.0.0.2", 5_000_000, 1)?;
    private.wait_ready(common::BOOT)?;
    private.sh("ip link set eth0 up", SHORT)?;
    transfer(old1, web1, "fd00::1", 5_000_000, 2)?;
    private.kill()?;
    net.finish()
}

/// SIGTERM while guests send: a clean end, exit 0, sockets gone.
#[test]
fn sigterm_under_load() -> Result<()> {
    let _alone = alone();
    let mut net = Net::start(None, "", &two_vmxnet3_and_a_vlance())?;
    let mut guests = net.boot(&["web1", "web2"])?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        address(guest, "eth0", number)?;
    }
    let [web1, _] = &mut guests[..] else { unreachable!("two were booted") };
    ping(web1, "10.0.0.2")?;
    web1.start("guest-tool udpflood 10.0.0.2 9 100000000 1000")?;
    let before = net.port("web1")?.input.frames;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(net.port("web1")?.input.frames > before, "there is load");
    let status = net.switch.stop()?;
    ensure!(status.success(), "{status}: {}", net.switch.log());
    ensure!(!net.switch.socket("web1").exists() && !net.switch.control_socket().exists(), "sockets are gone");
    ensure!(net.switch.log().contains("frames in"), "the last line tells the totals");
    Ok(())
}
