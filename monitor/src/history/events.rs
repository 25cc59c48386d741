//! The events themselves: appended, durable when acknowledged, never changed.
//!
//! It does not say what an event means. Whoever reads needs no permission to write, and reads what
//! was committed before it asked, while the writer goes on.

use super::anchor::{Anchor, AnchorSink};
use super::audit::{self, AuditReport};
use super::error::HistoryError;
use super::event::{Event, GENESIS, Recorded, Seq, Severity, stored};
use super::place::{self, AtPowerCut, Format, Owned, Place};
use super::time::{BootId, Stamp, WallTime};
use hwshim::clock::Instant;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, Statement, ToSql, TransactionBehavior, params};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

pub(super) const FORMAT: Format = Format {
    file: EVENTS_FILE,
    application_id: i32::from_be_bytes(*b"cmev"),
    schemas: &[TABLES, BY_KIND],
    at_power_cut: AtPowerCut::KeepsAll,
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

const COLUMNS: &str = "SELECT event.seq, wall_ns, monotonic_ns, uuid, severity, kind, subject,
    refers_to, body, prev, hash FROM event LEFT JOIN boot ON boot.id = event.boot";

/// Reads events, also while another process writes them.
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reader").field(&self.path).finish()
    }
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

impl Reader {
    /// Opens the events in `directory` for reading.
    ///
    /// # Errors
    ///
    /// If there are none, or they cannot be read.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let path = directory.join(EVENTS_FILE);
        let connection = place::open_for_reading(&path, &FORMAT)?;
        Ok(Self { connection, path })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> HistoryError {
        move |error| HistoryError::sqlite(&self.path, doing, error)
    }

    /// The last event's place in the chain; `None` before the first.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn head(&self) -> Result<Option<Anchor>, HistoryError> {
        head(&self.connection).map_err(self.failed("read"))
    }

    /// One event.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn get(&self, seq: Seq) -> Result<Option<Recorded>, HistoryError> {
        let filter = Filter {
            from: Some(seq),
            until: Some(seq),
            ..Filter::default()
        };
        Ok(self.query(&filter)?.pop())
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
        let failed = self.failed("read");
        let text = "SELECT DISTINCT kind FROM event ORDER BY kind";
        let mut statement = self.connection.prepare(text).map_err(&failed)?;
        let kinds = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        kinds.collect::<Result<_, _>>().map_err(&failed)
    }

    /// How many steps SQLite takes to find what a filter lets through, whatever the disk is like. Of a
    /// table that is read from end to end it takes several for each row.
    #[cfg(test)]
    pub(crate) fn steps(&self, filter: &Filter) -> u64 {
        let (text, values) = filter.statement();
        let mut statement = self.connection.prepare(&text).unwrap();
        let values: Vec<&dyn ToSql> = values.iter().map(|value| &**value).collect();
        let mut rows = statement.query(&*values).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        let steps = statement.get_status(rusqlite::StatementStatus::VmStep);
        u64::try_from(steps).unwrap()
    }

    /// Shows each event that a filter lets through, until `show` has seen enough.
    ///
    /// # Errors
    ///
    /// If the file cannot be read; what could be, was shown.
    pub fn each(
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

    /// Checks every event, the file they are in, and the chain against `anchors`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read for a reason that says nothing about what is in it. Damage is
    /// no error but a finding.
    pub fn verify(&self, anchors: &[Anchor]) -> Result<AuditReport, HistoryError> {
        audit::verify(self, anchors)
    }
}

impl Filter {
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
        return Ok(None);
    };
    Ok(Some(Anchor {
        seq: Seq(unsigned(row, 0)?),
        hash: row.get(1)?,
        wall: WallTime::from_unix_nanos(row.get(2)?),
    }))
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
            .field("path", &self.reader.path)
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
        let Owned { connection, _lock } = place.own(&FORMAT)?;
        let path = place.directory.join(EVENTS_FILE);
        let reader = Reader { connection, path };
        let head = reader.head()?;
        audit::check_end(&reader, head, CHECKED_AT_OPEN)?;
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
        })
    }

    /// Appends events, all of them or none, and returns the number of the last.
    ///
    /// They are on the disk when this returns. Several at once cost as much as one.
    ///
    /// # Errors
    ///
    /// If they could not be recorded. What was recorded before is as it was.
    pub fn append(&mut self, events: &[Event]) -> Result<Seq, HistoryError> {
        events.iter().try_for_each(Event::check)?;
        let Some(last) = events.last() else {
            return Ok(self.head.map_or(Seq(0), |head| head.seq));
        };
        let head = self.commit(events)?;
        self.head = Some(head);
        self.anchor_if_due(last.stamp.monotonic);
        Ok(head.seq)
    }

    fn commit(&mut self, events: &[Event]) -> Result<Anchor, HistoryError> {
        let path = &self.reader.path;
        let failed = |error| HistoryError::sqlite(path, "written", error);
        let transaction = self
            .reader
            .connection
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
        self.reader
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(self.failed("written"))
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
        file.execute_batch("DROP INDEX event_by_kind; PRAGMA user_version = 1")
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
        assert!(reader.verify(&[]).unwrap().is_clean());
        let some = reader.query(&of_kinds(&["firmware", "stop"])).unwrap();
        assert_eq!(some, recorded[1..]);
        drop(reader);
        assert_eq!(version(directory), 1, "who reads changed it");
        let events = Events::open(&Place::new(directory), Vec::new()).unwrap();
        assert_eq!(events.query(&Filter::default()).unwrap(), recorded);
        assert!(events.verify(&[]).unwrap().is_clean());
        drop(events);
        assert_eq!(version(directory), 2);
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
            ["37845f08527da9c1", "65f8bf833838feea"]
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
