//! How busy uplinks and ports are, for the `load` policy.

use std::time::Duration;

use dataplane::{PortId, Role, Snapshot};
use teaming::{Loads, UplinkLoad};

/// Byte counts at the last look.
#[derive(Default)]
pub(super) struct LoadMeter {
    at: Duration,
    /// Bytes in and out by port number.
    bytes: Vec<(u64, u64)>,
}

impl LoadMeter {
    /// Averages since the last call, in bits per second of the busier direction. vNICs are numbered from 0
    /// after `uplinks` uplinks; `capacity` tells an uplink's speed in bits per second, 0 when unknown.
    pub(super) fn measure(&mut self, snapshot: &Snapshot, now: Duration, capacity: impl Fn(u16) -> u64) -> Loads {
        let seconds = now.saturating_sub(self.at).as_secs_f64().max(0.001);
        self.at = now;
        self.bytes.resize(snapshot.port_limit(), (0, 0));
        let mut loads = Loads::default();
        let mut uplinks = 0;
        for (number, before) in self.bytes.iter_mut().enumerate() {
            let number = number as u16;
            let Some(port) = snapshot.port(PortId(number)) else { continue };
            let totals = port.counters.totals();
            let moved = (totals.in_bytes - before.0).max(totals.out_bytes - before.1);
            *before = (totals.in_bytes, totals.out_bytes);
            let used = (moved as f64 * 8.0 / seconds) as u64;
            match port.role {
                Role::Uplink(_) => {
                    uplinks += 1;
                    loads.uplinks.push(UplinkLoad { uplink: number, used, capacity: capacity(number) });
                }
                Role::Vnic(_) => _ = loads.ports.insert(number - uplinks, used),
            }
        }
        loads
    }
}

/// Speed of an interface in bits per second; 0 when it tells none.
pub(super) fn speed(device: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/speed")).unwrap_or_default();
    text.trim().parse::<u64>().map_or(0, |megabits| megabits * 1_000_000)
}
