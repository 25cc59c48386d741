//! `cardmon tune`: says what of host and configuration would be better otherwise, and changes what may be
//! changed, in a change window, on record.

use crate::ask::Service;
use crate::history::escaped;
use crate::places;
use anyhow::Context as _;
use monitor::control::{self, Order};
use monitor::record::said;
use monitor::status::Status;
use monitor::tune::apply::{Action, ApplyError};
use monitor::tune::{Recommendation, look, recommend};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const HELP: &str = "\
Applied is only what is at once effective, safe, and undone by writing the old value back; the
rest is printed as a command for whoever knows the host. Every change is asked of the monitor
first, which refuses it outside of a change window (cardmon unlock) and puts it on record with
old and new value; without a monitor nothing is changed.

Exit status:
  0   nothing is recommended, or all that can be applied was
  10  something is recommended (-r), or some of it was left to you (-s)
  1   something could not be read, was refused or failed
  2   the command line was wrong";

/// Exit status if there is something to do.
const TO_DO: u8 = 10;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Recommend: what is, what would be, why, by which figures, and how to undo it.
    #[arg(short = 'r', long)]
    recommend: bool,
    /// Apply what may be applied.
    #[arg(short = 's', long, conflicts_with = "recommend")]
    apply: bool,
    /// Only these recommendations, e.g. ports.
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Look at, and change, the /proc and /sys below this directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// What the monitor knows, as `cardmon status --json` printed it, instead of asking it.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Socket of the monitor, for -s [default: control.sock in /run/cardmon for root, else in cardmon in
    /// XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

/// What became of one recommendation.
enum Outcome {
    Recommended,
    Applied { event: u64 },
    Left(&'static str),
    Failed(String),
}

/// Recommends or applies.
pub(crate) fn tune(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !arguments.recommend && !arguments.apply {
        anyhow::bail!("say -r to recommend or -s to apply; `cardmon tune --help` explains");
    }
    let status = known(arguments)?;
    let facts = look::look(&arguments.root, status.as_ref());
    let wanted = |one: &Recommendation| {
        arguments.only.is_empty() || arguments.only.iter().any(|id| id == one.id)
    };
    let all = recommend(&facts).into_iter().filter(wanted);
    let found: Vec<_> = all
        .map(|one| {
            let outcome = if arguments.apply {
                apply(&one, arguments)
            } else {
                Outcome::Recommended
            };
            (one, outcome)
        })
        .collect();
    print(&found, arguments.json)?;
    let failed = found
        .iter()
        .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    let to_do = |outcome: &Outcome| !matches!(outcome, Outcome::Applied { .. });
    Ok(match found.iter().any(|(_, outcome)| to_do(outcome)) {
        _ if failed => ExitCode::FAILURE,
        true => ExitCode::from(TO_DO),
        false => ExitCode::SUCCESS,
    })
}

/// What the monitor knows; without it there is less to recommend, which is said.
fn known(arguments: &Arguments) -> anyhow::Result<Option<Status>> {
    if let Some(path) = &arguments.status {
        let text =
            fs::read(path).with_context(|| format!("{} could not be read", path.display()))?;
        let status = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not what `cardmon status --json` prints",
                path.display()
            )
        })?;
        return Ok(Some(status));
    }
    match arguments.service.ask() {
        Ok(status) => Ok(Some(status)),
        Err(error) => {
            crate::complain(&format!(
                "only the host is looked at, not its services: {error:#}"
            ));
            Ok(None)
        }
    }
}

/// Has a change put on record, and makes it. Nothing is changed that could not be recorded.
fn apply(one: &Recommendation, arguments: &Arguments) -> Outcome {
    let Some(action) = &one.action else {
        return Outcome::Left(one.left_because.unwrap_or("it is its operator's"));
    };
    let socket = arguments
        .control
        .clone()
        .unwrap_or_else(places::control_socket);
    let tell = |order: &Order| control::send(&socket, order).map_err(|error| said(&error));
    let event = match tell(&order(action, None)) {
        Ok(answer) => answer["event"].as_u64().unwrap_or(0),
        Err(why) => return Outcome::Failed(format!("not changed: {why}")),
    };
    match action.apply(&arguments.root) {
        Ok(()) => Outcome::Applied { event },
        Err(error) => {
            let why = said(&error);
            let recorded = tell(&order(action, Some(why.clone())));
            let also = recorded.err().map_or_else(String::new, |trouble| {
                format!("; and event {event} says it was: {trouble}")
            });
            let outcome = match error {
                ApplyError::TakenOtherwise { .. } => "changed, but not as asked",
                _ => "not changed",
            };
            Outcome::Failed(format!("{outcome}: {why}{also}"))
        }
    }
}

fn order(action: &Action, failed: Option<String>) -> Order {
    Order::Tune {
        what: action.what(),
        old: action.old(),
        new: action.new_value(),
        failed,
    }
}

fn print(found: &[(Recommendation, Outcome)], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let all: Vec<_> = found
            .iter()
            .map(|(one, outcome)| json!({ "recommendation": one, "outcome": described(outcome) }))
            .collect();
        let document = json!({ "schema": 1, "recommendations": all });
        return crate::page::json(&document);
    }
    let mut out = anstream::stdout();
    if found.is_empty() {
        writeln!(out, "nothing to recommend")?;
    }
    for (one, outcome) in found {
        for line in lines(one, outcome) {
            writeln!(out, "{}", escaped(&line))?;
        }
    }
    Ok(())
}

fn described(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Recommended => json!({ "outcome": "recommended" }),
        Outcome::Applied { event } => json!({ "outcome": "applied", "event": event }),
        Outcome::Left(why) => json!({ "outcome": "left", "why": why }),
        Outcome::Failed(why) => json!({ "outcome": "failed", "why": why }),
    }
}

fn lines(one: &Recommendation, outcome: &Outcome) -> Vec<String> {
    let kind = if one.mitigation {
        " (mitigation, not fix)"
    } else {
        ""
    };
    let mut lines = vec![
        format!("{}: {}{kind}", one.id, one.subject),
        format!("  is        {}", one.current),
        format!("  would be  {}", one.recommended),
        format!("  why       {}", one.why),
        format!("  formula   {}", one.formula),
    ];
    lines.extend(
        one.evidence
            .iter()
            .map(|piece| format!("  evidence  {piece}")),
    );
    lines.push(format!("  by hand   {}", one.by_hand));
    lines.push(format!("  undo      {}", one.undo));
    lines.extend(match outcome {
        Outcome::Recommended => one
            .left_because
            .map(|why| format!("  -s        leaves this: {why}")),
        Outcome::Applied { event } => Some(format!("  APPLIED   on record as event {event}")),
        Outcome::Left(why) => Some(format!("  LEFT      {why}")),
        Outcome::Failed(why) => Some(format!("  FAILED    {why}")),
    });
    lines
}
