//! Copies a burst's plain frames into their windows, which hold a header before each.
//!
//! ```text
//!  all lie in their heads -> by fours, nothing else in the loop
//!  others                 -> head, then the rest from where it lies:   in a cache    as it comes
//!                                                                      in memory     it and its room asked for 4 frames before
//! ```

use std::borrow::Borrow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane::{Burst, Frame, VNET_LEN};
use sharedmem::{Slice, Work, widest};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;
/// Short frames filled together.
const FOUR: usize = 4;
/// Frames before its turn that a frame and its room are asked for, where they lie far away.
const AHEAD: usize = 4;
/// The time of a copy is taken of one in so many bursts of long frames.
pub(super) const TIMED: u16 = 16;
/// A copy that takes longer than this for each cache line waits for memory: from another core's cache a line takes 1.5 to 4 ns
/// where many are under way, from memory 7 to 14 (benches/NOTES.md).
const COLD_LINE: Duration = Duration::from_nanos(6);

/// The header, `P` bytes long, of a frame nothing is said of: all zeros but the count of buffers in the longer one.
pub(super) const fn plain_header<const P: usize>() -> [u8; P] {
    let mut header = [0; P];
    if P > VNET_LEN {
        header[VNET_LEN] = 1;
    }
    header
}

/// As [`fill`], of long frames, as many as `lens` has room for; the others follow soon. Where frames lie far away, which `cold`
/// tells, they are asked for before their turn. When it is `timed`, the time it takes tells whether that is so from now on.
pub(super) fn fill_long<const P: usize, F: Borrow<Frame>>(
    cold: &AtomicBool,
    timed: bool,
    burst: &Burst<'_>,
    frames: &[F],
    rooms: &[Slice<'_>],
    lens: &mut [u32],
) -> usize {
    let since = timed.then(Instant::now);
    let was = cold.load(Ordering::Relaxed);
    let done = if was {
        fill_cold::<P, F>(burst, frames, rooms, lens)
    } else {
        fill::<P, F>(burst, frames, rooms.get(..lens.len()).unwrap_or(rooms), lens)
    };
    if let Some(since) = since.filter(|_| done > 0) {
        let is = waits_for_memory(since.elapsed(), &lens[..done]);
        if is != was {
            cold.store(is, Ordering::Relaxed);
        }
    }
    done
}

/// True when copies of `lens` bytes that took `time` in all had to wait for memory.
fn waits_for_memory(time: Duration, lens: &[u32]) -> bool {
    time > COLD_LINE * lens.iter().map(|len| len.div_ceil(LINE as u32)).sum()
}

/// As [`fill_long`], with frames and rooms on their way to the second-level cache some frames before they are copied, which
/// takes more of them at a time than the first-level cache can. With lines that are there already this takes longer.
#[inline(never)]
fn fill_cold<const P: usize, F: Borrow<Frame>>(
    burst: &Burst<'_>,
    frames: &[F],
    rooms: &[Slice<'_>],
    lens: &mut [u32],
) -> usize {
    let ask = |n: usize| {
        if let Some((frame, room)) = frames.get(n).zip(rooms.get(n)) {
            let frame = frame.borrow();
            burst.will_copy(frame);
            room.prefetch_far(P + frame.len());
        }
    };
    (0..AHEAD).for_each(ask);
    let count = rooms.len().min(lens.len());
    for done in 0..count {
        ask(done + AHEAD);
        if fill::<P, F>(burst, &frames[done..], &rooms[done..=done], &mut lens[done..]) == 0 {
            return done;
        }
    }
    count
}

/// Writes header and frame into each room, as long as they fit, and how much that is to `lens`: how many there are.
#[inline(always)]
pub(super) fn fill<const P: usize, F: Borrow<Frame>>(
    burst: &Burst<'_>,
    frames: &[F],
    rooms: &[Slice<'_>],
    lens: &mut [u32],
) -> usize {
    let mut heads = 0;
    if rooms.len() >= FOUR && burst.is_all_heads() {
        heads = widest(rooms.len(), FillHeads::<P, F> { frames, rooms, lens });
        if heads == rooms.len() {
            return heads;
        }
    }
    let (frames, rooms, lens) = (&frames[heads..], &rooms[heads..], &mut lens[heads..]);
    heads + widest(rooms.len(), Fill::<P, F> { burst, frames, rooms, lens })
}

/// Any frames.
struct Fill<'f, 'm, const P: usize, F> {
    burst: &'f Burst<'m>,
    frames: &'f [F],
    rooms: &'f [Slice<'m>],
    lens: &'f mut [u32],
}

impl<const P: usize, F: Borrow<Frame>> Work for Fill<'_, '_, P, F> {
    type Outcome = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let (header, mut done) = (const { plain_header::<P>() }, 0);
        for ((frame, room), len) in self.frames.iter().zip(self.rooms).zip(self.lens) {
            let frame = frame.borrow();
            if !self.burst.write_plain(frame, &header, room, false) {
                break;
            }
            *len = (P + frame.len()) as u32;
            done += 1;
        }
        done
    }
}

/// Frames that lie wholly in their heads, by fours, into rooms that hold a whole head: nothing else is in the loop.
struct FillHeads<'f, 'm, const P: usize, F> {
    frames: &'f [F],
    rooms: &'f [Slice<'m>],
    lens: &'f mut [u32],
}

impl<const P: usize, F: Borrow<Frame>> Work for FillHeads<'_, '_, P, F> {
    type Outcome = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let FillHeads { frames, rooms, lens } = self;
        let (header, mut done) = (const { plain_header::<P>() }, 0);
        let fours =
            frames.as_chunks::<FOUR>().0.iter().zip(rooms.as_chunks::<FOUR>().0).zip(lens.as_chunks_mut::<FOUR>().0);
        for ((frames, rooms), lens) in fours {
            let frames = frames.each_ref().map(Borrow::borrow);
            if !Frame::write_heads(frames, &header, rooms) {
                break;
            }
            *lens = frames.map(|frame| (P + frame.len()) as u32);
            done += FOUR;
        }
        done
    }
}

#[cfg(test)]
#[path = "fill_tests.rs"]
mod tests;
