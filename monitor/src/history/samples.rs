//! Figures over time: every second for a day, and coarser the older they are.
//!
//! It interpolates nothing. Where nothing was seen there is a gap, and it says why.
//!
//! ```text
//!   record --> memory --every 10 s--> tail --at the end of an hour--> chunks
//!                      one commit    small rows   samples packed, coarser tiers made of them
//! ```
//!
//! What is too old is forgotten by the calendar, and a calendar may be wrong. Nothing is before one has gone
//! through an hour of it from end to end, and then the oldest hours and days alone, two with each hour that
//! passes: who was away for long has forgotten a day later what is too old, and who sets a calendar right
//! again finds nearly all that was there.
//!
//! What a kill takes is what was in memory; a power cut takes also what the kernel has not written yet,
//! which is half a minute as a rule (`vm.dirty_expire_centisecs`). A file that is damaged is moved aside
//! and begun anew: figures are worth less than going on.

mod chunk;
mod codec;

use super::error::{HistoryError, printable};
use super::place::{self, AtPowerCut, Format, Owned, Place};
use super::time::WallTime;
use chunk::{Columns, Entry};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file in its directory.
pub const SAMPLES_FILE: &str = "samples.db";
/// Time between commits, which is what can be lost of what was recorded.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Samples that wait in memory at most, while the disk takes none: ten minutes of a hundred series.
const WAITING_MAX: usize = 60_000;
/// Milliseconds to which times are kept: a poll that is a millisecond late each time is even.
const TIME_STEP: i64 = 10;
/// Longest name of a series, in bytes.
const NAME_LEN_MAX: usize = 256;
/// Spans of a tier that are forgotten at a time: with each hour one is too old at most, and one more is of
/// what became so while nobody looked.
const SPANS_AT_ONCE: u8 = 2;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

const FORMAT: Format = Format {
    file: SAMPLES_FILE,
    application_id: i32::from_be_bytes(*b"cmsm"),
    schemas: &["
        CREATE TABLE series (
            id   INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE
        ) STRICT;
        CREATE TABLE tail (
            id     INTEGER PRIMARY KEY,
            hour   INTEGER NOT NULL,
            series INTEGER NOT NULL REFERENCES series (id),
            points BLOB NOT NULL
        ) STRICT;
        CREATE TABLE chunk (
            tier    INTEGER NOT NULL,
            start   INTEGER NOT NULL,
            series  INTEGER NOT NULL REFERENCES series (id),
            points  BLOB NOT NULL,
            PRIMARY KEY (tier, series, start)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE gap (
            id     INTEGER PRIMARY KEY,
            start  INTEGER NOT NULL,
            until  INTEGER NOT NULL,
            reason INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE progress (
            id     INTEGER PRIMARY KEY CHECK (id = 1),
            last   INTEGER NOT NULL,
            closed INTEGER NOT NULL
        ) STRICT;"],
    at_power_cut: AtPowerCut::LosesTail,
    foreign_keys: true,
};

/// How finely the past is known.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Samples as they came, for 24 hours.
    Second,
    /// The last of every ten seconds, for 7 days.
    TenSeconds,
    /// Aggregates of a minute, for 90 days.
    Minute,
    /// Aggregates of an hour, for 5 years.
    Hour,
}

impl Tier {
    /// All of them, the finest first.
    pub const ALL: [Self; 4] = [Self::Second, Self::TenSeconds, Self::Minute, Self::Hour];

    /// Time between points.
    #[must_use]
    pub const fn step(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        })
    }

    /// How long points are kept.
    #[must_use]
    pub const fn retention(self) -> Duration {
        DAY.saturating_mul(match self {
            Self::Second => 1,
            Self::TenSeconds => 7,
            Self::Minute => 90,
            Self::Hour => 5 * 365,
        })
    }

    /// Time that one chunk covers: long enough that its row costs little beside its points.
    const fn span(self) -> Duration {
        match self {
            Self::Second => HOUR,
            Self::TenSeconds | Self::Minute => DAY,
            Self::Hour => DAY.saturating_mul(30),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Second => 0,
            Self::TenSeconds => 1,
            Self::Minute => 2,
            Self::Hour => 3,
        }
    }
}

/// What a stretch of time was like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Aggregate {
    /// The least.
    pub min: f64,
    /// The mean, to one in four thousand million.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
    /// The least that two samples in a row did not exceed: one reading that dips does not move it.
    pub floor: f64,
}

/// Why there are no samples.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The monitor had been stopped.
    Stopped,
    /// It ended without being asked to, and took with it what it had not yet committed.
    Lost,
    /// The disk took nothing for so long that samples had to be dropped.
    Dropped,
}

impl GapReason {
    const ALL: [Self; 3] = [Self::Stopped, Self::Lost, Self::Dropped];

    const fn number(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Lost => 1,
            Self::Dropped => 2,
        }
    }
}

/// A point of a series, or a stretch without any.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When; for an aggregate and a gap, when it began.
    pub at: WallTime,
    /// What.
    pub value: Value,
}

/// What is known of one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// One sample.
    Sample(f64),
    /// What all samples of a step were like.
    Aggregate(Aggregate),
    /// Nothing, of any series.
    Gap {
        /// Until when.
        until: WallTime,
        /// Why.
        reason: GapReason,
    },
}

/// Records samples. There is one of these for a directory, in one process.
pub struct Samples {
    connection: Connection,
    _lock: File,
    path: PathBuf,
    series: BTreeMap<String, Waiting>,
    waiting: usize,
    /// The first time of what waits, and the last.
    times: Option<(i64, i64)>,
    /// Where the gap begins that ends with the next sample, and why there is one.
    gap_since: Option<(i64, GapReason)>,
    hour: Option<i64>,
    /// The file on the disk may say that it ended in an orderly way, and it goes on.
    is_closed_on_disk: bool,
}

/// One series, and its samples that are not in the file yet.
#[derive(Debug, Default)]
struct Waiting {
    id: Option<i64>,
    entries: Vec<Entry<f64>>,
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Samples");
        shown
            .field("path", &self.path)
            .field("waiting", &self.waiting);
        shown.finish_non_exhaustive()
    }
}

/// Samples, and what happened when they were opened.
#[derive(Debug)]
pub struct OpenedSamples {
    /// To record.
    pub samples: Samples,
    /// Where the damaged file is now, if there was one. A fact for an event.
    pub moved_aside: Option<PathBuf>,
    /// What was wrong with it.
    pub damage: Option<HistoryError>,
}

impl Samples {
    /// Opens the samples of `place`, and makes the file if it is not there.
    ///
    /// A damaged file is moved aside, to a name with `now` in it, and another begun.
    ///
    /// # Errors
    ///
    /// If there is a file that is not ours, or is newer, or the directory takes none.
    pub fn open(place: &Place, now: WallTime) -> Result<OpenedSamples, HistoryError> {
        let path = place.directory.join(SAMPLES_FILE);
        let (samples, damage) = match Self::open_whole(place) {
            Ok(samples) => {
                return Ok(OpenedSamples {
                    samples,
                    moved_aside: None,
                    damage: None,
                });
            }
            Err(damage) if damage.is_damage() || place::is_no_database(&path) => {
                let aside = move_aside(&path, now)?;
                (Self::open_whole(place)?, (aside, damage))
            }
            Err(error) => return Err(error),
        };
        let (aside, damage) = damage;
        Ok(OpenedSamples {
            samples,
            moved_aside: Some(aside),
            damage: Some(damage),
        })
    }

    fn open_whole(place: &Place) -> Result<Self, HistoryError> {
        let Owned { connection, _lock } = place.own(&FORMAT)?;
        let path = place.directory.join(SAMPLES_FILE);
        let failed = |error| HistoryError::sqlite(&path, "read", error);
        let progress = connection
            .query_row("SELECT last, closed FROM progress", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(failed)?;
        // What ended in an orderly way was whole then, and is looked at as it is read.
        if progress.is_some_and(|(_, closed): (i64, bool)| !closed) {
            check(&connection, &path)?;
        }
        let gap_since = progress.map(|(last, closed)| {
            let reason = if closed {
                GapReason::Stopped
            } else {
                GapReason::Lost
            };
            (last, reason)
        });
        let series = series_of(&connection).map_err(failed)?;
        Ok(Self {
            is_closed_on_disk: progress.is_none_or(|(_, closed)| closed),
            connection,
            _lock,
            path,
            series,
            waiting: 0,
            times: None,
            gap_since,
            hour: None,
        })
    }

    /// Records what a series was at a time, which is kept to a hundredth of a second. Every ten
    /// seconds of that time, what came since is committed.
    ///
    /// # Errors
    ///
    /// If the value is none, or a commit failed. After a failed commit the samples wait, and are
    /// in the next; if it stays so, the oldest are dropped, and a gap remains.
    pub fn record(&mut self, series: &str, now: WallTime, value: f64) -> Result<(), HistoryError> {
        check_sample(series, value)?;
        let flushed = self.flush_if_due(now);
        self.put(series, now, value);
        flushed
    }

    /// Records what several series were at one time. What is no sample, as of a series whose name
    /// is too long, is left out.
    ///
    /// # Errors
    ///
    /// If a commit failed. It is tried once, and all of the samples wait then.
    pub fn record_all(
        &mut self,
        samples: &[(String, f64)],
        now: WallTime,
    ) -> Result<(), HistoryError> {
        let flushed = self.flush_if_due(now);
        for (series, value) in samples {
            if check_sample(series, *value).is_ok() {
                self.put(series, now, *value);
            }
        }
        flushed
    }

    /// Commits what waits if at `now`, which may be yet to come, it would be due.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    pub fn flush_if_due(&mut self, now: WallTime) -> Result<(), HistoryError> {
        match self.times {
            Some((first, last)) if self.is_due(first, last, kept_at(now)) => self.flush(),
            _ => Ok(()),
        }
    }

    fn put(&mut self, series: &str, now: WallTime, value: f64) {
        let at = kept_at(now);
        self.times = Some(self.times.map_or((at, at), |(first, _)| (first, at)));
        if !self.series.contains_key(series) {
            self.series.insert(series.to_owned(), Waiting::default());
        }
        let waiting = self.series.get_mut(series).expect("it was just put there");
        waiting.entries.push(Entry { at, value });
        self.waiting += 1;
    }

    /// Whether it is time to commit: enough passed, the clock was set back, or an hour ended.
    fn is_due(&self, first: i64, last: i64, at: i64) -> bool {
        let interval = i64::try_from(FLUSH_INTERVAL.as_millis()).unwrap_or(i64::MAX);
        at < last || at.saturating_sub(first) >= interval || hour_of(at) != hour_of(last)
    }

    /// Commits what waits.
    ///
    /// # Errors
    ///
    /// If that failed; it goes on waiting.
    pub fn flush(&mut self) -> Result<(), HistoryError> {
        let Some((first, last)) = self.times else {
            return Ok(());
        };
        if let Err(error) = self.commit(first, last) {
            if self.waiting >= WAITING_MAX {
                self.drop_waiting(first);
            }
            let error = HistoryError::sqlite(&self.path, "written", error);
            return Err(error);
        }
        for waiting in self.series.values_mut() {
            waiting.entries.clear();
        }
        self.waiting = 0;
        self.times = None;
        self.gap_since = None;
        let hour = hour_of(last);
        if self.hour.replace(hour) != Some(hour) {
            self.close_hours(hour)?;
        }
        Ok(())
    }

    fn drop_waiting(&mut self, first: i64) {
        for waiting in self.series.values_mut() {
            waiting.entries.clear();
        }
        self.waiting = 0;
        self.times = None;
        self.gap_since.get_or_insert((first, GapReason::Dropped));
    }

    fn commit(&mut self, first: i64, last: i64) -> rusqlite::Result<()> {
        // That there is no orderly end any more has to be known after a power cut.
        let at_power_cut = match self.is_closed_on_disk {
            true => AtPowerCut::KeepsAll,
            false => FORMAT.at_power_cut,
        };
        self.connection
            .pragma_update(None, "synchronous", at_power_cut.synchronous())?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some((since, reason)) = self.gap_since.filter(|(since, _)| *since < first) {
            transaction.execute(
                "INSERT INTO gap (start, until, reason) VALUES (?, ?, ?)",
                params![since, first, reason.number()],
            )?;
        }
        let mut ids = Vec::new();
        let mut tail =
            transaction.prepare("INSERT INTO tail (hour, series, points) VALUES (?, ?, ?)")?;
        for (name, waiting) in &self.series {
            if waiting.entries.is_empty() {
                continue;
            }
            let id = match waiting.id {
                Some(id) => id,
                None => make_series(&transaction, name)?,
            };
            ids.push((name.clone(), id));
            // Samples of one commit are of one hour, but for clocks that were set in between.
            for part in waiting
                .entries
                .chunk_by(|a, b| hour_of(a.at) == hour_of(b.at))
            {
                tail.execute(params![hour_of(part[0].at), id, chunk::pack(part)])?;
            }
        }
        drop(tail);
        put_progress(&transaction, last, false)?;
        transaction.commit()?;
        self.is_closed_on_disk = false;
        for (name, id) in ids {
            self.series.entry(name).or_default().id = Some(id);
        }
        Ok(())
    }

    /// Makes chunks of every hour but the present one, and forgets what is too old.
    fn close_hours(&mut self, present: i64) -> Result<(), HistoryError> {
        let failed = |error| HistoryError::sqlite(&self.path, "written", error);
        let mut ended = ended_hours(&self.connection, present).map_err(failed)?;
        ended.dedup();
        for (hour, series) in ended {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed)?;
            Hour {
                connection: &transaction,
                path: &self.path,
                hour,
                series,
            }
            .close()?;
            transaction.commit().map_err(failed)?;
        }
        retire(&self.connection, present).map_err(failed)
    }

    /// Shows the points of a series from one time until before another, in order, with the gaps
    /// between them, until `show` has seen enough. What waits is committed first.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. A series that was never recorded has no points.
    pub fn range(
        &mut self,
        series: &str,
        from: WallTime,
        until: WallTime,
        tier: Tier,
        show: impl FnMut(Point) -> bool,
    ) -> Result<(), HistoryError> {
        self.flush()?;
        range(
            &self.connection,
            &self.path,
            series,
            (from, until),
            tier,
            show,
        )
    }

    /// Names of all series.
    #[must_use]
    pub fn series(&self) -> Vec<&str> {
        self.series.keys().map(String::as_str).collect()
    }

    /// Commits what waits, and notes that nothing was lost.
    ///
    /// # Errors
    ///
    /// If that failed: the next start will mark the time since the last commit as lost.
    pub fn close(mut self) -> Result<(), HistoryError> {
        self.pause()
    }

    /// As [`Self::close`], for now: the next sample ends the pause.
    pub(super) fn pause(&mut self) -> Result<(), HistoryError> {
        self.flush()?;
        self.is_closed_on_disk = true;
        self.connection
            .execute("UPDATE progress SET closed = 1", [])
            .and_then(|_| {
                let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
                self.connection.query_row(checkpoint, [], |_| Ok(()))
            })
            .map_err(|error| HistoryError::sqlite(&self.path, "written", error))
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Reads samples, also while another process records them; what that has not committed, ten
/// seconds at most, is not seen.
pub struct SampleReader {
    connection: Connection,
    path: PathBuf,
}

impl std::fmt::Debug for SampleReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SampleReader").field(&self.path).finish()
    }
}

impl SampleReader {
    /// Opens the samples in `directory` for reading.
    ///
    /// # Errors
    ///
    /// If there are none, or they cannot be read.
    pub fn open(directory: &Path) -> Result<Self, HistoryError> {
        let path = directory.join(SAMPLES_FILE);
        let connection = place::open_for_reading(&path, &FORMAT)?;
        Ok(Self { connection, path })
    }

    /// As [`Samples::range`], of what was committed.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn range(
        &self,
        series: &str,
        from: WallTime,
        until: WallTime,
        tier: Tier,
        show: impl FnMut(Point) -> bool,
    ) -> Result<(), HistoryError> {
        range(
            &self.connection,
            &self.path,
            series,
            (from, until),
            tier,
            show,
        )
    }

    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Names of all series.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn series(&self) -> Result<Vec<String>, HistoryError> {
        series_of(&self.connection)
            .map(|series| series.into_keys().collect())
            .map_err(|error| HistoryError::sqlite(&self.path, "read", error))
    }

    /// Checks that the file is put together as it should be, and that every chunk can be read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), HistoryError> {
        check(&self.connection, &self.path)
    }
}

/// Checks that the file is put together as it should be, and that every chunk can be read.
fn check(connection: &Connection, path: &Path) -> Result<(), HistoryError> {
    let check = "PRAGMA quick_check(1)";
    let said: Result<String, _> = connection.query_row(check, [], |row| row.get(0));
    match said {
        Ok(said) if said == "ok" => chunks_can_be_read(connection, path),
        Ok(what) => Err(HistoryError::Corrupt {
            path: path.to_owned(),
            what: printable(&what),
        }),
        Err(error) => Err(HistoryError::sqlite(path, "read", error)),
    }
}

fn chunks_can_be_read(connection: &Connection, path: &Path) -> Result<(), HistoryError> {
    let failed = |error| HistoryError::sqlite(path, "read", error);
    let mut statement = connection
        .prepare("SELECT tier, points FROM chunk UNION ALL SELECT 0, points FROM tail")
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let tier: i64 = row.get(0).map_err(failed)?;
        let bytes: Vec<u8> = row.get(1).map_err(failed)?;
        let readable = if tier < i64::from(Tier::Minute.number()) {
            chunk::unpack::<f64>(&bytes).is_some()
        } else {
            chunk::unpack::<Aggregate>(&bytes).is_some()
        };
        if !readable {
            return Err(damaged_chunk(path));
        }
    }
    Ok(())
}

fn damaged_chunk(path: &Path) -> HistoryError {
    HistoryError::Corrupt {
        path: path.to_owned(),
        what: "a chunk of samples is not one".to_owned(),
    }
}

/// Moves the file and what belongs to it to names that nothing opens.
fn move_aside(path: &Path, now: WallTime) -> Result<PathBuf, HistoryError> {
    let suffix = format!("damaged-{}", now.unix_millis());
    let aside = |path: &Path| PathBuf::from(format!("{}.{suffix}", path.display()));
    for part in ["-wal", "-shm", ""] {
        let part = PathBuf::from(format!("{}{part}", path.display()));
        match fs::rename(&part, aside(&part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(|source| place::unreadable(&part, source))?,
        }
    }
    place::sync_directory(path.parent().unwrap_or(path))?;
    Ok(aside(path))
}

const fn millis(duration: Duration) -> i64 {
    // Spans and retentions are constants, the longest five years.
    let seconds = duration.as_secs().cast_signed();
    seconds.saturating_mul(1_000)
}

/// What is no sample, or of no series.
fn check_sample(series: &str, value: f64) -> Result<(), HistoryError> {
    if !value.is_finite() {
        return Err(HistoryError::NotFinite { value });
    }
    if series.len() > NAME_LEN_MAX {
        return Err(HistoryError::SeriesName {
            len: series.len(),
            len_max: NAME_LEN_MAX,
        });
    }
    Ok(())
}

/// A time as it is kept, in milliseconds.
fn kept_at(now: WallTime) -> i64 {
    now.unix_millis().div_euclid(TIME_STEP) * TIME_STEP
}

fn hour_of(at: i64) -> i64 {
    chunk::start_of(at, HOUR)
}

fn series_of(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Waiting>> {
    let mut statement = connection.prepare("SELECT name, id FROM series")?;
    let rows = statement.query_map([], |row| {
        let entries = Vec::new();
        let id = Some(row.get(1)?);
        Ok((row.get(0)?, Waiting { id, entries }))
    })?;
    rows.collect()
}

fn make_series(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.execute("INSERT INTO series (name) VALUES (?)", [name])?;
    Ok(connection.last_insert_rowid())
}

fn put_progress(connection: &Connection, last: i64, closed: bool) -> rusqlite::Result<()> {
    connection
        .prepare("INSERT OR REPLACE INTO progress VALUES (1, ?, ?)")?
        .execute(params![last, closed])?;
    Ok(())
}

/// Hours with samples that are in no chunk yet, each with each of its series.
fn ended_hours(connection: &Connection, present: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let text = "SELECT DISTINCT hour, series FROM tail WHERE hour <> ? ORDER BY hour, series";
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map([present], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Forgets of what is too old at `hour`, which has begun, the oldest spans of each tier.
fn retire(connection: &Connection, hour: i64) -> rusqlite::Result<()> {
    if !came_by_itself(connection, hour)? {
        return Ok(());
    }
    for tier in Tier::ALL {
        let oldest = hour.saturating_sub(millis(tier.retention()));
        let ended = oldest.saturating_sub(millis(tier.span()));
        let text = "DELETE FROM chunk WHERE tier = ?1 AND start <= ?2 AND start IN
                    (SELECT DISTINCT start FROM chunk WHERE tier = ?1 ORDER BY start LIMIT ?3)";
        connection
            .prepare(text)?
            .execute(params![tier.number(), ended, SPANS_AT_ONCE])?;
    }
    // As long as what is between them.
    let text = "DELETE FROM gap WHERE until < ? AND
                until < (SELECT min(start) FROM chunk WHERE tier = ?)";
    let oldest = hour.saturating_sub(millis(Tier::Hour.retention()));
    connection
        .prepare(text)?
        .execute(params![oldest, Tier::Hour.number()])?;
    Ok(())
}

/// Whether there are samples of both hours before, so that time has passed from one to the next and no
/// clock was set to this one.
fn came_by_itself(connection: &Connection, hour: i64) -> rusqlite::Result<bool> {
    let text = "SELECT count(DISTINCT start) FROM chunk WHERE tier = ? AND start IN (?, ?)";
    let before = [1, 2].map(|hours| hour.saturating_sub(hours * millis(HOUR)));
    let key = params![Tier::Second.number(), before[0], before[1]];
    let hours: u8 = connection.query_row(text, key, |row| row.get(0))?;
    Ok(hours == 2)
}

/// One hour of one series, in the tail and about to become chunks.
struct Hour<'a> {
    connection: &'a Transaction<'a>,
    path: &'a Path,
    hour: i64,
    series: i64,
}

impl Hour<'_> {
    fn close(&self) -> Result<(), HistoryError> {
        let mut samples = self.chunk::<f64>(Tier::Second)?;
        samples.extend(tail(self.connection, self.path, self.hour, self.series)?);
        chunk::order(&mut samples);
        self.put(Tier::Second, &samples)?;
        self.replace(Tier::TenSeconds, chunk::thin(&samples))?;
        for tier in [Tier::Minute, Tier::Hour] {
            self.replace(tier, chunk::aggregate(&samples, tier.step()))?;
        }
        self.connection
            .prepare("DELETE FROM tail WHERE hour = ? AND series = ?")
            .and_then(|mut statement| statement.execute([self.hour, self.series]))
            .map(|_| ())
            .map_err(|error| self.failed(error))
    }

    /// Puts this hour's points into the chunk of a coarser tier, in place of what it had of it.
    fn replace<V: Columns>(&self, tier: Tier, points: Vec<Entry<V>>) -> Result<(), HistoryError> {
        let hour = self.hour..self.hour.saturating_add(millis(HOUR));
        let mut all = self.chunk::<V>(tier)?;
        all.retain(|entry| !hour.contains(&entry.at));
        all.extend(points);
        chunk::order(&mut all);
        self.put(tier, &all)
    }

    fn chunk<V: Columns>(&self, tier: Tier) -> Result<Vec<Entry<V>>, HistoryError> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .prepare("SELECT points FROM chunk WHERE tier = ? AND series = ? AND start = ?")
            .and_then(|mut statement| {
                let key = params![tier.number(), self.series, self.start(tier)];
                statement.query_row(key, |row| row.get(0)).optional()
            })
            .map_err(|error| self.failed(error))?;
        bytes.map_or_else(
            || Ok(Vec::new()),
            |bytes| chunk::unpack(&bytes).ok_or_else(|| damaged_chunk(self.path)),
        )
    }

    fn put<V: Columns>(&self, tier: Tier, points: &[Entry<V>]) -> Result<(), HistoryError> {
        self.connection
            .prepare(
                "INSERT OR REPLACE INTO chunk (tier, start, series, points) VALUES (?, ?, ?, ?)",
            )
            .and_then(|mut statement| {
                let (start, points) = (self.start(tier), chunk::pack(points));
                statement.execute(params![tier.number(), start, self.series, points])
            })
            .map(|_| ())
            .map_err(|error| self.failed(error))
    }

    fn start(&self, tier: Tier) -> i64 {
        chunk::start_of(self.hour, tier.span())
    }

    fn failed(&self, error: rusqlite::Error) -> HistoryError {
        HistoryError::sqlite(self.path, "written", error)
    }
}

/// What the tail has of one hour of one series, as it came.
fn tail(
    connection: &Connection,
    path: &Path,
    hour: i64,
    series: i64,
) -> Result<Vec<Entry<f64>>, HistoryError> {
    let failed = |error| HistoryError::sqlite(path, "read", error);
    let mut statement = connection
        .prepare("SELECT points FROM tail WHERE hour = ? AND series = ? ORDER BY id")
        .map_err(failed)?;
    let mut rows = statement.query([hour, series]).map_err(failed)?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let bytes: Vec<u8> = row.get(0).map_err(failed)?;
        entries.extend(chunk::unpack::<f64>(&bytes).ok_or_else(|| damaged_chunk(path))?);
    }
    Ok(entries)
}

/// Puts points and gaps into one order, and stops when somebody has seen enough.
struct Show<S> {
    /// The next gap last.
    gaps: Vec<Point>,
    from: i64,
    until: i64,
    show: S,
}

impl<S: FnMut(Point) -> bool> Show<S> {
    fn entry(&mut self, at: i64, value: Value) -> bool {
        if at < self.from || at >= self.until {
            return true;
        }
        let at = WallTime::from_unix_millis(at);
        self.gaps_before(at) && (self.show)(Point { at, value })
    }

    fn gaps_before(&mut self, at: WallTime) -> bool {
        while let Some(gap) = self.gaps.pop_if(|gap| gap.at < at) {
            if !(self.show)(gap) {
                return false;
            }
        }
        true
    }
}

fn range(
    connection: &Connection,
    path: &Path,
    series: &str,
    (from, until): (WallTime, WallTime),
    tier: Tier,
    show: impl FnMut(Point) -> bool,
) -> Result<(), HistoryError> {
    let failed = |error| HistoryError::sqlite(path, "read", error);
    // One view of the file, while hours move from tail to chunk.
    let view = connection.unchecked_transaction().map_err(failed)?;
    let (from, until) = (from.unix_millis(), until.unix_millis());
    let id: Option<i64> = view
        .query_row("SELECT id FROM series WHERE name = ?", [series], |row| {
            row.get(0)
        })
        .optional()
        .map_err(failed)?;
    let Some(id) = id else { return Ok(()) };
    let mut show = Show {
        gaps: gaps(&view, from, until).map_err(failed)?,
        from,
        until,
        show,
    };
    let starts = starts(&view, id, tier, from, until).map_err(failed)?;
    for start in starts {
        let points = match tier {
            Tier::Second | Tier::TenSeconds => {
                stretch(&view, path, id, tier, start, chunk_samples(tier))?
                    .into_iter()
                    .map(|entry| (entry.at, Value::Sample(entry.value)))
                    .collect::<Vec<_>>()
            }
            Tier::Minute | Tier::Hour => {
                let aggregate = |samples: &[_]| chunk::aggregate(samples, tier.step());
                stretch(&view, path, id, tier, start, aggregate)?
                    .into_iter()
                    .map(|entry| (entry.at, Value::Aggregate(entry.value)))
                    .collect()
            }
        };
        for (at, value) in points {
            if !show.entry(at, value) {
                return Ok(());
            }
        }
    }
    show.gaps_before(WallTime::from_unix_millis(until));
    Ok(())
}

fn chunk_samples(tier: Tier) -> fn(&[Entry<f64>]) -> Vec<Entry<f64>> {
    match tier {
        Tier::Second => <[_]>::to_vec,
        _ => chunk::thin,
    }
}

/// Where the stretches begin that may have points of a range.
fn starts(
    view: &Connection,
    series: i64,
    tier: Tier,
    from: i64,
    until: i64,
) -> rusqlite::Result<Vec<i64>> {
    let first = chunk::start_of(from, tier.span());
    let text = "SELECT start FROM chunk
                WHERE tier = ? AND series = ? AND start >= ? AND start < ?";
    let mut statement = view.prepare(text)?;
    let key = params![tier.number(), series, first, until];
    let rows = statement.query_map(key, |row| row.get(0))?;
    let mut starts: Vec<i64> = rows.collect::<Result<_, _>>()?;
    let text = "SELECT DISTINCT hour FROM tail WHERE series = ?";
    let mut statement = view.prepare(text)?;
    for hour in statement.query_map([series], |row| row.get(0))? {
        starts.push(chunk::start_of(hour?, tier.span()));
    }
    starts.retain(|start| *start >= first && *start < until);
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

/// One span of a tier: its chunk, and what the hours in the tail will add to it.
fn stretch<V: Columns>(
    view: &Transaction<'_>,
    path: &Path,
    series: i64,
    tier: Tier,
    start: i64,
    coarsen: impl Fn(&[Entry<f64>]) -> Vec<Entry<V>>,
) -> Result<Vec<Entry<V>>, HistoryError> {
    let mut hour = Hour {
        connection: view,
        path,
        hour: start,
        series,
    };
    let mut points = hour.chunk::<V>(tier)?;
    let failed = |error| HistoryError::sqlite(path, "read", error);
    let end = start.saturating_add(millis(tier.span()));
    let waiting = ended_hours(view, i64::MIN).map_err(failed)?;
    for (at, _) in waiting
        .into_iter()
        .filter(|(at, of)| *of == series && (start..end).contains(at))
    {
        hour.hour = at;
        let mut samples = hour.chunk::<f64>(Tier::Second)?;
        samples.extend(tail(view, path, at, series)?);
        chunk::order(&mut samples);
        let stretch = at..at.saturating_add(millis(HOUR));
        points.retain(|entry| !stretch.contains(&entry.at));
        points.extend(coarsen(&samples));
    }
    chunk::order(&mut points);
    Ok(points)
}

/// Gaps that touch a range, the first last.
fn gaps(view: &Connection, from: i64, until: i64) -> rusqlite::Result<Vec<Point>> {
    let text = "SELECT start, until, reason FROM gap WHERE start < ? AND until > ?
                ORDER BY start DESC, id DESC";
    let mut statement = view.prepare(text)?;
    let rows = statement.query_map([until, from], |row| {
        let number: u8 = row.get(2)?;
        let reason = GapReason::ALL
            .into_iter()
            .find(|reason| reason.number() == number)
            .ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(2, number.into()))?;
        let [start, until] = [row.get(0)?, row.get(1)?].map(WallTime::from_unix_millis);
        let value = Value::Gap { until, reason };
        Ok(Point { at: start, value })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests;
