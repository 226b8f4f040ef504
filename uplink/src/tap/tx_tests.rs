use std::os::fd::OwnedFd;

use arc_swap::ArcSwapOption;
use dataplane::{Csum, Gso, Offload, PortState};
use wire::Mac;

use super::*;
use crate::lab::{Netns, PLAIN, all, frame, ip, sums_hold, udp4, udp6, with_burst};
use crate::tap::TapSetup;

/// A packet socket on the only interface that is up.
fn packets() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, socket_with};
    socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, Some(eth::ALL)).expect("a packet socket")
}

/// As with kernels before 6.2.
#[test]
fn datagrams_are_cut_where_the_kernel_does_not() {
    Netns::new().run(|| {
        let setup = TapSetup { mac: Mac([0x00, 0x50, 0x56, 0, 0, 7]), mtu: 1500, queues: 1 };
        let opened = device::open("tap0", &setup).expect("a tap");
        let queues = opened.queues.into_iter().map(Arc::new).collect();
        let life = Life { generation: 1, queues, uso: false };
        let shared = Shared { life: ArcSwapOption::from_pointee(life), state: Arc::new(PortState::new()) };
        shared.state.set_link_up(true);
        let out = Transmitter::new(Arc::new(shared));
        ip("link set tap0 up");
        let user = packets();
        let next = || {
            let mut buffer = vec![0; 70_000];
            let got = rustix::net::recv(&user, &mut buffer[..], rustix::net::RecvFlags::empty());
            buffer.truncate(got.expect("a frame that was written before").0);
            buffer
        };
        for (bytes, header) in [(udp4(5500), 42), (udp6(5500), 62)] {
            let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::udp(1000, header)) };
            let plain = frame(100, 1);
            with_burst(&[(&bytes, None, offload), (&plain, None, PLAIN)], |burst| {
                let mut tally = Tally::new();
                out.deliver(burst, &all(burst, None), &mut tally);
                assert_eq!(tally.frames(), 7);
            });
            let mut payload = Vec::new();
            for len in [1000, 1000, 1000, 1000, 1000, 500] {
                let got = next();
                assert!(got.len() == usize::from(header) + len && sums_hold(&got), "{} bytes", got.len());
                payload.extend_from_slice(&got[header.into()..]);
            }
            assert!(payload == bytes[header.into()..]);
            assert_eq!(next(), plain);
        }
    });
}
