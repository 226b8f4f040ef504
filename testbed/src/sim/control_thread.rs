//! What the control thread of the program does around the policies, at the times of this clock.

use std::rc::Rc;

use teaming::Choice;
use wire::be16;

use super::forward::{GuestPort, View};
use super::net::{Body, End, Frame};
use super::plan::{ETHERTYPE, Tagging};
use super::world::{Event, World, duration};
use super::{Datapath, Time};

impl<D: Datapath> World<D> {
    /// Has the control thread wake at `at`, if it would not do so earlier anyway.
    pub(super) fn wake_by(&mut self, at: Time) {
        if at < self.wake.1 {
            self.wake_at(at);
        }
    }

    fn wake_at(&mut self, at: Time) {
        self.wake = (self.wake.0 + 1, at);
        self.at(at, Event::Wake(self.wake.0));
    }

    /// One turn of its loop.
    pub(super) fn control_wakes(&mut self) -> Result<(), String> {
        if self.now < self.stalled {
            self.wake_at(self.stalled);
            return Ok(());
        }
        let now = duration(self.now);
        if self.tell_links() {
            self.publish()?;
        }
        for heard in std::mem::take(&mut self.inbox) {
            self.policies.hear(heard.uplink as u16, heard.vlan, &heard.bytes, duration(heard.at));
        }
        let mut out = Vec::new();
        let uplinks = &self.uplinks;
        let arrivals = |u: u16| uplinks.get(usize::from(u)).map_or(0, |u| u.arrivals);
        let changed = self.policies.advance(now, arrivals, &mut |uplink, vlan, frame| {
            out.push((usize::from(uplink), vlan, Rc::from(frame)));
        });
        for (uplink, vlan, bytes) in out {
            self.originate(uplink, vlan, bytes)?;
        }
        // Nobody is too busy here.
        let moves = self.policies.balance(&mut teaming::Loads::default(), now);
        if changed || moves {
            self.publish()?;
        }
        let late = self.dice[1].below(self.plan.lateness.max(1));
        // A day, when nothing is due.
        let due = self.policies.next_due().map_or(self.now + 86_400_000_000_000, |due| due.as_nanos() as u64);
        self.wake_at(due.max(self.now) + late);
        Ok(())
    }

    /// True when some placement may have changed.
    fn tell_links(&mut self) -> bool {
        let mut news = false;
        for (number, uplink) in self.uplinks.iter_mut().enumerate() {
            let up = self.net.has_link(number);
            if up != uplink.told {
                uplink.told = up;
                uplink.downs += u64::from(!up);
                news = true;
                self.trace.add(self.now, 1, (number as u64) << 1 | u64::from(up), || {
                    format!("uplink {number} {} link", if up { "has" } else { "lost its" })
                });
            }
        }
        let states: Vec<(u16, bool)> = self.uplinks.iter().enumerate().map(|(n, u)| (n as u16, u.told)).collect();
        news && self.policies.set_links(&states, duration(self.now))
    }

    /// Tells the links for the first time and publishes the first snapshot.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let states: Vec<(u16, bool)> = (0..self.plan.uplinks).map(|n| (n as u16, self.net.has_link(n))).collect();
        for ((_, up), uplink) in states.iter().zip(&mut self.uplinks) {
            uplink.told = *up;
        }
        self.policies.set_links(&states, duration(0));
        self.publish()?;
        self.wake_by(0);
        Ok(())
    }

    fn originate(&mut self, uplink: usize, vlan: u16, bytes: Rc<[u8]>) -> Result<(), String> {
        let Some(place) = self.plan.vlans.iter().position(|v| *v == vlan) else {
            return Err(format!("a frame of the switch's own leaves on VLAN {vlan}, which nobody uses"));
        };
        let beacon = be16(&bytes, 12) == Some(ETHERTYPE);
        let src = bytes.get(6..12).and_then(wire::Mac::read).and_then(|mac| self.plan.station(mac));
        let (src, body) = match (beacon, src) {
            (true, _) => (uplink, Body::Beacon(bytes)),
            (false, Some(src)) => (src, Body::Notice(bytes)),
            (false, None) => return Err("an announcement of an address that no guest has".to_owned()),
        };
        self.seen.beacons.0 += u64::from(beacon);
        let frame = Frame { id: 0, copy: 0, src, dst: None, vlan: place, body };
        self.send(End::Uplink(uplink), frame);
        Ok(())
    }

    /// Places every guest anew, has its address announced where that changed, and puts a snapshot in force.
    pub(super) fn publish(&mut self) -> Result<(), String> {
        let inbox = self.policies.prober().map(|_| ETHERTYPE);
        let used = (0..self.plan.uplinks).map(|u| self.policies.uses(u as u16)).collect();
        let mut view = View { used, guests: Vec::with_capacity(self.guests.len()), inbox };
        for number in 0..self.guests.len() {
            let guest = &self.plan.guests[number];
            let (mac, group) = (guest.mac, guest.group);
            let Some((placement, has_uplinks)) = self.policies.place(group, number as u16, mac) else {
                return Err(format!("guest {number} has no place"));
            };
            let vlan = match self.plan.groups[group].tagging {
                Tagging::Switch(place) => Some(self.plan.vlans[place]),
                Tagging::Guest => None,
            };
            let port = GuestPort { vlan, mac, placement, has_uplinks };
            let by = port.placement.send.announce_by(mac);
            if self.guests[number].announced.as_ref() != Some(&by) {
                let vlans = vlan.map_or_else(|| self.plan.vlans.clone(), |v| vec![v]);
                self.policies.announce(number as u16, Some(mac), &vlans, &by, duration(self.now));
                self.guests[number].announced = Some(by);
            }
            view.guests.push(port);
        }
        self.note_moves(&view)?;
        self.view = view;
        self.datapath.publish(&self.view);
        self.check_quiet()?;
        self.check_placements()
    }

    /// Notes whose frames take another way than before.
    fn note_moves(&mut self, view: &View) -> Result<(), String> {
        for (number, port) in view.guests.iter().enumerate() {
            let before = self.view.guests.get(number).map(|p| &p.placement);
            if before == Some(&port.placement) {
                continue;
            }
            let sends = before.is_none_or(|p| !same_way(&p.send, &port.placement.send));
            self.guests[number].moved = self.now;
            self.seen.moves += u64::from(sends && before.is_some());
            let what = super::checks::uplinks_of(&port.placement.send);
            let group = port.placement.receive.group.iter().fold(0u32, |m, u| m | 1 << u);
            self.trace.add(self.now, 2, (number as u64) << 40 | u64::from(what) << 20 | u64::from(group), || {
                format!(
                    "guest {number} sends by {:?}, groups in by {:?}",
                    port.placement.send, port.placement.receive.group
                )
            });
            if sends {
                self.story.moved(number, self.now)?;
            }
        }
        Ok(())
    }
}

/// True when frames leave by the same uplinks; in shotgun the order says which copy comes last, and is no other way.
fn same_way(before: &Choice, now: &Choice) -> bool {
    match (before, now) {
        (Choice::All(a), Choice::All(b)) => a.len() == b.len() && a.iter().all(|u| b.contains(u)),
        (a, b) => a == b,
    }
}
