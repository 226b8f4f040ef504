//! The front of a frame, read in one go: two loads and a mask, whatever its length.
//!
//! ```text
//!  window    header | 60 bytes |............         HEAD bytes behind a roomy window can be read too
//!  loads            |---------- 64 ---------|
//!  mask              ff .. ff 00 00 00 00
//! ```

use std::ptr;

use crate::slice::ROOMY;
use crate::{HEAD, Slice};

/// What [`Slice::front`] reads.
pub struct Front<const P: usize> {
    /// The header.
    pub header: [u8; P],
    /// Bytes behind the header.
    pub len: usize,
    /// The first of them, and zeros where there are no more.
    pub head: [u8; HEAD],
    /// How many of them these are.
    pub head_len: usize,
}

/// All ones, then all zeros: what begins `n` bytes before the middle keeps `n` bytes.
pub(crate) const MASK: &[u8; 2 * HEAD] = &{
    let mut mask = [0; 2 * HEAD];
    let mut at = 0;
    while at < HEAD {
        mask[at] = 0xff;
        at += 1;
    }
    mask
};

impl Slice<'_> {
    /// True where [`Slice::front`] can be read.
    #[inline(always)]
    pub fn has_front(&self) -> bool {
        self.shape & ROOMY != 0
    }

    /// What lies at the start of the window behind a header of `P` bytes, when that is from `least` to `most` bytes and the
    /// window is one behind which [`HEAD`] bytes more may be read ([`crate::Aim::Read`]). No branch and no call: what is read
    /// too much is made zero.
    #[inline(always)]
    pub fn front<const P: usize>(&self, least: usize, most: usize) -> Option<Front<P>> {
        const WORDS: usize = HEAD / 8;
        let above = self.shape.wrapping_sub(ROOMY + (P + least) as u64) as usize;
        if above > most - least {
            return None;
        }
        let len = least + above;
        let head_len = len.min(HEAD);
        // SAFETY: P + least bytes lie in the window, and HEAD bytes behind its end are mapped too.
        let (header, words) = unsafe {
            let header: [u8; P] = ptr::read_unaligned(self.as_ptr().cast());
            let words: [u64; WORDS] = ptr::read_unaligned(self.as_ptr().add(P).cast());
            (header, words)
        };
        // SAFETY: head_len is at most HEAD, and the table has HEAD bytes behind that.
        let mask: [u64; WORDS] = unsafe { ptr::read_unaligned(MASK.as_ptr().add(HEAD - head_len).cast()) };
        let kept: [u64; WORDS] = std::array::from_fn(|n| words[n] & mask[n]);
        // SAFETY: both are HEAD bytes of plain integers.
        let head = unsafe { std::mem::transmute::<[u64; WORDS], [u8; HEAD]>(kept) };
        Some(Front { header, len, head, head_len })
    }
}
