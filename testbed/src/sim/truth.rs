//! What really is connected, and what the rules of the beacons' page make of it: worked out from the network
//! itself, in another way than the crate does, which only hears beacons.

use super::net::{End, Net};
use super::plan::{UPLINKS, VLANS};

/// Who reaches whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Uplinks that a beacon of an uplink reaches, by VLAN.
    pub heard: [[u32; UPLINKS]; VLANS],
    /// Hosts that data from an uplink reaches, by VLAN.
    pub out: [[u32; UPLINKS]; VLANS],
    /// Uplinks that data from a host reaches on its VLAN.
    pub back: Vec<u32>,
}

/// Which rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Links alone decide: no beacons, or fewer than two to compare.
    Links,
    /// All uplinks with link hear one another.
    Whole,
    /// The largest part is right.
    Split,
    /// Several largest parts.
    Tie,
    /// Three or more, and nobody hears anybody.
    Filtered,
}

/// What is right for a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// By which rule.
    pub rule: Rule,
    /// By which one over all VLANs.
    pub overall: Rule,
    /// Uplinks with link that are failed, a bit each.
    pub failed: u32,
    /// Frames leave by all.
    pub shotgun: bool,
}

impl Truth {
    /// The truth about a network; `hosts` are the places of the hosts' VLANs.
    pub fn of(net: &Net, uplinks: usize, vlans: usize, hosts: &[usize]) -> Truth {
        let mut truth = Truth::default();
        for vlan in 0..vlans {
            for uplink in 0..uplinks {
                let from = End::Uplink(uplink);
                truth.heard[vlan][uplink] = reach(net, from, vlan, true).0;
                truth.out[vlan][uplink] = reach(net, from, vlan, false).1;
            }
        }
        truth.back = hosts.iter().enumerate().map(|(host, vlan)| reach(net, End::Host(host), *vlan, false).0).collect();
        truth
    }

    /// True when data passes both ways between an uplink and a host, on the host's VLAN.
    pub fn joined(&self, uplink: usize, host: usize, vlan: usize) -> bool {
        self.out[vlan][uplink] & 1 << host != 0 && self.back[host] & 1 << uplink != 0
    }

    /// What the rules say of a team: `members`, `probed` and `link` are uplinks, a bit each; `vlan` is the place of the VLAN
    /// whose verdict counts, `None` for guests that tag; `vlans` are the places that are probed.
    pub fn expected(&self, members: u32, probed: u32, link: u32, vlan: Option<usize>, vlans: u32) -> Expected {
        let (judged, witnesses) = (members & probed & link, probed & link & !members);
        let sum = |from: usize| (0..VLANS).filter(|v| vlans & 1 << v != 0).fold(0, |m, v| m | self.heard[v][from]);
        let any: [u32; UPLINKS] = std::array::from_fn(sum);
        let overall = judge(&any, judged, witnesses);
        let one = vlan.map(|v| judge(&self.heard[v], judged, witnesses)).filter(|one| one.rule != Rule::Links);
        let Some(one) = one else { return overall };
        match one.rule {
            Rule::Tie | Rule::Filtered => {
                let shotgun = one.shotgun || overall.shotgun;
                Expected { failed: overall.failed, shotgun, overall: overall.overall, ..one }
            }
            _ => Expected { overall: overall.overall, ..one },
        }
    }
}

/// The rules on one graph: `heard[from]` are those whom `from` reaches.
fn judge(heard: &[u32; UPLINKS], judged: u32, witnesses: u32) -> Expected {
    let all = judged | witnesses;
    let has = |mask: u32, at: usize| mask >> at & 1 == 1;
    // Who is joined with whom: hearing each other both ways, or by way of others (Warshall).
    let mut joined = [0u32; UPLINKS];
    for a in (0..UPLINKS).filter(|a| has(all, *a)) {
        for b in (0..UPLINKS).filter(|b| has(all, *b)) {
            if a == b || has(heard[a], b) && has(heard[b], a) {
                joined[a] |= 1 << b;
            }
        }
    }
    for way in 0..UPLINKS {
        for at in 0..UPLINKS {
            if has(joined[at], way) {
                joined[at] |= joined[way];
            }
        }
    }
    let rank = |at: usize| ((joined[at] & judged).count_ones(), (joined[at] & witnesses).count_ones());
    let places = || (0..UPLINKS).filter(|at| has(judged, *at));
    let Some(best) = places().map(rank).max().filter(|_| judged.count_ones() > 1) else {
        return Expected { rule: Rule::Links, overall: Rule::Links, failed: 0, shotgun: false };
    };
    let top: u32 = places().filter(|at| rank(*at) == best).fold(0, |mask, at| mask | 1 << at);
    let part = joined[top.trailing_zeros() as usize] & judged;
    let hears_any = |from: usize| heard[from] & all & !(1 << from);
    let silent =
        places().all(|a| hears_any(a) == 0) && !(0..UPLINKS).any(|w| has(witnesses, w) && heard[w] & judged != 0);
    let rule = match () {
        () if part == judged => Rule::Whole,
        () if silent && judged.count_ones() > 2 => Rule::Filtered,
        () if part != top => Rule::Tie,
        () => Rule::Split,
    };
    let failed = if rule == Rule::Split { judged & !part } else { 0 };
    Expected { rule, overall: rule, failed, shotgun: rule == Rule::Tie }
}

/// The uplinks and hosts that a frame of a station reaches on a VLAN, not counting itself.
fn reach(net: &Net, from: End, vlan: usize, beacon: bool) -> (u32, u32) {
    let (mut uplinks, mut hosts) = (0, 0);
    let Some((cable, way)) = net.cable_of(from) else { return (0, 0) };
    let mut steps = vec![(cable, way)];
    let mut seen = 0u32;
    while let Some((number, way)) = steps.pop() {
        let cable = &net.cables[number];
        if !cable.carries(way, vlan) {
            continue;
        }
        match cable.ends[1 - way] {
            End::Uplink(uplink) => uplinks |= 1 << uplink,
            End::Host(host) => hosts |= 1 << host,
            End::Switch(switch) => {
                let state = &net.switches[switch];
                if state.hangs || beacon && state.swallows || seen & 1 << switch != 0 {
                    continue;
                }
                seen |= 1 << switch;
                steps.extend(net.cables.iter().enumerate().filter(|(n, _)| *n != number).filter_map(|(n, c)| {
                    let way = c.ends.iter().position(|e| *e == End::Switch(switch))?;
                    Some((n, way))
                }));
            }
        }
    }
    (uplinks, hosts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::net::{Cable, Switch};

    /// Two switches with a cable between, uplinks 0 and 1 in the first and 2 in the second, a host in each.
    fn net() -> Net {
        let ends = [
            [End::Switch(0), End::Switch(1)],
            [End::Uplink(0), End::Switch(0)],
            [End::Uplink(1), End::Switch(0)],
            [End::Uplink(2), End::Switch(1)],
            [End::Host(0), End::Switch(0)],
            [End::Host(1), End::Switch(1)],
        ];
        let cables = ends.into_iter().map(|ends| Cable::new(ends, 0, 0)).collect();
        Net::new(vec![Switch::default(), Switch::default()], cables, u64::MAX)
    }

    fn expected(net: &Net, members: u32) -> (Rule, u32) {
        let expected = Truth::of(net, 3, 1, &[0, 0]).expected(members, 7, 7, Some(0), 1);
        (expected.rule, expected.failed)
    }

    #[test]
    fn the_rules_follow_from_what_is_broken() {
        let mut broken = net();
        assert_eq!(expected(&broken, 7), (Rule::Whole, 0));
        broken.cables[0].cut = true;
        assert_eq!(expected(&broken, 7), (Rule::Split, 4));
        assert_eq!(expected(&broken, 5), (Rule::Split, 4), "uplink 1, of another team, sides with uplink 0");
        broken.cables[2].dead = [true; 2];
        assert_eq!(expected(&broken, 7), (Rule::Filtered, 0));
        let mut deaf = net();
        deaf.cables[1].dead[1] = true;
        assert_eq!(expected(&deaf, 7), (Rule::Split, 1), "heard, and does not hear");
        assert_eq!(expected(&deaf, 3), (Rule::Split, 1), "uplink 2 sides with uplink 1");
        let mut swallowed = net();
        swallowed.switches[0].swallows = true;
        assert_eq!(expected(&swallowed, 7), (Rule::Filtered, 0));
    }

    #[test]
    fn data_passes_where_beacons_are_swallowed() {
        let mut net = net();
        net.switches[1].swallows = true;
        net.cables[5].dead[0] = true;
        let truth = Truth::of(&net, 3, 1, &[0, 0]);
        assert_eq!(truth.heard[0][..3], [0b10, 0b01, 0]);
        assert_eq!(truth.out[0][..3], [0b11; 3]);
        assert_eq!(truth.back, [0b111, 0], "host 1 is heard by nobody");
        assert!(truth.joined(2, 0, 0) && !truth.joined(2, 1, 0));
    }
}
