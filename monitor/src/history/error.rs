//! What can keep a history from being opened, written or read, and what to do about it.

use super::event::{EventTooLong, Seq};
use rusqlite::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};

/// Why the history could not be had. Each says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The directory cannot be trusted with a history, or is none.
    #[error("{} {what}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// There is no history.
    #[error("there is no history at {}; `cardmon run` begins one", path.display())]
    Absent {
        /// The file that is not there.
        path: PathBuf,
    },
    /// A file of the history could not be reached.
    #[error("{} could not be opened; see its owner and mode, and those of its directory", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The file belongs to something else.
    #[error("{} is not ours: {what}; it was left as it is: move it away, or name another directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The file was written by a version to come.
    #[error(
        "{} has schema {found}, and this version knows up to {known}; run the version that wrote it, or name another directory",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i32,
        /// The newest this program knows.
        known: i32,
    },
    /// The file is damaged.
    #[error("{} is damaged: {what}; it was left as it is: keep a copy, and restore a snapshot", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file is whole, and not what it was.
    #[error(
        "{} was tampered with from event {seq} on: {what}; it was left as it is: keep a copy as evidence, and restore a snapshot",
        path.display()
    )]
    Tampered {
        /// The file.
        path: PathBuf,
        /// First event that is not what it was.
        seq: Seq,
        /// What was found.
        what: String,
    },
    /// The file may be read and not written.
    #[error("{} may not be written; run as its owner, or mount its file system for writing", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the file.
    #[error("{} is in use by {}; stop that, or name another directory", path.display(), holder(*pid))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Which, if it said so.
        pid: Option<u32>,
    },
    /// There is no space left. What was acknowledged before is not touched by it.
    #[error("there is no space left for {}; nothing of this was recorded: free some space on its file system and repeat", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The event itself is at fault.
    #[error(transparent)]
    Event(#[from] EventTooLong),
    /// A figure that is none.
    #[error("{value} is no sample; say that nothing was seen by recording nothing")]
    NotFinite {
        /// Infinity, or what is not a number.
        value: f64,
    },
    /// A series whose name is a story.
    #[error("the name of a series has {len} bytes, and {len_max} are kept; shorten it")]
    SeriesName {
        /// How long it is.
        len: usize,
        /// How long it may be.
        len_max: usize,
    },
    /// Anything else the database refused.
    #[error("{} could not be {doing}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// In the passive: `read`, `written`.
        doing: &'static str,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl HistoryError {
    /// The code of [`code`](crate::code) that fits, if one does.
    #[must_use]
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Full { .. } => Some(3),
            Self::ReadOnly { .. } | Self::Directory { .. } => Some(0),
            Self::Absent { .. } => crate::checks::of_io(&io::ErrorKind::NotFound.into()),
            Self::Unreadable { source, .. } => crate::checks::of_io(source),
            _ => None,
        }
    }

    /// Says what SQLite's error means for the file at `path`.
    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        // SQLite quotes what stands in the file, which may be meant for a terminal.
        let what = printable(&source.to_string());
        match source.sqlite_error_code() {
            // It began as an SQLite file does, or it would not have come this far.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, what }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Locked { path, pid: None }
            }
            Some(ErrorCode::DiskFull) => Self::Full { path },
            // The file of shared memory is grown in ways for which SQLite has no such code.
            Some(ErrorCode::SystemIoFailure) if nothing_is_free(&path) => Self::Full { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            _ => Self::Failed {
                path,
                doing,
                source,
            },
        }
    }

    /// Whether the file holds something other than what was written to it, so that nothing may be
    /// added to it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Tampered { .. })
    }
}

/// The text, with a question mark for whatever is not plain ASCII.
pub(super) fn printable(text: &str) -> String {
    let plain = |character: char| matches!(character, ' '..='~');
    text.chars()
        .map(|character| if plain(character) { character } else { '?' })
        .collect()
}

fn nothing_is_free(path: &Path) -> bool {
    let directory = path.parent().unwrap_or(path);
    rustix::fs::statvfs(directory).is_ok_and(|space| space.f_bavail == 0)
}
