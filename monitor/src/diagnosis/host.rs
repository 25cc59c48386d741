//! How the host is, from one look to the next, as far as it can make a card look bad.

use crate::attribution::{Dossier, Kind};
use crate::local_health::{Limits, LocalHealth, Sample, Sign};
use crate::rules::Case;
use hwshim::clock::{Instant, nanos};
use std::collections::VecDeque;
use std::time::Duration;

/// What happened so long ago may still be what is being explained: a deadline, and the seconds in
/// which a verdict is made.
const OF_LATE: Duration = Duration::from_secs(15);

/// One poll that is late has met a pause, which everybody meets. Of so many polls
const POLLS: u32 = 20;
/// this many that are late are no coincidence,
const LATE_OFTEN: usize = 3;
/// and fewer tell half as much, unless one is late by as many.
const LATE_SELDOM: f64 = 0.5;

/// What became of the host so far.
#[derive(Debug)]
pub(super) struct HostHealth {
    local_health: LocalHealth,
    /// How far what came late to the card's owner can be trusted. That is better than ours where we
    /// alone are late.
    owners_health: LocalHealth,
    /// Whether each of the last polls came late.
    late: VecDeque<bool>,
}

impl HostHealth {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            local_health: LocalHealth::new(Limits::default(), now),
            owners_health: LocalHealth::new(Limits::default(), now),
            late: VecDeque::new(),
        }
    }

    pub(super) const fn local_health(&self) -> &LocalHealth {
        &self.local_health
    }

    /// The worst score of the last seconds, of whoever drives the card.
    pub(super) fn worst_of_late(&self, now: Instant) -> u8 {
        let from = Instant::from_nanos(now.as_nanos().saturating_sub(nanos(OF_LATE)));
        self.owners_health.score_max_within(from, now)
    }

    pub(super) fn poll(&mut self, case: &Case<'_>, dossier: &mut Dossier) {
        let now = case.look.at;
        let sample = Sample {
            own_lateness: case.memory.lateness(),
            poll_interval: case.limits.poll_interval,
            ..case.look.host.unwrap_or_default()
        };
        let signs = self.local_health.sample(&sample, now);
        let own_lateness = match case.memory.owner_kept_pace() {
            true => Duration::ZERO,
            false => sample.own_lateness,
        };
        let owners = Sample {
            own_lateness,
            ..sample
        };
        self.owners_health.sample(&owners, now);
        // Polls that are on time do not clear a host that nobody has looked at.
        let is_only_late = signs.iter().all(|sign| *sign == Sign::OwnLateness);
        if case.look.host.is_some() && is_only_late {
            dossier.not_seen(Kind::HostPressure, "the host has time and memory", now);
        }
        if case.look.host.is_some() && signs.is_empty() {
            dossier.not_seen(Kind::OwnLateness, "polls are on time", now);
        }
        if self.late.len() == POLLS as usize {
            self.late.pop_front();
        }
        self.late.push_back(signs.contains(&Sign::OwnLateness));
        self.weigh(&signs, &sample, now, dossier);
    }

    fn weigh(&self, signs: &[Sign], sample: &Sample, now: Instant, dossier: &mut Dossier) {
        if signs.contains(&Sign::OwnLateness) {
            let often = self.late.iter().filter(|late| **late).count() >= LATE_OFTEN;
            // Who comes so late has missed as many polls as are looked back upon.
            let is_long = sample.own_lateness >= sample.poll_interval * POLLS;
            let strength = if often || is_long { 1.0 } else { LATE_SELDOM };
            let late = sample.own_lateness.as_secs_f64();
            let detail = format!("this poll came {late:.1} s late");
            dossier.seen(Kind::OwnLateness, strength, detail, now);
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
}
