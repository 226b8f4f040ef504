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
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        }
    }
}

const HUGE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Huge pages of 2 MiB set aside, given back on drop.
pub struct HugePages {
    before: u64,
}

impl HugePages {
    /// At least `wanted` of them, if the kernel has them.
    pub fn reserve(wanted: u64) -> HugePages {
        let before = fs::read_to_string(HUGE).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        if before < wanted {
            let _ = fs::write(HUGE, wanted.to_string());
        }
        HugePages { before }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(HUGE, self.before.to_string());
    }
}
