//! A sign of life that a second process can check: a monitor that is dead must not look well.
//!
//! After each poll the monitor replaces one small file. It says which poll that was, when, and what
//! was shown of late; a reader that finds it older than three polls knows nothing about any card, whatever
//! the file says, nor does one that finds the monitor to have been stopped. It starts and stops nothing.
//!
//! ```text
//!   {"schema":1,"pid":71,"boot":"...","monotonic_ns":8,"interval_ns":1000000000,"polls":7,
//!    "cards":{"connected":2},"troubles":[]}
//! ```

pub mod systemd;

use crate::history::{BootId, Stamp};
use crate::probe::OwnerId;
use crate::status::{STALE_POLLS, Status};
use crate::verdict::State;
use hwshim::clock::{Instant, nanos};
use rustix::fs::{CWD, OFlags, RenameFlags, fstat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the file. It grows only when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;
/// Longest interval that is believed, as it is the longest that can be configured: whoever writes
/// the file must not be able to make it fresh for ever.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// No file is longer, in bytes.
const LEN_MAX: u64 = 64 * 1024;

/// What the file says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignOfLife {
    /// Which shape this has.
    pub schema: u32,
    /// The monitor's process.
    pub pid: u32,
    /// When that started, in clock ticks since boot, as its number is used again; `None` if it could not tell.
    #[serde(default)]
    pub start_time_ticks: Option<u64>,
    /// Which boot of the host `monotonic_ns` counts from.
    pub boot: String,
    /// When the last poll ended, or the monitor was stopped, on the host's clock since it booted.
    pub monotonic_ns: u64,
    /// Time between polls.
    pub interval_ns: u64,
    /// Polls so far.
    pub polls: u64,
    /// Cards in each state, whoever drives them, as last shown.
    pub cards: BTreeMap<String, u64>,
    /// What is wrong with the monitor itself.
    pub troubles: Vec<String>,
    /// Whether it was the last: somebody had the monitor stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl SignOfLife {
    /// Signs that a poll has ended. `shown` is the latest status that was shown, if one was, and when its
    /// poll began: of one that is stale all cards are unknown, however many polls came after it.
    #[must_use]
    pub fn new(
        interval: Duration,
        polls: u64,
        shown: Option<(&Status, Instant)>,
        mut troubles: Vec<String>,
        now: Stamp,
    ) -> Self {
        let mut cards = BTreeMap::new();
        if let Some((status, at)) = shown {
            let age = now.monotonic.since(at);
            let is_stale = age > interval * STALE_POLLS;
            for state in status.states() {
                let state = if is_stale { State::Unknown } else { state };
                *cards.entry(state.name().to_owned()).or_default() += 1;
            }
            if is_stale {
                let age = age.as_secs_f64();
                troubles.push(format!("the latest poll that was shown is {age:.1} s old"));
            }
        }
        Self {
            schema: SCHEMA,
            pid: std::process::id(),
            start_time_ticks: OwnerId::of_this_process().map(|it| it.start_time_ticks),
            boot: now.boot.to_string(),
            monotonic_ns: now.monotonic.as_nanos(),
            interval_ns: nanos(interval),
            polls,
            cards,
            troubles,
            stopped: false,
        }
    }

    /// The last one: no poll comes after it.
    #[must_use]
    pub fn last(self) -> Self {
        Self {
            stopped: true,
            ..self
        }
    }

    /// Whether it is recent.
    #[must_use]
    pub fn freshness(&self, now: Stamp) -> Freshness {
        let boot: Option<BootId> = self.boot.parse().ok();
        if boot != Some(now.boot) {
            return Freshness::Stale { age: None };
        }
        let at = Instant::from_nanos(self.monotonic_ns);
        if now.monotonic < at {
            // From a time that has not come: it says nothing about when it was written.
            return Freshness::Stale { age: None };
        }
        let age = now.monotonic.since(at);
        if self.stopped {
            return Freshness::Stopped { age };
        }
        let interval = Duration::from_nanos(self.interval_ns).min(INTERVAL_MAX);
        if age > interval * STALE_POLLS {
            Freshness::Stale { age: Some(age) }
        } else {
            Freshness::Fresh { age }
        }
    }

    /// How many cards are in a state, for whoever reads this `now`: of a file that is stale, all
    /// are unknown.
    #[must_use]
    pub fn cards(&self, now: Stamp) -> BTreeMap<String, u64> {
        match self.freshness(now) {
            Freshness::Fresh { .. } => self.cards.clone(),
            Freshness::Stale { .. } | Freshness::Stopped { .. } => {
                let all = self.cards.values().sum();
                BTreeMap::from([(State::Unknown.name().to_owned(), all)])
            }
        }
    }
}

/// How old a sign of life is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// It can be believed.
    Fresh {
        /// Time since the poll.
        age: Duration,
    },
    /// It says nothing about now.
    Stale {
        /// Time since the poll; `None` if it was before this boot, or cannot have been.
        age: Option<Duration>,
    },
    /// Nor does it, as the monitor was stopped.
    Stopped {
        /// Time since then.
        age: Duration,
    },
}

/// Why there is no sign of life.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadManError {
    /// No monitor has written one since the host booted, or it writes elsewhere.
    #[error(
        "{} is not there: no monitor has run since the host booted, or it writes elsewhere; start `cardmon run --dead-man {}`",
        path.display(), path.display()
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// It is there and could not be read.
    #[error("{} could not be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no sign of life of a monitor: {what}", path.display())]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another monitor signs there.
    #[error("{} is written by another monitor; name another file with --dead-man", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the file at `path`.
///
/// # Errors
///
/// See [`DeadManError`]; all but the last.
pub fn read(path: &Path) -> Result<SignOfLife, DeadManError> {
    match read_once(path) {
        // It was being written again by the time that it was read.
        Err(DeadManError::Nonsense { .. }) => read_once(path),
        read => read,
    }
}

fn read_once(path: &Path) -> Result<SignOfLife, DeadManError> {
    let mut text = String::new();
    let opened = OpenOptions::new()
        .read(true)
        // A pipe in its place must not make the check wait.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    opened
        .and_then(|file| file.take(LEN_MAX).read_to_string(&mut text))
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DeadManError::Absent {
                path: path.to_owned(),
            },
            _ => DeadManError::Unreadable {
                path: path.to_owned(),
                source,
            },
        })?;
    let nonsense = |what: String| DeadManError::Nonsense {
        path: path.to_owned(),
        what,
    };
    let sign: SignOfLife =
        serde_json::from_str(&text).map_err(|error| nonsense(error.to_string()))?;
    if sign.schema != SCHEMA {
        return Err(nonsense(format!(
            "it has schema {}, and this version knows {SCHEMA}",
            sign.schema
        )));
    }
    Ok(sign)
}

/// Writes the file, poll after poll. One monitor does for a file.
///
/// ```text
///   alive.json        the latest sign       <--+  exchanged
///   alive.json.new    the one before, which <--+  when it is written
///                     becomes the next
/// ```
///
/// Both are kept open: to make a file, and to do away with one, takes several times as long as to write
/// so little.
#[derive(Debug)]
pub struct DeadMan {
    path: PathBuf,
    next_path: PathBuf,
    /// The file at `next_path`, and the one at `path`; `None` of what this has not written yet.
    next: Option<File>,
    latest: Option<File>,
    _lock: File,
}

impl DeadMan {
    /// Takes the file for this monitor alone, for as long as this lives.
    ///
    /// # Errors
    ///
    /// If another has it, or the directory takes no file.
    pub fn begin(path: &Path) -> Result<Self, DeadManError> {
        let unreadable = |source| DeadManError::Unreadable {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(directory).map_err(unreadable)?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(beside(path, ".lock"))
            .map_err(unreadable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                next_path: beside(path, ".new"),
                next: None,
                latest: None,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DeadManError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(unreadable(source)),
        }
    }

    /// Replaces the file: whoever reads finds this sign or the one before, and never half of one unless
    /// they take two polls to read it. It is not made durable: what it says is over with the host's next
    /// boot.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn sign(&mut self, sign: &SignOfLife) -> io::Result<()> {
        let mut text = serde_json::to_vec(sign)?;
        text.push(b'\n');
        let kept = self.next.take().and_then(|file| Some((len(&file)?, file)));
        let (len_before, file) = match kept {
            Some(kept) => kept,
            None => (0, self.make_next()?),
        };
        file.write_all_at(&text, 0)?;
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if len < len_before {
            file.set_len(len)?;
        }
        match renameat_with(CWD, &self.next_path, CWD, &self.path, RenameFlags::EXCHANGE) {
            Ok(()) => self.next = self.latest.replace(file),
            // There is nothing yet to exchange it for, or this file system cannot.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::rename(&self.next_path, &self.path)?;
                self.latest = Some(file);
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Makes the file that is to be written first. One that a killed monitor left, or a link that somebody
    /// put there, is not written to.
    fn make_next(&self) -> io::Result<File> {
        match File::create_new(&self.next_path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.next_path)?;
                File::create_new(&self.next_path)
            }
            created => created,
        }
    }
}

/// How long a file is, unless it has no name any more: somebody has removed or replaced it.
fn len(file: &File) -> Option<u64> {
    let status = fstat(file).ok().filter(|status| status.st_nlink > 0)?;
    u64::try_from(status.st_size).ok()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::WallTime;
    use crate::watch::{Settings, Watch};
    use hwshim::telemetry::Publisher;

    fn at(seconds: u64, boot: &str) -> Stamp {
        Stamp {
            wall: WallTime::default(),
            monotonic: Instant::from_nanos(seconds * 1_000_000_000),
            boot: boot.parse().unwrap(),
        }
    }

    const THIS: &str = "01234567-89ab-cdef-0123-456789abcdef";
    const OTHER: &str = "11234567-89ab-cdef-0123-456789abcdef";

    fn sign(now: Stamp) -> SignOfLife {
        let mut sign = SignOfLife::new(Duration::from_secs(1), 7, None, Vec::new(), now);
        sign.cards = BTreeMap::from([("connected".to_owned(), 3)]);
        sign
    }

    #[test]
    fn what_is_older_than_three_polls_is_unknown_and_never_green() {
        let sign = sign(at(100, THIS));
        assert_eq!(sign.cards(at(103, THIS))["connected"], 3);
        for later in [at(104, THIS), at(99, THIS), at(100, OTHER)] {
            let cards = sign.cards(later);
            assert_eq!(cards, BTreeMap::from([("unknown".to_owned(), 3)]));
        }
    }

    #[test]
    fn what_was_not_shown_of_late_is_unknown_though_polls_go_on_whoever_drives_a_card() {
        let pages = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(pages.path(), "software:ring").unwrap();
        publisher
            .publish(&card_spec::telemetry::Page::new())
            .unwrap();
        let host = tempfile::tempdir().unwrap();
        let polled = at(100, THIS);
        let mut watch = Watch::new(Settings::of(pages.path(), host.path()));
        let mut status = watch.poll(polled.monotonic).status;
        status.cards[0].state = State::Connected;
        let function = |cause: &str| {
            serde_json::json!({
                "card": "pci:0000:3b:00.0", "cause": cause, "evidence": [], "codes": [],
                "advice": [], "family": "nshield", "module": "qat_4xxx", "responds": true,
            })
        };
        status.functions = vec![serde_json::from_value(function("none")).unwrap()];
        status.qat = vec![serde_json::from_value(function("card")).unwrap()];
        let cards = |now: u64| {
            let (interval, now) = (Duration::from_secs(1), at(now, THIS));
            let shown = Some((&status, polled.monotonic));
            let sign = SignOfLife::new(interval, 7, shown, Vec::new(), now);
            assert!(matches!(sign.freshness(now), Freshness::Fresh { .. }));
            (sign.cards(now), sign.troubles.len())
        };
        let shown = [("connected", 2), ("unavailable", 1)].map(|(it, n)| (it.to_owned(), n));
        assert_eq!(cards(103), (BTreeMap::from(shown), 0));
        let unknown = BTreeMap::from([("unknown".to_owned(), 3)]);
        assert_eq!(cards(104), (unknown, 1));
    }

    #[test]
    fn of_a_monitor_that_was_stopped_nothing_is_known_from_then_on() {
        let last = sign(at(100, THIS)).last();
        let text = serde_json::to_string(&last).unwrap();
        let read: SignOfLife = serde_json::from_str(&text).unwrap();
        let age = Duration::from_secs(1);
        assert_eq!(read.freshness(at(101, THIS)), Freshness::Stopped { age });
        assert_eq!(read.cards(at(100, THIS))["unknown"], 3);
        let of_another_boot = read.freshness(at(101, OTHER));
        assert_eq!(of_another_boot, Freshness::Stale { age: None });
    }

    #[test]
    fn no_file_can_say_that_it_stays_fresh() {
        let mut sign = sign(at(100, THIS));
        sign.interval_ns = u64::MAX;
        let stale = sign.freshness(at(100 + 181, THIS));
        assert!(matches!(stale, Freshness::Stale { .. }), "{stale:?}");
    }

    #[test]
    fn what_is_written_is_read_and_two_do_not_write_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/alive");
        assert!(matches!(read(&path), Err(DeadManError::Absent { .. })));
        let mut dead_man = DeadMan::begin(&path).unwrap();
        let sign = sign(at(1, THIS));
        dead_man.sign(&sign).unwrap();
        assert_eq!(read(&path).unwrap(), sign);
        assert!(matches!(
            DeadMan::begin(&path),
            Err(DeadManError::InUse { .. })
        ));
        // A link in place of the file that is written first leads nowhere.
        let other = directory.path().join("other");
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, beside(&path, ".new")).unwrap();
        dead_man.sign(&sign).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        assert_eq!(read(&path).unwrap(), sign);
        fs::write(&path, "{\"schema\":2}").unwrap();
        assert!(matches!(read(&path), Err(DeadManError::Nonsense { .. })));
    }

    #[test]
    fn a_sign_replaces_the_one_before_whatever_was_done_to_the_files_since() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alive");
        let next = beside(&path, ".new");
        let mut dead_man = DeadMan::begin(&path).unwrap();
        let mut poll = 0;
        let mut signs_thrice = |after: &str| {
            for _ in 0..3 {
                poll += 1;
                let mut sign = sign(at(poll, THIS));
                // Longer, and then shorter than those before.
                sign.troubles = vec!["x".repeat(usize::try_from(poll % 4).unwrap())];
                dead_man.sign(&sign).unwrap();
                assert_eq!(read(&path).unwrap(), sign, "after {after}");
            }
        };
        signs_thrice("nothing");
        for (is_latest, what) in [(true, "the latest"), (false, "the next")] {
            let file = if is_latest { &path } else { &next };
            fs::write(
                file,
                "{ something that is much longer than any sign of life is }",
            )
            .unwrap();
            signs_thrice(&format!("{what} is overwritten"));
            let other = directory.path().join("other");
            fs::write(&other, "{ other }").unwrap();
            fs::rename(&other, file).unwrap();
            signs_thrice(&format!("{what} is replaced"));
            fs::remove_file(file).unwrap();
            signs_thrice(&format!("{what} is removed"));
        }
    }

    #[test]
    fn whoever_has_opened_a_sign_reads_that_one_although_there_is_a_newer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alive");
        let mut dead_man = DeadMan::begin(&path).unwrap();
        for poll in 1..5 {
            dead_man.sign(&sign(at(poll, THIS))).unwrap();
            let opened = File::open(&path).unwrap();
            dead_man.sign(&sign(at(poll + 1, THIS))).unwrap();
            let read: SignOfLife = serde_json::from_reader(opened).unwrap();
            assert_eq!(read, sign(at(poll, THIS)));
        }
    }
}
