//! Certificates read again, on a thread that may wait for the disk as long as that takes. Not on one of
//! the runtime's pool, which panics where the system gives it none.
//!
//! One reading at a time: a signal that comes meanwhile has them read once more after it, since what
//! it is about may have come too late for the first.

use crate::cli::lines::Voice;
use hwshim::clock::Instant;
use hwshim::terminator::{CertificateError, Certificates, ExposedKey};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

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
    outcome: oneshot::Receiver<io::Result<Reloaded>>,
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
        let (tell, outcome) = oneshot::channel();
        let read = move || {
            let reloaded = Reloaded {
                count: certificates.reload(),
                exposed_keys: certificates.exposed_keys(),
            };
            // Whoever has ended meanwhile wants none.
            let _ = tell.send(Ok(reloaded));
        };
        let thread = std::thread::Builder::new().name("hwshim-reload".to_owned());
        let outcome = match thread.spawn(read) {
            Ok(_) => outcome,
            Err(error) => failed(&error),
        };
        self.under_way = Some(Reading { outcome, asked });
    }

    /// Waits until a reading ends, for ever if there is none. Dropped before, it loses nothing. An error
    /// is that nothing was read.
    pub(super) async fn end(&mut self) -> io::Result<Reloaded> {
        let Some(reading) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let outcome = (&mut reading.outcome).await;
        self.under_way = None;
        if let Some(asked) = self.again.take() {
            self.begin(asked);
        }
        outcome.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
    }
}

/// The outcome of a reading for which there is no thread.
fn failed(error: &io::Error) -> oneshot::Receiver<io::Result<Reloaded>> {
    let (tell, outcome) = oneshot::channel();
    let why = format!("no thread can be started: {error}");
    // The receiver is here.
    let _ = tell.send(Err(io::Error::new(error.kind(), why)));
    outcome
}
