//! Large tables of the switch's own, on huge pages.

use std::mem::MaybeUninit;
use std::ops::Deref;

/// `N` elements that lie on huge pages, where the kernel has some: a large table is then reached without a walk through
/// page tables at every step.
///
/// A huge page covers what is aligned as it is, and nothing else: of a table of two pages' size that begins anywhere,
/// only half would lie on one. So it begins at a multiple of 2 MiB, the size of huge pages on x86-64.
#[repr(C, align(0x20_0000))]
pub struct HugeTable<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> HugeTable<T, N> {
    /// A table of default elements. They are made where they stay: no stack is large enough for them.
    pub fn boxed() -> Box<Self> {
        let mut table = Box::<Self>::new_uninit();
        advise_huge(std::slice::from_mut(&mut *table));
        let elements: *mut T = table.as_mut_ptr().cast();
        for n in 0..N {
            // SAFETY: the elements are the first and only field of a C structure, so element n lies there, and the box
            // is this function's own. If a later one's making panics, those that are there are not dropped, which is safe.
            unsafe { elements.add(n).write(T::default()) };
        }
        // SAFETY: all elements have been written, and there is nothing else in it.
        unsafe { table.assume_init() }
    }
}

impl<T, const N: usize> Deref for HugeTable<T, N> {
    type Target = [T; N];

    #[inline(always)]
    fn deref(&self) -> &[T; N] {
        &self.0
    }
}

/// Asks the kernel to put huge pages under `what`, which is about to be written for the first time. Nothing is said when
/// there are none: it is only slower.
fn advise_huge<T>(what: &mut [MaybeUninit<T>]) {
    // SAFETY: the advice changes no contents and no protection, whatever the kernel makes of it; the memory is borrowed
    // here. Where it is not whole pages the kernel refuses, which is as good.
    let _ =
        unsafe { rustix::mm::madvise(what.as_mut_ptr().cast(), size_of_val(what), rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Two huge pages' worth.
    type Table = HugeTable<AtomicU64, { (4 << 20) / 8 }>;

    /// KiB of huge pages in the mapping that `address` lies in, and true when the kernel was asked for them there.
    fn mapping(address: usize) -> (u64, bool) {
        let maps = fs::read_to_string("/proc/self/smaps").expect("this process's mappings");
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range =
                range.and_then(|(a, b)| Some(usize::from_str_radix(a, 16).ok()?..usize::from_str_radix(b, 16).ok()?));
            !range.is_some_and(|range| range.contains(&address))
        });
        let mut value =
            |name: &str| lines.find_map(|line| line.strip_prefix(name)).expect("a mapping").trim().to_owned();
        let huge = value("AnonHugePages:").trim_end_matches(" kB").parse().expect("a number");
        (huge, value("VmFlags:").split(' ').any(|flag| flag == "hg"))
    }

    #[test]
    fn all_of_a_table_is_asked_to_lie_on_huge_pages() {
        let table = Table::boxed();
        assert!(table.iter().all(|element| element.load(Ordering::Relaxed) == 0));
        let first = (&raw const table[0]).addr();
        assert_eq!(first % 0x20_0000, 0);
        assert_eq!(first, (&raw const *table).addr());
        let (huge, asked) = mapping(first);
        let has_any = fs::exists("/sys/kernel/mm/transparent_hugepage").expect("a look");
        assert_eq!(asked, has_any, "the kernel was to be asked where it knows them");
        // How many there are is the machine's affair; a page that is half the table's is not.
        assert_eq!(huge % 2048, 0, "{huge} KiB");
    }
}
