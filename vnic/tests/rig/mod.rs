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
            let plan = Plan::new(burst, &Delivery::new(i as u8, frame.tag()), self.caps).unwrap();
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
    let list: Vec<Delivery> = (0..frames.len()).map(|i| Delivery::new(i as u8, None)).collect();
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

/// The lengths of the frames that [`bursts`] sends: most fit the smallest buffer, some take several.
pub const LENGTHS: [usize; 7] = [60, 60, 64, 61, 300, 60, 1400];

/// Frame `number` of `worker`.
pub fn numbered(worker: u8, number: u32) -> Vec<u8> {
    let mut bytes = frame(LENGTHS[number as usize % LENGTHS.len()], worker.wrapping_mul(31).wrapping_add(number as u8));
    bytes[14] = worker;
    bytes[15..19].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Delivers frames in bursts of all lengths, as a worker would, until the card took `count`; returns how many it took. What
/// finds no room is lost.
pub fn bursts(path: &dyn Egress, worker: u8, count: u32) -> u64 {
    let (mut number, mut taken) = (0, 0);
    while taken < u64::from(count) {
        let end = number + 1 + (number * 7 + u32::from(worker)) % 32;
        let frames: Vec<Vec<u8>> = (number..end).map(|number| numbered(worker, number)).collect();
        let totals = counted(&deliver(path, &frames, Offload::default()));
        let lost = totals.drops(DropReason::RingFull);
        assert_eq!(totals.out_frames + lost, u64::from(end - number), "{totals:?}");
        taken += totals.out_frames;
        if lost > 0 {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        number = end;
    }
    taken
}

/// What a driver takes out of its receive buffers.
#[derive(Default)]
pub struct Reader {
    /// By worker: the number that must be exceeded, and frames so far.
    pub next: [u32; 3],
    pub frames: [u64; 3],
    /// Buffers that came back empty.
    pub empty: u64,
    parts: Vec<u8>,
    rest: u16,
}

impl Reader {
    /// The next used buffer: its bytes. A buffer that holds no frame must not lie between those of one.
    pub fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            assert_eq!(self.rest, 0, "a frame has all its buffers");
            self.empty += 1;
            return;
        }
        let body = if self.rest == 0 {
            self.rest = u16::from_le_bytes([bytes[10], bytes[11]]);
            &bytes[12..]
        } else {
            bytes
        };
        self.parts.extend(body);
        self.rest -= 1;
        if self.rest == 0 {
            let frame = std::mem::take(&mut self.parts);
            let (worker, number) = (frame[14], u32::from_le_bytes(frame[15..19].try_into().unwrap()));
            assert_eq!(frame, numbered(worker, number), "as it was sent");
            let next = &mut self.next[usize::from(worker)];
            assert!(number >= *next, "frame {number} of worker {worker} in its order, not before {next}");
            *next = number + 1;
            self.frames[usize::from(worker)] += 1;
        }
    }
}
