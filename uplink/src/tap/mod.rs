//! Tap interfaces: a network card for a container or namespace, with the switch at the other end of its wire.
//!
//! ```text
//!   process in a namespace --> web1 (tap) --> kernel's queue --read()--> buffers --Ingress::poll--> Burst --> ports
//!                                                                                     other ports' memory
//!   process in a namespace <-- web1 (tap) <------------- writev([header, head, sender's memory]) <--/
//! ```
//!
//! The switch holds the interface by its descriptors, one for each queue, and needs its name only to make it: the
//! interface may be renamed and moved to another network namespace. Checksums and segmentation that either side left
//! undone are told by the header before each frame ([`dataplane::VnetHeader`]).
//!
//! # One copy each way
//!
//! The system calls copy. A frame is read into buffers that are forwarded from, and written from the sender's memory,
//! whatever that is: nothing is copied in between.
//!
//! # When the interface goes
//!
//! It is deleted by its user, or with the namespace it is in. The port is then not connected, and the interface is made
//! anew, where the switch is, every [`REMAKE`].

mod device;
mod rx;
mod tx;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use dataplane::{Egress, Grace, Ingress, PortState};
use wire::Mac;

use self::device::Condition;
use crate::OpenError;
use crate::netlink::LinkEvent;

/// How long after an interface went a new one is made in its place.
pub const REMAKE: Duration = Duration::from_secs(2);

/// How a tap interface is to be.
#[derive(Clone, Copy, Debug)]
pub struct TapSetup {
    /// Its address.
    pub mac: Mac,
    /// Its payload size in bytes, when the switch makes it.
    pub mtu: u16,
    /// Queues, at least 1.
    pub queues: usize,
}

/// One life of an interface: its queues.
struct Life {
    /// Tells one life from the next.
    generation: u64,
    queues: Vec<Arc<OwnedFd>>,
    /// The kernel takes datagrams under one UDP header.
    uso: bool,
}

/// What the control half and the worker halves share.
struct Shared {
    /// `None` while there is no interface.
    life: ArcSwapOption<Life>,
    state: Arc<PortState>,
}

/// A tap interface as the control thread holds it.
pub struct Tap {
    name: String,
    device: String,
    setup: TapSetup,
    grace: Grace,
    shared: Arc<Shared>,
    /// Those that were not given away yet.
    queues: Vec<rx::Queue>,
    /// When the next attempt to make the interface is due, while there is none.
    due: Option<Instant>,
    /// What stood in the way of the last attempt.
    trouble: Option<String>,
    /// Times it was made or taken.
    opened: u64,
}

impl Tap {
    /// Makes the interface `device` for port `name`, or takes one that exists and is in nobody's use (a persistent one).
    /// `state` says from now on whether it exists (connected) and is up (link). An interface that is made is down until
    /// its user sets it up.
    ///
    /// # Errors
    /// [`OpenError`], one sentence.
    pub fn open(
        name: &str,
        device: &str,
        setup: TapSetup,
        state: Arc<PortState>,
        grace: Grace,
    ) -> Result<Tap, OpenError> {
        let shared = Arc::new(Shared { life: ArcSwapOption::empty(), state });
        let (name, device) = (name.to_owned(), device.to_owned());
        let mut tap =
            Tap { name, device, setup, grace, shared, queues: Vec::new(), due: None, trouble: None, opened: 0 };
        tap.shared.state.set_connected(false);
        tap.shared.state.set_link_up(false);
        let queue = |index| rx::Queue::new(tap.shared.clone(), index);
        let queues = (0..setup.queues).map(queue).collect::<std::io::Result<_>>();
        tap.queues = queues.map_err(|error| OpenError::System { device: tap.device.clone(), error })?;
        tap.start()?;
        Ok(tap)
    }

    /// The interface's name, as it is made; its user may have changed it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The queues towards the switch; each may be polled by another worker. They stay valid while interfaces come and
    /// go. A second call gives none.
    pub fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        self.queues.drain(..).map(|queue| Box::new(queue) as Box<dyn Ingress>).collect()
    }

    /// The way out; any number of times.
    pub fn egress(&self) -> Arc<dyn Egress> {
        Arc::new(tx::Transmitter::new(self.shared.clone()))
    }

    /// Takes note of a change of some interface in the switch's namespace.
    pub fn handle(&mut self, event: &LinkEvent) {
        if event.name == self.device {
            self.look();
        }
    }

    /// Looks how the interface is, wherever it is; to be called from time to time, as no message tells of changes in
    /// other namespaces. Makes a new one when it has been gone for [`REMAKE`].
    pub fn look(&mut self) {
        let Some(life) = self.shared.life.load_full() else { return self.remake() };
        let condition = life.queues.first().and_then(|fd| device::condition(fd.as_fd()));
        if condition == Some(Condition::Gone) {
            drop(life);
            self.stop();
            self.due = Some(Instant::now() + REMAKE);
            tracing::warn!("vNIC {}: tap interface {} is gone", self.name, self.device);
        } else if let Some(condition) = condition {
            let up = condition == Condition::Up;
            if up != self.shared.state.link_up() {
                self.shared.state.set_link_up(up);
                self.grace.wake();
            }
        }
    }

    fn remake(&mut self) {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        match self.start() {
            Ok(()) => tracing::info!("vNIC {}: tap interface {} was made anew", self.name, self.device),
            Err(error) => {
                self.due = Some(Instant::now() + REMAKE);
                let trouble = error.to_string();
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("vNIC {}: {trouble}", self.name);
                }
                self.trouble = Some(trouble);
            }
        }
    }

    fn start(&mut self) -> Result<(), OpenError> {
        let device::Opened { queues, uso } = device::open(&self.device, &self.setup)?;
        (self.due, self.trouble) = (None, None);
        self.opened += 1;
        let queues = queues.into_iter().map(Arc::new).collect();
        self.shared.life.store(Some(Arc::new(Life { generation: self.opened, queues, uso })));
        self.shared.state.set_connected(true);
        self.look();
        self.grace.wake();
        Ok(())
    }

    /// Takes the descriptors away from the workers, waits until they have let go, and closes them here.
    fn stop(&mut self) {
        self.shared.state.set_connected(false);
        self.shared.state.set_link_up(false);
        if let Some(old) = self.shared.life.swap(None) {
            // A sleeper waits on the old descriptors.
            self.grace.wake();
            self.grace.wait();
            drop(old);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop();
    }
}
