//! Frames the switch sends of its own accord: beacons and notices to physical switches.

use std::io;

use sharedmem::SharedPage;
use wire::Tag;

use crate::snapshot::Snapshot;
use crate::{Burst, Delivery, Offload, PortId, Tally};

/// Bytes of memory frames are sent from.
const ROOM: usize = 4096;

/// Sends single frames by any port, from the control thread. They are counted on the port as offered and
/// originated.
pub struct Originator {
    room: SharedPage,
}

impl Originator {
    /// Makes the memory to send from.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn new() -> io::Result<Originator> {
        Ok(Originator { room: SharedPage::new("vswitch-originate", ROOM)? })
    }

    /// Sends `frame` (untagged, at most 4096 bytes) by `port`, with `tag`. True when the port took it.
    pub fn send(&self, snapshot: &Snapshot, port: PortId, frame: &[u8], tag: Option<Tag>) -> bool {
        let Some(entry) = snapshot.port(port) else { return false };
        let memory = self.room.slice();
        let Some(piece) = memory.sub(0, frame.len()) else { return false };
        if !piece.write_at(0, frame) {
            return false;
        }
        let mut burst = Burst::new();
        burst.push(&[piece], None, Offload::default());
        if burst.frames().is_empty() {
            return false;
        }
        let mut tally = Tally::new();
        entry.egress.deliver(&burst, &[Delivery::new(0, tag)], &mut tally);
        entry.counters.count_originated(&tally);
        tally.frames() > 0
    }
}
