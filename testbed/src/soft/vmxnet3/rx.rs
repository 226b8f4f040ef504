//! Receive: what `vmxnet3_rq_init` and `vmxnet3_rq_rx_complete` do, with every assertion of theirs kept.

use anyhow::{Result, bail, ensure};
use sharedmem::{Region, Ring};
use wire::Tag;

use super::layout::{Place, RING_ALIGN, bar0, queue, room};
use crate::soft::{Drained, Ram, Received};

/// Greatest head buffer Linux uses; longer frames go on in pages.
const MAX_HEAD: u32 = 3072;
/// What stands before the payload at most: Ethernet header, tag and some.
const HEADER: u32 = 22;
const PAGE: u32 = 4096;
const BODY: u32 = 1 << 14;

struct BufferRing {
    ring: Ring<4>,
    ring_at: u64,
    buffers_at: u64,
    /// Bytes from one buffer to the next.
    stride: u64,
    size: u32,
    /// Every so many descriptors one of type "head"; 0 for none.
    head_every: u32,
    head_len: u32,
    fill: Place,
    done: u32,
    /// Next descriptor the card is to use, when it skips none.
    expected: u32,
}

impl BufferRing {
    fn new(ram: &mut Ram, size: u32, head_every: u32, head_len: u32) -> Result<BufferRing> {
        ensure!(size > 0 && size.is_multiple_of(32) && size <= 4096, "{size} receive descriptors");
        let stride = u64::from(if head_every == 1 { head_len.next_multiple_of(64) } else { PAGE });
        let ring_at = ram.alloc(u64::from(size) * 16, RING_ALIGN)?;
        let buffers_at = ram.alloc(u64::from(size) * stride, 4096)?;
        let (fill, done, expected) = (Place::START, 0, 0);
        let ring = ram.ring(ring_at, size)?;
        Ok(BufferRing { ring, ring_at, buffers_at, stride, size, head_every, head_len, fill, done, expected })
    }

    fn is_head(&self, index: u32) -> bool {
        self.head_every > 0 && index.is_multiple_of(self.head_every)
    }

    fn capacity(&self, index: u32) -> u32 {
        if self.is_head(index) { self.head_len } else { PAGE }
    }

    fn buffer(&self, index: u32) -> u64 {
        self.buffers_at + u64::from(index) * self.stride
    }

    /// Gives the card all buffers but one.
    fn init(&mut self, ram: &Ram) -> Result<()> {
        ram.zero(self.ring_at, self.size as usize * 16)?;
        (self.fill, self.done, self.expected) = (Place::START, 0, 0);
        for index in 0..self.size {
            let at = self.buffer(index);
            self.ring.store(index, 0, at as u32);
            self.ring.store(index, 1, (at >> 32) as u32);
            self.ring.store(index, 2, self.capacity(index) | if self.is_head(index) { 0 } else { BODY });
        }
        self.refill();
        Ok(())
    }

    fn refill(&mut self) -> u32 {
        let count = room(self.fill.at, self.done, self.size);
        for _ in 0..count {
            let here = self.fill;
            let word = self.ring.load(here.at, 2) & 0x7fff_ffff;
            self.ring.store(here.at, 2, word | here.generation << 31);
            self.fill.advance(self.size);
        }
        count
    }
}

/// One receive queue.
pub struct RxQueue {
    rings: [BufferRing; 2],
    completions: Ring<4>,
    completions_at: u64,
    completion: Place,
    descriptor: u64,
    index: u32,
    queues: u32,
    started: bool,
    partial: Vec<u8>,
    bytes: u64,
    skipped: u64,
}

/// A completion, taken apart.
struct Completion {
    words: [u32; 4],
    ring: usize,
    at: u32,
    len: u32,
    end: bool,
}

impl RxQueue {
    /// A queue whose queue descriptor is at `descriptor`, with buffers for payloads of `mtu` bytes.
    pub fn new(
        ram: &mut Ram,
        (index, queues): (u32, u32),
        descriptor: u64,
        sizes: [u32; 2],
        mtu: u16,
    ) -> Result<RxQueue> {
        let frame = u32::from(mtu) + HEADER;
        let (head_every, head_len) = match frame.checked_sub(MAX_HEAD) {
            None | Some(0) => (1, frame.max(128)),
            Some(rest) => (1 + rest.div_ceil(PAGE), MAX_HEAD),
        };
        // Whole frames must fit the ring, or a head would follow a head at its end.
        let first = sizes[0].next_multiple_of(head_every * 32);
        let rings = [BufferRing::new(ram, first, head_every, head_len)?, BufferRing::new(ram, sizes[1], 0, 0)?];
        let count = rings[0].size + rings[1].size;
        let completions_at = ram.alloc(u64::from(count) * 16, RING_ALIGN)?;
        Ok(RxQueue {
            rings,
            completions: ram.ring(completions_at, count)?,
            completions_at,
            completion: Place::START,
            descriptor,
            index,
            queues,
            started: false,
            partial: Vec::with_capacity(1 << 16),
            bytes: 0,
            skipped: 0,
        })
    }

    /// Gives the card all buffers and fills the queue descriptor in.
    pub fn init(&mut self, ram: &Ram, vector: u8) -> Result<()> {
        for ring in &mut self.rings {
            ring.init(ram)?;
        }
        let count = self.completions.count();
        ram.zero(self.completions_at, count as usize * 16)?;
        ram.zero(self.descriptor, queue::LEN as usize)?;
        (self.completion, self.started, self.bytes) = (Place::START, false, 0);
        self.partial.clear();
        let places = [self.rings[0].ring_at, self.rings[1].ring_at, self.completions_at];
        for (i, (address, count)) in places.into_iter().zip([self.rings[0].size, self.rings[1].size, count]).enumerate()
        {
            ram.write(self.descriptor + queue::RING + 8 * i as u64, &address.to_le_bytes())?;
            ram.write(self.descriptor + queue::COUNTS + 4 * i as u64, &count.to_le_bytes())?;
        }
        ram.write(self.descriptor + queue::VECTOR, &[vector])
    }

    /// Announces the buffers, as a driver does after it has started the card.
    pub fn announce(&self, doorbells: &Region) {
        for (ring, register) in self.rings.iter().zip([bar0::RXPROD, bar0::RXPROD2]) {
            if let Some(register) = doorbells.slice(register + self.index as usize * 8, 4) {
                register.store_u32(0, ring.fill.at);
            }
        }
    }

    /// Buffers the card passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The descriptor rings, for those who fill them with rubbish.
    pub fn raw(&self) -> [&Ring<4>; 2] {
        [&self.rings[0].ring, &self.rings[1].ring]
    }

    /// The next frame, if it is there.
    pub fn pop(&mut self, ram: &Ram, doorbells: &Region) -> Result<Option<Received>> {
        while let Some(completion) = self.next()? {
            let buffer = self.rings[completion.ring].buffer(completion.at);
            let from = self.partial.len();
            self.partial.resize(from + completion.len as usize, 0);
            ram.read(buffer, &mut self.partial[from..])?;
            let end = self.finish(&completion, doorbells, ram)?;
            if end {
                let mut received = describe(&completion.words)?;
                received.bytes = std::mem::take(&mut self.partial);
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// Takes all frames that are there, unread.
    pub fn drain(&mut self, doorbells: &Region, ram: &Ram) -> Result<Drained> {
        let mut total = Drained::default();
        while let Some(completion) = self.next()? {
            self.bytes += u64::from(completion.len);
            if self.finish(&completion, doorbells, ram)? {
                total.frames += 1;
                total.bytes += std::mem::take(&mut self.bytes);
            }
        }
        Ok(total)
    }

    /// The next completion, checked as the driver's assertions check it.
    fn next(&mut self) -> Result<Option<Completion>> {
        let words = self.completions.read(self.completion.at, 3);
        if words[3] >> 31 != self.completion.generation {
            return Ok(None);
        }
        let kind = words[3] >> 24 & 0x7f;
        ensure!(kind == 3, "receive completion of type {kind}");
        let (at, queue) = (words[0] & 0xfff, words[0] >> 16 & 0x3ff);
        let ring = match queue {
            q if q == self.index => 0,
            q if q == self.index + self.queues => 1,
            q => bail!("receive completion for ring {q} on queue {}", self.index),
        };
        let (end, start) = (words[0] >> 14 & 1 == 1, words[0] >> 15 & 1 == 1);
        let (len, error) = (words[2] & 0x3fff, words[2] >> 14 & 1 == 1);
        let buffers = &self.rings[ring];
        ensure!(at < buffers.size, "receive completion of descriptor {at} of {}", buffers.size);
        ensure!(len <= buffers.capacity(at), "{len} bytes in a buffer of {}", buffers.capacity(at));
        ensure!(start != self.started, "start of frame {start}, inside a frame {}", self.started);
        ensure!(
            start == buffers.is_head(at),
            "start of frame {start} in a buffer that is a head: {}",
            buffers.is_head(at)
        );
        ensure!(!error, "the card reports a receive error");
        ensure!(len > 0 || !start, "an empty frame");
        self.started = !end;
        Ok(Some(Completion { words, ring, at, len, end }))
    }

    /// Gives buffers back up to the one before the completed one; true at the end of a frame.
    fn finish(&mut self, completion: &Completion, doorbells: &Region, ram: &Ram) -> Result<bool> {
        let ring = &mut self.rings[completion.ring];
        let jumped = (completion.at + ring.size - ring.expected) % ring.size;
        ensure!(jumped < ring.size / 2, "descriptor {} completed, {} expected", completion.at, ring.expected);
        self.skipped += u64::from(jumped);
        ring.expected = (completion.at + 1) % ring.size;
        ring.done = completion.at;
        ring.refill();
        let wants = ram.slice(self.descriptor + queue::CONTROL, 1)?.load_u8(0).unwrap_or(0);
        if wants != 0 {
            self.announce(doorbells);
        }
        self.completion.advance(self.completions.count());
        Ok(completion.end)
    }
}

/// What the last completion of a frame says of it.
fn describe(words: &[u32; 4]) -> Result<Received> {
    let bit = |n: u32| words[3] >> n & 1 == 1;
    let unknown = words[0] >> 30 & 1 == 1;
    let (udp, tcp, v6, v4, fragment) = (bit(17), bit(18), bit(20), bit(21), bit(22));
    let ok = !unknown && ((v4 && bit(16) && bit(19)) || (v6 && bit(16)));
    ensure!(!ok || tcp || udp, "a right checksum of neither TCP nor UDP");
    ensure!(!ok || !fragment, "a right checksum of a fragment");
    let tag = (words[2] >> 15 & 1 == 1).then_some(Tag((words[2] >> 16) as u16));
    Ok(Received { bytes: Vec::new(), tag, csum_ok: ok, csum_unknown: unknown || (!ok && words[3] & 0xffff == 0) })
}
