//! A small blocking vfio-user client: what a VMM says to the switch, one message at a time.
//!
//! The published `vfio_user` crate's client does not serve here: it drops the errno of a refused command
//! (and waits for bytes that never come when a region access is refused), cannot map memory without a
//! descriptor or read-only, and has no time limit. Those are just the cases to be tested.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use sharedmem::Region;

use super::protocol::{
    ACTION_MASK, ACTION_TRIGGER, ACTION_UNMASK, DATA_EVENTFD, DATA_NONE, FLAG_ERROR, FLAG_NO_REPLY, FLAG_REPLY, HEADER,
    MAX_FDS, MAX_REPLY, REGION_MMAP, first_sparse_area, get32, get64, words, write_payload,
};
pub use super::protocol::{Answer, CONFIG_REGION, CallError, IRQ_INTX, IRQ_MSI, IRQ_MSIX, RegionInfo, command};

/// A connection to one virtual card.
pub struct Client {
    stream: UnixStream,
    next_id: u16,
    messages: u64,
    capabilities: String,
    regions: Vec<RegionInfo>,
}

impl Client {
    /// Connects, negotiates the version and asks for all regions, as QEMU does. No answer may take longer
    /// than `patience`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Client, CallError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut client = Client { stream, next_id: 0, messages: 0, capabilities: String::new(), regions: Vec::new() };
        client.negotiate()?;
        let (regions, _irqs) = client.info()?;
        for index in 0..regions.min(16) {
            let region = client.region_info(index)?;
            client.regions.push(region);
        }
        Ok(client)
    }

    fn negotiate(&mut self) -> Result<(), CallError> {
        let mut payload = vec![0; 4];
        payload.extend_from_slice(br#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096}}"#);
        payload.push(0);
        let answer = self.call(command::VERSION, &payload, &[])?;
        let text = answer.payload.get(4..).unwrap_or_default();
        let Some(text) = text.strip_suffix(&[0]) else {
            return Err(CallError::Protocol { command: command::VERSION, what: "text without a final NUL" });
        };
        self.capabilities = String::from_utf8_lossy(text).into_owned();
        Ok(())
    }

    /// The capabilities the switch answered with, as JSON text.
    pub fn capabilities(&self) -> &str {
        &self.capabilities
    }

    /// Number of regions and of interrupt indices.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn info(&mut self) -> Result<(u32, u32), CallError> {
        let answer = self.call(command::GET_INFO, &words(&[16, 0, 0, 0]), &[])?;
        match (get32(&answer.payload, 8), get32(&answer.payload, 12)) {
            (Some(regions), Some(irqs)) => Ok((regions, irqs)),
            _ => Err(CallError::Protocol { command: command::GET_INFO, what: "short answer" }),
        }
    }

    /// Asks for a region as QEMU does: once for the size of the answer, once more for its capabilities.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_info(&mut self, index: u32) -> Result<RegionInfo, CallError> {
        let short = CallError::Protocol { command: command::GET_REGION_INFO, what: "short answer" };
        let mut answer = self.call(command::GET_REGION_INFO, &words(&[32, 0, index, 0, 0, 0, 0, 0]), &[])?;
        let Some(argsz) = get32(&answer.payload, 0) else { return Err(short) };
        if argsz > 32 {
            answer = self.call(command::GET_REGION_INFO, &words(&[argsz, 0, index, 0, 0, 0, 0, 0]), &[])?;
        }
        let p = &answer.payload;
        let (Some(flags), Some(cap), Some(size), Some(offset)) =
            (get32(p, 4), get32(p, 12), get64(p, 16), get64(p, 24))
        else {
            return Err(short);
        };
        let mut info = RegionInfo { size, flags, page: None };
        if flags & REGION_MMAP != 0 {
            let len = first_sparse_area(p, cap as usize).ok_or(CallError::Protocol {
                command: command::GET_REGION_INFO,
                what: "a mappable region without a sparse area at 0",
            })?;
            let fd = answer.fds.first().ok_or(CallError::Protocol {
                command: command::GET_REGION_INFO,
                what: "a mappable region without a descriptor",
            })?;
            info.page = Some(Region::map(fd.as_fd(), offset, len as usize, true)?);
        }
        Ok(info)
    }

    /// A region as it was at the start.
    pub fn region(&self, index: u32) -> Option<&RegionInfo> {
        self.regions.get(index as usize)
    }

    /// Lets the device use `size` bytes at guest address `iova`: the file's bytes from `offset`, or, with no
    /// descriptor, memory that is not shared.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn dma_map(
        &mut self,
        fd: Option<BorrowedFd<'_>>,
        offset: u64,
        iova: u64,
        size: u64,
        writable: bool,
    ) -> Result<(), CallError> {
        let mut payload = words(&[32, if writable { 3 } else { 1 }]);
        payload.extend([offset, iova, size].iter().flat_map(|v| v.to_ne_bytes()));
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        self.call(command::DMA_MAP, &payload, &fds).map(drop)
    }

    /// Takes a mapping back; the switch answers when it has let go.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn dma_unmap(&mut self, iova: u64, size: u64) -> Result<(), CallError> {
        let mut payload = words(&[24, 0]);
        payload.extend([iova, size].iter().flat_map(|v| v.to_ne_bytes()));
        self.call(command::DMA_UNMAP, &payload, &[]).map(drop)
    }

    /// Reads registers.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_read(&mut self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), CallError> {
        let mut payload = offset.to_ne_bytes().to_vec();
        payload.extend(words(&[region, out.len() as u32]));
        let answer = self.call(command::REGION_READ, &payload, &[])?;
        match answer.payload.get(16..) {
            Some(data) if data.len() == out.len() => {
                out.copy_from_slice(data);
                Ok(())
            }
            _ => Err(CallError::Protocol { command: command::REGION_READ, what: "not as many bytes as asked for" }),
        }
    }

    /// Writes registers and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), CallError> {
        self.call(command::REGION_WRITE, &write_payload(region, offset, data), &[]).map(drop)
    }

    /// Writes registers and wants no answer.
    ///
    /// # Errors
    /// [`CallError::Io`].
    pub fn region_write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), CallError> {
        self.send(command::REGION_WRITE, FLAG_NO_REPLY, &write_payload(region, offset, data), &[]).map(drop)
    }

    /// Number of vectors of interrupt `index`.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn irq_count(&mut self, index: u32) -> Result<u32, CallError> {
        let answer = self.call(command::GET_IRQ_INFO, &words(&[16, 0, index, 0]), &[])?;
        get32(&answer.payload, 12).ok_or(CallError::Protocol { command: command::GET_IRQ_INFO, what: "short answer" })
    }

    /// Sets an eventfd for each vector from 0 of interrupt `index`, in messages of up to eight.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn set_irqs(&mut self, index: u32, fds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
        for (chunk, fds) in fds.chunks(8).enumerate() {
            let flags = DATA_EVENTFD | ACTION_TRIGGER;
            let payload = words(&[20, flags, index, chunk as u32 * 8, fds.len() as u32]);
            self.call(command::SET_IRQS, &payload, fds)?;
        }
        Ok(())
    }

    /// Takes all vectors of interrupt `index` down.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn clear_irqs(&mut self, index: u32) -> Result<(), CallError> {
        self.call(command::SET_IRQS, &words(&[20, DATA_NONE | ACTION_TRIGGER, index, 0, 0]), &[]).map(drop)
    }

    /// Masks or unmasks INTx, as a VMM does around a level interrupt.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn mask_intx(&mut self, masked: bool) -> Result<(), CallError> {
        let action = if masked { ACTION_MASK } else { ACTION_UNMASK };
        self.call(command::SET_IRQS, &words(&[20, DATA_NONE | action, IRQ_INTX, 0, 1]), &[]).map(drop)
    }

    /// Resets the device.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn reset(&mut self) -> Result<(), CallError> {
        self.call(command::RESET, &[], &[]).map(drop)
    }

    /// Messages sent so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The socket, for tests that send what no VMM would.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Answer, CallError> {
        let id = self.send(command, 0, payload, fds)?;
        self.answer(id, command)
    }

    fn send(&mut self, command: u16, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u16, CallError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.messages += 1;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend_from_slice(&id.to_ne_bytes());
        message.extend_from_slice(&command.to_ne_bytes());
        message.extend(words(&[(HEADER + payload.len()) as u32, flags, 0]));
        message.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(CallError::Protocol { command, what: "too many descriptors to send" });
        }
        let mut sent = 0;
        while sent < message.len() {
            let iov = [IoSlice::new(&message[sent..])];
            sent += sendmsg(&self.stream, &iov, &mut ancillary, SendFlags::NOSIGNAL).map_err(io::Error::from)?;
            ancillary.clear();
        }
        Ok(id)
    }

    fn answer(&mut self, id: u16, command: u16) -> Result<Answer, CallError> {
        let mut answer = Answer::default();
        let mut header = [0; HEADER];
        self.receive(&mut header, &mut answer.fds)?;
        let wrong = |what| CallError::Protocol { command, what };
        let size = get32(&header, 4).unwrap_or(0) as usize;
        let flags = get32(&header, 8).unwrap_or(0);
        if header[..2] != id.to_ne_bytes() || header[2..4] != command.to_ne_bytes() {
            return Err(wrong("an answer to another message"));
        }
        if flags & 0xf != FLAG_REPLY || !(HEADER..=MAX_REPLY).contains(&size) {
            return Err(wrong("not a reply, or one of senseless size"));
        }
        answer.payload = vec![0; size - HEADER];
        self.receive(&mut answer.payload, &mut answer.fds)?;
        if flags & FLAG_ERROR != 0 {
            let errno = get32(&header, 12).unwrap_or(0) as i32;
            return Err(CallError::Refused { command, error: io::Error::from_raw_os_error(errno) });
        }
        Ok(answer)
    }

    fn receive(&mut self, out: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), CallError> {
        let mut got = 0;
        while got < out.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(&mut out[got..])];
            let message = match recvmsg(&self.stream, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(io::Error::from)?,
            };
            for item in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = item {
                    fds.extend(rights);
                }
            }
            if message.bytes == 0 {
                return Err(CallError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            got += message.bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
