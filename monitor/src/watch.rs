//! Watches every telemetry page in a directory, cards of which nobody publishes one, the host and its
//! services: looks, judges, and reports one [`Status`] a poll.
//!
//! It is told when it is, and sets no pace: whoever holds a clock calls [`Watch::poll`].

mod at_function;
mod company;
mod driver;
mod driver_pages;
mod function;
mod function_cards;
mod host;
mod load;
mod modules;
mod pages;
mod qat_cards;
mod qat_counters;
mod routers;

use crate::attribution::RecentChanges;
use crate::checks::{self, CardSight};
use crate::control::Drained;
use crate::flap::CardFlaps;
use crate::history::BootId;
use crate::led::Profile;
use crate::local_health::{HostChanges, Sample};
use crate::probe::{
    HeartbeatProbe, HostProbe, OwnerId, PageProbe, Probe, ProbeError, ProcessProbe,
};
use crate::rules::{self, Case};
use crate::services::{
    CardFacts, Remembered, ServiceSettings, ServiceTime, ServiceTransition, Services, Surroundings,
};
use crate::status::{
    AssessmentFigures, BreakerFigures, CardStatus, CheckFigures, FunctionFigures, HeartbeatFigures,
    IdentityFigures, LightFigures, LinkFigures, ProbeErrorCount, ProcessFigures, QatFigures,
    SCHEMA, SensorFigures, ServiceTransitionRecord, Simulation, Status, TransitionRecord,
    VendorCardFigures, warnings_of_sensors,
};
use crate::verdict::{Cause, Judge, Limits, Look, State, Transition};
use card_spec::pci::Bdf;
use card_spec::telemetry::{Page, card_state};
use company::{Company, Trouble};
use driver_pages::DriverPages;
pub(crate) use driver_pages::NAME as DRIVER_PAGES;
use function::Function;
use function_cards::FunctionCards;
use host::HostJudge;
use hwshim::clock::Instant;
use hwshim::telemetry::file_name;
use load::SaidLoad;
use modules::Modules;
use pages::Pages;
use qat_cards::QatCards;
use routers::Routers;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Pages that are watched at most. Whoever can write to the directory could otherwise make the
/// monitor as dear as they like.
const PAGES_MAX: usize = 256;
/// Transitions that are remembered.
const TRANSITIONS_MAX: usize = 64;
/// Time between two looks at what this very process takes, which nothing is judged by.
const OWN_INTERVAL: Duration = Duration::from_secs(10);
/// A card that is not watched as the others are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CardSettings {
    /// Its address.
    pub address: String,
    /// Whose lights its light shines like; `None` if it is not read.
    pub light: Option<Profile>,
}

impl CardSettings {
    /// Whether it is at an address on the bus at which the host has no function now.
    #[must_use]
    pub fn is_missing(&self, root: &Path) -> bool {
        let devices = root.join("sys/bus/pci/devices");
        let function = self.address.strip_prefix("pci:");
        function.is_some_and(|bdf| !devices.join(bdf).exists())
    }
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the telemetry pages.
    pub telemetry: PathBuf,
    /// Root of `/proc`: `/`, or a captured tree.
    pub root: PathBuf,
    /// How patient to be, and how lights are read but for those of `cards`.
    pub limits: Limits,
    /// Cards that are not watched as the others are.
    pub cards: Vec<CardSettings>,
    /// Where the status is answered over HTTP, to be said in it.
    pub listen: SocketAddr,
    /// The simulation whose cards these are, if they are.
    pub simulation: Option<Simulation>,
    /// Host services to watch.
    pub services: Vec<ServiceSettings>,
    /// How fast those live.
    pub service_time: ServiceTime,
}

impl Settings {
    /// How the card of this page is judged. A page has its name from the address of its card, so that
    /// is known before it is read.
    fn limits_of(&self, page: &Path) -> Limits {
        let is_of = |card: &&CardSettings| page.ends_with(file_name(&card.address));
        let own = self.cards.iter().find(is_of);
        Limits {
            light: own.map_or(self.limits.light, |card| card.light),
            ..self.limits
        }
    }
}

#[cfg(test)]
impl Settings {
    /// As tests have them: pages in one directory, and a host in another.
    pub(crate) fn of(telemetry: &Path, root: &Path) -> Self {
        Self {
            telemetry: telemetry.to_owned(),
            root: root.to_owned(),
            limits: Limits::default(),
            cards: Vec::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            simulation: None,
            services: Vec::new(),
            service_time: ServiceTime::REAL,
        }
    }
}

/// Watches every telemetry page in a directory, the host, and host services.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    host: HostProbe,
    host_changes: HostChanges,
    host_judge: HostJudge,
    services: Services,
    pages: Pages,
    cards: BTreeMap<PathBuf, Card>,
    routers: Routers,
    qat: QatCards,
    functions: FunctionCards,
    modules: Modules,
    driver_pages: DriverPages,
    changes: Arc<RecentChanges>,
    drained: Arc<BTreeMap<String, Drained>>,
    boot: Option<BootId>,
    transitions: VecDeque<(String, Transition)>,
    service_transitions: VecDeque<(String, ServiceTransition)>,
    /// When the last poll was; before the first, when watching began, if that is known.
    polled_at: Option<Instant>,
    polls: u64,
    polls_late: u64,
    this_process: Option<ThisProcess>,
}

/// This very process, to show what watching costs.
#[derive(Debug)]
struct ThisProcess {
    id: OwnerId,
    probe: ProcessProbe,
    /// What was seen of it, and when.
    seen: Option<(Instant, ProcessFigures)>,
}

/// One card, what looks at it and what judges it.
#[derive(Debug)]
struct Card {
    name: String,
    page: PageProbe,
    process: ProcessProbe,
    /// Looks at nothing of a card without a PCI address.
    function: Function,
    load: SaidLoad,
    trouble: Trouble,
    owner: Option<OwnerId>,
    /// Whether the owner had let go of it when its page was last read.
    released: bool,
    judge: Judge,
    flaps: CardFlaps,
    transitions: u64,
    errors: BTreeMap<(&'static str, &'static str), u64>,
}

/// What a poll brought.
#[derive(Clone, Debug)]
pub struct Poll {
    /// How things are now.
    pub status: Status,
    /// What the host did since the poll before; `None` if that was not seen.
    pub host: Option<Sample>,
    /// What has changed, with the card's name.
    pub transitions: Vec<(String, Transition)>,
    /// What has changed of services, with their names.
    pub service_transitions: Vec<(String, ServiceTransition)>,
}

impl Watch {
    /// Starts without having looked.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            host: HostProbe::new(&settings.root),
            host_changes: HostChanges::default(),
            host_judge: HostJudge::new(settings.limits.poll_interval),
            services: Services::new(&settings.services, &settings.root, settings.service_time),
            settings,
            pages: Pages::of_cards(),
            cards: BTreeMap::new(),
            routers: Routers::new(),
            qat: QatCards::default(),
            functions: FunctionCards::default(),
            modules: Modules::default(),
            driver_pages: DriverPages::default(),
            changes: Arc::default(),
            drained: Arc::default(),
            boot: None,
            transitions: VecDeque::new(),
            service_transitions: VecDeque::new(),
            polled_at: None,
            polls: 0,
            polls_late: 0,
            this_process: OwnerId::of_this_process().map(|id| ThisProcess {
                id,
                probe: ProcessProbe::new(Path::new("/")),
                seen: None,
            }),
        }
    }

    /// What was changed in the last day, by whoever keeps the record. Without it, whether anything was
    /// is not known.
    pub fn were_changed(&mut self, changes: Arc<RecentChanges>) {
        self.services.were_changed(&changes);
        self.changes = changes;
    }

    /// Which cards an operator wants without work, by whoever takes orders. They are judged as if nobody had
    /// ordered anything; but of the others, none is told that they went wrong after that. This host runs
    /// since `boot`.
    pub fn are_drained(&mut self, drained: Arc<BTreeMap<String, Drained>>, boot: BootId) {
        (self.drained, self.boot) = (drained, Some(boot));
    }

    /// What services held before, as it is on record.
    #[must_use]
    pub fn remembering(mut self, remembered: Remembered) -> Self {
        self.services.remember(remembered);
        self
    }

    /// It began then, so that a first poll that comes much later is known to be late. Without that
    /// it begins with the first.
    #[must_use]
    pub const fn begun(mut self, at: Instant) -> Self {
        self.polled_at = Some(at);
        self
    }

    /// Looks at every card once.
    pub fn poll(&mut self, now: Instant) -> Poll {
        self.polls += 1;
        let host = self.host.observe(&(), now).ok();
        let host_sample = self.host_changes.look(host, now);
        // A page that is new was not there in the poll before, and it is from then on that we wait.
        let since = self.polled_at.replace(now).unwrap_or(now);
        let (telemetry_error, pages_not_watched) = self.discover(since, now);
        let mut cards = Vec::with_capacity(self.cards.len());
        let mut transitions = Vec::new();
        let mut late = false;
        for card in self.cards.values_mut() {
            if let Some(order) = self.drained.get(&card.name) {
                let is_of_now = Some(order.since.boot) == self.boot;
                let ordered = is_of_now.then_some(order.since.monotonic);
                card.trouble.drained(ordered.unwrap_or_default());
            }
        }
        let company = Company::of(self.cards.values());
        for card in self.cards.values_mut() {
            if let Some(others) = card.trouble.others(&company, now) {
                card.judge.weigh_others(others, now);
            }
            card.load
                .tell(&mut card.judge, &card.name, &self.services, now);
            let (status, transition) = card.poll(&self.settings, &self.changes, host_sample, now);
            late |= card.judge.memory().late_since().is_some();
            transitions.extend(transition.map(|transition| (card.name.clone(), transition)));
            cards.push(status);
        }
        self.polls_late += u64::from(late);
        let (root, changes) = (&self.settings.root, &*self.changes);
        let qat = self.qat.poll(root, changes, now);
        let owned: Vec<_> = cards.iter().map(|card| &*card.card).collect();
        let functions = self.functions.poll(root, changes, &owned, now);
        remember(&mut self.transitions, &transitions);
        let refused = telemetry_error.as_ref();
        let refused = refused.and_then(|refused| Some((refused.code?, &*refused.why)));
        let host = self.host_changes.latest();
        let mut host_figures = self.host_judge.poll(host, host_sample, refused, now);
        let seen = host.and_then(|host| host.memory.as_ref().ok());
        host_figures.driver_pages = self.driver_pages.poll(seen, now);
        let memory = host_figures.memory_total_bytes;
        let modules = self.modules.poll(&self.settings.root, memory, now);
        let surroundings = Surroundings {
            host,
            host_sample,
            cards: facts_of_all(&cards, &qat, &functions),
            oom_kills: self.host_judge.oom_kills(),
        };
        let services = self.services.poll(&surroundings, now);
        let service_transitions = self.services.take_transitions();
        remember(&mut self.service_transitions, &service_transitions);
        let status = Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            simulation: self.settings.simulation.clone(),
            drill: self.settings.service_time.figures(),
            listen: self.settings.listen,
            telemetry: self.settings.telemetry.clone(),
            telemetry_error: telemetry_error.map(|refused| refused.why),
            pages_not_watched,
            interval_seconds: self.settings.limits.poll_interval.as_secs_f64(),
            polls: self.polls,
            polls_late: self.polls_late,
            monitor: self.look_at_this_process(now),
            host: Some(host_figures),
            services,
            modules,
            cards,
            routers: self.routers.poll(&self.settings.telemetry, now),
            qat,
            functions,
            transitions: self.recent(now),
            service_transitions: self.recent_of_services(now),
            // Whoever keeps the history knows.
            incidents: Vec::new(),
            history: None,
            age_seconds: None,
        };
        Poll {
            status,
            host: host_sample,
            transitions,
            service_transitions,
        }
    }

    /// Takes up pages that are new, and tells what kept it from seeing all.
    fn discover(&mut self, since: Instant, now: Instant) -> (Option<Refused>, usize) {
        let directory = &self.settings.telemetry;
        let pages = match self.pages.look(directory, now) {
            Ok(pages) => pages,
            Err(error) => {
                let why = format!("{} could not be read: {error}", directory.display());
                let code = checks::of_io(&error);
                return (Some(Refused { why, code }), 0);
            }
        };
        // A page that somebody removed after its owner had let go of the card is no loss.
        self.cards
            .retain(|path, card| !card.released || pages.binary_search(path).is_ok());
        let mut not_watched = 0;
        for path in pages {
            if self.cards.contains_key(path) {
            } else if self.cards.len() < PAGES_MAX {
                let card = Card::new(path.clone(), &self.settings, since);
                self.cards.insert(path.clone(), card);
            } else {
                not_watched += 1;
            }
        }
        (None, not_watched)
    }

    fn recent(&self, now: Instant) -> Vec<TransitionRecord> {
        let record = |(card, transition): &(String, Transition)| TransitionRecord {
            card: card.clone(),
            ago_seconds: now.since(transition.at).as_secs_f64(),
            from: transition.from,
            to: transition.to,
            cause: transition.cause,
            evidence: transition.evidence.clone(),
        };
        self.transitions.iter().map(record).collect()
    }

    fn recent_of_services(&self, now: Instant) -> Vec<ServiceTransitionRecord> {
        let record = |(service, it): &(String, ServiceTransition)| ServiceTransitionRecord {
            service: service.clone(),
            ago_seconds: now.since(it.at).as_secs_f64(),
            from: it.from,
            to: it.to,
            cause_before: it.cause_before,
            cause: it.cause,
            evidence: it.evidence.clone(),
        };
        self.service_transitions.iter().map(record).collect()
    }

    fn look_at_this_process(&mut self, now: Instant) -> Option<ProcessFigures> {
        let ThisProcess { id, probe, seen } = self.this_process.as_mut()?;
        if seen
            .as_ref()
            .is_none_or(|(at, _)| now >= at.plus(OWN_INTERVAL))
        {
            let owner = probe.observe(id, now).ok()?;
            *seen = Some((now, ProcessFigures::new(id.pid, &owner)));
        }
        seen.as_ref().map(|(_, figures)| figures.clone())
    }
}

/// The directory of pages could not be read.
struct Refused {
    why: String,
    /// The code of the kernel's reason, if it has one.
    code: Option<u8>,
}

/// Keeps the latest.
fn remember<T: Clone>(kept: &mut VecDeque<T>, more: &[T]) {
    kept.extend(more.iter().cloned());
    let excess = kept.len().saturating_sub(TRANSITIONS_MAX);
    kept.drain(..excess);
}

impl Card {
    fn new(path: PathBuf, settings: &Settings, since: Instant) -> Self {
        let limits = settings.limits_of(&path);
        Self {
            name: name_of_file(&path),
            page: PageProbe::new(path),
            process: ProcessProbe::new(&settings.root),
            function: Function::new(),
            load: SaidLoad::default(),
            trouble: Trouble::default(),
            owner: None,
            released: false,
            judge: Judge::new(limits, since),
            flaps: CardFlaps::new(since),
            transitions: 0,
            errors: BTreeMap::new(),
        }
    }

    fn poll(
        &mut self,
        settings: &Settings,
        changes: &RecentChanges,
        host: Option<Sample>,
        now: Instant,
    ) -> (CardStatus, Option<Transition>) {
        let (look, fatal_on_link) = self.look(settings, host, now);
        let serves = |it: &&ServiceSettings| it.card.as_ref() == Some(&self.name);
        let services = settings.services.iter().filter(serves);
        let concerned = services.map(|it| &*it.name).chain([&*self.name]);
        let concerned: Vec<_> = concerned.collect();
        self.judge.weigh_changes(changes, &concerned, now);
        let transition = self.judge.poll(&look);
        self.transitions += u64::from(transition.is_some());
        let state = self.judge.verdict().state;
        self.trouble.poll(state, now);
        let flaps = self.flaps.poll(state, now);
        let mut status = self.status(settings, &look, fatal_on_link);
        self.load.is_of(status.identity.as_ref());
        status.warnings.extend(flaps);
        status.warnings.extend(load::warning(&self.judge));
        let bdf = self.bdf();
        status.driver = bdf.and_then(|bdf| self.function.driver(bdf, &settings.root, now));
        (status, transition)
    }

    /// What is seen of it, and whether a fatal error of its link is news.
    fn look(&mut self, settings: &Settings, host: Option<Sample>, now: Instant) -> (Look, bool) {
        let page = self.page.observe(&(), now);
        self.count_error(self.page.name(), page.as_ref().err());
        if let Ok(page) = &page {
            self.name = name(page, self.page.path());
            self.owner = OwnerId::of(page);
            self.released = page.card.state.get() == card_state::RELEASED;
        }
        let heartbeat = page
            .as_ref()
            .ok()
            .map(|page| HeartbeatProbe.observe(page, now));
        self.count_error(HeartbeatProbe.name(), error_of(heartbeat.as_ref()));
        let owner = self.owner.map(|owner| self.process.observe(&owner, now));
        self.count_error(self.process.name(), error_of(owner.as_ref()));
        let bdf = self.bdf();
        let function = bdf.map(|bdf| self.function.look(bdf, &settings.root, now));
        let fatal_on_link = function.as_ref().is_some_and(|it| it.fatal_on_link);
        let (link, sensors) = function.map_or((None, None), |it| (it.link, it.sensors));
        self.count_error("link", error_of(link.as_deref()));
        self.count_error("hwmon", error_of(sensors.as_deref()));
        let look = Look {
            at: now,
            page,
            heartbeat,
            owner,
            host,
            link,
            sensors,
        };
        (look, fatal_on_link)
    }

    /// Where it is, if it is on a bus.
    fn bdf(&self) -> Option<Bdf> {
        self.name.strip_prefix("pci:")?.parse().ok()
    }

    fn count_error(&mut self, probe: &'static str, error: Option<&ProbeError>) {
        if let Some(error) = error {
            *self.errors.entry((probe, error.kind())).or_default() += 1;
        }
    }

    fn status(&self, settings: &Settings, look: &Look, fatal_on_link: bool) -> CardStatus {
        let verdict = self.judge.verdict();
        let page = look.page.as_deref().ok();
        let beat = look.heartbeat.as_ref().and_then(|beat| beat.as_ref().ok());
        let case = Case {
            look,
            memory: self.judge.memory(),
            limits: &settings.limits,
        };
        let age = rules::page_age(&case);
        let breaker = page.map(BreakerFigures::from);
        let sensors = look.sensors.as_deref().and_then(|it| it.as_ref().ok());
        let assessment = self.assessment();
        let codes = checks::of_card(&CardSight {
            evidence: &verdict.evidence,
            breaker: breaker.as_ref(),
            assessment: Some(&assessment),
            page: look.page.as_ref().err(),
            fatal_on_link,
        });
        CardStatus {
            card: self.name.clone(),
            simulated: settings.simulation.is_some(),
            page: self.page.path().to_owned(),
            state: verdict.state,
            cause: verdict.cause,
            for_seconds: look.at.since(verdict.since).as_secs_f64(),
            evidence: verdict.evidence.clone(),
            transitions: self.transitions,
            page_age_seconds: age.map(|age| age.as_secs_f64()),
            heartbeat: beat.map(|beat| HeartbeatFigures::new(beat, &case)),
            breaker,
            requests: page.map(|page| page.requests.into()),
            checks: page.map(|page| CheckFigures::new(page.checks, look.at)),
            resets: page.map(|page| page.card.resets.get()),
            silent_reboots: page.map(|page| page.card.silent_reboots.get()),
            owner: self.owner_figures(look),
            probe_errors: self.error_counts(),
            assessment: Some(assessment),
            advice: checks::advice(&codes),
            codes,
            identity: page.and_then(IdentityFigures::of),
            drained: None,
            // Asked for beside the look, which is for whoever judges.
            driver: None,
            sensors: sensors.map_or_else(Vec::new, SensorFigures::of),
            link: LinkFigures::of(look.link.as_deref()),
            light: LightFigures::of(self.judge.diagnosis()),
            warnings: sensors.map_or_else(Vec::new, warnings_of_sensors),
        }
    }

    fn assessment(&self) -> AssessmentFigures {
        let diagnosis = self.judge.diagnosis();
        let (weighings, prospects) = (diagnosis.weighings(), diagnosis.prospects());
        AssessmentFigures::new(diagnosis.assessment(), weighings, prospects)
    }

    fn owner_figures(&self, look: &Look) -> Option<ProcessFigures> {
        let pid = self.owner?.pid;
        Some(match look.owner.as_ref()? {
            Ok(owner) => ProcessFigures::new(pid, owner),
            Err(ProbeError::Absent { .. }) => ProcessFigures::unseen(pid, Some(false)),
            Err(_) => ProcessFigures::unseen(pid, None),
        })
    }

    fn error_counts(&self) -> Vec<ProbeErrorCount> {
        let count = |(&(probe, kind), &count): (&(&str, &str), &u64)| ProbeErrorCount {
            probe: probe.to_owned(),
            kind: kind.to_owned(),
            count,
        };
        self.errors.iter().map(count).collect()
    }
}

/// What is known of every card of the host that may explain what its service does.
fn facts_of_all<'a>(
    cards: &'a [CardStatus],
    qat: &'a [QatFigures],
    functions: &'a [VendorCardFigures],
) -> BTreeMap<&'a str, CardFacts> {
    let functions = functions.iter().map(|card| &card.function);
    cards
        .iter()
        .map(|card| (&*card.card, facts(card)))
        .chain(qat.iter().filter_map(facts_of_qat))
        .chain(functions.filter_map(facts_of_absent))
        .collect()
}

/// What a card's verdict explains of its service.
fn facts(card: &CardStatus) -> CardFacts {
    let absent = card.cause == Cause::CardAbsent || card.state == State::Disconnected;
    let requests = card.requests;
    CardFacts {
        absent,
        requests: requests.map_or(0, |requests| requests.submitted),
        failed: requests.map_or(0, |requests| {
            // Whoever writes a page may write anything.
            let late_or_failed = requests.timed_out.saturating_add(requests.failed);
            late_or_failed.saturating_add(requests.misbehaved)
        }),
        in_flight: requests.map_or(0, |requests| requests.in_flight),
        moves: card.heartbeat.as_ref().is_some_and(|beat| beat.moving),
    }
}

/// The same of a card that its kernel driver owns; `None` while it is there and its counters may not be
/// read.
fn facts_of_qat(card: &QatFigures) -> Option<(&str, CardFacts)> {
    // Its counters have gone with it.
    if let Some(absent) = facts_of_absent(&card.function) {
        return Some(absent);
    }
    let requests = card.requests?;
    let facts = CardFacts {
        requests,
        in_flight: requests.saturating_sub(card.responses?),
        moves: card.responds == Some(true) && card.frozen_engines.is_empty(),
        ..CardFacts::default()
    };
    Some((&card.function.card, facts))
}

/// That a card has gone of which nobody publishes a page; `None` while it is there.
fn facts_of_absent(card: &FunctionFigures) -> Option<(&str, CardFacts)> {
    let absent = CardFacts {
        absent: true,
        ..CardFacts::default()
    };
    (card.cause == Cause::CardAbsent).then_some((&*card.card, absent))
}

fn error_of<T>(seen: Option<&Result<T, ProbeError>>) -> Option<&ProbeError> {
    seen?.as_ref().err()
}

/// The address a page gives, if that address would make a page of this name: two pages can then
/// not pass for one card, and a page that was copied elsewhere not for another. Nor can one by its name,
/// all of which is told: no card's address ends as files of pages do.
fn name(page: &Page, path: &Path) -> String {
    let address = page.address();
    let own = path
        .file_name()
        .is_some_and(|found| found == &*file_name(&address));
    if own { address } else { name_of_file(path) }
}

fn name_of_file(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use card_spec::telemetry::BODY_OFFSET;
    use hwshim::telemetry::Publisher;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn watch(directory: &Path) -> Watch {
        Watch::new(Settings::of(directory, Path::new("/")))
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_cards_and_one_that_is_none_is_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let absent = watch(&directory.path().join("none")).poll(Instant::ORIGIN);
        assert_eq!(absent.status.telemetry_error, None);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let broken = watch(&file).poll(Instant::ORIGIN).status;
        assert!(
            broken
                .telemetry_error
                .unwrap()
                .contains("could not be read")
        );
    }

    #[test]
    fn a_page_copied_elsewhere_does_not_pass_for_the_card_it_names() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
        let mut page = Page::new();
        page.owner.address = card_spec::telemetry::padded("software:ring");
        publisher.publish(&page).unwrap();
        for copy in ["copy.telemetry", "software:ring.telemetry"] {
            std::fs::copy(publisher.path(), directory.path().join(copy)).unwrap();
        }
        let status = watch(directory.path()).poll(Instant::ORIGIN).status;
        let mut names: Vec<_> = status.cards.iter().map(|card| &*card.card).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["copy.telemetry", "software:ring", "software:ring.telemetry"]
        );
    }

    #[test]
    fn a_first_look_at_a_card_that_comes_late_says_so_whenever_its_page_appeared() {
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        let is_late = |poll: &Poll| {
            let assessment = poll.status.cards[0].assessment.as_ref();
            let evidence = &assessment.unwrap().evidence;
            let is_told = evidence.iter().any(|it| it.code == "own-lateness");
            assert_eq!(is_told, poll.status.polls_late > 0, "{evidence:?}");
            is_told
        };
        let publish_in = |directory: &Path| {
            let mut publisher = Publisher::create(directory, "software:ring").unwrap();
            publisher.publish(&Page::new()).unwrap();
        };
        let directory = tempfile::tempdir().unwrap();
        publish_in(directory.path());
        for (first, late) in [(1, false), (20, true)] {
            let begun = watch(directory.path()).begun(at(0)).poll(at(first));
            assert_eq!(is_late(&begun), late);
            // Of who does not say when it began, nothing is known.
            assert!(!is_late(&watch(directory.path()).poll(at(first))));
        }
        // The page came between two polls, and so did what stopped the monitor.
        for (second, late) in [(2, false), (60, true)] {
            let empty = tempfile::tempdir().unwrap();
            let mut watch = watch(empty.path());
            watch.poll(at(1));
            publish_in(empty.path());
            assert_eq!(is_late(&watch.poll(at(second))), late);
        }
    }

    #[test]
    fn a_card_that_comes_and_goes_is_said_to_flap_until_it_is_steady() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
        let mut watch = watch(directory.path());
        let mut page = Page::new();
        let mut poll = |second: u64, state| {
            page.card.state.set(state);
            publisher.publish(&page).unwrap();
            let poll = watch.poll(Instant::ORIGIN.plus(Duration::from_secs(second)));
            poll.status.cards[0].clone()
        };
        for second in 0..8 {
            let state = [card_state::GONE, card_state::RELEASED][usize::from(second % 2 == 0)];
            let card = poll(second, state);
            assert_eq!(card.warnings.len(), usize::from(second >= 4), "{card:?}");
        }
        let card = poll(8, card_state::RELEASED);
        assert_eq!(card.warnings[0].code, crate::flap::FLAPPING);
        assert!(
            card.warnings[0]
                .detail
                .starts_with("its state changed 8 times"),
            "{card:?}"
        );
        for second in (0..21).map(|many| 40 + 30 * many) {
            poll(second, card_state::RELEASED);
        }
        assert!(poll(700, card_state::RELEASED).warnings.is_empty());
    }

    /// A host with one service in a control group of its own.
    struct Served {
        tree: tempfile::TempDir,
        watch: Watch,
        second: u64,
    }

    impl Served {
        fn new() -> Self {
            let tree = tempfile::tempdir().unwrap();
            let process = crate::probe::Whereabouts::PidFile(tree.path().join("pid"));
            let watch = Watch::new(Settings {
                services: vec![ServiceSettings::new("web", process)],
                ..Settings::of(tree.path(), tree.path())
            });
            let mut served = Self {
                tree,
                watch,
                second: 0,
            };
            served.kills(3, 1);
            served.write("proc/7/cgroup", "0::/web\n");
            served.write("sys/fs/cgroup/web/memory.current", "4096\n");
            served.write("pid", "7\n");
            served.is('S');
            let standing = (0..3).map(|_| served.poll().standing).last();
            assert_eq!(standing, Some(crate::status::Standing::Runs));
            served
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }

        fn is(&self, state: char) {
            let stat =
                format!("7 (web) {state} 1 7 7 0 -1 0 0 0 0 0 7 5 0 0 20 0 1 0 99 4096 4 1\n");
            self.write("proc/7/stat", &stat);
        }

        fn kills(&self, of_host: u64, of_group: u64) {
            self.write("proc/vmstat", &format!("oom_kill {of_host}\n"));
            let events = format!("oom_kill {of_group}\n");
            self.write("sys/fs/cgroup/web/memory.events", &events);
        }

        fn poll(&mut self) -> crate::status::ServiceStatus {
            self.second += 1;
            let now = Instant::ORIGIN.plus(Duration::from_secs(self.second));
            let status = self.watch.poll(now).status;
            assert!(self.watch.services.settle(Duration::from_secs(60)));
            status.services[0].clone()
        }
    }

    #[test]
    fn whom_the_kernel_killed_for_memory_is_shown_as_a_victim_and_who_was_stopped_is_not() {
        let mut killed = Served::new();
        killed.kills(4, 2);
        killed.is('Z');
        let away = killed.poll();
        assert_eq!(away.cause, Cause::ServiceGone);
        let victim = away.victim.unwrap();
        assert_eq!(
            (victim.harm, victim.of),
            (crate::incident::Harm::OomKilled, None)
        );

        // Somebody else was killed at that time, and the group of the service knows.
        let mut stopped = Served::new();
        stopped.kills(4, 1);
        stopped.is('Z');
        let away = stopped.poll();
        assert_eq!((away.cause, away.victim), (Cause::ServiceGone, None));

        // Without a group that tells, a kill some time after it has no part in it either.
        let mut stopped = Served::new();
        std::fs::remove_dir_all(stopped.tree.path().join("sys")).unwrap();
        stopped.is('Z');
        for _ in 0..2 {
            assert_eq!(stopped.poll().victim, None);
        }
        stopped.write("proc/vmstat", "oom_kill 4\n");
        assert_eq!(stopped.poll().victim, None);
    }

    #[test]
    fn more_pages_than_are_watched_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        for index in 0..PAGES_MAX + 3 {
            let path = directory.path().join(format!("{index}.telemetry"));
            std::fs::write(path, "").unwrap();
        }
        let status = watch(directory.path()).poll(Instant::ORIGIN).status;
        assert_eq!(
            (status.cards.len(), status.pages_not_watched),
            (PAGES_MAX, 3)
        );
    }

    proptest! {
        #[test]
        fn no_page_whatever_it_holds_stops_the_watch(
            bodies in prop::collection::vec(any::<[u8; 0x400 - BODY_OFFSET]>(), 1..4),
            card_is_plausible: bool,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
            let mut watch = watch(directory.path());
            let mut now = Instant::ORIGIN;
            for body in bodies {
                let mut page = Page::new();
                page.as_mut_bytes()[BODY_OFFSET..0x400].copy_from_slice(&body);
                if card_is_plausible {
                    // Past the first checks, so that the rest of the nonsense is looked at.
                    page.health[..8].copy_from_slice(b"HWS1\0\0\x01\0");
                    page.health[0x10..0x14].fill(0);
                }
                publisher.publish(&page).unwrap();
                now = now.plus(Duration::from_secs(1));
                let status = Arc::new(watch.poll(now).status);
                prop_assert!(metrics::text(&status).ends_with("# EOF\n"));
                let json = serde_json::to_string(&*status).unwrap();
                serde_json::from_str::<Status>(&json).unwrap();
            }
        }
    }
}
