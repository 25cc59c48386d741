//! `cardmon status` and `cardmon check`: ask the monitor that runs, and print its answer; or say that
//! nothing is known, and since when.

use crate::live::{self, LiveArguments};
use crate::{PLUGIN_UNKNOWN, diagnose, page, places, services};
use anyhow::Context as _;
use hwshim::clock::SystemClock;
use monitor::client;
use monitor::dead_man;
use monitor::history::{BootId, Stamp};
use monitor::probe::OwnerId;
use monitor::status::{CardStatus, FunctionFigures, Status};
use monitor::text;
use monitor::unknown::{self, Unknown};
use monitor::verdict::{Cause, State};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the exit statuses of a monitoring plugin mean.
const WORDS: [&str; 4] = ["OK", "WARNING", "CRITICAL", "UNKNOWN"];

/// Where a monitor answers unless somebody says otherwise.
const URL: &str = "http://127.0.0.1:9180";

pub(crate) const STATUS_HELP: &str = "\
Exit status:
  0  shown is what the monitor found in one of its last three polls
  1  nothing is known: no monitor answers, or with an old poll; said is for how long, and what to
     do
  2  the command line was wrong";

pub(crate) const CHECK_HELP: &str = "\
Exit status, after the conventions of monitoring plugins; of several cards and services the worst
counts:
  0  OK        every card is connected or drained by an operator, every service well
  1  WARNING   a card is unavailable: it is there and does not serve; software answers instead;
               or it serves, and it or its link is at fault all the same; or it flaps, its light
               contradicts its load, or a sensor of it is past a limit; or a QAT card gives no sign of
               life, hangs or counts fatal errors, or its link or an nShield's fails; a service hangs,
               leaks or is configured wrongly. With --live also:
               a card answers and is late (--late), too hot, on a link that is slower or narrower
               than it could be, past a limit of a sensor, or on trial (its breaker is half open)
  2  CRITICAL  a card is unreachable: it is gone, or the process that owns it; a service is gone,
               or leaks and will have used up a limit within a day
  3  UNKNOWN   a card is unknown or disconnected, a service could not be seen, there is neither,
               or no monitor runs, is reached or has polled of late: its sign of life says for how
               long; or the command line was wrong";

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    /// Print the monitor's JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Print all that was weighed of this card or service, as `cardmon diagnose` does.
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    why: Option<String>,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Only this card, e.g. pci:0000:3b:00.0.
    #[arg(long, value_name = "ADDRESS")]
    card: Option<String>,
    #[command(flatten)]
    live: LiveArguments,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// Where the monitor answers.
    #[arg(long, default_value = URL)]
    url: String,
    /// Its sign of life, which tells a monitor that is dead from one that is not reached [default:
    /// as for `cardmon dead-man`, if --url is not given].
    #[arg(long, value_name = "FILE")]
    sign_of_life: Option<PathBuf>,
}

impl Service {
    /// What the monitor says, if it can be believed.
    pub(crate) fn ask(&self) -> anyhow::Result<Status> {
        let answer = self.ask_or_know()?;
        answer.map_err(|unknown| anyhow::anyhow!("UNKNOWN: {unknown}"))
    }

    /// The same, or what is known instead.
    pub(crate) fn ask_or_know(&self) -> anyhow::Result<Result<Status, Box<Unknown>>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the program could not start its event loop")?;
        let asked = runtime.block_on(client::status(&self.url));
        // The monitor of another address signs elsewhere.
        let is_default =
            URL.strip_prefix("http://") == Some(self.url.trim_start_matches("http://"));
        let by_default = is_default.then(places::sign_of_life);
        let sign = self.sign_of_life.clone().or(by_default);
        let sign = sign.map(|path| dead_man::read(&path));
        let now = Stamp::now(&SystemClock, BootId::of_this_boot());
        Ok(unknown::believe(asked, sign, OwnerId::has_ended, now))
    }
}

pub(crate) fn status(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let status = match arguments.service.ask_or_know()? {
        Ok(status) => status,
        Err(unknown) => {
            if arguments.json {
                page::json(&unknown)?;
            }
            anyhow::bail!("UNKNOWN: {unknown}");
        }
    };
    if arguments.json {
        page::json(&status)?;
    } else if let Some(name) = &arguments.why {
        page::print(&diagnose::found(&status, name)?.lines())?;
    } else {
        page::print(&text::block_within(&status, page::width()))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(arguments: &CheckArguments) -> ExitCode {
    if arguments.live.live {
        return live::check(
            &arguments.live,
            &arguments.service,
            arguments.card.as_deref(),
        );
    }
    let only = arguments.card.as_deref();
    let asked = arguments.service.ask_or_know();
    let unknown = |why: &str| {
        let line = format!("CARDMON UNKNOWN - {}", without_bars(why));
        (PLUGIN_UNKNOWN, line)
    };
    let (code, line) = match &asked {
        Ok(Ok(status)) => judged(status, only),
        Ok(Err(nothing)) => unknown(&nothing.to_string()),
        Err(error) => unknown(&format!("{error:#}")),
    };
    // Whoever does not read it has the exit status.
    let _ = if arguments.live.json {
        let status = asked.ok().and_then(Result::ok);
        page::json(&as_json(code, &line, status.as_ref(), only))
    } else {
        writeln!(anstream::stdout(), "{line}").map_err(anyhow::Error::from)
    };
    ExitCode::from(code)
}

/// The same for programs: what it comes to, and of each card and service how it is.
fn as_json(code: u8, line: &str, status: Option<&Status>, only: Option<&str>) -> Value {
    let wanted = |card: &str| only.is_none_or(|only| only == card);
    let cards = status.into_iter().flat_map(|status| &status.cards);
    let cards = cards.filter(|card| wanted(&card.card));
    let cards = cards.map(|card| {
        json!({
            "card": card.card,
            "state": card.state,
            "cause": card.cause,
            "drained": card.drained.is_some(),
        })
    });
    let others = status.into_iter().flat_map(Status::without_pages);
    let others = others.filter(|card| wanted(&card.card));
    let others = others.map(|card| {
        json!({
            "card": card.card,
            "state": null,
            "cause": card.cause,
            "drained": card.drained.is_some(),
        })
    });
    let services = status.map(|status| services::of(status, only));
    let services = services.into_iter().flatten().map(|service| {
        json!({
            "service": service.service,
            "standing": service.standing,
            "cause": service.cause,
        })
    });
    json!({
        "schema": 1,
        "word": WORDS[usize::from(code.min(PLUGIN_UNKNOWN))],
        "exit_status": code,
        "says": line,
        "cards": cards.chain(others).collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
    })
}

/// The plugin's exit status and its line.
fn judged(status: &Status, only: Option<&str>) -> (u8, String) {
    let wanted = |card: &&CardStatus| only.is_none_or(|only| only == card.card);
    let cards: Vec<_> = status.cards.iter().filter(wanted).collect();
    let wanted = |card: &&FunctionFigures| only.is_none_or(|only| only == card.card);
    let others: Vec<_> = status.without_pages().filter(wanted).collect();
    let services = services::of(status, only);
    let drained: Vec<_> = cards.iter().filter(|card| card.drained.is_some()).collect();
    let alarming = cards.iter().filter(|card| card.drained.is_none());
    let on_cards = alarming.map(|card| {
        let (code, word) = plugin_status(card.state);
        (severity(card.state), code, word, complaint(card))
    });
    // Nobody is alarmed about a card that an operator wants without work, nor about who serves it.
    let others_drained: Vec<_> = others.iter().filter(|it| it.drained.is_some()).collect();
    let serves = |card: &str| {
        let other = others_drained.iter().any(|drained| drained.card == card);
        other || drained.iter().any(|drained| drained.card == card)
    };
    let on_services = services
        .iter()
        .filter(|service| !service.card.as_deref().is_some_and(serves))
        .map(|service| services::plugin(service));
    let on_drained = drained.iter().map(|_| (0, 0, "OK", String::new()));
    // Of equals the card, from which a service may merely suffer, and what is down before warnings.
    let on_others = others.iter().map(|card| on_function(card));
    let on_warned = cards.iter().filter(|card| card.drained.is_none());
    let on_warned = on_warned.filter_map(|card| warned(card));
    let all = on_drained
        .chain(on_others)
        .chain(on_warned)
        .chain(on_services)
        .chain(on_cards);
    let worst = all.max_by_key(|found| found.0);
    let is_about = !cards.is_empty() || !others.is_empty() || only.is_none();
    let Some((_, code, word, complaint)) = worst.filter(|_| is_about) else {
        let which = only.map_or_else(String::new, |only| format!(" {}", without_bars(only)));
        let where_ = without_bars(&status.telemetry.to_string_lossy());
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
    let out_of_work = match drained.len() + others_drained.len() {
        0 => String::new(),
        count => format!(", {count} drained"),
    };
    let (said, figures) = services::summary(&services);
    let count = cards.len();
    let line = format!(
        "CARDMON {word} - {connected} of {count} cards connected{out_of_work}{simulated}{said}{complaint} | \
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
        without_bars(&card.card),
        card.state,
        card.cause,
        without_bars(why)
    )
}

/// A card of which no owner publishes a page: as bad as another that is unreachable if it has gone, and as
/// one that is unavailable if anything else is at fault with it, or to be warned of.
fn on_function(card: &FunctionFigures) -> (u8, u8, &'static str, String) {
    let at_fault = card.evidence.first().filter(|_| card.cause != Cause::None);
    let warned = card.warnings.first().filter(|_| card.drained.is_none());
    let (what, why) = match (at_fault, warned) {
        (Some(why), _) => (card.cause.to_string(), why),
        (None, Some(why)) => (without_bars(&why.code), why),
        (None, None) => return (0, 0, "OK", String::new()),
    };
    let state = match &*why.code {
        "gone" => State::Unreachable,
        _ => State::Unavailable,
    };
    let (severity, (code, word)) = (severity(state), plugin_status(state));
    let (name, why) = (without_bars(&card.card), without_bars(&why.detail));
    (severity, code, word, format!("; {name} ({what}): {why}"))
}

/// A card that gives cause for a warning, if it does, as bad as one that is unavailable: also one that
/// serves and is at fault, of which software has stopped the answers so far.
fn warned(card: &CardStatus) -> Option<(u8, u8, &'static str, String)> {
    let is_at_fault = matches!(card.cause, Cause::Card | Cause::Link);
    let (what, why) = if card.state == State::Connected
        && is_at_fault
        && let Some(evidence) = card.evidence.first()
    {
        (format!("serves, and {} is at fault", card.cause), evidence)
    } else {
        let warning = card.warnings.first()?;
        (without_bars(&warning.code), warning)
    };
    let (severity, (code, word)) = (
        severity(State::Unavailable),
        plugin_status(State::Unavailable),
    );
    let (name, why) = (without_bars(&card.card), without_bars(&why.detail));
    Some((severity, code, word, format!("; {name} {what}: {why}")))
}

/// A bar would end the text and start the figures.
pub(crate) fn without_bars(text: &str) -> String {
    text::clean(text).replace('|', "/")
}

pub(crate) const fn plugin_status(state: State) -> (u8, &'static str) {
    match state {
        State::Connected => (0, "OK"),
        State::Unavailable => (1, "WARNING"),
        State::Unreachable => (2, "CRITICAL"),
        State::Unknown | State::Disconnected => (PLUGIN_UNKNOWN, "UNKNOWN"),
    }
}

/// Which state to report of several: what is known to be wrong before what is not known.
pub(crate) const fn severity(state: State) -> u8 {
    match state {
        State::Connected => 0,
        State::Disconnected => 1,
        State::Unknown => 2,
        State::Unavailable => 3,
        State::Unreachable => 4,
    }
}
