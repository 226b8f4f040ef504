//! Real UDP with `UDP_SEGMENT` between two hosts: the sender's kernel hands over many datagrams under one header, and
//! every datagram must arrive as it was cut, whether the switch or the receiver's kernel did it.

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::{Burst, Egress, Grace, GsoKind, Ingress, PortState, Sink, Tally};
use lab::{Netns, all, ip};
use uplink::{Driver, Tap, TapSetup, Uplink};
use wire::Mac;

/// Sends of the sender, each of [`PARTS`] datagrams, the last of them short.
const SENDS: usize = 50;
/// Datagrams per send; kernels before 6.9 take no more than 64.
const PARTS: usize = 40;
/// Bytes of a datagram.
const PART: usize = 1400;
/// Bytes of the last one of a send.
const SHORT: usize = 333;

/// How a host is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plug {
    Veth(Driver),
    Tap,
}

/// The handle that keeps an interface in the switch's hands.
enum Control {
    Uplink(Uplink),
    Tap(Tap),
}

struct End {
    control: Control,
    state: Arc<PortState>,
    queues: Vec<Box<dyn Ingress>>,
    out: Arc<dyn Egress>,
}

/// One direction.
struct Wire<'e> {
    to: &'e dyn Egress,
    seen: Seen,
    tally: Tally,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Frames of UDP to be cut.
    whole: u64,
    /// Frames longer than the wire takes, of any kind.
    long: u64,
    /// All frames that came in.
    frames: u64,
    /// All frames that went out.
    delivered: u64,
    /// Those that did not.
    dropped: u64,
}

impl Sink for Wire<'_> {
    fn forward(&mut self, burst: &Burst<'_>) {
        assert_eq!(burst.rejected(), []);
        for frame in burst.frames() {
            self.seen.frames += 1;
            self.seen.whole += u64::from(frame.offload().gso.is_some_and(|gso| gso.kind == GsoKind::Udp));
            self.seen.long += u64::from(frame.len() > 1514);
        }
        self.to.deliver(burst, &all(burst, None), &mut self.tally);
    }
}

impl Wire<'_> {
    fn seen(&self) -> Seen {
        let dropped = dataplane::DropReason::ALL.iter().map(|r| self.tally.drops(*r)).sum();
        Seen { delivered: self.tally.frames(), dropped, ..self.seen }
    }
}

impl End {
    /// Plugs `host` in by an interface called `eth0` there; to be called in the switch's namespace.
    fn plug(host: &Netns, name: &str, digit: u8, plug: Plug) -> End {
        let state = Arc::new(PortState::new());
        let mac = Mac([0x02, 0, 0, 0, 0, digit]);
        let (control, queues, out) = match plug {
            Plug::Veth(driver) => {
                ip(&format!("link add name {name} type veth peer name eth0 netns {}", host.0));
                ip(&format!("-n {} link set eth0 up", host.0));
                ip(&format!("link set {name} up"));
                if driver == Driver::AfXdp {
                    lab::ethtool(&host.0, "-K eth0 tx off");
                }
                let opened = Uplink::open_with(name, name, driver, state.clone(), Grace::new(0), 1500);
                let mut uplink = opened.expect("an uplink");
                let (queues, out) = (uplink.ingress(), uplink.egress());
                (Control::Uplink(uplink), queues, out)
            }
            Plug::Tap => {
                let setup = TapSetup { mac, mtu: 1500, queues: 1 };
                let mut tap = Tap::open(name, name, setup, state.clone(), Grace::new(0)).expect("a tap");
                ip(&format!("link set {name} netns {} name eth0", host.0));
                ip(&format!("-n {} link set eth0 up", host.0));
                let (queues, out) = (tap.ingress(), tap.egress());
                (Control::Tap(tap), queues, out)
            }
        };
        ip(&format!("-n {} addr add 10.1.1.{digit}/24 dev eth0", host.0));
        host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("IPv6"));
        ip(&format!("-n {} addr add fd00::{digit}/64 dev eth0 nodad", host.0));
        let mut end = End { control, state, queues, out };
        lab::wait("link", || {
            match &mut end.control {
                Control::Uplink(uplink) => uplink.handle(&uplink::netlink::query(name).expect("it is there")),
                Control::Tap(tap) => tap.look(),
            }
            end.state.link_up()
        });
        end
    }

    fn poll(&mut self, wire: &mut Wire<'_>) -> usize {
        self.queues.iter_mut().map(|queue| queue.poll(wire)).sum()
    }
}

/// Forwards between the ends until told to stop: what went from `a` to `b`.
fn forward(mut a: End, mut b: End, stop: &AtomicBool) -> Seen {
    let (to_b, to_a) = (b.out.clone(), a.out.clone());
    let mut ab = Wire { to: &*to_b, seen: Seen::default(), tally: Tally::new() };
    let mut ba = Wire { to: &*to_a, seen: Seen::default(), tally: Tally::new() };
    while !stop.load(Ordering::Acquire) {
        if a.poll(&mut ab) + b.poll(&mut ba) == 0 {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    ab.seen()
}

fn datagram(send: usize, part: usize) -> Vec<u8> {
    let len = if part + 1 == PARTS { SHORT } else { PART };
    (0..len).map(|at| (at * 31 + part * 7 + send * 13 + at / 256) as u8).collect()
}

/// Has the kernel cut what `socket` sends.
fn segment(socket: &UdpSocket) {
    let size = libc::c_int::try_from(PART).expect("a size");
    // SAFETY: UDP_SEGMENT reads one int, which outlives the call; the socket is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
}

/// One send after the other, each received whole before the next: nothing may be lost on the way.
fn transfer(from: &Netns, to: &Netns, sender: &str, receiver: &str) {
    let patience = Some(Duration::from_secs(20));
    let receiver = to.run(|| UdpSocket::bind(receiver).expect("a socket"));
    receiver.set_read_timeout(patience).expect("a timeout");
    let address: SocketAddr = receiver.local_addr().expect("its address");
    let sender = from.run(|| UdpSocket::bind(sender).expect("a socket"));
    segment(&sender);
    let mut buffer = vec![0; 70_000];
    for send in 0..SENDS {
        let parts: Vec<_> = (0..PARTS).map(|part| datagram(send, part)).collect();
        assert_eq!(sender.send_to(&parts.concat(), address).expect("to send"), parts.concat().len());
        for (n, part) in parts.iter().enumerate() {
            let len = receiver.recv(&mut buffer).expect("a datagram");
            assert!(buffer[..len] == part[..], "datagram {n} of send {send}: {len} bytes");
        }
    }
}

fn lab_of_two(left: Plug, right: Plug) -> Seen {
    let (a, switch, b) = (Netns::new(), Netns::new(), Netns::new());
    let (ends, stop) = ((&a, &b), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let (ready, told) = std::sync::mpsc::channel();
        let (switch, stop) = (&switch, &stop);
        let worker = scope.spawn(move || {
            switch.run(move || {
                let pair = (End::plug(ends.0, "left0", 1, left), End::plug(ends.1, "right0", 2, right));
                ready.send(()).expect("somebody waits");
                forward(pair.0, pair.1, stop)
            })
        });
        told.recv_timeout(lab::PATIENCE).expect("both plugged in");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            transfer(&a, &b, "10.1.1.1:0", "10.1.1.2:0");
            transfer(&a, &b, "[fd00::1]:0", "[fd00::2]:0");
        }));
        stop.store(true, Ordering::Release);
        let seen = worker.join().expect("the worker");
        println!("{left:?} to {right:?}: {seen:?}");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    });
    assert_eq!(seen.dropped, 0, "{seen:?}");
    seen
}

/// Each send comes in as one frame, and goes out as one.
fn assert_whole(left: Plug, right: Plug) {
    let seen = lab_of_two(left, right);
    assert_eq!((seen.whole, seen.long), (2 * SENDS as u64, 2 * SENDS as u64), "{seen:?}");
    assert_eq!(seen.delivered, seen.frames, "{seen:?}");
}

#[test]
fn veth_to_veth() {
    assert_whole(Plug::Veth(Driver::AfPacket), Plug::Veth(Driver::AfPacket));
}

#[test]
fn tap_to_tap() {
    assert_whole(Plug::Tap, Plug::Tap);
}

#[test]
fn veth_to_tap_and_back() {
    assert_whole(Plug::Veth(Driver::AfPacket), Plug::Tap);
    assert_whole(Plug::Tap, Plug::Veth(Driver::AfPacket));
}

/// A port that takes no more than the wire does has them cut by the switch; the receiver's kernel checks their sums.
#[test]
fn to_a_port_that_cuts_nothing() {
    for left in [Plug::Veth(Driver::AfPacket), Plug::Tap] {
        let seen = lab_of_two(left, Plug::Veth(Driver::AfXdp));
        assert_eq!(seen.whole, 2 * SENDS as u64, "{seen:?}");
        assert_eq!(seen.delivered, seen.frames + 2 * (SENDS * (PARTS - 1)) as u64, "{seen:?}");
    }
}
