//! Soft guests against the real device models, over the real socket, through the real data path.

mod rig;

use std::time::Duration;

use dataplane::DropReason;
use portgroups::{Security, VlanMode};
use rig::{LIMIT, Rig, SHORT, frame, mac, tcp4, transport_sum, trunk, vlance, vmxnet3};
use testbed::soft::{
    InterruptKind, Offload, RxMode, SoftGuest, SoftVlance, SoftVmxnet3, Style, TxFrame, VlanceOptions, Vmxnet3Options,
};
use wire::{Mac, Tag};

fn vmx(rig: &Rig, index: usize) -> SoftVmxnet3 {
    vmx_with(rig, index, |_| {})
}

fn vmx_with(rig: &Rig, index: usize, change: impl Fn(&mut Vmxnet3Options)) -> SoftVmxnet3 {
    let mut options = Vmxnet3Options::default();
    change(&mut options);
    SoftVmxnet3::connect(&rig.socket(index), options).unwrap()
}

fn lance(rig: &Rig, index: usize) -> SoftVlance {
    lance_with(rig, index, |_| {})
}

fn lance_with(rig: &Rig, index: usize, change: impl Fn(&mut VlanceOptions)) -> SoftVlance {
    let mut options = VlanceOptions::default();
    change(&mut options);
    SoftVlance::connect(&rig.socket(index), options).unwrap()
}

/// Sends frames of many lengths from `a` to `b` and compares what arrives; short ones arrive padded.
fn exchange(a: &mut dyn SoftGuest, b: &mut dyn SoftGuest, longest: usize) {
    for (number, len) in (0..).zip([60, 61, 63, 64, 65, 100, 127, 128, 129, 300, 1000, 1513, 1514, longest]) {
        let sent = frame(b.mac(), a.mac(), len, number);
        a.send(&sent).unwrap();
        let got = b.recv(LIMIT).unwrap().unwrap_or_else(|| panic!("{} bytes did not arrive", len));
        assert!(got.bytes == sent, "{len} bytes: {:x?} is not {:x?}", got.bytes, sent);
        assert_eq!(got.tag, None);
    }
    assert_eq!(b.late_frames(), 0, "{}: an interrupt was lost", b.name());
}

#[test]
fn every_pair_of_cards_in_every_interrupt_mode() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Vst(10)), vmxnet3(VlanMode::Vst(10)), vlance(VlanMode::Vst(10))]);
    for kind in [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx, InterruptKind::None] {
        let mut a = vmx_with(&rig, 0, |o| o.interrupts = kind);
        let mut b = vmx_with(&rig, 1, |o| o.interrupts = kind);
        let lance_kind = if kind == InterruptKind::None { kind } else { InterruptKind::Intx };
        let mut c = lance_with(&rig, 2, |o| o.interrupts = lance_kind);
        assert_eq!((a.mac(), b.mac(), c.mac()), (mac(0), mac(1), mac(2)));
        assert!(a.link().unwrap().0 && c.link().unwrap());
        exchange(&mut a, &mut b, 1514);
        exchange(&mut b, &mut a, 1514);
        exchange(&mut a, &mut c, 1514);
        exchange(&mut c, &mut b, 1514);
        for guest in [&mut a as &mut dyn SoftGuest, &mut b, &mut c] {
            guest.flush().unwrap();
            assert!(kind == InterruptKind::None || guest.card().interrupts() > 0, "{kind:?} {}", guest.name());
        }
        assert_eq!((a.late_frames(), b.late_frames(), c.late_frames()), (0, 0, 0), "{kind:?}: a lost interrupt");
        drop((a, b, c));
        rig.wait_until("the guests are gone", || (0..3).all(|i| !rig.started(i)));
    }
    rig.check_sums();
}

#[test]
fn no_message_while_frames_flow() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let (mut a, mut b) = (vmx(&rig, 0), vmx(&rig, 1));
    let before = (rig.messages(0), rig.messages(1));
    for number in 0..2000 {
        a.send(&frame(b.mac(), a.mac(), 200, number)).unwrap();
        assert!(b.recv(LIMIT).unwrap().is_some());
        b.send(&frame(a.mac(), b.mac(), 200, number)).unwrap();
        assert!(a.recv(LIMIT).unwrap().is_some());
    }
    assert_eq!((rig.messages(0), rig.messages(1)), before);
    assert_eq!((a.late_frames(), b.late_frames()), (0, 0), "an interrupt was lost");
    rig.check_sums();
}

#[test]
fn an_unmask_with_work_waiting_raises() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let mut a = vmx(&rig, 0);
    for kind in [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx] {
        let mut b = vmx_with(&rig, 1, |o| o.interrupts = kind);
        // Whatever the start raised is out of the way.
        while b.card().wait_interrupt(SHORT).unwrap() {
            assert_eq!(b.recv(SHORT).unwrap(), None);
        }
        b.mask_interrupts().unwrap();
        a.send(&frame(mac(1), mac(0), 64, 1)).unwrap();
        a.flush().unwrap();
        assert!(!b.card().wait_interrupt(SHORT).unwrap(), "{kind:?}: masked");
        assert!(b.unmask_and_wait(LIMIT).unwrap(), "{kind:?}: no message tells the card of the unmask");
        assert!(b.recv(LIMIT).unwrap().is_some());
        drop(b);
        rig.wait_until("the guest is gone", || !rig.started(1));
    }
}

#[test]
fn an_intx_line_that_stays_high_fires_again() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est), vlance(VlanMode::Est)]);
    let (mut a, mut b, mut c) =
        (vmx(&rig, 0), vmx_with(&rig, 1, |o| o.interrupts = InterruptKind::Intx), lance(&rig, 2));
    for guest in [&mut b as &mut dyn SoftGuest, &mut c] {
        let name = guest.name();
        // One frame the ordinary way, so that the line is low and unmasked.
        a.send(&frame(guest.mac(), mac(0), 64, 1)).unwrap();
        assert!(guest.recv(LIMIT).unwrap().is_some());
        assert_eq!(guest.recv(SHORT).unwrap(), None);
        a.send(&frame(guest.mac(), mac(0), 64, 2)).unwrap();
        assert!(guest.card().wait_interrupt(LIMIT).unwrap(), "{name}");
        assert!(!guest.card().wait_interrupt(SHORT).unwrap(), "{name}: it masks itself");
        guest.card().client().mask_intx(false).unwrap();
        assert!(guest.card().wait_interrupt(LIMIT).unwrap(), "{name}: nobody served the card");
    }
}

#[test]
fn load_is_accounted_for_to_the_frame() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est), vlance(VlanMode::Est)]);
    let mut a = vmx(&rig, 0);
    let mut sinks: [Box<dyn SoftGuest>; 2] = [Box::new(vmx(&rig, 1)), Box::new(lance_with(&rig, 2, |o| o.log_rx = 9))];
    for (index, sink) in (1..).zip(&mut sinks) {
        let template = frame(sink.mac(), a.mac(), 60, 7);
        let (mut sent, mut got) = (0, 0);
        while sent < 20_000 {
            sent += a.send_burst(&template, 20_000 - sent).unwrap();
            got += sink.drain().unwrap().frames;
        }
        a.flush().unwrap();
        rig.check_sums();
        got += sink.drain().unwrap().frames;
        let totals = rig.totals(index);
        assert_eq!((got, totals.out_frames), (totals.out_frames, got));
        assert_eq!(totals.out_frames + totals.drops(DropReason::RingFull), 20_000, "{totals:?}");
        assert!(got > 0);
    }
    assert_eq!(rig.totals(0).in_frames, 40_000);
}

#[test]
fn jumbo_frames_in_chains_of_buffers() {
    let rig = Rig::new(9000, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let mut a = vmx_with(&rig, 0, |o| o.mtu = 9000);
    let mut b = vmx_with(&rig, 1, |o| o.mtu = 9000);
    exchange(&mut a, &mut b, 9014);
    for number in 0..300 {
        let sent = frame(b.mac(), a.mac(), 3000 + number as usize * 20, number);
        let (head, tail) = sent.split_at(1000);
        a.send_opts(&TxFrame { copy_header: number % 2 == 0, ..TxFrame::plain(&[head, tail]) }).unwrap();
        assert!(b.recv(LIMIT).unwrap().unwrap().bytes == sent, "frame {number}");
    }
    drop(b);
    let mut small = vmx(&rig, 1);
    a.send(&frame(small.mac(), a.mac(), 9014, 1)).unwrap();
    a.send(&frame(small.mac(), a.mac(), 100, 2)).unwrap();
    let got = small.recv(LIMIT).unwrap().unwrap();
    assert_eq!(got.bytes.len(), 100, "what does not fit is dropped whole");
    rig.check_sums();
    assert_eq!(rig.totals(1).drops(DropReason::Oversize) + rig.totals(1).drops(DropReason::RingFull), 1);
}

#[test]
fn checksums_are_filled_in_where_the_receiver_needs_them() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vlance(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let (mut a, mut old, mut new) = (vmx(&rig, 0), lance(&rig, 1), vmx(&rig, 2));
    for len in [0, 1, 2, 99, 1000, 1459, 1460] {
        let payload = vec![0xa5; len];
        let offload = Offload::Csum { start: 34, offset: 16 };
        let sent = tcp4(old.mac(), a.mac(), &payload, false);
        a.send_opts(&TxFrame { offload, ..TxFrame::plain(&[&sent]) }).unwrap();
        let got = old.recv(LIMIT).unwrap().unwrap().bytes;
        assert_eq!(transport_sum(&got), 0xffff, "{len} bytes of payload");
        assert_eq!((&got[..50], &got[54..54 + len]), (&sent[..50], &payload[..]));
        let sent = tcp4(new.mac(), a.mac(), &payload, false);
        a.send_opts(&TxFrame { offload, ..TxFrame::plain(&[&sent]) }).unwrap();
        let got = new.recv(LIMIT).unwrap().unwrap();
        assert!(got.csum_ok || transport_sum(&got.bytes) == 0xffff, "{len}: {got:x?}");
    }
    rig.check_sums();
}

#[test]
fn segments_are_cut_for_each_receiver() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vlance(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let mut a = vmx(&rig, 0);
    let mut receivers: [Box<dyn SoftGuest>; 2] =
        [Box::new(lance_with(&rig, 1, |o| o.log_rx = 7)), Box::new(vmx(&rig, 2))];
    for receiver in &mut receivers {
        for (len, mss) in [(10, 1460), (1460, 1460), (1461, 1460), (5000, 1000), (61_000, 1460)] {
            let payload: Vec<u8> = (0..len).map(|i: u32| (i * 7 + (i >> 8)) as u8).collect();
            let sent = tcp4(receiver.mac(), a.mac(), &payload, true);
            let (head, body) = sent.split_at(54);
            let offload = Offload::Tso { header: 54, mss };
            a.send_opts(&TxFrame { offload, ..TxFrame::plain(&[head, body]) }).unwrap();
            let mut joined: Vec<u8> = Vec::new();
            while joined.len() < payload.len() {
                let got = receiver.recv(LIMIT).unwrap().unwrap_or_else(|| panic!("{} of {len} bytes", joined.len()));
                let total = usize::from(u16::from_be_bytes([got.bytes[16], got.bytes[17]]));
                let part = &got.bytes[54..14 + total];
                assert!(part.len() <= usize::from(mss));
                let sequence = u32::from_be_bytes(got.bytes[38..42].try_into().unwrap()) as usize;
                assert_eq!(sequence, 0x1000 + joined.len());
                assert_eq!(rig::ones_sum(&[&got.bytes[14..34]]), 0xffff, "IP header checksum");
                assert!(got.csum_ok || transport_sum(&got.bytes) == 0xffff);
                let last = joined.len() + part.len() == payload.len();
                assert_eq!(got.bytes[47] & 8 != 0, last, "PSH on the last segment only");
                joined.extend(part);
            }
            assert!(joined == payload);
        }
    }
    rig.check_sums();
}

#[test]
fn tags_go_in_and_out_by_request() {
    let rig = Rig::new(1500, &[vmxnet3(trunk()), vmxnet3(trunk()), vlance(trunk()), vmxnet3(VlanMode::Vst(30))]);
    let mut a = vmx(&rig, 0);
    let mut b = vmx(&rig, 1);
    let (mut old, mut access) = (lance(&rig, 2), vmx(&rig, 3));
    let tag = Tag::new(30, 5);
    let send = |a: &mut SoftVmxnet3, to: Mac, inline: bool| {
        let plain = frame(to, mac(0), 200, 3);
        if inline {
            let tagged = [&plain[..12], &tag.bytes(), &plain[12..]].concat();
            a.send(&tagged).unwrap();
        } else {
            a.send_opts(&TxFrame { tag: Some(tag), ..TxFrame::plain(&[&plain]) }).unwrap();
        }
        plain
    };
    b.set_vlan_filter(&[30]).unwrap();
    for inline in [false, true] {
        let plain = send(&mut a, mac(1), inline);
        let got = b.recv(LIMIT).unwrap().unwrap();
        assert_eq!((got.tag, &got.bytes), (Some(tag), &plain), "taken out");
        let plain = send(&mut a, mac(2), inline);
        let got = old.recv(LIMIT).unwrap().unwrap();
        assert_eq!(got.bytes, [&plain[..12], &tag.bytes(), &plain[12..]].concat(), "a card that takes no tag out");
        let plain = send(&mut a, mac(3), inline);
        let got = access.recv(LIMIT).unwrap().unwrap();
        assert_eq!((got.tag, &got.bytes), (None, &plain), "the guest of an access port sees no tag");
    }
    b.set_features(true, false).unwrap();
    let plain = send(&mut a, mac(1), false);
    let got = b.recv(LIMIT).unwrap().unwrap();
    assert_eq!((got.tag, got.bytes), (None, [&plain[..12], &tag.bytes(), &plain[12..]].concat()));
    b.set_vlan_filter(&[31]).unwrap();
    send(&mut a, mac(1), false);
    assert_eq!(b.recv(SHORT).unwrap(), None, "filtered by VLAN");
    a.flush().unwrap();
    rig.check_sums();
    assert_eq!(rig.totals(1).drops(DropReason::Filtered), 1);
}

#[test]
fn receive_filters() {
    let mut open = vmxnet3(VlanMode::Est);
    open.security = Security { promiscuous: true, ..Security::default() };
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), open.clone(), rig::Port { vlance: true, ..open }]);
    let (mut a, mut b, mut c) = (vmx(&rig, 0), vmx(&rig, 1), lance(&rig, 2));
    let group = Mac([1, 0, 0x5e, 1, 2, 3]);
    let other = Mac([1, 0, 0x5e, 9, 9, 9]);
    let stranger = Mac([2, 0, 0, 0, 0, 99]);
    let mut expect = |b: &mut SoftVmxnet3, c: &mut SoftVlance, to: Mac, want: [bool; 2], what: &str| {
        a.send(&frame(to, mac(0), 64, 1)).unwrap();
        a.flush().unwrap();
        let got = [
            b.recv(if want[0] { LIMIT } else { SHORT }).unwrap(),
            c.recv(if want[1] { LIMIT } else { SHORT }).unwrap(),
        ];
        assert_eq!(got.map(|g| g.is_some()), want, "{what}");
    };
    expect(&mut b, &mut c, Mac::BROADCAST, [true, true], "broadcast");
    expect(&mut b, &mut c, group, [false, false], "a group nobody asked for");
    b.set_multicast(&[other, group]).unwrap();
    c.set_filter(false, &[group]).unwrap();
    expect(&mut b, &mut c, group, [true, true], "a group both asked for");
    expect(&mut b, &mut c, other, [true, false], "a group one asked for");
    expect(&mut b, &mut c, stranger, [false, false], "a stranger");
    b.set_rx_mode(RxMode::UNICAST | RxMode::PROMISCUOUS).unwrap();
    c.set_filter(true, &[]).unwrap();
    expect(&mut b, &mut c, stranger, [true, true], "promiscuous");
    b.set_multicast(&[]).unwrap();
    b.set_rx_mode(RxMode::UNICAST | RxMode::ALL_MULTICAST).unwrap();
    expect(&mut b, &mut c, other, [true, true], "all groups");
    b.set_rx_mode(RxMode::BROADCAST).unwrap();
    c.set_filter(false, &[]).unwrap();
    expect(&mut b, &mut c, mac(1), [false, false], "not even its own address");
    rig.check_sums();
}

#[test]
fn stopping_starting_and_resetting() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est), vlance(VlanMode::Est)]);
    let (mut a, mut b, mut c) = (vmx(&rig, 0), vmx(&rig, 1), lance(&rig, 2));
    exchange(&mut a, &mut b, 1514);
    b.quiesce().unwrap();
    a.send(&frame(mac(1), mac(0), 64, 1)).unwrap();
    a.flush().unwrap();
    assert_eq!(rig.totals(1).drops(DropReason::NotConnected), 1);
    b.activate().unwrap();
    exchange(&mut a, &mut b, 1514);
    b.reset().unwrap();
    b.activate().unwrap();
    exchange(&mut b, &mut a, 1514);
    b.card().client().reset().unwrap();
    assert!(!rig.started(1));
    b.activate().unwrap();
    exchange(&mut a, &mut b, 1514);
    let mut b = b.reconnect().unwrap();
    exchange(&mut a, &mut b, 1514);
    c.stop().unwrap();
    a.send(&frame(mac(2), mac(0), 64, 1)).unwrap();
    a.flush().unwrap();
    c.open().unwrap();
    exchange(&mut c, &mut a, 1514);
    c.card().client().reset().unwrap();
    c.open().unwrap();
    exchange(&mut a, &mut c, 1514);
    let mut c = c.reconnect().unwrap();
    exchange(&mut c, &mut b, 1514);
    rig.check_sums();
}

#[test]
fn the_link_goes_down_and_up() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vlance(VlanMode::Est)]);
    let (mut a, mut c) = (vmx(&rig, 0), lance(&rig, 1));
    assert_eq!((a.link().unwrap().0, c.link().unwrap()), (true, true));
    let _ = a.take_events().unwrap();
    rig.set_link(0, false);
    rig.set_link(1, false);
    assert_eq!((a.link().unwrap().0, c.link().unwrap()), (false, false));
    assert_eq!(a.take_events().unwrap() & 4, 4, "the link event");
    assert_eq!(a.take_events().unwrap(), 0, "acknowledged");
    rig.set_link(0, true);
    rig.set_link(1, true);
    assert_eq!((a.link().unwrap().0, c.link().unwrap()), (true, true));
    exchange(&mut a, &mut c, 1514);
}

#[test]
fn the_card_keeps_the_statistics_the_driver_reads() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let (mut a, mut b) = (vmx(&rig, 0), vmx(&rig, 1));
    for (to, len) in [(mac(1), 100), (mac(1), 200), (Mac::BROADCAST, 300)] {
        a.send(&frame(to, mac(0), len, 1)).unwrap();
        assert!(b.recv(LIMIT).unwrap().is_some());
    }
    a.flush().unwrap();
    let (sent, got) = (a.stats(0).unwrap().tx, b.stats(0).unwrap().rx);
    assert_eq!((sent[2], sent[3], sent[6], sent[7]), (2, 300, 1, 300));
    assert_eq!((got[2], got[3], got[6], got[7]), (2, 300, 1, 300));
    assert_eq!(a.queue_status().unwrap(), [(false, 0), (false, 0)]);
    let full = frame(mac(1), mac(0), 60, 1);
    for _ in 0..20 {
        a.send_burst(&full, 100).unwrap();
        a.flush().unwrap();
    }
    let missed = rig.totals(1).drops(DropReason::RingFull);
    assert!(missed > 0);
    assert_eq!(b.stats(0).unwrap().rx[8], missed, "out of buffers");
}

#[test]
fn several_queues() {
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let mut a = vmx_with(&rig, 0, |o| o.queues = 4);
    let mut b = vmx_with(&rig, 1, |o| o.queues = 2);
    for queue in 0..4 {
        let sent = frame(b.mac(), a.mac(), 300, queue as u32);
        a.send_on(queue, &TxFrame::plain(&[&sent])).unwrap();
        assert_eq!(b.recv(LIMIT).unwrap().unwrap().bytes, sent);
    }
    exchange(&mut b, &mut a, 1514);
    assert_eq!((a.late_frames(), b.late_frames()), (0, 0));
}

#[test]
fn old_drivers_in_every_style() {
    let rig = Rig::new(1500, &[vlance(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let mut b = vmx(&rig, 1);
    for style in [Style::Lance, Style::Pcnet32, Style::Pcnet32Burst] {
        for dword_io in [false, true] {
            for demand in [true, false] {
                let mut a = lance_with(&rig, 0, |o| (o.style, o.dword_io, o.demand) = (style, dword_io, demand));
                exchange(&mut a, &mut b, 1514);
                exchange(&mut b, &mut a, 1514);
                let sent = frame(b.mac(), a.mac(), 1000, 5);
                a.send_pieces(&[&sent[..14], &sent[14..500], &sent[500..]]).unwrap();
                assert_eq!(b.recv(LIMIT).unwrap().unwrap().bytes, sent, "{style:?} in pieces");
                a.flush().unwrap();
                assert_eq!(a.late_frames(), 0, "{style:?}");
                drop(a);
                rig.wait_until("the guest is gone", || !rig.started(0));
            }
        }
    }
    rig.check_sums();
}

#[test]
fn short_frames_are_padded() {
    let rig = Rig::new(1500, &[vlance(VlanMode::Est), vlance(VlanMode::Est), vmxnet3(VlanMode::Est)]);
    let (mut a, mut b, mut c) = (lance(&rig, 0), lance(&rig, 1), vmx(&rig, 2));
    for len in [14, 20, 42, 59] {
        a.send(&frame(b.mac(), a.mac(), len, 1)).unwrap();
        let got = b.recv(LIMIT).unwrap().unwrap().bytes;
        assert_eq!((got.len(), &got[..len]), (60, &frame(b.mac(), a.mac(), len, 1)[..]));
        assert!(got[len..].iter().all(|b| *b == 0), "no old memory in the padding");
        c.send(&frame(b.mac(), c.mac(), len, 1)).unwrap();
        assert_eq!(b.recv(LIMIT).unwrap().unwrap().bytes.len(), 60);
    }
    rig.check_sums();
}

#[test]
fn a_guest_that_changes_its_address() {
    let mut lax = vmxnet3(VlanMode::Est);
    lax.security = Security { forged_transmits: true, ..Security::default() };
    let rig = Rig::new(1500, &[vmxnet3(VlanMode::Est), lax]);
    let other = Mac([2, 0, 0, 0, 0, 1]);
    let (mut a, mut b) = (vmx(&rig, 0), vmx_with(&rig, 1, |o| o.mac = Some(other)));
    a.send(&frame(mac(1), mac(0), 64, 1)).unwrap();
    assert_eq!(b.recv(SHORT).unwrap(), None);
    a.flush().unwrap();
    assert_eq!(rig.totals(1).drops(DropReason::MacChanged), 1);
    a.send(&frame(mac(1), other, 64, 1)).unwrap();
    a.flush().unwrap();
    assert_eq!(rig.totals(0).drops(DropReason::ForgedTransmit), 1);
    b.send(&frame(mac(0), other, 64, 1)).unwrap();
    assert!(a.recv(Duration::from_secs(5)).unwrap().is_some());
    rig.check_sums();
}
