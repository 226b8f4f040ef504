//! Peers' processes: each ends with what holds it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where a peer's processes run and what they are told by their environment.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// What they print goes to files here.
    pub dir: &'a Path,
    /// The network namespace; the bench's own without one.
    pub namespace: Option<&'a str>,
    /// Environment variables.
    pub envs: &'a [(&'a str, &'a Path)],
}

/// A running program, killed on drop. Its standard input stays open, and what it prints goes to a file.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args`, printing to `NAME.log`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(program: &str, args: &[&str], place: Place<'_>) -> Result<Process> {
        let name = Path::new(program).file_name().map_or(program.into(), |n| n.to_string_lossy().into_owned());
        let log = place.dir.join(format!("{name}.log"));
        let file = File::create(&log)?;
        // Ended by the kernel with us, however we end; `ip netns exec` becomes the program.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(namespace) = place.namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(program).args(args).envs(place.envs.iter().copied());
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

/// Runs a command to its end, at most `limit`, and returns what it printed.
///
/// # Errors
/// When it is not installed, fails or takes longer: with what it printed.
pub fn run_within(limit: Duration, program: &str, args: &[&str], envs: &[(&str, &Path)]) -> Result<String> {
    let seconds = limit.as_secs_f64().to_string();
    // Twice: `timeout` ends with us, and the program with `timeout`.
    let kill = ["--pdeathsig", "KILL"];
    let output = Command::new("setpriv")
        .args(kill)
        .args(["timeout", "--signal=KILL", &seconds, "setpriv"])
        .args(kill)
        .arg(program)
        .args(args)
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let name = Path::new(program).file_name().map_or(program.into(), |n| n.to_string_lossy());
        let what = args.first().unwrap_or(&"");
        bail!("{name} {what} ({}): {} {}", output.status, text(&output.stderr), text(&output.stdout));
    }
    Ok(text(&output.stdout))
}

/// As [`run_within`], for commands that are done at once or never.
///
/// # Errors
/// As there.
pub fn run(program: &str, args: &[&str], envs: &[(&str, &Path)]) -> Result<String> {
    run_within(Duration::from_secs(60), program, args, envs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that is not installed, one that ends and one that never is ready say who they are and what they printed last.
    #[test]
    fn a_peer_that_does_not_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path(), namespace: None, envs: &[] };
        let second = Duration::from_secs(1);
        let start = |program, args: &[&str], limit, ready| {
            let mut process = Process::start(program, args, place).unwrap();
            process.wait_until(limit, || ready).map_err(|e| e.to_string())
        };
        assert_eq!(start("sleep", &["60"], second, true), Ok(()));
        let error = start("/nowhere/dpdk-testpmd", &[], 60 * second, false).unwrap_err();
        let words = ["dpdk-testpmd ended (exit status: ", "/nowhere/dpdk-testpmd: No such file"];
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
        let script = "echo one; echo two; echo; echo three >&2; exit 3";
        let error = start("sh", &["-c", script], 60 * second, false).unwrap_err();
        assert_eq!(error, "sh ended (exit status: 3): two; three");
        let error = start("sleep", &["60"], second / 10, false).unwrap_err();
        assert_eq!(error, "sleep is not ready after 0 s: ");
    }

    /// What a command printed is what comes back, or what is told when it fails; one that does not end is ended.
    #[test]
    fn a_command_that_fails_says_what_it_printed() {
        let sh = |limit, script| run_within(limit, "sh", &["-c", script], &[]).map_err(|e| e.to_string());
        let long = Duration::from_secs(60);
        assert_eq!(sh(long, "echo ' fine '; echo aside >&2"), Ok("fine".to_owned()));
        assert_eq!(
            sh(long, "echo told; echo broken >&2; exit 4"),
            Err("sh -c (exit status: 4): broken told".to_owned())
        );
        assert!(sh(Duration::from_millis(200), "sleep 600").unwrap_err().starts_with("sh -c ("));
    }
}
