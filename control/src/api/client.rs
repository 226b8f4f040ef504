//! The asking side of the control socket: one question, one answer, blocking.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde_json::Value;

use super::{METHOD_SHOW, Request, Response, Status};

/// Longest answer in bytes: far beyond the status of the largest switch.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Asks the switch behind `path` and waits at most `timeout` for the whole exchange.
///
/// # Errors
/// One sentence that names the socket and the mend, or the switch's own refusal.
pub fn call(path: &Path, method: &str, params: Value, timeout: Duration) -> Result<Value, String> {
    let deadline = Instant::now() + timeout;
    let shown = path.display();
    let broken = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => late(path, timeout),
        _ => format!("the switch at {shown} closed the connection ({error}); see its log"),
    };
    let mut stream = open(path, timeout)?;
    let id = 1;
    let request = Request { id, method: method.to_owned(), params };
    stream.write_all(&request.to_line()).map_err(broken)?;

    let mut answer = Vec::new();
    let mut chunk = [0u8; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late(path, timeout));
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Err(format!("the switch at {shown} closed the connection unanswered; see its log")),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(error)),
        };
        let end = chunk[..count].iter().position(|b| *b == b'\n');
        answer.extend_from_slice(&chunk[..end.unwrap_or(count)]);
        if end.is_some() {
            break;
        }
        if answer.len() > MAX_ANSWER {
            return Err(format!("what answers at {shown} is no switch; give another --socket PATH"));
        }
    }
    let response = Response::from_line(&answer).map_err(|why| {
        format!("the answer from {shown} is not understood because {why}; give another --socket PATH")
    })?;
    response.outcome
}

/// Asks for the status document.
///
/// # Errors
/// As [`call`], and when the document is not the one this version knows.
pub fn show(path: &Path, timeout: Duration) -> Result<Status, String> {
    let value = call(path, METHOD_SHOW, Value::Object(serde_json::Map::new()), timeout)?;
    serde_json::from_value(value).map_err(|error| {
        format!(
            "the status from {} is not understood ({error}); use the vswitch program that runs the switch",
            path.display()
        )
    })
}

fn late(path: &Path, timeout: Duration) -> String {
    format!(
        "the switch at {} did not answer within {} s; see its log and whether its CPU is free",
        path.display(),
        timeout.as_secs_f32()
    )
}

/// Connects with a limit: a switch that accepts nobody must not hold the person who asks.
fn open(path: &Path, timeout: Duration) -> Result<UnixStream, String> {
    let shown = path.display();
    let refused = |error: Errno| match error {
        Errno::NOENT | Errno::CONNREFUSED => {
            format!("no switch answers at {shown}; is `vswitch run` running, or give --socket PATH")
        }
        Errno::ACCESS | Errno::PERM => {
            format!("the socket {shown} may not be opened by this user; run as the user that runs the switch")
        }
        Errno::AGAIN => late(path, timeout),
        Errno::NAMETOOLONG => {
            format!("the socket path {shown} is longer than Linux allows; give a shorter --socket PATH")
        }
        other => format!("the socket {shown} cannot be opened ({other}); give another --socket PATH"),
    };
    let address = SocketAddrUnix::new(path).map_err(refused)?;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(refused)?;
    // The send timeout bounds connect(2) too where the listener's queue is full (unix(7)).
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(timeout)).map_err(refused)?;
    connect(&fd, &address).map_err(refused)?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
