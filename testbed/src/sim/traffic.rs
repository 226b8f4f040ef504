//! Frames that guests and hosts send, and what becomes of them.

use wire::Mac;

use super::forward::{Fate, Port, Wire};
use super::net::{Arrival, Body, End, Frame};
use super::world::{Event, Heard, World};
use super::{Datapath, Time};

/// Who got a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Guest(usize),
    Host(usize),
}

/// A data frame and who got it.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) sent: Time,
    /// Some guest sent it by all uplinks.
    pub(super) shotgun: bool,
    /// By which uplinks it left, a bit each.
    pub(super) by: u32,
    /// To whom it came, and which copy.
    pub(super) got: Vec<(Who, u32)>,
}

/// The data frames of the present phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    first: u32,
    probes: Vec<Probe>,
}

impl Ledger {
    fn open(&mut self, sent: Time) -> u32 {
        self.probes.push(Probe { sent, shotgun: false, by: 0, got: Vec::new() });
        // The number 0 is that of frames nobody counts.
        self.first + self.probes.len() as u32
    }

    pub(super) fn probe(&mut self, id: u32) -> Option<&mut Probe> {
        let place = id.checked_sub(self.first + 1)?;
        self.probes.get_mut(place as usize)
    }

    /// How many times somebody got a frame, not counting what the network doubled.
    pub(super) fn copies(&mut self, id: u32, who: Who) -> usize {
        self.probe(id).map_or(0, |probe| probe.got.iter().filter(|got| **got == (who, 0)).count())
    }

    /// Forgets all frames; those still on their way are not counted when they come.
    pub(super) fn close(&mut self) {
        self.first += self.probes.len() as u32;
        self.probes.clear();
    }
}

impl<D: Datapath> World<D> {
    /// Sends a frame from a station into the physical network.
    pub(super) fn send(&mut self, from: End, frame: Frame) {
        let mut arrivals = Vec::new();
        self.net.send(from, frame, self.now, &mut self.dice[0], &mut arrivals);
        for arrival in arrivals {
            self.at(arrival.at, Event::Arrive(arrival));
        }
    }

    /// A host says something, and will again.
    pub(super) fn talk(&mut self, host: usize) {
        self.host_sends(host, None);
        let interval = self.plan.interval();
        let next = self.now + self.dice[0].between(interval / 2, 3 * interval);
        self.at(next, Event::Talk(host));
    }

    /// A host sends a frame to a guest, or to everybody.
    pub(super) fn host_sends(&mut self, host: usize, to: Option<usize>) -> u32 {
        let id = self.ledger.open(self.now);
        let dst = to.map(|guest| self.plan.guest_station(guest));
        let (src, vlan) = (self.plan.host_station(host), self.plan.hosts[host].vlan);
        self.send(End::Host(host), Frame { id, copy: 0, src, dst, vlan, body: Body::Data });
        id
    }

    /// A guest sends a frame to a host, or to everybody.
    pub(super) fn guest_sends(&mut self, guest: usize, to: Option<usize>) -> Result<u32, String> {
        let id = self.ledger.open(self.now);
        let place = self.plan.guests[guest].vlan;
        let frame = Wire {
            dst: to.map_or(Mac::BROADCAST, |host| self.plan.hosts[host].mac),
            src: self.plan.guests[guest].mac,
            vlan: self.plan.vlans[place],
            bytes: None,
        };
        let fate = self.datapath.forward(Port::Guest(guest), &frame);
        let shotgun = matches!(self.view.guests[guest].placement.send, teaming::Choice::All(_));
        for port in fate.to {
            match port {
                Port::Guest(other) if other == guest => return Err(format!("guest {guest} gets its own frame back")),
                Port::Guest(other) => self.got(id, 0, Who::Guest(other), false)?,
                Port::Uplink(uplink) => {
                    if let Some(probe) = self.ledger.probe(id) {
                        probe.by |= 1 << uplink;
                        probe.shotgun = shotgun;
                    }
                    let (src, dst) = (self.plan.guest_station(guest), to.map(|host| self.plan.host_station(host)));
                    self.send(End::Uplink(uplink), Frame { id, copy: 0, src, dst, vlan: place, body: Body::Data });
                }
            }
        }
        Ok(id)
    }

    /// A frame comes out of the physical network.
    pub(super) fn arrive(&mut self, arrival: Arrival) -> Result<(), String> {
        let Arrival { end, frame, flooded, .. } = arrival;
        match end {
            End::Switch(_) => Ok(()),
            End::Host(host) => match &frame.body {
                Body::Data => self.got(frame.id, frame.copy, Who::Host(host), false),
                Body::Beacon(bytes) => {
                    self.stranger.overhear(bytes, frame.vlan, self.now);
                    Ok(())
                }
                Body::Notice(_) => Ok(()),
            },
            End::Uplink(uplink) if self.net.has_link(uplink) => self.comes_in(uplink, frame, flooded),
            End::Uplink(_) => Ok(()),
        }
    }

    fn comes_in(&mut self, uplink: usize, frame: Frame, flooded: bool) -> Result<(), String> {
        let bytes = match &frame.body {
            Body::Data => None,
            Body::Beacon(bytes) | Body::Notice(bytes) => Some(bytes.clone()),
        };
        let vlan = self.plan.vlans[frame.vlan];
        let wire = Wire {
            dst: frame.dst.map_or(Mac::BROADCAST, |station| self.plan.address(station)),
            src: self.plan.address(frame.src),
            vlan,
            bytes: bytes.clone(),
        };
        let Fate { heard, reflected, to } = self.datapath.forward(Port::Uplink(uplink), &wire);
        match bytes {
            Some(bytes) if heard => {
                self.seen.beacons.1 += 1;
                self.trace.add(self.now, 3, (uplink as u64) << 16 | u64::from(vlan), String::new);
                self.inbox.push(Heard { uplink, vlan, bytes, at: self.now });
            }
            _ => self.uplinks[uplink].arrivals += u64::from(!reflected),
        }
        for port in to {
            match (port, &frame.body) {
                (Port::Uplink(out), _) => {
                    return Err(format!("a frame goes from uplink {uplink} to uplink {out}: a loop"));
                }
                (Port::Guest(guest), _) if frame.src == self.plan.guest_station(guest) => {
                    return Err(format!("guest {guest} gets its own frame back by uplink {uplink}"));
                }
                (Port::Guest(guest), Body::Beacon(_)) if self.view.inbox.is_some() => {
                    return Err(format!("a beacon reaches guest {guest} by uplink {uplink}"));
                }
                (Port::Guest(guest), Body::Data) => self.got(frame.id, frame.copy, Who::Guest(guest), flooded)?,
                (Port::Guest(_), _) => {}
            }
        }
        Ok(())
    }

    /// True for a guest that takes group frames in by one uplink of each part, while the parts may have changed or beacons
    /// get lost without end.
    fn unsettled_parts(&self, guest: usize) -> bool {
        let parts = self.view.guests[guest].placement.receive.group.len();
        let recent = self.now < self.story.base + self.plan.bound();
        parts > 1 && (recent || self.faults.iter().any(|(_, fault)| fault.grave()))
    }

    /// Somebody gets a data frame: never twice but for good reasons.
    fn got(&mut self, id: u32, copy: u32, who: Who, flooded: bool) -> Result<(), String> {
        let (moved, parts) = match who {
            Who::Guest(guest) => (self.guests[guest].moved, self.unsettled_parts(guest)),
            Who::Host(_) => (0, false),
        };
        self.seen.frames += 1;
        let code = match who {
            Who::Guest(guest) => guest as u64,
            Who::Host(host) => 1 << 8 | host as u64,
        };
        self.trace
            .add(self.now, 4, u64::from(id) << 16 | code, || format!("frame {id} (copy {copy}) comes to {who:?}"));
        let Some(probe) = self.ledger.probe(id) else { return Ok(()) };
        let again = probe.got.contains(&(who, copy));
        probe.got.push((who, copy));
        if !again {
            return Ok(());
        }
        match who {
            // The physical network did not know where the guest is; every uplink in use takes frames for it.
            Who::Guest(_) if flooded => self.seen.flooded += 1,
            Who::Guest(_) if moved >= probe.sent => {}
            // A VLAN that was cut in two in a tie is whole again, and the parts do not hear it yet.
            Who::Guest(_) if parts => self.seen.healing += 1,
            Who::Host(_) if probe.shotgun => {}
            _ => return Err(format!("{who:?} gets frame {id} twice")),
        }
        Ok(())
    }
}
