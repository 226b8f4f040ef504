//! A burst from one port through all stages: admit, resolve, deliver, account.

use crate::admit::admit;
use crate::lists::Lists;
use crate::resolve::resolve;
use crate::snapshot::{PortEntry, Role, Snapshot};
use crate::{Burst, DropReason, Sink};

/// Forwards the bursts of one port; lives for one poll.
pub(crate) struct Forwarder<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) from: &'a PortEntry,
    pub(crate) worker: usize,
    pub(crate) lists: &'a mut Lists,
}

impl Sink for Forwarder<'_> {
    fn forward(&mut self, burst: &Burst<'_>) {
        let counters = &self.from.counters;
        let mut bytes = 0u64;
        let (mut forwarded, mut copies) = (0u64, 0u64);
        for (index, frame) in burst.frames().iter().enumerate() {
            bytes += frame.len() as u64;
            if let (Role::Uplink(_), Some(inbox)) = (&self.from.role, self.snapshot.inbox())
                && inbox.wants(frame)
            {
                inbox.hear(self.from.id, burst, frame);
                counters.count_in_drop(self.worker, DropReason::Beacon);
                continue;
            }
            let verdict = admit(self.snapshot, self.from, frame)
                .and_then(|domain| resolve(self.snapshot, self.from, index as u8, frame, domain, self.lists));
            match verdict {
                Ok(n) => {
                    forwarded += 1;
                    copies += u64::from(n);
                }
                Err(reason) => counters.count_in_drop(self.worker, reason),
            }
        }
        for (reason, len) in burst.rejected() {
            bytes += u64::from(*len);
            counters.count_in_drop(self.worker, *reason);
        }
        counters.count_in(self.worker, burst.harvested() as u64, bytes);
        counters.count_forwarded(self.worker, forwarded, copies);
        self.deliver(burst);
    }
}

impl Forwarder<'_> {
    fn deliver(&mut self, burst: &Burst<'_>) {
        let (snapshot, worker) = (self.snapshot, self.worker);
        self.lists.drain(|port, list, tally| {
            let Some(to) = snapshot.port(port) else { return };
            if !list.is_empty() {
                to.egress.deliver(burst, list, tally);
            }
            to.counters.count_out(worker, tally);
        });
    }
}
