//! Cache lines that are known to be needed before it is time to look at what is in them.

use crate::prefetch::{at_read, at_write};

/// A few cache lines, by address: what the next access to a ring will need, noted after the one before.
///
/// They are only asked for, which faults nowhere, so they may be kept for longer than the memory they lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// What will be read, what will be written in the ring, and what else will be written.
    read: usize,
    ring: [usize; 2],
    own: usize,
}

impl Ahead {
    /// Nothing is known to be needed.
    pub const NONE: Ahead = Ahead { read: 0, ring: [0; 2], own: 0 };

    /// The lines at `read`, to be read, and `written`, to be written.
    #[inline(always)]
    pub(crate) fn new(read: *const u8, written: [*const u8; 2]) -> Ahead {
        Ahead { read: read.addr(), ring: [written[0].addr(), written[1].addr()], own: 0 }
    }

    /// The line of `what` too, which will be written, in the place of another such.
    #[inline(always)]
    pub fn and<T>(self, what: &T) -> Ahead {
        Ahead { own: std::ptr::from_ref(what).addr(), ..self }
    }

    /// Asks the processor for all of them.
    #[inline(always)]
    pub fn ask(&self) {
        let Ahead { read, ring: [first, second], own } = *self;
        if read == 0 {
            return;
        }
        for at in [first, second, own] {
            at_write(std::ptr::without_provenance(at));
        }
        at_read(std::ptr::without_provenance(read));
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Ahead::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_and_may_be_anywhere() {
        assert_eq!(Ahead::default(), Ahead::NONE);
        Ahead::NONE.ask();
        let words = [1u64, 2, 3, 4];
        let [a, b, c, d] = words.each_ref().map(|word| std::ptr::from_ref(word).cast::<u8>());
        let all = Ahead::new(a, [b, c]).and(&words[3]);
        assert_eq!(all, Ahead { read: a.addr(), ring: [b.addr(), c.addr()], own: d.addr() });
        all.ask();
        assert_eq!(words, [1, 2, 3, 4]);
        // Nothing lies there, nor is this an address at all.
        for at in [1, 4096, usize::MAX, 1 << 63] {
            let nowhere = std::ptr::without_provenance(at);
            Ahead::new(nowhere, [nowhere; 2]).ask();
        }
    }
}
