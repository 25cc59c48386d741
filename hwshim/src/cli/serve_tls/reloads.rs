//! Certificates read again, on a thread that may wait for the disk as long as that takes.
//!
//! One reading at a time: a signal that comes meanwhile has them read once more after it, since what
//! it is about may have come too late for the first.

use super::lines::Voice;
use hwshim::terminator::{CertificateError, Certificates, ExposedKey};
use std::sync::Arc;
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
    under_way: Option<JoinHandle<Reloaded>>,
    again: bool,
}

impl<'a> Reloads<'a> {
    pub(super) const fn of(certificates: &'a Arc<Certificates>) -> Self {
        Self {
            certificates,
            under_way: None,
            again: false,
        }
    }

    /// Somebody wants them read again.
    pub(super) fn ask(&mut self, voice: &mut Voice) {
        if self.under_way.is_none() {
            self.begin();
        } else if !self.again {
            self.again = true;
            voice.warn(
                "certificates are still being read since the last SIGHUP, and will be once more",
            );
        }
    }

    fn begin(&mut self) {
        let certificates = Arc::clone(self.certificates);
        self.under_way = Some(spawn_blocking(move || Reloaded {
            count: certificates.reload(),
            exposed_keys: certificates.exposed_keys(),
        }));
    }

    /// Waits until a reading ends, for ever if there is none. Dropped before, it loses nothing.
    pub(super) async fn end(&mut self) -> Result<Reloaded, JoinError> {
        let Some(reading) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let outcome = reading.await;
        self.under_way = None;
        if std::mem::take(&mut self.again) {
            self.begin();
        }
        outcome
    }
}
