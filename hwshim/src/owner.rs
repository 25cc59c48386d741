//! Owns a card on behalf of everybody who watches it: reads its health page, tests it on a
//! schedule, and publishes what it knows.
//!
//! [`Owner::tick`] does one round and is told the time; [`serve`] is the stand-alone owner, which
//! does nothing else. An application that holds a card itself runs the same rounds beside its
//! own work. Nothing is judged here: whoever reads the telemetry page does that.

use crate::accelerator::State;
use crate::address::{Address, Opened};
use crate::bus::BusError;
use crate::clock::{Clock, Instant, SystemClock, nanos};
use crate::kat;
use crate::key::SignatureScheme;
use crate::router::core::{CheckEnd, Checks, LaneStatus, Options, Requests};
use crate::router::{Router, StartError, breaker};
use crate::stop::Stop;
use crate::telemetry::{PublishError, Publisher};
use crate::virtio::{HealthPort, HealthReadError};
use card_spec::health::Summary;
use card_spec::telemetry::{self, Page, breaker_state, card_state, check_result, padded};
use std::path::PathBuf;
use std::time::Duration;

/// What a stand-alone owner does.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The card.
    pub card: Address,
    /// Directory for the telemetry page.
    pub telemetry: PathBuf,
    /// Synthetic RSA-2048 signatures per second; 0 for none.
    pub load_per_second: f64,
    /// How the owner goes about it.
    pub schedule: Schedule,
}

/// How often an owner does what.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between two rounds: health page read, telemetry page published. A fifth of the
    /// heartbeat's usual period of 500 ms is enough to see each beat.
    pub publish: Duration,
    /// Time between two known-answer tests. At this rate they take far less than 1 % of any
    /// card's capacity.
    pub check: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            publish: Duration::from_millis(100),
            check: Duration::from_secs(10),
        }
    }
}

/// The owner cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// The system lacks resources to drive a card.
    #[error("{address} could not be prepared")]
    Open {
        /// The card.
        address: Address,
        /// Why.
        #[source]
        source: BusError,
    },
    /// The router does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The telemetry page cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The load cannot be generated.
    #[error("the load generator could not be started")]
    Load(#[source] std::io::Error),
}

/// Owns the card until `stop` is requested, then lets go of it in an orderly way.
///
/// A card that cannot be reached is no error: it is tried again, and the page says how it is.
///
/// # Errors
///
/// See [`OwnerError`].
pub fn serve(config: &ServeConfig, stop: &Stop) -> Result<(), OwnerError> {
    let address = config.card.to_string();
    // First of all, so that a second owner is turned away before it touches the card.
    let publisher = Publisher::create(&config.telemetry, &address)?;
    let opened = config
        .card
        .open_accelerator()
        .map_err(|source| OwnerError::Open {
            address: config.card.clone(),
            source,
        })?;
    let Opened {
        accelerator,
        health,
    } = opened;
    let router = Router::start(vec![accelerator], Options::default())?;
    let mut owner = Owner::new(
        router.clone(),
        0,
        health,
        publisher,
        &address,
        config.schedule,
    );
    let clock = SystemClock;

    std::thread::scope(|scope| {
        if config.load_per_second > 0.0 {
            std::thread::Builder::new()
                .name("hwshim-load".to_owned())
                .spawn_scoped(scope, || {
                    generate_load(&router, config.load_per_second, stop)
                })
                .map_err(OwnerError::Load)?;
        }
        let outcome = run(&mut owner, &clock, stop);
        // If publishing failed, the load must end as well.
        stop.request();
        Ok::<(), OwnerError>(outcome?)
    })?;
    drop(router);
    owner.release(clock.now())?;
    Ok(())
}

fn run(owner: &mut Owner, clock: &dyn Clock, stop: &Stop) -> Result<(), PublishError> {
    loop {
        owner.tick(clock.now())?;
        let wait = owner.next_tick().since(clock.now());
        if stop.wait(wait) {
            return Ok(());
        }
    }
}

/// Signs at a steady rate. Falls behind rather than catching up when the card is slower.
fn generate_load(router: &Router, per_second: f64, stop: &Stop) {
    let clock = SystemClock;
    let period = Duration::from_secs_f64(1.0 / per_second.clamp(0.001, 1e6));
    let key = kat::rsa_2048_key();
    let mut next = clock.now();
    for number in 0_u64.. {
        let message = number.to_le_bytes();
        // Every end is counted where it is watched; there is nobody else to tell.
        let _ = router.sign(&key, SignatureScheme::RsaPssSha256, &message);
        let now = clock.now();
        next = next.plus(period).max(now);
        if stop.wait(next.since(now)) {
            return;
        }
    }
}

/// Publishes the telemetry page of one card.
#[derive(Debug)]
pub struct Owner {
    router: Router,
    lane: usize,
    health: Option<HealthPort>,
    publisher: Publisher,
    schedule: Schedule,
    page: Page,
    next_tick: Instant,
    next_check: Instant,
    last_summary: Option<LastSummary>,
}

/// What the last health page said, to compare the next one with.
#[derive(Clone, Copy, Debug)]
struct LastSummary {
    boot_id: u32,
    heartbeat_count: u32,
    /// Resets of the card by us, when it was read.
    resets: u64,
}

impl Owner {
    /// An owner of the accelerator that `router` has as number `lane`, at `address`.
    ///
    /// # Panics
    ///
    /// If the router has not so many.
    #[must_use]
    pub fn new(
        router: Router,
        lane: usize,
        health: Option<HealthPort>,
        publisher: Publisher,
        address: &str,
        schedule: Schedule,
    ) -> Self {
        assert!(
            lane < router.status().len(),
            "the router has no such accelerator"
        );
        let mut page = Page::new();
        page.owner.pid = u64::from(std::process::id()).into();
        page.owner.start_time_ticks = own_start_time_ticks().into();
        page.owner.publish_interval_ns = nanos(schedule.publish).into();
        page.owner.address = padded(address);
        Self {
            router,
            lane,
            health,
            publisher,
            schedule,
            page,
            next_tick: Instant::ORIGIN,
            next_check: Instant::ORIGIN,
            last_summary: None,
        }
    }

    /// When the next round is due.
    #[must_use]
    pub const fn next_tick(&self) -> Instant {
        self.next_tick
    }

    /// Does one round: reads the card's health, begins a test if one is due, publishes.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn tick(&mut self, now: Instant) -> Result<(), PublishError> {
        if self.next_tick != Instant::ORIGIN {
            let lateness = nanos(now.since(self.next_tick));
            let owner = &mut self.page.owner;
            owner.lateness_ns_max = owner.lateness_ns_max.get().max(lateness).into();
        }
        self.next_tick = now.plus(self.schedule.publish);
        if now >= self.next_check && self.router.begin_check(self.lane) {
            self.next_check = now.plus(self.schedule.check);
        }
        let before = self.status();
        let read = self.read_health(&before, now);
        let status = self.status();
        // A reset while the page was read explains whatever is new in it.
        if let Some(summary) = read
            && before.resets == status.resets
            && status.state == Some(State::Ready)
        {
            self.compare(&summary, &status, now);
        }
        self.describe(&status);
        self.page.owner.published_at_ns = now.as_nanos().into();
        self.publisher.publish(&self.page)
    }

    /// Publishes that the card has been let go of.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn release(mut self, now: Instant) -> Result<(), PublishError> {
        self.describe(&self.status());
        let Self {
            router,
            mut publisher,
            mut page,
            ..
        } = self;
        // If this was the last router, the card is free before anybody is told that it is.
        drop(router);
        page.card.state = card_state::RELEASED.into();
        page.card.state_since_ns = now.as_nanos().into();
        page.owner.published_at_ns = now.as_nanos().into();
        publisher.publish(&page)
    }

    fn status(&self) -> LaneStatus {
        self.router.status().swap_remove(self.lane)
    }

    fn read_health(&mut self, status: &LaneStatus, now: Instant) -> Option<Summary> {
        let health = self.health.as_ref()?;
        if status.state != Some(State::Ready) {
            return None;
        }
        let card = &mut self.page.card;
        match health.read() {
            Ok((bytes, summary)) => {
                card.health_reads = (card.health_reads.get() + 1).into();
                card.health_read_at_ns = now.as_nanos().into();
                self.page.health = bytes;
                Some(summary)
            }
            // Let go of between the look at its state and the reading.
            Err(HealthReadError::Absent) => None,
            Err(_) => {
                card.health_errors = (card.health_errors.get() + 1).into();
                None
            }
        }
    }

    fn compare(&mut self, summary: &Summary, status: &LaneStatus, now: Instant) {
        let this = LastSummary {
            boot_id: summary.boot_id.get(),
            heartbeat_count: summary.heartbeat_count.get(),
            resets: status.resets,
        };
        let last = self.last_summary.replace(this);
        let card = &mut self.page.card;
        if last.is_none_or(|last| last.heartbeat_count != this.heartbeat_count) {
            card.heartbeat_changed_at_ns = now.as_nanos().into();
        }
        let rebooted =
            last.is_some_and(|last| last.boot_id != this.boot_id && last.resets == this.resets);
        if rebooted {
            card.silent_reboots = (card.silent_reboots.get() + 1).into();
            self.router.report_silent_reboot(self.lane);
        }
    }

    fn describe(&mut self, status: &LaneStatus) {
        let card = &mut self.page.card;
        card.state = card_state_of(status).into();
        card.state_since_ns = status.state_since.as_nanos().into();
        card.resets = status.resets.into();
        card.resets_failed = status.resets_failed.into();
        card.sessions_open = status.counters.sessions_open.into();
        card.doorbells = status.counters.doorbells.into();
        card.completions_discarded = status.counters.stragglers.into();

        let breaker = &mut self.page.breaker;
        let (state, trial_at) = match status.breaker {
            breaker::State::Closed { .. } => (breaker_state::CLOSED, Instant::ORIGIN),
            breaker::State::Open { until } => (breaker_state::OPEN, until),
            breaker::State::HalfOpen => (breaker_state::HALF_OPEN, Instant::ORIGIN),
        };
        breaker.state = state.into();
        breaker.state_since_ns = status.breaker_since.as_nanos().into();
        breaker.opened = status.breaker_opened.into();
        breaker.trial_at_ns = trial_at.as_nanos().into();
        breaker.opened_by = padded(status.breaker_opened_by);

        let mut requests = status.requests;
        if self.lane == 0 {
            // What never concerned a card is shown with the first.
            requests += self.router.requests_inline();
        }
        self.page.requests = requests_of(&requests);
        self.page.checks = checks_of(&status.checks);
    }
}

fn card_state_of(status: &LaneStatus) -> u64 {
    match status.state {
        Some(State::Ready) => card_state::READY,
        Some(State::Gone) => card_state::GONE,
        _ if status.resets == 0 && status.resets_failed == 0 => card_state::STARTING,
        _ => card_state::NEEDS_RESET,
    }
}

fn requests_of(requests: &Requests) -> telemetry::Requests {
    let Requests {
        submitted,
        card,
        software,
        refused,
        in_flight,
        fallbacks,
        timed_out,
        failed,
        misbehaved,
        wrong_answers,
    } = *requests;
    telemetry::Requests {
        submitted: submitted.into(),
        card: card.into(),
        software: software.into(),
        refused: refused.into(),
        in_flight: in_flight.into(),
        fallbacks: fallbacks.into(),
        timed_out: timed_out.into(),
        failed: failed.into(),
        misbehaved: misbehaved.into(),
        wrong_answers: wrong_answers.into(),
    }
}

fn checks_of(checks: &Checks) -> telemetry::Checks {
    let Checks {
        started,
        passed,
        failed,
        last,
    } = *checks;
    telemetry::Checks {
        started: started.into(),
        passed: passed.into(),
        failed: failed.into(),
        last_at_ns: last.map_or(0, |last| last.at.as_nanos()).into(),
        last_latency_ns: last.map_or(0, |last| nanos(last.latency)).into(),
        last_result: last.map_or(check_result::NONE, check_result_of).into(),
    }
}

fn check_result_of(end: CheckEnd) -> u64 {
    match end.failure {
        None => check_result::PASSED,
        Some("timed-out") => check_result::TIMED_OUT,
        Some("wrong-answer" | "repeated-nonce") => check_result::WRONG_ANSWER,
        Some(code) if code.starts_with("status-") => check_result::FAILED,
        Some(_) => check_result::MISBEHAVED,
    }
}

/// Start time of this process in clock ticks since boot (`proc_pid_stat(5)`, field 22), or 0 if
/// `/proc` does not say.
fn own_start_time_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    fields
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or(0)
}
