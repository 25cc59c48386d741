//! `cargo xtask simulate`: card-years with faults, in a simulation that repeats to the event.
//!
//! What is simulated, and what is asked of each run, is the package `simulation`'s. Here it is
//! built as it is meant to be run.

use crate::process::{cargo, run as run_command};
use std::ffi::OsString;

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// For the simulation: --runs N, --seed S, --minutes M, --faults NAMES, and more by --help.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the simulation and runs it.
///
/// # Errors
///
/// If it does not build, or in some run something was not as it must be.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut simulate = cargo([
        "run",
        "--quiet",
        "--release",
        "--package",
        "simulation",
        "--",
    ]);
    run_command(simulate.args(&arguments.arguments))
}
