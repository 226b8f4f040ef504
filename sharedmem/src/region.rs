//! One mapping of one file descriptor.

use std::any::Any;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{Slice, fault};

/// Largest pages in bytes that the kernel may make when we touch one for the first time: clearing 2 MiB takes it a
/// fraction of a millisecond, clearing 1 GiB a tenth of a second.
const MAX_NEW_PAGE: usize = 2 << 20;
/// `HUGETLBFS_MAGIC` of `<linux/magic.h>`.
const HUGETLBFS: u64 = 0x9584_58f6;

/// A shared mapping of part of a file, unmapped on drop; or memory that a library mapped, held until drop.
///
/// On hugetlbfs whole huge pages are mapped, and the region is the part of them that was asked for:
///
/// ```text
///  file     |  huge page  |  huge page  |
///  mapping  |<----------- room -------->|     unmapped, and mended by `fault`, in these units
///  region        |<--- len --->|              base..base + len: all that is ever touched
/// ```
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    /// Where the mapping begins and how long it is.
    room: (NonNull<u8>, usize),
    writable: bool,
    guard: fault::Guard,
    /// Keeps the kernel from making pages.
    _no_new_pages: Option<OwnedFd>,
    /// Who unmaps the memory, when it is not ours.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: a Region is an address range that stays mapped until drop; all access to it goes through
// Slice and Ring, which use raw pointer copies and atomics only.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent access is what the memory is for.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes of `fd` from `offset` (aligned to an ordinary page, also on hugetlbfs), shared, readable and,
    /// when `writable`, writable. Of huge pages larger than 2 MiB those count that the file holds already: another reads
    /// as one that was taken away.
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
        let huge = huge_page(fd)?;
        Region::map_pages(fd, offset, len, writable, huge, huge.is_some_and(|page| page > MAX_NEW_PAGE))
    }

    /// Maps a kernel ring (AF_PACKET, AF_XDP): as [`Region::map`] without the look at the size,
    /// which such descriptors do not have.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map_kernel_ring(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Arc<Region>> {
        Region::map_pages(fd, offset, len, true, None, false)
    }

    /// Maps the pages that hold the range; `huge` is their size if it is not the ordinary one. With `fixed` no page is
    /// made that is not there.
    fn map_pages(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
        huge: Option<usize>,
        fixed: bool,
    ) -> io::Result<Arc<Region>> {
        let small = fault::page_size();
        let page = huge.unwrap_or(small);
        // Less than a page, so it fits.
        let skip = (offset % page as u64) as usize;
        let whole = skip.checked_add(len).and_then(|l| l.checked_next_multiple_of(page));
        let (true, Some(whole)) = (skip.is_multiple_of(small), whole) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, writable);
        let mut flags = MapFlags::SHARED;
        // Whose the huge pages are, reserves them; a second reservation for the same ones might fail.
        flags.set(MapFlags::NORESERVE, huge.is_some());
        // SAFETY: a fresh mapping at an address the kernel picks; nothing of ours lies there.
        let start = unsafe { mmap(std::ptr::null_mut(), whole, prot, flags, fd, offset - skip as u64)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let guard = fault::Guard::new(start.as_ptr() as usize, whole, page, writable);
        // SAFETY: the mapping is longer than what is skipped.
        let base = unsafe { start.add(skip) };
        let mut region = Region { base, len, room: (start, whole), writable, guard, _no_new_pages: None, owner: None };
        if fixed {
            region._no_new_pages = Some(fault::no_new_pages(start.as_ptr() as usize, whole)?);
        }
        Ok(Arc::new(region))
    }

    /// Takes in `len` bytes at `base` that `owner` mapped (a UMEM that belongs to a library), readable and writable.
    /// The region keeps `owner` and unmaps nothing itself. The memory is not guarded against a shrinking file
    /// (see [`crate::fault`]): it must be anonymous.
    ///
    /// # Safety
    /// `base..base + len` must be an anonymous mapping that stays as it is until `owner` is dropped, made outside
    /// Rust's allocator, and no reference to any of its bytes may exist while a window onto those bytes is used.
    pub unsafe fn adopt(base: NonNull<u8>, len: usize, owner: Box<dyn Any + Send + Sync>) -> Arc<Region> {
        let (room, guard) = ((base, len), fault::Guard::none());
        Arc::new(Region { base, len, room, writable: true, guard, _no_new_pages: None, owner: Some(owner) })
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
    #[inline]
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

/// Bytes of a page of the file, when it is on hugetlbfs (a memfd with `MFD_HUGETLB` is, too).
fn huge_page(fd: BorrowedFd<'_>) -> io::Result<Option<usize>> {
    let system = rustix::fs::fstatfs(fd)?;
    if system.f_type as u64 != HUGETLBFS {
        return Ok(None);
    }
    // The size of its blocks is that of its pages (`hugetlbfs_statfs`).
    let page = usize::try_from(system.f_bsize).ok().filter(|p| p.is_power_of_two() && *p >= fault::page_size());
    page.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

impl Drop for Region {
    fn drop(&mut self) {
        self.guard.forget();
        if self.owner.is_some() {
            return;
        }
        // SAFETY: room is the mapping made in `map_pages`, with what `fault` may have put in its place; no Slice or
        // Ring outlives self. An error is impossible for a valid range of whole pages and would only leak it.
        let _ = unsafe { munmap(self.room.0.as_ptr().cast(), self.room.1) };
    }
}

#[cfg(test)]
#[path = "../tests/huge/mod.rs"]
mod huge;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::huge::{HUGE, HugePages, memfd};
    use super::*;

    /// As with pages of 1 GiB, which a test cannot count on: what is there is used, and nothing is ever made.
    #[test]
    fn no_page_is_made_that_is_not_there() {
        let pages = HugePages::reserve(3);
        let file = memfd(3);
        let vmm = Region::map(file.as_fd(), 0, 3 * HUGE, true).unwrap();
        for page in [0, 2] {
            assert!(vmm.slice(page * HUGE, 8).unwrap().write_at(0, &[7; 8]));
        }
        let ours = || Region::map_pages(file.as_fd(), 0, 3 * HUGE, true, Some(HUGE), true).unwrap();
        let reads = |region: &Region, at: usize| {
            let mut bytes = [1; 8];
            assert!(region.slice(at, 8).unwrap().read_at(0, &mut bytes));
            bytes[0]
        };
        let (region, free) = (ours(), pages.free());
        assert_eq!((reads(&region, 0), reads(&region, 2 * HUGE)), (7, 7));
        assert!(region.slice(HUGE - 8, 8).unwrap().write_at(0, &[9; 8]) && !region.faulted());
        assert_eq!(reads(&vmm, HUGE - 8), 9, "it is the same memory");
        assert_eq!(reads(&region, HUGE + 100), 0, "the middle page is not there");
        assert!(region.faulted());
        assert!(region.slice(2 * HUGE - 8, 8).unwrap().write_at(0, &[5; 8]), "the access goes on in memory of ours");
        assert_eq!(pages.free(), free, "no page was taken");
        assert_eq!(reads(&vmm, 2 * HUGE - 8), 0, "nobody else's");
        // The VMM has made the page by that look: now it is there for the next mapping.
        let again = ours();
        assert_eq!((reads(&again, HUGE + 100), again.faulted()), (0, false));
        assert!(reads(&region, 0) == 7 && region.slice(2 * HUGE, 8).unwrap().write_at(0, &[1; 8]));
    }
}
