//! The monitor of a run: looks at what the card's owner publishes and at the service beside it, and
//! judges, once a second.
//!
//! It is the code that `cardmon` runs; what a kernel would tell it, the world tells it.

use crate::kernel::Kernel;
use crate::service::{Hardserver, not_allowed};
use crate::slot::{NAME, Slot};
use crate::trouble::{HostTrouble, Mishap};
use fastrand::Rng;
use hwshim::clock::Instant;
use hwshim::spec::telemetry::Page;
use monitor::attribution::joint;
use monitor::led::Profile;
use monitor::local_health::{HostChanges, Sample};
use monitor::probe::{HeartbeatProbe, Owner, OwnerId, Probe, ProbeError, Process};
use monitor::rules::{self, Case};
use monitor::services::{CardFacts, ServiceTime, Services, Surroundings};
use monitor::status::ServiceStatus;
use monitor::verdict::{Cause, Judge, Limits, Look, State};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The kernel's number for a process that has no descriptor left (errno(3)).
const EMFILE: i32 = 24;
/// A forecast that has moved less than that is the one before.
const NEWS: f64 = 0.05;

/// How often things are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two polls.
    pub(crate) poll: Duration,
    /// At least, between two known-answer tests.
    pub(crate) check: Duration,
}

impl Pace {
    /// As `cardmon` has it.
    pub(crate) const SECONDS: Self = Self {
        poll: Duration::from_secs(1),
        check: Duration::ZERO,
    };
    /// Hours are lived through in a second.
    pub(crate) const MINUTES: Self = Self {
        poll: Duration::from_secs(60),
        check: Duration::from_secs(600),
    };
}

/// Watches one card, and the service beside it.
#[derive(Debug)]
pub(crate) struct Watcher {
    pace: Pace,
    limits: Limits,
    judge: Judge,
    services: Services,
    hardserver: Hardserver,
    kernel: Kernel,
    host: HostChanges,
    mishap: Option<Mishap>,
    rng: Rng,
    polled_at: Instant,
    next_poll: Instant,
    opinions: Vec<Opinion>,
}

/// What was believed from then on.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// From when on.
    pub at: Instant,
    /// How the card is.
    pub state: State,
    /// What is at fault with it.
    pub cause: Cause,
    /// What is at fault with the service beside it.
    pub service: Cause,
    /// How likely each cause is, of both taken together, the likeliest first.
    pub forecast: Vec<(Cause, f64)>,
}

impl Opinion {
    /// Who is named.
    pub fn named(&self) -> impl Iterator<Item = Cause> {
        let names = |cause: &Cause| !matches!(cause, Cause::None | Cause::Undetermined);
        let both = [self.cause, self.service].into_iter().filter(names);
        both.take(if self.cause == self.service { 1 } else { 2 })
    }

    fn is_news_after(&self, before: Option<&Self>) -> bool {
        let Some(before) = before else {
            return true;
        };
        let chance = |forecast: &[(Cause, f64)], cause| {
            let of = forecast.iter().find(|(it, _)| *it == cause);
            of.map_or(0.0, |(_, chance)| *chance)
        };
        let has_moved =
            |(cause, now): &(Cause, f64)| (now - chance(&before.forecast, *cause)).abs() > NEWS;
        (before.state, before.cause, before.service) != (self.state, self.cause, self.service)
            || self.forecast.iter().any(has_moved)
    }
}

impl Watcher {
    pub(crate) fn new(light: Profile, seed: u64, pace: Pace, now: Instant) -> Self {
        let limits = Limits {
            light: Some(light),
            poll_interval: pace.poll,
            ..Limits::default()
        };
        let hardserver = Hardserver::new(seed, now);
        let watched = (Hardserver::settings(NAME), hardserver.senses());
        Self {
            pace,
            limits,
            judge: Judge::new(limits, now),
            services: Services::with_senses([watched], ServiceTime::REAL),
            hardserver,
            kernel: Kernel::default(),
            host: HostChanges::default(),
            mishap: None,
            rng: Rng::with_seed(seed ^ 0x7761_7463_6865_7221),
            polled_at: now,
            next_poll: now.plus(pace.poll),
            opinions: Vec::new(),
        }
    }

    pub(crate) const fn next_poll(&self) -> Instant {
        self.next_poll
    }

    /// Has the kernel take note of errors that the card has reported.
    pub(crate) fn handle_errors(&mut self, slot: &Slot) {
        self.kernel.handle_errors(slot);
    }

    /// Has the kernel show what the host has, from now on.
    pub(crate) fn strain(&mut self, trouble: Option<HostTrouble>) {
        self.kernel.strain(trouble);
    }

    /// Has this go wrong beside the card, from now on.
    pub(crate) fn suffer(&mut self, mishap: Option<Mishap>, now: Instant) {
        self.mishap = mishap;
        self.kernel
            .wait_for_storage(mishap == Some(Mishap::SlowFsync));
        self.hardserver.suffer(mishap, now);
    }

    pub(crate) fn suffers(&self, mishap: Mishap) -> bool {
        self.mishap == Some(mishap)
    }

    /// Nobody on the host runs for so long.
    pub(crate) fn stall(&self, stall: Duration) {
        self.hardserver.stall(stall);
    }

    /// Does not poll before then.
    pub(crate) fn stop_until(&mut self, then: Instant) {
        self.next_poll = self.next_poll.max(then);
    }

    /// Looks, if it is time to. Returns what is believed, if that is news.
    pub(crate) fn poll(&mut self, page: &Page, slot: &Slot, now: Instant) -> Option<Opinion> {
        if now < self.next_poll {
            return None;
        }
        let elapsed = now.since(self.polled_at);
        self.polled_at = now;
        self.next_poll = now.plus(self.pace.poll + self.lateness());
        let host = self.kernel.host(elapsed);
        let sample = self.host.look(Some(host), now);
        let look = self.look(page, slot, sample, now)?;
        self.judge.poll(&look);
        let facts = self.facts(page, &look);
        let around = Surroundings {
            host: self.host.latest(),
            host_sample: sample,
            cards: BTreeMap::from([(NAME, facts)]),
            oom_kills: 0,
        };
        let service = self.services.poll(&around, now).pop()?;
        let verdict = self.judge.verdict();
        let assessment = self.judge.diagnosis().assessment();
        let mut assessed = vec![assessment.ranked.clone(), forecast(&service)];
        assessed.extend(assessment.besides.map(|besides| vec![besides]));
        let opinion = Opinion {
            at: now,
            state: verdict.state,
            cause: verdict.cause,
            service: service.cause,
            forecast: joint(&assessed),
        };
        if !opinion.is_news_after(self.opinions.last()) {
            return None;
        }
        self.opinions.push(opinion.clone());
        Some(opinion)
    }

    /// How much later than it should the next poll comes.
    fn lateness(&mut self) -> Duration {
        match self.mishap {
            Some(Mishap::MonitorStarved | Mishap::SlowFsync) => {
                Duration::from_millis(self.rng.u64(900..4000))
            }
            _ => Duration::ZERO,
        }
    }

    fn look(&self, page: &Page, slot: &Slot, host: Option<Sample>, now: Instant) -> Option<Look> {
        let blind = match self.mishap {
            Some(Mishap::PermissionLost) => Some(not_allowed("/run/hwshim/card.page")),
            Some(Mishap::DescriptorsExhausted) => Some(ProbeError::Unreadable {
                path: PathBuf::from("/run/hwshim/card.page"),
                source: io::Error::from_raw_os_error(EMFILE),
            }),
            _ => None,
        };
        Some(match blind {
            Some(error) => Look {
                at: now,
                page: Err(error.clone()),
                heartbeat: None,
                owner: Some(Err(error.clone())),
                host,
                link: Some(Arc::new(Err(error))),
                sensors: None,
            },
            None => Look {
                at: now,
                page: Ok(Box::new(*page)),
                heartbeat: Some(HeartbeatProbe.observe(page, now)),
                owner: Some(Ok(Owner::Alive(owner(page)?))),
                host,
                link: Some(Arc::new(self.kernel.link(slot))),
                sensors: None,
            },
        })
    }

    /// What may explain what the service holds, as `cardmon` takes it from the verdict.
    fn facts(&self, page: &Page, look: &Look) -> CardFacts {
        let verdict = self.judge.verdict();
        let requests = &page.requests;
        let failed = requests.timed_out.get() + requests.failed.get() + requests.misbehaved.get();
        CardFacts {
            absent: verdict.cause == Cause::CardAbsent || verdict.state == State::Disconnected,
            requests: requests.submitted.get(),
            failed: failed + self.hardserver.failed_opens(),
            in_flight: requests.in_flight.get(),
            moves: rules::heartbeat_is_moving(&Case {
                look,
                memory: self.judge.memory(),
                limits: &self.limits,
            }),
        }
    }

    /// Everything that was believed, in order.
    pub(crate) fn into_opinions(self) -> Vec<Opinion> {
        self.opinions
    }
}

/// How likely what is at fault with a service.
fn forecast(service: &ServiceStatus) -> Vec<(Cause, f64)> {
    let hypotheses = service.assessment.iter().flat_map(|it| &it.hypotheses);
    hypotheses.map(|it| (it.cause, it.probability)).collect()
}

/// The owner's process, which is well.
fn owner(page: &Page) -> Option<Process> {
    Some(Process {
        id: OwnerId::of(page)?,
        state: 'S',
        threads: 4,
        fds: Some(32),
        cpu_time: Duration::ZERO,
        rss_bytes: None,
    })
}
