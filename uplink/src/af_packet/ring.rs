//! Where the slots of a ring lie, and what stands in a slot's header.
//!
//! Facts from `linux/if_packet.h` and the kernel's `Documentation/networking/packet_mmap.rst`.
//!
//! ```text
//!  mapping: | block 0 (1 MiB)                | block 1 ...
//!           | slot 0 | slot 1 | ... | slot 14 | (rest unused)
//!  RX slot: | tpacket2_hdr 32 | sockaddr_ll 20 | gap | vnet 10 | frame ...      (tp_mac says where)
//!  TX slot: | tpacket2_hdr 32 | vnet 10 | frame ...
//! ```

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use sharedmem::{Region, Slice};

/// Bytes of one slot: the largest frame (65,535 of IP, 14 of Ethernet, 4 of tag) behind the largest header (80
/// and 10). An odd number of cache lines, so that the headers of neighbouring slots, which is what a poller
/// looks at, do not all fall into one set of the cache.
pub(super) const SLOT: usize = 64 * 1027;
/// Bytes of a block, which the kernel allocates in one piece when it can.
const BLOCK: usize = 1 << 20;
/// Slots in a block; no slot spans two.
const PER_BLOCK: usize = BLOCK / SLOT;
const RX_BLOCKS: usize = 34;
const TX_BLOCKS: usize = 17;
/// Slots of a receive ring: frames that may wait for the worker (34 MiB).
pub const RX_SLOTS: usize = RX_BLOCKS * PER_BLOCK;
/// Slots of a transmit ring: frames that may wait for the kernel (17 MiB).
pub const TX_SLOTS: usize = TX_BLOCKS * PER_BLOCK;

/// Offset of `tp_status`.
pub(super) const STATUS: usize = 0;
/// Offset of `tp_len`: length in bytes of the frame on the wire; in a TX slot, of vnet header and frame.
pub(super) const LEN: usize = 4;
/// Bytes of `struct tpacket2_hdr`, a multiple of TPACKET_ALIGNMENT; a TX slot's data follows.
pub(super) const HEADER: usize = 32;
/// Offset of `sll_pkttype` in an RX slot (the `sockaddr_ll` follows the header).
pub(super) const PKTTYPE: usize = HEADER + 10;

const _: () = assert!(SLOT.is_multiple_of(64) && (SLOT / 64) % 2 == 1);
const _: () = assert!(SLOT >= 80 + dataplane::VNET_LEN + dataplane::MAX_FRAME + wire::TAG_LEN);

/// Which way a ring goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Rx,
    Tx,
}

impl Direction {
    pub(super) fn request(self) -> libc::tpacket_req {
        let blocks = if self == Direction::Rx { RX_BLOCKS } else { TX_BLOCKS };
        libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: (blocks * PER_BLOCK) as u32,
        }
    }

    fn slots(self) -> usize {
        if self == Direction::Rx { RX_SLOTS } else { TX_SLOTS }
    }
}

/// The slots of one ring in the mapping of its socket.
#[derive(Debug)]
pub(super) struct Slots {
    region: Arc<Region>,
    count: usize,
}

impl Slots {
    /// Maps the ring that `direction`'s request made on `fd`.
    pub(super) fn map(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<Slots> {
        let count = direction.slots();
        let region = Region::map_kernel_ring(fd, 0, count / PER_BLOCK * BLOCK)?;
        Ok(Slots { region, count })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The position `by` slots after `from`; `by` at most the ring's length.
    #[inline]
    pub(super) fn after(&self, from: usize, by: usize) -> usize {
        let at = from + by;
        if at >= self.count { at - self.count } else { at }
    }

    /// Slot `index`; `None` when there is no such slot.
    #[inline]
    pub(super) fn slot(&self, index: usize) -> Option<Slice<'_>> {
        self.region.slice(index / PER_BLOCK * BLOCK + index % PER_BLOCK * SLOT, SLOT)
    }

    /// The status word of `slot`, with acquire ordering: what the kernel wrote before it is seen after it.
    #[inline]
    pub(super) fn status(slot: &Slice<'_>) -> u32 {
        slot.load_u32(STATUS).unwrap_or(0)
    }

    /// Hands `slot` over, with release ordering.
    #[inline]
    pub(super) fn set_status(slot: &Slice<'_>, status: u32) {
        slot.store_u32(STATUS, status);
    }
}
