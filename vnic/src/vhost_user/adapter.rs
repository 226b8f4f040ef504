//! The one place that knows the `vhost` crate: its calls made into those of [`Device`], its types into ours.
//!
//! ```text
//!  whole message --> Handler --> crate: reads, checks, answers --> Peer (its trait) --> Device
//! ```
//! What the crate offers and we do not is refused here, so that the device has no method for it. What it does otherwise
//! than peers need, [`super::connection`] does in its place, and never asks here.
//!
//! The crate tells a peer of an error only that there was one; which it was goes to the log, in the crate's words. So a
//! [`Fault`] has the words of the error that it is there.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::device::Device;
use super::fault::Fault;
use super::memory::MemoryRegion;

const UNSUPPORTED: Error = Error::InvalidOperation("not offered");

/// Handles the messages of one peer, each in a call that blocks until the whole of it is there and answered.
pub(super) struct Handler {
    handler: BackendReqHandler<Mutex<Peer>>,
    peer: Arc<Mutex<Peer>>,
}

/// The device, and what was agreed with its VMM about the protocol itself.
struct Peer {
    device: Device,
    /// It may ask for an answer to any message.
    acknowledges: bool,
    /// It may ask for inflight memory and hand it back.
    keeps_inflight: bool,
    /// The channel for requests of ours, held for the peer's sake: user-mode Linux has no interrupts without.
    requests: Option<Backend>,
}

impl Handler {
    /// For a peer that has just connected by `stream`.
    pub(super) fn new(stream: UnixStream, device: Device) -> Handler {
        let peer = Peer { device, acknowledges: false, keeps_inflight: false, requests: None };
        let peer = Arc::new(Mutex::new(peer));
        Handler { handler: BackendReqHandler::from_stream(stream, peer.clone()), peer }
    }

    /// Handles the next message.
    pub(super) fn handle(&mut self) -> std::result::Result<(), Fault> {
        Ok(self.handler.handle_request()?)
    }

    /// True when answers to any message were agreed on.
    pub(super) fn acknowledges(&self) -> bool {
        self.with(|peer| peer.acknowledges)
    }

    /// True when inflight memory was agreed on.
    pub(super) fn keeps_inflight(&self) -> bool {
        self.with(|peer| peer.keeps_inflight)
    }

    /// Works with the card's control half.
    pub(super) fn with_device<T>(&self, work: impl FnOnce(&mut Device) -> T) -> T {
        self.with(|peer| work(&mut peer.device))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Peer) -> T) -> T {
        work(&mut self.peer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        match error {
            Error::InvalidParam => Fault::Parameters,
            Error::InvalidMessage => Fault::Message,
            Error::IncorrectFds => Fault::Descriptors,
            other => Fault::Protocol(other.to_string()),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::Parameters => Error::InvalidParam,
            Fault::Message => Error::InvalidMessage,
            Fault::Descriptors => Error::IncorrectFds,
            // The device makes none of these.
            Fault::Protocol(_) => Error::BackendInternalError,
        }
    }
}

impl From<&VhostUserMemoryRegion> for MemoryRegion {
    fn from(told: &VhostUserMemoryRegion) -> MemoryRegion {
        MemoryRegion {
            guest: told.guest_phys_addr,
            size: told.memory_size,
            user: told.user_addr,
            offset: told.mmap_offset,
        }
    }
}

impl VhostUserBackendReqHandlerMut for Peer {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.offered())
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        Ok(self.device.set_features(accepted)?)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut offered = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        offered.set(VhostUserProtocolFeatures::MQ, self.device.pairs() > 1);
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
        let regions: Vec<MemoryRegion> = regions.iter().map(MemoryRegion::from).collect();
        self.device.set_memory(&regions, &files)?;
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
        self.device.add_memory(&MemoryRegion::from(&**region), &file)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Ok(self.device.remove_memory(&MemoryRegion::from(&**region))?)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        Ok(self.device.set_vring_size(index, num)?)
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
        Ok(self.device.set_vring_places(index, [descriptor, available, used])?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        Ok(self.device.set_vring_base(index, base)?)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        Ok(VhostUserVringState::new(index, self.device.stop_vring(index)?))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_vring_kick(index, fd)?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_vring_call(index, fd)?)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_vring_err(index, fd)?)
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.device.pairs() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        Ok(self.device.set_vring_enable(index, enable)?)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(self.device.config(offset, size))
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

    /// Never asked: the connection makes inflight memory itself, and the crate has no other length of this message.
    fn get_inflight_fd(&mut self, _wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(UNSUPPORTED)
    }

    /// Likewise.
    fn set_inflight_fd(&mut self, _told: &VhostUserInflight, _file: File) -> Result<()> {
        Err(UNSUPPORTED)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_the_words_of_the_error_that_it_is() {
        for error in [Error::InvalidParam, Error::InvalidMessage, Error::IncorrectFds, Error::Disconnected, UNSUPPORTED]
        {
            let words = error.to_string();
            assert_eq!(Fault::from(error).to_string(), words);
        }
        for fault in [Fault::Parameters, Fault::Message, Fault::Descriptors] {
            let words = fault.to_string();
            assert_eq!(Error::from(fault).to_string(), words);
        }
    }
}
