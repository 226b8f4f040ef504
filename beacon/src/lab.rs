//! A physical network of a few lines for the tests: switches, their ports, and what is broken of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::{Config, DEFAULT_ETHERTYPE, Event, Key, Outcome, Prober, Received, SwitchId, Uplink, Verdict};

/// Numbers by seed (splitmix64, Steele et al. 2014).
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// Uplink, VLAN, time, bytes.
pub(crate) type Captured = (u16, u16, Duration, Vec<u8>);

/// Where an uplink's cable ends.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) switch: usize,
    pub(crate) up: bool,
    /// Frames from the uplink get into the switch; frames from the switch get to the uplink.
    pub(crate) tx: bool,
    pub(crate) rx: bool,
    /// VLANs that the trunk does not carry.
    pub(crate) missing: BTreeSet<u16>,
}

pub(crate) struct Lab {
    pub(crate) prober: Prober,
    pub(crate) now: Duration,
    pub(crate) ports: BTreeMap<u16, Port>,
    /// `island[switch]`: equal numbers are connected.
    pub(crate) island: Vec<usize>,
    /// Beacons are swallowed by the switches.
    pub(crate) filtered: bool,
    /// Percent of beacons lost, but never `threshold` in a row on one path.
    pub(crate) loss: u64,
    /// Longest delay of a frame, and lateness of the caller.
    pub(crate) delay: Duration,
    pub(crate) events: Vec<Event>,
    pub(crate) dice: Dice,
    /// Every frame sent, if asked for.
    pub(crate) captured: Option<Vec<Captured>>,
    lost: BTreeMap<(u16, u16, u16), u32>,
    flying: BTreeMap<(Duration, u64), (u16, u16, Vec<u8>)>,
    count: u64,
}

pub(crate) fn key() -> Key {
    Key::new(SwitchId([7; 16]), &[9; 32], DEFAULT_ETHERTYPE)
}

pub(crate) fn uplinks(ids: impl IntoIterator<Item = u16>) -> Vec<Uplink> {
    ids.into_iter().map(|id| Uplink { id, mac: key().switch().source_mac(id) }).collect()
}

impl Lab {
    /// `uplinks` with link, each on a switch of its own, all switches connected, one team of all.
    pub(crate) fn new(config: Config, uplinks: u16, vlans: &[u16]) -> Lab {
        let now = Duration::from_secs(100);
        let mut prober = Prober::new(config, key(), 5, now).unwrap();
        prober.set_uplinks(&self::uplinks(0..uplinks), now).unwrap();
        prober.set_vlans(vlans, now);
        prober.set_teams(&[(0..uplinks).collect()], now);
        let port = |id: u16| Port { switch: id.into(), up: true, tx: true, rx: true, missing: BTreeSet::new() };
        let ports: BTreeMap<u16, Port> = (0..uplinks).map(|id| (id, port(id))).collect();
        ports.keys().for_each(|id| prober.set_link(*id, true, now));
        Lab {
            prober,
            now,
            ports,
            island: vec![0; usize::from(uplinks)],
            filtered: false,
            loss: 0,
            delay: Duration::ZERO,
            events: Vec::new(),
            dice: Dice(1),
            captured: None,
            lost: BTreeMap::new(),
            flying: BTreeMap::new(),
            count: 0,
        }
    }

    /// The same, past the time in which nothing is said.
    pub(crate) fn settled(config: Config, uplinks: u16, vlans: &[u16]) -> Lab {
        let mut lab = Lab::new(config, uplinks, vlans);
        lab.run(lab.bound());
        lab.events.clear();
        lab
    }

    pub(crate) fn interval(&self) -> Duration {
        self.prober.config().interval
    }

    /// Within what every change is to be seen.
    pub(crate) fn bound(&self) -> Duration {
        self.interval() * (self.prober.config().threshold + 2)
    }

    pub(crate) fn set_link(&mut self, id: u16, up: bool) {
        self.ports.get_mut(&id).unwrap().up = up;
        self.prober.set_link(id, up, self.now);
        self.events.extend(self.prober.events());
    }

    /// True when a frame from `from` gets to `to`.
    pub(crate) fn passes(&self, from: u16, to: u16, vlan: u16) -> bool {
        let (a, b) = (&self.ports[&from], &self.ports[&to]);
        let path = self.island[a.switch] == self.island[b.switch];
        let trunks = !a.missing.contains(&vlan) && !b.missing.contains(&vlan);
        from != to && a.up && b.up && a.tx && b.rx && path && trunks && !self.filtered
    }

    fn loses(&mut self, from: u16, to: u16, vlan: u16) -> bool {
        let allowed = self.prober.config().threshold - 1;
        let lost = self.lost.entry((from, to, vlan)).or_insert(0);
        let loses = *lost < allowed && self.dice.chance(self.loss);
        *lost = if loses { *lost + 1 } else { 0 };
        loses
    }

    fn send(&mut self, from: u16, vlan: u16, frame: &[u8]) {
        for to in self.ports.keys().copied().collect::<Vec<_>>() {
            if self.passes(from, to, vlan) && !self.loses(from, to, vlan) {
                let at = self.now + Duration::from_nanos(self.dice.roll(self.delay.as_nanos() as u64));
                self.count += 1;
                self.flying.insert((at, self.count), (to, vlan, frame.to_vec()));
            }
        }
    }

    /// Goes on for `time`; `check` is called after everything that happens.
    pub(crate) fn run_checked(&mut self, time: Duration, mut check: impl FnMut(&Lab)) {
        let end = self.now + time;
        loop {
            let late = Duration::from_nanos(self.dice.roll(self.delay.as_nanos() as u64));
            let due = self.prober.next_due().map(|due| due.max(self.now) + late);
            let arrival = self.flying.first_key_value().map(|(key, _)| key.0);
            let Some(next) = due.into_iter().chain(arrival).min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            if arrival.is_some_and(|at| at <= next) {
                let Some((_, (to, vlan, frame))) = self.flying.pop_first() else { continue };
                if self.ports[&to].up {
                    let received = self.prober.receive(to, vlan, &frame, self.now);
                    assert!(matches!(received, Received::Counted | Received::Unprobed | Received::Replayed));
                }
            } else {
                let mut out = Vec::new();
                self.prober.poll(self.now, &mut |send| out.push((send.uplink, send.vlan, send.frame.to_vec())));
                assert!(out.len() <= self.prober.config().max_per_poll);
                for (uplink, vlan, frame) in out {
                    self.send(uplink, vlan, &frame);
                    if let Some(captured) = &mut self.captured {
                        captured.push((uplink, vlan, self.now, frame));
                    }
                }
                self.events.extend(self.prober.events());
            }
            check(self);
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_checked(time, |_| ());
    }

    /// Goes on until `what` holds, and says how long that took.
    pub(crate) fn until(&mut self, what: impl Fn(&Lab) -> bool) -> Duration {
        let (start, mut at) = (self.now, None);
        self.run_checked(self.bound() * 4, |lab| {
            if at.is_none() && what(lab) {
                at = Some(lab.now);
            }
        });
        at.expect("it comes to pass") - start
    }

    pub(crate) fn verdict(&self, vlan: Option<u16>) -> Verdict {
        self.prober.verdict(&self.ports.keys().copied().collect::<Vec<_>>(), vlan)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.verdict(None).outcome
    }

    /// Names of the events and their uplinks so far, which are forgotten.
    pub(crate) fn told(&mut self) -> Vec<(&'static str, Option<u16>, Option<u16>)> {
        std::mem::take(&mut self.events).iter().map(|e| (e.id(), e.uplink(), e.vlan)).collect()
    }
}
