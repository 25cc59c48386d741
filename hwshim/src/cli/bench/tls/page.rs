//! The report as a page: throughput against concurrency, latency, processor time, who answered.

use super::report::{Point, Report, Side};
use crate::cli::bench::chart::{Bar, Lines, Part, Series, bars, figure};
use crate::cli::bench::figures;
use crate::cli::bench::page::{Figure, Page};

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
        section(&mut page, family, report.card_counted);
    }
    page
}

/// Points that differ in nothing but how many handshakes were under way at once.
fn families(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.chunk_by(|one, next| one.family() == next.family())
}

fn section(page: &mut Page, points: &[Point], card_counted: bool) {
    let most = points.iter().max_by_key(|point| point.concurrency);
    let Some(most) = most else {
        return;
    };
    let names: Vec<_> = most.sides.iter().map(|side| side.name.as_str()).collect();
    page.section(&most.family(), &names);
    let against = |title: &str, unit, better, of| {
        let lines = against_concurrency(points, unit, of);
        let note = format!("{unit}, {better} is better");
        Figure::new(title, note, |label| lines.svg(label))
    };
    let mut figures = vec![
        against("Throughput", "handshakes/s", "higher", |side| {
            side.per_second.best
        }),
        against("Server CPU", "us per handshake", "lower", |side| {
            side.server_cpu_us.best
        }),
    ];
    figures.extend(points.iter().map(latency));
    page.figures(&figures);
    page.wide(&cpu(most, card_counted));
    if most.handshakes == "full" {
        page.wide(&signed(most));
    }
    table(page, points, card_counted);
}

fn against_concurrency<'a>(points: &'a [Point], unit: &'a str, of: fn(&Side) -> f64) -> Lines<'a> {
    let sides = points.first().map_or(&[][..], |point| &point.sides);
    let series = |(index, side): (usize, &'a Side)| Series {
        name: &side.name,
        values: points
            .iter()
            .map(|point| point.sides.get(index).map(of))
            .collect(),
    };
    Lines {
        axis: "handshakes under way at once",
        unit,
        places: points
            .iter()
            .map(|point| point.concurrency.to_string())
            .collect(),
        series: sides.iter().enumerate().map(series).collect(),
    }
}

fn latency(point: &Point) -> Figure {
    let title = format!("Latency, {} at once", point.concurrency);
    let sides = point.sides.iter();
    let sides = sides.map(|side| (side.name.as_str(), side.latency_ms, side.handshakes));
    figures::latency(&title, "handshakes", "ms", sides)
}

fn cpu(point: &Point, card_counted: bool) -> Figure {
    let title = format!(
        "Processor time of a handshake, {} at once",
        point.concurrency
    );
    let mut note = "us, lower is better; in brackets how many times as much as a library takes by \
                    itself"
        .to_owned();
    if card_counted {
        note.push_str("; full: server, faint: the card, added up");
    }
    let bars_of_sides: Vec<_> = point.sides.iter().enumerate().map(cpu_bar).collect();
    Figure::new(title, note, |label| bars(label, &bars_of_sides))
}

fn cpu_bar((index, side): (usize, &Side)) -> Bar<'_> {
    let total = side.total_cpu_us.best;
    let times: Vec<_> = side
        .saves
        .iter()
        .filter_map(|saving| {
            let times = saving.times?.recip();
            Some(format!("{} x {}", figure(times), saving.than))
        })
        .collect();
    let mut value = figure(total);
    if !side.name.starts_with("rustls+") && !times.is_empty() {
        value = format!("{value} ({})", times.join(", "));
    }
    // The best of the sum is of one window: what of it was the card's is the rest.
    let server = side.server_cpu_us.best.min(total);
    let part = |len, faint, who| Part {
        len,
        colour: index,
        faint,
        title: format!("{who}: {} us", figure(len)),
    };
    let mut parts = vec![part(server, false, "server")];
    if total > server {
        parts.push(part(total - server, true, "the rest of both"));
    }
    Bar {
        name: &side.name,
        parts,
        value,
    }
}

fn signed(point: &Point) -> Figure {
    let title = format!("Who signed, {} at once", point.concurrency);
    let note = "full: accelerator, verified; faint: software";
    let bars_of_sides: Vec<_> = point.sides.iter().enumerate().map(signed_bar).collect();
    Figure::new(title, note, |label| bars(label, &bars_of_sides))
}

fn signed_bar((index, side): (usize, &Side)) -> Bar<'_> {
    side.answered.bar(index, &side.name, "signatures")
}

fn table(page: &mut Page, points: &[Point], card_counted: bool) {
    let mut header = vec![
        "server",
        "at once",
        "handshakes/s",
        "median of these",
        "CPU us",
        "median of these",
    ];
    if card_counted {
        header.extend(["card us", "both us"]);
    }
    header.extend([
        "P50 ms",
        "P99 ms",
        "by card",
        "by software",
        "failed",
        "wrong, stopped",
    ]);
    let mut rows = Vec::new();
    for point in points {
        rows.extend(
            point
                .sides
                .iter()
                .map(|side| row(point, side, card_counted)),
        );
    }
    let family = points.first().map(Point::family).unwrap_or_default();
    page.table(&family, &header, &rows);
}

fn row(point: &Point, side: &Side, card_counted: bool) -> Vec<String> {
    let mut row = vec![
        side.name.clone(),
        point.concurrency.to_string(),
        figure(side.per_second.best),
        figure(side.per_second.median),
        figure(side.server_cpu_us.best),
        figure(side.server_cpu_us.median),
    ];
    if card_counted {
        row.extend([side.card_cpu_us, side.total_cpu_us].map(|time| figure(time.best)));
    }
    row.extend(side.latency_ms.cells(side.handshakes));
    row.extend([
        side.answered.card.to_string(),
        side.answered.software.to_string(),
        side.failed.to_string(),
        side.answered.wrong_answers.to_string(),
    ]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figures::{OfWindows, Ratio};

    /// That takes so many microseconds of the server and of the card, and times of ring's as much.
    fn side(server: f64, card: f64, times: f64) -> Side {
        let best = |best| OfWindows { best, median: best };
        let mut side = Side::new("card + ring".to_owned());
        side.server_cpu_us = best(server);
        side.card_cpu_us = best(card);
        side.total_cpu_us = best(server + card);
        side.saves = vec![Ratio {
            than: "rustls+ring".to_owned(),
            times: Some(times),
        }];
        side
    }

    #[test]
    fn what_takes_more_than_a_library_is_said_to() {
        let side = side(1000.0, 0.0, 0.8);
        assert!(cpu_bar((1, &side)).value.ends_with("(1.25 x rustls+ring)"));
    }

    #[test]
    fn what_a_card_took_or_software_signed_has_the_colour_of_its_side_and_less_of_it() {
        let side = side(300.0, 500.0, 2.0);
        for bar in [cpu_bar((3, &side)), signed_bar((3, &side))] {
            let parts: Vec<_> = bar
                .parts
                .iter()
                .map(|part| (part.colour, part.faint))
                .collect();
            assert_eq!(parts, [(3, false), (3, true)]);
        }
        let bar = cpu_bar((3, &side));
        let titles: Vec<_> = bar.parts.iter().map(|part| part.title.as_str()).collect();
        assert_eq!(titles, ["server: 300 us", "the rest of both: 500 us"]);
    }
}
