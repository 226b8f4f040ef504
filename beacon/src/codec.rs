//! The beacon frame.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | destination: broadcast |
//! | 6 | 6 | source: the sending uplink's own locally administered address |
//! | 12 | 2 | EtherType, 0x88B5 unless configured (IEEE 802: local experimental 1) |
//! | 14 | 4 | magic `vSWb` |
//! | 18 | 1 | version, 1 |
//! | 19 | 1 | reserved, 0 when sent, ignored when received |
//! | 20 | 2 | uplink id |
//! | 22 | 16 | switch id |
//! | 38 | 8 | boot nonce |
//! | 46 | 8 | sequence |
//! | 54 | 2 | VLAN, 0 for untagged |
//! | 56 | 8 | what the sender hears on this VLAN |
//! | 64 | 16 | HMAC-SHA256 over bytes 0 to 63, its first 16 bytes (RFC 2104 section 5) |
//!
//! Numbers are big-endian. The 802.1Q tag is not part of the frame here: the port adds and removes it, and the
//! VLAN in the payload tells a beacon that changed VLAN on its way.
//!
//! **Why broadcast.** A false verdict takes a healthy uplink out of use, so the beacon must go wherever a
//! broadcast of the VMs goes. Every bridge floods broadcast. A group address of our own would spare other
//! hosts the interrupt, since their network cards filter it, but switches exist that block unknown multicast
//! on a port, or prune it when no querier answers (IGMP snooping with "drop unregistered"), and there the
//! beacon path would be dead while the traffic's lives. ESX broadcasts too. The price is one short frame per
//! uplink, VLAN and interval at every host of the VLAN.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use wire::{ETH_HEADER, Mac, be16, be32};

/// EtherType of beacons unless configured: local experimental EtherType 1 (IEEE 802). Not ESX's 0x8922, so that
/// ESX hosts on the same network are left alone.
pub const DEFAULT_ETHERTYPE: u16 = 0x88b5;
/// Length of a beacon in bytes, untagged and without the frame check sequence: more than Ethernet's shortest
/// frame, so nothing on the way pads it.
pub const BEACON_LEN: usize = SIGNED_LEN + TAG_LEN;
/// Bits of [`Beacon::hears`].
pub const HEARS_BITS: usize = 64;

const MAGIC: u32 = u32::from_be_bytes(*b"vSWb");
const VERSION: u8 = 1;
const SIGNED_LEN: usize = 64;
const TAG_LEN: usize = 16;

/// Names a switch among all that send beacons on a network: random, made by the caller, the same for as long as
/// the switch runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SwitchId(pub [u8; 16]);

impl SwitchId {
    /// A source address for the beacons of `uplink`: locally administered, from the first bytes of the switch's
    /// id and the uplink's number. Never a VM's and never the network card's, so a physical switch that learns
    /// it learns nothing that matters.
    pub fn source_mac(&self, uplink: u16) -> Mac {
        let [high, low] = uplink.to_be_bytes();
        Mac([0x02, self.0[0], self.0[1], self.0[2], high, low])
    }
}

impl fmt::Debug for SwitchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What makes a beacon ours: EtherType, switch id and the secret, fresh and random at every start.
#[derive(Clone)]
pub struct Key {
    ethertype: u16,
    switch: SwitchId,
    /// Already keyed: cloning it spares two of the four SHA-256 blocks of each beacon.
    keyed: Hmac<Sha256>,
}

impl Key {
    /// A key from 32 bytes of the system's random number generator.
    pub fn new(switch: SwitchId, secret: &[u8; 32], ethertype: u16) -> Key {
        // HMAC fills a short key up with zeros to the hash's block of 64 bytes (RFC 2104 section 2).
        let mut block = [0u8; 64];
        block[..32].copy_from_slice(secret);
        Key { ethertype, switch, keyed: Hmac::new(&block.into()) }
    }

    /// The EtherType of beacons.
    pub fn ethertype(&self) -> u16 {
        self.ethertype
    }

    /// Whose beacons these are.
    pub fn switch(&self) -> SwitchId {
        self.switch
    }
}

impl fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { ethertype, switch, keyed: _ } = self;
        f.debug_struct("Key").field("ethertype", ethertype).field("switch", switch).finish_non_exhaustive()
    }
}

/// What a beacon says, apart from whose switch it is of ([`Key`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Source address of the frame.
    pub source: Mac,
    /// The uplink that sent it.
    pub uplink: u16,
    /// Random number of the sending switch's start.
    pub nonce: u64,
    /// Rises from beacon to beacon of one uplink on one VLAN. The prober sends the microseconds of its clock.
    pub sequence: u64,
    /// The VLAN it was sent on; 0 for untagged.
    pub vlan: u16,
    /// The uplinks whose beacons on this VLAN reach the sender: bit n stands for the switch's probing uplink
    /// with the n-th lowest id.
    pub hears: u64,
}

/// Why bytes are not one of our beacons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Another EtherType, or another protocol's use of ours.
    #[error("not a beacon")]
    NotABeacon,
    /// It ends too soon.
    #[error("a beacon cut short")]
    Truncated,
    /// A format this program does not know.
    #[error("a beacon of another version")]
    Version,
    /// From another switch.
    #[error("a beacon of another switch")]
    Foreign,
    /// Says it is ours and is not, or was damaged, or is left over from before this start.
    #[error("a beacon that says it is ours and is not")]
    Forged,
}

/// True for frames that no vNIC may receive, and none may send, as far as the first 18 bytes tell: any switch's
/// beacons. `frame` is untagged.
pub fn is_beacon(frame: &[u8], ethertype: u16) -> bool {
    be16(frame, 12) == Some(ethertype) && be32(frame, ETH_HEADER) == Some(MAGIC)
}

/// The untagged frame of `beacon`.
pub fn encode(beacon: &Beacon, key: &Key) -> [u8; BEACON_LEN] {
    let mut frame = [0u8; BEACON_LEN];
    frame[0..6].copy_from_slice(&Mac::BROADCAST.0);
    frame[6..12].copy_from_slice(&beacon.source.0);
    frame[12..14].copy_from_slice(&key.ethertype.to_be_bytes());
    frame[14..18].copy_from_slice(&MAGIC.to_be_bytes());
    frame[18] = VERSION;
    frame[20..22].copy_from_slice(&beacon.uplink.to_be_bytes());
    frame[22..38].copy_from_slice(&key.switch.0);
    frame[38..46].copy_from_slice(&beacon.nonce.to_be_bytes());
    frame[46..54].copy_from_slice(&beacon.sequence.to_be_bytes());
    frame[54..56].copy_from_slice(&beacon.vlan.to_be_bytes());
    frame[56..64].copy_from_slice(&beacon.hears.to_be_bytes());
    let tag = key.keyed.clone().chain_update(&frame[..SIGNED_LEN]).finalize().into_bytes();
    frame[SIGNED_LEN..].copy_from_slice(&tag[..TAG_LEN]);
    frame
}

/// Reads an untagged frame of any length and content. Bytes after the beacon are ignored: some adapters leave
/// the frame check sequence there.
///
/// # Errors
/// When it is not a beacon of the switch that `key` is of.
pub fn decode(frame: &[u8], key: &Key) -> Result<Beacon, Reject> {
    if be16(frame, 12) != Some(key.ethertype) {
        return Err(Reject::NotABeacon);
    }
    if be32(frame, 14).ok_or(Reject::Truncated)? != MAGIC {
        return Err(Reject::NotABeacon);
    }
    if *frame.get(18).ok_or(Reject::Truncated)? != VERSION {
        return Err(Reject::Version);
    }
    let (signed, rest) = frame.split_first_chunk::<SIGNED_LEN>().ok_or(Reject::Truncated)?;
    let tag = rest.first_chunk::<TAG_LEN>().ok_or(Reject::Truncated)?;
    if signed[22..38] != key.switch.0 {
        return Err(Reject::Foreign);
    }
    // Compares in constant time.
    key.keyed.clone().chain_update(signed).verify_truncated_left(tag).map_err(|_| Reject::Forged)?;
    let be64 = |at: usize| signed[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let short = |at: usize| u16::from_be_bytes([signed[at], signed[at + 1]]);
    Ok(Beacon {
        source: Mac::read(&signed[6..]).ok_or(Reject::Truncated)?,
        uplink: short(20),
        nonce: be64(38),
        sequence: be64(46),
        vlan: short(54),
        hears: be64(56),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
