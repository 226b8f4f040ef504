//! Guest memory as the VMM hands it over.

use std::fs::File;
use std::os::fd::AsFd;

use sharedmem::{Region, Span};

use super::fault::Fault;
use crate::tenant;

/// One region of the memory table.
pub(super) struct MemoryRegion {
    /// Where it begins for the guest.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Where it begins for the VMM, whose addresses those of rings are.
    pub(super) user: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
}

/// Maps one region of the memory table of the vNIC `name`.
pub(super) fn span(name: &str, region: &MemoryRegion, file: &File) -> Result<Span, Fault> {
    let (offset, size) = (region.offset, region.size);
    let len = offset.checked_add(size).and_then(|l| usize::try_from(l).ok()).ok_or(Fault::Parameters)?;
    let refuse = |why: &dyn std::fmt::Display| {
        tracing::warn!("vNIC {name}: guest memory of {size} bytes was refused: {why}");
        Fault::Parameters
    };
    tenant::check(file).map_err(|unfit| refuse(&unfit))?;
    let mapped = Region::map(file.as_fd(), 0, len, true).map_err(|error| refuse(&error))?;
    Ok(Span { guest: region.guest, len: size, user: region.user, region: mapped, offset: offset as usize })
}
