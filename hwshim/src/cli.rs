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
use hwshim::address::Address;
use hwshim::clock::{Clock as _, SystemClock};
use hwshim::telemetry;
use output::{Failure, Output};
use std::fmt;
use std::path::PathBuf;
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

/// Refuses `accelerators` of the subcommand at `path` if one is there twice: they are told apart by
/// address, and one card has one owner and cannot be compared with itself.
fn each_once(accelerators: &[Address], path: &[&str]) -> Result<(), Failure> {
    for (index, address) in accelerators.iter().enumerate() {
        if let Some(first) = accelerators[..index].iter().position(|it| it == address) {
            let (first, second) = (first + 1, index + 1);
            return Err(misuse(
                path,
                format_args!(
                    "{address} is accelerator {first} and accelerator {second}; name it once"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a card that another process owns: it answers its owner, and nobody else.
fn not_owned(accelerators: &[Address]) -> Result<(), Failure> {
    let directories = [
        telemetry::default_directory(),
        telemetry::ROOTS_DIRECTORY.into(),
    ];
    not_owned_in(&directories, accelerators)
}

fn not_owned_in(directories: &[PathBuf], accelerators: &[Address]) -> Result<(), Failure> {
    let now = SystemClock.now();
    for address in accelerators {
        let name = address.to_string();
        let owner = |directory: &PathBuf| telemetry::owner_of(directory, &name, now);
        if let Some(pid) = directories.iter().find_map(owner) {
            return Err(Failure::new(
                format!("{address} cannot be brought up"),
                format!("it is owned by process {pid} (see hwshim stats)"),
            )
            .hint("a card has one owner: stop that one first"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::owner::Claim;

    #[test]
    fn a_card_that_another_process_owns_is_refused_by_the_number_of_that() {
        let (elsewhere, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [&elsewhere, &here].map(|it| it.path().to_owned());
        let card: Address = "vfio-user:/run/card.sock".parse().unwrap();
        let software: Address = "software:ring".parse().unwrap();
        let accelerators = [software, card.clone()];
        let look = || not_owned_in(&directories, &accelerators);
        look().unwrap();
        let name = card.to_string();
        let claim = Claim::new(here.path(), &name).unwrap();
        let mut publisher = claim.into_publisher();
        let mut page = card_spec::telemetry::Page::new();
        page.owner.pid = u64::from(std::process::id()).into();
        publisher.publish(&page).unwrap();
        let refused = look().unwrap_err().to_string();
        let wanted = format!(
            "{card} cannot be brought up: it is owned by process {} ",
            std::process::id()
        );
        assert!(refused.starts_with(&wanted), "{refused}");
        drop(publisher);
        // Whoever lets go of it says so.
        drop(Claim::new(here.path(), &name).unwrap());
        look().unwrap();
    }
}
