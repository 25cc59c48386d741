//! What came of looking at one thing: a value, nothing there, or a problem.
//!
//! Keeps the three apart and decides nothing. A monitor that mistakes "cannot see" for "zero"
//! reports a healthy card that it never looked at.

use serde::{Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// Outcome of reading one attribute.
///
/// As JSON: the value itself, `null` when absent, or an object `{"problem", "file", "reason"}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reading<T> {
    /// It was read and makes sense.
    Known(T),
    /// The function, or this kernel, does not have it.
    Absent,
    /// It is there, but could not be read or makes no sense.
    Failed(Problem),
}

impl<T> Reading<T> {
    /// The value, if there is one.
    #[must_use]
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Failed(_) => None,
        }
    }

    /// Borrows the value, if there is one.
    #[must_use]
    pub fn as_known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Failed(_) => None,
        }
    }

    /// What went wrong, if something did.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Known(_) | Self::Absent => None,
            Self::Failed(problem) => Some(problem),
        }
    }

    /// Changes a known value.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reading<U> {
        self.and_then(|value| Reading::Known(change(value)))
    }

    /// Goes on with a known value.
    #[must_use]
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Known(value) => next(value),
            Self::Absent => Reading::Absent,
            Self::Failed(problem) => Reading::Failed(problem),
        }
    }
}

impl<T: Copy> Reading<T> {
    /// Copies the value out, if there is one.
    #[must_use]
    pub fn copied(&self) -> Option<T> {
        self.as_known().copied()
    }
}

impl<T: Serialize> Serialize for Reading<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(value) => value.serialize(serializer),
            Self::Absent => serializer.serialize_none(),
            Self::Failed(problem) => problem.serialize(serializer),
        }
    }
}

/// Why something that is there has no usable value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// The kernel would not give it.
    Unreadable {
        /// The file.
        file: PathText,
        /// The kernel's reason.
        reason: String,
    },
    /// It was read and is nonsense.
    Invalid {
        /// The file.
        file: PathText,
        /// What is wrong with it.
        reason: String,
    },
}

impl Problem {
    pub(super) fn unreadable(file: &Path, reason: &std::io::Error) -> Self {
        Self::Unreadable {
            file: PathText(file.to_owned()),
            reason: reason.to_string(),
        }
    }

    pub(super) fn invalid(file: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid {
            file: PathText(file.to_owned()),
            reason: reason.into(),
        }
    }

    /// The file it is about.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Unreadable { file, .. } | Self::Invalid { file, .. } => &file.0,
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unreadable { reason, .. } | Self::Invalid { reason, .. } => reason,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, reason } => {
                write!(f, "{} cannot be read: {reason}", file.0.display())
            }
            Self::Invalid { file, reason } => {
                write!(f, "{} makes no sense: {reason}", file.0.display())
            }
        }
    }
}

/// A path that can be printed as JSON although paths need not be text: what is not becomes U+FFFD.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathText(pub PathBuf);

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_outcomes_stay_apart_as_json() {
        let problem = Problem::invalid(Path::new("/sys/x"), "\"?\" is not a number");
        let readings: [Reading<u8>; 3] =
            [Reading::Known(7), Reading::Absent, Reading::Failed(problem)];
        assert_eq!(
            serde_json::to_value(readings).unwrap(),
            serde_json::json!([7, null, {
                "problem": "invalid", "file": "/sys/x", "reason": "\"?\" is not a number",
            }])
        );
    }
}
