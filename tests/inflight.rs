//! The switch is killed under load, again and again, and its guests' VMMs hand the inflight memory back: every chain comes
//! back once and in order, every frame arrives, whole, and nothing stalls.

mod common;
#[path = "../vnic/src/virtio/test_driver.rs"]
mod test_driver;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Net, alone, portgroup, vnic};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use sharedmem::Region;
use test_driver::{AREAS, BASE, Guest, MEMORY, RINGS, RX, TX};
use vhost::vhost_user::message::{VhostUserInflight, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

const SIZES: [u16; 2] = [64, 256];
/// `VIRTIO_F_VERSION_1`, `VIRTIO_NET_F_MRG_RXBUF`, `VHOST_USER_F_PROTOCOL_FEATURES`; `VIRTIO_F_RING_PACKED`.
const FEATURES: u64 = 1 << 32 | 1 << 15 | 1 << 30;
const PACKED: u64 = 1 << 34;
/// Frames on their way at most, so that the receiver has room for them and for those that come twice.
const WINDOW: u32 = 48;
/// Whatever the machine does meanwhile, frames move within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest and its VMM.
struct Machine {
    guest: Guest,
    file: OwnedFd,
    features: u64,
    /// What the VMM keeps for the switch.
    inflight: Option<(VhostUserInflight, File)>,
    connection: Option<(Frontend, [EventFd; 4])>,
}

impl Machine {
    fn new(packed: bool, seed: u64) -> Result<Machine> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, MEMORY as u64)?;
        let memory = Region::map(std::os::fd::AsFd::as_fd(&file), 0, MEMORY, true)?;
        let features = FEATURES | if packed { PACKED } else { 0 };
        let guest = Guest::new(memory, SIZES, packed, seed);
        Ok(Machine { guest, file, features, inflight: None, connection: None })
    }

    /// Connects to the switch on `socket` as a VMM does whose guest has been there all the time.
    fn connect(&mut self, socket: &Path) -> Result<()> {
        self.connection = None;
        let mut front = Frontend::connect(socket, 2)?;
        front.set_owner()?;
        let offered = front.get_features()?;
        ensure!(offered & self.features == self.features, "{offered:#x} is offered");
        let protocol = front.get_protocol_features()?;
        ensure!(protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD), "{protocol:?}");
        front.set_protocol_features(VhostUserProtocolFeatures::INFLIGHT_SHMFD)?;
        front.set_features(self.features)?;
        let (told, file) = match self.inflight.take() {
            Some(kept) => kept,
            None => front.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 256))?,
        };
        front.set_inflight_fd(&told, file.as_raw_fd())?;
        self.inflight = Some((told, file));
        front.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: self.guest.memory.len() as u64,
            userspace_addr: BASE,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }])?;
        let event = || EventFd::new(0o4000).context("an eventfd");
        let events = [event()?, event()?, event()?, event()?];
        for (index, which) in [(0, RX), (1, TX)] {
            let start = BASE + RINGS[which] as u64;
            front.set_vring_num(index, SIZES[which])?;
            // As DPDK tells it, who does not know.
            front.set_vring_base(index, 0)?;
            let data = VringConfigData {
                queue_max_size: SIZES[which],
                queue_size: SIZES[which],
                flags: 0,
                desc_table_addr: start,
                used_ring_addr: start + AREAS[1] as u64,
                avail_ring_addr: start + AREAS[0] as u64,
                log_addr: None,
            };
            front.set_vring_addr(index, &data)?;
            front.set_vring_call(index, &events[index])?;
            front.set_vring_kick(index, &events[2 + index])?;
            front.set_vring_enable(index, true)?;
        }
        // All of it has been carried out when this is answered.
        front.get_features()?;
        self.connection = Some((front, events));
        Ok(())
    }

    fn kick(&self) {
        if let Some((_, events)) = &self.connection {
            let _ = events[3].write(1);
        }
    }
}

/// A sender and a receiver on a switch.
struct Pair {
    net: Net,
    tables: String,
    machines: [Machine; 2],
    /// One more than the highest number received.
    arrived: u32,
}

impl Pair {
    fn start(packed: bool, seed: u64) -> Result<Pair> {
        let tables = portgroup("Production", "10")
            + &vnic("v1", "Production", "virtio", 1)
            + &vnic("v2", "Production", "virtio", 2);
        let net = Net::start(None, "", &tables)?;
        let machines = [Machine::new(packed, seed)?, Machine::new(packed, seed ^ 1)?];
        let mut pair = Pair { net, tables, machines, arrived: 0 };
        pair.machines[1].guest.receive();
        pair.connect()?;
        Ok(pair)
    }

    /// The receiver first: a frame for a guest that is not there is dropped, as on a wire.
    fn connect(&mut self) -> Result<()> {
        for (machine, name) in self.machines.iter_mut().zip(["v1", "v2"]).rev() {
            machine
                .connect(&self.net.switch.socket(name))
                .with_context(|| format!("{name}: {}", self.net.switch.log()))?;
        }
        Ok(())
    }

    /// Both guests do what they can.
    fn turn(&mut self, sending: bool) {
        let [sender, receiver] = &mut self.machines;
        receiver.guest.receive();
        let highest = receiver.guest.received.iter().rev().take(64).max();
        self.arrived = self.arrived.max(highest.map_or(0, |number| number + 1));
        sender.guest.reap();
        while sending && sender.guest.next < self.arrived + WINDOW {
            let before = sender.guest.next;
            sender.guest.send();
            if sender.guest.next == before {
                break;
            }
        }
        sender.kick();
    }

    /// Kills the switch `after` some load, and starts another.
    fn crash(&mut self, after: Duration) -> Result<()> {
        // Under load for sure, before the moment is chosen.
        self.until(|pair, start| pair.arrived > start + 2 * WINDOW)?;
        let pid = i32::try_from(self.net.switch.pid()).ok().and_then(Pid::from_raw).context("a process")?;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill_process(pid, Signal::KILL)
        });
        while !killer.is_finished() {
            self.turn(true);
        }
        killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))??;
        self.turn(true);
        self.net.crash(&self.tables.clone())?;
        self.connect()
    }

    /// Frames move until `holds` of this and the highest number at first.
    fn until(&mut self, holds: impl Fn(&Pair, u32) -> bool) -> Result<()> {
        let (start, deadline) = (self.arrived, Instant::now() + PATIENCE);
        while !holds(self, start) {
            ensure!(Instant::now() < deadline, "frames do not move:\n{}", self.net.switch.log());
            self.turn(true);
        }
        Ok(())
    }

    /// Everything comes to its end; what must hold after `crashes`.
    fn finish(mut self, crashes: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let missing = |pair: &Pair| {
            let [sender, receiver] = &pair.machines;
            let mut seen = vec![false; sender.guest.next as usize];
            receiver.guest.received.iter().for_each(|number| seen[*number as usize] = true);
            seen.iter().position(|seen| !seen)
        };
        while missing(&self).is_some() || !self.machines[0].guest.drivers[TX].given.is_empty() {
            let log = self.net.switch.log();
            ensure!(
                Instant::now() < deadline,
                "frame {:?} is missing or a chain did not return:\n{log}",
                missing(&self)
            );
            (0..100).for_each(|_| self.turn(false));
        }
        let [sender, receiver] = &self.machines;
        let twice = receiver.guest.received.len() - sender.guest.next as usize;
        ensure!(twice <= 32 * crashes, "{twice} frames came twice");
        println!("{} frames, {crashes} crashes, {twice} twice", sender.guest.next);
        self.machines.iter_mut().for_each(|machine| machine.connection = None);
        self.net.finish()
    }
}

fn killed_again_and_again(packed: bool, seed: u64) -> Result<()> {
    const CRASHES: usize = 40;
    let _alone = alone();
    let mut pair = Pair::start(packed, seed)?;
    for _ in 0..CRASHES {
        let after = pair.machines[0].guest.dice.below(4000);
        pair.crash(Duration::from_micros(after.into()))?;
    }
    pair.until(|pair, start| pair.arrived > start + 1000)?;
    pair.finish(CRASHES)
}

#[test]
fn split_rings_lose_nothing_when_the_switch_is_killed() -> Result<()> {
    killed_again_and_again(false, 0x5eed_0001)
}

#[test]
fn packed_rings_lose_nothing_when_the_switch_is_killed() -> Result<()> {
    killed_again_and_again(true, 0x5eed_0002)
}
