//! Frames read many at a time, or alone, beside the same frames pushed one by one.

use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use sharedmem::{MemTable, Region, Span, SpanHint};

use super::*;
use crate::{Burst, Offload};

const BYTES: usize = 1 << 17;
const HEADER: usize = 12;

/// A frame as a guest sends it, and what is odd about its memory.
#[derive(Clone, Debug)]
struct Sent {
    /// Bytes without the tag.
    len: usize,
    src: u8,
    tag: Option<u16>,
    /// What the header asks for, and whether its memory is such that a front can be read.
    asks: u8,
    roomy: bool,
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let len = prop_oneof![12 => Just(60usize), 4 => 14usize..130, 1 => 0usize..14, 1 => 1500usize..1519];
    let tag = prop_oneof![12 => Just(None), 1 => any::<u16>().prop_map(Some)];
    let rarely = |often: u32| prop_oneof![often => Just(false), 1 => Just(true)];
    (len, rarely(10), tag, rarely(20), rarely(20)).prop_map(|(len, other, tag, asks, tight)| Sent {
        len,
        src: if other { 9 } else { 2 },
        tag,
        asks: u8::from(asks),
        roomy: !tight,
    })
}

/// The bytes a guest has in memory.
fn bytes(sent: &Sent) -> Vec<u8> {
    let mut bytes = vec![0, 0x50, 0x56, 0, 0, 1, 0, 0x50, 0x56, 0, 0, sent.src, 8, 0];
    bytes.extend((14..sent.len.max(14)).map(|n| n as u8 | 1));
    bytes.truncate(sent.len);
    if let Some(tag) = sent.tag.filter(|_| sent.len >= 12) {
        bytes.splice(12..12, [0x81, 0, (tag >> 8) as u8, tag as u8]);
    }
    bytes
}

/// Lays the frames out behind headers of `header` bytes.
fn lay<'m>(region: &'m Region, table: &'m MemTable, sent: &[Sent], header: usize) -> Vec<Slice<'m>> {
    let mut at = 0;
    let lay = |sent: &Sent| {
        let mut all = vec![0; header];
        all.iter_mut().take(1).for_each(|byte| *byte = sent.asks);
        all.extend(bytes(sent));
        let plain = region.slice(at, all.len()).unwrap();
        assert!(plain.write_at(0, &all));
        let from = at as u64;
        at += all.len() + 3;
        let roomy = || table.lookup(&mut SpanHint::default()).to_read(from, all.len() as u32);
        if sent.roomy { roomy().unwrap_or(plain) } else { plain }
    };
    sent.iter().map(lay).collect()
}

/// A frame's bytes, its tag, and whether nothing is asked or known of it.
type Seen = (Vec<u8>, Option<Tag>, bool);

/// All there is to a burst for those it is handed to: frames, and what was rejected.
fn seen(burst: &Burst<'_>) -> (Vec<Seen>, Vec<(DropReason, u32)>) {
    let frame = |frame: &Frame| {
        let mut all = vec![0; frame.len() + 1];
        let n = burst.copy_frame(frame, &mut all);
        all.truncate(n);
        (all, frame.tag(), frame.is_silent())
    };
    (burst.frames().iter().map(frame).collect(), burst.rejected().to_vec())
}

/// Pushes all pieces; `lone` says which are tried by themselves, and the others by runs.
fn push_all<'m, const P: usize>(burst: &mut Burst<'m>, pieces: &[Slice<'m>], lone: &[bool]) {
    let one = |burst: &mut Burst<'m>, piece: &Slice<'m>| match piece.after(P) {
        Some(frame) => burst.push(&[frame], None, Offload::default()),
        None => burst.reject(DropReason::BadDescriptor, 0),
    };
    let mut at = 0;
    while at < pieces.len() {
        let alone = |n: usize| lone.get(n).copied().unwrap_or(false);
        if alone(at) {
            if !burst.push_lone::<P>(pieces[at]) {
                one(burst, &pieces[at]);
            }
            at += 1;
            continue;
        }
        let end = (at..pieces.len()).find(|n| alone(*n)).unwrap_or(pieces.len());
        let mut numbers = burst.expect_from(|list| pieces[at..end].iter().for_each(|piece| list.push(*piece)));
        loop {
            let pushed = burst.push_expected::<P>(numbers.clone());
            numbers.start += pushed;
            at += pushed;
            if numbers.is_empty() {
                break;
            }
            one(burst, &pieces[at]);
            numbers.start += 1;
            at += 1;
        }
    }
}

fn together_is_as_one_by_one<const P: usize>(sent: &[Sent], lone: &[bool]) -> Result<(), TestCaseError> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES as u64).unwrap();
    let region: Arc<Region> = Region::map(file.as_fd(), 0, BYTES, true).unwrap();
    let span = Span { guest: 0, len: BYTES as u64, user: 0, region: region.clone(), offset: 0 };
    let table = MemTable::new().with(span).unwrap();
    let pieces = lay(&region, &table, sent, P);
    let (mut together, mut single) = (Burst::new(), Burst::new());
    push_all::<P>(&mut together, &pieces, lone);
    for piece in &pieces {
        let frame = piece.after(P).unwrap();
        single.push(&[frame], None, Offload::default());
    }
    prop_assert_eq!(seen(&together), seen(&single));
    for longest in [59, 60, 61, 128, 1514] {
        prop_assert_eq!(together.is_simple(longest), single.is_simple(longest), "{}", longest);
    }
    let first = single.frames().first().map(Frame::key);
    let same = single.frames().iter().all(|frame| Some(frame.key()) == first && frame.tag().is_none());
    if let Some(all) = together.alike() {
        prop_assert!(same || single.frames().is_empty());
        prop_assert_eq!(all, single.frames().iter().map(|frame| frame.len() as u64).sum::<u64>());
    } else {
        // What is no matter of the fast lanes is not known to be alike; everything else is.
        let usual = |sent: &Sent| sent.roomy && sent.asks == 0 && sent.tag.is_none() && sent.len >= ETH_HEADER;
        prop_assert!(!same || !sent.iter().all(usual));
    }
    Ok(())
}

proptest! {
    #[test]
    fn behind_a_header(
        sent in proptest::collection::vec(any_sent(), 0..=BURST), lone in proptest::collection::vec(any::<bool>(), 0..6),
    ) {
        together_is_as_one_by_one::<HEADER>(&sent, &lone)?;
    }

    #[test]
    fn as_they_lie(
        sent in proptest::collection::vec(any_sent(), 0..=BURST), lone in proptest::collection::vec(any::<bool>(), 0..6),
    ) {
        together_is_as_one_by_one::<0>(&sent, &lone)?;
    }
}
