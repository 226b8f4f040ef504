//! A page of our own that a VMM may map into its guest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::{Region, Slice};

/// A sealed memfd and its mapping: a BAR whose loads and stores reach us without a message.
#[derive(Debug)]
pub struct SharedPage {
    fd: OwnedFd,
    region: Arc<Region>,
}

impl SharedPage {
    /// `len` bytes of zeros (a multiple of the page size), sealed against change of size so that no
    /// peer can pull them away.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn new(name: &str, len: usize) -> io::Result<SharedPage> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let region = Region::map(fd.as_fd(), 0, len, true)?;
        Ok(SharedPage { fd, region })
    }

    /// The descriptor to send to the VMM.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its mapping.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The whole page.
    pub fn slice(&self) -> Slice<'_> {
        match self.region.slice(0, self.region.len()) {
            Some(slice) => slice,
            None => unreachable!("a region holds its own length"),
        }
    }
}
