//! The forwarding table: (VLAN, MAC) to port, made once, read for every frame.
//!
//! Open addressing in one array at most half full: a look-up is a multiplication and, nearly always, one cache line.
//! Its keys come from the configuration, so nobody can aim them at one place; the table of what guests send
//! ([`crate::Learned`]) is made otherwise.

use crate::PortId;

/// Set in the key of a slot in use: 0 is a key, too.
const USED: u64 = 1 << 63;
/// Odd, with its bits well mixed (2^64 divided by the golden ratio): neighbouring addresses land far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const SMALLEST: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    port: PortId,
}

const EMPTY: Slot = Slot { key: 0, port: PortId(0) };

/// Keys have at most 60 bits.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// A power of two of them.
    slots: Box<[Slot]>,
    used: usize,
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses { slots: vec![EMPTY; SMALLEST].into(), used: 0 }
    }
}

impl Addresses {
    /// True when there is no address.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The port that has `key`.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<PortId> {
        let mut at = self.first(key);
        loop {
            let slot = self.slots.get(at)?;
            if slot.key == key | USED {
                return Some(slot.port);
            }
            // There is an empty one: it is at most half full.
            if slot.key == 0 {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Gives `key` to `port`, unless somebody has it.
    pub(crate) fn insert(&mut self, key: u64, port: PortId) {
        if self.get(key).is_some() {
            return;
        }
        if 2 * (self.used + 1) > self.slots.len() {
            self.grow();
        }
        let mut at = self.first(key);
        while self.slots[at].key != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = Slot { key: key | USED, port };
        self.used += 1;
    }

    fn grow(&mut self) {
        let larger = vec![EMPTY; 2 * self.slots.len()].into();
        let all = std::mem::replace(self, Addresses { slots: larger, used: 0 });
        for slot in all.slots.iter().filter(|slot| slot.key != 0) {
            self.insert(slot.key & !USED, slot.port);
        }
    }

    #[inline]
    fn first(&self, key: u64) -> usize {
        // The upper bits depend on all bits of the key.
        (key.wrapping_mul(SPREAD) >> 32) as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The standard library's table says what must be found; few keys, so that some are given twice.
        #[test]
        fn it_is_a_map_whose_first_owner_stays(keys in prop::collection::vec(0u64..400, 0..600)) {
            let (mut table, mut model) = (Addresses::default(), HashMap::new());
            for (n, key) in keys.into_iter().enumerate() {
                let (key, port) = (key * 0x1_0000_0001, PortId(n as u16));
                table.insert(key, port);
                model.entry(key).or_insert(port);
            }
            for key in (0..400).map(|key| key * 0x1_0000_0001) {
                prop_assert_eq!(table.get(key), model.get(&key).copied());
            }
            prop_assert_eq!(table.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn neighbours_stay_near_their_place() {
        let mut table = Addresses::default();
        let keys = || (0..4096u64).map(|n| 10 << 48 | 0x0050_5600_0000 | n);
        keys().for_each(|key| table.insert(key, PortId(7)));
        let far = |key| {
            let mut at = table.first(key);
            let mut steps = 0;
            while table.slots[at].key != key | USED {
                at = (at + 1) & (table.slots.len() - 1);
                steps += 1;
            }
            steps
        };
        let steps: usize = keys().map(far).sum();
        assert!(steps < 4096, "{steps} steps for 4096 look-ups");
    }
}
