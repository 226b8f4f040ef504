//! The fast lane into a receive queue: frames that go out as they came in, each into a buffer of one descriptor.

use std::sync::PoisonError;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, Frame, Tally, VNET_LEN};
use sharedmem::{Slice, SpanHint};

use super::chain::single;
use super::rx::{HEADER, Path};

/// A plain frame and the buffer reserved for it.
struct Pair<'m, 'b> {
    frame: &'b Frame,
    /// The whole buffer, header and all.
    room: Slice<'m>,
    head: u16,
}

/// The header of a frame nothing is said of, in one buffer.
const PLAIN_HEADER: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

impl<'a> Path<'a> {
    /// The fast lane: plain frames from the start of `list`, each into a buffer of one descriptor that holds it. Returns
    /// how many it was, and true when the driver is to be told. Stops at the first frame or buffer of another kind, and
    /// when the ring is empty.
    #[inline]
    pub(super) fn deliver_plain(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> (usize, bool) {
        let ring = &self.queue.ring;
        let mut pairs: ArrayVec<Pair<'_, '_>, BURST> = ArrayVec::new();
        let start = self.reserve_plain(burst, list, &mut pairs);
        let mut bytes = 0;
        for (n, pair) in pairs.iter().enumerate() {
            let len = pair.frame.len();
            // Neither can fail: the room was measured when it was reserved.
            let told =
                pair.room.write_at(0, if self.header == HEADER { &PLAIN_HEADER } else { &PLAIN_HEADER[..VNET_LEN] });
            let frame = pair.room.sub(self.header, len);
            let _ = told && frame.is_some_and(|room| burst.write_plain(pair.frame, &room, false));
            ring.set_used(start.wrapping_add(n as u16), pair.head, (self.header + len) as u32);
            bytes += len;
        }
        if pairs.is_empty() {
            return (0, false);
        }
        tally.delivered_all(pairs.len(), bytes);
        (pairs.len(), self.finish(start, pairs.len() as u16))
    }

    /// Reserves a buffer for each frame, as long as all is plain. Returns where the reservation starts.
    #[inline]
    fn reserve_plain<'b>(
        &self,
        burst: &'b Burst<'_>,
        list: &[Delivery],
        pairs: &mut ArrayVec<Pair<'a, 'b>, BURST>,
    ) -> u16 {
        let (ring, table) = (&self.queue.ring, &*self.active.table);
        let mut positions = self.queue.state.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let start = positions.next;
        let wanted = list.len().min(BURST) as u16;
        let mut there = positions.avail.wrapping_sub(start);
        if there < wanted {
            let avail = ring.avail_idx();
            // What makes no sense is the other lane's to find.
            if avail.wrapping_sub(start) <= ring.size() {
                positions.avail = avail;
                there = avail.wrapping_sub(start);
            }
        }
        let there = there.min(wanted);
        for n in 0..there {
            ring.prefetch(ring.avail(start.wrapping_add(n)));
        }
        let mut hint = SpanHint::default();
        for (n, delivery) in list.iter().take(usize::from(there)).enumerate() {
            let Some(frame) = burst.plain(delivery) else { break };
            let head = ring.avail(start.wrapping_add(n as u16));
            let room = ring.desc(head).and_then(|desc| single(table, &mut hint, &desc, true));
            let Some(room) = room.filter(|room| room.len() >= frame.len() + self.header) else { break };
            room.prefetch_write();
            // Cannot fail: not more than a burst are taken.
            let _ = pairs.try_push(Pair { frame, room, head });
        }
        positions.next = start.wrapping_add(pairs.len() as u16);
        start
    }
}
