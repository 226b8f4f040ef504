//! One run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use super::Station;
use super::load::FCS;

/// Frames posted at a time.
const BATCH: usize = 32;
/// Turns between looks at the clock.
const TURNS: u32 = 64;
/// How long frames may be on their way after the last was sent.
const DRAIN: Duration = Duration::from_millis(100);
/// A port on which others' frames keep coming is not waited for longer than this.
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
/// One frame at a time is lost when it has not come by then.
const LATE: Duration = Duration::from_millis(20);

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// Frames per second, in each direction.
    Pps(f64),
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
}

/// Sends from `a` to `b` (and back, if `both`) for `length` after `warmup`. `tell` gets what came so far about once a
/// second.
///
/// # Errors
/// When a station fails.
pub fn run(
    stations: [&mut dyn Station; 2],
    both: bool,
    rate: Rate,
    warmup: Duration,
    length: Duration,
    tell: &mut dyn FnMut(Outcome),
) -> Result<Outcome> {
    let [a, b] = stations;
    let mut counts = Counts::default();
    let mut pacer = Pacer::new(rate);
    // What was on its way before counts for nobody.
    drain(a, b, &mut Counts::default())?;
    teach(a, b)?;
    pump(a, b, both, &mut pacer, warmup, &mut counts, &mut |_| {})?;
    drain(a, b, &mut counts)?;
    let mut counts = Counts::default();
    let mut pacer = Pacer::new(rate);
    let start = Instant::now();
    pump(a, b, both, &mut pacer, length, &mut counts, tell)?;
    let seconds = start.elapsed().as_secs_f64();
    // Frames that came after the end still came, but took no part in the rate.
    let on_time = counts.received;
    drain(a, b, &mut counts)?;
    Ok(counts.outcome(seconds, on_time))
}

#[derive(Clone, Copy, Default)]
struct Counts {
    sent: u64,
    received: u64,
    bytes: u64,
}

impl Counts {
    /// Takes what has come; true when anything has.
    #[inline]
    fn collect(&mut self, station: &mut dyn Station) -> Result<bool> {
        let came = station.take()?;
        self.received += came.frames;
        self.bytes += came.bytes;
        Ok(came.frames > 0)
    }

    fn outcome(self, seconds: f64, on_time: u64) -> Outcome {
        Outcome { sent: self.sent, received: self.received, bytes: self.bytes, seconds, on_time }
    }
}

fn pump(
    a: &mut dyn Station,
    b: &mut dyn Station,
    both: bool,
    pacer: &mut Pacer,
    length: Duration,
    counts: &mut Counts,
    tell: &mut dyn FnMut(Outcome),
) -> Result<()> {
    let start = Instant::now();
    let mut told = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            return Ok(());
        }
        if elapsed.as_secs() > told {
            told = elapsed.as_secs();
            tell(counts.outcome(elapsed.as_secs_f64(), counts.received));
        }
        for _ in 0..TURNS {
            let due = pacer.due(start);
            if due > 0 {
                let posted = a.post(due.min(BATCH))?;
                if both {
                    counts.sent += b.post(posted)? as u64;
                }
                counts.sent += posted as u64;
                pacer.sent(posted);
            }
            counts.collect(b)?;
            counts.collect(a)?;
        }
    }
}

/// Each side sends every frame of its pool once, so that switches learn where the addresses are.
fn teach(a: &mut dyn Station, b: &mut dyn Station) -> Result<()> {
    for _ in 0..a.variety().max(b.variety()) {
        b.post(1)?;
        a.take()?;
        a.post(1)?;
        b.take()?;
    }
    drain(a, b, &mut Counts::default())
}

/// Takes what is still on its way.
fn drain(a: &mut dyn Station, b: &mut dyn Station, counts: &mut Counts) -> Result<()> {
    let start = Instant::now();
    let mut quiet = start;
    while quiet.elapsed() < DRAIN && start.elapsed() < LONGEST_DRAIN {
        if counts.collect(b)? | counts.collect(a)? {
            quiet = Instant::now();
        }
    }
    Ok(())
}

/// Says how many frames are due.
struct Pacer {
    rate: Rate,
    sent: u64,
}

impl Pacer {
    fn new(rate: Rate) -> Pacer {
        Pacer { rate, sent: 0 }
    }

    #[inline]
    fn due(&self, start: Instant) -> usize {
        match self.rate {
            Rate::Max => BATCH,
            Rate::Pps(pps) => {
                let wanted = (start.elapsed().as_secs_f64() * pps) as u64;
                wanted.saturating_sub(self.sent) as usize
            }
        }
    }

    fn sent(&mut self, count: usize) {
        self.sent += count as u64;
    }
}

/// Sends one frame at a time from `a` to `b` for `length` and notes how long each takes, in nanoseconds; a frame that
/// does not come within 20 ms is lost. Returns how many were.
///
/// # Errors
/// When a station fails, or no frame comes at all.
pub fn latency(a: &mut dyn Station, b: &mut dyn Station, length: Duration) -> Result<(Histogram<u64>, u64)> {
    drain(a, b, &mut Counts::default())?;
    teach(a, b)?;
    let (mut histogram, mut lost) = (Histogram::new(3)?, 0);
    let start = Instant::now();
    while start.elapsed() < length {
        let sent = Instant::now();
        if a.post(1)? == 0 {
            continue;
        }
        loop {
            if b.take()?.frames > 0 {
                histogram.saturating_record(sent.elapsed().as_nanos() as u64);
                break;
            }
            if sent.elapsed() > LATE {
                lost += 1;
                break;
            }
        }
    }
    if histogram.is_empty() {
        bail!("no frame came from one station to the other");
    }
    Ok((histogram, lost))
}
