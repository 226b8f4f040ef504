//! From the switch into the guest's receive rings.
//!
//! Ring 1 holds buffers a frame may start in (HEAD) and, for jumbo frames, buffers that continue one
//! (BODY); ring 2 holds BODY buffers only. A frame takes the next HEAD of ring 1, then the BODYs that follow it there,
//! then BODYs of ring 2; BODYs left over before the next HEAD are skipped, and the driver gives them anew.
//!
//! Descriptors and completion slots are reserved under the queue's lock; the copy is made without it; and
//! as every completion carries its own generation bit, several workers publish in any order: the driver stops at the
//! first one that is not there yet. No slot is used twice meanwhile: the driver gives a descriptor anew only after it
//! read the completion, and there are as many slots as descriptors (where not, see `free_completions`).
//!
//! ```text
//!  descriptor  0,1 address    2  len:14 btype:1 dtype:1 rsvd:15 gen:1
//!  completion  0   index:12 ext:2 eop:1 sop:1 queue:10 rsstype:4 cnc:1 ext:1     1  rss hash
//!              2   len:14 err:1 ts:1 tci:16
//!              3   csum:16 tuc:1 udp:1 tcp:1 ipc:1 v6:1 v4:1 frg:1 fcs:1 type:7 gen:1
//! ```
//! Layout: `vmxnet3_rxdesc` and `vmxnet3_rxcompdesc` in FreeBSD's `if_vmxreg.h`.

use std::sync::{Arc, PoisonError};

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Caps, Delivery, DropReason, Egress, MAX_FRAME_SLICES, Plan, Tally};
use sharedmem::{Access, Hint, Ring, Slice};

use super::active::{Active, Card, Cursor, RxPositions, RxRings};
use super::checksums::{NO_CSUM, verdict};
use super::shared_area::feature;
use super::stats::{Counts, rx as stat};
use super::tx::resolve;

const LEN_MASK: u32 = 0x3fff;
const BODY: u32 = 1 << 14;
const GENERATION: u32 = 1 << 31;

const RCD_END: u32 = 1 << 14;
const RCD_START: u32 = 1 << 15;
const RCD_ERROR: u32 = 1 << 14;
const RCD_TAG: u32 = 1 << 15;
/// Frame CRC correct: there is none on this wire.
const RCD_FCS: u32 = 1 << 23;
/// `VMXNET3_CDTYPE_RXCOMP`.
const RCD_TYPE: u32 = 3 << 24;

/// Most buffers one frame is spread over.
const MAX_BUFFERS: usize = 32;
/// Most left-over BODYs passed on the way to a HEAD; a ring of nothing else must not cost a walk per frame.
const MAX_SKIP: u32 = 64;
/// Buffers reserved at a time.
const BATCH_BUFFERS: usize = 128;
/// Bytes a frame may have beyond the payload size: Ethernet header and two tags.
const OVERHEAD: usize = 14 + 8;
/// Every card takes frames of this payload size, whatever its driver says.
const STANDARD_MTU: u32 = 1500;

/// The receive path of a card.
pub struct RxPath {
    card: Arc<Card>,
}

impl RxPath {
    /// Of `card`.
    pub fn new(card: Arc<Card>) -> RxPath {
        RxPath { card }
    }
}

/// One reserved buffer and the completion that will tell of it.
#[derive(Clone, Copy)]
struct Buffer {
    iova: u64,
    /// Bytes of the frame that go in.
    used: u32,
    /// Word 0 of the completion: descriptor and ring.
    tell: u32,
    slot: Cursor,
}

/// One delivery.
struct Planned<'b, 'm> {
    plan: Plan<'b, 'm>,
    /// The tag is written into the frame.
    inline_tag: bool,
}

/// One output frame with its buffers reserved.
struct Job {
    plan: usize,
    segment: u32,
    first: usize,
    count: usize,
}

/// What is fixed for one call.
struct Path<'a> {
    active: &'a Active,
    rings: &'a RxRings,
    queue: u32,
    longest: usize,
    csum: bool,
}

impl Egress for RxPath {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let guard = self.card.active.load();
        let active = guard.as_ref().filter(|a| !a.run.failed());
        let path = active.and_then(|active| Path::new(active, 0));
        let reason = match &path {
            None => Some(DropReason::NotConnected),
            Some(_) if !self.card.state.link_up() => Some(DropReason::PortBlocked),
            Some(path) if path.faulted() => Some(DropReason::NotConnected),
            Some(_) => None,
        };
        let (Some(path), None) = (path, reason) else {
            list.iter().for_each(|_| tally.dropped(reason.unwrap_or(DropReason::NotConnected)));
            return;
        };
        let mut counts = Counts::default();
        let mut told = false;
        for part in list.chunks(BURST) {
            told |= path.deliver(burst, part, tally, &mut counts);
        }
        self.card.rx_stats[path.queue as usize].add(&counts);
        if let (true, Some(conf)) = (told, path.active.run.conf.rx.get(path.queue as usize)) {
            self.card.notify(path.active, conf.vector);
        }
    }
}

impl<'a> Path<'a> {
    fn new(active: &'a Active, queue: u32) -> Option<Path<'a>> {
        let rings = active.rx.get(queue as usize)?;
        let longest = active.run.conf.mtu.clamp(STANDARD_MTU, 65_535) as usize + OVERHEAD;
        Some(Path { active, rings, queue, longest, csum: active.run.wants(feature::RX_CSUM) })
    }

    fn faulted(&self) -> bool {
        let gone = self.rings.rings.0.faulted() || self.rings.completions.faulted();
        if gone {
            self.active.run.fail();
        }
        gone
    }

    /// Delivers at most a burst; true when any completion was written.
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally, counts: &mut Counts) -> bool {
        let caps = Caps { csum: false, tso: false, tag: self.active.run.wants(feature::RX_VLAN), pad: true };
        let mut plans: ArrayVec<Planned<'_, '_>, BURST> = ArrayVec::new();
        for delivery in list {
            match Plan::new(burst, delivery, caps) {
                Some(plan) => {
                    if plan.count() > 1 {
                        tally.segmented(plan.count());
                    }
                    plans.push(Planned { plan, inline_tag: delivery.tag.is_some() && !caps.tag });
                }
                None => tally.dropped(DropReason::BadDescriptor),
            }
        }
        let mut at = (0, 0);
        let mut told = false;
        let mut jobs: ArrayVec<Job, BURST> = ArrayVec::new();
        let mut buffers: ArrayVec<Buffer, BATCH_BUFFERS> = ArrayVec::new();
        while at.0 < plans.len() {
            self.reserve_batch(&plans, &mut at, &mut jobs, &mut buffers, tally, counts);
            told |= !jobs.is_empty();
            for job in jobs.drain(..) {
                let mine = &buffers[job.first..job.first + job.count];
                self.fill(&plans[job.plan], job.segment, mine, tally, counts);
            }
            buffers.clear();
        }
        told
    }

    /// Reserves buffers for output frames from `at` (plan, segment) on, until a batch is full.
    fn reserve_batch(
        &self,
        plans: &[Planned<'_, '_>],
        at: &mut (usize, u32),
        jobs: &mut ArrayVec<Job, BURST>,
        buffers: &mut ArrayVec<Buffer, BATCH_BUFFERS>,
        tally: &mut Tally,
        counts: &mut Counts,
    ) {
        let Some(lock) = self.active.run.rx.get(self.queue as usize) else { return };
        let mut positions = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Planned { plan, .. }) = plans.get(at.0) {
            if jobs.is_full() || buffers.remaining_capacity() < MAX_BUFFERS {
                return;
            }
            let (index, segment) = *at;
            *at = if segment + 1 < plan.count() { (index, segment + 1) } else { (index + 1, 0) };
            let first = buffers.len();
            match self.reserve(&mut positions, plan.len(segment), buffers) {
                Ok(()) => jobs.push(Job { plan: index, segment, first, count: buffers.len() - first }),
                Err(reason) => {
                    buffers.truncate(first);
                    tally.dropped(reason);
                    let full = reason == DropReason::RingFull;
                    counts.add(if full { stat::NO_BUFFER } else { stat::ERROR }, 1);
                }
            }
        }
    }

    /// Reserves buffers and completion slots for `len` bytes. The positions move only when all are there.
    fn reserve(
        &self,
        positions: &mut RxPositions,
        len: usize,
        buffers: &mut ArrayVec<Buffer, BATCH_BUFFERS>,
    ) -> Result<(), DropReason> {
        if len > self.longest {
            return Err(DropReason::Oversize);
        }
        let free = self.free_completions(positions);
        let mut now = *positions;
        let ring = &self.rings.rings.0;
        let mut desc = self.next(ring, now.rings[0])?;
        let mut skipped = 0;
        while desc[2] & BODY != 0 {
            pass(&mut now, 0, ring.count());
            skipped += 1;
            if skipped == MAX_SKIP {
                *positions = now;
                return Err(DropReason::RingFull);
            }
            desc = self.next(ring, now.rings[0])?;
        }
        let (mut left, first) = (len as u32, buffers.len());
        self.take(&desc, 0, &mut now, &mut left, buffers)?;
        for _ in 1..MAX_BUFFERS {
            if left == 0 {
                break;
            }
            let (desc, which) = self.body(&now)?;
            self.take(&desc, which, &mut now, &mut left, buffers)?;
        }
        if left > 0 {
            return Err(DropReason::Oversize);
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
    fn free_completions(&self, positions: &mut RxPositions) -> usize {
        let rings = [Some(&self.rings.rings.0), self.rings.rings.1.as_ref()];
        let slots = self.rings.completions.count();
        if slots >= rings.iter().flatten().map(|ring| ring.count()).sum() {
            return usize::MAX;
        }
        let mut unread = 0;
        for (which, ring) in rings.into_iter().enumerate() {
            let Some(ring) = ring else { continue };
            let (next, armed, count) = (positions.rings[which], &mut positions.armed[which], ring.count());
            while *armed < count && self.next(ring, next.ahead(*armed, count)).is_ok() {
                *armed += 1;
            }
            unread += count - *armed;
        }
        slots.saturating_sub(unread) as usize
    }

    /// The descriptor at `at`, if the driver has given it.
    #[inline]
    fn next(&self, ring: &Ring<4>, at: Cursor) -> Result<[u32; 4], DropReason> {
        let desc = ring.read(at.index, 2);
        if (desc[2] & GENERATION != 0) == at.gen_bit { Ok(desc) } else { Err(DropReason::RingFull) }
    }

    /// The next buffer that continues a frame: in ring 1 where one follows, else in ring 2.
    fn body(&self, now: &RxPositions) -> Result<([u32; 4], usize), DropReason> {
        if let Ok(desc) = self.next(&self.rings.rings.0, now.rings[0])
            && desc[2] & BODY != 0
        {
            return Ok((desc, 0));
        }
        let second = self.rings.rings.1.as_ref().ok_or(DropReason::Oversize)?;
        let desc = self.next(second, now.rings[1])?;
        if desc[2] & BODY != 0 { Ok((desc, 1)) } else { Err(DropReason::Oversize) }
    }

    /// Takes a descriptor of ring `which` and the next completion slot for the next part of the frame.
    fn take(
        &self,
        desc: &[u32; 4],
        which: usize,
        now: &mut RxPositions,
        left: &mut u32,
        buffers: &mut ArrayVec<Buffer, BATCH_BUFFERS>,
    ) -> Result<(), DropReason> {
        let completions = &self.rings.completions;
        let slot = now.completion;
        let ring = if which == 0 { Some(&self.rings.rings.0) } else { self.rings.rings.1.as_ref() };
        let count = ring.map_or(1, Ring::count);
        let used = (desc[2] & LEN_MASK).min(*left);
        let queues = self.active.run.conf.rx.len() as u32;
        let tell = now.rings[which].index & 0xfff | (self.queue + which as u32 * queues) << 16;
        let iova = u64::from(desc[0]) | u64::from(desc[1]) << 32;
        buffers.try_push(Buffer { iova, used, tell, slot }).map_err(|_| DropReason::Oversize)?;
        pass(now, which, count);
        now.completion.advance(completions.count());
        *left -= used;
        Ok(())
    }

    /// Copies one output frame into its buffers and publishes it.
    fn fill(&self, of: &Planned<'_, '_>, segment: u32, buffers: &[Buffer], tally: &mut Tally, counts: &mut Counts) {
        let plan = &of.plan;
        let mut hint = Hint::default();
        let mut room: ArrayVec<Slice<'_>, MAX_FRAME_SLICES> = ArrayVec::new();
        let found = buffers
            .iter()
            .all(|b| resolve(&self.active.map, &mut hint, b.iova, b.used as usize, Access::Write, &mut room));
        let good = found && plan.write(segment, &room);
        self.publish(of, buffers, good);
        if good {
            tally.delivered(plan.len(segment));
            counts.good(plan.frame().dst(), plan.len(segment));
        } else {
            tally.dropped(DropReason::BadDescriptor);
            counts.add(stat::ERROR, 1);
        }
    }

    /// Writes the completions, the first buffer's last: a driver that sees it sees the whole frame. Buffers that
    /// could not be written go back with the error bit.
    fn publish(&self, of: &Planned<'_, '_>, buffers: &[Buffer], good: bool) {
        // Never for a frame with its tag inline: Linux's driver stops the guest when a completion says TCP and the frame
        // does not start as one.
        let known = good && self.csum && !of.inline_tag;
        let (no_csum, verdict) = if known { verdict(&of.plan) } else { (NO_CSUM, 0) };
        let tag = of.plan.side_tag().map_or(0, |tag| RCD_TAG | u32::from(tag.0) << 16);
        let last = buffers.len().saturating_sub(1);
        let ring = &self.rings.completions;
        for (i, buffer) in buffers.iter().enumerate().rev() {
            let start = if i == 0 { RCD_START } else { 0 };
            let (end, error) = if i == last { (RCD_END, if good { 0 } else { RCD_ERROR }) } else { (0, 0) };
            let slot = buffer.slot;
            ring.store(slot.index, 0, buffer.tell | start | end | no_csum);
            ring.store(slot.index, 1, 0);
            ring.store(slot.index, 2, buffer.used | tag | error);
            ring.store(slot.index, 3, verdict | RCD_FCS | RCD_TYPE | u32::from(slot.gen_bit) << 31);
        }
    }
}

/// Goes past a descriptor of ring `which`.
#[inline]
fn pass(now: &mut RxPositions, which: usize, count: u32) {
    now.rings[which].advance(count);
    now.armed[which] = now.armed[which].saturating_sub(1);
}
