//! The plot: ours and the peers', side by side for each work.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Figures, Work};

pub(crate) const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(127, 127, 127),
];

/// Draws the frame rates of the works in `list` into the SVG file `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn plot(path: &Path, list: &[Work], figures: &Figures) -> Result<()> {
    // Those on sockets: what goes through the kernel is too slow to be seen beside them.
    let shown: Vec<&Work> =
        list.iter().filter(|w| figures.medians(w.id, "vswitch").first().is_some_and(|m| m.0 == "Mpps")).collect();
    let mut names: Vec<&str> = Vec::new();
    for peer in shown.iter().flat_map(|w| w.peers()) {
        if !names.contains(&peer.name()) {
            names.push(peer.name());
        }
    }
    let value = |work: &Work, name: &str| figures.medians(work.id, name).first().map_or(0.0, |m| m.1);
    let top = shown.iter().flat_map(|w| names.iter().map(|n| value(w, n))).fold(1.0, f64::max);
    let area = SVGBackend::new(path, (1100, 480)).into_drawing_area();
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let width = shown.len().max(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("Million frames per second, one core (medians)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(60)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..width, 0.0..top * 1.15)
        .map_err(|e| failed(&e))?;
    let label = |x: &f64| shown.get(*x as usize).map_or(String::new(), |w| w.id.to_owned());
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(shown.len() * 2 + 1)
        .x_label_formatter(&|x| if (x.fract() - 0.5).abs() < 0.01 { label(x) } else { String::new() })
        .y_desc("Mpps")
        .draw()
        .map_err(|e| failed(&e))?;
    let bar = 0.8 / names.len().max(1) as f64;
    for (n, name) in names.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let bars = shown.iter().enumerate().map(|(w, work)| {
            let left = w as f64 + 0.1 + bar * n as f64;
            Rectangle::new([(left, 0.0), (left + bar * 0.9, value(work, name))], colour.filled())
        });
        chart
            .draw_series(bars)
            .map_err(|e| failed(&e))?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::super::{Measured, Outcome, works};
    use super::*;

    /// The texts of a drawing whose elements are closed in order and whose text and attributes hold no bare mark-up.
    fn texts(svg: &str) -> Vec<String> {
        let (mut open, mut texts) = (Vec::new(), Vec::new());
        let (before, mut rest) = svg.split_once('<').expect("an element");
        assert!(before.trim().is_empty(), "{before}");
        loop {
            let (tag, after) = rest.split_once('>').expect("an end of the tag");
            let (tag, single) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
            } else {
                let mut words = tag.split('"');
                let name = words.next().and_then(|w| w.split_whitespace().next()).expect("a name");
                assert!(tag.matches('"').count() % 2 == 0 && !tag.contains('<'), "{tag}");
                if !single {
                    open.push(name);
                }
            }
            let (text, next) = after.split_once('<').map_or((after, None), |(text, next)| (text, Some(next)));
            assert!(!text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").contains('&'), "{text}");
            if !text.trim().is_empty() {
                assert_eq!(open.last(), Some(&"text"), "{text}");
                texts.push(text.trim().to_owned());
            }
            match next {
                Some(next) => rest = next,
                None => break,
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        texts
    }

    /// Every work whose figure is a frame rate of ours has its name on the axis, however many there are; every peer of
    /// theirs is in the legend; and a peer that gave nothing leaves the rest as it is.
    #[test]
    fn every_work_and_peer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("results.svg");
        let all = works();
        for count in 0..=all.len() {
            let (list, mut figures) = (&all[..count], Figures::default());
            for (n, work) in list.iter().enumerate() {
                let rate = |part: f64| if work.lower { Measured::Cpu(part) } else { Measured::Mpps(30.0 * part) };
                let measured = |part| Outcome { measured: rate(part), accounted: true };
                figures.add(work.id, "vswitch", 1, measured(1.0));
                // Every other work's peers gave nothing.
                for peer in work.others().into_iter().filter(|_| n % 2 == 0) {
                    figures.add(work.id, peer.name(), 1, measured(0.5));
                }
            }
            plot(&file, list, &figures).unwrap();
            let texts = texts(&std::fs::read_to_string(&file).unwrap());
            assert_eq!(texts.iter().filter(|t| t.contains("Million frames")).count(), 1, "{texts:?}");
            for work in list {
                let shown = texts.iter().filter(|t| *t == work.id).count();
                assert_eq!(shown, usize::from(!work.lower), "{} among {count}: {texts:?}", work.id);
                for peer in work.peers().iter().filter(|_| !work.lower) {
                    assert!(texts.iter().any(|t| t == peer.name()), "{}: {texts:?}", peer.name());
                }
            }
        }
    }

    /// Bars are as high as what was measured: the second is half of the first.
    #[test]
    fn bars_are_medians() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("results.svg");
        let list: Vec<Work> = works().into_iter().filter(|w| w.id == "wire-64").collect();
        let mut figures = Figures::default();
        for (name, rounds) in [("vswitch", [1.0, 20.0, 900.0]), ("testpmd", [0.5, 10.0, 11.0])] {
            for (round, v) in rounds.into_iter().enumerate() {
                figures.add("wire-64", name, round, Outcome { measured: Measured::Mpps(v), accounted: true });
            }
        }
        plot(&file, &list, &figures).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        let height = |colour: &str| -> f64 {
            let bar = svg.lines().find(|l| l.starts_with("<rect") && l.contains(colour)).expect("a bar");
            let value = bar.split_once(" height=\"").and_then(|(_, rest)| rest.split_once('"'));
            value.and_then(|(value, _)| value.parse().ok()).expect("a height")
        };
        let (ours, theirs) = (height("#1F77B4"), height("#FF7F0E"));
        assert!(ours > 200.0 && (ours / theirs - 2.0).abs() < 0.05, "{ours} {theirs}");
    }
}
