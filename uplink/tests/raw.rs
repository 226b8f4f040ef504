//! Frames between an uplink and the wire, seen bare on a tap.

mod lab;
mod port;

use dataplane::{Csum, DropReason, Gso, Offload, Tally};
use lab::{Collect, Netns, PLAIN, Tap, all, frame, poll_for, poll_nothing, tagged, with_burst};
use port::{Port, deliver};
use uplink::{Driver, RX_SLOTS, TX_SLOTS};
use wire::Tag;

fn open(device: &str) -> Port {
    Port::open(device, Driver::AfPacket)
}

/// Runs `body` with an uplink on a tap in a namespace of its own.
fn on_tap(body: impl FnOnce(&mut Port, &Tap) + Send) {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let mut port = open("tap0");
        assert!(port.state.connected());
        body(&mut port, &tap);
    });
}

#[test]
fn frames_pass_both_ways_untouched() {
    on_tap(|port, tap| {
        let sizes = [60, 61, 64, 128, 256, 1000, 1513, 1514];
        let sent: Vec<Vec<u8>> = sizes.iter().map(|n| frame(*n, *n as u8)).collect();
        for frame in &sent {
            tap.send(frame);
        }
        let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
        poll_for(&mut *port.queue, &mut sink, sent.len());
        for (seen, sent) in sink.frames.iter().zip(&sent) {
            assert_eq!((seen.len, seen.tag, seen.offload), (sent.len(), None, PLAIN));
            assert_eq!(seen.head, sent[..seen.head.len()]);
        }
        assert_eq!((sink.tally.frames(), sink.rejected.len()), (sent.len() as u64, 0));
        for sent in &sent {
            assert_eq!(&tap.recv(), sent);
        }
        let stats = port.uplink.stats();
        assert_eq!((stats.rx_frames, stats.rx_kernel_drops, stats.tx_busy), (sent.len() as u64, 0, 0));
    });
}

#[test]
fn rings_wrap_around() {
    on_tap(|port, tap| {
        let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
        let mut sent = 0usize;
        while sent < 3 * RX_SLOTS {
            for _ in 0..40 {
                tap.send(&frame(100, sent as u8));
                sent += 1;
            }
            poll_for(&mut *port.queue, &mut sink, sent);
            for (at, got) in tap.drain().into_iter().enumerate() {
                assert_eq!(got, frame(100, (sent - 40 + at) as u8), "in order");
            }
        }
        assert_eq!(sink.tally.frames(), sent as u64);
    });
}

#[test]
fn a_short_frame_is_padded_with_zeros() {
    on_tap(|port, tap| {
        let short = frame(42, 9);
        with_burst(&[(&short, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        let got = tap.recv();
        assert_eq!((got.len(), &got[..42], &got[42..]), (60, &short[..], &[0; 18][..]));
    });
}

#[test]
fn tags_are_restored_and_inserted() {
    on_tap(|port, tap| {
        let bare = frame(200, 3);
        tap.send(&tagged(&bare, 0x8100, 0xa00a));
        tap.send(&tagged(&bare, 0x8100, 0));
        let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
        poll_for(&mut *port.queue, &mut sink, 2);
        assert_eq!(sink.frames[0].tag, Some(Tag(0xa00a)), "priority 5, VLAN 10");
        assert_eq!(sink.frames[1].tag, Some(Tag(0)), "a priority tag");
        assert_eq!(sink.frames[0].len, bare.len());
        assert_eq!(sink.frames[0].head, bare[..64]);
        assert_eq!(tap.recv(), tagged(&bare, 0x8100, 0xa00a));
        assert_eq!(tap.recv(), tagged(&bare, 0x8100, 0));

        tap.send(&bare);
        let mut sink = Collect { echo: Some(&*port.out), retag: Some(Tag(4094)), ..Collect::default() };
        poll_for(&mut *port.queue, &mut sink, 1);
        assert_eq!(tap.recv(), tagged(&bare, 0x8100, 4094));
    });
}

#[test]
fn a_provider_tag_stays_in_the_frame() {
    on_tap(|port, tap| {
        let double = tagged(&tagged(&frame(100, 1), 0x8100, 7), 0x88a8, 0x6064);
        tap.send(&double);
        let stacked = tagged(&tagged(&frame(100, 1), 0x8100, 7), 0x8100, 9);
        tap.send(&stacked);
        let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
        poll_for(&mut *port.queue, &mut sink, 2);
        assert_eq!((sink.frames[0].tag, sink.frames[0].len), (None, double.len()));
        assert_eq!(sink.frames[0].head, double[..64]);
        assert_eq!((sink.frames[1].tag, sink.frames[1].len), (Some(Tag(9)), stacked.len() - 4), "the outermost only");
        assert_eq!(tap.recv(), double);
        assert_eq!(tap.recv(), stacked);
    });
}

#[test]
fn promiscuous_while_open_and_no_longer() {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let promiscuity = || lab::ip_word("-d link show dev tap0", "promiscuity");
        assert_eq!(promiscuity(), "0");
        let mut port = open("tap0");
        assert_eq!(promiscuity(), "1");
        let mut foreign = frame(80, 1);
        foreign[..6].copy_from_slice(&[0x00, 0x11, 0x22, 0x33, 0x44, 0x55]);
        tap.send(&foreign);
        let mut sink = Collect::default();
        poll_for(&mut *port.queue, &mut sink, 1);
        assert_eq!(sink.frames[0].head[..6], foreign[..6]);
        drop(port);
        assert_eq!(promiscuity(), "0", "the kernel takes it back with the socket");
    });
}

#[test]
fn own_frames_are_not_seen() {
    on_tap(|port, tap| {
        let ours = frame(90, 1);
        with_burst(&[(&ours, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), ours);
        // And what another program of this machine sends by the interface.
        lab::ip("addr add 10.9.9.1/24 dev tap0");
        let socket = std::net::UdpSocket::bind("10.9.9.1:0").unwrap();
        socket.send_to(b"x", "10.9.9.2:9").unwrap();
        let arp = tap.recv();
        assert_eq!(arp[12..14], [8, 6], "the kernel asks for the neighbour");
        poll_nothing(&mut *port.queue);
    });
}

#[test]
fn a_full_receive_ring_is_counted_to_the_frame() {
    on_tap(|port, tap| {
        let extra = 77;
        for n in 0..RX_SLOTS + extra {
            tap.send(&frame(60, n as u8));
        }
        let stats = port.uplink.stats();
        assert_eq!((stats.rx_frames, stats.rx_kernel_drops), (RX_SLOTS as u64, extra as u64));
        let mut sink = Collect::default();
        poll_for(&mut *port.queue, &mut sink, RX_SLOTS);
        poll_nothing(&mut *port.queue);
        for (n, seen) in sink.frames.iter().enumerate() {
            assert_eq!(seen.head, frame(60, n as u8), "the first ones, in order");
        }
        tap.send(&frame(60, 1));
        poll_for(&mut *port.queue, &mut sink, RX_SLOTS + 1);
        let stats = port.uplink.stats();
        assert_eq!((stats.rx_frames, stats.rx_kernel_drops), (RX_SLOTS as u64 + 1, extra as u64), "sums, not the last");
    });
}

#[test]
fn a_full_transmit_ring_is_ring_full_and_moves_on() {
    on_tap(|port, tap| {
        // Down behind the uplink's back: the kernel takes nothing.
        lab::ip("link set tap0 down");
        let count = TX_SLOTS + 45;
        let one = frame(60, 5);
        let mut tally = Tally::new();
        with_burst(&[(&one, None, PLAIN)], |burst| {
            for _ in 0..count {
                port.out.deliver(burst, &all(burst, None), &mut tally);
            }
        });
        assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (TX_SLOTS as u64, 45));
        assert!(port.uplink.stats().tx_busy > 0);
        assert!(tap.try_recv().is_none());
        lab::ip("link set tap0 up");
        let mut got = 0;
        lab::wait("what waited to go out when somebody polls", || {
            port.queue.poll(&mut Collect::default());
            got += tap.drain().len();
            got == TX_SLOTS
        });
        with_burst(&[(&one, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), one);
    });
}

#[test]
fn frames_from_before_a_cut_do_not_come_out_after_it() {
    on_tap(|port, tap| {
        lab::ip("link set tap0 down");
        let old = frame(60, 1);
        with_burst(&[(&old, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        port.uplink.handle(&uplink::netlink::query("tap0").unwrap());
        assert!(!port.state.link_up() && port.state.connected());
        with_burst(&[(&old, None, PLAIN)], |burst| {
            assert_eq!(deliver(port, burst).drops(DropReason::PortBlocked), 1);
        });
        lab::ip("link set tap0 up");
        lab::wait("link", || {
            port.uplink.handle(&uplink::netlink::query("tap0").unwrap());
            port.state.link_up()
        });
        let new = frame(60, 2);
        with_burst(&[(&new, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), new);
        assert!(tap.try_recv().is_none());
        let stats = port.uplink.stats();
        assert_eq!((stats.tx_stale, stats.opened), (1, 2));
        tap.send(&new);
        poll_for(&mut *port.queue, &mut Collect::default(), 1);
    });
}

#[test]
fn longer_than_the_interface_takes_is_oversize() {
    on_tap(|port, tap| {
        let (fits, long) = (frame(1514, 1), frame(1515, 1));
        let segments = Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(1461, 54)) };
        let jumbo = lab::tcp4(4000);
        let frames: [(&[u8], _, _); 4] =
            [(&fits, None, PLAIN), (&long, None, PLAIN), (&fits, Some(Tag(5)), PLAIN), (&jumbo, None, segments)];
        with_burst(&frames, |burst| {
            let tally = deliver(port, burst);
            assert_eq!((tally.frames(), tally.drops(DropReason::Oversize)), (2, 2));
        });
        assert_eq!(tap.recv(), fits);
        assert_eq!(tap.recv(), tagged(&fits, 0x8100, 5), "a tag comes on top");
        lab::ip("link set tap0 mtu 9000");
        port.uplink.handle(&uplink::netlink::query("tap0").unwrap());
        let giant = frame(9014, 1);
        with_burst(&[(&giant, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), giant);
        tap.send(&giant);
        let mut sink = Collect::default();
        poll_for(&mut *port.queue, &mut sink, 1);
        assert_eq!(sink.frames[0].len, 9014);
    });
}

/// `struct virtio_net_hdr`.
fn vnet(flags: u8, gso_type: u8, words: [u16; 4]) -> [u8; 10] {
    let mut header = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, word) in words.iter().enumerate() {
        header[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
    }
    header
}

#[test]
fn unfinished_checksums_are_taken_in_and_finished_on_the_way_out() {
    Netns::new().run(|| {
        let (peer, wire) = (Tap::with_vnet("tap0"), Tap::new("tap1"));
        let (mut port, out) = (open("tap0"), open("tap1"));
        for (bytes, start) in [(lab::tcp4(300), 34), (lab::tcp6(301), 54)] {
            assert!(!lab::sums_hold(&bytes));
            peer.send_vnet(vnet(1, 0, [0, 0, start, 16]), &bytes);
            let mut sink = Collect { echo: Some(&*out.out), ..Collect::default() };
            poll_for(&mut *port.queue, &mut sink, 1);
            assert_eq!(sink.frames[0].offload.csum, Csum::Fill { start, at: start + 16 });
            let got = wire.recv();
            assert!(lab::sums_hold(&got));
            assert_eq!(got[start as usize + 18..], bytes[start as usize + 18..]);
            // With a tag, where every offset is four more.
            peer.send_vnet(vnet(1, 0, [0, 0, start, 16]), &bytes);
            let mut sink = Collect { echo: Some(&*out.out), retag: Some(Tag(100)), ..Collect::default() };
            poll_for(&mut *port.queue, &mut sink, 1);
            let got_tagged = wire.recv();
            assert_eq!(got_tagged, tagged(&got, 0x8100, 100));
        }
    });
}

#[test]
fn segments_larger_than_the_wire_are_taken_in_and_cut_on_the_way_out() {
    Netns::new().run(|| {
        let (peer, wire) = (Tap::with_vnet("tap0"), Tap::new("tap1"));
        let (mut port, out) = (open("tap0"), open("tap1"));
        // The largest there is: 65,535 bytes of IP packet.
        for (bytes, kind, header) in [(lab::tcp4(65_495), 1, 54u16), (lab::tcp6(65_475), 4, 74)] {
            for tag in [None, Some(Tag(20))] {
                let mss = 1514 - header;
                // A header length that is only a hint, and a wrong one.
                peer.send_vnet(vnet(1, kind, [header + 6, mss, header - 20, 16]), &bytes);
                let mut sink = Collect { echo: Some(&*out.out), retag: tag, ..Collect::default() };
                poll_for(&mut *port.queue, &mut sink, 1);
                assert_eq!(sink.rejected, []);
                assert_eq!(sink.frames[0].offload.gso, Some(Gso::tcp(mss, header)));
                assert_eq!((sink.frames[0].len, sink.tally.frames()), (bytes.len(), 1));
                let payload = cut_payload(&wire, bytes.len() - usize::from(header), usize::from(header), tag);
                assert_eq!(payload, bytes[usize::from(header)..]);
            }
        }
        assert_eq!(out.uplink.stats().tx_refused, 0);
    });
}

/// Reads segments off the wire until `total` bytes of payload are there; each must be whole and right.
fn cut_payload(wire: &Tap, total: usize, header: usize, tag: Option<Tag>) -> Vec<u8> {
    let mut payload = Vec::new();
    while payload.len() < total {
        let mut got = wire.recv();
        if let Some(tag) = tag {
            assert_eq!(got[12..16], tag.bytes());
            got.drain(12..16);
        }
        assert!(got.len() <= 1514);
        assert!(lab::sums_hold(&got), "segment at {}", payload.len());
        let sequence = wire::be32(&got, header - 16).unwrap();
        assert_eq!(sequence, 1000 + payload.len() as u32, "in order");
        payload.extend_from_slice(&got[header..]);
    }
    payload
}

/// The kernel below the way out cuts them; one that does not is `datagrams_are_cut_where_the_kernel_does_not`.
#[test]
fn datagrams_under_one_header_are_taken_in_and_cut_on_the_way_out() {
    Netns::new().run(|| {
        let (peer, wire) = (Tap::with_vnet("tap0"), Tap::new("tap1"));
        let (mut port, out) = (open("tap0"), open("tap1"));
        for (bytes, header) in [(lab::udp4(60_000), 42u16), (lab::udp6(60_001), 62)] {
            for tag in [None, Some(Tag(20))] {
                peer.send_vnet(vnet(1, 5, [header, 1400, header - 8, 6]), &bytes);
                let mut sink = Collect { echo: Some(&*out.out), retag: tag, ..Collect::default() };
                poll_for(&mut *port.queue, &mut sink, 1);
                assert_eq!(sink.rejected, []);
                assert_eq!(sink.frames[0].offload.gso, Some(Gso::udp(1400, header)));
                assert_eq!(sink.frames[0].len, bytes.len());
                let mut payload = Vec::new();
                while payload.len() < bytes.len() - usize::from(header) {
                    let mut got = wire.recv();
                    if let Some(tag) = tag {
                        assert_eq!(got.drain(12..16).collect::<Vec<_>>()[2..], tag.0.to_be_bytes());
                    }
                    assert!(lab::sums_hold(&got) && got.len() <= usize::from(header) + 1400);
                    payload.extend_from_slice(&got[header.into()..]);
                }
                assert!(payload == bytes[header.into()..]);
            }
        }
        assert_eq!(out.uplink.stats().tx_refused, 0);
    });
}

#[test]
fn a_checksum_request_the_kernel_would_refuse_is_met_here() {
    on_tap(|port, tap| {
        // A guest may ask for a sum over anything behind the Ethernet header.
        let mut bytes = frame(100, 7);
        bytes[30..32].fill(0);
        let offload = Offload { csum: Csum::Fill { start: 14, at: 30 }, gso: None };
        with_burst(&[(&bytes, None, offload), (&bytes, Some(Tag(3)), offload)], |burst| {
            assert_eq!(deliver(port, burst).frames(), 2);
        });
        let mut want = bytes.clone();
        want[30..32].copy_from_slice(&(!wire::checksum::sum_be(&bytes[14..])).to_be_bytes());
        assert_eq!(tap.recv(), want);
        assert_eq!(tap.recv(), tagged(&want, 0x8100, 3));
        assert_eq!(port.uplink.stats().tx_refused, 0);
    });
}
