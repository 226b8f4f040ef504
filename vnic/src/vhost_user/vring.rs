//! A ring as the VMM describes it, and where that lies.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use sharedmem::{Inflight, MemTable, PackedRing, SplitRing};

use crate::virtio::{RxState, TxState, Virtqueue, base, position, recover, resume};

/// One ring as the VMM described it so far.
#[derive(Clone, Default)]
pub(super) struct Vring {
    /// Descriptors.
    pub(super) size: u16,
    /// Descriptors, driver area, device area: addresses of the VMM's.
    pub(super) places: Option<[u64; 3]>,
    /// Where it starts, as the VMM says it: an index, in a packed ring with the wrap counter.
    pub(super) base: u16,
    /// A kick descriptor came: the ring runs.
    pub(super) started: bool,
    /// The driver wants it.
    pub(super) enabled: bool,
    /// How far it has come, if it is a transmit queue.
    pub(super) tx: Option<Arc<TxState>>,
    /// Likewise for a receive queue.
    pub(super) rx: Option<Arc<RxState>>,
}

/// The rings of `vring` in guest memory, when all of them lie in it; a packed one with what the VMM keeps of it.
pub(super) fn resolve(table: &MemTable, vring: &Vring, packed: bool, inflight: Option<&Inflight>) -> Option<Virtqueue> {
    let [desc, avail, used] = vring.places?;
    let n = u64::from(vring.size);
    let place = |address: u64, len: u64| {
        let (region, offset, rest) = table.user(address)?;
        (len <= rest).then_some((region, offset))
    };
    if packed {
        let ring = PackedRing::new(vring.size, place(desc, 16 * n)?, place(avail, 4)?, place(used, 4)?)?;
        return Some(ring.with_inflight(inflight.cloned()).into());
    }
    let ring = SplitRing::new(vring.size, place(desc, 16 * n)?, place(avail, 6 + 2 * n)?, place(used, 6 + 8 * n)?)?;
    Some(ring.into())
}

impl Vring {
    /// The position it starts at.
    pub(super) fn start(&self, packed: bool) -> u16 {
        if packed { position(self.size, self.base) } else { self.base }
    }

    /// What the VMM is told of `position`: in a packed ring twice, what is available and what is used, for both are at
    /// the same place while the ring is at rest (vhost-user protocol, "Vring state").
    pub(super) fn told(&self, position: u16, packed: bool) -> (u16, u32) {
        if !packed {
            return (position, position.into());
        }
        let base = base(self.size, position);
        (base, u32::from(base) << 16 | u32::from(base))
    }

    /// Ring number `index` of the vNIC `name` starts: behind the last entry that the driver was given back. That is where
    /// we stop, and where it is to go on after a switch that crashed, whatever base is told then: QEMU takes the
    /// index from the ring as we do, but DPDK says 0. (A packed ring has no index in it: there QEMU tells the base of long
    /// ago. Inflight memory, where the VMM keeps it, tells best, else the descriptors tell better.)
    ///
    /// True when the ring was left by a crash, as inflight memory or a gap in it shows: the driver may wait for a signal that
    /// it was owed.
    pub(super) fn begin(&mut self, ring: &Virtqueue, inflight: Option<&Inflight>, name: &str, index: usize) -> bool {
        if self.rx.is_some() || self.tx.is_some() {
            return false;
        }
        let mut owed = false;
        let mut known = inflight.is_some_and(Inflight::ready);
        let left = match ring {
            Virtqueue::Split(ring) => ring.used_idx(),
            Virtqueue::Packed(ring) => {
                let start = recover(ring);
                known &= start.is_some();
                let start = start.unwrap_or_else(|| {
                    let (start, gap) = resume(ring, position(self.size, self.base));
                    owed |= gap;
                    start
                });
                base(self.size, start)
            }
        };
        if left != self.base {
            tracing::info!("vNIC {name}: ring {index} goes on at {left}, where it was left, not at {}", self.base);
            self.base = left;
        }
        if let Some(inflight) = inflight {
            if !known {
                inflight.prepare();
            }
            match ring {
                Virtqueue::Split(_) => inflight.set_split(left),
                Virtqueue::Packed(_) => inflight.settle(left & 0x7fff, left & 0x8000 != 0),
            }
        }
        known || owed
    }
}

/// An eventfd that a worker may write or read without waiting.
pub(super) fn quiet(file: File) -> OwnedFd {
    let fd = OwnedFd::from(file);
    if let Ok(flags) = rustix::fs::fcntl_getfl(&fd) {
        let _ = rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK);
    }
    fd
}
