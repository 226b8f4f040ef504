//! What size costs: more ports, more addresses, more VLANs; and what a second worker brings.
//!
//! ```text
//!   guests' virtio rings --Worker::turn()--> guests' virtio rings       one thread: only the turns are timed
//! ```
//!
//! The guests' part is done between the turns, in the same thread, and not counted.

mod cases;
mod pairs;
mod plot;
mod report;

pub use cases::{AXES, Axis, Case, Site};
pub use pairs::{Pace, Work, measure};
pub use plot::plot;
pub use report::{Measured, Results, put, sizes, workers};
