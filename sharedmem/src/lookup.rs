//! Looking up buffer after buffer, mostly in the same stretch of guest memory: that one is at hand.

use std::ptr::NonNull;

use crate::slice::{HEAD, ROOMY, Slice, WRITABLE};

/// A stretch of guest memory with its place: `base` is mapped for `len` bytes, and writable, while the table it is from
/// is borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub(crate) guest: u64,
    pub(crate) len: u64,
    pub(crate) base: *mut u8,
    /// [`WRITABLE`], or none.
    pub(crate) access: u64,
}

impl Place {
    /// Nowhere: no byte lies in it.
    pub(crate) const NONE: Place = Place { guest: 0, len: 0, base: NonNull::dangling().as_ptr(), access: 0 };

    /// `len` bytes from guest address `guest` on, which lie at `base`.
    pub(crate) fn new(guest: u64, len: u64, base: *mut u8, writable: bool) -> Place {
        Place { guest, len, base, access: if writable { WRITABLE } else { 0 } }
    }

    /// The `len` bytes from guest address `guest`; `None` when they do not all lie here.
    ///
    /// # Safety
    /// The place is mapped, with the access it says, for `'m`.
    #[inline(always)]
    pub(crate) unsafe fn window<'m>(&self, guest: u64, len: u32) -> Option<Slice<'m>> {
        let (offset, last) = (guest.wrapping_sub(self.guest), self.len.checked_sub(u64::from(len))?);
        if offset > last {
            return None;
        }
        // SAFETY: offset..offset + len lies in the place, by the caller's promise mapped for 'm.
        Some(unsafe { Slice::from_shape(self.base.add(offset as usize), u64::from(len) | self.access) })
    }
}

impl Place {
    /// As [`Place::window`], but to be read and not written: `None` also when [`HEAD`] bytes behind it do not lie here.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn roomy<'m>(&self, guest: u64, len: u32) -> Option<Slice<'m>> {
        let (offset, last) = (guest.wrapping_sub(self.guest), self.len.checked_sub(u64::from(len) + HEAD as u64)?);
        if offset > last {
            return None;
        }
        // SAFETY: offset..offset + len + HEAD lies in the place, by the caller's promise mapped for 'm.
        Some(unsafe { Slice::from_shape(self.base.add(offset as usize), u64::from(len) | ROOMY) })
    }
}

/// A table of guest memory. Only this crate's are: what [`Table::at_hand`] says is believed.
pub trait Table: sealed::Sealed {
    /// Remembers the last hit.
    type Hint;

    /// The stretch of the last hit; an empty one when there is none.
    fn at_hand(&self, hint: &Self::Hint) -> Place;

    /// Looks for the stretch that `guest` lies in, and remembers it if there is one.
    fn search(&self, hint: &mut Self::Hint, guest: u64);
}

pub(crate) mod sealed {
    /// Keeps [`super::Table`] to this crate.
    pub trait Sealed {}
}

/// A user's way through a table: it has the stretch of its last hit at hand.
pub struct Lookup<'m, 'h, T: Table> {
    table: &'m T,
    hint: &'h mut T::Hint,
    place: Place,
}

impl<'m, 'h, T: Table> Lookup<'m, 'h, T> {
    /// Starts with the stretch that `hint` remembers.
    #[inline]
    pub fn new(table: &'m T, hint: &'h mut T::Hint) -> Lookup<'m, 'h, T> {
        Lookup { table, place: table.at_hand(hint), hint }
    }

    /// The stretch at hand.
    #[inline]
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The `len` bytes from guest address `guest`; `None` when they do not all lie in one stretch that may be read.
    #[inline(always)]
    pub fn whole(&mut self, guest: u64, len: u32) -> Option<Slice<'m>> {
        match self.near(guest, len) {
            None => self.elsewhere(guest, len),
            found => found,
        }
    }

    /// As [`Lookup::whole`], for memory to be read: mostly such that its front can be ([`Slice::front`]).
    #[inline(always)]
    pub fn to_read(&mut self, guest: u64, len: u32) -> Option<Slice<'m>> {
        // SAFETY: a stretch of the table, whose mapping it keeps while it is borrowed.
        match unsafe { self.place.roomy(guest, len) } {
            None => self.whole(guest, len),
            found => found,
        }
    }

    /// The longest window from guest address `guest`, at most `len` bytes, that lies in one stretch; `None` when nothing is
    /// there. A buffer that crosses stretches is taken in two calls.
    #[inline]
    pub fn prefix(&mut self, guest: u64, len: u32) -> Option<Slice<'m>> {
        if let Some(whole) = self.whole(guest, len) {
            return Some(whole);
        }
        let rest = self.place.len.checked_sub(guest.wrapping_sub(self.place.guest))?;
        self.near(guest, u32::try_from(rest).ok()?.min(len)).filter(|piece| !piece.is_empty())
    }

    /// The `len` bytes from there, if they lie in the stretch at hand.
    #[inline(always)]
    fn near(&self, guest: u64, len: u32) -> Option<Slice<'m>> {
        // SAFETY: a stretch of the table, whose mapping it keeps while it is borrowed.
        unsafe { self.place.window(guest, len) }
    }

    #[cold]
    fn elsewhere(&mut self, guest: u64, len: u32) -> Option<Slice<'m>> {
        self.table.search(self.hint, guest);
        self.place = self.table.at_hand(self.hint);
        self.near(guest, len)
    }
}
