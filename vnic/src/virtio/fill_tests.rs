//! Long frames copied in either way, beside each other.

use std::os::fd::AsFd;
use std::sync::Arc;

use dataplane::{BURST, Offload};
use proptest::prelude::*;
use sharedmem::Region;

use super::*;

const HEADER: usize = 12;
/// Bytes between the beginnings of two frames, and of two rooms.
const STRIDE: usize = 2304;

fn region() -> Arc<Region> {
    let (file, bytes) = (tempfile::tempfile().expect("a file"), 2 * BURST * STRIDE);
    file.set_len(bytes as u64).expect("its length");
    Region::map(file.as_fd(), 0, bytes, true).expect("a mapping")
}

fn bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; 2 * BURST * STRIDE];
    assert!(region.slice(0, bytes.len()).expect("all").read_at(0, &mut bytes));
    bytes
}

/// Lays a frame of each of `lens`, in two pieces where `cut` says so, and rooms of `rooms` bytes behind them; copies by `copy`.
/// Returns how many were copied, their lengths, and all memory.
fn copied(
    (lens, cuts, rooms): &(Vec<usize>, Vec<usize>, Vec<usize>),
    copy: impl Fn(&Burst<'_>, &[Slice<'_>], &mut [u32]) -> usize,
) -> (usize, Vec<u32>, Vec<u8>) {
    let region = region();
    let mut burst = Burst::new();
    for (n, (len, cut)) in lens.iter().zip(cuts).enumerate() {
        let at = n * STRIDE + n % 64;
        let mut frame = vec![0x02, 0, 0, 0, 0, n as u8, 0x02, 0, 0, 0, 1, 0, 8, 0];
        frame.extend((14..*len).map(|byte| (byte * 7 + n) as u8 | 1));
        assert!(region.slice(at, *len).expect("room").write_at(0, &frame));
        let (a, b) = (region.slice(at, *cut).expect("one"), region.slice(at + cut, len - cut).expect("other"));
        let pieces = if b.is_empty() { vec![a] } else { vec![a, b] };
        burst.push(&pieces, None, Offload::default());
    }
    let place = |(n, len): (usize, &usize)| region.slice((BURST + n) * STRIDE, *len).expect("room");
    let rooms: Vec<Slice<'_>> = rooms.iter().enumerate().map(place).collect();
    let mut written = vec![0; rooms.len()];
    let done = copy(&burst, &rooms, &mut written);
    (done, written, bytes(&region))
}

fn any_frames() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    // A room that is too short for its frame ends it.
    let room = prop_oneof![60 => Just(2048usize), 1 => 100usize..1500];
    let frame = (129usize..1515, any::<prop::sample::Index>(), any::<bool>(), room);
    proptest::collection::vec(frame, 1..=BURST).prop_map(|frames| {
        let cut = |len, at: prop::sample::Index, is| if is { 14 + at.index(len - 14) } else { len };
        let of = |f: fn(&(usize, prop::sample::Index, bool, usize)) -> usize| frames.iter().map(f).collect();
        let cuts = frames.iter().map(|(len, at, is, _)| cut(*len, *at, *is)).collect();
        (of(|f| f.0), cuts, of(|f| f.3))
    })
}

proptest! {
    #[test]
    fn frames_asked_for_before_their_turn_are_copied_as_others_are(frames in any_frames(), first in 0..=BURST) {
        // The last of them may be for later.
        let first = first.min(frames.0.len());
        let plain = copied(&frames, |burst, rooms, lens| {
            fill::<HEADER, Frame>(burst, burst.frames(), &rooms[..first], &mut lens[..first])
        });
        let cold = copied(&frames, |burst, rooms, lens| {
            fill_cold::<HEADER, Frame>(burst, burst.frames(), rooms, &mut lens[..first])
        });
        prop_assert_eq!(&plain, &cold);
        let (lens, _, rooms) = &frames;
        let fits = |(len, room): (&usize, &usize)| len + HEADER <= *room;
        prop_assert_eq!(plain.0, lens.iter().zip(rooms).take(first).position(|pair| !fits(pair)).unwrap_or(first));
        for was in [false, true] {
            let hint = AtomicBool::new(was);
            let long = copied(&frames, |burst, rooms, lens| {
                fill_long::<HEADER, Frame>(&hint, false, burst, burst.frames(), rooms, &mut lens[..first])
            });
            prop_assert_eq!(&plain, &long);
            prop_assert_eq!(hint.into_inner(), was, "nobody took the time");
        }
    }
}

#[test]
fn memory_is_what_takes_long_for_each_line() {
    // 24 lines and 9.
    let lens = [1526, 520];
    let at = |ns| waits_for_memory(Duration::from_nanos(ns), &lens);
    assert!(!at(0) && !at(33 * 6));
    assert!(at(33 * 6 + 1));
}
