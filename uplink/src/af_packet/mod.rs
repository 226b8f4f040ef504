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
mod socket;
mod tx;
mod vnet;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use dataplane::PortState;

use crate::netlink::LinkEvent;

pub use ring::{RX_SLOTS, TX_SLOTS};
pub(crate) use rx::Receiver;
pub(crate) use tx::Transmitter;

/// What the control half and the worker halves of one uplink share.
pub(crate) struct Shared {
    /// The rings in use; `None` while the interface does not exist.
    pub(crate) rings: ArcSwapOption<Rings>,
    pub(crate) state: Arc<PortState>,
    pub(crate) counts: Counts,
}

/// Events that no port counter covers.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// `send` calls that left frames in the ring because the device or socket was full; they are tried again.
    pub(crate) tx_busy: AtomicU64,
    /// Frames the kernel refused to take from the ring.
    pub(crate) tx_refused: AtomicU64,
}

/// The sockets and rings of one life of an interface.
pub(crate) struct Rings {
    /// The interface's number.
    pub(crate) index: u32,
    /// Tells one set of rings from the next: positions count from zero in each.
    generation: u64,
    /// Payload size of the interface in bytes.
    mtu: AtomicU32,
    rx: rx::RxRing,
    tx: tx::TxRing,
}

impl Rings {
    /// Opens both sockets on `link` and maps their rings.
    pub(crate) fn open(link: &LinkEvent) -> io::Result<Arc<Rings>> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        // The transmit side first: frames start to come in when the receive side is bound.
        let tx = tx::TxRing::open(link)?;
        let rx = rx::RxRing::open(link)?;
        Ok(Arc::new(Rings {
            index: link.index,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            mtu: AtomicU32::new(link.mtu),
            rx,
            tx,
        }))
    }

    /// The interface's payload size changed.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
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
