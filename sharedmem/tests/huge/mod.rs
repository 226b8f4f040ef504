//! Huge pages for a test: asked of the kernel, and given back.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, flock, ftruncate, memfd_create};

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;
const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// Huge pages of 2 MiB beside those the machine had. Tests that want some wait for each other.
pub struct HugePages {
    count: u64,
    // Released last.
    _lock: File,
}

impl HugePages {
    /// At least `count` that are free. Whoever cannot have them fails: what this tests is then untested.
    pub fn reserve(count: u64) -> HugePages {
        let path = std::env::temp_dir().join("vswitch-tests-huge-pages.lock");
        let lock = File::options().create(true).append(true).open(&path).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let pages = HugePages { count, _lock: lock };
        let wanted = number(COUNT) + count;
        let told = fs::write(COUNT, wanted.to_string());
        // Memory in pieces is moved together as it is asked for; that may take several attempts.
        let deadline = Instant::now() + Duration::from_secs(10);
        while number(FREE) < count && told.is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            let _ = fs::write(COUNT, wanted.to_string());
        }
        let free = number(FREE);
        assert!(
            free >= count,
            "this test needs {count} free huge pages of 2 MiB and the kernel gives {free} ({COUNT}: {told:?}): run it as \
             root on a machine with {} MiB of memory to spare",
            2 * count
        );
        pages
    }

    /// Huge pages that are free now.
    pub fn free(&self) -> u64 {
        number(FREE)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Somebody else may have changed the number meanwhile.
        let _ = fs::write(COUNT, number(COUNT).saturating_sub(self.count).to_string());
    }
}

/// A file of `pages` huge pages.
pub fn memfd(pages: usize) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
    ftruncate(&fd, (pages * HUGE) as u64).unwrap();
    fd
}

/// The number in a file of the kernel's, 0 when it is not there.
fn number(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
