//! One namespace.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use wire::Mac;

use super::exec::{DEFAULT_LIMIT, Output, Spawned, run};
use super::{RawSocket, Tap, in_namespace};

/// Settings of a cable.
#[derive(Clone, Debug)]
pub struct VethOptions {
    /// Payload size of both ends in bytes.
    pub mtu: Option<u16>,
    /// Address of the first end.
    pub mac_a: Option<Mac>,
    /// Address of the second end.
    pub mac_b: Option<Mac>,
    /// False: both ends fill checksums in and make segments themselves.
    pub offload: bool,
}

impl Default for VethOptions {
    fn default() -> Self {
        VethOptions { mtu: None, mac_a: None, mac_b: None, offload: true }
    }
}

/// A namespace of a lab. Cheap to clone; it lives as long as its lab.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
}

impl Host {
    pub(crate) fn new(namespace: String) -> Host {
        Host { namespace }
    }

    /// Its name, as `ip netns` lists it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs a command in it: words parted by blanks, no quoting. It is killed after 30 seconds.
    ///
    /// # Errors
    /// When it cannot be started. A command that fails is an [`Output`] that is not `ok`.
    pub fn exec(&self, command: &str) -> Result<Output> {
        self.exec_args(&command.split_whitespace().collect::<Vec<_>>(), DEFAULT_LIMIT)
    }

    /// As [`Host::exec`], with the words as they are and a time limit.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn exec_args(&self, words: &[&str], limit: Duration) -> Result<Output> {
        run("ip", &[&["netns", "exec", &self.namespace], words].concat(), limit)
    }

    /// Starts a program that runs beside the test, its output going where `set_up` sends it (default: away).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str], set_up: impl FnOnce(&mut Command)) -> Result<Spawned> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        set_up(&mut command);
        Spawned::start(&mut command)
    }

    /// Runs `work` on a thread inside the namespace: sockets it opens belong there, and stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `work` returns.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_namespace(&self.namespace, work)
    }

    /// `ip` in the namespace, without entering it.
    ///
    /// # Errors
    /// With its message, when it fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let words: Vec<&str> = ["-n", &self.namespace].into_iter().chain(arguments.split_whitespace()).collect();
        run("ip", &words, DEFAULT_LIMIT)?.success().map(drop)
    }

    /// Writes a kernel setting, by its path under `/proc/sys`.
    ///
    /// # Errors
    /// When there is none.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        // This directory shows the namespace of the thread that looks.
        let file = format!("/proc/sys/{path}");
        self.within(|| std::fs::write(&file, value).with_context(|| format!("writing {value} to {file}")))
    }

    /// Gives an interface an address ("10.0.0.1/24", "fd00::1/64"), usable at once.
    ///
    /// # Errors
    /// With `ip`'s message.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device}{nodad}"))
    }

    /// Pulls the cable at this end: the peer sees its link go down.
    ///
    /// # Errors
    /// With `ip`'s message.
    pub fn cut(&self, device: &str) -> Result<()> {
        self.ip(&format!("link set dev {device} down"))
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// With `ip`'s message.
    pub fn heal(&self, device: &str) -> Result<()> {
        self.ip(&format!("link set dev {device} up"))
    }

    /// Takes a port out of its bridge while its link stays up: a failure further up the network.
    ///
    /// # Errors
    /// With `ip`'s message.
    pub fn unplug(&self, device: &str) -> Result<()> {
        self.ip(&format!("link set dev {device} nomaster"))
    }

    /// Makes an interface a port of a bridge, and the port's own stack silent.
    ///
    /// # Errors
    /// With `ip`'s message.
    pub fn plug(&self, bridge: &str, device: &str) -> Result<()> {
        self.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
        self.ip(&format!("link set dev {device} master {bridge}"))?;
        self.ip(&format!("link set dev {device} up"))
    }

    /// Has the interface fill in checksums and cut segments before it sends, and merge nothing it receives.
    ///
    /// # Errors
    /// With `ethtool`'s message.
    pub fn offload_off(&self, device: &str) -> Result<()> {
        self.exec(&format!("ethtool -K {device} tx off rx off tso off gso off gro off"))?.success().map(drop)
    }

    /// True when three pings in a row find `address` within a second each; stops at the first that does.
    ///
    /// # Errors
    /// When `ping` cannot be started.
    pub fn pings(&self, address: &str) -> Result<bool> {
        for _ in 0..3 {
            if self.exec(&format!("ping -n -c 1 -W 1 {address}"))?.ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A raw socket on one of its interfaces.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn raw(&self, device: &str) -> Result<RawSocket> {
        self.within(|| RawSocket::open(device))
    }

    /// A new tap interface, up, whose frames this process reads and writes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn tap(&self, name: &str, mtu: u16) -> Result<Tap> {
        let tap = self.within(|| Tap::create(name, mtu))?;
        self.ip(&format!("link set dev {name} up"))?;
        Ok(tap)
    }

    /// The address of one of its interfaces.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn mac(&self, device: &str) -> Result<Mac> {
        let path = ["-n", &self.namespace, "-o", "link", "show", "dev", device];
        let text = run("ip", &path, DEFAULT_LIMIT)?.success()?;
        let word = text.split_whitespace().skip_while(|w| *w != "link/ether").nth(1);
        word.context("no Ethernet interface")?.parse().context("no address")
    }
}
