//! The plot: frames per second by size, a line for each thing that grows.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{AXES, Results};
use crate::side::COLOURS;

/// Draws it into the SVG file `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn plot(path: &Path, results: &Results) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| anyhow!("drawing {}: {e}", path.display());
    let rates = || AXES.iter().flat_map(|(axis, list)| list.iter().map(|size| results.rate(*axis, *size)));
    let top = rates().filter(|r| r.is_finite()).fold(1.0, f64::max);
    let area = SVGBackend::new(path, (1100, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Million frames per second of one worker, 64 bytes (medians)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(50)
        .y_label_area_size(50)
        .build_cartesian_2d((1.0..70_000.0).log_scale(), 0.0..top * 1.15)
        .map_err(|e| failed(&e))?;
    chart.configure_mesh().x_desc("how many").y_desc("Mpps").draw().map_err(|e| failed(&e))?;
    for ((axis, list), colour) in AXES.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = list.iter().map(|size| (f64::from(*size), results.rate(*axis, *size))).collect();
        let points = || points.iter().copied().filter(|p| p.1.is_finite());
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))
            .map_err(|e| failed(&e))?
            .label(axis.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
        chart.draw_series(points().map(|p| Circle::new(p, 3, colour.filled()))).map_err(|e| failed(&e))?;
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}
