//! From the guest's transmit queues into the switch.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use dataplane::{Arm, BURST, Burst, DropReason, Ingress, MAX_FRAME_SLICES, Offload, Sink, VNET_LEN, VnetHeader};
use sharedmem::{MemTable, Slice, SpanHint, SplitRing};

use super::card::{Active, Card, TxQueueRings, wants_interrupt};
use super::chain::{single, walk};
use super::features::{self, header_len};

/// Pieces of a chain: those of a frame, and its header.
const PIECES: usize = MAX_FRAME_SLICES + 1;

/// The transmit queue of one pair of a card, for the worker that owns it.
pub struct TxQueue {
    card: Arc<Card>,
    pair: usize,
    hint: SpanHint,
}

impl TxQueue {
    /// Of pair `pair`; it has nothing to do until the driver starts it.
    pub fn new(card: Arc<Card>, pair: usize) -> TxQueue {
        TxQueue { card, pair, hint: SpanHint::default() }
    }

    /// The eventfd by which the driver signals this queue.
    fn kick(&self) -> Option<Arc<OwnedFd>> {
        self.card.kicks.get(self.pair)?.load_full()
    }
}

impl Ingress for TxQueue {
    #[inline]
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let guard = self.card.active.load();
        let Some(active) = guard.as_ref().filter(|a| !a.failed()) else { return 0 };
        let Some(queue) = active.tx.get(self.pair).and_then(Option::as_ref) else { return 0 };
        let next = queue.state.next.load(Ordering::Relaxed);
        let waiting = queue.ring.avail_idx().wrapping_sub(next);
        if waiting == 0 {
            return 0;
        }
        if waiting > queue.ring.size() || queue.ring.faulted() {
            active.fail();
            return 0;
        }
        serve(&self.card, active, queue, self.pair, next, waiting, &mut self.hint, sink)
    }

    fn arm(&mut self) -> Arm {
        let guard = self.card.active.load();
        let Some(active) = guard.as_ref().filter(|a| !a.failed()) else { return Arm::Quiet };
        let Some(queue) = active.tx.get(self.pair).and_then(Option::as_ref) else { return Arm::Quiet };
        let Some(kick) = self.kick() else { return Arm::Cannot };
        let next = queue.state.next.load(Ordering::Relaxed);
        queue.state.armed.store(true, Ordering::Relaxed);
        queue.ring.set_no_notify(false);
        queue.ring.set_avail_event(next);
        // The wish is visible before the index is looked at: the driver writes the index, then reads the wish.
        fence(Ordering::SeqCst);
        if queue.ring.avail_idx() == next { Arm::Kick(kick) } else { Arm::Busy }
    }

    fn disarm(&mut self) {
        let guard = self.card.active.load();
        if let Some(queue) = guard.as_ref().and_then(|a| a.tx.get(self.pair)?.as_ref()) {
            queue.state.armed.store(false, Ordering::Relaxed);
            queue.ring.set_no_notify(true);
        }
        if let Some(kick) = self.kick() {
            // Only to make it unreadable: the transport made it non-blocking.
            let _ = rustix::io::read(&kick, &mut [0u8; 8]);
        }
    }
}

/// Forwards one burst and gives its chains back.
#[allow(clippy::too_many_arguments)] // what poll has at hand
#[inline]
fn serve(
    card: &Card,
    active: &Active,
    queue: &TxQueueRings,
    pair: usize,
    next: u16,
    waiting: u16,
    hint: &mut SpanHint,
    sink: &mut dyn Sink,
) -> usize {
    let (ring, table) = (&queue.ring, &*active.table);
    let header = header_len(active.features);
    let mut heads = [0; BURST];
    let heads = &mut heads[..usize::from(waiting).min(BURST)];
    ring.avail_run(next, heads);
    // Descriptors and first lines of the whole burst are asked for before any is read.
    heads.iter().for_each(|head| ring.prefetch(*head));
    let mut pieces = [None; BURST];
    firsts(ring, table, hint, heads, &mut pieces);
    let firsts = &pieces[..heads.len()];
    let mut burst = Burst::new();
    let taken = gather(&mut burst, ring, table, hint, heads, firsts, header);
    sink.forward(&burst);
    drop(burst);
    ring.set_used_run(next, &heads[..taken]);
    let after = next.wrapping_add(taken as u16);
    ring.set_used_idx(after);
    queue.state.next.store(after, Ordering::Relaxed);
    if wants_interrupt(ring, active.features & features::EVENT_IDX != 0, next, after) {
        card.interrupts.raise(pair * 2 + 1);
    }
    taken
}

/// Puts the frames of the chains on the burst, as many as it has room for; returns how many.
#[inline(never)]
fn gather<'m>(
    burst: &mut Burst<'m>,
    ring: &SplitRing,
    table: &'m MemTable,
    hint: &mut SpanHint,
    heads: &[u16],
    firsts: &[Option<Slice<'m>>],
    header: usize,
) -> usize {
    // Frames in one piece always fit; after another kind it has to be asked.
    let (mut taken, mut crowded) = (0, false);
    for (head, first) in heads.iter().zip(firsts) {
        if crowded && !burst.has_room() {
            break;
        }
        match first.filter(|piece| asks_nothing(piece)).and_then(|piece| piece.after(header)) {
            Some(frame) => burst.push_plain(frame),
            None => {
                any(burst, ring, table, hint, *head, header);
                crowded = true;
            }
        }
        taken += 1;
    }
    taken
}

/// The memory of each chain that is one descriptor, its first line on the way to the cache.
#[inline(never)]
fn firsts<'m>(
    ring: &SplitRing,
    table: &'m MemTable,
    hint: &mut SpanHint,
    heads: &[u16],
    pieces: &mut [Option<Slice<'m>>; BURST],
) {
    let mut lookup = table.lookup(hint);
    for (head, first) in heads.iter().zip(pieces) {
        *first = ring.desc(*head).and_then(|desc| single(&mut lookup, &desc, false));
        if let Some(piece) = first {
            piece.prefetch();
        }
    }
}

/// True when the header at the start of `piece` asks for nothing: neither flags nor a segment type.
#[inline(always)]
fn asks_nothing(piece: &Slice<'_>) -> bool {
    let mut bytes = [0; 2];
    piece.read_at(0, &mut bytes) && bytes == [0, 0]
}

/// Any frame: the header may be split from it, and it from itself.
#[inline(never)]
fn any<'m>(
    burst: &mut Burst<'m>,
    ring: &SplitRing,
    table: &'m MemTable,
    hint: &mut SpanHint,
    head: u16,
    header: usize,
) {
    let mut pieces: ArrayVec<Slice<'m>, PIECES> = ArrayVec::new();
    let good = walk(ring, table, hint, head, false, &mut pieces).is_ok();
    let len: usize = pieces.iter().map(Slice::len).sum();
    let mut bytes = [0; VNET_LEN];
    if !good || !behead(&mut pieces, header, &mut bytes) {
        return burst.reject(DropReason::BadDescriptor, len.saturating_sub(header));
    }
    push(burst, &pieces, bytes);
}

/// Takes the first `header` bytes off the pieces; the first of them go to `bytes`. False when there are not so many.
fn behead<const N: usize>(pieces: &mut ArrayVec<Slice<'_>, N>, header: usize, bytes: &mut [u8; VNET_LEN]) -> bool {
    let mut at = 0;
    while at < header {
        let Some(first) = pieces.first_mut() else { return false };
        let n = first.len().min(header - at);
        let wanted = n.min(VNET_LEN.saturating_sub(at));
        // What lies behind the fields we know is skipped, wherever it is cut.
        if wanted > 0 && !first.read_at(0, &mut bytes[at..at + wanted]) {
            return false;
        }
        at += n;
        match first.sub(n, first.len() - n) {
            Some(rest) if !rest.is_empty() => *first = rest,
            _ => drop(pieces.remove(0)),
        }
    }
    true
}

fn push<'m>(burst: &mut Burst<'m>, pieces: &[Slice<'m>], bytes: [u8; VNET_LEN]) {
    let header = VnetHeader::from_bytes(bytes);
    let offload =
        if header.flags == 0 && header.gso_type == 0 { Ok(Offload::default()) } else { header.offload(pieces) };
    match offload {
        Ok(offload) => burst.push(pieces, None, offload),
        Err(reason) => burst.reject(reason, pieces.iter().map(Slice::len).sum()),
    }
}
