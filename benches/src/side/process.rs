//! Peers' processes: each ends with what holds it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running program, killed on drop. Its standard input stays open, and what it prints goes to a file.
pub struct Process {
    child: Child,
    name: String,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `program` with `args`, printing to `dir/NAME.log`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(program: &str, args: &[&str], dir: &Path, envs: &[(&str, &Path)]) -> Result<Process> {
        let name = Path::new(program).file_name().map_or(program.into(), |n| n.to_string_lossy().into_owned());
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log)?;
        // Ended by the kernel with us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(args).envs(envs.iter().copied());
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        Ok(Process { child, name, log })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`, at most `limit`.
    ///
    /// # Errors
    /// When it ends or the time is over: with the last lines it printed.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, self.last_lines());
            }
            if start.elapsed() > limit {
                bail!("{} is not ready after {} s: {}", self.name, limit.as_secs(), self.last_lines());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(2)..].join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it is not installed or fails: with what it printed.
pub fn run(program: &str, args: &[&str], envs: &[(&str, &Path)]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let name = Path::new(program).file_name().map_or(program.into(), |n| n.to_string_lossy());
        bail!("{name} {}: {} {}", args.first().unwrap_or(&""), text(&output.stderr), text(&output.stdout));
    }
    Ok(text(&output.stdout))
}
