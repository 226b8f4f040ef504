//! Frames for the switch itself (beacons): workers hear them on uplinks, the control thread reads them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use wire::{ETH_HEADER, be16};

use crate::{Burst, Frame, PortId};

/// Most bytes of such a frame that are kept.
pub const HEARD_MAX: usize = 192;
/// Frames that may wait; more are counted and forgotten, as a network would lose them.
const WAITING: usize = 4096;

/// One frame, as it came in.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The uplink it came in by.
    pub uplink: PortId,
    /// Its VLAN, 0 when untagged.
    pub vlan: u16,
    /// When a worker took it from the uplink.
    pub at: Instant,
    /// The untagged frame, its first [`HEARD_MAX`] bytes.
    pub bytes: ArrayVec<u8, HEARD_MAX>,
}

/// The way from the workers to the control thread: bounded, without locks.
pub struct Inbox {
    ethertype: u16,
    queue: ArrayQueue<Heard>,
    lost: AtomicU64,
    announced: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Inbox {
    /// For frames of `ethertype`. `wake` is called by a worker when the first frame after none waits;
    /// it must not block.
    pub fn new(ethertype: u16, wake: impl Fn() + Send + Sync + 'static) -> Inbox {
        Inbox {
            ethertype,
            queue: ArrayQueue::new(WAITING),
            lost: AtomicU64::new(0),
            announced: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// Hands every waiting frame to `each`, oldest first.
    pub fn drain(&self, mut each: impl FnMut(Heard)) {
        // Before the first look: what comes in after it wakes again.
        self.announced.store(false, Ordering::SeqCst);
        for _ in 0..WAITING {
            match self.queue.pop() {
                Some(heard) => each(heard),
                None => break,
            }
        }
    }

    /// Frames lost because the control thread did not keep up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// True when `frame` is for the switch itself.
    #[inline]
    pub(crate) fn wants(&self, frame: &Frame) -> bool {
        be16(frame.head(), ETH_HEADER - 2) == Some(self.ethertype)
    }

    /// Takes in a frame heard on `uplink`.
    pub(crate) fn hear(&self, uplink: PortId, burst: &Burst<'_>, frame: &Frame) {
        let mut buffer = [0; HEARD_MAX];
        let n = burst.copy_frame(frame, &mut buffer);
        let mut bytes = ArrayVec::new();
        // Cannot fail: the buffer has the vector's capacity.
        let _ = bytes.try_extend_from_slice(&buffer[..n]);
        let vlan = frame.tag().map_or(0, |t| t.vid());
        if self.queue.push(Heard { uplink, vlan, at: Instant::now(), bytes }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if !self.announced.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
    }
}
