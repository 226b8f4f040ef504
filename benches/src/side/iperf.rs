//! iperf3 between two namespaces.

use std::time::Duration;

use anyhow::{Context, Result};
use testbed::netns::{Host, wait_until};

use super::generator::number;

/// How long the server may take to listen.
const LIMIT: Duration = Duration::from_secs(20);

/// Gigabits per second of TCP payload, from `hosts[0]` to `address` of `hosts[1]`; the first second does not count.
///
/// # Errors
/// When they do not reach each other, or with iperf3's document.
pub fn between(hosts: [&Host; 2], address: &str, seconds: f64) -> Result<f64> {
    let _server = hosts[1].spawn(&["iperf3", "-s", "-1", "-B", address], |_| {})?;
    let listens = || hosts[1].exec("ss -Hltn sport = :5201").is_ok_and(|o| o.stdout.contains("5201"));
    wait_until("iperf3 listens", LIMIT, listens)?;
    let seconds = seconds.ceil().max(2.0);
    let time = seconds.to_string();
    let words = ["iperf3", "-c", address, "-t", &time, "-O", "1", "-J"];
    let output = hosts[0].exec_args(&words, Duration::from_secs_f64(seconds + 30.0))?.success()?;
    let document = serde_json::from_str(&output).context("iperf3's document")?;
    Ok(number(&document, "/end/sum_received/bits_per_second")? / 1e9)
}
