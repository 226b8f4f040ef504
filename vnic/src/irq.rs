//! Interrupt lines from a card to its VMM: one INTx line with a level, MSI and MSI-X vectors as edges.
//!
//! The transport hands in eventfds as the VMM sends them (control thread); device models and workers
//! raise. Raising is a system call: never do it with a lock held.
//!
//! INTx follows VFIO: when the line is signalled it is masked, and stays so until the VMM unmasks it (it
//! does when the guest touched the card); if the level is still high then, it is signalled again.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustix::fs::OFlags;

/// Most vectors of one kind a card may have.
pub const MAX_VECTORS: usize = 32;

/// Which kind of interrupt the VMM has set up, by VFIO's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqKind {
    /// The level-triggered pin (VFIO index 0).
    Intx,
    /// Message signalled interrupts (VFIO index 1).
    Msi,
    /// MSI-X (VFIO index 2).
    Msix,
}

/// The lines of one card.
#[derive(Debug, Default)]
pub struct Interrupts {
    intx: ArcSwapOption<OwnedFd>,
    level: AtomicBool,
    masked: AtomicBool,
    msi: [ArcSwapOption<OwnedFd>; MAX_VECTORS],
    msix: [ArcSwapOption<OwnedFd>; MAX_VECTORS],
    raised: AtomicU64,
}

impl Interrupts {
    /// Lines with no eventfds yet: raising them does nothing but set the INTx level.
    pub fn new() -> Arc<Interrupts> {
        Arc::default()
    }

    /// Sets (or with `None` clears) the eventfd of one vector; out-of-range vectors are ignored, the
    /// transport has checked them. A freshly set INTx line is unmasked, and fires if its level is high.
    pub fn set(&self, kind: IrqKind, vector: usize, fd: Option<OwnedFd>) {
        let fd = fd.map(Arc::new);
        match kind {
            IrqKind::Intx => {
                self.intx.store(fd);
                self.unmask_intx();
            }
            IrqKind::Msi => self.msi.get(vector).into_iter().for_each(|v| v.store(fd.clone())),
            IrqKind::Msix => self.msix.get(vector).into_iter().for_each(|v| v.store(fd.clone())),
        }
    }

    /// Forgets every eventfd and lowers the line (the VMM went away).
    pub fn clear(&self) {
        self.intx.store(None);
        self.level.store(false, Ordering::SeqCst);
        self.masked.store(false, Ordering::SeqCst);
        for vector in self.msi.iter().chain(&self.msix) {
            vector.store(None);
        }
    }

    /// The kind in use: MSI-X before MSI before INTx.
    pub fn kind(&self) -> IrqKind {
        if self.msix.iter().any(|v| v.load().is_some()) {
            IrqKind::Msix
        } else if self.msi.iter().any(|v| v.load().is_some()) {
            IrqKind::Msi
        } else {
            IrqKind::Intx
        }
    }

    /// Sends the edge of message vector `vector` of the kind in use (MSI: modulo the vectors set up).
    /// Nothing happens in INTx mode: use [`Interrupts::set_level`] there.
    pub fn raise(&self, vector: usize) {
        if let Some(fd) = self.msix.get(vector).map(|v| v.load()).filter(|v| v.is_some()) {
            self.signal(fd.as_ref());
        } else if let Some(fd) = self.msi.get(vector).map(|v| v.load()).filter(|v| v.is_some()) {
            self.signal(fd.as_ref());
        } else {
            self.signal(self.msi[0].load().as_ref());
        }
    }

    /// The VMM itself asks for one interrupt on a vector (a test of its wiring): signals that eventfd
    /// whatever the mode, mask or level.
    pub fn trigger(&self, kind: IrqKind, vector: usize) {
        let line = match kind {
            IrqKind::Intx => Some(&self.intx),
            IrqKind::Msi => self.msi.get(vector),
            IrqKind::Msix => self.msix.get(vector),
        };
        if let Some(line) = line {
            self.signal(line.load().as_ref());
        }
    }

    /// Sets the INTx level; a rising or standing high level fires when unmasked.
    pub fn set_level(&self, high: bool) {
        self.level.store(high, Ordering::SeqCst);
        if high {
            self.fire_intx();
        }
    }

    /// The INTx level.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// The VMM masks the INTx line.
    pub fn mask_intx(&self) {
        self.masked.store(true, Ordering::SeqCst);
    }

    /// The VMM unmasks the INTx line; it fires again if the level is high.
    pub fn unmask_intx(&self) {
        self.masked.store(false, Ordering::SeqCst);
        if self.level() {
            self.fire_intx();
        }
    }

    /// Frees a worker that is stuck in raising an interrupt. An eventfd is an open file that the VMM shares:
    /// it may make it blocking again and fill its counter, and a write then waits. This makes every such
    /// eventfd non-blocking and takes its count, which lets the writer go on. Returns true when there was
    /// one: no honest VMM does that. For the control thread, when a worker has not ended its turn for long.
    pub fn unblock(&self) -> bool {
        let mut found = false;
        for line in std::iter::once(&self.intx).chain(&self.msi).chain(&self.msix) {
            let fd = line.load();
            let Some(fd) = fd.as_ref() else { continue };
            let Ok(flags) = rustix::fs::fcntl_getfl(fd) else { continue };
            if !flags.contains(OFlags::NONBLOCK) {
                found = true;
                let _ = rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK);
                let _ = rustix::io::read(fd, &mut [0u8; 8]);
            }
        }
        found
    }

    /// Interrupts sent so far.
    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::Relaxed)
    }

    fn fire_intx(&self) {
        let fd = self.intx.load();
        if fd.is_some() && !self.masked.swap(true, Ordering::SeqCst) {
            self.signal(fd.as_ref());
        }
    }

    fn signal(&self, fd: Option<&Arc<OwnedFd>>) {
        if let Some(fd) = fd {
            // An eventfd that is full (the VMM never reads) refuses; the interrupt is pending then anyway.
            // The transport made it non-blocking.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
            self.raised.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn take(fd: &OwnedFd) -> u64 {
        let mut buf = [0; 8];
        match rustix::io::read(fd, &mut buf) {
            Ok(8) => u64::from_ne_bytes(buf),
            _ => 0,
        }
    }

    #[test]
    fn intx_is_a_level_that_masks_itself() {
        let irq = Interrupts::new();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        irq.set_level(true);
        irq.set(IrqKind::Intx, 0, Some(fd.try_clone().unwrap()));
        assert_eq!(take(&fd), 1, "a level that was high fires when the line is set up");
        irq.set_level(true);
        assert_eq!(take(&fd), 0, "masked until the VMM unmasks");
        irq.unmask_intx();
        assert_eq!(take(&fd), 1, "still high");
        irq.set_level(false);
        irq.unmask_intx();
        assert_eq!(take(&fd), 0);
        irq.set_level(true);
        assert_eq!(take(&fd), 1);
    }

    #[test]
    fn a_vmm_cannot_hold_a_worker_by_its_eventfd() {
        let irq = Interrupts::new();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        irq.set(IrqKind::Msix, 0, Some(fd.try_clone().unwrap()));
        assert!(!irq.unblock(), "an honest one is left alone");
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
        rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK).unwrap();
        let worker = std::thread::spawn({
            let irq = irq.clone();
            move || irq.raise(0)
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!worker.is_finished(), "the write waits");
        assert!(irq.unblock());
        worker.join().unwrap();
    }

    #[test]
    fn message_vectors() {
        let irq = Interrupts::new();
        let fds: Vec<OwnedFd> = (0..2).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
        irq.raise(0);
        irq.set(IrqKind::Msi, 0, Some(fds[0].try_clone().unwrap()));
        irq.raise(1);
        assert_eq!(take(&fds[0]), 1, "one MSI vector serves all");
        irq.set(IrqKind::Msix, 1, Some(fds[1].try_clone().unwrap()));
        assert_eq!(irq.kind(), IrqKind::Msix);
        irq.raise(1);
        assert_eq!((take(&fds[0]), take(&fds[1])), (0, 1));
        irq.clear();
        irq.raise(1);
        assert_eq!(take(&fds[1]), 0);
    }
}
