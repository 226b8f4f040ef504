//! The driver side of the card for tests: registers by port, rings in shared memory, in all three layouts.

use std::os::fd::AsFd;
use std::sync::Arc;

use dataplane::{Burst, Caps, Delivery, DropReason, Egress, Grace, Ingress, Offload, Plan, PortState, Sink, Tally};
use sharedmem::{DmaMap, Mapping, Region};
use wire::Mac;

use super::Vlance;
use crate::device::{DeviceModel, Setup};
use crate::irq::Interrupts;

pub const MAC: Mac = Mac([0x00, 0x50, 0x56, 0x00, 0x00, 0x02]);
pub const SIZE: usize = 2 << 20;
const INIT: usize = 0;
const RX_RING: usize = 0x1000;
const TX_RING: usize = 0x8000;
const RX_BUFFERS: usize = 0x10_000;
const TX_BUFFERS: usize = 0x100_000;
const BUFFER: usize = 2048;

pub fn region(len: usize) -> Arc<Region> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    Region::map(file.as_fd(), 0, len, true).unwrap()
}

/// What the switch got.
pub struct Wire {
    pub frames: Vec<Vec<u8>>,
    pub rejected: Vec<DropReason>,
    pub bursts: usize,
    scratch: Arc<Region>,
}

impl Wire {
    pub fn new() -> Wire {
        Wire { frames: vec![], rejected: vec![], bursts: 0, scratch: region(1 << 18) }
    }
}

impl Sink for Wire {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.bursts += 1;
        for (i, frame) in burst.frames().iter().enumerate() {
            let plan = Plan::new(burst, &Delivery::new(i as u8, frame.tag()), Caps::default()).unwrap();
            let room = self.scratch.slice(0, plan.len(0)).unwrap();
            assert!(plan.write(0, &[room]));
            let mut bytes = vec![0; plan.len(0)];
            assert!(room.read_at(0, &mut bytes));
            self.frames.push(bytes);
        }
        self.rejected.extend(burst.rejected().iter().map(|(reason, _)| *reason));
    }
}

pub struct Rig {
    pub card: Vlance,
    pub queue: Box<dyn Ingress>,
    pub egress: Arc<dyn Egress>,
    pub irq: Arc<Interrupts>,
    pub state: Arc<PortState>,
    pub memory: Arc<Region>,
    pub base: u32,
    pub style: u16,
    pub rx_count: usize,
    pub tx_count: usize,
    pub buffer: usize,
    pub rx_at: usize,
    pub tx_at: usize,
    pub tx_reaped: usize,
}

/// A receive descriptor that the card has given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub status: u16,
    pub mcnt: usize,
    pub bytes: Vec<u8>,
}

impl Rig {
    pub fn new(style: u16, rx_log: u32, tx_log: u32) -> Rig {
        Rig::at(0x10_0000, style, rx_log, tx_log)
    }

    pub fn at(base: u32, style: u16, rx_log: u32, tx_log: u32) -> Rig {
        let irq = Interrupts::new();
        let state = Arc::new(PortState::new());
        let mut card = Vlance::new(Setup {
            name: "web1".into(),
            mac: MAC,
            mtu: 1500,
            state: state.clone(),
            interrupts: irq.clone(),
            grace: Grace::new(1),
        });
        let memory = region(SIZE);
        let mut rig = Rig {
            queue: card.ingress().remove(0),
            egress: card.egress(),
            card,
            irq,
            state,
            memory,
            base,
            style,
            rx_count: 1 << rx_log,
            tx_count: 1 << tx_log,
            buffer: 1544,
            rx_at: 0,
            tx_at: 0,
            tx_reaped: 0,
        };
        let map = rig.map();
        rig.card.set_map(Arc::new(map));
        rig
    }

    pub fn map(&self) -> DmaMap {
        let mapping =
            Mapping { iova: self.base.into(), len: SIZE as u64, region: Some(self.memory.clone()), writable: true };
        DmaMap::new().with(mapping).unwrap()
    }

    // Ports, 16-bit mode.

    pub fn inw(&mut self, port: u32) -> u16 {
        let mut data = [0; 2];
        self.card.read(0, port, &mut data).unwrap();
        u16::from_le_bytes(data)
    }

    pub fn outw(&mut self, port: u32, value: u16) {
        self.card.write(0, port, &value.to_le_bytes()).unwrap();
    }

    pub fn csr(&mut self, index: u16) -> u16 {
        self.outw(0x12, index);
        self.inw(0x10)
    }

    pub fn set_csr(&mut self, index: u16, value: u16) {
        self.outw(0x12, index);
        self.outw(0x10, value);
    }

    pub fn bcr(&mut self, index: u16) -> u16 {
        self.outw(0x12, index);
        self.inw(0x16)
    }

    pub fn set_bcr(&mut self, index: u16, value: u16) {
        self.outw(0x12, index);
        self.outw(0x16, value);
    }

    // Memory.

    pub fn poke(&self, at: usize, bytes: &[u8]) {
        assert!(self.memory.slice(at, bytes.len()).unwrap().write_at(0, bytes));
    }

    pub fn peek(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.memory.slice(at, len).unwrap().read_at(0, &mut bytes));
        bytes
    }

    fn load(&self, at: usize) -> u32 {
        self.memory.slice(at, 4).unwrap().load_u32(0).unwrap()
    }

    fn store(&self, at: usize, value: u32) {
        assert!(self.memory.slice(at, 4).unwrap().store_u32(0, value));
    }

    fn wide(&self) -> bool {
        self.style != 0
    }

    fn desc(&self, ring: usize, index: usize) -> usize {
        ring + index * if self.wide() { 16 } else { 8 }
    }

    pub fn rx_desc(&self, index: usize) -> usize {
        self.desc(RX_RING, index)
    }

    pub fn tx_desc(&self, index: usize) -> usize {
        self.desc(TX_RING, index)
    }

    fn set_desc(&self, at: usize, addr: u32, len: usize, status: u16) {
        let bcnt = (0u32.wrapping_sub(len as u32) & 0xfff) | 0xf000;
        match self.style {
            0 => {
                self.store(at + 4, bcnt);
                self.store(at, addr & 0xff_ffff | u32::from(status & 0xff00) << 16);
            }
            _ => {
                let (addr_at, other) = if self.style == 3 { (8, 0) } else { (0, 8) };
                self.store(at + addr_at, addr);
                self.store(at + other, 0);
                self.store(at + 4, u32::from(status) << 16 | bcnt);
            }
        }
    }

    /// Status, and the word with MCNT or the transmit errors (as in the 32-bit layouts' upper half).
    pub fn desc_status(&self, at: usize) -> (u16, u32) {
        match self.style {
            0 => ((self.load(at) >> 16) as u16 & 0xff00, self.load(at + 4) >> 16),
            2 => ((self.load(at + 4) >> 16) as u16, self.load(at + 8)),
            _ => ((self.load(at + 4) >> 16) as u16, self.load(at)),
        }
    }

    pub fn tx_error(&self, index: usize) -> u16 {
        let (_, word) = self.desc_status(self.tx_desc(index));
        if self.wide() { (word >> 16) as u16 } else { word as u16 }
    }

    pub fn arm_rx(&self, index: usize) {
        let addr = self.base + (RX_BUFFERS + index * BUFFER) as u32;
        self.set_desc(self.rx_desc(index), addr, self.buffer, 0x8000);
    }

    /// As [`Rig::arm_rx`] with a buffer elsewhere.
    pub fn arm_rx_at(&self, index: usize, addr: u32) {
        self.set_desc(self.rx_desc(index), addr, self.buffer, 0x8000);
    }

    pub fn write_init_block(&self, mode: u16, ladrf: u64) {
        let (rlen, tlen) = (self.rx_count.ilog2(), self.tx_count.ilog2());
        let (rdra, tdra) = (self.base + RX_RING as u32, self.base + TX_RING as u32);
        let mut block = mode.to_le_bytes().to_vec();
        if self.wide() {
            block.extend([(rlen << 4) as u8, (tlen << 4) as u8]);
            block.extend(MAC.0);
            block.extend([0, 0]);
            block.extend(ladrf.to_le_bytes());
            block.extend(rdra.to_le_bytes());
            block.extend(tdra.to_le_bytes());
        } else {
            block.extend(MAC.0);
            block.extend(ladrf.to_le_bytes());
            block.extend((rdra & 0xff_ffff | rlen << 29).to_le_bytes());
            block.extend((tdra & 0xff_ffff | tlen << 29).to_le_bytes());
        }
        self.poke(INIT, &block);
    }

    /// Rings empty and armed, block written, INIT; the caller starts.
    pub fn initialise(&mut self, mode: u16, ladrf: u64) {
        let style = self.style;
        self.set_bcr(20, style);
        (self.rx_at, self.tx_at, self.tx_reaped) = (0, 0, 0);
        (0..self.rx_count).for_each(|i| self.arm_rx(i));
        (0..self.tx_count).for_each(|i| self.set_desc(self.tx_desc(i), 0, 4096, 0));
        self.write_init_block(mode, ladrf);
        let iadr = self.base + INIT as u32;
        self.set_csr(1, iadr as u16);
        self.set_csr(2, (iadr >> 16) as u16);
        self.set_csr(0, 0x0001);
    }

    pub fn start(&mut self, mode: u16, ladrf: u64) {
        self.initialise(mode, ladrf);
        assert_eq!(self.csr(0) & 0x0101, 0x0101, "INIT gives IDON");
        self.set_csr(0, 0x0142);
    }

    /// Puts one frame in the ring, one descriptor per part; ownership of the first is given last.
    pub fn send(&mut self, parts: &[&[u8]]) {
        let first = self.tx_at;
        let last = parts.len() - 1;
        for (i, part) in parts.iter().enumerate() {
            let mut status = 0x8000;
            status |= if i == 0 { 0x0200 } else { 0 } | if i == last { 0x0100 } else { 0 };
            self.fill_tx(first + i, part, if i == 0 { status & !0x8000 } else { status });
        }
        let status = 0x8200 | if last == 0 { 0x0100 } else { 0 };
        self.fill_tx(first, parts[0], status);
        self.tx_at += parts.len();
    }

    /// One transmit descriptor with `status`, the ring position taken modulo the ring.
    pub fn fill_tx(&self, position: usize, data: &[u8], status: u16) {
        let index = position % self.tx_count;
        let at = TX_BUFFERS + index * BUFFER;
        self.poke(at, data);
        self.set_desc(self.tx_desc(index), self.base + at as u32, data.len(), status);
    }

    pub fn fill_tx_at(&self, position: usize, addr: u32, len: usize, status: u16) {
        self.set_desc(self.tx_desc(position % self.tx_count), addr, len, status);
    }

    /// Statuses of the descriptors the card has given back since.
    pub fn reap_tx(&mut self) -> Vec<u16> {
        let mut out = vec![];
        while self.tx_reaped < self.tx_at {
            let (status, _) = self.desc_status(self.tx_desc(self.tx_reaped % self.tx_count));
            if status & 0x8000 != 0 {
                break;
            }
            out.push(status);
            self.tx_reaped += 1;
        }
        out
    }

    pub fn poll(&mut self) -> Wire {
        let mut wire = Wire::new();
        self.queue.poll(&mut wire);
        wire
    }

    /// Frames from the switch, each with the tag the guest is to see.
    pub fn deliver(&self, frames: &[Vec<u8>]) -> Tally {
        deliver(&*self.egress, frames)
    }

    /// Takes the descriptors the card has given back; gives them to the card again when `rearm`.
    pub fn receive(&mut self, rearm: bool) -> Vec<Received> {
        let mut out = vec![];
        for _ in 0..self.rx_count {
            let index = self.rx_at % self.rx_count;
            let (status, word) = self.desc_status(self.rx_desc(index));
            if status & 0x8000 != 0 {
                break;
            }
            let mcnt = word as usize & 0xfff;
            out.push(Received { status, mcnt, bytes: self.peek(RX_BUFFERS + index * BUFFER, self.buffer) });
            if rearm {
                self.arm_rx(index);
            }
            self.rx_at += 1;
        }
        out
    }
}

pub fn deliver(egress: &dyn Egress, frames: &[Vec<u8>]) -> Tally {
    let total: usize = frames.iter().map(Vec::len).sum();
    let memory = region(total.max(1));
    let mut burst = Burst::new();
    let mut at = 0;
    for frame in frames {
        let slice = memory.slice(at, frame.len()).unwrap();
        assert!(slice.write_at(0, frame));
        burst.push(&[slice], None, Offload::default());
        at += frame.len();
    }
    let list: Vec<Delivery> = burst.frames().iter().enumerate().map(|(i, f)| Delivery::new(i as u8, f.tag())).collect();
    let mut tally = Tally::new();
    egress.deliver(&burst, &list, &mut tally);
    tally
}

/// A frame of `len` bytes to `dst` whose payload tells `seed`.
pub fn frame(dst: Mac, len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = dst.0.to_vec();
    bytes.extend([0x00, 0x50, 0x56, 0, 0, 9, 0x08, 0x06]);
    bytes.extend((0..len - 14).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)));
    bytes
}
