//! The contract between a transport (vfio-user) and a device model.

use std::sync::Arc;

use dataplane::{Egress, Grace, Ingress, PortState};
use sharedmem::{DmaMap, SharedPage};
use wire::Mac;

use crate::irq::Interrupts;

/// What every device model is made from.
pub struct Setup {
    /// Port name, for log lines.
    pub name: String,
    /// The address the configuration assigned: the card's burned-in address.
    pub mac: Mac,
    /// Payload size of the switch in bytes (1280..=9190).
    pub mtu: u16,
    /// The port's shared state: the model publishes receive filters here and reads the link from it.
    pub state: Arc<PortState>,
    /// Interrupt lines towards the VMM.
    pub interrupts: Arc<Interrupts>,
    /// How to wait until all workers have let go.
    pub grace: Grace,
}

/// One base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Size in bytes, a power of two; 0 when the BAR does not exist.
    pub size: u32,
    /// True for I/O ports, false for (32-bit) memory.
    pub io: bool,
}

/// PCI identity and shape of a card; the `pci` module builds the configuration space from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciProfile {
    /// Vendor and device identifiers, likewise for the subsystem.
    pub vendor: u16,
    /// See `vendor`.
    pub device: u16,
    /// See `vendor`.
    pub subsystem_vendor: u16,
    /// See `vendor`.
    pub subsystem: u16,
    /// Revision identifier.
    pub revision: u8,
    /// The six BARs.
    pub bars: [Bar; 6],
    /// Number of MSI vectors offered (a power of two); 0 for none.
    pub msi_vectors: u16,
    /// Number of MSI-X vectors offered; 0 for none.
    pub msix_vectors: u16,
    /// BAR that holds the MSI-X table (offset 0) and the pending bits (offset half its size).
    pub msix_bar: u8,
    /// Value of the MIN_GNT and MAX_LAT registers.
    pub grant_latency: (u8, u8),
}

/// A register access that cannot be served; the transport answers it with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no register there")]
pub struct BadAccess;

/// The control-thread half of a card. Its worker halves are [`DeviceModel::ingress`] and
/// [`DeviceModel::egress`]; they share state inside the model's crate.
pub trait DeviceModel: Send {
    /// PCI identity and BARs; constant.
    fn pci(&self) -> &PciProfile;

    /// Reads `data.len()` bytes (1..=8, within the BAR, checked by the transport) at `offset` of `bar`.
    ///
    /// # Errors
    /// [`BadAccess`] for a width or place the card does not answer. (Where real hardware reads as all
    /// ones, the model returns that, not an error.)
    fn read(&mut self, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess>;

    /// Writes likewise.
    ///
    /// # Errors
    /// [`BadAccess`].
    fn write(&mut self, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess>;

    /// The page behind `bar`, when the VMM may map it: then accesses to it need no message, and the
    /// transport serves those that come as messages from the page too.
    fn bar_page(&self, bar: u8) -> Option<&SharedPage>;

    /// The VMM changed the DMA map. From now on `map` is to be used. Rings that no longer lie in
    /// it stop the card. When this returns, no new use of the old map begins; the transport then waits
    /// for the grace period before it lets go of the old map.
    fn set_map(&mut self, map: Arc<DmaMap>);

    /// The card is reset (device reset, or the VMM went away): driver stopped, rings forgotten,
    /// registers as after power-on, interrupts low. Waits for the grace period itself.
    fn reset(&mut self);

    /// Called when the switch changed the port's link state (see [`PortState::link_up`]).
    fn link_changed(&mut self);

    /// The transmit queues, once, at the start: they stay valid across resets.
    fn ingress(&mut self) -> Vec<Box<dyn Ingress>>;

    /// The receive path; any number of times.
    fn egress(&self) -> Arc<dyn Egress>;
}
