//! Which telemetry pages there are: their directory, listed anew only when its entries have changed.
//!
//! A list takes five system calls and what the directory says of itself takes one. A directory has the
//! time of its last change, which the kernel may take from a clock that moves every few milliseconds: a
//! list is believed from then on only if it was made some time after that. It does not know the pages.

use hwshim::clock::Instant;
use hwshim::telemetry;
use rustix::fs::stat;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds after the last change of a directory from which on a list of it has that change.
const SETTLED_AFTER: i64 = 2;
/// Time between two lists whatever the directory says: not every file system tells of each change.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// The pages of one directory.
#[derive(Debug)]
pub(super) struct Pages {
    list: fn(&Path) -> io::Result<Vec<PathBuf>>,
    listed: Option<Listed>,
}

#[derive(Debug)]
struct Listed {
    /// As it was before it was listed; `None` if there is no time to go by.
    directory: Option<Directory>,
    again_at: Instant,
    pages: Vec<PathBuf>,
}

/// What tells a directory from another of the same name, and from itself with other entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Directory {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds since 1970.
    changed: (i64, u64),
}

impl Pages {
    pub(super) const fn of_cards() -> Self {
        Self {
            list: telemetry::pages,
            listed: None,
        }
    }

    pub(super) const fn of_routers() -> Self {
        Self {
            list: telemetry::router_pages,
            listed: None,
        }
    }

    /// All that are there now, sorted by name.
    ///
    /// # Errors
    ///
    /// As [`telemetry::pages`].
    pub(super) fn look(&mut self, path: &Path, now: Instant) -> io::Result<&[PathBuf]> {
        let directory = Directory::at(path);
        let known = self
            .listed
            .take()
            .filter(|it| directory.is_some() && it.directory == directory && now < it.again_at);
        if let Some(known) = known {
            return Ok(&self.listed.insert(known).pages);
        }
        let settled = directory.filter(Directory::is_settled);
        let pages = (self.list)(path)?;
        let listed = Listed {
            directory: settled,
            again_at: now.plus(LIST_INTERVAL),
            pages,
        };
        Ok(&self.listed.insert(listed).pages)
    }
}

impl Directory {
    fn at(path: &Path) -> Option<Self> {
        let found = stat(path).ok()?;
        Some(Self {
            device: found.st_dev,
            inode: found.st_ino,
            changed: (found.st_mtime, found.st_mtime_nsec),
        })
    }

    /// Whether its last change was long enough ago, by the clock that file systems go by.
    fn is_settled(&self) -> bool {
        let now = clock_gettime(ClockId::Realtime).tv_sec;
        now.saturating_sub(self.changed.0) >= SETTLED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    use std::fs;

    /// A directory whose last change was an hour before it was made, which was then: in seconds.
    struct Quiet(tempfile::TempDir, i64);

    impl Quiet {
        fn with(names: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in names {
                fs::write(directory.path().join(name), "").unwrap();
            }
            let quiet = Self(directory, clock_gettime(ClockId::Realtime).tv_sec);
            quiet.changed(3600);
            quiet
        }

        /// It is as if its last change was so many seconds before it was made: the same each time.
        fn changed(&self, seconds_ago: i64) {
            let time = Timespec {
                tv_sec: self.1 - seconds_ago,
                tv_nsec: 7,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            utimensat(CWD, self.0.path(), &times, AtFlags::empty()).unwrap();
        }

        fn add(&self, name: &str) {
            fs::write(self.0.path().join(name), "").unwrap();
        }

        fn look(&self, pages: &mut Pages, second: u64) -> Vec<String> {
            let now = Instant::ORIGIN.plus(Duration::from_secs(second));
            let seen = pages.look(self.0.path(), now).unwrap();
            let names = seen.iter().filter_map(|path| path.file_stem());
            names.map(|name| name.to_string_lossy().into()).collect()
        }
    }

    #[test]
    fn a_directory_is_listed_when_its_entries_have_changed_and_once_a_minute() {
        let directory = Quiet::with(&["a.telemetry", "other"]);
        let mut pages = Pages::of_cards();
        assert_eq!(directory.look(&mut pages, 0), ["a"]);
        directory.add("b.telemetry");
        assert_eq!(directory.look(&mut pages, 1), ["a", "b"]);
        directory.changed(3600);
        assert_eq!(directory.look(&mut pages, 2), ["a", "b"]);
        // A file system that does not tell of it.
        directory.add("c.telemetry");
        directory.changed(3600);
        assert_eq!(directory.look(&mut pages, 3), ["a", "b"], "not listed");
        assert_eq!(directory.look(&mut pages, 61), ["a", "b"]);
        assert_eq!(directory.look(&mut pages, 62), ["a", "b", "c"]);
    }

    #[test]
    fn what_has_just_changed_is_listed_again_in_case_it_changed_twice_at_a_time() {
        let directory = Quiet::with(&["a.telemetry"]);
        let mut pages = Pages::of_cards();
        // Also by a clock that was set back since.
        for (second, ago) in [(0, 0), (10, 1), (20, -3600)] {
            directory.changed(ago);
            let before = directory.look(&mut pages, second).len();
            directory.add(&format!("{second}.telemetry"));
            directory.changed(ago);
            let after = directory.look(&mut pages, second + 1).len();
            assert_eq!(after, before + 1);
        }
    }

    #[test]
    fn another_directory_of_the_same_name_and_one_that_went_away_are_seen() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("pages");
        let (old, new) = (
            Quiet::with(&["old.telemetry"]),
            Quiet::with(&["new.telemetry"]),
        );
        let mut pages = Pages::of_cards();
        let mut look = || pages.look(&path, Instant::ORIGIN).unwrap().len();
        assert_eq!(look(), 0);
        std::os::unix::fs::symlink(old.0.path(), &path).unwrap();
        assert_eq!(look(), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(look(), 0);
        std::os::unix::fs::symlink(new.0.path(), &path).unwrap();
        assert_eq!(look(), 1);
    }
}
