//! Buffers of a soft guest, used round and round.

/// Bytes of one buffer.
pub const BUFFER: usize = 2048;
/// Bytes from one buffer to the next, as in DPDK's pools: 64 of the pool's own, 128 of what describes the buffer, 128 left free
/// in front, 2048. An odd number of cache lines, so buffers do not all begin in the same few sets of the cache.
pub const STRIDE: usize = 2368;

/// Bytes of the header before a frame on a virtio card.
pub const HEADER: usize = 12;
/// Where it says how many buffers the frame is in.
pub(super) const NUM_BUFFERS: usize = 10;
/// Bytes of a cache line. A frame begins with one, and the header ends the line before: as with DPDK's driver, which puts the
/// header into the last bytes of those that its pools leave free in front.
pub const LINE: usize = 64;

/// `count` buffers from an offset in the guest's memory on.
pub(super) struct Pool {
    start: usize,
    count: usize,
    next: usize,
}

impl Pool {
    pub(super) fn new(start: usize, count: usize) -> Pool {
        Pool { start, count, next: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where buffer `index` begins, whether there is one or not.
    pub(super) fn place(&self, index: usize) -> usize {
        self.start + index * STRIDE
    }

    /// The next one: its index, and where it begins.
    #[inline]
    pub(super) fn take(&mut self) -> (usize, usize) {
        let index = self.next;
        self.next = if index + 1 < self.count { index + 1 } else { 0 };
        (index, self.place(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_in_turn_and_do_not_overlap() {
        let mut pool = Pool::new(4096, 3);
        let taken: Vec<_> = (0..4).map(|_| pool.take()).collect();
        assert_eq!(taken, [(0, 4096), (1, 4096 + STRIDE), (2, 4096 + 2 * STRIDE), (0, 4096)]);
        assert_eq!((pool.count(), pool.place(2)), (3, 4096 + 2 * STRIDE));
        const { assert!(STRIDE >= BUFFER) };
    }
}
