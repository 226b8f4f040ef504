//! Inflight memory: what the VMM keeps of the rings while the switch is away.
//!
//! ```text
//!  GET_INFLIGHT_FD: rings, descriptors  -->  a sealed memfd of zeros, which the VMM keeps
//!  SET_INFLIGHT_FD: the same, with what the switch before us left in it, each time before the rings start
//! ```
//! What is in it is for [`crate::virtio::recover`] to read; where it lies and how long it is, is checked here.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use sharedmem::{Inflight, MAX_VIRTQ, Region, inflight_bytes};

use crate::tenant::{self, Unfit};

/// What a mapping may begin at, whatever the file's pages are; huge ones are no business of this memory.
const PAGE: u64 = 4096;

/// Inflight memory as messages describe it.
#[derive(Clone, Copy)]
pub(super) struct Description {
    /// Bytes of it; of no meaning when it is asked for.
    pub(super) size: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
    /// Rings it is for.
    pub(super) rings: u16,
    /// Descriptors of each.
    pub(super) descriptors: u16,
}

/// Why memory is not made or not taken; words for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it is for {0} rings, and the card has {1}")]
    Rings(u16, u16),
    #[error("it is for rings of {0} descriptors (1 to {MAX_VIRTQ})")]
    Size(u16),
    #[error("it has {0} bytes, and {1} are needed for that many rings and descriptors")]
    Length(u64, u64),
    #[error("it begins at {0}, which is no page's start")]
    Offset(u64),
    #[error("it comes while rings run")]
    Running,
    #[error("{0}")]
    File(#[from] Unfit),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused::System(errno.into())
    }
}

/// The memory of one connection.
pub(super) struct InflightMemory {
    region: Arc<Region>,
    rings: u16,
    /// Descriptors of each ring, at most.
    size: u16,
}

impl InflightMemory {
    /// New memory for the rings of `wanted`, of which the card has `rings`; and how it is to be handed back.
    pub(super) fn make(wanted: &Description, rings: u16, packed: bool) -> Result<(Description, File), Refused> {
        let len = needed(wanted, rings, packed)?;
        let fd = memfd_create("vswitch-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Description { size: len, offset: 0, ..*wanted }, File::from(fd)))
    }

    /// Memory as the VMM hands it back. It need not be what we made: another kind of file is as good if workers may touch
    /// it, and should it shrink, only what is in it is lost ([`sharedmem::fault`]).
    pub(super) fn take(told: &Description, file: &File, rings: u16, packed: bool) -> Result<InflightMemory, Refused> {
        let len = needed(told, rings, packed)?;
        if told.size < len {
            return Err(Refused::Length(told.size, len));
        }
        tenant::check(file)?;
        let there = rustix::fs::fstat(file)?.st_size.max(0) as u64;
        let rest = there.saturating_sub(told.offset);
        if rest < len {
            return Err(Refused::Length(rest, len));
        }
        if !told.offset.is_multiple_of(PAGE) {
            return Err(Refused::Offset(told.offset));
        }
        let region = Region::map(file.as_fd(), told.offset, len as usize, true)?;
        Ok(InflightMemory { region, rings: told.rings, size: told.descriptors })
    }

    /// The part of ring `index`; `None` when there is none, or the features that were chosen since made rings of a kind
    /// that needs more.
    pub(super) fn part(&self, index: usize, packed: bool) -> Option<Inflight> {
        let index = u16::try_from(index).ok().filter(|index| *index < self.rings)?;
        Inflight::new((&self.region, usize::from(index) * inflight_bytes(self.size, packed)), self.size, packed)
    }
}

/// Bytes for the rings of `told`, of which the card has `rings`.
fn needed(told: &Description, rings: u16, packed: bool) -> Result<u64, Refused> {
    if told.rings == 0 || told.rings > rings {
        return Err(Refused::Rings(told.rings, rings));
    }
    if told.descriptors == 0 || told.descriptors > MAX_VIRTQ {
        return Err(Refused::Size(told.descriptors));
    }
    Ok(u64::from(told.rings) * inflight_bytes(told.descriptors, packed) as u64)
}
