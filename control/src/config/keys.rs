//! The keys of each section, each with an example of how it is written.

/// A key and a line that shows its type.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

pub(super) const FILE: &[Key] = &[
    key("switch", "[switch]"),
    key("uplink", "[[uplink]]"),
    key("team", "[team]"),
    key("beacon", "[beacon]"),
    key("security", "[security]"),
    key("portgroup", "[[portgroup]]"),
    key("vnic", "[[vnic]]"),
];

pub(super) const SWITCH: &[Key] = &[
    key("name", "name = \"vSwitch0\""),
    key("mtu", "mtu = 1500"),
    key("socket_dir", "socket_dir = \"/run/vswitch\""),
    key("workers", "workers = [1]"),
    key("idle", "idle = \"adaptive\""),
];

pub(super) const UPLINK: &[Key] =
    &[key("name", "name = \"vmnic0\""), key("device", "device = \"eth1\""), key("driver", "driver = \"auto\"")];

/// Counts for the whole switch: the one key of `[team]` that `[portgroup.team]` refuses.
pub(super) const FLAP_LIMIT: &str = "flap_limit";

pub(super) const TEAM: &[Key] = &[
    key("load_balancing", "load_balancing = \"port-id\""),
    key("failure_detection", "failure_detection = \"beacon\""),
    key("active", "active = [\"vmnic0\"]"),
    key("standby", "standby = [\"vmnic1\"]"),
    key("failback", "failback = true"),
    key("notify_switches", "notify_switches = true"),
    key("up_delay_ms", "up_delay_ms = 100"),
    key("load_percent", "load_percent = 75"),
    key("load_interval_s", "load_interval_s = 30"),
    key(FLAP_LIMIT, "flap_limit = 60"),
];

pub(super) const BEACON: &[Key] = &[
    key("interval_ms", "interval_ms = 1000"),
    key("threshold", "threshold = 3"),
    key("ethertype", "ethertype = 0x88B5"),
    key("shotgun", "shotgun = true"),
];

/// The default in `[security]` for what each `[[portgroup]]` says itself.
pub(super) const MAC_LEARNING: &str = "mac_learning";

pub(super) const SECURITY: &[Key] = &[
    key("promiscuous", "promiscuous = false"),
    key("mac_changes", "mac_changes = false"),
    key("forged_transmits", "forged_transmits = false"),
    key(MAC_LEARNING, "mac_learning = false"),
];

pub(super) const PORTGROUP: &[Key] = &[
    key("name", "name = \"Production\""),
    key("vlan", "vlan = 10"),
    key(MAC_LEARNING, "mac_learning = true"),
    key("team", "[portgroup.team]"),
    key("security", "[portgroup.security]"),
];

pub(super) const VNIC: &[Key] = &[
    key("name", "name = \"web1\""),
    key("portgroup", "portgroup = \"Production\""),
    key("adapter", "adapter = \"vmxnet3\""),
    key("mac", "mac = \"00:50:56:00:00:01\""),
    key("device", "device = \"veth7\""),
    key("driver", "driver = \"auto\""),
    key("queues", "queues = 1"),
    key("vhost_mode", "vhost_mode = \"server\""),
];
