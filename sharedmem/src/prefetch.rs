//! Asking for memory before it is needed.

/// Asks the processor to bring the first cache line of `what` near: memory of any kind, not only shared.
#[inline(always)]
pub fn prefetch<T: ?Sized>(what: &T) {
    at_read(std::ptr::from_ref(what).cast());
}

/// The line at any address, for reading.
#[inline(always)]
pub(crate) fn at_read(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(at.cast(), std::arch::x86_64::_MM_HINT_T0);
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;
/// Bytes of the longest copy whose lines are all asked for beforehand: an Ethernet frame fits.
pub(crate) const CLAIM: usize = 2048;

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
    each_line(at, n, at_write);
}

/// Asks for all lines of the `n` bytes at `at`, no nearer than the second-level cache, for reading or writing later. More than
/// [`CLAIM`] are left alone: several such copies have to find room in a core's cache.
#[inline(always)]
pub(crate) fn fetch_lines(at: *const u8, n: usize) {
    each_line(at, n, at_second);
}

/// The line at any address, into the second-level cache.
#[inline(always)]
fn at_second(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(at.cast(), std::arch::x86_64::_MM_HINT_T1);
    }
}

/// Calls `ask` for each line of the `n` bytes at `at`, if these are no more than [`CLAIM`].
#[inline(always)]
fn each_line(at: *const u8, n: usize, ask: impl Fn(*const u8)) {
    if n > CLAIM {
        return;
    }
    let end = at.wrapping_add(n);
    let mut line = at.wrapping_sub(at.addr() % LINE);
    while line < end {
        ask(line);
        line = line.wrapping_add(LINE);
    }
}
