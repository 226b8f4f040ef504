//! The forwarding rules once more, told port by port instead of by tables and lists: "what does port P get
//! of this frame?" The slow and plain answer that the properties hold the data path to.

use dataplane::DropReason;
use portgroups::VlanMode;
use wire::{Mac, Tag};

use crate::frames::{Ends, Kind, Shape};
use crate::spec::{SendBy, SwitchSpec, VnicSpec};

/// What becomes of a frame at one port that it was handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets it, and sees this tag.
    Gets(Option<Tag>),
    /// It was for it, and it refuses.
    Refuses(DropReason),
}

/// Ports by index: the vNICs, then the uplinks.
pub struct Model<'s>(pub &'s SwitchSpec);

impl Model<'_> {
    fn vnic(&self, port: usize) -> Option<&VnicSpec> {
        self.0.vnics.get(port)
    }

    fn ports(&self) -> usize {
        self.0.vnics.len() + self.0.uplinks.len()
    }

    fn is(&self, port: usize, name: &str) -> bool {
        port >= self.0.vnics.len() && self.0.uplinks[port - self.0.vnics.len()].name == name
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
        self.vnic(from).is_none() && ethertype.is_some() && ethertype == self.0.beacon
    }

    /// What every port gets of `frame`, sent in by `from`; or why the frame is dropped there.
    pub fn forward(&self, from: usize, frame: &Shape) -> Result<Vec<(usize, Fate)>, DropReason> {
        let domain = self.admit(from, frame)?;
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
            None if !self.0.uplinks[from - self.0.vnics.len()].used => return Err(DropReason::UplinkUnused),
            _ => {}
        }
        let whole = frame.untagged().len();
        let longest = match frame.kind {
            Kind::Tcp { mss: Some(mss), .. } => whole.min(whole - frame.payload + usize::from(mss)),
            _ => whole,
        };
        if longest > usize::from(self.0.mtu) + 14 {
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
            None if self.owner(domain.vid(), frame.src).is_some() => Err(DropReason::Reflected),
            None => Ok(domain),
        }
    }

    fn member(&self, vnic: &VnicSpec, vid: u16) -> bool {
        match &vnic.vlan {
            VlanMode::Est => vid == 0,
            VlanMode::Vst(own) => vid == *own,
            VlanMode::Vgt(set) => set.contains(vid),
        }
    }

    /// The port that has `mac` in VLAN `vid`: who was assigned it, else the first that chose it.
    fn owner(&self, vid: u16, mac: Mac) -> Option<usize> {
        let members = || self.0.vnics.iter().enumerate().filter(|(_, v)| self.member(v, vid));
        let assigned = members().find(|(_, v)| v.mac == mac);
        assigned.or_else(|| members().find(|(_, v)| v.chosen() == Some(mac))).map(|(index, _)| index)
    }

    fn fate(&self, port: usize, from: usize, frame: &Shape, domain: Tag) -> Option<Fate> {
        if port == from {
            return None;
        }
        let dst = frame.dst;
        let Some(vnic) = self.vnic(port) else {
            let sender = self.vnic(from)?;
            let outside = dst.is_group() || self.owner(domain.vid(), dst).is_none();
            let wire = (domain.vid() != 0).then_some(domain);
            return (outside && self.sends_by(sender, port, frame)).then_some(Fate::Gets(wire));
        };
        if !self.member(vnic, domain.vid()) {
            return None;
        }
        let owns = !dst.is_group() && self.owner(domain.vid(), dst) == Some(port);
        let addressed = owns && self.takes_unicast_from(vnic, from);
        if let Some(reason) = self.closed(vnic) {
            return addressed.then_some(Fate::Refuses(reason));
        }
        let sees = matches!(vnic.vlan, VlanMode::Vgt(_)) && domain.vid() != 0;
        let tag = sees.then_some(domain);
        let wants = self.wants(vnic, dst, tag);
        let tap = vnic.promiscuous && vnic.filter.promiscuous;
        let by_its_uplink = self.vnic(from).is_some() || self.is_one_of(from, &vnic.group());
        let gets = match addressed {
            true => wants || tap,
            // A group frame, or a copy for a tap.
            false => by_its_uplink && (dst.is_group() && wants || tap),
        };
        match gets {
            true => Some(self.at_the_ring(vnic, tag)),
            false => addressed.then_some(Fate::Refuses(DropReason::Filtered)),
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
        let vlan = match (&f.vlans, tag) {
            (Some(vlans), Some(tag)) => vlans.contains(&tag.vid()),
            _ => true,
        };
        let address = match dst {
            Mac::BROADCAST => f.broadcast,
            _ if dst.is_group() => f.all_multicast || f.groups.contains(&dst),
            _ => f.unicast && vnic.address() == Some(dst),
        };
        vlan && address
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
        let members = || self.0.vnics.iter().filter(|v| self.member(v, domain.vid()));
        match self.vnic(from) {
            // Its own address.
            Some(_) if !dst.is_group() && self.owner(domain.vid(), dst) == Some(from) => DropReason::NoMatch,
            Some(_) if self.0.uplinks.is_empty() => DropReason::NoMatch,
            Some(_) => DropReason::NoUplink,
            // Its owner would have had it, or refused it.
            None if !dst.is_group() && self.owner(domain.vid(), dst).is_some() => DropReason::UplinkUnused,
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
