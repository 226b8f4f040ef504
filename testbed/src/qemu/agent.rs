//! The host's side of the agent in `testbed/guest/agent`.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use thiserror::Error;

/// Starts the report of a command, see `testbed/guest/agent`.
const BEGIN: u8 = 0x1D;
/// Ends it.
const END: u8 = 0x1E;
/// How much longer than its own limit the host waits for a command: the guest kills it first.
const GRACE: Duration = Duration::from_secs(10);

/// What a command in a guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status as a shell gives it; 137 where the command was killed at its time limit.
    pub status: i32,
    /// Standard output and standard error together.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AgentError {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("its process has ended")]
    Gone,
    #[error("the agent takes one line, this command has several")]
    ManyLines,
    #[error("the answer makes no sense: {0:?}")]
    Garbled(String),
}

/// The serial line to the agent.
pub(crate) struct Agent {
    to_guest: ChildStdin,
    /// Fed by a thread that reads the process's standard output, so that waits are bounded.
    from_guest: Receiver<Vec<u8>>,
    received: Vec<u8>,
    next_id: u64,
}

impl Agent {
    pub(crate) fn new(to_guest: ChildStdin, mut stdout: ChildStdout) -> Self {
        let (sender, from_guest) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(size @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..size].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { to_guest, from_guest, received: Vec::new(), next_id: 1 }
    }

    /// Waits until a freshly started agent says so.
    pub(crate) fn wait_ready(&mut self, timeout: Duration) -> Result<(), AgentError> {
        self.wait_end("ready", timeout).map(drop)
    }

    /// Waits until the process has closed its side.
    pub(crate) fn wait_gone(&mut self, timeout: Duration) -> Result<(), AgentError> {
        let until = Instant::now() + timeout;
        loop {
            match self.receive(until, timeout) {
                Ok(()) => {}
                Err(AgentError::Gone) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Runs one command line.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<Output, AgentError> {
        let id = self.send(command, limit)?;
        let (text, status) = self.wait_end(&id, limit + GRACE)?;
        let begin = format!("{}{id}\n", char::from(BEGIN));
        let Some((_, text)) = text.split_once(&begin) else {
            return Err(AgentError::Garbled(text));
        };
        Ok(Output { status, text: text.to_owned() })
    }

    /// Hands over one command line without waiting for anything. What came earlier is forgotten.
    pub(crate) fn send(&mut self, command: &str, limit: Duration) -> Result<String, AgentError> {
        if command.contains('\n') {
            return Err(AgentError::ManyLines);
        }
        while let Ok(bytes) = self.from_guest.try_recv() {
            drop(bytes);
        }
        self.received.clear();
        let id = self.next_id.to_string();
        self.next_id += 1;
        let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        writeln!(self.to_guest, "{id} {} {command}", seconds.max(1)).map_err(|_| AgentError::Gone)?;
        Ok(id)
    }

    /// Waits for the end marker of `id`; returns what came before it, and its status.
    fn wait_end(&mut self, id: &str, timeout: Duration) -> Result<(String, i32), AgentError> {
        let until = Instant::now() + timeout;
        let marker = [&[END], id.as_bytes(), b" "].concat();
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.received[searched..], &marker).map(|at| searched + at)
                && let Some(length) = self.received[at..].iter().position(|&byte| byte == b'\n')
            {
                let status = String::from_utf8_lossy(&self.received[at + marker.len()..at + length]).into_owned();
                let text = String::from_utf8_lossy(&self.received[..at]).into_owned();
                self.received.drain(..=at + length);
                let status = status.trim().parse().map_err(|_| AgentError::Garbled(status))?;
                return Ok((text, status));
            }
            // A marker may straddle two reads, and its line may be unfinished.
            if find(&self.received[searched..], &marker).is_none() {
                searched = self.received.len().saturating_sub(marker.len());
            }
            self.receive(until, timeout)?;
        }
    }

    fn receive(&mut self, until: Instant, timeout: Duration) -> Result<(), AgentError> {
        match self.from_guest.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                self.received.extend_from_slice(&bytes);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Err(AgentError::Silent(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Gone),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
