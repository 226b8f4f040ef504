//! The switch as a value: ports, policies and the forwarding table, immutable once built.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use portgroups::{Policy, VlanMode};
use teaming::Placement;
use wire::{ETH_HEADER, Mac};

use crate::addresses::Addresses;
use crate::{Counters, Egress, Inbox, IngressSlot, Learned, PortId, PortState};

/// What a port is.
#[derive(Clone, Debug)]
pub enum Role {
    /// A guest's card.
    Vnic(VnicRole),
    /// A physical network interface.
    Uplink(UplinkRole),
}

/// The policy side of a vNIC port.
#[derive(Clone, Debug)]
pub struct VnicRole {
    /// VLANs, addresses, security.
    pub policy: Policy,
    /// The address the guest chose, where the policy lets it (`mac_changes`); frames to it are for this
    /// port too. `None` when it is the assigned one.
    pub chosen_mac: Option<Mac>,
    /// The uplinks it sends by and receives from now, chosen by its team; uplinks by their port numbers.
    pub placement: Placement,
    /// True when its team has uplinks at all: then having none in use is `no-uplink`.
    pub has_uplinks: bool,
}

/// The policy side of an uplink.
#[derive(Clone, Copy, Debug)]
pub struct UplinkRole {
    /// True when some team has it in its order and in use: what it receives counts.
    pub used: bool,
}

/// One port.
pub struct PortEntry {
    /// Its number.
    pub id: PortId,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it is.
    pub role: Role,
    /// Its live state.
    pub state: Arc<PortState>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Where frames to it go.
    pub egress: Arc<dyn Egress>,
    /// Its ingress queues, and which worker polls each.
    pub queues: Vec<(Arc<IngressSlot>, usize)>,
}

/// Ports, table and domains; built by the control thread, read by workers.
pub struct Snapshot {
    ports: Vec<Option<PortEntry>>,
    /// (VLAN, MAC) of every EST and VST port, and of a VGT port whose address another VGT port has in other VLANs.
    table: Addresses,
    /// MAC of every VGT port; its policy tells the VLANs.
    trunks: Addresses,
    /// EST and VST ports by VLAN.
    domains: HashMap<u16, Vec<PortId>, RandomState>,
    trunk_ports: Vec<PortId>,
    /// Ports whose policy allows promiscuous mode.
    taps: Vec<PortId>,
    max_frame: usize,
    inbox: Option<Arc<Inbox>>,
    learned: Option<Arc<Learned>>,
}

/// A MAC address in a VLAN (0: untagged), as one number: what the tables are searched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(u64);

impl Address {
    /// `mac` in VLAN `vid`.
    #[inline]
    pub fn new(vid: u16, mac: Mac) -> Address {
        Address::from_number(vid, mac.as_u64())
    }

    /// The same, with the address as [`Mac::as_u64`] has it.
    #[inline]
    pub(crate) fn from_number(vid: u16, mac: u64) -> Address {
        Address(u64::from(vid & 0xfff) << 48 | mac)
    }

    /// VLAN and address: 12 bits and 48.
    #[inline]
    pub(crate) fn key(self) -> u64 {
        self.0
    }

    /// The VLAN.
    #[inline]
    pub(crate) fn vid(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The address as a number.
    #[inline]
    pub(crate) fn mac(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }
}

impl Snapshot {
    /// A switch with these ports and a payload size of `mtu` bytes. Of two ports with one address in one
    /// VLAN the first keeps it; the configuration refuses that beforehand.
    pub fn new(entries: Vec<PortEntry>, mtu: u16) -> Snapshot {
        let mut s = Snapshot {
            ports: Vec::new(),
            table: Addresses::default(),
            trunks: Addresses::default(),
            domains: HashMap::default(),
            trunk_ports: Vec::new(),
            taps: Vec::new(),
            max_frame: usize::from(mtu) + ETH_HEADER,
            inbox: None,
            learned: None,
        };
        for entry in entries {
            s.add(entry);
        }
        s.add_chosen();
        s
    }

    /// Enters the addresses guests chose, after all assigned ones: a guest cannot take another's.
    fn add_chosen(&mut self) {
        let chosen: Vec<(PortId, VlanMode, Mac)> = self
            .ports()
            .filter_map(|p| p.vnic().and_then(|v| Some((p.id, v.policy.vlan.clone(), v.chosen_mac?))))
            .collect();
        for (id, vlan, mac) in chosen {
            match &vlan {
                VlanMode::Est => self.enter(0, mac, id),
                VlanMode::Vst(vid) => self.enter(*vid, mac, id),
                // Two trunks with one address, which is fine while they share no VLAN: the second goes VLAN by VLAN.
                VlanMode::Vgt(set) if self.trunks.get(mac.as_u64()).is_some() => {
                    set.iter().for_each(|vid| self.enter(vid, mac, id));
                }
                VlanMode::Vgt(_) => self.trunks.insert(mac.as_u64(), id),
            }
        }
    }

    /// Enters an address in one VLAN unless somebody has it there.
    fn enter(&mut self, vid: u16, mac: Mac, id: PortId) {
        if self.lookup(Address::new(vid, mac)).is_none() {
            self.table.insert(Address::new(vid, mac).key(), id);
        }
    }

    /// The switch with an inbox for the frames on its uplinks that are for itself.
    pub fn with_inbox(self, inbox: Arc<Inbox>) -> Snapshot {
        Snapshot { inbox: Some(inbox), ..self }
    }

    /// Where frames for the switch itself go.
    #[inline]
    pub fn inbox(&self) -> Option<&Inbox> {
        self.inbox.as_deref()
    }

    fn add(&mut self, entry: PortEntry) {
        let id = entry.id;
        if let Role::Vnic(vnic) = &entry.role {
            let domain = match &vnic.policy.vlan {
                VlanMode::Est => Some(0),
                VlanMode::Vst(vid) => Some(*vid),
                VlanMode::Vgt(_) => None,
            };
            match domain {
                Some(vid) => {
                    self.table.insert(Address::new(vid, vnic.policy.mac).key(), id);
                    self.domains.entry(vid).or_default().push(id);
                }
                None => {
                    self.trunks.insert(vnic.policy.mac.as_u64(), id);
                    self.trunk_ports.push(id);
                }
            }
            if vnic.policy.security.promiscuous {
                self.taps.push(id);
            }
        }
        let at = usize::from(id.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, || None);
        }
        self.ports[at] = Some(entry);
    }

    /// The same, with the addresses that were learnt: for ports whose policy says so.
    pub fn with_learned(self, learned: Arc<Learned>) -> Snapshot {
        Snapshot { learned: Some(learned), ..self }
    }

    /// The addresses that were learnt, if any port learns.
    #[inline]
    pub fn learned(&self) -> Option<&Learned> {
        self.learned.as_deref()
    }

    /// The ports of VLAN `vid` that learn: unknown unicast frames are for them.
    pub fn learners(&self, vid: u16) -> impl Iterator<Item = (&PortEntry, &VnicRole)> {
        self.members(vid).filter(|(_, vnic)| vnic.policy.security.learning)
    }

    /// The port with this number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// All ports, in order of their numbers.
    pub fn ports(&self) -> impl Iterator<Item = &PortEntry> {
        self.ports.iter().flatten()
    }

    /// One more than the greatest port number.
    pub fn port_limit(&self) -> usize {
        self.ports.len()
    }

    /// The vNIC port that has this address.
    #[inline]
    pub fn lookup(&self, address: Address) -> Option<&PortEntry> {
        if let Some(id) = self.table.get(address.key()) {
            return self.port(id);
        }
        if self.trunks.is_empty() {
            return None;
        }
        let entry = self.port(self.trunks.get(address.mac())?)?;
        entry.vnic().filter(|v| v.policy.is_member(address.vid())).map(|_| entry)
    }

    /// The vNIC ports that belong to VLAN `vid`.
    pub fn members(&self, vid: u16) -> impl Iterator<Item = (&PortEntry, &VnicRole)> {
        let fixed = self.domains.get(&vid).map_or(&[][..], Vec::as_slice);
        let trunks = self.trunk_ports.iter();
        fixed.iter().chain(trunks).filter_map(move |id| {
            let entry = self.port(*id)?;
            let vnic = entry.vnic()?;
            vnic.policy.is_member(vid).then_some((entry, vnic))
        })
    }

    /// True when some port may be promiscuous: the common case is none, and costs nothing.
    #[inline]
    pub fn has_taps(&self) -> bool {
        !self.taps.is_empty()
    }

    /// The ports of VLAN `vid` that may be promiscuous, and are.
    pub fn taps(&self, vid: u16) -> impl Iterator<Item = (&PortEntry, &VnicRole)> {
        self.taps.iter().filter_map(move |id| {
            let entry = self.port(*id)?;
            let vnic = entry.vnic()?;
            (entry.state.unicast().promiscuous() && vnic.policy.is_member(vid)).then_some((entry, vnic))
        })
    }

    /// Longest untagged frame in bytes: the MTU and the Ethernet header.
    #[inline]
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }
}

impl PortEntry {
    /// The vNIC side, when it is one.
    #[inline]
    pub fn vnic(&self) -> Option<&VnicRole> {
        match &self.role {
            Role::Vnic(vnic) => Some(vnic),
            Role::Uplink(_) => None,
        }
    }
}
