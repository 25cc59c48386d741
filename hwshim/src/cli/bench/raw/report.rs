//! What is told of a run: figures of each side, how they compare, and what became of accelerators.

use super::contender::SOFTWARE;
use super::measure::{Window, latencies};
use super::{Case, WINDOWS};
use crate::cli::bench::figures::{Answered, Latency, OfWindows, Ratio, Use, numbered};
use crate::cli::bench::machine::Machine;
use crate::cli::bench::to_f64;
use crate::cli::output::{Failure, Output, Table};
use hdrhistogram::Histogram;
use hwshim::accelerator::State;
use hwshim::router::core::{LaneStatus, Requests};
use serde::Serialize;
use std::time::Duration;

/// The whole run. Fields have the names that those of `hwshim bench tls` have.
#[derive(Serialize)]
pub(super) struct Report {
    schema: u32,
    pub(super) machine: Machine,
    pub(super) points: Vec<Point>,
    pub(super) accelerators: Vec<Accelerator>,
}

/// One comparison.
#[derive(Serialize)]
pub(super) struct Point {
    pub(super) operation: String,
    /// Operations in flight at an accelerator; software does one at a time.
    pub(super) depth: u16,
    windows: u32,
    window_ms: u64,
    /// Software by itself first.
    pub(super) sides: Vec<Side>,
}

/// One of those compared.
#[derive(Serialize)]
pub(super) struct Side {
    pub(super) name: String,
    /// Operations that were answered.
    pub(super) operations: u64,
    pub(super) failed: u64,
    pub(super) per_second: OfWindows,
    /// Processor time of this process for each operation, verification included.
    pub(super) cpu_us: OfWindows,
    pub(super) latency_us: Latency,
    pub(super) answered: Answered,
    /// How many times as many operations per second as software by itself, best against best.
    pub(super) gains: Vec<Ratio>,
    /// How many times as much processor time software takes by itself, best against best.
    pub(super) saves: Vec<Ratio>,
    #[serde(skip)]
    windows: Vec<Figures>,
    #[serde(skip)]
    latency_ns: Histogram<u64>,
}

/// Of one window.
#[derive(Clone, Copy)]
struct Figures {
    /// Software answered nothing of it for an accelerator.
    is_own: bool,
    per_second: f64,
    cpu_us: f64,
}

/// What became of an accelerator.
#[derive(Serialize)]
pub(super) struct Accelerator {
    pub(super) address: String,
    #[serde(flatten)]
    used: Use,
    /// How it stood at the end: `ready`, `needs-reset`, or `gone`.
    state: &'static str,
    /// Algorithms that it offers and was found not to do.
    lacking: Vec<&'static str>,
    /// Keys that it refused although it does the algorithm.
    keys_refused: usize,
    /// Where the requests of the whole run went.
    pub(super) requests: Sum,
}

/// Requests of a run.
#[derive(Serialize)]
pub(super) struct Sum {
    #[serde(flatten)]
    pub(super) requests: Requests,
    adds_up: bool,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        points: Vec<Point>,
        states: impl Iterator<Item = LaneStatus>,
    ) -> Self {
        Self {
            schema: 2,
            machine,
            points,
            accelerators: states.map(Accelerator::new).collect(),
        }
    }

    pub(super) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        self.print_points(output)?;
        output.note(
            "",
            "OPS/S, of the best window, in brackets the median; CPU: processor time of this process \
             for each operation, verification included, of the best window for that. Windows are \
             those that an accelerator answered by itself, if there are any. Latency is of all; \
             percentiles with fewer than 10 beyond them are left out. x: how many times as many \
             OPS/S as software by itself, and how many times as much CPU software takes. Software \
             does one operation at a time.",
        )?;
        output.line("")?;
        for accelerator in &self.accelerators {
            output.line(accelerator.sum())?;
        }
        output.line(self.machine.line())
    }

    fn print_points(&self, output: &mut Output) -> Result<(), Failure> {
        // All points have the same sides.
        let sides = self.points.first().map_or(&[][..], |point| &point.sides);
        let mut names: Vec<_> = sides.iter().map(|side| side.name.clone()).collect();
        let fits = |point: &Point| output.has_room_for(&point.table(&names));
        if !self.points.iter().all(fits) {
            names = numbered(&names, output)?;
            output.line("")?;
        }
        for point in &self.points {
            output.line(point.title())?;
            output.table(&point.table(&names))?;
            output.line("")?;
        }
        Ok(())
    }

    /// Tells what was not as it should be.
    pub(super) fn warn(&self, output: &mut Output) -> Result<(), Failure> {
        for complaint in self.accelerators.iter().flat_map(Accelerator::complaints) {
            output.warn(complaint)?;
        }
        self.machine.warn(output)?;
        let sides = self.points.iter().flat_map(|point| &point.sides);
        match sides.map(|side| side.failed).sum() {
            0_u64 => Ok(()),
            failed => {
                let cause = "neither an accelerator nor software answered them";
                Err(Failure::new(format!("{failed} operations failed"), cause))
            }
        }
    }
}

impl Point {
    pub(super) fn new(case: Case, length: Duration, mut sides: Vec<Side>) -> Self {
        for side in &mut sides {
            side.summarize();
        }
        let software = sides.iter().find(|side| side.name == SOFTWARE);
        if let Some((rate, cpu)) = software.map(|side| (side.per_second.best, side.cpu_us.best)) {
            for side in &mut sides {
                side.gains = vec![Ratio::of(SOFTWARE, side.per_second.best, rate)];
                side.saves = vec![Ratio::of(SOFTWARE, cpu, side.cpu_us.best)];
            }
        }
        Self {
            operation: case.op.name(),
            depth: case.depth,
            windows: WINDOWS,
            window_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            sides,
        }
    }

    fn title(&self) -> String {
        let Self {
            operation,
            depth,
            windows,
            window_ms,
            ..
        } = self;
        format!(
            "{operation}, {depth} in flight; {windows} windows of {window_ms} ms each, in turns"
        )
    }

    /// With a row that `names` has a name for of each side.
    fn table(&self, names: &[String]) -> Table {
        let mut table = Table::rigid(&[
            "", "OPS/S", "(MEDIAN)", "CPU us", "P50 us", "P99 us", "BY CARD", "x OPS/S", "x CPU",
        ]);
        for (side, name) in self.sides.iter().zip(names) {
            let ratio = |ratios: &[Ratio]| ratios.first().map_or_else(String::new, Ratio::text);
            table.push(vec![
                name.clone().into(),
                format!("{:.0}", side.per_second.best).into(),
                format!("({:.0})", side.per_second.median).into(),
                format!("{:.2}", side.cpu_us.best).into(),
                format!("{:.1}", side.latency_us.p50).into(),
                side.latency_us.p99(side.operations, 1).into(),
                side.answered.share().into(),
                ratio(&side.gains).into(),
                ratio(&side.saves).into(),
            ]);
        }
        table
    }
}

impl Side {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            operations: 0,
            failed: 0,
            per_second: OfWindows::default(),
            cpu_us: OfWindows::default(),
            latency_us: Latency::default(),
            answered: Answered::default(),
            gains: Vec::new(),
            saves: Vec::new(),
            windows: Vec::new(),
            latency_ns: latencies(),
        }
    }

    /// Takes what was seen in a window.
    pub(super) fn add(&mut self, window: &Window) {
        let Window {
            latency_ns,
            by_card,
            by_software,
            failed,
            fallbacks,
            wrong_answers,
            wall,
            cpu,
        } = window;
        let operations = by_card + by_software;
        self.operations += operations;
        self.failed += failed;
        self.answered.card += by_card;
        self.answered.software += by_software;
        self.answered.fallbacks += fallbacks;
        self.answered.wrong_answers += wrong_answers;
        self.latency_ns += latency_ns;
        if operations > 0 {
            let operations = to_f64(operations);
            self.windows.push(Figures {
                is_own: *by_software == 0,
                per_second: operations / wall.as_secs_f64(),
                cpu_us: cpu.as_secs_f64() * 1e6 / operations,
            });
        }
    }

    fn summarize(&mut self) {
        // Else the best of an accelerator that fails were what software does for it.
        let has_own = self.windows.iter().any(|figures| figures.is_own);
        let counts = |figures: &&Figures| figures.is_own || !has_own;
        let windows = |figure: fn(&Figures) -> f64| self.windows.iter().filter(counts).map(figure);
        self.per_second = OfWindows::of(windows(|figures| figures.per_second), f64::max);
        self.cpu_us = OfWindows::of(windows(|figures| figures.cpu_us), f64::min);
        self.latency_us = Latency::of(&self.latency_ns, 1e3);
    }
}

impl Accelerator {
    fn new(status: LaneStatus) -> Self {
        Self {
            used: Use::of(&status),
            address: status.name,
            state: match status.state {
                Some(State::Ready) => "ready",
                Some(State::NeedsReset) | None => "needs-reset",
                Some(State::Gone) => "gone",
            },
            lacking: status.lacking.iter().map(|one| one.name()).collect(),
            keys_refused: status.keys_refused,
            requests: Sum {
                requests: status.requests,
                adds_up: status.requests.add_up(),
            },
        }
    }

    fn sum(&self) -> String {
        let Requests {
            submitted,
            card,
            software,
            refused,
            wrong_answers,
            ..
        } = self.requests.requests;
        format!(
            "{}: {submitted} operations, {card} answered by it, {software} by software, {refused} \
             failed; {wrong_answers} wrong answers stopped",
            self.address
        )
    }

    /// What was not as it should be.
    fn complaints(&self) -> Vec<String> {
        let Self {
            address,
            used,
            lacking,
            keys_refused,
            ..
        } = self;
        let mut complaints = Vec::new();
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            complaints.push(format!(
                "{address} lacks {lacking}, which it seemed to offer; software does that"
            ));
        }
        if *keys_refused > 0 {
            complaints.push(format!(
                "{address} refused {keys_refused} of the keys; software signs with them"
            ));
        }
        complaints.extend(used.complaint(address));
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::measure::Window;
    use super::*;

    const CASE: Case = Case {
        op: Op::Rsa2048Sign,
        depth: 32,
    };

    /// A window of a second with so many operations of the card and of software, each of which took so
    /// many microseconds of a processor.
    fn window(by_card: u64, by_software: u64, cpu_us: u64) -> Window {
        let mut latency_ns = latencies();
        latency_ns.saturating_record_n(1_000, by_card + by_software);
        Window {
            latency_ns,
            by_card,
            by_software,
            failed: 1,
            fallbacks: 0,
            wrong_answers: 0,
            wall: Duration::from_secs(1),
            cpu: Duration::from_micros(cpu_us * (by_card + by_software)),
        }
    }

    fn point(windows: [Vec<Window>; 2]) -> Point {
        let address = "vfio-user:/run/hwshim/cards/card-0.sock";
        let names = [SOFTWARE, address].map(str::to_owned);
        let sides = names.into_iter().zip(windows).map(|(name, windows)| {
            let mut side = Side::new(name);
            windows.iter().for_each(|window| side.add(window));
            side
        });
        Point::new(CASE, Duration::from_secs(1), sides.collect())
    }

    #[test]
    fn sides_are_compared_by_the_best_windows_of_their_own_and_counted_by_all() {
        let software = vec![window(0, 100, 50), window(0, 400, 20), window(0, 200, 40)];
        let card = vec![
            window(800, 0, 10),
            // Software did most of it.
            window(100, 900, 1),
            window(400, 0, 5),
            window(600, 0, 20),
        ];
        let point = point([software, card]);
        let [software, card] = point.sides.as_slice() else {
            panic!("two sides");
        };
        assert_eq!(
            (software.operations, software.answered.software),
            (700, 700)
        );
        assert_eq!((card.answered.card, card.answered.software), (1_900, 900));
        assert_eq!((card.operations, card.failed), (2_800, 4));
        assert_eq!(
            (card.per_second.best, card.per_second.median),
            (800.0, 600.0)
        );
        assert_eq!(card.cpu_us.best.round(), 5.0);
        let times = |ratios: &[Ratio]| ratios[0].times.map(f64::round);
        assert_eq!(times(&card.gains), Some(2.0));
        assert_eq!(times(&card.saves), Some(4.0));
        assert_eq!(times(&software.gains), Some(1.0));
    }

    #[test]
    fn whose_row_it_is_can_be_told_where_the_names_find_no_room() {
        let point = || point([vec![window(0, 999_999, 0)], vec![window(999_999, 0, 9_999)]]);
        let report = Report::new(Machine::look(), vec![point(), point()], std::iter::empty());
        let printed = |width| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut output = Output::to(file.reopen().unwrap(), Some(width));
            report.print_points(&mut output).unwrap();
            output.finish().unwrap();
            std::fs::read_to_string(file.path()).unwrap()
        };
        assert!(!printed(200).contains("[1]"));
        let text = printed(80);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{text}");
        }
        for (row, side) in report.points[0].sides.iter().enumerate() {
            let number = format!("[{}] ", row + 1);
            let named = format!("{number}{}", side.name);
            assert!(text.lines().any(|line| line == named), "{text}");
            // Its name, and a row of each point.
            let rows = text.lines().filter(|line| line.starts_with(&number));
            assert_eq!(rows.count(), 3, "{text}");
        }
    }

    #[test]
    fn what_went_wrong_is_told_by_address() {
        const ADDRESS: &str = "vfio-user:./card.sock";
        let good = || Accelerator {
            address: ADDRESS.to_owned(),
            used: Use {
                in_use: true,
                breaker_opened: 0,
                breaker_opened_by: "",
            },
            state: "ready",
            lacking: Vec::new(),
            keys_refused: 0,
            requests: Sum {
                requests: Requests::default(),
                adds_up: true,
            },
        };
        assert!(good().complaints().is_empty());
        let opened = Accelerator {
            used: Use {
                in_use: false,
                breaker_opened: 3,
                breaker_opened_by: "timed-out",
            },
            ..good()
        };
        let lacking = Accelerator {
            lacking: vec!["rsa-pss-sha256", "aes-ctr"],
            ..good()
        };
        let refusing = Accelerator {
            keys_refused: 2,
            ..good()
        };
        for (accelerator, wanted) in [
            (opened, "is out of use (timed-out)"),
            (lacking, "lacks rsa-pss-sha256, aes-ctr"),
            (refusing, "refused 2 of the keys"),
        ] {
            let complaints = accelerator.complaints();
            let [complaint] = complaints.as_slice() else {
                panic!("{complaints:?}");
            };
            let wanted = format!("{ADDRESS} {wanted}");
            assert!(complaint.starts_with(&wanted), "{complaint}");
        }
    }
}
