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
