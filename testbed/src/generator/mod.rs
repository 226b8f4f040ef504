//! The packet generator: frames from one station to another through any switch, counted, checked, paced and timed.
//!
//! ```text
//!   Load: sizes, flows, addresses --> Stream: signed frames, laid in the sender's pool
//!   run:      A posts batches --> switch --> B takes what came        one thread does both ends
//!                                            Checker: ours or foreign?
//!             now and then a marked frame -------------> histogram    latency under load
//!   search:   run at a rate; lost? lower : higher                     RFC 2544, 26.1
//!   latency:  A posts one, B looks until it is there                  histogram
//! ```

mod check;
mod clock;
mod guest;
mod load;
mod run;
mod search;
mod station;

pub use check::{Came, Checker, PROBES, Stream};
pub use clock::Rate;
pub use load::{Load, Sizes};
pub use run::{End, Outcome, Plan, SideOutcome, Totals, latency, run};
pub use search::search;
pub use station::{DriverWish, Kind, Opening, Place, Station, StationSpec, open, parse_vlan};
