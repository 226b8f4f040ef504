//! The driver side of the Am79C970A (PCnet-PCI II).
//!
//! Facts: AMD's Am79C970A data sheet ("Initialization Block", "Receive/Transmit Descriptors", CSR and BCR
//! chapters); the order of doing things as Linux's `pcnet32` driver is seen to do them.

mod regs;
mod rings;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wire::Mac;

use super::{Card, Drained, InterruptKind, Noise, PATIENCE, Ram, Received, See, SoftGuest};
use regs::{Registers, bcr, csr, csr0};
use rings::Rings;

/// Layout of descriptors and initialization block (BCR20, SWSTYLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Style {
    /// 0: 16-bit structures, 24-bit addresses, as the original LANCE and its drivers have them.
    Lance,
    /// 2: 32-bit structures, as Linux uses.
    #[default]
    Pcnet32,
    /// 3: 32-bit structures with the words in another order.
    Pcnet32Burst,
}

impl Style {
    fn number(self) -> u16 {
        match self {
            Style::Lance => 0,
            Style::Pcnet32 => 2,
            Style::Pcnet32Burst => 3,
        }
    }
}

/// How a soft vlance guest sets itself up.
#[derive(Clone, Debug)]
pub struct VlanceOptions {
    /// Layout of the structures.
    pub style: Style,
    /// Transmit descriptors as a power of two, 0..=9 (0..=7 for [`Style::Lance`]).
    pub log_tx: u8,
    /// Receive descriptors likewise.
    pub log_rx: u8,
    /// INTx or none.
    pub interrupts: InterruptKind,
    /// Registers by 32-bit accesses.
    pub dword_io: bool,
    /// Another address than the PROM's.
    pub mac: Option<Mac>,
    /// Receive everything.
    pub promiscuous: bool,
    /// Groups to receive.
    pub groups: Vec<Mac>,
    /// Write "transmit demand" after each frame, as Linux does; else the card finds frames by polling.
    pub demand: bool,
    /// First guest address of the guest's memory; below 16 MiB for [`Style::Lance`].
    pub ram_base: u64,
    /// False: the VMM does not share its memory.
    pub shared: bool,
}

impl Default for VlanceOptions {
    fn default() -> Self {
        VlanceOptions {
            style: Style::Pcnet32,
            log_tx: 4,
            log_rx: 5,
            interrupts: InterruptKind::Intx,
            dword_io: false,
            mac: None,
            promiscuous: false,
            groups: Vec::new(),
            demand: true,
            ram_base: 0x10_0000,
            shared: true,
        }
    }
}

/// A guest with a PCnet card.
pub struct SoftVlance {
    card: Card,
    socket: PathBuf,
    options: VlanceOptions,
    registers: Registers,
    rings: Rings,
    init_at: u64,
    mac: Mac,
    late: u64,
    missed: u64,
}

/// CSR4 as `pcnet32_open` writes it: pad short frames, ignore counter overflows and transmit starts.
const CSR4_LINUX: u16 = 0x0915;
/// Interrupt masks of CSR3 while the driver polls.
const CSR3_POLLING: u16 = 0x5f00;

impl SoftVlance {
    /// Connects to a card's socket, probes it, and starts it as Linux does when the interface comes up.
    ///
    /// # Errors
    /// What the switch refuses, and what no PCnet does.
    pub fn connect(socket: &Path, options: VlanceOptions) -> Result<SoftVlance> {
        let most = if options.style == Style::Lance { 7 } else { 9 };
        ensure!(options.log_tx <= most && options.log_rx <= most, "rings of at most 2^{most} descriptors");
        ensure!(matches!(options.interrupts, InterruptKind::Intx | InterruptKind::None), "the card has INTx only");
        let entries = (1u64 << options.log_tx) + (1 << options.log_rx);
        let mut ram = Ram::new(options.ram_base, entries * 2048 + 0x4000)?;
        let limit = if options.style == Style::Lance { 1 << 24 } else { 1 << 32 };
        ensure!(ram.base() + ram.len() <= limit, "the card cannot reach the guest's memory");
        let init_at = ram.alloc(64, 16)?;
        let rings = Rings::new(&mut ram, options.style, options.log_tx, options.log_rx)?;
        let mut card = Card::connect(socket, ram, options.shared)?;
        card.enable_pci(0x1022, 0x2000)?;
        let mut registers = Registers { dword: options.dword_io };
        let prom = probe(&mut card, &mut registers)?;
        let mac = options.mac.unwrap_or(prom);
        let (late, missed, socket) = (0, 0, socket.to_owned());
        let mut guest = SoftVlance { card, socket, options, registers, rings, init_at, mac, late, missed };
        guest.open()?;
        Ok(guest)
    }

    /// Another guest on the same socket with the same options: a VMM that was killed and started anew.
    ///
    /// # Errors
    /// As [`SoftVlance::connect`].
    pub fn reconnect(self) -> Result<SoftVlance> {
        let (socket, options) = (self.socket.clone(), self.options.clone());
        drop(self);
        SoftVlance::connect(&socket, options)
    }

    /// Resets and starts the card on empty rings.
    ///
    /// # Errors
    /// When the card does not initialize.
    pub fn open(&mut self) -> Result<()> {
        let (card, registers) = (&mut self.card, self.registers);
        registers.reset(card)?;
        registers.write_bcr(card, bcr::SOFTWARE_STYLE, self.options.style.number())?;
        let automatic = registers.read_bcr(card, bcr::MISC)? | 2;
        registers.write_bcr(card, bcr::MISC, automatic)?;
        let duplex = registers.read_bcr(card, bcr::FULL_DUPLEX)? & !3;
        registers.write_bcr(card, bcr::FULL_DUPLEX, duplex)?;
        card.set_interrupts(self.options.interrupts, 1)?;
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        self.rings.init(self.card.ram())?;
        let filter = self.options.groups.iter().fold(0u64, |bits, mac| bits | 1 << group_bit(*mac));
        let mode = if self.options.promiscuous { 0x8000 } else { 0 };
        self.rings.write_init_block(self.card.ram(), self.init_at, mode, self.mac, filter)?;
        let (card, registers) = (&mut self.card, self.registers);
        registers.write_csr(card, csr::INIT_LOW, self.init_at as u16)?;
        registers.write_csr(card, csr::INIT_HIGH, (self.init_at >> 16) as u16)?;
        registers.write_csr(card, csr::FEATURES, CSR4_LINUX)?;
        registers.write_csr(card, csr::STATUS, csr0::INIT)?;
        let deadline = Instant::now() + PATIENCE;
        while registers.read_csr(card, csr::STATUS)? & csr0::INIT_DONE == 0 {
            ensure!(Instant::now() < deadline, "the card does not finish its initialization");
        }
        registers.write_csr(card, csr::STATUS, csr0::ENABLE | csr0::START)?;
        let status = registers.read_csr(card, csr::STATUS)?;
        let running = csr0::START | csr0::RX_ON | csr0::TX_ON;
        ensure!(status & running == running, "after START the status is {status:#06x}");
        ensure!(registers.read_csr(card, csr::PHYSICAL_ADDRESS)? == u16::from_le_bytes([self.mac.0[0], self.mac.0[1]]));
        Ok(())
    }

    /// Changes what is received, by the way Linux has on this chip: stop, new initialization block, restart.
    /// Frames under way in either direction are lost, as there.
    ///
    /// # Errors
    /// When the card does not restart.
    pub fn set_filter(&mut self, promiscuous: bool, groups: &[Mac]) -> Result<()> {
        self.options.promiscuous = promiscuous;
        self.options.groups = groups.to_vec();
        self.stop()?;
        self.start()
    }

    /// Stops the card.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.registers.write_csr(&mut self.card, csr::STATUS, csr0::STOP)?;
        let status = self.registers.read_csr(&mut self.card, csr::STATUS)?;
        ensure!(status == csr0::STOP, "after STOP the status is {status:#06x}");
        Ok(())
    }

    /// True while the card says that the link is up (BCR4, LNKST).
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn link(&mut self) -> Result<bool> {
        Ok(self.registers.read_bcr(&mut self.card, bcr::LINK_STATUS)? != 0xc0)
    }

    /// Reads a control and status register.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn read_csr(&mut self, index: u16) -> Result<u16> {
        self.registers.read_csr(&mut self.card, index)
    }

    /// Writes a control and status register.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn write_csr(&mut self, index: u16, value: u16) -> Result<()> {
        self.registers.write_csr(&mut self.card, index, value)
    }

    /// Sends one frame in pieces, a descriptor each (Linux does not do that; others do).
    ///
    /// # Errors
    /// As [`SoftGuest::send`].
    pub fn send_pieces(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.rings.push(self.card.ram(), pieces)? {
            ensure!(Instant::now() < deadline, "the transmit ring stays full");
            std::thread::sleep(Duration::from_micros(20));
        }
        self.demand()
    }

    fn demand(&mut self) -> Result<()> {
        if self.options.demand {
            self.registers.write_csr(&mut self.card, csr::STATUS, csr0::ENABLE | csr0::DEMAND)?;
        }
        Ok(())
    }

    /// "Missed frame" conditions the card reported.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Fills all descriptors with noise, owned by the card or not as it falls, and asks the card to look.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn garbage_rings(&mut self, noise: &mut Noise) -> Result<()> {
        self.rings.garbage(noise);
        self.registers.write_csr(&mut self.card, csr::STATUS, csr0::ENABLE | csr0::DEMAND)
    }

    /// The interrupt handler and the end of the poll after it: acknowledge, and unmask again.
    fn on_interrupt(&mut self) -> Result<()> {
        let (card, registers) = (&mut self.card, self.registers);
        let status = registers.read_csr(card, csr::STATUS)?;
        if status & csr0::CAUSES != 0 {
            registers.write_csr(card, csr::STATUS, status & !0x004f)?;
            self.missed += u64::from(status & csr0::MISSED != 0);
            let masks = registers.read_csr(card, csr::MASKS)?;
            registers.write_csr(card, csr::MASKS, masks | CSR3_POLLING)?;
            // The poll would run here; the caller's next look at the ring is it.
            registers.write_csr(card, csr::MASKS, masks & 0x00ff)?;
            registers.write_csr(card, csr::STATUS, csr0::ENABLE)?;
        }
        card.touched()
    }
}

impl SoftGuest for SoftVlance {
    fn name(&self) -> &'static str {
        "vlance"
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_pieces(&[frame])
    }

    fn send_burst(&mut self, template: &[u8], count: usize) -> Result<usize> {
        let mut sent = 0;
        while sent < count && self.rings.push(self.card.ram(), &[template])? {
            sent += 1;
        }
        if sent > 0 {
            self.demand()?;
        }
        Ok(sent)
    }

    fn send_each(&mut self, frames: &[Vec<u8>], next: &mut usize, count: usize) -> Result<usize> {
        let mut sent = 0;
        while sent < count && self.rings.push(self.card.ram(), &[&frames[*next % frames.len().max(1)]])? {
            (sent, *next) = (sent + 1, (*next + 1) % frames.len());
        }
        if sent > 0 {
            self.demand()?;
        }
        Ok(sent)
    }

    fn recv(&mut self, timeout: Duration) -> Result<Option<Received>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.rings.pop(self.card.ram())? {
                return Ok(Some(frame));
            }
            let fired = self.card.wait(deadline)?;
            if fired && self.card.kind() != InterruptKind::None {
                self.on_interrupt()?;
            } else if Instant::now() >= deadline {
                let frame = self.rings.pop(self.card.ram())?;
                self.late += u64::from(frame.is_some() && self.card.kind() != InterruptKind::None);
                return Ok(frame);
            }
        }
    }

    fn drain(&mut self) -> Result<Drained> {
        self.rings.drain()
    }

    fn drain_with(&mut self, see: &mut See<'_>) -> Result<()> {
        self.rings.drain_with(self.card.ram(), see)
    }

    fn in_flight(&mut self) -> Result<usize> {
        self.rings.reap()?;
        Ok(self.rings.in_flight())
    }

    fn late_frames(&self) -> u64 {
        self.late
    }

    fn card(&mut self) -> &mut Card {
        &mut self.card
    }
}

/// What `pcnet32_probe1` does: reset, find the access width, the chip's identity and the address.
fn probe(card: &mut Card, registers: &mut Registers) -> Result<Mac> {
    let wanted = registers.dword;
    registers.dword = false;
    registers.reset(card)?;
    ensure!(registers.read_csr(card, csr::STATUS)? == csr0::STOP, "after reset CSR0 is not STOP");
    ensure!(registers.address_port_holds(card, 88)?, "the address port does not hold 88");
    if wanted {
        registers.dword = true;
        registers.enter_dword(card)?;
        registers.reset(card)?;
        ensure!(registers.read_csr(card, csr::STATUS)? == csr0::STOP, "in 32-bit mode CSR0 is not STOP after reset");
    }
    let low = registers.read_csr(card, csr::CHIP_LOW)?;
    let high = registers.read_csr(card, csr::CHIP_HIGH)?;
    let chip = u32::from(low) | u32::from(high) << 16;
    ensure!(chip & 0xfff == 3 && chip >> 12 & 0xffff == 0x2621, "chip identity {chip:#010x} is not the 79C970A's");
    let mut prom = [0; 16];
    if registers.dword {
        for (at, bytes) in (0u64..).step_by(4).zip(prom.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&card.read32(0, at)?.to_le_bytes());
        }
    } else {
        for (at, byte) in prom.iter_mut().enumerate() {
            card.client().region_read(0, at as u64, std::slice::from_mut(byte))?;
        }
    }
    ensure!(prom[14..16] == *b"WW", "no 'WW' at the end of the address PROM");
    let mut mac = [0; 6];
    for (i, pair) in mac.chunks_exact_mut(2).enumerate() {
        pair.copy_from_slice(&registers.read_csr(card, csr::PHYSICAL_ADDRESS + i as u16)?.to_le_bytes());
    }
    ensure!(mac == prom[..6], "CSR12..14 say {mac:x?}, the PROM says {:x?}", &prom[..6]);
    Ok(Mac(mac))
}

/// The bit of the logical address filter for a group: top six bits of the CRC-32, least significant bit
/// first, without the final inversion (data sheet, "Logical Address Filter").
fn group_bit(mac: Mac) -> u32 {
    let crc = mac.0.iter().flat_map(|byte| (0..8).map(move |i| u32::from(byte >> i & 1))).fold(u32::MAX, |crc, bit| {
        let feedback = (crc ^ bit) & 1;
        crc >> 1 ^ if feedback == 1 { 0xedb8_8320 } else { 0 }
    });
    crc >> 26
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
