//! Port groups: labels, VLAN modes and security policy, compiled to a flat per-port policy.
//!
//! Pure: no I/O, no clock, no threads. The data path asks a [`Policy`] two questions per frame.
//!
//! ```text
//!  guest frame + its tag --admit--> VLAN domain (or VlanMismatch)
//!                                       |
//!                  lookup among ports whose policy is a member of that domain
//!                                       |
//!  VLAN domain + priority --egress_tag--> the tag the receiving port sees (or none)
//! ```
//!
//! The three modes are those of ESX (esx: "External, Virtual switch, Virtual Guest Tagging"):
//! EST carries untagged frames of domain 0, VST one VLAN the guest never sees, VGT the guest's own
//! tags within a set.
#![forbid(unsafe_code)]

mod policy;
mod vlans;

pub use policy::{Policy, Security, VlanMismatch, VlanMode};
pub use vlans::{VlanSet, VlanSetError};
