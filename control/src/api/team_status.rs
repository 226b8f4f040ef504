//! The teams' part of the status document.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LinkStatus;

/// The default team.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamStatus {
    /// Which uplink a frame leaves by.
    pub load_balancing: String,
    /// How a dead path is noticed.
    pub failure_detection: String,
    /// Frames go out of every uplink because it is not known which of them are cut off.
    pub shotgun: bool,
    /// Alarm: no uplink hears another, so beacons are filtered upstream and link state decides.
    #[serde(default)]
    pub filtered: bool,
    /// All uplinks of the switch, in file order.
    pub uplinks: Vec<UplinkStatus>,
    /// Who hears whom: each ordered pair of uplinks that are probed.
    #[serde(default)]
    pub hears: Vec<HearsStatus>,
}

impl TeamStatus {
    /// What the configuration says of `team`; nothing yet of its uplinks.
    pub fn of(team: &crate::config::TeamPolicy) -> TeamStatus {
        TeamStatus {
            load_balancing: team.load_balancing.name().to_owned(),
            failure_detection: team.failure_detection.name().to_owned(),
            ..TeamStatus::default()
        }
    }
}

/// What one uplink hears of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HearsStatus {
    /// Who sends.
    pub from: String,
    /// Who listens.
    pub to: String,
    /// Milliseconds since the last beacon on any VLAN; null when none came since both have link.
    pub age_ms: Option<u64>,
    /// The probed VLANs on which `to` hears `from`, rising; 0 stands for untagged.
    pub hears: Vec<u16>,
    /// The probed VLANs on which it does not, rising.
    pub silent: Vec<u16>,
}

/// One uplink in a team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// Its interface's link.
    pub link: LinkStatus,
    /// What beacons tell of it.
    pub beacon: BeaconHealth,
    /// What it does in the team.
    pub state: UplinkRole,
    /// Why it does that, in a few words.
    #[serde(default)]
    pub why: String,
}

impl UplinkStatus {
    /// The uplink called `name` as a team sees it at `now`, since the switch's start. `beacons` tells whether beacons
    /// are sent for that team, `held` whether the flap guard holds the uplink down.
    pub fn of(name: &str, status: &teaming::Status, beacons: bool, held: bool, now: Duration) -> UplinkStatus {
        UplinkStatus {
            name: name.to_owned(),
            link: LinkStatus::of(status.link),
            beacon: if beacons { status.beacon.into() } else { BeaconHealth::Off },
            state: status.state.into(),
            why: if held { "link flaps, held down".to_owned() } else { why(status.why, now) },
        }
    }
}

/// A few words for people.
fn why(why: teaming::Why, now: Duration) -> String {
    use teaming::Why;
    match why {
        Why::InOrder => "in the order".to_owned(),
        Why::Promoted => "stands in for an active one".to_owned(),
        Why::BeaconsIgnored => "beacons fail everywhere, link decides".to_owned(),
        Why::Shotgun => "shotgun".to_owned(),
        Why::NotNeeded => "works, not needed".to_owned(),
        Why::NoLink => "no link".to_owned(),
        Why::BeaconFailed => "beacons are not heard".to_owned(),
        Why::UpDelay(until) => format!("up-delay, {} ms left", until.saturating_sub(now).as_millis()),
        Why::NotInOrder => "in neither list".to_owned(),
    }
}

/// What beacons tell of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeaconHealth {
    /// They come through.
    Ok,
    /// They do not.
    Failed,
    /// Too little is known.
    Unknown,
    /// None are sent.
    Off,
}

impl From<teaming::Beacon> for BeaconHealth {
    fn from(verdict: teaming::Beacon) -> BeaconHealth {
        match verdict {
            teaming::Beacon::Unknown => BeaconHealth::Unknown,
            teaming::Beacon::Ok => BeaconHealth::Ok,
            teaming::Beacon::Failed => BeaconHealth::Failed,
        }
    }
}

impl fmt::Display for BeaconHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BeaconHealth::Ok => "ok",
            BeaconHealth::Failed => "failed",
            BeaconHealth::Unknown => "unknown",
            BeaconHealth::Off => "off",
        })
    }
}

/// What an uplink does in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkRole {
    /// Carries traffic.
    Active,
    /// Works, and waits.
    Standby,
    /// Does not work.
    Failed,
    /// In neither list.
    Unused,
}

impl From<teaming::UplinkState> for UplinkRole {
    fn from(state: teaming::UplinkState) -> UplinkRole {
        match state {
            teaming::UplinkState::Active => UplinkRole::Active,
            teaming::UplinkState::Standby => UplinkRole::Standby,
            teaming::UplinkState::Failed => UplinkRole::Failed,
            teaming::UplinkState::Unused => UplinkRole::Unused,
        }
    }
}

impl fmt::Display for UplinkRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            UplinkRole::Active => "active",
            UplinkRole::Standby => "standby",
            UplinkRole::Failed => "failed",
            UplinkRole::Unused => "unused",
        })
    }
}
