//! Verdicts: formed at every tick and change, asked for at any time.

use std::time::Duration;

use crate::events::changes;
use crate::graph::{Cast, Outcome};
use crate::judgement::{Alarm, Judgement, Reported};
use crate::prober::{Prober, State, Team, normal};
use crate::verdict::{Health, Verdict};

impl Prober {
    /// Forms every team's verdicts at `t`; events are dated `now`.
    pub(crate) fn form_at(&mut self, t: Duration, now: Duration) {
        self.state.formed = t;
        let mut teams = std::mem::take(&mut self.state.teams);
        let masks: Vec<u64> = teams.iter().map(|team| self.mask(&team.members)).collect();
        let view = self.state.overall.view(t, &self.timing);
        for (team, mask) in teams.iter_mut().zip(&masks) {
            let cast = self.cast(*mask, t);
            let changed = team.overall.step(&view, cast, t, &self.timing);
            if changed || team.overall.reported != team.overall.reportable(self.config.shotgun) {
                self.report(team, now);
            }
        }
        for at in 0..self.state.vlans.len() {
            let vlan = &self.state.vlans[at];
            let (view, settled) = (vlan.heard.view(t, &self.timing), self.settled(vlan.born, t));
            for (team, mask) in teams.iter_mut().zip(&masks) {
                let Some(judgement) = team.vlans.get_mut(at) else { continue };
                let cast = if settled { self.cast(*mask, t) } else { Cast::default() };
                judgement.step(&view, cast, t, &self.timing);
                self.report_vlan(team, at, t, now);
            }
        }
        self.state.teams = teams;
    }

    fn settled(&self, born: Duration, t: Duration) -> bool {
        t >= born + self.timing.window
    }

    fn mask(&self, members: &[u16]) -> u64 {
        members.iter().filter_map(|id| self.place(*id)).fold(0, |mask, at| mask | 1 << at)
    }

    fn cast(&self, members: u64, t: Duration) -> Cast {
        let mut cast = Cast::default();
        for (at, uplink) in self.state.uplinks.iter().enumerate().filter(|(_, uplink)| uplink.up) {
            let mask = match (self.settled(uplink.born, t), members & 1 << at != 0) {
                (true, true) => &mut cast.judged,
                (true, false) => &mut cast.witnesses,
                (false, _) => &mut cast.connectors,
            };
            *mask |= 1 << at;
        }
        cast
    }

    fn report(&mut self, team: &mut Team, now: Duration) {
        let after = team.overall.reportable(self.config.shotgun);
        let before = std::mem::replace(&mut team.overall.reported, after);
        self.tell(&team.overall, before, after, &team.members, None, now);
    }

    /// Tells what differs on one VLAN from what holds for all. Beacons of VLANs do not leave at once, so a cut shows
    /// on some before it shows on all: what is told waits for one round.
    fn report_vlan(&mut self, team: &mut Team, at: usize, t: Duration, now: Duration) {
        let (overall, judgement) = (&team.overall, &mut team.vlans[at]);
        let all = overall.reportable(self.config.shotgun);
        let mut after = judgement.reportable(self.config.shotgun);
        after.failed &= !all.failed;
        if after.alarm == all.alarm {
            after.alarm = Alarm::None;
        }
        if after == judgement.reported {
            judgement.unreported = None;
        } else if t.saturating_sub(*judgement.unreported.get_or_insert(t)) >= self.timing.gap {
            judgement.unreported = None;
            let before = std::mem::replace(&mut judgement.reported, after);
            let vlan = self.state.vlans[at].id;
            self.tell(&team.vlans[at], before, after, &team.members, Some(vlan), now);
        }
    }

    fn tell(
        &mut self,
        judgement: &Judgement,
        before: Reported,
        after: Reported,
        team: &[u16],
        vlan: Option<u16>,
        now: Duration,
    ) {
        let healthy = match judgement.finding.outcome {
            Outcome::Whole | Outcome::Split => judgement.finding.top,
            Outcome::Unjudged | Outcome::Tie | Outcome::Filtered => 0,
        };
        let uplinks = &self.state.uplinks;
        let name = |at: usize| (uplinks.get(at).map_or(0, |uplink| uplink.id), judgement.side(at));
        for kind in changes(before, after, healthy, name) {
            self.push_event(now, kind, team.to_vec(), vlan);
        }
    }

    /// What holds for the uplinks `members` of a team, on one VLAN (VST; 0 for untagged) or overall (`None`: guests
    /// tag), as of the last call of [`Prober::poll`] or a change. A VLAN that is not probed, or not for long enough,
    /// has the overall verdict. For members that are no team of [`Prober::set_teams`] the rules speak without memory.
    pub fn verdict(&self, members: &[u16], vlan: Option<u16>) -> Verdict {
        let normal = normal(members);
        let place = vlan.and_then(|vlan| self.vlan_place(vlan));
        match self.state.teams.iter().find(|team| team.members == normal) {
            Some(team) => self.compose(members, &team.overall, place.and_then(|at| team.vlans.get(at))),
            None => {
                let (state, t) = (&self.state, self.state.formed);
                let cast = self.cast(self.mask(&normal), t);
                let vlan = place.map(|at| &state.vlans[at]).filter(|vlan| self.settled(vlan.born, t));
                let overall = Judgement::momentary(&state.overall.view(t, &self.timing), cast);
                let vlan = vlan.map(|vlan| Judgement::momentary(&vlan.heard.view(t, &self.timing), cast));
                self.compose(members, &overall, vlan.as_ref())
            }
        }
    }

    fn compose(&self, members: &[u16], overall: &Judgement, vlan: Option<&Judgement>) -> Verdict {
        let vlan = vlan.filter(|judgement| judgement.finding.outcome != Outcome::Unjudged).unwrap_or(overall);
        let outcome = vlan.finding.outcome;
        // A VLAN on which no one is right fails those that are failed on all VLANs, and knows nothing of the others.
        let judge = if matches!(outcome, Outcome::Tie | Outcome::Filtered) { overall } else { vlan };
        let judged = matches!(judge.finding.outcome, Outcome::Whole | Outcome::Split);
        let health = |id: &u16| {
            let known = self.place(*id).filter(|at| self.state.takes_part(*at, judge));
            let health = match known {
                Some(at) if judge.finding.failed & 1 << at != 0 => Health::Failed { side: judge.side(at) },
                Some(at) if judged && std::ptr::eq(judge, vlan) && judge.finding.top & 1 << at != 0 => Health::Ok,
                _ => Health::Unknown,
            };
            (*id, health)
        };
        let tie = outcome == Outcome::Tie || outcome == Outcome::Filtered && overall.finding.outcome == Outcome::Tie;
        Verdict {
            health: members.iter().map(health).collect(),
            outcome,
            shotgun: tie && self.config.shotgun,
            filtered: outcome == Outcome::Filtered,
        }
    }
}

impl State {
    /// True for an uplink that has link and is judged.
    fn takes_part(&self, at: usize, judgement: &Judgement) -> bool {
        self.uplinks.get(at).is_some_and(|uplink| uplink.up) && judgement.cast.judged & 1 << at != 0
    }
}
