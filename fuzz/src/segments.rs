//! Carrying plans out, and what their output must look like, worked out from the input alone.

use std::sync::Arc;

use dataplane::{Caps, Csum, Gso, GsoKind, Offload, Plan};
use sharedmem::{Region, Slice};
use wire::checksum::{pseudo_header, sum_be};
use wire::{ETH_HEADER, MIN_FRAME, TAG_LEN, Tag};

use crate::network::region;

/// Bytes of the scratch memory: the longest frame and some.
const ROOM: usize = 80 << 10;
/// Behind each output frame this must stay.
const CANARY: [u8; 8] = *b"canaries";
/// Output frames looked at from each end of a long segmentation.
const ENDS: u32 = 24;

/// Memory to write output frames to.
pub struct Room(Arc<Region>);

thread_local! {
    static SCRATCH: Arc<Region> = region(ROOM);
}

impl Room {
    /// This thread's.
    pub fn new() -> Room {
        Room(SCRATCH.with(Arc::clone))
    }
}

/// The capabilities that the low four bits mean; a peer takes either segments or datagrams.
pub fn caps(bits: u8) -> Caps {
    let bit = |n: u8| bits >> n & 1 != 0;
    Caps { csum: bit(0), tso: bit(1), tag: bit(2), pad: bit(3), uso: !bit(1) }
}

/// Writes the plan's output frames, in pieces, and shows each to `look`; the ones in the middle of a very long
/// segmentation are left out.
///
/// # Panics
/// When a frame does not fit the length that the plan said, or too little room is not refused.
pub fn carry_out(plan: &Plan<'_, '_>, room: &mut Room, mut look: impl FnMut(u32, &[u8])) {
    let count = plan.count();
    assert!((1..=dataplane::MAX_SEGMENTS as u32).contains(&count), "{count} segments");
    let slice = |from: usize, to: usize| room.0.slice(from, to - from).expect("a frame of bounded length");
    for index in (0..count).filter(|i| *i < ENDS || *i >= count - ENDS.min(count)) {
        let len = plan.len(index);
        assert!(slice(len, len + CANARY.len()).write_at(0, &CANARY));
        let [a, b] = [len.min(13), len.min(61)];
        let pieces: [Slice<'_>; 4] = [slice(0, a), slice(a, b), slice(b, b), slice(b, len)];
        assert!(plan.write(index, &pieces), "room of the length that was asked for");
        let mut bytes = vec![0; len];
        assert!(slice(0, len).read_at(0, &mut bytes));
        let mut behind = [0; CANARY.len()];
        assert!(slice(len, len + CANARY.len()).read_at(0, &mut behind));
        assert_eq!(behind, CANARY, "written past the room");
        look(index, &bytes);
        if index == 0 {
            assert!(!plan.write(index, &[slice(0, len - 1)]), "too little room is refused");
        }
    }
}

/// A frame as it went into a burst.
pub struct Given {
    /// Its bytes, the inline tag (if any) cut out.
    pub bytes: Vec<u8>,
    /// The request, with offsets in `bytes`.
    pub offload: Offload,
}

/// Checks output frame `index` of `plan` against what was given.
///
/// # Panics
/// When it differs.
pub fn check(given: &Given, plan: &Plan<'_, '_>, tag: Option<Tag>, caps: Caps, index: u32, out: &[u8]) {
    let untagged = match tag {
        Some(tag) if !caps.tag => {
            assert_eq!(out[12..12 + TAG_LEN], tag.bytes(), "the tag is inline");
            [&out[..12], &out[12 + TAG_LEN..]].concat()
        }
        _ => out.to_vec(),
    };
    assert_eq!(plan.side_tag(), tag.filter(|_| caps.tag));
    if caps.pad {
        assert!(out.len() >= MIN_FRAME);
    }
    match given.offload {
        Offload { gso: Some(gso), .. } => check_gso(given, gso, plan, caps, index, &untagged),
        Offload { csum, gso: None } => check_whole(given, csum, caps, &untagged),
    }
}

fn check_whole(given: &Given, csum: Csum, caps: Caps, out: &[u8]) {
    let len = given.bytes.len();
    let mut want = given.bytes.clone();
    if let (Csum::Fill { start, at }, false) = (csum, caps.csum) {
        let (start, at) = (usize::from(start), usize::from(at));
        let sum = match !sum_be(&want[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        want[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    assert!(out[..len] == want[..], "the frame as it was given");
    assert!(
        out[len..].iter().all(|b| *b == 0) && out.len() == len.max(if caps.pad { out.len().min(MIN_FRAME) } else { 0 })
    );
}

/// A frame of a segmentation: all of it where the peer cuts it up, a part where the plan does.
fn check_gso(given: &Given, gso: Gso, plan: &Plan<'_, '_>, caps: Caps, index: u32, out: &[u8]) {
    let (header, mss) = (usize::from(gso.header), usize::from(gso.mss));
    let payload = &given.bytes[header..];
    let takes = if gso.kind == GsoKind::Udp { caps.uso } else { caps.tso };
    let cut = !takes && payload.len() > mss;
    assert_eq!(plan.count() as usize, if cut { payload.len().div_ceil(mss) } else { 1 });
    let from = if cut { index as usize * mss } else { 0 };
    let part = if cut { &payload[from..payload.len().min(from + mss)] } else { payload };
    assert!(out[header..header + part.len()] == *part, "the payload of segment {index}");
    assert!(out[header + part.len()..].iter().all(|b| *b == 0), "nothing but padding behind it");
    assert_eq!(out[..ETH_HEADER], given.bytes[..ETH_HEADER]);
    assert_eq!(plan.gso().is_some(), takes && payload.len() > mss);
    if !cut && caps.csum {
        return; // the peer fills the sums in
    }
    if plan.gso().is_some() {
        // A peer that cuts but does not sum: its headers are those of the whole, which no single frame could have.
        return;
    }
    check_headers(&out[..header + part.len()], gso.kind, &given.bytes, from);
}

/// Lengths, sums and sequence number of one finished TCP segment, or datagram.
fn check_headers(out: &[u8], kind: GsoKind, given: &[u8], from: usize) {
    let v6 = out[ETH_HEADER] >> 4 == 6;
    let l4 = wire::ip::Transport::parse(out).expect("a segment").l4;
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |bytes: &[u8], at: usize| u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2));
    let addresses = if v6 { &out[22..54] } else { &out[26..34] };
    if v6 {
        assert_eq!(usize::from(word(out, 18)), out.len() - 54, "payload length");
    } else {
        assert_eq!(usize::from(word(out, 16)), out.len() - 14, "total length");
        assert_eq!(sum_be(&out[14..l4]), 0xffff, "IPv4 header checksum");
    }
    let mut sum = pseudo_header(addresses, kind.protocol(), (out.len() - l4) as u32);
    sum.add(&out[l4..]);
    assert_eq!(sum.folded(), 0xffff, "checksum");
    match kind {
        GsoKind::Tcp => {
            assert_eq!(long(out, l4 + 4), long(given, l4 + 4).wrapping_add(from as u32), "sequence number");
        }
        GsoKind::Udp => assert_eq!(usize::from(word(out, l4 + 4)), out.len() - l4, "UDP length"),
    }
}
