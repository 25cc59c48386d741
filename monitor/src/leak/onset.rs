//! When what is held began to grow, and whether the card went away then.
//!
//! Before that it was level, and from then on it rises: of all days that bend once, the one that the
//! floors of the last day are nearest to. A rise that is as old as what is known of it has no
//! beginning, and is told of none.
//!
//! ```text
//!                        ,-'
//!                     ,-'       floors, ten minutes each
//!   - - _ - - - - -,-'
//!                  ^ onset
//! ```

use super::record::{EPOCH, Epoch, Record};
use super::{DAY, HOUR};
use crate::trend::{Point, float, ols};
use serde::Serialize;
use std::time::Duration;

/// Epochs that must have been level before, and must have risen since: two bend any line.
const LEAST: usize = 3;
/// A bend leaves at most this share of what a straight line leaves unexplained.
const BENDS: f64 = 0.25;
/// Epochs by which the card may have gone before or after: the floor of the epoch in which a rise begins
/// is that of before, noise hides one more, and the card is in an epoch of its own. A floor may be anywhere
/// in its epoch, which makes up to one more between two of them.
const NEAR: f64 = 3.0;

/// The beginning of a rise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Onset {
    /// How long ago, to ten minutes.
    pub ago: Duration,
    /// Whether the card went away at that time, and had been there before.
    pub as_card_went: bool,
}

/// The same by the time of the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bend {
    at: f64,
    as_card_went: bool,
}

impl Bend {
    /// The beginning of the rise that the record shows, if it shows one.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let epochs = record.epochs(DAY);
        let floors: Vec<_> = epochs.iter().map(|epoch| epoch.floor).collect();
        let last_level = bend(&floors)?;
        Some(Self {
            at: floors[last_level].at,
            as_card_went: departures(&epochs)
                .any(|gone| (gone - floors[last_level].at).abs() <= NEAR * EPOCH),
        })
    }

    /// How that looks at `now`.
    pub(super) fn seen_at(self, now: f64) -> Option<Onset> {
        Some(Onset {
            ago: Duration::try_from_secs_f64(now - self.at).ok()?,
            as_card_went: self.as_card_went,
        })
    }
}

/// The last of the floors that is level, if all before it are and all after it rise.
fn bend(floors: &[Point]) -> Option<usize> {
    let left_by_a_line = {
        let line = ols(floors)?;
        let fit = |it: &Point| line.slope.mul_add(it.at, line.intercept);
        floors
            .iter()
            .map(|it| (it.value - fit(it)).powi(2))
            .sum::<f64>()
    };
    let bends = (LEAST..floors.len().checked_sub(LEAST)?).filter_map(|last_level| {
        let left = left_by_a_bend(floors, last_level)?;
        Some((last_level, left))
    });
    let (last_level, left) = bends.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
    (left < BENDS * left_by_a_line).then_some(last_level)
}

/// What is left unexplained, in squares, by a level up to `last_level` and a rise from there on.
fn left_by_a_bend(floors: &[Point], last_level: usize) -> Option<f64> {
    let (before, after) = floors.split_at(last_level + 1);
    let level = before.iter().map(|it| it.value).sum::<f64>() / float(before.len());
    let corner = before.last()?.at;
    let hours = |it: &Point| (it.at - corner) / HOUR;
    let weight: f64 = after.iter().map(|it| hours(it).powi(2)).sum();
    let rise = after
        .iter()
        .map(|it| hours(it) * (it.value - level))
        .sum::<f64>()
        / weight;
    if rise <= 0.0 {
        return None;
    }
    let left_before = before.iter().map(|it| (it.value - level).powi(2));
    let left_after = after
        .iter()
        .map(|it| (it.value - level - rise * hours(it)).powi(2));
    Some(left_before.chain(left_after).sum())
}

/// When the card went away, each time having been there for a while before.
fn departures(epochs: &[Epoch]) -> impl Iterator<Item = f64> + '_ {
    let stretches = epochs.windows(LEAST + 1);
    stretches.filter_map(|stretch| {
        let (gone, before) = stretch.split_last()?;
        let went = gone.absent > 0.0 && before.iter().all(|it| it.absent <= 0.0);
        went.then_some(gone.floor.at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::Sample;

    /// Ten hours in samples a minute apart: what is held, and from which hour on the card is away.
    fn record(held: impl Fn(f64) -> f64, gone_at: f64) -> Record {
        record_of(held, |hour| hour >= gone_at, |_| true)
    }

    /// The same, of the hours in which somebody looks.
    fn record_of(
        held: impl Fn(f64) -> f64,
        is_absent: impl Fn(f64) -> bool,
        looks: impl Fn(f64) -> bool,
    ) -> Record {
        let mut record = Record::default();
        for minute in 0..600_u32 {
            let hour = f64::from(minute) / 60.0;
            if !looks(hour) {
                continue;
            }
            let sample = Sample {
                // As much noise as a busy service has.
                held: held(hour) + f64::from(minute * 7_919 % 13),
                card_absent: is_absent(hour),
                ..Sample::default()
            };
            let _ = record.observe(hour * HOUR, &sample);
        }
        record
    }

    fn onset(record: &Record) -> Option<Onset> {
        Bend::of(record)?.seen_at(10.0 * HOUR)
    }

    fn rises_from(begin: f64) -> impl Fn(f64) -> f64 {
        move |hour| 1_000.0 + 300.0 * (hour - begin).max(0.0)
    }

    #[test]
    fn a_rise_began_when_what_was_level_ceased_to_be_and_as_the_card_went_if_that_was_then() {
        for (gone_at, as_card_went) in [(6.0, true), (3.0, false), (9.0, false), (20.0, false)] {
            let found = onset(&record(rises_from(6.0), gone_at)).unwrap();
            let hours = found.ago.as_secs_f64() / HOUR;
            assert!((3.7..4.4).contains(&hours), "{found:?}");
            assert_eq!(found.as_card_went, as_card_went, "gone at {gone_at}");
        }
    }

    #[test]
    fn a_card_that_had_been_away_before_went_when_the_rise_began_all_the_same() {
        let was_away = |hour: f64| (1.0..1.5).contains(&hour) || hour >= 6.0;
        let found = onset(&record_of(rises_from(6.0), was_away, |_| true)).unwrap();
        assert!(found.as_card_went, "{found:?}");
    }

    #[test]
    fn a_card_that_went_while_nobody_looked_did_not_go_as_the_rise_began() {
        // Two epochs apart by their number, and three hours by the clock.
        let looks = |hour: f64| !(5.2..8.0).contains(&hour);
        let rises = |hour: f64| 1_000.0 + 300.0 * (hour - 5.0).max(0.0);
        let found = onset(&record_of(rises, |hour| hour >= 8.1, looks)).unwrap();
        assert!(!found.as_card_went, "{found:?}");
    }

    #[test]
    fn what_has_risen_for_as_long_as_it_is_known_or_does_not_rise_has_no_beginning() {
        assert_eq!(onset(&record(rises_from(0.0), 20.0)), None);
        assert_eq!(onset(&record(|_| 1_000.0, 6.0)), None);
        // One that falls.
        let falls = |hour: f64| 9_000.0 - 300.0 * (hour - 5.0).max(0.0);
        assert_eq!(onset(&record(falls, 5.0)), None);
        assert_eq!(onset(&Record::default()), None);
    }

    #[test]
    fn a_card_that_was_never_there_has_not_gone() {
        let found = onset(&record(rises_from(6.0), 0.0)).unwrap();
        assert!(!found.as_card_went);
    }
}
