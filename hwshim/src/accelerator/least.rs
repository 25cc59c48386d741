//! What something takes when nothing disturbs it.

use std::time::Duration;

/// The least of the latest few: what disturbs a measurement only ever makes it longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least {
    latest: [Duration; 8],
    count: usize,
}

impl Least {
    /// Nothing has been measured.
    pub(crate) const NONE: Self = Self {
        latest: [Duration::MAX; 8],
        count: 0,
    };

    /// Takes note of a measurement.
    pub(crate) const fn record(&mut self, value: Duration) {
        self.latest[self.count % self.latest.len()] = value;
        self.count = self.count.wrapping_add(1);
    }

    /// What it takes, if that has been measured.
    pub(crate) fn get(&self) -> Option<Duration> {
        let least = self.latest.iter().min().copied();
        least.filter(|least| *least != Duration::MAX)
    }
}
