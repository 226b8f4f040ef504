//! The way in: from the interface's user to the data path.
//!
//! Frames are packed one behind the other into a buffer that fits the cache: what the kernel copies in is still there
//! when it is copied out. A burst ends when [`FILL`] bytes are in it; large segments come a few at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dataplane::{Arm, Burst, DropReason, Ingress, MAX_FRAME, Sink, VNET_LEN, VnetHeader};
use sharedmem::{SharedPage, Slice};
use wire::TAG_LEN;

use super::{Shared, device};

/// Bytes of a burst after which no more frames are read.
pub(super) const FILL: usize = 128 << 10;
/// Room for the longest frame and its header, and one byte more, by which a longer one is known.
const LONGEST: usize = VNET_LEN + MAX_FRAME + TAG_LEN + 1;
/// Frames begin on a cache line...
const LINE: usize = 64;
/// ...less this, so that the payload of most large segments does: Ethernet 14, IPv4 20, TCP with time stamps 32, the
/// header before all that.
const LEAD: usize = 2 * LINE - VNET_LEN - 66;
/// Bytes of the buffer.
const BUFFER: usize = (LEAD + FILL + LINE + LONGEST).next_multiple_of(4096);

/// One queue, towards the switch.
pub(super) struct Queue {
    shared: Arc<Shared>,
    index: usize,
    buffer: SharedPage,
    /// The life whose descriptor is good for nothing any more.
    dead: u64,
}

impl Queue {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> io::Result<Queue> {
        let buffer = SharedPage::new("vswitch-tap", BUFFER)?;
        // Its pages are to be there when the first frame comes.
        let whole = buffer.slice();
        (0..BUFFER).step_by(4096).for_each(|at| {
            whole.write_at(at, &[0]);
        });
        Ok(Queue { shared, index, buffer, dead: 0 })
    }
}

impl Ingress for Queue {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        // Held until the burst is forwarded; dropped before the turn ends, as Grace wants it.
        let life = self.shared.life.load();
        let Some(life) = life.as_deref().filter(|life| life.generation != self.dead) else { return 0 };
        let Some(fd) = life.queues.get(self.index) else { return 0 };
        let mut burst = Burst::new();
        if !harvest(fd, &self.buffer, &mut burst) {
            self.dead = life.generation;
        }
        let taken = burst.harvested();
        if taken > 0 {
            sink.forward(&burst);
        }
        taken
    }

    fn arm(&mut self) -> Arm {
        let life = self.shared.life.load();
        // Of a dead one the control thread will hear, and wake us when there is another.
        let Some(life) = life.as_deref().filter(|life| life.generation != self.dead) else { return Arm::Quiet };
        life.queues.get(self.index).map_or(Arm::Quiet, |fd| Arm::Kick(fd.clone()))
    }
}

/// Reads frames until there is none, or the burst is full. False when the descriptor is good for nothing any more.
#[inline]
fn harvest<'m>(fd: &OwnedFd, buffer: &'m SharedPage, burst: &mut Burst<'m>) -> bool {
    let whole = buffer.slice();
    let mut at = LEAD;
    while at < FILL && burst.has_room() {
        let Some(room) = whole.sub(at, LONGEST) else { break };
        match device::read(fd, &room) {
            Ok(got) => {
                take(&room, got, burst);
                at += got.next_multiple_of(LINE);
            }
            Err(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS) => break,
            Err(_) => return false,
        }
    }
    true
}

/// Adds the frame of which `got` bytes lie in `room`, header included, to the burst, or counts why not.
#[inline]
fn take<'m>(room: &Slice<'m>, got: usize, burst: &mut Burst<'m>) {
    let len = got.saturating_sub(VNET_LEN);
    if got >= room.len() {
        return burst.reject(DropReason::Oversize, len);
    }
    let mut header = [0; VNET_LEN];
    let Some(frame) = room.sub(VNET_LEN, len).filter(|_| room.read_at(0, &mut header)) else {
        return burst.reject(DropReason::BadDescriptor, len);
    };
    match VnetHeader::from_bytes(header).offload(&[frame]) {
        Ok(offload) => burst.push(&[frame], None, offload),
        Err(reason) => burst.reject(reason, len),
    }
}
