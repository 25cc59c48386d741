//! What a terminator has done: a JSON document a second, and a line at the end.

use crate::cli::output::Failure;
use crate::cli::usable::{News, Usability};
use crate::cli::verifying;
use hwshim::acceptor::Handshakes;
use hwshim::clock::{Clock as _, Instant, SystemClock};
use hwshim::router::Router;
use hwshim::router::breaker::State;
use hwshim::router::core::{LaneStatus, Requests};
use hwshim::router::verify::eights::{Counts, Eights};
use hwshim::terminator::{Connections, Watch};
use serde::Serialize;
use std::net::SocketAddr;

/// Reads counters and remembers what they were.
pub(super) struct Reporter {
    listening: SocketAddr,
    watch: Watch,
    router: Router,
    began: Instant,
    last: (Instant, u64),
    in_trouble: bool,
    told_of_mistake: bool,
    usability: Usability,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    listening: SocketAddr,
    uptime_ms: u128,
    connections: Connections,
    handshakes: Handshakes,
    /// Why the last handshake failed; `null` if none has.
    last_failure: Option<String>,
    /// Completed since the last report.
    handshakes_per_second: f64,
    /// Where the router's signatures came from.
    signatures: Requests,
    accelerators: Vec<Accelerator>,
    /// Of signatures that are verified eight at a time; `null` where each is by itself.
    eights: Option<VerifiedInEights>,
    /// Documents that were dropped before this one, as nobody read them.
    reports_dropped: u64,
}

#[derive(Serialize)]
struct VerifiedInEights {
    signatures: u64,
    /// Of crypto_mb, with up to eight signatures each.
    calls: u64,
    /// It called a right signature wrong, and is not asked any more.
    mistaken: bool,
}

impl From<&Eights> for VerifiedInEights {
    fn from(eights: &Eights) -> Self {
        let Counts { calls, signatures } = eights.counts();
        Self {
            signatures,
            calls,
            mistaken: eights.is_mistaken(),
        }
    }
}

#[derive(Serialize)]
struct Accelerator {
    address: String,
    /// `closed` means that work goes there.
    breaker: &'static str,
    breaker_opened: u64,
    /// Why it was last taken out of use; empty if it never was.
    breaker_opened_by: &'static str,
    requests: Requests,
}

impl From<LaneStatus> for Accelerator {
    fn from(status: LaneStatus) -> Self {
        Self {
            address: status.name,
            breaker: match status.breaker {
                State::Closed { .. } => "closed",
                State::Open { .. } => "open",
                State::HalfOpen => "half-open",
            },
            breaker_opened: status.breaker_opened,
            breaker_opened_by: status.breaker_opened_by,
            requests: status.requests,
        }
    }
}

impl Reporter {
    pub(super) fn new(listening: SocketAddr, watch: Watch, router: Router) -> Self {
        let began = SystemClock.now();
        let meanwhile = match router.status().len() {
            1 => "this CPU signs",
            _ => "others sign",
        };
        Self {
            listening,
            watch,
            router,
            began,
            last: (began, 0),
            in_trouble: false,
            told_of_mistake: false,
            usability: Usability::new(meanwhile),
        }
    }

    /// How things are, as JSON on one line.
    pub(super) fn line(&mut self, reports_dropped: u64) -> Result<String, Failure> {
        serde_json::to_string(&self.report(reports_dropped))
            .map_err(|error| Failure::new("the report cannot be written as JSON", error))
    }

    fn report(&mut self, reports_dropped: u64) -> Report {
        let now = SystemClock.now();
        let handshakes = self.watch.handshakes();
        let (before, completed) = self.last;
        self.last = (now, handshakes.completed);
        Report {
            schema: 1,
            listening: self.listening,
            uptime_ms: now.since(self.began).as_millis(),
            connections: self.watch.connections(),
            handshakes,
            last_failure: self.watch.last_failure(),
            handshakes_per_second: rate(handshakes.completed - completed, before, now),
            signatures: self.router.requests(),
            accelerators: self.router.status().into_iter().map(Into::into).collect(),
            eights: self.router.options().eights.map(Into::into),
            reports_dropped,
        }
    }

    /// What an operator should be told: once, until a second has passed without.
    pub(super) fn trouble(&mut self) -> Option<String> {
        let trouble = self.watch.take_trouble();
        let known = std::mem::replace(&mut self.in_trouble, trouble.is_some());
        trouble.filter(|_| !known)
    }

    /// Which accelerators are not used any more, or again.
    pub(super) fn news_of_accelerators(&mut self) -> Vec<News> {
        self.usability.news(&self.router.status())
    }

    /// That what verifies eight at a time was found to miscalculate: once.
    pub(super) fn mistake(&mut self) -> Option<&'static str> {
        let is_mistaken = self
            .router
            .options()
            .eights
            .is_some_and(Eights::is_mistaken);
        let known = std::mem::replace(&mut self.told_of_mistake, is_mistaken);
        (is_mistaken && !known).then_some(verifying::MISTAKEN)
    }

    /// Connections that have not ended.
    pub(super) fn connections_left(&self) -> u64 {
        self.watch.connections().active
    }

    /// All there was.
    pub(super) fn summary(&self) -> String {
        let now = SystemClock.now();
        let handshakes = self.watch.handshakes();
        let connections = self.watch.connections();
        let signatures = self.router.requests();
        let rate = rate(handshakes.completed, self.began, now);
        let last = self.watch.last_failure();
        let last = last.map_or_else(String::new, |why| format!(" (the last: {why})"));
        format!(
            "{} handshakes ({rate:.0}/s): {} RSA signatures by accelerators, {} by software; {} wrong \
             answers stopped; {} handshakes failed{last}, {} timed out; {} connections, {} for which the \
             backend was not reached",
            handshakes.completed,
            signatures.card,
            signatures.software + handshakes.software + handshakes.mismatched,
            signatures.wrong_answers,
            handshakes.failed,
            handshakes.timed_out,
            connections.accepted,
            connections.unreachable,
        )
    }
}

fn rate(count: u64, from: Instant, to: Instant) -> f64 {
    let seconds = to.since(from).as_secs_f64();
    // Counts of a process stay far below where a float has gaps.
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
