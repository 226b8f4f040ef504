//! A connection whose messages are handled when they are whole: by the [`Handler`], or here where that does not do as
//! peers need it.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::adapter::Handler;
use super::device::Device;
use super::fault::Fault;
use super::inflight::Description;
use super::memory::MemoryRegion;

/// Bytes of a message's header: request, flags, size (vhost-user specification, "Header").
const HEADER: usize = 12;
/// Longest body. The largest that peers send is a memory table of 8 regions, or a configuration space.
const MAX_BODY: u32 = 4096;

/// The requests that the handler is not asked about, or not always.
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_ENABLE: u32 = 18;
const GET_INFLIGHT_FD: u32 = 31;
const SET_INFLIGHT_FD: u32 = 32;
/// Bytes of an inflight description, as the protocol says it and as compilers lay it out.
const INFLIGHT: usize = 20;
const INFLIGHT_PADDED: usize = 24;
/// Bytes of a memory table before its regions, and of one of them.
const TABLE_HEAD: usize = 8;
const TABLE_REGION: usize = 32;
/// Most regions of a table, and most descriptors that come with a message.
const MOST_REGIONS: usize = 8;
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
    Protocol(#[from] Fault),
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

/// True for a memory table of so many bytes that holds `regions` regions and empty places after them.
fn has_spare_places(size: usize, regions: u32) -> bool {
    let needed = TABLE_HEAD + (regions as usize).min(MOST_REGIONS) * TABLE_REGION;
    regions > 0 && regions as usize <= MOST_REGIONS && size > needed && (size - needed).is_multiple_of(TABLE_REGION)
}

/// The 32-bit number at `at` of a message; 0 beyond its end.
fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Likewise with 64 bits.
fn long(message: &[u8], at: usize) -> u64 {
    u64::from(word(message, at)) | u64::from(word(message, at + 4)) << 32
}

/// The inflight description that is the body of `message`.
fn inflight(message: &[u8]) -> Description {
    let counts = word(message, HEADER + 16);
    Description {
        size: long(message, HEADER),
        offset: long(message, HEADER + 8),
        rings: counts as u16,
        descriptors: (counts >> 16) as u16,
    }
}

/// One peer.
pub(super) struct Connection {
    stream: UnixStream,
    handler: Handler,
}

impl Connection {
    /// On a connected socket.
    pub(super) fn new(stream: UnixStream, device: Device) -> std::io::Result<Connection> {
        // Whole messages only are read, so nothing waits; the handler expects a socket that would.
        stream.set_nonblocking(false)?;
        let handler = Handler::new(stream.try_clone()?, device);
        Ok(Connection { stream, handler })
    }

    /// Handles the next message, if a whole one is there; false when not.
    pub(super) fn serve(&mut self) -> Result<bool, Ended> {
        let mut start = [0; HEADER + 4];
        let got = match rustix::net::recv(&self.stream, &mut start[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Ended::Closed),
            Ok((got, _)) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        if got < HEADER {
            return self.rest_may_come();
        }
        let word = |at| word(&start, at);
        let size = word(8);
        if size > MAX_BODY {
            return Err(Ended::Size(size));
        }
        if rustix::io::ioctl_fionread(&self.stream)? < u64::from(size) + HEADER as u64 {
            return self.rest_may_come();
        }
        if !self.has_room()? {
            return Err(Ended::Unread);
        }
        match (word(0), size as usize) {
            (SET_VRING_ENABLE, 8) => self.enable(word(4))?,
            (GET_INFLIGHT_FD, size @ (INFLIGHT | INFLIGHT_PADDED)) if self.handler.keeps_inflight() => {
                self.make_inflight(size)?;
            }
            (SET_INFLIGHT_FD, size @ (INFLIGHT | INFLIGHT_PADDED)) if self.handler.keeps_inflight() => {
                self.take_inflight(word(4), size)?;
            }
            (SET_MEM_TABLE, size) if has_spare_places(size, word(HEADER)) => self.table(word(4), size)?,
            _ => self.handler.handle()?,
        }
        Ok(true)
    }

    /// SET_VRING_ENABLE, in place of the handler: that refuses it until SET_FEATURES has named the protocol features, but
    /// QEMU's network card enables its first pair when it is made, long before a driver chooses features.
    fn enable(&mut self, flags: u32) -> Result<(), Ended> {
        let (message, _) = self.receive(8)?;
        let (index, num) = (word(&message, HEADER), word(&message, HEADER + 4));
        if num > 1 {
            return Err(Fault::Message.into());
        }
        let outcome = self.with_device(|device| device.set_vring_enable(index, num == 1));
        self.acknowledge(SET_VRING_ENABLE, flags, outcome)
    }

    /// SET_MEM_TABLE with more places than regions, in place of the handler: that wants the message to end with the last
    /// region, but user-mode Linux sends its two places always, and uses one.
    fn table(&mut self, flags: u32, size: usize) -> Result<(), Ended> {
        let (message, files) = self.receive(size)?;
        let count = word(&message, HEADER) as usize;
        let regions = message.get(HEADER + TABLE_HEAD..).unwrap_or(&[]).chunks_exact(TABLE_REGION).take(count);
        let region =
            |b: &[u8]| MemoryRegion { guest: long(b, 0), size: long(b, 8), user: long(b, 16), offset: long(b, 24) };
        let regions: Vec<MemoryRegion> = regions.map(region).collect();
        if regions.len() != count || files.len() != count {
            return Err(Fault::Message.into());
        }
        let outcome = self.with_device(|device| device.set_memory(&regions, &files));
        self.acknowledge(SET_MEM_TABLE, flags, outcome)
    }

    /// GET_INFLIGHT_FD, in place of the handler: that sends the description with its padding, which holds what our stack
    /// held, and knows no VMM that leaves the padding out.
    fn make_inflight(&mut self, size: usize) -> Result<(), Ended> {
        let (message, files) = self.receive(size)?;
        if !files.is_empty() {
            return Err(Fault::Message.into());
        }
        let (made, file) = self.with_device(|device| device.make_inflight(&inflight(&message)))?;
        let mut answer = [GET_INFLIGHT_FD, REPLY, size as u32].map(u32::to_le_bytes).concat();
        answer.extend(made.size.to_le_bytes().iter().chain(&made.offset.to_le_bytes()));
        answer.extend(made.rings.to_le_bytes().iter().chain(&made.descriptors.to_le_bytes()));
        answer.resize(HEADER + size, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.stream, &[IoSlice::new(&answer)], &mut control, flags)?;
        Ok(())
    }

    /// SET_INFLIGHT_FD likewise.
    fn take_inflight(&mut self, flags: u32, size: usize) -> Result<(), Ended> {
        let (message, files) = self.receive(size)?;
        let [file]: [File; 1] = files.try_into().map_err(|_| Fault::Descriptors)?;
        let outcome = self.with_device(|device| device.take_inflight(&inflight(&message), &file));
        self.acknowledge(SET_INFLIGHT_FD, flags, outcome)
    }

    /// Takes a message with a body of `size` bytes, all of which is there: the caller has counted. What is too much of
    /// descriptors is closed.
    fn receive(&mut self, size: usize) -> Result<(Vec<u8>, Vec<File>), Ended> {
        let (mut message, mut files, mut filled) = (vec![0; HEADER + size], Vec::new(), 0);
        while filled < message.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_REGIONS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let part = &mut [IoSliceMut::new(message.get_mut(filled..).unwrap_or(&mut []))];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = recvmsg(&self.stream, part, &mut control, flags)?.bytes;
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = part {
                    files.extend(fds.map(File::from));
                }
            }
            if got == 0 {
                return Err(Ended::Closed);
            }
            filled += got;
        }
        Ok((message, files))
    }

    /// The answer to a request that has been carried out, or not, if there is to be one. Room for it was seen to.
    fn acknowledge(&self, request: u32, flags: u32, outcome: Result<(), Fault>) -> Result<(), Ended> {
        if flags & NEED_REPLY != 0 && self.handler.acknowledges() {
            let head = [request, REPLY, 8, u32::from(outcome.is_err()), 0];
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
        self.handler.with_device(work)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
