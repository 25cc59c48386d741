//! Every fault in every phase, watched: what the monitor says is at fault, held against the truth.
//!
//! A run has one fault, which lasts for a minute or more, or two at once. The monitor's answer is the
//! cause that it named longest while the fault acted, of the card or of the service beside it; it
//! abstains if it saw that something was wrong and named nobody.
//!
//! Eight things are not asked about, by rule: faults of which nothing can be read
//! ([`Trouble::leaves_a_trace`]); runs in which a fault was over before the error of the bus was
//! with which its phase begins, since the reset that follows had mended both; one that was over with
//! the reset by which the card is brought up, before anybody had looked at it or given it anything to
//! forget; a card that is slow in tests of which nobody has ever seen a quick one; random numbers that
//! repeat, where nobody asked for two signatures that could show it; sessions that a card forgot and
//! nobody wanted again; a key that does not fit and that nobody used; and a reset that hangs where none
//! did.
//!
//! Time runs from when a fault can be seen: a driver leaves a card alone that the bus has reported an
//! error of, until its breaker tries it again, and misses what a card has forgotten when somebody wants
//! it.

use crate::campaign::live_all;
use crate::plan::{Filter, Phase, Plan};
use crate::trouble::{Trouble, Truth};
use crate::watcher::Opinion;
use crate::world::{Failure, IncidentOutcome, Outcome, STARTED};
use firmware_sim::fault::Fault;
use hwshim::clock::Instant;
use hwshim::router::breaker::Limits;
use monitor::attribution::brier;
use monitor::verdict::{Cause, State};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Time from when the fault acted and could be seen to when the right cause was named.
    pub latencies: Vec<Duration>,
    /// Brier's scores of the forecasts with which it said what it said, summed up.
    pub brier: f64,
    /// Runs in which nothing came of the fault.
    pub idle: u64,
}

/// Two things that go wrong at once.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Seed of the first run of each pair.
    pub seed: u64,
    /// Runs of each pair.
    pub seeds: u64,
    /// Of these only, or of all.
    pub troubles: Vec<Trouble>,
    /// In this phase only, or in one that the seed says.
    pub phase: Option<Phase>,
    /// Threads, each with a run of its own.
    pub jobs: usize,
}

/// What was said about pairs.
#[derive(Debug, Default)]
pub struct PairScores {
    /// By what is true of them: runs, and those in which both were the two most believed.
    pub truths: BTreeMap<[Truth; 2], (u64, u64)>,
    /// Runs in which both were, if two names of one truth count as two.
    pub by_name: u64,
    /// The first run of each pair of truths in which they were not.
    pub missed: BTreeMap<[Truth; 2], String>,
    /// Runs in which not both did anything at the same time.
    pub idle: u64,
    /// Runs in which something was not true.
    pub failures: Vec<Failure>,
}

/// A card that is slower by less answers in time, and only against itself it is slow.
const KEEPS_DEADLINES: f64 = 1000.0;

/// A fault in a phase where it does nothing of its own, or where nobody can know of it: nobody
/// resets a card that is well, or one whose trial is under way; an error of the bus on top of another
/// is that other; and a card that has never been quick is not known to be slow, since no card states
/// how quick it should be.
fn is_out_of_reach(trouble: &Trouble, phase: Phase) -> bool {
    match trouble {
        Trouble::Card(Fault::ResetHangs) => phase != Phase::BreakerOpen,
        Trouble::BusError => matches!(phase, Phase::BreakerOpen | Phase::HalfOpen),
        Trouble::Card(Fault::Slow { factor }) => phase == Phase::Boot && *factor < KEEPS_DEADLINES,
        _ => false,
    }
}

/// Whether a nonce was to come again and never did: the first signature with it is as good as any.
fn showed_no_repetition(outcome: &Outcome, trouble: &Trouble) -> bool {
    let repeats = matches!(
        trouble,
        Trouble::Card(Fault::RepeatedNonce | Fault::RngStuck)
    );
    repeats && outcome.wrong_answers_told == 0
}

/// Tests that a card has to be slow in, of algorithms that it was seen to be quick in: most of three
/// make a monitor sure.
const COMPARED: usize = 3;

/// Whether a card was slow, and hardly in anything that it had been seen to be quick in.
fn was_never_seen_quick(outcome: &Outcome, incident: &IncidentOutcome, from: Instant) -> bool {
    let is_slow = matches!(
        incident.trouble,
        Trouble::Card(Fault::Slow { factor }) if factor < KEEPS_DEADLINES
    );
    let tests = &outcome.tests;
    let before: BTreeSet<_> = tests
        .iter()
        .filter(|(at, _)| *at < from)
        .map(|it| it.1)
        .collect();
    let during = tests
        .iter()
        .filter(|(at, _)| (from..incident.ended_at).contains(at));
    is_slow && during.filter(|it| before.contains(&it.1)).count() < COMPARED
}

/// Whether a reset was to hang and none did: there was none, or the draw was for it to end. A driver
/// counts each that fails.
fn no_reset_hung(incident: &IncidentOutcome) -> bool {
    incident.trouble == Trouble::Card(Fault::ResetHangs) && incident.resets_failed == 0
}

fn asked_about(troubles: &[Trouble]) -> Vec<Trouble> {
    let all = match troubles {
        [] => Trouble::watchable(),
        some => some.to_vec(),
    };
    all.into_iter().filter(Trouble::leaves_a_trace).collect()
}

impl Matrix {
    /// What is to run, in an order of its own.
    fn plans(&self) -> Vec<(Plan, Filter)> {
        let phases = match &self.phase {
            None => Phase::ALL.to_vec(),
            Some(phase) => vec![*phase],
        };
        let mut plans = Vec::new();
        for trouble in asked_about(&self.troubles) {
            for phase in &phases {
                if is_out_of_reach(&trouble, *phase) {
                    continue;
                }
                let filter = Filter {
                    troubles: vec![trouble.clone()],
                    phase: Some(*phase),
                    watched: true,
                    cheap: true,
                    ..Filter::default()
                };
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
            |number| plans[index(number)].0.clone(),
            None,
            |number, outcome| {
                ended();
                let (plan, _) = &plans[index(number)];
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

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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
        let Some(course) = Course::of(outcome, incident) else {
            score.idle += 1;
            return;
        };
        let said = course.said(&incident.trouble);
        let count = score
            .said
            .entry(said)
            .or_insert_with(|| (0, replay.to_owned()));
        count.0 += 1;
        score.card_blamed += u64::from(course.named().contains_key(&Cause::Card));
        score.latencies.extend(course.named_after(truth));
        score.brier += course.brier(truth, said);
    }

    /// Runs by what is true and what was said.
    #[must_use]
    pub fn confusion(&self) -> BTreeMap<(Truth, Said), u64> {
        let mut table = BTreeMap::new();
        for score in self.troubles.values() {
            for (said, (count, _)) in &score.said {
                *table.entry((score.truth, *said)).or_default() += count;
            }
        }
        table
    }

    /// Runs in which a card was blamed for what it has nothing to do with, by what that is.
    #[must_use]
    pub fn card_blamed_for_others(&self) -> BTreeMap<Truth, (u64, u64)> {
        let mut blamed: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for score in self.troubles.values().filter(|it| it.is_beside_the_card()) {
            let (runs, times) = blamed.entry(score.truth).or_default();
            *runs += score.runs();
            *times += score.card_blamed;
        }
        blamed
    }
}

impl Score {
    const fn new(truth: Truth) -> Self {
        Self {
            truth,
            said: BTreeMap::new(),
            card_blamed: 0,
            latencies: Vec::new(),
            brier: 0.0,
            idle: 0,
        }
    }

    /// Whether neither the card nor what it is plugged into has anything to do with it.
    #[must_use]
    pub const fn is_beside_the_card(&self) -> bool {
        matches!(
            self.truth,
            Truth::Service | Truth::Leak | Truth::Host | Truth::Overload | Truth::Configuration
        )
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

    /// How long it took to name the right cause, in so many of a hundred runs that did.
    #[must_use]
    pub fn latency(&self, percent: usize) -> Option<Duration> {
        let mut latencies = self.latencies.clone();
        latencies.sort();
        let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
        latencies.get(index).copied()
    }
}

impl Said {
    /// Whether that is the truth.
    #[must_use]
    pub const fn is_right(self, truth: Truth) -> bool {
        match self {
            Self::Nothing => matches!(truth, Truth::None),
            Self::Abstained => false,
            Self::Named(cause) => truth.is_named(cause),
        }
    }
}

impl Pairs {
    /// Of two that differ in what is true and can be so at once. A card that is away shows nothing
    /// else of itself or its link, and what takes hours is not asked about together with what takes a
    /// minute.
    fn plans(&self) -> Vec<([Trouble; 2], Phase, Plan)> {
        let mut all = asked_about(&self.troubles);
        all.retain(|it| it.truth() != Truth::None && !it.takes_hours());
        let mut plans = Vec::new();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let is_seen = !one.hides(other) && !other.hides(one) && !one.displaces(other);
                if one.truth() == other.truth() || !is_seen {
                    continue;
                }
                for seed in self.seed..self.seed + self.seeds {
                    // Each pair begins in another phase.
                    let drawn = (at as u64 + plans.len() as u64 + seed) % Phase::ALL.len() as u64;
                    let phase = self.phase.unwrap_or_else(|| Phase::ALL[index(drawn)]);
                    if is_out_of_reach(one, phase) || is_out_of_reach(other, phase) {
                        continue;
                    }
                    let pair = [one.clone(), other.clone()];
                    let plan = Plan::draw_pair(seed, &pair, phase);
                    plans.push((pair, phase, plan));
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
    pub fn run(&self, ended: impl Fn() + Sync) -> PairScores {
        let plans = self.plans();
        let mut scores = PairScores::default();
        live_all(
            plans.len() as u64,
            self.jobs,
            |number| plans[index(number)].2.clone(),
            None,
            |number, outcome| {
                ended();
                match outcome {
                    Ok(outcome) => scores.add(&outcome, &plans[index(number)]),
                    Err(failure) => scores.failures.push(*failure),
                }
                true
            },
        );
        scores
    }
}

impl PairScores {
    fn add(&mut self, outcome: &Outcome, (pair, phase, plan): &([Trouble; 2], Phase, Plan)) {
        let [one, other] = &outcome.incidents[..] else {
            return;
        };
        let courses = [one, other].map(|incident| Course::of(outcome, incident));
        let [Some(first), Some(second)] = courses else {
            self.idle += 1;
            return;
        };
        let both = Course {
            from: first.from.max(second.from),
            to: first.to.min(second.to),
            ..first
        };
        if both.to.since(both.from) < SEEN_MIN {
            self.idle += 1;
            return;
        }
        let mut truths = [one.trouble.truth(), other.trouble.truth()];
        let are_named_by = |top: &[Cause]| {
            let is_named = |truth: &Truth| top.iter().any(|cause| truth.is_named(*cause));
            truths.iter().all(is_named)
        };
        let by_belief = both.by_belief();
        let is_right = are_named_by(&most_believed(&by_belief));
        self.by_name += u64::from(are_named_by(&by_belief[..by_belief.len().min(2)]));
        truths.sort_unstable();
        let (runs, right) = self.truths.entry(truths).or_default();
        *runs += 1;
        *right += u64::from(is_right);
        if !is_right {
            let [one, other] = pair;
            let replay = || {
                format!(
                    "cargo xtask simulate --pairs 1 --seed {} --faults {one},{other} --phase {phase}",
                    plan.seed
                )
            };
            self.missed.entry(truths).or_insert_with(replay);
        }
    }

    /// Runs in which both did something, and those in which both were found out.
    #[must_use]
    pub fn sum(&self) -> (u64, u64) {
        let counts = self.truths.values();
        counts.fold((0, 0), |(runs, right), (more, of)| {
            (runs + more, right + of)
        })
    }
}

/// What was believed during a fault.
#[derive(Clone, Copy)]
struct Course<'a> {
    opinions: &'a [Opinion],
    from: Instant,
    to: Instant,
    /// From when on anybody could see something of it.
    seen_from: Instant,
    /// Here an error of the bus, with which a phase began, was talked about.
    primed: (Instant, Instant),
}

impl<'a> Course<'a> {
    /// While the incident acted; `None` if it never did, or not for long enough.
    fn of(outcome: &'a Outcome, incident: &IncidentOutcome) -> Option<Self> {
        let from = incident.acted_at?;
        let ended_at = incident.ended_at;
        let (primed, mended) = outcome.primed;
        if primed <= from && ended_at <= mended && incident.trouble != Trouble::BusError {
            return None;
        }
        let is_unseen = ended_at <= STARTED
            || showed_no_repetition(outcome, &incident.trouble)
            || was_never_seen_quick(outcome, incident, from)
            || no_reset_hung(incident);
        if is_unseen {
            return None;
        }
        let tried_at = primed.plus(Limits::default().backoff);
        let is_left_alone =
            matches!(incident.trouble, Trouble::Card(_)) && (primed..tried_at).contains(&from);
        let seen_from = match &incident.trouble {
            // What a card has forgotten is missed when it is wanted. What is missed after it has had
            // all its work again, it has forgotten for another reason.
            Trouble::Card(Fault::KeysLost) => {
                let to = incident.settled_at.unwrap_or(outcome.ended_at);
                let mut missed = outcome.sessions_missed.iter().copied();
                missed.find(|at| (from..=to).contains(at))?
            }
            _ if is_left_alone => tried_at,
            _ => from,
        };
        // What happens in an instant is talked about for longer.
        let to = ended_at.max(seen_from.plus(SEEN_MIN)).plus(AFTERMATH);
        let course = Self {
            opinions: &outcome.opinions,
            from,
            seen_from,
            to: to.min(outcome.ended_at),
            primed: outcome.primed,
        };
        (course.to.since(from) >= SEEN_MIN).then_some(course)
    }

    /// Each stretch of time with one opinion.
    fn stretches(&self) -> impl Iterator<Item = (&'a Opinion, Duration)> {
        let Self {
            opinions,
            from,
            to,
            primed,
            ..
        } = *self;
        let ends = opinions.iter().skip(1).map(|next| next.at);
        let ends = ends.chain([to]);
        opinions.iter().zip(ends).filter_map(move |(opinion, end)| {
            let (from, to) = (opinion.at.max(from), end.min(to));
            let primed = to.min(primed.1).since(from.max(primed.0));
            let time = to.since(from).saturating_sub(primed);
            (!time.is_zero()).then_some((opinion, time))
        })
    }

    /// Causes that were named, and for how long. What a monitor believed before the fault is not
    /// about it.
    fn named(&self) -> BTreeMap<Cause, Duration> {
        let mut named = BTreeMap::new();
        for (opinion, time) in self.stretches() {
            for cause in opinion.named().filter(|_| opinion.at >= self.from) {
                *named.entry(cause).or_default() += time;
            }
        }
        named
    }

    /// If something else is true besides and both were named, it is the trouble that was.
    fn said(&self, trouble: &Trouble) -> Said {
        let named = self.named();
        let truth = trouble.truth();
        let of = |truth: Truth| named.keys().copied().find(|cause| truth.is_named(*cause));
        if let (Some(besides), Some(cause)) = (trouble.besides(), of(truth))
            && of(besides).is_some()
        {
            return Said::Named(cause);
        }
        if let Some((cause, _)) = named.iter().max_by_key(|(_, time)| **time) {
            return Said::Named(*cause);
        }
        let saw = |opinion: &Opinion| {
            opinion.cause == Cause::Undetermined && opinion.state != State::Unknown
                || opinion.service == Cause::Undetermined
        };
        let saw_something = self.stretches().any(|(opinion, _)| saw(opinion));
        if saw_something && truth != Truth::None {
            Said::Abstained
        } else {
            Said::Nothing
        }
    }

    /// How long it took to name the truth, from when it could be known.
    fn named_after(&self, truth: Truth) -> Option<Duration> {
        let mut right = self
            .stretches()
            .filter(|(opinion, _)| opinion.named().any(|cause| truth.is_named(cause)));
        let (first, _) = right.next()?;
        Some(first.at.since(self.seen_from))
    }

    /// Of the forecast with which it was first said, or of the last if nothing was.
    fn brier(&self, truth: Truth, said: Said) -> f64 {
        let opinions: Vec<_> = self.stretches().map(|(opinion, _)| opinion).collect();
        let says = |opinion: &&&Opinion| match said {
            Said::Named(cause) => opinion.named().any(|named| named == cause),
            Said::Abstained | Said::Nothing => false,
        };
        let Some(opinion) = opinions.iter().find(says).or_else(|| opinions.last()) else {
            return 0.0;
        };
        // Of several names of one truth, all were right.
        let mut forecast = Vec::new();
        let mut of_the_truth = 0.0;
        let name = truth_as_cause(truth);
        for (cause, chance) in &opinion.forecast {
            if truth.is_named(*cause) || *cause == name {
                of_the_truth += chance;
            } else {
                forecast.push((*cause, *chance));
            }
        }
        forecast.push((name, of_the_truth));
        brier(&forecast, name)
    }

    /// The causes in which there was most belief, over all the time, the most believed first: whoever
    /// was named counts whole, and the others for how likely they were.
    fn by_belief(&self) -> Vec<Cause> {
        let mut belief: BTreeMap<Cause, f64> = BTreeMap::new();
        for (opinion, time) in self.stretches() {
            let named: Vec<_> = opinion.named().collect();
            let chances = opinion.forecast.iter().copied();
            let others = chances.filter(|(cause, _)| !named.contains(cause));
            for (cause, chance) in others.chain(named.iter().map(|cause| (*cause, 1.0))) {
                *belief.entry(cause).or_default() += chance * time.as_secs_f64();
            }
        }
        let faults = belief
            .into_iter()
            .filter(|(cause, _)| !matches!(cause, Cause::None | Cause::Undetermined));
        let mut faults: Vec<_> = faults.collect();
        faults.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        faults.into_iter().map(|(cause, _)| cause).collect()
    }
}

/// The two that are believed most. Another name of the same does not count again.
fn most_believed(by_belief: &[Cause]) -> Vec<Cause> {
    let mut believed: Vec<Cause> = Vec::new();
    for cause in by_belief {
        if !believed.iter().any(|it| is_another_name(*it, *cause)) {
            believed.push(*cause);
        }
    }
    believed.truncate(2);
    believed
}

/// Whether these are two names of what nobody is asked to tell apart: of a host that does not let
/// processes run, and of one that does not let the monitor run; of a service that does not serve.
const fn is_another_name(one: Cause, other: Cause) -> bool {
    use Cause::{HostStarvation, Monitor, ServiceGone, ServiceHang};
    matches!(
        (one, other),
        (HostStarvation, Monitor)
            | (Monitor, HostStarvation)
            | (ServiceGone, ServiceHang)
            | (ServiceHang, ServiceGone)
    )
}

/// One of its names.
fn truth_as_cause(truth: Truth) -> Cause {
    let named = Cause::ALL.into_iter().find(|cause| truth.is_named(*cause));
    named.unwrap_or(Cause::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::spec::telemetry::CODE_LEN;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    /// How long it took to name a fault that acted from then on, of a card that the bus had reported
    /// an error of at 100 s.
    fn latency(trouble: &str, acted_at: u64) -> Duration {
        let trouble: Trouble = trouble.parse().unwrap();
        let named = match trouble.truth() {
            Truth::Host => Cause::HostStarvation,
            _ => Cause::Card,
        };
        let outcome = Outcome {
            ended_at: at(300),
            primed: (at(100), at(106)),
            opinions: vec![Opinion {
                at: at(108),
                state: State::Connected,
                cause: named,
                service: Cause::None,
                forecast: Vec::new(),
            }],
            ..Outcome::default()
        };
        let truth = trouble.truth();
        let incident = IncidentOutcome {
            trouble,
            phase: Phase::BreakerOpen,
            acted_at: Some(at(acted_at)),
            ended_at: at(200),
            settled_at: None,
            resets_failed: 0,
            opened: None,
        };
        let course = Course::of(&outcome, &incident).unwrap();
        course.named_after(truth).unwrap()
    }

    #[test]
    fn time_runs_from_when_the_driver_touches_the_card_again() {
        assert_eq!(latency("hang", 101), Duration::from_secs(3));
        assert_eq!(latency("hang", 106), Duration::from_secs(2));
        assert_eq!(latency("hang", 99), Duration::from_secs(9));
        // A host is seen all the time.
        assert_eq!(latency("cpu-starvation", 101), Duration::from_secs(7));
    }

    #[test]
    fn two_names_of_one_truth_do_not_crowd_out_another() {
        let believed = |forecast: &[(Cause, f64)]| {
            let opinions = [Opinion {
                at: at(100),
                state: State::Connected,
                cause: Cause::HostStarvation,
                service: Cause::None,
                forecast: forecast.to_vec(),
            }];
            let course = Course {
                opinions: &opinions,
                from: at(100),
                to: at(200),
                seen_from: at(100),
                primed: (at(0), at(0)),
            };
            most_believed(&course.by_belief())
        };
        let (host, monitor) = ((Cause::HostStarvation, 0.5), (Cause::Monitor, 0.3));
        let both = [Cause::HostStarvation, Cause::Card];
        assert_eq!(believed(&[host, monitor, (Cause::Card, 0.1)]), both);
        assert_eq!(believed(&[host, (Cause::Card, 0.2), monitor]), both);
        let link = [host, monitor, (Cause::Card, 0.1), (Cause::Link, 0.2)];
        assert_eq!(believed(&link), [Cause::HostStarvation, Cause::Link]);
    }

    /// What came of a fault of which `tests` known-answer tests of one algorithm ended while it acted,
    /// and one before if `known`; `None` if it is not asked about.
    fn asked(trouble: &str, tests: u64, known: bool, resets_failed: u64, ended_at: u64) -> bool {
        let before = known.then_some((at(50), [1; CODE_LEN]));
        let during = (0..tests).map(|test| (at(110 + test * 10), [1; CODE_LEN]));
        let outcome = Outcome {
            ended_at: at(300),
            tests: before.into_iter().chain(during).collect(),
            ..Outcome::default()
        };
        let incident = IncidentOutcome {
            trouble: trouble.parse().unwrap(),
            phase: Phase::Idle,
            acted_at: Some(at(100).min(at(ended_at))),
            ended_at: at(ended_at),
            settled_at: None,
            resets_failed,
            opened: None,
        };
        Course::of(&outcome, &incident).is_some()
    }

    #[test]
    fn what_a_card_has_forgotten_is_asked_about_from_when_it_is_missed() {
        let window = |missed: &[u64], settled: Option<u64>| {
            let outcome = Outcome {
                ended_at: at(300),
                sessions_missed: missed.iter().copied().map(at).collect(),
                ..Outcome::default()
            };
            let incident = IncidentOutcome {
                trouble: "keys-lost".parse().unwrap(),
                phase: Phase::Idle,
                acted_at: Some(at(100)),
                ended_at: at(100),
                settled_at: settled.map(at),
                resets_failed: 0,
                opened: None,
            };
            Course::of(&outcome, &incident).map(|it| (it.seen_from, it.to))
        };
        let at_130 = Some((at(130), at(145)));
        assert_eq!(window(&[50, 130, 140], None), at_130);
        assert_eq!(window(&[50, 130, 140], Some(130)), at_130);
        assert_eq!(window(&[50], None), None, "nobody wanted it again");
        let later = window(&[50, 130, 140], Some(129));
        assert_eq!(later, None, "it was forgotten since");
    }

    #[test]
    fn nobody_is_asked_about_slowness_without_a_quick_test_before_or_a_reset_that_did_not_hang() {
        assert!(asked("slow", 3, true, 0, 200));
        assert!(!asked("slow", 2, true, 0, 200), "too few to compare");
        assert!(!asked("slow=100", 9, false, 0, 200), "none was quick");
        assert!(
            asked("slow=10000", 0, false, 0, 200),
            "it keeps no deadline"
        );
        assert!(asked("reset-hangs", 0, false, 1, 200));
        assert!(!asked("reset-hangs", 0, false, 0, 200));
        // What the first reset mended.
        assert!(asked("silent-reboot", 0, false, 0, 2));
        assert!(!asked("silent-reboot", 0, false, 0, 1));
    }

    #[test]
    fn nobody_is_asked_whether_a_card_is_slow_that_was_never_quick() {
        let slow = |factor| Trouble::Card(Fault::Slow { factor });
        assert!(is_out_of_reach(&slow(100.0), Phase::Boot));
        assert!(!is_out_of_reach(&slow(100.0), Phase::Steady));
        assert!(!is_out_of_reach(&slow(10_000.0), Phase::Boot));
    }

    #[test]
    fn a_pair_is_of_two_that_can_be_so_at_once() {
        let pairs = |names: [&str; 2]| Pairs {
            seed: 1,
            seeds: 1,
            troubles: names.map(|name| name.parse().unwrap()).to_vec(),
            phase: Some(Phase::Steady),
            jobs: 1,
        };
        assert_eq!(pairs(["hang", "overload"]).runs(), 1);
        assert_eq!(pairs(["crash", "cpu-starvation"]).runs(), 1);
        // A service suffers one thing at a time, and a card that is away has no light.
        assert_eq!(pairs(["crash", "overload"]).runs(), 0);
        assert_eq!(pairs(["surprise-removal", "led-sos"]).runs(), 0);
        // Who looks again sees at once that a service has gone, and not that it hangs.
        assert_eq!(pairs(["crash", "monitor-stopped"]).runs(), 1);
        assert_eq!(pairs(["hang-after-accept", "monitor-stopped"]).runs(), 0);
    }
}
