//! A host service beside the card, as a kernel and the service itself tell of it.
//!
//! It holds memory, descriptors, threads and ports as such services do: more while it warms up, a
//! little more or less from look to look, and for good what it leaks. It is asked every ten seconds,
//! and has a known-answer test to do each minute; it has three seconds for either, as `cardmon` has
//! it. Nothing is judged here.

use crate::trouble::Mishap;
use fastrand::Rng;
use hwshim::clock::Instant;
use monitor::probe::{
    Cgroup, CgroupEvents, CgroupMemory, CpuPeriods, Descriptors, Enquiry, EnquiryModule, Holdings,
    KernelMemory, KnownAnswer, Limit, Listening, ModuleStatistics, Network, NetworkRejects,
    OwnerId, ProbeError, Reach, ServerStatistics, Service, ServiceAnswer, ServiceLimits,
    ServiceMemory, Sockets, Statistics, Whereabouts,
};
use monitor::services::{ConfiguredLimits, Located, Reached, Senses, ServiceSettings, Tested};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two questions, and between two looks for the process.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Between two known-answer tests.
const TEST_INTERVAL: Duration = Duration::from_secs(60);
/// Who has not answered by then is silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// What warms up is nearly as large as it gets after three times as long.
const WARM_UP: Duration = Duration::from_secs(10 * 60);
/// Connections that may wait to be accepted.
const BACKLOG: f64 = 128.0;
/// New connections a second.
const CONNECTIONS_PER_SECOND: f64 = 4.0;
/// Opens a second, of which some fail where that is what goes wrong.
const OPENS_PER_SECOND: f64 = 0.2;
/// Commands a second.
const COMMANDS_PER_SECOND: f64 = 40.0;
const MIB: f64 = 1024.0 * 1024.0;

/// What it holds when it is warm.
const MEMORY: f64 = 48.0 * MIB;
const KERNEL_MEMORY: f64 = 6.0 * MIB;
const DESCRIPTORS: f64 = 64.0;
const THREADS: f64 = 24.0;
const PORTS: f64 = 30.0;

/// How much it may hold.
const MEMORY_MAX: f64 = 512.0 * MIB;
const DESCRIPTORS_MAX: f64 = 1024.0;
const THREADS_MAX: f64 = 512.0;
const PORTS_MAX: f64 = 1000.0;
/// How long a port remains held, as those of Microsoft KB814622 did.
const RECYCLE: Duration = Duration::from_secs(240);

/// The service, which the world and whoever watches it share.
#[derive(Clone, Debug)]
pub(crate) struct Hardserver(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    pid: u32,
    started: Instant,
    /// What goes wrong with it or around it, and since when.
    trouble: Option<(Mishap, Instant)>,
    /// Until when the trouble's effects are reckoned.
    lived_to: Instant,
    leaked: Leaked,
    /// Of what is leaked, what the limit allows, over how many hours it will last.
    hours_to_exhaustion: f64,
    failed_opens: u64,
    commands: f64,
    replies: f64,
    /// Connections that wait to be accepted.
    queued: f64,
    located: Option<(Instant, Located)>,
    question: Option<Question>,
    asked_at: Option<Instant>,
    reached: Option<Reached>,
    test: Option<Question>,
    test_begun_at: Option<Instant>,
    tested: Option<Tested>,
}

/// What it will never give back.
#[derive(Clone, Copy, Debug, Default)]
struct Leaked {
    memory: f64,
    kernel_memory: f64,
    descriptors: f64,
    threads: f64,
    ports: f64,
}

/// A question that is under way.
#[derive(Debug)]
struct Question {
    due: Instant,
    /// What comes of it if nobody is held up.
    outcome: Outcome,
    /// How long it will have taken.
    took: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Answer,
    Silence,
    Refusal,
    NoConnection,
    NotAllowed,
}

impl Hardserver {
    pub(crate) fn new(seed: u64, now: Instant) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x6861_7264_7365_7276);
        let hours_to_exhaustion = 9.0 + 21.0 * rng.f64();
        Self(Arc::new(Mutex::new(State {
            rng,
            pid: 700,
            started: now,
            trouble: None,
            lived_to: now,
            leaked: Leaked::default(),
            hours_to_exhaustion,
            failed_opens: 0,
            commands: 0.0,
            replies: 0.0,
            queued: 0.0,
            located: None,
            question: None,
            asked_at: None,
            reached: None,
            test: None,
            test_begun_at: None,
            tested: None,
        })))
    }

    /// How it is watched.
    pub(crate) fn settings(card: &str) -> ServiceSettings {
        ServiceSettings {
            card: Some(card.to_owned()),
            recycle: RECYCLE,
            limits: ConfiguredLimits {
                ports: Some(whole(PORTS_MAX)),
                ..ConfiguredLimits::default()
            },
            ..ServiceSettings::new("hardserver", Whereabouts::Program("hardserver".to_owned()))
        }
    }

    pub(crate) fn senses(&self) -> Box<dyn Senses> {
        Box::new(self.clone())
    }

    /// From now on this goes wrong, or nothing any more.
    pub(crate) fn suffer(&self, trouble: Option<Mishap>, now: Instant) {
        let mut state = self.state();
        state.live(now);
        let was = state.trouble.map(|(was, _)| was);
        // Who has ended or was cured is started again by whoever looks after it.
        if trouble.is_none() && was.is_some_and(Mishap::needs_a_restart) {
            state.restart(now);
        }
        state.trouble = trouble.map(|trouble| (trouble, now));
    }

    /// Nobody runs for so long: who is being asked answers the later.
    pub(crate) fn stall(&self, stall: Duration) {
        let state = &mut *self.state();
        for question in [&mut state.question, &mut state.test].into_iter().flatten() {
            question.due = question.due.plus(stall);
            question.took = question.took.saturating_add(stall);
        }
    }

    /// Opens that have failed.
    pub(crate) fn failed_opens(&self) -> u64 {
        self.state().failed_opens
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Senses for Hardserver {
    fn locate(&mut self, now: Instant) -> Option<Located> {
        let mut state = self.state();
        let is_due = |(at, _): &(Instant, _)| now >= at.plus(LOOK_INTERVAL);
        if state.located.as_ref().is_none_or(is_due) {
            let found = state.process();
            state.located = Some((now, Arc::new(found)));
        }
        let (_, located) = state.located.as_ref()?;
        Some(Arc::clone(located))
    }

    fn locate_anew(&mut self, _now: Instant) {
        self.state().located = None;
    }

    fn ask(&mut self, now: Instant) -> Option<Reached> {
        let mut state = self.state();
        state.live(now);
        if state.question.as_ref().is_some_and(|it| now >= it.due) {
            state.hear(now);
        }
        let is_due = state
            .asked_at
            .is_none_or(|at| now >= at.plus(LOOK_INTERVAL));
        if is_due && state.question.is_none() {
            state.begin_to_ask(now);
        }
        state.reached.clone()
    }

    fn test(&mut self, now: Instant) -> Option<Tested> {
        let mut state = self.state();
        state.live(now);
        if state.test.as_ref().is_some_and(|it| now >= it.due) {
            state.end_test();
        }
        let is_due = state
            .test_begun_at
            .is_none_or(|at| now >= at.plus(TEST_INTERVAL));
        if is_due && state.test.is_none() {
            state.test_begun_at = Some(now);
            state.test = Some(state.begin_test(now));
        }
        state.tested.clone()
    }

    fn ask_anew(&mut self, _now: Instant) {
        let mut state = self.state();
        state.question = None;
        state.asked_at = None;
        state.reached = None;
        state.test = None;
        state.test_begun_at = None;
        state.tested = None;
    }

    fn look(&mut self, id: OwnerId, now: Instant) -> Result<Service, ProbeError> {
        let mut state = self.state();
        state.live(now);
        match state.process() {
            Ok(there) if there == id => Ok(state.service(id, now)),
            Ok(_) => Err(absent("the process")),
            Err(error) => Err(error),
        }
    }

    fn cgroup(&self, _id: OwnerId) -> Option<Cgroup> {
        Some(Cgroup::V2(PathBuf::from("system.slice/hardserver.service")))
    }

    fn look_at_cgroup(&mut self, _cgroup: &Cgroup, now: Instant) -> Option<CgroupMemory> {
        let mut state = self.state();
        state.live(now);
        Some(state.cgroup_memory())
    }

    fn look_above(&self, _cgroup: &Cgroup) -> Option<CgroupMemory> {
        None
    }

    fn look_at_quotas(&mut self, _id: OwnerId, now: Instant) -> Option<Vec<CpuPeriods>> {
        Some(vec![self.state().periods(now)])
    }

    fn settle(&self, _patience: Duration) -> bool {
        true
    }
}

impl State {
    fn mishap(&self) -> Option<Mishap> {
        self.trouble.map(|(trouble, _)| trouble)
    }

    fn restart(&mut self, now: Instant) {
        self.pid += 1;
        self.started = now;
        self.leaked = Leaked::default();
        self.queued = 0.0;
        self.commands = 0.0;
        self.replies = 0.0;
        self.question = None;
        self.test = None;
    }

    /// Time goes by, and what goes wrong does its work.
    fn live(&mut self, now: Instant) {
        let passed = now.since(self.lived_to);
        self.lived_to = now;
        let seconds = passed.as_secs_f64();
        let hours = seconds / 3600.0;
        // Leaks are lumpy: as much again in one minute, nothing in the next.
        let lump = -(1.0 - self.rng.f64()).ln();
        let share = hours / self.hours_to_exhaustion * lump;
        let mishap = self.mishap();
        let leaked = &mut self.leaked;
        match mishap {
            Some(Mishap::LeakHeap) => leaked.memory += (MEMORY_MAX - MEMORY) * share,
            Some(Mishap::LeakKernel | Mishap::LeakWhileAbsent) => {
                leaked.kernel_memory += (MEMORY_MAX - KERNEL_MEMORY) * share;
            }
            Some(Mishap::LeakDescriptors) => {
                leaked.descriptors += (DESCRIPTORS_MAX - DESCRIPTORS) * share;
            }
            Some(Mishap::LeakThreads) => leaked.threads += (THREADS_MAX - THREADS) * share,
            Some(Mishap::LeakPortsOnFailure) => {
                let failed = (PORTS_MAX - PORTS) * share;
                leaked.ports += failed;
                self.failed_opens += whole(failed);
            }
            _ => {}
        }
        let commands = COMMANDS_PER_SECOND * seconds;
        self.commands += commands;
        match mishap {
            Some(
                Mishap::WorkersExhausted
                | Mishap::ServiceHang
                | Mishap::ServiceCrash
                | Mishap::AcceptStall,
            ) => {}
            // Of twice as much as it can do, it does half.
            Some(Mishap::Overload | Mishap::CpuQuota) => {
                self.replies = (self.replies + commands / 2.0).min(self.commands);
            }
            _ => self.replies = self.commands,
        }
        let arriving = CONNECTIONS_PER_SECOND * seconds;
        self.queued = match mishap {
            Some(Mishap::AcceptStall) => (self.queued + arriving).min(BACKLOG),
            Some(Mishap::Overload) => (self.queued + arriving / 2.0).min(BACKLOG),
            _ => 0.0,
        };
    }

    fn process(&self) -> Result<OwnerId, ProbeError> {
        match self.mishap() {
            Some(Mishap::ServiceCrash) => Err(absent("a process named hardserver")),
            _ => Ok(OwnerId {
                pid: self.pid,
                start_time_ticks: self.started.as_nanos() / 10_000_000,
            }),
        }
    }

    /// Periods of a tenth of a second, of which it needs half as a rule, and all of most of them when
    /// it may have half.
    fn periods(&self, now: Instant) -> CpuPeriods {
        let lived = now.since(self.started);
        let held_up = match self.trouble {
            Some((Mishap::CpuQuota, since)) => now.since(since),
            _ => Duration::ZERO,
        };
        CpuPeriods {
            group: "services/hardserver".into(),
            periods: whole(lived.as_secs_f64() * 10.0),
            throttled: whole(held_up.as_secs_f64() * 9.0),
            throttled_for: held_up.mul_f64(0.85),
        }
    }

    // Questions.

    fn begin_to_ask(&mut self, now: Instant) {
        self.asked_at = Some(now);
        self.question = Some(self.asked(now));
    }

    /// A test is asked for as anything is, and then takes a worker for as long as others wait for
    /// one.
    fn begin_test(&mut self, now: Instant) -> Question {
        let mut test = self.asked(now);
        if self.mishap() == Some(Mishap::WorkersExhausted) {
            test.took = Duration::MAX;
        }
        let outstanding = (self.commands - self.replies) / COMMANDS_PER_SECOND;
        test.took = test
            .took
            .saturating_add(Duration::from_secs_f64(outstanding));
        test.due = now.plus(test.took.min(ANSWER_TIMEOUT));
        test
    }

    fn end_test(&mut self) {
        let Some(Question { outcome, took, .. }) = self.test.take() else {
            return;
        };
        self.tested = Some(Arc::new(Ok(match outcome {
            Outcome::Answer if took <= ANSWER_TIMEOUT => KnownAnswer::Right { took },
            Outcome::Answer => KnownAnswer::Lost {
                command: "kat",
                hung_up: false,
            },
            Outcome::Silence => KnownAnswer::Lost {
                command: "open",
                hung_up: false,
            },
            Outcome::Refusal | Outcome::NoConnection | Outcome::NotAllowed => {
                KnownAnswer::NotConnected
            }
        })));
    }

    fn asked(&mut self, now: Instant) -> Question {
        let is_full = self.queued >= BACKLOG;
        let quick = Duration::from_micros(self.rng.u64(300..3000));
        let (outcome, took) = match self.mishap() {
            Some(Mishap::ServiceCrash | Mishap::ServiceRefuses) => (Outcome::Refusal, quick),
            Some(Mishap::ServiceHang) => (Outcome::Silence, ANSWER_TIMEOUT),
            Some(Mishap::AcceptStall) if is_full => (Outcome::NoConnection, ANSWER_TIMEOUT),
            Some(Mishap::AcceptStall) => (Outcome::Silence, ANSWER_TIMEOUT),
            Some(Mishap::PermissionLost) => (Outcome::NotAllowed, quick),
            // It runs for a twentieth of a second at a time.
            Some(Mishap::CpuQuota) => {
                let took = Duration::from_millis(self.rng.u64(100..4000));
                (Outcome::Answer, took)
            }
            // A place in the queue comes free now and then, and whoever has one waits.
            Some(Mishap::Overload) if is_full && self.rng.u8(0..10) < 4 => {
                (Outcome::NoConnection, ANSWER_TIMEOUT)
            }
            Some(Mishap::Overload) => {
                let took = Duration::from_millis(self.rng.u64(800..3400));
                (Outcome::Answer, took)
            }
            _ => (Outcome::Answer, quick),
        };
        Question {
            due: now.plus(took.min(ANSWER_TIMEOUT)),
            outcome,
            took,
        }
    }

    fn hear(&mut self, now: Instant) {
        let Some(Question { outcome, took, .. }) = self.question.take() else {
            return;
        };
        let reach = match outcome {
            Outcome::Refusal => Ok(Reach::Refused),
            Outcome::NotAllowed => Err(not_allowed("/run/hardserver.socket")),
            Outcome::NoConnection => Ok(Reach::Unreachable {
                why: "its queue is full".to_owned(),
            }),
            Outcome::Silence => Ok(Reach::Silent { received: 0 }),
            Outcome::Answer if took > ANSWER_TIMEOUT => Ok(Reach::Silent { received: 0 }),
            Outcome::Answer => Ok(Reach::Answered(Box::new(self.answer(took, now)))),
        };
        self.reached = Some(Arc::new(reach));
    }

    fn answer(&self, took: Duration, now: Instant) -> ServiceAnswer {
        let has_a_card = self.mishap() != Some(Mishap::LeakWhileAbsent);
        let outstanding = self.commands - self.replies;
        let module = ModuleStatistics {
            commands: Some(whole(self.commands)),
            replies: Some(whole(self.replies)),
            objects: Some(100),
            load_percent: Some(match self.mishap() {
                Some(Mishap::Overload) => 100,
                _ => 12,
            }),
            ..ModuleStatistics::default()
        };
        let enquired = EnquiryModule {
            mode: Some("operational".to_owned()),
            ..EnquiryModule::default()
        };
        ServiceAnswer {
            enquiry: Enquiry {
                server: Some(enquired.clone()),
                modules: has_a_card.then_some((1, enquired)).into_iter().collect(),
            },
            statistics: Statistics {
                server: ServerStatistics {
                    uptime_seconds: Some(now.since(self.started).as_secs()),
                    commands: Some(whole(self.commands)),
                    replies: Some(whole(self.replies)),
                    clients: Some(8 + whole(outstanding.sqrt())),
                    ..ServerStatistics::default()
                },
                connections: Some(8 + whole(outstanding.sqrt())),
                modules: has_a_card.then_some((1, module)).into_iter().collect(),
            },
            took,
            connected: None,
        }
    }

    // What the kernel tells.

    /// `size` as it is now: less while it warms up, and a little more or less each time.
    fn about(&mut self, size: f64, noise: f64, now: Instant) -> f64 {
        let age = now.since(self.started).as_secs_f64() / WARM_UP.as_secs_f64();
        let warm = 1.0 - 0.3 * (-age).exp();
        size * warm * (1.0 + noise * (self.rng.f64() - 0.5))
    }

    fn ports(&mut self, now: Instant) -> f64 {
        let ports = self.about(PORTS, 0.2, now) + self.leaked.ports;
        match self.trouble {
            // What was opened is held for its time: a rise that ends.
            Some((Mishap::DelayedRecycle, since)) => {
                let held = now.since(since).min(RECYCLE).as_secs_f64();
                ports + OPENS_PER_SECOND * 4.0 * held
            }
            _ => ports,
        }
    }

    fn service(&mut self, id: OwnerId, now: Instant) -> Service {
        let may_be_seen = self.mishap() != Some(Mishap::PermissionLost);
        let memory = self.about(MEMORY, 0.02, now) + self.leaked.memory;
        let threads = self.about(THREADS, 0.1, now) + self.leaked.threads;
        let ports = self.ports(now);
        // A port takes a descriptor with it.
        let descriptors = self.about(DESCRIPTORS, 0.1, now) + self.leaked.descriptors + ports
            - PORTS
            + self.queued / 8.0;
        let descriptors = whole(descriptors);
        let queued = whole(self.queued);
        let listening = vec![Listening { port: 9000, queued }];
        let tcp_ports = (0..whole(ports)).filter_map(|at| u16::try_from(20_000 + at).ok());
        let holdings = Holdings {
            read_at: now,
            limits: Ok(ServiceLimits {
                descriptors: Limit::At(whole(DESCRIPTORS_MAX)),
                locked_bytes: Limit::Unlimited,
                threads: Limit::At(whole(THREADS_MAX)),
            }),
            descriptors: seen(
                may_be_seen,
                Descriptors {
                    sockets: whole(ports),
                    files: descriptors.saturating_sub(whole(ports)),
                    ..Descriptors::default()
                },
            ),
            sockets: seen(
                may_be_seen,
                Sockets {
                    tcp: BTreeMap::new(),
                    udp: 0,
                    other: 4,
                    tcp_ports: tcp_ports.collect(),
                    udp_ports: Vec::new(),
                    listening,
                },
            ),
            sockets_read_at: now,
            network: Ok(Network {
                tcp_in_use: whole(ports),
                tcp_orphans: 0,
                tcp_time_wait: 0,
                tcp_memory_pages: 16,
            }),
            rejects: Ok(NetworkRejects {
                listen_overflows: 0,
                listen_drops: 0,
                udp_receive_buffer_errors: 0,
            }),
        };
        Service {
            id,
            state: 'S',
            threads: whole(threads),
            descriptor_count: seen(may_be_seen, descriptors),
            memory: Ok(ServiceMemory {
                rss_bytes: Some(whole(memory + 9.0 * MIB)),
                rss_anon_bytes: Some(whole(memory)),
                ..ServiceMemory::default()
            }),
            holdings: Arc::new(holdings),
        }
    }

    fn cgroup_memory(&mut self) -> CgroupMemory {
        let now = self.lived_to;
        let kernel = self.about(KERNEL_MEMORY, 0.04, now) + self.leaked.kernel_memory;
        let memory = self.about(MEMORY, 0.02, now) + self.leaked.memory;
        let total = whole(kernel + memory);
        CgroupMemory {
            is_another: false,
            used_bytes: Ok(total),
            peak_bytes: Ok(total),
            limit: Ok(Limit::At(whole(MEMORY_MAX))),
            kernel: Ok(KernelMemory {
                total_bytes: Some(whole(kernel)),
                ..KernelMemory::default()
            }),
            events: Ok(CgroupEvents::default()),
        }
    }
}

fn absent(what: &str) -> ProbeError {
    ProbeError::Absent {
        what: what.to_owned(),
    }
}

/// What `/proc` says to who is not let see it.
pub(crate) fn not_allowed(path: &str) -> ProbeError {
    ProbeError::Unreadable {
        path: PathBuf::from(path),
        source: io::Error::from(io::ErrorKind::PermissionDenied),
    }
}

fn seen<T>(may_be_seen: bool, value: T) -> Result<T, ProbeError> {
    may_be_seen
        .then_some(value)
        .ok_or_else(|| not_allowed("/proc/700/fd"))
}

/// Nothing here is negative, or near 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "see above"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}
