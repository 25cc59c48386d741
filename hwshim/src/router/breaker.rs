//! Stops sending work to an accelerator that keeps failing, and tries it again by itself.
//!
//! ```text
//!           failures_max failures in a row,
//!           or one broken rule or wrong answer
//!  +--------+ ------------------------------> +------+ <------------------+
//!  | CLOSED |                                 | OPEN |                    |
//!  +--------+ <------------+                  +------+                    |
//!                          |                     | backoff over           |
//!                          |                     v                        |
//!                          |  known answer  +-----------+  any other end, |
//!                          +--------------- | HALF-OPEN | ----------------+
//!                             came back     +-----------+  reset failed
//! ```
//!
//! Closed means that work flows, as electricians say it. While half-open, the only request the
//! accelerator gets is a known-answer test, so no caller's work is risked to find out. A new
//! breaker is open with its backoff over: nothing is trusted before its first trial.

use crate::clock::Instant;
use std::time::Duration;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Failures in a row that open it. Three tell a fault from a hiccup.
    pub failures_max: u32,
    /// Time from opening until the first trial. Resetting a card more often than every 5 s keeps
    /// some from ever coming up (Intel QAT's driver has the same limit).
    pub backoff: Duration,
    /// The backoff doubles with each trial that fails, up to this.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            failures_max: 3,
            backoff: Duration::from_secs(5),
            backoff_max: Duration::from_secs(300),
        }
    }
}

/// Decides whether an accelerator may be given work.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    since: Instant,
    /// How long the next time open lasts.
    backoff: Duration,
    /// Grows with every transition, so that outcomes of earlier work are recognized.
    epoch: u32,
    opened: u64,
    opened_by: &'static str,
}

/// States, as drawn above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Work is admitted.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// Work is refused.
    Open {
        /// When a trial is due.
        until: Instant,
    },
    /// A trial is under way.
    HalfOpen,
}

/// Leave to send one request, to be handed back with its outcome.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    epoch: u32,
}

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Answered in time, and verified.
    Success,
    /// Not answered in time, or answered with an error; with its evidence code.
    Failure(&'static str),
    /// Answered, and the answer was wrong; with its evidence code.
    Misbehaved(&'static str),
}

impl Breaker {
    /// Starts open, with a trial due at once.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Open {
                until: Instant::ORIGIN,
            },
            since: Instant::ORIGIN,
            backoff: limits.backoff,
            epoch: 0,
            opened: 0,
            opened_by: "",
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// When it was entered.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Times it has opened.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// Evidence code of what opened it last; empty if nothing has.
    #[must_use]
    pub const fn opened_by(&self) -> &'static str {
        self.opened_by
    }

    /// Changes with every transition: what was begun in another epoch is not of this one.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Asks to send one request.
    #[must_use = "a permit that is dropped is an outcome that is never recorded"]
    pub const fn admit(&self) -> Option<Permit> {
        match self.state {
            State::Closed { .. } => Some(Permit { epoch: self.epoch }),
            State::Open { .. } | State::HalfOpen => None,
        }
    }

    /// Whether a permit was given since the last transition.
    #[must_use]
    pub const fn is_current(&self, permit: &Permit) -> bool {
        permit.epoch == self.epoch
    }

    /// Records that an admitted request ended well. When makes no difference.
    pub fn succeed(&mut self, permit: Permit) {
        // Work admitted before the last transition says nothing about the present.
        if let State::Closed { failures } = &mut self.state
            && permit.epoch == self.epoch
        {
            *failures = 0;
        }
    }

    /// Records how an admitted request ended.
    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Instant) {
        let Permit { epoch } = permit;
        match (self.state, outcome) {
            (_, Outcome::Success) => self.succeed(permit),
            // An accelerator that lied is never to be believed, however late we learn.
            (_, Outcome::Misbehaved(code)) => self.open(code, now),
            // Other work admitted before the last transition says nothing about the present.
            _ if epoch != self.epoch => {}
            (State::Closed { failures }, Outcome::Failure(code)) => {
                if failures + 1 < self.limits.failures_max {
                    self.state = State::Closed {
                        failures: failures + 1,
                    };
                } else {
                    self.open(code, now);
                }
            }
            // Entering these starts an epoch in which no permit is issued.
            (State::Open { .. } | State::HalfOpen, _) => {}
        }
    }

    /// Opens at once, because of what `code` names.
    pub fn open(&mut self, code: &'static str, now: Instant) {
        match self.state {
            State::Closed { .. } => {
                // Whoever worked for as long as the longest backoff starts afresh.
                if now.since(self.since) >= self.limits.backoff_max {
                    self.backoff = self.limits.backoff;
                }
            }
            // Late news about a card that is out already must not delay its trial.
            State::Open { .. } => return,
            State::HalfOpen => {}
        }
        let until = now.plus(self.backoff.min(self.limits.backoff_max));
        self.backoff = self.backoff.saturating_mul(2).min(self.limits.backoff_max);
        self.opened += 1;
        self.opened_by = code;
        self.enter(State::Open { until }, now);
    }

    /// Whether a trial is due.
    #[must_use]
    pub fn trial_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { until } if until <= now)
    }

    /// Begins a trial that is due.
    pub fn begin_trial(&mut self, now: Instant) {
        if self.trial_due(now) {
            self.enter(State::HalfOpen, now);
        }
    }

    /// Ends a trial well.
    pub fn pass_trial(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.enter(State::Closed { failures: 0 }, now);
        }
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        failures_max: 2,
        backoff: Duration::from_secs(5),
        backoff_max: Duration::from_secs(20),
    };

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn closed() -> Breaker {
        let mut breaker = Breaker::new(LIMITS);
        breaker.begin_trial(at(0));
        breaker.pass_trial(at(0));
        breaker
    }

    fn fail(breaker: &mut Breaker, now: Instant) {
        let permit = breaker.admit().unwrap();
        breaker.record(permit, Outcome::Failure("timed-out"), now);
    }

    #[test]
    fn nothing_is_trusted_before_its_first_trial() {
        let breaker = Breaker::new(LIMITS);
        assert!(breaker.admit().is_none() && breaker.trial_due(at(0)));
        assert_eq!(breaker.opened(), 0);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_good_trial_closes_it() {
        let mut breaker = closed();
        fail(&mut breaker, at(1));
        assert!(breaker.admit().is_some());
        fail(&mut breaker, at(1));
        assert_eq!(breaker.state(), State::Open { until: at(6) });
        assert_eq!(breaker.opened_by(), "timed-out");
        assert!(!breaker.trial_due(at(5)) && breaker.trial_due(at(6)));
        breaker.begin_trial(at(6));
        assert!(breaker.admit().is_none());
        breaker.pass_trial(at(7));
        assert!(breaker.admit().is_some());
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let mut breaker = closed();
        fail(&mut breaker, at(1));
        let permit = breaker.admit().unwrap();
        breaker.record(permit, Outcome::Success, at(1));
        fail(&mut breaker, at(1));
        assert!(breaker.admit().is_some());
    }

    #[test]
    fn one_wrong_answer_opens_however_late_it_is_found() {
        let mut breaker = closed();
        let liar = breaker.admit().unwrap();
        fail(&mut breaker, at(1));
        fail(&mut breaker, at(1));
        breaker.begin_trial(at(6));
        breaker.pass_trial(at(6));
        breaker.record(liar, Outcome::Misbehaved("wrong-answer"), at(7));
        assert!(breaker.admit().is_none());
        assert_eq!(breaker.opened_by(), "wrong-answer");
    }

    #[test]
    fn stragglers_do_not_stand_in_for_the_present() {
        let mut breaker = closed();
        let straggler = breaker.admit().unwrap();
        let another = breaker.admit().unwrap();
        fail(&mut breaker, at(1));
        fail(&mut breaker, at(1));
        breaker.begin_trial(at(6));
        breaker.record(straggler, Outcome::Success, at(6));
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.pass_trial(at(6));
        breaker.record(another, Outcome::Failure("timed-out"), at(7));
        assert_eq!(breaker.state(), State::Closed { failures: 0 });
    }

    #[test]
    fn the_backoff_doubles_to_its_limit_and_shrinks_after_good_work() {
        let mut breaker = closed();
        let mut now = 0;
        for backoff in [5, 10, 20, 20] {
            breaker.open("gone", at(now));
            assert_eq!(
                breaker.state(),
                State::Open {
                    until: at(now + backoff)
                }
            );
            now += backoff;
            breaker.begin_trial(at(now));
        }
        breaker.pass_trial(at(now));
        breaker.open("gone", at(now + 20));
        assert_eq!(
            breaker.state(),
            State::Open {
                until: at(now + 25)
            }
        );
    }

    #[test]
    fn late_news_does_not_delay_the_trial() {
        let mut breaker = closed();
        breaker.open("gone", at(1));
        breaker.open("timed-out", at(4));
        assert_eq!(breaker.state(), State::Open { until: at(6) });
        assert_eq!((breaker.opened(), breaker.opened_by()), (1, "gone"));
    }
}
