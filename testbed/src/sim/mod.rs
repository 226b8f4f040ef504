//! The switch's policies in a physical network made of chance, on a clock of its own.
//!
//! One seed is one run: a random configuration ([`Plan`]), a random network of learning switches and cables ([`Net`]),
//! and a story of faults. The policies are the real ones, `control::policy`, with the beacons they really send; forwarding
//! is an exact model of the data path ([`Model`]), which tests replace by the real stages.
//!
//! ```text
//!   seed --> Plan, Net, story of faults                                       hosts, strangers,
//!                |                                                            forgers outside
//!                v         links, beacons heard                                     |
//!   queue --> World ---------------------------> control::policy::Policies          |
//!   (virtual   |  ^                                  | placements, beacons,         |
//!    time)     |  |                                  v notices                      v
//!              |  +----- arrivals ------- Datapath (uplinks) <====== Net: switches, cables, faults
//!              v                              ^                        |
//!           checks <--- what guests and hosts got                     Truth: who really reaches whom,
//!              ^------------------------------------------------------ what the rules make of that
//! ```
//!
//! # What is checked
//!
//! *At every moment*: frames leave only by uplinks of the team's order with link, and by some if any has link;
//! no frame goes from uplink to uplink or back to its sender; no beacon, whosever, reaches a guest while beacons are
//! in use; a guest gets each frame once, unless its uplink changed meanwhile, or the physical network, not knowing where
//! the guest is, sent a frame for it everywhere, or, in shotgun on one VLAN alone, until a mended VLAN is heard on again;
//! a host gets each frame once, unless in shotgun.
//!
//! *Settled*: within `interval x (threshold + 2)` after the last change of the physical network (of links, cables, switches,
//! and the end of a stall of our own thread) every team has failed exactly those uplinks with link that the rules
//! fail, given who reaches whom ([`Truth`]); so traffic is on working ones, and no healthy one is failed. Shotgun
//! is on exactly in a tie, if configured. And so it stays until the next change, and through those that beacons have to
//! bear: fewer losses in a row than the threshold, damaged and doubled frames, varying delay, a control thread
//! that stands still, strangers, forgers.
//!
//! *Delivered*: then each guest reaches each host of its VLAN, and is reached, exactly once, if all uplinks that the rules
//! call healthy reach that host (in shotgun: if any does). A host that is cut off from the larger part of the
//! uplinks and not from the smaller cannot be known to the rules.
//!
//! With cables that lose beacons without end nothing settles, and only what holds at every moment is checked; so too while
//! paths come to life and beacons get lost, for a return is proven by beacons without a gap.
//!
//! Not here: `ip-hash`, which uses no beacons and needs a link aggregation group.

mod checks;
mod control_thread;
mod dice;
mod faults;
mod forward;
mod hostile;
mod net;
mod plan;
mod report;
mod story;
mod trace;
mod traffic;
mod truth;
mod world;

pub use dice::Dice;
pub use faults::Fault;
pub use forward::{Datapath, Fate, GuestPort, Model, Port, View, Wire};
pub use net::Net;
pub use plan::Plan;
pub use report::{Failure, Report, Seen};
pub use truth::{Expected, Rule, Truth};

use world::World;

/// Nanoseconds since the switch's start.
pub type Time = u64;

/// Plays the run of a seed.
///
/// # Errors
/// What went wrong first, with the seed and the last events in words.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    run_with(seed, Model::default)
}

/// The same with another data path, fresh for every call of `datapath`.
///
/// # Errors
/// What went wrong first.
pub fn run_with<D: Datapath>(seed: u64, mut datapath: impl FnMut() -> D) -> Result<Report, Box<Failure>> {
    match World::new(seed, datapath(), false).and_then(World::play) {
        Ok((report, _)) => Ok(report),
        // Once more, with words.
        Err(first) => match World::new(seed, datapath(), true).and_then(World::play) {
            Err(failure) => Err(failure),
            Ok(_) => Err(Box::new(Failure { what: format!("{}; and not when run again", first.what), ..*first })),
        },
    }
}

/// Plays the run of a seed and tells every event in words.
///
/// # Errors
/// What went wrong first.
pub fn narrate(seed: u64) -> Result<(Report, Vec<String>), Box<Failure>> {
    World::new(seed, Model::default(), true).and_then(World::play)
}
