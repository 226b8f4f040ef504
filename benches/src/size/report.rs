//! `SIZE.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use super::{AXES, Axis, Case};
use crate::lines;
use crate::side::{Machine, median};

/// Nanoseconds of each run by case, and instructions where they were counted.
#[derive(Debug, Default)]
pub struct Results {
    nanoseconds: BTreeMap<(&'static str, u32), Vec<f64>>,
    instructions: BTreeMap<(&'static str, u32), f64>,
    /// Runs after which a frame was missing.
    pub unaccounted: usize,
}

impl Results {
    /// Adds a run.
    pub fn add(&mut self, case: Case, nanoseconds: f64) {
        self.nanoseconds.entry((case.axis.name(), case.size)).or_default().push(nanoseconds);
    }

    /// Sets the instructions per frame.
    pub fn set_instructions(&mut self, case: Case, instructions: f64) {
        self.instructions.insert((case.axis.name(), case.size), instructions);
    }

    /// Million frames per second: the median.
    pub fn rate(&self, axis: Axis, size: u32) -> f64 {
        self.nanoseconds.get(&(axis.name(), size)).map_or(f64::NAN, |all| 1000.0 / median(all.clone()))
    }

    /// The median over rounds of the ratio to the smallest of the axis.
    pub fn ratio(&self, axis: Axis, size: u32, to: (Axis, u32)) -> f64 {
        let get = |axis: Axis, size| self.nanoseconds.get(&(axis.name(), size)).cloned().unwrap_or_default();
        median(get(to.0, to.1).iter().zip(get(axis, size)).map(|(smallest, this)| smallest / this).collect())
    }
}

/// The page about sizes.
pub fn sizes(results: &Results, rounds: usize, frame: usize) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Million frames of {} bytes per second of one worker's time inside its turns, from virtio ring to virtio ring (guests \
         played in the same process, their part not counted), VLANs on, the full pipeline. Medians of {rounds} rounds that go \
         round all sizes; ratios are the medians of each round's.\n",
        frame + 4
    );
    text += "| what grows | size | Mpps | to the smallest | within 15 % | instructions per frame |\n|---|---|---|---|---|---|\n";
    for (axis, list) in AXES {
        for size in list {
            let ratio = results.ratio(axis, *size, (axis, list[0]));
            let good = if axis == Axis::Memory {
                ""
            } else if ratio >= 0.85 {
                "yes"
            } else {
                "no"
            };
            let count = results.instructions.get(&(axis.name(), *size));
            let count = count.map_or("-".to_owned(), |n| format!("{n:.0}"));
            let rate = results.rate(axis, *size);
            let _ = writeln!(text, "| {} | {size} | {rate:.2} | {ratio:.2} | {good} | {count} |", axis.name());
        }
    }
    text += "\n";
    for size in AXES[1].1 {
        let ratio = results.ratio(Axis::Busy, *size, (Axis::Memory, *size));
        let _ = writeln!(text, "* {size} busy ports against one pair with as much memory: {ratio:.2}");
    }
    text += "\n![frames per second by size](size.svg)\n\n";
    text += "How it is spread: silent ports are connected and their rings empty. Busy ports (rings of 64) send a burst to their \
             neighbour and get one, in every turn; what their rings and buffers take of the cache is shown by one pair with rings so \
             long that they are as many bytes. Addresses lie behind 16 learning ports, evenly, 4096 behind each at most, and all 16 \
             send, no two neighbouring frames alike. VLANs are used in turn by a pair of trunk (VGT) ports, a tag in every frame, of another \
             priority each, so that here, too, no two neighbours are alike. Port groups: four, but for the trunks. Instructions by callgrind, inside the turns.\n\n";
    let _ =
        writeln!(text, "Runs after which a frame was missing from the sums (invariant 2): {}.", results.unaccounted);
    text + &machine(&[])
}

/// A row of the page about workers: the work, frame bytes, rates with one and two, ratio, goal.
pub type Workers<'w> = (&'w str, usize, f64, f64, f64, Option<f64>);

/// What is said of a run of two workers as a whole.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Rounds.
    pub rounds: usize,
    /// Runs after which a frame was missing.
    pub missing: usize,
    /// The part of the time in which both workers were at work, of 1.
    pub together: f64,
    /// Round trips of a cache line between the CPUs.
    pub trips: Vec<Duration>,
}

/// The page about workers.
pub fn workers(rows: &[Workers<'_>], how: &Measured) -> String {
    let mut text = format!(
        "Million frames per second of the time in which the workers forward, one pinned to each CPU. The machine has no CPU left for a \
         generator, so each worker's thread plays its own guests, between batches of 16 turns. Both begin a batch together; each \
         one's frames are divided by the time it took for them itself, so neither the generators' share of the cores nor the wait \
         for the other is in it. Of the time from the first's begin to the last's end, both were at work in {:.0} % (median). \
         Medians of {} rounds, ratios of each round. \"Apart\" is two switches with one worker each, which share nothing: what \
         the machine itself allows.\n\n| work | frame | one worker | two | ratio | to reach | |\n|---|---|---|---|---|---|---|\n",
        how.together * 100.0,
        how.rounds
    );
    for (work, frame, one, two, ratio, goal) in rows {
        let (goal, good) =
            goal.map_or((String::new(), ""), |g| (g.to_string(), if *ratio >= g { "yes" } else { "no" }));
        let _ = writeln!(text, "| {work} | {} | {one:.2} | {two:.2} | {ratio:.2} | {goal} | {good} |", frame + 4);
    }
    let _ = writeln!(text, "\nRuns after which a frame was missing from the sums (invariant 2): {}.", how.missing);
    text + &machine(&how.trips)
}

fn machine(trips: &[Duration]) -> String {
    let Machine { cpu, cpus, kernel } = Machine::this();
    format!("\nMachine: {cpu} ({cpus} CPUs), Linux {kernel}.{}\n", lines::sentence(trips, "round"))
}

/// Puts the chapter `title` into the page at `path`, in the place of an earlier one of that title.
///
/// # Errors
/// When the file cannot be written.
pub fn put(path: &Path, title: &str, text: &str) -> io::Result<()> {
    fs::write(path, with_chapter(&fs::read_to_string(path).unwrap_or_default(), title, text))
}

fn with_chapter(page: &str, title: &str, text: &str) -> String {
    let new = format!("# {title}\n\n{}\n", text.trim_end());
    let mut chapters: Vec<String> = Vec::new();
    for line in page.lines() {
        if line.starts_with("# ") || chapters.is_empty() {
            chapters.push(String::new());
        }
        if let Some(last) = chapters.last_mut() {
            *last += &format!("{line}\n");
        }
    }
    match chapters.iter_mut().find(|c| c.lines().next() == Some(&format!("# {title}"))) {
        Some(old) => *old = new,
        None => chapters.push(new),
    }
    chapters.iter().map(|c| c.trim_end()).collect::<Vec<_>>().join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_are_replaced_by_title() {
        let page = with_chapter(&with_chapter("", "A", "one"), "B", "two");
        assert_eq!(page, "# A\n\none\n\n# B\n\ntwo\n");
        assert_eq!(with_chapter(&page, "A", "three\n"), "# A\n\nthree\n\n# B\n\ntwo\n");
    }
}
