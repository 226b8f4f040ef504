//! What breaks when, and when there is quiet to look.

use super::faults::{Fault, break_all};
use super::net::End;
use super::traffic::Who;
use super::world::{Event, World};
use super::{Datapath, Time, Truth, plan};

/// Most faults at a time.
const PRESENT: usize = 5;
/// How long, after a tie began, the uplink by which group frames come in may take to be found: the policy looks
/// every 50 ms for 150 ms of silence, and there must be something to be heard.
const LISTENING: Time = 300_000_000;
/// Time between two things that hosts say meanwhile.
const CHATTER: Time = 20_000_000;

/// Something that breaks or is mended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// A new fault, whichever.
    Break,
    /// One present fault goes.
    Mend,
    /// All go.
    MendAll,
    /// A cable is pulled, and will be plugged in and pulled so many times more.
    Down(usize, u32),
    /// It is plugged in: the fault's number, the cable, how often more.
    Up(u32, usize, u32),
    /// Spanning tree converges.
    Converge,
    /// The control thread is kept from running.
    Stall(Time),
}

/// When to look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Teams have to be settled.
    Settled,
    /// Up-delays are over: guests speak.
    Guests,
    /// Hosts answer.
    Hosts,
    /// All has arrived.
    Arrived,
    /// Hosts chatter, so many times more, for teams in shotgun to hear.
    Chatter(u32),
    /// What hosts said has arrived.
    Overheard,
}

/// A question and its answer: frames between a guest and a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    pub(super) guest: usize,
    pub(super) host: usize,
    /// To everybody, and to the other one.
    pub(super) asked: [u32; 2],
    pub(super) answered: [u32; 2],
}

/// Where in its story a run is.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    phase: u64,
    /// Acts of this phase still to come.
    pending: usize,
    /// The last change.
    pub(super) base: Time,
    stage: u64,
    fault: u32,
    /// Nothing may move, and nobody be failed, until the next change that beacons do not have to bear.
    settled: bool,
    last_move: Option<Time>,
    /// Something changed in this phase other than that beacons get lost, or nothing was sure before.
    pub(super) severe: bool,
    /// By group, the uplinks failed by beacons when the phase began.
    pub(super) failed: Vec<u32>,
    /// By group, those failed since that the rules do not fail.
    hasty: Vec<u32>,
    pub(super) talks: Vec<Talk>,
}

impl Story {
    /// A guest's frames leave another way.
    pub(super) fn moved(&mut self, guest: usize, now: Time) -> Result<(), String> {
        self.last_move = Some(now);
        if self.settled { Err(format!("guest {guest} moves though nothing changed")) } else { Ok(()) }
    }
}

impl<D: Datapath> World<D> {
    pub(super) fn begin(&mut self) -> Result<(), String> {
        self.story.failed = vec![0; self.plan.groups.len()];
        self.story.hasty = vec![0; self.plan.groups.len()];
        self.story.severe = true;
        if self.dice[2].chance(40) {
            for _ in 0..self.dice[2].between(1, 2) {
                _ = self.break_something();
            }
            self.net.converge();
        }
        self.look_around();
        self.start()?;
        for host in 0..self.plan.hosts.len() {
            let first = self.dice[0].below(self.plan.interval());
            self.at(first, Event::Talk(host));
        }
        if self.plan.hostile {
            self.at(self.plan.interval() / 3, Event::Inject);
        }
        self.disturbed(0, false);
        Ok(())
    }

    /// Something changed at `when`: quiet begins anew. `bearable`: nobody may move for it.
    fn disturbed(&mut self, when: Time, bearable: bool) {
        let story = &mut self.story;
        (story.base, story.last_move) = (story.base.max(when), None);
        story.settled &= bearable;
        story.stage += 1;
        let (stage, at) = (story.stage, story.base + self.plan.bound());
        self.at(at, Event::Stage(stage, Stage::Settled));
    }

    fn look_around(&mut self) {
        break_all(&mut self.net, &self.faults);
        let hosts: Vec<usize> = self.plan.hosts.iter().map(|h| h.vlan).collect();
        self.truth = Truth::of(&self.net, self.plan.uplinks, self.plan.vlans.len(), &hosts);
    }

    fn add(&mut self, fault: Fault) -> u32 {
        self.story.fault += 1;
        self.seen.changes += 1;
        self.faults.push((self.story.fault, fault));
        self.trace.add(self.now, 5, u64::from(self.story.fault), || format!("breaks: {fault:?}"));
        self.story.severe |= !fault.bearable();
        self.reconverge(fault);
        self.story.fault
    }

    fn remove(&mut self, id: u32) {
        let Some(at) = self.faults.iter().position(|(n, _)| *n == id) else { return };
        let (_, fault) = self.faults.remove(at);
        self.seen.changes += 1;
        self.trace.add(self.now, 6, u64::from(id), || format!("mended: {fault:?}"));
        self.story.severe = true;
        self.reconverge(fault);
    }

    /// Spanning tree takes its time.
    fn reconverge(&mut self, fault: Fault) {
        if fault.moves_the_tree(&self.net) {
            let interval = self.plan.interval();
            let after = self.dice[2].pick(&[0, interval / 10, interval / 2]);
            self.then(after, Act::Converge);
        }
    }

    /// Returns true when beacons have to bear it.
    fn break_something(&mut self) -> bool {
        let present: Vec<Fault> = self.faults.iter().map(|(_, f)| *f).collect();
        let fault = Fault::random(&self.plan, &self.net, &present, &mut self.dice[2]);
        if !present.contains(&fault) {
            self.add(fault);
        }
        present.contains(&fault) || fault.bearable()
    }

    fn then(&mut self, after: Time, act: Act) {
        self.story.pending += 1;
        self.at(self.now + after, Event::Act(act));
    }

    pub(super) fn act(&mut self, act: Act) -> Result<(), String> {
        self.story.pending -= 1;
        let interval = self.plan.interval();
        let (mut from, mut bearable) = (self.now, false);
        match act {
            Act::Break => bearable = self.break_something(),
            Act::Mend => {
                let ids: Vec<u32> = self.faults.iter().map(|(id, _)| *id).collect();
                if !ids.is_empty() {
                    let id = self.dice[2].pick(&ids);
                    self.remove(id);
                }
            }
            Act::MendAll => {
                let ids: Vec<u32> = self.faults.iter().map(|(id, _)| *id).collect();
                ids.into_iter().for_each(|id| self.remove(id));
            }
            Act::Down(cable, left) => {
                let id = self.add(Fault::Cut(cable));
                let after = self.dice[2].between(interval / 20, interval);
                self.then(after, Act::Up(id, cable, left));
            }
            Act::Up(id, cable, left) => {
                self.remove(id);
                if left > 0 {
                    let after = self.dice[2].between(interval / 20, interval);
                    self.then(after, Act::Down(cable, left - 1));
                }
            }
            Act::Converge => {
                self.trace.add(self.now, 7, 0, || "spanning tree converges".to_owned());
                self.net.converge();
            }
            Act::Stall(time) => {
                self.trace.add(self.now, 8, time, || format!("the control thread stands still for {time} ns"));
                self.stalled = self.now + time;
                (from, bearable) = (self.stalled, true);
            }
        }
        self.look_around();
        // The kernel tells of a link a little later than it changes.
        let netlink = self.dice[1].below(200_000);
        self.wake_by(self.now + netlink);
        self.disturbed(from, bearable);
        Ok(())
    }

    fn next_phase(&mut self) {
        let plan = &self.plan;
        self.ledger.close();
        self.story.talks.clear();
        self.story.phase += 1;
        self.story.severe = false;
        self.story.failed = (0..plan.groups.len()).map(|g| self.failed_by_beacons(g)).collect();
        if self.story.phase > plan.phases {
            let whole = self.faults.is_empty() || self.story.phase > plan.phases + 1 || self.dice[2].chance(50);
            if whole {
                self.done = true;
            } else {
                self.then(0, Act::MendAll);
            }
            return;
        }
        let interval = plan.interval();
        for _ in 0..self.dice[2].pick(&[1, 1, 1, 2, 3]) {
            let after = self.dice[2].pick(&[0, interval / 4, interval * 2]);
            let after = self.dice[2].below(after + 1);
            let act = self.something();
            self.then(after, act);
        }
    }

    fn something(&mut self) -> Act {
        let dice = &mut self.dice[2];
        let interval = self.plan.interval();
        let ours: Vec<usize> =
            (0..self.plan.uplinks).filter_map(|u| self.net.cable_of(End::Uplink(u))).map(|c| c.0).collect();
        match dice.below(100) {
            _ if self.faults.len() >= PRESENT => Act::Mend,
            0..28 if !self.faults.is_empty() => Act::Mend,
            28..34 => Act::Down(dice.pick(&ours), dice.between(0, 4) as u32),
            34..40 => Act::Stall(dice.between(interval / 4, 8 * interval)),
            _ => Act::Break,
        }
    }

    /// True while beacons get lost without end, or even some while paths come to life: what proves these is beacons
    /// without a gap.
    fn nothing_is_promised(&self) -> bool {
        let lossy = self.faults.iter().any(|(_, f)| f.loses());
        lossy && self.story.severe || self.faults.iter().any(|(_, f)| f.grave())
    }

    pub(super) fn stage(&mut self, number: u64, stage: Stage) -> Result<(), String> {
        if number != self.story.stage || self.story.pending > 0 {
            return Ok(());
        }
        // A frame's way, and the answer of a thread that is late.
        let travel = plan::jitter(self.plan.interval_ms) + 1_000_000;
        let (next, after) = match stage {
            Stage::Settled if self.nothing_is_promised() => {
                self.seen.grave += 1;
                self.next_phase();
                self.story.severe = true;
                return Ok(());
            }
            Stage::Settled => {
                self.check_settled(false)?;
                if let Some(moved) = self.story.last_move {
                    let took = (moved.saturating_sub(self.story.base)) * 1000 / self.plan.bound();
                    self.seen.slowest = self.seen.slowest.max(took);
                }
                let delay = self.plan.groups.iter().map(|g| g.up_delay_ms).max().unwrap_or(0) * 1_000_000;
                (Stage::Guests, delay + self.plan.lateness + 1_000_000)
            }
            Stage::Guests => {
                self.check_settled(true)?;
                self.quiet();
                self.guests_ask()?;
                (Stage::Hosts, travel)
            }
            Stage::Hosts => {
                self.hosts_answer();
                (Stage::Arrived, travel)
            }
            Stage::Arrived => {
                self.check_delivered()?;
                if !self.any_shotgun() || !self.dice[2].chance(30) {
                    self.next_phase();
                    return Ok(());
                }
                (Stage::Chatter((LISTENING / CHATTER) as u32), 0)
            }
            Stage::Chatter(left) => {
                self.story.talks.clear();
                self.hosts_chatter();
                if left > 0 { (Stage::Chatter(left - 1), CHATTER) } else { (Stage::Overheard, travel) }
            }
            Stage::Overheard => {
                self.check_overheard()?;
                self.next_phase();
                return Ok(());
            }
        };
        self.at(self.now + after, Event::Stage(number, next));
        Ok(())
    }

    /// From now on nothing may move.
    fn quiet(&mut self) {
        let failed: Vec<u32> = (0..self.plan.groups.len()).map(|g| self.failed_by_beacons(g)).collect();
        let right = (0..failed.len()).map(|g| self.expected(g).failed);
        // Who is still failed for the sake of lost beacons may return at any time.
        self.story.settled = right.eq(failed.iter().copied());
        for (hasty, before) in self.story.hasty.iter_mut().zip(&self.story.failed) {
            self.seen.hasty += u64::from((*hasty & !before).count_ones());
            *hasty = 0;
        }
        self.story.failed = failed;
    }

    /// Looks at who is failed at every change.
    pub(super) fn check_quiet(&mut self) -> Result<(), String> {
        for group in 0..self.plan.groups.len() {
            let failed = self.failed_by_beacons(group);
            if self.story.settled && failed != self.story.failed[group] {
                return Err(format!("group {group} has {failed:b} failed, though nothing changed"));
            }
            self.story.hasty[group] |= failed & !self.expected(group).failed;
        }
        Ok(())
    }

    fn guests_ask(&mut self) -> Result<(), String> {
        for guest in 0..self.plan.guests.len() {
            let vlan = self.plan.guests[guest].vlan;
            let all = self.guest_sends(guest, None)?;
            for other in (0..self.plan.guests.len()).filter(|g| *g != guest && self.plan.guests[*g].vlan == vlan) {
                if self.ledger.copies(all, Who::Guest(other)) != 1 {
                    return Err(format!("guest {other} does not get what guest {guest} says to all"));
                }
            }
            for host in (0..self.plan.hosts.len()).filter(|h| self.plan.hosts[*h].vlan == vlan).collect::<Vec<_>>() {
                let one = self.guest_sends(guest, Some(host))?;
                self.story.talks.push(Talk { guest, host, asked: [all, one], answered: [0; 2] });
            }
        }
        Ok(())
    }

    fn hosts_answer(&mut self) {
        let mut talks = std::mem::take(&mut self.story.talks);
        for talk in &mut talks {
            talk.answered = [self.host_sends(talk.host, None), self.host_sends(talk.host, Some(talk.guest))];
        }
        self.story.talks = talks;
    }

    fn hosts_chatter(&mut self) {
        for host in 0..self.plan.hosts.len() {
            let id = self.host_sends(host, None);
            for guest in 0..self.plan.guests.len() {
                if self.plan.guests[guest].vlan == self.plan.hosts[host].vlan {
                    self.story.talks.push(Talk { guest, host, asked: [0; 2], answered: [id, 0] });
                }
            }
        }
    }
}
