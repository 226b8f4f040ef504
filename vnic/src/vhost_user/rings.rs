//! The rings in force: made anew whenever a message changes what they are made of, and the control queue's commands.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arrayvec::ArrayVec;
use dataplane::RxFilter;

use super::device::Device;
use super::vring::resolve;
use crate::virtio::{Active, MAX_PAIRS, RxQueue, RxState, TxQueueRings, TxState, features};

impl Device {
    /// True when the driver chose packed rings.
    pub(super) fn packed(&self) -> bool {
        self.features & features::RING_PACKED != 0
    }

    /// Puts the rings as they are now in force, and waits until nobody uses the old ones.
    pub(super) fn rebuild(&mut self) {
        let mut active = Active {
            table: self.table.clone(),
            features: self.features,
            tx: Default::default(),
            rx: Default::default(),
            receivers: ArrayVec::new(),
            failed: AtomicU16::new(0),
        };
        let packed = self.packed();
        let implied = self.features & features::PROTOCOL_FEATURES == 0;
        let (mut any, mut queue, mut owed) = (false, None, 0u32);
        let control = features::control_queue(self.features, self.setup.pairs);
        let pairs = self.control.pairs().map_or(MAX_PAIRS, usize::from);
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            if !vring.started || !(vring.enabled || implied) {
                continue;
            }
            let kept = self.inflight.as_ref().and_then(|memory| memory.part(index, packed));
            let Some(ring) = resolve(&self.table, vring, packed, kept.as_ref()) else { continue };
            let crashed = vring.begin(&ring, kept.as_ref(), &self.setup.name, index);
            if Some(index) == control {
                queue = Some((ring, vring.start(packed)));
                continue;
            }
            any = true;
            if crashed {
                owed |= 1 << index;
            }
            let (pair, start) = (index / 2, vring.start(packed));
            if index % 2 == 0 {
                let state = vring.rx.get_or_insert_with(|| Arc::new(RxState::new(start))).clone();
                // Reception is polled: the driver need not say that it gave buffers.
                ring.ask_for_quiet();
                active.rx[pair] = Some(RxQueue { ring, state });
                if pair < pairs {
                    active.receivers.push(pair as u8);
                }
            } else {
                let state = vring.tx.get_or_insert_with(|| Arc::new(TxState::new(start))).clone();
                ring.ask_for_quiet();
                active.tx[pair] = Some(TxQueueRings { ring, state });
            }
        }
        self.control.set_queue(queue);
        let receives = !active.receivers.is_empty();
        let before = self.card.active.swap(any.then(|| Arc::new(active)));
        self.publish_filter(receives);
        self.setup.grace.wake();
        if before.is_some() {
            self.setup.grace.wait();
        }
        // Chains that a switch before us gave back may not have been signalled.
        (0..self.vrings.len()).filter(|index| owed >> index & 1 != 0).for_each(|i| self.setup.interrupts.raise(i));
    }

    /// Offers the port what the guest wants. Where the VMM keeps the control queue to itself that is not known: all that
    /// are for its port, as if it had asked for everything, and it drops what it does not want.
    fn publish_filter(&self, receives: bool) {
        let wanted = if receives { self.control.filter() } else { RxFilter::closed() };
        let before = self.setup.state.filter();
        if **before == wanted {
            return;
        }
        let started = before.mac.is_some();
        self.setup.state.set_filter(wanted);
        if started != receives {
            let word = if receives { "has started" } else { "has stopped" };
            tracing::info!("vNIC {}: the driver {word} the card", self.setup.name);
        }
    }

    /// The descriptor by which the driver signals its control queue.
    pub(super) fn control_kick(&self) -> Option<&Arc<OwnedFd>> {
        self.control.kick()
    }

    /// Carries out what waits in the control queue, a bounded number of commands; true when there are more.
    pub(super) fn serve_control(&mut self) -> bool {
        let pairs = self.control.pairs();
        let Some(served) = self.control.serve(&self.table) else { return false };
        if served.broken {
            tracing::warn!("vNIC {}: its control queue makes no sense and is not looked at any more", self.setup.name);
        }
        if served.commands > 0 {
            if self.control.pairs() != pairs {
                self.rebuild();
            } else if self.setup.state.filter().mac.is_some() {
                self.publish_filter(true);
            }
            if let Some(index) = features::control_queue(self.features, self.setup.pairs) {
                self.setup.interrupts.raise(index);
            }
        }
        served.more
    }
}
