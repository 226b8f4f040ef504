//! Ports, bursts, the forwarding decision and the workers that carry it out.
//!
//! A worker polls the ingress queues it owns. Each gives a [`Burst`] of frames whose payload still
//! lies in the sender's memory; the stages admit, resolve and deliver it, and only then does the
//! sender get its descriptors back.
//!
//! ```text
//!  Ingress::poll --> Burst of 32 --admit--> resolve --> per-destination lists --deliver--> Egress
//!   (a guest's TX     heads read   port      (VLAN,MAC)   Delivery{frame, tag}    reserve locked,
//!    ring, an         once         policy    -> ports,                            copy unlocked,
//!    uplink's RX)                            team->uplink                         publish, notify
//!        ^                                                                              |
//!        +----- the sender's descriptors complete after forward() returns <-------------+
//!
//!  control thread --> Snapshot (immutable, swapped) --> each worker at the top of its turn
//!                 <-- Counters (one shard per worker), Grace (a tick per turn)
//! ```
//!
//! Nothing here knows a kind of device: `vnic` and `uplink` implement [`Ingress`] and [`Egress`].
//!
//! # LOCKING
//!
//! The mutable state that threads share, all of it:
//!
//! | state | written by | read by | how |
//! |---|---|---|---|
//! | current [`Snapshot`] | control | workers | `ArcSwap`, looked at once per turn |
//! | [`IngressSlot`] | control, workers | workers | a mutex, taken when the snapshot changes, not per turn |
//! | [`PortState`] (connected, link, filter) | control (for the device model) | workers | atomics and `ArcSwap` |
//! | [`Counters`] | one worker per shard | control | relaxed atomics |
//! | [`Grace`] ticks and beds | one worker each | control | atomics; an eventfd wakes a sleeper |
//! | [`Inbox`] | workers | control | a bounded lock-free queue |
//! | [`Learned`] addresses | workers, control (aging) | workers, control | atomics; a change tries a lock per part, and only control waits for it |
//! | [`Workers`]: the clock that learning goes by | control, about once a second | workers, once per turn | a relaxed atomic |
//! | [`Workers`]: the order to stop | control, once | workers, once per turn | an atomic; the eventfds of [`Grace`] wake sleepers |
//! | [`Workers`]: loads (time with work, turns) | one worker each | control | relaxed atomics |
//! | a port's egress ring position, virtio | workers | workers | one word, claimed by compare-and-swap and published in the order of the claims; where chains must be walked before it is known how many positions a frame takes, the word is held meanwhile, and other workers with frames for that queue wait: they spin, then yield |
//! | what a receive queue, virtio, lately met: buffers of one piece, frames from memory | workers, when it changes | workers | relaxed atomics; hints, from which nothing but speed follows |
//! | a port's egress ring position, else | workers | workers | the egress's own short lock, never held over a copy or a system call |
#![forbid(unsafe_code)]

mod addresses;
mod admit;
mod burst;
mod conversation;
mod copy;
mod counters;
mod draft;
mod drops;
mod emit;
mod expected;
mod forward;
mod frame;
mod grace;
mod inbox;
mod lane;
mod learning;
mod lists;
mod look;
mod originate;
mod pause;
mod plain;
mod ports;
mod resolve;
mod rota;
mod snapshot;
pub mod vnet;
mod worker;

pub use burst::Burst;
pub use conversation::conversation;
pub use counters::{Counters, PortTotals, Tally};
pub use drops::DropReason;
pub use emit::{Caps, MAX_SEGMENTS, Plan, Scattered};
pub use frame::{BURST, Csum, Frame, Gso, GsoKind, HEAD_MAX, MAX_FRAME, MAX_FRAME_SLICES, Offload};
pub use grace::{Grace, Ticker};
pub use inbox::{HEARD_MAX, Heard, Inbox};
pub use learning::{Learned, Outcome, PARTS as LEARNED_PARTS, Probe, Seconds};
pub use originate::Originator;
pub use pause::{Idle, LONGEST_NAP, LONGEST_SPIN, SPIN};
pub use ports::{
    Arm, Delivery, Egress, Ingress, IngressSlot, Multicast, PortId, PortState, RxFilter, Sink, UnicastFilter,
};
pub use snapshot::{Address, PortEntry, Role, Snapshot, UplinkRole, VnicRole};
pub use vnet::{VNET_LEN, VnetHeader};
pub use worker::{Worker, Workers};
