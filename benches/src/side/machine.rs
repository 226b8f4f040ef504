//! What it was measured on, and the huge pages the peers need.

use std::fs;

/// The machine, in a line each.
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// CPUs.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split(": ").nth(1));
        Machine {
            cpu: model.unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: word("/proc/sys/kernel/osrelease"),
        }
    }
}

fn word(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Where the kernel keeps its pages of 2 MiB.
const HUGE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Huge pages of 2 MiB set aside, given back on drop.
pub struct HugePages {
    added: u64,
}

impl HugePages {
    /// So many more that `wanted` are free, if the kernel has them.
    pub fn reserve(wanted: u64) -> HugePages {
        let before = pages("nr_hugepages");
        let more = wanted.saturating_sub(pages("free_hugepages"));
        if more > 0 {
            let _ = fs::write(format!("{HUGE}/nr_hugepages"), (before + more).to_string());
        }
        HugePages { added: pages("nr_hugepages").saturating_sub(before) }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Somebody else may have changed the number meanwhile.
        let rest = pages("nr_hugepages").saturating_sub(self.added);
        let _ = fs::write(format!("{HUGE}/nr_hugepages"), rest.to_string());
    }
}

fn pages(name: &str) -> u64 {
    fs::read_to_string(format!("{HUGE}/{name}")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}
