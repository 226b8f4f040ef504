//! One mapping of one file descriptor.

use std::any::Any;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{Slice, fault};

/// A shared mapping of part of a file, unmapped on drop; or memory that a library mapped, held until drop.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    guard: fault::Guard,
    /// Who unmaps the memory, when it is not ours.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: a Region is an address range that stays mapped until drop; all access to it goes through
// Slice and Ring, which use raw pointer copies and atomics only.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent access is what the memory is for.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of `fd` from `offset` (page-aligned), shared, readable and, when
    /// `writable`, writable.
    ///
    /// # Errors
    /// `InvalidInput` when the length is zero, the offset is not page-aligned, or the file ends
    /// before `offset + len`; otherwise what `mmap` says.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Arc<Region>> {
        let end = offset.checked_add(len as u64);
        let size = rustix::fs::fstat(fd)?.st_size;
        let regular = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_file();
        if len == 0 || end.is_none() || (regular && end > Some(size as u64)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Region::map_unchecked_size(fd, offset, len, writable)
    }

    /// Maps a kernel ring (AF_PACKET, AF_XDP): as [`Region::map`] without the look at the size,
    /// which such descriptors do not have.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map_kernel_ring(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Arc<Region>> {
        Region::map_unchecked_size(fd, offset, len, true)
    }

    fn map_unchecked_size(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Arc<Region>> {
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, writable);
        // SAFETY: a fresh mapping at an address the kernel picks; nothing of ours lies there.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let guard = fault::Guard::new(base.as_ptr() as usize, len, writable);
        Ok(Arc::new(Region { base, len, writable, guard, owner: None }))
    }

    /// Takes in `len` bytes at `base` that `owner` mapped (a UMEM that belongs to a library), readable and writable.
    /// The region keeps `owner` and unmaps nothing itself. The memory is not guarded against a shrinking file
    /// (see [`crate::fault`]): it must be anonymous.
    ///
    /// # Safety
    /// `base..base + len` must be an anonymous mapping that stays as it is until `owner` is dropped, made outside
    /// Rust's allocator, and no reference to any of its bytes may exist while a window onto those bytes is used.
    pub unsafe fn adopt(base: NonNull<u8>, len: usize, owner: Box<dyn Any + Send + Sync>) -> Arc<Region> {
        Arc::new(Region { base, len, writable: true, guard: fault::Guard::none(), owner: Some(owner) })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a region of no bytes; there is none, `map` refuses it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True when it was mapped writable.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// True once an access found the file shrunk under the mapping and was answered with
    /// anonymous memory.
    pub fn faulted(&self) -> bool {
        self.guard.faulted()
    }

    /// A window of `len` bytes at `offset`, borrowed from the region; `None` when it does not fit.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Slice<'_>> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: offset..end lies in the mapping, which lives as long as the borrow.
        Some(unsafe { Slice::from_raw(self.base.as_ptr().add(offset), len, self.writable) })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.guard.forget();
        if self.owner.is_some() {
            return;
        }
        // SAFETY: base and len are the mapping made in `map`; no Slice or Ring outlives self. An
        // error is impossible for a valid range and would only leak it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
