//! One round of a card's owner: what is read, what is begun, and the telemetry page that says it.
//!
//! It is told the time and publishes nothing, so the same rounds are lived through in a process of
//! their own and in a simulation.

use super::Schedule;
use super::pace::{Pace, TooSoon};
use crate::accelerator::State;
use crate::clock::{Instant, nanos};
use crate::router::breaker;
use crate::router::core::{CheckEnd, Checks, LaneStatus, Requests};
use crate::virtio::{HealthPort, HealthReadError};
use card_spec::health::Summary;
use card_spec::telemetry::{self, Page, breaker_state, card_state, check_result, padded};

/// What a round asks of whoever routes work to the card.
///
/// **Seam.** Implemented by a router with a thread of its own, and by one that is driven step by
/// step.
pub trait Lane {
    /// What is known of the card, and of what callers asked.
    fn status(&self) -> LaneStatus;
    /// Begins a known-answer test; false if the card is not in use.
    fn begin_check(&mut self, now: Instant) -> bool;
    /// The card has restarted without being asked.
    fn report_silent_reboot(&mut self, now: Instant);
}

/// Who owns which card.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The card's address.
    pub address: &'a str,
    /// The owner's process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot; 0 if it cannot tell.
    pub start_time_ticks: u64,
}

impl<'a> Identity<'a> {
    /// This process as the owner of the card at `address`.
    #[must_use]
    pub fn of_this_process(address: &'a str) -> Self {
        Self {
            address,
            pid: std::process::id(),
            start_time_ticks: crate::telemetry::start_time_ticks("self").unwrap_or(0),
        }
    }
}

/// What somebody is told who asked for a test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It was tested, and that ended so.
    Tested(CheckEnd),
    /// The router gives the card no work, so there is nothing to test.
    NotInUse,
}

/// Round after round, the telemetry page of one card.
#[derive(Debug)]
pub struct Rounds {
    health: Option<HealthPort>,
    schedule: Schedule,
    page: Page,
    next: Instant,
    pace: Pace,
    answer: Option<Answer>,
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

impl Rounds {
    /// Before the first round.
    #[must_use]
    pub fn new(identity: &Identity<'_>, health: Option<HealthPort>, schedule: Schedule) -> Self {
        let mut page = Page::new();
        page.owner.pid = u64::from(identity.pid).into();
        page.owner.start_time_ticks = identity.start_time_ticks.into();
        page.owner.publish_interval_ns = nanos(schedule.publish).into();
        page.owner.address = padded(identity.address);
        // FNV-1a, so that owners of one host are not in step, and a simulation is each time the same.
        let seed = identity
            .address
            .bytes()
            .chain(identity.pid.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Self {
            health,
            schedule,
            page,
            next: Instant::ORIGIN,
            pace: Pace::new(schedule.check, seed),
            answer: None,
            last_summary: None,
        }
    }

    /// When the next round is due.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// Reads the card's health, begins a test if one is due, and says what to publish.
    pub fn round(&mut self, lane: &mut impl Lane, now: Instant) -> &Page {
        if self.next != Instant::ORIGIN {
            let lateness = nanos(now.since(self.next));
            let owner = &mut self.page.owner;
            owner.lateness_ns_max = owner.lateness_ns_max.get().max(lateness).into();
        }
        self.next = now.plus(self.schedule.publish);
        let before = lane.status();
        self.test(lane, &before, now);
        let read = self.read_health(&before, now);
        let status = lane.status();
        // A reset while the page was read explains whatever is new in it.
        if let Some(summary) = read
            && before.resets == status.resets
            && status.state == Some(State::Ready)
        {
            self.compare(&summary, &status, lane, now);
        }
        self.describe(&status);
        self.page.owner.published_at_ns = now.as_nanos().into();
        &self.page
    }

    /// Somebody wants the card tested now. Answers are [taken](Self::take_answer) after each round
    /// was published, so that the page says the same.
    ///
    /// # Errors
    ///
    /// [`TooSoon`].
    pub fn ask(&mut self, now: Instant) -> Result<(), TooSoon> {
        self.pace.want(now)
    }

    /// What to tell those who asked.
    pub const fn take_answer(&mut self) -> Option<Answer> {
        self.answer.take()
    }

    /// Nobody waits for an answer any more.
    pub const fn forget(&mut self) {
        self.pace.forget();
        self.answer = None;
    }

    /// Whether a test is under way.
    #[must_use]
    pub const fn is_testing(&self) -> bool {
        self.pace.is_running()
    }

    /// Takes in how a test ended, and begins the next if it is due.
    fn test(&mut self, lane: &mut impl Lane, status: &LaneStatus, now: Instant) {
        if let Some(end) = self.pace.look(&status.checks, now) {
            self.answer = Some(Answer::Tested(end));
        }
        if !self.pace.is_due(now) {
            return;
        }
        if lane.begin_check(now) {
            self.pace.began(now);
        } else if self.pace.is_waited_for() && !is_in_use(status) {
            self.pace.forget();
            self.answer = Some(Answer::NotInUse);
        }
    }

    /// What to publish when the card has been let go of.
    #[must_use]
    pub fn last(mut self, lane: &impl Lane, now: Instant) -> Page {
        self.describe(&lane.status());
        self.released(now)
    }

    /// The same of a card that no router has had.
    #[must_use]
    pub fn released(mut self, now: Instant) -> Page {
        self.page.card.state = card_state::RELEASED.into();
        self.page.card.state_since_ns = now.as_nanos().into();
        self.page.owner.published_at_ns = now.as_nanos().into();
        self.page
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

    fn compare(
        &mut self,
        summary: &Summary,
        status: &LaneStatus,
        lane: &mut impl Lane,
        now: Instant,
    ) {
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
            lane.report_silent_reboot(now);
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
        self.page.sessions_lost = status.counters.sessions_lost.into();
        self.page.interrupts = telemetry::Interrupts {
            arrived: status.counters.interrupts.into(),
            completions_due: status.counters.completions_due.into(),
            completions_unannounced: status.counters.completions_unannounced.into(),
        };

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

        self.page.requests = requests_of(&status.requests);
        self.page.overload = overload_of(&status.requests);
        self.page.checks = checks_of(&status.checks);
        let last = status.checks.last;
        self.page.checked = padded(last.map_or("", |last| last.algorithm.name()));
    }
}

/// Whether the router gives the card work.
fn is_in_use(status: &LaneStatus) -> bool {
    let closed = matches!(status.breaker, breaker::State::Closed { .. });
    status.state == Some(State::Ready) && closed
}

fn card_state_of(status: &LaneStatus) -> u64 {
    match status.state {
        Some(State::Ready) => card_state::READY,
        Some(State::Gone) => card_state::GONE,
        _ if status.resets == 0 && status.resets_failed == 0 => card_state::STARTING,
        _ => card_state::NEEDS_RESET,
    }
}

pub(super) fn requests_of(requests: &Requests) -> telemetry::Requests {
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
        // What the router made of it, and no evidence about the card: the first two stay with the library,
        // the others have a place of their own.
        hedged: _,
        stragglers: _,
        shed: _,
        overloaded: _,
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

pub(super) fn overload_of(requests: &Requests) -> telemetry::Overload {
    telemetry::Overload {
        shed: requests.shed.into(),
        overloaded: requests.overloaded.into(),
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
        // Handed back without an answer, for what befell others: it found no place, or a reset came.
        Some("timed-out" | "abandoned") => check_result::TIMED_OUT,
        Some("wrong-answer" | "repeated-nonce") => check_result::WRONG_ANSWER,
        Some("session-refused") => check_result::FAILED,
        Some(code) if code.starts_with("status-") => check_result::FAILED,
        Some(_) => check_result::MISBEHAVED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::{Algorithm, DeviceError, DeviceMisbehaved};
    use crate::key::SignatureScheme;
    use card_spec::crypto::Status;
    use std::time::Duration;

    #[test]
    fn a_test_that_the_card_did_not_answer_and_a_key_that_it_refused_break_no_rule() {
        let table = [
            (DeviceError::TimedOut, check_result::TIMED_OUT),
            (DeviceError::Abandoned, check_result::TIMED_OUT),
            (DeviceError::Failed(Status::ERR), check_result::FAILED),
            (
                DeviceError::SessionRefused(Status::NOSPC),
                check_result::FAILED,
            ),
            (
                DeviceError::Misbehaved(DeviceMisbehaved::WrongAnswer),
                check_result::WRONG_ANSWER,
            ),
            (
                DeviceError::Misbehaved(DeviceMisbehaved::RingStuck),
                check_result::MISBEHAVED,
            ),
            (DeviceError::Gone, check_result::MISBEHAVED),
        ];
        for (error, result) in table {
            let end = CheckEnd {
                algorithm: Algorithm::Sign(SignatureScheme::RsaPssSha256),
                at: Instant::ORIGIN,
                latency: Duration::ZERO,
                failure: Some(error.code()),
            };
            assert_eq!(check_result_of(end), result, "{error}");
        }
    }
}
