//! The fast lane: frames that go out as they came in.

use sharedmem::Slice;
use wire::MIN_FRAME;

use crate::frame::HEAD_PLAIN;
use crate::{Burst, Delivery, Frame};

impl<'m> Burst<'m> {
    /// The frame of `delivery`, when it goes out as it came in, whatever its receiver can do: nothing asked of anybody,
    /// nothing known of it, no tag. Such a frame needs no [`crate::Plan`].
    #[inline]
    pub fn plain(&self, delivery: &Delivery) -> Option<&Frame> {
        let frame = self.frames().get(delivery.index())?;
        (frame.is_silent() && delivery.tag().is_none()).then_some(frame)
    }

    /// All frames of `list` where they are in one run and every one is as [`Burst::plain`] gives it, none longer than
    /// `longest` bytes: the common case, told without a look at each. Where it is `None`, some of them may still be.
    #[inline(always)]
    pub fn plain_run(&self, list: &[Delivery], longest: usize) -> Option<&[Frame]> {
        if !self.is_simple(longest) {
            return None;
        }
        self.frames().get(Delivery::run(list)?)
    }

    /// True when every frame lies wholly in its head.
    #[inline(always)]
    pub fn is_all_heads(&self) -> bool {
        // One from which a tag was taken may not, but then the burst is not simple.
        self.is_simple(HEAD_PLAIN)
    }

    /// Writes `prefix` and a frame that [`Burst::plain`] gave to the start of `to`, with `pad` filled up to the shortest
    /// Ethernet frame. False, and nothing written, when it does not fit.
    #[inline(always)]
    pub fn write_plain<const P: usize>(&self, frame: &Frame, prefix: &[u8; P], to: &Slice<'_>, pad: bool) -> bool {
        if frame.len() > usize::from(frame.head_len) {
            return self.write_long(frame, prefix, to);
        }
        // Beyond the frame the head holds zeros, which do no harm where there is room for them, and are the padding.
        frame.write_head(prefix, to) || write_tight(frame, prefix, to, pad)
    }

    /// What lies behind the head of `frame` will be copied, after some other frames.
    #[inline]
    pub fn will_copy(&self, frame: &Frame) {
        self.slices_of(frame).iter().for_each(|piece| piece.prefetch_far(piece.len()));
    }

    /// The same of a frame that is longer than its head.
    #[inline(never)]
    fn write_long<const P: usize>(&self, frame: &Frame, prefix: &[u8; P], to: &Slice<'_>) -> bool {
        let (head, len) = (usize::from(frame.head_len), frame.len());
        to.len() >= P + len
            && to.write_prefixed(prefix, &frame.head, head)
            && self.write_rest(frame, to, P + head, len - head)
    }

    /// Copies what lies behind the head to offset `at`, `len` bytes.
    #[inline]
    fn write_rest(&self, frame: &Frame, to: &Slice<'_>, at: usize, len: usize) -> bool {
        let Some(mut to) = to.sub(at, len) else { return false };
        let (mut skip, mut left) = (usize::from(frame.head_len) + usize::from(frame.facts.cut), len);
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

impl Frame {
    /// Writes `prefix` and the whole head, with zeros behind the frame's end, to the start of `to`; false, and nothing written,
    /// when it does not fit.
    #[inline(always)]
    pub fn write_head<const P: usize>(&self, prefix: &[u8; P], to: &Slice<'_>) -> bool {
        to.write_prefixed(prefix, &self.head, HEAD_PLAIN)
    }

    /// The same of several; false, and nothing written, when one of them does not fit.
    #[inline(always)]
    pub fn write_heads<const P: usize, const N: usize>(
        frames: [&Frame; N],
        prefix: &[u8; P],
        to: &[Slice<'_>; N],
    ) -> bool {
        Slice::write_heads(to, prefix, frames.map(|frame| &frame.head))
    }
}

/// Writes a frame that is all head into room for less than a whole one.
#[inline(never)]
fn write_tight<const P: usize>(frame: &Frame, prefix: &[u8; P], to: &Slice<'_>, pad: bool) -> bool {
    let len = if pad { frame.len().max(MIN_FRAME) } else { frame.len() };
    to.write_prefixed(prefix, &frame.head, len)
}
