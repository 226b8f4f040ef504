//! The `load` policy: which port leaves an uplink that is too busy, and where it goes.

use std::collections::BTreeMap;

use crate::LoadRule;

/// What an uplink carried, on average since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkLoad {
    /// The uplink.
    pub uplink: u16,
    /// Bits per second, the busier direction.
    pub used: u64,
    /// Bits per second it can carry in one direction. 0 when that is not known: then it is neither
    /// too busy nor a place to go.
    pub capacity: u64,
}

/// Loads of the whole switch, on average since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// Every uplink. A team that moves a port changes these, so that the next team asked sees where
    /// it went.
    pub uplinks: Vec<UplinkLoad>,
    /// Port number and bits per second in the busier direction.
    pub ports: BTreeMap<u16, u64>,
}

impl UplinkLoad {
    fn with(&self, more: u64) -> UplinkLoad {
        UplinkLoad { used: self.used.saturating_add(more), ..*self }
    }

    fn too_busy(&self, rule: LoadRule) -> bool {
        self.capacity > 0 && u128::from(self.used) * 100 > u128::from(self.capacity) * u128::from(rule.percent)
    }

    /// True when this uplink with `more` added would be less busy than `other` is.
    fn better_with(&self, more: u64, other: &UplinkLoad) -> bool {
        let with = u128::from(self.used) + u128::from(more);
        self.capacity > 0 && with * u128::from(other.capacity) < u128::from(other.used) * u128::from(self.capacity)
    }
}

impl Loads {
    fn port(&self, port: u16) -> u64 {
        self.ports.get(&port).copied().unwrap_or(0)
    }

    fn uplink(&self, uplink: u16) -> Option<&UplinkLoad> {
        self.uplinks.iter().find(|u| u.uplink == uplink)
    }

    /// The uplinks of `in_use` that are too busy, in that order.
    pub(crate) fn too_busy(&self, in_use: &[u16], rule: LoadRule) -> Vec<u16> {
        in_use.iter().copied().filter(|u| self.uplink(*u).is_some_and(|l| l.too_busy(rule))).collect()
    }

    /// The port to move from the uplink `from`, one of `ports` on it, and where to: the busiest for which some
    /// other uplink would, with it, be less busy than `from` is. So a port that alone fills any uplink
    /// does not go round and round.
    pub(crate) fn relief(&self, from: u16, ports: impl Iterator<Item = u16>, in_use: &[u16]) -> Option<(u16, u16)> {
        let source = self.uplink(from)?;
        let mut ports: Vec<(u64, u16)> = ports.map(|p| (self.port(p), p)).filter(|(used, _)| *used > 0).collect();
        ports.sort_by_key(|(used, port)| (std::cmp::Reverse(*used), *port));
        for (used, port) in ports {
            let others = in_use.iter().filter(|u| **u != from).filter_map(|u| self.uplink(*u));
            let best = others
                .filter(|l| l.better_with(used, source))
                .reduce(|best, l| if l.better_with(used, &best.with(used)) { l } else { best });
            if let Some(best) = best {
                return Some((port, best.uplink));
            }
        }
        None
    }

    /// Counts `port` at its new uplink.
    pub(crate) fn moved(&mut self, port: u16, from: u16, to: u16) {
        let used = self.port(port);
        for load in &mut self.uplinks {
            if load.uplink == from {
                load.used = load.used.saturating_sub(used);
            } else if load.uplink == to {
                load.used = load.used.saturating_add(used);
            }
        }
    }
}
