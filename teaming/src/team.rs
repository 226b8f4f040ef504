//! One team: an order of uplinks, their health, and what is placed on them.

mod decide;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use wire::Mac;

use self::tell::Level;
use crate::choice::{BUCKETS, Choice, HashKind, Placement, Receive};
use crate::events::Log;
use crate::health::Health;
use crate::spread::{Carriers, Spread};
use crate::{Balancing, Beacon, Event, EventKind, Loads, Order, Settings, Why, hash_mac};

/// What an uplink does in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkState {
    /// Carries traffic.
    Active,
    /// Works, and waits.
    Standby,
    /// In the order, but does not work.
    Failed,
    /// Not in the order: never sends, and what it receives is dropped.
    Unused,
}

impl UplinkState {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            UplinkState::Active => "active",
            UplinkState::Standby => "standby",
            UplinkState::Failed => "failed",
            UplinkState::Unused => "unused",
        }
    }
}

/// An uplink in a team, for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it does.
    pub state: UplinkState,
    /// Why it does that.
    pub why: Why,
    /// Whether it has link, as the team was told.
    pub link: bool,
    /// What its beacons say, as the team was told.
    pub beacon: Beacon,
    /// Ports on it; with a hash policy, buckets of 256.
    pub places: usize,
}

/// A team of uplinks.
#[derive(Clone, Debug)]
pub struct Team {
    settings: Settings,
    /// The order now: rolls without failback. With `explicit` the first active uplink is the only active
    /// one, and the others head the standby ones.
    active: Vec<u16>,
    standby: Vec<u16>,
    health: Health,
    carriers: Carriers,
    /// Who carries traffic besides, in shotgun: every uplink that is ready.
    blast: Option<Arc<[u16]>>,
    /// Sets of uplinks that hear only each other; empty: no shotgun.
    parts: Vec<Vec<u16>>,
    ports: Spread,
    /// With a hash policy.
    buckets: Spread,
    table: Option<Arc<[u16; BUCKETS]>>,
    accepts: Arc<[u16]>,
    level: Option<Level>,
    next_look: Duration,
    now: Duration,
    log: Log,
}

impl Team {
    /// A team with the usual settings but no up-delay, for callers that have no clock.
    pub fn new(order: Order) -> Team {
        Team::with(Settings { up_delay: Duration::ZERO, ..Settings::new(order) })
    }

    /// A team whose uplinks all are without link until told otherwise.
    pub fn with(mut settings: Settings) -> Team {
        let mut active: Vec<u16> = Vec::new();
        let mut standby: Vec<u16> = Vec::new();
        for uplink in &settings.order.active {
            if !active.contains(uplink) {
                active.push(*uplink);
            }
        }
        if settings.balancing == Balancing::Explicit && active.len() > 1 {
            standby = active.split_off(1);
        }
        for uplink in &settings.order.standby {
            if !active.contains(uplink) && !standby.contains(uplink) {
                standby.push(*uplink);
            }
        }
        // An aggregation group returns no beacons to its own members: verdicts on it mean nothing.
        settings.beacons &= settings.balancing != Balancing::IpHash;
        let health = Health::new(active.iter().chain(&standby).copied(), settings.beacons, settings.up_delay);
        let mut buckets = Spread::default();
        if settings.balancing.hashes() {
            (0..BUCKETS as u16).for_each(|b| buckets.add(b, &active, &Carriers::default()));
        }
        Team {
            next_look: settings.load.interval,
            settings,
            active,
            standby,
            health,
            carriers: Carriers::default(),
            blast: None,
            parts: Vec::new(),
            ports: Spread::default(),
            buckets,
            table: None,
            accepts: Arc::from([]),
            level: None,
            now: Duration::ZERO,
            log: Log::default(),
        }
    }

    /// What the team was told to do.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tells the link states of uplinks ([`crate::Links::states`]), all that are news at once: an uplink
    /// that goes down together with another is not moved to first. Others keep theirs. Like every
    /// `set_`, it returns true when some [`Placement`] or some uplink's state changed: place every port again.
    pub fn set_links(&mut self, links: impl IntoIterator<Item = (u16, bool)>, now: Duration) -> bool {
        let mut news = false;
        for (uplink, up) in links {
            news |= self.health.set_link(uplink, up);
        }
        (news || self.level.is_none()) && self.update(now)
    }

    /// Tells one link state, to a team without a clock: at the time it was told last.
    pub fn set_link(&mut self, uplink: u16, up: bool) -> bool {
        self.set_links([(uplink, up)], self.now)
    }

    /// Tells beacon verdicts, all that are news at once. Without `beacons` in the settings they are only shown.
    pub fn set_beacons(&mut self, verdicts: impl IntoIterator<Item = (u16, Beacon)>, now: Duration) -> bool {
        let mut news = false;
        let at = self.now.max(now);
        for (uplink, verdict) in verdicts {
            let Some(before) = self.health.set_beacon(uplink, verdict) else { continue };
            news = true;
            match (before, verdict) {
                _ if !self.settings.beacons => {}
                (_, Beacon::Failed) => self.log.add(at, EventKind::BeaconFailed { uplink }),
                (Beacon::Failed, Beacon::Ok) => self.log.add(at, EventKind::BeaconRestored { uplink }),
                _ => {}
            }
        }
        news && self.update(now)
    }

    /// Tells one beacon verdict.
    pub fn set_beacon(&mut self, uplink: u16, verdict: Beacon, now: Duration) -> bool {
        self.set_beacons([(uplink, verdict)], now)
    }

    /// Begins shotgun, or ends it with fewer than two parts. `parts` are the sets of uplinks that hear only each
    /// other, none larger than all others, so that it is not known which set is cut off. A port sends each
    /// frame by every uplink, and takes group frames from one uplink of each part: what floods
    /// one part does not reach another, or beacons would. An uplink in no part is a part of its own.
    /// Without `beacons` in the settings (and so with `ip-hash`) nothing happens.
    pub fn set_shotgun(&mut self, parts: &[Vec<u16>], now: Duration) -> bool {
        let parts = if parts.len() < 2 { &[] } else { parts };
        if !self.settings.beacons || self.parts == parts {
            return false;
        }
        self.parts = parts.to_vec();
        // The parts decide what is received, even where the uplinks stay the same.
        self.update(now);
        true
    }

    /// When [`Team::tick`] or, with `load`, [`Team::balance`] has something to do.
    pub fn next_due(&self) -> Option<Duration> {
        let look = (self.settings.balancing == Balancing::Load).then_some(self.next_look);
        [self.health.next_due(), look].into_iter().flatten().min()
    }

    /// Tells the time: up-delays end.
    pub fn tick(&mut self, now: Duration) -> bool {
        let due = self.health.next_due().is_some_and(|at| at <= now);
        self.now = self.now.max(now);
        due && self.update(now)
    }

    /// True when it is time for [`Team::balance`] (never but with `load`).
    pub fn wants_loads(&self, now: Duration) -> bool {
        self.settings.balancing == Balancing::Load && now >= self.next_look
    }

    /// Looks at loads when it is time: from each uplink in use that is too busy, the busiest port that
    /// fits elsewhere moves to the uplink that is least busy with it. Its new place is its home.
    pub fn balance(&mut self, loads: &mut Loads, now: Duration) -> bool {
        if !self.wants_loads(now) {
            return false;
        }
        self.now = self.now.max(now);
        self.next_look = now.saturating_add(self.settings.load.interval);
        let mut changed = false;
        for from in loads.too_busy(&self.carriers.in_use, self.settings.load) {
            let on_it = self.ports.iter().filter(|(_, at)| *at == Some(from)).map(|(port, _)| port);
            if let Some((port, to)) = loads.relief(from, on_it, &self.carriers.in_use) {
                loads.moved(port, from, to);
                self.ports.put(port, to);
                self.log.add(now, EventKind::LoadMoved { port, from, to });
                changed = true;
            }
        }
        changed
    }

    /// What happened since the last call, oldest first (at most the last 256).
    pub fn events(&mut self) -> Vec<Event> {
        self.log.drain()
    }

    /// The uplinks that carry traffic now: by the order, then those that shotgun adds.
    pub fn in_use(&self) -> &[u16] {
        &self.accepts
    }

    /// True when the team has any uplink in its order.
    pub fn has_uplinks(&self) -> bool {
        !self.active.is_empty() || !self.standby.is_empty()
    }

    /// True while frames leave by every uplink.
    pub fn shotgun(&self) -> bool {
        self.blast.is_some()
    }

    /// Where port number `port`, whose address is `mac`, sends and receives. The team remembers the
    /// port until [`Team::forget`]; ask again after each change.
    pub fn place(&mut self, port: u16, mac: Mac) -> Placement {
        let designated = match &self.table {
            Some(table) => Some(table[usize::from(hash_mac(mac))]),
            None => self.uplink_for(port),
        };
        let send = match (designated, &self.blast, &self.table) {
            (None, ..) => Choice::None,
            (Some(_), Some(all), _) => Choice::All(all.clone()),
            (Some(_), None, Some(table)) => Choice::Hash { kind: self.hash_kind(), table: table.clone() },
            (Some(uplink), None, None) => Choice::One(uplink),
        };
        let group: Arc<[u16]> = match (designated, &self.blast) {
            (None, _) => Arc::from([]),
            (Some(first), Some(all)) => self.one_of_each_part(first, all),
            (Some(_), None) if self.settings.balancing == Balancing::IpHash => self.accepts.clone(),
            (Some(first), None) => Arc::from([first]),
        };
        Placement { send, receive: Receive { group, unicast: self.accepts.clone() } }
    }

    fn hash_kind(&self) -> HashKind {
        if self.settings.balancing == Balancing::IpHash { HashKind::Ip } else { HashKind::Mac }
    }

    /// `first`, and of each part that lacks it the first uplink of the order that carries traffic.
    fn one_of_each_part(&self, first: u16, all: &[u16]) -> Arc<[u16]> {
        let part = |u: u16| self.parts.iter().position(|p| p.contains(&u));
        let mut chosen = vec![first];
        for uplink in all {
            let known = |c: &u16| c == uplink || (part(*c).is_some() && part(*c) == part(*uplink));
            if !chosen.iter().any(known) {
                chosen.push(*uplink);
            }
        }
        Arc::from(chosen)
    }

    /// The uplink of port number `port`; `None` when none works. With a hash policy, where ports are
    /// on no uplink, the first in use.
    pub fn uplink_for(&mut self, port: u16) -> Option<u16> {
        if self.settings.balancing.hashes() {
            return self.carriers.in_use.first().copied();
        }
        if !self.ports.contains(port) {
            self.ports.add(port, &self.active, &self.carriers);
        }
        self.ports.at(port)
    }

    /// Forgets a port that is gone.
    pub fn forget(&mut self, port: u16) {
        self.ports.remove(port);
    }

    /// What `uplink` does in this team.
    pub fn state(&self, uplink: u16) -> UplinkState {
        self.status(uplink).state
    }

    /// What `uplink` does in this team, and why.
    pub fn status(&self, uplink: u16) -> Status {
        let (state, why) = match self.health.obstacle(uplink) {
            _ if !self.health.contains(uplink) => (UplinkState::Unused, Why::NotInOrder),
            Some(why) => (UplinkState::Failed, why),
            None if !self.accepts.contains(&uplink) => (UplinkState::Standby, Why::NotNeeded),
            None if self.health.ignored() => (UplinkState::Active, Why::BeaconsIgnored),
            None if self.blast.is_some() => (UplinkState::Active, Why::Shotgun),
            None if self.active.contains(&uplink) => (UplinkState::Active, Why::InOrder),
            None => (UplinkState::Active, Why::Promoted),
        };
        let places =
            if self.settings.balancing.hashes() { self.buckets.count(uplink) } else { self.ports.count(uplink) };
        Status { state, why, link: self.health.link(uplink), beacon: self.health.beacon(uplink), places }
    }
}
