//! The project's own commands, as `cargo xtask`. What CI runs is `cargo xtask test`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program reports on its standard streams"
)]

mod fuzz;
mod memory;
mod outcome;
mod process;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything that CI runs: format, lints, tests, documentation, dependencies.
    ///
    /// Every step runs even if an earlier one failed, and a table at the end says how each went.
    /// What is missing is installed below target/tools (cargo-deny, once, about three minutes). Run
    /// as root on Debian, the last step installs QEMU as well, see `cargo xtask vm`; nothing else
    /// on the machine is changed.
    Test,
    /// Has libFuzzer look for inputs that break the code that reads hostile input.
    ///
    /// Corpora are kept in target/fuzz/corpus and inputs that crash in target/fuzz/crashes, each
    /// with the command that replays it. Needs a C++ compiler; no nightly toolchain, no cargo-fuzz.
    Fuzz(fuzz::Arguments),
    /// Has Miri, Valgrind and sanitizers watch each access to memory while tests run.
    ///
    /// A table at the end says how many tests each tool has watched; one that is not installed is
    /// skipped and says how to get it. Builds below target/memory, for minutes the first time.
    Memory,
    /// Has our driver and our card judged by parts nobody here wrote, in guests of QEMU.
    ///
    /// On Debian. QEMU is installed if it is missing, which takes root; a kernel and busybox are
    /// only unpacked below target/vm. Guests are emulated (TCG), so that no /dev/kvm is needed. A
    /// table at the end says who judged what and how it went; when something failed, it says which
    /// logs below target/vm/logs to read. What cannot be had here is skipped and says so.
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test => test::run(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Memory => memory::run(),
        Command::Vm(arguments) => vm::run(&arguments),
    };
    if let Err(error) = result {
        eprintln!("cargo xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
