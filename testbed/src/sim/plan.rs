//! What a seed describes before anything happens: the switch's configuration and the physical network around it.

use std::fmt::Write as _;

use control::config::{self, Config, Host};
use wire::Mac;

use super::Dice;
use super::net::{Cable, End, Net, Switch};

/// Most uplinks.
pub const UPLINKS: usize = 6;
/// Most VLANs, untagged included.
pub const VLANS: usize = 4;
/// Most stations: one per uplink (its beacons), virtual machine and outside host.
pub const STATIONS: usize = 24;
/// Most of the lateness that beacons bear which networks and threads here have, in nanoseconds. At long intervals beacons
/// bear seconds; what makes a choice by the traffic it sees within tenths of a second does not.
pub const SLUGGISH: u64 = 40_000_000;
/// EtherType of the beacons.
pub const ETHERTYPE: u16 = 0x88b5;

/// How a port group treats tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// The switch tags: its ports are in the VLAN at this place (place 0 is untagged).
    Switch(usize),
    /// Guests tag; all VLANs.
    Guest,
}

/// A port group and its team.
#[derive(Clone, Debug)]
pub struct Group {
    /// What becomes of tags.
    pub tagging: Tagging,
    /// Uplinks that carry traffic.
    pub active: Vec<u16>,
    /// Uplinks that take over.
    pub standby: Vec<u16>,
    /// Beacons count, beside link states.
    pub beacons: bool,
    /// Ports return to an uplink that works again.
    pub failback: bool,
    /// The word of the configuration.
    pub balancing: &'static str,
    /// Milliseconds an uplink that returns waits.
    pub up_delay_ms: u64,
}

impl Group {
    /// Its uplinks, a bit each.
    pub fn members(&self) -> u32 {
        self.active.iter().chain(&self.standby).fold(0, |mask, u| mask | 1 << u)
    }
}

/// A virtual machine.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its port group.
    pub group: usize,
    /// The place of the VLAN it speaks in.
    pub vlan: usize,
    /// Its address.
    pub mac: Mac,
}

/// A station outside, on an access port of a physical switch.
#[derive(Clone, Debug)]
pub struct Outside {
    /// The place of its VLAN.
    pub vlan: usize,
    /// Its address.
    pub mac: Mac,
}

/// One simulated host and network.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it came from.
    pub seed: u64,
    /// How many uplinks the switch has.
    pub uplinks: usize,
    /// VLAN identifiers by place; 0, untagged, comes first.
    pub vlans: Vec<u16>,
    /// Port groups.
    pub groups: Vec<Group>,
    /// Virtual machines, in the order of their ports.
    pub guests: Vec<Guest>,
    /// Hosts outside.
    pub hosts: Vec<Outside>,
    /// Beacon interval in milliseconds.
    pub interval_ms: u64,
    /// Beacons missed that make a path dead.
    pub threshold: u64,
    /// A tie is answered with shotgun.
    pub shotgun: bool,
    /// Link-downs that hold an uplink down.
    pub flap_limit: u64,
    /// Whether the team of port groups without a word of their own, all uplinks, uses beacons too.
    pub base_beacons: bool,
    /// Longest time by which the control thread is late for what is due, in nanoseconds.
    pub lateness: u64,
    /// Whether strangers' and forged beacons come in all the time.
    pub hostile: bool,
    /// Changes of the physical network, each of several faults, each followed by quiet.
    pub phases: u64,
}

/// The address of a station by number: uplinks first, then guests, then hosts.
fn address(kind: u8, number: usize) -> Mac {
    Mac([0x00, 0x50, 0x56, kind, 0, number as u8])
}

impl Plan {
    /// The plan and the network of a seed.
    pub fn new(seed: u64) -> (Plan, Net, Dice) {
        let mut dice = Dice::new(seed);
        let uplinks = dice.pick(&[1, 2, 2, 3, 3, 3, 4, 4, 5, 6]);
        let mut vlans = vec![0u16];
        for id in [10, 20, 4094].into_iter().take(dice.place(VLANS)) {
            vlans.push(id);
        }
        let groups: Vec<Group> = (0..dice.between(1, 3)).map(|_| group(&mut dice, uplinks, vlans.len())).collect();
        let guest = |number: usize, dice: &mut Dice| {
            let group = number % groups.len();
            let vlan = match groups[group].tagging {
                Tagging::Switch(vlan) => vlan,
                Tagging::Guest => dice.place(vlans.len()),
            };
            Guest { group, vlan, mac: address(1, number * 37 + 1) }
        };
        let guests: Vec<Guest> = (0..groups.len() + dice.place(2)).map(|n| guest(n, &mut dice)).collect();
        // Somebody to talk to for most, and a few in VLANs of nobody.
        let hosts = |n: usize, dice: &mut Dice| {
            let vlan = if dice.chance(85) { guests[n % guests.len()].vlan } else { dice.place(vlans.len()) };
            Outside { vlan, mac: address(2, n + 1) }
        };
        let hosts: Vec<Outside> = (0..dice.between(1, 4) as usize).map(|n| hosts(n, &mut dice)).collect();
        let interval_ms = match dice.below(100) {
            0..60 => 10,
            60..80 => dice.between(11, 20),
            80..94 => dice.pick(&[25, 33, 50, 100]),
            94..99 => dice.pick(&[250, 1000]),
            _ => 60_000,
        };
        // The crate promises to bear half of this from its own thread, and half from the network.
        let jitter = jitter(interval_ms).min(SLUGGISH);
        let plan = Plan {
            seed,
            uplinks,
            groups,
            guests,
            hosts,
            interval_ms,
            threshold: dice.pick(&[1, 2, 2, 3, 3, 3, 4, 5]),
            shotgun: dice.chance(75),
            // Runs that may last a minute do without: then the guard would let go.
            flap_limit: if interval_ms > 100 { 0 } else { dice.pick(&[0, 60, 60, 60, 3]) },
            base_beacons: dice.chance(30),
            lateness: dice.pick(&[0, jitter / 8, jitter / 2 - jitter / 20]),
            hostile: dice.chance(25),
            phases: dice.between(1, 3),
            vlans,
        };
        let net = network(&plan, &mut dice);
        (plan, net, dice)
    }

    /// Time between two beacons of an uplink on a VLAN, in nanoseconds.
    pub fn interval(&self) -> u64 {
        self.interval_ms * 1_000_000
    }

    /// `interval x (threshold + 2)` in nanoseconds: within what traffic settles.
    pub fn bound(&self) -> u64 {
        self.interval() * (self.threshold + 2)
    }

    /// The number of a guest's station.
    pub fn guest_station(&self, guest: usize) -> usize {
        self.uplinks + guest
    }

    /// The number of a host's station.
    pub fn host_station(&self, host: usize) -> usize {
        self.uplinks + self.guests.len() + host
    }

    /// The address of a station; that of an uplink stands for its beacons'.
    pub fn address(&self, station: usize) -> Mac {
        let guest = station.checked_sub(self.uplinks);
        let host = guest.and_then(|g| g.checked_sub(self.guests.len()));
        match (guest, host) {
            (_, Some(host)) => self.hosts[host].mac,
            (Some(guest), None) => self.guests[guest].mac,
            (None, None) => Mac([2, 0, 0, 0, 0, station as u8]),
        }
    }

    /// The station that has an address; uplinks have those of their beacons.
    pub fn station(&self, mac: Mac) -> Option<usize> {
        let guest = self.guests.iter().position(|g| g.mac == mac).map(|g| self.guest_station(g));
        guest.or_else(|| self.hosts.iter().position(|h| h.mac == mac).map(|h| self.host_station(h)))
    }

    /// The uplinks that are probed, a bit each: all of teams that use beacons and have more than one.
    pub fn probed(&self) -> u32 {
        let base = if self.base_beacons && self.uplinks > 1 { (1 << self.uplinks) - 1 } else { 0 };
        let groups: Vec<&Group> = self.groups.iter().filter(|g| g.beacons).collect();
        let sum = groups.iter().map(|g| g.members()).filter(|m| m.count_ones() > 1).fold(base, |sum, m| sum | m);
        if groups.is_empty() { 0 } else { sum }
    }

    /// The places of the VLANs that are probed, a bit each.
    pub fn probed_vlans(&self) -> u32 {
        let places = self.groups.iter().filter(|g| g.beacons).filter_map(|g| match g.tagging {
            Tagging::Switch(place) => Some(place),
            Tagging::Guest => None,
        });
        let mask = places.fold(0, |mask, place| mask | 1 << place);
        if mask == 0 { 1 } else { mask }
    }

    /// The configuration as its file would say it.
    ///
    /// # Errors
    /// What the configuration's reader says against it.
    pub fn config(&self) -> Result<Config, String> {
        let text = self.text();
        let host = Host { online: vec![0], default_worker: 0 };
        config::parse("sim.toml", &text, &host).map_err(|problems| format!("{problems}\n{text}"))
    }

    fn text(&self) -> String {
        let detection = |beacons: bool| if beacons { "beacon" } else { "link" };
        let mut text = format!(
            "[team]\nfailure_detection = \"{}\"\nflap_limit = {}\n[beacon]\ninterval_ms = {}\nthreshold = {}\n\
             shotgun = {}\nethertype = {ETHERTYPE}\n",
            detection(self.base_beacons),
            self.flap_limit,
            self.interval_ms,
            self.threshold,
            self.shotgun
        );
        for uplink in 0..self.uplinks {
            let _ = write!(text, "[[uplink]]\nname = \"vmnic{uplink}\"\ndevice = \"eth{uplink}\"\n");
        }
        for (number, group) in self.groups.iter().enumerate() {
            let names = |list: &[u16]| list.iter().map(|u| format!("\"vmnic{u}\"")).collect::<Vec<_>>().join(", ");
            let vlan = match group.tagging {
                Tagging::Switch(place) => self.vlans[place],
                Tagging::Guest => 4095,
            };
            let _ = write!(
                text,
                "[[portgroup]]\nname = \"group{number}\"\nvlan = {vlan}\n[portgroup.team]\nactive = [{}]\n\
                 standby = [{}]\nfailure_detection = \"{}\"\nfailback = {}\nload_balancing = \"{}\"\nup_delay_ms = {}\n",
                names(&group.active),
                names(&group.standby),
                detection(group.beacons),
                group.failback,
                group.balancing,
                group.up_delay_ms
            );
        }
        for (number, guest) in self.guests.iter().enumerate() {
            let (group, mac) = (guest.group, guest.mac);
            let _ = write!(
                text,
                "[[vnic]]\nname = \"vm{number}\"\nportgroup = \"group{group}\"\nadapter = \"vmxnet3\"\nmac = \"{mac}\"\n"
            );
        }
        text
    }
}

/// The lateness that beacons bear at an interval, of the thread and of the network together, in nanoseconds: the
/// beacon crate's page says how much.
pub fn jitter(interval_ms: u64) -> u64 {
    let interval = interval_ms * 1_000_000;
    (interval / 8).max((interval / 4).min(2_500_000))
}

fn group(dice: &mut Dice, uplinks: usize, vlans: usize) -> Group {
    let mut order: Vec<u16> = (0..uplinks as u16).collect();
    if dice.chance(50) {
        for at in (1..order.len()).rev() {
            order.swap(at, dice.place(at + 1));
        }
    }
    if dice.chance(25) {
        order.truncate(dice.between(1, uplinks as u64) as usize);
    }
    let active = if dice.chance(60) { order.len() } else { dice.between(1, order.len() as u64) as usize };
    let standby = order.split_off(active);
    Group {
        tagging: if dice.chance(12) { Tagging::Guest } else { Tagging::Switch(dice.place(vlans)) },
        active: order,
        standby,
        beacons: dice.chance(88),
        failback: dice.chance(75),
        balancing: dice.pick(&["port-id", "port-id", "mac-hash", "load", "explicit"]),
        up_delay_ms: dice.pick(&[0, 0, 0, 7, 20]),
    }
}

fn network(plan: &Plan, dice: &mut Dice) -> Net {
    let switches = dice.pick(&[1, 2, 2, 3, 3, 4, 5]) as usize;
    let mut cables: Vec<[End; 2]> = Vec::new();
    for switch in 1..switches {
        cables.push([End::Switch(dice.place(switch)), End::Switch(switch)]);
    }
    for _ in 0..if switches > 2 { dice.place(3) } else { 0 } {
        let (a, b) = (dice.place(switches), dice.place(switches));
        if a != b {
            cables.push([End::Switch(a), End::Switch(b)]);
        }
    }
    // Mostly spread, as one would; now and then all in one switch.
    let spread = dice.chance(80);
    for uplink in 0..plan.uplinks {
        let switch = if spread { (uplink + dice.place(2)) % switches } else { 0 };
        cables.push([End::Uplink(uplink), End::Switch(switch)]);
    }
    for host in 0..plan.hosts.len() {
        cables.push([End::Host(host), End::Switch(dice.place(switches))]);
    }
    let ageing = dice.pick(&[3 * plan.interval(), 40 * plan.interval(), 300_000_000_000]);
    // What the longest path may add to a frame's way, and how much of that varies.
    let hops = switches as u64 + 1;
    let varies = dice.pick(&[0, 0, jitter(plan.interval_ms).min(SLUGGISH) * 9 / 20]) / hops;
    let fixed = dice.pick(&[1_000, 20_000, 60_000]);
    let cable = |ends: [End; 2]| {
        let mut cable = Cable::new(ends, fixed, varies);
        if let End::Host(host) = ends[0] {
            cable.lacks = !(1 << plan.hosts[host].vlan);
        }
        cable
    };
    let cables = cables.into_iter().map(cable).collect();
    let switches = (0..switches).map(|_| Switch::default()).collect();
    Net::new(switches, cables, ageing)
}
