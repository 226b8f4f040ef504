//! Labs from a file: hosts, physical switches and cables, built out of network namespaces, to be cut and healed
//! by name. `vswitch lab` and the tests that pull cables share this.
//!
//! ```text
//!   lab.toml --parse--> Topology --build--> RunningLab: host, cut, heal, cut_one_way, unplug, plug; gone on drop
//!                          |
//!                          +------up (keep)---> namespaces vlab.<lab>.<node> and /run/vswitch-lab/<lab>.toml,
//!                                               found again by any later process; gone on down
//!
//!   host "esx1"            switch "tor1"                switch "tor2"          host "server", vlan = 10
//!    eth1 ===== cable c1 ===== c1 --br0-- isl ==== isl ==== isl --br0-- c2 ===== cable c2 ===== eth0
//!                              ^ every filter and every cut is at an end that the lab owns ^ access port
//! ```
//!
//! * A *host* is a namespace. A *switch* is a namespace with a bridge `br0` that passes tags untouched. A *cable*
//!   is a veth pair. A cable between two hosts has a tiny hub in the middle, a namespace called as the cable is,
//!   so that it too has ends that the lab owns.
//! * What is on a cable is what would be on a wire: checksums are filled in, segments are cut, tags are in the
//!   frame. So any driver may be put on a host's end, AF_XDP too.
//! * *Cut* sets an end down: both sides lose their link. *One way* is a classic BPF program that drops all, at
//!   the ingress or egress of the lab's end: links stay up. It cannot be at the host's end, where an XDP program
//!   takes frames before, and an AF_XDP or bypassing AF_PACKET socket sends them after any such filter.
//!   A *missing VLAN* is another such program, which looks at the tag, in both directions.
//!   *Unplugged* is a port out of its bridge: links stay up, nothing is forwarded.
//! * A host with `vlan` is on an *access port*: two BPF programs at the switch's end put the tag on and take it
//!   off ([`access`]). No process runs for it, and no 802.1Q module is needed.
//! * Nothing about the state of a cable is written down: [`RunningLab::state`] asks the kernel.

mod access;
mod build;
mod check;
mod keep;
mod parse;
mod reader;
mod running;
mod state;

use std::fmt;

pub use keep::{Listed, down, list, open, up};
pub use reader::Problems;
pub use running::RunningLab;
pub use state::{CableState, EndState};

/// Why something was refused or did not work: one sentence that names the mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lab's file is wrong; each sentence names its place.
    #[error("{0}")]
    File(#[from] Problems),
    /// What was asked for is not there or makes no sense.
    #[error("{0}")]
    Input(String),
    /// It could not be done.
    #[error("{}", one_line(.0))]
    Failure(#[from] anyhow::Error),
}

/// An error and its causes as one line: commands that failed are quoted with what they printed.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a lab consists of. Names are unique among all hosts, switches and cables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The lab's name.
    pub name: String,
    /// Payload size of every cable in bytes.
    pub mtu: u16,
    /// Its hosts, in file order.
    pub hosts: Vec<HostSpec>,
    /// Its switches, in file order.
    pub switches: Vec<String>,
    /// Its cables, in file order.
    pub cables: Vec<CableSpec>,
}

/// A host of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Interface and address (`10.0.0.1/24`) each.
    pub addresses: Vec<(String, String)>,
    /// The VLAN its access ports are on; without one it sends and receives tags itself.
    pub vlan: Option<u16>,
}

/// A cable of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CableSpec {
    /// Its name.
    pub name: String,
    /// Its two ends, A and B.
    pub ends: [End; 2],
}

/// Where a cable ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The host or switch.
    pub node: String,
    /// The interface there.
    pub device: String,
    /// Whether the node is a switch.
    pub on_switch: bool,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.on_switch {
            true => f.write_str(&self.node),
            false => write!(f, "{}:{}", self.node, self.device),
        }
    }
}

impl CableSpec {
    /// True for a cable between two hosts.
    pub fn between_hosts(&self) -> bool {
        self.ends.iter().all(|end| !end.on_switch)
    }
}

impl Topology {
    /// Reads a lab's file; sentences call it `lab.toml`.
    ///
    /// # Errors
    /// Every problem found, each with its place and the mend.
    pub fn from_toml(text: &str) -> Result<Topology, Problems> {
        Topology::parse("lab.toml", text)
    }

    /// Reads the text of a lab's file, which sentences call `file`.
    ///
    /// # Errors
    /// Every problem found, each with its place and the mend.
    pub fn parse(file: &str, text: &str) -> Result<Topology, Problems> {
        parse::parse(file, text)
    }

    /// Builds the lab for this process. It is gone when the value is dropped; several labs of one name may stand
    /// at a time. Needs root.
    ///
    /// # Errors
    /// When something cannot be made; what was made until then is taken down.
    pub fn build(&self) -> Result<RunningLab, Error> {
        build::build_for_process(self)
    }

    /// Its size, as a person reads it.
    pub fn counts(&self) -> String {
        let count = |n: usize, what: &str, more: &str| format!("{n} {what}{}", if n == 1 { "" } else { more });
        [
            count(self.hosts.len(), "host", "s"),
            count(self.switches.len(), "switch", "es"),
            count(self.cables.len(), "cable", "s"),
        ]
        .join(", ")
    }

    fn host(&self, name: &str) -> Option<&HostSpec> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// The names of all hosts and switches.
    fn nodes(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|h| h.name.as_str()).chain(self.switches.iter().map(String::as_str))
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
