//! Reading frames from memory that was noted beforehand: the common frame of a burst, in a loop of few steps.
//!
//! ```text
//!  expected pieces   header | frame     header | frame     ...      one piece each
//!                            \                  \
//!  frames             head, length, number       head, ...          and what they have in common, found out on the way
//! ```
//! The first loop reads fronts by fours ([`extend_fronts`]); where one of four is of another kind than most, the second goes on
//! with what [`Slice::front`] gives, and stops at a tag; what is otherwise is read as before, one by one.

use std::ops::Range;

use arrayvec::ArrayVec;
use sharedmem::{Expect, Front, Measure, Slice, Work, extend_fronts, extend_while, widest};
use wire::{ETH_HEADER, ETHERTYPE_VLAN, TAG_LEN, Tag, be16};

use crate::frame::{BURST, Facts, Frame, HEAD_PLAIN, MAX_FRAME, words};
use crate::{Burst, DropReason};

/// Fronts that are read together.
const FOUR: usize = 4;

/// What is found out about frames while they are read.
#[derive(Clone, Copy)]
pub(crate) struct Common {
    /// How many they are.
    pub(crate) frames: usize,
    pub(crate) bytes: u64,
    /// Addresses and type of the first, as it is thought; zeros when that has a tag.
    first: u128,
    /// True when another has others.
    pub(crate) odd: bool,
}

impl Common {
    pub(crate) const NONE: Common = Common { frames: 0, bytes: 0, first: 0, odd: false };

    /// Looks at the first of `pieces`, each behind a header of `P` bytes, for what the frames may have in common.
    #[inline(always)]
    fn think_of<const P: usize>(&mut self, pieces: &[Slice<'_>]) {
        if self.frames == 0 {
            let front = pieces.first().and_then(|piece| piece.front::<P>(ETH_HEADER, MAX_FRAME));
            self.first = front.filter(|front| !is_tagged(&front.head)).map_or(0, |front| words(&front.head));
        }
    }
}

/// What [`Burst::push_expected`] does.
struct Expected<'b, 'm, const P: usize> {
    burst: &'b mut Burst<'m>,
    numbers: Range<usize>,
}

impl<const P: usize> Work for Expected<'_, '_, P> {
    type Outcome = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Range { start, end } = self.numbers;
        let mut number = start;
        while number < end {
            let fronts = self.burst.push_fronts::<P>(number..end);
            if number + fronts == end {
                return end - start;
            }
            let others = self.burst.push_others::<P>(number + fronts..end);
            if fronts + others == 0 {
                break;
            }
            number += fronts + others;
        }
        number - start
    }
}

impl<'m> Burst<'m> {
    /// Adds the frames that lie in expected pieces, each behind a header of `P` bytes whose first two are zero, up to the first
    /// that does not; returns how many there are. They have no tag beside them and no offload request. What fails here may
    /// still be a frame, for [`Burst::push`].
    #[inline]
    pub fn push_expected<const P: usize>(&mut self, numbers: Range<usize>) -> usize {
        let by_fours = if numbers.len() < FOUR { 0 } else { self.push_fours::<P>(numbers.clone()) };
        let rest = numbers.start + by_fours..numbers.end;
        if rest.is_empty() {
            return by_fours;
        }
        by_fours + widest(rest.len(), Expected::<P> { burst: self, numbers: rest })
    }

    /// Adds the frame that lies in `piece`, as [`Burst::push_expected`] does one of the most common kind, when it is such and there
    /// is room: a single frame, for which what is worked out for many is not worth it. False, and nothing done, otherwise.
    #[inline(always)]
    pub fn push_lone<const P: usize>(&mut self, piece: Slice<'m>) -> bool {
        let Burst { frames, slices, longest, common, .. } = self;
        let Some(front) = read::<P>(&piece).filter(|front| !is_tagged(&front.head)) else { return false };
        if slices.is_full() || frames.try_push(frame_of(&front, slices.len() as u16)).is_err() {
            return false;
        }
        slices.push(piece);
        let start = words(&front.head);
        if common.frames == 0 {
            common.first = start;
        }
        common.odd |= start != common.first;
        common.frames += 1;
        common.bytes += front.len as u64;
        *longest = front.len.max(*longest);
        true
    }

    /// As [`Burst::push_expected`], four at a time; up to the first four of which one is not the most common kind.
    #[inline(always)]
    fn push_fours<const P: usize>(&mut self, numbers: Range<usize>) -> usize {
        let Burst { frames, slices, longest, common, .. } = self;
        let pieces = slices.get(numbers.clone()).unwrap_or(&[]);
        common.think_of::<P>(pieces);
        let (start, mut odd) = (common.first, common.odd);
        let expect = Expect { number: numbers.start as u16, start, most: MAX_FRAME };
        let make = |head, Measure { len, number, head_len }| Frame {
            head,
            len,
            first: number,
            head_len,
            facts: const { Facts::plain(P) },
        };
        let keep = |frame: &Frame| {
            odd |= words(&frame.head) != start;
            !is_tagged(&frame.head)
        };
        let fronts = extend_fronts::<Frame, P, BURST>(frames, pieces, expect, make, keep);
        common.frames += fronts.count;
        common.bytes += fronts.bytes;
        common.odd = odd;
        *longest = fronts.longest.max(*longest);
        fronts.count
    }

    /// Adds frames as [`Burst::push_expected`], up to the first whose memory is not such that its front can be read, or that has
    /// a tag in it; returns how many there are.
    #[inline(always)]
    fn push_fronts<const P: usize>(&mut self, numbers: Range<usize>) -> usize {
        let Burst { frames, slices, longest, common, .. } = self;
        let pieces = slices.get(numbers.clone()).unwrap_or(&[]);
        let (mut most, mut seen, mut number) = (*longest, *common, numbers.start as u16);
        seen.think_of::<P>(pieces);
        let (first, mut bytes, mut odd) = (seen.first, seen.bytes, seen.odd);
        let make = |front: Front<P>| {
            number += 1;
            frame_of(&front, number - 1)
        };
        let keep = |frame: &Frame| {
            // One with the addresses and type of the first has no tag.
            if words(&frame.head) != first {
                odd = true;
                if is_tagged(&frame.head) {
                    return false;
                }
            }
            bytes += frame.len() as u64;
            most = most.max(frame.len());
            true
        };
        let count = extend_while(frames, pieces, read::<P>, make, keep);
        (seen.bytes, seen.odd) = (bytes, odd);
        seen.frames += count;
        (*longest, *common) = (most, seen);
        count
    }

    /// The same for frames whatever their memory, and with a tag in them or not; up to the first whose memory is the usual
    /// kind, behind the first.
    #[inline(never)]
    fn push_others<const P: usize>(&mut self, numbers: Range<usize>) -> usize {
        let Burst { frames, slices, rejected, special, longest, common, .. } = self;
        let (mut most, mut seen, mut number) = (*longest, *common, numbers.start as u16);
        for piece in slices.get(numbers.clone()).unwrap_or(&[]) {
            if usize::from(number) > numbers.start && piece.has_front() {
                break;
            }
            let Some(frame) = push_one::<P>(frames, *piece, number, MAX_FRAME) else { break };
            seen.bytes += frame.len() as u64;
            seen.odd |= words(&frame.head) != seen.first;
            most = most.max(frame.len());
            number += 1;
            if is_tagged(&frame.head) {
                *special = true;
                untag_last(frames, rejected);
            }
        }
        let count = usize::from(number) - numbers.start;
        seen.frames += count;
        (*longest, *common) = (most, seen);
        count
    }
}

/// What is at the start of `piece` when that is a frame behind a header that asks for nothing.
#[inline(always)]
fn read<const P: usize>(piece: &Slice<'_>) -> Option<Front<P>> {
    piece.front::<P>(ETH_HEADER, MAX_FRAME).filter(|front| P == 0 || front.header[..2] == [0, 0])
}

/// The frame that begins so, in piece `first`.
#[inline(always)]
fn frame_of<const P: usize>(front: &Front<P>, first: u16) -> Frame {
    let (len, head_len) = (front.len as u32, front.head_len as u16);
    Frame { head: front.head, len, first, head_len, facts: const { Facts::plain(P) } }
}

/// True when a tag is in the frame.
#[inline(always)]
fn is_tagged(head: &[u8; HEAD_PLAIN]) -> bool {
    be16(head, 12) == Some(ETHERTYPE_VLAN)
}

/// The common frame: in one piece, as it is to be sent, of a length that may be, behind a header of `P` bytes; a tag stays
/// in it. `None` where the piece holds no such, or there is no room, which while [`Burst::has_room`] holds, the caller's
/// condition, cannot be.
#[inline(always)]
pub(crate) fn push_one<'b, const P: usize>(
    frames: &'b mut ArrayVec<Frame, BURST>,
    piece: Slice<'_>,
    first: u16,
    longest: usize,
) -> Option<&'b mut Frame> {
    let len = piece.len().wrapping_sub(P);
    if !(ETH_HEADER..=longest).contains(&len) || P > 0 && !asks_nothing(&piece) {
        return None;
    }
    let got = len.min(HEAD_PLAIN) as u16;
    let frame = Frame { len: len as u32, first, head_len: got, facts: Facts::plain(P), ..Frame::EMPTY };
    frames.try_push(frame).ok()?;
    let frame = frames.last_mut()?;
    piece.read_head_behind::<P>(&mut frame.head);
    Some(frame)
}

/// True when the header at the start of `piece` asks for nothing: neither flags nor a segment type.
#[inline(always)]
fn asks_nothing(piece: &Slice<'_>) -> bool {
    let mut bytes = [0; 2];
    piece.read_at(0, &mut bytes) && bytes == [0, 0]
}

/// Takes the tag out of the frame that came last, or rejects it.
#[inline(never)]
fn untag_last(frames: &mut ArrayVec<Frame, BURST>, rejected: &mut ArrayVec<(DropReason, u32), BURST>) {
    let Some(frame) = frames.last_mut() else { return };
    let len = frame.len;
    if let Err(reason) = take_tag(frame) {
        frames.pop();
        // Cannot fail: there was room for the frame.
        let _ = rejected.try_push((reason, len));
    }
}

/// Takes the tag out of a frame that is read.
#[inline]
pub(crate) fn take_tag(frame: &mut Frame) -> Result<(), DropReason> {
    if usize::from(frame.head_len) < ETH_HEADER + TAG_LEN {
        return Err(DropReason::Runt);
    }
    let tag = Tag(be16(&frame.head, ETH_HEADER).unwrap_or(0));
    // The whole head, whatever was read of it: moves of fixed size, and zeros beyond what is left.
    frame.head.copy_within(ETH_HEADER + TAG_LEN - 2.., ETH_HEADER - 2);
    frame.head[HEAD_PLAIN - TAG_LEN..].fill(0);
    frame.head_len -= TAG_LEN as u16;
    frame.facts.cut += TAG_LEN as u8;
    frame.len -= TAG_LEN as u32;
    frame.set_tag(Some(tag));
    if frame.len() > MAX_FRAME { Err(DropReason::Oversize) } else { Ok(()) }
}

#[cfg(test)]
#[path = "expected_tests.rs"]
mod tests;
