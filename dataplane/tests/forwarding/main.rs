//! The forwarding stages from outside: whole frames in at one port, whole frames out at others.
//!
//! ```text
//!  Source (an Ingress) --> worker: admit, resolve, deliver --> Recorder (an Egress)
//!   frames in its own region     the real thing                 frames in its own region
//!                                        |
//!      cases/*.toml, a model of the rules, or a property says what must come out, to the frame
//! ```
//!
//! `cases` runs the table cases, `properties` random switches against `model`, `learning` those whose ports learn
//! addresses, frame by frame and by a clock of its own, `workers` several workers while the configuration changes,
//! `inbox` and `originate` the frames that are for the switch itself and from it.

mod cases;
mod fake;
mod frames;
mod inbox;
mod learning;
mod learnt;
mod lockstep;
mod model;
mod originate;
mod properties;
mod spec;
mod switch;
mod traffic;
mod workers;
