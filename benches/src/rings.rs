//! Two guests' cards and the switch between them in one thread: the data path with its rings, and nobody else's
//! instructions in [`Rings::turn`].

use std::sync::Arc;

use dataplane::{Address, BURST, Learned, PortEntry, PortId, Seconds, Snapshot, Worker, Workers};
use portgroups::VlanMode;

use crate::cards::{self, CardGuest};
use crate::guests::{self, Driver, Guest, Spec, accounted, mac};

/// Descriptors of a ring.
const RING: u16 = 256;
/// The VLAN of both.
pub(crate) const VLAN: u16 = 10;

/// The switch, its one worker, and two guests; the first sends to the second.
pub struct Rings {
    worker: Worker,
    guests: [Box<dyn Driver>; 2],
}

impl Rings {
    /// Guests with virtio cards: frames of `frame` bytes without the CRC, from `macs` addresses behind the first guest to as many behind the second,
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
        let end = |index| guests::port(&Spec { ring: buffers, ..spec(index, frame, macs) });
        let ((first, sender), (second, receiver)) = (end(0), end(1));
        Rings::between(vec![first, second], [Box::new(sender), Box::new(receiver)], macs)
    }

    /// Guests with vmxnet3 cards.
    ///
    /// # Panics
    /// As [`Rings::new`].
    pub fn vmxnet3(frame: usize) -> Rings {
        let ((first, sender), (second, receiver)) = (card(0, frame), card(1, frame));
        Rings::between(vec![first, second], [Box::new(sender), Box::new(receiver)], 1)
    }

    fn between(ports: Vec<PortEntry>, guests: [Box<dyn Driver>; 2], macs: u16) -> Rings {
        let workers = Workers::new(1, Snapshot::new(Vec::new(), 1500));
        let mut snapshot = Snapshot::new(ports, 1500);
        if macs > 1 {
            snapshot = snapshot.with_learned(learned(macs));
        }
        workers.publish(snapshot);
        Rings { worker: workers.worker(0).expect("the one worker"), guests }
    }

    /// The guests' part: a burst to send, and room for it.
    pub fn fill(&mut self) {
        self.fill_with(BURST as u16);
    }

    /// The same with `frames` frames.
    pub fn fill_with(&mut self, frames: u16) {
        let [sender, receiver] = &mut self.guests;
        sender.receive();
        sender.send(frames);
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
        self.guests.iter_mut().for_each(|guest| guest.receive());
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

/// The same with a vmxnet3 card.
pub(crate) fn card(index: u16, frame: usize) -> (PortEntry, CardGuest) {
    cards::port(&spec(index, frame, 1))
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
        let virtio = [(60, 1), (508, 256), (1514, 100)].map(|(frame, macs)| Rings::new(frame, macs));
        for mut rings in virtio.into_iter().chain([60, 1514].map(Rings::vmxnet3)) {
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
