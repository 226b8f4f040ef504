//! A guest that drives a vmxnet3 card: registers, the shared area, rings, polls and deliveries between them.
//!
//! The card starts with a decent driver's set-up (see `layout`); then each operation of the input is a byte and its
//! arguments.

use std::sync::Arc;

use dataplane::{Egress, Grace, Ingress, PortState};
use rustix::event::{EventfdFlags, eventfd};
use vnic::device::{DeviceModel, Setup};
use vnic::irq::{Interrupts, IrqKind};
use vnic::vmxnet3::shared_area::{QUEUE_LEN, at, feature, queue};
use vnic::vmxnet3::{Vmxnet3, commands, registers};
use wire::Tag;

use crate::Input;
use crate::layout::{AREA, BASE, Driver, QUEUES, TX_QUEUES};
use crate::memory::{MEMORY, Memory, Shape};
use crate::network::{MAC, Source, Wire, tcp};

/// Operations of one run: more only take time.
const OPERATIONS: usize = 400;
/// Configuration of receive side scaling, and of interrupt moderation behind it.
const RSS: u64 = BASE + 0x7000;
const SCHEME: u64 = RSS + 0x100;
/// Rings of the receive queues that `layout` does not know of, 16 KiB for each.
const MORE_RINGS: u64 = BASE + 0x2_0000;
/// Their descriptors: ring 1 and ring 2.
const MORE_SIZES: [u32; 2] = [64, 32];

thread_local! {
    static SOURCE: Source = Source::default();
}

struct Guest {
    memory: Memory,
    driver: Driver,
    model: Vmxnet3,
    queues: Vec<Box<dyn Ingress>>,
    egress: Arc<dyn Egress>,
    state: Arc<PortState>,
    irq: Arc<Interrupts>,
    wire: Wire,
}

/// What a card is made from, with nobody to wait for.
pub fn setup(state: &Arc<PortState>, irq: &Arc<Interrupts>) -> Setup {
    Setup {
        name: "fuzz".into(),
        mac: MAC,
        mtu: 9000,
        state: state.clone(),
        interrupts: irq.clone(),
        grace: Grace::new(0),
    }
}

impl Guest {
    fn new(options: u8) -> Guest {
        let memory = Memory::new(BASE);
        let (state, irq) = (Arc::new(PortState::new()), Interrupts::new());
        let mut model = Vmxnet3::new(setup(&state, &irq)).expect("memory for a page");
        model.set_map(memory.map(Shape::Whole));
        let mtu = if options & 1 != 0 { 9000 } else { 1500 };
        let driver = Driver::lay_out(&memory, mtu, u64::from(options >> 1 & 5));
        let (queues, egress) = (model.ingress(), model.egress());
        let wire = Wire::new(options >> 4);
        let mut guest = Guest { memory, driver, model, queues, egress, state, irq, wire };
        guest.interrupts(options >> 3 & 1);
        guest.activate();
        guest
    }

    /// Sets up INTx or MSI-X.
    fn interrupts(&self, kind: u8) {
        let (kind, count) = [(IrqKind::Msix, 5), (IrqKind::Intx, 1), (IrqKind::Msi, 1)][usize::from(kind % 3)];
        for vector in 0..count {
            self.irq.set(kind, vector, eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).ok());
        }
    }

    fn register(&mut self, offset: u32, value: u32) {
        self.model.write(1, offset, &value.to_le_bytes()).expect("an aligned word of BAR1");
    }

    fn activate(&mut self) {
        self.register(registers::DSAL, AREA as u32);
        self.register(registers::DSAH, (AREA >> 32) as u32);
        self.register(registers::CMD, commands::ACTIVATE_DEV);
    }

    /// A TCP segment of up to 16 KiB with an offload request that may fit it.
    fn send_tcp(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let v6 = kind & 1 != 0;
        let header: u32 = if v6 { 74 } else { 54 };
        let frame = tcp(v6, usize::from(input.u16() & 0x3fff));
        let mss = u32::from(input.u16() & 0x3fff);
        let (hlen, msscof) = match kind >> 1 & 3 {
            0 => (0, 0),
            1 => (header, mss),
            2 => (header - 20, header - 4),
            _ => (u32::from(input.u8()), mss),
        };
        let mode = [0, 3, 2, 3][usize::from(kind >> 1 & 3)];
        let tag = if kind & 0x10 != 0 { 1 << 15 | u32::from(input.u16()) << 16 } else { 0 };
        let piece = [14, 64, 1000, 0x3fff][usize::from(kind >> 6)];
        let first = (msscof << 18, hlen | mode << 10 | tag);
        self.driver.send_frame(&self.memory, usize::from(kind >> 3 & 1), &frame, piece, first);
    }

    /// A transmit descriptor that points anywhere.
    fn send_any(&mut self, input: &mut Input<'_>) {
        let q = usize::from(input.u8()) % TX_QUEUES;
        let iova = input.address(BASE);
        let (word2, word3) = (input.u32(), input.u32());
        self.driver.send(&self.memory, q, iova, word2, word3);
    }

    fn refill(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let ring = usize::from(kind & 1);
        let word = u32::from(input.u16());
        match kind >> 1 & 3 {
            0 | 1 => self.driver.refill_at(&self.memory, ring, input.address(BASE), word),
            _ => self.driver.refill(&self.memory, ring, kind >> 3, word),
        }
    }

    fn access(&mut self, input: &mut Input<'_>, write: bool) {
        let (bar, offset, len) = (input.u8() % 4, u32::from(input.u16() & 0x1fff), usize::from(input.u8() % 8 + 1));
        let mut data = input.u64().to_le_bytes();
        // A refused access is as good as a served one; the transport bounds them to the BAR.
        let fits = offset as usize + len <= self.model.pci().bars[usize::from(bar)].size as usize;
        match (fits, write) {
            (true, true) => drop(self.model.write(bar, offset, &data[..len])),
            (true, false) => drop(self.model.read(bar, offset, &mut data[..len])),
            (false, _) => {}
        }
    }

    /// What a driver of a later revision sets up before it starts the card: more receive queues and how frames are
    /// spread over them, data rings, large segments. Some of it may make no sense.
    fn later_revision(&mut self, input: &mut Input<'_>) {
        let (kind, entry, entries) = (input.u8(), u16::from(input.u8()) << 4, input.u8());
        let more = usize::from(kind & 3);
        self.register(registers::VRRS, 1 << (kind >> 2 & 7));
        let memory = &self.memory;
        let area = |offset: u32| AREA + u64::from(offset);
        memory.put(area(at::QUEUE_COUNTS), &[kind >> 5, 0, TX_QUEUES as u8, 1 + more as u8]);
        memory.put32(area(at::QUEUES_LEN), (TX_QUEUES + 1 + more) as u32 * QUEUE_LEN);
        let wanted = u64::from(input.u8()) & 0xf | feature::RSS;
        memory.put64(area(at::FEATURES), wanted);
        for q in 0..more {
            more_queue(memory, q);
        }
        for q in 0..=more {
            let desc = QUEUES + (TX_QUEUES + q) as u64 * u64::from(QUEUE_LEN);
            memory.put64(desc + u64::from(queue::DATA), MORE_RINGS + q as u64 * 0x4000 + 0x2000);
            memory.put(desc + u64::from(queue::VECTOR) + 2, &entry.to_le_bytes());
        }
        let head = [u16::from(input.u8()), 1, 40, u16::from(entries)].map(u16::to_le_bytes).concat();
        let table: Vec<u8> = (0..128).map(|i| i % (more as u8 + 1)).collect();
        let key: Vec<u8> = (0..40u8).map(|i| i.wrapping_mul(kind | 1)).collect();
        memory.put(RSS, &[head, key, table].concat());
        memory.put32(area(at::RSS) + 4, 176);
        memory.put64(area(at::RSS) + 8, RSS);
    }

    /// A command with data: moderation, or the fields to hash by.
    fn command_with_data(&mut self, input: &mut Input<'_>) {
        for word in 0..4 {
            self.memory.put32(SCHEME + word * 4, u32::from(input.u8()));
        }
        let (data, which) = (AREA + u64::from(at::COMMAND), input.u8());
        self.memory.put32(data, which.into());
        self.memory.put32(data + 4, 16);
        self.memory.put64(data + 8, if which & 0x80 == 0 { SCHEME } else { input.address(BASE) });
        let commands = [commands::SET_COALESCE, commands::GET_COALESCE, commands::SET_RSS_FIELDS];
        self.register(registers::CMD, commands[usize::from(which) % 3]);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 20 {
            // The shared area and the queue descriptors; rings; anything.
            0 | 1 => self.memory.put32(AREA + u64::from(input.u16() & 0x7ff) * 4, input.u32()),
            2 => self.memory.put32(BASE + u64::from(input.u16()) * 4, input.u32()),
            3 => self.memory.put32(BASE + u64::from(input.u32()) % MEMORY as u64, input.u32()),
            4 => self.send_any(input),
            5 => self.send_tcp(input),
            6 => self.refill(input),
            7 => self.access(input, false),
            8 => self.access(input, true),
            9 => self.register(registers::CMD, 0xcafe_0000 + u32::from(input.u8() % 20)),
            10 => self.register(registers::CMD, 0xf00d_0000 + u32::from(input.u8() % 16)),
            11 => self.activate(),
            12 | 13 => {
                let queue = usize::from(input.u8()) % self.queues.len();
                self.wire.poll(self.queues[queue].as_mut());
            }
            14 | 15 => {
                let (which, tag) = (input.u8(), input.u8());
                let tag = (tag & 1 != 0).then(|| Tag(u16::from(tag) << 4));
                SOURCE.with(|source| source.deliver(&*self.egress, which, tag));
            }
            16 => {
                self.state.set_link_up(input.u8() & 1 != 0);
                self.model.link_changed();
            }
            17 => self.model.set_map(self.memory.map(Shape::of(input.u8(), input.u8()))),
            18 => match input.u8() % 8 {
                0 => self.memory.shrink(),
                1 => self.irq.clear(),
                2 => self.irq.unmask_intx(),
                3 => self.interrupts(input.u8()),
                4 => self.later_revision(input),
                5 => self.command_with_data(input),
                _ => self.model.reset(),
            },
            // A plain store to BAR0.
            _ => {
                let (offset, value) = (usize::from(input.u16() & 0xfff), input.u32());
                self.model.bar_page(0).expect("BAR0").slice().store_u32(offset & !3, value);
            }
        }
    }
}

/// A further receive queue with all its buffers given, which it shares with the first.
fn more_queue(memory: &Memory, q: usize) {
    let rings = MORE_RINGS + (q as u64 + 1) * 0x4000;
    let desc = QUEUES + (TX_QUEUES + 1 + q) as u64 * u64::from(QUEUE_LEN);
    let places = [rings, rings + 0x400, rings + 0x800];
    let sizes = [MORE_SIZES[0], MORE_SIZES[1], MORE_SIZES[0] + MORE_SIZES[1]];
    for (offset, place) in [queue::RING, queue::RING2, queue::COMPLETIONS].into_iter().zip(places) {
        memory.put64(desc + u64::from(offset), place);
    }
    for (offset, size) in [queue::RING_COUNT, queue::RING2_COUNT, queue::COMPLETION_COUNT].into_iter().zip(sizes) {
        memory.put32(desc + u64::from(offset), size);
    }
    memory.put32(desc + u64::from(queue::VECTOR), (TX_QUEUES + 1 + q) as u32);
    for (ring, kind) in [(0, 0u32), (1, 1 << 14)] {
        for index in 0..MORE_SIZES[ring] {
            let descriptor = places[ring] + u64::from(index) * 16;
            memory.put64(descriptor, BASE + 0x8_0000 + u64::from(index) * 4096);
            memory.put32(descriptor + 8, 4000 | kind | 1 << 31);
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
    for queue in &mut guest.queues {
        guest.wire.poll(queue.as_mut());
    }
    SOURCE.with(|source| source.deliver(&*guest.egress, 0xff, None));
    guest.model.reset();
    guest.memory.check();
}
