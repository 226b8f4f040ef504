//! One slot of the table and its reader's check: the argument is in the module above.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Seconds;
use crate::PortId;

/// Slots of a bucket.
pub(super) const SLOTS: usize = 8;
const VALID: u64 = 1 << 63;
const GENERATION_SHIFT: u32 = 36;
const GENERATION_MASK: u64 = (1 << 27) - 1;
const STAMP_SHIFT: u32 = 16;
const STAMP_MASK: u32 = (1 << 20) - 1;

/// A slot's second word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Value(pub(super) u64);

impl Value {
    pub(super) fn new(generation: u64, port: PortId, now: Seconds) -> Value {
        let stamp = u64::from(now.0 & STAMP_MASK);
        Value(VALID | generation << GENERATION_SHIFT | stamp << STAMP_SHIFT | u64::from(port.0))
    }

    pub(super) fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & GENERATION_MASK
    }

    pub(super) fn port(self) -> PortId {
        PortId(self.0 as u16)
    }

    /// Seconds since the stamp; 0 when another worker's clock was ahead of this one's.
    pub(super) fn age(self, now: Seconds) -> u32 {
        let age = now.0.wrapping_sub((self.0 >> STAMP_SHIFT) as u32) & STAMP_MASK;
        if age > STAMP_MASK / 2 { 0 } else { age }
    }
}

/// Slots that lie in one cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [Slot; SLOTS / 2]);

/// Two lines. Readers nearly always find what they look for in the one it belongs to, which it goes to while that has room.
pub(super) type Bucket = [Line; 2];

#[derive(Default)]
pub(super) struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

impl Slot {
    fn has(&self, key: u64) -> bool {
        self.key.load(Ordering::Relaxed) == key
    }

    #[inline]
    pub(super) fn at(&self) -> At<'_> {
        At { key: &self.key, value: &self.value }
    }
}

impl Line {
    /// What is known of `key`, if it is here.
    #[inline(always)]
    pub(super) fn value(&self, key: u64) -> Option<Value> {
        // All four are looked at, whichever it is: nothing for the processor to guess wrong.
        let [_, b, c, d] = &self.0;
        let slot = usize::from(b.has(key)) | usize::from(c.has(key)) << 1 | (usize::from(d.has(key)) * 3);
        self.0.get(slot)?.at().read(key)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = At<'_>> {
        self.0.iter().map(Slot::at)
    }
}

/// The slot of `key` in the bucket, and what is known of it.
#[inline]
pub(super) fn find(bucket: &Bucket, key: u64) -> Option<(At<'_>, Value)> {
    let at = bucket.iter().flat_map(|line| &line.0).find(|slot| slot.has(key))?.at();
    at.read(key).map(|value| (at, value))
}

/// A slot's place.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) key: &'a AtomicU64,
    pub(super) value: &'a AtomicU64,
}

impl At<'_> {
    /// The value, when the slot is `key`'s: see the module's argument.
    #[inline]
    pub(super) fn read(self, key: u64) -> Option<Value> {
        let before = Value(self.value.load(Ordering::Acquire));
        let found = self.key.load(Ordering::Acquire);
        let after = Value(self.value.load(Ordering::Acquire));
        let same = (before.0 ^ after.0) >> GENERATION_SHIFT == 0;
        (same && after.is_valid() && found == key).then_some(after)
    }

    /// The address and what is known of it, if there is one.
    pub(super) fn entry(self) -> Option<(u64, Value)> {
        let key = self.key.load(Ordering::Acquire);
        if key == 0 { None } else { self.read(key).map(|value| (key, value)) }
    }

    /// Gives the slot another key, or none (0). The caller has the part's lock.
    pub(super) fn rewrite(self, key: u64, port: PortId, now: Seconds) {
        let generation = (Value(self.value.load(Ordering::Relaxed)).generation() + 1) & GENERATION_MASK;
        // A refresh may come between; it is of the old key, and lost.
        self.value.store(generation << GENERATION_SHIFT, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
        if key != 0 {
            self.value.store(Value::new(generation, port, now).0, Ordering::Release);
        }
    }
}

pub(super) fn slots(bucket: &Bucket) -> impl Iterator<Item = At<'_>> {
    bucket.iter().flat_map(Line::slots)
}
