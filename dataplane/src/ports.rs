//! What a port is to the switch: a queue to poll, a place to deliver to, and some state.

use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use wire::{Mac, Tag};

use crate::{BURST, Burst, Tally};

/// A port's number, its index in the snapshot; stable while the port exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Takes what a port harvested. The frames' memory is the sender's again when `forward` returns.
pub trait Sink {
    /// Forwards every frame of the burst and accounts for it.
    fn forward(&mut self, burst: &Burst<'_>);

    /// A burst will be forwarded as soon as it has been read: what is likely to be needed for that can be asked for.
    #[inline]
    fn soon(&self) {}
}

/// One queue of a port, towards the switch. Owned by one worker at a time.
pub trait Ingress: Send {
    /// Looks at the ring once: harvests at most one burst, passes it to `sink`, and then releases the
    /// descriptors to the sender and notifies it if it asked for that. Also does the queue's
    /// housekeeping that no message announces (an interrupt mask that was lifted). Returns the
    /// number of frames taken, 0 when there was nothing to do.
    fn poll(&mut self, sink: &mut dyn Sink) -> usize;

    /// Asked before its worker goes to sleep: how would it learn of the queue's next frame? A queue whose peer can
    /// signal asks it to, and then looks at the ring once more, for a frame that came before the peer knew.
    ///
    /// The default suits a queue whose peer gives no signal.
    fn arm(&mut self) -> Arm {
        Arm::Cannot
    }

    /// The worker is awake: the peer need not signal while the queue is polled.
    fn disarm(&mut self) {}
}

/// How a sleeping worker would learn of a queue's next frame.
#[derive(Clone, Debug)]
pub enum Arm {
    /// Not at all: its peer writes to memory and tells nobody. The worker has to look from time to time.
    Cannot,
    /// There is work now.
    Busy,
    /// Nothing can come before the control thread has changed something, and it calls [`crate::Grace::wake`] then.
    Quiet,
    /// This descriptor becomes readable: an eventfd, a packet socket, a tap. Reading it is the queue's business, in
    /// [`Ingress::disarm`] or [`Ingress::poll`].
    Kick(Arc<OwnedFd>),
}

/// One frame of a burst on its way to one port: its index, and the tag the receiver is to see, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Delivery(u32);

impl Delivery {
    /// Set beside a tag.
    const TAGGED: u32 = 1 << 8;
    /// A burst's frames in order, untagged.
    const IN_ORDER: [Delivery; BURST] = {
        let mut all = [Delivery(0); BURST];
        let mut n = 0;
        while n < BURST {
            all[n] = Delivery(n as u32);
            n += 1;
        }
        all
    };

    /// The frame of index `frame`, seen with `tag`.
    #[inline(always)]
    pub const fn new(frame: u8, tag: Option<Tag>) -> Delivery {
        match tag {
            Some(tag) => Delivery((tag.0 as u32) << 16 | Delivery::TAGGED | frame as u32),
            None => Delivery(frame as u32),
        }
    }

    /// Index into the burst's frames.
    #[inline(always)]
    pub const fn index(self) -> usize {
        (self.0 & 0xff) as usize
    }

    /// The tag the receiver is to see.
    #[inline(always)]
    pub const fn tag(self) -> Option<Tag> {
        if self.0 & Delivery::TAGGED != 0 { Some(Tag((self.0 >> 16) as u16)) } else { None }
    }

    /// The same frame, seen with `tag`.
    #[inline(always)]
    pub(crate) const fn with(self, tag: Option<Tag>) -> Delivery {
        Delivery::new(self.0 as u8, tag)
    }

    /// Frames `frames`, one after the other, untagged.
    #[inline(always)]
    pub(crate) fn in_order(frames: Range<usize>) -> &'static [Delivery] {
        Delivery::IN_ORDER.get(frames).unwrap_or(&[])
    }

    /// The indices of the frames of `list`, when these follow one another and none has a tag.
    #[inline(always)]
    pub(crate) fn run(list: &[Delivery]) -> Option<Range<usize>> {
        let first = list.first()?.index();
        let range = first..first + list.len();
        let run = Delivery::in_order(range.clone());
        // All are compared, without a branch for each.
        let differ = list.iter().zip(run).fold(0, |differ, (a, b)| differ | (a.0 ^ b.0));
        (run.len() == list.len() && differ == 0).then_some(range)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("index", &self.index()).field("tag", &self.tag()).finish()
    }
}

/// A port as a destination. Any worker may call it at any time.
pub trait Egress: Send + Sync {
    /// Copies each listed frame into the port and notifies its peer at most once. Every listed frame
    /// is told to `tally`: as delivered, with the bytes written, or as dropped with a reason.
    /// Frames of one call keep their order.
    ///
    /// An implementation takes its lock only to reserve slots, copies without it, publishes, and
    /// makes no system call under it. It must not touch guest memory after a [`crate::Grace`] period that
    /// began when the port was taken out of use.
    fn deliver(&self, burst: &Burst<'_>, list: &[Delivery], tally: &mut Tally);
}

/// Which group addresses a guest asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// These addresses (vmxnet3).
    List(Vec<Mac>),
    /// Those whose CRC-32 has its top six bits at a set bit (PCnet's logical address filter).
    Hash(u64),
}

/// What a guest's card was told to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxFilter {
    /// The address the guest programmed; `None` while it has programmed none.
    pub mac: Option<Mac>,
    /// Frames to its own address.
    pub unicast: bool,
    /// Frames to ff:ff:ff:ff:ff:ff.
    pub broadcast: bool,
    /// Every group frame.
    pub all_multicast: bool,
    /// Every frame, if the port group's policy allows it.
    pub promiscuous: bool,
    /// Group addresses.
    pub multicast: Multicast,
    /// When set, tagged frames only of these VLANs (a bit per VLAN identifier).
    pub vlans: Option<Box<[u64; 64]>>,
}

impl RxFilter {
    /// A filter that takes nothing: a card before its driver starts it.
    pub fn closed() -> RxFilter {
        RxFilter {
            mac: None,
            unicast: false,
            broadcast: false,
            all_multicast: false,
            promiscuous: false,
            multicast: Multicast::List(Vec::new()),
            vlans: None,
        }
    }

    /// True when the filter lets a frame to group address `dst` in.
    pub fn wants_group(&self, dst: Mac) -> bool {
        if dst.is_broadcast() {
            return self.broadcast;
        }
        self.all_multicast
            || match &self.multicast {
                Multicast::List(list) => list.contains(&dst),
                Multicast::Hash(bits) => bits >> ladrf_bit(dst) & 1 == 1,
            }
    }

    /// True when a frame the guest would see with `tag` passes the VLAN filter.
    pub fn wants_tag(&self, tag: Option<Tag>) -> bool {
        match (&self.vlans, tag) {
            (Some(bits), Some(tag)) => bits[usize::from(tag.vid() >> 6)] >> (tag.vid() & 63) & 1 == 1,
            _ => true,
        }
    }
}

/// The bit of PCnet's 64-bit logical address filter for `mac`: the top six bits of its CRC-32
/// (Am79C970A data sheet, "Logical Address Filter"; Ethernet's polynomial, least significant bit first).
pub fn ladrf_bit(mac: Mac) -> u32 {
    let mut crc = u32::MAX;
    for byte in mac.0 {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    crc >> 26
}

/// What the device model knows and the stages must: written by the control thread, read by workers.
#[derive(Debug)]
pub struct PortState {
    connected: AtomicBool,
    link_up: AtomicBool,
    filter: ArcSwap<RxFilter>,
    /// The parts of the filter that unicast frames need, in one word: see [`PortState::unicast`].
    unicast: AtomicU64,
}

const UNICAST_ON: u64 = 1 << 48;
const UNICAST_HAS_MAC: u64 = 1 << 49;
const UNICAST_PROMISCUOUS: u64 = 1 << 50;
const UNICAST_SOME_VLANS: u64 = 1 << 51;

/// What a port's filter says of unicast frames; one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnicastFilter(u64);

impl UnicastFilter {
    /// True while the guest's driver takes frames to its address.
    #[inline]
    pub fn on(self) -> bool {
        self.0 & UNICAST_ON != 0
    }

    /// True while the guest's driver has started the card with an address.
    #[inline]
    pub fn started(self) -> bool {
        self.0 & UNICAST_HAS_MAC != 0
    }

    /// True while the guest asks for every frame.
    #[inline]
    pub fn promiscuous(self) -> bool {
        self.0 & UNICAST_PROMISCUOUS != 0
    }

    /// True while the guest asks for frames of some VLANs only: [`RxFilter::wants_tag`] says which.
    #[inline]
    pub fn some_vlans(self) -> bool {
        self.0 & UNICAST_SOME_VLANS != 0
    }

    /// True when the address the guest programmed is `mac`.
    #[inline]
    pub fn is_mac(self, mac: Mac) -> bool {
        self.started() && self.0 & 0xffff_ffff_ffff == mac.as_u64()
    }
}

impl Default for PortState {
    fn default() -> Self {
        PortState::new()
    }
}

impl PortState {
    /// Not connected, link up, nothing received.
    pub fn new() -> PortState {
        PortState {
            connected: AtomicBool::new(false),
            link_up: AtomicBool::new(true),
            filter: ArcSwap::from_pointee(RxFilter::closed()),
            unicast: AtomicU64::new(0),
        }
    }

    /// True while a VMM is on the port's socket (a vNIC) or the interface exists (an uplink).
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Says whether a peer is there.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }

    /// True while the port's link is up: what the guest is told, or what the interface reports.
    pub fn link_up(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    /// Sets the link's state.
    pub fn set_link_up(&self, up: bool) {
        self.link_up.store(up, Ordering::Release);
    }

    /// The receive filter in force.
    #[inline]
    pub fn filter(&self) -> arc_swap::Guard<Arc<RxFilter>> {
        self.filter.load()
    }

    /// Replaces the receive filter.
    pub fn set_filter(&self, filter: RxFilter) {
        let mut word = filter.mac.map_or(0, |mac| mac.as_u64() | UNICAST_HAS_MAC);
        let flags = [
            (filter.unicast, UNICAST_ON),
            (filter.promiscuous, UNICAST_PROMISCUOUS),
            (filter.vlans.is_some(), UNICAST_SOME_VLANS),
        ];
        for (flag, bit) in flags {
            word |= if flag { bit } else { 0 };
        }
        self.filter.store(Arc::new(filter));
        self.unicast.store(word, Ordering::Release);
    }

    /// What the filter says of unicast frames.
    #[inline]
    pub fn unicast(&self) -> UnicastFilter {
        UnicastFilter(self.unicast.load(Ordering::Acquire))
    }
}

/// Where an ingress queue waits for the worker that is to poll it, and where it is put back when
/// another is to take over.
pub struct IngressSlot(Mutex<Option<Box<dyn Ingress>>>);

impl IngressSlot {
    /// A slot with the queue in it.
    pub fn new(queue: Box<dyn Ingress>) -> IngressSlot {
        IngressSlot(Mutex::new(Some(queue)))
    }

    /// Takes the queue, if nobody has it.
    pub fn take(&self) -> Option<Box<dyn Ingress>> {
        self.0.lock().ok()?.take()
    }

    /// Puts the queue back for the next owner.
    pub fn put_back(&self, queue: Box<dyn Ingress>) {
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_address_filter_bits() {
        // The data sheet's rule applied by hand to well-known addresses; Linux's ether_crc_le >> 26 gives the same.
        assert_eq!(
            ladrf_bit(Mac([0x01, 0x00, 0x5e, 0x00, 0x00, 0x01])),
            crc_reference(&[0x01, 0x00, 0x5e, 0x00, 0x00, 0x01]) >> 26
        );
        let filter =
            RxFilter { multicast: Multicast::Hash(1 << ladrf_bit(Mac([1, 0, 0x5e, 0, 0, 1]))), ..RxFilter::closed() };
        assert!(filter.wants_group(Mac([1, 0, 0x5e, 0, 0, 1])));
        assert!(!filter.wants_group(Mac([1, 0, 0x5e, 0, 0, 2])));
        assert!(!filter.wants_group(Mac::BROADCAST), "broadcast has its own switch");
    }

    /// CRC-32 by polynomial division over the reflected bits, written apart from the code under test.
    fn crc_reference(data: &[u8]) -> u32 {
        let mut register = u32::MAX;
        for bit in data.iter().flat_map(|b| (0..8).map(move |i| u32::from(b >> i & 1))) {
            let feedback = (register & 1) ^ bit;
            register >>= 1;
            if feedback == 1 {
                register ^= 0xedb8_8320;
            }
        }
        register
    }

    #[test]
    fn vlan_filter_applies_to_tagged_frames_only() {
        let mut bits = Box::new([0u64; 64]);
        bits[1] = 1 << 36;
        let filter = RxFilter { vlans: Some(bits), ..RxFilter::closed() };
        assert!(filter.wants_tag(None) && filter.wants_tag(Some(Tag::new(100, 0))));
        assert!(!filter.wants_tag(Some(Tag::new(101, 0))));
    }

    #[test]
    fn a_run_is_frames_in_order_without_a_tag() {
        let list = |frames: &[u8]| frames.iter().map(|frame| Delivery::new(*frame, None)).collect::<Vec<_>>();
        let all: Vec<u8> = (0..BURST as u8).collect();
        for (first, end) in [(0, BURST), (0, 1), (31, 32), (5, 17)] {
            assert_eq!(Delivery::run(&list(&all[first..end])), Some(first..end));
            assert_eq!(Delivery::in_order(first..end), list(&all[first..end]));
        }
        for not in [&[][..], &[1, 0], &[3, 3], &[0, 1, 2, 4], &[31, 32], &[0, 1, 2, 3, 4, 5, 6, 8, 9]] {
            assert_eq!(Delivery::run(&list(not)), None, "{not:?}");
        }
        for at in 0..BURST {
            let mut tagged = list(&all);
            tagged[at] = tagged[at].with(Some(Tag(0)));
            assert_eq!((tagged[at].index(), tagged[at].tag()), (at, Some(Tag(0))));
            assert_eq!(Delivery::run(&tagged), None, "tag at {at}");
        }
    }
}
