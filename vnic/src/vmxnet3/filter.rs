//! What the driver asked to receive, and how it becomes the port's receive filter.
//!
//! Three commands read three parts of the shared area; the group address table is only valid while its own
//! command is carried out (Linux frees it right after), so each part is read by its command alone. A driver in
//! promiscuous mode has emptied its VLAN table and means every VLAN. Facts: `vmxnet3_set_rxfilter` of FreeBSD's
//! `if_vmx.c`, `vmxnet3_set_mc` of Linux's `vmxnet3_drv.c`.

use dataplane::{Multicast, RxFilter};
use sharedmem::{Access, DmaMap, Hint};
use wire::Mac;

use super::shared_area::{Words, at};

/// Most group addresses looked up one by one; a driver that gives more gets every group frame and sorts
/// them itself, as it would with a card that has a hash filter.
pub const MAX_GROUPS: usize = 128;

const UNICAST: u32 = 0x01;
const MULTICAST: u32 = 0x02;
const BROADCAST: u32 = 0x04;
const ALL_MULTICAST: u32 = 0x08;
const PROMISCUOUS: u32 = 0x10;

/// The parts of the filter as last told.
#[derive(Clone, Debug)]
pub struct Filter {
    mode: u32,
    groups: Vec<Mac>,
    too_many: bool,
    vlans: Box<[u64; 64]>,
}

impl Default for Filter {
    fn default() -> Self {
        Filter { mode: 0, groups: Vec::new(), too_many: false, vlans: Box::new([0; 64]) }
    }
}

impl Filter {
    /// Reads the receive mode.
    pub fn read_mode(&mut self, area: &Words) {
        self.mode = area.load(at::RX_MODE);
    }

    /// Reads the group addresses. A table that cannot be read is an empty one.
    pub fn read_groups(&mut self, area: &Words, map: &DmaMap) {
        let bytes = (area.load(at::GROUPS_LEN) & 0xffff) as usize;
        let (count, iova) = (bytes / 6, area.load64(at::GROUPS));
        self.groups.clear();
        self.too_many = count > MAX_GROUPS;
        if self.too_many {
            return;
        }
        let mut hint = Hint::default();
        for i in 0..count as u64 {
            let mut mac = [0; 6];
            let Some(entry) = iova.checked_add(i * 6) else { break };
            let Ok(slice) = map.slice(&mut hint, entry, 6, Access::Read) else { break };
            if slice.read_at(0, &mut mac) {
                self.groups.push(Mac(mac));
            }
        }
    }

    /// Reads the VLAN table.
    pub fn read_vlans(&mut self, area: &Words) {
        for (i, bits) in self.vlans.iter_mut().enumerate() {
            *bits = area.load64(at::VLANS + i as u32 * 8);
        }
    }

    /// Reads all three, as when the card starts.
    pub fn read(&mut self, area: &Words, map: &DmaMap) {
        self.read_mode(area);
        self.read_groups(area, map);
        self.read_vlans(area);
    }

    /// The filter for the port of a card that runs with address `mac`.
    pub fn build(&self, mac: Mac) -> RxFilter {
        let on = |bit| self.mode & bit != 0;
        RxFilter {
            mac: Some(mac),
            unicast: on(UNICAST),
            broadcast: on(BROADCAST),
            all_multicast: on(ALL_MULTICAST) || on(MULTICAST) && self.too_many,
            promiscuous: on(PROMISCUOUS),
            multicast: Multicast::List(if on(MULTICAST) { self.groups.clone() } else { Vec::new() }),
            vlans: (!on(PROMISCUOUS)).then(|| self.vlans.clone()),
        }
    }
}
