//! The interrupt causes: CSR0, CSR3, CSR4 and CSR5 in one atomic word.
//!
//! Workers set causes (a frame received, a frame sent, a frame missed), the control thread clears and
//! masks them. The level of the interrupt pin is a function of the word alone, so whoever changes the
//! word applies the level it computes and then looks again:
//!
//! ```text
//!   worker:  word |= RINT      level := f(word)      f(word) still that?  -> done
//!   control: word &= !RINT     level := f(word)      f(word) still that?  -> done
//! ```
//!
//! All of it is sequentially consistent. If the last write of the level was a stale one, the change that
//! made it stale came before that write, so the writer's second look sees it and writes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::irq::Interrupts;

/// CSR0, controller status and control (data sheet, "CSR0").
pub(super) mod csr0 {
    pub const INIT: u16 = 0x0001;
    pub const STRT: u16 = 0x0002;
    pub const STOP: u16 = 0x0004;
    pub const TXON: u16 = 0x0010;
    pub const RXON: u16 = 0x0020;
    pub const IENA: u16 = 0x0040;
    pub const INTR: u16 = 0x0080;
    pub const IDON: u16 = 0x0100;
    pub const TINT: u16 = 0x0200;
    pub const RINT: u16 = 0x0400;
    pub const MERR: u16 = 0x0800;
    pub const MISS: u16 = 0x1000;
    pub const CERR: u16 = 0x2000;
    pub const BABL: u16 = 0x4000;
    pub const ERR: u16 = 0x8000;
    /// Cleared by writing ones.
    pub const EVENTS: u16 = BABL | CERR | MISS | MERR | RINT | TINT | IDON;
    /// Those that interrupt and have a mask at the same place in CSR3.
    pub const MASKABLE: u16 = EVENTS & !CERR;
    /// Those that make ERR.
    pub const ERRORS: u16 = BABL | CERR | MISS | MERR;
}

/// CSR4, test and features control.
pub(super) mod csr4 {
    /// A transmission began; its mask is the bit below.
    pub const TXSTRT: u16 = 0x0008;
    pub const UINT: u16 = 0x0040;
    pub const UINTCMD: u16 = 0x0080;
    /// The missed frame counter overflowed; its mask is the bit below.
    pub const MFCO: u16 = 0x0200;
    /// Padding and FCS are stripped from received 802.3 frames.
    pub const ASTRP_RCV: u16 = 0x0400;
    /// Cleared by writing ones: MFCO, UINT, RCVCCO, TXSTRT, JAB.
    pub const EVENTS: u16 = 0x026a;
    /// Masks, each one bit below its event.
    pub const MASKS: u16 = 0x0115;
    /// After a reset: everything masked.
    pub const RESET: u16 = MASKS;
}

/// CSR5, extended control and interrupt.
pub(super) mod csr5 {
    pub const SPND: u16 = 0x0001;
    pub const LTINTEN: u16 = 0x4000;
    pub const TOKINTD: u16 = 0x8000;
    /// Cleared by writing ones: SINT, SLPINT, EXDINT, MPINT.
    pub const EVENTS: u16 = 0x0a90;
    /// Enables (one bit below their event) of EXDINT and MPINT.
    pub const ENABLES: u16 = 0x0048;
    /// Likewise of SINT and SLPINT, which IENA does not gate.
    pub const UNGATED: u16 = 0x0500;
}

/// The four registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub csr0: u16,
    pub csr3: u16,
    pub csr4: u16,
    pub csr5: u16,
}

impl Status {
    /// As after a reset of either kind.
    pub(super) const RESET: Status = Status { csr0: csr0::STOP, csr3: 0, csr4: csr4::RESET, csr5: 0 };

    fn pack(self) -> u64 {
        u64::from(self.csr0) | u64::from(self.csr3) << 16 | u64::from(self.csr4) << 32 | u64::from(self.csr5) << 48
    }

    fn unpack(word: u64) -> Status {
        Status { csr0: word as u16, csr3: (word >> 16) as u16, csr4: (word >> 32) as u16, csr5: (word >> 48) as u16 }
    }

    /// An unmasked cause that IENA gates.
    fn gated(self) -> bool {
        self.csr0 & !self.csr3 & csr0::MASKABLE != 0
            || (self.csr4 >> 1) & !self.csr4 & csr4::MASKS != 0
            || self.csr4 & csr4::UINT != 0
            || (self.csr5 >> 1) & self.csr5 & csr5::ENABLES != 0
    }

    fn ungated(self) -> bool {
        (self.csr5 >> 1) & self.csr5 & csr5::UNGATED != 0
    }

    /// The level of the interrupt pin.
    pub(super) fn level(self) -> bool {
        self.gated() && self.csr0 & csr0::IENA != 0 || self.ungated()
    }

    /// CSR0 as it reads, with INTR and ERR computed.
    pub(super) fn csr0_read(self) -> u16 {
        let mut value = self.csr0;
        if self.gated() || self.ungated() {
            value |= csr0::INTR;
        }
        if value & csr0::ERRORS != 0 {
            value |= csr0::ERR;
        }
        value
    }

    /// True when the registers that matter to the rings may be written: STOP or SPND.
    pub(super) fn quiet(self) -> bool {
        self.csr0 & csr0::STOP != 0 || self.csr5 & csr5::SPND != 0
    }
}

/// The word and the pin it drives.
#[derive(Debug)]
pub(super) struct Cause {
    word: AtomicU64,
    interrupts: Arc<Interrupts>,
}

impl Cause {
    pub(super) fn new(interrupts: Arc<Interrupts>) -> Cause {
        Cause { word: AtomicU64::new(Status::RESET.pack()), interrupts }
    }

    /// The registers now.
    #[inline]
    pub(super) fn status(&self) -> Status {
        Status::unpack(self.word.load(Ordering::SeqCst))
    }

    /// Sets causes; any thread, no lock held (it may signal).
    pub(super) fn raise(&self, csr0: u16, csr4: u16) {
        let bits = Status { csr0, csr3: 0, csr4, csr5: 0 }.pack();
        self.word.fetch_or(bits, Ordering::SeqCst);
        self.settle();
    }

    /// Changes the registers; the control thread. `change` may run more than once.
    pub(super) fn update(&self, mut change: impl FnMut(&mut Status)) {
        let _ = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            let mut status = Status::unpack(word);
            change(&mut status);
            Some(status.pack())
        });
        self.settle();
    }

    /// Drives the pin to the level the word asks for.
    fn settle(&self) {
        self.drive(self.status().level());
    }

    /// Drives the pin to `want`, which the word asked for a moment ago, and on until the two agree (see
    /// the head of this file).
    fn drive(&self, mut want: bool) {
        loop {
            self.interrupts.set_level(want);
            let now = self.status().level();
            if now == want {
                return;
            }
            want = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn masks_and_enables() {
        let irq = Interrupts::new();
        let cause = Cause::new(irq.clone());
        cause.raise(csr0::RINT, 0);
        assert!(!irq.level(), "IENA is off");
        assert_eq!(cause.status().csr0_read() & csr0::INTR, csr0::INTR, "INTR does not need IENA");
        cause.update(|s| s.csr0 |= csr0::IENA);
        assert!(irq.level());
        cause.update(|s| s.csr3 |= csr0::RINT);
        assert!(!irq.level() && cause.status().csr0_read() & csr0::INTR == 0);
        cause.raise(csr0::CERR, csr4::TXSTRT);
        assert!(!irq.level(), "CERR never interrupts, TXSTRT is masked after a reset");
        assert_eq!(cause.status().csr0_read() & csr0::ERR, csr0::ERR);
        cause.update(|s| s.csr4 &= !csr4::MASKS);
        assert!(irq.level());
        cause.update(|s| s.csr4 &= !csr4::TXSTRT);
        assert!(!irq.level());
        cause.update(|s| s.csr0 = 0);
        cause.update(|s| s.csr5 = 0x0c00);
        assert!(irq.level(), "SINT with SINTE needs no IENA");
    }

    /// The interleaving that matters, by hand: a thread computed a level, another changed the word and
    /// settled, and only then the first one drives what it computed.
    #[test]
    fn a_stale_level_does_not_stay() {
        let irq = Interrupts::new();
        let cause = Cause::new(irq.clone());
        cause.update(|s| s.csr0 = csr0::IENA | csr0::RINT);
        let computed = cause.status().level();
        cause.update(|s| s.csr0 &= !csr0::RINT);
        cause.drive(computed);
        assert!(!irq.level());
        let computed = cause.status().level();
        cause.raise(csr0::RINT, 0);
        cause.drive(computed);
        assert!(irq.level());
    }

    /// A worker sets RINT just as the control thread clears it, many times: whoever came last, the pin
    /// agrees with the register afterwards.
    #[test]
    fn the_level_settles_whatever_the_interleaving() {
        const ROUNDS: usize = 5_000;
        let irq = Interrupts::new();
        let cause = Cause::new(irq.clone());
        cause.update(|s| s.csr0 = csr0::IENA | csr0::STRT);
        let arrived = AtomicUsize::new(0);
        let meet = |n: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    meet(4 * round + 2);
                    cause.raise(csr0::RINT, 0);
                    meet(4 * round + 4);
                }
            });
            for round in 0..ROUNDS {
                meet(4 * round + 2);
                cause.update(|s| s.csr0 &= !csr0::EVENTS);
                meet(4 * round + 4);
                assert_eq!(irq.level(), cause.status().level(), "round {round}");
            }
        });
    }
}
