//! The control half of a virtio card: what the VMM's messages say, made into rings for the workers.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::{Egress, Grace, Ingress, PortState};
use sharedmem::MemTable;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use wire::Mac;

use super::control::Control;
use super::inflight::{InflightMemory, Refused};
use super::memory::span;
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
    /// The peer may ask for an answer to any message.
    acknowledges: bool,
    /// The peer may ask for inflight memory and hand it back.
    keeps_inflight: bool,
    /// The channel for requests of ours, held for the peer's sake: user-mode Linux has no interrupts without.
    requests: Option<Backend>,
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
        Device {
            setup,
            card,
            features: 0,
            acknowledges: false,
            keeps_inflight: false,
            requests: None,
            table,
            vrings,
            control,
            inflight: None,
        }
    }

    /// The VMM has gone: workers let go of its memory before this returns.
    pub(super) fn stop(&mut self) {
        self.vrings = Default::default();
        self.features = 0;
        (self.requests, self.inflight) = (None, None);
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

    /// True when answers to any message were agreed on.
    pub(super) fn acknowledges(&self) -> bool {
        self.acknowledges
    }

    /// True when inflight memory was agreed on.
    pub(super) fn keeps_inflight(&self) -> bool {
        self.keeps_inflight
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        let (index, pairs) = (index as usize, self.setup.pairs);
        let there = index < pairs * 2 || features::control_queue(self.features, pairs) == Some(index);
        self.vrings.get_mut(index).filter(|_| there).ok_or(Error::InvalidParam)
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

    fn refuse_inflight(&self, why: &Refused) -> Error {
        tracing::warn!("vNIC {}: inflight memory was refused: {why}", self.setup.name);
        Error::InvalidParam
    }

    fn set_table(&mut self, table: MemTable) {
        self.table = Arc::new(table);
        self.rebuild();
    }
}

const UNSUPPORTED: Error = Error::InvalidOperation("not offered");

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        let packed = self.packed();
        self.vrings = Default::default();
        self.features = 0;
        self.control = Control::new(&self.setup);
        self.rebuild();
        (0..self.vrings.len()).for_each(|index| self.stopped(index, packed));
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features::offered(self.setup.pairs))
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        if accepted & !features::offered(self.setup.pairs) != 0 {
            return Err(Error::InvalidParam);
        }
        if accepted != self.features {
            self.features = accepted;
            self.control.begin(&self.setup, accepted);
            self.rebuild();
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut offered = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        offered.set(VhostUserProtocolFeatures::MQ, self.setup.pairs > 1);
        Ok(offered)
    }

    fn set_protocol_features(&mut self, accepted: u64) -> Result<()> {
        self.acknowledges = accepted & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        self.keeps_inflight = accepted & VhostUserProtocolFeatures::INFLIGHT_SHMFD.bits() != 0;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut table = MemTable::new();
        for (region, file) in regions.iter().zip(&files) {
            table = table.with(span(&self.setup.name, region, file)?).map_err(|_| Error::InvalidParam)?;
        }
        self.set_table(table);
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(sharedmem::MAX_SPANS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        let table = self.table.with(span(&self.setup.name, region, &file)?).map_err(|_| Error::InvalidParam)?;
        self.set_table(table);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let table = self.table.without(region.guest_phys_addr, region.user_addr, region.memory_size);
        self.set_table(table.map_err(|_| Error::InvalidParam)?);
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|n| n.is_power_of_two()).ok_or(Error::InvalidParam)?;
        self.vring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.vring(index)?.places = Some([descriptor, available, used]);
        self.rebuild();
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        // The upper half is where a packed ring's used entries go on: where the available ones do, for us.
        let base = if self.packed() { base as u16 } else { u16::try_from(base).map_err(|_| Error::InvalidParam)? };
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
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
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
        Ok(VhostUserVringState::new(index, told))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?.started = true;
        if self.is_control(index.into()) {
            if !self.control.set_kick(fd.map(quiet)) {
                return Err(Error::InvalidParam);
            }
        } else if index % 2 == 1
            && let Some(kick) = self.card.kicks.get(usize::from(index / 2))
        {
            kick.store(fd.map(|file| Arc::new(quiet(file))));
        }
        self.rebuild();
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?;
        self.setup.interrupts.set(IrqKind::Msix, usize::from(index), fd.map(quiet));
        // A driver may have asked before there was anything to tell it by.
        self.setup.interrupts.raise(usize::from(index));
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?;
        self.card.errors.set(IrqKind::Msix, index.into(), fd.map(quiet));
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.setup.pairs as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.enabled = enable;
        self.rebuild();
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // What lies beyond the fields we have reads as zero: drivers ask for the newest layout they know.
        let setup = &self.setup;
        let config = features::config_space(setup.mac, setup.state.link_up(), setup.pairs, setup.mtu);
        let byte = |at: u32| config.get(at as usize).copied().unwrap_or(0);
        Ok((offset..offset.saturating_add(size)).map(byte).collect())
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn set_backend_req_fd(&mut self, channel: Backend) {
        self.requests = Some(channel);
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(UNSUPPORTED)
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        InflightMemory::make(wanted, self.rings(), self.packed()).map_err(|why| self.refuse_inflight(&why))
    }

    fn set_inflight_fd(&mut self, told: &VhostUserInflight, file: File) -> Result<()> {
        if self.vrings.iter().any(|vring| vring.started) {
            return Err(self.refuse_inflight(&Refused::Running));
        }
        let memory = InflightMemory::take(told, &file, self.rings(), self.packed());
        self.inflight = Some(memory.map_err(|why| self.refuse_inflight(&why))?);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(UNSUPPORTED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(UNSUPPORTED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(UNSUPPORTED)
    }
}
