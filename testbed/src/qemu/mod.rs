//! Real guests: stock Linux in stock QEMU, driven by tests.
//!
//! `scripts/setup.sh` puts a QEMU with vfio-user, a kernel and an initramfs under `target/guest`. A [`Guest`] boots from
//! them in under two seconds, runs an agent on its second serial port, and executes shell commands for the test:
//!
//! ```no_run
//! use std::time::Duration;
//! use testbed::qemu::{Guest, GuestSpec, Nic};
//!
//! # fn main() -> anyhow::Result<()> {
//! let second = Duration::from_secs(1);
//! let mut guest = Guest::boot(GuestSpec::new("web1").nic(Nic::VfioUser { socket: "/run/vswitch/web1.sock".into() }))?;
//! guest.wait_ready(60 * second)?;
//! guest.sh_ok("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up", 10 * second)?;
//! let reply = guest.sh("ping -c 3 -w 10 10.0.0.2", 15 * second)?;
//! assert_eq!(reply.status, 0, "{}", reply.text);
//! # Ok(())
//! # }
//! ```
//!
//! * [`Guest::boot`] only starts the process: boot several, then wait for each, and they come up side by side.
//! * The guest has busybox (`ip`, `ping`, `arping`, `nc`, ...), `ethtool` and `guest-tool`; the drivers are loaded.
//! * Every wait is bounded. The QEMU process dies with its [`Guest`], and with the test process even when that is killed.

mod agent;
mod guest;
mod process;
mod spec;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

pub use agent::Output;
pub(crate) use agent::{Agent, AgentError};
pub use guest::{Guest, Job};
pub(crate) use process::spawn;
pub use spec::{GuestSpec, Nic};

/// Where the parts of a guest are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// The directory that holds them.
    pub dir: PathBuf,
    /// A program that behaves as `qemu-system-x86_64` and knows `vfio-user-pci`.
    pub qemu: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initrd: PathBuf,
    /// The static `guest-tool`, for use outside the guests too.
    pub guest_tool: PathBuf,
}

/// Finds what `scripts/setup.sh` made: in `$VSWITCH_GUEST_DIR`, else in `target/guest` of the repository.
pub fn environment() -> Result<Env> {
    let dir = match std::env::var_os("VSWITCH_GUEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest"),
    };
    let part = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        if !path.exists() {
            bail!("{} is missing: run scripts/setup.sh once to fetch what the test guests need", path.display());
        }
        Ok(path.canonicalize()?)
    };
    Ok(Env {
        qemu: part("qemu")?,
        kernel: part("kernel")?,
        initrd: part("initrd.gz")?,
        guest_tool: part("guest-tool")?,
        dir: dir.canonicalize()?,
    })
}
