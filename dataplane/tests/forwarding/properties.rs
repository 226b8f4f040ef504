//! Random switches and random frames: what comes out is what the model says and the invariants allow.

use std::collections::BTreeMap;

use dataplane::{Caps, DropReason, HEARD_MAX};
use portgroups::VlanMode;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use wire::{Mac, Tag};

use crate::fake::Received;
use crate::frames::{Ends, Kind, Shape, id_of, seen_tag};
use crate::model::{Fate, Model};
use crate::spec::{FilterSpec, Peer, SendBy, SwitchSpec, UplinkSpec, VnicSpec};
use crate::switch::Switch;

pub const GROUPS: [Mac; 2] = [Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])];
const BEACON: u16 = 0x88b5;
/// Of frames that mean nothing: a beacon's, ARP's, and one that is nobody's.
const ETHERTYPES: [u16; 3] = [BEACON, 0x0806, 0x88b6];
const VLANS: [u16; 5] = [0, 10, 20, 30, 4094];

pub fn assigned(index: usize) -> Mac {
    Mac([0, 0x50, 0x56, 0, 0, index as u8])
}

/// Addresses that belong to nobody at first.
pub fn spare(index: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, index as u8])
}

fn vlan_mode() -> impl Strategy<Value = VlanMode> {
    prop_oneof![
        2 => Just(VlanMode::Est),
        4 => select(vec![10, 20]).prop_map(VlanMode::Vst),
        3 => select(vec!["0,10", "10,20-29", "0-4094", "30"]).prop_map(|set| VlanMode::Vgt(set.parse().unwrap())),
    ]
}

fn caps() -> impl Strategy<Value = Caps> {
    any::<[bool; 5]>().prop_map(|[csum, tso, uso, tag, pad]| Caps { csum, tso, uso, tag, pad })
}

fn filter() -> impl Strategy<Value = FilterSpec> {
    (
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        subsequence(GROUPS.to_vec(), 0..=2),
        weighted(0.2, subsequence(VLANS[1..].to_vec(), 0..=3)),
    )
        .prop_map(|(unicast, broadcast, all_multicast, promiscuous, groups, vlans)| FilterSpec {
            unicast,
            broadcast,
            all_multicast,
            promiscuous,
            groups,
            hash: None,
            vlans,
        })
}

fn uplink_name(index: usize) -> String {
    format!("vmnic{index}")
}

/// Uplinks to send by, for group frames and for unicast, as a [`VnicSpec`] has them.
type Places = (SendBy, Option<Vec<String>>, Option<Vec<String>>);

/// What some team might decide: any choice of uplinks to send by, and any to receive from. Of a hash the tables are
/// whatever they are, up to a table where each bucket has an uplink of its own.
fn placement(uplinks: usize) -> BoxedStrategy<Places> {
    if uplinks == 0 {
        return Just((SendBy::None, None, None)).boxed();
    }
    let names: Vec<String> = (0..uplinks).map(uplink_name).collect();
    let some = move |least| subsequence(names.clone(), least..=uplinks);
    let table = || vec((0..uplinks).prop_map(uplink_name), 1..=256);
    let send = prop_oneof![
        1 => Just(SendBy::None),
        3 => (0..uplinks).prop_map(|u| SendBy::One(uplink_name(u))),
        2 => table().prop_map(SendBy::MacHash),
        3 => table().prop_map(SendBy::IpHash),
        2 => some(1).prop_map(SendBy::All),
    ];
    (send, weighted(0.6, some(0)), weighted(0.6, some(0))).boxed()
}

/// A card as its owner configured it and its guest left it. A guest may have chosen its neighbour's address.
fn vnic(index: usize, uplinks: usize) -> impl Strategy<Value = VnicSpec> {
    let security = any::<[bool; 3]>();
    let programmed = weighted(0.3, prop_oneof![(1..4usize).prop_map(spare), (0..6usize).prop_map(assigned)]);
    let state =
        (prop::bool::weighted(0.9), prop::bool::weighted(0.95), prop::bool::weighted(0.9)).prop_map(<[bool; 3]>::from);
    (vlan_mode(), placement(uplinks), security, programmed, state, filter(), caps()).prop_map(
        move |(
            vlan,
            (send, group_from, unicast_from),
            security,
            programmed,
            [started, connected, link],
            filter,
            can,
        )| VnicSpec {
            name: format!("vnic{index}"),
            vlan,
            mac: assigned(index),
            programmed,
            started,
            connected,
            link,
            send,
            group_from,
            unicast_from,
            promiscuous: security[0],
            mac_changes: security[1],
            forged_transmits: security[2],
            mac_learning: false,
            filter,
            peer: Peer { can: Some(can), ..Peer::default() },
        },
    )
}

pub fn switch() -> impl Strategy<Value = SwitchSpec> {
    (0..=3usize, 1..=6usize).prop_flat_map(|(uplinks, vnics)| {
        let uplinks_spec = vec((prop::bool::weighted(0.8), caps()), uplinks).prop_map(|list| {
            let uplink = |(index, (used, can)): (usize, (bool, Caps))| UplinkSpec {
                name: uplink_name(index),
                used,
                peer: Peer { can: Some(can), ..Peer::default() },
            };
            list.into_iter().enumerate().map(uplink).collect::<Vec<_>>()
        });
        let vnics_spec = (0..vnics).map(|index| vnic(index, uplinks)).collect::<Vec<_>>();
        (vnics_spec, uplinks_spec, weighted(0.8, Just(BEACON))).prop_map(|(vnics, uplinks, beacon)| SwitchSpec {
            mtu: 1500,
            beacon,
            vnics,
            uplinks,
        })
    })
}

fn tag() -> impl Strategy<Value = Tag> {
    (select(VLANS.to_vec()), 0..8u8).prop_map(|(vid, pcp)| Tag::new(vid, pcp))
}

fn address() -> impl Strategy<Value = Mac> {
    prop_oneof![(0..6usize).prop_map(assigned), (1..5usize).prop_map(spare)]
}

pub fn frame() -> impl Strategy<Value = Given> {
    let dst = prop_oneof![
        6 => address(),
        2 => Just(Mac::BROADCAST),
        2 => select(GROUPS.to_vec()),
        1 => Just(Mac::BPDU),
    ];
    let ends = prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(from, to)| Ends::V4(from, to)),
        (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(from, to)| Ends::V6(from, to)),
    ];
    let kind = prop_oneof![
        3 => select(ETHERTYPES.to_vec()).prop_map(Kind::Plain),
        2 => (ends, weighted(0.7, 500..1500u16)).prop_map(|(ends, mss)| Kind::Tcp { ends, mss }),
    ];
    let payload = prop_oneof![4..200usize, 1400..1600usize, 4..20_000usize];
    (
        any::<usize>(),
        any::<bool>(),
        dst,
        address(),
        weighted(0.5, tag()),
        any::<bool>(),
        weighted(0.1, tag()),
        payload,
        kind,
        vec(0..2000usize, 0..4),
    )
        .prop_map(|(from, own, dst, src, tag, in_band, inner, payload, kind, cuts)| {
            let inner = inner.filter(|_| tag.is_some() && matches!(kind, Kind::Plain(_)));
            (from, own, Shape { dst, src, tag, in_band, inner, payload, kind, id: (0, 0) }, cuts)
        })
}

/// What one port is to receive: of which frames, with which tags.
type Expected = BTreeMap<(u16, u16), Option<Tag>>;

/// What the switch itself hears by one uplink, in order: VLAN and bytes.
type Hearing = Vec<(u16, Vec<u8>)>;

/// What the model expects: deliveries, drops and what the switch hears, per port.
pub struct Books {
    out: Vec<Expected>,
    heard: Vec<Hearing>,
    drops: BTreeMap<(usize, &'static str, &'static str), u64>,
}

impl Books {
    pub fn new(ports: usize) -> Books {
        Books { out: vec![Expected::new(); ports], heard: vec![Hearing::new(); ports], drops: BTreeMap::new() }
    }

    /// Enters what becomes of a frame.
    pub fn enter(&mut self, model: &mut Model<'_>, from: usize, shape: &Shape) {
        if model.is_beacon(from, shape) {
            let mut bytes = shape.untagged();
            bytes.truncate(HEARD_MAX);
            self.heard[from].push((shape.tag.map_or(0, Tag::vid), bytes));
        }
        let mut drop = |port, way, reason: DropReason| *self.drops.entry((port, way, reason.name())).or_default() += 1;
        match model.forward(from, shape) {
            Err(reason) => drop(from, "in", reason),
            Ok(fates) => {
                for (port, fate) in fates {
                    match fate {
                        Fate::Gets(tag) => _ = self.out[port].insert(shape.id, tag),
                        Fate::Refuses(reason) => drop(port, "out", reason),
                    }
                }
            }
        }
    }

    /// Holds the switch, which was sent `frames`, to them.
    pub fn check(&self, spec: &SwitchSpec, switch: &Switch, frames: &[(usize, Shape)]) -> Result<(), String> {
        switch.check_sums()?;
        for (port, want) in self.out.iter().enumerate() {
            check_port(spec, switch, port, frames, want)?;
        }
        let mut heard = vec![Hearing::new(); self.heard.len()];
        for one in switch.heard() {
            let port = switch.ports.iter().position(|p| p.id == one.uplink).ok_or("heard from nowhere")?;
            heard[port].push((one.vlan, one.bytes.to_vec()));
        }
        if heard != self.heard {
            return Err(format!("heard {heard:?}\n  expected {:?}", self.heard));
        }
        let drops: BTreeMap<_, _> =
            switch.drops().into_iter().map(|(port, way, reason, n)| ((switch.index(&port), way, reason), n)).collect();
        if drops == self.drops { Ok(()) } else { Err(format!("drops {drops:?}\n  expected {:?}", self.drops)) }
    }
}

/// The invariants, told without the model, of one frame that `port` received.
fn check_invariants(spec: &SwitchSpec, port: usize, from: usize, shape: &Shape, got: &Received) -> Result<(), String> {
    let vnics = spec.vnics.len();
    if port == from {
        return Err("back to the sender".into());
    }
    if port >= vnics && from >= vnics {
        return Err("from uplink to uplink".into());
    }
    if from >= vnics && shape.inner.is_none() && matches!(shape.kind, Kind::Plain(t) if spec.beacon == Some(t)) {
        return Err("a beacon".into());
    }
    // The VLAN the frame is in, by where it came from; EST's is 0.
    let vlan = |index: usize, tag: Option<Tag>| match spec.vnics.get(index).map(|v| &v.vlan) {
        Some(VlanMode::Vst(vid)) => *vid,
        Some(VlanMode::Est) => 0,
        _ => tag.map_or(0, Tag::vid),
    };
    // A second tag of the sender's is payload: it is seen where the first one is not shown.
    let shown = seen_tag(got).filter(|t| Some(*t) != shape.inner || shape.inner == shape.tag);
    let (sent, seen) = (vlan(from, shape.tag), vlan(port, shown));
    if sent != seen { Err(format!("from VLAN {sent} into VLAN {seen}")) } else { Ok(()) }
}

fn check_port(
    spec: &SwitchSpec,
    switch: &Switch,
    port: usize,
    frames: &[(usize, Shape)],
    want: &Expected,
) -> Result<(), String> {
    let name = &switch.ports[port].name;
    let mut by_frame: BTreeMap<(u16, u16), Vec<Received>> = BTreeMap::new();
    for one in switch.received(port) {
        let id = id_of(&one).ok_or_else(|| format!("{name}: a frame nobody sent"))?;
        let (from, shape) = &frames[usize::from(id.1)];
        check_invariants(spec, port, *from, shape, &one).map_err(|e| format!("{name}: frame {id:?}: {e}"))?;
        by_frame.entry(id).or_default().push(one);
    }
    if !by_frame.keys().eq(want.keys()) {
        return Err(format!("{name}: got frames {:?}, {:?} expected", by_frame.keys(), want.keys()));
    }
    for (id, got) in &by_frame {
        let (_, shape) = &frames[usize::from(id.1)];
        let caps = switch.ports[port].egress.caps();
        shape.check(got, caps, want[id]).map_err(|e| format!("{name}: frame {id:?}: {e}"))?;
    }
    Ok(())
}

/// A frame to send: the port it comes in by (to be taken modulo the ports), whether from its own address, and how it is
/// cut up in memory.
pub type Given = (usize, bool, Shape, Vec<usize>);

fn run(spec: &SwitchSpec, frames: Vec<Given>) -> Result<(), String> {
    let mut switch = Switch::new(spec, 1);
    let ports = switch.ports.len();
    let mut queues: Vec<Vec<_>> = vec![Vec::new(); ports];
    let mut shapes = Vec::new();
    for (number, (from, own, mut shape, cuts)) in frames.into_iter().enumerate() {
        let from = from % ports;
        shape.id = (from as u16, number as u16);
        if let Some(vnic) = spec.vnics.get(from).filter(|_| own) {
            shape.src = vnic.mac;
        }
        queues[from].push(shape.sent(cuts));
        shapes.push((from, shape));
    }
    let done: Vec<_> =
        queues.into_iter().enumerate().map(|(port, list)| switch.send(port, 0, list.into_iter())).collect();
    switch.run(&done);
    let (mut books, mut model) = (Books::new(ports), Model::new(spec));
    shapes.iter().for_each(|(from, shape)| books.enter(&mut model, *from, shape));
    books.check(spec, &switch, &shapes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_switches_do_as_the_model_says(spec in switch(), frames in vec(frame(), 1..80)) {
        if let Err(error) = run(&spec, frames) {
            return Err(TestCaseError::fail(error));
        }
    }
}
