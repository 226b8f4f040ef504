//! What a change is worth telling.

use std::collections::BTreeMap;

use super::{Team, UplinkState};
use crate::EventKind;
use crate::spread::Moved;

/// How much of the team works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    None,
    One,
    Some,
    All,
}

impl Team {
    /// Adds the events of a change: who was in use `before`, in which `states` all were, what `moved`, and
    /// whether beacons were `ignored`.
    pub(super) fn tell(&mut self, before: &[u16], states: &BTreeMap<u16, UplinkState>, moved: &[Moved], ignored: bool) {
        let at = self.now;
        match (ignored, self.health.ignored()) {
            (false, true) if self.settings.beacons => self.log.add(at, EventKind::BeaconsIgnored),
            (true, false) if self.settings.beacons => self.log.add(at, EventKind::BeaconsTrusted),
            _ => {}
        }
        let entered: Vec<u16> = self.carriers.in_use.iter().copied().filter(|u| !before.contains(u)).collect();
        let was = |state| entered.iter().copied().filter(move |u| states.get(u) == Some(&state));
        let mut promoted = was(UplinkState::Standby);
        // With none left it is an outage, not a failover; and out of an outage nothing fails back.
        let failed = before.iter().copied().filter(|u| !self.health.ready(*u));
        for from in failed.filter(|_| !self.carriers.in_use.is_empty()) {
            let moved = moved.iter().filter(|m| m.from == Some(from)).count() as u32;
            let kind = EventKind::Failover { from, cause: self.health.cause(from), moved, promoted: promoted.next() };
            self.log.add(at, kind);
        }
        let returned = was(UplinkState::Failed).filter(|u| !before.is_empty() && !self.health.fresh(*u));
        for to in returned {
            let moved = moved.iter().filter(|m| m.to == Some(to)).count() as u32;
            self.log.add(at, EventKind::Failback { to, moved });
        }
        self.tell_level();
    }

    fn tell_level(&mut self) {
        let (working, of) = self.health.counts();
        let level = match working {
            _ if of == 0 => return,
            n if n == of => Level::All,
            0 => Level::None,
            1 => Level::One,
            _ => Level::Some,
        };
        // A team that starts whole has nothing to tell.
        let before = self.level.replace(level);
        if before == Some(level) || (before.is_none() && level == Level::All) {
            return;
        }
        if before == Some(Level::None) {
            self.log.add(self.now, EventKind::ConnectivityRestored);
        }
        let works = self.carriers.in_use.first().copied().unwrap_or_default();
        let (working, of) = (working as u16, of as u16);
        match level {
            Level::None => self.log.add(self.now, EventKind::ConnectivityLost),
            Level::One => self.log.add(self.now, EventKind::RedundancyLost { works }),
            Level::Some => self.log.add(self.now, EventKind::RedundancyDegraded { working, of }),
            Level::All if of > 1 => self.log.add(self.now, EventKind::RedundancyRestored { of }),
            Level::All => {}
        }
    }
}
