//! What is at the outer end of a vNIC: the rest of the runtime need not know its kind.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use dataplane::{Egress, Ingress};
use uplink::netlink::LinkEvent;
use uplink::{Tap, Uplink};
use vnic::vfio_user::{self, Progress};
use vnic::vhost_user;

/// The outer end of a vNIC port.
pub(super) enum Attachment {
    /// A VMM with a vmxnet3 or vlance card.
    VfioUser(Box<vfio_user::Server>),
    /// A VMM with a virtio card.
    VhostUser(vhost_user::Server),
    /// A Linux interface: the switch's end of a veth pair.
    Netdev(Uplink),
    /// A tap interface, with the switch at the other end of its wire.
    Tap(Tap),
}

impl Attachment {
    /// What the event loop watches for it.
    pub(super) fn fd(&self) -> Option<RawFd> {
        match self {
            Attachment::VfioUser(server) => Some(server.as_raw_fd()),
            Attachment::VhostUser(server) => Some(server.as_raw_fd()),
            Attachment::Netdev(_) | Attachment::Tap(_) => None,
        }
    }

    /// Serves what is there.
    pub(super) fn ready(&mut self) -> Progress {
        match self {
            Attachment::VfioUser(server) => server.ready(),
            Attachment::VhostUser(server) => server.ready(),
            Attachment::Netdev(_) | Attachment::Tap(_) => Progress::Idle,
        }
    }

    /// Frees a worker that its VMM holds up, and cuts that VMM off.
    pub(super) fn free_worker(&mut self) -> bool {
        match self {
            Attachment::VfioUser(server) => server.free_worker(),
            Attachment::VhostUser(server) => server.free_worker(),
            Attachment::Netdev(_) | Attachment::Tap(_) => false,
        }
    }

    /// Path of its socket.
    pub(super) fn socket(&self) -> Option<String> {
        match self {
            Attachment::VfioUser(server) => Some(server.path().display().to_string()),
            Attachment::VhostUser(server) => Some(server.path().display().to_string()),
            Attachment::Netdev(_) | Attachment::Tap(_) => None,
        }
    }

    /// Messages its socket has carried.
    pub(super) fn messages(&self) -> Option<u64> {
        match self {
            Attachment::VfioUser(server) => Some(server.messages().total()),
            Attachment::VhostUser(server) => Some(server.messages()),
            Attachment::Netdev(_) | Attachment::Tap(_) => None,
        }
    }

    /// The queues towards the switch (once), and the way out.
    pub(super) fn halves(&mut self) -> (Vec<Box<dyn Ingress>>, Arc<dyn Egress>) {
        match self {
            Attachment::VfioUser(server) => {
                let model = server.model_mut();
                (model.ingress(), model.egress())
            }
            Attachment::VhostUser(server) => (server.ingress(), server.egress()),
            Attachment::Netdev(device) => (device.ingress(), device.egress()),
            Attachment::Tap(tap) => (tap.ingress(), tap.egress()),
        }
    }

    /// The Linux interface it is, if it is one.
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Attachment::Netdev(device) => Some(device.device()),
            Attachment::Tap(tap) => Some(tap.device()),
            _ => None,
        }
    }

    /// Takes note of a change of some interface.
    pub(super) fn handle(&mut self, event: &LinkEvent) {
        match self {
            Attachment::Netdev(device) => device.handle(event),
            Attachment::Tap(tap) => tap.handle(event),
            _ => {}
        }
    }

    /// Looks how an interface is of which no message tells, as it may be in another namespace.
    pub(super) fn look(&mut self) {
        if let Attachment::Tap(tap) = self {
            tap.look();
        }
    }
}
