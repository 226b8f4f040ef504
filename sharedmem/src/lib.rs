//! The only code that touches memory shared with a guest, a VMM or the kernel.
//!
//! A VMM hands over file descriptors; [`Region`] maps one, [`DmaMap`] says which guest address
//! lies where, [`Slice`] is a bounded window onto some bytes and [`Ring`] onto an array of
//! descriptors. None of them ever becomes a `&[u8]`: the other side may write at any moment, so
//! bytes are copied out, in, or across, and words are loaded and stored atomically.
//!
//! ```text
//!  VMM's memfd --map--> Region --+
//!  VMM's memfd --map--> Region --+--> DmaMap (immutable, shared by Arc)
//!                                        |  prefix(address, length)  -> Slice  (frame bytes)
//!                                        |  ring(address, n)         -> Ring   (descriptors)
//!  (a vhost-user peer's memory: MemTable in place of DmaMap, SplitRing or PackedRing in place of Ring)
//!
//!  a burst:  SplitRing::windows(ids) -> Slices, four at a time -> extend_fronts -> heads, four at a time
//!  own memfd page <----- SharedPage (a BAR the guest maps: doorbells and masks)
//!  (a large table of the switch's own: HugeTable, on huge pages)
//! ```
//!
//! # Safety
//!
//! * A `Region` owns its mapping; `Slice` borrows the region's owner and `Ring` holds its `Arc`, so
//!   no window outlives the mapping.
//! * Every access is bounds-checked against the window, and the window against the region when it
//!   was made.
//! * The peer may shrink its file under the mapping. The access then faults; [`fault`] answers by
//!   putting anonymous memory under the page, so that the peer loses its data and nobody else
//!   anything.
//! * All access is by raw pointer (volatile, atomic, or a byte copy), never by reference, so a
//!   racing peer can make us read any value but cannot break a Rust aliasing rule.
#![deny(unsafe_op_in_unsafe_fn)]

mod ahead;
mod dma;
pub mod fault;
mod front;
mod fronts;
mod huge_table;
mod inflight;
mod lists;
mod lookup;
mod memtable;
mod page;
mod prefetch;
mod region;
mod ring;
mod runs;
mod slice;
mod sum;
mod virtq;
mod virtq_driver;
mod virtq_packed;
mod widest;
mod windows;

pub use ahead::Ahead;
pub use dma::{Access, DmaError, DmaMap, Hint, MAX_MAPPINGS, MapError, Mapping};
pub use front::Front;
pub use fronts::{Expect, Fronts, Measure, START, extend_fronts};
pub use huge_table::HugeTable;
pub use inflight::{Inflight, InflightNote, inflight_bytes};
pub use lists::extend_while;
pub use lookup::{Lookup, Place, Table};
pub use memtable::{MAX_SPANS, MemTable, Span, SpanHint};
pub use page::SharedPage;
pub use prefetch::{prefetch, prefetch_write};
pub use region::Region;
pub use ring::{Ring, Slot, WideRing};
pub use slice::{HEAD, Slice};
pub use virtq::{MAX_VIRTQ, SplitRing, VirtqDesc, VirtqPlace};
pub use virtq_driver::DriverRing;
pub use virtq_packed::{PackedEvent, PackedRing};
pub use widest::{Work, widest};
pub use windows::{Aim, Kind, windows_of};
