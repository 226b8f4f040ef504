//! The control queue: what the driver wants to receive, carried out by the control thread.
//!
//! ```text
//!  guest --kick fd--> vhost_user::Server (control thread) --serve--> command bytes --Wishes--> RxFilter of the port
//!                                                                    answer byte <-----'
//! ```
//!
//! Facts: virtio 1.2, 5.1.6.5. What is wrong with a command, the driver is told by the answer; a chain without room for
//! an answer is given back as it is. QEMU and DPDK keep this queue to themselves, user-mode Linux passes it on.

use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use dataplane::{Multicast, RxFilter};
use sharedmem::{MemTable, PackedRing, Slice, SpanHint, SplitRing, VirtqDesc};
use wire::Mac;

use super::chain::NEXT;
use super::features;
use super::packed::first;
use super::ring::{Broken, Virtq, Virtqueue};

/// Most group addresses looked up one by one; a driver that gives more gets every group frame, as with vmxnet3.
pub const MAX_GROUPS: usize = 128;
/// Longest command in bytes; a table of addresses may be longer than [`MAX_GROUPS`].
const MAX_COMMAND: usize = 16 * 1024;
/// Most descriptors of a chain.
const MAX_CHAIN: usize = 64;
/// Most commands in one go.
const BATCH: usize = 64;

const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The receive filter that the driver asked for, and its address.
#[derive(Clone, Debug)]
pub struct Wishes {
    features: u64,
    mac: Mac,
    promiscuous: bool,
    all_multicast: bool,
    all_unicast: bool,
    no_multicast: bool,
    no_unicast: bool,
    no_broadcast: bool,
    /// Unicast addresses beside its own.
    more_unicast: bool,
    groups: Vec<Mac>,
    too_many: bool,
    vlans: Box<[u64; 64]>,
    /// Queue pairs in use.
    pairs: u16,
    most_pairs: u16,
}

impl Wishes {
    /// Of a driver that accepted `features` and has said nothing yet, on a card with address `mac`: it gets everything
    /// (a driver that never sets a receive mode must not be deaf), on one queue pair.
    pub fn new(features: u64, mac: Mac, most_pairs: u16) -> Wishes {
        // The other bits of the queue mean nothing without the queue, which a VMM may keep to itself.
        let queue = features & features::CTRL_VQ != 0;
        Wishes {
            features: if queue { features } else { 0 },
            mac,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            more_unicast: false,
            groups: Vec::new(),
            too_many: false,
            vlans: Box::new([0; 64]),
            pairs: 1,
            most_pairs,
        }
    }

    /// Receive queues that the driver wants used; `None` where it has no say.
    pub fn pairs(&self) -> Option<u16> {
        let mine = features::MQ | features::CTRL_VQ;
        (self.features & mine == mine).then_some(self.pairs)
    }

    /// The filter of the port.
    pub fn filter(&self) -> RxFilter {
        let all = self.promiscuous;
        let multicast = all || !self.no_multicast;
        let vlans = self.features & features::CTRL_VLAN != 0 && !all;
        RxFilter {
            mac: Some(self.mac),
            unicast: all || !self.no_unicast,
            broadcast: all || !self.no_broadcast,
            all_multicast: all || multicast && (self.all_multicast || self.too_many),
            // A port has one address: a guest with several gets theirs where its port group lets it be promiscuous.
            promiscuous: all || !self.no_unicast && (self.all_unicast || self.more_unicast),
            multicast: Multicast::List(if multicast { self.groups.clone() } else { Vec::new() }),
            vlans: vlans.then(|| self.vlans.clone()),
        }
    }

    /// Carries out a command: class, command and data. False when there is no such command, or nothing was changed
    /// because its data make no sense.
    pub fn command(&mut self, bytes: &[u8]) -> bool {
        let [class, command, data @ ..] = bytes else { return false };
        let accepted = |bit: u64| self.features & bit != 0;
        match (class, command) {
            (0, 0..=1) if accepted(features::CTRL_RX) => self.receive_mode(*command, data),
            (0, 2..=5) if accepted(features::CTRL_RX_EXTRA) => self.receive_mode(*command, data),
            (1, 0) if accepted(features::CTRL_RX) => self.tables(data),
            (1, 1) if accepted(features::CTRL_MAC_ADDR) => self.address(data),
            (2, 0..=1) if accepted(features::CTRL_VLAN) => self.vlan(*command == 0, data),
            (4, 0) if accepted(features::MQ) => self.use_pairs(data),
            _ => false,
        }
    }

    fn receive_mode(&mut self, command: u8, data: &[u8]) -> bool {
        let &[on] = data else { return false };
        let flag = match command {
            0 => &mut self.promiscuous,
            1 => &mut self.all_multicast,
            2 => &mut self.all_unicast,
            3 => &mut self.no_multicast,
            4 => &mut self.no_unicast,
            _ => &mut self.no_broadcast,
        };
        *flag = on != 0;
        true
    }

    fn tables(&mut self, data: &[u8]) -> bool {
        let Some((unicast, rest)) = table(data) else { return false };
        let Some((groups, [])) = table(rest) else { return false };
        self.more_unicast = unicast.chunks_exact(6).any(|mac| mac != self.mac.0);
        self.too_many = groups.len() / 6 > MAX_GROUPS;
        let kept = if self.too_many { &[] } else { groups };
        self.groups = kept.chunks_exact(6).filter_map(mac).collect();
        true
    }

    fn address(&mut self, data: &[u8]) -> bool {
        // Linux and others check likewise: an address of a card is not a group's, nor nobody's.
        let Some(new) = mac(data).filter(|m| !m.is_group() && !m.is_zero()) else { return false };
        self.mac = new;
        true
    }

    fn vlan(&mut self, add: bool, data: &[u8]) -> bool {
        let &[low, high] = data else { return false };
        let vid = u16::from_le_bytes([low, high]);
        let Some(bits) = self.vlans.get_mut(usize::from(vid >> 6)) else { return false };
        let bit = 1 << (vid & 63);
        *bits = if add { *bits | bit } else { *bits & !bit };
        true
    }

    fn use_pairs(&mut self, data: &[u8]) -> bool {
        let &[low, high] = data else { return false };
        let pairs = u16::from_le_bytes([low, high]);
        let good = (1..=self.most_pairs).contains(&pairs);
        if good {
            self.pairs = pairs;
        }
        good
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// A table of addresses at the start of `data`, and what follows it.
fn table(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = data.split_first_chunk::<4>()?;
    let bytes = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
    rest.split_at_checked(bytes)
}

/// What [`serve`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The next position to look at.
    pub next: u16,
    /// Commands answered.
    pub commands: usize,
    /// There are more.
    pub more: bool,
    /// The ring makes no sense or its memory is gone.
    pub broken: bool,
}

/// Carries out what waits in `queue` from position `next` on, some commands at a time, and asks for a kick for what
/// follows.
pub fn serve(queue: &Virtqueue, table: &MemTable, next: u16, wishes: &mut Wishes) -> Served {
    match queue {
        Virtqueue::Split(ring) => serve_ring(ring, table, next, wishes, false, split_chain),
        Virtqueue::Packed(ring) => serve_ring(ring, table, next, wishes, true, packed_chain),
    }
}

/// The descriptors of a chain, and what the driver knows it by.
struct Chain {
    id: u16,
    /// Positions it takes.
    slots: u16,
    /// `None` when it makes no sense.
    descriptors: Option<Descriptors>,
}

type Descriptors = ArrayVec<VirtqDesc, MAX_CHAIN>;

fn serve_ring<R: Virtq>(
    ring: &R,
    table: &MemTable,
    next: u16,
    wishes: &mut Wishes,
    packed: bool,
    chain: impl Fn(&R, u16) -> Result<Chain, Broken>,
) -> Served {
    let event_idx = wishes.features & features::EVENT_IDX != 0;
    let mut served = Served { next, ..Served::default() };
    while served.commands < BATCH && !ring.faulted() {
        if ring.is_empty(served.next) {
            ring.ask_for_kick(event_idx, served.next);
            // The wish is visible before the ring is looked at again.
            fence(Ordering::SeqCst);
            if ring.is_empty(served.next) {
                return served;
            }
        }
        let Ok(chain) = chain(ring, served.next) else { break };
        let written = chain.descriptors.and_then(|chain| one(table, &chain, packed, wishes)).unwrap_or(0);
        let at = served.next;
        ring.note(at, chain.slots, chain.id, written, at);
        ring.put_used(at, chain.id, written);
        served.next = at.wrapping_add(chain.slots);
        ring.publish(served.next);
        ring.forget(at, served.next);
        served.commands += 1;
    }
    served.more = served.commands >= BATCH;
    served.broken = !served.more;
    served
}

/// Carries out the command of a chain; returns the bytes written, which are its answer, or `None` where there is no room
/// for one.
fn one(table: &MemTable, chain: &Descriptors, packed: bool, wishes: &mut Wishes) -> Option<u32> {
    let chain = expand(table, chain, packed)?;
    let (command, answer) = read(table, &chain)?;
    // Read whole before anything of it is used.
    let ok = command.is_some_and(|bytes| wishes.command(&bytes));
    answer?.write_at(0, &[u8::from(!ok)]).then_some(1)
}

/// The bytes of a chain (`None` when they are too many or in the wrong place) and where its answer goes; `None` for one
/// that is not in memory.
fn read<'m>(table: &'m MemTable, chain: &Descriptors) -> Option<(Option<Vec<u8>>, Option<Slice<'m>>)> {
    let (mut bytes, mut answer, mut hint) = (Some(Vec::new()), None, SpanHint::default());
    for desc in chain {
        if desc.flags & WRITE != 0 {
            if desc.len > 0 && answer.is_none() {
                answer = Some(table.prefix(&mut hint, desc.addr, desc.len)?);
            }
            continue;
        }
        // What is to be read comes before what is to be written (2.7.4.2).
        let kept = bytes.take().filter(|b: &Vec<u8>| answer.is_none() && b.len() + desc.len as usize <= MAX_COMMAND);
        let Some(mut kept) = kept else { continue };
        let (mut addr, mut len) = (desc.addr, desc.len);
        while len > 0 {
            let piece = table.prefix(&mut hint, addr, len)?;
            let start = kept.len();
            kept.resize(start + piece.len(), 0);
            piece.read_at(0, kept.get_mut(start..)?).then_some(())?;
            len -= piece.len() as u32;
            addr = addr.checked_add(piece.len() as u64)?;
        }
        bytes = Some(kept);
    }
    Some((bytes, answer))
}

/// The chain at `at` of a split ring.
fn split_chain(ring: &SplitRing, at: u16) -> Result<Chain, Broken> {
    let mut id = [0];
    if ring.singles(at, &mut at.clone(), &mut id)? == 0 {
        return Err(Broken);
    }
    let [id] = id;
    let (mut descriptors, mut next) = (Descriptors::new(), id);
    loop {
        let Some(desc) = ring.desc(next) else { return Ok(Chain { id, slots: 1, descriptors: None }) };
        let last = desc.flags & NEXT == 0;
        next = desc.next;
        if descriptors.try_push(desc).is_err() {
            return Ok(Chain { id, slots: 1, descriptors: None });
        }
        if last {
            return Ok(Chain { id, slots: 1, descriptors: Some(descriptors) });
        }
    }
}

/// The chain at `at` of a packed ring, whose last descriptor has its identifier.
fn packed_chain(ring: &PackedRing, at: u16) -> Result<Chain, Broken> {
    let (mut descriptors, mut good) = (Descriptors::new(), true);
    for slots in 1..=PackedRing::size(ring) {
        let desc = first(ring, at.wrapping_add(slots - 1)).ok_or(Broken)?;
        let (id, last) = (desc.next, desc.flags & NEXT == 0);
        good &= descriptors.try_push(desc).is_ok();
        if last {
            return Ok(Chain { id, slots, descriptors: good.then_some(descriptors) });
        }
    }
    Err(Broken)
}

/// The chain with an indirect table, which ends it, in the place of the descriptor that stands for it.
fn expand(table: &MemTable, chain: &Descriptors, packed: bool) -> Option<Descriptors> {
    let mut whole = Descriptors::new();
    for desc in chain {
        if desc.flags & INDIRECT == 0 {
            whole.try_push(*desc).ok()?;
            continue;
        }
        if desc.flags & NEXT != 0 {
            return None;
        }
        let place = table.prefix(&mut SpanHint::default(), desc.addr, desc.len)?;
        let entries = (desc.len / 16) as usize;
        (place.len() == desc.len as usize && entries <= MAX_CHAIN).then_some(())?;
        // Drivers lay commands out in order; a table that is linked otherwise is no command.
        for at in 0..entries {
            let mut bytes = [0; 16];
            place.read_at(at * 16, &mut bytes).then_some(())?;
            let inner = VirtqDesc::from_bytes(bytes, packed);
            // In a packed ring's table only the direction counts (2.8.7).
            (packed || inner.flags & INDIRECT == 0).then_some(())?;
            whole.try_push(inner).ok()?;
        }
    }
    Some(whole)
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
