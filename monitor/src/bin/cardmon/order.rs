//! `cardmon unlock`, `lock`, `drain` and `undrain`: give orders to the monitor that runs.

use crate::history::escaped;
use crate::places;
use monitor::config;
use monitor::control::{self, ControlError, Order};
use monitor::history::WallTime;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const DRAIN_HELP: &str = "\
The monitor drives no card: this stops no work, it records and shows that an operator wants the
card without any. From then on it reads `disconnected`, drained by whom, with how it would read
otherwise; what becomes of it is still on record, and alarms nobody.";

/// Where orders are taken.
#[derive(Debug, clap::Args)]
pub(crate) struct Control {
    /// Socket of the monitor [default: control.sock in /run/cardmon for root, else in cardmon in
    /// XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnlockArguments {
    /// What permits the change elsewhere, e.g. CHG123.
    #[arg(long)]
    ticket: String,
    /// For how long, e.g. 30m; 8h at most.
    #[arg(long = "for", value_name = "TIME", value_parser = config::duration)]
    lasting: Duration,
    /// What is going to be changed, and why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LockArguments {
    /// Change nothing; show what is open and who is drained.
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CardArguments {
    /// Address of the card, e.g. pci:0000:3b:00.0.
    card: String,
    #[command(flatten)]
    control: Control,
}

pub(crate) fn unlock(arguments: &UnlockArguments) -> anyhow::Result<ExitCode> {
    // A part of a second is a second: no window is shorter than was asked for.
    let seconds = arguments.lasting.as_millis().div_ceil(1_000);
    arguments.control.give(&Order::Unlock {
        ticket: arguments.ticket.clone(),
        reason: arguments.reason.clone(),
        seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
    })
}

pub(crate) fn lock(arguments: &LockArguments) -> anyhow::Result<ExitCode> {
    arguments.control.give(&if arguments.show {
        Order::Standing {}
    } else {
        Order::Lock {}
    })
}

pub(crate) fn drain(arguments: &CardArguments) -> anyhow::Result<ExitCode> {
    let card = arguments.card.clone();
    arguments.control.give(&Order::Drain { card })
}

pub(crate) fn undrain(arguments: &CardArguments) -> anyhow::Result<ExitCode> {
    let card = arguments.card.clone();
    arguments.control.give(&Order::Undrain { card })
}

impl Control {
    /// Gives an order.
    pub(crate) fn send(&self, order: &Order) -> Result<Value, ControlError> {
        let path = self.control.clone().unwrap_or_else(places::control_socket);
        control::send(&path, order)
    }

    /// Gives an order, and prints how things stand after it.
    fn give(&self, order: &Order) -> anyhow::Result<ExitCode> {
        let answer = self.send(order)?;
        let mut out = anstream::stdout();
        if let Some(event) = answer["event"].as_u64() {
            writeln!(out, "on record as event {event}")?;
        }
        for line in standing(&answer["standing"]) {
            writeln!(out, "{}", escaped(&line))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn standing(standing: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let window = &standing["window"];
    let mut lines = vec![match window["until_unix_ms"].as_i64() {
        None => "locked: changes are refused, and attempts are on record".to_owned(),
        Some(until) => format!(
            "open until {} for {}, by {}: {}",
            crate::history::time(WallTime::from_unix_millis(until)),
            word(&window["ticket"]),
            word(&window["by"]),
            word(&window["reason"]),
        ),
    }];
    let drained = standing["drained"].as_object();
    lines.extend(drained.into_iter().flatten().map(|(card, drained)| {
        let since = drained["since_unix_ms"].as_i64().unwrap_or(0);
        let since = crate::history::time(WallTime::from_unix_millis(since));
        format!(
            "drained: {card}, since {since}, by {}",
            word(&drained["by"])
        )
    }));
    lines
}
