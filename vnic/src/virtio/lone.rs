//! The lane of a lone frame: a request, its answer, what comes when little does.
//!
//! What the fast lane ([`super::fast`]) works out for a burst is more than a single frame takes. Here the next buffer is looked at
//! and found good first, and then claimed; when another worker was faster, or anything is not as usual, nothing is done, and the
//! frame is for the other lanes.

use dataplane::{Burst, Delivery, DropReason, Tally, VNET_LEN};
use sharedmem::{Aim, SpanHint};

use super::fill::plain_header;
use super::ring::Virtq;
use super::rx::{HEADER, Path};

impl<R: Virtq> Path<'_, R> {
    /// Delivers the frame of `delivery` alone, when it is plain and the next buffer is one descriptor that holds it. True when
    /// the driver is to be told; `None` when nothing was done.
    #[inline]
    pub(super) fn deliver_lone(&self, burst: &Burst<'_>, delivery: &Delivery, tally: &mut Tally) -> Option<bool> {
        if self.header == HEADER {
            self.lone::<HEADER>(burst, delivery, tally)
        } else {
            self.lone::<VNET_LEN>(burst, delivery, tally)
        }
    }

    /// `P` is the length of the header.
    #[inline(always)]
    fn lone<const P: usize>(&self, burst: &Burst<'_>, delivery: &Delivery, tally: &mut Tally) -> Option<bool> {
        let frame = burst.plain(delivery)?;
        let (claims, len) = (&self.state.claims, P + frame.len());
        let seen = claims.look()?;
        let (at, mut known, mut id) = (seen.next(), seen.avail(), [0]);
        if self.ring.singles(at, &mut known, &mut id).ok()? == 0 {
            return None;
        }
        let (guest, there) = self.ring.buffer(at, id[0], true)?;
        let mut hint = SpanHint::default();
        let room = self.active.table.lookup(&mut hint).whole(guest, there)?;
        if room.len() < len || !room.writable() {
            return None;
        }
        Aim::Write.ask_for(&room);
        // What was read above is the driver's word as long as nobody else has claimed the position: from here on it is ours.
        let claim = claims.take(seen, known, 1)?;
        self.ring.will_publish();
        let written = burst.write_plain(frame, &const { plain_header::<P>() }, &room, false);
        if written {
            tally.delivered(frame.len());
        } else {
            tally.dropped(DropReason::BadDescriptor);
        }
        self.ring.put_used(at, id[0], if written { len as u32 } else { 0 });
        Some(self.finish(claim, tally))
    }
}
