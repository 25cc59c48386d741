//! Figures that are told of each side whatever is measured, and what rows of them are called.

use super::chart::{Bar, Lines, Part, Series, figure};
use super::page::Figure;
use super::{NOT_TOLD, PERCENTILES, is_told, to_f64, told};
use crate::cli::output::{Failure, Output};
use hdrhistogram::Histogram;
use hwshim::router::breaker;
use hwshim::router::core::LaneStatus;
use serde::Serialize;

/// Of all windows.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct OfWindows {
    pub(super) best: f64,
    pub(super) median: f64,
}

impl OfWindows {
    /// The best is what `better` prefers to all others.
    pub(super) fn of(values: impl Iterator<Item = f64>, better: fn(f64, f64) -> f64) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            best: values.iter().copied().reduce(better).unwrap_or(0.0),
            median: values.get(values.len() / 2).copied().unwrap_or(0.0),
        }
    }
}

/// How long most took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

impl Latency {
    /// In a unit of so many nanoseconds.
    pub(super) fn of(latency_ns: &Histogram<u64>, unit_ns: f64) -> Self {
        let at = |quantile| to_f64(latency_ns.value_at_quantile(quantile)) / unit_ns;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
        }
    }

    /// At each of [`PERCENTILES`], where it can be told from `samples`.
    pub(super) fn told(self, samples: u64) -> Vec<Option<f64>> {
        let all: [f64; PERCENTILES.len()] = [self.p50, self.p90, self.p99, self.p999];
        told(all, samples)
    }

    /// The 99th percentile for people, where there were so many `samples` that there is one.
    pub(super) fn p99(self, samples: u64, decimals: usize) -> String {
        match is_told(10, samples) {
            true => format!("{:.decimals$}", self.p99),
            false => "-".to_owned(),
        }
    }

    /// The median and the 99th percentile, for a table of a page.
    pub(super) fn cells(self, samples: u64) -> [String; 2] {
        let told = self.told(samples);
        [0, 2].map(|index: usize| {
            let value = told.get(index).copied().flatten();
            value.map_or_else(|| "-".to_owned(), figure)
        })
    }
}

/// How long `what` took on each side, in `unit`, which has a name, latencies, and so many samples.
pub(super) fn latency<'a>(
    title: &str,
    what: &str,
    unit: &str,
    sides: impl Iterator<Item = (&'a str, Latency, u64)>,
) -> Figure {
    let series = sides.map(|(name, latency, samples)| Series {
        name,
        values: latency.told(samples),
    });
    let lines = Lines {
        axis: &format!("percentile of {what}"),
        unit,
        places: PERCENTILES.map(|(name, _)| name.to_owned()).to_vec(),
        series: series.collect(),
    };
    let note = format!("{unit}, lower is better; {NOT_TOLD}");
    Figure::new(title, note, |label| lines.svg(label))
}

/// Who made what left.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Answered {
    /// The accelerator; verified.
    pub(super) card: u64,
    /// Software.
    pub(super) software: u64,
    /// Of those of software: the accelerator had been given it first.
    pub(super) fallbacks: u64,
    /// Wrong answers of the accelerator, none of which was released.
    pub(super) wrong_answers: u64,
}

impl Answered {
    /// The accelerator's share.
    pub(super) fn share(self) -> String {
        match self.card + self.software {
            0 => "-".to_owned(),
            all => format!("{:.0} %", to_f64(self.card) / to_f64(all) * 100.0),
        }
    }

    /// Both shares of the side at `index`, of `what` was made.
    pub(super) fn bar<'a>(self, index: usize, name: &'a str, what: &str) -> Bar<'a> {
        let all = to_f64((self.card + self.software).max(1));
        let share = to_f64(self.card) / all;
        let wrong = match self.wrong_answers {
            0 => String::new(),
            wrong => format!(", {wrong} wrong stopped"),
        };
        let part = |len, faint, who, number| Part {
            len,
            colour: index,
            faint,
            title: format!("{who}: {number} {what}"),
        };
        Bar {
            name,
            parts: vec![
                part(share, false, "accelerator", self.card),
                part(1.0 - share, true, "software", self.software),
            ],
            value: format!("{} % by card{wrong}", figure(share * 100.0)),
        }
    }
}

/// How a side compares.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) than: String,
    /// Unknown where one of both has completed nothing.
    pub(super) times: Option<f64>,
}

impl Ratio {
    /// How many times `one` is what `other` is.
    pub(super) fn of(than: &str, one: f64, other: f64) -> Self {
        Self {
            than: than.to_owned(),
            times: (one > 0.0 && other > 0.0).then(|| one / other),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        self.times
            .map_or_else(|| "-".to_owned(), |times| format!("{times:.2}"))
    }
}

/// Whether an accelerator was in use all the time.
#[derive(Debug, Serialize)]
pub(super) struct Use {
    /// At the end.
    pub(super) in_use: bool,
    /// Times it was taken out of use.
    pub(super) breaker_opened: u64,
    /// Why it last was; empty if it never was.
    pub(super) breaker_opened_by: &'static str,
}

impl Use {
    pub(super) fn of(status: &LaneStatus) -> Self {
        Self {
            in_use: matches!(status.breaker, breaker::State::Closed { .. }),
            breaker_opened: status.breaker_opened,
            breaker_opened_by: status.breaker_opened_by,
        }
    }

    /// What there is to say of the accelerator at `address`, if it was not.
    pub(super) fn complaint(&self, address: &str) -> Option<String> {
        let Self {
            in_use,
            breaker_opened,
            breaker_opened_by,
        } = self;
        if !in_use {
            Some(format!(
                "{address} is out of use ({breaker_opened_by}); software has taken over"
            ))
        } else if *breaker_opened > 0 {
            Some(format!(
                "{address} was taken out of use {breaker_opened} times meanwhile, last for \
                 {breaker_opened_by}"
            ))
        } else {
            None
        }
    }
}

/// Gives each of `names` a line of its own, and returns the number that its rows are called by: for
/// names that find no room, because whose row it is must be told whatever the width.
pub(super) fn numbered(names: &[String], output: &mut Output) -> Result<Vec<String>, Failure> {
    let numbers: Vec<_> = (1..=names.len()).map(|row| format!("[{row}]")).collect();
    for (number, name) in numbers.iter().zip(names) {
        output.note(&format!("{number} "), name)?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_disturbed_one_window_is_neither_the_best_nor_the_median() {
        let of = |better| OfWindows::of([3.0, 1.0, 90.0, 2.0, 4.0].into_iter(), better);
        let least = of(f64::min);
        assert_eq!((least.best, least.median), (1.0, 3.0));
        assert_eq!(of(f64::max).best, 90.0);
        let none = OfWindows::of(std::iter::empty(), f64::min);
        assert_eq!((none.best, none.median), (0.0, 0.0));
    }

    #[test]
    fn an_accelerator_that_was_not_in_use_is_complained_of() {
        let complaint = |in_use, breaker_opened| {
            let breaker_opened_by = "timed-out";
            let used = Use {
                in_use,
                breaker_opened,
                breaker_opened_by,
            };
            used.complaint("card")
        };
        assert_eq!(complaint(true, 0), None);
        let opened = "card was taken out of use 3 times meanwhile, last for timed-out";
        assert_eq!(complaint(true, 3).as_deref(), Some(opened));
        let out = "card is out of use (timed-out); software has taken over";
        assert_eq!(complaint(false, 3).as_deref(), Some(out));
    }

    #[test]
    fn what_is_nothing_has_no_ratio() {
        assert_eq!(Ratio::of("software", 3.0, 2.0).times, Some(1.5));
        for (one, other) in [(0.0, 2.0), (3.0, 0.0), (0.0, 0.0)] {
            let ratio = Ratio::of("software", one, other);
            assert_eq!(ratio.times, None, "neither a number nor none is a figure");
            assert_eq!(ratio.text(), "-");
        }
    }
}
