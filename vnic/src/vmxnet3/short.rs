//! The lane of short frames: a burst of which each lies wholly in its head goes into entries of the receive data ring.
//!
//! ```text
//!  descriptors   d7 d8 d9 ...      given by the driver? nothing else is asked of them
//!  entries       e7 e8 e9 ...      one stretch of memory, looked up once
//!  frames        f0 f1 f2 ...  ->  copied side by side, then told of
//! ```

use std::sync::PoisonError;

use dataplane::{Burst, Frame, Tally};
use sharedmem::{HEAD, Hint, Slice, Work, widest};
use wire::MIN_FRAME;

use super::active::Cursor;
use super::completion::{plain, publish};
use super::rss::Mark;
use super::rx::Path;
use super::rx_ring::{Taker, head};
use super::stats::{Counts, Sums};

impl Path<'_> {
    /// Delivers the first of `run`, frames of `burst` that all lie in their heads, as many as the driver has given entries for;
    /// returns how many. `marks` are their hashes, as far as there are any.
    pub(super) fn deliver_short(
        &self,
        burst: &Burst<'_>,
        run: &[Frame],
        marks: &[Mark],
        tally: &mut Tally,
        counts: &mut Counts,
    ) -> usize {
        let ring = &self.rings.rings.0;
        let Some(data) = self.rings.data.filter(|data| data.size as usize >= HEAD) else { return 0 };
        let mut hint = Hint::default();
        let entries = self.active.map.lookup(&mut hint).whole(data.iova, data.size.saturating_mul(ring.count()));
        let Some(entries) = entries.filter(Slice::writable) else { return 0 };
        let Some((start, completion, count)) = self.reserve_short(run.len()) else { return 0 };
        let run = run.get(..count).unwrap_or(run);
        let (before, after) = run.split_at(run.len().min((ring.count() - start.index) as usize));
        let size = data.size as usize;
        let from = |index: u32| entries.after(index as usize * size).unwrap_or(Slice::NOTHING);
        for (frames, entries) in [(before, from(start.index)), (after, from(0))] {
            widest(frames.len(), Copy { frames, entries, size });
        }
        let bytes = count_all(burst, run, counts);
        let taker = self.taker();
        let tell = |n: usize| taker.tell(2, start.ahead(n as u32, ring.count()).index);
        let mark = |n| marks.get(n).copied().unwrap_or_default();
        publish(&self.rings.completions, completion, run, |n, frame, gen_bit| {
            plain(tell(n), mark(n), padded(frame) as u32, gen_bit)
        });
        tally.delivered_all(run.len(), bytes);
        run.len()
    }

    /// Reserves as many descriptors of heads, and their completions, as are there, up to `most`: where either begin, and how
    /// many.
    fn reserve_short(&self, most: usize) -> Option<(Cursor, Cursor, usize)> {
        let lock = self.active.run.rx.get(self.queue as usize)?;
        if !self.taker().has_plenty() {
            return None;
        }
        let ring = &self.rings.rings.0;
        let mut positions = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, completion) = (positions.rings[0], positions.completion);
        let mut count = 0;
        for (at, slots) in start.runs(ring, most as u32) {
            let given = slots.iter().take_while(|slot| head(slot.upper(), at.gen_bit).is_some()).count();
            count += given;
            if given < slots.len() {
                break;
            }
        }
        positions.rings[0] = start.ahead(count as u32, ring.count());
        positions.completion = completion.ahead(count as u32, self.rings.completions.count());
        (count > 0).then_some((start, completion, count))
    }

    /// For taking descriptors.
    pub(super) fn taker(&self) -> Taker<'_> {
        Taker { rings: self.rings, queue: self.queue, queues: self.active.rx.len() as u32 }
    }
}

/// Bytes of a frame as its driver is told of them.
#[inline(always)]
fn padded(frame: &Frame) -> usize {
    frame.len().max(MIN_FRAME)
}

/// Adds the frames to `counts`; returns their bytes.
#[inline(always)]
fn count_all(burst: &Burst<'_>, run: &[Frame], counts: &mut Counts) -> usize {
    let mut sums = Sums::default();
    match run.first().filter(|_| burst.alike().is_some()) {
        Some(first) => sums.all(first.dst(), run.len(), run.iter().map(padded).sum(), counts),
        None => run.iter().for_each(|frame| sums.good(frame.dst(), padded(frame), counts)),
    }
    sums.add_to(counts)
}

/// Copies frames to entries of `size` bytes.
struct Copy<'f, 'm> {
    frames: &'f [Frame],
    entries: Slice<'m>,
    size: usize,
}

impl Work for Copy<'_, '_> {
    type Outcome = ();

    #[inline(always)]
    fn run(self) {
        let Copy { frames, mut entries, size } = self;
        for frame in frames {
            // Cannot fail: an entry holds a head, and there is one for each frame.
            let _ = frame.write_head(&[], &entries);
            entries = entries.after(size).unwrap_or(Slice::NOTHING);
        }
    }
}
