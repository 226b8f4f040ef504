//! Frames to send, and whether what arrives is what was sent.

use dataplane::{Caps, Csum, Gso, Offload};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use wire::checksum::pseudo_header;
use wire::ip::{TCP, Transport};
use wire::{ETH_HEADER, Mac, TAG_LEN, Tag, be16};

use crate::fake::{Received, Sent};

/// A frame of an EtherType that means nothing (IEEE 802 local experimental 2).
pub const PLAIN: Kind = Kind::Plain(0x88b6);

/// What to build.
#[derive(Clone, Debug)]
pub struct Shape {
    pub dst: Mac,
    pub src: Mac,
    /// The tag, and whether it stands in the frame.
    pub tag: Option<Tag>,
    pub in_band: bool,
    /// Another tag, in the frame under the first.
    pub inner: Option<Tag>,
    /// Payload in bytes: after the Ethernet header, or of TCP.
    pub payload: usize,
    pub kind: Kind,
    /// Source and number, to be found again in what arrives.
    pub id: (u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of this EtherType, without a meaning.
    Plain(u16),
    /// TCP whose checksum is asked for; with a segment size when it is to be cut.
    Tcp { ends: Ends, mss: Option<u16> },
}

/// The IP addresses of a frame, source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl Ends {
    /// Some addresses.
    pub fn any(v6: bool) -> Ends {
        if v6 { Ends::V6([1; 16], [2; 16]) } else { Ends::V4([10, 0, 0, 1], [10, 0, 0, 2]) }
    }
}

/// The `i`th byte of the payload of frame `id`.
fn pattern(id: (u16, u16), len: usize) -> Vec<u8> {
    let seed = usize::from(id.0) * 31 + usize::from(id.1);
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect();
    for (to, from) in bytes.iter_mut().zip([id.0.to_be_bytes(), id.1.to_be_bytes()].concat()) {
        *to = from;
    }
    bytes
}

impl Shape {
    /// The frame without its outer tag, complete with checksum.
    pub fn untagged(&self) -> Vec<u8> {
        let payload = pattern(self.id, self.payload);
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Plain(ethertype) => {
                bytes.extend(self.dst.0.iter().chain(&self.src.0).chain(&ethertype.to_be_bytes()));
                bytes.extend(payload);
            }
            Kind::Tcp { ends, .. } => {
                let eth = PacketBuilder::ethernet2(self.src.0, self.dst.0);
                let (a, b) = self.id;
                match ends {
                    Ends::V4(from, to) => eth.ipv4(from, to, 64).tcp(a, b, 9, 9000).write(&mut bytes, &payload),
                    Ends::V6(from, to) => eth.ipv6(from, to, 64).tcp(a, b, 9, 9000).write(&mut bytes, &payload),
                }
                .unwrap();
            }
        }
        if let Some(inner) = self.inner {
            bytes.splice(12..12, inner.bytes());
        }
        bytes
    }

    /// The frame as a sender lays it out.
    pub fn sent(&self, cuts: Vec<usize>) -> Sent {
        let mut bytes = self.untagged();
        let mut offload = Offload::default();
        let inline = self.tag.filter(|_| self.in_band);
        let shift = if inline.is_some() { TAG_LEN } else { 0 };
        if let Kind::Tcp { mss, .. } = self.kind {
            assert!(self.inner.is_none(), "an offload request under a second tag is not a case");
            let t = Transport::parse(&bytes).unwrap();
            let sum = pseudo_header(t.addresses(&bytes), TCP, (bytes.len() - t.l4) as u32).folded();
            bytes[t.l4 + 16..t.l4 + 18].copy_from_slice(&sum.to_be_bytes());
            offload.csum = Csum::Fill { start: (t.l4 + shift) as u16, at: (t.l4 + 16 + shift) as u16 };
            offload.gso = mss.map(|mss| Gso::tcp(mss, (t.payload() + shift) as u16));
        }
        if let Some(tag) = inline {
            bytes.splice(12..12, tag.bytes());
        }
        Sent { bytes, tag: self.tag.filter(|_| !self.in_band), offload, cuts }
    }

    /// Checks that `got`, all that one port with `caps` received of this frame, is this frame
    /// with `tag` on it.
    pub fn check(&self, got: &[Received], caps: Caps, tag: Option<Tag>) -> Result<(), String> {
        let want = self.untagged();
        let mut payload = Vec::new();
        for one in got {
            let bytes = strip(one, caps, tag)?;
            let Kind::Tcp { mss, .. } = self.kind else {
                same("frame", &bytes, &padded(want.clone(), caps, tag))?;
                continue;
            };
            let part = tcp_payload(one, &bytes)?;
            self.check_left_to_do(one, caps)?;
            same("addresses", &bytes[..ETH_HEADER], &want[..ETH_HEADER])?;
            match mss {
                Some(mss) if one.gso.is_none() && part.len() > usize::from(mss) => {
                    return Err(format!("a segment of {} bytes, {mss} asked for", part.len()));
                }
                _ => payload.extend(part),
            }
        }
        match self.kind {
            Kind::Plain(_) if got.len() > 1 => Err(format!("{} copies", got.len())),
            Kind::Tcp { .. } => same("TCP payload", &payload, &pattern(self.id, self.payload)),
            Kind::Plain(_) => Ok(()),
        }
    }

    /// What is left to the peer is what it can do, and told with the offsets of the frame as it lies before it.
    fn check_left_to_do(&self, one: &Received, caps: Caps) -> Result<(), String> {
        let Kind::Tcp { mss, .. } = self.kind else { return Ok(()) };
        let untagged = Transport::parse(&self.untagged()).ok_or("not TCP")?;
        let tag_len = if inline_tag(&one.bytes).is_some() { TAG_LEN } else { 0 };
        let (start, header) = ((untagged.l4 + tag_len) as u16, (untagged.payload() + tag_len) as u16);
        let too_long = mss.filter(|mss| self.payload > usize::from(*mss));
        let gso = too_long.filter(|_| caps.tso).map(|mss| Gso::tcp(mss, header));
        // Who cuts segments sums them.
        let csum = match too_long {
            Some(_) if caps.tso => Csum::Fill { start, at: start + 16 },
            None if caps.csum => Csum::Fill { start, at: start + 16 },
            _ => Csum::Good,
        };
        match (one.csum, one.gso) == (csum, gso) {
            true => Ok(()),
            false => Err(format!("{:?} and {:?} left to do, {csum:?} and {gso:?} expected", one.csum, one.gso)),
        }
    }
}

/// The received frame without the tag the port was to give it.
fn strip(one: &Received, caps: Caps, tag: Option<Tag>) -> Result<Vec<u8>, String> {
    let mut bytes = one.bytes.clone();
    let seen = if caps.tag { one.tag } else { tag.and_then(|_| inline_tag(&bytes)) };
    if seen != tag {
        return Err(format!("tag {seen:?}, {tag:?} expected"));
    }
    if !caps.tag && tag.is_some() {
        bytes.drain(12..16);
    }
    Ok(bytes)
}

fn padded(mut bytes: Vec<u8>, caps: Caps, tag: Option<Tag>) -> Vec<u8> {
    let tag_len = if tag.is_some() && !caps.tag { TAG_LEN } else { 0 };
    if caps.pad && bytes.len() + tag_len < 60 {
        bytes.resize(60 - tag_len, 0);
    }
    bytes
}

fn same(what: &str, got: &[u8], want: &[u8]) -> Result<(), String> {
    match got.iter().zip(want).position(|(a, b)| a != b) {
        Some(at) => Err(format!("{what} differs at byte {at}: {:#04x}, {:#04x} expected", got[at], want[at])),
        None if got.len() != want.len() => Err(format!("{what} of {} bytes, {} expected", got.len(), want.len())),
        None => Ok(()),
    }
}

/// The TCP payload of an untagged frame, which must be right by its lengths and, where it is filled in, its
/// checksum. (Padding is cut off by the IP length.)
fn tcp_payload(one: &Received, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let packet = SlicedPacket::from_ethernet(bytes).map_err(|e| e.to_string())?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return Err("not TCP".into()) };
    let header = tcp.to_header();
    let (want, pseudo) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            if ip.header_checksum != ip.calc_header_checksum() {
                return Err("IPv4 header checksum".into());
            }
            (header.calc_checksum_ipv4(&ip, tcp.payload()), [&ip.source[..], &ip.destination[..]].concat())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            (header.calc_checksum_ipv6(&ip, tcp.payload()), [&ip.source[..], &ip.destination[..]].concat())
        }
        _ => return Err("not IP".into()),
    };
    let want = match one.csum {
        Csum::Fill { .. } => pseudo_header(&pseudo, TCP, tcp.slice().len() as u32).folded(),
        _ => want.map_err(|e| e.to_string())?,
    };
    // The two zeros of ones' complement are equal.
    let never_zero = |sum| if sum == 0 { 0xffff } else { sum };
    if never_zero(tcp.checksum()) != never_zero(want) {
        return Err(format!("TCP checksum {:#06x}, {want:#06x} expected", tcp.checksum()));
    }
    Ok(tcp.payload().to_vec())
}

/// The 802.1Q tag that stands in a frame.
pub fn inline_tag(bytes: &[u8]) -> Option<Tag> {
    (be16(bytes, 12)? == wire::ETHERTYPE_VLAN).then(|| be16(bytes, 14).map(Tag))?
}

/// The tag the receiver sees: beside the frame or in it.
pub fn seen_tag(one: &Received) -> Option<Tag> {
    one.tag.or_else(|| inline_tag(&one.bytes))
}

/// Which frame this was.
pub fn id_of(one: &Received) -> Option<(u16, u16)> {
    let mut at = 12;
    while be16(&one.bytes, at)? == wire::ETHERTYPE_VLAN {
        at += TAG_LEN;
    }
    let id = match be16(&one.bytes, at)? {
        wire::ETHERTYPE_IPV4 => at + 22,
        wire::ETHERTYPE_IPV6 => at + 42,
        _ => at + 2,
    };
    Some((be16(&one.bytes, id)?, be16(&one.bytes, id + 2)?))
}
