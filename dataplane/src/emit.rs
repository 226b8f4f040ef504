//! From one frame of a burst to the frames one port gets: segmentation and checksums inside the copy.
//!
//! An egress makes a [`Plan`] for each delivery, reserves room for [`Plan::count`] frames of
//! [`Plan::len`] bytes, and then lets [`Plan::write`] fill them. What the port's peer can do itself
//! ([`Caps`]) is left to it; the rest is worked out while the bytes are copied.
//!
//! ```text
//!  plan.write(i, room):   head (snapshot, patched) | payload of segment i (sender's memory)
//!                              |                          |  one copy, summed on the way
//!                              v                          v
//!                         room[0] ...................... room[n]      then the checksum field
//! ```

use sharedmem::Slice;
use wire::checksum::{Sum, pseudo_header, sum_be};
use wire::ip::Transport;
use wire::{MIN_FRAME, TAG_LEN, Tag};

use crate::Delivery;
use crate::burst::Burst;
use crate::copy::{Cursor, put_at};
use crate::frame::{Csum, Frame, Gso, GsoKind, HEAD_MAX};

/// Most frames one segmentation may make; a request for more is `bad-offload`.
pub const MAX_SEGMENTS: usize = 2048;

/// What a port's peer can do by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Fill in L4 checksums.
    pub csum: bool,
    /// Take TCP segments longer than the wire's frames, over IPv4 and IPv6, and sum what it cuts.
    pub tso: bool,
    /// The same of UDP datagrams.
    pub uso: bool,
    /// Take the tag beside the frame; without it the tag is written into the frame.
    pub tag: bool,
    /// Pad to the shortest Ethernet frame (60 bytes).
    pub pad: bool,
}

/// How one delivery is carried out. Cheap: it copies no payload and no head, and for a frame that goes out as it came
/// in it is a few words.
pub struct Plan<'b, 'm> {
    frame: &'b Frame,
    burst: &'b Burst<'m>,
    tag: Option<Tag>,
    inline_tag: bool,
    pad: bool,
    /// The checksum asked for is ours to fill in.
    fills: bool,
    /// How many frames it is to be cut into; 0 when that is not ours to do. What else there is to know of the cutting
    /// is read from the frame when it is done: kept here, it would make every plan larger.
    segments: u32,
}

/// An output frame in pieces: a head that the caller holds, and the sender's memory.
#[derive(Clone, Copy, Debug)]
pub struct Scattered<'b, 'm> {
    /// Bytes of the head.
    pub head: usize,
    /// The sender's memory; what follows the head begins `skip` bytes into it.
    pub rest: &'b [Slice<'m>],
    /// Bytes at its start that the head stands for.
    pub skip: usize,
    /// Bytes that follow the head.
    pub payload: usize,
}

/// How a frame is cut up.
#[derive(Clone, Copy)]
struct Segmentation {
    gso: Gso,
    transport: Transport,
}

impl<'b, 'm> Plan<'b, 'm> {
    /// Plans `delivery` of a frame of `burst`; `None` when the delivery names no frame of it.
    #[inline]
    pub fn new(burst: &'b Burst<'m>, delivery: &Delivery, caps: Caps) -> Option<Plan<'b, 'm>> {
        let frame = burst.frames().get(delivery.index())?;
        let tag = delivery.tag();
        let inline_tag = tag.is_some() && !caps.tag;
        let (fills, segments) = if frame.is_plain() { (false, 0) } else { left_to_do(burst, frame, caps) };
        Some(Plan { frame, burst, tag, inline_tag, pad: caps.pad, fills, segments })
    }

    /// How the frame is cut up, when that is ours to do.
    fn segmentation(&self) -> Option<Segmentation> {
        let gso = self.frame.offload().gso.filter(|_| self.segments > 0)?;
        Some(Segmentation { gso, transport: Transport::parse(self.head())? })
    }

    /// Where the sum that is ours to fill in starts, and where it goes.
    fn fill(&self) -> Option<(usize, usize)> {
        match self.frame.offload().csum {
            Csum::Fill { start, at } if self.fills => Some((usize::from(start), usize::from(at))),
            _ => None,
        }
    }

    /// Frames the port gets: 1, or the number of segments.
    #[inline]
    pub fn count(&self) -> u32 {
        self.segments.max(1)
    }

    /// Length in bytes of output frame `index`, with an inline tag and padding.
    #[inline]
    pub fn len(&self, index: u32) -> usize {
        let bare = match self.frame.offload().gso {
            Some(gso) if self.segments > 0 => usize::from(gso.header) + self.segment(gso, index).1,
            _ => self.frame.len(),
        };
        let len = bare + if self.inline_tag { TAG_LEN } else { 0 };
        if self.pad { len.max(MIN_FRAME) } else { len }
    }

    /// Never: a frame has at least its Ethernet header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frame that is delivered.
    #[inline]
    pub fn frame(&self) -> &'b Frame {
        self.frame
    }

    /// The bytes of the untagged frame that were read ahead, at most [`HEAD_MAX`]: with an offload request, all
    /// headers that it concerns.
    #[inline]
    pub fn head(&self) -> &'b [u8] {
        self.burst.head_of(self.frame)
    }

    /// The tag to hand over beside the frame; `None` when there is none or it is written inline.
    #[inline]
    pub fn side_tag(&self) -> Option<Tag> {
        if self.inline_tag { None } else { self.tag }
    }

    /// The output frame as it lies in memory, for an egress whose peer copies it (a system call): writes the head,
    /// with an inline tag in its place, to `head`. `None` when the frame is to be cut up or summed by us, which
    /// [`Plan::write`] does. Padding is the caller's.
    #[inline]
    pub fn scatter(&self, head: &mut [u8; HEAD_MAX + TAG_LEN]) -> Option<Scattered<'b, 'm>> {
        if self.fills || self.segments > 0 {
            return None;
        }
        let from = self.head();
        let mut len = from.len();
        match self.tag {
            Some(tag) if self.inline_tag => {
                head[..12].copy_from_slice(from.get(..12)?);
                head[12..16].copy_from_slice(&tag.bytes());
                head.get_mut(16..len + TAG_LEN)?.copy_from_slice(&from[12..]);
                len += TAG_LEN;
            }
            _ => head.get_mut(..len)?.copy_from_slice(from),
        }
        let payload = self.frame.len() - from.len();
        Some(Scattered {
            head: len,
            rest: self.burst.slices_of(self.frame),
            skip: from.len() + usize::from(self.frame.facts.cut),
            payload,
        })
    }

    /// The checksum facts of the output frames: `Good` where this plan fills it in.
    #[inline]
    pub fn csum(&self) -> Csum {
        let shift = if self.inline_tag { TAG_LEN as u16 } else { 0 };
        match self.frame.offload().csum {
            Csum::Fill { .. } if self.fills || self.segments > 0 => Csum::Good,
            Csum::Fill { start, at } => Csum::Fill { start: start + shift, at: at + shift },
            other => other,
        }
    }

    /// The segmentation the peer is left to do; offsets as in the output frame.
    #[inline]
    pub fn gso(&self) -> Option<Gso> {
        if self.segments > 0 {
            return None;
        }
        let shift = if self.inline_tag { TAG_LEN as u16 } else { 0 };
        self.frame.offload().gso.map(|g| Gso { header: g.header + shift, ..g })
    }

    /// Offset in the frame and length of the payload of segment `index`.
    #[inline]
    fn segment(&self, gso: Gso, index: u32) -> (usize, usize) {
        let header = usize::from(gso.header);
        let mss = usize::from(gso.mss);
        let from = header + index as usize * mss;
        (from, (self.frame.len().saturating_sub(from)).min(mss))
    }

    /// Writes output frame `index` into `room`, whose pieces must hold [`Plan::len`] bytes; false when
    /// they do not (what was written is then of no meaning).
    #[inline]
    pub fn write(&self, index: u32, room: &[Slice<'_>]) -> bool {
        match room {
            [to] if self.frame.is_plain() && !self.inline_tag => self.burst.write_plain(self.frame, &[], to, self.pad),
            _ => self.write_any(index, room),
        }
    }

    fn write_any(&self, index: u32, room: &[Slice<'_>]) -> bool {
        let mut head = [0u8; HEAD_MAX + TAG_LEN];
        let (head_len, payload, seed) = match self.segmentation() {
            None if self.segments > 0 => return false,
            None => {
                let n = self.head().len();
                head[..n].copy_from_slice(self.head());
                (n, (n, self.frame.len() - n), self.fill().map(|(start, at)| (start, at, Sum::new())))
            }
            Some(s) => {
                let n = usize::from(s.gso.header);
                head[..n].copy_from_slice(&self.head()[..n]);
                let payload = self.segment(s.gso, index);
                let sum = patch_segment(&mut head[..n], &s, index, payload.1, index + 1 == self.segments);
                let l4 = s.transport.l4;
                (n, payload, Some((l4, l4 + usize::from(s.gso.kind.sum_at()), sum)))
            }
        };
        self.copy(&mut head, head_len, payload, seed, room)
    }

    fn copy(
        &self,
        head: &mut [u8; HEAD_MAX + TAG_LEN],
        head_len: usize,
        payload: (usize, usize),
        seed: Option<(usize, usize, Sum)>,
        room: &[Slice<'_>],
    ) -> bool {
        let shift = if self.inline_tag { TAG_LEN } else { 0 };
        // The sum over the head's part, before a tag moves it.
        let mut summed = seed;
        if let Some((start, _, sum)) = &mut summed {
            sum.add(head.get(*start..head_len).unwrap_or(&[]));
        }
        let mut head_len = head_len;
        if let (true, Some(tag)) = (self.inline_tag, self.tag) {
            head.copy_within(12..head_len, 12 + TAG_LEN);
            head[12..16].copy_from_slice(&tag.bytes());
            head_len += TAG_LEN;
        }
        let mut cursor = Cursor { room, at: 0 };
        if !cursor.put(&head[..head_len]) {
            return false;
        }
        let slices = self.burst.slices_of(self.frame);
        let skip_in_slices = payload.0 + usize::from(self.frame.facts.cut);
        let ok = match &mut summed {
            None => cursor.copy_from(slices, skip_in_slices, payload.1),
            // Bytes before `start` that lie beyond the head are not summed.
            Some((start, _, sum)) => {
                let plain = start.saturating_sub(payload.0).min(payload.1);
                cursor.copy_from(slices, skip_in_slices, plain)
                    && cursor.copy_from_sum(slices, skip_in_slices + plain, payload.1 - plain, sum)
            }
        };
        if !ok || !cursor.pad(if self.pad { MIN_FRAME } else { 0 }, head_len + payload.1) {
            return false;
        }
        match summed {
            // RFC 768: a UDP checksum that comes out as 0 is sent as all ones; in TCP the two are equal.
            Some((_, at, sum)) => {
                let value = match sum.finish() {
                    0 => 0xffff,
                    v => v,
                };
                put_at(room, at + shift, &value.to_be_bytes())
            }
            None => true,
        }
    }
}

/// What of the frame's request is left to do, the peer having `caps`: whether to fill in its checksum, and into how
/// many frames to cut it (0: not at all).
fn left_to_do(burst: &Burst<'_>, frame: &Frame, caps: Caps) -> (bool, u32) {
    let offload = frame.offload();
    let taken = |kind| match kind {
        GsoKind::Tcp => caps.tso,
        GsoKind::Udp => caps.uso,
    };
    match offload.gso {
        // What cannot be parsed was refused when the frame came in.
        Some(gso) if !taken(gso.kind) && Transport::parse(burst.head_of(frame)).is_some() => {
            let payload = frame.len() - usize::from(gso.header);
            (false, payload.div_ceil(usize::from(gso.mss)) as u32)
        }
        // Who cuts segments sums them: a request to cut that is left to the peer comes with its checksum.
        Some(_) => (false, 0),
        None => (!caps.csum && matches!(offload.csum, Csum::Fill { .. }), 0),
    }
}

/// Makes `head` the headers of segment `index`: IP length and identification, TCP sequence and flags, UDP length.
/// Returns the sum of the pseudo header; the checksum field is zeroed.
fn patch_segment(head: &mut [u8], s: &Segmentation, index: u32, payload: usize, last: bool) -> Sum {
    let t = s.transport;
    let l4_total = (t.l4_len + payload) as u32;
    if t.v6 {
        let plen = (t.l4 - t.l3 - 40 + t.l4_len + payload) as u16;
        head[t.l3 + 4..t.l3 + 6].copy_from_slice(&plen.to_be_bytes());
    } else {
        let total = (t.l4 - t.l3 + t.l4_len + payload) as u16;
        head[t.l3 + 2..t.l3 + 4].copy_from_slice(&total.to_be_bytes());
        let id = u16::from_be_bytes([head[t.l3 + 4], head[t.l3 + 5]]).wrapping_add(index as u16);
        head[t.l3 + 4..t.l3 + 6].copy_from_slice(&id.to_be_bytes());
        head[t.l3 + 10..t.l3 + 12].fill(0);
        let sum = !sum_be(&head[t.l3..t.l4]);
        head[t.l3 + 10..t.l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    match s.gso.kind {
        GsoKind::Tcp => patch_tcp(&mut head[t.l4..], index.wrapping_mul(u32::from(s.gso.mss)), index == 0, last),
        GsoKind::Udp => head[t.l4 + 4..t.l4 + 6].copy_from_slice(&(l4_total as u16).to_be_bytes()),
    }
    let sum_at = t.l4 + usize::from(s.gso.kind.sum_at());
    head[sum_at..sum_at + 2].fill(0);
    pseudo_header(t.addresses(head), s.gso.kind.protocol(), l4_total)
}

/// Makes `tcp` the header of the segment whose payload begins `from` bytes into the whole's.
fn patch_tcp(tcp: &mut [u8], from: u32, first: bool, last: bool) {
    const FIN_PSH: u8 = 0x09;
    const CWR: u8 = 0x80;
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(from);
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    if !last {
        tcp[13] &= !FIN_PSH;
    }
    if !first {
        // RFC 3168 section 6.1.2: the window reduction is told once.
        tcp[13] &= !CWR;
    }
}

#[cfg(test)]
#[path = "emit_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "datagram_tests.rs"]
mod datagram_tests;
