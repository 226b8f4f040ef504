//! The control queue of a connection: its ring, its kick, and what the driver has asked for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use dataplane::RxFilter;
use sharedmem::MemTable;

use super::device::CardSetup;
use crate::virtio::Virtqueue;
use crate::virtio::control::{Served, Wishes, serve};

/// The control queue, while the driver has one with us.
pub(super) struct Control {
    wishes: Wishes,
    queue: Option<Virtqueue>,
    /// The next position, once the ring has begun.
    next: Option<u16>,
    kick: Option<Arc<OwnedFd>>,
}

impl Control {
    /// Before the driver has said anything.
    pub(super) fn new(setup: &CardSetup) -> Control {
        Control { wishes: wishes(setup, 0), queue: None, next: None, kick: None }
    }

    /// The driver starts anew, with these features.
    pub(super) fn begin(&mut self, setup: &CardSetup, features: u64) {
        (self.wishes, self.queue, self.next) = (wishes(setup, features), None, None);
    }

    /// The ring as it is now, `None` while it does not run; it begins at `start` if it has not yet.
    pub(super) fn set_queue(&mut self, queue: Option<(Virtqueue, u16)>) {
        self.queue = queue.map(|(queue, start)| {
            self.next.get_or_insert(start);
            queue
        });
    }

    /// The ring stops; returns where it is, if it had begun.
    pub(super) fn take_position(&mut self) -> Option<u16> {
        self.queue = None;
        self.next.take()
    }

    /// The ring is told another start.
    pub(super) fn forget_position(&mut self) {
        self.next = None;
    }

    /// The descriptor by which the driver signals; false when it is none for that. The control thread waits on it, so
    /// only the kernel's own kind will do: asking others whether they are readable may mean to wait for somebody's server.
    pub(super) fn set_kick(&mut self, kick: Option<OwnedFd>) -> bool {
        if kick.as_ref().is_some_and(|fd| !is_eventfd(fd)) {
            return false;
        }
        self.kick = kick.map(Arc::new);
        true
    }

    /// The descriptor to watch.
    pub(super) fn kick(&self) -> Option<&Arc<OwnedFd>> {
        self.kick.as_ref()
    }

    /// Carries out what waits; `None` where the queue does not run.
    pub(super) fn serve(&mut self, table: &MemTable) -> Option<Served> {
        let served = serve(self.queue.as_ref()?, table, self.next?, &mut self.wishes);
        self.next = Some(served.next);
        if served.broken {
            self.queue = None;
        }
        Some(served)
    }

    /// Receive queues that the driver wants used, where it has a say.
    pub(super) fn pairs(&self) -> Option<u16> {
        self.wishes.pairs()
    }

    /// What the driver wants to receive.
    pub(super) fn filter(&self) -> RxFilter {
        self.wishes.filter()
    }
}

fn wishes(setup: &CardSetup, features: u64) -> Wishes {
    Wishes::new(features, setup.mac, setup.pairs as u16)
}

fn is_eventfd(fd: &OwnedFd) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::readlink(link, Vec::new()).is_ok_and(|name| name.as_bytes() == b"anon_inode:[eventfd]")
}
