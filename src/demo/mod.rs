//! `vswitch demo`: the switch at work with three real VMs and a physical network of namespaces.
//!
//! ```text
//!   web1 (vmxnet3, VLAN 10) --+             +-- vmnic0 == p1 --+
//!   old1 (vlance,  VLAN 10) --+-- vswitch --+-- vmnic1 == p2 --+-- physical switch --- outside host, VLAN 10
//!   lab1 (vmxnet3, VLAN 20) --+             +-- vmnic2 == p3 --+                   \-- a flood of strangers
//! ```
//!
//! Everything is made for the occasion and taken down at the end: the machine's own network is not
//! touched. Each claim is checked; the first that does not hold ends the demo with exit code 1.

mod network;
mod scenes;
mod stage;

use anyhow::Result;

/// Runs the demo; progress on standard output.
///
/// # Errors
/// With the first claim that did not hold, in one sentence.
pub(crate) fn run() -> Result<()> {
    let stage = stage::Stage::open();
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the demo makes network namespaces and needs root; run it with sudo"
    );
    testbed::netns::Lab::sweep()?;
    let mut network = network::Network::build(&stage)?;
    scenes::play(&stage, &mut network)?;
    network.close(&stage)
}
