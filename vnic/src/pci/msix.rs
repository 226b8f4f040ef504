//! The MSI-X table and pending bits in their BAR.
//!
//! The VMM keeps the table that counts and turns it into eventfds; this copy is there so that a VMM (or a
//! test) that writes it reads back what it wrote. No interrupt is ever held back here, so no bit is pending.

use crate::device::PciProfile;
use crate::irq::MAX_VECTORS;

const ENTRY: usize = 16;

/// Table and pending bits; both in one BAR, which holds nothing else.
#[derive(Clone, Debug)]
pub struct MsixTable {
    table: Vec<u8>,
    vectors: u16,
    bar: u8,
    bar_size: u32,
}

impl MsixTable {
    /// The table of a card, every vector masked; `None` when it has no MSI-X.
    pub fn new(profile: &PciProfile) -> Option<MsixTable> {
        let bar_size = profile.bars.get(usize::from(profile.msix_bar))?.size;
        let fits = (bar_size as usize / 2) / ENTRY;
        let vectors = usize::from(profile.msix_vectors).min(MAX_VECTORS).min(fits);
        if vectors == 0 {
            return None;
        }
        let mut table = MsixTable { table: Vec::new(), vectors: vectors as u16, bar: profile.msix_bar, bar_size };
        table.reset();
        Some(table)
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Index of the BAR.
    pub fn bar(&self) -> u8 {
        self.bar
    }

    /// Where the pending bits begin in the BAR.
    pub fn pending_offset(&self) -> u32 {
        self.bar_size / 2
    }

    /// As after power-on: every vector masked.
    pub fn reset(&mut self) {
        self.table = vec![0; usize::from(self.vectors) * ENTRY];
        self.table.chunks_exact_mut(ENTRY).for_each(|entry| entry[12] = 1);
    }

    /// Reads from the BAR: the table, then zeros.
    pub fn read(&self, offset: u32, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.table.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    /// Writes into the BAR; what is not the table takes nothing.
    pub fn write(&mut self, offset: u32, data: &[u8]) {
        for (i, &byte) in data.iter().enumerate() {
            if let Some(place) = self.table.get_mut(offset as usize + i) {
                *place = byte;
            }
        }
    }
}
