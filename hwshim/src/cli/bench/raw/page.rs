//! The report as a page: rates, processor time and latency of each operation, and who answered.

use super::measure::Measured;
use super::{Comparison, Report};
use crate::cli::bench::chart::{Bar, Lines, bars, figure};
use crate::cli::bench::page::{Figure, Page};

const LEAD: &str = "Single operations, those of the accelerator verified before they are released. Accelerator and \
    software took turns in one run, so what disturbed one disturbed the other.";

/// The page.
pub(super) fn of(report: &Report) -> Page {
    let title = format!("{} against software", report.address);
    let mut page = Page::new(&title, LEAD, &report.machine);
    for comparison in &report.operations {
        section(&mut page, comparison, &report.address);
    }
    let requests = &report.requests.requests;
    page.section("Who answered", &[]);
    page.table(
        &[
            "",
            "operations",
            "by card",
            "by software",
            "failed",
            "wrong, stopped",
        ],
        &[vec![
            report.address.clone(),
            requests.submitted.to_string(),
            requests.card.to_string(),
            requests.software.to_string(),
            requests.refused.to_string(),
            requests.wrong_answers.to_string(),
        ]],
    );
    page
}

fn section(page: &mut Page, comparison: &Comparison, address: &str) {
    let sides = [
        ("software:ring", &comparison.software),
        (address, &comparison.accelerator),
    ];
    page.section(&comparison.operation, &sides.map(|(name, _)| name));
    page.wide(&Figure {
        title: "Throughput".to_owned(),
        note: "operations/s, higher is better".to_owned(),
        svg: bars_of(&sides, |side| side.operations_per_second),
    });
    page.wide(&Figure {
        title: "Processor time of this process".to_owned(),
        note: "us per operation, lower is better".to_owned(),
        svg: bars_of(&sides, |side| side.cpu_us_per_operation),
    });
    page.wide(&Figure {
        title: "Latency".to_owned(),
        note: "us, lower is better; software does one at a time".to_owned(),
        svg: Lines {
            axis: "percentile of operations",
            places: ["50", "90", "99", "99.9"].map(str::to_owned).to_vec(),
            series: sides.map(|(_, side)| side.latency_us().to_vec()).to_vec(),
        }
        .svg(),
    });
}

fn bars_of(sides: &[(&str, &Measured)], of: fn(&Measured) -> f64) -> String {
    let bar = |(index, (name, side)): (usize, &(&str, &Measured))| Bar {
        name: (*name).to_owned(),
        parts: vec![(of(side), index)],
        value: figure(of(side)),
    };
    bars(&sides.iter().enumerate().map(bar).collect::<Vec<_>>())
}
