//! What becomes of the connections of a terminator, counted. Handshakes are counted by the acceptor.

use super::relay::End;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections of a terminator.
///
/// At any instant `accepted = active + closed + idle + broken + unreachable` and those that ended
/// without a handshake or were cut off, where the figures are read one after the other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Connections {
    /// TCP connections accepted.
    pub accepted: u64,
    /// Not ended yet.
    pub active: u64,
    /// Ended by both sides.
    pub closed: u64,
    /// Ended because nothing came for too long, or nothing was under way when all were to end.
    pub idle: u64,
    /// One side broke off. Many clients do that with a connection that they keep and do not need.
    pub broken: u64,
    /// Ended because the backend could not be reached.
    pub unreachable: u64,
    /// Times that the system had no descriptor or memory for another connection.
    pub not_accepted: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    accepted: AtomicU64,
    active: AtomicU64,
    closed: AtomicU64,
    idle: AtomicU64,
    broken: AtomicU64,
    unreachable: AtomicU64,
    not_accepted: AtomicU64,
    trouble: Mutex<Option<String>>,
    failure: Mutex<Option<String>>,
}

impl Counts {
    pub(super) fn read(&self) -> Connections {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Connections {
            accepted: read(&self.accepted),
            active: read(&self.active),
            closed: read(&self.closed),
            idle: read(&self.idle),
            broken: read(&self.broken),
            unreachable: read(&self.unreachable),
            not_accepted: read(&self.not_accepted),
        }
    }

    pub(super) fn accepted(&self) -> Active<'_> {
        add(&self.accepted);
        add(&self.active);
        Active(self)
    }

    pub(super) fn ended(&self, end: &End) {
        add(match end {
            End::Closed => &self.closed,
            End::Idle => &self.idle,
            End::Broken => &self.broken,
        });
    }

    pub(super) fn unreachable(&self, why: String) {
        add(&self.unreachable);
        self.say(why);
    }

    pub(super) fn not_accepted(&self, why: String) {
        add(&self.not_accepted);
        self.say(why);
    }

    /// Why a handshake failed, which the acceptor counts.
    pub(super) fn not_shaken(&self, why: String) {
        *lock(&self.failure) = Some(why);
    }

    /// Why the last that failed did.
    pub(super) fn last_failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// What went wrong last since this was asked, for the operator.
    pub(super) fn take_trouble(&self) -> Option<String> {
        lock(&self.trouble).take()
    }

    fn say(&self, why: String) {
        *lock(&self.trouble) = Some(why);
    }
}

fn lock(text: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// A connection that has not ended.
pub(super) struct Active<'a>(&'a Counts);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
