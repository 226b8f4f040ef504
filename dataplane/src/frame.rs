//! Frames in flight: heads read once, payload left where it is.

use wire::ip::{TCP, UDP};
use wire::{ETH_HEADER, Mac, Tag};

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

/// What a frame is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP segments.
    Tcp,
    /// UDP datagrams of their own, as Linux's `UDP_SEGMENT` means it; not fragments of one.
    Udp,
}

impl GsoKind {
    /// Number of the protocol.
    pub fn protocol(self) -> u8 {
        match self {
            GsoKind::Tcp => TCP,
            GsoKind::Udp => UDP,
        }
    }

    /// Offset of the checksum in the protocol's header.
    #[inline]
    pub fn sum_at(self) -> u16 {
        match self {
            GsoKind::Tcp => 16,
            GsoKind::Udp => UDP_SUM_AT,
        }
    }
}

/// Offset of the checksum in a UDP header.
const UDP_SUM_AT: u16 = 6;

/// TCP segments or UDP datagrams under one set of headers, larger than the wire takes, to be cut up by whoever must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What it is cut into.
    pub kind: GsoKind,
    /// Bytes of TCP or UDP payload per frame.
    pub mss: u16,
    /// Bytes of headers, from the start of the untagged frame to the payload.
    pub header: u16,
}

impl Gso {
    /// A TCP segment.
    pub fn tcp(mss: u16, header: u16) -> Gso {
        Gso { kind: GsoKind::Tcp, mss, header }
    }

    /// UDP datagrams.
    pub fn udp(mss: u16, header: u16) -> Gso {
        Gso { kind: GsoKind::Udp, mss, header }
    }
}

/// Offload facts that travel with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// L4 checksum.
    pub csum: Csum,
    /// TCP or UDP segmentation; implies that the checksum is to be filled in.
    pub gso: Option<Gso>,
}

/// One frame. Its tag is out of band whatever the sender did; all offsets are of the untagged frame.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Frame {
    /// Zeros beyond `head_len`: a short frame is padded by writing more of it.
    pub(crate) head: [u8; HEAD_PLAIN],
    pub(crate) len: u32,
    pub(crate) first: u16,
    pub(crate) head_len: u16,
    pub(crate) facts: Facts,
}

/// What is the same in all plain frames of a burst: in a part of its own, 16 bytes that are written in one go.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Facts {
    /// Bytes of the memory pieces that are not in the head (or the long head) though they lie before what follows it: a header
    /// before the frame, a tag that was taken out of it.
    pub(crate) cut: u8,
    pub(crate) count: u8,
    pub(crate) asks: Asks,
    /// Number of the long head, which a frame with an offload request has.
    pub(crate) long: u8,
    /// The tag, with [`TAGGED`]; 0 without one.
    pub(crate) tag: u32,
    pub(crate) offload: Packed,
}

/// Set beside the tag of a tagged frame.
const TAGGED: u32 = 1 << 16;

/// What a frame asks of those who send it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Nothing, and nothing is known of it.
    Nothing,
    /// Nothing; its checksum was verified.
    Good,
    /// A checksum or segmentation.
    Work,
}

/// An [`Offload`] that asks for work, in less room. Which kind of segmentation is told by where the checksum goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    start: u16,
    at: u16,
    /// 0 without segmentation.
    mss: u16,
    header: u16,
}

impl Packed {
    pub(crate) const NONE: Packed = Packed { start: 0, at: 0, mss: 0, header: 0 };

    pub(crate) fn new(offload: Offload) -> Packed {
        let (start, at) = if let Csum::Fill { start, at } = offload.csum { (start, at) } else { (0, 0) };
        let (mss, header) = offload.gso.map_or((0, 0), |gso| (gso.mss, gso.header));
        Packed { start, at, mss, header }
    }
}

impl Facts {
    /// Of a plain frame in one piece, behind a header of so many bytes.
    pub(crate) const fn plain(header: usize) -> Facts {
        Facts { cut: header as u8, count: 1, asks: Asks::Nothing, long: 0, tag: 0, offload: Packed::NONE }
    }
}

impl Frame {
    pub(crate) const EMPTY: Frame =
        Frame { head: [0; HEAD_PLAIN], len: 0, first: 0, head_len: 0, facts: Facts::plain(0) };

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

    /// Both addresses, the Ethernet type and the tag, as numbers to compare.
    #[inline]
    pub(crate) fn key(&self) -> Key {
        Key { first: word(&self.head, 0), last: word(&self.head, 6), tag: self.facts.tag }
    }

    /// True when addresses and Ethernet type are those of `key`.
    #[inline(always)]
    pub(crate) fn same_addresses(&self, key: &Key) -> bool {
        let own = self.key();
        own.first == key.first && own.last == key.last
    }

    /// The outermost 802.1Q tag the sender put on the frame, in or out of band.
    #[inline]
    pub fn tag(&self) -> Option<Tag> {
        (self.facts.tag != 0).then_some(Tag(self.facts.tag as u16))
    }

    #[inline]
    pub(crate) fn set_tag(&mut self, tag: Option<Tag>) {
        self.facts.tag = tag.map_or(0, |tag| u32::from(tag.0) | TAGGED);
    }

    /// Offload facts.
    #[inline]
    pub fn offload(&self) -> Offload {
        match self.facts.asks {
            Asks::Nothing => Offload::default(),
            Asks::Good => Offload { csum: Csum::Good, gso: None },
            Asks::Work => {
                let Packed { start, at, mss, header } = self.facts.offload;
                let kind = if at.wrapping_sub(start) == UDP_SUM_AT { GsoKind::Udp } else { GsoKind::Tcp };
                Offload { csum: Csum::Fill { start, at }, gso: (mss != 0).then_some(Gso { kind, mss, header }) }
            }
        }
    }

    /// True when the frame asks for nothing: it goes out as it came in.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.facts.asks != Asks::Work
    }

    /// True when it asks for nothing and nothing is known of it.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        self.facts.asks == Asks::Nothing
    }
}

/// The addresses and the Ethernet type of a frame with this head, to compare while it is read: words that lie as the head was
/// written. A word across those, as [`Key`] has one, would have to wait until what was just written is in the cache.
#[inline(always)]
pub(crate) fn words(head: &[u8; HEAD_PLAIN]) -> u128 {
    // Of the second word all but the two bytes behind the type.
    head.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes)) & (!0 >> 16)
}

#[inline(always)]
fn word(head: &[u8; HEAD_PLAIN], at: usize) -> u64 {
    head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What decisions about unicast frames depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    /// Destination address, and two bytes of the source address.
    pub(crate) first: u64,
    /// Source address and Ethernet type.
    pub(crate) last: u64,
    /// The tag, as the frame has it.
    pub(crate) tag: u32,
}

impl Key {
    /// The destination address as a number, as [`Mac::as_u64`] has it.
    #[inline]
    pub(crate) fn dst(&self) -> u64 {
        self.first.swap_bytes() >> 16
    }

    /// True when the destination is a group address: the first bit on the wire.
    #[inline]
    pub(crate) fn is_group(&self) -> bool {
        self.first & 1 != 0
    }

    /// The source address as a number.
    #[inline]
    pub(crate) fn src(&self) -> u64 {
        self.last.swap_bytes() >> 16
    }
}
