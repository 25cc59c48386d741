//! Keeps a card that comes and goes from being used again at once, and its coming and going from
//! being told each time.
//!
//! Two things, each after a model that has done its work for decades. [`Damping`] is BGP's (RFC 2439
//! "BGP Route Flap Damping"): who falls often stays out for longer. [`Flapping`] is that of Nagios:
//! whose state changes all the time is said to flap, once. Neither looks at why.
//!
//! ```text
//!            penalty over 2000                      state changes >= 20 %
//!   IN USE ---------------------> OUT      STEADY --------------------------> FLAPPING
//!          <---------------------                 <--------------------------
//!            under 750, or after an hour            <= 5 %
//! ```

use crate::text::spoken;
use crate::verdict::{Evidence, State};
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The code of the warning.
pub const FLAPPING: &str = "flapping";
/// A state that stays counts once in so long as one that was looked at, so that the last ten minutes
/// are looked back upon if nothing changes; a change counts at once.
const STEADY_INTERVAL: Duration = Duration::from_secs(30);

/// Follows the state of one card.
#[derive(Debug)]
pub struct CardFlaps {
    flapping: Flapping<State>,
    damping: Damping,
    /// The last state that counted, and when it did.
    last: Option<(State, Instant)>,
}

impl CardFlaps {
    /// Has seen nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            flapping: Flapping::new(),
            damping: Damping::new(Penalties::default(), now),
            last: None,
        }
    }

    /// Takes in how the card is, once a poll; the warning, while it flaps.
    ///
    /// While nothing is known of a card it is neither up nor down: what is blind or starved does not
    /// make it flap.
    pub fn poll(&mut self, state: State, now: Instant) -> Option<Evidence> {
        if state != State::Unknown {
            self.take(state, now);
        }
        self.flapping.is_flapping().then(|| self.warning(now))
    }

    fn take(&mut self, state: State, now: Instant) {
        let before = self.last;
        let is_due =
            before.is_none_or(|(last, at)| last != state || now.since(at) >= STEADY_INTERVAL);
        if !is_due {
            return;
        }
        let was_up = before.is_some_and(|(last, _)| last == State::Connected);
        if was_up && matches!(state, State::Unavailable | State::Unreachable) {
            self.damping.went_down(now);
        }
        self.flapping.record(state);
        self.last = Some((state, now));
    }

    /// The monitor keeps no card out, and the owner's breaker decides by itself when it tries a card
    /// again: how long routers would wait is for whoever wonders whether to drain it.
    fn warning(&self, now: Instant) -> Evidence {
        let (changes, percent) = (self.flapping.changes(), self.flapping.percent());
        let advice = match self.damping.out_for(now) {
            Duration::ZERO => String::new(),
            out_for => format!(
                "; the breaker goes on trying it: to damp it as routers damp routes, drain it for {}",
                spoken(out_for)
            ),
        };
        Evidence {
            code: FLAPPING.into(),
            detail: format!(
                "its state changed {changes} times of the last 20 that count ({percent:.0} %, late \
                 ones weighing more; over from {STOP_PERCENT} % down){advice}"
            ),
        }
    }
}

/// How hard flaps are punished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Added each time a card goes down.
    pub per_flap: f64,
    /// Over it, the card stays out.
    pub suppress: f64,
    /// Under it, the card may be used again.
    pub reuse: f64,
    /// The penalty halves in that time.
    pub half_life: Duration,
    /// No card stays out for longer than that after its last flap.
    pub suppress_max: Duration,
}

impl Default for Penalties {
    /// Those of routers: three quick flaps keep a card out for half an hour.
    fn default() -> Self {
        Self {
            per_flap: 1000.0,
            suppress: 2000.0,
            reuse: 750.0,
            half_life: Duration::from_secs(15 * 60),
            suppress_max: Duration::from_secs(60 * 60),
        }
    }
}

/// The penalty of one card.
#[derive(Clone, Debug)]
pub struct Damping {
    penalties: Penalties,
    penalty: f64,
    /// When it was that much.
    as_of: Instant,
    is_out: bool,
}

impl Damping {
    /// Without penalty.
    #[must_use]
    pub const fn new(penalties: Penalties, now: Instant) -> Self {
        Self {
            penalties,
            penalty: 0.0,
            as_of: now,
            is_out: false,
        }
    }

    /// The card went down.
    pub fn went_down(&mut self, now: Instant) {
        let was_out = self.is_out(now);
        let Penalties {
            per_flap,
            suppress,
            reuse,
            half_life,
            suppress_max,
        } = self.penalties;
        // From there it decays to reuse in just the longest time that is allowed.
        let ceiling = reuse * (suppress_max.as_secs_f64() / half_life.as_secs_f64()).exp2();
        self.penalty = (self.penalty(now) + per_flap).min(ceiling);
        self.as_of = self.as_of.max(now);
        self.is_out = was_out || self.penalty > suppress;
    }

    /// The penalty that is left.
    #[must_use]
    pub fn penalty(&self, now: Instant) -> f64 {
        let half_lives =
            now.since(self.as_of).as_secs_f64() / self.penalties.half_life.as_secs_f64();
        self.penalty * (-half_lives).exp2()
    }

    /// Whether the card is to stay out.
    #[must_use]
    pub fn is_out(&self, now: Instant) -> bool {
        self.is_out && self.penalty(now) >= self.penalties.reuse
    }

    /// How long it is to stay out yet; zero if it is not out.
    #[must_use]
    pub fn out_for(&self, now: Instant) -> Duration {
        if !self.is_out(now) {
            return Duration::ZERO;
        }
        let half_lives = (self.penalty(now) / self.penalties.reuse).log2();
        self.penalties.half_life.mul_f64(half_lives.max(0.0))
    }
}

/// States that are looked back upon: 20 changes between them.
const STATES: usize = 21;
/// Weight of the oldest change.
const WEIGHT_FIRST: f64 = 0.75;
/// Weight of the latest. All twenty together weigh twenty.
const WEIGHT_LAST: f64 = 1.25;
/// From here on a state flaps, in percent.
const START_PERCENT: f64 = 20.0;
/// Down to here it goes on.
const STOP_PERCENT: f64 = 5.0;

/// Whether the state of something changes all the time.
#[derive(Clone, Debug)]
pub struct Flapping<S> {
    /// The oldest first.
    states: VecDeque<S>,
    is_flapping: bool,
}

/// A state began or ceased to flap; this is to be told, and what it flaps between is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlapChange {
    /// It flaps.
    Started,
    /// It is steady again.
    Stopped,
}

impl<S: Copy + Eq> Flapping<S> {
    /// Has seen no state yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            states: VecDeque::new(),
            is_flapping: false,
        }
    }

    /// Takes in the state that a check came to. What is only suspected does not belong here.
    pub fn record(&mut self, state: S) -> Option<FlapChange> {
        if self.states.len() == STATES {
            self.states.pop_front();
        }
        self.states.push_back(state);
        let percent = self.percent();
        match self.is_flapping {
            false if percent >= START_PERCENT => {
                self.is_flapping = true;
                Some(FlapChange::Started)
            }
            true if percent <= STOP_PERCENT => {
                self.is_flapping = false;
                Some(FlapChange::Stopped)
            }
            _ => None,
        }
    }

    /// Whether it flaps.
    #[must_use]
    pub const fn is_flapping(&self) -> bool {
        self.is_flapping
    }

    /// How many of the last twenty possible changes there were.
    #[must_use]
    pub fn changes(&self) -> usize {
        let pairs = self.states.iter().zip(self.states.iter().skip(1));
        pairs.filter(|(before, after)| before != after).count()
    }

    /// How much of the last twenty possible changes there were, late ones weighing more.
    #[must_use]
    pub fn percent(&self) -> f64 {
        let step = (WEIGHT_LAST - WEIGHT_FIRST) / to_f64(STATES - 2);
        let missing = STATES - self.states.len();
        let pairs = self
            .states
            .iter()
            .zip(self.states.iter().skip(1))
            .enumerate();
        let changes = pairs.filter(|(_, (before, after))| before != after);
        let weights = changes.map(|(pair, _)| WEIGHT_FIRST + step * to_f64(missing + pair));
        weights.sum::<f64>() / to_f64(STATES - 1) * 100.0
    }
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Polls once a second for `seconds`, the card being up but in the last ten seconds of each
    /// `period`; how many polls warned, and the last warning.
    fn flap(
        flaps: &mut CardFlaps,
        from: u64,
        seconds: u64,
        period: u64,
    ) -> (usize, Option<String>) {
        let (mut warned, mut last) = (0, None);
        for second in from..from + seconds {
            let state = if second % period < period - 10 {
                State::Connected
            } else {
                State::Unavailable
            };
            let now = Instant::ORIGIN.plus(Duration::from_secs(second));
            if let Some(warning) = flaps.poll(state, now) {
                warned += 1;
                last = Some(warning.detail);
            }
        }
        (warned, last)
    }

    #[test]
    fn a_card_that_falls_each_minute_flaps_and_is_steady_ten_minutes_after_the_last_time() {
        let mut flaps = CardFlaps::new(Instant::ORIGIN);
        let (warned, detail) = flap(&mut flaps, 0, 300, 60);
        assert!((120..240).contains(&warned), "{warned}");
        let detail = detail.unwrap();
        assert!(
            detail.starts_with("its state changed 9 times of the last 20"),
            "{detail}"
        );
        assert!(detail.contains("drain it for "), "{detail}");
        let steady = flap(&mut flaps, 300, 660, u64::MAX);
        assert!((400..600).contains(&steady.0), "{steady:?}");
        assert_eq!(flap(&mut flaps, 960, 600, u64::MAX), (0, None));
    }

    #[test]
    fn a_card_that_falls_once_in_ten_minutes_or_of_which_nothing_is_known_does_not_flap() {
        let mut flaps = CardFlaps::new(Instant::ORIGIN);
        assert_eq!(flap(&mut flaps, 0, 7200, 600), (0, None));
        let mut flaps = CardFlaps::new(Instant::ORIGIN);
        for second in 0..600 {
            let blind = [State::Connected, State::Unknown][usize::from(second % 2 == 0)];
            let now = Instant::ORIGIN.plus(Duration::from_secs(second));
            assert_eq!(flaps.poll(blind, now), None);
        }
    }

    fn at(minutes: u32) -> Instant {
        Instant::ORIGIN.plus(minutes * MINUTE)
    }

    #[test]
    fn three_quick_flaps_keep_a_card_out_for_half_an_hour() {
        let mut damping = Damping::new(Penalties::default(), at(0));
        damping.went_down(at(0));
        damping.went_down(at(0));
        assert!(!damping.is_out(at(0)), "2000 is not over 2000");
        damping.went_down(at(0));
        assert!(damping.is_out(at(29)));
        assert_eq!(damping.out_for(at(0)).as_secs(), 30 * 60);
        assert!(!damping.is_out(at(31)));
        assert_eq!(damping.out_for(at(31)), Duration::ZERO);
        // What is left of the penalty still counts.
        damping.went_down(at(31));
        assert!(!damping.is_out(at(31)));
        damping.went_down(at(31));
        assert!(damping.is_out(at(31)));
    }

    #[test]
    fn flaps_far_apart_keep_nothing_out() {
        let mut damping = Damping::new(Penalties::default(), at(0));
        for hour in 0..100 {
            damping.went_down(at(60 * hour));
            assert!(!damping.is_out(at(60 * hour)));
        }
    }

    #[test]
    fn no_card_stays_out_for_more_than_an_hour_after_its_last_flap() {
        let mut damping = Damping::new(Penalties::default(), at(0));
        for _ in 0..1000 {
            damping.went_down(at(0));
        }
        assert!(damping.is_out(at(59)));
        assert!(!damping.is_out(at(61)));
    }

    #[test]
    fn all_twenty_changes_are_a_hundred_percent() {
        let mut flapping = Flapping::new();
        for check in 0..STATES {
            flapping.record(check % 2);
        }
        assert!((flapping.percent() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn four_changes_of_twenty_are_flapping_and_one_is_not_any_more() {
        let mut flapping = Flapping::new();
        for _ in 0..30 {
            assert_eq!(flapping.record('u'), None);
        }
        let told: Vec<_> = "dud".chars().map(|state| flapping.record(state)).collect();
        assert_eq!(told, [None, None, None], "{}", flapping.percent());
        assert_eq!(flapping.record('u'), Some(FlapChange::Started));
        let mut checks = 0;
        while flapping.record('u').is_none() {
            assert!(flapping.is_flapping());
            checks += 1;
        }
        assert!((14..20).contains(&checks), "{checks}");
        assert!(!flapping.is_flapping());
    }

    #[test]
    fn a_late_change_weighs_more_than_an_early_one() {
        let percent = |change: usize| {
            let mut flapping = Flapping::new();
            for check in 0..STATES {
                flapping.record(check >= change);
            }
            flapping.percent()
        };
        assert!((percent(1) - 3.75).abs() < 1e-9);
        assert!((percent(20) - 6.25).abs() < 1e-9);
        // The latest is the latest however few there are.
        let mut young = Flapping::new();
        young.record('u');
        young.record('d');
        assert!((young.percent() - 6.25).abs() < 1e-9);
    }
}
