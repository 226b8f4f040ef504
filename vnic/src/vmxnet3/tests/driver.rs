//! The driver's side of the card: fills rings as the Linux driver does and checks what comes back.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dataplane::{Burst, Caps, Csum, Delivery, Egress, Grace, Ingress, Offload, Plan, PortState, Sink, Tally};
use rustix::event::{EventfdFlags, eventfd};
use sharedmem::{DmaMap, Mapping, Region};
use wire::{Mac, Tag};

use crate::device::{DeviceModel, Setup};
use crate::irq::{Interrupts, IrqKind};
use crate::vmxnet3::shared_area::{MAGIC, QUEUE_LEN, at, queue};
use crate::vmxnet3::{Vmxnet3, commands, registers};

/// Guest address of the first byte of memory.
pub const BASE: u64 = 0x10_0000;
pub const MEMORY: usize = 16 << 20;
pub const MAC: Mac = Mac([0, 0x50, 0x56, 0, 0, 1]);
pub const PEER: Mac = Mac([0, 0x50, 0x56, 0, 0, 2]);

pub const AREA: u64 = BASE + 0x1000;
pub const QUEUES: u64 = BASE + 0x2000;
pub const GROUPS: u64 = BASE + 0x6000;
/// Configuration of receive side scaling.
pub const RSS: u64 = BASE + 0x7000;
/// A scheme of interrupt moderation.
pub const SCHEME: u64 = BASE + 0x7400;
const DATA_RINGS: u64 = BASE + 0x8000;
const RINGS: u64 = BASE + 0x10000;
const TX_BUFFERS: u64 = BASE + 0x20_0000;
const RX_BUFFERS: u64 = BASE + 0x40_0000;
/// Those of the second and further receive queues.
const MORE_RX_BUFFERS: u64 = BASE + 0x80_0000;

/// Shape of the driver.
#[derive(Clone)]
pub struct Options {
    pub tx_queues: usize,
    pub rx_queues: usize,
    pub tx_size: u32,
    pub rx_sizes: [u32; 2],
    pub rx_completions: u32,
    pub mtu: u32,
    pub head_len: u32,
    /// Buffers per frame in ring 1: a HEAD and so many minus one BODYs.
    pub per_frame: u32,
    pub features: u64,
    pub auto_mask: bool,
    pub mode: u32,
    pub revision: u8,
    /// Bytes of an entry of the receive data rings; 0 for none.
    pub data_size: u32,
    pub max_pieces: u16,
    /// Bytes by which all rings lie off their places, which are multiples of a page.
    pub off: u64,
    /// What is hashed, and the table of queues.
    pub rss: Option<(u16, Vec<u8>)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tx_queues: 1,
            rx_queues: 1,
            tx_size: 64,
            rx_sizes: [64, 32],
            rx_completions: 96,
            mtu: 1500,
            head_len: 1522,
            per_frame: 1,
            features: 5,
            auto_mask: true,
            mode: 5,
            revision: 1,
            data_size: 0,
            max_pieces: 0,
            off: 0,
            rss: None,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Index {
    at: u32,
    flipped: bool,
}

impl Index {
    fn generation(self) -> u32 {
        u32::from(!self.flipped)
    }

    fn advance(&mut self, size: u32) {
        self.at += 1;
        if self.at == size {
            *self = Index { at: 0, flipped: !self.flipped };
        }
    }
}

#[derive(Default)]
struct TxSide {
    fill: Index,
    completion: Index,
    pub free_at: u64,
}

#[derive(Default)]
struct RxSide {
    fill: [Index; 2],
    next_to_complete: [u32; 2],
    completion: Index,
}

/// What the driver found in its receive rings.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub data: Vec<u8>,
    pub tag: Option<Tag>,
    pub error: bool,
    /// Word 0 and word 3 of the last completion.
    pub word0: u32,
    pub word3: u32,
    /// Kind and value of the hash, from the last completion.
    pub hash: (u32, u32),
    /// Number of segments and their size, when the first completion tells of a large one.
    pub large: Option<(u32, u32)>,
    /// It came in the data ring.
    pub in_data_ring: bool,
    /// Ring and index of each buffer.
    pub buffers: Vec<(u32, u32)>,
}

/// Offload request of a frame to send.
#[derive(Clone, Copy, Default)]
pub struct Ask {
    pub mode: u32,
    pub hlen: u32,
    pub msscof: u32,
    pub tag: Option<u16>,
    pub no_completion: bool,
}

pub struct Guest {
    pub file: File,
    pub region: Arc<Region>,
    pub model: Vmxnet3,
    pub queues: Vec<Box<dyn Ingress>>,
    pub egress: Arc<dyn Egress>,
    pub state: Arc<PortState>,
    pub irq: Arc<Interrupts>,
    pub vectors: Vec<OwnedFd>,
    pub options: Options,
    tx: Vec<TxSide>,
    rx: Vec<RxSide>,
}

pub fn file_region() -> (File, Arc<Region>) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY as u64).unwrap();
    let region = Region::map(file.as_fd(), 0, MEMORY, true).unwrap();
    (file, region)
}

pub fn map_of(region: &Arc<Region>) -> Arc<DmaMap> {
    let mapping = Mapping { iova: BASE, len: MEMORY as u64, region: Some(region.clone()), writable: true };
    Arc::new(DmaMap::new().with(mapping).unwrap())
}

impl Guest {
    /// A card with memory, MSI-X set up, driver not started.
    pub fn new(options: Options) -> Guest {
        let mut guest = Guest::without_interrupts(options);
        guest.vectors = (0..25).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
        for (i, fd) in guest.vectors.iter().enumerate() {
            guest.irq.set(IrqKind::Msix, i, Some(fd.try_clone().unwrap()));
        }
        guest
    }

    pub fn without_interrupts(options: Options) -> Guest {
        Guest::with_grace(options, Grace::new(0))
    }

    pub fn with_grace(options: Options, grace: Grace) -> Guest {
        let (file, region) = file_region();
        let (state, irq) = (Arc::new(PortState::new()), Interrupts::new());
        let mut model = Vmxnet3::new(Setup {
            name: "web1".into(),
            mac: MAC,
            mtu: 9000,
            state: state.clone(),
            interrupts: irq.clone(),
            grace,
        })
        .unwrap();
        model.set_map(map_of(&region));
        let (queues, egress) = (model.ingress(), model.egress());
        Guest {
            file,
            region,
            model,
            queues,
            egress,
            state,
            irq,
            vectors: Vec::new(),
            options,
            tx: Vec::new(),
            rx: Vec::new(),
        }
    }

    /// A card whose driver has started it and set the receive mode.
    pub fn started(options: Options) -> Guest {
        let mut guest = Guest::new(options);
        guest.lay_out();
        assert_eq!(guest.activate(), 0);
        guest.enable_interrupts();
        guest
    }

    pub fn put(&self, iova: u64, data: &[u8]) {
        let slice = self.region.slice((iova - BASE) as usize, data.len()).unwrap();
        assert!(slice.write_at(0, data));
    }

    pub fn get(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        assert!(self.region.slice((iova - BASE) as usize, len).unwrap().read_at(0, &mut out));
        out
    }

    /// Ordered: what was put before is seen before.
    pub fn put32(&self, iova: u64, value: u32) {
        assert!(self.region.slice((iova - BASE) as usize, 4).unwrap().store_u32(0, value));
    }

    pub fn put64(&self, iova: u64, value: u64) {
        self.put(iova, &value.to_le_bytes());
    }

    /// Ordered: what is got after is read after.
    pub fn get32(&self, iova: u64) -> u32 {
        self.region.slice((iova - BASE) as usize, 4).unwrap().load_u32(0).unwrap()
    }

    pub fn get64(&self, iova: u64) -> u64 {
        u64::from_le_bytes(self.get(iova, 8).try_into().unwrap())
    }

    pub fn reg(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.model.read(1, offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    pub fn set_reg(&mut self, offset: u32, value: u32) {
        self.model.write(1, offset, &value.to_le_bytes()).unwrap();
    }

    pub fn command(&mut self, command: u32) -> u32 {
        self.set_reg(registers::CMD, command);
        self.reg(registers::CMD)
    }

    /// A plain store to BAR0, as a guest with the page mapped makes.
    pub fn store(&self, offset: usize, value: u32) {
        assert!(self.model.bar_page(0).unwrap().slice().store_u32(offset, value));
    }

    pub fn mask(&self, vector: usize) -> u32 {
        self.model.bar_page(0).unwrap().slice().load_u32(vector * 8).unwrap()
    }

    pub fn enable_interrupts(&self) {
        (0..25).for_each(|v| self.store(v * 8, 0));
        self.put32(AREA + u64::from(at::INTERRUPT_CONTROL), 0);
    }

    /// Interrupts since the last look.
    pub fn interrupts(&self, vector: usize) -> u64 {
        let mut buf = [0; 8];
        match rustix::io::read(&self.vectors[vector], &mut buf) {
            Ok(8) => u64::from_ne_bytes(buf),
            _ => 0,
        }
    }

    fn tx_ring(&self, q: usize) -> u64 {
        RINGS + self.options.off + q as u64 * 0x20000
    }

    fn tx_completions(&self, q: usize) -> u64 {
        self.tx_ring(q) + 0x10000
    }

    fn rx_ring(&self, q: usize, ring: usize) -> u64 {
        let rings = RINGS + self.options.off;
        match q {
            0 => rings + 0x10_0000 + ring as u64 * 0x10000,
            _ => rings + 0x14_0000 + q as u64 * 0x3000 + ring as u64 * 0x1000,
        }
    }

    pub fn rx_completions(&self, q: usize) -> u64 {
        self.rx_ring(q, 2)
    }

    pub fn data_ring(&self, q: usize) -> u64 {
        DATA_RINGS + q as u64 * 0x2000
    }

    fn buffer(&self, q: usize, ring: usize, index: u32) -> u64 {
        let at = u64::from(index) * 4096 + 2;
        match q {
            0 => RX_BUFFERS + ring as u64 * 0x20_0000 + at,
            _ => MORE_RX_BUFFERS + (q as u64 - 1) * 0x6_0000 + ring as u64 * 0x4_0000 + at,
        }
    }

    fn buffer_kind(&self, ring: usize, index: u32) -> (u32, u32) {
        if ring == 0 && index.is_multiple_of(self.options.per_frame) { (0, self.options.head_len) } else { (1, 4094) }
    }

    /// Writes the shared area, the queue descriptors and fresh rings.
    pub fn lay_out(&mut self) {
        let o = self.options.clone();
        let area = |at: u32| AREA + u64::from(at);
        self.put(AREA, &[0; 720]);
        self.put(QUEUES, &[0; 24 * 256]);
        self.put32(area(at::MAGIC), MAGIC);
        self.put64(area(at::FEATURES), o.features);
        self.put64(area(at::QUEUES), QUEUES);
        self.put32(area(at::QUEUES_LEN), (o.tx_queues + o.rx_queues) as u32 * QUEUE_LEN);
        self.put32(area(at::MTU), o.mtu);
        self.put(area(at::QUEUE_COUNTS), &o.max_pieces.to_le_bytes());
        self.put(area(at::QUEUE_COUNTS) + 2, &[o.tx_queues as u8, o.rx_queues as u8]);
        // As Linux does: transmit vectors, then receive, then events.
        let events = (o.tx_queues + o.rx_queues) as u8;
        self.put(area(at::INTERRUPTS), &[u8::from(o.auto_mask), events + 1, events]);
        self.put32(area(at::INTERRUPT_CONTROL), 1);
        self.put32(area(at::RX_MODE), o.mode);
        self.put32(area(at::VLANS), 1);
        self.tx = (0..o.tx_queues)
            .map(|q| TxSide { free_at: TX_BUFFERS + q as u64 * 0x3_0000, ..TxSide::default() })
            .collect();
        self.rx = (0..o.rx_queues).map(|_| RxSide::default()).collect();
        for q in 0..o.tx_queues {
            let desc = QUEUES + q as u64 * 256;
            let (ring, completions) = (self.tx_ring(q), self.tx_completions(q));
            self.queue_desc(desc, [ring, 0, completions], [o.tx_size, o.tx_size, o.tx_size], q as u8);
            self.put(ring, &vec![0; o.tx_size as usize * 16]);
            self.put(completions, &vec![0; o.tx_size as usize * 16]);
        }
        for q in 0..o.rx_queues {
            let desc = QUEUES + (o.tx_queues + q) as u64 * 256;
            let rings = [self.rx_ring(q, 0), self.rx_ring(q, 1), self.rx_completions(q)];
            let sizes = [o.rx_sizes[0], o.rx_sizes[1], o.rx_completions];
            self.queue_desc(desc, rings, sizes, (o.tx_queues + q) as u8);
            if o.data_size > 0 {
                self.put64(desc + u64::from(queue::DATA), self.data_ring(q));
                self.put(desc + u64::from(queue::VECTOR) + 2, &(o.data_size as u16).to_le_bytes());
            }
            self.put(rings[2], &vec![0; o.rx_completions as usize * 16]);
            for (ring, at) in rings.into_iter().take(2).enumerate() {
                self.put(at, &vec![0; o.rx_sizes[ring] as usize * 16]);
                self.refill(q, ring);
            }
        }
        if let Some((types, table)) = &o.rss {
            self.write_rss(*types, table);
        }
    }

    /// Writes a configuration of receive side scaling with Microsoft's key.
    pub fn write_rss(&self, types: u16, table: &[u8]) {
        let area = |at: u32| AREA + u64::from(at);
        let words = [types, 1, 40, table.len() as u16];
        let mut conf: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).chain(RSS_KEY).collect();
        conf.extend(table);
        conf.resize(8 + 40 + 128, 0);
        self.put(RSS, &conf);
        self.put32(area(at::RSS), 1);
        self.put32(area(at::RSS) + 4, conf.len() as u32);
        self.put64(area(at::RSS) + 8, RSS);
    }

    fn queue_desc(&self, desc: u64, rings: [u64; 3], sizes: [u32; 3], vector: u8) {
        let field = |at: u32| desc + u64::from(at);
        for (at, ring) in [queue::RING, queue::RING2, queue::COMPLETIONS].into_iter().zip(rings) {
            self.put64(field(at), ring);
        }
        for (at, size) in [queue::RING_COUNT, queue::RING2_COUNT, queue::COMPLETION_COUNT].into_iter().zip(sizes) {
            self.put32(field(at), size);
        }
        self.put32(field(queue::VECTOR), vector.into());
    }

    pub fn activate(&mut self) -> u32 {
        self.set_reg(registers::VRRS, 1 << (self.options.revision - 1));
        self.set_reg(registers::DSAL, AREA as u32);
        self.set_reg(registers::DSAH, (AREA >> 32) as u32);
        self.command(commands::ACTIVATE_DEV)
    }

    /// Gives the device every buffer of a ring but one, which tells a full ring from an empty one.
    fn refill(&mut self, q: usize, ring: usize) {
        let size = self.options.rx_sizes[ring];
        if size == 0 {
            return;
        }
        let used = |fill: u32, complete: u32| (fill + size - complete) % size;
        while used(self.rx[q].fill[ring].at, self.rx[q].next_to_complete[ring]) < size - 1 {
            let fill = self.rx[q].fill[ring];
            let desc = self.rx_ring(q, ring) + u64::from(fill.at) * 16;
            let (kind, len) = self.buffer_kind(ring, fill.at);
            self.put64(desc, self.buffer(q, ring, fill.at));
            self.put32(desc + 8, len | kind << 14 | fill.generation() << 31);
            self.rx[q].fill[ring].advance(size);
        }
    }

    /// Sends one frame in the given pieces; the first descriptor becomes valid last.
    pub fn send(&mut self, q: usize, pieces: &[&[u8]], ask: Ask) {
        let mut descs = Vec::new();
        for piece in pieces {
            let at = self.tx[q].free_at;
            self.put(at, piece);
            descs.push((at, piece.len() as u32));
            self.tx[q].free_at = TX_BUFFERS + (at + piece.len() as u64 + 3 - TX_BUFFERS) % 0x18_0000;
        }
        self.send_at(q, &descs, ask);
    }

    pub fn send_at(&mut self, q: usize, descs: &[(u64, u32)], ask: Ask) {
        let (ring, size) = (self.tx_ring(q), self.options.tx_size);
        let mut first = None;
        for (i, &(iova, len)) in descs.iter().enumerate() {
            let fill = self.tx[q].fill;
            let desc = ring + u64::from(fill.at) * 16;
            let (mut word2, mut word3) = (len & 0x3fff | fill.generation() << 14, 0);
            if i == 0 {
                // The top bit of the mode stands for ext1.
                word2 |= ask.msscof << 18 | (ask.mode >> 31) << 17;
                word3 |= ask.hlen | (ask.mode & 3) << 10 | ask.tag.map_or(0, |t| 1 << 15 | u32::from(t) << 16);
            }
            if i + 1 == descs.len() {
                word3 |= 1 << 12 | u32::from(!ask.no_completion) << 13;
            }
            self.put64(desc, iova);
            self.put32(desc + 12, word3);
            self.put32(desc + 8, if i == 0 { word2 ^ 1 << 14 } else { word2 });
            first.get_or_insert((desc + 8, word2));
            self.tx[q].fill.advance(size);
        }
        if let Some((at, word)) = first {
            self.put32(at, word);
        }
    }

    /// Raw descriptor without an end, valid at once.
    pub fn send_endless(&mut self, q: usize, count: u32) {
        for _ in 0..count {
            let fill = self.tx[q].fill;
            let desc = self.tx_ring(q) + u64::from(fill.at) * 16;
            self.put64(desc, TX_BUFFERS);
            self.put32(desc + 12, 0);
            self.put32(desc + 8, 64 | fill.generation() << 14);
            self.tx[q].fill.advance(self.options.tx_size);
        }
    }

    /// Indices of the frames completed since the last look.
    pub fn completed(&mut self, q: usize) -> Vec<u32> {
        let mut out = Vec::new();
        loop {
            let side = &self.tx[q];
            let desc = self.tx_completions(q) + u64::from(side.completion.at) * 16;
            let word3 = self.get32(desc + 12);
            if word3 >> 31 != side.completion.generation() {
                return out;
            }
            assert_eq!(word3 >> 24 & 0x7f, 0, "a transmit completion");
            out.push(self.get32(desc) & 0xfff);
            self.tx[q].completion.advance(self.options.tx_size);
        }
    }

    pub fn poll(&mut self, q: usize) -> Caught {
        let mut caught = Caught::default();
        caught.taken = self.queues[q].poll(&mut caught);
        caught
    }

    /// Takes every whole frame out of the first receive queue and gives the buffers back.
    pub fn receive(&mut self) -> Vec<Received> {
        self.receive_on(0)
    }

    /// Takes every whole frame out of a receive queue and gives the buffers back.
    pub fn receive_on(&mut self, q: usize) -> Vec<Received> {
        let mut out = Vec::new();
        let mut current: Option<Received> = None;
        loop {
            let desc = self.rx_completions(q) + u64::from(self.rx[q].completion.at) * 16;
            // The word with the generation first.
            let mut w: Vec<u32> = (0..4).rev().map(|i| self.get32(desc + i * 4)).collect();
            w.reverse();
            if w[3] >> 31 != self.rx[q].completion.generation() {
                assert!(current.is_none(), "the start is published last");
                return out;
            }
            let start = w[0] >> 15 & 1 == 1;
            let large = w[3] >> 24 & 0x7f == 4;
            assert!(large && start || w[3] >> 24 & 0x7f == 3, "a receive completion");
            let (index, queue) = (w[0] & 0xfff, w[0] >> 16 & 0x3ff);
            let which = queue as usize / self.options.rx_queues;
            assert_eq!(queue as usize % self.options.rx_queues, q);
            let ring = which % 2;
            let (kind, size) = self.buffer_kind(ring, index);
            let len = w[2] & 0x3fff;
            assert_eq!(self.get64(self.rx_ring(q, ring) + u64::from(index) * 16), self.buffer(q, ring, index));
            if start {
                assert!(current.is_none() && kind == 0, "a frame starts in a HEAD");
                current = Some(Received {
                    data: vec![],
                    tag: None,
                    error: false,
                    word0: 0,
                    word3: 0,
                    hash: (0, 0),
                    large: large.then_some((w[1] & 0xff, w[3] & 0xffff)),
                    in_data_ring: which == 2,
                    buffers: vec![],
                });
            } else {
                assert_eq!(kind, 1, "and goes on in BODYs");
            }
            let (from, room) = match which {
                2 => (self.data_ring(q) + u64::from(index * self.options.data_size), self.options.data_size),
                _ => (self.buffer(q, ring, index), size),
            };
            assert!(len <= room && which <= 2);
            let frame = current.as_mut().expect("start first");
            frame.data.extend(self.get(from, len as usize));
            frame.buffers.push((ring as u32, index));
            if w[0] >> 14 & 1 == 1 {
                let mut frame = current.take().unwrap();
                frame.tag = (w[2] >> 15 & 1 == 1).then_some(Tag((w[2] >> 16) as u16));
                frame.error = w[2] >> 14 & 1 == 1;
                (frame.word0, frame.word3) = (w[0], w[3]);
                frame.hash = (w[0] >> 26 & 0xf, w[1]);
                out.push(frame);
            }
            self.rx[q].next_to_complete[ring] = index;
            self.refill(q, ring);
            self.rx[q].completion.advance(self.options.rx_completions);
        }
    }

    /// Delivers frames that lie in `source`.
    pub fn deliver(&self, source: &Source, tag: Option<Tag>) -> Tally {
        deliver(&*self.egress, source, tag)
    }
}

/// Delivers every frame of `source` with `tag`.
pub fn deliver(egress: &dyn Egress, source: &Source, tag: Option<Tag>) -> Tally {
    let burst = source.burst();
    let list: Vec<Delivery> = (0..burst.frames().len() as u8).map(|frame| Delivery::new(frame, tag)).collect();
    let mut tally = Tally::new();
    egress.deliver(&burst, &list, &mut tally);
    tally
}

/// Frames of another port, in memory of their own.
pub struct Source {
    region: Arc<Region>,
    frames: Vec<(usize, usize, Offload)>,
    end: usize,
}

impl Source {
    pub fn new(frames: &[(Vec<u8>, Offload)]) -> Source {
        let mut source = Source { region: file_region().1, frames: vec![], end: 0 };
        for (frame, offload) in frames {
            assert!(source.region.slice(source.end, frame.len()).unwrap().write_at(0, frame));
            source.frames.push((source.end, frame.len(), *offload));
            source.end += frame.len() + 5;
        }
        source
    }

    pub fn plain(frames: &[Vec<u8>]) -> Source {
        Source::new(&frames.iter().map(|f| (f.clone(), Offload::default())).collect::<Vec<_>>())
    }

    pub fn burst(&self) -> Burst<'_> {
        let mut burst = Burst::new();
        let piece = |at, len| self.region.slice(at, len).unwrap();
        if self.frames.iter().all(|(_, _, offload)| *offload == Offload::default()) {
            let taken = burst.push_from(|pieces, room| {
                pieces.extend(self.frames.iter().take(room).map(|&(at, len, _)| piece(at, len)));
            });
            assert_eq!(taken, self.frames.len());
        } else {
            self.frames.iter().for_each(|&(at, len, offload)| burst.push(&[piece(at, len)], None, offload));
        }
        assert!(burst.rejected().is_empty());
        burst
    }
}

/// A frame as it came into the switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub data: Vec<u8>,
    pub tag: Option<Tag>,
    pub offload: Offload,
}

#[derive(Default)]
pub struct Caught {
    pub taken: usize,
    pub frames: Vec<Sent>,
    pub rejected: Vec<(dataplane::DropReason, u32)>,
    /// Lengths of the bursts.
    pub bursts: VecDeque<usize>,
}

impl Sink for Caught {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.bursts.push_back(burst.harvested());
        self.rejected.extend(burst.rejected());
        let room = file_region().1;
        for (i, frame) in burst.frames().iter().enumerate() {
            let caps = Caps { csum: true, tso: true, uso: true, tag: true, pad: false };
            let plan = Plan::new(burst, &Delivery::new(i as u8, frame.tag()), caps).unwrap();
            let slice = room.slice(0, plan.len(0)).unwrap();
            assert!(plan.write(0, &[slice]));
            let mut data = vec![0; slice.len()];
            assert!(slice.read_at(0, &mut data));
            self.frames.push(Sent { data, tag: frame.tag(), offload: frame.offload() });
        }
    }
}

/// The key of Microsoft's examples.
pub const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

/// An Ethernet frame of `len` bytes with a pattern in it.
pub fn ether(dst: Mac, src: Mac, len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = dst.0.into_iter().chain(src.0).chain([0x88, 0xb6]).collect();
    frame.extend((14..len).map(|i| (i as u8).wrapping_mul(31) ^ seed));
    frame
}

/// A TCP segment over IPv4 or IPv6 with its headers right but for the TCP checksum, which is the sum of the
/// pseudo header, as a sender that asks for offload leaves it.
pub fn tcp(v6: bool, payload: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = MAC.0.into_iter().chain(PEER.0).collect();
    let l4_len = 20 + payload;
    let addresses: Vec<u8> = if v6 { (1..33).collect() } else { vec![10, 0, 0, 1, 10, 0, 0, 2] };
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, (l4_len >> 8) as u8, l4_len as u8, 6, 64]);
    } else {
        let total = l4_len + 20;
        let mut ip = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 7, 0, 0, 64, 6, 0, 0];
        ip.extend(&addresses);
        let sum = !wire::checksum::sum_be(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(&ip[..12]);
    }
    frame.extend(&addresses);
    let pseudo = wire::checksum::pseudo_header(&addresses, 6, l4_len as u32).folded();
    frame.extend([0, 80, 1, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 0x20, 0]);
    frame.extend(pseudo.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend((0..payload).map(|i| (i % 251) as u8));
    frame
}

/// True when the TCP checksum of a frame as `tcp` makes them is right.
pub fn tcp_sum_good(frame: &[u8], v6: bool) -> bool {
    let (l4, from, to) = if v6 { (54, 22, 54) } else { (34, 26, 34) };
    let end = if v6 {
        54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))
    } else {
        14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))
    };
    let mut sum = wire::checksum::pseudo_header(&frame[from..to], 6, (end - l4) as u32);
    sum.add(&frame[l4..end]);
    sum.folded() == 0xffff
}

pub fn fill(v6: bool) -> Offload {
    let l4 = if v6 { 54 } else { 34 };
    Offload { csum: Csum::Fill { start: l4, at: l4 + 16 }, gso: None }
}
