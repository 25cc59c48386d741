//! The report as a page: throughput and processor time against depth, latency, who answered.

use super::contender::SOFTWARE;
use super::report::{Accelerator, Point, Report, Side};
use crate::cli::bench::chart::{Bar, Lines, Part, Series, bars, figure};
use crate::cli::bench::figures;
use crate::cli::bench::page::{Figure, Page};

const LEAD: &str = "Single operations, those of accelerators verified before they are released. Those compared took \
    turns in one run, so what disturbed one disturbed all. Software does one operation at a time, \
    whatever the depth. The best window of each is shown, the median beside it in the tables.";

/// The page.
pub(super) fn of(report: &Report) -> Page {
    let title = "Single operations, accelerators against software";
    let mut page = Page::new(title, LEAD, &report.machine);
    for points in families(&report.points) {
        section(&mut page, points);
    }
    page.section("Who answered", &[]);
    let header = [
        "accelerator",
        "operations",
        "by card",
        "by software",
        "failed",
        "wrong, stopped",
    ];
    let rows: Vec<_> = report.accelerators.iter().map(whole_run).collect();
    page.table(
        "What accelerators were asked for in the whole run",
        &header,
        &rows,
    );
    page
}

/// Points that differ in nothing but how many operations were in flight.
fn families(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.chunk_by(|one, next| one.operation == next.operation)
}

fn section(page: &mut Page, points: &[Point]) {
    let Some(deepest) = points.iter().max_by_key(|point| point.depth) else {
        return;
    };
    let names: Vec<_> = deepest
        .sides
        .iter()
        .map(|side| side.name.as_str())
        .collect();
    page.section(&deepest.operation, &names);
    let against = |title: &str, unit, better, of| {
        let lines = against_depth(points, unit, of);
        let note = format!("{unit}, {better} is better");
        Figure::new(title, note, |label| lines.svg(label))
    };
    let mut figures = vec![
        against("Throughput", "operations/s", "higher", |side| {
            side.per_second.best
        }),
        against(
            "Processor time of this process",
            "us per operation",
            "lower",
            |side| side.cpu_us.best,
        ),
    ];
    figures.extend(points.iter().map(latency));
    page.figures(&figures);
    page.wide(&cpu(deepest));
    page.wide(&answered(deepest));
    table(page, points);
}

fn against_depth<'a>(points: &'a [Point], unit: &'a str, of: fn(&Side) -> f64) -> Lines<'a> {
    let sides = points.first().map_or(&[][..], |point| &point.sides);
    let series = |(index, side): (usize, &'a Side)| Series {
        name: &side.name,
        values: points
            .iter()
            .map(|point| point.sides.get(index).map(of))
            .collect(),
    };
    Lines {
        axis: "operations in flight",
        unit,
        places: points.iter().map(|point| point.depth.to_string()).collect(),
        series: sides.iter().enumerate().map(series).collect(),
    }
}

fn latency(point: &Point) -> Figure {
    let title = format!("Latency, {} in flight", point.depth);
    let sides = point.sides.iter();
    let sides = sides.map(|side| (side.name.as_str(), side.latency_us, side.operations));
    figures::latency(&title, "operations", "us", sides)
}

fn cpu(point: &Point) -> Figure {
    let title = format!("Processor time of an operation, {} in flight", point.depth);
    let note = "us, lower is better; in brackets how many times as much software takes";
    let bars_of_sides: Vec<_> = point.sides.iter().enumerate().map(cpu_bar).collect();
    Figure::new(title, note, |label| bars(label, &bars_of_sides))
}

fn cpu_bar((index, side): (usize, &Side)) -> Bar<'_> {
    let cpu_us = side.cpu_us.best;
    let times = side.saves.iter().find_map(|ratio| ratio.times);
    let value = match times.filter(|_| side.name != SOFTWARE) {
        Some(times) => format!("{} ({SOFTWARE}: {} x)", figure(cpu_us), figure(times)),
        None => figure(cpu_us),
    };
    Bar {
        name: &side.name,
        parts: vec![Part {
            len: cpu_us,
            colour: index,
            faint: false,
            title: format!("{} us", figure(cpu_us)),
        }],
        value,
    }
}

fn answered(point: &Point) -> Figure {
    let title = format!("Who answered, {} in flight", point.depth);
    let note = "full: accelerator, verified; faint: software";
    let sides = point.sides.iter().enumerate();
    let bars_of_sides: Vec<_> = sides
        .map(|(index, side)| side.answered.bar(index, &side.name, "operations"))
        .collect();
    Figure::new(title, note, |label| bars(label, &bars_of_sides))
}

fn table(page: &mut Page, points: &[Point]) {
    let header = [
        "where",
        "in flight",
        "operations/s",
        "median of these",
        "CPU us",
        "median of these",
        "P50 us",
        "P99 us",
        "by card",
        "by software",
        "failed",
        "wrong, stopped",
    ];
    let mut rows = Vec::new();
    for point in points {
        rows.extend(point.sides.iter().map(|side| row(point, side)));
    }
    let operation = points.first().map_or("", |point| &point.operation);
    page.table(operation, &header, &rows);
}

fn row(point: &Point, side: &Side) -> Vec<String> {
    let [p50, p99] = side.latency_us.cells(side.operations);
    vec![
        side.name.clone(),
        point.depth.to_string(),
        figure(side.per_second.best),
        figure(side.per_second.median),
        figure(side.cpu_us.best),
        figure(side.cpu_us.median),
        p50,
        p99,
        side.answered.card.to_string(),
        side.answered.software.to_string(),
        side.failed.to_string(),
        side.answered.wrong_answers.to_string(),
    ]
}

fn whole_run(accelerator: &Accelerator) -> Vec<String> {
    let requests = &accelerator.requests.requests;
    vec![
        accelerator.address.clone(),
        requests.submitted.to_string(),
        requests.card.to_string(),
        requests.software.to_string(),
        requests.refused.to_string(),
        requests.wrong_answers.to_string(),
    ]
}
