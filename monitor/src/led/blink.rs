//! The rhythm of a light that blinks every 3 to 4 seconds.
//!
//! An interval is from one going on to the next. One outlier says nothing, for a blink can be missed
//! or made up; several among the last few say that the rhythm is lost. An interval that is long
//! enough for several blinks is as many outliers.
//!
//! ```text
//!              4 of the last 12 intervals are outliers
//!   OPERATIONAL ----------------------------------> IRREGULAR
//!              <----------------------------------
//!              no more than 1 of them is
//! ```

use super::Reading;
use super::trace::Outliers;
use hwshim::clock::{Instant, nanos};
use std::time::Duration;

/// Shorter is an outlier: half a second less than a card that is well takes.
const INTERVAL_MIN: Duration = Duration::from_millis(2500);
/// Longer is one.
const INTERVAL_MAX: Duration = Duration::from_millis(4500);
/// Intervals to see before a light is said to be operational.
const INTERVALS_FIRST: u32 = 3;
/// Outliers that may be left among the last intervals of a light that has its rhythm back.
const OUTLIERS_LEFT_MAX: u32 = 1;

/// How many outliers among how many of the last intervals are too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Outliers that are too many.
    pub outliers: u32,
    /// Intervals looked back upon, at most 32.
    pub among: u32,
}

impl Rule {
    /// A light that blinks at random is found out within 36 s in 99 of 100 cases; a good one is
    /// slandered once in 600 years if one interval of a thousand is misread.
    pub const FOUR_OF_TWELVE: Self = Self {
        outliers: 4,
        among: 12,
    };
    /// Quicker, and slanders every five years.
    pub const THREE_OF_EIGHT: Self = Self {
        outliers: 3,
        among: 8,
    };

    /// The intervals of `outliers`, the latest in the lowest bit, that this rule looks at.
    const fn window(self, outliers: u32) -> u32 {
        match u32::MAX.checked_shr(u32::BITS.saturating_sub(self.among)) {
            Some(mask) => outliers & mask,
            None => 0,
        }
    }

    /// Whether the rhythm is lost; `outliers` has a bit for each interval, the latest lowest.
    #[must_use]
    pub const fn is_broken(self, outliers: u32) -> bool {
        self.window(outliers).count_ones() >= self.outliers
    }

    const fn is_mended(self, outliers: u32) -> bool {
        self.window(outliers).count_ones() <= OUTLIERS_LEFT_MAX
    }
}

/// The last intervals of a light.
#[derive(Clone, Debug)]
pub(super) struct Blinks {
    rule: Rule,
    began_at: Option<Instant>,
    /// A bit for each interval, the latest lowest.
    outliers: u32,
    intervals: u32,
    is_irregular: bool,
}

impl Blinks {
    pub(super) const fn new(rule: Rule) -> Self {
        Self {
            rule,
            began_at: None,
            outliers: 0,
            intervals: 0,
            is_irregular: false,
        }
    }

    /// The light went on.
    pub(super) fn began(&mut self, at: Instant) {
        if let Some(began_at) = self.began_at.replace(at) {
            let interval = at.since(began_at);
            let missing = missing(interval);
            self.outliers = match missing {
                0 => self.outliers << 1 | u32::from(interval < INTERVAL_MIN),
                missing => with(self.outliers, missing),
            };
            self.intervals = self.intervals.saturating_add(missing.max(1));
            self.is_irregular = self.rule.is_broken(self.outliers)
                || self.is_irregular && !self.rule.is_mended(self.outliers);
        }
    }

    pub(super) const fn gap(&mut self) {
        *self = Self::new(self.rule);
    }

    pub(super) fn reading(&self, now: Instant) -> Reading {
        if self.is_irregular || self.rule.is_broken(self.outliers_as_of(now)) {
            Reading::Irregular
        } else if self.intervals < INTERVALS_FIRST {
            Reading::Unknown
        } else {
            Reading::Operational
        }
    }

    /// What the rule looks at.
    pub(super) fn outliers(&self, now: Instant) -> Outliers {
        let as_of_now = self.outliers_as_of(now);
        // One that is not over yet and too long already is one more, or several.
        let open = self.missing_as_of(now);
        Outliers {
            outliers: self.rule.window(as_of_now).count_ones(),
            among: self.intervals.saturating_add(open).min(self.rule.among),
            too_many: self.rule.outliers,
        }
    }

    /// An interval that is not over yet and already too long is an outlier now.
    fn outliers_as_of(&self, now: Instant) -> u32 {
        with(self.outliers, self.missing_as_of(now))
    }

    fn missing_as_of(&self, now: Instant) -> u32 {
        self.began_at
            .map_or(0, |began_at| missing(now.since(began_at)))
    }
}

/// How many blinks a light that is well would have begun within so long, and this one has not. Each
/// is an outlier of its own: else one that is dark for most of the time would be found out late.
fn missing(interval: Duration) -> u32 {
    let whole = nanos(interval).saturating_sub(1) / nanos(INTERVAL_MAX);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

/// `outliers`, and then so many more.
const fn with(outliers: u32, more: u32) -> u32 {
    match u32::MAX.checked_shl(more) {
        Some(before) => outliers << more | !before,
        None => u32::MAX,
    }
}
