//! The two ends of a port: a source of frames and a recorder of what is delivered.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dataplane::{BURST, Sink, Tally};
use dataplane::{Burst, Caps, Csum, Delivery, DropReason, Egress, Gso, Ingress, MAX_FRAME, Offload, Plan, PortState};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sharedmem::{Region, Slice};
use wire::Tag;

/// A fresh region of `len` bytes.
pub fn region(len: usize) -> Arc<Region> {
    let file = memfd_create("port", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len as u64).unwrap();
    Region::map(file.as_fd(), 0, len, true).unwrap()
}

/// A frame as its sender lays it into memory.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The bytes, with any tag that is in band.
    pub bytes: Vec<u8>,
    /// A tag beside the frame.
    pub tag: Option<Tag>,
    pub offload: Offload,
    /// Where the bytes are cut into pieces, by descending rank.
    pub cuts: Vec<usize>,
}

/// Bytes between two pieces, so that they do not touch.
const GAP: usize = 13;
const SOURCE_LEN: usize = BURST * (MAX_FRAME + 1024);

/// One queue that sends what an iterator gives and then says that it is done.
pub struct Source {
    memory: Arc<Region>,
    frames: Box<dyn Iterator<Item = Sent> + Send>,
    done: Arc<AtomicBool>,
}

impl Source {
    pub fn new(frames: impl Iterator<Item = Sent> + Send + 'static) -> (Source, Arc<AtomicBool>) {
        let done = Arc::new(AtomicBool::new(false));
        (Source { memory: region(SOURCE_LEN), frames: Box::new(frames), done: done.clone() }, done)
    }
}

impl Ingress for Source {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let (mut burst, mut at) = (Burst::new(), 0);
        while burst.has_room() {
            let Some(sent) = self.frames.next() else { break };
            burst.push(&scatter(&self.memory, &mut at, &sent), sent.tag, sent.offload);
        }
        let harvested = burst.harvested();
        if harvested > 0 {
            sink.forward(&burst);
            // The descriptors are the sender's again and it reuses them at once: whoever has not copied the
            // frame by now gets rubbish.
            assert!(self.memory.slice(0, at).unwrap().write_at(0, &vec![0xee; at]));
        } else {
            self.done.store(true, Ordering::Release);
        }
        harvested
    }
}

fn scatter<'m>(memory: &'m Region, at: &mut usize, sent: &Sent) -> Vec<Slice<'m>> {
    let mut cuts: Vec<usize> = sent.cuts.iter().map(|c| c % (sent.bytes.len() + 1)).collect();
    cuts.extend([0, sent.bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|w| {
            let part = &sent.bytes[w[0]..w[1]];
            let slice = memory.slice(*at, part.len()).unwrap();
            assert!(slice.write_at(0, part));
            *at += part.len() + GAP;
            slice
        })
        .collect()
}

/// One frame as the port's peer finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: Vec<u8>,
    /// The tag beside the frame.
    pub tag: Option<Tag>,
    pub csum: Csum,
    pub gso: Option<Gso>,
}

/// A destination that keeps the contract of `Egress` to the letter: slots reserved under a short
/// lock, copies without it, every listed frame told to the tally.
pub struct Recorder {
    memory: Arc<Region>,
    state: Arc<PortState>,
    caps: Caps,
    /// Most frames the ring takes, and longest frame a buffer takes.
    ring: u64,
    buffer: usize,
    reserved: Mutex<Reserved>,
    published: Mutex<Vec<Slot>>,
    retired: AtomicBool,
    late: AtomicU64,
}

#[derive(Default)]
struct Reserved {
    frames: u64,
    bytes: usize,
}

struct Slot {
    sequence: u64,
    at: usize,
    len: usize,
    tag: Option<Tag>,
    csum: Csum,
    gso: Option<Gso>,
}

impl Recorder {
    pub fn new(state: Arc<PortState>, caps: Caps, ring: u64, buffer: usize, memory: usize) -> Arc<Recorder> {
        Arc::new(Recorder {
            memory: region(memory),
            state,
            caps,
            ring,
            buffer,
            reserved: Mutex::default(),
            published: Mutex::default(),
            retired: AtomicBool::new(false),
            late: AtomicU64::new(0),
        })
    }

    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// From now on a call is one too late; until the port is used again.
    pub fn retire(&self, retired: bool) {
        self.retired.store(retired, Ordering::SeqCst);
    }

    /// Calls that ended while the port was retired.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::SeqCst)
    }

    /// What was received, in the order of the ring.
    pub fn received(&self) -> Vec<Received> {
        let mut slots = self.published.lock().unwrap();
        slots.sort_by_key(|s| s.sequence);
        slots
            .iter()
            .map(|s| {
                let mut bytes = vec![0; s.len];
                assert!(self.memory.slice(s.at, s.len).unwrap().read_at(0, &mut bytes));
                Received { bytes, tag: s.tag, csum: s.csum, gso: s.gso }
            })
            .collect()
    }

    fn refusal(&self) -> Option<DropReason> {
        match () {
            () if !self.state.connected() => Some(DropReason::NotConnected),
            () if !self.state.link_up() => Some(DropReason::PortBlocked),
            () => None,
        }
    }

    /// Room for a frame of `len` bytes, or why there is none.
    fn reserve(&self, reserved: &mut Reserved, len: usize) -> Result<(u64, usize), DropReason> {
        if len > self.buffer {
            return Err(DropReason::Oversize);
        }
        if reserved.frames == self.ring || reserved.bytes + len > self.memory.len() {
            return Err(DropReason::RingFull);
        }
        let slot = (reserved.frames, reserved.bytes);
        reserved.frames += 1;
        reserved.bytes += len;
        Ok(slot)
    }
}

impl Egress for Recorder {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        assert!(!list.is_empty() && list.len() <= BURST);
        assert!(list.windows(2).all(|w| w[0].index() < w[1].index()), "each frame once and in order: {list:?}");
        if let Some(reason) = self.refusal() {
            list.iter().for_each(|_| tally.dropped(reason));
            return;
        }
        let mut work = Vec::new();
        let mut reserved = self.reserved.lock().unwrap();
        for delivery in list {
            let plan = Plan::new(burst, delivery, self.caps).expect("the list names frames of the burst");
            tally.segmented(plan.count());
            for index in 0..plan.count() {
                match self.reserve(&mut reserved, plan.len(index)) {
                    Ok(slot) => work.push((delivery, index, slot)),
                    Err(reason) => tally.dropped(reason),
                }
            }
        }
        drop(reserved);
        let mut slots = Vec::new();
        for (delivery, index, (sequence, at)) in work {
            let plan = Plan::new(burst, delivery, self.caps).unwrap();
            let len = plan.len(index);
            // Two pieces, as a guest's buffers seldom fit.
            let first = len.min(100);
            let room = [self.memory.slice(at, first).unwrap(), self.memory.slice(at + first, len - first).unwrap()];
            assert!(plan.write(index, &room));
            tally.delivered(len);
            slots.push(Slot { sequence, at, len, tag: plan.side_tag(), csum: plan.csum(), gso: plan.gso() });
        }
        self.published.lock().unwrap().extend(slots);
        if self.retired.load(Ordering::SeqCst) {
            self.late.fetch_add(1, Ordering::SeqCst);
        }
    }
}
