//! Beacons between a switch's own uplinks: codec, who hears whom, verdicts.
//!
//! ```text
//!  placeholder
//! ```
#![forbid(unsafe_code)]
