//! Descriptor chains: from a head to pieces of guest memory.

use arrayvec::ArrayVec;
use sharedmem::{Lookup, MemTable, Slice, SpanHint, SplitRing, VirtqDesc};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Most descriptors of a chain that are looked at: as many as a frame may have pieces, and its header.
const MAX_CHAIN: usize = 128;

/// A chain that is none: out of memory or of the ring, too long, of the wrong direction, or indirect twice.
#[derive(Debug)]
pub struct BadChain;

/// Adds the memory of the chain at `head` to `pieces`. `writable`: its descriptors must be for the device to write,
/// else to read.
#[inline]
pub fn walk<'m, const N: usize>(
    ring: &SplitRing,
    table: &'m MemTable,
    hint: &mut SpanHint,
    head: u16,
    writable: bool,
    pieces: &mut ArrayVec<Slice<'m>, N>,
) -> Result<(), BadChain> {
    let mut desc = ring.desc(head).ok_or(BadChain)?;
    for _ in 0..MAX_CHAIN {
        if desc.flags & INDIRECT != 0 {
            // The table ends the chain (virtio 1.2, 2.7.5.3.1).
            return if desc.flags & NEXT == 0 { indirect(table, hint, &desc, writable, pieces) } else { Err(BadChain) };
        }
        add(table, hint, &desc, writable, pieces)?;
        if desc.flags & NEXT == 0 {
            return Ok(());
        }
        desc = ring.desc(desc.next).ok_or(BadChain)?;
    }
    Err(BadChain)
}

fn indirect<'m, const N: usize>(
    table: &'m MemTable,
    hint: &mut SpanHint,
    outer: &VirtqDesc,
    writable: bool,
    pieces: &mut ArrayVec<Slice<'m>, N>,
) -> Result<(), BadChain> {
    let count = outer.len / 16;
    let place = table.prefix(&mut SpanHint::default(), outer.addr, outer.len).ok_or(BadChain)?;
    if !outer.len.is_multiple_of(16) || place.len() != outer.len as usize {
        return Err(BadChain);
    }
    let mut at = 0;
    for _ in 0..count.min(MAX_CHAIN as u32) {
        let mut bytes = [0; 16];
        if !place.read_at(at * 16, &mut bytes) {
            return Err(BadChain);
        }
        let desc = VirtqDesc::from_bytes(bytes, false);
        if desc.flags & INDIRECT != 0 {
            return Err(BadChain);
        }
        add(table, hint, &desc, writable, pieces)?;
        if desc.flags & NEXT == 0 {
            return Ok(());
        }
        at = usize::from(desc.next);
    }
    Err(BadChain)
}

/// Adds one descriptor's memory; it may span mappings.
#[inline]
fn add<'m, const N: usize>(
    table: &'m MemTable,
    hint: &mut SpanHint,
    desc: &VirtqDesc,
    writable: bool,
    pieces: &mut ArrayVec<Slice<'m>, N>,
) -> Result<(), BadChain> {
    if (desc.flags & WRITE != 0) != writable {
        return Err(BadChain);
    }
    let (mut addr, mut len) = (desc.addr, desc.len);
    while len > 0 {
        let piece = table.prefix(hint, addr, len).ok_or(BadChain)?;
        pieces.try_push(piece).map_err(|_| BadChain)?;
        len -= piece.len() as u32;
        addr = addr.checked_add(piece.len() as u64).ok_or(BadChain)?;
    }
    Ok(())
}

/// The chain of one descriptor, when it is that: the common case, without a walk.
#[inline(always)]
pub fn single<'m>(lookup: &mut Lookup<'m, '_, MemTable>, desc: &VirtqDesc, writable: bool) -> Option<Slice<'m>> {
    if desc.flags != if writable { WRITE } else { 0 } {
        return None;
    }
    lookup.whole(desc.addr, desc.len)
}
