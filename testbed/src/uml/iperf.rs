//! How fast TCP goes between two guests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{UmlGuest, UmlSpec};

const BOOT: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(30);
/// Where Debian's package has it.
const IPERF3: &str = "/usr/bin/iperf3";

/// Boots two guests on two vhost-user sockets of any switch and sends TCP from the second to the first for `seconds`,
/// after one that does not count; returns what arrived, in Gbit/s.
///
/// # Errors
/// When a guest does not boot, or iperf3 (of this machine) does not run or does not get through.
pub fn iperf3(sockets: [&Path; 2], seconds: u32) -> Result<f64> {
    let [receiver, sender] = [("iperf-a", sockets[0]), ("iperf-b", sockets[1])].map(|(name, socket)| {
        UmlGuest::boot(&UmlSpec { programs: vec![PathBuf::from(IPERF3)], ..UmlSpec::new(name, socket) })
    });
    let (mut receiver, mut sender) = (receiver?, sender?);
    for (guest, last) in [(&mut receiver, 1), (&mut sender, 2)] {
        guest.wait_ready(BOOT)?;
        guest.sh_ok(&format!("ip addr add 10.0.0.{last}/24 dev eth0 && ip link set eth0 up"), SHORT)?;
    }
    receiver.sh_ok(&format!("{IPERF3} -s -D && sleep 1"), SHORT)?;
    sender.sh_ok("ping -c 3 -W 2 10.0.0.1", SHORT)?;
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let report = sender.sh_ok(&format!("{IPERF3} -c 10.0.0.1 -t {seconds} -O 1 -J"), limit)?;
    let report: Value = serde_json::from_str(&report).context("iperf3's report")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 says {report}"))? / 1e9)
}
