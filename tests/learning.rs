//! Addresses behind a port, through the whole program: what a port group with `mac_learning` learns from its guests,
//! where frames to such addresses go, and where those to addresses nobody is known to have.

mod common;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, alone, portgroup, vnic};
use testbed::netns::{Host, Lab, Tap, VethOptions, wait_until};
use testbed::soft::{SoftGuest, SoftVmxnet3, Vmxnet3Options};

const OUTSIDE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const EVERYBODY: [u8; 6] = [0xff; 6];
/// The learning port group's VLAN is 0; another one learns in this.
const OTHER_VLAN: u16 = 20;
// Guests, by their places in [`Site::guests`] and last bytes of their addresses less one.
const ONE: usize = 0;
const TWO: usize = 1;
const PLAIN: usize = 2;
const OTHER: usize = 3;

/// Two guests of a learning port group, one of a port group that does not learn in the same VLAN, and one that learns
/// in another; one uplink to a physical switch with an outside host.
struct Site {
    net: Net,
    guests: Vec<SoftVmxnet3>,
    outside: Tap,
    _hosts: [Host; 2],
    _lab: Lab,
}

impl Site {
    fn build(name: &str) -> Result<Site> {
        let lab = Lab::new(name)?;
        let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
        let options = VethOptions { offload: false, ..VethOptions::default() };
        lab.veth((&machine, "eth1"), (&physical, "p1"), &options)?;
        // A hub: a bridge that knows no VLANs would take an address seen in one for known in all.
        lab.bridge(&physical, "br0", &["p1"], true)?;
        let outside = lab.tap_on(&physical, "br0", 1500)?;
        let learning = "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n";
        let tables = "[[uplink]]\nname = \"vmnic0\"\ndevice = \"eth1\"\ndriver = \"af_packet\"\n".to_owned()
            + &(portgroup("Nested", "0") + learning)
            + &(portgroup("Other", &OTHER_VLAN.to_string()) + learning)
            + &portgroup("Plain", "0")
            + &vnic("one", "Nested", "vmxnet3", 1)
            + &vnic("two", "Nested", "vmxnet3", 2)
            + &vnic("plain", "Plain", "vmxnet3", 3)
            + &vnic("other", "Other", "vmxnet3", 4);
        let net = Net::start(Some(machine.namespace()), "", &tables)?;
        let connect = |name: &str| SoftVmxnet3::connect(&net.switch.socket(name), Vmxnet3Options::default());
        let guests = ["one", "two", "plain", "other"].into_iter().map(connect).collect::<Result<Vec<_>>>()?;
        wait_until("the uplink is up", SHORT, || {
            net.port("vmnic0").is_ok_and(|p| p.link == control::api::LinkStatus::Up)
        })?;
        Ok(Site { net, guests, outside, _hosts: [machine, physical], _lab: lab })
    }

    /// Guest `from` sends one frame; returns, guest by guest, how many copies each got.
    fn send(&mut self, from: usize, dst: [u8; 6], src: [u8; 6], number: u32) -> Result<[usize; 4]> {
        self.guests[from].send(&frame(dst, src, number))?;
        // Once the frame is complete at its sender, every local copy of it lies in its receiver's ring.
        self.guests[from].flush()?;
        let mut counts = [0; 4];
        for (guest, count) in self.guests.iter_mut().zip(&mut counts) {
            while let Some(received) = guest.recv(Duration::from_millis(20))? {
                *count += usize::from(number_of(&received.bytes) == Some(number));
            }
        }
        Ok(counts)
    }

    /// The outside host sends one frame, tagged when `vid` is not 0, and a broadcast after it; returns how many copies
    /// of the first each guest has got when it has the second. For guests of another VLAN that is 0.
    fn send_in(&mut self, vid: u16, dst: [u8; 6], number: u32) -> Result<[usize; 4]> {
        let marker = number + 1_000_000;
        for (dst, vid, number) in [(dst, vid, number), (EVERYBODY, 0, marker), (EVERYBODY, OTHER_VLAN, marker)] {
            self.outside.send(&tagged(frame(dst, OUTSIDE, number), vid))?;
        }
        let mut counts = [0; 4];
        for (index, (guest, count)) in self.guests.iter_mut().zip(&mut counts).enumerate() {
            loop {
                let received = guest.recv(SHORT)?.with_context(|| format!("guest {index} gets broadcasts"))?;
                match number_of(&received.bytes) {
                    Some(n) if n == number => *count += 1,
                    Some(n) if n == marker => break,
                    _ => {}
                }
            }
        }
        Ok(counts)
    }

    /// True when frame `number` of guest `from` left by the uplink, before the broadcast that follows it.
    fn left(&mut self, from: usize, number: u32) -> Result<bool> {
        let marker = number + 2_000_000;
        let src = own(from);
        self.send(from, EVERYBODY, src, marker)?;
        let mut seen = false;
        loop {
            let bytes = self.outside.recv(SHORT)?.context("the outside host gets broadcasts")?;
            match number_of(&untagged(&bytes)) {
                Some(n) if n == number => seen = true,
                Some(n) if n == marker => return Ok(seen),
                _ => {}
            }
        }
    }

    fn finish(self) -> Result<()> {
        drop(self.guests);
        self.net.finish()
    }
}

/// The assigned address of a guest.
fn own(guest: usize) -> [u8; 6] {
    [0x00, 0x50, 0x56, 0, 0, guest as u8 + 1]
}

/// The `n`th address behind guest `guest`.
fn behind(guest: usize, n: u32) -> [u8; 6] {
    let [_, a, b, c] = n.to_be_bytes();
    [0x0a, 0, guest as u8, a, b, c]
}

fn frame(dst: [u8; 6], src: [u8; 6], number: u32) -> Vec<u8> {
    let mut bytes = [&dst[..], &src, &[0x88, 0xb6], &number.to_be_bytes()].concat();
    bytes.resize(60, 0);
    bytes
}

fn tagged(mut bytes: Vec<u8>, vid: u16) -> Vec<u8> {
    if vid != 0 {
        let [high, low] = vid.to_be_bytes();
        bytes.splice(12..12, [0x81, 0x00, high, low]);
    }
    bytes
}

fn untagged(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.get(12..14) == Some(&[0x81, 0x00]) {
        bytes.drain(12..16);
    }
    bytes
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    (bytes.get(12..14)? == [0x88, 0xb6]).then(|| bytes.get(14..18)?.try_into().ok().map(u32::from_be_bytes))?
}

/// Between guests: an address is learnt where it sends from, frames to it go there alone; unknown ones go to the
/// learning ports of their VLAN and to the uplink; an address moves with its sender.
#[test]
fn guests_reach_addresses_behind_ports() -> Result<()> {
    let _alone = alone();
    let mut site = Site::build("learn")?;
    let (inner, unknown) = (behind(TWO, 1), behind(9, 9));

    // Before anything was learnt: to the other learning port of the VLAN, and out.
    ensure!(site.send(ONE, inner, own(ONE), 1)? == [0, 1, 0, 0], "an unknown address is flooded to learning ports");
    ensure!(site.left(ONE, 1)?, "and leaves by the uplink as before");

    site.send(TWO, EVERYBODY, inner, 2)?;
    ensure!(site.send(ONE, inner, own(ONE), 3)? == [0, 1, 0, 0], "a learnt address");
    ensure!(!site.left(ONE, 3)?, "is nobody else's business");
    ensure!(site.send(PLAIN, inner, own(PLAIN), 4)? == [0, 1, 0, 0], "a port that does not learn reaches it too");
    ensure!(!site.left(PLAIN, 4)?);
    ensure!(site.send(PLAIN, unknown, own(PLAIN), 5)? == [1, 1, 0, 0], "the unknown goes to both learning ports");
    ensure!(site.left(PLAIN, 5)?);

    ensure!(site.send(OTHER, inner, own(OTHER), 6)? == [0; 4], "another VLAN knows nothing of it");
    ensure!(site.left(OTHER, 6)?, "and sends it out");
    ensure!(site.send(ONE, own(OTHER), own(ONE), 7)? == [0, 1, 0, 0], "nor is it flooded into another VLAN");

    site.send(ONE, EVERYBODY, inner, 8)?;
    ensure!(site.send(PLAIN, inner, own(PLAIN), 9)? == [1, 0, 0, 0], "the address has moved");
    ensure!(site.send(TWO, inner, own(TWO), 10)? == [1, 0, 0, 0], "for its former port too");
    ensure!(site.send(ONE, inner, own(ONE), 11)? == [0; 4], "what is behind the sender itself goes nowhere");
    site.finish()
}

/// The addresses the configuration assigned are never learnt, whoever sends from them, and never flooded.
#[test]
fn assigned_addresses_stay() -> Result<()> {
    let _alone = alone();
    let mut site = Site::build("fixed")?;
    ensure!(site.send(ONE, own(PLAIN), own(ONE), 1)? == [0, 0, 1, 0], "an assigned address is not flooded");
    for (number, stolen) in [(10, PLAIN), (20, TWO)] {
        site.send(ONE, EVERYBODY, own(stolen), number)?;
        let mut expected = [0; 4];
        expected[stolen] = 1;
        let sender = if stolen == PLAIN { TWO } else { PLAIN };
        ensure!(site.send(sender, own(stolen), own(sender), number + 1)? == expected, "{stolen} keeps its address");
    }
    // Nor a group address as a sender.
    site.send(ONE, EVERYBODY, [0x01, 0, 0x5e, 0, 0, 1], 30)?;
    ensure!(site.send(TWO, EVERYBODY, own(TWO), 31)? == [1, 0, 1, 0], "broadcasts go on to all");
    site.finish()
}

/// From outside: a learnt address gets its frames, an unknown one is flooded to the learning ports of its VLAN, and
/// where there are none the frame is `no-match`.
#[test]
fn the_uplink_reaches_addresses_behind_ports() -> Result<()> {
    let _alone = alone();
    let mut site = Site::build("inward")?;
    let (inner, unknown) = (behind(TWO, 1), behind(9, 9));
    ensure!(site.send_in(0, inner, 1)? == [1, 1, 0, 0], "flooded to the learning ports while it is unknown");
    site.send(TWO, EVERYBODY, inner, 2)?;
    ensure!(site.send_in(0, inner, 3)? == [0, 1, 0, 0], "learnt");
    ensure!(site.send_in(0, unknown, 4)? == [1, 1, 0, 0]);
    ensure!(site.send_in(OTHER_VLAN, inner, 5)? == [0, 0, 0, 1], "unknown there, and flooded there");
    ensure!(site.send_in(0, own(PLAIN), 6)? == [0, 0, 1, 0], "an assigned address as ever");
    // What comes in by the uplink teaches nothing: the outside host is out there, not behind a port.
    ensure!(site.send(ONE, OUTSIDE, own(ONE), 7)? == [0, 1, 0, 0]);
    ensure!(site.left(ONE, 7)?);

    let no_match = |site: &Site| -> Result<u64> {
        Ok(site.net.port("vmnic0")?.drops.get("no-match").copied().unwrap_or_default())
    };
    let before = no_match(&site)?;
    ensure!(site.send_in(30, unknown, 8)? == [0; 4], "a VLAN without ports");
    wait_until("the frame is counted", SHORT, || no_match(&site).is_ok_and(|n| n == before + 1))?;
    site.finish()
}

/// A port that sends from 100,000 addresses takes nothing from its neighbour, whose 256 go on as before.
#[test]
fn a_flood_of_addresses_pushes_nobody_out() -> Result<()> {
    const NEIGHBOURS: u32 = 256;
    const FLOOD: u32 = 100_000;
    let _alone = alone();
    let mut site = Site::build("flood")?;
    let settle = |guests: &mut [SoftVmxnet3], from: usize| -> Result<()> {
        guests[from].flush()?;
        guests[PLAIN].drain().map(|_| ())
    };
    for n in 0..NEIGHBOURS {
        site.guests[TWO].send(&frame(own(PLAIN), behind(TWO, n), n))?;
        if n % 64 == 0 {
            settle(&mut site.guests, TWO)?;
        }
    }
    settle(&mut site.guests, TWO)?;
    for n in 0..FLOOD {
        site.guests[ONE].send(&frame(own(PLAIN), behind(ONE, n), n))?;
        if n % 64 == 0 {
            settle(&mut site.guests, ONE)?;
        }
    }
    settle(&mut site.guests, ONE)?;
    for n in 0..NEIGHBOURS {
        site.guests[PLAIN].send(&frame(behind(TWO, n), own(PLAIN), n))?;
        site.guests[PLAIN].flush()?;
        let received = site.guests[TWO].recv(SHORT)?.with_context(|| format!("address {n} is reached"))?;
        ensure!(number_of(&received.bytes) == Some(n), "frames of address {n} in order");
    }
    let stray = std::iter::from_fn(|| site.guests[ONE].recv(Duration::from_millis(20)).transpose());
    let stray: Vec<_> = stray.collect::<Result<Vec<_>>>()?;
    let copies = stray.iter().filter(|r| r.bytes.get(..3) == Some(&[0x0a, 0, TWO as u8][..])).count();
    ensure!(copies == 0, "{copies} of {NEIGHBOURS} frames were flooded: their addresses were pushed out");
    site.finish()
}
