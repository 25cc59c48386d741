//! `cargo xtask leaks`: how well leaks are found, on series that nobody here made.
//!
//! ```text
//! target/leaks/packages/      Debian's pcp-testsuite, and the tools that read its archives
//! target/leaks/series.jsonl   what they recorded, a series a line
//! ```
//!
//! What is done with the series is `monitor/examples/leaks.rs`: this fetches them and calls it.
//! The archives are of the Performance Co-Pilot project (GPL and LGPL) and are not kept with the
//! project.

mod archives;

use crate::process::{cargo, root, run as run_command};
use anyhow::Context;
use std::fs;

/// What may be said about the run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Reports on the two archives that the rules were tuned on, and not on what was held out.
    #[arg(long)]
    tuning: bool,
    /// Reports on that half of what was held out that has been looked at since.
    #[arg(long, conflicts_with = "tuning")]
    seen: bool,
}

/// Fetches the series, unless they are there, and has the leaks found in them.
///
/// # Errors
///
/// Says what could not be had, or that a target was missed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = root().join("target/leaks");
    let series = directory.join("series.jsonl");
    if !series.is_file() {
        let text = archives::series(&directory)?;
        // So that a file that is there is whole.
        let partial = directory.join("series.partial");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &series))
            .with_context(|| format!("{} could not be written", series.display()))?;
    }
    let mut command = cargo(["run", "--quiet", "--release", "--locked"]);
    command
        .args(["--package", "monitor", "--example", "leaks", "--"])
        .arg(series)
        .args(arguments.json.then_some("--json"))
        .args(arguments.tuning.then_some("--tuning"))
        .args(arguments.seen.then_some("--seen"));
    run_command(&mut command)
}
