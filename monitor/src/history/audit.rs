//! Finds out whether the events are still the ones that were recorded.
//!
//! The chain shows edits, deletions and swaps, and where they begin. What it cannot show of itself,
//! that its end is missing or that all of it was written anew, anchors show. Events after the last
//! anchor are vouched for by the chain alone.
//!
//! The chain goes through archives. Besides, the file after an archive says what that is, byte for byte.
//! Of one that is elsewhere nothing is proven, which is neither good nor bad: what is before it and what
//! is after it are chains of their own then.

use super::anchor::Anchor;
use super::archive::{self, Absent, Archive, ArchivedBody, Continued, Elsewhere, HISTORY_ARCHIVED};
use super::error::{HistoryError, printable};
use super::event::{GENESIS, Recorded, Seq};
use super::events::{EventsFile, FORMAT, Filter, Reader};
use super::place;
use super::time::WallTime;
use crate::report::hex;
use rusqlite::OptionalExtension;
use std::fmt;

/// What an audit found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditReport {
    /// Events that are here and as they were recorded, from the first on.
    pub events: u64,
    /// Archives that were checked.
    pub archives: u64,
    /// Events that are not here, of which nothing was proven: neither that they are as they were recorded
    /// nor that they are not.
    pub unproven: Vec<Unproven>,
    /// The last event.
    pub head: Option<Anchor>,
    /// The last event that an anchor vouches for. Nothing but the chain speaks for later ones.
    pub anchored: Option<Seq>,
    /// What is wrong, if something is: the first thing only, as what follows it proves nothing.
    pub finding: Option<Finding>,
}

impl AuditReport {
    /// Whether all events are proven to be as they were recorded. Where they are not, nothing need
    /// speak against them: see [`AuditReport::finding`].
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        self.finding.is_none() && self.unproven.is_empty()
    }
}

/// Events of an archive that is not here, or of several in a row, and what holds on either side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unproven {
    /// Which, and where they are.
    pub elsewhere: Elsewhere,
    /// The last event before them, if there is one. Only they can show that they go on from it.
    pub before: Option<Anchor>,
    /// The last event up to that one that an anchor vouches for.
    pub anchored: Option<Seq>,
    /// The last of them, by the word of what goes on from it: with any other, that would not fit.
    pub end: Anchor,
}

impl Unproven {
    /// Which they are, what to do about it, and what is proven all the same.
    #[must_use]
    pub fn told(&self, directory: &str) -> String {
        let Self {
            elsewhere,
            before,
            anchored,
            end,
        } = self;
        let before = before.map_or_else(String::new, |before| {
            let vouched = anchored.map_or_else(
                || "no anchor vouches for it".to_owned(),
                |seq| format!("anchors vouch up to {seq}"),
            );
            let (seq, hash) = (before.seq, hex(&before.hash));
            format!("what is before it ends with event {seq} and the hash {hash} ({vouched}); ")
        });
        format!(
            "{}. Proven all the same: {before}what is after it goes on from event {} and the hash {}, and has its SHA-256 in event {}",
            elsewhere.told(directory),
            end.seq,
            hex(&end.hash),
            end.seq.next()
        )
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
    /// Archives that were right.
    checked: u64,
    /// Events that were right.
    events: u64,
    /// Those that were passed by.
    unproven: Vec<Unproven>,
    /// What the next file should say of the archive before it.
    closed: Option<ArchivedBody>,
    /// The latest time so far.
    latest: Option<WallTime>,
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
    let file = reader.file();
    let snapshot = file.connection().unchecked_transaction();
    let snapshot = snapshot.map_err(file.failed("read"))?;
    let mut ahead: Vec<_> = anchors.iter().collect();
    ahead.sort_by_key(|anchor| std::cmp::Reverse(anchor.seq));
    let mut walk = Walk {
        checked: 0,
        events: 0,
        unproven: Vec::new(),
        closed: None,
        latest: None,
        ahead,
        last: None,
        anchored: None,
    };
    let finding = match walk.archives(file)? {
        None => walk.file(file)?,
        found => found,
    };
    let finding = finding.or_else(|| walk.ahead.last().map(|anchor| walk.truncated(anchor)));
    drop(snapshot);
    Ok(AuditReport {
        events: walk.events,
        archives: walk.checked,
        unproven: walk.unproven,
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

    /// Walks through all archives beside a file.
    fn archives(&mut self, file: &EventsFile) -> Result<Option<Finding>, HistoryError> {
        for archive in archive::list(file.directory())? {
            let found = match EventsFile::open(&archive.path) {
                Ok(file) => self.archive(&archive, &file)?,
                Err(error) => damage(Err(error), self.next())?,
            };
            if let Some(finding) = found {
                let detail = format!("{}: {}", archive.name(), finding.detail);
                return Ok(Some(Finding { detail, ..finding }));
            }
            self.checked += 1;
        }
        Ok(None)
    }

    fn archive(
        &mut self,
        archive: &Archive,
        file: &EventsFile,
    ) -> Result<Option<Finding>, HistoryError> {
        if let Some(finding) = self.file(file)? {
            return Ok(Some(finding));
        }
        let first = file.continued()?.map_or(Seq(0), |before| before.end.seq);
        let last = self.next().0 - 1;
        let by_its_name = format!("its name says that it ends with event {}", archive.last);
        if last < archive.last.0 {
            return Ok(Some(Finding {
                seq: self.next(),
                what: Tampering::Truncated,
                detail: by_its_name,
            }));
        }
        if last > archive.last.0 || first.next() != archive.first {
            return Ok(Some(Finding {
                seq: first.next().min(archive.first),
                what: Tampering::Replaced,
                detail: format!("it holds events {} to {last}", first.next()),
            }));
        }
        self.closed = Some(archive.body(&archive.path)?);
        Ok(None)
    }

    /// Walks through one file, which goes on from what was walked through before.
    fn file(&mut self, file: &EventsFile) -> Result<Option<Finding>, HistoryError> {
        let closed = self.closed.take();
        if let Some(finding) = schema(file, self.next())? {
            return Ok(Some(finding));
        }
        let continued = match file.continued() {
            Ok(continued) => continued,
            Err(error) => return damage(Err(error), self.next()),
        };
        let passed_by = continued.and_then(|before| self.pass_by(&before, file));
        if let Some(unproven) = &passed_by
            && let Some(anchor) = self.meet_anchors(&unproven.end)
        {
            return Ok(Some(self.replaced(&anchor)));
        }
        if let Some(finding) = self.goes_on(continued) {
            return Ok(Some(finding));
        }
        let changed = self.chain(file)?;
        let said = match (&passed_by, closed) {
            (Some(unproven), _) => said_of_absent(unproven.elsewhere.events, file),
            (None, Some(closed)) if changed.is_none() => said_of(&closed, file)?,
            (None, _) => None,
        };
        // Of what is not here only the file tells: not one of which not even the beginning fits.
        let is_told = |unproven: &Unproven| said.is_none() && self.next() > unproven.end.seq.next();
        let told = passed_by.filter(is_told);
        self.unproven.extend(told);
        match changed.or(said) {
            Some(finding) => Ok(Some(finding)),
            None => integrity(file, self.next()),
        }
    }

    /// Passes by what was archived before `file` and is not here.
    fn pass_by(&mut self, before: &Continued, file: &EventsFile) -> Option<Unproven> {
        let Continued { end, latest } = *before;
        let absent = Absent {
            first: self.next(),
            last: end.seq,
        };
        if absent.last < absent.first {
            return None;
        }
        // Anchors of events that are not here say nothing of those that are.
        self.ahead.retain(|anchor| anchor.seq >= end.seq);
        self.latest = Some(latest);
        Some(Unproven {
            elsewhere: archive::elsewhere(absent, file),
            before: self.last.replace(end),
            anchored: self.anchored,
            end,
        })
    }

    /// Whether a file goes on from the last event that was right.
    fn goes_on(&self, continued: Option<Continued>) -> Option<Finding> {
        let end = continued.map(|before| before.end);
        let (seq, detail) = if end != self.last {
            let end = end.map_or(Seq(0), |end| end.seq);
            let last = self.next().0 - 1;
            let detail = match last == end.0 {
                true => format!("what comes next goes on from another event {last}"),
                false => format!("what comes next goes on from event {end}, and not from {last}"),
            };
            (end.next().min(self.next()), detail)
        } else if continued.map(|before| before.latest) != self.latest {
            let detail = "it is told wrongly until when there are events before it".to_owned();
            (self.next(), detail)
        } else {
            return None;
        };
        Some(Finding {
            seq,
            what: Tampering::Replaced,
            detail,
        })
    }

    fn chain(&mut self, file: &EventsFile) -> Result<Option<Finding>, HistoryError> {
        let mut stopped = None;
        let read = file.each(&Filter::default(), |event| {
            if !self.fits(&event) {
                stopped = Some(Stop::Unfit(event));
            } else if let Some(anchor) = self.meet_anchors(&anchor_of(&event)) {
                stopped = Some(Stop::Unknown(anchor));
            } else {
                self.events += 1;
                self.last = Some(anchor_of(&event));
                self.latest = self.latest.max(Some(event.event.stamp.wall));
            }
            stopped.is_none()
        });
        if let Some(finding) = damage(read, self.next())? {
            return Ok(Some(finding));
        }
        match stopped {
            None => Ok(None),
            Some(Stop::Unknown(anchor)) => Ok(Some(self.replaced(&anchor))),
            Some(Stop::Unfit(event)) => match explain(file, &event, self.last, self.anchored) {
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
    fn meet_anchors(&mut self, event: &Anchor) -> Option<Anchor> {
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

/// Whether a file says of the archive before it what that is.
fn said_of(closed: &ArchivedBody, file: &EventsFile) -> Result<Option<Finding>, HistoryError> {
    let seq = Seq(closed.last).next();
    let Some(event) = file.get(seq)? else {
        return Ok(Some(Finding {
            seq,
            what: Tampering::Truncated,
            detail: format!(
                "every file that goes on from {} begins with it",
                closed.file
            ),
        }));
    };
    let said = Some(event.event).filter(|event| event.kind == HISTORY_ARCHIVED);
    let said = said.and_then(|event| serde_json::from_str(&event.body).ok());
    let detail = match said {
        Some(said) if said == *closed => return Ok(None),
        Some(ArchivedBody { sha256, .. }) => format!(
            "{}: its SHA-256 is {}, and {} is on record in event {seq}",
            closed.file,
            closed.sha256,
            printable(&sha256.chars().take(64).collect::<String>())
        ),
        None => format!("{}: event {seq} does not say what it is", closed.file),
    };
    Ok(Some(Finding {
        seq: Seq(closed.first),
        what: Tampering::Damaged,
        detail,
    }))
}

/// Whether a file says of the archive before it, which is not here, that it can be that.
fn said_of_absent(absent: Absent, file: &EventsFile) -> Option<Finding> {
    let finding = |seq, detail| {
        Some(Finding {
            seq,
            what: Tampering::Replaced,
            detail,
        })
    };
    let seq = absent.last.next();
    match archive::archive_before(file, absent.last) {
        Some(archive) if archive.first >= absent.first => None,
        Some(archive) => {
            let detail = format!(
                "by event {seq}, the archive before it is {}, and another is here with some of that",
                archive.name()
            );
            finding(archive.first, detail)
        }
        None => finding(
            seq,
            "every file that goes on from an archive begins with what that is".to_owned(),
        ),
    }
}

/// Says what became of the event after `last`, in whose place `event` stands.
fn explain(
    file: &EventsFile,
    event: &Recorded,
    last: Option<Anchor>,
    anchored: Option<Seq>,
) -> Result<Finding, HistoryError> {
    let next = last.map_or(Seq(0), |last| last.seq).next();
    let prev = last.map_or(GENESIS, |last| last.hash);
    let finding = |seq, what, detail| Ok(Finding { seq, what, detail });
    let elsewhere = follower_of(file, &prev)?.filter(|other| other.is_genuine_as(next));
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
    let after = file.get(next.next())?;
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
fn follower_of(file: &EventsFile, prev: &[u8; 32]) -> Result<Option<Recorded>, HistoryError> {
    let seq = file
        .connection()
        .query_row("SELECT seq FROM event WHERE prev = ?", [prev], |row| {
            row.get(0)
        })
        .optional()
        .map_err(file.failed("read"))?;
    let seq = seq.and_then(|seq: i64| u64::try_from(seq).ok());
    seq.map_or(Ok(None), |seq| file.get(Seq(seq)))
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

fn schema(file: &EventsFile, seq: Seq) -> Result<Option<Finding>, HistoryError> {
    let read = place::check_format(file.connection(), file.path(), &FORMAT);
    damage(read.map(|_| ()), seq)
}

/// Whether the file is put together as SQLite would: no index that leaves an event out, no page
/// that belongs to two tables.
fn integrity(file: &EventsFile, seq: Seq) -> Result<Option<Finding>, HistoryError> {
    let check = "PRAGMA integrity_check(1)";
    let said: Result<String, _> = file.connection().query_row(check, [], |row| row.get(0));
    let read = match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(what) => Err(HistoryError::Corrupt {
            path: file.path().to_owned(),
            what: printable(&what),
        }),
        Err(error) => Err(file.failed("read")(error)),
    };
    damage(read, seq)
}

/// Refuses a file whose last `count` events are no chain.
pub(super) fn check_end(
    file: &EventsFile,
    head: Option<Anchor>,
    count: u64,
) -> Result<(), HistoryError> {
    let Some(head) = head else { return Ok(()) };
    let before_it = file.continued()?.map(|continued| continued.end);
    let (begun_after, genesis) = before_it.map_or((Seq(0), GENESIS), |end| (end.seq, end.hash));
    let from = Seq(head.seq.0.saturating_sub(count)).max(begun_after.next());
    let mut before: Option<Recorded> = None;
    let mut wrong = None;
    let filter = Filter {
        from: Some(from),
        ..Filter::default()
    };
    let mut next = from;
    let read = file.each(&filter, |event| {
        let follows = match &before {
            Some(before) => before.hash == event.prev,
            None => event.seq != begun_after.next() || event.prev == genesis,
        };
        if event.seq != next || !follows || !event.is_genuine_as(next) {
            wrong = Some(next);
            return false;
        }
        next = next.next();
        before = Some(event);
        true
    });
    let path = || file.path().to_owned();
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
    let continued = reader.file().continued()?.map(|continued| continued.end);
    let is_last_archived = |end: &Anchor| (end.seq, end.hash) == (anchor.seq, anchor.hash);
    let found = reader.get(anchor.seq)?;
    if found.is_some_and(|found| found.hash == anchor.hash)
        || continued.as_ref().is_some_and(is_last_archived)
    {
        return Ok(());
    }
    let seq = anchor.seq;
    let what = match reader.elsewhere(&Filter::from_to(seq, seq))?.first() {
        Some(Elsewhere { events: absent, .. }) => {
            format!("an anchor remembers event {seq}, and no archive here holds {absent}")
        }
        None => format!("an anchor remembers another event {seq}"),
    };
    let next = head.map_or(Seq(0), |head| head.seq).next();
    Err(HistoryError::Tampered {
        path: reader.path().to_owned(),
        seq: next.min(anchor.seq),
        what,
    })
}
