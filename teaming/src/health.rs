//! Which uplinks of a team can carry traffic: link states, beacon verdicts and the up-delay.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Cause;

/// What beacons say of an uplink, in the VLANs of the team's port group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Beacon {
    /// Nothing yet, or they are not sent: the link state alone counts.
    #[default]
    Unknown,
    /// It is heard, and hears.
    Ok,
    /// It is cut off.
    Failed,
}

impl Beacon {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Beacon::Unknown => "unknown",
            Beacon::Ok => "ok",
            Beacon::Failed => "failed",
        }
    }
}

/// Why an uplink is in the state it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is first in the order, or one of the active ones.
    InOrder,
    /// It is standby and stands in for an active one.
    Promoted,
    /// It carries traffic though its beacons fail, since those of every uplink with link do.
    BeaconsIgnored,
    /// It carries every frame, as others do: it is not known which are cut off.
    Shotgun,
    /// It works, and others come before it.
    NotNeeded,
    /// It has no link (or the flap guard holds it down: ask [`crate::Links::is_held`]).
    NoLink,
    /// Its beacons fail.
    BeaconFailed,
    /// It works again, and its up-delay runs until then (time since the switch's start).
    UpDelay(Duration),
    /// It is in no list of the team.
    NotInOrder,
}

impl Why {
    /// A few words for users.
    pub fn name(self) -> &'static str {
        match self {
            Why::InOrder => "in order",
            Why::Promoted => "promoted",
            Why::BeaconsIgnored => "beacons ignored",
            Why::Shotgun => "shotgun",
            Why::NotNeeded => "not needed",
            Why::NoLink => "no link",
            Why::BeaconFailed => "beacon failed",
            Why::UpDelay(_) => "up-delay",
            Why::NotInOrder => "not in order",
        }
    }
}

/// One uplink.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    link: bool,
    beacon: Beacon,
    healthy: bool,
    ready: bool,
    /// It was ready at some time: when it fails it has something to return to.
    worked: bool,
    /// It is ready for the first time, since the last evaluation.
    fresh: bool,
    /// End of its up-delay.
    until: Option<Duration>,
}

/// The health of the uplinks in one team's order.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    members: BTreeMap<u16, Member>,
    beacons: bool,
    up_delay: Duration,
    ignored: bool,
}

impl Health {
    pub(crate) fn new(uplinks: impl Iterator<Item = u16>, beacons: bool, up_delay: Duration) -> Health {
        let members = uplinks.map(|u| (u, Member::default())).collect();
        Health { members, beacons, up_delay, ignored: false }
    }

    /// Returns true when that is news.
    pub(crate) fn set_link(&mut self, uplink: u16, up: bool) -> bool {
        self.members.get_mut(&uplink).is_some_and(|m| std::mem::replace(&mut m.link, up) != up)
    }

    /// Returns what was known before when that is news.
    pub(crate) fn set_beacon(&mut self, uplink: u16, beacon: Beacon) -> Option<Beacon> {
        let member = self.members.get_mut(&uplink)?;
        Some(std::mem::replace(&mut member.beacon, beacon)).filter(|before| *before != beacon)
    }

    /// Decides who is ready. `in_use` tells who carries traffic now: that one does not wait.
    ///
    /// An uplink is healthy when it has link and its beacons do not fail; when none is, link alone
    /// makes healthy. It is ready when its up-delay is over too; when none is, being healthy makes
    /// ready. So as long as any uplink has link, some uplink is ready.
    pub(crate) fn evaluate(&mut self, in_use: impl Fn(u16) -> bool, now: Duration) {
        let beacons = self.beacons;
        let good = |m: &Member| m.link && !(beacons && m.beacon == Beacon::Failed);
        self.ignored = !self.members.values().any(good) && self.members.values().any(|m| m.link);
        let mut any = false;
        for (uplink, m) in &mut self.members {
            let healthy = good(m) || (self.ignored && m.link);
            if !healthy {
                m.until = None;
            } else if !m.healthy && m.worked && !in_use(*uplink) && !self.up_delay.is_zero() {
                m.until = Some(now.saturating_add(self.up_delay));
            }
            m.healthy = healthy;
            m.until = m.until.filter(|at| *at > now);
            m.ready = healthy && m.until.is_none();
            any |= m.ready;
        }
        for m in self.members.values_mut() {
            if !any && m.healthy {
                (m.until, m.ready) = (None, true);
            }
            m.fresh = m.ready && !m.worked;
            m.worked |= m.ready;
        }
    }

    fn get(&self, uplink: u16) -> Member {
        self.members.get(&uplink).copied().unwrap_or_default()
    }

    pub(crate) fn contains(&self, uplink: u16) -> bool {
        self.members.contains_key(&uplink)
    }

    pub(crate) fn link(&self, uplink: u16) -> bool {
        self.get(uplink).link
    }

    pub(crate) fn beacon(&self, uplink: u16) -> Beacon {
        self.get(uplink).beacon
    }

    pub(crate) fn ready(&self, uplink: u16) -> bool {
        self.get(uplink).ready
    }

    pub(crate) fn fresh(&self, uplink: u16) -> bool {
        self.get(uplink).fresh
    }

    /// It worked once, and does not now.
    pub(crate) fn failed(&self, uplink: u16) -> bool {
        let m = self.get(uplink);
        m.worked && !m.ready
    }

    /// True while link states stand in for beacons that fail everywhere.
    pub(crate) fn ignored(&self) -> bool {
        self.ignored
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.members.values().filter(|m| m.ready).count(), self.members.len())
    }

    pub(crate) fn cause(&self, uplink: u16) -> Cause {
        if self.get(uplink).link { Cause::Beacon } else { Cause::Link }
    }

    /// Why `uplink` is not ready; `None` when it is.
    pub(crate) fn obstacle(&self, uplink: u16) -> Option<Why> {
        let m = self.members.get(&uplink)?;
        match (m.ready, m.link, m.until) {
            (true, ..) => None,
            (_, false, _) => Some(Why::NoLink),
            (_, _, Some(at)) => Some(Why::UpDelay(at)),
            _ => Some(Why::BeaconFailed),
        }
    }

    /// The end of the up-delay that ends first.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.members.values().filter_map(|m| m.until).min()
    }
}
