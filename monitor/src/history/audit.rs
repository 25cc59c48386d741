//! Finds out whether the events are still the ones that were recorded.
//!
//! The chain shows edits, deletions and swaps, and where they begin. What it cannot show of itself,
//! that its end is missing or that all of it was written anew, anchors show. Events after the last
//! anchor are vouched for by the chain alone.

use super::anchor::Anchor;
use super::error::{HistoryError, printable};
use super::event::{GENESIS, Recorded, Seq};
use super::events::{FORMAT, Filter, Reader};
use super::place;
use rusqlite::OptionalExtension;
use std::fmt;

/// What an audit found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditReport {
    /// Events that are as they were recorded, from the first on.
    pub events: u64,
    /// The last of them.
    pub head: Option<Anchor>,
    /// The last event that an anchor vouches for. Nothing but the chain speaks for later ones.
    pub anchored: Option<Seq>,
    /// What is wrong, if something is: the first thing only, as what follows it proves nothing.
    pub finding: Option<Finding>,
}

impl AuditReport {
    /// Whether nothing speaks against the events.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.finding.is_none()
    }
}

/// Where events stop being what they were.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The first event that is not what was recorded, or is not there.
    pub seq: Seq,
    /// In which way.
    pub what: Tampering,
    /// In words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, what, detail } = self;
        write!(f, "event {seq} {what}: {detail}")
    }
}

/// Ways of not being what was recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tampering {
    /// Its content is another.
    Edited,
    /// It is not there, and later ones are.
    Deleted,
    /// It stands in another's place.
    Swapped,
    /// It is not there, and nothing follows: the end was cut off, or an older copy put in place.
    Truncated,
    /// It fits what is around it, and not what an anchor remembers: the chain was written anew, or
    /// an older copy put in place and gone on with.
    Replaced,
    /// The file cannot be read there, or is not put together as it was.
    Damaged,
}

impl fmt::Display for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edited => "was edited",
            Self::Deleted => "was deleted",
            Self::Swapped => "was swapped",
            Self::Truncated => "is cut off",
            Self::Replaced => "was replaced",
            Self::Damaged => "is damaged",
        })
    }
}

/// How far the walk along the chain has come.
struct Walk<'a> {
    /// Anchors that are still to be met, the next last.
    ahead: Vec<&'a Anchor>,
    /// The last event that was right.
    last: Option<Anchor>,
    anchored: Option<Seq>,
}

/// Why the walk went no further.
enum Stop {
    /// The event does not follow.
    Unfit(Recorded),
    /// It does, and is not the one that this anchor remembers.
    Unknown(Anchor),
}

pub(super) fn verify(reader: &Reader, anchors: &[Anchor]) -> Result<AuditReport, HistoryError> {
    let snapshot = reader.connection().unchecked_transaction();
    let snapshot = snapshot.map_err(reader.failed("read"))?;
    let mut ahead: Vec<_> = anchors.iter().collect();
    ahead.sort_by_key(|anchor| std::cmp::Reverse(anchor.seq));
    let mut walk = Walk {
        ahead,
        last: None,
        anchored: None,
    };
    let finding = match schema(reader)? {
        None => walk.chain(reader)?,
        found => found,
    };
    let finding = match finding {
        None => integrity(reader, walk.next())?,
        found => found,
    };
    drop(snapshot);
    Ok(AuditReport {
        events: walk.last.map_or(0, |last| last.seq.0),
        head: walk.last,
        anchored: walk.anchored,
        finding,
    })
}

impl Walk<'_> {
    /// The event that should come.
    fn next(&self) -> Seq {
        self.last.map_or(Seq(0), |last| last.seq).next()
    }

    fn chain(&mut self, reader: &Reader) -> Result<Option<Finding>, HistoryError> {
        let mut stopped = None;
        let read = reader.each(&Filter::default(), |event| {
            if !self.fits(&event) {
                stopped = Some(Stop::Unfit(event));
            } else if let Some(anchor) = self.pass_anchors(&event) {
                stopped = Some(Stop::Unknown(anchor));
            } else {
                self.last = Some(anchor_of(&event));
            }
            stopped.is_none()
        });
        if let Some(finding) = damage(read, self.next())? {
            return Ok(Some(finding));
        }
        match stopped {
            None => Ok(self.ahead.last().map(|anchor| self.truncated(anchor))),
            Some(Stop::Unknown(anchor)) => Ok(Some(self.replaced(&anchor))),
            Some(Stop::Unfit(event)) => match explain(reader, &event, self.last, self.anchored) {
                Ok(finding) => Ok(Some(finding)),
                Err(error) => damage(Err(error), self.next()),
            },
        }
    }

    fn fits(&self, event: &Recorded) -> bool {
        let prev = self.last.map_or(GENESIS, |last| last.hash);
        let next = self.next();
        event.seq == next && event.prev == prev && event.is_genuine_as(next)
    }

    /// Meets the anchors of this event, and returns one that remembers another.
    fn pass_anchors(&mut self, event: &Recorded) -> Option<Anchor> {
        while let Some(anchor) = self.ahead.last().filter(|next| next.seq <= event.seq) {
            if anchor.seq != event.seq || anchor.hash != event.hash {
                return Some(**anchor);
            }
            self.anchored = Some(event.seq);
            self.ahead.pop();
        }
        None
    }

    fn truncated(&self, anchor: &Anchor) -> Finding {
        Finding {
            seq: self.next(),
            what: Tampering::Truncated,
            detail: format!("an anchor remembers event {}", anchor.seq),
        }
    }

    fn replaced(&self, anchor: &Anchor) -> Finding {
        Finding {
            seq: self.anchored.unwrap_or(Seq(0)).next(),
            what: Tampering::Replaced,
            detail: format!("an anchor remembers another event {}", anchor.seq),
        }
    }
}

fn anchor_of(event: &Recorded) -> Anchor {
    Anchor {
        seq: event.seq,
        hash: event.hash,
        wall: event.event.stamp.wall,
    }
}

/// Says what became of the event after `last`, in whose place `event` stands.
fn explain(
    reader: &Reader,
    event: &Recorded,
    last: Option<Anchor>,
    anchored: Option<Seq>,
) -> Result<Finding, HistoryError> {
    let next = last.map_or(Seq(0), |last| last.seq).next();
    let prev = last.map_or(GENESIS, |last| last.hash);
    let finding = |seq, what, detail| Ok(Finding { seq, what, detail });
    let elsewhere = follower_of(reader, &prev)?.filter(|other| other.is_genuine_as(next));
    if let Some(other) = elsewhere.filter(|other| other.seq != next) {
        let detail = format!("it stands in place of event {}", other.seq);
        return finding(next, Tampering::Swapped, detail);
    }
    if event.seq > next {
        let detail = format!("the next there is has number {}", event.seq);
        return finding(next, Tampering::Deleted, detail);
    }
    if event.is_genuine_as(next.next()) {
        let detail = "the one after it has its number".to_owned();
        return finding(next, Tampering::Deleted, detail);
    }
    if event.seq != next || !event.is_genuine_as(next) {
        let detail = "its hash is not that of its content".to_owned();
        return finding(next, Tampering::Edited, detail);
    }
    // It is sound in itself but does not follow: this one or the one before was hashed anew.
    let after = reader.get(next.next())?;
    let goes_on = after.is_none_or(|after| after.prev == event.hash);
    let before = last
        .map(|last| last.seq)
        .filter(|last| Some(*last) != anchored);
    match before.filter(|_| goes_on) {
        Some(before) => {
            let detail = "its hash is not the one that the event after it names".to_owned();
            finding(before, Tampering::Edited, detail)
        }
        None => {
            let detail = "it does not name the hash of the event before it".to_owned();
            finding(next, Tampering::Edited, detail)
        }
    }
}

/// The event that names `prev` as the hash before it, wherever it stands.
fn follower_of(reader: &Reader, prev: &[u8; 32]) -> Result<Option<Recorded>, HistoryError> {
    let seq = reader
        .connection()
        .query_row("SELECT seq FROM event WHERE prev = ?", [prev], |row| {
            row.get(0)
        })
        .optional()
        .map_err(reader.failed("read"))?;
    let seq = seq.and_then(|seq: i64| u64::try_from(seq).ok());
    seq.map_or(Ok(None), |seq| reader.get(Seq(seq)))
}

/// Makes a finding of what could not be read because of what stands there.
fn damage(read: Result<(), HistoryError>, seq: Seq) -> Result<Option<Finding>, HistoryError> {
    let detail = match read {
        Ok(()) => return Ok(None),
        Err(HistoryError::Corrupt { what, .. } | HistoryError::Foreign { what, .. }) => what,
        Err(HistoryError::Failed { source, .. }) if is_nonsense(&source) => {
            printable(&source.to_string())
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Finding {
        seq,
        what: Tampering::Damaged,
        detail,
    }))
}

const fn is_nonsense(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    )
}

fn schema(reader: &Reader) -> Result<Option<Finding>, HistoryError> {
    let read = place::check_format(reader.connection(), reader.path(), &FORMAT);
    damage(read.map(|_| ()), Seq(1))
}

/// Whether the file is put together as SQLite would: no index that leaves an event out, no page
/// that belongs to two tables.
fn integrity(reader: &Reader, seq: Seq) -> Result<Option<Finding>, HistoryError> {
    let check = "PRAGMA integrity_check(1)";
    let said: Result<String, _> = reader.connection().query_row(check, [], |row| row.get(0));
    let read = match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(what) => Err(HistoryError::Corrupt {
            path: reader.path().to_owned(),
            what: printable(&what),
        }),
        Err(error) => Err(reader.failed("read")(error)),
    };
    damage(read, seq)
}

/// Refuses a file whose last `count` events are no chain.
pub(super) fn check_end(
    reader: &Reader,
    head: Option<Anchor>,
    count: u64,
) -> Result<(), HistoryError> {
    let Some(head) = head else { return Ok(()) };
    let from = Seq(head.seq.0.saturating_sub(count).max(1));
    let mut before: Option<Recorded> = None;
    let mut wrong = None;
    let filter = Filter {
        from: Some(from),
        ..Filter::default()
    };
    let mut next = from;
    let read = reader.each(&filter, |event| {
        let follows = match &before {
            Some(before) => before.hash == event.prev,
            None => event.seq != Seq(1) || event.prev == GENESIS,
        };
        if event.seq != next || !follows || !event.is_genuine_as(next) {
            wrong = Some(next);
            return false;
        }
        next = next.next();
        before = Some(event);
        true
    });
    let path = || reader.path().to_owned();
    if let Some(finding) = damage(read, next)? {
        let what = finding.to_string();
        return Err(HistoryError::Corrupt { path: path(), what });
    }
    wrong.map_or(Ok(()), |seq| {
        let what = "its hashes are no chain".to_owned();
        let path = path();
        Err(HistoryError::Tampered { path, seq, what })
    })
}

/// Refuses a file that is not the one of which `anchor` was taken.
pub(super) fn check_anchor(
    reader: &Reader,
    head: Option<Anchor>,
    anchor: &Anchor,
) -> Result<(), HistoryError> {
    let found = reader.get(anchor.seq)?;
    if found
        .as_ref()
        .is_some_and(|found| found.hash == anchor.hash)
    {
        return Ok(());
    }
    let what = format!("an anchor remembers another event {}", anchor.seq);
    let next = head.map_or(Seq(0), |head| head.seq).next();
    Err(HistoryError::Tampered {
        path: reader.path().to_owned(),
        seq: next.min(anchor.seq),
        what,
    })
}
