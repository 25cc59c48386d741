//! A stretch of one series: its points, how they are packed, and how they are made coarser.
//!
//! ```text
//!   samples of an hour --+--> the last of every 10 s
//!                        +--> every minute: least, mean, greatest, last, floor
//!                        +--> every hour:   the same
//! ```
//!
//! Coarser tiers are a function of the samples of an hour and of nothing else, so they can be made
//! again and come out the same.

use super::codec;
use super::{Aggregate, Tier};
use std::time::Duration;

/// Points of one chunk at most: what a damaged file may make us take memory for.
const POINTS_MAX: u64 = 100_000;

/// One point of a series, at milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry<V> {
    pub at: i64,
    pub value: V,
}

/// What a series holds in one tier: a number of columns.
pub(super) trait Columns: Copy {
    const COUNT: usize;
    fn column(self, index: usize) -> f64;
    fn from_row(row: &[f64]) -> Option<Self>;
}

impl Columns for f64 {
    const COUNT: usize = 1;

    fn column(self, _: usize) -> f64 {
        self
    }

    fn from_row(row: &[f64]) -> Option<Self> {
        row.first().copied()
    }
}

impl Columns for Aggregate {
    const COUNT: usize = 5;

    fn column(self, index: usize) -> f64 {
        [self.min, self.mean, self.max, self.last, self.floor][index]
    }

    fn from_row(row: &[f64]) -> Option<Self> {
        let [min, mean, max, last, floor] = *row else {
            return None;
        };
        Some(Self {
            min,
            mean,
            max,
            last,
            floor,
        })
    }
}

pub(super) fn pack<V: Columns>(entries: &[Entry<V>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::push_varint(entries.len() as u64, &mut bytes);
    let times: Vec<_> = entries.iter().map(|entry| entry.at).collect();
    codec::pack_times(&times, &mut bytes);
    for index in 0..V::COUNT {
        let column = entries.iter().map(|entry| entry.value.column(index));
        codec::pack_values(&column.collect::<Vec<_>>(), &mut bytes);
    }
    bytes
}

/// Takes a chunk apart; `None` if it is damaged.
pub(super) fn unpack<V: Columns>(mut bytes: &[u8]) -> Option<Vec<Entry<V>>> {
    let bytes = &mut bytes;
    let count = codec::take_varint(bytes).filter(|count| *count <= POINTS_MAX)?;
    let count = usize::try_from(count).ok()?;
    let times = codec::unpack_times(bytes, count)?;
    let mut columns = Vec::with_capacity(V::COUNT);
    for _ in 0..V::COUNT {
        columns.push(codec::unpack_values(bytes, count)?);
    }
    if !bytes.is_empty() {
        return None;
    }
    let entry = |(index, at)| {
        let row: Vec<_> = columns.iter().map(|column| column[index]).collect();
        let value = V::from_row(&row)?;
        Some(Entry { at, value })
    };
    times.into_iter().enumerate().map(entry).collect()
}

/// Puts points in the order of their times. Of several at one time the last to come stays: a clock
/// that was set back brings the same time twice.
pub(super) fn order<V>(entries: &mut Vec<Entry<V>>) {
    entries.reverse();
    entries.sort_by_key(|entry| entry.at);
    entries.dedup_by_key(|entry| entry.at);
}

/// The last sample of every ten seconds, at its own time.
pub(super) fn thin(samples: &[Entry<f64>]) -> Vec<Entry<f64>> {
    buckets(samples, Tier::TenSeconds.step())
        .filter_map(|bucket| bucket.last().copied())
        .collect()
}

/// One aggregate for every `step`, at the time at which that began.
pub(super) fn aggregate(samples: &[Entry<f64>], step: Duration) -> Vec<Entry<Aggregate>> {
    buckets(samples, step)
        .map(|bucket| Entry {
            at: start_of(bucket[0].at, step),
            value: aggregate_of(bucket),
        })
        .collect()
}

fn buckets(samples: &[Entry<f64>], step: Duration) -> impl Iterator<Item = &[Entry<f64>]> {
    samples.chunk_by(move |one, other| start_of(one.at, step) == start_of(other.at, step))
}

/// The beginning of the `step` in which a time lies, both in milliseconds since 1970.
pub(super) fn start_of(at: i64, step: Duration) -> i64 {
    let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    at.div_euclid(step).saturating_mul(step)
}

fn aggregate_of(bucket: &[Entry<f64>]) -> Aggregate {
    let values = bucket.iter().map(|entry| entry.value);
    let last = bucket.last().map_or(0.0, |entry| entry.value);
    let mean = values.clone().sum::<f64>() / bucket.len() as f64;
    let levels = bucket.windows(2).map(|two| two[0].value.max(two[1].value));
    let floor = levels.fold(f64::INFINITY, f64::min);
    Aggregate {
        min: values.clone().fold(f64::INFINITY, f64::min),
        mean: if mean.is_finite() { coarse(mean) } else { last },
        max: values.fold(f64::NEG_INFINITY, f64::max),
        last,
        floor: if bucket.len() > 1 { floor } else { last },
    }
}

/// The mean to 32 binary places, one in four thousand million: the rest would be half the file.
fn coarse(mean: f64) -> f64 {
    f64::from_bits(mean.to_bits() & !0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(values: &[f64]) -> Vec<Entry<f64>> {
        let entry = |(index, value): (usize, &f64)| Entry {
            at: i64::try_from(index).unwrap() * 1_000,
            value: *value,
        };
        values.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn a_minute_is_told_by_five_figures() {
        let minute = aggregate(
            &entries(&[5.0, 1.0, 7.0, 9.0, 8.0]),
            Duration::from_secs(60),
        );
        let expected = Aggregate {
            min: 1.0,
            mean: 6.0,
            max: 9.0,
            last: 8.0,
            // The 1 did not last; 5 is what it came down to for two samples.
            floor: 5.0,
        };
        assert_eq!(
            minute,
            [Entry {
                at: 0,
                value: expected
            }]
        );
    }

    #[test]
    fn ten_seconds_keep_their_last_sample() {
        let values: Vec<_> = (0..25).map(f64::from).collect();
        let thinned = thin(&entries(&values));
        assert_eq!(
            thinned.iter().map(|entry| entry.at).collect::<Vec<_>>(),
            [9_000, 19_000, 24_000]
        );
    }

    #[test]
    fn of_two_samples_at_one_time_the_later_to_come_stays() {
        let mut samples = entries(&[1.0, 2.0, 3.0]);
        samples.push(Entry {
            at: 1_000,
            value: 4.0,
        });
        order(&mut samples);
        let values: Vec<_> = samples.iter().map(|entry| entry.value).collect();
        assert_eq!(values, [1.0, 4.0, 3.0]);
    }

    #[test]
    fn a_chunk_with_something_behind_it_is_damaged() {
        let mut bytes = pack(&entries(&[1.0, 2.5]));
        assert_eq!(unpack::<f64>(&bytes), Some(entries(&[1.0, 2.5])));
        bytes.push(0);
        assert_eq!(unpack::<f64>(&bytes), None);
    }
}
