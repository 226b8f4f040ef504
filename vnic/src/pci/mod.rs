//! The configuration space of a conventional PCI function, built from a card's [`PciProfile`].
//!
//! Facts: PCI Local Bus Specification 3.0, chapter 6 (header, BARs, capabilities; MSI in 6.8.1, MSI-X in
//! 6.8.2) and the register names of Linux's `pci_regs.h`. A VMM emulates much of this on top (command
//! bits, message addresses); what it reads here decides what the guest sees.
//!
//! There is no PCI Express capability, so the space is 256 bytes, and no power management capability, so
//! no guest puts the card to sleep. The MSI-X table itself lives in a BAR: [`MsixTable`].

mod msix;

pub use msix::MsixTable;

use crate::device::{Bar, PciProfile};

/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 256;
/// Where the MSI capability stands when the card has one (the place VMware's vmxnet3 has it).
pub const MSI_CAP: usize = 0x84;
/// Where the MSI-X capability stands when the card has one (likewise).
pub const MSIX_CAP: usize = 0x9c;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAP_POINTER: usize = 0x34;
/// I/O, memory, bus master, parity response, SERR#, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;
const STATUS_INTERRUPT: u8 = 0x08;
const STATUS_CAP_LIST: u16 = 0x0010;
const STATUS_DEVSEL_MEDIUM: u16 = 0x0200;

/// An access that does not lie in the configuration space, or has no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("outside the configuration space")]
pub struct OutOfSpace;

/// Configuration space: values, and which bits a write changes.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    value: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    power_on: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    /// The space of a card as after power-on.
    pub fn new(profile: &PciProfile) -> ConfigSpace {
        let mut space = ConfigSpace { value: [0; CONFIG_SIZE], writable: [0; CONFIG_SIZE], power_on: [0; CONFIG_SIZE] };
        space.header(profile);
        for (index, bar) in profile.bars.iter().enumerate() {
            space.bar(BAR0 + index * 4, bar);
        }
        space.capabilities(profile);
        space.power_on = space.value;
        space
    }

    /// Everything as after power-on.
    pub fn reset(&mut self) {
        self.value = self.power_on;
    }

    /// Reads `out.len()` bytes at `offset`. `intx_level` is what the interrupt status bit shows.
    ///
    /// # Errors
    /// [`OutOfSpace`].
    pub fn read(&self, offset: u64, out: &mut [u8], intx_level: bool) -> Result<(), OutOfSpace> {
        let at = place(offset, out.len())?;
        out.copy_from_slice(&self.value[at..at + out.len()]);
        if intx_level && let Some(status) = STATUS.checked_sub(at).and_then(|i| out.get_mut(i)) {
            *status |= STATUS_INTERRUPT;
        }
        Ok(())
    }

    /// Writes `data` at `offset`; bits that are not writable keep their value.
    ///
    /// # Errors
    /// [`OutOfSpace`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), OutOfSpace> {
        let at = place(offset, data.len())?;
        for (i, &byte) in data.iter().enumerate() {
            let mask = self.writable[at + i];
            self.value[at + i] = (self.value[at + i] & !mask) | (byte & mask);
        }
        Ok(())
    }

    fn header(&mut self, profile: &PciProfile) {
        self.put16(0x00, profile.vendor);
        self.put16(0x02, profile.device);
        self.allow16(COMMAND, COMMAND_WRITABLE);
        self.put16(STATUS, STATUS_DEVSEL_MEDIUM);
        self.value[0x08] = profile.revision;
        self.put16(0x0a, 0x0200); // network controller, Ethernet
        self.writable[0x0c] = 0xff; // cache line size
        self.writable[0x0d] = 0xff; // latency timer
        self.put16(0x2c, profile.subsystem_vendor);
        self.put16(0x2e, profile.subsystem);
        self.writable[0x3c] = 0xff; // interrupt line
        self.value[0x3d] = 1; // pin INTA#
        (self.value[0x3e], self.value[0x3f]) = profile.grant_latency;
    }

    fn bar(&mut self, at: usize, bar: &Bar) {
        if bar.size == 0 {
            return;
        }
        let (flag, least) = if bar.io { (1, 4) } else { (0, 16) };
        let size = bar.size.max(least).checked_next_power_of_two().unwrap_or(1 << 31);
        self.put32(at, flag);
        self.allow32(at, !(size - 1));
    }

    fn capabilities(&mut self, profile: &PciProfile) {
        let mut pointer = CAP_POINTER;
        if profile.msi_vectors > 0 {
            let log2 = profile.msi_vectors.min(32).ilog2() as u16;
            self.link(&mut pointer, MSI_CAP, 0x05);
            self.put16(MSI_CAP + 2, 0x0080 | log2 << 1); // 64-bit address
            self.allow16(MSI_CAP + 2, 0x0071); // enable, vectors in use
            self.allow32(MSI_CAP + 4, 0xffff_fffc);
            self.allow32(MSI_CAP + 8, 0xffff_ffff);
            self.allow16(MSI_CAP + 12, 0xffff);
        }
        if let Some(table) = MsixTable::new(profile) {
            self.link(&mut pointer, MSIX_CAP, 0x11);
            self.put16(MSIX_CAP + 2, table.vectors() - 1);
            self.allow16(MSIX_CAP + 2, 0xc000); // enable, mask all
            self.put32(MSIX_CAP + 4, u32::from(table.bar()));
            self.put32(MSIX_CAP + 8, table.pending_offset() | u32::from(table.bar()));
        }
    }

    fn link(&mut self, pointer: &mut usize, cap: usize, id: u8) {
        self.put16(STATUS, STATUS_DEVSEL_MEDIUM | STATUS_CAP_LIST);
        self.value[*pointer] = cap as u8; // both places are below 256
        self.value[cap] = id;
        *pointer = cap + 1;
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.value[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.value[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn allow32(&mut self, at: usize, mask: u32) {
        self.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    }
}

fn place(offset: u64, len: usize) -> Result<usize, OutOfSpace> {
    let at = usize::try_from(offset).map_err(|_| OutOfSpace)?;
    let end = at.checked_add(len).ok_or(OutOfSpace)?;
    if len == 0 || end > CONFIG_SIZE { Err(OutOfSpace) } else { Ok(at) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile() -> PciProfile {
        let none = Bar { size: 0, io: false };
        PciProfile {
            vendor: 0x15ad,
            device: 0x07b0,
            subsystem_vendor: 0x15ad,
            subsystem: 0x07b0,
            revision: 1,
            bars: [
                Bar { size: 4096, io: false },
                Bar { size: 4096, io: false },
                Bar { size: 8192, io: false },
                Bar { size: 32, io: true },
                none,
                none,
            ],
            msi_vectors: 1,
            msix_vectors: 25,
            msix_bar: 2,
            grant_latency: (6, 255),
        }
    }

    fn word(space: &ConfigSpace, at: u64) -> u32 {
        let mut out = [0; 4];
        space.read(at, &mut out, false).unwrap();
        u32::from_le_bytes(out)
    }

    #[test]
    fn identity_and_class() {
        let space = ConfigSpace::new(&profile());
        assert_eq!(word(&space, 0), 0x07b0_15ad);
        assert_eq!(word(&space, 8), 0x0200_0001);
        assert_eq!(word(&space, 0x2c), 0x07b0_15ad);
        assert_eq!(word(&space, 0x30), 0, "no ROM");
        assert_eq!(word(&space, 0x3c), 0xff06_0100);
        assert_eq!(word(&space, 4) >> 16, 0x0210);
    }

    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut space = ConfigSpace::new(&profile());
        for (at, size, after) in [
            (0x10, 0xffff_f000, 0xfebf_1000),
            (0x18, 0xffff_e000, 0xfebf_0000),
            (0x1c, 0xffff_ffe1, 0xfebf_1221),
            (0x20, 0, 0),
        ] {
            space.write(at, &[0xff; 4]).unwrap();
            assert_eq!(word(&space, at), size, "BAR at {at:#x}");
            space.write(at, &0xfebf_1230u32.to_le_bytes()).unwrap();
            assert_eq!(word(&space, at), after);
        }
        space.reset();
        assert_eq!(word(&space, 0x1c), 1);
    }

    #[test]
    fn capability_list() {
        let mut space = ConfigSpace::new(&profile());
        assert_eq!(word(&space, 0x34), 0x84);
        assert_eq!(word(&space, 0x84), 0x0080_9c05);
        assert_eq!(word(&space, 0x9c), 0x0018_0011);
        assert_eq!(word(&space, 0xa0), 2);
        assert_eq!(word(&space, 0xa4), 4096 | 2);
        space.write(0x9c, &[0xff; 4]).unwrap();
        assert_eq!(word(&space, 0x9c), 0xc018_0011, "only enable and mask");
        space.write(0x84, &[0xff; 14]).unwrap();
        assert_eq!(word(&space, 0x84), 0x00f1_9c05);
        assert_eq!(word(&space, 0x88), 0xffff_fffc);

        let plain = PciProfile { msi_vectors: 0, msix_vectors: 0, ..profile() };
        let space = ConfigSpace::new(&plain);
        assert_eq!((word(&space, 0x34), word(&space, 4) >> 16), (0, 0x0200));
        let only_msix = PciProfile { msi_vectors: 0, ..profile() };
        assert_eq!(word(&ConfigSpace::new(&only_msix), 0x34), 0x9c);
    }

    #[test]
    fn interrupt_status_follows_the_line() {
        let space = ConfigSpace::new(&profile());
        let (mut word, mut byte, mut all) = ([0; 4], [0; 1], [0; 256]);
        space.read(4, &mut word, true).unwrap();
        space.read(6, &mut byte, true).unwrap();
        space.read(0, &mut all, true).unwrap();
        assert_eq!((word[2] & 8, byte[0] & 8, all[6] & 8), (8, 8, 8));
        space.read(7, &mut byte, true).unwrap();
        assert_eq!(byte[0], 2, "the byte after is left alone");
    }

    proptest! {
        /// Any access is served or refused, and identity never changes.
        #[test]
        fn writes_never_touch_what_is_fixed(writes in proptest::collection::vec((0u64..300, proptest::collection::vec(any::<u8>(), 0..64)), 0..40)) {
            let fresh = ConfigSpace::new(&profile());
            let mut space = fresh.clone();
            for (offset, data) in writes {
                let fits = !data.is_empty() && offset as usize + data.len() <= CONFIG_SIZE;
                prop_assert_eq!(space.write(offset, &data).is_ok(), fits);
            }
            for at in [0u64, 8, 0x2c, 0x30, 0x34, 0xa0, 0xa4] {
                prop_assert_eq!(word(&space, at), word(&fresh, at));
            }
            prop_assert!(space.write(u64::MAX, &[0]).is_err());
        }
    }
}
