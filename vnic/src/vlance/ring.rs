//! Descriptor rings in the three layouts a driver may choose, behind one shape.
//!
//! ```text
//!  style 0 (8 bytes)          style 2 (16 bytes)            style 3 (16 bytes)
//!  0  status 31:24 | addr 23:0   0  address                    0  transmit status 2 | MCNT
//!  1  misc 31:16 | BCNT 15:0     1  status 31:16 | BCNT 15:0    1  status 31:16 | BCNT 15:0
//!                                2  transmit status 2 | MCNT    2  address
//!                                3  the driver's own            3  the driver's own
//! ```
//! (Am79C970A data sheet, "Receive Descriptors" and "Transmit Descriptors".) BCNT is the two's complement
//! of the buffer's length in 12 bits: 0 stands for 4096. The four bits above it are to be ones; they are
//! not looked at.

use sharedmem::{DmaError, DmaMap, Ring};

use super::bcr::Style;

/// Descriptor status, by its place in the upper half of word 1 of the 32-bit layouts. In style 0 only the upper byte exists.
pub(super) mod flag {
    /// The chip owns the descriptor.
    pub const OWN: u16 = 0x8000;
    /// An error is told below.
    pub const ERR: u16 = 0x4000;
    /// Transmit, written by the driver: interrupt when this frame is sent (CSR5 LTINTEN).
    pub const LTINT: u16 = 0x1000;
    /// Receive: the frame is damaged.
    pub const CRC: u16 = 0x0800;
    /// First descriptor of a frame.
    pub const STP: u16 = 0x0200;
    /// Last descriptor of a frame.
    pub const ENP: u16 = 0x0100;
    /// Receive: matched the station address.
    pub const PAM: u16 = 0x0040;
    /// Receive: matched the logical address filter.
    pub const LAFM: u16 = 0x0020;
    /// Receive: a broadcast.
    pub const BAM: u16 = 0x0010;
    /// What a finished transmit descriptor keeps: ADD_FCS, STP, ENP and the byte below. MORE, ONE and DEF
    /// (there is no cable to collide on) come out clear.
    pub const TX_KEPT: u16 = 0x23ff;
}

/// A descriptor read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    /// Bus address of the buffer.
    pub addr: u32,
    /// Status, see [`flag`].
    pub flags: u16,
    bcnt: u16,
}

impl Desc {
    /// Length of the buffer in bytes, 1..=4096.
    #[inline]
    pub(super) fn len(&self) -> usize {
        4096 - usize::from(self.bcnt & 0x0fff)
    }
}

/// One ring.
#[derive(Clone, Debug)]
pub(super) enum DescRing {
    /// Style 0, with the upper address byte from CSR2.
    Lance(Ring<2>, u32),
    /// Styles 1 and 2.
    Pcnet(Ring<4>),
    /// Style 3.
    Burst(Ring<4>),
}

impl DescRing {
    /// The ring of `count` descriptors at bus address `base`; `upper` are bits 31:24 of all
    /// addresses in style 0.
    pub(super) fn map(map: &DmaMap, style: Style, base: u32, upper: u32, count: u32) -> Result<DescRing, DmaError> {
        match style {
            Style::Lance => Ok(DescRing::Lance(map.ring(u64::from(base), count)?, upper)),
            Style::Pcnet => Ok(DescRing::Pcnet(map.ring(u64::from(base), count)?)),
            Style::Burst => Ok(DescRing::Burst(map.ring(u64::from(base), count)?)),
        }
    }

    /// Number of descriptors, at least 1.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        match self {
            DescRing::Lance(ring, _) => ring.count(),
            DescRing::Pcnet(ring) | DescRing::Burst(ring) => ring.count(),
        }
    }

    /// The index after `index`.
    #[inline]
    pub(super) fn after(&self, index: u32) -> u32 {
        if index + 1 >= self.count() { 0 } else { index + 1 }
    }

    /// Descriptor `index` (below the count) if the chip owns it: ownership is read first, the rest after it.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<Desc> {
        let desc = match self {
            DescRing::Lance(ring, upper) => {
                let [w0, w1] = ring.read(index, 0);
                Desc { addr: w0 & 0x00ff_ffff | upper, flags: (w0 >> 16) as u16 & 0xff00, bcnt: w1 as u16 }
            }
            DescRing::Pcnet(ring) => {
                let [w0, w1, ..] = ring.read(index, 1);
                Desc { addr: w0, flags: (w1 >> 16) as u16, bcnt: w1 as u16 }
            }
            DescRing::Burst(ring) => {
                let [_, w1, w2, _] = ring.read(index, 1);
                Desc { addr: w2, flags: (w1 >> 16) as u16, bcnt: w1 as u16 }
            }
        };
        (desc.flags & flag::OWN != 0).then_some(desc)
    }

    /// Gives transmit descriptor `index` back with `flags` and the 32-bit layout's second status word.
    pub(super) fn put_tx(&self, index: u32, desc: &Desc, flags: u16, misc: u32) {
        self.put(index, desc, flags, misc, (misc >> 16) as u16);
    }

    /// Gives receive descriptor `index` back with `flags` and the message's length in bytes.
    pub(super) fn put_rx(&self, index: u32, desc: &Desc, flags: u16, mcnt: u16) {
        self.put(index, desc, flags, u32::from(mcnt), mcnt);
    }

    /// The word with the ownership bit is stored last, with release ordering.
    fn put(&self, index: u32, desc: &Desc, flags: u16, wide: u32, narrow: u16) {
        let status = u32::from(flags) << 16 | u32::from(desc.bcnt);
        match self {
            DescRing::Lance(ring, _) => {
                ring.store(index, 1, u32::from(narrow) << 16 | u32::from(desc.bcnt));
                ring.store(index, 0, u32::from(flags & 0xff00) << 16 | desc.addr & 0x00ff_ffff);
            }
            DescRing::Pcnet(ring) => {
                ring.store(index, 2, wide);
                ring.store(index, 1, status);
            }
            DescRing::Burst(ring) => {
                ring.store(index, 0, wide);
                ring.store(index, 1, status);
            }
        }
    }
}
