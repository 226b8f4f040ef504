//! Several queues and large segments, seen by the stock driver in real guests with several processors.

mod common;

use anyhow::{Context, Result, ensure};
use common::{BOOT, Net, SHORT, TRANSFER, address, alone, digest, ping, port, portgroup, transfer, vnic};
use testbed::qemu::{Guest, GuestSpec, Nic};

/// TCP flows at a time: with a random key all of them on one of three queues is one chance in fourteen million.
const FLOWS: u64 = 16;

/// Two workers: a port's queues are spread over them.
const TWO_WORKERS: &str = "workers = [0, 1]\nidle = \"adaptive\"";

fn net(keys: &str) -> Result<Net> {
    let tables = portgroup("Production", "10")
        + &vnic("many", "Production", "vmxnet3", 1)
        + &vnic("peer", "Production", "vmxnet3", 2);
    Net::start(None, keys, &tables)
}

/// Boots a guest of so many processors for each named vNIC.
fn boot(net: &Net, guests: &[(&str, usize)]) -> Result<Vec<Guest>> {
    let spawn = |(name, processors): &(&str, usize)| {
        let spec = GuestSpec::new(name).nic(Nic::VfioUser { socket: net.switch.socket(name) });
        Guest::boot(GuestSpec { extra_args: vec!["-smp".into(), processors.to_string()], ..spec })
    };
    let mut guests = guests.iter().map(spawn).collect::<Result<Vec<_>>>()?;
    for (guest, number) in guests.iter_mut().zip(1..) {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    Ok(guests)
}

/// A counter of each queue, in order, from `ethtool -S`: its lines named `name`.
fn counters(guest: &mut Guest, name: &str) -> Result<Vec<u64>> {
    let text = guest.sh_ok("ethtool -S eth0", SHORT)?;
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    values.map(|v| v.parse().with_context(|| format!("{name}: {v}"))).collect()
}

/// What was counted since `before`.
fn since(after: Vec<u64>, before: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(a, b)| a - b).collect()
}

/// Interrupts of each queue's vector, over all processors.
fn interrupts(guest: &mut Guest) -> Result<Vec<u64>> {
    let text = guest.sh_ok("grep eth0-rxtx /proc/interrupts", SHORT)?;
    Ok(text.lines().map(|line| line.split_whitespace().filter_map(|w| w.parse::<u64>().ok()).sum()).collect())
}

/// [`FLOWS`] transfers at once from `from` to `to`, digests compared.
fn flows(from: &mut Guest, to: &mut Guest, host: &str, bytes: u64) -> Result<()> {
    let receivers = (1..=FLOWS).map(|n| to.start(&format!("guest-tool recv {} {bytes}", 5000 + n)));
    let receivers = receivers.collect::<Result<Vec<_>>>()?;
    let senders = (1..=FLOWS).map(|n| from.start(&format!("guest-tool send {host} {} {bytes} {n}", 5000 + n)));
    let senders = senders.collect::<Result<Vec<_>>>()?;
    for (sender, receiver) in senders.into_iter().zip(receivers) {
        let (sent, received) = (from.wait(sender, TRANSFER)?, to.wait(receiver, TRANSFER)?);
        ensure!(sent.status == 0 && received.status == 0, "send: {} recv: {}", sent.text, received.text);
        ensure!(digest(&sent.text)? == digest(&received.text)?, "sent {}received {}", sent.text, received.text);
    }
    Ok(())
}

/// A guest of three processors has three queues each way; flows spread over them by the driver's key and table, each
/// with its interrupts; and a new table is obeyed.
#[test]
fn flows_spread_over_the_queues_of_a_guest() -> Result<()> {
    let _alone = alone();
    let net = net(TWO_WORKERS)?;
    let mut guests = boot(&net, &[("many", 3), ("peer", 2)])?;
    let [many, peer] = &mut guests[..] else { unreachable!("two were booted") };
    ping(many, "10.0.0.2")?;
    let channels = many.sh_ok("ethtool -l eth0", SHORT)?;
    ensure!(channels.contains("Combined:\t3") || channels.matches("3").count() >= 2, "three queues: {channels}");
    let table = many.sh_ok("ethtool -x eth0", SHORT)?;
    ensure!(table.contains("with 3 RX ring(s)"), "a table for three queues: {table}");

    let (rx, tx, raised) = (counters(many, "ucast pkts rx")?, counters(many, "ucast pkts tx")?, interrupts(many)?);
    ensure!((rx.len(), tx.len(), raised.len()) == (3, 3, 3), "{rx:?} {tx:?} {raised:?}");
    flows(peer, many, "10.0.0.1", 4_000_000)?;
    flows(many, peer, "fd00::2", 4_000_000)?;
    let got = since(counters(many, "ucast pkts rx")?, &rx);
    let sent = since(counters(many, "ucast pkts tx")?, &tx);
    let raised = since(interrupts(many)?, &raised);
    println!("frames received by queue {got:?}, sent {sent:?}, interrupts {raised:?}");
    let busy = |counts: &[u64]| counts.iter().filter(|n| **n > 50).count();
    ensure!(busy(&got) >= 2, "several queues received: {got:?}");
    ensure!(busy(&sent) >= 2, "several queues sent: {sent:?}");
    ensure!(raised.iter().filter(|n| **n > 10).count() >= 2, "several vectors were raised: {raised:?}");

    many.sh_ok("ethtool -X eth0 weight 0 0 1", SHORT)?;
    let rx = counters(many, "ucast pkts rx")?;
    flows(peer, many, "10.0.0.1", 1_000_000)?;
    let got = since(counters(many, "ucast pkts rx")?, &rx);
    ensure!(got[2] > 50 && got[0] + got[1] < 50, "all but what has no address goes to the third: {got:?}");
    net.finish()
}

/// What of UDP is hashed, and how interrupts are moderated, is the guest's choice.
#[test]
fn the_driver_sets_fields_and_moderation() -> Result<()> {
    let _alone = alone();
    let net = net("")?;
    let mut guests = boot(&net, &[("many", 2), ("peer", 1)])?;
    let [many, peer] = &mut guests[..] else { unreachable!("two were booted") };
    ping(many, "10.0.0.2")?;
    let hashed = |guest: &mut Guest| guest.sh_ok("ethtool -n eth0 rx-flow-hash udp4", SHORT);
    ensure!(!hashed(many)?.contains("L4 bytes"), "addresses only by default");
    many.sh_ok("ethtool -N eth0 rx-flow-hash udp4 sdfn", SHORT)?;
    ensure!(hashed(many)?.contains("L4 bytes 0 & 1"), "ports as well, as asked");
    let rx = counters(many, "ucast pkts rx")?;
    for port in 0..16 {
        peer.sh_ok(&format!("guest-tool udpflood 10.0.0.1 {} 100 200 5000", 9000 + port), SHORT)?;
    }
    let got = since(counters(many, "ucast pkts rx")?, &rx);
    ensure!(got.iter().all(|n| *n > 50), "datagrams to sixteen ports spread over both: {got:?}");

    let scheme = many.sh_ok("ethtool -c eth0", SHORT)?;
    ensure!(scheme.contains("Adaptive RX: on"), "adaptive by default: {scheme}");
    many.sh_ok("ethtool -C eth0 adaptive-rx off rx-usecs 10000", SHORT)?;
    ping(many, "10.0.0.2")?;
    let quiet = interrupts(many)?;
    peer.sh_ok("guest-tool udpflood 10.0.0.1 9 4000 200 4000", SHORT)?;
    let quiet: u64 = since(interrupts(many)?, &quiet).iter().sum();
    println!("{quiet} interrupts for 4000 datagrams in a second, at most one in ten milliseconds asked for");
    ensure!(quiet < 2000, "held back: {quiet} interrupts for 4000 datagrams");
    many.sh_ok("ethtool -C eth0 adaptive-rx off rx-usecs 0 rx-frames 32", SHORT)?;
    ping(many, "10.0.0.2")?;
    transfer(peer, many, "10.0.0.1", 20_000_000, 1)?;
    net.finish()
}

/// Mean bytes of the IP packets a guest's stack took in while `work` was done.
fn mean_packet(guest: &mut Guest, work: impl FnOnce(&mut Guest) -> Result<()>) -> Result<u64> {
    let look = |guest: &mut Guest| -> Result<(u64, u64)> {
        let column = |guest: &mut Guest, file: &str, group: &str, name: &str| -> Result<u64> {
            let text = guest.sh_ok(&format!("grep '^{group}:' {file}"), SHORT)?;
            let mut lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
            let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            let at = names.iter().position(|n| *n == name).with_context(|| format!("no {name} in {text}"))?;
            Ok(values.get(at).with_context(|| format!("no value for {name}"))?.parse()?)
        };
        let packets = column(guest, "/proc/net/snmp", "Ip", "InReceives")?;
        Ok((column(guest, "/proc/net/netstat", "IpExt", "InOctets")?, packets))
    };
    let before = look(guest)?;
    work(guest)?;
    let after = look(guest)?;
    Ok((after.0 - before.0) / (after.1 - before.1).max(1))
}

/// A receiver whose driver has LRO on gets a sender's large segments whole; without it they are cut to the wire's size.
#[test]
fn large_segments_arrive_whole() -> Result<()> {
    let _alone = alone();
    let net = net("")?;
    let mut guests = boot(&net, &[("many", 2), ("peer", 1)])?;
    let [many, peer] = &mut guests[..] else { unreachable!("two were booted") };
    ping(many, "10.0.0.2")?;
    // What the kernel itself puts together would look the same.
    many.sh_ok("ethtool -K eth0 gro off lro on", SHORT)?;
    let whole = mean_packet(many, |many| transfer(peer, many, "10.0.0.1", 50_000_000, 1))?;
    let large: u64 = counters(many, "LRO pkts rx")?.iter().sum();
    let cut = port(&net.sums()?, "many")?.output.segments;
    println!("mean packet {whole} bytes, {large} large segments");
    ensure!(whole > 4000 && large > 100, "packets of {whole} bytes, {large} large segments");
    transfer(peer, many, "fd00::1", 20_000_000, 2)?;
    ensure!(port(&net.sums()?, "many")?.output.segments == cut, "nothing is cut for a guest that takes it whole");

    many.sh_ok("ethtool -K eth0 lro off", SHORT)?;
    let cut = mean_packet(many, |many| transfer(peer, many, "10.0.0.1", 20_000_000, 3))?;
    ensure!(cut <= 1500, "packets of the wire's size: {cut}");
    ensure!(port(&net.sums()?, "many")?.output.segments > 1000, "cut by the switch");
    net.finish()
}
