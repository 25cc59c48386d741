//! Whether the host gave what is needed, poll after poll: its signs of starvation become a score,
//! and each time of starvation one event. It is told what the host did, and looks at nothing.

use super::{HOST_STARVED, StarvedBody};
use crate::history::{Event, Severity, Stamp};
use crate::local_health::{Limits, LocalHealth, Sample, Sign};
use hwshim::clock::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long it must be well before a time of starvation is over: a storm of many is one event.
const CALM: Duration = Duration::from_secs(10);
/// A time of starvation that lasts this long is told of before it is over, and again each time it
/// has doubled.
const LONG: Duration = Duration::from_secs(60);

/// Follows the host.
#[derive(Debug)]
pub struct HostWatch {
    interval: Duration,
    health: LocalHealth,
    sample: Sample,
    sampled_at: Instant,
    spell: Option<Spell>,
}

/// A time of starvation.
#[derive(Debug)]
struct Spell {
    since: Instant,
    /// The last poll with a sign of it.
    until: Instant,
    score_max: u8,
    signs: BTreeSet<&'static str>,
    late_max: Duration,
    /// At which length it is told of next.
    told_at: Duration,
}

impl HostWatch {
    /// Of polls that are `interval` apart.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            health: LocalHealth::new(Limits::default(), now),
            sample: Sample::default(),
            sampled_at: now,
            spell: None,
        }
    }

    /// How starved it is, of 7.
    #[must_use]
    pub const fn score(&self) -> u8 {
        self.health.score()
    }

    /// Takes in what the host did since the poll before, if that was seen; the event of a time of
    /// starvation that is over, or has become long.
    pub(super) fn poll(
        &mut self,
        host: Option<Sample>,
        late: Duration,
        now: Stamp,
    ) -> Option<Event> {
        self.sample = Sample {
            own_lateness: late,
            poll_interval: self.interval,
            ..host.unwrap_or_default()
        };
        let since = std::mem::replace(&mut self.sampled_at, now.monotonic);
        let signs = self.health.sample(&self.sample, now.monotonic);
        self.follow(&signs, since, now)
    }

    fn follow(&mut self, signs: &[Sign], since: Instant, now: Stamp) -> Option<Event> {
        if !signs.is_empty() {
            let spell = self.spell.get_or_insert_with(|| Spell {
                since,
                until: now.monotonic,
                score_max: 0,
                signs: BTreeSet::new(),
                late_max: Duration::ZERO,
                told_at: LONG,
            });
            spell.until = now.monotonic;
            spell.score_max = spell.score_max.max(self.health.score());
            spell.signs.extend(signs.iter().map(|sign| sign.name()));
            spell.late_max = spell.late_max.max(self.sample.own_lateness);
        }
        let spell = self.spell.as_mut()?;
        if now.monotonic.since(spell.until) >= CALM {
            return self.end(now);
        }
        let lasted = spell.until.since(spell.since);
        (lasted >= spell.told_at).then(|| {
            spell.told_at = lasted * 2;
            spell.event(now)
        })
    }

    /// The event of a time of starvation that is over now.
    pub(super) fn end(&mut self, now: Stamp) -> Option<Event> {
        Some(self.spell.take()?.event(now))
    }

    /// What was seen in the last poll, by series.
    pub(super) fn figures(&self) -> impl Iterator<Item = (String, f64)> + use<> {
        let Sample {
            psi_cpu_some,
            psi_memory_some,
            softirq_share_max,
            steal_share,
            ..
        } = self.sample;
        let figures = [
            ("host/cpu-pressure", psi_cpu_some),
            ("host/memory-pressure", psi_memory_some),
            ("host/softirq-max", softirq_share_max),
            ("host/steal", steal_share),
        ];
        figures
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    }
}

impl Spell {
    fn event(&self, now: Stamp) -> Event {
        let body = StarvedBody {
            seconds: self.until.since(self.since).as_secs_f64(),
            score_max: self.score_max,
            signs: self.signs.iter().map(|&sign| sign.to_owned()).collect(),
            tick_late_seconds_max: self.late_max.as_secs_f64(),
            ended_seconds_ago: now.monotonic.since(self.until).as_secs_f64(),
        };
        let severity = if self.signs.iter().all(|sign| *sign == Sign::Pressure.name()) {
            Severity::Notice
        } else {
            Severity::Warning
        };
        Event::new(now, HOST_STARVED, "host", &body).with_severity(severity)
    }
}
