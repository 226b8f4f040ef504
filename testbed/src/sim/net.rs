//! A physical network: learning switches, cables between them and to the stations, and what is broken of them.
//!
//! A frame goes all its way at the moment it is sent, by the tables and cables of that moment; only its arrival is
//! later. Delays are far below the time between two changes, so nothing is lost by that but frames caught on the way.

use std::rc::Rc;

use super::plan::{STATIONS, UPLINKS, VLANS};
use super::{Dice, Time};

/// What a cable's end is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A physical switch.
    Switch(usize),
    /// An uplink of ours.
    Uplink(usize),
    /// A host outside.
    Host(usize),
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// Data; the frame's number tells which.
    Data,
    /// Bytes that somebody looks into: a beacon, or something that looks like one. From the destination address on.
    Beacon(Rc<[u8]>),
    /// An announcement to physical switches.
    Notice(Rc<[u8]>),
}

/// A frame on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Which frame it is.
    pub id: u32,
    /// 0, or the number that the network gave to a copy it made without reason.
    pub copy: u32,
    /// Whose source address it has.
    pub src: usize,
    /// Whose address it goes to; `None`: everybody's.
    pub dst: Option<usize>,
    /// The place of its VLAN.
    pub vlan: usize,
    /// The rest.
    pub body: Body,
}

/// A frame that arrives at a station.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When.
    pub at: Time,
    /// Where.
    pub end: End,
    /// What.
    pub frame: Frame,
    /// It was for one station and some switch sent it everywhere, not knowing where that is.
    pub flooded: bool,
}

/// Frames that get lost on a cable, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Of a hundred.
    pub percent: u64,
    /// They arrive, with a bit wrong.
    pub damages: bool,
    /// Never more in a row of one sender on one VLAN and way; `None`: no mercy.
    pub mercy: Option<u64>,
}

/// A cable and its faults.
#[derive(Clone, Debug)]
pub struct Cable {
    /// Its ends.
    pub ends: [End; 2],
    /// Time a frame takes in nanoseconds, and by how much more at most.
    delay: [Time; 2],
    /// Spanning tree lets it forward; always so but between switches.
    pub forwarding: bool,
    /// Pulled, or one of its switches is off: both ends see it.
    pub cut: bool,
    /// Carries nothing this way, and nobody sees it: from the first end, from the second.
    pub dead: [bool; 2],
    /// Places of the VLANs that it lacks, a bit each.
    pub missing: u32,
    /// The same, for good: an access port carries one VLAN.
    pub lacks: u32,
    /// Loses frames this way.
    pub loss: [Option<Loss>; 2],
    /// Of a hundred frames, how many come out twice.
    pub doubles: u64,
    /// Delay varies by as much more, in nanoseconds.
    pub shakes: Time,
    /// Frames lost in a row, by way, sender and VLAN.
    lost: [[[u8; VLANS]; UPLINKS]; 2],
}

/// A learning switch and its faults.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    /// Swallows frames with the beacons' EtherType.
    pub swallows: bool,
    /// Forwards nothing; its links stay up.
    pub hangs: bool,
    /// Cables, and the way that leads out.
    cables: Vec<(usize, usize)>,
    /// Where stations are, by VLAN.
    table: Vec<[Option<Learned>; STATIONS]>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    cable: usize,
    at: Time,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Net {
    /// Switches.
    pub switches: Vec<Switch>,
    /// Cables.
    pub cables: Vec<Cable>,
    ageing: Time,
    copies: u32,
    /// The cables of uplinks and of hosts, and the ways that lead into the network.
    ports: [Vec<(usize, usize)>; 2],
    /// Frames that made more hops than there are cables: a loop.
    pub loops: u64,
}

impl Cable {
    /// A whole cable.
    pub fn new(ends: [End; 2], fixed: Time, varies: Time) -> Cable {
        Cable {
            ends,
            delay: [fixed, varies],
            forwarding: true,
            cut: false,
            dead: [false; 2],
            missing: 0,
            lacks: 0,
            loss: [None; 2],
            doubles: 0,
            shakes: 0,
            lost: [[[0; VLANS]; UPLINKS]; 2],
        }
    }

    /// True when both ends are switches'.
    pub fn is_trunk(&self) -> bool {
        matches!(self.ends, [End::Switch(_), End::Switch(_)])
    }

    /// True when frames of the VLAN pass this way.
    pub fn carries(&self, way: usize, vlan: usize) -> bool {
        self.forwarding && !self.cut && !self.dead[way] && (self.missing | self.lacks) & 1 << vlan == 0
    }

    /// Every fault taken away.
    pub fn mend(&mut self) {
        (self.cut, self.dead, self.missing, self.loss, self.doubles, self.shakes) =
            (false, [false; 2], 0, [None; 2], 0, 0);
    }

    fn loses(&mut self, way: usize, frame: &Frame, dice: &mut Dice) -> Option<Loss> {
        let loss = self.loss[way]?;
        let mut lost = dice.chance(loss.percent);
        if let Some(run) = self.lost[way].get_mut(frame.src) {
            let run = &mut run[frame.vlan];
            lost &= loss.mercy.is_none_or(|mercy| u64::from(*run) < mercy);
            *run = if lost { run.saturating_add(1) } else { 0 };
        }
        lost.then_some(loss)
    }
}

/// A frame on its way: where it is, by which cable it came, when.
struct Hop {
    switch: usize,
    cable: usize,
    at: Time,
    frame: Frame,
    flooded: bool,
}

impl Net {
    /// A whole network; spanning tree has converged. Cables of uplinks come in the order of these, and so do those of
    /// hosts.
    pub fn new(switches: Vec<Switch>, cables: Vec<Cable>, ageing: Time) -> Net {
        let mut net = Net { switches, cables, ageing, copies: 0, ports: Default::default(), loops: 0 };
        for (number, cable) in net.cables.iter().enumerate() {
            for (way, end) in cable.ends.iter().enumerate() {
                match end {
                    End::Switch(switch) => net.switches[*switch].cables.push((number, way)),
                    End::Uplink(_) => net.ports[0].push((number, way)),
                    End::Host(_) => net.ports[1].push((number, way)),
                }
            }
        }
        net.converge();
        net
    }

    /// Spanning tree converges: the first cables that connect all switches forward, the others wait. Tables
    /// are emptied, as a topology change does (IEEE 802.1D, clause 17.11).
    pub fn converge(&mut self) {
        let mut part: Vec<usize> = (0..self.switches.len()).collect();
        for cable in &mut self.cables {
            let [End::Switch(a), End::Switch(b)] = cable.ends else { continue };
            cable.forwarding = !cable.cut && part[a] != part[b];
            if cable.forwarding {
                let (from, to) = (part[a], part[b]);
                part.iter_mut().filter(|p| **p == from).for_each(|p| *p = to);
            }
        }
        for switch in &mut self.switches {
            switch.table = vec![[None; STATIONS]; VLANS];
        }
    }

    /// Its cables in words.
    pub fn describe(&self) -> String {
        let cable = |(number, c): (usize, &Cable)| {
            let waits = if c.forwarding { "" } else { " (waits)" };
            format!("cable {number}: {:?} -- {:?}{waits}", c.ends[0], c.ends[1])
        };
        self.cables.iter().enumerate().map(cable).collect::<Vec<_>>().join("\n")
    }

    /// The cable of a station, and the way that leads into the network.
    pub fn cable_of(&self, end: End) -> Option<(usize, usize)> {
        match end {
            End::Uplink(uplink) => self.ports[0].get(uplink).copied(),
            End::Host(host) => self.ports[1].get(host).copied(),
            End::Switch(_) => None,
        }
    }

    /// True when an uplink's interface has link.
    pub fn has_link(&self, uplink: usize) -> bool {
        self.cable_of(End::Uplink(uplink)).is_some_and(|(cable, _)| !self.cables[cable].cut)
    }

    /// Sends a frame from a station; where and when it arrives is added to `out`.
    pub fn send(&mut self, from: End, frame: Frame, now: Time, dice: &mut Dice, out: &mut Vec<Arrival>) {
        let Some((cable, way)) = self.cable_of(from) else { return };
        let mut hops = Vec::new();
        self.pass(cable, way, Hop { switch: 0, cable, at: now, frame, flooded: false }, dice, out, &mut hops);
        let mut budget = 16 * self.cables.len() * (1 + self.cables.len());
        while let Some(hop) = hops.pop() {
            budget -= 1;
            if budget == 0 {
                self.loops += 1;
                return;
            }
            self.switch(hop, now, dice, out, &mut hops);
        }
    }

    /// What a switch does with a frame.
    fn switch(&mut self, hop: Hop, now: Time, dice: &mut Dice, out: &mut Vec<Arrival>, hops: &mut Vec<Hop>) {
        let switch = &mut self.switches[hop.switch];
        if switch.hangs || switch.swallows && matches!(hop.frame.body, Body::Beacon(_)) {
            return;
        }
        let table = &mut switch.table[hop.frame.vlan];
        table[hop.frame.src] = Some(Learned { cable: hop.cable, at: now });
        let known = hop.frame.dst.and_then(|dst| table[dst]).filter(|l| now - l.at < self.ageing);
        let flooded = hop.flooded || hop.frame.dst.is_some() && known.is_none();
        for at in 0..switch.cables.len() {
            let (cable, way) = self.switches[hop.switch].cables[at];
            if cable != hop.cable && known.is_none_or(|l| l.cable == cable) {
                let next = Hop { frame: hop.frame.clone(), flooded, ..hop };
                self.pass(cable, way, next, dice, out, hops);
            }
        }
    }

    /// A frame goes over a cable: to the next switch, or it arrives.
    fn pass(
        &mut self,
        number: usize,
        way: usize,
        hop: Hop,
        dice: &mut Dice,
        out: &mut Vec<Arrival>,
        hops: &mut Vec<Hop>,
    ) {
        let cable = &mut self.cables[number];
        if !cable.carries(way, hop.frame.vlan) {
            return;
        }
        let mut frame = hop.frame;
        match cable.loses(way, &frame, dice) {
            None => {}
            Some(loss) if loss.damages => match damage(&frame.body, dice) {
                Some(body) => frame.body = body,
                None => return,
            },
            Some(_) => return,
        }
        let again = cable.doubles > 0 && dice.chance(cable.doubles);
        let (end, [fixed, varies]) = (cable.ends[1 - way], cable.delay);
        let varies = varies + cable.shakes;
        for copy in 0..=u32::from(again) {
            let at = hop.at + fixed + if varies > 0 { dice.below(varies) } else { 0 };
            let mut frame = frame.clone();
            if copy > 0 {
                self.copies += 1;
                frame.copy = self.copies;
            }
            match end {
                End::Switch(switch) => hops.push(Hop { switch, cable: number, at, frame, flooded: hop.flooded }),
                end => out.push(Arrival { at, end, frame, flooded: hop.flooded }),
            }
        }
    }
}

/// Beacons with a bit wrong: as a link without frame check sequences would deliver them. Others are dropped by
/// the next switch.
fn damage(body: &Body, dice: &mut Dice) -> Option<Body> {
    let Body::Beacon(bytes) = body else { return None };
    let mut bytes = bytes.to_vec();
    // Behind the EtherType: with another one it is a frame of somebody else's.
    let at = dice.between(14, bytes.len() as u64 - 1) as usize;
    bytes[at] ^= 1 << dice.below(8);
    Some(Body::Beacon(Rc::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn triangle() -> Net {
        let ends = [
            [End::Switch(0), End::Switch(1)],
            [End::Switch(1), End::Switch(2)],
            [End::Switch(2), End::Switch(0)],
            [End::Uplink(0), End::Switch(0)],
            [End::Uplink(1), End::Switch(1)],
            [End::Host(0), End::Switch(2)],
        ];
        let cables = ends.into_iter().map(|ends| Cable::new(ends, 1, 0)).collect();
        Net::new(vec![Switch::default(); 3], cables, 100)
    }

    fn sent(net: &mut Net, from: End, src: usize, dst: Option<usize>, now: Time) -> Vec<(End, bool)> {
        let mut out = Vec::new();
        let frame = Frame { id: 1, copy: 0, src, dst, vlan: 0, body: Body::Data };
        net.send(from, frame, now, &mut Dice::new(1), &mut out);
        out.sort_by_key(|a| format!("{:?}", a.end));
        out.iter().map(|a| (a.end, a.flooded)).collect()
    }

    #[test]
    fn switches_learn_and_forget_and_a_spare_cable_waits() {
        let mut net = triangle();
        let (host, a, b) = (End::Host(0), End::Uplink(0), End::Uplink(1));
        assert_eq!(sent(&mut net, a, 0, None, 0), [(host, false), (b, false)], "one copy each, though there is a ring");
        assert_eq!(sent(&mut net, host, 2, Some(0), 50), [(a, false)], "learned");
        assert_eq!(sent(&mut net, host, 2, Some(0), 150), [(a, true), (b, true)], "forgotten");
        net.cables[1].cut = true;
        assert_eq!(sent(&mut net, host, 2, None, 151), []);
        net.converge();
        assert_eq!(sent(&mut net, host, 2, None, 152), [(a, false), (b, false)], "the spare cable stands in");
        assert_eq!(net.loops, 0);
    }

    #[test]
    fn mercy_bounds_losses_in_a_row() {
        let mut net = triangle();
        net.cables[3].loss[0] = Some(Loss { percent: 100, damages: false, mercy: Some(2) });
        let got: Vec<bool> = (0..9).map(|now| !sent(&mut net, End::Uplink(0), 0, None, now).is_empty()).collect();
        assert_eq!(got, [false, false, true, false, false, true, false, false, true]);
    }
}
