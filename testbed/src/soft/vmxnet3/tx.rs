//! Transmit: what `vmxnet3_tq_xmit` and `vmxnet3_tq_tx_complete` do.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};
use sharedmem::{Region, Ring, WideRing};
use wire::Tag;

use super::layout::{DATA_ENTRY, MAX_TX_DESCRIPTORS, MAX_TX_PIECE, Place, RING_ALIGN, bar0, queue, room};
use crate::soft::Ram;

/// What the card is asked to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    None,
    /// Fill in a checksum: sum from `start` to the end, store at `start + offset`.
    Csum {
        /// Where the transport header starts, in bytes from the start of the frame.
        start: u16,
        /// Where the checksum stands in it.
        offset: u16,
    },
    /// Cut a TCP frame into segments.
    Tso {
        /// Bytes of all headers, through TCP's.
        header: u16,
        /// Payload bytes of a segment.
        mss: u16,
    },
}

/// A frame to send.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    /// Its bytes in pieces; each is in a descriptor of its own, or more where it is longer than 16 KiB.
    pub pieces: &'a [&'a [u8]],
    /// Offload request.
    pub offload: Offload,
    /// Tag for the card to put in.
    pub tag: Option<Tag>,
    /// True: the first up to 128 bytes go through the data ring in a descriptor of their own, as Linux
    /// does it.
    pub copy_header: bool,
}

impl<'a> TxFrame<'a> {
    /// A frame without requests.
    pub fn plain(pieces: &'a [&'a [u8]]) -> TxFrame<'a> {
        TxFrame { pieces, offload: Offload::None, tag: None, copy_header: true }
    }

    fn header_bytes(&self) -> usize {
        let linear = self.pieces.first().map_or(0, |p| p.len());
        let wanted = match self.offload {
            _ if !self.copy_header => 0,
            Offload::Tso { header, .. } if usize::from(header) > DATA_ENTRY => 0,
            Offload::Tso { header, .. } => usize::from(header),
            Offload::Csum { .. } | Offload::None => DATA_ENTRY,
        };
        wanted.min(linear)
    }
}

/// Bytes of a buffer of a frame that lies ready, and the most of them.
const LAID_BUFFER: usize = 2048;
const MAX_LAID: usize = 1024;

/// Frames under way, one or more that were sent at once and take a descriptor each.
#[derive(Clone, Copy, Debug)]
struct Flight {
    /// The last descriptor of the next one to be completed.
    next: u32,
    /// Frames not completed.
    left: u32,
    arena_end: u64,
    burst: bool,
}

/// One transmit queue.
pub struct TxQueue {
    ring: Ring<4>,
    /// The same, by halves.
    wide: WideRing,
    completions: WideRing,
    size: u32,
    ring_at: u64,
    completions_at: u64,
    data_at: u64,
    arena_at: u64,
    arena_len: u64,
    arena_head: u64,
    arena_tail: u64,
    burst_at: u64,
    burst: Vec<u8>,
    /// Flights that read it.
    bursts: usize,
    /// Frames that lie ready, each in a buffer of its own from `laid_at` on.
    laid: usize,
    laid_at: u64,
    fill: Place,
    done: u32,
    completion: Place,
    flights: VecDeque<Flight>,
    /// Frames in them.
    under_way: usize,
    descriptor: u64,
    index: usize,
}

impl TxQueue {
    /// A queue of `size` descriptors whose queue descriptor is at `descriptor`.
    pub fn new(ram: &mut Ram, index: usize, descriptor: u64, size: u32) -> Result<TxQueue> {
        ensure!(size > 0 && size.is_multiple_of(32) && size <= 4096, "{size} transmit descriptors");
        let bytes = u64::from(size) * 16;
        let (ring_at, completions_at) = (ram.alloc(bytes, RING_ALIGN)?, ram.alloc(bytes, RING_ALIGN)?);
        let data_at = ram.alloc(u64::from(size) * DATA_ENTRY as u64, RING_ALIGN)?;
        let burst_at = ram.alloc(MAX_TX_PIECE as u64, 64)?;
        let arena_len = u64::from(size) * 2048 + (1 << 20);
        let arena_at = ram.alloc(arena_len, 64)?;
        let ring = ram.ring(ring_at, size)?;
        Ok(TxQueue {
            wide: ring.clone().wide().context("a misaligned ring")?,
            ring,
            completions: ram.ring(completions_at, size)?.wide().context("a misaligned ring")?,
            size,
            ring_at,
            completions_at,
            data_at,
            arena_at,
            arena_len,
            arena_head: 0,
            arena_tail: 0,
            burst_at,
            burst: Vec::with_capacity(MAX_TX_PIECE),
            bursts: 0,
            laid: 0,
            laid_at: 0,
            fill: Place::START,
            done: 0,
            completion: Place::START,
            flights: VecDeque::with_capacity(size as usize),
            under_way: 0,
            descriptor,
            index,
        })
    }

    /// Everything as before the first frame, and the queue descriptor filled in.
    pub fn init(&mut self, ram: &Ram, vector: u8) -> Result<()> {
        ram.zero(self.ring_at, self.size as usize * 16)?;
        ram.zero(self.completions_at, self.size as usize * 16)?;
        ram.zero(self.descriptor, queue::LEN as usize)?;
        (self.fill, self.completion, self.done) = (Place::START, Place::START, 0);
        (self.arena_head, self.arena_tail, self.bursts) = (0, 0, 0);
        self.flights.clear();
        self.under_way = 0;
        for (at, address) in [(0, self.ring_at), (8, self.data_at), (16, self.completions_at)] {
            ram.write(self.descriptor + queue::RING + at, &address.to_le_bytes())?;
        }
        for at in [0, 4, 8] {
            ram.write(self.descriptor + queue::COUNTS + at, &self.size.to_le_bytes())?;
        }
        ram.write(self.descriptor + queue::VECTOR, &[vector])?;
        ram.write(self.descriptor + queue::VECTOR + 2, &(DATA_ENTRY as u16).to_le_bytes())
    }

    /// Frames the card has not completed.
    pub fn in_flight(&self) -> usize {
        self.under_way
    }

    /// The descriptor ring and the next place to fill, for those who fill it with rubbish.
    pub fn raw(&mut self) -> (&Ring<4>, &mut Place) {
        (&self.ring, &mut self.fill)
    }

    /// Puts a frame into the ring and announces it; false when there is no room.
    pub fn push(&mut self, ram: &Ram, doorbells: &Region, frame: &TxFrame<'_>) -> Result<bool> {
        let header = frame.header_bytes();
        let rest = |i: usize, p: &[u8]| p.len() - if i == 0 { header } else { 0 };
        let counts = frame.pieces.iter().enumerate().map(|(i, p)| rest(i, p).div_ceil(MAX_TX_PIECE));
        let needed = counts.sum::<usize>() + usize::from(header > 0);
        let bytes: usize = frame.pieces.iter().map(|p| p.len()).sum();
        ensure!(needed > 0, "an empty frame");
        let tso = matches!(frame.offload, Offload::Tso { .. });
        ensure!(tso || needed <= MAX_TX_DESCRIPTORS, "{needed} descriptors, a driver uses no more than 16");
        self.reap()?;
        let arena = self.arena_len - (self.arena_head - self.arena_tail);
        // A piece that does not fit before the arena's end starts at its beginning: that wastes up to a piece.
        if needed as u32 > room(self.fill.at, self.done, self.size) || arena < (bytes + 2 * MAX_TX_PIECE) as u64 {
            return Ok(false);
        }
        self.fill_in(ram, frame, header)?;
        self.announce(ram, doorbells, segments(frame.offload, bytes))?;
        Ok(true)
    }

    fn fill_in(&mut self, ram: &Ram, frame: &TxFrame<'_>, header: usize) -> Result<()> {
        let first = self.fill;
        let mut last = first;
        if header > 0 {
            let at = self.data_at + u64::from(self.fill.at) * DATA_ENTRY as u64;
            ram.write(at, &frame.pieces[0][..header])?;
            last = self.describe(first, at, header);
        }
        for (i, piece) in frame.pieces.iter().enumerate() {
            let rest = if i == 0 { &piece[header..] } else { piece };
            for chunk in rest.chunks(MAX_TX_PIECE) {
                let at = self.arena(chunk.len() as u64);
                ram.write(at, chunk)?;
                last = self.describe(first, at, chunk.len());
            }
        }
        let eop = (1 << 12) | (1 << 13);
        self.ring.store(last.at, 3, eop);
        let (hlen, mode, position) = match frame.offload {
            Offload::None => (0, 0, 0),
            Offload::Csum { start, offset } => (start, 2, start + offset),
            Offload::Tso { header, mss } => (header, 3, mss),
        };
        let tag = frame.tag.map_or(0, |t| u32::from(t.0) << 16 | 1 << 15);
        let end = if first.at == last.at { eop } else { 0 };
        self.ring.store(first.at, 3, end | u32::from(hlen & 0x3ff) | mode << 10 | tag);
        let word2 = self.ring.load(first.at, 2) | u32::from(position & 0x3fff) << 18;
        self.took_off(last.at, 1, false);
        // Last of all the first descriptor turns valid, and with it the frame.
        self.ring.store(first.at, 2, word2 ^ 1 << 14);
        Ok(())
    }

    /// Writes the descriptor at the fill place: valid at once unless it is the frame's first.
    fn describe(&mut self, first: Place, at: u64, len: usize) -> Place {
        let here = self.fill;
        let generation = if here.at == first.at { here.generation ^ 1 } else { here.generation };
        self.ring.store(here.at, 0, at as u32);
        self.ring.store(here.at, 1, (at >> 32) as u32);
        self.ring.store(here.at, 3, 0);
        // A length of 0 stands for 2^14.
        self.ring.store(here.at, 2, (len as u32 & 0x3fff) | generation << 14);
        self.fill.advance(self.size);
        here
    }

    fn arena(&mut self, len: u64) -> u64 {
        let offset = self.arena_head % self.arena_len;
        if offset + len > self.arena_len {
            self.arena_head += self.arena_len - offset;
        }
        let at = self.arena_at + self.arena_head % self.arena_len;
        self.arena_head += len;
        at
    }

    /// As [`TxQueue::push`] for up to `count` copies of one short frame that share one buffer.
    pub fn push_burst(&mut self, ram: &Ram, doorbells: &Region, template: &[u8], count: usize) -> Result<usize> {
        ensure!((1..MAX_TX_PIECE).contains(&template.len()), "a template of {} bytes", template.len());
        self.will_fill(count);
        self.reap()?;
        if self.burst != template {
            if self.bursts > 0 {
                return Ok(0); // the old template is still being read
            }
            self.burst.clear();
            self.burst.extend_from_slice(template);
            ram.write(self.burst_at, template)?;
        }
        let count = count.min(room(self.fill.at, self.done, self.size) as usize);
        // The first last: the card finds all of them or none, and does not read what is being written.
        for (here, slots) in self.fill.runs(&self.wide, count as u32).into_iter().rev() {
            let upper = whole(template.len(), here);
            slots.iter().rev().for_each(|slot| slot.store(self.burst_at, upper));
        }
        self.sent(ram, doorbells, count as u32, true)?;
        Ok(count)
    }

    /// Puts frames where [`TxQueue::push_laid`] finds them; each time anew, and none of them under way then.
    pub fn lay(&mut self, ram: &mut Ram, frames: &[Vec<u8>]) -> Result<()> {
        ensure!(frames.len() <= MAX_LAID, "a vmxnet3 station sends up to {MAX_LAID} different frames");
        ensure!(frames.iter().all(|f| (1..=LAID_BUFFER).contains(&f.len())), "a frame of 1..={LAID_BUFFER} bytes");
        if self.laid_at == 0 {
            self.laid_at = ram.alloc((MAX_LAID * LAID_BUFFER) as u64, 64)?;
        }
        for (frame, at) in frames.iter().zip((self.laid_at..).step_by(LAID_BUFFER)) {
            ram.write(at, frame)?;
        }
        self.laid = frames.len();
        Ok(())
    }

    /// As [`TxQueue::push`] for up to `count` of the frames that lie ready, from number `next` on and round again.
    pub fn push_laid(
        &mut self,
        ram: &Ram,
        doorbells: &Region,
        frames: &[Vec<u8>],
        next: &mut usize,
        count: usize,
    ) -> Result<usize> {
        ensure!(frames.len() == self.laid && *next < self.laid, "not the frames that were laid");
        self.will_fill(count);
        self.reap()?;
        let count = count.min(room(self.fill.at, self.done, self.size) as usize);
        // The first last, as above.
        for n in (0..count).rev() {
            let (here, which) = (self.fill.ahead(n as u32, self.size), (*next + n) % self.laid);
            let at = self.laid_at + (which * LAID_BUFFER) as u64;
            self.wide.store(here.at, at, whole(frames[which].len(), here));
        }
        *next = (*next + count) % self.laid;
        self.sent(ram, doorbells, count as u32, false)?;
        Ok(count)
    }

    /// Goes past `count` frames of a descriptor each that were written from the fill place on, and announces them.
    fn sent(&mut self, ram: &Ram, doorbells: &Region, count: u32, burst: bool) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.took_off(self.fill.at, count, burst);
        self.fill = self.fill.ahead(count, self.size);
        self.announce(ram, doorbells, count)
    }

    fn took_off(&mut self, next: u32, left: u32, burst: bool) {
        self.flights.push_back(Flight { next, left, arena_end: self.arena_head, burst });
        self.under_way += left as usize;
        self.bursts += usize::from(burst);
    }

    /// Counts frames as deferred, and stores to the doorbell when as many wait as the card wants.
    fn announce(&mut self, ram: &Ram, doorbells: &Region, frames: u32) -> Result<()> {
        let control = ram.slice(self.descriptor + queue::CONTROL, 8)?;
        let deferred = control.load_u32(0).unwrap_or(0).saturating_add(frames);
        let threshold = control.load_u32(queue::THRESHOLD as usize).unwrap_or(0);
        let ring = deferred >= threshold;
        control.store_u32(0, if ring { 0 } else { deferred });
        if ring && let Some(register) = doorbells.slice(bar0::TXPROD + self.index * 8, 4) {
            register.store_u32(0, self.fill.at);
        }
        Ok(())
    }

    /// Asks for the descriptors of the next `count` frames, those there is room for.
    fn will_fill(&self, count: usize) {
        let free = room(self.fill.at, self.done, self.size);
        self.wide.prefetch_write(self.fill.at, free.min(count as u32));
    }

    /// Takes completions. They must come in the order of the frames, one for each.
    pub fn reap(&mut self) -> Result<()> {
        loop {
            let mut ready = self.completion.ready(&self.completions);
            if ready.is_empty() {
                return Ok(());
            }
            let count = ready.len();
            while !ready.is_empty() {
                let Some(flight) = self.flights.front_mut() else {
                    bail!("a transmit completion with no frame under way")
                };
                let (mine, rest) = ready.split_at(ready.len().min(flight.left as usize));
                let mut next = flight.next;
                for slot in mine {
                    let (index, word3) = (slot.lower() as u32 & 0xfff, (slot.upper() >> 32) as u32);
                    ensure!(index == next, "transmit completion of descriptor {index}, not {next}");
                    ensure!(word3 >> 24 & 0x7f == 0, "transmit completion of type {}", word3 >> 24 & 0x7f);
                    next = if index + 1 < self.size { index + 1 } else { 0 };
                }
                (self.done, flight.next) = (next, next);
                flight.left -= mine.len() as u32;
                if flight.left == 0 {
                    self.arena_tail = flight.arena_end;
                    self.bursts -= usize::from(flight.burst);
                    self.flights.pop_front();
                }
                ready = rest;
            }
            self.completion = self.completion.ahead(count as u32, self.size);
            self.under_way -= count;
        }
    }
}

/// The upper half of the only descriptor of a frame of `len` bytes, with a completion wanted.
fn whole(len: usize, here: Place) -> u64 {
    let (word2, word3) = (len as u32 | here.generation << 14, 1 << 12 | 1 << 13);
    u64::from(word2) | word3 << 32
}

/// Frames a request makes.
fn segments(offload: Offload, bytes: usize) -> u32 {
    match offload {
        Offload::Tso { header, mss } if mss > 0 => {
            bytes.saturating_sub(usize::from(header)).div_ceil(usize::from(mss)).max(1) as u32
        }
        _ => 1,
    }
}
