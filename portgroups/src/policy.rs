//! The flat policy of one port: what it may send, and what it is sent.

use wire::{Mac, Tag};

use crate::VlanSet;

/// How a port group treats VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// External switch tagging: untagged frames of domain 0.
    Est,
    /// Virtual switch tagging: this VLAN (1..=4094), which the guest never sees.
    Vst(u16),
    /// Virtual guest tagging: the guest's own tags within the set; 0 in the set admits untagged.
    Vgt(VlanSet),
}

/// What a guest may do with addresses. All false (reject) by default, as on a distributed switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Security {
    /// A guest in promiscuous mode sees every frame of its VLANs.
    pub promiscuous: bool,
    /// Frames reach a guest that changed its MAC address.
    pub mac_changes: bool,
    /// A guest may send from another address than its own.
    pub forged_transmits: bool,
    /// Addresses the port sends from are learnt: frames to them go to it, and frames to addresses nobody is known to
    /// have are flooded to it. Goes with `forged_transmits` only.
    pub learning: bool,
}

/// Everything the data path needs to know of a port's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// VLAN mode.
    pub vlan: VlanMode,
    /// Address rules.
    pub security: Security,
    /// The address the configuration assigned.
    pub mac: Mac,
}

/// The frame's tag is not one its port may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanMismatch;

impl Policy {
    /// The domain (as a tag, to keep the priority) of a frame the guest sent with `tag`.
    ///
    /// # Errors
    /// [`VlanMismatch`] where the admission table of ESX drops the frame: a guest on an EST or VST
    /// port may not tag, a VGT guest only within its set. A priority tag (VID 0) counts as untagged
    /// and keeps its priority.
    #[inline]
    pub fn admit(&self, tag: Option<Tag>) -> Result<Tag, VlanMismatch> {
        let tag = tag.unwrap_or(Tag(0));
        match &self.vlan {
            VlanMode::Est if tag.vid() == 0 => Ok(tag),
            VlanMode::Vst(vid) if tag.vid() == 0 => Ok(tag.with_vid(*vid)),
            VlanMode::Vgt(set) if set.contains(tag.vid()) => Ok(tag),
            _ => Err(VlanMismatch),
        }
    }

    /// True when frames of domain `vid` may reach this port.
    #[inline]
    pub fn is_member(&self, vid: u16) -> bool {
        match &self.vlan {
            VlanMode::Est => vid == 0,
            VlanMode::Vst(own) => *own == vid,
            VlanMode::Vgt(set) => set.contains(vid),
        }
    }

    /// The tag the guest sees on a frame of this domain and priority: none on EST and VST ports and
    /// for domain 0 of a VGT port.
    #[inline]
    pub fn egress_tag(&self, domain: Tag) -> Option<Tag> {
        match &self.vlan {
            VlanMode::Vgt(_) if domain.vid() != 0 => Some(domain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(vlan: VlanMode) -> Policy {
        Policy { vlan, security: Security::default(), mac: Mac([0, 0x50, 0x56, 0, 0, 1]) }
    }

    /// The admission table of the ESX reference, row by row.
    #[test]
    fn admission_table() {
        let tag = |vid| Some(Tag::new(vid, 3));
        let est = policy(VlanMode::Est);
        assert_eq!(est.admit(None), Ok(Tag(0)));
        assert_eq!(est.admit(tag(0)), Ok(Tag::new(0, 3)));
        assert_eq!(est.admit(tag(10)), Err(VlanMismatch));

        let vst = policy(VlanMode::Vst(10));
        assert_eq!(vst.admit(None), Ok(Tag::new(10, 0)));
        assert_eq!(vst.admit(tag(0)), Ok(Tag::new(10, 3)));
        assert_eq!(vst.admit(tag(10)), Err(VlanMismatch), "a guest may not tag, not even its own VLAN");
        assert_eq!(vst.admit(tag(11)), Err(VlanMismatch));

        let vgt = policy(VlanMode::Vgt("10,20-29".parse().unwrap()));
        assert_eq!(vgt.admit(None), Err(VlanMismatch), "the set holds no 0");
        assert_eq!(vgt.admit(tag(0)), Err(VlanMismatch));
        assert_eq!(vgt.admit(tag(25)), Ok(Tag::new(25, 3)));
        assert_eq!(vgt.admit(tag(30)), Err(VlanMismatch));
        assert_eq!(vgt.admit(tag(4095)), Err(VlanMismatch));

        let all = policy(VlanMode::Vgt(VlanSet::all()));
        assert_eq!(all.admit(None), Ok(Tag(0)));
        assert_eq!(all.admit(tag(4094)), Ok(Tag::new(4094, 3)));
    }

    #[test]
    fn tags_towards_guests() {
        let domain = Tag::new(10, 5);
        assert_eq!(policy(VlanMode::Vst(10)).egress_tag(domain), None);
        let vgt = policy(VlanMode::Vgt(VlanSet::all()));
        assert_eq!(vgt.egress_tag(domain), Some(domain));
        assert_eq!(vgt.egress_tag(Tag::new(0, 5)), None);
        assert!(vgt.is_member(10) && !policy(VlanMode::Est).is_member(10));
    }
}
