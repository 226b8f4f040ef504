//! Beacons between a switch's own uplinks: codec, who hears whom, verdicts.
//!
//! Link state says nothing about a switch two hops away. So every uplink sends a short broadcast, and every other
//! uplink of the same switch listens for it: what comes back in by another uplink has crossed the physical network.
//! An uplink that the others neither hear nor are heard by has a dead path, though its link be up.
//!
//! Pure: no I/O, no clock, no threads, no chance. Time comes in as a `Duration` since the switch's start, link states,
//! frames, key and nonce come in as arguments; frames to send, verdicts and events go out as values.
//!
//! ```text
//!   poll(now) ---> Schedule: which (uplink, VLAN) is due ---> codec::encode ---> Send --> uplink A
//!     |            one per interval, spread over its ticks    sign                          |
//!     |                                                                              physical network
//!     |                                                                                     |
//!     |            Edge A->B on the VLAN: heard at now <----- codec::decode <--- receive <- uplink B
//!     |                        |                              ours? intact? new?
//!     v                        v
//!   form verdicts <--- who hears whom (directed) ---> mutual components ---> rules ---> memory
//!     |                                                                       graph    judgement
//!     +--> verdict(team, VLAN): Ok, Failed{side}, Unknown; shotgun; filtered
//!     +--> events(): beacon.uplink.failed, beacon.vlan.failed, beacon.shotgun.on, ...
//! ```
//!
//! # Rules
//!
//! For the uplinks of a team that have link, on each VLAN and over all VLANs together ([`Outcome`]):
//!
//! | mutually connected components | verdict |
//! |---|---|
//! | one | all healthy |
//! | one has most members | its members are healthy, the others failed; the dead direction is told |
//! | several have most members (always so with two uplinks) | a tie: shotgun if configured, else the order stays; no one is failed |
//! | three uplinks or more, nobody hears anybody | the beacon path is filtered: alarm, link state decides; no one is failed |
//!
//! Two components join when an uplink of another team hears and is heard by both, and among components with equally
//! many members the one with most such witnesses is the larger one. So a team of two is told which one is dead if the
//! switch has a third uplink in the same network.
//!
//! Verdicts over all VLANs take an edge for alive if it is so on any VLAN. So a VLAN missing on one trunk fails that
//! VLAN there and not the uplink. Where a VLAN's own verdict is a tie or filtered, those are failed that are failed
//! over all VLANs, and the others unknown.
//!
//! # Times
//!
//! With interval I, threshold T and jitter J = I/8 (at least 2.5 ms, at most I/4):
//!
//! * An edge dies when its last beacon is older than the *window* W = T I + J. Beacons of a pair leave every I, late
//!   by at most J/2, so T - 1 losses in a row leave a gap of at most T I + J/2: a healthy path whose delay varies by
//!   less than J/2 never dies of them.
//! * A change for the worse holds while edges that are still alive are stale (older than W - I: dying of the same cut,
//!   perhaps) and the rules would say something else without them, or while one is young; at most for the *hold* time
//!   H = I + J. So a cut into two halves is not taken for the loss of the uplink whose turn comes first.
//! * Verdicts are formed every *tick*, I/32 or 1 ms. A dead path is told at the latest after
//!   W + H + 2 ticks = (T + 1) I + 2 J + 2 ticks < (T + 2) I; usually after W.
//! * An uplink is failed until one beacon in K rounds each, without a gap, went each way between it and a good one; K
//!   is the hysteresis, at most T + 1. So a healed path is back after K I + J + a tick < (T + 2) I. A tie or a
//!   filtered state ends likewise, or after (T + 1) I.
//! * An uplink that gets its link, or a VLAN that is new, is unknown for W; it is usable meanwhile.
//! * The clock stands still while the caller is late for [`Prober::poll`] by more than J/2: a thread that was kept from
//!   running for seconds has not heard that anything is dead. Bounds are in this clock's time.
//!
//! # Trust
//!
//! Anyone on the network can send such frames. Only those with our switch id, signed with the key of this start,
//! newer than the last one of the same pair and VLAN, younger than W, on the VLAN they were sent on, and not on the
//! uplink that sent them, count ([`Received`]). Everything else changes counters and nothing else.
#![forbid(unsafe_code)]

mod codec;
mod config;
mod edge;
mod events;
mod forming;
pub mod fuzz;
mod graph;
mod judgement;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod network_tests;
mod prober;
mod schedule;
mod setup;
mod show;
mod traffic;
mod verdict;

pub use codec::{BEACON_LEN, Beacon, DEFAULT_ETHERTYPE, HEARS_BITS, Key, Reject, SwitchId, decode, encode, is_beacon};
pub use config::{Config, ConfigError, MAX_INTERVAL, MAX_THRESHOLD, MAX_UPLINKS, MIN_INTERVAL};
pub use events::{Event, EventKind};
pub use graph::Outcome;
pub use prober::{Prober, Uplink};
pub use show::Heard;
pub use traffic::{Counters, Received, Send};
pub use verdict::{Health, Side, Verdict};
