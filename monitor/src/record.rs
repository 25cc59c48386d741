//! What of a poll is kept: which changes are events, and which figures are samples.
//!
//! It writes nothing; a [`Keeper`] does. It is told what a poll found and answers with what is to be
//! on record before anybody is shown that poll.
//!
//! | kind | severity | about | when |
//! |---|---|---|---|
//! | `start`, `stop` | notice; a warning after a run that did not stop | `monitor` | this program begins and ends |
//! | `transition` | alert to unavailable and unreachable, warning to unknown, else notice | the card | a verdict gives way to another |
//! | `blind`, `sees-again` | warning, notice | the card | a probe sees nothing in two polls in a row, and sees again |
//! | `warning`, `warning-over` | warning, notice | the card | it flaps, or a sensor is past a limit; and no more |
//! | `host-starved` | warning; a notice if pressure was the only sign | `host` | a time ended in which the host gave too little |
//! | `clock-step` | warning | `monitor` | the calendar was set |
//! | `service-transition` | alert to gone and to a leak that pages, else a warning; a notice when well | the service | its standing or cause gives way to another |
//! | `host-transition` | warning, notice when well | `host` | what is at fault with it gives way to another |
//! | `oom-kill` | alert | `host` | processes were killed for want of memory |
//! | `firmware` | warning outside a change window, else notice | the card | it is seen for the first time, or another |
//! | `software` | notice | the card, the service, `host`, `monitor` | a driver, a service, the kernel, this program or its configuration is seen for the first time, or another |
//! | `owner-changed`, `service-restarted` | notice | the card, the service | another process takes its place |
//! | `incident-*` | | | see [`casebook`] |
//! | `history-archived` | notice | `monitor` | the file of events was full, and another was begun |
//! | `history-gap` | alert | `monitor` | events could not be recorded for a while |
//! | `change-*`, `change` | | | see [`lock`](crate::lock) |

pub mod casebook;
mod changes;
pub mod gap;
mod host;
mod keeper;
mod services;
mod versions;
mod warnings;

pub use casebook::Casebook;
pub use host::HostWatch;
pub use keeper::{Figures, Held, Keeper, Kept, said};

use crate::attribution::RecentChanges;
use crate::control::Drained;
use crate::history::{ClockSteps, Event, Recorded, Seq, Severity, Stamp};
use crate::status::{CardStatus, HistoryFigures, Standing, Status};
use crate::verdict::{Cause, Evidence, State, Transition};
use crate::watch::Poll;
use changes::{Changes, recorded, service_changed};
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use warnings::Warnings;

/// This program began.
pub const START: &str = "start";
/// This program ended in an orderly way.
pub const STOP: &str = "stop";
/// A verdict gave way to another.
pub const TRANSITION: &str = "transition";
/// A probe sees nothing.
pub const BLIND: &str = "blind";
/// It sees again.
pub const SEES_AGAIN: &str = "sees-again";
/// A card gives cause for a warning.
pub const WARNING: &str = "warning";
/// It does no more.
pub const WARNING_OVER: &str = "warning-over";
/// The host gave too little for a while.
pub const HOST_STARVED: &str = "host-starved";
/// The calendar was set.
pub const CLOCK_STEP: &str = "clock-step";
/// A service's standing or cause gave way to another.
pub const SERVICE_TRANSITION: &str = "service-transition";
/// What is at fault with the host gave way to something else.
pub const HOST_TRANSITION: &str = "host-transition";
/// Processes were killed for want of memory.
pub const OOM_KILL: &str = "oom-kill";
/// A card's firmware was seen for the first time, or is another.
pub const FIRMWARE: &str = "firmware";
/// A driver, a service, the kernel or this program was seen for the first time, or is another.
pub const SOFTWARE: &str = "software";
/// A card has another process for its owner.
pub const OWNER_CHANGED: &str = "owner-changed";
/// A service was started again.
pub const SERVICE_RESTARTED: &str = "service-restarted";
/// Events could not be recorded for a while.
pub const HISTORY_GAP: &str = "history-gap";

/// Series of how late each poll was, in seconds.
pub const TICK_LATE: &str = "monitor/tick-late-seconds";
/// Series of how starved the host was, from 0 to 7.
pub const HOST_SCORE: &str = "host/score";

/// Polls in a row in which a probe sees nothing before that is an event: a page that is torn once
/// was being written.
const BLIND_POLLS: u32 = 2;
/// What clocks are slewed between two polls without anybody having set one.
const STEP_TOLERANCE: Duration = Duration::from_millis(500);
/// Longest text of one piece of evidence on record, in bytes. It comes from pages that others write,
/// and an event has an end.
const DETAIL_LEN_MAX: usize = 512;
/// Pieces of evidence on record.
const EVIDENCE_MAX: usize = 12;

/// What is on record of a transition.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TransitionBody {
    /// What the card was.
    pub from: State,
    /// What it became.
    pub to: State,
    /// What is at fault.
    pub cause: Cause,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Whether an operator had drained the card, so that nobody was to be alarmed.
    #[serde(default)]
    pub drained: bool,
}

/// What is on record of a service's transition.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceTransitionBody {
    /// How far one got with it.
    pub from: Standing,
    /// How far one gets.
    pub to: Standing,
    /// What was at fault.
    pub cause_before: Cause,
    /// What is.
    pub cause: Cause,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Codes that fit.
    pub codes: Vec<u8>,
    /// Whether an operator had drained its card, so that nobody was to be alarmed.
    pub drained: bool,
}

/// What is on record of a host that became well or unwell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HostTransitionBody {
    /// What was at fault.
    pub from: Cause,
    /// What is.
    pub to: Cause,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Codes that fit.
    pub codes: Vec<u8>,
}

/// What is on record of processes that were killed for want of memory.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OomKillBody {
    /// How many since the last poll.
    pub killed: u64,
    /// How many since the host is watched.
    pub since_watched: u64,
    /// What memory was left after that.
    pub memory_available_bytes: Option<u64>,
}

/// What is on record of a card's firmware.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FirmwareBody {
    /// What it was; `None` if the card was never seen before.
    pub from: Option<String>,
    /// What it is.
    pub to: String,
    /// Whether a change window was open, or it is the first that is known.
    pub expected: bool,
}

/// What is on record of software, or of a configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SoftwareBody {
    /// What of the subject: `kernel`, `driver`, `version`, `configuration`.
    pub what: String,
    /// What it was; `None` if it was never seen before.
    pub from: Option<String>,
    /// What it is.
    pub to: String,
    /// Whether a change window was open, or it is the first that is known.
    pub expected: bool,
}

/// Something that is what it is as long as this program runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installed {
    /// Of what: `host`, `monitor`.
    pub subject: String,
    /// What: `kernel`, `version`, `configuration`.
    pub what: String,
    /// Which.
    pub version: String,
}

impl Installed {
    /// A version.
    #[must_use]
    pub fn new(subject: &str, what: &str, version: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            what: what.to_owned(),
            version: version.trim().to_owned(),
        }
    }

    /// A file, which is another when its content is: the beginning of its SHA-256 names it.
    #[must_use]
    pub fn file(subject: &str, what: &str, content: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, content);
        let sum = crate::report::hex(&digest.as_ref()[..8]);
        Self::new(subject, what, &format!("sha256 {sum}"))
    }
}

/// What is on record of a card's new owner.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OwnerBody {
    /// Process that was its owner.
    pub from: u32,
    /// Process that is.
    pub to: u32,
}

/// What is on record of a service that was started again.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceRestartBody {
    /// How often that was since the monitor started.
    pub restarts: u64,
    /// Its process, if it was seen.
    pub pid: Option<u32>,
}

/// What is on record of a probe that is blind, or no longer is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BlindBody {
    /// Which probe.
    pub probe: String,
    /// `absent`, `unreadable`, `nonsense` or `torn`; when it sees again, of the time before.
    pub kind: String,
    /// How long it was blind, once that is known.
    pub seconds: Option<f64>,
}

/// What is on record of a warning that begins, or is over.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WarningBody {
    /// Its code.
    pub code: String,
    /// What was seen when it began; `None` when it is over.
    pub detail: Option<String>,
    /// How long there was one, once that is known.
    pub seconds: Option<f64>,
}

/// What is on record of a time in which the host gave too little.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StarvedBody {
    /// How long it lasted.
    pub seconds: f64,
    /// The worst score, of 7.
    pub score_max: u8,
    /// By which signs.
    pub signs: Vec<String>,
    /// The latest that one of our own polls was in that time.
    pub tick_late_seconds_max: f64,
    /// How long before this event it ended.
    pub ended_seconds_ago: f64,
}

/// What is on record of a beginning.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StartBody {
    /// Version of this program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Time between polls.
    pub interval_seconds: f64,
    /// Where it looks for pages.
    pub telemetry: String,
    /// Whether the run before was stopped; `None` if there was none.
    pub previous_was_stopped: Option<bool>,
    /// How many times as fast as the clock services live, if it is a drill.
    #[serde(default)]
    pub drill_service_time: Option<u32>,
}

/// What is on record of an end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StopBody {
    /// Polls since the beginning.
    pub polls: u64,
}

/// What is on record of a calendar that was set.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StepBody {
    /// How far forward; backward if negative.
    pub seconds: f64,
}

/// What is on record of a time in which nothing could be recorded.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct GapBody {
    /// What kept us.
    pub why: String,
    /// For how long.
    pub seconds: f64,
    /// Events that are recorded late, after this one.
    pub late: u64,
    /// Events that are lost.
    pub lost: u64,
}

/// Decides what is kept.
#[derive(Debug)]
pub struct Recorder {
    steps: ClockSteps,
    blind: BTreeMap<(String, String), Blindness>,
    errors: BTreeMap<(String, String, String), u64>,
    host: HostWatch,
    changes: Changes,
    warnings: Warnings,
    casebook: Casebook,
    installed: Vec<Installed>,
    recent: Arc<RecentChanges>,
}

/// What is known beside a poll.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// How much later than it was due the poll came.
    pub late: Duration,
    /// Cards that an operator wants without work: of those nobody is alarmed.
    pub drained: &'a BTreeMap<String, Drained>,
    /// Whether a change window is open.
    pub window: bool,
    /// How the history was when it was last asked, if it was.
    pub history: Option<&'a HistoryFigures>,
    /// Codes of what keeps it from being written.
    pub history_codes: &'a [u8],
    /// Events of orders that were recorded since the last poll.
    pub orders: &'a [Event],
}

/// What of earlier runs is on record, each in order.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The latest events of incidents that were opened and closed.
    pub incidents: Vec<Recorded>,
    /// Up to this event there may be more of them, in archives that are elsewhere.
    pub unknown_until: Option<Seq>,
    /// Events of [`casebook::CHANGES`] of the last day.
    pub changes: Vec<Recorded>,
    /// All events of the kind [`FIRMWARE`].
    pub firmware: Vec<Recorded>,
    /// All events of the kind [`SOFTWARE`].
    pub software: Vec<Recorded>,
    /// All events of [`control::KINDS`](crate::control::KINDS), for the desk that takes orders.
    pub orders: Vec<Recorded>,
    /// Whether the run before ended with a stop; `None` if there was none.
    pub was_stopped: Option<bool>,
}

/// A probe that saw nothing in the last poll.
#[derive(Debug)]
struct Blindness {
    since: Instant,
    kind: String,
    polls: u32,
}

impl Recorder {
    /// Starts with nothing seen, and nothing known of what is on record.
    #[must_use]
    pub fn new(host: HostWatch, installed: Vec<Installed>, now: Stamp) -> Self {
        Self {
            steps: ClockSteps::new(now, STEP_TOLERANCE),
            blind: BTreeMap::new(),
            errors: BTreeMap::new(),
            host,
            changes: Changes::default(),
            warnings: Warnings::default(),
            casebook: Casebook::new(now),
            installed,
            recent: Arc::default(),
        }
    }

    /// Goes on from what is on record, at the start or as soon as it can be read. Returns what is to
    /// be recorded of how the last run ended.
    #[must_use]
    pub fn remember(&mut self, past: &Past, now: Stamp) -> Vec<Event> {
        self.changes.remember(&past.firmware, &past.software);
        for recorded in &past.changes {
            self.take_change(&recorded.event, now);
        }
        Arc::make_mut(&mut self.recent).is_whole();
        self.casebook.remember(past, now)
    }

    /// What of a poll is to be on record before the poll is shown. What only the record knows is
    /// added to the poll: who is drained, which incidents there are.
    pub fn poll(&mut self, poll: &mut Poll, beside: &Beside<'_>, now: Stamp) -> Vec<Event> {
        let mut events = Vec::new();
        // First: what follows has the new time.
        if let Some(nanos) = self.steps.look(now) {
            let seconds = Duration::from_nanos(nanos.unsigned_abs()).as_secs_f64();
            let seconds = if nanos < 0 { -seconds } else { seconds };
            let event = Event::new(now, CLOCK_STEP, "monitor", &StepBody { seconds });
            events.push(event.with_severity(Severity::Warning));
        }
        events.extend(self.host.poll(poll.host, beside.late, now));
        self.blindness(&poll.status, now, &mut events);
        events.extend(transitions(poll, beside, now));
        history_fails(&mut poll.status, beside);
        let (installed, window) = (&self.installed, beside.window);
        events.extend(self.changes.poll(&mut poll.status, installed, window, now));
        for event in beside.orders.iter().chain(&events) {
            self.casebook.changed(event, now);
            self.take_change(event, now);
        }
        let drained = beside.drained.keys().map(|card| &**card).collect();
        events.extend(self.warnings.poll(&poll.status, &drained, now));
        events.extend(self.casebook.poll(&poll.status, &drained, now));
        poll.status.incidents = self.casebook.figures(now.monotonic);
        show_drained(&mut poll.status, beside.drained, now);
        events
    }

    /// What was changed in the last day, for whoever looks for causes; the same [`Arc`] until something
    /// else was.
    #[must_use]
    pub const fn recent_changes(&self) -> &Arc<RecentChanges> {
        &self.recent
    }

    fn take_change(&mut self, event: &Event, now: Stamp) {
        if let Some(changed) = casebook::as_evidence(event, now) {
            Arc::make_mut(&mut self.recent).take(changed, now.monotonic);
        }
    }

    /// What is still to be on record when the program ends.
    pub fn end(&mut self, polls: u64, now: Stamp) -> Vec<Event> {
        let mut events: Vec<_> = self.host.end(now).into_iter().collect();
        events.push(Event::new(now, STOP, "monitor", &StopBody { polls }));
        events
    }

    /// The figures of a poll, by series.
    #[must_use]
    pub fn samples(&self, status: &Status, late: Duration) -> Vec<(String, f64)> {
        let mut samples = vec![
            (TICK_LATE.to_owned(), late.as_secs_f64()),
            (HOST_SCORE.to_owned(), f64::from(self.host.score())),
        ];
        samples.extend(self.host.figures());
        let own = status
            .monitor
            .as_ref()
            .and_then(|monitor| monitor.rss_bytes);
        samples.extend(own.map(|bytes| ("monitor/rss-bytes".to_owned(), figure(bytes))));
        status
            .cards
            .iter()
            .for_each(|card| sample(card, &mut samples));
        samples.extend(services::figures(status));
        samples
    }

    fn blindness(&mut self, status: &Status, now: Stamp, events: &mut Vec<Event>) {
        let failed = self.failed(status);
        for ((card, probe), kind) in &failed {
            let at = (card.clone(), probe.clone());
            let blindness = self.blind.entry(at).or_insert_with(|| Blindness {
                since: now.monotonic,
                kind: kind.clone(),
                polls: 0,
            });
            blindness.polls = blindness.polls.saturating_add(1);
            if blindness.polls == BLIND_POLLS {
                events.push(blind(card, probe, blindness, now));
            }
        }
        self.blind.retain(|(card, probe), blindness| {
            let still = failed.contains_key(&(card.clone(), probe.clone()));
            if !still && blindness.polls >= BLIND_POLLS {
                events.push(sees_again(card, probe, blindness, now));
            }
            still
        });
    }

    /// The probes that saw nothing in this poll, by what they were pointed at, with the reason.
    fn failed(&mut self, status: &Status) -> BTreeMap<(String, String), String> {
        let before = std::mem::take(&mut self.errors);
        let mut failed = BTreeMap::new();
        for card in &status.cards {
            for error in &card.probe_errors {
                let (probe, kind) = (error.probe.clone(), error.kind.clone());
                let at = (card.card.clone(), probe.clone(), kind.clone());
                if before.get(&at).copied().unwrap_or(0) < error.count {
                    failed.insert((card.card.clone(), probe), kind);
                }
                self.errors.insert(at, error.count);
            }
        }
        if status.telemetry_error.is_some() {
            let at = ("monitor".to_owned(), "telemetry-directory".to_owned());
            failed.insert(at, "unreadable".to_owned());
        }
        failed
    }
}

/// What became of cards and services.
fn transitions(poll: &Poll, beside: &Beside<'_>, now: Stamp) -> Vec<Event> {
    let is_drained = |card: &str| beside.drained.contains_key(card);
    let cards = poll.transitions.iter();
    let cards = cards.map(|(card, it)| changed(card, it, is_drained(card), now));
    let services = poll.service_transitions.iter().map(|(name, it)| {
        let services = poll.status.services.iter();
        let mut cards = services.filter_map(|it| (it.service == *name).then_some(it.card.as_ref()));
        let drained = cards.next().flatten().is_some_and(|card| is_drained(card));
        service_changed(name, it, &poll.status, drained, now)
    });
    cards.chain(services).collect()
}

/// A history that cannot be written, or read before it is, is a failed check of the host, whether or
/// not it has a code. What is less than that is none: events are on record.
fn history_fails(status: &mut Status, beside: &Beside<'_>) {
    let fails = beside.history.filter(|history| !history.kept);
    let (Some(history), Some(host)) = (fails, &mut status.host) else {
        return;
    };
    host.codes.extend(beside.history_codes);
    host.codes.sort_unstable();
    host.codes.dedup();
    host.advice = crate::checks::advice(&host.codes);
    let why = history.troubles.first();
    let evidence = Evidence {
        code: "history-not-kept".into(),
        detail: why.map_or_else(|| "the history cannot be written".to_owned(), Clone::clone),
    };
    if host.cause == Cause::None {
        // What decided stands first.
        host.cause = Cause::Configuration;
        host.evidence.insert(0, evidence);
    } else {
        host.evidence.push(evidence);
    }
}

/// Shows who is drained, since when and by whom.
fn show_drained(status: &mut Status, drained: &BTreeMap<String, Drained>, now: Stamp) {
    let order_for = |card: &str| {
        let order = drained.get(card)?;
        let seconds = now.wall.since(order.since.wall).as_secs_f64();
        Some((order.by.clone(), seconds))
    };
    for card in &mut status.cards {
        if let Some((by, for_seconds)) = order_for(&card.card) {
            card.drain(by, for_seconds);
        }
    }
    for card in status.without_pages_mut() {
        if let Some((by, for_seconds)) = order_for(&card.card) {
            card.drain(by, for_seconds);
        }
    }
}

fn blind(card: &str, probe: &str, blindness: &Blindness, now: Stamp) -> Event {
    let body = BlindBody {
        probe: probe.to_owned(),
        kind: blindness.kind.clone(),
        seconds: None,
    };
    Event::new(now, BLIND, subject(card), &body).with_severity(Severity::Warning)
}

fn sees_again(card: &str, probe: &str, blindness: &Blindness, now: Stamp) -> Event {
    let body = BlindBody {
        probe: probe.to_owned(),
        kind: blindness.kind.clone(),
        seconds: Some(now.monotonic.since(blindness.since).as_secs_f64()),
    };
    Event::new(now, SEES_AGAIN, subject(card), &body)
}

fn changed(card: &str, transition: &Transition, drained: bool, now: Stamp) -> Event {
    let Transition {
        at: _,
        from,
        to,
        cause,
        evidence,
    } = transition;
    let body = TransitionBody {
        from: *from,
        to: *to,
        cause: *cause,
        evidence: recorded(evidence),
        drained,
    };
    let severity = match to {
        _ if drained => Severity::Notice,
        State::Unavailable | State::Unreachable => Severity::Alert,
        State::Unknown => Severity::Warning,
        State::Connected | State::Disconnected => Severity::Notice,
    };
    Event::new(now, TRANSITION, subject(card), &body).with_severity(severity)
}

/// The event of a beginning.
#[must_use]
pub fn started(body: &StartBody, now: Stamp) -> Event {
    let severity = match body.previous_was_stopped {
        Some(false) => Severity::Warning,
        _ => Severity::Notice,
    };
    Event::new(now, START, "monitor", body).with_severity(severity)
}

fn sample(card: &CardStatus, samples: &mut Vec<(String, f64)>) {
    let owner = card.owner.as_ref();
    let figures = [
        ("page-age-seconds", card.page_age_seconds),
        (
            "heartbeat",
            card.heartbeat.as_ref().map(|beat| f64::from(beat.count)),
        ),
        (
            "owner-rss-bytes",
            owner.and_then(|owner| owner.rss_bytes).map(figure),
        ),
        ("owner-fds", owner.and_then(|owner| owner.fds).map(figure)),
        (
            "owner-threads",
            owner.and_then(|owner| owner.threads).map(figure),
        ),
    ];
    let seen = figures
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    samples.extend(seen.map(|(name, value)| (format!("{}/{name}", card.card), value)));
}

/// A count as a figure: exact up to 2^53, which is nine petabytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are for people and trends"
)]
const fn figure(count: u64) -> f64 {
    count as f64
}

fn subject(card: &str) -> String {
    cut(card, Event::SUBJECT_LEN_MAX).to_owned()
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}

#[cfg(test)]
mod tests;
