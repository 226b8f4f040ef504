//! What is cut and what is whole, asked of the kernel.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

use super::running::{CUT_ALL, CUT_VLAN, cut_priorities};
use super::{Error, RunningLab};
use crate::netns::{DEFAULT_LIMIT, Host, run};

/// How a cable is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CableState {
    /// The lab has cut it: it set one of its ends down.
    pub cut: bool,
    /// VLANs it does not carry, ascending.
    pub vlans_missing: Vec<u16>,
    /// Its ends, A and B.
    pub ends: [EndState; 2],
}

/// How one end of a cable is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndState {
    /// The end, as the file writes it.
    pub end: String,
    /// Its interface has a link.
    pub link: bool,
    /// Nothing that this side sends arrives.
    pub sends_lost: bool,
    /// It is a switch's port and out of its bridge.
    pub unplugged: bool,
}

impl fmt::Display for CableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.cut {
            words.push("cut".to_owned());
        }
        if !self.vlans_missing.is_empty() {
            let vlans = self.vlans_missing.iter().map(u16::to_string).collect::<Vec<_>>();
            words.push(format!("VLAN {} missing", vlans.join(" and ")));
        }
        for end in &self.ends {
            if end.sends_lost {
                words.push(format!("one-way: what {} sends is lost", end.end));
            }
            if end.unplugged {
                words.push(format!("unplugged at {}", end.end));
            }
            if !end.link && !self.cut {
                words.push(format!("no link at {}", end.end));
            }
        }
        f.write_str(&if words.is_empty() { "whole".to_owned() } else { words.join(", ") })
    }
}

/// What the kernel says of an interface: whether it is set up, has a link, and is a port of a bridge.
struct Interface {
    set_up: bool,
    link: bool,
    port: bool,
}

fn interface(host: &Host, device: &str) -> Result<Interface> {
    let words = ["-n", host.namespace(), "-j", "link", "show", "dev", device];
    let text = run("ip", &words, DEFAULT_LIMIT)?.success()?;
    let list: Value = serde_json::from_str(&text).context("ip prints no JSON")?;
    let found = list.get(0).context("ip shows no interface")?;
    let flag = |wanted: &str| {
        found.get("flags").and_then(Value::as_array).is_some_and(|flags| flags.iter().any(|f| f == wanted))
    };
    Ok(Interface { set_up: flag("UP"), link: flag("LOWER_UP"), port: found.get("master").is_some() })
}

impl RunningLab {
    /// How a cable is now.
    ///
    /// # Errors
    /// When there is none of that name, or the lab is damaged.
    pub fn state(&self, cable: &str) -> Result<CableState, Error> {
        let cable = self.cable(cable)?;
        let (mut cut, mut vlans_missing) = (false, Vec::new());
        let mut ends = cable.ends.each_ref().map(|end| EndState {
            end: end.to_string(),
            link: false,
            sends_lost: false,
            unplugged: false,
        });
        for port in self.ports(cable) {
            let seen = interface(&port.host, &port.device)?;
            cut |= !seen.set_up;
            ends[port.side].unplugged = cable.ends[port.side].on_switch && !seen.port;
            // What a switch's port sends is from its own side; what the middle of a cable sends, from the other.
            let sender = if cable.between_hosts() { port.side } else { 1 - port.side };
            for (hook, side) in [("ingress", sender), ("egress", 1 - sender)] {
                let cuts = cut_priorities(&port, hook)?;
                ends[side].sends_lost |= cuts.contains(&CUT_ALL);
                vlans_missing.extend(cuts.iter().filter_map(|p| p.checked_sub(CUT_VLAN)));
            }
        }
        for (state, end) in ends.iter_mut().zip(&cable.ends) {
            state.link = interface(&self.namespace(&end.node), &end.device)?.link;
        }
        vlans_missing.sort_unstable();
        vlans_missing.dedup();
        Ok(CableState { cut, vlans_missing, ends })
    }

    /// True when every end of every cable has a link.
    pub(super) fn all_links_up(&self) -> Result<bool> {
        for cable in &self.topology().cables {
            for end in &cable.ends {
                if !interface(&self.namespace(&end.node), &end.device)?.link {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
