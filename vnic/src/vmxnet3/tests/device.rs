//! Registers, commands, filters, interrupts, and what the card lives through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dataplane::{Burst, DropReason, Grace, Multicast, RxFilter, Sink};
use rustix::event::{EventfdFlags, eventfd};
use sharedmem::{DmaMap, Mapping};
use wire::{Mac, Tag};

use super::driver::*;
use crate::device::{BadAccess, DeviceModel};
use crate::irq::IrqKind;
use crate::vmxnet3::commands::*;
use crate::vmxnet3::registers::*;
use crate::vmxnet3::shared_area::{at, queue};

#[test]
fn what_a_probe_reads() {
    let mut guest = Guest::new(Options::default());
    assert_eq!((guest.reg(VRRS), guest.reg(UVRS)), (0x47, 1), "revisions 1, 2, 3 and 7");
    guest.set_reg(VRRS, 1);
    guest.set_reg(UVRS, 1);
    assert_eq!((guest.reg(MACL), guest.reg(MACH)), (0x0056_5000, 0x0100));
    assert_eq!((guest.command(GET_PERM_MAC_LO), guest.command(GET_PERM_MAC_HI)), (0x0056_5000, 0x0100));
    assert_eq!(guest.command(GET_LINK), 10_000 << 16 | 1);
    assert_eq!(guest.command(GET_CONF_INTR), 0, "type and mask mode left to the driver");
    assert_eq!((guest.command(GET_DID_LO), guest.command(GET_DID_HI)), (0x07b0, 1));
    assert_eq!((guest.command(GET_DEV_EXTRA_INFO), guest.command(GET_ADAPTIVE_RING_INFO)), (0, 1));
    assert_eq!(guest.command(GET_TXDATA_DESC_SIZE), 128);
    for refused in [LOAD_PLUGIN, SET_COALESCE, REGISTER_MEMREGS, GET_COALESCE, 0, 0xcafe_ffff, 0xf00d_ffff] {
        assert_eq!(guest.command(refused), FAILURE);
    }
    for later in [SET_RSS_FIELDS, GET_RSS_FIELDS, GET_MAX_QUEUES_CONF, GET_DCR0_REG, SET_RING_BUFFER_SIZE] {
        assert_eq!(guest.command(later), FAILURE, "not of revision 1");
    }
    assert_eq!(guest.reg(0xffc), 0);
    let pci = guest.model.pci();
    assert_eq!((pci.vendor, pci.device, pci.revision, pci.msix_vectors, pci.msi_vectors), (0x15ad, 0x07b0, 1, 25, 1));
    let mut two = [0; 2];
    assert_eq!(guest.model.read(1, 0, &mut two), Err(BadAccess));
    assert_eq!(guest.model.read(1, 4094, &mut [0; 4]), Err(BadAccess));
    assert_eq!(guest.model.write(3, 0, &two), Err(BadAccess));
    assert!(guest.model.read(0, 1, &mut two).is_ok() && guest.model.write(0, 3, &two).is_ok());
    assert!(guest.model.read(0, 4095, &mut two).is_err() && guest.model.write(2, 4095, &two).is_err());
}

#[test]
fn the_bar0_page_and_messages_are_the_same() {
    let mut guest = Guest::new(Options::default());
    guest.store(0x600, 17);
    let mut word = [0; 4];
    guest.model.read(0, TXPROD, &mut word).unwrap();
    assert_eq!(word, [17, 0, 0, 0]);
    guest.model.write(0, RXPROD2, &[5, 0, 0, 0]).unwrap();
    assert_eq!(guest.model.bar_page(0).unwrap().slice().load_u32(0xa00), Some(5));
    assert!(guest.model.bar_page(1).is_none());
    guest.model.reset();
    assert_eq!((guest.mask(0), guest.mask(24)), (1, 1));
    assert_eq!(guest.model.bar_page(0).unwrap().slice().load_u32(0xa00), Some(0));
}

#[test]
fn a_wrong_shared_area_fails_the_start() {
    let field = |at: u32| AREA + u64::from(at);
    let rx = |at: u32| QUEUES + 256 + u64::from(at);
    type Break = Box<dyn Fn(&Guest)>;
    let cases: Vec<Break> = vec![
        Box::new(move |g| g.put32(field(at::MAGIC), 1)),
        Box::new(move |g| g.put(field(at::QUEUE_COUNTS), &[0, 0, 0, 1])),
        Box::new(move |g| g.put(field(at::QUEUE_COUNTS), &[0, 0, 9, 1])),
        Box::new(move |g| g.put(field(at::QUEUE_COUNTS), &[0, 0, 1, 17])),
        Box::new(move |g| g.put32(field(at::QUEUES_LEN), 511)),
        Box::new(move |g| g.put64(field(at::QUEUES), u64::MAX)),
        Box::new(move |g| g.put(field(at::INTERRUPTS), &[1, 3, 25])),
        Box::new(move |g| g.put32(QUEUES + u64::from(queue::RING_COUNT), 0)),
        Box::new(move |g| g.put32(QUEUES + u64::from(queue::RING_COUNT), 33)),
        Box::new(move |g| g.put32(QUEUES + u64::from(queue::RING_COUNT), 4128)),
        Box::new(move |g| g.put32(QUEUES + u64::from(queue::COMPLETION_COUNT), u32::MAX)),
        Box::new(move |g| g.put32(QUEUES + u64::from(queue::VECTOR), 25)),
        Box::new(move |g| g.put64(QUEUES + u64::from(queue::RING), BASE + MEMORY as u64 - 16)),
        Box::new(move |g| g.put64(rx(queue::COMPLETIONS), 8)),
        Box::new(move |g| g.put32(rx(queue::COMPLETION_COUNT), 8224)),
        Box::new(move |g| g.put64(rx(queue::RING2), BASE + 2)),
    ];
    let mut guest = Guest::new(Options::default());
    for (i, break_it) in cases.iter().enumerate() {
        guest.lay_out();
        break_it(&guest);
        assert_eq!(guest.activate(), 1, "case {i}");
        assert_eq!(*guest.state.filter().as_ref(), RxFilter::closed());
        assert_eq!(guest.poll(0).taken, 0);
    }
    guest.lay_out();
    assert_eq!(guest.activate(), 0, "and a right one starts after all");
    assert_eq!(guest.activate(), 0, "twice is a restart");
}

#[test]
fn memory_that_is_not_shared_fails_the_start_and_says_so() {
    let mut guest = Guest::new(Options::default());
    guest.lay_out();
    let mapping = Mapping { iova: BASE, len: MEMORY as u64, region: None, writable: true };
    guest.model.set_map(Arc::new(DmaMap::new().with(mapping).unwrap()));
    assert_eq!(guest.activate(), 1);
    let said = guest.model.complaint.clone().unwrap();
    assert!(said.contains("web1") && said.contains("does not share its memory") && said.contains("share=on"), "{said}");
    guest.model.set_map(map_of(&guest.region));
    assert_eq!(guest.activate(), 0);
    assert_eq!(guest.model.complaint, None);
}

#[test]
fn receive_filters() {
    let mut guest = Guest::new(Options { mode: 0, ..Options::default() });
    guest.lay_out();
    guest.activate();
    assert!(!guest.state.filter().unicast, "mode 0 takes nothing");
    guest.set_reg(MACL, u32::from_le_bytes([2, 0, 0, 1]));
    assert_eq!(guest.state.filter().mac, Some(MAC), "half an address changes nothing");
    guest.set_reg(MACH, u32::from_le_bytes([2, 3, 0, 0]));
    assert_eq!(guest.state.filter().mac, Some(Mac([2, 0, 0, 1, 2, 3])));
    let group = Mac([1, 0, 0x5e, 1, 2, 3]);
    guest.put(GROUPS, &group.0);
    guest.put64(AREA + u64::from(at::GROUPS), GROUPS);
    guest.put32(AREA + u64::from(at::GROUPS_LEN), 6);
    guest.put32(AREA + u64::from(at::RX_MODE), 7);
    guest.put32(AREA + u64::from(at::VLANS) + 12, 1 << 4);
    guest.command(UPDATE_RX_MODE);
    assert!(!guest.state.filter().wants_group(group), "its own command has not come");
    guest.command(UPDATE_MAC_FILTERS);
    guest.put(GROUPS, &[0; 6]);
    assert!(!guest.state.filter().wants_tag(Some(Tag(100))));
    guest.command(UPDATE_VLAN_FILTERS);
    let filter = guest.state.filter();
    assert!(filter.unicast && filter.broadcast && !filter.all_multicast && !filter.promiscuous);
    assert!(filter.wants_group(group), "the table is read by its command only");
    assert!(!filter.wants_group(Mac([1, 0, 0x5e, 9, 9, 9])));
    assert!(filter.wants_tag(Some(Tag(100))) && filter.wants_tag(Some(Tag(0))) && !filter.wants_tag(Some(Tag(101))));
    // Too many to look up, or nowhere.
    guest.put32(AREA + u64::from(at::GROUPS_LEN), 0xfffc);
    guest.command(UPDATE_MAC_FILTERS);
    assert!(guest.state.filter().all_multicast);
    guest.put32(AREA + u64::from(at::GROUPS_LEN), 60);
    guest.put64(AREA + u64::from(at::GROUPS), u64::MAX - 7);
    guest.command(UPDATE_MAC_FILTERS);
    assert_eq!(guest.state.filter().multicast, Multicast::List(vec![]));
    guest.put32(AREA + u64::from(at::RX_MODE), 0x1d);
    guest.command(UPDATE_RX_MODE);
    let filter = guest.state.filter();
    assert!(filter.promiscuous && filter.all_multicast && filter.vlans.is_none());
    guest.command(QUIESCE_DEV);
    assert_eq!(*guest.state.filter().as_ref(), RxFilter::closed());
}

#[test]
fn masks_hold_interrupts_back_and_lifting_them_lets_them_go() {
    let mut guest = Guest::started(Options::default());
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    guest.deliver(&source, None);
    assert_eq!((guest.interrupts(1), guest.mask(1)), (1, 1), "auto-masked");
    guest.deliver(&source, None);
    guest.poll(0);
    assert_eq!(guest.interrupts(1), 0, "held back");
    guest.store(8, 0);
    assert_eq!(guest.interrupts(1), 0);
    guest.poll(0);
    assert_eq!((guest.interrupts(1), guest.mask(1)), (1, 1), "found lifted, with no message");
    guest.store(8, 0);
    guest.poll(0);
    assert_eq!(guest.interrupts(1), 0, "nothing is pending any more");
    // By message.
    guest.store(8, 1);
    guest.deliver(&source, None);
    guest.model.write(0, 8, &[0; 4]).unwrap();
    assert_eq!(guest.interrupts(1), 1);
    // Everything off by the control word.
    guest.store(8, 0);
    guest.put32(AREA + u64::from(at::INTERRUPT_CONTROL), 1);
    guest.deliver(&source, None);
    guest.poll(0);
    assert_eq!(guest.interrupts(1), 0);
    guest.put32(AREA + u64::from(at::INTERRUPT_CONTROL), 0);
    guest.poll(0);
    assert_eq!(guest.interrupts(1), 1);
}

#[test]
fn without_auto_mask_the_driver_masks() {
    let guest = Guest::started(Options { auto_mask: false, ..Options::default() });
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    guest.deliver(&source, None);
    guest.deliver(&source, None);
    assert_eq!((guest.interrupts(1), guest.mask(1)), (2, 0));
}

#[test]
fn intx_is_a_level_with_a_cause() {
    let mut guest = Guest::without_interrupts(Options::default());
    let line = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    guest.irq.set(IrqKind::Intx, 0, Some(line.try_clone().unwrap()));
    guest.vectors = vec![line];
    guest.lay_out();
    guest.put32(QUEUES + 256 + u64::from(queue::VECTOR), 0);
    guest.put(AREA + u64::from(at::INTERRUPTS), &[1, 1, 0]);
    guest.activate();
    guest.enable_interrupts();
    assert_eq!(guest.reg(ICR), 0, "not ours");
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    guest.deliver(&source, None);
    assert_eq!((guest.interrupts(0), guest.irq.level(), guest.mask(0)), (1, true, 0));
    guest.deliver(&source, None);
    assert_eq!(guest.reg(ICR), 1);
    assert_eq!((guest.irq.level(), guest.mask(0)), (false, 1), "lowered, and masked until the driver is done");
    assert_eq!(guest.reg(ICR), 0);
    guest.deliver(&source, None);
    assert!(!guest.irq.level());
    guest.irq.unmask_intx();
    assert_eq!(guest.interrupts(0), 0);
    guest.store(0, 0);
    guest.poll(0);
    assert_eq!((guest.interrupts(0), guest.irq.level()), (1, true));
    guest.command(QUIESCE_DEV);
    assert!(!guest.irq.level());
}

#[test]
fn the_link() {
    let mut guest = Guest::started(Options::default());
    guest.state.set_link_up(false);
    guest.model.link_changed();
    assert_eq!(guest.interrupts(2), 1, "the event vector");
    assert_eq!(guest.get32(AREA + u64::from(at::EVENTS)), event::LINK);
    assert_eq!((guest.reg(ECR), guest.command(GET_LINK)), (event::LINK, 0));
    guest.set_reg(ECR, event::LINK);
    assert_eq!(guest.get32(AREA + u64::from(at::EVENTS)), 0);
    guest.command(QUIESCE_DEV);
    guest.model.link_changed();
    assert_eq!(guest.reg(ECR), 0);
}

#[test]
fn quiesce_reset_and_start_again() {
    let mut guest = Guest::started(Options::default());
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    guest.deliver(&source, None);
    for stop in [QUIESCE_DEV, RESET_DEV] {
        guest.command(stop);
        assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
        guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
        assert_eq!(guest.poll(0).taken, 0, "nothing moves");
        guest.lay_out();
        assert_eq!(guest.activate(), 0);
        guest.enable_interrupts();
        guest.deliver(&source, None);
        assert_eq!(guest.receive().len(), 1);
        guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
        assert_eq!(guest.poll(0).taken, 1);
        assert_eq!(guest.completed(0), [0]);
    }
    guest.command(GET_STATS);
    assert_eq!(guest.get64(QUEUES + u64::from(queue::STATS) + 16), 2, "statistics outlive a restart");
    guest.set_reg(DSAL, 0);
    assert_eq!(guest.poll(0).taken, 0);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
    guest.lay_out();
    guest.activate();
    guest.model.reset();
    guest.command(GET_STATS);
    assert_eq!(guest.reg(DSAL), 0);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
}

#[test]
fn a_changed_map_keeps_the_rings_where_they_are() {
    let mut guest = Guest::started(Options::default());
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    let send = |guest: &mut Guest| {
        guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
        assert_eq!(guest.poll(0).taken, 1);
        assert_eq!(guest.completed(0).len(), 1);
        assert_eq!(guest.deliver(&source, None).frames(), 1);
        assert_eq!(guest.receive().len(), 1);
    };
    send(&mut guest);
    let more = Mapping { iova: 1 << 40, len: 4096, region: None, writable: false };
    guest.model.set_map(Arc::new(map_of(&guest.region).with(more).unwrap()));
    send(&mut guest);
    // QEMU may take its memory away for a moment.
    guest.model.set_map(Arc::default());
    guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
    assert_eq!(guest.poll(0).taken, 0);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
    assert_eq!(*guest.state.filter().as_ref(), RxFilter::closed());
    guest.model.set_map(map_of(&guest.region));
    assert_eq!(guest.poll(0).taken, 1);
    assert!(guest.state.filter().unicast);
    guest.completed(0);
    send(&mut guest);
}

#[test]
fn a_file_shrunk_under_the_rings_stops_the_card() {
    let mut guest = Guest::started(Options::default());
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    guest.file.set_len(0).unwrap();
    // The access that finds it goes on with zeros; the next look stops.
    guest.deliver(&source, None);
    assert_eq!(guest.deliver(&source, None).drops(DropReason::NotConnected), 1);
    assert_eq!(guest.poll(0).taken, 0);
    guest.command(GET_LINK);
    assert_eq!(*guest.state.filter().as_ref(), RxFilter::closed());
    guest.command(GET_STATS);
    guest.model.link_changed();
}

#[test]
fn after_a_stop_no_worker_touches_guest_memory() {
    let grace = Grace::new(1);
    let mut guest =
        Guest::with_grace(Options { rx_sizes: [256, 32], rx_completions: 288, ..Options::default() }, grace.clone());
    guest.lay_out();
    let stop = Arc::new(AtomicBool::new(false));
    let (egress, mut queue, ticker) = (guest.egress.clone(), guest.queues.remove(0), grace.ticker(0).unwrap());
    let (done, moved) = (stop.clone(), Arc::new(AtomicU64::new(0)));
    let frames = moved.clone();
    let worker = std::thread::spawn(move || {
        let source = Source::plain(&[ether(MAC, PEER, 1500, 1)]);
        while !done.load(Ordering::Relaxed) {
            let moved = deliver(&*egress, &source, None).frames() + queue.poll(&mut Caught::default()) as u64;
            frames.fetch_add(moved, Ordering::Relaxed);
            ticker.tick();
        }
    });
    for round in 0..60 {
        guest.lay_out();
        assert_eq!(guest.activate(), 0);
        guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
        let receive_ring = guest.get64(QUEUES + 256 + u64::from(queue::COMPLETIONS));
        // Every other round it stops in the midst of frames: four of them, so that all rounds come to more than a hundred.
        let before = moved.load(Ordering::Relaxed);
        while round % 2 == 0 && (guest.get32(receive_ring + 12) == 0 || moved.load(Ordering::Relaxed) < before + 4) {
            std::thread::yield_now();
        }
        match round % 3 {
            0 => assert_eq!(guest.command(QUIESCE_DEV), 0),
            1 => guest.model.reset(),
            _ => guest.model.set_map(Arc::default()),
        }
        guest.put(receive_ring, &[0xa5; 288 * 16]);
        std::thread::sleep(std::time::Duration::from_micros(300));
        assert!(guest.get(receive_ring, 288 * 16).iter().all(|b| *b == 0xa5), "round {round}");
        guest.command(QUIESCE_DEV);
        guest.model.set_map(map_of(&guest.region));
    }
    stop.store(true, Ordering::Relaxed);
    worker.join().unwrap();
    assert!(moved.load(Ordering::Relaxed) > 100);
}

/// A sink that says when a worker is in it, and stays there a while.
struct Slow {
    inside: Arc<AtomicBool>,
    left: Arc<AtomicBool>,
}

impl Sink for Slow {
    fn forward(&mut self, _: &Burst<'_>) {
        self.inside.store(true, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(30));
        self.left.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_stop_waits_for_the_worker_in_the_ring() {
    type Stop = fn(&mut Guest);
    let stops: [Stop; 4] = [
        |g| g.set_reg(CMD, QUIESCE_DEV),
        |g| g.set_reg(CMD, RESET_DEV),
        |g| g.model.reset(),
        |g| g.model.set_map(Arc::default()),
    ];
    for (i, stop) in stops.into_iter().enumerate() {
        let grace = Grace::new(1);
        let mut guest = Guest::with_grace(Options::default(), grace.clone());
        guest.lay_out();
        guest.activate();
        guest.send(0, &[&ether(PEER, MAC, 64, 1)], Ask::default());
        let (inside, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut slow = Slow { inside: inside.clone(), left: left.clone() };
        let (mut queue, ticker) = (guest.queues.remove(0), grace.ticker(0).unwrap());
        let worker = std::thread::spawn(move || {
            assert_eq!(queue.poll(&mut slow), 1);
            ticker.tick();
        });
        while !inside.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        stop(&mut guest);
        assert!(left.load(Ordering::SeqCst), "stop {i}");
        assert_eq!(guest.completed(0), [0], "what was sent is completed first");
        worker.join().unwrap();
    }
}

#[test]
fn dropping_the_card_takes_the_rings_away() {
    let guest = Guest::started(Options::default());
    let Guest { model, egress, mut queues, state, .. } = guest;
    drop(model);
    let source = Source::plain(&[ether(MAC, PEER, 100, 1)]);
    let mut tally = dataplane::Tally::new();
    egress.deliver(&source.burst(), &[dataplane::Delivery::new(0, None)], &mut tally);
    assert_eq!(tally.drops(DropReason::NotConnected), 1);
    assert_eq!(queues[0].poll(&mut Caught::default()), 0);
    assert_eq!(*state.filter().as_ref(), RxFilter::closed());
}
