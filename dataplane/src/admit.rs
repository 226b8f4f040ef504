//! First stage: may this frame enter, and into which VLAN?

use wire::{ETHERTYPE_VLAN, Mac, Tag, be16};

use crate::look::Look;
use crate::snapshot::{Address, PortEntry, Role, Snapshot, UplinkRole, VnicRole};
use crate::{DropReason, Frame};

/// The domain (VLAN and priority) of a frame that came in by `port`.
#[inline]
pub(crate) fn admit(
    snapshot: &Snapshot,
    port: &PortEntry,
    look: Option<&Look<'_>>,
    frame: &Frame,
) -> Result<Tag, DropReason> {
    match &port.role {
        Role::Vnic(vnic) => admit_vnic(snapshot, port, vnic, frame),
        Role::Uplink(uplink) => admit_uplink(snapshot, *uplink, look, frame),
    }
}

/// Checks the length, or that of the segments an offload request makes.
#[inline]
pub(crate) fn check_length(snapshot: &Snapshot, frame: &Frame) -> Result<(), DropReason> {
    let longest = match frame.offload().gso {
        Some(gso) => usize::from(gso.header) + usize::from(gso.mss),
        None => frame.len(),
    };
    if longest > snapshot.max_frame() { Err(DropReason::Oversize) } else { Ok(()) }
}

/// Refuses a tag hidden under a priority tag: the outer tag says "untagged" and does not travel on, so the
/// inner one would come out as the frame's own, and name a VLAN nobody admitted it to.
#[inline]
fn check_hidden_tag(frame: &Frame) -> Result<(), DropReason> {
    match frame.tag() {
        Some(tag) if tag.vid() == 0 && be16(frame.head(), 12) == Some(ETHERTYPE_VLAN) => Err(DropReason::VlanMismatch),
        _ => Ok(()),
    }
}

fn admit_vnic(snapshot: &Snapshot, port: &PortEntry, vnic: &VnicRole, frame: &Frame) -> Result<Tag, DropReason> {
    if !port.state.link_up() {
        return Err(DropReason::PortBlocked);
    }
    check_length(snapshot, frame)?;
    check_hidden_tag(frame)?;
    let domain = vnic.policy.admit(frame.tag()).map_err(|_| DropReason::VlanMismatch)?;
    let policy = &vnic.policy;
    if !policy.security.forged_transmits && frame.src() != policy.mac {
        // With mac_changes a guest's own choice of address counts as its own.
        let chosen = policy.security.mac_changes && port.state.unicast().is_mac(frame.src());
        if !chosen {
            return Err(DropReason::ForgedTransmit);
        }
    }
    if frame.dst() == Mac::BPDU {
        return Err(DropReason::Bpdu);
    }
    Ok(domain)
}

fn admit_uplink(
    snapshot: &Snapshot,
    uplink: UplinkRole,
    look: Option<&Look<'_>>,
    frame: &Frame,
) -> Result<Tag, DropReason> {
    if !uplink.used {
        return Err(DropReason::UplinkUnused);
    }
    check_length(snapshot, frame)?;
    check_hidden_tag(frame)?;
    let domain = frame.tag().unwrap_or(Tag(0));
    // One of our own guests' frames, flooded back in by the physical switch: every local port had it.
    let src = Address::from_number(domain.vid(), frame.key().src());
    if snapshot.lookup(src).is_some() || look.is_some_and(|look| look.source().is_some()) {
        return Err(DropReason::Reflected);
    }
    Ok(domain)
}
