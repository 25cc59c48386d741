//! What a host did between two looks at it, out of counters that only ever grow.
//!
//! Whoever polls the host keeps one of these, and everybody who judges by the host is told what it
//! says. Lateness is not here: each knows best how late they were themselves.

use super::Sample;
use crate::probe::{CpuTimes, Host, Pressure, ProbeError};
use hwshim::clock::Instant;
use std::time::Duration;

/// Remembers the look before.
#[derive(Debug, Default)]
pub struct HostChanges {
    before: Option<(Instant, Host)>,
}

impl HostChanges {
    /// Takes in a look, and says what the host did since the one before; `None` if one of them saw
    /// nothing.
    pub fn look(&mut self, host: Option<Host>, now: Instant) -> Option<Sample> {
        let before = std::mem::replace(&mut self.before, host.map(|host| (now, host)));
        let (then, before) = before?;
        let (_, host) = self.before.as_ref()?;
        Some(between(&before, host, now.since(then)))
    }

    /// The latest look, unless it saw nothing.
    #[must_use]
    pub fn latest(&self) -> Option<&Host> {
        let (_, host) = self.before.as_ref()?;
        Some(host)
    }
}

fn between(before: &Host, now: &Host, passed: Duration) -> Sample {
    let cpus = before.cpus.as_ref().ok().zip(now.cpus.as_ref().ok());
    let softnet = before.softnet.as_ref().ok().zip(now.softnet.as_ref().ok());
    let suspended = before.suspended.zip(now.suspended);
    Sample {
        psi_cpu_some: pressure(&before.cpu_pressure, &now.cpu_pressure, passed),
        psi_memory_some: pressure(&before.memory_pressure, &now.memory_pressure, passed),
        psi_io_some: pressure(&before.io_pressure, &now.io_pressure, passed),
        own_wait_share: (before.own_wait.zip(now.own_wait))
            .and_then(|(before, now)| share_of(now.saturating_sub(before), passed)),
        softirq_share_max: cpus.and_then(|(before, now)| softirq_share_max(before, now)),
        softnet_dropped: softnet.map(|(before, now)| {
            let pairs = before.iter().zip(now);
            let dropped = pairs.map(|(before, now)| now.dropped.wrapping_sub(before.dropped));
            // One that is taken off line and put on again starts over.
            dropped.map(u64::from).filter(|it| *it < 1 << 31).sum()
        }),
        steal_share: cpus.and_then(|(before, now)| steal_share(before, now)),
        vm_pause: suspended.map_or(Duration::ZERO, |(before, now)| now.saturating_sub(before)),
        ..Sample::default()
    }
}

/// Share of the time in which some task waited.
fn pressure(
    before: &Result<Pressure, ProbeError>,
    now: &Result<Pressure, ProbeError>,
    passed: Duration,
) -> Option<f64> {
    let (before, now) = (before.as_ref().ok()?, now.as_ref().ok()?);
    share_of(now.some.saturating_sub(before.some), passed)
}

fn share_of(part: Duration, passed: Duration) -> Option<f64> {
    (!passed.is_zero()).then(|| (part.as_secs_f64() / passed.as_secs_f64()).min(1.0))
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
    ticks(before, now, |cpu| cpu.softirq_ticks)
        .filter_map(|(softirq, all)| share(softirq, all))
        .max_by(f64::total_cmp)
}

fn steal_share(before: &[CpuTimes], now: &[CpuTimes]) -> Option<f64> {
    let (stolen, all) = ticks(before, now, |cpu| cpu.steal_ticks)
        .fold((0, 0), |(stolen, all), (more, of)| {
            (stolen + more, all + of)
        });
    share(stolen, all)
}

/// Ticks between two looks are few.
fn share(part: u64, whole: u64) -> Option<f64> {
    let float = |ticks| u32::try_from(ticks).ok().map(f64::from);
    (whole > 0).then_some(float(part)? / float(whole)?)
}
