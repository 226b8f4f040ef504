//! What a decent vmxnet3 driver writes into its memory before it starts the card, and how it goes on.

use vnic::vmxnet3::shared_area::{MAGIC, QUEUE_LEN, at, queue};

use crate::memory::Memory;

/// Guest address of the first byte of memory.
pub const BASE: u64 = 0x10_0000;
/// The driver-shared area.
pub const AREA: u64 = BASE + 0x1000;
/// Queue descriptors.
pub const QUEUES: u64 = BASE + 0x2000;
/// Group addresses.
const GROUPS: u64 = BASE + 0x6000;
const RINGS: u64 = BASE + 0x1_0000;
/// What the driver sends lies from here.
pub const TX_BUFFERS: u64 = BASE + 0x4_0000;
/// Receive buffers, 4 KiB each.
const RX_BUFFERS: u64 = BASE + 0x8_0000;

/// Transmit queues the driver sets up.
pub const TX_QUEUES: usize = 2;
const RX_QUEUES: usize = 1;
const TX_SIZE: u32 = 64;
const RX_SIZES: [u32; 2] = [64, 32];
const COMPLETIONS: u32 = 96;

/// A producer's place in a ring.
#[derive(Clone, Copy, Default)]
struct Fill {
    at: u32,
    flipped: bool,
}

impl Fill {
    fn generation(self) -> u32 {
        u32::from(!self.flipped)
    }

    fn advance(&mut self, size: u32) {
        self.at += 1;
        if self.at == size {
            *self = Fill { at: 0, flipped: !self.flipped };
        }
    }
}

/// The driver's places.
#[derive(Default)]
pub struct Driver {
    tx: [Fill; TX_QUEUES],
    rx: [Fill; 2],
}

fn tx_ring(q: usize) -> u64 {
    RINGS + q as u64 * 0x1000
}

fn rx_ring(ring: usize) -> u64 {
    RINGS + 0x8000 + ring as u64 * 0x1000
}

impl Driver {
    /// Writes the shared area, the queue descriptors and the receive buffers; nothing is to be sent yet.
    pub fn lay_out(memory: &Memory, mtu: u32, features: u64) -> Driver {
        let area = |offset: u32| AREA + u64::from(offset);
        memory.put32(area(at::MAGIC), MAGIC);
        memory.put64(area(at::FEATURES), features);
        memory.put64(area(at::QUEUES), QUEUES);
        memory.put32(area(at::QUEUES_LEN), (TX_QUEUES + RX_QUEUES) as u32 * QUEUE_LEN);
        memory.put32(area(at::MTU), mtu);
        memory.put(area(at::QUEUE_COUNTS), &[0, 0, TX_QUEUES as u8, RX_QUEUES as u8]);
        let events = (TX_QUEUES + RX_QUEUES) as u8;
        memory.put(area(at::INTERRUPTS), &[1, events + 1, events]);
        memory.put32(area(at::RX_MODE), 5);
        memory.put32(area(at::GROUPS_LEN), 12);
        memory.put64(area(at::GROUPS), GROUPS);
        memory.put(GROUPS, &[1, 0, 0x5e, 0, 0, 1, 0x33, 0x33, 0, 0, 0, 1]);
        memory.put32(area(at::VLANS), 1);
        for q in 0..TX_QUEUES {
            let rings = [tx_ring(q), 0, tx_ring(q) + 0x800];
            queue_desc(memory, q, rings, [TX_SIZE, 0, TX_SIZE]);
        }
        let rings = [rx_ring(0), rx_ring(1), rx_ring(2)];
        queue_desc(memory, TX_QUEUES, rings, [RX_SIZES[0], RX_SIZES[1], COMPLETIONS]);
        let mut driver = Driver::default();
        driver.refill(memory, 0, RX_SIZES[0] as u8 - 1, 1522);
        driver.refill(memory, 1, RX_SIZES[1] as u8 - 1, 4094 | 1 << 14);
        driver
    }

    /// Gives the card `count` receive buffers, with `word` as length and kind.
    pub fn refill(&mut self, memory: &Memory, ring: usize, count: u8, word: u32) {
        for _ in 0..count {
            let fill = self.rx[ring];
            let desc = rx_ring(ring) + u64::from(fill.at) * 16;
            memory.put64(desc, RX_BUFFERS + u64::from(fill.at + 64 * ring as u32) * 4096 + 2);
            memory.put32(desc + 8, word & 0x7fff_ffff | fill.generation() << 31);
            self.rx[ring].advance(RX_SIZES[ring]);
        }
    }

    /// A receive descriptor with any address.
    pub fn refill_at(&mut self, memory: &Memory, ring: usize, iova: u64, word: u32) {
        let desc = rx_ring(ring) + u64::from(self.rx[ring].at) * 16;
        self.refill(memory, ring, 1, word);
        memory.put64(desc, iova);
    }

    /// A transmit descriptor; `word2` and `word3` but for the generation bit, which is right.
    pub fn send(&mut self, memory: &Memory, q: usize, iova: u64, word2: u32, word3: u32) {
        let fill = self.tx[q];
        let desc = tx_ring(q) + u64::from(fill.at) * 16;
        memory.put64(desc, iova);
        memory.put32(desc + 12, word3);
        memory.put32(desc + 8, word2 & !(1 << 14) | fill.generation() << 14);
        self.tx[q].advance(TX_SIZE);
    }

    /// A whole frame in pieces of at most `piece` bytes; `first` are the offload bits of words 2 and 3 of its
    /// first descriptor.
    pub fn send_frame(&mut self, memory: &Memory, q: usize, frame: &[u8], piece: usize, first: (u32, u32)) {
        memory.put(TX_BUFFERS, frame);
        let piece = piece.clamp(1, 0x3fff).max(frame.len() / 40);
        let count = frame.len().div_ceil(piece);
        for (i, part) in frame.chunks(piece).enumerate() {
            let end = if i + 1 == count { 1 << 12 | 1 << 13 } else { 0 };
            let (word2, word3) = if i == 0 { first } else { (0, 0) };
            let iova = TX_BUFFERS + (i * piece) as u64;
            self.send(memory, q, iova, word2 | part.len() as u32 & 0x3fff, word3 | end);
        }
    }
}

fn queue_desc(memory: &Memory, index: usize, rings: [u64; 3], sizes: [u32; 3]) {
    let field = |offset: u32| QUEUES + index as u64 * u64::from(QUEUE_LEN) + u64::from(offset);
    for (offset, ring) in [queue::RING, queue::RING2, queue::COMPLETIONS].into_iter().zip(rings) {
        memory.put64(field(offset), ring);
    }
    for (offset, size) in [queue::RING_COUNT, queue::RING2_COUNT, queue::COMPLETION_COUNT].into_iter().zip(sizes) {
        memory.put32(field(offset), size);
    }
    memory.put32(field(queue::VECTOR), index as u32);
}
