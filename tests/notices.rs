//! Notify switches, seen on the cables: which announcement (RARP) of which guest's address leaves by which uplink,
//! with which tag, and how often.
//!
//! ```text
//!   guest (soft) -- switch in "sw" --+-- eth1 === p1 -- br1 -- tap 0   two physical switches that do not hear
//!                                    +-- eth2 === p2 -- br2 -- tap 1   each other: each tap sees one uplink
//! ```

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, alone, portgroup, vnic};
use testbed::netns::{Host, Lab, Tap, VethOptions};
use testbed::soft::{SoftGuest, SoftVmxnet3, Vmxnet3Options};
use wire::Mac;

const OUTSIDE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
/// The addresses of the guests on `ten1` (port group Ten, VLAN 10) and `plain1` (Plain, untagged).
const TEN: Mac = Mac([0x00, 0x50, 0x56, 0, 0, 1]);
const PLAIN: Mac = Mac([0x00, 0x50, 0x56, 0, 0, 2]);
/// The address of the guest on `all1`, which tags for itself.
const ALL: Mac = Mac([0x00, 0x50, 0x56, 0, 0, 3]);
/// A guest that may use every VLAN is announced in its first so many, untagged among them.
const TAGGED_VLANS: u16 = 16;
/// An address that a guest gives itself.
const CHOSEN: Mac = Mac([0x00, 0x50, 0x56, 0, 0, 0x77]);
/// Announcements of one event: at once, and five repetitions, the last of them 12 s after the first.
const SERIES: usize = 6;

/// A switch with two uplinks, and its physical network.
struct Site {
    net: Net,
    physical: Host,
    /// What comes out of `vmnic0` and `vmnic1`.
    taps: [Tap; 2],
    _lab: Lab,
}

/// An announcement that came out of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Notice {
    mac: Mac,
    vlan: Option<u16>,
}

/// What the guests are announced as.
const ON_TEN: Notice = Notice { mac: TEN, vlan: Some(10) };
const ON_PLAIN: Notice = Notice { mac: PLAIN, vlan: None };

/// Takes a frame for an announcement, if it is one: every field of it is looked at.
fn notice(bytes: &[u8]) -> Result<Option<Notice>> {
    let tagged = bytes.get(12..14) == Some(&[0x81, 0x00]);
    let (vlan, rest) = match tagged {
        true => (Some(u16::from_be_bytes([bytes[14], bytes[15]]) & 0xfff), &bytes[16..]),
        false => (None, &bytes[12..]),
    };
    if rest.get(..2) != Some(&[0x80, 0x35]) {
        return Ok(None);
    }
    let mac = Mac(bytes[6..12].try_into()?);
    let asks = [&[0, 1, 8, 0, 6, 4, 0, 3][..], &mac.0, &[0; 4], &mac.0, &[0; 4]].concat();
    ensure!(bytes[..6] == [0xff; 6] && rest[2..30] == asks, "a request for the sender's own address: {bytes:02x?}");
    ensure!(bytes.len() >= 60, "{} bytes are too short for Ethernet", bytes.len());
    Ok(Some(Notice { mac, vlan }))
}

/// All announcements that `tap` has received by now.
fn waiting(tap: &Tap) -> Result<Vec<Notice>> {
    let mut notices = Vec::new();
    while let Some(bytes) = tap.recv(Duration::ZERO)? {
        notices.extend(notice(&bytes)?);
    }
    Ok(notices)
}

impl Site {
    /// `team` are keys of the `[team]` section, `security` of `[portgroup.security]` of both port groups.
    fn start(name: &str, team: &str, security: &str) -> Result<Site> {
        let lab = Lab::new(name)?;
        let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
        let mut tables = String::new();
        let mut taps = Vec::new();
        for n in 0..2 {
            let (plug, bridge) = (format!("p{}", n + 1), format!("br{}", n + 1));
            let options = VethOptions { offload: false, ..VethOptions::default() };
            lab.veth((&machine, &format!("eth{}", n + 1)), (&physical, &plug), &options)?;
            lab.bridge(&physical, &bridge, &[&plug], false)?;
            taps.push(lab.tap_on(&physical, &bridge, 1500)?);
            tables += &format!("[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"af_packet\"\n", n + 1);
        }
        // One uplink in use, the other one waiting: so it is known which one a guest is on.
        tables +=
            &format!("[team]\nfailure_detection = \"link\"\nactive = [\"vmnic0\"]\nstandby = [\"vmnic1\"]\n{team}\n");
        for (group, vlan) in [("Ten", "10"), ("Plain", "0")] {
            tables += &format!("{}[portgroup.security]\n{security}\n", portgroup(group, vlan));
        }
        tables += &(portgroup("All", "4095") + &vnic("all1", "All", "vmxnet3", 3));
        tables += &vnic("ten1", "Ten", "vmxnet3", 1);
        tables += &vnic("plain1", "Plain", "vmxnet3", 2);
        let net = Net::start(Some(machine.namespace()), "", &tables)?;
        let taps = taps.try_into().ok().context("two taps")?;
        Ok(Site { net, physical, taps, _lab: lab })
    }

    fn connect(&self, vnic: &str) -> Result<SoftVmxnet3> {
        SoftVmxnet3::connect(&self.net.switch.socket(vnic), Vmxnet3Options::default())
    }

    /// Waits for the next announcement of that address by uplink `number`, and expects it to be `expected`.
    fn next_is(&self, number: usize, expected: Notice) -> Result<()> {
        let deadline = Instant::now() + SHORT;
        while let Some(bytes) = self.taps[number].recv(deadline.saturating_duration_since(Instant::now()))? {
            if let Some(seen) = notice(&bytes)?.filter(|seen| seen.mac == expected.mac) {
                ensure!(seen == expected, "by vmnic{number}: {seen:?} instead of {expected:?}");
                return Ok(());
            }
        }
        anyhow::bail!("no announcement by vmnic{number}, expected {expected:?}: {}", self.net.switch.log())
    }

    /// Frames of the switch's own making that left by uplink `number`: without beacons, announcements.
    fn originated(&self, number: usize) -> Result<u64> {
        Ok(self.net.port(&format!("vmnic{number}"))?.output.originated)
    }
}

/// What is announced where a guest connects: its address, by the uplink it is on, tagged as its frames are.
#[test]
fn a_guest_that_connects_is_announced_on_its_uplink() -> Result<()> {
    let _alone = alone();
    let site = Site::start("connects", "", "")?;
    ensure!(site.originated(0)? == 0, "nobody is announced before it is there");
    let mut guests = Vec::new();
    for (vnic, expected) in [("ten1", ON_TEN), ("plain1", ON_PLAIN)] {
        guests.push(site.connect(vnic)?);
        site.next_is(0, expected)?;
    }
    ensure!(waiting(&site.taps[0])?.iter().all(|seen| [ON_TEN, ON_PLAIN].contains(seen)), "and nothing else");
    ensure!(site.originated(1)? == 0 && waiting(&site.taps[1])?.is_empty(), "nothing by the uplink that waits");
    drop(guests);
    site.net.finish()
}

/// The guests move to the other uplink and back: each time the one they are on now announces them.
#[test]
fn failover_and_failback_are_announced_by_the_uplink_moved_to() -> Result<()> {
    let _alone = alone();
    let site = Site::start("moves", "", "")?;
    let guests = [site.connect("ten1")?, site.connect("plain1")?];
    for expected in [ON_TEN, ON_PLAIN] {
        site.next_is(0, expected)?;
    }
    ensure!(site.originated(1)? == 0, "nothing by vmnic1 yet");
    site.physical.cut("p1")?;
    for expected in [ON_TEN, ON_PLAIN] {
        site.next_is(1, expected)?;
    }
    site.net.switch.wait_log("team.failover", SHORT)?;
    waiting(&site.taps[0])?;
    let by_old = site.originated(0)?;
    site.physical.heal("p1")?;
    for expected in [ON_TEN, ON_PLAIN] {
        site.next_is(0, expected)?;
    }
    site.net.switch.wait_log("team.failback", SHORT)?;
    ensure!(site.originated(0)? >= by_old + 2, "{by_old} by vmnic0 before the failback");
    // What was left of the series of the failover is dropped: nobody is to learn the old place again.
    waiting(&site.taps[1])?;
    let by_new = site.originated(1)?;
    for expected in [ON_TEN, ON_PLAIN] {
        site.next_is(0, expected)?;
    }
    ensure!(site.originated(1)? == by_new && waiting(&site.taps[1])?.is_empty(), "the left uplink is silent");
    drop(guests);
    site.net.finish()
}

/// A guest that changes its address is announced by the new one where it may, and by the old one alone elsewhere.
#[test]
fn a_changed_address_is_announced_where_it_may_change() -> Result<()> {
    let _alone = alone();
    for may in [true, false] {
        let site = Site::start("changes", "", &format!("mac_changes = {may}"))?;
        let mut guest = site.connect("ten1")?;
        site.next_is(0, ON_TEN)?;
        guest.set_mac(CHOSEN)?;
        if may {
            site.next_is(0, Notice { mac: CHOSEN, vlan: Some(10) })?;
            waiting(&site.taps[0])?;
            // The old address is the guest's no longer: its repetitions are gone.
            site.next_is(0, Notice { mac: CHOSEN, vlan: Some(10) })?;
            ensure!(waiting(&site.taps[0])?.iter().all(|seen| seen.mac == CHOSEN), "the old address is announced");
        } else {
            // Two repetitions, the second a second after the change at least.
            for _ in 0..2 {
                let next = site.taps[0].recv_where(SHORT, |bytes| bytes.get(16..18) == Some(&[0x80, 0x35]))?;
                let seen = notice(&next.context("no announcement")?)?;
                ensure!(seen == Some(ON_TEN), "{seen:?} of a guest that may not change its address");
            }
        }
        drop(guest);
        site.net.finish()?;
    }
    Ok(())
}

/// A frame of the guest's with a number.
fn frame(src: Mac, number: u32) -> Vec<u8> {
    let mut bytes = [&OUTSIDE[..], &src.0, &[0x88, 0xb6], &number.to_be_bytes()].concat();
    bytes.resize(60, 0);
    bytes
}

/// With `notify_switches = false` nothing is announced: not on connecting, moving, or changing the address. That each
/// has happened is seen by a frame of the guest's.
#[test]
fn nothing_is_announced_when_it_is_switched_off() -> Result<()> {
    let _alone = alone();
    let site = Site::start("silent", "notify_switches = false", "mac_changes = true")?;
    let mut guest = site.connect("plain1")?;
    let mut expect = |number: u32, uplink: usize, mac: Mac| -> Result<()> {
        if mac != PLAIN {
            guest.set_mac(mac)?;
        }
        let wanted = frame(mac, number);
        let mut seen = Vec::new();
        let deadline = Instant::now() + SHORT;
        // Again and again: the physical switch's port forwards a while after its link is up.
        while Instant::now() < deadline {
            guest.send(&wanted)?;
            while let Some(bytes) = site.taps[uplink].recv(Duration::from_millis(100))? {
                seen.extend(notice(&bytes)?);
                if bytes == wanted {
                    ensure!(seen.is_empty(), "by vmnic{uplink}: {seen:?}");
                    return Ok(());
                }
            }
        }
        anyhow::bail!("frame {number} does not arrive by vmnic{uplink}")
    };
    expect(1, 0, PLAIN)?;
    site.physical.cut("p1")?;
    site.net.switch.wait_log("team.failover", SHORT)?;
    expect(2, 1, PLAIN)?;
    site.physical.heal("p1")?;
    site.net.switch.wait_log("team.failback", SHORT)?;
    expect(3, 0, PLAIN)?;
    expect(4, 0, CHOSEN)?;
    drop(guest);
    ensure!(site.originated(0)? == 0 && site.originated(1)? == 0, "the switch sends nothing of its own making");
    site.net.finish()
}

/// A guest that tags for itself is announced with tags, in so many of its VLANs and no more.
#[test]
fn a_guest_that_tags_is_announced_in_a_few_vlans() -> Result<()> {
    let _alone = alone();
    let site = Site::start("tags", "", "")?;
    let guest = site.connect("all1")?;
    let mut first = Vec::new();
    // The first repetition ends it: by then every VLAN has had its first.
    loop {
        let next = site.taps[0].recv_where(SHORT, |bytes| notice(bytes).is_ok_and(|seen| seen.is_some()))?;
        let seen = notice(&next.context("no announcement")?)?.context("an announcement")?;
        ensure!(seen.mac == ALL, "{seen:?}");
        if first.contains(&seen.vlan) {
            break;
        }
        first.push(seen.vlan);
    }
    first.sort_unstable();
    let expected: Vec<_> = std::iter::once(None).chain((1..TAGGED_VLANS).map(Some)).collect();
    ensure!(first == expected, "{first:?}");
    drop(guest);
    site.net.finish()
}

/// One event is announced six times and no more; the guest's next event starts a series anew.
#[test]
fn a_series_ends() -> Result<()> {
    let _alone = alone();
    let site = Site::start("series", "", "mac_changes = true")?;
    let mut guest = site.connect("ten1")?;
    for _ in 0..SERIES {
        site.next_is(0, ON_TEN)?;
    }
    // The sixth came 5 s after the fifth.
    let more = site.taps[0].recv_where(Duration::from_secs(7), |bytes| bytes.get(16..18) == Some(&[0x80, 0x35]))?;
    ensure!(more.is_none(), "a seventh announcement: {more:02x?}");
    ensure!(site.originated(0)? == SERIES as u64, "{} sent", site.originated(0)?);
    guest.set_mac(CHOSEN)?;
    site.next_is(0, Notice { mac: CHOSEN, vlan: Some(10) })?;
    drop(guest);
    site.net.finish()
}
