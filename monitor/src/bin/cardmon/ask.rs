//! `cardmon status` and `cardmon check`: ask the monitor that runs, and print its answer.

use crate::{PLUGIN_UNKNOWN, services};
use anyhow::Context as _;
use monitor::client::{self, ClientError};
use monitor::status::{CardStatus, Status};
use monitor::text;
use monitor::verdict::State;
use std::io::Write as _;
use std::process::ExitCode;

pub(crate) const CHECK_HELP: &str = "\
Exit status, after the conventions of monitoring plugins; of several cards and services the worst
counts:
  0  OK        every card is connected, every service well
  1  WARNING   a card is unavailable: it is there and does not serve; software answers instead;
               a service hangs, leaks or is configured wrongly
  2  CRITICAL  a card is unreachable: it is gone, or the process that owns it; a service is gone, or
               leaks and will have used up a limit within a day
  3  UNKNOWN   a card is unknown or disconnected, a service could not be seen, there is neither, or no
               monitor runs";

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    /// Print the monitor's JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Only this card, e.g. pci:0000:3b:00.0.
    #[arg(long, value_name = "ADDRESS")]
    card: Option<String>,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// Where the monitor answers.
    #[arg(long, default_value = "http://127.0.0.1:9180")]
    url: String,
}

impl Service {
    pub(crate) fn ask(&self) -> anyhow::Result<Status> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the program could not start its event loop")?;
        // The message names the cause already.
        runtime
            .block_on(client::status(&self.url))
            .map_err(|error: ClientError| anyhow::anyhow!(error.to_string()))
    }
}

pub(crate) fn status(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let status = arguments.service.ask()?;
    let mut out = anstream::stdout();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        for line in text::block(&status) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(arguments: &CheckArguments) -> ExitCode {
    let (code, line) = match arguments.service.ask() {
        Ok(status) => judged(&status, arguments.card.as_deref()),
        Err(error) => (PLUGIN_UNKNOWN, format!("CARDMON UNKNOWN - {error:#}")),
    };
    let _ = writeln!(anstream::stdout(), "{line}");
    ExitCode::from(code)
}

/// The plugin's exit status and its line.
fn judged(status: &Status, only: Option<&str>) -> (u8, String) {
    let wanted = |card: &&CardStatus| only.is_none_or(|only| only == card.card);
    let cards: Vec<_> = status.cards.iter().filter(wanted).collect();
    let services = services::of(status, only);
    let on_cards = cards.iter().map(|card| {
        let (code, word) = plugin_status(card.state);
        (severity(card.state), code, word, complaint(card))
    });
    let on_services = services.iter().map(|service| services::plugin(service));
    // Of equals the card, from which a service may merely suffer.
    let worst = on_services.chain(on_cards).max_by_key(|found| found.0);
    let is_about = !cards.is_empty() || only.is_none();
    let Some((_, code, word, complaint)) = worst.filter(|_| is_about) else {
        let which = only.map_or_else(String::new, |only| format!(" {}", text::clean(only)));
        let where_ = status.telemetry.display();
        let line = format!("CARDMON UNKNOWN - no card{which} in {where_}");
        return (PLUGIN_UNKNOWN, line);
    };
    let connected = cards.iter().filter(|card| card.state == State::Connected);
    let connected = connected.count();
    let simulated = if status.simulation.is_some() {
        " (SIMULATED)"
    } else {
        ""
    };
    let (said, figures) = services::summary(&services);
    let count = cards.len();
    let line = format!(
        "CARDMON {word} - {connected} of {count} cards connected{simulated}{said}{complaint} | \
         connected={connected};;;0;{count}{figures}"
    );
    (code, line)
}

fn complaint(card: &CardStatus) -> String {
    if card.state == State::Connected {
        return String::new();
    }
    let why = card.evidence.first().map_or("", |first| &first.detail);
    format!(
        "; {} {} ({}): {}",
        card.card,
        card.state,
        card.cause,
        without_bars(why)
    )
}

/// A bar would end the text and start the figures.
pub(crate) fn without_bars(text: &str) -> String {
    text::clean(text).replace('|', "/")
}

const fn plugin_status(state: State) -> (u8, &'static str) {
    match state {
        State::Connected => (0, "OK"),
        State::Unavailable => (1, "WARNING"),
        State::Unreachable => (2, "CRITICAL"),
        State::Unknown | State::Disconnected => (PLUGIN_UNKNOWN, "UNKNOWN"),
    }
}

/// Which state to report of several: what is known to be wrong before what is not known.
const fn severity(state: State) -> u8 {
    match state {
        State::Connected => 0,
        State::Disconnected => 1,
        State::Unknown => 2,
        State::Unavailable => 3,
        State::Unreachable => 4,
    }
}
