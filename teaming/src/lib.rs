//! Which uplink carries which port: failover order, health and balancing.
//!
//! Pure: link states come in as events, decisions go out as values.
//!
//! ```text
//!  configured order:  active [u0 u1]  standby [u2]   (in neither list: unused)
//!  link events ---------------> usable? ----> in use: the active ones with link, and for each one
//!                                              that lacks it the next standby that has it
//!  port 7 --port-id: home = active[7 mod 2]--> home while in use, else another in use; it stays
//!                                              there until that fails or its home returns (failback)
//! ```
#![forbid(unsafe_code)]

mod team;

pub use team::{Order, Team, UplinkState};
