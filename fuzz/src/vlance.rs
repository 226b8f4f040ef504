//! A guest that drives a vlance card: registers, initialisation block, rings in all layouts, polls and deliveries.

use std::sync::Arc;

use dataplane::{Egress, Ingress, PortState};
use vnic::device::DeviceModel;
use vnic::irq::{Interrupts, IrqKind};
use vnic::vlance::Vlance;
use wire::Tag;

use crate::Input;
use crate::memory::{MEMORY, Memory, Shape};
use crate::network::{MAC, Source, Wire};
use crate::vmxnet3::setup;

const OPERATIONS: usize = 400;
/// Guest address of the first byte of memory.
const BASE: u32 = 0x10_0000;
const RX_RING: u32 = BASE + 0x1000;
const TX_RING: u32 = BASE + 0x4000;
const RX_BUFFERS: u32 = BASE + 0x1_0000;
const TX_BUFFERS: u32 = BASE + 0x8_0000;

/// Register ports in 16-bit mode.
const RDP: u32 = 0x10;
const RAP: u32 = 0x12;
const RESET: u32 = 0x14;
const BDP: u32 = 0x16;

thread_local! {
    static SOURCE: Source = Source::default();
}

struct Guest {
    memory: Memory,
    model: Vlance,
    queue: Box<dyn Ingress>,
    egress: Arc<dyn Egress>,
    state: Arc<PortState>,
    irq: Arc<Interrupts>,
    wire: Wire,
    style: u16,
    /// Logarithms of the rings' lengths.
    lens: (u32, u32),
    tx_at: u32,
    rx_at: u32,
    /// Nothing was written to the registers since the driver started the card.
    honest: bool,
}

impl Guest {
    fn new(options: u8) -> Guest {
        let memory = Memory::new(BASE.into());
        let (state, irq) = (Arc::new(PortState::new()), Interrupts::new());
        let mut model = Vlance::new(setup(&state, &irq));
        model.set_map(memory.map(Shape::Whole));
        let mut queues = model.ingress();
        let (queue, egress) = (queues.remove(0), model.egress());
        let wire = Wire::new(options >> 4);
        irq.set(IrqKind::Intx, 0, rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).ok());
        let (style, lens) = (0, (0, 0));
        let mut guest =
            Guest { memory, model, queue, egress, state, irq, wire, style, lens, tx_at: 0, rx_at: 0, honest: true };
        guest.start(options, options >> 2 & 3, 0);
        guest
    }

    /// An access to a port. One that does not fit the card's mode does nothing.
    fn port(&mut self, offset: u32, value: u16) {
        let _ = self.model.write(0, offset, &value.to_le_bytes());
    }

    fn csr(&mut self, index: u16, value: u16) {
        self.port(RAP, index);
        self.port(RDP, value);
    }

    fn wide(&self) -> bool {
        self.style != 0
    }

    /// What a decent driver does: style, block, rings, INIT, STRT.
    fn start(&mut self, style: u8, lens: u8, mode: u16) {
        self.csr(0, 4);
        self.style = u16::from(style & 3);
        self.port(RAP, 20);
        self.port(BDP, self.style);
        let most = if self.wide() { 9 } else { 7 };
        self.lens = (u32::from(lens & 1) * 5 + 2, u32::from(lens >> 1) * 2 + 3).min((most, most));
        (self.tx_at, self.rx_at) = (0, 0);
        for _ in 0..1 << self.lens.0 {
            self.arm_rx(1544);
        }
        let (rlen, tlen) = self.lens;
        let mut block = mode.to_le_bytes().to_vec();
        if self.wide() {
            block.extend([(rlen << 4) as u8, (tlen << 4) as u8]);
            block.extend(MAC.0);
            block.extend([0; 10]);
            block.extend(RX_RING.to_le_bytes());
            block.extend(TX_RING.to_le_bytes());
        } else {
            block.extend(MAC.0);
            block.extend([0; 8]);
            block.extend((RX_RING & 0xff_ffff | rlen << 29).to_le_bytes());
            block.extend((TX_RING & 0xff_ffff | tlen << 29).to_le_bytes());
        }
        self.memory.put(BASE.into(), &block);
        self.csr(1, BASE as u16);
        self.csr(2, (BASE >> 16) as u16);
        self.csr(0, 0x0001);
        self.csr(0, 0x0142);
        // It runs: the transmitter is on and the chip not stopped (in 32-bit mode none of this reached it).
        let mut status = [0; 2];
        let _ = self.model.read(0, RDP, &mut status);
        self.honest = u16::from_le_bytes(status) & 0x0014 == 0x0010;
    }

    fn set_desc(&self, ring: u32, index: u32, addr: u32, bcnt: u16, status: u16) {
        let desc = u64::from(ring + index * if self.wide() { 16 } else { 8 });
        match self.style {
            0 => {
                self.memory.put32(desc + 4, bcnt.into());
                self.memory.put32(desc, addr & 0xff_ffff | u32::from(status & 0xff00) << 16);
            }
            style => {
                let (addr_at, other) = if style == 3 { (8, 0) } else { (0, 8) };
                self.memory.put32(desc + addr_at, addr);
                self.memory.put32(desc + other, 0);
                self.memory.put32(desc + 4, u32::from(status) << 16 | u32::from(bcnt));
            }
        }
    }

    /// The next receive descriptor, with a buffer of `len` bytes.
    fn arm_rx(&mut self, len: u16) {
        let index = self.rx_at & ((1 << self.lens.0) - 1);
        self.set_desc(RX_RING, index, RX_BUFFERS + (index & 63) * 2048, len.wrapping_neg() | 0xf000, 0x8000);
        self.rx_at = index + 1;
    }

    fn arm_any(&mut self, input: &mut Input<'_>) {
        let index = self.rx_at & ((1 << self.lens.0) - 1);
        let addr = input.address(BASE.into()) as u32;
        self.set_desc(RX_RING, index, addr, input.u16(), input.u16() | 0x8000);
        self.rx_at = index + 1;
    }

    /// A frame in pieces.
    fn send(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let len = usize::from(input.u16() & 0xfff);
        let piece = [60, 512, 2048, 4096][usize::from(kind & 3)];
        let dst = if kind & 4 != 0 { [0xff; 6] } else { MAC.0 };
        let mut frame: Vec<u8> = dst.into_iter().chain(MAC.0).collect();
        frame.extend(if kind & 8 != 0 { [0x81, 0, 0, 10] } else { [0x08, 0x06, 0, 1] });
        frame.resize(len.max(1), kind);
        self.memory.put(TX_BUFFERS.into(), &frame);
        let count = frame.len().div_ceil(piece);
        for (i, part) in frame.chunks(piece).enumerate() {
            let status = 0x8000 | if i == 0 { 0x0200 } else { 0 } | if i + 1 == count { 0x0100 } else { 0 };
            let bcnt = (part.len() as u16).wrapping_neg() | 0xf000;
            self.send_desc(TX_BUFFERS + (i * piece) as u32, bcnt, status);
        }
    }

    fn send_desc(&mut self, addr: u32, bcnt: u16, status: u16) {
        let index = self.tx_at & ((1 << self.lens.1) - 1);
        self.set_desc(TX_RING, index, addr, bcnt, status);
        self.tx_at = index + 1;
    }

    fn access(&mut self, input: &mut Input<'_>, write: bool) {
        let place = input.u8();
        let (bar, offset) = (place >> 6, u32::from(place & 0x3f));
        let len = [1, 2, 4, 8][usize::from(input.u8() & 3)];
        let mut data = input.u64().to_le_bytes();
        let fits = offset as usize + len <= self.model.pci().bars[usize::from(bar)].size as usize;
        match (fits, write) {
            (true, true) => drop(self.model.write(bar, offset, &data[..len])),
            (true, false) => drop(self.model.read(bar, offset, &mut data[..len])),
            (false, _) => {}
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.u8() % 18;
        self.honest &= !matches!(op, 7 | 8..=11 | 15 | 17);
        match op {
            0 => self.memory.put32(BASE.into(), input.u32()),
            1 => self.memory.put32(u64::from(BASE) + u64::from(input.u16() & 0x1fff) * 4, input.u32()),
            2 => self.memory.put32(u64::from(BASE) + u64::from(input.u32()) % MEMORY as u64, input.u32()),
            3 => self.arm_any(input),
            4 => {
                let len = input.u16() & 0xfff;
                (0..input.u8() & 0x7f).for_each(|_| self.arm_rx(len));
            }
            5 => self.send(input),
            6 => {
                let addr = input.address(BASE.into()) as u32;
                self.send_desc(addr, input.u16(), input.u16() | 0x8000);
            }
            7 => self.access(input, true),
            8 => self.access(input, false),
            9 | 10 => self.csr(u16::from(input.u8() & 0x7f), input.u16()),
            11 => {
                self.port(RAP, u16::from(input.u8() & 0x3f));
                self.port(BDP, input.u16());
            }
            12 => self.start(input.u8(), input.u8() & 3, input.u16()),
            13 => {
                let taken = self.wire.poll(self.queue.as_mut());
                assert!(!self.honest || taken <= 1 << self.lens.1, "each descriptor is taken once");
            }
            14 => {
                let (which, tag) = (input.u8(), input.u8());
                let tag = (tag & 1 != 0).then(|| Tag(u16::from(tag) << 4));
                SOURCE.with(|source| source.deliver(&*self.egress, which, tag));
            }
            15 => self.csr(0, u16::from(input.u8())),
            16 => self.model.set_map(self.memory.map(Shape::of(input.u8(), input.u8()))),
            _ => self.rare(input),
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0 => self.memory.shrink(),
            1 => self.model.reset(),
            2 => drop(self.model.read(0, RESET, &mut [0; 2])),
            3 => self.irq.unmask_intx(),
            4 => self.irq.clear(),
            // 32-bit mode.
            5 => drop(self.model.write(0, RDP, &[0; 4])),
            _ => {
                self.state.set_link_up(input.u8() & 1 != 0);
                self.model.link_changed();
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
    guest.wire.poll(guest.queue.as_mut());
    SOURCE.with(|source| source.deliver(&*guest.egress, 0xff, None));
    guest.model.reset();
    guest.memory.check();
}
