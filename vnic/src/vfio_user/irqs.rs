//! GET_IRQ_INFO and SET_IRQS: from VFIO's interrupt indices to the card's [`Interrupts`].
//!
//! Facts: `<linux/vfio.h>` (`struct vfio_irq_set` and the comments above it) and the specification's
//! "VFIO_USER_DEVICE_SET_IRQS". What VMMs do: one eventfd per vector, in runs of at most the agreed number; a
//! run without descriptors takes vectors away; count 0 takes all away; INTx is unmasked by message, or by
//! an eventfd the VMM's kernel signals (the resample descriptor).

use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Fault;
use super::message::{Fields, Reply, words};
use crate::device::PciProfile;
use crate::irq::{Interrupts, IrqKind, MAX_VECTORS};

/// Interrupt indices of a PCI device: INTx, MSI, MSI-X, error, request.
pub const INDICES: u32 = 5;

const INFO_EVENTFD: u32 = 1;
const INFO_MASKABLE: u32 = 1 << 1;
const INFO_AUTOMASKED: u32 = 1 << 2;
const INFO_NORESIZE: u32 = 1 << 3;

const DATA_NONE: u32 = 1;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;
const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTION: u32 = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;

/// What a card offers, and the one descriptor towards us.
#[derive(Debug)]
pub struct Irqs {
    counts: [u32; INDICES as usize],
    /// Signalled by the VMM when the guest has ended its interrupt: INTx is to be unmasked.
    resample: Option<OwnedFd>,
    /// Moves when `resample` does.
    generation: u64,
}

impl Irqs {
    /// For a card of this shape.
    pub fn new(profile: &PciProfile) -> Irqs {
        let most = |n: u16| u32::from(n).min(MAX_VECTORS as u32);
        Irqs { counts: [1, most(profile.msi_vectors), most(profile.msix_vectors), 0, 0], resample: None, generation: 0 }
    }

    /// The eventfd to watch for INTx unmasks, and a number that moves whenever it is another.
    pub fn resample(&self) -> (Option<&OwnedFd>, u64) {
        (self.resample.as_ref(), self.generation)
    }

    /// Forgets the resample descriptor (INTx torn down, or the VMM went away).
    pub fn clear(&mut self) {
        self.set_resample(None);
    }

    fn set_resample(&mut self, fd: Option<OwnedFd>) {
        if self.resample.is_some() || fd.is_some() {
            self.generation += 1;
        }
        self.resample = fd;
    }

    /// Serves GET_IRQ_INFO.
    ///
    /// MSI-X is not marked as a fixed set: single vectors come and go without disturbing the others, and
    /// with them no edge is lost while a guest sets up its vectors one by one.
    ///
    /// # Errors
    /// `EINVAL` for a short message or an index that does not exist.
    pub fn info(&self, payload: &[u8]) -> Result<Reply, Fault> {
        let mut fields = Fields(payload);
        let (argsz, _flags, index) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let count = *self.counts.get(index as usize).ok_or(Errno::INVAL)?;
        if argsz < 16 {
            return Err(Errno::INVAL.into());
        }
        let flags = match index {
            _ if count == 0 => 0,
            0 => INFO_EVENTFD | INFO_MASKABLE | INFO_AUTOMASKED,
            1 => INFO_EVENTFD | INFO_NORESIZE,
            _ => INFO_EVENTFD,
        };
        Ok(words(&[16, flags, index, count]).into())
    }

    /// Serves SET_IRQS.
    ///
    /// # Errors
    /// `EINVAL` for what is malformed, `EOPNOTSUPP` for what is well formed and not offered (masking
    /// messages by vector, telling the VMM of masks).
    pub fn set(&mut self, lines: &Interrupts, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, Fault> {
        let mut fields = Fields(payload);
        let (argsz, flags, index) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (start, count) = (fields.u32()?, fields.u32()?);
        let request = Request { flags, index, start, count, bools: fields.rest() };
        let (kind, fds) = self.validate(argsz, &request, fds).map_err(|errno| {
            let why = format!("a SET_IRQS that was refused: argsz {argsz}, flags {flags:#x}, index {index}, start {start}, count {count}");
            Fault::new(errno, why)
        })?;
        match (flags & DATA, flags & ACTION) {
            (DATA_EVENTFD, ACTION_TRIGGER) => request.attach(lines, kind, fds),
            (DATA_EVENTFD, _) => self.set_resample(fds.into_iter().next()),
            (_, ACTION_TRIGGER) if count == 0 => self.tear_down(lines, kind, index),
            (_, ACTION_TRIGGER) => request.selected().for_each(|vector| lines.trigger(kind, vector)),
            (_, ACTION_MASK) => request.selected().for_each(|_| lines.mask_intx()),
            _ => request.selected().for_each(|_| lines.unmask_intx()),
        }
        Ok(Reply::default())
    }

    /// Everything about a request that can be wrong, before anything is done.
    fn validate(&self, argsz: u32, req: &Request<'_>, fds: Vec<OwnedFd>) -> Result<(IrqKind, Vec<OwnedFd>), Errno> {
        let most = *self.counts.get(req.index as usize).ok_or(Errno::INVAL)?;
        let (data, action) = (req.flags & DATA, req.flags & ACTION);
        let end = req.start.checked_add(req.count).ok_or(Errno::INVAL)?;
        let malformed = argsz < 20
            || req.flags & !(DATA | ACTION) != 0
            || data.count_ones() != 1
            || action.count_ones() != 1
            || end > most
            || (req.count == 0 && (data, action) != (DATA_NONE, ACTION_TRIGGER))
            || (data == DATA_BOOL && req.bools.len() < req.count as usize);
        if malformed {
            return Err(Errno::INVAL);
        }
        let kind = match req.index {
            0 => IrqKind::Intx,
            1 => IrqKind::Msi,
            _ => IrqKind::Msix,
        };
        if (action != ACTION_TRIGGER && kind != IrqKind::Intx) || (data == DATA_EVENTFD && action == ACTION_MASK) {
            return Err(Errno::OPNOTSUPP);
        }
        if data != DATA_EVENTFD {
            return Ok((kind, Vec::new())); // surplus descriptors are closed here
        }
        if !fds.is_empty() && fds.len() < req.count as usize {
            return Err(Errno::INVAL);
        }
        let mut fds = fds;
        fds.truncate(req.count as usize);
        fds.iter().try_for_each(prepare)?;
        Ok((kind, fds))
    }

    fn tear_down(&mut self, lines: &Interrupts, kind: IrqKind, index: u32) {
        for vector in 0..self.counts.get(index as usize).copied().unwrap_or(0) {
            lines.set(kind, vector as usize, None);
        }
        if kind == IrqKind::Intx {
            self.clear();
        }
    }
}

struct Request<'a> {
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    bools: &'a [u8],
}

impl Request<'_> {
    /// The vectors the action applies to.
    fn selected(&self) -> impl Iterator<Item = usize> + '_ {
        let all = self.flags & DATA_NONE != 0;
        (0..self.count as usize)
            .filter(move |i| all || self.bools.get(*i).is_some_and(|b| *b != 0))
            .map(|i| self.start as usize + i)
    }

    /// Gives each vector its descriptor; without descriptors each loses its own.
    fn attach(&self, lines: &Interrupts, kind: IrqKind, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        for vector in self.start..self.start + self.count {
            lines.set(kind, vector as usize, fds.next());
        }
    }
}

/// An eventfd has no file type (it is an anonymous inode); a file, pipe or terminal in its place could make
/// a worker that signals it wait. It is made non-blocking for the same reason.
fn prepare(fd: &OwnedFd) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    let anonymous = kind == FileType::from_raw_mode(0);
    if !anonymous {
        return Err(Errno::INVAL);
    }
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)
}
