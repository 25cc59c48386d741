//! A high quantile of recent latencies, in little memory and without keeping any of them.
//!
//! A histogram whose buckets are an eighth of an octave wide, so that what it says is at most 13 %
//! too long and never too short. It forgets by halving every count whenever it has seen enough:
//! what is an era old weighs half, and a card that was slow an hour ago is not called slow now.

use std::time::Duration;

/// Latencies of the recent past.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    counts: [u16; BUCKETS],
    total: u32,
}

/// From 1 us in 24 octaves to 16 s; what is longer is in the last bucket.
const BUCKETS: usize = 24 * PER_OCTAVE;
const PER_OCTAVE: usize = 8;

/// Latencies after which all weigh half. The hundredth part of it is large enough that one stray
/// answer is not the quantile.
const ERA: u32 = 2_048;

/// Fewer than this have no hundredth part to speak of.
const ENOUGH: u32 = 100;

impl Latencies {
    /// None yet.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
        }
    }

    /// Adds one.
    pub(super) fn record(&mut self, latency: Duration) {
        if self.total >= ERA {
            self.total = 0;
            for count in &mut self.counts {
                *count /= 2;
                self.total += u32::from(*count);
            }
        }
        self.counts[bucket(latency)] += 1;
        self.total += 1;
    }

    /// A time within which 99 of 100 answers came, or `None` if there are too few to tell.
    #[must_use]
    pub(super) fn p99(&self) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let mut beyond = self.total / 100;
        let mut index = BUCKETS - 1;
        while index > 0 && u32::from(self.counts[index]) <= beyond {
            beyond -= u32::from(self.counts[index]);
            index -= 1;
        }
        Some(upper_bound(index))
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let octave = micros.ilog2() as usize;
    // The bits below the highest one, as eighths.
    let eighth = ((u128::from(micros) << 3) >> octave) as usize % PER_OCTAVE;
    (octave * PER_OCTAVE + eighth).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let (octave, eighth) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    let eighths = (PER_OCTAVE + eighth + 1) as u64;
    Duration::from_nanos(((1_000 * eighths) << octave) / PER_OCTAVE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn too_few_latencies_have_no_quantile() {
        let mut latencies = Latencies::new();
        for _ in 1..ENOUGH {
            latencies.record(micros(10));
        }
        assert_eq!(latencies.p99(), None);
        latencies.record(micros(10));
        assert!(latencies.p99().is_some());
    }

    #[test]
    fn the_quantile_is_never_too_short_and_at_most_an_eighth_too_long() {
        for step in [1_u64, 7, 130, 4_001] {
            let mut latencies = Latencies::new();
            for number in 1..=1_000 {
                latencies.record(micros(number * step));
            }
            let exact = micros(990 * step);
            let found = latencies.p99().unwrap();
            assert!(found >= exact, "{found:?} for {exact:?}");
            assert!(
                found <= exact * 9 / 8 + micros(2),
                "{found:?} for {exact:?}"
            );
        }
    }

    #[test]
    fn one_in_a_thousand_is_not_the_quantile_and_one_in_fifty_is() {
        let mut latencies = Latencies::new();
        for number in 0..2_000 {
            latencies.record(micros(if number % 1_000 == 7 { 90_000 } else { 100 }));
        }
        assert!(latencies.p99().unwrap() < micros(120));
        for number in 0..2_000 {
            latencies.record(micros(if number % 50 == 7 { 90_000 } else { 100 }));
        }
        assert!(latencies.p99().unwrap() > micros(90_000));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut latencies = Latencies::new();
        for _ in 0..ERA {
            latencies.record(micros(50_000));
        }
        for _ in 0..10 * ERA {
            latencies.record(micros(200));
        }
        assert!(latencies.p99().unwrap() < micros(230));
    }

    #[test]
    fn no_latency_is_too_long_or_too_short() {
        let mut latencies = Latencies::new();
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            latencies.record(latency);
        }
        assert_eq!(latencies.total, 3);
    }
}
