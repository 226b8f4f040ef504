//! Asking for memory before it is needed, and for how it is to be made.

use std::mem::MaybeUninit;

/// Asks the processor to bring the first cache line of `what` near: memory of any kind, not only shared.
#[inline(always)]
pub fn prefetch<T: ?Sized>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(std::ptr::from_ref(what).cast(), std::arch::x86_64::_MM_HINT_T0);
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;
/// Bytes of the longest copy whose lines are all asked for beforehand: an Ethernet frame fits.
pub(crate) const CLAIM: usize = 2048;

/// Bytes of the largest ordinary page of any architecture.
const LARGEST_PAGE: usize = 64 * 1024;

/// Asks the kernel to put huge pages under `what`, which is about to be written for the first time: a large table is then
/// reached without a walk through page tables at every step. Nothing is said when there are none: it is only slower.
pub fn advise_huge<T>(what: &mut [MaybeUninit<T>]) {
    let (start, len) = (what.as_mut_ptr().addr(), size_of_val(what));
    let (first, end) = (start.next_multiple_of(LARGEST_PAGE), (start + len) / LARGEST_PAGE * LARGEST_PAGE);
    if end <= first {
        return;
    }
    // SAFETY: the advice changes no contents and no protection, whatever the kernel makes of it; the range is whole pages
    // within memory that is borrowed here.
    let _ = unsafe {
        let at = what.as_mut_ptr().byte_add(first - start);
        rustix::mm::madvise(at.cast(), end - first, rustix::mm::Advice::LinuxHugepage)
    };
}

/// As [`prefetch`], for memory that will be written: the line comes with the right to write it, which would cost another
/// round between the processors' caches later.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(what: &T) {
    at_write(std::ptr::from_ref(what).cast());
}

/// The line at any address, for writing.
#[inline(always)]
pub(crate) fn at_write(at: *const u8) {
    at_write_behind::<0>(at);
}

/// The line `OFFSET` bytes from any address, for writing.
#[inline(always)]
pub(crate) fn at_write_behind<const OFFSET: usize>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW changes no memory and no flags and never faults; an x86-64 processor that does not know it
    // does nothing (Intel SDM, "PREFETCHW"; it was a 3DNow! instruction of AMD's before).
    unsafe {
        std::arch::asm!("prefetchw byte ptr [{} + {}]", in(reg) at.addr(), const OFFSET, options(nostack, preserves_flags, nomem));
    }
}

/// Asks for all lines of the `n` bytes at `at` at once, which are written now. A copy alone asks for them one after the
/// other: its stores wait in order, and the processor looks ahead for loads only. A copy longer than [`CLAIM`] is left
/// alone: the first-level cache would not hold the lines until their turn.
#[inline(always)]
pub(crate) fn claim_lines(at: *const u8, n: usize) {
    if n > CLAIM {
        return;
    }
    let end = at.wrapping_add(n);
    let mut line = at.wrapping_sub(at as usize % LINE);
    while line < end {
        at_write(line);
        line = line.wrapping_add(LINE);
    }
}
