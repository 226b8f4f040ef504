//! Receive: what `vmxnet3_rq_init` and `vmxnet3_rq_rx_complete` do, with every assertion of theirs kept.

use anyhow::{Context, Result, bail, ensure};
use sharedmem::{Region, Ring, Slice, WideRing};
use wire::Tag;

use super::buffers::{BufferRing, PAGE};
use super::layout::{Place, RING_ALIGN, bar0, queue};
use crate::soft::{Drained, Ram, Received, Sees};

/// Greatest head buffer Linux uses; longer frames go on in pages.
const MAX_HEAD: u32 = 3072;
/// What stands before the payload at most: Ethernet header, tag and some.
const HEADER: u32 = 22;
/// In word 0 of a completion: the frame ends, and starts; and with them descriptor and ring.
const END: u32 = 1 << 14;
const START: u32 = 1 << 15;
const OF_PLACE: u32 = 0x03ff_cfff;
/// In word 2.
const ERROR: u32 = 1 << 14;
/// Of the upper half: an error, and the type; and what is usual.
const KIND: u64 = ERROR as u64 | 0x7f << 56;
const USUAL_KIND: u64 = 3 << 56;

/// What completions tell of a frame beside what every card tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxFacts {
    /// Number of the receive queue.
    pub queue: u32,
    /// Kind of the hash (`VMXNET3_RCD_RSS_TYPE_*`), 0 for none, and its value.
    pub hash: (u32, u32),
    /// Number of segments and their size, of a large segment.
    pub large: Option<(u32, u32)>,
    /// The frame came in the data ring.
    pub in_data_ring: bool,
}

/// One receive queue.
pub struct RxQueue {
    rings: [BufferRing; 2],
    completions: Ring<4>,
    /// The same, by halves.
    wide: WideRing,
    completions_at: u64,
    completion: Place,
    descriptor: u64,
    index: u32,
    queues: u32,
    started: bool,
    partial: Vec<u8>,
    bytes: u64,
    skipped: u64,
    /// Place and bytes of an entry of the data ring; 0 bytes for none.
    data: (u64, u32),
    facts: RxFacts,
}

/// Why plain frames ended.
enum Stop {
    /// No more are there.
    Empty,
    /// One is of another kind.
    Other,
    /// The ring goes on at its start.
    End,
}

/// A completion, taken apart.
struct Completion {
    words: [u32; 4],
    ring: usize,
    at: u32,
    len: u32,
    end: bool,
    /// Where the bytes are.
    from: u64,
}

impl RxQueue {
    /// A queue whose queue descriptor is at `descriptor`, with buffers for payloads of `mtu` bytes.
    pub fn new(
        ram: &mut Ram,
        (index, queues): (u32, u32),
        descriptor: u64,
        sizes: [u32; 2],
        mtu: u16,
        data_size: u16,
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
        let data_at = ram.alloc(u64::from(first) * u64::from(data_size).max(1), RING_ALIGN)?;
        let completions = ram.ring(completions_at, count)?;
        Ok(RxQueue {
            rings,
            wide: completions.clone().wide().context("a misaligned ring")?,
            completions,
            completions_at,
            completion: Place::START,
            descriptor,
            index,
            queues,
            started: false,
            partial: Vec::with_capacity(1 << 16),
            bytes: 0,
            skipped: 0,
            data: (data_at, data_size.into()),
            facts: RxFacts { queue: index, ..RxFacts::default() },
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
        if self.data.1 > 0 {
            ram.write(self.descriptor + queue::DATA, &self.data.0.to_le_bytes())?;
            ram.write(self.descriptor + queue::DATA_SIZE, &(self.data.1 as u16).to_le_bytes())?;
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

    /// What was told of the last frame that [`RxQueue::pop`] gave.
    pub fn facts(&self) -> RxFacts {
        self.facts
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
            let from = self.partial.len();
            self.partial.resize(from + completion.len as usize, 0);
            ram.read(completion.from, &mut self.partial[from..])?;
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
        let see = &mut |_: Option<Tag>, _: &Slice<'_>, len: usize| {
            total.frames += 1;
            total.bytes += len as u64;
        };
        self.drain_with(doorbells, ram, see)?;
        Ok(total)
    }

    /// As [`RxQueue::drain`], each frame shown to `see`.
    pub fn drain_with<S: Sees + ?Sized>(&mut self, doorbells: &Region, ram: &Ram, see: &mut S) -> Result<()> {
        loop {
            match self.drain_plain(doorbells, ram, see)? {
                Stop::End => {}
                Stop::Other if self.drain_one(doorbells, ram, see)? => {}
                Stop::Other | Stop::Empty => return Ok(()),
            }
        }
    }

    /// Takes a frame of any kind; false when it is not all there.
    #[inline(never)]
    fn drain_one<S: Sees + ?Sized>(&mut self, doorbells: &Region, ram: &Ram, see: &mut S) -> Result<bool> {
        // Where the frame begins: its head, and the bytes of that.
        let mut first = None;
        while let Some(completion) = self.next()? {
            let (from, head) = *first.get_or_insert((completion.from, completion.len));
            self.bytes += u64::from(completion.len);
            if completion.end {
                let (len, tag) = (std::mem::take(&mut self.bytes) as usize, describe(&completion.words)?.tag);
                see(tag, &ram.slice(from, head as usize)?, len);
            }
            if self.finish(&completion, doorbells, ram)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the frames at the front that are plain: whole in the head buffer that comes next in ring 1. All that makes
    /// them so is checked; what is otherwise is left to [`RxQueue::next`], which knows more.
    #[inline]
    fn drain_plain<S: Sees + ?Sized>(&mut self, doorbells: &Region, ram: &Ram, see: &mut S) -> Result<Stop> {
        let buffers = &mut self.rings[0];
        if self.started || buffers.head_every != 1 {
            return Ok(Stop::Other);
        }
        let ready = self.completion.ready(&self.wide);
        if ready.is_empty() {
            return Ok(Stop::Empty);
        }
        // Their descriptors will be written anew.
        buffers.wide.prefetch_write(buffers.fill.at, ready.len() as u32);
        let (size, own) = (buffers.size, START | END | self.index << 16);
        let own_data = START | END | (self.index + 2 * self.queues) << 16;
        let (entry, entries) = (self.data.1, ram.slice(self.data.0, (size * self.data.1) as usize)?);
        let heads = ram.slice(buffers.buffers_at, (u64::from(size) * buffers.stride) as usize)?;
        let (mut expected, mut taken) = (buffers.expected, 0);
        for slot in ready {
            let (upper, word0) = (slot.upper(), slot.lower() as u32 & OF_PLACE);
            let (len, in_data) = (upper as u32 & 0x3fff, entry > 0 && word0 == own_data | expected);
            let (memory, from, room) = match in_data {
                true => (&entries, u64::from(expected * entry), entry),
                false => (&heads, u64::from(expected) * buffers.stride, buffers.head_len),
            };
            let usual = (in_data || word0 == own | expected) && upper & KIND == USUAL_KIND;
            if !usual || len == 0 || len > room {
                break;
            }
            let tag = (upper >> 15 & 1 == 1).then_some(Tag((upper >> 16) as u16));
            see(tag, &memory.sub(from as usize, len as usize).context("a buffer beyond memory")?, len as usize);
            expected = if expected + 1 < size { expected + 1 } else { 0 };
            taken += 1;
        }
        let all = taken == ready.len();
        if taken > 0 {
            self.completion = self.completion.ahead(taken as u32, self.completions.count());
            buffers.expected = expected;
            buffers.done = if expected > 0 { expected - 1 } else { size - 1 };
            buffers.refill();
            if ram.slice(self.descriptor + queue::CONTROL, 1)?.load_u8(0).unwrap_or(0) != 0 {
                self.announce(doorbells);
            }
        }
        Ok(match all {
            false => Stop::Other,
            true if self.completion.at == 0 => Stop::End,
            true => Stop::Empty,
        })
    }

    /// The next completion, checked as the driver's assertions check it.
    fn next(&mut self) -> Result<Option<Completion>> {
        let words = self.completions.read(self.completion.at, 3);
        if words[3] >> 31 != self.completion.generation {
            return Ok(None);
        }
        let (end, start) = (words[0] >> 14 & 1 == 1, words[0] >> 15 & 1 == 1);
        let kind = words[3] >> 24 & 0x7f;
        ensure!(kind == 3 || kind == 4 && start, "receive completion of type {kind}");
        let (at, queue) = (words[0] & 0xfff, words[0] >> 16 & 0x3ff);
        let (ring, data) = match queue {
            q if q == self.index => (0, false),
            q if q == self.index + self.queues => (1, false),
            q if q == self.index + 2 * self.queues && self.data.1 > 0 => (0, true),
            q => bail!("receive completion for ring {q} on queue {}", self.index),
        };
        let (len, error) = (words[2] & 0x3fff, words[2] >> 14 & 1 == 1);
        let buffers = &self.rings[ring];
        ensure!(at < buffers.size, "receive completion of descriptor {at} of {}", buffers.size);
        let (from, capacity) = if data {
            (self.data.0 + u64::from(at * self.data.1), self.data.1)
        } else {
            (buffers.buffer(at), buffers.capacity(at))
        };
        ensure!(len <= capacity, "{len} bytes in a buffer of {capacity}");
        ensure!(start != self.started, "start of frame {start}, inside a frame {}", self.started);
        ensure!(
            start == buffers.is_head(at),
            "start of frame {start} in a buffer that is a head: {}",
            buffers.is_head(at)
        );
        ensure!(!error, "the card reports a receive error");
        ensure!(len > 0 || !start, "an empty frame");
        self.started = !end;
        if start {
            let large = (kind == 4).then_some((words[1] & 0xff, words[3] & 0xffff));
            ensure!(large.is_none_or(|(segments, mss)| segments > 0 && mss > 0), "a large segment of {large:?}");
            self.facts = RxFacts { queue: self.index, large, in_data_ring: data, hash: (0, 0) };
        }
        if end {
            self.facts.hash = (words[0] >> 26 & 0xf, words[1]);
        }
        Ok(Some(Completion { words, ring, at, len, end, from }))
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
