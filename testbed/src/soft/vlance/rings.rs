//! The rings in memory, in the three layouts.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use sharedmem::Ring;
use wire::Mac;

use super::Style;
use crate::soft::{Drained, Noise, Ram, Received, See};

/// Bytes of a buffer; Linux gives the card 1544.
const BUFFER: u64 = 2048;
const RX_LEN: u32 = 1544;
/// Bits of the status word, in its upper half as in the 32-bit layouts.
const OWN: u32 = 1 << 31;
const ERROR: u32 = 1 << 30;
const START: u32 = 1 << 25;
const END: u32 = 1 << 24;
const FCS: u32 = 4;
/// Least frame without FCS: the card strips no padding for this driver.
const MIN_FRAME: u32 = 60;

/// Receive and transmit ring.
pub struct Rings {
    style: Style,
    rx: Descriptors,
    tx: Descriptors,
    next_rx: u32,
    next_tx: u32,
    /// Descriptors the card has, and of each frame how many.
    taken: u32,
    flights: VecDeque<u32>,
    log: [u8; 2],
}

/// One ring. A descriptor is seen as: address, status with the negative length below, message length.
struct Descriptors {
    style: Style,
    at: u64,
    buffers: u64,
    count: u32,
    words: DescriptorWords,
}

enum DescriptorWords {
    Short(Ring<2>),
    Long(Ring<4>),
}

impl Descriptors {
    fn new(ram: &mut Ram, style: Style, count: u32) -> Result<Descriptors> {
        let size = if style == Style::Lance { 8 } else { 16 };
        let at = ram.alloc(u64::from(count) * size, 16)?;
        let buffers = ram.alloc(u64::from(count) * BUFFER, 16)?;
        let words = match style {
            Style::Lance => DescriptorWords::Short(ram.ring(at, count)?),
            _ => DescriptorWords::Long(ram.ring(at, count)?),
        };
        Ok(Descriptors { style, at, buffers, count, words })
    }

    fn buffer(&self, index: u32) -> u64 {
        self.buffers + u64::from(index) * BUFFER
    }

    /// The status bits in 31..=24, whatever the layout.
    fn status(&self, index: u32) -> u32 {
        match &self.words {
            DescriptorWords::Short(ring) => ring.load(index, 0) & 0xff00_0000,
            DescriptorWords::Long(ring) => ring.load(index, 1) & 0xff00_0000,
        }
    }

    /// The length the card wrote, with FCS.
    fn message_len(&self, index: u32) -> u32 {
        let word = match &self.words {
            DescriptorWords::Short(ring) => ring.load(index, 1) >> 16,
            DescriptorWords::Long(ring) if self.style == Style::Pcnet32Burst => ring.load(index, 0),
            DescriptorWords::Long(ring) => ring.load(index, 2),
        };
        word & 0xfff
    }

    /// Fills a descriptor in, the ownership last.
    fn set(&self, index: u32, len: u32, status: u32) {
        let address = self.buffer(index) as u32;
        let negative = len.wrapping_neg() & 0xfff | 0xf000;
        match &self.words {
            DescriptorWords::Short(ring) => {
                ring.store(index, 1, negative);
                ring.store(index, 0, address & 0xff_ffff | status);
            }
            DescriptorWords::Long(ring) => {
                let (place, other) = if self.style == Style::Pcnet32Burst { (2, 0) } else { (0, 2) };
                ring.store(index, place, address);
                ring.store(index, other, 0);
                ring.store(index, 1, status | negative);
            }
        }
    }

    fn noise(&self, noise: &mut Noise) {
        for index in 0..self.count {
            match &self.words {
                DescriptorWords::Short(ring) => (0..2).for_each(|w| ring.store(index, w, noise.next_u32())),
                DescriptorWords::Long(ring) => (0..4).for_each(|w| ring.store(index, w, noise.next_u32())),
            }
        }
    }
}

impl Rings {
    /// Rings of 2^`log_tx` and 2^`log_rx` descriptors.
    pub fn new(ram: &mut Ram, style: Style, log_tx: u8, log_rx: u8) -> Result<Rings> {
        let rx = Descriptors::new(ram, style, 1 << log_rx)?;
        let tx = Descriptors::new(ram, style, 1 << log_tx)?;
        let flights = VecDeque::with_capacity(1 << log_tx);
        Ok(Rings { style, rx, tx, next_rx: 0, next_tx: 0, taken: 0, flights, log: [log_tx, log_rx] })
    }

    /// All receive buffers to the card, no frame to send.
    pub fn init(&mut self, ram: &Ram) -> Result<()> {
        let size = if self.style == Style::Lance { 8 } else { 16 };
        ram.zero(self.tx.at, self.tx.count as usize * size)?;
        (self.next_rx, self.next_tx, self.taken) = (0, 0, 0);
        self.flights.clear();
        for index in 0..self.rx.count {
            self.rx.set(index, RX_LEN, OWN);
        }
        Ok(())
    }

    /// Writes the initialization block.
    pub fn write_init_block(&self, ram: &Ram, at: u64, mode: u16, mac: Mac, filter: u64) -> Result<()> {
        let [log_tx, log_rx] = self.log.map(u32::from);
        let (rx, tx) = (self.rx.at as u32, self.tx.at as u32);
        let mut block = mode.to_le_bytes().to_vec();
        if self.style == Style::Lance {
            block.extend(mac.0);
            block.extend(filter.to_le_bytes());
            block.extend((rx | log_rx << 29).to_le_bytes());
            block.extend((tx | log_tx << 29).to_le_bytes());
        } else {
            block.extend(((log_rx << 4 | log_tx << 12) as u16).to_le_bytes());
            block.extend(mac.0);
            block.extend([0, 0]);
            block.extend(filter.to_le_bytes());
            block.extend(rx.to_le_bytes());
            block.extend(tx.to_le_bytes());
        }
        ram.write(at, &block)
    }

    /// Frames the card has not sent.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Puts a frame into the ring, a descriptor for each piece; false when there is no room.
    pub fn push(&mut self, ram: &Ram, pieces: &[&[u8]]) -> Result<bool> {
        self.reap()?;
        let count = pieces.len() as u32;
        ensure!((1..=self.tx.count).contains(&count), "{count} pieces in a ring of {}", self.tx.count);
        ensure!(pieces.iter().all(|p| (1..=BUFFER as usize).contains(&p.len())), "a piece of 1..=2048 bytes");
        if self.taken + count > self.tx.count {
            return Ok(false);
        }
        let index = |i: u32| (self.next_tx + i) % self.tx.count;
        // From the last to the first, so that the frame turns visible as a whole.
        for (i, piece) in (0..count).zip(pieces).rev() {
            ram.write(self.tx.buffer(index(i)), piece)?;
            let ends = if i == 0 { START } else { 0 } | if i + 1 == count { END } else { 0 };
            self.tx.set(index(i), piece.len() as u32, OWN | ends);
        }
        self.next_tx = index(count);
        self.taken += count;
        self.flights.push_back(count);
        Ok(true)
    }

    /// Takes back what the card has sent.
    pub fn reap(&mut self) -> Result<()> {
        while let Some(&count) = self.flights.front() {
            let first = (self.next_tx + self.tx.count - self.taken % self.tx.count) % self.tx.count;
            for i in 0..count {
                let index = (first + i) % self.tx.count;
                let status = self.tx.status(index);
                if status & OWN != 0 {
                    return Ok(());
                }
                ensure!(status & ERROR == 0, "transmit descriptor {index} ended with status {status:#010x}");
            }
            self.flights.pop_front();
            self.taken -= count;
        }
        Ok(())
    }

    /// The length of the next frame, if it is there; checked as `pcnet32_rx_entry` checks it.
    fn peek(&self) -> Result<Option<u32>> {
        let status = self.rx.status(self.next_rx);
        if status & OWN != 0 {
            return Ok(None);
        }
        ensure!(status >> 24 == (START | END) >> 24, "receive descriptor {} has status {status:#010x}", self.next_rx);
        let len = self.rx.message_len(self.next_rx);
        ensure!((MIN_FRAME + FCS..=RX_LEN).contains(&len), "receive descriptor {} has length {len}", self.next_rx);
        Ok(Some(len - FCS))
    }

    fn give_back(&mut self) {
        self.rx.set(self.next_rx, RX_LEN, OWN);
        self.next_rx = (self.next_rx + 1) % self.rx.count;
    }

    /// The next frame.
    pub fn pop(&mut self, ram: &Ram) -> Result<Option<Received>> {
        let Some(len) = self.peek()? else { return Ok(None) };
        let mut bytes = vec![0; len as usize];
        ram.read(self.rx.buffer(self.next_rx), &mut bytes)?;
        self.give_back();
        Ok(Some(Received { bytes, tag: None, csum_ok: false, csum_unknown: true }))
    }

    /// All frames that are there, unread.
    pub fn drain(&mut self) -> Result<Drained> {
        let mut total = Drained::default();
        while let Some(len) = self.peek()? {
            total += Drained { frames: 1, bytes: len.into() };
            self.give_back();
        }
        Ok(total)
    }

    /// As [`Rings::drain`], each frame shown to `see`.
    pub fn drain_with(&mut self, ram: &Ram, see: &mut See<'_>) -> Result<()> {
        while let Some(len) = self.peek()? {
            see(None, &ram.slice(self.rx.buffer(self.next_rx), len as usize)?, len as usize);
            self.give_back();
        }
        Ok(())
    }

    /// Noise in all descriptors.
    pub fn garbage(&self, noise: &mut Noise) {
        self.rx.noise(noise);
        self.tx.noise(noise);
    }
}
