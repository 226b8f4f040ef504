//! The socket: binding its path, and whole messages in and out of a connection without ever blocking.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, stat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};

use super::message::{HEADER, Header, MAX_MESSAGE, Outgoing};

/// Descriptors taken in with one message. More than a VMM is told: some VMMs do not look. What exceeds it is
/// closed by the kernel.
const MOST_FDS: usize = 64;
/// Bytes of answers a VMM may leave unread before it is cut off.
const MOST_UNREAD: usize = 256 << 10;
/// Bytes of a socket path that fit `sockaddr_un`, without the NUL.
pub const MAX_PATH: usize = 107;

/// Why a socket could not be made. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are the path, and what the system said
pub enum BindError {
    #[error("socket path {} is {} bytes long, and {MAX_PATH} is the most; choose a shorter socket_dir", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    #[error("socket {} is in use by another process; stop it, or choose another socket_dir", .0.display())]
    InUse(PathBuf),
    #[error("{} is there and is no socket; remove it, or choose another socket_dir", .0.display())]
    NotASocket(PathBuf),
    #[error("no permission to make socket {}; run as a user who may write to its directory", .0.display())]
    Permission(PathBuf),
    #[error("the directory of socket {} does not exist; create it", .0.display())]
    NoDirectory(PathBuf),
    #[error("cannot make socket {path}: {1}", path = .0.display())]
    System(PathBuf, Errno),
}

/// A listening socket; its path goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    inode: (u64, u64),
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Listener {
    /// Binds `path`. A socket that is there and that nobody listens on is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Listener, BindError> {
        let owned = || path.to_path_buf();
        if path.as_os_str().len() > MAX_PATH {
            return Err(BindError::TooLong(owned()));
        }
        let say = |errno: Errno| match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => BindError::Permission(owned()),
            Errno::NOENT | Errno::NOTDIR => BindError::NoDirectory(owned()),
            Errno::ADDRINUSE => BindError::InUse(owned()),
            other => BindError::System(owned(), other),
        };
        let address = SocketAddrUnix::new(path).map_err(say)?;
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(say)
        };
        if let Ok(found) = stat(path) {
            if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_socket() {
                return Err(BindError::NotASocket(owned()));
            }
            // Nobody home is the one answer that allows taking the place.
            match connect(&socket()?, &address) {
                Err(Errno::CONNREFUSED) => unlink(path).map_err(say)?,
                Err(Errno::NOENT) => {}
                Err(errno @ (Errno::ACCESS | Errno::PERM)) => return Err(say(errno)),
                _ => return Err(BindError::InUse(owned())),
            }
        }
        let fd = socket()?;
        bind(&fd, &address).map_err(say)?;
        let inode = inode(&stat(path).map_err(say)?);
        let listener = Listener { fd, path: owned(), inode };
        listen(&listener.fd, 16).map_err(say)?;
        Ok(listener)
    }

    /// The next connection; `None` when there is none.
    pub(crate) fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        match accept_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only what we made: somebody may have put another socket in its place.
        if stat(&self.path).is_ok_and(|found| inode(&found) == self.inode) {
            let _ = unlink(&self.path);
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the VMM closed the connection")]
    Closed,
    #[error("the VMM closed the connection in the middle of a message")]
    Midway,
    #[error("it announced a message of {0} bytes (at least {HEADER}, at most {MAX_MESSAGE})")]
    Size(u32),
    #[error("it sent what is not a command (flags {0:#x})")]
    NotACommand(u32),
    #[error("it leaves more than {MOST_UNREAD} bytes of answers unread")]
    Unread,
    #[error("it made an interrupt eventfd block, which held up a worker")]
    BlockedWorker,
    #[error("{0}")]
    System(#[from] Errno),
}

impl Ended {
    /// True for the ends every connection comes to.
    pub(super) fn ordinary(&self) -> bool {
        matches!(self, Ended::Closed | Ended::System(Errno::CONNRESET | Errno::PIPE))
    }
}

/// One connection: a message being received, and answers waiting to be sent.
#[derive(Debug)]
pub(super) struct Connection {
    fd: OwnedFd,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes until the next decision: a header, then the whole message.
    need: usize,
    fds: Vec<OwnedFd>,
    outbox: VecDeque<Outgoing>,
    /// Bytes of the first answer that are sent.
    sent: usize,
    /// Bytes in the outbox.
    unread: usize,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd) -> Connection {
        Connection {
            fd,
            buffer: vec![0; 512],
            filled: 0,
            need: HEADER,
            fds: Vec::new(),
            outbox: VecDeque::new(),
            sent: 0,
            unread: 0,
        }
    }

    /// Receives until a message is whole; `None` when there is no more to read now. The message stays in
    /// the connection until the next call.
    ///
    /// Header and body are received apart, each to its exact length: descriptors arrive with the first byte
    /// of what they were sent with, so none of them can end up with a neighbouring message.
    pub(super) fn receive(&mut self) -> Result<Option<(Header, Vec<OwnedFd>)>, Ended> {
        if self.filled > 0 && self.filled == self.need {
            self.filled = 0;
            self.need = HEADER;
        }
        loop {
            while self.filled < self.need {
                if !self.fill()? {
                    return Ok(None);
                }
            }
            let Some(header) = Header::decode(&self.buffer) else { return Ok(None) };
            if self.need == HEADER {
                if !header.sane() {
                    return Err(Ended::Size(header.size));
                }
                if header.flags & Header::TYPE != 0 {
                    return Err(Ended::NotACommand(header.flags));
                }
                self.need = header.size as usize;
                if self.buffer.len() < self.need {
                    self.buffer.resize(self.need, 0);
                }
            }
            if self.filled == self.need {
                return Ok(Some((header, std::mem::take(&mut self.fds))));
            }
        }
    }

    /// What follows the header of the message last received.
    pub(super) fn payload(&self) -> &[u8] {
        self.buffer.get(HEADER..self.need).unwrap_or(&[])
    }

    /// One receive; false when it would block.
    fn fill(&mut self) -> Result<bool, Ended> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let part = &mut self.buffer[self.filled..self.need];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match recvmsg(&self.fd, &mut [IoSliceMut::new(part)], &mut control, flags) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // Every one is taken out of the buffer, so that those too many are closed.
                for fd in fds {
                    if self.fds.len() < MOST_FDS {
                        self.fds.push(fd);
                    }
                }
            }
        }
        if received == 0 {
            return Err(if self.filled == 0 { Ended::Closed } else { Ended::Midway });
        }
        self.filled += received;
        Ok(true)
    }

    /// Puts an answer behind those waiting.
    pub(super) fn push(&mut self, answer: Outgoing) {
        self.unread += answer.bytes.len();
        self.outbox.push_back(answer);
    }

    /// Sends what can be sent. Each answer starts with a send of its own, so that its descriptor comes with
    /// its header, where clients look for it.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        while let Some(answer) = self.outbox.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = answer.fd.as_ref().map(|fd| [fd.as_fd()]);
            if let Some(fds) = &fds {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let part = answer.bytes.get(self.sent..).unwrap_or(&[]);
            let sent =
                sendmsg(&self.fd, &[IoSlice::new(part)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            match sent {
                Ok(n) => {
                    answer.fd = None;
                    self.sent += n;
                    self.unread -= n;
                    if self.sent >= answer.bytes.len() {
                        self.outbox.pop_front();
                        self.sent = 0;
                    }
                }
                Err(Errno::AGAIN) if self.unread > MOST_UNREAD => return Err(Ended::Unread),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// True when answers wait for the socket to take them.
    pub(super) fn backlog(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// True when the peer has gone and nothing is left to read.
    pub(super) fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
