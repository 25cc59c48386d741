//! Watches the processes that serve cards to others: whether each is there and answers, what it
//! holds, and whether that only ever grows.
//!
//! It is told the time and holds nothing up: processes are looked for, and asked how they are, on
//! threads of their own. What is read in a poll are files of `/proc` and of the control group.
//!
//! ```text
//!              every 10 s              each poll                 once a second
//!   locate ------------> process --> service, cgroup --+
//!   reach -------------> statistics, answers or not ---+--> a leak watch for each resource --+
//!   known answer, every 60 s --> right, wrong or lost -+                                     |
//!   card, host --------> absent, failed requests, all -+                                     |
//!                                                                     judge <----------------+
//! ```
//!
//! A process that was started again is another one: what was watched of the old one says nothing
//! of it, so all of that begins anew.

mod change;
mod dossier;
mod drill;
mod groups;
mod harm;
mod judge;
mod known_answer;
mod ledgers;
mod load;
mod quota;
#[cfg(test)]
mod real;
mod remembered;
mod resources;
mod senses;
mod watched;
mod work;

pub use change::ServiceTransition;
pub use drill::ServiceTime;
pub(crate) use harm::{harm, leaks};
pub use judge::{Facts, Found, Judgement, Tests, Work, judge};
pub use ledgers::{DeviceFailures, Disagreement, LedgerFacts, Unaccounted};
pub use quota::Throttled;
pub use remembered::{Missing, Remembered, figures, series};
pub(crate) use resources::KERNEL_MEMORY_MAX;
pub use senses::{Located, Reached, Senses, Tested};

use crate::attribution::RecentChanges;
use crate::led::Load;
use crate::local_health::{Limits, LocalHealth, Sample};
use crate::probe::{Host, ServiceAddress, Whereabouts};
use crate::status::ServiceStatus;
use hwshim::clock::{Instant, nanos};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use watched::{STARVED_FOR, Watched};

/// One service, and how to watch it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceSettings {
    /// What to call it.
    pub name: String,
    /// How its process is known.
    pub process: Whereabouts,
    /// Where it is asked how it is, if it can be.
    pub address: Option<ServiceAddress>,
    /// Time between two known-answer tests through it; `None` for none.
    pub known_answer_interval: Option<Duration>,
    /// The card it serves.
    pub card: Option<String>,
    /// How long what was closed may remain held.
    pub recycle: Duration,
    /// How much it may hold.
    pub limits: ConfiguredLimits,
}

impl ServiceSettings {
    /// A service of which no more is known than who it is.
    #[must_use]
    pub fn new(name: impl Into<String>, process: Whereabouts) -> Self {
        Self {
            name: name.into(),
            process,
            address: None,
            // A signature a minute is nothing to a card, and what is lost twice is known in two.
            known_answer_interval: Some(Duration::from_secs(60)),
            card: None,
            // The longest that is known in use: Microsoft KB814622.
            recycle: Duration::from_secs(240),
            limits: ConfiguredLimits::default(),
        }
    }
}

/// How much a service may hold by what somebody has configured; `None` where nobody has, and what
/// the system allows counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConfiguredLimits {
    /// Memory of its own.
    pub memory_bytes: Option<u64>,
    /// Memory that the kernel holds for it.
    pub kernel_memory_bytes: Option<u64>,
    /// Descriptors.
    pub descriptors: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// TCP ports.
    pub ports: Option<u64>,
    /// Sessions, by its own account.
    pub sessions: Option<u64>,
    /// Objects on its cards, by its own account.
    pub objects: Option<u64>,
}

/// What is known of a card that may explain what its service holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CardFacts {
    /// Whether it is away.
    pub absent: bool,
    /// Requests that were ever given to it or its substitute.
    pub requests: u64,
    /// Requests that it ever failed.
    pub failed: u64,
    /// Requests that have not ended.
    pub in_flight: u64,
    /// Whether its heartbeat is seen to move now.
    pub moves: bool,
}

impl CardFacts {
    /// Whether somebody counts what it does. Of a card that is away and that nobody publishes a page of,
    /// only that is known, and its zeros are no figures.
    pub(crate) const fn are_counted(&self) -> bool {
        !self.absent || self.requests > 0
    }
}

/// What is around a service.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// The host, if it was seen.
    pub host: Option<&'a Host>,
    /// What the host did since the poll before, if that was seen.
    pub host_sample: Option<Sample>,
    /// Cards, by their addresses.
    pub cards: BTreeMap<&'a str, CardFacts>,
    /// Processes of this host that were killed for want of memory since it is watched.
    pub oom_kills: u64,
}

/// Watches host services.
#[derive(Debug)]
pub struct Services {
    watched: Vec<Watched>,
    /// Whether the host let anybody run; `None` until the first poll says when that is.
    host: Option<LocalHealth>,
    memory: harm::Memory,
}

impl Services {
    /// Begins to watch, without having looked. `root` is `/`, or a captured tree; what is held is
    /// judged by `time`.
    #[must_use]
    pub fn new(settings: &[ServiceSettings], root: &Path, time: ServiceTime) -> Self {
        let senses =
            |one: &ServiceSettings| -> Box<dyn Senses> { Box::new(senses::Kernel::new(one, root)) };
        Self::with_senses(settings.iter().map(|one| (one.clone(), senses(one))), time)
    }

    /// What was changed in the last day, by whoever keeps the record.
    pub fn were_changed(&mut self, changes: &Arc<RecentChanges>) {
        for watched in &mut self.watched {
            watched.were_changed(changes);
        }
    }

    /// Begins to watch services of which something else tells than the kernel.
    #[must_use]
    pub fn with_senses(
        services: impl IntoIterator<Item = (ServiceSettings, Box<dyn Senses>)>,
        time: ServiceTime,
    ) -> Self {
        let watch = |(settings, senses)| Watched::new(settings, senses, time);
        Self {
            watched: services.into_iter().map(watch).collect(),
            host: None,
            memory: harm::Memory::default(),
        }
    }

    /// What they held before, as it is on record. A drill's time is no one else's, so it has none.
    pub fn remember(&mut self, mut remembered: Remembered) {
        for watched in &mut self.watched {
            watched.remember(&mut remembered);
        }
    }

    /// Looks at every service once, in the order of the configuration.
    pub fn poll(&mut self, around: &Surroundings<'_>, now: Instant) -> Vec<ServiceStatus> {
        self.memory.poll(around, now);
        let is_starved = self.is_starved(around, now);
        let (watched, memory) = (self.watched.iter_mut(), &self.memory);
        let poll = |service: &mut Watched| service.poll(around, memory, is_starved, now);
        let mut services: Vec<_> = watched.map(poll).collect();
        let each = self.watched.iter().zip(&services);
        let parties: Vec<_> = each.map(|(watched, it)| watched.party(it)).collect();
        let victims = parties.iter();
        let victims: Vec<_> = victims
            .map(|party| harm::victim(party, &parties, memory, now))
            .collect();
        for (service, victim) in services.iter_mut().zip(victims) {
            service.victim = victim;
        }
        services
    }

    /// Whether the host kept anybody from running, so short a time ago that it may be why one is silent.
    fn is_starved(&mut self, around: &Surroundings<'_>, now: Instant) -> bool {
        let new = || LocalHealth::new(Limits::default(), now);
        let host = self.host.get_or_insert_with(new);
        if let Some(sample) = &around.host_sample {
            host.sample(sample, now);
        }
        let since = Instant::from_nanos(now.as_nanos().saturating_sub(nanos(STARVED_FOR)));
        host.score_max_within(since, now) > 0
    }

    /// What became of services in the last poll, by their names.
    #[must_use]
    pub fn take_transitions(&mut self) -> Vec<(String, ServiceTransition)> {
        let watched = self.watched.iter_mut();
        watched.filter_map(Watched::take_transition).collect()
    }

    /// How busy a card is, by what its service has said of it of late. The card may be known by its
    /// serial number where that service has several.
    #[must_use]
    pub fn load_of(&self, card: &str, serial: Option<&str>, now: Instant) -> Option<Load> {
        let said = |service: &Watched| service.load_of(card, serial, now);
        self.watched.iter().find_map(said)
    }

    /// Waits for all looks under way, for each no longer than `patience`; whether all have ended.
    /// For who would rather have fresh answers a little later than old ones now.
    #[must_use]
    pub fn settle(&self, patience: Duration) -> bool {
        self.watched.iter().all(|service| service.settle(patience))
    }
}
