//! AF_PACKET with memory-mapped rings in both directions: works on every Linux interface.
//!
//! # Why TPACKET_V2
//!
//! Version 2 has slots of one size, each handed over by its own status word: a poller sees a frame as soon as
//! the kernel has copied it. Version 3 packs frames of any length into blocks, which saves memory, but a block
//! is handed over when it is full or when its timer (no finer than a millisecond) runs out: a lone frame would
//! wait that long, and a poll-mode switch is there so that it does not. The price of version 2 is that every
//! slot must hold the largest thing that may come: a 64 KiB segment that the peer left to be cut up. See
//! [`ring`] for the sizes.
//!
//! # Why two sockets
//!
//! The transmit socket is bound with protocol 0 and thus receives nothing, so the two directions share neither
//! the kernel's locks nor the socket's pending error.

mod ring;
mod rx;
pub(crate) mod socket;
mod tx;
#[cfg(test)]
mod vnet_tests;

use std::io;

use dataplane::{Arm, Burst, Delivery, Sink, Tally};

use crate::life::Counts;
use crate::netlink::LinkEvent;

pub use ring::{RX_SLOTS, TX_SLOTS};

/// The sockets and rings of one life of an interface.
pub(crate) struct Rings {
    rx: rx::RxRing,
    tx: tx::TxRing,
}

impl Rings {
    /// Opens both sockets on `link` and maps their rings.
    pub(crate) fn open(link: &LinkEvent) -> io::Result<Rings> {
        // The transmit side first: frames start to come in when the receive side is bound.
        let tx = tx::TxRing::open(link)?;
        let rx = rx::RxRing::open(link)?;
        Ok(Rings { rx, tx })
    }

    /// Looks at the receive ring once, from slot `next` on; `up` says whether the link carries frames.
    pub(crate) fn poll(&self, next: &mut usize, up: bool, counts: &Counts, sink: &mut dyn Sink) -> usize {
        if up {
            self.tx.nudge(counts);
        }
        rx::poll(&self.rx, next, sink)
    }

    /// How a sleeping worker learns of frames: the socket is readable while its ring holds any.
    pub(crate) fn arm(&self) -> Arm {
        if self.tx.restless() { Arm::Cannot } else { Arm::Kick(self.rx.fd.clone()) }
    }

    /// Sends `list`; frames with more than `mtu` bytes of payload are dropped.
    pub(crate) fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], mtu: usize, counts: &Counts, tally: &mut Tally) {
        tx::deliver(&self.tx, burst, list, mtu, counts, tally);
    }

    /// Frames that wait in the transmit ring for the kernel to take them.
    pub(crate) fn waiting(&self) -> u64 {
        self.tx.waiting()
    }

    /// Frames the kernel put into the receive ring, and those it dropped because the ring was full, since the
    /// last call.
    pub(crate) fn take_statistics(&self) -> (u64, u64) {
        self.rx.take_statistics()
    }
}
