//! What must hold, and whether it does.

use teaming::{Choice, Why};

use super::plan::Tagging;
use super::story::Talk;
use super::traffic::Who;
use super::world::World;
use super::{Datapath, Expected, Rule};

/// The uplinks of a choice, a bit each.
pub(super) fn uplinks_of(choice: &Choice) -> u32 {
    let bits = |uplinks: &[u16]| uplinks.iter().fold(0, |mask, u| mask | 1 << u);
    match choice {
        Choice::None => 0,
        Choice::One(uplink) => 1 << uplink,
        Choice::Hash { table, .. } => bits(&table[..]),
        Choice::All(all) => bits(all),
    }
}

fn bits(mask: u32) -> impl Iterator<Item = u16> {
    (0..32).filter(move |u| mask >> u & 1 == 1)
}

impl<D: Datapath> World<D> {
    /// Uplinks that the policies were told have link and that the flap guard does not hold.
    fn linked(&self) -> u32 {
        let held = |downs: u64| self.plan.flap_limit > 0 && downs >= self.plan.flap_limit;
        let up = self.uplinks.iter().enumerate().filter(|(_, u)| u.told && !held(u.downs));
        up.fold(0, |mask, (number, _)| mask | 1 << number)
    }

    fn why(&self, group: usize, uplink: u16) -> Why {
        self.policies.team(group).map_or(Why::NotInOrder, |team| team.status(uplink).why)
    }

    /// The uplinks of a group that are failed by beacons, a bit each.
    pub(super) fn failed_by_beacons(&self, group: usize) -> u32 {
        let members = self.plan.groups[group].members();
        bits(members).filter(|u| self.why(group, *u) == Why::BeaconFailed).fold(0, |mask, u| mask | 1 << u)
    }

    /// What the rules make of the truth for a group.
    pub(super) fn expected(&self, group: usize) -> Expected {
        let of = &self.plan.groups[group];
        if !of.beacons {
            return Expected { rule: Rule::Links, overall: Rule::Links, failed: 0, shotgun: false };
        }
        let vlan = match of.tagging {
            Tagging::Switch(place) => Some(place),
            Tagging::Guest => None,
        };
        let (probed, vlans) = (self.plan.probed(), self.plan.probed_vlans());
        let expected = self.truth.expected(of.members(), probed, self.linked(), vlan, vlans);
        Expected { shotgun: expected.shotgun && self.plan.shotgun, ..expected }
    }

    /// At every change: frames leave by uplinks of the order that have link, by some if any has, and by one unless in
    /// shotgun; group frames come in by one.
    pub(super) fn check_placements(&self) -> Result<(), String> {
        let linked = self.linked();
        for (number, port) in self.view.guests.iter().enumerate() {
            let group = self.plan.guests[number].group;
            let (members, by) = (self.plan.groups[group].members(), uplinks_of(&port.placement.send));
            let groups = &port.placement.receive.group;
            let wrong = match () {
                () if by & !members != 0 => "an uplink that is not in its order",
                () if by & !linked != 0 => "an uplink without link",
                () if by == 0 && members & linked != 0 => "no uplink, though one has link",
                () if by != 0 && groups.is_empty() => "some uplink, and takes group frames from none",
                () if groups.len() > 1 && !matches!(port.placement.send, Choice::All(_)) => {
                    "one uplink, and takes group frames from several"
                }
                () if groups.iter().any(|u| !port.placement.receive.unicast.contains(u)) => {
                    "some uplink, and takes group frames from one that is not in use"
                }
                () => continue,
            };
            return Err(format!("guest {number} sends by {wrong}: {:?}", port.placement));
        }
        Ok(())
    }

    /// After the time in which teams settle. `over`: up-delays are over too.
    pub(super) fn check_settled(&mut self, over: bool) -> Result<(), String> {
        for group in 0..self.plan.groups.len() {
            let expected = self.expected(group);
            let excused = self.check_uplinks(group, expected, over)?;
            let shotgun = self.policies.team(group).is_some_and(|team| team.shotgun());
            let ready = self.plan.groups[group].members() & self.linked() & !expected.failed;
            if over && excused == 0 && shotgun != (expected.shotgun && ready.count_ones() > 1) {
                return Err(format!("group {group} has shotgun {shotgun}, but {expected:?}"));
            }
            for guest in (0..self.guests.len()).filter(|g| self.plan.guests[*g].group == group) {
                let by = uplinks_of(&self.view.guests[guest].placement.send);
                if by & expected.failed != 0 {
                    return Err(format!("guest {guest} sends by {by:b}, but {expected:?}"));
                }
            }
            if over {
                self.seen.settled[expected.rule as usize] += 1;
                self.seen.shotgun += u64::from(shotgun);
                self.seen.failed += u64::from(expected.failed.count_ones());
            }
        }
        Ok(())
    }

    /// Returns the uplinks that are failed against the rules and may be.
    fn check_uplinks(&self, group: usize, expected: Expected, over: bool) -> Result<u32, String> {
        let lossy = self.faults.iter().any(|(_, f)| f.loses());
        let mut excused = 0;
        for uplink in bits(self.plan.groups[group].members()) {
            let (bit, why) = (1u32 << uplink, self.why(group, uplink));
            let link = self.linked() & bit != 0;
            let right = match why {
                Why::NoLink => !link,
                Why::BeaconFailed if link && expected.failed & bit == 0 => {
                    // With losses below the threshold a healthy one is not failed, but one that was may stay so.
                    let may = lossy && self.story.failed[group] & bit != 0;
                    excused |= if may { bit } else { 0 };
                    may
                }
                Why::BeaconFailed => link,
                Why::UpDelay(_) => link && expected.failed & bit == 0 && !over,
                Why::BeaconsIgnored => false,
                Why::NotInOrder => false,
                Why::InOrder | Why::Promoted | Why::Shotgun | Why::NotNeeded => link && expected.failed & bit == 0,
            };
            if !right {
                return Err(format!("uplink {uplink} of group {group} is {why:?} (link {link}), but {expected:?}"));
            }
        }
        Ok(excused)
    }

    pub(super) fn any_shotgun(&self) -> bool {
        self.policies.teams().iter().any(|team| team.shotgun())
    }

    /// True when every uplink that the rules call healthy, or in shotgun any, has a way to the host and back.
    fn reachable(&self, talk: &Talk, expected: Expected) -> bool {
        let group = &self.plan.groups[self.plan.guests[talk.guest].group];
        let good = group.members() & self.linked() & !expected.failed;
        let vlan = self.plan.hosts[talk.host].vlan;
        let joined = |u: u16| self.truth.joined(usize::from(u), talk.host, vlan);
        if expected.shotgun { bits(good).any(joined) } else { good != 0 && bits(good).all(joined) }
    }

    /// Guests and hosts reached each other.
    pub(super) fn check_delivered(&mut self) -> Result<(), String> {
        let lossy = self.faults.iter().any(|(_, f)| f.loses());
        for talk in self.story.talks.clone() {
            let Talk { guest, host, asked, answered } = talk;
            let vlan = self.plan.hosts[host].vlan;
            let expected = self.expected(self.plan.guests[guest].group);
            let by = self.ledger.probe(asked[0]).map_or(0, |probe| probe.by);
            let out = asked.map(|id| self.ledger.copies(id, Who::Host(host)));
            let back = answered.map(|id| self.ledger.copies(id, Who::Guest(guest)));
            let told = || format!("guest {guest}, host {host}: out {out:?}, back {back:?}, by {by:b}, {expected:?}");
            let ways = bits(by).filter(|u| self.truth.out[vlan][usize::from(*u)] & 1 << host != 0).count();
            if !lossy && out[0] != ways {
                return Err(format!(
                    "a frame comes out of the network {} times and there are {ways} ways: {}",
                    out[0],
                    told()
                ));
            }
            if lossy || !self.reachable(&talk, expected) {
                continue;
            }
            if out.contains(&0) || !expected.shotgun && out != [1, 1] {
                return Err(format!("a guest does not reach a host once: {}", told()));
            }
            // In shotgun an answer goes where the network saw the guest last, which may be a one-way path; and whence
            // group frames come in is yet to be found.
            let sure = bits(by).all(|u| self.truth.joined(usize::from(u), host, vlan));
            let flooded = self.ledger.probe(answered[1]).is_some_and(|p| p.got.len() > 1);
            if sure && (back[1] == 0 || back[1] > 1 && !flooded) || !expected.shotgun && back[0] != 1 {
                return Err(format!("a host does not reach a guest once: {}", told()));
            }
            self.seen.delivered += 1;
        }
        Ok(())
    }

    /// In shotgun, group frames come in once by an uplink by which something comes in at all, when the policy had time
    /// to find one. In a tie over all VLANs the policy cannot tell on which VLAN something came in.
    pub(super) fn check_overheard(&mut self) -> Result<(), String> {
        let lossy = self.faults.iter().any(|(_, f)| f.loses());
        for talk in self.story.talks.clone() {
            let Talk { guest, host, answered, .. } = talk;
            let group = self.plan.guests[guest].group;
            let expected = self.expected(group);
            if lossy || !expected.shotgun {
                continue;
            }
            let used = self.plan.groups[group].members() & self.linked() & !expected.failed;
            let back = used & self.truth.back[host];
            let alive = used & self.truth.back.iter().fold(0, |mask, back| mask | back);
            let known = expected.overall != Rule::Tie || alive & !back == 0;
            let got = self.ledger.copies(answered[0], Who::Guest(guest));
            if back != 0 && known && got != 1 {
                return Err(format!(
                    "guest {guest} hears host {host} {got} times; group frames come in by {:?}, and could by {back:b}",
                    self.view.guests[guest].placement.receive.group
                ));
            }
        }
        Ok(())
    }
}
