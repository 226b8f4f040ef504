//! Shotgun: which uplinks hear each other, and by which one group frames are taken in.
//!
//! In a tie it is not known which uplink is cut off, so frames leave by all. Group frames must still come
//! in once: from one uplink, and from one that lives. Which one lives is seen by what it receives: when the
//! chosen one has been silent while another was not, the other is chosen.

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
    next: Option<Duration>,
}

impl Receivers {
    pub(super) fn new(uplinks: usize, teams: usize) -> Receivers {
        Receivers { arrivals: vec![Arrivals::default(); uplinks], chosen: vec![None; teams], next: None }
    }

    /// When to look again; `None` while no team is in shotgun.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.next
    }

    /// The uplink by which team `team` takes group frames in; `None` when it is not in shotgun.
    pub(super) fn chosen(&self, team: usize) -> Option<u16> {
        self.chosen.get(team).copied().flatten()
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
        for (team, chosen) in teams.iter().zip(&mut self.chosen) {
            let next = if team.shotgun() { choose(*chosen, team.in_use(), &self.arrivals) } else { None };
            changed |= std::mem::replace(chosen, next) != next;
        }
        changed
    }
}

fn choose(now: Option<u16>, in_use: &[u16], arrivals: &[Arrivals]) -> Option<u16> {
    let last = |u: u16| arrivals.get(usize::from(u)).map_or(Duration::ZERO, |a| a.last);
    let newest = in_use.iter().copied().reduce(|best, u| if last(u) > last(best) { u } else { best })?;
    match now.filter(|u| in_use.contains(u)) {
        Some(stays) if last(newest) < last(stays) + SILENCE => Some(stays),
        _ => Some(newest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_changes_only_when_it_is_silent_beside_another() {
        let at = |ms: &[u64]| -> Vec<Arrivals> {
            ms.iter().map(|ms| Arrivals { frames: 1, last: Duration::from_millis(*ms) }).collect()
        };
        assert_eq!(choose(None, &[0, 1], &at(&[10, 500])), Some(1));
        assert_eq!(choose(Some(0), &[0, 1], &at(&[400, 500])), Some(0));
        assert_eq!(choose(Some(0), &[0, 1], &at(&[300, 500])), Some(1));
        assert_eq!(choose(Some(0), &[0, 1], &at(&[0, 0])), Some(0), "silence everywhere says nothing");
        assert_eq!(choose(Some(2), &[0, 1], &at(&[5, 5, 9])), Some(0), "one that is not in use any more");
    }
}
