//! Shotgun: which uplinks hear each other, and by which one group frames are taken in.
//!
//! In a tie it is not known which uplink is cut off, so frames leave by all. Group frames must still come
//! in once: from one uplink, and from one that lives. Which one lives is seen by what it receives: when the
//! chosen one has been silent while another was not, the other is chosen.
//!
//! What an uplink receives says nothing of one VLAN. But in a tie on one VLAN alone, while on others beacons pass, the
//! VLAN is missing somewhere between the parts: what comes in by one does not by another, and each has a receiver.

use std::sync::Arc;
use std::time::Duration;

use beacon::Prober;
use teaming::Team;

/// How often arrivals are looked at while some team is in shotgun.
const LOOK: Duration = Duration::from_millis(50);
/// Silence beside another uplink's traffic that makes the chosen one give way.
const SILENCE: Duration = Duration::from_millis(150);

/// The sets of `members` that hear each other both ways on `vlan` (`None`: on any).
pub(super) fn parts(prober: &Prober, members: &[u16], vlan: Option<u16>, now: Duration) -> Vec<Vec<u16>> {
    let matrix = prober.matrix(now);
    let hears = |from: u16, to: u16| {
        let entry = matrix.iter().find(|h| h.from == from && h.to == to);
        entry.is_some_and(|h| vlan.map_or(!h.hears.is_empty(), |v| h.hears.contains(&v)))
    };
    let mut parts: Vec<Vec<u16>> = Vec::new();
    for uplink in members {
        let joined = |part: &Vec<u16>| part.iter().any(|p| hears(*p, *uplink) && hears(*uplink, *p));
        let (with, mut apart): (Vec<_>, Vec<_>) = parts.into_iter().partition(joined);
        let mut merged: Vec<u16> = with.into_iter().flatten().collect();
        merged.push(*uplink);
        apart.push(merged);
        parts = apart;
    }
    parts
}

#[derive(Clone, Copy, Default)]
struct Arrivals {
    frames: u64,
    last: Duration,
}

/// By which uplink each team in shotgun takes group frames in.
pub(super) struct Receivers {
    arrivals: Vec<Arrivals>,
    chosen: Vec<Option<u16>>,
    /// The teams whose parts are known to be apart.
    apart: Vec<bool>,
    next: Option<Duration>,
}

impl Receivers {
    pub(super) fn new(uplinks: usize, teams: usize) -> Receivers {
        Receivers {
            arrivals: vec![Arrivals::default(); uplinks],
            chosen: vec![None; teams],
            apart: vec![false; teams],
            next: None,
        }
    }

    /// When to look again; `None` while no team is in shotgun.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.next
    }

    /// Tells whether the parts of team number `number` are apart for certain.
    pub(super) fn set_apart(&mut self, number: usize, apart: bool) -> bool {
        self.apart.get_mut(number).is_some_and(|known| std::mem::replace(known, apart) != apart)
    }

    /// The uplink by which `team`, the one with this number, takes group frames in; `None` when it is not in shotgun, or by
    /// one of each part. Until the next look, a team that has just begun, or whose uplink has just gone, has the first of its order.
    pub(super) fn chosen(&self, number: usize, team: &Team) -> Option<u16> {
        let chosen = self.chosen.get(number).copied().flatten();
        let chosen = chosen.filter(|u| team.in_use().contains(u)).or(team.in_use().first().copied());
        chosen.filter(|_| team.shotgun() && !self.apart.get(number).copied().unwrap_or(false))
    }

    /// Looks at arrivals when it is time; true when a choice changed.
    pub(super) fn look(&mut self, teams: &[Team], frames: impl Fn(u16) -> u64, now: Duration) -> bool {
        if !teams.iter().any(Team::shotgun) {
            self.next = None;
            let before = std::mem::take(&mut self.chosen);
            self.chosen = vec![None; teams.len()];
            return before != self.chosen;
        }
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.next = Some(now + LOOK);
        for (number, arrivals) in self.arrivals.iter_mut().enumerate() {
            let frames = frames(number as u16);
            if frames != arrivals.frames {
                *arrivals = Arrivals { frames, last: now };
            }
        }
        let mut changed = false;
        for (number, team) in teams.iter().enumerate() {
            let before = self.chosen(number, team);
            let next = before.and_then(|before| choose(before, team.in_use(), &self.arrivals));
            self.chosen[number] = next;
            changed |= before != next;
        }
        changed
    }
}

/// The uplinks of `all`, the receiving one last: physical switches believe the copy that came last, and what answers at
/// once then comes in where the port listens.
pub(super) fn sent_last(all: &[u16], receiver: u16) -> Arc<[u16]> {
    let others = all.iter().copied().filter(|u| *u != receiver);
    others.chain(all.contains(&receiver).then_some(receiver)).collect()
}

fn choose(now: u16, in_use: &[u16], arrivals: &[Arrivals]) -> Option<u16> {
    let last = |u: u16| arrivals.get(usize::from(u)).map_or(Duration::ZERO, |a| a.last);
    let newest = in_use.iter().copied().reduce(|best, u| if last(u) > last(best) { u } else { best })?;
    Some(if last(newest) < last(now) + SILENCE { now } else { newest })
}

#[cfg(test)]
mod tests {
    use teaming::{Order, Settings};

    use super::*;

    #[test]
    fn the_receiver_changes_only_when_it_is_silent_beside_another() {
        let at = |ms: &[u64]| -> Vec<Arrivals> {
            ms.iter().map(|ms| Arrivals { frames: 1, last: Duration::from_millis(*ms) }).collect()
        };
        assert_eq!(choose(0, &[0, 1], &at(&[400, 500])), Some(0));
        assert_eq!(choose(0, &[0, 1], &at(&[300, 500])), Some(1));
        assert_eq!(choose(0, &[0, 1], &at(&[0, 0])), Some(0), "silence everywhere says nothing");
    }

    #[test]
    fn the_receiver_sends_last() {
        assert_eq!(*sent_last(&[0, 1, 2], 0), [1, 2, 0]);
        assert_eq!(*sent_last(&[0, 1], 1), [0, 1]);
        assert_eq!(*sent_last(&[0, 1], 7), [0, 1], "nothing is added");
    }

    #[test]
    fn a_receiver_is_there_at_once_and_is_one_in_use() {
        let order = Order { active: vec![0, 1, 2], standby: Vec::new(), failback: true };
        let mut team = Team::with(Settings { beacons: true, up_delay: Duration::ZERO, ..Settings::new(order) });
        team.set_links([(0, true), (1, true), (2, true)], Duration::ZERO);
        let mut receivers = Receivers::new(3, 1);
        assert_eq!(receivers.chosen(0, &team), None, "no shotgun");
        team.set_shotgun(&[vec![0], vec![1, 2]], Duration::ZERO);
        assert_eq!(receivers.chosen(0, &team), Some(0), "before the first look");
        receivers.chosen[0] = Some(2);
        assert_eq!(receivers.chosen(0, &team), Some(2));
        team.set_links([(2, false)], Duration::ZERO);
        assert_eq!(receivers.chosen(0, &team), Some(0), "not the one that has just lost its link");
        assert!(receivers.set_apart(0, true));
        assert_eq!(receivers.chosen(0, &team), None, "each part has its own");
    }
}
