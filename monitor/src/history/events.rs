//! The events themselves: appended, durable when acknowledged, never changed.
//!
//! It does not say what an event means. Whoever reads needs no permission to write, and reads what
//! was committed before it asked, while the writer goes on.

use super::anchor::{Anchor, AnchorSink};
use super::archive::{self, Absent, Archive, Continued, Elsewhere, HISTORY_ARCHIVED};
use super::audit::{self, AuditReport};
use super::error::HistoryError;
use super::event::{Event, GENESIS, Recorded, Seq, Severity, stored};
use super::place::{self, AtPowerCut, Format, Place};
use super::time::{BootId, Stamp, WallTime};
use hwshim::clock::Instant;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, Statement, ToSql, TransactionBehavior, params};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{iter, mem};

/// Name of the file in its directory.
pub const EVENTS_FILE: &str = "events.db";

/// Events after which the head is anchored: what could be cut off without trace stays small.
const ANCHOR_EVENTS: u64 = 100;
/// Time after which it is anchored, if there are fewer.
const ANCHOR_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Time after which a sink that could not be told is tried again.
const ANCHOR_RETRY: Duration = Duration::from_secs(5);
/// Events at the end whose hashes are checked when the file is opened. The whole chain is for
/// [`Reader::verify`], which takes seconds once there are millions.
const CHECKED_AT_OPEN: u64 = 1_000;
/// Time after which a file that could not be made an archive is tried again. Until then it grows.
const ARCHIVE_RETRY: Duration = Duration::from_secs(60);

pub(super) const FORMAT: Format = Format {
    file: EVENTS_FILE,
    application_id: i32::from_be_bytes(*b"cmev"),
    schemas: &[TABLES, BY_KIND, CONTINUED],
    at_power_cut: AtPowerCut::KeepsAll,
    // An event may be about one in an archive.
    foreign_keys: false,
};

/// What is on record, and that it stays. To the blank as it was given out: it is compared with what
/// stands in the file.
const TABLES: &str = "
        CREATE TABLE boot (
            id   INTEGER PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE CHECK (length(uuid) = 36)
        ) STRICT;
        CREATE TABLE event (
            seq          INTEGER PRIMARY KEY,
            wall_ns      INTEGER NOT NULL,
            monotonic_ns INTEGER NOT NULL,
            boot         INTEGER NOT NULL REFERENCES boot (id),
            severity     INTEGER NOT NULL CHECK (severity BETWEEN 0 AND 2),
            kind         TEXT NOT NULL,
            subject      TEXT NOT NULL,
            refers_to    INTEGER REFERENCES event (seq) CHECK (refers_to < seq),
            body         TEXT NOT NULL,
            prev         BLOB NOT NULL CHECK (length(prev) = 32),
            hash         BLOB NOT NULL CHECK (length(hash) = 32)
        ) STRICT;
        CREATE TRIGGER event_is_next BEFORE INSERT ON event
        WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM event)
        BEGIN SELECT RAISE(ABORT, 'events are numbered without gaps'); END;
        CREATE TRIGGER event_stays BEFORE UPDATE ON event
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
        CREATE TRIGGER event_is_kept BEFORE DELETE ON event
        BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
        CREATE TRIGGER boot_stays BEFORE UPDATE ON boot
        BEGIN SELECT RAISE(ABORT, 'boots are never changed'); END;
        CREATE TRIGGER boot_is_kept BEFORE DELETE ON boot
        BEGIN SELECT RAISE(ABORT, 'boots are never deleted'); END;";

/// Whoever begins needs the latest of a few kinds among all that ever was. The times are in it so that
/// what is too old is passed by without a look at the event; the numbers, so that nothing is sorted.
const BY_KIND: &str = "
    CREATE INDEX event_by_kind ON event (kind, seq, wall_ns);";

/// What the file goes on from, which is known before its first event. What foreign keys would see to, a
/// trigger does: events are numbered without gaps, so that each number before is one of an event.
const CONTINUED: &str = "
        CREATE TABLE continued (
            id        INTEGER PRIMARY KEY CHECK (id = 1),
            seq       INTEGER NOT NULL CHECK (seq > 0),
            hash      BLOB NOT NULL CHECK (length(hash) = 32),
            wall_ns   INTEGER NOT NULL,
            latest_ns INTEGER NOT NULL
        ) STRICT;
        CREATE TRIGGER continued_is_first BEFORE INSERT ON continued
        WHEN EXISTS (SELECT 1 FROM event)
        BEGIN SELECT RAISE(ABORT, 'what a file goes on from is known before its first event'); END;
        CREATE TRIGGER continued_stays BEFORE UPDATE ON continued
        BEGIN SELECT RAISE(ABORT, 'what a file goes on from is never changed'); END;
        CREATE TRIGGER continued_is_kept BEFORE DELETE ON continued
        BEGIN SELECT RAISE(ABORT, 'what a file goes on from is never deleted'); END;
        DROP TRIGGER event_is_next;
        CREATE TRIGGER event_is_next BEFORE INSERT ON event
        WHEN NEW.seq IS NOT
            (SELECT coalesce((SELECT max(seq) FROM event), (SELECT seq FROM continued), 0) + 1)
        BEGIN SELECT RAISE(ABORT, 'events are numbered without gaps'); END;
        CREATE TRIGGER event_refers_to_what_is_there BEFORE INSERT ON event
        WHEN NEW.refers_to < 1 OR NOT EXISTS (SELECT 1 FROM boot WHERE id = NEW.boot)
        BEGIN SELECT RAISE(ABORT, 'events refer to what is there'); END;";

const COLUMNS: &str = "SELECT event.seq, wall_ns, monotonic_ns, uuid, severity, kind, subject,
    refers_to, body, prev, hash FROM event LEFT JOIN boot ON boot.id = event.boot";

/// One file of events: the one that is written to, or an archive.
#[derive(Debug)]
pub(super) struct EventsFile {
    connection: Connection,
    path: PathBuf,
}

/// Reads events, also while another process writes them, and those in archives.
#[derive(Debug)]
pub struct Reader {
    file: EventsFile,
    /// The file stays the one that is written to as long as this lives; the writer itself sees to that
    /// otherwise.
    held: Option<File>,
    /// The last archive that the writer had to pass by.
    damage: RefCell<Option<HistoryError>>,
}

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From this one on.
    pub from: Option<Seq>,
    /// Up to and including this one.
    pub until: Option<Seq>,
    /// Not before, by the calendar of then.
    pub from_wall: Option<WallTime>,
    /// Before, by the calendar of then.
    pub until_wall: Option<WallTime>,
    /// Of one of these kinds; of any if there are none.
    pub kinds: Vec<String>,
    /// About this subject.
    pub subject: Option<String>,
    /// At least as severe.
    pub severity_min: Option<Severity>,
    /// The latest first.
    pub latest_first: bool,
    /// As many at most.
    pub limit: Option<u32>,
}

impl EventsFile {
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        Ok(Self {
            connection: place::open_for_reading(path, &FORMAT)?,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> HistoryError {
        move |error| HistoryError::sqlite(&self.path, doing, error)
    }

    /// What the file goes on from; nothing if it is the first.
    pub(super) fn continued(&self) -> Result<Option<Continued>, HistoryError> {
        continued(&self.connection).map_err(self.failed("read"))
    }

    /// The place in the chain of the last event, of which this file may be the one before.
    fn head(&self) -> Result<Option<Anchor>, HistoryError> {
        head(&self.connection).map_err(self.failed("read"))
    }

    /// One event of this file.
    pub(super) fn get(&self, seq: Seq) -> Result<Option<Recorded>, HistoryError> {
        let mut found = None;
        self.each(&Filter::from_to(seq, seq), |event| {
            found = Some(event);
            false
        })?;
        Ok(found)
    }

    pub(super) fn each(
        &self,
        filter: &Filter,
        mut show: impl FnMut(Recorded) -> bool,
    ) -> Result<(), HistoryError> {
        let failed = self.failed("read");
        let (text, values) = filter.statement();
        let mut statement = self.connection.prepare(&text).map_err(&failed)?;
        let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
        let mut rows = statement.query(&*values).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            if !show(recorded(row).map_err(&failed)?) {
                break;
            }
        }
        Ok(())
    }

    fn kinds(&self) -> Result<Vec<String>, HistoryError> {
        let failed = self.failed("read");
        let text = "SELECT DISTINCT kind FROM event ORDER BY kind";
        let mut statement = self.connection.prepare(text).map_err(&failed)?;
        let kinds = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        kinds.collect::<Result<_, _>>().map_err(&failed)
    }

    /// The latest time of all events up to the last of this file.
    fn latest(&self) -> Result<WallTime, HistoryError> {
        let text = "SELECT max(wall_ns) FROM event";
        let latest: Option<i64> = self
            .connection
            .query_row(text, [], |row| row.get(0))
            .map_err(self.failed("read"))?;
        let before = self.continued()?.map(|continued| continued.latest);
        let latest = latest.map(WallTime::from_unix_nanos).max(before);
        Ok(latest.unwrap_or_default())
    }

    /// How long the file is once its log is in it.
    fn bytes(&self) -> Result<u64, HistoryError> {
        let of = |name| {
            self.connection
                .pragma_query_value(None, name, |row| unsigned(row, 0))
        };
        let pages = of("page_count").map_err(self.failed("read"))?;
        let page_bytes = of("page_size").map_err(self.failed("read"))?;
        Ok(pages.saturating_mul(page_bytes))
    }

    /// Moves what is in the write-ahead log into the file.
    fn checkpoint(&self) -> Result<(), HistoryError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(self.failed("written"))
    }

    /// Moves the log into the file and gives it up, so that the file is whole in itself. Nobody else may
    /// have it open.
    fn give_up_log(&self) -> Result<(), HistoryError> {
        self.checkpoint()?;
        let mode: String = self
            .connection
            .pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))
            .map_err(self.failed("written"))?;
        if mode == "delete" {
            return Ok(());
        }
        Err(HistoryError::Locked {
            path: self.path.clone(),
            pid: None,
        })
    }
}

impl Reader {
    /// Opens the events in `directory` for reading. As long as this lives, no archive is made.
    ///
    /// # Errors
    ///
    /// If there are none, or they cannot be read.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let path = directory.join(EVENTS_FILE);
        let held = archive::hold_in_place(directory)
            .map_err(|source| place::absent_or_unreadable(&path, source))?;
        Ok(Self {
            file: EventsFile::open(&path)?,
            held: Some(held),
            damage: RefCell::default(),
        })
    }

    /// The file that is written to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) const fn file(&self) -> &EventsFile {
        &self.file
    }

    /// Archives, as [`archive::before`].
    fn before(
        &self,
        needed: impl Fn(&Continued) -> bool,
    ) -> Result<(Vec<EventsFile>, Vec<Elsewhere>), HistoryError> {
        archive::before(&self.file, needed, |error| self.pass_by(error))
    }

    /// Whoever reads is told of an archive that is damaged. The writer goes on without what is in it:
    /// what happens now is worth more than what happened years ago.
    fn pass_by(&self, error: HistoryError) -> Result<(), HistoryError> {
        let is_damage = error.is_damage() || matches!(error, HistoryError::Foreign { .. });
        if self.held.is_some() || !is_damage {
            return Err(error);
        }
        self.damage.replace(Some(error));
        Ok(())
    }

    /// The last event's place in the chain; `None` before the first.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn head(&self) -> Result<Option<Anchor>, HistoryError> {
        self.file.head()
    }

    /// One event.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn get(&self, seq: Seq) -> Result<Option<Recorded>, HistoryError> {
        Ok(self.query(&Filter::from_to(seq, seq))?.pop())
    }

    /// The events that a filter lets through, in their order.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn query(&self, filter: &Filter) -> Result<Vec<Recorded>, HistoryError> {
        let mut events = Vec::new();
        self.each(filter, |event| {
            events.push(event);
            true
        })?;
        Ok(events)
    }

    /// The kinds of all events on record, in the order of their names.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn kinds(&self) -> Result<Vec<String>, HistoryError> {
        let (archives, _) = self.before(|_| true)?;
        let mut kinds = BTreeSet::new();
        for file in iter::once(&self.file).chain(&archives) {
            kinds.extend(file.kinds()?);
        }
        Ok(kinds.into_iter().collect())
    }

    /// How many steps SQLite takes to find what a filter lets through, whatever the disk is like. Of a
    /// table that is read from end to end it takes several for each row.
    #[cfg(test)]
    pub(crate) fn steps(&self, filter: &Filter) -> u64 {
        let (text, values) = filter.statement();
        let mut statement = self.file.connection.prepare(&text).unwrap();
        let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
        let mut rows = statement.query(&*values).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        let steps = statement.get_status(rusqlite::StatementStatus::VmStep);
        u64::try_from(steps).unwrap()
    }

    /// Shows each event that a filter lets through, until `show` has seen enough. Those of archives that
    /// are not there are passed by: see [`Reader::elsewhere`].
    ///
    /// # Errors
    ///
    /// If a file cannot be read; what could be, was shown.
    pub fn each(
        &self,
        filter: &Filter,
        mut show: impl FnMut(Recorded) -> bool,
    ) -> Result<(), HistoryError> {
        let (archives, _) = self.before(|before| filter.reaches(before))?;
        let newest_first = iter::once(&self.file).chain(&archives);
        let files: Vec<_> = match filter.latest_first {
            true => newest_first.collect(),
            false => newest_first.rev().collect(),
        };
        let mut filter = filter.clone();
        let mut goes_on = true;
        for file in files {
            let mut shown = 0;
            let read = file.each(&filter, |event| {
                shown += 1;
                goes_on = show(event);
                goes_on
            });
            match read {
                Err(error) if !std::ptr::eq(file, &raw const self.file) => self.pass_by(error)?,
                read => read?,
            }
            filter.limit = filter.limit.map(|limit| limit.saturating_sub(shown));
            if !goes_on || filter.limit == Some(0) {
                break;
            }
        }
        Ok(())
    }

    /// Where a filter would look and cannot, because an archive is not beside the file.
    ///
    /// Between two events that are too late, all are taken to be: nothing here tells of a calendar that
    /// was set back meanwhile, and forth again.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn elsewhere(&self, filter: &Filter) -> Result<Vec<Elsewhere>, HistoryError> {
        let (archives, elsewhere) = self.before(|before| filter.reaches(before))?;
        let mut reached = Vec::new();
        for it in elsewhere {
            let Absent { first, last } = it.events;
            let (before, after) = (Seq(first.0.saturating_sub(1)), last.next());
            let is_too_late = filter.until.is_some_and(|until| first > until)
                || self.is_too_late(filter, before, &archives)?
                    && self.is_too_late(filter, after, &archives)?;
            if !is_too_late {
                reached.push(it);
            }
        }
        Ok(reached)
    }

    /// Whether an event is here and comes after the time until which a filter looks.
    fn is_too_late(
        &self,
        filter: &Filter,
        seq: Seq,
        archives: &[EventsFile],
    ) -> Result<bool, HistoryError> {
        let Some(until) = filter.until_wall else {
            return Ok(false);
        };
        for file in iter::once(&self.file).chain(archives) {
            if let Some(found) = file.get(seq)? {
                return Ok(found.event.stamp.wall >= until);
            }
        }
        Ok(false)
    }

    /// The events that a filter lets through, and where it would have looked as well before it had as many
    /// as it takes: see [`Reader::elsewhere`]. Of a filter for the latest.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn look_through(
        &self,
        filter: &Filter,
    ) -> Result<(Vec<Recorded>, Vec<Elsewhere>), HistoryError> {
        let events = self.query(filter)?;
        let is_cut_off = filter.limit.is_some_and(|limit| {
            filter.latest_first && u32::try_from(events.len()).is_ok_and(|len| len >= limit)
        });
        // Further back than that nobody has looked.
        let last = events.last().filter(|_| is_cut_off).map(|last| last.seq);
        let looked_through = Filter {
            from: filter.from.max(last),
            ..filter.clone()
        };
        let elsewhere = self.elsewhere(&looked_through)?;
        Ok((events, elsewhere))
    }

    /// Checks every event, the files they are in, and the chain against `anchors`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read for a reason that says nothing about what is in it. Damage is
    /// no error but a finding.
    pub fn verify(&self, anchors: &[Anchor]) -> Result<AuditReport, HistoryError> {
        audit::verify(self, anchors)
    }
}

impl Filter {
    pub(super) fn from_to(from: Seq, until: Seq) -> Self {
        Self {
            from: Some(from),
            until: Some(until),
            ..Self::default()
        }
    }

    /// Whether it may let events through that came before a file.
    fn reaches(&self, before: &Continued) -> bool {
        self.from.is_none_or(|from| from <= before.end.seq)
            && self.from_wall.is_none_or(|from| from <= before.latest)
    }

    /// Of several kinds, each is found by the index in its order, and they are merged as they are
    /// read: asked for all of them at once, SQLite would read and sort whatever there is of them.
    fn statement(&self) -> (String, Vec<Box<dyn ToSql>>) {
        let kinds: BTreeSet<_> = self.kinds.iter().map(Some).collect();
        let each = if kinds.is_empty() {
            BTreeSet::from([None])
        } else {
            kinds
        };
        let mut values = Vec::new();
        let mut text = String::new();
        for kind in each {
            let conditions = self.conditions(kind, &mut values);
            if !text.is_empty() {
                text += " UNION ALL ";
            }
            text += COLUMNS;
            if !conditions.is_empty() {
                text += &format!(" WHERE {}", conditions.join(" AND "));
            }
        }
        // The number of the event, which is the first column.
        text += " ORDER BY 1";
        if self.latest_first {
            text += " DESC";
        }
        if let Some(limit) = self.limit {
            text += " LIMIT ?";
            values.push(Box::new(limit));
        }
        (text, values)
    }

    fn conditions(
        &self,
        kind: Option<&String>,
        values: &mut Vec<Box<dyn ToSql>>,
    ) -> Vec<&'static str> {
        let mut conditions = Vec::new();
        let mut require = |condition, value| {
            conditions.push(condition);
            values.push(value);
        };
        if let Some(kind) = kind {
            require("kind = ?", Box::new(kind.clone()) as Box<dyn ToSql>);
        }
        if let Some(seq) = self.from {
            require("event.seq >= ?", Box::new(stored(seq.0)));
        }
        if let Some(seq) = self.until {
            require("event.seq <= ?", Box::new(stored(seq.0)));
        }
        if let Some(wall) = self.from_wall {
            require("wall_ns >= ?", Box::new(wall.unix_nanos()));
        }
        if let Some(wall) = self.until_wall {
            require("wall_ns < ?", Box::new(wall.unix_nanos()));
        }
        if let Some(subject) = &self.subject {
            require("subject = ?", Box::new(subject.clone()));
        }
        if let Some(severity) = self.severity_min {
            require("severity >= ?", Box::new(severity.number()));
        }
        conditions
    }
}

fn head(connection: &Connection) -> rusqlite::Result<Option<Anchor>> {
    let mut statement =
        connection.prepare("SELECT seq, hash, wall_ns FROM event ORDER BY seq DESC LIMIT 1")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Ok(continued(connection)?.map(|continued| continued.end));
    };
    Ok(Some(anchor(row)?))
}

/// Of number, hash and time in the first columns.
fn anchor(row: &Row<'_>) -> rusqlite::Result<Anchor> {
    Ok(Anchor {
        seq: Seq(unsigned(row, 0)?),
        hash: row.get(1)?,
        wall: WallTime::from_unix_nanos(row.get(2)?),
    })
}

fn continued(connection: &Connection) -> rusqlite::Result<Option<Continued>> {
    // Who reads does not bring a file of an older schema up to date.
    if !connection.table_exists(None, "continued")? {
        return Ok(None);
    }
    let text = "SELECT seq, hash, wall_ns, latest_ns FROM continued";
    let mut statement = connection.prepare(text)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some(Continued {
        end: anchor(row)?,
        latest: WallTime::from_unix_nanos(row.get(3)?),
    }))
}

/// Begins a file that goes on from another with the event that says which.
fn begin(connection: &Connection, continued: &Continued, event: &Event) -> rusqlite::Result<()> {
    let Continued { end, latest } = continued;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute(
        "INSERT INTO continued VALUES (1, ?, ?, ?, ?)",
        params![
            stored(end.seq.0),
            end.hash,
            end.wall.unix_nanos(),
            latest.unix_nanos()
        ],
    )?;
    let seq = end.seq.next();
    let hash = event.hash(seq, &end.hash);
    Append::new(&transaction)?.append(seq, event, &end.hash, &hash)?;
    transaction.commit()
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    let nonsense = |column, what: String| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, what.into())
    };
    let boot: String = row.get(3)?;
    let boot: BootId = boot.parse().map_err(|_| nonsense(3, boot))?;
    let severity = row.get(4)?;
    let severity =
        Severity::numbered(severity).ok_or_else(|| nonsense(4, format!("severity {severity}")))?;
    let refers_to: Option<i64> = row.get(7)?;
    let event = Event {
        stamp: Stamp {
            wall: WallTime::from_unix_nanos(row.get(1)?),
            monotonic: Instant::from_nanos(unsigned(row, 2)?),
            boot,
        },
        severity,
        kind: row.get::<_, String>(5)?.into(),
        subject: row.get(6)?,
        refers_to: refers_to.map(|_| unsigned(row, 7).map(Seq)).transpose()?,
        body: row.get(8)?,
    };
    Ok(Recorded {
        seq: Seq(unsigned(row, 0)?),
        event,
        prev: row.get(9)?,
        hash: row.get(10)?,
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A sink that did not take an anchor.
#[derive(Debug)]
pub struct AnchorTrouble {
    /// Which.
    pub sink: String,
    /// Why.
    pub error: io::Error,
}

/// Appends events. There is one of these for a directory, in one process.
pub struct Events {
    reader: Reader,
    _lock: File,
    head: Option<Anchor>,
    sinks: Vec<Told>,
    archiving: Archiving,
}

/// When the file is to be an archive, and what keeps it from being one.
struct Archiving {
    at_bytes: u64,
    /// The file was closed to be an archive, and could not be opened since.
    is_closed: bool,
    trouble: Option<HistoryError>,
    retry_at: Option<Instant>,
}

/// A sink, and what it was told.
struct Told {
    sink: Box<dyn AnchorSink>,
    /// The last event that it took.
    seq: Seq,
    /// When it was last tried.
    tried_at: Option<Instant>,
    /// Why it does not know more.
    trouble: Option<AnchorTrouble>,
}

impl Told {
    fn is_due(&self, head: &Anchor, now: Instant) -> bool {
        let events = head.seq.0.saturating_sub(self.seq.0);
        let due = match self.tried_at {
            // The first after a start: how much the sink knows of what was before is not known.
            None => true,
            Some(at) if self.trouble.is_some() => now.since(at) >= ANCHOR_RETRY,
            Some(at) => events >= ANCHOR_EVENTS || now.since(at) >= ANCHOR_INTERVAL,
        };
        events > 0 && due
    }

    fn tell(&mut self, head: &Anchor, now: Instant) {
        self.tried_at = Some(now);
        self.trouble = match self.sink.write(head) {
            Ok(()) => {
                self.seq = head.seq;
                None
            }
            Err(error) => Some(AnchorTrouble {
                sink: self.sink.name(),
                error,
            }),
        };
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Events");
        shown
            .field("path", &self.reader.path())
            .field("head", &self.head);
        shown.finish_non_exhaustive()
    }
}

impl std::ops::Deref for Events {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Events {
    /// Opens the events of `place`, and makes the file if it is not there.
    ///
    /// The end of the chain is checked, and against the last anchor of each sink that can tell it:
    /// a file that was cut off, put back or removed is refused, not gone on with.
    ///
    /// # Errors
    ///
    /// Any of [`HistoryError`]. Nothing that was there is changed then.
    pub fn open(place: &Place, sinks: Vec<Box<dyn AnchorSink>>) -> Result<Self, HistoryError> {
        let (directory, _lock) = place.lock(&FORMAT)?;
        archive::settle(&directory)?;
        let reader = Reader {
            file: EventsFile {
                connection: place::open_for_writing(&directory, &FORMAT)?,
                path: place.directory.join(EVENTS_FILE),
            },
            held: None,
            damage: RefCell::default(),
        };
        let head = reader.head()?;
        audit::check_end(reader.file(), head, CHECKED_AT_OPEN)?;
        let mut told = Vec::new();
        for sink in sinks {
            let trouble = match sink.last() {
                Ok(Some(anchor)) => {
                    audit::check_anchor(&reader, head, &anchor)?;
                    None
                }
                Ok(None) => None,
                Err(error) => Some(AnchorTrouble {
                    sink: sink.name(),
                    error,
                }),
            };
            told.push(Told {
                sink,
                seq: Seq::default(),
                tried_at: None,
                trouble,
            });
        }
        Ok(Self {
            reader,
            _lock,
            head,
            sinks: told,
            archiving: Archiving {
                at_bytes: place.archive_at_bytes,
                is_closed: false,
                trouble: None,
                retry_at: None,
            },
        })
    }

    /// Appends events, all of them or none, and returns the number of the last.
    ///
    /// They are on the disk when this returns. Several at once cost as much as one. If the file is full,
    /// it becomes an archive before that, and the next file begins with an event of its own.
    ///
    /// # Errors
    ///
    /// If they could not be recorded. What was recorded before is as it was.
    pub fn append(&mut self, events: &[Event]) -> Result<Seq, HistoryError> {
        events.iter().try_for_each(Event::check)?;
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(self.head.map_or(Seq(0), |head| head.seq));
        };
        self.archive_if_full(first.stamp)?;
        let head = self.commit(events)?;
        self.head = Some(head);
        self.anchor_if_due(last.stamp.monotonic);
        Ok(head.seq)
    }

    fn commit(&mut self, events: &[Event]) -> Result<Anchor, HistoryError> {
        let EventsFile { connection, path } = &mut self.reader.file;
        let failed = |error| HistoryError::sqlite(path, "written", error);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let found = head(&transaction).map_err(failed)?;
        if found != self.head {
            return Err(HistoryError::Tampered {
                path: path.clone(),
                seq: self.head.map_or(Seq(0), |head| head.seq).next(),
                what: "somebody else wrote to it while we had it open".to_owned(),
            });
        }
        let mut seq = found.map_or(Seq(0), |head| head.seq);
        let mut hash = found.map_or(GENESIS, |head| head.hash);
        let mut wall = WallTime::default();
        let mut append = Append::new(&transaction).map_err(failed)?;
        for event in events {
            seq = seq.next();
            let previous = hash;
            hash = event.hash(seq, &previous);
            wall = event.stamp.wall;
            append
                .append(seq, event, &previous, &hash)
                .map_err(failed)?;
        }
        drop(append);
        transaction.commit().map_err(failed)?;
        Ok(Anchor { seq, hash, wall })
    }

    /// Tells each sink where the chain's head is, if enough happened or enough time passed since it
    /// was told, or it could not be a few seconds ago. To be called now and then: the last event of
    /// a while waits for it.
    pub fn anchor_if_due(&mut self, now: Instant) {
        let Some(head) = self.head else { return };
        for told in self.sinks.iter_mut().filter(|told| told.is_due(&head, now)) {
            told.tell(&head, now);
        }
    }

    /// Tells the sinks where the chain's head is. Before a snapshot, for one; dropping
    /// this does it as well.
    pub fn anchor(&mut self, now: Instant) {
        let Some(head) = self.head else { return };
        for told in &mut self.sinks {
            told.tell(&head, now);
        }
    }

    /// Sinks that could not be told or asked, until they are told.
    ///
    /// The history goes on without them, but what follows the last anchor can be cut off without
    /// trace, so an operator should know.
    pub fn anchor_troubles(&self) -> impl Iterator<Item = &AnchorTrouble> {
        self.sinks.iter().filter_map(|told| told.trouble.as_ref())
    }

    /// Moves what is in the write-ahead log into the file.
    ///
    /// # Errors
    ///
    /// If that fails. Nothing is lost by it.
    pub(super) fn checkpoint(&self) -> Result<(), HistoryError> {
        self.reader.file.checkpoint()
    }

    /// What keeps a file that is full from becoming an archive, until it is one. Events are recorded all
    /// the same.
    #[must_use]
    pub const fn archive_trouble(&self) -> Option<&HistoryError> {
        self.archiving.trouble.as_ref()
    }

    /// What is wrong with an archive, without which this goes on.
    #[must_use]
    pub fn archive_damage(&self) -> Option<String> {
        let damage = self.reader.damage.borrow();
        damage.as_ref().map(ToString::to_string)
    }

    /// Makes the file an archive and begins the next, if it is time to and nobody reads.
    ///
    /// # Errors
    ///
    /// If there is no file to go on with.
    fn archive_if_full(&mut self, stamp: Stamp) -> Result<(), HistoryError> {
        let now = stamp.monotonic;
        if self.archiving.is_closed {
            self.open_again()?;
        }
        let waits = self
            .archiving
            .retry_at
            .is_some_and(|retry_at| now < retry_at);
        if waits || !self.is_full()? {
            return Ok(());
        }
        let Some(_alone) = archive::keep_readers_out(self.reader.file.directory())? else {
            return Ok(());
        };
        let archived = self.archive(stamp);
        let failed = archived.is_err();
        self.archiving.trouble = archived.err();
        self.archiving.retry_at = failed.then(|| now.plus(ARCHIVE_RETRY));
        self.open_again()?;
        if !failed {
            self.anchor(now);
        }
        Ok(())
    }

    fn is_full(&self) -> Result<bool, HistoryError> {
        if self.reader.file.bytes()? < self.archiving.at_bytes {
            return Ok(false);
        }
        // A file with nothing but the event it began with stays, however little an archive may hold; and
        // what somebody else has written to is not put away but refused by what comes next.
        let begun = self
            .reader
            .file
            .continued()?
            .map(|continued| continued.end.seq.next());
        let found = self.reader.file.head()?;
        Ok(found == self.head && found.map(|head| head.seq) > begun)
    }

    /// Makes the file an archive and puts the next in its place. Whatever comes of it, the file is closed
    /// then.
    fn archive(&mut self, stamp: Stamp) -> Result<(), HistoryError> {
        let file = &self.reader.file;
        let Some(end) = self.head else { return Ok(()) };
        let directory = file.directory().to_owned();
        let path = file.path.clone();
        let first = file.continued()?.map_or(Seq(0), |before| before.end.seq);
        let archive = Archive::in_directory(&directory, first.next(), end.seq);
        let latest = file.latest()?;
        let is_whole = file.give_up_log();
        self.close_file()?;
        is_whole?;
        place::sync(&path)?;
        let event = Event::new(stamp, HISTORY_ARCHIVED, "monitor", &archive.body(&path)?);
        let next = place::make_fresh(&path, &FORMAT, |connection| {
            begin(connection, &Continued { end, latest }, &event)
        })?;
        archive::change_over(&directory, &archive, &next)
    }

    fn close_file(&mut self) -> Result<(), HistoryError> {
        let EventsFile { connection, path } = &mut self.reader.file;
        let nothing = Connection::open_in_memory();
        let nothing = nothing.map_err(|error| HistoryError::sqlite(path, "closed", error))?;
        self.archiving.is_closed = true;
        let closed = mem::replace(connection, nothing).close();
        closed.map_err(|(_, error)| HistoryError::sqlite(path, "closed", error))
    }

    /// Opens the file that has the name of events.db after an attempt to make an archive.
    fn open_again(&mut self) -> Result<(), HistoryError> {
        if !self.archiving.is_closed {
            return Ok(());
        }
        let directory = self.reader.file.directory().to_owned();
        archive::settle(&directory)?;
        self.reader.file.connection = place::open_for_writing(&directory, &FORMAT)?;
        let file = &self.reader.file;
        let (found, continued) = (file.head()?, file.continued()?);
        let is_next = continued.map(|continued| continued.end) == self.head
            && found.map(|head| head.seq) == self.head.map(|head| head.seq.next());
        if found != self.head && !is_next {
            return Err(HistoryError::Tampered {
                path: file.path.clone(),
                seq: self.head.map_or(Seq(0), |head| head.seq).next(),
                what: "somebody put another in its place while it was closed".to_owned(),
            });
        }
        self.head = found;
        self.archiving.is_closed = false;
        Ok(())
    }
}

/// Whoever ends in an orderly way leaves nothing behind that no anchor vouches for.
impl Drop for Events {
    fn drop(&mut self) {
        let Some(head) = self.head else { return };
        for told in self.sinks.iter_mut().filter(|told| told.seq != head.seq) {
            // Nobody is left to be told; the next to open it writes one as soon as it appends.
            let _ = told.sink.write(&head);
        }
    }
}

/// Statements that append, made ready once for all events of a commit.
struct Append<'a> {
    boot: Statement<'a>,
    event: Statement<'a>,
}

impl<'a> Append<'a> {
    fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        let boot = "INSERT INTO boot (uuid) VALUES (?) ON CONFLICT DO NOTHING";
        let event = "INSERT INTO event
                     SELECT ?, ?, ?, id, ?, ?, ?, ?, ?, ?, ? FROM boot WHERE uuid = ?";
        Ok(Self {
            boot: connection.prepare(boot)?,
            event: connection.prepare(event)?,
        })
    }

    fn append(
        &mut self,
        seq: Seq,
        event: &Event,
        previous: &[u8; 32],
        hash: &[u8; 32],
    ) -> rusqlite::Result<()> {
        let boot = event.stamp.boot.to_string();
        self.boot.execute([&boot])?;
        self.event.execute(params![
            stored(seq.0),
            event.stamp.wall.unix_nanos(),
            stored(event.stamp.monotonic.as_nanos()),
            event.severity.number(),
            event.kind,
            event.subject,
            event.refers_to.map(|seq| stored(seq.0)),
            event.body,
            previous,
            hash,
            boot,
        ])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the first schema with some events, which were recorded as always.
    fn older(directory: &Path) -> Vec<Recorded> {
        let place = Place::new(directory);
        let mut events = Events::open(&place, Vec::new()).unwrap();
        let stamp = Stamp {
            wall: WallTime::from_unix_millis(1_000_000),
            monotonic: Instant::ORIGIN,
            boot: BootId::of_this_boot(),
        };
        let kinds = ["start", "firmware", "firmware", "stop"];
        let recorded = kinds.map(|kind| Event::new(stamp, kind, "card", &"body"));
        events.append(&recorded).unwrap();
        drop(events);
        let file = Connection::open(directory.join(EVENTS_FILE)).unwrap();
        let begin = TABLES.find("CREATE TRIGGER event_is_next").unwrap();
        let end = begin + TABLES[begin..].find("END;").unwrap() + 4;
        file.execute_batch(&format!(
            "DROP INDEX event_by_kind; DROP TRIGGER event_refers_to_what_is_there;
             DROP TRIGGER event_is_next; DROP TABLE continued; {}; PRAGMA user_version = 1",
            &TABLES[begin..end]
        ))
        .unwrap();
        let all = Reader::open(directory).unwrap().query(&Filter::default());
        all.unwrap()
    }

    fn of_kinds(kinds: &[&str]) -> Filter {
        Filter {
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            ..Filter::default()
        }
    }

    fn version(directory: &Path) -> i32 {
        let file = Connection::open(directory.join(EVENTS_FILE)).unwrap();
        file.pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_file_of_an_older_schema_is_read_as_it_is_and_brought_up_to_date_by_who_writes_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = &root.path().join("history");
        let recorded = older(directory);
        let reader = Reader::open(directory).unwrap();
        assert!(reader.verify(&[]).unwrap().is_proven());
        let some = reader.query(&of_kinds(&["firmware", "stop"])).unwrap();
        assert_eq!(some, recorded[1..]);
        drop(reader);
        assert_eq!(version(directory), 1, "who reads changed it");
        let events = Events::open(&Place::new(directory), Vec::new()).unwrap();
        assert_eq!(events.query(&Filter::default()).unwrap(), recorded);
        assert!(events.verify(&[]).unwrap().is_proven());
        drop(events);
        assert_eq!(version(directory), 3);
        // Once is enough.
        drop(Events::open(&Place::new(directory), Vec::new()).unwrap());
    }

    #[test]
    fn a_file_of_an_older_schema_that_was_altered_is_refused_and_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let directory = &root.path().join("history");
        older(directory);
        let file = Connection::open(directory.join(EVENTS_FILE)).unwrap();
        file.execute_batch("DROP TRIGGER event_stays").unwrap();
        drop(file);
        let error = Events::open(&Place::new(directory), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("event_stays"), "{error}");
        assert_eq!(version(directory), 1);
    }

    /// Files that are out there have it, to the blank.
    #[test]
    fn the_schemas_are_what_they_were_when_they_were_given_out() {
        let sum = |text: &str| {
            let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            crate::report::hex(&digest.as_ref()[..8])
        };
        assert_eq!(
            FORMAT.schemas.iter().map(|it| sum(it)).collect::<Vec<_>>(),
            ["37845f08527da9c1", "65f8bf833838feea", "e2aef7feed57b05b"]
        );
    }

    #[test]
    fn events_of_several_kinds_come_once_each_and_in_order_from_either_end() {
        let root = tempfile::tempdir().unwrap();
        let recorded = older(root.path());
        let events = Events::open(&Place::new(root.path()), Vec::new()).unwrap();
        let seqs = |filter: &Filter| {
            let found = events.query(filter).unwrap();
            found.iter().map(|it| it.seq.0).collect::<Vec<_>>()
        };
        let twice = of_kinds(&["stop", "firmware", "stop"]);
        assert_eq!(seqs(&twice), [2, 3, 4]);
        let latest = Filter {
            latest_first: true,
            limit: Some(2),
            ..twice.clone()
        };
        assert_eq!(seqs(&latest), [4, 3]);
        let until = Filter {
            until: Some(Seq(2)),
            ..twice
        };
        assert_eq!(seqs(&until), [2]);
        assert_eq!(seqs(&Filter::default()).len(), recorded.len());
    }
}
