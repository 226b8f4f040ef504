use std::time::Duration;

use wire::Tag;

use super::*;
use crate::netns::{Host, Tap};

const TWO_RACKS: &str = r#"
name = "two-racks"
[[host]]
name = "esx1"
[[host]]
name = "server"
address = ["10.0.0.100/24", "fd00::100/64"]
vlan = 10
[[host]]
name = "client"
address = ["eth0 10.0.0.1/24"]
vlan = 10
[[switch]]
name = "tor1"
[[switch]]
name = "tor2"
[[cable]]
name = "c1"
ends = ["esx1:eth1", "tor1"]
[[cable]]
name = "c2"
ends = ["tor2:p7", "server:eth0"]
[[cable]]
name = "c3"
ends = ["client:eth0", "tor1"]
[[cable]]
name = "isl"
ends = ["tor1", "tor2"]
"#;

fn end(node: &str, device: &str, on_switch: bool) -> End {
    End { node: node.to_owned(), device: device.to_owned(), on_switch }
}

#[test]
fn a_file_is_read() {
    let lab = Topology::from_toml(TWO_RACKS).unwrap();
    assert_eq!(
        (lab.name.as_str(), lab.mtu, lab.counts()),
        ("two-racks", 1500, "3 hosts, 2 switches, 4 cables".to_owned())
    );
    let address = |text: &str| ("eth0".to_owned(), text.to_owned());
    assert_eq!(lab.hosts[1].addresses, [address("10.0.0.100/24"), address("fd00::100/64")]);
    assert_eq!((lab.hosts[1].vlan, lab.hosts[0].vlan), (Some(10), None));
    assert_eq!(lab.cables[0].ends, [end("esx1", "eth1", false), end("tor1", "c1", true)]);
    assert_eq!(lab.cables[1].ends, [end("tor2", "p7", true), end("server", "eth0", false)]);
}

fn problems(text: &str) -> String {
    Topology::from_toml(text).expect_err(text).to_string()
}

#[test]
fn every_problem_is_told_with_its_place() {
    let text = "name = \"x\"\nmtv = 9000\n[[host]]\nname = \"a\"\nvlan = 4095\naddress = [\"10.0.0.1/8\"]\n[[switch]]\nname = \"a\"\n\
                [[cable]]\nname = \"c1\"\nends = [\"a:eth0\", \"nobody\"]\n[[cable]]\nends = [\"a\"]\n";
    let want = [
        "lab.toml:2:1: unknown key \"mtv\" in the file; known here: name, mtu, host, switch, cable",
        "lab.toml:5:8: vlan of host \"a\" is outside 1 to 4094; write one as in vlan = 10",
        "lab.toml:8:8: the name \"a\" is taken by another host, switch or cable; choose another",
        "lab.toml:11:19: end \"nobody\" of cable \"c1\" is no host and no switch; the lab's are a, a",
        "lab.toml:12:1: [[cable]] has no name; add one as in name = \"tor1\"",
        "lab.toml:13:8: [[cable]] has 1 ends, but a cable has two; write ends = [\"esx1:eth1\", \"tor1\"]",
    ];
    assert_eq!(problems(text).lines().collect::<Vec<_>>(), want);
}

#[test]
fn what_cannot_be_built_is_refused() {
    let head = "name = \"x\"\n[[host]]\nname = \"h\"\n[[switch]]\nname = \"s\"\n[[switch]]\nname = \"t\"\n";
    let cable = |name: &str, a: &str, b: &str| format!("[[cable]]\nname = \"{name}\"\nends = [\"{a}\", \"{b}\"]\n");
    let loops = "closes a loop of switches, which run no spanning tree here; take it out";
    for (text, want) in [
        (format!("{head}{}", cable("c", "s:p1", "s:p2")), loops),
        (format!("{head}{}{}", cable("c", "s", "t"), cable("d", "t", "s")), loops),
        (format!("{head}{}{}", cable("c", "h:e", "t"), cable("d", "h:e", "s")), "choose another interface"),
        (
            format!("{head}{}", cable("c", "h", "s")),
            "end \"h\" of cable \"c\" names no interface of that host; write \"h:eth1\"",
        ),
        (format!("{head}{}", cable("c", "h:lo", "s")), "interface \"lo\" of cable \"c\" is there already"),
        (format!("{head}{}", cable("c", "h:a b", "s")), "is not letters, digits"),
        (
            format!("{head}{}", cable("a-name-beyond-all", "h:e", "s")),
            "is longer than the 15 bytes Linux allows an interface",
        ),
        (
            format!("{head}[[host]]\nname = \"g\"\naddress = [\"10.0.0.1/24\"]\n"),
            "host \"g\" has an address but no cable",
        ),
        (format!("{head}[[host]]\nname = \"g\"\nvlan = 1\n"), "host \"g\" has a vlan but no cable"),
        (
            format!("{head}[[host]]\nname = \"g\"\naddress = [\"10.0.0.1\"]\n"),
            "address \"10.0.0.1\" of host \"g\" is none; write one as in",
        ),
        (
            format!(
                "{head}[[host]]\nname = \"g\"\naddress = [\"10.0.0.1/8\"]\n{}{}",
                cable("c", "g:e0", "s"),
                cable("d", "g:e1", "t")
            ),
            "is for none of its interfaces e0, e1; name one as in \"e0 10.0.0.1/8\"",
        ),
        (format!("{head}[[host]]\nname = \"a.b\"\n"), "is not 1 to 32 letters, digits and dashes; choose one that is"),
        ("name = \"x\"\n".to_owned(), "the lab has no host"),
        ("[[host]]\nname = \"h\"\n".to_owned(), "the file has no name; add one as in name = \"two-racks\""),
        ("name = \"\"\n[[host]]\nname = \"h\"\n".to_owned(), "the name \"\" of the lab is not 1 to 32"),
        ("name = 7\n[[host]]\nname = \"h\"\n".to_owned(), "lab.toml:1:8: name of the file is not as it must be"),
        ("name = \"x\"\nhost = 3\n".to_owned(), "host is no list of tables; write [[host]]"),
        (
            "name = \"x\"\nmtu = 99999999999\n[[host]]\nname = \"h\"\n".to_owned(),
            "mtu of the file is outside 1280 to 9190",
        ),
        ("name = \"x\nhost = 3\n".to_owned(), "lab.toml:1:10: this is not TOML"),
        (format!("{head}[[cable]]\nname = \"c\"\n"), "cable \"c\" has no ends; add them as in ends = "),
        (format!("{head}[[cable]]\nname = \"c\"\nends = [1, 2]\n"), "ends of cable \"c\" is not as it must be"),
    ] {
        let told = problems(&text);
        assert!(told.contains(want) && told.lines().count() == 1, "{text}\n{told}");
    }
}

/// A trunk host's eyes and hands: tags are seen and made through a tap beside its interface.
fn tap_in(host: &Host, device: &str) -> Tap {
    let tap = host.tap(&format!("tap-{device}"), 1500).unwrap();
    host.ip("link add name br1 type bridge ageing_time 0 mcast_snooping 0").unwrap();
    for port in [device, tap.name()] {
        host.plug("br1", port).unwrap();
    }
    host.ip("link set br1 up").unwrap();
    tap
}

fn frame(marker: u8, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 9]].concat();
    if let Some(vlan) = vlan {
        frame.extend(Tag::new(vlan, 0).bytes());
    }
    frame.extend([0x88, 0xb5]);
    frame.resize(80, marker);
    frame
}

/// Whether a frame ending in `marker` arrives before the one ending in `fence`.
fn arrives(tap: &Tap, marker: u8, fence: u8) -> bool {
    let either = |f: &[u8]| f.ends_with(&[marker; 20]) || f.ends_with(&[fence; 20]);
    let first = tap.recv_where(Duration::from_secs(10), either).unwrap().expect("the fence arrives");
    first.ends_with(&[marker; 20])
}

#[test]
fn hosts_on_a_vlan_hear_it_and_only_it() {
    let lab = Topology::from_toml(TWO_RACKS).unwrap().build().unwrap();
    let (esx, server) = (lab.host("esx1").unwrap(), lab.host("server").unwrap());
    assert!(lab.host("client").unwrap().pings("10.0.0.100").unwrap(), "access port to access port");
    let tap = tap_in(&esx, "eth1");
    let mut raw = server.raw("eth0").unwrap();
    for (marker, vlan) in [(1, Some(20)), (2, None), (3, Some(10))] {
        tap.send(&frame(marker, vlan)).unwrap();
    }
    let ours = |f: &[u8]| f.get(12..14) == Some(&[0x88, 0xb5]);
    let first = raw.recv_where(Duration::from_secs(10), ours).unwrap().unwrap();
    assert!(first.ends_with(&[3; 20]), "VLAN 20 and untagged frames were dropped: {first:x?}");
    assert_eq!(first.len(), 76, "the tag is off");
    raw.send(&frame(4, None)).unwrap();
    let tagged = tap.recv_where(Duration::from_secs(10), |f| f.ends_with(&[4; 20])).unwrap().unwrap();
    assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 0x88, 0xb5], "the tag is on");
}

#[test]
fn one_way_loses_one_direction_and_a_vlan_only_itself() {
    let text = "name = \"ways\"\n[[host]]\nname = \"a\"\n[[host]]\nname = \"b\"\n[[host]]\nname = \"c\"\n\
                [[switch]]\nname = \"s\"\n[[cable]]\nname = \"ca\"\nends = [\"a:eth0\", \"s\"]\n\
                [[cable]]\nname = \"cb\"\nends = [\"b:eth0\", \"s\"]\n\
                [[cable]]\nname = \"direct\"\nends = [\"b:eth1\", \"c:eth1\"]\n";
    let lab = Topology::from_toml(text).unwrap().build().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name).unwrap());
    // c - direct - b - cb - switch - ca - a
    let (tap_a, tap_c) = (tap_in(&a, "eth0"), tap_in(&c, "eth1"));
    b.ip("link add name br1 type bridge ageing_time 0 mcast_snooping 0").unwrap();
    for port in ["eth0", "eth1"] {
        b.plug("br1", port).unwrap();
    }
    b.ip("link set br1 up").unwrap();
    let mut marker = 0;
    // Each way, from a and from c: whether a frame of VLAN 20 passes, and one of VLAN 30. What is to come is
    // waited for; what is not, for a moment only: a fence tells below.
    let mut expect = |wanted: [[bool; 2]; 2], what: &str| {
        for ((from, to), wanted) in [(&tap_a, &tap_c), (&tap_c, &tap_a)].into_iter().zip(wanted) {
            for (vlan, wanted) in [20, 30].into_iter().zip(wanted) {
                marker += 1;
                from.send(&frame(marker, Some(vlan))).unwrap();
                let limit = Duration::from_millis(if wanted { 10_000 } else { 100 });
                let got = to.recv_where(limit, |f| f.ends_with(&[marker; 20])).unwrap();
                assert_eq!(got.is_some(), wanted, "{what}: VLAN {vlan} from {}", from.name());
            }
        }
    };
    let all = [[true; 2]; 2];
    expect(all, "whole");
    for (cable, sender, left) in [
        ("ca", "a", [[false; 2], [true; 2]]),
        ("ca", "s", [[true; 2], [false; 2]]),
        ("direct", "c:eth1", [[true; 2], [false; 2]]),
        ("direct", "A", [[false; 2], [true; 2]]),
    ] {
        lab.cut_one_way(cable, sender).unwrap();
        lab.cut_one_way(cable, sender).unwrap();
        let state = lab.state(cable).unwrap();
        assert!(state.ends.iter().all(|end| end.link) && !state.cut, "links stay up: {state}");
        expect(left, &format!("{cable}: {state}"));
        lab.heal(cable).unwrap();
        assert_eq!(lab.state(cable).unwrap().to_string(), "whole");
        expect(all, "healed");
    }
    for cable in ["cb", "direct"] {
        lab.cut_vlan(cable, 20).unwrap();
        assert_eq!(lab.state(cable).unwrap().to_string(), "VLAN 20 missing");
        expect([[false, true]; 2], cable);
        lab.heal(cable).unwrap();
        expect(all, "healed");
    }
    // Frames stay in order: what was sent before the fence and has not come before it is lost, not late.
    lab.cut_one_way("ca", "a").unwrap();
    tap_a.send(&frame(0xaa, Some(20))).unwrap();
    lab.heal("ca").unwrap();
    tap_a.send(&frame(0xbb, Some(20))).unwrap();
    assert!(!arrives(&tap_c, 0xaa, 0xbb));
}

#[test]
fn a_lab_of_a_process_goes_with_it() {
    let topology = Topology::from_toml(TWO_RACKS).unwrap();
    let (one, two) = (topology.build().unwrap(), topology.build().unwrap());
    let names = [&one, &two].map(|lab| lab.host("server").unwrap().namespace().to_owned());
    assert_ne!(names[0], names[1]);
    let there = |name: &str| std::path::Path::new("/run/netns").join(name).exists();
    assert!(names.iter().all(|name| there(name)));
    drop((one, two));
    assert!(!names.iter().any(|name| there(name)));
}

#[test]
fn names_that_are_not_there_are_refused() {
    let lab = Topology::from_toml(TWO_RACKS).unwrap().build().unwrap();
    for (refused, want) in [
        (
            lab.host("esx2").map(drop),
            "lab two-racks has no host \"esx2\"; its hosts and switches are esx1, server, client, tor1, tor2",
        ),
        (lab.cut("c9"), "lab two-racks has no cable \"c9\"; its cables are c1, c2, c3, isl"),
        (lab.cut_one_way("c1", "tor2"), "\"tor2\" is no end of cable c1; its ends are A, esx1:eth1, and B, tor1"),
        (lab.unplug("isl", None), "cable isl ends at the switches tor1 and tor2; say which, as in --at tor1"),
        (lab.plug("c1", Some("tor2")), "cable c1 does not end at a switch \"tor2\"; it ends at tor1"),
        (lab.cut_vlan("c2", 10), "cable c2 is no trunk: host server has a VLAN of its own; cut the whole cable"),
        (lab.cut_vlan("c1", 0), "VLAN 0 is outside 1 to 4094; name one of those"),
    ] {
        let error = refused.expect_err(want);
        assert!(matches!(error, Error::Input(_)));
        assert_eq!(error.to_string(), want);
    }
}
