//! The way out: from the data path to the interface's user.
//!
//! Each frame is one `writev`, from the sender's memory. The kernel takes it up in the call, as far as the socket it is
//! for: nothing waits here, and there is no ring to be full.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dataplane::{
    Burst, Caps, Csum, Delivery, DropReason, Egress, HEAD_MAX, MAX_FRAME, MAX_FRAME_SLICES, Plan, Scattered, Tally,
    VNET_LEN, VnetHeader, conversation,
};
use sharedmem::SharedPage;
use wire::{ETH_HEADER, MIN_FRAME, TAG_LEN};

use super::device::{self, Piece};
use super::{Life, Shared};

/// What the kernel does: it fills in checksums and cuts TCP segments, and newer ones datagrams (`uso`). The tag goes
/// inline.
const fn caps(uso: bool) -> Caps {
    Caps { csum: true, tso: true, uso, tag: false, pad: true }
}
/// First byte at which the kernel accepts the start of a checksum: behind Ethernet and the shortest IP header.
const FIRST_CSUM_START: u16 = (ETH_HEADER + 20) as u16;
/// Bytes of the headers before the sender's memory.
const HEADERS: usize = VNET_LEN + HEAD_MAX + TAG_LEN;
/// Most pieces of a frame: the headers, the sender's memory, padding.
const PIECES: usize = MAX_FRAME_SLICES + 2;
/// Bytes of the buffer for frames that are not sent as they are.
const FINISHED: usize = (MAX_FRAME + TAG_LEN).next_multiple_of(4096);

static PADDING: [u8; MIN_FRAME] = [0; MIN_FRAME];

/// The interface as a destination.
pub(super) struct Transmitter {
    shared: Arc<Shared>,
}

impl Transmitter {
    pub(super) fn new(shared: Arc<Shared>) -> Transmitter {
        Transmitter { shared }
    }
}

impl Egress for Transmitter {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let life = self.shared.life.load();
        let refusal = match life.as_deref() {
            None => DropReason::NotConnected,
            Some(_) if !self.shared.state.link_up() => DropReason::PortBlocked,
            Some(life) => return list.iter().for_each(|delivery| send(life, burst, delivery, tally)),
        };
        list.iter().for_each(|_| tally.dropped(refusal));
    }
}

#[inline]
fn tell(result: Result<usize, DropReason>, tally: &mut Tally) {
    match result {
        Ok(len) => tally.delivered(len),
        Err(reason) => tally.dropped(reason),
    }
}

/// Sends one frame, or what it is cut into for a kernel that does not.
#[inline]
fn send(life: &Life, burst: &Burst<'_>, delivery: &Delivery, tally: &mut Tally) {
    let Some(plan) = Plan::new(burst, delivery, caps(life.uso)) else {
        return tally.dropped(DropReason::BadDescriptor);
    };
    let Some(fd) = queue_for(life, &plan) else { return tally.dropped(DropReason::NotConnected) };
    let mut head = [0; HEAD_MAX + TAG_LEN];
    if kernel_fills(plan.csum())
        && let Some(scattered) = plan.scatter(&mut head)
    {
        return tell(send_scattered(fd, &plan, &head, &scattered), tally);
    }
    let Some(plan) = Plan::new(burst, delivery, Caps { csum: false, ..caps(life.uso) }) else {
        return tally.dropped(DropReason::BadDescriptor);
    };
    (0..plan.count()).for_each(|segment| tell(send_finished(fd, &plan, segment), tally));
}

/// The queue of the frame's conversation: the kernel remembers by which one a conversation came last, and sends the
/// other direction by the same.
#[inline]
fn queue_for<'l>(life: &'l Life, plan: &Plan<'_, '_>) -> Option<&'l OwnedFd> {
    let queue = match life.queues.as_slice() {
        [only] => only,
        queues => queues.get(conversation(plan.head()) as usize % queues.len().max(1))?,
    };
    Some(queue)
}

/// True when the kernel takes a request to fill in this checksum; one that it would refuse is filled in by us.
#[inline]
fn kernel_fills(csum: Csum) -> bool {
    !matches!(csum, Csum::Fill { start, .. } if start < FIRST_CSUM_START)
}

/// Sends a frame from where it lies.
#[inline]
fn send_scattered(
    fd: &OwnedFd,
    plan: &Plan<'_, '_>,
    head: &[u8; HEAD_MAX + TAG_LEN],
    scattered: &Scattered<'_, '_>,
) -> Result<usize, DropReason> {
    let mut headers = [0; HEADERS];
    headers[..VNET_LEN].copy_from_slice(&VnetHeader::for_plan(plan).bytes());
    headers[VNET_LEN..].copy_from_slice(head);
    let mut pieces: ArrayVec<Piece<'_>, PIECES> = ArrayVec::new();
    pieces.push(Piece::own(headers.get(..VNET_LEN + scattered.head).ok_or(DropReason::BadDescriptor)?));
    let (mut skip, mut left) = (scattered.skip, scattered.payload);
    for window in scattered.rest {
        let from = skip.min(window.len());
        skip -= from;
        let part = window.sub(from, (window.len() - from).min(left)).ok_or(DropReason::BadDescriptor)?;
        left -= part.len();
        if !part.is_empty() {
            pieces.try_push(Piece::window(&part)).map_err(|_| DropReason::BadDescriptor)?;
        }
    }
    if left > 0 {
        return Err(DropReason::BadDescriptor);
    }
    let bare = scattered.head + scattered.payload;
    if bare < MIN_FRAME {
        pieces.try_push(Piece::own(&PADDING[bare..])).map_err(|_| DropReason::BadDescriptor)?;
    }
    device::write(fd, &pieces).map_err(reason)?;
    Ok(bare.max(MIN_FRAME))
}

/// Sends output frame `segment` of a frame that the kernel would not finish.
#[cold]
fn send_finished(fd: &OwnedFd, plan: &Plan<'_, '_>, segment: u32) -> Result<usize, DropReason> {
    thread_local! {
        /// Made when a worker first needs it, which most never do.
        static BUFFER: Option<SharedPage> = SharedPage::new("vswitch-tap", FINISHED).ok();
    }
    let send = |buffer: &Option<SharedPage>| {
        let len = plan.len(segment);
        let room = buffer.as_ref().ok_or(DropReason::RingFull)?.slice().sub(0, len).ok_or(DropReason::Oversize)?;
        if !plan.write(segment, &[room]) {
            return Err(DropReason::BadDescriptor);
        }
        let header = VnetHeader::for_plan(plan).bytes();
        device::write(fd, &[Piece::own(&header), Piece::window(&room)]).map_err(reason)?;
        Ok(len)
    };
    BUFFER.try_with(send).unwrap_or(Err(DropReason::NotConnected))
}

/// What a refusal of the kernel is called here.
#[cold]
fn reason(error: i32) -> DropReason {
    match error {
        // The interface is down.
        libc::EIO => DropReason::PortBlocked,
        // A header that does not fit its frame, as the kernel sees it.
        libc::EINVAL => DropReason::BadOffload,
        // The sender took its memory away.
        libc::EFAULT => DropReason::BadDescriptor,
        libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM => DropReason::RingFull,
        // EBADFD: it was deleted.
        _ => DropReason::NotConnected,
    }
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
