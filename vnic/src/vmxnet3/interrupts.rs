//! When a vector is raised, and when not.
//!
//! The masks (IMR, a word per vector in BAR0; 1 masks) lie in a page the guest writes without a message. So
//! a worker reads the mask before it raises a vector; what it may not raise it remembers in `pending`, and
//! transmit queue 0 looks again at each poll. With auto-masking (message interrupts) the device sets the
//! mask itself when it raises, and the driver clears it when it is done; with INTx it does so when the
//! driver reads the cause (ICR), which also lowers the line.
//!
//! Facts: `VMXNET3_BAR0_IMASK`, `VMXNET3_ICTRL_DISABLE_ALL` in FreeBSD's `if_vmxreg.h`; the driver's side in its
//! `if_vmx.c` and in Linux's `vmxnet3_drv.c`; QEMU's model masks at the same moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::active::{Active, Card};
use super::moderation::{Moderation, Work};
use super::registers::IMR_STRIDE;
use super::shared_area::at;
use crate::irq::{Interrupts, IrqKind};

/// Bit of the interrupt control word that holds everything back.
const DISABLE_ALL: u32 = 1;

/// Interrupt state of one card, used by all threads.
#[derive(Debug)]
pub struct Lines {
    interrupts: Arc<Interrupts>,
    /// Vectors that have something to say and could not, a bit each.
    pending: AtomicU32,
    /// Vectors behind the INTx level, a bit each; what ICR tells.
    cause: AtomicU32,
    /// How long a vector waits for more to say.
    pub moderation: Moderation,
}

impl Lines {
    /// Nothing pending.
    pub fn new(interrupts: Arc<Interrupts>) -> Lines {
        Lines { interrupts, pending: AtomicU32::new(0), cause: AtomicU32::new(0), moderation: Moderation::new() }
    }
}

impl Card {
    fn masked(&self, active: &Active, vector: u8) -> bool {
        let mask = self.page.slice().load_u32(usize::from(vector) * IMR_STRIDE).unwrap_or(1);
        mask & 1 == 1 || active.area.load(at::INTERRUPT_CONTROL) & DISABLE_ALL != 0
    }

    fn set_mask(&self, vector: u8) {
        self.page.slice().store_u32(usize::from(vector) * IMR_STRIDE, 1);
    }

    /// Tells the driver of `work` by `vector`, as soon as the moderation it asked for allows.
    #[inline]
    pub fn tell(&self, active: &Active, vector: u8, work: Work) {
        if !self.lines.moderation.holds(vector, work) {
            self.notify(active, vector);
        }
    }

    /// Raises `vector` now if the driver lets it, else when it does. Makes a system call when it raises.
    pub fn notify(&self, active: &Active, vector: u8) {
        // What was published must be visible before the mask is read: a driver that unmasks and then finds nothing
        // relies on the interrupt.
        fence(Ordering::SeqCst);
        if self.masked(active, vector) {
            // Once set it stays until the vector is raised, which then tells of this, too: a driver that polls under load
            // costs no locked instruction per burst.
            if self.lines.pending.load(Ordering::SeqCst) >> vector & 1 == 0 {
                self.lines.pending.fetch_or(1 << vector, Ordering::SeqCst);
            }
        } else {
            self.raise(active, vector);
        }
    }

    fn raise(&self, active: &Active, vector: u8) {
        let lines = &self.lines;
        let bit = 1u32 << vector;
        if lines.pending.load(Ordering::Relaxed) & bit != 0 {
            lines.pending.fetch_and(!bit, Ordering::SeqCst);
        }
        match lines.interrupts.kind() {
            IrqKind::Intx => {
                // The driver may be reading the cause right now: see `take_cause` for the other half.
                if lines.cause.fetch_or(bit, Ordering::SeqCst) == 0 {
                    lines.interrupts.set_level(true);
                }
            }
            IrqKind::Msi | IrqKind::Msix => {
                if active.run.conf.auto_mask {
                    self.set_mask(vector);
                }
                lines.interrupts.raise(vector.into());
            }
        }
    }

    /// Raises what was held back and may go now; cheap when there is nothing.
    #[inline]
    pub fn raise_pending(&self, active: &Active) {
        let pending = self.lines.pending.load(Ordering::Relaxed);
        if pending != 0 {
            self.raise_each(active, pending);
        }
        if self.lines.moderation.holding() {
            let due = self.lines.moderation.take_due();
            vectors(due).for_each(|vector| self.notify(active, vector));
        }
    }

    #[cold]
    fn raise_each(&self, active: &Active, pending: u32) {
        for vector in vectors(pending) {
            if !self.masked(active, vector)
                && self.lines.pending.fetch_and(!(1 << vector), Ordering::SeqCst) >> vector & 1 == 1
            {
                self.raise(active, vector);
            }
        }
    }

    /// The driver reads the cause of an INTx interrupt: 1 when it is ours. Lowers the line.
    pub fn take_cause(&self) -> u32 {
        let lines = &self.lines;
        let cause = lines.cause.swap(0, Ordering::SeqCst);
        lines.interrupts.set_level(false);
        // A worker that raised between the two lines above found the cause empty and set a level that was then lowered.
        if lines.cause.load(Ordering::SeqCst) != 0 {
            lines.interrupts.set_level(true);
        }
        let auto_mask = self.active.load().as_ref().is_some_and(|a| a.run.conf.auto_mask);
        if auto_mask {
            vectors(cause).for_each(|v| self.set_mask(v));
        }
        u32::from(cause != 0)
    }

    /// Forgets what is pending and lowers the line. No worker may be in the card.
    pub fn quiet(&self) {
        self.lines.pending.store(0, Ordering::SeqCst);
        self.lines.cause.store(0, Ordering::SeqCst);
        self.lines.moderation.forget();
        self.lines.interrupts.set_level(false);
    }
}

/// The vectors whose bit is set.
fn vectors(mut bits: u32) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let vector = bits.trailing_zeros() as u8;
        // Clears the lowest bit; none are left then.
        (bits != 0).then(|| {
            bits &= bits - 1;
            vector
        })
    })
}
