//! TCP between two user-mode Linux guests on vhost-user sockets.

use anyhow::Result;

use super::Measured;
use super::figures::Outcome;
use super::generator::accounted;
use super::peers::{Peer, Running, Wishes};

/// Boots a guest on each socket of `peer` and has iperf3 run between them.
///
/// # Errors
/// When the peer or a guest cannot start.
pub fn tcp(peer: Peer, seconds: f64) -> Result<Outcome> {
    let running = Running::start(peer, Wishes { learning: false, tso: true })?;
    let [a, b] = &running.sockets;
    // At least two seconds, as between namespaces.
    let gbits = testbed::uml::iperf3([a, b], seconds.ceil().max(2.0) as u32)?;
    if let Some(control) = &running.control {
        accounted(control)?;
    }
    Ok(Outcome { measured: Measured::Gbits(gbits), accounted: running.control.is_some() })
}
