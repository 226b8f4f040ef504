//! Offload facts as peers write them before a frame: `struct virtio_net_hdr` (`linux/virtio_net.h`; virtio 1.2, 5.1.6),
//! which virtio cards, taps and packet sockets (`PACKET_VNET_HDR`) all use. It says what the sender left undone.
//!
//! Its fields are little-endian, which for taps and packet sockets, whose order is the machine's, is the same on every
//! machine this builds for. Offsets count from the first byte of the frame as it lies in memory.

#[cfg(not(target_endian = "little"))]
compile_error!("the headers of packet sockets and taps would have to be read in another byte order");

use crate::burst::gather;
use crate::{Csum, DropReason, Gso, GsoKind, HEAD_MAX, Offload, Plan};
use sharedmem::Slice;
use wire::ip::Transport;
use wire::{ETH_HEADER, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TAG_LEN, be16};

/// Bytes of the header, without the count of buffers that virtio cards put behind it.
pub const VNET_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is to be filled in.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: it was verified.
pub const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams, over IPv4 or IPv6.
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: with a TCP segment, the window was reduced.
pub const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of headers, as a hint.
    pub hdr_len: u16,
    /// TCP or UDP payload of each packet in bytes.
    pub gso_size: u16,
    /// First byte summed.
    pub csum_start: u16,
    /// Where the sum goes, from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// From its bytes.
    #[inline]
    pub fn from_bytes(b: [u8; VNET_LEN]) -> VnetHeader {
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        VnetHeader {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; VNET_LEN] {
        let mut b = [0; VNET_LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            b[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        b
    }

    /// What it says of the received `frame`, given in pieces.
    ///
    /// Only `DATA_VALID` counts as a verified checksum. The ring's `TP_STATUS_CSUM_VALID` is also set for
    /// hardware that summed the whole frame without comparing anything, and a wrong frame would pass as good.
    ///
    /// A segment other than of TCP or UDP (`VIRTIO_NET_HDR_GSO_UDP`, the fragments of one datagram) is `bad-offload`.
    pub fn offload(self, frame: &[Slice<'_>]) -> Result<Offload, DropReason> {
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
            GSO_TCPV4 | GSO_TCPV6 => Some(Gso::tcp(self.gso_size, payload_of(frame, GsoKind::Tcp)?)),
            GSO_UDP_L4 => Some(Gso::udp(self.gso_size, payload_of(frame, GsoKind::Udp)?)),
            _ => return Err(DropReason::BadOffload),
        };
        Ok(Offload { csum, gso })
    }

    /// What is left to the peer to do for `plan`'s frame.
    pub fn for_plan(plan: &Plan<'_, '_>) -> VnetHeader {
        let mut header = VnetHeader::default();
        if let Csum::Fill { start, at } = plan.csum() {
            header.flags = NEEDS_CSUM;
            header.csum_start = start;
            header.csum_offset = at - start;
        }
        if let Some(gso) = plan.gso() {
            let head = plan.head();
            header.gso_type = match gso.kind {
                GsoKind::Udp => GSO_UDP_L4,
                GsoKind::Tcp => {
                    let kind = if be16(head, 12) == Some(ETHERTYPE_IPV6) { GSO_TCPV6 } else { GSO_TCPV4 };
                    kind | if tells_congestion(head) { GSO_ECN } else { 0 }
                }
            };
            header.gso_size = gso.mss;
            header.hdr_len = gso.header;
        }
        header
    }
}

/// Offset of the TCP or UDP payload of `frame`, which may begin with a tag. The peer's `hdr_len` says only how much lay in one
/// piece.
fn payload_of(frame: &[Slice<'_>], kind: GsoKind) -> Result<u16, DropReason> {
    let mut head = [0; HEAD_MAX];
    let mut got = gather(frame, &mut head);
    let mut tag = 0;
    if be16(&head, 12) == Some(ETHERTYPE_VLAN) && got >= ETH_HEADER + TAG_LEN {
        head.copy_within(12 + TAG_LEN..got, 12);
        (got, tag) = (got - TAG_LEN, TAG_LEN);
    }
    let transport = Transport::parse(&head[..got]).ok_or(DropReason::BadOffload)?;
    if transport.protocol != kind.protocol() || transport.l4_len == 0 {
        return Err(DropReason::BadOffload);
    }
    u16::try_from(transport.payload() + tag).map_err(|_| DropReason::BadOffload)
}

/// True when the TCP header in `head` has CWR set: a sender of segments must then clear it in all but the first.
fn tells_congestion(head: &[u8]) -> bool {
    const CWR: u8 = 0x80;
    Transport::parse(head).and_then(|t| head.get(t.l4 + 13)).is_some_and(|flags| flags & CWR != 0)
}
