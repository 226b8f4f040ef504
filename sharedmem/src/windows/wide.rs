//! Four descriptors at a time, with AVX2.

use std::arch::x86_64::{
    __m128i, __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_castsi256_pd, _mm256_cmpgt_epi64, _mm256_movemask_pd,
    _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi64x, _mm256_storeu_si256, _mm256_sub_epi64, _mm256_testz_si256,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use arrayvec::ArrayVec;

use super::{Aim, Kind};
use crate::lookup::{Lookup, Place, Table};
use crate::slice::{HEAD, ROOMY};
use crate::{Slice, Slot, SplitRing};

/// A descriptor, read whole: it lies at a multiple of its 16 bytes.
pub(super) type Desc = __m128i;
/// Descriptors looked at together.
const FOUR: usize = 4;
/// The length within the upper half of a virtqueue's descriptor, and the flags.
const LEN: u64 = 0xffff_ffff;
const FLAGS: u64 = 0xffff << 32;

/// A stretch of memory and a kind of descriptor, four times over.
struct Wide {
    guest: __m256i,
    len: __m256i,
    base: __m256i,
    access: __m256i,
    mask: __m256i,
    wanted: __m256i,
}

impl Wide {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(place: &Place, aim: Aim, kind: Kind) -> Wide {
        let (behind, access) = match aim {
            Aim::Read => (HEAD as u64, ROOMY),
            Aim::Write => (0, place.access),
        };
        // Addresses are compared as signed numbers: a place longer than these is taken to be as long as they go. In one that
        // is too short there is nothing.
        let len = i64::try_from(place.len).unwrap_or(i64::MAX).wrapping_sub(behind as i64);
        let [guest, base, mask, wanted] =
            [place.guest, place.base.addr() as u64, kind.mask, kind.wanted].map(|n| _mm256_set1_epi64x(n as i64));
        let [len, access] = [len, access as i64].map(|n| _mm256_set1_epi64x(n));
        Wide { guest, len, base, access, mask, wanted }
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
    let kind = Kind { mask: FLAGS, wanted: u64::from(flags) << 32 };
    // The ring's size is a power of two: no bit of any identifier is above those of the last.
    let all_there = ids.iter().fold(0, |all, id| all | id) < ring.size();
    let (fours, rest) = if all_there { ids.as_chunks::<FOUR>() } else { ([].as_slice(), ids) };
    let mut left = fours;
    while !left.is_empty() {
        // SAFETY: the identifiers are below the ring's size, whose descriptors are mapped and aligned; there is room for as many
        // windows, by the caller's promise.
        let found = unsafe {
            let descs = left.iter().map(|ids| ids.map(|id| ring.desc_at(id)));
            run::<_, WRITE, LEN, 0, N>(descs, &Wide::new(memory.place(), aim, kind), out)
        };
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

/// As [`super::windows_of`].
///
/// # Safety
/// The descriptors must be aligned to their 16 bytes, which a [`Slot`] need not be, and `out` have room for as many windows.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn windows_of<'m, T: Table, const LEN: u64, const N: usize>(
    slots: &[Slot],
    kind: Kind,
    memory: &Lookup<'m, '_, T>,
    out: &mut ArrayVec<Slice<'m>, N>,
) -> usize {
    let descs =
        slots.as_chunks::<FOUR>().0.iter().map(|four| four.each_ref().map(|slot| std::ptr::from_ref(slot).cast()));
    // SAFETY: references, so they are mapped; they are aligned, and there is room, by the caller's promise.
    unsafe { FOUR * run::<_, false, LEN, 1, N>(descs, &Wide::new(memory.place(), Aim::Read, kind), out) }
}

/// Adds the windows of those which are of the kind and lie in the place of `wide`, up to the first four of which one is not;
/// returns how many fours there are.
///
/// # Safety
/// `out` must have room for all; the descriptors must be mapped and aligned to their 16 bytes, and the place be mapped for `'m`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn run<'m, D, const WRITE: bool, const LEN: u64, const LEAST: u64, const N: usize>(
    descs: D,
    wide: &Wide,
    out: &mut ArrayVec<Slice<'m>, N>,
) -> usize
where
    D: Iterator<Item = [*const Desc; FOUR]>,
{
    let (before, mut count) = (out.len(), 0);
    // SAFETY: it is no further than the capacity.
    let to = unsafe { out.as_mut_ptr().add(before).cast::<[Slice<'m>; FOUR]>() };
    for four in descs {
        // SAFETY: the caller's promises; so many fours were written before.
        let Some(windows) = (unsafe { four_at_once::<LEN, LEAST>(four, wide, to.add(count)) }) else { break };
        windows.iter().for_each(|window| if WRITE { Aim::Write } else { Aim::Read }.ask_for(window));
        count += 1;
    }
    // SAFETY: so many windows were written.
    unsafe { out.set_len(before + FOUR * count) };
    count
}

/// Writes the windows of all four to `to` when all are as wanted and lie in the place; `None` otherwise. A length is in the bits
/// of `LEN`, where it is counted from `LEAST`: with 1, what would be 0 is one more than the most they hold.
///
/// # Safety
/// The descriptors must be mapped and aligned to their 16 bytes, `to` be good for four windows, and the place be mapped for
/// `'m`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn four_at_once<'m, 'o, const LEN: u64, const LEAST: u64>(
    descs: [*const Desc; FOUR],
    wide: &Wide,
    to: *mut [Slice<'m>; FOUR],
) -> Option<&'o [Slice<'m>; FOUR]> {
    // SAFETY: the caller's promise. They are shared memory, so the reads are volatile; on a processor with AVX one of 16 aligned
    // bytes is seen whole (Intel SDM volume 3, "Guaranteed Atomic Operations"; AMD says the same of theirs).
    let [a, b, c, d] = descs.map(|desc| unsafe { desc.read_volatile() });
    let (low, high) = (_mm256_set_m128i(b, a), _mm256_set_m128i(d, c));
    // In the order a, c, b, d.
    let (addr, rest) = (_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high));
    if _mm256_testz_si256(_mm256_xor_si256(rest, wide.wanted), wide.mask) == 0 {
        return None;
    }
    let least = _mm256_set1_epi64x(LEAST as i64);
    let len = _mm256_and_si256(_mm256_sub_epi64(rest, least), _mm256_set1_epi64x(LEN as i64));
    let len = _mm256_add_epi64(len, least);
    let offset = _mm256_sub_epi64(addr, wide.guest);
    // A negative offset is one beyond all places, and above a last one that is negative itself: the sign of either tells.
    let beyond = _mm256_or_si256(_mm256_cmpgt_epi64(offset, _mm256_sub_epi64(wide.len, len)), offset);
    if _mm256_movemask_pd(_mm256_castsi256_pd(beyond)) != 0 {
        return None;
    }
    let (at, shape) = (_mm256_add_epi64(offset, wide.base), _mm256_or_si256(len, wide.access));
    // SAFETY: `to` is good for four windows. Each is a pointer, not null, and its shape, in that order (`Slice` is
    // `repr(C)`); offset..offset + len lies in the place, and where the shape says ROOMY, so do HEAD bytes more.
    unsafe {
        _mm256_storeu_si256(to.cast(), _mm256_unpacklo_epi64(at, shape));
        _mm256_storeu_si256(to.cast::<__m256i>().add(1), _mm256_unpackhi_epi64(at, shape));
        Some(&*to)
    }
}
