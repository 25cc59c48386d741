//! Many runs, and what they add up to.

use crate::invariant::Invariant;
use crate::plan::{Filter, Plan};
use crate::world::{Failure, IncidentOutcome, Outcome, run_traced};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Failures after which nothing new is learned.
const FAILURES_MAX: usize = 10;

/// Which runs.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Seed of the first run; the next has the next.
    pub seed: u64,
    /// How many.
    pub runs: u64,
    /// What may be drawn.
    pub filter: Filter,
    /// Threads, each with a run of its own.
    pub jobs: usize,
    /// Who is told everything that happens, a line each.
    pub listener: Option<fn(&str)>,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that have ended.
    pub runs: u64,
    /// Virtual time of all.
    pub simulated: Duration,
    /// Things that happened.
    pub steps: u64,
    /// Requests of callers.
    pub requests: u64,
    /// Answered by the card.
    pub by_card: u64,
    /// Answered by software.
    pub by_software: u64,
    /// Ended with the caller's own error.
    pub refused: u64,
    /// Wrong answers that the card has given.
    pub wrong_answers_told: u64,
    /// Of those, the ones to callers; the others were to known-answer tests.
    pub wrong_answers_to_callers: u64,
    /// Answers to callers that the router has rejected: wrong ones, and true ones whose nonce had been
    /// seen, which whoever repeats nonces gives too.
    pub answers_rejected: u64,
    /// Wrong answers that were released.
    pub released: u64,
    /// Requests that were in no place, or in two, when somebody looked.
    pub lost: u64,
    /// By name of what went wrong.
    pub troubles: BTreeMap<String, TroubleReport>,
    /// Runs in which something was not true.
    pub failures: Vec<Failure>,
}

/// What came of one kind of trouble.
#[derive(Debug)]
pub struct TroubleReport {
    /// Times it was injected.
    pub injected: u64,
    /// Times it did anything.
    pub acted: u64,
    /// Codes with which the breaker opened.
    pub opened_by: BTreeSet<&'static str>,
    /// Time from when it first acted to when the breaker opened, in microseconds.
    pub detection_us: Histogram<u64>,
}

impl TroubleReport {
    fn new() -> Self {
        Self {
            injected: 0,
            acted: 0,
            opened_by: BTreeSet::new(),
            detection_us: Histogram::new(3).expect("three digits can be kept"),
        }
    }

    fn add(&mut self, incident: &IncidentOutcome) {
        self.injected += 1;
        self.acted += u64::from(incident.acted_at.is_some());
        if let Some((code, latency)) = incident.opened {
            self.opened_by.insert(code);
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            let recorded = self.detection_us.record(micros);
            recorded.expect("the histogram grows");
        }
    }
}

impl Report {
    fn add(&mut self, ended: Result<Outcome, Box<Failure>>) {
        self.runs += 1;
        let outcome = match ended {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.released += u64::from(failure.invariant == Invariant::OnlyTruthReleased);
                self.lost += failure.lost;
                self.failures.push(*failure);
                return;
            }
        };
        self.simulated += outcome.simulated;
        self.steps += outcome.steps;
        self.requests += outcome.requests;
        self.by_card += outcome.by_card;
        self.by_software += outcome.by_software;
        self.refused += outcome.refused;
        self.wrong_answers_told += outcome.wrong_answers_told;
        self.wrong_answers_to_callers += outcome.wrong_answers_to_callers;
        self.answers_rejected += outcome.answers_rejected;
        for incident in &outcome.incidents {
            let name = incident.trouble.to_string();
            let report = self.troubles.entry(name).or_insert_with(TroubleReport::new);
            report.add(incident);
        }
    }
}

impl Campaign {
    /// Runs them, telling `ended` after each how many failures there are. It says whether to go on.
    pub fn run(&self, ended: impl Fn(usize) -> bool + Sync) -> Report {
        let mut report = Report::default();
        live_all(
            self.runs,
            self.jobs,
            |number| Plan::draw(self.seed.wrapping_add(number), &self.filter),
            self.listener,
            |_, outcome| {
                report.add(outcome);
                let failures = report.failures.len();
                failures < FAILURES_MAX && ended(failures)
            },
        );
        report.failures.sort_by_key(|failure| failure.plan.seed);
        report
    }
}

/// Lives through so many plans on so many threads, and tells what came of each, one after the
/// other, until it is told not to go on.
pub(crate) fn live_all(
    runs: u64,
    jobs: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    listener: Option<fn(&str)>,
    ended: impl FnMut(u64, Result<Outcome, Box<Failure>>) -> bool + Send,
) {
    let next = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let ended = Mutex::new(ended);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        break;
                    }
                    let outcome = run_traced(&plan(number), listener);
                    let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                    if !ended(number, outcome) {
                        is_over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}
