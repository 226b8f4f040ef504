//! What the tests drive the switch with: soft guests, simulated and real networks, and QEMU.

pub mod qemu;
