//! Which guest address lies where: the DMA map a VMM builds message by message.

use std::sync::Arc;

use crate::lookup::{Lookup, Place, Table, sealed};
use crate::{Region, Ring, Slice};

/// Most mappings a VMM may hold at once. QEMU uses about a dozen; Linux's vfio allows 65,535.
pub const MAX_MAPPINGS: usize = 4096;

/// One entry: `len` bytes of guest address space from `iova`.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First guest address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// The memory, from its start; `None` when the VMM gave no descriptor (memory that is not
    /// shared, or a ROM).
    pub region: Option<Arc<Region>>,
    /// Whether the device may write there.
    pub writable: bool,
}

/// Why a mapping was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Zero length, or it runs past the end of the address space or of its region.
    #[error("the range is empty or runs past the end")]
    Range,
    /// It overlaps a mapping that is there.
    #[error("the range overlaps one that is mapped")]
    Overlap,
    /// [`MAX_MAPPINGS`] are there already.
    #[error("more than {MAX_MAPPINGS} mappings")]
    TooMany,
    /// An unmap that matches no whole mapping.
    #[error("no mapping is exactly there")]
    NotFound,
}

/// Why a guest address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// Nothing is mapped there.
    #[error("the address is not mapped")]
    NotMapped,
    /// The VMM mapped it without a descriptor: its memory is not shared.
    #[error("the memory is not shared with the switch")]
    NotShared,
    /// A write to memory the device may only read.
    #[error("the memory is read-only")]
    ReadOnly,
    /// A ring that does not lie in one mapping, or is misaligned.
    #[error("the ring does not lie in one mapping")]
    Shape,
}

/// What the device wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Write, and perhaps read.
    Write,
}

/// The place of the last hit; give each user of a map its own. Any value is safe.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hint(usize);

/// An immutable map, sorted by address. A change makes a new one; the old one and its memory live
/// until the last user has let go.
#[derive(Clone, Debug, Default)]
pub struct DmaMap {
    entries: Vec<Mapping>,
}

impl DmaMap {
    /// An empty map.
    pub fn new() -> DmaMap {
        DmaMap::default()
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The mappings in order of address.
    pub fn mappings(&self) -> &[Mapping] {
        &self.entries
    }

    /// The map with one more mapping.
    ///
    /// # Errors
    /// [`MapError`] when it is empty, overflows, exceeds its region, overlaps, or is one too many.
    pub fn with(&self, mapping: Mapping) -> Result<DmaMap, MapError> {
        let end = mapping.iova.checked_add(mapping.len).ok_or(MapError::Range)?;
        let short = mapping.region.as_ref().is_some_and(|r| (r.len() as u64) < mapping.len);
        if mapping.len == 0 || short {
            return Err(MapError::Range);
        }
        if self.entries.len() >= MAX_MAPPINGS {
            return Err(MapError::TooMany);
        }
        let at = self.entries.partition_point(|e| e.iova < mapping.iova);
        let before = at.checked_sub(1).and_then(|i| self.entries.get(i));
        if before.is_some_and(|e| e.iova + e.len > mapping.iova) || self.entries.get(at).is_some_and(|e| e.iova < end) {
            return Err(MapError::Overlap);
        }
        let mut entries = self.entries.clone();
        entries.insert(at, mapping);
        Ok(DmaMap { entries })
    }

    /// The map without the mapping that is exactly `iova`, `len`.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when there is none.
    pub fn without(&self, iova: u64, len: u64) -> Result<DmaMap, MapError> {
        let at = self.entries.iter().position(|e| e.iova == iova && e.len == len).ok_or(MapError::NotFound)?;
        let mut entries = self.entries.clone();
        entries.remove(at);
        Ok(DmaMap { entries })
    }

    /// A lookup that starts with the mapping of the last hit.
    #[inline]
    pub fn lookup<'h>(&self, hint: &'h mut Hint) -> Lookup<'_, 'h, DmaMap> {
        Lookup::new(self, hint)
    }

    fn find(&self, hint: &mut Hint, iova: u64) -> Option<&Mapping> {
        let inside = |e: &&Mapping| iova >= e.iova && iova - e.iova < e.len;
        if let Some(entry) = self.entries.get(hint.0).filter(inside) {
            return Some(entry);
        }
        let at = self.entries.partition_point(|e| e.iova <= iova).checked_sub(1)?;
        let entry = self.entries.get(at).filter(inside)?;
        hint.0 = at;
        Some(entry)
    }

    /// The longest window from `iova`, at most `len` bytes, that lies in one mapping. A buffer that
    /// spans two mappings is taken in two calls.
    ///
    /// # Errors
    /// [`DmaError`] when the first byte cannot be accessed so.
    #[inline]
    pub fn prefix(&self, hint: &mut Hint, iova: u64, len: usize, access: Access) -> Result<Slice<'_>, DmaError> {
        let entry = self.find(hint, iova).ok_or(DmaError::NotMapped)?;
        let region = entry.region.as_ref().ok_or(DmaError::NotShared)?;
        if access == Access::Write && !entry.writable {
            return Err(DmaError::ReadOnly);
        }
        let offset = iova - entry.iova;
        let len = (entry.len - offset).min(len as u64).min(1 << 30) as usize;
        region.slice(offset as usize, len).ok_or(DmaError::NotMapped)
    }

    /// The window `iova`, `len`, which must lie in one mapping.
    ///
    /// # Errors
    /// [`DmaError`]; `NotMapped` also when it runs out of the mapping.
    #[inline]
    pub fn slice(&self, hint: &mut Hint, iova: u64, len: usize, access: Access) -> Result<Slice<'_>, DmaError> {
        let slice = self.prefix(hint, iova, len, access)?;
        if slice.len() == len { Ok(slice) } else { Err(DmaError::NotMapped) }
    }

    /// A ring of `count` descriptors of `WORDS` words at `iova`, which must lie in one mapping the
    /// device may write.
    ///
    /// # Errors
    /// [`DmaError`].
    pub fn ring<const WORDS: usize>(&self, iova: u64, count: u32) -> Result<Ring<WORDS>, DmaError> {
        let entry = self.find(&mut Hint::default(), iova).ok_or(DmaError::NotMapped)?;
        let region = entry.region.as_ref().ok_or(DmaError::NotShared)?;
        if !entry.writable {
            return Err(DmaError::ReadOnly);
        }
        let offset = iova - entry.iova;
        let bytes = u64::from(count) * (WORDS as u64) * 4;
        if offset.checked_add(bytes).is_none_or(|end| end > entry.len) {
            return Err(DmaError::Shape);
        }
        Ring::new(region, offset as usize, count).ok_or(DmaError::Shape)
    }
}

impl sealed::Sealed for DmaMap {}

impl Table for DmaMap {
    type Hint = Hint;

    #[inline]
    fn at_hand(&self, hint: &Hint) -> Place {
        let Some(entry) = self.entries.get(hint.0) else { return Place::NONE };
        // `with` saw to it that the region is no shorter than the mapping.
        entry.region.as_ref().map_or(Place::NONE, |region| {
            Place::new(entry.iova, entry.len, region.base(), entry.writable && region.writable())
        })
    }

    fn search(&self, hint: &mut Hint, iova: u64) {
        let _ = self.find(hint, iova);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    fn region(len: usize) -> Arc<Region> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len as u64).unwrap();
        Region::map(file.as_fd(), 0, len, true).unwrap()
    }

    fn mapping(iova: u64, len: u64) -> Mapping {
        Mapping { iova, len, region: None, writable: true }
    }

    #[test]
    fn overflow_overlap_and_excess_are_refused() {
        let map = DmaMap::new().with(mapping(0x1000, 0x1000)).unwrap();
        assert_eq!(map.with(mapping(0x1fff, 1)).unwrap_err(), MapError::Overlap);
        assert_eq!(map.with(mapping(0, 0x1001)).unwrap_err(), MapError::Overlap);
        assert_eq!(map.with(mapping(0, 0x4000)).unwrap_err(), MapError::Overlap);
        assert_eq!(map.with(mapping(u64::MAX, 2)).unwrap_err(), MapError::Range);
        assert_eq!(map.with(mapping(0, 0)).unwrap_err(), MapError::Range);
        let short = Mapping { region: Some(region(4096)), ..mapping(0x8000, 4097) };
        assert_eq!(map.with(short).unwrap_err(), MapError::Range);
        assert_eq!(map.with(mapping(0x2000, 1)).unwrap().len(), 2);
        assert_eq!(map.without(0x1000, 0xfff).unwrap_err(), MapError::NotFound);
        assert!(map.without(0x1000, 0x1000).unwrap().is_empty());
    }

    #[test]
    fn access_is_checked() {
        let ro = Mapping { iova: 0, len: 4096, region: Some(region(4096)), writable: false };
        let map = DmaMap::new().with(ro).unwrap().with(mapping(4096, 4096)).unwrap();
        let mut hint = Hint::default();
        assert_eq!(map.slice(&mut hint, 0, 8, Access::Write).unwrap_err(), DmaError::ReadOnly);
        assert_eq!(map.slice(&mut hint, 4090, 8, Access::Read).unwrap_err(), DmaError::NotMapped);
        assert_eq!(map.prefix(&mut hint, 4090, 8, Access::Read).unwrap().len(), 6);
        assert_eq!(map.slice(&mut hint, 4096, 8, Access::Read).unwrap_err(), DmaError::NotShared);
        assert_eq!(map.ring::<4>(0, 1).unwrap_err(), DmaError::ReadOnly);
        assert_eq!(map.ring::<4>(1 << 40, 1).unwrap_err(), DmaError::NotMapped);
    }

    #[test]
    fn rings_stay_inside_their_mapping() {
        let rw = Mapping { iova: 0x10000, len: 4096, region: Some(region(8192)), writable: true };
        let map = DmaMap::new().with(rw).unwrap();
        assert!(map.ring::<4>(0x10000, 256).is_ok());
        assert_eq!(map.ring::<4>(0x10000, 257).unwrap_err(), DmaError::Shape);
        assert_eq!(map.ring::<4>(0x10002, 1).unwrap_err(), DmaError::Shape);
        assert_eq!(map.ring::<4>(0x10000, 0).unwrap_err(), DmaError::Shape);
        assert_eq!(map.ring::<4>(0x10000, u32::MAX).unwrap_err(), DmaError::Shape);
    }

    proptest! {
        /// A lookup with a place at hand says what the map says.
        #[test]
        fn what_is_at_hand_is_what_is_there(asks in prop::collection::vec((0u64..0x5000, 0u32..0x2000), 1..20)) {
            let memory = region(0x2000);
            let part = |iova, writable| Mapping { iova, len: 0x1000, region: Some(memory.clone()), writable };
            let map = DmaMap::new().with(part(0x1000, true)).unwrap().with(part(0x2000, false)).unwrap();
            let (mut hint, mut other) = (Hint::default(), Hint::default());
            let mut lookup = map.lookup(&mut hint);
            for (iova, len) in asks {
                let expected = map.slice(&mut other, iova, len as usize, Access::Read).ok();
                let found = lookup.whole(iova, len);
                prop_assert_eq!(found.map(|s| (s.as_ptr(), s.len())), expected.map(|s| (s.as_ptr(), s.len())));
                // No more than the mapping allows, whatever the memory would.
                prop_assert!(found.is_none_or(|s| s.writable() == (iova < 0x2000)));
            }
        }

        /// Whatever is asked, an answer lies inside what was mapped, and agrees with a walk of the list.
        #[test]
        fn lookups_agree_with_a_plain_walk(
            ranges in proptest::collection::vec((0u64..64, 1u64..8), 0..20),
            asks in proptest::collection::vec((0u64..80 * 64, 1usize..2000), 1..50),
        ) {
            let shared = region(8 * 64);
            let mut map = DmaMap::new();
            let mut kept: Vec<(u64, u64)> = vec![];
            for (page, pages) in ranges {
                let m = Mapping { iova: page * 64, len: pages * 64, region: Some(shared.clone()), writable: true };
                let clash = kept.iter().any(|(i, l)| m.iova < i + l && *i < m.iova + m.len);
                match map.with(m.clone()) {
                    Ok(next) => { prop_assert!(!clash); map = next; kept.push((m.iova, m.len)); }
                    Err(e) => { prop_assert!(clash); prop_assert_eq!(e, MapError::Overlap); }
                }
            }
            let mut hint = Hint::default();
            for (iova, len) in asks {
                let want = kept.iter().find(|(i, l)| iova >= *i && iova < i + l).map(|(i, l)| ((i + l - iova) as usize).min(len));
                let got = map.prefix(&mut hint, iova, len, Access::Write).ok().map(|s| s.len());
                prop_assert_eq!(got, want);
            }
        }
    }
}
