//! The program `firmware-sim`: a simulated card on a vfio-user socket, and a stand-in for the host
//! service of a card.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use firmware_sim::control::{self, Order, Which};
use firmware_sim::director::{self, StandIn};
use firmware_sim::fault::Fault;
use firmware_sim::scenario::injection::{Chance, InjectionText, MatchingText, Span};
use firmware_sim::scenario::{self, Scenario};
use firmware_sim::service::{self, Service, ServiceConfig};
use firmware_sim::{RunConfig, SimulatedCard, listing, stop_on_signals};
use serde_json::json;
use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::PoisonError;

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
    Service(ServiceArguments),

    /// List the scenarios there are, or tell the story of one
    ///
    /// A scenario is a TOML file that says which faults a card has and when, and what should come
    /// of it. Those that are listed are built in. The columns: name, how long it takes, what is at
    /// fault, what happens.
    #[command(after_help = SCENARIOS_HELP)]
    Scenarios {
        /// A name, or a file
        name: Option<Scenario>,
        /// Everything that is known of them, as JSON
        #[arg(long)]
        json: bool,
    },

    /// Have a card that runs go wrong
    ///
    /// Prints the ID of the injection.
    #[command(after_help = INJECT_HELP)]
    Inject(Inject),

    /// End what faults do
    #[command(after_help = CONTROL_EXIT_CODES)]
    Clear {
        /// ID of an injection, or all
        #[arg(default_value = "all")]
        which: Which,
        /// Print what was cleared as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        card: Controlled,
    },

    /// Show which faults a card has and has had: the ground truth
    #[command(after_help = CONTROL_EXIT_CODES)]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        card: Controlled,
    },
}

/// What service, and with whom it ends.
#[derive(Args, Debug)]
struct ServiceArguments {
    #[command(flatten)]
    service: ServiceConfig,
    /// Process that starts this one: when it ends, even killed, so does this
    #[arg(long, value_name = "PID")]
    parent: Option<u32>,
}

/// Which card.
#[derive(Args, Debug)]
struct Controlled {
    /// Where it takes orders: its socket's path with .control after it, unless it was told otherwise
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

/// What is to go wrong, and when.
#[derive(Args, Debug)]
struct Inject {
    /// One of `firmware-sim faults`
    #[arg(value_name = "FAULT[=VALUE][,PARAMETER=VALUE]")]
    fault: Fault,
    /// How long after the card started [default: now]
    #[arg(long, value_name = "TIME", default_value_t, hide_default_value = true)]
    at: Span,
    /// For how long [default: until it is cleared]
    #[arg(long, value_name = "DURATION")]
    lasting: Option<Span>,
    /// How often at most
    #[arg(long, value_name = "N")]
    times: Option<u64>,
    /// Chance of each request that it is concerned, above 0, up to 1 [default: 1]
    #[arg(long, value_name = "P")]
    probability: Option<Chance>,
    /// How many requests are left alone first
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    after_requests: u64,
    /// Only requests with this service, opcode, algorithm or session
    #[arg(long, value_name = "KEY=VALUE[,KEY=VALUE]")]
    matching: Option<MatchingText>,
    /// Print the ID of the injection as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    card: Controlled,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  stopped by SIGINT or SIGTERM, or done
  1  it could not be done; the reason is on standard error
  2  the command line was wrong";

const CONTROL_EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  no card takes orders there, or it refused; the reason is on standard error
  2  the command line was wrong";

const SCENARIOS_HELP: &str = "\
Examples:
  firmware-sim scenarios bellcore
  firmware-sim run --socket /tmp/card.sock --scenario bellcore --seed 7
  hwshim bench vfio-user:/tmp/card.sock --ops rsa-2048-sign --for 15s

Exit codes:
  0  listed
  2  there is no such scenario, or its file is wrong";

const INJECT_HELP: &str = "\
Examples:
  firmware-sim run --socket /tmp/card.sock --control
  firmware-sim inject hang --lasting 5s --control /tmp/card.sock.control
  firmware-sim inject crt-fault --probability 0.1 --matching algorithm=rsa --control ...
  firmware-sim clear all --control /tmp/card.sock.control

Exit codes:
  0  injected
  1  no card takes orders there, or it refused; the reason is on standard error
  2  the command line was wrong";

const RUN_HELP: &str = "\
A scenario's host service is played beside the card by `firmware-sim service`, on SOCKET.service,
controlled through SOCKET.service.control; it ends with the card. What is written of a host is not
played. All times and rates are of the card's time, which --speed makes pass faster.

Examples:
  firmware-sim run --socket /tmp/card.sock
  hwshim selftest vfio-user:/tmp/card.sock
  firmware-sim run --socket /tmp/card.sock --fault hang@10s+5s --fault slow=100@30s
  firmware-sim run --socket /tmp/card.sock --scenario slow-death --speed 2
  firmware-sim run --socket /tmp/card.sock --scenario hardserver-leak --speed 20

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
    format!("{}\n{SERVICE_HELP}", service::fault::help())
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let outcome = match command {
        Command::Run(config) => run(&config),
        Command::Faults { json } => print_faults(json),
        Command::Service(arguments) => serve(&arguments),
        Command::Scenarios { name, json } => print_scenarios(name, json),
        Command::Inject(inject) => inject_fault(inject),
        Command::Clear { which, json, card } => clear(which, json, &card),
        Command::Status { json, card } => print_status(json, &card),
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
    print(&text)
}

fn print_scenarios(name: Option<Scenario>, json: bool) -> anyhow::Result<()> {
    let text = match (name, json) {
        (None, false) => scenario::table(&Scenario::all()),
        (None, true) => scenario::json(&Scenario::all()),
        (Some(one), false) => scenario::story(&one),
        (Some(one), true) => scenario::json(&[one]),
    };
    print(&text)
}

fn inject_fault(inject: Inject) -> anyhow::Result<()> {
    let Inject {
        fault,
        at,
        lasting,
        times,
        probability,
        after_requests,
        matching,
        json,
        card,
    } = inject;
    let text = InjectionText {
        fault,
        at,
        lasting,
        after_requests,
        times,
        probability: probability.unwrap_or_default(),
        matching,
    };
    let answer = order(&card, &Order::Inject(text))?;
    let id = &answer["id"];
    match json {
        true => print(&format!("{:#}\n", json!({ "schema": 1, "id": id }))),
        false => print(&format!("{id}\n")),
    }
}

fn clear(which: Which, json: bool, card: &Controlled) -> anyhow::Result<()> {
    order(card, &Order::Clear(which))?;
    match json {
        true => print(&format!("{:#}\n", json!({ "schema": 1, "cleared": which }))),
        false => Ok(()),
    }
}

fn print_status(json: bool, card: &Controlled) -> anyhow::Result<()> {
    let answer = order(card, &Order::Status {})?;
    let status = &answer["status"];
    if json {
        print(&format!("{status:#}\n"))
    } else {
        print(&control::table(status))
    }
}

fn order(card: &Controlled, order: &Order) -> anyhow::Result<serde_json::Value> {
    Ok(control::send(&card.control, order)?)
}

fn print(text: &str) -> anyhow::Result<()> {
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
    let mut out = io::stdout();
    let _ = writeln!(
        out,
        "firmware-sim: simulated card {} listening on {}; stop it with Ctrl-C",
        card.serial(),
        card.socket().display(),
    );
    if let Some(path) = card.control() {
        let _ = writeln!(out, "firmware-sim: it takes orders on {}", path.display());
    }
    if let Some(scenario) = &config.scenario {
        let mut played = scenario.clone();
        played.seed = config.seed.unwrap_or(scenario.seed);
        played.led = config.led.unwrap_or(scenario.led);
        let _ = write!(out, "\n{}", scenario::story(&played));
        if scenario.host.is_some() {
            let _ = writeln!(
                out,
                "\nfirmware-sim: the host's part of it is not played live, only in simulation"
            );
        }
    }
    let script = card.script();
    let service = config.scenario.as_ref().and_then(|it| it.service.as_ref());
    match (service, &script) {
        (Some(part), Some(script)) => {
            let stand_in = start_service(config, &card)?;
            stand_in.play_while(part, script, || card.serve(stop.as_fd()))??;
        }
        _ => card.serve(stop.as_fd())?,
    }
    if let Some(script) = script {
        let script = script.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = write!(out, "\n{}", control::table(&control::truth(&script)));
    }
    Ok(())
}

/// Starts the service that the scenario wants beside the card: this program under another command.
fn start_service(config: &RunConfig, card: &SimulatedCard) -> anyhow::Result<StandIn> {
    let program = env::current_exe().context("this program cannot find itself")?;
    let stand_in = StandIn::start(&program, card.socket(), card.serial(), config.speed)?;
    let _ = writeln!(
        io::stdout(),
        "\nfirmware-sim: its service, pid {}, listening on {}, controlled through {}",
        stand_in.pid(),
        stand_in.socket().display(),
        stand_in.control().display(),
    );
    Ok(stand_in)
}

fn serve(arguments: &ServiceArguments) -> anyhow::Result<()> {
    let ServiceArguments {
        service: config,
        parent,
    } = arguments;
    let stop = stop_on_signals().context("cannot handle signals")?;
    if let Some(parent) = *parent
        && !director::end_with_parent(parent).context("the kernel ties no process to another")?
    {
        anyhow::bail!("process {parent} is not the one that has started this one, or has ended");
    }
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
