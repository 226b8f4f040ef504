//! The switch as a document, for `vswitch show`.

use serde_json::json;

use super::Runtime;
use super::ports::{UplinkPort, VnicPort};
use crate::api::{
    BeaconHealth, LinkStatus, METHOD_PING, METHOD_SHOW, PortGroupStatus, PortStatus, Request, Response, Role, Status,
    SwitchStatus, TeamStatus, UplinkStatus, VlanStatus, WorkerStatus,
};

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
        let uplinks = self.uplinks.iter().map(uplink_status);
        let vnics = self.vnics.iter().map(|v| self.vnic_status(v));
        Status {
            switch: self.switch_status(),
            ports: vnics.chain(uplinks).collect(),
            portgroups: self
                .config
                .portgroups
                .iter()
                .enumerate()
                .map(|(i, g)| PortGroupStatus::of(g, self.vnics.iter().filter(|v| v.group == i).count()))
                .collect(),
            team: self.team_status(),
        }
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
            socket: Some(vnic.server.path().display().to_string()),
            messages: Some(vnic.server.messages().total()),
            ..PortStatus::new(&vnic.name, Role::Vnic, &vnic.counters.totals())
        }
    }

    fn team_status(&self) -> TeamStatus {
        let team = &self.config.team;
        let uplinks = self.uplinks.iter().enumerate().map(|(number, uplink)| UplinkStatus {
            name: uplink.name.clone(),
            link: LinkStatus::of(uplink.state.connected() && uplink.state.link_up()),
            beacon: BeaconHealth::Off,
            state: self.default_team.state(number as u16).into(),
        });
        TeamStatus {
            load_balancing: team.load_balancing.name().to_owned(),
            failure_detection: team.failure_detection.name().to_owned(),
            shotgun: false,
            uplinks: uplinks.collect(),
        }
    }
}

fn uplink_status(uplink: &UplinkPort) -> PortStatus {
    PortStatus {
        connected: uplink.state.connected(),
        link: LinkStatus::of(uplink.state.connected() && uplink.state.link_up()),
        device: Some(uplink.control.device().to_owned()),
        driver: Some(uplink.control.driver().to_owned()),
        kernel_drops: Some(uplink.control.stats().rx_kernel_drops),
        ..PortStatus::new(&uplink.name, Role::Uplink, &uplink.counters.totals())
    }
}
