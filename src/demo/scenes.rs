//! What is shown, one claim a scene.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use control::api::LinkStatus;

use super::network::Network;
use super::stage::Stage;

const WEB: usize = 0;
const OLD: usize = 1;
const LAB: usize = 2;
const WEB_ADDRESS: &str = "10.0.0.1";
const OLD_ADDRESS: &str = "10.0.0.2";
const LAB_ADDRESS: &str = "10.0.0.3";
const OUTSIDE: &str = "10.0.0.100";
/// Frames for unknown addresses that the flood sends.
const FLOOD: u16 = 2000;

/// Plays all scenes in order.
pub(super) fn play(stage: &Stage, network: &mut Network) -> Result<()> {
    one_vlan(stage, network)?;
    another_vlan(stage, network)?;
    bulk(stage, network)?;
    flood(stage, network)?;
    cable(stage, network)?;
    upstream(stage, network)
}

fn one_vlan(stage: &Stage, network: &mut Network) -> Result<()> {
    stage.step("VLAN 10: the vmxnet3 VM, the vlance VM and the outside host reach each other");
    for (from, name, to, whom) in [
        (WEB, "web1", OLD_ADDRESS, "old1"),
        (OLD, "old1", WEB_ADDRESS, "web1"),
        (WEB, "web1", OUTSIDE, "the outside host, tagged by the switch"),
        (OLD, "old1", OUTSIDE, "the outside host"),
    ] {
        ensure!(network.reaches(from, to)?, "{name} does not reach {whom} at {to}");
        stage.shown(&format!("{name} reaches {whom}"));
    }
    Ok(())
}

fn another_vlan(stage: &Stage, network: &mut Network) -> Result<()> {
    stage.step("VLAN 20: the third VM, in the same subnet, reaches none of them");
    for (to, whom) in [(WEB_ADDRESS, "web1"), (OLD_ADDRESS, "old1"), (OUTSIDE, "the outside host")] {
        ensure!(!network.reaches(LAB, to)?, "lab1 reaches {whom} across VLANs");
    }
    ensure!(!network.reaches(WEB, LAB_ADDRESS)?, "web1 reaches lab1 across VLANs");
    stage.shown("lab1 reaches neither web1 nor old1 nor the outside host");
    Ok(())
}

/// The data path has no exits: bulk data moves while no message crosses the sockets.
fn bulk(stage: &Stage, network: &mut Network) -> Result<()> {
    stage.step("100 MB by TCP from web1 (vmxnet3) to old1 (vlance)");
    let limit = Duration::from_secs(60);
    let before = network.port("web1")?.messages;
    let started = Instant::now();
    let [web, old, ..] = &mut network.guests[..] else { bail!("three VMs were booted") };
    let job = old.start("guest-tool recv 5000 100000000")?;
    let sent = web.sh_ok(&format!("guest-tool send {OLD_ADDRESS} 5000 100000000 7"), limit)?;
    let received = old.wait(job, limit)?;
    let seconds = started.elapsed().as_secs_f64();
    let digest = |text: &str| text.split_whitespace().skip_while(|w| *w != "digest").nth(1).map(str::to_owned);
    ensure!(digest(&sent).is_some() && digest(&sent) == digest(&received.text), "{sent} / {}", received.text);
    let messages = network.port("web1")?.messages.zip(before).map(|(now, then)| now - then);
    ensure!(messages == Some(0), "messages crossed web1's socket: {messages:?}");
    stage.shown(&format!("digests are equal, {:.0} MB/s, and not one message crossed web1's socket", 100.0 / seconds));
    Ok(())
}

fn flood(stage: &Stage, network: &mut Network) -> Result<()> {
    stage.step(&format!("the physical switch floods {FLOOD} frames for addresses nobody here has"));
    let drops = |network: &Network| -> Result<u64> {
        let ports = network.status()?.ports;
        Ok(ports.iter().filter(|p| p.name.starts_with("vmnic")).map(|p| p.drops["no-match"]).sum())
    };
    let before = drops(network)?;
    let tap = network.lab.tap_on(&network.physical, "br0", 1500)?;
    for n in 0..FLOOD {
        let [a, b] = n.to_be_bytes();
        let mut frame = vec![0x02, 0, 0, 1, a, b, 0x02, 0, 0, 0, 0, 9, 0x81, 0, 0, 10, 0x88, 0xb6];
        frame.resize(60, 0);
        tap.send(&frame)?;
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let wanted = 3 * u64::from(FLOOD);
    let counted =
        stage.until(Duration::from_secs(5), || Ok(Some(drops(network)? - before).filter(|n| *n >= wanted)))?;
    match counted {
        Some(n) => stage.shown(&format!("{n} frames dropped as no-match on three promiscuous uplinks; no VM saw them")),
        None => bail!("only {} of {wanted} frames were counted as no-match", drops(network)? - before),
    }
    Ok(())
}

/// The uplink web1 sends by, and its plug on the physical switch.
fn uplink_of_web(network: &Network) -> Result<(String, String)> {
    let uplink = network.port("web1")?.uplink.unwrap_or_default();
    let number: u32 = uplink.trim_start_matches("vmnic").parse().unwrap_or(0);
    Ok((uplink, format!("p{}", number + 1)))
}

/// Waits until web1 sends by another uplink than `first` (`away`), or by that again; which, and how long after
/// `since`.
fn web_moves(
    stage: &Stage,
    network: &Network,
    first: &str,
    away: bool,
    since: Instant,
) -> Result<Option<(String, u128)>> {
    let limit = Duration::from_secs(15);
    let uplink = stage.until(limit, || Ok(network.port("web1")?.uplink.filter(|u| (u != first) == away)))?;
    Ok(uplink.map(|u| (u, since.elapsed().as_millis())))
}

/// Ends web1's ping of `count` and expects at least `least` answers.
fn ping_went_on(stage: &Stage, network: &mut Network, pings: testbed::qemu::Job, least: u32) -> Result<()> {
    let Some(web) = network.guests.get_mut(WEB) else { bail!("web1 was booted") };
    let text = web.wait(pings, Duration::from_secs(30))?.text;
    let summary = text.lines().find(|l| l.contains("packets transmitted")).unwrap_or_default();
    let received = summary.split(", ").nth(1).and_then(|p| p.split(' ').next()).and_then(|n| n.parse::<u32>().ok());
    ensure!(received.is_some_and(|n| n >= least), "the ping did not go on: {summary}");
    stage.shown(&format!("the ping went on: {summary}"));
    Ok(())
}

fn start_ping(network: &mut Network, count: u32) -> Result<testbed::qemu::Job> {
    let Some(web) = network.guests.get_mut(WEB) else { bail!("web1 was booted") };
    let job = web.start(&format!("ping -c {count} -i 0.1 -W 1 {OUTSIDE}"))?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(job)
}

fn cable(stage: &Stage, network: &mut Network) -> Result<()> {
    let (first, plug) = uplink_of_web(network)?;
    stage.step(&format!("web1 pings the outside host ten times a second by {first}; now its cable is pulled"));
    let pings = start_ping(network, 50)?;
    let since = Instant::now();
    network.physical.cut(&plug)?;
    let Some((second, ms)) = web_moves(stage, network, &first, true, since)? else {
        bail!("web1 stays on {first} whose cable is pulled")
    };
    stage.shown(&format!("web1 moved to {second} within {ms} ms"));
    std::thread::sleep(Duration::from_secs(1));
    stage.step("the cable is plugged in again");
    network.physical.heal(&plug)?;
    let back = web_moves(stage, network, &first, false, Instant::now())?;
    ensure!(back.is_some(), "web1 does not return to {first}");
    stage.shown(&format!("web1 is back on {first} (failback)"));
    ping_went_on(stage, network, pings, 44)
}

/// What link state cannot show: the path is cut behind the first switch port.
fn upstream(stage: &Stage, network: &mut Network) -> Result<()> {
    // After the cable's return its beacons must be heard again before they can be missed.
    let sound = |n: &Network| Ok(n.status()?.team.uplinks.iter().all(|u| u.beacon.to_string() == "ok").then_some(()));
    ensure!(
        stage.until(Duration::from_secs(10), || sound(network))?.is_some(),
        "beacons are not heard on every uplink"
    );
    let (first, plug) = uplink_of_web(network)?;
    stage.step(&format!("the path behind {first}'s switch port is cut; its link stays up, only beacons can tell"));
    let pings = start_ping(network, 60)?;
    let since = Instant::now();
    network.physical.unplug(&plug)?;
    let Some((second, ms)) = web_moves(stage, network, &first, true, since)? else {
        bail!("web1 stays on {first} whose path is cut")
    };
    let links_up = network.status()?.team.uplinks.iter().all(|u| u.link == LinkStatus::Up);
    ensure!(links_up, "a link is down, and beacons were not needed");
    stage.shown(&format!("beacons found it: web1 moved to {second} after {ms} ms, while every link is up"));
    std::thread::sleep(Duration::from_secs(1));
    stage.step("the path is healed");
    network.physical.plug("br0", &plug)?;
    let back = web_moves(stage, network, &first, false, Instant::now())?;
    ensure!(back.is_some(), "web1 does not return to {first}");
    stage.shown(&format!("web1 is back on {first}"));
    ping_went_on(stage, network, pings, 40)?;
    for event in network.status()?.events.iter().rev().take(6).rev() {
        stage.shown(&format!("event at {:.1} s: {} ({})", event.at_seconds, event.id, event.text));
    }
    Ok(())
}
