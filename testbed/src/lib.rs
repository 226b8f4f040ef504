//! What the tests and the demo drive the switch with: everything that stands outside it.
//!
//! ```text
//!   qemu:  real guests, stock drivers ---+                     +--- netns: real kernels, cables to pull
//!                                        +==[ vswitch run ]==+
//!   soft:  guests in this process -------+     switch.rs       +--- (topology) labs from a file
//!          the driver side of each card
//! ```
//!
//! `uml`: stock Linux as an ordinary process, on the sockets of virtio cards. `generator` sends frames through any switch as fast as they go, and counts.
//!
//! A frame here starts or ends outside the switch: in a guest's driver, in a namespace's kernel, or in a raw
//! socket on a cable. Nothing in this crate knows the switch's insides; it speaks to sockets and interfaces. But for
//! `sim`, which plays the switch's policies, without the switch, in networks made of chance.
#![forbid(unsafe_code)]

pub mod generator;
pub mod netns;
pub mod qemu;
pub mod sim;
pub mod soft;
pub mod switch;
pub mod topology;
pub mod uml;
