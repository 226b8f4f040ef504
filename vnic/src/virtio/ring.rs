//! Split and packed rings behind one face: positions that run freely, chains, used entries, notifications.
//!
//! ```text
//!  position  0 1 2 ...            split: entries of the available ring and of the used ring
//!            |                    packed: descriptors; position / size tells the wrap counter
//!            +-- chain: identifier (head, or buffer id) and slots (1, or its descriptors)
//! ```
//! Chains are used in the order in which they were made available, so a chain's used entry is at its own position.

use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use sharedmem::{Ahead, Aim, Lookup, MemTable, PackedRing, Slice, SplitRing};

use super::chain::{self, Pieces, direction};

/// A ring of either kind.
#[derive(Clone, Debug)]
pub enum Virtqueue {
    /// Descriptors, available entries and used entries apart.
    Split(SplitRing),
    /// All in one.
    Packed(PackedRing),
}

impl From<SplitRing> for Virtqueue {
    fn from(ring: SplitRing) -> Virtqueue {
        Virtqueue::Split(ring)
    }
}

impl From<PackedRing> for Virtqueue {
    fn from(ring: PackedRing) -> Virtqueue {
        Virtqueue::Packed(ring)
    }
}

impl Virtqueue {
    /// True when the peer shrank the memory under it.
    #[inline]
    pub fn faulted(&self) -> bool {
        match self {
            Virtqueue::Split(ring) => ring.faulted(),
            Virtqueue::Packed(ring) => ring.faulted(),
        }
    }

    /// Tells the driver that it need not signal.
    pub fn ask_for_quiet(&self) {
        match self {
            Virtqueue::Split(ring) => Virtq::ask_for_quiet(ring),
            Virtqueue::Packed(ring) => Virtq::ask_for_quiet(ring),
        }
    }
}

/// The driver broke the ring: it is not to be used any more.
#[derive(Debug)]
pub struct Broken;

/// A chain that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What the driver knows it by.
    pub id: u16,
    /// Positions it takes.
    pub slots: u16,
    /// False when its memory is not there or makes no sense; it is given back all the same.
    pub good: bool,
}

/// What the data path needs of a ring.
pub trait Virtq {
    /// True where an index tells how many positions are available, each of which is a chain, and another publishes used
    /// entries. Without, descriptors tell, and used ones are seen as they are written.
    const INDEXED: bool;

    /// True when the peer shrank the memory under it.
    fn faulted(&self) -> bool;

    /// How many positions are available from `at` on, `wanted` at most, by the index alone: nothing else is read.
    /// `known` is as in [`Virtq::singles`]. Zero where there is no index.
    fn available(&self, at: u16, known: &mut u16, wanted: usize) -> Result<usize, Broken>;

    /// Looks for chains of one position each, from `at` on, as many as `ids` has room for; their identifiers go there, and
    /// their descriptors are on the way to the cache, where they are one after the other. Returns how many there are. `known` is the position up to which
    /// chains are known to be available, and what it is found to be.
    fn singles(&self, at: u16, known: &mut u16, ids: &mut [u16]) -> Result<usize, Broken>;

    /// Chains will be looked for; the last one found before was `last`.
    fn will_find(&self, _last: u16) {}

    /// What using the chain at `at` will need.
    fn ahead(&self, _at: u16) -> Ahead {
        Ahead::NONE
    }

    /// Guest address and length of the buffer that chain `id` at `at` is, when it is that one descriptor and no more, of the
    /// direction asked for: the common case, without a walk.
    fn buffer(&self, at: u16, id: u16, writable: bool) -> Option<(u64, u32)>;

    /// Adds to `out` the memory of each chain of `ids`, from position `at` on, that is one descriptor and no more, of the
    /// direction that `aim` takes ([`Virtq::buffer`]). What is none of these is as [`Aim`] says.
    #[inline(always)]
    fn windows<'m, const N: usize>(
        &self,
        at: u16,
        ids: &[u16],
        aim: Aim,
        memory: &mut Lookup<'m, '_, MemTable>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) {
        let buffers = ids.iter().enumerate();
        let buffers = buffers.map(|(n, id)| self.buffer(at.wrapping_add(n as u16), *id, aim == Aim::Write));
        aim.look_up(buffers, memory, out);
    }

    /// The chain at `at`, its memory added to `pieces`; `None` when there is none.
    fn chain<'m, P: Pieces<'m>>(
        &self,
        at: u16,
        known: &mut u16,
        memory: &mut Lookup<'m, '_, MemTable>,
        writable: bool,
        pieces: &mut P,
    ) -> Result<Option<Found>, Broken>;

    /// Says that chain `id` at `at`, of `slots` positions, is used, with `len` bytes written.
    fn put_used(&self, at: u16, id: u16, len: u32);

    /// Used entries will be written from `at` on, `count` of them.
    fn will_use(&self, _at: u16, _count: u16) {}

    /// Used entries will be published soon.
    fn will_publish(&self) {}

    /// The same for chains of one position each, with as many bytes as `lens` says; returns the sum of these.
    #[inline(always)]
    fn put_used_each(&self, at: u16, ids: &[u16], lens: &[u32]) -> u64 {
        for (n, (id, len)) in ids.iter().zip(lens).enumerate() {
            self.put_used(at.wrapping_add(n as u16), *id, *len);
        }
        lens.iter().map(|len| u64::from(*len)).sum()
    }

    /// The same for chains of one position each, with nothing written.
    fn put_used_run(&self, at: u16, ids: &[u16]) {
        for (n, id) in ids.iter().enumerate() {
            self.put_used(at.wrapping_add(n as u16), *id, 0);
        }
    }

    /// Lets the driver see all used entries before `at`.
    fn publish(&self, at: u16);

    /// True when chains whose used entries the driver will not find one after the other, or that take several positions,
    /// are to be noted before they are given back ([`crate::virtio::recover`]).
    #[inline(always)]
    fn notes(&self) -> bool {
        false
    }

    /// Notes chain `id` at `at`, of `slots` positions and with `len` bytes written, of the batch that begins at `first`.
    /// The first of a batch is noted last, which makes all of them count.
    fn note(&self, _at: u16, _slots: u16, _id: u16, _len: u32, _first: u16) {}

    /// Notes a batch: place, identifier and bytes of each chain from `first` on up to `end`.
    #[inline(never)]
    fn note_batch(&self, chains: impl DoubleEndedIterator<Item = (u16, u16, u32)>, first: u16, mut end: u16) {
        for (at, id, len) in chains.rev() {
            self.note(at, end.wrapping_sub(at), id, len, first);
            end = at;
        }
    }

    /// Takes back what was noted of the positions from `from` on, up to `to`: they are published.
    fn forget(&self, _from: u16, _to: u16) {}

    /// True when the driver is to be told that used entries went from `before` to `after`.
    fn wants_interrupt(&self, event_idx: bool, before: u16, after: u16) -> bool;

    /// Asks the driver to signal when something is made available at `at`; or not to.
    fn ask_for_kick(&self, event_idx: bool, at: u16);
    /// Tells the driver that it need not signal.
    fn ask_for_quiet(&self);

    /// True when nothing is available at `at`.
    fn is_empty(&self, at: u16) -> bool;
}

impl Virtq for SplitRing {
    const INDEXED: bool = true;

    #[inline]
    fn faulted(&self) -> bool {
        SplitRing::faulted(self)
    }

    #[inline(always)]
    fn available(&self, at: u16, known: &mut u16, wanted: usize) -> Result<usize, Broken> {
        let mut there = known.wrapping_sub(at);
        if usize::from(there) < wanted {
            *known = self.avail_idx();
            there = known.wrapping_sub(at);
            if there > self.size() {
                *known = at;
                return Err(Broken);
            }
        }
        Ok(usize::from(there).min(wanted))
    }

    #[inline]
    fn singles(&self, at: u16, known: &mut u16, ids: &mut [u16]) -> Result<usize, Broken> {
        let n = self.available(at, known, ids.len())?;
        let ids = &mut ids[..n];
        self.avail_run(at, ids);
        // Mostly one after the other, four to a line.
        ids.iter().step_by(4).for_each(|head| self.prefetch(*head));
        Ok(n)
    }

    #[inline(always)]
    fn will_find(&self, last: u16) {
        // Drivers take the place that came back last, or the next one. Known only when the entry's line is here, which
        // comes from the driver's core as the descriptor's does: so both come together.
        self.prefetch(last.wrapping_add(1) & (self.size() - 1));
        self.prefetch(last);
    }

    #[inline(always)]
    fn ahead(&self, at: u16) -> Ahead {
        self.ahead(at)
    }

    #[inline(always)]
    fn buffer(&self, _at: u16, id: u16, writable: bool) -> Option<(u64, u32)> {
        self.buffer(id, direction(writable))
    }

    #[inline(always)]
    fn windows<'m, const N: usize>(
        &self,
        _at: u16,
        ids: &[u16],
        aim: Aim,
        memory: &mut Lookup<'m, '_, MemTable>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) {
        self.windows(ids, direction(aim == Aim::Write), aim, memory, out);
    }

    #[inline]
    fn chain<'m, P: Pieces<'m>>(
        &self,
        at: u16,
        known: &mut u16,
        memory: &mut Lookup<'m, '_, MemTable>,
        writable: bool,
        pieces: &mut P,
    ) -> Result<Option<Found>, Broken> {
        let mut id = [0];
        if self.singles(at, known, &mut id)? == 0 {
            return Ok(None);
        }
        let good = chain::walk(self, memory, id[0], writable, pieces).is_ok();
        Ok(Some(Found { id: id[0], slots: 1, good }))
    }

    #[inline(always)]
    fn will_use(&self, at: u16, count: u16) {
        self.prefetch_used(at, count);
        self.prefetch_avail(at.wrapping_add(2 * count - 1));
        self.prefetch_avail(at.wrapping_add(3 * count - 1));
    }

    #[inline(always)]
    fn will_publish(&self) {
        self.prefetch_used_idx();
    }

    #[inline(always)]
    fn put_used(&self, at: u16, id: u16, len: u32) {
        self.set_used(at, id, len);
    }

    #[inline(always)]
    fn put_used_each(&self, at: u16, ids: &[u16], lens: &[u32]) -> u64 {
        self.set_used_lens(at, ids, lens)
    }

    #[inline]
    fn put_used_run(&self, at: u16, ids: &[u16]) {
        self.set_used_run(at, ids);
    }

    #[inline]
    fn publish(&self, at: u16) {
        self.set_used_idx(at);
    }

    /// Virtio 1.2, 2.7.10.
    #[inline]
    fn wants_interrupt(&self, event_idx: bool, before: u16, after: u16) -> bool {
        if before == after {
            return false;
        }
        // The index is visible before the driver's wish is read: it writes its wish, then looks at the index.
        fence(Ordering::SeqCst);
        if event_idx {
            after.wrapping_sub(self.used_event()).wrapping_sub(1) < after.wrapping_sub(before)
        } else {
            !self.no_interrupt()
        }
    }

    fn ask_for_kick(&self, _event_idx: bool, at: u16) {
        self.set_no_notify(false);
        self.set_avail_event(at);
    }

    fn ask_for_quiet(&self) {
        self.set_no_notify(true);
    }

    #[inline]
    fn is_empty(&self, at: u16) -> bool {
        self.avail_idx() == at
    }
}
