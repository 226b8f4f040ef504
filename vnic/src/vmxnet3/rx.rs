//! From the switch into the guest's receive rings.
//!
//! With receive side scaling each frame's hash picks its queue; else all go to the first. Descriptors and completion
//! slots are reserved under the queue's lock; the copy is made without it; and as every completion carries its own
//! generation bit, several workers publish in any order: the driver stops at the first one that is not there yet. No
//! slot is used twice meanwhile: the driver gives a descriptor anew only after it read the completion, and there are
//! as many slots as descriptors (where not, `rx_ring` counts them).
//!
//! A TCP segment larger than the wire's goes whole to a driver that takes such (LRO), with the size of its parts.

use std::sync::{Arc, PoisonError};

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Caps, Delivery, DropReason, Egress, GsoKind, MAX_FRAME, MAX_FRAME_SLICES, Plan, Tally};
use sharedmem::{Access, Hint, Slice};

use super::active::{Active, Card, RxRings};
use super::completion::{Large, Told};
use super::moderation::Work;
use super::rss::{Mark, Rss};
use super::rx_ring::{BATCH_BUFFERS, Buffer, MAX_BUFFERS};
use super::shared_area::feature;
use super::stats::{Counts, rx as stat};
use super::tx::resolve;

/// Bytes a frame may have beyond the payload size: Ethernet header and two tags.
const OVERHEAD: usize = 14 + 8;
/// Every card takes frames of this payload size, whatever its driver says.
const STANDARD_MTU: u32 = 1500;
/// Buffers of one large segment when the driver does not say how many it takes: one and `MAX_SKB_FRAGS`, which is what
/// Linux's driver says when it starts with LRO (and not when it is turned on later).
const LARGE_BUFFERS: usize = 18;
/// The revision that tells of large segments.
const LARGE_REVISION: u8 = 2;

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

/// One delivery.
struct Planned<'b, 'm> {
    plan: Plan<'b, 'm>,
    mark: Mark,
    /// It goes whole.
    large: Option<Large>,
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

/// What is fixed for one call and queue.
pub(super) struct Path<'a> {
    pub(super) active: &'a Active,
    pub(super) rings: &'a RxRings,
    pub(super) queue: u32,
    pub(super) longest: usize,
    csum: bool,
    /// Tags are taken out of frames.
    tags: bool,
    /// Most buffers of a large segment; 0 when the driver takes none.
    large: usize,
}

impl Egress for RxPath {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let guard = self.card.active.load();
        let refusal = match guard.as_ref().filter(|a| !a.run.failed()) {
            None => DropReason::NotConnected,
            Some(_) if !self.card.state.link_up() => DropReason::PortBlocked,
            Some(active) => {
                return match &active.rss {
                    None => self.deliver_to(active, 0, burst, list, &[], tally),
                    Some(rss) => self.spread(active, rss, burst, list, tally),
                };
            }
        };
        list.iter().for_each(|_| tally.dropped(refusal));
    }
}

impl RxPath {
    /// Every frame to the queue that its hash picks.
    fn spread(&self, active: &Active, rss: &Rss, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        for part in list.chunks(BURST) {
            let mut picks: ArrayVec<(u8, Mark), BURST> = ArrayVec::new();
            let mut used = 0u32;
            for delivery in part {
                let head = burst.frames().get(delivery.index()).map_or(&[][..], |frame| frame.head());
                let pick = rss.queue(head);
                used |= 1 << (pick.0 & 31);
                picks.push(pick);
            }
            while used != 0 {
                let queue = used.trailing_zeros();
                used &= used - 1;
                let mine = part.iter().zip(&picks).filter(|(_, pick)| u32::from(pick.0) == queue);
                let (list, marks): (ArrayVec<Delivery, BURST>, ArrayVec<Mark, BURST>) =
                    mine.map(|(delivery, pick)| (*delivery, pick.1)).unzip();
                self.deliver_to(active, queue, burst, &list, &marks, tally);
            }
        }
    }

    /// Delivers to one queue; `marks` are the frames' hashes, as far as there are any.
    #[inline]
    fn deliver_to(
        &self,
        active: &Active,
        queue: u32,
        burst: &Burst<'_>,
        list: &[Delivery],
        marks: &[Mark],
        tally: &mut Tally,
    ) {
        let Some(path) = Path::new(active, queue).filter(|path| !path.faulted()) else {
            return list.iter().for_each(|_| tally.dropped(DropReason::NotConnected));
        };
        let mut counts = Counts::default();
        let mut told = 0;
        for (n, part) in list.chunks(BURST).enumerate() {
            let marks = marks.get(n * BURST..).unwrap_or(&[]);
            told += path.deliver_all(burst, part, marks, tally, &mut counts);
        }
        self.card.rx_stats[queue as usize].add(&counts);
        if let (true, Some(conf)) = (told > 0, active.run.conf.rx.get(queue as usize)) {
            self.card.tell(active, conf.vector, Work::Received(told));
        }
    }
}

impl<'a> Path<'a> {
    #[inline]
    fn new(active: &'a Active, queue: u32) -> Option<Path<'a>> {
        let rings = active.rx.get(queue as usize)?;
        let (run, conf) = (&active.run, &active.run.conf);
        let longest = conf.mtu.clamp(STANDARD_MTU, 65_535) as usize + OVERHEAD;
        // A driver that does not want to hear of checksums would find those of large segments wrong.
        let csum = run.wants(feature::RX_CSUM);
        let large = match usize::from(conf.max_pieces) {
            _ if !csum || conf.revision < LARGE_REVISION || !run.wants(feature::LRO) => 0,
            0 | 1 => LARGE_BUFFERS,
            most => most.min(MAX_BUFFERS),
        };
        Some(Path { active, rings, queue, longest, csum, tags: run.wants(feature::RX_VLAN), large })
    }

    fn faulted(&self) -> bool {
        let gone = self.rings.rings.0.faulted() || self.rings.completions.faulted();
        if gone {
            self.active.run.fail();
        }
        gone
    }

    /// Delivers at most a burst, by the fast lane what it takes; returns the number of frames that the driver finds.
    fn deliver_all(
        &self,
        burst: &Burst<'_>,
        list: &[Delivery],
        marks: &[Mark],
        tally: &mut Tally,
        counts: &mut Counts,
    ) -> u32 {
        let (mut at, mut told) = (0, 0);
        while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
            let after = |at: usize| marks.get(at..).unwrap_or(&[]);
            let done = self.deliver_plain(burst, rest, after(at), tally, counts);
            (at, told) = (at + done, told + done as u32);
            // What the fast lane does not take stays in its place in the order.
            let Some(stuck) = list.get(at..).filter(|rest| !rest.is_empty()) else { break };
            let upto = stuck.iter().skip(1).position(|d| burst.plain(d).is_some()).map_or(stuck.len(), |n| n + 1);
            let upto = if done == 0 { stuck.len() } else { upto };
            told += self.deliver(burst, &stuck[..upto], after(at), tally, counts);
            at += upto;
        }
        told
    }

    /// Delivers at most a burst; returns the number of frames that the driver finds.
    fn deliver(
        &self,
        burst: &Burst<'_>,
        list: &[Delivery],
        marks: &[Mark],
        tally: &mut Tally,
        counts: &mut Counts,
    ) -> u32 {
        let mut plans: ArrayVec<Planned<'_, '_>, BURST> = ArrayVec::new();
        for (n, delivery) in list.iter().enumerate() {
            match self.plan(burst, delivery, marks.get(n).copied().unwrap_or_default()) {
                Some(planned) => {
                    if planned.plan.count() > 1 {
                        tally.segmented(planned.plan.count());
                    }
                    plans.push(planned);
                }
                None => tally.dropped(DropReason::BadDescriptor),
            }
        }
        let mut at = (0, 0);
        let mut hint = Hint::default();
        let mut told = 0;
        let mut jobs: ArrayVec<Job, BURST> = ArrayVec::new();
        let mut buffers: ArrayVec<Buffer, BATCH_BUFFERS> = ArrayVec::new();
        while at.0 < plans.len() {
            self.reserve_batch(&plans, &mut at, &mut jobs, &mut buffers, tally, counts);
            told += jobs.len() as u32;
            for job in jobs.drain(..) {
                let mine = &buffers[job.first..job.first + job.count];
                self.fill(&plans[job.plan], job.segment, mine, &mut hint, tally, counts);
            }
            buffers.clear();
        }
        told
    }

    /// How a delivery is carried out; `None` when it names no frame.
    #[inline]
    fn plan<'b, 'm>(&self, burst: &'b Burst<'m>, delivery: &Delivery, mark: Mark) -> Option<Planned<'b, 'm>> {
        let frame = burst.frames().get(delivery.index())?;
        let inline_tag = delivery.tag().is_some() && !self.tags;
        // Linux's driver does not find the headers of a large segment behind a tag; of UDP it can be told nothing.
        let tcp = frame.offload().gso.filter(|gso| gso.kind == GsoKind::Tcp);
        let large = tcp.filter(|_| self.large > 0 && !inline_tag);
        let large = large.and_then(|gso| Large::new(gso, frame.len()));
        let caps = Caps { csum: false, tso: large.is_some(), uso: false, tag: self.tags, pad: true };
        Some(Planned { plan: Plan::new(burst, delivery, caps)?, mark, large, inline_tag })
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
        let taker = self.taker();
        let mut positions = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Planned { plan, large, .. }) = plans.get(at.0) {
            if jobs.is_full() || buffers.remaining_capacity() < MAX_BUFFERS {
                return;
            }
            let (index, segment) = *at;
            *at = if segment + 1 < plan.count() { (index, segment + 1) } else { (index + 1, 0) };
            let (longest, most) = if large.is_some() { (MAX_FRAME, self.large) } else { (self.longest, MAX_BUFFERS) };
            let (first, len) = (buffers.len(), plan.len(segment));
            let reserved = if len > longest {
                Err(DropReason::Oversize)
            } else {
                taker.reserve(&mut positions, len, most, buffers)
            };
            match reserved {
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

    /// Copies one output frame into its buffers and publishes it.
    fn fill(
        &self,
        of: &Planned<'_, '_>,
        segment: u32,
        buffers: &[Buffer],
        hint: &mut Hint,
        tally: &mut Tally,
        counts: &mut Counts,
    ) {
        let plan = &of.plan;
        let mut room: ArrayVec<Slice<'_>, MAX_FRAME_SLICES> = ArrayVec::new();
        let found =
            buffers.iter().all(|b| resolve(&self.active.map, hint, b.iova, b.used as usize, Access::Write, &mut room));
        if found && plan.write(segment, &room) {
            let len = plan.len(segment);
            // Never of sums for a frame with its tag inline: Linux's driver stops the guest when a completion says TCP
            // and the frame does not start as one.
            let told = Told::new(plan, self.csum && !of.inline_tag, of.mark, of.large);
            told.publish(&self.rings.completions, buffers, true);
            tally.delivered(len);
            counts.good(plan.frame().dst(), len);
            if of.large.is_some() {
                counts.add(stat::LARGE, 1);
                counts.add(stat::LARGE + 1, len as u64);
            }
        } else {
            Told::bad().publish(&self.rings.completions, buffers, false);
            tally.dropped(DropReason::BadDescriptor);
            counts.add(stat::ERROR, 1);
        }
    }
}
