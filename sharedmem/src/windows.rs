//! Where the buffers of many descriptors lie, looked up together.
//!
//! ```text
//!  ids       7     8     9     10
//!            |     |     |     |         each read once
//!  address   a7    a8    a9    a10   \   with AVX2 four at a time, which is found out at run time:
//!  flags     as wanted?              |   one stretch of memory is at hand, and mostly all four lie in it
//!  window    [base + a7 - guest ...] /   otherwise one by one
//! ```

use arrayvec::ArrayVec;

use crate::lookup::{Lookup, Table};
use crate::widest::FEW;
use crate::{Slice, SplitRing};

/// What is to be done with the buffers that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// They are read: their first line is asked for. Most of the windows can be read beyond their end ([`Slice::front`])
    /// and none be written. What is no such buffer becomes a window onto nothing, and the next one is looked at.
    Read,
    /// They are written: their first two lines are asked for with the right to write them. What is no such buffer ends it.
    Write,
}

impl Aim {
    /// Adds to `out` the memory of each buffer, given by address and length, that is one and lies in one stretch of `memory`,
    /// as long as there is room. False when that was the end.
    #[inline(always)]
    pub fn look_up<'m, T: Table, const N: usize>(
        self,
        mut buffers: impl Iterator<Item = Option<(u64, u32)>>,
        memory: &mut Lookup<'m, '_, T>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) -> bool {
        buffers.all(|buffer| {
            let found = buffer.and_then(|(addr, len)| match self {
                Aim::Read => memory.to_read(addr, len),
                Aim::Write => memory.whole(addr, len),
            });
            match found {
                Some(window) => self.ask_for(&window),
                None if self == Aim::Write => return false,
                None => {}
            }
            out.try_push(found.unwrap_or(Slice::NOTHING)).is_ok()
        })
    }

    /// Asks for the lines that are needed first.
    #[inline(always)]
    pub fn ask_for(self, window: &Slice<'_>) {
        match self {
            Aim::Read => window.prefetch(),
            Aim::Write => {
                window.prefetch_write();
                window.prefetch_write_next();
            }
        }
    }
}

impl SplitRing {
    /// Adds to `out` the memory of each descriptor of `ids` which has these `flags` and no others and lies in one stretch of
    /// `memory`, as long as there is room; with what is none, it is as `aim` says.
    #[inline]
    pub fn windows<'m, T: Table, const N: usize>(
        &self,
        ids: &[u16],
        flags: u16,
        aim: Aim,
        memory: &mut Lookup<'m, '_, T>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) {
        let ids = ids.get(..out.remaining_capacity()).unwrap_or(ids);
        #[cfg(target_arch = "x86_64")]
        if ids.len() >= FEW && is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, and there is room for as many.
            return unsafe {
                match aim {
                    Aim::Read => wide::windows::<T, false, N>(self, ids, flags, memory, out),
                    Aim::Write => wide::windows::<T, true, N>(self, ids, flags, memory, out),
                }
            };
        }
        self.singly(ids, flags, aim, memory, out);
    }

    /// The same one by one. False when that was the end. Apart, for what it takes of registers the loop beside it lacks.
    #[inline(never)]
    fn singly<'m, T: Table, const N: usize>(
        &self,
        ids: &[u16],
        flags: u16,
        aim: Aim,
        memory: &mut Lookup<'m, '_, T>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) -> bool {
        aim.look_up(ids.iter().map(|id| self.buffer(*id, flags)), memory, out)
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_castsi256_pd, _mm256_cmpgt_epi64, _mm256_movemask_pd,
        _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi64x, _mm256_storeu_si256, _mm256_sub_epi64,
        _mm256_testz_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
    };

    use arrayvec::ArrayVec;

    use super::Aim;
    use crate::lookup::{Lookup, Place, Table};
    use crate::slice::{HEAD, ROOMY};
    use crate::{Slice, SplitRing};

    /// Descriptors looked at together.
    const FOUR: usize = 4;
    /// The length within the second word of a descriptor, and the flags.
    const LEN: i64 = 0xffff_ffff;
    const FLAGS: i64 = 0xffff << 32;

    /// A stretch of memory, four times over.
    struct Wide {
        guest: __m256i,
        len: __m256i,
        base: __m256i,
        access: __m256i,
    }

    impl Wide {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn new(place: &Place, aim: Aim) -> Wide {
            let (behind, access) = match aim {
                Aim::Read => (HEAD as u64, ROOMY),
                Aim::Write => (0, place.access),
            };
            // Addresses are compared as signed numbers: a place longer than these is taken to be as long as they go. In one that
            // is too short there is nothing.
            let len = i64::try_from(place.len).unwrap_or(i64::MAX).wrapping_sub(behind as i64);
            Wide {
                guest: _mm256_set1_epi64x(place.guest as i64),
                len: _mm256_set1_epi64x(len),
                base: _mm256_set1_epi64x(place.base.addr() as i64),
                access: _mm256_set1_epi64x(access as i64),
            }
        }
    }

    /// As [`SplitRing::windows`].
    ///
    /// # Safety
    /// `out` must have room for as many windows as there are identifiers.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn windows<'m, T: Table, const WRITE: bool, const N: usize>(
        ring: &SplitRing,
        ids: &[u16],
        flags: u16,
        memory: &mut Lookup<'m, '_, T>,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) {
        let aim = if WRITE { Aim::Write } else { Aim::Read };
        // The ring's size is a power of two: no bit of any identifier is above those of the last.
        let all_there = ids.iter().fold(0, |all, id| all | id) < ring.size();
        let (fours, rest) = if all_there { ids.as_chunks::<FOUR>() } else { ([].as_slice(), ids) };
        let mut left = fours;
        while !left.is_empty() {
            // SAFETY: there is room for as many windows as there are identifiers, by the caller's promise.
            let found = unsafe { run::<WRITE, N>(ring, left, flags, &Wide::new(memory.place(), aim), out) };
            let Some((odd, others)) = left[found..].split_first() else { break };
            if !ring.singly(odd, flags, aim, memory, out) {
                return;
            }
            left = others;
        }
        if !rest.is_empty() {
            ring.singly(rest, flags, aim, memory, out);
        }
    }

    /// Adds the windows of those which are as wanted and lie in `place`, up to the first four of which one is not; returns how
    /// many fours there are.
    ///
    /// # Safety
    /// `out` must have room for all; the identifiers must be below the ring's size, and the place be mapped for `'m`.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn run<'m, const WRITE: bool, const N: usize>(
        ring: &SplitRing,
        ids: &[[u16; FOUR]],
        flags: u16,
        place: &Wide,
        out: &mut ArrayVec<Slice<'m>, N>,
    ) -> usize {
        let (before, mut count) = (out.len(), 0);
        // SAFETY: it is no further than the capacity.
        let to = unsafe { out.as_mut_ptr().add(before).cast::<[Slice<'m>; FOUR]>() };
        for four in ids {
            // SAFETY: the caller's promises; so many fours were written before.
            let Some(windows) = (unsafe { four_at_once(ring, four, flags, place, to.add(count)) }) else { break };
            windows.iter().for_each(|window| if WRITE { Aim::Write } else { Aim::Read }.ask_for(window));
            count += 1;
        }
        // SAFETY: so many windows were written.
        unsafe { out.set_len(before + FOUR * count) };
        count
    }

    /// Writes the windows of all four to `to` when all are as wanted and lie in `place`; `None` otherwise.
    ///
    /// # Safety
    /// The identifiers must be below the ring's size, `to` be good for four windows, and the place be mapped for `'m`.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn four_at_once<'m, 'o>(
        ring: &SplitRing,
        ids: &[u16; FOUR],
        flags: u16,
        place: &Wide,
        to: *mut [Slice<'m>; FOUR],
    ) -> Option<&'o [Slice<'m>; FOUR]> {
        // SAFETY: the identifiers are below the ring's size, and a descriptor is 16 bytes, aligned to as many. They are shared
        // memory, so the reads are volatile.
        let [a, b, c, d] = ids.map(|id| unsafe { ring.desc_at(id).read_volatile() });
        let (low, high) = (_mm256_set_m128i(b, a), _mm256_set_m128i(d, c));
        // In the order a, c, b, d.
        let (addr, rest) = (_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
        let odd = _mm256_xor_si256(rest, _mm256_set1_epi64x(i64::from(flags) << 32));
        if _mm256_testz_si256(odd, _mm256_set1_epi64x(FLAGS)) == 0 {
            return None;
        }
        let len = _mm256_and_si256(rest, _mm256_set1_epi64x(LEN));
        let offset = _mm256_sub_epi64(addr, place.guest);
        // A negative offset is one beyond all places, and above a last one that is negative itself: the sign of either tells.
        let beyond = _mm256_or_si256(_mm256_cmpgt_epi64(offset, _mm256_sub_epi64(place.len, len)), offset);
        if _mm256_movemask_pd(_mm256_castsi256_pd(beyond)) != 0 {
            return None;
        }
        let (at, shape) = (_mm256_add_epi64(offset, place.base), _mm256_or_si256(len, place.access));
        // SAFETY: `to` is good for four windows. Each is a pointer, not null, and its shape, in that order (`Slice` is
        // `repr(C)`); offset..offset + len lies in the place, and where the shape says ROOMY, so do HEAD bytes more.
        unsafe {
            _mm256_storeu_si256(to.cast(), _mm256_unpacklo_epi64(at, shape));
            _mm256_storeu_si256(to.cast::<__m256i>().add(1), _mm256_unpackhi_epi64(at, shape));
            Some(&*to)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{HEAD, MemTable, Region, Span, SpanHint};

    /// Bytes of memory behind the ring, in stretches that do not touch: guest address and bytes of each.
    const STRETCHES: [(u64, usize); 3] = [(0x1000, 4096), (0x10_0000, 200), (u64::MAX - 8191, 4096)];
    const WRITE: u16 = 2;

    /// Mostly alike: of one direction, and short enough for where they lie, near either end of a stretch.
    fn any_buffers() -> impl Strategy<Value = Vec<(u64, u32, u16)>> {
        let at = |n: usize, by: i64| {
            let (guest, len) = STRETCHES[n];
            guest.wrapping_add(if by < 0 { len as u64 } else { 0 }).wrapping_add(by as u64)
        };
        let usual = (prop_oneof![4 => Just(0), 1 => 1..3usize], -150..150i64).prop_map(move |(n, by)| at(n, by));
        let beyond = (0..3usize, -70..5000i64).prop_map(move |(n, by)| STRETCHES[n].0.wrapping_add(by as u64));
        let addr = prop_oneof![20 => usual, 1 => beyond, 1 => any::<u64>()];
        let len = prop_oneof![20 => 1u32..60, 1 => 60u32..200, 1 => any::<u32>().prop_map(|len| len | 1)];
        prop_oneof![Just(0), Just(WRITE)].prop_flat_map(move |most| {
            let flags = prop_oneof![20 => Just(most), 1 => Just(0), 1 => Just(WRITE), 1 => any::<u16>()];
            proptest::collection::vec((addr.clone(), len.clone(), flags), 16)
        })
    }

    fn memory() -> (Arc<Region>, MemTable) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        let region = Region::map(file.as_fd(), 0, 16384, true).unwrap();
        let bytes: Vec<u8> = (0..16384u32).map(|n| (n % 251) as u8 + 1).collect();
        assert!(region.slice(0, 16384).unwrap().write_at(0, &bytes));
        let mut table = MemTable::new();
        let mut offset = 4096;
        for (guest, len) in STRETCHES {
            let span = Span { guest, len: len as u64, user: offset as u64, region: region.clone(), offset };
            table = table.with(span).unwrap();
            offset += len;
        }
        (region, table)
    }

    proptest! {
        /// Together and one by one are the same windows, up to the same end; a front is what lies there, with zeros behind it.
        #[test]
        fn together_is_as_one_by_one(
            buffers in any_buffers(),
            ids in proptest::collection::vec(prop_oneof![30 => 0u16..16, 1 => any::<u16>()], 0..40),
            write: bool,
        ) {
            let (region, table) = memory();
            let ring = SplitRing::new(16, (&region, 0), (&region, 1024), (&region, 2048)).unwrap();
            for (n, (addr, len, flags)) in buffers.iter().enumerate() {
                let window = region.slice(16 * n, 16).unwrap();
                window.store_u64(0, *addr);
                window.store_u32(8, *len);
                // The next one is of no meaning with these flags.
                window.store_u32(12, u32::from(*flags) | 0xbeef_0000);
            }
            let (aim, flags) = if write { (Aim::Write, WRITE) } else { (Aim::Read, 0) };
            let (mut together, mut single) = (ArrayVec::<Slice<'_>, 32>::new(), ArrayVec::<Slice<'_>, 32>::new());
            ring.windows(&ids, flags, aim, &mut table.lookup(&mut SpanHint::default()), &mut together);
            let mut roomy = vec![];
            for id in ids.iter().take(32) {
                let found = ring.buffer(*id, flags);
                let found = found.and_then(|(addr, len)| table.lookup(&mut SpanHint::default()).whole(addr, len));
                roomy.push(ring.buffer(*id, flags).is_some_and(|(addr, len)| {
                    table.lookup(&mut SpanHint::default()).whole(addr, len.saturating_add(HEAD as u32)).is_some()
                }));
                match found {
                    None if write => break,
                    found => single.push(found.unwrap_or(Slice::NOTHING)),
                }
            }
            prop_assert_eq!(together.len(), single.len());
            for ((a, b), roomy) in together.iter().zip(&single).zip(roomy) {
                prop_assert!(roomy || !a.has_front());
                prop_assert_eq!((a.as_ptr(), a.len()), (b.as_ptr(), b.len()));
                prop_assert!(!write || a.writable());
                let front = a.front::<12>(0, 1 << 20);
                prop_assert!(front.is_none() || a.has_front() && a.len() >= 12);
                if let Some(front) = front {
                    let (mut all, n) = (vec![0; a.len()], (a.len() - 12).min(HEAD));
                    prop_assert!(b.read_at(0, &mut all));
                    prop_assert_eq!((front.len, front.head_len), (a.len() - 12, n));
                    prop_assert_eq!((&front.header[..], &front.head[..n]), (&all[..12], &all[12..12 + n]));
                    prop_assert!(front.head[n..].iter().all(|byte| *byte == 0));
                    // Not one that must not be written, and none that is cut from it.
                    prop_assert!(!a.write_prefixed(&[], &[0; HEAD], 1) && !a.sub(0, a.len()).unwrap().has_front());
                }
            }
        }
    }

    #[test]
    fn a_front_is_of_the_lengths_asked_for() {
        let (region, table) = memory();
        let ring = SplitRing::new(4, (&region, 0), (&region, 1024), (&region, 2048)).unwrap();
        for (n, len) in [19u32, 20, 40, 41].into_iter().enumerate() {
            let window = region.slice(16 * n, 16).unwrap();
            window.store_u64(0, STRETCHES[0].0);
            window.store_u64(8, u64::from(len));
        }
        let mut out = ArrayVec::<Slice<'_>, 4>::new();
        ring.windows(&[0, 1, 2, 3], 0, Aim::Read, &mut table.lookup(&mut SpanHint::default()), &mut out);
        let lens: Vec<_> = out.iter().map(|window| window.front::<12>(8, 28).map(|front| front.len)).collect();
        assert_eq!(lens, [None, Some(8), Some(28), None]);
    }
}
