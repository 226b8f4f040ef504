//! vmxnet3, VMware's paravirtual card (PCI 15AD:07B0), revisions 1, 2, 3 and 7 of the device.
//!
//! The control half is [`Vmxnet3`]: registers and commands, one at a time, on the control thread. When the
//! driver activates the card, its rings are read out of the shared area, checked, and published as one
//! immutable value; from then on the worker halves ([`DeviceModel::ingress`], [`DeviceModel::egress`]) move frames
//! with no message on the socket. Quiescing takes the value away and waits until every worker has let go.
//!
//! | file | what |
//! |---|---|
//! | `registers` | BAR0 page, BAR1 registers, MSI-X table |
//! | `commands` | what a write to CMD does |
//! | `shared_area` | where things lie in the driver's memory, read once and checked |
//! | `active` | what control and workers share |
//! | `tx`, `rx`, `rx_ring` | the rings |
//! | `rss` | which receive queue a frame goes to |
//! | `completion`, `checksums` | what a receive completion says |
//! | `filter` | receive mode, group addresses, VLANs |
//! | `interrupts`, `moderation` | masks, pending vectors, INTx; how many completions one interrupt tells of |
//! | `stats` | the counters the driver reads |
//!
//! Nothing here trusts the guest: [`DeviceModel::read`] and [`DeviceModel::write`] with arbitrary arguments over a
//! [`DmaMap`] of arbitrary memory, interleaved with polls and deliveries, are what a fuzzer drives.

mod active;
mod checksums;
pub mod commands;
mod completion;
mod fast;
mod filter;
mod interrupts;
mod moderation;
pub mod registers;
mod rss;
mod rx;
mod rx_ring;
pub mod shared_area;
mod short;
mod stats;
mod tx;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::{Egress, Grace, Ingress, RxFilter};
use sharedmem::{DmaMap, SharedPage};
use wire::Mac;

use self::active::{Active, Card, Run};
use self::filter::Filter;
use self::interrupts::Lines;
use self::moderation::Scheme;
use self::registers::{BAR_LEN, IMR_STRIDE, Registers, event, msix_table, profile};
use self::rss::{Rss, field};
use self::shared_area::{MAX_TX_QUEUES, MAX_VECTORS};
use crate::device::{BadAccess, DeviceModel, PciProfile, Setup};

/// The control half of a vmxnet3 card.
pub struct Vmxnet3 {
    card: Arc<Card>,
    profile: PciProfile,
    /// The burned-in address.
    permanent: Mac,
    grace: Grace,
    map: Arc<DmaMap>,
    registers: Registers,
    msix: Vec<u8>,
    filter: Filter,
    /// Set from activation to stop; kept while the VMM has the rings unmapped.
    run: Option<Arc<Run>>,
    /// How frames are spread over the receive queues, while the card runs.
    rss: Option<Arc<Rss>>,
    /// Kinds of frame whose ports are hashed too.
    rss_fields: u32,
    /// The last sentence logged about a failed start.
    complaint: Option<String>,
}

impl Vmxnet3 {
    /// A card as after power-on.
    ///
    /// # Errors
    /// When the page behind BAR0 cannot be made.
    pub fn new(setup: Setup) -> io::Result<Vmxnet3> {
        let page = SharedPage::new("vmxnet3-bar0", BAR_LEN as usize)?;
        let card = Card::new(setup.name, setup.state, page, Lines::new(setup.interrupts));
        card.state.set_filter(RxFilter::closed());
        let model = Vmxnet3 {
            card: Arc::new(card),
            profile: profile(),
            permanent: setup.mac,
            grace: setup.grace,
            map: Arc::default(),
            registers: Registers::new(setup.mac),
            msix: msix_table(),
            filter: Filter::default(),
            run: None,
            rss: None,
            rss_fields: field::TCP,
            complaint: None,
        };
        model.mask_all();
        Ok(model)
    }

    /// Lets the workers see the rings.
    fn put_in_use(&mut self, active: Active) {
        let queues = active.tx.len();
        self.card.active.store(Some(Arc::new(active)));
        self.card.tx_queues.store(queues, Ordering::Release);
        self.grace.wake();
        self.publish_filter();
    }

    /// Shows the workers what changed in how frames are spread; the rings go on where they are.
    fn rebind(&mut self) {
        let Some(run) = self.run.clone() else { return };
        if self.card.active.load().is_some()
            && let Ok(active) = Active::bind(run, self.map.clone(), self.rss.clone())
        {
            self.card.active.store(Some(Arc::new(active)));
        }
    }

    /// Takes the rings away from the workers; when it returns, none of them touches guest memory.
    fn take_out_of_use(&mut self) {
        self.card.state.set_filter(RxFilter::closed());
        self.card.tx_queues.store(0, Ordering::Release);
        if self.card.active.swap(None).is_some() {
            self.grace.wait();
        }
        self.card.quiet();
    }

    /// The driver stopped, or must.
    fn stop(&mut self) {
        self.take_out_of_use();
        self.run = None;
        (self.rss, self.rss_fields) = (None, field::TCP);
        self.card.lines.moderation.set(Scheme::default());
        self.filter = Filter::default();
        self.card.clear_events();
    }

    /// All vectors masked, as after a reset.
    fn mask_all(&self) {
        let page = self.card.page.slice();
        for vector in 0..MAX_VECTORS {
            page.store_u32(vector * IMR_STRIDE, 1);
        }
    }

    /// Publishes the receive filter while the card runs.
    fn publish_filter(&self) {
        if self.card.active.load().is_some() {
            self.card.state.set_filter(self.filter.build(self.registers.mac));
        }
    }

    /// Stops a card whose rings a worker found gone.
    fn look_for_failure(&mut self) {
        if self.run.as_ref().is_some_and(|run| run.failed()) {
            tracing::warn!(
                "vNIC {}: the VMM took memory away under the card's rings; the card stops until the driver starts it again",
                self.card.name
            );
            self.stop();
        }
    }
}

impl DeviceModel for Vmxnet3 {
    fn pci(&self) -> &PciProfile {
        &self.profile
    }

    fn read(&mut self, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
        self.read_bar(bar, offset, data)
    }

    fn write(&mut self, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
        self.write_bar(bar, offset, data)
    }

    fn bar_page(&self, bar: u8) -> Option<&SharedPage> {
        (bar == 0).then_some(&self.card.page)
    }

    fn set_map(&mut self, map: Arc<DmaMap>) {
        self.map = map;
        self.look_for_failure();
        let Some(run) = self.run.clone() else { return };
        match Active::bind(run, self.map.clone(), self.rss.clone()) {
            // The positions are shared by the old value and the new: a worker in the middle of a turn loses nothing.
            Ok(active) => self.put_in_use(active),
            Err(error) => {
                tracing::debug!(vnic = %self.card.name, %error, "the VMM unmapped the card's rings; it waits for them");
                self.take_out_of_use();
            }
        }
    }

    fn reset(&mut self) {
        self.stop();
        let page = self.card.page.slice();
        for at in (0..BAR_LEN as usize).step_by(4) {
            page.store_u32(at, 0);
        }
        self.mask_all();
        self.registers = Registers::new(self.permanent);
        self.msix = msix_table();
        self.complaint = None;
        self.card.tx_stats.iter().chain(&self.card.rx_stats).for_each(|queue| queue.clear());
    }

    fn link_changed(&mut self) {
        self.look_for_failure();
        if let Some(active) = self.card.active.load().as_ref() {
            self.card.report(active, event::LINK);
        }
    }

    fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        let queue = |slot| Box::new(tx::TxQueue::new(self.card.clone(), slot)) as Box<dyn Ingress>;
        (0..MAX_TX_QUEUES).map(queue).collect()
    }

    fn egress(&self) -> Arc<dyn Egress> {
        Arc::new(rx::RxPath::new(self.card.clone()))
    }
}

impl Drop for Vmxnet3 {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
