//! Starting, stopping and suspending the chip: the only places where rings come and go.
//!
//! ```text
//!            INIT: block -> CSRs          STRT                 SPND
//!  stopped ---------------------> ready -------> active <---------------> suspended
//!     ^                                            |  ^                        |
//!     |                         the DMA map loses  v  | gets them back         |
//!     |                         the rings        paused                        |
//!     +--- STOP, S_RESET, hardware reset ----------+---------------------------+
//! ```
//! Every arrow out of "active" takes [`Active`] from the workers and waits for the grace period. The ring
//! positions outlive all but INIT and the resets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::RxFilter;
use sharedmem::{DmaError, DmaMap};

use super::Vlance;
use super::active::{Active, RxCursor};
use super::bcr::{Bcr, Style};
use super::cause::{Status, csr0, csr4, csr5};
use super::filter::{mode, rx_filter, station};
use super::init::InitBlock;
use super::registers::{BADR, BADX, Csr, IADR, LADRF, MODE, PADR, RCVRL, XMTRL};
use super::ring::DescRing;

impl Vlance {
    /// CSR0 INIT: reads the initialisation block into the registers. A block that cannot be read sets
    /// MERR instead of IDON, and leaves no ring to start.
    pub(super) fn init(&mut self) {
        self.deactivate();
        self.paused = false;
        self.shared.cause.update(|s| s.csr0 = (s.csr0 | csr0::INIT) & !csr0::STOP);
        let wide = self.bcr.style().wide();
        let addr = self.bus_address(self.csr.long(IADR));
        match InitBlock::read(&self.map, addr, wide) {
            Ok(block) => {
                self.load(&block);
                self.shared.cause.raise(csr0::IDON, 0);
            }
            Err(error) => {
                self.csr.0[RCVRL] = 0;
                self.csr.0[XMTRL] = 0;
                self.complain("initialisation block", addr, error);
                self.shared.cause.raise(csr0::MERR, 0);
            }
        }
        if self.shared.cause.status().csr0 & csr0::STRT != 0 {
            self.start();
        }
    }

    fn load(&mut self, block: &InitBlock) {
        self.csr.0[MODE] = block.mode;
        self.csr.0[PADR..PADR + 3].copy_from_slice(&block.padr);
        self.csr.0[LADRF..LADRF + 4].copy_from_slice(&block.ladrf);
        self.csr.set_long(BADR, self.bus_address(block.rdra));
        self.csr.set_long(BADX, self.bus_address(block.tdra));
        self.csr.set_lens(block.rlen, block.tlen);
        self.csr.0[RCVRL] = block.rx_count().wrapping_neg();
        self.csr.0[XMTRL] = block.tx_count().wrapping_neg();
        self.shared.tx_next.store(0, Ordering::Relaxed);
        self.set_rx_index(0);
    }

    /// CSR0 STRT, with the registers as INIT or the driver itself left them.
    pub(super) fn start(&mut self) {
        self.shared.cause.update(|s| s.csr0 = (s.csr0 | csr0::STRT) & !csr0::STOP);
        if self.shared.cause.status().csr5 & csr5::SPND == 0 {
            self.resume();
        }
    }

    /// Goes (on) with the rings the registers describe; MERR, with both directions off, when they
    /// are not in the guest's memory.
    pub(super) fn resume(&mut self) {
        if self.shared.cause.status().csr0 & csr0::STRT == 0 {
            return;
        }
        match self.build(&self.map) {
            Ok(active) => self.activate(active),
            Err((what, addr, error)) => {
                self.complain(what, addr, error);
                self.shared.cause.update(|s| s.csr0 &= !(csr0::TXON | csr0::RXON));
                self.shared.cause.raise(csr0::MERR, 0);
            }
        }
    }

    fn activate(&mut self, active: Active) {
        self.paused = false;
        let mut on = 0;
        if active.tx.is_some() {
            on |= csr0::TXON;
        }
        if active.rx.is_some() {
            on |= csr0::RXON;
            self.shared.state.set_filter(rx_filter(self.csr.0[MODE], self.csr.padr(), self.csr.ladrf()));
        } else {
            self.shared.state.set_filter(RxFilter::closed());
        }
        self.rx_cursor = active.rx_cursor.clone();
        self.shared.cause.update(|s| s.csr0 = s.csr0 & !(csr0::TXON | csr0::RXON) | on);
        self.shared.active.store(Some(Arc::new(active)));
        self.grace.wake();
    }

    fn build(&self, map: &Arc<DmaMap>) -> Result<Active, (&'static str, u32, DmaError)> {
        let mode = self.csr.0[MODE];
        let ring = |what, base, len| {
            let base = self.bus_address(self.csr.long(base));
            let count = self.csr.ring_len(len);
            let upper = self.bus_address(0);
            DescRing::map(map, self.bcr.style(), base, upper, count).map_err(|error| (what, base, error))
        };
        let rx = if mode & mode::DRX == 0 { Some(ring("receive ring", BADR, RCVRL)?) } else { None };
        let tx = if mode & mode::DTX == 0 { Some(ring("transmit ring", BADX, XMTRL)?) } else { None };
        let count = rx.as_ref().map_or(0, DescRing::count);
        let rx_cursor = if self.rx_cursor.count() == count {
            self.rx_cursor.clone()
        } else {
            RxCursor::new(count, self.rx_cursor.next())
        };
        Ok(Active {
            map: map.clone(),
            tx,
            rx,
            rx_cursor,
            loopback: mode & mode::LOOP != 0,
            mode,
            mac: station(self.csr.padr()),
        })
    }

    /// CSR5 SPND: the workers let go of the rings; SPND reads as set when this has returned. The
    /// filter stays, frames meanwhile are dropped.
    pub(super) fn suspend(&mut self) {
        self.deactivate();
        self.paused = false;
    }

    /// CSR0 STOP: all of CSR0, the events and SPND are cleared.
    pub(super) fn stop(&mut self) {
        self.deactivate();
        self.paused = false;
        self.shared.state.set_filter(RxFilter::closed());
        self.shared.cause.update(|s| {
            s.csr0 = csr0::STOP;
            s.csr4 &= !csr4::EVENTS;
            s.csr5 &= !(csr5::EVENTS | csr5::SPND);
        });
    }

    /// A read of the RESET register: everything but the bus configuration and the I/O mode.
    pub(super) fn soft_reset(&mut self) {
        self.stop();
        self.rap = 0;
        self.csr = Csr::new(self.aprom.padr());
        self.shared.cause.update(|s| *s = Status::RESET);
        self.shared.tx_next.store(0, Ordering::Relaxed);
        self.shared.missed.store(0, Ordering::Relaxed);
        self.set_rx_index(0);
    }

    /// As after power-on.
    pub(super) fn hard_reset(&mut self) {
        self.aprom.restore();
        self.bcr = Bcr::new();
        self.soft_reset();
        self.complained = false;
    }

    /// The DMA map changed. Rings that lie in the new one too go on where they are, without a pause; else the
    /// card pauses until a later map has them again or the driver stops it.
    pub(super) fn change_map(&mut self, map: Arc<DmaMap>) {
        self.map = map;
        let running = self.shared.active.load().is_some();
        if !running && !self.paused {
            return;
        }
        match self.build(&self.map) {
            Ok(active) => self.activate(active),
            Err((what, addr, error)) => {
                tracing::debug!(port = %self.shared.name, "the {what} at {addr:#x} went away: {error}");
                self.deactivate();
                self.paused = true;
            }
        }
    }

    /// Takes the rings away; when this returns no worker uses guest memory for this card.
    fn deactivate(&mut self) {
        if self.shared.active.swap(None).is_some() {
            self.grace.wait();
        }
    }

    /// In style 0 addresses have 24 bits and CSR2 gives the upper byte.
    fn bus_address(&self, addr: u32) -> u32 {
        match self.bcr.style() {
            Style::Lance => addr & 0x00ff_ffff | u32::from(self.csr.0[IADR + 1] & 0xff00) << 16,
            Style::Pcnet | Style::Burst => addr,
        }
    }

    /// Where reception goes on, while the chip is quiet.
    pub(super) fn set_rx_index(&mut self, index: u16) {
        let count = if self.rx_cursor.count() > 0 { self.rx_cursor.count() } else { self.csr.ring_len(RCVRL) };
        self.rx_cursor = RxCursor::new(count, u32::from(index));
    }

    /// One warning per hardware reset: a guest must not fill the log.
    fn complain(&mut self, what: &str, addr: u32, error: DmaError) {
        let name = &self.shared.name;
        if self.complained {
            tracing::debug!(port = %name, "the {what} at {addr:#x} cannot be used: {error}");
            return;
        }
        self.complained = true;
        if error == DmaError::NotShared {
            tracing::warn!(
                "vNIC {name}: the VMM does not share the guest's memory with the switch, so the vlance card stays off; \
                 start QEMU with -object memory-backend-memfd,id=mem,share=on and -machine memory-backend=mem"
            );
        } else {
            tracing::warn!(
                "vNIC {name}: the guest's driver gave the vlance card a {what} at {addr:#x} that cannot be used: {error}"
            );
        }
    }
}
