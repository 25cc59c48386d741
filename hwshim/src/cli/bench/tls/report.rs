//! What is told of a run: figures of each side, and how they compare.

use super::window::Window;
use super::{Case, Kind};
use crate::cli::bench::figures::{Answered, Latency, OfWindows, Ratio, Use, numbered};
use crate::cli::bench::machine::Machine;
use crate::cli::bench::to_f64;
use crate::cli::output::{Failure, Output, Table};
use hdrhistogram::Histogram;
use hwshim::router::core::LaneStatus;
use serde::Serialize;
use std::time::Duration;

/// The whole run.
#[derive(Serialize)]
pub(super) struct Report {
    schema: u32,
    pub(super) machine: Machine,
    /// What client and server speak through.
    transport: &'static str,
    /// Whether signatures are verified eight at a time.
    verified_in_eights: bool,
    /// Whether a process that plays the card was counted, whose processor time is then added to the
    /// server's wherever sides are compared.
    pub(super) card_counted: bool,
    pub(super) points: Vec<Point>,
    accelerators: Vec<Accelerator>,
}

/// How an accelerator stood at the end.
#[derive(Serialize)]
struct Accelerator {
    address: String,
    #[serde(flatten)]
    used: Use,
}

/// One comparison.
#[derive(Serialize)]
pub(super) struct Point {
    pub(super) key: &'static str,
    pub(super) version: &'static str,
    pub(super) handshakes: &'static str,
    pub(super) concurrency: u16,
    windows: u32,
    window_ms: u64,
    pub(super) sides: Vec<Side>,
}

/// One of those compared.
#[derive(Serialize)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) handshakes: u64,
    pub(super) failed: u64,
    error: Option<String>,
    pub(super) per_second: OfWindows,
    /// Processor time of this process for each handshake, the clients' left out.
    pub(super) server_cpu_us: OfWindows,
    /// Of the process that plays the card, if it is counted.
    pub(super) card_cpu_us: OfWindows,
    client_cpu_us: OfWindows,
    /// From the ClientHello to the first byte of data.
    pub(super) latency_ms: Latency,
    /// Who made the signatures.
    pub(super) answered: Answered,
    /// How many times as much processor time each library takes by itself, best against best; the
    /// card's is in it if that is counted.
    pub(super) saves: Vec<Ratio>,
    /// Of both, which in one window are not each at their best.
    pub(super) total_cpu_us: OfWindows,
    #[serde(skip)]
    windows: Vec<Figures>,
    #[serde(skip)]
    latency_ns: Histogram<u64>,
}

/// Of one window.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    server_cpu_us: f64,
    card_cpu_us: f64,
    total_cpu_us: f64,
    client_cpu_us: f64,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        verified_in_eights: bool,
        card_counted: bool,
        states: Vec<(String, LaneStatus)>,
        points: Vec<Point>,
    ) -> Self {
        let accelerator = |(address, status): (String, LaneStatus)| Accelerator {
            address,
            used: Use::of(&status),
        };
        Self {
            schema: 1,
            machine,
            transport: "pipes in memory",
            verified_in_eights,
            card_counted,
            points,
            accelerators: states.into_iter().map(accelerator).collect(),
        }
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        for point in &self.points {
            output.line(point.title())?;
            point.print(self.card_counted, output)?;
            output.line("")?;
        }
        output.note(
            "",
            "CPU: the server's processor time for each handshake, all counted but the clients' \
             thread; best window, in brackets the median. Latency: from the ClientHello to the \
             first byte of data, of all windows; percentiles with fewer than 10 beyond them are \
             left out.",
        )?;
        output.note(
            "",
            match self.card_counted {
                false => "x: how many times as much CPU a library takes by itself.",
                true => {
                    "CARD: processor time of the process that --count names, for each handshake. \
                     BOTH: CPU and CARD of one window added up, the best window of that. x: how \
                     many times as much of BOTH a library takes by itself."
                }
            },
        )?;
        output.line(self.machine.line())
    }

    /// Tells what was not as it should be.
    pub(super) fn warn(&self, output: &mut Output) -> Result<(), Failure> {
        let complaint = |one: &Accelerator| one.used.complaint(&one.address);
        for complaint in self.accelerators.iter().filter_map(complaint) {
            output.warn(complaint)?;
        }
        self.machine.warn(output)?;
        let sides = || self.points.iter().flat_map(|point| &point.sides);
        let failed: u64 = sides().map(|side| side.failed).sum();
        if failed == 0 {
            return Ok(());
        }
        let error = sides()
            .find_map(|side| side.error.clone())
            .unwrap_or_default();
        Err(Failure::new(format!("{failed} handshakes failed"), error))
    }
}

impl Point {
    pub(super) fn new(case: Case, windows: u32, length: Duration, mut sides: Vec<Side>) -> Self {
        for side in &mut sides {
            side.summarize(case);
        }
        // Of a library by itself nothing is offloaded, and what comes first is libraries.
        let plain: Vec<_> = sides
            .iter()
            .filter(|side| side.name.starts_with("rustls+"))
            .map(|side| (side.name.clone(), side.total_cpu_us.best))
            .collect();
        for side in &mut sides {
            let cpu = side.total_cpu_us.best;
            side.saves = plain
                .iter()
                .map(|(than, theirs)| Ratio::of(than, *theirs, cpu))
                .collect();
        }
        Self {
            key: case.key.name(),
            version: case.version.name(),
            handshakes: case.kind.name(),
            concurrency: case.concurrency,
            windows,
            window_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            sides,
        }
    }

    /// What all points of one concurrency after the other share.
    pub(super) fn family(&self) -> String {
        let Self {
            key,
            version,
            handshakes,
            ..
        } = self;
        format!("{version}, {key}, {handshakes} handshakes")
    }

    fn title(&self) -> String {
        let family = self.family();
        let Self {
            concurrency,
            windows,
            window_ms,
            ..
        } = self;
        format!(
            "{family}, {concurrency} at once; {windows} windows of {window_ms} ms each, in turns"
        )
    }

    fn print(&self, card_counted: bool, output: &mut Output) -> Result<(), Failure> {
        let names: Vec<_> = self.sides.iter().map(|side| side.name.clone()).collect();
        let against = |than: &str| format!("x {}", than.to_uppercase());
        let table = self.table(&names, against, card_counted);
        if output.has_room_for(&table) {
            return output.table(&table);
        }
        let numbers = numbered(&names, output)?;
        let against = |than: &str| {
            let row = names.iter().position(|name| name == than);
            format!("x{}", row.map_or(than, |row| &numbers[row]))
        };
        output.table(&self.table(&numbers, against, card_counted))
    }

    /// With a row that `names` has a name for of each side.
    fn table(
        &self,
        names: &[String],
        against: impl Fn(&str) -> String,
        card_counted: bool,
    ) -> Table {
        let mut header = vec!["", "CPU us", "(MEDIAN)"];
        if card_counted {
            header.extend(["CARD", "BOTH"]);
        }
        header.extend(["HS/S", "P50 ms", "P99 ms", "BY CARD"]);
        let first = self.sides.first().map_or(&[][..], |side| &side.saves);
        let against: Vec<_> = first.iter().map(|saving| against(&saving.than)).collect();
        header.extend(against.iter().map(String::as_str));
        let mut table = Table::rigid(&header);
        for (side, name) in self.sides.iter().zip(names) {
            let mut row = vec![
                name.clone().into(),
                format!("{:.1}", side.server_cpu_us.best).into(),
                format!("({:.1})", side.server_cpu_us.median).into(),
            ];
            if card_counted {
                row.push(format!("{:.1}", side.card_cpu_us.best).into());
                row.push(format!("{:.1}", side.total_cpu_us.best).into());
            }
            row.extend([
                format!("{:.0}", side.per_second.best).into(),
                format!("{:.2}", side.latency_ms.p50).into(),
                side.latency_ms.p99(side.handshakes, 2).into(),
                side.answered.share().into(),
            ]);
            row.extend(side.saves.iter().map(|saving| saving.text().into()));
            table.push(row);
        }
        table
    }
}

impl Side {
    pub(super) fn new(name: String) -> Self {
        /// Longer than any handshake is given.
        const LATENCY_NS_MAX: u64 = 60_000_000_000;
        Self {
            name,
            handshakes: 0,
            failed: 0,
            error: None,
            per_second: OfWindows::default(),
            server_cpu_us: OfWindows::default(),
            card_cpu_us: OfWindows::default(),
            client_cpu_us: OfWindows::default(),
            total_cpu_us: OfWindows::default(),
            latency_ms: Latency::default(),
            answered: Answered::default(),
            saves: Vec::new(),
            windows: Vec::new(),
            latency_ns: Histogram::new_with_max(LATENCY_NS_MAX, 3)
                .expect("three digits up to a minute are possible"),
        }
    }

    /// Takes what was seen in a window.
    pub(super) fn add(&mut self, window: Window) {
        let Window {
            seen,
            wall,
            server_cpu,
            client_cpu,
            card_cpu,
            by_card,
            by_software,
            wrong_answers,
            fallbacks,
        } = window;
        let handshakes = seen.latency_ns.len() as u64;
        self.handshakes += handshakes;
        self.failed += seen.failed;
        self.error = self.error.take().or(seen.error);
        self.answered.card += by_card;
        // A library by itself has nobody else to sign, and nobody who counts.
        self.answered.software += by_software.unwrap_or(handshakes);
        self.answered.wrong_answers += wrong_answers;
        self.answered.fallbacks += fallbacks;
        for latency in seen.latency_ns {
            self.latency_ns.saturating_record(latency);
        }
        if handshakes > 0 {
            let each = |time: Duration| time.as_secs_f64() * 1e6 / to_f64(handshakes);
            self.windows.push(Figures {
                per_second: to_f64(handshakes) / wall.as_secs_f64(),
                server_cpu_us: each(server_cpu),
                card_cpu_us: each(card_cpu),
                total_cpu_us: each(server_cpu + card_cpu),
                client_cpu_us: each(client_cpu),
            });
        }
    }

    fn summarize(&mut self, case: Case) {
        let windows = |figure: fn(&Figures) -> f64| self.windows.iter().map(figure);
        let least = |figure| OfWindows::of(windows(figure), f64::min);
        self.per_second = OfWindows::of(windows(|figures| figures.per_second), f64::max);
        self.server_cpu_us = least(|figures| figures.server_cpu_us);
        self.card_cpu_us = least(|figures| figures.card_cpu_us);
        self.total_cpu_us = least(|figures| figures.total_cpu_us);
        self.client_cpu_us = least(|figures| figures.client_cpu_us);
        self.latency_ms = Latency::of(&self.latency_ns, 1e6);
        if case.kind == Kind::Resumed {
            // Nothing is signed.
            self.answered.software = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Seen;
    use super::super::{Key, Version};
    use super::*;

    const CASE: Case = Case {
        key: Key::Rsa2048,
        version: Version::Tls13,
        kind: Kind::Full,
        concurrency: 1,
    };

    /// A window of one handshake, with microseconds of the server and of the card.
    fn window(server: u64, card: u64) -> Window {
        Window {
            seen: Seen {
                latency_ns: vec![1_000],
                ..Seen::default()
            },
            wall: Duration::from_micros(1_000),
            server_cpu: Duration::from_micros(server),
            client_cpu: Duration::ZERO,
            card_cpu: Duration::from_micros(card),
            by_card: 0,
            by_software: None,
            wrong_answers: 0,
            fallbacks: 0,
        }
    }

    #[test]
    fn server_and_card_are_added_up_within_one_window() {
        let mut side = Side::new("side".to_owned());
        side.add(window(100, 500));
        side.add(window(400, 100));
        let point = Point::new(CASE, 2, Duration::from_secs(1), vec![side]);
        let best = |figure: OfWindows| figure.best.round();
        let side = &point.sides[0];
        assert_eq!(best(side.server_cpu_us), 100.0);
        assert_eq!(best(side.card_cpu_us), 100.0);
        assert_eq!(best(side.total_cpu_us), 500.0);
    }

    #[test]
    fn who_has_completed_nothing_is_compared_with_nobody() {
        let mut plain = Side::new("rustls+ring".to_owned());
        plain.add(window(100, 0));
        let failed = Side::new("card".to_owned());
        let point = Point::new(CASE, 1, Duration::from_secs(1), vec![plain, failed]);
        let times = |side: usize| point.sides[side].saves[0].times;
        assert_eq!(times(0), Some(1.0));
        assert_eq!(times(1), None, "neither a number nor none is a figure");
    }

    /// What is printed of `point`.
    fn printed(point: &Point, card_counted: bool, width: usize) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = Output::to(file.reopen().unwrap(), Some(width));
        point.print(card_counted, &mut output).unwrap();
        output.finish().unwrap();
        std::fs::read_to_string(file.path()).unwrap()
    }

    /// Two libraries, and an accelerator of long name under each.
    fn compared() -> Point {
        let names = ["rustls+ring", "rustls+aws-lc-rs"].map(str::to_owned);
        let socket = "vfio-user:/run/hwshim/cards/card-0.sock";
        let with_card = ["ring", "aws-lc-rs"].map(|library| format!("{socket} + {library}"));
        let side = |name: String, server, card| {
            let mut side = Side::new(name);
            side.add(window(server, card));
            side
        };
        let sides = names.into_iter().map(|name| side(name, 1_000, 0));
        let with_card = with_card.into_iter().map(|name| side(name, 250, 550));
        let sides = sides.chain(with_card).collect();
        Point::new(CASE, 1, Duration::from_secs(1), sides)
    }

    #[test]
    fn whose_row_it_is_can_be_told_where_the_names_find_no_room() {
        for card_counted in [false, true] {
            let wide = printed(&compared(), card_counted, 200);
            assert!(!wide.contains("[1]"), "{wide}");
            let text = printed(&compared(), card_counted, 80);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{text}");
            }
            assert!(!text.contains('…'), "{text}");
            for (row, side) in compared().sides.iter().enumerate() {
                let number = format!("[{}] ", row + 1);
                let named = format!("{number}{}", side.name);
                assert!(text.lines().any(|line| line == named), "{text}");
                let rows = text.lines().filter(|line| line.starts_with(&number));
                assert_eq!(rows.count(), 2, "{text}");
            }
            assert!(text.contains("x[1]  x[2]"), "{text}");
        }
    }

    #[test]
    fn if_a_card_is_counted_what_is_compared_is_shown_though_the_card_took_nothing() {
        let header = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        let counted = printed(&compared(), true, 200);
        assert!(header(&counted).contains("CARD  "), "{counted}");
        assert!(header(&counted).contains("BOTH  "), "{counted}");
        assert!(counted.contains("550.0  800.0"), "{counted}");
        assert!(counted.contains("1.25"), "{counted}");

        let mut idle = Side::new("rustls+ring".to_owned());
        idle.add(window(100, 0));
        let idle = Point::new(CASE, 1, Duration::from_secs(1), vec![idle]);
        assert!(header(&printed(&idle, true, 200)).contains("BOTH  "));
        assert!(!header(&printed(&idle, false, 200)).contains("BOTH"));
    }

    #[test]
    fn the_note_says_of_what_libraries_take_more() {
        let note = |card_counted| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut output = Output::to(file.reopen().unwrap(), None);
            let machine = Machine::look();
            let report = Report::new(machine, false, card_counted, Vec::new(), Vec::new());
            report.print(&mut output).unwrap();
            output.finish().unwrap();
            std::fs::read_to_string(file.path()).unwrap()
        };
        assert!(note(false).contains("as much CPU") && !note(false).contains("BOTH"));
        assert!(note(true).contains("BOTH") && !note(true).contains("as much CPU"));
    }
}
