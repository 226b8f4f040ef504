//! One run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use super::clock::{Pacer, Rate, Timer, histogram};
use super::load::FCS;
use super::{Came, Checker, Station};

/// Turns between looks at the clock.
const TURNS: u32 = 64;
/// How long frames may be on their way after the last was sent.
const DRAIN: Duration = Duration::from_millis(100);
/// The same while some have not come.
const MISSING_DRAIN: Duration = Duration::from_millis(500);
/// A port on which frames keep coming is not waited for longer than this.
const LONGEST_DRAIN: Duration = Duration::from_secs(2);
/// One frame at a time is lost when it has not come by then.
const LATE: Duration = Duration::from_millis(20);

/// A station, and who looks at what comes to it.
pub struct End {
    /// Where frames go in and come out.
    pub station: Box<dyn Station>,
    /// Tells this run's frames.
    pub checker: Checker,
    posted: u64,
}

/// Everything that went in and came out at a station since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames that the switch took.
    pub posted: u64,
    /// Frames that came, of whoever.
    pub came: u64,
}

impl End {
    /// A station that is prepared, and who looks at what comes to it.
    pub fn new(station: Box<dyn Station>, checker: Checker) -> End {
        End { station, checker, posted: 0 }
    }

    /// What it did so far, warm-up included.
    pub fn totals(&self) -> Totals {
        let came = self.checker.came();
        Totals { posted: self.posted, came: came.frames + came.foreign }
    }

    /// Sends up to `count` frames; returns how many.
    #[inline]
    fn post(&mut self, count: usize) -> Result<usize> {
        let posted = self.station.post(count)?;
        self.posted += posted as u64;
        Ok(posted)
    }

    /// Takes what has come; true when anything of this run has.
    ///
    /// # Errors
    /// When the station fails.
    #[inline]
    pub fn collect(&mut self) -> Result<bool> {
        let before = self.checker.came().frames;
        self.station.take(&mut self.checker)?;
        Ok(self.checker.came().frames > before)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// Send in both directions.
    pub both: bool,
    /// How fast.
    pub rate: Rate,
    /// How long to send before anything counts.
    pub warmup: Duration,
    /// How long to measure.
    pub length: Duration,
    /// Time some of the frames.
    pub timed: bool,
    /// Ends the run early when it is set.
    pub stop: &'p AtomicBool,
}

/// What came of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideOutcome {
    /// Frames that the switch took from it while it was measured.
    pub sent: u64,
    /// Frames of the other side that came to it.
    pub received: u64,
    /// Frames that came to it and are not of this run, or not as they were sent.
    pub foreign: u64,
}

/// What came of it. Counts are of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Frames the switch took while it was measured.
    pub sent: u64,
    /// Frames that came out.
    pub received: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Seconds it lasted.
    pub seconds: f64,
    /// Of the frames that came out, those that did before the end.
    pub on_time: u64,
    /// Side a and side b.
    pub sides: [SideOutcome; 2],
}

impl Outcome {
    /// Million frames per second that came out.
    pub fn mpps(&self) -> f64 {
        self.on_time as f64 / self.seconds / 1e6
    }

    /// Gigabits per second of those frames, FCS included.
    pub fn gbits(&self) -> f64 {
        let bytes = self.bytes as f64 / self.received.max(1) as f64 + FCS as f64;
        self.mpps() * bytes * 8.0 / 1e3
    }

    /// Frames that did not come out.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Frames that came and are not of this run.
    pub fn foreign(&self) -> u64 {
        self.sides.iter().map(|side| side.foreign).sum()
    }
}

/// Counts from a moment on.
struct Counts {
    sent: [u64; 2],
    before: [Came; 2],
}

impl Counts {
    fn new(ends: &[End; 2]) -> Counts {
        Counts { sent: [0; 2], before: [0, 1].map(|at| ends[at].checker.came()) }
    }

    /// Frames of this run that came so far.
    fn received(&self, ends: &[End; 2]) -> u64 {
        [0, 1].into_iter().map(|at| ends[at].checker.came().frames - self.before[at].frames).sum()
    }

    fn outcome(&self, ends: &[End; 2], seconds: f64, on_time: u64) -> Outcome {
        let mut outcome = Outcome { seconds, on_time, ..Outcome::default() };
        for (at, side) in outcome.sides.iter_mut().enumerate() {
            let (came, before) = (ends[at].checker.came(), self.before[at]);
            *side = SideOutcome {
                sent: self.sent[at],
                received: came.frames - before.frames,
                foreign: came.foreign - before.foreign,
            };
            outcome.bytes += came.bytes - before.bytes;
        }
        outcome.sent = self.sent.iter().sum();
        outcome.received = outcome.sides.iter().map(|side| side.received).sum();
        outcome
    }
}

/// Sends from a to b (and back, if `both`) as `plan` says. `tell` gets what came so far about once a second. With
/// `timed`, the histogram holds how long marked frames took under this load, in nanoseconds.
///
/// # Errors
/// When a station fails.
pub fn run(
    ends: &mut [End; 2],
    plan: &Plan<'_>,
    tell: &mut dyn FnMut(Outcome),
) -> Result<(Outcome, Option<Histogram<u64>>)> {
    // What was on its way before counts for nobody.
    drain(ends)?;
    teach(ends)?;
    let mut counts = Counts::new(ends);
    pump(ends, plan, plan.warmup, &mut counts, None, &mut |_| {})?;
    drain(ends)?;
    let mut counts = Counts::new(ends);
    let mut timers = if plan.timed { Some([Timer::new()?, Timer::new()?]) } else { None };
    let start = Instant::now();
    pump(ends, plan, plan.length, &mut counts, timers.as_mut(), tell)?;
    let seconds = start.elapsed().as_secs_f64();
    // Frames that came after the end still came, but took no part in the rate.
    let on_time = counts.received(ends);
    drain(ends)?;
    let times = match timers {
        Some([first, second]) => {
            let mut times = first.into_histogram();
            times.add(second.into_histogram())?;
            Some(times)
        }
        None => None,
    };
    Ok((counts.outcome(ends, seconds, on_time), times))
}

fn pump(
    ends: &mut [End; 2],
    plan: &Plan<'_>,
    length: Duration,
    counts: &mut Counts,
    mut timers: Option<&mut [Timer; 2]>,
    tell: &mut dyn FnMut(Outcome),
) -> Result<()> {
    let start = Instant::now();
    let mut told = 0;
    let mut pacers = [Pacer::new(plan.rate), Pacer::new(plan.rate)];
    let senders = if plan.both { 2 } else { 1 };
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length || plan.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if elapsed.as_secs() > told {
            told = elapsed.as_secs();
            tell(counts.outcome(ends, elapsed.as_secs_f64(), counts.received(ends)));
        }
        for _ in 0..TURNS {
            for (at, pacer) in pacers.iter_mut().enumerate().take(senders) {
                let timer = timers.as_deref_mut().and_then(|timers| timers.get_mut(at));
                counts.sent[at] += send(&mut ends[at], pacer, start, timer)?;
            }
            // Marks of the frames that a sent come to b.
            for (at, sender) in [(1, 0), (0, 1)] {
                ends[at].collect()?;
                if ends[at].checker.marked() {
                    let now = Instant::now();
                    let timer = timers.as_deref_mut().and_then(|timers| timers.get_mut(sender));
                    let marks = ends[at].checker.marks();
                    if let Some(timer) = timer {
                        marks.for_each(|mark| timer.came(mark, now));
                    }
                }
            }
        }
    }
}

/// Sends what is due; returns how many frames.
#[inline]
fn send(end: &mut End, pacer: &mut Pacer, start: Instant, timer: Option<&mut Timer>) -> Result<u64> {
    let due = pacer.due(start);
    if due == 0 {
        return Ok(0);
    }
    let mut posted = 0;
    if let Some(timer) = timer {
        let now = Instant::now();
        if let Some(mark) = timer.due(now)
            && end.station.probe(mark)?
        {
            timer.posted(now);
            posted = 1;
            end.posted += 1;
        }
    }
    if due > posted {
        posted += end.post(due - posted)?;
    }
    pacer.sent(posted);
    Ok(posted as u64)
}

/// Each side sends every frame of its pool once, so that switches learn where the addresses are.
fn teach(ends: &mut [End; 2]) -> Result<()> {
    let [a, b] = ends;
    for _ in 0..a.station.variety().max(b.station.variety()) {
        b.post(1)?;
        a.collect()?;
        a.post(1)?;
        b.collect()?;
    }
    drain(ends)
}

/// Takes what is still on its way. While frames are missing it waits longer for them: a switch that has to share its CPU
/// may be late.
fn drain(ends: &mut [End; 2]) -> Result<()> {
    let start = Instant::now();
    let mut quiet = start;
    let [a, b] = ends;
    loop {
        if b.collect()? | a.collect()? {
            quiet = Instant::now();
        }
        let (one, other) = (a.totals(), b.totals());
        let missing = one.posted + other.posted > one.came + other.came;
        if quiet.elapsed() >= if missing { MISSING_DRAIN } else { DRAIN } || start.elapsed() >= LONGEST_DRAIN {
            break;
        }
    }
    // Whose time is not asked for any more.
    a.checker.marks();
    b.checker.marks();
    Ok(())
}

/// Sends one frame at a time from a to b as long as `plan` says and notes how long each takes, in nanoseconds; a
/// frame that does not come within 20 ms is lost. The outcome counts them. `tell` gets what came so far about once a
/// second, between two frames.
///
/// # Errors
/// When a station fails, or no frame comes at all.
pub fn latency(
    ends: &mut [End; 2],
    plan: &Plan<'_>,
    tell: &mut dyn FnMut(Outcome),
) -> Result<(Outcome, Histogram<u64>)> {
    drain(ends)?;
    teach(ends)?;
    one_at_a_time(ends, plan, plan.warmup, &mut |_| {})?;
    let start = Instant::now();
    let (counts, times) = one_at_a_time(ends, plan, plan.length, tell)?;
    let seconds = start.elapsed().as_secs_f64();
    if times.is_empty() {
        bail!("no frame came from one station to the other");
    }
    Ok((counts.outcome(ends, seconds, times.len()), times))
}

fn one_at_a_time(
    ends: &mut [End; 2],
    plan: &Plan<'_>,
    length: Duration,
    tell: &mut dyn FnMut(Outcome),
) -> Result<(Counts, Histogram<u64>)> {
    let (mut counts, mut times) = (Counts::new(ends), histogram()?);
    let (start, mut told) = (Instant::now(), 0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length || plan.stop.load(Ordering::Relaxed) {
            return Ok((counts, times));
        }
        if elapsed.as_secs() > told {
            told = elapsed.as_secs();
            tell(counts.outcome(ends, elapsed.as_secs_f64(), times.len()));
        }
        let [a, b] = &mut *ends;
        let posted = Instant::now();
        if a.post(1)? == 0 {
            continue;
        }
        counts.sent[0] += 1;
        loop {
            if b.collect()? {
                times.saturating_record(posted.elapsed().as_nanos() as u64);
                break;
            }
            if posted.elapsed() > LATE {
                break;
            }
        }
    }
}
