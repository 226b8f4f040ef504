//! The control side of the switch: what it is told to be, and what it tells about itself.
//!
//! ```text
//!  config file --parse, validate--> Config (desired state) --plan--> Snapshot (immutable, swapped)
//!       |                                                               |
//!       +-- every problem: one sentence, file:line:column, the mend     v
//!                                                                    workers
//!  vswitch show --> control socket --Request--> event loop --reads------+
//!               <--------------------Status---- (counters, links, teams)
//! ```
//!
//! * [`config`] reads the file into a value; what it accepts, the rest of the switch need not doubt.
//! * [`api`] is the control socket's protocol: requests, answers and the status document.
//! * [`policy`] keeps links, beacons, teams and notices going; pure.
//! * [`runtime`] is the control thread: the event loop around cards, uplinks and workers.
//! * [`show`] lays a status document out in tables for people.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod policy;
pub mod runtime;
pub mod show;
