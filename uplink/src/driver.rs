//! Which driver moves an uplink's frames.

use std::io;
use std::sync::Arc;

use crate::af_xdp::ladder::Demand;
use crate::af_xdp::{self, Refusal};
use crate::life::{Backend, Life};
use crate::netlink::{self, LinkEvent};
use crate::{OpenError, af_packet};

/// The driver wished for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// AF_XDP where that is better and nothing is lost by it, otherwise AF_PACKET with the reason told.
    #[default]
    Auto,
    /// AF_XDP on any rung, with a warning where frames may come in unfinished.
    AfXdp,
    /// AF_PACKET.
    AfPacket,
}

/// What was opened.
pub(crate) struct Opened {
    pub(crate) life: Arc<Life>,
    /// The rung in use and why, for users.
    pub(crate) rung: String,
    /// What users should know and mend.
    pub(crate) warnings: Vec<String>,
}

/// The rung of AF_PACKET: there is one.
const MAPPED_RINGS: &str = "mapped rings";

/// Opens `link` by the driver wished for.
pub(crate) fn open(link: &LinkEvent, driver: Driver) -> Result<Opened, OpenError> {
    match driver {
        Driver::AfPacket => packet(link, MAPPED_RINGS.to_owned()),
        Driver::AfXdp => match af_xdp::Rings::open(link, Demand::Any) {
            Ok(rings) => Ok(xdp(link, rings)),
            Err(refusal) => Err(refused(link, refusal)),
        },
        Driver::Auto => {
            let reason = match misgivings(link) {
                Some(reason) => reason,
                None => match af_xdp::Rings::open(link, Demand::Native) {
                    Ok(rings) => return Ok(xdp(link, rings)),
                    Err(refusal) => refusal.reason,
                },
            };
            packet(link, format!("{MAPPED_RINGS}: af_xdp not used: {reason}"))
        }
    }
}

fn packet(link: &LinkEvent, rung: String) -> Result<Opened, OpenError> {
    let rings = af_packet::Rings::open(link).map_err(|error| OpenError::new(&link.name, error))?;
    let life = Life::new(link.index, link.mtu, Backend::Packet(rings));
    Ok(Opened { life, rung, warnings: Vec::new() })
}

fn xdp(link: &LinkEvent, rings: af_xdp::Rings) -> Opened {
    let mut warnings = Vec::new();
    if let Some(reason) = misgivings(link) {
        warnings.push(format!("{reason}; {}", mend(link, rings.restores_tags())));
    }
    if rings.cramped() {
        warnings.push(format!(
            "the kernel takes no frames in pieces here: of {} bytes of MTU, long ones are dropped",
            link.mtu
        ));
    }
    let rung = rings.rung().to_owned();
    Opened { life: Life::new(link.index, link.mtu, Backend::Xdp(Box::new(rings))), rung, warnings }
}

fn refused(link: &LinkEvent, refusal: Refusal) -> OpenError {
    let gone = |code| matches!(code, Some(libc::ENODEV | libc::ENXIO));
    match refusal.error {
        Some(error) if error.kind() == io::ErrorKind::PermissionDenied || gone(error.raw_os_error()) => {
            OpenError::new(&link.name, error)
        }
        _ => OpenError::NoXdp { device: link.name.clone(), reason: refusal.reason },
    }
}

/// Why AF_XDP would lose something on `link`, if it would.
fn misgivings(link: &LinkEvent) -> Option<String> {
    if !link.kind.is_empty() {
        let kind = &link.kind;
        return Some(format!(
            "a {kind} interface hands over frames with checksums and segments unfinished, which AF_XDP does not see"
        ));
    }
    if link.enslaved {
        return Some("it is part of another interface, which would get no frames any more".to_owned());
    }
    // When the question cannot be answered, the careful answer is yes.
    if netlink::has_address(link.index).unwrap_or(true) {
        return Some("the host has an IP address on it, which would not be reachable any more".to_owned());
    }
    None
}

/// What to do about [`misgivings`].
fn mend(link: &LinkEvent, tags_restored: bool) -> &'static str {
    match (link.kind.as_str(), tags_restored) {
        ("", _) => "use driver = \"af_packet\", or leave the interface to the switch",
        ("veth", true) => "have the peer finish them (`ethtool -K PEER tx off`), or use driver = \"af_packet\"",
        _ => {
            "and which may have lost their VLAN tag: have the sender finish them (`ethtool -K PEER tx off txvlan off \
             tx-vlan-stag-hw-insert off`), or use driver = \"af_packet\""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Netns, Tap, ip};

    #[test]
    fn what_speaks_against_af_xdp() {
        Netns::new().run(|| {
            let _tap = Tap::new("tap0");
            let tun = netlink::query("tap0").unwrap();
            assert_eq!((tun.kind.as_str(), tun.enslaved), ("tun", false));
            assert!(misgivings(&tun).is_some_and(|why| why.contains("tun interface")));
            ip("link add br0 type bridge");
            ip("link set tap0 master br0");
            let member = netlink::query("tap0").unwrap();
            assert!(member.enslaved);
            // As if it were a card.
            let card = |link: &LinkEvent| LinkEvent { kind: String::new(), ..link.clone() };
            assert!(misgivings(&card(&member)).is_some_and(|why| why.contains("part of another")));
            assert_eq!(misgivings(&card(&tun)), None);
            ip("addr add 169.254.9.9/16 dev tap0 scope link");
            assert_eq!(misgivings(&card(&tun)), None, "an address the host gave itself");
            ip("addr add 10.9.9.9/24 dev tap0");
            assert!(misgivings(&card(&tun)).is_some_and(|why| why.contains("IP address")));
            assert_eq!(netlink::query("br0").unwrap().kind, "bridge");
        });
    }

    #[test]
    fn auto_takes_af_xdp_on_a_card_and_says_why_not_elsewhere() {
        Netns::new().run(|| {
            ip("link add v0 type veth peer name v1");
            let veth = netlink::query("v0").unwrap();
            let opened = open(&veth, Driver::Auto).unwrap();
            assert!(matches!(opened.life.backend, Backend::Packet(_)));
            assert!(opened.rung.starts_with("mapped rings: af_xdp not used: a veth interface"), "{}", opened.rung);
            drop(opened);
            let card = LinkEvent { kind: String::new(), ..veth.clone() };
            let opened = open(&card, Driver::Auto).unwrap();
            assert!(matches!(opened.life.backend, Backend::Xdp(_)), "{}", opened.rung);
            assert_eq!(opened.warnings, Vec::<String>::new());
            drop(opened);
            // A driver without XDP is not worth AF_XDP: generic mode is no better than mapped rings.
            ip("link add br0 type bridge");
            let card = LinkEvent { kind: String::new(), ..netlink::query("br0").unwrap() };
            let opened = open(&card, Driver::Auto).unwrap();
            assert!(matches!(opened.life.backend, Backend::Packet(_)), "{}", opened.rung);
            assert!(opened.rung.contains("native XDP refused: "), "{}", opened.rung);
        });
    }
}
