//! Claims against a list of claims.

use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use sharedmem::{Region, SplitRing};

use super::*;

/// A split ring in memory of its own: where claims are published.
fn ring() -> SplitRing {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x4000).unwrap();
    let region: Arc<Region> = Region::map(file.as_fd(), 0, 0x4000, true).unwrap();
    SplitRing::new(256, (&region, 0), (&region, 0x1000), (&region, 0x2000)).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Look,
    /// On the ground of one of the last looks.
    Take(usize, u16),
    Finish(usize),
    /// Leaves so many positions of an open claim.
    Shorten(usize, u16),
    Hold(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Look),
        4 => (0usize..3, 0u16..40).prop_map(|(back, count)| Step::Take(back, count)),
        3 => any::<usize>().prop_map(Step::Finish),
        1 => (any::<usize>(), 0u16..40).prop_map(|(which, left)| Step::Shorten(which, left)),
        1 => (1u16..40).prop_map(Step::Hold),
    ]
}

/// What a list of claims makes of it.
#[derive(Default)]
struct Model {
    /// First position, the one behind the last, and whether it is done; in the order of the claims.
    claims: Vec<(u16, u16, bool)>,
    next: u16,
    /// Changes with every claim.
    changes: usize,
}

impl Model {
    fn claim(&mut self, count: u16) {
        self.claims.push((self.next, self.next.wrapping_add(count), false));
        (self.next, self.changes) = (self.next.wrapping_add(count), self.changes + 1);
    }

    fn published(&self, base: u16) -> u16 {
        self.claims.iter().take_while(|(.., done)| *done).last().map_or(base, |(_, end, _)| *end)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is claimed in whatever order it is finished: ranges follow one another, and what is published is what
    /// was finished without a gap, told once.
    #[test]
    fn claims_are_published_in_their_order(
        base in any::<u16>(),
        steps in prop::collection::vec(any_step(), 1..400),
    ) {
        let (claims, ring) = (Claims::new(base), ring());
        ring.set_used_idx(base);
        let mut model = Model { next: base, ..Model::default() };
        let mut looks: Vec<(Seen, usize)> = vec![];
        let mut open: Vec<(usize, Claim)> = vec![];
        let mut told = base;
        for step in steps {
            match step {
                Step::Look => {
                    let Some(seen) = claims.look() else { continue };
                    prop_assert_eq!((seen.next(), claims.next()), (model.next, model.next));
                    looks.push((seen, model.changes));
                }
                Step::Take(back, count) => {
                    let Some((seen, when)) = looks.iter().rev().nth(back).copied() else { continue };
                    let claim = claims.take(seen, 7, count);
                    prop_assert_eq!(claim.is_some(), when == model.changes, "a claim holds if nothing came between");
                    let Some(claim) = claim else { continue };
                    prop_assert_eq!((claim.start(), claim.end()), (model.next, model.next.wrapping_add(count)));
                    open.push((model.claims.len(), claim));
                    model.claim(count);
                }
                Step::Finish(which) if !open.is_empty() => {
                    let (at, claim) = open.swap_remove(which % open.len());
                    let before = model.published(base);
                    model.claims[at].2 = true;
                    let after = model.published(base);
                    let first = model.claims[..at].iter().all(|(.., done)| *done);
                    prop_assert_eq!(claims.finish(claim, &ring), first.then_some((before, after)));
                    prop_assert_eq!(ring.used_idx(), after);
                    prop_assert_eq!(told, before, "no step is left out");
                    told = after;
                }
                Step::Shorten(which, left) if !open.is_empty() => {
                    let which = which % open.len();
                    let (at, claim) = &mut open[which];
                    let end = claim.start().wrapping_add(left.min(claim.end().wrapping_sub(claim.start())));
                    let last = model.claims.len() == *at + 1;
                    let same = claim.end() == end;
                    prop_assert_eq!(claims.shorten(claim, end), last);
                    if last && !same {
                        (model.claims[*at].1, model.next, model.changes) = (end, end, model.changes + 1);
                    }
                }
                Step::Hold(count) => {
                    let Some(held) = claims.hold() else { continue };
                    prop_assert_eq!(held.next(), model.next);
                    let claim = held.release(model.next.wrapping_add(count), 9);
                    open.push((model.claims.len(), claim.unwrap()));
                    model.claim(count);
                }
                _ => {}
            }
        }
    }
}

/// A worker that loses its processor in the middle of a copy keeps its claim for long: the others go on until there are too
/// many claims behind it, then find no room, and all is published when it comes back.
#[test]
fn a_worker_that_does_not_get_on_loses_nothing() {
    let (claims, ring) = (Claims::new(0), ring());
    for round in 0..200 {
        let slow = claims.take(claims.look().unwrap(), 0, 3).unwrap();
        let start = slow.start();
        let mut behind = 0;
        while let Some(seen) = claims.look() {
            let claim = claims.take(seen, 0, 1).unwrap();
            assert_eq!(claims.finish(claim, &ring), None, "it is not this one's turn");
            behind += 1;
        }
        assert!((i32::from(HALF) - 1..i32::from(TURNS)).contains(&behind), "{behind} in round {round}");
        assert!(claims.hold().is_none());
        let end = start.wrapping_add(3).wrapping_add(behind as u16);
        assert_eq!(claims.finish(slow, &ring), Some((start, end)));
        assert_eq!((ring.used_idx(), claims.next()), (end, end));
    }
}

/// Workers at once: each position is one's, and what is published was written before.
#[test]
fn workers_at_once_claim_each_position_once() {
    const EACH: u32 = 30_000;
    let (claims, ring) = (Claims::new(0), ring());
    let marks: Vec<AtomicU32> = (0..1 << 16).map(|_| AtomicU32::new(0)).collect();
    let published = thread::scope(|scope| {
        let workers = [1, 2, 3].map(|worker| {
            let (claims, ring, marks) = (&claims, &ring, &marks);
            scope.spawn(move || {
                let (mut published, mut seed) = (0u64, worker);
                for turn in 0..EACH {
                    seed = u32::wrapping_mul(seed, 1_103_515_245).wrapping_add(12345);
                    let count = 1 + (seed >> 16) as u16 % 8;
                    let claim = if turn % 16 == 3 {
                        claims.hold().and_then(|held| {
                            let end = held.next().wrapping_add(count);
                            held.release(end, 0)
                        })
                    } else {
                        claims.look().and_then(|seen| claims.take(seen, 0, count))
                    };
                    let Some(mut claim) = claim else { continue };
                    if turn % 8 == 5 {
                        let end = claim.end().wrapping_sub(1);
                        claims.shorten(&mut claim, end);
                    }
                    let (mut at, end) = (claim.start(), claim.end());
                    while at != end {
                        marks[usize::from(at)].fetch_add(1, Ordering::Relaxed);
                        at = at.wrapping_add(1);
                    }
                    if let Some((before, after)) = claims.finish(claim, ring) {
                        let (mut at, lap) = (before, marks[usize::from(before)].load(Ordering::Relaxed));
                        assert!(lap > 0 || before == after);
                        while at != after {
                            assert!(marks[usize::from(at)].load(Ordering::Relaxed) > 0, "{at} was written");
                            at = at.wrapping_add(1);
                        }
                        published += u64::from(after.wrapping_sub(before));
                    }
                }
                published
            })
        });
        workers.map(|worker| worker.join().unwrap()).iter().sum::<u64>()
    });
    let written: u64 = marks.iter().map(|mark| u64::from(mark.load(Ordering::Relaxed))).sum();
    assert_eq!((written, ring.used_idx()), (published, claims.next()));
    // Each lap marks each position once.
    let (low, high) =
        (marks.iter().map(|m| m.load(Ordering::Relaxed)).min(), marks.iter().map(|m| m.load(Ordering::Relaxed)).max());
    assert!(high <= low.map(|low| low + 1), "{low:?} to {high:?}");
}
