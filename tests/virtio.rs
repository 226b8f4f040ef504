//! QEMU's own virtio card on the switch's vhost-user sockets, with unmodified Linux in it.

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{BOOT, Net, SHORT, TRANSFER, address, alone, digest, ping, port, portgroup, report, tool, transfer, vnic};
use testbed::netns::{Lab, VethOptions};
use testbed::qemu::{Guest, GuestSpec, Nic};

/// A guest named like its virtio port `00:50:56:00:00:last`; spawned, not waited for.
fn spawn(net: &Net, port: &str, name: &str, last: u8) -> Result<Guest> {
    boot_with(name, net.switch.socket(port), last, false, 1)
}

fn boot_with(name: &str, socket: PathBuf, last: u8, listens: bool, queues: usize) -> Result<Guest> {
    let nic = Nic::VhostUser { socket, mac: format!("00:50:56:00:00:{last:02x}"), listens, queues };
    Guest::boot(GuestSpec::new(name).nic(nic))
}

/// Feature bits of a virtio device as its driver accepted them (virtio 1.2, 6).
const EVENT_IDX: usize = 29;
const RING_PACKED: usize = 34;

/// The same with a card whose rings are packed; ready, with its address.
fn boot_packed(net: &Net, port: &str, last: u8, queues: usize) -> Result<Guest> {
    let (socket, mac) = (net.switch.socket(port), format!("00:50:56:00:00:{last:02x}"));
    let nic = Nic::VhostUser { socket, mac, listens: false, queues };
    let mut guest = Guest::boot(GuestSpec::new(port).nic(nic).packed_rings())?;
    guest.wait_ready(BOOT)?;
    address(&mut guest, "eth0", last)?;
    check_packed(&mut guest)?;
    Ok(guest)
}

/// The driver agreed to packed rings and to notifications by index.
fn check_packed(guest: &mut Guest) -> Result<()> {
    let features = guest.sh_ok("cat /sys/class/net/eth0/device/features", SHORT)?;
    let accepted = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
    ensure!(accepted(RING_PACKED) && accepted(EVENT_IDX), "the driver accepted {features}");
    Ok(())
}

/// Boots virtio guests on the ports, numbered from 1 as their addresses are.
fn boot(net: &Net, ports: &[&str]) -> Result<Vec<Guest>> {
    let spawned = ports.iter().zip(1..).map(|(port, last)| spawn(net, port, port, last));
    let mut guests = spawned.collect::<Result<Vec<_>>>()?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    Ok(guests)
}

fn two_virtio_and_a_vmxnet3() -> String {
    portgroup("Production", "10")
        + &vnic("v1", "Production", "virtio", 1)
        + &vnic("v2", "Production", "virtio", 2)
        + &vnic("web", "Production", "vmxnet3", 3)
}

/// Echo over IPv4 and IPv6 and 100 MB by TCP both ways between two virtio guests, and with a vmxnet3 one; large segments
/// and unfinished checksums go through as they are.
#[test]
fn virtio_with_virtio_and_with_vmxnet3() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let mut web = net.spawn("web", &["web"])?;
    let mut guests = boot(&net, &["v1", "v2"])?;
    web.wait_ready(BOOT)?;
    address(&mut web, "eth0", 3)?;
    let [v1, v2] = &mut guests[..] else { unreachable!("two were booted") };
    ensure!(v1.sh_ok("ethtool -i eth0", SHORT)?.contains("driver: virtio_net"), "the stock driver drives it");
    let features = v1.sh_ok("ethtool -k eth0", SHORT)?;
    for fact in ["tx-checksum-ip-generic: on", "tcp-segmentation-offload: on"] {
        ensure!(features.contains(fact), "{fact} is missing from {features}");
    }
    for to in ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"] {
        ping(v1, to)?;
    }
    let messages = (net.port("v1")?.messages, net.port("v2")?.messages);
    transfer(v1, v2, "10.0.0.2", 100_000_000, 1)?;
    transfer(v2, v1, "fd00::1", 100_000_000, 2)?;
    transfer(v1, &mut web, "10.0.0.3", 100_000_000, 3)?;
    transfer(&mut web, v2, "fd00::2", 100_000_000, 4)?;
    let after = (net.port("v1")?.messages, net.port("v2")?.messages);
    ensure!(messages == after, "messages crossed a socket while traffic flowed: {messages:?} then {after:?}");
    let status = net.sums()?;
    let input = port(&status, "v1")?.input;
    ensure!(input.bytes > 200_000_000, "what v1 sent was counted: {input:?}");
    ensure!(input.bytes / input.frames > 2000, "it sent in large segments: {input:?}");
    let output = port(&status, "v2")?.output;
    ensure!(output.bytes > 200_000_000, "what v2 received was counted: {output:?}");
    net.finish()
}

/// A virtio guest with a host beyond an uplink, whose kernel sends large segments and unfinished checksums too.
#[test]
fn virtio_with_a_host_beyond_an_uplink() -> Result<()> {
    const BYTES: &str = "50000000";
    let _alone = alone();
    let lab = Lab::new("virtio")?;
    let [machine, outside] = [lab.host("sw")?, lab.host("out")?];
    lab.veth((&machine, "eth1"), (&outside, "eth0"), &VethOptions::default())?;
    outside.address("eth0", "10.0.0.100/24")?;
    outside.address("eth0", "fd00::100/64")?;
    let tables = "[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\n".to_owned()
        + &portgroup("Plain", "0")
        + &vnic("v1", "Plain", "virtio", 1);
    let net = Net::start(Some(machine.namespace()), "", &tables)?;
    let mut guests = boot(&net, &["v1"])?;
    let [v1] = &mut guests[..] else { unreachable!("one was booted") };
    ping(v1, "10.0.0.100")?;
    ping(v1, "fd00::100")?;
    for (number, to_host, to_guest) in [("1", "10.0.0.100", "10.0.0.1"), ("2", "fd00::100", "fd00::1")] {
        let receiver = tool(&outside, &["recv", "6000", BYTES])?;
        let sent = v1.sh_ok(&format!("guest-tool send {to_host} 6000 {BYTES} {number}"), TRANSFER)?;
        let got = report(receiver)?;
        ensure!(digest(&sent)? == digest(&got)?, "guest to host: {sent} {got}");
        let receiver = v1.start(&format!("guest-tool recv 6001 {BYTES}"))?;
        let sent = report(tool(&outside, &["send", to_guest, "6001", BYTES, number])?)?;
        let got = v1.wait(receiver, TRANSFER)?;
        ensure!(got.status == 0 && digest(&sent)? == digest(&got.text)?, "host to guest: {sent} {}", got.text);
    }
    net.finish()
}

/// A virtio guest reboots, and its VMM stays: the rings are stopped and others started on the same connection.
#[test]
fn a_virtio_guest_reboots() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let mut guests = boot(&net, &["v1", "v2"])?;
    let [v1, v2] = &mut guests[..] else { unreachable!("two were booted") };
    for seed in 1..=3 {
        ping(v1, "10.0.0.2")?;
        transfer(v1, v2, "10.0.0.2", 5_000_000, seed)?;
        if seed < 3 {
            // In the middle of traffic for it.
            let flood = v2.start("guest-tool udpflood 10.0.0.1 9 20000 1000")?;
            v1.reboot(BOOT)?;
            v2.wait(flood, SHORT)?;
            address(v1, "eth0", 1)?;
        }
    }
    let log = net.switch.log();
    ensure!(!log.contains("vNIC v1: the VMM has gone"), "the VMM was the same all the time: {log}");
    net.finish()
}

/// A guest with packed rings, one with split ones, and a vmxnet3 one: echo and TCP both ways. Its rings are stopped and
/// started by reboots in the middle of traffic.
#[test]
fn packed_rings() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let mut web = net.spawn("web", &["web"])?;
    let mut split = spawn(&net, "v2", "v2", 2)?;
    let mut packed = boot_packed(&net, "v1", 1, 1)?;
    for (guest, number) in [(&mut split, 2), (&mut web, 3)] {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    for to in ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"] {
        ping(&mut packed, to)?;
    }
    for round in 0..3 {
        transfer(&mut packed, &mut split, "10.0.0.2", 50_000_000, 1 + 4 * round)?;
        transfer(&mut split, &mut packed, "fd00::1", 50_000_000, 2 + 4 * round)?;
        transfer(&mut packed, &mut web, "10.0.0.3", 10_000_000, 3 + 4 * round)?;
        transfer(&mut web, &mut packed, "10.0.0.1", 10_000_000, 4 + 4 * round)?;
        if round < 2 {
            let flood = split.start("guest-tool udpflood 10.0.0.1 9 20000 1000")?;
            packed.reboot(BOOT)?;
            split.wait(flood, SHORT)?;
            address(&mut packed, "eth0", 1)?;
            check_packed(&mut packed)?;
        }
    }
    let log = net.switch.log();
    ensure!(!log.contains("vNIC v1: the VMM has gone"), "the VMM was the same all the time: {log}");
    let status = net.sums()?;
    let input = port(&status, "v1")?.input;
    ensure!(input.bytes > 180_000_000 && input.bytes / input.frames > 2000, "it sent in large segments: {input:?}");
    ensure!(port(&status, "v1")?.output.bytes > 180_000_000, "what it received was counted");
    net.finish()
}

/// A machine is paused and goes on, under load: the VMM is told where its packed rings stopped, and tells it back.
#[test]
fn packed_rings_go_on_where_a_pause_left_them() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let monitor = net.dir().join("v1.monitor");
    let on_monitor = format!("unix:{},server=on,wait=off", monitor.display());
    let (socket, mac) = (net.switch.socket("v1"), "00:50:56:00:00:01".to_owned());
    let spec = GuestSpec::new("v1").nic(Nic::VhostUser { socket, mac, listens: false, queues: 1 }).packed_rings();
    let extra_args = [&spec.extra_args[..], &["-monitor".to_owned(), on_monitor]].concat();
    let mut v1 = Guest::boot(GuestSpec { extra_args, ..spec })?;
    let mut v2 = spawn(&net, "v2", "v2", 2)?;
    for (guest, number) in [(&mut v1, 1), (&mut v2, 2)] {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    check_packed(&mut v1)?;
    let mut monitor = UnixStream::connect(&monitor)?;
    for round in 0..3 {
        // Both ways, across the pause.
        let receivers = [v2.start("guest-tool recv 6000 20000000")?, v1.start("guest-tool recv 6001 20000000")?];
        let senders = [
            v1.start(&format!("guest-tool send 10.0.0.2 6000 20000000 {}", 2 * round))?,
            v2.start(&format!("guest-tool send 10.0.0.1 6001 20000000 {}", 2 * round + 1))?,
        ];
        std::thread::sleep(Duration::from_millis(50));
        let messages = net.port("v1")?.messages;
        monitor.write_all(b"stop\n")?;
        let deadline = Instant::now() + SHORT;
        while net.port("v1")?.messages == messages {
            ensure!(Instant::now() < deadline, "the VMM did not stop its rings");
        }
        monitor.write_all(b"cont\n")?;
        let [to_v2, to_v1] = senders;
        let [at_v2, at_v1] = receivers;
        let ends = [
            v1.wait(to_v2, TRANSFER)?,
            v2.wait(at_v2, TRANSFER)?,
            v2.wait(to_v1, TRANSFER)?,
            v1.wait(at_v1, TRANSFER)?,
        ];
        for pair in ends.chunks(2) {
            ensure!(pair.iter().all(|end| end.status == 0), "{pair:?}");
            ensure!(digest(&pair[0].text)? == digest(&pair[1].text)?, "{pair:?}");
        }
    }
    net.finish()
}

/// The switch crashes under packed rings, in which there is no index to tell where they stopped.
#[test]
fn packed_rings_survive_a_crash_of_the_switch() -> Result<()> {
    let _alone = alone();
    let tables = two_virtio_and_a_vmxnet3();
    let mut net = Net::start(None, "", &tables)?;
    let mut v1 = boot_packed(&net, "v1", 1, 1)?;
    let mut v2 = boot_packed(&net, "v2", 2, 1)?;
    ping(&mut v1, "10.0.0.2")?;
    for round in 0..3 {
        transfer(&mut v1, &mut v2, "10.0.0.2", 5_000_000, 1 + round)?;
        let flood = v1.start("guest-tool udpflood 10.0.0.2 9 20000 1000")?;
        std::thread::sleep(Duration::from_millis(100));
        net.crash(&tables)?;
        net.started("v1")?;
        net.started("v2")?;
        v1.wait(flood, SHORT)?;
        let deadline = Instant::now() + BOOT;
        while v1.sh("ping -c 1 -W 1 10.0.0.2", SHORT)?.status != 0 {
            ensure!(Instant::now() < deadline, "v2 cannot be reached again");
        }
        ping(&mut v2, "fd00::1")?;
    }
    net.finish()
}

/// A VMM is killed under load and another takes its place; a second one beside it is turned away.
#[test]
fn a_virtio_vmm_is_killed_and_replaced() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let mut guests = boot(&net, &["v1", "v2"])?;
    let [v1, v2] = &mut guests[..] else { unreachable!("two were booted") };
    ping(v1, "10.0.0.2")?;
    let flood = v1.start("guest-tool udpflood 10.0.0.2 9 200000 1000")?;
    std::thread::sleep(Duration::from_millis(300));
    v2.kill()?;
    net.switch.wait_log("vNIC v2: the VMM has gone", SHORT)?;
    v1.wait(flood, SHORT)?;
    ensure!(!net.port("v2")?.connected, "the port is free again");

    let mut second = spawn(&net, "v2", "v2-again", 2)?;
    second.wait_ready(BOOT)?;
    address(&mut second, "eth0", 2)?;
    ping(v1, "10.0.0.2")?;
    transfer(v1, &mut second, "10.0.0.2", 20_000_000, 1)?;

    let mut third = spawn(&net, "v2", "v2-third", 2)?;
    net.switch.wait_log("vNIC v2: a second VMM", SHORT)?;
    ping(v1, "10.0.0.2")?;
    third.kill()?;
    let status = net.sums()?;
    let drops = &port(&status, "v2")?.drops;
    ensure!(drops.contains_key("not-connected"), "frames for the dead VMM have a name: {drops:?}");
    net.finish()
}

/// SIGTERM while guests send: a clean end, exit 0, sockets gone.
#[test]
fn sigterm_under_virtio_load() -> Result<()> {
    let _alone = alone();
    let mut net = Net::start(None, "", &two_virtio_and_a_vmxnet3())?;
    let mut guests = boot(&net, &["v1", "v2"])?;
    let [v1, _] = &mut guests[..] else { unreachable!("two were booted") };
    ping(v1, "10.0.0.2")?;
    v1.start("guest-tool udpflood 10.0.0.2 9 100000000 1000")?;
    let before = net.port("v1")?.input.frames;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(net.port("v1")?.input.frames > before, "there is load");
    let status = net.switch.stop()?;
    ensure!(status.success(), "{status}: {}", net.switch.log());
    ensure!(!net.switch.socket("v1").exists() && !net.switch.control_socket().exists(), "sockets are gone");
    ensure!(net.switch.log().contains("frames in"), "the last line tells the totals");
    Ok(())
}

/// QEMU listens and the switch connects: at the start, and again whenever another QEMU listens.
#[test]
fn the_switch_connects_to_a_vmm_that_listens() -> Result<()> {
    let _alone = alone();
    let client = |last| {
        let name = format!("v{last}");
        vnic(&name, "Production", "virtio", last) + "vhost_mode = \"client\"\n"
    };
    let tables = portgroup("Production", "10") + &client(1) + &vnic("v2", "Production", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let socket = net.switch.socket("v1");
    ensure!(!socket.exists(), "the switch does not listen there");
    let mut v2 = spawn(&net, "v2", "v2", 2)?;
    v2.wait_ready(BOOT)?;
    address(&mut v2, "eth0", 2)?;
    for round in 0..2 {
        let mut v1 = boot_with("v1", socket.clone(), 1, true, 1)?;
        v1.wait_ready(BOOT)?;
        address(&mut v1, "eth0", 1)?;
        ping(&mut v1, "10.0.0.2")?;
        transfer(&mut v1, &mut v2, "10.0.0.2", 20_000_000, 1 + round)?;
        transfer(&mut v2, &mut v1, "fd00::1", 20_000_000, 3 + round)?;
        ensure!(net.port("v1")?.connected, "the port tells so");
        v1.kill()?;
        net.switch.wait_log("vNIC v1: the VMM has gone", SHORT)?;
        // What QEMU left there is nobody's.
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
    }
    let connected = net.switch.log().matches("vNIC v1: a VMM connected").count();
    ensure!(connected == 2, "one connection for each VMM, not {connected}: {}", net.switch.log());
    net.finish()
}

/// A card with two queue pairs: both carry traffic in both directions.
#[test]
fn two_queue_pairs() -> Result<()> {
    let _alone = alone();
    let tables = portgroup("Production", "10")
        + &vnic("v1", "Production", "virtio", 1)
        + "queues = 2\n"
        + &vnic("v2", "Production", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let nic =
        Nic::VhostUser { socket: net.switch.socket("v1"), mac: "00:50:56:00:00:01".into(), listens: false, queues: 2 };
    let spec = GuestSpec { extra_args: vec!["-smp".into(), "2".into()], ..GuestSpec::new("v1").nic(nic) };
    let mut v1 = Guest::boot(spec)?;
    let mut v2 = spawn(&net, "v2", "v2", 2)?;
    for (guest, number) in [(&mut v1, 1), (&mut v2, 2)] {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    let channels = v1.sh_ok("ethtool -L eth0 combined 2; ethtool -l eth0", SHORT)?;
    ensure!(channels.matches("Combined:").count() == 2 && channels.matches("\t2").count() == 2, "{channels}");
    ping(&mut v1, "10.0.0.2")?;
    // Each processor has its own transmit queue.
    transfer(&mut v1, &mut v2, "10.0.0.2", 20_000_000, 1)?;
    for processor in [1u8, 2] {
        let to_v2 = format!("taskset {processor} guest-tool udpflood 10.0.0.2 9 2000 1000");
        v1.sh_ok(&to_v2, SHORT)?;
    }
    // Flows of different ports, so both receive queues get some.
    for seed in 2..10 {
        transfer(&mut v2, &mut v1, "10.0.0.1", 1_000_000, seed)?;
    }
    let interrupts = v1.sh_ok("grep -E 'virtio.*(input|output)' /proc/interrupts", SHORT)?;
    let fired = |queue: &str| {
        let line = interrupts.lines().find(|l| l.contains(queue));
        line.is_some_and(|l| l.split_whitespace().skip(1).take(2).any(|n| n != "0"))
    };
    for queue in ["input.0", "input.1", "output.0", "output.1"] {
        ensure!(fired(queue), "{queue} was in use: {interrupts}");
    }
    net.finish()
}
