//! The rest of the switch as a card sees it: a sink for what it sends, and frames to deliver to it.

use std::os::fd::AsFd;
use std::sync::Arc;

use dataplane::{BURST, Burst, Caps, Counters, Csum, Delivery, Egress, Gso, Ingress, Offload, Plan, Sink, Tally};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sharedmem::Region;
use wire::{Mac, Tag};

use crate::segments::{self, Room};

/// Address of the card under test.
pub const MAC: Mac = Mac([0, 0x50, 0x56, 0, 0, 1]);
const PEER: Mac = Mac([0, 0x50, 0x56, 0, 0, 2]);
/// Bytes of the memory frames to deliver lie in.
const SOURCE: usize = 160 << 10;

/// Shared memory of our own.
pub fn region(len: usize) -> Arc<Region> {
    let fd = memfd_create("scratch", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&fd, len as u64).expect("its size");
    Region::map(fd.as_fd(), 0, len, true).expect("a mapping")
}

/// What stands for the other ports: carries every frame of a burst out once, as a peer with `caps` gets it.
pub struct Wire {
    room: Room,
    caps: Caps,
    bursts: usize,
    frames: usize,
}

impl Wire {
    /// Peers' capabilities by the low four bits of `caps`.
    pub fn new(caps: u8) -> Wire {
        Wire { room: Room::new(), caps: segments::caps(caps), bursts: 0, frames: 0 }
    }

    /// Polls a queue once and checks the account; returns the number of frames taken.
    ///
    /// # Panics
    /// When the queue's account is wrong.
    pub fn poll(&mut self, queue: &mut dyn Ingress) -> usize {
        (self.bursts, self.frames) = (0, 0);
        let taken = queue.poll(self);
        if self.bursts > 0 {
            assert_eq!(taken, self.frames, "frames told and frames handed over");
        }
        assert!(taken <= BURST && self.bursts <= 1, "a poll takes one burst at most");
        taken
    }
}

impl Sink for Wire {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.bursts += 1;
        self.frames += burst.harvested();
        for (index, frame) in burst.frames().iter().enumerate() {
            let delivery = Delivery::new(index as u8, frame.tag());
            let plan = Plan::new(burst, &delivery, self.caps).expect("a frame of the burst");
            segments::carry_out(&plan, &mut self.room, |_, _| {});
        }
    }
}

/// Frames of every kind, for delivery.
pub struct Source {
    region: Arc<Region>,
    frames: Vec<(usize, usize, Offload)>,
}

impl Default for Source {
    fn default() -> Self {
        let mut source = Source { region: region(SOURCE), frames: Vec::new() };
        let gso = |mss, header| Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(mss, header)) };
        let fill = |start| Offload { csum: Csum::Fill { start, at: start + 16 }, gso: None };
        source.add(&ether(MAC, 60), Offload::default());
        source.add(&tcp(false, 8000), gso(536, 54));
        source.add(&tcp(true, 1000), fill(54));
        source.add(&ether(MAC, 9014), Offload::default());
        source.add(&tcp(true, 60_000), gso(1440, 74));
        source.add(&ether(Mac::BROADCAST, 1514), Offload { csum: Csum::Good, gso: None });
        source.add(&tcp(false, 1400), fill(34));
        source.add(&ether(Mac([1, 0, 0x5e, 0, 0, 1]), 14), Offload::default());
        source
    }
}

impl Source {
    fn add(&mut self, frame: &[u8], offload: Offload) {
        let at = self.frames.last().map_or(0, |(at, len, _)| at + len + 3);
        let slice = self.region.slice(at, frame.len()).expect("room for all frames");
        assert!(slice.write_at(0, frame));
        self.frames.push((at, frame.len(), offload));
    }

    /// Delivers the frames whose bits are set in `which`, in three pieces each, and checks the account.
    ///
    /// # Panics
    /// When the tally does not tell of each listed frame and each segment once.
    pub fn deliver(&self, egress: &dyn Egress, which: u8, tag: Option<Tag>) {
        let mut burst = Burst::new();
        for (_, &(at, len, offload)) in self.frames.iter().enumerate().filter(|(i, _)| which >> i & 1 == 1) {
            let cuts = [0, len / 3, len / 2, len];
            let pieces = [0, 1, 2].map(|i| self.region.slice(at + cuts[i], cuts[i + 1] - cuts[i]).expect("inside"));
            burst.push(&pieces, None, offload);
        }
        assert!(burst.rejected().is_empty(), "these frames are good");
        let count = burst.frames().len();
        // The last one names no frame.
        let list: Vec<Delivery> = (0..=count).map(|frame| Delivery::new(frame as u8, tag)).collect();
        let mut tally = Tally::new();
        egress.deliver(&burst, &list, &mut tally);
        let counters = Counters::new(1);
        counters.count_out(0, &tally);
        let totals = counters.totals();
        assert!(totals.balanced(), "{totals:?}");
        assert_eq!(
            totals.out_offered,
            list.len() as u64 + totals.out_segments,
            "each frame is told of once: {totals:?}"
        );
    }
}

/// An Ethernet frame of `len` bytes.
fn ether(dst: Mac, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = dst.0.into_iter().chain(PEER.0).chain([0x88, 0xb6]).collect();
    frame.extend((14..len).map(|i| i as u8));
    frame
}

/// A TCP segment over IPv4 or IPv6, to be summed and perhaps cut up by the receiver.
pub fn tcp(v6: bool, payload: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = MAC.0.into_iter().chain(PEER.0).collect();
    let l4_len = (20 + payload) as u16;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(l4_len.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend(1..33);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((l4_len + 20).to_be_bytes());
        frame.extend([0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    frame.extend([0, 80, 1, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x19, 0x20, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|i| (i % 251) as u8));
    frame
}
