//! Idle processes with connected ports.

use std::time::Duration;

use anyhow::{Context, Result};
use testbed::soft::{SoftVirtio, VirtioOptions};
use testbed::switch::SwitchProcess;
use wire::Mac;

use super::Measured;
use super::figures::Outcome;
use super::generator::{accounted, program};
use super::peers::{Peer, Running, Wishes, own_config};

/// Ports with a guest on them.
const PORTS: usize = 8;

/// CPU time of the process while nobody sends, in percent of one CPU.
///
/// # Errors
/// When the peer cannot start.
pub fn idle(peer: Peer, length: Duration) -> Result<Outcome> {
    match peer {
        Peer::Own(ports) => {
            let dir = tempfile::tempdir()?;
            let config = own_config(dir.path(), ports, false);
            let switch = SwitchProcess::start(&program()?, None, dir.path(), &config)?;
            let connect = |n: usize| {
                let mac = Mac([0x00, 0x50, 0x56, 0, 1, n as u8]);
                SoftVirtio::connect(&switch.socket(&format!("port{n}")), VirtioOptions::new(mac))
            };
            let _guests = (0..PORTS).map(connect).collect::<Result<Vec<_>>>()?;
            let measured = measure(switch.pid(), length)?;
            accounted(&switch.control_socket())?;
            Ok(Outcome { measured, accounted: true })
        }
        _ => {
            let running = Running::start(peer, Wishes::default())?;
            Ok(Outcome { measured: measure(running.pid, length)?, accounted: false })
        }
    }
}

fn measure(pid: u32, length: Duration) -> Result<Measured> {
    std::thread::sleep(Duration::from_secs(1));
    let before = cpu_ticks(pid)?;
    std::thread::sleep(length);
    let ticks = cpu_ticks(pid)? - before;
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    Ok(Measured::Cpu(100.0 * ticks as f64 / hertz / length.as_secs_f64()))
}

/// User and system time of a process, in clock ticks: fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).context("too few fields in stat");
    Ok(field(14)? + field(15)?)
}
