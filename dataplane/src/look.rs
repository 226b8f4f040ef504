//! What the table of learnt addresses is asked for, worked out for a burst before any of it is needed.
//!
//! A large table lies in memory far away. Its lines are asked for, for all frames of a burst, before the first is
//! looked at, so they come at the same time and not one after the other.

use arrayvec::ArrayVec;
use wire::Tag;

use crate::frame::Key;
use crate::snapshot::{Address, PortEntry, Role, Snapshot};
use crate::{BURST, Frame, Learned, PortId, Probe, Seconds};

/// Where a frame's addresses are learnt.
#[derive(Clone, Copy)]
pub(crate) struct Look<'s> {
    learned: &'s Learned,
    now: Seconds,
    src: Probe,
    dst: Probe,
}

impl<'s> Look<'s> {
    fn new(learned: &'s Learned, now: Seconds, from: &PortEntry, frame: &Frame) -> Look<'s> {
        let (vid, key) = (vid(from, frame.tag()), frame.key());
        let probe = |mac| learned.probe(Address::from_number(vid, mac));
        Look { learned, now, src: probe(Key::src(&key)), dst: probe(Key::dst(&key)) }
    }

    /// The port its destination was learnt at.
    #[inline]
    pub(crate) fn destination(&self) -> Option<PortId> {
        self.learned.lookup(&self.dst, self.now)
    }

    /// The port its source was learnt at.
    #[inline]
    pub(crate) fn source(&self) -> Option<PortId> {
        self.learned.lookup(&self.src, self.now)
    }

    /// Takes note of the source, behind `port`. `assigned` tells whether it is some port's own, which is not to be had.
    #[inline]
    pub(crate) fn learn(&self, port: PortId, assigned: impl FnOnce() -> bool) {
        // What is known already was not assigned when it was learnt; if it is now, it is not looked for here.
        if !self.learned.knows(&self.src, port, self.now) && !assigned() {
            self.learned.learn(&self.src, port, self.now);
        }
    }
}

/// The VLAN a frame will be admitted to, if it is.
#[inline]
fn vid(from: &PortEntry, tag: Option<Tag>) -> u16 {
    let domain = match &from.role {
        Role::Vnic(vnic) => vnic.policy.admit(tag).ok(),
        Role::Uplink(_) => tag,
    };
    domain.map_or(0, |tag| tag.vid())
}

/// The looks of a burst's frames from one on.
pub(crate) struct Looks<'s> {
    learned: Option<&'s Learned>,
    from: &'s PortEntry,
    now: Seconds,
    /// The frame the first of them belongs to.
    first: usize,
    ahead: ArrayVec<Look<'s>, BURST>,
    one: Option<Look<'s>>,
}

impl<'s> Looks<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot, from: &'s PortEntry, now: Seconds) -> Looks<'s> {
        Looks { learned: snapshot.learned(), from, now, first: BURST, ahead: ArrayVec::new(), one: None }
    }

    /// The look for frame `index`; `None` where nothing is learnt. The first asked for is worked out alone: often all
    /// others are alike.
    #[inline]
    pub(crate) fn at(&mut self, index: usize, frames: &[Frame]) -> Option<&Look<'s>> {
        let learned = self.learned?;
        if index >= self.first {
            return self.ahead.get(index - self.first);
        }
        if index == 0 {
            self.one = Some(Look::new(learned, self.now, self.from, frames.first()?));
            return self.one.as_ref();
        }
        self.first = index;
        for frame in frames.get(index..)? {
            let look = Look::new(learned, self.now, self.from, frame);
            learned.prefetch(&look.dst);
            learned.prefetch(&look.src);
            // Cannot fail: a burst has no more frames.
            let _ = self.ahead.try_push(look);
        }
        self.ahead.first()
    }
}
