//! From the guest's transmit queues into the switch.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arc_swap::{ArcSwapOption, Cache};
use arrayvec::ArrayVec;
use dataplane::{Arm, BURST, Burst, DropReason, Ingress, MAX_FRAME_SLICES, Offload, Sink, VNET_LEN, VnetHeader};
use sharedmem::{Aim, Slice, SpanHint};

use super::card::{Active, Card, TxState};
use super::features::{self, header_len};
use super::ring::{Broken, Found, Virtq, Virtqueue};
use super::rx::HEADER;

/// Pieces of a chain: those of a frame, and its header.
const PIECES: usize = MAX_FRAME_SLICES + 1;

/// The transmit queue of one pair of a card, for the worker that owns it.
pub struct TxQueue {
    card: Arc<Card>,
    /// The rings in use when last looked, kept with their memory until the next look.
    rings: Cache<Rings, Option<Arc<Active>>>,
    pair: usize,
    hint: SpanHint,
}

/// Where the rings in use are found.
struct Rings(Arc<Card>);

impl Deref for Rings {
    type Target = ArcSwapOption<Active>;

    fn deref(&self) -> &ArcSwapOption<Active> {
        &self.0.active
    }
}

impl TxQueue {
    /// Of pair `pair`; it has nothing to do until the driver starts it.
    pub fn new(card: Arc<Card>, pair: usize) -> TxQueue {
        TxQueue { rings: Cache::new(Rings(card.clone())), card, pair, hint: SpanHint::default() }
    }

    /// The eventfd by which the driver signals this queue.
    fn kick(&self) -> Option<Arc<OwnedFd>> {
        self.card.kicks.get(self.pair)?.load_full()
    }
}

impl Ingress for TxQueue {
    #[inline]
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let (card, pair, hint) = (&*self.card, self.pair, &mut self.hint);
        let Some(active) = self.rings.load().as_ref().filter(|a| !a.failed(pair * 2 + 1)) else { return 0 };
        let Some(queue) = active.tx.get(pair).and_then(Option::as_ref) else { return 0 };
        match &queue.ring {
            Virtqueue::Split(ring) => Serving { card, active, ring, state: &queue.state, pair }.poll(hint, sink),
            Virtqueue::Packed(ring) => Serving { card, active, ring, state: &queue.state, pair }.poll(hint, sink),
        }
    }

    fn arm(&mut self) -> Arm {
        let guard = self.card.active.load();
        let Some(active) = guard.as_ref().filter(|a| !a.failed(self.pair * 2 + 1)) else { return Arm::Quiet };
        let Some(queue) = active.tx.get(self.pair).and_then(Option::as_ref) else { return Arm::Quiet };
        let Some(kick) = self.kick() else { return Arm::Cannot };
        queue.state.armed.store(true, Ordering::Relaxed);
        let (next, event_idx) = (queue.state.next.load(Ordering::Relaxed), active.features & features::EVENT_IDX != 0);
        let empty = match &queue.ring {
            Virtqueue::Split(ring) => arm(ring, next, event_idx),
            Virtqueue::Packed(ring) => arm(ring, next, event_idx),
        };
        if empty { Arm::Kick(kick) } else { Arm::Busy }
    }

    fn disarm(&mut self) {
        let guard = self.card.active.load();
        if let Some(queue) = guard.as_ref().and_then(|a| a.tx.get(self.pair)?.as_ref()) {
            queue.state.armed.store(false, Ordering::Relaxed);
            queue.ring.ask_for_quiet();
        }
        if let Some(kick) = self.kick() {
            // Only to make it unreadable: the transport made it non-blocking.
            let _ = rustix::io::read(&kick, &mut [0u8; 8]);
        }
    }
}

/// Asks for a signal at `next`; true when nothing is there yet.
fn arm(ring: &impl Virtq, next: u16, event_idx: bool) -> bool {
    ring.ask_for_kick(event_idx, next);
    // The wish is visible before the ring is looked at: the driver makes available, then reads the wish.
    fence(Ordering::SeqCst);
    ring.is_empty(next)
}

/// One look at a queue.
pub(super) struct Serving<'a, R> {
    pub(super) card: &'a Card,
    pub(super) active: &'a Active,
    pub(super) ring: &'a R,
    pub(super) state: &'a TxState,
    pub(super) pair: usize,
}

impl<R: Virtq> Serving<'_, R> {
    /// Forwards what waits, a burst at most, and gives its chains back.
    #[inline]
    pub(super) fn poll(self, hint: &mut SpanHint, sink: &mut dyn Sink) -> usize {
        let next = self.state.next.load(Ordering::Relaxed);
        if self.ring.is_empty(next) { 0 } else { self.take(next, hint, sink) }
    }

    /// The same of a queue that is not empty. Apart, for a burst takes much room on the stack, which costs a few steps.
    #[inline(never)]
    fn take(self, next: u16, hint: &mut SpanHint, sink: &mut dyn Sink) -> usize {
        let mut ids = [0; BURST];
        let mut known = next;
        sink.soon();
        self.ring.will_find(self.state.last.load(Ordering::Relaxed));
        match self.ring.singles(next, &mut known, &mut ids) {
            Ok(0) => self.chain(next, hint, sink),
            Ok(n) if !self.ring.faulted() => self.serve(next, &ids[..n], hint, sink),
            Ok(_) | Err(Broken) => self.give_up(),
        }
    }

    /// Serves chains that take one position each.
    #[inline]
    fn serve(&self, next: u16, ids: &[u16], hint: &mut SpanHint, sink: &mut dyn Sink) -> usize {
        let mut burst = Burst::new();
        let taken = if header_len(self.active.features) == VNET_LEN {
            self.read::<VNET_LEN>(&mut burst, hint, next, ids)
        } else {
            self.read::<HEADER>(&mut burst, hint, next, ids)
        };
        sink.forward(&burst);
        drop(burst);
        if let Some(last) = ids.last() {
            self.state.last.store(*last, Ordering::Relaxed);
        }
        self.ring.put_used_run(next, &ids[..taken]);
        self.finish(next, next.wrapping_add(taken as u16));
        taken
    }

    /// Serves one chain of any kind, if one is there.
    #[inline(never)]
    fn chain(&self, next: u16, hint: &mut SpanHint, sink: &mut dyn Sink) -> usize {
        let mut burst = Burst::new();
        let Some(found) = self.any(&mut burst, hint, next).filter(|_| !self.ring.faulted()) else {
            return self.give_up();
        };
        sink.forward(&burst);
        drop(burst);
        let after = next.wrapping_add(found.slots);
        let note = found.slots > 1 && self.ring.notes();
        if note {
            self.ring.note(next, found.slots, found.id, 0, next);
        }
        self.ring.put_used(next, found.id, 0);
        self.finish(next, after);
        if note {
            self.ring.forget(next, after);
        }
        1
    }

    /// The queue is of no use, and the VMM is told.
    #[cold]
    fn give_up(&self) -> usize {
        let queue = self.pair * 2 + 1;
        self.active.fail(queue);
        self.card.tell_error(queue);
        0
    }

    /// Publishes the used entries before `after`.
    #[inline]
    fn finish(&self, before: u16, after: u16) {
        self.ring.publish(after);
        self.state.next.store(after, Ordering::Relaxed);
        if self.ring.wants_interrupt(self.active.features & features::EVENT_IDX != 0, before, after) {
            self.card.interrupts.raise(self.pair * 2 + 1);
        }
    }

    /// Puts the frames of chains that take one position each on the burst, as many as it has room for; returns how many. `P` is
    /// the length of a header.
    #[inline(always)]
    fn read<'m, const P: usize>(&'m self, burst: &mut Burst<'m>, hint: &mut SpanHint, next: u16, ids: &[u16]) -> usize {
        if let [id] = ids
            && let Some((guest, len)) = self.ring.buffer(next, *id, false)
            && let Some(piece) = self.active.table.lookup(hint).to_read(guest, len)
            && burst.push_lone::<P>(piece)
        {
            return 1;
        }
        self.firsts(burst, hint, next, ids);
        self.gather::<P>(burst, hint, next, ids.len())
    }

    /// Has the burst expect what is in each chain that is one descriptor; its first line is on the way to the cache.
    #[inline(never)]
    fn firsts<'m>(&'m self, burst: &mut Burst<'m>, hint: &mut SpanHint, next: u16, ids: &[u16]) {
        let mut lookup = self.active.table.lookup(hint);
        burst.expect_from(|pieces| self.ring.windows(next, ids, Aim::Read, &mut lookup, pieces));
    }

    /// Puts the frames of the first `count` chains on the burst, which expects what is in them, as many as it has room for;
    /// returns how many. `P` is the length of a header.
    #[inline(never)]
    fn gather<'m, const P: usize>(
        &'m self,
        burst: &mut Burst<'m>,
        hint: &mut SpanHint,
        next: u16,
        count: usize,
    ) -> usize {
        // Frames in one piece always fit; before another kind it has to be asked.
        let mut taken = 0;
        loop {
            taken += burst.push_expected::<P>(taken..count);
            if taken == count || !burst.has_room() {
                return taken;
            }
            if self.any(burst, hint, next.wrapping_add(taken as u16)).is_none() {
                // It was there a moment ago.
                burst.reject(DropReason::BadDescriptor, 0);
            }
            taken += 1;
        }
    }

    /// Any frame: the header may be split from it, and it from itself. `None` when there is no chain.
    #[inline(never)]
    fn any<'m>(&'m self, burst: &mut Burst<'m>, hint: &mut SpanHint, at: u16) -> Option<Found> {
        let header = header_len(self.active.features);
        let mut pieces: ArrayVec<Slice<'m>, PIECES> = ArrayVec::new();
        let found =
            self.ring.chain(at, &mut { at }, &mut self.active.table.lookup(hint), false, &mut pieces).ok()??;
        let len: usize = pieces.iter().map(Slice::len).sum();
        let mut bytes = [0; VNET_LEN];
        if !found.good || !behead(&mut pieces, header, &mut bytes) {
            burst.reject(DropReason::BadDescriptor, len.saturating_sub(header));
        } else {
            push(burst, &pieces, bytes);
        }
        Some(found)
    }
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
