//! Two guests' virtio cards and the switch between them in one thread: the data path with its rings, and nobody else's
//! instructions in [`Rings::turn`].

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{
    Address, BURST, Counters, Ingress, IngressSlot, Learned, Multicast, PortEntry, PortId, PortState, Role, RxFilter,
    Seconds, Snapshot, VnicRole, Worker, Workers,
};
use portgroups::{Policy, Security, VlanMode};
use sharedmem::{DriverRing, MemTable, Region, Span, SplitRing};
use teaming::{Choice, Placement, Receive};
use vnic::irq::Interrupts;
use vnic::virtio::features::{MRG_RXBUF, VERSION_1};
use vnic::virtio::{Active, Card, RxPath, RxQueue, RxState, TxQueue, TxQueueRings, TxState};
use wire::Mac;

/// Descriptors of a ring.
const RING: u16 = 256;
/// Bytes of one buffer.
const BUFFER: usize = 2048;
/// Bytes of the header before a frame.
const HEADER: usize = 12;
const WRITE: u16 = 2;

/// A guest's end of one queue.
pub(crate) struct End {
    ring: DriverRing,
    avail: u16,
    seen: u16,
}

impl End {
    /// Makes the next `n` descriptors available.
    pub(crate) fn offer(&mut self, n: u16) {
        for _ in 0..n {
            self.ring.set_avail(self.avail, self.avail % RING);
            self.avail = self.avail.wrapping_add(1);
        }
        self.ring.publish(self.avail);
    }
}

/// A guest: what it sends and receives by.
pub(crate) struct Guest {
    pub(crate) tx: End,
    pub(crate) rx: End,
    counters: Arc<Counters>,
}

/// The switch, its one worker, and two guests; the first sends to the second.
pub struct Rings {
    worker: Worker,
    sender: Guest,
    receiver: Guest,
}

/// The VLAN of both.
pub(crate) const VLAN: u16 = 10;

/// Of guest `index`: its own address, and those of the stations behind it.
pub(crate) fn mac(index: u8, station: u16) -> Mac {
    let [high, low] = station.to_be_bytes();
    Mac([0x00, 0x50, 0x56, index, high, low])
}

impl Rings {
    /// Frames of `frame` bytes without the CRC, from `macs` addresses behind the first guest to as many behind the second,
    /// which are learnt when it is more than one.
    ///
    /// # Panics
    /// When memory cannot be had: a bench has no use for less.
    pub fn new(frame: usize, macs: u16) -> Rings {
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let (first, sender) = port(0, frame, macs);
        let (second, receiver) = port(1, frame, macs);
        let mut snapshot = Snapshot::new(vec![first, second], 1500);
        if macs > 1 {
            snapshot = snapshot.with_learned(learned(macs));
        }
        workers.publish(snapshot);
        Rings { worker: workers.worker(0).expect("the one worker"), sender, receiver }
    }

    /// The guests' part: a burst to send, and room for it. Buffers are used in their order, so what descriptors say
    /// stays true.
    pub fn fill(&mut self) {
        for end in [&mut self.sender.tx, &mut self.receiver.rx] {
            end.seen = end.ring.used_idx();
            let room = RING - end.avail.wrapping_sub(end.seen);
            let n = room.min(if end.avail == 0 { RING / 2 } else { BURST as u16 }).min(RING / 2);
            end.offer(n);
        }
    }

    /// One turn: a burst through the switch. Returns the frames taken.
    #[inline(never)]
    pub fn turn(&mut self) -> usize {
        self.worker.turn()
    }

    /// Frames that came out so far, and true when every frame is accounted for.
    pub fn delivered(&self) -> (u64, bool) {
        let totals = [&self.sender, &self.receiver].map(|g| g.counters.totals());
        (totals[1].out_frames, totals.iter().all(dataplane::PortTotals::balanced))
    }
}

/// The addresses of the stations behind the second guest, learnt.
pub(crate) fn learned(macs: u16) -> Arc<Learned> {
    let learned = Learned::new();
    (0..macs).for_each(|n| _ = learned.learn(&learned.probe(Address::new(VLAN, mac(1, n))), PortId(1), Seconds(0)));
    Arc::new(learned)
}

/// Bytes of a guest's memory: two rings, and two buffers for each of their descriptors.
fn layout() -> (usize, usize) {
    let ring = DriverRing::bytes(RING).next_multiple_of(4096);
    (ring, 2 * ring + 2 * usize::from(RING) * BUFFER)
}

/// Port `index` and its guest.
pub(crate) fn port(index: u8, frame: usize, macs: u16) -> (PortEntry, Guest) {
    let (ring_bytes, bytes) = layout();
    let file = tempfile::tempfile().expect("a file");
    file.set_len(bytes as u64).expect("its length");
    let region = Region::map(file.as_fd(), 0, bytes, true).expect("memory");
    let span = Span { guest: 0, len: bytes as u64, user: 0, region: region.clone(), offset: 0 };
    let table = MemTable::new().with(span).expect("a table");
    let end = |at: usize| {
        let (ring, avail, used) = DriverRing::new(RING, (&region, at)).expect("a ring");
        let device = SplitRing::new(RING, (&region, at), (&region, at + avail), (&region, at + used)).expect("a ring");
        (End { ring, avail: 0, seen: 0 }, device)
    };
    let ((tx, tx_ring), (rx, rx_ring)) = (end(0), end(ring_bytes));
    let buffers = 2 * ring_bytes;
    for at in 0..RING {
        let place = buffers + usize::from(at) * BUFFER;
        let mut bytes = [0u8; HEADER].to_vec();
        bytes.extend([&mac(1 - index, at % macs).0[..], &mac(index, at % macs).0, &[0x08, 0x00]].concat());
        bytes.resize(HEADER + frame, 0x5a);
        assert!(region.slice(place, bytes.len()).expect("a buffer").write_at(0, &bytes));
        tx.ring.write_desc(at, place as u64, bytes.len() as u32, 0, 0);
        rx.ring.write_desc(at, (place + usize::from(RING) * BUFFER) as u64, BUFFER as u32, WRITE, 0);
    }
    for ring in [&tx.ring, &rx.ring] {
        ring.set_no_interrupt(true);
    }
    let mut active = Active {
        table: Arc::new(table),
        features: VERSION_1 | MRG_RXBUF,
        tx: Default::default(),
        rx: Default::default(),
        receivers: ArrayVec::new(),
        failed: AtomicU16::new(0),
    };
    active.tx[0] = Some(TxQueueRings { ring: tx_ring.into(), state: Arc::new(TxState::new(0)) });
    active.rx[0] = Some(RxQueue { ring: rx_ring.into(), state: Arc::new(RxState::new(0)) });
    active.receivers.push(0);
    let counters = Arc::new(Counters::new(1));
    (entry(index, active, macs > 1, counters.clone()), Guest { tx, rx, counters })
}

fn entry(index: u8, active: Active, learning: bool, counters: Arc<Counters>) -> PortEntry {
    let state = Arc::new(PortState::new());
    state.set_connected(true);
    state.set_filter(RxFilter {
        mac: Some(mac(index, 0)),
        unicast: true,
        broadcast: true,
        multicast: Multicast::List(Vec::new()),
        ..RxFilter::closed()
    });
    let card = Arc::new(Card {
        active: ArcSwapOption::new(Some(Arc::new(active))),
        state: state.clone(),
        interrupts: Interrupts::new(),
        kicks: Default::default(),
        errors: Default::default(),
    });
    let queue: Box<dyn Ingress> = Box::new(TxQueue::new(card.clone(), 0));
    let security = Security { learning, forged_transmits: learning, ..Security::default() };
    let policy = Policy { vlan: VlanMode::Vst(VLAN), security, mac: mac(index, 0) };
    let placement = Placement { send: Choice::None, receive: Receive { group: Arc::new([]), unicast: Arc::new([]) } };
    PortEntry {
        id: PortId(index.into()),
        name: format!("port{index}").into(),
        role: Role::Vnic(VnicRole { policy, chosen_mac: None, placement, has_uplinks: false }),
        state,
        counters,
        egress: Arc::new(RxPath::new(card)),
        queues: vec![(Arc::new(IngressSlot::new(queue)), 0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_every_turn_comes_out() {
        for (frame, macs) in [(60, 1), (508, 256), (1514, 100)] {
            let mut rings = Rings::new(frame, macs);
            let mut taken = 0;
            for _ in 0..100 {
                rings.fill();
                taken += rings.turn();
            }
            assert!(taken >= 100 * BURST, "{taken}");
            assert_eq!(rings.delivered(), (taken as u64, true));
        }
    }
}
