//! `cardmon unlock`, `lock`, `drain` and `undrain`: give orders to the monitor that runs.

use crate::history::escaped;
use crate::page;
use crate::places::{self, Roots};
use monitor::config;
use monitor::control::{self, ControlError, Order};
use monitor::history::WallTime;
use monitor::record::said;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Exit status:
  0  it is so, and on record; with --show, shown is what is open and drained
  1  it was refused, or no monitor answered in time; said is why
  2  the command line was wrong";

pub(crate) const DRAIN_HELP: &str = "\
It is a change: it takes a window that is open (cardmon unlock), and is refused otherwise, which is
put on record.

The monitor drives no card: this stops no work, it records and shows that an operator wants the
card without any. From then on it reads `disconnected`, drained by whom, with how it would read
otherwise; what becomes of it is still on record, and alarms nobody.

Exit status:
  0  it is so, and on record
  1  it was refused, or no monitor answered in time; said is why
  2  the command line was wrong";

pub(crate) const UNDRAIN_HELP: &str = "\
It is a change: it takes a window that is open (cardmon unlock), and is refused otherwise, which is
put on record.

Exit status:
  0  it is so, and on record
  1  it was refused, or no monitor answered in time; said is why
  2  the command line was wrong";

/// Where orders are taken.
#[derive(Debug, clap::Args)]
pub(crate) struct Control {
    /// Socket of the monitor [default: control.sock in /run/cardmon for root, else in cardmon in
    /// XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// How an order is given, and what became of it is told.
#[derive(Debug, clap::Args)]
struct Giving {
    /// Print one JSON document for programs: the event on record, and how things stand after it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    control: Control,
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
    giving: Giving,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LockArguments {
    /// Change nothing; show what is open and who is drained.
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    giving: Giving,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CardArguments {
    /// Address of the card, e.g. pci:0000:3b:00.0.
    card: String,
    #[command(flatten)]
    giving: Giving,
}

pub(crate) fn unlock(arguments: &UnlockArguments) -> anyhow::Result<ExitCode> {
    // A part of a second is a second: no window is shorter than was asked for.
    let seconds = arguments.lasting.as_millis().div_ceil(1_000);
    arguments.giving.give(&Order::Unlock {
        ticket: arguments.ticket.clone(),
        reason: arguments.reason.clone(),
        seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
    })
}

pub(crate) fn lock(arguments: &LockArguments) -> anyhow::Result<ExitCode> {
    arguments.giving.give(&if arguments.show {
        Order::Standing {}
    } else {
        Order::Lock {}
    })
}

pub(crate) fn drain(arguments: &CardArguments) -> anyhow::Result<ExitCode> {
    let card = arguments.card.clone();
    arguments.giving.give(&Order::Drain { card })
}

pub(crate) fn undrain(arguments: &CardArguments) -> anyhow::Result<ExitCode> {
    let card = arguments.card.clone();
    arguments.giving.give(&Order::Undrain { card })
}

impl Control {
    /// Gives an order.
    pub(crate) fn send(&self, order: &Order) -> anyhow::Result<Value> {
        let path = self.control.clone().unwrap_or_else(places::control_socket);
        control::send(&path, order).map_err(|error| {
            let roots = match (&self.control, &error) {
                (None, ControlError::Unreachable { .. }) => places::roots(Roots::Control),
                _ => String::new(),
            };
            anyhow::anyhow!("{}{roots}", said(&error))
        })
    }
}

impl Giving {
    /// Gives an order, and prints how things stand after it.
    fn give(&self, order: &Order) -> anyhow::Result<ExitCode> {
        let answer = self.control.send(order)?;
        if self.json {
            let (event, standing) = (&answer["event"], &answer["standing"]);
            page::json(&json!({ "schema": 1, "event": event, "standing": standing }))?;
            return Ok(ExitCode::SUCCESS);
        }
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
