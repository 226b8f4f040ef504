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
mod idle;
mod machine;
mod peers;
mod plot;
mod process;
mod report;
mod works;

pub use figures::{Figures, Measured};
pub use machine::{HugePages, Machine};
pub use peers::HUGE_PAGES;
pub use plot::plot;
pub use report::report;
pub use works::{Work, works};

use anyhow::Result;

/// Runs every work of `list` in `rounds` rounds, everybody once in each, and returns what was measured. `tell` gets a
/// line for each step.
///
/// # Errors
/// Only when nothing can be measured at all; a peer or work that fails is a gap.
pub fn run(list: &[Work], rounds: usize, seconds: f64, tell: &mut dyn FnMut(&str)) -> Result<Figures> {
    let mut figures = Figures::default();
    for work in list {
        for round in 1..=rounds {
            for peer in work.peers() {
                let told = match work.measure(peer, seconds) {
                    Ok(measured) => {
                        let told = measured.to_string();
                        figures.add(work.id, peer.name(), measured);
                        told
                    }
                    Err(error) => {
                        figures.gap(work.id, peer.name(), &format!("{error:#}"));
                        format!("cannot: {error:#}")
                    }
                };
                tell(&format!("{} round {round}/{rounds}: {}: {told}", work.id, peer.name()));
            }
        }
    }
    Ok(figures)
}
