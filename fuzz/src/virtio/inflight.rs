//! Inflight memory, and a switch that takes the rings over by it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sharedmem::{Inflight, Region, SharedPage, inflight_bytes};
use vnic::virtio::{RxState, TxState, Virtqueue, recover, resume};

use super::{BASE, Guest};

/// Bytes of inflight memory, and largest ring.
const BYTES: usize = 0x5000;
const LARGEST: u16 = 256;

thread_local! {
    static MEMORY: Arc<Region> = match SharedPage::new("inflight", BYTES) {
        Ok(page) => page.region().clone(),
        Err(error) => panic!("memory for the inflight descriptors: {error}"),
    };
}

/// The memory, for two rings.
pub(super) fn memory() -> Arc<Region> {
    MEMORY.with(Arc::clone)
}

impl Guest {
    /// The rings begin at `start`.
    pub(super) fn prepare(&self, start: u16) {
        for which in 0..2 {
            // A packed ring that does not begin at its first place was left behind with all of it used.
            for n in 1..=if self.packed() { self.size } else { 0 } {
                let (at, _, used) = self.place(which, start.wrapping_sub(n));
                self.memory.put(BASE + at + 14, &used.to_le_bytes());
            }
            if let Some(kept) = self.inflight(which) {
                kept.prepare();
                kept.settle(start & (self.size - 1), start & self.size == 0);
            }
        }
    }

    /// The VMM writes into it.
    pub(super) fn scribble(&mut self, place: usize, word: u32) {
        self.honest &= !self.packed();
        if let Some(window) = self.kept.slice(place % BYTES, 4) {
            window.write_at(0, &word.to_le_bytes());
        }
    }

    /// The inflight memory of a ring, where it is packed.
    pub(super) fn inflight(&self, which: usize) -> Option<Inflight> {
        let place = (&self.kept, which * inflight_bytes(LARGEST, true));
        Inflight::new(place, LARGEST, true).filter(|_| self.packed())
    }

    /// The switch was killed, and the next one takes the rings over.
    pub(super) fn restart(&mut self) {
        let Some(active) = self.active.clone() else { return };
        let start = |ring: &Virtqueue| match ring {
            Virtqueue::Split(ring) => ring.used_idx(),
            Virtqueue::Packed(ring) => recover(ring).unwrap_or_else(|| resume(ring, 0).0),
        };
        let (Some(tx), Some(rx)) = (active.tx[0].as_ref(), active.rx[0].as_ref()) else { return };
        let (at, before) = (start(&tx.ring), tx.state.next.load(Ordering::Relaxed));
        let rounds = if self.packed() { 2 * self.size - 1 } else { u16::MAX };
        assert!(!self.honest || at == before & rounds, "a ring at rest goes on where it was");
        self.install(Arc::new(TxState::new(at)), Arc::new(RxState::new(start(&rx.ring))));
    }
}
