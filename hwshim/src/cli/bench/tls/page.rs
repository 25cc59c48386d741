//! The report as a page: throughput against concurrency, latency, processor time, who answered.

use super::report::{Point, Report, Side};
use crate::cli::bench::chart::{Bar, Lines, bars, figure};
use crate::cli::bench::page::{COLOURS, Figure, Page};

const LEAD: &str = "TLS handshakes between clients and a server in one process, through pipes in memory; every \
    client verifies certificate and signature. Those compared took turns, so what disturbed one \
    disturbed all. The best window of each is shown, the median beside it in the tables.";

/// The page.
pub(super) fn of(report: &Report) -> Page {
    let mut page = Page::new(
        "TLS handshakes, with accelerators and without",
        LEAD,
        &report.machine,
    );
    for family in families(&report.points) {
        section(&mut page, family);
    }
    page
}

/// Points that differ in nothing but how many handshakes were under way at once.
fn families(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.chunk_by(|one, next| one.family() == next.family())
}

fn section(page: &mut Page, points: &[Point]) {
    let Some((first, last)) = points.first().zip(points.last()) else {
        return;
    };
    let names: Vec<_> = first.sides.iter().map(|side| side.name.as_str()).collect();
    page.section(&first.family(), &names);
    let against = |title: &str, note: &str, of: fn(&Side) -> f64| Figure {
        title: title.to_owned(),
        note: note.to_owned(),
        svg: against_concurrency(points, of).svg(),
    };
    let mut figures = vec![
        against("Throughput", "handshakes/s, higher is better", |side| {
            side.per_second.best
        }),
        against("Server CPU", "us per handshake, lower is better", |side| {
            side.server_cpu_us.best
        }),
    ];
    figures.extend(points.iter().map(latency));
    page.figures(&figures);
    page.wide(&Figure {
        title: format!(
            "Processor time of a handshake, {} at once",
            last.concurrency
        ),
        note: "us, lower is better; as a share of the libraries by themselves".to_owned(),
        svg: bars(
            &last
                .sides
                .iter()
                .enumerate()
                .map(cpu_bar)
                .collect::<Vec<_>>(),
        ),
    });
    if first.handshakes == "full" {
        page.wide(&Figure {
            title: format!("Who signed, {} at once", last.concurrency),
            note: "coloured: accelerator, verified; grey: software".to_owned(),
            svg: bars(
                &last
                    .sides
                    .iter()
                    .enumerate()
                    .map(signed_bar)
                    .collect::<Vec<_>>(),
            ),
        });
    }
    table(page, points);
}

fn against_concurrency(points: &[Point], of: fn(&Side) -> f64) -> Lines<'static> {
    let sides = points.first().map_or(0, |point| point.sides.len());
    let series = |side: usize| points.iter().map(|point| of(&point.sides[side])).collect();
    Lines {
        axis: "handshakes under way at once",
        places: points
            .iter()
            .map(|point| point.concurrency.to_string())
            .collect(),
        series: (0..sides).map(series).collect(),
    }
}

fn latency(point: &Point) -> Figure {
    let quantiles = |side: &Side| {
        let latency = side.latency_ms;
        vec![latency.p50, latency.p90, latency.p99, latency.p999]
    };
    Figure {
        title: format!("Latency, {} at once", point.concurrency),
        note: "ms, lower is better".to_owned(),
        svg: Lines {
            axis: "percentile of handshakes",
            places: ["50", "90", "99", "99.9"].map(str::to_owned).to_vec(),
            series: point.sides.iter().map(quantiles).collect(),
        }
        .svg(),
    }
}

fn cpu_bar((index, side): (usize, &Side)) -> Bar {
    let savings: Vec<_> = side
        .saves
        .iter()
        .filter(|saving| saving.than != side.name)
        .map(|saving| match saving.times {
            Some(times) => format!("1/{}", figure(times)),
            None => "-".to_owned(),
        })
        .collect();
    let mut value = figure(side.total_cpu_us.best);
    if !side.name.starts_with("rustls+") {
        value = format!("{value}  ({})", savings.join(", "));
    }
    Bar {
        name: side.name.clone(),
        parts: vec![(side.server_cpu_us.best, index), (side.card_cpu_us.best, 0)],
        value,
    }
}

/// The colour of a side's accelerator: its own, unless that is the grey of software.
const fn colour_of_card(index: usize) -> usize {
    match index % COLOURS {
        0 => 1,
        colour => colour,
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of a drawing")]
fn signed_bar((index, side): (usize, &Side)) -> Bar {
    let answered = side.answered;
    let all = (answered.card + answered.software).max(1) as f64;
    let share = answered.card as f64 / all;
    let wrong = match answered.wrong_answers {
        0 => String::new(),
        wrong => format!(", {wrong} wrong stopped"),
    };
    Bar {
        name: side.name.clone(),
        parts: vec![(share, colour_of_card(index)), (1.0 - share, 0)],
        value: format!("{} % by card{wrong}", figure(share * 100.0)),
    }
}

fn table(page: &mut Page, points: &[Point]) {
    let header = [
        "",
        "at once",
        "handshakes/s",
        "median",
        "CPU us",
        "median",
        "P50 ms",
        "P99 ms",
        "by card",
        "by software",
        "failed",
        "wrong, stopped",
    ];
    let mut rows = Vec::new();
    for point in points {
        rows.extend(point.sides.iter().map(|side| {
            vec![
                side.name.clone(),
                point.concurrency.to_string(),
                figure(side.per_second.best),
                figure(side.per_second.median),
                figure(side.server_cpu_us.best),
                figure(side.server_cpu_us.median),
                figure(side.latency_ms.p50),
                figure(side.latency_ms.p99),
                side.answered.card.to_string(),
                side.answered.software.to_string(),
                side.failed.to_string(),
                side.answered.wrong_answers.to_string(),
            ]
        }));
    }
    page.table(&header, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accelerator_has_the_colour_of_software() {
        for index in 0..3 * COLOURS {
            assert_ne!(colour_of_card(index) % COLOURS, 0, "{index}");
        }
        assert_eq!(colour_of_card(COLOURS + 3), 3);
    }
}
