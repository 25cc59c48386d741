//! The report as a page: rates, processor time and latency of each operation, and who answered.

use super::measure::Measured;
use super::{Comparison, Report};
use crate::cli::bench::chart::{Bar, Lines, Part, Series, bars, figure};
use crate::cli::bench::page::{Figure, Page};
use crate::cli::bench::{NOT_TOLD, PERCENTILES, told};

const LEAD: &str = "Single operations, those of the accelerator verified before they are released. Accelerator and \
    software took turns in one run, so what disturbed one disturbed the other.";

/// The page.
pub(super) fn of(report: &Report) -> Page {
    let title = format!("{} against software", report.address);
    let mut page = Page::new(&title, LEAD, &report.machine);
    for comparison in &report.operations {
        section(&mut page, comparison, &report.address);
    }
    page.section("Who answered", &[]);
    let header = [
        "operation",
        "operations",
        "by card",
        "by software",
        "failed",
        "wrong, stopped",
    ];
    let caption = format!("What {} was asked for", report.address);
    page.table(&caption, &header, &answered(report));
    page
}

/// By operation, and of the whole run.
fn answered(report: &Report) -> Vec<Vec<String>> {
    let of_one = |Comparison {
                      operation,
                      accelerator,
                      ..
                  }: &Comparison| {
        vec![
            operation.clone(),
            accelerator.operations.to_string(),
            accelerator.answered_by_card.to_string(),
            accelerator.answered_by_software.to_string(),
            accelerator.failed.to_string(),
            // Counted for the run only.
            String::new(),
        ]
    };
    let mut rows: Vec<_> = report.operations.iter().map(of_one).collect();
    let requests = &report.requests.requests;
    rows.push(vec![
        "the whole run".to_owned(),
        requests.submitted.to_string(),
        requests.card.to_string(),
        requests.software.to_string(),
        requests.refused.to_string(),
        requests.wrong_answers.to_string(),
    ]);
    rows
}

fn section(page: &mut Page, comparison: &Comparison, address: &str) {
    let sides = [
        ("software:ring", &comparison.software),
        (address, &comparison.accelerator),
    ];
    page.section(&comparison.operation, &sides.map(|(name, _)| name));
    let figure_of = |title, unit: &str, better, of| {
        let note = format!("{unit}, {better} is better");
        Figure::new(title, note, |label| bars_of(label, unit, &sides, of))
    };
    page.wide(&figure_of("Throughput", "operations/s", "higher", |side| {
        side.operations_per_second
    }));
    page.wide(&figure_of(
        "Processor time of this process",
        "us per operation",
        "lower",
        |side| side.cpu_us_per_operation,
    ));
    let latency = Lines {
        axis: "percentile of operations",
        unit: "us",
        places: PERCENTILES.map(|(name, _)| name.to_owned()).to_vec(),
        series: sides
            .map(|(name, side)| Series {
                name,
                values: told(side.latency_us(), side.operations),
            })
            .into(),
    };
    let note = format!("us, lower is better; software does one at a time; {NOT_TOLD}");
    // Not as wide as the page, where its lines and letters would be twice as large as others'.
    page.figures(&[Figure::new("Latency", note, |label| latency.svg(label))]);
}

fn bars_of(
    label: &str,
    unit: &str,
    sides: &[(&str, &Measured)],
    of: fn(&Measured) -> f64,
) -> String {
    let sides = sides.iter().enumerate();
    let bars_of_sides: Vec<_> = sides
        .map(|(index, (name, side))| Bar {
            name,
            parts: vec![Part {
                len: of(side),
                colour: index,
                faint: false,
                title: format!("{} {unit}", figure(of(side))),
            }],
            value: figure(of(side)),
        })
        .collect();
    bars(label, &bars_of_sides)
}
