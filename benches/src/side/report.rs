//! `RESULTS.md`.

use std::fmt::Write as _;

use super::peers::Peer;
use super::{Figures, Machine, Work};

/// The results as a page: a row for each work, medians, ratio, and whether it is reached; the gaps; the versions.
pub fn report(list: &[Work], figures: &Figures, rounds: usize, seconds: f64, machine: &Machine) -> String {
    let mut text = String::from("# Side by side\n\n");
    let _ = writeln!(
        text,
        "Medians of {rounds} rounds of {seconds} s; everybody once in each round, on the same ports, by the same \
         generator, one core for the switch and one for the generator. `make bench` wrote this page.\n"
    );
    let _ = writeln!(text, "Machine: {} ({} CPUs), Linux {}.\n", machine.cpu, machine.cpus, machine.kernel);
    text += "| work | vswitch | against | ratio | to reach | |\n|---|---|---|---|---|---|\n";
    for work in list {
        for row in rows(work, figures) {
            text += &row;
        }
    }
    text += "\n![frames per second](results.svg)\n\n## Lowest and highest\n\n| work | who | lowest | highest |\n|---|---|---|---|\n";
    for work in list {
        for peer in work.peers() {
            if let Some((low, high)) = figures.range(work.id, peer.name()) {
                let _ = writeln!(text, "| {} | {} | {low:.2} | {high:.2} |", work.id, peer.name());
            }
        }
    }
    text += "\n## Gaps\n\n";
    let mut gaps = 0;
    for work in list {
        for peer in work.peers() {
            if let Some(why) = figures.gap_of(work.id, peer.name()) {
                let _ = writeln!(text, "* {}: {}: {why}", work.id, peer.name());
                gaps += 1;
            }
        }
    }
    if gaps == 0 {
        text += "None: everybody did everything.\n";
    }
    text += "\n## Versions\n\n";
    let mut seen: Vec<Peer> = Vec::new();
    for peer in list.iter().flat_map(Work::peers) {
        if !seen.iter().any(|p| p.name() == peer.name()) {
            seen.push(peer);
            let _ = writeln!(text, "* {}: {}", peer.name(), peer.version());
        }
    }
    text
}

/// A row for each of our drivers (most works have one) and each peer.
fn rows(work: &Work, figures: &Figures) -> Vec<String> {
    let peers = work.peers();
    let target = work.target.0;
    let ours = |p: &Peer| matches!(p, Peer::Own(_)) && *p != target;
    let mut rows = Vec::new();
    for own in peers.iter().filter(|p| ours(p)) {
        for peer in peers.iter().filter(|p| !ours(p)) {
            let (mine, theirs) = (figures.medians(work.id, own.name()), figures.medians(work.id, peer.name()));
            let show = |m: &[(&str, f64)]| match m {
                [] => "-".to_owned(),
                all => all.iter().map(|(unit, v)| format!("{v:.2} {unit}")).collect::<Vec<_>>().join(", "),
            };
            let ratios: Vec<f64> = mine.iter().zip(&theirs).map(|(a, b)| a.1 / b.1).collect();
            let shown: Vec<String> = ratios.iter().map(|r| format!("{r:.2}")).collect();
            let (goal, verdict) = if *peer == target {
                let reached = |r: &f64| if work.lower { *r <= work.target.1 } else { *r >= work.target.1 };
                let verdict = match ratios.as_slice() {
                    [] => "not measured",
                    all if all.iter().all(reached) => "reached",
                    _ => "**not reached**",
                };
                (work.target.1.to_string(), verdict)
            } else {
                (String::new(), "")
            };
            rows.push(format!(
                "| {}: {} | {} ({}) | {}: {} | {} | {goal} | {verdict} |\n",
                work.id,
                work.title,
                show(&mine),
                own.name(),
                peer.name(),
                show(&theirs),
                shown.join(", ")
            ));
        }
    }
    rows
}
