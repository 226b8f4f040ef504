//! The vhost-user transport: a VMM hands over guest memory, rings and eventfds of a virtio card.
//!
//! ```text
//!  VMM --unix socket--> Server (control thread, never blocks) --whole message--> adapter (`vhost` crate) --> Device
//!   (listens, or is listened for)                                                                              |
//!                                                                   memory table, rings --> virtio::Card (workers)
//! ```
//!
//! The `vhost` crate reads and answers messages in blocking calls; [`Server`] makes one only when a whole message lies
//! in the socket and there is room for the answer. Only `adapter.rs` names that crate.

mod adapter;
mod connection;
mod control;
mod device;
mod fault;
mod inflight;
mod memory;
mod rings;
mod server;
mod vring;

pub use device::CardSetup;
pub use server::{Mode, Server};
