//! What a team decides for a port: by which uplinks it sends, and from which it receives.

use std::sync::Arc;

use wire::Mac;

use crate::{hash_ip, hash_mac};

/// Buckets of a hash table of uplinks.
pub const BUCKETS: usize = 256;

/// What a hash policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// The source address of the frame.
    Mac,
    /// The IP addresses of the frame.
    Ip,
}

impl HashKind {
    /// The bucket of a frame; `head` is its untagged head from the destination address on. A head
    /// without a whole source address is in bucket 0.
    #[inline]
    pub fn bucket(self, head: &[u8]) -> u8 {
        match self {
            HashKind::Mac => head.get(6..).and_then(Mac::read).map_or(0, hash_mac),
            HashKind::Ip => hash_ip(head),
        }
    }
}

/// By which uplinks a port's frames leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// None works (`no-uplink`), or the team has none.
    None,
    /// All by this one.
    One(u16),
    /// Each frame by the uplink in its bucket.
    Hash {
        /// How to find the bucket.
        kind: HashKind,
        /// The uplink of each bucket; each is in use. Shared by the ports of a team.
        table: Arc<[u16; BUCKETS]>,
    },
    /// Shotgun: each frame by every one of these, because it is not known which are cut off. Shared by
    /// the ports of a team.
    All(Arc<[u16]>),
}

impl Choice {
    /// The one uplink of a frame, `head` being its untagged head; `None` for [`Choice::None`] and
    /// [`Choice::All`].
    #[inline]
    pub fn pick(&self, head: &[u8]) -> Option<u16> {
        match self {
            Choice::One(uplink) => Some(*uplink),
            Choice::Hash { kind, table } => Some(table[usize::from(kind.bucket(head))]),
            Choice::None | Choice::All(_) => None,
        }
    }

    /// The uplinks by which physical switches are to learn `mac`: those that carry frames from it.
    /// Empty for `ip-hash`, where the link aggregation group has the address, not a member. When this
    /// changes for a port, announce it ([`crate::Notifier::announce`]).
    pub fn announce_by(&self, mac: Mac) -> Vec<u16> {
        match self {
            Choice::One(uplink) => vec![*uplink],
            Choice::Hash { kind: HashKind::Mac, table } => vec![table[usize::from(hash_mac(mac))]],
            Choice::All(uplinks) => {
                // In whatever order frames are sent by them.
                let mut all = uplinks.to_vec();
                all.sort_unstable();
                all
            }
            Choice::None | Choice::Hash { kind: HashKind::Ip, .. } => Vec::new(),
        }
    }
}

/// From which uplinks a port's frames come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Group frames are for the port only when they came in by one of these. One designated uplink
    /// as a rule: the physical network sends a group frame to every uplink, and the port gets one
    /// copy. With `ip-hash` all in use, for the aggregation group gets one. In shotgun one of
    /// each part, for what comes in by one part does not by another.
    pub group: Arc<[u16]>,
    /// Unicast frames are for the port when they came in by one of these: all in use, because a
    /// physical switch's table may lag behind a failover.
    pub unicast: Arc<[u16]>,
}

/// All that the data path has to know of a port's team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// By which uplinks it sends.
    pub send: Choice,
    /// From which it receives.
    pub receive: Receive,
}

impl Placement {
    /// The uplink users are shown for the port: the first designated one.
    pub fn designated(&self) -> Option<u16> {
        self.receive.group.first().copied()
    }
}
