//! Copying and summing in one go: the Internet checksum of what is copied (RFC 1071), each byte read once.
//!
//! Words are added up in the order in which they lie in memory; the result is folded and turned at the end, which is
//! allowed (RFC 1071, 2.B). With AVX2 it is 32 bytes at a time, which is found out at run time.

use std::ptr;

/// Copies `n` bytes from `from` to `to` and returns the folded big-endian sum of their 16-bit words; a last odd byte is the
/// high byte of a word.
///
/// # Safety
/// `from` must be readable and `to` writable for `n` bytes. They may overlap, and others may write them meanwhile: what is
/// summed is what was stored.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, n: usize) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if n >= wide::STEP && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the rest is the caller's promise.
        return fold_native(unsafe { wide::copy(from, to, n) });
    }
    // SAFETY: the caller's promise.
    fold_native(unsafe { by_words(from, to, n) })
}

/// Eight bytes at a time. The sum of 32-bit words in native order, which 2^32 of them cannot overflow.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
unsafe fn by_words(from: *const u8, to: *mut u8, n: usize) -> u64 {
    let (mut acc, mut at) = (0u64, 0);
    while at + 8 <= n {
        // SAFETY: at + 8 <= n; unaligned copies of plain integers.
        let word = unsafe {
            let word = ptr::read_unaligned(from.add(at).cast::<u64>());
            ptr::write_unaligned(to.add(at).cast::<u64>(), word);
            word
        };
        acc += (word & 0xffff_ffff) + (word >> 32);
        at += 8;
    }
    let (mut tail, rest) = ([0u8; 8], n - at);
    if rest > 0 {
        // SAFETY: the last n - at bytes of both; tail is 8 bytes and rest < 8.
        unsafe {
            ptr::copy_nonoverlapping(from.add(at), tail.as_mut_ptr(), rest);
            ptr::copy_nonoverlapping(tail.as_ptr(), to.add(at), rest);
        }
        let word = u64::from_ne_bytes(tail);
        acc += (word & 0xffff_ffff) + (word >> 32);
    }
    acc
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_setzero_si256, _mm256_storeu_si256,
        _mm256_unpackhi_epi32, _mm256_unpacklo_epi32,
    };

    /// Bytes of a step: two registers.
    pub(super) const STEP: usize = 64;
    /// Bytes of a register.
    const ALIGN: usize = 32;

    /// As [`super::by_words`].
    ///
    /// # Safety
    /// As [`super::copy`], on a processor with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, n: usize) -> u64 {
        let zero = _mm256_setzero_si256();
        // 64-bit sums of 32-bit words, of either half of each register.
        let mut sums = [zero; 4];
        // Stores that cross lines cost more than loads that do. An odd number of bytes would shift all words by one.
        let short = to.align_offset(ALIGN) & !1;
        let mut at = if short < n { short } else { 0 };
        // SAFETY: the first of the caller's n bytes.
        let first = unsafe { super::by_words(from, to, at) };
        while at + STEP <= n {
            for half in 0..2 {
                // SAFETY: at + STEP <= n, and the halves are 32 bytes each; no alignment is asked for.
                let word = unsafe {
                    let word = _mm256_loadu_si256(from.add(at + 32 * half).cast());
                    _mm256_storeu_si256(to.add(at + 32 * half).cast(), word);
                    word
                };
                sums[2 * half] = _mm256_add_epi64(sums[2 * half], _mm256_unpacklo_epi32(word, zero));
                sums[2 * half + 1] = _mm256_add_epi64(sums[2 * half + 1], _mm256_unpackhi_epi32(word, zero));
            }
            at += STEP;
        }
        let [a, b, c, d] = sums;
        let all = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
        // SAFETY: both are 32 bytes of plain integers.
        let lanes = unsafe { std::mem::transmute::<__m256i, [u64; 4]>(all) };
        // SAFETY: what is left of the caller's n bytes.
        first + lanes.iter().sum::<u64>() + unsafe { super::by_words(from.add(at), to.add(at), n - at) }
    }
}

/// Folds a sum of native-order words (the sum may be formed in either byte order) and turns it into big-endian order.
#[inline]
fn fold_native(mut acc: u64) -> u16 {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    u16::from_be_bytes((acc as u16).to_ne_bytes())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    /// The sum by its definition.
    pub(crate) fn sum_be(data: &[u8]) -> u16 {
        let mut acc = 0u64;
        for p in data.chunks(2) {
            acc += u64::from(p[0]) << 8 | u64::from(*p.get(1).unwrap_or(&0));
        }
        while acc > 0xffff {
            acc = (acc & 0xffff) + (acc >> 16);
        }
        acc as u16
    }

    /// Copies `data` by `way` to a place of the same length, and says what came out and its sum.
    fn copied(data: &[u8], way: impl Fn(*const u8, *mut u8, usize) -> u16) -> (Vec<u8>, u16) {
        // A byte more on either side, which nobody may touch.
        let mut out = vec![0xee; data.len() + 2];
        let sum = way(data.as_ptr(), out[1..].as_mut_ptr(), data.len());
        assert_eq!((out[0], out[data.len() + 1]), (0xee, 0xee));
        out.remove(0);
        out.truncate(data.len());
        (out, sum)
    }

    proptest! {
        /// Both ways agree with the sum by its definition, and copy all bytes and no others.
        #[test]
        fn copies_and_sums_agree(data in proptest::collection::vec(any::<u8>(), 0..1600), skip in 0usize..9) {
            let data = &data[skip.min(data.len())..];
            // SAFETY: both are that long, and ours.
            let best = copied(data, |from, to, n| unsafe { super::copy(from, to, n) });
            // SAFETY: as above.
            let words = copied(data, |from, to, n| super::fold_native(unsafe { super::by_words(from, to, n) }));
            prop_assert_eq!(&best, &words);
            prop_assert_eq!(&best.0[..], data);
            prop_assert_eq!(best.1, sum_be(data));
        }
    }

    /// The largest sums: all bits set, in the longest frame.
    #[test]
    fn nothing_overflows() {
        let data = vec![0xff; 65_549];
        // SAFETY: both are that long, and ours.
        let (out, sum) = copied(&data, |from, to, n| unsafe { super::copy(from, to, n) });
        assert!(out == data && sum == sum_be(&data));
    }
}
