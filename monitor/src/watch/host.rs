//! Says how the host is, from poll to poll: whether it gives programs what they need, who was killed
//! for want of memory, and which health checks that fails. It is told what was seen, once a poll.
//!
//! ```text
//!                    a sign of starvation            for a minute, and not pressure alone
//!   none: all well ----------------------> holding --------------> host-starvation
//!        ^                                    |                          |
//!        +------------------------------------+--------------------------+
//!                     clean seconds, as many as the score was high
//!
//!   processes killed for want of memory, or a place that may not be read: undetermined for five
//!   minutes, as others may be to blame
//! ```

use crate::checks;
use crate::local_health::{Limits, LocalHealth, Sample, Sign, Standing};
use crate::probe::{Host, Memory};
use crate::status::HostFigures;
use crate::verdict::{Cause, Evidence};
use hwshim::clock::Instant;
use std::time::Duration;

/// A kill is trouble for so long: what it took down needs some time to come back.
const KILL_FRESH: Duration = Duration::from_secs(5 * 60);
/// The code of what cannot be had any more: tasks, memory, descriptors.
const CANNOT_SPAWN: u8 = 6;

/// Judges the host.
#[derive(Debug)]
pub(super) struct HostJudge {
    interval: Duration,
    /// From the first poll on.
    health: Option<LocalHealth>,
    /// Whether anything but pressure was seen since the score was last 0. Tasks that wait for a CPU
    /// are usual on a busy host whose timers come on time.
    more_than_pressure: bool,
    polled_at: Option<Instant>,
    /// Processes that had been killed when the host was first seen.
    kills_before: Option<u64>,
    kills: u64,
    killed_at: Option<Instant>,
    /// What is said, and since when.
    said: Option<(Cause, Instant)>,
}

impl HostJudge {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            health: None,
            more_than_pressure: false,
            polled_at: None,
            kills_before: None,
            kills: 0,
            killed_at: None,
            said: None,
        }
    }

    /// Processes that were killed since the host is watched.
    pub(super) const fn oom_kills(&self) -> u64 {
        self.kills
    }

    /// Takes in what the host did. `refused` is why the directory of pages could not be read, if
    /// for a reason that has a code.
    pub(super) fn poll(
        &mut self,
        host: Option<&Host>,
        sample: Option<Sample>,
        refused: Option<(u8, &str)>,
        now: Instant,
    ) -> HostFigures {
        self.count_kills(host, now);
        let signs = self.take(sample, now);
        let recent_kill = self.killed_at.filter(|at| now.since(*at) < KILL_FRESH);
        let mut evidence = Vec::new();
        let mut codes = Vec::new();
        let mut cause = Cause::None;
        if recent_kill.is_some() {
            cause = Cause::Undetermined;
            codes.push(CANNOT_SPAWN);
            let kills = self.kills;
            evidence.push(evidence_of(
                "oom-kill",
                format!("{kills} processes were killed for want of memory; they are victims"),
            ));
        }
        if let Some((code, why)) = refused {
            cause = Cause::Configuration;
            codes.insert(0, code);
            evidence.push(evidence_of("telemetry-unreadable", why.to_owned()));
        }
        if let Some(since) = self.alarmed_since() {
            cause = Cause::HostStarvation;
            let seconds = now.since(since).as_secs();
            let detail = format!("it has given too little for {seconds} s");
            evidence.push(evidence_of("host-starved", detail));
        }
        if !signs.is_empty() {
            evidence.push(evidence_of("starvation", signs.join(", ")));
        }
        self.figures(host, cause, evidence, codes, now)
    }

    fn count_kills(&mut self, host: Option<&Host>, now: Instant) {
        let shortages = host.and_then(|host| host.shortages.as_ref().ok());
        let Some(counted) = shortages.and_then(|shortages| shortages.oom_kills) else {
            return;
        };
        let kills = counted.saturating_sub(*self.kills_before.get_or_insert(counted));
        if kills > self.kills {
            self.killed_at = Some(now);
        }
        self.kills = kills;
    }

    /// The signs of starvation in a sample, which goes into the score.
    fn take(&mut self, sample: Option<Sample>, now: Instant) -> Vec<&'static str> {
        let due = self.polled_at.unwrap_or(now).plus(self.interval);
        self.polled_at = Some(now);
        let sample = Sample {
            own_lateness: now.since(due),
            poll_interval: self.interval,
            ..sample.unwrap_or_default()
        };
        let health = self
            .health
            .get_or_insert_with(|| LocalHealth::new(Limits::default(), now));
        let signs = health.sample(&sample, now);
        self.more_than_pressure |= signs.iter().any(|sign| *sign != Sign::Pressure);
        self.more_than_pressure &= health.score() > 0;
        signs.iter().map(|sign| sign.name()).collect()
    }

    fn alarmed_since(&self) -> Option<Instant> {
        match self.health.as_ref()?.standing() {
            Standing::Alarm { since } if self.more_than_pressure => Some(since),
            Standing::Alarm { .. } | Standing::Holding { .. } | Standing::Clear => None,
        }
    }

    fn figures(
        &mut self,
        host: Option<&Host>,
        cause: Cause,
        evidence: Vec<Evidence>,
        codes: Vec<u8>,
        now: Instant,
    ) -> HostFigures {
        let since = match self.said {
            Some((before, since)) if before == cause => since,
            _ => now,
        };
        self.said = Some((cause, since));
        let memory = host.and_then(|host| host.memory.as_ref().ok());
        HostFigures {
            memory_total_bytes: memory.map(|memory| memory.total_bytes),
            memory_available_bytes: memory.and_then(|memory| memory.available_bytes),
            memory_unaccounted_bytes: memory.and_then(Memory::unaccounted_bytes),
            // Whoever watches how that goes on says so.
            driver_pages: None,
            oom_kills: self.kills,
            cause,
            for_seconds: now.since(since).as_secs_f64(),
            starvation: self.health.as_ref().map(LocalHealth::score),
            evidence,
            advice: checks::advice(&codes),
            codes,
        }
    }
}

fn evidence_of(code: &'static str, detail: String) -> Evidence {
    Evidence {
        code: code.into(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn judge() -> HostJudge {
        HostJudge::new(Duration::from_secs(1))
    }

    fn starved() -> Option<Sample> {
        Some(Sample {
            steal_share: Some(0.9),
            ..Sample::default()
        })
    }

    #[test]
    fn a_busy_host_is_not_at_fault_however_long() {
        let mut judge = judge();
        let busy = Sample {
            psi_cpu_some: Some(0.9),
            ..Sample::default()
        };
        for second in 0..200 {
            let figures = judge.poll(None, Some(busy), None, at(second));
            assert_eq!(figures.cause, Cause::None);
        }
    }

    #[test]
    fn a_host_is_at_fault_when_it_has_been_starved_for_a_minute_and_not_before() {
        let mut judge = judge();
        let mut causes = Vec::new();
        for second in 0..=70 {
            let figures = judge.poll(None, starved(), None, at(second));
            causes.push(figures.cause);
            assert!(figures.evidence.iter().any(|it| it.code == "starvation"));
        }
        assert_eq!(causes[58], Cause::None);
        assert_eq!(causes[70], Cause::HostStarvation);
        for second in 71..90 {
            judge.poll(None, Some(Sample::default()), None, at(second));
        }
        let well = judge.poll(None, Some(Sample::default()), None, at(90));
        assert_eq!((well.cause, well.starvation), (Cause::None, Some(0)));
    }

    #[test]
    fn a_directory_that_may_not_be_read_is_a_matter_of_configuration() {
        let mut judge = judge();
        let figures = judge.poll(None, None, Some((0, "may not")), at(1));
        assert_eq!(
            (figures.cause, &figures.codes[..]),
            (Cause::Configuration, &[0][..])
        );
        assert_eq!(figures.advice[0].code, 0);
    }
}
