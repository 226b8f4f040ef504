//! A switch in this process: real device models behind real sockets, one worker, a control thread.

#![allow(dead_code)] // each test file uses a part of it

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::{
    Counters, Idle, IngressSlot, PortEntry, PortId, PortState, PortTotals, Role, Snapshot, VnicRole, Workers,
};
use portgroups::{Policy, Security, VlanMode, VlanSet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use teaming::{Choice, Placement, Receive};
use vnic::device::{DeviceModel, Setup};
use vnic::irq::Interrupts;
use vnic::vfio_user::{Card, Progress, Server};
use wire::Mac;

pub const LIMIT: Duration = Duration::from_secs(5);
/// How long to wait for a frame that must not come.
pub const SHORT: Duration = Duration::from_millis(60);

#[derive(Clone, Debug)]
pub struct Port {
    pub vlance: bool,
    pub vlan: VlanMode,
    pub security: Security,
}

pub fn vmxnet3(vlan: VlanMode) -> Port {
    Port { vlance: false, vlan, security: Security::default() }
}

pub fn vlance(vlan: VlanMode) -> Port {
    Port { vlance: true, vlan, security: Security::default() }
}

pub fn trunk() -> VlanMode {
    VlanMode::Vgt(VlanSet::all())
}

/// The address port `index` is assigned.
pub fn mac(index: usize) -> Mac {
    Mac([0, 0x50, 0x56, 0, 0, index as u8])
}

pub struct Rig {
    dir: tempfile::TempDir,
    servers: Arc<Mutex<Vec<Server>>>,
    workers: Arc<Workers>,
    states: Vec<Arc<PortState>>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    pub fn new(mtu: u16, ports: &[Port]) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let workers = Workers::new(1, Snapshot::new(vec![], mtu));
        let (mut servers, mut entries, mut states, mut all_counters) = (vec![], vec![], vec![], vec![]);
        for (index, port) in ports.iter().enumerate() {
            let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
            let (name, grace) = (format!("port{index}"), workers.grace().clone());
            let setup = Setup {
                name: name.clone(),
                mac: mac(index),
                mtu,
                state: state.clone(),
                interrupts: interrupts.clone(),
                grace: grace.clone(),
            };
            let mut model: Box<dyn DeviceModel> = if port.vlance {
                Box::new(vnic::vlance::Vlance::new(setup))
            } else {
                Box::new(vnic::vmxnet3::Vmxnet3::new(setup).unwrap())
            };
            let counters = Arc::new(Counters::new(1));
            let policy = Policy { vlan: port.vlan.clone(), security: port.security, mac: mac(index) };
            entries.push(PortEntry {
                id: PortId(index as u16),
                name: name.clone().into(),
                role: Role::Vnic(VnicRole { policy, chosen_mac: None, placement: no_uplinks(), has_uplinks: false }),
                state: state.clone(),
                counters: counters.clone(),
                egress: model.egress(),
                queues: model.ingress().into_iter().map(|q| (Arc::new(IngressSlot::new(q)), 0)).collect(),
            });
            let card = Card { name, model, state: state.clone(), interrupts, grace };
            servers.push(Server::bind(&dir.path().join(format!("{index}.sock")), card).unwrap());
            states.push(state);
            all_counters.push(counters);
        }
        workers.publish(Snapshot::new(entries, mtu));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = Arc::new(AtomicBool::new(false));
        let servers = Arc::new(Mutex::new(servers));
        let control = control_thread(servers.clone(), stop.clone());
        let threads = vec![workers.spawn(0, cpus - 1, Idle::Adaptive).unwrap(), control];
        Rig { dir, servers, workers, states, counters: all_counters, stop, threads }
    }

    pub fn socket(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("{index}.sock"))
    }

    pub fn totals(&self, index: usize) -> PortTotals {
        self.counters[index].totals()
    }

    pub fn messages(&self, index: usize) -> u64 {
        self.servers.lock().unwrap()[index].messages().total()
    }

    pub fn set_link(&self, index: usize, up: bool) {
        self.states[index].set_link_up(up);
        self.servers.lock().unwrap()[index].link_changed();
    }

    /// Waits until nothing moves, then checks both sums of every port.
    pub fn check_sums(&self) {
        self.workers.grace().wait();
        self.workers.grace().wait();
        for (index, counters) in self.counters.iter().enumerate() {
            let totals = counters.totals();
            assert!(totals.balanced(), "port {index}: {totals:?}");
        }
    }

    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// True while the guest of port `index` has its card started.
    pub fn started(&self, index: usize) -> bool {
        self.states[index].unicast().started()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.workers.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a thread of the switch panicked");
            }
        }
    }
}

fn control_thread(servers: Arc<Mutex<Vec<Server>>>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let watched: Vec<_> = servers.lock().unwrap().iter().map(|s| s.as_fd().try_clone_to_owned().unwrap()).collect();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Acquire) {
            let mut fds: Vec<PollFd<'_>> = watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
            let mut servers = servers.lock().unwrap();
            for server in servers.iter_mut() {
                while server.ready() == Progress::More {}
            }
        }
    })
}

/// A team without uplinks: the switch is all there is.
fn no_uplinks() -> Placement {
    Placement { send: Choice::None, receive: Receive { group: Arc::new([]), unicast: Arc::new([]) } }
}

/// A frame of `len` bytes (without FCS) with a number in it.
pub fn frame(dst: Mac, src: Mac, len: usize, number: u32) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend(number.to_be_bytes());
    let mut noise = testbed::soft::Noise::new(u64::from(number) << 16 | len as u64);
    while bytes.len() < len {
        bytes.push(noise.next_u32() as u8);
    }
    bytes.truncate(len);
    bytes
}

/// One's complement sum as RFC 1071 has it, written for the tests.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    let bytes = parts.concat();
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum over pseudo header and transport part of an IPv4 frame whose IP header is at 14: all ones when the
/// checksum is right.
pub fn transport_sum(frame: &[u8]) -> u16 {
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let l4 = &frame[34..14 + total];
    ones_sum(&[&frame[26..34], &[0, frame[23]], &(l4.len() as u16).to_be_bytes(), l4])
}

/// A TCP segment over IPv4 as Linux hands it to its driver for segmentation or checksum offload: the
/// checksum field holds the pseudo header's sum (without the length where it is to be segmented).
pub fn tcp4(dst: Mac, src: Mac, payload: &[u8], tso: bool) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    bytes.extend([0x08, 0x00]);
    let total = 40 + payload.len();
    let mut ip =
        vec![0x45, 0, (total >> 8) as u8, total as u8, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    if !tso {
        let sum = !ones_sum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let length = if tso { 0 } else { (total - 20) as u16 };
    let pseudo = ones_sum(&[&ip[12..20], &[0, 6], &length.to_be_bytes()]);
    let mut tcp = vec![0x04, 0xd2, 0x16, 0x2e, 0, 0, 0x10, 0, 0, 0, 0, 9, 0x50, 0x18, 0x40, 0, 0, 0, 0, 0];
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    bytes.extend(ip);
    bytes.extend(tcp);
    bytes.extend(payload);
    bytes
}
