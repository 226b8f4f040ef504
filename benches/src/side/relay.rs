//! Between a guest that connects and a switch that connects too: passes vhost-user messages on, and withholds features.
//!
//! ```text
//!   user-mode Linux --connects--> [ relay ] <--connects-- OVS dpdkvhostuserclient
//!         \______________ memory, kicks, calls: file descriptors passed on ______________/
//! ```
//!
//! It stands where QEMU stands for other guests. Frames do not pass it, and once the guest has booted nothing does.

use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Request, flags and size of a message (vhost-user protocol, "Header"), 32 bits each.
const HEADER: usize = 12;
/// The longest body of a message that is passed on; the protocol's own are below 1 KiB.
const MOST_BYTES: usize = 4096;
/// Descriptors of one message: the protocol has 8 memory regions.
const MOST_FDS: usize = 16;
/// `VHOST_USER_GET_FEATURES`, whose answer is the mask of offered features.
const GET_FEATURES: u32 = 1;

/// A running relay; ends with this.
pub struct Relay {
    // Closed first, which the thread sees.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens at `guest` and `switch` (paths) for one connection each. Of the features the switch offers the guest does
    /// not see those in `withheld`.
    ///
    /// # Errors
    /// When a path cannot be bound.
    pub fn start(guest: &Path, switch: &Path, withheld: u64) -> Result<Relay> {
        let listeners = [UnixListener::bind(guest)?, UnixListener::bind(switch)?];
        let (stop, stopped) = UnixStream::pair()?;
        let work = move || {
            // Ends when either side has gone, which they notice by themselves.
            let _ = relay(&listeners, &stopped, withheld);
        };
        Ok(Relay { stop: Some(stop), thread: Some(std::thread::spawn(work)) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn relay(listeners: &[UnixListener; 2], stop: &UnixStream, withheld: u64) -> Result<()> {
    let accept = |listener: &UnixListener| {
        wait(&[listener.as_fd()], stop)?;
        listener.accept().map(|(stream, _)| stream)
    };
    let guest = accept(&listeners[0])?;
    let switch = accept(&listeners[1])?;
    loop {
        match wait(&[guest.as_fd(), switch.as_fd()], stop)? {
            0 => receive(&guest)?.send(&switch)?,
            _ => {
                let mut message = receive(&switch)?;
                message.withhold(withheld);
                message.send(&guest)?;
            }
        }
    }
}

/// Which of `files` can be read first, or has been closed; an error when `stop` has.
fn wait(files: &[std::os::fd::BorrowedFd<'_>], stop: &UnixStream) -> Result<usize> {
    let all = files.iter().copied().chain([stop.as_fd()]);
    let mut polled: Vec<PollFd<'_>> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    poll(&mut polled, None)?;
    let first = polled[..files.len()].iter().position(|p| !p.revents().is_empty());
    first.filter(|_| polled[files.len()].revents().is_empty()).ok_or_else(|| ErrorKind::ConnectionAborted.into())
}

/// One vhost-user message.
struct Message {
    bytes: Vec<u8>,
    files: Vec<File>,
}

impl Message {
    /// The `at`th word of the header.
    fn word(&self, at: usize) -> u32 {
        let word = self.bytes.chunks_exact(4).nth(at).and_then(|c| c.try_into().ok());
        word.map_or(0, u32::from_ne_bytes)
    }

    /// Takes features out of the answer to `GET_FEATURES`; leaves other messages as they are.
    fn withhold(&mut self, features: u64) {
        if self.word(0) != GET_FEATURES {
            return;
        }
        if let Some(body) = self.bytes.last_chunk_mut::<8>() {
            *body = (u64::from_ne_bytes(*body) & !features).to_ne_bytes();
        }
    }

    /// Passes it on, descriptors with its first byte, where they are looked for.
    fn send(&self, to: &UnixStream) -> Result<()> {
        let fds: Vec<_> = self.files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Error::other("too many descriptors in a vhost-user message"));
        }
        let sent = sendmsg(to, &[IoSlice::new(&self.bytes)], &mut control, SendFlags::NOSIGNAL)?;
        (&mut &*to).write_all(self.bytes.get(sent..).unwrap_or_default())
    }
}

/// The next message, whole.
fn receive(from: &UnixStream) -> Result<Message> {
    let mut message = Message { bytes: Vec::new(), files: Vec::new() };
    take(from, HEADER, &mut message)?;
    let size = message.word(2) as usize;
    if size > MOST_BYTES {
        return Err(Error::other("not a vhost-user message"));
    }
    take(from, size, &mut message)?;
    Ok(message)
}

/// Adds `size` bytes to `message`, and the descriptors that come with them.
fn take(from: &UnixStream, size: usize, message: &mut Message) -> Result<()> {
    let mut filled = message.bytes.len();
    message.bytes.resize(filled + size, 0);
    while filled < message.bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut part = [IoSliceMut::new(&mut message.bytes[filled..])];
        let got = recvmsg(from, &mut part, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                message.files.extend(fds.map(File::from));
            }
        }
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        filled += got;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A message of `request` with a body of one number.
    fn message(request: u32, body: u64) -> Vec<u8> {
        let head = [request, 1, 8].map(u32::to_ne_bytes).concat();
        [head, body.to_ne_bytes().to_vec()].concat()
    }

    #[test]
    fn descriptors_stay_with_their_message_and_features_are_withheld() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|n| dir.path().join(n));
        let relay = Relay::start(&a, &b, 1 << 17).unwrap();
        let (mut guest, mut switch) = (UnixStream::connect(&a).unwrap(), UnixStream::connect(&b).unwrap());
        // A message without and one with a descriptor, both there before the relay may look.
        guest.write_all(&message(3, 5)).unwrap();
        let file = tempfile::tempfile().unwrap();
        Message { bytes: message(13, 6), files: vec![file] }.send(&guest).unwrap();
        let [first, second] = [(); 2].map(|()| receive(&switch).unwrap());
        assert_eq!((first.bytes, first.files.len()), (message(3, 5), 0));
        assert_eq!((second.bytes, second.files.len()), (message(13, 6), 1));
        for (request, sent, seen) in [(1, 3 << 17, 1 << 18), (2, 3 << 17, 3 << 17)] {
            switch.write_all(&message(request, sent)).unwrap();
            assert_eq!(receive(&guest).unwrap().bytes, message(request, seen));
        }
        drop(relay);
        assert_eq!(guest.read(&mut [0; 1]).unwrap(), 0, "the relay's end is seen");
    }

    #[test]
    fn a_relay_that_nobody_came_to_ends() {
        let dir = tempfile::tempdir().unwrap();
        drop(Relay::start(&dir.path().join("a"), &dir.path().join("b"), 0).unwrap());
    }
}
