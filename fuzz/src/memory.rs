//! A guest's memory: a memfd that the guest's side writes and the card sees through a DMA map.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sharedmem::{DmaMap, Mapping, MemTable, Region, Span};

/// Bytes of a guest's memory.
pub const MEMORY: usize = 1 << 20;
/// Bytes behind it in the same file and region, that no mapping reaches and nobody may touch.
const BEHIND: usize = 16 << 10;
const PAGE: usize = 4096;

/// How the memory is mapped for the card.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Not at all.
    None,
    /// As one mapping.
    Whole,
    /// As two that meet in the given page: buffers span them.
    Split(usize),
    /// The lower part, up to the given page.
    Lower(usize),
    /// Without the given page.
    Hole(usize),
    /// As one that the card may only read.
    ReadOnly,
    /// Without a descriptor: memory that is not shared.
    NotShared,
}

impl Shape {
    /// The shape a fuzzer's two bytes mean; mostly whole.
    pub fn of(kind: u8, page: u8) -> Shape {
        let page = usize::from(page).clamp(1, MEMORY / PAGE - 2);
        match kind % 10 {
            0 => Shape::None,
            1 | 2 => Shape::Split(page),
            3 => Shape::Lower(page),
            4 => Shape::Hole(page),
            5 => Shape::ReadOnly,
            6 => Shape::NotShared,
            _ => Shape::Whole,
        }
    }
}

/// The memory.
pub struct Memory {
    fd: OwnedFd,
    region: Arc<Region>,
    base: u64,
    shrunk: bool,
}

impl Memory {
    /// Zeros, at guest address `base`.
    ///
    /// # Panics
    /// When the system has no memory for it.
    pub fn new(base: u64) -> Memory {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&fd, (MEMORY + BEHIND) as u64).expect("its size");
        let region = Region::map(fd.as_fd(), 0, MEMORY + BEHIND, true).expect("a mapping");
        Memory { fd, region, base, shrunk: false }
    }

    /// The descriptor, as a VMM would send it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Stores bytes at guest address `iova`; what does not lie in the memory takes nothing.
    pub fn put(&self, iova: u64, data: &[u8]) {
        let inside = iova.checked_sub(self.base).filter(|at| at.saturating_add(data.len() as u64) <= MEMORY as u64);
        if let Some(slice) = inside.and_then(|at| self.region.slice(at as usize, data.len())) {
            slice.write_at(0, data);
        }
    }

    /// Stores a word likewise.
    pub fn put32(&self, iova: u64, value: u32) {
        self.put(iova, &value.to_le_bytes());
    }

    /// Stores two words likewise.
    pub fn put64(&self, iova: u64, value: u64) {
        self.put(iova, &value.to_le_bytes());
    }

    /// The guest's side takes the upper half of the file away, under whatever is mapped.
    pub fn shrink(&mut self) {
        self.shrunk = true;
        ftruncate(&self.fd, (MEMORY / 2) as u64).expect("a smaller size");
    }

    /// A DMA map of this shape.
    pub fn map(&self, shape: Shape) -> Arc<DmaMap> {
        let mut map = DmaMap::new();
        let mut add = |from: usize, to: usize, writable: bool| {
            // The region is longer than its mapping where it can be: what is written past the mapping shows.
            let len = to - from + BEHIND;
            let region = Region::map(self.fd.as_fd(), from as u64, len, writable);
            // A file that was shrunk cannot be mapped any more.
            if let Ok(region) = region {
                let iova = self.base + from as u64;
                let mapping = Mapping { iova, len: (to - from) as u64, region: Some(region), writable };
                map = map.with(mapping).expect("mappings that do not overlap");
            }
        };
        match shape {
            Shape::None => {}
            Shape::Whole => add(0, MEMORY, true),
            Shape::Split(page) => {
                add(0, page * PAGE, true);
                add(page * PAGE, MEMORY, true);
            }
            Shape::Lower(page) => add(0, page * PAGE, true),
            Shape::Hole(page) => {
                add(0, page * PAGE, true);
                add((page + 1) * PAGE, MEMORY, true);
            }
            Shape::ReadOnly => add(0, MEMORY, false),
            Shape::NotShared => {
                let mapping = Mapping { iova: self.base, len: MEMORY as u64, region: None, writable: true };
                map = map.with(mapping).expect("one mapping");
            }
        }
        Arc::new(map)
    }

    /// True once [`Memory::shrink`] was called.
    pub fn is_shrunk(&self) -> bool {
        self.shrunk
    }

    /// As [`Memory::map`], as vhost-user has it: the VMM's addresses are the guest's. Memory that is to be read only, or
    /// has no descriptor, cannot be said there.
    pub fn table(&self, shape: Shape) -> Arc<MemTable> {
        let parts: &[(usize, usize)] = match shape {
            Shape::Whole => &[(0, MEMORY)],
            Shape::Split(page) => &[(0, page * PAGE), (page * PAGE, MEMORY)],
            Shape::Lower(page) => &[(0, page * PAGE)],
            Shape::Hole(page) => &[(0, page * PAGE), ((page + 1) * PAGE, MEMORY)],
            Shape::None | Shape::ReadOnly | Shape::NotShared => &[],
        };
        let mut table = MemTable::new();
        for &(from, to) in parts {
            let Ok(region) = Region::map(self.fd.as_fd(), from as u64, to - from + BEHIND, true) else { continue };
            let (guest, len) = (self.base + from as u64, (to - from) as u64);
            let span = Span { guest, len, user: guest, region, offset: 0 };
            table = table.with(span).expect("spans that do not overlap");
        }
        Arc::new(table)
    }

    /// The word at guest address `iova`; 0 outside.
    pub fn get16(&self, iova: u64) -> u16 {
        let offset = usize::try_from(iova.wrapping_sub(self.base)).unwrap_or(usize::MAX);
        self.region.slice(offset, 2).and_then(|s| s.load_u16(0)).unwrap_or(0)
    }

    /// Checks that nobody wrote behind the memory.
    ///
    /// # Panics
    /// When somebody did.
    pub fn check(&self) {
        if self.shrunk {
            return;
        }
        let mut behind = [0; BEHIND];
        rustix::io::pread(&self.fd, &mut behind[..], MEMORY as u64).expect("the file");
        assert!(behind.iter().all(|b| *b == 0), "bytes behind the guest's memory were written");
    }
}
