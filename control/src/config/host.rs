//! What the machine offers that a configuration refers to.

use std::fs;

/// The CPUs of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPUs that are online, ascending.
    pub online: Vec<usize>,
    /// The CPU a switch polls on when nobody says which.
    pub default_worker: usize,
}

impl Host {
    /// This machine, as the kernel tells it now.
    pub fn here() -> Host {
        // The affinity mask is what this process may use at this moment, and a fair guess of what is
        // online where sysfs is not there to tell.
        let allowed: Vec<usize> = rustix::thread::sched_getaffinity(None)
            .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
            .unwrap_or_default();
        let online = fs::read_to_string("/sys/devices/system/cpu/online")
            .ok()
            .and_then(|text| cpu_list(text.trim()))
            .unwrap_or_else(|| allowed.clone());
        let default_worker = allowed.last().or(online.last()).copied().unwrap_or(0);
        Host { online, default_worker }
    }
}

/// Reads a kernel CPU list such as `0-3,8`.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(low.parse::<usize>().ok()?..=high.parse::<usize>().ok()?);
    }
    Some(cpus)
}

/// Writes CPUs as the kernel does: `0-3,8`.
pub(super) fn cpu_list_text(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, high)) if *high + 1 == cpu => *high = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let text = |(low, high): &(usize, usize)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        for text in ["0", "0-3", "0-1,4,6-7"] {
            assert_eq!(cpu_list_text(&cpu_list(text).unwrap()), text);
        }
        assert_eq!(cpu_list("0-"), None);
        assert_eq!(cpu_list(""), None);
    }

    #[test]
    fn this_machine_has_a_cpu() {
        let host = Host::here();
        assert!(host.online.contains(&host.default_worker), "{host:?}");
    }
}
