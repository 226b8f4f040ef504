//! Second stage: which ports get this frame? The rules are those of an ESX vSwitch: a static table, no
//! flooding, never from uplink to uplink, never back to the sender.

use teaming::Choice;
use wire::{Mac, Tag};

use crate::lists::Lists;
use crate::look::Look;
use crate::snapshot::{Address, PortEntry, Role, Snapshot, VnicRole};
use crate::{Delivery, DropReason, Frame, PortId};

/// Puts the frame with index `index` on the list of each port that gets it, or says why there is none.
#[inline]
pub(crate) fn resolve(
    snapshot: &Snapshot,
    from: &PortEntry,
    look: Option<&Look<'_>>,
    index: u8,
    frame: &Frame,
    domain: Tag,
    lists: &mut Lists,
) -> Result<Resolved, DropReason> {
    let mut out = Out { from, index, frame, domain, lists, count: 0, last: None };
    let dst = frame.dst();
    let verdict = if dst.is_group() { out.group(snapshot, dst) } else { out.unicast(snapshot, dst, look) };
    if snapshot.has_taps() {
        out.taps(snapshot);
    }
    let alone = out.last.filter(|_| out.count == 1 && !dst.is_group() && !snapshot.has_taps());
    match out.count {
        0 => Err(verdict.err().unwrap_or(DropReason::NoMatch)),
        copies => Ok(Resolved { copies, alone }),
    }
}

/// The tag that the port whose address it is sees on a frame of `domain`, or why its guest does not get it.
#[inline]
pub(crate) fn owner_takes(to: &PortEntry, vnic: &VnicRole, dst: Mac, domain: Tag) -> Result<Option<Tag>, DropReason> {
    let filter = to.state.unicast();
    let all = takes_all(to, vnic);
    let tag = vnic.policy.egress_tag(domain);
    if !filter.started() {
        Err(DropReason::NotConnected)
    } else if !address_stands(to, vnic) {
        Err(DropReason::MacChanged)
    } else if !all && (!filter.on() || !filter.is_mac(dst) || !wants_tag(to, tag)) {
        Err(DropReason::Filtered)
    } else {
        Ok(tag)
    }
}

/// True when the guest wants every frame, and may have it.
#[inline]
fn takes_all(to: &PortEntry, vnic: &VnicRole) -> bool {
    vnic.policy.security.promiscuous && to.state.unicast().promiscuous()
}

/// The same for a frame to somebody behind the port: its card's own address does not matter. A promiscuous guest takes
/// what its VLAN filter does not, here as above: else it would get as a copy for a tap what it had just refused.
#[inline]
pub(crate) fn passes_on(to: &PortEntry, vnic: &VnicRole, domain: Tag) -> Result<Option<Tag>, DropReason> {
    let filter = to.state.unicast();
    let all = takes_all(to, vnic);
    let tag = vnic.policy.egress_tag(domain);
    if !filter.started() {
        Err(DropReason::NotConnected)
    } else if !all && !wants_tag(to, tag) {
        Err(DropReason::Filtered)
    } else {
        Ok(tag)
    }
}

/// True when the guest's VLAN filter, if it has one, takes the tag.
#[inline]
fn wants_tag(to: &PortEntry, tag: Option<Tag>) -> bool {
    tag.is_none() || !to.state.unicast().some_vlans() || to.state.filter().wants_tag(tag)
}

/// What became of a frame.
pub(crate) struct Resolved {
    /// How many ports it was handed to, refusals at the receiving port included.
    pub(crate) copies: u32,
    /// The port, and the tag it is to see, when it was a unicast frame put on that port's list and no other.
    pub(crate) alone: Option<(PortId, Option<Tag>)>,
}

struct Out<'a> {
    from: &'a PortEntry,
    index: u8,
    frame: &'a Frame,
    domain: Tag,
    lists: &'a mut Lists,
    count: u32,
    /// Where it was put last.
    last: Option<(PortId, Option<Tag>)>,
}

impl Out<'_> {
    fn unicast(&mut self, snapshot: &Snapshot, dst: Mac, look: Option<&Look<'_>>) -> Result<(), DropReason> {
        match snapshot.lookup(Address::from_number(self.domain.vid(), self.frame.key().dst())) {
            Some(to) if to.id == self.from.id => Err(DropReason::NoMatch),
            Some(to) if !self.accepted(to) => Err(DropReason::UplinkUnused),
            Some(to) => {
                self.for_owner(to, dst);
                Ok(())
            }
            None => match look {
                None => self.uplink(snapshot),
                Some(look) => self.learnt(snapshot, look.destination()),
            },
        }
    }

    /// To the port behind which the address was learnt; while it is not known where it is, to every port that learns,
    /// and outside.
    fn learnt(&mut self, snapshot: &Snapshot, owner: Option<PortId>) -> Result<(), DropReason> {
        if let Some((to, vnic)) = owner.and_then(|id| snapshot.port(id)).and_then(|to| Some((to, to.vnic()?))) {
            return match to.id == self.from.id {
                true => Err(DropReason::NoMatch),
                false if !self.accepted(to) => Err(DropReason::UplinkUnused),
                false => {
                    self.behind(to, vnic);
                    Ok(())
                }
            };
        }
        let before = self.count;
        for (to, vnic) in snapshot.learners(self.domain.vid()) {
            if to.id != self.from.id && self.accepted(to) {
                self.behind(to, vnic);
            }
        }
        match self.uplink(snapshot) {
            Err(_) if self.count > before => Ok(()),
            outcome => outcome,
        }
    }

    /// To a port for somebody behind it.
    fn behind(&mut self, to: &PortEntry, vnic: &VnicRole) {
        match passes_on(to, vnic, self.domain) {
            Ok(tag) => self.put(to, tag),
            Err(reason) => self.refuse(to, reason),
        }
    }

    /// To the port that has the address, unless its guest does not take it: that is the receiving
    /// port's drop.
    #[inline]
    fn for_owner(&mut self, to: &PortEntry, dst: Mac) {
        let Some(vnic) = to.vnic() else { return };
        match owner_takes(to, vnic, dst, self.domain) {
            Ok(tag) => self.put(to, tag),
            Err(reason) => self.refuse(to, reason),
        }
    }

    fn group(&mut self, snapshot: &Snapshot, dst: Mac) -> Result<(), DropReason> {
        let mut reason = DropReason::NoMatch;
        for (to, vnic) in snapshot.members(self.domain.vid()) {
            if to.id == self.from.id {
                continue;
            }
            let tag = vnic.policy.egress_tag(self.domain);
            let filter = to.state.filter();
            if !filter.wants_group(dst) || !filter.wants_tag(tag) || !address_stands(to, vnic) {
                continue;
            }
            if !self.designated(vnic) {
                reason = DropReason::NotDesignated;
                continue;
            }
            self.put(to, tag);
        }
        match self.uplink(snapshot) {
            Err(DropReason::NoMatch) => Err(reason),
            other => other,
        }
    }

    /// Group frames come in once per uplink; a port takes the copy of the uplink it sends by.
    fn designated(&self, vnic: &VnicRole) -> bool {
        match self.from.role {
            Role::Uplink(_) => vnic.placement.receive.group.contains(&self.from.id.0),
            Role::Vnic(_) => true,
        }
    }

    /// Unicast frames may come in by every uplink that the port's team has in use.
    #[inline]
    fn accepted(&self, to: &PortEntry) -> bool {
        match (&self.from.role, to.vnic()) {
            (Role::Uplink(_), Some(vnic)) => vnic.placement.receive.unicast.contains(&self.from.id.0),
            _ => true,
        }
    }

    /// A guest's frame for outside leaves by its port's uplink; one that came in by an uplink never
    /// leaves by another.
    fn uplink(&mut self, snapshot: &Snapshot) -> Result<(), DropReason> {
        let Role::Vnic(vnic) = &self.from.role else { return Err(DropReason::NoMatch) };
        let tag = (self.domain.vid() != 0).then_some(self.domain);
        let before = self.count;
        match &vnic.placement.send {
            Choice::All(uplinks) => {
                uplinks.iter().filter_map(|id| snapshot.port(PortId(*id))).for_each(|u| self.put(u, tag));
            }
            one => {
                let uplink = one.pick(self.frame.head());
                uplink.and_then(|id| snapshot.port(PortId(id))).into_iter().for_each(|u| self.put(u, tag));
            }
        }
        match self.count > before {
            true => Ok(()),
            false if vnic.has_uplinks => Err(DropReason::NoUplink),
            false => Err(DropReason::NoMatch),
        }
    }

    /// Copies for promiscuous ports that did not get the frame by its address. A port that gets nothing at
    /// all, because its guest changed its address or has not started its card, gets no copies either.
    fn taps(&mut self, snapshot: &Snapshot) {
        for (to, vnic) in snapshot.taps(self.domain.vid()) {
            let open = to.state.unicast().started() && address_stands(to, vnic);
            if open && to.id != self.from.id && self.designated(vnic) && !self.lists.has(to.id, self.index) {
                self.put(to, vnic.policy.egress_tag(self.domain));
            }
        }
    }

    #[inline]
    fn put(&mut self, to: &PortEntry, tag: Option<Tag>) {
        self.lists.put(to.id, Delivery::new(self.index, tag));
        self.last = Some((to.id, tag));
        self.count += 1;
    }

    fn refuse(&mut self, to: &PortEntry, reason: DropReason) {
        self.last = None;
        self.lists.refuse(to.id, reason);
        self.count += 1;
    }
}

/// False when the guest changed its address and the policy rejects that.
fn address_stands(to: &PortEntry, vnic: &VnicRole) -> bool {
    vnic.policy.security.mac_changes || to.state.unicast().is_mac(vnic.policy.mac)
}
