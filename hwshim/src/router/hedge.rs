//! When software is asked as well, because an accelerator is late, and how often at most.
//!
//! ```text
//!               due: as late as hardly any answer is            software's answer
//!   IN FLIGHT ---------------------------------------> HEDGED -------------------> STRAGGLING
//!       |        and there is credit                      |                             |
//!       | card's answer                     card's answer |               card's answer |
//!       v                                                 v                             v
//!    ARRIVED                             discarded, software's counts          discarded, counted
//! ```
//!
//! An accelerator that has hung costs its callers the whole timeout until its breaker opens; one that
//! hiccups costs it again and again, and never opens it. A hedge costs one operation in software.
//! Were there no limit, a card that became slow would turn into software at once with all its load, on a
//! host that was dimensioned for half of it; so hedges are paid for with a share of the requests.

use std::time::Duration;

/// When and how often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Hedges per thousand requests. 50 cover the hundredth part that is late by definition and
    /// four times as many more, and cost 5 % of what software alone would.
    pub per_thousand: u32,
    /// Hedges that may come at once after a time without any: a card that hangs does so with many
    /// requests. A few, because each occupies a core.
    pub burst: u32,
    /// No request is hedged before this. On a host that is busy a driver wakes up a few
    /// milliseconds late, which is not the accelerator's lateness.
    pub floor: Duration,
}

impl Limits {
    /// Software is asked only when the deadline has passed.
    pub const NEVER: Self = Self {
        per_thousand: 0,
        burst: 0,
        floor: Duration::ZERO,
    };

    /// See the fields.
    pub const DEFAULT: Self = Self {
        per_thousand: 50,
        burst: 8,
        floor: Duration::from_millis(3),
    };

    /// How long after its submission a request is to be hedged.
    ///
    /// `p99` is what 99 of 100 answers took; `expected` is what this one is to take, as much as
    /// there is in flight now: when a queue has just grown, answers that are later than ever
    /// are no surprise. Without a `p99` there is nothing to be late against, and the deadline has to do.
    #[must_use]
    pub fn wait(&self, p99: Option<Duration>, expected: Duration) -> Option<Duration> {
        if self.per_thousand == 0 {
            return None;
        }
        Some(p99?.max(expected.saturating_mul(2)).max(self.floor))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What there is to spend.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    /// In thousandths of a hedge.
    credit: u32,
}

/// What a hedge costs, in the unit of [`Budget::credit`].
const PRICE: u32 = 1_000;

impl Budget {
    /// Starts with one burst.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            credit: limits.burst.saturating_mul(PRICE),
        }
    }

    /// Earns what one request earns.
    pub fn earn(&mut self) {
        let most = self.limits.burst.saturating_mul(PRICE);
        self.credit = self
            .credit
            .saturating_add(self.limits.per_thousand)
            .min(most);
    }

    /// Pays for a hedge, if there is credit.
    #[must_use]
    pub const fn spend(&mut self) -> bool {
        let Some(left) = self.credit.checked_sub(PRICE) else {
            return false;
        };
        self.credit = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_request_is_hedged_when_it_is_later_than_both_the_rest_and_its_queue_explain() {
        let limits = Limits::DEFAULT;
        let wait = |p99, expected| limits.wait(Some(millis(p99)), millis(expected));
        assert_eq!(wait(8, 1), Some(millis(8)));
        assert_eq!(wait(8, 7), Some(millis(14)));
        assert_eq!(wait(1, 1), Some(limits.floor));
        assert_eq!(limits.wait(None, millis(1)), None);
        assert_eq!(Limits::NEVER.wait(Some(millis(8)), millis(1)), None);
    }

    #[test]
    fn of_many_requests_that_are_all_late_a_twentieth_is_hedged() {
        let mut budget = Budget::new(Limits::DEFAULT);
        let mut hedged = 0_u32;
        for _ in 0..10_000 {
            budget.earn();
            hedged += u32::from(budget.spend());
        }
        assert!((500..=508).contains(&hedged), "{hedged}");
    }

    #[test]
    fn what_is_saved_up_is_one_burst() {
        let mut budget = Budget::new(Limits::DEFAULT);
        for _ in 0..100_000 {
            budget.earn();
        }
        let burst = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(burst, 8);
    }
}
