//! Where events go when their file is full: archives, beside it, which nobody changes again.
//!
//! It decides neither when that is nor what is asked of the record. An archive is the file of events
//! itself, under a name that says which it holds, and the next file goes on from it:
//!
//! ```text
//!   events-000000001-000123456.db   event 1 ... 123456      mode 0400, one whole file
//!        ^ number and hash of the last event, in a table of one row
//!   events-000123457-000301122.db   event 123457 ... 301122; the first says what the archive before
//!        ^                          is, byte for byte (`history-archived`)
//!   events.db                       event 301123 ...        the one that is written to
//! ```
//!
//! An event is in one of them, and events.db is there, whenever the writer is killed or the power is
//! cut. The order makes it so:
//!
//! 1. Whoever reads holds a shared lock on the directory, and as long as somebody does, it is put off:
//!    SQLite finds a file's log by name, so a reader would read the next file's log with this one.
//! 2. The log is moved into events.db and given up (`journal_mode = delete`), and the file is closed and
//!    synced. It is whole in itself from here on. *Cut off here, it is opened as ever.*
//! 3. events.db.new is made and synced: the number and hash it goes on from, and the first event, which
//!    holds the SHA-256 of the file that becomes the archive. *Cut off here, it is never looked at, and
//!    made anew the next time.*
//! 4. events.db gets the archive's name as a second one, and the directory is synced. *Cut off here, both
//!    names are one file, of which the archive's does not count; who writes next takes it away.*
//! 5. events.db.new takes the place of events.db in one step, and the directory is synced. *Cut off before
//!    that sync, one or the other is there, and nothing was acknowledged that is only in the new one.*
//! 6. The archive may be written to no more, and the head of the chain is anchored. *Cut off here, who
//!    writes next does it.*

use super::anchor::Anchor;
use super::error::HistoryError;
use super::event::Seq;
use super::events::{EVENTS_FILE, EventsFile};
use super::place;
use super::time::WallTime;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The kind of the event with which a file begins that goes on from an archive.
pub const HISTORY_ARCHIVED: &str = "history-archived";

/// Of every archive: to be read by its owner.
const ARCHIVE_MODE: u32 = 0o400;
/// Digits of a number in a name, at least, so that names are in order.
const DIGITS: usize = 9;

/// What is on record of an archive.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ArchivedBody {
    /// Its name.
    pub file: String,
    /// The first event in it.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

/// Events that were archived, and whose archive is not beside the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Absent {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

impl Absent {
    /// How many they are.
    #[must_use]
    pub const fn count(self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        write!(f, "events {first} to {last}")
    }
}

/// Events that somebody asks for and that are not beside the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Elsewhere {
    /// Which.
    pub events: Absent,
    /// The name of the archive that holds the last of them, by the word of what goes on from it.
    pub archive: Option<String>,
    /// Whether it holds the first of them as well.
    pub is_one: bool,
}

impl Elsewhere {
    /// Where they are, and what to do to have them in that directory.
    #[must_use]
    pub fn told(&self, directory: &str) -> String {
        let Self {
            events,
            archive,
            is_one,
        } = self;
        match archive {
            Some(name) if *is_one => format!(
                "{events} are in the archive {name}, which is not in {directory}: put it back there"
            ),
            Some(name) => format!(
                "{events} are in archives up to {name}, which are not in {directory}: put them back there"
            ),
            None => {
                format!("{events} are in archives that are not in {directory}: put them back there")
            }
        }
    }
}

/// What a file goes on from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Continued {
    /// The last event before.
    pub end: Anchor,
    /// The latest time of all events before, so that who asks for later ones need not look.
    pub latest: WallTime,
}

/// An archive, by its name.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    pub path: PathBuf,
    pub first: Seq,
    pub last: Seq,
}

impl Archive {
    pub(super) fn in_directory(directory: &Path, first: Seq, last: Seq) -> Self {
        let name = format!(
            "events-{first:0DIGITS$}-{last:0DIGITS$}.db",
            first = first.0,
            last = last.0
        );
        Self {
            path: directory.join(name),
            first,
            last,
        }
    }

    fn named(directory: &Path, name: &str) -> Option<Self> {
        let numbers = name.strip_prefix("events-")?.strip_suffix(".db")?;
        let (first, last) = numbers.split_once('-')?;
        let archive =
            Self::in_directory(directory, Seq(first.parse().ok()?), Seq(last.parse().ok()?));
        let is_one = archive.name() == name && archive.first <= archive.last;
        is_one.then_some(archive)
    }

    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What the file that now has the name of `path` will be on record as.
    pub(super) fn body(&self, path: &Path) -> Result<ArchivedBody, HistoryError> {
        let (bytes, sha256) = sha256(path).map_err(|source| place::unreadable(path, source))?;
        Ok(ArchivedBody {
            file: self.name(),
            first: self.first.0,
            last: self.last.0,
            bytes,
            sha256,
        })
    }
}

fn sha256(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            len => {
                context.update(&piece[..len]);
                bytes += u64::try_from(len).unwrap_or(u64::MAX);
            }
        }
    }
    Ok((bytes, crate::report::hex(context.finish().as_ref())))
}

/// Every file with the name of an archive, in the order of their numbers.
fn named(directory: &Path) -> Result<Vec<Archive>, HistoryError> {
    let failed = |source| place::unreadable(directory, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(
            name.to_str()
                .and_then(|name| Archive::named(directory, name)),
        );
    }
    found.sort_by_key(|archive| (archive.first, archive.last));
    Ok(found)
}

/// Whether the archive is the file that is written to, under a second name.
fn is_current(archive: &Archive, directory: &Path) -> bool {
    let which = |path: &Path| {
        let found = fs::symlink_metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let current = which(&directory.join(EVENTS_FILE));
    current.is_some() && current == which(&archive.path)
}

/// The archives of a directory, in the order of their numbers.
pub(super) fn list(directory: &Path) -> Result<Vec<Archive>, HistoryError> {
    let mut archives = named(directory)?;
    archives.retain(|archive| !is_current(archive, directory));
    Ok(archives)
}

/// The archives from which `file` goes on, the latest first, as far back as they are `needed`; and what
/// is needed and not there. One that is damaged is passed by, if `damaged` says so.
pub(super) fn before(
    file: &EventsFile,
    needed: impl Fn(&Continued) -> bool,
    damaged: impl Fn(HistoryError) -> Result<(), HistoryError>,
) -> Result<(Vec<EventsFile>, Vec<Elsewhere>), HistoryError> {
    let (mut files, mut found_elsewhere) = (Vec::new(), Vec::new());
    let mut next = file.continued()?.filter(&needed);
    if next.is_none() {
        return Ok((files, found_elsewhere));
    }
    let mut archives = list(file.directory())?;
    while let Some(Continued { end, latest }) = next {
        archives.retain(|archive| archive.last <= end.seq);
        let archive = archives.pop();
        let last_there = archive.as_ref().map_or(Seq(0), |archive| archive.last);
        if last_there < end.seq {
            let absent = Absent {
                first: last_there.next(),
                last: end.seq,
            };
            found_elsewhere.push(elsewhere(absent, files.last().unwrap_or(file)));
        }
        let Some(archive) = archive else { break };
        let opened = EventsFile::open(&archive.path).and_then(|opened| {
            let continued = opened.continued()?;
            Ok((opened, continued))
        });
        next = match opened {
            Ok((opened, continued)) => {
                files.push(opened);
                continued
            }
            Err(error) => {
                damaged(error)?;
                let before = archive.first.0.saturating_sub(1);
                let end = Anchor {
                    seq: Seq(before),
                    ..end
                };
                (before > 0).then_some(Continued { end, latest })
            }
        }
        .filter(&needed);
    }
    Ok((files, found_elsewhere))
}

/// Where events are that are not beside the file `after` them.
pub(super) fn elsewhere(events: Absent, after: &EventsFile) -> Elsewhere {
    let archive = archive_before(after, events.last);
    Elsewhere {
        events,
        is_one: archive.as_ref().is_some_and(|it| it.first == events.first),
        archive: archive.map(|it| it.name()),
    }
}

/// The archive that ends with that event, if the file after it, which begins with what it is, says so.
pub(super) fn archive_before(after: &EventsFile, last: Seq) -> Option<Archive> {
    let said = after.get(last.next()).ok()??.event;
    let body: ArchivedBody = serde_json::from_str(&said.body).ok()?;
    let archive = Archive::named(after.directory(), &body.file)?;
    (said.kind == HISTORY_ARCHIVED && archive.last == last).then_some(archive)
}

/// Keeps the file of events in its place as long as what is returned lives. Whoever puts an archive in
/// order is waited for, which takes as long as reading the file once.
pub(super) fn hold_in_place(directory: &Path) -> io::Result<File> {
    let held = File::open(directory)?;
    held.lock_shared()?;
    Ok(held)
}

/// Has whoever comes to read wait as long as what is returned lives; `None` if somebody reads.
pub(super) fn keep_readers_out(directory: &Path) -> Result<Option<File>, HistoryError> {
    let failed = |source| place::unreadable(directory, source);
    let held = File::open(directory).map_err(failed)?;
    match held.try_lock() {
        Ok(()) => Ok(Some(held)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Gives the file of events the archive's name, and `next` its own: steps 4 to 6.
pub(super) fn change_over(
    directory: &Path,
    archive: &Archive,
    next: &Path,
) -> Result<(), HistoryError> {
    let current = directory.join(EVENTS_FILE);
    let failed = |source| place::cannot_write(&archive.path, source);
    fs::hard_link(&current, &archive.path).map_err(failed)?;
    place::sync_directory(directory)?;
    fs::rename(next, &current).map_err(|source| place::cannot_write(&current, source))?;
    place::sync_directory(directory)?;
    close(archive).map_err(failed)
}

fn close(archive: &Archive) -> io::Result<()> {
    fs::set_permissions(&archive.path, Permissions::from_mode(ARCHIVE_MODE))?;
    File::open(&archive.path)?.sync_all()
}

/// Ends what a writer had begun that was cut off, for the next, and refuses archives that nothing goes
/// on from: a history whose end was taken away is not begun anew.
pub(super) fn settle(directory: &Path) -> Result<(), HistoryError> {
    let archives = named(directory)?;
    for archive in &archives {
        if is_current(archive, directory) {
            let removed = fs::remove_file(&archive.path);
            removed.map_err(|source| place::cannot_write(&archive.path, source))?;
        } else if is_open(archive) {
            // What another user's program left open, we may not close; the audit does not mind.
            let _ = close(archive);
        }
    }
    let current = directory.join(EVENTS_FILE);
    if archives.is_empty() || fs::symlink_metadata(&current).is_ok() {
        // What was cut off may have changed names that are not certain yet.
        return place::sync_directory(directory);
    }
    Err(HistoryError::Corrupt {
        path: current,
        what: "it is missing, and archives from which it went on are there".to_owned(),
    })
}

fn is_open(archive: &Archive) -> bool {
    let found = fs::symlink_metadata(&archive.path);
    found.is_ok_and(|found| found.is_file() && found.mode() & 0o222 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_by_the_numbers_it_holds_and_nothing_else_is_one() {
        let directory = Path::new("/history");
        let archive = Archive::in_directory(directory, Seq(1), Seq(123_456));
        assert_eq!(archive.name(), "events-000000001-000123456.db");
        let long = Archive::in_directory(directory, Seq(7), Seq(12_345_678_901));
        assert_eq!(long.name(), "events-000000007-12345678901.db");
        for archive in [archive, long] {
            let again = Archive::named(directory, &archive.name()).unwrap();
            assert_eq!((again.first, again.last), (archive.first, archive.last));
        }
        for other in [
            "events.db",
            "events-1-2.db",
            "events-000000003-000000002.db",
            "events-000000001-000000002.db-wal",
            "events-+00000001-000000002.db",
            "events-0000000001-0000000002.db",
            "events-000000001-99999999999999999999.db",
        ] {
            assert!(Archive::named(directory, other).is_none(), "{other}");
        }
    }
}
