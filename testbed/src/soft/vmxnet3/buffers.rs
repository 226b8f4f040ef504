//! The rings of receive buffers: what `vmxnet3_rq_init` and `vmxnet3_rq_alloc_rx_buf` do.

use anyhow::{Context, Result, ensure};
use sharedmem::{Ring, WideRing};

use super::layout::{Place, RING_ALIGN, room};
use crate::soft::Ram;

/// Bytes of a buffer that goes on with a frame.
pub(super) const PAGE: u32 = 4096;
/// In a descriptor: it is such a buffer.
const BODY: u32 = 1 << 14;

/// One of the two rings of a receive queue, and its buffers.
pub(super) struct BufferRing {
    pub(super) ring: Ring<4>,
    /// The same, by halves.
    pub(super) wide: WideRing,
    pub(super) ring_at: u64,
    pub(super) buffers_at: u64,
    /// Bytes from one buffer to the next.
    pub(super) stride: u64,
    pub(super) size: u32,
    /// Every so many descriptors one of type "head"; 0 for none.
    pub(super) head_every: u32,
    pub(super) head_len: u32,
    pub(super) fill: Place,
    pub(super) done: u32,
    /// Next descriptor the card is to use, when it skips none.
    pub(super) expected: u32,
}

impl BufferRing {
    /// A ring of `size` descriptors: see the fields.
    pub(super) fn new(ram: &mut Ram, size: u32, head_every: u32, head_len: u32) -> Result<BufferRing> {
        ensure!(size > 0 && size.is_multiple_of(32) && size <= 4096, "{size} receive descriptors");
        let stride = u64::from(if head_every == 1 { head_len.next_multiple_of(64) } else { PAGE });
        let ring_at = ram.alloc(u64::from(size) * 16, RING_ALIGN)?;
        let buffers_at = ram.alloc(u64::from(size) * stride, 4096)?;
        let (fill, done, expected) = (Place::START, 0, 0);
        let ring: Ring<4> = ram.ring(ring_at, size)?;
        let wide = ring.clone().wide().context("a misaligned ring")?;
        Ok(BufferRing { ring, wide, ring_at, buffers_at, stride, size, head_every, head_len, fill, done, expected })
    }

    pub(super) fn is_head(&self, index: u32) -> bool {
        self.head_every == 1 || self.head_every > 0 && index.is_multiple_of(self.head_every)
    }

    pub(super) fn capacity(&self, index: u32) -> u32 {
        if self.is_head(index) { self.head_len } else { PAGE }
    }

    pub(super) fn buffer(&self, index: u32) -> u64 {
        self.buffers_at + u64::from(index) * self.stride
    }

    /// Word 2 of a descriptor without its generation.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.capacity(index) | if self.is_head(index) { 0 } else { BODY }
    }

    /// Gives the card all buffers but one.
    pub(super) fn init(&mut self, ram: &Ram) -> Result<()> {
        ram.zero(self.ring_at, self.size as usize * 16)?;
        (self.fill, self.done, self.expected) = (Place::START, 0, 0);
        for index in 0..self.size {
            let at = self.buffer(index);
            self.ring.store(index, 0, at as u32);
            self.ring.store(index, 1, (at >> 32) as u32);
            self.ring.store(index, 2, self.word(index));
        }
        self.refill();
        Ok(())
    }

    pub(super) fn refill(&mut self) {
        let here = self.fill;
        let plain = (self.head_every == 1).then(|| self.word(0));
        let count = room(here.at, self.done, self.size);
        for (here, slots) in here.runs(&self.wide, count) {
            for (at, slot) in (here.at..).zip(slots) {
                let word = plain.unwrap_or_else(|| self.word(at)) | here.generation << 31;
                slot.store(self.buffer(at), word.into());
            }
        }
        self.fill = here.ahead(count, self.size);
    }
}
