//! How a check ended, and the tables that say so.

use crate::process::timed;
use anyhow::bail;
use std::fmt;

/// How a check ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As it should, with what is worth knowing about it.
    Passed(String),
    /// It found what the project is to mend, and no change of it has brought about.
    Warned(String),
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

/// An error that was met before, for somebody else.
pub(crate) fn again(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if error.is::<Unavailable>() {
        return Unavailable(text).into();
    }
    anyhow::Error::msg(text)
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(found) if found.is_empty() => formatter.write_str("ok"),
            Self::Passed(found) => write!(formatter, "ok: {found}"),
            Self::Warned(found) => write!(formatter, "WARNING: {found}"),
            Self::Skipped(why) => write!(formatter, "skipped: {why}"),
            Self::Failed(why) => write!(formatter, "FAILED: {why}"),
        }
    }
}

/// A check among others.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> anyhow::Result<Outcome>,
}

/// Runs every step, even if an earlier one failed, and prints a table of how each went. `title`
/// says what the steps are.
///
/// # Errors
///
/// Names the steps that failed.
pub(crate) fn run_all(title: &str, steps: &[Step]) -> anyhow::Result<()> {
    let mut report = Vec::new();
    for Step { name, run } in steps {
        println!("\n== {name}");
        let (outcome, took) = timed(run);
        report.push((*name, outcome.unwrap_or_else(Outcome::from), took));
    }
    println!("\n{title:<18} {:>8}  result", "seconds");
    for (name, outcome, took) in &report {
        println!("{name:<18} {:>8.1}  {outcome}", took.as_secs_f64());
    }
    let failed = report.iter().filter(|(_, outcome, _)| outcome.is_failed());
    let failed: Vec<_> = failed.map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
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
