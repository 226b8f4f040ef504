//! Descriptor chains: from a head to pieces of guest memory.

use arrayvec::ArrayVec;
use sharedmem::{Lookup, MemTable, Slice, SplitRing, VirtqDesc};

pub(super) const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Most descriptors of a chain that are looked at: as many as a frame may have pieces, and its header.
const MAX_CHAIN: usize = 128;

/// A chain that is none: out of memory or of the ring, too long, of the wrong direction, or indirect twice.
#[derive(Debug)]
pub struct BadChain;

/// Where the memory of a chain is collected.
pub trait Pieces<'m> {
    /// Adds a piece; false when there is no room.
    fn add(&mut self, piece: Slice<'m>) -> bool;
}

impl<'m, const N: usize> Pieces<'m> for ArrayVec<Slice<'m>, N> {
    #[inline]
    fn add(&mut self, piece: Slice<'m>) -> bool {
        self.try_push(piece).is_ok()
    }
}

/// Adds the memory of a split ring's chain at `head` to `pieces`. `writable`: its descriptors must be for the device to
/// write, else to read.
#[inline]
pub fn walk<'m, P: Pieces<'m>>(
    ring: &SplitRing,
    memory: &mut Lookup<'m, '_, MemTable>,
    head: u16,
    writable: bool,
    pieces: &mut P,
) -> Result<(), BadChain> {
    let mut desc = ring.desc(head).ok_or(BadChain)?;
    for _ in 0..MAX_CHAIN {
        link(memory, &desc, writable, false, pieces)?;
        if desc.flags & NEXT == 0 {
            return Ok(());
        }
        desc = ring.desc(desc.next).ok_or(BadChain)?;
    }
    Err(BadChain)
}

/// Adds the memory of one descriptor of a chain, or of the table that it stands for.
#[inline]
pub fn link<'m, P: Pieces<'m>>(
    memory: &mut Lookup<'m, '_, MemTable>,
    desc: &VirtqDesc,
    writable: bool,
    packed: bool,
    pieces: &mut P,
) -> Result<(), BadChain> {
    match desc.flags & (INDIRECT | NEXT) {
        // The table ends the chain (virtio 1.2, 2.7.5.3.1 and 2.8.7).
        INDIRECT => indirect(memory, desc, writable, packed, pieces),
        0 | NEXT => add(memory, desc, writable, pieces),
        _ => Err(BadChain),
    }
}

fn indirect<'m, P: Pieces<'m>>(
    memory: &mut Lookup<'m, '_, MemTable>,
    outer: &VirtqDesc,
    writable: bool,
    packed: bool,
    pieces: &mut P,
) -> Result<(), BadChain> {
    let count = (outer.len / 16) as usize;
    let place = memory.whole(outer.addr, outer.len).ok_or(BadChain)?;
    if !outer.len.is_multiple_of(16) || count == 0 {
        return Err(BadChain);
    }
    let mut at = 0;
    for _ in 0..count.min(MAX_CHAIN) {
        let mut bytes = [0; 16];
        if !place.read_at(at * 16, &mut bytes) {
            return Err(BadChain);
        }
        let desc = VirtqDesc::from_bytes(bytes, packed);
        if !packed && desc.flags & INDIRECT != 0 {
            return Err(BadChain);
        }
        add(memory, &desc, writable, pieces)?;
        // A packed ring's table is used in its order, whole.
        if packed && at + 1 == count || !packed && desc.flags & NEXT == 0 {
            return Ok(());
        }
        at = if packed { at + 1 } else { usize::from(desc.next) };
    }
    Err(BadChain)
}

/// Adds one descriptor's memory; it may span mappings.
#[inline]
fn add<'m, P: Pieces<'m>>(
    memory: &mut Lookup<'m, '_, MemTable>,
    desc: &VirtqDesc,
    writable: bool,
    pieces: &mut P,
) -> Result<(), BadChain> {
    if (desc.flags & WRITE != 0) != writable {
        return Err(BadChain);
    }
    let (mut addr, mut len) = (desc.addr, desc.len);
    while len > 0 {
        let piece = memory.prefix(addr, len).ok_or(BadChain)?;
        if !pieces.add(piece) {
            return Err(BadChain);
        }
        len -= piece.len() as u32;
        addr = addr.checked_add(piece.len() as u64).ok_or(BadChain)?;
    }
    Ok(())
}

/// The flags of a descriptor that is a chain of its own.
#[inline(always)]
pub fn direction(writable: bool) -> u16 {
    if writable { WRITE } else { 0 }
}
