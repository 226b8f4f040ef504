//! Guests with virtio rings in this process, as many as wanted, and the ports they sit on.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use arc_swap::ArcSwapOption;
use arrayvec::ArrayVec;
use dataplane::{
    Counters, Egress, Ingress, IngressSlot, Multicast, PortEntry, PortId, PortState, PortTotals, Role, RxFilter,
    VnicRole,
};
use portgroups::{Policy, Security, VlanMode};
use sharedmem::{DriverRing, MemTable, Region, SharedPage, Span, SplitRing};
use teaming::{Choice, Placement, Receive};
pub(crate) use testbed::soft::{BUFFER, STRIDE};
use testbed::soft::{HEADER, LINE};
use vnic::irq::Interrupts;
use vnic::virtio::features::{MRG_RXBUF, VERSION_1};
use vnic::virtio::{Active, Card, RxPath, RxQueue, RxState, TxQueue, TxQueueRings, TxState, Virtqueue};
use wire::Mac;

/// A descriptor the device writes to.
const WRITE: u16 = 2;

/// What one port and the guest on it are like.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The port's number, which is the guest's, too.
    pub index: u16,
    /// Whom its frames are for as they lie in its buffers.
    pub peer: u16,
    /// VLANs of the port.
    pub vlan: VlanMode,
    /// True when addresses behind it are learnt.
    pub learning: bool,
    /// The worker that polls it.
    pub worker: usize,
    /// Workers in all.
    pub workers: usize,
    /// Descriptors of each ring, a power of two.
    pub ring: u16,
    /// Bytes of each frame without the CRC.
    pub frame: usize,
    /// Stations behind each guest whose addresses the frames in its buffers go round; 1: the guest's own alone.
    pub stations: u16,
}

/// A guest's end of one queue.
struct End {
    ring: DriverRing,
    avail: u16,
}

/// A guest: what it sends and receives by.
pub struct Guest {
    region: Arc<Region>,
    buffers: usize,
    tx: End,
    rx: End,
    /// Frames offered so far.
    pub sent: u64,
    /// Receive buffers that came back used.
    pub received: u64,
    seen: u16,
    counters: Arc<Counters>,
}

/// The address of station `station` behind guest `index`; station 0 is the guest itself.
pub fn mac(index: u16, station: u16) -> Mac {
    let ([a, b], [c, d]) = (index.to_be_bytes(), station.to_be_bytes());
    Mac([0x02, 0x50, a, b, c, d])
}

impl Guest {
    /// Offers `frames` more frames as they lie in the buffers, or with new heads from `head`.
    pub fn send(&mut self, frames: u16, mut head: Option<&mut dyn FnMut() -> [u8; 18]>) {
        let size = self.tx.ring.size();
        for _ in 0..frames {
            let at = self.tx.avail % size;
            if let Some(head) = &mut head {
                let place = self.buffers + usize::from(at) * STRIDE + HEADER;
                let written = self.region.slice(place, 18).is_some_and(|slice| slice.write_at(0, &head()));
                assert!(written, "a buffer lies in its region");
            }
            self.tx.ring.set_avail(self.tx.avail, at);
            self.tx.avail = self.tx.avail.wrapping_add(1);
        }
        self.tx.ring.publish(self.tx.avail);
        self.sent += u64::from(frames);
    }

    /// Frames it offered that the switch has not taken yet.
    pub fn unsent(&self) -> u16 {
        self.tx.avail.wrapping_sub(self.tx.ring.used_idx())
    }

    /// Gives the switch back all buffers with frames in them, the first time all there are.
    pub fn receive(&mut self) {
        let used = self.rx.ring.used_idx();
        let new = used.wrapping_sub(self.seen);
        self.seen = used;
        self.received += u64::from(new);
        let size = self.rx.ring.size();
        let more = size - self.rx.avail.wrapping_sub(used);
        for _ in 0..more {
            self.rx.ring.set_avail(self.rx.avail, self.rx.avail % size);
            self.rx.avail = self.rx.avail.wrapping_add(1);
        }
        self.rx.ring.publish(self.rx.avail);
    }

    /// The port's counters.
    pub fn totals(&self) -> PortTotals {
        self.counters.totals()
    }
}

/// What can be done with a guest of any kind.
pub trait Driver {
    /// Offers `frames` more frames as they lie in the buffers.
    fn send(&mut self, frames: u16);

    /// Takes what came, and gives the switch its buffers back.
    fn receive(&mut self);

    /// Frames that the switch took, as far as the guest has looked.
    fn taken(&self) -> u64;

    /// Frames that came, as far as the guest has looked.
    fn received(&self) -> u64;

    /// The port's counters.
    fn totals(&self) -> PortTotals;
}

impl Driver for Guest {
    fn send(&mut self, frames: u16) {
        Guest::send(self, frames, None);
    }

    fn receive(&mut self) {
        Guest::receive(self);
    }

    fn taken(&self) -> u64 {
        self.sent - u64::from(self.unsent())
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn totals(&self) -> PortTotals {
        Guest::totals(self)
    }
}

impl<D: Driver + ?Sized> Driver for Box<D> {
    fn send(&mut self, frames: u16) {
        (**self).send(frames);
    }

    fn receive(&mut self) {
        (**self).receive();
    }

    fn taken(&self) -> u64 {
        (**self).taken()
    }

    fn received(&self) -> u64 {
        (**self).received()
    }

    fn totals(&self) -> PortTotals {
        (**self).totals()
    }
}

/// True when every frame of these guests' switch is accounted for: per port, over the switch, and against what the guests
/// themselves counted. (Where the counters stand is in `dataplane::counters`.)
pub fn accounted(guests: &[impl Driver]) -> bool {
    let (mut copies, mut offered) = (0, 0);
    let mut good = true;
    for guest in guests {
        let totals = guest.totals();
        good &= totals.balanced() && totals.in_frames == guest.taken();
        good &= totals.out_frames == guest.received();
        copies += totals.in_copies + totals.out_segments + totals.out_originated;
        offered += totals.out_offered;
    }
    good && copies == offered
}

/// The port of `spec`, and its guest.
///
/// # Panics
/// When memory cannot be had: a bench has no use for less.
pub fn port(spec: &Spec) -> (PortEntry, Guest) {
    let ring_bytes = DriverRing::bytes(spec.ring).next_multiple_of(4096);
    // Frames begin with a cache line, as DPDK's driver has them.
    let buffers = 2 * ring_bytes + LINE - HEADER;
    let bytes = (buffers + 2 * usize::from(spec.ring) * STRIDE).next_multiple_of(4096);
    let memory = SharedPage::new("guest", bytes).expect("memory");
    let region = memory.region().clone();
    let span = Span { guest: 0, len: bytes as u64, user: 0, region: region.clone(), offset: 0 };
    let table = MemTable::new().with(span).expect("a table");
    let end = |at: usize| {
        let (ring, avail, used) = DriverRing::new(spec.ring, (&region, at)).expect("a ring");
        let device = SplitRing::new(spec.ring, (&region, at), (&region, at + avail), (&region, at + used));
        ring.set_no_interrupt(true);
        (End { ring, avail: 0 }, Virtqueue::Split(device.expect("a ring")))
    };
    let ((tx, tx_ring), (rx, rx_ring)) = (end(0), end(ring_bytes));
    for at in 0..spec.ring {
        let station = at % spec.stations.max(1);
        let bytes = [&[0; HEADER][..], &frame(spec, station)].concat();
        let place = buffers + usize::from(at) * STRIDE;
        assert!(region.slice(place, bytes.len()).is_some_and(|buffer| buffer.write_at(0, &bytes)));
        tx.ring.write_desc(at, place as u64, bytes.len() as u32, 0, 0);
        rx.ring.write_desc(at, (place + usize::from(spec.ring) * STRIDE) as u64, BUFFER as u32, WRITE, 0);
    }
    let mut active = Active {
        table: Arc::new(table),
        features: VERSION_1 | MRG_RXBUF,
        tx: Default::default(),
        rx: Default::default(),
        receivers: ArrayVec::new(),
        failed: AtomicU16::new(0),
    };
    active.tx[0] = Some(TxQueueRings { ring: tx_ring, state: Arc::new(TxState::new(0)) });
    active.rx[0] = Some(RxQueue { ring: rx_ring, state: Arc::new(RxState::new(0)) });
    active.receivers.push(0);
    let counters = Arc::new(Counters::new(spec.workers));
    let mut guest = Guest { region, buffers, tx, rx, sent: 0, received: 0, seen: 0, counters: counters.clone() };
    guest.receive();
    (virtio(spec, active, counters), guest)
}

/// A frame of station `station` behind the guest of `spec`.
pub(crate) fn frame(spec: &Spec, station: u16) -> Vec<u8> {
    let mut bytes = [&mac(spec.peer, station).0[..], &mac(spec.index, station).0, &[0x08, 0x00]].concat();
    bytes.resize(spec.frame, 0x5a);
    bytes
}

fn virtio(spec: &Spec, active: Active, counters: Arc<Counters>) -> PortEntry {
    let state = Arc::new(PortState::new());
    state.set_connected(true);
    state.set_filter(RxFilter {
        mac: Some(mac(spec.index, 0)),
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
    let queue = Box::new(TxQueue::new(card.clone(), 0));
    entry(spec, state, counters, Arc::new(RxPath::new(card)), queue)
}

/// The port of `spec`, whatever its card.
pub(crate) fn entry(
    spec: &Spec,
    state: Arc<PortState>,
    counters: Arc<Counters>,
    egress: Arc<dyn Egress>,
    queue: Box<dyn Ingress>,
) -> PortEntry {
    let security = Security { learning: spec.learning, forged_transmits: spec.learning, ..Security::default() };
    let policy = Policy { vlan: spec.vlan.clone(), security, mac: mac(spec.index, 0) };
    let placement = Placement { send: Choice::None, receive: Receive { group: Arc::new([]), unicast: Arc::new([]) } };
    PortEntry {
        id: PortId(spec.index),
        name: format!("port{}", spec.index).into(),
        role: Role::Vnic(VnicRole { policy, chosen_mac: None, placement, has_uplinks: false }),
        state,
        counters,
        egress,
        queues: vec![(Arc::new(IngressSlot::new(queue)), spec.worker)],
    }
}
