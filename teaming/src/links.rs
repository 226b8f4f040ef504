//! Link states of all uplinks as teams see them: a link that flaps too often counts as down.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::events::Log;
use crate::{Event, EventKind};

/// Link-downs per [`FLAP_WINDOW`] that hold an uplink down (ESX `Net.LinkFlappingThreshold`).
pub const FLAP_LIMIT: u32 = 60;
/// Time over which link-downs are counted.
pub const FLAP_WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
struct Link {
    up: bool,
    held: bool,
    /// Times of the link-downs of the last [`FLAP_WINDOW`], oldest first; at most the limit.
    downs: VecDeque<Duration>,
}

/// Link states with the flap guard. One for the whole switch: a cable is in one state for every team.
///
/// An uplink whose link goes down as often as the limit within [`FLAP_WINDOW`] is held down: it counts
/// as down whatever the link does. It is released when its link has not gone down for a whole
/// [`FLAP_WINDOW`]; each link-down while it is held starts that time anew.
#[derive(Clone, Debug)]
pub struct Links {
    limit: usize,
    links: BTreeMap<u16, Link>,
    log: Log,
}

impl Default for Links {
    fn default() -> Links {
        Links::new(FLAP_LIMIT)
    }
}

impl Links {
    /// No uplinks yet. `limit` is the number of link-downs per minute that hold an uplink down; 0 turns
    /// the guard off.
    pub fn new(limit: u32) -> Links {
        Links { limit: limit as usize, links: BTreeMap::new(), log: Log::default() }
    }

    /// Tells that `uplink` has link or not; repeating what is known changes nothing. Returns true when
    /// [`Links::is_up`] changed.
    pub fn set(&mut self, uplink: u16, up: bool, now: Duration) -> bool {
        let first = !self.links.contains_key(&uplink);
        let link = self.links.entry(uplink).or_default();
        let before = link.up && !link.held;
        if link.up == up {
            if first {
                // An uplink that starts without link is worth a line; it did not go down.
                self.log.add(now, EventKind::LinkDown { uplink });
            }
            return false;
        }
        link.up = up;
        if up {
            if !first {
                self.log.add(now, EventKind::LinkUp { uplink });
            }
        } else {
            self.log.add(now, EventKind::LinkDown { uplink });
            if self.limit > 0 && link.went_down(self.limit, now) {
                self.log.add(now, EventKind::Flapping { uplink, downs: self.limit as u32 });
            }
        }
        before != self.is_up(uplink)
    }

    /// True when `uplink` has link and is not held down: what to tell [`crate::Team::set_links`].
    pub fn is_up(&self, uplink: u16) -> bool {
        self.links.get(&uplink).is_some_and(|l| l.up && !l.held)
    }

    /// True while the flap guard holds `uplink` down.
    pub fn is_held(&self, uplink: u16) -> bool {
        self.links.get(&uplink).is_some_and(|l| l.held)
    }

    /// Every uplink heard of, and whether it is up ([`Links::is_up`]).
    pub fn states(&self) -> impl Iterator<Item = (u16, bool)> {
        self.links.iter().map(|(uplink, link)| (*uplink, link.up && !link.held))
    }

    /// Forgets an uplink that is gone.
    pub fn forget(&mut self, uplink: u16) {
        self.links.remove(&uplink);
    }

    /// When [`Links::tick`] has something to do.
    pub fn next_due(&self) -> Option<Duration> {
        self.links.values().filter_map(Link::release_at).min()
    }

    /// Releases the uplinks whose time has come. Returns true when [`Links::is_up`] changed.
    pub fn tick(&mut self, now: Duration) -> bool {
        let mut changed = false;
        for (uplink, link) in &mut self.links {
            if link.release_at().is_some_and(|at| at <= now) {
                link.held = false;
                link.downs.clear();
                changed |= link.up;
                self.log.add(now, EventKind::FlappingEnded { uplink: *uplink });
            }
        }
        changed
    }

    /// What happened since the last call, oldest first (at most the last 256).
    pub fn events(&mut self) -> Vec<Event> {
        self.log.drain()
    }
}

impl Link {
    /// Counts a link-down; true when that begins a hold.
    fn went_down(&mut self, limit: usize, now: Duration) -> bool {
        while self.downs.len() >= limit || self.downs.front().is_some_and(|t| now.saturating_sub(*t) >= FLAP_WINDOW) {
            self.downs.pop_front();
        }
        self.downs.push_back(now);
        let begins = !self.held && self.downs.len() >= limit;
        self.held |= begins;
        begins
    }

    fn release_at(&self) -> Option<Duration> {
        self.downs.back().filter(|_| self.held).map(|t| t.saturating_add(FLAP_WINDOW))
    }
}
