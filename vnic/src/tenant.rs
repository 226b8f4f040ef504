//! Memory that a VMM hands over: which kinds the workers may touch.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// File systems whose pages no tenant can hold back or take away for good (`statfs(2)`: tmpfs, which is memfd
/// as well; ramfs, ext, xfs, btrfs, hugetlbfs). On FUSE or NFS a worker's load would wait for somebody else's server.
const FILE_SYSTEMS: [u64; 6] = [0x0102_1994, 0x8584_58f6, 0xef53, 0x5846_5342, 0x9123_683e, HUGETLBFS];
const HUGETLBFS: u64 = 0x9584_58f6;
/// Largest pages in bytes that may still be missing. Whoever touches a page of hugetlbfs first has the kernel clear it:
/// with 2 MiB that is a fraction of a millisecond, with 1 GiB a worker would be away for a tenth of a second. So
/// [`sharedmem::Region`] never makes pages larger than this, and they must be there before.
const MAX_MISSING: u64 = 2 << 20;

/// Why memory is not taken; words for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// The question could not be asked.
    #[error("{0}")]
    System(#[from] Errno),
    /// It is of a kind that could stall a worker.
    #[error("{0}")]
    Kind(String),
}

/// Checks that the file `fd` may be mapped for the workers.
pub(crate) fn check(fd: impl AsFd) -> Result<(), Unfit> {
    let stat = rustix::fs::fstat(&fd)?;
    let system = rustix::fs::fstatfs(&fd)?;
    judge(FileType::from_raw_mode(stat.st_mode).is_file(), system.f_type as u64, system.f_bsize as u64, full(&stat))
}

/// True for a file without holes. (Blocks are of 512 bytes, whatever the file system.)
fn full(stat: &Stat) -> bool {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) >= u64::try_from(stat.st_size).unwrap_or(u64::MAX)
}

/// The verdict on a file (or what is none) of a file system of this kind, with blocks of `block` bytes.
fn judge(file: bool, kind: u64, block: u64, full: bool) -> Result<(), Unfit> {
    Err(Unfit::Kind(match kind {
        HUGETLBFS if block > MAX_MISSING && !full => {
            format!("its huge pages of {} MiB must all be there before (QEMU: prealloc=on)", block >> 20)
        }
        kind if file && FILE_SYSTEMS.contains(&kind) => return Ok(()),
        kind => format!("it must be a memfd or a file on tmpfs, hugetlbfs or a local disk (file system {kind:#x})"),
    }))
}

#[cfg(test)]
#[path = "../../sharedmem/tests/huge/mod.rs"]
mod huge;

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn what_could_hold_up_a_worker_is_refused() {
        assert!(check(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd")).is_ok());
        for (block, full) in [(2 << 20, false), (2 << 20, true), (1 << 30, true)] {
            assert!(judge(true, HUGETLBFS, block, full).is_ok(), "{block} {full}");
        }
        let Err(Unfit::Kind(why)) = judge(true, HUGETLBFS, 1 << 30, false) else { panic!("a page is missing") };
        assert!(why.contains("1024 MiB"), "{why}");
        for other in ["/proc/self/status", "/dev/null"] {
            let file = std::fs::File::open(other).expect("a file of the kernel's");
            assert!(matches!(check(file), Err(Unfit::Kind(_))), "{other}");
        }
    }
    #[test]
    fn a_file_of_huge_pages_is_full_when_all_are_there() {
        let _pages = huge::HugePages::reserve(2);
        let file = huge::memfd(2);
        let region = sharedmem::Region::map(file.as_fd(), 0, 2 * huge::HUGE, true).expect("a mapping");
        let full = || full(&rustix::fs::fstat(&file).expect("a file"));
        for (page, before) in [(0, false), (1, false)] {
            assert_eq!(full(), before);
            assert!(region.slice(page * huge::HUGE, 1).expect("a byte").write_at(0, &[1]));
        }
        assert!(full());
        rustix::fs::ftruncate(&file, 3 * huge::HUGE as u64).expect("a larger file");
        assert!(!full());
    }
}
