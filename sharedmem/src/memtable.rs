//! Which guest address lies where, for a peer that also names its memory by its own addresses (vhost-user).

use std::sync::Arc;

use crate::lookup::{Lookup, Place, Table, sealed};
use crate::{MapError, Region, Slice};

/// Most regions a peer may share at once. QEMU with memory hotplug uses up to 509.
pub const MAX_SPANS: usize = 512;

/// One stretch of guest memory.
#[derive(Clone, Debug)]
pub struct Span {
    /// First guest physical address.
    pub guest: u64,
    /// Length in bytes.
    pub len: u64,
    /// The same byte's address in the peer's own process.
    pub user: u64,
    /// The mapping it lies in; it must be writable.
    pub region: Arc<Region>,
    /// Offset of its first byte there.
    pub offset: usize,
}

/// An immutable table of guest memory. A change makes a new one; the old one and its memory live until the
/// last user has let go.
#[derive(Clone, Debug, Default)]
pub struct MemTable {
    /// Sorted by guest address; each `base` points into the region of the span of the same index.
    places: Vec<Place>,
    spans: Vec<Span>,
}

// SAFETY: the places point into mappings that the spans' Arcs keep; all access is by Slice.
unsafe impl Send for MemTable {}
// SAFETY: as above.
unsafe impl Sync for MemTable {}

impl sealed::Sealed for MemTable {}

impl Table for MemTable {
    type Hint = SpanHint;

    #[inline]
    fn at_hand(&self, hint: &SpanHint) -> Place {
        self.places.get(hint.0).copied().unwrap_or(Place::NONE)
    }

    fn search(&self, hint: &mut SpanHint, guest: u64) {
        let _ = self.find(hint, guest);
    }
}

/// The place of the last hit; give each user of a table its own. Any value is safe.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanHint(usize);

impl MemTable {
    /// An empty table.
    pub fn new() -> MemTable {
        MemTable::default()
    }

    /// The spans in order of guest address.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The table with one span more.
    ///
    /// # Errors
    /// [`MapError`] when it is empty, overflows, exceeds its region, overlaps in guest addresses, or is one too many.
    pub fn with(&self, span: Span) -> Result<MemTable, MapError> {
        let end = span.guest.checked_add(span.len).ok_or(MapError::Range)?;
        span.user.checked_add(span.len).ok_or(MapError::Range)?;
        let last = (span.offset as u64).checked_add(span.len).ok_or(MapError::Range)?;
        if span.len == 0 || last > span.region.len() as u64 || !span.region.writable() {
            return Err(MapError::Range);
        }
        if self.spans.len() >= MAX_SPANS {
            return Err(MapError::TooMany);
        }
        let at = self.spans.partition_point(|s| s.guest < span.guest);
        let before = at.checked_sub(1).and_then(|i| self.spans.get(i));
        if before.is_some_and(|s| s.guest + s.len > span.guest) || self.spans.get(at).is_some_and(|s| s.guest < end) {
            return Err(MapError::Overlap);
        }
        let mut spans = self.spans.clone();
        spans.insert(at, span);
        Ok(MemTable::from_spans(spans))
    }

    /// The table without the span that is exactly there.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when there is none.
    pub fn without(&self, guest: u64, user: u64, len: u64) -> Result<MemTable, MapError> {
        let same = |s: &Span| (s.guest, s.user, s.len) == (guest, user, len);
        let at = self.spans.iter().position(same).ok_or(MapError::NotFound)?;
        let mut spans = self.spans.clone();
        spans.remove(at);
        Ok(MemTable::from_spans(spans))
    }

    fn from_spans(spans: Vec<Span>) -> MemTable {
        let place = |s: &Span| {
            // SAFETY: `with` checked that offset..offset + len lies in the region.
            let base = unsafe { s.region.base().add(s.offset) };
            Place::new(s.guest, s.len, base, true)
        };
        MemTable { places: spans.iter().map(place).collect(), spans }
    }

    /// A lookup that starts with the span of the last hit.
    #[inline]
    pub fn lookup<'h>(&self, hint: &'h mut SpanHint) -> Lookup<'_, 'h, MemTable> {
        Lookup::new(self, hint)
    }

    #[inline]
    fn find(&self, hint: &mut SpanHint, guest: u64) -> Option<&Place> {
        let inside = |p: &&Place| guest.wrapping_sub(p.guest) < p.len;
        if let Some(place) = self.places.get(hint.0).filter(inside) {
            return Some(place);
        }
        self.search(hint, guest)
    }

    #[cold]
    fn search(&self, hint: &mut SpanHint, guest: u64) -> Option<&Place> {
        let at = self.places.partition_point(|p| p.guest <= guest).checked_sub(1)?;
        let place = self.places.get(at).filter(|p| guest - p.guest < p.len)?;
        hint.0 = at;
        Some(place)
    }

    /// The longest window from guest address `guest`, at most `len` bytes, that lies in one span; `None` when nothing
    /// is there. A buffer that crosses spans is taken in two calls.
    #[inline]
    pub fn prefix(&self, hint: &mut SpanHint, guest: u64, len: u32) -> Option<Slice<'_>> {
        let place = self.find(hint, guest)?;
        let rest = place.len.checked_sub(guest.wrapping_sub(place.guest))?;
        // SAFETY: the span's mapping is kept while the table is borrowed, and writable, as `with` checked.
        unsafe { place.window(guest, u32::try_from(rest).map_or(len, |rest| rest.min(len))) }
    }

    /// Where the peer's own address `user` lies: the mapping, the offset there, and how many bytes of the span follow.
    pub fn user(&self, user: u64) -> Option<(&Arc<Region>, usize, u64)> {
        self.spans.iter().find(|s| user.wrapping_sub(s.user) < s.len).map(|s| {
            let offset = user - s.user;
            (&s.region, s.offset + offset as usize, s.len - offset)
        })
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

    #[test]
    fn what_is_no_span_is_refused() {
        let region = region(8192);
        let span = |guest, len, offset| Span { guest, len, user: guest, region: region.clone(), offset };
        let table = MemTable::new().with(span(0x1000, 4096, 4096)).unwrap();
        assert_eq!(table.with(span(0x1fff, 1, 0)).unwrap_err(), MapError::Overlap);
        assert_eq!(table.with(span(0, 0x1001, 0)).unwrap_err(), MapError::Overlap);
        assert_eq!(table.with(span(0x8000, 4097, 4096)).unwrap_err(), MapError::Range);
        assert_eq!(table.with(span(0x8000, 1, usize::MAX)).unwrap_err(), MapError::Range);
        assert_eq!(table.with(span(u64::MAX, 2, 0)).unwrap_err(), MapError::Range);
        assert_eq!(table.with(span(0, 0, 0)).unwrap_err(), MapError::Range);
        assert_eq!(table.without(0x1000, 0x1000, 4095).unwrap_err(), MapError::NotFound);
        assert!(table.without(0x1000, 0x1000, 4096).unwrap().spans().is_empty());
        let (found, offset, left) = table.user(0x1ffe).unwrap();
        assert!(Arc::ptr_eq(found, &region));
        assert_eq!((offset, left), (8190, 2));
        assert!(table.user(0x2000).is_none() && table.user(0xfff).is_none());
    }

    proptest! {
        /// Whatever is asked, an answer lies inside what was shared, at the right byte, and agrees with a plain walk.
        #[test]
        fn lookups_agree_with_a_plain_walk(
            ranges in proptest::collection::vec((0u64..64, 1u64..8), 0..20),
            asks in proptest::collection::vec((0u64..80 * 64, 1u32..2000), 1..50),
        ) {
            let shared = region(80 * 64);
            let mut table = MemTable::new();
            let mut kept: Vec<(u64, u64)> = vec![];
            for (page, pages) in ranges {
                let (guest, len) = (page * 64, pages * 64);
                let span = Span { guest, len, user: !0 - 80 * 64 + guest, region: shared.clone(), offset: guest as usize };
                let clash = kept.iter().any(|(i, l)| guest < i + l && *i < guest + len);
                match table.with(span) {
                    Ok(next) => { prop_assert!(!clash); table = next; kept.push((guest, len)); }
                    Err(e) => { prop_assert!(clash); prop_assert_eq!(e, MapError::Overlap); }
                }
            }
            let mut hint = SpanHint::default();
            for (guest, len) in asks {
                let want = kept.iter().find(|(i, l)| guest >= *i && guest < i + l).map(|(i, l)| (i + l - guest).min(len.into()));
                let got = table.prefix(&mut hint, guest, len);
                prop_assert_eq!(got.map(|s| s.len() as u64), want);
                if let Some(slice) = got {
                    prop_assert!(slice.write_at(0, &[0xa5]));
                    let mut byte = [0];
                    prop_assert!(shared.slice(guest as usize, 1).unwrap().read_at(0, &mut byte) && byte == [0xa5]);
                    slice.write_at(0, &[0]);
                }
            }
        }
    }
}
