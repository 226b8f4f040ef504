//! The prober: sends, receives, remembers.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use wire::Mac;

use crate::codec::{self, Beacon, Key, Reject};
use crate::config::{Config, ConfigError, Timing};
use crate::edge::Matrix;
use crate::events::{Event, EventKind};
use crate::judgement::Judgement;
use crate::schedule::{Clock, Pair, Schedule};
use crate::traffic::{Counters, Received, Send};

/// Events kept when nobody fetches them; the oldest go first.
const EVENTS_MAX: usize = 1024;

/// An uplink to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The caller's number for it.
    pub id: u16,
    /// Source address of its beacons ([`crate::SwitchId::source_mac`] makes one).
    pub mac: Mac,
}

/// An uplink and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) id: u16,
    pub(crate) mac: Mac,
    pub(crate) up: bool,
    /// When it got its link.
    pub(crate) born: Duration,
}

/// A VLAN and what is heard on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    pub(crate) id: u16,
    /// When probing began.
    pub(crate) born: Duration,
    pub(crate) heard: Matrix,
}

/// A team: which uplinks, and what stands for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Team {
    /// Rising, without doubles.
    pub(crate) members: Vec<u16>,
    pub(crate) overall: Judgement,
    /// One per VLAN of the prober, in its order.
    pub(crate) vlans: Vec<Judgement>,
}

/// All that verdicts rest on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// By rising id. A place in here is a bit in every mask.
    pub(crate) uplinks: Vec<Probed>,
    /// By rising id.
    pub(crate) vlans: Vec<Vlan>,
    /// Heard on any VLAN.
    pub(crate) overall: Matrix,
    pub(crate) teams: Vec<Team>,
    pub(crate) events: VecDeque<Event>,
    /// When verdicts were last formed, by the prober's clock.
    pub(crate) formed: Duration,
    /// The VLANs as given, and how many of them are not probed.
    pub(crate) asked: Vec<u16>,
    pub(crate) unprobed: usize,
    pub(crate) clock: Clock,
    pub(crate) schedule: Schedule,
}

/// Probes the uplinks of one switch. See the crate's page.
#[derive(Clone, Debug)]
pub struct Prober {
    pub(crate) config: Config,
    pub(crate) timing: Timing,
    pub(crate) state: State,
    key: Key,
    nonce: u64,
    /// By place.
    pub(crate) counters: Vec<Counters>,
}

impl Prober {
    /// A prober without uplinks and teams, that probes untagged. `now` is the time since the switch's start, as in all
    /// other calls; `nonce` a random number of this start.
    ///
    /// # Errors
    /// When the configuration is out of bounds.
    pub fn new(config: Config, key: Key, nonce: u64, now: Duration) -> Result<Prober, ConfigError> {
        config.check()?;
        let timing = config.timing();
        let state = State {
            uplinks: Vec::new(),
            vlans: vec![Vlan { id: 0, born: now, heard: Matrix::default() }],
            overall: Matrix::default(),
            teams: Vec::new(),
            events: VecDeque::new(),
            formed: now,
            asked: Vec::new(),
            unprobed: 0,
            clock: Clock::new(now),
            schedule: Schedule::default(),
        };
        Ok(Prober { config, timing, state, key, nonce, counters: Vec::new() })
    }

    /// Tells that an uplink got or lost its link. One that gets it is unknown, and usable, until it has been probed for
    /// [`Config::window`]. Takes effect at once: verdicts are formed anew.
    pub fn set_link(&mut self, uplink: u16, up: bool, now: Duration) {
        let Some(at) = self.place(uplink).filter(|at| self.state.uplinks[*at].up != up) else { return };
        let born = self.state.clock.read(now, &self.timing);
        let probed = &mut self.state.uplinks[at];
        (probed.up, probed.born) = (up, born);
        self.forget(at);
        self.form(now);
    }

    /// When [`Prober::poll`] is due next, by the caller's clock; `None` while no uplink has link. Ask anew after
    /// every call that changes anything.
    pub fn next_due(&self) -> Option<Duration> {
        self.state.uplinks.iter().any(|uplink| uplink.up).then(|| self.state.clock.next(&self.timing))
    }

    /// Sends what is due, by giving it to `send`, and forms verdicts anew. A call before [`Prober::next_due`] does
    /// nothing.
    pub fn poll(&mut self, now: Duration, send: &mut impl FnMut(Send<'_>)) {
        let t = self.state.clock.settle(now, &self.timing);
        let mut left = self.config.max_per_poll;
        let mut ticked = false;
        while let Some(tick) = self.state.clock.due(t, &self.timing) {
            ticked = true;
            while let Some(pair) = (left > 0).then(|| self.state.schedule.next(tick)).flatten() {
                left -= usize::from(self.send(pair, t, send));
            }
            if left == 0 {
                break;
            }
            self.state.schedule.cursor = 0;
            self.state.clock.advance(&self.timing);
        }
        if ticked {
            self.form_at(t, now);
        }
    }

    fn send(&mut self, pair: Pair, t: Duration, send: &mut impl FnMut(Send<'_>)) -> bool {
        let places = self.place(pair.uplink).zip(self.vlan_place(pair.vlan));
        let Some((at, vlan)) = places.filter(|(at, _)| self.state.uplinks[*at].up) else { return false };
        let heard = &self.state.vlans[vlan].heard;
        let hears = |from: &usize| heard.edge(*from, at).alive(t, &self.timing);
        let hears = (0..self.state.uplinks.len()).filter(hears).fold(0, |sum, from| sum | 1 << from);
        let beacon = Beacon {
            source: self.state.uplinks[at].mac,
            uplink: pair.uplink,
            nonce: self.nonce,
            sequence: micros(t),
            vlan: pair.vlan,
            hears,
        };
        let frame = codec::encode(&beacon, &self.key);
        self.counters[at].sent += 1;
        send(Send { uplink: pair.uplink, vlan: pair.vlan, frame: &frame });
        true
    }

    /// Takes an untagged frame with the beacons' EtherType that came in by `uplink` on `vlan` (0: it had no tag).
    /// Anything but [`Received::Counted`] changes counters and nothing else.
    pub fn receive(&mut self, uplink: u16, vlan: u16, frame: &[u8], now: Duration) -> Received {
        let t = self.state.clock.read(now, &self.timing);
        let to = self.place(uplink);
        let received = match codec::decode(frame, &self.key) {
            Ok(beacon) => self.hear(&beacon, to, vlan, t),
            Err(Reject::Foreign) => Received::Foreign,
            Err(Reject::Forged) => Received::Forged,
            Err(Reject::NotABeacon | Reject::Truncated | Reject::Version) => Received::Bad,
        };
        if let Some(counters) = to.and_then(|at| self.counters.get_mut(at)) {
            counters.count(received);
            if received == Received::Foreign {
                counters.last_foreign = Some(t);
            }
        }
        received
    }

    fn hear(&mut self, beacon: &Beacon, to: Option<usize>, vlan: u16, t: Duration) -> Received {
        if beacon.vlan != vlan {
            return Received::Bad;
        }
        let (Some(to), Some(from), Some(place)) = (to, self.place(beacon.uplink), self.vlan_place(vlan)) else {
            return Received::Unprobed;
        };
        if to == from {
            return Received::Reflected;
        }
        let (sender, receiver) = (&self.state.uplinks[from], &self.state.uplinks[to]);
        if !sender.up || !receiver.up {
            return Received::Unprobed;
        }
        // Sent since both have link, and no longer ago than a path may be silent: what was caught earlier, on a path
        // that is dead by now, must not revive it.
        let oldest = sender.born.max(receiver.born).max(t.saturating_sub(self.timing.window));
        let edge = self.state.vlans[place].heard.edge_mut(from, to);
        let fresh = (micros(oldest).max(edge.awaited)..=micros(t)).contains(&beacon.sequence);
        if beacon.nonce != self.nonce || !fresh {
            return Received::Replayed;
        }
        edge.awaited = beacon.sequence.saturating_add(1);
        edge.hear(t, &self.timing);
        self.state.overall.edge_mut(from, to).hear(t, &self.timing);
        Received::Counted
    }

    /// The changes since the last call, oldest first.
    pub fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.state.events.drain(..)
    }

    /// What an uplink sent and received; `None` when it is not probed.
    pub fn counters(&self, uplink: u16) -> Option<Counters> {
        self.place(uplink).and_then(|at| self.counters.get(at)).copied()
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The VLANs that are probed, rising.
    pub fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        self.state.vlans.iter().map(|vlan| vlan.id)
    }

    /// The prober's time at the caller's `now`.
    pub(crate) fn time(&self, now: Duration) -> Duration {
        self.state.clock.read(now, &self.timing)
    }

    pub(crate) fn push_event(&mut self, at: Duration, kind: EventKind, team: Vec<u16>, vlan: Option<u16>) {
        if self.state.events.len() >= EVENTS_MAX {
            self.state.events.pop_front();
        }
        self.state.events.push_back(Event { at, kind, team, vlan });
    }

    /// The place of an uplink.
    pub(crate) fn place(&self, uplink: u16) -> Option<usize> {
        self.state.uplinks.binary_search_by_key(&uplink, |probed| probed.id).ok()
    }

    pub(crate) fn vlan_place(&self, vlan: u16) -> Option<usize> {
        self.state.vlans.binary_search_by_key(&vlan, |probed| probed.id).ok()
    }

    pub(crate) fn form(&mut self, now: Duration) {
        self.form_at(self.state.clock.read(now, &self.timing), now);
    }
}

/// Ids rising, without doubles.
pub(crate) fn normal(members: &[u16]) -> Vec<u16> {
    members.iter().copied().collect::<BTreeSet<u16>>().into_iter().collect()
}

fn micros(t: Duration) -> u64 {
    u64::try_from(t.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
