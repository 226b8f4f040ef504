//! Where the IP and TCP/UDP headers of a frame start, and how long they are.

use crate::{ETH_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// The layers of an untagged IP frame, as offsets in bytes from the frame's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// True for IPv6.
    pub v6: bool,
    /// L4 protocol number.
    pub protocol: u8,
    /// Offset of the IP header: 14.
    pub l3: usize,
    /// Offset of the L4 header.
    pub l4: usize,
    /// Length in bytes of a TCP header (from its data offset) or of a UDP header (8); 0 otherwise,
    /// and when the head is too short to tell.
    pub l4_len: usize,
}

impl Transport {
    /// Parses the head of an untagged Ethernet frame. `None` when it is no IPv4 or IPv6 frame, is
    /// a later fragment, or when `head` ends before the L4 header starts.
    pub fn parse(head: &[u8]) -> Option<Transport> {
        match be16(head, 12)? {
            ETHERTYPE_IPV4 => parse_v4(head),
            ETHERTYPE_IPV6 => parse_v6(head),
            _ => None,
        }
    }

    /// Offset of the first byte after the TCP or UDP header.
    pub fn payload(&self) -> usize {
        self.l4 + self.l4_len
    }

    /// The source and destination addresses as they stand in `head` (8 or 32 bytes).
    pub fn addresses<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        let (from, len) = if self.v6 { (self.l3 + 8, 32) } else { (self.l3 + 12, 8) };
        head.get(from..from + len).unwrap_or(&[])
    }
}

fn parse_v4(head: &[u8]) -> Option<Transport> {
    let first = *head.get(ETH_HEADER)?;
    let ihl = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || ihl < 20 || be16(head, ETH_HEADER + 6)? & 0x1fff != 0 {
        return None;
    }
    let protocol = *head.get(ETH_HEADER + 9)?;
    let l4 = ETH_HEADER + ihl;
    with_l4(head, Transport { v6: false, protocol, l3: ETH_HEADER, l4, l4_len: 0 })
}

fn parse_v6(head: &[u8]) -> Option<Transport> {
    if *head.get(ETH_HEADER)? >> 4 != 6 {
        return None;
    }
    let mut protocol = *head.get(ETH_HEADER + 6)?;
    let mut l4 = ETH_HEADER + 40;
    // Hop-by-hop 0, routing 43, destination options 60 (RFC 8200 section 4); bounded by the head.
    while matches!(protocol, 0 | 43 | 60) {
        let next = *head.get(l4)?;
        l4 += 8 + usize::from(*head.get(l4 + 1)?) * 8;
        protocol = next;
    }
    if protocol == 44 {
        return None;
    }
    with_l4(head, Transport { v6: true, protocol, l3: ETH_HEADER, l4, l4_len: 0 })
}

fn with_l4(head: &[u8], mut t: Transport) -> Option<Transport> {
    if t.l4 > head.len() {
        return None;
    }
    t.l4_len = match t.protocol {
        TCP => match head.get(t.l4 + 12) {
            Some(b) if b >> 4 >= 5 => usize::from(b >> 4) * 4,
            _ => 0,
        },
        UDP => 8,
        _ => 0,
    };
    Some(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_over_ipv4() {
        let mut head = vec![0u8; 54];
        head[12..14].copy_from_slice(&[8, 0]);
        head[14] = 0x45;
        head[23] = TCP;
        head[46] = 0x50;
        let t = Transport::parse(&head).unwrap();
        assert_eq!((t.l4, t.l4_len, t.payload(), t.v6), (34, 20, 54, false));
        head[20] = 0x20;
        assert!(Transport::parse(&head).is_some(), "a first fragment has its L4 header");
        head[21] = 1;
        assert!(Transport::parse(&head).is_none(), "a later fragment has none");
    }

    #[test]
    fn ipv6_extension_headers_are_walked_and_bounded() {
        let mut head = vec![0u8; 14 + 40 + 8 + 20];
        head[12..14].copy_from_slice(&[0x86, 0xdd]);
        head[14] = 0x60;
        head[20] = 0;
        head[54] = TCP;
        head[62 + 12] = 0x80;
        let t = Transport::parse(&head).unwrap();
        assert_eq!((t.l4, t.l4_len, t.v6), (62, 32, true));
        head[55] = 255;
        assert!(Transport::parse(&head).is_none());
    }
}
