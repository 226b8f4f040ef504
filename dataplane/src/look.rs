//! What the table of learnt addresses is asked for, worked out for a burst before any of it is needed.
//!
//! A large table lies in memory far away. Its lines are asked for, for all frames of a burst, before the first is
//! looked at, so they come at the same time and not one after the other.

use arrayvec::ArrayVec;
use wire::Tag;

use crate::snapshot::{Address, PortEntry, Role, Snapshot};
use crate::{BURST, Frame, Learned, PortId, Probe, Seconds};

/// Where a frame's addresses are learnt, if they are.
#[derive(Clone, Copy)]
struct Probes {
    src: Probe,
    dst: Probe,
}

/// What a frame asks of the table.
#[derive(Clone, Copy)]
pub(crate) struct Look<'s> {
    learned: &'s Learned,
    now: Seconds,
    probes: &'s Probes,
}

impl Look<'_> {
    /// The port its destination was learnt at.
    #[inline]
    pub(crate) fn destination(&self) -> Option<PortId> {
        self.learned.lookup(&self.probes.dst, self.now)
    }

    /// The port its source was learnt at.
    #[inline]
    pub(crate) fn source(&self) -> Option<PortId> {
        self.learned.lookup(&self.probes.src, self.now)
    }

    /// True when the source is known behind `port`, and there is nothing to note.
    #[inline]
    pub(crate) fn knows_source(&self, port: PortId) -> bool {
        self.learned.knows(&self.probes.src, port, self.now)
    }

    /// Takes note of the source, behind `port`. `assigned` tells whether it is some port's own, which is not to be had.
    #[inline]
    pub(crate) fn learn(&self, port: PortId, assigned: impl FnOnce() -> bool) {
        // What is known already was not assigned when it was learnt; if it is now, it is not looked for here.
        if !self.knows_source(port) && !assigned() {
            self.learned.learn(&self.probes.src, port, self.now);
        }
    }
}

/// The looks of a burst's frames from one on.
pub(crate) struct Looks<'s> {
    learned: Option<&'s Learned>,
    from: &'s PortEntry,
    now: Seconds,
    /// The frame the first of them belongs to.
    first: usize,
    ahead: ArrayVec<Probes, BURST>,
    /// The tag asked for last, as frames have it, and the VLAN it stands for.
    tag: u32,
    vid: u16,
}

/// No frame has such a tag.
const NO_TAG: u32 = u32::MAX;

impl<'s> Looks<'s> {
    #[inline]
    pub(crate) fn new(snapshot: &'s Snapshot, from: &'s PortEntry, now: Seconds) -> Looks<'s> {
        Looks { learned: snapshot.learned(), from, now, first: 0, ahead: ArrayVec::new(), tag: NO_TAG, vid: 0 }
    }

    /// The look for frame `index`; `None` where nothing is learnt. The first asked for is worked out alone: often all
    /// others are alike.
    #[inline]
    pub(crate) fn at(&mut self, index: usize, frames: &[Frame]) -> Option<Look<'_>> {
        let learned = self.learned?;
        if index - self.first >= self.ahead.len() {
            self.look_ahead(learned, index, frames);
        }
        let probes = self.ahead.get(index - self.first)?;
        Some(Look { learned, now: self.now, probes })
    }

    /// Works out the first frame's, or all of those from `index` on.
    #[inline(never)]
    fn look_ahead(&mut self, learned: &Learned, index: usize, frames: &[Frame]) {
        self.first = index;
        self.ahead.clear();
        let upto = if index == 0 { 1 } else { frames.len() };
        for frame in frames.get(index..upto).unwrap_or(&[]) {
            let key = frame.key();
            if key.tag != self.tag {
                (self.tag, self.vid) = (key.tag, vid(self.from, frame.tag()));
            }
            let probe = |mac| learned.probe(Address::from_number(self.vid, mac));
            let probes = Probes { src: probe(key.src()), dst: probe(key.dst()) };
            learned.prefetch(&probes.dst);
            learned.prefetch(&probes.src);
            // Cannot fail: a burst has no more frames.
            let _ = self.ahead.try_push(probes);
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
