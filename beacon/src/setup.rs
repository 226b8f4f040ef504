//! What is probed, and how: changes keep the state of what stays.

use std::collections::BTreeSet;
use std::time::Duration;

use wire::VID_MAX;

use crate::config::{Config, ConfigError, MAX_UPLINKS};
use crate::edge::Matrix;
use crate::events::EventKind;
use crate::judgement::Judgement;
use crate::prober::{Probed, Prober, Team, Uplink, Vlan, normal};
use crate::schedule::Pair;

impl Prober {
    /// Changes how to probe. Another interval begins everything anew: all uplinks are unknown again.
    ///
    /// # Errors
    /// When it is out of bounds; the old configuration stays.
    pub fn set_config(&mut self, config: Config, now: Duration) -> Result<(), ConfigError> {
        config.check()?;
        let t = self.state.clock.read(now, &self.timing);
        let restart = config.interval != self.config.interval;
        (self.timing, self.config) = (config.timing(), config);
        if restart {
            self.state.clock.restart(t);
            self.state.uplinks.iter_mut().for_each(|uplink| uplink.born = t);
            (0..self.state.uplinks.len()).for_each(|at| self.forget(at));
        }
        self.set_vlans(&self.state.asked.clone(), now);
        Ok(())
    }

    /// The uplinks to probe: all that some team with beacons has in its order, in any sequence. Those that stay
    /// keep their state, new ones are without link until told otherwise.
    ///
    /// # Errors
    /// When there are too many, or an id comes twice; nothing is changed then.
    pub fn set_uplinks(&mut self, uplinks: &[Uplink], now: Duration) -> Result<(), ConfigError> {
        if uplinks.len() > MAX_UPLINKS {
            return Err(ConfigError::Uplinks(uplinks.len()));
        }
        let mut sorted = uplinks.to_vec();
        sorted.sort_by_key(|uplink| uplink.id);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ConfigError::Twice(pair[0].id));
        }
        let places: Vec<Option<usize>> = sorted.iter().map(|uplink| self.place(uplink.id)).collect();
        let old = std::mem::take(&mut self.state.uplinks);
        self.state.uplinks = sorted
            .iter()
            .zip(&places)
            .map(|(uplink, place)| match place.and_then(|at| old.get(at)) {
                Some(probed) => Probed { mac: uplink.mac, ..probed.clone() },
                None => Probed { id: uplink.id, mac: uplink.mac, up: false, born: Duration::ZERO },
            })
            .collect();
        let counters = |place: &Option<usize>| place.and_then(|at| self.counters.get(at)).copied().unwrap_or_default();
        self.counters = places.iter().map(counters).collect();
        self.state.overall = self.state.overall.moved(&places);
        self.state.vlans.iter_mut().for_each(|vlan| vlan.heard = vlan.heard.moved(&places));
        let moved = |mask: u64| {
            let bit = |(new, old): (usize, &Option<usize>)| old.map_or(0, |old| (mask >> old & 1) << new);
            places.iter().enumerate().map(bit).sum::<u64>()
        };
        for team in &mut self.state.teams {
            team.vlans.iter_mut().chain([&mut team.overall]).for_each(|judgement| judgement.moved(moved));
        }
        self.rearrange();
        self.form(now);
        Ok(())
    }

    /// The teams that get verdicts with memory and events, each by the ids of its uplinks, active and standby. Teams
    /// of the same uplinks are one.
    pub fn set_teams(&mut self, teams: &[Vec<u16>], now: Duration) {
        let mut old = std::mem::take(&mut self.state.teams);
        for members in teams {
            let members = normal(members);
            if self.state.teams.iter().any(|team| team.members == members) {
                continue;
            }
            let kept = old.iter().position(|team| team.members == members).map(|at| old.swap_remove(at));
            let fresh =
                || Team { vlans: vec![Judgement::default(); self.state.vlans.len()], members, ..Team::default() };
            let team = kept.unwrap_or_else(fresh);
            self.state.teams.push(team);
        }
        self.form(now);
    }

    /// The VLANs to probe: those in use, 0 for untagged. At most [`Config::max_vlans`] are: the first ones, in the
    /// order given, so name the ones that matter first. Those left out, and numbers that are no VLAN, are returned;
    /// for them the overall verdict stands in. An empty list probes untagged.
    pub fn set_vlans(&mut self, vlans: &[u16], now: Duration) -> Vec<u16> {
        let t = self.state.clock.read(now, &self.timing);
        let mut probed = Vec::new();
        let mut unprobed = Vec::new();
        for vlan in if vlans.is_empty() { &[0] } else { vlans } {
            match *vlan <= VID_MAX && probed.len() < self.config.max_vlans {
                _ if probed.contains(vlan) => {}
                true => probed.push(*vlan),
                false => unprobed.push(*vlan),
            }
        }
        probed.sort_unstable();
        let places: Vec<Option<usize>> = probed.iter().map(|vlan| self.vlan_place(*vlan)).collect();
        let (old, uplinks) = (std::mem::take(&mut self.state.vlans), self.state.uplinks.len());
        let fresh = |id| Vlan { id, born: t, heard: Matrix::new(uplinks) };
        let kept = |place: &Option<usize>| place.and_then(|at| old.get(at)).cloned();
        self.state.vlans = probed.iter().zip(&places).map(|(id, at)| kept(at).unwrap_or_else(|| fresh(*id))).collect();
        for team in &mut self.state.teams {
            let judgement = |at: &Option<usize>| at.and_then(|at| team.vlans.get(at)).cloned().unwrap_or_default();
            team.vlans = places.iter().map(judgement).collect();
        }
        if unprobed.len() != self.state.unprobed && !unprobed.is_empty() {
            self.push_event(now, EventKind::VlansLimited { unprobed: unprobed.len() }, Vec::new(), None);
        }
        (self.state.asked, self.state.unprobed) = (vlans.to_vec(), unprobed.len());
        self.rearrange();
        self.form(now);
        unprobed
    }

    pub(crate) fn forget(&mut self, at: usize) {
        self.state.overall.forget(at);
        self.state.vlans.iter_mut().for_each(|vlan| vlan.heard.forget(at));
    }

    fn rearrange(&mut self) {
        let uplinks = &self.state.uplinks;
        let pairs = self.state.vlans.iter().flat_map(|v| uplinks.iter().map(|u| Pair { vlan: v.id, uplink: u.id }));
        let pairs: BTreeSet<Pair> = pairs.collect();
        self.state.schedule.arrange(pairs, &self.timing);
    }
}
