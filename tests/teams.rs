//! Team policies of the real program, by the frames that the far ends of its uplinks' cables see.

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, alone, portgroup, program, vnic};
use testbed::netns::{Host, Lab, RawSocket, VethOptions, wait_until};
use testbed::soft::{SoftGuest, SoftVmxnet3, Vmxnet3Options};

const OUTSIDE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const BROADCAST: [u8; 6] = [0xff; 6];
/// For what is not to come, and for a worker's turn to end.
const QUIET: Duration = Duration::from_millis(50);
/// Link state alone, and uplinks that come back at once.
const LINK: &str = "failure_detection = \"link\"\nup_delay_ms = 0\n";

/// The switch's machine, and cables from `eth1`, `eth2`, ... of it to plugs `p1`, `p2`, ... where tests listen.
struct Site {
    _lab: Lab,
    machine: Host,
    physical: Host,
    uplinks: usize,
    /// Uplinks whose cables are cut: a raw socket there only fails.
    cut: RefCell<BTreeSet<usize>>,
}

impl Site {
    fn build(name: &str, uplinks: usize) -> Result<Site> {
        let lab = Lab::new(name)?;
        let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
        for number in 1..=uplinks {
            let options = VethOptions { offload: false, ..VethOptions::default() };
            let plug = format!("p{number}");
            lab.veth((&machine, &format!("eth{number}")), (&physical, &plug), &options)?;
            physical.sysctl(&format!("net/ipv6/conf/{plug}/disable_ipv6"), "1")?;
        }
        Ok(Site { _lab: lab, machine, physical, uplinks, cut: RefCell::default() })
    }

    /// A switch whose uplinks are `vmnic0` on `eth1` and so on; `tables` tell the rest.
    fn net(&self, driver: &str, tables: &str) -> Result<Net> {
        let mut all = String::new();
        for n in 0..self.uplinks {
            let _ = write!(all, "[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"{driver}\"\n", n + 1);
        }
        let net = Net::start(Some(self.machine.namespace()), "", &(all + tables))?;
        wait_until("every uplink has link", SHORT, || {
            (0..self.uplinks).all(|n| link_is(&net, &format!("vmnic{n}"), "up"))
        })?;
        Ok(net)
    }

    /// Sockets on the far ends of the cables that are not cut, by uplink.
    fn plugs(&self) -> Result<BTreeMap<usize, RawSocket>> {
        let cut = self.cut.borrow();
        let whole = (0..self.uplinks).filter(|n| !cut.contains(n));
        whole.map(|n| Ok((n, self.physical.raw(&format!("p{}", n + 1))?))).collect()
    }

    /// Sends each of `frames`, all different, and tells the uplinks each of them left by, rising; an uplink
    /// by which it left twice is there twice.
    fn leaves_by(&self, guest: &mut SoftVmxnet3, frames: &[Vec<u8>]) -> Result<Vec<Vec<usize>>> {
        let mut plugs = self.plugs()?;
        for frame in frames {
            guest.send(frame)?;
        }
        guest.flush()?;
        let mut seen = vec![Vec::new(); frames.len()];
        let deadline = Instant::now() + SHORT;
        let mut complete = false;
        loop {
            for (uplink, plug) in &mut plugs {
                while let Some(bytes) = plug.recv(Duration::ZERO)? {
                    if let Some(which) = frames.iter().position(|f| *f == bytes) {
                        seen[which].push(*uplink);
                    }
                }
            }
            // One more round after the last has come, for second copies.
            if complete {
                break;
            }
            complete = seen.iter().all(|s| !s.is_empty());
            if complete {
                std::thread::sleep(QUIET);
            }
            ensure!(Instant::now() < deadline, "frames are missing on the cables: {seen:?}");
        }
        seen.iter_mut().for_each(|s| s.sort_unstable());
        Ok(seen)
    }

    /// As [`Site::leaves_by`], of a few frames from `last`'s address that must all leave by one uplink.
    fn way_of(&self, guest: &mut SoftVmxnet3, last: u8) -> Result<usize> {
        let frames: Vec<_> = (0..4).map(|n| frame(OUTSIDE, mac(last), n)).collect();
        let ways = self.leaves_by(guest, &frames)?;
        ensure!(ways.iter().all(|w| w.len() == 1 && *w == ways[0]), "frames of one port: {ways:?}");
        Ok(ways[0][0])
    }

    fn cut(&self, net: &Net, uplink: usize) -> Result<()> {
        self.cut.borrow_mut().insert(uplink);
        self.physical.cut(&format!("p{}", uplink + 1))?;
        wait_until("the cut is seen", SHORT, || link_is(net, &format!("vmnic{uplink}"), "down"))
    }

    fn heal(&self, net: &Net, uplink: usize) -> Result<()> {
        self.physical.heal(&format!("p{}", uplink + 1))?;
        self.cut.borrow_mut().remove(&uplink);
        wait_until("the link is seen", SHORT, || link_is(net, &format!("vmnic{uplink}"), "up"))
    }
}

fn link_is(net: &Net, uplink: &str, state: &str) -> bool {
    let Ok(status) = net.switch.show() else { return false };
    status["team"]["uplinks"]
        .as_array()
        .is_some_and(|all| all.iter().any(|u| u["name"] == uplink && u["link"] == state))
}

fn mac(last: u8) -> [u8; 6] {
    [0x00, 0x50, 0x56, 0, 0, last]
}

fn frame(dst: [u8; 6], src: [u8; 6], number: u32) -> Vec<u8> {
    let mut bytes = [&dst[..], &src, &[0x88, 0xb6], &number.to_be_bytes()].concat();
    bytes.resize(60, 0);
    bytes
}

/// `[[vnic]]` tables of `g1` to `g{count}`, all in `group`.
fn guests(group: &str, count: u8) -> String {
    (1..=count).map(|n| vnic(&format!("g{n}"), group, "vmxnet3", n)).collect()
}

fn connect(net: &Net, count: u8) -> Result<Vec<SoftVmxnet3>> {
    let socket = |n| net.switch.socket(&format!("g{n}"));
    (1..=count).map(|n| SoftVmxnet3::connect(&socket(n), Vmxnet3Options::default())).collect()
}

/// The number of the uplink that the status tells for `g{last}`.
fn told(net: &Net, last: u8) -> Result<usize> {
    let name = net.port(&format!("g{last}"))?.uplink.context("a port with an uplink")?;
    Ok(name.strip_prefix("vmnic").context("vmnic")?.parse()?)
}

fn all_told(net: &Net, count: u8) -> Result<Vec<usize>> {
    (1..=count).map(|n| told(net, n)).collect()
}

/// Waits for an event, and until workers act by what it brought about.
fn settled(net: &Net, event: &str) -> Result<()> {
    net.switch.wait_log(event, SHORT)?;
    // Who answers this has published the new places; a worker in the middle of a turn finishes it by the old ones.
    net.switch.show()?;
    std::thread::sleep(QUIET);
    Ok(())
}

/// Waits until the status tells `wanted` for `g1` and on, then looks at the cables.
fn expect_ways(site: &Site, net: &Net, cards: &mut [SoftVmxnet3], wanted: &[usize]) -> Result<()> {
    let count = cards.len() as u8;
    wait_until(&format!("ports are on {wanted:?}"), SHORT, || all_told(net, count).is_ok_and(|ways| ways == wanted))
        .with_context(|| format!("{:?}: {}", all_told(net, count), net.switch.log()))?;
    // A worker in the middle of a turn finishes it by the old places.
    std::thread::sleep(QUIET);
    for (n, card) in cards.iter_mut().enumerate() {
        let way = site.way_of(card, n as u8 + 1)?;
        ensure!(way == wanted[n], "g{}: the status tells {}, frames left by {way}", n + 1, wanted[n]);
    }
    Ok(())
}

fn port_id(driver: &str) -> Result<()> {
    let _alone = alone();
    let site = Site::build("portid", 3)?;
    let tables = format!("[team]\n{LINK}") + &portgroup("Plain", "0") + &guests("Plain", 5);
    let net = site.net(driver, &tables)?;
    let mut cards = connect(&net, 5)?;
    let before = all_told(&net, 5)?;
    ensure!((0..3).all(|uplink| before.contains(&uplink)), "ports are spread: {before:?}");
    expect_ways(&site, &net, &mut cards, &before)?;
    site.cut(&net, 1)?;
    wait_until("the ports leave", SHORT, || all_told(&net, 5).is_ok_and(|ways| !ways.contains(&1)))?;
    let during = all_told(&net, 5)?;
    for (was, is) in before.iter().zip(&during) {
        ensure!(*was == 1 || was == is, "only what was on the cut one moves: {before:?} {during:?}");
    }
    expect_ways(&site, &net, &mut cards, &during)?;
    site.heal(&net, 1)?;
    expect_ways(&site, &net, &mut cards, &before)?;
    drop(cards);
    net.finish()
}

#[test]
fn port_id_spreads_ports_and_moves_only_those_of_the_cut_cable() -> Result<()> {
    port_id("af_packet")
}

#[test]
fn port_id_on_af_xdp() -> Result<()> {
    port_id("af_xdp")
}

fn drops(net: &Net, name: &str, reason: &str) -> Result<u64> {
    Ok(net.port(name)?.drops.get(reason).copied().unwrap_or(0))
}

/// Four uplinks: one active, two standby, one unused.
fn explicit(failback: bool) -> Result<()> {
    let _alone = alone();
    let site = Site::build("order", 4)?;
    let order = "load_balancing = \"explicit\"\nactive = [\"vmnic1\"]\nstandby = [\"vmnic2\", \"vmnic0\"]\n";
    let tables = format!("[team]\n{LINK}{order}failback = {failback}\n") + &portgroup("Plain", "0");
    let net = site.net("af_packet", &(tables + &guests("Plain", 2)))?;
    let mut cards = connect(&net, 2)?;
    expect_ways(&site, &net, &mut cards, &[1, 1])?;
    site.cut(&net, 1)?;
    expect_ways(&site, &net, &mut cards, &[2, 2])?;
    site.cut(&net, 2)?;
    expect_ways(&site, &net, &mut cards, &[0, 0])?;
    site.heal(&net, 1)?;
    site.heal(&net, 2)?;
    expect_ways(&site, &net, &mut cards, if failback { &[1, 1] } else { &[0, 0] })?;

    // The unused one brings nothing in.
    let mut plugs = site.plugs()?;
    let before = drops(&net, "vmnic3", "uplink-unused")?;
    for n in 100..103 {
        plugs.get_mut(&3).context("p4")?.send(&frame(mac(1), OUTSIDE, n))?;
    }
    wait_until("frames by the unused uplink are counted", SHORT, || {
        drops(&net, "vmnic3", "uplink-unused").is_ok_and(|now| now >= before + 3)
    })?;
    ensure!(cards[0].recv(QUIET)?.is_none(), "a frame came in by the unused uplink");
    // With every other one dead, it sends nothing all the same.
    for uplink in 0..3 {
        site.cut(&net, uplink)?;
    }
    wait_until("no uplink is left", SHORT, || net.port("g1").is_ok_and(|p| p.uplink.is_none()))?;
    cards[0].send(&frame(OUTSIDE, mac(1), 200))?;
    cards[0].flush()?;
    wait_until("the frame is counted", SHORT, || drops(&net, "g1", "no-uplink").is_ok_and(|n| n > 0))?;
    ensure!(net.port("vmnic3")?.output.frames == 0, "the unused uplink sent");
    drop(cards);
    net.finish()
}

#[test]
fn explicit_order_fails_back() -> Result<()> {
    explicit(true)
}

#[test]
fn explicit_order_stays_without_failback() -> Result<()> {
    explicit(false)
}

fn ipv4(src: [u8; 4], dst: [u8; 4], number: u16) -> Vec<u8> {
    let mut bytes = frame(OUTSIDE, mac(1), 0);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    // Version and length, 46 bytes, an identification that makes the frame one of its own, UDP.
    bytes[14..24].copy_from_slice(&[0x45, 0, 0, 46, (number >> 8) as u8, number as u8, 0, 0, 64, 17]);
    bytes[26..30].copy_from_slice(&src);
    bytes[30..34].copy_from_slice(&dst);
    bytes
}

/// The addresses are fd00:: and `src`, fd00:: and `dst`.
fn ipv6(src: u8, dst: u8, number: u8) -> Vec<u8> {
    let mut bytes = frame(OUTSIDE, mac(1), 0);
    bytes[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, number, 0, 6, 59, 64]);
    for (at, last) in [(22, src), (38, dst)] {
        bytes[at..at + 16].fill(0);
        (bytes[at], bytes[at + 15]) = (0xfd, last);
    }
    bytes
}

/// Neither IPv4 nor IPv6, with these bytes where IPv4 has the last octets of its addresses.
fn other(src: u8, dst: u8, number: u32) -> Vec<u8> {
    let mut bytes = frame(OUTSIDE, mac(1), number);
    (bytes[29], bytes[33]) = (src, dst);
    bytes
}

/// The bucket as documented: of IPv6 all bytes of both addresses; of all else the two bytes that are the last
/// octets of IPv4's addresses.
fn ip_rule(frame: &[u8]) -> u8 {
    match frame[12..14] {
        [0x86, 0xdd] => frame[22..54].iter().fold(0, |all, byte| all ^ byte),
        _ => frame[29] ^ frame[33],
    }
}

#[test]
fn ip_hash_goes_by_the_pair_of_addresses() -> Result<()> {
    let _alone = alone();
    let site = Site::build("iphash", 3)?;
    let tables = format!("[team]\n{LINK}load_balancing = \"ip-hash\"\n") + &portgroup("Plain", "0");
    let net = site.net("af_packet", &(tables + &guests("Plain", 1)))?;
    let mut cards = connect(&net, 1)?;
    // By hand: 5 ^ 8 = 13, 13 mod 3 = 1; 1 ^ 3 = 2, all else cancels; 0x31 ^ 0x01 = 48, 48 mod 3 = 0.
    let by_hand = [ipv4([10, 0, 0, 5], [10, 0, 0, 8], 1), ipv6(1, 3, 1), other(0x31, 0x01, 1)];
    let ways = site.leaves_by(&mut cards[0], &by_hand)?;
    ensure!(ways == [[1], [2], [0]], "by hand: {ways:?}");

    let mut frames = Vec::new();
    for pair in 0..8u8 {
        // Twice each, and the way back.
        for n in 10..12u8 {
            frames.push(ipv4([10, 1, pair, 7], [192, 168, 0, 20 + pair], n.into()));
            frames.push(ipv4([192, 168, 0, 20 + pair], [10, 1, pair, 7], n.into()));
            frames.push(ipv6(7, 20 + pair, n));
            frames.push(other(7, 20 + pair, n.into()));
        }
    }
    let ways = site.leaves_by(&mut cards[0], &frames)?;
    for (frame, way) in frames.iter().zip(&ways) {
        let wanted = usize::from(ip_rule(frame)) % 3;
        ensure!(*way == [wanted], "{frame:02x?} left by {way:?}, and not by {wanted}");
    }
    ensure!((0..3).all(|uplink| ways.contains(&vec![uplink])), "all uplinks are used: {ways:?}");

    // Cut one: what was on the others stays; healed, all is as before.
    site.cut(&net, 2)?;
    settled(&net, "team.failover")?;
    let during = site.leaves_by(&mut cards[0], &frames)?;
    for (was, is) in ways.iter().zip(&during) {
        ensure!(is.len() == 1 && is[0] != 2 && (was[0] == 2 || was == is), "{ways:?} {during:?}");
    }
    site.heal(&net, 2)?;
    settled(&net, "team.failback")?;
    ensure!(site.leaves_by(&mut cards[0], &frames)? == ways, "after the return");
    drop(cards);
    net.finish()
}

#[test]
fn ip_hash_refuses_standby_uplinks_and_beacons() -> Result<()> {
    let uplinks =
        "[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\n[[uplink]]\nname = \"vmnic1\"\ndevice = \"eth2\"\n";
    for (keys, words) in [
        ("standby = [\"vmnic1\"]\n", "standby of [team] goes with no load_balancing = \"ip-hash\""),
        ("failure_detection = \"beacon\"\n", "failure_detection = \"beacon\" in [team] goes with no load_balancing"),
    ] {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("switch.toml");
        let head = format!("[switch]\nname = \"vSwitch0\"\nsocket_dir = \"{}\"\n", dir.path().display());
        let rest = portgroup("Plain", "0") + &guests("Plain", 1);
        std::fs::write(&file, format!("{head}{uplinks}[team]\nload_balancing = \"ip-hash\"\n{keys}{rest}"))?;
        let output = Command::new(program()).args(["run", "-c"]).arg(&file).output()?;
        let text = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2), "{}: {text}", output.status);
        ensure!(text.contains(words) && text.contains("switch.toml:12:"), "{text}");
        ensure!(text.lines().count() == 1 && output.stdout.is_empty(), "one sentence: {text}");
    }
    Ok(())
}

#[test]
fn mac_hash_goes_by_the_source_address() -> Result<()> {
    let _alone = alone();
    let site = Site::build("machash", 3)?;
    let tables = format!("[team]\n{LINK}load_balancing = \"mac-hash\"\n") + &portgroup("Plain", "0");
    // Addresses against the order of the ports, so that port numbers cannot be what decides.
    let lasts = [0x22, 0x10, 0x09, 0x41, 0x05];
    let vnics = (1..).zip(lasts).map(|(n, last)| vnic(&format!("g{n}"), "Plain", "vmxnet3", last));
    let net = site.net("af_packet", &(tables + &vnics.collect::<String>()))?;
    let mut cards = connect(&net, 5)?;
    let look = |cards: &mut [SoftVmxnet3]| -> Result<Vec<usize>> {
        cards.iter_mut().zip(lasts).map(|(card, last)| site.way_of(card, last)).collect()
    };
    let wanted: Vec<usize> = lasts.iter().map(|last| usize::from(*last) % 3).collect();
    ensure!(wanted == [1, 1, 0, 2, 2], "the last byte modulo the uplinks");
    ensure!(look(&mut cards)? == wanted, "{:?}", look(&mut cards)?);
    site.cut(&net, 1)?;
    settled(&net, "team.failover")?;
    let during = look(&mut cards)?;
    ensure!(during[2..] == wanted[2..] && during[..2].iter().all(|w| *w != 1), "{wanted:?} {during:?}");
    site.heal(&net, 1)?;
    settled(&net, "team.failback")?;
    ensure!(look(&mut cards)? == wanted, "after the return: {:?}", look(&mut cards)?);
    drop(cards);
    net.finish()
}

#[test]
fn port_groups_have_teams_of_their_own() -> Result<()> {
    let _alone = alone();
    let site = Site::build("groups", 3)?;
    let mut tables = format!("[team]\n{LINK}load_balancing = \"explicit\"\n") + &portgroup("Default", "0");
    tables += &portgroup("Second", "0");
    tables += "[portgroup.team]\nactive = [\"vmnic1\"]\nstandby = [\"vmnic2\"]\n";
    tables += &portgroup("Third", "0");
    tables += "[portgroup.team]\nactive = [\"vmnic2\", \"vmnic0\"]\nfailback = false\n";
    for (n, group) in [(1, "Default"), (2, "Second"), (3, "Third")] {
        tables += &vnic(&format!("g{n}"), group, "vmxnet3", n);
    }
    let net = site.net("af_packet", &tables)?;
    let mut cards = connect(&net, 3)?;
    expect_ways(&site, &net, &mut cards, &[0, 1, 2])?;
    site.cut(&net, 1)?;
    expect_ways(&site, &net, &mut cards, &[0, 2, 2])?;
    site.cut(&net, 2)?;
    wait_until("the second group has no uplink", SHORT, || net.port("g2").is_ok_and(|p| p.uplink.is_none()))?;
    ensure!(told(&net, 1)? == 0 && told(&net, 3)? == 0, "the others have one");
    site.heal(&net, 1)?;
    site.heal(&net, 2)?;
    expect_ways(&site, &net, &mut cards, &[0, 1, 0])?;
    drop(cards);
    net.finish()
}

/// Frames from outside that `card` gets within a short silence, as the bytes they have.
fn received(card: &mut SoftVmxnet3) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(frame) = card.recv(QUIET)? {
        all.push(frame.bytes);
    }
    Ok(all)
}

#[test]
fn broadcasts_come_in_once_and_unicast_by_any_uplink() -> Result<()> {
    let _alone = alone();
    let site = Site::build("receive", 3)?;
    let tables = format!("[team]\n{LINK}") + &portgroup("Plain", "0") + &guests("Plain", 2);
    let net = site.net("af_packet", &tables)?;
    let mut cards = connect(&net, 2)?;
    let ways = all_told(&net, 2)?;
    ensure!(ways[0] != ways[1], "two guests on two uplinks: {ways:?}");
    let mut plugs = site.plugs()?;
    // By each cable a broadcast of its own number, so that it shows which of them a guest gets.
    for (uplink, plug) in &mut plugs {
        plug.send(&frame(BROADCAST, OUTSIDE, *uplink as u32))?;
    }
    let none = 3 - ways[0] - ways[1];
    wait_until("the one that is nobody's is counted", SHORT, || {
        drops(&net, &format!("vmnic{none}"), "not-designated").is_ok_and(|n| n == 1)
    })?;
    for (card, way) in cards.iter_mut().zip(&ways) {
        let got = received(card)?;
        ensure!(got == [frame(BROADCAST, OUTSIDE, *way as u32)], "by {way}: {got:02x?}");
    }
    for way in &ways {
        ensure!(drops(&net, &format!("vmnic{way}"), "not-designated")? == 0, "vmnic{way} is somebody's");
    }
    // To one guest, by each cable: all come in, and no other guest gets any.
    let wanted: Vec<_> = plugs.keys().map(|uplink| frame(mac(1), OUTSIDE, 100 + *uplink as u32)).collect();
    for (plug, bytes) in plugs.values_mut().zip(&wanted) {
        plug.send(bytes)?;
    }
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        got.push(cards[0].recv(SHORT)?.context("unicast by each uplink")?.bytes);
    }
    got.sort_unstable();
    ensure!(got == wanted, "{got:02x?}");
    ensure!(received(&mut cards[0])?.is_empty() && received(&mut cards[1])?.is_empty(), "once, and to one");
    drop(cards);
    net.finish()
}

/// Three guests on two uplinks, of 10 Gb/s as a veth tells: two of them fill more than 1 % of the one they share, one
/// sending four times what the other does.
#[test]
fn load_moves_the_busiest_port_off_the_busiest_uplink() -> Result<()> {
    let _alone = alone();
    let site = Site::build("load", 2)?;
    let keys = "load_balancing = \"load\"\nload_percent = 1\nload_interval_s = 1\n";
    let tables = format!("[team]\n{LINK}{keys}") + &portgroup("Plain", "0") + &guests("Plain", 3);
    let net = site.net("af_packet", &tables)?;
    let mut cards = connect(&net, 3)?;
    let before = all_told(&net, 3)?;
    ensure!(before[0] == before[2] && before[0] != before[1], "two on one uplink: {before:?}");
    ensure!(!net.switch.log().contains("team.load.moved"), "idle ports stay: {}", net.switch.log());
    let frames: Vec<Vec<u8>> = [1, 2, 3].map(|last| [frame(OUTSIDE, mac(last), 0), vec![0; 1400]].concat()).to_vec();
    let round = |cards: &mut [SoftVmxnet3]| -> Result<()> {
        for (guest, count) in [(0, 32), (2, 8)] {
            for _ in 0..count {
                cards[guest].send(&frames[guest])?;
            }
            cards[guest].flush()?;
        }
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    };
    let deadline = Instant::now() + SHORT;
    while !net.switch.log().contains("team.load.moved") {
        for _ in 0..50 {
            round(&mut cards)?;
        }
        ensure!(Instant::now() < deadline, "nothing moves: {:?}", net.switch.show()?);
    }
    let wanted = [before[1], before[1], before[0]];
    expect_ways(&site, &net, &mut cards, &wanted)?;
    drop(cards);
    net.finish()
}

/// Ids and times of the events so far, oldest first, that `about` says yes to.
fn events(net: &Net, about: &[&str]) -> Result<Vec<(String, f64)>> {
    let status = net.switch.show()?;
    let all = status["events"].as_array().context("events")?;
    let all = all.iter().map(|e| (e["id"].as_str().unwrap_or_default().to_owned(), e["at_seconds"].as_f64()));
    let wanted = all.filter(|(id, _)| about.contains(&id.as_str()));
    wanted.map(|(id, at)| Ok((id, at.context("at_seconds")?))).collect()
}

#[test]
fn a_flapping_link_is_held_down_and_one_that_returns_waits() -> Result<()> {
    const DELAY_MS: u32 = 700;
    const ABOUT: [&str; 5] =
        ["uplink.link.down", "uplink.link.up", "uplink.flapping", "team.failover", "team.failback"];
    let _alone = alone();
    let site = Site::build("flap", 2)?;
    let keys = "failure_detection = \"link\"\nload_balancing = \"explicit\"\nflap_limit = 3\n";
    let tables = format!("[team]\n{keys}up_delay_ms = {DELAY_MS}\n") + &portgroup("Plain", "0") + &guests("Plain", 1);
    let net = site.net("af_packet", &tables)?;
    let mut cards = connect(&net, 1)?;
    expect_ways(&site, &net, &mut cards, &[0])?;
    let start = events(&net, &ABOUT)?.len();
    site.cut(&net, 0)?;
    expect_ways(&site, &net, &mut cards, &[1])?;
    site.heal(&net, 0)?;
    expect_ways(&site, &net, &mut cards, &[0])?;
    let told = events(&net, &ABOUT)?.split_off(start);
    let ids: Vec<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
    ensure!(ids == ["uplink.link.down", "team.failover", "uplink.link.up", "team.failback"], "{ids:?}");
    // By the switch's own clock, at which it never fails back early.
    let waited = told[3].1 - told[2].1;
    ensure!(waited > f64::from(DELAY_MS) / 1000.0 - 0.001, "back after {waited} s: {told:?}");

    // The third link-down is one too many: from then on the link may be up as it likes.
    for _ in 0..2 {
        site.cut(&net, 0)?;
        site.physical.heal("p1")?;
        site.cut.borrow_mut().remove(&0);
        wait_until("the switch sees the cable", SHORT, || {
            let count = |id| events(&net, &[id]).map(|all| all.len()).ok();
            count("uplink.link.up").is_some_and(|ups| Some(ups) == count("uplink.link.down"))
        })?;
    }
    net.switch.wait_log("uplink.flapping", SHORT)?;
    std::thread::sleep(2 * Duration::from_millis(DELAY_MS.into()));
    expect_ways(&site, &net, &mut cards, &[1])?;
    let told = events(&net, &ABOUT)?;
    ensure!(told.iter().filter(|(id, _)| id == "uplink.flapping").count() == 1, "{told:?}");
    let held = told.iter().position(|(id, _)| id == "uplink.flapping").context("held")?;
    ensure!(told[held..].iter().all(|(id, _)| id != "team.failback"), "a held uplink came back: {told:?}");
    let status = net.switch.show()?;
    let why = &status["team"]["uplinks"][0];
    ensure!(why["state"] != "active" && why["why"].as_str().is_some_and(|w| w.contains("flap")), "{why}");
    drop(cards);
    net.finish()
}
