//! How the host is, from one look to the next, as far as it can make a card look bad.

use crate::attribution::{Dossier, Kind};
use crate::local_health::{Limits, LocalHealth, Sample, Sign};
use crate::rules::Case;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// What happened so long ago may still be what is being explained: a deadline, and the seconds in
/// which a verdict is made.
const OF_LATE: Duration = Duration::from_secs(15);

/// What was seen of the host at earlier looks.
#[derive(Debug)]
pub(super) struct HostDeltas {
    local_health: LocalHealth,
    polled_at: Option<Instant>,
    scores: VecDeque<(Instant, u8)>,
}

impl HostDeltas {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            local_health: LocalHealth::new(Limits::default(), now),
            polled_at: None,
            scores: VecDeque::new(),
        }
    }

    pub(super) const fn local_health(&self) -> &LocalHealth {
        &self.local_health
    }

    /// The worst score of the last seconds.
    pub(super) fn worst_of_late(&self, now: Instant) -> u8 {
        let of_late = self
            .scores
            .iter()
            .filter(|(at, _)| now.since(*at) <= OF_LATE);
        of_late.map(|(_, score)| *score).max().unwrap_or(0)
    }

    pub(super) fn poll(&mut self, case: &Case<'_>, dossier: &mut Dossier) {
        let now = case.look.at;
        let interval = case.limits.poll_interval;
        let due = self.polled_at.unwrap_or(now).plus(interval);
        self.polled_at = Some(now);
        let sample = Sample {
            own_lateness: now.since(due),
            poll_interval: interval,
            ..Sample::default()
        };
        let signs = self.local_health.sample(&sample, now);
        self.scores.push_back((now, self.local_health.score()));
        while self
            .scores
            .front()
            .is_some_and(|(at, _)| now.since(*at) > OF_LATE)
        {
            self.scores.pop_front();
        }
        weigh(&signs, &sample, now, dossier);
    }
}

fn weigh(signs: &[Sign], sample: &Sample, now: Instant, dossier: &mut Dossier) {
    if signs.contains(&Sign::OwnLateness) {
        let late = sample.own_lateness.as_secs_f64();
        let detail = format!("this poll came {late:.1} s late");
        dossier.seen(Kind::OwnLateness, 1.0, detail, now);
    } else {
        dossier.not_seen(Kind::OwnLateness, "this poll was on time", now);
    }
    let others: Vec<_> = signs
        .iter()
        .filter(|sign| **sign != Sign::OwnLateness)
        .collect();
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(|sign| sign.name()).collect();
        dossier.seen(Kind::HostPressure, 1.0, names.join(", "), now);
    }
}
