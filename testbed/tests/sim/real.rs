//! The real stages of the data path, one frame at a time, in the place of the simulation's model of them.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dataplane::{
    Burst, Counters, Delivery, DropReason, Egress, Idle, Inbox, Ingress, IngressSlot, Offload, PortEntry, PortId,
    PortState, Role, RxFilter, Sink, Snapshot, Tally, UplinkRole, VnicRole, Workers,
};
use portgroups::{Policy, Security, VlanMode, VlanSet};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sharedmem::Region;
use testbed::sim::{Datapath, Fate, GuestPort, Port, View, Wire};
use wire::Tag;

/// Bytes of the longest frame here.
const ROOM: usize = 4096;

/// A frame to send: its bytes and the tag beside it.
type Sent = (Vec<u8>, Option<Tag>);

/// A queue that gives the frame that was put into it, and says when that is dealt with.
struct Source {
    memory: Arc<Region>,
    next: Arc<Mutex<Option<Sent>>>,
    done: Arc<AtomicBool>,
}

impl Ingress for Source {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let Some((bytes, tag)) = self.next.lock().unwrap().take() else { return 0 };
        let piece = self.memory.slice(0, bytes.len()).unwrap();
        assert!(piece.write_at(0, &bytes));
        let mut burst = Burst::new();
        burst.push(&[piece], tag, Offload::default());
        sink.forward(&burst);
        self.done.store(true, Ordering::Release);
        1
    }
}

/// What came out: by which port, and with which tag.
type Out = Arc<Mutex<VecDeque<(u16, Option<Tag>)>>>;

struct Recorder {
    id: u16,
    out: Out,
}

impl Egress for Recorder {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        for delivery in list {
            tally.delivered(burst.frames()[delivery.index()].len());
            self.out.lock().unwrap().push_back((self.id, delivery.tag()));
        }
    }
}

/// What stays of a port from snapshot to snapshot.
struct Slot {
    state: Arc<PortState>,
    counters: Arc<Counters>,
    egress: Arc<Recorder>,
    queue: Arc<IngressSlot>,
    next: Arc<Mutex<Option<Sent>>>,
    done: Arc<AtomicBool>,
}

/// A worker, and the ports it serves.
pub struct Real {
    workers: Arc<Workers>,
    thread: Option<JoinHandle<()>>,
    slots: Vec<Slot>,
    inbox: Option<Arc<Inbox>>,
    out: Out,
    view: View,
}

impl Real {
    pub fn new() -> Real {
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let cpu = std::thread::available_parallelism().map_or(0, |n| n.get() - 1);
        let thread = workers.spawn(0, cpu, Idle::Adaptive).unwrap();
        Real {
            workers,
            thread: Some(thread),
            slots: Vec::new(),
            inbox: None,
            out: Out::default(),
            view: View::default(),
        }
    }

    fn slot(&mut self, number: usize) -> &Slot {
        while self.slots.len() <= number {
            let file = memfd_create("frame", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, ROOM as u64).unwrap();
            let memory = Region::map(file.as_fd(), 0, ROOM, true).unwrap();
            let (next, done) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
            let state = PortState::new();
            state.set_connected(true);
            let id = self.slots.len() as u16;
            self.slots.push(Slot {
                state: Arc::new(state),
                counters: Arc::new(Counters::new(1)),
                egress: Arc::new(Recorder { id, out: self.out.clone() }),
                queue: Arc::new(IngressSlot::new(Box::new(Source { memory, next: next.clone(), done: done.clone() }))),
                next,
                done,
            });
        }
        &self.slots[number]
    }

    fn entry(&mut self, number: usize, role: Role) -> PortEntry {
        let slot = self.slot(number);
        PortEntry {
            id: PortId(number as u16),
            name: Arc::from(format!("port{number}")),
            role,
            state: slot.state.clone(),
            counters: slot.counters.clone(),
            egress: slot.egress.clone(),
            queues: vec![(slot.queue.clone(), 0)],
        }
    }

    fn guest_entry(&mut self, number: usize, port: &GuestPort) -> PortEntry {
        let vlan = match port.vlan {
            Some(0) => VlanMode::Est,
            Some(vid) => VlanMode::Vst(vid),
            None => VlanMode::Vgt(VlanSet::all()),
        };
        self.slot(number).state.set_filter(RxFilter {
            mac: Some(port.mac),
            unicast: true,
            broadcast: true,
            all_multicast: true,
            ..RxFilter::closed()
        });
        let role = Role::Vnic(VnicRole {
            policy: Policy { vlan, security: Security::default(), mac: port.mac },
            chosen_mac: None,
            placement: port.placement.clone(),
            has_uplinks: port.has_uplinks,
        });
        self.entry(number, role)
    }

    /// The number of a port, as the placements count uplinks.
    fn number(&self, port: Port) -> usize {
        match port {
            Port::Uplink(uplink) => uplink,
            Port::Guest(guest) => self.view.used.len() + guest,
        }
    }

    /// The tag that a port sees of a frame of a VLAN.
    fn tag(&self, port: Port, vlan: u16) -> Option<Tag> {
        let inside = matches!(port, Port::Guest(guest) if self.view.guests[guest].vlan.is_some());
        (vlan != 0 && !inside).then(|| Tag::new(vlan, 0))
    }

    fn heard(&self, from: usize, frame: &Wire, bytes: &[u8]) -> bool {
        let mut count = 0;
        if let Some(inbox) = &self.inbox {
            inbox.drain(|heard| {
                assert_eq!((usize::from(heard.uplink.0), heard.vlan, &heard.bytes[..]), (from, frame.vlan, bytes));
                count += 1;
            });
            assert_eq!(inbox.lost(), 0);
        }
        assert!(count <= 1);
        count == 1
    }
}

impl Datapath for Real {
    fn publish(&mut self, view: &View) {
        self.view = view.clone();
        if let Some(ethertype) = view.inbox {
            self.inbox.get_or_insert_with(|| Arc::new(Inbox::new(ethertype, || ())));
        }
        let mut entries = Vec::new();
        for (number, used) in view.used.iter().enumerate() {
            entries.push(self.entry(number, Role::Uplink(UplinkRole { used: *used })));
        }
        for (guest, port) in view.guests.iter().enumerate() {
            entries.push(self.guest_entry(self.number(Port::Guest(guest)), port));
        }
        let snapshot = Snapshot::new(entries, 1500);
        self.workers.publish(match &self.inbox {
            Some(inbox) => snapshot.with_inbox(inbox.clone()),
            None => snapshot,
        });
        self.workers.grace().wait();
    }

    fn forward(&mut self, from: Port, frame: &Wire) -> Fate {
        let number = self.number(from);
        let bytes = frame
            .bytes
            .as_ref()
            .map_or_else(|| [&frame.dst.0[..], &frame.src.0, &[0x88, 0xb6], &[0; 46]].concat(), |bytes| bytes.to_vec());
        let slot = &self.slots[number];
        let reflected = |slot: &Slot| slot.counters.totals().drops(DropReason::Reflected);
        let before = reflected(slot);
        slot.done.store(false, Ordering::Release);
        *slot.next.lock().unwrap() = Some((bytes.clone(), self.tag(from, frame.vlan)));
        while !slot.done.load(Ordering::Acquire) {
            assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished), "the worker died");
            std::thread::yield_now();
        }
        let reflected = reflected(slot) > before;
        let heard = self.heard(number, frame, &bytes);
        let mut to = Vec::new();
        for (id, tag) in self.out.lock().unwrap().drain(..) {
            let uplinks = self.view.used.len();
            let port = usize::from(id).checked_sub(uplinks).map_or(Port::Uplink(usize::from(id)), Port::Guest);
            assert_eq!(tag, self.tag(port, frame.vlan), "the tag that {port:?} sees");
            to.push(port);
        }
        to.sort_unstable();
        Fate { heard, reflected, to }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.workers.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
