//! From ports and teams to the snapshot workers read, and to the notices physical switches get.

use std::sync::Arc;
use std::time::Duration;

use dataplane::{PortEntry, PortId, Role, Snapshot, UplinkRole, VnicRole};
use portgroups::{Policy, VlanMode};
use teaming::Placement;
use wire::Mac;

use super::Runtime;

/// Most VLANs of a guest-tagged port in which its address is announced.
const ANNOUNCED_VLANS: usize = 16;

impl Runtime {
    /// Tells the teams the state of every uplink; true when any choice changed.
    pub(super) fn feed_links(&mut self, now: Duration) -> bool {
        let up = |u: &super::ports::UplinkPort| u.state.connected() && u.state.link_up();
        let states: Vec<_> = self.uplinks.iter().enumerate().map(|(n, u)| (n as u16, up(u))).collect();
        self.policies.set_links(&states, now)
    }

    /// True when a guest started or stopped its card, or chose another address.
    pub(super) fn guests_changed(&self) -> bool {
        self.vnics.iter().any(|v| v.state.filter().mac != v.seen_mac)
    }

    /// Builds a snapshot of how things are now and puts it in force.
    pub(super) fn publish(&mut self, now: Duration) {
        let mut entries = Vec::with_capacity(self.uplinks.len() + self.vnics.len());
        for (number, uplink) in self.uplinks.iter().enumerate() {
            let used = self.policies.uses(number as u16);
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
        for index in 0..self.vnics.len() {
            entries.extend(self.vnic_entry(index, now));
        }
        let mut snapshot = Snapshot::new(entries, self.config.switch.mtu);
        if let Some(learned) = &self.learned {
            snapshot = snapshot.with_learned(learned.clone());
        }
        self.workers.publish(match &self.inbox {
            Some(inbox) => snapshot.with_inbox(inbox.clone()),
            None => snapshot,
        });
    }

    fn vnic_entry(&mut self, index: usize, now: Duration) -> Option<PortEntry> {
        let vnic = self.vnics.get(index)?;
        let (group, programmed) = (vnic.group, vnic.state.filter().mac);
        let policy = vnic.policy(&self.config);
        let chosen_mac = chosen_mac(&policy, programmed);
        let mac = chosen_mac.unwrap_or(policy.mac);
        let (placement, has_uplinks) = self.policies.place(group, index as u16, mac)?;
        self.announce(index, programmed.map(|_| mac), &placement, now);
        let vnic = self.vnics.get_mut(index)?;
        if let (Some(learned), None, Some(_)) = (&self.learned, programmed, vnic.seen_mac) {
            // Whoever was behind a card that has stopped is not there any more.
            learned.forget_port(vnic.id);
        }
        let uplink = placement.designated();
        if uplink != vnic.uplink && vnic.placed {
            let name = |n: Option<u16>| n.and_then(|n| self.uplinks.get(usize::from(n))).map_or("none", |u| &u.name);
            tracing::info!("port {} moves from uplink {} to {}", vnic.name, name(vnic.uplink), name(uplink));
        }
        (vnic.uplink, vnic.placed, vnic.seen_mac) = (uplink, true, programmed);
        Some(PortEntry {
            id: vnic.id,
            name: Arc::from(vnic.name.as_str()),
            role: Role::Vnic(VnicRole { policy, chosen_mac, placement, has_uplinks }),
            state: vnic.state.clone(),
            counters: vnic.counters.clone(),
            egress: vnic.egress.clone(),
            queues: vnic.queues.clone(),
        })
    }

    /// Has physical switches told where the address of a started card is now, when that changed.
    fn announce(&mut self, index: usize, mac: Option<Mac>, placement: &Placement, now: Duration) {
        let Some(vnic) = self.vnics.get_mut(index) else { return };
        let group = &self.config.portgroups[vnic.group];
        let wanted = mac.filter(|_| group.team.notify_switches).map(|mac| (mac, placement.send.announce_by(mac)));
        if wanted == vnic.announced {
            return;
        }
        let vlans: Vec<u16> = match &group.vlan {
            VlanMode::Est => vec![0],
            VlanMode::Vst(vid) => vec![*vid],
            VlanMode::Vgt(set) => set.iter().take(ANNOUNCED_VLANS).collect(),
        };
        let (mac, uplinks) = wanted.clone().map_or((None, Vec::new()), |(mac, uplinks)| (Some(mac), uplinks));
        self.policies.announce(index as u16, mac, &vlans, &uplinks, now);
        vnic.announced = wanted;
    }
}

/// The address the guest chose, when it may and it is another than the assigned one.
fn chosen_mac(policy: &Policy, programmed: Option<Mac>) -> Option<Mac> {
    programmed.filter(|mac| policy.security.mac_changes && *mac != policy.mac && !mac.is_group() && !mac.is_zero())
}
