//! The forwarding rules once more, told port by port instead of by tables and lists: "what does port P get
//! of this frame?" The slow and plain answer that the properties hold the data path to.

use dataplane::DropReason;
use portgroups::VlanMode;
use wire::{Mac, Tag};

use crate::frames::{Ends, Kind, Shape};
use crate::learnt::Learnt;
use crate::spec::{SendBy, SwitchSpec, VnicSpec};

/// What becomes of a frame at one port that it was handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets it, and sees this tag.
    Gets(Option<Tag>),
    /// It was for it, and it refuses.
    Refuses(DropReason),
}

/// Who has an address, as far as the switch knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is the port's own.
    Own(usize),
    /// The port was heard to send from it.
    Behind(usize),
    /// Nobody: it may be outside, or behind any port that learns.
    Unknown,
}

/// Ports by index: the vNICs, then the uplinks.
pub struct Model<'s> {
    spec: &'s SwitchSpec,
    /// What the ports that learn have taught so far.
    pub learnt: Learnt,
}

impl<'s> Model<'s> {
    pub fn new(spec: &'s SwitchSpec) -> Model<'s> {
        Model { spec, learnt: Learnt::default() }
    }

    fn vnic(&self, port: usize) -> Option<&'s VnicSpec> {
        self.spec.vnics.get(port)
    }

    fn ports(&self) -> usize {
        self.spec.vnics.len() + self.spec.uplinks.len()
    }

    fn is(&self, port: usize, name: &str) -> bool {
        port >= self.spec.vnics.len() && self.spec.uplinks[port - self.spec.vnics.len()].name == name
    }

    fn is_one_of(&self, port: usize, names: &[String]) -> bool {
        names.iter().any(|name| self.is(port, name))
    }

    /// True when the vNIC sends `frame`, which is for outside, by `port` (too).
    fn sends_by(&self, vnic: &VnicSpec, port: usize, frame: &Shape) -> bool {
        match &vnic.send {
            SendBy::None => false,
            SendBy::One(name) => self.is(port, name),
            SendBy::MacHash(order) => self.is(port, &order[usize::from(frame.src.0[5]) % order.len()]),
            SendBy::IpHash(order) => self.is(port, &order[ip_bucket(frame) % order.len()]),
            SendBy::All(names) => self.is_one_of(port, names),
        }
    }

    /// True when a unicast frame that came in by `from` is for the vNIC.
    fn takes_unicast_from(&self, vnic: &VnicSpec, from: usize) -> bool {
        match &vnic.unicast_from {
            Some(names) if self.vnic(from).is_none() => self.is_one_of(from, names),
            _ => true,
        }
    }

    /// True when the frame is for the switch itself.
    pub fn is_beacon(&self, from: usize, frame: &Shape) -> bool {
        // Under a second tag the EtherType is not the frame's own.
        let ethertype = match frame.kind {
            Kind::Plain(ethertype) if frame.inner.is_none() => Some(ethertype),
            _ => None,
        };
        self.vnic(from).is_none() && ethertype.is_some() && ethertype == self.spec.beacon
    }

    /// What every port gets of `frame`, sent in by `from`; or why the frame is dropped there. What it teaches, those
    /// after it know.
    pub fn forward(&mut self, from: usize, frame: &Shape) -> Result<Vec<(usize, Fate)>, DropReason> {
        let domain = self.admit(from, frame)?;
        self.learn(from, frame.src, domain.vid());
        let fates: Vec<(usize, Fate)> =
            (0..self.ports()).filter_map(|p| Some((p, self.fate(p, from, frame, domain)?))).collect();
        if fates.is_empty() { Err(self.reason_of_nothing(from, frame.dst, domain)) } else { Ok(fates) }
    }

    /// The domain of the frame.
    fn admit(&self, from: usize, frame: &Shape) -> Result<Tag, DropReason> {
        let vnic = self.vnic(from);
        match vnic {
            None if self.is_beacon(from, frame) => return Err(DropReason::Beacon),
            Some(v) if !v.link => return Err(DropReason::PortBlocked),
            None if !self.spec.uplinks[from - self.spec.vnics.len()].used => return Err(DropReason::UplinkUnused),
            _ => {}
        }
        let whole = frame.untagged().len();
        let longest = match frame.kind {
            Kind::Tcp { mss: Some(mss), .. } => whole.min(whole - frame.payload + usize::from(mss)),
            _ => whole,
        };
        if longest > usize::from(self.spec.mtu) + 14 {
            return Err(DropReason::Oversize);
        }
        let tag = frame.tag.unwrap_or_default();
        // Under a tag that names no VLAN, a second one would name it.
        let hides = frame.tag.is_some() && tag.vid() == 0 && frame.inner.is_some();
        let vid = match vnic.map(|v| &v.vlan) {
            _ if hides => None,
            None => Some(tag.vid()),
            Some(VlanMode::Est) => (tag.vid() == 0).then_some(0),
            Some(VlanMode::Vst(own)) => (tag.vid() == 0).then_some(*own),
            Some(VlanMode::Vgt(set)) => set.contains(tag.vid()).then_some(tag.vid()),
        };
        let domain = tag.with_vid(vid.ok_or(DropReason::VlanMismatch)?);
        match vnic {
            Some(v) => {
                let own = frame.src == v.mac || v.chosen() == Some(frame.src);
                match frame.dst {
                    _ if !own && !v.forged_transmits => Err(DropReason::ForgedTransmit),
                    Mac([0x01, 0x80, 0xc2, 0, 0, 0]) => Err(DropReason::Bpdu),
                    _ => Ok(domain),
                }
            }
            None if self.owner(domain.vid(), frame.src) != Owner::Unknown => Err(DropReason::Reflected),
            None => Ok(domain),
        }
    }

    /// An admitted frame's source is behind its port, if that learns: the address of one station, which no vNIC has by
    /// right.
    fn learn(&mut self, from: usize, src: Mac, vid: u16) {
        let learns = self.vnic(from).is_some_and(|v| v.mac_learning);
        let station = !src.is_group() && src != Mac([0; 6]);
        if learns && station && self.assigned(vid, src).is_none() {
            self.learnt.note(vid, src, from);
        }
    }

    fn member(&self, vnic: &VnicSpec, vid: u16) -> bool {
        match &vnic.vlan {
            VlanMode::Est => vid == 0,
            VlanMode::Vst(own) => vid == *own,
            VlanMode::Vgt(set) => set.contains(vid),
        }
    }

    fn owner(&self, vid: u16, mac: Mac) -> Owner {
        match (self.assigned(vid, mac), self.learnt.port(vid, mac)) {
            (Some(port), _) => Owner::Own(port),
            (None, Some(port)) => Owner::Behind(port),
            (None, None) => Owner::Unknown,
        }
    }

    /// The port that has `mac` in VLAN `vid` by right: who was assigned it, else the first that chose it.
    fn assigned(&self, vid: u16, mac: Mac) -> Option<usize> {
        let members = || self.spec.vnics.iter().enumerate().filter(|(_, v)| self.member(v, vid));
        let assigned = members().find(|(_, v)| v.mac == mac);
        assigned.or_else(|| members().find(|(_, v)| v.chosen() == Some(mac))).map(|(index, _)| index)
    }

    fn fate(&self, port: usize, from: usize, frame: &Shape, domain: Tag) -> Option<Fate> {
        if port == from {
            return None;
        }
        let dst = frame.dst;
        let owner = self.owner(domain.vid(), dst);
        let Some(vnic) = self.vnic(port) else {
            let sender = self.vnic(from)?;
            let outside = dst.is_group() || owner == Owner::Unknown;
            let wire = (domain.vid() != 0).then_some(domain);
            return (outside && self.sends_by(sender, port, frame)).then_some(Fate::Gets(wire));
        };
        if !self.member(vnic, domain.vid()) {
            return None;
        }
        let sees = matches!(vnic.vlan, VlanMode::Vgt(_)) && domain.vid() != 0;
        let tag = sees.then_some(domain);
        let comes_in = self.takes_unicast_from(vnic, from);
        let tap = vnic.promiscuous && vnic.filter.promiscuous && self.by_its_uplink(vnic, from);
        let offered = match owner {
            _ if dst.is_group() || !comes_in => None,
            Owner::Own(own) => (own == port).then(|| self.to_owner(vnic, dst, tag)),
            Owner::Behind(at) => (at == port).then(|| self.passes_on(vnic, tag)),
            Owner::Unknown => vnic.mac_learning.then(|| self.passes_on(vnic, tag)),
        };
        match offered {
            Some(fate) => Some(fate),
            // A group frame, or a copy for a tap.
            None if self.closed(vnic).is_some() => None,
            None if tap => Some(self.at_the_ring(vnic, tag)),
            None => {
                let gets = dst.is_group() && self.by_its_uplink(vnic, from) && self.wants(vnic, dst, tag);
                gets.then(|| self.at_the_ring(vnic, tag))
            }
        }
    }

    /// Group frames come in once per uplink: a port takes those of its own.
    fn by_its_uplink(&self, vnic: &VnicSpec, from: usize) -> bool {
        self.vnic(from).is_some() || self.is_one_of(from, &vnic.group())
    }

    /// To the port whose own address it is.
    fn to_owner(&self, vnic: &VnicSpec, dst: Mac, tag: Option<Tag>) -> Fate {
        let all = vnic.promiscuous && vnic.filter.promiscuous;
        match self.closed(vnic) {
            Some(reason) => Fate::Refuses(reason),
            None if all || self.wants(vnic, dst, tag) => self.at_the_ring(vnic, tag),
            None => Fate::Refuses(DropReason::Filtered),
        }
    }

    /// To a port for somebody behind it: the card's own address, and what its filter says of addresses, do not matter.
    fn passes_on(&self, vnic: &VnicSpec, tag: Option<Tag>) -> Fate {
        let all = vnic.promiscuous && vnic.filter.promiscuous;
        match vnic.address() {
            None => Fate::Refuses(DropReason::NotConnected),
            Some(_) if all || self.wants_vlan(vnic, tag) => self.at_the_ring(vnic, tag),
            Some(_) => Fate::Refuses(DropReason::Filtered),
        }
    }

    /// Why nothing at all reaches the guest.
    fn closed(&self, vnic: &VnicSpec) -> Option<DropReason> {
        match vnic.address() {
            None => Some(DropReason::NotConnected),
            Some(now) if now != vnic.mac && !vnic.mac_changes => Some(DropReason::MacChanged),
            Some(_) => None,
        }
    }

    /// The receive filter, promiscuous mode aside.
    fn wants(&self, vnic: &VnicSpec, dst: Mac, tag: Option<Tag>) -> bool {
        let f = &vnic.filter;
        let address = match dst {
            Mac::BROADCAST => f.broadcast,
            _ if dst.is_group() => f.all_multicast || f.groups.contains(&dst),
            _ => f.unicast && vnic.address() == Some(dst),
        };
        address && self.wants_vlan(vnic, tag)
    }

    fn wants_vlan(&self, vnic: &VnicSpec, tag: Option<Tag>) -> bool {
        match (&vnic.filter.vlans, tag) {
            (Some(vlans), Some(tag)) => vlans.contains(&tag.vid()),
            _ => true,
        }
    }

    fn at_the_ring(&self, vnic: &VnicSpec, tag: Option<Tag>) -> Fate {
        match () {
            () if !vnic.connected => Fate::Refuses(DropReason::NotConnected),
            () if !vnic.link => Fate::Refuses(DropReason::PortBlocked),
            () => Fate::Gets(tag),
        }
    }

    /// Why a frame that was admitted went to nobody.
    fn reason_of_nothing(&self, from: usize, dst: Mac, domain: Tag) -> DropReason {
        let members = || self.spec.vnics.iter().filter(|v| self.member(v, domain.vid()));
        let owner = self.owner(domain.vid(), dst);
        match self.vnic(from) {
            // For itself, or its own side.
            Some(_) if !dst.is_group() && matches!(owner, Owner::Own(at) | Owner::Behind(at) if at == from) => {
                DropReason::NoMatch
            }
            Some(_) if self.spec.uplinks.is_empty() => DropReason::NoMatch,
            Some(_) => DropReason::NoUplink,
            // Its owner would have had it, or refused it.
            None if !dst.is_group() && owner != Owner::Unknown => DropReason::UplinkUnused,
            None => {
                let wanted = members().any(|v| {
                    let sees = matches!(v.vlan, VlanMode::Vgt(_)) && domain.vid() != 0;
                    dst.is_group() && self.closed(v).is_none() && self.wants(v, dst, sees.then_some(domain))
                });
                if wanted { DropReason::NotDesignated } else { DropReason::NoMatch }
            }
        }
    }
}

/// The bucket that the IP addresses of a frame choose.
fn ip_bucket(frame: &Shape) -> usize {
    let bytes = frame.untagged();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let bucket = match frame.kind {
        Kind::Tcp { ends: Ends::V6(from, to), .. } => from.iter().chain(&to).fold(0, |all, byte| all ^ byte),
        Kind::Tcp { ends: Ends::V4(from, to), .. } => from[3] ^ to[3],
        // The bytes where the addresses would stand.
        Kind::Plain(_) => byte(29) ^ byte(33),
    };
    usize::from(bucket)
}
