//! What the tests with real guests share: a switch, guests on it, and the sums after it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod packet;
pub mod seen;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::api::{PortStatus, Status, ledger};
use rustix::process::{Pid, Signal, kill_process};
use testbed::netns::{Host, Spawned};
use testbed::qemu::{Guest, GuestSpec, Nic};
use testbed::switch::SwitchProcess;

/// A guest boots within this, however busy the machine.
pub const BOOT: Duration = Duration::from_secs(120);
/// A short command in a guest.
pub const SHORT: Duration = Duration::from_secs(30);
/// A bulk transfer.
pub const TRANSFER: Duration = Duration::from_secs(240);

/// Real guests take the machine's cores: one such test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_vswitch"))
}

/// A switch in a directory of its own.
pub struct Net {
    pub switch: SwitchProcess,
    dir: tempfile::TempDir,
}

impl Net {
    /// Starts a switch with `tables` after its `[switch]` section; `keys` go into that.
    pub fn start(netns: Option<&str>, keys: &str, tables: &str) -> Result<Net> {
        let dir = tempfile::tempdir()?;
        let head = format!("[switch]\nname = \"vSwitch0\"\nsocket_dir = \"{}\"\n{keys}\n", dir.path().display());
        let switch = SwitchProcess::start(&program(), netns, dir.path(), &(head + tables))?;
        Ok(Net { switch, dir })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn spec(&self, name: &str, vnics: &[&str]) -> GuestSpec {
        let cards = vnics.iter().map(|v| Nic::VfioUser { socket: self.switch.socket(v) });
        cards.fold(GuestSpec::new(name), GuestSpec::nic)
    }

    /// A guest with one card on each named vNIC; spawned, not waited for.
    pub fn spawn(&self, name: &str, vnics: &[&str]) -> Result<Guest> {
        Guest::boot(self.spec(name, vnics))
    }

    /// As [`Net::spawn`], with words for the kernel's command line.
    pub fn spawn_with(&self, name: &str, vnics: &[&str], kernel_args: &str) -> Result<Guest> {
        Guest::boot(GuestSpec { kernel_args: kernel_args.to_owned(), ..self.spec(name, vnics) })
    }

    /// As [`Net::spawn`], with memory that the switch cannot see.
    pub fn spawn_private(&self, name: &str, vnics: &[&str]) -> Result<Guest> {
        Guest::boot(GuestSpec { shared_memory: false, ..self.spec(name, vnics) })
    }

    /// One guest per vNIC, named like it, all booting at once; each answers when this returns.
    pub fn boot(&self, vnics: &[&str]) -> Result<Vec<Guest>> {
        let mut guests = vnics.iter().map(|v| self.spawn(v, &[v])).collect::<Result<Vec<_>>>()?;
        for guest in &mut guests {
            guest.wait_ready(BOOT)?;
        }
        Ok(guests)
    }

    /// The status once traffic rests, with every sum checked to the frame.
    pub fn sums(&self) -> Result<Status> {
        let parse = |value: &serde_json::Value| Ok::<Status, anyhow::Error>(serde_json::from_value(value.clone())?);
        let holds = |value: &serde_json::Value| ledger::check(&parse(value)?).map_err(|e| anyhow::anyhow!("{e}"));
        parse(&self.switch.show_when(holds)?)
    }

    /// One port's status, at once.
    pub fn port(&self, name: &str) -> Result<PortStatus> {
        let status: Status = serde_json::from_value(self.switch.show()?)?;
        port(&status, name).cloned()
    }

    /// Ends the switch as a crash does, and starts it again with `tables` after its `[switch]` section.
    pub fn crash(&mut self, tables: &str) -> Result<()> {
        let pid = i32::try_from(self.switch.pid()).ok().and_then(Pid::from_raw).context("a process")?;
        kill_process(pid, Signal::KILL)?;
        ensure!(!self.switch.stop()?.success(), "it ended by the signal");
        let head = format!("[switch]\nname = \"vSwitch0\"\nsocket_dir = \"{}\"\n", self.dir.path().display());
        self.switch = SwitchProcess::start(&program(), None, self.dir.path(), &(head + tables))?;
        Ok(())
    }

    /// Waits until a VMM is on `name` and its guest's driver has started the card.
    pub fn started(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        while !self.port(name)?.connected {
            ensure!(Instant::now() < deadline, "{name} is not started:\n{}", self.switch.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends the switch as an administrator does, and expects a clean end.
    pub fn finish(mut self) -> Result<()> {
        self.sums()?;
        let status = self.switch.stop()?;
        ensure!(status.success(), "the switch ended with {status}:\n{}", self.switch.log());
        Ok(())
    }
}

/// The port called `name`.
pub fn port<'s>(status: &'s Status, name: &str) -> Result<&'s PortStatus> {
    status.ports.iter().find(|p| p.name == name).ok_or_else(|| anyhow::anyhow!("no port {name}"))
}

/// `[[vnic]]` table.
pub fn vnic(name: &str, portgroup: &str, adapter: &str, last: u8) -> String {
    format!(
        "[[vnic]]\nname = \"{name}\"\nportgroup = \"{portgroup}\"\nadapter = \"{adapter}\"\nmac = \"00:50:56:00:00:{last:02x}\"\n"
    )
}

/// `[[portgroup]]` table.
pub fn portgroup(name: &str, vlan: &str) -> String {
    format!("[[portgroup]]\nname = \"{name}\"\nvlan = {vlan}\n")
}

/// Gives the guest's `device` 10.0.0.`number`/24 and fd00::`number`/64 and brings it up.
pub fn address(guest: &mut Guest, device: &str, number: u8) -> Result<()> {
    guest.sh_ok(&format!("ip addr add 10.0.0.{number}/24 dev {device}"), SHORT)?;
    // No duplicate address detection: the address is to be usable at once.
    guest.sh_ok(&format!("echo 0 >/proc/sys/net/ipv6/conf/{device}/accept_dad"), SHORT)?;
    guest.sh_ok(&format!("ip -6 addr add fd00::{number}/64 dev {device}"), SHORT)?;
    guest.sh_ok(&format!("ip link set {device} up"), SHORT)?;
    Ok(())
}

/// A few echo requests, none of which may be lost once the first has found its way.
pub fn ping(guest: &mut Guest, to: &str) -> Result<()> {
    let six = if to.contains(':') { "-6" } else { "" };
    // The first may wait for a driver that has just been started; then three in a row must come back.
    let found = guest.sh_ok(&format!("ping {six} -c 1 -w 10 {to}"), SHORT);
    found.map_err(|e| e.context(format!("{to} cannot be reached from {}", guest.name())))?;
    let text = guest.sh_ok(&format!("ping {six} -c 3 -i 0.2 -w 10 {to}"), SHORT)?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    Ok(())
}

/// Expects that nothing comes back.
pub fn no_ping(guest: &mut Guest, to: &str) -> Result<()> {
    let six = if to.contains(':') { "-6" } else { "" };
    let outcome = guest.sh(&format!("ping {six} -c 2 -i 0.2 -W 1 -w 2 {to}"), SHORT)?;
    ensure!(outcome.status != 0, "{to} can be reached from {}: {}", guest.name(), outcome.text);
    Ok(())
}

/// The digest in a report of guest-tool.
pub fn digest(report: &str) -> Result<&str> {
    let rest = report.split_once("digest ").map(|(_, rest)| rest);
    rest.and_then(|r| r.get(..16)).ok_or_else(|| anyhow::anyhow!("no digest in {report:?}"))
}

/// guest-tool as it runs on the host, in a namespace.
pub fn tool(host: &Host, words: &[&str]) -> Result<Spawned> {
    let program = testbed::qemu::environment()?.guest_tool;
    let all = [&[program.to_str().context("a path of text")?], words].concat();
    host.spawn(&all, |command| {
        command.stdout(Stdio::piped());
    })
}

/// What the tool printed, once it has ended well.
pub fn report(mut tool: Spawned) -> Result<String> {
    let mut text = String::new();
    if let Some(mut out) = tool.child().stdout.take() {
        std::io::Read::read_to_string(&mut out, &mut text)?;
    }
    let status = tool.child().wait()?;
    ensure!(status.success(), "guest-tool ended with {status}: {text}");
    Ok(text)
}

/// The number of bytes in a report of guest-tool.
pub fn byte_count(report: &str) -> Result<u64> {
    let number = report.strip_prefix("bytes ").and_then(|rest| rest.split(' ').next());
    Ok(number.with_context(|| format!("no bytes in {report:?}"))?.parse()?)
}

/// Sends `bytes` by TCP from one guest to `address` of the other; the digests must be equal.
pub fn transfer(from: &mut Guest, to: &mut Guest, address: &str, bytes: u64, seed: u64) -> Result<()> {
    let port = 5000 + seed;
    let receiver = to.start(&format!("guest-tool recv {port} {bytes}"))?;
    let sent = from.sh_ok(&format!("guest-tool send {address} {port} {bytes} {seed}"), TRANSFER)?;
    let received = to.wait(receiver, TRANSFER)?;
    ensure!(received.status == 0, "recv: {}", received.text);
    ensure!(digest(&sent)? == digest(&received.text)?, "sent {sent}received {}", received.text);
    Ok(())
}
