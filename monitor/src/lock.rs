//! The change lock: nothing about a card is changed unless somebody opened a window for it.
//!
//! It stops nobody by itself: whoever is about to change something asks, and is told. What it knows
//! is what was recorded, so it survives its process, and it acts on nothing that is not yet on
//! record: its answers are events to append, and only [`ChangeLock::apply`] changes its state.
//!
//! ```text
//!                     unlock: a ticket, a reason, for how long
//!        +--------+ ------------------------------------------> +------+
//!        | LOCKED |                                             | OPEN |
//!        +--------+ <------------------------------------------ +------+
//!            |        relock by hand, or the time is up            |
//!            |                                                     |
//!         attempt: refused, an alert                      attempt: a change, on record
//! ```
//!
//! Time that is up locks by itself, whether or not that could be recorded. A window lasts as long
//! as it was opened for by the host's own clock; over a reboot, by the calendar.

use crate::history::{Event, Seq, Severity, Stamp};
use hwshim::clock::{Instant, nanos};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A window was opened.
pub const UNLOCK: &str = "change-unlock";
/// A window was closed.
pub const RELOCK: &str = "change-relock";
/// Something was to be changed outside a window.
pub const ATTEMPT: &str = "change-attempt";
/// Something was changed in a window.
pub const CHANGE: &str = "change";

/// Attempts that are told apart at most. Whoever makes up names is counted as one.
const ATTEMPTS_MAX: usize = 64;

/// How the lock is set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Longest window: a shift. Who needs more opens another, and says why again.
    pub window_max: Duration,
    /// How long equal attempts are counted before they are told of again.
    pub repeat: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_max: Duration::from_secs(8 * 3_600),
            repeat: Duration::from_secs(60),
        }
    }
}

/// Asks for a window.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unlock {
    /// What permits the change elsewhere: `CHG123`.
    pub ticket: String,
    /// What is going to be changed, and why.
    pub reason: String,
    /// Who asks.
    pub by: String,
    /// For how long, in nanoseconds on record.
    #[serde(rename = "duration_ns", with = "as_nanos")]
    pub duration: Duration,
}

/// Why no window was opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnlockRefused {
    /// Nothing to find the change by.
    #[error("no ticket was named; name the one that permits the change")]
    NoTicket,
    /// Nothing for those who look back.
    #[error("no reason was given; say what is going to be changed")]
    NoReason,
    /// Nothing to do in it.
    #[error("a window of no length opens nothing; say for how long")]
    NoTime,
    /// Longer than a window may be.
    #[error("a window lasts {} minutes at most; open another when it ends", max.as_secs() / 60)]
    TooLong {
        /// How long it may be.
        max: Duration,
    },
    /// There is one.
    #[error("the window of {ticket}, opened by {by}, is still open; close it first: cardmon lock")]
    AlreadyOpen {
        /// Its ticket.
        ticket: String,
        /// Who opened it.
        by: String,
    },
}

/// A time in which changes are allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// The event that opened it.
    pub seq: Seq,
    /// When that was.
    pub opened: Stamp,
    /// What it was opened for.
    pub unlock: Unlock,
}

impl Window {
    /// Whether it is still open.
    fn is_open(&self, now: Stamp) -> bool {
        let duration = self.unlock.duration;
        if now.boot == self.opened.boot {
            let until = self.opened.monotonic.plus(duration);
            self.opened.monotonic <= now.monotonic && now.monotonic < until
        } else {
            // A calendar that was set back must not lengthen it.
            self.opened.wall <= now.wall && now.wall < self.opened.wall.plus(duration)
        }
    }
}

/// Something that somebody is about to change.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Change {
    /// Who.
    pub by: String,
    /// What: `firmware-update`, `reset`, `configure`.
    pub action: String,
    /// Of which card, or of what of the host.
    pub subject: String,
    /// What it was, where that is one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// What became of a change that somebody asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It may be made, once this event is on record.
    Allowed(Event),
    /// It may not. The event is to be recorded, if there is one: equal attempts are counted, and
    /// told of later.
    Refused(Option<Event>),
}

/// What is on record of an attempt.
#[derive(Debug, Deserialize, Serialize)]
struct AttemptBody {
    #[serde(flatten)]
    change: Change,
    /// How often, since it was last told of.
    count: u64,
}

/// What is on record of the end of a window.
#[derive(Debug, Deserialize, Serialize)]
struct RelockBody {
    by: String,
    ticket: String,
}

/// Attempts of one kind since they were last told of.
#[derive(Clone, Copy, Debug)]
struct Repeats {
    since: Instant,
    count: u64,
}

/// The lock. Closed, unless an open window is on record.
#[derive(Debug)]
pub struct ChangeLock {
    settings: Settings,
    window: Option<Window>,
    repeats: BTreeMap<Change, Repeats>,
}

impl ChangeLock {
    /// A closed lock.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            window: None,
            repeats: BTreeMap::new(),
        }
    }

    /// Is closed again, before all that is on record is taken in anew. Attempts are counted on.
    pub fn begin_anew(&mut self) {
        self.window = None;
    }

    /// Takes in an event that is on record, in the order of the record. After a start, all of the
    /// kinds [`UNLOCK`] and [`RELOCK`]; then each that this gave out, once it was appended.
    pub fn apply(&mut self, seq: Seq, event: &Event) {
        match &*event.kind {
            // What cannot be read opens nothing.
            UNLOCK => {
                let unlock = serde_json::from_str(&event.body).ok();
                self.window = unlock.map(|unlock| Window {
                    seq,
                    opened: event.stamp,
                    unlock,
                });
            }
            // One that waited to be recorded closes the window it is about and no later one.
            RELOCK if event.refers_to == self.window.as_ref().map(|window| window.seq) => {
                self.window = None;
            }
            _ => {}
        }
    }

    /// The window that is open now.
    #[must_use]
    pub fn window(&self, now: Stamp) -> Option<&Window> {
        self.window.as_ref().filter(|window| window.is_open(now))
    }

    /// Asks for a window. It is open once the event was appended and applied.
    ///
    /// # Errors
    ///
    /// What is missing. That somebody asked is not recorded: nothing was about to be changed.
    pub fn unlock(&self, unlock: Unlock, now: Stamp) -> Result<Event, UnlockRefused> {
        if let Some(Window { unlock, .. }) = self.window(now) {
            return Err(UnlockRefused::AlreadyOpen {
                ticket: unlock.ticket.clone(),
                by: unlock.by.clone(),
            });
        }
        if unlock.ticket.trim().is_empty() {
            return Err(UnlockRefused::NoTicket);
        }
        if unlock.reason.trim().is_empty() {
            return Err(UnlockRefused::NoReason);
        }
        if unlock.duration.is_zero() {
            return Err(UnlockRefused::NoTime);
        }
        let max = self.settings.window_max;
        if unlock.duration > max {
            return Err(UnlockRefused::TooLong { max });
        }
        Ok(Event::new(now, UNLOCK, "monitor", &unlock).with_severity(Severity::Warning))
    }

    /// Closes the window by hand; nothing if there is none.
    #[must_use]
    pub fn relock(&self, by: &str, now: Stamp) -> Option<Event> {
        let window = self.window.as_ref()?;
        let body = RelockBody {
            by: by.to_owned(),
            ticket: window.unlock.ticket.clone(),
        };
        Some(Event::new(now, RELOCK, "monitor", &body).about(window.seq))
    }

    /// Somebody is about to change something.
    pub fn attempt(&mut self, change: &Change, now: Stamp) -> Answer {
        if let Some(window) = self.window(now) {
            let event = Event::new(now, CHANGE, subject(change), change);
            return Answer::Allowed(event.about(window.seq));
        }
        let full = self.repeats.len() >= ATTEMPTS_MAX && !self.repeats.contains_key(change);
        let change = if full { &others() } else { change };
        if let Some(repeats) = self.repeats.get_mut(change) {
            repeats.count += 1;
            return Answer::Refused(None);
        }
        let since = now.monotonic;
        self.repeats
            .insert(change.clone(), Repeats { since, count: 0 });
        Answer::Refused(Some(attempted(change, 1, now)))
    }

    /// What time has brought: the end of a window, and the number of attempts that were not told
    /// of one by one. To be called now and then, and at the end of a program with `finally`, so
    /// that no count is lost.
    ///
    /// The end of a window is told once, however long it takes to record it: the window is over
    /// all the same, and after a restart it is told again if it is not on record.
    pub fn tick(&mut self, now: Stamp, finally: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let expired = self
            .window
            .as_ref()
            .is_some_and(|window| !window.is_open(now));
        if expired {
            events.extend(self.relock("expiry", now));
            self.window = None;
        }
        let repeat = self.settings.repeat;
        self.repeats.retain(|change, repeats| {
            if !finally && now.monotonic.since(repeats.since) < repeat {
                return true;
            }
            let Repeats { count, .. } = std::mem::replace(
                repeats,
                Repeats {
                    since: now.monotonic,
                    count: 0,
                },
            );
            if count > 0 {
                events.push(attempted(change, count, now));
            }
            // Who goes on is counted on; who has stopped is news again.
            count > 0
        });
        events
    }
}

fn attempted(change: &Change, count: u64, now: Stamp) -> Event {
    let body = AttemptBody {
        change: change.clone(),
        count,
    };
    Event::new(now, ATTEMPT, subject(change), &body).with_severity(Severity::Alert)
}

/// As much of the subject as an event may have as its own; its body has all of it.
fn subject(change: &Change) -> &str {
    let len = change.subject.floor_char_boundary(Event::SUBJECT_LEN_MAX);
    &change.subject[..len]
}

/// Whoever came when the table was full.
fn others() -> Change {
    Change {
        by: "others".to_owned(),
        action: "others".to_owned(),
        subject: "monitor".to_owned(),
        old: None,
        new: None,
    }
}

/// Durations as whole nanoseconds.
mod as_nanos {
    use super::{Duration, nanos};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(nanos(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests;
