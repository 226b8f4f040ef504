//! Guests that all are alike, and traffic that can be told apart again when it arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portgroups::VlanMode;
use wire::Mac;

use crate::fake::{Received, Sent};
use crate::frames::{PLAIN, Shape, id_of};
use crate::spec::{FilterSpec, Peer, SendBy, SwitchSpec, UplinkSpec, VnicSpec};
use crate::switch::{Running, Switch};

/// Bytes a recorder keeps here; touched only as far as used.
pub const MEMORY: usize = 256 << 20;
pub const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 1]);

pub fn mac(index: usize) -> Mac {
    Mac([0, 0x50, 0x56, 0, 0, index as u8])
}

/// `count` guests in VLAN 10, all taking what they can, over one uplink or none.
pub fn spec(count: usize, uplink: bool) -> SwitchSpec {
    let vnic = |index| VnicSpec {
        name: format!("vnic{index}"),
        vlan: VlanMode::Vst(10),
        mac: mac(index),
        programmed: None,
        started: true,
        connected: true,
        link: true,
        send: if uplink { SendBy::One("vmnic0".to_owned()) } else { SendBy::None },
        group_from: None,
        unicast_from: None,
        promiscuous: false,
        mac_changes: false,
        forged_transmits: false,
        mac_learning: false,
        filter: FilterSpec::default(),
        peer: Peer::default(),
    };
    let uplinks = uplink.then(|| UplinkSpec { name: "vmnic0".to_owned(), used: true, peer: Peer::default() });
    SwitchSpec {
        mtu: 1500,
        beacon: None,
        vnics: (0..count).map(vnic).collect(),
        uplinks: uplinks.into_iter().collect(),
    }
}

/// A source that sends while its allowance lasts: frame `number` of queue `queue`, as `shape` makes it.
pub fn gated<F: Fn(u64) -> Shape + Send + 'static>(
    queue: usize,
    allowance: &Arc<AtomicU64>,
    shape: F,
) -> impl Iterator<Item = Sent> + Send + use<F> + 'static {
    let (allowance, mut number) = (allowance.clone(), 0);
    std::iter::from_fn(move || {
        if number == allowance.load(Ordering::Acquire) {
            return None;
        }
        let frame = Shape { id: (queue as u16, number as u16), ..shape(number) };
        number += 1;
        Some(frame.sent(vec![40]))
    })
}

pub fn plain(src: usize, dst: Mac) -> Shape {
    let (tag, inner) = (None, None);
    Shape { dst, src: mac(src), tag, in_band: false, inner, payload: 50, kind: PLAIN, id: (0, 0) }
}

/// The numbers of queue `queue`'s frames, in the order they arrived.
pub fn numbers(received: &[Received], queue: usize) -> Vec<u64> {
    let ids = received.iter().map(|one| id_of(one).expect("a frame somebody sent"));
    ids.filter(|id| usize::from(id.0) == queue).map(|id| u64::from(id.1)).collect()
}

/// Waits until all `frames` of the first `ports` came in.
pub fn wait_for(running: &Running, switch: &Switch, ports: usize, frames: u64) {
    running.until("all frames came in", || (0..ports).map(|p| switch.totals(p).in_frames).sum::<u64>() == frames);
}
