//! The fast lane into a receive queue: frames that go out as they came in, each into a buffer of one descriptor.

use std::sync::PoisonError;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Delivery, Frame, Tally, VNET_LEN};
use sharedmem::{MemTable, Slice, SpanHint, SplitRing};

use super::chain::single;
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

impl<'a> Path<'a> {
    /// The fast lane: plain frames from the start of `list`, each into a buffer of one descriptor that holds it. Returns
    /// how many it was, and true when the driver is to be told. Stops at the first frame or buffer of another kind, and
    /// when the ring is empty.
    #[inline]
    pub(super) fn deliver_plain(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) -> (usize, bool) {
        let (mut heads, mut pairs) = ([0; BURST], ArrayVec::new());
        let start = self.reserve_plain(burst, list, &mut heads, &mut pairs);
        if pairs.is_empty() {
            return (0, false);
        }
        let bytes = if self.header == HEADER {
            fill_plain::<HEADER>(&self.queue.ring, burst, start, &heads, &pairs)
        } else {
            fill_plain::<VNET_LEN>(&self.queue.ring, burst, start, &heads, &pairs)
        };
        tally.delivered_all(pairs.len(), bytes);
        (pairs.len(), self.finish(start, pairs.len() as u16))
    }

    /// Reserves a buffer for each frame, as long as all is plain; returns where they start.
    #[inline]
    fn reserve_plain<'b>(
        &self,
        burst: &'b Burst<'_>,
        list: &[Delivery],
        heads: &mut [u16; BURST],
        pairs: &mut Pairs<'a, 'b>,
    ) -> u16 {
        let ring = &self.queue.ring;
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
        let heads = &mut heads[..usize::from(there.min(wanted))];
        ring.avail_run(start, heads);
        heads.iter().for_each(|head| ring.prefetch(*head));
        rooms(ring, &self.active.table, burst, list, heads, self.header, pairs);
        positions.next = start.wrapping_add(pairs.len() as u16);
        start
    }
}

/// The frames of `list`, as long as they are plain and the buffers of `heads` hold them in one piece.
#[inline(never)]
fn rooms<'m, 'b>(
    ring: &SplitRing,
    table: &'m MemTable,
    burst: &'b Burst<'_>,
    list: &[Delivery],
    heads: &[u16],
    header: usize,
    pairs: &mut Pairs<'m, 'b>,
) {
    let mut hint = SpanHint::default();
    let mut lookup = table.lookup(&mut hint);
    for (delivery, head) in list.iter().zip(heads) {
        let Some(frame) = burst.plain(delivery) else { break };
        let Some(room) = ring.desc(*head).and_then(|desc| single(&mut lookup, &desc, true)) else { break };
        room.prefetch_write();
        if room.len() < frame.len() + header || pairs.try_push((frame, room)).is_err() {
            break;
        }
    }
}

/// Writes header, frame and used entry of each; returns the bytes of the frames. `P` is the length of the header.
#[inline(never)]
fn fill_plain<const P: usize>(
    ring: &SplitRing,
    burst: &Burst<'_>,
    start: u16,
    heads: &[u16; BURST],
    pairs: &[(&Frame, Slice<'_>)],
) -> usize {
    let (header, mut index, mut bytes) = (plain_header::<P>(), start, 0);
    for ((frame, room), head) in pairs.iter().zip(heads) {
        // Cannot fail: the room was measured when it was reserved.
        let _ = burst.write_plain(frame, &header, room, false);
        ring.set_used(index, *head, (P + frame.len()) as u32);
        index = index.wrapping_add(1);
        bytes += frame.len();
    }
    bytes
}
