//! The program `cardmon`: watches cards, and asks a monitor that does.
//!
//! It parses command lines and prints; what it prints comes from the library.

mod ask;
mod run;
mod services;
mod simulation;

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit status of a monitoring plugin that cannot tell.
const PLUGIN_UNKNOWN: u8 = 3;

/// Watches PCI crypto accelerator cards, and says which of card, service and host is at fault.
#[derive(Debug, Parser)]
#[command(name = "cardmon", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch every card of this host until interrupted.
    Run(run::Arguments),
    /// Ask the monitor that runs on this host, and print a table.
    Status(ask::StatusArguments),
    /// Ask it as a monitoring plugin: one line, and an exit status.
    #[command(after_help = ask::CHECK_HELP)]
    Check(ask::CheckArguments),
    /// Ask it what host services hold, and what of that only ever grows.
    Leaks(services::LeaksArguments),
    /// Ask it what host services hold, the most memory first.
    Top(services::TopArguments),
    /// Print or check a configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Play the card of `run --simulated-card`.
    #[command(hide = true)]
    SimulatedCard(Box<simulation::CardArguments>),
    /// Own the card of `run --simulated-card`.
    #[command(hide = true)]
    SimulatedOwner(simulation::OwnerArguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the default configuration, each key explained.
    Default,
    /// Say whether a configuration file is right.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    let outcome = match line.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Status(arguments) => ask::status(&arguments),
        Command::Check(arguments) => return ask::check(&arguments),
        Command::Leaks(arguments) => services::leaks(&arguments),
        Command::Top(arguments) => services::top(&arguments),
        Command::Config { command } => config(&command),
        Command::SimulatedCard(arguments) => simulation::card(&arguments),
        Command::SimulatedOwner(arguments) => simulation::owner(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Prints what is wrong with the command line, or the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    // To a monitoring plugin's caller, clap's 2 would mean CRITICAL.
    let as_plugin = std::env::args().nth(1).is_some_and(|name| name == "check");
    match (error.use_stderr(), as_plugin) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(PLUGIN_UNKNOWN),
        (true, false) => ExitCode::from(2),
    }
}

fn config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout();
    match command {
        ConfigCommand::Default => write!(out, "{}", monitor::config::default_file())?,
        ConfigCommand::Check { file } => {
            monitor::config::Config::read(file)?.is_remote()?;
            writeln!(out, "{} is right", file.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells the person at the terminal what went wrong. If even that fails there is nobody to tell.
fn complain(message: &str) {
    let _ = writeln!(anstream::stderr(), "cardmon: {message}");
}
