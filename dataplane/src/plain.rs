//! The fast lane: frames that go out as they came in.

use sharedmem::Slice;
use wire::{ETHERTYPE_VLAN, MIN_FRAME, TAG_LEN, Tag};

use crate::frame::HEAD_PLAIN;
use crate::{Burst, Delivery, Frame};

/// Bytes of the addresses a frame begins with.
const ADDRESSES: usize = 12;

impl<'m> Burst<'m> {
    /// The frame of `delivery`, when it goes out as it came in, whatever its receiver can do: nothing asked of anybody,
    /// nothing known of it, no tag. Such a frame needs no [`crate::Plan`].
    #[inline]
    pub fn plain(&self, delivery: &Delivery) -> Option<&Frame> {
        let frame = self.frames().get(usize::from(delivery.frame))?;
        (frame.is_silent() && delivery.tag.is_none()).then_some(frame)
    }

    /// Writes `prefix` and a frame that [`Burst::plain`] gave to the start of `to`, with `pad` filled up to the shortest
    /// Ethernet frame. False when it does not fit (what was written is then of no meaning).
    #[inline(always)]
    pub fn write_plain<const P: usize>(&self, frame: &Frame, prefix: &[u8; P], to: &Slice<'_>, pad: bool) -> bool {
        let (head, len) = (usize::from(frame.head_len), frame.len());
        // Beyond the frame the head holds zeros, which do no harm where there is room for them.
        if to.write_prefixed(prefix, &frame.head, HEAD_PLAIN) {
            return len <= head || self.write_rest(frame, to, P + head, len - head);
        }
        if len <= head {
            // The zeros are the padding.
            return to.write_prefixed(prefix, &frame.head, if pad { len.max(MIN_FRAME) } else { len });
        }
        to.write_prefixed(prefix, &frame.head, head) && self.write_rest(frame, to, P + head, len - head)
    }

    /// The frame of `delivery`, when it goes out as it came in but for a tag: see [`Burst::plain`].
    #[inline]
    pub fn silent(&self, delivery: &Delivery) -> Option<&Frame> {
        self.frames().get(usize::from(delivery.frame)).filter(|frame| frame.is_silent())
    }

    /// As [`Burst::write_plain`], with `tag` in the frame.
    #[inline(never)]
    pub fn write_tagged<const P: usize>(&self, frame: &Frame, tag: Tag, prefix: &[u8; P], to: &Slice<'_>) -> bool {
        let (head, len) = (usize::from(frame.head_len), frame.len());
        let Some(behind) = to.after(P + TAG_LEN) else { return false };
        let [tpid, tci] = [ETHERTYPE_VLAN, tag.0].map(u16::to_be_bytes);
        // All but the addresses has its place; they and the tag go before it.
        behind.write_head(&frame.head, head)
            && to.write_at(P, &frame.head[..ADDRESSES])
            && to.write_at(P + ADDRESSES, &[tpid[0], tpid[1], tci[0], tci[1]])
            && to.write_at(0, prefix)
            && (len <= head || self.write_rest(frame, to, P + TAG_LEN + head, len - head))
    }

    /// Copies what lies behind the head to offset `at`, `len` bytes.
    #[inline(never)]
    fn write_rest(&self, frame: &Frame, to: &Slice<'_>, at: usize, len: usize) -> bool {
        let Some(mut to) = to.sub(at, len) else { return false };
        let (mut skip, mut left) = (usize::from(frame.skip), len);
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
