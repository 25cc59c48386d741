//! Says how far this program's own senses can be trusted at the moment.
//!
//! A host that is starved delays beats, answers and our own polls alike, so it makes every deadline
//! look missed. The score (as Lifeguard, arXiv 1707.00788, has it for members of a group) goes up
//! with each sign of starvation and down with each clean second; what a service did not do while it was
//! not zero counts half, and no card is blamed for what a host can bring about. It says nothing about
//! cards.
//!
//! ```text
//!           a sample with a sign of starvation            one minute later
//!   CLEAR ------------------------------------> HOLDING ------------------> ALARM: the host is
//!     ^                                            |                          |    at fault
//!     +--------------------------------------------+--------------------------+
//!           the score is back to 0: one less for each clean second
//! ```

mod changes;

pub use changes::HostChanges;

use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The score's ceiling.
pub const SCORE_MAX: u8 = 7;

/// How much is a sign of starvation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Lateness of a poll, as a share of its interval. corosync warns from the same share of its
    /// token on.
    pub lateness: f64,
    /// Share of the last second in which something waited for CPU or memory.
    pub pressure: f64,
    /// Share of the busiest CPU spent in soft interrupts.
    pub softirq: f64,
    /// Share of the CPUs' time that the hypervisor gave to others.
    pub steal: f64,
    /// Time for which the whole machine stood still. Two clocks that are read one after the other
    /// seem to differ by less if nothing happens between.
    pub pause: Duration,
    /// How long a verdict may be held because of the host.
    pub hold_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lateness: 0.8,
            pressure: 0.20,
            softirq: 0.30,
            steal: 0.10,
            pause: Duration::from_millis(10),
            hold_max: Duration::from_secs(60),
        }
    }
}

/// What was seen of the host since the sample before. `None` is what this kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// How much later than it was due this poll came.
    pub own_lateness: Duration,
    /// The interval at which it is due.
    pub poll_interval: Duration,
    /// Share of the time in which some task waited for CPU (PSI `some`), from 0 to 1.
    pub psi_cpu_some: Option<f64>,
    /// Share of the time in which some task waited for memory (PSI `some`, never less than
    /// `full`), from 0 to 1.
    pub psi_memory_some: Option<f64>,
    /// Share of the time in which some task waited for storage (PSI `some`), from 0 to 1. Any host
    /// that copies files has some; it is a sign only together with lateness of our own, which it
    /// then explains.
    pub psi_io_some: Option<f64>,
    /// Share of the time in which this program itself waited for a CPU, from 0 to 1, where the kernel
    /// does not tell in which some task did.
    pub own_wait_share: Option<f64>,
    /// Share of its time that the CPU with most of them spent in soft interrupts, from 0 to 1.
    pub softirq_share_max: Option<f64>,
    /// Packets dropped for lack of room in a CPU's backlog.
    pub softnet_dropped: Option<u64>,
    /// Share of the CPUs' time that the hypervisor gave to others, from 0 to 1.
    pub steal_share: Option<f64>,
    /// For how long the whole machine stood still: what `CLOCK_BOOTTIME` gained on
    /// `CLOCK_MONOTONIC`.
    pub vm_pause: Duration,
}

/// A sign of starvation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sign {
    /// Our own poll came late.
    OwnLateness,
    /// Tasks waited for CPU or memory.
    Pressure,
    /// Soft interrupts took a CPU for themselves, or packets were dropped.
    Softirq,
    /// The hypervisor took time away, or stopped the machine.
    Steal,
}

impl Sign {
    /// Its name, in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnLateness => "own-lateness",
            Self::Pressure => "pressure",
            Self::Softirq => "softirq",
            Self::Steal => "steal",
        }
    }

    /// What it adds to the score. Time that the machine did not have at all weighs double.
    const fn points(self) -> u8 {
        match self {
            Self::OwnLateness | Self::Pressure | Self::Softirq => 1,
            Self::Steal => 2,
        }
    }
}

#[cfg(test)]
impl Sample {
    /// A host that is watched, and in which nobody waits.
    pub(crate) const QUIET: Self = Self {
        own_lateness: Duration::ZERO,
        poll_interval: Duration::from_secs(1),
        psi_cpu_some: Some(0.0),
        psi_memory_some: Some(0.0),
        psi_io_some: Some(0.0),
        own_wait_share: None,
        softirq_share_max: Some(0.0),
        softnet_dropped: Some(0),
        steal_share: Some(0.0),
        vm_pause: Duration::ZERO,
    };
}

impl Sample {
    /// The signs of starvation in it.
    #[must_use]
    pub fn signs(&self, limits: &Limits) -> Vec<Sign> {
        let Self {
            own_lateness,
            poll_interval,
            psi_cpu_some,
            psi_memory_some,
            psi_io_some,
            own_wait_share,
            softirq_share_max,
            softnet_dropped,
            steal_share,
            vm_pause,
        } = *self;
        let over = |share: Option<f64>, limit: f64| share.is_some_and(|share| share > limit);
        let late = own_lateness.as_secs_f64() > limits.lateness * poll_interval.as_secs_f64();
        let pressed = over(psi_cpu_some.or(own_wait_share), limits.pressure)
            || over(psi_memory_some, limits.pressure)
            || (late && over(psi_io_some, limits.pressure));
        let interrupted =
            over(softirq_share_max, limits.softirq) || softnet_dropped.is_some_and(|it| it > 0);
        let stolen = over(steal_share, limits.steal) || vm_pause > limits.pause;
        [
            (late, Sign::OwnLateness),
            (pressed, Sign::Pressure),
            (interrupted, Sign::Softirq),
            (stolen, Sign::Steal),
        ]
        .into_iter()
        .filter_map(|(there, sign)| there.then_some(sign))
        .collect()
    }
}

/// What follows from the score.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// What is seen can be trusted.
    Clear,
    /// Verdicts against cards are held.
    Holding {
        /// Since when.
        since: Instant,
    },
    /// They were held for as long as may be: the host itself is at fault.
    Alarm {
        /// Since when the score has not been zero.
        since: Instant,
    },
}

/// Keeps the score.
#[derive(Clone, Debug)]
pub struct LocalHealth {
    limits: Limits,
    score: u8,
    sampled_at: Instant,
    /// Clean time that has not made a whole second yet.
    clean: Duration,
    /// Since when the score is not zero.
    impaired: Option<Spell>,
    /// When it was not zero before, the oldest first.
    spells: VecDeque<Spell>,
}

/// A time in which the score was not zero.
#[derive(Clone, Copy, Debug)]
struct Spell {
    from: Instant,
    to: Instant,
    score_max: u8,
}

impl Spell {
    /// For how much of the time between two instants it lasted.
    fn within(&self, from: Instant, to: Instant) -> Duration {
        self.to.min(to).since(self.from.max(from))
    }
}

/// Spells that are remembered, for whoever asks about a gap that has just ended.
const SPELLS_MAX: usize = 64;

impl LocalHealth {
    /// Starts clear.
    #[must_use]
    pub const fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            score: 0,
            sampled_at: now,
            clean: Duration::ZERO,
            impaired: None,
            spells: VecDeque::new(),
        }
    }

    /// Takes in what was seen of the host since the sample before, and returns its signs of
    /// starvation.
    pub fn sample(&mut self, sample: &Sample, now: Instant) -> Vec<Sign> {
        let signs = sample.signs(&self.limits);
        if signs.is_empty() {
            self.forgive(now);
        } else {
            self.blame(&signs, now);
        }
        self.sampled_at = now;
        signs
    }

    fn blame(&mut self, signs: &[Sign], now: Instant) {
        let points = signs.iter().map(|sign| sign.points()).sum::<u8>();
        self.score = self.score.saturating_add(points).min(SCORE_MAX);
        self.clean = Duration::ZERO;
        // What starved us did so since the last sample, not from now on.
        let spell = self.impaired.get_or_insert(Spell {
            from: self.sampled_at,
            to: now,
            score_max: 0,
        });
        spell.to = now;
        spell.score_max = spell.score_max.max(self.score);
    }

    /// The time since the last sample was clean.
    fn forgive(&mut self, now: Instant) {
        self.clean += now.since(self.sampled_at);
        let seconds = self.clean.as_secs();
        self.clean -= Duration::from_secs(seconds);
        let forgiven = u8::try_from(seconds).unwrap_or(u8::MAX);
        self.score = self.score.saturating_sub(forgiven);
        if let Some(spell) = &mut self.impaired {
            spell.to = now;
        }
        if self.score == 0
            && let Some(spell) = self.impaired.take()
        {
            if self.spells.len() == SPELLS_MAX {
                self.spells.pop_front();
            }
            self.spells.push_back(spell);
        }
    }

    /// From 0, all is well, to [`SCORE_MAX`].
    #[must_use]
    pub const fn score(&self) -> u8 {
        self.score
    }

    /// What follows, as of the last sample.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.impaired {
            None => Standing::Clear,
            Some(Spell { from: since, .. }) => {
                if self.sampled_at.since(since) < self.limits.hold_max {
                    Standing::Holding { since }
                } else {
                    Standing::Alarm { since }
                }
            }
        }
    }

    /// For how much of the time between two instants the score was not zero.
    #[must_use]
    pub fn impaired_within(&self, from: Instant, to: Instant) -> Duration {
        self.spells().map(|spell| spell.within(from, to)).sum()
    }

    /// The highest score of any spell of starvation that overlaps with the time between two
    /// instants.
    #[must_use]
    pub fn score_max_within(&self, from: Instant, to: Instant) -> u8 {
        let overlapping = self
            .spells()
            .filter(|spell| spell.within(from, to) > Duration::ZERO);
        overlapping.map(|spell| spell.score_max).max().unwrap_or(0)
    }

    fn spells(&self) -> impl Iterator<Item = &Spell> {
        self.spells.iter().chain(&self.impaired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clean() -> Sample {
        Sample {
            poll_interval: SECOND,
            psi_cpu_some: Some(0.20),
            psi_memory_some: Some(0.0),
            psi_io_some: Some(0.20),
            own_wait_share: None,
            softirq_share_max: Some(0.30),
            softnet_dropped: Some(0),
            steal_share: Some(0.0),
            own_lateness: Duration::from_millis(800),
            vm_pause: Duration::from_millis(10),
        }
    }

    #[test]
    fn who_waits_for_a_cpu_itself_is_under_pressure_where_the_kernel_does_not_tell_of_others() {
        let signs = |psi_cpu_some, own_wait_share| {
            let sample = Sample {
                psi_cpu_some,
                own_wait_share,
                ..clean()
            };
            sample.signs(&Limits::default())
        };
        assert_eq!(signs(None, Some(0.21)), [Sign::Pressure]);
        assert_eq!(signs(None, Some(0.20)), []);
        assert_eq!(signs(Some(0.0), Some(0.21)), []);
        assert_eq!(signs(None, None), []);
    }

    struct Host {
        health: LocalHealth,
        now: Instant,
    }

    impl Host {
        fn new() -> Self {
            Self {
                health: LocalHealth::new(Limits::default(), Instant::ORIGIN),
                now: Instant::ORIGIN,
            }
        }

        fn pass(&mut self, seconds: u32, sample: &Sample) -> u8 {
            for _ in 0..seconds {
                self.now = self.now.plus(SECOND);
                self.health.sample(sample, self.now);
            }
            self.health.score()
        }
    }

    #[test]
    fn each_sign_of_starvation_counts_and_what_is_on_the_limit_does_not() {
        let limits = Limits::default();
        assert_eq!(clean().signs(&limits), []);
        let copying = Sample {
            psi_io_some: Some(1.0),
            ..clean()
        };
        assert_eq!(copying.signs(&limits), [], "storage alone starves nobody");
        let unseen = Sample {
            poll_interval: SECOND,
            ..Sample::default()
        };
        assert_eq!(unseen.signs(&limits), [], "what is not told is no sign");
        let signs = [
            (
                Sign::OwnLateness,
                Sample {
                    own_lateness: Duration::from_millis(801),
                    ..clean()
                },
            ),
            (
                Sign::Pressure,
                Sample {
                    psi_cpu_some: Some(0.21),
                    ..clean()
                },
            ),
            (
                Sign::Pressure,
                Sample {
                    psi_memory_some: Some(0.21),
                    ..clean()
                },
            ),
            (
                Sign::Softirq,
                Sample {
                    softirq_share_max: Some(0.31),
                    ..clean()
                },
            ),
            (
                Sign::Softirq,
                Sample {
                    softnet_dropped: Some(1),
                    ..clean()
                },
            ),
            (
                Sign::Steal,
                Sample {
                    steal_share: Some(0.11),
                    ..clean()
                },
            ),
            (
                Sign::Steal,
                Sample {
                    vm_pause: Duration::from_millis(11),
                    ..clean()
                },
            ),
        ];
        for (sign, sample) in signs {
            assert_eq!(sample.signs(&limits), [sign]);
            let points = if sign == Sign::Steal { 2 } else { 1 };
            assert_eq!(Host::new().pass(1, &sample), points, "{}", sign.name());
        }
    }

    #[test]
    fn who_is_late_while_somebody_waits_for_storage_waits_for_it_too() {
        let late = Sample {
            own_lateness: Duration::from_millis(801),
            psi_io_some: Some(0.21),
            ..clean()
        };
        let signs = late.signs(&Limits::default());
        assert_eq!(signs, [Sign::OwnLateness, Sign::Pressure]);
    }

    #[test]
    fn the_score_has_a_ceiling_and_goes_down_by_one_each_clean_second() {
        let mut host = Host::new();
        let starved = Sample {
            own_lateness: SECOND,
            psi_cpu_some: Some(0.9),
            softirq_share_max: Some(0.9),
            vm_pause: SECOND,
            ..clean()
        };
        assert_eq!(host.pass(1, &starved), 5);
        assert_eq!(host.pass(5, &starved), SCORE_MAX);
        assert_eq!(host.pass(3, &clean()), 4);
        assert_eq!(host.pass(9, &clean()), 0);
        // Half seconds add up.
        host.pass(1, &starved);
        for score in [5, 4, 4, 3] {
            host.now = host.now.plus(SECOND / 2);
            host.health.sample(&clean(), host.now);
            assert_eq!(host.health.score(), score);
        }
    }

    #[test]
    fn a_verdict_is_held_for_a_minute_and_then_the_host_is_at_fault() {
        let mut host = Host::new();
        assert_eq!(host.health.standing(), Standing::Clear);
        let late = Sample {
            own_lateness: SECOND,
            ..clean()
        };
        host.pass(10, &clean());
        let since = host.now;
        host.pass(59, &late);
        assert_eq!(host.health.standing(), Standing::Holding { since });
        host.pass(1, &late);
        assert_eq!(host.health.standing(), Standing::Alarm { since });
        host.pass(7, &clean());
        assert_eq!(host.health.standing(), Standing::Clear);
    }

    #[test]
    fn how_much_of_a_gap_the_host_was_starved_is_known_afterwards() {
        let mut host = Host::new();
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        host.pass(10, &clean());
        // A tick that took eleven seconds.
        host.now = at(21);
        let gap = Sample {
            own_lateness: Duration::from_secs(10),
            ..clean()
        };
        host.health.sample(&gap, host.now);
        host.pass(5, &clean());
        assert_eq!(host.health.impaired_within(at(0), at(10)), Duration::ZERO);
        assert_eq!(host.health.impaired_within(at(10), at(21)), 11 * SECOND);
        assert_eq!(host.health.impaired_within(at(12), at(15)), 3 * SECOND);
        assert_eq!(host.health.impaired_within(at(22), at(30)), Duration::ZERO);
        assert_eq!(host.health.score_max_within(at(0), at(10)), 0);
        assert_eq!(host.health.score_max_within(at(5), at(12)), 1);
        assert_eq!(host.health.score_max_within(at(22), at(30)), 0);
        // A spell that still lasts.
        host.pass(3, &gap);
        assert_eq!(host.health.score_max_within(at(27), at(28)), 3);
    }
}
