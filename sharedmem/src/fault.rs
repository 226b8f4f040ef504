//! What happens when a peer shrinks a file that is mapped here.
//!
//! Access to a page past the end of a file raises SIGBUS, which would end the switch and every
//! VM's network with it. The handler looks the address up in a fixed table of live regions, puts
//! a page of zeros under it and marks the region; the access then goes on. Whoever owns the region
//! sees [`Region::faulted`](crate::Region::faulted) and takes its own port out of use. A SIGBUS
//! anywhere else gets the default action.
//!
//! A huge page is replaced whole, for the kernel does not cut a hugetlb mapping within one; what comes in its place is
//! ordinary memory, of which only what is touched is ever taken. The same happens when a huge page is wanted and none is
//! left: a VMM that reserved too few, or gave some back. Where pages are so large that a worker would be away while the
//! kernel clears one, none is ever made for us ([`no_new_pages`]): a page that is not there is as good as gone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Most regions guarded at once; a region beyond that works unguarded.
pub const MAX_GUARDS: usize = 16_384;

#[derive(Debug)]
pub(crate) struct Entry {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    page: AtomicUsize,
    writable: AtomicBool,
    faulted: AtomicU8,
}

static TABLE: [Entry; MAX_GUARDS] = [const {
    Entry {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        page: AtomicUsize::new(4096),
        writable: AtomicBool::new(false),
        faulted: AtomicU8::new(0),
    }
}; MAX_GUARDS];
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// A region's entry in the table, given back by [`Guard::forget`].
#[derive(Debug)]
pub(crate) struct Guard(Option<&'static Entry>);

/// Bytes of a page. Asked of libc: rustix reads it from a place that valgrind, which counts our instructions, hides.
pub(crate) fn page_size() -> usize {
    // SAFETY: a question without arguments in memory.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}

impl Guard {
    /// For `len` bytes mapped at `start`, in pages of `page` bytes; both are multiples of that.
    pub(crate) fn new(start: usize, len: usize, page: usize, writable: bool) -> Guard {
        install();
        for (index, entry) in TABLE.iter().enumerate() {
            if entry.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                entry.faulted.store(0, Ordering::Relaxed);
                entry.writable.store(writable, Ordering::Relaxed);
                entry.page.store(page, Ordering::Relaxed);
                entry.start.store(start, Ordering::Relaxed);
                entry.len.store(len, Ordering::Release);
                HIGH.fetch_max(index + 1, Ordering::AcqRel);
                return Guard(Some(entry));
            }
        }
        Guard(None)
    }

    /// For memory no peer can take away.
    pub(crate) fn none() -> Guard {
        Guard(None)
    }

    #[inline(always)]
    pub(crate) fn faulted(&self) -> bool {
        self.0.is_some_and(|entry| entry.faulted.load(Ordering::Relaxed) != 0)
    }

    /// Takes the entry out of the table; called before the mapping goes.
    pub(crate) fn forget(&mut self) {
        if let Some(entry) = self.0.take() {
            entry.len.store(0, Ordering::Release);
            entry.taken.store(false, Ordering::Release);
        }
    }
}

/// `struct uffdio_api` of `<linux/userfaultfd.h>`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` likewise.
#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// Faults of ours, not of the kernel on our behalf; that needs no privilege.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

/// From now on an access to a page of the hugetlb mapping `start`, `len` that its file does not hold raises SIGBUS, where
/// the kernel would else take a page and clear it. Lasts as long as what is returned.
///
/// # Errors
/// When the kernel has no userfaultfd with that feature (Linux 4.14, 5.11 without privilege).
pub(crate) fn no_new_pages(start: usize, len: usize) -> io::Result<OwnedFd> {
    let flags = rustix::mm::UserfaultfdFlags::CLOEXEC.bits() | UFFD_USER_MODE_ONLY as u32;
    // SAFETY: makes a descriptor, and does nothing to memory until a range is registered.
    let fd = unsafe { rustix::mm::userfaultfd(rustix::mm::UserfaultfdFlags::from_bits_retain(flags))? };
    let features = UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_SIGBUS;
    let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: the descriptor is a userfaultfd and the argument what the request reads and writes.
    if unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = UFFDIO_REGISTER_MODE_MISSING;
    let mut range = UffdioRegister { start: start as u64, len: len as u64, mode, ioctls: 0 };
    // SAFETY: as above; the range is a mapping of the caller's, whose pages stay as they are.
    if unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut range) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        // SAFETY: an all-zero sigaction is a valid value; the fields that matter are set next.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        // SAFETY: action is initialised, and the handler calls only mmap, signal and raise and
        // touches only atomics, all async-signal-safe.
        if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } != 0 {
            // Nothing to undo: without the handler a shrunk file ends the process, as before.
            let _ = io::Error::last_os_error();
        }
    });
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: __errno_location is always valid; the interrupted code must find its errno again.
    let errno = unsafe { *libc::__errno_location() };
    if !mend(address) {
        // SAFETY: resetting a signal and returning re-runs the faulting access, which then ends
        // the process with the default action.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn mend(address: usize) -> bool {
    for entry in &TABLE[..HIGH.load(Ordering::Acquire)] {
        let len = entry.len.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        if len == 0 || address < start || address - start >= len {
            continue;
        }
        entry.faulted.store(1, Ordering::Relaxed);
        let writable = entry.writable.load(Ordering::Relaxed);
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let page = entry.page.load(Ordering::Relaxed);
        let at = (address & !(page - 1)) as *mut libc::c_void;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the page belongs to a live Region of ours (it is in the table, and start and len are multiples of its
        // size), so replacing it touches no other mapping; the Region's munmap later covers it too.
        let got = unsafe { libc::mmap(at, page, prot, flags, -1, 0) };
        return got != libc::MAP_FAILED;
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use crate::Region;

    #[test]
    fn a_shrunk_file_reads_as_zeros_and_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let region = Region::map(file.as_fd(), 0, 8192, true).unwrap();
        let slice = region.slice(4096, 64).unwrap();
        assert!(slice.write_at(0, &[7; 8]));
        assert!(!region.faulted());
        file.set_len(0).unwrap();
        let mut out = [1u8; 8];
        assert!(slice.read_at(0, &mut out));
        assert_eq!(out, [0; 8]);
        assert!(region.faulted());
        assert!(region.slice(0, 16).unwrap().write_at(0, &[1; 16]), "the first page too");
    }
}
