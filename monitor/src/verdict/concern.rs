//! Keeps what is said of a card that serves from coming and going with each busy second of its host.
//!
//! Of a light nature is what is wrong neither with the card nor with its link nor with its service:
//! others take the time. That comes in bursts, and whoever is told of each burst stops listening. So
//! it is said at once, and held until it has not been seen for a while; the sooner it comes back after
//! that, the longer it is held. What is graver is never held, and never waits.
//!
//! ```text
//!            seen                          not seen for as long as it is held
//!   NOTHING ------> SAID, since then ------------------------------------------> NOTHING
//!                     |  ^                                                          |
//!         seen again  +--+<---------------------------------------------------------+
//!                            seen again: held for twice as long, if that is soon
//! ```

use super::{Cause, Evidence};
use crate::attribution::Assessment;
use crate::text::spoken;
use hwshim::clock::Instant;
use std::time::Duration;

/// At first, a concern is held for so long: twice as long as what was seen of a host takes to tell
/// half as much.
const HELD_MIN: Duration = Duration::from_secs(60);
/// Never for longer than Netdata waits before an alarm comes down. What comes back later than that
/// is another matter.
const HELD_MAX: Duration = Duration::from_secs(15 * 60);

/// What is at fault though a card serves, from poll to poll.
#[derive(Debug)]
pub(super) struct Concerns {
    held: Option<Held>,
    /// For how long the last one was held without being seen.
    held_for: Duration,
    let_go_at: Option<Instant>,
}

/// A concern of a light nature that is said.
#[derive(Debug)]
struct Held {
    cause: Cause,
    since: Instant,
    seen_at: Instant,
    /// What was seen then.
    why: Option<Evidence>,
}

/// Others take the time, which is theirs to take.
const fn is_light(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::HostStarvation | Cause::Overload | Cause::Monitor
    )
}

impl Concerns {
    pub(super) const fn new() -> Self {
        Self {
            held: None,
            held_for: HELD_MIN,
            let_go_at: None,
        }
    }

    /// What to say is at fault with a card that serves, and why, by what was weighed now and before.
    pub(super) fn poll(
        &mut self,
        assessment: &Assessment,
        now: Instant,
    ) -> (Cause, Option<Evidence>) {
        let weighed = match assessment.cause {
            Cause::Undetermined => Cause::None,
            cause => cause,
        };
        let why = weighed_first(assessment).filter(|_| weighed != Cause::None);
        self.let_go(now);
        if is_light(weighed) {
            self.hold(weighed, why, now);
        } else if weighed != Cause::None {
            return (weighed, why);
        }
        self.held.as_ref().map_or((Cause::None, None), |held| {
            (held.cause, held.why.as_ref().map(|why| held.told(why, now)))
        })
    }

    fn let_go(&mut self, now: Instant) {
        let held_for = self.held_for;
        let is_over = |held: &mut Held| now.since(held.seen_at) >= held_for;
        if self.held.take_if(is_over).is_some() {
            self.let_go_at = Some(now);
        }
    }

    fn hold(&mut self, cause: Cause, why: Option<Evidence>, now: Instant) {
        if self.held.is_none() {
            let is_back = self.let_go_at.is_some_and(|at| now.since(at) < HELD_MAX);
            self.held_for = match is_back {
                true => (self.held_for * 2).min(HELD_MAX),
                false => HELD_MIN,
            };
        }
        // Of two that come in turns, the one that was said stays.
        let is_another = |held: &Held| held.cause != cause && now.since(held.seen_at) >= HELD_MIN;
        if self.held.as_ref().is_none_or(is_another) {
            self.held = Some(Held {
                cause,
                since: now,
                seen_at: now,
                why,
            });
        } else if let Some(held) = self.held.as_mut().filter(|held| held.cause == cause) {
            held.seen_at = now;
            held.why = why;
        }
    }
}

impl Held {
    /// What was seen, when it was first, and when it was last.
    fn told(&self, why: &Evidence, now: Instant) -> Evidence {
        let ago = |at| spoken(now.since(at));
        let mut detail = why.detail.clone();
        if self.since < now {
            detail += &format!("; first {} ago", ago(self.since));
        }
        if self.seen_at < now {
            detail += &format!(", last {} ago", ago(self.seen_at));
        }
        Evidence {
            code: why.code.clone(),
            detail,
        }
    }
}

/// What was seen that speaks most for whom the assessment names.
fn weighed_first(assessment: &Assessment) -> Option<Evidence> {
    let first = assessment.evidence_for.iter().find(|it| it.was_seen)?;
    Some(Evidence {
        code: first.code.into(),
        detail: first.detail.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Circumstances, Dossier, Kind, Priors, assess};

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn of_two_that_come_in_turns_the_one_that_was_said_stays_until_it_is_not_seen_for_a_minute() {
        let mut concerns = Concerns::new();
        let mut said = |kind, now| {
            let mut dossier = Dossier::new();
            for other in [Kind::HostPressure, Kind::OwnLateness, Kind::QueueLong] {
                dossier.not_seen(other, "it is not so", now);
            }
            dossier.seen(kind, 1.0, "it is so", now);
            let (circumstances, priors) = (Circumstances::default(), Priors::default());
            let assessment = assess(&dossier, &circumstances, &priors, now);
            concerns.poll(&assessment, now).0
        };
        for turn in 0..10 {
            let pressed = said(Kind::HostPressure, at(turn * 2));
            assert_eq!(pressed, Cause::HostStarvation);
            let late = said(Kind::OwnLateness, at(turn * 2 + 1));
            assert_eq!(late, Cause::HostStarvation);
        }
        assert_eq!(said(Kind::OwnLateness, at(77)), Cause::HostStarvation);
        assert_eq!(said(Kind::OwnLateness, at(78)), Cause::Monitor);
    }
}
