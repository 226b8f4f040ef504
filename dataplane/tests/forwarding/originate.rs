//! Frames of the switch's own making: out by any port, counted to the frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::{DropReason, Idle, Originator, PortId, PortTotals};
use wire::{Mac, Tag};

use crate::frames::{Shape, inline_tag};
use crate::spec::{Peer, SwitchSpec};
use crate::switch::{Running, Switch};
use crate::traffic::{MEMORY, STRANGER, gated, numbers, plain, spec, wait_for};

/// The longest frame that is taken.
const LONGEST: usize = 4096;

fn frame(number: u16, len: usize) -> Vec<u8> {
    let shape = Shape { id: (999, number), payload: len.saturating_sub(14), ..plain(100, Mac::BROADCAST) };
    let mut bytes = shape.untagged();
    bytes.truncate(len);
    bytes
}

fn send(switch: &Switch, port: usize, frame: &[u8], tag: Option<Tag>) -> bool {
    Originator::new().unwrap().send(&switch.snapshot(), switch.ports[port].id, frame, tag)
}

/// Nothing but frames out: what a port of a switch counts where nobody else sends.
fn only_out(offered: u64, frames: u64, bytes: u64) -> PortTotals {
    let base = PortTotals::default();
    PortTotals { out_offered: offered, out_originated: offered, out_frames: frames, out_bytes: bytes, ..base }
}

/// Two guests, and an uplink that takes nothing beside the frame and pads.
fn small(uplink: Peer) -> (SwitchSpec, usize) {
    let mut spec = spec(2, true);
    spec.uplinks[0].peer = uplink;
    (spec, 2)
}

#[test]
fn a_frame_leaves_as_it_was_given_and_is_counted() {
    let (spec, uplink) = small(Peer::default());
    let switch = Switch::new(&spec, 1);
    let one = frame(1, 200);
    assert!(send(&switch, uplink, &one, None));
    assert_eq!(switch.totals(uplink), only_out(1, 1, 200));
    assert!(send(&switch, uplink, &one, Some(Tag::new(4000, 5))));
    assert_eq!(switch.totals(uplink), only_out(2, 2, 404));
    assert!(send(&switch, uplink, &frame(3, 42), Some(Tag::new(7, 0))), "short enough to be padded");
    assert_eq!(switch.totals(uplink), only_out(3, 3, 464));
    // A guest's card takes the tag beside the frame.
    assert!(send(&switch, 0, &one, Some(Tag::new(9, 1))));
    assert_eq!(switch.totals(0), only_out(1, 1, 200));
    assert_eq!(switch.totals(1), PortTotals::default(), "nobody else has it");
    switch.check_sums().unwrap();

    let out = switch.received(uplink);
    let bytes: Vec<&[u8]> = out.iter().map(|r| &r.bytes[..]).collect();
    let tagged = [&one[..12], &Tag::new(4000, 5).bytes(), &one[12..]].concat();
    let short = [&frame(3, 42)[..12], &Tag::new(7, 0).bytes(), &frame(3, 42)[12..], &[0; 14]].concat();
    assert_eq!(bytes, [&one[..], &tagged, &short]);
    assert!(out.iter().all(|r| r.tag.is_none()));
    let card = switch.received(0);
    assert_eq!((&card[0].bytes, card[0].tag), (&one, Some(Tag::new(9, 1))));
    assert_eq!(inline_tag(&card[0].bytes), None);
}

/// A port that cannot take it says no, and both the port's sum and the whole switch's hold.
#[test]
fn a_refusal_is_told_and_counted() {
    let refused = |switch: &Switch, uplink: usize, reason: DropReason, times: u64| {
        let t = switch.totals(uplink);
        assert_eq!((t.out_drops[reason as usize], t.out_drops.iter().sum::<u64>()), (times, times), "{reason:?}");
        assert_eq!((t.out_originated, t.out_offered), (t.out_frames + times, t.out_frames + times));
        switch.check_sums().unwrap();
    };
    let (full, uplink) = small(Peer { ring: 2, ..Peer::default() });
    let switch = Switch::new(&full, 1);
    assert_eq!([1, 2, 3, 4].map(|n| send(&switch, uplink, &frame(n, 100), None)), [true, true, false, false]);
    refused(&switch, uplink, DropReason::RingFull, 2);

    let (narrow, uplink) = small(Peer { buffer: 100, ..Peer::default() });
    let switch = Switch::new(&narrow, 1);
    assert!(send(&switch, uplink, &frame(1, 100), None));
    assert!(!send(&switch, uplink, &frame(1, 100), Some(Tag::new(1, 0))), "its tag is four bytes too many");
    refused(&switch, uplink, DropReason::Oversize, 1);

    let switch = Switch::new(&small(Peer::default()).0, 1);
    switch.ports[uplink].state.set_link_up(false);
    assert!(!send(&switch, uplink, &frame(1, 100), None));
    refused(&switch, uplink, DropReason::PortBlocked, 1);
    switch.ports[uplink].state.set_link_up(true);
    assert!(send(&switch, uplink, &frame(1, 100), None));

    let switch = Switch::new(&small(Peer::default()).0, 1);
    switch.ports[uplink].state.set_connected(false);
    assert!(!send(&switch, uplink, &frame(1, 100), None));
    refused(&switch, uplink, DropReason::NotConnected, 1);
}

/// What is no frame, or has no port, is offered to nobody, so nobody counts it.
#[test]
fn what_cannot_be_sent_is_not_offered() {
    let (spec, uplink) = small(Peer::default());
    let switch = Switch::new(&spec, 1);
    for (len, goes) in [(0, false), (13, false), (14, true), (LONGEST, true), (LONGEST + 1, false), (70_000, false)] {
        assert_eq!(send(&switch, uplink, &frame(1, len), None), goes, "{len} bytes");
    }
    assert_eq!(switch.totals(uplink), only_out(2, 2, 60 + LONGEST as u64));
    assert_eq!(switch.received(uplink)[1].bytes, frame(1, LONGEST));
    let originator = Originator::new().unwrap();
    // Numbers that are not in use: before, between and after those that are.
    for id in [0, 1, 3, u16::MAX] {
        assert!(!originator.send(&switch.snapshot(), PortId(id), &frame(1, 100), None));
    }
    let without = switch.snapshot_where(|index| index != uplink);
    assert!(!originator.send(&without, switch.ports[uplink].id, &frame(1, 100), None), "a port taken out of use");
    switch.check_sums().unwrap();
}

/// The control thread sends while two workers send by the same uplink, which runs full on the way: each frame
/// is whole and in its order, and the sums hold to the frame.
#[test]
fn it_sends_beside_the_workers() {
    const FRAMES: u64 = 10_000;
    const OWN: u64 = 5_000;
    const STEP: u64 = 250;
    for ring in [u64::MAX, 20_001] {
        let (spec, uplink) = small(Peer { ring, ..Peer::default() });
        let mut switch = Switch::with_memory(&spec, 2, MEMORY);
        let allowance = Arc::new(AtomicU64::new(0));
        for from in 0..2 {
            switch.send(from, from, gated(from, &allowance, move |_| plain(from, STRANGER)));
        }
        let running = Running::start(switch.snapshot(), 2, Idle::Adaptive);
        let (originator, snapshot) = (Originator::new().unwrap(), running.workers.snapshot());
        let id = switch.ports[uplink].id;
        let mut took = Vec::new();
        for n in 0..OWN {
            // In step with the workers, so that the ring is full before either is done.
            if n.is_multiple_of(STEP) {
                wait_for(&running, &switch, 2, 2 * allowance.load(Ordering::Acquire));
                allowance.fetch_add(FRAMES / (OWN / STEP), Ordering::AcqRel);
            }
            if originator.send(&snapshot, id, &frame(n as u16, 90), Some(Tag::new(20, 0))) {
                took.push(n);
            }
        }
        wait_for(&running, &switch, 2, 2 * FRAMES);
        running.end();

        switch.check_sums().unwrap();
        let t = switch.totals(uplink);
        assert_eq!((t.out_originated, t.out_offered), (OWN, OWN + 2 * FRAMES));
        assert_eq!(t.out_frames, t.out_offered.min(ring));
        let received = switch.received(uplink);
        assert_eq!(numbers(&received, 999), took, "those it was told of, in order");
        for one in received.iter().filter(|one| inline_tag(&one.bytes) == Some(Tag::new(20, 0))) {
            let number = u16::from_be_bytes([one.bytes[20], one.bytes[21]]);
            let sent = frame(number, 90);
            assert!(one.bytes[..12] == sent[..12] && one.bytes[16..] == sent[12..], "frame {number} is whole");
        }
        let refused = OWN - took.len() as u64;
        assert!(if ring == u64::MAX { refused == 0 } else { refused > 0 && refused < OWN / 2 }, "{refused} refused");
        let workers: usize = (0..2).map(|from| numbers(&received, from).len()).sum();
        assert_eq!(workers as u64 + took.len() as u64, t.out_frames);
    }
}
