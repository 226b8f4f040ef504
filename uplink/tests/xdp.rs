//! AF_XDP uplinks: frames, rungs, queues, and what is left behind.

mod lab;
mod port;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use dataplane::{Csum, DropReason, Grace, Gso, Ingress, Offload, PortState, Tally};
use lab::{Collect, Netns, PLAIN, Tap, all, ethtool, frame, ip, ip_output, poll_for, poll_nothing, tagged, with_burst};
use port::{Port, deliver};
use uplink::{Driver, OpenError, Uplink, XDP_RX_FRAMES, XDP_TX_FRAMES};
use wire::Tag;

/// Runs `body` with an AF_XDP uplink on a tap in a namespace of its own.
fn on_tap(body: impl FnOnce(&mut Port, &Tap) + Send) {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let mut port = Port::open("tap0", Driver::AfXdp);
        assert_eq!(port.uplink.driver(), "af_xdp");
        body(&mut port, &tap);
    });
}

/// Runs `body` with an AF_XDP uplink `v0` on a veth of MTU `mtu` whose peer is a port of a bridge, as is a tap: a
/// host on a physical switch. The bridge takes tags out of frames and lets the veth send them beside.
fn behind_a_bridge(mtu: u32, body: impl FnOnce(&mut Port, &Tap) + Send) {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip(&format!("link set tap0 mtu {mtu} master br0"));
        ip(&format!("link add v0 mtu {mtu} type veth peer name v1 mtu {mtu}"));
        ip("link set v1 up master br0");
        let mut port = Port::open("v0", Driver::AfXdp);
        lab::wait("the bridge to forward", || {
            tap.send(&frame(60, 0));
            let mut sink = Collect::default();
            port.queue.poll(&mut sink);
            !sink.frames.is_empty()
        });
        while port.queue.poll(&mut Collect::default()) > 0 {}
        body(&mut port, &tap);
    });
}

/// Polls for `count` frames of the tests' EtherType; the bridge says things of its own.
fn poll_tests(queue: &mut dyn Ingress, sink: &mut Collect<'_>, count: usize) {
    lab::wait(&format!("{count} frames"), || {
        queue.poll(sink);
        sink.frames.retain(|f| f.head[12..14] != [8, 0] && f.head[12..14] != [8, 6] && f.head[12..14] != [0x86, 0xdd]);
        sink.frames.len() >= count
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
        while sent < 2 * XDP_RX_FRAMES + 100 {
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
fn short_frames_are_padded_and_tags_inserted_and_taken_out() {
    on_tap(|port, tap| {
        let short = frame(42, 9);
        with_burst(&[(&short, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        let got = tap.recv();
        assert_eq!((got.len(), &got[..42], &got[42..]), (60, &short[..], &[0; 18][..]));
        let bare = frame(200, 3);
        let stacked = tagged(&tagged(&bare, 0x8100, 7), 0x8100, 9);
        for frame in [&tagged(&bare, 0x8100, 0xa00a), &tagged(&bare, 0x8100, 0), &tagged(&bare, 0x88a8, 5), &stacked] {
            tap.send(frame);
            let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
            poll_for(&mut *port.queue, &mut sink, 1);
            let tag = wire::be16(frame, 12).filter(|t| *t == 0x8100).and_then(|_| wire::be16(frame, 14)).map(Tag);
            assert_eq!(sink.frames[0].tag, tag);
            assert_eq!(&tap.recv(), frame);
        }
        tap.send(&bare);
        let mut sink = Collect { echo: Some(&*port.out), retag: Some(Tag(4094)), ..Collect::default() };
        poll_for(&mut *port.queue, &mut sink, 1);
        assert_eq!(tap.recv(), tagged(&bare, 0x8100, 4094));
    });
}

/// What a bridge sends by a veth has its tag beside it, where XDP does not see it.
#[test]
fn a_tag_the_veth_keeps_beside_the_frame_is_put_back() {
    let told = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let name = b"\0bpf_xdp_metadata_rx_vlan_tag\0";
    assert!(told.windows(name.len()).any(|w| w == name), "this test needs Linux 6.8 or later with BTF");
    for mtu in [1500, 9000] {
        behind_a_bridge(mtu, |port, tap| {
            let (bare, long) = (frame(200, 3), frame(mtu as usize + 14, 4));
            let stacked = tagged(&tagged(&bare, 0x8100, 7), 0x8100, 9);
            let frames = [
                tagged(&bare, 0x8100, 0xa00a),
                stacked,
                tagged(&bare, 0x88a8, 5),
                bare,
                tagged(&long, 0x8100, 5),
                long,
            ];
            for sent in &frames {
                tap.send(sent);
            }
            let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
            poll_tests(&mut *port.queue, &mut sink, frames.len());
            let tags: Vec<_> = sink.frames.iter().map(|f| f.tag).collect();
            assert_eq!(tags, [Some(Tag(0xa00a)), Some(Tag(9)), None, None, Some(Tag(5)), None]);
            for (seen, sent) in sink.frames.iter().zip(&frames) {
                let untagged = if seen.tag.is_some() { [&sent[..12], &sent[16..]].concat() } else { sent.clone() };
                assert_eq!((seen.len, &seen.head[..]), (untagged.len(), &untagged[..seen.head.len()]));
            }
            assert_eq!(sink.rejected, []);
        });
    }
}

#[test]
fn promiscuous_while_open_and_no_longer_and_offloads_come_back() {
    let ns = Netns::new();
    ns.run(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        let promiscuity = || lab::ip_word("-d link show dev v0", "promiscuity");
        let rxvlan = || ethtool(&ns.0, "-k v0").contains("rx-vlan-offload: on");
        let program = || ip_output("link show dev v0").contains("xdp");
        assert_eq!((promiscuity().as_str(), rxvlan(), program()), ("0", true, false));
        let port = Port::open("v0", Driver::AfXdp);
        assert_eq!((promiscuity().as_str(), rxvlan(), program()), ("1", false, true));
        drop(port);
        assert_eq!((promiscuity().as_str(), rxvlan(), program()), ("0", true, false));
    });
}

#[test]
fn own_frames_are_not_seen_and_foreign_ones_are() {
    on_tap(|port, tap| {
        let ours = frame(90, 1);
        with_burst(&[(&ours, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), ours);
        poll_nothing(&mut *port.queue);
        let mut foreign = frame(80, 1);
        foreign[..6].copy_from_slice(&[0x00, 0x11, 0x22, 0x33, 0x44, 0x55]);
        tap.send(&foreign);
        let mut sink = Collect::default();
        poll_for(&mut *port.queue, &mut sink, 1);
        assert_eq!(sink.frames[0].head[..6], foreign[..6]);
    });
}

#[test]
fn a_full_receive_ring_is_counted_to_the_frame() {
    on_tap(|port, tap| {
        let extra = 77;
        for n in 0..XDP_RX_FRAMES + extra {
            tap.send(&frame(60, n as u8));
        }
        let mut sink = Collect::default();
        poll_for(&mut *port.queue, &mut sink, XDP_RX_FRAMES);
        poll_nothing(&mut *port.queue);
        for (n, seen) in sink.frames.iter().enumerate() {
            assert_eq!(seen.head, frame(60, n as u8), "the first ones, in order");
        }
        tap.send(&frame(60, 1));
        poll_for(&mut *port.queue, &mut sink, XDP_RX_FRAMES + 1);
        for _ in 0..2 {
            let stats = port.uplink.stats();
            let want = (XDP_RX_FRAMES as u64 + 1, extra as u64);
            assert_eq!((stats.rx_frames, stats.rx_kernel_drops), want, "sums, not the last");
        }
    });
}

#[test]
fn a_full_transmit_ring_is_ring_full_and_moves_on() {
    on_tap(|port, tap| {
        // Down behind the uplink's back: the kernel takes nothing.
        ip("link set tap0 down");
        let one = frame(60, 5);
        let mut tally = Tally::new();
        with_burst(&[(&one, None, PLAIN)], |burst| {
            for _ in 0..XDP_TX_FRAMES + 45 {
                port.out.deliver(burst, &all(burst, None), &mut tally);
            }
        });
        assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (XDP_TX_FRAMES as u64, 45));
        assert!(port.uplink.stats().tx_busy > 0);
        assert!(tap.try_recv().is_none());
        ip("link set tap0 up");
        let mut got = 0;
        lab::wait("what waited to go out when somebody polls", || {
            port.queue.poll(&mut Collect::default());
            got += tap.drain().len();
            got == XDP_TX_FRAMES
        });
        with_burst(&[(&one, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert_eq!(tap.recv(), one);
    });
}

#[test]
fn frames_from_before_a_cut_do_not_come_out_after_it() {
    on_tap(|port, tap| {
        ip("link set tap0 down");
        let old = frame(60, 1);
        with_burst(&[(&old, None, PLAIN)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        port.uplink.handle(&uplink::netlink::query("tap0").unwrap());
        assert!(!port.state.link_up() && port.state.connected());
        with_burst(&[(&old, None, PLAIN)], |burst| {
            assert_eq!(deliver(port, burst).drops(DropReason::PortBlocked), 1);
        });
        ip("link set tap0 up");
        lab::wait("link", || uplink::netlink::query("tap0").unwrap().up);
        // Told once: there may be no second time.
        port.uplink.handle(&uplink::netlink::query("tap0").unwrap());
        assert!(port.state.connected() && port.state.link_up());
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
    });
}

#[test]
fn jumbo_frames_in_several_chunks_after_the_mtu_rose() {
    behind_a_bridge(9000, |port, tap| {
        // Back to where one chunk is enough, and up again.
        for (mtu, opened) in [(1500, 1), (9000, 1)] {
            ip(&format!("link set v0 mtu {mtu}"));
            port.uplink.handle(&uplink::netlink::query("v0").unwrap());
            assert_eq!(port.uplink.stats().opened, opened, "what takes long frames takes short ones");
        }
        let sent: Vec<_> = [3840, 3841, 7680, 7681, 9014].map(|n| frame(n, n as u8)).into();
        for _ in 0..100 {
            // More than a burst's worth of chunks at once, so that frames are cut between two looks.
            for _ in 0..4 {
                sent.iter().for_each(|frame| tap.send(frame));
            }
            let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
            poll_tests(&mut *port.queue, &mut sink, 4 * sent.len());
            let lengths: Vec<_> = sink.frames.iter().map(|f| f.len).collect();
            assert_eq!(lengths, sent.iter().map(Vec::len).collect::<Vec<_>>().repeat(4));
            assert_eq!(sink.rejected, []);
        }
        assert_eq!(port.uplink.stats().rx_kernel_drops, 0);
    });
    Netns::new().run(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 mtu 9000 up");
        let mut port = Port::open("v0", Driver::AfXdp);
        ip("link set v0 mtu 9000");
        port.await_link();
        port.uplink.handle(&uplink::netlink::query("v0").unwrap());
        assert_eq!(port.uplink.stats().opened, 2, "for several chunks");
        assert!(port.state.link_up());
        let mut peer = Port::open("v1", Driver::AfPacket);
        let giant = frame(9014, 1);
        let pair = [(&giant[..], None, PLAIN), (&giant[..], Some(Tag(9)), PLAIN)];
        with_burst(&pair, |burst| assert_eq!(deliver(&port, burst).frames(), 2));
        with_burst(&pair, |burst| assert_eq!(deliver(&peer, burst).frames(), 2));
        for queue in [&mut peer.queue, &mut port.queue] {
            let mut sink = Collect::default();
            poll_for(&mut **queue, &mut sink, 2);
            assert!(sink.frames.iter().all(|f| f.len == 9014 && f.head == giant[..f.head.len()]));
            assert_eq!(sink.frames[1].tag, Some(Tag(9)));
        }
    });
}

#[test]
fn segments_are_cut_and_checksums_filled_in_on_the_way_out() {
    on_tap(|port, tap| {
        for (bytes, header) in [(lab::tcp4(65_495), 54u16), (lab::tcp6(65_475), 74)] {
            let mss = 1514 - header;
            let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, header)) };
            let count = (bytes.len() - usize::from(header)).div_ceil(usize::from(mss));
            with_burst(&[(&bytes, Some(Tag(20)), offload)], |burst| {
                let tally = deliver(port, burst);
                assert_eq!(tally.frames(), count as u64);
            });
            let mut payload = Vec::new();
            for _ in 0..count {
                let mut got = tap.recv();
                assert_eq!(got.drain(12..16).collect::<Vec<_>>(), tagged(&[0; 14], 0x8100, 20)[12..16]);
                assert!(got.len() <= 1514 && lab::sums_hold(&got));
                payload.extend_from_slice(&got[usize::from(header)..]);
            }
            assert_eq!(payload, bytes[usize::from(header)..]);
        }
        let bytes = lab::tcp4(301);
        let fill = Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None };
        with_burst(&[(&bytes, None, fill)], |burst| assert_eq!(deliver(port, burst).frames(), 1));
        assert!(lab::sums_hold(&tap.recv()));
    });
}

/// More segments at once than there are chunks: the kernel is told in between, and none is lost.
#[test]
fn a_burst_of_segments_larger_than_the_ring() {
    on_tap(|port, tap| {
        let bytes = lab::tcp4(65_495);
        let offload = Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(536, 54)) };
        let count = 65_495usize.div_ceil(536);
        let burst: Vec<(&[u8], _, _)> = vec![(&bytes, None, offload); 32];
        assert!(count * burst.len() > XDP_TX_FRAMES);
        // As many as a tap holds.
        ip("link set tap0 txqueuelen 5000");
        with_burst(&burst, |burst| {
            let tally = deliver(port, burst);
            assert_eq!(tally.frames(), (count * burst.frames().len()) as u64);
        });
        assert_eq!(tap.drain().len(), count * burst.len());
        assert_eq!(port.uplink.stats().tx_busy, 0);
    });
}

#[test]
fn the_rung_and_its_reason_are_told() {
    Netns::new().run(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        let port = Port::open("v0", Driver::AfXdp);
        assert_eq!(port.uplink.rung(), "copy: zero-copy refused: Operation not supported");
        // Two programs on one interface there cannot be.
        let other = Uplink::open_with("b", "v0", Driver::AfXdp, Arc::new(PortState::new()), Grace::new(0), 1500);
        let error = other.err().expect("a refusal");
        assert!(matches!(error, OpenError::NoXdp { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "network interface \"v0\" takes no AF_XDP socket: another XDP program is at work on it; \
             use driver = \"auto\" or \"af_packet\""
        );
        drop(port);
        let port = Port::open("v0", Driver::Auto);
        assert_eq!(port.uplink.driver(), "af_packet");
        assert!(port.uplink.rung().starts_with("mapped rings: af_xdp not used: a veth interface"));
        let port = Port::open("v1", Driver::AfPacket);
        assert_eq!((port.uplink.driver(), port.uplink.rung()), ("af_packet", "mapped rings"));
    });
}

#[test]
fn generic_mode_where_the_driver_has_no_xdp() {
    let ns = Netns::new();
    ns.run(|| {
        let tap = Tap::new("tap0");
        ip("link add br0 type bridge");
        ip("link set tap0 master br0");
        let gro = || ethtool(&ns.0, "-k br0").contains("generic-receive-offload: on");
        assert!(gro());
        let mut port = Port::open("br0", Driver::AfXdp);
        assert!(!gro(), "it would join frames before they are seen");
        let rung = port.uplink.rung();
        assert!(rung.starts_with("generic: native XDP refused: "), "{rung}");
        lab::wait("the bridge to forward", || {
            tap.send(&frame(60, 0));
            port.queue.poll(&mut Collect::default()) > 0
        });
        tap.drain();
        let sent = frame(777, 1);
        tap.send(&sent);
        let mut sink = Collect { echo: Some(&*port.out), ..Collect::default() };
        lab::wait("the frame", || {
            port.queue.poll(&mut sink);
            sink.frames.iter().any(|f| f.len == 777)
        });
        lab::wait("its echo", || tap.drain().contains(&sent));
        drop(port);
        assert!(gro());
    });
}

/// A veth with several queues, whose peer spreads flows over them.
fn pair_with_queues(queues: usize) {
    ip(&format!(
        "link add v0 numrxqueues {queues} numtxqueues {queues} type veth peer name v1 numrxqueues {queues} numtxqueues {queues}"
    ));
    ip("link set v1 up");
}

/// Frames of 64 flows, by UDP's ports.
fn flows() -> Vec<Vec<u8>> {
    let flow = |n: u8| {
        let mut bytes = lab::tcp4(100);
        bytes[23] = 17;
        bytes[35] = n;
        bytes[24..26].fill(0);
        let sum = !wire::checksum::sum_be(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    (0..64).map(flow).collect()
}

/// Sends 64 flows from `peer`; returns how many frames came in by each of `queues`.
fn spread(peer: &Port, queues: &mut [&mut Box<dyn Ingress>]) -> Vec<usize> {
    let flows = flows();
    for part in flows.chunks(32) {
        let burst: Vec<(&[u8], _, _)> = part.iter().map(|f| (&f[..], None, PLAIN)).collect();
        with_burst(&burst, |burst| assert_eq!(deliver(peer, burst).frames(), burst.frames().len() as u64));
    }
    let mut seen = vec![0; queues.len()];
    let mut ports = HashSet::new();
    lab::wait("64 flows", || {
        for (queue, seen) in queues.iter_mut().zip(&mut seen) {
            let mut sink = Collect::default();
            queue.poll(&mut sink);
            *seen += sink.frames.len();
            ports.extend(sink.frames.iter().map(|f| f.head[35]));
        }
        seen.iter().sum::<usize>() >= 64
    });
    assert_eq!((seen.iter().sum::<usize>(), ports.len()), (64, 64), "each once");
    seen
}

#[test]
fn several_queues_spread_over_workers() {
    Netns::new().run(|| {
        pair_with_queues(2);
        let mut port = Port::open("v0", Driver::AfXdp);
        assert_eq!(port.others.len(), 1, "two queues");
        let peer = Port::open("v1", Driver::AfPacket);
        let seen = spread(&peer, &mut [&mut port.queue, &mut port.others[0]]);
        assert!(seen.iter().all(|n| *n > 8), "both have some: {seen:?}");
        assert_eq!(port.uplink.stats().rx_frames, 64);
        // Several workers send, each by its queue, all frames arrive in each worker's order.
        let mut peer = peer;
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                let out = port.out.clone();
                scope.spawn(move || {
                    for n in 0..50u8 {
                        let mut bytes = frame(100, 0);
                        (bytes[20], bytes[21]) = (worker, n);
                        let mut tally = Tally::new();
                        with_burst(&[(&bytes, None, PLAIN)], |b| out.deliver(b, &all(b, None), &mut tally));
                        assert_eq!(tally.frames(), 1);
                    }
                });
            }
        });
        let mut sink = Collect::default();
        poll_for(&mut *peer.queue, &mut sink, 200);
        for worker in 0..4 {
            let order: Vec<_> = sink.frames.iter().filter(|f| f.head[20] == worker).map(|f| f.head[21]).collect();
            assert_eq!(order, (0..50).collect::<Vec<u8>>());
        }
        assert_eq!(port.uplink.stats().tx_refused, 0);
    });
}

#[test]
fn an_interface_that_returns_with_other_queues() {
    Netns::new().run(|| {
        pair_with_queues(2);
        let mut port = Port::open("v0", Driver::AfXdp);
        for queues in [3, 1, 2, 5] {
            let last = uplink::netlink::query("v0").unwrap();
            ip("link del v0");
            port.uplink.handle(&uplink::netlink::LinkEvent { exists: false, ..last });
            assert!(!port.state.connected());
            pair_with_queues(queues);
            port.await_link();
            let peer = Port::open("v1", Driver::AfPacket);
            spread(&peer, &mut [&mut port.queue, &mut port.others[0]]);
        }
        assert_eq!((port.uplink.stats().opened, port.uplink.stats().rx_frames), (5, 4 * 64));
    });
}

/// The test runs itself as the process that is killed: [`HOLD`] says that it is that one.
const HOLD: &str = "VSWITCH_TEST_HOLD";

#[test]
fn a_kill_leaves_nothing_behind() {
    if let Ok(device) = std::env::var(HOLD) {
        let port = Port::open(&device, Driver::AfXdp);
        println!("\nopen by {}", port.uplink.driver());
        std::thread::sleep(lab::PATIENCE);
        return;
    }
    let ns = Netns::new();
    ns.run(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        let me = std::env::current_exe().expect("this program");
        for _ in 0..3 {
            let mut held = Command::new("ip")
                .args(["netns", "exec", &ns.0])
                .arg(&me)
                .args(["--exact", "a_kill_leaves_nothing_behind", "--nocapture"])
                .env(HOLD, "v0")
                .stdout(Stdio::piped())
                .spawn()
                .expect("ip");
            let output = BufReader::new(held.stdout.take().expect("a pipe"));
            assert!(output.lines().map_while(Result::ok).any(|line| line == "open by af_xdp"));
            assert!(ip_output("link show dev v0").contains("xdp"));
            assert_eq!(lab::ip_word("-d link show dev v0", "promiscuity"), "1");
            held.kill().expect("to kill it");
            held.wait().expect("its end");
            lab::wait("the kernel to clear up", || !ip_output("link show dev v0").contains("xdp"));
            assert_eq!(lab::ip_word("-d link show dev v0", "promiscuity"), "0");
        }
        let port = Port::open("v0", Driver::AfXdp);
        assert_eq!(port.uplink.driver(), "af_xdp", "and it can be opened again");
    });
}
