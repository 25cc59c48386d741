//! Certificates read again, on a thread that may wait for the disk as long as that takes.
//!
//! One reading at a time: a signal that comes meanwhile has them read once more after it, since what
//! it is about may have come too late for the first.

use super::lines::Voice;
use hwshim::clock::Instant;
use hwshim::terminator::{CertificateError, Certificates, ExposedKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// Certificates that were read again, or were to be.
pub(super) struct Reloaded {
    /// How many there are.
    pub(super) count: Result<usize, CertificateError>,
    /// Also if another file than theirs is wrong.
    pub(super) exposed_keys: Vec<ExposedKey>,
}

pub(super) struct Reloads<'a> {
    certificates: &'a Arc<Certificates>,
    under_way: Option<Reading>,
    /// Since when somebody wants them read once more.
    again: Option<Instant>,
}

struct Reading {
    outcome: JoinHandle<Reloaded>,
    /// When it was asked for.
    asked: Instant,
}

impl<'a> Reloads<'a> {
    pub(super) const fn of(certificates: &'a Arc<Certificates>) -> Self {
        Self {
            certificates,
            under_way: None,
            again: None,
        }
    }

    /// Somebody wants them read again.
    pub(super) fn ask(&mut self, now: Instant, voice: &mut Voice) {
        let Some(reading) = &self.under_way else {
            self.begin(now);
            return;
        };
        self.again.get_or_insert(now);
        // Whole seconds: what is told by more of them is not told better.
        let since = Duration::from_secs(now.since(reading.asked).as_secs());
        let since = humantime::format_duration(since);
        voice.warn(format_args!(
            "certificates are still being read since a SIGHUP {since} ago, and will be once more after \
             that"
        ));
    }

    fn begin(&mut self, asked: Instant) {
        let certificates = Arc::clone(self.certificates);
        let outcome = spawn_blocking(move || Reloaded {
            count: certificates.reload(),
            exposed_keys: certificates.exposed_keys(),
        });
        self.under_way = Some(Reading { outcome, asked });
    }

    /// Waits until a reading ends, for ever if there is none. Dropped before, it loses nothing.
    pub(super) async fn end(&mut self) -> Result<Reloaded, JoinError> {
        let Some(reading) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let outcome = (&mut reading.outcome).await;
        self.under_way = None;
        if let Some(asked) = self.again.take() {
            self.begin(asked);
        }
        outcome
    }
}
