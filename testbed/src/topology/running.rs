//! A lab that stands: its hosts, and the cables to pull.

use anyhow::{Context, Result};

use super::build::tc;
use super::check::BRIDGE;
use super::{CableSpec, Error, Topology};
use crate::netns::{Host, Lab};

/// Place in the chain of filters of what drops everything; before every other.
pub(super) const CUT_ALL: u16 = 1;
/// The VLAN and this: place of what drops a VLAN.
pub(super) const CUT_VLAN: u16 = 100;
/// One instruction of classic BPF that returns `TC_ACT_SHOT`.
const DROP_ALL: &str = "1,6 0 0 2";

/// A lab that stands. Made by [`Topology::build`] it goes when it is dropped; one that [`super::open`] found stays.
pub struct RunningLab {
    topology: Topology,
    prefix: String,
    _owner: Option<Lab>,
}

/// The ports of a cable that are the lab's own: on switches, or in the middle of a cable between hosts.
pub(super) struct Port {
    /// The namespace it is in.
    pub(super) host: Host,
    /// The interface.
    pub(super) device: String,
    /// The end of the cable it is at, or, in the middle, on the side of.
    pub(super) side: usize,
}

impl RunningLab {
    pub(super) fn new(topology: Topology, prefix: String, owner: Option<Lab>) -> RunningLab {
        RunningLab { topology, prefix, _owner: owner }
    }

    /// What it consists of.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A host or a switch, by name. A switch's bridge is called `br0`, its ports as the cables are.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn host(&self, name: &str) -> Result<Host, Error> {
        if self.topology.nodes().any(|known| known == name) {
            return Ok(self.namespace(name));
        }
        let known = self.topology.nodes().collect::<Vec<_>>().join(", ");
        let lab = &self.topology.name;
        Err(Error::Input(format!(
            "lab {lab} has no host \"{}\"; its hosts and switches are {known}",
            name.escape_debug()
        )))
    }

    /// Cuts a cable: both sides lose their link.
    ///
    /// # Errors
    /// When there is no such cable, or the kernel refuses.
    pub fn cut(&self, cable: &str) -> Result<(), Error> {
        let cable = self.cable(cable)?;
        for port in self.ports_to_pull(cable) {
            port.host.cut(&port.device)?;
        }
        Ok(())
    }

    /// Mends a cable: its links are up, and frames pass in both directions. What is unplugged stays so.
    ///
    /// # Errors
    /// As [`RunningLab::cut`].
    pub fn heal(&self, cable: &str) -> Result<(), Error> {
        let cable = self.cable(cable)?;
        for port in self.ports(cable) {
            for hook in ["ingress", "egress"] {
                for priority in cut_priorities(&port, hook)? {
                    let priority = priority.to_string();
                    tc(port.host.namespace(), &["filter", "del", "dev", &port.device, hook, "prio", &priority])?;
                }
            }
            port.host.heal(&port.device)?;
        }
        Ok(())
    }

    /// Loses all that the side called `sender` puts into the cable, while links stay up and the other direction
    /// works. The side is a node (`esx1`), an end as the file writes it (`esx1:eth1`), or `A` or `B`, the first
    /// or second end.
    ///
    /// # Errors
    /// As [`RunningLab::cut`], and when the cable has no such side.
    pub fn cut_one_way(&self, cable: &str, sender: &str) -> Result<(), Error> {
        let cable = self.cable(cable)?;
        let side = side_of(cable, sender)?;
        let ports = self.ports(cable);
        // Where it enters the lab's port; a switch's own frames are lost where they leave it.
        let own = cable.ends[side].on_switch;
        let at = |port: &&Port| if own || cable.between_hosts() { port.side == side } else { port.side != side };
        let port = ports.iter().find(at).context("the cable has no such port")?;
        let hook = if own { "egress" } else { "ingress" };
        drop_at(port, hook, CUT_ALL, DROP_ALL)?;
        Ok(())
    }

    /// Loses the frames of one VLAN in both directions, as a trunk does that was not told to carry it.
    ///
    /// # Errors
    /// As [`RunningLab::cut`], and for a cable that is no trunk.
    pub fn cut_vlan(&self, cable: &str, vlan: u16) -> Result<(), Error> {
        let cable = self.cable(cable)?;
        if let Some(host) = cable.ends.iter().filter_map(|end| self.topology.host(&end.node)).find(|h| h.vlan.is_some())
        {
            let (name, host) = (&cable.name, &host.name);
            let sentence = format!("cable {name} is no trunk: host {host} has a VLAN of its own; cut the whole cable");
            return Err(Error::Input(sentence));
        }
        if !(1..=4094).contains(&vlan) {
            return Err(Error::Input(format!("VLAN {vlan} is outside 1 to 4094; name one of those")));
        }
        let ports = self.ports(cable);
        let port = ports.first().context("the cable has no port")?;
        for hook in ["ingress", "egress"] {
            drop_at(port, hook, CUT_VLAN + vlan, &drop_vlan(vlan))?;
        }
        Ok(())
    }

    /// Takes the cable's port at `switch` out of its bridge: links stay up, nothing is forwarded. The switch need
    /// not be named when the cable ends at one only.
    ///
    /// # Errors
    /// As [`RunningLab::cut`], and when it is not clear which port is meant.
    pub fn unplug(&self, cable: &str, switch: Option<&str>) -> Result<(), Error> {
        let port = self.switch_port(cable, switch, "unplug")?;
        Ok(port.host.unplug(&port.device)?)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// As [`RunningLab::unplug`].
    pub fn plug(&self, cable: &str, switch: Option<&str>) -> Result<(), Error> {
        let port = self.switch_port(cable, switch, "plug")?;
        Ok(port.host.ip(&format!("link set dev {} master {BRIDGE}", port.device))?)
    }

    /// The cable called `name`.
    pub(super) fn cable(&self, name: &str) -> Result<&CableSpec, Error> {
        self.topology.cables.iter().find(|cable| cable.name == name).ok_or_else(|| {
            let known = self.topology.cables.iter().map(|cable| cable.name.as_str()).collect::<Vec<_>>();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("its cables are {}", known.join(", "))
            };
            Error::Input(format!("lab {} has no cable \"{}\"; {known}", self.topology.name, name.escape_debug()))
        })
    }

    /// The lab's own ports of a cable, by side.
    pub(super) fn ports(&self, cable: &CableSpec) -> Vec<Port> {
        if cable.between_hosts() {
            let middle = |(side, device): (usize, &str)| Port {
                host: self.namespace(&cable.name),
                device: device.to_owned(),
                side,
            };
            return [(0, "side-a"), (1, "side-b")].map(middle).into();
        }
        let ends = cable.ends.iter().enumerate().filter(|(_, end)| end.on_switch);
        ends.map(|(side, end)| Port { host: self.namespace(&end.node), device: end.device.clone(), side }).collect()
    }

    /// Those whose going down takes the link of both sides: one of a veth pair is enough.
    fn ports_to_pull(&self, cable: &CableSpec) -> Vec<Port> {
        let mut ports = self.ports(cable);
        ports.truncate(if cable.between_hosts() { 2 } else { 1 });
        ports
    }

    pub(super) fn namespace(&self, node: &str) -> Host {
        Host::new(format!("{}{node}", self.prefix))
    }

    fn switch_port(&self, cable: &str, switch: Option<&str>, verb: &str) -> Result<Port, Error> {
        let cable = self.cable(cable)?;
        let name = &cable.name;
        if cable.between_hosts() {
            let sentence = format!(
                "cable {name} runs between two hosts, so no switch has a port of it to {verb}; cut or heal the cable"
            );
            return Err(Error::Input(sentence));
        }
        let switches = cable.ends.iter().filter(|end| end.on_switch).map(|end| end.node.as_str()).collect::<Vec<_>>();
        let known = switches.join(" and ");
        let wanted = match (switch, switches.as_slice()) {
            (Some(switch), all) if all.contains(&switch) => switch,
            (None, [only]) => only,
            (Some(switch), _) => {
                let shown = switch.escape_debug();
                return Err(Error::Input(format!(
                    "cable {name} does not end at a switch \"{shown}\"; it ends at {known}"
                )));
            }
            (None, _) => {
                let first = switches.first().copied().unwrap_or_default();
                let sentence = format!("cable {name} ends at the switches {known}; say which, as in --at {first}");
                return Err(Error::Input(sentence));
            }
        };
        let found = self.ports(cable).into_iter().find(|port| cable.ends[port.side].node == wanted);
        Ok(found.context("the cable has no such port")?)
    }
}

/// The end that `word` names.
fn side_of(cable: &CableSpec, word: &str) -> Result<usize, Error> {
    let [a, b] = &cable.ends;
    let exact = |end: &super::End| end.node == word || format!("{}:{}", end.node, end.device) == word;
    match (exact(a), exact(b), word) {
        (true, false, _) | (false, false, "A") => Ok(0),
        (false, true, _) | (false, false, "B") => Ok(1),
        (true, true, _) => {
            let sentence = format!("both ends of cable {} are at {word}; name one as {a} or {b}", cable.name);
            Err(Error::Input(sentence))
        }
        (false, false, _) => {
            let shown = word.escape_debug();
            Err(Error::Input(format!("\"{shown}\" is no end of cable {}; its ends are A, {a}, and B, {b}", cable.name)))
        }
    }
}

/// Classic BPF: drop a frame of this VLAN, go on with every other. The kernel keeps the tag beside the frame at
/// both hooks; it is read through the extensions of `linux/filter.h`, `SKF_AD_VLAN_TAG_PRESENT` and
/// `SKF_AD_VLAN_TAG`.
fn drop_vlan(vlan: u16) -> String {
    format!("7,48 0 0 4294963248,21 4 0 0,40 0 0 4294963244,84 0 0 4095,21 0 1 {vlan},6 0 0 2,6 0 0 4294967295")
}

/// Attaches a classic BPF program; doing so again changes nothing.
fn drop_at(port: &Port, hook: &str, priority: u16, program: &str) -> Result<()> {
    let priority = priority.to_string();
    let place = ["filter", "replace", "dev", &port.device, hook, "prio", &priority, "handle", "1", "protocol", "all"];
    tc(port.host.namespace(), &[&place[..], &["bpf", "bytecode", program, "da"]].concat()).map(drop)
}

/// The priorities of the filters that cut, at one hook of a port.
pub(super) fn cut_priorities(port: &Port, hook: &str) -> Result<Vec<u16>> {
    let text = tc(port.host.namespace(), &["filter", "show", "dev", &port.device, hook])?;
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains("bytecode")) {
        let priority = line.split_whitespace().skip_while(|word| *word != "pref").nth(1);
        found.push(priority.and_then(|p| p.parse().ok()).context("tc names no priority of a filter")?);
    }
    Ok(found)
}
