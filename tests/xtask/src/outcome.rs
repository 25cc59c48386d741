//! How a check ended, and the tables that say so.

use std::fmt;

/// How a check ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As it should, with what is worth knowing about it.
    Passed(String),
    /// It could not be run, which is no fault of the project.
    Skipped(String),
    Failed(String),
}

impl Outcome {
    pub(crate) fn passed() -> Self {
        Self::Passed(String::new())
    }

    pub(crate) const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// What the machine lacks to run a check.
#[derive(Debug)]
pub(crate) struct Unavailable(pub(crate) String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// A check that met [`Unavailable`] was not run; one that met any other error failed.
impl From<anyhow::Error> for Outcome {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref::<Unavailable>() {
            Some(Unavailable(_)) => Self::Skipped(format!("{error:#}")),
            None => Self::Failed(format!("{error:#}")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(found) if found.is_empty() => formatter.write_str("ok"),
            Self::Passed(found) => write!(formatter, "ok: {found}"),
            Self::Skipped(why) => write!(formatter, "skipped: {why}"),
            Self::Failed(why) => write!(formatter, "FAILED: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn what_the_machine_lacks_is_no_failure() {
        let lacking: anyhow::Result<()> = Err(Unavailable("no apt".to_owned()).into());
        let outcome = Outcome::from(lacking.context("packages").unwrap_err());
        assert_eq!(outcome.to_string(), "skipped: packages: no apt");
        assert!(!outcome.is_failed());
        let outcome = Outcome::from(anyhow::anyhow!("wrong answer"));
        assert_eq!(outcome.to_string(), "FAILED: wrong answer");
        assert!(outcome.is_failed());
    }
}
