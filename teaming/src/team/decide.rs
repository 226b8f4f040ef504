//! From health to places: the order of those who carry traffic, shotgun, and what moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Team, UplinkState};
use crate::EventKind;
use crate::choice::BUCKETS;
use crate::spread::{Carriers, Moved};

impl Team {
    /// Works out everything anew. Returns true when a placement or an uplink's state changed.
    pub(super) fn update(&mut self, now: Duration) -> bool {
        self.now = self.now.max(now);
        let states = self.states();
        let ignored = self.health.ignored();
        let carried = std::mem::take(&mut self.accepts);
        self.health.evaluate(|u| carried.contains(&u), self.now);
        if !self.settings.order.failback {
            self.roll();
        }
        let next = self.by_order();
        let before = std::mem::replace(&mut self.carriers, next).in_use;
        self.set_blast();
        let moved = self.settle();
        if self.settings.balancing.hashes() {
            self.fill_table();
        }
        self.tell(&before, &states, &moved, ignored);
        !moved.is_empty() || before != self.carriers.in_use || carried != self.accepts || states != self.states()
    }

    /// The state of each uplink in the order.
    fn states(&self) -> BTreeMap<u16, UplinkState> {
        self.active.iter().chain(&self.standby).map(|u| (*u, self.state(*u))).collect()
    }

    /// Without failback: a failed uplink goes to the end of the standby list, and the first standby that
    /// is ready takes its place for good. One that never worked has not failed.
    fn roll(&mut self) {
        for place in 0..self.active.len() {
            let failed = self.active[place];
            if !self.health.failed(failed) {
                continue;
            }
            let Some(next) = self.standby.iter().position(|u| self.health.ready(*u)) else { return };
            let instead = self.standby.remove(next);
            self.active[place] = instead;
            self.standby.push(failed);
            self.ports.rehome(failed, instead);
            self.buckets.rehome(failed, instead);
        }
    }

    /// The active uplinks that are ready, and for each that is not the next standby that is.
    fn by_order(&self) -> Carriers {
        let ready = |u: &&u16| self.health.ready(**u);
        let mut in_use: Vec<u16> = self.active.iter().filter(ready).copied().collect();
        let mut standby = self.standby.iter().filter(ready).copied();
        let missing = self.active.iter().copied().filter(|u| !self.health.ready(*u));
        let stand_ins: Vec<(u16, u16)> = missing.zip(standby.by_ref()).collect();
        in_use.extend(stand_ins.iter().map(|(_, standby)| *standby));
        if self.active.is_empty() {
            in_use.extend(standby.next());
        }
        Carriers { in_use, stand_ins }
    }

    /// Who carries traffic in shotgun, and who does at all.
    fn set_blast(&mut self) {
        let mut all = self.carriers.in_use.clone();
        let ready = |u: &&u16| self.health.ready(**u) && !self.carriers.in_use.contains(u);
        all.extend(self.active.iter().chain(&self.standby).filter(ready));
        let was = self.blast.take();
        if !self.parts.is_empty() && all.len() > 1 {
            self.blast = Some(Arc::from(all));
        }
        self.accepts = self.blast.clone().unwrap_or_else(|| Arc::from(self.carriers.in_use.as_slice()));
        match (was, &self.blast) {
            (None, Some(all)) => self.log.add(self.now, EventKind::ShotgunOn { uplinks: all.len() as u16 }),
            (Some(_), None) => self.log.add(self.now, EventKind::ShotgunOff),
            _ => {}
        }
    }

    fn settle(&mut self) -> Vec<Moved> {
        let (health, failback) = (&self.health, self.settings.order.failback);
        let goes_home = |u| failback || health.fresh(u);
        let spread = if self.settings.balancing.hashes() { &mut self.buckets } else { &mut self.ports };
        spread.settle(self.active.len(), &self.carriers, goes_home)
    }

    fn fill_table(&mut self) {
        let Some(first) = self.carriers.in_use.first() else {
            self.table = None;
            return;
        };
        let mut table = [*first; BUCKETS];
        for (bucket, at) in self.buckets.iter() {
            table[usize::from(bucket)] = at.unwrap_or(*first);
        }
        if self.table.as_deref() != Some(&table) {
            self.table = Some(Arc::new(table));
        }
    }
}
