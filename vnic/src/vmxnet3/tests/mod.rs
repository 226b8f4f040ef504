//! The card against a driver written for the purpose, over a real shared file.

mod device;
pub(super) mod driver;
mod hostile;
mod large;
mod queues;
mod receive;
mod transmit;
