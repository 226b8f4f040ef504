//! The receive path: frames into the guest's buffers.
//!
//! Descriptors are reserved under a short lock, the copy runs without it, and each descriptor is given back by
//! storing its status word last. A frame longer than a buffer goes on in the next (STP on the first descriptor,
//! ENP and MCNT on the last); the chain is published from its end, so that a driver that sees the first
//! sees all.
//!
//! # The frame check sequence
//!
//! MCNT counts the FCS, and every driver subtracts it (Linux pcnet32 and the BSDs' le and pcn: 4 bytes). No
//! driver known to us looks at its value, which the chip has verified, so four zero bytes are written: a
//! CRC-32 of each frame would cost a second pass over its bytes. With CSR4 ASTRP_RCV, MCNT of a frame
//! with an 802.3 length below 46 counts the header and that length only, as on the chip.

use std::sync::Arc;

use arrayvec::ArrayVec;
use dataplane::{Burst, Caps, Delivery, DropReason, Egress, Frame, Plan, Tally};
use sharedmem::{Access, DmaMap, Hint, Slice};
use wire::{ETH_HEADER, be16};

use super::active::{Active, MAX_CHAIN, Reserved, Shared};
use super::cause::{csr0, csr4};
use super::filter::mode;
use super::ring::flag;

/// Bytes of the frame check sequence.
const FCS: usize = 4;
/// Greatest message length a receive descriptor can tell (MCNT has 12 bits).
const MCNT_MAX: usize = 0x0fff;
/// Least payload of an Ethernet frame; shorter ones are padded.
const MIN_PAYLOAD: u16 = 46;

/// Nothing is left to the guest but a padded frame with its tag inside.
const CAPS: Caps = Caps { csum: false, tso: false, uso: false, tag: false, pad: true };

/// Pieces of memory one frame may lie in: buffers that span two mappings count twice.
type Room<'m> = ArrayVec<Slice<'m>, { 2 * MAX_CHAIN }>;

/// The card's receive path.
pub(super) struct RxPath(pub Arc<Shared>);

impl Egress for RxPath {
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
        let shared = &*self.0;
        let guard = shared.active.load();
        let started = guard.as_deref().filter(|a| a.rx.is_some() && !a.loopback);
        match started {
            Some(active) if shared.state.link_up() => receive(shared, active, burst, list, tally),
            Some(_) => list.iter().for_each(|_| tally.dropped(DropReason::PortBlocked)),
            None => list.iter().for_each(|_| tally.dropped(DropReason::NotConnected)),
        }
    }
}

/// Puts the listed frames into the ring; raises RINT and MISS at most once.
pub(super) fn receive(shared: &Shared, active: &Active, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally) {
    let strip = shared.cause.status().csr4 & csr4::ASTRP_RCV != 0;
    let mut hint = Hint::default();
    let mut completed = false;
    let mut missed = 0;
    for delivery in list {
        let Some(plan) = Plan::new(burst, delivery, CAPS) else {
            tally.dropped(DropReason::BadDescriptor);
            continue;
        };
        tally.segmented(plan.count());
        for index in 0..plan.count() {
            match receive_one(active, &plan, index, strip && delivery.tag().is_none(), &mut hint) {
                Ok(len) => {
                    completed = true;
                    tally.delivered(len);
                }
                Err(reason) => {
                    completed |= reason == DropReason::BadDescriptor;
                    missed += u32::from(reason == DropReason::RingFull);
                    tally.dropped(reason);
                }
            }
        }
    }
    if missed > 0 {
        shared.miss(missed);
    }
    if completed {
        shared.cause.raise(csr0::RINT, 0);
    }
}

/// One output frame (`strip`: strip padding and FCS if its length says so); returns its length without FCS. `BadDescriptor` has used up descriptors, which tell
/// the driver of a damaged frame; the other errors have not.
fn receive_one(
    active: &Active,
    plan: &Plan<'_, '_>,
    index: u32,
    strip: bool,
    hint: &mut Hint,
) -> Result<usize, DropReason> {
    let ring = active.rx.as_ref().ok_or(DropReason::NotConnected)?;
    let len = plan.len(index);
    let need = len + FCS;
    if need > MCNT_MAX {
        return Err(DropReason::Oversize);
    }
    let mut chain = Reserved::new();
    active.rx_cursor.reserve(ring, need, &mut chain)?;
    let good = room(&active.map, hint, &chain, need)
        .is_some_and(|room| plan.write(index, &room) && write_at(&room, len, &[0; FCS]));
    let end = flag::ENP | if good { match_flags(active, plan.frame()) } else { flag::ERR | flag::CRC };
    let mcnt = stripped(plan, strip).unwrap_or(need as u16);
    let last = chain.len() - 1;
    for (i, (at, desc)) in chain.iter().enumerate().rev() {
        let start = if i == 0 { flag::STP } else { 0 };
        let (end, mcnt) = if i == last { (end, mcnt) } else { (0, 0) };
        ring.put_rx(*at, desc, start | end, mcnt);
        active.rx_cursor.release(*at);
    }
    if good { Ok(len) } else { Err(DropReason::BadDescriptor) }
}

/// The guest memory that `need` bytes go to; `None` when part of it is not there.
fn room<'m>(map: &'m DmaMap, hint: &mut Hint, chain: &Reserved, need: usize) -> Option<Room<'m>> {
    let mut room = Room::new();
    let mut need = need;
    for (_, desc) in chain {
        let mut at = u64::from(desc.addr);
        let mut left = desc.len().min(need);
        need -= left;
        while left > 0 {
            let piece = map.prefix(hint, at, left, Access::Write).ok()?;
            if piece.is_empty() {
                return None;
            }
            at += piece.len() as u64;
            left -= piece.len();
            room.try_push(piece).ok()?;
        }
    }
    Some(room)
}

/// Writes `data` at offset `at` of the bytes that lie in `room`.
fn write_at(room: &[Slice<'_>], mut at: usize, mut data: &[u8]) -> bool {
    for piece in room {
        if data.is_empty() {
            break;
        }
        if at >= piece.len() {
            at -= piece.len();
            continue;
        }
        let n = data.len().min(piece.len() - at);
        if !piece.write_at(at, &data[..n]) {
            return false;
        }
        data = &data[n..];
        at = 0;
    }
    data.is_empty()
}

/// Why the chip took the frame: PAM, LAFM or BAM; none in promiscuous mode.
fn match_flags(active: &Active, frame: &Frame) -> u16 {
    let dst = frame.dst();
    if active.mode & mode::PROM != 0 {
        0
    } else if dst.is_broadcast() && active.mode & mode::DRCVBC == 0 {
        flag::BAM
    } else if dst.is_group() {
        flag::LAFM
    } else if dst == active.mac {
        flag::PAM
    } else {
        0
    }
}

/// MCNT of a frame whose padding and FCS are stripped; `None` when they are not.
fn stripped(plan: &Plan<'_, '_>, strip: bool) -> Option<u16> {
    let length = be16(plan.frame().head(), ETH_HEADER - 2)?;
    (strip && length < MIN_PAYLOAD).then(|| ETH_HEADER as u16 + length)
}
