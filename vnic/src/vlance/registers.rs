//! Control and status registers, behind the register data port.
//!
//! CSR0, 3, 4 and 5 live in [`Cause`](super::cause::Cause), which workers share; the rest are words of
//! the control thread. Registers that describe the rings may be written only while STOP or SPND is set, as on the
//! chip, and take effect when it goes on.

use std::sync::atomic::Ordering;

use super::Vlance;
use super::bcr::BCR_SWS;
use super::cause::{Status, csr0, csr4, csr5};

/// Number of control and status registers.
const COUNT: usize = 128;
/// CSR1 and CSR2: address of the initialisation block.
pub(super) const IADR: usize = 1;
/// CSR6: codes of the ring lengths.
const LENS: usize = 6;
/// CSR8..=11: logical address filter.
pub(super) const LADRF: usize = 8;
/// CSR12..=14: station address.
pub(super) const PADR: usize = 12;
/// CSR15: mode.
pub(super) const MODE: usize = 15;
/// CSR24 and CSR25: base of the receive ring.
pub(super) const BADR: usize = 24;
/// CSR30 and CSR31: base of the transmit ring.
pub(super) const BADX: usize = 30;
/// CSR76: two's complement of the receive ring's length.
pub(super) const RCVRL: usize = 76;
/// CSR78: likewise, transmit.
pub(super) const XMTRL: usize = 78;

/// CSR88 and CSR89: part 0x2621 (Am79C970A), manufacturer AMD.
const CHIP_ID: [u16; 2] = [0x1003, 0x0262];

/// The plain registers.
#[derive(Clone, Debug)]
pub(super) struct Csr(pub [u16; COUNT]);

impl Csr {
    /// As after a reset, with `padr` out of the address PROM.
    pub(super) fn new(padr: [u16; 3]) -> Csr {
        let mut csr = [0; COUNT];
        csr[PADR..PADR + 3].copy_from_slice(&padr);
        csr[80] = 0x1410; // FIFO watermarks
        [csr[88], csr[89]] = CHIP_ID;
        csr[100] = 0x0200; // bus timeout
        csr[103] = 0x0105;
        Csr(csr)
    }

    /// Registers `at` (low) and `at + 1` (high) as one value.
    pub(super) fn long(&self, at: usize) -> u32 {
        u32::from(self.0[at]) | u32::from(self.0[at + 1]) << 16
    }

    pub(super) fn set_long(&mut self, at: usize, value: u32) {
        self.0[at] = value as u16;
        self.0[at + 1] = (value >> 16) as u16;
    }

    /// Number of descriptors that CSR76 or CSR78 stands for; 0 for none.
    pub(super) fn ring_len(&self, at: usize) -> u32 {
        u32::from(self.0[at].wrapping_neg())
    }

    pub(super) fn padr(&self) -> [u16; 3] {
        [self.0[PADR], self.0[PADR + 1], self.0[PADR + 2]]
    }

    pub(super) fn ladrf(&self) -> [u16; 4] {
        [self.0[LADRF], self.0[LADRF + 1], self.0[LADRF + 2], self.0[LADRF + 3]]
    }

    pub(super) fn set_lens(&mut self, rlen: u16, tlen: u16) {
        self.0[LENS] = tlen << 12 | rlen << 8;
    }
}

impl Vlance {
    /// A read of CSR `index`; 32 bits wide because the chip identifier is.
    pub(super) fn csr_read(&self, index: u16) -> u32 {
        let status = self.shared.cause.status();
        let value = match usize::from(index) {
            0 => status.csr0_read(),
            3 => status.csr3,
            4 => status.csr4,
            5 => status.csr5,
            16 => self.csr.0[1],
            17 => self.csr.0[2],
            28 => self.descriptor_address(BADR, self.rx_index()) as u16,
            29 => (self.descriptor_address(BADR, self.rx_index()) >> 16) as u16,
            34 => self.descriptor_address(BADX, self.tx_index()) as u16,
            35 => (self.descriptor_address(BADX, self.tx_index()) >> 16) as u16,
            58 => self.bcr.read(BCR_SWS, true),
            72 => self.csr.0[RCVRL].wrapping_add(self.rx_index() as u16),
            74 => self.csr.0[XMTRL].wrapping_add(self.tx_index() as u16),
            88 => return self.csr.long(88),
            112 => self.shared.missed.load(Ordering::Relaxed) as u16,
            other => self.csr.0.get(other).copied().unwrap_or(0),
        };
        u32::from(value)
    }

    fn descriptor_address(&self, base: usize, index: u32) -> u32 {
        self.csr.long(base).wrapping_add(index.wrapping_mul(self.bcr.style().descriptor()))
    }

    fn tx_index(&self) -> u32 {
        self.shared.tx_next.load(Ordering::Relaxed)
    }

    fn rx_index(&self) -> u32 {
        self.rx_cursor.next()
    }

    /// A write of CSR `index`.
    pub(super) fn csr_write(&mut self, index: u16, value: u16) {
        let quiet = self.shared.cause.status().quiet();
        match usize::from(index) {
            0 => self.csr0_write(value),
            3 => self.shared.cause.update(|s| s.csr3 = value),
            4 => self.shared.cause.update(|s| csr4_write(s, value)),
            5 => self.csr5_write(value),
            16 | 17 => self.csr_write(index - 15, value),
            58 => self.bcr.write(BCR_SWS, value, quiet),
            72 if quiet => self.set_rx_index(value.wrapping_sub(self.csr.0[RCVRL])),
            74 if quiet => {
                let index = u32::from(value.wrapping_sub(self.csr.0[XMTRL]));
                self.shared.tx_next.store(index, Ordering::Relaxed);
            }
            112 if quiet => self.shared.missed.store(u32::from(value), Ordering::Relaxed),
            at @ (1 | 2 | 8..=15 | 18..=27 | 30..=33 | 36..=47 | 60..=65 | 76 | 78 | 80 | 82 | 84..=86) if quiet => {
                self.csr.0[at] = value;
            }
            at @ (100 | 114 | 124) if quiet => self.csr.0[at] = value,
            // Read only, reserved, or not now. CSR122 (receive alignment) is not offered: it reads as 0.
            _ => {}
        }
    }

    /// Events are cleared by ones, IENA is as written, INIT and STRT act when they go from 0 to 1, and
    /// STOP comes before both. TDMD needs nothing: the workers look at the ring anyway.
    fn csr0_write(&mut self, value: u16) {
        self.shared.cause.update(|s| {
            s.csr0 &= !(value & csr0::EVENTS);
            s.csr0 = s.csr0 & !csr0::IENA | value & csr0::IENA;
        });
        if value & csr0::STOP != 0 {
            self.stop();
            return;
        }
        if value & csr0::INIT != 0 && self.shared.cause.status().csr0 & csr0::INIT == 0 {
            self.init();
        }
        if value & csr0::STRT != 0 && self.shared.cause.status().csr0 & csr0::STRT == 0 {
            self.start();
        }
    }

    fn csr5_write(&mut self, value: u16) {
        let before = self.shared.cause.status().csr5 & csr5::SPND;
        self.shared.cause.update(|s| {
            let events = s.csr5 & csr5::EVENTS & !value;
            s.csr5 = value & !csr5::EVENTS | events;
        });
        match (before, value & csr5::SPND) {
            (0, csr5::SPND) => self.suspend(),
            (csr5::SPND, 0) => self.resume(),
            _ => {}
        }
    }
}

/// UINTCMD makes UINT and reads as 0.
fn csr4_write(status: &mut Status, value: u16) {
    let mut events = status.csr4 & csr4::EVENTS & !value;
    if value & csr4::UINTCMD != 0 {
        events |= csr4::UINT;
    }
    status.csr4 = value & !(csr4::EVENTS | csr4::UINTCMD) | events;
}
