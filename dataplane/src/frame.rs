//! Frames in flight: heads read once, payload left where it is.

use arrayvec::ArrayVec;
use sharedmem::Slice;
use wire::checksum::{pseudo_header, sum_be};
use wire::ip::{TCP, Transport};
use wire::{ETH_HEADER, ETHERTYPE_VLAN, Mac, TAG_LEN, Tag, be16};

use crate::DropReason;
use crate::emit::MAX_SEGMENTS;

/// Frames per burst.
pub const BURST: usize = 32;
/// Most bytes of a frame's head that are read ahead: Ethernet 14, IPv6 40, options, TCP 60.
pub const HEAD_MAX: usize = 192;
/// Bytes read ahead of a frame without an offload request: one cache line.
const HEAD_PLAIN: usize = 64;
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
    pub(crate) head: [u8; HEAD_MAX],
    pub(crate) head_len: u16,
    len: u32,
    pub(crate) first: u16,
    pub(crate) count: u16,
    /// Bytes of the memory pieces that the head already covers (with a tag that was cut out).
    pub(crate) skip: u32,
    tag: Option<Tag>,
    offload: Offload,
}

impl Frame {
    /// The bytes read ahead: at least the Ethernet header.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
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
        Mac::read(&self.head).unwrap_or_default()
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Mac {
        Mac::read(&self.head[6..]).unwrap_or_default()
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
}

/// Up to [`BURST`] frames harvested from one queue of one port.
#[derive(Default)]
pub struct Burst<'m> {
    frames: ArrayVec<Frame, BURST>,
    slices: ArrayVec<Slice<'m>, BURST_SLICES>,
    rejected: ArrayVec<(DropReason, u32), BURST>,
}

impl<'m> Burst<'m> {
    /// An empty burst; nothing is initialised until frames come in.
    #[inline]
    pub fn new() -> Burst<'m> {
        Burst { frames: ArrayVec::new_const(), slices: ArrayVec::new_const(), rejected: ArrayVec::new_const() }
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
        let mut at = frame.head().len().min(out.len());
        out[..at].copy_from_slice(&frame.head()[..at]);
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
    pub fn push(&mut self, pieces: &[Slice<'m>], tag: Option<Tag>, offload: Offload) {
        let len: usize = pieces.iter().map(Slice::len).sum();
        match self.build(pieces, len, tag, offload) {
            Ok(frame) => {
                // Cannot fail: has_room was the caller's condition; if it was not kept the frame is lost to the burst
                // but counted.
                if self.frames.try_push(frame).is_err() {
                    self.reject(DropReason::BadDescriptor, len);
                }
            }
            Err(reason) => self.reject(reason, len),
        }
    }

    fn build(
        &mut self,
        pieces: &[Slice<'m>],
        len: usize,
        tag: Option<Tag>,
        offload: Offload,
    ) -> Result<Frame, DropReason> {
        if len < ETH_HEADER {
            return Err(DropReason::Runt);
        }
        if len > MAX_FRAME + TAG_LEN {
            return Err(DropReason::Oversize);
        }
        if pieces.len() > MAX_FRAME_SLICES.min(self.slices.remaining_capacity()) {
            return Err(DropReason::BadDescriptor);
        }
        let wanted = if offload == Offload::default() || offload.csum == Csum::Good && offload.gso.is_none() {
            HEAD_PLAIN
        } else {
            HEAD_MAX
        };
        let mut frame = Frame {
            head: [0; HEAD_MAX],
            head_len: 0,
            len: len as u32,
            first: self.slices.len() as u16,
            count: pieces.len() as u16,
            skip: 0,
            tag,
            offload,
        };
        let got = gather(pieces, &mut frame.head[..wanted.min(len)]);
        frame.head_len = got as u16;
        frame.skip = got as u32;
        if tag.is_none() && be16(&frame.head, 12) == Some(ETHERTYPE_VLAN) {
            cut_tag(&mut frame)?;
        }
        check_offload(&mut frame)?;
        self.slices.try_extend_from_slice(pieces).map_err(|_| DropReason::BadDescriptor)?;
        Ok(frame)
    }
}

/// Writes the lengths and sums of a segmentation request into the head as the largest single packet
/// would have them. Senders differ here (vmxnet3 leaves the length out of the pseudo-header sum and
/// the IPv4 header sum zero, virtio has both), receivers and [`crate::Plan`] need not.
fn normalise_gso(frame: &mut Frame, t: &Transport) -> Result<(), DropReason> {
    let l4_total = frame.len() - t.l4;
    let head = &mut frame.head[..usize::from(frame.head_len)];
    let (at, length) =
        if t.v6 { (t.l3 + 4, frame.len as usize - t.l3 - 40) } else { (t.l3 + 2, frame.len as usize - t.l3) };
    let length = u16::try_from(length).map_err(|_| DropReason::Oversize)?;
    head[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if !t.v6 {
        head[t.l3 + 10..t.l3 + 12].fill(0);
        let sum = !sum_be(&head[t.l3..t.l4]);
        head[t.l3 + 10..t.l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let pseudo = pseudo_header(t.addresses(head), TCP, l4_total as u32).folded();
    head[t.l4 + 16..t.l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
    Ok(())
}

/// Copies the first bytes of the pieces into `out`; returns how many there were.
#[inline]
fn gather(pieces: &[Slice<'_>], out: &mut [u8]) -> usize {
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

fn cut_tag(frame: &mut Frame) -> Result<(), DropReason> {
    let head_len = usize::from(frame.head_len);
    let Some(tci) = be16(&frame.head[..head_len], ETH_HEADER) else { return Err(DropReason::Runt) };
    if head_len < ETH_HEADER + TAG_LEN {
        return Err(DropReason::Runt);
    }
    frame.tag = Some(Tag(tci));
    frame.head.copy_within(16..head_len, 12);
    frame.head_len -= TAG_LEN as u16;
    frame.len -= TAG_LEN as u32;
    let shift = |offset: u16| offset.checked_sub(TAG_LEN as u16).ok_or(DropReason::BadOffload);
    if let Csum::Fill { start, at } = frame.offload.csum {
        frame.offload.csum = Csum::Fill { start: shift(start)?, at: shift(at)? };
    }
    if let Some(gso) = &mut frame.offload.gso {
        gso.header = shift(gso.header)?;
    }
    Ok(())
}

/// Checks that an offload request fits the frame, and makes a needless one none.
fn check_offload(frame: &mut Frame) -> Result<(), DropReason> {
    if frame.len() > MAX_FRAME {
        return Err(DropReason::Oversize);
    }
    if let Some(gso) = frame.offload.gso {
        let t = Transport::parse(frame.head()).ok_or(DropReason::BadOffload)?;
        let header = usize::from(gso.header);
        let fits = t.protocol == TCP
            && t.l4_len >= 20
            && t.payload() == header
            && header <= frame.head().len()
            && header <= frame.len();
        if !fits || gso.mss == 0 || (frame.len() - header).div_ceil(usize::from(gso.mss)) > MAX_SEGMENTS {
            return Err(DropReason::BadOffload);
        }
        frame.offload.csum = Csum::Fill { start: t.l4 as u16, at: (t.l4 + 16) as u16 };
        normalise_gso(frame, &t)?;
        if frame.len() - header <= usize::from(gso.mss) {
            frame.offload.gso = None;
        }
    }
    if let Csum::Fill { start, at } = frame.offload.csum {
        let (start, at) = (usize::from(start), usize::from(at));
        // With a tag inline the offsets must still fit their 16 bits.
        let tagged = at + TAG_LEN <= usize::from(u16::MAX);
        if start < ETH_HEADER || at < start || at + 2 > frame.len() || !tagged {
            return Err(DropReason::BadOffload);
        }
    }
    Ok(())
}
