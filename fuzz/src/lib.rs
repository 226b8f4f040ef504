//! What a guest, a VMM or a client may write, driven by arbitrary bytes.
//!
//! Each module is one target: a plain function over `&[u8]` that panics when something that must always hold
//! does not: no panic of the code under test, every frame accounted for, nothing written outside the memory that was
//! given.
//!
//! ```text
//!  cargo fuzz run TARGET --+                     +--> vfio_user, framing,    what a VMM sends
//!   (fuzz_targets/, sanitizers, coverage)        |    vhost_user
//!                          +--> TARGETS[i].1(&[u8]) --> vmxnet3, vlance, virtio   what a guest writes
//!                          |                     |
//!  cargo test  ------------+                     +--> frames, beacon         what lies in a frame
//!   (tests/replay.rs: seeds, regressions,        |
//!    pseudo-random inputs)                       +--> config, codec          what an administrator's tools send
//! ```
//!
//! Bytes are read front to back ([`Input`]); when they run out the run ends. So a shorter input is a simpler one, and
//! any bytes are an input. No threads, no clock, no chance: the same bytes do the same.
#![forbid(unsafe_code)]

pub mod beacon;
pub mod codec;
pub mod config;
pub mod frames;
pub mod framing;
mod input;
mod layout;
mod memory;
mod network;
mod segments;
pub mod vfio_user;
pub mod vhost_user;
pub mod virtio;
pub mod vlance;
pub mod vmxnet3;

pub use input::Input;

/// A target: its name, which is also that of its directories, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("vfio_user", vfio_user::run),
    ("framing", framing::run),
    ("vhost_user", vhost_user::run),
    ("vmxnet3", vmxnet3::run),
    ("vlance", vlance::run),
    ("virtio", virtio::run),
    ("frames", frames::run),
    ("beacon", beacon::run),
    ("config", config::run),
    ("codec", codec::run),
];
