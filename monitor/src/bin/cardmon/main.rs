//! The program `cardmon`: watches cards, and asks a monitor that does.
//!
//! It parses command lines and prints; what it prints comes from the library.

mod ask;
mod dead_man;
mod diagnose;
mod history;
mod incidents;
mod led;
mod live;
mod order;
mod page;
mod places;
mod report;
mod run;
mod services;
mod simulation;
mod tune;

use clap::{Parser, Subcommand};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit status of a monitoring plugin that cannot tell.
const PLUGIN_UNKNOWN: u8 = 3;

const HELP: &str = "\
Exit status, of commands that have no others:
  0  done
  1  it could not be done; said is why
  2  the command line was wrong";

const CONFIG_DEFAULT_HELP: &str = "\
Exit status:
  0  it is printed
  1  it could not be
  2  the command line was wrong";

const CONFIG_CHECK_HELP: &str = "\
Exit status:
  0  it is right
  1  it is not, or could not be read; said is why, and in which line
  2  the command line was wrong";

/// Watches PCI crypto accelerator cards, and says which of card, service and host is at fault.
#[derive(Debug, Parser)]
#[command(name = "cardmon", version, max_term_width = page::HELP_WIDTH_MAX, after_help = page::help(HELP))]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch every card of this host until interrupted.
    #[command(after_help = page::help(run::HELP))]
    Run(run::Arguments),
    /// Ask the monitor that runs on this host, and print a table.
    #[command(after_help = page::help(ask::STATUS_HELP))]
    Status(ask::StatusArguments),
    /// Ask it as a monitoring plugin: one line, and an exit status.
    #[command(after_help = page::help(ask::CHECK_HELP))]
    Check(ask::CheckArguments),
    /// Ask it what it weighed of a card or a service: who may be at fault, why, and what would tell.
    #[command(after_help = page::help(diagnose::HELP))]
    Diagnose(diagnose::Arguments),
    /// Show what belongs together: symptoms and victims under one cause, and what was changed before.
    #[command(after_help = page::help(incidents::HELP))]
    Incidents(incidents::Arguments),
    /// Ask it what host services hold, and what of that only ever grows.
    #[command(after_help = page::help(services::HELP))]
    Leaks(services::LeaksArguments),
    /// Ask it what host services hold, the most memory first.
    #[command(after_help = page::help(services::HELP))]
    Top(services::TopArguments),
    /// Show the status light of a card: its edges, drawn and read.
    #[command(after_help = page::help(led::HELP))]
    Led(led::Arguments),
    /// Bundle what whoever takes a card back needs to know of it.
    #[command(after_help = page::help(report::HELP))]
    Report(report::Arguments),
    /// Say what of host and configuration would be better otherwise, and change what may be changed.
    #[command(after_help = page::help(tune::HELP))]
    Tune(tune::Arguments),
    /// Show what is on record, without a running monitor.
    #[command(after_help = page::help(history::HELP))]
    History(history::HistoryArguments),
    /// Say whether this host was starved in a silence of a card or a service.
    #[command(after_help = page::help(history::EXPLAIN_HELP))]
    Explain(history::ExplainArguments),
    /// Find out whether the record is still what was recorded.
    Audit {
        #[command(subcommand)]
        command: history::AuditCommand,
    },
    /// Copy the history, so that it can be gone back to.
    #[command(after_help = page::help(history::SNAPSHOT_HELP))]
    Snapshot(history::SnapshotArguments),
    /// Prove that a snapshot can be gone back to, and say how.
    #[command(after_help = page::help(history::RESTORE_HELP))]
    Restore(history::RestoreArguments),
    /// Open a window in which changes are allowed.
    #[command(after_help = page::help(order::HELP))]
    Unlock(order::UnlockArguments),
    /// Close it; it closes by itself when its time is up.
    #[command(after_help = page::help(order::HELP))]
    Lock(order::LockArguments),
    /// Put on record that a card is to have no work, so that nobody is alarmed about it.
    #[command(after_help = page::help(order::DRAIN_HELP))]
    Drain(order::CardArguments),
    /// Put on record that it may have work again.
    #[command(after_help = page::help(order::UNDRAIN_HELP))]
    Undrain(order::CardArguments),
    /// Check from outside that the monitor is alive.
    #[command(after_help = page::help(dead_man::HELP))]
    DeadMan(dead_man::Arguments),
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
    #[command(after_help = page::help(CONFIG_DEFAULT_HELP))]
    Default,
    /// Say whether a configuration file is right.
    #[command(after_help = page::help(CONFIG_CHECK_HELP))]
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
        Command::Diagnose(arguments) => diagnose::diagnose(&arguments),
        Command::Incidents(arguments) => incidents::incidents(&arguments),
        Command::Leaks(arguments) => services::leaks(&arguments),
        Command::Top(arguments) => services::top(&arguments),
        Command::Led(arguments) => led::show(&arguments),
        Command::Report(arguments) => report::make(&arguments),
        Command::Tune(arguments) => tune::tune(&arguments),
        Command::History(arguments) => history::history(&arguments),
        Command::Explain(arguments) => history::explain(&arguments),
        Command::Audit { command } => history::audit(&command),
        Command::Snapshot(arguments) => history::snapshot(&arguments),
        Command::Restore(arguments) => history::restore(&arguments),
        Command::Unlock(arguments) => order::unlock(&arguments),
        Command::Lock(arguments) => order::lock(&arguments),
        Command::Drain(arguments) => order::drain(&arguments),
        Command::Undrain(arguments) => order::undrain(&arguments),
        Command::DeadMan(arguments) => return dead_man::check(&arguments),
        Command::Config { command } => config(&command),
        Command::SimulatedCard(arguments) => simulation::card(&arguments),
        Command::SimulatedOwner(arguments) => simulation::owner(&arguments),
    };
    let code = outcome.unwrap_or_else(|error| {
        if nobody_reads(&error) {
            return ExitCode::SUCCESS;
        }
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    });
    run::complaints::end(run::PARTING);
    code
}

/// Whether what was printed has no reader any more, as in `cardmon top | head`. What breaks in the
/// middle of something else is said with what that was.
fn nobody_reads(error: &anyhow::Error) -> bool {
    let first = error.chain().next();
    let kind = first.and_then(|first| match first.downcast_ref::<serde_json::Error>() {
        Some(error) => error.io_error_kind(),
        None => Some(first.downcast_ref::<io::Error>()?.kind()),
    });
    kind == Some(io::ErrorKind::BrokenPipe)
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

/// Tells the person at the terminal what went wrong, which may be what somebody else said. If even
/// that fails there is nobody to tell.
fn complain(message: &str) {
    let lines: Vec<_> = message.lines().map(history::escaped).collect();
    let text = format!("cardmon: {}\n", lines.join("\n"));
    if let Err(text) = run::complaints::put(text) {
        let _ = anstream::stderr().write_all(text.as_bytes());
    }
}
