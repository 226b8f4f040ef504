//! The one place that knows the `vhost` crate's handler: a connection whose messages are handled when they are whole.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use vhost::vhost_user::BackendReqHandler;

use super::device::Device;

/// Bytes of a message's header: request, flags, size (vhost-user specification, "Header").
const HEADER: usize = 12;
/// Longest body. The largest that peers send is a memory table of 8 regions, or a configuration space.
const MAX_BODY: u32 = 4096;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the peer closed the connection")]
    Closed,
    #[error("it announced a message of {0} bytes (at most {MAX_BODY})")]
    Size(u32),
    #[error("it leaves answers unread")]
    Unread,
    #[error("{0}")]
    Protocol(#[from] vhost::vhost_user::Error),
    #[error("{0}")]
    System(#[from] Errno),
    #[error("it made an interrupt eventfd block, which held up a worker")]
    BlockedWorker,
}

impl Ended {
    /// True for the ends every connection comes to.
    pub(super) fn ordinary(&self) -> bool {
        matches!(self, Ended::Closed | Ended::System(Errno::CONNRESET | Errno::PIPE))
    }
}

/// One peer.
pub(super) struct Connection {
    stream: UnixStream,
    handler: BackendReqHandler<Mutex<Device>>,
    device: Arc<Mutex<Device>>,
}

impl Connection {
    /// On a connected socket.
    pub(super) fn new(stream: UnixStream, device: Device) -> std::io::Result<Connection> {
        // Whole messages only are read, so nothing waits; the crate expects a socket that would.
        stream.set_nonblocking(false)?;
        let device = Arc::new(Mutex::new(device));
        let handler = BackendReqHandler::from_stream(stream.try_clone()?, device.clone());
        Ok(Connection { stream, handler, device })
    }

    /// Handles the next message, if a whole one is there; false when not.
    pub(super) fn serve(&mut self) -> Result<bool, Ended> {
        let mut header = [0; HEADER];
        let got = match rustix::net::recv(&self.stream, &mut header[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Ended::Closed),
            Ok((got, _)) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        if got < HEADER {
            return Ok(false);
        }
        let size = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if size > MAX_BODY {
            return Err(Ended::Size(size));
        }
        if rustix::io::ioctl_fionread(&self.stream)? < u64::from(size) + HEADER as u64 {
            return Ok(false);
        }
        if !self.has_room()? {
            return Err(Ended::Unread);
        }
        self.handler.handle_request()?;
        Ok(true)
    }

    /// True when the socket takes an answer without waiting: Linux calls a unix socket writable while at least three
    /// quarters of its buffer are free, and no answer is as long as that.
    fn has_room(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(fds[0].revents().contains(PollFlags::OUT))
    }

    /// Works with the card's control half.
    pub(super) fn with_device<T>(&self, work: impl FnOnce(&mut Device) -> T) -> T {
        work(&mut self.device.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
