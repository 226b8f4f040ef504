//! Messages as bytes: the header, commands, and fields in the order of the host (both ends are on it).
//!
//! Facts: the vfio-user protocol specification (QEMU's `docs/interop/vfio-user.rst`), "Header" and "Commands".

use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// Most bytes of data in one region access, as told to the VMM.
pub const MAX_DATA: usize = 64 << 10;
/// Most bytes of one message: data, and room for what stands before it. A longer one ends the connection.
pub const MAX_MESSAGE: usize = MAX_DATA + 4096;
/// Most descriptors in one message, as told to the VMM (QEMU accepts no more than 16 here).
pub const MAX_FDS: usize = 16;

/// Commands by their number in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)] // named as in the specification
pub enum Command {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    GetInfo = 4,
    GetRegionInfo = 5,
    GetRegionIoFds = 6,
    GetIrqInfo = 7,
    SetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    DeviceReset = 13,
}

impl Command {
    /// The command with this number, if this server serves it.
    pub fn from_number(number: u16) -> Option<Command> {
        use Command::*;
        [
            Version,
            DmaMap,
            DmaUnmap,
            GetInfo,
            GetRegionInfo,
            GetRegionIoFds,
            GetIrqInfo,
            SetIrqs,
            RegionRead,
            RegionWrite,
            DeviceReset,
        ]
        .into_iter()
        .find(|c| *c as u16 == number)
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender's number for the message; the reply carries it.
    pub id: u16,
    /// Command number.
    pub command: u16,
    /// Bytes of the whole message.
    pub size: u32,
    /// Type in the low four bits, then [`Header::NO_REPLY`] and [`Header::ERROR`].
    pub flags: u32,
    /// Errno of a reply with [`Header::ERROR`].
    pub error: u32,
}

impl Header {
    /// Bits of `flags` that hold the type: 0 is a command.
    pub const TYPE: u32 = 0xf;
    /// Type of a reply.
    pub const REPLY: u32 = 1;
    /// The sender wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command failed.
    pub const ERROR: u32 = 1 << 5;

    /// The header in the first bytes of `bytes`; `None` when they are too few.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields(bytes);
        Some(Header {
            id: fields.u16().ok()?,
            command: fields.u16().ok()?,
            size: fields.u32().ok()?,
            flags: fields.u32().ok()?,
            error: fields.u32().ok()?,
        })
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..2].copy_from_slice(&self.id.to_ne_bytes());
        out[2..4].copy_from_slice(&self.command.to_ne_bytes());
        out[4..8].copy_from_slice(&self.size.to_ne_bytes());
        out[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        out[12..16].copy_from_slice(&self.error.to_ne_bytes());
        out
    }

    /// True when the size lies between a bare header and [`MAX_MESSAGE`].
    pub fn sane(&self) -> bool {
        (HEADER..=MAX_MESSAGE).contains(&(self.size as usize))
    }
}

/// What a command is answered with.
#[derive(Debug, Default)]
pub struct Reply {
    /// What follows the header.
    pub payload: Vec<u8>,
    /// A descriptor to send along.
    pub fd: Option<OwnedFd>,
}

impl From<Vec<u8>> for Reply {
    fn from(payload: Vec<u8>) -> Reply {
        Reply { payload, fd: None }
    }
}

/// A message ready to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// A descriptor that goes with the first byte.
    pub fd: Option<OwnedFd>,
}

impl Outgoing {
    /// The answer to `request`.
    pub fn answer(request: &Header, outcome: Result<Reply, Errno>) -> Outgoing {
        let (reply, flags, error) = match outcome {
            Ok(reply) => (reply, Header::REPLY, 0),
            Err(errno) => (Reply::default(), Header::REPLY | Header::ERROR, errno.raw_os_error().unsigned_abs()),
        };
        let size = (HEADER + reply.payload.len()) as u32; // a payload is at most MAX_DATA and some
        let header = Header { id: request.id, command: request.command, size, flags, error };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&reply.payload);
        Outgoing { bytes, fd: reply.fd }
    }
}

/// Reads the fields of a payload one after the other; a payload too short for them is `EINVAL`.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = tail;
        Ok(*head)
    }

    /// The next 16 bits.
    ///
    /// # Errors
    /// `EINVAL` when there are none.
    pub fn u16(&mut self) -> Result<u16, Errno> {
        self.take().map(u16::from_ne_bytes)
    }

    /// The next 32 bits.
    ///
    /// # Errors
    /// `EINVAL` when there are none.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    /// The next 64 bits.
    ///
    /// # Errors
    /// `EINVAL` when there are none.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Payload of 32-bit fields, as bytes.
pub(crate) fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

/// How many messages of each command and accesses to each region there were, over all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageCounters {
    /// By command number; the last one counts the numbers this server does not know.
    pub commands: [u64; 20],
    /// Region reads by region index (BARs 0..=5, 7 configuration space); the last one counts bad indices.
    pub reads: [u64; 10],
    /// Region writes likewise.
    pub writes: [u64; 10],
}

impl MessageCounters {
    /// All messages.
    pub fn total(&self) -> u64 {
        self.commands.iter().sum()
    }

    pub(crate) fn command(&mut self, number: u16) {
        let at = usize::from(number).min(self.commands.len() - 1);
        self.commands[at] += 1;
    }

    pub(crate) fn access(&mut self, region: u32, write: bool) {
        let side = if write { &mut self.writes } else { &mut self.reads };
        let at = (region as usize).min(side.len() - 1);
        side[at] += 1;
    }
}
