//! What goes out and what comes in.

use std::time::Duration;

/// A beacon to send.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// By which uplink.
    pub uplink: u16,
    /// The VLAN whose tag the port adds; 0 for none.
    pub vlan: u16,
    /// The untagged frame.
    pub frame: &'a [u8],
}

/// What a received frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// One of our beacons, and new.
    Counted,
    /// Another switch's.
    Foreign,
    /// Says it is ours and is not. After a restart also what the network still held of the last start's.
    Forged,
    /// Ours, but seen before, or too old.
    Replayed,
    /// Not a beacon, cut short, of another version, or on another VLAN than it was sent on.
    Bad,
    /// Ours, back on the uplink that sent it: there is a loop or a reflecting port upstream.
    Reflected,
    /// Ours, from, by or on something that is not probed: an uplink no team uses or without link, a VLAN just
    /// removed.
    Unprobed,
}

/// What one uplink sent and received, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Beacons given to the caller to send.
    pub sent: u64,
    /// See [`Received::Counted`].
    pub counted: u64,
    /// See [`Received::Foreign`].
    pub foreign: u64,
    /// See [`Received::Forged`].
    pub forged: u64,
    /// See [`Received::Replayed`].
    pub replayed: u64,
    /// See [`Received::Bad`].
    pub bad: u64,
    /// See [`Received::Reflected`].
    pub reflected: u64,
    /// See [`Received::Unprobed`].
    pub unprobed: u64,
    /// When a foreign beacon came last, by the prober's clock: a hint for people that the receiving side lives.
    /// Anyone can send such a frame, so no verdict rests on it.
    pub last_foreign: Option<Duration>,
}

impl Counters {
    pub(crate) fn count(&mut self, received: Received) {
        *match received {
            Received::Counted => &mut self.counted,
            Received::Foreign => &mut self.foreign,
            Received::Forged => &mut self.forged,
            Received::Replayed => &mut self.replayed,
            Received::Bad => &mut self.bad,
            Received::Reflected => &mut self.reflected,
            Received::Unprobed => &mut self.unprobed,
        } += 1;
    }
}
