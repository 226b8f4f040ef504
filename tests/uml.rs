//! User-mode Linux on the switch's vhost-user sockets: the VMM that hands its control queue over.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{BOOT, Net, SHORT, TRANSFER, alone, digest, port, portgroup, vnic};
use testbed::uml::{UmlGuest, UmlSpec};

const BYTES: &str = "20000000";

/// A user-mode Linux on each of the ports, with the addresses 10.0.0.1 and so on.
fn boot(net: &Net, ports: &[&str]) -> Result<Vec<UmlGuest>> {
    let spawn = |port: &&str| UmlGuest::boot(&UmlSpec::new(port, &net.switch.socket(port)));
    let mut guests = ports.iter().map(spawn).collect::<Result<Vec<_>>>()?;
    for (guest, last) in guests.iter_mut().zip(1..) {
        guest.wait_ready(BOOT)?;
        guest.sh_ok(&format!("ip addr add 10.0.0.{last}/24 dev eth0 && ip link set eth0 up"), SHORT)?;
    }
    Ok(guests)
}

fn ping(guest: &mut UmlGuest, to: &str) -> Result<()> {
    guest.sh_ok(&format!("ping -c 3 -W 5 {to}"), SHORT).map(drop)
}

/// Waits until it `holds`, for as long as a busy machine may need.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SHORT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Echo, and TCP both ways, whole to the last byte.
#[test]
fn two_user_mode_linux_guests() -> Result<()> {
    let _alone = alone();
    let tables =
        portgroup("Production", "10") + &vnic("u1", "Production", "virtio", 1) + &vnic("u2", "Production", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let mut guests = boot(&net, &["u1", "u2"])?;
    let [u1, u2] = &mut guests[..] else { unreachable!("two were booted") };
    ping(u1, "10.0.0.2")?;
    ping(u2, "10.0.0.1")?;
    for (from, to, address) in [(0, 1, "10.0.0.2"), (1, 0, "10.0.0.1")] {
        let receive = format!("(guest-tool recv 6000 {BYTES} >/tmp/got 2>&1; echo $? >/tmp/status) &");
        guests[to].sh_ok(&format!("rm -f /tmp/status; {receive} sleep 1"), SHORT)?;
        let sent = guests[from].sh_ok(&format!("guest-tool send {address} 6000 {BYTES} 1"), TRANSFER)?;
        let done = "until [ -s /tmp/status ]; do usleep 10000; done; cat /tmp/got; exit $(cat /tmp/status)";
        let got = guests[to].sh_ok(done, SHORT)?;
        ensure!(digest(&sent)? == digest(&got)?, "{sent} {got}");
    }
    let status = net.sums()?;
    let input = port(&status, "u1")?.input;
    ensure!(input.bytes > 20_000_000 && input.bytes / input.frames > 1000, "in large segments: {input:?}");
    drop(guests);
    net.finish()
}

/// What the guest's driver says on its control queue is what the switch does: promiscuous mode, the card's address.
#[test]
fn receive_mode_and_address() -> Result<()> {
    let _alone = alone();
    let allowed = "[portgroup.security]\npromiscuous = true\nmac_changes = true\nforged_transmits = true\n";
    let tables = portgroup("Lab", "10")
        + allowed
        + &vnic("u1", "Lab", "virtio", 1)
        + &vnic("u2", "Lab", "virtio", 2)
        + &vnic("u3", "Lab", "virtio", 3);
    let net = Net::start(None, "", &tables)?;
    let mut guests = boot(&net, &["u1", "u2", "u3"])?;
    let [u1, u2, u3] = &mut guests[..] else { unreachable!("three were booted") };
    ping(u1, "10.0.0.2")?;
    let copies = |net: &Net| Ok::<u64, anyhow::Error>(net.port("u3")?.output.frames);

    // u3 did not ask for the frames of others, then it does, then no more.
    let flood = "ping -c 20 -i 0.05 -W 5 10.0.0.2";
    for (promiscuous, sees) in [("off", false), ("on", true), ("off", false)] {
        u3.sh_ok(&format!("ip link set eth0 promisc {promiscuous}"), SHORT)?;
        let before = copies(&net)?;
        u1.sh_ok(flood, SHORT)?;
        net.sums()?;
        let more = copies(&net)? - before;
        ensure!((more >= 40) == sees, "promiscuous mode {promiscuous}: {more} frames of 40");
    }

    // Another address for u2: who asks for it, gets through; a conversation at the old one does not.
    u2.sh_ok("ip link set eth0 down && ip link set eth0 address 02:00:00:00:00:22 && ip link set eth0 up", SHORT)?;
    u1.sh_ok("ip neigh flush dev eth0", SHORT)?;
    until("u2 answers at its new address", || Ok(u1.sh("ping -c 1 -W 2 10.0.0.2", SHORT)?.status == 0))?;
    let neighbour = u1.sh_ok("ip neigh show 10.0.0.2", SHORT)?;
    ensure!(neighbour.contains("02:00:00:00:00:22"), "{neighbour}");
    drop(guests);
    net.finish()
}

/// The same of group addresses and VLANs: a trunk port gets those frames that its guest has asked for, from when it asks
/// until it asks no more.
#[test]
fn group_addresses_and_vlans() -> Result<()> {
    let _alone = alone();
    let tables = portgroup("Trunk", "4095") + &vnic("u1", "Trunk", "virtio", 1) + &vnic("u2", "Trunk", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let mut guests = boot(&net, &["u1", "u2"])?;
    let [u1, u2] = &mut guests[..] else { unreachable!("two were booted") };
    u1.sh_ok("ip link add link eth0 name eth0.20 type vlan id 20 && ip link set eth0.20 up", SHORT)?;
    ping(u1, "10.0.0.2")?;
    // An address of IPv6 makes its guest ask for the group in which its neighbours look for it; all ask for ff02::1.
    let cases = [
        (
            "ping -6 -c 20 -i 0.05 -W 1 -I eth0 ff02::1:ff00:77",
            "ip -6 addr add fd00::77/64 dev eth0",
            "ip -6 addr del fd00::77/64 dev eth0",
        ),
        (
            "ping -6 -c 20 -i 0.05 -W 1 -I eth0.20 ff02::1",
            "ip link add link eth0 name eth0.20 type vlan id 20 && ip link set eth0.20 up",
            "ip link del eth0.20",
        ),
    ];
    for (flood, ask, ask_no_more) in cases {
        for (command, sees) in [("true", false), (ask, true), (ask_no_more, false)] {
            u2.sh_ok(command, SHORT)?;
            let came = || Ok::<_, anyhow::Error>(net.port("u2")?.output.frames);
            until(&format!("after {command}: {flood}: u2 sees them: {sees}"), || {
                let before = came()?;
                // Whether anybody answers does not matter.
                u1.sh(flood, SHORT)?;
                net.sums()?;
                Ok((came()? - before >= 20) == sees)
            })?;
        }
    }
    drop(guests);
    net.finish()
}

/// A guest that takes another address where its port group does not allow it is cut off, as with any other card.
#[test]
fn an_address_that_is_not_allowed() -> Result<()> {
    let _alone = alone();
    let tables = portgroup("Strict", "10") + &vnic("u1", "Strict", "virtio", 1) + &vnic("u2", "Strict", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let mut guests = boot(&net, &["u1", "u2"])?;
    let [u1, u2] = &mut guests[..] else { unreachable!("two were booted") };
    ping(u1, "10.0.0.2")?;
    u2.sh_ok("ip link set eth0 address 02:00:00:00:00:22", SHORT)?;
    let lost = u1.sh("ping -c 3 -W 1 10.0.0.2", SHORT)?;
    ensure!(lost.status != 0, "u2 is cut off: {}", lost.text);
    let drops = port(&net.sums()?, "u2")?.drops.clone();
    ensure!(drops.contains_key("mac-changed"), "and it has a name: {drops:?}");
    u2.sh_ok("ip link set eth0 address 00:50:56:00:00:02", SHORT)?;
    until("u2 is back", || Ok(u1.sh("ping -c 1 -W 2 10.0.0.2", SHORT)?.status == 0))?;
    drop(guests);
    net.finish()
}
