//! The `hwshim` program: everything the library does, from a command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
