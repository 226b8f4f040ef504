//! The rules with memory: a change for the worse waits until its picture is complete, a return until it is
//! proven.

use std::time::Duration;

use crate::config::Timing;
use crate::edge::View;
use crate::graph::{Cast, Finding, Outcome, Sides};
use crate::verdict::Side;

/// What stands for one team on one VLAN, or over all VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// In force.
    pub(crate) finding: Finding,
    /// Dead directions of `finding.failed`.
    pub(crate) sides: Sides,
    /// Whom `finding` is about.
    pub(crate) cast: Cast,
    /// Since when the rules say something else.
    since: Option<Duration>,
    /// What the last events said.
    pub(crate) reported: Reported,
    /// Since when events are due that wait.
    pub(crate) unreported: Option<Duration>,
}

/// What of a judgement is told in events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) failed: u64,
    pub(crate) alarm: Alarm,
}

/// A state of a whole team.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Alarm {
    #[default]
    None,
    Tie,
    Shotgun,
    Filtered,
}

impl Judgement {
    /// The rules' word without memory.
    pub(crate) fn momentary(view: &View, cast: Cast) -> Judgement {
        let finding = view.alive.judge(&cast);
        Judgement { finding, cast, sides: view.alive.sides(&finding), ..Judgement::default() }
    }

    /// The dead direction of the failed uplink at a place.
    pub(crate) fn side(&self, at: usize) -> Side {
        match (self.sides.mute & 1 << at != 0, self.sides.deaf & 1 << at != 0) {
            (true, false) => Side::Transmit,
            (false, true) => Side::Receive,
            _ => Side::Both,
        }
    }

    /// Forms the verdict anew at `t`. Returns true when another one is in force.
    pub(crate) fn step(&mut self, view: &View, cast: Cast, t: Duration, timing: &Timing) -> bool {
        let target = self.kept_out(view.alive.judge(&cast), view, &cast);
        self.cast = cast;
        let changed = target != self.finding;
        if !changed {
            self.since = None;
        } else if self.ready(&target, view, t, timing) {
            self.finding = target;
            self.since = None;
        }
        // An edge about to die tells nothing about sides, unless every edge is that old between two beacons.
        let sure = if timing.stale < timing.interval { &view.alive } else { &view.firm };
        self.sides = sure.sides(&self.finding);
        changed && self.since.is_none()
    }

    /// `target` with those still failed that failed before and have not proven themselves to a good one. When
    /// no good one is left all return at once: better an unproven uplink than none.
    fn kept_out(&self, mut target: Finding, view: &View, cast: &Cast) -> Finding {
        let returning = self.finding.failed & target.top;
        let anchors = target.top & !self.finding.failed;
        if returning == 0 || anchors == 0 {
            return target;
        }
        target.failed |= returning & !view.proved.together(anchors, cast);
        target.top &= !target.failed;
        if target.failed != 0 {
            target.outcome = Outcome::Split;
        }
        target
    }

    fn ready(&mut self, target: &Finding, view: &View, t: Duration, timing: &Timing) -> bool {
        let waited = t.saturating_sub(*self.since.get_or_insert(t));
        let alarm = |finding: &Finding| matches!(finding.outcome, Outcome::Tie | Outcome::Filtered);
        let worse =
            target.failed & !self.finding.failed != 0 || alarm(target) && target.outcome != self.finding.outcome;
        // Edges cut at once die within one interval of each other, and those of a healed path are born within
        // one. Half a picture would fail the wrong ones.
        let complete = || {
            let firm = self.kept_out(view.firm.judge(&self.cast), view, &self.cast);
            firm == *target && !view.young.touches(&self.cast)
        };
        let none_left = self.cast.judged & !self.finding.failed == 0;
        if none_left {
            return true;
        }
        if worse && waited < timing.hold && !complete() {
            return false;
        }
        // Out of a tie and a filtered state only on proof, lest a flapping path switch shotgun on and off.
        let leaving = alarm(&self.finding) && matches!(target.outcome, Outcome::Whole | Outcome::Split);
        !leaving || waited >= timing.patience || view.proved.judge(&self.cast) == *target
    }

    /// The same about uplinks at other places.
    pub(crate) fn moved(&mut self, places: impl Fn(u64) -> u64) {
        let Judgement { finding, sides, cast, since: _, reported, unreported: _ } = self;
        let Cast { judged, witnesses, connectors } = cast;
        let masks = [&mut finding.top, &mut finding.failed, &mut sides.mute, &mut sides.deaf, &mut reported.failed];
        for mask in masks.into_iter().chain([judged, witnesses, connectors]) {
            *mask = places(*mask);
        }
    }

    /// What events should have said by now.
    pub(crate) fn reportable(&self, shotgun: bool) -> Reported {
        let alarm = match self.finding.outcome {
            Outcome::Tie if shotgun => Alarm::Shotgun,
            Outcome::Tie => Alarm::Tie,
            Outcome::Filtered => Alarm::Filtered,
            Outcome::Unjudged | Outcome::Whole | Outcome::Split => Alarm::None,
        };
        Reported { failed: self.finding.failed, alarm }
    }
}

#[cfg(test)]
#[path = "judgement_tests.rs"]
mod tests;
