//! The telemetry page: written by whoever owns a card, read by everybody else on the host.
//!
//! The layout is [`card_spec::telemetry`]. This module writes it to a file under a sequence lock
//! and reads it back whole; it neither gathers nor judges what is in it.
//!
//! ```text
//!   owner    pwrite sequence = 2n+1    pwrite body    pwrite sequence = 2n+2
//!   reader   pread sequence a          pread all      pread sequence b      whole if a = b, even
//! ```
//!
//! Both ends use file I/O and not a shared mapping: a page is published a few times a second, so
//! a mapping would save microseconds, and it would let whoever truncates the file kill a process
//! that looks at it (SIGBUS). Each step is a system call of its own, which orders it for every
//! other CPU.

pub mod live;
#[cfg(test)]
mod models;

use crate::clock::{Clock as _, Instant, SystemClock};
use card_spec::telemetry::{
    BODY_OFFSET, FILE_EXTENSION, PAGE_LEN, Page, PageError, ROUTER_FILE_EXTENSION, card_state,
};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, lstat, open,
    openat, statat, unlinkat,
};
use rustix::io::{Errno, pread, pwrite};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Bytes before the sequence.
const HEADER_LEN: usize = 8;
/// Where the sequence stands in the page.
const SEQUENCE_OFFSET: u64 = HEADER_LEN as u64;
/// A publication takes a few microseconds; a reader that meets this many in a row is reading
/// something that is not an owner's page.
const READ_ATTEMPTS: usize = 16;

/// Publishes one card's page. While it lives, nobody else can publish under the same name.
#[derive(Debug)]
pub struct Publisher {
    file: OwnedFd,
    directory: OwnedFd,
    path: PathBuf,
    sequence: u64,
}

/// A page could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Somebody else owns this card.
    #[error("{} is being written by another owner of the same card or name; stop that one first", path.display())]
    Owned {
        /// The page.
        path: PathBuf,
    },
    /// Somebody else could replace what is published there, or has put something in its place.
    #[error(
        "{} belongs to user {owner} (mode {mode:04o}), and others could forge what is published \
         there; choose a directory of user {user} or root that not everybody may write",
        path.display()
    )]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// The user whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// The user who wants to publish.
        user: u32,
    },
    /// The kernel refused.
    #[error("{} could not be {action}", path.display())]
    Os {
        /// What was being attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl Publisher {
    /// Creates `directory` if need be (mode 0750), not those above it, and the page in it (mode 0640). A
    /// directory that is there must be this user's, or root's and not writable by everybody: the default
    /// one may be in `/tmp`, where anybody can have made it.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub fn create(directory: &Path, address: &str) -> Result<Self, PublishError> {
        Self::create_file(directory, file_name(address))
    }

    /// The same for a router without a card, which calls itself `name`. What routers left that have
    /// ended is removed, where this user may: who comes next has another name, and takes no page over.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub fn create_for_router(directory: &Path, name: &str) -> Result<Self, PublishError> {
        let created = Self::create_file(directory, file_name_with(name, ROUTER_FILE_EXTENSION))?;
        remove_ended_routers(&created.directory, directory);
        Ok(created)
    }

    fn create_file(directory: &Path, name: String) -> Result<Self, PublishError> {
        let directory_fd = open_directory(directory)?;
        let path = directory.join(&name);
        let os = |action| os_error(action, &path);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let file = loop {
            // In the directory that was looked at, even if another now stands under its name.
            let file = openat(&directory_fd, &name, flags, mode).map_err(os("created"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(PublishError::Owned { path }),
                other => other.map_err(os("locked"))?,
            }
            // Removed before it was locked, nobody would find it.
            if is_at(&directory_fd, &name, &file).map_err(os("looked at"))? {
                break file;
            }
        };
        fchmod(&file, mode).map_err(os("given its permissions"))?;
        // A page left by an earlier owner is overwritten whole, its header included. It is not
        // truncated first, so that a reader never finds it short.
        let mut publisher = Self {
            sequence: last_sequence(&file).map_err(os("read"))?,
            file,
            directory: directory_fd,
            path,
        };
        let page = Page::new();
        let (header, rest) = page.as_bytes().split_at(HEADER_LEN);
        publisher.write_locked(header, &rest[BODY_OFFSET - HEADER_LEN..])?;
        Ok(publisher)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory it is in, which was found to be one that can be trusted.
    pub(crate) fn directory(&self) -> io::Result<OwnedFd> {
        self.directory.try_clone()
    }

    /// Publishes everything in `page` from its owner on; magic, version and sequence are this
    /// publisher's own.
    ///
    /// # Errors
    ///
    /// [`PublishError::Os`], after which readers see a page that is being written.
    pub fn publish(&mut self, page: &Page) -> Result<(), PublishError> {
        self.write_locked(&[], &page.as_bytes()[BODY_OFFSET..])
    }

    /// Writes what stands before the sequence, and what stands behind it.
    fn write_locked(&mut self, header: &[u8], body: &[u8]) -> Result<(), PublishError> {
        let writing = self.sequence.wrapping_add(1);
        self.write(SEQUENCE_OFFSET, &writing.to_le_bytes())?;
        self.write(0, header)?;
        self.write(BODY_OFFSET as u64, body)?;
        self.sequence = writing.wrapping_add(1);
        self.write(SEQUENCE_OFFSET, &self.sequence.to_le_bytes())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PublishError> {
        let mut written = 0;
        while written < bytes.len() {
            match write_some(&self.file, &bytes[written..], offset + written as u64) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(os_error("written", &self.path)(errno)),
            }
        }
        Ok(())
    }
}

/// Reads one page again and again.
#[derive(Debug)]
pub struct Reader {
    file: OwnedFd,
    path: PathBuf,
}

/// A page could not be read. The three cases are different findings: there is none, it cannot be
/// seen, it is nonsense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no such file.
    #[error("{} does not exist: no owner of that card has run here", path.display())]
    Absent {
        /// The page.
        path: PathBuf,
    },
    /// It is there but cannot be read.
    #[error("{} could not be read", path.display())]
    Unreadable {
        /// The page.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It is not a telemetry page.
    #[error("{} {source}", path.display())]
    Invalid {
        /// The page.
        path: PathBuf,
        /// What is wrong with it.
        source: PageError,
    },
    /// Its owner has been writing it for as long as this reader looked, or stopped in the middle.
    #[error("{} is never whole: its owner stopped in the middle of writing it", path.display())]
    Torn {
        /// The page.
        path: PathBuf,
    },
}

impl Reader {
    /// Opens a page.
    ///
    /// # Errors
    ///
    /// [`ReadError::Absent`] or [`ReadError::Unreadable`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let unreadable = |source| ReadError::Unreadable {
            path: path.to_owned(),
            source,
        };
        // NONBLOCK: opening a FIFO that somebody put here must not hang the reader.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                return Err(ReadError::Absent {
                    path: path.to_owned(),
                });
            }
            other => other.map_err(|errno| unreadable(errno.into()))?,
        };
        let status = fstat(&file).map_err(|errno| unreadable(errno.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(unreadable(io::Error::other("not a regular file")));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Reads the page, whole.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn read(&self) -> Result<Page, ReadError> {
        self.read_within(READ_ATTEMPTS)
    }

    fn read_within(&self, attempts: usize) -> Result<Page, ReadError> {
        for _ in 0..attempts {
            let before = self.read_at::<8>(SEQUENCE_OFFSET)?;
            let bytes = self.read_at::<PAGE_LEN>(0)?;
            let after = self.read_at::<8>(SEQUENCE_OFFSET)?;
            let (Some(before), Some(bytes), Some(after)) = (before, bytes, after) else {
                return Err(self.invalid(PageError::WrongLength { len: self.len()? }));
            };
            let page = Page::parse(&bytes).map_err(|error| self.invalid(error))?;
            if before == after && u64::from_le_bytes(before).is_multiple_of(2) {
                return Ok(page);
            }
            std::thread::yield_now();
        }
        Err(ReadError::Torn {
            path: self.path.clone(),
        })
    }

    fn invalid(&self, source: PageError) -> ReadError {
        ReadError::Invalid {
            path: self.path.clone(),
            source,
        }
    }

    fn len(&self) -> Result<usize, ReadError> {
        let status = fstat(&self.file).map_err(|errno| self.unreadable(errno))?;
        Ok(usize::try_from(status.st_size).unwrap_or(usize::MAX))
    }

    /// Reads `LEN` bytes, or `None` if the file ends before.
    fn read_at<const LEN: usize>(&self, offset: u64) -> Result<Option<[u8; LEN]>, ReadError> {
        let mut bytes = [0; LEN];
        let mut filled = 0;
        while filled < LEN {
            match read_some(&self.file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => return Ok(None),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.unreadable(errno)),
            }
        }
        Ok(Some(bytes))
    }

    fn unreadable(&self, errno: Errno) -> ReadError {
        ReadError::Unreadable {
            path: self.path.clone(),
            source: errno.into(),
        }
    }
}

/// Whether whoever published `page` has left without a word: it is dead, stopped, or was there before
/// this host was started again.
#[must_use]
pub fn is_stale(page: &Page, now: Instant) -> bool {
    /// Publications that must be missing: a busy host delays some.
    const PUBLICATIONS_MISSING: u32 = 10;
    const AGE_MIN: Duration = Duration::from_secs(2);
    /// Whatever interval a page states, it can become stale.
    const PUBLISH_INTERVAL_MAX: Duration = Duration::from_secs(10);
    if page.card.state.get() == card_state::RELEASED {
        return false;
    }
    let published = Instant::from_nanos(page.owner.published_at_ns.get());
    let interval = Duration::from_nanos(page.owner.publish_interval_ns.get());
    let fresh = (interval.min(PUBLISH_INTERVAL_MAX) * PUBLICATIONS_MISSING).max(AGE_MIN);
    // The clock starts over when the host does, so a time to come is from before.
    published > now || now.since(published) > fresh
}

/// Whether the process that published `page` has ended: it publishes nothing more, and is not there. One
/// that publishes from a container is there without being seen.
#[must_use]
pub fn has_ended(page: &Page, now: Instant) -> bool {
    let is_silent = page.card.state.get() == card_state::RELEASED || is_stale(page, now);
    let began = page.owner.start_time_ticks.get();
    // One that could not tell when it began is taken for whoever has its number.
    let is_there =
        start_time_ticks(page.owner.pid.get()).is_some_and(|it| it == began || began == 0);
    is_silent && !is_there
}

/// The process that owns the card at `address` now, by its page in `directory` as far as this user may
/// read it.
#[must_use]
pub fn owner_of(directory: &Path, address: &str, now: Instant) -> Option<u64> {
    let reader = Reader::open(&directory.join(file_name(address))).ok()?;
    let page = reader.read().ok()?;
    let is_released = page.card.state.get() == card_state::RELEASED;
    (!is_released && !has_ended(&page, now)).then(|| page.owner.pid.get())
}

/// Start time of a process, a number or `self`, in clock ticks since boot (`proc_pid_stat(5)`, field 22),
/// if it is there and `/proc` says so.
pub(crate) fn start_time_ticks(process: impl fmt::Display) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A page could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// There is none.
    #[error("{} does not exist", path.display())]
    Absent {
        /// Where it would be.
        path: PathBuf,
    },
    /// The card is owned.
    #[error("{} is published by a process that is there", path.display())]
    Owned {
        /// The page.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{} could not be removed", path.display())]
    Os {
        /// The page.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Removes the page of the card at `address` from `directory`, and the socket of its owner, if that does
/// not publish any more.
///
/// # Errors
///
/// See [`ForgetError`].
pub fn forget(directory: &Path, address: &str) -> Result<(), ForgetError> {
    let name = file_name(address);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let removed = open(directory, flags, Mode::empty()).and_then(|directory| {
        let _locked = lock_unowned(&directory, name.as_ref())?;
        // Before the page: whoever owns the card next waits for that, and listens on a socket of its own.
        let _ = unlinkat(&directory, live::socket_name(address), AtFlags::empty());
        unlinkat(&directory, &name, AtFlags::empty())
    });
    let path = directory.join(&name);
    removed.map_err(|errno| match errno {
        Errno::NOENT => ForgetError::Absent { path },
        Errno::WOULDBLOCK => ForgetError::Owned { path },
        errno => ForgetError::Os {
            path,
            source: errno.into(),
        },
    })
}

/// Removes the pages of routers that have ended. What cannot be listed, read or removed stays.
fn remove_ended_routers(directory: &OwnedFd, path: &Path) {
    let now = SystemClock.now();
    for page in router_pages(path).unwrap_or_default() {
        let read = Reader::open(&page).and_then(|reader| reader.read());
        if let (Ok(read), Some(name)) = (read, page.file_name())
            && has_ended(&read, now)
            && let Ok(_locked) = lock_unowned(directory, name)
        {
            let _ = unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// The page `name`, if nobody publishes it, nor can while it is held: `WOULDBLOCK` if somebody does.
fn lock_unowned(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    // NONBLOCK: opening a FIFO that somebody put here must not hang.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = openat(directory, name, flags, Mode::empty())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Another's, if it was removed and made anew before it was locked.
    match is_at(directory, name, &file)? {
        true => Ok(file),
        false => Err(Errno::WOULDBLOCK),
    }
}

/// Whether `file` is what stands under `name`.
fn is_at(directory: &OwnedFd, name: impl rustix::path::Arg, file: &OwnedFd) -> Result<bool, Errno> {
    let there = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => other?,
    };
    let held = fstat(file)?;
    Ok((there.st_dev, there.st_ino) == (held.st_dev, held.st_ino))
}

/// Where pages are unless somebody says otherwise: `/run/hwshim` for root, else a directory of
/// the user's own.
#[must_use]
pub fn default_directory() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from(ROOTS_DIRECTORY);
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => PathBuf::from(runtime).join("hwshim"),
        _ => std::env::temp_dir().join(format!("hwshim-{}", uid.as_raw())),
    }
}

/// Where root's pages are unless somebody says otherwise.
pub const ROOTS_DIRECTORY: &str = "/run/hwshim";

/// The pages in `directory`, sorted by name. A directory that does not exist has none.
///
/// # Errors
///
/// The kernel's, if the directory is there and cannot be read.
pub fn pages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    pages_with(directory, FILE_EXTENSION)
}

/// The same of routers that have no card.
///
/// # Errors
///
/// As [`pages`].
pub fn router_pages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    pages_with(directory, ROUTER_FILE_EXTENSION)
}

fn pages_with(directory: &Path, wanted: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut pages = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| {
            path.as_ref().map_or(true, |path| {
                path.extension()
                    .is_some_and(|extension| extension == wanted)
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    pages.sort();
    Ok(pages)
}

/// The file name of the page of `address`: what is not safe in a file name becomes `_`, and a
/// hash tells apart what this makes equal.
#[must_use]
pub fn file_name(address: &str) -> String {
    file_name_with(address, FILE_EXTENSION)
}

fn file_name_with(address: &str, extension: &str) -> String {
    let safe: String = address
        .chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => character,
            _ => '_',
        })
        .take(80)
        .collect();
    // FNV-1a: a fixed function, so that every program finds the same file.
    let hash = address.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{safe}-{hash:08x}.{extension}")
}

/// Opens `directory`, created if need be, if what is published there can be believed. Those above it are
/// not created: a path with a mistake in it would be.
fn open_directory(directory: &Path) -> Result<OwnedFd, PublishError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o750).create(directory) {
        Err(source) if !directory.is_dir() => {
            return Err(PublishError::Os {
                action: "created",
                path: directory.to_owned(),
                source,
            });
        }
        _ => {}
    }
    let user = rustix::process::geteuid().as_raw();
    let untrusted = |status: &Stat| PublishError::Untrusted {
        path: directory.to_owned(),
        owner: status.st_uid,
        mode: status.st_mode & 0o7777,
        user,
    };
    // Whoever owns a link may have it lead elsewhere for whoever reads, later.
    let named = lstat(directory).map_err(os_error("looked at", directory))?;
    let is_link = FileType::from_raw_mode(named.st_mode).is_symlink();
    if is_link && named.st_uid != user && named.st_uid != ROOT {
        return Err(untrusted(&named));
    }
    // Reading it is not needed, and may not be allowed, to create files in it.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(directory, flags, Mode::empty()).map_err(os_error("opened", directory))?;
    let status = fstat(&opened).map_err(os_error("looked at", directory))?;
    if !is_trusted(status.st_uid, status.st_mode & 0o7777, user) {
        return Err(untrusted(&status));
    }
    Ok(opened)
}

const ROOT: u32 = 0;

/// Whether `user` may publish in a directory of `owner` with permissions `mode`.
fn is_trusted(owner: u32, mode: u32, user: u32) -> bool {
    let by_everybody = mode & Mode::WOTH.as_raw_mode() != 0;
    // What this user opened to everybody was this user's to open: a volume that two containers
    // share often is.
    owner == user || (owner == ROOT && !by_everybody)
}

/// The last even sequence of an earlier owner. A page goes on from there: a reader that is in the
/// middle of the old page must not find the sequence again that it began with.
fn last_sequence(file: &OwnedFd) -> Result<u64, Errno> {
    let mut sequence = [0; 8];
    let count = loop {
        match pread(file, &mut sequence, SEQUENCE_OFFSET) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    // A file that ends before is no page yet.
    let found = if count == sequence.len() {
        u64::from_le_bytes(sequence)
    } else {
        0
    };
    // Odd: its owner died while writing.
    Ok(found.wrapping_add(1) & !1)
}

/// One call of the kernel's, which may write less than all of it.
fn write_some(file: &OwnedFd, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    #[cfg(test)]
    let bytes = &bytes[..models::some_written(offset, bytes.len())?];
    pwrite(file, bytes, offset)
}

/// One call of the kernel's, which may read less than all of it.
fn read_some(file: &OwnedFd, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    #[cfg(test)]
    let bytes = {
        let some = models::some_read(offset, bytes.len());
        &mut bytes[..some]
    };
    pread(file, bytes, offset)
}

fn os_error(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> PublishError {
    let path = path.to_owned();
    move |errno| PublishError::Os {
        action,
        path,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with_all_counters(value: u64) -> Page {
        let mut page = Page::new();
        let value = value.into();
        page.requests.submitted = value;
        page.owner.pid = value;
        page.checks.last_result = value;
        page.health.fill(u8::try_from(value.get() % 251).unwrap());
        page
    }

    #[test]
    fn a_published_page_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "pci:0000:3b:00.0").unwrap();
        publisher.publish(&page_with_all_counters(7)).unwrap();
        let pages = pages(directory.path()).unwrap();
        assert_eq!(pages, [publisher.path()]);
        let page = Reader::open(&pages[0]).unwrap().read().unwrap();
        assert_eq!((page.requests.submitted.get(), page.sequence.get()), (7, 4));
    }

    #[test]
    fn a_reader_never_sees_half_of_a_publication() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
        let reader = Reader::open(publisher.path()).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for value in 1..20_000 {
                    publisher.publish(&page_with_all_counters(value)).unwrap();
                }
            });
            let mut whole = 0;
            while !writer.is_finished() {
                // A busy writer may be met in the act many times; it must never be believed then.
                let page = match reader.read() {
                    Ok(page) => page,
                    Err(ReadError::Torn { .. }) => continue,
                    Err(error) => panic!("{error}"),
                };
                let value = page.requests.submitted;
                assert_eq!((page.owner.pid, page.checks.last_result), (value, value));
                let health = u8::try_from(value.get() % 251).unwrap();
                assert!(page.health.iter().all(|&byte| byte == health));
                whole += 1;
            }
            assert!(whole > 0);
        });
    }

    #[test]
    fn an_owner_that_died_while_writing_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
        publisher
            .write(SEQUENCE_OFFSET, &3_u64.to_le_bytes())
            .unwrap();
        let torn = Reader::open(publisher.path()).unwrap().read();
        assert!(matches!(torn, Err(ReadError::Torn { .. })));
    }

    #[test]
    fn a_card_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let first = Publisher::create(directory.path(), "software:ring").unwrap();
        let second = Publisher::create(directory.path(), "software:ring");
        assert!(matches!(second, Err(PublishError::Owned { .. })));
        drop(first);
        Publisher::create(directory.path(), "software:ring").unwrap();
    }

    #[test]
    fn a_directory_is_trusted_if_it_is_this_users_or_only_root_lets_others_in() {
        const USER: u32 = 1000;
        let table = [
            (USER, 0o750, true),
            (USER, 0o777, true),
            (0, 0o755, true),
            (0, 0o2775, true),
            (0, 0o1777, false),
            (1001, 0o755, false),
            (1001, 0o1777, false),
        ];
        for (owner, mode, trusted) in table {
            assert_eq!(is_trusted(owner, mode, USER), trusted, "{owner} {mode:o}");
        }
        assert!(is_trusted(0, 0o777, 0));
        assert!(!is_trusted(USER, 0o755, 0));
    }

    #[test]
    fn nobody_publishes_in_a_directory_of_somebody_else() {
        let directory = tempfile::tempdir().unwrap();
        // Root gives its own away; to everybody else, this one of root's is open to all.
        let theirs = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(1001), None).unwrap();
            directory.path()
        } else {
            Path::new("/tmp")
        };
        let refused = Publisher::create(theirs, "software:ring").unwrap_err();
        assert!(
            matches!(refused, PublishError::Untrusted { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains(theirs.to_str().unwrap()));
        assert!(!theirs.join(file_name("software:ring")).exists());
    }

    #[test]
    fn nobody_publishes_by_way_of_somebody_elses_link() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives a link away");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let (ours, link) = (parent.path().join("ours"), parent.path().join("link"));
        std::fs::create_dir(&ours).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        Publisher::create(&link, "software:ring").unwrap();
        std::os::unix::fs::lchown(&link, Some(1001), None).unwrap();
        let refused = Publisher::create(&link, "software:ring").unwrap_err();
        let is_of_theirs = matches!(refused, PublishError::Untrusted { owner: 1001, .. });
        assert!(is_of_theirs, "{refused}");
    }

    #[test]
    fn a_page_is_created_for_its_owner_and_group() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("telemetry");
        let publisher = Publisher::create(&directory, "software:ring").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(publisher.path()), 0o640);
        assert_eq!(mode(&directory) & 0o027, 0);
    }

    #[test]
    fn of_a_directory_for_pages_only_the_last_level_is_created() {
        let parent = tempfile::tempdir().unwrap();
        let refused = Publisher::create(&parent.path().join("x/y"), "software:ring").unwrap_err();
        assert!(refused.to_string().ends_with("x/y could not be created"));
        assert!(!parent.path().join("x").exists());
        Publisher::create(&parent.path().join("x"), "software:ring").unwrap();
    }

    /// What a process left that has ended, in an orderly way or not.
    fn leave(mut publisher: Publisher, state: u64) -> PathBuf {
        let mut page = Page::new();
        page.card.state = state.into();
        publisher.publish(&page).unwrap();
        publisher.path().to_owned()
    }

    #[test]
    fn what_ended_routers_left_goes_with_the_next_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let router = |name| Publisher::create_for_router(directory.path(), name).unwrap();
        let card = Publisher::create(directory.path(), "software:ring").unwrap();
        let card = leave(card, card_state::RELEASED);
        // Published by nobody who is seen, yet held: by one in a container, say.
        let held = router("held");
        let mut living = router("living");
        let mut page = Page::new();
        page.card.state = card_state::RELEASED.into();
        page.owner.pid = u64::from(std::process::id()).into();
        page.owner.start_time_ticks = start_time_ticks("self").unwrap().into();
        living.publish(&page).unwrap();
        let living = living.path().to_owned();
        let killed = leave(router("killed"), card_state::NONE);
        let ended = leave(router("ended"), card_state::RELEASED);
        assert!(!killed.exists(), "it was there when the next came");
        let next = router("next");
        assert!(!ended.exists());
        for stays in [&card, &living, held.path(), next.path()] {
            assert!(stays.exists(), "{}", stays.display());
        }
    }

    #[test]
    fn whoever_publishes_is_found_whatever_is_removed_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let publish = || match Publisher::create_for_router(directory.path(), "same") {
            Ok(publisher) => {
                let name = publisher.path().file_name().unwrap();
                assert!(is_at(&publisher.directory, name, &publisher.file).unwrap());
                leave(publisher, card_state::RELEASED);
            }
            Err(PublishError::Owned { .. }) => {}
            Err(error) => panic!("{error}"),
        };
        std::thread::scope(|scope| {
            for name in ["one", "other"] {
                let remove = move |directory: &Path| {
                    for _ in 0..1_000 {
                        drop(Publisher::create_for_router(directory, name));
                    }
                };
                let directory = directory.path();
                scope.spawn(move || remove(directory));
            }
            for _ in 0..1_000 {
                publish();
            }
        });
    }

    #[test]
    fn a_card_is_forgotten_with_the_socket_of_its_owner_unless_that_is_there() {
        let (directory, address) = (tempfile::tempdir().unwrap(), "software:ring");
        let forget = || forget(directory.path(), address);
        assert!(matches!(forget(), Err(ForgetError::Absent { .. })));
        let owner = Publisher::create(directory.path(), address).unwrap();
        let other = Publisher::create(directory.path(), "software:multi-buffer").unwrap();
        let socket = directory.path().join(live::socket_name(address));
        std::fs::write(&socket, "").unwrap();
        assert!(matches!(forget(), Err(ForgetError::Owned { .. })));
        assert!(socket.exists() && owner.path().exists());
        leave(owner, card_state::READY);
        forget().unwrap();
        assert!(!socket.exists());
        assert_eq!(pages(directory.path()).unwrap(), [other.path()]);
    }

    #[test]
    fn who_publishes_or_is_there_has_not_ended_and_owns_its_card_until_it_lets_go() {
        const PUBLISHED: u64 = 60_000_000_000;
        let published = Instant::from_nanos(PUBLISHED);
        let hour_later = published.plus(Duration::from_secs(3600));
        let (pid, began) = (
            u64::from(std::process::id()),
            start_time_ticks("self").unwrap(),
        );
        // No process has the number 0.
        for (pid, began, state, now, ended) in [
            (pid, began, card_state::READY, hour_later, false),
            (pid, 0, card_state::READY, hour_later, false),
            (pid, began + 1, card_state::READY, hour_later, true),
            (0, 0, card_state::READY, published, false),
            (0, 0, card_state::READY, hour_later, true),
            (0, 0, card_state::RELEASED, published, true),
            (pid, began, card_state::RELEASED, published, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
            let mut page = Page::new();
            page.owner.pid = pid.into();
            page.owner.start_time_ticks = began.into();
            page.owner.published_at_ns = PUBLISHED.into();
            page.card.state = state.into();
            publisher.publish(&page).unwrap();
            assert_eq!(has_ended(&page, now), ended, "{pid} {began} {state}");
            let owns = !ended && state != card_state::RELEASED;
            let owner = owner_of(directory.path(), "software:ring", now);
            assert_eq!(owner, owns.then_some(pid), "{pid} {began} {state}");
            assert_eq!(owner_of(directory.path(), "software:x", now), None);
        }
    }

    #[test]
    fn absent_unreadable_and_nonsense_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.telemetry");
        assert!(matches!(Reader::open(&path), Err(ReadError::Absent { .. })));
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(
            Reader::open(&path),
            Err(ReadError::Unreadable { .. })
        ));
        let short = directory.path().join("short.telemetry");
        std::fs::write(&short, b"HWT1").unwrap();
        let nonsense = Reader::open(&short).unwrap().read();
        assert!(matches!(nonsense, Err(ReadError::Invalid { .. })));
    }

    #[test]
    fn different_addresses_have_different_files() {
        assert_ne!(file_name("vfio-user:/a/b"), file_name("vfio-user:/a_b"));
        assert!(!file_name("vfio-user:/../../etc/x").contains('/'));
    }

    #[test]
    fn a_page_from_before_the_host_was_started_again_is_stale() {
        const PUBLISHED: u64 = 60_000_000_000;
        let mut page = Page::new();
        page.card.state = card_state::READY.into();
        page.owner.published_at_ns = PUBLISHED.into();
        assert!(is_stale(&page, Instant::from_nanos(PUBLISHED - 1)));
        assert!(!is_stale(&page, Instant::from_nanos(PUBLISHED)));
    }
}
