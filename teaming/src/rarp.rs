//! The frame that tells physical switches where an address is.

use wire::{MIN_FRAME, Mac};

/// EtherType of reverse ARP (RFC 903).
pub const ETHERTYPE_RARP: u16 = 0x8035;

/// A reverse ARP request (RFC 903) in which `mac` asks for its own address: sent as broadcast from
/// `mac`, so that every switch on the way learns it, and of interest to no host. Untagged, 60 bytes;
/// the uplink adds the VLAN's tag.
pub fn rarp_frame(mac: Mac) -> [u8; MIN_FRAME] {
    let mut frame = [0; MIN_FRAME];
    frame[..6].copy_from_slice(&Mac::BROADCAST.0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE_RARP.to_be_bytes());
    // Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4, operation 3: reverse request.
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0x00, 6, 4, 0, 3]);
    // Sender and target hardware address; both protocol addresses stay zero.
    frame[22..28].copy_from_slice(&mac.0);
    frame[32..38].copy_from_slice(&mac.0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_who_is_mac_tell_mac() {
        let mac: Mac = "00:50:56:01:02:03".parse().unwrap();
        let frame = rarp_frame(mac);
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = sliced.link else { panic!("Ethernet II") };
        assert_eq!((ethernet.destination(), ethernet.source()), ([0xff; 6], mac.0));
        assert_eq!(ethernet.ether_type().0, 0x8035);
        // A RARP packet has the form of an ARP packet (RFC 903).
        let arp = etherparse::ArpPacketSlice::from_slice(&frame[14..]).unwrap();
        assert_eq!((arp.operation().0, arp.hw_addr_type().0, arp.proto_addr_type().0), (3, 1, 0x0800));
        assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&mac.0[..], &mac.0[..]));
        assert_eq!((arp.sender_protocol_addr(), arp.target_protocol_addr()), (&[0u8; 4][..], &[0u8; 4][..]));
        assert!(frame[42..].iter().all(|b| *b == 0));
    }
}
