//! Which frames the card takes: the station address, the logical address filter and the mode.

use dataplane::{Multicast, RxFilter};
use wire::Mac;

/// CSR15, mode (data sheet, "CSR15").
pub(super) mod mode {
    /// Receiver off.
    pub const DRX: u16 = 0x0001;
    /// Transmitter off.
    pub const DTX: u16 = 0x0002;
    /// Loopback.
    pub const LOOP: u16 = 0x0004;
    /// Do not take frames to the station address.
    pub const DRCVPA: u16 = 0x2000;
    /// Do not take broadcasts.
    pub const DRCVBC: u16 = 0x4000;
    /// Take everything.
    pub const PROM: u16 = 0x8000;
}

/// The bit of the logical address filter for the broadcast address: the top six bits of its CRC-32.
const BROADCAST_BIT: u32 = crc32([0xff; 6]) >> 26;

const fn crc32(bytes: [u8; 6]) -> u32 {
    let mut crc = u32::MAX;
    let mut i = 0;
    while i < 48 {
        crc ^= (bytes[i / 8] >> (i % 8) & 1) as u32;
        crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        i += 1;
    }
    crc
}

/// The station address in CSR12..=14.
pub(super) fn station(padr: [u16; 3]) -> Mac {
    let [[a, b], [c, d], [e, f]] = padr.map(u16::to_le_bytes);
    Mac([a, b, c, d, e, f])
}

/// The filter that CSR8..=15 describe.
pub(super) fn rx_filter(mode: u16, padr: [u16; 3], ladrf: [u16; 4]) -> RxFilter {
    let hash = ladrf.iter().rev().fold(0u64, |bits, word| bits << 16 | u64::from(*word));
    RxFilter {
        mac: Some(station(padr)),
        unicast: mode & mode::DRCVPA == 0,
        // With DRCVBC set a broadcast still passes where the logical address filter has its bit.
        broadcast: mode & mode::DRCVBC == 0 || hash >> BROADCAST_BIT & 1 == 1,
        all_multicast: hash == u64::MAX,
        promiscuous: mode & mode::PROM != 0,
        multicast: Multicast::Hash(hash),
        vlans: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let padr = [0x5000, 0x0156, 0x0302];
        let filter = rx_filter(0, padr, [0; 4]);
        assert_eq!(filter.mac, Some(Mac([0x00, 0x50, 0x56, 0x01, 0x02, 0x03])));
        assert!(filter.unicast && filter.broadcast && !filter.promiscuous && !filter.all_multicast);
        assert!(!filter.wants_group(Mac([1, 0, 0x5e, 0, 0, 1])));
        let filter = rx_filter(mode::DRCVBC | mode::DRCVPA | mode::PROM, padr, [0; 4]);
        assert!(!filter.unicast && !filter.broadcast && filter.promiscuous);
    }

    #[test]
    fn hash_words_are_in_order() {
        let all_hosts = Mac([1, 0, 0x5e, 0, 0, 1]);
        let bit = crc32(all_hosts.0) >> 26;
        let mut ladrf = [0; 4];
        ladrf[(bit >> 4) as usize] = 1 << (bit & 0xf);
        assert!(rx_filter(0, [0; 3], ladrf).wants_group(all_hosts));
        let mut broadcast = [0; 4];
        broadcast[(BROADCAST_BIT >> 4) as usize] = 1 << (BROADCAST_BIT & 0xf);
        assert!(rx_filter(mode::DRCVBC, [0; 3], broadcast).broadcast);
        assert!(!rx_filter(mode::DRCVBC, [0; 3], ladrf).broadcast);
    }
}
