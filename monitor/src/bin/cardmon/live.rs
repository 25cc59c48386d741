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
use monitor::control;
use monitor::history::{Filter, Reader, Seq};
use monitor::live::{self, LiveCheck, Request};
use monitor::lock;
use monitor::status::{CardStatus, Status};
use monitor::verdict::{Cause, Evidence, State};
use serde_json::json;
use std::collections::BTreeMap;
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
    /// Print one JSON document for programs instead of a line.
    #[arg(long)]
    pub(crate) json: bool,
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
            let line = format!("CARDMON UNKNOWN - {why}");
            let document = json!({
                "schema": 1, "word": "UNKNOWN", "exit_status": PLUGIN_UNKNOWN, "says": line, "cards": [],
            });
            let text = if arguments.json {
                format!("{document:#}")
            } else {
                line
            };
            (PLUGIN_UNKNOWN, text)
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
    no monitor that watches it answers (--url), and what can be read of the history does not say (--history)";

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
    recorded: Option<Recorded>,
}

/// What operators last wanted, as far as it is on record.
struct Recorded {
    wishes: BTreeMap<String, Wish>,
    /// Whether of all other cards none ever was drained.
    is_whole: bool,
}

impl Recorded {
    /// Nothing if the record cannot be read.
    fn read(place: &ReadPlace) -> Option<Self> {
        let filter = Filter {
            kinds: vec![lock::CHANGE.to_owned()],
            ..Filter::default()
        };
        let reader = Reader::open(&place.find().ok()?.directory).ok()?;
        let elsewhere = reader.elsewhere(&filter).ok()?;
        // What was wanted before may have been revoked in an archive that is not here.
        let missing = elsewhere.iter().map(|it| it.events.last).max();
        let filter = Filter {
            from: missing.map(Seq::next),
            ..filter
        };
        let mut wishes = BTreeMap::new();
        for recorded in reader.query(&filter).ok()? {
            if let Some((change, is_drained)) = control::wish(&recorded.event) {
                wishes.insert(change.subject, Wish::of(is_drained));
            }
        }
        Some(Self {
            wishes,
            is_whole: missing.is_none(),
        })
    }

    fn of(&self, page: &Path) -> Option<Wish> {
        let mut wishes = self.wishes.iter();
        let wish = wishes.find(|(card, _)| is_of(page, card));
        let wish = wish.map(|(_, wish)| *wish);
        wish.or_else(|| self.is_whole.then_some(Wish::InService))
    }
}

impl Wish {
    const fn of(is_drained: bool) -> Self {
        if is_drained {
            Self::Drained
        } else {
            Self::InService
        }
    }
}

impl Wishes {
    fn known(service: &Service, place: &ReadPlace) -> Self {
        Self {
            monitor: service.ask().ok(),
            recorded: Recorded::read(place),
        }
    }

    /// What is wanted of the card of a page; `None` if nobody says.
    fn of(&self, page: &Path) -> Option<Wish> {
        let watched = self.watched(page);
        let watched = watched.map(|card| Wish::of(card.drained.is_some()));
        watched.or_else(|| self.recorded.as_ref()?.of(page))
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
