//! Whose frames are these: what is sent carries a signature, and what comes in is held against it.
//!
//! ```text
//!  0     6     12     14          34    42                                50
//!  | dst | src | type | IPv4      | UDP | run (2) | number (3) | mark (3) | 0x5a ...
//! ```
//!
//! All of it lies in one cache line of a receive buffer on a virtio port (12 bytes of header come first), so looking
//! costs one line a frame.

use sharedmem::{HEAD, Slice};
use wire::{ETHERTYPE_VLAN, Mac, TAG_LEN, Tag, be16};

use super::Load;

/// Where the signature stands in an untagged frame.
const SIGNATURE: usize = 42;
/// Frames can be told apart by their number up to here, and marks too.
const NUMBERS: u64 = 1 << 24;
/// Marked frames a station keeps beside its pool; so many may be on their way at once.
pub const PROBES: usize = 1024;

/// The frames one station sends: a load with addresses, a signature and maybe a tag.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What is sent.
    pub load: Load,
    /// Tells this run's frames of this direction from all others.
    pub run: u16,
    /// The sender's first address.
    pub from: Mac,
    /// The receiver's.
    pub to: Mac,
    /// The tag the sender puts on.
    pub tag: Option<Tag>,
}

impl Stream {
    /// Different frames before they repeat.
    pub fn kinds(&self) -> usize {
        self.load.variety()
    }

    /// Frame number `n`, without FCS and without its tag, marked with `mark` (0: not).
    pub fn untagged(&self, n: usize, mark: u32) -> Vec<u8> {
        let kind = n % self.kinds().max(1);
        let mut frame = self.load.frame(kind, self.from, self.to);
        let signature = u64::from(self.run) | (kind as u64 % NUMBERS) << 16 | (u64::from(mark) % NUMBERS) << 40;
        // The shortest frame is 60 bytes long.
        frame[SIGNATURE..SIGNATURE + 8].copy_from_slice(&signature.to_le_bytes());
        frame
    }

    /// As [`Stream::untagged`], with the tag where it belongs; the tag comes on top of the size.
    pub fn frame(&self, n: usize, mark: u32) -> Vec<u8> {
        let mut frame = self.untagged(n, mark);
        if let Some(tag) = self.tag {
            frame.splice(12..12, tag.bytes());
        }
        frame
    }
}

/// What came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Frames of this run.
    pub frames: u64,
    /// Their bytes, without FCS and tag.
    pub bytes: u64,
    /// Frames of others, and frames that are not as they were sent.
    pub foreign: u64,
}

/// What a frame of a stream looks like to its receiver.
struct Kind {
    head: [u8; SIGNATURE],
    len: usize,
}

/// Looks at what comes to one station. A look at a frame in a guest's memory takes its cache line from the switch's
/// core, which at the highest rates is a quarter of the generator's time; so it may look into one of so many only. A
/// frame whose length no frame of this run has is looked into always.
pub struct Checker {
    kinds: Vec<Kind>,
    /// A bit for each length that a frame of this run may have.
    lengths: [u64; 32],
    /// Looks into one frame of so many; 0: into none, and all count as of this run.
    every: u32,
    /// Frames until the next look.
    wait: u32,
    run: u16,
    tag: Option<u16>,
    came: Came,
    marks: Vec<u32>,
}

impl Checker {
    /// Expects the frames of `stream`, with a tag of VLAN `vlan` where one is given and none otherwise, and looks into
    /// one frame of `every` (0: into none).
    pub fn new(stream: &Stream, vlan: Option<u16>, every: u32) -> Checker {
        let kind = |n| {
            let frame = stream.untagged(n, 0);
            let mut head = [0; SIGNATURE];
            head.copy_from_slice(&frame[..SIGNATURE]);
            Kind { head, len: frame.len() }
        };
        let kinds: Vec<Kind> = (0..stream.kinds()).map(kind).collect();
        let mut lengths = [0; 32];
        // As it lies in memory, with its tag or without.
        for len in kinds.iter().flat_map(|kind| [kind.len, kind.len + TAG_LEN]) {
            if let Some(word) = lengths.get_mut(len / 64) {
                *word |= 1 << (len % 64);
            }
        }
        let (came, marks) = (Came::default(), Vec::with_capacity(PROBES));
        Checker { kinds, lengths, every, wait: 0, run: stream.run, tag: vlan, came, marks }
    }

    /// What came so far.
    #[inline]
    pub fn came(&self) -> Came {
        self.came
    }

    /// The marks that came since the last call, oldest first.
    pub fn marks(&mut self) -> std::vec::Drain<'_, u32> {
        self.marks.drain(..)
    }

    /// True when marks have come.
    #[inline]
    pub fn marked(&self) -> bool {
        !self.marks.is_empty()
    }

    /// A frame of `len` bytes whose beginning lies in `first`; `tag` is what the card took out of it.
    #[inline(always)]
    pub fn see(&mut self, tag: Option<Tag>, first: &Slice<'_>, len: usize) {
        if self.wait > 0 && self.lengths.get(len / 64).is_some_and(|word| word >> (len % 64) & 1 == 1) {
            self.wait -= 1;
            return self.ours(len);
        }
        self.look_into(tag, first, len);
    }

    #[inline(never)]
    fn look_into(&mut self, tag: Option<Tag>, first: &Slice<'_>, len: usize) {
        self.wait = self.every.saturating_sub(1);
        if self.every == 0 {
            return self.ours(len);
        }
        let mut head = [0; HEAD];
        let got = first.read_head_behind::<0>(&mut head);
        self.see_head(tag, head.get(..got).unwrap_or_default(), len);
    }

    /// As [`Checker::see`], for those who have the frame's first bytes already: every frame is looked into.
    #[inline]
    pub fn see_head(&mut self, tag: Option<Tag>, head: &[u8], len: usize) {
        if self.every == 0 {
            return self.ours(len);
        }
        if tag.is_none() && be16(head, 12) == Some(ETHERTYPE_VLAN) {
            return self.see_tagged(head, len);
        }
        match self.mark(head, len) {
            Some(mark) if tag.map(Tag::vid) == self.tag => {
                self.ours(len);
                if mark != 0 {
                    self.marks.push(mark);
                }
            }
            _ => self.came.foreign += 1,
        }
    }

    /// A frame with its tag in it.
    #[inline(never)]
    fn see_tagged(&mut self, head: &[u8], len: usize) {
        let mut untagged = [0; HEAD];
        let (Some(start), Some(rest)) = (head.get(..12), head.get(12 + TAG_LEN..)) else {
            self.came.foreign += 1;
            return;
        };
        untagged[..12].copy_from_slice(start);
        untagged[12..12 + rest.len()].copy_from_slice(rest);
        let tag = Tag(be16(head, 14).unwrap_or(0));
        self.see_head(Some(tag), &untagged[..12 + rest.len()], len - TAG_LEN);
    }

    /// The mark of a frame that is as it was sent.
    #[inline]
    fn mark(&self, head: &[u8], len: usize) -> Option<u32> {
        let signature = u64::from_le_bytes(*head.get(SIGNATURE..)?.first_chunk()?);
        let kind = self.kinds.get((signature >> 16 & (NUMBERS - 1)) as usize)?;
        let same = signature as u16 == self.run && len == kind.len && head.get(..SIGNATURE)? == kind.head;
        same.then_some((signature >> 40) as u32)
    }

    #[inline]
    fn ours(&mut self, len: usize) {
        self.came.frames += 1;
        self.came.bytes += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use sharedmem::SharedPage;

    use super::*;

    fn stream(tag: Option<Tag>) -> Stream {
        let load = Load { sizes: "64,128".parse().unwrap(), flows: 3, macs: 2, broadcast: 0 };
        Stream { load, run: 77, from: Mac([0, 0x50, 0x56, 0, 0, 1]), to: Mac([0, 0x50, 0x56, 0, 0, 2]), tag }
    }

    fn see(checker: &mut Checker, frame: &[u8]) -> Came {
        checker.came = Came::default();
        checker.see_head(None, &frame[..frame.len().min(HEAD)], frame.len());
        checker.came
    }

    #[test]
    fn own_frames_are_told_from_all_others() {
        let stream = stream(None);
        let mut checker = Checker::new(&stream, None, 1);
        for n in 0..12 {
            let frame = stream.frame(n, 0);
            assert_eq!(see(&mut checker, &frame), Came { frames: 1, bytes: frame.len() as u64, foreign: 0 });
        }
        let foreign = Came { foreign: 1, ..Came::default() };
        let good = stream.frame(1, 0);
        for at in 0..SIGNATURE + 5 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(see(&mut checker, &bad), foreign, "byte {at}");
        }
        assert_eq!(see(&mut checker, &good[..123]), foreign, "cut short");
        assert_eq!(see(&mut checker, &[&good[..], &[0]].concat()), foreign, "grown");
        assert_eq!(see(&mut checker, &good[..20]), foreign, "a stump");
        let other = Stream { run: 78, ..stream.clone() };
        assert_eq!(see(&mut checker, &other.frame(1, 0)), foreign, "of another run");
        assert!(checker.marks().next().is_none());
        assert_eq!(see(&mut Checker::new(&stream, None, 0), &good[..20]).frames, 1, "not looked into");
    }

    #[test]
    fn of_many_frames_few_are_looked_into() {
        let stream = stream(None);
        let memory = SharedPage::new("check", 4096).unwrap();
        let mut checker = Checker::new(&stream, None, 4);
        let mut good = stream.frame(0, 0);
        good[20] ^= 1;
        assert!(memory.slice().write_at(0, &good));
        for _ in 0..8 {
            checker.see(None, &memory.slice().sub(0, 60).unwrap(), 60);
        }
        assert_eq!((checker.came().frames, checker.came().foreign), (6, 2), "one of four");
        for _ in 0..8 {
            checker.see(None, &memory.slice().sub(0, 61).unwrap(), 61);
        }
        assert_eq!((checker.came().frames, checker.came().foreign), (6, 10), "and all of a strange length");
    }

    #[test]
    fn marks_and_tags() {
        let tagged = stream(Some(Tag::new(7, 0)));
        let mut checker = Checker::new(&tagged, Some(7), 1);
        assert_eq!(tagged.frame(1, 0).len(), 128, "the tag is on top of the size, the FCS is not there");
        assert_eq!(see(&mut checker, &tagged.frame(1, 5)).frames, 1);
        assert_eq!(checker.marks().collect::<Vec<_>>(), [5]);
        assert_eq!(see(&mut checker, &tagged.untagged(1, 0)).foreign, 1, "its tag is gone");
        assert_eq!(see(&mut checker, &stream(Some(Tag::new(8, 0))).frame(1, 0)).foreign, 1, "another VLAN's");
        let frame = tagged.untagged(2, 0);
        checker.came = Came::default();
        checker.see_head(Some(Tag::new(7, 3)), &frame, frame.len());
        assert_eq!(checker.came.frames, 1, "a tag that the card took out");
        let mut plain = Checker::new(&tagged, None, 1);
        assert_eq!(see(&mut plain, &tagged.untagged(1, 0)).frames, 1, "an access port took it off");
        assert_eq!(see(&mut plain, &tagged.frame(1, 0)).foreign, 1);
    }
}
