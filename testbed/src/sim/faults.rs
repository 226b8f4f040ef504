//! What breaks.

use super::net::{End, Loss, Net};
use super::plan::Plan;
use super::{Dice, plan};

/// A fault that stays until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A cable is pulled; both ends lose their link.
    Cut(usize),
    /// A cable carries nothing either way, and both ends keep their link: a port taken out of its bridge.
    Silent(usize),
    /// A cable carries nothing this way, and both ends keep their link.
    OneWay(usize, usize),
    /// A switch is off: its cables are dead, and the uplinks in it lose their link.
    Off(usize),
    /// A switch forwards nothing and keeps its links.
    Hangs(usize),
    /// A cable lacks the VLAN at this place.
    Lacks(usize, usize),
    /// A switch swallows beacons; `None`: all do.
    Swallows(Option<usize>),
    /// A cable loses frames, this way.
    Loses(usize, usize, Loss),
    /// A cable delays frames by up to as much more: within what beacons bear.
    Shakes(usize, u64),
    /// A cable lets some frames out twice.
    Doubles(usize, u64),
}

impl Fault {
    /// A fault for a whole network with these already.
    pub fn random(plan: &Plan, net: &Net, present: &[Fault], dice: &mut Dice) -> Fault {
        let cables: Vec<usize> = (0..net.cables.len()).collect();
        let trunks: Vec<usize> = cables.iter().copied().filter(|c| net.cables[*c].is_trunk()).collect();
        let ours: Vec<usize> = (0..plan.uplinks).filter_map(|u| net.cable_of(End::Uplink(u))).map(|c| c.0).collect();
        let ours_or_trunk = |dice: &mut Dice| {
            if !trunks.is_empty() && dice.chance(50) { dice.pick(&trunks) } else { dice.pick(&ours) }
        };
        let switch = dice.place(net.switches.len());
        match dice.below(100) {
            0..18 => Fault::Cut(dice.pick(&ours)),
            18..32 if !trunks.is_empty() => Fault::Cut(dice.pick(&trunks)),
            32..46 => Fault::Silent(ours_or_trunk(dice)),
            46..60 => Fault::OneWay(ours_or_trunk(dice), dice.place(2)),
            60..64 => Fault::Off(switch),
            64..68 => Fault::Hangs(switch),
            68..80 => Fault::Lacks(ours_or_trunk(dice), dice.place(plan.vlans.len())),
            80..86 => Fault::Swallows(if dice.chance(70) { None } else { Some(switch) }),
            // One such at a time: two on one path would lose more in a row than either may.
            86..92 if !present.iter().any(|f| matches!(f, Fault::Loses(..))) => {
                Fault::Loses(ours_or_trunk(dice), dice.place(2), loss(plan, dice))
            }
            92..95 if !present.iter().any(|f| matches!(f, Fault::Shakes(..))) => {
                Fault::Shakes(ours_or_trunk(dice), plan::jitter(plan.interval_ms).min(plan::SLUGGISH) / 20)
            }
            _ => Fault::Doubles(dice.pick(&cables), dice.between(5, 60)),
        }
    }

    /// Breaks it.
    pub fn apply(self, net: &mut Net) {
        match self {
            Fault::Cut(cable) => net.cables[cable].cut = true,
            Fault::Silent(cable) => net.cables[cable].dead = [true; 2],
            Fault::OneWay(cable, way) => net.cables[cable].dead[way] = true,
            Fault::Off(switch) => {
                let touches = |ends: &[End; 2]| ends.contains(&End::Switch(switch));
                net.cables.iter_mut().filter(|c| touches(&c.ends)).for_each(|c| c.cut = true);
            }
            Fault::Hangs(switch) => net.switches[switch].hangs = true,
            Fault::Lacks(cable, vlan) => net.cables[cable].missing |= 1 << vlan,
            Fault::Swallows(which) => {
                let hit = |at: usize| which.is_none_or(|w| w == at);
                net.switches.iter_mut().enumerate().filter(|(at, _)| hit(*at)).for_each(|(_, s)| s.swallows = true);
            }
            Fault::Loses(cable, way, loss) => net.cables[cable].loss[way] = Some(loss),
            Fault::Shakes(cable, more) => net.cables[cable].shakes = more,
            Fault::Doubles(cable, percent) => net.cables[cable].doubles = percent,
        }
    }

    /// Beacons may get lost on a path that lives, as many in a row as the threshold lets them: nobody may be failed for
    /// that, but a return that asks for beacons without a gap may take its time.
    pub fn loses(self) -> bool {
        matches!(self, Fault::Loses(..))
    }

    /// Nobody may be failed for it.
    pub fn bearable(self) -> bool {
        match self {
            Fault::Loses(_, _, loss) => loss.mercy.is_some(),
            Fault::Shakes(..) | Fault::Doubles(..) => true,
            _ => false,
        }
    }

    /// Beacons may get lost without end: nothing is promised.
    pub fn grave(self) -> bool {
        matches!(self, Fault::Loses(_, _, Loss { mercy: None, .. }))
    }

    /// Which cables spanning tree sees change.
    pub fn moves_the_tree(self, net: &Net) -> bool {
        match self {
            Fault::Cut(cable) => net.cables[cable].is_trunk(),
            Fault::Off(_) => true,
            _ => false,
        }
    }
}

fn loss(plan: &Plan, dice: &mut Dice) -> Loss {
    let damages = dice.chance(30);
    if dice.chance(25) {
        return Loss { percent: dice.between(20, 90), damages, mercy: None };
    }
    Loss { percent: dice.between(5, 90), damages, mercy: Some(plan.threshold - 1) }
}

/// Makes the network what it is with these faults and no others.
pub fn break_all(net: &mut Net, faults: &[(u32, Fault)]) {
    net.cables.iter_mut().for_each(|cable| cable.mend());
    for switch in &mut net.switches {
        (switch.swallows, switch.hangs) = (false, false);
    }
    faults.iter().for_each(|(_, fault)| fault.apply(net));
}
