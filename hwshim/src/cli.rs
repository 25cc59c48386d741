//! The command line: subcommands, and how each ends.
//!
//! A subcommand is a module `cli/<name>.rs` with `Args` (what it is told) and
//! `run(Args, &mut Output) -> Result<(), Failure>`, plus one variant and one arm here. It writes
//! through [`Output`] and never ends the process itself.

mod bench;
mod crypto_mb;
mod lines;
mod list;
mod output;
mod selftest;
mod serve;
#[cfg(feature = "tls")]
mod serve_tls;
mod stats;
mod usable;
#[cfg(feature = "tls")]
mod verifying;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use output::{Failure, Output};
use std::fmt;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  it was done
  1  it failed; standard error says what, why and what to do next
  2  the command line was not understood

Environment:
  NO_COLOR             if set, no colour even on a terminal
  HWSHIM_MULTI_BUFFER  where software:multi-buffer finds Intel's libcrypto_mb.so, if --multi-buffer does
                       not say and it is not where libraries usually are; see hwshim list";

/// Drives PCI crypto accelerator cards from user space.
///
/// Accelerators have the same address everywhere: pci:0000:3b:00.0, vfio-user:/run/card.sock,
/// software:ring, software:multi-buffer.
#[derive(Debug, Parser)]
#[command(name = "hwshim", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Selftest(selftest::Args),
    Bench(Box<bench::Args>),
    Serve(serve::Args),
    #[cfg(feature = "tls")]
    ServeTls(Box<serve_tls::Args>),
    Stats(stats::Args),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let mut output = Output::stdout();
    let outcome = match command {
        Command::List(args) => list::run(&args, &mut output),
        Command::Selftest(args) => selftest::run(&args, &mut output),
        Command::Bench(args) => bench::run(&args, &mut output),
        Command::Serve(args) => serve::run(&args),
        #[cfg(feature = "tls")]
        Command::ServeTls(args) => serve_tls::run(&args, &mut output),
        Command::Stats(args) => stats::run(&args, &mut output),
    };
    match outcome.and_then(|()| output.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A mistake in the command line of the subcommand at `path` that shows only when all of it is known.
fn misuse(path: &[&str], why: impl fmt::Display) -> Failure {
    let mut program = Cli::command();
    // Usage begins with the names of those above it from then on.
    program.build();
    let command = path
        .iter()
        .try_fold(&mut program, |above, name| above.find_subcommand_mut(name));
    let command = command.expect("a subcommand knows its own name");
    Failure::Misuse(command.error(ErrorKind::ValueValidation, why))
}
