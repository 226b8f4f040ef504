//! The fast lane: frames that go out as they came in.

use sharedmem::Slice;
use wire::MIN_FRAME;

use crate::{Burst, Csum, Delivery, Frame};

impl<'m> Burst<'m> {
    /// The frame of `delivery`, when it goes out as it came in, whatever its receiver can do: nothing asked of anybody,
    /// nothing known of it, no tag. Such a frame needs no [`crate::Plan`].
    #[inline]
    pub fn plain(&self, delivery: &Delivery) -> Option<&Frame> {
        let frame = self.frames().get(usize::from(delivery.frame))?;
        (frame.is_plain() && delivery.tag.is_none() && frame.offload().csum == Csum::AsIs).then_some(frame)
    }

    /// Writes a frame that [`Burst::plain`] gave to the start of `to`, with `pad` filled up to the shortest Ethernet
    /// frame. False when it does not fit (what was written is then of no meaning).
    #[inline]
    pub fn write_plain(&self, frame: &Frame, to: &Slice<'_>, pad: bool) -> bool {
        let (head, len) = (usize::from(frame.head_len), frame.len());
        if len <= head {
            // Beyond the frame the head holds zeros: the padding.
            return to.write_head(&frame.head, if pad { len.max(MIN_FRAME) } else { len });
        }
        to.write_head(&frame.head, head) && self.write_rest(frame, to, head, len)
    }

    /// Copies what lies behind the head.
    #[inline]
    fn write_rest(&self, frame: &Frame, to: &Slice<'_>, head: usize, len: usize) -> bool {
        let Some(mut to) = to.sub(head, len - head) else { return false };
        let (mut skip, mut left) = (frame.skip as usize, len - head);
        for piece in self.slices_of(frame) {
            let Some(part) = piece.sub(skip.min(piece.len()), piece.len().saturating_sub(skip)) else { return false };
            skip = skip.saturating_sub(piece.len());
            let n = part.copy_to(&to);
            left -= n;
            if left == 0 {
                return true;
            }
            let Some(rest) = to.sub(n, left) else { return false };
            to = rest;
        }
        false
    }
}
