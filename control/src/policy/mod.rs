//! Links, beacons, teams and notices: what the pure crates are told, and when. Pure itself: the control
//! thread gives it time, events and frames, and so does a simulation.
//!
//! ```text
//!  netlink --> Links (flap guard) --+--> Team of each port group --> Placement of each port --> Snapshot
//!  Inbox ----> Prober (verdicts) ---+         |                          |
//!                 |                           +--> events, log           +--> Notifier --+
//!                 +--> beacons due ------------------------------------------------------+--> Send --> uplinks
//! ```

mod events_log;
mod shotgun;

use std::time::Duration;

use beacon::{Health, Outcome, Prober, SwitchId};
use portgroups::VlanMode;
use teaming::{Beacon, Choice, Links, Notifier, Placement, Team, UplinkState};
use wire::Mac;

pub use self::events_log::{EventLog, Told};
use self::shotgun::Receivers;
use crate::config::{Config, FailureDetection, TeamPolicy};

/// A frame of the switch's own making: by which uplink, with which VLAN's tag (0: none), and its bytes.
pub type SendFrame<'a> = dyn FnMut(u16, u16, &[u8]) + 'a;

/// Randomness of one start, for beacons.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Stays with this machine and switch over restarts.
    pub id: [u8; 16],
    /// Secret of this start.
    pub secret: [u8; 32],
    /// Of this start too.
    pub nonce: u64,
}

/// Teams and what feeds them.
pub struct Policies {
    config: Config,
    links: Links,
    /// One per port group, in the configuration's order.
    teams: Vec<Team>,
    /// The team that port groups without overrides have; shown, not used for placing ports.
    default_team: Team,
    prober: Option<Prober>,
    notifier: Notifier,
    log: EventLog,
    receivers: Receivers,
}

/// The numbers of a policy's uplinks, active and standby.
fn members(config: &Config, policy: &TeamPolicy) -> Vec<u16> {
    policy.active.iter().chain(&policy.standby).filter_map(|n| config.uplink_index(n)).map(|i| i as u16).collect()
}

/// The VLAN whose verdicts count for a port group; `None` where its guests tag.
fn probed_vlan(mode: &VlanMode) -> Option<u16> {
    match mode {
        VlanMode::Est => Some(0),
        VlanMode::Vst(vid) => Some(*vid),
        VlanMode::Vgt(_) => None,
    }
}

fn uses_beacons(policy: &TeamPolicy) -> bool {
    policy.failure_detection == FailureDetection::Beacon
}

impl Policies {
    /// Teams, all links still unknown.
    ///
    /// # Errors
    /// When the beacon settings are out of bounds, which a validated configuration's are not.
    pub fn new(config: Config, seed: &Seed) -> Result<Policies, beacon::ConfigError> {
        let teams: Vec<Team> = config.portgroups.iter().map(|g| Team::with(g.team.settings(&config))).collect();
        Ok(Policies {
            links: Links::new(config.flap_limit),
            receivers: Receivers::new(config.uplinks.len(), teams.len()),
            teams,
            default_team: Team::with(config.team.settings(&config)),
            prober: prober(&config, seed)?,
            notifier: Notifier::default(),
            log: EventLog::default(),
            config,
        })
    }

    /// The prober, when some team uses beacons.
    pub fn prober(&self) -> Option<&Prober> {
        self.prober.as_ref()
    }

    /// True while the flap guard holds `uplink` down.
    pub fn is_held(&self, uplink: u16) -> bool {
        self.links.is_held(uplink)
    }

    /// True while no uplink of a port group's team (`None`: the default team) hears any other: beacons are
    /// filtered upstream.
    pub fn filtered(&self, group: Option<usize>) -> bool {
        let Some(prober) = &self.prober else { return false };
        match group.map(|g| self.config.portgroups.get(g)) {
            Some(Some(group)) if uses_beacons(&group.team) => {
                prober.verdict(&members(&self.config, &group.team), probed_vlan(&group.vlan)).filtered
            }
            None if uses_beacons(&self.config.team) => {
                prober.verdict(&members(&self.config, &self.config.team), None).filtered
            }
            _ => false,
        }
    }

    /// The team of port group `group`.
    pub fn team(&self, group: usize) -> Option<&Team> {
        self.teams.get(group)
    }

    /// The team that port groups without overrides have.
    pub fn default_team(&self) -> &Team {
        &self.default_team
    }

    /// The last events.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Where port number `port` of port group `group`, whose address is `mac`, sends and receives now; and
    /// whether its team has uplinks at all.
    pub fn place(&mut self, group: usize, port: u16, mac: Mac) -> Option<(Placement, bool)> {
        let team = self.teams.get_mut(group)?;
        let receiver = self.receivers.chosen(group, team);
        let mut placement = team.place(port, mac);
        if let Some(receiver) = receiver {
            placement.receive.group = std::sync::Arc::from([receiver]);
            if let Choice::All(all) = &placement.send {
                placement.send = Choice::All(shotgun::sent_last(all, receiver));
            }
        }
        Some((placement, team.has_uplinks()))
    }

    /// True when some team has `uplink` in use.
    pub fn uses(&self, uplink: u16) -> bool {
        self.teams.iter().any(|t| t.state(uplink) == UplinkState::Active)
    }

    /// Has physical switches told that `port` has `mac` in `vlans` by `uplinks`; no address: that it has none.
    pub fn announce(&mut self, port: u16, mac: Option<Mac>, vlans: &[u16], uplinks: &[u16], now: Duration) {
        match mac {
            Some(mac) => self.notifier.announce(port, mac, vlans, uplinks, now),
            None => self.notifier.forget(port),
        }
    }

    /// All teams.
    pub fn teams(&self) -> &[Team] {
        &self.teams
    }

    /// Tells the link state of every uplink; true when some placement may have changed.
    pub fn set_links(&mut self, states: &[(u16, bool)], now: Duration) -> bool {
        for (uplink, up) in states {
            self.links.set(*uplink, *up, now);
        }
        self.spread_links(now)
    }

    fn spread_links(&mut self, now: Duration) -> bool {
        let states: Vec<(u16, bool)> = self.links.states().collect();
        if let Some(prober) = &mut self.prober {
            for (uplink, up) in &states {
                prober.set_link(*uplink, *up, now);
            }
        }
        self.default_team.set_links(states.iter().copied(), now);
        let mut changed = false;
        for team in &mut self.teams {
            changed |= team.set_links(states.iter().copied(), now);
        }
        changed
    }

    /// Has the `load` policies look at loads; true when a port moves.
    pub fn balance(&mut self, loads: &mut teaming::Loads, now: Duration) -> bool {
        let mut changed = false;
        for team in &mut self.teams {
            changed |= team.balance(loads, now);
        }
        changed
    }

    /// When [`Policies::advance`] is to be called next.
    pub fn next_due(&self) -> Option<Duration> {
        let teams = self.teams.iter().filter_map(Team::next_due).min();
        let prober = self.prober.as_ref().and_then(Prober::next_due);
        [teams, prober, self.links.next_due(), self.notifier.next_due(), self.receivers.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A frame with the beacons' EtherType came in by `uplink` in `vlan` at `at`.
    pub fn hear(&mut self, uplink: u16, vlan: u16, frame: &[u8], at: Duration) {
        if let Some(prober) = &mut self.prober {
            prober.receive(uplink, vlan, frame, at);
        }
    }

    /// Does what is due at `now`: sends beacons and notices, forms verdicts, ends delays. True when some
    /// placement may have changed. `arrivals` tells how many frames an uplink has taken in that are not of
    /// this switch's making.
    pub fn advance(&mut self, now: Duration, arrivals: impl Fn(u16) -> u64, send: &mut SendFrame<'_>) -> bool {
        let mut changed = self.links.tick(now) && self.spread_links(now);
        changed |= self.probe(now, send);
        self.default_team.tick(now);
        for team in &mut self.teams {
            changed |= team.tick(now);
        }
        changed |= self.receivers.look(&self.teams, arrivals, now);
        for notice in self.notifier.poll(now) {
            send(notice.uplink, notice.vlan, &teaming::rarp_frame(notice.mac));
        }
        self.collect_events();
        changed
    }

    fn probe(&mut self, now: Duration, send: &mut SendFrame<'_>) -> bool {
        let Some(prober) = &mut self.prober else { return false };
        if prober.next_due().is_some_and(|due| due > now) {
            return false;
        }
        prober.poll(now, &mut |beacon| send(beacon.uplink, beacon.vlan, beacon.frame));
        let mut changed = false;
        for (number, (group, team)) in self.config.portgroups.iter().zip(&mut self.teams).enumerate() {
            let (members, vlan) = (members(&self.config, &group.team), probed_vlan(&group.vlan));
            changed |= judge(prober, team, &members, vlan, now);
            let apart = team.shotgun() && prober.verdict(&members, None).outcome != Outcome::Tie;
            changed |= self.receivers.set_apart(number, apart);
        }
        judge(prober, &mut self.default_team, &members(&self.config, &self.config.team), None, now);
        changed
    }

    fn collect_events(&mut self) {
        let config = &self.config;
        let name = |n: u16| config.uplinks.get(usize::from(n)).map_or_else(|| n.to_string(), |u| u.name.value.clone());
        let port = |n: u16| config.vnics.get(usize::from(n)).map_or_else(|| n.to_string(), |v| v.name.value.clone());
        for event in self.links.events() {
            self.log.add_team(&event, &[], name, port);
        }
        if let Some(prober) = &mut self.prober {
            for event in prober.events() {
                self.log.add_beacon(&event, name);
            }
        }
        // What several port groups' teams tell alike is one event.
        let mut told: Vec<(teaming::Event, Vec<&str>)> = Vec::new();
        for (group, team) in config.portgroups.iter().zip(&mut self.teams) {
            for event in team.events() {
                match told.iter_mut().find(|(e, _)| *e == event) {
                    Some((_, groups)) => groups.push(&group.name),
                    None => told.push((event, vec![&group.name])),
                }
            }
        }
        self.default_team.events();
        for (event, groups) in told {
            self.log.add_team(&event, &groups, name, port);
        }
    }
}

/// Tells `team` what beacons say of its uplinks.
fn judge(prober: &Prober, team: &mut Team, members: &[u16], vlan: Option<u16>, now: Duration) -> bool {
    if !team.settings().beacons {
        return false;
    }
    let verdict = prober.verdict(members, vlan);
    let health = verdict.health.iter().map(|(uplink, health)| {
        let beacon = match health {
            Health::Ok => Beacon::Ok,
            Health::Failed { .. } => Beacon::Failed,
            Health::Unknown => Beacon::Unknown,
        };
        (*uplink, beacon)
    });
    let mut changed = team.set_beacons(health, now);
    let parts = if verdict.shotgun { shotgun::parts(prober, members, vlan, now) } else { Vec::new() };
    changed |= team.set_shotgun(&parts, now);
    changed
}

/// A prober for the uplinks of all teams that use beacons; `None` when none does.
fn prober(config: &Config, seed: &Seed) -> Result<Option<Prober>, beacon::ConfigError> {
    let groups: Vec<_> = config.portgroups.iter().filter(|g| uses_beacons(&g.team)).collect();
    let mut teams: Vec<Vec<u16>> = groups.iter().map(|g| members(config, &g.team)).collect();
    if uses_beacons(&config.team) {
        teams.push(members(config, &config.team));
    }
    // One uplink alone has nobody to hear it.
    teams.retain(|t| t.len() > 1);
    let mut numbers: Vec<u16> = teams.iter().flatten().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    if groups.is_empty() || numbers.is_empty() {
        return Ok(None);
    }
    let settings = beacon::Config {
        interval: config.beacon.interval(),
        threshold: config.beacon.threshold,
        shotgun: config.beacon.shotgun,
        ..beacon::Config::default()
    };
    let id = SwitchId(seed.id);
    let key = beacon::Key::new(id, &seed.secret, config.beacon.ethertype);
    let mut prober = Prober::new(settings, key, seed.nonce, Duration::ZERO)?;
    let uplinks: Vec<_> = numbers.iter().map(|n| beacon::Uplink { id: *n, mac: id.source_mac(*n) }).collect();
    prober.set_uplinks(&uplinks, Duration::ZERO)?;
    prober.set_teams(&teams, Duration::ZERO);
    let mut vlans: Vec<u16> = groups.iter().filter_map(|g| probed_vlan(&g.vlan)).collect();
    vlans.sort_unstable();
    vlans.dedup();
    prober.set_vlans(&vlans, Duration::ZERO);
    Ok(Some(prober))
}

impl Seed {
    /// The seed of a switch called `name` on the machine with this identity (`/etc/machine-id`), from
    /// random bytes.
    pub fn new(name: &str, machine_id: &str, random: &[u8; 56]) -> Seed {
        let mut id = [0u8; 16];
        let bytes = (0..16).filter_map(|i| u8::from_str_radix(machine_id.get(2 * i..2 * i + 2)?, 16).ok());
        if bytes.clone().count() == 16 {
            id.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        } else {
            id.copy_from_slice(&random[40..56]);
        }
        // Two switches of one machine differ by their names.
        for (at, byte) in name.bytes().enumerate() {
            let to = &mut id[at % 16];
            *to = to.rotate_left(3) ^ byte;
        }
        let mut secret = [0; 32];
        secret.copy_from_slice(&random[..32]);
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&random[32..40]);
        Seed { id, secret, nonce: u64::from_le_bytes(nonce) }
    }
}
