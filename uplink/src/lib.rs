//! Uplinks: ports of the switch that are Linux network interfaces.
//!
//! A frame from the wire is written by the kernel into memory that this process shares with it; a worker finds
//! it there, hands the data path a window onto it, and gives the memory back when the copies are made. A frame to
//! the wire is copied into such memory, and one call per burst tells the kernel to look. Two drivers do this:
//! `af_packet` on any interface, and `af_xdp`, past the kernel's network stack, where the interface allows it.
//!
//! ```text
//!  NIC --> kernel --> [hdr|vnet|frame] AF_PACKET slot --Ingress::poll--> Burst --> (data path) --> other ports
//!      \-> XDP program --> [frame] AF_XDP chunk ------/    windows onto slot or chunk; free after forward()
//!
//!  other ports --> (data path) --Egress::deliver--> TX slot  --send()--> kernel finishes checksums, cuts segments
//!                  reserve (locked), copy, publish  TX chunk --send() if it wants to be told--> NIC
//!
//!  netlink --> LinkMonitor --LinkEvent--> Uplink::handle --> PortState (connected, link)
//!  (control thread)                                     \--> a new Life swapped in, the old one dropped after Grace
//! ```
//!
//! The control thread owns [`Uplink`] and [`netlink::LinkMonitor`]; workers own what [`Uplink::ingress`] and
//! [`Uplink::egress`] gave. Both halves see the rings through one `ArcSwapOption`: an interface that goes away
//! leaves `None` there, and one that comes back under the same name leaves new rings.
//!
//! # Unsafe
//!
//! System calls that `rustix` has no safe wrapper for: options and addresses of packet sockets
//! (`af_packet/socket.rs`), bpf(2) (`af_xdp/bpf.rs`), the ethtool ioctl (`ethtool.rs`), the ioctls of taps, and reading
//! and writing them from and to memory that others share (`tap/device.rs`); and the calls of `xsk-rs`
//! (`af_xdp/{queue,rx,tx}.rs`), which move descriptors of memory. Ring and frame memory is reached through
//! `sharedmem` and `xsk-rs` alone.
#![deny(unsafe_op_in_unsafe_fn)]

mod af_packet;
mod af_xdp;
mod driver;
mod ethtool;
mod life;
pub mod netlink;
mod port;
pub mod tap;

#[cfg(test)]
#[path = "../tests/lab/mod.rs"]
mod lab;

pub use af_packet::{RX_SLOTS, TX_SLOTS};
pub use af_xdp::{XDP_RX_FRAMES, XDP_TX_FRAMES};
pub use driver::Driver;
pub use port::{OpenError, Uplink, UplinkStats};
pub use tap::{Tap, TapSetup};
