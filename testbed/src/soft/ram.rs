//! A soft guest's memory: one memfd that the switch maps too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sharedmem::{Region, Ring, Slice};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// `len` bytes of guest memory at guest address `base`, handed out from the bottom up.
pub struct Ram {
    fd: OwnedFd,
    region: Arc<Region>,
    base: u64,
    next: u64,
}

impl Ram {
    /// Zeroed memory of at least `len` bytes (rounded up to pages) at guest address `base`.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn new(base: u64, len: u64) -> io::Result<Ram> {
        let len = len.div_ceil(PAGE) * PAGE;
        let fd = memfd_create("soft-guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len)?;
        let region = Region::map(fd.as_fd(), 0, len as usize, true)?;
        Ok(Ram { fd, region, base, next: 0 })
    }

    /// The descriptor to hand to the switch.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// First guest address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.region.len() as u64
    }

    /// True for memory of no bytes; there is none.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }

    /// Reserves `len` bytes aligned to `align` (a power of two) and returns their guest address.
    ///
    /// # Errors
    /// When the memory is used up.
    pub fn alloc(&mut self, len: u64, align: u64) -> Result<u64> {
        let at = (self.base + self.next).next_multiple_of(align) - self.base;
        ensure!(at + len <= self.len(), "the soft guest's memory of {} bytes is used up", self.len());
        self.next = at + len;
        Ok(self.base + at)
    }

    /// The `len` bytes at guest address `at`.
    ///
    /// # Errors
    /// When they are not in this memory.
    #[inline]
    pub fn slice(&self, at: u64, len: usize) -> Result<Slice<'_>> {
        let offset = at.checked_sub(self.base).context("below the guest's memory")?;
        self.region.slice(offset as usize, len).context("beyond the guest's memory")
    }

    /// An array of `count` descriptors at guest address `at`.
    ///
    /// # Errors
    /// When it is not in this memory or misaligned.
    pub fn ring<const WORDS: usize>(&self, at: u64, count: u32) -> Result<Ring<WORDS>> {
        let offset = at.checked_sub(self.base).context("below the guest's memory")?;
        Ring::new(&self.region, offset as usize, count).context("not a place for a ring")
    }

    /// Writes `data` at guest address `at`.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<()> {
        ensure!(self.slice(at, data.len())?.write_at(0, data), "the guest's memory is read-only");
        Ok(())
    }

    /// Reads into `out` from guest address `at`.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        ensure!(self.slice(at, out.len())?.read_at(0, out), "beyond the guest's memory");
        Ok(())
    }

    /// Fills `len` bytes at `at` with zeros.
    ///
    /// # Errors
    /// When they are not in this memory.
    pub fn zero(&self, at: u64, len: usize) -> Result<()> {
        self.write(at, &vec![0; len])
    }

    /// Cuts the file down to `len` bytes while everybody has it mapped: what a hostile VMM can do.
    ///
    /// # Errors
    /// What `ftruncate` says.
    pub fn truncate(&self, len: u64) -> io::Result<()> {
        Ok(ftruncate(&self.fd, len)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_is_aligned_and_bounded() {
        let mut ram = Ram::new(0x1_0000, 3 * PAGE - 1).unwrap();
        assert_eq!((ram.len(), ram.is_empty()), (3 * PAGE, false));
        assert_eq!(ram.alloc(10, 1).unwrap(), 0x1_0000);
        let at = ram.alloc(512, 512).unwrap();
        assert_eq!(at, 0x1_0200);
        assert!(ram.alloc(3 * PAGE, 1).is_err());
        ram.write(at, b"hello").unwrap();
        let mut out = [0; 5];
        ram.read(at, &mut out).unwrap();
        assert_eq!(&out, b"hello");
        assert!(ram.write(0xffff, &[0]).is_err() && ram.slice(0x1_0000, 3 * PAGE as usize + 1).is_err());
        assert!(ram.ring::<4>(at, 16).is_ok() && ram.ring::<4>(at + 2, 1).is_err());
    }
}
