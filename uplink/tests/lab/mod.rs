//! Network namespaces, taps and sinks for tests against the real kernel.
//!
//! Sockets belong to the network namespace of the thread that makes them, so each test runs its body in a
//! thread that has entered its namespace ([`Netns::run`]). Everything is taken down in `Drop`, also after a panic.
#![allow(dead_code, missing_docs)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dataplane::{Burst, Csum, Delivery, DropReason, Egress, Frame, Ingress, Offload, Sink, Tally};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wire::Tag;

/// EtherType for test frames ("local experimental 2", IEEE 802): nothing in the kernel sends it.
pub const ETHERTYPE_TEST: u16 = 0x88b6;
/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `ip` with `args`, which must succeed.
pub fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.expect("the tests need iproute2's ip");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `ip` with `args` prints.
pub fn ip_output(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2's ip");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The word after `after` in what `ip` with `args` prints.
pub fn ip_word(args: &str, after: &str) -> String {
    let text = ip_output(args);
    let mut words = text.split_whitespace().skip_while(|w| *w != after);
    words.nth(1).unwrap_or_default().to_owned()
}

/// Runs `ethtool` with `args` in namespace `ns`; what it prints.
pub fn ethtool(ns: &str, args: &str) -> String {
    let output = Command::new("ip").args(["netns", "exec", ns, "ethtool"]).args(args.split_whitespace()).output();
    let output = output.expect("iproute2's ip");
    assert!(output.status.success(), "ethtool {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A named network namespace, deleted on drop.
pub struct Netns(pub String);

impl Netns {
    pub fn new() -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and packet sockets: run it as root"
        );
        let name = format!("vsw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        let ns = Netns(name);
        ns.run(|| {
            // The kernel's own IPv6 messages would be counted as frames.
            for which in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                std::fs::write(path, "1").expect("a kernel with IPv6");
            }
            ip("link set lo up");
        });
        ns
    }

    /// Moves the calling thread into the namespace.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).expect("the namespace's file");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    }

    /// Runs `body` in a thread inside the namespace.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    body()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let done = Command::new("ip").args(["netns", "del", &self.0]).status();
        if !std::thread::panicking() {
            assert!(done.is_ok_and(|s| s.success()), "namespace {} stays behind", self.0);
        }
    }
}

/// A tap interface seen from the wire's side: what is written comes in by the interface, what goes out by it is
/// read. Gone on drop.
pub struct Tap {
    file: File,
    vnet: bool,
}

#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

impl Tap {
    /// Makes tap `name` in the thread's namespace and sets it up.
    pub fn new(name: &str) -> Tap {
        Tap::make(name, false)
    }

    /// As [`Tap::new`], with a 10-byte virtio-net header before each frame, both ways.
    pub fn with_vnet(name: &str) -> Tap {
        Tap::make(name, true)
    }

    fn make(name: &str, vnet: bool) -> Tap {
        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | if vnet { libc::IFF_VNET_HDR } else { 0 };
        let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: flags as libc::c_short, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one struct ifreq (40 bytes), which IfReq is as large as.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "TUNSETIFF {name}: {}", io::Error::last_os_error());
        rustix::io::ioctl_fionbio(&file, true).expect("non-blocking");
        ip(&format!("link set {name} up"));
        Tap { file, vnet }
    }

    /// Plugs or pulls the cable.
    pub fn carrier(&self, up: bool) {
        let value = libc::c_int::from(up);
        // SAFETY: TUNSETCARRIER reads one int, which outlives the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETCARRIER, &raw const value) };
        assert_eq!(result, 0, "TUNSETCARRIER: {}", io::Error::last_os_error());
    }

    /// A frame comes in from the wire.
    pub fn send(&self, frame: &[u8]) {
        assert!(!self.vnet);
        (&self.file).write_all(frame).expect("a frame into the tap");
    }

    /// A frame with offload requests comes in.
    pub fn send_vnet(&self, header: [u8; 10], frame: &[u8]) {
        assert!(self.vnet);
        (&self.file).write_all(&[&header, frame].concat()).expect("a frame into the tap");
    }

    /// The next frame that went out on the wire, if there is one.
    pub fn try_recv(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match (&self.file).read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                Some(if self.vnet { buffer.split_off(10) } else { buffer })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("tap: {error}"),
        }
    }

    /// The next frame, waited for.
    pub fn recv(&self) -> Vec<u8> {
        let mut got = None;
        wait("a frame on the wire", || {
            got = self.try_recv();
            got.is_some()
        });
        got.unwrap_or_default()
    }

    /// All frames that are there now.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.try_recv()).collect()
    }
}

/// Waits until `what` is so.
pub fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What one harvested frame looked like.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: Vec<u8>,
    pub len: usize,
    pub tag: Option<Tag>,
    pub offload: Offload,
}

/// Remembers what came in, and sends it out by a port if it has one.
#[derive(Default)]
pub struct Collect<'e> {
    pub frames: Vec<Seen>,
    pub rejected: Vec<(DropReason, u32)>,
    pub echo: Option<&'e dyn Egress>,
    /// The tag echoed frames get; `None` keeps theirs.
    pub retag: Option<Tag>,
    pub tally: Tally,
}

impl Sink for Collect<'_> {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.rejected.extend_from_slice(burst.rejected());
        let seen = |f: &Frame| Seen { head: f.head().to_vec(), len: f.len(), tag: f.tag(), offload: f.offload() };
        self.frames.extend(burst.frames().iter().map(seen));
        if let Some(echo) = self.echo {
            echo.deliver(burst, &all(burst, self.retag), &mut self.tally);
        }
    }
}

/// Every frame of `burst`, with `tag` or its own.
pub fn all(burst: &Burst<'_>, tag: Option<Tag>) -> Vec<Delivery> {
    let delivery = |(at, frame): (usize, &Frame)| Delivery::new(at as u8, tag.or(frame.tag()));
    burst.frames().iter().enumerate().map(delivery).collect()
}

/// Polls until `count` frames, good or bad, were harvested by the sink.
pub fn poll_for(queue: &mut dyn Ingress, sink: &mut Collect<'_>, count: usize) {
    wait(&format!("{count} frames"), || {
        queue.poll(sink);
        sink.frames.len() + sink.rejected.len() >= count
    });
}

/// Polls for a while and asserts that nothing comes.
pub fn poll_nothing(queue: &mut dyn Ingress) {
    let mut sink = Collect::default();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(50) {
        queue.poll(&mut sink);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(sink.frames.is_empty() && sink.rejected.is_empty(), "unexpected: {:x?} {:?}", sink.frames, sink.rejected);
}

/// A burst of one frame in memory of our own.
pub fn with_burst(frames: &[(&[u8], Option<Tag>, Offload)], body: impl FnOnce(&Burst<'_>)) {
    let page = sharedmem::SharedPage::new("frames", 4 << 20).expect("a memfd");
    let memory = page.slice();
    let mut burst = Burst::new();
    let mut at = 0;
    for (bytes, tag, offload) in frames {
        assert!(burst.has_room());
        let slice = memory.sub(at, bytes.len()).expect("room");
        assert!(slice.write_at(0, bytes));
        burst.push(&[slice], *tag, *offload);
        at += bytes.len();
    }
    assert_eq!(burst.rejected(), [], "the test's own frames are good");
    body(&burst);
}

/// A frame of `len` bytes with a recognisable payload from `seed`.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[0x02, 0xaa, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[0x02, 0xbb, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&ETHERTYPE_TEST.to_be_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(14) {
        *byte = (at as u8).wrapping_mul(7).wrapping_add(seed);
    }
    frame
}

/// `frame` with four bytes of tag put in.
pub fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

/// A TCP frame over IPv4 (20 + 20 bytes of header) whose checksum field holds the pseudo header's sum, as a
/// sender with checksum offload leaves it.
pub fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 54 + payload];
    frame[..6].copy_from_slice(&[0x02, 0xaa, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[0x02, 0xbb, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
    frame[22] = 64;
    frame[23] = 6;
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = !wire::checksum::sum_be(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..38].copy_from_slice(&[0x12, 0x34, 0, 80]);
    frame[38..42].copy_from_slice(&1000u32.to_be_bytes());
    frame[46] = 0x50;
    frame[47] = 0x18;
    frame[48..50].copy_from_slice(&[0xff, 0xff]);
    let pseudo = wire::checksum::pseudo_header(&[10, 0, 0, 1, 10, 0, 0, 2], 6, (20 + payload) as u32).folded();
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(54) {
        *byte = (at % 251) as u8;
    }
    frame
}

/// The same over IPv6.
pub fn tcp6(payload: usize) -> Vec<u8> {
    let v4 = tcp4(payload);
    let mut frame = v4[..12].to_vec();
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&((20 + payload) as u16).to_be_bytes());
    frame.extend_from_slice(&[6, 64]);
    let mut addresses = [0; 32];
    addresses[0] = 0xfd;
    addresses[15] = 1;
    addresses[16] = 0xfd;
    addresses[31] = 2;
    frame.extend_from_slice(&addresses);
    frame.extend_from_slice(&v4[34..]);
    let pseudo = wire::checksum::pseudo_header(&addresses, 6, (20 + payload) as u32).folded();
    frame[70..72].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

/// UDP over IPv4: `payload` bytes under one header of 8 bytes, whose checksum field holds the pseudo header's sum.
pub fn udp4(payload: usize) -> Vec<u8> {
    as_udp(&tcp4(payload))
}

/// The same over IPv6.
pub fn udp6(payload: usize) -> Vec<u8> {
    as_udp(&tcp6(payload))
}

/// `tcp` with a UDP header in the place of its own.
fn as_udp(tcp: &[u8]) -> Vec<u8> {
    let t = wire::ip::Transport::parse(tcp).expect("a TCP frame");
    let mut frame = [&tcp[..t.l4], &[0x12, 0x34, 0, 80, 0, 0, 0, 0], &tcp[t.payload()..]].concat();
    let length = (frame.len() - t.l4) as u16;
    frame[t.l4 + 4..t.l4 + 6].copy_from_slice(&length.to_be_bytes());
    if t.v6 {
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame[20] = 17;
    } else {
        frame[16..18].copy_from_slice(&(length + 20).to_be_bytes());
        frame[23] = 17;
        frame[24..26].fill(0);
        let sum = !wire::checksum::sum_be(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let pseudo = wire::checksum::pseudo_header(t.addresses(&frame), 17, length.into()).folded();
    frame[t.l4 + 6..t.l4 + 8].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

/// True when the IPv4 header's (if any) and the TCP or UDP checksum of an untagged frame are right.
pub fn sums_hold(frame: &[u8]) -> bool {
    let t = wire::ip::Transport::parse(frame).expect("an IP frame");
    let end = if t.v6 { t.l3 + 40 + be16(frame, t.l3 + 4) } else { t.l3 + be16(frame, t.l3 + 2) };
    let mut sum = wire::checksum::pseudo_header(t.addresses(frame), t.protocol, (end - t.l4) as u32);
    sum.add(&frame[t.l4..end]);
    let ip_good = t.v6 || wire::checksum::sum_be(&frame[t.l3..t.l4]) == 0xffff;
    ip_good && sum.folded() == 0xffff
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(wire::be16(bytes, at).expect("long enough"))
}

/// No offload, for tables of frames.
pub const PLAIN: Offload = Offload { csum: Csum::AsIs, gso: None };
