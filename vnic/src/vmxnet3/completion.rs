//! Receive completions: what the driver is told of a frame.
//!
//! ```text
//!  word 0   index:12 ext:2 eop:1 sop:1 queue:10 rsstype:4 cnc:1 ext:1
//!  word 1   rss hash; of the first of a large segment: segments:8
//!  word 2   len:14 err:1 ts:1 tci:16
//!  word 3   csum:16 tuc:1 udp:1 tcp:1 ipc:1 v6:1 v4:1 frg:1 fcs:1 type:7 gen:1; of a large segment csum is its mss
//! ```
//! Layout: `vmxnet3_rxcompdesc` in FreeBSD's `if_vmxreg.h`; for large segments `Vmxnet3_RxCompDescExt` in Linux's
//! `vmxnet3_defs.h`. Drivers read the number of segments and their size where a frame starts, its hash and
//! checksums where it ends (`vmxnet3_rq_rx_complete` of Linux's `vmxnet3_drv.c`; older ones read the hash at the start).

use dataplane::{Gso, Plan};
use sharedmem::WideRing;

use super::active::Cursor;
use super::checksums::{NO_CSUM, verdict};
use super::rss::Mark;
use super::rx_ring::Buffer;

const END: u32 = 1 << 14;
const START: u32 = 1 << 15;
const KIND_SHIFT: u32 = 26;
const ERROR: u32 = 1 << 14;
const TAG: u32 = 1 << 15;
/// Frame CRC correct: there is none on this wire.
const FCS: u32 = 1 << 23;
/// `VMXNET3_CDTYPE_RXCOMP`.
const TYPE: u32 = 3 << 24;
/// `VMXNET3_CDTYPE_RXCOMP_LRO`.
const TYPE_LARGE: u32 = 4 << 24;

/// A large segment as its driver is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// Frames it would have been cut into.
    segments: u8,
    /// Bytes of TCP payload of each.
    mss: u16,
}

impl Large {
    /// A segment of `len` bytes; `None` when it is not more than one, or more than can be told.
    #[inline]
    pub fn new(gso: Gso, len: usize) -> Option<Large> {
        let payload = len.saturating_sub(gso.header.into());
        let segments = u8::try_from(payload.div_ceil(usize::from(gso.mss).max(1))).ok()?;
        (segments > 1).then_some(Large { segments, mss: gso.mss })
    }
}

/// What there is to say of a frame, beside where it lies.
pub struct Told {
    large: Option<Large>,
    /// Kind and word of the hash.
    mark: Mark,
    no_csum: u32,
    verdict: u32,
    tag: u32,
}

impl Told {
    /// Of the frames of `plan`. `sums` is true when what is known of checksums may be told.
    #[inline]
    pub fn new(plan: &Plan<'_, '_>, sums: bool, mark: Mark, large: Option<Large>) -> Told {
        let (no_csum, verdict) = if sums { verdict(plan) } else { (NO_CSUM, 0) };
        let tag = plan.side_tag().map_or(0, |tag| TAG | u32::from(tag.0) << 16);
        Told { large, mark, no_csum, verdict, tag }
    }

    /// Buffers that could not be written go back.
    pub fn bad() -> Told {
        Told { large: None, mark: Mark::default(), no_csum: NO_CSUM, verdict: 0, tag: 0 }
    }

    /// Writes the completions of one frame, the first buffer's last: a driver that sees it sees the whole frame. When
    /// it is not `good` it carries the error bit.
    #[inline]
    pub fn publish(&self, ring: &WideRing, buffers: &[Buffer], good: bool) {
        let last = buffers.len().saturating_sub(1);
        for (i, buffer) in buffers.iter().enumerate().rev() {
            let start = if i == 0 { START } else { 0 };
            let (end, error) = if i == last { (END, if good { 0 } else { ERROR }) } else { (0, 0) };
            let (mark, kind) = match self.large.filter(|_| i == 0) {
                None => (self.mark, TYPE),
                // The hash's place is taken.
                Some(large) => (Mark { hash: large.segments.into(), kind: 0 }, TYPE_LARGE | u32::from(large.mss)),
            };
            let word0 = buffer.tell | start | end | self.no_csum | u32::from(mark.kind) << KIND_SHIFT;
            let word2 = buffer.used | self.tag | error;
            let word3 = self.verdict | FCS | kind | u32::from(buffer.slot.gen_bit) << 31;
            let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            ring.store(buffer.slot.index, wide(word0, mark.hash), wide(word2, word3));
        }
    }
}

/// The two halves of the completion of a plain frame of `len` bytes in one buffer: nothing is known of its checksums, and
/// it has no tag. `tell` is its descriptor and ring.
#[inline(always)]
pub fn plain(tell: u32, mark: Mark, len: u32, gen_bit: bool) -> (u64, u64) {
    let word0 = tell | START | END | NO_CSUM | u32::from(mark.kind) << KIND_SHIFT;
    let word3 = FCS | TYPE | u32::from(gen_bit) << 31;
    (u64::from(word0) | u64::from(mark.hash) << 32, u64::from(len) | u64::from(word3) << 32)
}

/// Writes a completion for each of `items` from `at` on: both halves, as `halves` makes them of its number, the item and
/// the generation bit. The first one comes last: a driver that polls finds all of them or none, and does not take lines away that are being
/// written.
#[inline(always)]
pub fn publish<T>(ring: &WideRing, at: Cursor, items: &[T], halves: impl Fn(usize, &T, bool) -> (u64, u64)) {
    let mut left = items;
    let runs = at.runs(ring, items.len() as u32);
    for (from, slots) in runs.into_iter().rev() {
        // No ring is shorter than a burst: the runs hold the items.
        let Some((before, mine)) = left.split_at_checked(left.len().saturating_sub(slots.len())) else { return };
        for (n, (slot, item)) in slots.iter().zip(mine).enumerate().rev() {
            let (lower, upper) = halves(before.len() + n, item, from.gen_bit);
            slot.store(lower, upper);
        }
        left = before;
    }
}
