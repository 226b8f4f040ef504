//! What is measured, against whom, and the ratio to reach.

use std::time::Duration;

use anyhow::Result;

use super::figures::Outcome;
use super::generator::{frames, number};
use super::peers::{Peer, Ports, Running, Wishes};
use super::{Measured, guests, idle, namespaces};

/// What kind of work it is.
#[derive(Clone, Debug)]
enum Kind {
    /// Frames from port to port as fast as they go, with options of the generator; and whether many addresses are
    /// behind each port.
    Frames(Vec<String>, bool),
    /// One frame at a time.
    Latency,
    /// Nothing: the process's CPU time.
    Idle,
    /// TCP between two user-mode Linux guests.
    Guests,
    /// TCP from namespace to namespace, by a congestion control.
    Tcp(&'static str),
    /// Frames from veth to veth.
    Veth,
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Work {
    /// A short name.
    pub id: &'static str,
    /// What it is, in words.
    pub title: String,
    /// Ours first.
    peers: Vec<Peer>,
    /// Whom a ratio is to be reached against, and which.
    targets: Vec<(Peer, f64)>,
    /// True when less is better (time, CPU): then the ratio is to stay below.
    pub lower: bool,
    kind: Kind,
}

impl Work {
    /// Who does it, ours first.
    pub fn peers(&self) -> Vec<Peer> {
        self.peers.clone()
    }

    /// The ratio to reach against `peer`, if there is one.
    pub fn goal(&self, peer: Peer) -> Option<f64> {
        self.targets.iter().find(|(p, _)| *p == peer).map(|(_, ratio)| *ratio)
    }

    /// Those whose figure stands on the left of a ratio.
    pub fn ours(&self) -> Vec<Peer> {
        self.peers.iter().copied().filter(|p| matches!(p, Peer::Own(_)) && self.goal(*p).is_none()).collect()
    }

    /// Those it is divided by.
    pub fn others(&self) -> Vec<Peer> {
        let ours = self.ours();
        self.peers.iter().copied().filter(|p| !ours.contains(p)).collect()
    }

    /// Has `peer` do it once.
    ///
    /// # Errors
    /// When it cannot.
    pub fn measure(&self, peer: Peer, seconds: f64) -> Result<Outcome> {
        match &self.kind {
            Kind::Frames(options, learning) => {
                let running = Running::start(peer, Wishes { learning: *learning, tso: false })?;
                let [a, b] = running.stations();
                let document = frames([&a, &b], options, seconds, running.control.as_deref())?;
                let measured = Measured::Mpps(number(&document, "/received_mpps")?);
                Ok(Outcome { measured, accounted: document.get("ledger").is_some() })
            }
            Kind::Latency => {
                let running = Running::start(peer, Wishes::default())?;
                let [a, b] = running.stations();
                let options = ["--latency", "--size", "64"].map(str::to_owned);
                let document = frames([&a, &b], &options, seconds, running.control.as_deref())?;
                let at = |p: &str| number(&document, &format!("/latency_us/{p}"));
                let measured = Measured::Latency(at("p50")?, at("p99")?);
                Ok(Outcome { measured, accounted: document.get("ledger").is_some() })
            }
            Kind::Idle => idle::idle(peer, Duration::from_secs_f64(seconds.max(2.0))),
            Kind::Guests => guests::tcp(peer, seconds),
            Kind::Tcp(control) => namespaces::tcp(peer, control, seconds),
            Kind::Veth => namespaces::frames(peer, seconds),
        }
    }
}

const OWN: Peer = Peer::Own(Ports::Virtio);
const OVS: Peer = Peer::Ovs(Ports::Virtio);

/// Buffers that no cache holds: 32 MiB on each side.
const COLD: [&str; 2] = ["--pool", "16384"];

/// `work` at 64, 512 and 1518 bytes, each with its goal.
fn sizes(ids: [&'static str; 3], work: &str, options: &[&str], against: Peer, goals: [f64; 3]) -> Vec<Work> {
    let make = |((id, size), goal): ((&'static str, &str), f64)| {
        let mut all = vec!["--size".to_owned(), size.to_owned()];
        all.extend(options.iter().map(|o| (*o).to_owned()));
        let mut peers = vec![OWN, against];
        // The wire beside the switch where it makes sense: it knows no addresses.
        if options == COLD {
            peers.push(Peer::Testpmd);
        }
        Work {
            id,
            title: format!("virtio-virtio, {size} B, {work}"),
            peers,
            targets: vec![(against, goal)],
            lower: false,
            kind: Kind::Frames(all, options.contains(&"--macs")),
        }
    };
    ids.into_iter().zip(["64", "512", "1518"]).zip(goals).map(make).collect()
}

/// A work against several, with the ratios to reach.
fn against(id: &'static str, title: &str, kind: Kind, ours: &[Ports], others: &[(Peer, Option<f64>)]) -> Work {
    let peers = ours.iter().map(|p| Peer::Own(*p)).chain(others.iter().map(|(p, _)| *p)).collect();
    let targets = others.iter().filter_map(|(p, goal)| Some((*p, (*goal)?))).collect();
    Work { id, title: title.to_owned(), peers, targets, lower: false, kind }
}

/// Every comparison, in the order of the results.
pub fn works() -> Vec<Work> {
    let mut list = Vec::new();
    list.extend(sizes(["wire-64", "wire-512", "wire-1518"], "one flow", &[], Peer::Testpmd, [1.1, 1.2, 1.5]));
    list.extend(sizes(["one-64", "one-512", "one-1518"], "one flow", &[], OVS, [1.7, 1.7, 1.8]));
    let macs = ["--macs", "256"];
    let text = "256 MACs learnt on each side";
    list.extend(sizes(["macs-64", "macs-512", "macs-1518"], text, &macs, OVS, [2.4; 3]));
    let flows = ["--flows", "1024"];
    list.extend(sizes(["flows-64", "flows-512", "flows-1518"], "1024 flows", &flows, OVS, [2.1; 3]));
    list.extend(sizes(["cold-64", "cold-512", "cold-1518"], "cold buffers", &COLD, OVS, [1.1, 1.6, 1.7]));
    let kind = Kind::Frames(["--size", "64"].map(str::to_owned).to_vec(), false);
    list.push(against("vmxnet3", "vmxnet3-vmxnet3 soft guests, 64 B", kind, &[Ports::Vmxnet3], &[(OWN, Some(0.9))]));
    let title = "TCP between two user-mode Linux guests on virtio ports (iperf3; OVS with its TSO on)";
    list.push(against("tcp-guests", title, Kind::Guests, &[Ports::Virtio], &[(OVS, Some(1.5))]));
    list.extend(between_namespaces());
    let title = "latency of one frame at a time, virtio-virtio, 64 B, p50 and p99";
    let others = [(OVS, Some(0.8)), (Peer::Testpmd, None)];
    list.push(Work { lower: true, ..against("latency", title, Kind::Latency, &[Ports::Virtio], &others) });
    let title = "idle CPU of the process with 8 connected ports (OVS: two)";
    list.push(Work { lower: true, ..against("idle", title, Kind::Idle, &[Ports::Virtio], &[(OVS, Some(0.02))]) });
    list
}

fn between_namespaces() -> Vec<Work> {
    let ovs = |ports, goal| (Peer::Ovs(ports), goal);
    let (bridge, wire) = ((Peer::Bridge, None), (Peer::Wire, None));
    let others = [(Peer::Bridge, Some(1.0)), ovs(Ports::Tap, Some(1.3)), (Peer::Vde, None)];
    // Whatever the machine's own is, the rows are of the kernel's default and of the other one that is much in use.
    let title = "TCP between two namespaces on tap ports (iperf3, cubic; OVS with its TSO on, Linux bridge with veth)";
    let tap = against("tcp-tap", title, Kind::Tcp("cubic"), &[Ports::Tap], &others);
    let paced = against("tcp-tap-bbr", "the same by bbr", Kind::Tcp("bbr"), &[Ports::Tap], &others);
    let title = "TCP between two namespaces on netdev ports with veth (iperf3, cubic)";
    let others = [ovs(Ports::AfPacket, None), ovs(Ports::AfXdp, None), bridge];
    let netdev = against("tcp-netdev", title, Kind::Tcp("cubic"), &[Ports::AfPacket, Ports::AfXdp], &others);
    let title = "netdev ports, veth to veth through the switch by AF_XDP, 64 B";
    let others = [ovs(Ports::AfXdp, Some(1.4)), bridge, wire];
    let xdp = against("veth-xdp", title, Kind::Veth, &[Ports::AfXdp], &others);
    let title = "netdev ports, veth to veth through the switch by AF_PACKET, 64 B";
    let others = [ovs(Ports::AfPacket, Some(1.4)), bridge, wire];
    let packet = against("veth-packet", title, Kind::Veth, &[Ports::AfPacket], &others);
    vec![tap, paced, netdev, xdp, packet]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever cannot start is told of in every round, and is a gap with its reason; the run goes on to the next one.
    #[test]
    fn who_cannot_start_is_a_gap() {
        let kind = Kind::Frames(Vec::new(), false);
        let list = [against("frames", "frames", kind, &[], &[(Peer::Bridge, None), (Peer::Vde, Some(1.0))])];
        let mut told = Vec::new();
        let figures = super::super::run(&list, 2, 0.1, &mut |line| told.push(line.to_owned())).unwrap();
        let line = |round, who| format!("frames round {round}/2: {who}: cannot: {who} has no vhost-user sockets");
        assert_eq!(
            told,
            [(1, "Linux bridge"), (1, "VDE"), (2, "Linux bridge"), (2, "VDE")].map(|(n, who)| line(n, who))
        );
        let page = super::super::report(&list, &figures, 2, 0.1, &super::super::Machine::this());
        for who in ["Linux bridge", "VDE"] {
            assert_eq!(figures.gap_of("frames", who), Some(&*format!("{who} has no vhost-user sockets")));
            assert!(page.contains(&format!("\n* frames: {who}: {who} has no vhost-user sockets\n")), "{page}");
        }
    }

    #[test]
    fn every_work_has_ours_and_others() {
        let list = works();
        for work in &list {
            assert!(!work.ours().is_empty() && !work.others().is_empty(), "{}", work.id);
            assert_eq!(work.ours().len() + work.others().len(), work.peers().len(), "{}", work.id);
            assert!(work.targets.iter().all(|(p, _)| work.peers.contains(p)), "{}", work.id);
            let mut names: Vec<&str> = work.peers().iter().map(|p| p.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), work.peers().len(), "{}: figures are kept by name", work.id);
        }
        let mut ids: Vec<&str> = list.iter().map(|w| w.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), list.len(), "works are kept by id");
    }
}
