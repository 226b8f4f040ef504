//! Which uplink carries which port: failover order, health, balancing, and whom to tell.
//!
//! Pure: link states, beacon verdicts, loads and the time (since the switch's start) come in as
//! arguments, decisions go out as values. Uplinks and ports are numbers of the caller's choice.
//!
//! ```text
//!  netlink --> Links (flap guard) --link--+                         one Links per switch
//!                                         v
//!  beacon verdicts, shotgun parts ---> Team                         one Team per port group
//!                                         |  health:  link, beacon, up-delay  --> who is ready
//!                                         |  order:   active [u0 u1] standby [u2], unused: the rest
//!                                         |           --> in use: the active that are ready, and for
//!                                         |               each that is not, the next standby that is
//!                                         v  spread:  sticky places of ports, or of 256 hash buckets
//!              place(port, mac) --> Placement { send: One | Hash | All | None,  receive }  --> snapshot
//!                                         |
//!              where it sends changed ----+--> Notifier --paced--> RARP frames (rarp_frame)
//! ```
//!
//! A place stays where it is unless its uplink goes out of use, or its home uplink works again and
//! the team fails back. So the failure of an uplink moves only what was on it, and its return moves
//! back only what had moved.
#![forbid(unsafe_code)]

mod choice;
mod events;
mod hash;
mod health;
mod links;
mod load;
mod notify;
mod rarp;
mod settings;
mod spread;
mod team;

pub use choice::{BUCKETS, Choice, HashKind, Placement, Receive};
pub use events::{Cause, Event, EventKind, Severity};
pub use hash::{hash_ip, hash_mac};
pub use health::{Beacon, Why};
pub use links::{FLAP_LIMIT, FLAP_WINDOW, Links};
pub use load::{Loads, UplinkLoad};
pub use notify::{Announcement, BACK_OFF, Notifier, PER_INTERVAL};
pub use rarp::{ETHERTYPE_RARP, rarp_frame};
pub use settings::{Balancing, LoadRule, Order, Settings, UP_DELAY, UP_DELAY_MAX};
pub use team::{Status, Team, UplinkState};
