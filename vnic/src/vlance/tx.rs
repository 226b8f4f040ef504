//! The transmit queue: from the guest's ring into a burst, and the descriptors back.
//!
//! A frame is a chain of descriptors from STP to ENP, all owned by the chip. CSR0 TDMD and CSR4 DPOLL
//! are hints: the worker looks at the ring whatever they say. Broken chains are taken out of the ring
//! with an error, counted as `bad-descriptor`, and cost only themselves:
//!
//! | seen | taken | told to the driver |
//! |---|---|---|
//! | first descriptor has no STP | that descriptor | ERR, BUFF |
//! | STP before ENP came | the descriptors before it | ERR, BUFF |
//! | more than 64 descriptors, or a whole ring, without ENP | those | ERR, BUFF |
//! | buffer not in the guest's memory | the chain | ERR, BUFF |
//! | not all owned yet | nothing: waits for the next poll | |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::{Arm, BURST, Burst, Delivery, DropReason, Ingress, MAX_FRAME_SLICES, Offload, Sink, Tally};
use sharedmem::{Access, DmaMap, Hint, Slice};
use wire::Mac;

use super::active::{Active, MAX_CHAIN, Shared};
use super::cause::{csr0, csr4, csr5};
use super::ring::{Desc, DescRing, flag};

/// Second status word of a transmit descriptor: the chain was broken (data sheet: no next buffer).
const MISC_BUFF: u32 = 1 << 31;
/// Likewise: no carrier.
const MISC_LCAR: u32 = 1 << 27;

type Chain = ArrayVec<Desc, MAX_CHAIN>;

/// What stands at the head of the ring.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// Nothing, or a frame that is not complete yet.
    Empty,
    /// A whole frame.
    Frame,
    /// Descriptors that are no frame.
    Broken,
}

/// A descriptor to give back.
struct Done {
    index: u32,
    desc: Desc,
    misc: u32,
}

/// The card's one transmit queue.
pub(super) struct TxQueue {
    shared: Arc<Shared>,
    /// As many as one burst can take: filled and emptied by each poll, never grown.
    done: Vec<Done>,
}

impl TxQueue {
    pub(super) fn new(shared: Arc<Shared>) -> TxQueue {
        TxQueue { shared, done: Vec::with_capacity(BURST * MAX_CHAIN) }
    }
}

impl Ingress for TxQueue {
    fn poll(&mut self, sink: &mut dyn Sink) -> usize {
        let guard = self.shared.active.load();
        let Some(active) = guard.as_deref() else { return 0 };
        let Some(ring) = &active.tx else { return 0 };
        let first = self.shared.tx_next.load(Ordering::Relaxed);
        let first = if first < ring.count() { first } else { 0 };
        if ring.get(first).is_none() {
            return 0;
        }
        let link = active.loopback || self.shared.state.link_up();
        let mut burst = Burst::new();
        self.done.clear();
        let next = harvest(active, ring, first, link, &mut burst, &mut self.done);
        let taken = burst.harvested();
        if taken == 0 {
            return 0;
        }
        if active.loopback {
            loop_back(&self.shared, active, &burst);
        } else {
            sink.forward(&burst);
        }
        self.shared.tx_next.store(next, Ordering::Relaxed);
        let interrupt = complete(ring, &self.done, self.shared.cause.status().csr5);
        let carrier = if link { 0 } else { csr0::CERR };
        self.shared.cause.raise(if interrupt { csr0::TINT } else { 0 } | carrier, csr4::TXSTRT);
        taken
    }

    /// A started card's descriptors are looked at, whether its driver rings or not (it may leave that to the card).
    fn arm(&mut self) -> Arm {
        if self.shared.active.load().is_none() { Arm::Quiet } else { Arm::Cannot }
    }
}

/// Fills the burst from descriptor `at`; returns the descriptor after the last one taken.
fn harvest<'m>(
    active: &'m Active,
    ring: &DescRing,
    mut at: u32,
    link: bool,
    burst: &mut Burst<'m>,
    done: &mut Vec<Done>,
) -> u32 {
    let mut chain = Chain::new();
    let mut hint = Hint::default();
    while burst.has_room() {
        // A descriptor taken by this burst still says that the chip owns it: not twice around.
        let limit = ring.count() as usize - done.len();
        let head = next_chain(ring, at, limit, &mut chain);
        let len = chain.iter().map(Desc::len).sum();
        let misc = match head {
            Head::Empty => break,
            Head::Broken => {
                burst.reject(DropReason::BadDescriptor, len);
                MISC_BUFF
            }
            Head::Frame if !link => {
                burst.reject(DropReason::PortBlocked, len);
                MISC_LCAR
            }
            Head::Frame => match pieces(&active.map, &mut hint, &chain) {
                Some(pieces) => {
                    burst.push(&pieces, None, Offload::default());
                    0
                }
                None => {
                    burst.reject(DropReason::BadDescriptor, len);
                    MISC_BUFF
                }
            },
        };
        for desc in &chain {
            done.push(Done { index: at, desc: *desc, misc });
            at = ring.after(at);
        }
    }
    at
}

/// Reads the chain at `at` into `chain`, looking at no more than `limit` descriptors.
fn next_chain(ring: &DescRing, mut at: u32, limit: usize, chain: &mut Chain) -> Head {
    chain.clear();
    loop {
        if chain.len() == limit {
            return if limit == ring.count() as usize { Head::Broken } else { Head::Empty };
        }
        if chain.is_full() {
            return Head::Broken;
        }
        let Some(desc) = ring.get(at) else { return Head::Empty };
        let start = desc.flags & flag::STP != 0;
        if start != chain.is_empty() {
            if chain.is_empty() {
                chain.push(desc);
            }
            return Head::Broken;
        }
        chain.push(desc);
        if desc.flags & flag::ENP != 0 {
            return Head::Frame;
        }
        at = ring.after(at);
    }
}

/// The memory of a chain; `None` when part of it is not the guest's or it lies in too many pieces.
fn pieces<'m>(map: &'m DmaMap, hint: &mut Hint, chain: &Chain) -> Option<ArrayVec<Slice<'m>, MAX_FRAME_SLICES>> {
    let mut pieces = ArrayVec::new();
    for desc in chain {
        let mut at = u64::from(desc.addr);
        let mut left = desc.len();
        while left > 0 {
            let piece = map.prefix(hint, at, left, Access::Read).ok()?;
            if piece.is_empty() {
                return None;
            }
            at += piece.len() as u64;
            left -= piece.len();
            pieces.try_push(piece).ok()?;
        }
    }
    Some(pieces)
}

/// Gives the descriptors back in order; true when one of them asks for TINT.
///
/// With LTINTEN only frames whose last descriptor has LTINT interrupt, with TOKINTD alone only
/// errors do (data sheet, "CSR5"); errors always do here.
fn complete(ring: &DescRing, done: &[Done], csr5: u16) -> bool {
    let mut interrupt = false;
    for d in done {
        let failed = d.misc != 0;
        let asks = if csr5 & csr5::LTINTEN != 0 {
            d.desc.flags & flag::ENP != 0 && d.desc.flags & flag::LTINT != 0
        } else {
            csr5 & csr5::TOKINTD == 0
        };
        interrupt |= failed || asks;
        let flags = d.desc.flags & flag::TX_KEPT | if failed { flag::ERR } else { 0 };
        ring.put_tx(d.index, &d.desc, flags, d.misc);
    }
    interrupt
}

/// Receives what was sent, through the chip's own filter. These frames never enter the switch, so no
/// port counts them.
fn loop_back(shared: &Shared, active: &Active, burst: &Burst<'_>) {
    let list: ArrayVec<Delivery, BURST> = burst
        .frames()
        .iter()
        .enumerate()
        .filter(|(_, frame)| accepts(shared, frame.dst()))
        .map(|(index, frame)| Delivery::new(index as u8, frame.tag()))
        .collect();
    super::rx::receive(shared, active, burst, &list, &mut Tally::new());
}

fn accepts(shared: &Shared, dst: Mac) -> bool {
    let filter = shared.state.filter();
    filter.promiscuous
        || if dst.is_group() { filter.wants_group(dst) } else { filter.unicast && filter.mac == Some(dst) }
}
