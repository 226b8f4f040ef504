//! Who hears whom, for people.

use std::time::Duration;

use crate::prober::{Prober, Vlan};

/// What one uplink hears of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sends.
    pub from: u16,
    /// Who listens.
    pub to: u16,
    /// Age of the last beacon on any VLAN; `None` for none since both have link.
    pub age: Option<Duration>,
    /// The VLANs on which `to` hears `from` within [`crate::Config::window`], rising.
    pub hears: Vec<u16>,
    /// The probed VLANs on which it does not, rising.
    pub silent: Vec<u16>,
}

impl Prober {
    /// Who hears whom at `now`: one entry for each ordered pair of probed uplinks, by rising `from`, then `to`.
    pub fn matrix(&self, now: Duration) -> Vec<Heard> {
        let t = self.time(now);
        let all = 0..self.state.uplinks.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| {
                let alive = |vlan: &&Vlan| vlan.heard.edge(from, to).alive(t, &self.timing);
                let (hears, silent): (Vec<_>, Vec<_>) = self.state.vlans.iter().partition(alive);
                let ids = |vlans: Vec<&Vlan>| vlans.into_iter().map(|vlan| vlan.id).collect();
                Heard {
                    from: self.state.uplinks[from].id,
                    to: self.state.uplinks[to].id,
                    age: self.state.overall.edge(from, to).age(t),
                    hears: ids(hears),
                    silent: ids(silent),
                }
            })
            .collect()
    }
}
