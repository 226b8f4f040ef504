//! A running user-mode Linux.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::archive;
use crate::qemu::{Agent, AgentError, Output, environment, spawn};

/// The kernel of Debian's `user-mode-linux`.
const KERNEL: &str = "/usr/bin/linux.uml";
/// Times a guest is started that ends like that.
const BOOTS: u32 = 3;
/// What a kernel says at the end.
const PANIC: &str = "Kernel panic";
/// What its init says before, in 2 of some 250 boots on a busy machine ("Resource temporarily unavailable"): nothing that a switch
/// could do to it. Every other panic may be.
const NO_FORK: &str = "can't fork";
/// How long between two looks at the console of one that has not answered yet.
const GLANCE: Duration = Duration::from_secs(1);
/// How much of a log goes into an error message.
const TAIL: usize = 4096;

/// A guest to boot.
#[derive(Debug, Clone)]
pub struct UmlSpec {
    /// The guest's hostname.
    pub name: String,
    /// The vhost-user socket of its card, on which somebody listens.
    pub socket: PathBuf,
    /// RAM.
    pub memory_mib: u32,
    /// Programs of this machine to have in the guest, at the same paths, with the libraries they need.
    pub programs: Vec<PathBuf>,
}

impl UmlSpec {
    /// A guest with 128 MiB.
    pub fn new(name: &str, socket: &Path) -> UmlSpec {
        UmlSpec { name: name.to_owned(), socket: socket.to_owned(), memory_mib: 128, programs: Vec::new() }
    }
}

/// A user-mode Linux with one virtio card, `eth0`. Dropping it ends all its processes.
pub struct UmlGuest {
    name: String,
    child: Child,
    agent: Agent,
    /// Root, console log and the file that is the guest's memory.
    dir: PathBuf,
    /// Arguments of its process.
    args: Vec<String>,
    /// Times it was started.
    boots: u32,
}

impl UmlGuest {
    /// Starts the guest's process and returns at once.
    ///
    /// # Errors
    /// When the package `user-mode-linux` or what `scripts/setup.sh` makes is missing.
    pub fn boot(spec: &UmlSpec) -> Result<UmlGuest> {
        UmlGuest::boot_with(spec, &[])
    }

    /// As [`boot`](Self::boot), with more arguments to the kernel.
    fn boot_with(spec: &UmlSpec, more: &[&str]) -> Result<UmlGuest> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let kernel = Path::new(KERNEL);
        ensure!(kernel.exists(), "{KERNEL} is missing: install the package user-mode-linux (scripts/setup.sh does)");
        let env = environment()?;
        let number = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("uml-{}-{}-{number}", spec.name, std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let root = dir.join("initrd");
        std::fs::write(&root, archive::root(kernel, &env.initrd, &spec.programs)?)?;
        // A process namespace, so that the guest's processes end with it; and a directory of its own for its memory file
        // and its management socket.
        let args = [
            "--kill-child=KILL".to_owned(),
            "--pid".to_owned(),
            "--fork".to_owned(),
            "env".to_owned(),
            format!("TMPDIR={}", text(&dir)?),
            format!("HOME={}", text(&dir)?),
            KERNEL.to_owned(),
            format!("mem={}M", spec.memory_mib),
            format!("initrd={}", text(&root)?),
            format!("guest={}", spec.name),
            format!("virtio_uml.device={}:1", text(&spec.socket)?),
        ];
        // The console goes to the log, the agent's line is standard input and output.
        let lines = ["quiet", "panic=1", "con=null", "con0=null,fd:2", "ssl=null", "ssl1=fd:0,fd:1"].map(str::to_owned);
        let more = more.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
        let args = [&args[..], &lines, &more].concat();
        let (child, agent) = start(&args, &dir)?;
        Ok(UmlGuest { name: spec.name.clone(), child, agent, dir, args, boots: 1 })
    }

    /// Waits until the guest runs commands. One whose kernel panics because its init cannot fork is started again, three times
    /// in all.
    ///
    /// # Errors
    /// When it does not within `timeout`: with its console's last lines.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Err(error) = self.agent.wait_ready(left.min(GLANCE)) else { return Ok(()) };
            let console = self.console_tail();
            let panicked = console.contains(PANIC);
            if panicked && console.contains(NO_FORK) && self.boots < BOOTS && !left.is_zero() {
                self.again()?;
                continue;
            }
            match error {
                AgentError::Silent(_) if !panicked && !left.is_zero() => {}
                AgentError::Silent(_) => return Err(self.explain(&AgentError::Silent(timeout - left), "did not boot")),
                other => return Err(self.explain(&other, "did not boot")),
            }
        }
    }

    /// Starts it anew.
    fn again(&mut self) -> Result<()> {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.agent) = start(&self.args, &self.dir)?;
        self.boots += 1;
        Ok(())
    }

    /// Runs a shell command of one line. It is killed after `timeout`, and has status 137 then.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn sh(&mut self, command: &str, timeout: Duration) -> Result<Output> {
        let outcome = self.agent.run(command, timeout);
        outcome.map_err(|e| self.explain(&e, &format!("did not run `{command}`")))
    }

    /// Runs a shell command that has to succeed; returns what it printed.
    ///
    /// # Errors
    /// When it does not succeed, or the guest does not answer.
    pub fn sh_ok(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let output = self.sh(command, timeout)?;
        ensure!(output.status == 0, "guest {}: `{command}` ended with {}: {}", self.name, output.status, output.text);
        Ok(output.text)
    }

    /// The end of what the guest's kernel and init printed.
    pub fn console_tail(&self) -> String {
        let bytes = std::fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned()
    }

    fn explain(&self, error: &AgentError, what: &str) -> anyhow::Error {
        anyhow!("guest {} {what}: {error}\n-- console:\n{}", self.name, self.console_tail())
    }
}

impl Drop for UmlGuest {
    fn drop(&mut self) {
        // All fail only where the process has ended or the directory has gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The process, its console going to a log in `dir`, and the line to its agent.
fn start(args: &[String], dir: &Path) -> Result<(Child, Agent)> {
    let mut child = spawn(Path::new("unshare"), args, File::create(dir.join("console"))?)?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (stdin, stdout) = pipes.context("user-mode Linux was started without its pipes")?;
    Ok((child, Agent::new(stdin, stdout)))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not UTF-8, kernel arguments have to be", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose init never can fork has its tries and then says what became of it, long before its time is over.
    #[test]
    fn who_cannot_fork_is_started_again_and_not_for_ever() {
        let (guest, said) = fails(&["rdinit=/bin/sh", "--", "-c", "\"echo can\\'t fork; exit 2\""]);
        assert!(said.contains(NO_FORK) && said.contains(PANIC), "{said}");
        assert_eq!(guest.boots, BOOTS);
    }

    /// Any other panic is told at once.
    #[test]
    fn who_panics_is_not_started_again() {
        let (guest, said) = fails(&["rdinit=/nonexistent"]);
        assert!(said.contains(PANIC) && said.starts_with("guest broken did not boot"), "{said}");
        assert_eq!(guest.boots, 1);
    }

    /// A guest that does not boot with these arguments to its kernel, and what is said of it.
    fn fails(more: &[&str]) -> (UmlGuest, String) {
        let mut guest = UmlGuest::boot_with(&UmlSpec::new("broken", Path::new("/nonexistent/socket")), more).unwrap();
        let said = guest.wait_ready(Duration::from_secs(120)).unwrap_err().to_string();
        (guest, said)
    }

    /// A process that ends is not waited for.
    #[test]
    fn who_ends_is_not_started_again() {
        let spec = UmlSpec { memory_mib: 0, ..UmlSpec::new("none", Path::new("/nonexistent/socket")) };
        let mut guest = UmlGuest::boot(&spec).unwrap();
        let said = guest.wait_ready(Duration::from_secs(120)).unwrap_err().to_string();
        assert!(said.contains("its process has ended"), "{said}");
        assert_eq!(guest.boots, 1);
    }
}
