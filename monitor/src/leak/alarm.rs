//! Holds a condition for some time before it believes it, and some time before it lets go.
//!
//! Confidence grows by a minute for each minute that the condition holds, and falls by one for each
//! that it does not, so that a single doubtful minute does not undo an hour. Waiting makes sure, and
//! costs time: nothing waits for longer than a quarter of the time that is left. Nor does a time count
//! in which nobody looked: what holds after it need not have held in it.

use super::rules::Finding;

/// How much of the time that is left may be spent on making sure.
const PATIENCE: f64 = 0.25;
/// How many steps an observation may stand for: one, and half of one by which it is late.
const STEPS: f64 = 1.5;

/// An alarm of one rule. Times are in seconds.
#[derive(Debug)]
pub(super) struct Alarm {
    /// Time between two observations if samples come each minute, or more often.
    step: f64,
    /// What it was last: samples may be minutes apart.
    passed: f64,
    /// How long a condition holds before it is believed, if there is time.
    hold: f64,
    /// The same for what somebody is paged for.
    page_hold: f64,
    at: Option<f64>,
    /// For how long it has held, from 0 to `hold`.
    held: f64,
    /// For how long what pages has held as well, from 0 to `page_hold`.
    urgent: f64,
    is_on: bool,
    pages: bool,
    finding: Option<Finding>,
}

impl Alarm {
    pub(super) const fn new(step: f64, hold: f64, page_hold: f64) -> Self {
        Self {
            step,
            passed: 0.0,
            hold,
            page_hold,
            at: None,
            held: 0.0,
            urgent: 0.0,
            is_on: false,
            pages: false,
            finding: None,
        }
    }

    /// Takes what the rule found, `None` if it had too little to go by, and how many seconds are
    /// left at the lower end of its rate.
    pub(super) fn observe(&mut self, at: f64, finding: Option<Finding>, left: f64) {
        let passed = at - self.at.replace(at).unwrap_or(at);
        let before = std::mem::replace(&mut self.passed, passed);
        let passed = passed.min(self.step.max(before) * STEPS);
        let holds = finding.as_ref().is_some_and(Finding::holds);
        let may_page = holds && finding.as_ref().is_some_and(Finding::may_page);
        let grown = |time: f64, holds: bool, most: f64| {
            let time = if holds { time + passed } else { time - passed };
            time.clamp(0.0, most)
        };
        self.held = grown(self.held, holds, self.hold);
        self.urgent = grown(self.urgent, may_page, self.page_hold);
        let patience = left * PATIENCE;
        let rises = holds && self.held >= self.hold.min(patience);
        self.is_on = rises || self.is_on && self.held > 0.0;
        let rises = may_page && self.urgent >= self.page_hold.min(patience);
        self.pages = self.is_on && (rises || self.pages);
        // While it is on, what it was raised for says more than that it is ending.
        if !self.is_on || holds {
            self.finding = finding;
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it has been made as sure as the time that is left allows.
    pub(super) const fn pages(&self) -> bool {
        self.pages
    }

    pub(super) const fn finding(&self) -> Option<&Finding> {
        self.finding.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::{Gate, Interval};

    fn holds() -> Option<Finding> {
        let rate_per_hour = Interval {
            low: 1.0,
            middle: 1.0,
            high: 1.0,
        };
        Some(Finding {
            rate_per_hour,
            p: None,
            gates: vec![Gate::at_least("growth", 2.0, 1.0)],
            needed_to_page: 0,
        })
    }

    #[test]
    fn what_holds_before_a_gap_and_after_it_has_not_held_for_as_long_as_that() {
        const EPOCH: f64 = 600.0;
        const DAY: f64 = 86_400.0;
        let mut alarm = Alarm::new(EPOCH, 6.0 * EPOCH, DAY);
        alarm.observe(0.0, holds(), f64::INFINITY);
        alarm.observe(DAY, holds(), f64::INFINITY);
        assert!(!alarm.is_on() && !alarm.pages());
        // One that comes late counts in full, and so do those that come in time.
        let mut at = DAY + 1.5 * EPOCH;
        alarm.observe(at, holds(), f64::INFINITY);
        for _ in 0..3 {
            assert!(!alarm.is_on());
            at += EPOCH;
            alarm.observe(at, holds(), f64::INFINITY);
        }
        assert!(alarm.is_on() && !alarm.pages());
    }
}
