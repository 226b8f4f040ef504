//! Frames in flight: heads read once, payload left where it is.

use arrayvec::ArrayVec;
use sharedmem::Slice;
use wire::{ETH_HEADER, ETHERTYPE_VLAN, Mac, TAG_LEN, Tag, be16};

use crate::DropReason;
use crate::draft::{Draft, cut_tag};

/// Frames per burst.
pub const BURST: usize = 32;
/// Most bytes of a frame's head that are read ahead: Ethernet 14, IPv6 40, options, TCP 60.
pub const HEAD_MAX: usize = 192;
/// Bytes read ahead of every frame: one cache line.
pub const HEAD_PLAIN: usize = sharedmem::HEAD;
/// Longest frame in bytes that may enter, with everything a segmentation offload may hold.
pub const MAX_FRAME: usize = 65_535 + ETH_HEADER;
/// Most memory pieces one frame may consist of.
pub const MAX_FRAME_SLICES: usize = 64;
/// Memory pieces one burst can hold.
const BURST_SLICES: usize = 512;

/// What is known of, or asked for, a frame's L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// Nothing: it is as the sender made it.
    #[default]
    AsIs,
    /// Somebody who can be believed verified it.
    Good,
    /// The field at `at` holds the pseudo-header sum; the sum over `start` to the frame's end
    /// belongs there. Offsets in bytes from the start of the untagged frame.
    Fill {
        /// First byte summed.
        start: u16,
        /// Where the checksum goes.
        at: u16,
    },
}

/// A TCP segment larger than the wire takes, to be cut up by whoever must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Bytes of TCP payload per frame.
    pub mss: u16,
    /// Bytes of headers, from the start of the untagged frame to the TCP payload.
    pub header: u16,
}

/// Offload facts that travel with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// L4 checksum.
    pub csum: Csum,
    /// TCP segmentation; implies that the checksum is to be filled in.
    pub gso: Option<Gso>,
}

/// One frame. Its tag is out of band whatever the sender did; all offsets are of the untagged frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Zeros beyond `head_len`: a short frame is padded by writing more of it.
    pub(crate) head: [u8; HEAD_PLAIN],
    len: u32,
    /// Bytes of the memory pieces that the head (or the long head) already covers, with a tag that was cut out.
    pub(crate) skip: u32,
    pub(crate) first: u16,
    pub(crate) count: u16,
    pub(crate) head_len: u8,
    /// One more than the number of the long head, which a frame with an offload request has; else 0.
    long: u8,
    /// Bytes of the long head.
    long_len: u8,
    tag: Option<Tag>,
    offload: Offload,
}

impl Frame {
    const EMPTY: Frame = Frame {
        head: [0; HEAD_PLAIN],
        len: 0,
        skip: 0,
        first: 0,
        count: 0,
        head_len: 0,
        long: 0,
        long_len: 0,
        tag: None,
        offload: Offload { csum: Csum::AsIs, gso: None },
    };

    /// The first bytes, at least the Ethernet header and at most [`HEAD_PLAIN`]. Of a frame with an offload request
    /// more were read: see [`crate::Plan::head`].
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or(&self.head)
    }

    /// Length in bytes of the untagged frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: a frame has at least its Ethernet header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.head;
        Mac([a, b, c, d, e, f])
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = self.head;
        Mac([a, b, c, d, e, f])
    }

    /// The outermost 802.1Q tag the sender put on the frame, in or out of band.
    #[inline]
    pub fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// Offload facts.
    #[inline]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// True when the frame asks for nothing: it goes out as it came in.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.long == 0
    }
}

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
        match usize::from(frame.long).checked_sub(1) {
            None => frame.head(),
            Some(at) => self.long.get(at).and_then(|head| head.get(..usize::from(frame.long_len))).unwrap_or(&[]),
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
            [piece] if !asks(offload) => self.push_one(piece, tag, offload),
            _ => self.push_any(pieces, tag, offload),
        };
        if let Err(reason) = verdict {
            self.frames.truncate(before);
            self.reject(reason, pieces.iter().map(Slice::len).sum());
        }
    }

    /// The common frame: in one piece, and as it is to be sent; its checksum may be known to be good.
    #[inline]
    fn push_one(&mut self, piece: &Slice<'m>, tag: Option<Tag>, offload: Offload) -> Result<(), DropReason> {
        let len = piece.len();
        check_length(len)?;
        let first = self.slices.len() as u16;
        // Neither can fail while has_room holds, the caller's condition; if it does not the frame is counted as bad.
        self.slices.try_push(*piece).map_err(|_| DropReason::BadDescriptor)?;
        self.frames.try_push(Frame::EMPTY).map_err(|_| DropReason::BadDescriptor)?;
        let frame = self.frames.last_mut().ok_or(DropReason::BadDescriptor)?;
        let got = piece.read_head(&mut frame.head);
        (frame.len, frame.skip, frame.head_len) = (len as u32, got as u32, got as u8);
        (frame.first, frame.count, frame.tag, frame.offload) = (first, 1, tag, offload);
        if tag.is_none() && be16(&frame.head, 12) == Some(ETHERTYPE_VLAN) {
            let tci = cut_tag(&mut frame.head, got)?;
            frame.head_len -= TAG_LEN as u8;
            frame.len -= TAG_LEN as u32;
            frame.tag = Some(tci);
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
        let mut frame = Frame { len: len as u32, skip: got as u32, tag, offload, ..Frame::EMPTY };
        (frame.first, frame.count) = (self.slices.len() as u16, pieces.len() as u16);
        let short = head_len.min(HEAD_PLAIN);
        frame.head[..short].copy_from_slice(&long[..short]);
        frame.head_len = short as u8;
        if asks(offload) {
            let at = self.long.len();
            self.long.try_push(long).map_err(|_| DropReason::BadDescriptor)?;
            (frame.long, frame.long_len) = (at as u8 + 1, head_len as u8);
        }
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
