//! What the monitor believes at one instant, in the shape in which it is shown: the JSON of the
//! API, of `--json`, and the source of the metrics and of the terminal.
//!
//! These are plain data; nothing is judged or computed by those who show them. What was not seen
//! is `null`, never zero. Times are durations up to the poll, in seconds, because the clock that
//! judges knows no date.

use crate::probe::{Heartbeat, Owner, Process};
use crate::rules::{self, Case};
use crate::verdict::{Cause, Evidence, State};
use card_spec::telemetry::{Breaker, Checks, Page, Requests, breaker_state, check_result};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Version of this shape. It grows only when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Everything.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: String,
    /// The simulation that this monitor runs itself; `null` when cards are not its own.
    pub simulation: Option<Simulation>,
    /// Where this is answered over HTTP.
    pub listen: SocketAddr,
    /// Directory of the telemetry pages.
    pub telemetry: PathBuf,
    /// Why that directory could not be read, if it could not.
    pub telemetry_error: Option<String>,
    /// Pages that are not watched, because there are more than one monitor watches.
    pub pages_not_watched: usize,
    /// Time between polls.
    pub interval_seconds: f64,
    /// Polls so far, this one included.
    pub polls: u64,
    /// Of those, polls that came late.
    pub polls_late: u64,
    /// This process itself.
    pub monitor: Option<ProcessFigures>,
    /// Each card, sorted by the name of its page.
    pub cards: Vec<CardStatus>,
    /// The latest transitions, oldest first.
    pub transitions: Vec<TransitionRecord>,
}

/// A card and its owner that this monitor has started to have something to show.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Simulation {
    /// What to tell people.
    pub notice: String,
    /// Process that plays the card.
    pub card_pid: u32,
    /// Process that owns it.
    pub owner_pid: u32,
}

/// One card.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CardStatus {
    /// Its address; the name of its page while that is not known.
    pub card: String,
    /// Whether this monitor simulates it.
    pub simulated: bool,
    /// Its telemetry page.
    pub page: PathBuf,
    /// How it is.
    pub state: State,
    /// What is at fault.
    pub cause: Cause,
    /// How long it has been in this state.
    pub for_seconds: f64,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Transitions since this monitor started.
    pub transitions: u64,
    /// Age of the page.
    pub page_age_seconds: Option<f64>,
    /// The card's own heartbeat.
    pub heartbeat: Option<HeartbeatFigures>,
    /// Whether the router gives it work.
    pub breaker: Option<BreakerFigures>,
    /// Where requests went.
    pub requests: Option<RequestFigures>,
    /// Known-answer tests.
    pub checks: Option<CheckFigures>,
    /// Resets that the owner caused.
    pub resets: Option<u64>,
    /// Restarts of the firmware that nobody asked for.
    pub silent_reboots: Option<u64>,
    /// The process that owns it.
    pub owner: Option<ProcessFigures>,
    /// Looks in which a probe saw nothing, by probe and kind.
    pub probe_errors: Vec<ProbeErrorCount>,
}

/// The card's own heartbeat.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeartbeatFigures {
    /// Beats since the firmware started.
    pub count: u32,
    /// Whether it is seen to move now.
    pub moving: bool,
    /// Polls in a row that found it unmoved and count against the card.
    pub unmoved_polls: u32,
    /// Its period, as the card states it.
    pub period_seconds: f64,
    /// Drawn anew each time the firmware starts.
    pub boot_id: u32,
    /// Requests seen and answered by each engine, modulo 65536.
    pub engines: Vec<EngineFigures>,
}

/// One engine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EngineFigures {
    /// Requests seen.
    pub requested: u16,
    /// Requests answered.
    pub responded: u16,
}

/// Whether the router gives the card work.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BreakerFigures {
    /// `closed`, `open`, `half-open`, or `undefined`.
    pub state: String,
    /// Times it has opened.
    pub opened: u64,
    /// Evidence code of what opened it last.
    pub opened_by: Option<String>,
}

/// Where requests went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RequestFigures {
    /// Accepted by the router.
    pub submitted: u64,
    /// Answered by a card, and verified.
    pub card: u64,
    /// Answered by software.
    pub software: u64,
    /// Ended with an error, or given up by the caller.
    pub refused: u64,
    /// Not ended yet.
    pub in_flight: u64,
    /// Answered by software after a card had them.
    pub fallbacks: u64,
    /// Not answered by the card in time.
    pub timed_out: u64,
    /// Answered by the card with an error status.
    pub failed: u64,
    /// Breaches of the interface by the card.
    pub misbehaved: u64,
    /// Wrong answers, none of which was released.
    pub wrong_answers: u64,
}

/// Known-answer tests.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CheckFigures {
    /// Begun.
    pub started: u64,
    /// Answered rightly.
    pub passed: u64,
    /// Answered wrongly, late or with an error.
    pub failed: u64,
    /// How the last one ended, e.g. `passed`; `none` before the first.
    pub last_result: String,
    /// How long the last one took.
    pub last_latency_seconds: f64,
}

/// A process.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ProcessFigures {
    /// Process ID.
    pub pid: u32,
    /// Whether it runs; `null` if it could not be seen.
    pub alive: Option<bool>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Processor time since it started.
    pub cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// How often a probe saw nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProbeErrorCount {
    /// Which probe.
    pub probe: String,
    /// `absent`, `unreadable`, `nonsense` or `torn`.
    pub kind: String,
    /// How often.
    pub count: u64,
}

/// A verdict gave way to another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TransitionRecord {
    /// Which card.
    pub card: String,
    /// How long ago.
    pub ago_seconds: f64,
    /// What it was.
    pub from: State,
    /// What it became.
    pub to: State,
    /// What was at fault.
    pub cause: Cause,
    /// Why.
    pub evidence: Vec<Evidence>,
}

impl HeartbeatFigures {
    pub(crate) fn new(beat: &Heartbeat, case: &Case<'_>) -> Self {
        let engines = beat.engines.iter().map(|engine| EngineFigures {
            requested: engine.requested.get(),
            responded: engine.responded.get(),
        });
        Self {
            count: beat.count,
            moving: rules::heartbeat_is_moving(case),
            unmoved_polls: case.memory.pulse().unmoved_polls(),
            period_seconds: beat.period.as_secs_f64(),
            boot_id: beat.boot_id,
            engines: engines.collect(),
        }
    }
}

impl From<&Page> for BreakerFigures {
    fn from(page: &Page) -> Self {
        let Breaker { state, opened, .. } = page.breaker;
        let state = match state.get() {
            breaker_state::CLOSED => "closed",
            breaker_state::OPEN => "open",
            breaker_state::HALF_OPEN => "half-open",
            _ => "undefined",
        };
        let opened_by = page.opened_by();
        Self {
            state: state.to_owned(),
            opened: opened.get(),
            opened_by: (!opened_by.is_empty()).then_some(opened_by),
        }
    }
}

impl From<Requests> for RequestFigures {
    fn from(requests: Requests) -> Self {
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
        } = requests;
        Self {
            submitted: submitted.get(),
            card: card.get(),
            software: software.get(),
            refused: refused.get(),
            in_flight: in_flight.get(),
            fallbacks: fallbacks.get(),
            timed_out: timed_out.get(),
            failed: failed.get(),
            misbehaved: misbehaved.get(),
            wrong_answers: wrong_answers.get(),
        }
    }
}

impl From<Checks> for CheckFigures {
    fn from(checks: Checks) -> Self {
        let last_result = match checks.last_result.get() {
            check_result::NONE => "none",
            check_result::PASSED => "passed",
            check_result::FAILED => "failed",
            check_result::TIMED_OUT => "timed-out",
            check_result::WRONG_ANSWER => "wrong-answer",
            check_result::MISBEHAVED => "misbehaved",
            _ => "undefined",
        };
        Self {
            started: checks.started.get(),
            passed: checks.passed.get(),
            failed: checks.failed.get(),
            last_result: last_result.to_owned(),
            last_latency_seconds: Duration::from_nanos(checks.last_latency_ns.get()).as_secs_f64(),
        }
    }
}

impl ProcessFigures {
    /// A process of which no more than this is known.
    pub(crate) const fn unseen(pid: u32, alive: Option<bool>) -> Self {
        Self {
            pid,
            alive,
            rss_bytes: None,
            cpu_seconds: None,
            fds: None,
            threads: None,
        }
    }

    pub(crate) fn new(pid: u32, owner: &Owner) -> Self {
        match owner {
            Owner::Ended => Self::unseen(pid, Some(false)),
            Owner::Alive(Process {
                id,
                state: _,
                threads,
                fds,
                usage,
            }) => Self {
                pid: id.pid,
                alive: Some(true),
                rss_bytes: usage.map(|usage| usage.rss_bytes),
                cpu_seconds: usage.map(|usage| usage.cpu_time.as_secs_f64()),
                fds: *fds,
                threads: Some(*threads),
            },
        }
    }
}
