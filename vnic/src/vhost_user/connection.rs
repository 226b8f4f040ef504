//! The one place that knows the `vhost` crate's handler: a connection whose messages are handled when they are whole.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use vhost::vhost_user::BackendReqHandler;

use super::device::Device;

/// Bytes of a message's header: request, flags, size (vhost-user specification, "Header").
const HEADER: usize = 12;
/// Longest body. The largest that peers send is a memory table of 8 regions, or a configuration space.
const MAX_BODY: u32 = 4096;

/// The request that the crate is not asked about.
const SET_VRING_ENABLE: u32 = 18;
/// Flag of a message whose sender waits for an answer.
const NEED_REPLY: u32 = 8;
/// Flags of an answer: version 1, and that it is one.
const REPLY: u32 = 5;

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
            return self.rest_may_come();
        }
        let size = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if size > MAX_BODY {
            return Err(Ended::Size(size));
        }
        if rustix::io::ioctl_fionread(&self.stream)? < u64::from(size) + HEADER as u64 {
            return self.rest_may_come();
        }
        if !self.has_room()? {
            return Err(Ended::Unread);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(0) == SET_VRING_ENABLE && size == 8 {
            self.enable(word(4))?;
        } else {
            self.handler.handle_request()?;
        }
        Ok(true)
    }

    /// SET_VRING_ENABLE, in place of the crate: that refuses it until SET_FEATURES has named the protocol features, but
    /// QEMU's network card enables its first pair when it is made, long before a driver chooses features.
    fn enable(&mut self, flags: u32) -> Result<(), Ended> {
        let mut message = [0; HEADER + 8];
        // All of it is there: the caller has counted. Descriptors sent along are closed by not being asked for.
        let (got, _) = rustix::net::recv(&self.stream, &mut message[..], RecvFlags::DONTWAIT)?;
        let [.., a, b, c, d, e, f, g, h] = message;
        let (index, num) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if got < message.len() || num > 1 {
            return Err(vhost::vhost_user::Error::InvalidMessage.into());
        }
        let (outcome, acknowledges) = self.with_device(|device| device.enable(index, num == 1));
        if flags & NEED_REPLY != 0 && acknowledges {
            let head = [SET_VRING_ENABLE, REPLY, 8, u32::from(outcome.is_err()), 0];
            let answer: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
            rustix::net::send(&self.stream, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        }
        Ok(outcome?)
    }

    /// Part of a message is there. The end of a peer that died in the middle of it shows only as a hang-up.
    fn rest_may_come(&self) -> Result<bool, Ended> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP) { Err(Ended::Closed) } else { Ok(false) }
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
