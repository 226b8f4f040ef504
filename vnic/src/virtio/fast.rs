//! The fast lane into a receive queue: frames that go out as they came in, each into a buffer of one descriptor.

use std::sync::PoisonError;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, Frame, Tally, VNET_LEN};
use sharedmem::{MemTable, Slice, SpanHint};

use super::chain::single;
use super::ring::Virtq;
use super::rx::{HEADER, Path};

/// Plain frames, and for each the whole buffer reserved for it, header and all.
type Pairs<'m, 'b> = ArrayVec<(&'b Frame, Slice<'m>), BURST>;

/// The header, `P` bytes long, of a frame nothing is said of: all zeros but the count of buffers in the longer one.
#[inline(always)]
fn plain_header<const P: usize>() -> [u8; P] {
    let mut header = [0; P];
    if let Some(buffers) = header.get_mut(VNET_LEN) {
        *buffers = 1;
    }
    header
}

impl<'a, R: Virtq> Path<'a, R> {
    /// The fast lane: plain frames from the start of `list`, each into a buffer of one descriptor that holds it. Returns
    /// how many it was, and true when the driver is to be told. Stops at the first frame or buffer of another kind, and
    /// when the ring is empty.
    #[inline]
    pub(super) fn deliver_plain(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> (usize, bool) {
        let (mut ids, mut pairs) = ([0; BURST], ArrayVec::new());
        let start = self.reserve_plain(burst, list, &mut ids, &mut pairs);
        if pairs.is_empty() {
            return (0, false);
        }
        let bytes = if self.header == HEADER {
            fill_plain::<HEADER>(self.ring, burst, start, &ids, &pairs)
        } else {
            fill_plain::<VNET_LEN>(self.ring, burst, start, &ids, &pairs)
        };
        tally.delivered_all(pairs.len(), bytes);
        (pairs.len(), self.finish(start, start.wrapping_add(pairs.len() as u16)))
    }

    /// Reserves a buffer for each frame, as long as all is plain; returns where they start.
    #[inline]
    fn reserve_plain<'b>(
        &self,
        burst: &'b Burst<'_>,
        list: &[Delivery],
        ids: &mut [u16; BURST],
        pairs: &mut Pairs<'a, 'b>,
    ) -> u16 {
        let mut positions = self.state.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let start = positions.next;
        let wanted = &mut ids[..list.len().min(BURST)];
        // A ring that makes no sense is the other lane's to find.
        let there = self.ring.singles(start, &mut positions.avail, wanted).unwrap_or(0);
        rooms(self.ring, &self.active.table, burst, list, (start, &ids[..there]), self.header, pairs);
        positions.next = start.wrapping_add(pairs.len() as u16);
        start
    }
}

/// The frames of `list`, as long as they are plain and the buffers from position `start` on, whose chains are `ids`,
/// hold them in one piece.
#[inline(never)]
fn rooms<'m, 'b>(
    ring: &impl Virtq,
    table: &'m MemTable,
    burst: &'b Burst<'_>,
    list: &[Delivery],
    (mut at, ids): (u16, &[u16]),
    header: usize,
    pairs: &mut Pairs<'m, 'b>,
) {
    let mut hint = SpanHint::default();
    let mut lookup = table.lookup(&mut hint);
    for (delivery, id) in list.iter().zip(ids) {
        let Some(frame) = burst.plain(delivery) else { break };
        let Some(room) = ring.first(at, *id).and_then(|desc| single(&mut lookup, &desc, true)) else { break };
        room.prefetch_write();
        at = at.wrapping_add(1);
        if room.len() < frame.len() + header || pairs.try_push((frame, room)).is_err() {
            break;
        }
    }
}

/// Writes header, frame and used entry of each; returns the bytes of the frames. `P` is the length of the header.
#[inline(never)]
fn fill_plain<const P: usize>(
    ring: &impl Virtq,
    burst: &Burst<'_>,
    start: u16,
    ids: &[u16; BURST],
    pairs: &[(&Frame, Slice<'_>)],
) -> usize {
    let (header, mut index, mut bytes) = (plain_header::<P>(), start, 0);
    for ((frame, room), id) in pairs.iter().zip(ids) {
        // Cannot fail: the room was measured when it was reserved.
        let _ = burst.write_plain(frame, &header, room, false);
        ring.put_used(index, *id, (P + frame.len()) as u32);
        index = index.wrapping_add(1);
        bytes += frame.len();
    }
    bytes
}
