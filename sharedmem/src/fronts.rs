//! The fronts of many windows, read four at a time: what holds for all four is asked once.
//!
//! ```text
//!  windows   w0 w1 w2 w3     lengths in one register: are all in bounds, what is their sum, which is the longest
//!            |  |  |  |
//!  heads     h0 h1 h2 h3     each two loads, a mask for the second, and two stores
//!             \  \ /  /
//!              differ?       from the bytes thought to be at the start of all; only then is one looked at by itself
//! ```
//! With AVX2, found at run time; without it, [`Slice::front`] is what there is.

use arrayvec::ArrayVec;

use crate::{HEAD, Slice};

/// Bytes at the start of a front that are compared: addresses and type of an Ethernet frame.
pub const START: usize = 14;
/// Fronts are read together from this many bytes on: the first load needs no mask.
const LEAST: usize = 32;

/// What is known of a front beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Bytes behind the header.
    pub len: u32,
    /// Number of the window.
    pub number: u16,
    /// How many bytes of the head are of the window; behind them are zeros.
    pub head_len: u16,
}

/// What fronts that were read together come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fronts {
    /// How many they are.
    pub count: usize,
    /// Bytes behind their headers, in all.
    pub bytes: u64,
    /// The same of the longest.
    pub longest: usize,
}

/// What fronts that are read together are measured by.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Number of the first window; the next ones follow.
    pub number: u16,
    /// The first [`START`] bytes, as a little-endian number, that most of the fronts are thought to have.
    pub start: u128,
    /// Most bytes behind the header.
    pub most: usize,
}

/// Adds to `list` what `make` makes of the front of each window, behind a header of `P` bytes, by fours. Ends before the first four
/// of which one has no front ([`Slice::has_front`]), is not from 32 to `expect.most` bytes long, begins with 16 bits that are not
/// all zero where there is a header, or is refused by `keep`; and where there is no room for four. `keep` sees what was made in its
/// place, and is asked only of fours of which one starts with other bytes than expected.
#[inline]
pub fn extend_fronts<T: Copy, const P: usize, const N: usize>(
    list: &mut ArrayVec<T, N>,
    windows: &[Slice<'_>],
    expect: Expect,
    make: impl Fn([u8; HEAD], Measure) -> T,
    keep: impl FnMut(&T) -> bool,
) -> Fronts {
    const { assert!(P != 1, "a header holds the 16 bits that are asked for") };
    let windows = windows.get(..list.remaining_capacity()).unwrap_or(windows);
    #[cfg(target_arch = "x86_64")]
    if windows.len() >= wide::FOUR
        && windows.len() <= usize::from(u16::MAX - expect.number)
        && is_x86_feature_detected!("avx2")
    {
        let before = list.len();
        // SAFETY: the processor has AVX2, there is room for as many items behind the others, and they are T.
        return unsafe {
            let fronts = wide::fronts::<T, P>(list.as_mut_ptr().add(before), windows, expect, make, keep);
            list.set_len(before + fronts.count);
            fronts
        };
    }
    let _ = (make, keep);
    Fronts::default()
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_castsi256_pd, _mm256_extract_epi64, _mm256_loadu_si256,
        _mm256_max_epu32, _mm256_min_epu32, _mm256_movemask_pd, _mm256_or_si256, _mm256_set_epi64x, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_slli_epi64, _mm256_sub_epi64, _mm256_testz_si256, _mm256_unpackhi_epi64,
        _mm256_xor_si256,
    };
    use std::ptr;

    use super::{Expect, Fronts, LEAST, Measure, START};
    use crate::front::MASK;
    use crate::slice::ROOMY;
    use crate::{HEAD, Slice};

    /// Fronts read together.
    pub(super) const FOUR: usize = 4;
    /// Where the number and the length of the head are within a word of measures, as [`measure`] takes it apart.
    const NUMBER: u32 = 32;
    const HEAD_LEN: i32 = 48;

    /// What fours have in common, and where their measures are added up.
    struct Sums {
        least: __m256i,
        most: __m256i,
        bytes: __m256i,
        longest: __m256i,
        numbers: __m256i,
    }

    /// Lengths that are in bounds, and what follows from them.
    struct Lens {
        lens: __m256i,
        words: [u64; FOUR],
        masks: [*const __m256i; FOUR],
    }

    impl Sums {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn new<const P: usize>(expect: Expect) -> Sums {
            let number = u64::from(expect.number) << NUMBER;
            Sums {
                least: all(ROOMY + (P + LEAST) as u64),
                // In bounds that are none, there is nothing.
                most: all((expect.most as u64).wrapping_sub(LEAST as u64)),
                bytes: _mm256_setzero_si256(),
                longest: _mm256_setzero_si256(),
                numbers: _mm256_add_epi64(all(number), _mm256_set_epi64x(3 << NUMBER, 1 << NUMBER, 2 << NUMBER, 0)),
            }
        }

        /// The lengths of four windows; `None` when one is out of bounds, or not roomy.
        #[target_feature(enable = "avx2")]
        #[inline]
        fn lens(&self, four: &[Slice<'_>; FOUR]) -> Option<Lens> {
            let pair = ptr::from_ref(four).cast::<__m256i>();
            // SAFETY: a window is two words, the second its shape; four are two registers full.
            let (low, high) = unsafe { (_mm256_loadu_si256(pair), _mm256_loadu_si256(pair.add(1))) };
            // In the order a, c, b, d.
            let above = _mm256_sub_epi64(_mm256_unpackhi_epi64(low, high), self.least);
            // Either is negative as a signed number where it must not be: a shape that is not roomy has the sign, for it had none.
            let odd = _mm256_or_si256(above, _mm256_sub_epi64(self.most, above));
            if _mm256_movemask_pd(_mm256_castsi256_pd(odd)) != 0 {
                return None;
            }
            let lens = _mm256_add_epi64(above, all(LEAST as u64));
            let head_lens = _mm256_min_epu32(lens, all(HEAD as u64));
            let words = _mm256_or_si256(lens, _mm256_slli_epi64::<HEAD_LEN>(head_lens));
            let masks = _mm256_sub_epi64(all(MASK.as_ptr().addr() as u64 + HEAD as u64), head_lens);
            Some(Lens {
                lens,
                words: in_order(_mm256_or_si256(words, self.numbers)),
                masks: in_order(masks).map(|mask| MASK.as_ptr().with_addr(mask as usize).cast()),
            })
        }

        #[target_feature(enable = "avx2")]
        #[inline]
        fn count(&mut self, lens: &Lens) {
            self.bytes = _mm256_add_epi64(self.bytes, lens.lens);
            self.longest = _mm256_max_epu32(self.longest, lens.lens);
            self.numbers = _mm256_add_epi64(self.numbers, all((FOUR as u64) << NUMBER));
        }
    }

    /// As [`super::extend_fronts`].
    ///
    /// # Safety
    /// `to` must be good for as many items as there are windows, and the number of the last window fit its type.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn fronts<T: Copy, const P: usize>(
        to: *mut T,
        windows: &[Slice<'_>],
        expect: Expect,
        make: impl Fn([u8; HEAD], Measure) -> T,
        mut keep: impl FnMut(&T) -> bool,
    ) -> Fronts {
        let mut sums = Sums::new::<P>(expect);
        let start = _mm256_set_epi64x(0, 0, (expect.start >> 64) as i64, expect.start as i64);
        let compared = _mm256_set_epi64x(0, 0, !(!0 << (START * 8 - 64)), !0);
        let mut count = 0;
        for four in windows.as_chunks::<FOUR>().0 {
            let Some(lens) = sums.lens(four) else { break };
            // SAFETY: more bytes than these lie in each window.
            let words = four.each_ref().map(|window| unsafe { window.as_ptr().cast::<u16>().read_unaligned() });
            if P > 0 && words != [0; FOUR] {
                break;
            }
            let mut odd = _mm256_setzero_si256();
            // SAFETY: there is room for as many items as windows, by the caller's promise.
            let to = unsafe { to.add(count) };
            for (n, window) in four.iter().enumerate() {
                // SAFETY: P + LEAST bytes lie in each window, and HEAD bytes behind its end are mapped too. The mask has HEAD
                // bytes from there on, for the head is no longer.
                let (first, second) = unsafe {
                    let from = window.as_ptr().add(P).cast::<__m256i>();
                    let mask = _mm256_loadu_si256(lens.masks[n].add(1));
                    (_mm256_loadu_si256(from), _mm256_and_si256(_mm256_loadu_si256(from.add(1)), mask))
                };
                odd = _mm256_or_si256(odd, _mm256_xor_si256(first, start));
                // SAFETY: both are HEAD bytes of plain integers; `to` as above.
                unsafe {
                    let head = std::mem::transmute::<[__m256i; 2], [u8; HEAD]>([first, second]);
                    to.add(n).write(make(head, measure(lens.words[n])));
                }
            }
            // SAFETY: four items were written there.
            if _mm256_testz_si256(odd, compared) == 0 && !(0..FOUR).all(|n| keep(unsafe { &*to.add(n) })) {
                break;
            }
            sums.count(&lens);
            count += FOUR;
        }
        let longest = in_order(sums.longest).into_iter().max().unwrap_or(0);
        Fronts { count, bytes: in_order(sums.bytes).iter().sum(), longest: longest as usize }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn all(number: u64) -> __m256i {
        _mm256_set1_epi64x(number as i64)
    }

    /// Numbers that lie in the order a, c, b, d.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn in_order(numbers: __m256i) -> [u64; FOUR] {
        [
            _mm256_extract_epi64::<0>(numbers) as u64,
            _mm256_extract_epi64::<2>(numbers) as u64,
            _mm256_extract_epi64::<1>(numbers) as u64,
            _mm256_extract_epi64::<3>(numbers) as u64,
        ]
    }

    #[inline(always)]
    fn measure(word: u64) -> Measure {
        Measure { len: word as u32, number: (word >> NUMBER) as u16, head_len: (word >> HEAD_LEN) as u16 }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{MemTable, Region, Span, SpanHint};

    /// Bytes of memory the windows lie in, and how far they may be apart.
    const BYTES: usize = 16384;
    const APART: usize = 400;
    const HEADER: usize = 12;
    /// The most common first byte of a front, one that is refused, and what begins a header that is kept.
    const USUAL: u8 = 7;
    const REFUSED: u8 = 9;

    type Item = ([u8; HEAD], Measure);

    /// Where a window is: how long, how far from the last, and how it differs from most.
    #[derive(Clone, Copy, Debug)]
    struct Place {
        len: usize,
        gap: usize,
        roomy: bool,
        header: [u8; 2],
        first: u8,
    }

    fn any_place() -> impl Strategy<Value = Place> {
        let len = prop_oneof![20 => 44usize..200, 2 => 30usize..50, 1 => 0usize..30, 1 => 200usize..300];
        let header = prop_oneof![40 => Just([0, 0]), 1 => any::<[u8; 2]>()];
        let first = prop_oneof![20 => Just(USUAL), 2 => Just(8), 1 => Just(REFUSED)];
        let roomy = prop_oneof![40 => Just(true), 1 => Just(false)];
        (len, 0..APART - 300, roomy, header, first).prop_map(|(len, gap, roomy, header, first)| Place {
            len,
            gap,
            roomy,
            header,
            first,
        })
    }

    fn memory() -> (Arc<Region>, MemTable) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES as u64).unwrap();
        let region = Region::map(file.as_fd(), 0, BYTES, true).unwrap();
        let bytes: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8 + 1).collect();
        assert!(region.slice(0, BYTES).unwrap().write_at(0, &bytes));
        let span = Span { guest: 0, len: BYTES as u64, user: 0, region: region.clone(), offset: 0 };
        (region, MemTable::new().with(span).unwrap())
    }

    /// The bytes all fronts start with that are not odd.
    fn start() -> u128 {
        let mut start = [0; 16];
        start[..START].fill(USUAL);
        u128::from_le_bytes(start)
    }

    /// Lays out what `places` say.
    fn windows<'m>(region: &'m Region, table: &'m MemTable, places: &[Place]) -> Vec<Slice<'m>> {
        let mut at = 0;
        let lay = |place: &Place| {
            at += place.gap;
            let plain = region.slice(at, place.len).unwrap();
            let n = place.len.min(2);
            assert!(plain.write_at(0, &place.header[..n]));
            if place.len >= HEADER + START {
                assert!(plain.write_at(HEADER, &[USUAL; START]) && plain.write_at(HEADER, &[place.first]));
            }
            let from = at as u64;
            at += place.len;
            let roomy = || table.lookup(&mut SpanHint::default()).to_read(from, place.len as u32);
            if place.roomy { roomy().unwrap_or(plain) } else { plain }
        };
        places.iter().map(lay).collect()
    }

    /// What is to come out: one front after the other.
    fn one_by_one(windows: &[Slice<'_>], room: usize, number: u16, most: usize) -> (Vec<Item>, Fronts) {
        let (mut items, mut fronts) = (vec![], Fronts::default());
        for (four, numbers) in windows[..windows.len().min(room)].as_chunks::<4>().0.iter().zip((number..).step_by(4)) {
            let all: Vec<_> = four.iter().filter_map(|window| window.front::<HEADER>(LEAST, most)).collect();
            let keep = |front: &crate::Front<HEADER>| front.header[..2] == [0, 0] && front.head[0] != REFUSED;
            if all.len() < 4 || !all.iter().all(keep) {
                break;
            }
            for (front, number) in all.iter().zip(numbers..) {
                let measure = Measure { len: front.len as u32, number, head_len: front.head_len as u16 };
                items.push((front.head, measure));
                fronts.count += 1;
                fronts.bytes += front.len as u64;
                fronts.longest = fronts.longest.max(front.len);
            }
        }
        (items, fronts)
    }

    proptest! {
        /// Together and one by one are the same fronts, up to the same end; what starts as expected is not asked about.
        #[test]
        fn together_is_as_one_by_one(
            places in proptest::collection::vec(any_place(), 0..40), there in 0usize..20, number in 0u16..60_000,
            most in prop_oneof![3 => Just(1518usize), 1 => 32usize..250, 1 => 0usize..40],
        ) {
            let (region, table) = memory();
            let windows = windows(&region, &table, &places);
            let mut list = ArrayVec::<Item, 40>::new();
            list.extend((0..there).map(|_| ([0xee; HEAD], Measure { len: 1, number: 2, head_len: 3 })));
            let mut asked = vec![];
            let expect = Expect { number, start: start(), most };
            let fronts = extend_fronts::<Item, HEADER, 40>(&mut list, &windows, expect, |head, measure| (head, measure), |item| {
                asked.push(item.0[0]);
                item.0[0] != REFUSED
            });
            let (items, expected) = if is_x86_feature_detected!("avx2") && most >= LEAST {
                one_by_one(&windows, 40 - there, number, most)
            } else {
                (vec![], Fronts::default())
            };
            prop_assert_eq!(fronts, expected);
            prop_assert_eq!(&list[there..], &items[..]);
            prop_assert!(list[..there].iter().all(|item| item.1.number == 2));
            // Whole fours are asked about, and only such as have an odd one among them.
            let odd = items.as_chunks::<4>().0.iter().filter(|four| four.iter().any(|item| item.0[0] != USUAL)).count();
            prop_assert!(asked.len() >= 4 * odd && asked.len() <= 4 * (odd + 1));
        }
    }

    /// The number of a window is one of 16 bits: of more than there are numbers for, none is read.
    #[test]
    fn numbers_do_not_wrap() {
        let (region, table) = memory();
        let places = [Place { len: 100, gap: 0, roomy: true, header: [0, 0], first: USUAL }; 8];
        let windows = windows(&region, &table, &places);
        let numbers = |number| {
            let mut list = ArrayVec::<Item, 8>::new();
            let expect = Expect { number, start: start(), most: 1518 };
            extend_fronts::<Item, HEADER, 8>(&mut list, &windows, expect, |head, measure| (head, measure), |_| true);
            list.iter().map(|item| item.1.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(u16::MAX - 8), (u16::MAX - 8..u16::MAX).collect::<Vec<_>>());
        assert_eq!(numbers(u16::MAX - 7), []);
    }
}
