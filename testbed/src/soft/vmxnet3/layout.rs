//! Registers, commands and structures in memory, as the public headers have them.

use anyhow::Result;
use sharedmem::{Slot, WideRing};

use crate::soft::Ram;

/// BAR0 offsets; one register per queue or vector, eight bytes apart.
pub mod bar0 {
    /// Interrupt mask of vector 0.
    pub const IMR: usize = 0x000;
    /// Transmit producer of queue 0.
    pub const TXPROD: usize = 0x600;
    /// Receive producer of ring 1 of queue 0.
    pub const RXPROD: usize = 0x800;
    /// Receive producer of ring 2 of queue 0.
    pub const RXPROD2: usize = 0xa00;
}

/// BAR1 offsets.
pub mod bar1 {
    /// Device revisions: read which there are, write which is used.
    pub const VRRS: u64 = 0x00;
    /// UPT versions likewise.
    pub const UVRS: u64 = 0x08;
    /// Driver-shared area, low address.
    pub const DSAL: u64 = 0x10;
    /// Driver-shared area, high address.
    pub const DSAH: u64 = 0x18;
    /// Command; reading it gives the result.
    pub const CMD: u64 = 0x20;
    /// Address, low four bytes.
    pub const MACL: u64 = 0x28;
    /// Address, high two bytes.
    pub const MACH: u64 = 0x30;
    /// Interrupt cause (INTx).
    pub const ICR: u64 = 0x38;
    /// Event cause; write to acknowledge.
    pub const ECR: u64 = 0x40;
}

/// Commands.
pub mod cmd {
    /// Start.
    pub const ACTIVATE: u32 = 0xcafe_0000;
    /// Stop.
    pub const QUIESCE: u32 = 0xcafe_0001;
    /// Reset.
    pub const RESET: u32 = 0xcafe_0002;
    /// The receive mode changed.
    pub const UPDATE_RX_MODE: u32 = 0xcafe_0003;
    /// The group address list changed.
    pub const UPDATE_MAC_FILTERS: u32 = 0xcafe_0004;
    /// The VLAN table changed.
    pub const UPDATE_VLAN_FILTERS: u32 = 0xcafe_0005;
    /// The table of queues changed.
    pub const UPDATE_RSSIDT: u32 = 0xcafe_0006;
    /// The features changed.
    pub const UPDATE_FEATURE: u32 = 0xcafe_0009;
    /// Set the scheme of interrupt moderation (revision 3).
    pub const SET_COALESCE: u32 = 0xcafe_000e;
    /// Write the queues' status.
    pub const GET_QUEUE_STATUS: u32 = 0xf00d_0000;
    /// Write the statistics.
    pub const GET_STATS: u32 = 0xf00d_0001;
    /// Link: bit 0 up, speed in Mb/s from bit 16.
    pub const GET_LINK: u32 = 0xf00d_0002;
    /// Permanent address, low four bytes.
    pub const GET_PERM_MAC_LO: u32 = 0xf00d_0003;
    /// Permanent address, high two bytes.
    pub const GET_PERM_MAC_HI: u32 = 0xf00d_0004;
    /// Interrupts: type in bits 0..=1, mask mode in 2..=3.
    pub const GET_CONF_INTR: u32 = 0xf00d_0008;
    /// Most transmit queues in the low byte, most receive queues in the next (revision 6).
    pub const GET_MAX_QUEUES_CONF: u32 = 0xf00d_000f;
}

/// Offsets in the driver-shared area.
pub mod shared {
    /// Magic number.
    pub const MAGIC: u64 = 0;
    /// Driver version, guest kind, revision, UPT version.
    pub const DRIVER: u64 = 8;
    /// Features, 64 bits.
    pub const FEATURES: u64 = 24;
    /// Queue descriptors, 64 bits.
    pub const QUEUES: u64 = 40;
    /// Their length.
    pub const QUEUES_LEN: u64 = 52;
    /// Payload size.
    pub const MTU: u64 = 56;
    /// Most receive pieces (16 bits), transmit queues, receive queues (8 bits each).
    pub const COUNTS: u64 = 60;
    /// Auto-mask, number of vectors, event vector; then the moderation levels.
    pub const INTERRUPTS: u64 = 80;
    /// Interrupt control; bit 0 disables all.
    pub const INTERRUPT_CONTROL: u64 = 108;
    /// Receive mode.
    pub const RX_MODE: u64 = 120;
    /// Bytes of the group address list (16 bits).
    pub const GROUPS_LEN: u64 = 124;
    /// The group address list, 64 bits.
    pub const GROUPS: u64 = 128;
    /// VLAN table, 512 bytes.
    pub const VLANS: u64 = 136;
    /// Version, length and address of the configuration of receive side scaling.
    pub const RSS: u64 = 648;
    /// Events.
    pub const EVENTS: u64 = 696;
    /// What a command is about: version, length and address.
    pub const COMMAND: u64 = 704;
    /// Length of all.
    pub const LEN: u64 = 720;
}

/// Offsets in a queue descriptor (`vmxnet3_txq_shared`, `vmxnet3_rxq_shared`).
pub mod queue {
    /// Transmit: frames not announced yet. Receive: bit 0, the card wants to be told of buffers.
    pub const CONTROL: u64 = 0;
    /// Transmit: announce when so many are waiting.
    pub const THRESHOLD: u64 = 4;
    /// Three addresses of 64 bits. Transmit: ring, data ring, completions. Receive: ring 1, ring 2, completions.
    pub const RING: u64 = 16;
    /// Sizes of the three.
    pub const COUNTS: u64 = 56;
    /// Receive: the data ring, 64 bits.
    pub const DATA: u64 = 48;
    /// Interrupt vector (8 bits).
    pub const VECTOR: u64 = 72;
    /// Receive: bytes of an entry of the data ring (16 bits).
    pub const DATA_SIZE: u64 = 74;
    /// Stopped (8 bits), then the error (32 bits at + 4).
    pub const STOPPED: u64 = 80;
    /// Ten 64-bit counters.
    pub const STATS: u64 = 88;
    /// Length of all.
    pub const LEN: u64 = 256;
}

/// Value of the first word of the driver-shared area.
pub const MAGIC: u32 = 0xbabe_fee1;
/// Alignment of rings.
pub const RING_ALIGN: u64 = 512;
/// Greatest transmit piece.
pub const MAX_TX_PIECE: usize = 1 << 14;
/// Bytes of an entry of the transmit data ring.
pub const DATA_ENTRY: usize = 128;
/// Most descriptors of a frame that is not segmented.
pub const MAX_TX_DESCRIPTORS: usize = 16;

/// Receive mode bits (`VMXNET3_RXM_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxMode(pub u32);

impl RxMode {
    /// Frames to the card's address.
    pub const UNICAST: RxMode = RxMode(1);
    /// Frames to the groups of the list.
    pub const MULTICAST: RxMode = RxMode(2);
    /// Broadcast.
    pub const BROADCAST: RxMode = RxMode(4);
    /// All groups.
    pub const ALL_MULTICAST: RxMode = RxMode(8);
    /// Everything.
    pub const PROMISCUOUS: RxMode = RxMode(16);
}

impl std::ops::BitOr for RxMode {
    type Output = RxMode;

    fn bitor(self, other: RxMode) -> RxMode {
        RxMode(self.0 | other.0)
    }
}

/// A place in a ring and the generation of its descriptors there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index.
    pub at: u32,
    /// Generation bit, 1 on the first round.
    pub generation: u32,
}

impl Place {
    /// The start.
    pub const START: Place = Place { at: 0, generation: 1 };

    /// The place `n`, at most `size`, further on in a ring of `size`.
    #[inline]
    pub fn ahead(self, n: u32, size: u32) -> Place {
        let at = self.at + n;
        if at < size { Place { at, ..self } } else { Place { at: at - size, generation: self.generation ^ 1 } }
    }

    /// The `n` descriptors from here on, at most all of `ring`, as two runs of one generation each: up to its end, and from its
    /// start.
    #[inline]
    pub fn runs(self, ring: &WideRing, n: u32) -> [(Place, &[Slot]); 2] {
        let first = ring.slots(self.at, n);
        let rest = ring.slots(0, n.saturating_sub(first.len() as u32));
        [(self, first), (Place { at: 0, generation: self.generation ^ 1 }, rest)]
    }

    /// Completions that are there from here on, up to the end of `ring`: they tell by their last bit.
    #[inline]
    pub fn ready(self, ring: &WideRing) -> &[Slot] {
        let run = ring.slots(self.at, ring.count());
        let wanted = u64::from(self.generation);
        let count = run.iter().take_while(|slot| slot.upper() >> 63 == wanted).count();
        run.get(..count).unwrap_or(run)
    }

    /// Goes on by one in a ring of `size`.
    #[inline]
    pub fn advance(&mut self, size: u32) {
        self.at += 1;
        if self.at == size {
            self.at = 0;
            self.generation ^= 1;
        }
    }
}

/// Descriptors a driver may still fill when it fills at `fill` and `done` is the next to be completed. One
/// stays empty, so that full and empty differ.
pub fn room(fill: u32, done: u32, size: u32) -> u32 {
    (if done > fill { 0 } else { size }) + done - fill - 1
}

/// Where the driver-shared area, the queue descriptors and the group list are.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Driver-shared area.
    pub shared: u64,
    /// Queue descriptors, transmit first.
    pub queues: u64,
    /// Group address list.
    pub groups: u64,
    /// Configuration of receive side scaling.
    pub rss: u64,
    /// A scheme of interrupt moderation.
    pub scheme: u64,
    pairs: u64,
}

/// Bytes of a configuration of receive side scaling: four numbers, the key, and the table.
pub const RSS_LEN: usize = 8 + 40 + 128;

/// Most group addresses the soft driver has room for.
pub const MAX_GROUPS: usize = 512;

impl Area {
    /// Room for `pairs` queue pairs.
    ///
    /// # Errors
    /// When the memory is used up.
    pub fn new(ram: &mut Ram, pairs: u8) -> Result<Area> {
        let pairs = u64::from(pairs);
        Ok(Area {
            shared: ram.alloc(shared::LEN, 8)?,
            queues: ram.alloc(2 * pairs * queue::LEN, 128)?,
            groups: ram.alloc(MAX_GROUPS as u64 * 6, 8)?,
            rss: ram.alloc(RSS_LEN as u64, 8)?,
            scheme: ram.alloc(16, 8)?,
            pairs,
        })
    }

    /// Transmit queue descriptor `index`.
    pub fn tx(&self, index: u64) -> u64 {
        self.queues + index * queue::LEN
    }

    /// Receive queue descriptor `index`.
    pub fn rx(&self, index: u64) -> u64 {
        self.queues + (self.pairs + index) * queue::LEN
    }
}
