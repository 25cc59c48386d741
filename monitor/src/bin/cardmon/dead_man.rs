//! `cardmon dead-man`: checks from outside that the monitor is alive.

use crate::history::escaped;
use crate::places;
use hwshim::clock::SystemClock;
use monitor::dead_man::{self, DeadManError, Freshness};
use monitor::history::{BootId, Stamp};
use monitor::record::said;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const HELP: &str = "\
Exit status:
  0  fresh    a poll ended within the last three intervals
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
}

pub(crate) fn check(arguments: &Arguments) -> ExitCode {
    let path = arguments.file.clone().unwrap_or_else(places::sign_of_life);
    let now = Stamp::now(&SystemClock, BootId::of_this_boot());
    let (code, line) = match dead_man::read(&path) {
        Ok(sign) => {
            let cards: Vec<_> = sign
                .cards(now)
                .iter()
                .map(|(state, count)| format!("{count} {state}"))
                .collect();
            let cards = if cards.is_empty() {
                "no cards".to_owned()
            } else {
                cards.join(", ")
            };
            let (code, how) = match sign.freshness(now) {
                Freshness::Fresh { age } => (0, format!("alive, {:.1} s ago", age.as_secs_f64())),
                Freshness::Stale { age: Some(age) } => {
                    (STALE, format!("STALE, {:.1} s ago", age.as_secs_f64()))
                }
                Freshness::Stopped { age } => {
                    (STALE, format!("STOPPED, {:.1} s ago", age.as_secs_f64()))
                }
                Freshness::Stale { age: None } => (STALE, "STALE, of another boot".to_owned()),
            };
            let troubles: Vec<_> = sign.troubles.iter().map(|it| format!("; {it}")).collect();
            let (pid, polls) = (sign.pid, sign.polls);
            (
                code,
                format!(
                    "{how}: poll {polls} of process {pid}: {cards}{}",
                    troubles.concat()
                ),
            )
        }
        Err(error @ DeadManError::Absent { .. }) => (ABSENT, format!("ABSENT: {error}")),
        Err(error) => (STALE, format!("UNREADABLE: {}", said(&error))),
    };
    let _ = writeln!(anstream::stdout(), "cardmon: {}", escaped(&line));
    ExitCode::from(code)
}
