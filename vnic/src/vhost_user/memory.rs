//! Guest memory as the VMM hands it over.

use std::fs::File;
use std::os::fd::AsFd;

use sharedmem::{Region, Span};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};

use crate::tenant;

/// Maps one region of the memory table of the vNIC `name`.
pub(super) fn span(name: &str, region: &VhostUserMemoryRegion, file: &File) -> Result<Span> {
    let (offset, size) = (region.mmap_offset, region.memory_size);
    let len = offset.checked_add(size).and_then(|l| usize::try_from(l).ok()).ok_or(Error::InvalidParam)?;
    let refuse = |why: &dyn std::fmt::Display| {
        tracing::warn!("vNIC {name}: guest memory of {size} bytes was refused: {why}");
        Error::InvalidParam
    };
    tenant::check(file).map_err(|unfit| refuse(&unfit))?;
    let mapped = Region::map(file.as_fd(), 0, len, true).map_err(|error| refuse(&error))?;
    Ok(Span {
        guest: region.guest_phys_addr,
        len: size,
        user: region.user_addr,
        region: mapped,
        offset: offset as usize,
    })
}
