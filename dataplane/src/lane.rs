//! The common frame, decided in one go: a guest's, unicast, to a guest of this switch that takes it.
//!
//! What holds for every frame of a burst is looked at once, when the lane opens. What is left to ask of a frame, it
//! answers as [`crate::admit`] and [`crate::resolve`] do, which every other frame is for: `None` is always a right answer.

use wire::Tag;

use crate::frame::Key;
use crate::look::Look;
use crate::resolve::{owner_takes, passes_on};
use crate::snapshot::{Address, PortEntry, Role, Snapshot, VnicRole};
use crate::{Frame, PortId};

/// Where a frame goes, and the tag it is to have there.
pub(crate) type Place = (PortId, Option<Tag>);

/// Of one burst of one vNIC.
pub(crate) struct Lane<'s> {
    snapshot: &'s Snapshot,
    from: &'s PortEntry,
    vnic: &'s VnicRole,
    /// The port's own address, as a number.
    mac: u64,
    /// The tag that frames came with last, as they have it, and the domain it admits them to.
    tag: u32,
    domain: Tag,
    /// The port that takes frames of that domain for somebody behind it, and how: the one asked for last.
    behind: Option<Place>,
}

/// No frame has such a tag.
const NO_TAG: u32 = u32::MAX;

impl<'s> Lane<'s> {
    /// For what `from` sends now; `None` where no frame is common.
    #[inline]
    pub(crate) fn open(snapshot: &'s Snapshot, from: &'s PortEntry) -> Option<Lane<'s>> {
        match &from.role {
            Role::Vnic(vnic) if from.state.link_up() && !snapshot.has_taps() => {
                let mac = vnic.policy.mac.as_u64();
                Some(Lane { snapshot, from, vnic, mac, tag: NO_TAG, domain: Tag(0), behind: None })
            }
            _ => None,
        }
    }

    /// Where `frame` goes, when it is a common one whose sender need not be learnt anew.
    #[inline(always)]
    pub(crate) fn place(&mut self, frame: &Frame, look: Option<Look<'_>>) -> Option<Place> {
        let key = frame.key();
        if key.is_group() || !frame.is_plain() || frame.len() > self.snapshot.max_frame() {
            return None;
        }
        if key.tag != self.tag {
            self.retag(frame)?;
        }
        if key.src() != self.mac && !self.may_say(look) {
            return None;
        }
        self.destination(frame, &key, look)
    }

    /// Whether the port may send from an address that is not its own: what it learnt lately, or anything where it
    /// learns nothing.
    #[inline(always)]
    fn may_say(&self, look: Option<Look<'_>>) -> bool {
        let security = &self.vnic.policy.security;
        security.forged_transmits && (!security.learning || look.is_none_or(|look| look.knows_source(self.from.id)))
    }

    #[inline(always)]
    fn destination(&mut self, frame: &Frame, key: &Key, look: Option<Look<'_>>) -> Option<Place> {
        if let Some(to) = self.snapshot.lookup(Address::from_number(self.domain.vid(), key.dst())) {
            let tag = owner_takes(to, to.vnic()?, frame.dst(), self.domain).ok()?;
            return (to.id != self.from.id).then_some((to.id, tag));
        }
        let id = look?.destination()?;
        match self.behind {
            Some(place) if place.0 == id => Some(place),
            _ => self.ask(id),
        }
    }

    /// Whether port `id` takes frames for somebody behind it.
    #[inline(never)]
    fn ask(&mut self, id: PortId) -> Option<Place> {
        let to = self.snapshot.port(id).filter(|to| to.id != self.from.id)?;
        self.behind = Some((id, passes_on(to, to.vnic()?, self.domain).ok()?));
        self.behind
    }

    /// A frame with another tag than the one before. Beneath a priority tag another may be hidden: not for the lane.
    #[inline(never)]
    fn retag(&mut self, frame: &Frame) -> Option<()> {
        let tag = frame.tag();
        if tag.is_some_and(|tag| tag.vid() == 0) {
            return None;
        }
        self.domain = self.vnic.policy.admit(tag).ok()?;
        (self.tag, self.behind) = (frame.key().tag, None);
        Some(())
    }
}
