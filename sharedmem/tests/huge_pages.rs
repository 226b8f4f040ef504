//! Guest memory on huge pages, and VMMs that take it away.

mod huge;

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

use huge::{HUGE, HugePages, memfd};
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use sharedmem::{Access, DmaMap, Hint, Mapping, MemTable, Region, Span, SpanHint};

/// Writes and reads back `value` at `offset`.
fn holds(region: &Region, offset: usize, value: u8) -> bool {
    let slice = region.slice(offset, 64).unwrap();
    let mut out = [!value; 64];
    slice.write_at(0, &[value; 64]) && slice.read_at(0, &mut out) && out == [value; 64]
}

fn zero(region: &Region, offset: usize) -> bool {
    let mut out = [1; 64];
    region.slice(offset, 64).unwrap().read_at(0, &mut out) && out == [0; 64]
}

#[test]
fn a_part_of_huge_pages_is_mapped_where_it_was_asked_for() {
    let _pages = HugePages::reserve(3);
    let file = memfd(3);
    let whole = Region::map(file.as_fd(), 0, 3 * HUGE, true).unwrap();
    assert_eq!(whole.len(), 3 * HUGE);
    // As QEMU maps low memory: not from the start of a page, not to the end of one, and across two.
    for (offset, len) in [(0, 0xa0000), (0xc0000, HUGE), (HUGE - 4096, 4097), (2 * HUGE, 1), (3 * HUGE - 4096, 4096)] {
        let part = Region::map(file.as_fd(), offset as u64, len, true).unwrap();
        assert_eq!(part.len(), len);
        assert!(part.slice(0, len + 1).is_none(), "no more than was asked for");
        for at in [0, len - 1] {
            let value = [at as u8 ^ 0x5a];
            assert!(part.slice(at, 1).unwrap().write_at(0, &value));
            let mut seen = [0];
            assert!(whole.slice(offset + at, 1).unwrap().read_at(0, &mut seen) && seen == value, "{offset} {at}");
        }
        assert!(!part.faulted());
    }
    assert!(Region::map(file.as_fd(), 100, 4096, true).is_err(), "not from the start of an ordinary page");
    assert!(Region::map(file.as_fd(), 0, 3 * HUGE + 1, true).is_err(), "more than there is");
    assert!(Region::map(file.as_fd(), u64::MAX - 4095, 4096, true).is_err());
    assert!(holds(&whole, 5000, 9), "parts were unmapped, this was not");
}

#[test]
fn a_shrunk_file_reads_as_zeros_and_is_noticed() {
    let _pages = HugePages::reserve(4);
    let file = memfd(4);
    let region = Region::map(file.as_fd(), 0, 4 * HUGE, true).unwrap();
    let other = memfd(1);
    for page in 0..4 {
        assert!(holds(&region, page * HUGE + 12_345, 7));
    }
    ftruncate(&file, 2 * HUGE as u64).unwrap();
    assert!(holds(&region, 12_345, 8), "what is left stays");
    assert!(!region.faulted());
    // At the end of the page, so that what comes in its place cannot begin at the address.
    assert!(zero(&region, 4 * HUGE - 64), "the page is gone, the access goes on");
    assert!(region.faulted());
    assert!(holds(&region, 3 * HUGE, 1) && holds(&region, 3 * HUGE + 12_345, 2) && holds(&region, 4 * HUGE - 64, 3));
    assert!(holds(&region, 2 * HUGE + 100, 4), "the next page as well");
    ftruncate(&file, 0).unwrap();
    for page in 0..4 {
        assert!(holds(&region, page * HUGE + 777, 5), "page {page}");
    }
    drop(region);
    // Everything was unmapped: the same addresses are used anew, and nothing of the old is there.
    let again = Region::map(other.as_fd(), 0, HUGE, true).unwrap();
    assert!(zero(&again, 0) && holds(&again, HUGE - 64, 6) && !again.faulted());
}

#[test]
fn a_hole_that_cannot_be_filled_is_survived() {
    let _pages = HugePages::reserve(2);
    let file = memfd(2);
    let region = Region::map(file.as_fd(), 0, 2 * HUGE, true).unwrap();
    assert!(holds(&region, 0, 1) && holds(&region, HUGE, 1));
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, HUGE as u64, HUGE as u64).unwrap();
    // With a page to spare it is a page of zeros that all see; with none the file has a page less than it says. What is
    // spare is taken by somebody else first.
    let hoard: Vec<_> = std::iter::from_fn(|| {
        let file = memfd(1);
        let mapped = Region::map(file.as_fd(), 0, HUGE, true).ok()?;
        mapped.slice(0, 1)?.write_at(0, &[1]);
        (!mapped.faulted()).then_some((file, mapped))
    })
    .collect();
    assert!(!hoard.is_empty(), "the hole's page was to be had");
    assert!(zero(&region, HUGE + 4096) && region.faulted(), "no page was left");
    assert!(holds(&region, HUGE + 4096, 2) && holds(&region, 0, 2));
}

/// A hugetlbfs of its own.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        let status =
            Command::new("mount").args(["-t", "hugetlbfs", "-o", "pagesize=2M", "none"]).arg(dir.path()).status();
        assert!(status.unwrap().success(), "hugetlbfs is mounted, which takes root");
        Mounted(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn files_on_a_hugetlbfs_mount_are_as_good_as_memfds() {
    let _pages = HugePages::reserve(1);
    let dir = Mounted::new();
    let file =
        std::fs::File::options().read(true).write(true).create_new(true).open(dir.0.path().join("memory")).unwrap();
    file.set_len(HUGE as u64).unwrap();
    let region = Region::map(file.as_fd(), 4096, 8192, true).unwrap();
    assert!(holds(&region, 0, 3) && !region.faulted());
    file.set_len(0).unwrap();
    assert!(zero(&region, 100) && region.faulted());
    drop((region, file));
}

/// Two pages of guest memory, both taken away: every window that a table of either kind gives is safe to use.
#[test]
fn tables_survive_huge_pages_that_go() {
    let _pages = HugePages::reserve(2);
    let file = memfd(2);
    let region = Region::map(file.as_fd(), 0, 2 * HUGE, true).unwrap();
    let (guest, len) = (0x10_0000, 2 * HUGE as u64);
    let map = DmaMap::new().with(Mapping { iova: guest, len, region: Some(region.clone()), writable: true }).unwrap();
    let span = Span { guest, len, user: 0, region: region.clone(), offset: 0 };
    let table = MemTable::new().with(span).unwrap();
    let dma = map.slice(&mut Hint::default(), guest + HUGE as u64 - 32, 64, Access::Write).unwrap();
    let window = table.prefix(&mut SpanHint::default(), guest + HUGE as u64 - 32, 64).unwrap();
    let ring = map.ring::<4>(guest + HUGE as u64, 64).unwrap();
    assert!(dma.write_at(0, &[5; 64]));
    let mut out = [0; 64];
    assert!(window.read_at(0, &mut out) && out == [5; 64]);
    ftruncate(&file, 0).unwrap();
    assert!(window.read_at(0, &mut out) && out == [0; 64] && dma.write_at(0, &[5; 64]));
    assert!(ring.faulted() && region.faulted());
    assert_eq!(Arc::strong_count(&region), 4, "the map, the table, the ring and this");
}
