//! How a team works, as the file says it.

use std::time::Duration;

use teaming::{Balancing, LoadRule, Order, Settings};

use super::Config;

/// How a port group's ports are spread over uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamPolicy {
    /// Which uplink a frame leaves by.
    pub load_balancing: LoadBalancing,
    /// How a dead path is noticed.
    pub failure_detection: FailureDetection,
    /// Names of the uplinks that carry traffic, in order; disjoint from `standby`.
    pub active: Vec<String>,
    /// Names of the uplinks that take over, in order.
    pub standby: Vec<String>,
    /// Whether ports return to an uplink that works again.
    pub failback: bool,
    /// Whether physical switches are told when a port moves.
    pub notify_switches: bool,
    /// Time an uplink that works again waits before it carries traffic, 0 to 600 s.
    pub up_delay: Duration,
    /// With [`LoadBalancing::Load`]: per cent of its capacity above which an uplink is too busy, 1..=100.
    pub load_percent: u8,
    /// With [`LoadBalancing::Load`]: time between two looks, over which loads are averaged; at least 1 s.
    pub load_interval: Duration,
}

impl TeamPolicy {
    /// What a file without a `[team]` section comes to: `active` uplinks in that order, ESX's numbers.
    pub fn of(active: Vec<String>) -> TeamPolicy {
        let load = LoadRule::default();
        TeamPolicy {
            load_balancing: LoadBalancing::default(),
            failure_detection: FailureDetection::default(),
            active,
            standby: Vec::new(),
            failback: true,
            notify_switches: true,
            up_delay: teaming::UP_DELAY,
            load_percent: load.percent,
            load_interval: load.interval,
        }
    }

    /// The same for the team itself, uplinks by their places in `config.uplinks`.
    pub fn settings(&self, config: &Config) -> Settings {
        let numbers = |names: &[String]| {
            let places = names.iter().filter_map(|n| config.uplink_index(n));
            places.filter_map(|place| u16::try_from(place).ok()).collect()
        };
        Settings {
            order: Order { active: numbers(&self.active), standby: numbers(&self.standby), failback: self.failback },
            balancing: self.load_balancing.into(),
            beacons: self.failure_detection == FailureDetection::Beacon,
            up_delay: self.up_delay,
            load: LoadRule { percent: self.load_percent, interval: self.load_interval },
        }
    }
}

/// Which uplink a frame leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoadBalancing {
    /// One uplink per port, by port number.
    #[default]
    PortId,
    /// By source address.
    MacHash,
    /// By IP addresses.
    IpHash,
    /// By port, moved when an uplink is busy.
    Load,
    /// The first active uplink that works.
    Explicit,
}

impl LoadBalancing {
    /// The word of the file and of the status document.
    pub fn name(self) -> &'static str {
        match self {
            LoadBalancing::PortId => "port-id",
            LoadBalancing::MacHash => "mac-hash",
            LoadBalancing::IpHash => "ip-hash",
            LoadBalancing::Load => "load",
            LoadBalancing::Explicit => "explicit",
        }
    }
}

impl From<LoadBalancing> for Balancing {
    fn from(policy: LoadBalancing) -> Balancing {
        match policy {
            LoadBalancing::PortId => Balancing::PortId,
            LoadBalancing::MacHash => Balancing::MacHash,
            LoadBalancing::IpHash => Balancing::IpHash,
            LoadBalancing::Load => Balancing::Load,
            LoadBalancing::Explicit => Balancing::Explicit,
        }
    }
}

/// How a dead path is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailureDetection {
    /// By the interface's link state. The default with [`LoadBalancing::IpHash`].
    Link,
    /// By beacons from the other uplinks, and link state.
    #[default]
    Beacon,
}

impl FailureDetection {
    /// The word of the file and of the status document.
    pub fn name(self) -> &'static str {
        match self {
            FailureDetection::Link => "link",
            FailureDetection::Beacon => "beacon",
        }
    }
}
