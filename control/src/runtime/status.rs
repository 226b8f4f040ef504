//! The switch as a document, for `vswitch show`.

use std::time::Duration;

use serde_json::json;
use teaming::Team;

use super::Runtime;
use super::ports::{UplinkPort, VnicPort};
use crate::api::{
    BeaconCounts, EventStatus, HearsStatus, LinkStatus, METHOD_PING, METHOD_SHOW, PortGroupStatus, PortStatus, Request,
    Response, Role, Status, SwitchStatus, TeamStatus, UplinkStatus, VlanStatus, WorkerStatus,
};
use crate::config::Adapter;

impl Runtime {
    /// Answers one request of the control socket.
    pub(super) fn answer(&self, request: &Request) -> Response {
        match request.method.as_str() {
            METHOD_PING => Response::result(request.id, json!({})),
            METHOD_SHOW => match serde_json::to_value(self.status()) {
                Ok(value) => Response::result(request.id, value),
                Err(error) => Response::error(request.id, format!("the status cannot be written as JSON: {error}")),
            },
            _ => Response::unknown_method(request),
        }
    }

    fn status(&self) -> Status {
        let now = self.now();
        let uplinks = self.uplinks.iter().enumerate().map(|(number, u)| self.uplink_port(number as u16, u));
        let vnics = self.vnics.iter().map(|v| self.vnic_status(v));
        Status {
            switch: self.switch_status(),
            ports: vnics.chain(uplinks).collect(),
            portgroups: (0..self.config.portgroups.len()).map(|group| self.group_status(group, now)).collect(),
            team: self.team_status(now),
            events: self.policies.log().iter().map(|e| EventStatus::new(e.at, e.id, e.text.clone())).collect(),
        }
    }

    fn group_status(&self, group: usize, now: Duration) -> PortGroupStatus {
        let ports = self.vnics.iter().filter(|v| v.group == group).count();
        let status = PortGroupStatus::of(&self.config.portgroups[group], ports);
        let Some(team) = self.policies.team(group) else { return status };
        let filtered = self.policies.filtered(Some(group));
        PortGroupStatus { shotgun: team.shotgun(), filtered, uplinks: self.team_uplinks(team, now), ..status }
    }

    fn switch_status(&self) -> SwitchStatus {
        let cpus = self.config.switch.workers.iter().zip(&self.sample.percent);
        SwitchStatus {
            name: self.config.switch.name.clone(),
            mtu: self.config.switch.mtu,
            workers: cpus
                .map(|(cpu, busy)| WorkerStatus { cpu: *cpu, busy_percent: (busy * 10.0).round() / 10.0 })
                .collect(),
            uptime_seconds: self.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn vnic_status(&self, vnic: &VnicPort) -> PortStatus {
        let configured = &self.config.vnics[vnic.config];
        let group = &self.config.portgroups[vnic.group];
        let uplink = vnic.uplink.and_then(|n| self.uplinks.get(usize::from(n)));
        PortStatus {
            adapter: Some(configured.adapter.name().to_owned()),
            portgroup: Some(group.name.value.clone()),
            vlan: Some(VlanStatus::from(&group.vlan)),
            mac: Some(configured.mac.value.to_string()),
            connected: vnic.state.connected(),
            link: LinkStatus::of(vnic.state.link_up()),
            uplink: uplink.map(|u| u.name.clone()),
            socket: vnic.attachment.socket(),
            queues: matches!(configured.adapter, Adapter::Virtio | Adapter::Tap).then_some(configured.queues as u16),
            vhost_mode: configured.vhost_mode().map(str::to_owned),
            messages: vnic.attachment.messages(),
            ..PortStatus::new(&vnic.name, Role::Vnic, &vnic.counters.totals())
        }
    }

    fn team_status(&self, now: Duration) -> TeamStatus {
        let team = self.policies.default_team();
        let name = |n: u16| self.uplinks.get(usize::from(n)).map_or_else(|| n.to_string(), |u| u.name.clone());
        let hears = self.policies.prober().map_or_else(Vec::new, |p| p.matrix(now));
        TeamStatus {
            shotgun: team.shotgun(),
            filtered: self.policies.filtered(None),
            uplinks: self.team_uplinks(team, now),
            hears: hears
                .into_iter()
                .map(|h| HearsStatus {
                    from: name(h.from),
                    to: name(h.to),
                    age_ms: h.age.map(|a| a.as_millis() as u64),
                    hears: h.hears,
                    silent: h.silent,
                })
                .collect(),
            ..TeamStatus::of(&self.config.team)
        }
    }

    fn team_uplinks(&self, team: &Team, now: Duration) -> Vec<UplinkStatus> {
        let beacons = team.settings().beacons && self.policies.prober().is_some();
        let one = |(number, uplink): (usize, &UplinkPort)| {
            let number = number as u16;
            let held = self.policies.is_held(number);
            let status = team.status(number);
            let link = LinkStatus::of(uplink.state.connected() && uplink.state.link_up());
            UplinkStatus { link, ..UplinkStatus::of(&uplink.name, &status, beacons, held, now) }
        };
        self.uplinks.iter().enumerate().map(one).collect()
    }

    fn uplink_port(&self, number: u16, uplink: &UplinkPort) -> PortStatus {
        let beacons = self.policies.prober().and_then(|p| p.counters(number));
        PortStatus {
            connected: uplink.state.connected(),
            link: LinkStatus::of(uplink.state.connected() && uplink.state.link_up()),
            device: Some(uplink.control.device().to_owned()),
            driver: Some(uplink.control.driver().to_owned()),
            rung: Some(uplink.control.rung().to_owned()).filter(|r| !r.is_empty()),
            kernel_drops: Some(uplink.control.stats().rx_kernel_drops),
            beacons: beacons.map(|c| BeaconCounts {
                sent: c.sent,
                heard: c.counted,
                foreign: c.foreign,
                forged: c.forged,
                replayed: c.replayed,
                bad: c.bad + c.reflected + c.unprobed,
            }),
            ..PortStatus::new(&uplink.name, Role::Uplink, &uplink.counters.totals())
        }
    }
}
