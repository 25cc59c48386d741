//! With what the growth goes together: opens that fail, a card that is away, all that the host
//! holds.
//!
//! Increments are compared and not levels: two things that both grow correlate without having to
//! do with each other.

use super::record::{EPOCH, Epoch, Record};
use super::{DAY, HOUR};
use crate::trend::{Line, Point, ols};
use serde::Serialize;

/// Epochs needed, two hours of them.
const LEAST: usize = 12;
/// Epochs in which the supposed cause must have been at work. One is a coincidence.
const AT_WORK: usize = 3;
/// Standard errors that chance exceeds once in a thousand.
const SIGNIFICANT: f64 = 3.09;

/// That what is held grows when something else happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// Growth for each failed open, or for each hour that the card is away.
    pub each: f64,
    /// From -1 to 1.
    pub correlation: f64,
    /// Share of all growth that this explains.
    pub explained: f64,
}

/// How much of the host's growth is this resource's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Its growth, of that of the host.
    pub ratio: f64,
    /// Of its floors with what the host held, from -1 to 1.
    pub correlation: f64,
}

impl Share {
    /// Whether the host's growth is this resource's, in the main.
    #[must_use]
    pub fn is_attributed(&self) -> bool {
        self.ratio >= 0.7 && self.correlation >= 0.9
    }
}

/// All of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct With {
    pub(super) share: Option<Share>,
    pub(super) failed_opens: Option<Correlation>,
    pub(super) absence: Option<Correlation>,
}

impl With {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            share: share(record),
            failed_opens: with_failed_opens(record),
            absence: with_absence(record),
        }
    }
}

/// Whether what is held grows with opens that fail, and more so than with those that do not.
fn with_failed_opens(record: &Record) -> Option<Correlation> {
    let epochs = record.epochs(DAY);
    let failed = |epoch: &Epoch| epoch.failed_opens;
    let found = with(&epochs, failed)?;
    let good = |epoch: &Epoch| Some(epoch.opens? - epoch.failed_opens?);
    let with_good = ols(&increments(&epochs, good)).map_or(0.0, |line| line.correlation);
    (found.correlation > with_good).then_some(found)
}

/// Whether what is held grows while the card is away.
fn with_absence(record: &Record) -> Option<Correlation> {
    with(&record.epochs(DAY), |epoch| {
        Some(epoch.absent * EPOCH / HOUR)
    })
}

fn with(epochs: &[Epoch], cause: impl Fn(&Epoch) -> Option<f64>) -> Option<Correlation> {
    let increments = increments(epochs, cause);
    let at_work = increments.iter().filter(|increment| increment.at > 0.0);
    if increments.len() < LEAST || at_work.count() < AT_WORK {
        return None;
    }
    let line: Line = ols(&increments)?;
    let growth: f64 = increments.iter().map(|increment| increment.value).sum();
    let causes: f64 = increments.iter().map(|increment| increment.at).sum();
    let explained = line.slope * causes / growth;
    // What it explains must have stayed: what a failed open holds for a moment is no growth.
    let stayed = growth > 0.0 && (0.5..=2.0).contains(&explained);
    (line.t() > SIGNIFICANT && line.correlation >= 0.5 && stayed).then_some(Correlation {
        each: line.slope,
        correlation: line.correlation,
        explained,
    })
}

/// By how much what is held grew in each epoch, over how much of a cause there was in it.
fn increments(epochs: &[Epoch], cause: impl Fn(&Epoch) -> Option<f64>) -> Vec<Point> {
    epochs
        .windows(2)
        .filter(|pair| pair[1].floor.at - pair[0].floor.at < 1.5 * EPOCH)
        .filter_map(|pair| Some(Point::new(cause(&pair[1])?, pair[1].last - pair[0].last)))
        .collect()
}

/// How much of the host's growth in the last six hours was this.
fn share(record: &Record) -> Option<Share> {
    let epochs = record.epochs(6.0 * HOUR);
    let totals = epochs.iter();
    let points: Vec<_> = totals
        .filter_map(|epoch| Some(Point::new(epoch.host_total?, epoch.last)))
        .collect();
    let (first, last) = (points.first()?, points.last()?);
    let line = ols(&points)?;
    let growth = last.at - first.at;
    (growth > 0.0).then(|| Share {
        ratio: (last.value - first.value) / growth,
        correlation: line.correlation,
    })
}
