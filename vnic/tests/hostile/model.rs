//! What a receive queue must do with the chains it was given, whatever kind of ring they came in; and what else of memory
//! stays as it was.

use std::collections::VecDeque;
use std::ops::Range;

use dataplane::{DropReason, Tally};
use proptest::prelude::*;

use crate::RX_BUFFERS;
use crate::rig::{BASE, SIZE, counted};

/// Places in memory, in the order of the chain: offset and length. `None` of a chain that the card must refuse.
pub type Places = Option<Vec<(usize, usize)>>;

/// The offset of `len` bytes at guest address `addr`, if they lie in memory.
pub fn inside(addr: u64, len: u32) -> Option<usize> {
    let at = usize::try_from(addr.checked_sub(BASE)?).ok()?;
    (at.checked_add(len as usize)? <= SIZE).then_some(at)
}

/// A receive queue and the memory it may write.
pub struct Model {
    /// Chains made available and not given back: what the driver knows each by, and where it may be written.
    pub waiting: VecDeque<(u16, Places)>,
    /// What memory must hold: `None` where a buffer that was used goes on behind what it holds, which the card may write.
    pub memory: Vec<Option<u8>>,
    /// What must have come back since this was last taken.
    pub used: Vec<(u16, u32)>,
    pub header: usize,
    pub mergeable: bool,
}

impl Model {
    pub fn new(memory: Vec<u8>, header: usize, mergeable: bool) -> Model {
        let memory = memory.into_iter().map(Some).collect();
        Model { waiting: VecDeque::new(), memory, used: vec![], header, mergeable }
    }

    /// What becomes of one frame.
    fn receive(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let (mut left, mut taken) = (self.header + frame.len(), 0);
        while left > 0 {
            let Some((_, places)) = self.waiting.get(taken) else { return Err(DropReason::RingFull) };
            taken += 1;
            let Some(places) = places else {
                self.used.extend(self.waiting.drain(..taken).map(|(id, _)| (id, 0)));
                return Err(DropReason::BadDescriptor);
            };
            left = left.saturating_sub(places.iter().map(|place| place.1).sum());
            if left > 0 && !self.mergeable {
                return Err(DropReason::Oversize);
            }
        }
        let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, taken as u8, 0];
        let bytes = [&header[..self.header], frame].concat();
        let mut rest = &bytes[..];
        for (id, places) in self.waiting.drain(..taken) {
            let before = rest.len();
            for (at, len) in places.unwrap_or_default() {
                let (now, later) = rest.split_at(rest.len().min(len));
                self.memory[at..at + len].fill(None);
                self.memory[at..].iter_mut().zip(now).for_each(|(to, from)| *to = Some(*from));
                rest = later;
            }
            self.used.push((id, (before - rest.len()) as u32));
        }
        Ok(())
    }

    /// What becomes of a burst, and whether that is what was told of it: each frame arrived, or was dropped for its reason.
    pub fn deliver(&mut self, frames: &[Vec<u8>], told: &Tally) -> Result<(), TestCaseError> {
        let outcomes: Vec<_> = frames.iter().map(|frame| self.receive(frame)).collect();
        let totals = counted(told);
        prop_assert_eq!(totals.out_frames, outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64);
        let mut dropped = 0;
        for reason in DropReason::ALL {
            let expected = outcomes.iter().filter(|outcome| **outcome == Err(*reason)).count() as u64;
            prop_assert_eq!(totals.drops(*reason), expected, "{:?}", reason);
            dropped += expected;
        }
        prop_assert_eq!((totals.out_frames + dropped, totals.out_offered), (frames.len() as u64, frames.len() as u64));
        Ok(())
    }
}

/// Memory holds what is `expected`, outside of `except`.
pub fn same(expected: &[Option<u8>], found: &[u8], except: &[Range<usize>]) -> Result<(), TestCaseError> {
    let wrong = |at: &usize| {
        expected[*at].is_some_and(|byte| byte != found[*at]) && !except.iter().any(|place| place.contains(at))
    };
    let first = (0..found.len()).find(wrong);
    prop_assert_eq!(first.map(|at| (at, expected[at], found[at])), None, "not to be written, or not so");
    Ok(())
}

/// Address and length of a receive buffer: in memory or not, often about as long as [`any_frames`] are with their header, and
/// often over others.
pub fn any_buffer() -> impl Strategy<Value = (u64, u32)> + Clone {
    let first = BASE + RX_BUFFERS as u64;
    let addr = prop_oneof![
        12 => (0..256u64).prop_map(move |n| first + n * 2048),
        3 => (0..4096u64).prop_map(move |n| first + n),
        1 => Just(BASE + SIZE as u64 - 80),
        1 => Just(BASE - 16),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => 60u32..80, 3 => 0u32..40, 3 => 100u32..2000, 1 => any::<u32>()];
    (addr, len)
}

/// Lengths of the frames of a burst.
pub fn any_frames() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![6 => 48usize..70, 1 => 14usize..20, 2 => 100usize..3000], 1..8)
}
