//! Time as services live it: the clock's, or in a drill so many times faster.
//!
//! A leak takes hours, and who rehearses one has minutes. In a drill the watches of what services
//! hold are told a time that runs faster; they judge by their rules as ever, and what they say of
//! hours is said of that time. Nothing else is hurried: cards, the host, timeouts and the record
//! have the clock's time. Whoever sees the status is told.

use crate::status::DrillFigures;
use hwshim::clock::Instant;

/// How many times faster than the clock services live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceTime(u32);

impl Default for ServiceTime {
    fn default() -> Self {
        Self::REAL
    }
}

impl ServiceTime {
    /// As fast as the clock: no drill.
    pub const REAL: Self = Self(1);
    /// With polls of 200 ms, samples are then a minute apart. If they were further apart, rules that
    /// count minutes would have gaps to go by.
    pub const MAX: u32 = 300;

    /// So many times faster than the clock, 1 to [`MAX`](Self::MAX).
    #[must_use]
    pub const fn times_faster(factor: u32) -> Option<Self> {
        match factor {
            1..=Self::MAX => Some(Self(factor)),
            _ => None,
        }
    }

    /// What services live at `now`.
    pub(super) fn of(self, now: Instant) -> Instant {
        let lived = now.since(Instant::ORIGIN).saturating_mul(self.0);
        Instant::ORIGIN.plus(lived)
    }

    /// What is shown of it; `None` where it is no drill.
    #[must_use]
    pub fn figures(self) -> Option<DrillFigures> {
        (self != Self::REAL).then(|| DrillFigures {
            service_time: self.0,
            notice: format!(
                "DRILL: what services hold is judged as if they lived {} times as fast as the clock; \
                 hours and days that are said of it are theirs",
                self.0
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn in_a_drill_a_minute_is_an_hour_and_otherwise_a_minute() {
        let minute = Instant::ORIGIN.plus(Duration::from_secs(60));
        assert_eq!(ServiceTime::REAL.of(minute), minute);
        let drill = ServiceTime::times_faster(60).unwrap();
        let hour = Instant::ORIGIN.plus(Duration::from_secs(3600));
        assert_eq!(drill.of(minute), hour);
        assert_eq!(ServiceTime::times_faster(0), None);
        assert_eq!(ServiceTime::times_faster(ServiceTime::MAX + 1), None);
    }

    #[test]
    fn a_drill_says_so_and_nothing_else_does() {
        assert_eq!(ServiceTime::REAL.figures(), None);
        let figures = ServiceTime::times_faster(60).unwrap().figures().unwrap();
        assert!(
            figures
                .notice
                .starts_with("DRILL: what services hold is judged as if they lived 60 times")
        );
    }
}
