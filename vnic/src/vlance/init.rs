//! The initialisation block: what a driver hands over with CSR0 INIT.
//!
//! ```text
//!  16-bit (SSIZE32 = 0, 24 bytes)           32-bit (SSIZE32 = 1, 28 bytes)
//!   0 MODE                                   0 MODE, 2 RLEN << 4, 3 TLEN << 4 (bytes)
//!   2 PADR                                   4 PADR, 10 reserved
//!   8 LADRF                                  12 LADRF
//!  16 RDRA 23:0, RLEN 31:29                  20 RDRA
//!  20 TDRA 23:0, TLEN 31:29                  24 TDRA
//! ```
//! Little endian throughout (Am79C970A data sheet, "Initialization Block"). A ring holds 2^LEN descriptors: at
//! most 128 in the 16-bit form and 512 in the 32-bit form, where greater codes mean 512 too.

use sharedmem::{Access, DmaError, DmaMap, Hint};

const NARROW: usize = 24;
const WIDE: usize = 28;
/// Greatest code of a ring length.
const LEN_MAX: u16 = 9;

/// What the block says; addresses as written, without CSR2's upper byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitBlock {
    pub mode: u16,
    pub padr: [u16; 3],
    pub ladrf: [u16; 4],
    pub rdra: u32,
    pub tdra: u32,
    /// Codes of the ring lengths, as they go to CSR6.
    pub rlen: u16,
    pub tlen: u16,
}

impl InitBlock {
    /// Reads the block at bus address `addr`, once.
    ///
    /// # Errors
    /// [`DmaError`] when it does not lie in the guest's memory.
    pub(super) fn read(map: &DmaMap, addr: u32, wide: bool) -> Result<InitBlock, DmaError> {
        let mut block = [0; WIDE];
        let len = if wide { WIDE } else { NARROW };
        fetch(map, addr, &mut block[..len])?;
        let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        let (padr, ladrf, rings) = if wide { (4, 12, 20) } else { (2, 8, 16) };
        let (rdra, tdra) = (long(rings), long(rings + 4));
        let (rlen, tlen) =
            if wide { (word(2) >> 4 & 0xf, word(2) >> 12) } else { ((rdra >> 29) as u16, (tdra >> 29) as u16) };
        Ok(InitBlock {
            mode: word(0),
            padr: [0, 2, 4].map(|i| word(padr + i)),
            ladrf: [0, 2, 4, 6].map(|i| word(ladrf + i)),
            rdra: if wide { rdra } else { rdra & 0x00ff_ffff },
            tdra: if wide { tdra } else { tdra & 0x00ff_ffff },
            rlen,
            tlen,
        })
    }

    /// Descriptors in the receive ring.
    pub(super) fn rx_count(&self) -> u16 {
        1 << self.rlen.min(LEN_MAX)
    }

    /// Descriptors in the transmit ring.
    pub(super) fn tx_count(&self) -> u16 {
        1 << self.tlen.min(LEN_MAX)
    }
}

/// Copies guest memory that may span mappings.
fn fetch(map: &DmaMap, addr: u32, out: &mut [u8]) -> Result<(), DmaError> {
    let mut hint = Hint::default();
    let mut at = 0;
    while at < out.len() {
        let piece = map.prefix(&mut hint, u64::from(addr) + at as u64, out.len() - at, Access::Read)?;
        let end = at + piece.len();
        if piece.is_empty() || !piece.read_at(0, &mut out[at..end]) {
            return Err(DmaError::NotMapped);
        }
        at = end;
    }
    Ok(())
}
