//! `cardmon dead-man`: checks from outside that the monitor is alive.

use crate::history::escaped;
use crate::page;
use crate::places::{self, Roots};
use hwshim::clock::SystemClock;
use monitor::access::who_may;
use monitor::dead_man::{self, DeadManError, Freshness, SignOfLife};
use monitor::history::{BootId, Stamp};
use monitor::record::said;
use serde_json::json;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Exit status:
  0  fresh    a poll ended within the last three intervals
  2  the command line was wrong
  3  stale    none did, or the monitor was stopped: nothing is known about any card, whatever was said
              last
  4  absent   no monitor has left a sign of life there since the host booted";

const STALE: u8 = 3;
const ABSENT: u8 = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The monitor's sign of life [default: alive.json in /run/cardmon for root, else in cardmon in
    /// XDG_RUNTIME_DIR].
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
}

pub(crate) fn check(arguments: &Arguments) -> ExitCode {
    let path = arguments.file.clone().unwrap_or_else(places::sign_of_life);
    let now = Stamp::now(&SystemClock, BootId::of_this_boot());
    let read = dead_man::read(&path);
    let (code, state, line) = match &read {
        Ok(sign) => of_sign(sign, now),
        Err(error @ DeadManError::Absent { .. }) => {
            let roots = match arguments.file {
                None => places::roots(Roots::SignOfLife),
                Some(_) => String::new(),
            };
            (ABSENT, "absent", format!("ABSENT: {error}{roots}"))
        }
        Err(error) => {
            let who = match error {
                DeadManError::Unreadable { path, source }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    format!(": {}", who_may(path))
                }
                _ => String::new(),
            };
            let line = format!("UNREADABLE: {}{who}", said(error));
            (STALE, "unreadable", line)
        }
    };
    let line = escaped(&line);
    // Whoever does not read it has the exit status.
    let _ = if arguments.json {
        let sign = read.ok();
        let sign = sign.as_ref();
        page::json(&json!({
            "schema": 1,
            "exit_status": code,
            "state": state,
            "says": line,
            "age_seconds": sign.and_then(|it| age(it.freshness(now))).map(|it| it.as_secs_f64()),
            "pid": sign.map(|it| it.pid),
            "polls": sign.map(|it| it.polls),
            "cards": sign.map(|it| it.cards(now)),
            "troubles": sign.map(|it| &it.troubles),
        }))
    } else {
        writeln!(anstream::stdout(), "cardmon: {line}").map_err(anyhow::Error::from)
    };
    ExitCode::from(code)
}

/// Exit status, state, and a line for people.
fn of_sign(sign: &SignOfLife, now: Stamp) -> (u8, &'static str, String) {
    let cards = sign.cards(now);
    let cards: Vec<_> = cards
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let cards = if cards.is_empty() {
        "no cards".to_owned()
    } else {
        cards.join(", ")
    };
    let freshness = sign.freshness(now);
    let (code, state, how) = match freshness {
        Freshness::Fresh { .. } => (0, "fresh", "alive"),
        Freshness::Stale { .. } => (STALE, "stale", "STALE"),
        Freshness::Stopped { .. } => (STALE, "stopped", "STOPPED"),
    };
    let when = age(freshness).map_or_else(
        || "of another boot".to_owned(),
        |age| format!("{:.1} s ago", age.as_secs_f64()),
    );
    let troubles: Vec<_> = sign.troubles.iter().map(|it| format!("; {it}")).collect();
    let (pid, polls) = (sign.pid, sign.polls);
    let line = format!(
        "{how}, {when}: poll {polls} of process {pid}: {cards}{}",
        troubles.concat()
    );
    (code, state, line)
}

const fn age(freshness: Freshness) -> Option<Duration> {
    match freshness {
        Freshness::Fresh { age } | Freshness::Stopped { age } => Some(age),
        Freshness::Stale { age } => age,
    }
}
