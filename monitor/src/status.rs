//! What the monitor believes at one instant, in the shape in which it is shown: the JSON of the
//! API, of `--json`, and the source of the metrics and of the terminal.
//!
//! These are plain data; nothing is judged or computed by those who show them. What was not seen
//! is `null`, never zero. Times are durations up to the poll, in seconds, because the clock that
//! judges knows no date.

mod assessment;
mod function;
mod incidents;
mod light;
mod link;
mod memory;
mod qat;
mod router;
mod sensors;

pub use assessment::{
    AssessmentFigures, HypothesisFigures, TestFigures, VetoFigures, WeighingFigures,
};
pub use function::{FunctionDrained, FunctionFigures, VendorCardFigures};
pub use incidents::{ChangeFigures, IncidentFigures, SymptomFigures, VictimFigures};

pub use light::{LightFigures, LoadFigures};
pub use link::{LinkErrors, LinkFigures, LinkRateFigures, PortFigures};
pub use memory::MemoryFigures;
pub use qat::QatFigures;
pub use router::{OverloadFigures, RouterFigures, TlsFigures};
pub(crate) use sensors::warnings as warnings_of_sensors;
pub use sensors::{SensorFigures, SensorUnit};

use crate::checks::Advice;
use crate::incident::Harm;
use crate::leak::{Bound, Correlation, Gate, LeakVerdict, Level, Scope, Speed};
use crate::probe::{Heartbeat, Owner, Process};
use crate::rules::{self, Case};
use crate::verdict::{Cause, Evidence, State};
use card_spec::health::Summary;
use card_spec::telemetry::{Breaker, Checks, Page, Requests, breaker_state, check_result};
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Version of this shape. It grows only when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;
/// Polls that may be missing before what was found last says nothing about now.
pub const STALE_POLLS: u32 = 3;

/// Everything.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: String,
    /// The simulation that this monitor runs itself; `null` when cards are not its own.
    pub simulation: Option<Simulation>,
    /// The drill that is held; `null` when services live by the clock.
    #[serde(default)]
    pub drill: Option<DrillFigures>,
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
    /// Each router that publishes and has no card, sorted by the name of its page. There is nothing to
    /// judge of it.
    #[serde(default)]
    pub routers: Vec<RouterFigures>,
    /// Each QAT card that its kernel driver owns, sorted by address.
    #[serde(default)]
    pub qat: Vec<QatFigures>,
    /// Each card that only the service of its vendor drives, sorted by address.
    #[serde(default)]
    pub functions: Vec<VendorCardFigures>,
    /// The host.
    #[serde(default)]
    pub host: Option<HostFigures>,
    /// What kernel modules have allocated; `null` where the kernel keeps no books of it.
    #[serde(default)]
    pub modules: Option<ModuleFigures>,
    /// Each host service, in the order of the configuration.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// The latest transitions, oldest first.
    pub transitions: Vec<TransitionRecord>,
    /// The latest transitions of services, oldest first.
    #[serde(default)]
    pub service_transitions: Vec<ServiceTransitionRecord>,
    /// What belongs together, the oldest first: all that is open, and what was closed last. Known
    /// while a history is kept.
    #[serde(default)]
    pub incidents: Vec<IncidentFigures>,
    /// The history; `null` where none is kept, or a monitor does not tell.
    #[serde(default)]
    pub history: Option<HistoryFigures>,
    /// Time since this poll, when this was answered; `null` in what is printed at once.
    #[serde(default)]
    pub age_seconds: Option<f64>,
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

/// Whether what is found out is on record.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HistoryFigures {
    /// Whether all events up to this poll are. Else they wait, or some were lost in the last minutes,
    /// and the first trouble says why.
    pub kept: bool,
    /// How many of the last minutes' events are lost.
    #[serde(default)]
    pub lost: u64,
    /// What is wrong, each with what to do about it: of the events first, then what is less, as
    /// figures that are not recorded, or a sink that was not told where the history ends.
    pub troubles: Vec<String>,
    /// What of the past of incidents this run did not go on from, since its archive is elsewhere, each
    /// with what to do about it. Nothing is wrong with that.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

impl HistoryFigures {
    /// What is wrong, as people are told: what keeps events from being recorded is an alarm, and
    /// what is less is none.
    pub fn told(&self) -> impl Iterator<Item = String> {
        let troubles = self.troubles.iter().enumerate();
        troubles.map(|(index, trouble)| {
            let is_alarming = index == 0 && !self.kept;
            let alarm = if is_alarming { "ALARM: " } else { "" };
            format!("{alarm}the history: {trouble}")
        })
    }

    /// What is wrong, but for what keeps events from being recorded.
    pub fn lesser(&self) -> impl Iterator<Item = &String> {
        self.troubles.iter().skip(usize::from(!self.kept))
    }
}

/// What services hold is judged as if their time went faster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DrillFigures {
    /// How many times faster than the clock.
    pub service_time: u32,
    /// What to tell people.
    pub notice: String,
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
    /// What was weighed; `null` from a monitor that does not tell.
    #[serde(default)]
    pub assessment: Option<AssessmentFigures>,
    /// Codes that fit, ascending.
    #[serde(default)]
    pub codes: Vec<u8>,
    /// What each of them means, and what to do.
    #[serde(default)]
    pub advice: Vec<Advice>,
    /// What it says it is; `null` while its page says nothing.
    #[serde(default)]
    pub identity: Option<IdentityFigures>,
    /// Who wants it without work, if anybody does. Its state is then `disconnected`.
    #[serde(default)]
    pub drained: Option<DrainedFigures>,
    /// What its kernel driver measures; empty where it measures nothing, or nobody could look.
    #[serde(default)]
    pub sensors: Vec<SensorFigures>,
    /// How it is connected; `null` for one without a PCI function, or that could not be looked at.
    #[serde(default)]
    pub link: Option<LinkFigures>,
    /// What its light says; `null` where nobody has said whose lights it shines like.
    #[serde(default)]
    pub light: Option<LightFigures>,
    /// What to be warned of though it decides nothing by itself, one of each code.
    #[serde(default)]
    pub warnings: Vec<Evidence>,
    /// Its kernel driver with its version; `null` where it has none.
    #[serde(default)]
    pub driver: Option<String>,
}

/// What a card says it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IdentityFigures {
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Its firmware's revision.
    pub firmware: String,
}

/// A card without work, by an operator's order.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainedFigures {
    /// Who ordered it.
    pub by: String,
    /// How long ago, by the calendar.
    pub for_seconds: f64,
    /// How the card would read without the order.
    pub otherwise: State,
    /// What would be at fault then.
    pub otherwise_cause: Cause,
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
    /// How long ago it ended; `null` before the first.
    #[serde(default)]
    pub last_age_seconds: Option<f64>,
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

/// The host.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HostFigures {
    /// All its memory.
    pub memory_total_bytes: Option<u64>,
    /// Of that, what programs could be given without swapping.
    pub memory_available_bytes: Option<u64>,
    /// Of that, what no counter of the kernel accounts for. Its level means little, its growth does.
    pub memory_unaccounted_bytes: Option<i64>,
    /// Whether that only ever grows: pages that drivers hold, whichever do. `null` where it is not known.
    #[serde(default)]
    pub driver_pages: Option<LeakFigures>,
    /// Processes that were killed for want of memory since it is watched: victims.
    pub oom_kills: u64,
    /// What is at fault with it.
    #[serde(default = "nothing")]
    pub cause: Cause,
    /// How long that has been so.
    #[serde(default)]
    pub for_seconds: f64,
    /// How starved it is, of 7; `null` from a monitor that does not tell.
    #[serde(default)]
    pub starvation: Option<u8>,
    /// Why, what decided first.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Codes that fit, ascending.
    #[serde(default)]
    pub codes: Vec<u8>,
    /// What each of them means, and what to do.
    #[serde(default)]
    pub advice: Vec<Advice>,
}

/// What kernel modules have allocated.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ModuleFigures {
    /// What is believed of each module that has, or had, more than a little, by name.
    pub leaks: Vec<LeakFigures>,
    /// Why the books could not be read, if they could not.
    pub error: Option<String>,
}

const fn nothing() -> Cause {
    Cause::None
}

/// How far one gets with a service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It answers.
    Answers,
    /// It answers that it would not.
    Declines,
    /// Its process is there, and nobody said where to ask it; or it is being asked for the first
    /// time.
    Runs,
    /// It is connected to and does not answer, or takes no connection.
    Silent,
    /// Nobody listens.
    Refused,
    /// Its process is not there.
    Gone,
    /// It could not be seen, or not yet.
    Unknown,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Answers,
        Self::Declines,
        Self::Runs,
        Self::Silent,
        Self::Refused,
        Self::Gone,
        Self::Unknown,
    ];

    /// Its name, the same in the terminal, in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Declines => "declines",
            Self::Runs => "runs",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// One host service.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Its name in the configuration.
    pub service: String,
    /// The card it serves.
    pub card: Option<String>,
    /// How far one gets with it.
    pub standing: Standing,
    /// What is at fault.
    pub cause: Cause,
    /// Who harmed it, if it is away and that is why: it is not at fault then, and `cause` says only what
    /// it looks like by itself.
    #[serde(default)]
    pub victim: Option<VictimOf>,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Codes that fit, as listed with what to do about them.
    pub codes: Vec<u8>,
    /// How long it has had this standing and cause.
    pub for_seconds: f64,
    /// Its process; `null` while there is none.
    pub process: Option<ServiceFigures>,
    /// Times that another process took its place since this monitor started.
    pub restarts: u64,
    /// The version that it says it has.
    #[serde(default)]
    pub version: Option<String>,
    /// How long its last answer took.
    pub answer_seconds: Option<f64>,
    /// What came of the last known-answer test through it; `null` if there was none.
    #[serde(default)]
    pub known_answer: Option<KnownAnswerFigures>,
    /// What the kernel holds for its control group.
    pub kernel: Option<KernelFigures>,
    /// What is believed of each resource that it holds, in the order in which they were
    /// first seen.
    pub leaks: Vec<LeakFigures>,
    /// What may explain how much it holds; `null` if it was not seen yet.
    #[serde(default)]
    pub load: Option<ServiceLoadFigures>,
    /// What was weighed; `null` from a monitor that does not tell.
    #[serde(default)]
    pub assessment: Option<AssessmentFigures>,
    /// What each of the codes means, and what to do.
    #[serde(default)]
    pub advice: Vec<Advice>,
}

/// What a service does, which may explain how much it holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceLoadFigures {
    /// How many were ever opened, or how many operations were done.
    pub opens: Option<u64>,
    /// How many of these failed.
    pub failed_opens: Option<u64>,
    /// How many commands it was ever given, by its own account.
    pub commands: Option<u64>,
    /// Work at hand.
    pub outstanding: Option<f64>,
    /// Whether its card was away.
    pub card_absent: bool,
}

/// The last known-answer test through a service.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KnownAnswerFigures {
    /// What came of it.
    pub result: KnownAnswerResult,
    /// How long ago.
    pub age_seconds: f64,
    /// How long it took, if the answer was right.
    pub took_seconds: Option<f64>,
    /// What was said, if it was not.
    pub detail: Option<String>,
}

/// What came of a known-answer test through a service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownAnswerResult {
    /// The answer was the known one.
    Right,
    /// It was another one.
    Wrong,
    /// It was an error.
    Refused,
    /// There was none.
    Lost,
    /// The service has no such test, and is not asked for one again.
    Declined,
    /// What it said was no answer.
    Unreadable,
}

impl KnownAnswerResult {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Right,
        Self::Wrong,
        Self::Refused,
        Self::Lost,
        Self::Declined,
        Self::Unreadable,
    ];

    /// Its name, the same in the terminal, in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Declined => "declined",
            Self::Unreadable => "unreadable",
        }
    }
}

/// By what, and by whom, a service was harmed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VictimOf {
    /// By what.
    pub harm: Harm,
    /// The service that leaks; `null` where none is known to, and the host wants memory.
    pub of: Option<String>,
}

/// What a service's process holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceFigures {
    /// Process ID.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time_ticks: u64,
    /// State letter, e.g. `S` sleeping, `D` in uninterruptible sleep, `T` stopped.
    pub state: char,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Of that, what is no file.
    pub rss_anon_bytes: Option<u64>,
    /// Pinned for devices.
    pub pinned_bytes: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// Of those, sockets.
    pub sockets: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// Local TCP ports.
    pub tcp_ports: Option<u64>,
    /// Locked in memory.
    #[serde(default)]
    pub locked_bytes: Option<u64>,
    /// Swapped out.
    #[serde(default)]
    pub swapped_bytes: Option<u64>,
    /// TCP sockets by state, as ss(8) calls these, read within the last two minutes; empty if they could
    /// not be read.
    #[serde(default)]
    pub tcp_states: BTreeMap<String, u64>,
    /// Connections that waited to be accepted when those were read.
    #[serde(default)]
    pub accept_queue: Option<u64>,
    /// Connections of its network namespace that ever found such a queue full.
    #[serde(default)]
    pub listen_overflows: Option<u64>,
}

/// What the kernel holds for a control group; `null` is what it does not say.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KernelFigures {
    /// Which group.
    pub cgroup: String,
    /// All of it, but for the buffers of sockets.
    pub total_bytes: Option<u64>,
    /// Stacks of threads.
    pub stack_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// Memory that each CPU has for itself.
    pub percpu_bytes: Option<u64>,
    /// Buffers of sockets.
    pub sockets_bytes: Option<u64>,
    /// Mapped piece by piece.
    pub vmalloc_bytes: Option<u64>,
    /// Objects that it can give back.
    pub slab_reclaimable_bytes: Option<u64>,
    /// Objects that it cannot.
    pub slab_unreclaimable_bytes: Option<u64>,
}

/// What something is counted in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

/// What is believed of a resource.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LeakFigures {
    /// Which resource, e.g. `descriptors`.
    pub resource: String,
    /// What it is counted in.
    pub unit: Unit,
    /// Whose it is: the service's own, or of the whole host.
    pub scope: Scope,
    /// How bad it is.
    pub level: Level,
    /// Which rule says so; `null` while none had enough to go by.
    pub rule: Option<Speed>,
    /// What is held now.
    pub held: f64,
    /// How much can be, and who says so.
    pub limit: Option<LimitFigures>,
    /// Growth for each hour, and between what it lies with a confidence of 99 %.
    pub rate_per_hour: Option<RateFigures>,
    /// When the limit will be reached.
    pub exhaustion: Option<ExhaustionFigures>,
    /// Probability of such a trend where there is none.
    pub p: Option<f64>,
    /// What was asked of the rise before it was taken for a leak.
    pub gates: Vec<GateFigures>,
    /// Its growth, of that of the host.
    pub share_of_growth: Option<f64>,
    /// Growth for each open that fails, if it grows with those.
    pub per_failed_open: Option<f64>,
    /// Growth for each hour that the card is away, if it grows with that.
    pub per_hour_absent: Option<f64>,
    /// How long ago it began to grow, to ten minutes; `null` where nobody saw it begin.
    #[serde(default)]
    pub began_seconds_ago: Option<f64>,
    /// Whether the card went away when it began.
    #[serde(default)]
    pub began_as_card_went: bool,
    /// What would show that it is no leak, the cheapest first.
    pub falsified_by: Vec<String>,
}

#[cfg(test)]
impl LeakFigures {
    /// Of a service, with nothing known but how bad it is, for tests that say the rest.
    pub(crate) fn bare(resource: &str, unit: Unit, level: Level, held: f64) -> Self {
        Self {
            resource: resource.to_owned(),
            unit,
            scope: Scope::Service,
            level,
            rule: None,
            held,
            limit: None,
            rate_per_hour: None,
            exhaustion: None,
            p: None,
            gates: Vec::new(),
            share_of_growth: None,
            per_failed_open: None,
            per_hour_absent: None,
            began_seconds_ago: None,
            began_as_card_went: false,
            falsified_by: Vec::new(),
        }
    }
}

/// How much can be held.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LimitFigures {
    /// So much.
    pub value: f64,
    /// Who says so, e.g. `RLIMIT_NOFILE`.
    pub source: String,
}

/// An estimate with its interval.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct RateFigures {
    /// Lower end.
    pub low: f64,
    /// Best estimate.
    pub middle: f64,
    /// Upper end.
    pub high: f64,
}

/// When a limit will be reached, from the poll on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct ExhaustionFigures {
    /// At the upper end of the rate.
    pub earliest_seconds: f64,
    /// At the lower end; `null` if it may never be.
    pub latest_seconds: Option<f64>,
}

/// One thing that must be so before a rise is taken for a leak.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct GateFigures {
    /// What it asks.
    pub name: String,
    /// Whether it is so.
    pub passed: bool,
    /// What was measured; `null` if that is without end, as time is without growth.
    pub measured: Option<f64>,
    /// What is needed at least.
    pub at_least: Option<f64>,
    /// What is needed at most.
    pub at_most: Option<f64>,
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

/// A service's standing or cause gave way to another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceTransitionRecord {
    /// Which service.
    pub service: String,
    /// How long ago.
    pub ago_seconds: f64,
    /// How far one got with it.
    pub from: Standing,
    /// How far one got from then on.
    pub to: Standing,
    /// What was at fault before.
    pub cause_before: Cause,
    /// What was at fault.
    pub cause: Cause,
    /// Why.
    pub evidence: Vec<Evidence>,
}

impl Status {
    /// Whether it was too old, when this was answered, to say anything about now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let age_max = f64::from(STALE_POLLS) * self.interval_seconds;
        self.age_seconds.is_some_and(|age| age > age_max)
    }

    /// How each card is, whoever drives it, in the order of [`Self::cards_by_name`].
    pub fn states(&self) -> impl Iterator<Item = State> {
        let cards = self.cards.iter().map(|card| card.state);
        let qat = self.qat.iter().map(QatFigures::state);
        let functions = self.functions.iter().map(|card| card.function.state());
        cards.chain(qat).chain(functions)
    }

    /// The names of all cards, whoever drives them.
    pub fn cards_by_name(&self) -> impl Iterator<Item = &str> {
        let cards = self.cards.iter().map(|card| &*card.card);
        cards.chain(self.without_pages().map(|card| &*card.card))
    }

    /// Cards of which no owner publishes a page.
    pub fn without_pages(&self) -> impl Iterator<Item = &FunctionFigures> {
        let qat = self.qat.iter().map(|card| &card.function);
        qat.chain(self.functions.iter().map(|card| &card.function))
    }

    /// The same, for who shows more of them.
    pub fn without_pages_mut(&mut self) -> impl Iterator<Item = &mut FunctionFigures> {
        let qat = self.qat.iter_mut().map(|card| &mut card.function);
        qat.chain(self.functions.iter_mut().map(|card| &mut card.function))
    }
}

impl CardStatus {
    /// Shows that an operator wants it without work, and how it would read otherwise.
    pub fn drain(&mut self, by: String, for_seconds: f64) {
        self.drained = Some(DrainedFigures {
            by,
            for_seconds,
            otherwise: self.state,
            otherwise_cause: self.cause,
        });
        self.state = State::Disconnected;
        self.cause = Cause::None;
    }
}

impl IdentityFigures {
    /// What a page says; `None` if it says nothing of it.
    pub(crate) fn of(page: &Page) -> Option<Self> {
        let summary = Summary::parse(&page.health).ok()?;
        let identity = Self {
            model: padded(&summary.model_number),
            serial: padded(&summary.serial_number),
            firmware: padded(&summary.firmware_revision),
        };
        let said = [&identity.model, &identity.serial, &identity.firmware];
        said.iter().any(|text| !text.is_empty()).then_some(identity)
    }
}

/// A text of fixed length, without what fills it up. A card may say anything.
fn padded(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim_matches(|filler: char| filler == '\0' || filler == ' ')
        .to_owned()
}

impl LeakFigures {
    pub(crate) fn new(verdict: &LeakVerdict, unit: Unit, held: f64) -> Self {
        let LeakVerdict {
            resource,
            scope,
            level,
            speed,
            held: _,
            rate_per_hour,
            limit,
            exhaustion,
            p,
            gates,
            share_of_growth,
            grows_with_failed_opens,
            grows_while_absent,
            began,
        } = verdict;
        // What does not rise has not begun to.
        let began = began.filter(|_| *level > Level::Watching);
        let each = |found: &Option<Correlation>| found.and_then(|found| finite(found.each));
        Self {
            resource: resource.to_string(),
            unit,
            scope: *scope,
            level: *level,
            rule: *speed,
            held,
            limit: limit.as_ref().map(|limit| LimitFigures {
                value: limit.value,
                source: limit.source.to_string(),
            }),
            rate_per_hour: rate_per_hour.and_then(|rate| {
                Some(RateFigures {
                    low: finite(rate.low)?,
                    middle: finite(rate.middle)?,
                    high: finite(rate.high)?,
                })
            }),
            exhaustion: exhaustion.map(|left| ExhaustionFigures {
                earliest_seconds: left.earliest.as_secs_f64(),
                latest_seconds: left.latest.map(|latest| latest.as_secs_f64()),
            }),
            p: p.and_then(finite),
            gates: gates.iter().map(GateFigures::from).collect(),
            share_of_growth: share_of_growth.and_then(|share| finite(share.ratio)),
            per_failed_open: each(grows_with_failed_opens),
            per_hour_absent: each(grows_while_absent),
            began_seconds_ago: began.map(|began| began.ago.as_secs_f64()),
            began_as_card_went: began.is_some_and(|began| began.as_card_went),
            falsified_by: verdict
                .falsified_by()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        }
    }
}

impl From<&Gate> for GateFigures {
    fn from(gate: &Gate) -> Self {
        let (at_least, at_most) = match gate.needed {
            Bound::AtLeast(needed) => (Some(needed), None),
            Bound::AtMost(needed) => (None, Some(needed)),
        };
        Self {
            name: gate.name.to_owned(),
            passed: gate.passed,
            measured: finite(gate.measured),
            at_least,
            at_most,
        }
    }
}

/// JSON has no infinity.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
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

impl CheckFigures {
    /// As they are at `now`.
    pub(crate) fn new(checks: Checks, now: Instant) -> Self {
        let last_at_ns = checks.last_at_ns.get();
        let age = now.since(Instant::from_nanos(last_at_ns));
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
            last_age_seconds: (last_at_ns != 0).then_some(age.as_secs_f64()),
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
                cpu_time,
                rss_bytes,
            }) => Self {
                pid: id.pid,
                alive: Some(true),
                rss_bytes: *rss_bytes,
                cpu_seconds: Some(cpu_time.as_secs_f64()),
                fds: *fds,
                threads: Some(*threads),
            },
        }
    }
}
