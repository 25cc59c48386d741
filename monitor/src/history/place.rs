//! Where a history is kept, who may touch it, and how its files are opened.
//!
//! It knows nothing of what is in them. Opening refuses more than it repairs: a file that is
//! foreign, newer or damaged is left exactly as it was found.

use super::error::{HistoryError, printable};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for whoever reads the file with another tool to let go of it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages of the write-ahead log before they are moved into the file: 1 MiB, a few milliseconds.
const CHECKPOINT_PAGES: i64 = 256;
/// Of every file: for its owner alone.
const FILE_MODE: u32 = 0o600;
/// What an SQLite file begins with (SQLite's "Database File Format", 1.3 "The Database Header").
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The directory of a history, which nobody but its owner may read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The directory. It is made if it is not there; what it stands in is not.
    pub directory: PathBuf,
    /// Size in bytes from which on the file of events becomes an archive, and another is begun.
    pub archive_at_bytes: u64,
}

/// What a file must be to be opened.
pub(super) struct Format {
    /// Name of the file.
    pub file: &'static str,
    /// `PRAGMA application_id`: whose it is.
    pub application_id: i32,
    /// Statements, each of which make a file of one schema one of the next, the first of them an empty
    /// file. How many were done is the `PRAGMA user_version`. What was given a number is never altered.
    pub schemas: &'static [&'static str],
    /// What of it a power cut may take.
    pub at_power_cut: AtPowerCut,
    /// Whether SQLite is to look after what a row says of another. Where that other may be in another
    /// file, triggers do what can be done.
    pub foreign_keys: bool,
}

/// What a power cut takes of a file; a kill takes nothing that was committed (SQLite, "PRAGMA
/// synchronous").
#[derive(Clone, Copy, Debug)]
pub(super) enum AtPowerCut {
    /// Nothing that was committed: a commit waits for the disk.
    KeepsAll,
    /// The end, as far as the kernel had not written it yet. What is left is whole.
    LosesTail,
}

impl AtPowerCut {
    /// The value of `PRAGMA synchronous` for that.
    pub(super) const fn synchronous(self) -> &'static str {
        match self {
            Self::KeepsAll => "full",
            Self::LosesTail => "normal",
        }
    }
}

impl Format {
    /// The newest schema.
    fn version(&self) -> i32 {
        i32::try_from(self.schemas.len()).expect("schemas are written by hand")
    }

    /// The statements that lead from the schema `from` to the schema `to`; none if there are no such.
    fn steps(&self, from: i32, to: i32) -> String {
        let place = |version: i32| usize::try_from(version).unwrap_or(0);
        let steps = self.schemas.get(place(from)..place(to));
        steps.unwrap_or_default().concat()
    }
}

/// A file that is open for writing, and ours alone as long as `_lock` lives.
pub(super) struct Owned {
    pub connection: Connection,
    pub _lock: File,
}

impl Place {
    /// A file that can still be copied and audited while somebody waits, and holds years of a host on
    /// which little happens.
    pub const ARCHIVE_AT_BYTES: u64 = 1 << 30;

    /// A directory for its owner alone.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            archive_at_bytes: Self::ARCHIVE_AT_BYTES,
        }
    }

    /// The same directory, with archives of that size.
    #[must_use]
    pub fn with_archives_of(self, archive_at_bytes: u64) -> Self {
        Self {
            archive_at_bytes,
            ..self
        }
    }

    /// The directory without links, which SQLite is told to refuse in what we name to it.
    fn canonical(&self) -> Result<PathBuf, HistoryError> {
        fs::canonicalize(&self.directory).map_err(|source| unreadable(&self.directory, source))
    }

    /// Makes the directory if it is not there, and refuses it if others own it or may write to it.
    pub(super) fn prepare(&self) -> Result<PathBuf, HistoryError> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(cannot_write(&self.directory, source)),
        }
        let directory = self.canonical()?;
        let found = fs::metadata(&directory).map_err(|source| unreadable(&directory, source))?;
        if !found.is_dir() {
            return Err(HistoryError::Directory {
                path: directory,
                what: "is no directory; name one".to_owned(),
            });
        }
        refuse_if_others_may_change(&directory, &found)?;
        Ok(directory)
    }

    /// Opens the file, and makes it if it is not there.
    pub(super) fn own(&self, format: &Format) -> Result<Owned, HistoryError> {
        let (directory, lock) = self.lock(format)?;
        Ok(Owned {
            connection: open_for_writing(&directory, format)?,
            _lock: lock,
        })
    }

    /// Takes the file's lock, in the directory that is told, without links.
    pub(super) fn lock(&self, format: &Format) -> Result<(PathBuf, File), HistoryError> {
        let directory = self.prepare()?;
        let lock = lock(&directory, format)?;
        Ok((directory, lock))
    }
}

/// Takes the file's lock, which the kernel takes back from a process that dies.
fn lock(directory: &Path, format: &Format) -> Result<File, HistoryError> {
    let path = directory.join(format!("{}.lock", format.file));
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path);
    let mut lock = opened.map_err(|source| cannot_write(&path, source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            return Err(HistoryError::Locked {
                path: directory.join(format.file),
                pid: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(unreadable(&path, source)),
    }
    // Who holds it is a courtesy to whom it is refused; a full disk takes that away, no more.
    let _ = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

/// Opens the file for its only writer, who has its lock, and makes it if it is not there.
pub(super) fn open_for_writing(
    directory: &Path,
    format: &Format,
) -> Result<Connection, HistoryError> {
    let path = directory.join(format.file);
    create(directory, &path, format)?;
    check_magic(&path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | common_flags();
    let connection = connect(&path, flags)?;
    // SQLite opens for reading what it may not write, without a word.
    if connection.is_readonly("main").unwrap_or(true) {
        return Err(HistoryError::ReadOnly { path });
    }
    let version = check_format(&connection, &path, format)?;
    set_up(&connection, format).map_err(|error| HistoryError::sqlite(&path, "opened", error))?;
    if version < format.version() {
        // All of it or nothing: whoever is killed meanwhile leaves a file of the older schema.
        step(&connection, format, version)
            .map_err(|error| HistoryError::sqlite(&path, "brought up to date", error))?;
    }
    Ok(connection)
}

/// Makes the file under another name and gives it its own when it is whole, so that whatever
/// has its name was once a history, and is never begun anew over one that was damaged.
fn create(directory: &Path, path: &Path, format: &Format) -> Result<(), HistoryError> {
    match fs::symlink_metadata(path) {
        Ok(found) => return refuse_if_others_may_change(path, &found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(unreadable(path, source)),
    }
    if beside(path, "-wal").exists() {
        return Err(HistoryError::Corrupt {
            path: path.to_owned(),
            what: "it is missing, and its write-ahead log is there".to_owned(),
        });
    }
    let fresh = make_fresh(path, format, |_| Ok(()))?;
    fs::rename(&fresh, path).map_err(|source| cannot_write(&fresh, source))?;
    sync_directory(directory)
}

/// Makes a file that could take the place of `path`, with what `fill` puts into it, under the name that
/// is returned. It is on the disk then, and its name may not be.
pub(super) fn make_fresh(
    path: &Path,
    format: &Format,
    fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<PathBuf, HistoryError> {
    let fresh = beside(path, ".new");
    for suffix in ["", "-journal", "-wal", "-shm"] {
        match fs::remove_file(beside(&fresh, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot_write(&fresh, error));
            }
            _ => {}
        }
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&fresh)
        .map_err(|source| cannot_write(&fresh, source))?;
    let connection = connect(&fresh, OpenFlags::SQLITE_OPEN_READ_WRITE | common_flags())?;
    make(&connection, format, fill)
        .and_then(|()| connection.close().map_err(|(_, error)| error))
        .map_err(|error| HistoryError::sqlite(&fresh, "written", error))?;
    File::open(&fresh)
        .and_then(|file| file.sync_all())
        .map_err(|source| cannot_write(&fresh, source))?;
    Ok(fresh)
}

/// Opens a file of this format for reading, whoever is writing it.
pub(super) fn open_for_reading(path: &Path, format: &Format) -> Result<Connection, HistoryError> {
    let directory = path.parent().unwrap_or(path);
    let file = path.file_name().unwrap_or_default();
    let directory =
        fs::canonicalize(directory).map_err(|source| absent_or_unreadable(path, source))?;
    let path = directory.join(file);
    check_magic(&path)?;
    let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | common_flags())?;
    check_format(&connection, &path, format)?;
    Ok(connection)
}

fn common_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, HistoryError> {
    let connection = Connection::open_with_flags(path, flags).map_err(|error| {
        let readable = File::open(path).err();
        readable.map_or_else(
            || HistoryError::sqlite(path, "opened", error),
            |source| unreadable(path, source),
        )
    })?;
    let careful = |connection: &Connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A schema that somebody planted runs nothing, and no statement reaches past SQL.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "mmap_size", 0)
    };
    careful(&connection).map_err(|error| HistoryError::sqlite(path, "opened", error))?;
    Ok(connection)
}

fn make(
    connection: &Connection,
    format: &Format,
    fill: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", format.foreign_keys)?;
    connection.pragma_update(None, "application_id", format.application_id)?;
    step(connection, format, 0)?;
    fill(connection)?;
    connection.pragma_update(None, "journal_mode", "wal")
}

/// Brings a file of the schema `from` up to the newest.
fn step(connection: &Connection, format: &Format, from: i32) -> rusqlite::Result<()> {
    let version = format.version();
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.execute_batch(&format.steps(from, version))?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

fn set_up(connection: &Connection, format: &Format) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", format.at_power_cut.synchronous())?;
    connection.pragma_update(None, "foreign_keys", format.foreign_keys)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
}

/// Whether the file has lost even its first bytes, so that nobody could tell whose it was.
pub(super) fn is_no_database(path: &Path) -> bool {
    matches!(check_magic(path), Err(HistoryError::Foreign { .. }))
}

/// Refuses what SQLite would take for an empty file or for none of its own.
fn check_magic(path: &Path) -> Result<(), HistoryError> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(16).read_to_end(&mut start))
        .map_err(|source| absent_or_unreadable(path, source))?;
    if start == MAGIC {
        return Ok(());
    }
    if start.is_empty() {
        return Err(HistoryError::Corrupt {
            path: path.to_owned(),
            what: "it is empty".to_owned(),
        });
    }
    Err(HistoryError::Foreign {
        path: path.to_owned(),
        what: "it does not begin as an SQLite file does".to_owned(),
    })
}

/// Which schema the file has, which is exactly as that was given out.
pub(super) fn check_format(
    connection: &Connection,
    path: &Path,
    format: &Format,
) -> Result<i32, HistoryError> {
    let failed = |error| HistoryError::sqlite(path, "read", error);
    let owner = pragma(connection, "application_id").map_err(failed)?;
    let version = pragma(connection, "user_version").map_err(failed)?;
    if owner != format.application_id {
        return Err(HistoryError::Foreign {
            path: path.to_owned(),
            what: format!(
                "application id {owner:#010x}, not {:#010x}",
                format.application_id
            ),
        });
    }
    if version > format.version() {
        return Err(HistoryError::Newer {
            path: path.to_owned(),
            found: version,
            known: format.version(),
        });
    }
    let found = schema_of(connection).map_err(failed)?;
    let expected = Connection::open_in_memory()
        .and_then(|fresh| {
            fresh.execute_batch(&format.steps(0, version))?;
            schema_of(&fresh)
        })
        .map_err(failed)?;
    if version < 1 || found != expected {
        return Err(HistoryError::Corrupt {
            path: path.to_owned(),
            what: printable(&difference(&expected, &found)),
        });
    }
    Ok(version)
}

type Schema = Vec<(String, String, Option<String>)>;

fn schema_of(connection: &Connection) -> rusqlite::Result<Schema> {
    let mut statement =
        connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

fn difference(expected: &Schema, found: &Schema) -> String {
    let lacking = expected.iter().find(|item| !found.contains(item));
    let strange = found.iter().find(|item| !expected.contains(item));
    match (lacking, strange) {
        (Some((kind, name, _)), _) => format!("its {kind} {name} is missing or was altered"),
        (None, Some((kind, name, _))) => format!("it has a {kind} {name} that is not ours"),
        (None, None) => "its schema has a number that was never given".to_owned(),
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Whoever owns a file may let anybody write to it at any time, so that it is not enough that nobody
/// else may now.
fn refuse_if_others_may_change(path: &Path, found: &fs::Metadata) -> Result<(), HistoryError> {
    let own = rustix::process::geteuid().as_raw();
    let what = if found.uid() != own && found.uid() != 0 {
        format!(
            "belongs to user {}, and this is user {own}; run as that user, or name another directory",
            found.uid()
        )
    } else if found.mode() & 0o022 != 0 {
        format!(
            "may be written by others (mode {:o}); chmod go-w it",
            found.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    Err(HistoryError::Directory {
        path: path.to_owned(),
        what,
    })
}

/// A file whose name begins with that of another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Makes what was written to a file last.
pub(super) fn sync(path: &Path) -> Result<(), HistoryError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| unreadable(path, source))
}

/// Makes names that were added to a directory last.
pub(super) fn sync_directory(directory: &Path) -> Result<(), HistoryError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| unreadable(directory, source))
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> HistoryError {
    match source.kind() {
        io::ErrorKind::StorageFull => HistoryError::Full {
            path: path.to_owned(),
        },
        _ => HistoryError::Unreadable {
            path: path.to_owned(),
            source,
        },
    }
}

/// For who reads a history, and begins none.
pub(super) fn absent_or_unreadable(path: &Path, source: io::Error) -> HistoryError {
    match source.kind() {
        io::ErrorKind::NotFound => HistoryError::Absent {
            path: path.to_owned(),
        },
        _ => unreadable(path, source),
    }
}

pub(super) fn cannot_write(path: &Path, source: io::Error) -> HistoryError {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => HistoryError::ReadOnly {
            path: path.to_owned(),
        },
        _ => unreadable(path, source),
    }
}
