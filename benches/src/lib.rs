//! How fast the switch is: what one frame costs in each stage, and the whole switch beside the ones people use.
//!
//! ```text
//!   Loom:   [memory port] --Burst--> admit, resolve, lists --Plan--> [memory port]   frames lie ready, room is always there
//!   Rings:  guest's TX ring --poll--> the same --deliver--> guest's RX ring          the guests' part is not counted
//!   stages: each arrow alone                       size: Rings with many ports, addresses, VLANs, and two workers
//!   side:   the whole program beside its peers, over sockets and namespaces
//! ```
//!
//! [`Loom`], [`Rings`], [`stages`] and [`size`] take a worker's turns in their own thread; [`side`] is `make bench`.
#![forbid(unsafe_code)]

mod cards;
mod guests;
pub mod lines;
mod loom;
mod rings;
pub mod side;
pub mod size;
pub mod stages;

pub use loom::{Loom, Shape};
pub use rings::Rings;
