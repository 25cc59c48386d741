//! The program `firmware-sim`: a simulated card on a vfio-user socket, and a stand-in for the host
//! service of a card.

use anyhow::Context;
use clap::{Parser, Subcommand};
use firmware_sim::service::{Service, ServiceConfig, fault};
use firmware_sim::{RunConfig, SimulatedCard, listing, stop_on_signals};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// A simulated PCI crypto accelerator card in a process of its own
///
/// It speaks virtio-crypto over vfio-user, so it can be driven by hwshim, and by a virtual
/// machine that is given a vfio-user-pci device.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Simulate one card until interrupted
    ///
    /// The socket is created for owner and group only, replaces one that a dead process has left
    /// behind, and is removed at the end. One client is served at a time; the next one waits.
    #[command(after_help = RUN_HELP)]
    Run(RunConfig),

    /// List the faults there are
    ///
    /// Each with the values its parameters have if nobody says otherwise. Those of a service or of a
    /// host are played by somebody else than the card.
    Faults {
        /// Everything that is known of them, as JSON
        #[arg(long)]
        json: bool,
    },

    /// Play the host service of a card's vendor, with faults, until interrupted
    ///
    /// Clients connect to its socket and send lines: open, kat SESSION, close SESSION, enquiry,
    /// stattree, quit. It is a stand-in: what it leaks is real and can be seen in /proc, but it
    /// drives no card. Leaks stop growing at the limits below, and end with the process.
    #[command(after_help = service_help())]
    Service(ServiceConfig),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped by SIGINT or SIGTERM
  1  the card could not be run; the reason is on standard error
  2  the command line was wrong";

const RUN_HELP: &str = "\
Examples:
  firmware-sim run --socket /tmp/card.sock
  hwshim selftest vfio-user:/tmp/card.sock
  firmware-sim run --socket /tmp/card.sock --fault hang@10s+5s --fault slow=100@30s

  qemu-system-x86_64 ... -object memory-backend-memfd,id=mem,size=512M,share=on \\
    -machine q35,memory-backend=mem \\
    -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/card.sock\"}}'

Exit codes:
  0  stopped by SIGINT or SIGTERM
  1  the card could not be run; the reason is on standard error
  2  the command line was wrong";

const SERVICE_HELP: &str = "\
A rate is per second, minute, hour or failed open: 1MiB/s, 20/min, 5/h, 1/failed-open.

Control, one JSON object a line, each answered with one; `clear` keeps what has leaked unless it
says to free it:
  {\"inject\": \"leak-heap\", \"rate\": \"1MiB/s\"}
  {\"clear\": \"leak-heap\", \"free\": true}        {\"clear\": \"all\"}
  {\"card\": \"absent\"}                          {\"status\": true}

Examples:
  firmware-sim service --socket service.sock --control control.sock
  echo stattree | nc -UN service.sock
  echo '{\"inject\": \"leak-kernel\", \"rate\": \"64KiB/failed-open\"}' | nc -UN control.sock
  firmware-sim service --socket service.sock --card absent --fault leak-while-absent=1MiB/s

Exit codes:
  0    stopped by SIGINT or SIGTERM
  1    the service could not be run; the reason is on standard error
  2    the command line was wrong
  134  in a shell: it crashed as it was told to (SIGABRT)";

fn service_help() -> String {
    format!("{}\n{SERVICE_HELP}", fault::help())
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let outcome = match command {
        Command::Run(config) => run(&config),
        Command::Faults { json } => print_faults(json),
        Command::Service(config) => serve(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nowhere to say it, the exit code has to do.
            let _ = writeln!(io::stderr(), "firmware-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_faults(json: bool) -> anyhow::Result<()> {
    let text = if json {
        listing::json()
    } else {
        listing::table()
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

fn run(config: &RunConfig) -> anyhow::Result<()> {
    let stop = stop_on_signals().context("cannot handle signals")?;
    let card = SimulatedCard::listen(config)?;
    // Whoever started this may wait for the line, or may not have a standard output at all.
    let _ = writeln!(
        io::stdout(),
        "firmware-sim: simulated card {} listening on {}; stop it with Ctrl-C",
        card.serial(),
        card.socket().display(),
    );
    Ok(card.serve(stop.as_fd())?)
}

fn serve(config: &ServiceConfig) -> anyhow::Result<()> {
    let stop = stop_on_signals().context("cannot handle signals")?;
    let service = Service::listen(config)?;
    let mut line = format!(
        "firmware-sim: service stand-in listening on {}",
        service.socket().display()
    );
    if let Some(address) = service.tcp_address() {
        line += &format!(" and {address}");
    }
    if let Some(control) = service.control() {
        line += &format!(", controlled through {}", control.display());
    }
    // Whoever started this may wait for the line, or may not have a standard output at all.
    let _ = writeln!(io::stdout(), "{line}; stop it with Ctrl-C");
    Ok(service.serve(stop.as_fd())?)
}
