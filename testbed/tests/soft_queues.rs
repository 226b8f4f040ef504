//! What revisions 2, 3 and 7 of vmxnet3 add, over the real socket and through the real data path: several queues,
//! large segments, the receive data ring, interrupt moderation.

mod rig;

use std::collections::BTreeMap;
use std::time::Duration;

use portgroups::VlanMode;
use rig::{LIMIT, Rig, frame, tcp4, vmxnet3};
use testbed::soft::{Offload, RxFacts, SoftGuest, SoftVmxnet3, TxFrame, Vmxnet3Options};

fn pair(rig: &Rig, options: Vmxnet3Options) -> (SoftVmxnet3, SoftVmxnet3) {
    let connect = |index, options| SoftVmxnet3::connect(&rig.socket(index), options).unwrap();
    (connect(0, Vmxnet3Options::default()), connect(1, options))
}

fn rig() -> Rig {
    Rig::new(1500, &[vmxnet3(VlanMode::Vst(10)), vmxnet3(VlanMode::Vst(10))])
}

/// The TCP frame of flow `n`.
fn flow(to: &SoftVmxnet3, from: &SoftVmxnet3, n: u16) -> Vec<u8> {
    let mut frame = tcp4(to.mac(), from.mac(), &[n as u8; 200], false);
    frame[34..36].copy_from_slice(&(1000 + n).to_be_bytes());
    frame
}

/// Sends one frame of each of `flows` flows and returns the queue and hash each arrived with.
fn homes(a: &mut SoftVmxnet3, b: &mut SoftVmxnet3, flows: u16) -> BTreeMap<u16, RxFacts> {
    let mut homes = BTreeMap::new();
    for n in 0..flows {
        let sent = flow(b, a, n);
        a.send(&sent).unwrap();
        let got = b.recv(LIMIT).unwrap().expect("every flow arrives");
        assert!(got.bytes == sent);
        homes.insert(n, b.facts());
    }
    homes
}

#[test]
fn flows_spread_over_eight_queues_by_the_table() {
    let rig = rig();
    let table: Vec<u8> = (0..128).map(|i| i % 8).collect();
    let (mut a, mut b) = pair(&rig, Vmxnet3Options { queues: 8, rss: Some(table), ..Vmxnet3Options::default() });
    assert_eq!(b.max_queues().unwrap(), (8, 16));
    let first = homes(&mut a, &mut b, 64);
    assert_eq!(homes(&mut a, &mut b, 64), first, "a flow keeps to its queue");
    let mut used = [0; 8];
    for facts in first.values() {
        assert_eq!((facts.hash.0, facts.queue), (2, facts.hash.1 % 128 % 8));
        used[facts.queue as usize] += 1;
    }
    assert!(used.iter().all(|n| *n > 0), "{used:?}");
    a.send(&frame(b.mac(), a.mac(), 300, 1)).unwrap();
    assert!(b.recv(LIMIT).unwrap().is_some());
    assert_eq!((b.facts().queue, b.facts().hash.0), (0, 0), "what is not IP goes to the first");
    b.set_table(&[5; 128]).unwrap();
    assert!(homes(&mut a, &mut b, 16).values().all(|facts| facts.queue == 5));
    // The other way: each transmit queue is served.
    for q in 0..8 {
        let sent = frame(a.mac(), b.mac(), 400, q);
        b.send_on(q as usize, &TxFrame::plain(&[&sent])).unwrap();
        assert!(a.recv(LIMIT).unwrap().expect("it arrives").bytes == sent);
    }
    assert_eq!((a.late_frames(), b.late_frames()), (0, 0), "an interrupt was lost");
    rig.check_sums();
}

#[test]
fn a_large_segment_goes_whole_to_who_takes_it() {
    let rig = rig();
    let (mut a, mut b) = pair(&rig, Vmxnet3Options { lro: true, ..Vmxnet3Options::default() });
    let payload: Vec<u8> = (0..60_000).map(|i| (i % 253) as u8).collect();
    let send = |a: &mut SoftVmxnet3, to, from| {
        let sent = tcp4(to, from, &payload, true);
        let offload = Offload::Tso { header: 54, mss: 1460 };
        a.send_opts(&TxFrame { pieces: &[&sent], offload, tag: None, copy_header: true }).unwrap();
    };
    let (to, from) = (b.mac(), a.mac());
    send(&mut a, to, from);
    let got = b.recv(LIMIT).unwrap().expect("it arrives");
    assert_eq!((got.bytes.len(), got.csum_ok), (54 + 60_000, true));
    assert!(got.bytes[54..] == payload);
    assert_eq!(b.facts().large, Some((42, 1460)));
    // The way back is to a card without.
    send(&mut b, from, to);
    let mut bytes = 0;
    while bytes < 60_000 {
        let got = a.recv(LIMIT).unwrap().expect("every segment arrives");
        assert!(got.bytes.len() <= 1514 && got.csum_ok && a.facts().large.is_none());
        assert!(got.bytes[54..] == payload[bytes..bytes + got.bytes.len() - 54]);
        bytes += got.bytes.len() - 54;
    }
    rig.check_sums();
}

#[test]
fn short_frames_come_in_the_data_ring_if_there_is_one() {
    for (revision, data_ring, limit) in [(7, 128, 128), (3, 256, 256), (3, 0, 0), (2, 128, 0), (1, 128, 0)] {
        let rig = rig();
        let options = Vmxnet3Options { revision, data_ring, ..Vmxnet3Options::default() };
        let (mut a, mut b) = pair(&rig, options);
        for (number, len) in (0..).zip([60, 128, 129, 256, 257, 1514].repeat(100)) {
            let sent = frame(b.mac(), a.mac(), len, number);
            a.send(&sent).unwrap();
            assert!(b.recv(LIMIT).unwrap().expect("it arrives").bytes == sent);
            assert_eq!(b.facts().in_data_ring, len <= limit, "{len} bytes, revision {revision}");
        }
        rig.check_sums();
    }
}

#[test]
fn moderated_interrupts_come_in_the_end() {
    let rig = rig();
    let (mut a, mut b) = pair(&rig, Vmxnet3Options::default());
    let round = |a: &mut SoftVmxnet3, b: &mut SoftVmxnet3| {
        assert_eq!(b.recv(Duration::from_millis(5)).unwrap(), None, "and it waits for an interrupt");
        let before = b.card().interrupts();
        for number in 0..200 {
            a.send(&frame(b.mac(), a.mac(), 100, number)).unwrap();
        }
        for _ in 0..200 {
            assert!(b.recv(LIMIT).unwrap().is_some());
        }
        assert_eq!(b.recv(Duration::from_millis(5)).unwrap(), None);
        b.card().interrupts() - before
    };
    // So many frames that no burst of the sender's is as long; a rate that ends before a burst has.
    for scheme in [[2, 64, 128, 128], [3, 100, 0, 0], [3, 100_000, 0, 0], [0; 4], [1, 0, 0, 0]] {
        b.moderate(scheme).unwrap();
        let interrupts = round(&mut a, &mut b);
        println!("{scheme:?}: {interrupts} interrupts for 200 frames");
        assert!(interrupts > 0);
        assert_eq!(b.late_frames(), 0, "{scheme:?}: a frame waited without an interrupt");
    }
    rig.check_sums();
}
