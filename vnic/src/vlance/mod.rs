//! `vlance`: the AMD Am79C970A (PCnet-PCI II), the card every operating system since the nineties has a driver for.
//!
//! ```text
//!   I/O ports (BAR0) and their memory alias (BAR1): 0x00..0x10 address PROM, 0x10.. RDP, RAP, RESET, BDP
//!        |                                            (16-bit mode: every 2 bytes; 32-bit mode: every 4)
//!   registers.rs  CSRs      bcr.rs  BCRs      aprom.rs
//!        |  INIT, STRT, STOP, SPND, reset
//!   control.rs  -- builds --> Active (rings, map; swapped) <-- load -- TxQueue (tx.rs)   one worker
//!        |                        positions, CSR112        <-- load -- RxPath  (rx.rs)   any worker
//!   cause.rs  CSR0/3/4/5 and the interrupt pin, one atomic word  <-- RINT, TINT, MISS --+
//! ```
//!
//! BAR0 is 0x20 bytes, no more, so that VMware's vmxnet morph port (at 0x20) does not exist and drivers
//! stay with the PCnet. The card says 10 Mb/s half duplex, which limits nothing. It has no offload: frames come
//! segmented, summed and with their tag inside. Register facts: AMD Am79C970A data sheet (publication 19436);
//! what drivers rely on: Linux pcnet32, FreeBSD le(4), NetBSD pcn(4). The tables are in
//! `docs/devices/vlance.md`.

mod active;
mod aprom;
mod bcr;
mod cause;
mod control;
mod filter;
mod init;
mod registers;
mod ring;
mod rx;
mod tx;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use arc_swap::ArcSwapOption;
use dataplane::{Egress, Grace, Ingress, RxFilter};
use sharedmem::{DmaMap, SharedPage};

use crate::device::{BadAccess, Bar, DeviceModel, PciProfile, Setup};

use active::{RxCursor, Shared};
use aprom::{APROM_LEN, Aprom};
use bcr::Bcr;
use cause::Cause;
use registers::Csr;
use rx::RxPath;
use tx::TxQueue;

/// Bytes of I/O space: the real chip's.
const PORTS: u32 = 0x20;

/// What an access to the register ports reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// Register data port: the CSR that RAP names.
    Rdp,
    /// Register address port.
    Rap,
    /// Reading it resets the chip.
    Reset,
    /// Bus configuration data port: the BCR that RAP names.
    Bdp,
    /// Nothing: reads as all ones.
    None,
}

/// The control-thread half of the card.
pub struct Vlance {
    shared: Arc<Shared>,
    profile: PciProfile,
    grace: Grace,
    map: Arc<DmaMap>,
    csr: Csr,
    bcr: Bcr,
    aprom: Aprom,
    /// Register address port.
    rap: u8,
    rx_cursor: Arc<RxCursor>,
    /// The DMA map lost the rings of a started chip.
    paused: bool,
    /// The guest's mistake has been logged.
    complained: bool,
}

impl Vlance {
    /// A card as after power-on, with no memory to reach yet.
    pub fn new(setup: Setup) -> Vlance {
        let aprom = Aprom::new(setup.mac);
        setup.state.set_filter(RxFilter::closed());
        let shared = Shared {
            name: setup.name,
            state: setup.state,
            cause: Cause::new(setup.interrupts),
            active: ArcSwapOption::empty(),
            tx_next: AtomicU32::new(0),
            missed: AtomicU32::new(0),
        };
        Vlance {
            shared: Arc::new(shared),
            profile: profile(),
            grace: setup.grace,
            map: Arc::new(DmaMap::new()),
            csr: Csr::new(aprom.padr()),
            bcr: Bcr::new(),
            aprom,
            rap: 0,
            rx_cursor: RxCursor::new(0, 0),
            paused: false,
            complained: false,
        }
    }

    /// Which port an access of `width` bytes at `offset` means: 16-bit accesses in word mode, 32-bit ones in
    /// double-word mode, aligned; the chip leaves the others undefined.
    fn port(&self, offset: u32, width: usize) -> Port {
        let step = if self.bcr.dwio() { 4 } else { 2 };
        if width != step as usize {
            return Port::None;
        }
        match offset.checked_sub(APROM_LEN as u32) {
            Some(0) => Port::Rdp,
            Some(at) if at == step => Port::Rap,
            Some(at) if at == 2 * step => Port::Reset,
            Some(at) if at == 3 * step => Port::Bdp,
            _ => Port::None,
        }
    }

    fn port_read(&mut self, port: Port) -> u32 {
        match port {
            Port::Rdp => self.csr_read(u16::from(self.rap)),
            Port::Rap => u32::from(self.rap),
            Port::Reset => {
                self.soft_reset();
                0
            }
            Port::Bdp => u32::from(self.bcr.read(u16::from(self.rap), self.shared.state.link_up())),
            Port::None => u32::MAX,
        }
    }

    fn port_write(&mut self, port: Port, value: u16) {
        match port {
            Port::Rdp => self.csr_write(u16::from(self.rap), value),
            Port::Rap => self.rap = value as u8,
            Port::Bdp => {
                let quiet = self.shared.cause.status().quiet();
                self.bcr.write(u16::from(self.rap), value, quiet);
            }
            Port::Reset | Port::None => {}
        }
    }
}

/// As VMware shows the card: revision 0x10 and AMD's own subsystem identifiers.
fn profile() -> PciProfile {
    const NONE: Bar = Bar { size: 0, io: false };
    PciProfile {
        vendor: 0x1022,
        device: 0x2000,
        subsystem_vendor: 0x1022,
        subsystem: 0x2000,
        revision: 0x10,
        bars: [Bar { size: PORTS, io: true }, Bar { size: PORTS, io: false }, NONE, NONE, NONE, NONE],
        msi_vectors: 0,
        msix_vectors: 0,
        msix_bar: 0,
        grant_latency: (0x06, 0xff),
    }
}

/// Checks an access: BAR0 or BAR1, 1, 2 or 4 bytes, within the ports.
fn check(bar: u8, offset: u32, width: usize) -> Result<(), BadAccess> {
    let fits = offset.checked_add(width as u32).is_some_and(|end| end <= PORTS);
    if bar <= 1 && matches!(width, 1 | 2 | 4) && fits { Ok(()) } else { Err(BadAccess) }
}

impl DeviceModel for Vlance {
    fn pci(&self) -> &PciProfile {
        &self.profile
    }

    fn read(&mut self, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
        check(bar, offset, data.len())?;
        let at = offset as usize;
        if at + data.len() <= APROM_LEN {
            // Drivers read it by byte and by word, in either mode.
            self.aprom.read(at, data);
        } else {
            let port = self.port(offset, data.len());
            let value = self.port_read(port).to_le_bytes();
            data.copy_from_slice(&value[..data.len()]);
        }
        Ok(())
    }

    fn write(&mut self, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
        check(bar, offset, data.len())?;
        let at = offset as usize;
        if at + data.len() <= APROM_LEN {
            if self.bcr.aprom_writable() {
                self.aprom.write(at, data);
            }
            return Ok(());
        }
        if at == APROM_LEN && data.len() == 4 && !self.bcr.dwio() {
            // A 32-bit write of RDP turns 32-bit mode on, and does no more.
            self.bcr.set_dwio();
            return Ok(());
        }
        let port = self.port(offset, data.len());
        if let [low, high, ..] = data {
            self.port_write(port, u16::from_le_bytes([*low, *high]));
        }
        Ok(())
    }

    fn bar_page(&self, _bar: u8) -> Option<&SharedPage> {
        None
    }

    fn set_map(&mut self, map: Arc<DmaMap>) {
        self.change_map(map);
    }

    fn reset(&mut self) {
        self.hard_reset();
    }

    fn link_changed(&mut self) {
        // The chip has no link interrupt: drivers read BCR4, which looks at the port's state, and see LCAR.
    }

    fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        vec![Box::new(TxQueue::new(self.shared.clone()))]
    }

    fn egress(&self) -> Arc<dyn Egress> {
        Arc::new(RxPath(self.shared.clone()))
    }
}

#[cfg(test)]
mod test_driver;
#[cfg(test)]
#[path = "vlance_tests.rs"]
mod tests;
