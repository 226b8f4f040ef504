//! Where the switch sends a frame: the data path as the simulation sees it, and an exact model of it.
//!
//! The model says in a page what `dataplane` does with the frames that occur here (all cards started, all address
//! rules strict). Tests run the same seeds with the real stages in its place, and every event must be the same.

use std::rc::Rc;

use teaming::Placement;
use wire::Mac;

/// A port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// An uplink by number.
    Uplink(usize),
    /// A virtual machine's port by number.
    Guest(usize),
}

/// A frame at a port.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// Its VLAN, 0 for none. A guest of a port group that tags for it sends and receives it untagged.
    pub vlan: u16,
    /// The untagged frame, where somebody looks into it; otherwise it is data, and these are `None`.
    pub bytes: Option<Rc<[u8]>>,
}

/// A virtual machine's port in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPort {
    /// The VLAN it is in; `None`: all, and its guest tags.
    pub vlan: Option<u16>,
    /// Its address.
    pub mac: Mac,
    /// What its team decided.
    pub placement: Placement,
    /// Its team has uplinks.
    pub has_uplinks: bool,
}

/// What the control thread publishes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct View {
    /// For each uplink, whether some team has it in use.
    pub used: Vec<bool>,
    /// The ports of virtual machines.
    pub guests: Vec<GuestPort>,
    /// The EtherType of frames for the switch itself, if it takes any.
    pub inbox: Option<u16>,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Fate {
    /// It was for the switch itself.
    pub heard: bool,
    /// It was one of our own guests' frames come back.
    pub reflected: bool,
    /// The ports it left by, in order.
    pub to: Vec<Port>,
}

/// Something that forwards like the switch.
pub trait Datapath {
    /// Puts a snapshot in force.
    fn publish(&mut self, view: &View);

    /// Forwards one frame.
    fn forward(&mut self, from: Port, frame: &Wire) -> Fate;
}

/// The model.
#[derive(Clone, Debug, Default)]
pub struct Model(View);

impl Datapath for Model {
    fn publish(&mut self, view: &View) {
        self.0.clone_from(view);
    }

    fn forward(&mut self, from: Port, frame: &Wire) -> Fate {
        match from {
            Port::Uplink(uplink) => self.entering_by_uplink(uplink, frame),
            Port::Guest(guest) => self.sent_by_guest(guest, frame),
        }
    }
}

impl Model {
    fn owner(&self, vlan: u16, mac: Mac) -> Option<usize> {
        self.0.guests.iter().position(|g| g.mac == mac && g.vlan.is_none_or(|v| v == vlan))
    }

    fn members(&self, vlan: u16) -> impl Iterator<Item = (usize, &GuestPort)> {
        self.0.guests.iter().enumerate().filter(move |(_, g)| g.vlan.is_none_or(|v| v == vlan))
    }

    fn entering_by_uplink(&self, uplink: usize, frame: &Wire) -> Fate {
        let ethertype = frame.bytes.as_ref().and_then(|b| wire::be16(b, 12));
        if self.0.inbox.is_some() && ethertype == self.0.inbox {
            return Fate { heard: true, ..Fate::default() };
        }
        if !self.0.used[uplink] {
            return Fate::default();
        }
        if self.owner(frame.vlan, frame.src).is_some() {
            return Fate { reflected: true, ..Fate::default() };
        }
        let by = uplink as u16;
        let mut to: Vec<Port> = match (frame.dst.is_group(), self.owner(frame.vlan, frame.dst)) {
            (true, _) => {
                let designated = |g: &GuestPort| g.placement.receive.group.contains(&by);
                self.members(frame.vlan).filter(|(_, g)| designated(g)).map(|(at, _)| Port::Guest(at)).collect()
            }
            (false, Some(at)) if self.0.guests[at].placement.receive.unicast.contains(&by) => vec![Port::Guest(at)],
            _ => Vec::new(),
        };
        to.sort_unstable();
        Fate { to, ..Fate::default() }
    }

    fn sent_by_guest(&self, guest: usize, frame: &Wire) -> Fate {
        let mut to = Vec::new();
        let group = frame.dst.is_group();
        if group {
            to.extend(self.members(frame.vlan).filter(|(at, _)| *at != guest).map(|(at, _)| Port::Guest(at)));
        }
        match self.owner(frame.vlan, frame.dst).filter(|_| !group) {
            Some(own) if own == guest => {}
            Some(other) => to.push(Port::Guest(other)),
            None => {
                let send = &self.0.guests[guest].placement.send;
                // Its head as far as the addresses, which is all that a hash of the source looks at.
                let mut head = [0; 12];
                head[..6].copy_from_slice(&frame.dst.0);
                head[6..].copy_from_slice(&frame.src.0);
                match send {
                    teaming::Choice::All(all) => to.extend(all.iter().map(|u| Port::Uplink(usize::from(*u)))),
                    one => to.extend(one.pick(&head).map(|u| Port::Uplink(usize::from(u)))),
                }
            }
        }
        to.sort_unstable();
        Fate { to, ..Fate::default() }
    }
}
