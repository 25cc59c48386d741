//! Every fault in every phase, watched: what the monitor says is at fault, held against the truth.
//!
//! A run has one fault, which lasts for a minute or more. The monitor's answer is the cause that it
//! named longest while the fault acted; it abstains if it saw that something was wrong and named
//! nobody.

use crate::campaign::live_all;
use crate::plan::{Filter, Phase, Plan};
use crate::trouble::Trouble;
use crate::watcher::Opinion;
use crate::world::{Failure, Outcome};
use firmware_sim::fault::{Cause as Truth, Fault};
use hwshim::clock::Instant;
use monitor::verdict::{Cause, State};
use std::collections::BTreeMap;
use std::time::Duration;

/// A cause may still be named so long after its fault has ended.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Nobody can say anything about a fault that was cut short by the end of the run.
const SEEN_MIN: Duration = Duration::from_secs(10);

/// What the monitor said about one fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Said {
    /// That this is at fault.
    Named(Cause),
    /// That something is wrong.
    Abstained,
    /// That nothing is.
    Nothing,
}

/// How many runs of each cell.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Seed of the first run of each cell.
    pub seed: u64,
    /// Runs of each cell.
    pub seeds: u64,
    /// These faults only, or all.
    pub troubles: Vec<Trouble>,
    /// In this phase only, or in each.
    pub phase: Option<Phase>,
    /// Threads, each with a run of its own.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Scores {
    /// By fault.
    pub troubles: BTreeMap<String, Score>,
    /// Runs in which something was not true.
    pub failures: Vec<Failure>,
}

/// What was said about one fault in all its runs.
#[derive(Clone, Debug)]
pub struct Score {
    /// What is true.
    pub truth: Truth,
    /// How often what was said, and in which run first.
    pub said: BTreeMap<Said, (u64, String)>,
    /// Runs in which the card was blamed at any time.
    pub card_blamed: u64,
    /// Time from when the fault first acted to when the right cause was named.
    pub latencies: Vec<Duration>,
    /// Runs in which nothing came of the fault.
    pub idle: u64,
}

impl Matrix {
    /// What is to run, in an order of its own.
    fn plans(&self) -> Vec<(Plan, Filter)> {
        let troubles = match &self.troubles[..] {
            [] => Trouble::watchable(),
            some => some.to_vec(),
        };
        let phases = match &self.phase {
            None => Phase::ALL.to_vec(),
            Some(phase) => vec![*phase],
        };
        let mut plans = Vec::new();
        for trouble in troubles {
            for phase in &phases {
                let filter = Filter {
                    troubles: vec![trouble.clone()],
                    phase: Some(*phase),
                    watched: true,
                    ..Filter::default()
                };
                // Nobody resets a card that is well.
                let needs_a_reset = trouble == Trouble::Card(Fault::ResetHangs);
                if needs_a_reset && !matches!(phase, Phase::BreakerOpen | Phase::HalfOpen) {
                    continue;
                }
                for seed in self.seed..self.seed + self.seeds {
                    plans.push((Plan::draw(seed, &filter), filter.clone()));
                }
            }
        }
        plans
    }

    /// Runs of it.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.plans().len() as u64
    }

    /// Runs it, telling `ended` after each.
    pub fn run(&self, ended: impl Fn() + Sync) -> Scores {
        let plans = self.plans();
        let mut scores = Scores::default();
        live_all(
            plans.len() as u64,
            self.jobs,
            |number| {
                plans[usize::try_from(number).unwrap_or(usize::MAX)]
                    .0
                    .clone()
            },
            None,
            |number, outcome| {
                ended();
                let (plan, _) = &plans[usize::try_from(number).unwrap_or(usize::MAX)];
                match outcome {
                    Ok(outcome) => scores.add(&outcome, &plan.replay()),
                    Err(failure) => scores.failures.push(*failure),
                }
                true
            },
        );
        scores
    }
}

impl Scores {
    fn add(&mut self, outcome: &Outcome, replay: &str) {
        let [incident] = &outcome.incidents[..] else {
            return;
        };
        let truth = incident.trouble.truth();
        let name = incident.trouble.to_string();
        let score = self
            .troubles
            .entry(name)
            .or_insert_with(|| Score::new(truth));
        let Some(acted_at) = incident.acted_at else {
            score.idle += 1;
            return;
        };
        let course = Course {
            opinions: &outcome.opinions,
            from: acted_at,
            // What happens in an instant is talked about for longer.
            to: incident
                .ended_at
                .max(acted_at.plus(SEEN_MIN))
                .plus(AFTERMATH)
                .min(outcome.ended_at),
            primed: outcome.primed,
        };
        if course.to.since(course.from) < SEEN_MIN {
            score.idle += 1;
            return;
        }
        let said = course.said(truth);
        let count = score
            .said
            .entry(said)
            .or_insert_with(|| (0, replay.to_owned()));
        count.0 += 1;
        score.card_blamed += u64::from(course.named().contains_key(&Cause::Card));
        score.latencies.extend(course.named_after(truth));
    }

    /// Runs by what is true and what was said.
    #[must_use]
    pub fn confusion(&self) -> BTreeMap<(&'static str, Said), u64> {
        let mut table = BTreeMap::new();
        for score in self.troubles.values() {
            for (said, (count, _)) in &score.said {
                *table.entry((score.truth.name(), *said)).or_default() += count;
            }
        }
        table
    }
}

impl Score {
    const fn new(truth: Truth) -> Self {
        Self {
            truth,
            said: BTreeMap::new(),
            card_blamed: 0,
            latencies: Vec::new(),
            idle: 0,
        }
    }

    /// Runs in which anything was said, or should have been.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.said.values().map(|(count, _)| count).sum()
    }

    /// Of those, where it was right.
    #[must_use]
    pub fn right(&self) -> u64 {
        let right = self
            .said
            .iter()
            .filter(|(said, _)| said.is_right(self.truth));
        right.map(|(_, (count, _))| count).sum()
    }

    /// Of those, where it abstained.
    #[must_use]
    pub fn abstained(&self) -> u64 {
        self.said
            .get(&Said::Abstained)
            .map_or(0, |(count, _)| *count)
    }
}

impl Said {
    /// Whether that is the truth.
    #[must_use]
    pub fn is_right(self, truth: Truth) -> bool {
        match self {
            Self::Nothing => truth == Truth::None,
            Self::Abstained => false,
            Self::Named(cause) => names(truth, cause),
        }
    }
}

/// Whether `cause` is a name of `truth`, which is less fine.
const fn names(truth: Truth, cause: Cause) -> bool {
    matches!(
        (truth, cause),
        (Truth::Card, Cause::Card)
            | (Truth::CardAbsent, Cause::CardAbsent)
            | (Truth::Link, Cause::Link)
            | (
                Truth::Service,
                Cause::ServiceGone | Cause::ServiceHang | Cause::ServiceLeak
            )
            | (Truth::Host, Cause::HostStarvation | Cause::Monitor)
    )
}

/// What was believed during a fault.
struct Course<'a> {
    opinions: &'a [Opinion],
    from: Instant,
    to: Instant,
    /// Here an error of the bus, with which a phase began, was talked about.
    primed: (Instant, Instant),
}

impl Course<'_> {
    /// Each stretch of time with one opinion.
    fn stretches(&self) -> impl Iterator<Item = (Opinion, Duration)> + '_ {
        let ends = self.opinions.iter().skip(1).map(|next| next.at);
        let ends = ends.chain([self.to]);
        self.opinions.iter().zip(ends).filter_map(|(opinion, end)| {
            let (from, to) = (opinion.at.max(self.from), end.min(self.to));
            let primed = to.min(self.primed.1).since(from.max(self.primed.0));
            let time = to.since(from).saturating_sub(primed);
            (!time.is_zero()).then_some((*opinion, time))
        })
    }

    /// Causes that were named, and for how long.
    fn named(&self) -> BTreeMap<Cause, Duration> {
        let mut named = BTreeMap::new();
        for (opinion, time) in self.stretches() {
            // What a monitor believed before the fault is not about it.
            let is_old = opinion.at < self.from;
            if !matches!(opinion.cause, Cause::None | Cause::Undetermined) && !is_old {
                *named.entry(opinion.cause).or_default() += time;
            }
        }
        named
    }

    fn said(&self, truth: Truth) -> Said {
        let named = self.named();
        if let Some((cause, _)) = named.iter().max_by_key(|(_, time)| **time) {
            return Said::Named(*cause);
        }
        let saw = |opinion: Opinion| {
            opinion.cause == Cause::Undetermined && opinion.state != State::Unknown
        };
        let saw_something = self.stretches().any(|(opinion, _)| saw(opinion));
        if saw_something && truth != Truth::None {
            Said::Abstained
        } else {
            Said::Nothing
        }
    }

    /// How long it took to name the truth.
    fn named_after(&self, truth: Truth) -> Option<Duration> {
        let mut right = self
            .stretches()
            .filter(|(opinion, _)| names(truth, opinion.cause));
        let (first, _) = right.next()?;
        Some(first.at.since(self.from))
    }
}
