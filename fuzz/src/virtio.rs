//! A guest that drives a virtio card with split or packed rings: descriptors, chains and tables of any kind in its rings, polls and deliveries.

mod inflight;

use std::collections::VecDeque;
use std::sync::Arc;

use dataplane::{Arm, Ingress, PortState};
use sharedmem::{PackedRing, Region, SplitRing};
use vnic::irq::{Interrupts, IrqKind};
use vnic::virtio::features::{EVENT_IDX, MRG_RXBUF, RING_PACKED, VERSION_1};
use vnic::virtio::{Active, Card, RxPath, RxQueue, RxState, TxQueue, TxQueueRings, TxState, Virtqueue, position};
use wire::Tag;

use crate::Input;
use crate::memory::{Memory, Shape};
use crate::network::{MAC, Source, Wire};

const OPERATIONS: usize = 400;
/// Guest address of the first byte of memory.
const BASE: u64 = 0x10_0000;
/// Offsets of the transmit and the receive ring; areas within them, of the driver and of the device.
const RINGS: [u64; 2] = [0, 0x4000];
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLES: u64 = 0x8000;
const TX_BUFFERS: u64 = 0x8_0000;
const RX_BUFFERS: u64 = 0x1_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// In a packed ring.
const IS_AVAIL: u16 = 1 << 7;
const IS_USED: u16 = 1 << 15;

thread_local! {
    static SOURCE: Source = Source::default();
}

struct Guest {
    memory: Memory,
    /// What the VMM keeps of the rings for the next switch.
    kept: Arc<Region>,
    card: Arc<Card>,
    active: Option<Arc<Active>>,
    queue: TxQueue,
    path: RxPath,
    wire: Wire,
    shape: Shape,
    features: u64,
    size: u16,
    /// The driver's indices, and the next descriptor it writes, of the transmit and the receive ring.
    avail: [u16; 2],
    free: [u16; 2],
    /// Of packed rings: where the driver looks for used descriptors, and how many each chain it gave has, in their order.
    seen: [u16; 2],
    given: [VecDeque<u16>; 2],
    /// Indices were written as a driver does since the rings were started, and the memory is all there.
    honest: bool,
}

impl Guest {
    fn new(options: u8) -> Guest {
        let memory = Memory::new(BASE);
        let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
        let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).ok();
        (0..2).for_each(|vector| interrupts.set(IrqKind::Msix, vector, event()));
        state.set_link_up(true);
        let card = Arc::new(Card {
            active: Default::default(),
            state,
            interrupts,
            kicks: Default::default(),
            errors: Default::default(),
        });
        card.kicks[0].store(event().map(Arc::new));
        let (queue, path) = (TxQueue::new(card.clone(), 0), RxPath::new(card.clone()));
        let kept = inflight::memory();
        let mut guest = Guest {
            memory,
            kept,
            card,
            active: None,
            queue,
            path,
            wire: Wire::new(options >> 4),
            shape: Shape::Whole,
            features: 0,
            size: 0,
            avail: [0; 2],
            free: [0; 2],
            seen: [0; 2],
            given: Default::default(),
            honest: true,
        };
        guest.start(options, 0);
        guest
    }

    fn packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    /// Starts both rings at `base`: features, sizes 4 to 256.
    fn start(&mut self, options: u8, base: u16) {
        let has = |bit: u8, feature: u64| if options & bit != 0 { feature } else { 0 };
        self.features = has(1, VERSION_1) | has(2, MRG_RXBUF) | has(4, EVENT_IDX) | has(32, RING_PACKED);
        self.size = 4 << ((options >> 3 & 3) * 2);
        let start = if self.packed() { position(self.size, base) } else { base };
        (self.avail, self.seen, self.free) = ([start; 2], [start; 2], [0; 2]);
        self.given = Default::default();
        self.memory.put(BASE + TABLES, &[0; 0x5000]);
        for ring in RINGS {
            self.memory.put(BASE + ring, &[0; 0x1000]);
            self.memory.put(BASE + ring + AVAIL + 2, &base.to_le_bytes());
            self.memory.put(BASE + ring + USED + 2, &base.to_le_bytes());
            if self.packed() {
                self.memory.put32(BASE + ring + AVAIL, 0);
            }
        }
        self.prepare(start);
        let states = (Arc::new(TxState::new(start)), Arc::new(RxState::new(start)));
        self.install(states.0, states.1);
        self.honest = matches!(self.shape, Shape::Whole) && !self.memory.is_shrunk();
    }

    /// What the control half does: rings in the memory as it is mapped now, with the positions they have.
    fn install(&mut self, tx: Arc<TxState>, rx: Arc<RxState>) {
        let table = self.memory.table(self.shape);
        let kept = [self.inflight(0), self.inflight(1)];
        let ring = |which: usize| {
            let at = RINGS[which];
            let place = |area: u64| {
                let (region, offset, _) = table.user(BASE + at + area)?;
                Some((region, offset))
            };
            let (desc, driver, device) = (place(0)?, place(AVAIL)?, place(USED)?);
            if self.packed() {
                let ring = PackedRing::new(self.size, desc, driver, device)?;
                return Some(ring.with_inflight(kept[which].clone()).into());
            }
            SplitRing::new(self.size, desc, driver, device).map(Virtqueue::from)
        };
        let (tx_ring, rx_ring) = (ring(0), ring(1));
        let mut active = Active {
            table: table.clone(),
            features: self.features,
            tx: Default::default(),
            rx: Default::default(),
            receivers: Default::default(),
            failed: Default::default(),
        };
        if rx_ring.is_some() {
            active.receivers.push(0);
        }
        active.tx[0] = tx_ring.map(|ring| TxQueueRings { ring, state: tx });
        active.rx[0] = rx_ring.map(|ring| RxQueue { ring, state: rx });
        self.active = Some(Arc::new(active));
        self.card.active.store(self.active.clone());
    }

    /// Another memory table under the same rings.
    fn remap(&mut self, shape: Shape) {
        self.shape = shape;
        self.honest = false;
        let states = self.active.as_ref().and_then(|a| Some((a.tx[0].as_ref()?, a.rx[0].as_ref()?)));
        if let Some((tx, rx)) = states.map(|(tx, rx)| (tx.state.clone(), rx.state.clone())) {
            self.install(tx, rx);
        }
    }

    /// Writes a descriptor; `next` is its identifier in a packed ring.
    fn desc(&self, at: u64, (addr, len, flags, next): (u64, u32, u16, u16)) {
        let (third, fourth) = if self.packed() { (next, flags) } else { (flags, next) };
        self.memory.put(BASE + at, &addr.to_le_bytes());
        self.memory.put32(BASE + at + 8, len);
        self.memory.put32(BASE + at + 12, u32::from(third) | u32::from(fourth) << 16);
    }

    /// The descriptor at a packed ring's position, and the flags that make it available and used there.
    fn place(&self, which: usize, at: u16) -> (u64, u16, u16) {
        let offset = RINGS[which] + 16 * u64::from(at & (self.size - 1));
        if at & self.size == 0 { (offset, IS_AVAIL, IS_AVAIL | IS_USED) } else { (offset, IS_USED, 0) }
    }

    /// Takes back what the card used of packed ring `which`; returns how many descriptors are free.
    fn take(&mut self, which: usize) -> u16 {
        while let Some(slots) = self.given[which].front() {
            let (at, _, used) = self.place(which, self.seen[which]);
            if self.memory.get16(BASE + at + 14) & (IS_AVAIL | IS_USED) != used {
                break;
            }
            self.seen[which] = self.seen[which].wrapping_add(*slots);
            self.given[which].pop_front();
        }
        self.size.saturating_sub(self.avail[which].wrapping_sub(self.seen[which]))
    }

    /// Makes a chain of `slots` descriptors, which lie behind the last in packed ring `which`, available: the first last.
    fn publish_packed(&mut self, which: usize, slots: u16) {
        for n in (0..slots).rev() {
            let (at, available, _) = self.place(which, self.avail[which].wrapping_add(n));
            let flags = self.memory.get16(BASE + at + 14) & !(NEXT | IS_AVAIL | IS_USED);
            let more = if n + 1 < slots { NEXT } else { 0 };
            self.memory.put(BASE + at + 14, &(flags | more | available).to_le_bytes());
        }
        self.avail[which] = self.avail[which].wrapping_add(slots);
        self.given[which].push_back(slots);
    }

    /// True when every chain given to the transmit queue has come back.
    fn all_back(&mut self) -> bool {
        if self.packed() {
            self.take(0);
            return self.given[0].is_empty();
        }
        self.memory.get16(BASE + RINGS[0] + USED + 2) == self.avail[0]
    }

    /// Makes `head` available in ring `which`, if there is room; in a packed ring whatever is in the next place.
    fn publish(&mut self, which: usize, head: u16) {
        if self.packed() {
            if self.take(which) > 0 {
                self.publish_packed(which, 1);
            }
            return;
        }
        let used = self.memory.get16(BASE + RINGS[which] + USED + 2);
        if self.honest && self.avail[which].wrapping_sub(used) >= self.size {
            return;
        }
        let slot = u64::from(self.avail[which] % self.size);
        self.avail[which] = self.avail[which].wrapping_add(1);
        self.memory.put(BASE + RINGS[which] + AVAIL + 4 + 2 * slot, &head.to_le_bytes());
        self.memory.put(BASE + RINGS[which] + AVAIL + 2, &self.avail[which].to_le_bytes());
    }

    /// A chain of `parts` one after the other, in the ring or in a table.
    fn chain(&mut self, which: usize, parts: &[(u64, u32, u16)], indirect: bool) {
        let needed = if indirect { 1 } else { parts.len() as u16 };
        if self.packed() {
            if self.take(which) < needed {
                return;
            }
            self.free[which] = self.avail[which];
        }
        let first = self.free[which] % self.size;
        let index = |n: usize| if indirect { n as u16 } else { (first + n as u16) % self.size };
        let start = if indirect { TABLES + u64::from(first & 15) * 0x400 } else { RINGS[which] };
        for (n, (addr, len, flags)) in parts.iter().enumerate() {
            let more = if n + 1 < parts.len() { NEXT } else { 0 };
            self.desc(start + 16 * u64::from(index(n)), (*addr, *len, *flags | more, index(n + 1)));
        }
        if indirect {
            let table = (BASE + start, 16 * parts.len() as u32, INDIRECT, 0);
            self.desc(RINGS[which] + 16 * u64::from(first), table);
        }
        if self.packed() {
            return self.publish_packed(which, needed);
        }
        self.free[which] = (first + needed) % self.size;
        self.publish(which, first);
    }

    /// A frame with its header, in pieces.
    fn send(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let len = usize::from(input.u16() & 0xfff);
        let piece = [12, 60, 512, 4096][usize::from(kind & 3)];
        let header = if self.features & (VERSION_1 | MRG_RXBUF) != 0 { 12 } else { 10 };
        let mut bytes = vec![0; header];
        if kind & 8 != 0 {
            input.bytes(10).iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
        }
        if kind & 16 != 0 {
            bytes.extend(crate::network::tcp(kind & 32 != 0, len));
        } else {
            bytes.extend(if kind & 4 != 0 { [0xff; 6] } else { MAC.0 }.into_iter().chain(MAC.0).chain([8, 6]));
            bytes.resize(header + len.max(1), kind);
        }
        self.memory.put(BASE + TX_BUFFERS, &bytes);
        let parts = bytes.chunks(piece).enumerate();
        let parts = parts.map(|(n, part)| (BASE + TX_BUFFERS + (n * piece) as u64, part.len() as u32, 0));
        self.chain(0, &parts.take(80).collect::<Vec<_>>(), kind & 64 != 0);
    }

    /// Receive buffers in one to three descriptors each.
    fn arm_rx(&mut self, input: &mut Input<'_>) {
        let (kind, len) = (input.u8(), u32::from(input.u16() & 0xfff));
        for n in 0..u64::from(input.u8() & 0x3f) {
            let at = BASE + RX_BUFFERS + n % 32 * 2048;
            let parts = [(at, len, WRITE), (at + 4096, 64, WRITE), (at + 8192, 2048, WRITE)];
            self.chain(1, &parts[..usize::from(kind & 3).clamp(1, 3)], kind & 4 != 0);
        }
    }

    /// A descriptor of any kind, somewhere in a ring or a table.
    fn any_desc(&mut self, input: &mut Input<'_>) {
        let place = input.u8();
        let start = [RINGS[0], RINGS[1], TABLES, TABLES + 0x400][usize::from(place & 3)];
        let addr = if place & 4 != 0 { BASE + TABLES } else { input.address(BASE) };
        let small = place & 8 != 0;
        let len = if small { u32::from(input.u16() & 0x7f0) } else { input.u32() };
        let desc = (addr, len, u16::from(input.u8()), u16::from(input.u8()));
        // Where a receive buffer may now lie, frames may be written: over the rings, too.
        self.honest &= place & 3 == 0 || desc.2 & (WRITE | INDIRECT) == 0;
        // In a packed ring it also says whose it is.
        self.honest &= !self.packed() || place & 2 != 0;
        self.desc(start + 16 * u64::from(place >> 4), desc);
    }

    fn poll(&mut self) {
        let before = self.wire.poll(&mut self.queue);
        assert!(before <= usize::from(self.size), "each chain is taken once");
        if !self.honest {
            return;
        }
        while self.wire.poll(&mut self.queue) > 0 {}
        assert!(self.all_back(), "every chain comes back, whatever it is");
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 14 {
            0..=1 => self.any_desc(input),
            2..=3 => self.send(input),
            4 => self.arm_rx(input),
            5..=6 => {
                let place = input.u8();
                self.publish(usize::from(place & 1), u16::from(place >> 1));
            }
            7..=8 => self.poll(),
            9 => {
                let (which, tag) = (input.u8(), input.u8());
                let tag = (tag & 1 != 0).then(|| Tag(u16::from(tag) << 4));
                SOURCE.with(|source| source.deliver(&self.path, which, tag));
            }
            10 => self.start(input.u8(), input.u16()),
            11 => {
                self.honest = false;
                let place = BASE + u64::from(input.u16() & 0x1fff) * 4;
                self.memory.put32(place, input.u32());
            }
            12 => self.remap(Shape::of(input.u8(), input.u8())),
            _ => self.rare(input),
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0 => {
                self.honest = false;
                self.memory.shrink();
            }
            1 => {
                self.honest = false;
                self.card.active.store(None);
            }
            2 => self.queue.disarm(),
            3 => self.card.state.set_link_up(input.u8() & 1 != 0),
            5 => self.restart(),
            6 => self.scribble(usize::from(input.u16()) * 4, input.u32()),
            4 => {
                // What a driver wishes: any index for either ring.
                let which = input.u8();
                let area = BASE + RINGS[usize::from(which & 1)] + AVAIL;
                if self.packed() {
                    self.memory.put32(area, u32::from(input.u16()) | u32::from(which) << 15);
                } else {
                    self.memory.put(area + 4 + 2 * u64::from(self.size), &input.u16().to_le_bytes());
                }
            }
            _ => {
                let idle = matches!(self.queue.arm(), Arm::Kick(_));
                let done = !self.honest || self.all_back();
                assert!(!self.honest || idle == done, "a worker sleeps when there is nothing to do");
            }
        }
    }
}

/// Runs one input.
///
/// # Panics
/// When an account is wrong or memory was written that is not the guest's.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut guest = Guest::new(input.u8());
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        guest.step(&mut input);
    }
    guest.poll();
    SOURCE.with(|source| source.deliver(&guest.path, 0xff, None));
    guest.memory.check();
}
