//! When a card is tested: on a schedule, and when somebody asks for it.
//!
//! A test is work like any other, and must not become what it looks for. So whoever asks, and however
//! often:
//!
//! ```text
//!   one at a time          the next begins when the last has ended
//!   1 % of the card        after a test that took L, none for 100 L from its beginning
//!   not in step            each wait differs from the schedule by up to a tenth
//!   a second apart         what is asked for again within one is answered by the same test
//! ```
//!
//! It begins no test and is told the time.

use crate::clock::{Instant, nanos};
use crate::router::core::{CheckEnd, Checks};
use std::time::Duration;

/// A test may take that part of the time.
const SHARE: u32 = 100;
/// Tests that are asked for are so far apart, however quick the card is.
const ASKED_GAP: Duration = Duration::from_secs(1);
/// Who asks waits so long for a test to be allowed. Longer, and they are told when to come again.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A test whose end is not heard of by then counts as over: operations have shorter deadlines.
const LAPSE: Duration = Duration::from_secs(30);

/// No test for whoever asks: the last one was too dear, or is too fresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooSoon {
    /// When to ask again.
    pub retry_after: Duration,
}

/// When the next test of a card is due.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the schedule has the next.
    next: Instant,
    /// Not before this, whoever asks.
    quiet_until: Instant,
    began: Option<Instant>,
    is_running: bool,
    /// Somebody asks for one, or for the end of the one that runs.
    is_wanted: bool,
    /// Whether the one that runs began after somebody had asked.
    answers: bool,
    random: u64,
}

impl Pace {
    /// The first is due at once. Owners with different seeds are not in step.
    pub(super) const fn new(interval: Duration, seed: u64) -> Self {
        Self {
            interval,
            next: Instant::ORIGIN,
            quiet_until: Instant::ORIGIN,
            began: None,
            is_running: false,
            is_wanted: false,
            answers: false,
            random: seed,
        }
    }

    /// Somebody wants a test now.
    pub(super) fn want(&mut self, now: Instant) -> Result<(), TooSoon> {
        let wait = self.allowed_from().since(now);
        if wait > WAIT_MAX && !self.answers {
            return Err(TooSoon { retry_after: wait });
        }
        self.is_wanted = true;
        Ok(())
    }

    /// Nobody waits any more.
    pub(super) const fn forget(&mut self) {
        self.is_wanted = false;
        self.answers = false;
    }

    /// Whether somebody waits for a test that has not begun.
    pub(super) const fn is_waited_for(&self) -> bool {
        self.is_wanted && !self.answers
    }

    pub(super) const fn is_running(&self) -> bool {
        self.is_running
    }

    /// Whether one should begin.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let by_schedule = now >= self.next.max(self.quiet_until);
        let by_wish = self.is_wanted && now >= self.allowed_from();
        !self.is_running && (by_schedule || by_wish)
    }

    /// One has begun.
    pub(super) fn began(&mut self, now: Instant) {
        self.next = now.plus(self.jittered());
        self.began = Some(now);
        self.is_running = true;
        self.answers = self.is_wanted;
    }

    /// Takes in how tests have ended; the one that somebody waits for, if that is among them.
    pub(super) fn look(&mut self, checks: &Checks, now: Instant) -> Option<CheckEnd> {
        let began = self.began.filter(|_| self.is_running)?;
        let ended = checks
            .last
            .filter(|last| last.at >= began.plus(last.latency));
        if let Some(CheckEnd { latency, .. }) = ended {
            self.quiet_until = began.plus(latency.saturating_mul(SHARE));
        } else if now.since(began) < LAPSE {
            return None;
        }
        self.is_running = false;
        let asked = std::mem::take(&mut self.answers);
        self.is_wanted &= !asked;
        ended.filter(|_| asked)
    }

    /// When one that is asked for may begin.
    fn allowed_from(&self) -> Instant {
        let apart = self.began.map_or(Instant::ORIGIN, |at| at.plus(ASKED_GAP));
        apart.max(self.quiet_until)
    }

    /// The interval, more or less.
    fn jittered(&mut self) -> Duration {
        // SplitMix64: anything that differs from owner to owner would do.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let interval = nanos(self.interval);
        let fifth = (interval / 5).max(1);
        Duration::from_nanos(interval - interval / 10 + mixed % fifth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::Algorithm;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_millis(1_000_000 + millis))
    }

    fn ended(begun: Instant, latency: Duration) -> Checks {
        Checks {
            started: 1,
            passed: 1,
            failed: 0,
            last: Some(CheckEnd {
                algorithm: Algorithm::AesGcm,
                at: begun.plus(latency),
                latency,
                failure: None,
            }),
        }
    }

    #[test]
    fn no_more_than_a_hundredth_of_the_time_goes_into_tests() {
        for latency in [1, 30, 200, 900].map(Duration::from_millis) {
            let mut pace = Pace::new(Duration::from_millis(100), 7);
            let (mut tested, mut now) = (Duration::ZERO, at(0));
            while now < at(1_000_000) {
                // Somebody never stops asking.
                let _ = pace.want(now);
                if pace.is_due(now) {
                    pace.began(now);
                    pace.look(&ended(now, latency), now.plus(latency));
                    tested += latency;
                }
                now = now.plus(Duration::from_millis(50));
            }
            let whole = now.since(at(0));
            assert!(tested * SHARE <= whole + latency * SHARE, "{latency:?}");
            assert!(
                tested * SHARE * 20 >= whole.min(latency * 20_000),
                "{latency:?}"
            );
        }
    }

    #[test]
    fn waits_are_jittered_within_a_tenth_and_owners_are_not_in_step() {
        let waits = |seed| {
            let mut pace = Pace::new(INTERVAL, seed);
            [(); 50].map(|()| pace.jittered())
        };
        assert_ne!(waits(1), waits(2));
        let (low, high) = (INTERVAL * 9 / 10, INTERVAL * 11 / 10);
        assert!(waits(3).iter().all(|wait| (low..high).contains(wait)));
        assert!(waits(3).iter().any(|wait| *wait < INTERVAL));
        assert!(waits(3).iter().any(|wait| *wait > INTERVAL));
    }

    #[test]
    fn a_test_that_began_before_it_was_asked_for_is_no_answer() {
        let mut pace = Pace::new(INTERVAL, 7);
        pace.began(at(0));
        pace.want(at(10)).unwrap();
        let latency = Duration::from_millis(15);
        assert_eq!(pace.look(&ended(at(0), latency), at(20)), None);
        assert!(!pace.is_due(at(999)), "a second apart");
        assert!(pace.is_due(at(1_500)));
        pace.began(at(1_500));
        // The end of the one before is still what is known.
        assert_eq!(pace.look(&ended(at(0), latency), at(1_600)), None);
        let end = ended(at(1_500), latency);
        assert_eq!(pace.look(&end, at(1_600)), end.last);
        assert!(!pace.is_due(at(5_000)), "asked for once, answered once");
    }

    #[test]
    fn who_asks_after_a_dear_test_is_told_when_to_come_again() {
        let mut pace = Pace::new(INTERVAL, 7);
        pace.began(at(0));
        pace.look(&ended(at(0), Duration::from_millis(200)), at(200));
        let refused = pace.want(at(5_000)).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(15));
        assert!(!pace.is_due(at(19_900)), "nor has the schedule its way");
        pace.want(at(19_000)).unwrap();
        assert!(pace.is_due(at(20_000)));
    }

    #[test]
    fn a_test_whose_end_is_never_heard_of_does_not_stop_all_others() {
        let mut pace = Pace::new(INTERVAL, 7);
        pace.began(at(0));
        assert_eq!(pace.look(&Checks::default(), at(29_000)), None);
        assert!(!pace.is_due(at(29_000)));
        assert_eq!(pace.look(&Checks::default(), at(30_000)), None);
        assert!(pace.is_due(at(30_000)));
    }
}
