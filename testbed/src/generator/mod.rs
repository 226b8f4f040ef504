//! The packet generator: frames from one station to another through any switch, counted, paced and timed.
//!
//! ```text
//!   Load: sizes, flows, addresses --> frames laid in the sender's pool
//!   run:      A posts batches --> switch --> B takes what came        one thread does both ends
//!   search:   run at a rate; lost? lower : higher                     RFC 2544, 26.1
//!   latency:  A posts one, B looks until it is there                  histogram
//! ```

mod load;
mod run;
mod search;
mod station;

pub use load::{Load, Sizes};
pub use run::{Outcome, Rate, latency, run};
pub use search::search;
pub use station::{Station, StationSpec, open};
