//! The four speeds: each measures a window of its own and says which of its gates it passes.
//!
//! A rule does not decide. That its gates hold for some time is for the [`Alarm`](super::Alarm),
//! and what follows from it for the ladder.

use super::record::{Epoch, QUARTER, Record};
use super::{DAY, Gate, HOUR, Interval, Resource, Scope, recycle};
use crate::trend::{
    Line, Point, Sen, float, mann_kendall_autocorrelated, mann_kendall_seasonal, ols, sen,
    sen_seasonal, shape,
};

/// How long gates must hold before an alarm, in seconds.
pub(super) const FAST_HOLD: f64 = 600.0;
/// At the pace of a climb that is steep ten minutes may be half of what is left.
pub(super) const STEEP_HOLD: f64 = 300.0;
pub(super) const MEDIUM_HOLD: f64 = HOUR;
/// Floors of two weeks do not flicker.
pub(super) const SLOW_HOLD: f64 = 0.0;

/// Caches and pools fill in the first hour that a process is watched.
const WARM_UP: f64 = HOUR;
/// Until a process has been watched for this long, nobody knows whether it has ever come to rest:
/// it may still be taking what it needs to begin with.
const YOUNG: f64 = 6.0 * HOUR;
/// Of intervals.
const CONFIDENCE: f64 = 0.99;
/// Standard deviations that chance exceeds once in a thousand.
const TREND: f64 = 3.09;
/// Share of a limit that is used before anybody is paged for it.
const USED: f64 = 0.6;
/// As `CONFIDENCE`, for least squares.
const ERRORS: f64 = 2.576;

/// What a rule measured.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) rate_per_hour: Interval,
    pub(super) p: Option<f64>,
    /// The first of these are needed for any alarm, the rest for one that pages.
    pub(super) gates: Vec<Gate>,
    pub(super) needed_to_page: usize,
}

impl Finding {
    /// Whether it rises as a leak does.
    pub(super) fn holds(&self) -> bool {
        let any = self.gates.len() - self.needed_to_page;
        self.gates[..any].iter().all(|gate| gate.passed)
    }

    pub(super) fn may_page(&self) -> bool {
        self.gates.iter().all(|gate| gate.passed)
    }

    /// Seconds until the limit is reached at the lower end of the rate; infinite without a limit.
    pub(super) fn left(&self, resource: &Resource, held: f64) -> f64 {
        let Some(limit) = &resource.limit else {
            return f64::INFINITY;
        };
        let left = (limit.value - held).max(0.0);
        if self.rate_per_hour.low > 0.0 {
            left / self.rate_per_hour.low * HOUR
        } else {
            f64::INFINITY
        }
    }
}

/// A runaway: at the pace of the last hour the limit is hours away.
pub(super) fn fast(resource: &Resource, record: &Record) -> Option<Finding> {
    /// Hours.
    const FORECAST: f64 = 4.0;
    const SOON: f64 = 1.0;
    /// Caches come to rest between the share that makes it a leak and this one. What grows too
    /// fast for waiting is left to [`steep`].
    const NEAR: f64 = 0.75;
    let limit = resource.limit.as_ref()?.value;
    let mut minutes = record.minutes();
    minutes.retain(|minute| minute.at >= WARM_UP);
    let line = ols(&minutes)?;
    let (first, last) = (minutes.first()?, minutes.last()?);
    let rate = rate(&line);
    let left = (limit - last.value).max(0.0) / rate.low.max(0.0);
    let growth = line.slope * (last.at - first.at);
    let mut gates = vec![
        Gate::at_most("hours left, at the lower end of the rate", left, FORECAST),
        Gate::at_least("share of the limit used", last.value / limit, USED),
        Gate::at_least("growth", growth, resource.negligible()),
    ];
    // Of which shape a rise is costs more than all else and is asked only if it matters.
    if gates.iter().all(|gate| gate.passed) {
        let shape = shape(&minutes, 0.0)?;
        let above = above(record, first.at, last.value);
        gates.extend([
            Gate::at_most("largest step, of the growth", shape.largest_step, 0.6),
            Gate::at_least("late slope, of all", shape.late_slope, 0.25),
            Gate::at_least("above all of the day", above, 0.0),
        ]);
        gates.extend(recycle::gates(resource, &record.epochs(HOUR)));
    }
    let page = [
        Gate::at_least("share of the limit used, to page", last.value / limit, NEAR),
        Gate::at_most(
            "hours left, to page",
            left,
            if last.at < YOUNG { SOON } else { FORECAST },
        ),
    ];
    let needed_to_page = page.len();
    gates.extend(page);
    Some(Finding {
        rate_per_hour: rate,
        p: None,
        gates,
        needed_to_page,
    })
}

/// A runaway that began minutes ago: the climb that goes on now, since what is held was last at
/// its least. An hour that was level for the most part says nothing of that yet.
///
/// A few samples prove little by themselves. So this asks for more of everything else: more of
/// the limit is used, the climb has taken a part of it that cannot be overlooked, in several
/// steps, without falling back much, and the limit is near even without the largest step.
pub(super) fn steep(resource: &Resource, record: &Record) -> Option<Finding> {
    /// Hours.
    const SOON: f64 = 2.0;
    const USED: f64 = 0.7;
    /// Two rises may be one cache and another.
    const LEAST_RISES: f64 = 3.0;
    let limit = resource.limit.as_ref()?.value;
    let mut minutes = record.minutes();
    minutes.retain(|minute| minute.at >= WARM_UP);
    let climb = climb(&minutes);
    let (first, last) = (climb.first()?, climb.last()?);
    let steps = climb.windows(2);
    let steps: Vec<_> = steps.map(|pair| pair[1].value - pair[0].value).collect();
    let growth = last.value - first.value;
    if growth <= 0.0 {
        return None;
    }
    let largest = steps.iter().copied().fold(0.0, f64::max);
    let path: f64 = steps.iter().copied().map(f64::abs).sum();
    let rises = steps.iter().filter(|step| **step > 0.0).count();
    let each = HOUR / (last.at - first.at);
    // Too few for statistics: between one large step less and one more.
    let rate = Interval {
        low: (growth - largest) * each,
        middle: growth * each,
        high: (growth + largest) * each,
    };
    let left = (limit - last.value).max(0.0) / rate.low.max(0.0);
    let mut gates = vec![
        Gate::at_least("share of the limit used", last.value / limit, USED),
        Gate::at_least("rises in this climb", float(rises), LEAST_RISES),
        Gate::at_least("growth, of the limit", growth / limit, 0.1),
        Gate::at_least("growth", growth, resource.negligible()),
        Gate::at_least("growth, of all ups and downs", growth / path, 0.8),
        Gate::at_most("hours left, without the largest step", left, SOON),
    ];
    if gates.iter().all(|gate| gate.passed) {
        let above = above(record, first.at, last.value);
        gates.push(Gate::at_least("above all of the day", above, 0.0));
        gates.extend(recycle::gates(resource, &record.epochs(HOUR)));
    }
    Some(Finding {
        rate_per_hour: rate,
        p: None,
        gates,
        needed_to_page: 0,
    })
}

/// From where what is held was last at its least, to the end.
fn climb(minutes: &[Point]) -> &[Point] {
    let mut least = minutes.len().saturating_sub(1);
    for (index, minute) in minutes.iter().enumerate().rev() {
        if minute.value < minutes[least].value {
            least = index;
        }
    }
    &minutes[least..]
}

fn rate(line: &Line) -> Interval {
    let error = ERRORS * line.slope_error;
    Interval {
        low: (line.slope - error) * HOUR,
        middle: line.slope * HOUR,
        high: (line.slope + error) * HOUR,
    }
}

/// The usual leak: floors of ten minutes that rise for hours.
pub(super) fn medium(resource: &Resource, record: &Record) -> Option<Finding> {
    const WINDOW: f64 = 6.0 * HOUR;
    const LEAST: usize = 12;
    let epochs = warm(record.epochs(WINDOW));
    if epochs.len() < LEAST {
        return None;
    }
    let floors = without_load(&epochs);
    let values: Vec<_> = floors.iter().map(|floor| floor.value).collect();
    let test = mann_kendall_autocorrelated(&values)?;
    let sen = sen(&floors, CONFIDENCE)?;
    let rate = per_hour(&sen, 1.0);
    let (first, last) = (floors.first()?, floors.last()?);
    let baseline = first.value.abs();
    let shape = shape(&floors, falls_from(resource, baseline))?;
    let mut gates = vec![
        Gate::at_least("trend, in standard deviations", test.z, TREND),
        Gate::at_least(
            "lower end of the rate, of what was held",
            rate.low / baseline,
            0.005,
        ),
        Gate::at_least("growth, of what was held", shape.growth / baseline, 0.05),
        Gate::at_least("late slope, of all", shape.late_slope, 0.5),
        Gate::at_most("largest step, of the growth", shape.largest_step, 0.4),
        Gate::at_least("floors that do not fall", shape.not_falling, 0.85),
    ];
    // What is of the whole host has everybody's noise in it, against which its own level may be little.
    if resource.scope == Scope::Host {
        let least = resource.negligible();
        gates.push(Gate::at_least("growth", shape.growth, least));
    }
    gates.extend(recycle::gates(resource, &epochs));
    let limit = resource
        .limit
        .as_ref()
        .map_or(f64::INFINITY, |limit| limit.value);
    let page = [
        Gate::at_least("share of the limit used", record.held() / limit, USED),
        Gate::at_least(
            "growth in a day",
            in_a_day(record, last.value),
            resource.negligible(),
        ),
        Gate::at_least(
            "above all of the day",
            above(record, first.at, last.value),
            0.0,
        ),
        Gate::at_least("hours watched", last.at / HOUR, YOUNG / HOUR),
    ];
    let needed_to_page = page.len();
    gates.extend(page);
    Some(Finding {
        rate_per_hour: rate,
        p: Some(test.p),
        gates,
        needed_to_page,
    })
}

/// How much less is a fall: a little of what was held, or of what is negligible where little was. The
/// kernel counts its memory by batches of pages, give or take some, which is much of a small baseline.
fn falls_from(resource: &Resource, baseline: f64) -> f64 {
    (0.002 * baseline).max(0.01 * resource.negligible())
}

/// How far what is held last is above the highest floor of the day before the window.
fn above(record: &Record, begins: f64, last: f64) -> f64 {
    let epochs = record.epochs(DAY);
    let before = epochs.iter().filter(|epoch| epoch.floor.at < begins);
    let highest = before.map(|epoch| epoch.floor.value).reduce(f64::max);
    highest.map_or(0.0, |highest| last - highest)
}

/// How far what is held last is above the lowest floor of the day.
fn in_a_day(record: &Record, last: f64) -> f64 {
    let floors = record
        .epochs(DAY)
        .into_iter()
        .map(|epoch| epoch.floor.value);
    last - floors.fold(last, f64::min)
}

fn warm(epochs: Vec<Epoch>) -> Vec<Epoch> {
    let mut epochs = epochs;
    epochs.retain(|epoch| epoch.floor.at >= WARM_UP);
    epochs
}

/// Floors less what they have from load, where load explains part of them.
fn without_load(epochs: &[Epoch]) -> Vec<Point> {
    let loads: Option<Vec<f64>> = epochs.iter().map(|epoch| epoch.load).collect();
    let floors: Vec<_> = epochs.iter().map(|epoch| epoch.floor).collect();
    let Some(loads) = loads else {
        return floors;
    };
    let by_load = loads.iter().zip(&floors);
    let by_load: Vec<_> = by_load
        .map(|(load, floor)| Point::new(*load, floor.value))
        .collect();
    let each = match ols(&by_load) {
        Some(line) if line.t() > TREND => line.slope,
        _ => 0.0,
    };
    let floors = floors.iter().zip(&loads);
    floors
        .map(|(floor, load)| Point::new(floor.at, floor.value - each * (load - loads[0])))
        .collect()
}

/// A leak of weeks: floors of six hours, each against those of the same hour of other days.
pub(super) fn slow(resource: &Resource, record: &Record) -> Option<Finding> {
    /// Quarters of a day in a day.
    const PERIOD: usize = 4;
    /// Fewer than eight days cannot reach the least trend, however steady.
    const LEAST: usize = 8 * PERIOD;
    const WITHIN_DAYS: f64 = 90.0;
    // In the first quarter it warmed up.
    let quarters: Vec<_> = record.quarters().into_iter().skip(1).collect();
    if quarters.len() < LEAST {
        return None;
    }
    let values: Vec<_> = quarters.iter().map(|quarter| quarter.value).collect();
    let test = mann_kendall_seasonal(&values, PERIOD)?;
    let sen = sen_seasonal(&values, PERIOD, CONFIDENCE)?;
    let rate = per_hour(&sen, QUARTER);
    let shape = shape(&quarters, f64::INFINITY)?;
    let left = resource.limit.as_ref().map_or(0.0, |limit| {
        (limit.value - record.held()).max(0.0) / rate.middle.max(0.0) * HOUR / DAY
    });
    let gates = vec![
        Gate::at_least("trend, in standard deviations", test.z, TREND),
        Gate::at_least("lower end of the rate", rate.low, f64::MIN_POSITIVE),
        Gate::at_most("days left", left, WITHIN_DAYS),
        Gate::at_least("late slope, of all", shape.late_slope, 0.5),
        Gate::at_most("largest step, of the growth", shape.largest_step, 0.4),
        Gate::at_least("growth", shape.growth, resource.negligible()),
    ];
    Some(Finding {
        rate_per_hour: rate,
        p: Some(test.p),
        gates,
        needed_to_page: 0,
    })
}

/// A slope for each `unit` of seconds as a rate for each hour.
pub(super) fn per_hour(sen: &Sen, unit: f64) -> Interval {
    let each = HOUR / unit;
    Interval {
        low: sen.lower * each,
        middle: sen.slope * each,
        high: sen.upper * each,
    }
}
