//! 48-bit MAC addresses.

use std::fmt;
use std::str::FromStr;

/// A 48-bit MAC address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

/// What is wrong with a textual MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacParseError;

impl fmt::Display for MacParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six two-digit hexadecimal numbers joined by colons")
    }
}

impl std::error::Error for MacParseError {}

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// 01:80:c2:00:00:00, the group address of spanning tree BPDUs (IEEE 802.1D).
    pub const BPDU: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);

    /// The address in the first six bytes of `bytes`; `None` when there are fewer.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Mac> {
        let b = bytes.get(..6)?;
        Some(Mac([b[0], b[1], b[2], b[3], b[4], b[5]]))
    }

    /// True for multicast and broadcast addresses (the group bit, first on the wire).
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for ff:ff:ff:ff:ff:ff.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }

    /// True for 00:00:00:00:00:00.
    #[inline]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// The address in the low 48 bits of a `u64`, first byte most significant: the forwarding
    /// table's key.
    #[inline]
    pub fn as_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or(MacParseError)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacParseError)?;
        }
        match parts.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(MacParseError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mac: Mac = "00:50:56:00:Ab:01".parse().unwrap();
        assert_eq!(mac.to_string(), "00:50:56:00:ab:01");
        assert_eq!(mac.as_u64(), 0x0050_5600_ab01);
    }

    #[test]
    fn bad_text_is_refused() {
        for text in
            ["", "00:50:56:00:00", "00:50:56:00:00:01:02", "0:50:56:00:00:01", "00-50-56-00-00-01", "+0:50:56:00:00:01"]
        {
            assert_eq!(text.parse::<Mac>(), Err(MacParseError), "{text}");
        }
    }

    #[test]
    fn group_bit() {
        assert!(Mac::BROADCAST.is_group() && Mac::BPDU.is_group());
        assert!(!"00:50:56:00:00:01".parse::<Mac>().unwrap().is_group());
    }
}
