//! Beacons between the uplinks of the real program, and a physical network of kernels that loses, filters, forges and
//! replays them.
//!
//! ```text
//!   guests ten1 (Ten, VLAN 10)  --+                   +-- cable c0 (eth1, vmnic0) --+
//!          plain1 (Plain)         +-- switch in esx1 -+-- cable c1 (eth2, vmnic1)   +-- tor -- tap: the outside
//!                                                     +-- cable c2 (eth3, vmnic2) --+
//! ```

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, alone, port, portgroup, vnic};
use control::api::{BeaconCounts, BeaconHealth, Status, TeamStatus, UplinkRole};
use testbed::netns::{Host, Lab, RawSocket, Tap, VethOptions, wait_until};
use testbed::soft::{RxMode, SoftGuest, SoftVmxnet3, Vmxnet3Options};
use testbed::topology::{RunningLab, Topology};

const OUTSIDE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
/// The addresses of the guests.
const TEN: [u8; 6] = [0x00, 0x50, 0x56, 0, 0, 1];
const PLAIN: [u8; 6] = [0x00, 0x50, 0x56, 0, 0, 2];
/// The EtherType of beacons unless configured, and the bytes after it.
const ETHERTYPE: u16 = 0x88b5;
const MAGIC: &[u8] = b"vSWb";
const UPLINKS: usize = 3;

/// A switch with three uplinks to one physical switch, and two guests' port groups.
struct Site {
    net: Net,
    tor: Host,
    outside: Tap,
    lab: RunningLab,
}

impl Site {
    /// `beacon` are keys of the `[beacon]` section; `more` are tables after all others.
    fn start(name: &str, beacon: &str, more: &str) -> Result<Site> {
        let mut text = format!("name = \"{name}\"\n[[host]]\nname = \"esx1\"\n[[switch]]\nname = \"tor\"\n");
        let mut tables = format!("[beacon]\ninterval_ms = 100\n{beacon}\n");
        for n in 0..UPLINKS {
            text += &format!("[[cable]]\nname = \"c{n}\"\nends = [\"esx1:eth{}\", \"tor\"]\n", n + 1);
            tables += &format!("[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"af_packet\"\n", n + 1);
        }
        tables += "[team]\nactive = [\"vmnic0\"]\nstandby = [\"vmnic1\", \"vmnic2\"]\n";
        tables += &(portgroup("Ten", "10") + &portgroup("Plain", "0"));
        tables += &(vnic("ten1", "Ten", "vmxnet3", 1) + &vnic("plain1", "Plain", "vmxnet3", 2));
        let lab = Topology::from_toml(&text)?.build()?;
        let tor = lab.host("tor")?;
        let outside = tor.tap("outside", 1500)?;
        tor.plug("br0", outside.name())?;
        let net = Net::start(Some(lab.host("esx1")?.namespace()), "", &(tables + more))?;
        let site = Site { net, tor, outside, lab };
        site.wait("every uplink's beacons are heard", |status| all_ok(&status.team))?;
        Ok(site)
    }

    fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.net.switch.show()?)?)
    }

    /// Waits until `holds` of the status.
    fn wait(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<()> {
        wait_until(what, SHORT, || self.status().is_ok_and(|s| holds(&s)))
            .with_context(|| format!("{:?}\n{}", self.status().map(|s| s.team), self.net.switch.log()))
    }

    fn connect(&self, vnic: &str) -> Result<SoftVmxnet3> {
        SoftVmxnet3::connect(&self.net.switch.socket(vnic), Vmxnet3Options::default())
    }

    /// The uplink by whose cable a frame of the guest's gets to the physical switch.
    fn leaves_by(&self, guest: &mut SoftVmxnet3, src: [u8; 6]) -> Result<usize> {
        let mut sockets = (0..UPLINKS).map(|n| self.tor.raw(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
        // The physical switch learns where the outside host is, so that it floods nothing.
        self.outside.send(&frame([0xff; 6], OUTSIDE, 0))?;
        for number in 0..100u32 {
            guest.send(&frame(OUTSIDE, src, number))?;
            for (uplink, socket) in sockets.iter_mut().enumerate() {
                let ours = |bytes: &[u8]| bytes.get(6..12) == Some(&src) && bytes.get(12..14) == Some(&[0x88, 0xb6]);
                if socket.recv_where(Duration::from_millis(50), ours)?.is_some() {
                    return Ok(uplink);
                }
            }
        }
        anyhow::bail!("no frame of {src:02x?} arrives")
    }
}

fn frame(dst: [u8; 6], src: [u8; 6], number: u32) -> Vec<u8> {
    let mut bytes = [&dst[..], &src, &[0x88, 0xb6], &number.to_be_bytes()].concat();
    bytes.resize(60, 0);
    bytes
}

fn all_ok(team: &TeamStatus) -> bool {
    let whole = team.uplinks.len() == UPLINKS && team.uplinks.iter().all(|u| u.beacon == BeaconHealth::Ok);
    whole && team.hears.len() == UPLINKS * (UPLINKS - 1) && team.hears.iter().all(|h| h.silent.is_empty())
}

/// The uplink that the port called `name` is on.
fn on(status: &Status, name: &str, uplink: &str) -> bool {
    port(status, name).is_ok_and(|p| p.uplink.as_deref() == Some(uplink))
}

/// True when there was event `id` whose text has all `words`.
fn told(status: &Status, id: &str, words: &[&str]) -> bool {
    status.events.iter().any(|e| e.id == id && words.iter().all(|word| e.text.contains(word)))
}

/// The trunk of one cable does not carry VLAN 10: the port group on VLAN 10 leaves that uplink, the other one stays,
/// and the uplink is not failed. Mended, the port group comes back.
#[test]
fn a_vlan_missing_on_a_trunk_fails_that_vlan_there() -> Result<()> {
    let _alone = alone();
    let site = Site::start("vlan", "", "")?;
    let (mut ten, mut plain) = (site.connect("ten1")?, site.connect("plain1")?);
    ensure!(site.leaves_by(&mut ten, TEN)? == 0 && site.leaves_by(&mut plain, PLAIN)? == 0, "both by the active one");
    site.lab.cut_vlan("c0", 10)?;
    site.wait("the port group moves", |status| on(status, "ten1", "vmnic1"))?;
    // Told a moment later: by then it is known that it is not the whole uplink.
    site.wait("the VLAN is told", |status| told(status, "beacon.vlan.failed", &["vmnic0", "VLAN 10"]))?;
    let status = site.status()?;
    ensure!(!status.events.iter().any(|e| e.id == "beacon.uplink.failed"), "{:?}", status.events);
    ensure!(told(&status, "team.failover", &["port group Ten", "vmnic0"]), "{:?}", status.events);
    ensure!(on(&status, "plain1", "vmnic0"), "the other port group stays");
    let state = |group: &str| -> Result<(BeaconHealth, UplinkRole)> {
        let group = status.portgroups.iter().find(|g| g.name == group).context("a port group")?;
        let uplink = group.uplinks.iter().find(|u| u.name == "vmnic0").context("its uplink")?;
        Ok((uplink.beacon, uplink.state))
    };
    ensure!(state("Ten")? == (BeaconHealth::Failed, UplinkRole::Failed), "{:?}", state("Ten")?);
    ensure!(state("Plain")? == (BeaconHealth::Ok, UplinkRole::Active), "{:?}", state("Plain")?);
    let whole = &status.team.uplinks[0];
    ensure!(
        whole.beacon == BeaconHealth::Ok && whole.state == UplinkRole::Active,
        "the uplink is not failed: {whole:?}"
    );
    for pair in &status.team.hears {
        let expected: &[u16] = if [&pair.from, &pair.to].contains(&&"vmnic0".to_owned()) { &[10] } else { &[] };
        ensure!(pair.silent == expected, "{pair:?}");
    }
    ensure!(site.leaves_by(&mut ten, TEN)? == 1 && site.leaves_by(&mut plain, PLAIN)? == 0, "and so do the frames");

    site.lab.heal("c0")?;
    site.wait("the port group comes back", |status| on(status, "ten1", "vmnic0") && all_ok(&status.team))?;
    site.wait("the VLAN is told", |status| told(status, "beacon.vlan.restored", &["vmnic0", "VLAN 10"]))?;
    let status = site.status()?;
    ensure!(status.events.iter().filter(|e| e.id == "team.failover").count() == 1, "{:?}", status.events);
    ensure!(site.leaves_by(&mut ten, TEN)? == 0, "its frames too");
    drop((ten, plain));
    site.net.finish()
}

/// A cable loses what one end sends. The event and the matrix of who hears whom tell which side of the uplink is dead.
#[test]
fn one_way_loss_is_told_by_its_side() -> Result<()> {
    let _alone = alone();
    let site = Site::start("side", "", "")?;
    for (sender, words) in [("esx1", "the others do not hear it"), ("tor", "it does not hear the others")] {
        site.lab.cut_one_way("c0", sender)?;
        site.wait("both port groups move", |s| on(s, "ten1", "vmnic1") && on(s, "plain1", "vmnic1"))?;
        site.wait("the side is told", |s| told(s, "beacon.uplink.failed", &["vmnic0", words]))?;
        // The matrix has the dead direction, and no other.
        let dead = |from: &str, to: &str| if sender == "esx1" { from == "vmnic0" } else { to == "vmnic0" };
        site.wait("the matrix has the dead direction", |status| {
            status.team.hears.iter().all(|pair| match dead(&pair.from, &pair.to) {
                true => pair.hears.is_empty() && pair.silent == [0, 10],
                false => pair.silent.is_empty() && pair.hears == [0, 10],
            })
        })?;
        let team = site.status()?.team;
        let [first, rest @ ..] = &team.uplinks[..] else { anyhow::bail!("no uplinks") };
        ensure!((first.beacon, first.state) == (BeaconHealth::Failed, UplinkRole::Failed), "{first:?}");
        ensure!(rest.iter().all(|u| u.beacon == BeaconHealth::Ok && u.state != UplinkRole::Failed), "{rest:?}");
        site.lab.heal("c0")?;
        site.wait("both come back", |s| on(s, "ten1", "vmnic0") && on(s, "plain1", "vmnic0") && all_ok(&s.team))?;
    }
    site.net.finish()
}

/// Has the physical switch drop all frames of an EtherType that come in by its three cables, tagged or not, and
/// nothing else. Taken away again by `lab.heal` of each cable.
fn filter_at_tor(site: &Site, ethertype: u16) -> Result<()> {
    // Classic BPF: load the half-word at 12; equal: return TC_ACT_SHOT; else: return TC_ACT_UNSPEC. A tag is no part
    // of a frame here, the kernel has taken it out.
    let program = format!("4,40 0 0 12,21 0 1 {ethertype},6 0 0 2,6 0 0 4294967295");
    for n in 0..UPLINKS {
        let place = format!("tc filter replace dev c{n} ingress prio 50 handle 1 protocol all bpf bytecode");
        let words: Vec<&str> = place.split(' ').chain([program.as_str(), "da"]).collect();
        site.tor.exec_args(&words, SHORT)?.success()?;
    }
    Ok(())
}

/// The physical network drops every beacon and nothing else: an alarm, and nobody is failed; traffic stays where it is.
#[test]
fn a_network_without_beacons_fails_nobody() -> Result<()> {
    let _alone = alone();
    let site = Site::start("filter", "", "")?;
    let mut ten = site.connect("ten1")?;
    ensure!(site.leaves_by(&mut ten, TEN)? == 0, "by the active one");
    filter_at_tor(&site, ETHERTYPE)?;
    site.wait("the alarm is on", |s| s.team.filtered && s.portgroups.iter().all(|g| g.filtered))?;
    site.wait("the alarm is told", |s| told(s, "beacon.filtered", &["filtered upstream"]))?;
    site.wait("nobody hears anybody", |s| s.team.hears.iter().all(|pair| pair.hears.is_empty()))?;
    // Twenty more unheard beacons of each uplink do not change that.
    let sent = beacons(&site, 0)?.sent;
    site.wait("beacons are sent on", |s| {
        port(s, "vmnic0").is_ok_and(|p| p.beacons.is_some_and(|b| b.sent > sent + 40))
    })?;
    let status = site.status()?;
    let failed = |id: &str| id.starts_with("team.") || (id.starts_with("beacon.") && id.ends_with(".failed"));
    ensure!(!status.events.iter().any(|e| failed(&e.id)), "nobody is failed: {:?}", status.events);
    for uplinks in status.portgroups.iter().map(|g| &g.uplinks).chain([&status.team.uplinks]) {
        let well = |u: &control::api::UplinkStatus| u.state != UplinkRole::Failed && u.beacon != BeaconHealth::Failed;
        ensure!(uplinks.iter().all(well), "{uplinks:?}");
    }
    ensure!(!status.team.shotgun && on(&status, "ten1", "vmnic0"), "{:?}", status.team);
    ensure!(site.leaves_by(&mut ten, TEN)? == 0, "traffic goes on where it was");
    for n in 0..UPLINKS {
        site.lab.heal(&format!("c{n}"))?;
    }
    site.wait("beacons are heard again", |s| all_ok(&s.team) && !s.team.filtered)?;
    site.wait("the end is told", |s| told(s, "beacon.filtered.cleared", &[]))?;
    drop(ten);
    site.net.finish()
}

/// The beacons of uplink `number`, counted.
fn beacons(site: &Site, number: usize) -> Result<BeaconCounts> {
    site.net.port(&format!("vmnic{number}"))?.beacons.context("beacons are sent")
}

/// True for an untagged beacon that uplink `uplink` sent.
fn is_from(bytes: &[u8], uplink: usize) -> bool {
    let magic = bytes.get(12..14) == Some(&ETHERTYPE.to_be_bytes()) && bytes.get(14..18) == Some(MAGIC);
    magic && bytes.get(20..22) == Some(&(uplink as u16).to_be_bytes()) && bytes.get(54..56) == Some(&[0, 0])
}

/// A real beacon of uplink `uplink`, as it came out of its cable.
fn captured(site: &Site, uplink: usize) -> Result<Vec<u8>> {
    let mut socket = site.tor.raw(&format!("c{uplink}"))?;
    socket.recv_where(SHORT, |bytes| is_from(bytes, uplink))?.context("a beacon")
}

/// Sends a frame into cable `uplink` at the physical switch's end, so often.
fn inject(socket: &mut RawSocket, bytes: &[u8], times: u64) -> Result<()> {
    for _ in 0..times {
        socket.send(bytes)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What `show team` says, but for the ages of the last beacons, and all that has happened.
fn decided(site: &Site) -> Result<String> {
    let mut status = site.status()?;
    status.team.hears.iter_mut().for_each(|pair| pair.age_ms = None);
    Ok(format!("{:?}\n{:?}\n{:?}", status.team, status.portgroups, status.events))
}

/// One of the counters of an uplink's beacons.
type Counter = fn(&BeaconCounts) -> u64;

/// What is made of `real` by somebody without the key, and the counter it must show up in.
fn fakes(real: &[u8]) -> Vec<(&'static str, Vec<u8>, Counter)> {
    let with = |at: usize, bytes: &[u8]| {
        let mut fake = real.to_vec();
        fake[at..at + bytes.len()].copy_from_slice(bytes);
        fake
    };
    vec![
        ("replayed as it was", real.to_vec(), |c| c.replayed),
        ("a newer sequence, the old signature", with(46, &[0, 0xff]), |c| c.forged),
        ("another uplink, the old signature", with(20, &[0, 2]), |c| c.forged),
        ("what it hears, changed", with(56, &[0; 8]), |c| c.forged),
        ("signed with another key", with(64, &[0x5a; 16]), |c| c.forged),
        ("of another switch", with(22, &[0xa5; 16]), |c| c.foreign),
        ("of another version", with(18, &[9]), |c| c.bad),
        ("cut in the signature", real[..79].to_vec(), |c| c.bad),
        ("cut before the sequence", real[..44].to_vec(), |c| c.bad),
        ("cut after the magic", real[..18].to_vec(), |c| c.bad),
    ]
}

/// Beacons that are forged, replayed, cut short or another switch's are counted, each as what it is, and change nothing:
/// neither while all is well, nor while an uplink is failed.
#[test]
fn beacons_that_are_not_ours_change_nothing() -> Result<()> {
    let _alone = alone();
    let site = Site::start("fakes", "", "")?;
    let mut sockets = (0..UPLINKS).map(|n| site.tor.raw(&format!("c{n}"))).collect::<Result<Vec<_>>>()?;
    let before = decided(&site)?;
    let zero = captured(&site, 0)?;
    for (what, fake, counter) in fakes(&zero) {
        let was = beacons(&site, 1)?;
        inject(&mut sockets[1], &fake, 20)?;
        let expected = counter(&was) + 20;
        site.wait(what, |s| port(s, "vmnic1").is_ok_and(|p| p.beacons.is_some_and(|b| counter(&b) >= expected)))?;
        let now = beacons(&site, 1)?;
        let sum = |c: &BeaconCounts| c.foreign + c.forged + c.replayed + c.bad;
        ensure!(counter(&now) == expected && sum(&now) == sum(&was) + 20, "{what}: {was:?}, then {now:?}");
        ensure!(decided(&site)? == before, "{what}: {before}\nthen\n{}", decided(&site)?);
    }

    // With the path behind the first cable dead, nobody without the key can make it look alive.
    let one = captured(&site, 1)?;
    site.lab.unplug("c0", None)?;
    site.wait("the uplink is failed", |s| told(s, "beacon.uplink.failed", &["vmnic0"]))?;
    site.wait("nothing is heard across", |s| {
        s.team.hears.iter().all(|p| p.hears.is_empty() == (p.from == "vmnic0" || p.to == "vmnic0"))
    })?;
    // One that vmnic0 never heard, and that is older than any gap between beacons when it comes.
    let late = captured(&site, 1)?;
    let sent = beacons(&site, 1)?.sent;
    site.wait("time passes", |s| port(s, "vmnic1").is_ok_and(|p| p.beacons.is_some_and(|b| b.sent >= sent + 20)))?;
    let (before, was) = (decided(&site)?, beacons(&site, 0)?);
    for _ in 0..20 {
        for (_, fake, _) in fakes(&zero) {
            sockets[1].send(&fake)?;
            sockets[2].send(&fake)?;
        }
        for (_, fake, _) in fakes(&one).into_iter().chain(fakes(&late)) {
            sockets[0].send(&fake)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let expected = was.replayed + 40;
    site.wait("all are taken", |s| port(s, "vmnic0").is_ok_and(|p| p.beacons.is_some_and(|b| b.replayed >= expected)))?;
    let now = beacons(&site, 0)?;
    ensure!(now.heard == was.heard && now.replayed == expected, "{was:?}, then {now:?}");
    ensure!(decided(&site)? == before, "{before}\nthen\n{}", decided(&site)?);
    site.lab.plug("c0", None)?;
    site.wait("the real ones count", |s| all_ok(&s.team))?;
    site.net.finish()
}

/// A promiscuous port group on each kind of VLAN: untagged, VLAN 10, and all of them with their tags.
const WATCHERS: [(&str, &str); 3] = [("watch0", "0"), ("watch10", "10"), ("watchall", "4095")];
/// To nobody here: only who sees everything gets it.
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];

/// True for any switch's beacon, tagged or not.
fn is_beacon(bytes: &[u8]) -> bool {
    [12, 16].iter().any(|at| bytes.get(at + 2..at + 6) == Some(MAGIC))
}

/// `bytes` with the tag of `vlan` put in; 0 for none.
fn tagged(bytes: &[u8], vlan: u16) -> Vec<u8> {
    match vlan {
        0 => bytes.to_vec(),
        _ => [&bytes[..12], &[0x81, 0], &vlan.to_be_bytes(), &bytes[12..]].concat(),
    }
}

/// No guest sees a beacon that comes in, our own, replayed or another switch's, though it sees all else on its VLANs.
#[test]
fn no_guest_sees_beacons() -> Result<()> {
    let _alone = alone();
    let mut tables = String::new();
    for (number, (name, vlan)) in WATCHERS.iter().enumerate() {
        tables +=
            &format!("{}[portgroup.security]\npromiscuous = true\nforged_transmits = true\n", portgroup(name, vlan));
        tables += &vnic(name, name, "vmxnet3", 0x20 + number as u8);
    }
    let site = Site::start("unseen", "", &tables)?;
    let mut guests = WATCHERS.iter().map(|(name, _)| site.connect(name)).collect::<Result<Vec<_>>>()?;
    for guest in &mut guests {
        guest.set_rx_mode(RxMode::PROMISCUOUS | RxMode::UNICAST | RxMode::BROADCAST | RxMode::ALL_MULTICAST)?;
    }
    let real = captured(&site, 1)?;
    let mut foreign = real.clone();
    foreign[22..38].fill(0xa5);
    let heard = beacons(&site, 0)?;
    let mut socket = site.tor.raw("c0")?;
    for vlan in [0, 10, 77] {
        for bytes in [&real, &foreign] {
            inject(&mut socket, &tagged(bytes, vlan), 5)?;
        }
    }
    site.wait("beacons come in", |s| {
        port(s, "vmnic0").is_ok_and(|p| p.beacons.is_some_and(|b| b.heard > heard.heard + 40))
    })?;
    ensure!(beacons(&site, 0)?.foreign >= heard.foreign + 10, "the injected ones too");
    // The last of all that came in: then the guests have what they get.
    for (vlan, watchers) in [(0, ["watch0", "watchall"]), (10, ["watch10", "watchall"])] {
        let mark = frame(NOBODY, OUTSIDE, 7 + u32::from(vlan));
        site.outside.send(&tagged(&mark, vlan))?;
        for (guest, _) in guests.iter_mut().zip(WATCHERS).filter(|(_, (name, _))| watchers.contains(name)) {
            loop {
                let received = guest.recv(SHORT)?.with_context(|| format!("the mark on VLAN {vlan} does not come"))?;
                ensure!(!is_beacon(&received.bytes), "a guest sees {:02x?}", received.bytes);
                if received.bytes[..12] == mark[..12] && received.bytes.ends_with(&mark[12..]) {
                    break;
                }
            }
        }
    }

    // A guest that got hold of one and sends it makes nobody believe it: it comes back by an uplink that knows it.
    let (before, was) = (decided(&site)?, beacons(&site, 2)?);
    for _ in 0..5 {
        guests[0].send(&real)?;
        guests[0].send(&foreign)?;
    }
    let back = |b: &BeaconCounts| b.replayed >= was.replayed + 5 && b.foreign >= was.foreign + 5;
    site.wait("they come back", |s| port(s, "vmnic2").is_ok_and(|p| p.beacons.is_some_and(|b| back(&b))))?;
    ensure!(decided(&site)? == before, "{before}\nthen\n{}", decided(&site)?);
    drop(guests);
    site.net.finish()
}

/// A configured EtherType is the one on the wire, on both VLANs, and the other one is not there.
#[test]
fn the_configured_ethertype_is_on_the_wire() -> Result<()> {
    let _alone = alone();
    for (keys, ethertype) in [("", 0x88b5u16), ("ethertype = 0x88B6", 0x88b6)] {
        let site = Site::start("ethertype", keys, "")?;
        let mut seen = [[0usize; UPLINKS]; 2];
        while seen.iter().flatten().any(|count| *count < 3) {
            let bytes = site.outside.recv(SHORT)?.context("no beacons")?;
            if !is_beacon(&bytes) {
                continue;
            }
            let vlan = if bytes[12..14] == [0x81, 0] { u16::from_be_bytes([bytes[14], bytes[15]]) } else { 0 };
            let inner = if vlan == 0 { &bytes[12..] } else { &bytes[16..] };
            ensure!(inner[..2] == ethertype.to_be_bytes(), "{bytes:02x?}");
            ensure!(
                bytes[..6] == [0xff; 6] && bytes[6] == 2,
                "broadcast, from an address of the switch's: {bytes:02x?}"
            );
            ensure!(inner[42..44] == vlan.to_be_bytes() && [0, 10].contains(&vlan), "it tells its VLAN: {bytes:02x?}");
            seen[usize::from(vlan != 0)][usize::from(inner[9])] += 1;
        }
        site.net.finish()?;
    }
    Ok(())
}

/// A switch whose teams detect by link sends no beacons, and still keeps those of others from its guests.
#[test]
fn a_switch_without_beacons_passes_none_on() -> Result<()> {
    let _alone = alone();
    let lab = Lab::new("nobeacons")?;
    let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
    lab.veth((&machine, "eth1"), (&physical, "p1"), &VethOptions { offload: false, ..VethOptions::default() })?;
    let tables = "[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\ndriver = \"af_packet\"\n\
                  [team]\nfailure_detection = \"link\"\n"
        .to_owned()
        + &portgroup("Watch", "0")
        + "[portgroup.security]\npromiscuous = true\n"
        + &vnic("watch", "Watch", "vmxnet3", 1);
    let net = Net::start(Some(machine.namespace()), "", &tables)?;
    let mut guest = SoftVmxnet3::connect(&net.switch.socket("watch"), Vmxnet3Options::default())?;
    guest.set_rx_mode(RxMode::PROMISCUOUS | RxMode::UNICAST | RxMode::BROADCAST | RxMode::ALL_MULTICAST)?;
    let mut socket = physical.raw("p1")?;
    let mut foreign = [&[0xff; 6][..], &OUTSIDE, &ETHERTYPE.to_be_bytes(), MAGIC].concat();
    foreign.resize(100, 0xa5);
    inject(&mut socket, &foreign, 5)?;
    inject(&mut socket, &frame([0xff; 6], OUTSIDE, 1), 1)?;
    let received = guest.recv(SHORT)?.context("the broadcast after them comes")?;
    ensure!(!is_beacon(&received.bytes), "a guest sees {:02x?}", received.bytes);
    let counted = || net.port("vmnic0").is_ok_and(|p| p.drops.get("beacon").copied().unwrap_or(0) >= 5);
    wait_until("they are counted", SHORT, counted)?;
    net.finish()
}
