//! What must be true at every step, whatever goes wrong.

use hwshim::clock::Instant;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::LaneStatus;
use std::fmt;

/// What must be true.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// No wrong answer is released: what callers get is the truth.
    OnlyTruthReleased,
    /// A request is in one place, ends once, and the sum holds.
    OnePlace,
    /// Every operation ends by its deadline.
    EndsByDeadline,
    /// The breaker follows its picture, and says why it opens.
    LegalTransition,
    /// No card gets a caller's work before its known answer has passed.
    ProvenFirst,
    /// Work returns to the card within the longest backoff after what was wrong has ended.
    WorkReturns,
    /// The breaker opens for a reason that what is wrong can be, and for none if nothing is.
    NoFalseAlarm,
    /// What happens at one instant comes to an end.
    ComesToRest,
    /// Nothing panics.
    NoPanic,
}

impl Invariant {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnlyTruthReleased => "only-truth-released",
            Self::OnePlace => "one-place",
            Self::EndsByDeadline => "ends-by-deadline",
            Self::LegalTransition => "legal-transition",
            Self::ProvenFirst => "proven-first",
            Self::WorkReturns => "work-returns",
            Self::NoFalseAlarm => "no-false-alarm",
            Self::ComesToRest => "comes-to-rest",
            Self::NoPanic => "no-panic",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What was not true, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) detail: String,
    /// Requests of which nobody knows any more where they are.
    pub(crate) lost: u64,
}

impl Violation {
    pub(crate) fn new(invariant: Invariant, detail: impl fmt::Display) -> Self {
        Self {
            invariant,
            detail: detail.to_string(),
            lost: 0,
        }
    }

    /// [`Invariant::OnePlace`]: so many requests are in none, or in another than they should be.
    pub(crate) fn misplaced(lost: u64, detail: impl fmt::Display) -> Self {
        Self {
            lost,
            ..Self::new(Invariant::OnePlace, detail)
        }
    }
}

/// What the breaker was when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerWatch {
    limits: Limits,
    state: State,
    opened: u64,
}

/// What the breaker has done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transition {
    /// From closed: the card was in use.
    Opened(&'static str),
    /// A trial has failed, or could not even begin.
    StayedOpen(&'static str),
    HalfOpened,
    Closed,
}

impl BreakerWatch {
    pub(crate) const fn new(limits: Limits, status: &LaneStatus) -> Self {
        Self {
            limits,
            state: status.breaker,
            opened: status.breaker_opened,
        }
    }

    /// Says what has happened since the last call, of which there is one for each thing that may
    /// move the breaker.
    ///
    /// # Errors
    ///
    /// [`Invariant::LegalTransition`] for what is not in the breaker's picture.
    pub(crate) fn look(
        &mut self,
        status: &LaneStatus,
        now: Instant,
    ) -> Result<Option<Transition>, Violation> {
        let before = std::mem::replace(&mut self.state, status.breaker);
        let opened = status.breaker_opened - self.opened;
        self.opened = status.breaker_opened;
        let code = status.breaker_opened_by;
        let transition = match (before, status.breaker, opened) {
            (State::Closed { .. }, State::Closed { .. }, 0)
            | (State::HalfOpen, State::HalfOpen, 0) => None,
            (State::Open { until: was }, State::Open { until: is }, 0) if was == is => None,
            (State::Closed { .. }, State::Open { .. }, 1) => Some(Transition::Opened(code)),
            (State::Open { until }, State::HalfOpen, 0) if until <= now => {
                Some(Transition::HalfOpened)
            }
            // The reset failed at once.
            (State::Open { until }, State::Open { .. }, 1) if until <= now => {
                Some(Transition::StayedOpen(code))
            }
            (State::HalfOpen, State::Open { .. }, 1) => Some(Transition::StayedOpen(code)),
            (State::HalfOpen, State::Closed { .. }, 0) => Some(Transition::Closed),
            (before, after, opened) => {
                return Err(illegal(format!(
                    "from {before:?} to {after:?}, having opened {opened} times"
                )));
            }
        };
        if let (Some(Transition::Opened(_) | Transition::StayedOpen(_)), State::Open { until }) =
            (transition, status.breaker)
        {
            self.check_opening(status, until)?;
        }
        Ok(transition)
    }

    fn check_opening(&self, status: &LaneStatus, until: Instant) -> Result<(), Violation> {
        if status.breaker_opened_by.is_empty() {
            return Err(illegal("it opened and does not say why".to_owned()));
        }
        let backoff = until.since(status.breaker_since);
        let Limits {
            backoff: least,
            backoff_max: most,
            ..
        } = self.limits;
        if backoff < least || backoff > most {
            return Err(illegal(format!(
                "it opened for {backoff:?}, which is not between {least:?} and {most:?}"
            )));
        }
        Ok(())
    }
}

fn illegal(detail: String) -> Violation {
    Violation::new(Invariant::LegalTransition, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::accelerator::Counters;
    use hwshim::router::core::{Checks, Requests};
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn status(breaker: State, opened: u64, since: Instant) -> LaneStatus {
        LaneStatus {
            name: "card".to_owned(),
            state: None,
            state_since: since,
            failure: None,
            breaker,
            breaker_since: since,
            breaker_opened: opened,
            breaker_opened_by: "timed-out",
            requests: Requests::default(),
            checks: Checks::default(),
            resets: 0,
            resets_failed: 0,
            lacking: Vec::new(),
            keys_refused: 0,
            counters: Counters::default(),
        }
    }

    const CLOSED: State = State::Closed { failures: 0 };

    fn open(until: u64) -> State {
        State::Open { until: at(until) }
    }

    #[test]
    fn a_breaker_that_follows_its_picture_is_followed() {
        let mut watch = BreakerWatch::new(Limits::default(), &status(CLOSED, 0, at(0)));
        let mut look = |breaker, opened, now: u64| {
            let found = watch.look(&status(breaker, opened, at(now)), at(now));
            found.expect("it is in the picture")
        };
        assert_eq!(look(State::Closed { failures: 2 }, 0, 1), None);
        let opened = Transition::Opened("timed-out");
        assert_eq!(look(open(7), 1, 2), Some(opened));
        assert_eq!(look(State::HalfOpen, 1, 7), Some(Transition::HalfOpened));
        let again = Transition::StayedOpen("timed-out");
        assert_eq!(look(open(18), 2, 8), Some(again));
        assert_eq!(look(open(38), 3, 18), Some(again));
        assert_eq!(look(State::HalfOpen, 3, 38), Some(Transition::HalfOpened));
        assert_eq!(look(CLOSED, 3, 39), Some(Transition::Closed));
    }

    #[test]
    fn a_breaker_that_leaves_its_picture_is_caught() {
        for (before, after, opened, now) in [
            (CLOSED, State::HalfOpen, 0, 1),
            (CLOSED, CLOSED, 1, 1),
            (open(5), CLOSED, 0, 5),
            // Before its time, for too short and for too long.
            (open(5), State::HalfOpen, 0, 4),
            (CLOSED, open(3), 1, 1),
            (CLOSED, open(400), 1, 1),
            (State::HalfOpen, CLOSED, 1, 1),
        ] {
            let mut watch = BreakerWatch::new(Limits::default(), &status(before, 0, at(0)));
            let found = watch.look(&status(after, opened, at(now)), at(now));
            let violation = found.expect_err("it is not in the picture");
            assert_eq!(violation.invariant, Invariant::LegalTransition);
        }
    }
}
