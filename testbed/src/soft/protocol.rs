//! The vfio-user protocol as numbers and bytes, in the order of the host (both ends are on it).
//!
//! Facts: the vfio-user specification (QEMU's `docs/interop/vfio-user.rst`), `linux/vfio.h`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sharedmem::Region;

/// Commands by number.
pub mod command {
    /// Version and capabilities.
    pub const VERSION: u16 = 1;
    /// Memory the device may use.
    pub const DMA_MAP: u16 = 2;
    /// Memory it may no longer use.
    pub const DMA_UNMAP: u16 = 3;
    /// Number of regions and interrupts.
    pub const GET_INFO: u16 = 4;
    /// A region's size and whether it can be mapped.
    pub const GET_REGION_INFO: u16 = 5;
    /// How many vectors an interrupt index has.
    pub const GET_IRQ_INFO: u16 = 7;
    /// Sets up, masks or unmasks interrupts.
    pub const SET_IRQS: u16 = 8;
    /// Reads registers.
    pub const REGION_READ: u16 = 9;
    /// Writes registers.
    pub const REGION_WRITE: u16 = 10;
    /// Resets the device.
    pub const RESET: u16 = 13;
}

/// VFIO's index of the PCI configuration space.
pub const CONFIG_REGION: u32 = 7;
/// Index of the INTx interrupt.
pub const IRQ_INTX: u32 = 0;
/// Index of MSI.
pub const IRQ_MSI: u32 = 1;
/// Index of MSI-X.
pub const IRQ_MSIX: u32 = 2;

/// Bytes of a header.
pub(super) const HEADER: usize = 16;
/// Most descriptors in a message.
pub(super) const MAX_FDS: usize = 16;
/// Longest reply believed.
pub(super) const MAX_REPLY: usize = 1 << 20;
/// Type of a reply.
pub(super) const FLAG_REPLY: u32 = 1;
/// The sender wants no reply.
pub(super) const FLAG_NO_REPLY: u32 = 1 << 4;
/// The command failed.
pub(super) const FLAG_ERROR: u32 = 1 << 5;
/// SET_IRQS without data.
pub(super) const DATA_NONE: u32 = 1;
/// SET_IRQS with eventfds.
pub(super) const DATA_EVENTFD: u32 = 4;
/// SET_IRQS masks.
pub(super) const ACTION_MASK: u32 = 8;
/// SET_IRQS unmasks.
pub(super) const ACTION_UNMASK: u32 = 16;
/// SET_IRQS sets up or takes down.
pub(super) const ACTION_TRIGGER: u32 = 32;
/// The region can be mapped.
pub(super) const REGION_MMAP: u32 = 4;
/// Capability with the mappable areas.
pub(super) const CAP_SPARSE_MMAP: u16 = 1;

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke, or no answer came in time.
    #[error("the switch's socket: {0}")]
    Io(#[from] io::Error),
    /// The switch answered with an error number.
    #[error("command {command} was refused: {error}")]
    Refused {
        /// Command number.
        command: u16,
        /// The errno it was refused with.
        error: io::Error,
    },
    /// The answer is not what the specification says.
    #[error("command {command}: {what}")]
    Protocol {
        /// Command number.
        command: u16,
        /// What is wrong.
        what: &'static str,
    },
}

impl CallError {
    /// The errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CallError::Refused { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }
}

/// One region of the device.
#[derive(Clone, Debug, Default)]
pub struct RegionInfo {
    /// Size in bytes; 0 when it does not exist.
    pub size: u64,
    /// VFIO flags: 1 readable, 2 writable, 4 can be mapped.
    pub flags: u32,
    /// The mappable part that starts at offset 0, mapped.
    pub page: Option<Arc<Region>>,
}

/// An answer: its payload and the descriptors that came with it.
#[derive(Debug, Default)]
pub struct Answer {
    /// What followed the header.
    pub payload: Vec<u8>,
    /// Descriptors.
    pub fds: Vec<OwnedFd>,
}

pub(super) fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn get64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

pub(super) fn write_payload(region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = offset.to_ne_bytes().to_vec();
    payload.extend(words(&[region, data.len() as u32]));
    payload.extend_from_slice(data);
    payload
}

/// The length of the first area of the sparse-mmap capability, when it starts at offset 0. `cap` counts
/// from the start of the payload.
pub(super) fn first_sparse_area(payload: &[u8], mut cap: usize) -> Option<u64> {
    while cap >= 32 {
        let head = get32(payload, cap)?;
        if head as u16 == CAP_SPARSE_MMAP {
            let areas = get32(payload, cap + 8)?;
            return (areas >= 1 && get64(payload, cap + 16)? == 0).then(|| get64(payload, cap + 24))?;
        }
        let next = get32(payload, cap + 4)? as usize;
        if next <= cap {
            return None;
        }
        cap = next;
    }
    None
}
