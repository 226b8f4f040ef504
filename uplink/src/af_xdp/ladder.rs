//! The order in which ways to run AF_XDP are tried, best first.
//!
//! ```text
//!  zero-copy   the card writes frames into our memory
//!  copy        the driver runs the program, the kernel copies      (native)
//!  generic     the network stack runs the program and copies       (any driver)
//! ```
//!
//! Where frames may be longer than a chunk of our memory, ways that take them in pieces come before all that do
//! not.

use wire::{ETH_HEADER, TAG_LEN};

use super::bpf::Hook;
use super::queue::CHUNK_ROOM;

/// One place to put the program, with the ways to bind sockets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) hook: Hook,
    /// Frames may come in several pieces (`XDP_USE_SG`, Linux 6.6; the program's flag, 5.18).
    pub(super) fragments: bool,
}

/// What is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Whatever there is.
    Any,
    /// No worse than AF_PACKET: native, and every frame the interface takes.
    Native,
}

impl Step {
    /// The ways to bind here, as whether to ask for zero-copy.
    pub(super) fn bindings(self) -> &'static [bool] {
        match self.hook {
            Hook::Native => &[true, false],
            Hook::Generic => &[false],
        }
    }

    /// The rung's name.
    pub(super) fn name(self, zero_copy: bool) -> &'static str {
        match (self.hook, zero_copy) {
            (Hook::Native, true) => "zero-copy",
            (Hook::Native, false) => "copy",
            (Hook::Generic, _) => "generic",
        }
    }

    /// What is refused when the program is not taken here.
    pub(super) fn place(self) -> &'static str {
        match (self.hook, self.fragments) {
            (Hook::Native, false) => "native XDP",
            (Hook::Native, true) => "native XDP with multi-buffer",
            (Hook::Generic, false) => "generic XDP",
            (Hook::Generic, true) => "generic XDP with multi-buffer",
        }
    }
}

/// True when frames of `mtu` bytes of payload, with two tags, may need several chunks.
pub(super) fn needs_fragments(mtu: u32) -> bool {
    mtu as usize + ETH_HEADER + 2 * TAG_LEN > CHUNK_ROOM
}

/// What to try, in order.
pub(super) fn steps(mtu: u32, demand: Demand) -> Vec<Step> {
    let pieces: &[bool] = match (needs_fragments(mtu), demand) {
        (false, _) => &[false],
        (true, Demand::Native) => &[true],
        (true, Demand::Any) => &[true, false],
    };
    let hooks: &[Hook] = match demand {
        Demand::Native => &[Hook::Native],
        Demand::Any => &[Hook::Native, Hook::Generic],
    };
    pieces.iter().flat_map(|&fragments| hooks.iter().map(move |&hook| Step { hook, fragments })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mtu: u32, demand: Demand) -> Vec<String> {
        let name = |s: &Step, z: bool| format!("{}{}", s.name(z), if s.fragments { "+" } else { "" });
        steps(mtu, demand).iter().flat_map(|s| s.bindings().iter().map(|z| name(s, *z))).collect()
    }

    #[test]
    fn best_first_and_long_frames_before_speed() {
        assert_eq!(names(1500, Demand::Any), ["zero-copy", "copy", "generic"]);
        assert_eq!(names(1500, Demand::Native), ["zero-copy", "copy"]);
        let all = ["zero-copy+", "copy+", "generic+", "zero-copy", "copy", "generic"];
        assert_eq!(names(9000, Demand::Any), all);
        assert_eq!(names(9000, Demand::Native), ["zero-copy+", "copy+"]);
        assert!(!needs_fragments(3818) && needs_fragments(3819));
    }
}
