//! The control socket: connections, bounded in number and in what each may buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::api::{Decoder, Request, Response};

/// Most control connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Most bytes of answers a peer may leave unread.
const MAX_BACKLOG: usize = 8 << 20;

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    /// The peer has sent all it will; close when the answers are written.
    ending: bool,
}

/// The listener and its connections.
pub(super) struct ApiServer {
    path: PathBuf,
    listener: UnixListener,
    connections: Vec<Option<Connection>>,
}

impl ApiServer {
    /// Binds `path`, taking over a socket file that nobody serves any more.
    pub(super) fn bind(path: &Path) -> io::Result<ApiServer> {
        if path.exists() {
            match UnixStream::connect(path) {
                Ok(_) => {
                    return Err(io::Error::new(
                        ErrorKind::AddrInUse,
                        "another switch serves it; stop that one or give [switch] another socket_dir",
                    ));
                }
                Err(_) => std::fs::remove_file(path)?,
            }
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        Ok(ApiServer { path: path.to_owned(), listener, connections: Vec::new() })
    }

    pub(super) fn listener_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Takes one waiting connection; its slot and descriptor. One too many is closed at once.
    pub(super) fn accept(&mut self) -> Option<(usize, RawFd)> {
        loop {
            let (stream, _) = self.listener.accept().ok()?;
            let slot = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
            if slot >= MAX_CONNECTIONS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if slot == self.connections.len() {
                self.connections.push(None);
            }
            let fd = stream.as_raw_fd();
            self.connections[slot] =
                Some(Connection { stream, decoder: Decoder::new(), out: Vec::new(), ending: false });
            return Some((slot, fd));
        }
    }

    /// Reads what is there and returns the requests it holds, refusals of malformed ones queued.
    pub(super) fn read(&mut self, slot: usize) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut buffer = [0u8; 4096];
        loop {
            let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return requests };
            match connection.stream.read(&mut buffer) {
                Ok(0) => {
                    connection.ending = true;
                    return requests;
                }
                Ok(n) => {
                    for item in connection.decoder.feed(&buffer[..n]) {
                        match item {
                            Ok(request) => requests.push(request),
                            Err(refusal) => connection.out.extend(Response::from(refusal).to_line()),
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return requests,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(slot);
                    return requests;
                }
            }
        }
    }

    /// Queues an answer; a peer that leaves too much unread is closed.
    pub(super) fn queue(&mut self, slot: usize, response: &Response) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        connection.out.extend(response.to_line());
        if connection.out.len() > MAX_BACKLOG {
            self.close(slot);
        }
    }

    /// Writes what the peer takes.
    pub(super) fn flush(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        while !connection.out.is_empty() {
            match connection.stream.write(&connection.out) {
                Ok(n) if n > 0 => drop(connection.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return self.close(slot),
            }
        }
        if connection.ending {
            self.close(slot);
        }
    }

    pub(super) fn close(&mut self, slot: usize) {
        if let Some(place) = self.connections.get_mut(slot) {
            *place = None;
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
