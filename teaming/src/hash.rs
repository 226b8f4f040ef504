//! From a frame to one of 256 buckets: the hash policies, as the data path asks per frame.

use wire::{ETHERTYPE_IPV6, Mac, be16};

/// Where the last octet of the source address stands in an untagged IPv4 frame.
const V4_SOURCE: usize = 14 + 15;
/// Where the last octet of the destination address stands in one.
const V4_DESTINATION: usize = 14 + 19;
/// Where an untagged IPv6 frame's two addresses start, 16 bytes each (RFC 8200 section 3).
const V6_ADDRESSES: usize = 14 + 8;

/// The bucket of a source address: its last byte, the one in which the cards of a host differ.
#[inline]
pub fn hash_mac(src: Mac) -> u8 {
    src.0[5]
}

/// The bucket of a frame by its IP addresses; `head` starts at the destination MAC, without a tag.
///
/// * IPv4: the last octets of source and destination, XORed (what ESX documents). A fragment goes
///   where its datagram's others go; ports do not count.
/// * IPv6: all 32 bytes of the two addresses XORed, since any of their bytes may be the one that varies.
/// * Other frames: the bytes that stand where IPv4 would have those octets (ESX: "the two 32-bit
///   words where the addresses would be"), so ARP and the rest spread as well; bytes that a short
///   frame lacks count as 0.
///
/// Both directions of a conversation have the same bucket.
#[inline]
pub fn hash_ip(head: &[u8]) -> u8 {
    if be16(head, 12) == Some(ETHERTYPE_IPV6)
        && let Some(addresses) = head.get(V6_ADDRESSES..V6_ADDRESSES + 32)
    {
        return addresses.iter().fold(0, |all, byte| all ^ byte);
    }
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    byte(V4_SOURCE) ^ byte(V4_DESTINATION)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn v4(src: [u8; 4], dst: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4(src, dst, 64)
            .udp(port, 53)
            .write(&mut frame, &[7; 30])
            .unwrap();
        frame
    }

    fn v6(src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6(src, dst, 64)
            .tcp(1, 2, 3, 4)
            .write(&mut frame, &[])
            .unwrap();
        frame
    }

    #[test]
    fn ipv4_is_the_xor_of_the_last_octets() {
        assert_eq!(hash_ip(&v4([10, 0, 0, 5], [192, 168, 7, 9], 1)), 5 ^ 9);
        assert_eq!(hash_ip(&v4([10, 9, 9, 5], [1, 2, 3, 9], 4000)), 5 ^ 9, "one conversation, one bucket");
    }

    #[test]
    fn later_fragments_go_where_the_first_goes() {
        let mut frame = v4([10, 0, 0, 5], [10, 0, 0, 9], 1);
        let first = hash_ip(&frame);
        frame[20..22].copy_from_slice(&[0x00, 0xb9]);
        assert_eq!(hash_ip(&frame), first);
    }

    #[test]
    fn other_frames_and_short_heads_have_a_bucket() {
        let mut arp = [0u8; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        (arp[29], arp[33]) = (0x31, 0x01);
        assert_eq!(hash_ip(&arp), 0x30);
        assert_eq!(hash_ip(&arp[..33]), 0x31);
        assert_eq!(hash_ip(&[]), 0);
        let mut cut = v6([1; 16], [2; 16]);
        cut.truncate(40);
        assert_eq!(hash_ip(&cut), 1 ^ 1, "an IPv6 head that ends early goes by the rule for others");
    }

    #[test]
    fn mac_bucket_is_the_last_byte() {
        assert_eq!(hash_mac("00:50:56:aa:bb:cc".parse().unwrap()), 0xcc);
    }

    proptest! {
        #[test]
        fn both_directions_have_one_bucket(a: [u8; 4], b: [u8; 4], c: [u8; 16], d: [u8; 16]) {
            prop_assert_eq!(hash_ip(&v4(a, b, 9)), hash_ip(&v4(b, a, 9)));
            prop_assert_eq!(hash_ip(&v6(c, d)), hash_ip(&v6(d, c)));
        }

        #[test]
        fn any_bytes_are_fine(head in proptest::collection::vec(any::<u8>(), 0..80)) {
            hash_ip(&head);
        }

        #[test]
        fn one_byte_of_an_ipv6_address_changes_the_bucket(a: [u8; 16], at in 0usize..16, bit in 0u8..8) {
            let mut other = a;
            other[at] ^= 1 << bit;
            prop_assert_ne!(hash_ip(&v6(a, [9; 16])), hash_ip(&v6(other, [9; 16])));
        }
    }
}
