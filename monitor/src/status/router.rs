//! Figures of a router that has no card.

use super::RequestFigures;
use card_spec::telemetry::{Overload, Page, Tls};
use hwshim::clock::Instant;
use hwshim::telemetry::is_stale;
use serde::{Deserialize, Serialize};

/// A router without a card, as it said last.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RouterFigures {
    /// What it calls itself.
    pub router: String,
    /// Its process.
    pub pid: u64,
    /// Time since it published; `null` if that is a time to come, from before this host was started
    /// again.
    pub published_seconds_ago: Option<f64>,
    /// Whether it has left without a word, see [`is_stale`].
    #[serde(default)]
    pub stale: bool,
    /// Where the requests went that it was given; what is signed beside it stands in `tls`. What another
    /// accelerator than a card answered is counted as by a card.
    pub requests: RequestFigures,
    /// Of those, what was too many; `null` if its program is too old to say so.
    #[serde(default)]
    pub overload: Option<OverloadFigures>,
    /// TLS that its process terminates; `null` if it does not.
    pub tls: Option<TlsFigures>,
}

/// Requests that were too many.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OverloadFigures {
    /// Answered by software, as accelerators had too much to do.
    pub shed: u64,
    /// Refused, as software had too much to do as well.
    pub overloaded: u64,
}

/// What became of a terminator's connections and handshakes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TlsFigures {
    /// Connections that have not ended.
    pub connections_active: u64,
    /// Handshakes that ended with a connection.
    pub handshakes_completed: u64,
    /// Handshakes that ended with an error.
    pub handshakes_failed: u64,
    /// Handshakes that were not over by the time allowed.
    pub handshakes_timed_out: u64,
}

impl RouterFigures {
    pub(crate) fn new(page: &Page, now: Instant) -> Self {
        let published = Instant::from_nanos(page.owner.published_at_ns.get());
        Self {
            router: page.address(),
            pid: page.owner.pid.get(),
            published_seconds_ago: (published <= now).then(|| now.since(published).as_secs_f64()),
            stale: is_stale(page, now),
            requests: page.requests.into(),
            overload: page.overload().map(OverloadFigures::new),
            tls: page.tls().map(TlsFigures::new),
        }
    }
}

impl OverloadFigures {
    fn new(overload: &Overload) -> Self {
        Self {
            shed: overload.shed.get(),
            overloaded: overload.overloaded.get(),
        }
    }
}

impl TlsFigures {
    fn new(tls: &Tls) -> Self {
        Self {
            connections_active: tls.connections.active.get(),
            handshakes_completed: tls.handshakes.completed.get(),
            handshakes_failed: tls.handshakes.failed.get(),
            handshakes_timed_out: tls.handshakes.timed_out.get(),
        }
    }
}
