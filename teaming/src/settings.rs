//! What a team is told to do.

use std::time::Duration;

/// Time an uplink that returns waits before it carries traffic again (ESX `Net.TeamPolicyUpDelay`).
pub const UP_DELAY: Duration = Duration::from_millis(100);
/// Longest such time (ESX: 600 000 ms).
pub const UP_DELAY_MAX: Duration = Duration::from_millis(600_000);

/// A failover order, by whatever number the caller gives its uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Uplinks that carry traffic.
    pub active: Vec<u16>,
    /// Uplinks that take over, first to last, when an active one fails.
    pub standby: Vec<u16>,
    /// Whether traffic returns to its uplink when that works again. Without it (ESX: rolling order) an
    /// uplink that failed queues up behind the standby ones.
    pub failback: bool,
}

/// How traffic is spread over the uplinks in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Balancing {
    /// By port number, modulo the active uplinks.
    #[default]
    PortId,
    /// By the frame's source address ([`crate::hash_mac`]).
    MacHash,
    /// By the frame's IP addresses ([`crate::hash_ip`]); the physical switch has the uplinks in one
    /// static link aggregation group.
    IpHash,
    /// As `PortId` to begin with; ports leave uplinks that are too busy ([`LoadRule`]).
    Load,
    /// All by the first uplink of the order that works.
    Explicit,
}

impl Balancing {
    /// The name users see and write.
    pub fn name(self) -> &'static str {
        match self {
            Balancing::PortId => "port-id",
            Balancing::MacHash => "mac-hash",
            Balancing::IpHash => "ip-hash",
            Balancing::Load => "load",
            Balancing::Explicit => "explicit",
        }
    }

    /// True for the policies that look at each frame.
    pub(crate) fn hashes(self) -> bool {
        matches!(self, Balancing::MacHash | Balancing::IpHash)
    }
}

/// When [`Balancing::Load`] moves a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadRule {
    /// Per cent of its capacity above which an uplink is too busy, 1..=100 (ESX: 75).
    pub percent: u8,
    /// Time between two looks, and over which loads are averaged (ESX: 30 s).
    pub interval: Duration,
}

impl Default for LoadRule {
    fn default() -> LoadRule {
        LoadRule { percent: 75, interval: Duration::from_secs(30) }
    }
}

/// Everything a team is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which uplinks, in which order.
    pub order: Order,
    /// How traffic is spread.
    pub balancing: Balancing,
    /// True when beacon verdicts count beside link states.
    pub beacons: bool,
    /// Time an uplink that returns waits, 0..=[`UP_DELAY_MAX`].
    pub up_delay: Duration,
    /// When `load` moves a port.
    pub load: LoadRule,
}

impl Settings {
    /// `order` with `port-id` balancing, link states only, and the usual times.
    pub fn new(order: Order) -> Settings {
        Settings {
            order,
            balancing: Balancing::default(),
            beacons: false,
            up_delay: UP_DELAY,
            load: LoadRule::default(),
        }
    }

    /// What is wrong with these settings, one sentence each; empty when nothing is. `name` gives an
    /// uplink's name. A team made of settings that are refused still works: it sends by no unused
    /// uplink, an uplink named twice counts once, and with `ip-hash` beacons do not count.
    pub fn validate(&self, name: impl Fn(u16) -> String) -> Vec<String> {
        let mut wrong = Vec::new();
        let list = |uplinks: &[u16]| uplinks.iter().map(|u| name(*u)).collect::<Vec<_>>().join(", ");
        let Order { active, standby, .. } = &self.order;
        for (at, uplink) in active.iter().chain(standby).enumerate() {
            if active.iter().chain(standby).take(at).any(|u| u == uplink) {
                wrong.push(format!("uplink {} is named twice in the team's order; keep one", name(*uplink)));
            }
        }
        if active.is_empty() && !standby.is_empty() {
            wrong.push(format!("the team has standby uplinks but no active one; move {} to active", list(standby)));
        }
        if self.balancing == Balancing::IpHash {
            if !standby.is_empty() {
                wrong.push(format!(
                    "ip-hash takes no standby uplinks, because the physical switch has all of them in one link \
                     aggregation group and sends by any; move {} to active, leave them out, or choose another \
                     load_balancing",
                    list(standby)
                ));
            }
            if self.beacons {
                wrong.push(
                    "ip-hash takes no beacons, because a link aggregation group returns none to the uplinks that sent \
                     them; set failure_detection = \"link\" or choose another load_balancing"
                        .to_owned(),
                );
            }
        }
        if self.up_delay > UP_DELAY_MAX {
            wrong.push(format!(
                "an up-delay of {} ms is more than {} ms",
                self.up_delay.as_millis(),
                UP_DELAY_MAX.as_millis()
            ));
        }
        if !(1..=100).contains(&self.load.percent) {
            wrong.push(format!("a load threshold of {} per cent is not 1 to 100", self.load.percent));
        }
        if self.load.interval < Duration::from_secs(1) {
            wrong.push("a load interval shorter than 1 s measures bursts, not load; set at least 1 s".to_owned());
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::new(Order { active: vec![0, 1], standby: vec![], failback: true });
        change(&mut settings);
        settings.validate(|u| format!("vmnic{u}"))
    }

    #[test]
    fn the_usual_settings_are_right() {
        assert!(wrong(|_| ()).is_empty());
        assert!(wrong(|s| s.balancing = Balancing::IpHash).is_empty());
        assert!(wrong(|s| (s.beacons, s.order.standby) = (true, vec![2])).is_empty());
    }

    #[test]
    fn ip_hash_refuses_standby_and_beacons_and_says_why() {
        let said = wrong(|s| (s.balancing, s.beacons, s.order.standby) = (Balancing::IpHash, true, vec![2, 3]));
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("vmnic2, vmnic3") && said[0].contains("because"), "{}", said[0]);
        assert!(said[1].contains("failure_detection") && said[1].contains("because"), "{}", said[1]);
    }

    #[test]
    fn each_other_mistake_is_one_sentence() {
        for (change, word) in [
            ((|s: &mut Settings| s.order.active.push(0)) as fn(&mut Settings), "twice"),
            (|s| s.order.standby.push(1), "twice"),
            (|s| s.order = Order { active: vec![], standby: vec![0], failback: true }, "no active"),
            (|s| s.up_delay = Duration::from_millis(600_001), "600000 ms"),
            (|s| s.load.percent = 0, "per cent"),
            (|s| s.load.percent = 101, "per cent"),
            (|s| s.load.interval = Duration::from_millis(999), "1 s"),
        ] {
            let said = wrong(change);
            assert!(said.len() == 1 && said[0].contains(word), "{word}: {said:?}");
        }
    }
}
