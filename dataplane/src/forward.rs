//! The whole path of one burst, from a port's queue into other ports' rings.
//!
//! Frames of a burst are often of one conversation. What was decided for one, where it was the plain case of a unicast
//! frame for one port, holds for the next of the same addresses and VLAN in the same burst: all that it depended on
//! was looked at a moment before. Such a [`Place`] lives as long as the burst.
//!
//! ```text
//!  frame -- as the one before? --> its list
//!       \-- common? (lane.rs) ---> a list
//!        \-- admit.rs -> learn -> resolve.rs --> any number of lists, or a drop reason
//! ```

use teaming::Choice;
use wire::Tag;

use crate::admit::admit;
use crate::lane::{Lane, Place};
use crate::lists::Lists;
use crate::look::{Look, Looks};
use crate::resolve::resolve;
use crate::snapshot::{Address, PortEntry, Role, Snapshot};
use crate::{Burst, Delivery, DropReason, Frame, PortId, Seconds, Sink};

/// Forwards what one port harvested.
pub(crate) struct Forwarder<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) from: &'a PortEntry,
    pub(crate) worker: usize,
    pub(crate) now: Seconds,
    pub(crate) lists: &'a mut Lists,
    /// The port that was delivered to last, from the same queue.
    pub(crate) last: &'a mut PortId,
}

/// What the burst has come to so far.
#[derive(Default)]
struct Sums {
    bytes: u64,
    forwarded: u64,
    copies: u64,
}

impl Sink for Forwarder<'_> {
    #[inline]
    fn forward(&mut self, burst: &Burst<'_>) {
        let counters = &self.from.counters;
        let mut sums = Sums::default();
        let frames = burst.frames();
        let mut looks = Looks::new(self.snapshot, self.from, self.now);
        let mut lane = Lane::open(self.snapshot, self.from);
        let mut index = 0;
        while let Some(frame) = frames.get(index) {
            sums.bytes += frame.len() as u64;
            let look = looks.at(index, frames);
            let place = match lane.as_mut().and_then(|lane| lane.place(frame, look)) {
                Some((to, tag)) => {
                    self.lists.put(to, Delivery::new(index as u8, tag));
                    sums.forwarded += 1;
                    sums.copies += 1;
                    Some((to, tag))
                }
                None => self.decide(burst, index as u8, frame, look, &mut sums),
            };
            index += 1;
            if let Some((to, tag)) = place
                && frames.get(index).is_some_and(|next| next.key() == frame.key())
            {
                let alike = alike(burst, frame, &frames[index..], self.snapshot.max_frame(), &mut sums);
                self.lists.put_run(to, index..index + alike, tag);
                index += alike;
            }
        }
        for (reason, len) in burst.rejected() {
            sums.bytes += u64::from(*len);
            counters.count_in_drop(self.worker, *reason);
        }
        counters.count_in(self.worker, burst.harvested() as u64, sums.bytes, sums.forwarded, sums.copies);
        self.deliver(burst);
    }

    #[inline]
    fn soon(&self) {
        self.lists.ask_for(*self.last);
    }
}

/// How many of the first of `rest` are decided as `frame` was.
#[inline]
fn alike(burst: &Burst<'_>, frame: &Frame, rest: &[Frame], longest: usize, sums: &mut Sums) -> usize {
    let (key, simple, mut bytes, mut count) = (frame.key(), burst.is_simple(longest), 0, 0);
    let known = burst.alike().filter(|_| simple && rest.len() + 1 == burst.frames().len());
    if let Some(all) = known {
        (bytes, count) = (all - frame.len() as u64, rest.len() as u64);
    }
    for next in rest.get(count as usize..).unwrap_or(&[]) {
        let mut same = next.same_addresses(&key);
        if !simple {
            // What asks for segmentation is measured by its segments, in `decide`.
            same &= next.key().tag == key.tag && next.is_plain() && next.len() <= longest;
        }
        if !same {
            break;
        }
        bytes += next.len() as u64;
        count += 1;
    }
    sums.bytes += bytes;
    sums.forwarded += count;
    sums.copies += count;
    count as usize
}

impl Forwarder<'_> {
    /// Puts the frame on the lists of the ports it is for, or counts why there is none. Returns what may be
    /// remembered of it.
    #[inline(never)]
    fn decide(
        &mut self,
        burst: &Burst<'_>,
        index: u8,
        frame: &Frame,
        look: Option<Look<'_>>,
        sums: &mut Sums,
    ) -> Option<Place> {
        let look = look.as_ref();
        if let (Role::Uplink(_), Some(inbox)) = (&self.from.role, self.snapshot.inbox())
            && inbox.wants(frame)
        {
            inbox.hear(self.from.id, burst, frame);
            self.from.counters.count_in_drop(self.worker, DropReason::Beacon);
            return None;
        }
        let verdict = admit(self.snapshot, self.from, look, frame).and_then(|domain| {
            self.learn(look, domain, frame);
            resolve(self.snapshot, self.from, look, index, frame, domain, self.lists)
        });
        match verdict {
            Ok(resolved) => {
                sums.forwarded += 1;
                sums.copies += u64::from(resolved.copies);
                resolved.alone.filter(|_| self.memorable(frame))
            }
            Err(reason) => {
                self.from.counters.count_in_drop(self.worker, reason);
                None
            }
        }
    }

    /// Takes note of an address behind a port that learns. A port's own address needs no learning, and another's assigned
    /// one is not to be had.
    #[inline]
    fn learn(&self, look: Option<&Look<'_>>, domain: Tag, frame: &Frame) {
        if let (Some(look), Role::Vnic(vnic)) = (look, &self.from.role)
            && vnic.policy.security.learning
            && frame.src() != vnic.policy.mac
        {
            let assigned = || {
                let src = Address::from_number(domain.vid(), frame.key().src());
                self.snapshot.lookup(src).is_some()
            };
            look.learn(self.from.id, assigned);
        }
    }

    /// True when the decision depended on nothing but addresses, type, tag and length. A priority tag may hide another,
    /// and an uplink may be chosen by more than addresses.
    fn memorable(&self, frame: &Frame) -> bool {
        let by_addresses = match &self.from.role {
            Role::Vnic(vnic) => matches!(vnic.placement.send, Choice::One(_) | Choice::None),
            Role::Uplink(_) => true,
        };
        by_addresses && frame.tag().is_none_or(|tag| tag.vid() != 0)
    }

    #[inline]
    fn deliver(&mut self, burst: &Burst<'_>) {
        let (snapshot, worker, last) = (self.snapshot, self.worker, &mut *self.last);
        self.lists.drain(|port, list, tally| {
            let Some(to) = snapshot.port(port) else { return };
            if !list.is_empty() {
                to.egress.deliver(burst, list, tally);
            }
            to.counters.count_out(worker, tally);
            *last = port;
        });
    }
}
