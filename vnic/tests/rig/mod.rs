//! What the tests of both kinds of ring have in common: a card in memory of the test's own, and the other side of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{
    Burst, Caps, Counters, Delivery, DropReason, Egress, Offload, Plan, PortState, PortTotals, Sink, Tally,
};
use sharedmem::{MemTable, Region, Span};
use vnic::irq::{Interrupts, IrqKind};
use vnic::virtio::{Active, Card};
use wire::Mac;

/// Guest address of the first byte of memory.
pub const BASE: u64 = 0x4000_0000;
/// Bytes of it.
pub const SIZE: usize = 4 << 20;
/// The card's address.
pub const MAC: Mac = Mac([0, 0x50, 0x56, 0, 0, 1]);

/// `len` bytes that the test and the card share.
pub fn region(len: usize) -> Arc<Region> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    Region::map(file.as_fd(), 0, len, true).unwrap()
}

/// A card's rings, none so far; memory in spans that meet at `cuts`.
pub fn no_rings(memory: &Arc<Region>, features: u64, cuts: &[usize]) -> Active {
    let mut table = MemTable::new();
    let ends: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).chain([SIZE]).collect();
    for pair in ends.windows(2) {
        let (guest, len) = (BASE + pair[0] as u64, (pair[1] - pair[0]) as u64);
        let span = Span { guest, len, user: guest, region: memory.clone(), offset: pair[0] };
        table = table.with(span).unwrap();
    }
    Active {
        table: Arc::new(table),
        features,
        tx: Default::default(),
        rx: Default::default(),
        receivers: ArrayVec::new(),
        failed: AtomicU16::new(0),
    }
}

/// A card with these rings, and the eventfds by which it calls its driver: receive, transmit.
pub fn card(active: &Arc<Active>) -> (Arc<Card>, [OwnedFd; 2]) {
    let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
    state.set_link_up(true);
    let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let calls = [event(), event()];
    for (index, call) in calls.iter().enumerate() {
        interrupts.set(IrqKind::Msix, index, Some(call.try_clone().unwrap()));
    }
    let card = Arc::new(Card {
        active: ArcSwapOption::new(Some(active.clone())),
        state,
        interrupts,
        kicks: Default::default(),
        errors: Default::default(),
    });
    card.kicks[0].store(Some(Arc::new(event())));
    (card, calls)
}

/// What the switch got.
#[derive(Default)]
pub struct Wire {
    pub frames: Vec<Vec<u8>>,
    pub rejected: Vec<DropReason>,
    pub offloads: Vec<Offload>,
    pub caps: Caps,
}

impl Sink for Wire {
    fn forward(&mut self, burst: &Burst<'_>) {
        let scratch = region(1 << 17);
        for (i, frame) in burst.frames().iter().enumerate() {
            self.offloads.push(frame.offload());
            let plan = Plan::new(burst, &Delivery { frame: i as u8, tag: frame.tag() }, self.caps).unwrap();
            for segment in 0..plan.count() {
                let room = scratch.slice(0, plan.len(segment)).unwrap();
                assert!(plan.write(segment, &[room]));
                let mut bytes = vec![0; plan.len(segment)];
                assert!(room.read_at(0, &mut bytes));
                self.frames.push(bytes);
            }
        }
        self.rejected.extend(burst.rejected().iter().map(|(reason, _)| *reason));
    }
}

/// Gives `frames` to the card in one burst.
pub fn deliver(path: &dyn Egress, frames: &[Vec<u8>], offload: Offload) -> Tally {
    let memory = region(frames.iter().map(Vec::len).sum::<usize>().max(1));
    let mut burst = Burst::new();
    let mut at = 0;
    for frame in frames {
        let slice = memory.slice(at, frame.len()).unwrap();
        assert!(slice.write_at(0, frame));
        burst.push(&[slice], None, offload);
        at += frame.len();
    }
    assert!(burst.rejected().is_empty(), "these frames are good");
    let list: Vec<Delivery> = (0..frames.len()).map(|i| Delivery { frame: i as u8, tag: None }).collect();
    let mut tally = Tally::new();
    path.deliver(&burst, &list, &mut tally);
    tally
}

/// What was told of a delivery, its sums checked.
pub fn counted(tally: &Tally) -> PortTotals {
    let counters = Counters::new(1);
    counters.count_out(0, tally);
    let totals = counters.totals();
    assert!(totals.balanced(), "{totals:?}");
    totals
}

/// A frame of `len` bytes whose payload tells `seed`.
pub fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = MAC.0.to_vec();
    bytes.extend([0, 0x50, 0x56, 0, 0, 9, 0x88, 0xb6]);
    bytes.extend((14..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)));
    bytes
}
