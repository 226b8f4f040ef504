//! Entries of a split ring, many at once: available ones by one move for a burst, used ones eight at a time, formed in registers
//! and then written.

use std::ops::Range;
use std::ptr;

use crate::SplitRing;
use crate::widest::{FEW, Work, widest};

/// Heads read together by [`SplitRing::avail_run`] at best: a burst.
const RUN: usize = 32;
/// Used elements formed together.
const EIGHT: usize = 8;

impl SplitRing {
    /// The heads the driver made available from `start` on, as many as `out` holds; at most the ring's size of them are
    /// written.
    #[inline]
    pub fn avail_run(&self, start: u16, out: &mut [u16]) {
        let (at, n) = (usize::from(start & (self.size() - 1)), out.len().min(usize::from(self.size())));
        let ring = self.avail_entries();
        match out.first_chunk_mut::<RUN>() {
            // The usual number, by a move of fixed size.
            Some(run) if n == RUN && at + RUN <= usize::from(self.size()) => {
                // SAFETY: at + RUN is at most the size; `run` holds as many and is our own memory.
                unsafe { ptr::copy_nonoverlapping(ring.add(at).cast::<[u16; RUN]>(), run, 1) };
            }
            _ if n < FEW => {
                for (place, head) in (at..).zip(&mut out[..n]) {
                    // SAFETY: masked, it is below the size.
                    *head = unsafe { ring.add(place & (usize::from(self.size()) - 1)).read_volatile() };
                }
            }
            _ => {
                let first = n.min(usize::from(self.size()) - at);
                // SAFETY: at + first and n - first are at most the size; `out` holds n and is our own memory.
                unsafe {
                    ptr::copy_nonoverlapping(ring.add(at), out.as_mut_ptr(), first);
                    ptr::copy_nonoverlapping(ring, out.as_mut_ptr().add(first), n - first);
                }
            }
        }
        out.iter_mut().for_each(|head| *head = u16::from_le(*head));
    }

    /// Writes used elements for `heads`, from `start` on, with as many bytes as `lens` says; at most the ring's size, and as
    /// many as there are of both. The driver sees them after the next [`SplitRing::set_used_idx`]. Returns the sum of the
    /// bytes.
    #[inline]
    pub fn set_used_lens(&self, start: u16, heads: &[u16], lens: &[u32]) -> u64 {
        if let ([head], [len]) = (heads, lens) {
            self.set_used(start, *head, *len);
            return u64::from(*len);
        }
        let count = heads.len().min(lens.len());
        self.set_elements(start, &heads[..count], |sum, to, part| {
            sum + widest(part.len(), Elements { to, heads: &heads[part.clone()], lens: &lens[part] })
        })
    }

    /// The same with no bytes for each.
    #[inline]
    pub fn set_used_run(&self, start: u16, heads: &[u16]) {
        if let [head] = heads {
            return self.set_used(start, *head, 0);
        }
        self.set_elements(start, heads, |_, to, part| widest(part.len(), EmptyElements { to, heads: &heads[part] }));
    }

    /// Folds `write` over where elements for `heads` from `start` on lie, and which these are: before the ring's end, and at its
    /// start.
    #[inline(always)]
    fn set_elements<T: Default>(&self, start: u16, heads: &[u16], write: impl Fn(T, *mut u64, Range<usize>) -> T) -> T {
        let (at, size) = (usize::from(start & (self.size() - 1)), usize::from(self.size()));
        let first = heads.len().min(size - at);
        let rest = (heads.len() - first).min(at);
        let done = write(T::default(), self.used_at(start), 0..first);
        if rest == 0 { done } else { write(done, self.used_at(0), first..first + rest) }
    }
}

/// Elements that lie together at `to`, where there is room for as many as there are heads; of lengths there are as many.
struct Elements<'a> {
    to: *mut u64,
    heads: &'a [u16],
    lens: &'a [u32],
}

impl Work for Elements<'_> {
    type Outcome = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let ((heads, last_heads), (lens, last_lens)) =
            (self.heads.as_chunks::<EIGHT>(), self.lens.as_chunks::<EIGHT>());
        let (mut to, mut sums) = (self.to, [0u32; EIGHT]);
        for (heads, lens) in heads.iter().zip(lens) {
            // SAFETY: there is room for eight more, as there are heads.
            to = unsafe { put(to, std::array::from_fn::<_, EIGHT, _>(|n| element(heads[n], lens[n]))) };
            sums = std::array::from_fn(|n| sums[n].wrapping_add(lens[n]));
        }
        let mut sum: u64 = sums.iter().map(|sum| u64::from(*sum)).sum();
        for (head, len) in last_heads.iter().zip(last_lens) {
            sum += u64::from(*len);
            // SAFETY: as above, for one.
            to = unsafe { put(to, [element(*head, *len)]) };
        }
        sum
    }
}

/// The same with no bytes for each.
struct EmptyElements<'a> {
    to: *mut u64,
    heads: &'a [u16],
}

impl Work for EmptyElements<'_> {
    type Outcome = ();

    #[inline(always)]
    fn run(self) {
        let (heads, last) = self.heads.as_chunks::<EIGHT>();
        let mut to = self.to;
        for heads in heads {
            // SAFETY: there is room for eight more, as there are heads.
            to = unsafe { put(to, heads.map(|head| element(head, 0))) };
        }
        for head in last {
            // SAFETY: as above, for one.
            to = unsafe { put(to, [element(*head, 0)]) };
        }
    }
}

/// Writes elements, and gives where the next one goes.
///
/// # Safety
/// There must be room at `to`. The memory is the driver's, who reads it later.
#[inline(always)]
unsafe fn put<const N: usize>(to: *mut u64, elements: [u64; N]) -> *mut u64 {
    // SAFETY: the caller's promise.
    unsafe {
        to.cast::<[u64; N]>().write_unaligned(elements);
        to.add(N)
    }
}

/// Identifier and length (virtio 1.2, 2.7.8).
#[inline(always)]
fn element(head: u16, len: u32) -> u64 {
    (u64::from(head) | u64::from(len) << 32).to_le()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::Region;

    proptest! {
        /// As many as the ring has and there are lengths, each where a single one would be written, and nothing else.
        #[test]
        fn elements_are_where_single_ones_would_be(
            size in 0u32..8, start: u16, heads in proptest::collection::vec(any::<u16>(), 0..70),
            lens in proptest::collection::vec(0u32..70_000, 0..70), with_lens: bool,
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8192).unwrap();
            let rings = [0, 1].map(|_| {
                let region = Region::map(file.as_fd(), 0, 8192, true).unwrap();
                let ring = SplitRing::new(1 << size, (&region, 0), (&region, 2048), (&region, 4096)).unwrap();
                (region, ring)
            });
            let lens = if with_lens { lens } else { vec![0; heads.len()] };
            let count = heads.len().min(lens.len()).min(1 << size);
            let window = rings[0].0.slice(4096, 4096).unwrap();
            let bytes = || { let mut bytes = vec![0; 4096]; assert!(window.read_at(0, &mut bytes)); bytes };
            prop_assert!(window.write_at(0, &[0xaa; 4096]));
            for (n, (head, len)) in heads.iter().zip(&lens).take(count).enumerate() {
                rings[0].1.set_used(start.wrapping_add(n as u16), *head, *len);
            }
            let expected = bytes();
            prop_assert!(window.write_at(0, &[0xaa; 4096]));
            if with_lens {
                // Of lengths beyond what is written none may be written, but all are given.
                let sum = rings[1].1.set_used_lens(start, &heads, &lens);
                prop_assert_eq!(sum, lens[..count].iter().map(|len| u64::from(*len)).sum::<u64>());
            } else {
                rings[1].1.set_used_run(start, &heads[..count]);
            }
            prop_assert_eq!(bytes(), expected);
        }
    }
}
