//! What a watch remembers: minutes for an hour, floors of ten minutes for a day, of six hours for
//! two weeks.
//!
//! A gap stays a gap. Nothing is made up between samples, since a host that did not let us run is
//! the very host whose figures cannot be trusted.

use super::{DAY, HOUR, Sample};
use crate::trend::{Floors, Point};
use std::collections::VecDeque;

/// Length of a minute, of an epoch and of a quarter of a day, in seconds.
pub(super) const MINUTE: f64 = 60.0;
pub(super) const EPOCH: f64 = 600.0;
pub(super) const QUARTER: f64 = 6.0 * HOUR;

/// How long each is remembered, in seconds.
const MINUTES_KEPT: f64 = HOUR;
const EPOCHS_KEPT: f64 = DAY;
const QUARTERS_KEPT: f64 = 14.0 * DAY;

/// Ten minutes, and what went on in them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Epoch {
    pub(super) floor: Point,
    /// What was held at its end.
    pub(super) last: f64,
    /// How much more was opened than at the end of the epoch before.
    pub(super) opens: Option<f64>,
    pub(super) failed_opens: Option<f64>,
    /// The least there was to do.
    pub(super) load: Option<f64>,
    /// Share of the samples at which the card was away.
    pub(super) absent: f64,
    pub(super) host_total: Option<f64>,
}

/// What came to an end with a sample; a minute in any case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub(super) epoch: bool,
    pub(super) quarter: bool,
}

#[derive(Debug)]
pub(super) struct Record {
    minutes: VecDeque<Point>,
    epochs: VecDeque<Epoch>,
    quarters: VecDeque<Point>,
    minute: Floors,
    epoch: Floors,
    quarter: Floors,
    current: Current,
}

/// What happened since the last epoch was over.
#[derive(Debug, Default)]
struct Current {
    latest: Sample,
    /// Counters at the end of the epoch before.
    before: Option<Sample>,
    samples: f64,
    absent: f64,
    load: Option<f64>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            minutes: VecDeque::new(),
            epochs: VecDeque::new(),
            quarters: VecDeque::new(),
            minute: Floors::new(MINUTE, 0.0),
            epoch: Floors::new(EPOCH, 0.0),
            quarter: Floors::new(QUARTER, 0.0),
            current: Current::default(),
        }
    }
}

impl Record {
    /// Takes a sample, and says what ended before it.
    pub(super) fn observe(&mut self, at: f64, sample: &Sample) -> Option<Closed> {
        let minute = self.minute.push(Point::new(at, sample.held));
        let closed = minute.map(|minute| self.close(minute, at));
        self.current.take(sample);
        closed
    }

    /// Closes a minute, and what ended with it: all of which the sample `at` that time is not any more, and
    /// which has no other sample to wait for.
    fn close(&mut self, minute: Point, at: f64) -> Closed {
        keep(&mut self.minutes, minute, MINUTES_KEPT, |it| it.at);
        let is_over = |of: Point, length: f64| (at / length).floor() > (of.at / length).floor();
        self.epoch.push(minute);
        let epoch = self.epoch.last().filter(|_| is_over(minute, EPOCH));
        let quarter = epoch.and_then(|floor| {
            self.quarter.push(floor);
            self.quarter.last().filter(|_| is_over(floor, QUARTER))
        });
        if let Some(floor) = epoch {
            let epoch = self.current.end(floor);
            keep(&mut self.epochs, epoch, EPOCHS_KEPT, |it| it.floor.at);
        }
        if let Some(floor) = quarter {
            keep(&mut self.quarters, floor, QUARTERS_KEPT, |it| it.at);
        }
        Closed {
            epoch: epoch.is_some(),
            quarter: quarter.is_some(),
        }
    }

    /// What is held now.
    pub(super) fn held(&self) -> f64 {
        self.current.latest.held
    }

    /// The minutes of the last hour.
    ///
    /// A minute that is not over may yet have a lower floor, and is left out; unless samples are
    /// minutes apart, when it has no other, and the next would come too late for a runaway.
    pub(super) fn minutes(&self) -> Vec<Point> {
        let mut minutes: Vec<_> = self.minutes.iter().copied().collect();
        if let (Some(last), Some(current)) = (minutes.last(), self.minute.last())
            && current.at - last.at > 1.5 * MINUTE
        {
            minutes.push(current);
        }
        minutes
    }

    /// The epochs of so many seconds, at most a day, before the last.
    pub(super) fn epochs(&self, seconds: f64) -> Vec<Epoch> {
        let end = self.epochs.back().map_or(0.0, |last| last.floor.at);
        let epochs = self.epochs.iter();
        let recent = epochs.filter(|epoch| epoch.floor.at > end - seconds);
        recent.copied().collect()
    }

    /// Floors of quarters of days; one that is missing is not a number.
    pub(super) fn quarters(&self) -> Vec<Point> {
        let mut all: Vec<Point> = Vec::with_capacity(self.quarters.len());
        for quarter in &self.quarters {
            while let Some(last) = all.last()
                && quarter.at - last.at > 1.5 * QUARTER
            {
                all.push(Point::new(last.at + QUARTER, f64::NAN));
            }
            all.push(*quarter);
        }
        all
    }
}

impl Current {
    fn take(&mut self, sample: &Sample) {
        self.before.get_or_insert(*sample);
        self.latest = *sample;
        self.samples += 1.0;
        self.absent += f64::from(u8::from(sample.card_absent));
        let load = sample.load.filter(|load| load.is_finite());
        self.load = match (self.load, load) {
            (Some(least), Some(load)) => Some(least.min(load)),
            (least, load) => least.or(load),
        };
    }

    /// Ends the epoch that has this floor. The sample that showed that it is over is not in it yet.
    fn end(&mut self, floor: Point) -> Epoch {
        let latest = self.latest;
        let before = self.before.unwrap_or(latest);
        let epoch = Epoch {
            floor,
            last: latest.held,
            opens: increase(before.opens, latest.opens),
            failed_opens: increase(before.failed_opens, latest.failed_opens),
            load: self.load,
            absent: self.absent / self.samples.max(1.0),
            host_total: latest.host_total,
        };
        *self = Self {
            latest,
            before: Some(latest),
            ..Self::default()
        };
        epoch
    }
}

/// How much a counter grew; unknown if it began anew.
fn increase(before: Option<u64>, after: Option<u64>) -> Option<f64> {
    Some(after?.checked_sub(before?)? as f64)
}

fn keep<T>(all: &mut VecDeque<T>, new: T, seconds: f64, at: impl Fn(&T) -> f64) {
    let oldest = at(&new) - seconds;
    while all.front().is_some_and(|first| at(first) <= oldest) {
        all.pop_front();
    }
    all.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_first_minute_of_an_epoch_is_not_of_the_epoch_before() {
        let mut record = Record::default();
        // Ten minutes without the card, which is opened three times a second after that.
        for second in 0..1900_u32 {
            let opens = second.saturating_sub(600) * 3;
            let sample = Sample {
                held: f64::from(second),
                opens: Some(opens.into()),
                load: Some(f64::from(u8::from(second >= 600))),
                card_absent: second < 600,
                host_total: Some(f64::from(second) + 1e6),
                ..Sample::default()
            };
            let closed = record.observe(second.into(), &sample);
            let ended = closed.map(|closed| closed.epoch);
            let expected = (second > 0 && second % 60 == 0).then_some(second % 600 == 0);
            assert_eq!(ended, expected, "{second}");
        }
        let epochs = record.epochs(DAY);
        let of = |index: usize| {
            let Epoch {
                floor,
                last,
                opens,
                load,
                absent,
                host_total,
                ..
            } = epochs[index];
            let total = host_total.map(|total| total - 1e6);
            (floor.value, last, opens, load, absent, total)
        };
        assert_eq!(epochs.len(), 3);
        assert_eq!(of(0), (0.0, 599.0, Some(0.0), Some(0.0), 1.0, Some(599.0)));
        assert_eq!(
            of(1),
            (600.0, 1199.0, Some(1797.0), Some(1.0), 0.0, Some(1199.0))
        );
        assert_eq!(
            of(2),
            (1200.0, 1799.0, Some(1800.0), Some(1.0), 0.0, Some(1799.0))
        );
    }

    #[test]
    fn a_quarter_of_a_day_is_over_when_the_next_begins_and_a_gap_is_in_none() {
        let mut record = Record::default();
        let mut ended = Vec::new();
        let before = (0..370).map(|minute| f64::from(minute) * MINUTE);
        let after = (2000..2600).map(|minute| f64::from(minute) * MINUTE);
        for at in before.chain(after) {
            let sample = Sample {
                held: at,
                ..Sample::default()
            };
            let closed = record.observe(at, &sample);
            ended.extend(closed.filter(|it| it.quarter).map(|_| at / MINUTE));
        }
        assert_eq!(ended, [360.0, 2000.0, 2160.0, 2520.0]);
        let floors: Vec<_> = record
            .quarters()
            .iter()
            .map(|it| it.value / MINUTE)
            .collect();
        assert_eq!(floors.len(), 7);
        assert_eq!(
            (floors[0], floors[1], floors[5], floors[6]),
            (0.0, 360.0, 2000.0, 2160.0)
        );
        assert!(floors[2..5].iter().all(|it| it.is_nan()));
    }
}
