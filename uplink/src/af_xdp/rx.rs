//! The way in: from the RX ring to the data path, and the chunks back by the fill ring.

use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, DropReason, Offload, Sink};
use rustix::net::RecvFlags;
use sharedmem::Slice;
use xsk_rs::{FillQueue, FrameDesc, RxQueue};

use super::queue::Queue;

/// Chunks of one frame at most: the kernel's `MAX_SKB_FRAGS` (17 unless built otherwise, 45 at most) and the first.
const PIECES: usize = 46;
/// Descriptors held at most: those of a burst, and more where frames have several.
const HELD: usize = 2 * PIECES;

/// The worker's end of the RX and fill rings.
pub(super) struct RxSide {
    rx: RxQueue,
    fill: FillQueue,
    /// Taken from the ring and not yet harvested: the beginning of a frame whose end was not taken yet.
    held: ArrayVec<FrameDesc, HELD>,
}

impl RxSide {
    pub(super) fn new(rx: RxQueue, fill: FillQueue) -> RxSide {
        RxSide { rx, fill, held: ArrayVec::new() }
    }

    /// Takes descriptors from the ring, a burst at most.
    #[inline]
    fn take(&mut self) {
        let mut room = [FrameDesc::default(); BURST];
        let wanted = self.held.remaining_capacity().min(BURST);
        // SAFETY: what comes out is kept here until it goes into this queue's fill ring.
        let got = unsafe { self.rx.consume(&mut room[..wanted]) };
        // Cannot fail: not more than there is room for was asked for.
        let _ = self.held.try_extend_from_slice(&room[..got]);
    }

    /// Gives the first `count` chunks held back to the kernel.
    #[inline]
    fn give_back(&mut self, count: usize) {
        // SAFETY: chunks of this queue's RX half, done with. The fill ring has a place for each of them.
        unsafe { self.fill.produce(&self.held[..count]) };
        self.held.drain(..count);
    }
}

/// Looks at the RX ring of `queue` once.
pub(super) fn poll(queue: &Queue, sink: &mut dyn Sink) -> usize {
    // One worker polls a queue; while it changes hands the other may still be at it.
    let Ok(mut side) = queue.rx.try_lock() else { return 0 };
    side.take();
    let mut burst = Burst::new();
    let mut used = 0;
    while burst.has_room() {
        let rest = &side.held[used..];
        let Some(pieces) = first_frame(rest) else { break };
        harvest(queue, &rest[..pieces], &mut burst);
        used += pieces;
    }
    if burst.harvested() > 0 {
        sink.forward(&burst);
        queue.rx_frames.fetch_add(burst.harvested() as u64, Ordering::Relaxed);
    }
    if used > 0 {
        side.give_back(used);
    }
    let ask = side.fill.needs_wakeup();
    drop(side);
    if ask {
        // Nothing is received by this: the kernel has the driver look at the fill ring.
        let _ = rustix::net::recv(queue.fd(), &mut [0u8; 0][..], RecvFlags::DONTWAIT);
    }
    burst.harvested()
}

/// Chunks of the first frame in `held`; `None` when its end is not there.
#[inline]
fn first_frame(held: &[FrameDesc]) -> Option<usize> {
    match held.iter().position(|frame| !frame.has_more_frames()) {
        Some(last) => Some(last + 1),
        // No frame is that long: nothing would ever come of these.
        None => (held.len() > PIECES).then_some(held.len()),
    }
}

/// Adds the frame that lies in `chunks` to the burst, or counts why not.
#[inline]
fn harvest<'m>(queue: &'m Queue, chunks: &[FrameDesc], burst: &mut Burst<'m>) {
    let mut pieces: ArrayVec<Slice<'m>, PIECES> = ArrayVec::new();
    let len = chunks.iter().map(|c| c.lengths().data()).sum();
    for chunk in chunks {
        let piece = queue.region.slice(chunk.addr(), chunk.lengths().data());
        if piece.is_none_or(|piece| pieces.try_push(piece).is_err()) {
            return burst.reject(DropReason::BadDescriptor, len);
        }
    }
    burst.push(&pieces, None, Offload::default());
}
