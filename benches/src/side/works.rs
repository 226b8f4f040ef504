//! What is measured, against whom, and the ratio to reach.

use std::time::Duration;

use anyhow::Result;

use super::generator::{frames, number};
use super::peers::{Peer, Running};
use super::{Measured, idle};

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
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Work {
    /// A short name.
    pub id: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// Ours first.
    peers: Vec<Peer>,
    /// Whom the ratio is against, and what it is to reach.
    pub target: (Peer, f64),
    /// True when less is better (time, CPU): then the ratio is to stay below.
    pub lower: bool,
    kind: Kind,
}

impl Work {
    /// Who does it, ours first.
    pub fn peers(&self) -> Vec<Peer> {
        self.peers.clone()
    }

    /// Has `peer` do it once.
    ///
    /// # Errors
    /// When it cannot.
    pub fn measure(&self, peer: Peer, seconds: f64) -> Result<Measured> {
        match &self.kind {
            Kind::Frames(options, learning) => {
                let running = Running::start(peer, *learning)?;
                let stations = [running.stations[0].as_str(), &running.stations[1]];
                let document = frames(stations, options, seconds, running.control.as_deref())?;
                Ok(Measured::Mpps(number(&document, "/received_mpps")?))
            }
            Kind::Latency => {
                let running = Running::start(peer, false)?;
                let stations = [running.stations[0].as_str(), &running.stations[1]];
                let options = ["--latency", "--size", "64"].map(str::to_owned);
                let document = frames(stations, &options, seconds, running.control.as_deref())?;
                let at = |p: &str| number(&document, &format!("/latency_us/{p}"));
                Ok(Measured::Latency(at("p50")?, at("p99")?))
            }
            Kind::Idle => idle::idle(peer, Duration::from_secs_f64(seconds.max(2.0))),
        }
    }
}

fn frames_work(id: &'static str, title: &'static str, size: &str, options: &[&str], target: (Peer, f64)) -> Work {
    let learning = options.contains(&"--macs");
    let mut all = vec!["--size".to_owned(), size.to_owned()];
    all.extend(options.iter().map(|o| (*o).to_owned()));
    let mut peers = vec![Peer::Own("virtio"), target.0];
    // The wire beside every switch, where it makes sense: it knows no addresses.
    if target.0 == Peer::Ovs && options.contains(&"--pool") {
        peers.push(Peer::Testpmd);
    }
    Work { id, title, peers, target, lower: false, kind: Kind::Frames(all, learning) }
}

/// Buffers that no cache holds: 32 MiB on each side.
const COLD: [&str; 2] = ["--pool", "16384"];

/// Every comparison, in the order of the results.
pub fn works() -> Vec<Work> {
    let own = Peer::Own("virtio");
    let mut list = Vec::new();
    for (id, size, ratio) in [("wire-64", "64", 1.1), ("wire-512", "512", 1.2), ("wire-1518", "1518", 1.5)] {
        list.push(frames_work(id, "virtio-virtio, one flow, against a bare wire", size, &[], (Peer::Testpmd, ratio)));
    }
    for (id, size, ratio) in [("one-64", "64", 1.7), ("one-512", "512", 1.7), ("one-1518", "1518", 1.8)] {
        list.push(frames_work(id, "virtio-virtio, one flow", size, &[], (Peer::Ovs, ratio)));
    }
    for (id, size) in [("macs-64", "64"), ("macs-512", "512"), ("macs-1518", "1518")] {
        let options = ["--macs", "256"];
        list.push(frames_work(id, "virtio-virtio, 256 addresses on each side", size, &options, (Peer::Ovs, 2.4)));
    }
    for (id, size) in [("flows-64", "64"), ("flows-512", "512"), ("flows-1518", "1518")] {
        list.push(frames_work(id, "virtio-virtio, 1024 flows", size, &["--flows", "1024"], (Peer::Ovs, 2.1)));
    }
    for (id, size, ratio) in [("cold-64", "64", 1.1), ("cold-512", "512", 1.6), ("cold-1518", "1518", 1.7)] {
        list.push(frames_work(id, "virtio-virtio, cold buffers", size, &COLD, (Peer::Ovs, ratio)));
    }
    let kind = Kind::Frames(["--size", "64"].map(str::to_owned).to_vec(), false);
    let vmxnet3 = vec![Peer::Own("vmxnet3"), own];
    list.push(Work { id: "vmxnet3", title: "vmxnet3-vmxnet3", peers: vmxnet3, target: (own, 0.9), lower: false, kind });
    let against = |peer| vec![own, peer];
    list.push(Work {
        id: "latency",
        title: "one frame at a time, virtio-virtio, 64 bytes",
        peers: vec![own, Peer::Ovs, Peer::Testpmd],
        target: (Peer::Ovs, 0.8),
        lower: true,
        kind: Kind::Latency,
    });
    list.push(Work {
        id: "idle",
        title: "CPU of the idle process with 8 connected ports",
        peers: against(Peer::Ovs),
        target: (Peer::Ovs, 0.02),
        lower: true,
        kind: Kind::Idle,
    });
    list
}
