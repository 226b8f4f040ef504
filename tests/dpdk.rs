//! DPDK's virtio-user, as Debian installs it, on the switch's vhost-user sockets: `dpdk-testpmd` sends and receives.

mod common;
#[path = "../sharedmem/tests/huge/mod.rs"]
mod huge;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{Net, SHORT, alone, port, portgroup, vnic};
use huge::HugePages;

/// Huge pages of one testpmd.
const PAGES: u64 = 32;
/// Memory on huge pages, in one file: the protocol has room for eight, and testpmd would take one for each page.
const HUGE: &[&str] = &["--in-memory", "--single-file-segments", "-m", "64"];
/// Memory on ordinary pages, a memfd.
const SMALL: &[&str] = &["--no-shconf", "--no-huge", "-m", "64"];
/// What one burst of testpmd is.
const BURST: u64 = 32;

/// A running testpmd with one virtio-user port; killed on drop.
struct Testpmd {
    child: Child,
    log: PathBuf,
    /// Commands so far.
    told: usize,
}

/// How a testpmd is started.
struct Options<'a> {
    /// How its memory is made.
    memory: &'a [&'a str],
    /// Last byte of its address 00:50:56:00:00:NN, and of that of its peer.
    last: [u8; 2],
    /// More options of the device, with a comma before each.
    device: &'a str,
    /// More options of the program.
    more: &'a [&'a str],
}

impl Testpmd {
    /// Starts one on `socket` and waits until it takes commands. It polls on any processor, its console likewise.
    fn start(dir: &Path, name: &str, socket: &Path, options: &Options<'_>) -> Result<Testpmd> {
        let mut testpmd = Testpmd::spawn(dir, name, socket, options)?;
        testpmd.wait_prompt()?;
        testpmd.tell(&format!("set eth-peer 0 00:50:56:00:00:{:02x}", options.last[1]))?;
        testpmd.tell("set fwd rxonly")?;
        Ok(testpmd)
    }

    fn spawn(dir: &Path, name: &str, socket: &Path, options: &Options<'_>) -> Result<Testpmd> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log)?;
        let cpus = std::thread::available_parallelism()?.get();
        let lcores = format!("--lcores=0@(0-{0}),1@(0-{0})", cpus - 1);
        let mac = format!("mac=00:50:56:00:00:{:02x}", options.last[0]);
        let device = format!("--vdev=net_virtio_user0,path={},{mac}{}", socket.display(), options.device);
        // Ended by the kernel with us, however we end; and what it prints is to be read as it prints it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "stdbuf", "-oL", "dpdk-testpmd", "--no-pci", &lcores]);
        command.args(options.memory).args([&device, "--", "-i", "--nb-cores=1", "--total-num-mbufs=4096"]);
        command.args(options.more).stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().context("starting dpdk-testpmd, of the package dpdk-dev")?;
        Ok(Testpmd { child, log, told: 0 })
    }

    /// What it printed.
    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether its rings are packed (virtio 1.2, feature bit 34).
    fn packed(&self) -> Result<bool> {
        let text = self.text();
        let (_, after) = text.rsplit_once("features after negotiate = ").context("it tells its features")?;
        let digits = after.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or("");
        Ok(u64::from_str_radix(digits, 16)? >> 34 & 1 != 0)
    }

    /// The last lines of it.
    fn last_lines(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Waits until it has asked for commands once more than it was given some.
    fn wait_prompt(&mut self) -> Result<()> {
        let deadline = Instant::now() + SHORT;
        while self.text().matches("testpmd> ").count() <= self.told {
            if let Some(status) = self.child.try_wait()? {
                bail!("testpmd ended ({status}):\n{}", self.last_lines());
            }
            ensure!(Instant::now() < deadline, "testpmd does not get on:\n{}", self.last_lines());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn write(&mut self, command: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("it has a console")?;
        writeln!(input, "{command}").with_context(|| format!("telling testpmd {command:?}"))
    }

    /// Has it carry out one command; returns what it printed meanwhile.
    fn tell(&mut self, command: &str) -> Result<String> {
        let before = self.text().len();
        self.write(command)?;
        self.told += 1;
        self.wait_prompt()?;
        Ok(self.text()[before..].to_owned())
    }

    /// Stops, and forgets what it counted.
    fn rest(&mut self) -> Result<()> {
        self.tell("stop")?;
        self.tell("clear port stats 0")?;
        self.tell("clear port xstats 0").map(drop)
    }

    /// The value of a counter: `TX-packets`, or one of those by queue.
    fn count(&mut self, name: &str) -> Result<u64> {
        let kind = if name.contains('_') { "xstats" } else { "stats" };
        let text = self.tell(&format!("show port {kind} 0"))?;
        let number = text.split_once(&format!("{name}: ")).and_then(|(_, rest)| rest.split_whitespace().next());
        number.and_then(|n| n.parse().ok()).with_context(|| format!("no {name} in {text}"))
    }

    /// What it has received, once that are as many frames as `wanted`, or after a while.
    fn received(&mut self, wanted: u64) -> Result<u64> {
        let deadline = Instant::now() + SHORT;
        loop {
            let received = self.count("RX-packets")?;
            if received >= wanted || Instant::now() > deadline {
                return Ok(received);
            }
        }
    }

    /// Ends it as a user does.
    fn quit(mut self) -> Result<()> {
        self.write("stop")?;
        self.write("quit")?;
        let deadline = Instant::now() + SHORT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "testpmd does not end:\n{}", self.last_lines());
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "testpmd ended with {status}:\n{}", self.last_lines());
        Ok(())
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bursts from port `from` to port `to`, to the frame: what testpmd sent came in, and what went out it received. With
/// `all`, as many frames as the rings hold, none may be lost.
fn traffic(
    net: &Net,
    from: (&str, &mut Testpmd),
    to: (&str, &mut Testpmd),
    bursts: u64,
    all: Option<u64>,
) -> Result<()> {
    let ((from, sender), (to, receiver)) = (from, to);
    receiver.rest()?;
    receiver.tell("start")?;
    sender.rest()?;
    let before = (net.port(from)?.input.frames, net.port(to)?.output.frames);
    sender.tell(&format!("start tx_first {bursts}"))?;
    let sent = sender.count("TX-packets")?;
    // Three pollers may share two processors: the switch comes to its turn.
    let deadline = Instant::now() + SHORT;
    while net.port(from)?.input.frames - before.0 < sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = net.sums()?;
    let arrived = port(&status, from)?.input.frames - before.0;
    let delivered = port(&status, to)?.output.frames - before.1;
    let received = receiver.received(delivered)?;
    ensure!(sent > 0 && sent == arrived, "testpmd on {from} sent {sent} frames and {arrived} came in");
    ensure!(received > 0 && received == delivered, "{delivered} frames went out to {to}, testpmd received {received}");
    let whole = all.is_none_or(|all| (sent, received) == (all, all));
    ensure!(whole, "of {all:?} frames, which the rings hold, {from} sent {sent} and {to} received {received}");
    Ok(())
}

/// Both ways: first what the rings hold, then more. Who has several queues sends on each.
fn both_ways(net: &Net, a: (&str, &mut Testpmd, u64), b: (&str, &mut Testpmd, u64)) -> Result<()> {
    let ((a, first, queues_a), (b, second, queues_b)) = (a, b);
    for (bursts, counted) in [(4, true), (300, false)] {
        let all = counted.then_some(bursts * BURST);
        traffic(net, (a, first), (b, second), bursts / queues_a, all)?;
        traffic(net, (b, second), (a, first), bursts / queues_b, all)?;
    }
    Ok(())
}

fn tables(keys: &str) -> String {
    portgroup("Production", "10")
        + &vnic("v1", "Production", "virtio", 1)
        + keys
        + &vnic("v2", "Production", "virtio", 2)
}

/// Memory on huge pages on one side, on ordinary pages on the other; with mergeable buffers and without.
#[test]
fn testpmd_with_testpmd() -> Result<()> {
    let plain = ",mrg_rxbuf=0,in_order=0,packed_vq=0";
    pairs(&[
        ([HUGE, SMALL], ["", plain], [false; 2]),
        ([SMALL, HUGE], [",vectorized=1", ",mrg_rxbuf=0,vectorized=1"], [false; 2]),
    ])
}

/// The same with packed rings, and a driver of packed rings with one of split ones.
#[test]
fn packed_rings() -> Result<()> {
    pairs(&[
        ([HUGE, SMALL], [",packed_vq=1", ",packed_vq=1,mrg_rxbuf=0"], [true; 2]),
        ([SMALL, HUGE], [",packed_vq=1,vectorized=1", ""], [true, false]),
    ])
}

/// Two testpmds: their memory, more options of their devices, and whether their rings are to be packed.
type Pair<'p> = ([&'p [&'p str]; 2], [&'p str; 2], [bool; 2]);

/// Pairs of testpmds send to each other.
fn pairs(all: &[Pair<'_>]) -> Result<()> {
    let _alone = alone();
    let _pages = HugePages::reserve(PAGES);
    let net = Net::start(None, "", &tables(""))?;
    for (memory, devices, packed) in all {
        let start = |name: &str, n: usize, last| {
            // The driver tells what was agreed on.
            let memory = [memory[n], &["--log-level=pmd.net.virtio.init:debug"]].concat();
            let options = Options { memory: &memory, last, device: devices[n], more: &[] };
            Testpmd::start(net.dir(), name, &net.switch.socket(name), &options)
        };
        let (mut a, mut b) = (start("v1", 0, [1, 2])?, start("v2", 1, [2, 1])?);
        net.started("v1")?;
        net.started("v2")?;
        ensure!([a.packed()?, b.packed()?] == *packed, "packed rings of {devices:?}: not {packed:?}");
        both_ways(&net, ("v1", &mut a, 1), ("v2", &mut b, 1))?;
        a.quit()?;
        b.quit()?;
    }
    net.finish()
}

/// Two queue pairs: both send, and both receive, for the frames are of many flows.
#[test]
fn two_queue_pairs() -> Result<()> {
    let _alone = alone();
    let net = Net::start(None, "", &tables("queues = 2\n"))?;
    let two = Options { memory: SMALL, last: [1, 2], device: ",queues=2,cq=1", more: &["--rxq=2", "--txq=2"] };
    let one = Options { memory: SMALL, last: [2, 1], device: "", more: &[] };
    let mut a = Testpmd::start(net.dir(), "v1", &net.switch.socket("v1"), &two)?;
    let mut b = Testpmd::start(net.dir(), "v2", &net.switch.socket("v2"), &one)?;
    net.started("v1")?;
    net.started("v2")?;
    both_ways(&net, ("v1", &mut a, 2), ("v2", &mut b, 1))?;
    traffic(&net, ("v1", &mut a), ("v2", &mut b), 2, Some(4 * BURST))?;
    for queue in ["tx_q0_good_packets", "tx_q1_good_packets"] {
        let count = a.count(queue)?;
        ensure!(count == 2 * BURST, "{queue}: {count}");
    }
    // A testpmd sends one flow, so several take turns until both receive queues have seen one.
    a.rest()?;
    a.tell("start")?;
    let mut flows = 0..16u16;
    let mut seen = [0, 0];
    while seen.contains(&0) {
        let ports = format!("--tx-udp={},9", 4000 + flows.next().context("all flows took one queue")?);
        b.quit()?;
        b = Testpmd::start(net.dir(), "v2", &net.switch.socket("v2"), &Options { more: &[&ports], ..one })?;
        net.started("v2")?;
        b.tell("start tx_first 1")?;
        let sum = seen[0] + seen[1] + BURST;
        ensure!(a.received(sum)? == sum, "all of {ports} arrived");
        seen = [a.count("rx_q0_good_packets")?, a.count("rx_q1_good_packets")?];
        ensure!(seen[0] + seen[1] == sum && seen[0] % BURST == 0, "a flow keeps to its queue: {seen:?}");
    }
    a.quit()?;
    b.quit()?;
    net.finish()
}

/// testpmd listens and the switch connects: at the start, when testpmd comes back after it was killed, and when the
/// switch does. Then testpmd starts its rings anew without emptying them, and says that they begin at 0.
#[test]
fn a_testpmd_that_listens() -> Result<()> {
    listens(",server=1")
}

/// The same with packed rings.
#[test]
fn a_testpmd_that_listens_with_packed_rings() -> Result<()> {
    listens(",server=1,packed_vq=1")
}

fn listens(device: &str) -> Result<()> {
    let _alone = alone();
    let client = "vhost_mode = \"client\"\n";
    let mut net = Net::start(None, "", &tables(client))?;
    let socket = net.switch.socket("v1");
    let listens = Options { memory: SMALL, last: [1, 2], device, more: &[] };
    let connects = Options { memory: SMALL, last: [2, 1], device: "", more: &[] };
    let mut b = Testpmd::start(net.dir(), "v2", &net.switch.socket("v2"), &connects)?;
    let mut a = Testpmd::start(net.dir(), "v1", &socket, &listens)?;
    for round in 0..3 {
        net.started("v1")?;
        net.started("v2")?;
        both_ways(&net, ("v1", &mut a, 1), ("v2", &mut b, 1))?;
        if round == 0 {
            drop(a);
            net.switch.wait_log("vNIC v1: the VMM has gone", SHORT)?;
            // What it left there is nobody's.
            std::fs::remove_file(&socket)?;
            a = Testpmd::start(net.dir(), "v1", &socket, &listens)?;
        } else if round == 1 {
            net.sums()?;
            b.quit()?;
            net.crash(&tables(client))?;
            b = Testpmd::start(net.dir(), "v2", &net.switch.socket("v2"), &connects)?;
        }
    }
    a.quit()?;
    b.quit()?;
    net.finish()
}
