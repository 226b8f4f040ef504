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
use crate::{Slice, Slot, SplitRing};

/// What is to be done with the buffers that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// They are read: their first line is asked for, and that of what is behind a header. Most of the windows can be read beyond their end ([`Slice::front`])
    /// and none be written. What is no such buffer becomes a window onto nothing, and the next one is looked at.
    Read,
    /// They are written: the lines of a short frame are asked for ([`Slice::prefetch_write_head`]). What is no such buffer ends it.
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
            Aim::Read => window.prefetch_behind(),
            Aim::Write => window.prefetch_write_head(),
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

/// What the upper halves of descriptors have in common that are of one kind: `mask` says which bits are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The bits that are looked at.
    pub mask: u64,
    /// What they are.
    pub wanted: u64,
}

/// Adds to `out` the memory, to be read, that each of `slots` describes: an address in the lower half, and in the upper one a length
/// in the bits of `LEN`, of which 0 stands for `LEN` + 1. By fours, up to the first four of which one is not of `kind` or lies
/// elsewhere than the stretch of `memory` at hand, and as long as there is room; returns how many. The first line of each is asked for.
///
/// A descriptor is read once and whole: what is in its lower half when the upper one is as wanted is what is used.
#[inline(always)]
pub fn windows_of<'m, T: Table, const LEN: u64, const N: usize>(
    slots: &[Slot],
    kind: Kind,
    memory: &Lookup<'m, '_, T>,
    out: &mut ArrayVec<Slice<'m>, N>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if slots.len() >= FEW && slots.as_ptr().cast::<wide::Desc>().is_aligned() && is_x86_feature_detected!("avx2") {
        let slots = slots.get(..out.remaining_capacity()).unwrap_or(slots);
        // SAFETY: the processor has AVX2, the descriptors lie at multiples of 16 bytes, and there is room for as many.
        return unsafe { wide::windows_of::<T, LEN, N>(slots, kind, memory, out) };
    }
    0
}

#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{HEAD, MemTable, Region, Ring, Span, SpanHint};

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

    proptest! {
        /// Descriptors with their length in 14 bits among others: as far as they are taken together they are as one by one, and
        /// what ends them is one of four that is of another kind, or lies elsewhere.
        #[test]
        fn those_of_a_kind_are_as_one_by_one(
            descs in proptest::collection::vec(
                (prop_oneof![30 => -150i64..4000, 1 => any::<i64>()], prop_oneof![30 => 1u64..60, 1 => 0u64..1 << 14],
                    prop_oneof![60 => Just(0x8000u64), 1 => any::<u64>()]),
                1..40,
            ),
            room in 0usize..40,
            aligned in prop_oneof![4 => Just(true), 1 => Just(false)],
        ) {
            const LEN: u64 = 0x3fff;
            let kind = Kind { mask: 0xff00_0000_c000, wanted: 0x8000 };
            let (region, table) = memory();
            let slots: Vec<(u64, u64)> =
                descs.iter().map(|(by, len, rest)| (STRETCHES[0].0.wrapping_add(*by as u64), len | rest & !LEN)).collect();
            let ring = Ring::<4>::new(&region, if aligned { 0 } else { 8 }, 64).unwrap().wide().unwrap();
            (0..).zip(&slots).for_each(|(n, (low, high))| ring.store(n, *low, *high));
            let mut hint = SpanHint::default();
            let mut memory = table.lookup(&mut hint);
            prop_assert!(memory.whole(STRETCHES[0].0, 1).is_some());
            let mut out = ArrayVec::<Slice<'_>, 32>::new();
            out.extend(std::iter::repeat_n(Slice::NOTHING, 32 - room.min(32)));
            let before = out.len();
            let count = windows_of::<_, LEN, 32>(ring.slots(0, slots.len() as u32), kind, &memory, &mut out);
            prop_assert_eq!(out.len(), before + count);
            // What can be taken, without a look elsewhere than at the stretch at hand.
            let single = |(low, high): &(u64, u64)| {
                let len = ((high & LEN).wrapping_sub(1) & LEN) + 1;
                let near = (low.wrapping_sub(STRETCHES[0].0)).checked_add(len + HEAD as u64).is_some_and(|end| end <= 4096);
                (high & kind.mask == kind.wanted && near).then_some(len as usize)
            };
            for (window, slot) in out[before..].iter().zip(&slots) {
                let offset = slot.0.wrapping_sub(STRETCHES[0].0) as usize;
                prop_assert_eq!(Some(window.len()), single(slot));
                prop_assert!(window.has_front() && window.as_ptr() == region.slice(4096 + offset, 1).unwrap().as_ptr());
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let fours = slots[..slots.len().min(32 - before)].chunks_exact(if aligned { 4 } else { 64 });
                let most = 4 * fours.take_while(|four| four.iter().all(|slot| single(slot).is_some())).count();
                prop_assert_eq!(count, most);
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
