//! One life of an interface, from its opening to its closing or its disappearance, and the worker halves of an
//! uplink that live through many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use dataplane::{Arm, Burst, Delivery, DropReason, Egress, Frame, Ingress, PortState, Sink, Tally};

use crate::{af_packet, af_xdp};

/// What the control half and the worker halves of one uplink share.
pub(crate) struct Shared {
    /// The rings in use; `None` while the interface does not exist.
    pub(crate) life: ArcSwapOption<Life>,
    pub(crate) state: Arc<PortState>,
    pub(crate) counts: Counts,
}

/// Events that no port counter covers.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// System calls that left frames in a transmit ring because the device or socket was full; they are tried again.
    pub(crate) tx_busy: AtomicU64,
    /// Frames the kernel refused to take from a transmit ring.
    pub(crate) tx_refused: AtomicU64,
}

/// The driver of one life of an interface.
pub(crate) enum Backend {
    Packet(af_packet::Rings),
    Xdp(Box<af_xdp::Rings>),
}

/// The rings of one life of an interface.
pub(crate) struct Life {
    /// The interface's number.
    pub(crate) index: u32,
    /// Tells one life from the next: positions count from zero in each.
    generation: u64,
    /// Payload size of the interface in bytes.
    mtu: AtomicU32,
    pub(crate) backend: Backend,
}

/// What the kernel counted since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Frames put into receive rings.
    pub(crate) rx_frames: u64,
    /// Frames dropped before that.
    pub(crate) rx_drops: u64,
    /// Frames refused on the way out.
    pub(crate) tx_refused: u64,
}

impl Life {
    pub(crate) fn new(index: u32, mtu: u32, backend: Backend) -> Arc<Life> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Arc::new(Life { index, generation, mtu: AtomicU32::new(mtu), backend })
    }

    /// The interface's payload size changed.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// True when the rings cannot hold frames of `mtu` bytes of payload, and others could.
    pub(crate) fn outgrown(&self, mtu: u32) -> bool {
        match &self.backend {
            Backend::Packet(_) => false,
            Backend::Xdp(rings) => rings.outgrown(mtu),
        }
    }

    /// Frames that wait in a transmit ring for the kernel to take them.
    pub(crate) fn waiting(&self) -> u64 {
        match &self.backend {
            Backend::Packet(rings) => rings.waiting(),
            Backend::Xdp(rings) => rings.waiting(),
        }
    }

    pub(crate) fn take_statistics(&self) -> Taken {
        match &self.backend {
            Backend::Packet(rings) => {
                let (rx_frames, rx_drops) = rings.take_statistics();
                Taken { rx_frames, rx_drops, tx_refused: 0 }
            }
            Backend::Xdp(rings) => rings.take_statistics(),
        }
    }

    /// Receive queues, each with rings of its own.
    pub(crate) fn queues(&self) -> usize {
        match &self.backend {
            Backend::Packet(_) => 1,
            Backend::Xdp(rings) => rings.queues(),
        }
    }
}

/// The longest frame on the wire that `frame` becomes, tag not counted, in bytes.
#[inline]
pub(crate) fn longest(frame: &Frame) -> usize {
    match frame.offload().gso {
        Some(gso) => usize::from(gso.header) + usize::from(gso.mss),
        None => frame.len(),
    }
}

/// The worker half of an uplink, towards the switch: one of `lanes` that share the receive queues. A life with
/// more queues than lanes has lane 0 look after queues 0, `lanes`, and so on; one with fewer leaves lanes idle.
pub(crate) struct Receiver {
    shared: Arc<Shared>,
    lane: usize,
    lanes: usize,
    generation: u64,
    /// AF_PACKET: the next slot. AF_XDP: the queue to look at first.
    next: usize,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, lane: usize, lanes: usize) -> Receiver {
        Receiver { shared, lane, lanes, generation: 0, next: 0 }
    }
}

impl Ingress for Receiver {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        // Held until the slots are given back; dropped before the turn ends, as Grace wants it.
        let life = self.shared.life.load();
        let Some(life) = life.as_deref() else { return 0 };
        if life.generation != self.generation {
            self.generation = life.generation;
            self.next = 0;
        }
        let up = self.shared.state.link_up();
        let counts = &self.shared.counts;
        match &life.backend {
            Backend::Packet(rings) if self.lane == 0 => rings.poll(&mut self.next, up, counts, sink),
            Backend::Packet(_) => 0,
            Backend::Xdp(rings) => {
                let mut lane = af_xdp::Lane { index: self.lane, of: self.lanes, turn: &mut self.next };
                rings.poll(&mut lane, up, counts, sink)
            }
        }
    }

    fn arm(&mut self) -> Arm {
        let life = self.shared.life.load();
        match life.as_deref().map(|life| &life.backend) {
            None => Arm::Quiet,
            Some(Backend::Packet(_)) if self.lane != 0 => Arm::Quiet,
            Some(Backend::Packet(rings)) => rings.arm(),
            Some(Backend::Xdp(rings)) => rings.arm(self.lane, self.lanes),
        }
    }
}

/// The worker half of an uplink, from the switch.
pub(crate) struct Transmitter {
    shared: Arc<Shared>,
}

impl Transmitter {
    pub(crate) fn new(shared: Arc<Shared>) -> Transmitter {
        Transmitter { shared }
    }
}

impl Egress for Transmitter {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let life = self.shared.life.load();
        let refusal = match life.as_deref() {
            None => DropReason::NotConnected,
            // Frames for a dead link are not kept: they would come out old when it is back.
            Some(_) if !self.shared.state.link_up() => DropReason::PortBlocked,
            Some(life) => {
                let mtu = life.mtu.load(Ordering::Relaxed) as usize;
                let counts = &self.shared.counts;
                return match &life.backend {
                    Backend::Packet(rings) => rings.deliver(burst, list, mtu, counts, tally),
                    Backend::Xdp(rings) => rings.deliver(worker(), burst, list, mtu, counts, tally),
                };
            }
        };
        list.iter().for_each(|_| tally.dropped(refusal));
    }
}

/// A small number for the calling thread, the same each time: a worker always sends by the same transmit queue,
/// so that frames of one flow, which one worker forwards, keep their order.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.try_with(|number| *number).unwrap_or(0)
}
