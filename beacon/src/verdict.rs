//! What a team is told.

use crate::graph::Outcome;

/// Which direction of an uplink is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The good uplinks do not hear it; it hears at least one of them.
    Transmit,
    /// It hears none of the good uplinks; at least one of them hears it.
    Receive,
    /// Both, or it cannot be told.
    Both,
}

/// An uplink as beacons see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Is heard and hears.
    Ok,
    /// Its path is dead; do not use it.
    Failed {
        /// The direction.
        side: Side,
    },
    /// Nothing can be said: use it by its link state.
    Unknown,
}

/// What holds for a team on one VLAN or overall. At least one uplink with link is not failed, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Each uplink asked about, in the order asked.
    pub health: Vec<(u16, Health)>,
    /// By which rule.
    pub outcome: Outcome,
    /// Frames are to leave by every uplink in use that is not failed.
    pub shotgun: bool,
    /// Alarm: nobody hears anybody, beacons are filtered upstream, link state decides.
    pub filtered: bool,
}

impl Verdict {
    /// The health of one uplink; unknown when it was not asked about.
    pub fn of(&self, uplink: u16) -> Health {
        self.health.iter().find(|(id, _)| *id == uplink).map_or(Health::Unknown, |(_, health)| *health)
    }

    /// True for a tie without shotgun: the order stays as it is, no one is failed.
    pub fn keeps_order(&self) -> bool {
        self.outcome == Outcome::Tie && !self.shotgun
    }
}
