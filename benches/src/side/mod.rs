//! The switch beside the ones people use: the same ports, the same generator, one run, taking turns.
//!
//! ```text
//!   round 1..5:   ours --generator--> figures     testpmd --generator--> figures     OVS --generator--> figures
//!                                  \__________ medians, ratios: RESULTS.md and a plot __________/
//! ```
//!
//! Each peer is started as its packages ship it, with one core for its data path (the last CPU); the generator has
//! another (the first). A peer that cannot start is a named gap in the results.

mod figures;
mod generator;
mod guests;
mod idle;
mod iperf;
mod machine;
mod namespaces;
mod ovs;
mod peers;
mod plot;
mod process;
mod relay;
mod report;
mod works;

pub use figures::{Figures, Measured, Outcome, median};
pub use machine::{HugePages, Machine};
pub(crate) use plot::COLOURS;
pub use plot::plot;
pub use report::report;
pub use works::{Work, works};

use anyhow::Result;

use crate::lines;

/// Runs every work of `list` in `rounds` rounds, everybody once in each, and returns what was measured. `tell` gets a
/// line for each step.
///
/// # Errors
/// Only when nothing can be measured at all; a peer or work that fails is a gap.
pub fn run(list: &[Work], rounds: usize, seconds: f64, tell: &mut dyn FnMut(&str)) -> Result<Figures> {
    let mut figures = Figures::default();
    namespaces::sweep()?;
    let _pages = peers::huge_pages(list.iter().flat_map(Work::peers));
    for work in list {
        for round in 1..=rounds {
            let mut before = lines::round_trip();
            for peer in work.peers() {
                let measured = work.measure(peer, seconds);
                let after = lines::round_trip();
                figures.apart(work.id, peer.name(), round, before.into_iter().chain(after));
                before = after;
                let told = match measured {
                    Ok(outcome) => {
                        figures.add(work.id, peer.name(), round, outcome);
                        outcome.measured.to_string()
                    }
                    Err(error) => {
                        // A log's lines in one: a gap is an item of a list.
                        let why =
                            format!("{error:#}").split('\n').filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
                        figures.gap(work.id, peer.name(), &why);
                        format!("cannot: {why}")
                    }
                };
                tell(&format!("{} round {round}/{rounds}: {}: {told}", work.id, peer.name()));
            }
        }
    }
    Ok(figures)
}
