//! `cardmon check --live`: has cards tested now by their owners, and says how they are.

use crate::PLUGIN_UNKNOWN;
use crate::ask::{plugin_status, severity, without_bars};
use crate::history::escaped;
use crate::places::ReadPlace;
use anyhow::Context as _;
use hwshim::clock::SystemClock;
use hwshim::telemetry;
use monitor::config;
use monitor::control::{self, Desk};
use monitor::history::{Filter, Reader};
use monitor::live::{self, LiveCheck, Request};
use monitor::lock;
use monitor::verdict::State;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Cards that are asked for at a time.
const AT_A_TIME: usize = 20;
/// A little longer than an owner lets anybody wait.
const PATIENCE: &str = "7s";

#[derive(Debug, clap::Args)]
pub(crate) struct LiveArguments {
    /// Do not read what the monitor knows: have the owner of each card test it now. Needs no monitor.
    #[arg(long)]
    pub(crate) live: bool,
    /// With --live: only this card, e.g. pci:0000:3b:00.0.
    #[arg(value_name = "CARD", requires = "live", conflicts_with = "card")]
    live_card: Option<String>,
    /// With --live: directory of the telemetry pages [default: /run/hwshim for root, else one of the
    /// user's own].
    #[arg(long, value_name = "DIR", requires = "live")]
    telemetry: Option<PathBuf>,
    /// With --live: how long to wait for an owner.
    #[arg(long, value_name = "TIME", default_value = PATIENCE, value_parser = config::duration)]
    timeout: Duration,
    /// With --live: print one JSON document for programs.
    #[arg(long, requires = "live")]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

/// Tests cards now; the exit status is that of a monitoring plugin.
pub(crate) fn check(arguments: &LiveArguments, card: Option<&str>) -> ExitCode {
    let only = arguments.live_card.as_deref().or(card);
    let (code, text) = match found(arguments, only) {
        Ok(found) if arguments.json => (worst(&found).1, as_json(&found)),
        Ok(found) => (worst(&found).1, lines(&found, only)),
        Err(error) => {
            let why = escaped(&without_bars(&format!("{error:#}")));
            (PLUGIN_UNKNOWN, format!("CARDMON UNKNOWN - {why}"))
        }
    };
    let _ = writeln!(anstream::stdout(), "{text}");
    ExitCode::from(code)
}

fn found(arguments: &LiveArguments, only: Option<&str>) -> anyhow::Result<Vec<LiveCheck>> {
    let directory = match &arguments.telemetry {
        Some(directory) => directory.clone(),
        None => arguments.place.config()?.telemetry(),
    };
    let pages = match only {
        Some(card) => vec![directory.join(telemetry::file_name(card))],
        None => telemetry::pages(&directory)
            .with_context(|| format!("{} could not be read", directory.display()))?,
    };
    let drained = drained(&arguments.place);
    let is_drained = |page: &PathBuf| {
        let name = page.file_name();
        drained
            .iter()
            .any(|card| name == Some(telemetry::file_name(card).as_ref()))
    };
    let mut found = Vec::new();
    for some in pages.chunks(AT_A_TIME) {
        let checks = thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|page| {
                    let request = Request {
                        page,
                        is_drained: is_drained(page),
                        patience: arguments.timeout,
                    };
                    scope.spawn(move || live::check(&request, &SystemClock))
                })
                .collect();
            let ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ends.collect::<Result<Vec<_>, _>>()
        });
        found.extend(checks.map_err(|_| anyhow::anyhow!("a check has panicked"))?);
    }
    Ok(found)
}

/// Cards that an operator wants without work, by the record, whether or not a monitor runs. A record
/// that cannot be read drains nobody.
fn drained(place: &ReadPlace) -> BTreeSet<String> {
    let filter = Filter {
        kinds: control::KINDS.map(str::to_owned).to_vec(),
        ..Filter::default()
    };
    let recorded = place.find().ok().and_then(|found| {
        let reader = Reader::open(&found.directory).ok()?;
        reader.query(&filter).ok()
    });
    let desk = Desk::new(lock::Settings::default(), &recorded.unwrap_or_default(), 0);
    desk.drained().keys().cloned().collect()
}

/// What counts of several: severity, exit status, word.
fn worst(found: &[LiveCheck]) -> (u8, u8, &'static str) {
    let all = found.iter().map(|check| {
        let (code, word) = plugin_status(check.state);
        (severity(check.state), code, word)
    });
    all.max().unwrap_or((0, PLUGIN_UNKNOWN, "UNKNOWN"))
}

/// A plugin's line; of several cards, one more for each.
fn lines(found: &[LiveCheck], only: Option<&str>) -> String {
    let (_, _, word) = worst(found);
    let said = |check: &LiveCheck| {
        let text = format!("{} {}: {}", check.card, check.state, check.why);
        escaped(&without_bars(&text))
    };
    let connected = found.iter().filter(|check| check.state == State::Connected);
    let figures = format!("connected={};;;0;{}", connected.count(), found.len());
    match found {
        [] => {
            let named = |only| format!(" {}", escaped(&without_bars(only)));
            let which = only.map_or_else(String::new, named);
            format!(
                "CARDMON UNKNOWN - no card{which}: no owner publishes a page; name its directory with --telemetry"
            )
        }
        [check] => {
            let latency = check
                .latency_seconds
                .filter(|_| check.tested_now)
                .map_or_else(String::new, |seconds| format!(" latency={seconds:.6}s;;;0"));
            format!("CARDMON {word} - {} | {figures}{latency}", said(check))
        }
        several => {
            let connected = several
                .iter()
                .filter(|check| check.state == State::Connected);
            let count = connected.count();
            let head = format!(
                "CARDMON {word} - {count} of {} cards connected | {figures}",
                several.len()
            );
            let each = several.iter().map(said);
            std::iter::once(head)
                .chain(each)
                .collect::<Vec<_>>()
                .join("\n")
        }
    }
}

fn as_json(found: &[LiveCheck]) -> String {
    let (_, code, word) = worst(found);
    let document = json!({ "schema": 1, "word": word, "exit_status": code, "cards": found });
    // Plain structures of strings and numbers always can be written.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}
