//! When each uplink last heard each other one.

use std::time::Duration;

use crate::config::{MAX_UPLINKS, Timing};

/// What one uplink heard of another one on one VLAN, or on any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    /// When the last beacon came.
    pub(crate) last: Option<Duration>,
    /// When the first one came since the edge was dead.
    born: Duration,
    /// When a beacon was last counted into `run`.
    counted: Duration,
    /// Beacons without one missing, up to the number that proves.
    run: u32,
    /// `run` was long enough once since the edge was dead.
    proved: bool,
    /// Lowest sequence that is new.
    pub(crate) awaited: u64,
}

impl Edge {
    pub(crate) fn age(&self, t: Duration) -> Option<Duration> {
        self.last.map(|last| t.saturating_sub(last))
    }

    pub(crate) fn alive(&self, t: Duration, timing: &Timing) -> bool {
        self.age(t).is_some_and(|age| age <= timing.window)
    }

    pub(crate) fn hear(&mut self, t: Duration, timing: &Timing) {
        if !self.alive(t, timing) {
            *self = Edge { born: t, counted: t, run: 1, awaited: self.awaited, ..Edge::default() };
        } else if self.age(t).is_some_and(|age| age > timing.gap) {
            (self.run, self.counted) = (1, t);
        } else if t.saturating_sub(self.counted) >= timing.interval / 2 {
            // Beacons of several VLANs within one round are one round.
            (self.run, self.counted) = (self.run.saturating_add(1).min(timing.rounds), t);
        }
        self.proved |= self.run >= timing.rounds;
        self.last = Some(t);
    }
}

/// Edges between all uplinks on one VLAN, or on any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matrix {
    uplinks: usize,
    edges: Vec<Edge>,
}

impl Matrix {
    pub(crate) fn new(uplinks: usize) -> Matrix {
        Matrix { uplinks, edges: vec![Edge::default(); uplinks * uplinks] }
    }

    /// The edge from `from` to `to`, both below the number of uplinks.
    pub(crate) fn edge(&self, from: usize, to: usize) -> Edge {
        self.edges[to * self.uplinks + from]
    }

    pub(crate) fn edge_mut(&mut self, from: usize, to: usize) -> &mut Edge {
        &mut self.edges[to * self.uplinks + from]
    }

    /// Forgets all that `uplink` heard and all that was heard of it, but for what was used up of sequences.
    pub(crate) fn forget(&mut self, uplink: usize) {
        for other in 0..self.uplinks {
            for (from, to) in [(uplink, other), (other, uplink)] {
                let edge = self.edge_mut(from, to);
                *edge = Edge { awaited: edge.awaited, ..Edge::default() };
            }
        }
    }

    /// The same with the uplinks at other places: `places[new]` is the old place.
    pub(crate) fn moved(&self, places: &[Option<usize>]) -> Matrix {
        let mut moved = Matrix::new(places.len());
        for (from, old_from) in places.iter().enumerate() {
            for (to, old_to) in places.iter().enumerate() {
                if let (Some(old_from), Some(old_to)) = (old_from, old_to) {
                    *moved.edge_mut(from, to) = self.edge(*old_from, *old_to);
                }
            }
        }
        moved
    }

    /// Who hears whom at `t`.
    pub(crate) fn view(&self, t: Duration, timing: &Timing) -> View {
        let mut view = View::default();
        for to in 0..self.uplinks {
            for from in 0..self.uplinks {
                let edge = self.edge(from, to);
                let Some(age) = edge.age(t).filter(|age| *age <= timing.window) else { continue };
                let bit = 1 << from;
                view.alive.0[to] |= bit;
                view.proved.0[to] |= if edge.proved && age <= timing.gap { bit } else { 0 };
                view.firm.0[to] |= if age <= timing.stale { bit } else { 0 };
                view.young.0[to] |= if t.saturating_sub(edge.born) < timing.hold { bit } else { 0 };
            }
        }
        view
    }
}

/// A directed graph of uplinks: `0[to]` has the bit of each `from` that `to` hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph(pub(crate) [u64; MAX_UPLINKS]);

/// The graphs that verdicts are formed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Heard within the window.
    pub(crate) alive: Graph,
    /// Alive, and not about to die.
    pub(crate) firm: Graph,
    /// Was heard often enough in a row since it was dead, and in this round.
    pub(crate) proved: Graph,
    /// Alive for less than the hold time.
    pub(crate) young: Graph,
}

/// The places of the bits set in `mask`.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (at < 64).then_some(at)
    })
}
