//! Failover by the clock: what is lost between a cut and the first frame on the new uplink, measured in
//! namespaces with a soft guest that sends once a millisecond.
//!
//! Nothing here asserts a time: the table is printed, and kept in `target/failover.md`. What is asserted is that
//! traffic goes on, and that the guest gets every frame once.

mod common;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, alone, portgroup, vnic};
use testbed::netns::{Host, Lab, Tap, VethOptions, wait_until};
use testbed::soft::{SoftGuest, SoftVmxnet3, Vmxnet3Options};

/// The outside host all frames go to.
const OUTSIDE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const GUEST: [u8; 6] = [0x00, 0x50, 0x56, 0, 0, 1];
const BEACON_MS: u64 = 100;

struct Site {
    _lab: Lab,
    machine: Host,
    physical: Host,
    outside: Tap,
}

impl Site {
    /// `uplinks` cables from the switch's machine to one physical switch, and an outside host on it.
    fn build(name: &str, uplinks: usize) -> Result<Site> {
        let lab = Lab::new(name)?;
        let [machine, physical] = [lab.host("sw")?, lab.host("phys")?];
        let plugs: Vec<String> = (1..=uplinks).map(|n| format!("p{n}")).collect();
        for (number, plug) in plugs.iter().enumerate() {
            let options = VethOptions { offload: false, ..VethOptions::default() };
            lab.veth((&machine, &format!("eth{}", number + 1)), (&physical, plug), &options)?;
        }
        lab.bridge(&physical, "br0", &plugs.iter().map(String::as_str).collect::<Vec<_>>(), false)?;
        let outside = lab.tap_on(&physical, "br0", 1500)?;
        Ok(Site { _lab: lab, machine, physical, outside })
    }

    fn net(&self, uplinks: usize, driver: &str, detection: &str) -> Result<Net> {
        let mut tables = String::new();
        for n in 0..uplinks {
            let _ =
                write!(tables, "[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"{driver}\"\n", n + 1);
        }
        let _ = write!(tables, "[team]\nfailure_detection = \"{detection}\"\n[beacon]\ninterval_ms = {BEACON_MS}\n");
        tables += &(portgroup("Plain", "0") + &vnic("web1", "Plain", "vmxnet3", 1));
        Net::start(Some(self.machine.namespace()), "", &tables)
    }
}

fn frame(dst: [u8; 6], src: [u8; 6], number: u32) -> Vec<u8> {
    let mut bytes = [&dst[..], &src, &[0x88, 0xb6], &number.to_be_bytes()].concat();
    bytes.resize(60, 0);
    bytes
}

/// The number in a frame that [`frame`] made for `dst`.
fn number(bytes: &[u8], dst: [u8; 6]) -> Option<u32> {
    let is_ours = bytes.get(..6)? == dst && bytes.get(12..14)? == [0x88, 0xb6];
    is_ours.then(|| bytes.get(14..18)?.try_into().ok().map(u32::from_be_bytes))?
}

struct Arrival {
    number: u32,
    at: Instant,
}

/// Sends a numbered frame each millisecond from the guest while `act` does something to the network;
/// returns what reached the outside host and how many were sent.
fn stream(
    guest: &mut SoftVmxnet3,
    outside: &Tap,
    length: Duration,
    act: impl FnOnce() -> Result<Instant>,
) -> Result<(Vec<Arrival>, u32, Instant)> {
    let done = AtomicBool::new(false);
    let (mut arrivals, mut sent) = (Vec::new(), 0);
    let cut = std::thread::scope(|scope| -> Result<Instant> {
        let receiver = scope.spawn(|| -> Result<Vec<Arrival>> {
            let mut got = Vec::new();
            while !done.load(Ordering::Relaxed) {
                if let Some(bytes) = outside.recv(Duration::from_millis(20))?
                    && let Some(number) = number(&bytes, OUTSIDE)
                {
                    got.push(Arrival { number, at: Instant::now() });
                }
            }
            Ok(got)
        });
        let sender = scope.spawn(|| -> Result<u32> {
            let end = Instant::now() + length;
            let mut number = 0;
            while Instant::now() < end {
                guest.send(&frame(OUTSIDE, GUEST, number))?;
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            guest.flush()?;
            Ok(number)
        });
        std::thread::sleep(length / 4);
        let cut = act();
        sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        std::thread::sleep(Duration::from_millis(50));
        done.store(true, Ordering::Relaxed);
        arrivals = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        cut
    })?;
    Ok((arrivals, sent, cut))
}

/// The longest silence around `cut`, from the cut to its end, and the frames that are missing.
fn outage(arrivals: &[Arrival], sent: u32, cut: Instant) -> Result<(Duration, usize)> {
    let before = arrivals.iter().rposition(|a| a.at < cut).context("frames arrived before the cut")?;
    let mut longest = Duration::ZERO;
    for pair in arrivals[before..].windows(2) {
        let gap = pair[1].at - pair[0].at;
        if gap > longest && pair[0].at < cut + Duration::from_secs(2) {
            longest = gap;
        }
    }
    let mut seen: Vec<u32> = arrivals.iter().map(|a| a.number).collect();
    seen.sort_unstable();
    seen.dedup();
    ensure!(seen.last() > Some(&(sent - 50)), "traffic did not go on: {:?} of {sent}", seen.last());
    Ok((longest, sent as usize - seen.len()))
}

fn wait_beacons(net: &Net, uplinks: usize) -> Result<()> {
    wait_until("every uplink's beacons are heard", SHORT, || {
        let ok = net.switch.show().ok().and_then(|s| s["team"]["uplinks"].as_array().cloned()).unwrap_or_default();
        ok.len() == uplinks && ok.iter().all(|u| u["beacon"] == "ok")
    })
}

/// Two, three and four uplinks, both drivers: the cable of the uplink in use is cut; then, healed, the path
/// behind it is cut while its link stays up.
#[test]
fn cuts_are_survived() -> Result<()> {
    let _alone = alone();
    let mut table = String::from(
        "| uplinks | driver | cut | silence, ms | frames lost of those sent each 1 ms |\n|---|---|---|---|---|\n",
    );
    for uplinks in 2..=4 {
        for driver in ["af_packet", "af_xdp"] {
            let site = Site::build("cuts", uplinks)?;
            let net = site.net(uplinks, driver, "beacon")?;
            let mut guest = SoftVmxnet3::connect(&net.switch.socket("web1"), Vmxnet3Options::default())?;
            // The physical switch learns where the outside host is.
            site.outside.send(&frame([0xff; 6], OUTSIDE, 0))?;
            wait_beacons(&net, uplinks)?;
            for (what, length) in [("cable", Duration::from_secs(2)), ("upstream", Duration::from_secs(4))] {
                let (arrivals, sent, cut) = stream(&mut guest, &site.outside, length, || {
                    let at = Instant::now();
                    match what {
                        "cable" => site.physical.cut("p1")?,
                        _ => site.physical.unplug("p1")?,
                    }
                    Ok(at)
                })?;
                let (silence, lost) = outage(&arrivals, sent, cut)
                    .with_context(|| format!("{uplinks} {driver} {what}: {}", net.switch.log()))?;
                let _ =
                    writeln!(table, "| {uplinks} | {driver} | {what} | {} | {lost} of {sent} |", silence.as_millis());
                match what {
                    "cable" => site.physical.heal("p1")?,
                    _ => site.physical.plug("br0", "p1")?,
                }
                wait_beacons(&net, uplinks)?;
            }
            let log = net.switch.log();
            ensure!(log.contains("uplink.link.down") && log.contains("beacon."), "events have stable ids: {log}");
            drop(guest);
            net.finish()?;
        }
    }
    println!("{table}");
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    std::fs::write(target.join("failover.md"), &table)?;
    Ok(())
}

/// Two uplinks into two physical switches that do not hear each other: a tie. Frames leave by both; the guest
/// gets one copy of what comes in, by whichever uplink lives.
#[test]
fn shotgun_sends_by_both_and_receives_once() -> Result<()> {
    let _alone = alone();
    let site = Site::build("shotgun", 2)?;
    let other = site._lab.host("phys2")?;
    let net = site.net(2, "af_packet", "beacon")?;
    let mut guest = SoftVmxnet3::connect(&net.switch.socket("web1"), Vmxnet3Options::default())?;
    wait_beacons(&net, 2)?;
    // p2 leaves the first switch for a second one of its own, in the same namespace.
    drop(other);
    site.physical.unplug("p2")?;
    site._lab.bridge(&site.physical, "br1", &["p2"], false)?;
    let second = site._lab.tap_on(&site.physical, "br1", 1500)?;
    net.switch.wait_log("beacon.shotgun.on", SHORT)?;

    let mine = |bytes: &[u8]| number(bytes, OUTSIDE) == Some(77);
    guest.send(&frame(OUTSIDE, GUEST, 77))?;
    for (name, tap) in [("first", &site.outside), ("second", &second)] {
        ensure!(tap.recv_where(Duration::from_secs(2), mine)?.is_some(), "the {name} switch gets the frame");
        ensure!(tap.recv_where(Duration::from_millis(100), mine)?.is_none(), "and gets it once");
    }
    // Broadcasts on one side only: the guest gets each of them once, after the switch has seen which side lives.
    for (side, tap) in [(0u32, &site.outside), (1, &second)] {
        let base = 1000 * (side + 1);
        for n in 0..20 {
            tap.send(&frame([0xff; 6], OUTSIDE, base + n))?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut got = Vec::new();
        while let Some(received) = guest.recv(Duration::from_millis(100))? {
            got.extend(number(&received.bytes, [0xff; 6]).filter(|n| (base..base + 20).contains(n)));
        }
        let mut once = got.clone();
        once.dedup();
        ensure!(got == once && got.len() >= 10 && got.last() == Some(&(base + 19)), "side {side}: {got:?}");
    }
    drop(guest);
    net.finish()
}

/// CPU time of the switch and its beacons sent and heard, over [`COST_SECONDS`].
fn cost(site: &Site, detection: &str) -> Result<(u64, u64, f64)> {
    let mut tables = format!("[team]\nfailure_detection = \"{detection}\"\n");
    for n in 0..4 {
        let _ = write!(tables, "[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"af_packet\"\n", n + 1);
    }
    for vlan in 1..=COST_VLANS {
        tables += &portgroup(&format!("v{vlan}"), &vlan.to_string());
    }
    tables += &vnic("web1", "v1", "vmxnet3", 1);
    let net = Net::start(Some(site.machine.namespace()), "", &tables)?;
    if detection == "beacon" {
        wait_beacons(&net, 4)?;
    }
    let look = || -> Result<(u64, u64, i64)> {
        let status = net.switch.show()?;
        let ports = status["ports"].as_array().context("ports")?;
        let sum = |field: &str| ports.iter().filter_map(|p| p["beacons"][field].as_u64()).sum::<u64>();
        // User and system time in clock ticks of 10 ms: fields 14 and 15 of proc(5), of which two are cut off.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", net.switch.pid()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
        let fields: Vec<i64> = fields.filter_map(|f| f.parse().ok()).collect();
        Ok((sum("sent"), sum("heard"), 10 * (fields[10] + fields[11])))
    };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(COST_SECONDS));
    let after = look()?;
    net.finish()?;
    let percent = (after.2 - before.2) as f64 / (10 * COST_SECONDS) as f64;
    Ok((after.0 - before.0, after.1 - before.1, percent))
}

const COST_VLANS: u64 = 100;
const COST_SECONDS: u64 = 10;

/// What beacons cost: 4 uplinks, 100 VLANs, one beacon a second on each, beside the same switch without
/// beacons. The figures are printed.
#[test]
fn what_beacons_cost() -> Result<()> {
    let _alone = alone();
    let site = Site::build("cost", 4)?;
    let idle = cost(&site, "link")?;
    let (sent, heard, percent) = cost(&site, "beacon")?;
    println!(
        "4 uplinks x {COST_VLANS} VLANs, interval 1 s: {} beacons/s sent, {} heard; the process takes {percent:.1} % of a CPU, \
         {:.1} % without beacons",
        sent / COST_SECONDS,
        heard / COST_SECONDS,
        idle.2
    );
    ensure!(idle.0 == 0, "no beacons without failure_detection = \"beacon\"");
    ensure!(sent >= 4 * COST_VLANS * (COST_SECONDS - 1) && heard >= 3 * sent * 9 / 10, "{sent} sent, {heard} heard");
    Ok(())
}
