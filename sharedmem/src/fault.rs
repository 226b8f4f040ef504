//! What happens when a peer shrinks a file that is mapped here.
//!
//! Access to a page past the end of a file raises SIGBUS, which would end the switch and every
//! VM's network with it. The handler looks the address up in a fixed table of live regions, puts
//! a page of zeros under it and marks the region; the access then goes on. Whoever owns the region
//! sees [`Region::faulted`](crate::Region::faulted) and takes its own port out of use. A SIGBUS
//! anywhere else gets the default action.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Most regions guarded at once; a region beyond that works unguarded.
pub const MAX_GUARDS: usize = 16_384;

struct Entry {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    writable: AtomicBool,
    faulted: AtomicU8,
}

static TABLE: [Entry; MAX_GUARDS] = [const {
    Entry {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        writable: AtomicBool::new(false),
        faulted: AtomicU8::new(0),
    }
}; MAX_GUARDS];
static HIGH: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// A region's entry in the table, given back by [`Guard::forget`].
#[derive(Debug)]
pub(crate) struct Guard(Option<usize>);

/// Bytes of a page. Asked of libc: rustix reads it from a place that valgrind, which counts our instructions, hides.
fn page_size() -> usize {
    // SAFETY: a question without arguments in memory.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}

impl Guard {
    pub(crate) fn new(start: usize, len: usize, writable: bool) -> Guard {
        install();
        for (index, entry) in TABLE.iter().enumerate() {
            if entry.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                entry.faulted.store(0, Ordering::Relaxed);
                entry.writable.store(writable, Ordering::Relaxed);
                entry.start.store(start, Ordering::Relaxed);
                entry.len.store(len, Ordering::Release);
                HIGH.fetch_max(index + 1, Ordering::AcqRel);
                return Guard(Some(index));
            }
        }
        Guard(None)
    }

    /// For memory no peer can take away.
    pub(crate) fn none() -> Guard {
        Guard(None)
    }

    pub(crate) fn faulted(&self) -> bool {
        self.0.is_some_and(|i| TABLE[i].faulted.load(Ordering::Relaxed) != 0)
    }

    /// Takes the entry out of the table; called before the mapping goes.
    pub(crate) fn forget(&mut self) {
        if let Some(index) = self.0.take() {
            TABLE[index].len.store(0, Ordering::Release);
            TABLE[index].taken.store(false, Ordering::Release);
        }
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PAGE.store(page_size(), Ordering::Relaxed);
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
    let page = PAGE.load(Ordering::Relaxed);
    for entry in &TABLE[..HIGH.load(Ordering::Acquire)] {
        let len = entry.len.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        if len == 0 || address < start || address - start >= len {
            continue;
        }
        entry.faulted.store(1, Ordering::Relaxed);
        let writable = entry.writable.load(Ordering::Relaxed);
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let at = (address & !(page - 1)) as *mut libc::c_void;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the page belongs to a live Region of ours (it is in the table), so replacing it
        // touches no other mapping; the Region's munmap later covers it too. hugetlb mappings
        // refuse a small page, which the caller turns into the default action.
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
