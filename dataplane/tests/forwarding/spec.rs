//! A switch as a case file describes it.

use std::collections::BTreeMap;

use dataplane::{Caps, Multicast, RxFilter};
use portgroups::VlanMode;
use serde::{Deserialize, Deserializer};
use wire::{Mac, Tag};

/// The switches of `cases/switches.toml`, by name.
pub type Switches = BTreeMap<String, SwitchSpec>;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchSpec {
    /// Payload size in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// EtherType of the frames on uplinks that are for the switch itself.
    pub beacon: Option<u16>,
    pub vnics: Vec<VnicSpec>,
    #[serde(default)]
    pub uplinks: Vec<UplinkSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnicSpec {
    pub name: String,
    #[serde(deserialize_with = "vlan")]
    pub vlan: VlanMode,
    #[serde(deserialize_with = "mac")]
    pub mac: Mac,
    /// What the guest programmed; its own address unless told.
    #[serde(default, deserialize_with = "some_mac")]
    pub programmed: Option<Mac>,
    /// False while the guest's driver has not started the card.
    #[serde(default = "yes")]
    pub started: bool,
    #[serde(default = "yes")]
    pub connected: bool,
    #[serde(default = "yes")]
    pub link: bool,
    /// The uplinks its team has it send by now.
    #[serde(default, rename = "uplink", deserialize_with = "send")]
    pub send: SendBy,
    /// The uplinks by which group frames come to it; unless told, as a team has it: see [`VnicSpec::group`].
    #[serde(rename = "group")]
    pub group_from: Option<Vec<String>>,
    /// The uplinks by which unicast comes to it; unless told, all.
    #[serde(rename = "unicast")]
    pub unicast_from: Option<Vec<String>>,
    #[serde(default)]
    pub promiscuous: bool,
    #[serde(default)]
    pub mac_changes: bool,
    #[serde(default)]
    pub forged_transmits: bool,
    #[serde(default)]
    pub mac_learning: bool,
    #[serde(default)]
    pub filter: FilterSpec,
    #[serde(flatten)]
    pub peer: Peer,
}

/// By which uplinks a vNIC sends. The uplink of bucket `b` of a hash is the `b`th of the list, which is repeated
/// until all buckets have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SendBy {
    #[default]
    None,
    One(String),
    MacHash(Vec<String>),
    IpHash(Vec<String>),
    All(Vec<String>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkSpec {
    pub name: String,
    #[serde(default = "yes")]
    pub used: bool,
    #[serde(flatten)]
    pub peer: Peer,
}

/// What lies behind the port.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// What it can do by itself: any of csum, tso, tag, pad.
    #[serde(default, deserialize_with = "caps")]
    pub can: Option<Caps>,
    /// Descriptors it posted.
    #[serde(default = "roomy")]
    pub ring: u64,
    /// Bytes of each.
    #[serde(default = "long")]
    pub buffer: usize,
}

/// The receive filter; unless told, as a driver sets it that wants its own frames and broadcasts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterSpec {
    pub unicast: bool,
    pub broadcast: bool,
    pub all_multicast: bool,
    pub promiscuous: bool,
    /// Group addresses by name.
    #[serde(deserialize_with = "macs")]
    pub groups: Vec<Mac>,
    /// Bits of a hash filter, which then takes the place of `groups`.
    pub hash: Option<Vec<u8>>,
    /// VLANs of a VLAN filter.
    pub vlans: Option<Vec<u16>>,
}

impl Default for FilterSpec {
    fn default() -> FilterSpec {
        FilterSpec {
            unicast: true,
            broadcast: true,
            all_multicast: false,
            promiscuous: false,
            groups: Vec::new(),
            hash: None,
            vlans: None,
        }
    }
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { can: None, ring: roomy(), buffer: long() }
    }
}

impl VnicSpec {
    /// The address in the card now.
    pub fn address(&self) -> Option<Mac> {
        self.started.then(|| self.programmed.unwrap_or(self.mac))
    }

    /// The address the guest chose, as the control thread enters it into the table.
    pub fn chosen(&self) -> Option<Mac> {
        self.address().filter(|mac| self.mac_changes && *mac != self.mac)
    }

    /// The uplinks by which group frames come to it. What a team gives unless the case says otherwise: one, but all
    /// those of an aggregation group.
    pub fn group(&self) -> Vec<String> {
        match (&self.group_from, &self.send) {
            (Some(told), _) => told.clone(),
            (None, SendBy::None) => Vec::new(),
            (None, SendBy::One(uplink)) => vec![uplink.clone()],
            (None, SendBy::MacHash(order)) => vec![order[usize::from(self.mac.0[5]) % order.len()].clone()],
            (None, SendBy::IpHash(order)) => order.clone(),
            (None, SendBy::All(order)) => order[..1].to_vec(),
        }
    }

    pub fn rx_filter(&self) -> RxFilter {
        if !self.started {
            return RxFilter::closed();
        }
        let f = &self.filter;
        let multicast = match &f.hash {
            Some(bits) => Multicast::Hash(bits.iter().fold(0, |word, bit| word | 1 << bit)),
            None => Multicast::List(f.groups.clone()),
        };
        let vlans = f.vlans.as_ref().map(|vids| {
            let mut bits = Box::new([0u64; 64]);
            vids.iter().for_each(|v| bits[usize::from(v / 64)] |= 1 << (v % 64));
            bits
        });
        RxFilter {
            mac: self.address(),
            unicast: f.unicast,
            broadcast: f.broadcast,
            all_multicast: f.all_multicast,
            promiscuous: f.promiscuous,
            multicast,
            vlans,
        }
    }
}

fn default_mtu() -> u16 {
    1500
}

fn yes() -> bool {
    true
}

fn roomy() -> u64 {
    u64::MAX
}

fn long() -> usize {
    usize::MAX
}

/// `est`, a VLAN (`10`), or `vgt` with a set (`vgt 10,20-29`).
fn vlan<'de, D: Deserializer<'de>>(d: D) -> Result<VlanMode, D::Error> {
    let text = String::deserialize(d)?;
    match text.as_str() {
        "est" => Ok(VlanMode::Est),
        _ => match text.strip_prefix("vgt ") {
            Some(set) => set.parse().map(VlanMode::Vgt).map_err(serde::de::Error::custom),
            None => text.parse().map(VlanMode::Vst).map_err(serde::de::Error::custom),
        },
    }
}

/// An uplink, or `mac-hash`, `ip-hash` or `all` and a list of them, as `mac-hash vmnic0 vmnic1`.
fn send<'de, D: Deserializer<'de>>(d: D) -> Result<SendBy, D::Error> {
    let text = String::deserialize(d)?;
    let mut words = text.split_whitespace().map(str::to_owned);
    let (first, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
    match (first.as_str(), rest.len()) {
        ("mac-hash", 1..) => Ok(SendBy::MacHash(rest)),
        ("ip-hash", 1..) => Ok(SendBy::IpHash(rest)),
        ("all", 1..) => Ok(SendBy::All(rest)),
        (_, 0) => Ok(SendBy::One(first)),
        _ => Err(serde::de::Error::custom(format!("\"{text}\" is no choice of uplinks"))),
    }
}

fn mac<'de, D: Deserializer<'de>>(d: D) -> Result<Mac, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

fn some_mac<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Mac>, D::Error> {
    mac(d).map(Some)
}

fn macs<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Mac>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts.iter().map(|t| t.parse().map_err(serde::de::Error::custom)).collect()
}

fn caps<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Caps>, D::Error> {
    let mut caps = Caps::default();
    for word in String::deserialize(d)?.split_whitespace() {
        match word {
            "csum" => caps.csum = true,
            "tso" => caps.tso = true,
            "tag" => caps.tag = true,
            "pad" => caps.pad = true,
            other => return Err(serde::de::Error::custom(format!("a peer cannot \"{other}\""))),
        }
    }
    Ok(Some(caps))
}

/// A tag written `vid` or `vid/pcp`.
pub fn tag(text: &str) -> Option<Tag> {
    let (vid, pcp) = text.split_once('/').unwrap_or((text, "0"));
    Some(Tag::new(vid.parse().ok()?, pcp.parse().ok()?))
}
