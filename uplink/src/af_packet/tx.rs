//! The way out: from the data path to the transmit ring.
//!
//! The kernel takes slots strictly in order and stops at the first that is not marked `SEND_REQUEST`. So a slot,
//! once reserved, must be published, and a slot that the kernel refuses must be put right, or the ring stands
//! still. [`TxRing::publish_filler`] is what stands in for a frame then.
//!
//! A frame counts as delivered when it is published. What becomes of it later is the device's affair, but for
//! three cases this module can see, and counts: it waits (`tx_busy`), it is refused (`tx_refused`), or the link
//! goes away under it (`tx_stale`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use arrayvec::ArrayVec;
use dataplane::{BURST, Burst, Caps, Csum, Delivery, DropReason, Plan, Tally, VNET_LEN, VnetHeader};
use rustix::net::SendFlags;
use sharedmem::Slice;
use wire::{ETH_HEADER, MIN_FRAME, Mac};

use super::ring::{Direction, HEADER, LEN, SLOT, Slots};
use super::socket;
use crate::life::{Counts, longest};
use crate::netlink::LinkEvent;

/// Our own mark, a bit the kernel gives no meaning in a transmit slot: reserved by a worker that is copying.
/// The kernel looks for `SEND_REQUEST` alone and leaves it be.
const RESERVED: u32 = 1 << 16;
/// The status without the kernel's time-stamp flags.
const STATE: u32 = 0x00ff_ffff;
/// Offset of the frame in a TX slot.
const FRAME: usize = HEADER + VNET_LEN;
/// Times one call puts refused slots right before it leaves the rest to the next.
const MENDS: usize = 4;
/// EtherType of the Ethernet Configuration Testing Protocol, which switches use for keepalives to themselves.
const ETHERTYPE_LOOPBACK: u16 = 0x9000;

/// Frames up to this many bytes are copied by the kernel whole; of longer ones it takes references to the
/// ring's pages. On a veth a reference costs a page and a second copy when the frame changes hands: copying whole
/// sent 1.3 times as many 60 byte frames and 1.2 times as many of 1514 (medians of seven alternating runs).
const COPY_WHOLE: usize = 2048;
/// First byte at which the kernel accepts the start of a checksum: behind Ethernet and the shortest IP header.
const FIRST_CSUM_START: u16 = (ETH_HEADER + 20) as u16;

/// What the kernel does: it fills in checksums and cuts TCP segments, and newer ones datagrams (`uso`). The tag goes
/// inline, as a packet socket has no other place.
const fn caps(uso: bool) -> Caps {
    Caps { csum: true, tso: true, uso, tag: false, pad: true }
}

/// The transmit socket of one life of an interface.
pub(super) struct TxRing {
    slots: Slots,
    fd: OwnedFd,
    mac: Mac,
    /// The kernel cuts datagrams.
    uso: bool,
    /// The slot to be reserved next.
    head: Mutex<usize>,
    /// Frames were left in the ring: whoever polls next sends again.
    again: AtomicBool,
}

impl TxRing {
    pub(super) fn open(link: &LinkEvent) -> io::Result<TxRing> {
        let fd = socket::open(link.index, Direction::Tx)?;
        let slots = Slots::map(fd.as_fd(), Direction::Tx)?;
        let uso = socket::cuts_datagrams();
        Ok(TxRing { slots, fd, mac: link.mac, uso, head: Mutex::new(0), again: AtomicBool::new(false) })
    }

    /// Frames that wait for the kernel.
    pub(super) fn waiting(&self) -> u64 {
        let waits = |at: &usize| {
            self.slots.slot(*at).is_some_and(|s| Slots::status(&s) & STATE == libc::TP_STATUS_SEND_REQUEST)
        };
        (0..self.slots.count()).filter(waits).count() as u64
    }

    /// Reserves up to `wanted` slots in a row; returns the first and how many.
    fn reserve(&self, wanted: usize) -> (usize, usize) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *head;
        let mut got = 0;
        while got < wanted {
            let Some(slot) = self.slots.slot(self.slots.after(first, got)) else { break };
            if Slots::status(&slot) & STATE != libc::TP_STATUS_AVAILABLE {
                break;
            }
            Slots::set_status(&slot, RESERVED);
            got += 1;
        }
        *head = self.slots.after(first, got);
        (first, got)
    }

    /// Fills reserved slot `index` with output frame `segment` of `plan`, `len` bytes long, and publishes it; false
    /// when it could not be written, and a filler was published in its place.
    #[inline]
    fn publish(&self, index: usize, plan: &Plan<'_, '_>, segment: u32, len: usize) -> bool {
        let Some(slot) = self.slots.slot(index) else { return false };
        let header = header_for(plan, len);
        let written = slot.sub(FRAME, len).is_some_and(|room| plan.write(segment, &[room]));
        if !written {
            self.publish_filler(&slot);
            return false;
        }
        publish(&slot, header, len);
        true
    }

    /// Publishes a frame from the interface to itself: no station takes it up, and a switch drops it, as the
    /// address it is for is on the port it came from.
    fn publish_filler(&self, slot: &Slice<'_>) {
        let mut frame = [0; MIN_FRAME];
        frame[..6].copy_from_slice(&self.mac.0);
        frame[6..12].copy_from_slice(&self.mac.0);
        frame[12..14].copy_from_slice(&ETHERTYPE_LOOPBACK.to_be_bytes());
        slot.write_at(FRAME, &frame);
        publish(slot, VnetHeader::default(), frame.len());
    }

    /// Sends again if frames were left behind.
    #[inline]
    pub(super) fn nudge(&self, counts: &Counts) {
        if self.again.load(Ordering::Relaxed) && self.again.swap(false, Ordering::AcqRel) {
            self.notify(counts);
        }
    }

    /// True while frames were left in the ring.
    pub(super) fn restless(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Has the kernel take what is published. Never called with the lock held.
    fn notify(&self, counts: &Counts) {
        for _ in 0..MENDS {
            let Err(error) = rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT) else { return };
            match error {
                // The kernel refused a slot: see `mend`.
                rustix::io::Errno::INVAL | rustix::io::Errno::MSGSIZE | rustix::io::Errno::FAULT => {
                    if self.mend(counts) == 0 {
                        break;
                    }
                }
                // The device or the socket is full, or the interface is down: the slots stay as they are.
                _ => break,
            }
        }
        counts.tx_busy.fetch_add(1, Ordering::Relaxed);
        self.again.store(true, Ordering::Release);
    }

    /// Puts slots right that the kernel refused; returns how many.
    fn mend(&self, counts: &Counts) -> usize {
        let _head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mended = 0;
        for index in 0..self.slots.count() {
            let Some(slot) = self.slots.slot(index) else { continue };
            if Slots::status(&slot) & STATE == libc::TP_STATUS_WRONG_FORMAT {
                self.publish_filler(&slot);
                mended += 1;
            }
        }
        counts.tx_refused.fetch_add(mended as u64, Ordering::Relaxed);
        mended
    }
}

/// What is left to the kernel to do for `plan`'s frame, `len` bytes long.
pub(super) fn header_for(plan: &Plan<'_, '_>, len: usize) -> VnetHeader {
    let mut header = VnetHeader::for_plan(plan);
    if plan.gso().is_none() && len <= COPY_WHOLE {
        header.hdr_len = len as u16;
    }
    header
}

/// True when the kernel takes a request to fill in this checksum; one that it would refuse is filled in by us.
fn kernel_fills(csum: Csum) -> bool {
    !matches!(csum, Csum::Fill { start, .. } if start < FIRST_CSUM_START)
}

/// Writes the headers before the frame that lies in `slot`, and hands the slot to the kernel.
#[inline]
fn publish(slot: &Slice<'_>, header: VnetHeader, len: usize) {
    slot.write_at(HEADER, &header.bytes());
    slot.store_u32(LEN, (VNET_LEN + len) as u32);
    Slots::set_status(slot, libc::TP_STATUS_SEND_REQUEST);
}

/// Sends `list` and tells the kernel once.
pub(super) fn deliver(
    ring: &TxRing,
    burst: &Burst<'_>,
    list: &[Delivery],
    mtu: usize,
    counts: &Counts,
    tally: &mut Tally,
) {
    let mut ask = false;
    for part in list.chunks(BURST) {
        ask |= deliver_some(ring, burst, part, mtu, tally);
    }
    if ask {
        ring.notify(counts);
    }
}

/// Delivers at most [`BURST`] frames. True when the kernel is to be asked to look: also when no slot was free, as
/// a full ring moves on only if somebody asks.
fn deliver_some(ring: &TxRing, burst: &Burst<'_>, list: &[Delivery], mtu: usize, tally: &mut Tally) -> bool {
    let mut plans: ArrayVec<Plan<'_, '_>, BURST> = ArrayVec::new();
    for delivery in list {
        match plan(burst, delivery, mtu, ring.uso) {
            Ok(plan) => plans.push(plan),
            Err(reason) => tally.dropped(reason),
        }
    }
    let (first, got) = ring.reserve(plans.iter().map(|plan| plan.count() as usize).sum());
    let frames = plans.iter().flat_map(|plan| (0..plan.count()).map(move |segment| (plan, segment)));
    for (at, (plan, segment)) in frames.enumerate() {
        let len = plan.len(segment);
        if at >= got {
            tally.dropped(DropReason::RingFull);
        } else if ring.publish(ring.slots.after(first, at), plan, segment, len) {
            tally.delivered(len);
        } else {
            tally.dropped(DropReason::BadDescriptor);
        }
    }
    !plans.is_empty()
}

/// The plan of one delivery: one frame, but for datagrams that this kernel does not cut.
#[inline]
fn plan<'b, 'm>(burst: &'b Burst<'m>, delivery: &Delivery, mtu: usize, uso: bool) -> Result<Plan<'b, 'm>, DropReason> {
    let plan = Plan::new(burst, delivery, caps(uso)).ok_or(DropReason::BadDescriptor)?;
    let frame = plan.frame();
    // With a vnet header the kernel does not look at the MTU, and a device may do as it likes with what is longer.
    if longest(frame) > mtu + ETH_HEADER || FRAME + plan.len(0) > SLOT {
        return Err(DropReason::Oversize);
    }
    if kernel_fills(frame.offload().csum) {
        return Ok(plan);
    }
    Plan::new(burst, delivery, Caps { csum: false, ..caps(uso) }).ok_or(DropReason::BadDescriptor)
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
