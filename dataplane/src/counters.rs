//! Every frame accounted for.
//!
//! For one port: `in.frames = in.forwarded + drops on the way in`, and
//! `out.offered = out.frames + drops on the way out`. For the whole switch:
//! `sum(in.copies) + sum(out.segments) + sum(out.originated) = sum(out.offered)`, where `copies` counts each
//! destination a forwarded frame was handed to, `segments` the frames a segmentation made beyond the first,
//! and `originated` those of the switch's own making (beacons, notices).

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use sharedmem::Ahead;

use crate::DropReason;

#[derive(Debug, Default)]
struct Shard {
    in_frames: AtomicU64,
    in_bytes: AtomicU64,
    in_forwarded: AtomicU64,
    in_copies: AtomicU64,
    out_offered: AtomicU64,
    out_frames: AtomicU64,
    out_bytes: AtomicU64,
    out_segments: AtomicU64,
    out_originated: AtomicU64,
    in_drops: [AtomicU64; DropReason::COUNT],
    out_drops: [AtomicU64; DropReason::COUNT],
}

/// One port's counters, a shard per worker so that no cache line is written by two.
#[derive(Debug)]
pub struct Counters(Box<[CachePadded<Shard>]>);

/// The sum of a port's shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Frames into the switch.
    pub in_frames: u64,
    /// Bytes of those, tags not counted.
    pub in_bytes: u64,
    /// Of those frames, the ones handed to at least one port.
    pub in_forwarded: u64,
    /// How many ports they were handed to, all together.
    pub in_copies: u64,
    /// Frames handed to this port, after segmentation.
    pub out_offered: u64,
    /// Frames out of the switch.
    pub out_frames: u64,
    /// Bytes of those.
    pub out_bytes: u64,
    /// Frames that segmentation made beyond the ones handed over.
    pub out_segments: u64,
    /// Frames of the switch's own making that were handed to this port.
    pub out_originated: u64,
    /// Drops of frames on their way in, by reason.
    pub in_drops: [u64; DropReason::COUNT],
    /// Drops of frames on their way out, by reason.
    pub out_drops: [u64; DropReason::COUNT],
}

impl PortTotals {
    /// Drops of one reason, both ways.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.in_drops[reason as usize] + self.out_drops[reason as usize]
    }

    /// True when both of the port's sums hold.
    pub fn balanced(&self) -> bool {
        self.in_frames == self.in_forwarded + self.in_drops.iter().sum::<u64>()
            && self.out_offered == self.out_frames + self.out_drops.iter().sum::<u64>()
    }
}

#[inline]
fn add(counter: &AtomicU64, n: u64) {
    // One writer per shard: a plain load and store is enough, and no locked instruction is spent.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// For `workers` workers, and one shard more for the control thread.
    pub fn new(workers: usize) -> Counters {
        Counters((0..=workers.max(1)).map(|_| CachePadded::default()).collect())
    }

    #[inline]
    fn shard(&self, worker: usize) -> &Shard {
        // Without the division, which takes as long as ten other steps: it is there for a number that is none.
        self.0.get(worker).unwrap_or_else(|| &self.0[worker % self.0.len()])
    }

    /// `frames` frames with `bytes` bytes came in, and `forwarded` of them were handed to `copies` ports all together;
    /// call only from worker `worker`, as all below.
    #[inline]
    pub fn count_in(&self, worker: usize, frames: u64, bytes: u64, forwarded: u64, copies: u64) {
        let s = self.shard(worker);
        add(&s.in_frames, frames);
        add(&s.in_bytes, bytes);
        add(&s.in_forwarded, forwarded);
        add(&s.in_copies, copies);
    }

    /// One was dropped on its way in.
    #[inline]
    pub fn count_in_drop(&self, worker: usize, reason: DropReason) {
        add(&self.shard(worker).in_drops[reason as usize], 1);
    }

    /// What a delivery told.
    #[inline]
    pub fn count_out(&self, worker: usize, tally: &Tally) {
        let s = self.shard(worker);
        add(&s.out_frames, tally.frames);
        add(&s.out_bytes, tally.bytes);
        add(&s.out_segments, tally.segments);
        add(&s.out_offered, tally.frames + tally.dropped);
        if tally.dropped > 0 {
            for (counter, n) in s.out_drops.iter().zip(tally.drops) {
                add(counter, n);
            }
        }
    }

    /// What the delivery of a frame of the switch's own making told; call only from the control thread.
    pub fn count_originated(&self, tally: &Tally) {
        let control = self.0.len() - 1;
        self.count_out(control, tally);
        add(&self.0[control].out_originated, tally.frames + tally.dropped);
    }

    /// The sums over all workers.
    pub fn totals(&self) -> PortTotals {
        let mut t = PortTotals::default();
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        for s in &self.0 {
            t.in_frames += get(&s.in_frames);
            t.in_bytes += get(&s.in_bytes);
            t.in_forwarded += get(&s.in_forwarded);
            t.in_copies += get(&s.in_copies);
            t.out_offered += get(&s.out_offered);
            t.out_frames += get(&s.out_frames);
            t.out_bytes += get(&s.out_bytes);
            t.out_segments += get(&s.out_segments);
            t.out_originated += get(&s.out_originated);
            for i in 0..DropReason::COUNT {
                t.in_drops[i] += get(&s.in_drops[i]);
                t.out_drops[i] += get(&s.out_drops[i]);
            }
        }
        t
    }
}

/// What one delivery did, told by the egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    frames: u64,
    bytes: u64,
    segments: u64,
    dropped: u64,
    drops: [u64; DropReason::COUNT],
    /// What the port's next delivery will need.
    ahead: Ahead,
}

impl Tally {
    /// Nothing told yet.
    pub fn new() -> Tally {
        Tally::default()
    }

    /// `n` output frames of one listed frame will be told one by one: n - 1 more than were listed.
    /// Call once for each frame that is segmented, whatever becomes of the segments.
    #[inline]
    pub fn segmented(&mut self, n: u32) {
        self.segments += u64::from(n.saturating_sub(1));
    }

    /// One output frame of `bytes` bytes was written to the port.
    #[inline]
    pub fn delivered(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    /// `frames` output frames of `bytes` bytes in all were written to the port.
    #[inline]
    pub fn delivered_all(&mut self, frames: usize, bytes: usize) {
        self.frames += frames as u64;
        self.bytes += bytes as u64;
    }

    /// The port's next delivery will need these lines.
    #[inline]
    pub fn then(&mut self, ahead: Ahead) {
        self.ahead = ahead;
    }

    /// Asks for what the port said its next delivery will need.
    #[inline]
    pub(crate) fn ask_ahead(&self) {
        self.ahead.ask();
    }

    /// Nothing told any more. What the next delivery will need is so still.
    #[inline]
    pub(crate) fn clear(&mut self) {
        let Tally { frames, bytes, segments, dropped, drops, ahead: _ } = self;
        if *dropped > 0 {
            *drops = [0; DropReason::COUNT];
        }
        (*frames, *bytes, *segments, *dropped) = (0, 0, 0, 0);
    }

    /// One output frame was dropped.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason) {
        self.dropped += 1;
        self.drops[reason as usize] += 1;
    }

    /// Frames delivered so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames dropped so far for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_that_was_cleared_tells_nothing_but_what_is_ahead() {
        let (mut tally, line) = (Tally::new(), 0u64);
        let ahead = Ahead::NONE.and(&line);
        tally.then(ahead);
        // Once with drops and once without, for only those are cleared that there are.
        for reason in [Some(DropReason::RingFull), None, Some(DropReason::NotConnected)] {
            tally.delivered(60);
            tally.delivered_all(3, 180);
            tally.segmented(4);
            reason.into_iter().for_each(|reason| tally.dropped(reason));
            tally.clear();
            assert_eq!(tally, Tally { ahead, ..Tally::new() });
        }
    }
}
