//! Copies of the history that can be gone back to, and the proof that they can.
//!
//! A copy of files that somebody writes to is no copy, so there are two ways:
//!
//! ```text
//!   quiesced   the writer waits, all is committed and moved into the files, then copied:
//!              nothing that was recorded is missing
//!   ordered    the writer goes on; what it commits meanwhile is missing, in order, from an event
//!              on that the result names
//! ```
//!
//! Either is opened and audited before it has its name, so a directory with the name of a snapshot
//! is one. That takes as long as all there is, and needs no writer: who has one goes on with it as soon as
//! the files are [copied](copy). How much is missing (RPO) and how long it took to open and audit (RTO) are measured.
//!
//! Archives go along, as second names of the same files where that can be: nobody changes them. One that
//! is not beside the events is missing from the copy as well, which can be audited without it.

use super::anchor::{Anchor, AnchorSink, FileAnchors};
use super::archive::{self, Archive};
use super::audit::{AuditReport, Finding, Tampering};
use super::error::HistoryError;
use super::events::{EVENTS_FILE, Events, Reader};
use super::place::{self, Place};
use super::samples::{SAMPLES_FILE, SampleReader, Samples};
use hwshim::clock::Clock;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The head of the events when they were copied, beside them.
const HEAD_FILE: &str = "head.anchor";

/// What to copy.
#[derive(Debug)]
pub enum Source<'a> {
    /// The writers, which do nothing else meanwhile.
    Quiesced {
        /// Events.
        events: &'a mut Events,
        /// Samples.
        samples: &'a mut Samples,
    },
    /// Somebody else writes, and goes on.
    Ordered {
        /// Events.
        events: &'a Reader,
        /// Samples.
        samples: &'a SampleReader,
    },
}

/// A copy that was made.
#[derive(Debug)]
pub struct Snapshot {
    /// Where it is.
    pub directory: PathBuf,
    /// Its last event.
    pub head: Option<Anchor>,
    /// Events that were recorded while it was made, and are not in it: the recovery point achieved.
    pub missing_events: u64,
    /// How much it takes.
    pub bytes: u64,
    /// How long copying took.
    pub took: Duration,
    /// What opening it again showed.
    pub restored: Restored,
}

/// A copy that was opened and audited.
#[derive(Debug)]
pub struct Restored {
    /// What the audit found.
    pub audit: AuditReport,
    /// Events that anchors remember and that came after this copy.
    pub behind_events: u64,
    /// How long it took to open and audit: the recovery time to expect, besides copying it back.
    pub took: Duration,
}

/// Files that were copied from those that are written to, and are no snapshot yet.
#[derive(Debug)]
#[must_use]
pub struct Copied {
    /// Where the snapshot is to be.
    directory: PathBuf,
    /// Where they are.
    partial: PathBuf,
    /// Archives that have still to be copied there, as they could not be given a second name.
    archives: Vec<PathBuf>,
    missing_events: u64,
    took: Duration,
}

/// Makes a snapshot in `directory`, which must not be there yet.
///
/// # Errors
///
/// If something could not be read or written, or the copy is not sound. Nothing has the name of
/// the directory then; what is left beside it, with `.partial` behind its name, can be removed.
pub fn snapshot(
    source: Source<'_>,
    directory: &Path,
    clock: &dyn Clock,
) -> Result<Snapshot, HistoryError> {
    copy(source, directory, clock)?.proven(clock)
}

/// Begins a snapshot: copies what is written to, beside the name that it gets when it is
/// [proven](Copied::proven).
///
/// # Errors
///
/// As [`snapshot`].
pub fn copy(
    source: Source<'_>,
    directory: &Path,
    clock: &dyn Clock,
) -> Result<Copied, HistoryError> {
    // A slash at its end would put what is beside it into it.
    let directory: &Path = &directory.components().collect::<PathBuf>();
    let partial = PathBuf::from(format!("{}.partial", directory.display()));
    refuse_what_is_there(directory)?;
    refuse_what_is_there(&partial)?;
    let begun = clock.now();
    Place::new(&partial).prepare()?;
    let (events, samples) = (partial.join(EVENTS_FILE), partial.join(SAMPLES_FILE));
    let archives;
    let missing_events = match source {
        Source::Quiesced {
            events: from,
            samples: figures,
        } => {
            archives = take_along(from, &partial)?;
            from.anchor(clock.now());
            from.checkpoint()?;
            figures.pause()?;
            vacuum(from.file().connection(), &events)?;
            vacuum(figures.connection(), &samples)?;
            0
        }
        Source::Ordered {
            events: from,
            samples: figures,
        } => {
            archives = take_along(from, &partial)?;
            back_up(from.file().connection(), &events)?;
            back_up(figures.connection(), &samples)?;
            let copied = Reader::open(&partial)?.head()?.map_or(0, |head| head.seq.0);
            let now = from.head()?.map_or(0, |head| head.seq.0);
            now.saturating_sub(copied)
        }
    };
    Ok(Copied {
        directory: directory.to_owned(),
        partial,
        archives,
        missing_events,
        took: clock.now().since(begun),
    })
}

impl Copied {
    /// Copies what nobody writes to, opens and audits it all, and gives it its name.
    ///
    /// # Errors
    ///
    /// As [`snapshot`].
    pub fn proven(self, clock: &dyn Clock) -> Result<Snapshot, HistoryError> {
        let Self {
            directory,
            partial,
            archives,
            missing_events,
            took,
        } = self;
        let begun = clock.now();
        for archive in archives {
            let to = partial.join(archive.file_name().unwrap_or_default());
            fs::copy(&archive, &to).map_err(|source| place::cannot_write(&to, source))?;
            place::sync(&to)?;
        }
        let head = Reader::open(&partial)?.head()?;
        if let Some(head) = &head {
            let path = partial.join(HEAD_FILE);
            FileAnchors::open(&path)
                .and_then(|mut file| file.write(head))
                .map_err(|source| place::unreadable(&path, source))?;
        }
        place::sync_directory(&partial)?;
        let took = took + clock.now().since(begun);
        // What is missing here is missing there, and is no reason not to copy the rest.
        let restored = restore_verify(&partial, &[], clock)?;
        if let Some(finding) = &restored.audit.finding {
            return Err(HistoryError::Corrupt {
                path: partial.join(EVENTS_FILE),
                what: finding.to_string(),
            });
        }
        let moved = fs::rename(&partial, &directory);
        moved.map_err(|source| place::cannot_write(&directory, source))?;
        place::sync_directory(
            directory
                .parent()
                .filter(|path| !path.as_os_str().is_empty())
                .unwrap_or_else(|| Path::new(".")),
        )?;
        Ok(Snapshot {
            bytes: bytes_of(&directory),
            directory,
            head,
            missing_events,
            took,
            restored,
        })
    }
}

/// Opens a snapshot, checks its files and the chain of its events, and that against `anchors`.
///
/// What anchors say of events after the snapshot is not held against it, but counted.
///
/// # Errors
///
/// If a file is missing or cannot be opened, or the samples are damaged. What is wrong with events
/// is in the report.
pub fn restore_verify(
    directory: &Path,
    anchors: &[Anchor],
    clock: &dyn Clock,
) -> Result<Restored, HistoryError> {
    let begun = clock.now();
    let reader = Reader::open(directory)?;
    let own = own_head(directory)?;
    // Whoever can write the snapshot can write its head: of what is there, anchors that others kept
    // are asked too. An end that cannot be read is for the audit to find.
    let there = reader.head().ok().flatten();
    let end = there.into_iter().chain(own).map(|head| head.seq.0).max();
    let end = end.unwrap_or(0);
    let (known, later): (Vec<&Anchor>, Vec<&Anchor>) =
        anchors.iter().partition(|anchor| anchor.seq.0 <= end);
    let last = later.iter().map(|anchor| anchor.seq.0).max();
    let known: Vec<_> = known.into_iter().chain(&own).copied().collect();
    let mut audit = reader.verify(&known)?;
    if own.is_none() && there.is_some() && audit.finding.is_none() {
        audit.finding = Some(Finding {
            seq: audit.anchored.unwrap_or_default().next(),
            what: Tampering::Replaced,
            detail: format!(
                "every snapshot of events has a file {HEAD_FILE}, and this has none that says so"
            ),
        });
    }
    SampleReader::open(directory)?.check()?;
    Ok(Restored {
        audit,
        behind_events: last.map_or(0, |last| last - end),
        took: clock.now().since(begun),
    })
}

fn own_head(directory: &Path) -> Result<Option<Anchor>, HistoryError> {
    let path = directory.join(HEAD_FILE);
    match FileAnchors::read(&path) {
        Ok(anchors) => Ok(anchors.last().copied()),
        // A history without events has no head.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(place::unreadable(&path, source)),
    }
}

fn refuse_what_is_there(directory: &Path) -> Result<(), HistoryError> {
    if !directory.exists() {
        return Ok(());
    }
    Err(HistoryError::Directory {
        path: directory.to_owned(),
        what: "is there already; name a new directory, or remove it".to_owned(),
    })
}

/// An empty file for its owner alone, which SQLite takes for its own.
fn make_empty(path: &Path) -> Result<(), HistoryError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|source| place::cannot_write(path, source))
}

/// Puts the archives of `from` into the directory; but for those that are returned, of which a copy is as
/// good where that cannot be, on another file system for one.
fn take_along(from: &Reader, directory: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let mut archives = archive::list(from.file().directory())?;
    archives.retain(|Archive { path, .. }| {
        let to = directory.join(path.file_name().unwrap_or_default());
        fs::hard_link(path, to).is_err()
    });
    Ok(archives.into_iter().map(|archive| archive.path).collect())
}

fn vacuum(from: &Connection, to: &Path) -> Result<(), HistoryError> {
    make_empty(to)?;
    from.execute("VACUUM INTO ?", [to.to_string_lossy()])
        .map_err(|error| HistoryError::sqlite(to, "written", error))?;
    place::sync(to)
}

fn back_up(from: &Connection, to: &Path) -> Result<(), HistoryError> {
    make_empty(to)?;
    let failed = |error| HistoryError::sqlite(to, "written", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags).map_err(failed)?;
    let backup = Backup::new(from, &mut copy).map_err(failed)?;
    // All pages in one step: one view of the file, which keeps no writer waiting.
    let done = backup.step(-1).map_err(failed)?;
    drop(backup);
    if done != StepResult::Done {
        return Err(HistoryError::Locked {
            path: to.to_owned(),
            pid: None,
        });
    }
    // A copy of a file with a write-ahead log says that it has one. This is one file.
    copy.pragma_update(None, "journal_mode", "delete")
        .map_err(failed)?;
    drop(copy);
    place::sync(to)
}

fn bytes_of(directory: &Path) -> u64 {
    let files = [EVENTS_FILE, SAMPLES_FILE, HEAD_FILE].map(|file| directory.join(file));
    let archives = archive::list(directory).unwrap_or_default();
    let files = files
        .into_iter()
        .chain(archives.into_iter().map(|archive| archive.path));
    files
        .map(|file| fs::metadata(file).map_or(0, |found| found.len()))
        .sum()
}
