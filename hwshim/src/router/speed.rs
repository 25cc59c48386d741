//! How fast an accelerator is, and what software takes: what has been measured, and no opinion.
//!
//! An accelerator's latency depends on how much it has in flight, and how differs from card to card:
//! one engine makes each wait for those before it, 64 engines make nobody wait, and a batch makes
//! the first wait as long as the eighth. So no formula is fitted; latency is kept by depth, in
//! octaves.
//!
//! A depth that has not been seen is taken to be as good as the one below it as long as it is for a
//! few, which is soon found out where it is not so. Beyond, each octave is taken to make wait twice
//! as long, and at worst each of them is, which is an accelerator that never rests: else a crowd that
//! comes at once would fill a slow card up to where answers are late before the first of them tells.
//! Only the first of an octave is taken to be as good as what has been seen below, and finds out.
//! The same goes for a depth that has not been seen for long: were what it took remembered
//! for ever, an accelerator that was slow once would never be given so much again.

use super::quantile::Latencies;
use crate::accelerator::class::{Class, Cost};
use crate::accelerator::least::Least;
use crate::clock::nanos;
use std::time::Duration;

/// Depths told apart: 0, 1, 2-3, 4-7 and so on; the last is 1024 and more, which nothing has by
/// default.
const DEPTHS: usize = 12;

/// How fast an accelerator does one class of work.
#[derive(Clone, Debug)]
pub(super) struct Speed {
    by_depth: [Mean; DEPTHS],
    answered: Latencies,
    /// Answers seen.
    count: u64,
    /// Requests of the class that went elsewhere since the last that was given to it.
    pub(super) passed_over: u32,
}

/// When an answer comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Latency {
    pub(super) expected: Duration,
    pub(super) at_worst: Duration,
}

impl Latency {
    /// No later than expected.
    pub(super) const fn certain(latency: Duration) -> Self {
        Self {
            expected: latency,
            at_worst: latency,
        }
    }

    pub(super) fn map(self, change: impl Fn(Duration) -> Duration) -> Self {
        Self {
            expected: change(self.expected),
            at_worst: change(self.at_worst),
        }
    }
}

/// In flight at once, that a depth which has not been seen is trusted to bear like the one below.
const A_FEW: usize = 3;

/// Answers after which a depth that gave none of them is forgotten. If it still is as bad as it was, one
/// request in so many meets it.
const REMEMBERED: u64 = 256;

/// A mean that follows.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value_ns: u64,
    count: u32,
    /// [`Speed::count`] when it was last recorded.
    last: u64,
}

impl Mean {
    const NONE: Self = Self {
        value_ns: 0,
        count: 0,
        last: 0,
    };

    fn record(&mut self, value: Duration, now: u64) {
        if now - self.last > REMEMBERED {
            self.count = 0;
        }
        self.last = now;
        // The first few count alike, later ones an eighth.
        self.count = (self.count + 1).min(8);
        let count = u64::from(self.count);
        let sum = self.value_ns.saturating_mul(count - 1);
        self.value_ns = sum.saturating_add(nanos(value)) / count;
    }

    fn get(&self, now: u64) -> Option<Duration> {
        let is_known = self.count > 0 || self.value_ns > 0;
        let is_known = is_known && now - self.last <= REMEMBERED;
        is_known.then(|| Duration::from_nanos(self.value_ns))
    }
}

impl Speed {
    /// Nothing is known.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self {
            by_depth: [Mean::NONE; DEPTHS],
            answered: Latencies::new(),
            count: 0,
            passed_over: 0,
        }
    }

    /// Takes note of an answer that took `latency`, with `depth` requests in flight before it.
    pub(super) fn record(&mut self, depth: usize, latency: Duration) {
        self.count += 1;
        self.by_depth[octave(depth)].record(latency, self.count);
        self.answered.record(latency);
    }

    /// Takes note of a trial, whose latency is one of a card that has just been reset: a first guess,
    /// that the first answer to a caller replaces.
    pub(super) fn guess(&mut self, latency: Duration) {
        let first = &mut self.by_depth[0];
        if first.count == 0 {
            first.value_ns = nanos(latency).max(1);
        }
    }

    /// Whether nobody but a trial has had an answer.
    #[must_use]
    pub(super) const fn is_a_guess(&self) -> bool {
        self.count == 0
    }

    /// The latency with `depth` requests in flight, by the nearest depth that is known, if any is.
    #[must_use]
    pub(super) fn at(&self, depth: usize) -> Option<Latency> {
        let (known, latency) = self.nearest(octave(depth))?;
        if depth == 0 || depth.is_power_of_two() {
            return Some(Latency::certain(latency));
        }
        // Each octave is twice as slow as the one before, from `even` on.
        let from = |even: usize| {
            let slower = octave(depth).saturating_sub(known.max(even));
            latency.saturating_mul(1 << slower)
        };
        Some(Latency {
            expected: from(octave(A_FEW)),
            at_worst: from(0),
        })
    }

    /// What is known of `octave`, or of the nearest below it, with that one; else of the nearest above.
    fn nearest(&self, octave: usize) -> Option<(usize, Duration)> {
        let get = |mean: &Mean| mean.get(self.count);
        let (below, above) = self.by_depth.split_at(octave + 1);
        let mut below = below.iter().enumerate().rev();
        below
            .find_map(|(known, mean)| Some((known, get(mean)?)))
            .or_else(|| Some((octave, above.iter().find_map(get)?)))
    }

    /// A time within which 99 of 100 answers came, if there were enough.
    #[must_use]
    pub(super) fn p99(&self) -> Option<Duration> {
        self.answered.p99()
    }
}

const fn octave(depth: usize) -> usize {
    let octave = (usize::BITS - depth.leading_zeros()) as usize;
    if octave < DEPTHS { octave } else { DEPTHS - 1 }
}

/// What each class of work costs this host, as measured.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    software: [Least; Class::ALL.len()],
    verify: [Least; Class::ALL.len()],
}

impl Costs {
    /// Nothing has been measured.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            software: [Least::NONE; Class::ALL.len()],
            verify: [Least::NONE; Class::ALL.len()],
        }
    }

    /// Takes note of what software took.
    pub(super) fn record_software(&mut self, class: Class, took: Duration) {
        record(&mut self.software[class.index()], class, took);
    }

    /// Takes note of what it took to verify.
    pub(super) fn record_verify(&mut self, class: Class, took: Duration) {
        record(&mut self.verify[class.index()], class, took);
    }

    /// What `class` costs, or is taken to cost until it has been measured.
    #[must_use]
    pub(super) fn of(&self, class: Class) -> Cost {
        let Cost { software, verify } = class.prior();
        let index = class.index();
        Cost {
            software: self.software[index].get().unwrap_or(software),
            verify: self.verify[index].get().unwrap_or(verify),
        }
    }
}

/// A clock that stands still, as in tests, has measured nothing.
fn record(least: &mut Least, class: Class, took: Duration) {
    if class.is_measured() && !took.is_zero() {
        least.record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn expected(speed: &Speed, depth: usize) -> Option<Duration> {
        speed.at(depth).map(|latency| latency.expected)
    }

    fn at_worst(speed: &Speed, depth: usize) -> Option<Duration> {
        speed.at(depth).map(|latency| latency.at_worst)
    }

    #[test]
    fn an_unknown_depth_is_as_the_one_below_for_a_few_and_at_worst_as_much_slower_as_it_is_deeper()
    {
        let mut speed = Speed::new();
        assert_eq!((expected(&speed, 0), at_worst(&speed, 0)), (None, None));
        let check = |speed: &Speed, depth, wanted, wanted_at_worst| {
            assert_eq!(expected(speed, depth), Some(micros(wanted)), "{depth}");
            let wanted = Some(micros(wanted_at_worst));
            assert_eq!(at_worst(speed, depth), wanted, "{depth}");
        };
        speed.record(0, micros(100));
        check(&speed, 0, 100, 100);
        check(&speed, 1, 100, 100);
        check(&speed, 3, 100, 400);
        check(&speed, 4, 100, 100);
        check(&speed, 5, 200, 800);
        check(&speed, 900, 25_600, 102_400);
        speed.record(16, micros(150));
        check(&speed, 15, 400, 1_600);
        check(&speed, 31, 150, 150);
        check(&speed, 32, 150, 150);
        check(&speed, 33, 300, 300);
    }

    #[test]
    fn a_depth_below_all_that_are_known_is_as_the_least_deep() {
        let mut speed = Speed::new();
        speed.record(16, micros(400));
        speed.record(64, micros(900));
        assert_eq!(expected(&speed, 0), Some(micros(400)));
    }

    #[test]
    fn a_mean_follows_what_changes() {
        let mut speed = Speed::new();
        for _ in 0..50 {
            speed.record(0, micros(100));
        }
        for _ in 0..50 {
            speed.record(0, micros(900));
        }
        let expected = expected(&speed, 0).unwrap();
        assert!(
            expected > micros(880) && expected <= micros(900),
            "{expected:?}"
        );
    }

    #[test]
    fn a_depth_that_is_not_seen_for_long_is_forgotten() {
        let mut speed = Speed::new();
        speed.record(4, micros(5_000));
        for _ in 0..REMEMBERED {
            speed.record(0, micros(100));
        }
        assert_eq!(expected(&speed, 4), Some(micros(5_000)));
        speed.record(0, micros(100));
        assert_eq!(expected(&speed, 4), Some(micros(100)));
        speed.record(4, micros(300));
        assert_eq!(expected(&speed, 4), Some(micros(300)));
    }

    #[test]
    fn a_trial_is_a_guess_that_the_first_answer_replaces() {
        let mut speed = Speed::new();
        speed.guess(micros(5_000));
        assert_eq!(expected(&speed, 0), Some(micros(5_000)));
        speed.record(0, micros(300));
        assert_eq!(expected(&speed, 0), Some(micros(300)));
        speed.guess(micros(5_000));
        assert_eq!(expected(&speed, 0), Some(micros(300)));
    }

    #[test]
    fn a_disturbance_does_not_make_software_dear_and_a_slower_host_does() {
        let mut costs = Costs::new();
        assert_eq!(costs.of(Class::Rsa2048), Class::Rsa2048.prior());
        for took in [700, 9_000, 650, 30_000] {
            costs.record_software(Class::Rsa2048, micros(took));
        }
        assert_eq!(costs.of(Class::Rsa2048).software, micros(650));
        for _ in 0..8 {
            costs.record_software(Class::Rsa2048, micros(1_500));
        }
        assert_eq!(costs.of(Class::Rsa2048).software, micros(1_500));
        costs.record_software(Class::Rsa2048, Duration::ZERO);
        assert_eq!(costs.of(Class::Rsa2048).software, micros(1_500));
    }
}
