//! Feature bits of the network card (virtio 1.2, 5.1.3 and 6), and what is made of them.

use dataplane::Caps;
use wire::Mac;

/// The driver may leave checksums to the device.
pub const CSUM: u64 = 1 << 0;
/// The device may leave checksums to the driver.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The device tells its payload size.
pub const MTU: u64 = 1 << 3;
/// The device has an address of its own.
pub const MAC: u64 = 1 << 5;
/// The driver takes TCP segments over IPv4.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP segments over IPv6.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The driver takes segments with ECN.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device takes TCP segments over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device takes TCP segments over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The device takes segments with ECN.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame may be spread over several receive buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The device tells its link state.
pub const STATUS: u64 = 1 << 16;
/// There is a control queue. A VMM that keeps it to itself (QEMU, DPDK) does not accept this from us.
pub const CTRL_VQ: u64 = 1 << 17;
/// It takes receive modes and tables of addresses.
pub const CTRL_RX: u64 = 1 << 18;
/// It takes VLANs.
pub const CTRL_VLAN: u64 = 1 << 19;
/// It takes more receive modes.
pub const CTRL_RX_EXTRA: u64 = 1 << 20;
/// Several queue pairs.
pub const MQ: u64 = 1 << 22;
/// The control queue takes the card's address.
pub const CTRL_MAC_ADDR: u64 = 1 << 23;
/// Descriptors may lie in a table of their own.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Notifications by index.
pub const EVENT_IDX: u64 = 1 << 29;
/// vhost-user's own: protocol features follow.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// The driver takes UDP datagrams under one header over IPv4.
pub const GUEST_USO4: u64 = 1 << 54;
/// The driver takes the same over IPv6.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device takes UDP datagrams under one header, over both.
pub const HOST_USO: u64 = 1 << 56;
/// Not a legacy device.
pub const VERSION_1: u64 = 1 << 32;

/// Packed rings (2.8).
pub const RING_PACKED: u64 = 1 << 34;

/// What is offered to every driver.
const OFFERED: u64 = CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | CTRL_MAC_ADDR
    | INDIRECT_DESC
    | EVENT_IDX
    | PROTOCOL_FEATURES
    | VERSION_1
    | RING_PACKED
    | GUEST_USO4
    | GUEST_USO6
    | HOST_USO;

/// Bytes of the header before each frame.
pub fn header_len(features: u64) -> usize {
    // Section 5.1.6.1: the count of buffers is there with either of the two.
    if features & (MRG_RXBUF | VERSION_1) != 0 { 12 } else { 10 }
}

/// What the driver does by itself with received frames.
pub fn caps(features: u64) -> Caps {
    let all = |bits: u64| features & bits == bits;
    // Segments of both kinds or none: a frame's kind is not known to whoever asks.
    let tso = all(GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN);
    let uso = all(GUEST_CSUM | GUEST_USO4 | GUEST_USO6);
    Caps { csum: all(GUEST_CSUM), tso, uso, tag: false, pad: false }
}

/// What is offered to the driver of a card with `pairs` queue pairs.
pub fn offered(pairs: usize) -> u64 {
    if pairs > 1 { OFFERED | MQ } else { OFFERED }
}

/// The number of the control queue of a card with `pairs` pairs, if the driver has one with us (5.1.2).
pub fn control_queue(features: u64, pairs: usize) -> Option<usize> {
    (features & CTRL_VQ != 0).then_some(if features & MQ != 0 { pairs * 2 } else { 2 })
}

/// The configuration space as far as there is something to tell (5.1.4): address, link, most queue pairs, payload size.
pub fn config_space(mac: Mac, link_up: bool, pairs: usize, mtu: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..6].copy_from_slice(&mac.0);
    for (at, word) in [(6, u16::from(link_up)), (8, pairs as u16), (10, mtu)] {
        bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
