//! DMA_MAP and DMA_UNMAP: from messages to the immutable [`DmaMap`] the card uses.
//!
//! ```text
//!  message --> current (changed) --publish--> model.set_map(current)
//!                  |                              |
//!                  +--> retired --grace, drop-----+--> only now the answers to the unmaps go out
//! ```
//!
//! A VMM sends maps and unmaps by the dozen (firmware moves memory about), so neither is done per
//! message: a run of them is published once, before anything else is served, and one grace period covers
//! every unmap of a batch.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use sharedmem::{DmaMap, MapError, Mapping, Region};

use super::Fault;
use super::message::{Fields, Reply, words};
use crate::tenant::{self, Unfit};

const FLAG_READ: u32 = 1;
const FLAG_WRITE: u32 = 1 << 1;
/// `VFIO_DMA_UNMAP_FLAG_*` of `<linux/vfio.h>`.
const UNMAP_GET_DIRTY: u32 = 1;
const UNMAP_ALL: u32 = 1 << 1;
/// Most mappings one unmap of a range takes away.
const MAX_UNMAP: usize = 256;
/// This much memory without a descriptor, and none with one, is a VM whose memory is not shared. ROMs
/// and firmware variables, which never have a descriptor, come beside memory that has one.
const UNSHARED: u64 = 1 << 20;

/// The map of one card, as its VMM builds it.
#[derive(Debug, Default)]
pub struct Dma {
    current: Arc<DmaMap>,
    changed: bool,
    retired: Vec<Arc<DmaMap>>,
    shared: bool,
    unshared: u64,
}

impl Dma {
    /// Serves DMA_MAP.
    ///
    /// # Errors
    /// `EINVAL` for a malformed message, `EEXIST` for an overlap (as the specification asks), `ENOSPC` for
    /// one mapping too many, `EOPNOTSUPP` for memory on a file system that could stall us, otherwise what
    /// `mmap` said.
    pub fn map(&mut self, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, Fault> {
        let mut fields = Fields(payload);
        let (argsz, flags) = (fields.u32()?, fields.u32()?);
        let (offset, iova, len) = (fields.u64()?, fields.u64()?, fields.u64()?);
        if argsz < 32 || flags & !(FLAG_READ | FLAG_WRITE) != 0 || flags == 0 {
            return Err(Fault::new(Errno::INVAL, format!("a DMA map with argsz {argsz}, flags {flags:#x}")));
        }
        let at = format_args!("{len:#x} bytes at {iova:#x}").to_string();
        let writable = flags & FLAG_WRITE != 0;
        // The place in the map is checked before the memory is looked at.
        self.current.with(Mapping { iova, len, region: None, writable }).map_err(|e| refusal(e, &at))?;
        let region = match fds.first() {
            None => None,
            Some(fd) => Some(region(fd, offset, len, writable, &at)?),
        };
        let next = self.current.with(Mapping { iova, len, region, writable }).map_err(|e| refusal(e, &at))?;
        self.replace(next);
        Ok(Reply::default())
    }

    /// Serves DMA_UNMAP: one mapping, a range that cuts none, or all. The answer must not be sent before
    /// [`Dma::settled`].
    ///
    /// # Errors
    /// `EINVAL` for a malformed message or a range that cuts a mapping, `ENOENT` when nothing is there,
    /// `EOPNOTSUPP` for a request for dirty pages, `E2BIG` for a range of too many mappings.
    pub fn unmap(&mut self, payload: &[u8]) -> Result<Reply, Fault> {
        let mut fields = Fields(payload);
        let (argsz, flags) = (fields.u32()?, fields.u32()?);
        let (iova, len) = (fields.u64()?, fields.u64()?);
        if flags & UNMAP_GET_DIRTY != 0 {
            return Err(Errno::OPNOTSUPP.into());
        }
        let all = flags & UNMAP_ALL != 0;
        if argsz < 24 || flags & !UNMAP_ALL != 0 || (all && (iova, len) != (0, 0)) {
            return Err(Fault::new(Errno::INVAL, format!("a DMA unmap with argsz {argsz}, flags {flags:#x}")));
        }
        let next = if all { DmaMap::new() } else { self.without(iova, len)? };
        self.retired.push(self.current.clone());
        self.replace(next);
        let mut out = words(&[24, flags]);
        out.extend_from_slice(&iova.to_ne_bytes());
        out.extend_from_slice(&len.to_ne_bytes());
        Ok(out.into())
    }

    fn without(&self, iova: u64, len: u64) -> Result<DmaMap, Fault> {
        if let Ok(next) = self.current.without(iova, len) {
            return Ok(next);
        }
        let end = iova.checked_add(len).ok_or(Errno::INVAL)?;
        let touched: Vec<(u64, u64)> = self
            .current
            .mappings()
            .iter()
            .filter(|m| m.iova < end && iova < m.iova + m.len)
            .map(|m| (m.iova, m.len))
            .collect();
        if touched.iter().any(|(i, l)| *i < iova || i + l > end) {
            return Err(Fault::new(
                Errno::INVAL,
                format!("a DMA unmap of {len:#x} bytes at {iova:#x} that cuts a mapping"),
            ));
        }
        if touched.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if touched.len() > MAX_UNMAP {
            return Err(Errno::TOOBIG.into());
        }
        let mut next = DmaMap::clone(&self.current);
        for (iova, len) in touched {
            next = next.without(iova, len).map_err(|_| Errno::NOENT)?;
        }
        Ok(next)
    }

    fn replace(&mut self, next: DmaMap) {
        self.shared = next.mappings().iter().any(|m| m.region.is_some());
        self.unshared = next.mappings().iter().filter(|m| m.region.is_none()).fold(0, |n, m| n.saturating_add(m.len));
        self.current = Arc::new(next);
        self.changed = true;
    }

    /// The map to hand to the card, if it changed since the last call.
    pub fn publish(&mut self) -> Option<Arc<DmaMap>> {
        std::mem::take(&mut self.changed).then(|| self.current.clone())
    }

    /// True when something was unmapped since the last [`Dma::settled`]: workers may still be using it.
    pub fn unsettled(&self) -> bool {
        !self.retired.is_empty()
    }

    /// The workers have let go: so do we.
    pub fn settled(&mut self) {
        self.retired.clear();
    }

    /// Forgets everything (the VMM went away). Publish and settle as after an unmap.
    pub fn clear(&mut self) {
        if !self.current.is_empty() {
            self.retired.push(self.current.clone());
            self.replace(DmaMap::new());
        }
    }

    /// True when the VMM mapped memory, and none of it with a descriptor.
    pub fn memory_not_shared(&self) -> bool {
        !self.shared && self.unshared >= UNSHARED
    }
}

fn refusal(error: MapError, at: &str) -> Fault {
    let errno = match error {
        MapError::Range => Errno::INVAL,
        MapError::Overlap => Errno::EXIST,
        MapError::TooMany => Errno::NOSPC,
        MapError::NotFound => Errno::NOENT,
    };
    Fault::new(errno, format!("a DMA map of {at} that was refused: {error}"))
}

fn region(fd: &OwnedFd, offset: u64, len: u64, writable: bool, at: &str) -> Result<Arc<Region>, Fault> {
    tenant::check(fd).map_err(|unfit| match unfit {
        Unfit::System(errno) => Fault::from(errno),
        Unfit::Kind(what) => Fault::new(Errno::OPNOTSUPP, format!("a DMA map of {at} that was refused: {what}")),
    })?;
    let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
    Region::map(fd.as_fd(), offset, len, writable).map_err(|e| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::INVAL);
        Fault::new(errno, format!("a DMA map of {at} (file offset {offset:#x}) that was refused: {e}"))
    })
}
