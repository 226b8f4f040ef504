//! `RESULTS.md`.

use std::fmt::Write as _;

use super::peers::Peer;
use super::{Figures, Machine, Work};
use crate::lines;

/// The results as a page: a row for each work, medians, ratio, and whether it is reached; the gaps; the versions.
pub fn report(list: &[Work], figures: &Figures, rounds: usize, seconds: f64, machine: &Machine) -> String {
    let mut text = String::from("# Side by side\n\n");
    let _ = writeln!(
        text,
        "Medians of {rounds} rounds of {seconds} s; everybody once in each round, on the same ports, by the same \
         generator, one core for the switch and one for the generator. A ratio is the median of those of the rounds; where \
         the machine's CPUs were more than twice as far apart for one as for the other in some rounds, of the others, and it says \
         of how many (0: it was so in all, and it is of all). `make bench` wrote this page.\n"
    );
    let Machine { cpu, cpus, kernel } = machine;
    let _ =
        writeln!(text, "Machine: {cpu} ({cpus} CPUs), Linux {kernel}.{}\n", lines::sentence(&figures.trips(), "turn"));
    text += "| work | vswitch | against | ratio | to reach | |\n|---|---|---|---|---|---|\n";
    for work in list {
        for row in rows(work, figures) {
            text += &row;
        }
    }
    text += "\n![frames per second](results.svg)\n\n## Lowest and highest\n\n| work | who | lowest | highest | a line's round trip, ns |\n|---|---|---|---|---|\n";
    for work in list {
        for peer in work.peers() {
            if let Some((low, high)) = figures.range(work.id, peer.name()) {
                let trips = figures.trips_of(work.id, peer.name());
                let trips = trips.map_or("-".to_owned(), |(a, b)| format!("{} to {}", a.as_nanos(), b.as_nanos()));
                let _ = writeln!(text, "| {} | {} | {low:.2} | {high:.2} | {trips} |", work.id, peer.name());
            }
        }
    }
    text += "\n## Gaps\n\n";
    let mut gaps = 0;
    for work in list {
        for peer in work.peers() {
            if let Some(why) = figures.gap_of(work.id, peer.name()) {
                // A guest's console belongs into the log, not on the page.
                let why = why.split("; -- ").next().unwrap_or(why);
                let _ = writeln!(text, "* {}: {}: {why}", work.id, peer.name());
                gaps += 1;
            }
        }
    }
    if gaps == 0 {
        text += "None: everybody did everything.\n";
    }
    text += "\n## Every frame accounted for\n\n";
    text += &accounted(list, figures);
    text += "\n## Versions\n\n";
    let mut seen = Vec::new();
    for (what, version) in list.iter().flat_map(Work::peers).map(Peer::version) {
        if !seen.contains(&what) {
            let _ = writeln!(text, "* {what}: {version}");
            seen.push(what);
        }
    }
    text
}

/// A row for each of our kinds of port (most works have one) and each peer.
fn rows(work: &Work, figures: &Figures) -> Vec<String> {
    let show = |m: &[(&str, f64)]| match m {
        [] => "-".to_owned(),
        all => all.iter().map(|(unit, v)| format!("{v:.2} {unit}")).collect::<Vec<_>>().join(", "),
    };
    let mut rows = Vec::new();
    for own in work.ours() {
        for peer in work.others() {
            let (mine, theirs) = (figures.medians(work.id, own.name()), figures.medians(work.id, peer.name()));
            let ratios = figures.ratios(work.id, own.name(), peer.name());
            let shown = ratios.iter().map(|r| format!("{r:.2}")).collect::<Vec<_>>().join(", ");
            let of = match figures.rounds_alike(work.id, own.name(), peer.name()) {
                (alike, all) if alike < all => format!(" ({alike} of {all})"),
                _ => String::new(),
            };
            let goal = work.goal(peer);
            let verdict = match (goal, ratios.as_slice()) {
                (None, _) => "",
                (Some(_), []) => "not measured",
                (Some(goal), all) if all.iter().all(|r| if work.lower { *r <= goal } else { *r >= goal }) => "reached",
                (Some(_), _) => "**not reached**",
            };
            rows.push(format!(
                "| {}: {} | {} ({}) | {}: {} | {} | {} | {verdict} |\n",
                work.id,
                work.title,
                show(&mine),
                own.name(),
                peer.name(),
                show(&theirs),
                shown + &of,
                goal.map_or(String::new(), |g| g.to_string()),
            ));
        }
    }
    rows
}

/// After how many runs of ours the sum of invariant 2 held.
fn accounted(list: &[Work], figures: &Figures) -> String {
    let (mut runs, mut sums) = (0, 0);
    for work in list {
        for own in work.peers().into_iter().filter(|p| matches!(p, Peer::Own(_))) {
            let (all, held) = figures.runs(work.id, own.name());
            runs += all;
            sums += held;
        }
    }
    format!(
        "After {sums} of the {runs} runs of vswitch above every frame was accounted for: what came in was what went \
         out and what was dropped, by reason, on every port (invariant 2). A run after which it did not hold gives no \
         figure, and is a gap.\n"
    )
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
