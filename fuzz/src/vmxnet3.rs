//! A guest that drives a vmxnet3 card: registers, the shared area, rings, polls and deliveries between them.
//!
//! The card starts with a decent driver's set-up (see `layout`); then each operation of the input is a byte and its
//! arguments.

use std::sync::Arc;

use dataplane::{Egress, Grace, Ingress, PortState};
use rustix::event::{EventfdFlags, eventfd};
use vnic::device::{DeviceModel, Setup};
use vnic::irq::{Interrupts, IrqKind};
use vnic::vmxnet3::{Vmxnet3, commands, registers};
use wire::Tag;

use crate::Input;
use crate::layout::{AREA, BASE, Driver, TX_QUEUES};
use crate::memory::{MEMORY, Memory, Shape};
use crate::network::{MAC, Source, Wire, tcp};

/// Operations of one run: more only take time.
const OPERATIONS: usize = 400;

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
