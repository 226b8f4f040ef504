//! From who-hears-whom to who is right: the rules, without any memory.

use std::cmp::Ordering;

use crate::edge::{Graph, bits};

/// What the uplinks of a team that can be judged are to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Fewer than two uplinks to compare: too new, without link, or alone. No one is failed.
    #[default]
    Unjudged,
    /// All hear one another: all healthy.
    Whole,
    /// The largest component is right; the others are failed.
    Split,
    /// Several largest components. No one is failed: shotgun if configured, else the order stays.
    Tie,
    /// Three or more uplinks and nobody hears anybody: the beacon path is filtered upstream. An alarm; no one
    /// is failed, link state decides.
    Filtered,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cast {
    /// Members of the team, with link and long enough: these are judged.
    pub(crate) judged: u64,
    /// Uplinks of other teams, with link and long enough: they break ties.
    pub(crate) witnesses: u64,
    /// All others with link: they join what hears one another through them, no more.
    pub(crate) connectors: u64,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) outcome: Outcome,
    /// The component that is right; members only.
    pub(crate) top: u64,
    /// The members that are failed.
    pub(crate) failed: u64,
}

impl Graph {
    /// Whom each one hears and is heard by.
    fn mutual(&self) -> Graph {
        let mut mutual = Graph::default();
        for (to, row) in self.0.iter().enumerate() {
            mutual.0[to] =
                bits(*row).filter(|from| *from != to && self.0[*from] & 1 << to != 0).fold(0, |m, b| m | 1 << b);
        }
        mutual
    }

    /// Everything within `allowed` that hangs together with `start`, itself included.
    fn reach(&self, start: u64, allowed: u64) -> u64 {
        let (mut all, mut fresh) = (start & allowed, start & allowed);
        while fresh != 0 {
            let next = bits(fresh).fold(0, |sum, at| sum | self.0[at]) & allowed & !all;
            all |= next;
            fresh = next;
        }
        all
    }

    /// The members that hang together with any of `anchors` by mutual edges.
    pub(crate) fn together(&self, anchors: u64, cast: &Cast) -> u64 {
        self.mutual().reach(anchors, cast.judged | cast.connectors | cast.witnesses) & cast.judged
    }

    /// The rules.
    pub(crate) fn judge(&self, cast: &Cast) -> Finding {
        if cast.judged.count_ones() < 2 {
            return Finding::default();
        }
        let (mutual, everyone) = (self.mutual(), cast.judged | cast.connectors | cast.witnesses);
        let (mut best, mut top, mut tied, mut left) = ((0, 0), 0, false, cast.judged);
        while left != 0 {
            let component = mutual.reach(left & left.wrapping_neg(), everyone);
            left &= !component;
            let size = ((component & cast.judged).count_ones(), (component & cast.witnesses).count_ones());
            match size.cmp(&best) {
                Ordering::Greater => (best, top, tied) = (size, component & cast.judged, false),
                Ordering::Equal => tied = true,
                Ordering::Less => {}
            }
        }
        if top == cast.judged {
            Finding { outcome: Outcome::Whole, top, failed: 0 }
        } else if cast.judged.count_ones() >= 3 && self.silent(cast) {
            Finding { outcome: Outcome::Filtered, top: 0, failed: 0 }
        } else if tied {
            Finding { outcome: Outcome::Tie, top: 0, failed: 0 }
        } else {
            Finding { outcome: Outcome::Split, top, failed: cast.judged & !top }
        }
    }

    /// True when no member hears or is heard by any member or witness.
    fn silent(&self, cast: &Cast) -> bool {
        bits(cast.judged).all(|to| self.0[to] & (cast.judged | cast.witnesses) & !(1 << to) == 0)
            && bits(cast.witnesses).all(|to| self.0[to] & cast.judged == 0)
    }

    /// The failed ones that `top` does not hear, and those that hear nobody of `top`.
    pub(crate) fn sides(&self, finding: &Finding) -> Sides {
        let heard = bits(finding.top).fold(0, |sum, to| sum | self.0[to]);
        let deaf = bits(finding.failed).filter(|to| self.0[*to] & finding.top == 0).fold(0, |m, b| m | 1 << b);
        Sides { mute: finding.failed & !heard, deaf }
    }

    /// True when there is an edge between any two whose components count.
    pub(crate) fn touches(&self, cast: &Cast) -> bool {
        let everyone = cast.judged | cast.witnesses;
        bits(everyone).any(|to| self.0[to] & everyone != 0)
    }
}

/// Which direction of failed uplinks is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sides {
    /// Not heard by the good ones.
    pub(crate) mute: u64,
    /// Hear none of the good ones.
    pub(crate) deaf: u64,
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
