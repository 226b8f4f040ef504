//! What one look at a queue brings: up to [`BURST`] frames, their heads read, their payload left where it is.

use std::ops::Range;

use arrayvec::ArrayVec;
use sharedmem::Slice;
use wire::{ETH_HEADER, ETHERTYPE_VLAN, TAG_LEN, Tag, be16};

use crate::DropReason;
use crate::draft::Draft;
use crate::expected::{Common, push_one, take_tag};
use crate::frame::{
    Asks, BURST, Csum, Facts, Frame, HEAD_MAX, HEAD_PLAIN, MAX_FRAME, MAX_FRAME_SLICES, Offload, Packed,
};

/// Memory pieces one burst can hold.
pub const BURST_SLICES: usize = 512;

/// Up to [`BURST`] frames harvested from one queue of one port.
pub struct Burst<'m> {
    pub(crate) frames: ArrayVec<Frame, BURST>,
    /// The heads of frames with an offload request, as long as such a request may concern.
    long: ArrayVec<Long, BURST>,
    pub(crate) slices: ArrayVec<Slice<'m>, BURST_SLICES>,
    pub(crate) rejected: ArrayVec<(DropReason, u32), BURST>,
    /// Bytes of the longest frame.
    pub(crate) longest: usize,
    /// What the frames that were expected have in common.
    pub(crate) common: Common,
    /// True when some frame has a tag, or something is asked or known of it.
    pub(crate) special: bool,
}

/// What was read ahead of a frame with an offload request.
#[derive(Clone, Copy)]
struct Long {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Burst::new()
    }
}

impl<'m> Burst<'m> {
    /// An empty burst; nothing is initialised until frames come in.
    #[inline]
    pub fn new() -> Burst<'m> {
        Burst {
            frames: ArrayVec::new(),
            long: ArrayVec::new(),
            slices: ArrayVec::new(),
            rejected: ArrayVec::new(),
            longest: 0,
            common: Common::NONE,
            special: false,
        }
    }

    /// The bytes of all frames where these have one destination, source and type, as far as that is known without a look at
    /// each: the most common burst.
    #[inline(always)]
    pub fn alike(&self) -> Option<u64> {
        (self.common.frames == self.frames.len() && !self.common.odd).then_some(self.common.bytes)
    }

    /// The frames, in order.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// True when no frame has a tag or is longer than `longest` bytes, and nothing is asked or known of any.
    #[inline(always)]
    pub(crate) fn is_simple(&self, longest: usize) -> bool {
        !self.special && self.longest <= longest
    }

    /// What was harvested but cannot be forwarded: reason and length in bytes.
    pub fn rejected(&self) -> &[(DropReason, u32)] {
        &self.rejected
    }

    /// Frames taken from the ring, good and bad.
    #[inline]
    pub fn harvested(&self) -> usize {
        self.frames.len() + self.rejected.len()
    }

    /// True when another frame of any shape fits: harvest only while it does.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.harvested() < BURST && self.slices.remaining_capacity() >= MAX_FRAME_SLICES
    }

    /// Copies the untagged frame's first bytes into `out`; returns how many. For frames that the switch
    /// itself reads, not for delivery.
    pub(crate) fn copy_frame(&self, frame: &Frame, out: &mut [u8]) -> usize {
        let head = self.head_of(frame);
        let mut at = head.len().min(out.len());
        out[..at].copy_from_slice(&head[..at]);
        let mut skip = head.len() + usize::from(frame.facts.cut);
        for piece in self.slices_of(frame) {
            let from = skip.min(piece.len());
            skip -= from;
            let n = (piece.len() - from).min(out.len() - at);
            if !piece.read_at(from, &mut out[at..at + n]) {
                break;
            }
            at += n;
        }
        at
    }

    /// All bytes of `frame` that were read ahead.
    #[inline]
    pub(crate) fn head_of<'b>(&'b self, frame: &'b Frame) -> &'b [u8] {
        match frame.facts.asks {
            Asks::Work => {
                let long = self.long.get(usize::from(frame.facts.long));
                long.and_then(|long| long.bytes.get(..usize::from(long.len))).unwrap_or(&[])
            }
            _ => frame.head(),
        }
    }

    /// The memory pieces of `frame`, whole (the head included).
    #[inline]
    pub(crate) fn slices_of(&self, frame: &Frame) -> &[Slice<'m>] {
        let first = usize::from(frame.first);
        &self.slices[first..first + usize::from(frame.facts.count)]
    }

    /// Counts a frame of `len` bytes that the port itself found bad. Ignored when the burst has no
    /// room, which [`Burst::has_room`] tells beforehand.
    pub fn reject(&mut self, reason: DropReason, len: usize) {
        let _ = self.rejected.try_push((reason, len as u32));
    }

    /// Adds the frame that lies in `pieces`, in order. `tag` is a tag the sender gave out of band;
    /// without one, an 802.1Q tag at the start of the frame is taken out of it. Offsets in `offload`
    /// count from the start of the frame as it lies in memory.
    ///
    /// A frame that is a runt, too long, or whose offload request does not fit it, is counted as
    /// rejected with that reason: either way it is accounted for.
    #[inline]
    pub fn push(&mut self, pieces: &[Slice<'m>], tag: Option<Tag>, offload: Offload) {
        let before = self.frames.len();
        let verdict = match pieces {
            [piece] if !asks(offload) => {
                let good = offload.csum == Csum::Good;
                self.push_simple(*piece, tag, if good { Asks::Good } else { Asks::Nothing })
            }
            _ => self.push_any(pieces, tag, offload),
        };
        if let Err(reason) = verdict {
            self.frames.truncate(before);
            self.reject(reason, pieces.iter().map(Slice::len).sum());
        }
    }

    /// Takes note of memory in which frames are to be found: `add` adds, as long as there is room, pieces that each hold a
    /// header and a whole frame, or are empty for what is of another kind. Gives their numbers, for
    /// [`Burst::push_expected`].
    #[inline(always)]
    pub fn expect_from(&mut self, add: impl FnOnce(&mut ArrayVec<Slice<'m>, BURST_SLICES>)) -> Range<usize> {
        let first = self.slices.len();
        add(&mut self.slices);
        // What was there before stays there, for frames are of it.
        debug_assert!(self.slices.len() >= first);
        first..self.slices.len()
    }

    /// Adds the frames that lie in the pieces which `add` finds, each as [`Burst::push`] does one that asks for nothing; returns how
    /// many there are. `add` is told how many there is room for.
    ///
    /// Room for every piece, noted here and once more where it is of another kind, is what [`Burst::has_room`] promises: it
    /// is asked before.
    #[inline(always)]
    pub fn push_from(&mut self, add: impl FnOnce(&mut ArrayVec<Slice<'m>, BURST_SLICES>, usize)) -> usize {
        let room = BURST - self.harvested();
        let Range { mut start, end } = self.expect_from(|pieces| add(pieces, room));
        debug_assert!(end - start <= room);
        let count = end - start;
        loop {
            start += self.push_expected::<0>(start..end);
            let Some(piece) = self.slices.get(start..end).and_then(|rest| rest.first().copied()) else { break };
            self.push(&[piece], None, Offload::default());
            start += 1;
        }
        count
    }

    /// A frame in one piece that asks for nothing.
    fn push_simple(&mut self, piece: Slice<'m>, tag: Option<Tag>, asks: Asks) -> Result<(), DropReason> {
        check_length(piece.len())?;
        let number = self.slices.len() as u16;
        self.slices.try_push(piece).map_err(|_| DropReason::BadDescriptor)?;
        let frame =
            push_one::<0>(&mut self.frames, piece, number, MAX_FRAME + TAG_LEN).ok_or(DropReason::BadDescriptor)?;
        frame.facts.asks = asks;
        frame.set_tag(tag);
        self.longest = self.longest.max(frame.len());
        self.special |= asks != Asks::Nothing || tag.is_some();
        if tag.is_none() && be16(&frame.head, 12) == Some(ETHERTYPE_VLAN) {
            self.special = true;
            return take_tag(frame);
        }
        if frame.len() > MAX_FRAME { Err(DropReason::Oversize) } else { Ok(()) }
    }

    /// Any frame.
    fn push_any(&mut self, pieces: &[Slice<'m>], tag: Option<Tag>, offload: Offload) -> Result<(), DropReason> {
        let len: usize = pieces.iter().map(Slice::len).sum();
        check_length(len)?;
        if pieces.len() > MAX_FRAME_SLICES.min(self.slices.remaining_capacity()) {
            return Err(DropReason::BadDescriptor);
        }
        let mut long = [0; HEAD_MAX];
        let wanted = if asks(offload) { HEAD_MAX } else { HEAD_PLAIN };
        let got = gather(pieces, &mut long[..wanted.min(len)]);
        let mut draft = Draft { head: &mut long, head_len: got, len, tag, offload };
        if tag.is_none() && be16(draft.head, 12) == Some(ETHERTYPE_VLAN) {
            draft.cut_tag()?;
        }
        draft.check_offload()?;
        let Draft { head_len, len, tag, offload, .. } = draft;
        let cut = (got - head_len) as u8;
        let first = self.slices.len() as u16;
        let facts = Facts { cut, count: pieces.len() as u8, offload: Packed::new(offload), ..Facts::plain(0) };
        let mut frame = Frame { len: len as u32, first, facts, ..Frame::EMPTY };
        frame.set_tag(tag);
        let short = head_len.min(HEAD_PLAIN);
        frame.head[..short].copy_from_slice(&long[..short]);
        frame.head_len = short as u16;
        if asks(offload) {
            frame.facts.asks = Asks::Work;
            frame.facts.long = self.long.len() as u8;
            let long = Long { bytes: long, len: head_len as u8 };
            self.long.try_push(long).map_err(|_| DropReason::BadDescriptor)?;
        } else if offload.csum == Csum::Good {
            frame.facts.asks = Asks::Good;
        }
        self.longest = self.longest.max(frame.len());
        self.special |= frame.facts.tag != 0 || !frame.is_silent();
        self.slices.try_extend_from_slice(pieces).map_err(|_| DropReason::BadDescriptor)?;
        self.frames.try_push(frame).map_err(|_| DropReason::BadDescriptor)
    }
}

/// True for a request that somebody has to carry out.
#[inline]
fn asks(offload: Offload) -> bool {
    offload.gso.is_some() || matches!(offload.csum, Csum::Fill { .. })
}

/// Checks the length of a frame as it lies in memory.
#[inline]
fn check_length(len: usize) -> Result<(), DropReason> {
    if len < ETH_HEADER {
        return Err(DropReason::Runt);
    }
    if len > MAX_FRAME + TAG_LEN { Err(DropReason::Oversize) } else { Ok(()) }
}

/// Copies the first bytes of the pieces into `out`; returns how many there were.
#[inline]
pub(crate) fn gather(pieces: &[Slice<'_>], out: &mut [u8]) -> usize {
    let mut at = 0;
    for piece in pieces {
        let n = piece.len().min(out.len() - at);
        if !piece.read_at(0, &mut out[at..at + n]) {
            break;
        }
        at += n;
        if at == out.len() {
            break;
        }
    }
    at
}
