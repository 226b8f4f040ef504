//! What happened, as values with stable names.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Events kept until somebody asks; older ones give way.
const KEPT: usize = 256;

/// How much an event matters to whoever runs the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is as it should be again, or changed on purpose.
    Info,
    /// Something is worse than configured; traffic flows.
    Warning,
    /// Traffic does not flow.
    Error,
}

/// Why an uplink went out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has no link, or the flap guard holds it down.
    Link,
    /// Its beacons are not heard, or it hears none.
    Beacon,
}

/// What happened. Uplinks and ports by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are uplinks, ports and counts, told at each variant")]
pub enum EventKind {
    /// The link of `uplink` is gone.
    LinkDown { uplink: u16 },
    /// The link of `uplink` is back.
    LinkUp { uplink: u16 },
    /// The link of `uplink` went down `downs` times in a minute: it is held down.
    Flapping { uplink: u16, downs: u32 },
    /// The link of `uplink` was steady for a minute: it is released.
    FlappingEnded { uplink: u16 },
    /// Beacons say that `uplink` is cut off.
    BeaconFailed { uplink: u16 },
    /// Beacons say so no longer.
    BeaconRestored { uplink: u16 },
    /// Every uplink with link is cut off by its beacons: they are used by link state.
    BeaconsIgnored,
    /// Some uplink with link has good beacons again: beacons count.
    BeaconsTrusted,
    /// It is not known which of the `uplinks` are cut off: frames leave by all of them.
    ShotgunOn { uplinks: u16 },
    /// It is known again.
    ShotgunOff,
    /// The uplink `from` went out of use; `moved` ports (or hash buckets) left it. `promoted` is the
    /// standby uplink that took its place, if one did.
    Failover { from: u16, cause: Cause, moved: u32, promoted: Option<u16> },
    /// The uplink `to` is in use again; `moved` ports (or hash buckets) came back to it.
    Failback { to: u16, moved: u32 },
    /// Port `port` left an uplink that was too busy.
    LoadMoved { port: u16, from: u16, to: u16 },
    /// One uplink of several works: the next failure is an outage.
    RedundancyLost { works: u16 },
    /// `working` of `of` uplinks work, more than one.
    RedundancyDegraded { working: u16, of: u16 },
    /// All `of` uplinks work.
    RedundancyRestored { of: u16 },
    /// No uplink works.
    ConnectivityLost,
    /// Some uplink works again.
    ConnectivityRestored,
}

/// Something that happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time since the switch's start.
    pub at: Duration,
    /// What.
    pub kind: EventKind,
}

impl EventKind {
    /// The stable name of this kind of event, for logs, metrics and scripts.
    pub fn id(&self) -> &'static str {
        match self {
            EventKind::LinkDown { .. } => "uplink.link.down",
            EventKind::LinkUp { .. } => "uplink.link.up",
            EventKind::Flapping { .. } => "uplink.flapping",
            EventKind::FlappingEnded { .. } => "uplink.flapping.ended",
            EventKind::BeaconFailed { .. } => "team.beacon.failed",
            EventKind::BeaconRestored { .. } => "team.beacon.restored",
            EventKind::BeaconsIgnored => "team.beacon.ignored",
            EventKind::BeaconsTrusted => "team.beacon.trusted",
            EventKind::ShotgunOn { .. } => "team.shotgun.on",
            EventKind::ShotgunOff => "team.shotgun.off",
            EventKind::Failover { .. } => "team.failover",
            EventKind::Failback { .. } => "team.failback",
            EventKind::LoadMoved { .. } => "team.load.moved",
            EventKind::RedundancyLost { .. } => "team.redundancy.lost",
            EventKind::RedundancyDegraded { .. } => "team.redundancy.degraded",
            EventKind::RedundancyRestored { .. } => "team.redundancy.restored",
            EventKind::ConnectivityLost => "team.connectivity.lost",
            EventKind::ConnectivityRestored => "team.connectivity.restored",
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            EventKind::ConnectivityLost => Severity::Error,
            EventKind::LinkDown { .. }
            | EventKind::Flapping { .. }
            | EventKind::BeaconFailed { .. }
            | EventKind::BeaconsIgnored
            | EventKind::ShotgunOn { .. }
            | EventKind::Failover { .. }
            | EventKind::RedundancyLost { .. }
            | EventKind::RedundancyDegraded { .. } => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// One sentence for a log line; `uplink` and `port` give names.
    pub fn sentence(&self, uplink: impl Fn(u16) -> String, port: impl Fn(u16) -> String) -> String {
        match *self {
            EventKind::LinkDown { uplink: u } => format!("uplink {} has no link", uplink(u)),
            EventKind::LinkUp { uplink: u } => format!("uplink {} has link", uplink(u)),
            EventKind::Flapping { uplink: u, downs } => {
                format!(
                    "uplink {} lost its link {downs} times in a minute; it is held down until it is steady",
                    uplink(u)
                )
            }
            EventKind::FlappingEnded { uplink: u } => {
                format!("uplink {} was steady for a minute; it is released", uplink(u))
            }
            EventKind::BeaconFailed { uplink: u } => format!("uplink {} is cut off: its beacons fail", uplink(u)),
            EventKind::BeaconRestored { uplink: u } => format!("beacons of uplink {} arrive again", uplink(u)),
            EventKind::BeaconsIgnored => "beacons fail on every uplink with link; going by link state".to_owned(),
            EventKind::BeaconsTrusted => "beacons count again".to_owned(),
            EventKind::ShotgunOn { uplinks } => {
                format!("it is not known which uplinks are cut off; frames leave by all {uplinks}")
            }
            EventKind::ShotgunOff => "it is known again which uplinks work; frames leave by one".to_owned(),
            EventKind::Failover { from, cause, moved, promoted } => {
                let to = promoted.map_or(String::new(), |u| format!("; standby uplink {} takes over", uplink(u)));
                format!("uplink {} is out of use ({cause}); {moved} moved{to}", uplink(from))
            }
            EventKind::Failback { to, moved } => format!("uplink {} is in use again; {moved} came back", uplink(to)),
            EventKind::LoadMoved { port: p, from, to } => {
                format!("port {} moves from busy uplink {} to {}", port(p), uplink(from), uplink(to))
            }
            EventKind::RedundancyLost { works } => format!("only uplink {} works", uplink(works)),
            EventKind::RedundancyDegraded { working, of } => format!("{working} of {of} uplinks work"),
            EventKind::RedundancyRestored { of } => format!("all {of} uplinks work"),
            EventKind::ConnectivityLost => "no uplink works".to_owned(),
            EventKind::ConnectivityRestored => "an uplink works again".to_owned(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Link => "no link",
            Cause::Beacon => "beacons fail",
        })
    }
}

/// Events that wait to be asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    events: VecDeque<Event>,
}

impl Log {
    pub(crate) fn add(&mut self, at: Duration, kind: EventKind) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event { at, kind });
    }

    pub(crate) fn drain(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }
}
