//! Two guests' virtio cards and the switch between them in one thread: the data path with its rings, and nobody else's
//! instructions in [`Rings::turn`].

use std::sync::Arc;

use dataplane::{Address, BURST, Learned, PortEntry, PortId, Seconds, Snapshot, Worker, Workers};
use portgroups::VlanMode;

use crate::guests::{self, Guest, Spec, accounted, mac};

/// Descriptors of a ring.
const RING: u16 = 256;
/// The VLAN of both.
pub(crate) const VLAN: u16 = 10;

/// The switch, its one worker, and two guests; the first sends to the second.
pub struct Rings {
    worker: Worker,
    guests: [Guest; 2],
}

impl Rings {
    /// Frames of `frame` bytes without the CRC, from `macs` addresses behind the first guest to as many behind the second,
    /// which are learnt when it is more than one.
    ///
    /// # Panics
    /// When memory cannot be had: a bench has no use for less.
    pub fn new(frame: usize, macs: u16) -> Rings {
        Rings::with_buffers(frame, macs, RING)
    }

    /// As [`Rings::new`], with `buffers` buffers on each side, a power of two, which the frames go round.
    ///
    /// # Panics
    /// As [`Rings::new`].
    pub fn with_buffers(frame: usize, macs: u16, buffers: u16) -> Rings {
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let (first, sender) = guests::port(&Spec { ring: buffers, ..spec(0, frame, macs) });
        let (second, receiver) = guests::port(&Spec { ring: buffers, ..spec(1, frame, macs) });
        let mut snapshot = Snapshot::new(vec![first, second], 1500);
        if macs > 1 {
            snapshot = snapshot.with_learned(learned(macs));
        }
        workers.publish(snapshot);
        Rings { worker: workers.worker(0).expect("the one worker"), guests: [sender, receiver] }
    }

    /// The guests' part: a burst to send, and room for it.
    pub fn fill(&mut self) {
        let [sender, receiver] = &mut self.guests;
        sender.send(BURST as u16, None);
        receiver.receive();
    }

    /// One turn: a burst through the switch. Returns the frames taken.
    #[inline(never)]
    pub fn turn(&mut self) -> usize {
        self.worker.turn()
    }

    /// Frames that came out so far, and true when every frame is accounted for. Meant for when the guests have taken
    /// what came.
    pub fn delivered(&mut self) -> (u64, bool) {
        self.guests.iter_mut().for_each(Guest::receive);
        (self.guests[1].totals().out_frames, accounted(&self.guests))
    }
}

/// The addresses of the stations behind the second guest, learnt.
pub(crate) fn learned(macs: u16) -> Arc<Learned> {
    let learned = Learned::new();
    (0..macs).for_each(|n| _ = learned.learn(&learned.probe(Address::new(VLAN, mac(1, n))), PortId(1), Seconds(0)));
    Arc::new(learned)
}

/// Port `index` of two and its guest, with `macs` stations.
pub(crate) fn port(index: u16, frame: usize, macs: u16) -> (PortEntry, Guest) {
    guests::port(&spec(index, frame, macs))
}

fn spec(index: u16, frame: usize, macs: u16) -> Spec {
    Spec {
        index,
        peer: 1 - index,
        vlan: VlanMode::Vst(VLAN),
        learning: macs > 1,
        worker: 0,
        workers: 1,
        ring: RING,
        frame,
        stations: macs,
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
            assert_eq!(taken, 100 * BURST);
            assert_eq!(rings.delivered(), (taken as u64, true));
        }
    }
}
