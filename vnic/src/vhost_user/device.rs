//! The control half of a virtio card: what the VMM's messages say, made into rings for the workers.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::{Egress, Grace, Ingress, PortState};
use sharedmem::MemTable;
use wire::Mac;

use super::control::Control;
use super::fault::Fault;
use super::inflight::{Description, InflightMemory, Refused};
use super::memory::{MemoryRegion, span};
use super::vring::{Vring, quiet};
use crate::irq::{Interrupts, IrqKind};
use crate::virtio::{Card, MAX_PAIRS, RxPath, TxQueue, features};

/// What a card is made from.
pub struct CardSetup {
    /// Port name, for log lines.
    pub name: String,
    /// The address the configuration assigned.
    pub mac: Mac,
    /// Payload size of the switch in bytes.
    pub mtu: u16,
    /// Queue pairs, 1 to 8.
    pub pairs: usize,
    /// The port's shared state.
    pub state: Arc<PortState>,
    /// The queues' eventfds.
    pub interrupts: Arc<Interrupts>,
    /// How to wait until all workers have let go.
    pub grace: Grace,
}

/// The control half.
pub(super) struct Device {
    pub(super) setup: Arc<CardSetup>,
    pub(super) card: Arc<Card>,
    pub(super) features: u64,
    pub(super) table: Arc<MemTable>,
    /// Of the pairs, and the control queue.
    pub(super) vrings: [Vring; MAX_PAIRS * 2 + 1],
    pub(super) control: Control,
    /// What the VMM keeps of the rings for our successor.
    pub(super) inflight: Option<InflightMemory>,
}

/// A card without a VMM.
pub(super) fn card(setup: &CardSetup) -> Arc<Card> {
    Arc::new(Card {
        active: arc_swap::ArcSwapOption::empty(),
        state: setup.state.clone(),
        interrupts: setup.interrupts.clone(),
        kicks: Default::default(),
        errors: Default::default(),
    })
}

/// The queues towards the switch, one per pair.
pub(super) fn ingress(card: &Arc<Card>, pairs: usize) -> Vec<Box<dyn Ingress>> {
    (0..pairs.min(MAX_PAIRS)).map(|pair| Box::new(TxQueue::new(card.clone(), pair)) as Box<dyn Ingress>).collect()
}

/// The way out.
pub(super) fn egress(card: &Arc<Card>) -> Arc<dyn Egress> {
    Arc::new(RxPath::new(card.clone()))
}

impl Device {
    /// For a VMM that has just connected.
    pub(super) fn new(setup: Arc<CardSetup>, card: Arc<Card>) -> Device {
        let table = Arc::new(MemTable::new());
        let (vrings, control) = (Default::default(), Control::new(&setup));
        Device { setup, card, features: 0, table, vrings, control, inflight: None }
    }

    /// The VMM has gone: workers let go of its memory before this returns.
    pub(super) fn stop(&mut self) {
        self.vrings = Default::default();
        self.features = 0;
        self.inflight = None;
        self.control = Control::new(&self.setup);
        self.table = Arc::new(MemTable::new());
        for (index, kick) in self.card.kicks.iter().enumerate() {
            kick.store(None);
            self.setup.interrupts.set(IrqKind::Msix, index * 2, None);
            self.setup.interrupts.set(IrqKind::Msix, index * 2 + 1, None);
        }
        self.setup.interrupts.set(IrqKind::Msix, MAX_PAIRS * 2, None);
        self.card.errors.clear();
        self.rebuild();
    }

    /// Queue pairs the card has.
    pub(super) fn pairs(&self) -> usize {
        self.setup.pairs
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Fault> {
        let (index, pairs) = (index as usize, self.setup.pairs);
        let there = index < pairs * 2 || features::control_queue(self.features, pairs) == Some(index);
        self.vrings.get_mut(index).filter(|_| there).ok_or(Fault::Parameters)
    }

    fn is_control(&self, index: u32) -> bool {
        features::control_queue(self.features, self.setup.pairs) == Some(index as usize)
    }

    /// Rings of the card with all its queues.
    fn rings(&self) -> u16 {
        (self.setup.pairs * 2 + 1) as u16
    }

    /// Ring `index` has stopped in order, and where it was is the VMM's to tell.
    fn stopped(&self, index: usize, packed: bool) {
        if let Some(part) = self.inflight.as_ref().and_then(|memory| memory.part(index, packed)) {
            part.give_up();
        }
    }

    fn refuse_inflight(&self, why: &Refused) -> Fault {
        tracing::warn!("vNIC {}: inflight memory was refused: {why}", self.setup.name);
        Fault::Parameters
    }

    fn set_table(&mut self, table: MemTable) {
        self.table = Arc::new(table);
        self.rebuild();
    }
}

/// What the VMM says, message by message.
impl Device {
    /// Back to what it was before the driver, in all but the guest's memory.
    pub(super) fn reset(&mut self) {
        let packed = self.packed();
        self.vrings = Default::default();
        self.features = 0;
        self.control = Control::new(&self.setup);
        self.rebuild();
        (0..self.vrings.len()).for_each(|index| self.stopped(index, packed));
    }

    /// The features the driver may choose from.
    pub(super) fn offered(&self) -> u64 {
        features::offered(self.setup.pairs)
    }

    /// What the driver chose of them.
    pub(super) fn set_features(&mut self, accepted: u64) -> Result<(), Fault> {
        if accepted & !self.offered() != 0 {
            return Err(Fault::Parameters);
        }
        if accepted != self.features {
            self.features = accepted;
            self.control.begin(&self.setup, accepted);
            self.rebuild();
        }
        Ok(())
    }

    /// All of the guest's memory, a file for each region.
    pub(super) fn set_memory(&mut self, regions: &[MemoryRegion], files: &[File]) -> Result<(), Fault> {
        let mut table = MemTable::new();
        for (region, file) in regions.iter().zip(files) {
            table = table.with(span(&self.setup.name, region, file)?).map_err(|_| Fault::Parameters)?;
        }
        self.set_table(table);
        Ok(())
    }

    /// One region more.
    pub(super) fn add_memory(&mut self, region: &MemoryRegion, file: &File) -> Result<(), Fault> {
        let table = self.table.with(span(&self.setup.name, region, file)?).map_err(|_| Fault::Parameters)?;
        self.set_table(table);
        Ok(())
    }

    /// One less.
    pub(super) fn remove_memory(&mut self, region: &MemoryRegion) -> Result<(), Fault> {
        let table = self.table.without(region.guest, region.user, region.size);
        self.set_table(table.map_err(|_| Fault::Parameters)?);
        Ok(())
    }

    /// The number of a ring's descriptors.
    pub(super) fn set_vring_size(&mut self, index: u32, num: u32) -> Result<(), Fault> {
        let size = u16::try_from(num).ok().filter(|n| n.is_power_of_two()).ok_or(Fault::Parameters)?;
        self.vring(index)?.size = size;
        Ok(())
    }

    /// Where a ring's descriptors, driver area and device area are.
    pub(super) fn set_vring_places(&mut self, index: u32, places: [u64; 3]) -> Result<(), Fault> {
        self.vring(index)?.places = Some(places);
        self.rebuild();
        Ok(())
    }

    /// Where a ring goes on.
    pub(super) fn set_vring_base(&mut self, index: u32, base: u32) -> Result<(), Fault> {
        // The upper half is where a packed ring's used entries go on: where the available ones do, for us.
        let base = if self.packed() { base as u16 } else { u16::try_from(base).map_err(|_| Fault::Parameters)? };
        if self.is_control(index) {
            self.control.forget_position();
        }
        // No worker is on the ring while it is looked where that was left.
        let started = std::mem::take(&mut self.vring(index)?.started);
        self.rebuild();
        let vring = self.vring(index)?;
        (vring.base, vring.tx, vring.rx, vring.started) = (base, None, None, started);
        self.rebuild();
        Ok(())
    }

    /// Stops the ring, and tells where the next driver or switch is to go on.
    pub(super) fn stop_vring(&mut self, index: u32) -> Result<u32, Fault> {
        self.vring(index)?.started = false;
        let control = if self.is_control(index) { self.control.take_position() } else { None };
        self.rebuild();
        let packed = self.packed();
        let vring = self.vring(index)?;
        let next = match (vring.tx.take(), vring.rx.take()) {
            (Some(tx), _) => tx.next.load(Ordering::Acquire),
            (None, Some(rx)) => rx.next(),
            (None, None) => control.unwrap_or_else(|| vring.start(packed)),
        };
        let (base, told) = vring.told(next, packed);
        vring.base = base;
        self.stopped(index as usize, packed);
        Ok(told)
    }

    /// The descriptor by which the driver signals; the ring runs from now on.
    pub(super) fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<(), Fault> {
        self.vring(index.into())?.started = true;
        if self.is_control(index.into()) {
            if !self.control.set_kick(fd.map(quiet)) {
                return Err(Fault::Parameters);
            }
        } else if index % 2 == 1
            && let Some(kick) = self.card.kicks.get(usize::from(index / 2))
        {
            kick.store(fd.map(|file| Arc::new(quiet(file))));
        }
        self.rebuild();
        Ok(())
    }

    /// The descriptor by which the driver is signalled.
    pub(super) fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<(), Fault> {
        self.vring(index.into())?;
        self.setup.interrupts.set(IrqKind::Msix, usize::from(index), fd.map(quiet));
        // A driver may have asked before there was anything to tell it by.
        self.setup.interrupts.raise(usize::from(index));
        Ok(())
    }

    /// The descriptor by which the VMM hears that a ring is broken.
    pub(super) fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<(), Fault> {
        self.vring(index.into())?;
        self.card.errors.set(IrqKind::Msix, index.into(), fd.map(quiet));
        Ok(())
    }

    /// The driver wants the ring served, or not.
    pub(super) fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<(), Fault> {
        self.vring(index)?.enabled = enable;
        self.rebuild();
        Ok(())
    }

    /// Bytes of the configuration space.
    pub(super) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        // What lies beyond the fields we have reads as zero: drivers ask for the newest layout they know.
        let setup = &self.setup;
        let config = features::config_space(setup.mac, setup.state.link_up(), setup.pairs, setup.mtu);
        let byte = |at: u32| config.get(at as usize).copied().unwrap_or(0);
        (offset..offset.saturating_add(size)).map(byte).collect()
    }

    /// New inflight memory, for the VMM to keep.
    pub(super) fn make_inflight(&self, wanted: &Description) -> Result<(Description, File), Fault> {
        InflightMemory::make(wanted, self.rings(), self.packed()).map_err(|why| self.refuse_inflight(&why))
    }

    /// Inflight memory that the VMM kept, or has from us.
    pub(super) fn take_inflight(&mut self, told: &Description, file: &File) -> Result<(), Fault> {
        if self.vrings.iter().any(|vring| vring.started) {
            return Err(self.refuse_inflight(&Refused::Running));
        }
        let memory = InflightMemory::take(told, file, self.rings(), self.packed());
        self.inflight = Some(memory.map_err(|why| self.refuse_inflight(&why))?);
        Ok(())
    }
}
