//! The vhost-user transport: a VMM hands over guest memory, rings and eventfds of a virtio card.
//!
//! ```text
//!  VMM --unix socket--> Server (control thread, never blocks) --whole message--> `vhost` crate --> Device
//!   (listens, or is listened for)                                                                    |
//!                                                                   memory table, rings --> virtio::Card (workers)
//! ```
//!
//! The `vhost` crate reads and answers messages in blocking calls; [`Server`] makes one only when a whole message lies
//! in the socket and there is room for the answer.

mod connection;
mod control;
mod device;
mod inflight;
mod memory;
mod rings;
mod server;
mod vring;

pub use device::CardSetup;
pub use server::{Mode, Server};
