//! A running guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::agent::{Agent, Output};
use super::{GuestSpec, environment, process};

/// How much of a log goes into an error message.
const TAIL: usize = 4096;
/// For commands of this module's own that do next to nothing in the guest.
const SHORT: Duration = Duration::from_secs(30);

/// A QEMU process with a Linux in it. Dropping it kills the process.
pub struct Guest {
    name: String,
    child: Child,
    agent: Agent,
    console: PathBuf,
    messages: PathBuf,
    keep_logs: bool,
    next_job: u32,
}

/// A command that [`Guest::start`] left running.
#[derive(Debug)]
pub struct Job {
    number: u32,
}

impl Guest {
    /// Starts the guest's process and returns at once.
    pub fn boot(spec: GuestSpec) -> Result<Guest> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let env = environment()?;
        let logs = spec.log_dir.clone().unwrap_or_else(|| env.dir.join("logs"));
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let stem = match spec.log_dir {
            Some(_) => spec.name.clone(),
            None => format!("{}-{}-{}", spec.name, std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)),
        };
        let console = logs.join(format!("{stem}.console"));
        let messages = logs.join(format!("{stem}.qemu"));
        let stderr = File::create(&messages).with_context(|| format!("cannot write {}", messages.display()))?;
        let mut child = process::spawn(&env.qemu, &spec.qemu_args(&env, &console)?, stderr)?;
        let (stdin, stdout) =
            child.stdin.take().zip(child.stdout.take()).context("QEMU was started without its pipes")?;
        let agent = Agent::new(stdin, stdout);
        Ok(Guest { name: spec.name, child, agent, console, messages, keep_logs: spec.log_dir.is_some(), next_job: 0 })
    }

    /// Waits until the guest runs commands.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let outcome = self.agent.wait_ready(timeout);
        outcome.map_err(|e| self.explain(e, "did not boot"))
    }

    /// Runs a shell command of one line. It is killed after `timeout`, and has status 137 then.
    pub fn sh(&mut self, command: &str, timeout: Duration) -> Result<Output> {
        let outcome = self.agent.run(command, timeout);
        outcome.map_err(|e| self.explain(e, &format!("did not run `{command}`")))
    }

    /// Runs a shell command that has to succeed; returns what it printed.
    pub fn sh_ok(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let output = self.sh(command, timeout)?;
        ensure!(output.status == 0, "guest {}: `{command}` ended with {}: {}", self.name, output.status, output.text);
        Ok(output.text)
    }

    /// Runs a shell command in the guest's background, with no time limit of its own.
    pub fn start(&mut self, command: &str) -> Result<Job> {
        let number = self.next_job;
        self.next_job += 1;
        let quoted = command.replace('\'', r"'\''");
        // The writer of the status blocks until somebody waits for the job.
        self.sh_ok(
            &format!(
                "cd /run/jobs && mkfifo {number}.status && {{ {{ \
                 setsid sh -c 'echo $$ >{number}.group; {quoted}' </dev/null >{number}.text 2>&1; \
                 echo $? >{number}.status; }} >/dev/null 2>&1 & }}"
            ),
            SHORT,
        )?;
        Ok(Job { number })
    }

    /// Waits for a command in the background to end. It goes on when the time is up, but can be waited for no more.
    pub fn wait(&mut self, job: Job, timeout: Duration) -> Result<Output> {
        let number = job.number;
        let Output { status, text } = self.sh(
            &format!(
                "cd /run/jobs && status=$(cat {number}.status) && echo ended && cat {number}.text && exit $status"
            ),
            timeout,
        )?;
        match text.strip_prefix("ended\n") {
            Some(text) => Ok(Output { status, text: text.to_owned() }),
            None => Err(anyhow!("guest {}: job {number} has not ended within {timeout:?}", self.name)),
        }
    }

    /// Interrupts a command in the background, so that a `ping` prints its summary; kills it where it does not care,
    /// as shells and most programs do not when started in the background. Then waits for it.
    pub fn stop(&mut self, job: Job) -> Result<Output> {
        self.sh(
            &format!(
                "cd /run/jobs && until [ -s {0}.group ]; do usleep 10000; done; group=$(cat {0}.group) && \
                 kill -INT -$group && usleep 300000 && kill -KILL -$group",
                job.number
            ),
            SHORT,
        )?;
        self.wait(job, SHORT)
    }

    /// Has the guest reboot itself, and waits until it runs commands again.
    pub fn reboot(&mut self, timeout: Duration) -> Result<()> {
        let outcome = self.agent.send("reboot -f", SHORT).and_then(|_| self.agent.wait_ready(timeout));
        outcome.map_err(|e| self.explain(e, "did not come back from its reboot"))
    }

    /// Has the guest switch itself off, and waits until QEMU has ended.
    pub fn poweroff(&mut self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        let outcome = self.agent.send("poweroff -f", SHORT).and_then(|_| self.agent.wait_gone(timeout));
        outcome.map_err(|e| self.explain(e, "did not switch itself off"))?;
        // The pipe closes a moment before the process is gone.
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "guest {}: QEMU has not ended within {timeout:?}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Kills the VMM without warning, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether QEMU is still there.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The guest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end of what the guest's kernel and init printed.
    pub fn console_tail(&self) -> String {
        tail(&self.console)
    }

    /// The end of what QEMU itself had to say.
    pub fn qemu_messages(&self) -> String {
        tail(&self.messages)
    }

    fn explain(&self, error: super::agent::AgentError, what: &str) -> anyhow::Error {
        anyhow!(
            "guest {} {what}: {error}\n-- QEMU ({}):\n{}\n-- console ({}):\n{}",
            self.name,
            self.messages.display(),
            self.qemu_messages(),
            self.console.display(),
            self.console_tail()
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.keep_logs && !std::thread::panicking() {
            let _ = fs::remove_file(&self.console);
            let _ = fs::remove_file(&self.messages);
        }
    }
}

fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned()
}
