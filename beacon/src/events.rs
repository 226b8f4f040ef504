//! What changed, for logs and for `show`.

use std::time::Duration;

use crate::edge::bits;
use crate::judgement::{Alarm, Reported};
use crate::verdict::Side;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the caller's clock.
    pub at: Duration,
    /// What.
    pub kind: EventKind,
    /// The team it is about, its uplinks' ids rising; empty when it is about none.
    pub team: Vec<u16>,
    /// The VLAN it is about; `None` for all.
    pub vlan: Option<u16>,
}

/// The kinds of change. Each has a name that stays ([`Event::id`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An uplink is failed, on every VLAN (`Event::vlan` is `None`) or on one.
    Failed {
        /// Its id.
        uplink: u16,
        /// The direction that is dead.
        side: Side,
    },
    /// A failed uplink is healthy again.
    Restored {
        /// Its id.
        uplink: u16,
    },
    /// A failed uplink is failed no longer because nothing can be said about it: it lost its link, the others
    /// did, or the team is tied or filtered.
    Cleared {
        /// Its id.
        uplink: u16,
    },
    /// Nobody hears anybody: beacons are filtered upstream. An alarm.
    Filtered,
    /// Beacons get through again.
    FilteredCleared,
    /// A tie: frames leave by all uplinks of the team.
    ShotgunOn,
    /// No tie any more.
    ShotgunOff,
    /// A tie, and shotgun is not configured: the order stays as it is, no one is failed.
    TieOn,
    /// No tie any more.
    TieOff,
    /// More VLANs are in use than are probed.
    VlansLimited {
        /// How many are not probed.
        unprobed: usize,
    },
}

impl Event {
    /// The stable name, for logs.
    pub fn id(&self) -> &'static str {
        let one_vlan = self.vlan.is_some();
        match self.kind {
            EventKind::Failed { .. } if one_vlan => "beacon.vlan.failed",
            EventKind::Failed { .. } => "beacon.uplink.failed",
            EventKind::Restored { .. } if one_vlan => "beacon.vlan.restored",
            EventKind::Restored { .. } => "beacon.uplink.restored",
            EventKind::Cleared { .. } if one_vlan => "beacon.vlan.cleared",
            EventKind::Cleared { .. } => "beacon.uplink.cleared",
            EventKind::Filtered => "beacon.filtered",
            EventKind::FilteredCleared => "beacon.filtered.cleared",
            EventKind::ShotgunOn => "beacon.shotgun.on",
            EventKind::ShotgunOff => "beacon.shotgun.off",
            EventKind::TieOn => "beacon.tie.on",
            EventKind::TieOff => "beacon.tie.off",
            EventKind::VlansLimited { .. } => "beacon.vlans.limited",
        }
    }

    /// The uplink it is about.
    pub fn uplink(&self) -> Option<u16> {
        match self.kind {
            EventKind::Failed { uplink, .. } | EventKind::Restored { uplink } | EventKind::Cleared { uplink } => {
                Some(uplink)
            }
            _ => None,
        }
    }
}

/// The changes between two reports, ends before beginnings. `healthy` are the uplinks that are fine now, `name`
/// gives the id and side of the one at a place.
pub(crate) fn changes(
    before: Reported,
    after: Reported,
    healthy: u64,
    name: impl Fn(usize) -> (u16, Side),
) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    if before.alarm != after.alarm {
        match before.alarm {
            Alarm::None => {}
            Alarm::Tie => kinds.push(EventKind::TieOff),
            Alarm::Shotgun => kinds.push(EventKind::ShotgunOff),
            Alarm::Filtered => kinds.push(EventKind::FilteredCleared),
        }
    }
    for at in bits(before.failed & !after.failed) {
        let uplink = name(at).0;
        let restored = healthy & 1 << at != 0;
        kinds.push(if restored { EventKind::Restored { uplink } } else { EventKind::Cleared { uplink } });
    }
    for at in bits(after.failed & !before.failed) {
        let (uplink, side) = name(at);
        kinds.push(EventKind::Failed { uplink, side });
    }
    if before.alarm != after.alarm {
        match after.alarm {
            Alarm::None => {}
            Alarm::Tie => kinds.push(EventKind::TieOn),
            Alarm::Shotgun => kinds.push(EventKind::ShotgunOn),
            Alarm::Filtered => kinds.push(EventKind::Filtered),
        }
    }
    kinds
}
