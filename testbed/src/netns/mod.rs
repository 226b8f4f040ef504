//! Labs: a physical network made of network namespaces, with cables to pull.
//!
//! ```text
//!   Lab "vsw-<pid>-<n>-<lab>-"
//!     Host "sw"        Host "phys"                      Host "out"
//!      eth1 ==veth==== p1 --+                            eth0 (tap: the kernel's own TCP)
//!      eth2 ==veth==== p2 --+-- br0 --(tap)== VlanShim ===+    frames get and lose their tag here
//!                           +--(tap)== Tap: any frame, in and out, with its tag
//! ```
//!
//! A plain bridge passes tagged frames untouched, so it is a VLAN-transparent switch. Frames with tags are
//! seen and made through a [`Tap`] that is a port of the bridge: the kernel takes the tag out of what a raw
//! socket receives (it is in ancillary data only), but a tap gets whole frames.
//!
//! All names carry the process id. A lab takes everything down when it is dropped, and [`Lab::sweep`] what
//! processes that were killed have left.

mod exec;
mod host;
mod raw;
mod shim;
mod tagged;
mod tap;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use exec::{Output, Spawned};
pub use host::{Host, VethOptions};
pub use raw::RawSocket;
pub use shim::VlanShim;
pub use tagged::TaggedHost;
pub use tap::Tap;

pub(crate) use exec::{DEFAULT_LIMIT, run};

const PREFIX: &str = "vsw-";
pub(crate) const NETNS_DIR: &str = "/run/netns";
static NEXT_LAB: AtomicU32 = AtomicU32::new(0);

/// A set of namespaces that go away together.
pub struct Lab {
    prefix: String,
    hosts: Mutex<Vec<String>>,
    devices: AtomicU32,
}

impl Lab {
    /// An empty lab. Needs root. `name` is for people who look at `ip netns`.
    ///
    /// # Errors
    /// When the name is not a word of letters, digits and dashes.
    pub fn new(name: &str) -> Result<Lab> {
        word(name)?;
        let number = NEXT_LAB.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-{name}-", std::process::id());
        Ok(Lab::with_prefix(prefix))
    }

    /// An empty lab whose namespaces are called `prefix` and their host's name.
    pub(crate) fn with_prefix(prefix: String) -> Lab {
        Lab { prefix, hosts: Mutex::new(Vec::new()), devices: AtomicU32::new(0) }
    }

    /// Leaves the namespaces behind when this value goes.
    pub(crate) fn keep(self) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A new namespace with its loopback up and no chatter of its own: no duplicate address detection, no
    /// router solicitations.
    ///
    /// # Errors
    /// When it cannot be made (`ip` missing, not root, name taken).
    pub fn host(&self, name: &str) -> Result<Host> {
        word(name)?;
        let full = format!("{}{name}", self.prefix);
        run("ip", &["netns", "add", &full], DEFAULT_LIMIT)?.success()?;
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(full.clone());
        let host = Host::new(full);
        host.ip("link set lo up")?;
        for (key, value) in [("accept_dad", "0"), ("router_solicitations", "0"), ("accept_ra", "0")] {
            host.sysctl(&format!("net/ipv6/conf/all/{key}"), value)?;
            host.sysctl(&format!("net/ipv6/conf/default/{key}"), value)?;
        }
        Ok(host)
    }

    /// A cable: interface `a.1` in host `a.0`, `b.1` in host `b.0`, both up.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn veth(&self, a: (&Host, &str), b: (&Host, &str), options: &VethOptions) -> Result<()> {
        let args = ["link", "add", "name", a.1, "netns", a.0.namespace(), "type", "veth"];
        let peer = ["peer", "name", b.1, "netns", b.0.namespace()];
        run("ip", &[&args[..], &peer[..]].concat(), DEFAULT_LIMIT)?.success()?;
        for ((host, device), mac) in [(a, options.mac_a), (b, options.mac_b)] {
            if let Some(mac) = mac {
                host.ip(&format!("link set dev {device} address {mac}"))?;
            }
            if let Some(mtu) = options.mtu {
                host.ip(&format!("link set dev {device} mtu {mtu}"))?;
            }
            if !options.offload {
                host.offload_off(device)?;
            }
            host.ip(&format!("link set dev {device} up"))?;
        }
        Ok(())
    }

    /// A bridge in `host` with some of its interfaces as ports: a switch that knows no VLANs and passes
    /// tagged frames untouched. As a `hub` it learns nothing and sends every frame everywhere.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn bridge(&self, host: &Host, name: &str, ports: &[&str], hub: bool) -> Result<()> {
        let ageing = if hub { "ageing_time 0 " } else { "" };
        host.ip(&format!("link add name {name} type bridge {ageing}mcast_snooping 0 stp_state 0 forward_delay 0"))?;
        // The bridge's own stack is to say nothing.
        host.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        for port in ports {
            host.plug(name, port)?;
        }
        host.ip(&format!("link set dev {name} up"))
    }

    /// A tap that is a port of `bridge`: frames written to it enter the bridge as they are, tags and all, and
    /// what the bridge sends out there can be read. It also takes what a [`Lab::bridge`] hub sends everywhere.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tap_on(&self, host: &Host, bridge: &str, mtu: u16) -> Result<Tap> {
        let tap = host.tap(&format!("vt{}", self.devices.fetch_add(1, Ordering::Relaxed)), mtu)?;
        host.sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", tap.name()), "1")?;
        host.plug(bridge, tap.name())?;
        Ok(tap)
    }

    /// Interface `device` in `host`, whose frames are tagged with `vlan` where they enter `bridge` of
    /// `switch`: the host's own kernel speaks on that VLAN. It gets no other frames.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn vlan_shim(&self, host: (&Host, &str), switch: (&Host, &str), vlan: u16, mtu: u16) -> Result<VlanShim> {
        let outer = self.tap_on(switch.0, switch.1, mtu)?;
        let inner = host.0.tap(host.1, mtu)?;
        VlanShim::start(inner, outer, vlan)
    }

    /// The name of a host's namespace, as `ip netns` lists it.
    pub fn namespace_of(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// Removes the namespaces of labs whose process is gone; returns how many.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn sweep() -> Result<usize> {
        let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Ok(0) };
        let mut removed = 0;
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let pid =
                name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|p| p.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&name);
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.hosts.lock().unwrap_or_else(PoisonError::into_inner).drain(..).rev() {
            remove(&name);
        }
    }
}

/// Ends what runs in a namespace of a lab, and removes it. Errors leave something for the next sweep.
pub(crate) fn remove(name: &str) {
    let own = std::process::id().to_string();
    if let Ok(output) = run("ip", &["netns", "pids", name], DEFAULT_LIMIT) {
        for pid in output.stdout.split_whitespace().filter(|pid| **pid != own) {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    let _ = run("ip", &["netns", "del", name], DEFAULT_LIMIT);
}

fn word(name: &str) -> Result<()> {
    let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    ensure!(fine, "'{name}' is no name of letters, digits and dashes");
    Ok(())
}

/// Waits until `holds` or `limit` is over.
///
/// # Errors
/// When it never held; `what` says what was waited for.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + limit;
    while !holds() {
        ensure!(std::time::Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = std::fs::File::open(Path::new(NETNS_DIR).join(namespace)).context("opening the namespace")?;
    let kind = rustix::thread::LinkNameSpaceType::Network;
    std::thread::scope(|scope| {
        // A thread of its own, which ends: a namespace once entered is not left again.
        let thread = scope.spawn(move || {
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
#[path = "lab_tests.rs"]
mod tests;
