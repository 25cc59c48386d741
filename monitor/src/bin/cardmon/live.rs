//! `cardmon check --live`: has cards tested now by their owners, and says how they are. Of a monitor that
//! answers it asks what is wanted of them, and what it holds against them.

use crate::PLUGIN_UNKNOWN;
use crate::ask::{Service, plugin_status, severity, without_bars};
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
use monitor::status::{CardStatus, Status};
use monitor::verdict::{Cause, Evidence, State};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Cards that are asked for at a time.
const AT_A_TIME: usize = 20;
/// A little longer than an owner lets anybody wait.
const PATIENCE: &str = "7s";

/// Whoever shakes hands over TLS waits no longer for a card than that, and software answers instead.
const LATE: &str = "500ms";

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
    /// With --live: an answer that takes longer is late, which is a warning.
    #[arg(long, value_name = "TIME", default_value = LATE, value_parser = config::duration)]
    late: Duration,
    /// With --live: print one JSON document for programs.
    #[arg(long, requires = "live")]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

/// Tests cards now; the exit status is that of a monitoring plugin.
pub(crate) fn check(arguments: &LiveArguments, service: &Service, card: Option<&str>) -> ExitCode {
    let only = arguments.live_card.as_deref().or(card);
    let (code, text) = match found(arguments, service, only) {
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

fn found(
    arguments: &LiveArguments,
    service: &Service,
    only: Option<&str>,
) -> anyhow::Result<Vec<LiveCheck>> {
    let directory = match &arguments.telemetry {
        Some(directory) => directory.clone(),
        None => arguments.place.config()?.telemetry(),
    };
    let pages = match only {
        Some(card) => vec![directory.join(telemetry::file_name(card))],
        None => telemetry::pages(&directory)
            .with_context(|| format!("{} could not be read", directory.display()))?,
    };
    let wishes = Wishes::known(service, &arguments.place);
    let mut found = Vec::new();
    for some in pages.chunks(AT_A_TIME) {
        let checks = thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|page| {
                    let wish = wishes.of(page);
                    let held = wishes.watched(page).and_then(held_against);
                    let request = Request {
                        page,
                        is_drained: wish == Some(Wish::Drained),
                        patience: arguments.timeout,
                        late: arguments.late,
                        root: Path::new("/"),
                    };
                    scope.spawn(move || {
                        let mut check = live::check(&request, &SystemClock);
                        if wish.is_none() && check.state != State::Connected {
                            check.why.push_str(NO_WISH_KNOWN);
                        }
                        check.warnings.extend(held);
                        check
                    })
                })
                .collect();
            let ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ends.collect::<Result<Vec<_>, _>>()
        });
        found.extend(checks.map_err(|_| anyhow::anyhow!("a check has panicked"))?);
    }
    Ok(found)
}

/// Said of a card that does not serve, and may be meant not to.
const NO_WISH_KNOWN: &str = "; whether an operator has drained it is not known: \
    no monitor that watches it answers (--url), and no whole history could be read (--history)";

/// What an operator wants of a card.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Drained,
    InService,
}

/// What operators want, by the word of the monitor, which anybody may ask, and by the record, which is
/// there without a monitor and not for everybody.
struct Wishes {
    monitor: Option<Status>,
    drained_on_record: Option<BTreeSet<String>>,
}

impl Wishes {
    fn known(service: &Service, place: &ReadPlace) -> Self {
        let filter = Filter {
            kinds: control::KINDS.map(str::to_owned).to_vec(),
            ..Filter::default()
        };
        let recorded = place.find().ok().and_then(|found| {
            let reader = Reader::open(&found.directory).ok()?;
            let is_whole = reader.elsewhere(&filter).ok()?.is_empty();
            reader.query(&filter).ok().filter(|_| is_whole)
        });
        let drained = |recorded: Vec<_>| {
            let desk = Desk::new(lock::Settings::default(), &recorded, 0);
            desk.drained().keys().cloned().collect()
        };
        Self {
            monitor: service.ask().ok(),
            drained_on_record: recorded.map(drained),
        }
    }

    /// What is wanted of the card of a page; `None` if nobody says.
    fn of(&self, page: &Path) -> Option<Wish> {
        let wish = |is_drained| {
            if is_drained {
                Wish::Drained
            } else {
                Wish::InService
            }
        };
        let watched = self.watched(page);
        let watched = watched.map(|card| wish(card.drained.is_some()));
        watched.or_else(|| {
            let drained = self.drained_on_record.as_ref()?;
            Some(wish(drained.iter().any(|card| is_of(page, card))))
        })
    }

    /// What the monitor says of the card of a page.
    fn watched(&self, page: &Path) -> Option<&CardStatus> {
        let mut cards = self.monitor.as_ref()?.cards.iter();
        cards.find(|card| is_of(page, &card.card))
    }
}

fn is_of(page: &Path, card: &str) -> bool {
    page.file_name() == Some(telemetry::file_name(card).as_ref())
}

/// What the monitor holds against a card: one right answer now does not refute what was seen over time.
fn held_against(card: &CardStatus) -> Option<Evidence> {
    let is_at_fault = matches!(card.cause, Cause::Card | Cause::Link);
    if !is_at_fault || card.drained.is_some() {
        return None;
    }
    let why = card.evidence.first()?;
    Some(Evidence {
        code: "monitor".into(),
        detail: format!(
            "it holds that {} is at fault: {}: {}",
            card.cause, why.code, why.detail
        ),
    })
}

/// What counts of several: severity, exit status, word.
fn worst(found: &[LiveCheck]) -> (u8, u8, &'static str) {
    let all = found.iter().map(|check| {
        if check.drained {
            return (0, 0, "OK");
        }
        // As bad as one that is unavailable.
        let state = match check.state {
            State::Connected if !check.warnings.is_empty() => State::Unavailable,
            state => state,
        };
        let (code, word) = plugin_status(state);
        (severity(state), code, word)
    });
    all.max().unwrap_or((0, PLUGIN_UNKNOWN, "UNKNOWN"))
}

/// A plugin's line; of several cards, one more for each.
fn lines(found: &[LiveCheck], only: Option<&str>) -> String {
    let (_, _, word) = worst(found);
    let said = |check: &LiveCheck| {
        let mut text = format!("{} {}: {}", check.card, check.state, check.why);
        for warning in &check.warnings {
            text.push_str(&format!("; {}: {}", warning.code, warning.detail));
        }
        escaped(&without_bars(&text))
    };
    let connected = found.iter().filter(|check| check.state == State::Connected);
    let out_of_work = match found.iter().filter(|check| check.drained).count() {
        0 => String::new(),
        count => format!(", {count} drained"),
    };
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
                "CARDMON {word} - {count} of {} cards connected{out_of_work} | {figures}",
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
