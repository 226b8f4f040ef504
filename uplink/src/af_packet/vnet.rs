//! The header that `PACKET_VNET_HDR` puts before each frame: what the sender left undone.
//!
//! `struct virtio_net_hdr` of `linux/virtio_net.h`, in the machine's byte order. Its offsets count from the
//! first byte of the frame as it lies in the slot.

use dataplane::{Csum, DropReason, Gso, HEAD_MAX, Offload, Plan};
use sharedmem::Slice;
use wire::ip::{TCP, Transport};
use wire::{ETH_HEADER, ETHERTYPE_IPV6, be16};

/// Bytes of the header.
pub(super) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Frames up to this many bytes are copied by the kernel whole; of longer ones it takes references to the
/// ring's pages. On a veth a reference costs a page and a second copy when the frame changes hands: copying whole
/// sent 1.3 times as many 60 byte frames and 1.2 times as many of 1514 (medians of seven alternating runs).
const COPY_WHOLE: usize = 2048;

/// First byte at which the kernel accepts the start of a checksum: behind Ethernet and the shortest IP header.
const FIRST_CSUM_START: u16 = (ETH_HEADER + 20) as u16;

/// The header's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHeader {
    pub(super) fn from_bytes(b: [u8; LEN]) -> VnetHeader {
        let word = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        VnetHeader {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    pub(super) fn bytes(self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            b[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        b
    }

    /// What it says of the received `frame`.
    ///
    /// Only `DATA_VALID` counts as a verified checksum. The ring's `TP_STATUS_CSUM_VALID` is also set for
    /// hardware that summed the whole frame without comparing anything, and a wrong frame would pass as good.
    ///
    /// A segment other than TCP (UDP with `UDP_SEGMENT`, which a veth peer may leave uncut) is `bad-offload`:
    /// the data path cuts TCP only. Peers that send such frames are mended by `ethtool -K PEER
    /// tx-udp-segmentation off`.
    pub(super) fn offload(self, frame: &Slice<'_>) -> Result<Offload, DropReason> {
        let csum = if self.flags & NEEDS_CSUM != 0 {
            let at = self.csum_start.checked_add(self.csum_offset).ok_or(DropReason::BadOffload)?;
            Csum::Fill { start: self.csum_start, at }
        } else if self.flags & DATA_VALID != 0 {
            Csum::Good
        } else {
            Csum::AsIs
        };
        let gso = match self.gso_type & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 | GSO_TCPV6 => Some(Gso { mss: self.gso_size, header: tcp_payload(frame)? }),
            _ => return Err(DropReason::BadOffload),
        };
        Ok(Offload { csum, gso })
    }

    /// What is left to the kernel to do for `plan`'s frame, `len` bytes long.
    pub(super) fn for_plan(plan: &Plan<'_, '_>, len: usize) -> VnetHeader {
        let mut header = VnetHeader::default();
        if let Csum::Fill { start, at } = plan.csum() {
            header.flags = NEEDS_CSUM;
            header.csum_start = start;
            header.csum_offset = at - start;
        }
        if let Some(gso) = plan.gso() {
            let head = plan.head();
            header.gso_type = if be16(head, 12) == Some(ETHERTYPE_IPV6) { GSO_TCPV6 } else { GSO_TCPV4 };
            if tells_congestion(head) {
                header.gso_type |= GSO_ECN;
            }
            header.gso_size = gso.mss;
            header.hdr_len = gso.header;
        } else if len <= COPY_WHOLE {
            header.hdr_len = len as u16;
        }
        header
    }
}

/// True when the kernel takes a request to fill in this checksum; one that it would refuse is filled in by us.
pub(super) fn kernel_fills(csum: Csum) -> bool {
    !matches!(csum, Csum::Fill { start, .. } if start < FIRST_CSUM_START)
}

/// Offset of the TCP payload of `frame`. The kernel's `hdr_len` says only how much lay in one piece.
fn tcp_payload(frame: &Slice<'_>) -> Result<u16, DropReason> {
    let mut head = [0; HEAD_MAX];
    let head = &mut head[..frame.len().min(HEAD_MAX)];
    frame.read_at(0, head);
    let transport = Transport::parse(head).ok_or(DropReason::BadOffload)?;
    if transport.protocol != TCP || transport.l4_len == 0 {
        return Err(DropReason::BadOffload);
    }
    u16::try_from(transport.payload()).map_err(|_| DropReason::BadOffload)
}

/// True when the TCP header in `head` has CWR set: a sender of segments must then clear it in all but the first.
fn tells_congestion(head: &[u8]) -> bool {
    const CWR: u8 = 0x80;
    Transport::parse(head).and_then(|t| head.get(t.l4 + 13)).is_some_and(|flags| flags & CWR != 0)
}

#[cfg(test)]
#[path = "vnet_tests.rs"]
mod tests;
