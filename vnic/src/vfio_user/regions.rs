//! Device information, region information and region accesses.
//!
//! Regions are VFIO's of a PCI device: 0..=5 the BARs, 6 the ROM (none), 7 configuration space, 8 VGA
//! (none). An access is checked against its region's size once, here.

use rustix::io::Errno;
use sharedmem::{SharedPage, Slice};

use super::Fault;
use super::message::{Fields, MAX_DATA, Reply, words};
use crate::device::{BadAccess, DeviceModel};
use crate::irq::Interrupts;
use crate::pci::{CONFIG_SIZE, ConfigSpace, MsixTable};

/// Number of regions of a PCI device.
pub const REGIONS: u32 = 9;
/// The region that is configuration space.
pub const CONFIG: u32 = 7;

const DEVICE_RESET: u32 = 1;
const DEVICE_PCI: u32 = 1 << 1;
const REGION_READ: u32 = 1;
const REGION_WRITE: u32 = 1 << 1;
const REGION_MMAP: u32 = 1 << 2;
const REGION_CAPS: u32 = 1 << 3;
/// Bytes of `struct vfio_region_info`.
const INFO: u32 = 32;
/// Bytes of a sparse mmap capability with one area.
const SPARSE: u32 = 32;
const CAP_SPARSE_MMAP: u16 = 1;

/// Configuration space and MSI-X table of a card, which the transport keeps for it.
#[derive(Debug)]
pub struct Registers {
    pub(super) config: ConfigSpace,
    pub(super) msix: Option<MsixTable>,
}

/// One access, with its range not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// First byte within the region.
    pub offset: u64,
    /// Region index.
    pub region: u32,
    /// Bytes.
    pub count: u32,
}

impl Access {
    /// The fields at the start of a REGION_READ or REGION_WRITE.
    ///
    /// # Errors
    /// `EINVAL` when they are not all there.
    pub fn decode(fields: &mut Fields<'_>) -> Result<Access, Errno> {
        Ok(Access { offset: fields.u64()?, region: fields.u32()?, count: fields.u32()? })
    }

    fn echo(&self) -> Vec<u8> {
        let mut out = self.offset.to_ne_bytes().to_vec();
        out.extend(words(&[self.region, self.count]));
        out
    }
}

/// Serves DEVICE_GET_INFO.
///
/// # Errors
/// `EINVAL` for a short message.
pub fn device_info(payload: &[u8]) -> Result<Reply, Fault> {
    if Fields(payload).u32()? < 16 {
        return Err(Errno::INVAL.into());
    }
    Ok(words(&[16, DEVICE_RESET | DEVICE_PCI, REGIONS, super::irqs::INDICES]).into())
}

/// Serves DEVICE_GET_REGION_INFO. A client asks with a small `argsz` first and learns the size it needs;
/// capability and descriptor come when it asks with that.
///
/// # Errors
/// `EINVAL` for a short message or an index that does not exist; what duplicating a descriptor says.
pub fn region_info(model: &dyn DeviceModel, payload: &[u8]) -> Result<Reply, Fault> {
    let mut fields = Fields(payload);
    let (argsz, _flags, index) = (fields.u32()?, fields.u32()?, fields.u32()?);
    if argsz < INFO || index >= REGIONS {
        return Err(Errno::INVAL.into());
    }
    let size = region_size(model, index);
    let page = mapped_page(model, index);
    let mut flags = if size > 0 { REGION_READ | REGION_WRITE } else { 0 };
    let mut need = INFO;
    if page.is_some() {
        flags |= REGION_MMAP;
        need += SPARSE;
    }
    let whole = argsz >= need;
    // QEMU refuses an answer that announces capabilities at an offset of 0, so a short answer does not announce
    // them; that it is short is seen by the size it names.
    let cap_offset = if page.is_some() && whole { INFO } else { 0 };
    if cap_offset != 0 {
        flags |= REGION_CAPS;
    }
    let mut out = words(&[need, flags, index, cap_offset]);
    out.extend_from_slice(&size.to_ne_bytes());
    out.extend_from_slice(&0u64.to_ne_bytes());
    let Some(page) = page.filter(|_| whole) else { return Ok(out.into()) };
    out.extend_from_slice(&CAP_SPARSE_MMAP.to_ne_bytes());
    out.extend_from_slice(&1u16.to_ne_bytes());
    out.extend(words(&[0, 1, 0])); // no next capability; one area
    out.extend_from_slice(&0u64.to_ne_bytes());
    out.extend_from_slice(&(page.slice().len() as u64).min(size).to_ne_bytes());
    let fd = page.fd().try_clone_to_owned().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
    Ok(Reply { payload: out, fd: Some(fd) })
}

fn region_size(model: &dyn DeviceModel, index: u32) -> u64 {
    match index {
        0..=5 => u64::from(model.pci().bars[index as usize].size),
        CONFIG => CONFIG_SIZE as u64,
        _ => 0,
    }
}

fn mapped_page(model: &dyn DeviceModel, index: u32) -> Option<&SharedPage> {
    let bar = u8::try_from(index).ok().filter(|bar| *bar < 6)?;
    model.bar_page(bar)
}

impl Registers {
    /// For a card of the model's shape, as after power-on.
    pub fn new(model: &dyn DeviceModel) -> Registers {
        Registers { config: ConfigSpace::new(model.pci()), msix: MsixTable::new(model.pci()) }
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        self.config.reset();
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
    }

    /// Serves REGION_READ.
    ///
    /// # Errors
    /// `EINVAL` for an access that does not lie in its region or that the card does not answer.
    pub fn read(&self, model: &mut dyn DeviceModel, lines: &Interrupts, access: Access) -> Result<Reply, Fault> {
        let offset = check(model, access)?;
        let mut out = access.echo();
        let head = out.len();
        out.resize(head + access.count as usize, 0);
        let data = &mut out[head..];
        match (access.region, &self.msix) {
            (CONFIG, _) => self.config.read(access.offset, data, lines.level()).map_err(|_| Errno::INVAL)?,
            (bar, Some(msix)) if bar == u32::from(msix.bar()) => msix.read(offset, data),
            (bar, _) => read_bar(model, bar as u8, offset, data).map_err(|_| bad(access, "read"))?,
        }
        Ok(out.into())
    }

    /// Serves REGION_WRITE; `data` is what follows the fields.
    ///
    /// # Errors
    /// As [`Registers::read`], and `EINVAL` when there is less data than `count`.
    pub fn write(&mut self, model: &mut dyn DeviceModel, access: Access, data: &[u8]) -> Result<Reply, Fault> {
        let offset = check(model, access)?;
        let data = data.get(..access.count as usize).ok_or(Errno::INVAL)?;
        match (access.region, &mut self.msix) {
            (CONFIG, _) => self.config.write(access.offset, data).map_err(|_| Errno::INVAL)?,
            (bar, Some(msix)) if bar == u32::from(msix.bar()) => msix.write(offset, data),
            (bar, _) => write_bar(model, bar as u8, offset, data).map_err(|_| bad(access, "write"))?,
        }
        Ok(access.echo().into())
    }
}

fn bad(access: Access, verb: &str) -> Fault {
    let Access { offset, region, count } = access;
    Fault::new(Errno::INVAL, format!("a {verb} of {count} bytes at {offset:#x} of region {region} that was refused"))
}

/// The offset, once the access is known to lie in its region and to be of a size we transfer.
fn check(model: &dyn DeviceModel, access: Access) -> Result<u32, Errno> {
    let size = if access.region < REGIONS { region_size(model, access.region) } else { 0 };
    let end = access.offset.checked_add(u64::from(access.count)).ok_or(Errno::INVAL)?;
    if access.count == 0 || access.count as usize > MAX_DATA || end > size {
        return Err(Errno::INVAL);
    }
    u32::try_from(access.offset).map_err(|_| Errno::INVAL)
}

fn read_bar(model: &mut dyn DeviceModel, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
    if let Some(page) = model.bar_page(bar) {
        let slice = page.slice();
        return pieces(offset, data.len(), |at, range| {
            load(&slice, at as usize, &mut data[range]);
            Ok(())
        });
    }
    pieces(offset, data.len(), |at, range| model.read(bar, at, &mut data[range]))
}

fn write_bar(model: &mut dyn DeviceModel, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
    if let Some(page) = model.bar_page(bar) {
        let slice = page.slice();
        return pieces(offset, data.len(), |at, range| {
            store(&slice, at as usize, &data[range]);
            Ok(())
        });
    }
    pieces(offset, data.len(), |at, range| model.write(bar, at, &data[range]))
}

/// A register access of 1, 2, 4 or 8 bytes stays whole; any other is cut into naturally aligned pieces of at
/// most four, as a bus would.
fn pieces(
    offset: u32,
    len: usize,
    mut each: impl FnMut(u32, std::ops::Range<usize>) -> Result<(), BadAccess>,
) -> Result<(), BadAccess> {
    if matches!(len, 1 | 2 | 4 | 8) {
        return each(offset, 0..len);
    }
    let mut at = 0;
    while at < len {
        let place = offset + at as u32; // within the BAR, which is smaller than 4 GiB
        let aligned = 1 << place.trailing_zeros().min(2);
        let fits = 1 << (len - at).ilog2().min(2);
        let width = aligned.min(fits);
        each(place, at..at + width)?;
        at += width;
    }
    Ok(())
}

/// A store by one instruction where its width and place allow: the other side sees all of it or nothing. What
/// lies past the page takes nothing.
fn store(slice: &Slice<'_>, at: usize, data: &[u8]) {
    let whole = match *data {
        [a, b] => slice.store_u16(at, u16::from_ne_bytes([a, b])),
        [a, b, c, d] => slice.store_u32(at, u32::from_ne_bytes([a, b, c, d])),
        _ => false,
    };
    if !whole {
        slice.write_at(at, data);
    }
}

/// A load likewise; what lies past the page reads as zeros.
fn load(slice: &Slice<'_>, at: usize, data: &mut [u8]) {
    let whole = match data.len() {
        2 => slice.load_u16(at).map(|v| data.copy_from_slice(&v.to_ne_bytes())),
        4 => slice.load_u32(at).map(|v| data.copy_from_slice(&v.to_ne_bytes())),
        _ => None,
    };
    if whole.is_none() {
        slice.read_at(at, data);
    }
}
