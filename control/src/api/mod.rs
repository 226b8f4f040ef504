//! The control socket's protocol.
//!
//! A stream socket carries one JSON document a line, each way:
//!
//! ```text
//!  client                                              switch
//!    | {"id":1,"method":"show","params":{}}\n            |
//!    |-------------------------------------------------->|  Decoder -> Request
//!    |            {"id":1,"result":{"switch":...}}\n     |
//!    |<--------------------------------------------------|  Response::to_line
//!    |  or {"id":1,"error":{"message":"one sentence"}}\n |
//! ```
//!
//! Answers come in the order of the requests. A line is at most [`MAX_LINE`] bytes long towards the
//! switch. Methods: [`METHOD_SHOW`] answers a [`Status`], [`METHOD_PING`] an empty object.

pub mod client;
mod codec;
pub mod ledger;
mod status;
mod team_status;

pub use codec::{Decoder, Refusal, Request, Response};
pub use status::{
    BeaconCounts, EventStatus, In, LinkStatus, MAX_EVENTS, Out, PortGroupStatus, PortStatus, Role, Status,
    SwitchStatus, VlanStatus, WorkerStatus,
};
pub use team_status::{BeaconHealth, HearsStatus, TeamStatus, UplinkRole, UplinkStatus};

/// Longest request in bytes, its newline not counted.
pub const MAX_LINE: usize = 64 * 1024;
/// Asks for the [`Status`] document.
pub const METHOD_SHOW: &str = "show";
/// Asks whether anyone is there.
pub const METHOD_PING: &str = "ping";

#[cfg(test)]
pub(crate) use status::tests::sample as status_sample;
