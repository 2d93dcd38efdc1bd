//! Charts as SVG: horizontal bars, a panel for each cell.

use std::path::Path;

use harness::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::tables::value;
use crate::analysis::Sheet;
use crate::contender::Family;
use crate::metrics::{Better, Metric};

/// A file that was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chart {
    pub(crate) file: String,
    pub(crate) title: String,
}

/// Sizes in pixels.
const PANEL: (u32, u32) = (420, 40);
const ROW: u32 = 20;
const HEADING: u32 = 30;
const LABELS: i32 = 170;
const VALUES: i32 = 70;

/// Panels side by side.
const COLUMNS: usize = 2;

/// What one panel shows.
struct Panel<'a> {
    sheet: &'a Sheet<'a>,
    metric: &'static Metric,
}

/// Draws one chart for each scenario, one of the processor time of an echo, and the one of the front page.
pub(crate) fn draw(sheets: &[Sheet<'_>], folder: &Path) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    let mut add = |file: &str, title: String, panels: Vec<Panel<'_>>| -> Result<()> {
        if panels.is_empty() {
            return Ok(());
        }
        let file = format!("{file}.svg");
        chart(&folder.join(&file), &title, &panels)?;
        charts.push(Chart { file, title });
        Ok(())
    };
    add(
        "headline",
        "kolk and its peers".to_owned(),
        headline(sheets),
    )?;
    let mut names: Vec<&str> = sheets
        .iter()
        .map(|sheet| sheet.scenario.name.as_str())
        .collect();
    names.dedup();
    for name in names {
        let own = || sheets.iter().filter(|sheet| sheet.scenario.name == name);
        let Some(first) = own().next() else { continue };
        let metric = first.first_metric();
        let panels = own().map(|sheet| Panel { sheet, metric }).collect();
        add(
            name,
            format!("{}: {}", first.scenario.title, what(metric)),
            panels,
        )?;
        if let ("echo", Some(metric)) = (name, named(first, "cpu_us")) {
            let panels = own().map(|sheet| Panel { sheet, metric }).collect();
            add("echo-cpu", format!("Echo: {}", what(metric)), panels)?;
        }
    }
    Ok(charts)
}

/// What matters most to most, where it was measured.
fn headline<'a>(sheets: &'a [Sheet<'a>]) -> Vec<Panel<'a>> {
    [
        ("echo", "tcp-50x64x1", "per_second"),
        ("echo", "tcp-50x64x1", "cpu_us"),
        ("idle", "tcp-10000x64x1", "user_bytes"),
        ("broadcast", "tcp-10000x512x1", "per_second"),
    ]
    .iter()
    .filter_map(|&(scenario, cell, key)| {
        let sheet = sheets
            .iter()
            .find(|it| it.scenario.name == scenario && it.cell == cell)?;
        Some(Panel {
            sheet,
            metric: named(sheet, key)?,
        })
    })
    .collect()
}

fn named(sheet: &Sheet<'_>, key: &str) -> Option<&'static Metric> {
    sheet
        .scenario
        .load
        .metrics()
        .iter()
        .find(|metric| metric.key == key)
}

fn what(metric: &Metric) -> String {
    let better = match metric.better {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    format!("{} ({better})", metric.title)
}

fn chart(path: &Path, title: &str, panels: &[Panel<'_>]) -> Result<()> {
    let columns = COLUMNS.min(panels.len());
    let bars = panels
        .iter()
        .map(|panel| panel.sheet.rows.len() as u32)
        .max()
        .unwrap_or_default();
    let height = PANEL.1 + ROW * bars;
    let lines = panels.len().div_ceil(columns) as u32;
    let size = (PANEL.0 * columns as u32, HEADING + height * lines);
    let area = SVGBackend::new(path, size).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| {
        format!("cannot draw {}: {error}", path.display())
    };
    area.fill(&WHITE).map_err(failed)?;
    area.draw(&Text::new(
        title.to_owned(),
        (10, 8),
        ("sans-serif", 20).into_font(),
    ))
    .map_err(failed)?;
    for (place, panel) in panels.iter().enumerate() {
        let corner = (
            (PANEL.0 * (place % columns) as u32) as i32,
            (HEADING + height * (place / columns) as u32) as i32,
        );
        draw_panel(&area, corner, panel).map_err(failed)?;
    }
    area.present().map_err(failed)?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Names to the left, bars from there, and behind each its value; a line is the interval.
fn draw_panel(
    area: &Area<'_>,
    (left, top): (i32, i32),
    panel: &Panel<'_>,
) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let Panel { sheet, metric } = panel;
    let heading = format!("{} {}: {}", sheet.scenario.name, sheet.cell, what(metric));
    area.draw(&Text::new(
        heading,
        (left + 10, top + 6),
        ("sans-serif", 16).into_font().color(&BLACK.mix(0.7)),
    ))?;
    let rows: Vec<_> = sheet
        .rows
        .iter()
        .filter_map(|row| Some((row, row.estimate(metric.key)?)))
        .collect();
    let largest = rows
        .iter()
        .map(|(_, it)| it.interval.map_or(it.median, |(_, high)| high))
        .fold(0.0, f64::max);
    let width = f64::from(PANEL.0 as i32 - LABELS - VALUES);
    let from = left + LABELS;
    let x = |value: f64| from + (value / largest.max(f64::MIN_POSITIVE) * width).round() as i32;
    for (place, (row, estimate)) in rows.iter().enumerate() {
        let y = top + 26 + ROW as i32 * place as i32;
        let middle = y + ROW as i32 / 2 - 2;
        let small = ("sans-serif", 15).into_font();
        let label = small
            .clone()
            .color(&BLACK)
            .pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(
            row.contender.title.clone(),
            (from - 6, middle),
            label,
        ))?;
        let bar = [(from, y), (x(estimate.median), y + ROW as i32 - 4)];
        area.draw(&Rectangle::new(bar, colour(row.contender.family).filled()))?;
        let mut end = estimate.median;
        if let Some((low, high)) = estimate.interval {
            area.draw(&PathElement::new(
                vec![(x(low), middle), (x(high), middle)],
                BLACK.stroke_width(1),
            ))?;
            end = high.max(end);
        }
        let told = small.color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(
            value(Some(estimate.median)),
            (x(end) + 5, middle),
            told,
        ))?;
    }
    Ok(())
}

fn colour(family: Family) -> RGBColor {
    match family {
        Family::Kolk => RGBColor(0x1f, 0x77, 0xb4),
        Family::Limit => RGBColor(0xa0, 0xa0, 0xa0),
        Family::Peer => RGBColor(0xe8, 0xa0, 0x50),
    }
}
