//! Asking for memory before it is needed.

/// Asks the processor to bring the first cache line of `what` near: memory of any kind, not only shared.
#[inline(always)]
pub fn prefetch<T: ?Sized>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(std::ptr::from_ref(what).cast(), std::arch::x86_64::_MM_HINT_T0);
    }
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
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW changes no memory and no flags and never faults; an x86-64 processor that does not know it
    // does nothing (Intel SDM, "PREFETCHW"; it was a 3DNow! instruction of AMD's before).
    unsafe {
        std::arch::asm!("prefetchw byte ptr [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}
