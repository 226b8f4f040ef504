//! Bus configuration registers (BCR0..=31; the MII registers 32..=34 of later chips do not exist here).
//!
//! Defaults and bits: Am79C970A data sheet, "Bus Configuration Registers". Most of them steer pins a
//! virtual card has not; they are kept so that a driver reads back what it wrote.

/// BCR2, miscellaneous configuration.
pub(super) const BCR_MC: u16 = 2;
/// BCR2 APROMWE: the address PROM may be written.
const MC_APROMWE: u16 = 0x0100;
/// BCR4, link status LED; BCR5..=7 are LED 1 to 3.
pub(super) const BCR_LNKST: u16 = 4;
const BCR_LED3: u16 = 7;
/// BCR9, full duplex control.
const BCR_FDC: u16 = 9;
const BCR_IOBASEL: u16 = 16;
const BCR_IOBASEU: u16 = 17;
/// BCR18, burst and bus control.
pub(super) const BCR_BSBC: u16 = 18;
/// BCR18 DWIO: the I/O space takes 32-bit accesses; read only.
const BSBC_DWIO: u16 = 0x0080;
const BCR_EECAS: u16 = 19;
/// BCR20, software style.
pub(super) const BCR_SWS: u16 = 20;
const BCR_INTCON: u16 = 21;
const BCR_PLAT: u16 = 22;
const COUNT: usize = 32;

/// LED registers, bit 15: the LED's state.
const LED_OUT: u16 = 0x8000;
/// LED registers, bit 6: the LED shows that the link is up.
const LED_LNKSE: u16 = 0x0040;

/// BCR20 CSRPCNET and SSIZE32, which follow from SWSTYLE.
const SWS_CSRPCNET: u16 = 0x0200;
const SWS_SSIZE32: u16 = 0x0100;

/// How descriptors and the initialisation block are laid out (BCR20 SWSTYLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// 0, LANCE and PCnet-ISA: 16-bit structures, descriptors of 8 bytes, 24-bit addresses.
    Lance,
    /// 1 (ILACC) and 2 (PCnet-PCI): 32-bit structures, descriptors of 16 bytes.
    Pcnet,
    /// 3, as 2 with the words of a descriptor in another order (made for burst transfers).
    Burst,
}

impl Style {
    /// SSIZE32: structures of 32-bit words.
    pub(super) fn wide(self) -> bool {
        self != Style::Lance
    }

    /// Bytes per descriptor.
    pub(super) fn descriptor(self) -> u32 {
        if self.wide() { 16 } else { 8 }
    }
}

/// The registers.
#[derive(Clone, Debug)]
pub(super) struct Bcr([u16; COUNT]);

impl Bcr {
    /// As after a hardware reset.
    pub(super) fn new() -> Bcr {
        let mut bcr = [0; COUNT];
        bcr[0] = 0x0005; // MSRDA
        bcr[1] = 0x0005; // MSWRA
        bcr[usize::from(BCR_MC)] = 0x0002; // ASEL: the port is selected automatically
        bcr[4] = 0x00c0; // LNKSE, PSE
        bcr[5] = 0x0084;
        bcr[6] = 0x0088;
        bcr[7] = 0x0090;
        bcr[usize::from(BCR_BSBC)] = 0x9001;
        bcr[usize::from(BCR_EECAS)] = 0x0002; // no EEPROM: EEDET and PVALID clear
        bcr[usize::from(BCR_SWS)] = SWS_CSRPCNET;
        bcr[usize::from(BCR_PLAT)] = 0xff06;
        Bcr(bcr)
    }

    /// Reads register `index`; what does not exist reads as 0. A LED that shows the link is lit while
    /// `link_up`: Linux takes 0x00c0 in BCR4 for "link down".
    pub(super) fn read(&self, index: u16, link_up: bool) -> u16 {
        let value = self.0.get(usize::from(index)).copied().unwrap_or(0);
        if !(BCR_LNKST..=BCR_LED3).contains(&index) {
            return value;
        }
        let lit = link_up && value & LED_LNKSE != 0;
        value & !LED_OUT | if lit { LED_OUT } else { 0 }
    }

    /// Writes register `index`. `quiet` says that the chip is stopped or suspended: only then does
    /// BCR20 change.
    pub(super) fn write(&mut self, index: u16, value: u16, quiet: bool) {
        let kept = match index {
            BCR_BSBC => value & !BSBC_DWIO | self.0[usize::from(BCR_BSBC)] & BSBC_DWIO,
            BCR_SWS if quiet => software_style(value),
            BCR_MC | BCR_LNKST..=BCR_LED3 | BCR_FDC | BCR_IOBASEL | BCR_IOBASEU => value,
            BCR_EECAS | BCR_INTCON | BCR_PLAT => value,
            _ => return,
        };
        if let Some(register) = self.0.get_mut(usize::from(index)) {
            *register = kept;
        }
    }

    pub(super) fn style(&self) -> Style {
        match self.0[usize::from(BCR_SWS)] & 0xff {
            1 | 2 => Style::Pcnet,
            3 => Style::Burst,
            _ => Style::Lance,
        }
    }

    /// True in 32-bit I/O mode.
    pub(super) fn dwio(&self) -> bool {
        self.0[usize::from(BCR_BSBC)] & BSBC_DWIO != 0
    }

    /// Enters 32-bit I/O mode, for good until a hardware reset.
    pub(super) fn set_dwio(&mut self) {
        self.0[usize::from(BCR_BSBC)] |= BSBC_DWIO;
    }

    /// True when writes to the address PROM count.
    pub(super) fn aprom_writable(&self) -> bool {
        self.0[usize::from(BCR_MC)] & MC_APROMWE != 0
    }
}

/// BCR20 as it reads after `value` was written: the style with the bits that follow from it. An
/// undefined style is style 0 (Linux writes 4 when it closes, and means that).
fn software_style(value: u16) -> u16 {
    match value & 0xff {
        1 => SWS_SSIZE32 | 1,
        style @ (2 | 3) => SWS_CSRPCNET | SWS_SSIZE32 | style,
        _ => SWS_CSRPCNET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_is_seen_where_linux_looks() {
        let mut bcr = Bcr::new();
        assert_eq!((bcr.read(4, true), bcr.read(4, false)), (0x80c0, 0x00c0));
        bcr.write(4, 0x40c0, false);
        assert_eq!(bcr.read(4, true), 0xc0c0, "polarity bit kept, state bit computed");
        assert_eq!(bcr.read(5, true), 0x0084);
    }

    #[test]
    fn style_changes_only_when_quiet() {
        let mut bcr = Bcr::new();
        bcr.write(20, 2, false);
        assert_eq!((bcr.style(), bcr.read(20, true)), (Style::Lance, 0x0200));
        bcr.write(20, 2, true);
        assert_eq!((bcr.style(), bcr.read(20, true)), (Style::Pcnet, 0x0302));
        bcr.write(20, 3, true);
        assert_eq!((bcr.style(), bcr.read(20, true)), (Style::Burst, 0x0303));
        bcr.write(20, 1, true);
        assert_eq!((bcr.style(), bcr.read(20, true)), (Style::Pcnet, 0x0101));
        bcr.write(20, 4, true);
        assert_eq!((bcr.style(), bcr.read(20, true)), (Style::Lance, 0x0200));
    }

    #[test]
    fn no_mii_and_dwio_is_read_only() {
        let mut bcr = Bcr::new();
        for index in [32, 33, 34, 255] {
            bcr.write(index, 0xffff, true);
            assert_eq!(bcr.read(index, true), 0);
        }
        bcr.write(18, 0x9081, true);
        assert!(!bcr.dwio());
        bcr.set_dwio();
        bcr.write(18, 0, true);
        assert_eq!(bcr.read(18, true), 0x0080);
    }
}
