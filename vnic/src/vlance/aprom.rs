//! The address PROM: 16 bytes at the start of the I/O space that hold the station address.
//!
//! Layout as the Am79C970A data sheet gives it ("Address PROM Space"): bytes 0..=5 the address, 9 the hardware
//! identifier 0x11, 12 and 13 the sum of bytes 0..=11, 14 and 15 (little endian), 14 and 15 the letters `WW`
//! by which AMD's drivers recognise the card.

use wire::Mac;

/// Size in bytes.
pub(super) const APROM_LEN: usize = 16;

const HARDWARE_ID: u8 = 0x11;
const SIGNATURE: u8 = b'W';

/// The PROM as the guest sees it. A driver may overwrite it when BCR2's APROMWE allows that; a
/// hardware reset restores it.
#[derive(Clone, Debug)]
pub(super) struct Aprom {
    bytes: [u8; APROM_LEN],
    burned_in: [u8; APROM_LEN],
}

impl Aprom {
    pub(super) fn new(mac: Mac) -> Aprom {
        let mut bytes = [0; APROM_LEN];
        bytes[..6].copy_from_slice(&mac.0);
        bytes[9] = HARDWARE_ID;
        bytes[14] = SIGNATURE;
        bytes[15] = SIGNATURE;
        let sum: u16 = bytes.iter().map(|b| u16::from(*b)).sum();
        bytes[12..14].copy_from_slice(&sum.to_le_bytes());
        Aprom { bytes, burned_in: bytes }
    }

    /// Reads `data.len()` bytes at `offset`; the caller has checked that they lie in the PROM.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        if let Some(from) = self.bytes.get(offset..offset + data.len()) {
            data.copy_from_slice(from);
        }
    }

    /// Writes likewise.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        if let Some(to) = self.bytes.get_mut(offset..offset + data.len()) {
            to.copy_from_slice(data);
        }
    }

    /// The words a reset loads into CSR12..=14.
    pub(super) fn padr(&self) -> [u16; 3] {
        [0, 2, 4].map(|at| u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// As after power-on.
    pub(super) fn restore(&mut self) {
        self.bytes = self.burned_in;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_and_signature() {
        let prom = Aprom::new(Mac([0x00, 0x50, 0x56, 0x01, 0x02, 0x03]));
        let mut all = [0; 16];
        prom.read(0, &mut all);
        let sum = 0x50 + 0x56 + 1 + 2 + 3 + 0x11 + 2 * 0x57;
        assert_eq!(u16::from_le_bytes([all[12], all[13]]), sum);
        assert_eq!(&all[14..], b"WW");
        assert_eq!(prom.padr(), [0x5000, 0x0156, 0x0302]);
    }
}
