//! From the guest's transmit rings into the switch.
//!
//! A driver fills the descriptors of a frame, and flips the generation bit of the first one last; so a worker
//! that finds the first one valid finds all valid up to the one marked end of packet. The payload is used where it
//! lies; the completions are written after the burst was forwarded.
//!
//! ```text
//!  word 0,1  address          word 2  len:14 gen:1 oco:1 dtype:1 ext1:1 msscof:14
//!                             word 3  hlen:10 om:2 eop:1 cq:1 ext2:1 ti:1 tci:16
//! ```
//! Layout: `vmxnet3_txdesc` and `vmxnet3_txcompdesc` in FreeBSD's `if_vmxreg.h`. Meaning of `hlen` and
//! `msscof`: `vmxnet3_isc_txd_encap` in its `if_vmx.c`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{Arm, BURST, Burst, Csum, DropReason, Gso, Ingress, MAX_FRAME_SLICES, Offload, Sink};
use sharedmem::{Access, DmaMap, Hint, Kind, Slice, WideRing};
use wire::Tag;

use super::active::{Active, Card, Cursor, TxRings, TxState};
use super::completion::publish;
use super::fast::harvest_plain;
use super::moderation::Work;
use super::registers::event;
use super::stats::{Counts, Sums, tx as stat};

const LEN_MASK: u32 = 0x3fff;
/// What a length of 0 means: 2^14.
const LEN_ZERO: u32 = 1 << 14;
const GENERATION: u32 = 1 << 14;
const TYPE: u32 = 1 << 16;
/// Revision 7 (`ext1`): what is asked for concerns the frame in a tunnel.
const INNER: u32 = 1 << 17;
const MSSCOF_SHIFT: u32 = 18;
const HEADER_MASK: u32 = 0x3ff;
const END: u32 = 1 << 12;
const COMPLETE: u32 = 1 << 13;
const TAG: u32 = 1 << 15;

/// The longest chain looked at. A driver uses 16 descriptors at most for an ordinary frame, and one per
/// fragment for a segmentation request; a ring without an end must not cost a walk at each poll.
const MAX_CHAIN: u32 = 128;

/// Why a queue stopped: `VMXNET3_ERR_NOEOP`, no end of packet in the whole ring.
const ERR_NO_END: u32 = 0x8000_0000;
/// `VMXNET3_ERR_BIG_PKT`, too many descriptors for a packet.
const ERR_TOO_LONG: u32 = 0x8000_0002;

/// Transmit queue `slot` of a card, for the worker that owns it.
pub struct TxQueue {
    card: Arc<Card>,
    slot: usize,
    hint: Hint,
}

impl TxQueue {
    /// The queue of `slot`; it has nothing to do until the driver starts it.
    pub fn new(card: Arc<Card>, slot: usize) -> TxQueue {
        TxQueue { card, slot, hint: Hint::default() }
    }
}

/// What one look at the ring found.
enum Found {
    /// No whole frame.
    Nothing,
    /// A frame (good or bad) whose last descriptor is `end`.
    Frame { end: u32, complete: bool },
    /// A chain that cannot be one: the queue stops with this error.
    Broken(u32),
}

impl Ingress for TxQueue {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        if self.slot >= self.card.tx_queues.load(Ordering::Acquire) {
            return 0;
        }
        let guard = self.card.active.load();
        let Some(active) = guard.as_ref().filter(|a| !a.run.failed()) else { return 0 };
        if self.slot == 0 {
            self.card.raise_pending(active);
        }
        let (Some(rings), Some(state)) = (active.tx.get(self.slot), active.run.tx.get(self.slot)) else { return 0 };
        let next = state.next.get();
        if !valid(rings.ring.upper(next.index) as u32, next) || state.error.load(Ordering::Relaxed) != 0 {
            return 0;
        }
        serve(&self.card, active, self.slot, rings, state, &mut self.hint, sink)
    }

    /// A driver's doorbell is a store to a page that its VMM maps: it wakes nobody. A card that is not started has none.
    fn arm(&mut self) -> Arm {
        let idle = self.slot >= self.card.tx_queues.load(Ordering::Acquire);
        if idle || self.card.active.load().is_none() { Arm::Quiet } else { Arm::Cannot }
    }
}

#[inline]
fn valid(word: u32, at: Cursor) -> bool {
    (word & GENERATION != 0) == at.gen_bit
}

/// Forwards one burst and completes it.
fn serve(
    card: &Card,
    active: &Active,
    slot: usize,
    rings: &TxRings,
    state: &TxState,
    hint: &mut Hint,
    sink: &mut dyn Sink,
) -> usize {
    if rings.ring.faulted() || rings.completions.faulted() {
        active.run.fail();
        return 0;
    }
    let mut burst = Burst::new();
    let mut ends: ArrayVec<u32, BURST> = ArrayVec::new();
    let mut next = state.next.get();
    let mut broken = None;
    while burst.has_room() {
        if harvest_plain(&active.map, hint, &rings.ring, &mut next, &mut burst, &mut ends) > 0 {
            continue;
        }
        match harvest(&active.map, hint, &rings.ring, &mut next, &mut burst) {
            Found::Nothing => break,
            Found::Frame { end, complete } => {
                if complete {
                    // Cannot be full: a burst has no more frames than it has places.
                    let _ = ends.try_push(end);
                }
            }
            Found::Broken(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let taken = burst.harvested();
    if taken > 0 {
        sink.forward(&burst);
        state.next.set(next);
        card.tx_stats[slot].add(&count(&burst));
        drop(burst);
        complete(rings, state, &ends);
        if let (false, Some(conf)) = (ends.is_empty(), active.run.conf.tx.get(slot)) {
            card.tell(active, conf.vector, Work::Sent(ends.len() as u32));
        }
    }
    if let Some(error) = broken {
        state.error.store(error, Ordering::Relaxed);
        card.report(active, event::TX_ERROR);
    }
    taken
}

/// The bits of the length in an upper half, as [`sharedmem::windows_of`] takes it.
pub(super) const PLAIN_LEN: u64 = LEN_MASK as u64;

/// What is asked for, or of another kind than most, in an upper half.
const ASKED: u64 = (3 << 10 | TAG as u64) << 32 | TYPE as u64;

/// The upper half of a descriptor in `at`'s round that [`plain_desc`] takes and that wants a completion.
#[inline(always)]
pub(super) fn plain_kind(at: Cursor) -> Kind {
    let Kind { mask, wanted } = plain(at);
    Kind { mask: mask | u64::from(COMPLETE) << 32, wanted: wanted | u64::from(COMPLETE) << 32 }
}

#[inline(always)]
fn plain(at: Cursor) -> Kind {
    let generation = if at.gen_bit { GENERATION } else { 0 };
    Kind {
        mask: ASKED | u64::from(END) << 32 | u64::from(GENERATION),
        wanted: u64::from(END) << 32 | u64::from(generation),
    }
}

/// The length of the frame whose only descriptor has this upper half, when it is plain: whole, in memory of the usual kind,
/// and nothing asked for.
#[inline(always)]
pub(super) fn plain_desc(upper: u64, at: Cursor) -> Option<u32> {
    let Kind { mask, wanted } = plain(at);
    // 0 becomes LEN_ZERO.
    (upper & mask == wanted).then_some(((upper as u32).wrapping_sub(1) & LEN_MASK) + 1)
}

/// True when the driver wants a completion of the frame that ends with this upper half.
#[inline(always)]
pub(super) fn wants_completion(upper: u64) -> bool {
    upper & u64::from(COMPLETE) << 32 != 0
}

/// Takes the frame at `next` into the burst, if it is all there.
#[inline]
fn harvest<'m>(map: &'m DmaMap, hint: &mut Hint, ring: &WideRing, next: &mut Cursor, burst: &mut Burst<'m>) -> Found {
    let mut pieces: ArrayVec<Slice<'m>, MAX_FRAME_SLICES> = ArrayVec::new();
    let mut at = *next;
    let mut first = (0, 0);
    let mut len = 0;
    let mut good = true;
    for n in 0..ring.count().min(MAX_CHAIN) {
        let upper = ring.upper(at.index);
        let (word2, word3) = (upper as u32, (upper >> 32) as u32);
        if !valid(word2, at) {
            return Found::Nothing;
        }
        if n == 0 {
            first = (word2, word3);
        }
        let bytes = match word2 & LEN_MASK {
            0 => LEN_ZERO,
            bytes => bytes,
        } as usize;
        len += bytes;
        good = good && word2 & TYPE == 0 && gather(map, hint, ring.lower(at.index), bytes, &mut pieces);
        let end = at.index;
        at.advance(ring.count());
        if word3 & END != 0 {
            *next = at;
            take(burst, first, &pieces, len, good);
            return Found::Frame { end, complete: word3 & COMPLETE != 0 };
        }
    }
    Found::Broken(if ring.count() > MAX_CHAIN { ERR_TOO_LONG } else { ERR_NO_END })
}

/// Adds the memory at `iova` to the pieces; false when it is not all there or there are too many.
#[inline]
pub(super) fn gather<'m, const N: usize>(
    map: &'m DmaMap,
    hint: &mut Hint,
    iova: u64,
    len: usize,
    pieces: &mut ArrayVec<Slice<'m>, N>,
) -> bool {
    resolve(map, hint, iova, len, Access::Read, pieces)
}

/// As [`gather`], for either kind of access. A buffer may span mappings.
#[inline]
pub(super) fn resolve<'m, const N: usize>(
    map: &'m DmaMap,
    hint: &mut Hint,
    mut iova: u64,
    mut len: usize,
    access: Access,
    pieces: &mut ArrayVec<Slice<'m>, N>,
) -> bool {
    while len > 0 {
        let Ok(piece) = map.prefix(hint, iova, len, access) else { return false };
        if pieces.try_push(piece).is_err() {
            return false;
        }
        len -= piece.len();
        match iova.checked_add(piece.len() as u64) {
            Some(next) => iova = next,
            None => return len == 0,
        }
    }
    true
}

/// Hands the frame to the burst, or counts it as bad. `word2` and `word3` are those of its first descriptor.
#[inline]
fn take<'m>(burst: &mut Burst<'m>, (word2, word3): (u32, u32), pieces: &[Slice<'m>], len: usize, good: bool) {
    if !good {
        return burst.reject(DropReason::BadDescriptor, len);
    }
    let Some(offload) = offload(word2, word3) else { return burst.reject(DropReason::BadOffload, len) };
    let tag = (word3 & TAG != 0).then_some(Tag((word3 >> 16) as u16));
    burst.push(pieces, tag, offload);
}

/// What the driver asks to be done; `None` for what this card never offered.
#[inline]
fn offload(word2: u32, word3: u32) -> Option<Offload> {
    let (header, msscof) = ((word3 & HEADER_MASK) as u16, (word2 >> MSSCOF_SHIFT) as u16);
    let start = match (word3 >> 10 & 3, word2 & INNER != 0) {
        (0, _) => return Some(Offload::default()),
        (2, false) => header,
        (2, true) => inner_start(header, msscof)?,
        (3, false) => return Some(Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(msscof, header)) }),
        // Encapsulation of revisions 4 to 6, and segmentation in tunnels.
        _ => return None,
    };
    Some(Offload { csum: Csum::Fill { start, at: msscof }, gso: None })
}

/// Where the L4 header of a frame in a tunnel starts. There a driver gives the end of that header and the place of the
/// checksum in it (`vmxnet3_tq_xmit` of Linux's `vmxnet3_drv.c`): UDP's is in the last two bytes of eight, TCP's in bytes
/// 16 and 17 of twenty or more.
fn inner_start(end: u16, at: u16) -> Option<u16> {
    match end.checked_sub(at)? {
        2 => at.checked_sub(6),
        4.. => at.checked_sub(16),
        _ => None,
    }
}

/// What the burst adds to the queue's statistics.
fn count(burst: &Burst<'_>) -> Counts {
    let (mut counts, mut sums) = (Counts::default(), Sums::default());
    if let (Some(bytes), Some(first)) = (burst.alike(), burst.frames().first()) {
        // None of them asks for anything.
        sums.all(first.dst(), burst.frames().len(), bytes as usize, &mut counts);
        sums.add_to(&mut counts);
        return rejected(burst, counts);
    }
    for frame in burst.frames() {
        sums.good(frame.dst(), frame.len(), &mut counts);
        if frame.is_plain() {
            continue;
        }
        if let Some(gso) = frame.offload().gso {
            let payload = frame.len().saturating_sub(gso.header.into());
            counts.add(stat::TSO, payload.div_ceil(usize::from(gso.mss).max(1)) as u64);
            counts.add(stat::TSO + 1, frame.len() as u64);
        }
    }
    sums.add_to(&mut counts);
    rejected(burst, counts)
}

/// The same with what was rejected.
fn rejected(burst: &Burst<'_>, mut counts: Counts) -> Counts {
    for (reason, _) in burst.rejected() {
        let bad = matches!(reason, DropReason::BadDescriptor | DropReason::BadOffload);
        counts.add(if bad { stat::ERROR } else { stat::DISCARD }, 1);
    }
    counts
}

/// Writes a completion for each frame end.
fn complete(rings: &TxRings, state: &TxState, ends: &[u32]) {
    let (ring, at) = (&rings.completions, state.completion.get());
    publish(ring, at, ends, |_, end, gen_bit| (u64::from(end & 0xfff), u64::from(gen_bit) << 63));
    state.completion.set(at.ahead(ends.len() as u32, ring.count()));
}
