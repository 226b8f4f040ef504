//! The page from given rounds.

use super::super::{Measured, Outcome, works};
use super::*;

fn machine() -> Machine {
    Machine { cpu: "Test CPU".to_owned(), cpus: 2, kernel: "6.0".to_owned() }
}

fn work(id: &str) -> Work {
    works().into_iter().find(|w| w.id == id).expect("a work of that name")
}

fn add(figures: &mut Figures, id: &str, peer: &str, rounds: &[Measured]) {
    for (round, measured) in rounds.iter().enumerate() {
        figures.add(id, peer, round, Outcome { measured: *measured, accounted: true });
    }
}

fn mpps(rounds: &[f64]) -> Vec<Measured> {
    rounds.iter().map(|v| Measured::Mpps(*v)).collect()
}

/// The lines of a chapter of the page that start so.
fn lines<'p>(page: &'p str, chapter: &str, start: &str) -> Vec<&'p str> {
    let (_, rest) = page.split_once(chapter).expect("the chapter");
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest[..end].lines().filter(|l| l.starts_with(start)).collect()
}

#[test]
fn rows_hold_medians_and_the_median_of_the_ratios() {
    let mut figures = Figures::default();
    add(&mut figures, "wire-64", "vswitch", &mpps(&[30.0, 10.0, 22.0]));
    add(&mut figures, "wire-64", "testpmd", &mpps(&[10.0, 8.0, 40.0]));
    add(&mut figures, "one-64", "vswitch", &mpps(&[8.5, 9.5]));
    add(&mut figures, "one-64", "OVS-DPDK", &mpps(&[5.0]));
    for (round, theirs) in [90, 90, 400].into_iter().enumerate() {
        for (who, ns) in [("vswitch", 90), ("testpmd", theirs)] {
            figures.apart("wire-64", who, round, [std::time::Duration::from_nanos(ns)]);
        }
    }
    let page = report(&[work("wire-64"), work("one-64")], &figures, 3, 0.5, &machine());
    assert!(
        page.contains("Medians of 3 rounds of 0.5 s")
            && page.contains("Test CPU (2 CPUs), Linux 6.0. Before each turn a cache line took 90 to 400 ns"),
        "{page}"
    );
    assert_eq!(
        lines(&page, "# Side by side", "| wire-64"),
        [
            "| wire-64: virtio-virtio, 64 B, one flow | 22.00 Mpps (vswitch) | testpmd: 10.00 Mpps | 2.12 (2 of 3) | 1.1 | reached |"
        ]
    );
    // In the third round the CPUs were not as far apart for both. The mean of two in the middle; a round that only one gave a figure in has no ratio.
    assert_eq!(
        lines(&page, "# Side by side", "| one-64"),
        [
            "| one-64: virtio-virtio, 64 B, one flow | 9.00 Mpps (vswitch) | OVS-DPDK: 5.00 Mpps | 1.70 | 1.7 | reached |"
        ]
    );
    let ranges = lines(&page, "## Lowest and highest", "| wire-64");
    assert_eq!(
        ranges,
        ["| wire-64 | vswitch | 10.00 | 30.00 | 90 to 90 |", "| wire-64 | testpmd | 8.00 | 40.00 | 90 to 400 |"]
    );
    assert_eq!(lines(&page, "## Gaps", "None"), ["None: everybody did everything."]);
    assert!(page.contains("After 5 of the 5 runs of vswitch"), "{page}");
}

/// Every figure of a work must reach the goal, and where less is better it must stay below.
#[test]
fn what_is_reached_is_told_by_each_figure() {
    let cases = [
        ("one-64", vec![Measured::Mpps(1.69)], vec![Measured::Mpps(1.0)], "1.69", "**not reached**"),
        ("latency", vec![Measured::Latency(0.7, 1.6)], vec![Measured::Latency(1.0, 2.0)], "0.70, 0.80", "reached"),
        (
            "latency",
            vec![Measured::Latency(0.7, 1.7)],
            vec![Measured::Latency(1.0, 2.0)],
            "0.70, 0.85",
            "**not reached**",
        ),
        ("idle", vec![Measured::Cpu(3.0)], vec![Measured::Cpu(100.0)], "0.03", "**not reached**"),
        ("idle", vec![], vec![Measured::Cpu(100.0)], "", "not measured"),
        ("idle", vec![Measured::Cpu(3.0)], vec![], "", "not measured"),
    ];
    for (id, ours, theirs, ratio, verdict) in cases {
        let (work, mut figures) = (work(id), Figures::default());
        add(&mut figures, id, "vswitch", &ours);
        add(&mut figures, id, "OVS-DPDK", &theirs);
        let goal = work.goal(Peer::Ovs(super::super::peers::Ports::Virtio)).expect("a goal");
        let page = report(&[work], &figures, 1, 1.0, &machine());
        let row = lines(&page, "# Side by side", &format!("| {id}:"));
        let row = row.iter().find(|r| r.contains("OVS-DPDK:")).expect("a row against it");
        assert!(row.ends_with(&format!("| {ratio} | {goal} | {verdict} |\n").trim_end()), "{row}");
    }
}

/// Who cannot do a work is named in it with why, on one line and without a guest's console; what the others did is there.
#[test]
fn a_gap_is_named_with_its_reason() {
    let mut figures = Figures::default();
    add(&mut figures, "wire-64", "vswitch", &mpps(&[20.0]));
    add(&mut figures, "cold-64", "vswitch", &mpps(&[20.0]));
    add(&mut figures, "cold-64", "testpmd", &mpps(&[10.0]));
    figures.gap("wire-64", "testpmd", "dpdk-testpmd ended (exit status: 1): no huge pages; -- console: \u{1b}[0m boot");
    figures.gap("cold-64", "vswitch", "frames are not all accounted for: a: 1 in is not 0 out");
    let page = report(&[work("wire-64"), work("cold-64")], &figures, 1, 1.0, &machine());
    assert_eq!(
        lines(&page, "## Gaps", ""),
        [
            "",
            "",
            "* wire-64: testpmd: dpdk-testpmd ended (exit status: 1): no huge pages",
            "* cold-64: vswitch: frames are not all accounted for: a: 1 in is not 0 out",
        ],
        "{page}"
    );
    let row = lines(&page, "# Side by side", "| wire-64");
    assert_eq!(
        row,
        ["| wire-64: virtio-virtio, 64 B, one flow | 20.00 Mpps (vswitch) | testpmd: - |  | 1.1 | not measured |"]
    );
    assert_eq!(lines(&page, "## Lowest and highest", "| wire-64"), ["| wire-64 | vswitch | 20.00 | 20.00 | - |"]);
}

/// Runs after which the sums did not hold are not among those after which they did.
#[test]
fn sums_that_were_not_asked_for_do_not_count() {
    let mut figures = Figures::default();
    for (round, accounted) in [true, false, true].into_iter().enumerate() {
        figures.add("one-64", "vswitch", round, Outcome { measured: Measured::Mpps(1.0), accounted });
        figures.add("one-64", "OVS-DPDK", round, Outcome { measured: Measured::Mpps(1.0), accounted: false });
    }
    let page = report(&[work("one-64")], &figures, 3, 1.0, &machine());
    assert!(page.contains("After 2 of the 3 runs of vswitch above every frame"), "{page}");
}
