//! What one look at a queue brings: up to [`BURST`] frames, their heads read, their payload left where it is.

use arrayvec::ArrayVec;
use sharedmem::Slice;
use wire::{ETH_HEADER, ETHERTYPE_VLAN, TAG_LEN, Tag, be16};

use crate::DropReason;
use crate::draft::Draft;
use crate::frame::{Asks, BURST, Csum, Frame, HEAD_MAX, HEAD_PLAIN, MAX_FRAME, MAX_FRAME_SLICES, Offload, Packed};

/// Memory pieces one burst can hold.
const BURST_SLICES: usize = 512;

/// Up to [`BURST`] frames harvested from one queue of one port.
#[derive(Default)]
pub struct Burst<'m> {
    frames: ArrayVec<Frame, BURST>,
    /// The heads of frames with an offload request, as long as such a request may concern.
    long: ArrayVec<[u8; HEAD_MAX], BURST>,
    slices: ArrayVec<Slice<'m>, BURST_SLICES>,
    rejected: ArrayVec<(DropReason, u32), BURST>,
}

impl<'m> Burst<'m> {
    /// An empty burst; nothing is initialised until frames come in.
    #[inline]
    pub fn new() -> Burst<'m> {
        Burst { frames: ArrayVec::new(), long: ArrayVec::new(), slices: ArrayVec::new(), rejected: ArrayVec::new() }
    }

    /// The frames, in order.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
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
        let mut skip = frame.skip as usize;
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
        match frame.asks {
            Asks::Work => {
                let long = self.long.get(usize::from(frame.long));
                long.and_then(|head| head.get(..usize::from(frame.long_len))).unwrap_or(&[])
            }
            _ => frame.head(),
        }
    }

    /// The memory pieces of `frame`, whole (the head included).
    #[inline]
    pub(crate) fn slices_of(&self, frame: &Frame) -> &[Slice<'m>] {
        let first = usize::from(frame.first);
        &self.slices[first..first + usize::from(frame.count)]
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

    /// Adds the frame that lies in `piece`, as [`Burst::push`] does one without a tag beside it or an offload request.
    #[inline(always)]
    pub fn push_plain(&mut self, piece: Slice<'m>) {
        match (ETH_HEADER..=MAX_FRAME).contains(&piece.len()).then(|| self.push_one(piece, Asks::Nothing)) {
            Some(Some(frame)) if be16(&frame.head, 12) != Some(ETHERTYPE_VLAN) => {}
            Some(Some(_)) => self.untag_last(),
            _ => self.push(&[piece], None, Offload::default()),
        }
    }

    /// The common frame: in one piece, as it is to be sent, of a length that may be; a tag stays in it. `None` when
    /// there is no room, which while [`Burst::has_room`] holds, the caller's condition, cannot be.
    #[inline(always)]
    fn push_one(&mut self, piece: Slice<'m>, asks: Asks) -> Option<&mut Frame> {
        let (first, len) = (self.slices.len() as u16, piece.len() as u32);
        self.slices.try_push(piece).ok()?;
        self.frames.try_push(Frame { len, first, count: 1, asks, ..Frame::EMPTY }).ok()?;
        let frame = self.frames.last_mut()?;
        let got = piece.read_head(&mut frame.head) as u8;
        (frame.head_len, frame.skip) = (got, got);
        Some(frame)
    }

    /// Takes the tag out of the frame that came last, or rejects it.
    #[inline(never)]
    fn untag_last(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        let len = frame.len();
        if let Err(reason) = take_tag(frame) {
            self.frames.pop();
            self.reject(reason, len);
        }
    }

    /// A frame in one piece that asks for nothing.
    fn push_simple(&mut self, piece: Slice<'m>, tag: Option<Tag>, asks: Asks) -> Result<(), DropReason> {
        check_length(piece.len())?;
        let frame = self.push_one(piece, asks).ok_or(DropReason::BadDescriptor)?;
        frame.set_tag(tag);
        if tag.is_none() && be16(&frame.head, 12) == Some(ETHERTYPE_VLAN) {
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
        let mut frame = Frame { len: len as u32, skip: got as u8, offload: Packed::new(offload), ..Frame::EMPTY };
        (frame.first, frame.count) = (self.slices.len() as u16, pieces.len() as u8);
        frame.set_tag(tag);
        let short = head_len.min(HEAD_PLAIN);
        frame.head[..short].copy_from_slice(&long[..short]);
        frame.head_len = short as u8;
        if asks(offload) {
            frame.asks = Asks::Work;
            (frame.long, frame.long_len) = (self.long.len() as u8, head_len as u8);
            self.long.try_push(long).map_err(|_| DropReason::BadDescriptor)?;
        } else if offload.csum == Csum::Good {
            frame.asks = Asks::Good;
        }
        self.slices.try_extend_from_slice(pieces).map_err(|_| DropReason::BadDescriptor)?;
        self.frames.try_push(frame).map_err(|_| DropReason::BadDescriptor)
    }
}

/// Takes the tag out of a frame that is read.
#[inline]
fn take_tag(frame: &mut Frame) -> Result<(), DropReason> {
    if usize::from(frame.head_len) < ETH_HEADER + TAG_LEN {
        return Err(DropReason::Runt);
    }
    let tag = Tag(be16(&frame.head, ETH_HEADER).unwrap_or(0));
    // The whole head, whatever was read of it: moves of fixed size, and zeros beyond what is left.
    frame.head.copy_within(ETH_HEADER + TAG_LEN - 2.., ETH_HEADER - 2);
    frame.head[HEAD_PLAIN - TAG_LEN..].fill(0);
    frame.head_len -= TAG_LEN as u8;
    frame.len -= TAG_LEN as u32;
    frame.set_tag(Some(tag));
    if frame.len() > MAX_FRAME { Err(DropReason::Oversize) } else { Ok(()) }
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
