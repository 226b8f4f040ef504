//! Register access by word or by double word (data sheet, "I/O Resources").

use anyhow::Result;

use crate::soft::Card;

/// Control and status registers.
pub mod csr {
    /// Status and commands.
    pub const STATUS: u16 = 0;
    /// Initialization block address, bits 0..=15.
    pub const INIT_LOW: u16 = 1;
    /// Bits 16..=31.
    pub const INIT_HIGH: u16 = 2;
    /// Interrupt masks and deferral control.
    pub const MASKS: u16 = 3;
    /// Test and features control.
    pub const FEATURES: u16 = 4;
    /// First of three words of the address.
    pub const PHYSICAL_ADDRESS: u16 = 12;
    /// Chip identity, low half.
    pub const CHIP_LOW: u16 = 88;
    /// High half.
    pub const CHIP_HIGH: u16 = 89;
}

/// Bits of CSR0.
pub mod csr0 {
    /// Initialize.
    pub const INIT: u16 = 0x0001;
    /// Start.
    pub const START: u16 = 0x0002;
    /// Stop.
    pub const STOP: u16 = 0x0004;
    /// Transmit demand.
    pub const DEMAND: u16 = 0x0008;
    /// Transmitter is on.
    pub const TX_ON: u16 = 0x0010;
    /// Receiver is on.
    pub const RX_ON: u16 = 0x0020;
    /// Interrupts enabled.
    pub const ENABLE: u16 = 0x0040;
    /// Initialization done.
    pub const INIT_DONE: u16 = 0x0100;
    /// A frame was missed for want of a buffer.
    pub const MISSED: u16 = 0x1000;
    /// Causes of an interrupt as Linux tests them.
    pub const CAUSES: u16 = 0x8f00;
}

/// Bus configuration registers.
pub mod bcr {
    /// Miscellaneous: media selection.
    pub const MISC: u16 = 2;
    /// Link LED.
    pub const LINK_STATUS: u16 = 4;
    /// Full duplex.
    pub const FULL_DUPLEX: u16 = 9;
    /// Layout of structures.
    pub const SOFTWARE_STYLE: u16 = 20;
}

/// How registers are accessed.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// By double words.
    pub dword: bool,
}

impl Registers {
    fn ports(self) -> (u64, u64, u64, u64) {
        // data, address, reset, bus data
        if self.dword { (0x10, 0x14, 0x18, 0x1c) } else { (0x10, 0x12, 0x14, 0x16) }
    }

    fn read(self, card: &mut Card, at: u64) -> Result<u16> {
        if self.dword {
            return Ok(card.read32(0, at)? as u16);
        }
        let mut bytes = [0; 2];
        card.client().region_read(0, at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write(self, card: &mut Card, at: u64, value: u16) -> Result<()> {
        if self.dword {
            return card.write32(0, at, value.into());
        }
        Ok(card.client().region_write(0, at, &value.to_le_bytes())?)
    }

    /// Resets the chip, by reading.
    pub fn reset(self, card: &mut Card) -> Result<()> {
        self.read(card, self.ports().2).map(drop)
    }

    /// Switches the chip to double words, by writing one to the data port.
    pub fn enter_dword(self, card: &mut Card) -> Result<()> {
        card.write32(0, 0x10, 0)
    }

    /// Writes `value` to the address port and looks whether it stays.
    pub fn address_port_holds(self, card: &mut Card, value: u16) -> Result<bool> {
        self.write(card, self.ports().1, value)?;
        Ok(self.read(card, self.ports().1)? == value)
    }

    /// Reads a CSR.
    pub fn read_csr(self, card: &mut Card, index: u16) -> Result<u16> {
        self.write(card, self.ports().1, index)?;
        self.read(card, self.ports().0)
    }

    /// Writes a CSR.
    pub fn write_csr(self, card: &mut Card, index: u16, value: u16) -> Result<()> {
        self.write(card, self.ports().1, index)?;
        self.write(card, self.ports().0, value)
    }

    /// Reads a BCR.
    pub fn read_bcr(self, card: &mut Card, index: u16) -> Result<u16> {
        self.write(card, self.ports().1, index)?;
        self.read(card, self.ports().3)
    }

    /// Writes a BCR.
    pub fn write_bcr(self, card: &mut Card, index: u16, value: u16) -> Result<()> {
        self.write(card, self.ports().1, index)?;
        self.write(card, self.ports().3, value)
    }
}
