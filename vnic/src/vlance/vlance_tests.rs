use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::{DropReason, Grace, Multicast, PortState};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use sharedmem::Mapping;
use wire::Mac;

use super::test_driver::*;
use super::*;
use crate::irq::{Interrupts, IrqKind};

const STYLES: [u16; 3] = [0, 2, 3];

fn started(style: u16) -> Rig {
    let mut rig = Rig::new(style, 4, 4);
    rig.start(0, 0);
    rig
}

/// The driver's ethertype tells whose payload it is; the tail differs by seed.
fn to_guest(len: usize, seed: u8) -> Vec<u8> {
    frame(MAC, len, seed)
}

#[test]
fn identity() {
    let mut rig = Rig::new(2, 4, 4);
    assert_eq!(rig.card.pci().bars[0], Bar { size: 0x20, io: true });
    assert_eq!((rig.csr(88), rig.csr(89)), (0x1003, 0x0262));
    let mut prom = [0; 16];
    rig.card.read(0, 0, &mut prom[..4]).unwrap();
    rig.card.read(1, 4, &mut prom[4..6]).unwrap();
    (6..16).for_each(|i| rig.card.read(0, i as u32, &mut prom[i..=i]).unwrap());
    assert_eq!((&prom[..6], &prom[14..]), (&MAC.0[..], &b"WW"[..]));
    assert_eq!([12, 13, 14].map(|i| rig.csr(i)), [0x5000, 0x0056, 0x0200]);
    assert_eq!(rig.csr(0), 0x0004);
}

#[test]
fn accesses_out_of_place() {
    let mut rig = Rig::new(2, 4, 4);
    let mut data = [0; 8];
    assert_eq!(rig.card.read(0, 0x1e, &mut data[..4]), Err(BadAccess));
    assert_eq!(rig.card.read(0, 0x20, &mut data[..2]), Err(BadAccess), "no morph port");
    assert_eq!(rig.card.read(2, 0, &mut data[..1]), Err(BadAccess));
    assert_eq!(rig.card.read(0, 0, &mut data), Err(BadAccess));
    assert_eq!(rig.card.write(0, u32::MAX, &data[..2]), Err(BadAccess));
    rig.card.read(0, 0x0e, &mut data[..4]).unwrap();
    assert_eq!(data[..4], [0xff; 4], "PROM and ports at once");
    rig.card.read(0, 0x10, &mut data[..1]).unwrap();
    assert_eq!(data[0], 0xff, "registers have no bytes");
}

#[test]
fn double_word_mode_lasts_until_a_hardware_reset() {
    let mut rig = Rig::new(2, 4, 4);
    let read = |rig: &mut Rig, port| {
        let mut data = [0; 4];
        rig.card.read(0, port, &mut data).unwrap();
        u32::from_le_bytes(data)
    };
    assert_eq!(read(&mut rig, 0x10), u32::MAX);
    rig.card.write(0, 0x10, &[0; 4]).unwrap();
    rig.card.write(0, 0x14, &88u32.to_le_bytes()).unwrap();
    assert_eq!((read(&mut rig, 0x14), read(&mut rig, 0x10)), (88, 0x0262_1003));
    assert_eq!(rig.inw(0x10), 0xffff);
    assert_eq!(read(&mut rig, 0x18), 0, "reset");
    assert_eq!((read(&mut rig, 0x14), read(&mut rig, 0x10)), (0, 4));
    rig.card.write(0, 0x14, &18u32.to_le_bytes()).unwrap();
    assert_eq!(read(&mut rig, 0x1c) & 0x80, 0x80);
    rig.card.reset();
    assert_eq!(rig.csr(0), 4);
}

/// What Linux 6.1's pcnet32 does at probe, open, on an interrupt, for a multicast list, and at close.
#[test]
fn as_linux_pcnet32_drives_it() {
    let mut rig = Rig::new(2, 5, 4);
    rig.inw(0x14);
    assert_eq!(rig.csr(0), 4);
    rig.outw(0x12, 88);
    assert_eq!(rig.inw(0x12), 88);
    assert_eq!((u32::from(rig.csr(88)) | u32::from(rig.csr(89)) << 16) >> 12 & 0xffff, 0x2621);
    let bcr2 = rig.bcr(2);
    rig.set_bcr(2, bcr2 | 0x1000);
    // Open: reset, 32-bit style, half duplex, no GPSI, BCR32 as if it were there.
    rig.inw(0x14);
    let fdx = rig.bcr(9) & !3;
    rig.set_bcr(9, fdx);
    let test = rig.csr(124) & !0x10;
    rig.set_csr(124, test);
    let mii = rig.bcr(32);
    rig.set_bcr(32, mii | 0x80);
    assert_eq!(rig.bcr(32), 0, "no MII");
    rig.set_csr(4, 0x0915);
    rig.initialise(0, 0);
    assert_eq!(rig.csr(4), 0x0915);
    assert_ne!(rig.bcr(4), 0xc0, "link up");
    assert_eq!(rig.csr(0) & 0x0100, 0x0100);
    rig.set_csr(0, 0x0042);
    assert_eq!(rig.csr(0), 0x01f3, "the value every pcnet32 log shows");
    assert!(rig.irq.level(), "IDON is not acknowledged at open");
    // Interrupt: acknowledge, mask, poll, unmask, enable.
    let csr0 = rig.csr(0);
    rig.set_csr(0, csr0 & !0x004f);
    assert!(!rig.irq.level());
    let csr3 = rig.csr(3);
    rig.set_csr(3, csr3 | 0x5f00);
    assert_eq!(rig.deliver(&[to_guest(60, 1)]).frames(), 1);
    assert!(!rig.irq.level());
    assert_eq!(rig.receive(true).len(), 1);
    let csr3 = rig.csr(3);
    rig.set_csr(3, csr3 & 0x00ff);
    rig.set_csr(0, 0x0040);
    assert!(rig.irq.level(), "RINT was left standing");
    let csr0 = rig.csr(0);
    rig.set_csr(0, csr0 & !0x004f);
    rig.set_csr(0, 0x0040);
    assert!(!rig.irq.level());
    // Multicast list, under suspension.
    rig.set_csr(5, 1);
    assert_eq!(rig.csr(5) & 1, 1);
    let csr15 = rig.csr(15);
    rig.set_csr(15, csr15 & 0x7fff);
    rig.set_csr(8, 0x1234);
    rig.set_csr(5, 0);
    assert_eq!(rig.state.filter().multicast, Multicast::Hash(0x1234));
    assert_eq!(rig.csr(0), 0x0073);
    rig.send(&[&to_guest(60, 2)]);
    rig.set_csr(0, 0x0048);
    assert_eq!(rig.poll().frames.len(), 1);
    assert_eq!(rig.reap_tx(), [0x0300]);
    // Close.
    rig.set_csr(0, 0x0004);
    assert_eq!(rig.csr(0), 4);
    rig.set_bcr(20, 4);
    assert_eq!(rig.bcr(20) & 0xff, 0);
}

/// The registers `ethtool -d` shows under Linux 6.1, against what the same driver sees on QEMU's pcnet.
/// Left out: the chip's internal pointers, and the ring lengths, which the data sheet has as two's complements.
#[test]
fn the_register_dump_of_a_running_card() {
    let mut rig = Rig::new(2, 5, 4);
    rig.inw(0x14);
    rig.set_csr(4, 0x0915);
    rig.initialise(0x0080, 0x0040_0001_0080_0000);
    assert_eq!(rig.csr(0), 0x0181);
    rig.set_csr(0, 0x0042);
    assert_eq!(rig.csr(0), 0x01f3);
    rig.set_csr(0, 0x01b0);
    rig.set_csr(0, 0x0040);
    assert_eq!(rig.csr(0), 0x0073);
    rig.set_csr(5, 1);
    let prom = [0, 2, 4, 6, 8, 10, 12, 14].map(|port| rig.inw(port));
    assert_eq!(prom, [0x5000, 0x0056, 0x0200, 0, 0x1100, 0, 0x0167, 0x5757]);
    let csrs = [
        (1, 0x0000),
        (2, 0x0010),
        (3, 0),
        (4, 0x0915),
        (5, 1),
        (6, 0x4500),
        (8, 0),
        (9, 0x0080),
        (10, 0x0001),
        (11, 0x0040),
        (12, 0x5000),
        (13, 0x0056),
        (14, 0x0200),
        (15, 0x0080),
        (17, 0x0010),
        (58, 0x0302),
        (80, 0x1410),
        (82, 0),
        (88, 0x1003),
        (89, 0x0262),
        (112, 0),
        (114, 0),
    ];
    csrs.iter().for_each(|(index, value)| assert_eq!(rig.csr(*index), *value, "CSR{index}"));
    let bcrs = [5, 5, 2, 0, 0x80c0, 0x84, 0x88, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x9001, 2, 0x0302, 0, 0xff06];
    (0..36).for_each(|i| assert_eq!(rig.bcr(i), *bcrs.get(usize::from(i)).unwrap_or(&0), "BCR{i}"));
    rig.set_csr(5, 0);
    assert_eq!(rig.csr(0), 0x0073);
}

#[test]
fn sends_single_and_chained() {
    for style in STYLES {
        let mut rig = started(style);
        let whole = to_guest(200, 3);
        rig.send(&[&whole]);
        rig.send(&[&whole[..20], &whole[20..21], &whole[21..]]);
        let wire = rig.poll();
        assert_eq!(wire.frames, [whole.clone(), whole], "style {style}");
        assert_eq!(rig.reap_tx(), [0x0300, 0x0200, 0x0000, 0x0100]);
        assert_eq!(rig.csr(0) & 0x0200, 0x0200);
        assert_eq!(rig.poll().bursts, 0);
    }
}

#[test]
fn the_ring_wraps_and_a_burst_is_bounded() {
    for style in STYLES {
        let mut rig = Rig::new(style, 4, 6);
        rig.start(0, 0);
        let mut seen = vec![];
        for seed in 0..100u8 {
            rig.send(&[&to_guest(60, seed)]);
            if seed % 50 == 49 {
                for part in [32, 18] {
                    let wire = rig.poll();
                    assert_eq!((wire.frames.len(), wire.bursts), (part, 1));
                    seen.extend(wire.frames);
                }
                assert_eq!(rig.reap_tx().len(), 50);
            }
        }
        assert_eq!(seen, (0..100u8).map(|seed| to_guest(60, seed)).collect::<Vec<_>>());
    }
}

#[test]
fn unfinished_chains_wait() {
    for style in STYLES {
        let mut rig = started(style);
        let whole = to_guest(100, 4);
        rig.fill_tx(0, &whole[..50], 0x8200);
        assert_eq!(rig.poll().bursts, 0);
        rig.fill_tx(1, &whole[50..], 0x8100);
        assert_eq!(rig.poll().frames, [whole]);
    }
}

#[test]
fn broken_chains_cost_only_themselves() {
    for style in STYLES {
        let mut rig = started(style);
        let good = to_guest(80, 5);
        rig.fill_tx(0, &good, 0x8100); // no STP
        rig.fill_tx(1, &good, 0x8200); // no ENP before the next STP
        rig.fill_tx(2, &good, 0x8300);
        rig.fill_tx_at(3, 0x00f0_0000, 100, 0x8300); // nowhere
        rig.fill_tx(4, &good[..10], 0x8300); // runt
        rig.fill_tx(5, &good, 0x8300);
        rig.tx_at = 6;
        let wire = rig.poll();
        assert_eq!(wire.frames, [good.clone(), good]);
        let bad = DropReason::BadDescriptor;
        assert_eq!(wire.rejected, [bad, bad, bad, DropReason::Runt]);
        assert_eq!(rig.reap_tx(), [0x4100, 0x4200, 0x0300, 0x4300, 0x0300, 0x0300]);
        assert_eq!((rig.tx_error(0), rig.tx_error(2), rig.tx_error(3)), (0x8000, 0, 0x8000));
    }
}

#[test]
fn a_ring_without_an_end_is_drained() {
    for style in STYLES {
        for tx_log in [2, 7] {
            let mut rig = Rig::new(style, 4, tx_log);
            rig.start(0, 0);
            let count = rig.tx_count;
            (0..count).for_each(|i| rig.fill_tx(i, &to_guest(60, 0), if i == 0 { 0x8200 } else { 0x8000 }));
            rig.tx_at = count;
            for _ in 0..count {
                rig.poll();
            }
            assert_eq!(rig.reap_tx().len(), count);
            rig.send(&[&to_guest(60, 6)]);
            assert_eq!(rig.poll().frames.len(), 1);
        }
    }
}

#[test]
fn transmit_interrupts_as_asked() {
    let mut rig = started(3);
    let sent = |rig: &mut Rig, csr5: u16, status: u16| {
        rig.set_csr(5, csr5);
        let csr0 = rig.csr(0);
        rig.set_csr(0, csr0 & 0x7f00 | 0x40);
        rig.fill_tx(rig.tx_at, &to_guest(60, 0), status);
        rig.tx_at += 1;
        assert_eq!(rig.poll().frames.len(), 1);
        assert_eq!(rig.irq.level(), rig.csr(0) & 0x0280 == 0x0280);
        rig.irq.level()
    };
    assert!(sent(&mut rig, 0, 0x8300));
    assert!(!sent(&mut rig, 0x8000, 0x8300), "TOKINTD");
    assert!(!sent(&mut rig, 0x4000, 0x8300), "LTINTEN without LTINT");
    assert!(sent(&mut rig, 0x4000, 0x9300), "LTINTEN with LTINT");
    assert!(sent(&mut rig, 0xc000, 0x9300));
    assert_eq!(*rig.reap_tx().last().unwrap(), 0x0300, "LTINT comes back as MORE, clear");
}

#[test]
fn receives_with_fcs_padding_and_match_bits() {
    for style in STYLES {
        let mut rig = started(style);
        let tagged = [&MAC.0[..], &[0, 0x50, 0x56, 0, 0, 9, 0x81, 0, 0x00, 0x0a, 8, 6], &[0x55; 60]].concat();
        let frames = [to_guest(1514, 1), to_guest(42, 2), frame(Mac::BROADCAST, 60, 3), tagged.clone()];
        let tally = rig.deliver(&frames);
        assert_eq!(tally.frames(), 4);
        let got = rig.receive(true);
        assert_eq!(got.iter().map(|r| r.mcnt).collect::<Vec<_>>(), [1518, 64, 64, tagged.len() + 4]);
        assert_eq!(got[0].bytes[..1514], frames[0]);
        assert_eq!(got[0].bytes[1514..1518], [0; 4]);
        assert_eq!((&got[1].bytes[..42], &got[1].bytes[42..60]), (&frames[1][..], &[0; 18][..]));
        assert_eq!(got[3].bytes[..tagged.len()], tagged);
        let bits: Vec<u16> = got.iter().map(|r| r.status).collect();
        assert_eq!(bits, if style == 0 { [0x0300; 4] } else { [0x0340, 0x0340, 0x0310, 0x0340] });
        assert_eq!(rig.csr(0) & 0x0400, 0x0400);
        assert!(rig.irq.level());
    }
}

#[test]
fn receives_over_several_buffers() {
    for style in STYLES {
        let mut rig = Rig::new(style, 4, 4);
        rig.buffer = 256;
        rig.start(0, 0);
        for round in 0..7 {
            let sent = to_guest(1000, round);
            assert_eq!(rig.deliver(std::slice::from_ref(&sent)).frames(), 1);
            let got = rig.receive(true);
            let marks: Vec<u16> = got.iter().map(|r| r.status & 0xff00).collect();
            assert_eq!(marks, [0x0200, 0, 0, 0x0100], "style {style}");
            assert_eq!(got[3].mcnt, 1004);
            let bytes: Vec<u8> = got.iter().flat_map(|r| r.bytes.clone()).collect();
            assert_eq!(bytes[..1000], sent);
        }
        // A full frame of 4 KB cannot be told in 12 bits; one that no ring of these buffers holds neither.
        let tally = rig.deliver(&[to_guest(4092, 0), to_guest(4091, 1)]);
        assert_eq!((tally.drops(DropReason::Oversize), tally.frames()), (1, 1));
        let mut small = Rig::new(style, 1, 4);
        small.buffer = 256;
        small.start(0, 0);
        assert_eq!(small.deliver(&[to_guest(600, 0)]).drops(DropReason::Oversize), 1);
        assert_eq!(small.csr(0) & 0x1000, 0);
        assert_eq!(small.deliver(&[to_guest(500, 0)]).frames(), 1);
    }
}

#[test]
fn a_full_ring_is_missed_and_counted() {
    for style in STYLES {
        let mut rig = started(style);
        let frames: Vec<_> = (0..20).map(|i| to_guest(60, i)).collect();
        let tally = rig.deliver(&frames);
        assert_eq!((tally.frames(), tally.drops(DropReason::RingFull)), (16, 4));
        assert_eq!(rig.csr(0) & 0x9000, 0x9000, "MISS and ERR");
        assert_eq!(rig.csr(112), 4);
        assert_eq!(rig.receive(true).len(), 16);
        assert_eq!(rig.deliver(&frames[..16]).frames(), 16, "wraps");
        assert_eq!(rig.receive(true).len(), 16);
        rig.card.shared.missed.store(0xffff, std::sync::atomic::Ordering::Relaxed);
        rig.deliver(&frames);
        assert_eq!((rig.csr(112), rig.csr(4) & 0x0200), (3, 0x0200), "overflow");
    }
}

#[test]
fn a_receive_buffer_nowhere_is_told() {
    for style in STYLES {
        let mut rig = started(style);
        rig.arm_rx_at(0, 0x00f0_0000);
        let tally = rig.deliver(&[to_guest(60, 0), to_guest(60, 1)]);
        assert_eq!((tally.drops(DropReason::BadDescriptor), tally.frames()), (1, 1));
        let got = rig.receive(true);
        assert_eq!(got[0].status & 0xff00, 0x4b00, "ERR, CRC, STP, ENP");
        assert_eq!(got[1].status & 0xff00, 0x0300);
    }
}

#[test]
fn padding_is_stripped_when_asked() {
    let mut rig = started(2);
    rig.set_csr(4, 0x0515);
    let mut short = to_guest(60, 1);
    short[12..14].copy_from_slice(&[0, 20]);
    rig.deliver(&[short, to_guest(60, 2)]);
    let got = rig.receive(true);
    assert_eq!((got[0].mcnt, got[1].mcnt), (34, 64));
}

#[test]
fn interrupt_line_is_a_level() {
    let mut rig = started(2);
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let take = |fd: &OwnedFd| {
        let mut buf = [0; 8];
        rustix::io::read(fd, &mut buf).map_or(0, |_| u64::from_ne_bytes(buf))
    };
    assert!(!rig.irq.level(), "IDON was acknowledged with the start");
    rig.irq.set(IrqKind::Intx, 0, Some(fd.try_clone().unwrap()));
    rig.deliver(&[to_guest(60, 0), to_guest(60, 1)]);
    rig.deliver(&[to_guest(60, 2)]);
    assert_eq!(take(&fd), 1, "once until unmasked");
    rig.irq.unmask_intx();
    assert_eq!(take(&fd), 1, "still high");
    rig.set_csr(0, 0x0440);
    rig.irq.unmask_intx();
    assert_eq!(take(&fd), 0);
    rig.set_csr(4, 0x0195);
    assert_eq!((take(&fd), rig.csr(4) & 0x00c0), (1, 0x0040), "user interrupt");
    rig.set_csr(4, 0x0155);
    assert!(!rig.irq.level());
    rig.set_csr(0, 0);
    rig.deliver(&[to_guest(60, 3)]);
    assert!(!rig.irq.level());
    rig.set_csr(0, 0x0040);
    assert!(rig.irq.level());
    rig.inw(0x14);
    assert!(!rig.irq.level(), "reset lowers the line");
}

#[test]
fn filter_follows_the_registers() {
    let mut rig = Rig::new(2, 4, 4);
    assert_eq!(*rig.state.filter(), std::sync::Arc::new(RxFilter::closed()));
    rig.start(0x8000, 0x8000_0000_0000_0001);
    {
        let filter = rig.state.filter();
        assert_eq!(filter.mac, Some(MAC));
        assert!(filter.promiscuous && filter.unicast && filter.broadcast);
        assert_eq!(filter.multicast, Multicast::Hash(0x8000_0000_0000_0001));
    }
    rig.set_csr(8, 0xffff);
    assert_eq!(rig.csr(8), 1, "not while running");
    rig.set_csr(0, 4);
    assert_eq!(**rig.state.filter(), RxFilter::closed());
    rig.start(0x6000, 0);
    let filter = rig.state.filter();
    assert!(!filter.promiscuous && !filter.unicast && !filter.broadcast);
}

#[test]
fn what_is_off_neither_sends_nor_receives() {
    for style in STYLES {
        let mut rig = Rig::new(style, 4, 4);
        let refused = |rig: &Rig, reason| assert_eq!(rig.deliver(&[to_guest(60, 0)]).drops(reason), 1);
        refused(&rig, DropReason::NotConnected);
        rig.initialise(0, 0);
        refused(&rig, DropReason::NotConnected);
        rig.set_csr(0, 4);
        rig.start(1, 0);
        assert_eq!(rig.csr(0) & 0x30, 0x10, "DRX");
        refused(&rig, DropReason::NotConnected);
        rig.set_csr(0, 4);
        rig.start(2, 0);
        assert_eq!(rig.csr(0) & 0x30, 0x20, "DTX");
        rig.send(&[&to_guest(60, 0)]);
        assert_eq!(rig.poll().bursts, 0);
        rig.state.set_link_up(false);
        rig.card.link_changed();
        refused(&rig, DropReason::PortBlocked);
        rig.set_csr(0, 4);
        rig.start(0, 0);
        rig.send(&[&to_guest(60, 0)]);
        assert_eq!(rig.poll().rejected, [DropReason::PortBlocked]);
        assert_eq!((rig.reap_tx(), rig.tx_error(0)), (vec![0x4300], 0x0800), "loss of carrier");
        assert_eq!((rig.csr(0) & 0xa000, rig.bcr(4)), (0xa000, 0x00c0));
        rig.state.set_link_up(true);
        assert_eq!(rig.deliver(&[to_guest(60, 0)]).frames(), 1);
    }
}

#[test]
fn suspension_holds_the_rings_and_keeps_the_places() {
    for style in STYLES {
        let mut rig = started(style);
        rig.send(&[&to_guest(60, 1)]);
        rig.poll();
        rig.deliver(&[to_guest(60, 1), to_guest(60, 2)]);
        rig.set_csr(5, 1);
        assert_eq!((rig.csr(72), rig.csr(74)), (0xfff2, 0xfff1));
        rig.send(&[&to_guest(60, 2)]);
        assert_eq!(rig.poll().bursts, 0);
        assert_eq!(rig.deliver(&[to_guest(60, 3)]).drops(DropReason::NotConnected), 1);
        rig.set_csr(5, 0);
        assert_eq!(rig.poll().frames, [to_guest(60, 2)]);
        rig.deliver(&[to_guest(60, 4)]);
        let got = rig.receive(true);
        assert_eq!((got.len(), &got[2].bytes[..60]), (3, &to_guest(60, 4)[..]));
    }
}

#[test]
fn stop_reset_and_start_again() {
    for style in STYLES {
        let mut rig = started(style);
        for round in 0..3 {
            rig.send(&[&to_guest(60, round)]);
            assert_eq!(rig.poll().frames.len(), 1);
            assert_eq!(rig.deliver(&[to_guest(60, round)]).frames(), 1);
            rig.send(&[&to_guest(60, round)]);
            match round {
                0 => rig.set_csr(0, 4),
                1 => assert_eq!(rig.inw(0x14), 0),
                _ => rig.card.reset(),
            }
            assert_eq!(rig.csr(0), 4);
            assert!(!rig.irq.level());
            assert_eq!(rig.poll().bursts, 0);
            assert_eq!(rig.deliver(&[to_guest(60, round)]).drops(DropReason::NotConnected), 1);
            assert_eq!(rig.bcr(20) & 0xff, if round == 2 { 0 } else { style });
            rig.start(0, 0);
        }
    }
}

#[test]
fn internal_loopback_as_the_linux_self_test_does_it() {
    let mut rig = Rig::new(2, 5, 4);
    rig.initialise(0, 0);
    rig.set_csr(0, 0);
    rig.set_csr(0, 4);
    let frames: Vec<_> = (0..4).map(|i| to_guest(75, i)).collect();
    frames.iter().for_each(|f| rig.send(&[f]));
    rig.send(&[&frame(Mac([2, 0, 0, 0, 0, 7]), 75, 9)]);
    rig.set_csr(15, 0x0044);
    rig.set_csr(0, 2);
    let wire = rig.poll();
    assert_eq!((wire.frames.len(), wire.bursts), (0, 0), "nothing enters the switch");
    let got = rig.receive(true);
    assert_eq!(got.iter().map(|r| r.bytes[..75].to_vec()).collect::<Vec<_>>(), frames);
    assert_eq!(rig.deliver(&[to_guest(60, 0)]).drops(DropReason::NotConnected), 1);
}

#[test]
fn set_up_by_registers_alone() {
    let mut rig = Rig::new(2, 4, 4);
    rig.initialise(0, 0);
    rig.set_csr(0, 4);
    let (rx, tx) = (rig.base + rig.rx_desc(0) as u32, rig.base + rig.tx_desc(0) as u32);
    rig.inw(0x14);
    rig.set_csr(24, rx as u16);
    rig.set_csr(25, (rx >> 16) as u16);
    rig.set_csr(30, tx as u16);
    rig.set_csr(31, (tx >> 16) as u16);
    rig.set_csr(76, 0u16.wrapping_sub(11));
    rig.set_csr(78, 0u16.wrapping_sub(16));
    rig.set_csr(15, 0);
    rig.set_csr(0, 2);
    assert_eq!(rig.csr(0), 0x0032);
    rig.send(&[&to_guest(60, 0)]);
    assert_eq!(rig.poll().frames.len(), 1);
    let frames: Vec<_> = (0..12).map(|i| to_guest(60, i)).collect();
    assert_eq!(rig.deliver(&frames).frames(), 11, "a ring of eleven");
}

#[test]
fn upper_address_byte_of_the_lance_style() {
    let mut rig = Rig::at(0x0500_0000, 0, 4, 4);
    rig.start(0, 0);
    assert_eq!(rig.csr(25), 0x0500);
    rig.send(&[&to_guest(60, 0)]);
    assert_eq!(rig.poll().frames.len(), 1);
    assert_eq!(rig.deliver(&[to_guest(60, 1)]).frames(), 1);
    assert_eq!(rig.receive(true)[0].bytes[..60], to_guest(60, 1));
}

#[test]
fn memory_that_is_not_there_or_not_shared() {
    let mut rig = Rig::new(2, 4, 4);
    let unshared = Mapping { iova: rig.base.into(), len: SIZE as u64, region: None, writable: true };
    rig.card.set_map(Arc::new(DmaMap::new().with(unshared).unwrap()));
    rig.initialise(0, 0);
    assert_eq!(rig.csr(0), 0x8881, "MERR, no IDON");
    assert!(rig.card.complained);
    rig.set_csr(0, 0x42);
    assert_eq!(rig.csr(0) & 0x0832, 0x0802, "started, but neither direction is on");
    assert!(rig.irq.level());
    // A good block with a ring that runs out of memory.
    rig.set_csr(0, 4);
    rig.card.set_map(Arc::new(rig.map()));
    rig.initialise(0, 0);
    rig.poke(20, &(rig.base + SIZE as u32 - 16).to_le_bytes());
    rig.set_csr(0, 4);
    rig.set_csr(0, 3);
    assert_eq!(rig.csr(0) & 0x0933, 0x0903);
    rig.set_csr(0, 4);
    rig.start(0, 0);
    assert_eq!(rig.csr(0) & 0x0830, 0x0030, "mended");
}

#[test]
fn a_map_change_keeps_or_pauses_the_rings() {
    for style in STYLES {
        let mut rig = started(style);
        rig.send(&[&to_guest(60, 1)]);
        rig.poll();
        rig.deliver(&[to_guest(60, 1)]);
        let extra = Mapping { iova: 0x4000_0000, len: 4096, region: Some(region(4096)), writable: true };
        rig.card.set_map(Arc::new(rig.map().with(extra).unwrap()));
        rig.send(&[&to_guest(60, 2)]);
        assert_eq!(rig.poll().frames, [to_guest(60, 2)]);
        assert_eq!(rig.deliver(&[to_guest(60, 2)]).frames(), 1);
        rig.card.set_map(Arc::new(DmaMap::new()));
        assert!(rig.card.shared.active.load().is_none());
        rig.send(&[&to_guest(60, 3)]);
        assert_eq!(rig.poll().bursts, 0);
        assert_eq!(rig.deliver(&[to_guest(60, 3)]).drops(DropReason::NotConnected), 1);
        rig.card.set_map(Arc::new(rig.map()));
        assert_eq!(rig.poll().frames, [to_guest(60, 3)]);
        rig.deliver(&[to_guest(60, 4)]);
        let got = rig.receive(true);
        assert_eq!((got.len(), &got[2].bytes[..60]), (3, &to_guest(60, 4)[..]));
    }
}

/// A descriptor that a worker is filling still says that the chip owns it; nobody else may have it.
#[test]
fn a_reserved_descriptor_is_nobody_elses() {
    let mut rig = Rig::new(2, 2, 4);
    rig.start(0, 0);
    let guard = rig.card.shared.active.load();
    let active = guard.as_deref().unwrap();
    let (cursor, ring) = (&active.rx_cursor, active.rx.as_ref().unwrap());
    let mut held = [const { active::Reserved::new_const() }; 4];
    for (i, reserved) in held.iter_mut().enumerate() {
        cursor.reserve(ring, 64, reserved).unwrap();
        assert_eq!(reserved[0].0, i as u32);
    }
    let mut more = active::Reserved::new();
    assert_eq!(cursor.reserve(ring, 64, &mut more), Err(DropReason::RingFull));
    // The second is done first; the first still blocks the way.
    let finish = |i: usize| {
        let (index, desc) = held[i][0];
        ring.put_rx(index, &desc, 0x0300, 64);
        cursor.release(index);
        rig.arm_rx(i);
    };
    finish(1);
    assert_eq!(cursor.reserve(ring, 64, &mut more), Err(DropReason::RingFull));
    finish(0);
    cursor.reserve(ring, 2000, &mut more).unwrap();
    assert_eq!(more.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(cursor.reserve(ring, 64, &mut more), Err(DropReason::RingFull));
}

/// Two workers deliver while the driver recycles: every delivered frame arrives whole, once.
#[test]
fn two_workers_deliver_at_once() {
    let mut rig = Rig::new(2, 2, 4);
    rig.start(0, 0);
    let done = AtomicBool::new(false);
    let egress = rig.egress.clone();
    let (sent, got) = std::thread::scope(|scope| {
        let workers: Vec<_> = [1u8, 2]
            .into_iter()
            .map(|seed| {
                let egress = egress.clone();
                scope.spawn(move || {
                    let frames = [to_guest(1514, seed), to_guest(1514, seed)];
                    (0..400).map(|_| deliver(&*egress, &frames).frames()).sum::<u64>()
                })
            })
            .collect();
        let rig = &mut rig;
        let done = &done;
        let driver = scope.spawn(move || {
            let mut got = 0u64;
            let expect = [to_guest(1514, 1), to_guest(1514, 2)];
            loop {
                let last = done.load(Ordering::SeqCst);
                for r in rig.receive(true) {
                    assert_eq!((r.status & 0xff00, r.mcnt), (0x0300, 1518));
                    assert!(expect.iter().any(|e| e[..] == r.bytes[..1514]), "torn frame");
                    got += 1;
                }
                if last {
                    return got;
                }
                std::thread::yield_now();
            }
        });
        let sent: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
        done.store(true, Ordering::SeqCst);
        (sent, driver.join().unwrap())
    });
    assert!(sent > 0);
    assert_eq!(sent, got);
}

/// A worker that is inside a poll keeps STOP from returning.
#[test]
fn stop_waits_for_the_worker() {
    let grace = Grace::new(1);
    let ticker = grace.ticker(0).unwrap();
    let irq = Interrupts::new();
    let state = Arc::new(PortState::new());
    let mut donor = Rig::new(2, 4, 4);
    donor.initialise(0, 0);
    let setup = Setup { name: "x".into(), mac: MAC, mtu: 1500, state, interrupts: irq, grace };
    let (memory, map) = (donor.memory.clone(), Arc::new(donor.map()));
    donor.card = Vlance::new(setup);
    donor.egress = donor.card.egress();
    donor.memory = memory;
    donor.card.set_map(map);
    donor.start(0, 0);
    let ended = Arc::new(AtomicBool::new(false));
    let seen = ended.clone();
    let guard = donor.card.shared.clone();
    let (holds, held) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        let held = guard.active.load();
        assert!(held.is_some());
        holds.send(()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(held);
        seen.store(true, Ordering::SeqCst);
        ticker.tick();
    });
    held.recv().unwrap();
    donor.set_csr(0, 4);
    assert!(ended.load(Ordering::SeqCst));
    worker.join().unwrap();
}

#[derive(Debug, Clone)]
enum Act {
    Csr(u16, u16),
    Bcr(u16, u16),
    Raw(u8, u32, Vec<u8>),
    Read(u8, u32, usize),
    Poke(usize, u32),
    Init,
    Poll,
    Deliver(usize, usize),
    Map(bool),
    Link(bool),
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    let word = prop_oneof![Just(0u16), Just(1), Just(2), Just(3), Just(4), Just(0x43), any::<u16>()];
    prop_oneof![
        4 => (0u16..130, word.clone()).prop_map(|(i, v)| Act::Csr(i, v)),
        4 => (prop_oneof![Just(0u16), Just(5), Just(15), Just(76), Just(78)], word.clone()).prop_map(|(i, v)| Act::Csr(i, v)),
        2 => (0u16..36, word).prop_map(|(i, v)| Act::Bcr(i, v)),
        1 => (0u8..3, 0u32..40, proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(b, o, d)| Act::Raw(b, o, d)),
        2 => (0u8..3, 0u32..40, 1usize..9).prop_map(|(b, o, l)| Act::Read(b, o, l)),
        8 => (0usize..0x90, any::<u32>()).prop_map(|(i, v)| Act::Poke(i, v)),
        4 => Just(Act::Init),
        8 => Just(Act::Poll),
        6 => (1usize..33, 14usize..5000).prop_map(|(n, l)| Act::Deliver(n, l)),
        1 => any::<bool>().prop_map(Act::Map),
        1 => any::<bool>().prop_map(Act::Link),
        1 => Just(Act::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the guest does with registers, descriptors and the initialisation block: no panic, each
    /// harvested frame is forwarded or rejected, each listed frame delivered or dropped, and the line
    /// is at the level the registers say.
    #[test]
    fn hostile_guests_break_nothing(style in 0u16..5, acts in proptest::collection::vec(act(), 1..80)) {
        let mut rig = Rig::new(style.min(3), 2, 2);
        rig.start(0, u64::MAX);
        for act in acts {
            match act {
                Act::Csr(i, v) => rig.set_csr(i, v),
                Act::Bcr(i, v) => rig.set_bcr(i, v),
                Act::Raw(b, o, d) => { let _ = rig.card.write(b, o, &d); }
                Act::Read(b, o, l) => { let mut d = vec![0; l]; let _ = rig.card.read(b, o, &mut d); }
                // The init block, then words of both rings.
                Act::Poke(i, v) => {
                    let at = match i { 0..8 => i * 4, 8..0x4c => rig.rx_desc(0) + (i - 8) * 4, _ => rig.tx_desc(0) + (i - 0x4c) * 4 };
                    // Half of the addresses point into memory.
                    let v = if v & 1 == 0 { v } else { v & 0x8f1f_ffff };
                    rig.poke(at, &v.to_le_bytes());
                }
                Act::Init => { rig.set_csr(0, 4); rig.set_csr(1, 0); rig.set_csr(2, 0x10); rig.set_csr(0, 0x43); }
                Act::Poll => {
                    let mut wire = Wire::new();
                    let taken = rig.queue.poll(&mut wire);
                    let looped = rig.card.shared.active.load().as_ref().is_some_and(|a| a.loopback);
                    if !looped {
                        prop_assert_eq!(taken, wire.frames.len() + wire.rejected.len());
                    }
                }
                Act::Deliver(n, l) => {
                    let frames: Vec<_> = (0..n).map(|i| to_guest(l, i as u8)).collect();
                    let tally = rig.deliver(&frames);
                    let dropped: u64 = DropReason::ALL.iter().map(|r| tally.drops(*r)).sum();
                    prop_assert_eq!(tally.frames() + dropped, n as u64);
                }
                Act::Map(whole) => {
                    let map = if whole { rig.map() } else { DmaMap::new() };
                    rig.card.set_map(Arc::new(map));
                }
                Act::Link(up) => rig.state.set_link_up(up),
                Act::Reset => rig.card.reset(),
            }
            prop_assert_eq!(rig.irq.level(), rig.card.shared.cause.status().level());
        }
    }
}
