//! From ports and teams to the snapshot workers read.

use std::sync::Arc;

use dataplane::{PortEntry, PortId, Role, Snapshot, UplinkRole, VnicRole};
use portgroups::Policy;
use teaming::{Order, Team, UplinkState};
use wire::Mac;

use super::Runtime;
use crate::config::{Config, TeamPolicy};

/// The team of `policy`, all links still unknown.
pub(super) fn team(config: &Config, policy: &TeamPolicy) -> Team {
    let numbers = |names: &[String]| names.iter().filter_map(|n| config.uplink_index(n)).map(|i| i as u16).collect();
    Team::new(Order { active: numbers(&policy.active), standby: numbers(&policy.standby), failback: policy.failback })
}

impl Runtime {
    /// Tells every team the state of every uplink; returns true when any choice changed.
    pub(super) fn feed_links(&mut self) -> bool {
        let mut changed = false;
        for (number, uplink) in self.uplinks.iter().enumerate() {
            let up = uplink.state.connected() && uplink.state.link_up();
            for team in &mut self.teams {
                changed |= team.set_link(number as u16, up);
            }
            self.default_team.set_link(number as u16, up);
        }
        changed
    }

    /// True when a guest that may choose its address chose another one.
    pub(super) fn chosen_addresses_changed(&self) -> bool {
        self.vnics.iter().any(|v| v.published_mac != chosen_mac(v.policy(&self.config), v.state.filter().mac))
    }

    /// Builds a snapshot of how things are now and puts it in force.
    pub(super) fn publish(&mut self) {
        let mut entries = Vec::with_capacity(self.uplinks.len() + self.vnics.len());
        for (number, uplink) in self.uplinks.iter().enumerate() {
            let used = self.teams.iter().any(|t| t.state(number as u16) == UplinkState::Active);
            entries.push(PortEntry {
                id: PortId(number as u16),
                name: Arc::from(uplink.name.as_str()),
                role: Role::Uplink(UplinkRole { used }),
                state: uplink.state.clone(),
                counters: uplink.counters.clone(),
                egress: uplink.egress.clone(),
                queues: uplink.queues.clone(),
            });
        }
        for (index, vnic) in self.vnics.iter_mut().enumerate() {
            let Some(team) = self.teams.get_mut(vnic.group) else { continue };
            let policy = vnic.policy(&self.config);
            let chosen = chosen_mac(policy.clone(), vnic.state.filter().mac);
            let uplink = team.uplink_for(index as u16);
            if uplink != vnic.uplink && vnic.announced {
                let name =
                    |n: Option<u16>| n.and_then(|n| self.uplinks.get(usize::from(n))).map_or("none", |u| &u.name);
                tracing::info!("port {} moves from uplink {} to {}", vnic.name, name(vnic.uplink), name(uplink));
            }
            (vnic.uplink, vnic.announced, vnic.published_mac) = (uplink, true, chosen);
            entries.push(PortEntry {
                id: vnic.id,
                name: Arc::from(vnic.name.as_str()),
                role: Role::Vnic(VnicRole {
                    policy,
                    chosen_mac: chosen,
                    uplink: uplink.map(PortId),
                    has_uplinks: team.has_uplinks(),
                }),
                state: vnic.state.clone(),
                counters: vnic.counters.clone(),
                egress: vnic.egress.clone(),
                queues: vnic.queues.clone(),
            });
        }
        self.workers.publish(Snapshot::new(entries, self.config.switch.mtu));
    }
}

/// The address the guest chose, when it may and it is another than the assigned one.
fn chosen_mac(policy: Policy, programmed: Option<Mac>) -> Option<Mac> {
    programmed.filter(|mac| policy.security.mac_changes && *mac != policy.mac && !mac.is_group() && !mac.is_zero())
}
