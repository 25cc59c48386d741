//! Measures how well leaks are found: series in, figures out.
//!
//! A leak is added to a series from 35 % of its length: lumps of random size at random times, five
//! minutes apart on average, that together come to a rate in percent of the baseline for each
//! hour. The baseline is the median before that; the limit is twice the baseline, and a process
//! that has reached it is gone. Without a leak, whatever is paged is counted as false, though
//! nobody knows: some of the processes may have leaked.

use hwshim::clock::Instant;
use monitor::leak::{Level, Limit, Resource, Sample, Scope, Speed, Watch};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Leaks that are added, in percent of the baseline for each hour.
pub(crate) const RATES: [f64; 6] = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
/// Leaks of each rate that are added to a series, each in another run.
const SEEDS: u64 = 2;
/// Where leaks begin, of the length of a series.
const BEGINS: f64 = 0.35;
/// A leak that is seen for less time than this, and exhausts nothing, is no test of anything.
const LEAST_HOURS: f64 = 6.0;
/// Seconds between lumps, on average.
const LUMPS: f64 = 300.0;
const HOUR: f64 = 3600.0;

/// A gauge as it was recorded.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Series {
    pub(crate) archive: String,
    pub(crate) gauge: String,
    pub(crate) instance: String,
    /// Whether it is bytes, and not a count.
    pub(crate) bytes: bool,
    /// Whether it is of the whole host.
    pub(crate) host: bool,
    /// Seconds.
    pub(crate) at: Vec<f64>,
    pub(crate) values: Vec<f64>,
}

/// What the series of an archive, or of a process in one, are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// Rules are tuned on these.
    Tuning,
    /// Held out once, and then looked at: what is found wrong here is to be understood.
    Seen,
    /// Half of what was held out, of which nobody has looked at anything since. Figures of this
    /// part, once they have been read, change no rule.
    Final,
}

impl Part {
    /// Archives that rules are tuned on.
    const TUNED_ON: [&str; 2] = ["bozo-20170904", "bug-1044"];
}

/// What was found in a set of series.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) quiet: Quiet,
    pub(crate) leaks: Vec<Leaks>,
}

/// Without any leak.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Quiet {
    pub(crate) series: usize,
    pub(crate) days: f64,
    pub(crate) suspected: usize,
    pub(crate) leaking: usize,
    pub(crate) pages: usize,
    /// Pages after which the limit was reached within a day.
    pub(crate) right: usize,
    /// Who was paged for.
    pub(crate) paged: Vec<String>,
}

/// With leaks of one rate.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Leaks {
    pub(crate) percent_per_hour: f64,
    /// Leaks that could be found: nothing was alarming when they began.
    pub(crate) leaks: usize,
    pub(crate) suspected: usize,
    pub(crate) median_hours_to_suspicion: f64,
    /// Leaks that reached the limit.
    pub(crate) exhausted: usize,
    pub(crate) paged_before: usize,
    pub(crate) median_hours_of_lead: f64,
}

/// One series, watched from end to end.
#[derive(Debug, Default)]
struct Run {
    /// When it rose to each level, anew each time.
    rises: Vec<(f64, Level)>,
    at_start: Option<Level>,
    exhausted: Option<f64>,
    paged_by: Option<String>,
    right: usize,
}

/// Measures all of `series`.
pub(crate) fn measure<'a>(series: impl Iterator<Item = &'a Series> + Clone) -> Report {
    let mut quiet = Quiet::default();
    for series in series.clone() {
        let run = series.watch(0.0, 0);
        let rises = |level| run.rises.iter().filter(|(_, to)| *to >= level).count();
        quiet.series += 1;
        quiet.days += series.seconds() / (24.0 * HOUR);
        quiet.suspected += run
            .rises
            .iter()
            .filter(|(_, to)| *to == Level::Suspected)
            .count();
        quiet.leaking += run
            .rises
            .iter()
            .filter(|(_, to)| *to == Level::Leaking)
            .count();
        quiet.pages += rises(Level::Page);
        quiet.right += run.right;
        if rises(Level::Page) > 0 {
            let by = run.paged_by.unwrap_or_default();
            quiet.paged.push(format!("{} ({by})", series.name()));
        }
    }
    let leaks = RATES.map(|rate| leaks(series.clone(), rate)).into();
    Report { quiet, leaks }
}

fn leaks<'a>(series: impl Iterator<Item = &'a Series>, rate: f64) -> Leaks {
    let mut leaks = Leaks {
        percent_per_hour: rate,
        ..Leaks::default()
    };
    let (mut waits, mut leads) = (Vec::new(), Vec::new());
    for series in series {
        let began = series.began();
        for seed in 1..=SEEDS {
            let run = series.watch(rate, seed);
            let seen = (series.seconds() - began) / HOUR;
            let too_short = run.exhausted.is_none() && seen < LEAST_HOURS;
            if too_short || run.at_start.is_some_and(|level| level > Level::Watching) {
                continue;
            }
            leaks.leaks += 1;
            let first = |level| {
                let mut rises = run.rises.iter().filter(|(at, _)| *at >= began);
                Some(rises.find(|(_, to)| *to >= level)?.0)
            };
            if let Some(at) = first(Level::Suspected) {
                leaks.suspected += 1;
                waits.push((at - began) / HOUR);
            }
            if let Some(end) = run.exhausted {
                leaks.exhausted += 1;
                if let Some(at) = first(Level::Page) {
                    leaks.paged_before += 1;
                    leads.push((end - at) / HOUR);
                }
            }
        }
    }
    leaks.median_hours_to_suspicion = median(waits);
    leaks.median_hours_of_lead = median(leads);
    leaks
}

impl Series {
    pub(crate) fn name(&self) -> String {
        let of = if self.host { "host" } else { "process" };
        format!("{} {of} {} {}", self.archive, self.gauge, self.instance)
    }

    /// Whether anything can be measured on it: a gauge that is mostly 0 has no baseline.
    pub(crate) fn is_usable(&self) -> bool {
        self.baseline() > 0.0
    }

    pub(crate) fn seconds(&self) -> f64 {
        match (self.at.first(), self.at.last()) {
            (Some(first), Some(last)) => last - first,
            _ => 0.0,
        }
    }

    /// What this series is for. All that was recorded of one process stays together, as do all of a
    /// host's own gauges: memory and descriptors of one process are no two witnesses.
    pub(crate) fn part(&self) -> Part {
        let Self {
            archive, instance, ..
        } = self;
        let whose = if self.host { "" } else { instance };
        if Part::TUNED_ON.contains(&archive.as_str()) {
            Part::Tuning
        } else if hash(&format!("{archive}/{whose}")) >> 63 == 0 {
            Part::Seen
        } else {
            Part::Final
        }
    }

    /// When a leak begins, from the first sample.
    fn began(&self) -> f64 {
        self.seconds() * BEGINS
    }

    fn baseline(&self) -> f64 {
        let until = self.at.first().map_or(0.0, |first| first + self.began());
        let before = self.at.partition_point(|at| *at <= until);
        median(self.values[..before].to_vec())
    }

    /// Watches the series with a leak of `rate` percent an hour added, until the limit is reached;
    /// to its end if there is none.
    fn watch(&self, rate: f64, seed: u64) -> Run {
        let baseline = self.baseline();
        let limit = 2.0 * baseline;
        let mut watch = Watch::new(self.resource(limit));
        let mut leak = Leak::new(rate / 100.0 * baseline / HOUR, seed, self);
        let mut run = Run::default();
        let mut level = Level::Watching;
        let first = self.at.first().copied().unwrap_or(0.0);
        for (at, value) in self.at.iter().zip(&self.values) {
            let at = at - first;
            let held = value + leak.until(at);
            let began = rate > 0.0 && at >= self.began();
            if began && run.at_start.is_none() {
                run.at_start = Some(level);
            }
            if began && held >= limit {
                run.exhausted = Some(at);
                break;
            }
            let sample = Sample {
                held,
                ..Sample::default()
            };
            watch.observe(instant(at), &sample);
            let now = watch.verdict().level;
            if now > level {
                if now == Level::Page {
                    let verdict = watch.verdict();
                    let speed = verdict.speed.map_or("", Speed::name);
                    run.right += usize::from(self.reaches(limit, at));
                    run.paged_by = Some(format!("{speed} at {:.1} h", at / HOUR));
                }
                run.rises.push((at, now));
            }
            level = now;
        }
        run
    }

    /// Whether a limit is reached within a day.
    fn reaches(&self, limit: f64, after: f64) -> bool {
        let first = self.at.first().copied().unwrap_or(0.0);
        let day = after..after + 24.0 * HOUR;
        let mut samples = self.at.iter().zip(&self.values);
        samples.any(|(at, value)| day.contains(&(at - first)) && *value >= limit)
    }

    fn resource(&self, limit: f64) -> Resource {
        Resource {
            name: self.name().into(),
            // As if the gauges of a host were of one service: of the host they would never page.
            scope: Scope::Service,
            limit: Some(Limit {
                value: limit,
                source: "twice the baseline".into(),
            }),
            negligible: if self.bytes {
                Resource::BYTES
            } else {
                Resource::COUNT
            },
            recycle: None,
        }
    }
}

/// What a leak holds.
struct Leak {
    random: fastrand::Rng,
    lump: f64,
    next: f64,
    held: f64,
    whole: bool,
}

impl Leak {
    fn new(rate_per_second: f64, seed: u64, series: &Series) -> Self {
        let mut leak = Self {
            random: fastrand::Rng::with_seed(seed ^ hash(&series.name())),
            lump: rate_per_second * LUMPS,
            next: series.began(),
            held: 0.0,
            whole: !series.bytes,
        };
        leak.next += leak.exponential() * LUMPS;
        leak
    }

    fn until(&mut self, at: f64) -> f64 {
        while self.lump > 0.0 && self.next <= at {
            self.held += self.exponential() * self.lump;
            self.next += self.exponential() * LUMPS;
        }
        if self.whole {
            self.held.floor()
        } else {
            self.held
        }
    }

    /// 1 on average.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln()
    }
}

/// FNV-1a, 64 bits: the same on every machine and for ever.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn instant(seconds: f64) -> Instant {
    // Not 0: no clock that is read is at its origin.
    Instant::ORIGIN.plus(Duration::from_secs(1000) + Duration::from_secs_f64(seconds.max(0.0)))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
