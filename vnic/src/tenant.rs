//! Memory that a VMM hands over: which kinds the workers may touch.

use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

/// File systems whose pages no tenant can hold back or take away for good (`statfs(2)`: tmpfs, which is memfd
/// as well; ramfs, ext, xfs, btrfs). On FUSE or NFS a worker's load would wait for somebody else's server.
/// A huge page that its owner takes away cannot be replaced as [`sharedmem::fault`] does with a small one, so
/// hugetlbfs is not among them.
const FILE_SYSTEMS: [u64; 5] = [0x0102_1994, 0x8584_58f6, 0xef53, 0x5846_5342, 0x9123_683e];
const HUGETLBFS: u64 = 0x9584_58f6;

/// Why memory is not taken; words for the log.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// The question could not be asked.
    System(Errno),
    /// It is of a kind that could stall a worker.
    Kind(String),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit::System(errno)
    }
}

/// Checks that the file `fd` may be mapped for the workers.
pub(crate) fn check(fd: impl AsFd) -> Result<(), Unfit> {
    let stat = rustix::fs::fstat(&fd)?;
    let system = rustix::fs::fstatfs(&fd)?.f_type as u64;
    if FileType::from_raw_mode(stat.st_mode).is_file() && FILE_SYSTEMS.contains(&system) {
        return Ok(());
    }
    Err(Unfit::Kind(match system {
        HUGETLBFS => "huge pages are not taken yet; give the VM a memfd without hugetlb=on".to_owned(),
        other => format!("its memory must be a memfd or a file on tmpfs or a local disk (file system {other:#x})"),
    }))
}
