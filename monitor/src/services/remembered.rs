//! What services held before this monitor was started, as the history has it, so that a leak of weeks
//! is not forgotten with each new version.
//!
//! It is what the same process held: one that was started again, or another boot's, holds nothing of
//! it. Reading is bounded in time and in memory, and what cannot be read whole is watched anew, as a
//! monitor without a history watches everybody and everything. Nothing is made of half a record, nor of
//! one without what may explain it.
//!
//! ```text
//!   poll --> figures --> samples.db          samples.db --> least of each minute of a day,   --> watch
//!            (pid, start, held, load)                       of each ten minutes of two weeks
//! ```

use super::ServiceSettings;
use crate::history::{HistoryError, Samples, Stamp, Tier, Value, WallTime};
use crate::leak::Sample;
use crate::number::lossy;
use crate::probe::OwnerId;
use crate::status::{ServiceLoadFigures, ServiceStatus};
use hwshim::clock::{Instant, nanos};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a watch remembers itself: a day of minutes, and two weeks of what is coarser.
const FINE: Span = Span {
    tier: Tier::Second,
    kept: Duration::from_secs(24 * 3600),
    step: Duration::from_secs(60),
};
const COARSE: Span = Span {
    tier: Tier::Minute,
    kept: Duration::from_secs(14 * 24 * 3600),
    step: Duration::from_secs(600),
};
/// Points that are read between two looks at the time.
const POINTS_AT_ONCE: u32 = 1024;

/// Resources, and the series in which what is held of each is kept.
const HELD: [(&str, &str); 9] = [
    ("memory", "rss-anon-bytes"),
    ("descriptors", "descriptors"),
    ("threads", "threads"),
    ("tcp-ports", "tcp-ports"),
    ("kernel-memory", "kernel-bytes"),
    ("socket-memory", "socket-bytes"),
    ("sessions", "sessions"),
    ("objects", "objects"),
    ("card-memory", "card-bytes"),
];
const PID: &str = "pid";
const START: &str = "start-ticks";
const OPENS: &str = "opens";
const FAILED_OPENS: &str = "failed-opens";
const COMMANDS: &str = "commands";
const OUTSTANDING: &str = "outstanding";
const CARD_ABSENT: &str = "card-absent";

/// How finely a part of the past is read.
#[derive(Clone, Copy)]
struct Span {
    tier: Tier,
    kept: Duration,
    step: Duration,
}

/// What is to be kept of a service that runs, by series.
#[must_use]
pub fn figures(service: &ServiceStatus) -> Vec<(&'static str, f64)> {
    let Some(process) = &service.process else {
        return Vec::new();
    };
    let mut figures = vec![
        (PID, f64::from(process.pid)),
        (START, lossy(process.start_time_ticks)),
    ];
    let held = service.leaks.iter().filter_map(|leak| {
        let (_, series) = HELD.iter().find(|(name, _)| *name == leak.resource)?;
        Some((*series, leak.held))
    });
    figures.extend(held);
    if let Some(load) = &service.load {
        let ServiceLoadFigures {
            opens,
            failed_opens,
            commands,
            outstanding,
            card_absent,
        } = load;
        let counted = [
            (OPENS, opens.map(lossy)),
            (FAILED_OPENS, failed_opens.map(lossy)),
            (COMMANDS, commands.map(lossy)),
            (OUTSTANDING, *outstanding),
            (CARD_ABSENT, Some(f64::from(u8::from(*card_absent)))),
        ];
        let counted = counted.into_iter();
        figures.extend(counted.filter_map(|(series, value)| Some((series, value?))));
    }
    figures
}

/// The name of a series of a service.
#[must_use]
pub fn series(service: &str, what: &str) -> String {
    format!("service/{service}/{what}")
}

/// What is on record of services.
#[derive(Debug, Default)]
pub struct Remembered {
    services: BTreeMap<String, Past>,
    missing: Option<Missing>,
}

/// Why not all that is on record was read.
#[derive(Debug)]
pub enum Missing {
    /// There was no time for more.
    Time,
    /// Something cannot be read; the first that could not be is told.
    Unreadable(HistoryError),
}

/// What one process held.
#[derive(Debug)]
pub(super) struct Past {
    id: OwnerId,
    held: BTreeMap<&'static str, VecDeque<(Instant, Sample)>>,
}

impl Remembered {
    /// Reads `samples`, as far as one gets as long as `may_go_on`. By whom they are recorded, and not by a
    /// second look at the file: to close a file takes all of this process's locks on it away, those of who
    /// goes on writing to it too (fcntl(2), and SQLite's "How To Corrupt An SQLite Database File" 2.2).
    #[must_use]
    pub fn read(
        samples: &mut Samples,
        services: &[ServiceSettings],
        now: Stamp,
        may_go_on: impl Fn() -> bool,
    ) -> Self {
        let mut reading = Reading {
            samples,
            now,
            may_go_on: &may_go_on,
            missing: None,
        };
        let mut pasts = BTreeMap::new();
        for service in services {
            let past = reading.service(&service.name);
            pasts.extend(past.map(|past| (service.name.clone(), past)));
        }
        Self {
            services: pasts,
            missing: reading.missing,
        }
    }

    /// Why this is not all that is on record, if it is not.
    #[must_use]
    pub const fn missing(&self) -> Option<&Missing> {
        self.missing.as_ref()
    }

    pub(super) fn take(&mut self, service: &str) -> Option<Past> {
        self.services.remove(service)
    }
}

impl Past {
    pub(super) const fn is_of(&self, id: OwnerId) -> bool {
        self.id.pid == id.pid && self.id.start_time_ticks == id.start_time_ticks
    }

    /// What was held of a resource, the oldest first. It is given once.
    pub(super) fn take(&mut self, resource: &str) -> VecDeque<(Instant, Sample)> {
        self.held.remove(resource).unwrap_or_default()
    }
}

/// A step of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    least: f64,
    greatest: f64,
    last: f64,
}

/// Steps of a series, by when each began.
type Steps = BTreeMap<WallTime, Step>;

struct Reading<'a> {
    samples: &'a mut Samples,
    now: Stamp,
    may_go_on: &'a dyn Fn() -> bool,
    missing: Option<Missing>,
}

impl Reading<'_> {
    /// What was held of whatever can be read whole; nothing without who held it, and what may explain
    /// that.
    fn service(&mut self, name: &str) -> Option<Past> {
        let mut read = |what| self.whole(&series(name, what));
        let (pids, starts) = (read(PID)?, read(START)?);
        let (id, since) = last_process(&pids, &starts)?;
        let covariates = Covariates {
            opens: read(OPENS)?,
            failed_opens: read(FAILED_OPENS)?,
            commands: read(COMMANDS)?,
            outstanding: read(OUTSTANDING)?,
            card_absent: read(CARD_ABSENT)?,
        };
        let mut held = BTreeMap::new();
        for (resource, what) in HELD {
            let Some(steps) = self.whole(&series(name, what)) else {
                continue;
            };
            let its_own = steps.range(since..);
            let samples = its_own.filter_map(|(at, step)| {
                let instant = self.instant(*at).filter(|at| *at >= started(id))?;
                Some((instant, covariates.sample(*at, step.least)))
            });
            held.insert(resource, samples.collect());
        }
        Some(Past { id, held })
    }

    /// When that was by the clock of this boot; `None` if it was before that.
    fn instant(&self, at: WallTime) -> Option<Instant> {
        let ago = nanos(self.now.wall.since(at));
        let nanos = self.now.monotonic.as_nanos().checked_sub(ago)?;
        Some(Instant::from_nanos(nanos))
    }

    /// A series, if it can be read to its end in time.
    fn whole(&mut self, series: &str) -> Option<Steps> {
        let steps = match (self.may_go_on)() {
            true => self.steps(series),
            false => Ok(Steps::new()),
        };
        let missing = match steps {
            // Who may go on now might at every look before, and was not cut short.
            Ok(steps) if (self.may_go_on)() => return Some(steps),
            Ok(_) => Missing::Time,
            Err(error) => Missing::Unreadable(error),
        };
        self.missing.get_or_insert(missing);
        None
    }

    /// Reads a series, what is long ago more coarsely.
    fn steps(&mut self, series: &str) -> Result<Steps, HistoryError> {
        let now = self.now.wall;
        let fine_from = now.minus(FINE.kept);
        let mut steps = self.span(series, COARSE, now.minus(COARSE.kept), fine_from)?;
        steps.append(&mut self.span(series, FINE, fine_from, now)?);
        Ok(steps)
    }

    fn span(
        &mut self,
        series: &str,
        span: Span,
        from: WallTime,
        until: WallTime,
    ) -> Result<Steps, HistoryError> {
        let mut steps = Steps::new();
        let mut points = 0_u32;
        let may_go_on = self.may_go_on;
        self.samples
            .range(series, from, until, span.tier, |point| {
                points = points.wrapping_add(1);
                if points.is_multiple_of(POINTS_AT_ONCE) && !may_go_on() {
                    return false;
                }
                let step = match point.value {
                    Value::Sample(value) => Step {
                        least: value,
                        greatest: value,
                        last: value,
                    },
                    Value::Aggregate(all) => Step {
                        least: all.min,
                        greatest: all.max,
                        last: all.last,
                    },
                    Value::Gap { .. } => return true,
                };
                let before = steps.entry(begin(point.at, span.step)).or_insert(step);
                *before = Step {
                    least: before.least.min(step.least),
                    greatest: before.greatest.max(step.greatest),
                    last: step.last,
                };
                true
            })?;
        Ok(steps)
    }
}

/// When the step began in which a time is.
fn begin(at: WallTime, step: Duration) -> WallTime {
    let millis = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    WallTime::from_unix_millis(at.unix_millis().div_euclid(millis) * millis)
}

/// The process that was seen last, and since when no other was.
fn last_process(pids: &Steps, starts: &Steps) -> Option<(OwnerId, WallTime)> {
    let (pid, start) = (
        pids.last_key_value()?.1.last,
        starts.last_key_value()?.1.last,
    );
    let id = OwnerId {
        pid: u32::try_from(whole(pid)?).ok()?,
        start_time_ticks: whole(start)?,
    };
    let is_it = |steps: &Steps, at: &WallTime, value: f64| {
        let step = steps.get(at);
        step.is_some_and(|it| it.least >= value && it.greatest <= value)
    };
    let own = starts.keys().rev();
    let own = own.take_while(|at| is_it(starts, at, start) && is_it(pids, at, pid));
    Some((id, *own.last()?))
}

/// When a process was started, by the clock that its samples are told by.
fn started(id: OwnerId) -> Instant {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let (seconds, ticks) = (
        id.start_time_ticks / per_second,
        id.start_time_ticks % per_second,
    );
    let nanos = seconds.saturating_mul(1_000_000_000);
    Instant::from_nanos(nanos.saturating_add(ticks * 1_000_000_000 / per_second))
}

/// What may explain how much was held.
struct Covariates {
    opens: Steps,
    failed_opens: Steps,
    commands: Steps,
    outstanding: Steps,
    card_absent: Steps,
}

impl Covariates {
    fn sample(&self, at: WallTime, held: f64) -> Sample {
        let count = |steps: &Steps| whole(steps.get(&at)?.last);
        Sample {
            held,
            opens: count(&self.opens),
            failed_opens: count(&self.failed_opens),
            commands: count(&self.commands),
            load: self.outstanding.get(&at).map(|step| step.least),
            card_absent: self.card_absent.get(&at).is_some_and(|it| it.last > 0.5),
            host_total: None,
        }
    }
}

/// A count that was kept as a figure; `None` for what is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is checked before"
)]
fn whole(value: f64) -> Option<u64> {
    /// Above that, figures do not tell all counts apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (0.0..=EXACT).contains(&value).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{BootId, Place, SAMPLES_FILE};
    use crate::services::Whereabouts;
    use std::cell::Cell;
    use std::path::Path;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_millis(seconds * 1000)
    }

    fn steps(values: &[(i64, f64)]) -> Steps {
        let step = |value| Step {
            least: value,
            greatest: value,
            last: value,
        };
        values
            .iter()
            .map(|(seconds, value)| (at(*seconds), step(*value)))
            .collect()
    }

    #[test]
    fn what_was_kept_of_another_process_before_is_not_remembered() {
        let pids = steps(&[(0, 7.0), (60, 8.0), (120, 8.0), (180, 7.0), (240, 7.0)]);
        let starts = steps(&[
            (0, 100.0),
            (60, 200.0),
            (120, 200.0),
            (180, 100.0),
            (240, 100.0),
        ]);
        let (id, since) = last_process(&pids, &starts).unwrap();
        assert_eq!((id.pid, id.start_time_ticks, since), (7, 100, at(180)));
        // A step in which there were two is of neither.
        let mut mixed = starts.clone();
        mixed.get_mut(&at(180)).unwrap().greatest = 200.0;
        let (_, since) = last_process(&pids, &mixed).unwrap();
        assert_eq!(since, at(240));
        assert!(last_process(&steps(&[]), &starts).is_none());
        for nonsense in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            let pids = steps(&[(0, nonsense)]);
            assert!(last_process(&pids, &steps(&[(0, 5.0)])).is_none());
        }
    }
    /// Ten minutes of a process that was started with the host, an hour ago.
    fn recorded(directory: &Path) -> (Samples, ServiceSettings, Stamp) {
        let now = Stamp {
            wall: at(1_760_000_000),
            monotonic: Instant::ORIGIN.plus(Duration::from_secs(3600)),
            boot: BootId::of_this_boot(),
        };
        let began = now.wall.minus(Duration::from_secs(600));
        let mut samples = Samples::open(&Place::new(directory), began)
            .unwrap()
            .samples;
        for minute in 0..10 {
            let at = began.plus(Duration::from_secs(60 * minute));
            for (what, value) in [
                (PID, 7.0),
                (START, 0.0),
                (OPENS, 3.0),
                ("rss-anon-bytes", 4096.0),
                ("descriptors", 12.0),
            ] {
                samples.record(&series("one", what), at, value).unwrap();
            }
        }
        samples.flush().unwrap();
        let process = Whereabouts::Program("one".to_owned());
        (samples, ServiceSettings::new("one", process), now)
    }

    /// Resources of which all is remembered.
    fn whole(remembered: &Remembered) -> Vec<&'static str> {
        let past = remembered.services.get("one");
        let held = past.into_iter().flat_map(|past| &past.held);
        let held = held.filter(|(_, samples)| !samples.is_empty());
        held.map(|(name, samples)| {
            assert_eq!(samples.len(), 10, "{name}");
            *name
        })
        .collect()
    }

    #[test]
    fn what_was_read_whole_before_time_was_up_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let (mut samples, settings, now) = recorded(directory.path());
        // Who held it, what may explain it, and what was held; of each the time is looked at twice.
        const SERIES: usize = 2 + 5 + HELD.len();
        let mut found = Vec::new();
        for looks in 0..=2 * SERIES {
            let left = Cell::new(looks);
            let may_go_on = || left.replace(left.get().saturating_sub(1)) > 0;
            let settings = std::slice::from_ref(&settings);
            let read = Remembered::read(&mut samples, settings, now, may_go_on);
            let is_short = matches!(read.missing(), Some(Missing::Time));
            assert_eq!(is_short, looks < 2 * SERIES, "{looks}: {read:?}");
            found.push(whole(&read));
        }
        found.dedup();
        let all: [&[&str]; 3] = [&[], &["memory"], &["descriptors", "memory"]];
        assert_eq!(found, all);
    }

    #[test]
    fn a_resource_that_cannot_be_read_takes_no_other_along() {
        let directory = tempfile::tempdir().unwrap();
        let (mut samples, settings, now) = recorded(directory.path());
        let damage = |what| {
            let file = directory.path().join(SAMPLES_FILE);
            let connection = rusqlite::Connection::open(file).unwrap();
            let text = "UPDATE tail SET points = x'5a5a5a'
                        WHERE series = (SELECT id FROM series WHERE name = ?)";
            let done = connection.execute(text, [series("one", what)]).unwrap();
            assert!(done > 0, "{what}");
        };
        let mut read = || {
            let settings = std::slice::from_ref(&settings);
            Remembered::read(&mut samples, settings, now, || true)
        };
        assert!(read().missing().is_none());
        damage("descriptors");
        let without = read();
        assert_eq!(whole(&without), ["memory"]);
        assert!(matches!(without.missing(), Some(Missing::Unreadable(_))));
        // What may explain all of it is missed by all.
        damage(OPENS);
        assert_eq!(whole(&read()), [""; 0]);
    }
}
