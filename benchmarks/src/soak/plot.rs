//! Plots as SVG: without a background and in middle tones, so that they are readable on light and dark pages.

use super::verdict::Series;
use crate::Result;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (760, 280);
/// Text, axes and grid.
const GREY: RGBColor = RGBColor(128, 128, 128);
const COLOURS: [RGBColor; 6] = [
    RGBColor(46, 134, 222),
    RGBColor(230, 126, 34),
    RGBColor(39, 174, 96),
    RGBColor(192, 57, 143),
    RGBColor(142, 125, 224),
    RGBColor(180, 150, 20),
];

/// Draws some figures over the minutes of a run; values from zero on.
pub(super) fn draw(file: &Path, title: &str, unit: &str, all: &[&Series]) -> Result<()> {
    let points = || all.iter().flat_map(|s| &s.points);
    let minutes = points().map(|p| p.0 / 60.0).fold(0.1, f64::max);
    let most = points().map(|p| p.1).fold(0.0, f64::max) * 1.25;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let text = |size: i32| TextStyle::from(("sans-serif", size)).color(&GREY);
    let failed = |e: String| format!("{}: {e}", file.display());
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{title}, {unit}"), text(15))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..minutes, 0.0..if most > 0.0 { most } else { 1.0 })
        .map_err(|e| failed(e.to_string()))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .axis_style(GREY)
        .label_style(text(12))
        .x_desc("minutes")
        .y_label_formatter(&|v| if most < 10.0 { format!("{v:.1}") } else { format!("{v:.0}") })
        .draw()
        .map_err(|e| failed(e.to_string()))?;
    for (series, colour) in all.iter().zip(COLOURS) {
        let line = series.points.iter().map(|(t, v)| (t / 60.0, *v));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))
            .map_err(|e| failed(e.to_string()))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(text(12))
        .border_style(TRANSPARENT)
        .background_style(TRANSPARENT)
        .draw()
        .map_err(|e| failed(e.to_string()))?;
    area.present().map_err(|e| failed(e.to_string()))?;
    Ok(())
}
