//! Real guests keep their transfers through failover and failback: stock QEMU, stock Linux drivers, TCP in both
//! directions at once, and a physical switch that fails in every way it can while all of them run.
//!
//! ```text
//!   guest web1 (vmxnet3, port group Ten, VLAN 10)  --+                    +-- cable c0 --+       +-- host ten
//!                                                    +-- switch in "esx1" +-- ...        +- tor -+   (access port)
//!   guest old1 (vlance, port group Plain, untagged) -+                    +-- cable cN --+       +-- host plain
//! ```
//!
//! Each guest sends to its host and receives from it, each transfer over one connection that has neither an end
//! of its own nor a pace: it is told to end after the last act. What TCP has carried is read from the hosts'
//! kernels, so that each act is seen to happen between bytes. Both ends' digests must then be equal, and the
//! ledger's sums hold.

mod common;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Net, SHORT, TRANSFER, address, alone, byte_count, digest, ping, port, portgroup, report, tool, vnic};
use control::api::{EventStatus, Status};
use testbed::netns::{Host, Spawned, wait_until};
use testbed::qemu::{Guest, Job};
use testbed::topology::{RunningLab, Topology};

/// The uplink that both guests' traffic leaves by while all is well, and its cable.
const HOME: &str = "vmnic0";
const CABLE: &str = "c0";
/// A transfer goes on within this after an outage: TCP waits longer each time it has tried in vain.
const GOES_ON: Duration = Duration::from_secs(120);
/// What each transfer must carry to show that it goes on.
const STEP: u64 = 100_000;
/// More than any run carries: the transfers end because they are told to.
const ENDLESS: &str = "1000000000000";
/// Told to a guest that its transfer has gone on long enough.
const ENOUGH: &str = "/run/enough";

/// A guest, its port group, and the host it talks to.
struct Pair {
    vnic: &'static str,
    group: &'static str,
    host: Host,
    host_address: &'static str,
    guest_address: &'static str,
    guest: Guest,
}

/// Both transfers of a pair.
struct Transfers {
    to_host: (Job, Spawned),
    to_guest: (Spawned, Job),
}

/// One switch, its guests and its network, for one number of uplinks and one driver.
struct Stage {
    lab: RunningLab,
    net: Net,
    pairs: Vec<Pair>,
    uplinks: usize,
    /// The last event of those already looked at.
    mark: Option<EventStatus>,
}

/// What a failure must do to the teams.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// So many uplinks, [`HOME`] first, go out of use for this reason, and a standby one takes over from each.
    Failover(usize, &'static str),
    /// Nobody can know which uplink is dead: frames leave by both.
    Tie(Flowing),
}

/// Which transfers are to go on between a cut and its healing.
#[derive(Clone, Copy, PartialEq)]
enum Flowing {
    All,
    /// Those to the guests may crawl. In a tie where [`HOME`] still sends but hears nothing, the physical switch sees
    /// each frame of a guest twice, first at the dead cable: what a host answers at once to that copy goes into it.
    ToHosts,
}

fn topology(uplinks: usize) -> Result<RunningLab> {
    let mut text = "name = \"transfers\"\n[[host]]\nname = \"esx1\"\n[[switch]]\nname = \"tor\"\n".to_owned();
    text += "[[host]]\nname = \"ten\"\naddress = [\"10.0.0.100/24\"]\nvlan = 10\n";
    text += "[[host]]\nname = \"plain\"\naddress = [\"10.0.0.200/24\"]\n";
    for n in 0..uplinks {
        let _ = write!(text, "[[cable]]\nname = \"c{n}\"\nends = [\"esx1:eth{}\", \"tor\"]\n", n + 1);
    }
    for host in ["ten", "plain"] {
        let _ = write!(text, "[[cable]]\nname = \"to-{host}\"\nends = [\"{host}:eth0\", \"tor\"]\n");
    }
    Ok(Topology::from_toml(&text)?.build()?)
}

/// `active` and `standby` of a port group's team: the first `active` uplinks of `uplinks`, and the rest.
fn team(active: usize, uplinks: usize) -> String {
    let names = |range: std::ops::Range<usize>| range.map(|n| format!("\"vmnic{n}\"")).collect::<Vec<_>>().join(", ");
    format!("[portgroup.team]\nactive = [{}]\nstandby = [{}]\n", names(0..active), names(active..uplinks))
}

/// How many of `uplinks` are active in web1's team; old1's has one, with all others standby.
fn actives(uplinks: usize) -> usize {
    (uplinks - 1).min(2)
}

impl Stage {
    fn set(uplinks: usize, driver: &str) -> Result<Stage> {
        let lab = topology(uplinks)?;
        let mut tables = "[beacon]\ninterval_ms = 100\n".to_owned();
        for n in 0..uplinks {
            let _ =
                write!(tables, "[[uplink]]\nname = \"vmnic{n}\"\ndevice = \"eth{}\"\ndriver = \"{driver}\"\n", n + 1);
        }
        tables += &(portgroup("Ten", "10") + &team(actives(uplinks), uplinks));
        tables += &(portgroup("Plain", "0") + &team(1, uplinks));
        tables += &(vnic("web1", "Ten", "vmxnet3", 1) + &vnic("old1", "Plain", "vlance", 2));
        let net = Net::start(Some(lab.host("esx1")?.namespace()), "", &tables)?;
        let guests = net.boot(&["web1", "old1"])?;
        let whom = [
            ("web1", "Ten", "ten", "10.0.0.100", "10.0.0.1", 1),
            ("old1", "Plain", "plain", "10.0.0.200", "10.0.0.2", 2),
        ];
        let mut pairs = Vec::new();
        for ((vnic, group, host, host_address, guest_address, number), mut guest) in whom.into_iter().zip(guests) {
            address(&mut guest, "eth0", number)?;
            ping(&mut guest, host_address)?;
            let host = lab.host(host)?;
            // In every kernel, and soon back to its pace. BBR, where it is the default, takes what comes through a
            // lossy path for the path's width, and stays at a few frames a second for a minute.
            host.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
            pairs.push(Pair { vnic, group, host, host_address, guest_address, guest });
        }
        let stage = Stage { lab, net, pairs, uplinks, mark: None };
        for n in 0..uplinks {
            let uplink = stage.net.port(&format!("vmnic{n}"))?;
            ensure!(uplink.driver.as_deref() == Some(driver), "{} is driven by {:?}", uplink.name, uplink.driver);
        }
        Ok(stage)
    }

    fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.net.switch.show()?)?)
    }

    /// Waits until `holds` of the status.
    fn wait(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<()> {
        wait_until(what, SHORT, || self.status().is_ok_and(|s| holds(&s)))
    }

    /// The events since the mark.
    fn news(&self, status: &Status) -> Vec<EventStatus> {
        let seen = status.events.iter().rposition(|e| Some(e) == self.mark.as_ref());
        status.events[seen.map_or(0, |at| at + 1)..].to_vec()
    }

    /// True when since the mark there was event `id` of each pair's port group with `words` in its text.
    fn told(&self, status: &Status, id: &str, words: &str) -> bool {
        let news = self.news(status);
        let of = |group: &str| news.iter().any(|e| e.id == id && e.text.contains(group) && e.text.contains(words));
        self.pairs.iter().all(|p| of(p.group))
    }

    /// The uplinks' links are up, their beacons heard and both guests at home: nothing is left of an earlier act.
    fn wait_well(&self) -> Result<()> {
        self.wait("all is well again", |status| {
            let well = |u: &control::api::UplinkStatus| u.beacon == control::api::BeaconHealth::Ok;
            let at_home = |p: &Pair| port(status, p.vnic).is_ok_and(|port| port.uplink.as_deref() == Some(HOME));
            let groups = status.portgroups.iter().all(|g| !g.shotgun && g.uplinks.iter().all(well));
            groups && self.pairs.iter().all(at_home)
        })
    }

    /// Starts a transfer in each direction between each guest and its host.
    fn start_transfers(&mut self) -> Result<Vec<Transfers>> {
        let enough = self.enough();
        let mut all = Vec::new();
        for pair in &mut self.pairs {
            let receiver = tool(&pair.host, &["recv", "6000", "0"])?;
            let to = pair.host_address;
            let sender = pair.guest.start(&format!("guest-tool send {to} 6000 {ENDLESS} 1 {ENOUGH}"))?;
            let to_host = (sender, receiver);
            let receiver = pair.guest.start("guest-tool recv 6001 0")?;
            let path = enough.to_str().context("a path of text")?;
            let sender = tool(&pair.host, &["send", pair.guest_address, "6001", ENDLESS, "2", path])?;
            all.push(Transfers { to_host, to_guest: (sender, receiver) });
        }
        Ok(all)
    }

    /// The file that ends the hosts' transfers.
    fn enough(&self) -> PathBuf {
        self.net.dir().join("enough")
    }

    /// What each transfer has carried, as the hosts' TCP knows it. A transfer that has ended or broken is an error.
    fn carried(&self) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        for pair in &self.pairs {
            let sockets = pair.host.exec("ss -t -i -n -H -O state established")?.success()?;
            for (whose, port, field) in [("local", 6000, "bytes_received:"), ("remote", 6001, "bytes_acked:")] {
                all.push(counted(&sockets, whose, port, field)?.with_context(|| {
                    format!("the connection of {} with {whose} port {port} is no more: {sockets}", pair.vnic)
                })?);
            }
        }
        Ok(all)
    }

    /// Each of `which` transfers carries [`STEP`] bytes more, and the others are still there.
    fn wait_flowing(&self, which: Flowing, when: &str) -> Result<()> {
        let mut now = self.carried()?;
        let before = now.clone();
        let mut broken = Ok(());
        let moved = wait_until(when, GOES_ON, || match self.carried() {
            Ok(carried) => {
                now = carried;
                // By twos: to the host, to the guest.
                let every = if which == Flowing::All { 1 } else { 2 };
                now.iter().zip(&before).step_by(every).all(|(now, before)| *now >= before + STEP)
            }
            Err(error) => {
                broken = Err(error);
                true
            }
        });
        broken?;
        moved.with_context(|| format!("transfers stand still: {before:?}, then {now:?}"))
    }

    /// `cut` happens to the network while every transfer runs, then `heal`: the teams see the one and the other
    /// for what it is, and the transfers go on after each.
    fn act(
        &mut self,
        what: &str,
        outcome: Outcome,
        cut: impl Fn(&RunningLab) -> Result<()>,
        heal: impl Fn(&RunningLab) -> Result<()>,
    ) -> Result<()> {
        let played = self.play(outcome, cut, heal);
        played.with_context(|| format!("act \"{what}\":\n{}", self.net.switch.log()))
    }

    fn play(
        &mut self,
        outcome: Outcome,
        cut: impl Fn(&RunningLab) -> Result<()>,
        heal: impl Fn(&RunningLab) -> Result<()>,
    ) -> Result<()> {
        self.wait_well()?;
        self.mark = self.status()?.events.last().cloned();
        self.wait_flowing(Flowing::All, "before the cut")?;
        cut(&self.lab)?;
        let failed = |status: &Status| match outcome {
            Outcome::Tie(_) => {
                let shotgun = |p: &Pair| status.portgroups.iter().any(|g| g.name == p.group && g.shotgun);
                self.told(status, "team.shotgun.on", "") && self.pairs.iter().all(shotgun)
            }
            Outcome::Failover(lost, cause) => {
                let words = format!("uplink {HOME} is out of use ({cause}); 1 moved; standby uplink");
                let stands_in = |name: &str| (lost..self.uplinks).any(|n| name == format!("vmnic{n}"));
                let away = |p: &Pair| port(status, p.vnic).is_ok_and(|p| p.uplink.as_deref().is_some_and(stands_in));
                self.told(status, "team.failover", &words) && self.pairs.iter().all(away)
            }
        };
        self.wait("failover", failed)?;
        let before = self.status()?;
        let which = match outcome {
            Outcome::Tie(which) => which,
            Outcome::Failover(..) => Flowing::All,
        };
        self.wait_flowing(which, "after the failover")?;
        let after = self.status()?;
        ensure!(failed(&after), "it is still so once the bytes have passed");
        let lost = if let Outcome::Failover(lost, _) = outcome { lost } else { 1 };
        let passed = self.left_by(lost..self.uplinks, &after)? - self.left_by(lost..self.uplinks, &before)?;
        ensure!(passed >= self.pairs.len() as u64 * STEP, "{passed} bytes left by the uplinks that work");

        self.mark = after.events.last().cloned();
        heal(&self.lab)?;
        self.wait("failback", |status| match outcome {
            Outcome::Tie(_) => self.told(status, "team.shotgun.off", ""),
            Outcome::Failover(..) => {
                self.told(status, "team.failback", &format!("uplink {HOME} is in use again; 1 came back"))
            }
        })?;
        self.wait_well()?;
        let before = self.left_by(0..1, &self.status()?)?;
        self.wait_flowing(Flowing::All, "after the failback")?;
        let passed = self.left_by(0..1, &self.status()?)? - before;
        ensure!(passed >= self.pairs.len() as u64 * STEP, "{passed} bytes left by {HOME} once it was back");
        Ok(())
    }

    /// Bytes that have left by some of the uplinks.
    fn left_by(&self, uplinks: std::ops::Range<usize>, status: &Status) -> Result<u64> {
        uplinks.map(|n| Ok(port(status, &format!("vmnic{n}"))?.output.bytes)).sum()
    }

    /// Tells every transfer to end; the digests of both ends must be equal. Returns the bytes of each.
    fn end_transfers(&mut self, transfers: Vec<Transfers>) -> Result<Vec<u64>> {
        self.carried().context("every transfer outlasts the last act")?;
        std::fs::write(self.enough(), "")?;
        for pair in &mut self.pairs {
            pair.guest.sh_ok(&format!("touch {ENOUGH}"), SHORT)?;
        }
        let mut all = Vec::new();
        for (pair, Transfers { to_host, to_guest }) in self.pairs.iter_mut().zip(transfers) {
            let sent = pair.guest.wait(to_host.0, TRANSFER)?;
            let got = report(to_host.1)?;
            ensure!(
                sent.status == 0 && digest(&sent.text)? == digest(&got)?,
                "{} sent: {} {got}",
                pair.vnic,
                sent.text
            );
            all.push(byte_count(&got)?);
            let sent = report(to_guest.0)?;
            let got = pair.guest.wait(to_guest.1, TRANSFER)?;
            ensure!(got.status == 0 && digest(&sent)? == digest(&got.text)?, "{} got: {sent} {}", pair.vnic, got.text);
            all.push(byte_count(&sent)?);
        }
        Ok(all)
    }
}

/// `field` of the connection with `port` at its local or remote end, in the output of `ss`; none without such a
/// connection. A connection that has carried nothing has no such field.
fn counted(sockets: &str, whose: &str, port: u16, field: &str) -> Result<Option<u64>> {
    let end = format!(":{port}");
    // Queues (two columns), local end, remote end, and then what TCP knows.
    let column = if whose == "local" { 2 } else { 3 };
    let line = sockets.lines().find(|l| l.split_whitespace().nth(column).is_some_and(|word| word.ends_with(&end)));
    let Some(line) = line else { return Ok(None) };
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(field));
    Ok(Some(value.map_or(Ok(0), str::parse)?))
}

/// All acts with `uplinks` uplinks on `driver`, all of them during the same four transfers.
fn play(uplinks: usize, driver: &str) -> Result<()> {
    let _alone = alone();
    let started = std::time::Instant::now();
    let mut stage = Stage::set(uplinks, driver)?;
    let booted = started.elapsed();
    let transfers = stage.start_transfers()?;
    wait_until("every connection stands", SHORT, || stage.carried().is_ok())?;
    let by_beacons = |which| if uplinks == 2 { Outcome::Tie(which) } else { Outcome::Failover(1, "beacons fail") };
    let healed = |lab: &RunningLab| Ok(lab.heal(CABLE)?);
    stage.act("the cable is cut", Outcome::Failover(1, "no link"), |lab| Ok(lab.cut(CABLE)?), healed)?;
    stage.act(
        "the path behind the cable is cut",
        by_beacons(Flowing::All),
        |lab| Ok(lab.unplug(CABLE, None)?),
        |lab| Ok(lab.plug(CABLE, None)?),
    )?;
    for (sender, which) in [("esx1", Flowing::All), ("tor", Flowing::ToHosts)] {
        let what = format!("what {sender} sends is lost");
        stage.act(&what, by_beacons(which), |lab| Ok(lab.cut_one_way(CABLE, sender)?), healed)?;
    }
    let lost: Vec<String> = (0..actives(uplinks)).map(|n| format!("c{n}")).collect();
    stage.act(
        "all active uplinks are lost",
        Outcome::Failover(actives(uplinks), "no link"),
        |lab| lost.iter().try_for_each(|cable| Ok(lab.cut(cable)?)),
        |lab| lost.iter().try_for_each(|cable| Ok(lab.heal(cable)?)),
    )?;
    let carried = stage.end_transfers(transfers)?;
    println!("{uplinks} uplinks, {driver}: booted in {booted:?}, all in {:?}, bytes {carried:?}", started.elapsed());
    let log = stage.net.switch.log();
    ensure!(!log.contains("team.connectivity.lost"), "there was always a way: {log}");
    drop(stage.pairs);
    stage.net.finish()
}

#[test]
fn two_uplinks_af_packet() -> Result<()> {
    play(2, "af_packet")
}

#[test]
fn two_uplinks_af_xdp() -> Result<()> {
    play(2, "af_xdp")
}

#[test]
fn three_uplinks_af_packet() -> Result<()> {
    play(3, "af_packet")
}

#[test]
fn three_uplinks_af_xdp() -> Result<()> {
    play(3, "af_xdp")
}

#[test]
fn four_uplinks_af_packet() -> Result<()> {
    play(4, "af_packet")
}

#[test]
fn four_uplinks_af_xdp() -> Result<()> {
    play(4, "af_xdp")
}
