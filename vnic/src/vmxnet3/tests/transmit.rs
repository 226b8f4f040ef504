//! From the rings into the switch.

use dataplane::{Csum, DropReason, Gso, Offload};
use wire::Tag;

use super::driver::*;
use crate::vmxnet3::shared_area::{at, queue};
use crate::vmxnet3::{commands, registers};

#[test]
fn a_frame_in_pieces_arrives_whole_and_is_completed_once() {
    let mut guest = Guest::started(Options::default());
    let frame = ether(PEER, MAC, 1000, 3);
    guest.send(0, &[&frame[..14], &frame[14..500], &frame[500..]], Ask::default());
    let caught = guest.poll(0);
    assert_eq!((caught.taken, caught.frames.len()), (1, 1));
    assert_eq!(caught.frames[0], Sent { data: frame, tag: None, offload: Offload::default() });
    assert_eq!(guest.completed(0), [2], "the index of the last descriptor");
    assert_eq!(guest.interrupts(0), 1);
    assert_eq!(guest.poll(0).taken, 0);
    assert!(guest.completed(0).is_empty());
}

#[test]
fn an_unfinished_chain_waits() {
    let mut guest = Guest::started(Options::default());
    let frame = ether(PEER, MAC, 100, 3);
    guest.send_endless(0, 1);
    assert_eq!(guest.poll(0).taken, 0);
    assert!(guest.completed(0).is_empty());
    guest.send(0, &[&frame], Ask::default());
    let caught = guest.poll(0);
    assert_eq!(caught.frames[0].data.len(), 164, "the first piece and the rest are one frame");
}

#[test]
fn bursts_are_full_and_wrap_the_rings() {
    let mut guest = Guest::started(Options { tx_size: 32, ..Options::default() });
    let mut sent = 0;
    for round in 0..20u8 {
        let n = 15u8;
        for i in 0..n {
            let frame = ether(PEER, MAC, 60 + usize::from(i), round);
            guest.send(0, &[&frame[..20], &frame[20..]], Ask::default());
        }
        let caught = guest.poll(0);
        assert_eq!(caught.frames.len(), usize::from(n));
        for (i, frame) in caught.frames.iter().enumerate() {
            assert_eq!(frame.data, ether(PEER, MAC, 60 + i, round));
        }
        assert_eq!(guest.completed(0).len(), usize::from(n));
        assert_eq!(guest.interrupts(0), 1, "one interrupt per burst");
        guest.store(0, 0);
        sent += u64::from(n);
    }
    assert_eq!(sent, 300);
    let mut guest = Guest::started(Options { tx_size: 128, ..Options::default() });
    (0..50).for_each(|i| guest.send(0, &[&ether(PEER, MAC, 60, i)], Ask::default()));
    assert_eq!((guest.poll(0).taken, guest.poll(0).taken, guest.poll(0).taken), (32, 18, 0));
}

/// FreeBSD's driver asks for the completion of some frames only.
#[test]
fn frames_without_a_request_are_not_completed_and_go_as_fast() {
    let mut guest = Guest::started(Options::default());
    let frame = ether(PEER, MAC, 60, 1);
    for round in 0..20 {
        let mut wanted = Vec::new();
        for n in 0..30 {
            let last = n % 10 == 9;
            if last {
                wanted.push((round * 30 + n) % 64);
            }
            guest.send(0, &[&frame], Ask { no_completion: !last, ..Ask::default() });
        }
        let caught = guest.poll(0);
        assert_eq!((caught.taken, caught.bursts.len()), (30, 1));
        assert!(caught.frames.iter().all(|caught| caught.data == frame));
        assert_eq!(guest.completed(0), wanted);
    }
}

#[test]
fn offload_requests_and_tags() {
    let mut guest = Guest::started(Options { mtu: 9000, ..Options::default() });
    let frame = tcp(false, 100);
    guest.send(0, &[&frame], Ask { mode: 2, hlen: 34, msscof: 50, tag: Some(0xa064), ..Ask::default() });
    let big = tcp(true, 30_000);
    let pieces: Vec<&[u8]> = std::iter::once(&big[..74]).chain(big[74..].chunks(4096)).collect();
    guest.send(0, &pieces, Ask { mode: 3, hlen: 74, msscof: 1428, ..Ask::default() });
    guest.send(0, &[&frame], Ask { mode: 1, hlen: 34, msscof: 50, ..Ask::default() });
    guest.send(0, &[&frame], Ask { mode: 3, hlen: 54, msscof: 0, ..Ask::default() });
    guest.send(0, &[&frame], Ask { mode: 2, hlen: 200, msscof: 300, ..Ask::default() });
    let caught = guest.poll(0);
    assert_eq!(caught.frames[0].offload.csum, Csum::Fill { start: 34, at: 50 });
    assert_eq!(caught.frames[0].tag, Some(Tag(0xa064)));
    assert_eq!(caught.frames[0].data, frame);
    assert_eq!(caught.frames[1].offload.gso, Some(Gso::tcp(1428, 74)));
    assert_eq!(caught.frames[1].data.len(), big.len());
    let bad: Vec<DropReason> = caught.rejected.iter().map(|r| r.0).collect();
    assert_eq!(bad, [DropReason::BadOffload; 3]);
    assert_eq!(guest.completed(0).len(), 5);
    assert_eq!(guest.command(commands::GET_STATS), 0);
    let stat = |i: u64| guest.get64(QUEUES + u64::from(queue::STATS) + i * 8);
    assert_eq!((stat(0), stat(1)), (22, big.len() as u64), "segments and bytes of TSO frames");
    assert_eq!((stat(2), stat(3)), (2, (frame.len() + big.len()) as u64), "unicast");
    assert_eq!((stat(8), stat(9)), (3, 0), "errors, discards");
}

#[test]
fn length_zero_means_16384() {
    let mut guest = Guest::started(Options::default());
    let frame = ether(PEER, MAC, 16384 + 6, 3);
    guest.put(BASE + 0x30_0000, &frame);
    guest.send_at(0, &[(BASE + 0x30_0000, 0), (BASE + 0x30_0000 + 16384, 6)], Ask::default());
    assert_eq!(guest.poll(0).frames[0].data, frame);
}

#[test]
fn bad_descriptors_cost_the_frame_and_are_completed() {
    let mut guest = Guest::started(Options { tx_size: 128, ..Options::default() });
    let good = ether(PEER, MAC, 64, 1);
    guest.send_at(0, &[(0x10, 64)], Ask::default());
    guest.send_at(0, &[(BASE + MEMORY as u64 - 10, 64)], Ask::default());
    guest.send_at(0, &[(u64::MAX - 10, 64)], Ask::default());
    guest.send_at(0, &vec![(BASE, 1); 65], Ask::default());
    guest.send(0, &[&good[..10]], Ask::default());
    guest.send_at(0, &[(BASE, 0), (BASE, 0), (BASE, 0), (BASE, 0), (BASE, 0)], Ask::default());
    guest.send(0, &[&good], Ask { no_completion: true, ..Ask::default() });
    let caught = guest.poll(0);
    use DropReason::{BadDescriptor, Oversize, Runt};
    let reasons: Vec<DropReason> = caught.rejected.iter().map(|r| r.0).collect();
    assert_eq!(reasons, [BadDescriptor, BadDescriptor, BadDescriptor, BadDescriptor, Runt, Oversize]);
    assert_eq!(caught.frames[0].data, good);
    assert_eq!(caught.taken, 7, "all are accounted for");
    assert_eq!(guest.completed(0).len(), 6, "and completed, but for the one that asked for none");
}

#[test]
fn a_buffer_may_span_two_mappings() {
    let mut guest = Guest::started(Options::default());
    let half = MEMORY as u64 / 2;
    let part = |iova, offset: u64, len| {
        use std::os::fd::AsFd;
        let region = sharedmem::Region::map(guest.file.as_fd(), offset, len as usize, true).unwrap();
        sharedmem::Mapping { iova, len, region: Some(region), writable: true }
    };
    let map = sharedmem::DmaMap::new().with(part(BASE, 0, half)).unwrap();
    let map = map.with(part(BASE + half, half, half)).unwrap();
    use crate::device::DeviceModel;
    guest.model.set_map(std::sync::Arc::new(map));
    let frame = ether(PEER, MAC, 1000, 9);
    guest.put(BASE + half - 400, &frame);
    guest.send_at(0, &[(BASE + half - 400, 1000)], Ask::default());
    assert_eq!(guest.poll(0).frames[0].data, frame);
}

#[test]
fn a_ring_without_an_end_stops_its_queue_only() {
    let mut guest = Guest::started(Options { tx_queues: 2, ..Options::default() });
    guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
    guest.send_endless(0, 63);
    assert_eq!((guest.poll(0).taken, guest.poll(0).taken), (1, 0));
    assert_eq!(guest.interrupts(3), 0, "it could still become a frame");
    guest.send_endless(0, 1);
    guest.send(1, &[&ether(PEER, MAC, 64, 1)], Ask::default());
    assert_eq!((guest.poll(0).taken, guest.poll(1).taken), (0, 1));
    assert_eq!(guest.interrupts(3), 1, "an event");
    assert_eq!(guest.get32(AREA + u64::from(at::EVENTS)), registers::event::TX_ERROR);
    assert_eq!(guest.command(commands::GET_QUEUE_STATUS), 0);
    let status = |q: u64, field: u32| guest.get32(QUEUES + q * 256 + u64::from(field));
    assert_eq!((status(0, queue::STOPPED), status(0, queue::ERROR)), (1, 0x8000_0000));
    assert_eq!((status(1, queue::STOPPED), status(1, queue::ERROR)), (0, 0));
    guest.set_reg(registers::ECR, registers::event::TX_ERROR);
    assert_eq!(guest.get32(AREA + u64::from(at::EVENTS)), 0);
    // The driver starts again.
    guest.command(commands::QUIESCE_DEV);
    guest.lay_out();
    assert_eq!(guest.activate(), 0);
    guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
    assert_eq!(guest.poll(0).taken, 1);
}

#[test]
fn a_chain_that_is_too_long_stops_its_queue() {
    let mut guest = Guest::started(Options { tx_size: 512, ..Options::default() });
    guest.send_endless(0, 127);
    guest.poll(0);
    assert_eq!(guest.interrupts(2), 0);
    guest.send_endless(0, 1);
    assert_eq!(guest.poll(0).taken, 0);
    assert_eq!(guest.interrupts(2), 1);
    guest.command(commands::GET_QUEUE_STATUS);
    assert_eq!(guest.get32(QUEUES + u64::from(queue::ERROR)), 0x8000_0002);
}

#[test]
fn every_queue_is_served() {
    let mut guest = Guest::started(Options { tx_queues: 8, rx_queues: 16, ..Options::default() });
    for q in 0..8 {
        guest.send(q, &[&ether(PEER, MAC, 64, q as u8)], Ask::default());
    }
    for q in 0..8 {
        assert_eq!(guest.poll(q).frames[0].data, ether(PEER, MAC, 64, q as u8));
        assert_eq!((guest.completed(q).len(), guest.interrupts(q)), (1, 1));
    }
}

#[test]
fn checksums_of_frames_in_tunnels() {
    // A driver of revision 7 sets ext1 and gives the end of the L4 header in the tunnel as header length.
    const INNER: u32 = 1 << 31;
    let mut guest = Guest::started(Options { revision: 7, ..Options::default() });
    let frame = ether(PEER, MAC, 200, 1);
    let ask = |hlen, msscof| Ask { mode: 2 | INNER, hlen, msscof, ..Ask::default() };
    for ask in [ask(84 + 20, 84 + 16), ask(84 + 60, 84 + 16), ask(84 + 8, 84 + 6), ask(84 + 3, 84), ask(10, 84)] {
        guest.send(0, &[&frame], ask);
    }
    guest.send(0, &[&frame], Ask { mode: 3 | INNER, hlen: 104, msscof: 1000, ..Ask::default() });
    let caught = guest.poll(0);
    let fill = |start, at| Csum::Fill { start, at };
    let asked: Vec<Csum> = caught.frames.iter().map(|f| f.offload.csum).collect();
    assert_eq!(asked, [fill(84, 100), fill(84, 100), fill(84, 90)]);
    let reasons: Vec<DropReason> = caught.rejected.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(reasons, [DropReason::BadOffload; 3]);
}
