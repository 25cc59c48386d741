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
use std::collections::BTreeMap;
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
    /// Of each that was said before, when it was let go of, and for how long it was held until then.
    /// One that comes as another goes has not come back.
    before: BTreeMap<Cause, (Instant, Duration)>,
}

/// A concern of a light nature that is said.
#[derive(Debug)]
struct Held {
    cause: Cause,
    since: Instant,
    seen_at: Instant,
    /// For how long it is held without being seen.
    held_for: Duration,
    /// What was seen then.
    why: Option<Evidence>,
}

impl Concerns {
    pub(super) const fn new() -> Self {
        Self {
            held: None,
            before: BTreeMap::new(),
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
        if weighed.is_light() {
            self.hold(weighed, why, now);
        } else if weighed != Cause::None {
            return (weighed, why);
        }
        self.held.as_ref().map_or((Cause::None, None), |held| {
            (held.cause, held.why.as_ref().map(|why| held.told(why, now)))
        })
    }

    fn let_go(&mut self, now: Instant) {
        let is_over = |held: &mut Held| now.since(held.seen_at) >= held.held_for;
        if let Some(held) = self.held.take_if(is_over) {
            self.before.insert(held.cause, (now, held.held_for));
        }
    }

    fn hold(&mut self, cause: Cause, why: Option<Evidence>, now: Instant) {
        if let Some(held) = self.held.as_mut().filter(|held| held.cause == cause) {
            held.seen_at = now;
            held.why = why;
            return;
        }
        // Of two that come in turns, the one that was said stays.
        let gives_way = |held: &mut Held| now.since(held.seen_at) >= HELD_MIN;
        if let Some(held) = self.held.take_if(gives_way) {
            self.before.insert(held.cause, (now, held.held_for));
        }
        if self.held.is_none() {
            self.held = Some(Held {
                cause,
                since: now,
                seen_at: now,
                held_for: self.to_be_held_for(cause, now),
                why,
            });
        }
    }

    /// Twice as long as the last time if that was not long ago.
    fn to_be_held_for(&self, cause: Cause, now: Instant) -> Duration {
        let before = self.before.get(&cause);
        let recent = before.filter(|(at, _)| now.since(*at) < HELD_MAX);
        recent.map_or(HELD_MIN, |(_, held_for)| (*held_for * 2).min(HELD_MAX))
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

    /// What is said at that second, at which this was seen, or nothing.
    fn said(concerns: &mut Concerns, seen: Option<Kind>, second: u64) -> Cause {
        let mut dossier = Dossier::new();
        for other in [Kind::HostPressure, Kind::OwnLateness, Kind::QueueLong] {
            dossier.not_seen(other, "it is not so", at(second));
        }
        if let Some(kind) = seen {
            dossier.seen(kind, 1.0, "it is so", at(second));
        }
        let (circumstances, priors) = (Circumstances::default(), Priors::default());
        let assessment = assess(&dossier, &circumstances, &priors, at(second));
        concerns.poll(&assessment, at(second)).0
    }

    const PRESSED: Option<Kind> = Some(Kind::HostPressure);
    const LATE: Option<Kind> = Some(Kind::OwnLateness);

    #[test]
    fn of_two_that_come_in_turns_the_one_that_was_said_stays_until_it_is_not_seen_for_a_minute() {
        let mut concerns = Concerns::new();
        let mut said = |seen, second| said(&mut concerns, seen, second);
        for turn in 0..10 {
            assert_eq!(said(PRESSED, turn * 2), Cause::HostStarvation);
            assert_eq!(said(LATE, turn * 2 + 1), Cause::HostStarvation);
        }
        assert_eq!(said(LATE, 77), Cause::HostStarvation);
        assert_eq!(said(LATE, 78), Cause::Monitor);
    }

    #[test]
    fn who_comes_as_another_goes_has_not_come_back_and_is_held_for_a_minute() {
        let mut concerns = Concerns::new();
        let mut said = |seen, second| said(&mut concerns, seen, second);
        assert_eq!(said(PRESSED, 0), Cause::HostStarvation);
        assert_eq!(said(LATE, 60), Cause::Monitor);
        assert_eq!(said(None, 119), Cause::Monitor);
        assert_eq!(said(None, 120), Cause::None);
        // It is back after a minute, and is held for two; another that takes its place then is not.
        assert_eq!(said(PRESSED, 130), Cause::HostStarvation);
        assert_eq!(said(None, 249), Cause::HostStarvation);
        assert_eq!(said(None, 250), Cause::None);
        assert_eq!(said(Some(Kind::QueueLong), 251), Cause::Overload);
        assert_eq!(said(None, 310), Cause::Overload);
        assert_eq!(said(None, 311), Cause::None);
    }
}
