//! The switch crashes and comes back: VMMs that listen are connected to again, those that do not connect again, and their
//! guests' rings go on.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{BOOT, Net, SHORT, address, alone, ping, portgroup, transfer, vnic};
use testbed::qemu::{Guest, GuestSpec, Nic};

/// A guest whose QEMU listens on the port's socket, or connects to it.
fn spawn(net: &Net, port: &str, last: u8, listens: bool) -> Result<Guest> {
    let (socket, mac) = (net.switch.socket(port), format!("00:50:56:00:00:{last:02x}"));
    Guest::boot(GuestSpec::new(port).nic(Nic::VhostUser { socket, mac, listens, queues: 1 }))
}

/// Tries until `to` answers, and goes on answering for longer than a guest may take to notice what its link did.
///
/// A Linux guest looks at link changes in batches a second apart. Until then its IPv6 answers by the routes from
/// before; when it does look, it takes them out and puts them back, and what arrives in between is dropped there
/// (`Ip6InNoRoutes` in its /proc/net/snmp6 counts it).
fn reach(guest: &mut Guest, to: &str) -> Result<()> {
    let deadline = Instant::now() + BOOT;
    let six = if to.contains(':') { "-6" } else { "" };
    while !guest.sh(&format!("ping {six} -c 7 -i 0.2 -W 1 {to}"), SHORT)?.text.contains(" 0% packet loss") {
        ensure!(Instant::now() < deadline, "{to} cannot be reached from {} again", guest.name());
    }
    Ok(())
}

/// Killed under load and between loads, with two guests on it that notice a link that was down for a moment.
#[test]
fn qemu_guests_survive_a_crash_of_the_switch() -> Result<()> {
    survive("client")
}

/// The same where the switch listens, and QEMU has to come to it.
#[test]
fn qemu_guests_that_connect_survive_a_crash_of_the_switch() -> Result<()> {
    survive("server")
}

fn survive(mode: &str) -> Result<()> {
    let _alone = alone();
    let port = |last| vnic(&format!("v{last}"), "Production", "virtio", last) + &format!("vhost_mode = \"{mode}\"\n");
    let tables = portgroup("Production", "10") + &port(1) + &port(2);
    let mut net = Net::start(None, "", &tables)?;
    let told = net.port("v1")?;
    ensure!((told.queues, told.vhost_mode.as_deref()) == (Some(1), Some(mode)), "{told:?}");
    let listens = mode == "client";
    let (mut v1, mut v2) = (spawn(&net, "v1", 1, listens)?, spawn(&net, "v2", 2, listens)?);
    for (guest, number) in [(&mut v1, 1), (&mut v2, 2)] {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    ping(&mut v1, "10.0.0.2")?;
    transfer(&mut v1, &mut v2, "10.0.0.2", 5_000_000, 1)?;
    for round in 0..2 {
        let flood = v1.start("guest-tool udpflood 10.0.0.2 9 20000 1000")?;
        if round == 0 {
            std::thread::sleep(Duration::from_millis(100));
        } else {
            v1.wait(flood, SHORT)?;
        }
        net.crash(&tables)?;
        net.started("v1")?;
        net.started("v2")?;
        // The guests see a link that was down for a moment, and come to it in their time.
        reach(&mut v1, "10.0.0.2")?;
        reach(&mut v2, "fd00::1")?;
        ping(&mut v1, "10.0.0.2")?;
        ping(&mut v2, "fd00::1")?;
        transfer(&mut v1, &mut v2, "10.0.0.2", 5_000_000, 2 + round)?;
        transfer(&mut v2, &mut v1, "10.0.0.1", 5_000_000, 4 + round)?;
    }
    ensure!(!net.switch.log().contains("was disconnected"), "{}", net.switch.log());
    net.finish()
}
