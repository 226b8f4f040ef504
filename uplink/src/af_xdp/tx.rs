//! The way out: from the data path to the TX ring, and the chunks back by the completion ring.
//!
//! The kernel does nothing for frames it gets this way: checksums are filled in, segments cut and tags put in while
//! the frame is copied into its chunks.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Caps, Delivery, DropReason, Plan, Tally};
use rustix::io::Errno;
use rustix::net::SendFlags;
use sharedmem::Slice;
use wire::ETH_HEADER;
use xsk_rs::{CompQueue, FrameDesc, TxQueue};

use super::queue::{CHUNK, CHUNK_ROOM, Queue, XDP_TX_FRAMES};
use crate::life::{Counts, longest};

/// Chunks a batch of output frames may take.
const BATCH: usize = 128;
/// Chunks one frame may take: what one frame of the kernel's can hold (`MAX_SKB_FRAGS`) and the first.
const PIECES: usize = 18;
/// Frames the kernel takes in one call, where it copies (`TX_BATCH_SIZE`).
const PER_CALL: usize = 32;
/// Frames a nudge has the kernel take at least; the next poll goes on.
const NUDGE: usize = 2 * PER_CALL;
/// All but the last chunk of a frame say so.
const XDP_PKT_CONTD: u32 = 1;

const CAPS: Caps = Caps { csum: false, tso: false, uso: false, tag: false, pad: true };

/// The end of the TX and completion rings that workers share.
pub(super) struct TxSide {
    tx: TxQueue,
    done: CompQueue,
    /// Chunks nobody uses; the one used last comes first, as it may still be in the cache.
    free: Vec<FrameDesc>,
    /// For each chunk of the TX half whether it ends a frame that is with the kernel.
    ends: Box<[bool]>,
    /// Frames with the kernel.
    pub(super) out: u64,
}

/// The index of a chunk in the TX half.
#[inline]
fn index(frame: &FrameDesc) -> usize {
    (frame.addr() / CHUNK).wrapping_sub(super::queue::XDP_RX_FRAMES)
}

impl TxSide {
    pub(super) fn new(tx: TxQueue, done: CompQueue, free: Vec<FrameDesc>) -> TxSide {
        TxSide { tx, done, free, ends: vec![false; XDP_TX_FRAMES].into(), out: 0 }
    }

    /// Takes back the chunks the kernel is done with.
    pub(super) fn reclaim(&mut self) {
        let mut room = [FrameDesc::default(); BURST];
        loop {
            // SAFETY: what comes out was put into this queue's TX ring, and goes to the free ones.
            let got = unsafe { self.done.consume(&mut room) };
            for frame in &room[..got] {
                if let Some(end) = self.ends.get_mut(index(frame)) {
                    self.out -= u64::from(std::mem::take(end));
                }
            }
            // Never more than the vector was made with: no allocation.
            self.free.extend_from_slice(&room[..got]);
            if got < room.len() {
                return;
            }
        }
    }

    /// Hands `full` to the kernel and `spare` back to the free ones. True when the kernel wants to be told.
    fn publish(&mut self, full: &[FrameDesc], spare: &[FrameDesc]) -> bool {
        self.free.extend_from_slice(spare);
        for frame in full.iter().filter(|frame| !frame.has_more_frames()) {
            if let Some(end) = self.ends.get_mut(index(frame)) {
                *end = true;
                self.out += 1;
            }
        }
        // SAFETY: chunks of this queue's TX half, filled and not touched again until they come out of the
        // completion ring. The TX ring has a place for each of them.
        unsafe { self.tx.produce(full) };
        self.tx.needs_wakeup()
    }
}

/// One output frame: which plan's and which segment, and where its chunks are in the batch.
struct Job {
    plan: usize,
    segment: u32,
    len: usize,
    first: usize,
}

impl Job {
    fn pieces(&self) -> usize {
        self.len.div_ceil(CHUNK_ROOM)
    }
}

/// Sends `list` by `queue`; `fragments` says whether a frame may have several chunks.
pub(super) fn deliver(
    queue: &Queue,
    fragments: bool,
    burst: &Burst<'_>,
    list: &[Delivery],
    mtu: usize,
    counts: &Counts,
    tally: &mut Tally,
) {
    let room = if fragments { PIECES * CHUNK_ROOM } else { CHUNK_ROOM };
    for part in list.chunks(BURST) {
        let mut plans: ArrayVec<Plan<'_, '_>, BURST> = ArrayVec::new();
        for delivery in part {
            let Some(plan) = Plan::new(burst, delivery, CAPS) else {
                tally.dropped(DropReason::BadDescriptor);
                continue;
            };
            if longest(plan.frame()) > mtu + ETH_HEADER || plan.len(0) > room {
                tally.dropped(DropReason::Oversize);
                continue;
            }
            if plan.count() > 1 {
                tally.segmented(plan.count());
            }
            plans.push(plan);
        }
        send_all(queue, &plans, counts, tally);
    }
}

/// Sends the frames of `plans` batch by batch.
fn send_all(queue: &Queue, plans: &[Plan<'_, '_>], counts: &Counts, tally: &mut Tally) {
    let mut outputs =
        plans.iter().enumerate().flat_map(|(at, plan)| (0..plan.count()).map(move |s| (at, s))).peekable();
    // Frames published since the kernel was told.
    let mut untold = 0;
    let mut ask = false;
    while outputs.peek().is_some() {
        let mut jobs: ArrayVec<Job, BURST> = ArrayVec::new();
        let mut wanted = 0;
        while let (Some(&(plan, segment)), false) = (outputs.peek(), jobs.is_full()) {
            let job = Job { plan, segment, len: plans[plan].len(segment), first: wanted };
            if wanted + job.pieces() > BATCH {
                break;
            }
            wanted += job.pieces();
            jobs.push(job);
            outputs.next();
        }
        let mut chunks: ArrayVec<FrameDesc, BATCH> = ArrayVec::new();
        if !reserve(queue, wanted, &mut chunks) && ask {
            // The kernel has not been told of the last batch yet: it may free some.
            wake(queue, untold, counts);
            (untold, ask) = (0, false);
            reserve(queue, wanted - chunks.len(), &mut chunks);
        }
        let (sent, wants) = fill(queue, plans, &jobs, &mut chunks, tally);
        untold += sent;
        // Also when nothing could be sent: a full ring may move on only if somebody asks.
        ask |= wants;
    }
    if ask {
        wake(queue, untold, counts);
    }
}

/// Takes up to `wanted` free chunks; true when there were that many.
fn reserve(queue: &Queue, wanted: usize, chunks: &mut ArrayVec<FrameDesc, BATCH>) -> bool {
    let mut side = queue.tx.lock().unwrap_or_else(PoisonError::into_inner);
    side.reclaim();
    let keep = side.free.len().saturating_sub(wanted);
    let got = side.free.len() - keep;
    chunks.extend(side.free.drain(keep..).rev());
    got == wanted
}

/// Copies the frames of `jobs` into `chunks` and publishes them. Returns how many, and whether the kernel wants to
/// be told.
fn fill(
    queue: &Queue,
    plans: &[Plan<'_, '_>],
    jobs: &[Job],
    chunks: &mut ArrayVec<FrameDesc, BATCH>,
    tally: &mut Tally,
) -> (usize, bool) {
    let mut full: ArrayVec<FrameDesc, BATCH> = ArrayVec::new();
    let mut spare: ArrayVec<FrameDesc, BATCH> = ArrayVec::new();
    let mut sent = 0;
    let mut taken = 0;
    for job in jobs {
        let Some(mine) = chunks.get_mut(job.first..job.first + job.pieces()) else {
            tally.dropped(DropReason::RingFull);
            continue;
        };
        taken = job.first + mine.len();
        let done = write(queue, &plans[job.plan], job, mine);
        let to = if done { &mut full } else { &mut spare };
        // Cannot fail: each chunk goes to one of the two, which are as long as the batch.
        let _ = to.try_extend_from_slice(mine);
        if done {
            sent += 1;
            tally.delivered(job.len);
        } else {
            tally.dropped(DropReason::BadDescriptor);
        }
    }
    let _ = spare.try_extend_from_slice(&chunks[taken..]);
    let mut side = queue.tx.lock().unwrap_or_else(PoisonError::into_inner);
    (sent, side.publish(&full, &spare))
}

/// Writes one output frame into its chunks; false when it could not be written.
#[inline]
fn write(queue: &Queue, plan: &Plan<'_, '_>, job: &Job, chunks: &mut [FrameDesc]) -> bool {
    let mut room: ArrayVec<Slice<'_>, PIECES> = ArrayVec::new();
    let last = chunks.len() - 1;
    for (at, chunk) in chunks.iter_mut().enumerate() {
        let len = (job.len - at * CHUNK_ROOM).min(CHUNK_ROOM);
        // SAFETY: the chunk is ours until it is published, and no window onto it exists yet. xsk-rs sets a length
        // only through this view of the bytes, which are not looked at.
        unsafe { queue.umem.data_mut(chunk) }.cursor().set_pos(len);
        chunk.set_options(if at == last { 0 } else { XDP_PKT_CONTD });
        let window = queue.region.slice(chunk.addr(), len);
        if window.is_none_or(|window| room.try_push(window).is_err()) {
            return false;
        }
    }
    plan.write(job.segment, &room)
}

/// Asks again if frames were left behind.
#[inline]
pub(super) fn nudge(queue: &Queue, counts: &Counts) {
    if queue.again.load(Ordering::Relaxed) && queue.again.swap(false, Ordering::AcqRel) {
        wake(queue, NUDGE, counts);
    }
}

/// Has the kernel take what is in the TX ring, at least `frames` frames. Never called with the lock held.
fn wake(queue: &Queue, frames: usize, counts: &Counts) {
    for _ in 0..frames / PER_CALL + 2 {
        match rustix::net::send(queue.fd(), &[], SendFlags::DONTWAIT) {
            Ok(_) => return,
            // It took as many as it takes at once, or the device is full.
            Err(Errno::AGAIN) => {}
            Err(_) => break,
        }
    }
    counts.tx_busy.fetch_add(1, Ordering::Relaxed);
    queue.again.store(true, Ordering::Release);
}
