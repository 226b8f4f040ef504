//! A switch built from a specification, with recorders behind its ports, and its books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::{
    Caps, Counters, DropReason, Heard, Idle, Inbox, IngressSlot, Learned, PortEntry, PortId, PortState, PortTotals,
    Role, Snapshot, UplinkRole, VnicRole, Workers,
};
use portgroups::{Policy, Security};
use teaming::{BUCKETS, Choice, HashKind, Placement, Receive};

use crate::fake::{Received, Recorder, Sent, Source};
use crate::spec::{Peer, SendBy, SwitchSpec, VnicSpec};

/// Bytes a recorder keeps.
const MEMORY: usize = 4 << 20;

pub struct Port {
    pub id: PortId,
    pub name: Arc<str>,
    pub role: Role,
    pub state: Arc<PortState>,
    pub counters: Arc<Counters>,
    pub egress: Arc<Recorder>,
    /// Its queues and who polls them.
    pub queues: Vec<(Arc<IngressSlot>, usize)>,
}

/// The vNICs in the order of the specification, then the uplinks.
pub struct Switch {
    pub ports: Vec<Port>,
    pub mtu: u16,
    pub inbox: Option<Arc<Inbox>>,
    /// There when some port learns, as the control thread has it.
    pub learned: Option<Arc<Learned>>,
    wakes: Arc<AtomicU64>,
}

impl Switch {
    pub fn new(spec: &SwitchSpec, workers: usize) -> Switch {
        Switch::with_memory(spec, workers, MEMORY)
    }

    /// With recorders that keep `memory` bytes.
    pub fn with_memory(spec: &SwitchSpec, workers: usize, memory: usize) -> Switch {
        let vnics = spec.vnics.iter().map(|v| {
            let state = PortState::new();
            state.set_connected(v.connected);
            state.set_link_up(v.link);
            state.set_filter(v.rx_filter());
            let security = Security {
                promiscuous: v.promiscuous,
                mac_changes: v.mac_changes,
                forged_transmits: v.forged_transmits,
                learning: v.mac_learning,
            };
            let role = Role::Vnic(VnicRole {
                policy: Policy { vlan: v.vlan.clone(), security, mac: v.mac },
                chosen_mac: v.chosen(),
                placement: placement(v, spec),
                has_uplinks: !spec.uplinks.is_empty(),
            });
            let able = Caps { csum: true, tso: true, uso: true, tag: true, pad: false };
            (v.name.as_str(), role, state, &v.peer, able)
        });
        let uplinks = spec.uplinks.iter().map(|u| {
            let state = PortState::new();
            state.set_connected(true);
            let able = Caps { pad: true, ..Caps::default() };
            (u.name.as_str(), Role::Uplink(UplinkRole { used: u.used }), state, &u.peer, able)
        });
        let ports = vnics.chain(uplinks).enumerate().map(|(index, (name, role, state, peer, able))| {
            let state = Arc::new(state);
            let Peer { can, ring, buffer } = peer;
            Port {
                id: id(index),
                name: name.into(),
                role,
                counters: Arc::new(Counters::new(workers)),
                egress: Recorder::new(state.clone(), can.unwrap_or(able), *ring, *buffer, memory),
                state,
                queues: Vec::new(),
            }
        });
        let wakes = Arc::new(AtomicU64::new(0));
        let inbox = spec.beacon.map(|ethertype| {
            let wakes = wakes.clone();
            Arc::new(Inbox::new(ethertype, move || _ = wakes.fetch_add(1, Ordering::SeqCst)))
        });
        let learned = spec.vnics.iter().any(|v| v.mac_learning).then(|| Arc::new(Learned::new()));
        Switch { ports: ports.collect(), mtu: spec.mtu, inbox, learned, wakes }
    }

    /// What waits in the inbox; it is empty then.
    pub fn heard(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        self.inbox.iter().for_each(|inbox| inbox.drain(|one| heard.push(one)));
        heard
    }

    /// How often the inbox called for the control thread.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::SeqCst)
    }

    pub fn index(&self, name: &str) -> usize {
        self.ports.iter().position(|p| *p.name == *name).unwrap_or_else(|| panic!("no port {name}"))
    }

    /// Gives port `index` one more queue that sends `frames`, polled by `worker`.
    pub fn send(
        &mut self,
        index: usize,
        worker: usize,
        frames: impl Iterator<Item = Sent> + Send + 'static,
    ) -> Arc<AtomicBool> {
        let (source, done) = Source::new(frames);
        self.ports[index].queues.push((Arc::new(IngressSlot::new(Box::new(source))), worker));
        done
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_where(|_| true)
    }

    /// The switch as a value, with those ports that `keep` names by index.
    pub fn snapshot_where(&self, keep: impl Fn(usize) -> bool) -> Snapshot {
        let entries = self.ports.iter().enumerate().filter(|(index, _)| keep(*index)).map(|(_, p)| PortEntry {
            id: p.id,
            name: p.name.clone(),
            role: p.role.clone(),
            state: p.state.clone(),
            counters: p.counters.clone(),
            egress: p.egress.clone(),
            queues: p.queues.clone(),
        });
        let mut snapshot = Snapshot::new(entries.collect(), self.mtu);
        if let Some(learned) = &self.learned {
            snapshot = snapshot.with_learned(learned.clone());
        }
        match &self.inbox {
            Some(inbox) => snapshot.with_inbox(inbox.clone()),
            None => snapshot,
        }
    }

    pub fn received(&self, index: usize) -> Vec<Received> {
        self.ports[index].egress.received()
    }

    pub fn totals(&self, index: usize) -> PortTotals {
        self.ports[index].counters.totals()
    }

    /// Every port's sums and the whole switch's hold, and `out` is what the recorders have.
    pub fn check_sums(&self) -> Result<(), String> {
        let (mut handed, mut offered) = (0, 0);
        for (index, port) in self.ports.iter().enumerate() {
            let t = self.totals(index);
            if !t.balanced() {
                return Err(format!("{}: sums do not hold: {t:?}", port.name));
            }
            let got = port.egress.received();
            let (frames, bytes) = (got.len() as u64, got.iter().map(|r| r.bytes.len() as u64).sum::<u64>());
            if (t.out_frames, t.out_bytes) != (frames, bytes) {
                return Err(format!("{}: out {frames} frames, {bytes} bytes, counted {t:?}", port.name));
            }
            handed += t.in_copies + t.out_segments + t.out_originated;
            offered += t.out_offered;
        }
        match handed == offered {
            true => Ok(()),
            false => Err(format!("copies, segments and originated {handed}, offered {offered}")),
        }
    }

    /// All drops: port, `in` or `out`, reason, how many.
    pub fn drops(&self) -> Vec<(Arc<str>, &'static str, &'static str, u64)> {
        let mut all = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            let t = self.totals(index);
            for (way, counts) in [("in", t.in_drops), ("out", t.out_drops)] {
                for reason in DropReason::ALL.iter().filter(|r| counts[**r as usize] > 0) {
                    all.push((port.name.clone(), way, reason.name(), counts[*reason as usize]));
                }
            }
        }
        all
    }

    /// Runs one worker until all of `done` is true, and ends it.
    pub fn run(&self, done: &[Arc<AtomicBool>]) {
        let running = Running::start(self.snapshot(), 1, Idle::Adaptive);
        running.until("all sources are dry", || done.iter().all(|d| d.load(Ordering::Acquire)));
        running.end();
    }
}

/// A port's number: not its index, so that code that mixes them up is found out.
fn id(index: usize) -> PortId {
    PortId(index as u16 * 3 + 2)
}

/// Workers with their threads.
pub struct Running {
    pub workers: Arc<Workers>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn start(snapshot: Snapshot, count: usize, idle: Idle) -> Running {
        let workers = Workers::new(count, snapshot);
        let cpus = cpus();
        let spawn = |index: usize| workers.spawn(index, cpus[index % cpus.len()], idle).unwrap();
        Running { threads: (0..count).map(spawn).collect(), workers }
    }

    /// Waits until `what` is true; panics when a worker died, or after two minutes: the limit is there to end a hang
    /// with a message, not to measure.
    pub fn until(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a worker died while we waited until {what}");
            assert!(start.elapsed() < Duration::from_secs(120), "waited two minutes until {what}");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Stops the workers; panics when one of them did.
    pub fn end(mut self) {
        self.workers.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("the worker ended well");
        }
    }
}

impl Drop for Running {
    /// A test that fails leaves no worker behind to spin beside the others.
    fn drop(&mut self) {
        self.workers.stop();
    }
}

/// The CPUs this process may use.
pub fn cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect()
}

fn placement(vnic: &VnicSpec, spec: &SwitchSpec) -> Placement {
    let uplink = |name: &String| {
        let at = spec.uplinks.iter().position(|u| u.name == *name);
        id(spec.vnics.len() + at.unwrap_or_else(|| panic!("no uplink {name}"))).0
    };
    let hash = |kind, order: &[String]| {
        let table: [u16; BUCKETS] = std::array::from_fn(|bucket| uplink(&order[bucket % order.len()]));
        Choice::Hash { kind, table: Arc::new(table) }
    };
    let send = match &vnic.send {
        SendBy::None => Choice::None,
        SendBy::One(name) => Choice::One(uplink(name)),
        SendBy::MacHash(order) => hash(HashKind::Mac, order),
        SendBy::IpHash(order) => hash(HashKind::Ip, order),
        SendBy::All(order) => Choice::All(order.iter().map(uplink).collect()),
    };
    let group = vnic.group().iter().map(uplink).collect();
    let unicast = match &vnic.unicast_from {
        Some(names) => names.iter().map(uplink).collect(),
        None => spec.uplinks.iter().map(|u| uplink(&u.name)).collect(),
    };
    Placement { send, receive: Receive { group, unicast } }
}
