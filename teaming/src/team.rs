//! One team: an order of uplinks, their health, and the ports placed on them.

use std::collections::BTreeMap;

/// A failover order, by whatever number the caller gives its uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Uplinks that carry traffic.
    pub active: Vec<u16>,
    /// Uplinks that take over, first to last, when an active one fails.
    pub standby: Vec<u16>,
    /// Whether a port returns to its uplink when that works again. Without it (ESX: rolling order) an
    /// uplink that failed queues up behind the standby ones.
    pub failback: bool,
}

/// What an uplink does in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkState {
    /// Carries traffic.
    Active,
    /// Works, and waits.
    Standby,
    /// In the order, but does not work.
    Failed,
    /// Not in the order: never sends, and what it receives is dropped.
    Unused,
}

impl UplinkState {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            UplinkState::Active => "active",
            UplinkState::Standby => "standby",
            UplinkState::Failed => "failed",
            UplinkState::Unused => "unused",
        }
    }
}

/// A team with `port-id` balancing.
#[derive(Clone, Debug)]
pub struct Team {
    order: Order,
    /// How many uplinks are to carry traffic at once: the number configured as active.
    width: usize,
    up: BTreeMap<u16, bool>,
    in_use: Vec<u16>,
    placed: BTreeMap<u16, u16>,
}

impl Team {
    /// A team whose uplinks all are without link until told otherwise.
    pub fn new(order: Order) -> Team {
        let width = order.active.len();
        Team { order, width, up: BTreeMap::new(), in_use: Vec::new(), placed: BTreeMap::new() }
    }

    /// Tells that `uplink` has link or lost it. Returns true when that changed which uplinks are in
    /// use: ask [`Team::uplink_for`] again for every port.
    pub fn set_link(&mut self, uplink: u16, up: bool) -> bool {
        if self.up.insert(uplink, up) == Some(up) {
            return false;
        }
        if !up && !self.order.failback {
            self.roll(uplink);
        }
        let before = std::mem::take(&mut self.in_use);
        let is_up = |u: &&u16| self.up.get(u).copied().unwrap_or(false);
        self.in_use = self.order.active.iter().filter(is_up).copied().collect();
        let missing = self.width.saturating_sub(self.in_use.len());
        let promoted = self.order.standby.iter().filter(is_up).take(missing).copied();
        self.in_use.extend(promoted.collect::<Vec<_>>());
        before != self.in_use
    }

    /// Without failback: the failed uplink goes to the end of the standby list, and the first
    /// standby with link takes its place for good.
    fn roll(&mut self, failed: u16) {
        let Some(place) = self.order.active.iter().position(|u| *u == failed) else { return };
        let works = |u: &u16| self.up.get(u).copied().unwrap_or(false);
        let Some(next) = self.order.standby.iter().position(works) else { return };
        self.order.active[place] = self.order.standby.remove(next);
        self.order.standby.push(failed);
    }

    /// The uplinks that carry traffic now.
    pub fn in_use(&self) -> &[u16] {
        &self.in_use
    }

    /// True when the team has any uplink in its order.
    pub fn has_uplinks(&self) -> bool {
        !self.order.active.is_empty() || !self.order.standby.is_empty()
    }

    /// The uplink of port number `port`; `None` when none works. A port stays where it is unless
    /// its uplink is out of use, or its home is in use again and the team fails back.
    pub fn uplink_for(&mut self, port: u16) -> Option<u16> {
        let pick = |list: &[u16]| list.get(usize::from(port) % list.len().max(1)).copied();
        let home = pick(&self.order.active).filter(|u| self.in_use.contains(u));
        let stays = self.placed.get(&port).copied().filter(|u| self.in_use.contains(u));
        let choice = match (stays, home) {
            (Some(now), Some(home)) if self.order.failback && now != home => Some(home),
            (Some(now), _) => Some(now),
            (None, Some(home)) => Some(home),
            (None, None) => pick(&self.in_use),
        };
        match choice {
            Some(uplink) => self.placed.insert(port, uplink),
            None => self.placed.remove(&port),
        };
        choice
    }

    /// Forgets a port that is gone.
    pub fn forget(&mut self, port: u16) {
        self.placed.remove(&port);
    }

    /// What `uplink` does in this team.
    pub fn state(&self, uplink: u16) -> UplinkState {
        if self.in_use.contains(&uplink) {
            UplinkState::Active
        } else if !self.order.active.contains(&uplink) && !self.order.standby.contains(&uplink) {
            UplinkState::Unused
        } else if self.up.get(&uplink).copied().unwrap_or(false) {
            UplinkState::Standby
        } else {
            UplinkState::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(active: &[u16], standby: &[u16], failback: bool) -> Team {
        let mut team = Team::new(Order { active: active.to_vec(), standby: standby.to_vec(), failback });
        for uplink in active.iter().chain(standby) {
            team.set_link(*uplink, true);
        }
        team
    }

    #[test]
    fn ports_spread_and_only_the_failed_uplinks_ports_move() {
        let mut team = team(&[0, 1, 2], &[], true);
        let before: Vec<_> = (0..9).map(|p| team.uplink_for(p).unwrap()).collect();
        assert_eq!(before, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert!(team.set_link(1, false));
        for port in 0..9 {
            let now = team.uplink_for(port).unwrap();
            assert_ne!(now, 1);
            if before[usize::from(port)] != 1 {
                assert_eq!(now, before[usize::from(port)]);
            }
        }
        assert!(team.set_link(1, true));
        assert_eq!((0..9).map(|p| team.uplink_for(p).unwrap()).collect::<Vec<_>>(), before, "failback");
    }

    #[test]
    fn standby_is_promoted_in_order_and_demoted() {
        let mut team = team(&[0], &[1, 2], true);
        assert_eq!((team.uplink_for(5), team.state(1)), (Some(0), UplinkState::Standby));
        team.set_link(0, false);
        assert_eq!(
            (team.uplink_for(5), team.state(0), team.state(1)),
            (Some(1), UplinkState::Failed, UplinkState::Active)
        );
        team.set_link(1, false);
        assert_eq!(team.uplink_for(5), Some(2));
        team.set_link(0, true);
        assert_eq!(
            (team.uplink_for(5), team.state(2), team.state(1)),
            (Some(0), UplinkState::Standby, UplinkState::Failed)
        );
    }

    #[test]
    fn without_failback_the_returned_uplink_queues_up() {
        let mut team = team(&[0], &[1], false);
        assert_eq!(team.uplink_for(0), Some(0));
        team.set_link(0, false);
        assert_eq!(team.uplink_for(0), Some(1));
        assert!(!team.set_link(0, true));
        assert_eq!((team.uplink_for(0), team.state(0)), (Some(1), UplinkState::Standby));
        team.set_link(1, false);
        assert_eq!(team.uplink_for(0), Some(0));
    }

    #[test]
    fn without_failback_or_standby_traffic_returns_when_it_must() {
        let mut team = team(&[0], &[], false);
        team.set_link(0, false);
        assert_eq!((team.uplink_for(0), team.in_use().len()), (None, 0));
        team.set_link(0, true);
        assert_eq!(team.uplink_for(0), Some(0));
    }

    #[test]
    fn what_is_in_no_list_is_unused() {
        let mut team = team(&[0], &[], true);
        assert!(!team.set_link(7, true));
        assert_eq!(team.state(7), UplinkState::Unused);
        assert!(
            team.has_uplinks() && !Team::new(Order { active: vec![], standby: vec![], failback: true }).has_uplinks()
        );
    }
}
