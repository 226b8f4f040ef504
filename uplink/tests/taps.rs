//! Tap interfaces as the switch holds them. Their user is played by a packet socket on the same interface: what it gets
//! is what the kernel took from the switch, what it sends is what the kernel hands to the switch.

mod lab;
mod port;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dataplane::{Arm, Burst, Csum, DropReason, Egress, Grace, Gso, Ingress, Offload, PortState, Tally};
use lab::{
    Collect, Netns, PLAIN, Seen, Tap as Foreign, all, frame, ip, ip_output, poll_for, poll_nothing, tcp4, tcp6, udp4,
    udp6, wait, with_burst,
};
use port::{Port, deliver};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socket_with};
use uplink::{Driver, OpenError, Tap, TapSetup, netlink};
use wire::{Mac, Tag};

const MAC: Mac = Mac([0x00, 0x50, 0x56, 0, 0, 7]);

/// An interface in the switch's hands, and its user.
struct Held {
    tap: Tap,
    state: Arc<PortState>,
    queues: Vec<Box<dyn Ingress>>,
    out: Arc<dyn Egress>,
}

fn try_open(device: &str, queues: usize) -> Result<Held, OpenError> {
    let state = Arc::new(PortState::new());
    let setup = TapSetup { mac: MAC, mtu: 1500, queues };
    let mut tap = Tap::open("web1", device, setup, state.clone(), Grace::new(0))?;
    let (queues, out) = (tap.ingress(), tap.egress());
    assert!(tap.ingress().is_empty(), "given once");
    Ok(Held { tap, state, queues, out })
}

/// Opened and set up.
fn open(device: &str, queues: usize) -> Held {
    let mut held = try_open(device, queues).expect("a tap");
    assert_eq!((held.state.connected(), held.state.link_up()), (true, false), "its user sets it up");
    ip(&format!("link set {device} up"));
    held.tap.look();
    assert!(held.state.link_up());
    held
}

fn refusal(device: &str, queues: usize) -> OpenError {
    match try_open(device, queues) {
        Ok(_) => panic!("{device} was opened"),
        Err(error) => error,
    }
}

impl Held {
    fn deliver(&self, burst: &Burst<'_>, tag: Option<Tag>) -> Tally {
        let mut tally = Tally::new();
        self.out.deliver(burst, &all(burst, tag), &mut tally);
        tally
    }

    /// What the user gets of `bytes`.
    fn sent(&self, user: &mut Port, bytes: &[u8], tag: Option<Tag>, offload: Offload) -> Seen {
        let mut got = Collect::default();
        with_burst(&[(bytes, None, offload)], |burst| {
            let tally = self.deliver(burst, tag);
            assert_eq!(tally.frames(), 1, "{tally:?}");
        });
        poll_for(&mut *user.queue, &mut got, 1);
        assert_eq!((got.frames.len(), got.rejected.len()), (1, 0));
        got.frames.remove(0)
    }

    /// What the switch gets of the user's `bytes`.
    fn received(&mut self, user: &Port, bytes: &[u8], tag: Option<Tag>, offload: Offload) -> Seen {
        let mut got = Collect::default();
        with_burst(&[(bytes, tag, offload)], |burst| {
            deliver(user, burst);
        });
        poll_for(&mut *self.queues[0], &mut got, 1);
        assert_eq!((got.frames.len(), &got.rejected[..]), (1, &[][..]));
        got.frames.remove(0)
    }
}

/// Whole frames as a packet socket gets them, in and out.
struct Raw(OwnedFd);

impl Raw {
    fn open() -> Raw {
        let protocol = rustix::net::eth::ALL;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Raw(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol)).expect("a packet socket"))
    }

    fn next(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let mut got = 0;
        wait("a frame", || match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok((n, _)) => {
                got = n;
                true
            }
            Err(_) => false,
        });
        buffer.truncate(got);
        buffer
    }
}

/// `seen` is the start and length of `bytes`.
fn same(seen: &Seen, bytes: &[u8], len: usize) {
    assert_eq!(seen.len, len);
    let n = seen.head.len().min(bytes.len());
    assert_eq!(seen.head[..n], bytes[..n]);
}

#[test]
fn refusals_are_one_clear_sentence() {
    Netns::new().run(|| {
        for name in ["", "a-name-longer-than-any", "tap%d", "a/b", "..", "a b"] {
            let error = refusal(name, 1);
            assert!(matches!(error, OpenError::BadName { .. }), "{name}: {error}");
        }
        assert!(matches!(refusal("lo", 1), OpenError::NotTap { .. }));
        ip("tuntap add dev tun7 mode tun");
        assert!(matches!(refusal("tun7", 1), OpenError::NotTap { .. }));
        let _other = Foreign::new("tap0");
        assert!(matches!(refusal("tap0", 1), OpenError::Busy { .. }));
        assert!(matches!(refusal("tap0", 2), OpenError::OneQueue { .. }));
        // One that gives queues to whoever asks, and belongs to another switch.
        let _first = try_open("tap1", 2).unwrap();
        let error = refusal("tap1", 2);
        assert!(matches!(error, OpenError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("\"tap1\" is in use by another program"));
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        let error = std::thread::scope(|scope| {
            let unprivileged = scope.spawn(|| {
                rustix::thread::set_capabilities(None, sets).expect("to give capabilities up");
                refusal("tap2", 1)
            });
            unprivileged.join().unwrap()
        });
        assert!(matches!(error, OpenError::TapPermission { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    });
}

#[test]
fn an_interface_is_made_as_the_port_has_it_or_taken_as_it_is() {
    Netns::new().run(|| {
        let held = open("tap0", 1);
        let link = netlink::query("tap0").unwrap();
        assert_eq!((link.mac, link.mtu), (MAC, 1500));
        drop(held);
        assert!(netlink::query("tap0").is_err(), "it goes with the switch");

        ip("tuntap add dev tap1 mode tap");
        ip("link set tap1 mtu 1400");
        for _ in 0..2 {
            let mut held = open("tap1", 1);
            let link = netlink::query("tap1").unwrap();
            assert_eq!((link.mac, link.mtu), (MAC, 1400), "its MTU is its owner's affair");
            let mut user = Port::open("tap1", Driver::AfPacket);
            same(&held.sent(&mut user, &frame(300, 1), None, PLAIN), &frame(300, 1), 300);
            held.received(&user, &frame(300, 1), None, PLAIN);
            drop((held, user));
            ip("link set tap1 down");
        }
        assert!(matches!(refusal("tap1", 2), OpenError::OneQueue { .. }));
        ip("tuntap add dev tap2 mode tap multi_queue");
        let _held = open("tap2", 4);
        assert!(ip_output("-d link show dev tap2").contains("numqueues 4"));
    });
}

#[test]
fn frames_of_all_lengths_both_ways() {
    Netns::new().run(|| {
        let mut held = open("tap0", 1);
        let mut user = Port::open("tap0", Driver::AfPacket);
        for len in [14, 15, 59, 60, 61, 63, 64, 65, 100, 191, 192, 193, 1000, 1513, 1514] {
            let bytes = frame(len, len as u8);
            same(&held.sent(&mut user, &bytes, None, PLAIN), &bytes, len.max(60));
            same(&held.received(&user, &bytes, None, PLAIN), &bytes, len.max(60));
            let tag = Some(Tag::new(10, 5));
            let seen = held.sent(&mut user, &bytes, tag, PLAIN);
            assert_eq!(seen.tag, tag);
            // Short ones are padded with their tag in place.
            same(&seen, &bytes, len.max(56));
            let seen = held.received(&user, &bytes, tag, PLAIN);
            assert_eq!((seen.tag, seen.len), (tag, len.max(56)));
        }
        poll_nothing(&mut *held.queues[0]);
    });
}

#[test]
fn a_frame_in_many_pieces_is_one_frame() {
    Netns::new().run(|| {
        let (held, user) = (open("tap0", 1), Raw::open());
        for (len, cuts) in [(14, vec![14]), (40, vec![7, 20]), (1514, vec![20, 50, 64, 65, 600]), (900, vec![1, 2, 3])]
        {
            let bytes = frame(len, 9);
            let page = sharedmem::SharedPage::new("frames", 64 << 10).unwrap();
            let memory = page.slice();
            let bounds: Vec<usize> = std::iter::once(0).chain(cuts).chain([len]).collect();
            // Apart from one another, and in no order.
            let place = |n: usize| (bounds.len() - n) * 4000;
            let pieces = bounds.windows(2).enumerate().filter(|(_, w)| w[1] > w[0]);
            let pieces: Vec<_> = pieces
                .map(|(n, w)| {
                    let piece = memory.sub(place(n), w[1] - w[0]).unwrap();
                    assert!(piece.write_at(0, &bytes[w[0]..w[1]]));
                    piece
                })
                .collect();
            let mut burst = Burst::new();
            burst.push(&pieces, None, PLAIN);
            assert_eq!(burst.frames().len(), 1);
            assert_eq!(held.deliver(&burst, None).frames(), 1);
            assert_eq!(user.next()[..len], bytes);
        }
    });
}

/// Whole frames: what the user sends comes back to it from the switch.
#[test]
fn no_byte_is_lost_on_either_way() {
    Netns::new().run(|| {
        let mut held = open("tap0", 1);
        let (user, raw) = (Port::open("tap0", Driver::AfPacket), Raw::open());
        let segments = |mss, header| Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, header)) };
        let datagrams = |mss, header| Offload { csum: Csum::AsIs, gso: Some(Gso::udp(mss, header)) };
        let fill = Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None };
        let cases = [
            (frame(14, 1), PLAIN),
            (frame(64, 2), PLAIN),
            (frame(1514, 3), PLAIN),
            (tcp4(1000), fill),
            (tcp4(3000), segments(1460, 54)),
            (tcp4(65_000), segments(1448, 54)),
            (tcp6(65_000), segments(1400, 74)),
            (udp4(60_000), datagrams(1472, 42)),
            (udp6(60_000), datagrams(1400, 62)),
        ];
        for (bytes, offload) in cases {
            with_burst(&[(&bytes, None, offload)], |burst| {
                deliver(&user, burst);
            });
            // Its own, on its way out.
            let sent = raw.next();
            let out = held.out.clone();
            let mut switch = Collect { echo: Some(&*out), ..Collect::default() };
            poll_for(&mut *held.queues[0], &mut switch, 1);
            assert_eq!((switch.frames.len(), switch.tally.frames()), (1, 1));
            let seen = &switch.frames[0].offload;
            assert_eq!(seen.gso, offload.gso, "not cut up");
            assert_eq!(seen.csum != Csum::AsIs, offload != PLAIN, "nor summed: {seen:?}");
            let back = raw.next();
            assert!(back == sent, "{} bytes are not those sent, {}", back.len(), sent.len());
            assert_eq!(back[54..], bytes.iter().copied().chain([0; 60]).collect::<Vec<_>>()[54..back.len()]);
        }
    });
}

#[test]
fn what_is_left_undone_is_told_both_ways() {
    Netns::new().run(|| {
        let mut held = open("tap0", 1);
        let mut user = Port::open("tap0", Driver::AfPacket);
        let gso = |mss, header| Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, header)) };
        let uso = |mss, header| Offload { csum: Csum::AsIs, gso: Some(Gso::udp(mss, header)) };
        for (bytes, offload, l4, sum_at) in [
            (tcp4(60_000), gso(1460, 54), 34, 16),
            (tcp6(60_000), gso(1440, 74), 54, 16),
            (udp4(60_000), uso(1472, 42), 34, 6),
            (udp6(60_000), uso(1452, 62), 54, 6),
        ] {
            for tag in [None, Some(Tag::new(10, 0))] {
                for seen in [held.sent(&mut user, &bytes, tag, offload), held.received(&user, &bytes, tag, offload)] {
                    assert_eq!((seen.len, seen.tag, seen.offload.gso), (bytes.len(), tag, offload.gso));
                    assert_eq!(seen.offload.csum, Csum::Fill { start: l4, at: l4 + sum_at });
                }
            }
        }
        // A checksum that the kernel would not take up is filled in: here over bytes 20 to the end, placed at 40.
        let mut bytes = frame(200, 1);
        bytes[40..42].fill(0);
        let odd = Offload { csum: Csum::Fill { start: 20, at: 40 }, gso: None };
        let seen = held.sent(&mut user, &bytes, None, odd);
        assert_eq!((seen.len, seen.offload.csum), (200, Csum::AsIs));
        assert_eq!(seen.head[40..42], (!wire::checksum::sum_be(&bytes[20..])).to_be_bytes());
    });
}

#[test]
fn each_conversation_has_a_queue() {
    Netns::new().run(|| {
        let mut held = open("tap0", 2);
        ip("addr add 10.0.0.2/24 dev tap0");
        ip("neigh add 10.0.0.1 lladdr 02:bb:00:00:00:02 dev tap0");
        let mut answers = [0; 2];
        for port in 0..64u16 {
            // A SYN to a port where nobody listens; the answer comes by the queue the SYN took.
            let mut syn = tcp4(0);
            syn[..6].copy_from_slice(&MAC.0);
            syn[34..36].copy_from_slice(&(40_000 + port).to_be_bytes());
            syn[47] = 0x02;
            let fill = Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None };
            with_burst(&[(&syn, None, fill)], |burst| assert_eq!(held.deliver(burst, None).frames(), 1));
            let mut got = [Collect::default(), Collect::default()];
            wait("an answer", || {
                held.queues.iter_mut().zip(&mut got).for_each(|(queue, got)| {
                    queue.poll(got);
                });
                got.iter().any(|got| !got.frames.is_empty())
            });
            got.iter().zip(&mut answers).for_each(|(got, answers)| *answers += got.frames.len());
        }
        assert!(answers.iter().all(|n| *n > 8), "both queues are used: {answers:?}");
        assert_eq!(answers.iter().sum::<usize>(), 64);
    });
}

#[test]
fn a_sleeping_worker_is_woken() {
    Netns::new().run(|| {
        let mut held = open("tap0", 1);
        let user = Port::open("tap0", Driver::AfPacket);
        let Arm::Kick(fd) = held.queues[0].arm() else { panic!("a tap can signal") };
        let readable = |fd: &Arc<OwnedFd>| {
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
        };
        assert!(!readable(&fd));
        with_burst(&[(&frame(100, 0), None, PLAIN)], |burst| {
            deliver(&user, burst);
        });
        wait("the signal", || readable(&fd));
        held.queues[0].disarm();
        poll_for(&mut *held.queues[0], &mut Collect::default(), 1);
        assert!(!readable(&fd));
    });
}

#[test]
fn an_interface_that_is_down_moved_and_deleted() {
    let (home, away) = (Netns::new(), Netns::new());
    home.run(|| {
        let mut held = open("tap0", 1);
        let one = |held: &Held| {
            let mut tally = Tally::new();
            with_burst(&[(&frame(100, 0), None, PLAIN)], |burst| tally = held.deliver(burst, None));
            tally
        };
        assert_eq!(one(&held).frames(), 1);
        ip("link set tap0 down");
        // Before the control thread hears of it, the kernel's word counts.
        assert_eq!(one(&held).drops(DropReason::PortBlocked), 1);
        held.tap.look();
        assert_eq!((held.state.connected(), held.state.link_up()), (true, false));
        assert_eq!(one(&held).drops(DropReason::PortBlocked), 1);

        ip(&format!("link set tap0 netns {} name eth0", away.0));
        held.tap.look();
        assert!(held.state.connected(), "it is elsewhere, and ours");
        ip(&format!("-n {} link set eth0 up", away.0));
        held.tap.look();
        assert!(held.state.link_up());
        let seen = away.run(|| {
            let mut user = Port::open("eth0", Driver::AfPacket);
            let seen = held.received(&user, &frame(200, 4), None, PLAIN);
            same(&seen, &frame(200, 4), 200);
            held.sent(&mut user, &frame(300, 5), None, PLAIN)
        });
        same(&seen, &frame(300, 5), 300);

        ip(&format!("-n {} link del eth0", away.0));
        assert_eq!(one(&held).drops(DropReason::NotConnected), 1, "and nothing worse");
        poll_nothing(&mut *held.queues[0]);
        assert!(matches!(held.queues[0].arm(), Arm::Quiet), "there is nothing to wait for");
        held.tap.look();
        assert!(!held.state.connected() && !held.state.link_up());
        assert_eq!(one(&held).drops(DropReason::NotConnected), 1);
        assert!(netlink::query("tap0").is_err());
        wait("another one", || {
            held.tap.look();
            held.state.connected()
        });
        ip("link set tap0 up");
        held.tap.look();
        let mut user = Port::open("tap0", Driver::AfPacket);
        held.sent(&mut user, &frame(100, 0), None, PLAIN);
        held.received(&user, &frame(100, 0), None, PLAIN);
    });
}
