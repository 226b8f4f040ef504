//! The registers of BAR0, BAR1 and BAR2 and what an access to one does.
//!
//! BAR0 is a page of memory: interrupt masks and doorbells, stores to which arrive with no message; an access that
//! does come as one (QEMU turns the mapping off while an INTx interrupt is pending) is served from the same page.
//! BAR1 holds the control registers, 32 bits wide and 8 bytes apart. BAR2 is for the MSI-X table, which the VMM
//! keeps. Facts: `VMXNET3_BAR0_*` and `VMXNET3_BAR1_*` in FreeBSD's `if_vmxreg.h`.

use wire::Mac;

use super::Vmxnet3;
use super::shared_area::MAX_VECTORS;
use crate::device::{BadAccess, Bar, PciProfile};

/// Size of each BAR in bytes.
pub const BAR_LEN: u32 = 4096;
/// BAR0: distance of two interrupt masks in bytes; the first is at 0.
pub const IMR_STRIDE: usize = 8;
/// BAR0: producer index of transmit queue 0; further queues 8 bytes apart. A hint the workers do not need.
pub const TXPROD: u32 = 0x600;
/// BAR0: producer index of ring 1 of receive queue 0, likewise.
pub const RXPROD: u32 = 0x800;
/// BAR0: producer index of ring 2 of receive queue 0, likewise.
pub const RXPROD2: u32 = 0xa00;

/// BAR1: revisions offered, a bit each; the driver writes the one it takes.
pub const VRRS: u32 = 0x00;
/// BAR1: UPT versions, likewise.
pub const UVRS: u32 = 0x08;
/// BAR1: address of the driver-shared area, low half.
pub const DSAL: u32 = 0x10;
/// BAR1: high half.
pub const DSAH: u32 = 0x18;
/// BAR1: command when written, result of the last one when read.
pub const CMD: u32 = 0x20;
/// BAR1: first four bytes of the card's address.
pub const MACL: u32 = 0x28;
/// BAR1: last two bytes.
pub const MACH: u32 = 0x30;
/// BAR1: cause of an INTx interrupt; reading it clears it.
pub const ICR: u32 = 0x38;
/// BAR1: events; writing ones acknowledges them.
pub const ECR: u32 = 0x40;
/// BAR1, revision 7: what the device can do, a bit each; the driver writes what it wants of it.
pub const DCR: u32 = 0x48;
/// BAR1, revision 7: what of that it can do while it is passed through.
pub const PTCR: u32 = 0x88;

/// Events (`VMXNET3_EVENT_*`).
pub mod event {
    /// A receive queue stopped.
    pub const RX_ERROR: u32 = 1;
    /// A transmit queue stopped.
    pub const TX_ERROR: u32 = 2;
    /// The link went up or down.
    pub const LINK: u32 = 4;
}

/// Revisions of the device, bit n for n + 1: 1, 2 (large segments told in completions), 3 (data rings, moderation) and 7
/// (all queues, fields to hash by). Not 4 to 6: their drivers take it for granted that the device cuts and sums
/// what is in tunnels; in revision 7 that is asked for, in [`CAPABILITIES`].
const REVISIONS: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 6;
/// Revision 7's capabilities (`VMXNET3_CAP_*`): hashing by the fields of UDP, and of ESP over IPv4 and IPv6.
pub const CAPABILITIES: u32 = 1 << 0 | 1 << 1 | 1 << 9;
const UPT_VERSIONS: u32 = 1;
/// The mask word of an MSI-X table entry.
const MSIX_CONTROL: usize = 12;
const MSIX_ENTRY: usize = 16;

/// Identity and shape of the card.
pub fn profile() -> PciProfile {
    let memory = Bar { size: BAR_LEN, io: false };
    let none = Bar { size: 0, io: false };
    PciProfile {
        vendor: 0x15ad,
        device: 0x07b0,
        subsystem_vendor: 0x15ad,
        subsystem: 0x07b0,
        revision: 1,
        bars: [memory, memory, memory, none, none, none],
        msi_vectors: 1,
        msix_vectors: MAX_VECTORS as u16,
        msix_bar: 2,
        grant_latency: (0, 0),
    }
}

/// The bytes of BAR2 after a reset: every vector masked.
pub fn msix_table() -> Vec<u8> {
    let mut table = vec![0; BAR_LEN as usize];
    for entry in table.chunks_mut(MSIX_ENTRY).take(MAX_VECTORS) {
        if let Some(control) = entry.get_mut(MSIX_CONTROL) {
            *control = 1;
        }
    }
    table
}

/// The registers that are only values.
#[derive(Clone, Debug)]
pub struct Registers {
    /// Address of the driver-shared area as last written.
    pub area: u64,
    /// Result of the last command.
    pub result: u32,
    /// Low half of an address being written.
    mac_low: u32,
    /// The card's address as the driver sees it.
    pub mac: Mac,
    /// The revision the driver chose; 1 until it does.
    pub revision: u8,
    /// Those of [`CAPABILITIES`] that the driver wants.
    pub capabilities: u32,
}

impl Registers {
    /// As after power-on: the card has its burned-in address.
    pub fn new(mac: Mac) -> Registers {
        Registers { area: 0, result: 0, mac_low: mac_low(mac), mac, revision: 1, capabilities: 0 }
    }
}

/// First four bytes of an address, as MACL and GET_PERM_MAC_LO give them.
pub fn mac_low(mac: Mac) -> u32 {
    let [a, b, c, d, _, _] = mac.0;
    u32::from_le_bytes([a, b, c, d])
}

/// Last two bytes, as MACH and GET_PERM_MAC_HI give them.
pub fn mac_high(mac: Mac) -> u32 {
    let [_, _, _, _, e, f] = mac.0;
    u32::from_le_bytes([e, f, 0, 0])
}

impl Vmxnet3 {
    /// Reads of any BAR.
    pub(super) fn read_bar(&mut self, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
        match bar {
            0 => self.read_page(offset, data),
            1 => {
                let words = words_of(offset, data.len())?;
                for (i, out) in (0..words).zip(data.chunks_exact_mut(4)) {
                    out.copy_from_slice(&self.read_register(offset + i * 4).to_le_bytes());
                }
                Ok(())
            }
            2 => {
                let from = self.msix.get(offset as usize..).and_then(|t| t.get(..data.len())).ok_or(BadAccess)?;
                data.copy_from_slice(from);
                Ok(())
            }
            _ => Err(BadAccess),
        }
    }

    /// Writes to any BAR.
    pub(super) fn write_bar(&mut self, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
        match bar {
            0 => self.write_page(offset, data),
            1 => {
                let words = words_of(offset, data.len())?;
                for (i, word) in (0..words).zip(data.chunks_exact(4)) {
                    self.write_register(offset + i * 4, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
                }
                Ok(())
            }
            2 => {
                let to = self.msix.get_mut(offset as usize..).and_then(|t| t.get_mut(..data.len())).ok_or(BadAccess)?;
                to.copy_from_slice(data);
                Ok(())
            }
            _ => Err(BadAccess),
        }
    }

    fn read_page(&self, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
        let page = self.card.page.slice();
        match (data.len(), page.load_u32(offset as usize)) {
            (4, Some(word)) => data.copy_from_slice(&word.to_le_bytes()),
            _ if page.read_at(offset as usize, data) => {}
            _ => return Err(BadAccess),
        }
        Ok(())
    }

    fn write_page(&mut self, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
        let page = self.card.page.slice();
        let stored = match <[u8; 4]>::try_from(data) {
            Ok(word) if offset.is_multiple_of(4) => page.store_u32(offset as usize, u32::from_le_bytes(word)),
            _ => page.write_at(offset as usize, data),
        };
        if !stored {
            return Err(BadAccess);
        }
        // It may have been a mask that was lifted.
        if offset < TXPROD
            && let Some(active) = self.card.active.load().as_ref().filter(|a| !a.run.failed())
        {
            self.card.raise_pending(active);
        }
        Ok(())
    }

    fn read_register(&mut self, offset: u32) -> u32 {
        match offset {
            VRRS => REVISIONS,
            UVRS => UPT_VERSIONS,
            DSAL => self.registers.area as u32,
            DSAH => (self.registers.area >> 32) as u32,
            CMD => self.registers.result,
            MACL => mac_low(self.registers.mac),
            MACH => mac_high(self.registers.mac),
            ICR => self.card.take_cause(),
            ECR => self.card.pending_events(),
            DCR | PTCR => CAPABILITIES,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            VRRS => self.choose_revision(value),
            DCR => self.registers.capabilities = value & CAPABILITIES,
            DSAL => {
                self.registers.area = u64::from(value);
                // A driver takes its memory away with 0.
                if value == 0 {
                    self.stop();
                }
            }
            DSAH => self.registers.area = self.registers.area & 0xffff_ffff | u64::from(value) << 32,
            CMD => self.registers.result = self.command(value),
            MACL => self.registers.mac_low = value,
            MACH => {
                let ([a, b, c, d], [e, f, _, _]) = (self.registers.mac_low.to_le_bytes(), value.to_le_bytes());
                self.registers.mac = Mac([a, b, c, d, e, f]);
                self.publish_filter();
            }
            ECR => self.card.acknowledge(value),
            _ => {}
        }
    }

    /// The driver says which of the revisions offered it knows best.
    fn choose_revision(&mut self, value: u32) {
        if let Some(highest) = (value & REVISIONS).checked_ilog2() {
            self.registers.revision = highest as u8 + 1;
        }
    }
}

/// Number of words an access to BAR1 touches: it is of whole, aligned words within the BAR.
fn words_of(offset: u32, len: usize) -> Result<u32, BadAccess> {
    let fits = offset.checked_add(len as u32).is_some_and(|end| end <= BAR_LEN);
    if offset.is_multiple_of(4) && matches!(len, 4 | 8) && fits { Ok(len as u32 / 4) } else { Err(BadAccess) }
}
