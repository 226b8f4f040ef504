//! The switches of different sizes, and what their guests send.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{Address, BURST, Learned, PortId, Seconds, Snapshot, Worker, Workers};
use portgroups::{VlanMode, VlanSet};

use crate::guests::{Guest, Spec, accounted, mac, port};
use crate::side::median;

/// Descriptors of a ring where the number of ports does not forbid it.
const RING: u16 = 256;
/// Descriptors of a ring where every one of many ports is busy, and of a silent port's.
const SMALL: u16 = 64;
/// Learning ports the addresses are spread over: 16 times 4096 is 64 Ki, and a port has no more.
const LEARNERS: u16 = 16;
/// Prime: going on by it meets every station, and no neighbours one after the other.
const STEP: u32 = 1103;
/// Frames whose time is taken together.
const BATCH: usize = 2048;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Connected ports, of which one pair talks.
    Silent,
    /// Ports that all talk, each with its neighbour.
    Busy,
    /// One pair whose rings and buffers are together as many as those of so many busy ports.
    Memory,
    /// Addresses learnt, over all of 16 ports that all talk.
    Addresses,
    /// VLANs that one pair of trunk ports uses in turn.
    Vlans,
}

/// One size.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What grows.
    pub axis: Axis,
    /// How far.
    pub size: u32,
}

/// Every axis with its sizes.
pub const AXES: [(Axis, &[u32]); 5] = [
    (Axis::Silent, &[2, 16, 128, 1024]),
    (Axis::Busy, &[2, 16, 128, 1024]),
    (Axis::Memory, &[2, 16, 128, 1024]),
    (Axis::Addresses, &[256, 1024, 4096, 16_384, 65_536]),
    (Axis::Vlans, &[1, 16, 256, 4094]),
];

impl Axis {
    /// Its name, in one word.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Silent => "ports, one pair talks",
            Axis::Busy => "ports, all talk",
            Axis::Memory => "one pair, memory of as many ports",
            Axis::Addresses => "MAC addresses",
            Axis::Vlans => "VLANs",
        }
    }
}

/// More turns than the worker waits until it takes a silent port for cold.
const COOLED: usize = 70_000;

/// Turns within which a worker looks at every queue, cold ones too, and more.
const LAST_TURNS: usize = 2000;

/// What the heads of frames are made of.
#[derive(Clone, Copy)]
enum Heads {
    /// They lie in the buffers already.
    Ready,
    /// So many stations behind each guest.
    Stations(u32),
    /// Tags of so many VLANs.
    Tags(u32),
}

/// A switch of one size with its guests, in this thread.
pub struct Site {
    workers: Arc<Workers>,
    worker: Worker,
    guests: Vec<Guest>,
    busy: usize,
    /// Bursts each busy guest offers before the switch takes them.
    bursts: u16,
    heads: Heads,
    turn: u32,
    silent: bool,
    started: Instant,
}

impl Site {
    /// Builds it.
    ///
    /// # Panics
    /// When memory cannot be had, or addresses find no room in the table.
    pub fn new(case: Case, frame: usize) -> Site {
        let size = case.size;
        let (ports, busy, ring, bursts, heads) = match case.axis {
            Axis::Silent => (size, 2, RING, 1, Heads::Ready),
            Axis::Busy => (size, size, SMALL, 1, Heads::Ready),
            Axis::Memory => (2, 2, SMALL * (size / 2) as u16, (size / 2) as u16, Heads::Ready),
            Axis::Addresses => (LEARNERS.into(), LEARNERS.into(), RING, 1, Heads::Stations(size / u32::from(LEARNERS))),
            Axis::Vlans => (2, 2, RING, 1, Heads::Tags(size)),
        };
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let spec = |index: u16| Spec {
            index,
            peer: index ^ 1,
            vlan: match heads {
                Heads::Tags(n) => VlanMode::Vgt(vlans(n)),
                // Four port groups, each a VLAN.
                _ => VlanMode::Vst(10 + index / 2 % 4),
            },
            learning: case.axis == Axis::Addresses,
            worker: 0,
            workers: 1,
            ring: if u32::from(index) < busy { ring } else { SMALL },
            frame,
            stations: 1,
        };
        let (entries, guests): (Vec<_>, Vec<_>) = (0..ports as u16).map(|index| port(&spec(index))).unzip();
        let mut snapshot = Snapshot::new(entries, 1500);
        if let Heads::Stations(n) = heads {
            snapshot = snapshot.with_learned(Arc::new(learned(n)));
        }
        workers.publish(snapshot);
        let worker = workers.worker(0).expect("the one worker");
        let (silent, busy, started) = (case.axis == Axis::Silent, busy as usize, Instant::now());
        Site { workers, worker, guests, busy, bursts, heads, turn: 0, silent, started }
    }

    /// The guests' part: they take what arrived and offer more.
    fn fill(&mut self) {
        self.workers.set_clock(Seconds(self.started.elapsed().as_secs() as u32));
        let (heads, turn) = (self.heads, self.turn);
        let count = self.bursts * BURST as u16;
        for (index, guest) in self.guests.iter_mut().take(self.busy).enumerate() {
            guest.receive();
            let mut n = turn;
            let mut next = || {
                n += 1;
                head(index as u16, n, heads)
            };
            match heads {
                Heads::Ready => guest.send(count, None),
                _ => guest.send(count, Some(&mut next)),
            }
        }
        self.turn = self.turn.wrapping_add(count.into()) % (STEP * (1 << 16));
    }

    /// One round of turns, until all that was offered is taken. Returns the frames, and the time inside the worker's turns.
    pub fn round(&mut self) -> (usize, Duration) {
        self.fill();
        let (mut frames, mut spent) = (0, Duration::ZERO);
        for _ in 0..self.bursts {
            let start = Instant::now();
            frames += self.turn();
            spent += start.elapsed();
        }
        (frames, spent)
    }

    /// One turn of the worker, alone so that a profiler finds it.
    #[inline(never)]
    fn turn(&mut self) -> usize {
        self.worker.turn()
    }

    /// Turns that do not count: every buffer is touched, so that its page is there, and silent ports become cold.
    pub fn settle(&mut self) {
        if self.silent {
            (0..COOLED).for_each(|_| _ = self.worker.turn());
            // Those that talk are silent, too, so far: they are found within a round of the cold ones.
            self.fill();
            (0..COOLED / 50).for_each(|_| _ = self.worker.turn());
        }
        for _ in 0..2 * usize::from(RING) / BURST {
            self.fill();
            (0..self.bursts).for_each(|_| _ = self.worker.turn());
        }
    }

    /// Nanoseconds in the worker per frame: the median over batches, after as long a time to warm up.
    pub fn measure(&mut self, seconds: f64) -> f64 {
        self.settle();
        self.run(seconds / 2.0);
        median(self.run(seconds))
    }

    fn run(&mut self, seconds: f64) -> Vec<f64> {
        let (start, mut batches) = (Instant::now(), Vec::new());
        while start.elapsed().as_secs_f64() < seconds || batches.is_empty() {
            let (mut frames, mut spent) = (0, Duration::ZERO);
            while frames < BATCH {
                let (n, time) = self.round();
                (frames, spent) = (frames + n, spent + time);
            }
            batches.push(spent.as_nanos() as f64 / frames as f64);
        }
        batches
    }

    /// True when no frame was lost and every one is accounted for. What still waits is taken first: a queue that was cold
    /// is one burst behind from then on.
    pub fn accounted(&mut self) -> bool {
        for _ in 0..LAST_TURNS {
            if self.guests.iter().all(|guest| guest.unsent() == 0) {
                break;
            }
            self.worker.turn();
            self.guests.iter_mut().for_each(Guest::receive);
        }
        self.guests.iter_mut().for_each(Guest::receive);
        let [sent, received] =
            [|g: &Guest| g.sent, |g: &Guest| g.received].map(|f| self.guests.iter().map(f).sum::<u64>());
        sent == received && accounted(&self.guests)
    }
}

/// VLANs 1 to `n`.
fn vlans(n: u32) -> VlanSet {
    format!("1-{n}").parse().expect("VLANs from 1 to 4094")
}

/// A table that knows `n` stations behind each learning port.
fn learned(n: u32) -> Learned {
    let table = Learned::new();
    for (index, station) in (0..LEARNERS).flat_map(|index| (0..n as u16).map(move |station| (index, station))) {
        let probe = table.probe(Address::new(10 + index / 2 % 4, mac(index, 1 + station)));
        table.learn(&probe, PortId(index), Seconds(0));
        assert_eq!(table.lookup(&probe, Seconds(0)), Some(PortId(index)), "room for {n} stations a port");
    }
    table
}

/// The first bytes of frame number `n` of guest `index`.
fn head(index: u16, n: u32, heads: Heads) -> [u8; 18] {
    let mut bytes = [0; 18];
    let (to, from, rest) = match heads {
        Heads::Ready => (mac(index ^ 1, 0), mac(index, 0), [0x08, 0, 0, 0, 0, 0]),
        Heads::Stations(count) => {
            let station = |n: u32| 1 + (n.wrapping_mul(STEP) % count) as u16;
            (mac(index ^ 1, station(n)), mac(index, station(n + 7)), [0x08, 0, 0, 0, 0, 0])
        }
        Heads::Tags(count) => {
            // Another priority each time: neighbours are not alike, as with addresses, however few VLANs there are.
            let priority = (n % 8) as u16;
            let [high, low] = (priority << 13 | (1 + (n.wrapping_mul(STEP) % count) as u16)).to_be_bytes();
            (mac(index ^ 1, 0), mac(index, 0), [0x81, 0, high, low, 0x08, 0])
        }
    };
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..].copy_from_slice(&rest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_loses_nothing() {
        for (axis, sizes) in AXES {
            let mut site = Site::new(Case { axis, size: sizes[1] }, 60);
            site.settle();
            let frames: usize = (0..300).map(|_| site.round().0).sum();
            assert_eq!(frames, 300 * site.busy * usize::from(site.bursts) * BURST, "{axis:?}");
            assert!(site.accounted(), "{axis:?}");
        }
    }
}
