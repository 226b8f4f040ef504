//! The virtio network card, as the device side sees it through vhost-user: queues and nothing else.
//!
//! Registers, configuration space and interrupts are the VMM's; it hands over guest memory, the places of the rings and
//! eventfds ([`crate::vhost_user`]). What a frame passes:
//!
//! ```text
//!  guest's TX queue (odd)  --TxQueue: walk chain, header -> Offload--> Burst --> (data path)
//!       used entries of the burst published once, one notification if the driver wants it
//!  (data path) --RxPath: claim positions (one compare-and-swap), copy, publish in order--> guest's RX queue (even)
//!
//!  vhost_user::Device (control thread) --ArcSwap--> Active: memory table, rings ; positions live on in each queue's state
//! ```
//!
//! Facts are from the virtio 1.2 specification: sections 2.7 (split rings), 2.8 (packed rings) and 5.1 (network device).

mod card;
mod chain;
mod claims;
pub mod control;
#[cfg(test)]
mod crash_tests;
mod fast;
pub mod features;
mod fill;
mod lone;
mod packed;
mod recover;
mod reserve;
mod ring;
mod rx;
#[cfg(test)]
mod test_driver;
mod tx;

pub use card::{Active, Card, MAX_PAIRS, RxQueue, RxState, TxQueueRings, TxState};
pub use recover::{base, position, recover, resume};
pub use ring::Virtqueue;
pub use rx::RxPath;
pub use tx::TxQueue;
