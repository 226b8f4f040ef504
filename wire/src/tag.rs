//! 802.1Q tags.

/// EtherType that announces an 802.1Q tag (TPID).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Greatest VLAN identifier that may name a VLAN (IEEE 802.1Q reserves 4095).
pub const VID_MAX: u16 = 4094;

/// The tag control information of an 802.1Q tag: 3 bits priority, 1 bit drop eligible, 12 bits
/// VLAN identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag(pub u16);

impl Tag {
    /// A tag of VLAN `vid` (0..=4095) and priority `pcp` (0..=7), not drop eligible.
    #[inline]
    pub fn new(vid: u16, pcp: u8) -> Tag {
        Tag((u16::from(pcp & 7) << 13) | (vid & 0xfff))
    }

    /// VLAN identifier, 0..=4095; 0 means "priority only".
    #[inline]
    pub fn vid(self) -> u16 {
        self.0 & 0xfff
    }

    /// Priority code point, 0..=7.
    #[inline]
    pub fn pcp(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// The same priority and drop eligibility with another VLAN identifier.
    #[inline]
    pub fn with_vid(self, vid: u16) -> Tag {
        Tag((self.0 & 0xf000) | (vid & 0xfff))
    }

    /// The four bytes as they stand in a frame, after the source address.
    #[inline]
    pub fn bytes(self) -> [u8; 4] {
        let [a, b] = ETHERTYPE_VLAN.to_be_bytes();
        let [c, d] = self.0.to_be_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let tag = Tag::new(100, 5);
        assert_eq!((tag.vid(), tag.pcp()), (100, 5));
        assert_eq!(tag.with_vid(7).pcp(), 5);
        assert_eq!(tag.bytes(), [0x81, 0x00, 0xa0, 100]);
    }
}
