//! Guests with vmxnet3 cards in this process: drivers that poll, with a receive data ring as Linux's has one.

use std::sync::Arc;

use dataplane::{Counters, Grace, PortEntry, PortState, PortTotals};
use sharedmem::{DmaMap, Mapping, SharedPage, WideRing};
use vnic::device::{DeviceModel, Setup};
use vnic::irq::Interrupts;
use vnic::vmxnet3::shared_area::{MAGIC, QUEUE_LEN, at, queue};
use vnic::vmxnet3::{Vmxnet3, commands, registers};

use crate::guests::{BUFFER, Driver, STRIDE, Spec, entry, frame, mac};

/// Where all lies in the guest's memory: the shared area, the queue descriptors, rings, buffers.
const QUEUES: u64 = 0x1000;
const TX: u64 = 0x2000;
const TX_COMPLETIONS: u64 = 0x4000;
const RX: u64 = 0x6000;
const RX_COMPLETIONS: u64 = 0x8000;
const DATA: u64 = 0xa000;
/// Bytes of an entry of the receive data ring.
const DATA_ENTRY: u64 = 128;
/// The revision of the card that has one.
const REVISION: u32 = 3;
/// BAR1, with the registers.
const REGISTERS: u8 = 1;
/// Receive mode: unicast and broadcast.
const MODE: u32 = 1 | 4;

/// A place in a ring, counted on and on.
#[derive(Clone, Copy, Default)]
struct Place(u32);

impl Place {
    fn index(self, ring: &WideRing) -> u32 {
        self.0 % ring.count()
    }

    /// The generation bit there: 1 on the first round.
    fn generation(self, ring: &WideRing) -> u64 {
        u64::from(1 - self.0 / ring.count() % 2)
    }
}

/// A guest's end of one queue.
struct End {
    ring: WideRing,
    completions: WideRing,
    fill: Place,
    done: Place,
}

impl End {
    fn new(map: &DmaMap, ring: u64, completions: u64, count: u32) -> End {
        let wide = |at| map.ring::<4>(at, count).ok().and_then(sharedmem::Ring::wide).expect("a ring");
        End { ring: wide(ring), completions: wide(completions), fill: Place(0), done: Place(0) }
    }

    /// Goes past what was completed.
    fn reap(&mut self) {
        while self.completions.upper(self.done.index(&self.completions)) >> 63
            == self.done.generation(&self.completions)
        {
            self.done.0 += 1;
        }
    }
}

/// A guest with a vmxnet3 card.
pub struct CardGuest {
    tx: End,
    rx: End,
    /// Bytes of each frame it sends.
    frame: usize,
    buffers: u64,
    counters: Arc<Counters>,
    // What the workers have of it is of no use without it.
    _card: Vmxnet3,
}

impl Driver for CardGuest {
    fn send(&mut self, frames: u16) {
        for _ in 0..frames {
            let (at, generation) = (self.tx.fill.index(&self.tx.ring), self.tx.fill.generation(&self.tx.ring));
            // End of packet, and a completion wanted.
            let upper = self.frame as u64 | generation << 14 | (1 << 12 | 1 << 13) << 32;
            self.tx.ring.store(at, self.buffers + u64::from(at) * STRIDE as u64, upper);
            self.tx.fill.0 += 1;
        }
    }

    fn receive(&mut self) {
        self.tx.reap();
        self.rx.reap();
        let count = self.rx.ring.count();
        let buffers = self.buffers + u64::from(count) * STRIDE as u64;
        while self.rx.fill.0 < self.rx.done.0 + count - 1 {
            let (at, generation) = (self.rx.fill.index(&self.rx.ring), self.rx.fill.generation(&self.rx.ring));
            self.rx.ring.store(at, buffers + u64::from(at) * STRIDE as u64, BUFFER as u64 | generation << 31);
            self.rx.fill.0 += 1;
        }
    }

    fn taken(&self) -> u64 {
        self.tx.done.0.into()
    }

    fn received(&self) -> u64 {
        self.rx.done.0.into()
    }

    fn totals(&self) -> PortTotals {
        self.counters.totals()
    }
}

/// The port of `spec`, and its guest. Its rings have at most 512 descriptors, and one address is behind it.
///
/// # Panics
/// When memory cannot be had: a bench has no use for less.
pub fn port(spec: &Spec) -> (PortEntry, CardGuest) {
    let count = u64::from(spec.ring);
    let buffers = (DATA + count * DATA_ENTRY).next_multiple_of(4096);
    let bytes = (buffers + 2 * count * STRIDE as u64).next_multiple_of(4096);
    let memory = SharedPage::new("guest", bytes as usize).expect("memory");
    let region = Some(memory.region().clone());
    let map = DmaMap::new().with(Mapping { iova: 0, len: bytes, region, writable: true }).expect("a map");
    for n in 0..count {
        let place = (buffers + n * STRIDE as u64) as usize;
        assert!(memory.slice().write_at(place, &frame(spec, 0)));
    }
    configure(&memory, spec.ring.into());
    let state = Arc::new(PortState::new());
    state.set_connected(true);
    let mut card = Vmxnet3::new(Setup {
        name: format!("port{}", spec.index),
        mac: mac(spec.index, 0),
        mtu: 1500,
        state: state.clone(),
        interrupts: Interrupts::new(),
        grace: Grace::new(spec.workers),
    })
    .expect("a card");
    let map = Arc::new(map);
    card.set_map(map.clone());
    let commands = [(registers::CMD, commands::ACTIVATE_DEV), (registers::CMD, commands::UPDATE_RX_MODE)];
    let registers = [(registers::VRRS, 1 << (REVISION - 1)), (registers::DSAL, 0), (registers::DSAH, 0)];
    for (register, value) in registers.into_iter().chain(commands) {
        card.write(REGISTERS, register, &u32::to_le_bytes(value)).expect("a register");
    }
    let counters = Arc::new(Counters::new(spec.workers));
    let queue = card.ingress().swap_remove(0);
    let entry = entry(spec, state, counters.clone(), card.egress(), queue);
    let ends =
        [(TX, TX_COMPLETIONS), (RX, RX_COMPLETIONS)].map(|(ring, told)| End::new(&map, ring, told, count as u32));
    let [tx, rx] = ends;
    let mut guest = CardGuest { tx, rx, frame: spec.frame, buffers, counters, _card: card };
    guest.receive();
    (entry, guest)
}

/// Writes the shared area and the two queue descriptors.
fn configure(memory: &SharedPage, count: u32) {
    let slice = memory.slice();
    let store = |at: u64, value: u32| assert!(slice.store_u32(at as usize, value), "a word of the shared area");
    let area = [
        (at::MAGIC, MAGIC),
        (at::QUEUES, QUEUES as u32),
        (at::QUEUES_LEN, 2 * QUEUE_LEN),
        (at::MTU, 1500),
        // One transmit and one receive queue.
        (at::QUEUE_COUNTS, 1 << 16 | 1 << 24),
        (at::RX_MODE, MODE),
    ];
    area.into_iter().for_each(|(at, value)| store(at.into(), value));
    let (sent, came) = (QUEUES, QUEUES + u64::from(QUEUE_LEN));
    for (queue, ring, completions) in [(sent, TX, TX_COMPLETIONS), (came, RX, RX_COMPLETIONS)] {
        store(queue + u64::from(queue::RING), ring as u32);
        store(queue + u64::from(queue::COMPLETIONS), completions as u32);
        store(queue + u64::from(queue::RING_COUNT), count);
        store(queue + u64::from(queue::COMPLETION_COUNT), count);
    }
    store(came + u64::from(queue::DATA), DATA as u32);
    store(came + u64::from(queue::VECTOR), (DATA_ENTRY as u32) << 16);
}
