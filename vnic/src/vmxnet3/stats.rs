//! The counters a driver reads with GET_STATS.
//!
//! `UPT1_TxStats` and `UPT1_RxStats` of FreeBSD's `if_vmxreg.h`: ten 64-bit counters per queue. A driver takes
//! them as they are (Linux's `vmxnet3_get_stats64` adds the unicast, multicast and broadcast ones), so they go
//! on counting when it restarts the card.

use std::sync::atomic::{AtomicU64, Ordering};

use wire::Mac;

use super::shared_area::{QUEUE_LEN, Words, queue};

/// Counters per queue and direction.
pub const COUNTERS: usize = 10;

/// Indices of the transmit counters.
pub mod tx {
    /// Frames made of segmentation requests; the bytes follow.
    pub const TSO: usize = 0;
    /// Sent to one station; then bytes, then the same for multicast and broadcast.
    pub const UNICAST: usize = 2;
    /// Frames with descriptors that make no sense.
    pub const ERROR: usize = 8;
    /// Frames that are not Ethernet, or too long.
    pub const DISCARD: usize = 9;
}

/// Indices of the receive counters.
pub mod rx {
    /// Large segments that went whole; the bytes follow.
    pub const LARGE: usize = 0;
    /// Frames for which there was no buffer.
    pub const NO_BUFFER: usize = 8;
    /// Frames that did not fit or whose buffer could not be written.
    pub const ERROR: usize = 9;
}

/// Counts of one burst, kept by the worker until it is through.
#[derive(Clone, Debug, Default)]
pub struct Counts([u64; COUNTERS]);

impl Counts {
    /// Adds `n` to counter `index`.
    #[inline]
    pub fn add(&mut self, index: usize, n: u64) {
        self.0[index] += n;
    }

    /// Counts a good frame to `dst` of `bytes` bytes. The six counters lie alike in both directions.
    #[inline]
    pub fn good(&mut self, dst: Mac, bytes: usize) {
        self.good_all(dst, 1, bytes);
    }

    /// The same of `frames` frames of `bytes` bytes together.
    #[inline]
    fn good_all(&mut self, dst: Mac, frames: usize, bytes: usize) {
        let class = match (dst.is_broadcast(), dst.is_group()) {
            (true, _) => 4,
            (false, true) => 2,
            (false, false) => 0,
        };
        self.0[tx::UNICAST + class] += frames as u64;
        self.0[tx::UNICAST + class + 1] += bytes as u64;
    }
}

/// Good frames to one station each, as most are, summed where it costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    frames: u64,
    bytes: u64,
    /// Bytes of those that went to many and are counted already.
    others: u64,
}

impl Sums {
    /// Counts a good frame to `dst` of `bytes` bytes; a group's at once in `counts`.
    #[inline(always)]
    pub fn good(&mut self, dst: Mac, bytes: usize, counts: &mut Counts) {
        if dst.is_group() {
            self.others += bytes as u64;
            counts.good(dst, bytes);
        } else {
            self.frames += 1;
            self.bytes += bytes as u64;
        }
    }

    /// The same of `frames` good frames, all to `dst` and of `bytes` bytes together.
    #[inline(always)]
    pub fn all(&mut self, dst: Mac, frames: usize, bytes: usize, counts: &mut Counts) {
        if dst.is_group() {
            self.others += bytes as u64;
            counts.good_all(dst, frames, bytes);
        } else {
            self.frames += frames as u64;
            self.bytes += bytes as u64;
        }
    }

    /// Adds the sums; returns the bytes of all frames.
    #[inline]
    pub fn add_to(self, counts: &mut Counts) -> usize {
        counts.add(tx::UNICAST, self.frames);
        counts.add(tx::UNICAST + 1, self.bytes);
        (self.bytes + self.others) as usize
    }
}

/// The counters of one queue; any thread may add and read.
#[derive(Debug, Default)]
pub struct QueueStats([AtomicU64; COUNTERS]);

/// Of a transmit queue.
pub type TxStats = QueueStats;
/// Of a receive queue.
pub type RxStats = QueueStats;

impl QueueStats {
    /// Adds a burst's counts.
    #[inline]
    pub fn add(&self, counts: &Counts) {
        for (counter, n) in self.0.iter().zip(counts.0) {
            if n != 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// All to zero: the card is reset.
    pub fn clear(&self) {
        self.0.iter().for_each(|c| c.store(0, Ordering::Relaxed));
    }

    /// Writes the counters into queue descriptor `index`.
    pub fn write(&self, queues: &Words, index: usize) {
        let base = index as u32 * QUEUE_LEN + queue::STATS;
        for (i, counter) in self.0.iter().enumerate() {
            queues.store64(base + i as u32 * 8, counter.load(Ordering::Relaxed));
        }
    }
}
