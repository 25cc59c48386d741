//! What a terminator does, as it stands on the telemetry pages of its process.

use super::Watch;
use super::counts::Connections;
use crate::acceptor::Handshakes;
use card_spec::telemetry::{Tls, TlsConnections, TlsHandshakes};

impl Watch {
    /// For a telemetry page: what became of connections and handshakes so far.
    #[must_use]
    pub fn page(&self) -> Tls {
        Tls {
            began_at_ns: self.0.began.as_nanos().into(),
            connections: connections(&self.connections()),
            handshakes: handshakes(&self.handshakes()),
        }
    }
}

fn connections(connections: &Connections) -> TlsConnections {
    let Connections {
        accepted,
        active,
        closed,
        idle,
        broken,
        unreachable,
        not_accepted,
    } = *connections;
    TlsConnections {
        accepted: accepted.into(),
        active: active.into(),
        closed: closed.into(),
        idle: idle.into(),
        broken: broken.into(),
        unreachable: unreachable.into(),
        not_accepted: not_accepted.into(),
    }
}

fn handshakes(handshakes: &Handshakes) -> TlsHandshakes {
    let Handshakes {
        accepted,
        completed,
        tls12,
        tls13,
        resumed,
        failed,
        timed_out,
        cancelled,
        under_way,
        offloaded,
        software,
        mismatched,
        // None, with a configuration of ours.
        pooled: _,
    } = *handshakes;
    TlsHandshakes {
        accepted: accepted.into(),
        completed: completed.into(),
        tls12: tls12.into(),
        tls13: tls13.into(),
        resumed: resumed.into(),
        failed: failed.into(),
        timed_out: timed_out.into(),
        cancelled: cancelled.into(),
        under_way: under_way.into(),
        offloaded: offloaded.into(),
        software: software.into(),
        mismatched: mismatched.into(),
    }
}
