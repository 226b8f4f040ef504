//! The Internet checksum (RFC 1071) in pieces, so that it can be formed while bytes are copied.

/// A running ones' complement sum. Pieces may have any length; an odd piece shifts the ones after
/// it by a byte, as RFC 1071 section 2 (B) describes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

impl Sum {
    /// An empty sum.
    pub fn new() -> Sum {
        Sum::default()
    }

    /// Adds the bytes of `data`.
    #[inline]
    pub fn add(&mut self, data: &[u8]) {
        self.add_folded(sum_be(data), data.len());
    }

    /// Adds a piece whose big-endian 16-bit sum, folded to 16 bits, is `folded`, and which is
    /// `len` bytes long.
    #[inline]
    pub fn add_folded(&mut self, folded: u16, len: usize) {
        let piece = if self.odd { folded.swap_bytes() } else { folded };
        self.acc += u64::from(piece);
        self.odd ^= len & 1 == 1;
    }

    /// Adds one 16-bit word at an even place.
    #[inline]
    pub fn add_word(&mut self, word: u16) {
        self.acc += u64::from(word);
    }

    /// The checksum to store: folded and complemented.
    #[inline]
    pub fn finish(self) -> u16 {
        !fold(self.acc)
    }

    /// The folded sum, not complemented (a pseudo-header sum to store in a checksum field).
    #[inline]
    pub fn folded(self) -> u16 {
        fold(self.acc)
    }
}

/// Folds a sum of 16-bit words into 16 bits with end-around carry.
#[inline]
pub fn fold(mut acc: u64) -> u16 {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    acc as u16
}

/// The folded big-endian sum of `data`; a last odd byte counts as the high byte of a word.
#[inline]
pub fn sum_be(data: &[u8]) -> u16 {
    let mut acc = 0u64;
    let mut words = data.chunks_exact(4);
    for w in &mut words {
        acc += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    }
    let rest = words.remainder();
    let mut pairs = rest.chunks_exact(2);
    for p in &mut pairs {
        acc += u64::from(u16::from_be_bytes([p[0], p[1]]));
    }
    if let [last] = pairs.remainder() {
        acc += u64::from(*last) << 8;
    }
    fold(acc)
}

/// The sum of the TCP or UDP pseudo header (RFC 793, RFC 8200 section 8.1) over addresses as they
/// stand in the header (4 + 4 or 16 + 16 bytes), the protocol and the length of the L4 part.
pub fn pseudo_header(addresses: &[u8], protocol: u8, l4_len: u32) -> Sum {
    let mut sum = Sum::new();
    sum.add(addresses);
    sum.add_word(u16::from(protocol));
    sum.add_word((l4_len >> 16) as u16);
    sum.add_word(l4_len as u16);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_example() {
        let mut sum = Sum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn pieces_of_any_length_give_the_same_sum() {
        let data: Vec<u8> = (0..257u32).map(|i| (i * 37 + 11) as u8).collect();
        let mut whole = Sum::new();
        whole.add(&data);
        for cut in 0..data.len() {
            let mut pieces = Sum::new();
            pieces.add(&data[..cut]);
            pieces.add(&data[cut..]);
            assert_eq!(pieces.finish(), whole.finish(), "cut at {cut}");
        }
    }
}
