//! How fast the switch is: what one frame costs in each stage, and the whole switch beside the ones people use.
//!
//! ```text
//!   Loom: [memory port] --Burst--> admit, resolve, lists --Plan--> [memory port]     one thread, turn by turn
//!          frames lie ready                                        room is always there
//! ```
//!
//! [`side`] is the whole program beside its peers, for `make bench`. [`Loom`] is the data path with nothing around it: its ports' rings are plain arrays of buffers, so what is counted
//! or timed is `dataplane` alone. The real rings stand beside it in the same benches.
#![forbid(unsafe_code)]

mod loom;
mod rings;
pub mod side;
pub mod size;
pub mod stages;

pub use loom::{Loom, Shape};
pub use rings::Rings;
