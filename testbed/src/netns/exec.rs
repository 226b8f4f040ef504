//! Commands with a time limit.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a command may run unless told otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Its exit code; `None` when a signal ended it, the one sent at the time limit for instance.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// True for exit code 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    /// With what it printed, when it did not.
    pub fn success(self) -> Result<String> {
        ensure!(self.ok(), "{} ended with {:?}: {}{}", self.command, self.code, self.stderr, self.stdout);
        Ok(self.stdout)
    }
}

/// Runs `program`; it is killed at the time limit.
pub fn run(program: &str, args: &[&str], limit: Duration) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    let collect = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A pipe that breaks ends the text there.
            let _ = pipe.map(|mut p| p.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(child.stdout.take().map(|p| Box::new(p) as _));
    let stderr = collect(child.stderr.take().map(|p| Box::new(p) as _));
    let deadline = Instant::now() + limit;
    let mut nap = Duration::from_micros(500);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(20));
    };
    Ok(Output {
        command: format!("{program} {}", args.join(" ")),
        code: status.code(),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// A program that runs beside the test; killed on drop.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
}

impl Spawned {
    pub(super) fn start(command: &mut Command) -> Result<Spawned> {
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Spawned { child })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself: its pipes, its status.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
