//! Which frames belong together: a port with several queues keeps those of one conversation on one of them.

use wire::ip::{TCP, UDP};
use wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16};

/// Where the parts of an untagged frame stand: the protocol and the fragment word of IPv4, and the protocol of IPv6.
const V4_PROTOCOL: usize = 14 + 9;
const V4_FRAGMENT: usize = 14 + 6;
const V6_PROTOCOL: usize = 14 + 6;

/// A number that frames of one conversation and direction have in common, and others seldom: of their IP addresses, with
/// the ports where TCP or UDP follows at once; of their MAC addresses where they are no IP. All fragments of a datagram
/// have the number of its addresses. `head` starts at the destination MAC, without a tag.
#[inline]
pub fn conversation(head: &[u8]) -> u32 {
    let with_ports = |at: usize| head.get(at).is_some_and(|protocol| [TCP, UDP].contains(protocol));
    let fields = match be16(head, 12) {
        Some(ETHERTYPE_IPV4) => {
            let plain = head.get(14) == Some(&0x45) && be16(head, V4_FRAGMENT).is_some_and(|word| word & 0x3fff == 0);
            head.get(26..if plain && with_ports(V4_PROTOCOL) { 38 } else { 34 })
        }
        Some(ETHERTYPE_IPV6) => head.get(22..if with_ports(V6_PROTOCOL) { 58 } else { 54 }),
        _ => None,
    };
    let fields = fields.or_else(|| head.get(..12)).unwrap_or(&[]);
    let mixed = fields.chunks_exact(4).fold(0u64, |mixed, word| {
        let word = word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        // A product's bits know only of those below them: turned, the next product takes up all.
        (mixed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    // Callers take remainders of few queues, which look at the lowest bits: those must depend on all.
    ((mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, protocol: u8) -> [u8; 64] {
        let mut frame = [0; 64];
        frame[..12].copy_from_slice(&[0, 0x50, 0x56, 0, 0, 1, 0, 0x50, 0x56, 0, 0, 2]);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        if kind == ETHERTYPE_IPV4 {
            frame[14] = 0x45;
            frame[V4_PROTOCOL] = protocol;
        } else {
            frame[14] = 0x60;
            frame[V6_PROTOCOL] = protocol;
        }
        frame
    }

    /// Whatever byte of a conversation's addresses and ports differs, each of several queues gets some.
    #[test]
    fn conversations_are_spread() {
        for (kind, bytes) in [(ETHERTYPE_IPV4, 26..38), (ETHERTYPE_IPV6, 22..58), (0x88b6, 0..12)] {
            for at in bytes {
                let mut counts = [[0; 8]; 9];
                for value in 0..=255 {
                    let mut bytes = frame(kind, UDP);
                    bytes[at] = value;
                    let number = conversation(&bytes) as usize;
                    (2..=8).for_each(|queues| counts[queues][number % queues] += 1);
                }
                for queues in 2..=8 {
                    let least = counts[queues][..queues].iter().min().copied().unwrap_or(0);
                    assert!(least * queues > 64, "{kind:#x} byte {at}, {queues} queues: {:?}", counts[queues]);
                }
            }
        }
    }

    /// What follows the addresses counts only where it is ports: the fragments of a datagram stay together.
    #[test]
    fn fragments_stay_together() {
        let mut first = frame(ETHERTYPE_IPV4, UDP);
        first[V4_FRAGMENT] = 0x20;
        let mut second = first;
        (second[V4_FRAGMENT], second[V4_FRAGMENT + 1], second[34]) = (0, 185, 77);
        assert_eq!(conversation(&first), conversation(&second));
        let mut other = frame(ETHERTYPE_IPV4, 50);
        let before = conversation(&other);
        other[36] = 9;
        assert_eq!(conversation(&other), before, "ESP has no ports there");
        let mut six = frame(ETHERTYPE_IPV6, 44);
        let before = conversation(&six);
        six[54] = 9;
        assert_eq!(conversation(&six), before, "nor has a fragment header");
        assert_eq!((conversation(&[]), conversation(&first[..10])), (0, 0), "too short for anything");
    }
}
