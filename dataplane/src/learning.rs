//! Addresses learnt from what ports send: (VLAN, MAC) to port, shared by all workers.
//!
//! ```text
//!  hash(VLAN, MAC) -> part (with a lock for writers) -> two buckets of 8 slots
//!
//!  bucket:  | key 0 | value 0 | ... | key 3 | value 3 |      two cache lines; an address belongs to one of them
//!           | key 4 | value 4 | ... | key 7 | value 7 |      and lies in the other where that is full
//!
//!  key:     0 (4 bits) | VLAN 12 | MAC 48                        0: the slot is empty
//!  value:   valid 1 | generation 27 | stamp 20 | port 16         stamp in seconds, modulo 2^20
//! ```
//!
//! # Readers see no key with another key's port
//!
//! A slot's key changes only under its part's lock, always in this order: the value is made invalid with the next
//! generation (W1), the key is stored (W2, release), and the value is stored, valid, with that generation (W3,
//! release). Refreshing a stamp and moving an address to another port change the value alone and keep its generation.
//! A reader that found its key in a slot loads value (R1, acquire), key (R2, acquire), value (R3) and believes them
//! when the key is its own and both values are valid and of one generation g:
//!
//! - R1 saw W3 of g or a later change of that value, so R2 sees the key of W2 of g, or a newer one;
//! - had R2 seen a newer one, of generation h > g, then R3 would see at least W1 of h, whose generation is not g;
//! - so the key is that of g, and R3's port is one this key had between R1 and R3.
//!
//! That a generation comes round again takes 2^27 rewrites of that one slot between two neighbouring loads of a reader,
//! seconds of nothing else. A slot rewritten meanwhile is a miss, and a miss is always allowed: the frame is flooded.
//! So readers neither wait nor repeat.
//!
//! # Writers
//!
//! An address known at its port costs no store at all, unless its stamp is older than [`REFRESH`] seconds: then one
//! compare-and-swap, which loses against any change. The rest, a new address or one that moved, tries the part's lock and
//! gives up when another has it: the next frame of that address learns it. Only the control thread waits for a lock.
//!
//! # Who gives way
//!
//! Where both buckets of a new address are full, an entry of the port that has most of all goes, the oldest of those
//! there; but only for a port that has no more than that one afterwards. So a port that sends from ever new addresses replaces its own, or
//! learns no more, and none with fewer loses one to it. A port has at most [`PER_PORT`] in all.

mod slot;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use sharedmem::{HugeTable, prefetch};
use wire::{Mac, VID_MAX};

use self::slot::{At, Bucket, SLOTS, Value, find, slots};
use crate::PortId;
use crate::snapshot::Address;

/// Most addresses of one port.
pub const PER_PORT: u32 = 4096;
/// An address nobody has sent from for longer than this many seconds is forgotten.
pub const AGE: u32 = 600;
/// A stamp this many seconds old is not yet written anew.
pub const REFRESH: u32 = 1;
/// Parts in which [`Learned::sweep`] goes over the table.
pub const PARTS: usize = 512;

/// Buckets of a part.
const BUCKETS: usize = 64;
/// Ports there can be numbers for.
const PORTS: usize = 1 << 16;

/// The bit of a group address, in an address as a number.
const GROUP: u64 = 1 << 40;

/// Seconds since the switch started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub u32);

/// What learning an address came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, and fresh.
    Known,
    /// It was there; its stamp is new.
    Refreshed,
    /// It is there now.
    Added,
    /// It was another port's until now.
    Moved,
    /// It is not learnt: no address to learn, no room for this port, or another thread was changing this part.
    Refused,
}

/// An address, and where it may be: a part, and two buckets of it.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    address: Address,
    hash: u64,
}

impl Probe {
    #[inline]
    fn part(&self) -> usize {
        self.first() / BUCKETS
    }

    /// The line it belongs to, of all there are.
    #[inline]
    fn line(&self) -> usize {
        self.hash as usize % (PARTS * BUCKETS * 2)
    }

    #[inline]
    fn first(&self) -> usize {
        self.line() / 2
    }

    #[inline]
    fn buckets(&self) -> [usize; 2] {
        // Another one than the first, of the same part: of two neighbours one is even.
        [self.first(), self.first() ^ (((self.hash >> 32) as usize % BUCKETS) | 1)]
    }
}

/// The table. Its size is fixed: 256 Ki slots (4 MiB). 64 Ki addresses then find room wherever the hash puts them, and
/// nearly all of them in the line they belong to.
pub struct Learned {
    buckets: Box<HugeTable<Bucket, { PARTS * BUCKETS }>>,
    locks: Box<[Mutex<()>]>,
    counts: Box<[AtomicU32]>,
    /// Secret, so that no guest can aim its addresses at one bucket.
    seeds: [u64; 4],
}

impl Default for Learned {
    fn default() -> Self {
        Learned::new()
    }
}

impl Learned {
    /// An empty table; nothing is allocated later.
    pub fn new() -> Learned {
        // The standard library's hasher is keyed from the system's random numbers.
        let random = RandomState::new();
        Learned {
            buckets: HugeTable::boxed(),
            locks: (0..PARTS).map(|_| Mutex::new(())).collect(),
            counts: (0..PORTS).map(|_| AtomicU32::new(0)).collect(),
            seeds: [1u8, 2, 3, 4].map(|n| random.hash_one(n) | 1),
        }
    }

    /// Where `address` would be: worked out once for what follows.
    #[inline]
    pub fn probe(&self, address: Address) -> Probe {
        let [a, b, c, d] = self.seeds;
        Probe { address, hash: fold(fold(address.key() ^ a, b) ^ c, d) }
    }

    /// Asks the processor to bring what is at `probe` near.
    #[inline]
    pub fn prefetch(&self, probe: &Probe) {
        if let Some(line) = self.buckets.as_flattened().get(probe.line()) {
            prefetch(line);
        }
    }

    /// The port that sent from the address within the last [`AGE`] seconds. Never waits.
    #[inline]
    pub fn lookup(&self, probe: &Probe, now: Seconds) -> Option<PortId> {
        let value = self.value(probe)?;
        (value.age(now) <= AGE).then(|| value.port())
    }

    /// True when the address is known at `port`, and was heard of so lately that [`Learned::learn`] would change nothing.
    #[inline]
    pub fn knows(&self, probe: &Probe, port: PortId, now: Seconds) -> bool {
        self.value(probe).is_some_and(|value| value.port() == port && value.age(now) <= REFRESH)
    }

    /// Notes that `port` sent from the address. Never waits.
    pub fn learn(&self, probe: &Probe, port: PortId, now: Seconds) -> Outcome {
        if let Some((at, value)) = self.find(probe)
            && value.port() == port
        {
            if value.age(now) <= REFRESH {
                return Outcome::Known;
            }
            let fresh = Value::new(value.generation(), port, now);
            // Whoever changed it meanwhile knew better.
            let swapped = at.value.compare_exchange(value.0, fresh.0, Ordering::Release, Ordering::Relaxed);
            return if swapped.is_ok() { Outcome::Refreshed } else { Outcome::Known };
        }
        let (vid, mac) = (probe.address.vid(), probe.address.mac());
        if mac == 0 || mac & GROUP != 0 || vid > VID_MAX {
            return Outcome::Refused;
        }
        self.enter(probe, port, now)
    }

    /// Drops what has aged in part `part` (modulo [`PARTS`]). Each part is to be swept every few minutes; stamps come
    /// round after twelve days.
    pub fn sweep(&self, now: Seconds, part: usize) {
        self.drop_where(part % PARTS, |value| value.age(now) > AGE);
    }

    /// Drops every address of `port`.
    pub fn forget_port(&self, port: PortId) {
        (0..PARTS).for_each(|part| self.drop_where(part, |value| value.port() == port));
    }

    /// VLAN, address, port and age in seconds of each entry, in no order; aged ones are left out.
    pub fn entries(&self, now: Seconds) -> impl Iterator<Item = (u16, Mac, PortId, u32)> + '_ {
        let all = self.buckets.iter().flat_map(slots);
        all.filter_map(move |at| {
            let (key, value) = at.entry()?;
            let [v, w, a, b, c, d, e, f] = key.to_be_bytes();
            let age = value.age(now);
            (age <= AGE).then(|| (u16::from_be_bytes([v, w]), Mac([a, b, c, d, e, f]), value.port(), age))
        })
    }

    /// How many addresses `port` has, aged ones that were not yet swept among them.
    pub fn count(&self, port: PortId) -> usize {
        self.tally(port).load(Ordering::Relaxed) as usize
    }

    /// What is known of the address.
    #[inline(always)]
    fn value(&self, probe: &Probe) -> Option<Value> {
        let line = self.buckets.as_flattened().get(probe.line())?;
        // Nearly always it is where the first look falls.
        line.value(probe.address.key()).or_else(|| self.find(probe).map(|(_, value)| value))
    }

    #[inline(never)]
    fn find(&self, probe: &Probe) -> Option<(At<'_>, Value)> {
        let (key, [first, second]) = (probe.address.key(), probe.buckets());
        find(&self.buckets[first], key).or_else(|| find(&self.buckets[second], key))
    }

    fn tally(&self, port: PortId) -> &AtomicU32 {
        &self.counts[usize::from(port.0)]
    }

    /// Counts one more for `port`, unless it has all it may have.
    fn reserve(&self, port: PortId) -> bool {
        let within = self.tally(port).fetch_add(1, Ordering::Relaxed) < PER_PORT;
        if !within {
            self.release(port);
        }
        within
    }

    fn release(&self, port: PortId) {
        self.tally(port).fetch_sub(1, Ordering::Relaxed);
    }

    /// The slow part of [`Learned::learn`]: the address is new, or another port's.
    #[cold]
    fn enter(&self, probe: &Probe, port: PortId, now: Seconds) -> Outcome {
        let Some(_guard) = self.try_lock(probe.part()) else { return Outcome::Refused };
        // Another worker may have entered it before the lock was ours.
        match self.find(probe) {
            Some((_, value)) if value.port() == port => Outcome::Known,
            Some((at, value)) => self.move_entry(probe, at, value, port, now),
            None => self.add(probe, port, now),
        }
    }

    fn move_entry(&self, probe: &Probe, at: At<'_>, value: Value, port: PortId, now: Seconds) -> Outcome {
        if !self.reserve(port) {
            let Some(own) = self.oldest(probe, now, |p| p == port) else { return Outcome::Refused };
            // Its count passes on to the address that moves.
            own.rewrite(0, port, now);
        }
        self.release(value.port());
        at.value.store(Value::new(value.generation(), port, now).0, Ordering::Release);
        if value.age(now) > AGE { Outcome::Added } else { Outcome::Moved }
    }

    fn add(&self, probe: &Probe, port: PortId, now: Seconds) -> Outcome {
        self.drop_aged(probe, now);
        if !self.reserve(port) {
            return self.replace_own(probe, port, now);
        }
        if let Some(free) = self.free(probe) {
            free.rewrite(probe.address.key(), port, now);
            return Outcome::Added;
        }
        // Both buckets are full. The port with most addresses gives way to one that has no more than it afterwards; the
        // new address is counted already.
        let with = self.count(port);
        let most = self.candidates(probe).map(|(_, value)| value.port()).max_by_key(|p| self.count(*p));
        let heavy = most.filter(|p| *p != port && self.count(*p) > with);
        if let Some(victim) = heavy.and_then(|heavy| self.oldest(probe, now, |p| p == heavy).map(|at| (heavy, at))) {
            self.release(victim.0);
            victim.1.rewrite(probe.address.key(), port, now);
            return Outcome::Added;
        }
        self.release(port);
        self.replace_own(probe, port, now)
    }

    /// The new address in the place of the port's own oldest one here.
    fn replace_own(&self, probe: &Probe, port: PortId, now: Seconds) -> Outcome {
        let Some(own) = self.oldest(probe, now, |p| p == port) else { return Outcome::Refused };
        own.rewrite(probe.address.key(), port, now);
        Outcome::Added
    }

    fn candidates(&self, probe: &Probe) -> impl Iterator<Item = (At<'_>, Value)> {
        let here = probe.buckets().into_iter().flat_map(|index| slots(&self.buckets[index]));
        here.filter_map(|at| at.entry().map(|(_, value)| (at, value)))
    }

    /// The entry nobody refreshed for longest among those of the ports that `of` picks.
    fn oldest(&self, probe: &Probe, now: Seconds, of: impl Fn(PortId) -> bool) -> Option<At<'_>> {
        let theirs = self.candidates(probe).filter(|(_, value)| of(value.port()));
        theirs.max_by_key(|(_, value)| value.age(now)).map(|(at, _)| at)
    }

    /// An empty slot: in the first bucket while a quarter of that is empty, in the line where readers look first if there is one,
    /// or else in the emptier bucket.
    fn free(&self, probe: &Probe) -> Option<At<'_>> {
        let empty = |at: &At<'_>| at.key.load(Ordering::Relaxed) == 0;
        let [first, second] = probe.buckets().map(|index| &self.buckets[index]);
        let [a, b] = [first, second].map(|bucket| slots(bucket).filter(empty).count());
        if a < b.min(SLOTS / 4) {
            return slots(second).find(empty);
        }
        first[probe.line() % 2].slots().find(empty).or_else(|| slots(first).find(empty))
    }

    fn drop_aged(&self, probe: &Probe, now: Seconds) {
        for (at, value) in self.candidates(probe) {
            if value.age(now) > AGE {
                self.release(value.port());
                at.rewrite(0, PortId(0), now);
            }
        }
    }

    fn drop_where(&self, part: usize, gone: impl Fn(Value) -> bool) {
        let _guard = self.locks[part].lock().unwrap_or_else(PoisonError::into_inner);
        for at in self.buckets[part * BUCKETS..(part + 1) * BUCKETS].iter().flat_map(slots) {
            if let Some((_, value)) = at.entry().filter(|(_, value)| gone(*value)) {
                self.release(value.port());
                at.rewrite(0, PortId(0), Seconds(0));
            }
        }
    }

    fn try_lock(&self, part: usize) -> Option<MutexGuard<'_, ()>> {
        match self.locks[part].try_lock() {
            Ok(guard) => Some(guard),
            // It guards no value that could be half changed: slots are whole at every moment.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Both halves of a product: every bit of it depends on every bit of the factors.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
#[path = "learning_tests.rs"]
mod tests;
