//! What the tests drive the switch with: soft guests, simulated and real networks, and QEMU.
#![forbid(unsafe_code)]

pub mod netns;
pub mod qemu;
pub mod soft;
pub mod switch;
