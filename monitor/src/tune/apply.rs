//! Changes one thing, as recommended, and can tell whether it was changed.
//!
//! The old value must still be there, or somebody else has decided otherwise meanwhile. Whether it may
//! be changed at all, and that it is on record, is for whoever calls to see to.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Writes to a file of `/proc` or `/sys`.
    Write {
        /// Which, below the root.
        path: PathBuf,
        /// What must stand there.
        old: String,
        /// What is written.
        new: String,
    },
    /// Raises the soft limit of a process' descriptors.
    Descriptors {
        /// The process.
        pid: u32,
        /// When it began: a process ID is used again.
        start_time_ticks: u64,
        /// Its soft limit.
        old: u64,
        /// What it becomes.
        new: u64,
        /// Its hard limit, which stays.
        hard: u64,
    },
}

/// A change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else was first.
    #[error("{what} is {found} now and no longer {old}; look again with `cardmon tune -r`")]
    ChangedMeanwhile {
        /// What was to be changed.
        what: String,
        /// What it was.
        old: String,
        /// What it is.
        found: String,
    },
    /// The process is no longer there.
    #[error("process {pid} is no longer the one that was looked at")]
    OtherProcess {
        /// Which.
        pid: u32,
    },
    /// A captured tree has no processes.
    #[error("process {pid} is one of a captured host, and cannot be changed")]
    NotOfThisHost {
        /// Which.
        pid: u32,
    },
    /// The kernel took something else.
    #[error(
        "{what} is {found} now, and neither {new} nor {old}: the kernel took something else; to go back, write {old} to it"
    )]
    TakenOtherwise {
        /// What was to be changed.
        what: String,
        /// What it was.
        old: String,
        /// What was written.
        new: String,
        /// What stands there.
        found: String,
    },
    /// The kernel took nothing.
    #[error("{what} is {found} and not {new}; the kernel did not take it")]
    NotTaken {
        /// What was to be changed.
        what: String,
        /// What was written.
        new: String,
        /// What stands there.
        found: String,
    },
    /// The kernel refused.
    #[error("{what} could not be changed; being root may help")]
    Os {
        /// What was to be changed.
        what: String,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

impl Action {
    /// What is changed, for the record.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Write { path, .. } => path.display().to_string(),
            Self::Descriptors { pid, .. } => format!("RLIMIT_NOFILE of process {pid}"),
        }
    }

    /// What it was.
    #[must_use]
    pub fn old(&self) -> String {
        match self {
            Self::Write { old, .. } => old.clone(),
            Self::Descriptors { old, .. } => old.to_string(),
        }
    }

    /// What it becomes.
    #[must_use]
    pub fn new_value(&self) -> String {
        match self {
            Self::Write { new, .. } => new.clone(),
            Self::Descriptors { new, .. } => new.to_string(),
        }
    }

    /// Makes the change, on the host below `root`.
    ///
    /// # Errors
    ///
    /// See [`ApplyError`]; nothing was changed then, but for [`ApplyError::TakenOtherwise`].
    pub fn apply(&self, root: &Path) -> Result<(), ApplyError> {
        self.is_as_it_was(root)?;
        let failed = |source: io::Error| ApplyError::Os {
            what: self.what(),
            source,
        };
        match self {
            Self::Write { path, new, .. } => {
                let mut file = fs::File::options();
                // Not created: a file that is not there is none of the kernel's.
                let mut file = file
                    .write(true)
                    .truncate(true)
                    .open(root.join(path))
                    .map_err(failed)?;
                file.write_all(new.as_bytes()).map_err(failed)?;
            }
            Self::Descriptors { pid, new, hard, .. } => {
                set_descriptors(*pid, *new, *hard).map_err(failed)?;
            }
        }
        self.became(self.found(root).map_err(failed)?)
    }

    /// What it means that this stands there afterwards.
    fn became(&self, found: String) -> Result<(), ApplyError> {
        if same(&found, &self.new_value()) {
            return Ok(());
        }
        let (what, old, new) = (self.what(), self.old(), self.new_value());
        Err(if same(&found, &old) {
            ApplyError::NotTaken { what, new, found }
        } else {
            ApplyError::TakenOtherwise {
                what,
                old,
                new,
                found,
            }
        })
    }

    /// Whether nobody has changed it since it was looked at.
    fn is_as_it_was(&self, root: &Path) -> Result<(), ApplyError> {
        if let Self::Descriptors {
            pid,
            start_time_ticks,
            ..
        } = self
        {
            if root != Path::new("/") {
                return Err(ApplyError::NotOfThisHost { pid: *pid });
            }
            if start_time(*pid) != Some(*start_time_ticks) {
                return Err(ApplyError::OtherProcess { pid: *pid });
            }
        }
        let found = self.found(root).map_err(|source| ApplyError::Os {
            what: self.what(),
            source,
        })?;
        if same(&found, &self.old()) {
            return Ok(());
        }
        Err(ApplyError::ChangedMeanwhile {
            what: self.what(),
            old: self.old(),
            found,
        })
    }

    /// What stands there.
    fn found(&self, root: &Path) -> io::Result<String> {
        match self {
            Self::Write { path, .. } => {
                let text = fs::read_to_string(root.join(path))?;
                Ok(text.trim().to_owned())
            }
            Self::Descriptors { pid, .. } => {
                let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix("Max open files"));
                let soft = line.and_then(|line| line.split_ascii_whitespace().next());
                Ok(soft.unwrap_or("unknown").to_owned())
            }
        }
    }
}

/// The kernel may put other blanks, or zeros in front of a mask.
fn same(found: &str, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let trim = |word: &str| word.trim_start_matches(['0', ',']).to_owned();
        text.split_ascii_whitespace().map(trim).collect()
    };
    words(found) == words(wanted)
}

fn set_descriptors(pid: u32, soft: u64, hard: u64) -> io::Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or(io::ErrorKind::InvalidInput)?;
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    let limit = Rlimit {
        current: bound(soft),
        maximum: bound(hard),
    };
    prlimit(Some(pid), Resource::Nofile, limit)?;
    Ok(())
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_took_otherwise_is_not_said_to_be_as_it_was() {
        let action = Action::Write {
            path: "limit".into(),
            old: "100".to_owned(),
            new: "200".to_owned(),
        };
        let found = |found: &str| action.became(found.to_owned());
        found("200").unwrap();
        found("0200\n").unwrap();
        let nothing = found("100").unwrap_err();
        assert!(matches!(nothing, ApplyError::NotTaken { .. }), "{nothing}");
        let other = found("196").unwrap_err();
        assert!(
            matches!(other, ApplyError::TakenOtherwise { .. }),
            "{other}"
        );
        assert!(other.to_string().contains("write 100"), "{other}");
    }
}
