//! Building a lab out of namespaces.

use std::time::Duration;

use anyhow::{Context, Result};

use super::check::BRIDGE;
use super::running::{Port, RunningLab};
use super::{CableSpec, Error, Topology, access};
use crate::netns::{DEFAULT_LIMIT, Host, Lab, VethOptions, run, wait_until};

/// Links are up within this, however busy the machine.
const LINKS_UP: Duration = Duration::from_secs(20);

/// `tc` in a namespace.
pub(super) fn tc(namespace: &str, words: &[&str]) -> Result<String> {
    run("tc", &[&["-n", namespace], words].concat(), DEFAULT_LIMIT)?.success()
}

/// Refuses without the rights that namespaces take.
pub(super) fn need_root() -> Result<(), Error> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::Input("a lab is made of network namespaces and needs root; run this with sudo".to_owned())),
    }
}

/// A lab that is gone with the value.
pub(super) fn build_for_process(topology: &Topology) -> Result<RunningLab, Error> {
    need_root()?;
    let lab = Lab::new(&topology.name)?;
    build(topology, &lab)?;
    let prefix = lab.namespace_of("");
    Ok(RunningLab::new(topology.clone(), prefix, Some(lab)))
}

/// Makes everything in `lab`, and returns when all links are up.
pub(super) fn build(topology: &Topology, lab: &Lab) -> Result<()> {
    for host in &topology.hosts {
        namespace(lab, &host.name)?;
    }
    for switch in &topology.switches {
        lab.bridge(&namespace(lab, switch)?, BRIDGE, &[], false)?;
    }
    for cable in &topology.cables {
        lay(topology, lab, cable).with_context(|| format!("laying cable {}", cable.name))?;
    }
    for host in &topology.hosts {
        for (device, address) in &host.addresses {
            let node = node(lab, &host.name);
            node.address(device, address).with_context(|| format!("giving host {} its address", host.name))?;
        }
    }
    let view = RunningLab::new(topology.clone(), lab.namespace_of(""), None);
    let mut last = Ok(());
    let all_up = || match view.all_links_up() {
        Ok(up) => up,
        Err(error) => {
            last = Err(error);
            true
        }
    };
    wait_until("every link of the lab is up", LINKS_UP, all_up)?;
    last
}

/// A namespace whose interfaces get no address by themselves, and so say nothing.
fn namespace(lab: &Lab, name: &str) -> Result<Host> {
    let host = lab.host(name).with_context(|| format!("making {name}"))?;
    host.sysctl("net/ipv6/conf/default/addr_gen_mode", "1")?;
    Ok(host)
}

fn node(lab: &Lab, name: &str) -> Host {
    Host::new(lab.namespace_of(name))
}

fn lay(topology: &Topology, lab: &Lab, cable: &CableSpec) -> Result<()> {
    // On a wire, frames are whole.
    let options = VethOptions { mtu: Some(topology.mtu), offload: false, ..VethOptions::default() };
    if cable.between_hosts() {
        let middle = namespace(lab, &cable.name)?;
        // A hub that learns nothing; it also passes what a bridge keeps to itself, except pause frames (bit 1)
        // and what the kernel never lets pass (bits 0 and 2).
        lab.bridge(&middle, BRIDGE, &[], true)?;
        middle.ip(&format!("link set dev {BRIDGE} type bridge group_fwd_mask 0xfff8"))?;
    }
    let ports = RunningLab::new(topology.clone(), lab.namespace_of(""), None).ports(cable);
    let far = |i: usize| (node(lab, &cable.ends[i].node), cable.ends[i].device.as_str());
    match ports.as_slice() {
        // Between two switches: both ends are ports.
        [Port { side: 0, .. }, Port { side: 1, .. }] if cable.ends.iter().all(|end| end.on_switch) => {
            let ((a, device_a), (b, device_b)) = (far(0), far(1));
            lab.veth((&a, device_a), (&b, device_b), &options)?;
        }
        _ => {
            for port in &ports {
                // The host's end is the other one, except in the middle of a cable between hosts.
                let (host, device) = far(if cable.between_hosts() { port.side } else { 1 - port.side });
                lab.veth((&host, device), (&port.host, &port.device), &options)?;
            }
        }
    }
    for port in &ports {
        let namespace = port.host.namespace();
        // Tags travel in the frame, so that a driver that reads raw frames finds them.
        port.host.exec(&format!("ethtool -K {} tx-vlan-hw-insert off", port.device))?.success()?;
        tc(namespace, &["qdisc", "add", "dev", &port.device, "clsact"])?;
        let far_end = if cable.between_hosts() { port.side } else { 1 - port.side };
        if let Some(vlan) = topology.host(&cable.ends[far_end].node).and_then(|host| host.vlan) {
            access::attach(namespace, &port.device, vlan)?;
        }
        port.host.plug(BRIDGE, &port.device)?;
    }
    Ok(())
}
