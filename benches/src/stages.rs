//! The stages of the data path, each by itself with what it needs around it, for timing and for counting instructions.
//!
//! ```text
//!  stage         what is measured, per frame                                             and not
//!  poll          a virtio ring: harvest, and give the descriptors back                   the guest, the sink
//!  forward       admit, resolve, lists, counters, of a burst                             the rings, the copy
//!  deliver       into a virtio ring: reserve, header and frame, publish                  the guest
//!  turn          all of these, and the worker's own part                                 the guests
//!  learning      one address looked up as a source, one as a destination                 what is done with it
//!  sum           the Internet checksum of so many bytes                                  -
//!  fill          a frame written with its checksum filled in on the way                  the ring
//!  segmentation  one of 32 segments cut, patched, summed and written                     the ring
//! ```
//!
//! `poll`, `deliver` and `turn` are of virtio rings, and likewise of vmxnet3's.
//!
//! What is measured runs inside [`counted`], and nothing else does.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::{
    Address, BURST, Burst, Caps, Csum, Delivery, Egress, Gso, Ingress, IngressSlot, Learned, Offload, Plan, PortEntry,
    PortId, Seconds, Sink, Snapshot, Tally, Workers,
};
use sharedmem::{SharedPage, Slice};
use wire::Mac;

use crate::Rings;
use crate::guests::{Driver, mac};
use crate::rings::{VLAN, card, learned, port};

/// Frames of one round of any stage: frames that came out, or lookups, or sums.
pub const FRAMES: usize = 128;
/// Bytes of a "64-byte" frame, without its CRC.
pub const SHORT: usize = 60;
/// Bytes of a "1518-byte" frame, without its CRC.
pub const LONG: usize = 1514;

/// Rounds that are counted: what comes once in a while is in the mean.
pub const COUNTED_ROUNDS: u64 = 8;
/// The name of what is counted, as profilers match it.
pub const COUNTED: &str = "*stages*counted*";

/// Room for one frame.
const BUFFER: usize = 2048;
/// Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 54;
const MSS: usize = 1460;
/// Segments of a long TCP segment.
const SEGMENTS: usize = 32;

/// What counts: a profiler counts from its entry to its return.
#[inline(never)]
fn counted<R>(part: impl FnOnce() -> R) -> R {
    part()
}

/// As [`counted`], and how long it took.
fn timed<R>(part: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = counted(part);
    (result, start.elapsed())
}

/// A stage, ready to be run again and again.
pub struct Stage(Box<dyn FnMut() -> (usize, Duration)>);

impl Stage {
    fn new(round: impl FnMut() -> (usize, Duration) + 'static) -> Stage {
        Stage(Box::new(round))
    }

    /// Runs `rounds` rounds of [`FRAMES`] frames each; the time it took without what is around it.
    ///
    /// # Panics
    /// When a frame is missing: then the measure is of something else.
    pub fn rounds(&mut self, rounds: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            let (frames, took) = (self.0)();
            assert_eq!(frames, FRAMES, "frames of a round");
            spent += took;
        }
        spent
    }
}

/// Takes frames and does nothing with them.
struct Taken(usize);

impl Sink for Taken {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.0 += black_box(burst).frames().len();
    }
}

/// Polls a virtio ring that holds frames of `frame` bytes.
///
/// # Panics
/// As all that make a stage: when memory cannot be had.
pub fn poll(frame: usize) -> Stage {
    poll_of(port(0, frame, 1))
}

/// As [`poll`], of a vmxnet3 card's rings.
pub fn poll_vmxnet3(frame: usize) -> Stage {
    poll_of(card(0, frame))
}

fn poll_of((entry, mut guest): (PortEntry, impl Driver + 'static)) -> Stage {
    let mut queue = entry.queues.first().and_then(|(slot, _)| slot.take()).expect("the queue");
    let mut sink = Taken(0);
    Stage::new(move || {
        guest.receive();
        guest.send(FRAMES as u16);
        let before = sink.0;
        let ((), took) = timed(|| {
            for _ in 0..FRAMES / BURST {
                queue.poll(&mut sink);
            }
        });
        (sink.0 - before, took)
    })
}

/// Delivers bursts of frames of `frame` bytes into a virtio ring.
pub fn deliver(frame: usize) -> Stage {
    deliver_to(frame, port(1, frame, 1))
}

/// As [`deliver`], into a vmxnet3 card's rings.
pub fn deliver_vmxnet3(frame: usize) -> Stage {
    deliver_to(frame, card(1, frame))
}

fn deliver_to(frame: usize, (entry, mut guest): (PortEntry, impl Driver + 'static)) -> Stage {
    let egress = entry.egress;
    let memory = frames(frame, BURST, 1);
    let list: Vec<Delivery> = (0..BURST as u8).map(|frame| Delivery::new(frame, None)).collect();
    Stage::new(move || {
        guest.receive();
        let (mut burst, mut tally) = (Burst::new(), Tally::new());
        (0..BURST).for_each(|at| burst.push(&[frame_at(&memory, at, frame)], None, Offload::default()));
        let ((), took) = timed(|| {
            for _ in 0..FRAMES / BURST {
                egress.deliver(&burst, &list, &mut tally);
            }
        });
        (tally.frames() as usize, took)
    })
}

/// Forwards bursts of short frames from `macs` addresses to as many, learnt when it is more than one, to a port that
/// takes them without a look.
pub fn forward(macs: u16) -> Stage {
    let (nanos, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ((mut first, _), (mut second, _)) = (port(0, SHORT, macs), port(1, SHORT, macs));
    let pool = BURST.max(macs.into());
    let warm_up = warm_up(macs);
    let source = Source { memory: frames(SHORT, pool, macs), next: 0, pool, warm_up, nanos: nanos.clone() };
    first.queues = vec![(Arc::new(IngressSlot::new(Box::new(source))), 0)];
    second.queues.clear();
    second.egress = Arc::new(Accepted(delivered.clone()));
    let mut worker = workers(vec![first, second], macs).worker(0).expect("the one worker");
    (0..warm_up).for_each(|_| _ = worker.turn());
    Stage::new(move || {
        let before = (nanos.load(Ordering::Relaxed), delivered.load(Ordering::Relaxed));
        for _ in 0..FRAMES / BURST {
            worker.turn();
        }
        let frames = delivered.load(Ordering::Relaxed) - before.1;
        (frames as usize, Duration::from_nanos(nanos.load(Ordering::Relaxed) - before.0))
    })
}

/// The whole turn of a worker with two virtio ports, frames of `frame` bytes, as [`Rings`] has them.
pub fn turn(frame: usize, macs: u16) -> Stage {
    turn_of(Rings::new(frame, macs), macs, BURST)
}

/// The same with one frame in each turn.
pub fn turn_lone(frame: usize) -> Stage {
    turn_of(Rings::new(frame, 1), 1, 1)
}

/// As [`turn`], with two vmxnet3 ports.
pub fn turn_vmxnet3(frame: usize) -> Stage {
    turn_of(Rings::vmxnet3(frame), 1, BURST)
}

fn turn_of(mut rings: Rings, macs: u16, frames: usize) -> Stage {
    for _ in 0..warm_up(macs) {
        rings.fill();
        rings.turn();
    }
    Stage::new(move || {
        let before = rings.delivered().0;
        let mut spent = Duration::ZERO;
        for _ in 0..FRAMES / frames {
            rings.fill_with(frames as u16);
            let (_, took) = timed(|| rings.turn());
            spent += took;
        }
        ((rings.delivered().0 - before) as usize, spent)
    })
}

/// Looks up two addresses for each frame, a source and a destination, among `addresses` learnt ones.
pub fn learning(addresses: u32) -> Stage {
    let learned = Learned::new();
    let address = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        Address::new(VLAN, Mac([0x00, 0x50, 0x56, a, b, c]))
    };
    // As many behind one port as it may have at most.
    let at = |n: u32| PortId((n / 4096) as u16);
    for n in 0..addresses {
        learned.learn(&learned.probe(address(n)), at(n), Seconds(0));
    }
    let mut next = 0;
    Stage::new(move || {
        let pairs: [(Address, PortId); FRAMES] = std::array::from_fn(|_| {
            // A step without a common factor, so that neighbours are not asked for one after the other.
            next = (next + 7919) % addresses;
            (address(next), at(next))
        });
        timed(|| {
            let known = |(address, port): &(Address, PortId)| {
                let probe = learned.probe(black_box(*address));
                learned.knows(&probe, *port, Seconds(0)) && learned.lookup(&probe, Seconds(0)) == Some(*port)
            };
            pairs.iter().filter(|pair| known(pair)).count()
        })
    })
}

/// Sums `bytes` bytes.
pub fn sum(bytes: usize) -> Stage {
    let data = vec![0x5a; bytes];
    Stage::new(move || {
        let ((), took) = timed(|| {
            for _ in 0..FRAMES {
                black_box(wire::checksum::sum_be(black_box(&data)));
            }
        });
        (FRAMES, took)
    })
}

/// Writes frames of `frame` bytes for a peer that wants their checksums filled in.
pub fn fill(frame: usize) -> Stage {
    plans(tcp(frame - HEADERS), Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None }, 1)
}

/// Cuts long TCP segments.
pub fn segmentation() -> Stage {
    let gso = Gso::tcp(MSS as u16, HEADERS as u16);
    plans(tcp(SEGMENTS * MSS), Offload { csum: Csum::AsIs, gso: Some(gso) }, SEGMENTS)
}

/// Carries out plans for `frame`, which comes out as `count` frames, for a peer that can do nothing itself.
fn plans(frame: Vec<u8>, offload: Offload, count: usize) -> Stage {
    let from = SharedPage::new("stage-source", frame.len().next_multiple_of(4096)).expect("memory");
    assert!(from.slice().write_at(0, &frame));
    let to = SharedPage::new("stage-room", count * BUFFER).expect("memory");
    Stage::new(move || {
        let mut burst = Burst::new();
        burst.push(&[from.slice().sub(0, frame.len()).expect("the frame")], None, offload);
        let room: Vec<Slice<'_>> = (0..count).filter_map(|at| to.slice().sub(at * BUFFER, BUFFER)).collect();
        let delivery = Delivery::new(0, None);
        timed(|| {
            let mut written = 0;
            for _ in 0..FRAMES / count {
                let Some(plan) = Plan::new(&burst, black_box(&delivery), Caps::default()) else { continue };
                for (at, room) in (0..plan.count()).zip(&room) {
                    written += usize::from(plan.write(at, std::slice::from_ref(room)));
                }
            }
            written
        })
    })
}

/// Turns that are not part of a stage: a worker takes its queues once, and each address is new once.
fn warm_up(macs: u16) -> usize {
    1 + usize::from(macs).div_ceil(BURST)
}

/// Workers with these ports in force.
fn workers(ports: Vec<PortEntry>, macs: u16) -> Arc<Workers> {
    let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
    let snapshot = Snapshot::new(ports, 1500);
    workers.publish(if macs > 1 { snapshot.with_learned(learned(macs)) } else { snapshot });
    workers
}

/// `pool` frames of `len` bytes, one to a buffer, from `macs` addresses behind the first guest to the second's.
fn frames(len: usize, pool: usize, macs: u16) -> SharedPage {
    let memory = SharedPage::new("stage-frames", pool * BUFFER).expect("memory");
    for at in 0..pool {
        let station = at as u16 % macs;
        let mut bytes = [&mac(1, station).0[..], &mac(0, station).0, &[0x08, 0x00]].concat();
        bytes.resize(len, 0x5a);
        assert!(memory.slice().write_at(at * BUFFER, &bytes));
    }
    memory
}

fn frame_at(memory: &SharedPage, at: usize, len: usize) -> Slice<'_> {
    memory.slice().sub(at * BUFFER, len).expect("a frame")
}

/// A TCP segment over IPv4 with so many bytes of payload and no checksum.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = [&mac(1, 0).0[..], &mac(0, 0).0, &[0x08, 0x00]].concat();
    let total = (40 + payload) as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    // Ports, sequence and acknowledgement number, five words, PSH and ACK, window.
    frame.extend([0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(HEADERS + payload, 0x5a);
    frame
}

/// Bursts of frames that lie ready. What is done with them is counted, how they come to be is not.
struct Source {
    memory: SharedPage,
    next: usize,
    pool: usize,
    /// Bursts that are not measured yet.
    warm_up: usize,
    nanos: Arc<AtomicU64>,
}

impl Ingress for Source {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let mut burst = Burst::new();
        for _ in 0..BURST {
            burst.push(&[frame_at(&self.memory, self.next, SHORT)], None, Offload::default());
            self.next = if self.next + 1 < self.pool { self.next + 1 } else { 0 };
        }
        if self.warm_up > 0 {
            self.warm_up -= 1;
            sink.forward(&burst);
            return burst.harvested();
        }
        let ((), took) = timed(|| sink.forward(&burst));
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        burst.harvested()
    }
}

/// A port that takes everything without a look.
struct Accepted(Arc<AtomicU64>);

impl Egress for Accepted {
    fn deliver(&self, _: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        tally.delivered_all(list.len(), list.len() * SHORT);
        self.0.fetch_add(list.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_of_every_stage_carries_its_frames() {
        let stages = [
            poll(SHORT),
            poll(LONG),
            poll_vmxnet3(SHORT),
            deliver(SHORT),
            deliver(LONG),
            deliver_vmxnet3(SHORT),
            forward(1),
            forward(256),
            turn(SHORT, 1),
            turn(LONG, 1),
            turn(SHORT, 256),
            turn_vmxnet3(SHORT),
            learning(2),
            learning(4096),
            sum(SHORT),
            fill(SHORT),
            fill(LONG),
            segmentation(),
        ];
        for mut stage in stages {
            stage.rounds(20);
        }
    }
}
