//! Bytes on the wire: addresses, 802.1Q tags, the frame head and Internet checksums.
//!
//! Everything here is a value computed from bytes already copied out of shared memory; nothing
//! keeps a reference to a guest. The data path reads the first bytes of a frame once into a
//! buffer and asks this crate what they say:
//!
//! ```text
//!  0      6      12   14        16            (18)
//!  | dst  | src  | TPID 0x8100 | TCI | type ...      tagged
//!  | dst  | src  | type ...                          untagged
//!     |      |        |
//!    Mac    Mac     Tag / EtherType  ->  ip::Transport (where L3 and L4 start)  ->  checksum
//! ```
#![forbid(unsafe_code)]

pub mod checksum;
pub mod ip;
mod mac;
mod tag;

pub use mac::{Mac, MacParseError};
pub use tag::{ETHERTYPE_VLAN, Tag, VID_MAX};

/// Length in bytes of an Ethernet header without a tag (IEEE 802.3: 6 + 6 + 2).
pub const ETH_HEADER: usize = 14;
/// Length in bytes of one 802.1Q tag.
pub const TAG_LEN: usize = 4;
/// Shortest Ethernet frame in bytes, without the frame check sequence (IEEE 802.3).
pub const MIN_FRAME: usize = 60;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// Reads a big-endian `u16` at `at`; `None` when the slice is too short.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
}

/// Reads a big-endian `u32` at `at`; `None` when the slice is too short.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}
