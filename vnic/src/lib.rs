//! Virtual network cards: the device models guests drive, and the transport a VMM reaches them by.
//!
//! ```text
//!   VMM (QEMU) ==unix socket== vfio_user::Server --- DeviceModel (vmxnet3 | vlance)
//!                              (control thread)        registers, commands, interrupts
//!   guest RAM  ==mmap========= DmaMap ----------------- rings, made when the driver starts the card
//!                                                         |                |
//!                                                  TxQueue: Ingress   RxPath: Egress     (workers)
//! ```
//!
//! A frame the guest sends: its driver fills descriptors, a worker's `Ingress::poll` sees them by their
//! ownership bit, hands the pieces to the data path, and completes the descriptors. A frame for the guest:
//! `Egress::deliver` reserves receive descriptors, copies, and completes them. No message passes on the
//! socket for either (vlance: register accesses do, as its registers are I/O ports).
//!
//! Everything a guest or a VMM sends is checked once where it is read. What is wrong with it costs that
//! port a frame, a register value or its connection, and nobody else anything.
#![forbid(unsafe_code)]

pub mod device;
pub mod irq;
pub mod pci;
mod tenant;
pub mod vfio_user;
pub mod vhost_user;
pub mod virtio;
pub mod vlance;
pub mod vmxnet3;
