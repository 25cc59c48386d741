//! Holds a condition for some time before it believes it, and some time before it lets go.
//!
//! Confidence grows by a minute for each minute that the condition holds, and falls by one for each
//! that it does not, so that a single doubtful minute does not undo an hour. Waiting makes sure, and
//! costs time: nothing waits for longer than a quarter of the time that is left.

use super::rules::Finding;

/// How much of the time that is left may be spent on making sure.
const PATIENCE: f64 = 0.25;

/// An alarm of one rule. Times are in seconds.
#[derive(Debug)]
pub(super) struct Alarm {
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
    pub(super) const fn new(hold: f64, page_hold: f64) -> Self {
        Self {
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
