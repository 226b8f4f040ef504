//! The status document: what `vswitch show --json` prints. Field names are a contract.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dataplane::{DropReason, PortTotals};
use portgroups::VlanMode;
use serde::{Deserialize, Serialize};

use super::team_status::{TeamStatus, UplinkStatus};

/// The whole switch at one moment. Counters of different ports are read one after another, so sums
/// over ports hold once traffic rests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The switch itself.
    pub switch: SwitchStatus,
    /// Every port, vNICs and uplinks.
    pub ports: Vec<PortStatus>,
    /// Port groups, in file order.
    #[serde(default)]
    pub portgroups: Vec<PortGroupStatus>,
    /// The default team.
    pub team: TeamStatus,
    /// What happened last to uplinks, teams and beacons, oldest first; at most [`MAX_EVENTS`].
    #[serde(default)]
    pub events: Vec<EventStatus>,
}

/// Most events of a document: the last ones.
pub const MAX_EVENTS: usize = 64;

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventStatus {
    /// When: seconds since the switch started, as its `uptime_seconds`.
    pub at_seconds: f64,
    /// Its stable name, such as `team.failover`; the same as in the log.
    pub id: String,
    /// One sentence.
    pub text: String,
}

impl EventStatus {
    /// What happened `at` that time after the switch's start.
    pub fn new(at: Duration, id: &str, text: String) -> EventStatus {
        EventStatus { at_seconds: at.as_secs_f64(), id: id.to_owned(), text }
    }
}

/// The switch itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// What it is called.
    pub name: String,
    /// Largest payload of a frame in bytes.
    pub mtu: u16,
    /// The CPUs that poll.
    pub workers: Vec<WorkerStatus>,
    /// Seconds since it started.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// The program's version.
    #[serde(default)]
    pub version: String,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Share of time in which polling found frames, 0 to 100.
    pub busy_percent: f64,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A guest's card.
    Vnic,
    /// A way to the physical network.
    Uplink,
}

/// Whether a link carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkStatus {
    /// It does.
    Up,
    /// It does not.
    Down,
}

impl LinkStatus {
    /// [`LinkStatus::Up`] when `up`.
    pub fn of(up: bool) -> LinkStatus {
        if up { LinkStatus::Up } else { LinkStatus::Down }
    }
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LinkStatus::Up => "up",
            LinkStatus::Down => "down",
        })
    }
}

/// A port group's VLANs: a number on EST (0) and VST, a list of ranges such as `"10,20-29"` on VGT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VlanStatus {
    /// One VLAN, or 0 for untagged.
    Number(u16),
    /// What the guest may tag with; 0 stands for untagged.
    Ranges(String),
}

impl From<&VlanMode> for VlanStatus {
    fn from(mode: &VlanMode) -> VlanStatus {
        match mode {
            VlanMode::Est => VlanStatus::Number(0),
            VlanMode::Vst(vid) => VlanStatus::Number(*vid),
            VlanMode::Vgt(set) => VlanStatus::Ranges(set.to_string()),
        }
    }
}

impl fmt::Display for VlanStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VlanStatus::Number(0) => f.pad("-"),
            VlanStatus::Number(vid) => f.pad(&vid.to_string()),
            VlanStatus::Ranges(text) => f.pad(text),
        }
    }
}

/// One port. Fields that a role does not have are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// vNIC: the card the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// vNIC: the label of its port group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portgroup: Option<String>,
    /// vNIC: its VLANs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanStatus>,
    /// vNIC: its configured address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// vNIC: a VMM is connected and the guest's driver has started the card; uplink: the interface is
    /// open.
    pub connected: bool,
    /// The link that the guest, or the interface, sees.
    pub link: LinkStatus,
    /// vNIC: the uplink its frames leave by; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// vNIC: the path of its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// vNIC that is a virtio card or a tap: its queue pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// vNIC that is a virtio card: whether the switch listens on the socket (`server`) or the VMM does (`client`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_mode: Option<String>,
    /// Uplink: the Linux interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Uplink: how the interface is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Uplink: the rung of AF_XDP in use and why it is no better one, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<String>,
    /// Uplink: its beacons; absent where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacons: Option<BeaconCounts>,
    /// Uplink: frames the kernel dropped before the switch could take them; no part of `in`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_drops: Option<u64>,
    /// vNIC: vfio-user messages received on its socket. It stands still while traffic flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Into the switch.
    #[serde(rename = "in")]
    pub input: In,
    /// Out of the switch.
    #[serde(rename = "out")]
    pub output: Out,
    /// Drops by reason, both ways: every reason that occurred, and `no-match` always.
    pub drops: BTreeMap<String, u64>,
}

/// Beacons of one uplink, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BeaconCounts {
    /// Sent.
    pub sent: u64,
    /// Received, ours, new and intact: these alone count.
    pub heard: u64,
    /// Received from other switches.
    pub foreign: u64,
    /// Received, said to be ours, and not.
    pub forged: u64,
    /// Received, ours, and seen before or too old.
    pub replayed: u64,
    /// Received, and no beacons: cut short, of another version, or on another VLAN than sent on.
    pub bad: u64,
}

/// Frames into the switch: `frames = forwarded + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct In {
    /// All of them.
    pub frames: u64,
    /// Their bytes, tags not counted.
    pub bytes: u64,
    /// Those handed to at least one port.
    #[serde(default)]
    pub forwarded: u64,
    /// How many ports those were handed to, all together.
    #[serde(default)]
    pub copies: u64,
    /// Those dropped on the way in.
    #[serde(default)]
    pub dropped: u64,
}

/// Frames out of the switch: `offered = frames + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Out {
    /// Those that left.
    pub frames: u64,
    /// Their bytes, tags not counted.
    pub bytes: u64,
    /// Those handed to the port, after segmentation.
    #[serde(default)]
    pub offered: u64,
    /// Those that segmentation made beyond the ones handed over.
    #[serde(default)]
    pub segments: u64,
    /// Those of the switch's own making that were handed to the port: beacons, and notices to
    /// physical switches.
    #[serde(default)]
    pub originated: u64,
    /// Those dropped on the way out.
    #[serde(default)]
    pub dropped: u64,
}

/// The three counter fields of a [`PortStatus`] from a port's counters.
fn traffic(totals: &PortTotals) -> (In, Out, BTreeMap<String, u64>) {
    let input = In {
        frames: totals.in_frames,
        bytes: totals.in_bytes,
        forwarded: totals.in_forwarded,
        copies: totals.in_copies,
        dropped: totals.in_drops.iter().sum(),
    };
    let output = Out {
        frames: totals.out_frames,
        bytes: totals.out_bytes,
        offered: totals.out_offered,
        segments: totals.out_segments,
        originated: totals.out_originated,
        dropped: totals.out_drops.iter().sum(),
    };
    let told = |reason: &DropReason| *reason == DropReason::NoMatch || totals.drops(*reason) > 0;
    let drops = DropReason::ALL
        .iter()
        .copied()
        .filter(told)
        .map(|reason| (reason.name().to_owned(), totals.drops(reason)))
        .collect();
    (input, output, drops)
}

impl PortStatus {
    /// A port of which only its name and counters are known yet: not connected, link down.
    pub fn new(name: &str, role: Role, totals: &PortTotals) -> PortStatus {
        let (input, output, drops) = traffic(totals);
        PortStatus {
            name: name.to_owned(),
            role,
            adapter: None,
            portgroup: None,
            vlan: None,
            mac: None,
            connected: false,
            link: LinkStatus::Down,
            uplink: None,
            socket: None,
            queues: None,
            vhost_mode: None,
            device: None,
            driver: None,
            rung: None,
            beacons: None,
            kernel_drops: None,
            messages: None,
            input,
            output,
            drops,
        }
    }
}

/// One port group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroupStatus {
    /// The network label.
    pub name: String,
    /// Its VLANs.
    pub vlan: VlanStatus,
    /// How many vNICs it has.
    pub ports: usize,
    /// Uplinks configured to carry its traffic.
    pub active: Vec<String>,
    /// Uplinks configured to take over.
    pub standby: Vec<String>,
    /// A guest may see all frames of its VLANs.
    pub promiscuous: bool,
    /// A guest may change its address.
    pub mac_changes: bool,
    /// A guest may send from other addresses.
    pub forged_transmits: bool,
    /// Which uplink a frame leaves by; empty in a document that does not say.
    #[serde(default)]
    pub load_balancing: String,
    /// How a dead path is noticed; empty in a document that does not say.
    #[serde(default)]
    pub failure_detection: String,
    /// Frames go out of every uplink because it is not known which of them are cut off.
    #[serde(default)]
    pub shotgun: bool,
    /// Alarm: no uplink hears another, so beacons are filtered upstream and link state decides.
    #[serde(default)]
    pub filtered: bool,
    /// All uplinks of the switch as its own team sees them, in file order.
    #[serde(default)]
    pub uplinks: Vec<UplinkStatus>,
}

impl PortGroupStatus {
    /// What the configuration says of `group`, which has `ports` vNICs; nothing yet of its team's view.
    pub fn of(group: &crate::config::PortGroup, ports: usize) -> PortGroupStatus {
        PortGroupStatus {
            name: group.name.value.clone(),
            vlan: VlanStatus::from(&group.vlan),
            ports,
            active: group.team.active.clone(),
            standby: group.team.standby.clone(),
            promiscuous: group.security.promiscuous,
            mac_changes: group.security.mac_changes,
            forged_transmits: group.security.forged_transmits,
            load_balancing: group.team.load_balancing.name().to_owned(),
            failure_detection: group.team.failure_detection.name().to_owned(),
            shotgun: false,
            filtered: false,
            uplinks: Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(crate) mod tests;
