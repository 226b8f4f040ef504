//! Sticky places: which uplink each port, or each hash bucket, is on.

use std::collections::BTreeMap;

/// A port's or a bucket's place.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where it belongs when everything works.
    home: Option<u16>,
    /// Where it is; `None` when no uplink is in use.
    at: Option<u16>,
}

/// One key that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: Option<u16>,
    pub(crate) to: Option<u16>,
}

/// Places by key: port numbers, or buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    places: BTreeMap<u16, Place>,
}

impl Spread {
    /// Where `key` is.
    pub(crate) fn at(&self, key: u16) -> Option<u16> {
        self.places.get(&key)?.at
    }

    /// How many keys are on `uplink`.
    pub(crate) fn count(&self, uplink: u16) -> usize {
        self.places.values().filter(|p| p.at == Some(uplink)).count()
    }

    /// Keys in order, with where they are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, Option<u16>)> {
        self.places.iter().map(|(key, place)| (*key, place.at))
    }

    pub(crate) fn contains(&self, key: u16) -> bool {
        self.places.contains_key(&key)
    }

    /// Gives `key` a home, one of `homes` by the key modulo their number, and a place: the home when
    /// it is in use.
    pub(crate) fn add(&mut self, key: u16, homes: &[u16], carriers: &Carriers) {
        let home = homes.get(usize::from(key) % homes.len().max(1)).copied();
        let at = home.and_then(|h| carriers.instead_of(h));
        let at = at.or_else(|| Room::new(self, carriers, homes.len()).emptiest(key));
        self.places.insert(key, Place { home, at });
    }

    pub(crate) fn remove(&mut self, key: u16) {
        self.places.remove(&key);
    }

    /// Puts `key` on `uplink`, and at home there.
    pub(crate) fn put(&mut self, key: u16, uplink: u16) {
        self.places.insert(key, Place { home: Some(uplink), at: Some(uplink) });
    }

    /// What is at home on `from` is at home on `to` from now on.
    pub(crate) fn rehome(&mut self, from: u16, to: u16) {
        self.places.values_mut().filter(|p| p.home == Some(from)).for_each(|p| p.home = Some(to));
    }

    /// After a change of who carries traffic: moves the keys that must, and those that may go home. `homes`
    /// is the number of active uplinks; `goes_home` tells whether an uplink calls back what is at home on it.
    pub(crate) fn settle(&mut self, homes: usize, carriers: &Carriers, goes_home: impl Fn(u16) -> bool) -> Vec<Moved> {
        let mut moved = Vec::new();
        let mut displaced = Vec::new();
        for (key, place) in &mut self.places {
            let home = place.home.filter(|h| carriers.in_use.contains(h));
            let stays = place.at.filter(|u| carriers.in_use.contains(u));
            let next = match (stays, home) {
                (Some(_), Some(home)) if goes_home(home) => Some(home),
                (Some(now), _) => Some(now),
                (None, _) => place.home.and_then(|h| carriers.instead_of(h)),
            };
            match next {
                None => displaced.push((*key, place.at)),
                Some(_) if next != place.at => moved.push(Moved { from: place.at, to: next }),
                Some(_) => {}
            }
            place.at = next;
        }
        let mut room = Room::new(self, carriers, homes);
        for (key, from) in displaced {
            let to = room.emptiest(key);
            if let Some(place) = self.places.get_mut(&key) {
                place.at = to;
            }
            if from != to {
                moved.push(Moved { from, to });
            }
        }
        moved
    }
}

/// Who carries traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carriers {
    /// By the order.
    pub(crate) in_use: Vec<u16>,
    /// The active uplinks that are not in use, each with the standby one that stands in for it.
    pub(crate) stand_ins: Vec<(u16, u16)>,
}

impl Carriers {
    /// `home` when it is in use, or the one that stands in for it.
    fn instead_of(&self, home: u16) -> Option<u16> {
        if self.in_use.contains(&home) {
            return Some(home);
        }
        self.stand_ins.iter().find(|(active, _)| *active == home).map(|(_, standby)| *standby)
    }
}

/// How many keys each uplink in use has.
struct Room {
    counts: Vec<(u16, usize)>,
    homes: usize,
}

impl Room {
    fn new(spread: &Spread, carriers: &Carriers, homes: usize) -> Room {
        let mut counts: Vec<(u16, usize)> = carriers.in_use.iter().map(|u| (*u, 0)).collect();
        for at in spread.places.values().filter_map(|p| p.at) {
            if let Some((_, count)) = counts.iter_mut().find(|(u, _)| *u == at) {
                *count += 1;
            }
        }
        Room { counts, homes: homes.max(1) }
    }

    /// Takes a place for `key` on the uplink that has the fewest keys. Among equals the key decides, so
    /// that many teams with few ports each do not all choose the same.
    fn emptiest(&mut self, key: u16) -> Option<u16> {
        let least = self.counts.iter().map(|(_, count)| *count).min()?;
        let equals = self.counts.iter().filter(|(_, count)| *count == least).count();
        let which = usize::from(key) / self.homes % equals.max(1);
        let (uplink, count) = self.counts.iter_mut().filter(|(_, count)| *count == least).nth(which)?;
        *count += 1;
        Some(*uplink)
    }
}
