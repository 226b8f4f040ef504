//! What Linux's own vmxnet3 driver finds in its queues, as many as the card has: where frames lie, what it is told of their
//! checksums and hashes, which queue a flow goes to. By the guest kernel's own trace and counters, beside the switch's.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::packet::Packet;
use common::seen::Seen;
use common::{BOOT, Net, SHORT, TRANSFER, address, alone, digest, ping, port, portgroup, report, tool, transfer, vnic};
use testbed::netns::{Host, Lab, RawSocket, wait_until};
use testbed::qemu::{Guest, GuestSpec, Job, Nic};
use wire::ip::{TCP, UDP};

/// Queues of the card, each way: a guest of so many processors as the larger number has them all.
const QUEUES: (usize, usize) = (8, 16);
/// Different flows of one kind.
const FLOWS: usize = 64;
/// UDP port with a listener, and one that datagrams come from.
const LISTENED: u16 = 7000;
const PORTS: (u16, u16) = (6000, LISTENED);
/// Where the guest's kernel says what its driver hands it.
const TRACE: &str = "/sys/kernel/tracing";
/// Kinds of frame: over IPv6 or not, TCP or UDP.
const KINDS: [(bool, u8); 4] = [(false, UDP), (true, UDP), (false, TCP), (true, TCP)];

/// A guest with all queues, another guest, and a namespace on a tap port, that also sends any frame.
struct Site {
    many: Guest,
    peer: Guest,
    raw: RawSocket,
    host: Host,
    net: Net,
    _lab: Lab,
}

impl Site {
    fn build() -> Result<Site> {
        let lab = Lab::new("stock")?;
        let (machine, host) = (lab.host("sw")?, lab.host("a")?);
        let tables = portgroup("Red", "10")
            + &vnic("many", "Red", "vmxnet3", 1)
            + &vnic("peer", "Red", "vmxnet3", 2)
            + &vnic("tap", "Red", "tap", 3)
            + "device = \"tap0\"\n";
        let net = Net::start(Some(machine.namespace()), "workers = [0, 1]\nidle = \"adaptive\"", &tables)?;
        let boot = |name: &str, processors: usize| {
            let spec = GuestSpec::new(name).nic(Nic::VfioUser { socket: net.switch.socket(name) });
            Guest::boot(GuestSpec { extra_args: vec!["-smp".into(), processors.to_string()], ..spec })
        };
        let (mut many, mut peer) = (boot("many", QUEUES.1)?, boot("peer", 1)?);
        machine.ip(&format!("link set dev tap0 netns {} name eth0", host.namespace()))?;
        host.address("eth0", "10.0.0.3/24")?;
        host.address("eth0", "fd00::3/64")?;
        host.ip("link set dev eth0 up")?;
        for (guest, number) in [(&mut many, 1), (&mut peer, 2)] {
            guest.wait_ready(BOOT)?;
            address(guest, "eth0", number)?;
        }
        for address in ["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"] {
            ping(&mut many, address)?;
        }
        let events = "for event in netif_receive_skb_entry napi_gro_receive_entry; do echo 1 >$event/enable; done";
        many.sh_ok(&format!("mount -t tracefs trace {TRACE} && cd {TRACE}/events/net && {events}"), SHORT)?;
        let raw = host.raw("eth0")?;
        Ok(Site { many, peer, raw, host, net, _lab: lab })
    }

    /// What the driver hands over of IP packets of `len` bytes while `work` is done: `count` of them.
    fn watch(&mut self, len: usize, count: usize, work: impl FnOnce(&mut Site) -> Result<()>) -> Result<Vec<Seen>> {
        self.many.sh_ok(&format!("echo >{TRACE}/trace"), SHORT)?;
        work(self)?;
        let deadline = Instant::now() + SHORT;
        loop {
            let mut mine = self.seen()?;
            mine.retain(|s| s.len == len && [0x800, 0x86dd].contains(&s.protocol));
            match mine.len() {
                found if found == count => return Ok(mine),
                found if found > count || Instant::now() > deadline => {
                    bail!("{found} packets of {len} bytes in place of {count}: {mine:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// All frames since the trace was cleared.
    fn seen(&mut self) -> Result<Vec<Seen>> {
        let text = self.many.sh_ok(&format!("grep ' dev=eth0 ' {TRACE}/trace || true"), SHORT)?;
        text.lines().map(|line| Seen::parse(line).with_context(|| format!("a traced frame: {line}"))).collect()
    }

    /// Counts so many datagrams in the guest, once it can.
    fn listen(&mut self, count: usize) -> Result<Job> {
        let job = self.many.start(&format!("guest-tool udprecv {LISTENED} {count} 20000"))?;
        self.many.sh_ok(&format!("until grep -q ':{LISTENED:04X} ' /proc/net/udp6; do sleep 0.05; done"), SHORT)?;
        Ok(job)
    }

    /// Sends frames from the namespace as they are.
    fn inject(&mut self, packets: &[Packet]) -> Result<()> {
        packets.iter().try_for_each(|packet| Ok(self.raw.send(&packet.frame())?))
    }

    /// A counter of each queue, in order, from `ethtool -S`.
    fn counters(&mut self, name: &str) -> Result<Vec<u64>> {
        let text = self.many.sh_ok("ethtool -S eth0", SHORT)?;
        let values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        values.map(|v| v.parse().with_context(|| format!("{name}: {v}"))).collect()
    }

    /// Frames of all classes by receive queue, as the driver tells.
    fn received(&mut self) -> Result<Vec<u64>> {
        let mut sums = vec![0; QUEUES.1];
        for class in ["ucast", "mcast", "bcast"] {
            let counts = self.counters(&format!("{class} pkts rx"))?;
            ensure!(counts.len() == QUEUES.1, "a count for each queue: {counts:?}");
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        Ok(sums)
    }

    /// The guest's own count of frames in its queues is the switch's of frames out of it.
    fn both_count_the_same(&mut self) -> Result<()> {
        let deadline = Instant::now() + SHORT;
        loop {
            // Multicast may come in between at any time.
            let (guest, switch): (u64, u64) = (self.received()?.iter().sum(), self.net.port("many")?.output.frames);
            if guest == switch {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{guest} frames by the guest's count, {switch} by the switch's");
        }
    }

    /// What the guest's kernel counted: UDP datagrams taken, wrong sums of UDP, wrong sums of TCP.
    fn kernel(&mut self) -> Result<[u64; 3]> {
        let four = self.many.sh_ok("cat /proc/net/snmp", SHORT)?;
        let six = self.many.sh_ok("cat /proc/net/snmp6", SHORT)?;
        let old = |group: &str, name: &str| -> Result<u64> {
            let mut rows = four.lines().filter_map(|l| l.strip_prefix(group)).map(str::split_whitespace);
            let (mut names, mut values) = rows.next().zip(rows.next()).context("two lines of a group")?;
            let at = names.position(|n| n == name).with_context(|| format!("no {name}"))?;
            Ok(values.nth(at).with_context(|| format!("no value of {name}"))?.parse()?)
        };
        let new = |name: &str| -> Result<u64> {
            let mut values = six.lines().filter_map(|l| l.strip_prefix(name)).map(str::trim);
            Ok(values.next().with_context(|| format!("no {name}"))?.parse()?)
        };
        let udp = |name: &str| Ok::<u64, anyhow::Error>(old("Udp: ", name)? + new(&format!("Udp6{name} "))?);
        Ok([udp("InDatagrams")?, udp("InCsumErrors")?, old("Tcp: ", "InCsumErrors")?])
    }
}

/// [`FLOWS`] of a kind, two packets of each; their ports are no run, whose hashes would be alike.
fn flows(kind: (bool, u8), payload: usize) -> Vec<Packet> {
    let port = |n: usize, factor: usize| (n * factor % 50_000 + 10_000) as u16;
    let flow = |n: usize| Packet::new(kind, (port(n, 40_503), port(n, 30_011)), payload);
    (0..2 * FLOWS).map(|n| flow(n % FLOWS)).collect()
}

/// Frames that fit an entry of the data ring lie there, and the kernel gets them in as little memory; by either lane of the
/// switch, and for whatever size the driver asks. What is in them is what was sent: the kernel sums them.
fn short_frames(site: &mut Site) -> Result<()> {
    let size = |site: &mut Site| -> Result<Option<usize>> {
        let text = site.many.sh_ok("ethtool -g eth0", SHORT)?;
        let last = text.lines().filter_map(|l| l.strip_prefix("RX Mini:")).next_back().context("no mini ring")?;
        Ok(last.trim().parse().ok())
    };
    // Bytes of an entry; frames, and whether they fit one. The first is what the driver has by itself.
    let cases = [(128, [(60, true), (128, true), (129, false)]), (512, [(129, true), (512, true), (513, false)])];
    for (entry, frames) in cases {
        if entry != 128 {
            site.many.sh_ok(&format!("ethtool -G eth0 rx-mini {entry}"), SHORT)?;
        }
        ensure!(size(site)? == Some(entry), "the driver has a data ring, its entries of {entry} bytes");
        ping(&mut site.many, "10.0.0.3")?;
        let job = site.listen(60)?;
        let (before, mut memory) = (site.kernel()?, Vec::new());
        for (bytes, fits) in frames {
            let packet = Packet::new((false, UDP), PORTS, bytes - 42);
            let plain = site.watch(packet.len(), 10, |site| site.inject(&[packet; 10]))?;
            let summed = site.watch(packet.len(), 10, |site| {
                let payload = (bytes - 42).to_string();
                let words = ["udpflood", "10.0.0.1", &LISTENED.to_string(), "10", &payload];
                report(tool(&site.host, &words)?).map(drop)
            })?;
            let as_told = plain.iter().all(|s| s.summed == 0) && summed.iter().all(|s| s.summed == 1);
            ensure!(as_told, "{plain:?} {summed:?}");
            memory.push((bytes, fits, plain.iter().chain(&summed).map(|s| s.memory).collect::<Vec<_>>()));
        }
        println!("memory of frames beside entries of {entry} bytes: {memory:?}");
        let of = |fits| memory.iter().filter(move |m| m.1 == fits).flat_map(|m| &m.2).copied();
        let (short, long) = (of(true).max().context("short ones")?, of(false).min().context("long ones")?);
        ensure!(short + 256 <= long, "short frames are in less memory: {memory:?}");
        let received = site.many.wait(job, SHORT)?;
        ensure!(received.text.contains("received 60 "), "{}", received.text);
        let after = site.kernel()?;
        ensure!((after[0] - before[0], after[1]) == (60, before[1]), "{before:?} {after:?}");
    }
    site.both_count_the_same()
}

/// Sums that the sender left to the switch the kernel takes as good; told to sum by itself, it finds them good. A right sum
/// that nobody verified it verifies, and a wrong one costs the frame.
fn verdicts(site: &mut Site) -> Result<()> {
    // From a guest and from a namespace, neither of which sums.
    for (payload, told) in [(300, 1), (301, 0)] {
        site.many.sh_ok(&format!("ethtool -K eth0 rx {}", if told == 1 { "on" } else { "off" }), SHORT)?;
        ping(&mut site.many, "10.0.0.3")?;
        ping(&mut site.peer, "10.0.0.1")?;
        let before = site.kernel()?;
        for (address, headers) in [("10.0.0.1", 28), ("fd00::1", 48)] {
            let job = site.listen(20)?;
            let words = ["udpflood", address, &LISTENED.to_string(), "10", &payload.to_string()];
            let seen = site.watch(headers + payload, 20, |site| {
                site.peer.sh_ok(&format!("guest-tool {}", words.join(" ")), SHORT)?;
                report(tool(&site.host, &words)?).map(drop)
            })?;
            ensure!(seen.iter().all(|s| s.summed == told), "{address}: {seen:?}");
            let received = site.many.wait(job, SHORT)?;
            ensure!(received.text.contains("received 20 "), "{}", received.text);
        }
        for (seed, address) in [(1, "10.0.0.1"), (2, "fd00::1")] {
            site.many.sh_ok(&format!("echo >{TRACE}/trace"), SHORT)?;
            transfer(&mut site.peer, &mut site.many, address, 500_000, seed)?;
            let seen: Vec<Seen> = site.seen()?.into_iter().filter(|s| s.len > 1000).collect();
            ensure!(seen.len() > 5 && seen.iter().all(|s| s.summed == told), "{address}: {seen:?}");
        }
        let after = site.kernel()?;
        ensure!(after == [before[0] + 40, before[1], before[2]], "right whoever summed them: {before:?} {after:?}");
    }
    site.many.sh_ok("ethtool -K eth0 rx on", SHORT)?;
    ping(&mut site.many, "10.0.0.3")?;
    for kind in KINDS {
        let (udp, before) = (kind.1 == UDP, site.kernel()?);
        let job = if udp { Some(site.listen(10)?) } else { None };
        let right = Packet::new(kind, PORTS, 200);
        // A wrong one is seen before the right one after it is.
        let pair = [Packet { right: false, ..right }, right];
        let seen = site.watch(right.len(), 20, |site| site.inject(&[pair; 10].concat()))?;
        ensure!(seen.iter().all(|s| s.summed == 0), "nothing is claimed that nobody verified: {seen:?}");
        if let Some(job) = job {
            let received = site.many.wait(job, SHORT)?.text;
            ensure!(received.starts_with("received 10 "), "{received}");
        }
        let after = site.kernel()?;
        let counted = [0, 1, 2].map(|n| after[n] - before[n]);
        println!("{kind:?}: of ten right and ten wrong {counted:?}: taken, wrong UDP, wrong TCP");
        ensure!(counted == if udp { [10, 10, 0] } else { [0, 0, 10] }, "{kind:?}: {counted:?}");
    }
    site.both_count_the_same()
}

/// The queues of frames that a hash was told of; each is where the table has it.
fn spread(site: &mut Site, kind: (bool, u8), payload: usize) -> Result<Vec<usize>> {
    let text = site.many.sh_ok("ethtool -x eth0", SHORT)?;
    let rows = text.lines().filter_map(|l| l.split_once(':')).filter(|(at, _)| at.trim().parse::<u32>().is_ok());
    let table: Vec<usize> = rows.flat_map(|(_, row)| row.split_whitespace().flat_map(str::parse)).collect();
    ensure!(table.len() >= QUEUES.1 && table.len().is_power_of_two(), "a table: {text}");
    let (before, packets) = (site.received()?, flows(kind, payload));
    let seen = site.watch(packets[0].len(), packets.len(), |site| site.inject(&packets))?;
    let (mut queues, mut hashes) = (vec![0; QUEUES.1], BTreeMap::new());
    for frame in &seen {
        ensure!(frame.queue == table[frame.hash % table.len()], "the table has another queue: {frame:?} {text}");
        queues[frame.queue] += 1;
        *hashes.entry((frame.ports, frame.hash)).or_insert(0) += 1;
    }
    let after = site.received()?;
    let counted = after.iter().zip(&before).map(|(a, b)| (a - b) as usize);
    ensure!(counted.clone().zip(&queues).all(|(all, mine)| all >= *mine), "{queues:?} by trace, {before:?} {after:?}");
    println!("{kind:?}: by queue {queues:?}, {} hashes", hashes.len());
    let alike = hashes.iter().all(|((ports, hash), n)| if *ports { *n == 2 } else { *hash != 0 && *n == 2 * FLOWS });
    ensure!(alike, "one hash for each flow, or for the addresses: {hashes:?}");
    Ok(queues)
}

/// Flows spread by addresses and ports, IPv6's as IPv4's, as far as the driver asks for it.
fn hashes(site: &mut Site) -> Result<()> {
    let busy = |queues: &[usize]| queues.iter().filter(|n| **n > 0).count();
    for (n, kind) in KINDS.into_iter().enumerate() {
        let family = if kind.0 { "udp6" } else { "udp4" };
        if kind.1 == UDP {
            let queues = spread(site, kind, 400 + n)?;
            ensure!(busy(&queues) == 1, "{kind:?}: addresses only by default: {queues:?}");
            site.many.sh_ok(&format!("ethtool -N eth0 rx-flow-hash {family} sdfn"), SHORT)?;
        }
        let queues = spread(site, kind, 500 + n)?;
        ensure!(busy(&queues) >= 5, "{kind:?}: {queues:?}");
    }
    // A kernel's own conversations over IPv6.
    let before = site.counters("ucast pkts rx")?;
    let receivers = (0..16).map(|n| site.many.start(&format!("guest-tool recv {} 100000", 5100 + n)));
    let receivers = receivers.collect::<Result<Vec<_>>>()?;
    for (n, receiver) in receivers.into_iter().enumerate() {
        let sent = report(tool(&site.host, &["send", "fd00::1", &(5100 + n).to_string(), "100000", "1"])?)?;
        let received = site.many.wait(receiver, TRANSFER)?;
        ensure!(digest(&sent)? == digest(&received.text)?, "sent {sent} received {}", received.text);
    }
    let got: Vec<u64> = site.counters("ucast pkts rx")?.iter().zip(before).map(|(a, b)| a - b).collect();
    println!("sixteen conversations over IPv6, frames by queue: {got:?}");
    ensure!(got.iter().filter(|n| **n > 2).count() >= 3, "{got:?}");
    site.both_count_the_same()
}

/// Interrupts of the vectors whose names start with `name`, over all processors.
fn interrupts(guest: &mut Guest, name: &str) -> Result<Vec<u64>> {
    let text = guest.sh_ok(&format!("grep {name} /proc/interrupts"), SHORT)?;
    Ok(text.lines().map(|line| line.split_whitespace().filter_map(|w| w.parse::<u64>().ok()).sum()).collect())
}

/// Each queue carries frames, one by one, and raises its own vector.
fn queues(site: &mut Site) -> Result<()> {
    let channels = site.many.sh_ok("ethtool -l eth0", SHORT)?;
    let now = channels.split("Current").nth(1).context("what is in force")?;
    let has = |what: &str| now.lines().any(|l| l.split_whitespace().eq(what.split(' ')));
    ensure!(has(&format!("TX: {}", QUEUES.0)) && has(&format!("RX: {}", QUEUES.1)), "{channels}");
    for queue in 0..QUEUES.1 {
        let weights: Vec<&str> = (0..QUEUES.1).map(|n| if n == queue { "1" } else { "0" }).collect();
        site.many.sh_ok(&format!("ethtool -X eth0 weight {}", weights.join(" ")), SHORT)?;
        let raised = interrupts(&mut site.many, "eth0-rx-")?;
        let packets = flows((true, TCP), 600 + queue);
        let seen = site.watch(packets[0].len(), packets.len(), |site| site.inject(&packets))?;
        ensure!(seen.iter().all(|s| s.queue == queue), "all go to queue {queue}: {seen:?}");
        let after = interrupts(&mut site.many, "eth0-rx-")?;
        ensure!(raised.len() == QUEUES.1 && after[queue] > raised[queue], "queue {queue}: {raised:?} {after:?}");
    }
    site.many.sh_ok("ethtool -X eth0 default", SHORT)?;

    // Each processor has a queue to send by.
    let (before, frames) = (site.counters("ucast pkts tx")?, site.net.port("many")?.input.frames);
    let raised = interrupts(&mut site.many, "eth0-tx-")?;
    let all = (100 * QUEUES.0).to_string();
    let receiver = tool(&site.host, &["udprecv", &LISTENED.to_string(), &all, "20000"])?;
    let bound = format!(":{LISTENED:04X} ");
    let listens = || site.host.exec("cat /proc/net/udp6").is_ok_and(|o| o.stdout.contains(&bound));
    wait_until("the namespace listens", SHORT, listens)?;
    for queue in 0..QUEUES.0 {
        let set = format!("echo {:x} >/sys/class/net/eth0/queues/tx-{queue}/xps_cpus", 1 << queue);
        let flood = format!("guest-tool udpflood fd00::3 {LISTENED} 100 200");
        site.many.sh_ok(&format!("{set} && taskset {:x} {flood}", 1 << queue), SHORT)?;
    }
    let received = report(receiver)?;
    ensure!(received.starts_with(&format!("received {all} ")), "{received}");
    let after = site.counters("ucast pkts tx")?;
    let sent: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    println!("sent by queue {sent:?}");
    ensure!(sent.len() == QUEUES.0 && sent.iter().all(|n| (100..200).contains(n)), "a hundred by each: {sent:?}");
    let counted = site.net.port("many")?.input.frames - frames;
    ensure!(counted >= sent.iter().sum(), "{counted} by the switch, {sent:?}");
    let after = interrupts(&mut site.many, "eth0-tx-")?;
    let more = after.iter().zip(&raised).all(|(a, b)| a > b);
    ensure!(raised.len() == QUEUES.0 && more, "each TX queue raised its vector: {raised:?} {after:?}");
    site.both_count_the_same()
}

/// One boot of the guest with all queues: each part says what it is about.
#[test]
fn what_the_stock_driver_is_told() -> Result<()> {
    let _alone = alone();
    let mut site = Site::build()?;
    short_frames(&mut site).context("short frames")?;
    verdicts(&mut site).context("checksums")?;
    hashes(&mut site).context("hashes")?;
    queues(&mut site).context("queues")?;
    let drops = port(&site.net.sums()?, "many")?.drops.clone();
    ensure!(["ring-full", "bad-descriptor", "oversize"].iter().all(|why| !drops.contains_key(*why)), "{drops:?}");
    site.net.finish()
}
