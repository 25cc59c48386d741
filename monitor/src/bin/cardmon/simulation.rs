//! `cardmon run --simulated-card`: a card and its owner, started so that there is something to
//! watch.
//!
//! Both are this very program under another command, so nothing needs to be installed or found.
//! They share a private directory with nobody, and end with the monitor whichever way it ends:
//!
//! ```text
//!   returns, fails, panics    Drop kills both and waits for them
//!   is killed (SIGKILL)       the kernel kills both: parent-death signal
//!   a child is killed         it stays away; its absence is what there is to see
//! ```
//!
//! This and the two commands are all of the monitor that knows the simulator and the shim's
//! owner; the library does not.

use anyhow::{Context as _, bail};
use firmware_sim::{RunConfig, SimulatedCard, stop_on_signals};
use hwshim::address::Address;
use hwshim::owner::{self, Schedule, ServeConfig};
use hwshim::stop::Stop;
use monitor::status;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use tempfile::TempDir;

/// Synthetic signatures per second: enough to see counters move, little enough to forget.
const LOAD_PER_SECOND: f64 = 5.0;

/// A card and its owner, each in a process of its own.
#[derive(Debug)]
pub(crate) struct Simulation {
    // Killed in this order, and the directory goes last.
    owner: Process,
    card: Process,
    directory: TempDir,
}

impl Simulation {
    /// Starts both.
    pub(crate) fn start() -> anyhow::Result<Self> {
        // Mode 0700: whoever can reach the card's socket can use the card.
        let directory = tempfile::Builder::new()
            .prefix("cardmon-simulated-")
            .tempdir()
            .context("no private directory could be made for the simulated card")?;
        let socket = directory.path().join("card.sock");
        let card = start_card(&socket)?;
        let address = Address::VfioUser(socket);
        let owner = Process::start("simulated-owner", |command| {
            command
                .args(["--card", &address.to_string(), "--telemetry"])
                .arg(telemetry(directory.path()))
                .stdout(Stdio::null())
        })?;
        Ok(Self {
            owner,
            card,
            directory,
        })
    }

    /// Directory of the owner's telemetry page.
    pub(crate) fn telemetry(&self) -> PathBuf {
        telemetry(self.directory.path())
    }

    /// What to tell people.
    pub(crate) fn describe(&self) -> status::Simulation {
        let (card_pid, owner_pid) = (self.card.0.id(), self.owner.0.id());
        status::Simulation {
            notice: format!(
                "SIMULATED CARD: not a device of this host. Card pid {card_pid}, owner pid \
                 {owner_pid}; to see a card fail: kill -9 {card_pid}"
            ),
            card_pid,
            owner_pid,
        }
    }

    /// Takes leave of children that have ended. They are not started again.
    pub(crate) fn reap(&mut self) {
        for process in [&mut self.card, &mut self.owner] {
            let _ = process.0.try_wait();
        }
    }
}

fn telemetry(directory: &Path) -> PathBuf {
    directory.join("telemetry")
}

/// Starts the card, and returns once it listens.
fn start_card(socket: &Path) -> anyhow::Result<Process> {
    let mut card = Process::start("simulated-card", |command| {
        command
            .arg("--socket")
            .arg(socket)
            // One engine keeps up with the load, and shows in the status as one.
            .args(["--engines", "1"])
            .stdout(Stdio::piped())
    })?;
    let ready = card.0.stdout.take().expect("its output is a pipe");
    let mut line = String::new();
    let len = BufReader::new(ready).read_line(&mut line);
    if len.context("the simulated card said nothing")? == 0 {
        bail!("the simulated card could not start; it says why above");
    }
    Ok(card)
}

/// A child that ends when this is dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(
        command: &str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let parent = std::process::id().to_string();
        let mut child = Command::new(program);
        child.args([command, "--parent", &parent]);
        let child = arguments(&mut child)
            .stdin(Stdio::null())
            // Out of the terminal's foreground group: Ctrl-C is for the monitor alone, which
            // then ends them.
            .process_group(0)
            .spawn();
        Ok(Self(child.with_context(|| {
            format!("the {} could not be started", command.replace('-', " "))
        })?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CardArguments {
    #[command(flatten)]
    child: ChildArguments,
    #[command(flatten)]
    card: RunConfig,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OwnerArguments {
    #[command(flatten)]
    child: ChildArguments,
    /// Address of the card.
    #[arg(long)]
    card: Address,
    /// Directory of the telemetry page.
    #[arg(long)]
    telemetry: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ChildArguments {
    /// Process whose end is ours.
    #[arg(long)]
    parent: u32,
}

impl ChildArguments {
    /// Has the kernel end this process with its parent. Returns whether that still lives.
    fn end_with_parent(&self) -> anyhow::Result<bool> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .context("the kernel would not tie this process to the monitor")?;
        // A parent that died before the line above sends no signal any more.
        let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
        Ok(parent.and_then(|pid| u32::try_from(pid).ok()) == Some(self.parent))
    }
}

/// Plays the card.
pub(crate) fn card(arguments: &CardArguments) -> anyhow::Result<ExitCode> {
    if !arguments.child.end_with_parent()? {
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_on_signals().context("cannot handle signals")?;
    let card = SimulatedCard::listen(&arguments.card)?;
    // The monitor waits for this.
    writeln!(io::stdout(), "listening")?;
    card.serve(stop.as_fd())?;
    Ok(ExitCode::SUCCESS)
}

/// Owns the card.
pub(crate) fn owner(arguments: &OwnerArguments) -> anyhow::Result<ExitCode> {
    if !arguments.child.end_with_parent()? {
        return Ok(ExitCode::SUCCESS);
    }
    let stop = Stop::new().context("cannot make a stop")?;
    stop.on_signals().context("cannot handle signals")?;
    let config = ServeConfig {
        card: arguments.card.clone(),
        telemetry: arguments.telemetry.clone(),
        load_per_second: LOAD_PER_SECOND,
        schedule: Schedule::default(),
    };
    owner::serve(&config, &stop)?;
    Ok(ExitCode::SUCCESS)
}
