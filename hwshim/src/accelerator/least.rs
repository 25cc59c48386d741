//! What something takes when nothing disturbs it.

use std::time::Duration;

/// The least of the latest few: what disturbs a measurement only ever makes it longer. It is asked more
/// often than anything is measured, and so found when that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least {
    latest: [Duration; 8],
    count: usize,
    least: Duration,
}

impl Least {
    /// Nothing has been measured.
    pub(crate) const NONE: Self = Self {
        latest: [Duration::MAX; 8],
        count: 0,
        least: Duration::MAX,
    };

    /// Takes note of a measurement.
    pub(crate) fn record(&mut self, value: Duration) {
        self.latest[self.count % self.latest.len()] = value;
        self.count = self.count.wrapping_add(1);
        self.least = self.latest.iter().min().copied().unwrap_or(value);
    }

    /// What it takes, if that has been measured.
    pub(crate) fn get(&self) -> Option<Duration> {
        (self.least != Duration::MAX).then_some(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_takes_is_the_least_of_the_latest_eight_at_any_time() {
        // 7 is a generator modulo 71, so that the least comes at every place among eight.
        let values: Vec<_> = std::iter::successors(Some(1_u64), |value| Some(value * 7 % 71))
            .take(210)
            .map(Duration::from_nanos)
            .collect();
        let mut least = Least::NONE;
        assert_eq!(least.get(), None);
        for end in 1..=values.len() {
            least.record(values[end - 1]);
            let latest = &values[end.saturating_sub(8)..end];
            assert_eq!(least.get(), latest.iter().min().copied(), "{latest:?}");
        }
    }
}
