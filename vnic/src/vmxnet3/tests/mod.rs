//! The card against a driver written for the purpose, over a real shared file.

mod device;
mod driver;
mod hostile;
mod receive;
mod transmit;
