//! Ports that learn addresses: what the model says, frame by frame and by the clock, and what becomes of a crowd.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use wire::{Mac, Tag};

use crate::frames::Shape;
use crate::learnt::{AGE, PER_PORT};
use crate::lockstep::Lockstep;
use crate::properties::{GROUPS, Given, frame, spare, switch};
use crate::spec::SwitchSpec;
use crate::traffic::{STRANGER, mac, plain, spec};

/// A switch some of whose ports learn, and few of whose ports are cut off from all the others. Most have no port that
/// may be promiscuous: the common frame is decided in another place then.
fn learning_switch() -> impl Strategy<Value = SwitchSpec> {
    let vlan = || prop::option::weighted(0.7, select(vec!["10", "10", "0,10", "0-4094"]));
    let ports = vec((prop::bool::weighted(0.6), vlan()), 6);
    (switch(), ports, prop::bool::weighted(0.6)).prop_map(|(mut spec, choices, private)| {
        spec.vnics.iter_mut().for_each(|vnic| vnic.promiscuous &= !private);
        for (vnic, (learns, vlan)) in spec.vnics.iter_mut().zip(choices) {
            // The configuration sees to it that the one goes with the other.
            (vnic.mac_learning, vnic.forged_transmits) = (learns, learns || vnic.forged_transmits);
            match vlan {
                Some("10") => vnic.vlan = portgroups::VlanMode::Vst(10),
                Some(set) => vnic.vlan = portgroups::VlanMode::Vgt(set.parse().unwrap()),
                None => {}
            }
        }
        spec
    })
}

/// Frames between stations behind the ports, few enough to meet again; some with addresses that are nobody's to have.
fn chat() -> impl Strategy<Value = Given> {
    let station = || (1..5usize).prop_map(spare);
    let nobody = || select(vec![Mac([0; 6]), GROUPS[0]]);
    let src = prop_oneof![12 => station().prop_map(Some), 4 => Just(None), 1 => nobody().prop_map(Some)];
    let dst = prop_oneof![8 => station().prop_map(Some), 4 => Just(None), 1 => Just(Some(Mac([0; 6])))];
    let tag = prop::bool::weighted(0.4);
    (frame(), src, dst, tag).prop_map(|((from, own, mut shape, cuts), src, dst, untagged)| {
        if untagged {
            (shape.tag, shape.inner) = (None, None);
        }
        shape.dst = dst.unwrap_or(shape.dst);
        shape.src = src.unwrap_or(shape.src);
        (from, own && src.is_none(), shape, cuts)
    })
}

/// VLANs to talk in, by the tag that a guest gives; frames without are in that of their port.
const TAGS: [Option<Tag>; 3] = [None, Some(Tag(10)), Some(Tag(20))];

/// What a guest itself says to stations, nothing special about it: what is decided in the quickest way.
fn talk() -> impl Strategy<Value = Given> {
    let tag = prop_oneof![3 => Just(TAGS[1]), 1 => select(TAGS.to_vec())];
    (1..5usize, tag).prop_map(|(to, tag)| (0, true, Shape { tag, ..plain(0, spare(to)) }, Vec::new()))
}

#[derive(Clone, Debug)]
enum Step {
    /// A burst from one port, to be taken modulo the ports.
    Send(usize, Vec<Given>),
    /// A station behind each vNIC says where it is, in some VLANs: which station, is counted on from this one.
    Meet(usize),
    /// So many seconds pass.
    Wait(u32),
    Sweep,
    /// A vNIC goes, to be taken modulo the vNICs.
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<usize>(), vec(chat(), 1..6)).prop_map(|(from, frames)| Step::Send(from, frames)),
        6 => (any::<usize>(), vec(talk(), 2..12)).prop_map(|(from, frames)| Step::Send(from, frames)),
        2 => (0..4usize).prop_map(Step::Meet),
        4 => select(vec![1, 2, AGE / 2, AGE - 1, AGE, AGE + 1]).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

fn run(spec: &SwitchSpec, steps: Vec<Step>) -> Result<(), String> {
    let mut both = Lockstep::new(spec);
    let (ports, vnics) = (both.switch.ports.len(), spec.vnics.len());
    for step in steps {
        match step {
            Step::Send(from, frames) => {
                let own = spec.vnics.get(from % ports).map(|v| v.mac);
                let shapes = frames.into_iter().map(|(_, by_own, shape, cuts)| {
                    let src = own.filter(|_| by_own).unwrap_or(shape.src);
                    (Shape { src, ..shape }, cuts)
                });
                both.send(from % ports, shapes);
            }
            Step::Meet(first) => (0..vnics).for_each(|port| {
                let hello = |tag| Shape { tag, src: spare(1 + (first + port) % 4), ..plain(port, Mac::BROADCAST) };
                both.send(port, TAGS.map(|tag| (hello(tag), Vec::new())));
            }),
            Step::Wait(seconds) => both.wait(seconds),
            Step::Sweep => both.sweep(),
            Step::Leave(port) => both.forget(port % vnics),
        }
    }
    both.check()
}

/// A crowd behind one port: how many stations its neighbour has, how many it has itself, and the seconds between.
fn crowd() -> impl Strategy<Value = (usize, usize, u32)> {
    (500..1500usize, PER_PORT - 50..PER_PORT + 3000, 0..10u32)
}

/// Station `n` behind `port`.
fn station(port: usize, n: usize) -> Mac {
    let [.., a, b] = (n as u32).to_be_bytes();
    Mac([2, 0, 1, port as u8, a, b])
}

/// Port 1 sends from more addresses than a port may have. It keeps so many and no more, of its own choice, and its
/// neighbour, port 0, keeps all.
fn crowded(neighbours: usize, crowd: usize, pause: u32) -> Result<(), String> {
    let spec = learners();
    let mut both = Lockstep::new(&spec);
    let says = |port, n| (Shape { src: station(port, n), ..plain(port, mac(2)) }, Vec::new());
    both.send(0, (0..neighbours).map(|n| says(0, n)));
    both.wait(pause);
    both.send(1, (0..crowd).map(|n| says(1, n)));

    let asks = |port: usize| move |n| (plain(2, station(port, n)), Vec::new());
    both.send(2, (0..neighbours).map(asks(0)));
    let first = both.put_through(2, (0..crowd).map(asks(1)));
    let reached = both.reached();
    let mut known = 0;
    for n in 0..crowd {
        let number = first + n;
        // Where it goes when it is known, and when it is not, is for the model to say; which it is, for the switch.
        if reached.get(&number).is_some_and(|ports| ports.iter().eq(&[1])) {
            known += 1;
        } else {
            both.model.learnt.forget(10, station(1, n));
        }
        both.enter(number);
    }
    both.check()?;
    let room = crowd.min(PER_PORT);
    if known == room { Ok(()) } else { Err(format!("{known} of {crowd} stations are known, {room} expected")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_switches_learn_as_the_model_says(spec in learning_switch(), steps in vec(step(), 1..40)) {
        if let Err(error) = run(&spec, steps) {
            return Err(TestCaseError::fail(error));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crowd_takes_nothing_from_its_neighbours((neighbours, crowd, pause) in crowd()) {
        if let Err(error) = crowded(neighbours, crowd, pause) {
            return Err(TestCaseError::fail(error));
        }
    }
}

const UPLINK: usize = 3;

/// Three guests in VLAN 10, of which the first two learn, and an uplink (port 3) that all send by.
fn learners() -> SwitchSpec {
    let mut spec = spec(3, true);
    spec.vnics[..2].iter_mut().for_each(|v| (v.mac_learning, v.forged_transmits) = (true, true));
    spec
}

/// A frame of a station behind `port`.
fn from_station(port: usize, src: Mac) -> Shape {
    Shape { src, ..plain(port, mac(2)) }
}

/// A frame from outside, in the guests' VLAN.
fn from_outside(src: Mac, dst: Mac) -> Shape {
    Shape { src, tag: Some(Tag::new(10, 0)), ..plain(0, dst) }
}

#[test]
fn an_address_is_forgotten_after_ten_minutes_of_silence() {
    let (spec, far) = (learners(), Mac([2, 0, 0, 0, 0, 9]));
    let mut both = Lockstep::new(&spec);
    let to_it = || plain(2, STRANGER);
    let flooded = vec![0, 1, UPLINK];
    assert_eq!(both.one(2, to_it()), flooded, "nobody was heard from");
    assert_eq!(both.one(0, from_station(0, STRANGER)), [2]);
    assert_eq!(both.one(2, to_it()), [0]);
    assert_eq!(both.one(UPLINK, from_outside(far, STRANGER)), [0]);

    both.wait(AGE);
    assert_eq!(both.one(2, to_it()), [0], "ten minutes are not more than ten minutes");
    assert_eq!(both.one(UPLINK, from_outside(STRANGER, mac(2))), [], "a station of ours, sent back");
    both.wait(1);
    assert_eq!(both.one(2, to_it()), flooded);
    assert_eq!(both.one(UPLINK, from_outside(far, STRANGER)), [0, 1]);
    assert_eq!(both.one(UPLINK, from_outside(STRANGER, mac(2))), [2], "it has moved to another host");

    // Any word of it counts from then on.
    both.one(0, from_station(0, STRANGER));
    both.wait(AGE);
    both.one(0, from_station(0, STRANGER));
    both.wait(AGE);
    assert_eq!(both.one(2, to_it()), [0]);
    both.wait(1);
    both.sweep();
    assert_eq!(both.one(2, to_it()), flooded);
    both.check().unwrap();
}

#[test]
fn a_station_is_where_it_was_heard_last() {
    let spec = learners();
    let mut both = Lockstep::new(&spec);
    both.one(0, from_station(0, STRANGER));
    assert_eq!(both.one(2, plain(2, STRANGER)), [0]);
    assert_eq!(both.one(0, plain(0, STRANGER)), [], "on its own side of the port");
    both.one(1, from_station(1, STRANGER));
    assert_eq!(both.one(2, plain(2, STRANGER)), [1]);
    assert_eq!(both.one(0, plain(0, STRANGER)), [1]);
    // An address that the configuration gave somebody is not to be had.
    both.one(1, from_station(1, mac(0)));
    assert_eq!(both.one(2, plain(2, mac(0))), [0]);
    both.forget(1);
    assert_eq!(both.one(2, plain(2, STRANGER)), [0, 1, UPLINK]);
    both.check().unwrap();
}

#[test]
fn a_promiscuous_guest_is_offered_a_frame_once() {
    let mut spec = learners();
    let hypervisor = &mut spec.vnics[0];
    (hypervisor.vlan, hypervisor.promiscuous) = (portgroups::VlanMode::Vgt("10,20".parse().unwrap()), true);
    (hypervisor.filter.promiscuous, hypervisor.filter.vlans) = (true, Some(vec![20]));
    let mut both = Lockstep::new(&spec);
    assert_eq!(both.one(2, plain(2, STRANGER)), [0, 1, UPLINK]);
    both.one(0, Shape { tag: Some(Tag::new(10, 0)), ..from_station(0, STRANGER) });
    assert_eq!(both.one(2, plain(2, STRANGER)), [0]);
    let totals = both.switch.totals(0);
    assert_eq!((totals.out_offered, totals.out_frames), (2, 2), "its VLAN filter has no say");
    both.check().unwrap();
}
