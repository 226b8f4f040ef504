//! The way in: from the receive ring to the data path.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dataplane::{BURST, Burst, Csum, DropReason, Offload, Sink, VNET_LEN, VnetHeader};
use sharedmem::Slice;
use wire::{ETHERTYPE_VLAN, TAG_LEN, Tag};

use super::ring::{Direction, PKTTYPE, Slots};
use super::socket;
use crate::netlink::LinkEvent;

/// Bytes read of a slot's header: `tpacket2_hdr` and `sockaddr_ll` up to the packet type.
const HEADER_READ: usize = PKTTYPE + 1;
/// Slots looked at in one poll: our own frames (which older kernels show) fill no burst.
const SLOTS_PER_POLL: usize = 2 * BURST;
/// Offset in a frame of the tag, behind the two addresses.
const TAG_AT: usize = 12;

/// The receive socket of one life of an interface.
pub(super) struct RxRing {
    slots: Slots,
    pub(super) fd: Arc<OwnedFd>,
}

impl RxRing {
    pub(super) fn open(link: &LinkEvent) -> io::Result<RxRing> {
        let fd = socket::open(link.index, Direction::Rx)?;
        Ok(RxRing { slots: Slots::map(fd.as_fd(), Direction::Rx)?, fd: Arc::new(fd) })
    }

    pub(super) fn take_statistics(&self) -> (u64, u64) {
        socket::statistics(&self.fd).unwrap_or((0, 0))
    }
}

/// Harvests at most a burst from slot `next` on, and gives the slots back when it has been forwarded.
pub(super) fn poll(ring: &RxRing, next: &mut usize, sink: &mut dyn Sink) -> usize {
    let slots = &ring.slots;
    let mut burst = Burst::new();
    let mut taken = 0;
    while taken < SLOTS_PER_POLL && burst.has_room() {
        let Some(slot) = slots.slot(slots.after(*next, taken)) else { break };
        if Slots::status(&slot) & libc::TP_STATUS_USER == 0 {
            break;
        }
        harvest(&slot, &mut burst);
        taken += 1;
    }
    if burst.harvested() > 0 {
        sink.forward(&burst);
    }
    for at in 0..taken {
        if let Some(slot) = slots.slot(slots.after(*next, at)) {
            Slots::set_status(&slot, libc::TP_STATUS_KERNEL);
        }
    }
    *next = slots.after(*next, taken);
    burst.harvested()
}

/// The fields of an RX slot's header that matter.
struct Header {
    status: u32,
    /// Length of the frame on the wire, and how much of it is here, in bytes.
    len: usize,
    snaplen: usize,
    /// Offset of the frame in the slot.
    mac: usize,
    tci: u16,
    tpid: u16,
    pkttype: u8,
}

impl Header {
    #[inline]
    fn read(slot: &Slice<'_>) -> Header {
        let mut b = [0u8; HEADER_READ];
        slot.read_at(0, &mut b);
        let half = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        Header {
            status: word(0),
            len: word(4) as usize,
            snaplen: word(8) as usize,
            mac: usize::from(half(12)),
            tci: half(24),
            tpid: half(26),
            pkttype: b[PKTTYPE],
        }
    }
}

/// Adds the frame in `slot` to the burst, or counts why not.
#[inline]
fn harvest<'m>(slot: &Slice<'m>, burst: &mut Burst<'m>) {
    let header = Header::read(slot);
    if header.pkttype == libc::PACKET_OUTGOING {
        return;
    }
    if header.snaplen < header.len {
        return burst.reject(DropReason::Oversize, header.len);
    }
    let Some((frame, vnet)) = parts(slot, &header) else {
        return burst.reject(DropReason::BadDescriptor, header.len);
    };
    let offload = match vnet.offload(&[frame]) {
        Ok(offload) => offload,
        Err(reason) => return burst.reject(reason, header.len),
    };
    // The kernel took the outermost tag out before it filled the slot.
    match tag_of(&header) {
        None => burst.push(&[frame], None, offload),
        Some((ETHERTYPE_VLAN, tci)) => burst.push(&[frame], Some(Tag(tci)), offload),
        Some((tpid, tci)) => match put_back(slot, &header, tpid, tci) {
            Some(frame) => burst.push(&[frame], None, shifted(offload)),
            None => burst.reject(DropReason::BadDescriptor, header.len),
        },
    }
}

#[inline]
fn parts<'m>(slot: &Slice<'m>, header: &Header) -> Option<(Slice<'m>, VnetHeader)> {
    let frame = slot.sub(header.mac, header.snaplen)?;
    let mut bytes = [0; VNET_LEN];
    slot.read_at(header.mac.checked_sub(VNET_LEN)?, &mut bytes).then_some((frame, VnetHeader::from_bytes(bytes)))
}

/// TPID and TCI of the tag the kernel took out.
#[inline]
fn tag_of(header: &Header) -> Option<(u16, u16)> {
    if header.status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    // Kernels before 3.14 do not tell the TPID, and had no other.
    let known = header.status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some((if known { header.tpid } else { ETHERTYPE_VLAN }, header.tci))
}

/// Writes a tag that is no 802.1Q tag (802.1ad, 0x88A8) back into the frame, where the switch leaves it alone as
/// it does every other EtherType: the addresses move up over the vnet header, which has been read.
fn put_back<'m>(slot: &Slice<'m>, header: &Header, tpid: u16, tci: u16) -> Option<Slice<'m>> {
    let start = header.mac.checked_sub(TAG_LEN)?;
    let mut addresses = [0; TAG_AT];
    let mut tag = [0; TAG_LEN];
    tag[..2].copy_from_slice(&tpid.to_be_bytes());
    tag[2..].copy_from_slice(&tci.to_be_bytes());
    let done = header.snaplen >= TAG_AT
        && slot.read_at(header.mac, &mut addresses)
        && slot.write_at(start, &addresses)
        && slot.write_at(start + TAG_AT, &tag);
    if done { slot.sub(start, header.snaplen + TAG_LEN) } else { None }
}

/// `offload` for a frame that grew by a tag at its start.
fn shifted(mut offload: Offload) -> Offload {
    let by = TAG_LEN as u16;
    if let Csum::Fill { start, at } = offload.csum {
        offload.csum = Csum::Fill { start: start.saturating_add(by), at: at.saturating_add(by) };
    }
    if let Some(gso) = &mut offload.gso {
        gso.header = gso.header.saturating_add(by);
    }
    offload
}

#[cfg(test)]
#[path = "rx_tests.rs"]
mod tests;
