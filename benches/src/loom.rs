//! A switch of memory ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::{
    BURST, Burst, Caps, Counters, Delivery, DropReason, Egress, Ingress, IngressSlot, Multicast, Offload, Plan,
    PortEntry, PortId, PortState, Role, RxFilter, Sink, Snapshot, Tally, VnicRole, Worker, Workers,
};
use portgroups::{Policy, Security, VlanMode};
use sharedmem::{SharedPage, Slice};
use teaming::{Choice, Placement, Receive};
use wire::Mac;

/// Bytes of one buffer.
const BUFFER: usize = 2048;

/// What the ports and frames are like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Ports in all, in pairs: port 0 sends to port 1. The others are silent.
    pub ports: usize,
    /// Bytes of each frame, without the CRC: 60 for a "64-byte" frame.
    pub frame: usize,
    /// Destinations the frames go round: 1, or one port each.
    pub destinations: usize,
    /// Buffers the sender walks through; more than the cache holds makes them cold.
    pub pool: usize,
    /// VLANs the ports are spread over in fours, as port groups are.
    pub vlans: u16,
}

impl Shape {
    /// Two ports, one flow, warm buffers.
    pub fn plain(frame: usize) -> Shape {
        Shape { ports: 2, frame, destinations: 1, pool: 256, vlans: 4 }
    }
}

/// The switch, and its one worker.
pub struct Loom {
    worker: Worker,
    counters: Vec<Arc<Counters>>,
}

fn mac(index: usize) -> Mac {
    let [.., high, low] = (index as u32).to_be_bytes();
    Mac([0x00, 0x50, 0x56, 0, high, low])
}

impl Loom {
    /// Builds it.
    ///
    /// # Panics
    /// When memory cannot be had: a bench has no use for less.
    pub fn new(shape: Shape) -> Loom {
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let mut counters = Vec::new();
        let entries = (0..shape.ports).map(|index| entry(&shape, index, &mut counters)).collect();
        workers.publish(Snapshot::new(entries, 1500));
        let worker = workers.worker(0).expect("the one worker");
        Loom { worker, counters }
    }

    /// One turn: a burst through the switch. Returns the frames taken.
    #[inline(never)]
    pub fn turn(&mut self) -> usize {
        self.worker.turn()
    }

    /// Frames that came out of all ports so far, and true when every frame is accounted for.
    pub fn delivered(&self) -> (u64, bool) {
        let totals: Vec<_> = self.counters.iter().map(|c| c.totals()).collect();
        (totals.iter().map(|t| t.out_frames).sum(), totals.iter().all(dataplane::PortTotals::balanced))
    }
}

fn entry(shape: &Shape, index: usize, counters: &mut Vec<Arc<Counters>>) -> PortEntry {
    let state = Arc::new(PortState::new());
    state.set_connected(true);
    state.set_filter(RxFilter {
        mac: Some(mac(index)),
        unicast: true,
        broadcast: true,
        multicast: Multicast::List(Vec::new()),
        ..RxFilter::closed()
    });
    let mine = Arc::new(Counters::new(1));
    counters.push(mine.clone());
    // Four port groups; the sender and all it sends to are in the first.
    let group = if index <= shape.destinations { 0 } else { index as u16 % shape.vlans.max(1) };
    let policy = Policy { vlan: VlanMode::Vst(10 + group), security: Security::default(), mac: mac(index) };
    let placement = Placement { send: Choice::None, receive: Receive { group: Arc::new([]), unicast: Arc::new([]) } };
    let queue: Box<dyn Ingress> = if index == 0 { Box::new(Source::new(shape)) } else { Box::new(Silent) };
    PortEntry {
        id: PortId(index as u16),
        name: format!("port{index}").into(),
        role: Role::Vnic(VnicRole { policy, chosen_mac: None, placement, has_uplinks: false }),
        state,
        counters: mine,
        egress: Arc::new(Drain::new(if index <= shape.destinations { shape.pool } else { 1 })),
        queues: vec![(Arc::new(IngressSlot::new(queue)), 0)],
    }
}

struct Silent;

impl Ingress for Silent {
    fn poll(&mut self, _: &mut dyn Sink) -> usize {
        0
    }
}

/// Frames that lie ready, a burst of them each turn.
struct Source {
    memory: SharedPage,
    next: usize,
    pool: usize,
    frame: usize,
}

impl Source {
    fn new(shape: &Shape) -> Source {
        let memory = SharedPage::new("loom-source", shape.pool * BUFFER).expect("memory");
        for at in 0..shape.pool {
            let to = mac(1 + at % shape.destinations);
            let mut bytes = [&to.0[..], &mac(0).0, &[0x08, 0x00]].concat();
            bytes.resize(shape.frame, 0x5a);
            assert!(memory.slice().write_at(at * BUFFER, &bytes));
        }
        Source { memory, next: 0, pool: shape.pool, frame: shape.frame }
    }
}

impl Ingress for Source {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let memory = self.memory.slice();
        let mut burst = Burst::new();
        for _ in 0..BURST {
            let Some(piece) = memory.sub(self.next * BUFFER, self.frame) else { break };
            self.next = if self.next + 1 < self.pool { self.next + 1 } else { 0 };
            burst.push(&[piece], None, Offload::default());
        }
        sink.forward(&burst);
        burst.harvested()
    }
}

/// Room that is always there.
struct Drain {
    memory: SharedPage,
    next: AtomicUsize,
    pool: usize,
}

impl Drain {
    fn new(pool: usize) -> Drain {
        let memory = SharedPage::new("loom-drain", pool * BUFFER).expect("memory");
        Drain { memory, next: AtomicUsize::new(0), pool }
    }
}

impl Egress for Drain {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let memory: Slice<'_> = self.memory.slice();
        let mut next = self.next.load(Ordering::Relaxed);
        for delivery in list {
            let Some(plan) = Plan::new(burst, delivery, Caps::default()) else { continue };
            let len = plan.len(0);
            match memory.sub(next * BUFFER, len) {
                Some(room) if plan.write(0, &[room]) => tally.delivered(len),
                _ => tally.dropped(DropReason::RingFull),
            }
            next = if next + 1 < self.pool { next + 1 } else { 0 };
        }
        self.next.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_every_turn_comes_out() {
        for shape in [Shape::plain(60), Shape { ports: 300, destinations: 256, ..Shape::plain(1514) }] {
            let mut loom = Loom::new(shape);
            let taken: usize = (0..40).map(|_| loom.turn()).sum();
            assert_eq!(taken, 40 * BURST);
            assert_eq!(loom.delivered(), (taken as u64, true));
        }
    }
}
