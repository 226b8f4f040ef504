//! The configuration file, read and validated into a [`Config`].
//!
//! ```text
//!  text --toml--> tree with spans --section by section--> Config
//!                       |                                    |
//!                       +--> problems: ALL of them,          +--> environment::check: interfaces,
//!                            sorted by line                       directories, permission
//! ```
//!
//! A `Config` holds only what the switch carries out: names are unique and fit where they go (files,
//! socket addresses), every reference resolves, defaults are filled in, and a port group's team and
//! security are what they come to after its overrides.

pub mod environment;
mod host;
mod keys;
mod names;
mod nearest;
mod portgroups;
mod problem;
mod section;
mod switch;
mod team;
mod team_policy;
mod uplinks;
mod vnics;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::portgroups::{Security, VlanMode};
use toml::de::DeTable;
use wire::Mac;

pub use host::Host;
pub use problem::{At, Located, Problem, Problems};
use problem::{Report, place};
use section::Section;
pub use team_policy::{FailureDetection, LoadBalancing, TeamPolicy};

/// Most vNICs of one switch: the active ports of an ESX host.
pub const MAX_VNICS: usize = 1016;
/// Most uplinks of one switch, as on an ESX host.
pub const MAX_UPLINKS: usize = 32;

/// A switch as the file describes it, valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, for later sentences about it.
    pub file: String,
    /// The switch itself.
    pub switch: Switch,
    /// Uplinks in file order.
    pub uplinks: Vec<Uplink>,
    /// The team every port group starts from.
    pub team: TeamPolicy,
    /// Link-downs per minute that hold an uplink down; 0 turns the guard off.
    pub flap_limit: u32,
    /// Beacon probing.
    pub beacon: Beacon,
    /// The security every port group starts from.
    pub security: Security,
    /// Port groups in file order.
    pub portgroups: Vec<PortGroup>,
    /// Virtual network cards in file order; at least one.
    pub vnics: Vec<Vnic>,
}

/// The `[switch]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// What it is called.
    pub name: String,
    /// Largest payload of a frame in bytes (the Ethernet header and tag not counted), 1280..=9190.
    pub mtu: u16,
    /// Where the sockets are; an absolute path.
    pub socket_dir: Located<PathBuf>,
    /// CPUs that poll, each once, at least one.
    pub workers: Vec<usize>,
    /// What a worker does when it finds nothing.
    pub idle: Idle,
}

/// What a worker with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Goes from spinning to short naps.
    #[default]
    Adaptive,
    /// Keeps polling.
    Spin,
}

/// An `[[uplink]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name in the switch, such as `vmnic0`.
    pub name: Located<String>,
    /// The Linux interface.
    pub device: Located<String>,
    /// How the interface is opened.
    pub driver: Driver,
}

/// How an uplink opens its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Driver {
    /// The fastest that works.
    #[default]
    Auto,
    /// AF_XDP sockets.
    AfXdp,
    /// AF_PACKET sockets with mapped rings.
    AfPacket,
}

/// The `[beacon]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Milliseconds between beacons.
    pub interval_ms: u32,
    /// Beacons missed in a row that make a path dead.
    pub threshold: u32,
    /// EtherType of beacons, none of the well-known ones.
    pub ethertype: u16,
    /// Whether frames leave by every uplink while it is not known which of them are cut off.
    pub shotgun: bool,
}

impl Beacon {
    /// Time between beacons.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.interval_ms))
    }
}

impl Default for Beacon {
    fn default() -> Beacon {
        // 0x88B5 is IEEE 802's local experimental EtherType 1.
        Beacon { interval_ms: 1000, threshold: 3, ethertype: 0x88b5, shotgun: true }
    }
}

/// A `[[portgroup]]`, its overrides applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGroup {
    /// The network label, unique.
    pub name: Located<String>,
    /// What becomes of VLAN tags.
    pub vlan: VlanMode,
    /// Its team.
    pub team: TeamPolicy,
    /// Its address rules.
    pub security: Security,
}

/// A `[[vnic]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnic {
    /// Its name, which is its socket's too.
    pub name: Located<String>,
    /// The label of its port group, which exists.
    pub portgroup: Located<String>,
    /// The card the guest sees.
    pub adapter: Adapter,
    /// Its address: unicast, not zero, no other vNIC's.
    pub mac: Located<Mac>,
    /// The Linux interface of a `netdev` or `tap` port.
    pub device: Option<Located<String>>,
    /// How that interface's frames are moved.
    pub driver: Driver,
    /// Queue pairs of a `virtio` card or a tap, 1 to 8.
    pub queues: usize,
    /// True when a `virtio` port looks for the VMM's socket instead of making its own.
    pub vhost_client: bool,
}

impl Vnic {
    /// The word of a `virtio` port's `vhost_mode`.
    pub fn vhost_mode(&self) -> Option<&'static str> {
        let word = if self.vhost_client { "client" } else { "server" };
        (self.adapter == Adapter::Virtio).then_some(word)
    }
}

/// What a vNIC is to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Adapter {
    /// VMware vmxnet3.
    #[default]
    Vmxnet3,
    /// AMD PCnet-PCI II.
    Vlance,
    /// virtio-net by vhost-user.
    Virtio,
    /// A tap interface.
    Tap,
    /// An existing Linux interface.
    Netdev,
}

impl Adapter {
    /// The word of the file and of the status document.
    pub fn name(self) -> &'static str {
        match self {
            Adapter::Vmxnet3 => "vmxnet3",
            Adapter::Vlance => "vlance",
            Adapter::Virtio => "virtio",
            Adapter::Tap => "tap",
            Adapter::Netdev => "netdev",
        }
    }
}

impl Config {
    /// The socket of vNIC `name`.
    pub fn vnic_socket(&self, name: &str) -> PathBuf {
        self.switch.socket_dir.join(format!("{name}.sock"))
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.switch.socket_dir.join("control.sock")
    }

    /// The place of the uplink called `name` in `uplinks`.
    pub fn uplink_index(&self, name: &str) -> Option<usize> {
        self.uplinks.iter().position(|u| *u.name == name)
    }

    /// The place of the port group called `label` in `portgroups`.
    pub fn portgroup_index(&self, label: &str) -> Option<usize> {
        self.portgroups.iter().position(|g| *g.name == label)
    }
}

/// Reads and validates the file at `path`.
///
/// # Errors
/// Every problem found, each one sentence with its place and the mend.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| {
        let sentence = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file; give the path of a configuration by -c FILE".into(),
            io::ErrorKind::PermissionDenied => {
                "it may not be read by this user; change its mode or run as its owner".into()
            }
            io::ErrorKind::IsADirectory => "it is a directory; give the path of a configuration file by -c FILE".into(),
            _ => format!("it cannot be read ({error}); give the path of a configuration by -c FILE"),
        };
        Problems::of_file(&file, sentence)
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        let sentence = format!("byte 0x{byte:02x} is not UTF-8 text; save the file as UTF-8");
        Problems::new(&file, vec![Problem { at: Some(place(&bytes, offset)), sentence }])
    })?;
    parse(&file, text, &Host::here())
}

/// Validates `text`, which sentences call `file`, for a machine like `host`.
///
/// # Errors
/// Every problem found, each one sentence with its place and the mend. Where the text is no TOML,
/// those are all that is told: what it was meant to say is a guess.
pub fn parse(file: &str, text: &str, host: &Host) -> Result<Config, Problems> {
    let mut report = Report::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut lines_told = Vec::new();
    for error in errors {
        let at = report.at(error.span().map_or(0, |s| s.start));
        // The parser goes on after an error, and what it finds in the same line follows from it.
        if !lines_told.contains(&at.line) {
            lines_told.push(at.line);
            report.add(at, syntax_sentence(error.message()));
        }
    }
    if report.len() > 0 {
        return Err(report.into_problems(file));
    }
    let config = read(&mut report, file, root.get_ref(), host);
    if report.len() == 0 { Ok(config) } else { Err(report.into_problems(file)) }
}

fn syntax_sentence(message: &str) -> String {
    match message {
        "duplicate key" => "this key is given twice; keep one of them (a list of tables is written [[so]])".to_owned(),
        _ => format!("this is not TOML: {}", message.replace(", expected", "; expected")),
    }
}

/// Reads the sections in the order of their dependence. Where something is wrong it is reported and
/// a default stands in, so that one mistake is not told twice.
fn read(report: &mut Report<'_>, file: &str, root: &DeTable<'_>, host: &Host) -> Config {
    let root = Section::new(report, root, keys::FILE, At { line: 1, column: 1 }, "the file".to_owned());
    let switch = switch::read(report, &root, host);
    let uplinks = uplinks::read(report, &root);
    let beacon = switch::read_beacon(report, &root);
    let team = team::read_defaults(report, &root, &uplinks);
    let security = root
        .table(report, "security", keys::SECURITY, "[security]".to_owned())
        .map(|s| portgroups::read_security(report, &s, Security::default()))
        .unwrap_or_default();
    let portgroups = portgroups::read(report, &root, &uplinks, &team, security);
    let vnics = vnics::read(report, &root, &switch, &uplinks, &portgroups);
    let file = file.to_owned();
    let (team, flap_limit) = (team.policy, team.flap_limit);
    Config { file, switch, uplinks, team, flap_limit, beacon, security, portgroups, vnics }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
