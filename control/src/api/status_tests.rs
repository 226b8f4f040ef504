use super::*;
use crate::api::{BeaconHealth, UplinkRole};

/// A small switch whose sums hold.
pub(crate) fn sample() -> Status {
    serde_json::from_str(SAMPLE).unwrap()
}

pub(crate) const SAMPLE: &str = r#"{
 "switch": {"name": "vSwitch0", "mtu": 1500, "workers": [{"cpu": 1, "busy_percent": 3.14}],
            "uptime_seconds": 3725, "version": "0.1.0"},
 "ports": [
  {"name": "web1", "role": "vnic", "adapter": "vmxnet3", "portgroup": "Production", "vlan": 10, "mac": "00:50:56:00:00:01",
   "connected": true, "link": "up", "uplink": "vmnic0", "socket": "/run/vswitch/web1.sock", "messages": 210,
   "in": {"frames": 10, "bytes": 840, "forwarded": 10, "copies": 10, "dropped": 0},
   "out": {"frames": 9, "bytes": 760, "offered": 9, "segments": 2, "originated": 0, "dropped": 0}, "drops": {"no-match": 0}},
  {"name": "vmnic0", "role": "uplink", "connected": true, "link": "up", "device": "eth1", "driver": "af_xdp", "kernel_drops": 0,
   "rung": "copy, since eth1 has no zero-copy",
   "beacons": {"sent": 1240, "heard": 1238, "foreign": 7, "forged": 1, "replayed": 0, "bad": 2},
   "in": {"frames": 1234576, "bytes": 104932071, "forwarded": 9, "copies": 9, "dropped": 1234567},
   "out": {"frames": 11, "bytes": 940, "offered": 12, "segments": 0, "originated": 0, "dropped": 1}, "drops": {"no-match": 1234567, "ring-full": 1}},
  {"name": "vmnic1", "role": "uplink", "connected": true, "link": "up", "device": "eth2", "driver": "af_packet", "kernel_drops": 3,
   "in": {"frames": 0, "bytes": 0, "forwarded": 0, "copies": 0, "dropped": 0},
   "out": {"frames": 5, "bytes": 300, "offered": 5, "segments": 0, "originated": 5, "dropped": 0}, "drops": {"no-match": 0}},
  {"name": "old1", "role": "vnic", "adapter": "vlance", "portgroup": "Trunk", "vlan": "10,20-29", "mac": "00:50:56:00:00:02",
   "connected": false, "link": "down", "socket": "/run/vswitch/old1.sock", "messages": 0,
   "in": {"frames": 0, "bytes": 0, "forwarded": 0, "copies": 0, "dropped": 0},
   "out": {"frames": 0, "bytes": 0, "offered": 0, "segments": 0, "originated": 0, "dropped": 0}, "drops": {"no-match": 0}}],
 "portgroups": [
  {"name": "Production", "vlan": 10, "ports": 1, "active": ["vmnic0", "vmnic1"], "standby": [],
   "promiscuous": false, "mac_changes": false, "forged_transmits": false,
   "load_balancing": "port-id", "failure_detection": "beacon", "shotgun": false, "filtered": false,
   "uplinks": [{"name": "vmnic0", "link": "up", "beacon": "ok", "state": "active", "why": "in the order"},
               {"name": "vmnic1", "link": "up", "beacon": "failed", "state": "failed", "why": "beacons are not heard"}]},
  {"name": "Trunk", "vlan": "10,20-29", "ports": 1, "active": ["vmnic0"], "standby": [],
   "promiscuous": true, "mac_changes": false, "forged_transmits": true,
   "load_balancing": "explicit", "failure_detection": "link", "shotgun": false, "filtered": false,
   "uplinks": [{"name": "vmnic0", "link": "up", "beacon": "off", "state": "active", "why": "in the order"},
               {"name": "vmnic1", "link": "up", "beacon": "off", "state": "unused", "why": "in neither list"}]}],
 "team": {"load_balancing": "port-id", "failure_detection": "beacon", "shotgun": false, "filtered": false,
          "uplinks": [{"name": "vmnic0", "link": "up", "beacon": "ok", "state": "active", "why": "in the order"},
                      {"name": "vmnic1", "link": "up", "beacon": "failed", "state": "failed", "why": "beacons are not heard"}],
          "hears": [{"from": "vmnic0", "to": "vmnic1", "age_ms": 412, "hears": [0, 10], "silent": [20, 21, 22, 29]},
                    {"from": "vmnic1", "to": "vmnic0", "age_ms": null, "hears": [], "silent": [0, 10, 20, 21, 22, 29]}]},
 "events": [{"at_seconds": 3720.25, "id": "team.beacon.failed", "text": "uplink vmnic1 is cut off: its beacons fail"},
            {"at_seconds": 3720.251, "id": "team.failover", "text": "uplink vmnic1 is out of use (beacons fail); 1 moved"}]}"#;

/// The names are a contract: writing gives back exactly what was read.
#[test]
fn the_document_keeps_its_names() {
    let value: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
    assert_eq!(serde_json::to_value(sample()).unwrap(), value);
}

/// The example of the design, with none of the fields added since.
#[test]
fn the_shortest_document_is_read() {
    let text = r#"{"switch": {"name": "vSwitch0", "mtu": 1500, "workers": [{"cpu": 1, "busy_percent": 3.1}]},
 "ports": [{"name": "web1", "role": "vnic", "adapter": "vmxnet3", "portgroup": "Production", "vlan": 10, "mac": "00:50:56:00:00:01",
            "connected": true, "link": "up", "uplink": "vmnic1",
            "in": {"frames": 10, "bytes": 840}, "out": {"frames": 9, "bytes": 760}, "drops": {"no-match": 0}}],
 "team": {"load_balancing": "port-id", "failure_detection": "beacon", "shotgun": false,
          "uplinks": [{"name": "vmnic0", "link": "up", "beacon": "ok", "state": "active"}]}}"#;
    let status: Status = serde_json::from_str(text).unwrap();
    assert_eq!(status.ports[0].input.frames, 10);
    assert_eq!(status.ports[0].vlan, Some(VlanStatus::Number(10)));
    assert_eq!(status.team.uplinks[0].beacon, BeaconHealth::Ok);
    assert!(status.team.hears.is_empty() && status.events.is_empty() && !status.team.filtered);
}

/// What `qemu-args` asks a running switch for.
#[test]
fn a_virtio_port_tells_its_queues_and_who_listens() {
    let text = r#"{"name": "v1", "role": "vnic", "adapter": "virtio", "connected": false, "link": "down", "queues": 4,
                   "vhost_mode": "client", "in": {"frames": 0, "bytes": 0}, "out": {"frames": 0, "bytes": 0}, "drops": {}}"#;
    let port: PortStatus = serde_json::from_str(text).unwrap();
    assert_eq!((port.queues, port.vhost_mode.as_deref()), (Some(4), Some("client")));
    let value = serde_json::to_value(&port).unwrap();
    assert_eq!((&value["queues"], &value["vhost_mode"]), (&4.into(), &"client".into()));
    assert!(serde_json::to_value(&sample().ports[0]).unwrap().get("queues").is_none(), "a vmxnet3 card has none");
}

#[test]
fn a_port_group_without_its_team_is_read() {
    let text = r#"{"name": "Production", "vlan": 10, "ports": 1, "active": [], "standby": [],
                   "promiscuous": false, "mac_changes": false, "forged_transmits": false}"#;
    let group: PortGroupStatus = serde_json::from_str(text).unwrap();
    assert!(group.load_balancing.is_empty() && group.uplinks.is_empty() && !group.shotgun);
}

#[test]
fn the_view_of_a_team() {
    use teaming::{Beacon, UplinkState, Why};
    let second = Duration::from_secs(1);
    let status =
        |why| teaming::Status { state: UplinkState::Failed, why, link: true, beacon: Beacon::Failed, places: 0 };
    let of = |why, beacons, held| UplinkStatus::of("u0", &status(why), beacons, held, second);
    let failed = of(Why::BeaconFailed, true, false);
    let words = (failed.link, failed.beacon, failed.state, failed.why.as_str());
    assert_eq!(words, (LinkStatus::Up, BeaconHealth::Failed, UplinkRole::Failed, "beacons are not heard"));
    assert_eq!(of(Why::UpDelay(second * 3 / 2), true, false).why, "up-delay, 500 ms left");
    let held = of(Why::NoLink, false, true);
    assert_eq!((held.beacon, held.why.as_str()), (BeaconHealth::Off, "link flaps, held down"));
}

#[test]
fn counters_become_fields() {
    let mut totals = PortTotals { in_frames: 5, in_forwarded: 3, in_copies: 4, ..PortTotals::default() };
    totals.in_drops[DropReason::Runt as usize] = 2;
    totals.out_drops[DropReason::RingFull as usize] = 7;
    (totals.out_offered, totals.out_originated) = (7, 4);
    let port = PortStatus::new("web1", Role::Vnic, &totals);
    assert_eq!(port.input, In { frames: 5, bytes: 0, forwarded: 3, copies: 4, dropped: 2 });
    assert_eq!(port.output, Out { frames: 0, bytes: 0, offered: 7, segments: 0, originated: 4, dropped: 7 });
    let drops: Vec<_> = port.drops.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(drops, [("no-match", 0), ("ring-full", 7), ("runt", 2)]);
}

#[test]
fn vlans_of_each_mode() {
    assert_eq!(VlanStatus::from(&VlanMode::Est), VlanStatus::Number(0));
    assert_eq!(VlanStatus::from(&VlanMode::Vst(7)), VlanStatus::Number(7));
    let all = VlanMode::Vgt(portgroups::VlanSet::all());
    assert_eq!(VlanStatus::from(&all), VlanStatus::Ranges("0-4094".to_owned()));
}
