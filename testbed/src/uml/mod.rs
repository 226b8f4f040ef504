//! User-mode Linux guests: a stock kernel as an ordinary process, its virtio card on a vhost-user socket.
//!
//! Debian's `user-mode-linux` is the kernel; the root is that of the QEMU guests (see [`crate::qemu`]) with the modules
//! of this kernel in place of the other's. Unlike QEMU it hands *all* queues of the card to the back end, the control
//! queue included.
//!
//! ```no_run
//! use std::time::Duration;
//! use testbed::uml::{UmlGuest, UmlSpec};
//!
//! # fn main() -> anyhow::Result<()> {
//! let second = Duration::from_secs(1);
//! let mut guest = UmlGuest::boot(&UmlSpec::new("u1", "/run/vswitch/u1.sock".as_ref()))?;
//! guest.wait_ready(60 * second)?;
//! guest.sh_ok("ip link set eth0 promisc on", 10 * second)?;
//! # Ok(())
//! # }
//! ```

mod archive;
mod guest;
mod iperf;

pub use guest::{UmlGuest, UmlSpec};
pub use iperf::iperf3;
