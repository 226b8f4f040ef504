//! A switch as its users run it: the program, in a process of its own, spoken to by its control socket.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A running `vswitch run`, ended (SIGKILL) on drop.
pub struct SwitchProcess {
    child: Child,
    dir: PathBuf,
    ended: Option<ExitStatus>,
}

impl SwitchProcess {
    /// Writes `config` to `dir/switch.toml` and starts `program run -c` on it, inside network
    /// namespace `netns` when one is named. The configuration's `socket_dir` must be `dir`. Returns when
    /// the control socket answers.
    ///
    /// # Errors
    /// When the program cannot be started, or ends or stays silent for 20 seconds: with its log.
    pub fn start(program: &Path, netns: Option<&str>, dir: &Path, config: &str) -> Result<SwitchProcess> {
        let file = dir.join("switch.toml");
        std::fs::write(&file, config)?;
        let log = File::create(dir.join("switch.log"))?;
        let mut command = match netns {
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name]).arg(program);
                ip
            }
            None => Command::new(program),
        };
        command.args(["run", "-c"]).arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut switch = SwitchProcess { child, dir: dir.to_owned(), ended: None };
        let deadline = Instant::now() + Duration::from_secs(20);
        while switch.call("ping").is_err() {
            if let Some(status) = switch.child.try_wait()? {
                bail!("the switch ended at once ({status}):\n{}", switch.log());
            }
            if Instant::now() > deadline {
                bail!("the switch does not answer:\n{}", switch.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(switch)
    }

    /// Path of a vNIC's socket.
    pub fn socket(&self, vnic: &str) -> PathBuf {
        self.dir.join(format!("{vnic}.sock"))
    }

    /// Path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Everything the switch has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("switch.log")).unwrap_or_default()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One call on the control socket, answered within 5 seconds.
    ///
    /// # Errors
    /// When nobody answers, or with the switch's refusal.
    pub fn call(&self, method: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(self.control_socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{{\"id\":1,\"method\":\"{method}\",\"params\":{{}}}}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => bail!("the switch refused {method}: {answer}"),
        }
    }

    /// The document of `vswitch show --json`.
    ///
    /// # Errors
    /// As [`SwitchProcess::call`].
    pub fn show(&self) -> Result<Value> {
        self.call("show")
    }

    /// The document once guests' frames have stopped moving: two looks 50 ms apart that count the same. Beacons
    /// go on all the time and are not looked at.
    ///
    /// # Errors
    /// As [`SwitchProcess::call`], or when traffic does not stop for 10 seconds.
    pub fn show_quiet(&self) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut before = self.show()?;
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.show()?;
            if guests_part(&now) == guests_part(&before) {
                return Ok(now);
            }
            if Instant::now() > deadline {
                bail!("frames keep moving");
            }
            before = now;
        }
    }

    /// The document once frames have stopped moving and `holds` of it. Its counters are not all read at one
    /// moment, and beacons move some of them, so what does not hold is looked at again for two seconds.
    ///
    /// # Errors
    /// As [`SwitchProcess::show_quiet`], or with what does not hold.
    pub fn show_when(&self, holds: impl Fn(&Value) -> Result<()>) -> Result<Value> {
        let mut status = self.show_quiet()?;
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            match holds(&status) {
                Ok(()) => return Ok(status),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(7)),
            }
            status = self.show()?;
        }
    }

    /// Waits until the log holds `text`.
    ///
    /// # Errors
    /// When it does not within `timeout`; the log is in the message.
    pub fn wait_log(&self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.log().contains(text) {
            if Instant::now() > deadline {
                bail!("the log does not say {text:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it has not ended after 10 seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = Some(status);
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the switch does not end on SIGTERM:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What only guests' frames change.
fn guests_part(status: &Value) -> Vec<Value> {
    let ports = status["ports"].as_array().cloned().unwrap_or_default();
    let part = |port: Value| match port["role"] == "uplink" {
        true => port["in"]["forwarded"].clone(),
        false => port,
    };
    ports.into_iter().map(part).collect()
}

impl Drop for SwitchProcess {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
