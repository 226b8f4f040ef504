//! Frame heads and offload requests: what a sender puts in a frame and asks to be done with it.
//!
//! Frames go into a [`Burst`] as a ring's harvest puts them there, and out again by plans for peers with every set of
//! capabilities; the output is compared with what the request means for the input.

use std::sync::Arc;

use dataplane::{Burst, Csum, Delivery, DropReason, Gso, MAX_FRAME, Offload, Plan};
use sharedmem::{Region, Slice};
use wire::{ETH_HEADER, ETHERTYPE_VLAN, TAG_LEN, Tag, be16};

use crate::Input;
use crate::network::{region, tcp};
use crate::segments::{self, Given, Room};

/// Bytes of memory the frames of one run lie in.
const MEMORY: usize = 256 << 10;
/// Most frames of one run.
const FRAMES: usize = 4;

thread_local! {
    static SENDER: Arc<Region> = region(MEMORY);
}

/// One frame as the sender made it.
struct Sent {
    bytes: Vec<u8>,
    at: usize,
    cuts: [usize; 2],
    tag: Option<Tag>,
    offload: Offload,
}

/// The bytes of a frame: a head out of the input, perhaps over a TCP segment's, and a pattern up to a length.
fn bytes_of(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.u8();
    let len = match kind >> 6 {
        0 | 1 => usize::from(input.u8()),
        2 => usize::from(input.u16() & 0x3fff),
        _ => MAX_FRAME - 50 + usize::from(input.u8() & 0x7f),
    };
    let mut bytes = if kind & 1 != 0 { tcp(kind & 2 != 0, len.min(65_000)) } else { Vec::new() };
    if kind & 4 != 0 && bytes.len() > 12 {
        let mut tag = ETHERTYPE_VLAN.to_be_bytes().to_vec();
        tag.extend(input.u16().to_be_bytes());
        bytes.splice(12..12, tag);
    }
    let patch = usize::from(input.u8());
    let at = if kind & 1 != 0 { usize::from(input.u8() & 0x7f) } else { 0 };
    let patch = input.bytes(patch);
    let end = if kind & 1 != 0 { bytes.len() } else { len };
    bytes.resize(end, 0xa5);
    for (to, from) in bytes.iter_mut().skip(at).zip(patch) {
        *to = *from;
    }
    bytes
}

fn offload_of(input: &mut Input<'_>) -> Offload {
    let csum = |input: &mut Input<'_>| match input.u8() % 4 {
        0 => Csum::AsIs,
        1 => Csum::Good,
        2 => Csum::Fill { start: input.u16(), at: input.u16() },
        _ => {
            let start = u16::from(input.u8());
            Csum::Fill { start, at: start + u16::from(input.u8()) }
        }
    };
    let kind = input.u8();
    let gso = match kind % 4 {
        0 | 1 if kind < 0xc0 => None,
        0 => Some(Gso::udp(input.u16(), u16::from(input.u8()))),
        1 => Some(Gso::udp(u16::from(input.u8()), input.u16())),
        2 => Some(Gso::tcp(input.u16(), u16::from(input.u8()))),
        _ => Some(Gso::tcp(u16::from(input.u8()), input.u16())),
    };
    Offload { csum: csum(input), gso }
}

fn sent(input: &mut Input<'_>, at: usize) -> Sent {
    let tag = input.u8();
    let tag = (tag & 3 == 3).then(|| Tag(input.u16()));
    let offload = offload_of(input);
    let cuts = [usize::from(input.u8()), usize::from(input.u16())];
    let bytes = bytes_of(input);
    let first = cuts[0].min(bytes.len());
    Sent { at, cuts: [first, cuts[1].clamp(first, bytes.len())], tag, offload, bytes }
}

/// The frame with its inline tag cut out, and that tag.
fn untagged(sent: &Sent) -> (Given, Option<Tag>) {
    let (mut bytes, mut offload) = (sent.bytes.clone(), sent.offload);
    if sent.tag.is_some() || be16(&bytes, 12) != Some(ETHERTYPE_VLAN) {
        return (Given { bytes, offload }, sent.tag);
    }
    let tag = be16(&bytes, ETH_HEADER).map(Tag);
    bytes.drain(12..12 + TAG_LEN);
    let by = TAG_LEN as u16;
    if let Csum::Fill { start, at } = offload.csum {
        offload.csum = Csum::Fill { start: start.wrapping_sub(by), at: at.wrapping_sub(by) };
    }
    if let Some(gso) = &mut offload.gso {
        gso.header = gso.header.wrapping_sub(by);
    }
    (Given { bytes, offload }, tag)
}

/// Runs one input.
///
/// # Panics
/// When a frame is lost to the account or comes out wrong.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = SENDER.with(Arc::clone);
    let mut frames: Vec<Sent> = Vec::new();
    let mut end = 0;
    while !input.is_empty() && frames.len() < FRAMES {
        let frame = sent(&mut input, end);
        let slice = memory.slice(frame.at, frame.bytes.len());
        let Some(slice) = slice else { break };
        assert!(slice.write_at(0, &frame.bytes));
        end += frame.bytes.len() + 1;
        frames.push(frame);
    }
    let mut burst = Burst::new();
    for (n, frame) in frames.iter().enumerate() {
        assert!(burst.has_room());
        let slice = |from: usize, to: usize| memory.slice(frame.at + from, to - from).expect("inside");
        let [a, b] = frame.cuts;
        let pieces: [Slice<'_>; 3] = [slice(0, a), slice(a, b), slice(b, frame.bytes.len())];
        let before = burst.frames().len();
        burst.push(&pieces, frame.tag, frame.offload);
        assert_eq!(burst.harvested(), n + 1, "each frame is accounted for");
        if burst.frames().len() > before {
            carry(&burst, before, frame);
        } else {
            refused(frame, burst.rejected().last().map(|(reason, _)| *reason));
        }
    }
}

/// Plans and checks the frame for peers of every kind.
fn carry(burst: &Burst<'_>, index: usize, sent: &Sent) {
    let (given, tag) = untagged(sent);
    let frame = &burst.frames()[index];
    assert_eq!((frame.len(), frame.tag()), (given.bytes.len(), tag));
    assert_eq!(frame.head()[..ETH_HEADER], given.bytes[..ETH_HEADER]);
    let mut room = Room::new();
    let all = [0, 1, 3, 6, 11, 15, 2, 4, 5, 7, 8, 9, 10, 12, 13, 14];
    // For long frames the first few do: with and without each, and a summing peer that wants the tag inline.
    for bits in all.into_iter().take(if given.bytes.len() > 4000 { 6 } else { 16 }) {
        let caps = segments::caps(bits);
        for tag in [None, Some(Tag(0x6064))] {
            let delivery = Delivery::new(index as u8, tag);
            let plan = Plan::new(burst, &delivery, caps).expect("a frame of the burst");
            if let Csum::Fill { start, at } = plan.csum() {
                assert!(start <= at && usize::from(at) + 2 <= plan.len(0), "a request fits its frame");
            }
            segments::carry_out(&plan, &mut room, |i, out| segments::check(&given, &plan, tag, caps, i, out));
        }
    }
}

/// A frame may be refused for what is wrong with it only.
fn refused(sent: &Sent, reason: Option<DropReason>) {
    let len = sent.bytes.len();
    match reason.expect("a reason") {
        DropReason::Runt => assert!(len < ETH_HEADER + TAG_LEN),
        DropReason::Oversize => assert!(len > 65_535),
        DropReason::BadOffload => assert!(matches!(sent.offload.csum, Csum::Fill { .. }) || sent.offload.gso.is_some()),
        reason => panic!("{reason:?} is not what is wrong with the frame"),
    }
}
