//! One service: what looks at it, what is remembered of it, and what is said of it.

use super::dossier::Evidences;
use super::groups::Groups;
use super::harm::{Absence, Memory, Party};
use super::known_answer::{KnownAnswers, OthersCommands};
use super::ledgers::{LedgerFacts, Ledgers, Unaccounted};
use super::quota::Quotas;
use super::remembered::{Past, Remembered};
use super::resources::{self, Held, Seen};
use super::senses::{Located, Reached, Senses};
use super::work::{Excuse, Progress};
use super::{
    CardFacts, Facts, Found, Judgement, ServiceSettings, ServiceTime, ServiceTransition,
    Surroundings, judge,
};
use crate::attribution::RecentChanges;
use crate::leak::{Level, Sample, Scope, Watch};
use crate::led::Load;
use crate::number::lossy;
use crate::probe::{Cgroup, CgroupMemory, OwnerId, ProbeError, Reach, Service, ServiceAnswer};
use crate::status::{
    KernelFigures, LeakFigures, ServiceFigures, ServiceLoadFigures, ServiceStatus, Standing, Unit,
};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A silence that ended so soon after the host was starved may be the host's, and likewise of a quota:
/// the time between two questions.
pub(super) const STARVED_FOR: Duration = Duration::from_secs(10);
/// What a service has said of itself is not true for longer than that.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(30);
/// Samples of before that are judged with each of now: all that is remembered of a resource in a quarter
/// of a minute, and no poll takes noticeably longer.
const REPLAYED_AT_ONCE: usize = 256;
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// One service.
#[derive(Debug)]
pub(super) struct Watched {
    settings: ServiceSettings,
    senses: Box<dyn Senses>,
    time: ServiceTime,
    process: Process,
    groups: Groups,
    quotas: Quotas,
    absence: Absence,
    answers: Answers,
    known_answers: KnownAnswers,
    others_commands: OthersCommands,
    leaks: Vec<Resource>,
    /// What the process held before this monitor was started, as far as it is not judged yet.
    past: Option<Past>,
    load: Option<ServiceLoadFigures>,
    sampled_at: Option<Instant>,
    restarts: u64,
    evidences: Evidences,
    changes: Arc<RecentChanges>,
    /// What was said last, and since when.
    said: Option<(Standing, Cause, Instant)>,
    /// What became of it in the last poll.
    transition: Option<ServiceTransition>,
}

/// A resource that is watched for leaks.
#[derive(Debug)]
struct Resource {
    unit: Unit,
    watch: Watch,
    /// What was held before, which comes first.
    past: VecDeque<(Instant, Sample)>,
    /// Whether the last sample that was judged is of before. What is believed then was believed then.
    is_of_before: bool,
    /// What is held now. The watch knows what was when its last minute ended.
    held: f64,
}

/// What is known of the process.
#[derive(Debug, Default)]
struct Process {
    /// The one that is followed.
    id: Option<OwnerId>,
    /// The one that was followed last.
    last: Option<OwnerId>,
    cgroup: Option<Cgroup>,
    /// Why none is followed.
    missing: Option<ProbeError>,
    /// The look that led to all this.
    located: Option<Located>,
}

/// What came of asking.
#[derive(Debug, Default)]
struct Answers {
    last: Option<Reached>,
    /// Looks in a row without an answer, but for those that a starved host or a quota explains.
    silent_in_a_row: u32,
    /// Those, since it last answered.
    excused_in_a_row: u32,
    /// When the last answer was first seen.
    answered_at: Option<Instant>,
    /// What becomes of its commands.
    progress: Progress,
    /// Whether what it says that it holds is what the kernel says.
    ledgers: Ledgers,
}

impl Watched {
    pub(super) fn new(
        settings: ServiceSettings,
        senses: Box<dyn Senses>,
        time: ServiceTime,
    ) -> Self {
        Self {
            senses,
            time,
            process: Process::default(),
            groups: Groups::default(),
            quotas: Quotas::default(),
            absence: Absence::default(),
            answers: Answers::default(),
            known_answers: KnownAnswers::default(),
            others_commands: OthersCommands::default(),
            leaks: Vec::new(),
            past: None,
            load: None,
            sampled_at: None,
            restarts: 0,
            evidences: Evidences::new(),
            changes: Arc::default(),
            said: None,
            transition: None,
            settings,
        }
    }

    pub(super) fn were_changed(&mut self, changes: &Arc<RecentChanges>) {
        self.changes = Arc::clone(changes);
    }

    pub(super) fn remember(&mut self, remembered: &mut Remembered) {
        if self.time == ServiceTime::REAL {
            self.past = remembered.take(&self.settings.name);
        }
    }

    pub(super) fn settle(&self, patience: Duration) -> bool {
        self.senses.settle(patience)
    }

    /// It, as it matters to whose victim anybody is, with what the last poll found.
    pub(super) const fn party<'a>(&'a self, status: &'a ServiceStatus) -> Party<'a> {
        Party {
            status,
            absence: &self.absence,
            groups: &self.groups,
        }
    }

    /// `is_starved` says whether the host kept anybody from running of late.
    pub(super) fn poll(
        &mut self,
        around: &Surroundings<'_>,
        memory: &Memory,
        is_starved: bool,
        now: Instant,
    ) -> ServiceStatus {
        self.locate(now);
        let service = self.look(now);
        self.quotas.poll(self.process.id, &mut *self.senses, now);
        let excuse = self.excuse(is_starved, now);
        self.ask(around, excuse, now);
        let cgroup = self.look_at_groups(now);
        let answer = self.answers.latest(now);
        self.test(around, answer.as_ref(), excuse, now);
        let of_process = self.process.cgroup.as_ref().zip(cgroup.as_ref());
        let kernel = of_process.map(|(cgroup, memory)| KernelFigures::new(cgroup, memory));
        if let Some(Ok(service)) = &service {
            let seen = Seen {
                settings: &self.settings,
                service,
                cgroup: of_process,
                group_limit: self.groups.limit(),
                answer: answer.as_ref(),
                host: around.host,
            };
            let held = resources::held(&seen);
            let card = self.card_among(around);
            let commands = answer.as_ref().and_then(commands);
            let others = commands.map(|all| self.others_commands.of(all));
            let sample = covariates(card, answer.as_ref(), others);
            self.load = Some(ServiceLoadFigures {
                opens: sample.opens,
                failed_opens: sample.failed_opens,
                commands,
                outstanding: sample.load,
                card_absent: sample.card_absent,
            });
            let lived = self.time.of(now);
            let past = &mut self.past;
            feed(
                &mut self.leaks,
                past,
                &mut self.sampled_at,
                &held,
                &sample,
                lived,
            );
            let ledgers = &mut self.answers.ledgers;
            for held in held.iter().filter(|it| it.scope == Scope::Service) {
                ledgers.grow(held.name, held.value, answer.as_ref(), lived);
            }
        }
        let leaks: Vec<_> = self.leaks.iter().map(Resource::figures).collect();
        let judgement = self.judge(service.as_ref(), &leaks, around, memory, now);
        let for_seconds = self.since(&judgement, now);
        let advice = crate::checks::advice(&judgement.codes);
        ServiceStatus {
            service: self.settings.name.clone(),
            card: self.settings.card.clone(),
            standing: judgement.standing,
            cause: judgement.cause,
            // Whoever knows the others says so.
            victim: None,
            evidence: judgement.evidence,
            codes: judgement.codes,
            for_seconds,
            process: service
                .and_then(Result::ok)
                .map(|it| ServiceFigures::new(&it)),
            restarts: self.restarts,
            version: answer
                .as_ref()
                .and_then(|answer| answer.enquiry.server.as_ref()?.version.clone()),
            answer_seconds: answer.map(|answer| answer.took.as_secs_f64()),
            known_answer: self.known_answers.figures(now),
            kernel,
            leaks,
            load: self.load.clone(),
            assessment: Some(self.evidences.figures()),
            advice,
        }
    }

    fn card_among(&self, around: &Surroundings<'_>) -> Option<CardFacts> {
        around.cards.get(self.settings.card.as_deref()?).copied()
    }

    /// How busy a card is, if it serves that one and has said so of late.
    pub(super) fn load_of(&self, card: &str, serial: Option<&str>, now: Instant) -> Option<Load> {
        let serves = self.settings.card.as_deref() == Some(card);
        let (answer, said_at) = self.answers.recent(now).filter(|_| serves)?;
        let share = super::load::share(&answer.statistics, serial)?;
        Some(Load { share, said_at })
    }

    /// What became of it in the last poll, once.
    pub(super) fn take_transition(&mut self) -> Option<(String, ServiceTransition)> {
        Some((self.settings.name.clone(), self.transition.take()?))
    }

    /// Takes up the process that was found, if that is another one than before.
    fn locate(&mut self, now: Instant) {
        let Some(found) = self.senses.locate(now) else {
            return;
        };
        let is_new = self
            .process
            .located
            .as_ref()
            .is_none_or(|known| !Arc::ptr_eq(known, &found));
        if !is_new {
            return;
        }
        match found.as_ref() {
            Ok(id) if self.process.id != Some(*id) => self.follow(*id, now),
            Ok(_) => {}
            // Who is followed is still there, or its own look will say otherwise.
            Err(error) if self.process.id.is_none() => {
                self.process.missing = Some(error.clone());
            }
            Err(_) => {}
        }
        self.process.located = Some(found);
    }

    fn follow(&mut self, id: OwnerId, now: Instant) {
        self.restarts += u64::from(self.process.last.is_some_and(|last| last != id));
        if self.process.last != Some(id) {
            self.leaks.clear();
            self.load = None;
            self.past = self.past.take().filter(|past| past.is_of(id));
            self.evidences.forget();
            self.ask_anew(now);
        }
        self.process.id = Some(id);
        self.process.last = Some(id);
        self.process.missing = None;
        self.process.cgroup = self.senses.cgroup(id);
        self.groups.follow(self.process.cgroup.as_ref());
    }

    fn look(&mut self, now: Instant) -> Option<Result<Service, ProbeError>> {
        let seen = self.senses.look(self.process.id?, now);
        if let Err(error @ ProbeError::Absent { .. }) = &seen {
            self.process.id = None;
            self.process.cgroup = None;
            self.process.missing = Some(error.clone());
            // What answered was the process that has ended, for all one knows.
            self.ask_anew(now);
            self.senses.locate_anew(now);
        }
        Some(seen)
    }

    fn ask_anew(&mut self, now: Instant) {
        self.answers = Answers::default();
        self.known_answers = KnownAnswers::default();
        self.others_commands = OthersCommands::default();
        self.senses.ask_anew(now);
    }

    fn ask(&mut self, around: &Surroundings<'_>, excuse: Excuse, now: Instant) {
        if self.card_among(around).is_some_and(|card| card.absent) {
            self.answers.ledgers.card_is_absent(now);
        }
        if let Some(seen) = self.senses.ask(now) {
            self.answers.take(seen, excuse, now);
        }
    }

    /// Has a known-answer test done, where that is no waste and does no harm.
    fn test(
        &mut self,
        around: &Surroundings<'_>,
        answer: Option<&ServiceAnswer>,
        excuse: Excuse,
        now: Instant,
    ) {
        let card_is_absent = self.card_among(around).is_some_and(|card| card.absent);
        // Without a process nobody is there to test, and who answers may be another.
        let is_there = self.process.id.is_some();
        if !is_there || !self.known_answers.may_begin(answer, card_is_absent) {
            return;
        }
        if let Some(seen) = self.senses.test(now) {
            let work = self.answers.progress.work(now);
            let answers = answer.is_some();
            let is_news = self.known_answers.take(seen, answers, work, excuse, now);
            if is_news {
                self.others_commands.tested();
            }
        }
    }

    /// What may be why it did nothing of late, or less than it could.
    fn excuse(&self, is_starved: bool, now: Instant) -> Excuse {
        Excuse {
            starved: is_starved,
            throttled: self.quotas.throttled_within(STARVED_FOR, now).is_some(),
        }
    }

    /// Looks at the groups of the process, or where that was: they may have counted why it has gone.
    /// What its own has told.
    fn look_at_groups(&mut self, now: Instant) -> Option<CgroupMemory> {
        let own = self.groups.own()?;
        let memory = self.senses.look_at_cgroup(own, now);
        let is_news = self.process.id.is_none() && self.absence.is_fresh();
        let senses = &*self.senses;
        self.groups.poll(memory.as_ref(), is_news, senses, now);
        memory
    }

    /// Says how it is, and takes note of why its process has gone, if it has.
    fn judge(
        &mut self,
        service: Option<&Result<Service, ProbeError>>,
        leaks: &[LeakFigures],
        around: &Surroundings<'_>,
        memory: &Memory,
        now: Instant,
    ) -> Judgement {
        let card = self.card_among(around);
        let process = self.process.found(service);
        let ledgers = &self.answers.ledgers;
        let said = self.answers.recent_ledgers(now);
        let disagreements = said.map(|it| it.disagreements().cloned().collect::<Vec<_>>());
        let unaccounted = said.map(|it| unaccounted(it, leaks));
        let facts = Facts {
            process,
            reach: self.answers.last.as_deref(),
            silent_in_a_row: self.answers.silent_in_a_row,
            excused_in_a_row: self.answers.excused_in_a_row,
            work: self.answers.progress.work(now),
            tests: self
                .known_answers
                .tests(self.settings.known_answer_interval, now),
            throttled: self.quotas.throttled_within(STARVED_FOR, now),
            leaks,
            ledgers: LedgerFacts {
                disagreements: disagreements.as_deref().unwrap_or_default(),
                unaccounted: unaccounted.as_deref().unwrap_or_default(),
                devices: ledgers.device_failures(now),
            },
            oom_kills: around.oom_kills,
        };
        let sample = around.host_sample.as_ref();
        let card_name = self.settings.card.as_deref();
        let concerned = [Some(&*self.settings.name), card_name];
        let concerned: Vec<_> = concerned.into_iter().flatten().collect();
        self.evidences.changes(&self.changes, &concerned, now);
        self.evidences.poll(&facts, card, sample, now);
        let judgement = judge(&facts);
        let standing = judgement.standing;
        self.absence
            .poll(standing, process, &self.groups, memory, now);
        judgement
    }

    fn since(&mut self, judgement: &Judgement, now: Instant) -> f64 {
        let Judgement {
            standing, cause, ..
        } = *judgement;
        let before = self.said;
        let since = match before {
            Some((before, because, since)) if (before, because) == (standing, cause) => since,
            _ => now,
        };
        self.said = Some((standing, cause, since));
        let (from, cause_before) = before.map_or(
            (Standing::Unknown, Cause::Undetermined),
            |(standing, cause, _)| (standing, cause),
        );
        // Before it was looked for the first time, nothing can have become of it.
        let is_news = since == now && (from, cause_before) != (standing, cause);
        let is_first = before.is_none() && standing == Standing::Unknown;
        self.transition = (is_news && !is_first).then(|| ServiceTransition {
            at: now,
            from,
            to: standing,
            cause_before,
            cause,
            evidence: judgement.evidence.clone(),
        });
        now.since(since).as_secs_f64()
    }
}

impl Process {
    /// What became of looking for it, by what the look at it saw.
    fn found<'a>(&'a self, service: Option<&'a Result<Service, ProbeError>>) -> Found<'a> {
        match (service, &self.missing) {
            (Some(Ok(_)), _) => Found::Running,
            (Some(Err(error @ ProbeError::Absent { .. })), _)
            | (None, Some(error @ ProbeError::Absent { .. })) => Found::Gone(error),
            (Some(Err(error)), _) | (None, Some(error)) => Found::Unseen(error),
            (None, None) => Found::NotYet,
        }
    }
}

impl Answers {
    /// Takes what the last look saw, once. Who is not let run cannot answer in time, and who asks
    /// cannot see that it did: on a host that is starved, and at a quota, one silence tells hardly
    /// anything.
    fn take(&mut self, seen: Reached, excuse: Excuse, now: Instant) {
        let is_known = self
            .last
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, &seen));
        if is_known {
            return;
        }
        match seen.as_ref() {
            Ok(Reach::Silent { .. } | Reach::HungUp { .. } | Reach::Unreachable { .. }) => {
                let count = match excuse.is_one() {
                    true => &mut self.excused_in_a_row,
                    false => &mut self.silent_in_a_row,
                };
                *count = count.saturating_add(1);
            }
            Ok(Reach::Answered(answer)) => {
                (self.silent_in_a_row, self.excused_in_a_row) = (0, 0);
                self.progress.take(&answer.statistics, excuse, now);
                self.ledgers.take(answer, now);
                self.answered_at = Some(now);
            }
            _ => (self.silent_in_a_row, self.excused_in_a_row) = (0, 0),
        }
        self.last = Some(seen);
    }

    /// What the service says of itself, and when it said so, if that is recent.
    fn recent(&self, now: Instant) -> Option<(&ServiceAnswer, Instant)> {
        let answered_at = self.answered_at?;
        match self.last.as_deref() {
            Some(Ok(Reach::Answered(answer))) if now.since(answered_at) <= ANSWER_AGE_MAX => {
                Some((answer, answered_at))
            }
            _ => None,
        }
    }

    /// The same, to be kept.
    fn latest(&self, now: Instant) -> Option<ServiceAnswer> {
        Some(self.recent(now)?.0.clone())
    }

    /// Its ledgers, as long as its last answer is recent, whatever became of a question since. What the
    /// kernel says now is held against nothing that was said by who has ceased to answer.
    fn recent_ledgers(&self, now: Instant) -> Option<&Ledgers> {
        let said_at = self.answered_at?;
        (now.since(said_at) <= ANSWER_AGE_MAX).then_some(&self.ledgers)
    }
}

/// Growth of what is suspected to leak that the service's own account has not.
fn unaccounted(ledgers: &Ledgers, leaks: &[LeakFigures]) -> Vec<Unaccounted> {
    let suspected = leaks.iter();
    let suspected =
        suspected.filter(|leak| leak.level >= Level::Suspected && leak.scope == Scope::Service);
    suspected
        .filter_map(|leak| ledgers.unaccounted(&leak.resource, leak.unit))
        .collect()
}

/// How many commands it was ever given, by its own account.
fn commands(answer: &ServiceAnswer) -> Option<u64> {
    let modules = answer.statistics.modules.values();
    resources::sum(modules.map(|module| module.commands))
}

/// What may explain how much is held: all of a sample but that. `commands` are those of others.
fn covariates(
    card: Option<CardFacts>,
    answer: Option<&ServiceAnswer>,
    commands: Option<u64>,
) -> Sample {
    let modules = answer
        .into_iter()
        .flat_map(|it| it.statistics.modules.values());
    let outstanding = resources::sum(modules.map(|module| module.outstanding()));
    // A service that answers and lists no card has none.
    let lists_none = answer.is_some_and(|answer| answer.enquiry.modules.is_empty());
    let counted = card.filter(CardFacts::are_counted);
    Sample {
        held: 0.0,
        // Of the same source as those that fail, with which they are compared.
        opens: counted.map(|card| card.requests).or(commands),
        failed_opens: counted.map(|card| card.failed),
        commands,
        load: outstanding
            .or_else(|| counted.map(|card| card.in_flight))
            .map(lossy),
        card_absent: lists_none || card.is_some_and(|card| card.absent),
        host_total: None,
    }
}

/// Gives each watch its sample, and begins one for what is seen for the first time.
fn feed(
    leaks: &mut Vec<Resource>,
    past: &mut Option<Past>,
    sampled_at: &mut Option<Instant>,
    held: &[Held],
    covariates: &Sample,
    now: Instant,
) {
    if sampled_at.is_some_and(|at| now < at.plus(SAMPLE_INTERVAL)) {
        return;
    }
    *sampled_at = Some(now);
    for one in held {
        let is_this = |it: &Resource| it.watch.resource().name == one.name;
        let index = leaks.iter().position(is_this);
        let index = index.unwrap_or_else(|| {
            leaks.push(Resource {
                unit: one.unit,
                watch: Watch::new(one.resource()),
                past: past
                    .as_mut()
                    .map(|it| it.take(one.name))
                    .unwrap_or_default(),
                is_of_before: false,
                held: one.value,
            });
            leaks.len() - 1
        });
        let resource = &mut leaks[index];
        resource.watch.set_limit(one.limit.clone());
        let sample = Sample {
            held: one.value,
            host_total: one.host_total,
            ..*covariates
        };
        resource.observe(now, &sample);
    }
}

impl Resource {
    /// Judges the sample, or what comes before it as long as there is any.
    fn observe(&mut self, now: Instant, sample: &Sample) {
        let Self {
            watch,
            past,
            is_of_before,
            held,
            ..
        } = self;
        *held = sample.held;
        *is_of_before = !past.is_empty();
        if !*is_of_before {
            watch.observe(now, sample);
            return;
        }
        let next = past.drain(..past.len().min(REPLAYED_AT_ONCE));
        next.for_each(|(at, sample)| watch.observe(at, &sample));
    }

    /// What is believed of it now. A leak of days ago that has ended is none, however the replay of what
    /// was held then may stand at the moment.
    fn figures(&self) -> LeakFigures {
        let Self {
            unit, watch, held, ..
        } = self;
        match self.is_of_before {
            true => LeakFigures::new(&watch.unjudged(), *unit, *held),
            false => LeakFigures::new(watch.verdict(), *unit, *held),
        }
    }
}

impl ServiceFigures {
    fn new(service: &Service) -> Self {
        let memory = service.memory.as_ref().ok();
        let holdings = &service.holdings;
        let sockets = holdings.sockets.as_ref().ok();
        let ports = sockets.and_then(|sockets| u64::try_from(sockets.tcp_ports.len()).ok());
        let states = sockets.into_iter().flat_map(|sockets| &sockets.tcp);
        let queues = sockets.map(|sockets| sockets.listening.iter());
        let rejects = holdings.rejects.as_ref().ok();
        Self {
            pid: service.id.pid,
            start_time_ticks: service.id.start_time_ticks,
            state: service.state,
            rss_bytes: memory.and_then(|memory| memory.rss_bytes),
            rss_anon_bytes: memory.and_then(|memory| memory.rss_anon_bytes),
            pinned_bytes: memory.and_then(|memory| memory.pinned_bytes),
            descriptors: service.descriptor_count.as_ref().ok().copied(),
            sockets: holdings.descriptors.as_ref().ok().map(|all| all.sockets),
            threads: service.threads,
            tcp_ports: ports,
            locked_bytes: memory.and_then(|memory| memory.locked_bytes),
            swapped_bytes: memory.and_then(|memory| memory.swapped_bytes),
            tcp_states: states
                .map(|(state, count)| (state.name().to_owned(), *count))
                .collect(),
            accept_queue: queues.map(|queues| queues.map(|it| it.queued).sum()),
            listen_overflows: rejects.map(|rejects| rejects.listen_overflows),
        }
    }
}

impl KernelFigures {
    fn new(cgroup: &Cgroup, memory: &CgroupMemory) -> Self {
        let kernel = memory.kernel.as_ref().copied().unwrap_or_default();
        Self {
            cgroup: cgroup.to_string(),
            total_bytes: resources::kernel_bytes(&kernel),
            stack_bytes: kernel.stack_bytes,
            page_tables_bytes: kernel.page_tables_bytes,
            percpu_bytes: kernel.percpu_bytes,
            sockets_bytes: kernel.sockets_bytes,
            vmalloc_bytes: kernel.vmalloc_bytes,
            slab_reclaimable_bytes: kernel.slab_reclaimable_bytes,
            slab_unreclaimable_bytes: kernel.slab_unreclaimable_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(minute: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(minute * 60))
    }

    /// Descriptors that leak for eight hours of a day, and are given back then.
    fn leaked_once(minute: u64) -> Sample {
        let rise = if minute < 8 * 60 { minute } else { 0 };
        Sample {
            held: 300.0 + 1.2 * lossy(rise),
            ..Sample::default()
        }
    }

    fn descriptors(past: VecDeque<(Instant, Sample)>) -> Resource {
        let limit = crate::leak::Limit {
            value: 1000.0,
            source: "RLIMIT_NOFILE".into(),
        };
        let held = Held {
            name: "descriptors",
            unit: Unit::Count,
            scope: Scope::Service,
            limit: Some(limit),
            recycle: None,
            value: 300.0,
            host_total: None,
        };
        Resource {
            unit: held.unit,
            watch: Watch::new(held.resource()),
            past,
            is_of_before: false,
            held: held.value,
        }
    }

    #[test]
    fn ledgers_are_told_of_as_long_as_the_last_answer_is_recent() {
        let second = |second| Instant::ORIGIN.plus(Duration::from_secs(second));
        let says = || {
            let mut statistics = crate::probe::Statistics::default();
            statistics.server.clients = Some(2);
            Arc::new(Ok(Reach::Answered(Box::new(ServiceAnswer {
                enquiry: crate::probe::Enquiry::default(),
                statistics,
                took: Duration::ZERO,
                connected: Some(90),
            }))))
        };
        let excuse = Excuse {
            starved: false,
            throttled: false,
        };
        let mut answers = Answers::default();
        let told = |answers: &Answers, at| {
            let ledgers = answers.recent_ledgers(second(at));
            ledgers.map_or(0, |it| it.disagreements().count())
        };
        assert_eq!(told(&answers, 0), 0);
        for at in [0, 10, 20] {
            answers.take(says(), excuse, second(at));
        }
        assert_eq!(told(&answers, 20), 1);
        // One silence takes back nothing that was said.
        let silence = || Arc::new(Ok(Reach::Silent { received: 0 }));
        answers.take(silence(), excuse, second(30));
        assert_eq!(told(&answers, 50), 1);
        answers.take(silence(), excuse, second(40));
        assert_eq!(told(&answers, 51), 0);
    }

    #[test]
    fn a_leak_that_had_ended_before_the_restart_is_never_said_again() {
        let day = 24 * HOUR / 60;
        let mut then = descriptors(VecDeque::new());
        let mut worst = Level::Watching;
        for minute in 0..day {
            then.observe(at(minute), &leaked_once(minute));
            worst = worst.max(then.figures().level);
        }
        assert!(worst >= Level::Leaking, "it was one: {worst}");
        assert_eq!(then.figures().level, Level::Watching);

        let past = (0..day).map(|minute| (at(minute), leaked_once(minute)));
        let mut now = descriptors(past.collect());
        for second in 0..60 {
            let at = at(day).plus(Duration::from_secs(second));
            now.observe(at, &leaked_once(day));
            let figures = now.figures();
            assert_eq!(figures.level, Level::Watching, "{figures:#?}");
        }
        assert!(now.past.is_empty() && !now.is_of_before);
        assert_eq!(now.figures().rule, then.figures().rule, "all was judged");
    }
}
