//! A vfio-user server: how a VMM finds a card in another process.
//!
//! ```text
//!            one per vNIC, all on the control thread
//!  path.sock --- Listener --accept--> Connection --whole messages--> Session --+--> version, regions, irqs, dma
//!   (socket.rs)                        | ^ answers                 (session.rs) |
//!                                      | +--------------------------------------+--> DeviceModel, Interrupts
//!  Server (server.rs): one descriptor to watch, one call to make
//! ```
//!
//! # The life of a message
//! 1. [`Server::ready`] finds the connection readable. The header is received to its exact length, checked
//!    (size, type), then the rest; descriptors that came along are kept with it. A message in pieces waits
//!    for its other pieces; what cannot be a message ends the connection.
//! 2. [`Session::handle`] serves it. Whatever is wrong with it is answered with a true errno, and the
//!    stream stays in step, because a message is always whole.
//! 3. Answers wait in the connection. At the end of a batch (64 messages) the card has the newest DMA map
//!    and the workers have let go of what was unmapped ([`Session::settle`]); then the answers are sent.
//! 4. What the socket does not take stays in the connection, up to a bound past which the VMM is cut off.
//!
//! Nothing here is on the path of a frame. A VMM that maps a card's BAR page and shares its memory
//! sends no message at all while frames flow; [`MessageCounters`] shows it.
//!
//! # What a card's model must do
//! [`DeviceModel::set_map`](crate::device::DeviceModel::set_map) may see several changes as one: memory that
//! was unmapped and mapped again at the same place within a batch. A model therefore looks its rings up
//! afresh in each map it is given, and does not keep those of the map before.
//!
//! Facts: the vfio-user specification (QEMU's `docs/interop/vfio-user.rst`), `<linux/vfio.h>`, and what QEMU's
//! and rust-vmm's clients send.

mod dma;
mod irqs;
mod message;
mod regions;
mod server;
mod session;
mod socket;
mod version;

pub use message::{Command, HEADER, Header, MAX_DATA, MAX_FDS, MAX_MESSAGE, MessageCounters, Outgoing};
pub use server::{Progress, Server};
pub use session::{Card, Session};
pub(crate) use socket::Listener;
pub use socket::{BindError, MAX_PATH};

use rustix::io::Errno;

/// Why a message was refused: the errno for the VMM, and words for the log where they help.
#[derive(Debug)]
pub(crate) struct Fault {
    errno: Errno,
    reason: Option<String>,
}

impl Fault {
    fn new(errno: Errno, reason: impl Into<String>) -> Fault {
        Fault { errno, reason: Some(reason.into()) }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault { errno, reason: None }
    }
}
