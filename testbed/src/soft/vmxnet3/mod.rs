//! The driver side of vmxnet3.
//!
//! Facts: registers, structures and commands of FreeBSD's `if_vmxreg.h` and Linux's public header
//! `vmxnet3_defs.h`; the order of doing things as Linux's `vmxnet3` driver is seen to do them.

mod buffers;
mod control;
mod hostile;
mod layout;
mod rx;
mod tx;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sharedmem::{Region, Slice};
use wire::{Mac, Tag};

use super::{Card, Drained, InterruptKind, Ram, Received, See, SoftGuest};
use layout::{Area, bar1, cmd};
use rx::RxQueue;
use tx::TxQueue;

pub use layout::RxMode;
pub use rx::RxFacts;
pub use tx::{Offload, TxFrame};

/// How a soft vmxnet3 guest sets itself up.
#[derive(Clone, Debug)]
pub struct Vmxnet3Options {
    /// Transmit descriptors per queue, a multiple of 32.
    pub tx_ring: u32,
    /// Receive descriptors of ring 1 per queue, a multiple of 32.
    pub rx_ring: u32,
    /// Receive descriptors of ring 2 per queue, a multiple of 32.
    pub rx_ring2: u32,
    /// Queue pairs, 1..=8.
    pub queues: u8,
    /// Payload size in bytes.
    pub mtu: u16,
    /// Interrupts.
    pub interrupts: InterruptKind,
    /// Ask the card to check receive checksums.
    pub rx_csum: bool,
    /// Ask the card to take VLAN tags out.
    pub rx_vlan: bool,
    /// Revision of the device to choose.
    pub revision: u8,
    /// Bytes of an entry of the receive data rings, a multiple of 64; 0 for none. From revision 3 on.
    pub data_ring: u16,
    /// Ask the card for large segments whole. From revision 2 on.
    pub lro: bool,
    /// Spread what is received over the queues by this table of at most 128 entries.
    pub rss: Option<Vec<u8>>,
    /// Another address than the card's own.
    pub mac: Option<Mac>,
    /// First guest address of the guest's memory.
    pub ram_base: u64,
    /// False: the VMM does not share its memory.
    pub shared: bool,
    /// False: probe only, do not start the card.
    pub activate: bool,
}

impl Default for Vmxnet3Options {
    fn default() -> Self {
        Vmxnet3Options {
            tx_ring: 512,
            rx_ring: 256,
            rx_ring2: 256,
            queues: 1,
            mtu: 1500,
            interrupts: InterruptKind::Msix,
            rx_csum: true,
            rx_vlan: true,
            revision: 7,
            data_ring: 128,
            lro: false,
            rss: None,
            mac: None,
            ram_base: 0x1_0000_0000,
            shared: true,
            activate: true,
        }
    }
}

/// The counters the card keeps of one queue pair, in the order of `UPT1_TxStats` and `UPT1_RxStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vmxnet3Stats {
    /// TSO frames, TSO bytes, unicast frames, bytes, multicast frames, bytes, broadcast frames, bytes,
    /// errors, discards.
    pub tx: [u64; 10],
    /// LRO frames, LRO bytes, unicast frames, bytes, multicast frames, bytes, broadcast frames, bytes,
    /// out of buffers, errors.
    pub rx: [u64; 10],
}

/// A guest with a vmxnet3 card.
pub struct SoftVmxnet3 {
    card: Card,
    socket: PathBuf,
    options: Vmxnet3Options,
    mac: Mac,
    doorbells: Arc<Region>,
    area: Area,
    tx: Vec<TxQueue>,
    rx: Vec<RxQueue>,
    auto_mask: bool,
    masked: bool,
    late: u64,
    facts: RxFacts,
}

impl SoftVmxnet3 {
    /// Connects to a card's socket, probes it, and starts it as Linux does when the interface comes up.
    ///
    /// # Errors
    /// What the switch refuses, and what no vmxnet3 does.
    pub fn connect(socket: &Path, options: Vmxnet3Options) -> Result<SoftVmxnet3> {
        ensure!((1..=8).contains(&options.queues), "1..=8 queues");
        let rings = u64::from(options.tx_ring + options.rx_ring + options.rx_ring2);
        let per_queue = rings * 8192 + (4 << 20);
        let ram = Ram::new(options.ram_base, u64::from(options.queues) * per_queue + (1 << 20))?;
        let mut card = Card::connect(socket, ram, options.shared)?;
        card.enable_pci(0x15ad, 0x07b0)?;
        let bar0 = card.client().region(0).cloned().unwrap_or_default();
        ensure!(bar0.size >= 4096, "BAR0 has {} bytes", bar0.size);
        let doorbells = bar0.page.ok_or_else(|| anyhow::anyhow!("BAR0 cannot be mapped"))?;
        ensure!(doorbells.len() >= 4096, "the mappable part of BAR0 has {} bytes", doorbells.len());
        let mac = probe(&mut card, options.revision)?;
        let area = Area::new(card.ram_mut(), options.queues)?;
        let mut guest = SoftVmxnet3 {
            card,
            socket: socket.to_owned(),
            mac: options.mac.unwrap_or(mac),
            options,
            doorbells,
            area,
            tx: Vec::new(),
            rx: Vec::new(),
            auto_mask: true,
            masked: true,
            late: 0,
            facts: RxFacts::default(),
        };
        guest.make_queues()?;
        if guest.options.activate {
            guest.activate()?;
        }
        Ok(guest)
    }

    /// Another guest on the same socket with the same options: a VMM that was killed and started anew.
    ///
    /// # Errors
    /// As [`SoftVmxnet3::connect`].
    pub fn reconnect(self) -> Result<SoftVmxnet3> {
        let (socket, options) = (self.socket.clone(), self.options.clone());
        drop(self);
        SoftVmxnet3::connect(&socket, options)
    }

    /// Sends one frame in pieces, with offload requests, on queue 0. Waits for room.
    ///
    /// # Errors
    /// As [`SoftGuest::send`].
    pub fn send_opts(&mut self, frame: &TxFrame<'_>) -> Result<()> {
        self.send_on(0, frame)
    }

    /// Sends one frame on queue `queue`. Waits for room.
    ///
    /// # Errors
    /// As [`SoftGuest::send`].
    pub fn send_on(&mut self, queue: usize, frame: &TxFrame<'_>) -> Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        let tx = self.tx.get_mut(queue).ok_or_else(|| anyhow::anyhow!("no transmit queue {queue}"))?;
        while !tx.push(self.card.ram(), &self.doorbells, frame)? {
            ensure!(Instant::now() < deadline, "the transmit ring stays full");
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// What completions told of the last frame received.
    pub fn facts(&self) -> RxFacts {
        self.facts
    }

    /// Buffers the card passed over (its right, but worth seeing).
    pub fn skipped_buffers(&self) -> u64 {
        self.rx.iter().map(RxQueue::skipped).sum()
    }

    fn pop(&mut self) -> Result<Option<Received>> {
        for queue in &mut self.rx {
            if let Some(frame) = queue.pop(self.card.ram(), &self.doorbells)? {
                self.facts = queue.facts();
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

impl SoftGuest for SoftVmxnet3 {
    fn name(&self) -> &'static str {
        "vmxnet3"
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_opts(&TxFrame::plain(&[frame]))
    }

    fn send_burst(&mut self, template: &[u8], count: usize) -> Result<usize> {
        let tx = self.tx.first_mut().ok_or_else(|| anyhow::anyhow!("no transmit queue"))?;
        tx.push_burst(self.card.ram(), &self.doorbells, template, count)
    }

    fn lay(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        let tx = self.tx.first_mut().ok_or_else(|| anyhow::anyhow!("no transmit queue"))?;
        tx.lay(self.card.ram_mut(), frames)
    }

    fn send_each(&mut self, frames: &[Vec<u8>], next: &mut usize, count: usize) -> Result<usize> {
        let tx = self.tx.first_mut().ok_or_else(|| anyhow::anyhow!("no transmit queue"))?;
        tx.push_laid(self.card.ram(), &self.doorbells, frames, next, count)
    }

    fn try_send(&mut self, frame: &[u8]) -> Result<bool> {
        let tx = self.tx.first_mut().ok_or_else(|| anyhow::anyhow!("no transmit queue"))?;
        tx.push(self.card.ram(), &self.doorbells, &TxFrame::plain(&[frame]))
    }

    fn recv(&mut self, timeout: Duration) -> Result<Option<Received>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.pop()? {
                return Ok(Some(frame));
            }
            // Linux does not look at the ring again after this: the card must raise what waits unannounced.
            self.enable_interrupts()?;
            let fired = self.card.wait(deadline)?;
            if fired && self.card.kind() != InterruptKind::None {
                self.on_interrupt()?;
            } else if Instant::now() >= deadline {
                let frame = self.pop()?;
                self.late += u64::from(frame.is_some() && self.card.kind() != InterruptKind::None);
                return Ok(frame);
            }
        }
    }

    fn drain(&mut self) -> Result<Drained> {
        let mut total = Drained::default();
        for queue in &mut self.rx {
            total += queue.drain(&self.doorbells, self.card.ram())?;
        }
        Ok(total)
    }

    fn drain_with(&mut self, see: &mut See<'_>) -> Result<()> {
        self.rx.iter_mut().try_for_each(|queue| queue.drain_with(&self.doorbells, self.card.ram(), see))
    }

    #[inline]
    fn show(&mut self, mut see: impl FnMut(Option<Tag>, &Slice<'_>, usize)) -> Result<()> {
        self.rx.iter_mut().try_for_each(|queue| queue.drain_with(&self.doorbells, self.card.ram(), &mut see))
    }

    fn in_flight(&mut self) -> Result<usize> {
        let mut left = 0;
        for queue in &mut self.tx {
            queue.reap()?;
            left += queue.in_flight();
        }
        Ok(left)
    }

    fn late_frames(&self) -> u64 {
        self.late
    }

    fn card(&mut self) -> &mut Card {
        &mut self.card
    }
}

/// What `vmxnet3_probe_device` does: reset, choose revisions, read the address by command.
fn probe(card: &mut Card, revision: u8) -> Result<Mac> {
    ensure!((1..=9).contains(&revision), "no revision {revision}");
    let choice = 1 << (revision - 1);
    let versions = card.read32(1, bar1::VRRS)?;
    ensure!(versions & choice != 0, "the card knows revisions {versions:#x}, not {revision}");
    card.write32(1, bar1::VRRS, choice)?;
    let upt = card.read32(1, bar1::UVRS)?;
    ensure!(upt & 1 == 1, "the card knows UPT versions {upt:#x}, not 1");
    card.write32(1, bar1::UVRS, 1)?;
    card.write32(1, bar1::CMD, cmd::GET_PERM_MAC_LO)?;
    let low = card.read32(1, bar1::CMD)?.to_le_bytes();
    card.write32(1, bar1::CMD, cmd::GET_PERM_MAC_HI)?;
    let high = card.read32(1, bar1::CMD)?.to_le_bytes();
    Ok(Mac([low[0], low[1], low[2], low[3], high[0], high[1]]))
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
