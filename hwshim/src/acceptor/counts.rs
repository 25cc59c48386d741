//! What becomes of handshakes, counted.

use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_rustls::server::TlsStream;

/// Handshakes of an acceptor, and their signatures.
///
/// At any instant `accepted = completed + failed + timed_out + cancelled + under_way`, where the
/// figures are read one after the other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Handshakes {
    /// Handshakes begun.
    pub accepted: u64,
    /// Ended with a connection: `tls12 + tls13`.
    pub completed: u64,
    /// Of those, by TLS 1.2.
    pub tls12: u64,
    /// Of those, by TLS 1.3.
    pub tls13: u64,
    /// Of those completed: of a session that the client had from before, without a signature.
    pub resumed: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Not over by the time allowed.
    pub timed_out: u64,
    /// Given up by whoever accepted.
    pub cancelled: u64,
    /// Not ended yet.
    pub under_way: u64,
    /// Signatures that the router made, and that were released into the message they are of. The
    /// router's own counters say which of them a card made.
    pub offloaded: u64,
    /// Signatures that software made at once, as the router was not worth it.
    pub software: u64,
    /// Signatures that the router made in vain: the step when taken again was another one, so
    /// software signed, or nobody. A few are normal when a certificate is exchanged under load.
    pub mismatched: u64,
    /// Steps taken in the pool of blocking threads, as the configuration lacks our provider.
    pub pooled: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    accepted: AtomicU64,
    completed: AtomicU64,
    tls12: AtomicU64,
    tls13: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
    under_way: AtomicU64,
    offloaded: AtomicU64,
    software: AtomicU64,
    mismatched: AtomicU64,
    pooled: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> Handshakes {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Handshakes {
            accepted: read(&self.accepted),
            completed: read(&self.completed),
            tls12: read(&self.tls12),
            tls13: read(&self.tls13),
            resumed: read(&self.resumed),
            failed: read(&self.failed),
            timed_out: read(&self.timed_out),
            cancelled: read(&self.cancelled),
            under_way: read(&self.under_way),
            offloaded: read(&self.offloaded),
            software: read(&self.software),
            mismatched: read(&self.mismatched),
            pooled: read(&self.pooled),
        }
    }

    fn completed(&self, connection: &ServerConnection) {
        add(match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => &self.tls12,
            // rustls knows no other.
            _ => &self.tls13,
        });
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            add(&self.resumed);
        }
        add(&self.completed);
    }

    pub(super) fn offloaded(&self) {
        add(&self.offloaded);
    }

    pub(super) fn software(&self) {
        add(&self.software);
    }

    pub(super) fn mismatched(&self) {
        add(&self.mismatched);
    }

    pub(super) fn pooled(&self) {
        add(&self.pooled);
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// A handshake under way. Dropped without an end, it was given up.
pub(super) struct UnderWay {
    counts: Arc<Counts>,
    ended: bool,
}

impl UnderWay {
    pub(super) fn begin(counts: &Arc<Counts>) -> Self {
        add(&counts.accepted);
        add(&counts.under_way);
        Self {
            counts: Arc::clone(counts),
            ended: false,
        }
    }

    pub(super) fn end<IO>(mut self, outcome: &io::Result<TlsStream<IO>>) {
        let counts = &self.counts;
        match outcome {
            Ok(stream) => counts.completed(stream.get_ref().1),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => add(&counts.timed_out),
            Err(_) => add(&counts.failed),
        }
        self.ended = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended {
            add(&self.counts.cancelled);
        }
        self.counts.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
