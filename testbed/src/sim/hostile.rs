//! Strangers: other switches' beacons, forged ones, cut ones, and old ones sent again.

use std::collections::VecDeque;
use std::rc::Rc;

use beacon::{Beacon, Key, SwitchId};
use wire::Mac;

use super::forward::{Port, Wire};
use super::net::{Body, End, Frame};
use super::plan::ETHERTYPE;
use super::world::{Event, World};
use super::{Datapath, Dice, Time, plan};

/// Where a beacon carries the random number of its switch's start.
const NONCE: std::ops::Range<usize> = 38..46;
/// Beacons remembered.
const MEMORY: usize = 16;

/// What a stranger knows: a switch of its own, the id of ours, and beacons it overheard.
pub(super) struct Stranger {
    own: Key,
    ours: Key,
    overheard: VecDeque<(Rc<[u8]>, usize, Time)>,
}

impl Stranger {
    /// `id` is our switch's, which everybody can read in its beacons.
    pub(super) fn new(id: [u8; 16], dice: &mut Dice) -> Stranger {
        let secret: [u8; 32] = std::array::from_fn(|_| dice.draw() as u8);
        let other: [u8; 16] = std::array::from_fn(|_| dice.draw() as u8);
        Stranger {
            own: Key::new(SwitchId(other), &secret, ETHERTYPE),
            ours: Key::new(SwitchId(id), &secret, ETHERTYPE),
            overheard: VecDeque::new(),
        }
    }

    /// A beacon passes a host.
    pub(super) fn overhear(&mut self, bytes: &Rc<[u8]>, vlan: usize, now: Time) {
        if self.overheard.len() == MEMORY {
            self.overheard.pop_front();
        }
        self.overheard.push_back((bytes.clone(), vlan, now));
    }

    /// A beacon that says it is ours and of this start, as anybody can read in one, and is signed with another key.
    fn forge(&self, claims: Beacon) -> Vec<u8> {
        let nonce = self.overheard.back().and_then(|(bytes, ..)| bytes.get(NONCE)?.try_into().ok());
        let nonce = nonce.map_or(claims.nonce, u64::from_be_bytes);
        beacon::encode(&Beacon { nonce, ..claims }, &self.ours).to_vec()
    }

    /// Something that must change nothing, to be sent on the VLAN at place `vlan`. What was overheard within `fresh`
    /// is not sent again on its own VLAN: to carry a beacon past a cut faster than it dies is to mend the cut.
    fn invent(&self, vlan: usize, id: u16, uplinks: usize, fresh: Time, now: Time, dice: &mut Dice) -> Vec<u8> {
        let uplink = dice.place(uplinks) as u16;
        let source = self.own.switch().source_mac(uplink);
        let (nonce, sequence) = (dice.draw(), dice.pick(&[now / 1000, u64::MAX, 0]));
        let claims = Beacon { source, uplink, nonce, sequence, vlan: id, hears: dice.draw() };
        let old = |(bytes, on, at): &(Rc<[u8]>, usize, Time)| {
            (*on != vlan || now.saturating_sub(*at) > fresh).then(|| bytes.to_vec())
        };
        let replay = self.overheard.iter().find_map(old);
        match (dice.below(6), replay) {
            (0, _) => beacon::encode(&claims, &self.own).to_vec(),
            (1 | 5, _) => self.forge(claims),
            (2, Some(mut bytes)) if bytes.len() > 20 => {
                bytes.truncate(dice.between(20, bytes.len() as u64 - 1) as usize);
                bytes
            }
            (3 | 4, Some(bytes)) => bytes,
            _ => {
                let mut bytes = beacon::encode(&claims, &self.ours).to_vec();
                bytes.iter_mut().skip(14).for_each(|b| *b = dice.draw() as u8);
                bytes
            }
        }
    }
}

impl<D: Datapath> World<D> {
    /// A guest forges a beacon too: it leaves by its uplink, and comes back by the others.
    fn guest_injects(&mut self) {
        let guest = self.dice[0].place(self.plan.guests.len());
        let (mac, vlan) = (self.plan.guests[guest].mac, self.plan.guests[guest].vlan);
        let (uplink, sequence) = (self.dice[0].place(self.plan.uplinks) as u16, self.now / 1000);
        let claims = Beacon { source: mac, uplink, nonce: 0, sequence, vlan: self.plan.vlans[vlan], hears: u64::MAX };
        let bytes: Rc<[u8]> = Rc::from(self.stranger.forge(claims));
        let frame = Wire { dst: Mac::BROADCAST, src: mac, vlan: claims.vlan, bytes: Some(bytes.clone()) };
        let src = self.plan.guest_station(guest);
        for port in self.datapath.forward(Port::Guest(guest), &frame).to {
            if let Port::Uplink(uplink) = port {
                let body = Body::Beacon(bytes.clone());
                self.send(End::Uplink(uplink), Frame { id: 0, copy: 0, src, dst: None, vlan, body });
            }
        }
    }

    /// A stranger sends something from some host's place, and will again.
    pub(super) fn inject(&mut self) {
        let host = self.dice[0].place(self.plan.hosts.len());
        let vlan = self.plan.hosts[host].vlan;
        let fresh = self.plan.interval() * self.plan.threshold + 2 * plan::jitter(self.plan.interval_ms);
        let (id, uplinks) = (self.plan.vlans[vlan], self.plan.uplinks);
        let bytes = self.stranger.invent(vlan, id, uplinks, fresh, self.now, &mut self.dice[0]);
        let src = self.plan.host_station(host);
        self.seen.hostile += 1;
        if self.dice[0].chance(20) {
            self.guest_injects();
        }
        self.send(End::Host(host), Frame { id: 0, copy: 0, src, dst: None, vlan, body: Body::Beacon(Rc::from(bytes)) });
        let next = self.now + self.dice[0].between(self.plan.interval() / 8, self.plan.interval());
        self.at(next, Event::Inject);
    }
}
