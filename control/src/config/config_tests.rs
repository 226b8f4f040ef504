use ::portgroups::VlanSet;

use super::*;

fn host() -> Host {
    Host { online: vec![0, 1, 2, 3], default_worker: 3 }
}

fn parse_text(text: &str) -> Result<Config, Problems> {
    parse("net.toml", text, &host())
}

/// The file of the design, with what this version carries out.
const FULL: &str = r#"[switch]
name = "vSwitch0"
mtu = 9000
socket_dir = "/run/vswitch"
workers = [1, 0]
idle = "spin"

[[uplink]]
name = "vmnic0"
device = "eth1"
driver = "auto"

[[uplink]]
name = "vmnic1"
device = "eth2"
driver = "af_packet"

[[uplink]]
name = "vmnic2"
device = "eth3"

[team]
load_balancing = "port-id"
failure_detection = "link"
active = ["vmnic0", "vmnic1", "vmnic2"]
standby = []
failback = false
notify_switches = true

[beacon]
interval_ms = 500
threshold = 5
ethertype = 0x88B6

[security]
promiscuous = false
mac_changes = true
forged_transmits = false

[[portgroup]]
name = "VM Network"

[[portgroup]]
name = "Production"
vlan = 10
[portgroup.team]
active = ["vmnic1"]
standby = ["vmnic0"]
[portgroup.security]
promiscuous = true

[[portgroup]]
name = "Trunk"
vlan = "10,20-29"

[[portgroup]]
name = "All"
vlan = 4095

[[vnic]]
name = "web1"
portgroup = "Production"
adapter = "vmxnet3"
mac = "00:50:56:00:00:01"

[[vnic]]
name = "old1"
portgroup = "Trunk"
adapter = "vlance"
mac = "00:50:56:00:00:02"
"#;

/// The shortest file that works.
const SHORT: &str = r#"[[portgroup]]
name = "Production"
[[vnic]]
name = "web1"
portgroup = "Production"
adapter = "vmxnet3"
mac = "00:50:56:00:00:01"
"#;

#[test]
fn the_whole_file() {
    let config = parse_text(FULL).unwrap();
    assert_eq!(config.switch.mtu, 9000);
    assert_eq!(config.switch.workers, [1, 0]);
    assert_eq!(config.switch.idle, Idle::Spin);
    assert_eq!(config.uplinks[1].driver, Driver::AfPacket);
    assert_eq!(config.uplinks[2].device.at, At { line: 20, column: 10 });
    assert_eq!(config.uplink_index("vmnic2"), Some(2));
    assert_eq!(config.beacon, Beacon { interval_ms: 500, threshold: 5, ethertype: 0x88b6, shotgun: true });
    assert_eq!(config.beacon.interval(), Duration::from_millis(500));
    assert_eq!(config.security, Security { mac_changes: true, ..Security::default() });
    let vlans: Vec<_> = config.portgroups.iter().map(|g| g.vlan.clone()).collect();
    let ranges = VlanMode::Vgt("10,20-29".parse().unwrap());
    assert_eq!(vlans, [VlanMode::Est, VlanMode::Vst(10), ranges, VlanMode::Vgt(VlanSet::all())]);

    let [inherits, overrides] = [&config.portgroups[0], &config.portgroups[1]];
    assert_eq!(inherits.team, config.team);
    assert_eq!(inherits.security, config.security);
    assert_eq!(
        (&overrides.team.active[..], &overrides.team.standby[..]),
        (&["vmnic1".to_owned()][..], &["vmnic0".to_owned()][..])
    );
    assert!(!overrides.team.failback, "what a port group leaves out it inherits");
    assert_eq!(overrides.security, Security { promiscuous: true, mac_changes: true, ..Security::default() });

    assert_eq!(config.vnics[1].adapter, Adapter::Vlance);
    assert_eq!(config.vnics[1].mac.value, Mac([0, 0x50, 0x56, 0, 0, 2]));
    assert_eq!(config.vnic_socket("old1"), Path::new("/run/vswitch/old1.sock"));
    assert_eq!(config.control_socket(), Path::new("/run/vswitch/control.sock"));
    assert_eq!(config.portgroup_index(&config.vnics[1].portgroup), Some(2));
}

#[test]
fn the_defaults() {
    let config = parse_text(SHORT).unwrap();
    assert_eq!(
        config.switch,
        Switch {
            name: "vSwitch0".to_owned(),
            mtu: 1500,
            socket_dir: Located { value: "/run/vswitch".into(), at: At::default() },
            workers: vec![3],
            idle: Idle::Adaptive,
        }
    );
    assert_eq!(config.beacon, Beacon { interval_ms: 1000, threshold: 3, ethertype: 0x88b5, shotgun: true });
    assert_eq!(config.security, Security::default());
    assert!(config.team.failback && config.team.notify_switches);
    assert_eq!(config.team.failure_detection, FailureDetection::Beacon);
    assert_eq!(config.team, TeamPolicy::of(Vec::new()));
    assert_eq!((config.team.up_delay, config.flap_limit), (Duration::from_millis(100), 60));
    assert_eq!((config.team.load_percent, config.team.load_interval), (75, Duration::from_secs(30)));
}

/// What moved to another line is no change.
#[test]
fn places_do_not_count_in_comparison() {
    assert_eq!(parse_text(FULL), parse_text(&format!("# a comment\n{FULL}")));
    assert_ne!(parse_text(FULL), parse_text(&FULL.replace("9000", "8000")));
}

/// Which uplinks are active and standby after defaults and overrides.
#[test]
fn failover_orders() {
    let uplinks: String = (0..3).map(|i| format!("[[uplink]]\nname = \"u{i}\"\ndevice = \"eth{i}\"\n")).collect();
    for (team, group, active, standby) in [
        ("", "", "u0 u1 u2", ""),
        ("standby = [\"u1\"]", "", "u0 u2", "u1"),
        ("active = [\"u2\", \"u0\"]", "", "u2 u0", ""),
        ("active = [\"u0\"]\nstandby = [\"u1\"]", "active = [\"u1\"]", "u1", ""),
        ("active = [\"u0\"]\nstandby = [\"u1\", \"u2\"]", "active = [\"u1\"]", "u1", "u2"),
        ("active = [\"u0\", \"u1\"]", "standby = [\"u0\"]", "u1", "u0"),
        ("", "active = []", "", ""),
    ] {
        let short = SHORT.replacen("[[vnic]]", &format!("[portgroup.team]\n{group}\n[[vnic]]"), 1);
        let config = parse_text(&format!("{uplinks}[team]\n{team}\n{short}")).unwrap();
        let got = &config.portgroups[0].team;
        assert_eq!((got.active.join(" "), got.standby.join(" ")), (active.into(), standby.into()), "{team} / {group}");
    }
}

/// What the default of `failure_detection` comes to: it depends on the policy of each port group, and
/// goes down as far as nobody writes the key.
#[test]
fn failure_detection_where_it_is_not_written() {
    use FailureDetection::{Beacon, Link};
    for (team, group, whole, own) in [
        ("", "", Beacon, Beacon),
        ("load_balancing = \"mac-hash\"", "", Beacon, Beacon),
        ("load_balancing = \"ip-hash\"", "", Link, Link),
        ("load_balancing = \"ip-hash\"", "failback = false", Link, Link),
        ("load_balancing = \"ip-hash\"", "load_balancing = \"load\"", Link, Beacon),
        ("", "load_balancing = \"ip-hash\"", Beacon, Link),
        ("failure_detection = \"link\"", "load_balancing = \"explicit\"", Link, Link),
        ("failure_detection = \"link\"", "failure_detection = \"beacon\"", Link, Beacon),
        ("failure_detection = \"beacon\"", "load_balancing = \"ip-hash\"\nfailure_detection = \"link\"", Beacon, Link),
    ] {
        let config = parse_text(&with_teams(team, group)).unwrap();
        let got = (config.team.failure_detection, config.portgroups[0].team.failure_detection);
        assert_eq!(got, (whole, own), "{team} / {group}");
    }
}

/// Two uplinks and one port group, with these lines in `[team]` and `[portgroup.team]` (lines 8 and 12).
fn with_teams(team: &str, group: &str) -> String {
    let uplinks: String = (0..2).map(|i| format!("[[uplink]]\nname = \"u{i}\"\ndevice = \"eth{i}\"\n")).collect();
    let short = SHORT.replacen("[[vnic]]", &format!("[portgroup.team]\n{group}\n[[vnic]]"), 1);
    format!("{uplinks}[team]\n{team}\n{short}")
}

/// Each conflict is told once, at the key that brings it about.
#[test]
fn teams_that_cannot_work() {
    let lag = "because the physical switch has all uplinks in one link aggregation group and sends by any";
    let mute = "because a link aggregation group returns no beacons to the uplinks that sent them; \
                set failure_detection = \"link\" or choose another load_balancing";
    let group = "[portgroup.team] of port group \"Production\"";
    let standby = |place: &str, what: &str| {
        format!(
            "{place}: standby of {what} goes with no load_balancing = \"ip-hash\", {lag}; move u1 to active, \
             set standby = [], or choose another load_balancing"
        )
    };
    let ip_hash = "load_balancing = \"ip-hash\"";
    for (team, own, want) in [
        (format!("standby = [\"u1\"]\n{ip_hash}"), "", standby("8:11", "[team]")),
        ("standby = [\"u1\"]".into(), ip_hash, standby("12:18", group)),
        (ip_hash.into(), "standby = [\"u1\"]", standby("12:11", group)),
        (
            format!("failure_detection = \"beacon\"\n{ip_hash}"),
            "failback = false",
            format!("8:21: failure_detection = \"beacon\" in [team] goes with no {ip_hash}, {mute}"),
        ),
        (
            "failure_detection = \"beacon\"".into(),
            ip_hash,
            format!("12:18: failure_detection = \"beacon\" of line 8 in {group} goes with no {ip_hash}, {mute}"),
        ),
        (
            ip_hash.into(),
            "failure_detection = \"beacon\"",
            format!("12:21: failure_detection = \"beacon\" in {group} goes with no {ip_hash}, {mute}"),
        ),
        (
            "standby = [\"u0\", \"u1\"]".into(),
            "failback = true",
            "8:11: [team] has standby uplinks but no active one; move u0, u1 to active".into(),
        ),
        (
            "active = [\"u0\"]\nstandby = [\"u1\"]".into(),
            "active = []",
            format!("13:10: {group} has standby uplinks but no active one; move u1 to active"),
        ),
    ] {
        assert_eq!(problems(&with_teams(&team, own)), format!("net.toml:{want}"));
    }
}

/// What the file is allowed to say, a team carries out.
#[test]
fn settings_of_a_team() {
    let team = "load_balancing = \"load\"\nactive = [\"u1\"]\nstandby = [\"u0\"]\nfailback = false\n\
                up_delay_ms = 0\nload_percent = 100\nload_interval_s = 1\nflap_limit = 0";
    let config = parse_text(&with_teams(team, "load_balancing = \"explicit\"\nup_delay_ms = 600000")).unwrap();
    assert_eq!(config.flap_limit, 0);
    let settings = config.team.settings(&config);
    let order = teaming::Order { active: vec![1], standby: vec![0], failback: false };
    assert_eq!(
        settings,
        teaming::Settings {
            order,
            balancing: teaming::Balancing::Load,
            beacons: true,
            up_delay: Duration::ZERO,
            load: teaming::LoadRule { percent: 100, interval: Duration::from_secs(1) },
        }
    );
    let own = config.portgroups[0].team.settings(&config);
    assert_eq!((own.balancing, own.up_delay), (teaming::Balancing::Explicit, teaming::UP_DELAY_MAX));
    assert_eq!(own.load, settings.load, "what a port group leaves out it inherits");
    for balancing in ["port-id", "mac-hash", "ip-hash", "load", "explicit"] {
        let config = parse_text(&with_teams(&format!("load_balancing = \"{balancing}\""), "failback = false")).unwrap();
        for policy in [&config.team, &config.portgroups[0].team] {
            let settings = policy.settings(&config);
            assert_eq!(settings.balancing.name(), balancing);
            assert_eq!(settings.validate(|u| u.to_string()), Vec::<String>::new(), "{balancing}");
        }
    }
}

fn problems(text: &str) -> String {
    parse_text(text).expect_err(text).to_string()
}

/// `FULL` with one piece replaced.
fn full_with(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    FULL.replacen(from, to, 1)
}

#[test]
fn problems_of_the_switch() {
    let cases = [
        ("mtu = 9000", "mut = 9000", "3:1: unknown key \"mut\" in [switch]; did you mean \"mtu\"?"),
        (
            "mtu = 9000",
            "vlan = 9000",
            "3:1: unknown key \"vlan\" in [switch]; known here: name, mtu, socket_dir, workers, idle",
        ),
        (
            "mtu = 9000",
            "mtu = \"big\"",
            "3:7: mtu in [switch] is a string, but must be a whole number; write it as in mtu = 1500",
        ),
        (
            "mtu = 9000",
            "mtu = 1500.0",
            "3:7: mtu in [switch] is a number with a fraction, but must be a whole number; write it as in mtu = 1500",
        ),
        (
            "mtu = 9000",
            "mtu = 1279",
            "3:7: mtu 1279 in [switch] is outside 1280 to 9190; 1500 is usual, 9000 for jumbo frames",
        ),
        (
            "mtu = 9000",
            "mtu = -1",
            "3:7: mtu -1 in [switch] is outside 1280 to 9190; 1500 is usual, 9000 for jumbo frames",
        ),
        ("workers = [1, 0]", "workers = [7]", "5:12: worker CPU 7 is not online; the CPUs online are 0-3"),
        ("workers = [1, 0]", "workers = [-1]", "5:12: worker CPU -1 is not online; the CPUs online are 0-3"),
        (
            "workers = [1, 0]",
            "workers = [1, 1]",
            "5:15: worker CPU 1 is named twice; a CPU runs one worker, so keep one",
        ),
        (
            "workers = [1, 0]",
            "workers = []",
            "5:11: workers in [switch] names no CPU; name at least one, or leave the key out for the last CPU",
        ),
        (
            "workers = [1, 0]",
            "workers = 1",
            "5:11: workers in [switch] is a whole number, but must be a list of whole numbers; write it as in workers = [1]",
        ),
        (
            "workers = [1, 0]",
            "workers = [1, \"2\"]",
            "5:15: workers in [switch] holds a string, but must hold whole numbers only; write it as in workers = [1]",
        ),
        ("\"spin\"", "\"spinn\"", "6:8: idle \"spinn\" in [switch] is unknown; did you mean \"spin\"?"),
        ("\"spin\"", "\"nap\"", "6:8: idle \"nap\" in [switch] is unknown; known: adaptive, spin"),
        (
            "\"/run/vswitch\"",
            "\"run\"",
            "4:14: socket_dir \"run\" is not an absolute path; write one as in /run/vswitch",
        ),
        ("\"vSwitch0\"", "\"\"", "2:8: the name of the switch is empty; give it one"),
        ("\"vSwitch0\"", "\"a\\nb\"", "2:8: the name of the switch holds the control character '\\n'; take it out"),
        ("[switch]", "[swich]", "1:2: unknown key \"swich\" in the file; did you mean \"switch\"?"),
        (
            "interval_ms = 500",
            "interval_ms = 0",
            "31:15: interval_ms 0 in [beacon] is outside 10 to 60000; 1000 is usual",
        ),
        ("threshold = 5", "threshold = 0", "32:13: threshold 0 in [beacon] is outside 1 to 100; 3 is usual"),
        (
            "0x88B6",
            "0x0800",
            "33:13: ethertype 0x0800 in [beacon] is that of IPv4; 0x88B5 and 0x88B6 are free for local use",
        ),
        (
            "0x88B6",
            "0x5FF",
            "33:13: ethertype 0x05FF in [beacon] is below 0x0600, where lengths are; 0x88B5 and 0x88B6 are free for local use",
        ),
        (
            "0x88B6",
            "65536",
            "33:13: ethertype 65536 in [beacon] is outside 0x0600 to 0xFFFF; 0x88B5 and 0x88B6 are free for local use",
        ),
    ];
    for (from, to, want) in cases {
        assert_eq!(problems(&full_with(from, to)), format!("net.toml:{want}"));
    }
}

#[test]
fn problems_of_uplinks_and_teams() {
    let cases = [
        (
            "name = \"vmnic1\"",
            "name = \"vmnic0\"",
            "14:8: uplink \"vmnic0\" is already on line 9; give each uplink a name of its own\n\
             net.toml:25:21: uplink \"vmnic1\" in active of [team] does not exist; did you mean \"vmnic0\"?\n\
             net.toml:47:11: uplink \"vmnic1\" in active of [portgroup.team] of port group \"Production\" does not exist; \
             did you mean \"vmnic0\"?",
        ),
        (
            "\"eth2\"",
            "\"eth1\"",
            "15:10: device \"eth1\" of uplink \"vmnic1\" is already that of uplink \"vmnic0\" on line 10; give each its own",
        ),
        (
            "\"eth2\"",
            "\"an-interface-with-a-long-name\"",
            "15:10: device \"an-interface-with-a-long-name\" of uplink \"vmnic1\" is longer than the 15 bytes Linux allows; \
             `ip link` lists the interfaces",
        ),
        (
            "\"eth2\"",
            "\"../x\"",
            "15:10: device \"../x\" of uplink \"vmnic1\" is no name Linux gives an interface; `ip link` lists the interfaces",
        ),
        ("device = \"eth2\"", "", "13:1: uplink \"vmnic1\" has no device; add one as in device = \"eth1\""),
        (
            "\"af_packet\"",
            "\"afpacket\"",
            "16:10: driver \"afpacket\" in uplink \"vmnic1\" is unknown; did you mean \"af_packet\"?",
        ),
        (
            "\"vmnic2\"]",
            "\"eth3\"]",
            "25:31: uplink \"eth3\" in active of [team] does not exist; the uplinks are vmnic0, vmnic1, vmnic2",
        ),
        ("\"vmnic2\"]", "\"vmnic1\"]", "25:31: uplink \"vmnic1\" is twice in active of [team]; keep one"),
        (
            "standby = []",
            "standby = [\"vmnic1\"]",
            "26:12: uplink \"vmnic1\" in standby of [team] is in active too, on line 25; keep it in one of them",
        ),
        (
            "standby = [\"vmnic0\"]",
            "standby = [\"vmnic1\"]",
            "48:12: uplink \"vmnic1\" in standby of [portgroup.team] of port group \"Production\" is in active too, \
             on line 47; keep it in one of them",
        ),
        (
            "failback = false",
            "failback = 0",
            "27:12: failback in [team] is a whole number, but must be true or false; write it as in failback = true",
        ),
        (
            "failback = false",
            "up_delay_ms = 600001",
            "27:15: up_delay_ms 600001 in [team] is outside 0 to 600000; 100 is usual",
        ),
        (
            "failback = false",
            "load_percent = 101",
            "27:16: load_percent 101 in [team] is outside 1 to 100; 75 is usual",
        ),
        (
            "failback = false",
            "load_interval_s = 0",
            "27:19: load_interval_s 0 in [team] is outside 1 to 86400; 30 is usual",
        ),
        (
            "failback = false",
            "flap_limit = 10001",
            "27:14: flap_limit 10001 in [team] is outside 0 to 10000; 60 is usual, and 0 turns the guard off",
        ),
        (
            "[portgroup.team]\n",
            "[portgroup.team]\nflap_limit = 5\n",
            "47:14: flap_limit in [portgroup.team] of port group \"Production\" counts for the whole switch; \
             write it in [team]",
        ),
        (
            "threshold = 5",
            "shotgun = 1",
            "32:11: shotgun in [beacon] is a whole number, but must be true or false; write it as in shotgun = true",
        ),
        (
            "[portgroup.team]\nactive",
            "[portgroup.team]\nactiv",
            "47:1: unknown key \"activ\" in [portgroup.team] of port group \"Production\"; did you mean \"active\"?",
        ),
    ];
    for (from, to, want) in cases {
        assert_eq!(problems(&full_with(from, to)), format!("net.toml:{want}"));
    }
}

#[test]
fn problems_of_port_groups() {
    let cases = [
        (
            "vlan = 10",
            "vlan = 4096",
            "45:8: VLAN 4096 of port group \"Production\" is outside 0 to 4095; \
             use 0 for untagged, 1 to 4094, or 4095 for guest tagging",
        ),
        (
            "vlan = 10",
            "vlan = -1",
            "45:8: VLAN -1 of port group \"Production\" is outside 0 to 4095; \
             use 0 for untagged, 1 to 4094, or 4095 for guest tagging",
        ),
        (
            "vlan = 10",
            "vlan = true",
            "45:8: vlan in port group \"Production\" is true or false, but must be a whole number; write it as in vlan = 10",
        ),
        (
            "\"10,20-29\"",
            "\"29-20\"",
            "54:8: \"29-20\" in vlan of port group \"Trunk\" is not a VLAN or a range from low to high; \
             write the VLANs a guest may use as in \"10,20-29\"",
        ),
        (
            "\"10,20-29\"",
            "\"10,4095\"",
            "54:8: VLAN 4095 in vlan \"10,4095\" of port group \"Trunk\" is outside 0 to 4094; \
             write the VLANs a guest may use as in \"10,20-29\"",
        ),
        (
            "name = \"Trunk\"",
            "name = \"VM Network\"",
            "53:8: port group \"VM Network\" is already on line 41; a label is unique on its host, so choose another\n\
             net.toml:68:13: port group \"Trunk\" of vnic \"old1\" does not exist; \
             the port groups are VM Network, Production, VM Network, All",
        ),
        (
            "name = \"All\"",
            "name = \" All\"",
            "57:8: the name of port group \" All\" begins or ends with a space; take it off",
        ),
        ("name = \"All\"\n", "", "56:1: [[portgroup]] has no name; add one as in name = \"Production\""),
        (
            "vlan = 10",
            "mac_learning = \"yes\"",
            "45:16: mac_learning in port group \"Production\" is a string, but must be true or false; \
             write it as in mac_learning = true",
        ),
    ];
    for (from, to, want) in cases {
        assert_eq!(problems(&full_with(from, to)), format!("net.toml:{want}"));
    }
}

/// The default of `[security]`, and what a port group says over it; with forged transmits only.
#[test]
fn learning_of_addresses() {
    let with = |security: &str, group: &str, below: &str| {
        format!(
            "[security]\n{security}\n[[portgroup]]\nname = \"Nested\"\n{group}\n[portgroup.security]\n{below}\n\
             [[vnic]]\nname = \"esx1\"\nportgroup = \"Nested\"\nadapter = \"vmxnet3\"\nmac = \"00:50:56:00:00:01\"\n"
        )
    };
    let (learn, forge) = ("mac_learning = true", "forged_transmits = true");
    let learns = |security: &str, group: &str, below: &str| {
        let security = parse_text(&with(security, group, below)).unwrap().portgroups[0].security;
        assert!(security.forged_transmits || !security.learning);
        security.learning
    };
    assert!(!learns(forge, "", ""), "not by default");
    assert!(learns("", learn, forge));
    assert!(learns(forge, learn, ""));
    assert!(learns(&format!("{learn}\n{forge}"), "", ""), "a port group inherits it");
    assert!(learns(learn, "", forge));
    assert!(!learns(learn, "mac_learning = false", ""), "a port group without need not allow forged transmits");

    let nothing = "mac_learning in port group \"Nested\" is true, but its guests may send from no address but their own, \
                   so there is nothing to learn; add forged_transmits = true to its [portgroup.security]";
    assert_eq!(problems(&with("", learn, "")), format!("net.toml:5:16: {nothing}"));
    assert_eq!(problems(&with(forge, learn, "forged_transmits = false")), format!("net.toml:5:16: {nothing}"));
    let inherited = format!("{nothing}, or mac_learning = false to it");
    assert_eq!(problems(&with(learn, "", "")), format!("net.toml:3:1: {inherited}"));
    assert_eq!(
        problems(&with("", "", &format!("{forge}\n{learn}"))),
        "net.toml:8:16: mac_learning in [portgroup.security] of port group \"Nested\" is a key of the port group itself; \
         write it in [[portgroup]]"
    );
}

#[test]
fn problems_of_vnics() {
    let cases = [
        (
            "portgroup = \"Production\"",
            "portgroup = \"production\"",
            "62:13: port group \"production\" of vnic \"web1\" does not exist; did you mean \"Production\"?",
        ),
        (
            "portgroup = \"Production\"",
            "portgroup = \"DMZ\"",
            "62:13: port group \"DMZ\" of vnic \"web1\" does not exist; \
             the port groups are VM Network, Production, Trunk, All",
        ),
        (
            "portgroup = \"Production\"\n",
            "",
            "60:1: vnic \"web1\" has no portgroup; add one as in portgroup = \"Production\"",
        ),
        ("adapter = \"vmxnet3\"\n", "", "60:1: vnic \"web1\" has no adapter; add one as in adapter = \"vmxnet3\""),
        (
            "adapter = \"vmxnet3\"",
            "adapter = \"vmxnet\"",
            "63:11: adapter \"vmxnet\" in vnic \"web1\" is unknown; did you mean \"vmxnet3\"?",
        ),
        (
            "adapter = \"vmxnet3\"",
            "adapter = \"e1000\"",
            "63:11: adapter \"e1000\" in vnic \"web1\" is unknown; known: vmxnet3, vlance, virtio, tap, netdev",
        ),
        (
            "mac = \"00:50:56:00:00:01\"\n",
            "",
            "60:1: vnic \"web1\" has no mac; add one as in mac = \"00:50:56:00:00:01\"",
        ),
        (
            "00:50:56:00:00:01",
            "00-50-56-00-00-01",
            "64:7: MAC \"00-50-56-00-00-01\" of vnic \"web1\" is not six two-digit hexadecimal numbers; \
             write one as in 00:50:56:00:00:01",
        ),
        (
            "00:50:56:00:00:01",
            "01:50:56:00:00:01",
            "64:7: MAC 01:50:56:00:00:01 of vnic \"web1\" is a group address (its first byte is odd); \
             give it an address of its own such as 00:50:56:00:00:01",
        ),
        (
            "00:50:56:00:00:01",
            "00:00:00:00:00:00",
            "64:7: MAC 00:00:00:00:00:00 of vnic \"web1\" is no station's; \
             give it an address of its own such as 00:50:56:00:00:01",
        ),
        (
            "00:50:56:00:00:02",
            "00:50:56:00:00:01",
            "70:7: MAC 00:50:56:00:00:01 of vnic \"old1\" is already that of vnic \"web1\" on line 64; give each vnic its own",
        ),
        ("\"old1\"", "\"web1\"", "67:8: vnic \"web1\" is already on line 61; give each vnic a name of its own"),
        ("\"old1\"", "\"vmnic1\"", "67:8: vnic \"vmnic1\" is named like the uplink on line 14; choose another name"),
        ("\"old1\"", "\"a/b\"", "67:8: the name of vnic \"a/b\" holds '/'; use letters, digits, '-', '_' and '.' only"),
        (
            "\"old1\"",
            "\"..\"",
            "67:8: the name of vnic \"..\" does not begin with a letter, a digit or '_'; choose one that does",
        ),
        ("\"old1\"", "\"\"", "67:8: the name of vnic \"\" is empty; give it one of letters, digits, '-', '_' and '.'"),
        (
            "\"old1\"",
            "\"control\"",
            "67:8: vnic \"control\" would take the control socket's file control.sock; choose another name",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"vlance\"\ndevice = \"veth7\"",
            "70:10: device of vnic \"old1\" goes with adapter = \"netdev\" or adapter = \"tap\" only; take it out",
        ),
    ];
    for (from, to, want) in cases {
        assert_eq!(problems(&full_with(from, to)), format!("net.toml:{want}"));
    }
}

#[test]
fn what_comes_later_and_what_is_for_others_is_refused() {
    let cases = [
        (
            "adapter = \"vlance\"",
            "adapter = \"tap\"",
            "66:1: vnic \"old1\" has no device; add one as in device = \"veth7\"",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"tap\"\ndevice = \"tap%d\"",
            "70:10: device \"tap%d\" of vnic \"old1\" holds a %, by which Linux would choose a name; write the name out",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"tap\"\ndevice = \"a-name-that-is-too-long\"",
            "70:10: device \"a-name-that-is-too-long\" of vnic \"old1\" is longer than the 15 bytes Linux allows; `ip link` lists the interfaces",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"tap\"\ndevice = \"tap0\"\ndriver = \"af_packet\"",
            "71:10: driver of vnic \"old1\" goes with adapter = \"netdev\" only; take it out",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"tap\"\ndevice = \"tap0\"\nqueues = 0",
            "71:10: queues 0 in vnic \"old1\" is outside 1 to 8; give the card as many queue pairs as its guest has \
             processors, up to 8",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"vlance\"\nqueues = 2",
            "70:10: queues of vnic \"old1\" goes with adapter = \"virtio\" or adapter = \"tap\" only; take it out",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"virtio\"\nqueues = 9",
            "70:10: queues 9 in vnic \"old1\" is outside 1 to 8; give the card as many queue pairs as its guest has \
             processors, up to 8",
        ),
        (
            "adapter = \"vlance\"",
            "adapter = \"virtio\"\ndriver = \"af_xdp\"",
            "70:10: driver of vnic \"old1\" goes with adapter = \"netdev\" only; take it out",
        ),
    ];
    for (from, to, want) in cases {
        assert_eq!(problems(&full_with(from, to)), format!("net.toml:{want}"));
    }
}

#[test]
fn socket_paths_that_do_not_fit() {
    let dir = format!("/{}", "d".repeat(93));
    assert!(parse_text(&full_with("/run/vswitch", &dir)).is_ok(), "107 bytes fit");
    let name = full_with("/run/vswitch", &dir).replace("old1", "longername");
    assert_eq!(
        problems(&name),
        format!(
            "net.toml:67:8: socket path {dir}/longername.sock of vnic \"longername\" is 110 bytes long, \
             but Linux allows 107; choose a shorter socket_dir or name"
        )
    );
    let dir = format!("/{}", "d".repeat(94));
    assert_eq!(
        problems(&full_with("/run/vswitch", &dir)),
        format!(
            "net.toml:4:14: socket path {dir}/control.sock is 108 bytes long, but Linux allows 107; choose a shorter socket_dir"
        )
    );
}

#[test]
fn problems_of_shape() {
    let nobody = "1:1: the file has no vnic, so the switch would serve nobody; add a [[vnic]] for each card";
    let cases = [
        ("", nobody.to_owned()),
        ("vnic = []\n", nobody.to_owned()),
        ("[vnic]\n", "1:1: vnic is a table, but must be a list of tables; write [[vnic]]".to_owned()),
        ("vnic = [1]\n", "1:9: vnic holds a whole number, but must hold tables only; write [[vnic]]".to_owned()),
        ("[[switch]]\n", format!("1:1: switch is a list, but must be a table; write [switch]\nnet.toml:{nobody}")),
        ("[switch\n", "1:8: this is not TOML: unclosed table; expected `]`".to_owned()),
        (
            "a = \nb = tru\n",
            "1:5: this is not TOML: string values must be quoted; expected literal string\n\
          net.toml:2:5: this is not TOML: invalid boolean; expected `true`"
                .to_owned(),
        ),
        (
            "[switch]\nmtu = 1500\nmtu = 1500\n",
            "3:1: this key is given twice; keep one of them (a list of tables is written [[so]])".to_owned(),
        ),
    ];
    for (text, want) in cases {
        assert_eq!(problems(text), format!("net.toml:{want}"), "{text}");
    }
}

/// One run tells all there is to mend, by line.
#[test]
fn all_problems_at_once() {
    let text =
        full_with("mtu = 9000", "mtu = 1").replace("vlan = 10\n", "vlan = 4096\n").replace("00:00:02", "00:00:2");
    let told = problems(&text);
    let lines: Vec<_> = told.lines().map(|l| l.split(':').nth(1).unwrap().to_owned()).collect();
    assert_eq!(lines, ["3", "45", "70"], "{told}");
}

/// Columns count characters, not bytes.
#[test]
fn columns_after_wide_characters() {
    let text = "switch = {name = \"Süd\", mtu = 1}\n".to_owned() + SHORT;
    assert_eq!(
        problems(&text),
        "net.toml:1:31: mtu 1 in [switch] is outside 1280 to 9190; 1500 is usual, 9000 for jumbo frames"
    );
}

#[test]
fn too_many() {
    let uplinks: String = (0..33).map(|i| format!("[[uplink]]\nname = \"u{i}\"\ndevice = \"eth{i}\"\n")).collect();
    assert_eq!(
        problems(&format!("{uplinks}{SHORT}")),
        "net.toml:97:1: 33 uplinks are more than the 32 a switch has; take some out"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.toml");
    let shown = path.display();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{shown}: there is no such file; give the path of a configuration by -c FILE")
    );
    assert_eq!(
        load(dir.path()).unwrap_err().to_string(),
        format!("{}: it is a directory; give the path of a configuration file by -c FILE", dir.path().display())
    );
    fs::write(&path, b"[switch]\nname = \"\xff\"\n").unwrap();
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!("{shown}:2:9: byte 0xff is not UTF-8 text; save the file as UTF-8")
    );
    fs::write(&path, SHORT).unwrap();
    assert_eq!(load(&path).unwrap().file, shown.to_string());
}

/// Whatever the file holds, the answer is a value or sentences.
#[test]
fn no_text_panics() {
    for cut in 0..FULL.len() {
        let _ = parse_text(&FULL[..cut]);
        let _ = parse_text(&FULL[cut..]);
        let _ = parse_text(&format!("{}\u{fffd}{}", &FULL[..cut], &FULL[cut..]));
    }
}
