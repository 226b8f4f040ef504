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
