//! Real TCP through two uplinks: a switch of two wires that does nothing but deliver.

mod lab;

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::{Burst, Egress, Grace, Ingress, PortState, Sink, Tally};
use lab::{Netns, all, ip};
use uplink::{Driver, Uplink, UplinkStats};

const BYTES: usize = 64 << 20;

struct Wire<'e> {
    to: &'e dyn Egress,
    harvested: u64,
    offered: u64,
    /// Frames longer than the wire takes: the senders left the cutting to somebody.
    oversized: u64,
    unfinished: u64,
    tally: Tally,
}

impl End {
    fn poll(&mut self, wire: &mut Wire<'_>) -> usize {
        self.queues.iter_mut().map(|queue| queue.poll(wire)).sum()
    }
}

impl Sink for Wire<'_> {
    fn forward(&mut self, burst: &Burst<'_>) {
        assert_eq!(burst.rejected(), []);
        self.harvested += burst.harvested() as u64;
        self.offered += burst.frames().len() as u64;
        for frame in burst.frames() {
            self.oversized += u64::from(frame.offload().gso.is_some());
            self.unfinished += u64::from(matches!(frame.offload().csum, dataplane::Csum::Fill { .. }));
        }
        self.to.deliver(burst, &all(burst, None), &mut self.tally);
    }
}

struct End {
    uplink: Uplink,
    queues: Vec<Box<dyn Ingress>>,
    out: Arc<dyn Egress>,
}

fn end(device: &str, driver: Driver) -> End {
    let state = Arc::new(PortState::new());
    let opened = Uplink::open_with(device, device, driver, state.clone(), Grace::new(0), 1500);
    let mut uplink = opened.expect("an uplink");
    println!("{device}: {} {}", uplink.driver(), uplink.rung());
    let queues = uplink.ingress();
    let out = uplink.egress();
    lab::wait("link", || {
        uplink.handle(&uplink::netlink::query(device).expect("it is there"));
        state.link_up()
    });
    End { uplink, queues, out }
}

/// One worker's life between two uplinks, until told to stop. Returns for each way what was seen, and the stats.
fn forward(mut a: End, mut b: End, stop: &AtomicBool) -> [(u64, u64, u64, UplinkStats); 2] {
    fn wire(to: &dyn Egress) -> Wire<'_> {
        Wire { to, harvested: 0, offered: 0, oversized: 0, unfinished: 0, tally: Tally::new() }
    }
    let (to_b, to_a) = (b.out.clone(), a.out.clone());
    let (mut ab, mut ba) = (wire(&*to_b), wire(&*to_a));
    while !stop.load(Ordering::Acquire) {
        if a.poll(&mut ab) + b.poll(&mut ba) == 0 {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    // What the hosts' kernels say by themselves may come in at any time: taken until rings and counts agree.
    lab::wait("empty rings", || {
        while a.poll(&mut ab) + b.poll(&mut ba) > 0 {}
        ab.harvested == a.uplink.stats().rx_frames && ba.harvested == b.uplink.stats().rx_frames
    });
    let drops = |tally: &Tally| dataplane::DropReason::ALL.iter().map(|r| tally.drops(*r)).sum::<u64>();
    for wire in [&ab, &ba] {
        assert_eq!(wire.offered, wire.tally.frames() + drops(&wire.tally), "every frame is accounted for");
    }
    [
        (ab.harvested, ab.oversized, ab.unfinished, a.uplink.stats()),
        (ba.harvested, ba.oversized, ba.unfinished, b.uplink.stats()),
    ]
}

fn pattern(at: usize, chunk: &mut [u8]) {
    let mut x = at as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for word in chunk.chunks_mut(8) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = x.to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

fn send(mut stream: TcpStream) -> u64 {
    let mut digest = DefaultHasher::new();
    let mut chunk = vec![0; 1 << 16];
    for at in 0..BYTES / chunk.len() {
        pattern(at, &mut chunk);
        digest.write(&chunk);
        stream.write_all(&chunk).expect("to send");
    }
    digest.finish()
}

fn receive(mut stream: TcpStream) -> (usize, u64) {
    let mut digest = DefaultHasher::new();
    let mut chunk = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        // Whole chunks, so that both digests are fed alike.
        let mut filled = 0;
        while filled < chunk.len() {
            match stream.read(&mut chunk[filled..]).expect("to receive") {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return (total, digest.finish());
        }
        digest.write(&chunk[..filled]);
        total += filled;
    }
}

/// Sends [`BYTES`] from the thread in `from` to the one in `to`; digests must agree.
fn transfer(from: &Netns, to: &Netns, address: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let patience = Some(Duration::from_secs(60));
    let listener = to.run(|| TcpListener::bind(address).expect("to listen"));
    let address = listener.local_addr().expect("its port");
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(patience).expect("a timeout");
            receive(stream)
        });
        let stream = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("to connect"));
        stream.set_write_timeout(patience).expect("a timeout");
        let sent = send(stream);
        let (total, digest) = received.join().expect("the receiver");
        assert_eq!((total, digest), (BYTES, sent));
    });
}

/// Two hosts, each on a cable of MTU `mtu` to the switch. With AF_XDP their offloads are off, as its users are told.
fn lab_of_two(mtu: u32, driver: Driver, body: impl FnOnce(&Netns, &Netns)) -> [(u64, u64, u64, UplinkStats); 2] {
    let (left, switch, right) = (Netns::new(), Netns::new(), Netns::new());
    for (host, name, digit) in [(&left, "left0", 1), (&right, "right0", 2)] {
        let (host, switch) = (&host.0, &switch.0);
        ip(&format!("-n {switch} link add name {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {host}"));
        ip(&format!("-n {host} link set eth0 up"));
        ip(&format!("-n {switch} link set {name} up"));
        ip(&format!("-n {host} addr add 10.1.1.{digit}/24 dev eth0"));
    }
    for (host, digit) in [(&left, 1), (&right, 2)] {
        if driver == Driver::AfXdp {
            lab::ethtool(&host.0, "-K eth0 tx off");
        }
        host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("IPv6"));
        ip(&format!("-n {} addr add fd00::{digit}/64 dev eth0 nodad", host.0));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| switch.run(|| forward(end("left0", driver), end("right0", driver), &stop)));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&left, &right)));
        stop.store(true, Ordering::Release);
        let seen = worker.join().expect("the worker");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for (harvested, _, _, stats) in &seen {
            assert!(*harvested > 0);
            assert_eq!((stats.tx_refused, stats.tx_stale), (0, 0));
        }
        seen
    })
}

#[test]
fn tcp_with_segments_and_unfinished_checksums() {
    let seen = lab_of_two(1500, Driver::AfPacket, |left, right| {
        transfer(left, right, "10.1.1.2:0");
        transfer(right, left, "[fd00::1]:0");
    });
    for (harvested, oversized, unfinished, stats) in seen {
        println!("{harvested} frames, {oversized} to be cut, {unfinished} to be summed, {stats:?}");
        assert!(oversized > 100 && unfinished > oversized, "the peers leave work undone");
        assert!(harvested < 2 * (BYTES / 1448) as u64, "segments travel whole");
    }
}

#[test]
fn jumbo_frames() {
    lab_of_two(9000, Driver::AfPacket, |left, right| {
        transfer(left, right, "10.1.1.2:0");
        transfer(right, left, "[fd00::1]:0");
    });
}

#[test]
fn peers_without_offloads() {
    let seen = lab_of_two(1500, Driver::AfPacket, |left, right| {
        for host in [left, right] {
            lab::ethtool(&host.0, "-K eth0 tx off tso off gso off");
        }
        transfer(left, right, "10.1.1.2:0");
        transfer(right, left, "[fd00::1]:0");
    });
    assert!(seen.iter().all(|(harvested, oversized, ..)| *harvested > (BYTES / 1448) as u64 && *oversized == 0));
}

#[test]
fn by_af_xdp() {
    let seen = lab_of_two(1500, Driver::AfXdp, |left, right| {
        transfer(left, right, "10.1.1.2:0");
        transfer(right, left, "[fd00::1]:0");
    });
    for (harvested, oversized, unfinished, stats) in seen {
        println!("{harvested} frames, {stats:?}");
        assert_eq!((oversized, unfinished), (0, 0));
        assert!(harvested > (BYTES / 1448) as u64);
    }
}

#[test]
fn jumbo_frames_by_af_xdp() {
    let seen = lab_of_two(9000, Driver::AfXdp, |left, right| {
        transfer(left, right, "10.1.1.2:0");
        transfer(right, left, "[fd00::1]:0");
    });
    let frames: u64 = seen.iter().map(|(harvested, ..)| harvested).sum();
    assert!(frames < 4 * (BYTES / 1448) as u64, "long frames travel whole: {frames}");
}
