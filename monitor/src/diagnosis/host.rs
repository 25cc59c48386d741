//! How the host is, from one look to the next, as far as it can make a card look bad.

use crate::attribution::{Dossier, Kind};
use crate::local_health::{Limits, LocalHealth, Sample, Sign};
use crate::probe::{CpuTimes, Host, Pressure, ProbeError};
use crate::rules::Case;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What happened so long ago may still be what is being explained: a deadline, and the seconds in
/// which a verdict is made.
const OF_LATE: Duration = Duration::from_secs(15);

/// What was seen of the host at earlier looks.
#[derive(Debug)]
pub(super) struct HostDeltas {
    local_health: LocalHealth,
    polled_at: Option<Instant>,
    before: Option<(Instant, Arc<Result<Host, ProbeError>>)>,
    scores: VecDeque<(Instant, u8)>,
}

impl HostDeltas {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            local_health: LocalHealth::new(Limits::default(), now),
            polled_at: None,
            before: None,
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
        let mut sample = Sample {
            own_lateness: now.since(due),
            poll_interval: interval,
            ..Sample::default()
        };
        let is_seen = self.compare(case, &mut sample);
        let signs = self.local_health.sample(&sample, now);
        // Polls that are on time do not clear a host that nobody has looked at.
        if is_seen && signs.is_empty() {
            dossier.not_seen(Kind::OwnLateness, "polls are on time", now);
            dossier.not_seen(Kind::HostPressure, "the host has time and memory", now);
        }
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

impl HostDeltas {
    /// Fills in what the host did since the look before. Returns whether there was anything to
    /// compare.
    fn compare(&mut self, case: &Case<'_>, sample: &mut Sample) -> bool {
        let Some(host) = &case.look.host else {
            return false;
        };
        let now = case.look.at;
        let before = self.before.replace((now, Arc::clone(host)));
        let Some((then, before)) = before else {
            return false;
        };
        let (Ok(before), Ok(host)) = (&*before, &**host) else {
            return false;
        };
        let elapsed = now.since(then);
        sample.psi_cpu_some = pressure(&before.cpu_pressure, &host.cpu_pressure, elapsed);
        sample.psi_memory_some = pressure(&before.memory_pressure, &host.memory_pressure, elapsed);
        if let (Ok(before), Ok(cpus)) = (&before.cpus, &host.cpus) {
            sample.softirq_share_max = softirq_share_max(before, cpus);
            sample.steal_share = steal_share(before, cpus);
        }
        if let (Ok(before), Ok(softnet)) = (&before.softnet, &host.softnet) {
            let dropped = before.iter().zip(softnet);
            let dropped = dropped.map(|(before, now)| now.dropped.wrapping_sub(before.dropped));
            // One that is taken off line and put on again starts over.
            sample.softnet_dropped = Some(dropped.map(u64::from).filter(|it| *it < 1 << 31).sum());
        }
        if let (Some(before), Some(suspended)) = (before.suspended, host.suspended) {
            sample.vm_pause = suspended.saturating_sub(before);
        }
        true
    }
}

/// Share of the time in which some task waited.
fn pressure(
    before: &Result<Pressure, ProbeError>,
    now: &Result<Pressure, ProbeError>,
    elapsed: Duration,
) -> Option<f64> {
    let (Ok(before), Ok(now)) = (before, now) else {
        return None;
    };
    let waited = now.some.saturating_sub(before.some).as_secs_f64();
    (!elapsed.is_zero()).then(|| (waited / elapsed.as_secs_f64()).min(1.0))
}

/// Each CPU that was there before and is there now: ticks in between, of one kind and of all.
fn ticks<'a>(
    before: &'a [CpuTimes],
    now: &'a [CpuTimes],
    of: fn(&CpuTimes) -> u64,
) -> impl Iterator<Item = (u64, u64)> + 'a {
    now.iter().filter_map(move |now| {
        let before = before.iter().find(|before| before.cpu == now.cpu)?;
        let all = now.total_ticks().saturating_sub(before.total_ticks());
        Some((of(now).saturating_sub(of(before)), all))
    })
}

fn softirq_share_max(before: &[CpuTimes], now: &[CpuTimes]) -> Option<f64> {
    let shares = ticks(before, now, |cpu| cpu.softirq_ticks)
        .filter_map(|(softirq, all)| share(softirq, all));
    shares.reduce(f64::max)
}

fn steal_share(before: &[CpuTimes], now: &[CpuTimes]) -> Option<f64> {
    let (stolen, all) = ticks(before, now, |cpu| cpu.steal_ticks)
        .fold((0, 0), |(stolen, all), (more, of)| {
            (stolen + more, all + of)
        });
    share(stolen, all)
}

/// Ticks of a poll or two are few.
fn share(part: u64, whole: u64) -> Option<f64> {
    let float = |ticks| u32::try_from(ticks).ok().map(f64::from);
    (whole > 0).then_some(float(part)? / float(whole)?)
}

fn weigh(signs: &[Sign], sample: &Sample, now: Instant, dossier: &mut Dossier) {
    if signs.contains(&Sign::OwnLateness) {
        let late = sample.own_lateness.as_secs_f64();
        let detail = format!("this poll came {late:.1} s late");
        dossier.seen(Kind::OwnLateness, 1.0, detail, now);
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
