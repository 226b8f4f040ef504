//! Receive side scaling: which receive queue a frame goes to.
//!
//! The driver gives a key, a table of queues and the kinds of frame to hash. A frame's addresses (and ports, or the SPI
//! of ESP) are hashed by Toeplitz's function with the key; the hash picks an entry of the table, and so every frame
//! of a flow goes to one queue. Frames that are hashed by nothing go to queue 0.
//!
//! The function is linear: the hash of a frame is the exclusive or of one number per byte and its value. Those are
//! worked out when the driver gives the key, so a frame costs one look-up per byte hashed.
//!
//! Layout: `UPT1_RSSConf` in DPDK's `upt1_defs.h` and FreeBSD's `if_vmxreg.h` (`vmxnet3_rss_shared`); numbers of the kinds:
//! `VMXNET3_RCD_RSS_TYPE_*`, `VMXNET3_RSS_FIELDS_*` in DPDK's `vmxnet3_defs.h`. The function and its test values:
//! Microsoft, "RSS hashing functions" and "Verifying the RSS hash calculation".

use std::fmt;

use sharedmem::{Access, DmaError, DmaMap, Hint};
use wire::ip::{TCP, UDP};
use wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};

use super::shared_area::{Words, at};

/// Bytes of the longest key.
const MAX_KEY: usize = 40;
/// Entries of the largest table.
const MAX_TABLE: usize = 128;
/// Bytes of the configuration before its table: four numbers of 16 bits and the key.
const TABLE_AT: usize = 8 + MAX_KEY;
/// Most bytes hashed: two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;
/// `UPT1_RSS_HASH_FUNC_TOEPLITZ`.
const TOEPLITZ: u16 = 1;

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Kinds of frame to hash (`UPT1_RSS_HASH_TYPE_*`), in the driver's configuration.
mod hash_type {
    pub const IPV4: u16 = 1;
    pub const TCP_IPV4: u16 = 2;
    pub const IPV6: u16 = 4;
    pub const TCP_IPV6: u16 = 8;
}

/// Kinds of frame whose ports or SPI are hashed too (`VMXNET3_RSS_FIELDS_*`), for drivers of revision 4 and up.
pub mod field {
    /// Those of TCP over IPv4 and over IPv6: what a card does that is not told otherwise.
    pub const TCP: u32 = 3;
    /// UDP over IPv4 and over IPv6.
    pub const UDP: u32 = 0xc;
    /// ESP over IPv4.
    pub const ESP_IPV4: u32 = 0x10;
    /// ESP over IPv6.
    pub const ESP_IPV6: u32 = 0x20;
    /// All that this card knows.
    pub const ALL: u32 = TCP | UDP | ESP_IPV4 | ESP_IPV6;
}

/// What a frame was hashed by: a completion's RSS type (`VMXNET3_RCD_RSS_TYPE_*`).
mod kind {
    pub const IPV4: u8 = 1;
    pub const TCP_IPV4: u8 = 2;
    pub const IPV6: u8 = 3;
    pub const TCP_IPV6: u8 = 4;
    pub const UDP_IPV4: u8 = 5;
    pub const UDP_IPV6: u8 = 6;
    pub const ESP_IPV4: u8 = 7;
    pub const ESP_IPV6: u8 = 8;
}

/// Why a configuration of receive side scaling cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RssError {
    /// It cannot be reached.
    #[error("its configuration: {0}")]
    Memory(DmaError),
    /// It is shorter than what it holds.
    #[error("its configuration has {0} bytes, fewer than its table needs")]
    Len(u32),
    /// A hash function other than Toeplitz's.
    #[error("hash function {0}; this card has Toeplitz's, 1")]
    Function(u16),
    /// No key, or too long a one.
    #[error("a key of {0} bytes; 1 to {MAX_KEY} are possible")]
    Key(u16),
    /// No table, or too long a one.
    #[error("a table of {0} entries; 1 to {MAX_TABLE} are possible")]
    Table(u16),
    /// An entry that names no queue.
    #[error("its table names RX queue {0}, which there is not")]
    Queue(u8),
}

/// A frame's hash and what it was hashed by, as completions tell it; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The hash.
    pub hash: u32,
    /// The kind (`VMXNET3_RCD_RSS_TYPE_*`); 0 for a frame that was not hashed.
    pub kind: u8,
}

/// The driver's configuration, ready for use.
pub struct Rss {
    /// For each byte hashed and each of its values, its part of the hash.
    parts: Box<[[u32; 256]; MAX_INPUT]>,
    table: Vec<u8>,
    types: u16,
    fields: u32,
}

impl fmt::Debug for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rss").field("table", &self.table).field("types", &self.types).finish_non_exhaustive()
    }
}

impl Rss {
    /// Reads what the driver-shared area names, for a card of `queues` receive queues; `fields` are those of [`field`] in force.
    ///
    /// # Errors
    /// [`RssError`].
    pub fn read(area: &Words, map: &DmaMap, queues: usize, fields: u32) -> Result<Rss, RssError> {
        let (len, iova) = (area.load(at::RSS + 4), area.load64(at::RSS + 8));
        let mut bytes = [0; TABLE_AT + MAX_TABLE];
        let mut hint = Hint::default();
        let mut read = |from: usize, to: usize, bytes: &mut [u8]| {
            let iova = iova.checked_add(from as u64).ok_or(RssError::Memory(DmaError::NotMapped))?;
            let slice = map.slice(&mut hint, iova, to - from, Access::Read).map_err(RssError::Memory)?;
            slice.read_at(0, &mut bytes[from..to]).then_some(()).ok_or(RssError::Memory(DmaError::NotMapped))
        };
        read(0, TABLE_AT, &mut bytes)?;
        let word = |i: usize| u16::from_le_bytes([bytes[i * 2], bytes[i * 2 + 1]]);
        let (types, function, key, entries) = (word(0), word(1), word(2), word(3));
        if function != TOEPLITZ {
            return Err(RssError::Function(function));
        }
        if !(1..=MAX_KEY).contains(&key.into()) {
            return Err(RssError::Key(key));
        }
        if !(1..=MAX_TABLE).contains(&entries.into()) {
            return Err(RssError::Table(entries));
        }
        let end = TABLE_AT + usize::from(entries);
        if (len as usize) < end {
            return Err(RssError::Len(len));
        }
        read(TABLE_AT, end, &mut bytes)?;
        let (head, table) = bytes.split_at(TABLE_AT);
        let table = table.get(..usize::from(entries)).unwrap_or(&[]).to_vec();
        if let Some(&queue) = table.iter().find(|q| usize::from(**q) >= queues) {
            return Err(RssError::Queue(queue));
        }
        let key = head.get(8..8 + usize::from(key)).unwrap_or(&[]);
        Ok(Rss { parts: parts(key), table, types, fields })
    }

    /// The queue of a frame that starts with `head`, and its mark.
    #[inline]
    pub fn queue(&self, head: &[u8]) -> (u8, Mark) {
        let mark = self.mark(head);
        if mark.kind == 0 {
            return (0, mark);
        }
        let (hash, entries) = (mark.hash as usize, self.table.len());
        // Entries are a power of two with most drivers, and a division costs as much as all the rest.
        let at = if entries.is_power_of_two() { hash & (entries - 1) } else { hash % entries };
        (self.table.get(at).copied().unwrap_or(0), mark)
    }

    /// Hashes a frame by what its head says it is. Only bytes that are read ahead of every frame count, so that all
    /// frames of a flow are hashed by the same.
    #[inline]
    fn mark(&self, head: &[u8]) -> Mark {
        match be16(head, 12) {
            Some(ETHERTYPE_IPV4) => self.mark_v4(head),
            Some(ETHERTYPE_IPV6) => self.mark_v6(head),
            _ => Mark::default(),
        }
    }

    fn mark_v4(&self, head: &[u8]) -> Mark {
        let Some(&[first, _, _, _, _, _, f0, f1, _, protocol, ..]) = head.get(14..34) else { return Mark::default() };
        // Fragments but the first have no ports, so no fragment is hashed by them.
        let whole = u16::from_be_bytes([f0, f1]) & 0x3fff == 0;
        let options = usize::from(first & 0xf).saturating_sub(5) * 4;
        let kind = match protocol {
            TCP if whole && self.types & hash_type::TCP_IPV4 != 0 && self.fields & 1 != 0 => kind::TCP_IPV4,
            UDP if whole && self.fields & 4 != 0 => kind::UDP_IPV4,
            ESP if whole && self.fields & field::ESP_IPV4 != 0 => kind::ESP_IPV4,
            _ => kind::IPV4,
        };
        let plain = self.types & hash_type::IPV4 != 0;
        self.hashed(head, (26, 8), (34 + options, kind), (plain, kind::IPV4))
    }

    fn mark_v6(&self, head: &[u8]) -> Mark {
        let Some(&next) = head.get(20) else { return Mark::default() };
        let kind = match next {
            TCP if self.types & hash_type::TCP_IPV6 != 0 && self.fields & 2 != 0 => kind::TCP_IPV6,
            UDP if self.fields & 8 != 0 => kind::UDP_IPV6,
            ESP if self.fields & field::ESP_IPV6 != 0 => kind::ESP_IPV6,
            _ => kind::IPV6,
        };
        let plain = self.types & hash_type::IPV6 != 0;
        self.hashed(head, (22, 32), (54, kind), (plain, kind::IPV6))
    }

    /// Hashes the addresses (offset and length) and, when `ports` names a kind of its own and they are there, the four
    /// bytes at its offset; without them the frame is `plain.1`, if such are to be hashed.
    #[inline]
    fn hashed(&self, head: &[u8], addresses: (usize, usize), ports: (usize, u8), plain: (bool, u8)) -> Mark {
        let (from, len) = addresses;
        let Some(bytes) = head.get(from..from + len) else { return Mark::default() };
        if ports.1 != plain.1
            && let Some(more) = head.get(ports.0..ports.0 + 4)
        {
            return Mark { hash: self.sum(0, bytes) ^ self.sum(len, more), kind: ports.1 };
        }
        if plain.0 { Mark { hash: self.sum(0, bytes), kind: plain.1 } } else { Mark::default() }
    }

    /// The hash of `bytes` as bytes `from`.. of the input.
    #[inline]
    fn sum(&self, from: usize, bytes: &[u8]) -> u32 {
        let parts = self.parts.get(from..).unwrap_or(&[]);
        parts.iter().zip(bytes).fold(0, |hash, (part, byte)| hash ^ part[usize::from(*byte)])
    }
}

/// For each byte of input and each of its values the exclusive or of the key's 32-bit windows at the bits set, the
/// first bit of a byte being its most significant. Beyond its end the key is zeros.
fn parts(key: &[u8]) -> Box<[[u32; 256]; MAX_INPUT]> {
    let byte = |i: usize| u64::from(key.get(i).copied().unwrap_or(0));
    let mut parts = Box::new([[0; 256]; MAX_INPUT]);
    for (i, part) in parts.iter_mut().enumerate() {
        // Forty bits of key from byte i on hold the eight windows that start in it.
        let window = (0..5).fold(0, |w, n| w << 8 | byte(i + n));
        for value in 1..256usize {
            let lowest = value.trailing_zeros();
            part[value] = part[value & (value - 1)] ^ (window >> (lowest + 1)) as u32;
        }
    }
    parts
}

#[cfg(test)]
#[path = "tests/rss.rs"]
mod tests;
