//! Whether something that a service holds only ever grows: kernel memory, descriptors, ports,
//! sessions, threads, objects on the card.
//!
//! It reads nothing itself. A [`Watch`] is told what is held and when, keeps a bounded memory of
//! it, and says in a [`LeakVerdict`] what it makes of that, with every figure it went by. It does
//! not know the card: that one is at fault is attribution's to say.
//!
//! ```text
//!   samples -> record -> steep   the climb of minutes    near its limit      \
//!                     -> fast    1 h of minutes          runaway              \
//!                     -> medium  6 h of floors of 10 min  the usual leak       > ladder -> verdict
//!                     -> slow    14 d of floors of 6 h    a leak of weeks     /
//!                     -> idle floors, failed opens, absent card              /
//!
//!                trend held              exhausted in 7 d, or proof       exhausted in 24 h
//!   WATCHING ---------------> SUSPECTED --------------------------> LEAKING --------------> PAGE
//!       ^                         |                                    |                     |
//!       +-------------------------+---- the conditions no longer hold -+---------------------+
//! ```
//!
//! What is of the whole host and not of one service never pages: what grows there may be anybody's.

mod alarm;
mod correlate;
mod onset;
mod record;
mod recycle;
mod rules;
mod verdict;

pub use correlate::{Correlation, Share};
pub use onset::Onset;
pub use verdict::{Bound, Exhaustion, Gate, Interval, LeakVerdict, Level, Speed, rising_together};

use alarm::Alarm;
use correlate::With;
use hwshim::clock::Instant;
use onset::Bend;
use record::Record;
use recycle::IdleFloors;
use rules::Finding;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// A leak that leaves less time than this is worth waking somebody for.
const PAGE_WITHIN: f64 = DAY;
/// One that leaves less than this is worth acting on.
const ACT_WITHIN: f64 = 7.0 * DAY;

/// Something that a service holds, and how much of it there is.
#[derive(Clone, Debug)]
pub struct Resource {
    /// What it is, for people: `descriptors`.
    pub name: Cow<'static, str>,
    /// Whose it is.
    pub scope: Scope,
    /// How much can be held. Without it nothing can be exhausted, and nothing pages.
    pub limit: Option<Limit>,
    /// Growth that is too little to care for, in the resource's own unit; at most a tenth of the
    /// limit is taken for that, whatever this says. See [`Resource::BYTES`] and
    /// [`Resource::COUNT`].
    pub negligible: f64,
    /// How long what was closed remains held: 60 s for TCP's TIME_WAIT, 240 s for the ports of
    /// some RPC services. What is held then follows the rate of opens, and is no leak if it does.
    pub recycle: Option<Duration>,
}

impl Resource {
    /// Bytes that are negligible: 16 MiB.
    pub const BYTES: f64 = 16.0 * 1024.0 * 1024.0;
    /// Things that are negligible, as descriptors are.
    pub const COUNT: f64 = 64.0;

    fn negligible(&self) -> f64 {
        match &self.limit {
            Some(limit) => self.negligible.min(limit.value / 10.0),
            None => self.negligible,
        }
    }
}

/// Whose a resource is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Of one service: its growth is that service's.
    Service,
    /// Of the whole host: its growth may be anybody's, so it never pages.
    Host,
}

/// How much can be held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// In the unit of the resource.
    pub value: f64,
    /// Where it comes from: `RLIMIT_NOFILE`.
    pub source: Cow<'static, str>,
}

/// What was seen of a resource at one time. What is not known is `None`; a resource that could not
/// be read is not a sample at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// How much is held.
    pub held: f64,
    /// How many were ever opened, or how many operations were done: what held grows with by right.
    pub opens: Option<u64>,
    /// How many opens ever failed.
    pub failed_opens: Option<u64>,
    /// How many commands were ever given to the service, by its own account: while they go on, it is
    /// not idle, whoever gives them.
    pub commands: Option<u64>,
    /// Work at hand: sessions or requests in flight.
    pub load: Option<f64>,
    /// Whether the card was away.
    pub card_absent: bool,
    /// How much of the same resource the whole host holds.
    pub host_total: Option<f64>,
}

/// Watches one resource of one process. Another process, also one that merely started again, takes
/// another watch: nothing of it is comparable.
///
/// Its memory is bounded: about 25 KiB. Most samples only add to the current minute; statistics
/// are computed once a minute, the greater part once in ten.
#[derive(Debug)]
pub struct Watch {
    resource: Resource,
    began: Option<Instant>,
    record: Record,
    idle: IdleFloors,
    steep: Alarm,
    fast: Alarm,
    medium: Alarm,
    slow: Alarm,
    with: With,
    bend: Option<Bend>,
    verdict: LeakVerdict,
}

impl Watch {
    /// Begins to watch.
    #[must_use]
    pub fn new(resource: Resource) -> Self {
        Self {
            verdict: LeakVerdict::watching(&resource),
            began: None,
            record: Record::default(),
            idle: IdleFloors::new(recycle::period(&resource)),
            steep: Alarm::new(record::MINUTE, rules::STEEP_HOLD, rules::STEEP_HOLD),
            fast: Alarm::new(record::MINUTE, rules::FAST_HOLD, rules::FAST_HOLD),
            medium: Alarm::new(record::EPOCH, rules::MEDIUM_HOLD, PAGE_WITHIN),
            slow: Alarm::new(record::QUARTER, rules::SLOW_HOLD, PAGE_WITHIN),
            with: With::default(),
            bend: None,
            resource,
        }
    }

    /// What is watched.
    #[must_use]
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Changes how much can be held, as after a change of configuration.
    pub fn set_limit(&mut self, limit: Option<Limit>) {
        self.resource.limit = limit;
    }

    /// What is believed now. It changes at most once a minute.
    #[must_use]
    pub const fn verdict(&self) -> &LeakVerdict {
        &self.verdict
    }

    /// That nothing is believed yet, as of a resource of which no sample is of now.
    #[must_use]
    pub fn unjudged(&self) -> LeakVerdict {
        LeakVerdict::watching(&self.resource)
    }

    /// Takes a sample. One that is older than another, or of which `held` is no number, is ignored.
    pub fn observe(&mut self, now: Instant, sample: &Sample) {
        let began = *self.began.get_or_insert(now);
        let at = now.since(began).as_secs_f64();
        if now < began || !sample.held.is_finite() {
            return;
        }
        self.idle.observe(at, sample);
        if let Some(closed) = self.record.observe(at, sample) {
            self.judge(at, closed);
        }
    }

    /// A minute is over.
    fn judge(&mut self, at: f64, closed: record::Closed) {
        let Self {
            resource,
            record,
            idle,
            steep,
            fast,
            medium,
            slow,
            with,
            bend,
            ..
        } = self;
        let held = record.held();
        let observe = |alarm: &mut Alarm, finding: Option<Finding>| {
            let left = finding.as_ref().map(|it| it.left(resource, held));
            alarm.observe(at, finding, left.unwrap_or(f64::INFINITY));
        };
        observe(steep, rules::steep(resource, record));
        observe(fast, rules::fast(resource, record));
        if closed.epoch {
            observe(medium, rules::medium(resource, record));
            *with = With::of(record);
            *bend = Bend::of(record);
        }
        if closed.quarter {
            observe(slow, rules::slow(resource, record));
        }
        let idle = idle.proof(resource.negligible());
        self.verdict = self.conclude(idle, at);
    }

    /// The highest step of the ladder that any of the rules reaches.
    fn conclude(&self, idle: Option<Finding>, at: f64) -> LeakVerdict {
        let With {
            share,
            failed_opens,
            absence,
        } = self.with;
        let proven = failed_opens.is_some();
        let alarms = [
            (Speed::Fast, &self.fast),
            (Speed::Steep, &self.steep),
            (Speed::Medium, &self.medium),
            (Speed::Slow, &self.slow),
        ];
        let alarms = alarms.into_iter().filter_map(|(speed, alarm)| {
            let finding = alarm.finding()?;
            let level = if alarm.is_on() {
                self.level(finding, alarm.pages(), proven)
            } else {
                Level::Watching
            };
            Some((level, speed, finding))
        });
        let idle = idle.as_ref();
        let idle = idle.map(|finding| (self.level(finding, true, true), Speed::Idle, finding));
        let strongest = alarms
            .chain(idle)
            // Of equals the first, which is the more urgent; but an hour says more than a climb.
            .rev()
            .max_by_key(|(level, ..)| *level);
        let mut verdict = LeakVerdict::watching(&self.resource);
        verdict.held = self.record.held();
        verdict.share_of_growth = share;
        verdict.grows_with_failed_opens = failed_opens;
        verdict.grows_while_absent = absence;
        verdict.began = self.bend.and_then(|bend| bend.seen_at(at));
        if let Some((level, speed, finding)) = strongest {
            verdict.take(level, speed, finding);
        }
        verdict
    }

    /// How bad a finding is that is believed.
    fn level(&self, finding: &Finding, sure: bool, proven: bool) -> Level {
        let left = finding.left(&self.resource, self.record.held());
        if sure && left < PAGE_WITHIN && self.resource.scope == Scope::Service {
            Level::Page
        } else if proven || left < ACT_WITHIN {
            Level::Leaking
        } else {
            Level::Suspected
        }
    }
}
