//! Uplinks: ports of the switch that are Linux network interfaces.
//!
//! A frame from the wire is written by the kernel into a slot of the receive ring; a worker finds the slot
//! full, hands the data path a window onto it, and gives the slot back when the copies are made. A frame to
//! the wire is copied into a slot of the transmit ring, and one `send` per burst tells the kernel to look.
//!
//! ```text
//!  NIC --> kernel --> RX ring slot --Ingress::poll--> Burst --> (data path) --> other ports
//!                     [hdr|vnet|frame]                  window onto the slot; free after forward()
//!
//!  other ports --> (data path) --Egress::deliver--> TX ring slot --send()--> kernel --> NIC
//!                                reserve (locked), copy, publish     finishes checksums, cuts segments
//!
//!  netlink --> LinkMonitor --LinkEvent--> Uplink::handle --> PortState (connected, link)
//!  (control thread)                                     \--> new rings swapped in, old ones dropped after Grace
//! ```
//!
//! The control thread owns [`Uplink`] and [`netlink::LinkMonitor`]; workers own what [`Uplink::ingress`] and
//! [`Uplink::egress`] gave. Both halves see the rings through one `ArcSwapOption`: an interface that goes away
//! leaves `None` there, and one that comes back under the same name leaves new rings.
//!
//! # Unsafe
//!
//! Only system calls that `rustix` has no safe wrapper for (`af_packet/socket.rs`): options and addresses of
//! packet sockets. Ring memory is reached through `sharedmem` alone.
#![deny(unsafe_op_in_unsafe_fn)]

mod af_packet;
pub mod netlink;
mod port;

#[cfg(test)]
#[path = "../tests/lab/mod.rs"]
mod lab;

pub use af_packet::{RX_SLOTS, TX_SLOTS};
pub use port::{OpenError, Uplink, UplinkStats};
