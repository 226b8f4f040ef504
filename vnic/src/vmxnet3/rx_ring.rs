//! Reserving receive buffers.
//!
//! Ring 1 holds buffers a frame may start in (HEAD) and, for jumbo frames, buffers that continue one
//! (BODY); ring 2 holds BODY buffers only. A frame takes the next HEAD of ring 1, then the BODYs that follow it there,
//! then BODYs of ring 2; BODYs left over before the next HEAD are skipped, and the driver gives them anew. A frame that
//! fits an entry of the data ring goes there instead of into its HEAD, which the driver keeps.
//!
//! ```text
//!  descriptor  0,1 address    2  len:14 btype:1 dtype:1 rsvd:15 gen:1    3  reserved
//! ```
//! Layout: `vmxnet3_rxdesc` in FreeBSD's `if_vmxreg.h`; the data ring: `vmxnet3_rq_rx_complete` of Linux's
//! `vmxnet3_drv.c`.

use arrayvec::ArrayVec;
use dataplane::DropReason;
use sharedmem::WideRing;

use super::active::{Cursor, RxPositions, RxRings};

const LEN_MASK: u32 = 0x3fff;
const BODY: u32 = 1 << 14;
const GENERATION: u32 = 1 << 31;

/// Most buffers one frame is spread over.
pub const MAX_BUFFERS: usize = 32;
/// Most left-over BODYs passed on the way to a HEAD; a ring of nothing else must not cost a walk per frame.
const MAX_SKIP: u32 = 64;
/// Buffers reserved at a time.
pub const BATCH_BUFFERS: usize = 128;

/// One reserved buffer and the completion that will tell of it.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Where it is.
    pub iova: u64,
    /// Bytes of the frame that go in.
    pub used: u32,
    /// Word 0 of the completion: descriptor and ring.
    pub tell: u32,
    /// The completion.
    pub slot: Cursor,
}

/// A descriptor that is the device's.
#[derive(Clone, Copy)]
struct Desc {
    iova: u64,
    word: u32,
}

/// A queue's rings, to take buffers from.
pub struct Taker<'a> {
    /// The rings.
    pub rings: &'a RxRings,
    /// Number of the queue.
    pub queue: u32,
    /// Number of queues: what completions call rings depends on it.
    pub queues: u32,
}

/// Goes past a descriptor of ring `which`.
#[inline]
fn pass(now: &mut RxPositions, which: usize, count: u32) {
    now.rings[which].advance(count);
    now.armed[which] = now.armed[which].saturating_sub(1);
}

/// The descriptor at `at`, if the driver has given it.
#[inline]
fn next(ring: &WideRing, at: Cursor) -> Result<Desc, DropReason> {
    let word = ring.upper(at.index) as u32;
    if (word & GENERATION != 0) == at.gen_bit {
        Ok(Desc { iova: ring.lower(at.index), word })
    } else {
        Err(DropReason::RingFull)
    }
}

/// The length of the buffer whose descriptor has this upper half, when the driver has given it, and a frame may start in
/// it.
#[inline(always)]
pub fn head(upper: u64, gen_bit: bool) -> Option<u32> {
    let word = upper as u32;
    (word & (GENERATION | BODY) == u32::from(gen_bit) << 31).then_some(word & LEN_MASK)
}

impl Taker<'_> {
    /// True when the completion ring has a slot for every descriptor: then none has to be counted.
    #[inline]
    pub fn has_plenty(&self) -> bool {
        let second = self.rings.rings.1.as_ref().map_or(0, WideRing::count);
        self.rings.completions.count() >= self.rings.rings.0.count() + second
    }

    /// What a completion calls descriptor `index` of ring `which`: 0, 1, or 2 for the data ring.
    #[inline]
    pub fn tell(&self, which: u32, index: u32) -> u32 {
        index & 0xfff | (self.queue + which * self.queues) << 16
    }

    /// Reserves at most `most` buffers, and completions, for `len` bytes. The positions move only when all are there.
    #[inline]
    pub fn reserve(
        &self,
        positions: &mut RxPositions,
        len: usize,
        most: usize,
        buffers: &mut ArrayVec<Buffer, BATCH_BUFFERS>,
    ) -> Result<(), DropReason> {
        let free = self.free_completions(positions);
        let mut now = *positions;
        let ring = &self.rings.rings.0;
        let mut desc = next(ring, now.rings[0])?;
        let mut skipped = 0;
        while desc.word & BODY != 0 {
            pass(&mut now, 0, ring.count());
            skipped += 1;
            if skipped == MAX_SKIP {
                *positions = now;
                return Err(DropReason::RingFull);
            }
            desc = next(ring, now.rings[0])?;
        }
        let (mut left, first) = (len as u32, buffers.len());
        match self.rings.data.filter(|data| left <= data.size) {
            None => self.take(desc, 0, &mut now, &mut left, buffers)?,
            Some(data) => {
                let index = now.rings[0].index;
                let entry = Desc { iova: data.iova + u64::from(index) * u64::from(data.size), word: left };
                self.take(entry, 2, &mut now, &mut left, buffers)?;
            }
        }
        while left > 0 {
            if buffers.len() - first >= most {
                return Err(DropReason::Oversize);
            }
            let (desc, which) = self.body(&now)?;
            self.take(desc, which, &mut now, &mut left, buffers)?;
        }
        if buffers.len() - first > free {
            return Err(DropReason::RingFull);
        }
        *positions = now;
        Ok(())
    }

    /// Completions that may be written before the driver has read any: no end to them when the completion ring has a
    /// slot for every descriptor. Where it has not (no known driver does that), what is not the device's
    /// counts as a completion unread.
    #[inline]
    fn free_completions(&self, positions: &mut RxPositions) -> usize {
        let rings = [Some(&self.rings.rings.0), self.rings.rings.1.as_ref()];
        if self.has_plenty() {
            return usize::MAX;
        }
        let slots = self.rings.completions.count();
        let mut unread = 0;
        for (which, ring) in rings.into_iter().enumerate() {
            let Some(ring) = ring else { continue };
            let (at, armed, count) = (positions.rings[which], &mut positions.armed[which], ring.count());
            while *armed < count && next(ring, at.ahead(*armed, count)).is_ok() {
                *armed += 1;
            }
            unread += count - *armed;
        }
        slots.saturating_sub(unread) as usize
    }

    /// The next buffer that continues a frame: in ring 1 where one follows, else in ring 2.
    fn body(&self, now: &RxPositions) -> Result<(Desc, usize), DropReason> {
        if let Ok(desc) = next(&self.rings.rings.0, now.rings[0])
            && desc.word & BODY != 0
        {
            return Ok((desc, 0));
        }
        let second = self.rings.rings.1.as_ref().ok_or(DropReason::Oversize)?;
        let desc = next(second, now.rings[1])?;
        if desc.word & BODY != 0 { Ok((desc, 1)) } else { Err(DropReason::Oversize) }
    }

    /// Takes a buffer and the next completion slot for the next part of the frame. `which` is its ring: 0, 1, or 2
    /// for the data ring, whose entries belong to the descriptors of ring 1.
    #[inline]
    fn take(
        &self,
        desc: Desc,
        which: usize,
        now: &mut RxPositions,
        left: &mut u32,
        buffers: &mut ArrayVec<Buffer, BATCH_BUFFERS>,
    ) -> Result<(), DropReason> {
        let slot = now.completion;
        let (ring, of) = match &self.rings.rings {
            (_, Some(second)) if which == 1 => (second, 1),
            (first, _) => (first, 0),
        };
        let used = (desc.word & LEN_MASK).min(*left);
        let tell = self.tell(which as u32, now.rings[of].index);
        let buffer = Buffer { iova: desc.iova, used, tell, slot };
        buffers.try_push(buffer).map_err(|_| DropReason::Oversize)?;
        pass(now, of, ring.count());
        now.completion.advance(self.rings.completions.count());
        *left -= used;
        Ok(())
    }
}
