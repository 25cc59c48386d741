//! One run: router, driver and card in one thread, on a clock that jumps from event to event.
//!
//! ```text
//!   callers --> Direct (policy) --> virtio driver --> loopback --> card --> engines
//!      ^            |                                               ^         |
//!      |   answers, judged here                         what goes wrong       | done after a
//!      +------------+                                                         | card's time
//!                      events wake the router, as they wake its thread <------+
//! ```
//!
//! Nothing sleeps and nothing is real but the code under test. What is left out: a reset takes no
//! time, and neither does software.

use crate::incident::Incident;
use crate::invariant::{BreakerWatch, Invariant, Transition, Violation};
use crate::plan::{Phase, Plan};
use crate::slot::{NAME, Slot};
use crate::trace::{Time, Trace};
use crate::trouble::{HostTrouble, Mishap, Trouble};
use crate::watcher::{Opinion, Pace, Watcher};
use crate::witness::{Witness, Witnessed};
use crate::workload::{Callers, Kind, Question};
use card_device::{Card, CardConfig};
use fastrand::Rng;
use firmware_sim::fault::{Fault, Injection, InjectionId, Script, SharedScript, Trigger, beset};
use firmware_sim::scenario::Scenario;
use hwshim::accelerator::{Accelerator, RequestId, State as CardState};
use hwshim::clock::{Clock, Instant, ManualClock};
use hwshim::owner::{Identity, Lane, Rounds, Schedule};
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::{Core, Ending, LaneStatus, Offload, Options, Requests};
use hwshim::router::direct::{Direct, Done, Submitted};
use hwshim::router::verify::eights::Eights;
use hwshim::spec::telemetry::{CODE_LEN, Page};
use hwshim::virtio;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// When runs begin: zero is what has not happened.
pub(crate) const STARTED: Instant = Instant::from_nanos(1_000_000_000);
/// Who owns the card.
const OWNER: Identity<'_> = Identity {
    address: NAME,
    pid: 1000,
    start_time_ticks: 1,
};
/// Engines of the card.
const ENGINES: usize = 4;
/// Cores of the host.
const CORES: usize = 2;
/// Requests in flight at most: few, so that bursts find the card full.
const DEPTH: u16 = 32;
/// Longest the router's thread waits in one go while it has something in flight.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// A card that has kept a request may be found out as late as this after its deadline.
const STRAGGLER_MAX: Duration = Duration::from_secs(10);
/// Callers who had hours are back so soon after what took hours.
const RESUME: Duration = Duration::from_secs(1);
/// What may happen at one instant. More is a livelock.
const ROUNDS_PER_INSTANT: usize = 200;

/// What came of a run in which every invariant held.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Two runs of one plan have the same.
    pub trace_hash: u64,
    /// Things that happened.
    pub steps: u64,
    /// How long the run took, in virtual time.
    pub simulated: Duration,
    /// Requests callers have made.
    pub requests: u64,
    /// Answered by the card.
    pub by_card: u64,
    /// Answered by software.
    pub by_software: u64,
    /// Ended with the caller's own error.
    pub refused: u64,
    /// Wrong answers that the card has given, tests included.
    pub wrong_answers_told: u64,
    /// Of those, the ones to callers.
    pub wrong_answers_to_callers: u64,
    /// Answers to callers that were rejected: wrong ones, and true ones whose nonce had been seen.
    pub answers_rejected: u64,
    /// When each known-answer test ended, and of which algorithm it was, as the page names it.
    pub tests: Vec<(Instant, [u8; CODE_LEN])>,
    /// When the driver found that the card had forgotten sessions.
    pub sessions_missed: Vec<Instant>,
    /// What went wrong, and what came of it.
    pub incidents: Vec<IncidentOutcome>,
    /// Codes with which the breaker opened while the card was in use, and when, in the card's time.
    pub opened: Vec<(&'static str, Duration)>,
    /// Whether the breaker was closed when everything was shut down.
    pub ended_in_use: bool,
    /// When the run ended.
    pub ended_at: Instant,
    /// From the error of the bus that opens the breaker in its phase to when a monitor must have
    /// got over it.
    pub primed: (Instant, Instant),
    /// How often the card's owner has looked at it.
    pub rounds: u64,
    /// How often the monitor has looked, if there was one.
    pub polls: u64,
    /// What it believed.
    pub opinions: Vec<Opinion>,
}

/// What came of an incident.
#[derive(Clone, Debug)]
pub struct IncidentOutcome {
    /// What went wrong.
    pub trouble: Trouble,
    /// In which phase.
    pub phase: Phase,
    /// When it first did anything, if it did.
    pub acted_at: Option<Instant>,
    /// When it was over.
    pub ended_at: Instant,
    /// When the card had all its work again after that, so that nothing could come of it any more; `None`
    /// if it had not by the end.
    pub settled_at: Option<Instant>,
    /// Resets of the card that failed while it acted.
    pub resets_failed: u64,
    /// Code with which the breaker opened while the card was in use, and how long that took from
    /// when the incident first acted.
    pub opened: Option<(&'static str, Duration)>,
}

/// A run in which an invariant did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The plan.
    pub plan: Plan,
    /// Which phase it was in.
    pub phase: Phase,
    /// After how many steps.
    pub step: u64,
    /// At what virtual time.
    pub at: Instant,
    /// What was not true.
    pub invariant: Invariant,
    /// In which way.
    pub detail: String,
    /// Requests that were lost, or were in two places.
    pub lost: u64,
    /// What happened last.
    pub last_lines: Vec<String>,
}

/// Runs `plan` to its end.
///
/// # Errors
///
/// [`Failure`] as soon as something is not true.
pub fn run(plan: &Plan) -> Result<Outcome, Box<Failure>> {
    run_traced(plan, None)
}

/// As [`run`], telling `listener` everything that happens, a line each.
///
/// # Errors
///
/// As [`run`].
pub fn run_traced(plan: &Plan, listener: Option<fn(&str)>) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(plan.clone(), listener);
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match lived {
        Ok(Ok(())) => return Ok(world.outcome()),
        Ok(Err(violation)) => violation,
        Err(panic) => Violation::new(Invariant::NoPanic, words_of(&*panic)),
    };
    let failure = world.failure(violation);
    // What has panicked may panic again when it is dropped.
    std::mem::forget(world);
    Err(Box::new(failure))
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    let formatted = panic.downcast_ref::<String>().map(String::as_str);
    literal.or(formatted).unwrap_or("something panicked")
}

/// One run.
struct World {
    plan: Plan,
    rng: Rng,
    clock: Arc<ManualClock>,
    trace: Trace,
    slot: Slot,
    script: SharedScript,
    witness: Arc<Witness>,
    /// Gone once it has been shut down.
    router: Option<Direct>,
    callers: Callers,
    outstanding: HashMap<RequestId, Outstanding>,
    breaker: BreakerWatch,
    phase: Phase,
    phase_since: Instant,
    next_arrival: Instant,
    /// The router has been given something it has not looked at.
    router_is_told: bool,
    router_looked: Instant,
    owner: Rounds,
    /// What the owner has published last.
    page: Box<Page>,
    watcher: Watcher,
    incidents: Vec<Happening>,
    told: Told,
    /// Until then no process of the host runs.
    stalled_until: Instant,
    /// When the next such stall begins, while there is a reason for any.
    next_stall: Instant,
    standing: Standing,
    outcome: Outcome,
}

struct Outstanding {
    question: Question,
    deadline: Instant,
}

/// The card, as its owner asks the router about it.
struct CardOf<'a>(&'a mut Direct);

impl Lane for CardOf<'_> {
    fn status(&self) -> LaneStatus {
        self.0.core().status(0)
    }

    fn begin_check(&mut self, now: Instant) -> bool {
        self.0.begin_check(0, now)
    }

    fn report_silent_reboot(&mut self, now: Instant) {
        self.0.report_silent_reboot(0, now);
    }
}

/// An incident of the plan whose phase has come.
struct Happening {
    incident: Incident,
    begins: Instant,
    ends: Instant,
    state: Progress,
    /// In the card's script, if it stands there.
    injection: Option<InjectionId>,
    /// When a driver was told of an error of the bus, or the host began to suffer.
    told_at: Option<Instant>,
    /// Resets of the card that had failed before it began, and until it had ended.
    resets_failed: (u64, u64),
    /// When it was over, and the card had all its work again: nothing can come of it any more.
    settled_at: Option<Instant>,
    opened: Option<(&'static str, Duration)>,
}

impl Happening {
    /// When it begins or ends.
    const fn next(&self) -> Instant {
        match self.state {
            Progress::Ahead => self.begins,
            Progress::Active => self.ends,
            Progress::Over => Instant::NEVER,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Ahead,
    Active,
    Over,
}

/// What a story has told of the card.
#[derive(Default)]
struct Told {
    /// How often anything acted.
    times: u64,
    /// Whether something that acted has not ended.
    goes_on: bool,
    /// Records of what is over, and after which the card had its work again.
    settled: HashSet<InjectionId>,
}

/// What may still be held against the card.
struct Standing {
    /// The error of the bus that a phase began with has not been noticed yet.
    is_primed: bool,
    /// When its breaker opened last, having been closed.
    opened_at: Instant,
    /// When what was wrong ended, until work has returned.
    recovering_since: Option<Instant>,
    /// Kinds of questions that the card has answered since.
    returned: HashSet<Kind>,
    /// Requests of callers that engines had seen at the last look.
    callers_seen: u64,
}

impl World {
    fn new(plan: Plan, listener: Option<fn(&str)>) -> Self {
        let rng = Rng::with_seed(plan.seed ^ 0x776f_726c_6421);
        let witness = Arc::new(Witness::default());
        let (shines_like, light) = plan.light();
        let script = match &plan.scenario {
            Some(scenario) => scenario.script(plan.seed),
            None => Script::new(plan.seed).with_led_profile(shines_like),
        };
        let script = script.shared();
        let slot = Slot::new(
            card(&witness, &script, plan.has_pss()),
            Arc::clone(&witness),
            &script,
        );
        let options = virtio::Options {
            depth: DEPTH,
            // A reset that has not ended when it is looked at never ends.
            reset_timeout: Duration::ZERO,
            ..virtio::Options::default()
        };
        let card =
            virtio::Card::new(NAME, slot.connect(), options).expect("the kernel gives eventfds");
        let health = card.health();
        let options = Options {
            offload: if plan.is_weighed {
                Offload::default()
            } else {
                Offload::EVERYTHING
            },
            // Not those of the machine this runs on.
            cores: CORES,
            eights: plan.in_eights.then(|| Eights::load().ok()).flatten(),
            ..Options::default()
        };
        let core = Core::new(vec![Box::new(card) as Box<dyn Accelerator>], options);
        let breaker = BreakerWatch::new(Limits::default(), &core.status(0));
        let clock = Arc::new(ManualClock::new());
        clock.advance(STARTED.since(Instant::ORIGIN));
        let pace = if plan.is_compressed() {
            Pace::MINUTES
        } else {
            Pace::SECONDS
        };
        let schedule = Schedule {
            check: Schedule::default().check.max(pace.check),
            // Half a heartbeat is still seen, and a monitor that looks once a second is shown no less.
            publish: if plan.is_watched {
                Duration::from_millis(250)
            } else {
                Schedule::default().publish
            },
        };
        let watcher = Watcher::new(light, plan.seed, pace, clock.now());
        let router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
        Self {
            plan,
            rng,
            trace: Trace::new(listener),
            slot,
            script,
            witness,
            router: Some(router),
            callers: Callers::new(),
            outstanding: HashMap::new(),
            breaker,
            phase: Phase::Boot,
            phase_since: clock.now(),
            next_arrival: Instant::NEVER,
            router_is_told: true,
            router_looked: Instant::ORIGIN,
            owner: Rounds::new(&OWNER, Some(health), schedule),
            page: Box::new(Page::new()),
            watcher,
            incidents: Vec::new(),
            told: Told::default(),
            stalled_until: Instant::ORIGIN,
            next_stall: Instant::NEVER,
            standing: Standing {
                is_primed: false,
                opened_at: Instant::ORIGIN,
                recovering_since: None,
                returned: HashSet::new(),
                callers_seen: 0,
            },
            outcome: Outcome::default(),
            clock,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        for phase in self.plan.phases() {
            if phase == Phase::BreakerOpen {
                self.await_work()?;
            }
            self.enter(phase);
            self.live_through()?;
        }
        self.shut_down()
    }

    fn live_through(&mut self) -> Result<(), Violation> {
        loop {
            self.settle()?;
            if self.phase_is_over()? {
                return Ok(());
            }
            self.advance();
        }
    }

    /// Waits until the card has its work again, if anything was wrong. The error of the bus that a
    /// phase begins with has the card reset, and a reset heals much that nothing else would.
    fn await_work(&mut self) -> Result<(), Violation> {
        let is_well = self.standing.recovering_since.is_none();
        if is_well && !self.is_anything(Progress::Active) && !self.is_anything(Progress::Ahead) {
            return Ok(());
        }
        self.begin_phase(Phase::ReturnToService);
        self.live_through()
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn router(&mut self) -> &mut Direct {
        self.router.as_mut().expect("it is there until the end")
    }

    fn status(&self) -> LaneStatus {
        let router = self.router.as_ref().expect("it is there until the end");
        router.core().status(0)
    }

    // Phases.

    fn begin_phase(&mut self, phase: Phase) {
        let now = self.now();
        self.phase = phase;
        self.phase_since = now;
        self.trace.note(now, format_args!("phase {phase}"));
        self.next_arrival = now.plus(self.gap());
    }

    fn enter(&mut self, phase: Phase) {
        self.begin_phase(phase);
        let now = self.now();
        if phase == Phase::BreakerOpen {
            // The first backoff, a trial, and a poll.
            self.outcome.primed = (now, now.plus(Duration::from_millis(6500)));
            self.standing.is_primed = self.slot.report_error();
            self.begin_to_recover();
        }
        for incident in &self.plan.incidents {
            if incident.phase == phase {
                let begins = now.plus(incident.offset);
                self.incidents.push(Happening {
                    incident: incident.clone(),
                    begins,
                    ends: begins.plus(incident.lasting),
                    state: Progress::Ahead,
                    injection: None,
                    told_at: None,
                    resets_failed: (0, 0),
                    settled_at: None,
                    opened: None,
                });
            }
        }
    }

    fn phase_is_over(&mut self) -> Result<bool, Violation> {
        let now = self.now();
        let is_out_of_time = now.since(self.phase_since) >= self.plan.length(self.phase);
        let breaker = self.status().breaker;
        Ok(match self.phase {
            Phase::BreakerOpen => {
                let is_open = matches!(breaker, State::Open { .. });
                is_out_of_time
                    || (!is_open && now.since(self.phase_since) > WAIT_MAX * 2)
                    || breaker == State::HalfOpen
            }
            Phase::HalfOpen => is_out_of_time || breaker != State::HalfOpen,
            Phase::ReturnToService => is_out_of_time && self.has_recovered()?,
            _ => is_out_of_time,
        })
    }

    /// Whether hours go by in which nothing happens but what takes hours.
    fn is_in_the_long_run(&self) -> bool {
        let is_long = self.phase == Phase::Idle || self.is_anything(Progress::Active);
        is_long && self.plan.is_compressed() && self.phase != Phase::Draining
    }

    /// Time until the next operation is asked for.
    fn gap(&mut self) -> Duration {
        let is_closed = matches!(self.status().breaker, State::Closed { .. });
        let mean = match self.phase {
            Phase::Steady if let Some(scenario) = &self.plan.scenario => {
                gap_of(scenario, self.now().since(STARTED))
            }
            Phase::Boot => Duration::from_millis(100),
            // Nothing hurries: what it takes hours to see is not seen by callers.
            _ if self.is_in_the_long_run() => Duration::from_secs(5 * 60),
            Phase::Idle if self.plan.is_watched => Duration::from_secs(5),
            Phase::Idle => Duration::from_secs(8 * 60 * 60),
            Phase::Steady => Duration::from_millis(250),
            Phase::Peak => Duration::from_millis(5),
            Phase::BreakerOpen => Duration::from_millis(500),
            Phase::HalfOpen => Duration::from_micros(200),
            // While nothing can be learned from it, waiting should be cheap.
            Phase::ReturnToService if is_closed => Duration::from_millis(250),
            Phase::ReturnToService => Duration::from_secs(2),
            Phase::Shutdown => Duration::from_micros(100),
            Phase::Draining => return Duration::from_secs(1_000_000),
        };
        // Exponentially distributed: arrivals know nothing of each other.
        mean.mul_f64(-(1.0 - self.rng.f64()).ln())
    }

    /// Whether the card has its work again: it has answered every kind of question since the last
    /// thing that was wrong ended, and what that may have left behind had its time to show.
    fn has_recovered(&mut self) -> Result<bool, Violation> {
        let now = self.now();
        let is_to_come = self.is_anything(Progress::Active) || self.is_anything(Progress::Ahead);
        if is_to_come || self.told.goes_on {
            return Ok(false);
        }
        let Some(since) = self.standing.recovering_since else {
            return Ok(true);
        };
        let status = self.status();
        let missing: Vec<_> = self.missing().collect();
        let is_closed = matches!(status.breaker, State::Closed { .. });
        let options = *self.router().core().options();
        // A request that was lost at the last moment has its deadline first.
        let is_past = now.since(since) > options.timeout + STRAGGLER_MAX;
        if is_closed && missing.is_empty() && is_past {
            self.trace
                .note(now, format_args!("the card has its work again"));
            self.standing.recovering_since = None;
            let over = self.incidents.iter_mut();
            for happening in over.filter(|it| it.state == Progress::Over) {
                happening.settled_at.get_or_insert(now);
            }
            let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            let over = script.record().iter().filter(|it| it.cleared_at.is_some());
            self.told.settled.extend(over.map(|record| record.id));
            return Ok(true);
        }
        // A request that was lost is found out, at the latest, at the end of its time; then the
        // backoff runs; and then it takes some questions to see it.
        let bound = STRAGGLER_MAX + options.timeout + options.limits.backoff_max;
        let sampled = Duration::from_secs(30);
        // Whoever asks for nothing finds nothing out, but a trial needs nobody to ask.
        let is_tried = now.since(since.max(self.standing.opened_at)) > bound;
        if is_tried && !is_closed {
            let detail = format!(
                "{:.1?} after what was wrong has ended, the breaker is {:?}, opened by {:?}",
                now.since(since),
                status.breaker,
                status.breaker_opened_by
            );
            return Err(Violation::new(Invariant::WorkReturns, detail));
        }
        if now.since(since.max(self.phase_since)) > bound + sampled
            && self.phase == Phase::ReturnToService
        {
            let detail = format!(
                "{:.1?} after what was wrong has ended, the breaker is {:?}, opened by {:?}, and \
                 the card has not answered {missing:?}",
                now.since(since),
                status.breaker,
                status.breaker_opened_by
            );
            return Err(Violation::new(Invariant::WorkReturns, detail));
        }
        Ok(false)
    }

    /// Kinds of questions that are asked and go to a card in use, and that this one has not answered
    /// since.
    fn missing(&self) -> impl Iterator<Item = Kind> {
        let goes_to_it = |kind: &Kind| match *kind {
            Kind::SignRsa => self.plan.is_weighed || !self.plan.is_cheap,
            _ => !self.plan.is_weighed,
        };
        let is_missing = |kind: &Kind| !self.standing.returned.contains(kind);
        Kind::answerable().filter(move |kind| goes_to_it(kind) && is_missing(kind))
    }

    /// Whether the card is in use again and has not shown yet that it does its work.
    fn may_return(&self) -> bool {
        let is_closed = matches!(self.status().breaker, State::Closed { .. });
        is_closed && self.missing().next().is_some()
    }

    fn is_anything(&self, progress: Progress) -> bool {
        self.incidents
            .iter()
            .any(|happening| happening.state == progress)
    }

    fn shut_down(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.trace
            .note(now, format_args!("everything is handed back"));
        let mut done = Vec::new();
        self.router().hand_back(|one| done.push(one));
        for one in done {
            self.ended(one)?;
        }
        self.check_books()?;
        if !self.outstanding.is_empty() {
            let lost = self.outstanding.len() as u64;
            let detail = format!("{lost} requests are lost");
            return Err(Violation::misplaced(lost, detail));
        }
        let status = self.status();
        self.outcome.answers_rejected = status.requests.wrong_answers;
        self.outcome.ended_in_use = matches!(status.breaker, State::Closed { .. });
        self.router = None;
        Ok(())
    }

    // Time.

    /// Has everything happen that is due now.
    fn settle(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.begin_and_end_incidents();
        self.follow_the_story();
        if self.is_stalled() {
            while self.slot.work(now) {}
            return Ok(());
        }
        if now >= self.next_arrival {
            self.callers_ask()?;
        }
        self.owner_round()?;
        self.watch();
        for round in 0.. {
            let mut progress = false;
            if self.router_is_woken() {
                progress = true;
                self.turn()?;
            }
            progress |= self.slot.work(now);
            self.check_proven()?;
            // An answer that was held up may have been given at a tick.
            if !progress && !self.event_came() {
                break;
            }
            if round == ROUNDS_PER_INSTANT {
                self.check_rest()?;
                break;
            }
        }
        self.check_books()?;
        self.check_deadlines()?;
        self.has_recovered().map(drop)
    }

    /// Goes to the next instant at which anything happens.
    fn advance(&mut self) {
        let now = self.now();
        let mut times = vec![
            self.next_arrival,
            self.slot.next_done(),
            self.router().core().next_wake(),
            self.phase_since.plus(self.plan.length(self.phase)).max(now),
        ];
        if self.is_stalled() {
            times = vec![
                self.stalled_until,
                self.slot.next_done(),
                self.slot.next_tick(),
            ];
        }
        times.push(self.next_stall);
        times.extend(self.incidents.iter().map(Happening::next));
        if self.has_work_in_flight() {
            times.push(self.router_looked.plus(WAIT_MAX));
        }
        if self.plan.is_watched {
            times.push(self.watcher.next_poll());
        }
        if !self.is_quiet() {
            times.extend([self.owner.next(), self.slot.next_tick()]);
        }
        let ahead = times.into_iter().filter(|time| *time > now).min();
        let next = ahead.expect("callers never end to ask");
        self.clock.advance(next.since(now));
    }

    /// Whether rounds and beats change nothing: then they are left out, which is what makes days
    /// cheap.
    fn is_quiet(&self) -> bool {
        if self.plan.is_compressed() {
            return self.outstanding.is_empty() && self.now() < self.watcher.next_poll();
        }
        if self.plan.scenario.is_some() || self.plan.is_watched {
            return false;
        }
        /// What happened last may be found in a round that comes now.
        const LINGERING: Duration = Duration::from_secs(1);
        let now = self.now();
        let lingers = |happening: &Happening| {
            happening.state == Progress::Active
                || happening.state == Progress::Over && now.since(happening.ends) < LINGERING
        };
        self.outstanding.is_empty() && !self.incidents.iter().any(lingers)
    }

    // What goes wrong.

    fn begin_and_end_incidents(&mut self) {
        let now = self.now();
        let resets_failed = self.status().resets_failed;
        for index in 0..self.incidents.len() {
            let happening = &mut self.incidents[index];
            if happening.state == Progress::Active {
                happening.resets_failed.1 = resets_failed;
            }
            match happening.state {
                Progress::Ahead if now >= happening.begins => {
                    happening.resets_failed = (resets_failed, resets_failed);
                    happening.state = Progress::Active;
                    self.standing.recovering_since = None;
                    let Incident {
                        trouble,
                        probability,
                        ..
                    } = happening.incident.clone();
                    self.trace.note(now, format_args!("{trouble} begins"));
                    self.begin(index, trouble, probability);
                }
                Progress::Active if now >= happening.ends => {
                    happening.state = Progress::Over;
                    let trouble = &happening.incident.trouble;
                    let is_the_hosts = matches!(trouble, Trouble::Host(_));
                    let is_beside = matches!(trouble, Trouble::Mishap(_));
                    self.trace.note(now, format_args!("{trouble} ends"));
                    if let Some(injection) = happening.injection {
                        self.script().clear(injection);
                        self.slot.tell_time(now);
                    }
                    if is_the_hosts {
                        self.watcher.strain(None);
                    }
                    if is_beside {
                        self.watcher.suffer(None, now);
                        // Whoever had time while hours went by asks at the usual pace again.
                        self.next_arrival = self.next_arrival.min(now.plus(RESUME));
                    }
                    self.begin_to_recover();
                }
                _ => {}
            }
        }
    }

    /// Whether no process of the host runs now.
    fn is_stalled(&mut self) -> bool {
        let now = self.now();
        if now < self.stalled_until {
            return true;
        }
        if now < self.next_stall {
            return false;
        }
        let active = |happening: &&Happening| happening.state == Progress::Active;
        let troubles = self.incidents.iter().filter(active);
        let mut hosts = troubles.filter_map(|happening| match happening.incident.trouble {
            Trouble::Host(trouble) => Some(trouble),
            _ => None,
        });
        let Some(trouble) = hosts.next() else {
            self.next_stall = Instant::NEVER;
            return false;
        };
        let (stall, pause) = trouble.stall(&mut self.rng);
        self.stalled_until = now.plus(stall);
        self.next_stall = self.stalled_until.plus(pause);
        if stall.is_zero() {
            return false;
        }
        self.watcher.stall(stall);
        self.trace
            .note(now, format_args!("the host stalls for {stall:?}"));
        true
    }

    fn begin(&mut self, index: usize, trouble: Trouble, probability: f64) {
        match trouble {
            Trouble::Card(fault) => {
                self.inject(index, fault, probability);
            }
            Trouble::Mishap(mishap) => {
                let now = self.now();
                if mishap == Mishap::LeakWhileAbsent {
                    self.inject(index, Fault::SurpriseRemoval, 1.0);
                }
                // A key that does not fit does nothing before somebody uses it.
                let acts_at_once = mishap != Mishap::BadKey;
                self.incidents[index].told_at = acts_at_once.then_some(now);
                self.watcher.suffer(Some(mishap), now);
            }
            Trouble::BusError => {
                let is_told = self.slot.report_error();
                self.incidents[index].told_at = is_told.then(|| self.now());
            }
            Trouble::Host(trouble) => {
                let now = self.now();
                self.incidents[index].told_at = Some(now);
                self.watcher.strain(Some(trouble));
                self.next_stall = now;
                if trouble == HostTrouble::MonitorStopped {
                    self.watcher.stop_until(self.incidents[index].ends);
                }
            }
        }
    }

    fn inject(&mut self, index: usize, fault: Fault, probability: f64) {
        let trigger = Trigger::now().probability(probability);
        // So that what it does is on record under the right time.
        let now = self.now();
        self.slot.tell_time(now);
        let injection = self.script().add(Injection { fault, trigger });
        self.slot.tell_time(now);
        self.incidents[index].injection = Some(injection);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_to_recover(&mut self) {
        if !self.is_anything(Progress::Active) && !self.told.goes_on {
            self.standing.recovering_since = Some(self.now());
            self.standing.returned.clear();
        }
    }

    // The owner of the card.

    fn owner_round(&mut self) -> Result<(), Violation> {
        let now = self.now();
        if now < self.owner.next() || self.is_quiet() {
            return Ok(());
        }
        self.outcome.rounds += 1;
        let router = self.router.as_mut().expect("it is there until the end");
        let sequence = self.page.sequence.get() + 2;
        let (tests, missed) = (tests_ended(&self.page), self.page.sessions_lost);
        *self.page = *self.owner.round(&mut CardOf(router), now);
        if tests_ended(&self.page) != tests {
            self.outcome.tests.push((now, self.page.checked));
        }
        if self.page.sessions_lost.get() > missed.get() {
            self.outcome.sessions_missed.push(now);
        }
        // As whoever publishes it does.
        self.page.sequence = sequence.into();
        // A test may have begun.
        self.router_is_told = true;
        self.look_at_breaker()?;
        self.check_page()
    }

    fn watch(&mut self) {
        let now = self.now();
        let is_published = self.page.owner.pid.get() != 0;
        if !self.plan.is_watched || !is_published {
            return;
        }
        self.outcome.polls += u64::from(now >= self.watcher.next_poll());
        self.watcher.handle_errors(&self.slot);
        if let Some(opinion) = self.watcher.poll(&self.page, &self.slot, now) {
            let Opinion {
                state,
                cause,
                service,
                forecast,
                ..
            } = opinion;
            let likely = forecast.iter().take(3);
            let likely = likely.map(|(cause, chance)| format!("{cause} {:.0} %", chance * 100.0));
            let likely = likely.collect::<Vec<_>>().join(", ");
            self.trace.note(
                now,
                format_args!(
                    "the monitor says {state}, {cause}; of the service {service}; {likely}"
                ),
            );
        }
    }

    /// What is published is what is.
    fn check_page(&self) -> Result<(), Violation> {
        let page = &self.page.requests;
        let Requests {
            submitted,
            card,
            software,
            refused,
            in_flight,
            ..
        } = self.status().requests;
        let published = [
            page.submitted,
            page.card,
            page.software,
            page.refused,
            page.in_flight,
        ];
        if published.map(|count| count.get()) == [submitted, card, software, refused, in_flight] {
            return Ok(());
        }
        // Misreported, and not lost.
        let detail = format!("the telemetry page says {page:?}");
        Err(Violation::new(Invariant::OnePlace, detail))
    }

    // Callers.

    fn callers_ask(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.next_arrival = now.plus(self.gap());
        let count = match self.phase {
            Phase::Peak => self.rng.usize(1..48),
            Phase::Shutdown => self.rng.usize(1..8),
            // One alone is done sooner here.
            Phase::ReturnToService if self.plan.is_weighed && self.may_return() => 8,
            _ => 1,
        };
        for ahead in (0..count).rev() {
            // As servers do that know how many wait: in software, which takes no time here, none do.
            self.router().announce(ahead);
            let question = self.next_question();
            self.ask(question)?;
        }
        Ok(())
    }

    /// In the end, mostly what the card has not answered yet.
    fn next_question(&mut self) -> Question {
        let missing = self.missing().next();
        match missing {
            Some(kind)
                if self.phase == Phase::ReturnToService
                    && (self.plan.is_weighed || self.rng.bool()) =>
            {
                Question::of(kind, &mut self.rng)
            }
            // What nothing else offers to the card.
            _ if self.plan.is_weighed && self.rng.u8(0..8) == 0 => {
                Question::of(Kind::SignRsa, &mut self.rng)
            }
            // Three callers in four have a key that does not fit.
            _ if self.watcher.suffers(Mishap::BadKey) && self.rng.u8(0..4) > 0 => {
                self.acts(Mishap::BadKey);
                Question::of(Kind::OpenForged, &mut self.rng)
            }
            _ if self.plan.is_cheap => Question::draw_cheap(&mut self.rng),
            _ => Question::draw(&mut self.rng),
        }
    }

    /// From now on it does something, if it did nothing before.
    fn acts(&mut self, mishap: Mishap) {
        let now = self.now();
        let active = self.incidents.iter_mut();
        let mut active = active.filter(|it| it.state == Progress::Active);
        let is_this = |it: &Happening| it.incident.trouble == Trouble::Mishap(mishap);
        if let Some(happening) = active.find(|it| is_this(it)) {
            happening.told_at.get_or_insert(now);
        }
    }

    fn ask(&mut self, question: Question) -> Result<(), Violation> {
        let now = self.now();
        let deadline = now.plus(self.router().core().options().timeout);
        let operation = self.callers.operation(question);
        self.outcome.requests += 1;
        match self.router().submit(operation) {
            Submitted::Done(done) => {
                let outstanding = Outstanding { question, deadline };
                self.outstanding.insert(done.id, outstanding);
                self.ended(done)?;
            }
            Submitted::InFlight(id) => {
                self.router_is_told = true;
                self.trace
                    .note(now, format_args!("{:?} goes to the card", question.kind));
                let status = self.status();
                if !matches!(status.breaker, State::Closed { .. }) {
                    let detail = format!("a request went to a card that is {:?}", status.breaker);
                    return Err(Violation::new(Invariant::ProvenFirst, detail));
                }
                let outstanding = Outstanding { question, deadline };
                if self.outstanding.insert(id, outstanding).is_some() {
                    let detail = format!("{id:?} was given to two requests");
                    return Err(Violation::misplaced(1, detail));
                }
            }
        }
        self.look_at_breaker()
    }

    /// A request has ended.
    fn ended(&mut self, done: Done) -> Result<(), Violation> {
        let now = self.now();
        let Done { id, output, ending } = done;
        let Some(Outstanding { question, deadline }) = self.outstanding.remove(&id) else {
            let detail = format!("{id:?} ended and was not in flight");
            return Err(Violation::misplaced(1, detail));
        };
        self.trace
            .note(now, format_args!("{:?} ended: {ending:?}", question.kind));
        if let Err(lie) = self.callers.judge(question, &output) {
            let detail = format!("{lie} to {question:?} was released, {ending:?}");
            return Err(Violation::new(Invariant::OnlyTruthReleased, detail));
        }
        // Nobody can be in time while nobody runs.
        if now > deadline.max(self.stalled_until) {
            let late = now.since(deadline);
            let detail = format!("{question:?} ended {late:?} after its deadline");
            return Err(Violation::new(Invariant::EndsByDeadline, detail));
        }
        match ending {
            Ending::Card => {
                self.outcome.by_card += 1;
                self.standing.returned.insert(question.kind);
                // What nobody has executed cannot be the card's answer; and if the engines do not
                // know a caller's request when they see it, they see none during a trial either.
                if self.outcome.by_card > self.witness.callers() {
                    let detail = format!("the card answered {question:?}, and no engine was asked");
                    return Err(Violation::new(Invariant::ProvenFirst, detail));
                }
            }
            Ending::Software => self.outcome.by_software += 1,
            Ending::Refused | Ending::Abandoned => self.outcome.refused += 1,
        }
        Ok(())
    }

    // The router.

    /// Whether the router's thread would wake now: it was told, an event came, or a time it waits
    /// for has come.
    fn router_is_woken(&mut self) -> bool {
        let now = self.now();
        let waited = self.has_work_in_flight() && now >= self.router_looked.plus(WAIT_MAX);
        let told = std::mem::take(&mut self.router_is_told);
        told || waited || now >= self.router().core().next_wake() || self.event_came()
    }

    /// Whether the router waits for anything, a known-answer test included.
    fn has_work_in_flight(&self) -> bool {
        let router = self.router.as_ref().expect("it is there until the end");
        let in_flight = |accelerator: &dyn Accelerator| accelerator.in_flight() > 0;
        !self.outstanding.is_empty() || router.core().accelerators().any(in_flight)
    }

    fn event_came(&self) -> bool {
        let router = self.router.as_ref().expect("it is there until the end");
        if router.core().status(0).state != Some(CardState::Ready) {
            return false;
        }
        let events = router.core().accelerators().flat_map(Accelerator::events);
        let mut fds: Vec<_> = events
            .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
            .collect();
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    fn turn(&mut self) -> Result<(), Violation> {
        self.router_looked = self.now();
        let mut done = Vec::new();
        self.router().turn(|one| done.push(one));
        self.router_is_told |= !self.router().arm();
        // Before what ended is looked at, so that the trace shows causes first.
        self.look_at_breaker()?;
        for one in done {
            self.ended(one)?;
        }
        Ok(())
    }

    fn look_at_breaker(&mut self) -> Result<(), Violation> {
        let now = self.now();
        let status = self.status();
        let Some(transition) = self.breaker.look(&status, now)? else {
            return Ok(());
        };
        self.trace.note(now, format_args!("breaker {transition:?}"));
        match transition {
            Transition::Opened(code) => {
                self.check_reason(code)?;
                self.standing.opened_at = now;
                self.outcome.opened.push((code, now.since(Instant::ORIGIN)));
                self.credit(code);
            }
            Transition::StayedOpen(code) => self.check_reason(code)?,
            Transition::HalfOpened | Transition::Closed => {}
        }
        Ok(())
    }

    /// The breaker opens, or stays open, for something that is wrong, or that was and may still show.
    fn check_reason(&mut self, code: &'static str) -> Result<(), Violation> {
        if code == "bus-error" && std::mem::take(&mut self.standing.is_primed) {
            return Ok(());
        }
        let mut suspects = self.suspects();
        if suspects.iter().any(|trouble| trouble.explains(code)) {
            return Ok(());
        }
        suspects.dedup();
        let names: Vec<_> = suspects.iter().map(Trouble::to_string).collect();
        let detail = match &names[..] {
            [] => format!("it opened ({code}), and nothing was wrong"),
            names => format!(
                "it opened ({code}), and that does not come of {}",
                names.join(" or ")
            ),
        };
        Err(Violation::new(Invariant::NoFalseAlarm, detail))
    }

    /// What the breaker may open for: what is wrong now, or was until the card has its work again;
    /// of a story, what has been told.
    fn suspects(&self) -> Vec<Trouble> {
        let open = self.incidents.iter();
        let open = open.filter(|it| it.state != Progress::Ahead && it.settled_at.is_none());
        let mut suspects: Vec<_> = open.map(|it| it.incident.trouble.clone()).collect();
        if self.plan.scenario.is_some() {
            let script = self.script();
            let told = script.record().iter().filter(|record| {
                let is_settled = self.told.settled.contains(&record.id);
                record.first_acted_at.is_some() && !is_settled
            });
            suspects.extend(told.map(|it| Trouble::Card(it.fault.clone())));
        }
        suspects
    }

    /// Of a story, takes note of what has been told, and of when nothing of it is wrong any more.
    fn follow_the_story(&mut self) {
        if self.plan.scenario.is_none() {
            return;
        }
        let (times, goes_on) = {
            let script = self.script();
            let acted = script.record().iter();
            let acted = acted.filter(|record| record.first_acted_at.is_some());
            acted.fold((0, false), |(times, goes_on), record| {
                (times + record.times, goes_on || record.cleared_at.is_none())
            })
        };
        let is_news = times != self.told.times || goes_on != self.told.goes_on;
        self.told.times = times;
        self.told.goes_on = goes_on;
        if goes_on {
            self.standing.recovering_since = None;
        } else if is_news {
            self.begin_to_recover();
        }
    }

    /// The breaker has opened: for what goes wrong, if that is one thing and it has not been over
    /// for long.
    fn credit(&mut self, code: &'static str) {
        let now = self.now();
        let [happening] = &self.incidents[..] else {
            return;
        };
        let is_over_for_long = now > happening.ends.plus(STRAGGLER_MAX);
        // An error of the bus may also be what a phase began with.
        let is_primer = code == "bus-error" && happening.incident.trouble != Trouble::BusError;
        let Some(since) = self.acted_since(happening) else {
            return;
        };
        if self.plan.incidents.len() == 1 && !is_over_for_long && !is_primer {
            let happening = &mut self.incidents[0];
            if happening.opened.is_none() {
                happening.opened = Some((code, now.since(since)));
            }
        }
    }

    /// When an incident first did anything.
    fn acted_since(&self, happening: &Happening) -> Option<Instant> {
        match happening.injection {
            None => happening.told_at,
            Some(id) => {
                let acted = self.script().record()[id.0].first_acted_at?;
                Some(STARTED.plus(acted))
            }
        }
    }

    /// When it was over: something else may have ended it.
    fn over_at(&self, happening: &Happening) -> Instant {
        let cleared = happening
            .injection
            .and_then(|id| self.script().record()[id.0].cleared_at);
        let cleared = cleared.map(|at| STARTED.plus(at));
        cleared.unwrap_or(happening.ends).min(happening.ends)
    }

    // Invariants.

    fn check_books(&self) -> Result<(), Violation> {
        let requests = self.status().requests;
        let in_flight = self.outstanding.len() as u64;
        let submitted = self.outcome.requests;
        if requests.add_up() && requests.in_flight == in_flight && requests.submitted == submitted {
            return Ok(());
        }
        let detail = format!(
            "{submitted} were submitted and {in_flight} are in flight, and the router says {requests:?}"
        );
        let lost = requests.in_flight.abs_diff(in_flight);
        let lost = lost.max(requests.submitted.abs_diff(submitted)).max(1);
        Err(Violation::misplaced(lost, detail))
    }

    /// Something goes on at this instant without end. An interrupt that never stops does that, and
    /// time goes on all the same; nothing else may.
    fn check_rest(&mut self) -> Result<(), Violation> {
        let now = self.now();
        let has_a_storm = self.suspects().iter().any(Trouble::never_rests);
        if has_a_storm {
            self.trace
                .note(now, format_args!("no rest in this storm of interrupts"));
            return Ok(());
        }
        let detail = format!("{ROUNDS_PER_INSTANT} rounds at one instant, and no end");
        Err(Violation::new(Invariant::ComesToRest, detail))
    }

    fn check_deadlines(&self) -> Result<(), Violation> {
        let now = self.now();
        let stalled_until = self.stalled_until;
        let overdue = |outstanding: &&Outstanding| outstanding.deadline.max(stalled_until) < now;
        let Some(outstanding) = self.outstanding.values().find(overdue) else {
            return Ok(());
        };
        let detail = format!(
            "{:?} has not ended by its deadline at {}",
            outstanding.question,
            Time(outstanding.deadline)
        );
        Err(Violation::new(Invariant::EndsByDeadline, detail))
    }

    /// The card has been reset when its trial begins, and gets nothing of callers until it has
    /// passed. Engines know, whatever the router says.
    fn check_proven(&mut self) -> Result<(), Violation> {
        let callers = self.witness.callers();
        let is_new = callers > std::mem::replace(&mut self.standing.callers_seen, callers);
        if is_new && self.status().breaker == State::HalfOpen {
            let detail = "a caller's request was executed during the trial";
            return Err(Violation::new(Invariant::ProvenFirst, detail));
        }
        Ok(())
    }

    // The end.

    fn outcome(self) -> Outcome {
        let incident_outcome = |happening: &Happening| IncidentOutcome {
            trouble: happening.incident.trouble.clone(),
            phase: happening.incident.phase,
            acted_at: self.acted_since(happening),
            ended_at: self.over_at(happening),
            settled_at: happening.settled_at,
            resets_failed: happening
                .resets_failed
                .1
                .saturating_sub(happening.resets_failed.0),
            opened: happening.opened,
        };
        let wrong_answers_told = self.script().spoiled();
        Outcome {
            trace_hash: self.trace.hash(),
            steps: self.trace.steps(),
            simulated: self.now().since(STARTED),
            incidents: self.incidents.iter().map(incident_outcome).collect(),
            wrong_answers_told,
            wrong_answers_to_callers: self.slot.spoiled_for_callers(),
            ended_at: self.now(),
            opinions: self.watcher.into_opinions(),
            ..self.outcome
        }
    }

    fn failure(&self, violation: Violation) -> Failure {
        let Violation {
            invariant,
            detail,
            lost,
        } = violation;
        Failure {
            plan: self.plan.clone(),
            phase: self.phase,
            step: self.trace.steps(),
            at: self.now(),
            invariant,
            detail,
            lost,
            last_lines: self.trace.last_lines(),
        }
    }
}

/// Known-answer tests that have ended, as the page has them.
fn tests_ended(page: &Page) -> u64 {
    page.checks.passed.get() + page.checks.failed.get()
}

/// Mean time between operations, so long after the start of `scenario`.
fn gap_of(scenario: &Scenario, since: Duration) -> Duration {
    let mut ends = Duration::ZERO;
    let phase = scenario.load.iter().find(|phase| {
        ends += phase.lasting;
        since < ends
    });
    // Without a load, or after it, somebody still asks now and then.
    let per_second = phase.map_or(0.0, |phase| phase.operations_per_second);
    Duration::from_secs_f64(1.0 / per_second.max(0.1))
}

/// An honest card that lies as `script` says.
fn card(witness: &Arc<Witness>, script: &SharedScript, has_pss: bool) -> Card {
    let config = CardConfig {
        engine_count: ENGINES,
        ..CardConfig::default()
    };
    let engine = Arc::new(Witnessed {
        witness: Arc::clone(witness),
        has_pss,
    });
    beset(&config, engine, Arc::clone(script)).expect("a card can be like that")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn world(incidents: &[&str]) -> World {
        let incidents = incidents.iter().map(|text| text.parse().unwrap());
        World::new(Plan::with(1, incidents.collect()), None)
    }

    fn in_the_middle(incidents: &[&str]) -> World {
        let mut world = world(incidents);
        for phase in [Phase::Boot, Phase::Steady] {
            world.enter(phase);
            world.live_through().unwrap();
        }
        world
    }

    #[test]
    fn a_card_has_its_work_again_before_anything_resets_it_from_outside() {
        static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let incident = "hang@draining+0s+1s".parse().unwrap();
        run_traced(
            &Plan::with(1, vec![incident]),
            Some(|line| LINES.lock().unwrap().push(line.to_owned())),
        )
        .unwrap();
        let lines = LINES.lock().unwrap();
        let place = |what: &str| lines.iter().position(|line| line.ends_with(what));
        let returned = place("the card has its work again").unwrap();
        assert!(returned < place("phase breaker-open").unwrap());
    }

    #[test]
    fn what_a_story_has_yet_to_tell_is_not_over_when_the_card_has_its_work_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("two-reboots.toml");
        let reboot = |at: &str| format!("[[inject]]\nfault = \"silent-reboot\"\nat = \"{at}\"\n");
        let text = format!(
            "name = \"two-reboots\"\nsummary = \"it reboots, works, and reboots\"\nstory = \"told\"\n\
             duration = \"120s\"\n[[load]]\nphase = \"steady\"\nlasting = \"120s\"\n\
             operations_per_second = 20.0\n{}{}[expect]\ncause = \"card\"\nshim = \"resets it\"\n\
             monitor = \"names it\"\n",
            reboot("5s"),
            reboot("90s"),
        );
        std::fs::write(&path, text).unwrap();
        let scenario = Scenario::read(&path).unwrap();
        let outcome = run(&Plan::play(Arc::new(scenario), 1)).unwrap();
        assert_eq!(outcome.opened.len(), 2, "{:?}", outcome.opened);
    }

    #[test]
    fn a_breaker_that_opens_for_what_is_not_wrong_is_a_false_alarm() {
        let mut world = in_the_middle(&["hang@steady+0s+1h"]);
        world.check_reason("timed-out").unwrap();
        let violation = world.check_reason("wrong-answer").unwrap_err();
        assert_eq!(violation.invariant, Invariant::NoFalseAlarm);
        assert!(
            violation.detail.ends_with("does not come of hang"),
            "{violation:?}"
        );
        let mut world = in_the_middle(&[]);
        world.check_reason("timed-out").unwrap_err();
        world.enter(Phase::BreakerOpen);
        world.check_reason("bus-error").unwrap();
        world.check_reason("bus-error").unwrap_err();
    }

    #[test]
    fn a_request_that_the_router_knows_nothing_of_is_lost() {
        let mut world = in_the_middle(&[]);
        world.check_books().unwrap();
        for number in 0..3 {
            let question = world.next_question();
            let deadline = world.now();
            let id = RequestId {
                index: 1000 + number,
                generation: 0,
            };
            let outstanding = Outstanding { question, deadline };
            world.outstanding.insert(id, outstanding);
        }
        let violation = world.check_books().unwrap_err();
        assert_eq!(
            (violation.invariant, violation.lost),
            (Invariant::OnePlace, 3)
        );
        assert_eq!(world.failure(violation).lost, 3);
    }

    #[test]
    fn what_has_no_end_is_forgiven_to_a_storm_of_interrupts_alone() {
        let violation = in_the_middle(&["hang@steady+0s+1h"]).check_rest();
        assert_eq!(violation.unwrap_err().invariant, Invariant::ComesToRest);
        let mut stormy = in_the_middle(&["interrupt-storm=500@steady+0s+1h"]);
        stormy.check_rest().unwrap();
    }

    #[test]
    fn engines_know_a_callers_request_of_each_kind_when_they_see_it() {
        let mut world = in_the_middle(&[]);
        for kind in Kind::answerable() {
            let before = (world.outcome.by_card, world.witness.callers());
            let question = Question::of(kind, &mut world.rng);
            world.ask(question).unwrap();
            while !world.outstanding.is_empty() {
                world.settle().unwrap();
                world.advance();
            }
            let (by_card, seen) = (world.outcome.by_card, world.witness.callers());
            assert!(by_card > before.0, "{kind:?}");
            // Others may ask in between.
            assert_eq!(seen - before.1, by_card - before.0, "{kind:?}");
        }
    }
}
