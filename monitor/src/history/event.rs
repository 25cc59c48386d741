//! One event, and the hash that ties it to all before it.
//!
//! An event's hash is SHA-256 over this, and the event before it goes in by its own hash:
//!
//! ```text
//!   "cardmon event 1\0"   which encoding this is
//!   previous hash         32 bytes, zeros for event 1
//!   seq                   8 bytes
//!   wall, monotonic       8 bytes each, nanoseconds, the first signed
//!   refers to             8 bytes, 0 for none
//!   severity              1 byte
//!   boot, kind, subject,  each a length of 4 bytes, then UTF-8
//!   body
//! ```
//!
//! All numbers are big-endian. Every field has a length of its own or a fixed one, so no two events
//! share an encoding.

use super::time::Stamp;
use ring::digest::{Context, SHA256};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;

const DOMAIN: &[u8] = b"cardmon event 1\0";
/// The hash before the first.
pub(super) const GENESIS: [u8; 32] = [0; 32];

/// Which event: 1, 2, 3, without gaps.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Seq(pub u64);

impl Seq {
    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much an event should disturb somebody.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// For the record.
    Notice,
    /// To be looked at.
    Warning,
    /// Somebody is told.
    Alert,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Notice, Self::Warning, Self::Alert];

    /// Its number in the file.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Notice => 0,
            Self::Warning => 1,
            Self::Alert => 2,
        }
    }

    /// The one with that number.
    #[must_use]
    pub fn numbered(number: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|severity| i64::from(severity.number()) == number)
    }
}

/// Something that happened, to be kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// When.
    pub stamp: Stamp,
    /// How much it matters.
    pub severity: Severity,
    /// What: one stable word, as `transition` or `change-attempt`.
    pub kind: Cow<'static, str>,
    /// To whom: a card's address, `host`, `monitor`.
    pub subject: String,
    /// An earlier event that this one is about.
    pub refers_to: Option<Seq>,
    /// The rest, as JSON. What is kept and hashed is this text, byte for byte.
    pub body: String,
}

impl Event {
    /// Longest kind, in bytes.
    pub const KIND_LEN_MAX: usize = 64;
    /// Longest subject, in bytes.
    pub const SUBJECT_LEN_MAX: usize = 256;
    /// Longest body, in bytes: an event is a sentence with evidence, not a dump.
    pub const BODY_LEN_MAX: usize = 64 * 1024;

    /// An event with `body` as JSON; for the record, and about no other.
    ///
    /// # Panics
    ///
    /// If `body` cannot be JSON, which is for types whose maps have keys that are no strings.
    #[must_use]
    pub fn new(
        stamp: Stamp,
        kind: impl Into<Cow<'static, str>>,
        subject: impl Into<String>,
        body: &impl Serialize,
    ) -> Self {
        Self {
            stamp,
            severity: Severity::Notice,
            kind: kind.into(),
            subject: subject.into(),
            refers_to: None,
            body: serde_json::to_string(body).expect("bodies are structs of plain fields"),
        }
    }

    /// The same event, with that severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// The same event, about an earlier one.
    #[must_use]
    pub fn about(self, seq: Seq) -> Self {
        Self {
            refers_to: Some(seq),
            ..self
        }
    }

    /// Whether it can be kept.
    ///
    /// # Errors
    ///
    /// If it says too much.
    pub fn check(&self) -> Result<(), EventTooLong> {
        let fields = [
            ("kind", self.kind.len(), Self::KIND_LEN_MAX),
            ("subject", self.subject.len(), Self::SUBJECT_LEN_MAX),
            ("body", self.body.len(), Self::BODY_LEN_MAX),
        ];
        match fields.into_iter().find(|(_, len, max)| len > max) {
            None => Ok(()),
            Some((field, len, len_max)) => Err(EventTooLong {
                field,
                len,
                len_max,
            }),
        }
    }

    /// The hash of this event as number `seq`, after one whose hash is `previous`.
    pub(super) fn hash(&self, seq: Seq, previous: &[u8; 32]) -> [u8; 32] {
        let Self {
            stamp,
            severity,
            kind,
            subject,
            refers_to,
            body,
        } = self;
        let mut context = Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(previous);
        context.update(&seq.0.to_be_bytes());
        context.update(&stamp.wall.unix_nanos().to_be_bytes());
        context.update(&stored(stamp.monotonic.as_nanos()).to_be_bytes());
        context.update(&refers_to.map_or(0, |seq| stored(seq.0)).to_be_bytes());
        context.update(&[severity.number()]);
        for text in [&stamp.boot.to_string(), kind.as_ref(), subject, body] {
            let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
            context.update(&len.to_be_bytes());
            context.update(text.as_bytes());
        }
        let digest = context.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// A number as the file keeps it: SQLite's integers are signed, and 292 years of nanoseconds fit.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An event that says too much.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an event's {field} has {len} bytes, and {len_max} are kept; say less, or name a file")]
pub struct EventTooLong {
    /// Which part of it.
    pub field: &'static str,
    /// How long it is.
    pub len: usize,
    /// How long it may be.
    pub len_max: usize,
}

/// An event as it stands in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// Its number.
    pub seq: Seq,
    /// What happened.
    pub event: Event,
    /// Hash of the event before.
    pub prev: [u8; 32],
    /// Its own hash, as the file has it.
    pub hash: [u8; 32],
}

impl Recorded {
    /// Whether its hash is the one its content has, as number `seq`.
    pub(super) fn is_genuine_as(&self, seq: Seq) -> bool {
        self.event.hash(seq, &self.prev) == self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::time::{BootId, WallTime};
    use hwshim::clock::Instant;

    fn event() -> Event {
        let boot: BootId = "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap();
        let stamp = Stamp {
            wall: WallTime::from_unix_nanos(1),
            monotonic: Instant::from_nanos(2),
            boot,
        };
        Event::new(stamp, "kind", "subject", &"body")
            .about(Seq(4))
            .with_severity(Severity::Alert)
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let mut bytes = b"cardmon event 1\0".to_vec();
        bytes.extend([7; 32]);
        for number in [5_u64, 1, 2, 4] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.push(2);
        for text in [
            "01234567-89ab-cdef-0123-456789abcdef",
            "kind",
            "subject",
            "\"body\"",
        ] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        let expected = ring::digest::digest(&SHA256, &bytes);
        assert_eq!(event().hash(Seq(5), &[7; 32]), expected.as_ref());
    }

    #[test]
    fn whatever_is_changed_the_hash_is_another() {
        let original = event();
        let hash = original.hash(Seq(5), &GENESIS);
        let mut others = vec![
            original.hash(Seq(6), &GENESIS),
            original.hash(Seq(5), &[1; 32]),
        ];
        let mut changed = |change: fn(&mut Event)| {
            let mut event = original.clone();
            change(&mut event);
            others.push(event.hash(Seq(5), &GENESIS));
        };
        changed(|event| event.stamp.wall = WallTime::from_unix_nanos(3));
        changed(|event| event.stamp.monotonic = Instant::from_nanos(3));
        changed(|event| event.stamp.boot = BootId::of_this_boot());
        changed(|event| event.severity = Severity::Warning);
        changed(|event| event.refers_to = None);
        changed(|event| event.subject = "subjects".to_owned());
        changed(|event| event.body = "\"Body\"".to_owned());
        // What leaves one field for the next is a change as well.
        changed(|event| {
            event.kind = "kinds".into();
            event.subject = "ubject".to_owned();
        });
        assert!(others.iter().all(|other| *other != hash));
    }
}
